"""What the cells of a sensitivity map read, how sure that is, and the order of its rows. No Qt."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from engine import Cell, LayerId, SensitivityMap, setting_name
from gui import format as fmt
from gui.models.heat import HeatScale

Translate = Callable[[str], str]

Reading: TypeAlias = Literal["loss", "accuracy", "estimate"]
"""What the cells show: the rise of the loss, accuracy lost, or the rise as it was estimated."""

Standing: TypeAlias = Literal["unknown", "estimate", "measuring", "settled", "refused"]
"""How far a cell is: nothing is known, one backward pass foretold it, samples are still coming,
it is done, or the layer cannot be edited so."""

Order: TypeAlias = Literal["model", "sensitivity"] | int
"""Rows as the model has them, the most sensitive first, or the most sensitive in one column."""

READINGS: Final[tuple[Reading, ...]] = ("loss", "accuracy", "estimate")

CONFIDENCE: Final = 1.96  # standard errors to either side, 95 % of a normal distribution
_LEAST_SIDES: Final = (
    6  # samples; fewer that change sides on balance may be chance (sign test, 5 %)
)
_DECADES: Final = 1e3  # of a logarithmic scale; what lies below is all alike


@dataclass(frozen=True)
class Shown:
    """One cell as it is drawn.

    Attributes:
        value: rise of the loss, or share of the samples lost; None where nothing is known.
        error: half the 95 % interval around it; None where it is not known.
        certain: whether it can be told from zero. An estimate has no interval and is not.
        text: the number, short; "±" and half the interval where it cannot be told from zero.
        progress: share of the samples that have been looked at.
    """

    standing: Standing
    value: float | None = None
    error: float | None = None
    certain: bool = False
    text: str = ""
    progress: float = 0.0

    @property
    def strength(self) -> float | None:
        """What the heat shows: the value, as far as it may be told from zero."""
        if self.value is None or self.standing == "refused":
            return None
        return self.value if self.certain or self.standing == "estimate" else None


def shown(cell: Cell | None, reading: Reading, most: int, complete: bool) -> Shown:
    """A cell as it is drawn.

    Args:
        most: samples that a cell may take.
        complete: whether the scan has ended, so that nothing more will come.
    """
    if cell is None:
        return Shown("unknown")
    if cell.refusal:
        return Shown("refused", text=fmt.ABSENT)
    if cell.rise is None or reading == "estimate":
        return _estimated(cell, reading)
    progress = min(1.0, cell.samples / most) if most else 1.0
    standing: Standing = "settled" if complete or progress >= 1.0 else "measuring"
    if reading == "accuracy":
        return _lost(cell, standing, progress)
    error = None if cell.error is None else CONFIDENCE * cell.error
    certain = error is None or abs(cell.rise) > error
    text = _short(cell.rise) if certain or error is None else _within(error)
    return Shown(standing, cell.rise, error, certain, text, progress)


def _short(rise: float) -> str:
    """A rise as a cell has room for; a very small one is told in full below the map."""
    return "0" if "<" in (text := fmt.loss(rise)) else text


def _within(error: float) -> str:
    """What cannot be told from zero: the interval alone, and 0 where that is too small to show."""
    text = fmt.loss(error)
    return "0" if text.startswith("<") else f"±{text}"


def _estimated(cell: Cell, reading: Reading) -> Shown:
    if cell.estimate is None or reading == "accuracy":
        return Shown("unknown")
    return Shown("estimate", cell.estimate, text=f"≈{_short(cell.estimate)}")


def _lost(cell: Cell, standing: Standing, progress: float) -> Shown:
    if cell.lost is None:
        return Shown("unknown")
    certain = abs(cell.lost) * cell.samples >= _LEAST_SIDES - 0.5 or not cell.samples
    return Shown(standing, cell.lost, None, certain, fmt.points(cell.lost), progress)


def scale(cells: Iterable[Shown], logarithmic: bool) -> HeatScale | None:
    """The heat of these cells, by their logarithm over three decades at most, or linear."""
    strengths = (cell.strength for cell in cells)
    positive = [one for one in strengths if one is not None and 0 < one < math.inf]
    if not positive:
        return None
    high = max(positive)
    low = max(min(positive), high / _DECADES) if logarithmic else 0.0
    return HeatScale(low, high, logarithmic)


def order(rows: Sequence[Sequence[Shown]], by: Order) -> tuple[int, ...]:
    """Places of the rows in the order asked for; those of which nothing is known come last.

    What cannot be told from zero counts as zero: among such rows the order of the model stays.
    """
    places = range(len(rows))
    if by == "model":
        return tuple(places)

    def place(row: int) -> float:
        cells = rows[row] if by == "sensitivity" else (rows[row][by],)
        known = [one.strength or 0.0 for one in cells if one.value is not None]
        return -sum(known) / len(known) if known else math.inf

    return tuple(sorted(places, key=place))


def layers_text(layers: Sequence[LayerId], tr: Translate = str) -> str:
    """A row's layers in short: the first, and how many are coupled to it."""
    first = fmt.layer_name(layers[0])
    return (
        first
        if len(layers) == 1
        else tr("{layer} +{count}").format(layer=first, count=len(layers) - 1)
    )


def reading_words(tr: Translate) -> dict[Reading, tuple[str, str]]:
    """Title and explanation of what cells may show."""
    return {
        "loss": (
            tr("Rise of loss"),
            tr(
                "Mean loss over the samples with the edit, less that without; an estimate until it"
                " is measured"
            ),
        ),
        "accuracy": (
            tr("Accuracy lost"),
            tr(
                "Percentage points of the samples that are right without the edit and no longer"
                " with it, less those gained"
            ),
        ),
        "estimate": (
            tr("Estimate"),
            tr(
                "Rise of the loss as one backward pass foretells it, without running the edited"
                " model"
            ),
        ),
    }


def standing_text(cell: Cell | None, one: Shown, tr: Translate = str) -> str:
    """How far a cell is, in a few words."""
    if cell is not None and one.standing == "measuring":
        return tr("being measured, {count} samples so far").format(count=cell.samples)
    if cell is not None and one.standing == "settled":
        return (
            tr("measured on {count} samples").format(count=cell.samples)
            if cell.samples
            else tr("measured")
        )
    return {
        "estimate": tr("an estimate, not measured"),
        "refused": tr("cannot be edited so"),
    }.get(one.standing, tr("nothing is known yet"))


def cell_lines(cell: Cell | None, one: Shown, tr: Translate = str) -> list[str]:
    """A cell in words: the numbers that are known with their errors, or the reason for none."""
    if cell is None:
        return [standing_text(cell, one, tr)]
    if cell.refusal:
        return [fmt.visible(cell.refusal)]
    lines = []
    if cell.rise is not None:
        lines.append(_rise_text(cell, tr))
    if cell.lost is not None:
        lines.append(_lost_text(cell.lost, tr))
    if cell.left_out:
        names = ", ".join(fmt.layer_name(one) for one in cell.left_out)
        lines.append(tr("without {layers}, which cannot be edited so").format(layers=names))
    if cell.estimate is not None:
        lines.append(tr("estimated {value}").format(value=fmt.loss(cell.estimate)))
    return [*lines, standing_text(cell, one, tr)]


def _rise_text(cell: Cell, tr: Translate) -> str:
    assert cell.rise is not None
    template = tr("fall of loss {value}") if cell.rise < 0 else tr("rise of loss {value}")
    text = template.format(value=fmt.loss(abs(cell.rise)))
    if cell.error is None:
        return text
    error = CONFIDENCE * cell.error
    text = f"{text} ±{fmt.loss(error)}"
    return (
        text if abs(cell.rise) > error else tr("{text}, not to be told from zero").format(text=text)
    )


def _lost_text(lost: float, tr: Translate) -> str:
    if lost < 0:
        return tr("accuracy gained {points} points").format(points=fmt.points(-lost))
    return tr("accuracy lost {points} points").format(points=fmt.points(lost))


def table(found: SensitivityMap) -> list[list[object]]:
    """One line a cell, raw, the header first; the same as the engine writes to CSV."""
    header = [
        "layer", "coupled", "setting", "direction",
        "estimate", "rise", "error", "lost", "samples", "refusal",
    ]  # fmt: skip
    lines: list[list[object]] = [list(header)]
    for row, layers in enumerate(found.rows):
        for column, setting in enumerate(found.settings):
            one = found.cell(row, column)
            lines.append(
                [
                    layers[0], " ".join(layers[1:]), setting_name(setting), found.direction,
                    one.estimate, one.rise, one.error, one.lost, one.samples, one.refusal,
                ]
            )  # fmt: skip
    return lines
