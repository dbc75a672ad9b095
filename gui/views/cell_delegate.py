"""Draws the cells of the tables of profiles: text over its heat, elided in the middle."""

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QColor, QFontDatabase, QPainter
from PySide6.QtWidgets import QStyledItemDelegate, QStyleOptionViewItem, QWidget

from gui.models.cells import CellRole
from gui.theme import Theme, tabular
from gui.widgets import draw_empty_cell

ROW_HEIGHT = 24
PADDING = 8
RIGHT = 14  # the header's arrow stands there


class CellDelegate(QStyledItemDelegate):
    """Draws one cell by its :class:`gui.models.cells.CellRole`; the colours are the theme's."""

    def __init__(self, theme: Theme, parent: QWidget, row_height: int = ROW_HEIGHT) -> None:
        super().__init__(parent)
        self._theme = theme
        self._row_height = row_height
        self._code = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)

    def _draw_text(
        self, painter: QPainter, rect: QRect, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        palette = self._theme.palette
        painter.setPen(QColor(palette.muted if index.data(CellRole.QUIET) else palette.text))
        code = bool(index.data(CellRole.CODE))
        mode = Qt.TextElideMode.ElideRight if code else Qt.TextElideMode.ElideMiddle
        text = str(index.data() or "").expandtabs(4)
        alignment = Qt.AlignmentFlag(index.data(Qt.ItemDataRole.TextAlignmentRole))
        shown = painter.fontMetrics().elidedText(text, mode, rect.width())
        painter.drawText(rect, alignment, shown)

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        place = draw_empty_cell(self, painter, option, index)
        rect = QRect(place.rect)
        painter.save()
        painter.setFont(self._code if index.data(CellRole.CODE) else tabular(place.font))
        heat = index.data(CellRole.HEAT)
        if heat is not None:
            draw_heat(painter, self._theme, rect, heat)
        self._draw_text(painter, rect.adjusted(PADDING, 0, -RIGHT, 0), index)
        painter.restore()

    def sizeHint(
        self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> QSize:
        metrics = option.fontMetrics
        width = metrics.horizontalAdvance(str(index.data() or ""))
        return QSize(width + PADDING + RIGHT, self._row_height)


def draw_heat(painter: QPainter, theme: Theme, cell: QRect, fraction: float) -> None:
    """A bar from the cell's left edge, faint enough to read a number over it."""
    box = cell.adjusted(2, 3, -2, -3)
    box.setWidth(max(2, round(box.width() * fraction)))
    painter.fillRect(box, theme.heat_tint(fraction))
    painter.fillRect(box.adjusted(0, box.height() - 2, 0, 0), theme.heat_color(fraction))
