"""The numbers behind a chart in a window of their own."""

from collections.abc import Sequence
from numbers import Number
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt
from PySide6.QtGui import QGuiApplication, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QDialogButtonBox,
    QHeaderView,
    QTableView,
    QWidget,
)

from gui import format as fmt
from gui.models.cells import CellRole, right_or_left
from gui.models.sorting import AbsentLast
from gui.widgets import column, named, plain_label

Index = QModelIndex | QPersistentModelIndex
_SIZE = (720, 480)


def show_table(parent: QWidget, title: str, rows: Sequence[Sequence[object]]) -> None:
    """Show rows, the header first, as raw values that can be sorted and copied."""
    _TableDialog(parent, title, rows).open()


class _TableDialog(QDialog):
    def __init__(self, parent: QWidget, title: str, rows: Sequence[Sequence[object]]) -> None:
        super().__init__(parent)
        self.setObjectName("tableDialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Table"))
        self.resize(*_SIZE)
        self._rows = rows
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close, self)
        copy = buttons.addButton(self.tr("Copy as CSV"), QDialogButtonBox.ButtonRole.ActionRole)
        copy.clicked.connect(self.copy)
        QShortcut(QKeySequence.StandardKey.Copy, self, self.copy)
        buttons.rejected.connect(self.reject)
        caption = plain_label(title, "tableCaption", "muted")
        caption.setWordWrap(True)
        layout = column(self)
        layout.setContentsMargins(16, 16, 16, 16)
        layout.addWidget(caption)
        layout.addWidget(self._table(), 1)
        layout.addWidget(buttons)

    def copy(self) -> None:
        """Put the numbers on the clipboard."""
        QGuiApplication.clipboard().setText(fmt.delimited(self._rows))

    def _table(self) -> QTableView:
        sorted_rows = AbsentLast(self)
        sorted_rows.setSortRole(CellRole.SORT)
        sorted_rows.setSourceModel(_Rows(self._rows, self))
        view = named(QTableView(), "numbers")
        view.setModel(sorted_rows)
        # Before sorting is on: many thousand rows would be sorted for nothing.
        view.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        view.setSortingEnabled(True)
        view.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        view.verticalHeader().hide()
        view.setShowGrid(False)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.resizeColumnsToContents()
        return view


class _Rows(QAbstractTableModel):
    """Rows below their header; a cell is made when it is looked at, however many there are."""

    def __init__(self, rows: Sequence[Sequence[object]], parent: QObject) -> None:
        super().__init__(parent)
        self._head, *self._body = rows or [[]]

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._body)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._head)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        value = self._body[index.row()][index.column()]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return _text(value)
            case Qt.ItemDataRole.TextAlignmentRole:
                return right_or_left(isinstance(value, Number))
            case CellRole.SORT:
                return value
        return None

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        shown = orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole
        return str(self._head[section]) if shown and section < len(self._head) else None


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
