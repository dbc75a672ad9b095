"""The map of what each layer can bear, as plain data: layers by settings, loss in each cell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from engine.edits import Edit
from engine.layers import LayerId

Direction: TypeAlias = Literal["only this", "all but this"]
"""Whether a cell's layer alone is changed, or all others are."""


@dataclass(frozen=True)
class ScanRequest:
    """What a scan is to look at.

    Attributes:
        layers: that are to be rows, with what they are coupled to; all that take part if empty.
        settings: one column each: an edit whose ``layers`` are empty.
        samples: of the training split, at most; doubled or quadrupled from the first round on.
        first: of the first round.
    """

    settings: tuple[Edit, ...]
    layers: tuple[LayerId, ...] = ()
    direction: Direction = "only this"
    samples: int = 256
    first: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One layer (or coupled group) under one setting.

    Attributes:
        estimate: rise of the loss as one backward pass foretells it; None where it cannot.
        rise: rise of the loss as measured, mean over ``samples``; None before it was.
        error: standard error of the rise, over the same samples with and without the edit.
        lost: share of samples that were right and are no longer, less those gained.
        samples: that the rise rests on; 0 before.
        refusal: why the layer cannot be edited so; "" if it can.
    """

    estimate: float | None = None
    rise: float | None = None
    error: float | None = None
    lost: float | None = None
    samples: int = 0
    refusal: str = ""


@dataclass(frozen=True)
class SensitivityMap:
    """A scan as far as it has come.

    Attributes:
        rows: a layer and those that are coupled to it, in the order of the model.
        settings: as asked.
        cells: by row and column.
        loss, accuracy: of the unedited state, over the samples of the last round.
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

    def edit(self, row: int, column: int) -> Edit:
        """The edit that a cell stands for, on the row's layers; raises ValueError for the
        direction ``all but this``, whose cells stand for many.
        """
        raise NotImplementedError
