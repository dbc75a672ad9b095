"""Two curves over the epochs of a training, one above the other: accuracy, and the loss below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import QWidget

from engine import TuningProgress
from gui import format as fmt
from gui.models.tuning_curve import accuracy_range, ends, loss_range
from gui.theme import Theme, scaled

ACCURACY, LOSS = "held-out accuracy", "training loss"

_AXIS_WIDTH: Final = 58  # pixels, of both, so that the epochs lie above one another
_GAP: Final = 6
_DOT, _BEST = 6, 13
_FEW: Final = 12  # epochs that get a tick each
_MANY: Final = 40  # epochs whose intervals still stand apart
_FAINT: Final = 0.55
_MARGIN: Final = 0.03


class TuningPlot(pg.GraphicsLayoutWidget):  # type: ignore[misc]
    """The curves of a :class:`engine.TuningProgress`, as it grows.

    Signals:
        hovered: the epoch under the mouse, below 0 for none.
    """

    hovered = Signal(float)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("tuningPlot")
        self.setAccessibleName(self.tr("Curves of training"))
        self._theme = theme
        self._progress: TuningProgress | None = None
        self._upper = self._add_plot(0, _ShareAxis(), self.tr("Accuracy"))
        self._lower = self._add_plot(1, pg.AxisItem("left"), self.tr("Loss"))
        self._lower.setXLink(self._upper)
        self._upper.getAxis("bottom").setStyle(showValues=False)
        self._lower.setLabel("bottom", self.tr("Epoch"))
        self.ci.layout.setSpacing(_GAP)
        self.ci.layout.setContentsMargins(4, 8, 12, 4)
        self._make_items()
        self.scene().sigMouseMoved.connect(self._on_moved)
        self.apply_theme()

    @property
    def progress(self) -> TuningProgress | None:
        """What is shown."""
        return self._progress

    def show_progress(self, progress: TuningProgress | None) -> None:
        """Draw these curves, over all epochs that there are to be."""
        self._progress = progress
        if progress is None:
            for item in (self._accuracy, self._loss, self._before):
                item.setData([], [])
            self._best.setData([])
            self._spread.setData(x=np.empty(0), y=np.empty(0), top=np.empty(0), bottom=np.empty(0))
            return
        self._draw_accuracy(progress)
        epochs, losses = _columns(progress.losses)
        self._loss.setData(epochs, losses)
        self._upper.setXRange(0, progress.epochs, padding=_MARGIN)
        self._upper.setYRange(*accuracy_range(progress), padding=0)
        self._lower.setYRange(*loss_range(progress), padding=0)
        for plot in (self._upper, self._lower):
            plot.getAxis("bottom").setTicks(
                [[(one, str(one)) for one in range(progress.epochs + 1)]]
                if progress.epochs <= _FEW
                else None
            )

    def epoch_at(self, place: QPointF) -> float:
        """The epoch at that point of the scene, below 0 where there is none."""
        for plot in (self._upper, self._lower):
            box = plot.getViewBox()
            if box.sceneBoundingRect().contains(place):
                return max(0.0, float(box.mapSceneToView(place).x()))
        return -1.0

    def draw(self, painter: QPainter, target: QRectF) -> None:
        """Draw what it shows into that place."""
        self.scene().render(painter, target, QRectF(self.viewport().rect()))

    def apply_theme(self) -> None:
        """Take the colours of the palette."""
        palette = self._theme.palette
        self.setBackground(palette.surface)
        small = scaled(self.font(), 0.85)
        for plot in (self._upper, self._lower):
            plot.showGrid(x=True, y=True, alpha=0.12)
            for name in ("left", "bottom"):
                axis = plot.getAxis(name)
                axis.setPen(palette.border)
                axis.setTextPen(palette.muted)
                axis.setTickFont(small)
                axis.label.setFont(small)
        accuracy, loss = self._theme.color(ACCURACY), self._theme.color(LOSS)
        self._accuracy.setPen(pg.mkPen(accuracy, width=2))
        self._accuracy.setSymbolBrush(accuracy)
        self._accuracy.setSymbolPen(pg.mkPen(None))
        self._thin_out(self._progress.epochs if self._progress is not None else 0)
        self._before.setPen(pg.mkPen(palette.muted, width=1, style=Qt.PenStyle.DashLine))
        self._best.setPen(pg.mkPen(palette.text, width=2))
        self._best.setBrush(None)
        self._loss.setPen(pg.mkPen(loss, width=2))
        self._pointer_pen = pg.mkPen(palette.muted, width=1)
        for line in self._pointers:
            line.setPen(self._pointer_pen)

    def _add_plot(self, place: int, axis: pg.AxisItem, title: str) -> pg.PlotItem:
        plot = self.addPlot(row=place, col=0, axisItems={"left": axis}, enableMenu=False)
        plot.hideButtons()
        plot.setLabel("left", title)
        axis.setWidth(_AXIS_WIDTH)
        plot.getAxis("bottom").setStyle(hideOverlappingLabels=False)
        axis.enableAutoSIPrefix(False)
        plot.getViewBox().setMouseEnabled(x=False, y=False)
        return plot

    def _make_items(self) -> None:
        self._accuracy = pg.PlotDataItem(symbol="o", symbolSize=_DOT, antialias=True)
        self._spread = pg.ErrorBarItem(beam=0.0)
        self._before = pg.PlotCurveItem()
        self._best = pg.ScatterPlotItem(size=_BEST, pxMode=True, antialias=True)
        self._loss = pg.PlotCurveItem(antialias=True)
        self._pointers = [pg.InfiniteLine(angle=90) for _ in range(2)]
        for item in (self._before, self._spread, self._accuracy, self._best):
            self._upper.addItem(item, ignoreBounds=True)
        self._lower.addItem(self._loss, ignoreBounds=True)
        for plot, line in zip((self._upper, self._lower), self._pointers, strict=True):
            line.hide()
            plot.addItem(line, ignoreBounds=True)

    def _draw_accuracy(self, progress: TuningProgress) -> None:
        points = [(epoch, value.value) for epoch, value in progress.accuracies]
        epochs, values = _columns(points)
        self._accuracy.setData(epochs, values)
        spans = [ends(value) for _, value in progress.accuracies]
        lows, highs = _columns(spans)
        self._spread.setData(x=epochs, y=values, bottom=values - lows, top=highs - values)
        self._thin_out(progress.epochs)
        self._best.setData([{"pos": points[progress.best]}] if points else [])
        first = [points[0][1]] * 2 if points else []
        self._before.setData([0, progress.epochs][: len(first)], first)

    def _thin_out(self, epochs: int) -> None:
        """Let many intervals become a pale band, with the curve rather than dots in it."""
        self._accuracy.setSymbolSize(_DOT if epochs <= _MANY else 1)
        faint = _faint(self._theme.color(ACCURACY), _FAINT * min(1.0, _MANY / max(1, epochs)))
        self._spread.setData(pen=pg.mkPen(faint, width=1))

    def _point_at(self, epoch: float) -> None:
        for line in self._pointers:
            line.setVisible(epoch >= 0)
            line.setPos(epoch)
        self.hovered.emit(epoch)

    def _on_moved(self, place: QPointF) -> None:
        self._point_at(self.epoch_at(place) if self._progress is not None else -1.0)

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._point_at(-1.0)


class _ShareAxis(pg.AxisItem):  # type: ignore[misc]
    """Shares in percent, as many decimals as their distance asks for."""

    def __init__(self) -> None:
        super().__init__("left")

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        decimals = 0 if spacing >= 0.01 else 1
        return [fmt.percent(value, decimals) if 0 <= value <= 1 else "" for value in values]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[Any, Any]:
    table = np.array(points, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _faint(color: QColor, alpha: float) -> QColor:
    faint = QColor(color)
    faint.setAlphaF(alpha)
    return faint
