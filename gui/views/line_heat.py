"""The source of a layer's forward with the time of every line behind its share."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import QModelIndex, QPoint, Qt, Slot
from PySide6.QtGui import (
    QAction,
    QFontDatabase,
    QFontMetrics,
    QGuiApplication,
    QKeySequence,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QMenu, QTreeView, QWidget

from engine import LineProfile
from gui import format as fmt
from gui.models.line_model import LineColumn, LineModel
from gui.theme import Theme
from gui.views.cell_delegate import PADDING, RIGHT, CellDelegate
from gui.views.parts import ElidedLabel
from gui.views.saving import ask_and_write
from gui.widgets import column, named, row

_WIDEST = {
    LineColumn.LINE: "88888",
    LineColumn.HITS: "88.8 k",
    LineColumn.TIME: "888.8 ms",
    LineColumn.SHARE: "100.0 %  ",
}
_ROW_HEIGHT = 20


class LineHeat(QWidget):
    """Functions with their lines: number, hits, time, share, source."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("lineHeat")
        self._model = LineModel(self)
        self._caption = ElidedLabel("lineCaption", "caption")
        self._make_lines(theme)
        self._make_actions()
        self._lay_out()
        theme.changed.connect(self._lines.viewport().update)

    def show_profile(self, profile: LineProfile) -> None:
        """Show this profile, at the line that takes longest."""
        self._model.set_profile(profile)
        text = self.tr("{layer} · {runs} runs · times are of all runs").format(
            layer=fmt.layer_name(profile.layer), runs=profile.runs
        )
        holds = fmt.conditions_text(profile.conditions, self.tr)
        self._caption.show_text(" · ".join(part for part in (text, holds) if part))
        self._lines.expandAll()
        for place in range(self._model.rowCount()):
            self._lines.setFirstColumnSpanned(place, QModelIndex(), True)
        self._lines.show_source(
            line.text for function in profile.functions for line in function.lines
        )
        self._show_hottest()

    def copy(self) -> None:
        """Put the selected lines on the clipboard as they stand in the source."""
        chosen = self._lines.selectionModel().selectedRows()
        in_order = sorted(chosen, key=lambda index: (index.parent().row(), index.row()))
        lines = (self._model.line(index) for index in in_order)
        text = "\n".join(line.text for line in lines if line is not None)
        QGuiApplication.clipboard().setText(text)

    def _make_lines(self, theme: Theme) -> None:
        self._lines = named(_Lines(), "lines")
        self._lines.setModel(self._model)
        self._lines.setItemDelegate(CellDelegate(theme, self._lines, _ROW_HEIGHT))
        self._lines.setUniformRowHeights(True)
        self._lines.setRootIsDecorated(False)
        self._lines.setIndentation(0)
        self._lines.setAllColumnsShowFocus(True)
        self._lines.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self._lines.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self._lines.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self._lines.setAccessibleName(self.tr("Source lines"))
        metrics = self._lines.fontMetrics()
        for place, text in _WIDEST.items():
            self._lines.setColumnWidth(place, metrics.horizontalAdvance(text) + PADDING + RIGHT)
        header = self._lines.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(LineColumn.SOURCE, QHeaderView.ResizeMode.Fixed)

    def _show_hottest(self) -> None:
        parents = (self._model.index(place, 0) for place in range(self._model.rowCount()))
        parent = next(parents, QModelIndex())
        rows = [self._model.index(at, 0, parent) for at in range(self._model.rowCount(parent))]
        timed = [(line.seconds or 0.0) if (line := self._model.line(one)) else 0.0 for one in rows]
        if any(timed):
            index = rows[timed.index(max(timed))]
            self._lines.setCurrentIndex(index)
            self._lines.scrollTo(index, QAbstractItemView.ScrollHint.PositionAtCenter)

    def _make_actions(self) -> None:
        self._copy = QAction(self.tr("Copy lines"), self)
        self._copy.setShortcut(QKeySequence.StandardKey.Copy)
        self._copy.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        self._copy.triggered.connect(self.copy)
        self._copy_table = QAction(self.tr("Copy all as a table"), self)
        self._copy_table.triggered.connect(self._copy_all)
        self._save = QAction(self.tr("Save as CSV…"), self)
        self._save.triggered.connect(self._ask_csv)
        self._lines.addAction(self._copy)
        self._lines.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._lines.customContextMenuRequested.connect(self._show_menu)

    def _lay_out(self) -> None:
        top = row(spacing=8)
        top.setContentsMargins(8, 4, 8, 4)
        top.addWidget(self._caption, 1)
        layout = column(self, spacing=0)
        layout.addLayout(top)
        layout.addWidget(self._lines, 1)

    def make_menu(self) -> QMenu:
        """The menu of the lines."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addActions([self._copy, self._copy_table, self._save])
        return menu

    @Slot()
    def _copy_all(self) -> None:
        QGuiApplication.clipboard().setText(fmt.delimited(self._model.table(), "\t"))

    @Slot()
    def _ask_csv(self) -> None:
        rows = self._model.table()
        title = self.tr("Save as CSV")
        ask_and_write(self, title, "CSV (*.csv)", ".csv", lambda: fmt.delimited(rows).encode())

    @Slot(QPoint)
    def _show_menu(self, place: QPoint) -> None:
        self.make_menu().popup(self._lines.viewport().mapToGlobal(place))


class _Lines(QTreeView):
    """A tree whose source column is as wide as the longest line, and at least to the edge."""

    def __init__(self) -> None:
        super().__init__()
        self._longest = 0  # pixels

    def show_source(self, texts: Iterable[str]) -> None:
        """Make room for these lines, so that they scroll instead of being cut."""
        metrics = QFontMetrics(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        widths = (metrics.horizontalAdvance(text.expandtabs(4)) for text in texts)
        self._longest = max(widths, default=0) + PADDING + RIGHT
        self._fit()

    def _fit(self) -> None:
        room = self.viewport().width() - self.header().sectionPosition(LineColumn.SOURCE)
        self.setColumnWidth(LineColumn.SOURCE, max(self._longest, room))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()
