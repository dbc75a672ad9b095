"""Stacked bars over layers: one graphics item a part, so that thousands of layers stay fast."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal, Slot
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QResizeEvent
from PySide6.QtWidgets import QWidget

from gui.theme import Theme, scaled

_WIDTH = 0.76
_BEAM = 0.3
_LABEL_ROOM, _LOW_LABEL_ROOM = 84, 60  # pixels that the longest tilted name may take
_TILT = -38.0
_TILTED_HEIGHT, _LOW_TILTED_HEIGHT = 62, 47
_LOW = 200  # pixels of height below which names get less room
_MARK_HEIGHT, _MARK_LINE = 15, 3
_MARK_ROOM = 9  # pixels that a letter needs


class BarPlot(pg.PlotWidget):  # type: ignore[misc]
    """Bars by index; it knows places and heights, not layers.

    Signals:
        hovered: the bar under the mouse, -1 for none.
        clicked: the bar that was clicked, and whether it adds to the selection.
    """

    hovered = Signal(int)
    clicked = Signal(int, bool)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        self._title = "", ""  # of the axis, and its unit
        self._names = _NameAxis()
        self._marks = _MarkAxis(theme)
        axes = {"bottom": self._names, "top": self._marks}
        super().__init__(parent, axisItems=axes, enableMenu=False)
        self.showAxis("top", False)
        self.setObjectName("barPlot")
        self._theme = theme
        self._count = 0
        self._hovered = -1
        self._heights: tuple[float, ...] = ()
        self._parts: list[tuple[str, pg.BarGraphItem]] = []
        self._band = _bars(-10)
        self._pointer = _bars(-9)
        self._ghost = _bars(-5)
        self._spread = pg.ErrorBarItem(beam=_BEAM)
        self._spread.setZValue(5)
        for item in (self._band, self._pointer, self._ghost, self._spread):
            self.addItem(item)
        box = self.getViewBox()
        box.setMouseEnabled(x=True, y=False)
        box.setDefaultPadding(0)
        box.sigResized.connect(self._fit_title)
        self.hideButtons()
        self.scene().sigMouseMoved.connect(self._on_moved)
        self.scene().sigMouseClicked.connect(self._on_clicked)
        self.apply_theme()

    def show_bars(
        self,
        names: Sequence[str],
        parts: Mapping[str, Sequence[float]],
        ghost: Mapping[int, float],
        spread: Mapping[int, tuple[float, float]] = MappingProxyType({}),
    ) -> None:
        """Draw bars, their parts stacked in order, over the outlines of ``ghost`` (by place).

        ``spread`` draws an interval over the bar at that place, from its low to its high end.
        """
        for _, item in self._parts:
            self.removeItem(item)
        self._parts = []
        fresh = len(names) != self._count
        self._count = len(names)
        bottoms = [0.0] * self._count
        for part, heights in parts.items():
            item = _bars(0)
            item.setOpts(**_geometry(range(self._count), heights, bottoms))
            self._parts.append((part, item))
            self.addItem(item)
            bottoms = [low + high for low, high in zip(bottoms, heights, strict=True)]
        self._heights = tuple(bottoms)
        self._ghost.setOpts(**_geometry(list(ghost), list(ghost.values())))
        self._names.set_names(names)
        self._colour_parts()
        self._show_spread(spread)
        highs = [high for _, high in spread.values()]
        self._fit(max((*bottoms, *ghost.values(), *highs), default=0.0), fresh)

    @property
    def bar_heights(self) -> tuple[float, ...]:
        """Of each bar, in the numbers of the axis."""
        return self._heights

    def mark(self, places: Sequence[int]) -> None:
        """Show these bars as selected."""
        self._band.setOpts(**_geometry(places, [self._top()] * len(places), width=1.0))

    def show_marks(self, marks: Mapping[int, tuple[str, str]]) -> None:
        """Write a letter over bars, by place, each over a line in the colour of a part."""
        self._marks.set_marks(marks)
        self.showAxis("top", bool(marks))

    def set_axis(self, title: str, unit: str, scale: float = 1.0) -> None:
        """Name what the heights are; a unit gets an SI prefix."""
        axis = self.getAxis("left")
        axis.setScale(scale)
        axis.enableAutoSIPrefix(unit not in ("", "%"))
        self._title = title, unit
        self._fit_title()

    @Slot()
    def _fit_title(self) -> None:
        """Write along the axis what it shows; where room lacks the unit alone, never half of it."""
        axis, (title, unit) = self.getAxis("left"), self._title
        whole = self.fontMetrics().horizontalAdvance(f"{title} (m{unit})")
        shown = title if whole <= self.getViewBox().height() or not unit else ""
        if unit == "%":  # takes no prefix
            axis.setLabel(f"{shown} (%)".strip())
        else:
            axis.setLabel(shown, unit)

    def show_all(self) -> None:
        """Undo zooming."""
        self.getViewBox().setXRange(-0.6, max(self._count, 4) - 0.4, padding=0)

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
        self._names.setFont(small)
        self._marks.setTickFont(small)
        self._marks.setTextPen(palette.muted)
        self._marks.redraw()
        self.getAxis("left").label.setFont(small)
        self.getPlotItem().showGrid(x=False, y=True, alpha=0.15)
        band = QColor(palette.accent)
        band.setAlphaF(0.22)
        self._band.setOpts(brush=band, pen=pg.mkPen(None))
        self._pointer.setOpts(brush=QColor(palette.raised), pen=pg.mkPen(None))
        self._spread.setData(pen=pg.mkPen(palette.text, width=1))
        ghost = QColor(palette.muted)
        ghost.setAlphaF(0.12)
        self._ghost.setOpts(brush=ghost, pen=pg.mkPen(palette.muted, width=1))
        self._colour_parts()

    def bar_at(self, place: QPointF) -> int:
        """Index of the bar whose column holds that point of the scene, -1 for none."""
        box = self.getViewBox()
        if not box.sceneBoundingRect().contains(place):
            return -1
        index = round(box.mapSceneToView(place).x())
        return index if 0 <= index < self._count else -1

    def draw(self, painter: QPainter, target: QRectF) -> None:
        """Draw what it shows into that place."""
        self.scene().render(painter, target, QRectF(self.viewport().rect()))

    def _show_spread(self, spread: Mapping[int, tuple[float, float]]) -> None:
        places = list(spread)
        heights = [self._heights[place] for place in places]
        ends = list(spread.values())
        self._spread.setData(
            x=np.array(places, dtype=float),
            y=np.array(heights, dtype=float),
            bottom=np.array([height - low for height, (low, _) in zip(heights, ends, strict=True)]),
            top=np.array([high - height for height, (_, high) in zip(heights, ends, strict=True)]),
        )

    def _colour_parts(self) -> None:
        for part, item in self._parts:
            item.setOpts(brush=self._theme.color(part), pen=pg.mkPen(None))

    def _fit(self, highest: float, fresh: bool) -> None:
        box = self.getViewBox()
        top = highest * 1.06 or 1.0
        box.setLimits(xMin=-0.6, xMax=max(self._count, 4) - 0.4, minXRange=4, yMin=0, yMax=top)
        box.setYRange(0, top, padding=0)
        if fresh:
            self.show_all()

    def _top(self) -> float:
        return float(self.getViewBox().viewRange()[1][1])

    def _point_at(self, index: int) -> None:
        if index != self._hovered:
            self._hovered = index
            places = [index] if index >= 0 else []
            self._pointer.setOpts(**_geometry(places, [self._top()] * len(places), width=1.0))
            self.hovered.emit(index)

    def _on_moved(self, place: QPointF) -> None:
        self._point_at(self.bar_at(place))

    def _on_clicked(self, event: Any) -> None:
        if event.button() != Qt.MouseButton.LeftButton:
            return
        if event.double():
            self.show_all()
            return
        index = self.bar_at(event.scenePos())
        if index >= 0:
            adds = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
            self.clicked.emit(index, adds)

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # pyqtgraph calls it with None
        self._names.set_low(self.height() < _LOW)
        super().resizeEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._point_at(-1)


class _NameAxis(pg.AxisItem):  # type: ignore[misc]
    """Names under the bars: level where they fit, tilted where not, some where they would touch."""

    def __init__(self) -> None:
        super().__init__("bottom")
        self._all: tuple[str, ...] = ()
        self._room = _LABEL_ROOM
        self.setStyle(tickLength=0)
        self.setHeight(_TILTED_HEIGHT)

    def set_low(self, low: bool) -> None:
        """Leave more of a low plot to its bars."""
        room = _LOW_LABEL_ROOM if low else _LABEL_ROOM
        if room != self._room:
            self._room = room
            self.setHeight(_LOW_TILTED_HEIGHT if low else _TILTED_HEIGHT)

    def set_names(self, names: Sequence[str]) -> None:
        """Write these under the bars 0, 1, 2…"""
        self._all = tuple(names)
        self.picture = None
        self.update()

    def tickValues(self, minVal: float, maxVal: float, size: float) -> list[Any]:
        return []

    def drawPicture(
        self, p: QPainter, axisSpec: Any, tickSpecs: Sequence[Any], textSpecs: Sequence[Any]
    ) -> None:
        pen, start, end = axisSpec
        p.setPen(pen)
        p.drawLine(start, end)
        low, high = self.range
        width = self.size().width()
        if high <= low or not self._all:
            return
        font = self.style["tickFont"] or self.font()
        p.setFont(font)
        p.setPen(self.textPen())
        metrics = QFontMetrics(font)
        spacing = width / (high - low)
        level = all(metrics.horizontalAdvance(name) < spacing - 8 for name in self._all)
        step = 1 if level else max(1, -int(-metrics.height() * 1.5 // spacing))
        for index in range(max(0, int(low)), min(len(self._all), int(high) + 2)):
            place = (index - low) * spacing
            if index % step == 0 and 0 <= place <= width:
                self._draw_name(p, metrics, place, self._all[index], level)

    def _draw_name(
        self, p: QPainter, metrics: QFontMetrics, place: float, name: str, level: bool
    ) -> None:
        if level:
            box = QRectF(place - 200, 4, 400, metrics.height())
            p.drawText(box, Qt.AlignmentFlag.AlignHCenter, name)
            return
        text = metrics.elidedText(name, Qt.TextElideMode.ElideLeft, self._room)
        p.save()
        p.translate(place + metrics.height() / 3, 6)
        p.rotate(_TILT)
        box = QRectF(-self._room - 20, 0, self._room + 20, metrics.height())
        p.drawText(box, Qt.AlignmentFlag.AlignRight, text)
        p.restore()


class _MarkAxis(pg.AxisItem):  # type: ignore[misc]
    """One letter above each bar that has one; lines alone where letters would touch."""

    def __init__(self, theme: Theme) -> None:
        super().__init__("top")
        self._theme = theme
        self._marks: Mapping[int, tuple[str, str]] = {}
        self.setStyle(tickLength=0)
        self.setHeight(_MARK_HEIGHT)

    def set_marks(self, marks: Mapping[int, tuple[str, str]]) -> None:
        """Show these, by place: the letter, and the part whose colour the line has."""
        self._marks = marks
        self.redraw()

    def redraw(self) -> None:
        """Draw again what is shown."""
        self.picture = None
        self.update()

    def tickValues(self, minVal: float, maxVal: float, size: float) -> list[Any]:
        return []

    def drawPicture(
        self, p: QPainter, axisSpec: Any, tickSpecs: Sequence[Any], textSpecs: Sequence[Any]
    ) -> None:
        low, high = self.range
        if high <= low:
            return
        p.setFont(self.style["tickFont"] or self.font())
        p.setPen(self.textPen())
        room, foot = self.size().width(), self.size().height()
        spacing = room / (high - low)
        wide = max(1.0, spacing * _WIDTH)
        for index, (letter, part) in self._marks.items():
            place = (index - low) * spacing
            if not 0 <= place <= room:
                continue
            line = QRectF(place - wide / 2, foot - _MARK_LINE, wide, _MARK_LINE)
            p.fillRect(line, self._theme.color(part))
            if spacing >= _MARK_ROOM:
                box = QRectF(place - 20, 0, 40, foot - _MARK_LINE)
                p.drawText(box, Qt.AlignmentFlag.AlignCenter, letter)


def _bars(layer: int) -> pg.BarGraphItem:
    item = pg.BarGraphItem(x=[], height=[], width=_WIDTH, pen=pg.mkPen(None))
    item.setZValue(layer)
    return item


def _geometry(
    places: Sequence[int],
    heights: Sequence[float],
    bottoms: Sequence[float] | None = None,
    width: float = _WIDTH,
) -> dict[str, Any]:
    return {
        "x": list(places),
        "height": list(heights),
        "y0": list(bottoms) if bottoms is not None else [0.0] * len(places),
        "width": width,
    }
