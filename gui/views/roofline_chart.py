"""Which of the machine's limits each layer meets: intensity against performance, below the roof."""

from __future__ import annotations

from collections import Counter

from PySide6.QtCore import QPoint, Slot
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtWidgets import QMenu, QWidget

from engine import Roofline
from gui import format as fmt
from gui.models.roofline_points import BOUNDS, reached, table
from gui.selection import Selection
from gui.theme import Theme
from gui.views.chart_files import ChartFiles
from gui.views.chart_legend import ChartLegend
from gui.views.parts import ElidedLabel
from gui.views.roofline_plot import RooflinePlot
from gui.widgets import column, row


class RooflineChart(QWidget):
    """The roofline with what the mouse points at read out above it."""

    def __init__(self, selection: Selection, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("rooflineChart")
        self._selection = selection
        self._roofline: Roofline | None = None
        self._caption = ElidedLabel("rooflineCaption", "caption")
        self._legend = ChartLegend(theme, self)
        self._plot = RooflinePlot(theme, self)
        self._files = ChartFiles(self, self._plot, theme, self._table)
        self._plot.hovered.connect(self._read_out)
        self._plot.clicked.connect(self._on_clicked)
        selection.changed.connect(self._mark)
        theme.changed.connect(self._plot.apply_theme)
        theme.changed.connect(self._legend.update)
        top = row(spacing=8)
        top.setContentsMargins(8, 4, 8, 4)
        top.addWidget(self._caption, 1)
        top.addWidget(self._legend)
        layout = column(self, spacing=0)
        layout.addLayout(top)
        layout.addWidget(self._plot, 1)

    def show_profile(self, profile: Roofline) -> None:
        """Show this roofline."""
        self._roofline = profile
        self._plot.show_roofline(profile)
        parts = [f"{bound}-bound" for bound in BOUNDS]
        self._legend.show_parts(parts, base=False)
        self._files.describe(self._head(), parts)
        self._mark()
        self._read_out(-1)

    def read_out(self, place: int) -> str:
        """One layer in words: intensity, performance, its bound and how near it comes."""
        roofline = self._roofline
        if roofline is None or not 0 <= place < len(roofline.points):
            return self._head()
        point = roofline.points[place]
        parts = [
            fmt.intensity(point.intensity),
            fmt.quantity(point.rate, "FLOP/s"),
            self.tr("{bound}-bound").format(bound=point.bound(roofline.machine)),
            self.tr("{share} of the roof").format(share=fmt.percent(reached(roofline, point), 0)),
            fmt.quantity(point.seconds, "s"),
        ]
        return f"{fmt.layer_name(point.layer)} {point.kind}   {' · '.join(parts)}"

    def _head(self) -> str:
        """The machine, and how many layers each of its limits holds back."""
        if self._roofline is None:
            return ""
        machine = self._roofline.machine
        bounds = Counter(point.bound(machine) for point in self._roofline.points)
        parts = [machine.name]
        parts += [f"{bounds[bound]} {bound}-bound" for bound in BOUNDS]
        holds = fmt.conditions_text(self._roofline.conditions, self.tr)
        return " · ".join([*parts, holds] if holds else parts)

    def _table(self) -> list[list[object]] | None:
        return table(self._roofline) if self._roofline is not None else None

    @Slot(int)
    def _read_out(self, place: int) -> None:
        self._caption.show_text(self.read_out(place))
        if place < 0 and self._roofline is not None:
            conditions = {**self._roofline.machine.conditions, **self._roofline.conditions}
            everything = "\n".join(f"{name}: {text}" for name, text in conditions.items())
            self._caption.setToolTip(fmt.tooltip(everything))

    @Slot(int, bool)
    def _on_clicked(self, place: int, adds: bool) -> None:
        if self._roofline is not None:
            self._selection.pick(self._roofline.points[place].layer, adds)

    @Slot()
    def _mark(self) -> None:
        points = self._roofline.points if self._roofline is not None else ()
        self._plot.mark(
            frozenset(point.layer for point in points if self._selection.covers(point.layer))
        )

    def make_menu(self) -> QMenu:
        """The menu of the chart: its picture and its numbers, to the clipboard or a file."""
        return self._files.make_menu((self.tr("Show all layers"), self._plot.show_all))

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        self.make_menu().popup(QPoint(event.globalPos()))
