"""Named points over two axes, each linear or logarithmic; lines through them; names that fit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import QWidget

from gui import format as fmt
from gui.theme import Theme, scaled

_REACH = 14.0  # pixels from a point that still are at it
_SIZE, _MARK = 7, 13
_LEFT, _RIGHT, _BOTTOM, _TOP = 0.05, 0.04, 0.06, 0.16  # shares of the span, for names
_STEPS = (
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    tuple(one / 2 for one in range(2, 20)),
    tuple(one / 20 for one in range(20, 200)),
)
_FEWEST = 3  # ticks of an axis
_NAME_LEFT, _NAME_UP = 0.8, 1.2  # of a name's width and height, from its point


@dataclass(frozen=True)
class Axis:
    """What one axis shows."""

    title: str
    unit: str
    logarithmic: bool


class ScatterPlot(pg.PlotWidget):  # type: ignore[misc]
    """Points by number; it knows places and names, not models.

    Signals:
        hovered: the point under the mouse, -1 for none.
        clicked: the point that was clicked.
        opened: the point that was clicked twice.
    """

    hovered = Signal(int)
    clicked = Signal(int)
    opened = Signal(int)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        self._axes = (_ValueAxis("bottom"), _ValueAxis("left"))
        items = {"bottom": self._axes[0], "left": self._axes[1]}
        super().__init__(parent, axisItems=items, enableMenu=False)
        self.setObjectName("scatterPlot")
        self.setAccessibleName(self.tr("Scatter"))
        self._theme = theme
        self._places = np.empty((0, 2))
        self._names: list[tuple[int, pg.TextItem]] = []
        self._hovered = -1
        self._lines = _curve(-10)
        self._front = _curve(-9)
        self._strong = _curve(-8)
        self._points = pg.ScatterPlotItem(size=_SIZE, pen=None)
        self._marks = pg.ScatterPlotItem(size=_MARK, brush=None)
        self._marks.setZValue(5)
        for item in (self._lines, self._strong, self._front, self._points, self._marks):
            self.addItem(item)
        self.hideButtons()
        self.getPlotItem().layout.setContentsMargins(4, 8, 16, 4)
        self.scene().sigMouseMoved.connect(self._on_moved)
        self.scene().sigMouseClicked.connect(self._on_clicked)
        self.getViewBox().sigRangeChanged.connect(self._place_names)
        self.getViewBox().sigResized.connect(self._place_names)
        self.apply_theme()

    def show_points(self, places: Sequence[tuple[float, float]], axes: tuple[Axis, Axis]) -> None:
        """Draw these points alone, in the axes' own units, and show all of them."""
        self.draw_front((), ())
        for curve in (self._lines, self._strong):
            self._draw(curve, ())
        logs = [axis.logarithmic for axis in axes]
        scaled_places = [
            tuple(math.log10(one) if log else one for one, log in zip(place, logs, strict=True))
            for place in places
        ]
        self._places = np.array(scaled_places, dtype=float).reshape(-1, 2)
        for item, axis in zip(self._axes, axes, strict=True):
            item.describe(axis)
        self._points.setData(pos=self._places)
        self._hovered = -1
        self.show_all()

    def draw_lines(self, lines: Sequence[Sequence[int]]) -> None:
        """Join these points, faintly."""
        self._draw(self._lines, lines)

    def stress(self, line: Sequence[int]) -> None:
        """Join these points so that they stand out."""
        self._draw(self._strong, [line])

    def draw_front(self, line: Sequence[int], names: Sequence[str]) -> None:
        """Join these points as the best ones, and name them as far as the names have room."""
        self._draw(self._front, [line])
        for _, item in self._names:
            self.removeItem(item)
        self._names = []
        for number, name in zip(line, names, strict=True):
            item = pg.TextItem(name, anchor=(_NAME_LEFT, _NAME_UP))
            item.setFont(scaled(self.font(), 0.85))
            item.setPos(*self._places[number])
            self.addItem(item, ignoreBounds=True)
            self._names.append((number, item))
        self._colour_names()
        self._place_names()

    def mark(self, numbers: Sequence[int]) -> None:
        """Show these points as selected."""
        self._marks.setData(pos=self._places[list(numbers)])

    def show_all(self) -> None:
        """Undo zooming."""
        if not len(self._places):
            return
        low, high = self._places.min(axis=0), self._places.max(axis=0)
        span = np.maximum(high - low, np.maximum(np.abs(high), 1e-12) * 1e-2)
        left, bottom = low - span * (_LEFT, _BOTTOM)
        right, top = high + span * (_RIGHT, _TOP)
        self.getViewBox().setRange(xRange=(left, right), yRange=(bottom, top), padding=0)

    def point_at(self, place: QPointF) -> int:
        """Number of the nearest point within reach of that place in the scene, -1 for none."""
        box = self.getViewBox()
        if not len(self._places) or not box.sceneBoundingRect().contains(place):
            return -1
        distances = np.hypot(*(self._pixels() - (place.x(), place.y())).T)
        nearest = int(distances.argmin())
        return nearest if distances[nearest] <= _REACH else -1

    def scene_place(self, number: int) -> QPointF:
        """Where that point stands in the scene."""
        return QPointF(self.getViewBox().mapViewToScene(QPointF(*self._places[number])))

    def apply_theme(self) -> None:
        """Take the colours of the palette."""
        palette = self._theme.palette
        self.setBackground(palette.surface)
        small = scaled(self.font(), 0.85)
        for axis in self._axes:
            axis.setPen(palette.border)
            axis.setTextPen(palette.muted)
            axis.setTickFont(small)
            axis.label.setFont(small)
        self.getPlotItem().showGrid(x=True, y=True, alpha=0.12)
        point = QColor(palette.muted)
        point.setAlphaF(0.75)
        self._points.setBrush(point)
        self._marks.setPen(pg.mkPen(palette.accent, width=2))
        line = QColor(palette.muted)
        line.setAlphaF(0.4)
        self._lines.setPen(pg.mkPen(line, width=1))
        self._strong.setPen(pg.mkPen(self._theme.color("output"), width=2))
        self._front.setPen(pg.mkPen(palette.accent, width=2))
        self._colour_names()

    def draw(self, painter: QPainter, target: QRectF) -> None:
        """Draw what it shows into that place."""
        self.scene().render(painter, target, QRectF(self.viewport().rect()))

    def _draw(self, curve: pg.PlotCurveItem, lines: Sequence[Sequence[int]]) -> None:
        gap = np.full((1, 2), np.nan)
        parts = [part for line in lines if line for part in (self._places[list(line)], gap)]
        joined = np.concatenate(parts) if parts else np.empty((0, 2))
        curve.setData(joined[:, 0], joined[:, 1], connect="finite")

    def _pixels(self) -> Any:
        box = self.getViewBox()
        corner, step = box.mapViewToScene(QPointF(0, 0)), box.mapViewToScene(QPointF(1, 1))
        scale = (step.x() - corner.x(), step.y() - corner.y())
        return self._places * scale + (corner.x(), corner.y())

    def _colour_names(self) -> None:
        for _, item in self._names:
            item.setColor(self._theme.palette.text)

    def _place_names(self, *_: object) -> None:
        """Hide every name that would lie over one already shown or leave the plot."""
        if not self._names:
            return
        pixels = self._pixels()
        taken: list[QRectF] = []
        room = self.getViewBox().sceneBoundingRect()
        for number, item in self._names:
            size = item.boundingRect().size()
            x, y = pixels[number]
            # To the left of its point, off rising lines, unless that is beyond the edge.
            share = _NAME_LEFT if x - size.width() * _NAME_LEFT >= room.left() else 0.0
            item.setAnchor((share, _NAME_UP))
            corner = QPointF(x - size.width() * share, y - size.height() * _NAME_UP)
            box = QRectF(corner, size)
            fits = room.contains(box) and not any(box.intersects(one) for one in taken)
            item.setVisible(fits)
            if fits:
                taken.append(box)

    def _point_at(self, number: int) -> None:
        if number != self._hovered:
            self._hovered = number
            self.hovered.emit(number)

    def _on_moved(self, place: QPointF) -> None:
        self._point_at(self.point_at(place))

    def _on_clicked(self, event: Any) -> None:
        if event.button() != Qt.MouseButton.LeftButton:
            return
        number = self.point_at(event.scenePos())
        if event.double():
            self.opened.emit(number) if number >= 0 else self.show_all()
        elif number >= 0:
            self.clicked.emit(number)

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._point_at(-1)


class _ValueAxis(pg.AxisItem):  # type: ignore[misc]
    """Round values with their unit at each tick; a logarithmic axis holds powers of ten."""

    def __init__(self, side: str) -> None:
        super().__init__(side)
        self._axis = Axis("", "1", False)
        self.enableAutoSIPrefix(False)

    def describe(self, axis: Axis) -> None:
        """Show this from now on."""
        self._axis = axis
        self.setLabel(axis.title)
        self.picture = None
        self.update()

    def tickValues(self, minVal: float, maxVal: float, size: float) -> Any:
        if not self._axis.logarithmic:
            return super().tickValues(minVal, maxVal, size)[:1]
        values = round_values(minVal, maxVal)
        return [(1.0, [math.log10(value) for value in values])]

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        log = self._axis.logarithmic
        return [fmt.tick(10**one if log else one, self._axis.unit) for one in values]


def round_values(low: float, high: float) -> list[float]:
    """Round values between two powers of ten: 1, 2, 5 of each decade, or as fine as needed."""
    first, last = math.floor(low), math.ceil(high)
    ladder = _STEPS if high - low < 4 else ((1.0,), *_STEPS)
    found = (_within(low, high, first, last, steps) for steps in ladder)
    return next((values for values in found if len(values) >= _FEWEST), [])


def _within(low: float, high: float, first: int, last: int, steps: Sequence[float]) -> list[float]:
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [value for value in values if low <= math.log10(value) <= high]


def _curve(layer: int) -> pg.PlotCurveItem:
    curve = pg.PlotCurveItem(antialias=True)
    curve.setZValue(layer)
    return curve
