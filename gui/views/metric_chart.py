"""Where a cost goes, layer by layer, against the base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QPoint, Qt, Signal, Slot
from PySide6.QtGui import QContextMenuEvent, QShowEvent
from PySide6.QtWidgets import QButtonGroup, QMenu, QStackedWidget, QToolButton, QWidget

from engine import METRICS, Change, EnergyEstimate, Grouping, LayerId, Metric, Part, Provenance
from gui import format as fmt
from gui.models import energy_words
from gui.models.energy_unit import JOULES, EnergyUnit
from gui.models.figures import MEANINGS
from gui.models.metric_bars import MetricBars, metric_bars
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
# The letter above a bar, and the part whose colour its line has.
_MARKS = {"DRAM": ("D", "DRAM"), "compute": ("C", "compute"), "?": ("?", "not modelled")}


class MetricChart(QWidget):
    """Bars of a metric by layer, with what the mouse points at read out above them.

    Args:
        keys: of the metrics that it can show, the first one at first.

    Signals:
        metric_chosen: another of them is shown.
    """

    metric_chosen = Signal()

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        keys: tuple[str, ...],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName(f"{keys[0]}Chart")
        self._document = document
        self._selection = selection
        self._bars: MetricBars | None = None
        self._places: dict[LayerId, int] = {}
        self._stale = True
        self._grouping: Grouping = "data type"
        self._unit = JOULES
        self._hint = ""
        self._caption = ElidedLabel("chartCaption", "caption")
        self._legend = ChartLegend(theme, self)
        self._make_chooser(keys)
        self._share = self._toggle(
            "chartShare", self.tr("Share"), self.tr("Each layer's share of all layers' sum")
        )
        self._sorted = self._toggle(
            "chartSorted", self.tr("Sorted"), self.tr("The most expensive layer first")
        )
        self._plot = BarPlot(theme, self)
        self._empty = named(plain_label("", "chartEmpty", "muted"), "chartEmpty")
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._empty.setWordWrap(True)
        self._empty.setContentsMargins(32, 8, 32, 8)
        self._empty.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._files = ChartFiles(self, self._plot, theme, self._table)
        self._lay_out()
        document.changed.connect(self._on_changed)
        selection.changed.connect(self._mark)
        theme.changed.connect(self._on_theme)
        self._plot.hovered.connect(self._read_out)
        self._plot.clicked.connect(self._on_clicked)
        self.refresh()

    @property
    def bars(self) -> MetricBars | None:
        """What is drawn; None when there is nothing."""
        return self._bars

    @property
    def shown_metric(self) -> Metric:
        """The metric that is shown."""
        return METRICS[self._keys[max(0, self._chooser.checkedId())]]

    @property
    def grouping(self) -> Grouping:
        """What the parts of an energy are added up by."""
        return self._grouping

    @property
    def unit(self) -> EnergyUnit:
        """What energy is shown in."""
        return self._unit

    def show_grouping(self, grouping: Grouping) -> None:
        """Add the parts of an energy up by that."""
        self._grouping = grouping
        self._make_stale()

    def show_unit(self, unit: EnergyUnit) -> None:
        """Show energy in that unit."""
        self._unit = unit
        self._make_stale()

    def show_hint(self, hint: str) -> None:
        """Say below “not measured yet” what measuring takes."""
        if hint != self._hint:
            self._hint = hint
            self._make_stale()

    def refresh(self) -> None:
        """Draw the current snapshot."""
        self._stale = False
        self._bars = self._make_bars()
        self._sorted.setEnabled(self._bars is not None)
        self._share.setEnabled(self._bars is not None and self.shown_metric.adds_up)
        if self._bars is None:
            self._show_empty()
            return
        self._places = {layer: place for place, layer in enumerate(self._bars.layers)}
        self._draw(self._bars)
        self._stack.setCurrentWidget(self._plot)
        parts, marks = list(self._bars.parts), self._explain_marks(self._bars)
        self._legend.show_parts(parts, bool(self._bars.base), marks)
        estimate = self._estimate
        meaning = energy_words.bound_meaning(estimate.bound_by, self.tr) if estimate else ""
        self._legend.setToolTip(fmt.tooltip(meaning))
        self._show_head()
        self._files.describe(self.caption(), parts, bool(self._bars.base), marks)
        self._mark()

    def caption(self) -> str:
        """What is shown and under which conditions."""
        if self._bars is None:
            return ""
        title = self.tr("{metric} by layer").format(metric=self._title())
        return " · ".join([title, *self._holds(self._bars)])

    def read_out(self, place: int) -> str:
        """One bar in words: its layer, its parts, their sum, and the base."""
        bars = self._bars
        if bars is None or not 0 <= place < len(bars.layers):
            return ""
        layer = bars.layers[place]
        told = self._told(layer)
        if place in bars.unknown:
            return f"{fmt.layer_name(layer)}   {' · '.join(told)}"
        total = bars.totals[place]
        parts = [
            f"{part} {self._text(values[place])}" for part, values in bars.parts.items() if part
        ]
        value = self._text(total)
        parts.append(self.tr("total {value}").format(value=value) if parts else value)
        if place in bars.spread:
            low, high = (self._text(one) for one in bars.spread[place])
            parts.append(self.tr("between {low} and {high}").format(low=low, high=high))
        whole = sum(bars.totals)
        if self.shown_metric.adds_up and whole:
            parts.append(fmt.percent(total / whole))
        before = bars.base[place] if bars.base else total
        if before != total:
            change = fmt.change(self.shown_metric, before, total)
            if place in bars.tied:
                change = self.tr("(the intervals overlap: no order)")
            parts.append(f"{self.tr('base')} {self._text(before)} {change}")
        return f"{fmt.layer_name(layer)}   {' · '.join([*parts, *told])}"

    @property
    def _shares(self) -> bool:
        return self._share.isChecked() and self.shown_metric.adds_up

    @property
    def _estimate(self) -> EnergyEstimate | None:
        """The energy that is shown; None when another metric is."""
        snapshot = self._document.snapshot
        shown = snapshot is not None and self.shown_metric.key == "energy"
        return snapshot.current.energy if snapshot is not None and shown else None

    @property
    def _scale(self) -> float:
        """How many of the shown unit one of the metric's is."""
        return self._unit.per_joule if self.shown_metric.key == "energy" else 1.0

    def _text(self, value: float) -> str:
        if self.shown_metric.key == "energy":
            return self._unit.text(value)
        return fmt.quantity(value, self.shown_metric.unit)

    def _told(self, layer: LayerId) -> list[str]:
        """What is known of the layer beside its value."""
        estimate = self._estimate
        if estimate is None or layer not in estimate.layers:
            return []
        return energy_words.layer_texts(estimate.layers[layer], estimate.bound_by, self.tr)

    def _explain_marks(self, bars: MetricBars) -> list[str]:
        """The letters above the bars with what they stand for."""
        texts = {mark: energy_words.bound_text(mark, "", self.tr) for mark in _MARKS}
        texts["?"] = self.tr("not modelled")
        shown = set(bars.marks.values())
        return [f"{_MARKS[mark][0]} {text}" for mark, text in texts.items() if mark in shown]

    def _make_bars(self) -> MetricBars | None:
        snapshot, key = self._document.snapshot, self.shown_metric.key
        if snapshot is None:
            return None
        grouping = self._grouping if key == "energy" else None
        return metric_bars(snapshot, key, self._sorted.isChecked(), grouping)

    def _make_stale(self) -> None:
        self._stale = True
        if self.isVisible():
            self.refresh()

    def _title(self) -> str:
        short = {
            "energy": self.tr(self._unit.title),
            "memory": self.tr("Activation memory"),
            "measured_energy": self.tr("Energy"),
        }
        return short.get(self.shown_metric.key, self.tr(self.shown_metric.title))

    def _holds(self, bars: MetricBars) -> list[str]:
        """How the figures came about, and the conditions that change them most."""
        how, estimate = self.tr(bars.metric.provenance.value), self._estimate
        if estimate is not None:
            note = [self._unit.note] if self._unit.note else []
            return [how, *note, *energy_words.conditions(estimate, self.tr)]
        return [how, fmt.conditions_text({"batch": "?", **bars.conditions}, self.tr)]

    def _show_head(self) -> None:
        """The caption without its title, which stands elsewhere already; all conditions on top."""
        if self._bars is None:
            self._caption.show_text("")
            return
        self._caption.show_text(" · ".join(self._holds(self._bars)))
        everything = "\n".join(f"{name}: {text}" for name, text in self._bars.conditions.items())
        self._caption.setToolTip(fmt.tooltip(everything))

    def _make_chooser(self, keys: tuple[str, ...]) -> None:
        self._keys = keys
        self._chooser = QButtonGroup(self)
        short = {"memory": self.tr("Memory"), "measured_energy": self.tr("Energy")}
        for place, key in enumerate(keys):
            metric = METRICS[key]
            tip = self.tr(MEANINGS.get(key, ""))
            button = self._toggle(f"show_{key}", short.get(key, self.tr(metric.title)), tip, False)
            button.setVisible(len(keys) > 1)
            self._chooser.addButton(button, place)
        self._chooser.button(0).setChecked(True)
        self._chooser.idClicked.connect(self._choose)

    def _lay_out(self) -> None:
        top = row(spacing=8)
        top.setContentsMargins(8, 2, 8, 2)
        if len(self._keys) > 1:
            for button in self._chooser.buttons():
                top.addWidget(button)
        top.addWidget(self._caption, 1)
        for widget in (self._legend, self._share, self._sorted):
            top.addWidget(widget)
        self._stack = QStackedWidget()
        self._stack.addWidget(self._plot)
        self._stack.addWidget(self._empty)
        layout = column(self, spacing=0)
        layout.addLayout(top)
        layout.addWidget(self._stack, 1)

    def _toggle(self, name: str, text: str, tip: str, redraws: bool = True) -> QToolButton:
        button = named(QToolButton(self), name)
        button.setText(text)
        button.setToolTip(fmt.tooltip(tip))
        button.setCheckable(True)
        if redraws:
            button.toggled.connect(self.refresh)
        return button

    def _show_empty(self) -> None:
        self._places = {}
        self._legend.show_parts([], False)
        self._show_head()
        self._stack.setCurrentWidget(self._empty)
        title = self._title()
        if self._document.snapshot is None:
            text = self.tr("Open a model to see where its %s goes.") % title.lower()
        elif self.shown_metric.provenance is Provenance.MEASURED:
            text = self.tr("%s has not been measured yet.") % title
            text = f"{text}\n\n{self._hint}" if self._hint else text
        else:
            text = self.tr("No %s has been modelled for this model.") % title.lower()
        self._empty.setText(text)

    def _draw(self, bars: MetricBars) -> None:
        names = [fmt.layer_name(layer) for layer in bars.layers]
        total, before = sum(bars.totals) or 1.0, sum(bars.base) or 1.0
        if not self._shares:
            total = before = 1 / self._scale
        parts = {part: [one / total for one in values] for part, values in bars.parts.items()}
        # Outlines around bars that are as they were would only make many layers dark.
        ghost = {
            place: one / before
            for place, (one, now) in enumerate(zip(bars.base, bars.totals, strict=False))
            if one != now
        }
        spread = {place: (low / total, high / total) for place, (low, high) in bars.spread.items()}
        self._plot.show_bars(names, parts, ghost, spread)
        self._plot.show_marks({place: _MARKS[mark] for place, mark in bars.marks.items()})
        title = self._title()
        self._plot.setAccessibleName(self.tr("{metric} by layer").format(metric=title))
        energy = self.shown_metric.key == "energy"
        if self._shares:
            share = title.lower() if not energy else self.tr("energy")
            self._plot.set_axis(self.tr("Share of %s") % share, "%", 100)
        elif energy:
            self._plot.set_axis(self.tr(self._unit.axis), self._unit.symbol)
        else:
            self._plot.set_axis(title, self.shown_metric.unit)

    @Slot()
    def _choose(self) -> None:
        self.refresh()
        self.metric_chosen.emit()

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        if change.parts & _SHOWN_PARTS:
            self._make_stale()

    @Slot()
    def _on_theme(self) -> None:
        self._plot.apply_theme()
        self._legend.update()

    @Slot(int)
    def _read_out(self, place: int) -> None:
        text = self.read_out(place)
        self._caption.show_text(text) if text else self._show_head()
        self._legend.setVisible(not text)  # the read-out names the parts, and needs the room

    @Slot(int, bool)
    def _on_clicked(self, place: int, adds: bool) -> None:
        if self._bars is not None:
            self._selection.pick(self._bars.layers[place], adds)

    @Slot()
    def _mark(self) -> None:
        """Highlight the selected layers, and those in selected containers."""
        covered = self._selection.covers
        self._plot.mark([place for layer, place in self._places.items() if covered(layer)])

    def _table(self) -> list[list[object]] | None:
        if self._bars is None:
            return None
        energy = self.shown_metric.key == "energy"
        return self._bars.table(self._unit.header if energy else "", self._scale)

    def make_menu(self) -> QMenu:
        """The menu of the chart: its picture and its numbers, to the clipboard or a file."""
        return self._files.make_menu((self.tr("Show all layers"), self._plot.show_all))

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        self.make_menu().popup(QPoint(event.globalPos()))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._stale:
            self.refresh()
