"""An interval on a scale, with a mark for what it is compared with."""

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from engine import Quantity
from gui import format as fmt
from gui.theme import Theme

_HEIGHT = 14
_THICK = 6
_FLOORS = (0.9, 0.8, 0.5, 0.0)  # where the scale may begin; it ends at 1


class IntervalBar(QWidget):
    """The scale stays while values come closer, so that the eye can follow; it only widens."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("intervalBar")
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._theme = theme
        self._value: Quantity | None = None
        self._base: Quantity | None = None
        self._verdict = ""
        self._floor = _FLOORS[0]
        theme.changed.connect(self.update)

    @property
    def floor(self) -> float:
        """Where the scale begins."""
        return self._floor

    def clear(self) -> None:
        """Show nothing, and forget the scale."""
        self._value, self._floor = None, _FLOORS[0]
        self.update()

    def show_values(self, value: Quantity, base: Quantity, verdict: str) -> None:
        """Show the interval of ``value``, and where ``base`` lies."""
        self._value, self._base, self._verdict = value, base, verdict
        least = min(low if low is not None else one.value for one in (value, base)
                    for low in (one.low,))  # fmt: skip
        self._floor = min(self._floor, next(floor for floor in _FLOORS if floor <= max(0.0, least)))
        self.update()

    def _x(self, share: float) -> float:
        share = min(max(share, self._floor), 1.0)
        return 1 + (share - self._floor) / (1 - self._floor) * (self.width() - 2)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette, middle = self._theme.palette, _HEIGHT / 2
        track = QRectF(0, middle - _THICK / 2, self.width(), _THICK)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(palette.raised))
        painter.drawRoundedRect(track, 3, 3)
        if self._value is not None and self._base is not None:
            colors = {fmt.BETTER: palette.better, fmt.WORSE: palette.worse}
            color = QColor(colors.get(self._verdict, palette.accent))
            self._draw_interval(painter, self._value, color, middle)
            painter.setPen(QPen(QColor(palette.text), 1.5))
            base = self._x(self._base.value)
            painter.drawLine(QPointF(base, 0), QPointF(base, _HEIGHT))
        painter.end()

    def _draw_interval(
        self, painter: QPainter, value: Quantity, color: QColor, middle: float
    ) -> None:
        low = value.low if value.low is not None else value.value
        high = value.high if value.high is not None else value.value
        faint = QColor(color)
        faint.setAlphaF(0.45)
        painter.setBrush(faint)
        width = max(2.0, self._x(high) - self._x(low))
        painter.drawRoundedRect(QRectF(self._x(low), middle - _THICK / 2, width, _THICK), 3, 3)
        painter.setBrush(color)
        painter.drawEllipse(QPointF(self._x(value.value), middle), 4, 4)

    def sizeHint(self) -> QSize:
        return QSize(120, _HEIGHT)

    def minimumSizeHint(self) -> QSize:
        return QSize(40, _HEIGHT)
