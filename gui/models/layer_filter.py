"""The layer model filtered by a query and sorted by raw values."""

from typing import cast

from PySide6.QtCore import QModelIndex, QObject, QPersistentModelIndex

from gui.models.layer_model import LayerModel, Role
from gui.models.layer_query import Query
from gui.models.sorting import AbsentLast


class LayerFilter(AbsentLast):
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
