"""The tree of Python calls as an item model; branches are filled when they are unfolded."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from PySide6.QtCore import QAbstractItemModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from engine import CallNode, CallProfile
from gui import format as fmt
from gui.models.cells import CellRole, header, right_or_left

Index = QModelIndex | QPersistentModelIndex


class CallColumn(IntEnum):
    """Columns, in order."""

    FUNCTION = 0
    TOTAL = 1
    SHARE = 2
    OWN = 3
    CALLS = 4
    WHERE = 5


_NUMBERS = (CallColumn.TOTAL, CallColumn.SHARE, CallColumn.OWN, CallColumn.CALLS)


@dataclass
class _Item:
    node: CallNode
    parent: int  # -1 for the top
    place: int
    children: list[int] = field(default_factory=list)


class CallModel(QAbstractItemModel):
    """Calls below calls; the function that the profile starts in is the one top row."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._items: list[_Item] = []
        self._whole = 0.0

    def set_profile(self, profile: CallProfile | None) -> None:
        """Show another profile."""
        self.beginResetModel()
        self._items = [_Item(profile.root, -1, 0)] if profile else []
        self._whole = profile.root.total if profile else 0.0
        self.endResetModel()

    def node(self, index: Index) -> CallNode:
        """The call behind a valid index."""
        return self._items[index.internalId()].node

    def share(self, node: CallNode) -> float | None:
        """Its total of the whole run."""
        return node.total / self._whole if self._whole else None

    def hottest(self, index: QModelIndex) -> QModelIndex:
        """The most expensive call directly below, fetched when it has to be."""
        if self.canFetchMore(index):
            self.fetchMore(index)
        rows = (self.index(row, 0, index) for row in range(self.rowCount(index)))
        return max(rows, key=lambda one: self.node(one).total, default=QModelIndex())

    def tooltip(self, node: CallNode) -> str:
        """A call in full."""
        texts = [
            node.name,
            fmt.place(node.file, node.line),
            self.tr("{total} with all it calls, {own} of its own").format(
                total=fmt.quantity(node.total, "s"), own=fmt.quantity(node.own, "s")
            ),
        ]
        return "\n".join(text for text in texts if text)

    def _value(self, node: CallNode, column: CallColumn) -> float | str | None:
        match column:
            case CallColumn.FUNCTION:
                return node.name
            case CallColumn.TOTAL:
                return node.total
            case CallColumn.SHARE:
                return self.share(node)
            case CallColumn.OWN:
                return node.own
            case CallColumn.CALLS:
                return node.calls
        return fmt.place(node.file, node.line)

    def _text(self, node: CallNode, column: CallColumn) -> str:
        value = self._value(node, column)
        if isinstance(value, str) or value is None:
            return value if value is not None else fmt.ABSENT
        match column:
            case CallColumn.SHARE:
                return fmt.percent(value)
            case CallColumn.CALLS:
                return fmt.count(value)
        return fmt.quantity(value, "s")

    def index(self, row: int, column: int, parent: Index = QModelIndex()) -> QModelIndex:  # noqa: B008
        if not self.hasIndex(row, column, parent):
            return QModelIndex()
        number = self._items[parent.internalId()].children[row] if parent.isValid() else 0
        return self.createIndex(row, column, number)

    def parent(self, index: Index) -> QModelIndex:  # type: ignore[override]
        above = self._items[index.internalId()].parent if index.isValid() else -1
        return self.createIndex(self._items[above].place, 0, above) if above >= 0 else QModelIndex()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        if not parent.isValid():
            return 1 if self._items else 0
        return len(self._items[parent.internalId()].children) if parent.column() == 0 else 0

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return len(CallColumn)

    def hasChildren(self, parent: Index = QModelIndex()) -> bool:  # noqa: B008
        if not parent.isValid():
            return bool(self._items)
        return parent.column() == 0 and bool(self.node(parent).children)

    def canFetchMore(self, parent: Index) -> bool:
        return self.hasChildren(parent) and parent.isValid() and self.rowCount(parent) == 0

    def fetchMore(self, parent: Index) -> None:
        if not self.canFetchMore(parent):
            return
        number = parent.internalId()
        nodes = sorted(self._items[number].node.children, key=lambda one: one.total, reverse=True)
        self.beginInsertRows(self.createIndex(parent.row(), 0, number), 0, len(nodes) - 1)
        for place, node in enumerate(nodes):
            self._items[number].children.append(len(self._items))
            self._items.append(_Item(node, number, place))
        self.endInsertRows()

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        node, column = self.node(index), CallColumn(index.column())
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return self._text(node, column)
            case Qt.ItemDataRole.ToolTipRole:
                return fmt.tooltip(self.tooltip(node))
            case Qt.ItemDataRole.TextAlignmentRole:
                return right_or_left(column in _NUMBERS)
            case CellRole.SORT:
                return self._value(node, column)
            case CellRole.HEAT if column == CallColumn.SHARE:
                return self.share(node)
            case CellRole.QUIET:
                return column == CallColumn.WHERE
        return None

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(CallColumn):
            return None
        title, tip = self._titles()[CallColumn(section)]
        return header(role, title, tip, CallColumn(section) in _NUMBERS)

    def _titles(self) -> dict[CallColumn, tuple[str, str]]:
        return {
            CallColumn.FUNCTION: (self.tr("Function"), self.tr("Who calls stands above")),
            CallColumn.TOTAL: (
                self.tr("Total"), self.tr("Time in the function and in all that it calls"),
            ),
            CallColumn.SHARE: (self.tr("Share"), self.tr("Total time of the whole run")),
            CallColumn.OWN: (self.tr("Own"), self.tr("Time in the function itself")),
            CallColumn.CALLS: (self.tr("Calls"), self.tr("How often this caller called it")),
            CallColumn.WHERE: (self.tr("Where"), self.tr("File and line of its definition")),
        }  # fmt: skip
