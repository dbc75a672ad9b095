"""A histogram of activations on a logarithmic axis, with the grid that they are rounded to."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal, Slot
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import QWidget

from engine import ActivationRange
from gui import format as fmt
from gui.models.activation_histogram import (
    Bars,
    bars,
    decades,
    grid_span,
    height_range,
    heights,
    steps,
    value_range,
)
from gui.theme import Theme, scaled

HISTOGRAM, CLIPPED = "values", "clipped"

_BAR: Final = 3  # pixels that a bar takes at least
_STEP: Final = 4  # pixels between two ticks of the grid at least
_TICK: Final = 6  # pixels, of the grid
_AXIS_WIDTH: Final = 46
_AXIS_HEIGHT: Final = 34
_MARGINS: Final = 0, 8, 6, 0
_FAINT: Final = 0.16
_FILL: Final = 0.85


class RangePlot(pg.PlotWidget):  # type: ignore[misc]
    """Bars of an :class:`engine.ActivationRange`; what its grid clips lies in a tint.

    Signals:
        hovered: the value under the mouse; None for none.
    """

    hovered = Signal(object)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent, enableMenu=False)
        self.setObjectName("rangePlot")
        self.setAccessibleName(self.tr("Histogram of activations"))
        self._theme = theme
        self._seen: ActivationRange | None = None
        self._bars: Bars | None = None
        self.every = 1
        self._make_items()
        box = self.getViewBox()
        box.setMouseEnabled(x=False, y=False)
        box.setDefaultPadding(0)
        box.sigResized.connect(self._draw)
        self.hideButtons()
        self.setLabel("bottom", self.tr("Value"))
        self.setLabel("left", self.tr("How often"))
        self.getAxis("bottom").enableAutoSIPrefix(False)
        self.getAxis("bottom").setHeight(_AXIS_HEIGHT)
        self.getAxis("left").setWidth(_AXIS_WIDTH)
        self.getPlotItem().layout.setContentsMargins(*_MARGINS)
        self.scene().sigMouseMoved.connect(self._on_moved)
        self.apply_theme()

    @property
    def shown(self) -> Bars | None:
        """The bars as they are drawn; None before there are any."""
        return self._bars

    def show_range(self, seen: ActivationRange | None) -> None:
        """Draw this histogram and its grid."""
        self._seen = seen
        self._draw()

    def draw(self, painter: QPainter, target: QRectF) -> None:
        """Draw what it shows into that place."""
        self.scene().render(painter, target, QRectF(self.viewport().rect()))

    @Slot()
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
        fill = QColor(self._theme.color(HISTOGRAM))
        fill.setAlphaF(_FILL)
        self._curve.setBrush(fill)
        self._curve.setPen(pg.mkPen(None))
        tint = QColor(self._theme.color(CLIPPED))
        tint.setAlphaF(_FAINT)
        for region in self._beyond:
            region.setBrush(tint)
        for line in self._ends:
            line.setPen(pg.mkPen(self._theme.color(CLIPPED), width=1, style=Qt.PenStyle.DashLine))
        self._grid.setPen(pg.mkPen(palette.text, width=1))
        self._pointer.setPen(pg.mkPen(palette.muted, width=1))

    def _make_items(self) -> None:
        self._curve = pg.PlotCurveItem()
        self._beyond = [pg.LinearRegionItem(movable=False, pen=pg.mkPen(None)) for _ in range(2)]
        self._ends = [pg.InfiniteLine(angle=90) for _ in range(2)]
        self._grid = pg.PlotCurveItem(connect="pairs")
        self._pointer = pg.InfiniteLine(angle=90)
        self._pointer.hide()
        for item in (*self._beyond, self._curve, *self._ends, self._grid, self._pointer):
            self.addItem(item, ignoreBounds=True)

    @Slot()
    def _draw(self) -> None:
        seen = self._seen
        width, height = self.getViewBox().width(), self.getViewBox().height()
        for item in (self._curve, self._grid, *self._beyond, *self._ends):
            item.setVisible(seen is not None)
        for name in ("left", "bottom"):
            self.showAxis(name, seen is not None)
        if seen is None or width <= 0 or height <= 0:
            self._bars, self.every = None, 1
            return
        self._bars = bars(seen, max(1, round(width / _BAR)))
        floor, top = height_range(self._bars.counts)
        self._curve.setFillLevel(floor)
        self._curve.setData(
            np.array(self._bars.edges), np.array(heights(self._bars.counts)), stepMode="center"
        )
        self.setXRange(*value_range(seen), padding=0)
        self.setYRange(floor, top, padding=0)
        self.getAxis("left").setTicks(
            [[(power, fmt.tick(10.0**power, "1")) for power in decades(self._bars.counts)]]
        )
        self._draw_grid(seen, round(width / _STEP), floor + (top - floor) * _TICK / height)

    def _draw_grid(self, seen: ActivationRange, most: int, top: float) -> None:
        """Mark the ends of the grid and as many of its steps as there is room for."""
        span, (low, high) = grid_span(seen), value_range(seen)
        for item in (*self._beyond, *self._ends, self._grid):
            item.setVisible(span is not None)
        if span is None:
            self.every = 1
            return
        room = (span[1] - span[0]) / (high - low)
        self.every, places = steps(seen, max(1, round(most * room)))
        floor = self.getViewBox().viewRange()[1][0]
        x = np.repeat(np.array(places), 2)
        self._grid.setData(x, np.tile([floor, top], len(places)))
        for region, ends in zip(self._beyond, ((low, span[0]), (span[1], high)), strict=True):
            region.setRegion(ends)
        for line, end in zip(self._ends, span, strict=True):
            line.setPos(end)

    def _on_moved(self, place: QPointF) -> None:
        box = self.getViewBox()
        inside = self._seen is not None and box.sceneBoundingRect().contains(place)
        value = float(box.mapSceneToView(place).x()) if inside else None
        self._point_at(value)

    def _point_at(self, value: float | None) -> None:
        self._pointer.setVisible(value is not None)
        if value is not None:
            self._pointer.setPos(value)
        self.hovered.emit(value)

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._point_at(None)
