"""A whole sensitivity map as a picture, however much of it the table has room for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from PySide6.QtCore import QPoint, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter

from gui.models.sensitivity_columns import group_words, runs
from gui.theme import Theme, tabular
from gui.views.sensitivity_cells import ROW_HEIGHT, CellPainter, MapLegend

if TYPE_CHECKING:
    from gui.models.sensitivity_model import SensitivityModel

_LEGEND: Final = 28
_HEAD: Final = 42
_COLUMN: Final = 64
_NAMES: Final = 280  # pixels, at most
_PAD: Final = 8
_SPARE: Final = 1.06  # letters are a little wider in a file than on the screen
_MOST_ROWS: Final = 500  # a picture of more is larger than viewers show


class MapPicture:
    """The rows as they are ordered; of very many the first ones, and how many more there are."""

    def __init__(self, model: SensitivityModel, legend: MapLegend, theme: Theme) -> None:
        self._model = model
        self._legend = legend
        self._theme = theme
        self._cells = CellPainter(theme)

    @property
    def _font(self) -> QFont:
        return tabular(QFont(self._legend.font()))

    @property
    def _rows(self) -> int:
        return min(_MOST_ROWS, self._model.rowCount())

    @property
    def _names(self) -> int:
        metrics = QFontMetrics(self._font)
        names = (metrics.horizontalAdvance(self._name(row)) for row in range(self._rows))
        return min(_NAMES, round(_SPARE * max(names, default=0)) + 2 * _PAD)

    def width(self) -> int:
        """Pixels at the screen's resolution."""
        wide = self._names + _COLUMN * self._model.columnCount() + _PAD
        return max(wide, self._legend.sizeHint().width() + 2 * _PAD, 480)

    def height(self) -> int:
        """Pixels at the screen's resolution."""
        more = self._model.rowCount() > self._rows
        return _LEGEND + _HEAD + ROW_HEIGHT * (self._rows + more) + _PAD

    def draw(self, painter: QPainter, target: QRectF) -> None:
        """Draw legend, headings and cells into that place."""
        painter.save()
        painter.translate(target.topLeft())
        painter.setFont(self._legend.font())
        self._legend.paint(painter, QPoint(_PAD, _LEGEND // 2))
        painter.setFont(self._font)
        left = self._names
        self._draw_heads(painter, left)
        for row in range(self._rows):
            self._draw_row(painter, row, left, _LEGEND + _HEAD + row * ROW_HEIGHT)
        if self._model.rowCount() > self._rows:
            self._draw_rest(painter)
        painter.restore()

    def _name(self, row: int) -> str:
        return str(self._model.headerData(row, Qt.Orientation.Vertical))

    def _draw_heads(self, painter: QPainter, left: int) -> None:
        words = group_words(self._model.tr)
        painter.setPen(QColor(self._theme.palette.text))
        for group, first, last in runs(self._model.headings):
            room = QRect(left + first * _COLUMN, _LEGEND, (last - first + 1) * _COLUMN, _HEAD // 2)
            painter.drawText(room, Qt.AlignmentFlag.AlignCenter, words[group][0])
            line = QRect(room.left() + 1, room.bottom(), room.width() - 2, 1)
            painter.fillRect(line, QColor(self._theme.palette.border))
        painter.setPen(QColor(self._theme.palette.muted))
        for place, heading in enumerate(self._model.headings):
            room = QRect(left + place * _COLUMN, _LEGEND + _HEAD // 2, _COLUMN, _HEAD // 2)
            painter.drawText(room, Qt.AlignmentFlag.AlignCenter, heading.title)

    def _draw_row(self, painter: QPainter, row: int, left: int, top: int) -> None:
        painter.setPen(QColor(self._theme.palette.text))
        room = QRect(_PAD, top, left - 2 * _PAD, ROW_HEIGHT)
        text = painter.fontMetrics().elidedText(
            self._name(row), Qt.TextElideMode.ElideMiddle, room.width()
        )
        painter.drawText(room, Qt.AlignmentFlag.AlignVCenter, text)
        for column in range(self._model.columnCount()):
            one = self._model.shown(row, column)
            box = QRect(left + column * _COLUMN, top, _COLUMN, ROW_HEIGHT)
            self._cells.draw(painter, box, one, self._model.heat(one))

    def _draw_rest(self, painter: QPainter) -> None:
        rest = self._model.rowCount() - self._rows
        painter.setPen(QColor(self._theme.palette.muted))
        top = _LEGEND + _HEAD + self._rows * ROW_HEIGHT
        text = self._model.tr("and %s more rows") % rest
        painter.drawText(
            QRect(_PAD, top, self.width(), ROW_HEIGHT), Qt.AlignmentFlag.AlignVCenter, text
        )
