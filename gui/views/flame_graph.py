"""Layers and operators over time: boxes below boxes, to be zoomed, panned and read."""

from __future__ import annotations

from math import floor, log10
from typing import Final

from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QWidget

from engine import LayerId
from gui import format as fmt
from gui.models.flame import LAYER, Box, Flame
from gui.selection import Selection
from gui.theme import Theme, blend, scaled
from gui.views.parts import draw_within, drawn

_ROW: Final = 20
_RULER: Final = 24
_LEAST_TEXT: Final = 28  # pixels of a box that is worth a name
_MOST_ZOOM: Final = 1e-9  # seconds across the view
_STEP: Final = 1.25
_PAN: Final = 0.15
_TICK_ROOM: Final = 90  # pixels


class FlameGraph(QAbstractScrollArea):
    """Draws a :class:`gui.models.flame.Flame`; only what can be seen is drawn.

    The wheel zooms, a drag pans, a double click zooms into a box, Home or Escape shows all. The
    arrows go from box to box, Enter zooms into one, the space bar selects its layer.

    Signals:
        pointed: the :class:`gui.models.flame.Box` below the mouse or at the cursor, or None.
        zoomed: whether less than the whole is in view.
    """

    pointed = Signal(object)
    zoomed = Signal(bool)

    def __init__(self, selection: Selection, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("flameGraph")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAccessibleName(self.tr("Flame graph"))
        self.viewport().setMouseTracking(True)
        self.setFont(scaled(self.font(), 0.85))
        self._selection = selection
        self._theme = theme
        self._flame = Flame(1.0, ())
        self._low, self._high = 0.0, 1.0
        self._hovered: Box | None = None
        self._cursor: Box | None = None
        self._pressed: QPointF | None = None
        self._panned = False
        self._picture: QPixmap | None = None
        selection.changed.connect(self._on_selection)
        theme.changed.connect(self._redraw)
        self.verticalScrollBar().valueChanged.connect(self._redraw)

    @property
    def flame(self) -> Flame:
        """What is drawn."""
        return self._flame

    @property
    def shown(self) -> tuple[float, float]:
        """The stretch of time in view, in seconds."""
        return self._low, self._high

    def show_flame(self, flame: Flame) -> None:
        """Show these boxes, all of them."""
        self._flame = flame
        self._hovered = self._cursor = None
        self._fit_rows()
        self.show_all()

    def show_all(self) -> None:
        """Undo zooming."""
        self._show(0.0, self._flame.seconds)

    def zoom_into(self, box: Box) -> None:
        """Let that box fill the width."""
        self._show(box.start, box.end)

    def zoom(self, factor: float, place: float = 0.5) -> None:
        """Show so many times less; what is at that share of the width stays where it is."""
        width = self._high - self._low
        anchor = self._low + width * place
        after = min(self._flame.seconds, max(_MOST_ZOOM, width / factor))
        self._show(anchor - after * place, anchor + after * (1 - place))

    def box_at(self, place: QPointF) -> Box | None:
        """The box at that point of the viewport."""
        if place.y() < _RULER:
            return None
        row = int((place.y() - _RULER + self.verticalScrollBar().value()) // _ROW)
        box = self._flame.at(self._time(place.x()), row)
        return box or self._thin(place.x(), row)

    def place_of(self, box: Box) -> QRectF:
        """Where that box is drawn in the viewport."""
        top = _RULER + box.row * _ROW - self.verticalScrollBar().value()
        left = self._x(box.start)
        width = max(1.0, self._x(box.end) - left)
        return QRectF(left, top, width, _ROW - 1)

    def draw(self, painter: QPainter, target: QRectF) -> None:
        """Draw what it shows into that place."""
        draw_within(self, painter, target, self._draw_all, self._draw_marks)

    def _thin(self, x: float, row: int) -> Box | None:
        """A box of that row so thin that the mouse is only beside it."""
        if not 0 <= row < len(self._flame.rows):
            return None
        low, high = self._time(x - 1), self._time(x + 1)
        near = self._flame.rows[row].visible(low, high, 0.0)
        return next((box for box in near if box.start <= high and box.end >= low), None)

    def _time(self, x: float) -> float:
        width = max(1, self.viewport().width())
        return self._low + (self._high - self._low) * x / width

    def _x(self, time: float) -> float:
        return (time - self._low) / (self._high - self._low) * self.viewport().width()

    def _show(self, low: float, high: float) -> None:
        whole = self._flame.seconds
        width = min(whole, max(high - low, _MOST_ZOOM))
        self._low = min(max(0.0, low), whole - width)
        self._high = self._low + width
        self.zoomed.emit(width < whole)
        self._redraw()

    def _redraw(self) -> None:
        self._picture = None
        self.viewport().update()

    def _fit_rows(self) -> None:
        height = len(self._flame.rows) * _ROW
        bar = self.verticalScrollBar()
        room = self.viewport().height() - _RULER
        bar.setRange(0, max(0, height - room))
        bar.setPageStep(max(1, room))
        bar.setSingleStep(_ROW)

    def _point_at(self, box: Box | None) -> None:
        if box is not self._hovered:
            self._hovered = box
            self.viewport().update()
            self.pointed.emit(box)

    def _go_to(self, box: Box | None) -> None:
        """Put the keyboard's cursor on that box and read it out."""
        if box is None:
            return
        self._hovered = None
        self._reveal(box)
        self.setAccessibleDescription(f"{box.name}, {fmt.quantity(box.seconds, 's')}")
        self.pointed.emit(box)

    def _reveal(self, box: Box | None) -> None:
        """Put the keyboard's cursor on that box and bring it into view."""
        if box is None:
            return
        self._cursor = box
        width = self._high - self._low
        if box.start > self._high or box.end < self._low:
            self._show(box.start - width / 4, box.start + 3 * width / 4)
        place = self.place_of(box)
        bar = self.verticalScrollBar()
        if place.top() < _RULER:
            bar.setValue(bar.value() - round(_RULER - place.top()))
        elif place.bottom() > self.viewport().height():
            bar.setValue(bar.value() + round(place.bottom() - self.viewport().height()) + 1)
        self.viewport().update()

    def _step(self, key: int) -> Box | None:
        """The box in that direction from the cursor."""
        box = self._cursor
        if box is None:
            return next((row.boxes[0] for row in self._flame.rows if row.boxes), None)
        match key:
            case Qt.Key.Key_Up:
                return self._flame.above(box)
            case Qt.Key.Key_Down:
                return self._flame.below(box)
        return self._flame.rows[box.row].near(box, -1 if key == Qt.Key.Key_Left else 1)

    def _on_selection(self, layers: tuple[LayerId, ...]) -> None:
        """Show the selected layer: whoever selected it wants to see it."""
        self._redraw()
        if self._selection.origin is self or len(layers) != 1:
            return
        self._reveal(self._flame.first(layers[0]))

    def _draw_all(self, painter: QPainter) -> None:
        palette = self._theme.palette
        size = self.viewport().size()
        painter.fillRect(0, 0, size.width(), size.height(), QColor(palette.surface))
        pixel = (self._high - self._low) / max(1, size.width())
        offset = self.verticalScrollBar().value()
        metrics = QFontMetricsF(painter.font())
        first = offset // _ROW
        last = (offset + size.height() - _RULER) // _ROW + 1
        for row in self._flame.rows[first:last]:
            for box in row.visible(self._low, self._high, pixel):
                self._draw_box(painter, metrics, box)
        self._draw_lanes(painter)
        self._draw_ruler(painter)

    def _draw_box(self, painter: QPainter, metrics: QFontMetricsF, box: Box) -> None:
        place, color = self.place_of(box), self._color(box)
        if place.width() <= 1:
            painter.fillRect(place, color)
            return
        place = place.intersected(QRectF(self.viewport().rect()))
        inner = place.adjusted(0, 0, -1 if place.width() > 3 else 0, 0)
        painter.fillRect(inner, color)
        if place.width() < _LEAST_TEXT:
            return
        painter.setPen(self._theme.text_on(color))
        room = inner.adjusted(4, 0, -4, 0)
        name = metrics.elidedText(box.label, Qt.TextElideMode.ElideMiddle, room.width())
        painter.drawText(room, Qt.AlignmentFlag.AlignVCenter, name)

    def _color(self, box: Box) -> QColor:
        palette = self._theme.palette
        if box.kind != LAYER:
            return self._theme.color(box.kind)
        if self._selection.covers(box.layer):
            return QColor(palette.selection)
        # Every other row a little stronger, so that layers in layers are told apart.
        strength = 0.35 if box.row % 2 else 0.15
        return blend(QColor(palette.raised), QColor(palette.border), strength)

    def _draw_lanes(self, painter: QPainter) -> None:
        """Name the devices where their boxes begin."""
        palette = self._theme.palette
        for row, device in self._flame.lanes[1:]:
            top = _RULER + row * _ROW - self.verticalScrollBar().value()
            painter.setPen(QPen(QColor(palette.muted), 1))
            painter.drawLine(QPointF(0, top - 1), QPointF(self.viewport().width(), top - 1))
            metrics = QFontMetricsF(painter.font())
            label = QRectF(0, top - _ROW + 2, metrics.horizontalAdvance(device) + 8, _ROW - 4)
            painter.fillRect(label, QColor(palette.window))
            painter.drawText(label, Qt.AlignmentFlag.AlignCenter, device)

    def _draw_ruler(self, painter: QPainter) -> None:
        palette = self._theme.palette
        width = self.viewport().width()
        painter.fillRect(QRectF(0, 0, width, _RULER), QColor(palette.surface))
        painter.setPen(QColor(palette.border))
        painter.drawLine(0, _RULER - 1, width, _RULER - 1)
        step = _round_step((self._high - self._low) / max(1.0, width / _TICK_ROOM))
        tick = floor(self._low / step) * step
        while tick <= self._high:
            x = self._x(tick)
            painter.setPen(QColor(palette.border))
            painter.drawLine(QPointF(x, _RULER - 5), QPointF(x, _RULER - 1))
            painter.setPen(QColor(palette.muted))
            text = fmt.tick(tick, "s") if tick else "0 s"
            painter.drawText(QRectF(x + 3, 0, _TICK_ROOM, _RULER - 4), 0x0080, text)
            tick += step

    def _draw_marks(self, painter: QPainter) -> None:
        """Outline selected layers, the box below the mouse and that at the cursor."""
        palette = self._theme.palette
        painter.setClipRect(QRectF(0, _RULER, self.viewport().width(), self.viewport().height()))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for box, color in ((self._cursor, palette.accent), (self._hovered, palette.text)):
            if box is None or (box is self._cursor and not self.hasFocus()):
                continue
            painter.setPen(QPen(QColor(color), 2))
            painter.drawRect(self.place_of(box).adjusted(0, 0, -1, -1))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self.viewport())
        if self._picture is None:
            self._picture = drawn(self.viewport(), self._draw_all)
        painter.drawPixmap(0, 0, self._picture)
        self._draw_marks(painter)
        painter.end()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_rows()
        self._redraw()

    def wheelEvent(self, event: QWheelEvent) -> None:
        delta = event.angleDelta()
        if event.modifiers() & Qt.KeyboardModifier.ShiftModifier or not delta.y():
            turned = delta.y() or -delta.x()
            bar = self.verticalScrollBar()
            bar.setValue(bar.value() - turned // 4)
        else:
            place = event.position().x() / max(1, self.viewport().width())
            self.zoom(_STEP ** (delta.y() / 120), place)
        event.accept()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._pressed, self._panned = event.position(), False

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        place = event.position()
        if self._pressed is None:
            self._point_at(self.box_at(place))
            return
        moved = place - self._pressed
        if not self._panned and moved.manhattanLength() < 4:
            return
        self._panned, self._pressed = True, place
        shift = moved.x() / max(1, self.viewport().width()) * (self._high - self._low)
        self._show(self._low - shift, self._high - shift)
        self.verticalScrollBar().setValue(self.verticalScrollBar().value() - round(moved.y()))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        pressed, self._pressed = self._pressed, None
        box = self.box_at(event.position())
        if pressed is None or self._panned or box is None:
            return
        self._cursor = box
        adds = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        self._selection.pick(box.layer, adds, self)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        box = self.box_at(event.position())
        self.zoom_into(box) if box is not None else self.show_all()

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._point_at(None)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key = event.key()
        if key in (Qt.Key.Key_Home, Qt.Key.Key_Escape):
            self.show_all()
        elif key in (Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Up, Qt.Key.Key_Down):
            self._go_to(self._step(key))
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal):
            self.zoom(_STEP**2)
        elif key == Qt.Key.Key_Minus:
            self.zoom(_STEP**-2)
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self._cursor is not None:
            self.zoom_into(self._cursor)
        elif key == Qt.Key.Key_Space and self._cursor is not None:
            adds = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
            self._selection.pick(self._cursor.layer, adds, self)
        else:
            super().keyPressEvent(event)


def _round_step(least: float) -> float:
    """The next of 1, 2, 5, 10… times a power of ten."""
    power = 10.0 ** floor(log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)
