"""The legend of a chart: coloured squares with their names."""

from collections.abc import Sequence

from PySide6.QtCore import QPoint, QRect, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from gui.theme import Theme, scaled

_SQUARE = 10
_GAP = 12


class ChartLegend(QWidget):
    """Names the parts of the bars, and the outline of the base behind them."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("chartLegend")
        self.setFont(scaled(self.font(), 0.85))
        self._theme = theme
        self._parts: list[str] = []
        self._base = False
        self._marks: list[str] = []

    def show_parts(self, parts: Sequence[str], base: bool, marks: Sequence[str] = ()) -> None:
        """Explain these parts, the base if it is drawn, and the letters above bars."""
        self._parts = [part for part in parts if part]
        self._base = base
        self._marks = list(marks)
        names = [*self._parts, *([self.tr("base")] if base else []), *self._marks]
        self.setAccessibleName(", ".join(names))
        self.setVisible(bool(names))
        self.updateGeometry()
        self.update()

    def paint(self, painter: QPainter, place: QPoint, room: int | None = None) -> int:
        """Draw the legend from that point rightwards; answers with its width.

        Letters that would not fit into ``room`` pixels are left out.
        """
        metrics = QFontMetrics(painter.font())
        left = place.x()
        for name, color in self._entries():
            box = QRect(left, place.y() - _SQUARE // 2, _SQUARE, _SQUARE)
            if color is not None:
                painter.fillRect(box, color)
            else:
                painter.setPen(QColor(self._theme.palette.muted))
                painter.drawRect(box.adjusted(0, 0, -1, -1))
            painter.setPen(QColor(self._theme.palette.muted))
            width = metrics.horizontalAdvance(name)
            text = QRect(left + _SQUARE + 5, place.y() - 12, width + 2, 24)
            painter.drawText(text, Qt.AlignmentFlag.AlignVCenter, name)
            left = text.right() + _GAP
        for words in self._marks:
            width = metrics.horizontalAdvance(words)
            if room is not None and left + width > place.x() + room:
                break
            painter.drawText(
                QRect(left, place.y() - 12, width + 2, 24), Qt.AlignmentFlag.AlignVCenter, words
            )
            left += width + _GAP
        return left - place.x()

    def _entries(self) -> list[tuple[str, QColor | None]]:
        entries: list[tuple[str, QColor | None]] = [
            (part, self._theme.color(part)) for part in self._parts
        ]
        return [*entries, (self.tr("base"), None)] if self._base else entries

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        self.paint(painter, QPoint(0, self.height() // 2), self.width())
        painter.end()

    def sizeHint(self) -> QSize:
        metrics = self.fontMetrics()
        marks = sum(metrics.horizontalAdvance(one) + _GAP for one in self._marks)
        return self.minimumSizeHint() + QSize(marks, 0)

    def minimumSizeHint(self) -> QSize:
        metrics = self.fontMetrics()
        names = [name for name, _ in self._entries()]
        return QSize(sum(metrics.horizontalAdvance(one) + _SQUARE + 7 + _GAP for one in names), 24)
