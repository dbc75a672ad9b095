"""A map of sensitivity as a table for a terminal. No Qt."""

from collections.abc import Iterator, Sequence

from engine import Cell, LayerId, SensitivityMap
from gui import format as fmt
from gui.model_text import one_line
from gui.models.sensitivity_cells import CONFIDENCE
from gui.models.sensitivity_columns import columns, group_words
from gui.models.sensitivity_words import map_text

_WIDTH = 1000  # into a file nothing is folded or cut
_UNSURE = "?"
_MOST_REFUSALS = 8


class Printer:
    """Writes to standard output.

    Args:
        width: of a terminal; None when there is none.
    """

    def __init__(self, width: int | None) -> None:
        from rich.console import Console

        self._console = Console(width=width or _WIDTH, highlight=False, soft_wrap=False)

    def map(self, found: SensitivityMap) -> None:
        """The rises of the loss, layer by layer, and what they rest on."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(_title(found)), title_justify="left")
        table.add_column("Layer", no_wrap=True)
        words = group_words(str)
        for one in columns(found.settings):
            head = words[one.group][0] if one.group in words else ""
            table.add_column(Text(f"{head}\n{one.title}"), justify="right")
        for at, row in enumerate(found.rows):
            cells = [found.cell(at, column) for column in range(len(found.settings))]
            table.add_row(Text(_row_name(row)), *(Text(cell_text(one)) for one in cells))
        self._console.print(table)
        for line in _legend(found):
            print(one_line(line))


def cell_text(cell: Cell) -> str:
    """A rise, with a question mark where it may be none; an estimate where that is all."""
    if cell.refusal:
        return fmt.ABSENT
    if cell.rise is None:
        return "" if cell.estimate is None else f"≈{fmt.loss(cell.estimate)}"
    unsure = cell.error is not None and 0 < abs(cell.rise) <= CONFIDENCE * cell.error
    return f"{fmt.loss(cell.rise)}{_UNSURE if unsure else ''}"


def _title(found: SensitivityMap) -> str:
    what = "only this layer" if found.direction == "only this" else "all layers but this one"
    return f"Rise of the loss with {what} changed"


def _row_name(row: Sequence[LayerId]) -> str:
    more = f" +{len(row) - 1}" if len(row) > 1 else ""
    return f"{fmt.layer_name(row[0])}{more}"


def _legend(found: SensitivityMap) -> Iterator[str]:
    yield f"{map_text(found)}."
    cells = list(found.cells.values())
    if found.direction == "all but this":
        yield "A cell is what the layer's change adds when all others are changed as well."
    if any(cell_text(one).endswith(_UNSURE) for one in cells):
        yield f"{_UNSURE} cannot be told from zero: the 95 % interval holds it"
    if any(cell_text(one).startswith("≈") for one in cells):
        yield "≈ estimated from gradients"
    for row in found.rows:
        if len(row) > 1:
            yield f"{_row_name(row)}: changed with {', '.join(map(fmt.layer_name, row[1:]))}"
    refusals = list(dict.fromkeys(one.refusal for one in cells if one.refusal))
    for refusal in refusals[:_MOST_REFUSALS]:
        yield f"{fmt.ABSENT} {refusal}"
    if len(refusals) > _MOST_REFUSALS:
        yield f"… and {len(refusals) - _MOST_REFUSALS} more reasons, which --csv has all"
