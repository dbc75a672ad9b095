"""The Python side of running the model: who calls whom, and what it costs."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPoint, Qt, Slot
from PySide6.QtGui import QAction, QGuiApplication, QKeySequence
from PySide6.QtWidgets import QAbstractItemView, QMenu, QToolButton, QTreeView, QWidget

from engine import CallProfile
from gui import format as fmt
from gui.models.call_model import CallColumn, CallModel
from gui.models.cells import CellRole
from gui.models.sorting import AbsentLast
from gui.theme import Theme
from gui.views.cell_delegate import PADDING, RIGHT, CellDelegate
from gui.views.parts import ElidedLabel
from gui.views.saving import ask_and_write
from gui.widgets import column, named, row

_WIDEST = {
    CallColumn.TOTAL: "888.8 ms",
    CallColumn.SHARE: "100.0 %  ",
    CallColumn.OWN: "888.8 ms",
    CallColumn.CALLS: "88.8 k",
}
_FUNCTION_WIDTH = 360
_COLD = 0.05  # the hottest path ends where less than this share of the whole is left


class CallTree(QWidget):
    """The call tree of a Python profile, folded but for its hottest path."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("callTree")
        self._profile: CallProfile | None = None
        self._model = CallModel(self)
        self._proxy = AbsentLast(self)
        self._proxy.setSortRole(CellRole.SORT)
        self._proxy.setSourceModel(self._model)
        self._caption = ElidedLabel("callCaption", "caption")
        self._make_tree(theme)
        self._make_actions()
        self._lay_out()
        theme.changed.connect(self._tree.viewport().update)

    def show_profile(self, profile: CallProfile) -> None:
        """Show this profile."""
        self._profile = profile
        self._model.set_profile(profile)
        text = self.tr("{runs} runs, {time} together; tracing itself takes time as well").format(
            runs=profile.runs, time=fmt.quantity(profile.root.total, "s")
        )
        holds = fmt.conditions_text(profile.conditions, self.tr)
        self._caption.show_text(" · ".join(part for part in (text, holds) if part))
        self.expand_hottest()

    def expand_hottest(self) -> None:
        """Unfold the most expensive call, of what that calls again the most expensive, and on."""
        index = self._model.index(0, 0)
        while index.isValid():
            share = self._model.share(self._model.node(index))
            if share is None or share < _COLD:
                break
            last, index = index, self._model.hottest(index)
            self._tree.expand(self._proxy.mapFromSource(last))
            self._tree.setCurrentIndex(self._proxy.mapFromSource(last))
        self._tree.scrollTo(self._tree.currentIndex())

    def ask_prof(self) -> None:
        """Ask for a file and write what Python's own pstats reads."""
        if self._profile is not None:
            stats = self._profile.stats
            title = self.tr("Save the Python profile")
            kind = self.tr("Python profiles (*.prof)")
            ask_and_write(self, title, kind, ".prof", lambda: stats)

    def copy(self) -> None:
        """Put the selected rows on the clipboard, for spreadsheets."""
        indexes = self._tree.selectionModel().selectedRows()
        nodes = [self._model.node(self._proxy.mapToSource(index)) for index in indexes]
        header = ["function", "total (s)", "own (s)", "calls", "where"]
        rows = [
            [one.name, one.total, one.own, one.calls, fmt.place(one.file, one.line)]
            for one in nodes
        ]
        QGuiApplication.clipboard().setText(fmt.delimited([header, *rows], "\t"))

    def _make_tree(self, theme: Theme) -> None:
        self._tree = named(QTreeView(), "calls")
        self._tree.setModel(self._proxy)
        self._tree.setItemDelegate(CellDelegate(theme, self._tree))
        self._tree.setUniformRowHeights(True)
        self._tree.setAllColumnsShowFocus(True)
        self._tree.setIndentation(12)
        self._tree.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self._tree.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self._tree.setAccessibleName(self.tr("Python calls"))
        self._tree.setSortingEnabled(True)
        self._tree.sortByColumn(CallColumn.TOTAL, Qt.SortOrder.DescendingOrder)
        metrics = self._tree.fontMetrics()
        for place, text in _WIDEST.items():
            self._tree.setColumnWidth(place, metrics.horizontalAdvance(text) + PADDING + RIGHT)
        self._tree.setColumnWidth(CallColumn.FUNCTION, _FUNCTION_WIDTH)
        self._tree.header().setStretchLastSection(True)

    def _make_actions(self) -> None:
        self._hottest = QAction(self.tr("Hottest path"), self)
        self._hottest.setToolTip(self.tr("Unfold the most expensive call at every level"))
        self._hottest.triggered.connect(self.expand_hottest)
        self._fold = QAction(self.tr("Fold all"), self)
        self._fold.triggered.connect(self._tree.collapseAll)
        self._copy = QAction(self.tr("Copy rows"), self)
        self._copy.setShortcut(QKeySequence.StandardKey.Copy)
        self._copy.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        self._copy.triggered.connect(self.copy)
        self._save = QAction(self.tr("Save .prof…"), self)
        self._save.setIconText(self._save.text())  # on a button Qt would leave the dots out
        self._save.setToolTip(self.tr("Write a file that Python's pstats and its viewers read"))
        self._save.triggered.connect(self.ask_prof)
        self._tree.addAction(self._copy)
        self._tree.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._tree.customContextMenuRequested.connect(self._show_menu)

    def _lay_out(self) -> None:
        top = row(spacing=8)
        top.setContentsMargins(8, 4, 8, 4)
        top.addWidget(self._caption, 1)
        for name, action in (("hottestPath", self._hottest), ("saveProf", self._save)):
            button = named(QToolButton(), name)
            button.setDefaultAction(action)
            top.addWidget(button)
        layout = column(self, spacing=0)
        layout.addLayout(top)
        layout.addWidget(self._tree, 1)

    def make_menu(self) -> QMenu:
        """The menu of the tree."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addActions([self._hottest, self._fold, self._copy, self._save])
        return menu

    @property
    def current(self) -> QModelIndex:
        """The current call in the model behind the sorting."""
        return self._proxy.mapToSource(self._tree.currentIndex())

    @Slot(QPoint)
    def _show_menu(self, place: QPoint) -> None:
        self.make_menu().popup(self._tree.viewport().mapToGlobal(place))
