"""The curves of a training with what the mouse points at read out above them."""

from __future__ import annotations

from PySide6.QtCore import QPoint, Slot
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtWidgets import QMenu, QSizePolicy, QWidget

from engine import TuningProgress
from gui.models.tuning_curve import point_text, summary_text, table
from gui.theme import Theme
from gui.views.chart_files import ChartFiles
from gui.views.parts import ElidedLabel
from gui.views.tuning_plot import ACCURACY, LOSS, TuningPlot
from gui.widgets import column

_LEAST_HEIGHT = 180


class TuningView(QWidget):
    """What a training has shown so far."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("tuningView")
        self._progress: TuningProgress | None = None
        self._epoch = -1.0  # under the mouse
        self._caption = ElidedLabel("tuningCaption", "caption")
        self._caption.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self._plot = TuningPlot(theme, self)
        self._plot.setMinimumHeight(_LEAST_HEIGHT)
        self._plot.hovered.connect(self._point_at)
        self._files = ChartFiles(self, self._plot, theme, self._table)
        theme.changed.connect(self._restyle)
        layout = column(self, spacing=4)
        layout.addWidget(self._caption)
        layout.addWidget(self._plot, 1)

    def show_progress(self, progress: TuningProgress | None) -> None:
        """Show how far it is; None empties the curves."""
        if progress == self._progress:
            return
        self._progress = progress
        self._plot.show_progress(progress)
        self._files.describe(self._text(-1.0), (ACCURACY, LOSS))
        self._read_out()

    def make_menu(self) -> QMenu:
        """The menu of the chart: its picture and its numbers, to the clipboard or a file."""
        return self._files.make_menu()

    def _text(self, epoch: float) -> str:
        if self._progress is None:
            return ""
        if epoch >= 0:
            return point_text(self._progress, epoch, self.tr)
        return summary_text(self._progress, self.tr)

    def _table(self) -> list[list[object]] | None:
        return table(self._progress) if self._progress is not None else None

    @Slot(float)
    def _point_at(self, epoch: float) -> None:
        self._epoch = epoch
        self._read_out()

    @Slot()
    def _restyle(self) -> None:
        self._plot.apply_theme()

    def _read_out(self) -> None:
        self._caption.show_text(self._text(self._epoch))

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        self.make_menu().popup(QPoint(event.globalPos()))
