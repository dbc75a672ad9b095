"""What the tables of profiles share: the roles of their cells, and their headers."""

from enum import IntEnum
from typing import Any

from PySide6.QtCore import Qt

from gui import format as fmt
from gui.models.sorting import SORT_ROLE


class CellRole(IntEnum):
    """What a cell says beside its text."""

    SORT = SORT_ROLE  # the raw number or text; None when absent
    HEAT = SORT + 1  # 0..1 where the cell shows heat, None elsewhere
    LAYER = SORT + 2  # the LayerId; None when it is of none or several
    QUIET = SORT + 3  # whether its text steps back
    CODE = SORT + 4  # whether its text is source


def right_or_left(number: bool) -> Qt.AlignmentFlag:
    """Numbers stand right, words left."""
    side = Qt.AlignmentFlag.AlignRight if number else Qt.AlignmentFlag.AlignLeft
    return side | Qt.AlignmentFlag.AlignVCenter


def header(role: int, title: str, tip: str, number: bool) -> Any:
    """What a header says in that role."""
    match role:
        case Qt.ItemDataRole.DisplayRole:
            return title
        case Qt.ItemDataRole.ToolTipRole:
            return fmt.tooltip(tip)
        case Qt.ItemDataRole.TextAlignmentRole:
            return right_or_left(number)
        case Qt.ItemDataRole.InitialSortOrderRole if number:
            return Qt.SortOrder.DescendingOrder  # one looks for the most expensive
    return None
