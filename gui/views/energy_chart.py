"""Where the energy goes, layer by layer, against the base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QPoint, Qt, Slot
from PySide6.QtGui import QAction, QContextMenuEvent, QShowEvent
from PySide6.QtWidgets import QMenu, QStackedWidget, QToolButton, QWidget

from engine import METRICS, Change, LayerId, Part
from gui import format as fmt
from gui.models.energy_bars import EnergyBars, energy_bars
from gui.selection import Selection
from gui.theme import Theme
from gui.views.bar_plot import BarPlot
from gui.views.chart_files import ChartFiles
from gui.views.chart_legend import ChartLegend
from gui.views.parts import ElidedLabel
from gui.widgets import column, named, plain_label, row

if TYPE_CHECKING:
    from gui.document import Document

_SHOWN_PARTS = Part.MODEL | Part.LAYERS | Part.METRICS | Part.HISTORY


class EnergyChart(QWidget):
    """Stacked bars of modelled energy, with what the mouse points at read out above them."""

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("energyChart")
        self._document = document
        self._selection = selection
        self._bars: EnergyBars | None = None
        self._places: dict[LayerId, int] = {}
        self._stale = True
        self._caption = ElidedLabel("chartCaption", "caption")
        self._legend = ChartLegend(theme, self)
        self._share = self._toggle(
            "chartShare", self.tr("Share"), self.tr("Each layer's share of the whole energy")
        )
        self._sorted = self._toggle(
            "chartSorted", self.tr("Sorted"), self.tr("The most expensive layer first")
        )
        self._plot = BarPlot(theme, self)
        self._empty = named(plain_label("", "chartEmpty", "muted"), "chartEmpty")
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._empty.setWordWrap(True)
        self._files = ChartFiles(self, self._plot, theme)
        self._lay_out()
        document.changed.connect(self._on_changed)
        selection.changed.connect(self._mark)
        theme.changed.connect(self._on_theme)
        self._plot.hovered.connect(self._read_out)
        self._plot.clicked.connect(self._on_clicked)
        self.refresh()

    @property
    def bars(self) -> EnergyBars | None:
        """What is drawn; None when there is nothing."""
        return self._bars

    def refresh(self) -> None:
        """Draw the current snapshot."""
        self._stale = False
        snapshot = self._document.snapshot
        self._bars = energy_bars(snapshot, self._sorted.isChecked()) if snapshot else None
        for toggle in (self._share, self._sorted):
            toggle.setEnabled(self._bars is not None)
        if self._bars is None:
            self._show_empty()
            return
        self._places = {layer: place for place, layer in enumerate(self._bars.layers)}
        self._draw(self._bars)
        self._stack.setCurrentWidget(self._plot)
        self._legend.show_parts(list(self._bars.parts), bool(self._bars.base))
        self._caption.show_text(self._head())
        self._files.describe(self.caption(), list(self._bars.parts), bool(self._bars.base))
        self._mark()

    def caption(self) -> str:
        """What is shown and under which conditions."""
        if self._bars is None:
            return ""
        conditions = dict(self._bars.conditions)
        known = [conditions.pop("hardware", ""), f"batch {conditions.pop('batch', '?')}"]
        parts = [self.tr("Energy by layer"), self.tr(self._bars.provenance), *known]
        return " · ".join(part for part in parts if part)

    def _head(self) -> str:
        """The caption without its title, which the dock shows already."""
        return self.caption().partition(" · ")[2]

    def read_out(self, place: int) -> str:
        """One bar in words: its layer, its parts, their sum, and the base."""
        bars = self._bars
        if bars is None or not 0 <= place < len(bars.layers):
            return self._head()
        parts = [
            f"{part} {fmt.quantity(values[place], 'J')}"
            for part, values in bars.parts.items()
            if part
        ]
        total = bars.totals[place]
        parts.append(self.tr("total {value}").format(value=fmt.quantity(total, "J")))
        if sum(bars.totals):
            parts.append(fmt.percent(total / sum(bars.totals)))
        before = bars.base[place] if bars.base else total
        if before != total:
            change = fmt.change(METRICS["energy"], before, total)
            parts.append(f"{self.tr('base')} {fmt.quantity(before, 'J')} {change}")
        return f"{fmt.layer_name(bars.layers[place])}   {' · '.join(parts)}"

    def _lay_out(self) -> None:
        top = row(spacing=8)
        top.setContentsMargins(8, 4, 8, 4)
        top.addWidget(self._caption, 1)
        for widget in (self._legend, self._share, self._sorted):
            top.addWidget(widget)
        self._stack = QStackedWidget()
        self._stack.addWidget(self._plot)
        self._stack.addWidget(self._empty)
        layout = column(self, spacing=0)
        layout.addLayout(top)
        layout.addWidget(self._stack, 1)

    def _toggle(self, name: str, text: str, tip: str) -> QToolButton:
        button = named(QToolButton(), name)
        button.setText(text)
        button.setToolTip(tip)
        button.setCheckable(True)
        button.toggled.connect(self.refresh)
        return button

    def _show_empty(self) -> None:
        self._places = {}
        self._legend.show_parts([], False)
        self._caption.show_text("")
        self._stack.setCurrentWidget(self._empty)
        self._empty.setText(
            self.tr("Open a model to see where its energy goes.")
            if self._document.snapshot is None
            else self.tr("No energy has been modelled for this model.")
        )

    def _draw(self, bars: EnergyBars) -> None:
        names = [fmt.layer_name(layer) for layer in bars.layers]
        total, before = sum(bars.totals) or 1.0, sum(bars.base) or 1.0
        if not self._share.isChecked():
            total = before = 1.0
        parts = {part: [one / total for one in values] for part, values in bars.parts.items()}
        # Outlines around bars that are as they were would only make many layers dark.
        ghost = {
            place: one / before
            for place, (one, now) in enumerate(zip(bars.base, bars.totals, strict=False))
            if one != now
        }
        self._plot.show_bars(names, parts, ghost)
        if self._share.isChecked():
            self._plot.set_axis(self.tr("Share of energy"), "%", 100)
        else:
            self._plot.set_axis(self.tr("Energy"), "J")

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        if not change.parts & _SHOWN_PARTS:
            return
        self._stale = True
        if self.isVisible():
            self.refresh()

    @Slot()
    def _on_theme(self) -> None:
        self._plot.apply_theme()
        self._legend.update()

    @Slot(int)
    def _read_out(self, place: int) -> None:
        self._caption.show_text(self.read_out(place))
        self._legend.setVisible(place < 0)  # the read-out names the parts, and needs the room

    @Slot(int, bool)
    def _on_clicked(self, place: int, adds: bool) -> None:
        if self._bars is None:
            return
        layer = self._bars.layers[place]
        chosen = self._selection.layers
        if not adds:
            self._selection.set((layer,))
        elif layer in chosen:
            self._selection.set(one for one in chosen if one != layer)
        else:
            self._selection.set((*chosen, layer))

    @Slot()
    def _mark(self) -> None:
        """Highlight the selected layers, and those in selected containers."""
        chosen = self._selection.layers
        above = tuple(f"{layer}." for layer in chosen if layer)
        places = [
            place
            for layer, place in self._places.items()
            if layer in chosen or (above and layer.startswith(above))
        ]
        self._plot.mark(places)

    def _copy_table(self) -> None:
        if self._bars is not None:
            self._files.copy_table(self._bars.table())

    def _save_table(self) -> None:
        if self._bars is not None:
            self._files.save_table(self._bars.table())

    def make_menu(self) -> QMenu:
        """The menu of the chart: its picture and its numbers, to the clipboard or a file."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        entries = (
            (self.tr("Copy image"), self._files.copy_image),
            (self.tr("Save as PNG…"), self._files.save_png),
            (self.tr("Save as SVG…"), self._files.save_svg),
            (self.tr("Copy as CSV"), self._copy_table),
            (self.tr("Save as CSV…"), self._save_table),
            (self.tr("Show all layers"), self._plot.show_all),
        )
        for text, slot in entries:
            action = QAction(text, menu)
            action.setEnabled(self._bars is not None)
            action.triggered.connect(slot)
            menu.addAction(action)
        return menu

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        self.make_menu().popup(QPoint(event.globalPos()))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._stale:
            self.refresh()
