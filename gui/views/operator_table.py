"""The operators of a profile in a table: added up, filtered, sorted, taken away."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from PySide6.QtCore import QItemSelection, QItemSelectionModel, QPoint, Qt, Slot
from PySide6.QtGui import QAction, QGuiApplication, QKeySequence
from PySide6.QtWidgets import QAbstractItemView, QComboBox, QLineEdit, QMenu, QTreeView, QWidget

from engine import OperatorProfile
from gui import format as fmt
from gui.models.cells import CellRole
from gui.models.operator_model import OperatorColumn, OperatorFilter, OperatorModel
from gui.models.operator_rows import Grouping, OperatorRow, operator_rows, table
from gui.selection import Selection
from gui.theme import Theme
from gui.views.cell_delegate import PADDING, RIGHT, CellDelegate
from gui.views.parts import ElidedLabel
from gui.views.saving import ask_and_write
from gui.widgets import column, named, row

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDEST = {
    OperatorColumn.CALLS: "88.8 k",
    OperatorColumn.OWN: "Own time",
    OperatorColumn.SHARE: "100.0 %  ",
    OperatorColumn.TOTAL: "888.8 ms",
    OperatorColumn.MEMORY: "−888.8 MB",
}
_ARROW = 4
_LAYER_WIDTH, _OPERATOR_WIDTH, _SHAPES_WIDTH = 208, 200, 80


class OperatorTable(QWidget):
    """One row a group of operator calls; rows of the selected layers are selected."""

    def __init__(self, selection: Selection, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("operatorTable")
        self._selection = selection
        self._profile: OperatorProfile | None = None
        self._syncing = False
        self._model = OperatorModel(self)
        self._proxy = OperatorFilter(self._model, self)
        self._make_controls()
        self._make_table(theme)
        self._make_actions()
        self._lay_out()
        selection.changed.connect(self._on_selection)
        self._table.selectionModel().selectionChanged.connect(self._on_rows)
        theme.changed.connect(self._table.viewport().update)

    def show_profile(self, profile: OperatorProfile) -> None:
        """Show this profile."""
        self._profile = profile
        self._refresh()

    def copy(self) -> None:
        """Put the selected rows on the clipboard, or all if none is, for spreadsheets."""
        chosen = self._chosen() or self._proxy.shown()
        QGuiApplication.clipboard().setText(fmt.delimited(table(chosen), "\t"))

    def csv(self) -> str:
        """The rows as they are filtered and sorted."""
        return fmt.delimited(table(self._proxy.shown()))

    def _make_controls(self) -> None:
        self._filter = named(QLineEdit(), "operatorFilter")
        self._filter.setPlaceholderText(self.tr("Filter, such as: conv stage1"))
        self._filter.setToolTip(self.tr("Words that occur in the layer or the operator; all must"))
        self._filter.setAccessibleName(self.tr("Filter operators"))
        self._filter.setClearButtonEnabled(True)
        self._filter.textChanged.connect(self._on_filter)
        self._grouping = named(QComboBox(), "operatorGrouping")
        self._grouping.setToolTip(self.tr("What one row adds up"))
        self._grouping.setAccessibleName(self.tr("Rows"))
        for text, grouping in (
            (self.tr("Operators of each layer"), Grouping.OPERATOR_IN_LAYER),
            (self.tr("By operator"), Grouping.OPERATOR),
            (self.tr("By layer"), Grouping.LAYER),
        ):
            self._grouping.addItem(text, grouping)
        self._grouping.currentIndexChanged.connect(self._refresh)
        self._status = ElidedLabel("operatorStatus", "muted")

    def _make_table(self, theme: Theme) -> None:
        self._table = named(QTreeView(), "operators")
        self._table.setModel(self._proxy)
        self._table.setItemDelegate(CellDelegate(theme, self._table))
        self._table.setRootIsDecorated(False)
        self._table.setUniformRowHeights(True)
        self._table.setAllColumnsShowFocus(True)
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self._table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self._table.setAccessibleName(self.tr("Operators"))
        self._table.setSortingEnabled(True)
        self._table.sortByColumn(OperatorColumn.OWN, Qt.SortOrder.DescendingOrder)
        metrics = self._table.fontMetrics()
        for place, text in _WIDEST.items():
            width = metrics.horizontalAdvance(text) + PADDING + RIGHT + _ARROW
            self._table.setColumnWidth(place, width)
        self._table.setColumnWidth(OperatorColumn.LAYER, _LAYER_WIDTH)
        self._table.setColumnWidth(OperatorColumn.OPERATOR, _OPERATOR_WIDTH)
        self._table.setColumnWidth(OperatorColumn.SHAPES, _SHAPES_WIDTH)
        self._table.header().setStretchLastSection(True)

    def _make_actions(self) -> None:
        self._copy = QAction(self.tr("Copy rows"), self)
        self._copy.setShortcut(QKeySequence.StandardKey.Copy)
        self._copy.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        self._copy.triggered.connect(self.copy)
        self._save = QAction(self.tr("Save as CSV…"), self)
        self._save.triggered.connect(self._ask_csv)
        self._table.addAction(self._copy)
        self._table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._table.customContextMenuRequested.connect(self._show_menu)

    def _lay_out(self) -> None:
        top = row(spacing=8)
        top.setContentsMargins(8, 4, 8, 4)
        top.addWidget(self._filter, 1)
        top.addWidget(self._grouping)
        top.addWidget(self._status, 1)
        layout = column(self, spacing=0)
        layout.addLayout(top)
        layout.addWidget(self._table, 1)

    @Slot()
    def _refresh(self) -> None:
        if self._profile is None:
            return
        grouping = self._grouping.currentData()
        with self._quietly():
            self._model.set_rows(operator_rows(self._profile, grouping))
        self._table.setColumnHidden(OperatorColumn.LAYER, grouping is Grouping.OPERATOR)
        self._table.setColumnHidden(OperatorColumn.OPERATOR, grouping is Grouping.LAYER)
        recorded = any(one.bytes is not None for one in self._model.rows)
        self._table.setColumnHidden(OperatorColumn.MEMORY, not recorded)
        self._on_filter(self._filter.text())

    @Slot(str)
    def _on_filter(self, text: str) -> None:
        with self._quietly():
            self._proxy.set_text(text)
            self._mark()
        shown, rows = self._proxy.rowCount(), len(self._model.rows)
        count = fmt.count(rows) if shown == rows else f"{fmt.count(shown)} / {fmt.count(rows)}"
        text = self.tr("{count} rows, {own}").format(count=count, own=self._own_text())
        holds = fmt.conditions_text(self._profile.conditions, self.tr) if self._profile else ""
        self._status.show_text(" · ".join(part for part in (text, holds) if part))

    def _own_text(self) -> str:
        """Own time of the rows that are shown, by device: these run beside each other."""
        sums = {"cpu": 0.0}
        for one in self._proxy.shown():
            sums[one.device] = sums.get(one.device, 0.0) + one.own
        if len(sums) == 1:
            return fmt.quantity(sums["cpu"], "s")
        return ", ".join(f"{device} {fmt.quantity(own, 's')}" for device, own in sums.items())

    @Slot()
    def _on_rows(self) -> None:
        """Select the layers of the rows that the user chose."""
        if self._syncing:
            return
        layers = dict.fromkeys(one.layer for one in self._chosen() if one.layer is not None)
        if layers:
            self._selection.set(layers, self)

    @Slot()
    def _on_selection(self) -> None:
        if self._selection.origin is not self:
            with self._quietly():
                self._mark(scroll=True)

    def _mark(self, scroll: bool = False) -> None:
        """Select the rows of the selected layers."""
        chosen = QItemSelection()
        first = None
        for place in range(self._proxy.rowCount() if self._selection.layers else 0):
            index = self._proxy.index(place, 0)
            layer = index.data(CellRole.LAYER)
            if layer is not None and self._selection.covers(layer):
                chosen.select(index, index)
                first = first or index
        flag = QItemSelectionModel.SelectionFlag
        self._table.selectionModel().select(chosen, flag.ClearAndSelect | flag.Rows)
        if scroll and first is not None:
            self._table.scrollTo(first)

    def _chosen(self) -> list[OperatorRow]:
        indexes = self._table.selectionModel().selectedRows()
        places = sorted(index.row() for index in indexes)
        shown = self._proxy.shown() if places else []
        return [shown[place] for place in places]

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Let the table's selection change without telling the other views."""
        self._syncing = True
        try:
            yield
        finally:
            self._syncing = False

    def make_menu(self) -> QMenu:
        """The menu of the table."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addActions([self._copy, self._save])
        return menu

    @Slot()
    def _ask_csv(self) -> None:
        ask_and_write(
            self, self.tr("Save as CSV"), "CSV (*.csv)", ".csv", lambda: self.csv().encode()
        )

    @Slot(QPoint)
    def _show_menu(self, place: QPoint) -> None:
        self.make_menu().popup(self._table.viewport().mapToGlobal(place))
