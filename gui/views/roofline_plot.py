"""The roofline itself: two roofs, their ridge, and a mark for each layer, both axes by powers."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import Any, Final

import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter
from PySide6.QtWidgets import QGraphicsObject, QStyleOptionGraphicsItem, QWidget

from engine import LayerId, Roofline, RooflinePoint
from gui import format as fmt
from gui.models.roofline_points import by_time, extent, sizes
from gui.theme import Theme, scaled

_SYMBOLS: Final = {"memory": "o", "compute": "t1"}
_LEAST_SIZE: Final = 7.0
_MOST_SIZE: Final = 22.0
_LABELLED: Final = 8
_REACH: Final = 12.0  # pixels within which the mouse points at a mark
_FAR: Final = 12.0  # powers of ten that a roof reaches beyond everything


class RooflinePlot(pg.PlotWidget):  # type: ignore[misc]
    """Layers under the roof; it knows the points by their place in the roofline.

    Attributes:
        places: of the marks, in powers of ten.

    Signals:
        hovered: the point under the mouse, -1 for none.
        clicked: the point that was clicked, and whether it adds to the selection.
    """

    hovered = Signal(int)
    clicked = Signal(int, bool)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        axes = {side: _PowerAxis(side) for side in ("bottom", "left")}
        super().__init__(parent, axisItems=axes, enableMenu=False)
        self.setObjectName("rooflinePlot")
        self.setAccessibleName(self.tr("Roofline"))
        self._theme = theme
        self._roofline: Roofline | None = None
        self.places: tuple[QPointF, ...] = ()
        self._hovered = -1
        self._marked: frozenset[LayerId] = frozenset()
        self._roof = pg.PlotCurveItem(antialias=True)
        self._ridge = pg.PlotCurveItem()
        self._points = pg.ScatterPlotItem(pxMode=True, antialias=True)
        self._labels = _Labels(self)
        for item in (self._roof, self._ridge, self._points):
            self.addItem(item, ignoreBounds=True)
        self.setLabel("bottom", self.tr("Arithmetic intensity (FLOP/byte)"))
        self.setLabel("left", self.tr("Performance (FLOP/s)"))
        self.hideButtons()
        self.scene().sigMouseMoved.connect(self._on_moved)
        self.scene().sigMouseClicked.connect(self._on_clicked)
        self.apply_theme()

    def show_roofline(self, roofline: Roofline) -> None:
        """Draw this roofline, all of it."""
        self._roofline = roofline
        self.places = tuple(
            QPointF(log10(point.intensity), log10(point.rate)) for point in roofline.points
        )
        self._hovered = -1
        self._draw_roof(roofline)
        self._draw_points()
        self.show_all()

    def mark(self, layers: frozenset[LayerId]) -> None:
        """Show these layers as selected."""
        self._marked = layers
        self._draw_points()

    def show_all(self) -> None:
        """Undo zooming."""
        if self._roofline is not None:
            seen = extent(self._roofline)
            self.setRange(xRange=(seen.left, seen.right), yRange=(seen.bottom, seen.top), padding=0)

    def point_at(self, place: QPointF) -> int:
        """Index of the mark near that point of the scene, -1 for none."""
        box = self.getViewBox()
        distances = [(box.mapViewToScene(point) - place).manhattanLength() for point in self.places]
        nearest = min(range(len(distances)), key=distances.__getitem__, default=-1)
        return nearest if nearest >= 0 and distances[nearest] <= _REACH else -1

    def draw(self, painter: QPainter, target: QRectF) -> None:
        """Draw what it shows into that place."""
        self.scene().render(painter, target, QRectF(self.viewport().rect()))

    def apply_theme(self) -> None:
        """Take the colours of the palette."""
        palette = self._theme.palette
        self.setBackground(palette.surface)
        small = scaled(self.font(), 0.85)
        for name in ("left", "bottom"):
            axis = self.getAxis(name)
            axis.setPen(palette.border)
            axis.setTextPen(palette.muted)
            axis.setTickFont(small)
            axis.label.setFont(small)
        self.getPlotItem().showGrid(x=True, y=True, alpha=0.12)
        self._roof.setPen(pg.mkPen(palette.text, width=2))
        self._ridge.setPen(pg.mkPen(palette.muted, width=1, style=Qt.PenStyle.DashLine))
        self._labels.set_look(small, QColor(palette.text), QColor(palette.surface))
        self._draw_points()

    def _draw_roof(self, roofline: Roofline) -> None:
        machine = roofline.machine
        ridge, top = log10(machine.ridge), log10(machine.arithmetic)
        self._roof.setData([ridge - _FAR, ridge, ridge + _FAR], [top - _FAR, top, top])
        self._ridge.setData([ridge, ridge], [top - _FAR, top])

    def _draw_points(self) -> None:
        if self._roofline is None:
            return
        palette, machine = self._theme.palette, self._roofline.machine
        points = self._roofline.points
        diameters = sizes(points, _LEAST_SIZE, _MOST_SIZE)
        spots = []
        for at, (point, place) in enumerate(zip(points, self.places, strict=True)):
            bound = point.bound(machine)
            fill = self._theme.color(f"{bound}-bound")
            fill.setAlphaF(0.75)
            outlined = point.layer in self._marked or at == self._hovered
            pen = pg.mkPen(
                palette.text if outlined else palette.surface, width=2 if outlined else 1
            )
            spots.append(
                {
                    "pos": (place.x(), place.y()), "size": diameters[at], "brush": fill,
                    "symbol": _SYMBOLS[bound], "pen": pen,
                }
            )  # fmt: skip
        self._points.setData(spots)
        self._labels.show_texts(self._texts(points, diameters))

    def _texts(
        self, points: Sequence[RooflinePoint], diameters: Sequence[float]
    ) -> list[tuple[QPointF, float, str]]:
        """What to write beside which mark: the selected, then those that take longest."""
        longest = by_time(points)
        chosen = [point for point in longest if point.layer in self._marked]
        named = dict.fromkeys([*chosen, *longest[:_LABELLED]])
        where = {point: at for at, point in enumerate(points)}
        return [
            (self.places[where[one]], diameters[where[one]] / 2, fmt.layer_name(one.layer))
            for one in list(named)[: _LABELLED + 2]
        ]

    def roof_texts(self) -> tuple[str, str, str]:
        """What stands at the sloping roof, the level one and the ridge."""
        if self._roofline is None:
            return "", "", ""
        machine = self._roofline.machine
        return (
            self.tr("memory {rate}").format(rate=fmt.quantity(machine.bandwidth, "B/s")),
            self.tr("arithmetic {rate}").format(rate=fmt.quantity(machine.arithmetic, "FLOP/s")),
            self.tr("ridge {value}").format(value=fmt.intensity(machine.ridge)),
        )

    @property
    def ridge(self) -> QPointF | None:
        """Where the roofs meet, in powers of ten."""
        if self._roofline is None:
            return None
        machine = self._roofline.machine
        return QPointF(log10(machine.ridge), log10(machine.arithmetic))

    def _point_at(self, index: int) -> None:
        if index != self._hovered:
            self._hovered = index
            self._draw_points()
            self.hovered.emit(index)

    def _on_moved(self, place: QPointF) -> None:
        self._point_at(self.point_at(place))

    def _on_clicked(self, event: Any) -> None:
        if event.button() != Qt.MouseButton.LeftButton:
            return
        if event.double():
            self.show_all()
            return
        index = self.point_at(event.scenePos())
        if index >= 0:
            adds = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
            self.clicked.emit(index, adds)

    def leaveEvent(self, event: Any) -> None:
        super().leaveEvent(event)
        self._point_at(-1)


class _PowerAxis(pg.AxisItem):  # type: ignore[misc]
    """Powers of ten with SI prefixes; where few fit, 2 and 5 of each as well."""

    def __init__(self, side: str) -> None:
        super().__init__(side)
        self.enableAutoSIPrefix(False)

    def tickValues(self, minVal: float, maxVal: float, size: float) -> list[Any]:
        low, high = sorted((minVal, maxVal))
        powers = range(floor(low), ceil(high) + 1)
        # As many as have room: on a high or wide axis the steps between powers as well.
        room = size / max(1e-9, high - low)
        steps = (1,) if room < 160 else (1, 2, 5)
        ticks = [power + log10(step) for power in powers for step in steps]
        return [(1.0, [tick for tick in ticks if low <= tick <= high])]

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        return [self._text(10.0**value) for value in values]

    def _text(self, value: float) -> str:
        if value < 1:
            return f"{value:.3g}"
        return fmt.tick(value, "1")


class _Labels(QGraphicsObject):
    """Names beside marks and roofs, in pixels; what would cover another is left out."""

    def __init__(self, plot: RooflinePlot) -> None:
        self._box = plot.getViewBox()
        super().__init__(self._box)
        self._plot = plot
        self._texts: list[tuple[QPointF, float, str]] = []
        self._marks: list[QPointF] = []  # in pixels
        self._font = plot.font()
        self._color, self._halo = QColor("black"), QColor("white")
        self.setZValue(20)
        self.setAcceptedMouseButtons(Qt.MouseButton.NoButton)
        self._box.sigResized.connect(self._on_resized)
        self._box.sigRangeChanged.connect(self._on_moved)

    def set_look(self, font: QFont, color: QColor, halo: QColor) -> None:
        """Write in this font and colour, over that background."""
        self._font, self._color, self._halo = font, color, halo
        self.update()

    def show_texts(self, texts: list[tuple[QPointF, float, str]]) -> None:
        """Write each text beside its point, as far away as its mark is large."""
        self._texts = texts
        self.update()

    def _on_resized(self, _: object) -> None:
        self.prepareGeometryChange()
        self.update()

    def _on_moved(self, *_: object) -> None:
        self.update()

    def _boxes(self, metrics: QFontMetricsF, point: QPointF, gap: float, text: str) -> list[QRectF]:
        """Where the text may stand: right, left, above, below."""
        width, height = metrics.horizontalAdvance(text) + 2, metrics.height()
        x, y = point.x(), point.y()
        return [
            QRectF(x + gap + 4, y - height / 2, width, height),
            QRectF(x - gap - 4 - width, y - height / 2, width, height),
            QRectF(x - width / 2, y - gap - 2 - height, width, height),
            QRectF(x - width / 2, y + gap + 2, width, height),
        ]

    def _write(
        self, painter: QPainter, boxes: Sequence[QRectF], text: str, taken: list[QRectF]
    ) -> None:
        """Write into the first of the boxes that is free, or nowhere."""
        view = self.boundingRect()
        free = [
            box
            for box in boxes
            if view.contains(box) and not any(box.intersects(one) for one in taken)
        ]
        if not free:
            return
        box = min(free, key=self._marks_below)  # the first of those that cover the fewest
        taken.append(box)
        halo = QColor(self._halo)
        halo.setAlphaF(0.8)
        painter.fillRect(box, halo)
        painter.setPen(self._color)
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)

    def _marks_below(self, box: QRectF) -> int:
        return sum(box.contains(mark) for mark in self._marks)

    def _write_roofs(self, painter: QPainter, metrics: QFontMetricsF, taken: list[QRectF]) -> None:
        """Name the roofs where they can be seen, the ridge at the foot of its line."""
        ridge = self._plot.ridge
        if ridge is None:
            return
        view, point, height = self.boundingRect(), self._box.mapFromView(ridge), metrics.height()
        sloping, level, meeting = self._plot.roof_texts()
        width = metrics.horizontalAdvance(level) + 2
        right = QRectF(view.right() - width - 4, point.y() - height - 3, width, height)
        self._write(painter, [right], level, taken)
        width, foot = metrics.horizontalAdvance(meeting) + 2, view.bottom() - height - 3
        lefts = (point.x() + 4, point.x() - 4 - width)
        beside = [QRectF(left, foot, width, height) for left in lefts]
        self._write(painter, beside, meeting, taken)
        self._write(painter, self._beside_slope(metrics, ridge, sloping), sloping, taken)

    def _beside_slope(self, metrics: QFontMetricsF, ridge: QPointF, text: str) -> list[QRectF]:
        """Above the sloping roof or below it, where it has come into view."""
        seen = self._box.viewRect()
        start = max(seen.left(), ridge.x() - (ridge.y() - seen.top()))
        middle = start + 0.45 * (ridge.x() - start)
        point = self._box.mapFromView(QPointF(middle, ridge.y() - (ridge.x() - middle)))
        width, height = metrics.horizontalAdvance(text) + 2, metrics.height()
        return [
            QRectF(point.x() - width - 8, point.y() - height - 2, width, height),
            QRectF(point.x() + 12, point.y() + 4, width, height),
        ]

    def boundingRect(self) -> QRectF:
        return QRectF(self._box.boundingRect())

    def paint(
        self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None
    ) -> None:
        painter.setFont(self._font)
        metrics = QFontMetricsF(self._font)
        taken: list[QRectF] = []
        self._marks = [self._box.mapFromView(place) for place in self._plot.places]
        self._write_roofs(painter, metrics, taken)
        for place, gap, text in self._texts:
            point = self._box.mapFromView(place)
            if self.boundingRect().contains(point):
                self._write(painter, self._boxes(metrics, point, gap, text), text, taken)
