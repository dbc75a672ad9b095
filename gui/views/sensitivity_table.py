"""The heat map of a scan: layers by settings, headed in groups, by mouse and keyboard."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import (
    QEvent,
    QModelIndex,
    QPersistentModelIndex,
    QRect,
    QSize,
    Qt,
    Signal,
    Slot,
)
from PySide6.QtGui import (
    QColor,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
    QShowEvent,
)
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from engine import LayerId
from gui.models.sensitivity_columns import group_words, runs
from gui.models.sensitivity_model import SensitivityModel
from gui.selection import Selection
from gui.theme import Theme, scaled
from gui.views.sensitivity_cells import ROW_HEIGHT, WIDE, MapDelegate

Index = QModelIndex | QPersistentModelIndex

_GROUP_HEIGHT: Final = 20
_TITLE_HEIGHT: Final = 20
_LEAST_COLUMN, _MOST_COLUMN = 54, WIDE + 24
_LEAST_NAME: Final = 96
_NAME_SHARE: Final = 0.34  # of the table's width, at most
_PAD: Final = 8
_ENTER: Final = (Qt.Key.Key_Return, Qt.Key.Key_Enter)


class MapTable(QTableView):
    """The cells; rows of the selected layers are marked, and choosing a cell selects its layers.

    Signals:
        moved: another cell is the current one.
        pointed: row and column of the cell below the mouse, -1 twice where there is none.
        apply_wanted: the user pressed Enter on the current cell, or clicked it twice.
        sort_wanted: the user clicked the heading of a column.
    """

    moved = Signal()
    pointed = Signal(int, int)
    apply_wanted = Signal()
    sort_wanted = Signal(int)

    def __init__(
        self,
        model: SensitivityModel,
        selection: Selection,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("sensitivityTable")
        self.setAccessibleName(self.tr("Sensitivity of layers under settings"))
        self._rows = model
        self._selection = selection
        self._syncing = False
        self._delegate = MapDelegate(model, theme, self)
        self.setModel(model)
        self.setItemDelegate(self._delegate)
        self._names = _RowHeader(model, selection, theme, self)
        self._heads = _GroupedHeader(model, theme, self)
        self.setVerticalHeader(self._names)
        self.setHorizontalHeader(self._heads)
        self._set_up()
        self._heads.sectionClicked.connect(self.sort_wanted)
        self._names.sectionClicked.connect(self._on_name)
        self.doubleClicked.connect(self._on_double)
        self.entered.connect(self._on_entered)
        selection.changed.connect(self._on_selection)
        selection.pointed.connect(self._on_pointed)
        model.modelReset.connect(self._begin)
        model.layoutChanged.connect(self._renew)
        theme.changed.connect(self._renew)

    @property
    def place(self) -> tuple[int, int] | None:
        """Row and column of the current cell; None when there is none."""
        index = self.currentIndex()
        return (index.row(), index.column()) if index.isValid() else None

    def go_to(self, row: int, column: int) -> None:
        """Make that cell the current one."""
        self.setCurrentIndex(self._rows.index(row, column))

    def show_sorted(self, column: int | None) -> None:
        """Mark the column that the rows are ordered by."""
        self._heads.show_sorted(column)

    def _set_up(self) -> None:
        self.setShowGrid(False)
        self.setCornerButtonEnabled(False)
        self.setMouseTracking(True)
        self.setTabKeyNavigation(False)  # Tab leaves the table
        self.setWordWrap(False)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)

    def currentChanged(self, current: Index, previous: Index) -> None:
        super().currentChanged(current, previous)
        self._delegate.mark(current)
        for index in (previous, current):
            if index.isValid():
                self.viewport().update(self.visualRect(index))
        if current.isValid() and current.row() != previous.row():
            self._select(current.row())
        self.moved.emit()

    def _select(self, row: int) -> None:
        """Select the layers of that row everywhere, unless that is where the choice came from."""
        if not self._syncing:
            self._selection.set(self._rows.layers(row), self)
            self._names.viewport().update()

    @Slot(int)
    def _on_name(self, row: int) -> None:
        """Go to that row; a click on the row that is current selects its layers once more."""
        column = max(0, self.currentIndex().column())
        self.go_to(row, column)
        self._select(row)

    @Slot(QModelIndex)
    def _on_double(self, _: QModelIndex) -> None:
        self.apply_wanted.emit()

    @Slot(QModelIndex)
    def _on_entered(self, index: QModelIndex) -> None:
        self.pointed.emit(index.row(), index.column())
        self._selection.point(self._rows.layers(index.row()))

    @Slot()
    def _on_selection(self) -> None:
        self._names.viewport().update()
        if self._selection.origin is not self:
            self._go_to_selection()

    def _go_to_selection(self) -> None:
        """Go to the row of the first selected layer, in the same column."""
        rows = (self._rows.place_of(layer) for layer in self._selection.layers)
        row = next((one for one in rows if one is not None), None)
        if row is not None and row != self.currentIndex().row():
            self._syncing = True
            try:
                self.go_to(row, max(0, self.currentIndex().column()))
            finally:
                self._syncing = False

    @Slot(object, bool)
    def _on_pointed(self, layers: tuple[LayerId, ...], reveal: bool) -> None:
        self._names.point_at(layers)
        rows = (self._rows.place_of(layer) for layer in layers) if reveal else ()
        row = next((one for one in rows if one is not None), None)
        if row is not None:
            self.scrollTo(self._rows.index(row, max(0, self.currentIndex().column())))

    @Slot()
    def _renew(self) -> None:
        self._names.viewport().update()
        self._heads.viewport().update()
        self.viewport().update()

    @Slot()
    def _begin(self) -> None:
        """Go to the selected layer in a map that is new."""
        self._fit()
        self._go_to_selection()

    @Slot()
    def _fit(self) -> None:
        """Give names the room that they need, up to a share, and columns the rest."""
        self._names.fit(round(self.width() * _NAME_SHARE))
        count = self._rows.columnCount()
        if count:
            bar = self.verticalScrollBar().sizeHint().width()
            room = self.width() - self._names.width() - bar
            width = min(_MOST_COLUMN, max(_LEAST_COLUMN, room // count))
            self._heads.setDefaultSectionSize(width)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in _ENTER and self.place is not None:
            self.apply_wanted.emit()
            return
        super().keyPressEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self.pointed.emit(-1, -1)
        self._selection.point(())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        super().mouseMoveEvent(event)
        if not self.indexAt(event.position().toPoint()).isValid():
            self.pointed.emit(-1, -1)
            self._selection.point(())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._fit()


class _GroupedHeader(QHeaderView):
    """Titles of columns below the titles of their groups."""

    def __init__(self, model: SensitivityModel, theme: Theme, parent: QWidget) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self._rows = model
        self._theme = theme
        self._sorted: int | None = None
        self.setSectionsClickable(True)
        self.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.setMinimumSectionSize(_LEAST_COLUMN)

    def show_sorted(self, column: int | None) -> None:
        """Mark the column that the rows are ordered by."""
        self._sorted = column
        self.viewport().update()

    def paintSection(self, painter: QPainter, rect: QRect, logicalIndex: int) -> None:
        palette = self._theme.palette
        painter.fillRect(rect, QColor(palette.window))
        heading = self._rows.headings[logicalIndex]
        sorted_by = logicalIndex == self._sorted
        below = QRect(rect.left(), rect.top() + _GROUP_HEIGHT, rect.width() - 1, _TITLE_HEIGHT)
        painter.setPen(QColor(palette.text if sorted_by else palette.muted))
        title = f"{heading.title} ▾" if sorted_by else heading.title
        text = painter.fontMetrics().elidedText(title, Qt.TextElideMode.ElideRight, below.width())
        painter.drawText(below, Qt.AlignmentFlag.AlignCenter, text)
        painter.fillRect(rect.adjusted(0, rect.height() - 1, 0, 0), QColor(palette.border))

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self.viewport())
        painter.setFont(scaled(self.font(), 0.85))
        painter.setPen(QColor(self._theme.palette.text))
        words = group_words(self._rows.tr)
        for group, first, last in runs(self._rows.headings):
            left = self.sectionViewportPosition(first)
            right = self.sectionViewportPosition(last) + self.sectionSize(last)
            room = QRect(max(0, left), 0, right - max(0, left) - 1, _GROUP_HEIGHT)
            if room.width() <= 0:
                continue
            painter.fillRect(
                room.adjusted(1, _GROUP_HEIGHT - 1, -1, 0), QColor(self._theme.palette.border)
            )
            text = painter.fontMetrics().elidedText(
                words[group][0], Qt.TextElideMode.ElideRight, room.width() - 4
            )
            painter.drawText(room, Qt.AlignmentFlag.AlignCenter, text)
        painter.end()

    def sizeHint(self) -> QSize:
        return QSize(super().sizeHint().width(), _GROUP_HEIGHT + _TITLE_HEIGHT + 2)


class _RowHeader(QHeaderView):
    """Layers of the rows, elided in the middle; those of the selection stand out."""

    def __init__(
        self, model: SensitivityModel, selection: Selection, theme: Theme, parent: QWidget
    ) -> None:
        super().__init__(Qt.Orientation.Vertical, parent)
        self._rows = model
        self._selection = selection
        self._theme = theme
        self._pointed: frozenset[LayerId] = frozenset()
        self._wide = _LEAST_NAME
        self.setSectionsClickable(True)
        self.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.setMinimumSectionSize(ROW_HEIGHT)
        self.setDefaultSectionSize(ROW_HEIGHT)

    def fit(self, most: int) -> None:
        """Take as much room as the longest name needs, but no more than ``most``."""
        metrics = self.fontMetrics()
        names = (self._name(row) for row in range(self._rows.rowCount()))
        longest = max(names, key=len, default="")
        needed = metrics.horizontalAdvance(longest) + 3 * _PAD
        self._wide = max(_LEAST_NAME, min(needed, most))
        self.setFixedWidth(self._wide)

    def point_at(self, layers: tuple[LayerId, ...]) -> None:
        """Mark the rows of these layers, which another view points at."""
        pointed = frozenset(layers)
        if pointed != self._pointed:
            self._pointed = pointed
            self.viewport().update()

    def _name(self, row: int) -> str:
        return str(self._rows.headerData(row, Qt.Orientation.Vertical))

    def paintSection(self, painter: QPainter, rect: QRect, logicalIndex: int) -> None:
        palette = self._theme.palette
        layers = self._rows.layers(logicalIndex)
        chosen = any(self._selection.covers(layer) for layer in layers)
        pointed = not self._pointed.isdisjoint(layers)
        ground = palette.selection if chosen else palette.raised if pointed else palette.surface
        painter.fillRect(rect, QColor(ground))
        painter.setPen(QColor(palette.text))
        inner = rect.adjusted(_PAD, 0, -_PAD, 0)
        text = painter.fontMetrics().elidedText(
            self._name(logicalIndex), Qt.TextElideMode.ElideMiddle, inner.width()
        )
        painter.drawText(inner, Qt.AlignmentFlag.AlignVCenter, text)

    def sizeHint(self) -> QSize:
        return QSize(self._wide, super().sizeHint().height())
