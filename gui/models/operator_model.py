"""The operators of a profile as an item model, and its filter."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, cast

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from gui import format as fmt
from gui.models.cells import CellRole, header, right_or_left
from gui.models.heat import HeatScale, heat_scale
from gui.models.operator_rows import OperatorRow
from gui.models.sorting import AbsentLast

Index = QModelIndex | QPersistentModelIndex


class OperatorColumn(IntEnum):
    """Columns, in order."""

    LAYER = 0
    OPERATOR = 1
    CALLS = 2
    OWN = 3
    SHARE = 4
    TOTAL = 5
    MEMORY = 6
    SHAPES = 7


_NUMBERS = (
    OperatorColumn.CALLS,
    OperatorColumn.OWN,
    OperatorColumn.SHARE,
    OperatorColumn.TOTAL,
    OperatorColumn.MEMORY,
)


class OperatorModel(QAbstractTableModel):
    """One row a group of calls."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: tuple[OperatorRow, ...] = ()
        self._scale: HeatScale | None = None

    def set_rows(self, rows: Sequence[OperatorRow]) -> None:
        """Show these rows instead."""
        self.beginResetModel()
        self._rows = tuple(rows)
        self._scale = heat_scale((row.share for row in rows), logarithmic=False)
        self.endResetModel()

    @property
    def rows(self) -> tuple[OperatorRow, ...]:
        """All rows."""
        return self._rows

    def row(self, index: Index) -> OperatorRow:
        """The row behind a valid index."""
        return self._rows[index.row()]

    def _value(self, row: OperatorRow, column: OperatorColumn) -> float | str | None:
        match column:
            case OperatorColumn.LAYER:
                return fmt.layer_name(row.layer) if row.layer is not None else None
            case OperatorColumn.OPERATOR:
                return row.name or None
            case OperatorColumn.CALLS:
                return row.calls
            case OperatorColumn.OWN:
                return row.own
            case OperatorColumn.SHARE:
                return row.share
            case OperatorColumn.TOTAL:
                return row.total
            case OperatorColumn.MEMORY:
                return row.bytes
        return row.shape_text

    def _text(self, row: OperatorRow, column: OperatorColumn) -> str:
        value = self._value(row, column)
        if isinstance(value, str) or value is None:
            return value if value is not None else self._nothing(column)
        match column:
            case OperatorColumn.CALLS:
                return fmt.count(value)
            case OperatorColumn.SHARE:
                return fmt.percent(value)
            case OperatorColumn.MEMORY:
                return fmt.quantity(value, "B")
        return fmt.quantity(value, "s")

    def _nothing(self, column: OperatorColumn) -> str:
        everything = {
            OperatorColumn.LAYER: self.tr("all layers"),
            OperatorColumn.OPERATOR: self.tr("all operators"),
        }
        return everything.get(column, fmt.ABSENT)

    def _tooltip(self, row: OperatorRow, column: OperatorColumn) -> str:
        if column == OperatorColumn.SHAPES:
            return "\n".join(row.shapes)
        if column == OperatorColumn.MEMORY and row.bytes is None:
            return self.tr("Memory was not recorded")
        if column == OperatorColumn.OPERATOR and row.device != "cpu":
            return f"{row.name}\n{row.device}"
        return self._text(row, column)

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(OperatorColumn)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row, column = self.row(index), OperatorColumn(index.column())
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return self._text(row, column)
            case Qt.ItemDataRole.ToolTipRole:
                return fmt.tooltip(self._tooltip(row, column))
            case Qt.ItemDataRole.TextAlignmentRole:
                return right_or_left(column in _NUMBERS)
            case CellRole.SORT:
                return self._value(row, column)
            case CellRole.HEAT if column == OperatorColumn.SHARE and self._scale:
                return self._scale.fraction(row.share)
            case CellRole.LAYER:
                return row.layer
            case CellRole.QUIET:
                return column == OperatorColumn.SHAPES or self._value(row, column) is None
        return None

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(OperatorColumn):
            return None
        title, tip = self._titles()[OperatorColumn(section)]
        return header(role, title, tip, OperatorColumn(section) in _NUMBERS)

    def _titles(self) -> dict[OperatorColumn, tuple[str, str]]:
        return {
            OperatorColumn.LAYER: (
                self.tr("Layer"), self.tr("The innermost layer that was running"),
            ),
            OperatorColumn.OPERATOR: (
                self.tr("Operator"), self.tr("A function of torch that computes on tensors"),
            ),
            OperatorColumn.CALLS: (self.tr("Calls"), self.tr("How often it ran in one pass")),
            OperatorColumn.OWN: (
                self.tr("Own time"), self.tr("Time in the operator without those that it called"),
            ),
            OperatorColumn.SHARE: (self.tr("Share"), self.tr("Own time of the whole pass")),
            OperatorColumn.TOTAL: (
                self.tr("Total"), self.tr("Time in the operator and in those that it called"),
            ),
            OperatorColumn.MEMORY: (
                self.tr("Memory"), self.tr("Bytes that it allocated, less those it released"),
            ),
            OperatorColumn.SHAPES: (
                self.tr("Input shapes"), self.tr("Shapes of the tensors that it was called with"),
            ),
        }  # fmt: skip


class OperatorFilter(AbsentLast):
    """Rows in which every word of the filter occurs."""

    def __init__(self, source: OperatorModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._words: tuple[str, ...] = ()
        self.setSortRole(CellRole.SORT)
        self.setSourceModel(source)

    def set_text(self, text: str) -> None:
        """Show only rows that hold all of these words."""
        words = tuple(text.lower().split())
        if words != self._words:
            self._words = words
            self.invalidate()  # the narrower calls are deprecated in one Qt or missing in another

    def shown(self) -> list[OperatorRow]:
        """The rows as they are filtered and sorted."""
        source = cast(OperatorModel, self.sourceModel())
        return [
            source.row(self.mapToSource(self.index(place, 0))) for place in range(self.rowCount())
        ]

    def filterAcceptsRow(self, source_row: int, source_parent: Index) -> bool:
        row = cast(OperatorModel, self.sourceModel()).rows[source_row]
        layer = fmt.layer_name(row.layer) if row.layer is not None else ""
        text = f"{layer} {row.name} {row.device}".lower()
        return all(word in text for word in self._words)
