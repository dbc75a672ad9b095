"""Sorting by raw values, whichever way, with what is absent at the end."""

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QSortFilterProxyModel, Qt

SORT_ROLE = Qt.ItemDataRole.UserRole + 1
"""Where models keep the raw number or text of a cell; None when absent."""


class AbsentLast(QSortFilterProxyModel):
    """Sorts by :data:`SORT_ROLE`; absent values come last in either order."""

    def lessThan(
        self,
        source_left: QModelIndex | QPersistentModelIndex,
        source_right: QModelIndex | QPersistentModelIndex,
    ) -> bool:
        left, right = source_left.data(SORT_ROLE), source_right.data(SORT_ROLE)
        if left is None or right is None:
            first, last = (left, right) if self._ascending() else (right, left)
            return first is not None and last is None
        return bool(left < right)

    def _ascending(self) -> bool:
        return self.sortOrder() == Qt.SortOrder.AscendingOrder
