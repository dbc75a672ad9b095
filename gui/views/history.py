"""The history: every state of the model, one click away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt, Slot
from PySide6.QtGui import QColor, QKeyEvent, QPainter, QPen, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QListView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from engine import Change, Part
from gui import operations
from gui.models.history_model import HistoryModel, HistoryRole
from gui.theme import Theme, scaled
from gui.widgets import draw_empty_cell

if TYPE_CHECKING:
    from gui.document import Document

_HEIGHT = 40
_DOT = 8
_MARK = 16
_SHOWN_PARTS = Part.MODEL | Part.HISTORY | Part.METRICS


class HistoryView(QListView):
    """Base and edits in order; a click goes to the state behind the entry."""

    def __init__(self, document: Document, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("historyView")
        self.setAccessibleName(self.tr("History"))
        self._document = document
        self._model = HistoryModel(self)
        self.setModel(self._model)
        self.setItemDelegate(_EntryDelegate(theme, self))
        self.setUniformItemSizes(True)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.clicked.connect(self._go_to)
        document.changed.connect(self._on_changed)
        theme.changed.connect(self.viewport().update)
        self._show_history()

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        if change.parts & _SHOWN_PARTS:
            self._show_history()

    def _show_history(self) -> None:
        self._model.set_snapshot(self._document.snapshot)
        index = self._model.index(self._model.current())
        self.setCurrentIndex(index)
        self.scrollTo(index)

    @Slot(QModelIndex)
    def _go_to(self, index: QModelIndex) -> None:
        snapshot = self._document.snapshot
        if snapshot is not None and index.isValid() and index.row() != snapshot.cursor:
            operations.go_to(self._document, index.row())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.scrollTo(self.currentIndex())  # jobs below may have taken its place

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._go_to(self.currentIndex())
        else:
            super().keyPressEvent(event)


class _EntryDelegate(QStyledItemDelegate):
    """Draws an entry on a line of time: filled dots are applied, hollow ones undone."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme

    def _draw_line(self, painter: QPainter, rect: QRect, index: Any) -> None:
        palette = self._theme.palette
        current = index.data(HistoryRole.CURRENT)
        middle, line = rect.top() + 13, rect.left() + 16
        painter.setPen(QPen(QColor(palette.border), 2))
        top = middle if index.row() == 0 else rect.top()
        last = index.row() == index.model().rowCount() - 1
        painter.drawLine(line, top, line, middle if last else rect.bottom() + 1)
        applied = index.data(HistoryRole.APPLIED)
        color = QColor(palette.accent if current else palette.muted)
        painter.setPen(QPen(color, 1.5))
        painter.setBrush(color if applied else QColor(palette.surface))
        painter.drawEllipse(line - _DOT // 2, middle - _DOT // 2, _DOT, _DOT)

    def _draw_texts(self, painter: QPainter, rect: QRect, index: Any, option: Any) -> None:
        palette = self._theme.palette
        current, applied = index.data(HistoryRole.CURRENT), index.data(HistoryRole.APPLIED)
        painter.setFont(scaled(option.font, 1.0, bold=current))
        painter.setPen(QColor(palette.text if applied else palette.muted))
        upper = QRect(rect.left() + 32, rect.top() + 3, rect.width() - 40, 20)
        if index.data(HistoryRole.WARNINGS):
            mark = QRect(upper.right() - _MARK, upper.center().y() - _MARK // 2, _MARK, _MARK)
            self._theme.warning_icon().paint(painter, mark)
            upper.setRight(mark.left() - 4)
        text = painter.fontMetrics().elidedText(
            index.data(), Qt.TextElideMode.ElideMiddle, upper.width()
        )
        painter.drawText(upper, Qt.AlignmentFlag.AlignVCenter, text)
        painter.setFont(scaled(option.font, 0.85))
        painter.setPen(QColor(palette.muted))
        lower = upper.translated(0, 17)
        figures = index.data(HistoryRole.FIGURES)
        if not applied:
            figures = f"{figures} · {self.tr('undone')}" if figures else self.tr("undone")
        painter.drawText(lower, Qt.AlignmentFlag.AlignVCenter, figures)

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        place = draw_empty_cell(self, painter, option, index)
        rect = QRect(place.rect)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._draw_line(painter, rect, index)
        self._draw_texts(painter, rect, index, place)
        painter.restore()

    def sizeHint(
        self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> QSize:
        return QSize(120, _HEIGHT)
