"""Draws the cells of the layer table: numbers over their heat, names with what edits did."""

from collections.abc import Iterable

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import (
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from engine import LayerId
from gui.models.layer_model import Role, alignment
from gui.models.layer_rows import NUMBERS, Column, Row
from gui.theme import Theme, tabular
from gui.views.cell_delegate import PADDING, RIGHT, ROW_HEIGHT, draw_heat
from gui.widgets import draw_empty_cell

_BADGE_GAP = 6
_DOT = 6
_POINTED = 0.22  # opacity


class LayerDelegate(QStyledItemDelegate):
    """Draws one cell; the text is the model's, the colours the theme's."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self._pointed: frozenset[LayerId] = frozenset()

    def point_at(self, layers: Iterable[LayerId]) -> None:
        """Mark the rows of these layers when they are drawn next."""
        self._pointed = frozenset(layers)

    def _draw_pointer(self, painter: QPainter, rect: QRect) -> None:
        """A tint over the row that another view points at."""
        tint = QColor(self._theme.palette.accent)
        tint.setAlphaF(_POINTED)
        painter.fillRect(rect, tint)

    def _draw_name(self, painter: QPainter, rect: QRect, text: str, row: Row) -> None:
        """The name, and behind it badges or the note, which give way first."""
        metrics = painter.fontMetrics()
        if row.chosen and row.leaf:
            self._draw_dot(painter, rect)
        muted = QColor(self._theme.palette.muted)
        badges = [row.layer.note] if row.layer.note else list(row.badges)
        needed = sum(metrics.horizontalAdvance(badge) + 2 * _BADGE_GAP for badge in badges)
        room = max(rect.width() - needed, min(rect.width(), rect.width() // 2))
        name = metrics.elidedText(text, Qt.TextElideMode.ElideMiddle, room)
        painter.setPen(muted if row.layer.note else QColor(self._theme.palette.text))
        painter.drawText(rect, alignment(Column.LAYER), name)
        rest = rect.adjusted(metrics.horizontalAdvance(name) + _BADGE_GAP, 0, 0, 0)
        for badge in badges:
            if row.layer.note:
                painter.setPen(muted)
                shown = metrics.elidedText(badge, Qt.TextElideMode.ElideRight, rest.width())
                painter.drawText(rest, alignment(Column.LAYER), shown)
            else:
                rest = self._draw_badge(painter, rest, badge)

    def _draw_dot(self, painter: QPainter, rect: QRect) -> None:
        """A dot where a container has its arrow: an edit names this layer."""
        painter.setBrush(QColor(self._theme.palette.accent))
        painter.setPen(Qt.PenStyle.NoPen)
        left, top = rect.left() - PADDING - _DOT, rect.center().y() - _DOT // 2 + 1
        painter.drawEllipse(left, top, _DOT, _DOT)

    def _draw_badge(self, painter: QPainter, room: QRect, text: str) -> QRect:
        """One badge at the left of the room; answers with what is left of it."""
        palette = self._theme.palette
        width = painter.fontMetrics().horizontalAdvance(text) + _BADGE_GAP
        if width > room.width():
            return room
        box = QRect(room.left(), room.top() + 4, width, room.height() - 8)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(palette.raised))
        painter.drawRoundedRect(box, 4, 4)
        painter.setPen(QColor(palette.text))
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)
        return room.adjusted(width + 4, 0, 0, 0)

    def _draw_value(
        self, painter: QPainter, rect: QRect, text: str, column: Column, row: Row
    ) -> None:
        palette = self._theme.palette
        # Sums and words step back behind the layers' own numbers.
        quiet = column not in row.values or row.layer.note or not row.leaf or column not in NUMBERS
        painter.setPen(QColor(palette.muted if quiet else palette.text))
        shown = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideMiddle, rect.width())
        painter.drawText(rect, alignment(column), shown)

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        place = draw_empty_cell(self, painter, option, index)
        text, rect = str(index.data()), QRect(place.rect)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(tabular(place.font))
        heat = index.data(Role.HEAT)
        column, row = Column(index.column()), index.data(Role.ROW)
        if row.layer.id in self._pointed:
            self._draw_pointer(painter, rect)
        if heat is not None:
            draw_heat(painter, self._theme, rect, heat)
        if column == Column.LAYER:
            self._draw_name(painter, rect.adjusted(4, 0, -4, 0), text, row)
        else:
            inner = rect.adjusted(PADDING, 0, -RIGHT, 0)
            self._draw_value(painter, inner, text, column, row)
        painter.restore()

    def sizeHint(
        self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> QSize:
        size = super().sizeHint(option, index)
        return QSize(size.width() + RIGHT, ROW_HEIGHT)
