"""The map of what each layer can bear, as plain data: layers by settings, loss in each cell."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Final, Literal, TypeAlias

from engine.edits import Edit, edit_name
from engine.layers import LayerId

SensitivityFormat: TypeAlias = Literal["json", "csv", "distiller"]
SENSITIVITY_FORMATS: Final[tuple[SensitivityFormat, ...]] = ("json", "csv", "distiller")
"""Of the files that hold a map."""

Direction: TypeAlias = Literal["only this", "all but this"]
"""Whether a cell's row alone is changed, or all other rows are."""


@dataclass(frozen=True)
class ScanRequest:
    """What a scan is to look at.

    Attributes:
        layers: that are looked at, containers with all below; every one that a setting can be
            applied to if empty. Where a setting removes channels, those that are coupled are one
            row, so that a layer of a residual sum cannot look robust because nothing was pruned;
            else each is a row of its own. Every setting is applied to all layers of a row that
            take it.
        settings: one column each: an edit whose ``layers`` are empty.
        samples: of the training split, at most; the first round's are doubled in the second, and
            then quadrupled.
        first: of the first round.
        seed: which samples are drawn.
    """

    settings: tuple[Edit, ...]
    layers: tuple[LayerId, ...] = ()
    direction: Direction = "only this"
    samples: int = 256
    first: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One row under one setting.

    Attributes:
        estimate: rise of the loss as one backward pass foretells it; None where it cannot.
        rise: of the loss by changing this row, as measured, mean over ``samples``: beside the
            unedited state, or, all others changed, beside the state with all rows changed. None
            before it was measured, infinite where the loss is no longer a number.
        error: standard error of the rise, over the same samples with and without the change.
        lost: share of samples that were right and are no longer, less those gained; None where
            samples are not right or wrong.
        samples: that the rise rests on; 0 before, and where a file does not say.
        refusal: why the row cannot be edited so; "" if it can.
        left_out: layers of the row that do not take the setting, and stay as they are.
    """

    estimate: float | None = None
    rise: float | None = None
    error: float | None = None
    lost: float | None = None
    samples: int = 0
    refusal: str = ""
    left_out: tuple[LayerId, ...] = ()


@dataclass(frozen=True)
class SensitivityMap:
    """A scan as far as it has come.

    Attributes:
        rows: layers that are changed together, in the order of the model.
        settings: as asked.
        cells: by row and column.
        loss, accuracy: of the unedited state, over ``samples``, those of the last round.
        data: name of the data set.
        state: id of the state of the model that was scanned.
    """

    rows: tuple[tuple[LayerId, ...], ...]
    settings: tuple[Edit, ...]
    direction: Direction
    cells: Mapping[tuple[int, int], Cell] = field(default_factory=dict)
    loss: float | None = None
    accuracy: float | None = None
    samples: int = 0
    data: str = ""
    state: str = ""
    complete: bool = False

    def cell(self, row: int, column: int) -> Cell:
        """What is known of a cell; an empty one where nothing is."""
        return self.cells.get((row, column), Cell())

    def edit(self, row: int, column: int) -> Edit:
        """The edit that a cell stands for, on the row's layers.

        Raises:
            ValueError: its direction is ``all but this``, whose cells stand for many edits; or
                the row refuses the setting.
        """
        cell = self.cell(row, column)
        if self.direction == "all but this":
            raise ValueError("a cell of all but this layer stands for many edits")
        if cell.refusal:
            raise ValueError(cell.refusal)
        layers = tuple(one for one in self.rows[row] if one not in cell.left_out)
        return replace(self.settings[column], layers=layers)


def setting_name(setting: Edit) -> str:
    """A column in words: the edit's kind and what is not as usual, ``prune-weights ratio=0.5``."""
    told = (
        f"{one.name}={getattr(setting, one.name)}"
        for one in fields(setting)
        if one.name != "layers"
        and (one.default is MISSING or getattr(setting, one.name) != one.default)
    )
    return " ".join((edit_name(setting), *told))
