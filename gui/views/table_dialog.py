"""The numbers behind a chart in a window of their own."""

from collections.abc import Sequence
from numbers import Number

from PySide6.QtCore import Qt
from PySide6.QtGui import (
    QGuiApplication,
    QKeySequence,
    QShortcut,
    QStandardItem,
    QStandardItemModel,
)
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
        sorted_rows.setSourceModel(_model(self._rows, self))
        view = named(QTableView(), "numbers")
        view.setModel(sorted_rows)
        view.setSortingEnabled(True)
        view.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        view.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        view.verticalHeader().hide()
        view.setShowGrid(False)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.resizeColumnsToContents()
        return view


def _model(rows: Sequence[Sequence[object]], parent: QDialog) -> QStandardItemModel:
    head, *body = rows or [[]]
    model = QStandardItemModel(len(body), len(head), parent)
    model.setHorizontalHeaderLabels([str(one) for one in head])
    for place, row in enumerate(body):
        for at, value in enumerate(row):
            model.setItem(place, at, _item(value))
    return model


def _item(value: object) -> QStandardItem:
    number = isinstance(value, Number)
    item = QStandardItem(f"{value:.6g}" if isinstance(value, float) else str(value or ""))
    if number and not isinstance(value, float):
        item.setText(str(value))
    item.setData(value, CellRole.SORT)
    item.setTextAlignment(right_or_left(number))
    return item
