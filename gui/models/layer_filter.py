"""The layer model filtered by a query and sorted by raw values."""

from typing import cast

from PySide6.QtCore import QModelIndex, QObject, QPersistentModelIndex, QSortFilterProxyModel, Qt

from gui.models.layer_model import LayerModel, Role
from gui.models.layer_query import Query


class LayerFilter(QSortFilterProxyModel):
    """Rows that the query accepts, with what contains them; absent values come last."""

    def __init__(self, source: LayerModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._query = Query()
        self.setRecursiveFilteringEnabled(True)
        self.setSortRole(Role.SORT)
        self.setSourceModel(source)

    @property
    def query(self) -> Query:
        """What rows must pass."""
        return self._query

    def set_query(self, query: Query) -> None:
        """Show only rows that pass."""
        if query != self._query:
            self._query = query
            self.invalidate()  # the narrower calls are deprecated in one Qt or missing in another

    def filterAcceptsRow(
        self, source_row: int, source_parent: QModelIndex | QPersistentModelIndex
    ) -> bool:
        source = cast(LayerModel, self.sourceModel())
        return self._query.accepts(source.row_of(source.index(source_row, 0, source_parent)))

    def lessThan(
        self,
        source_left: QModelIndex | QPersistentModelIndex,
        source_right: QModelIndex | QPersistentModelIndex,
    ) -> bool:
        left, right = source_left.data(Role.SORT), source_right.data(Role.SORT)
        if left is None or right is None:
            first, last = (left, right) if self._ascending() else (right, left)
            return first is not None and last is None
        return bool(left < right)

    def _ascending(self) -> bool:
        return self.sortOrder() == Qt.SortOrder.AscendingOrder
