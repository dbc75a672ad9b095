"""Measured latency, memory and energy by layer, and how far the layers are from the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import Signal, Slot
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QWidget

from engine import CounterInfo, LimitStatus, Metric, Snapshot, overhead_of
from gui import format as fmt
from gui.models.measured_energy import counters_text, measured_text
from gui.selection import Selection
from gui.theme import Theme
from gui.views.metric_chart import MetricChart
from gui.widgets import column, plain_label

if TYPE_CHECKING:
    from gui.document import Document

KEYS = ("latency", "memory", "measured_energy")
_ENERGY = "measured_energy"


class LatencyView(QWidget):
    """The bars, and below them what they come to.

    Signals:
        metric_chosen: another metric is shown.
    """

    metric_chosen = Signal()

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("latencyView")
        self._document = document
        self._chart = MetricChart(document, selection, theme, KEYS)
        self._counters: tuple[CounterInfo, ...] | None = None
        self._summary = plain_label("", "latencySummary", "muted")
        self._summary.setWordWrap(True)
        self._summary.setContentsMargins(8, 4, 8, 4)
        layout = column(self, spacing=0)
        layout.addWidget(self._chart, 1)
        layout.addWidget(self._summary)
        document.changed.connect(self._refresh)
        document.counters_found.connect(self._on_counters)
        self._chart.metric_chosen.connect(self._on_metric)
        self._refresh()

    @property
    def shown_metric(self) -> Metric:
        """The metric that is shown."""
        return self._chart.shown_metric

    @Slot()
    def _refresh(self) -> None:
        snapshot = self._document.snapshot
        text = summary(snapshot, self._chart.shown_metric.key, self.tr) if snapshot else ""
        self._summary.setText(text)
        self._summary.setVisible(bool(text))
        self.show_counters()

    @Slot()
    def _on_metric(self) -> None:
        self._refresh()
        self._look_for_counters()
        self.metric_chosen.emit()

    def _look_for_counters(self) -> None:
        """Ask what could count energy once that is looked for here."""
        wanted = self._counters is None and self.shown_metric.key == _ENERGY
        if wanted and self.isVisible() and self._document.snapshot is not None:
            self._document.find_counters()

    @Slot(object)
    def _on_counters(self, counters: Sequence[CounterInfo]) -> None:
        self._counters = tuple(counters)
        self.show_counters()

    def show_counters(self) -> None:
        """Say where energy is not measured yet what counts it, or why nothing does."""
        hint = ""
        if self.shown_metric.key == _ENERGY and self._counters is not None:
            device = self._document.run_settings.device
            hint = counters_text(self._counters, device, self.tr)
        self._chart.show_hint(hint)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.show_counters()  # another device may be chosen by now
        self._look_for_counters()


def summary(snapshot: Snapshot, key: str, tr: fmt.Translate = str) -> str:
    """The whole in words, beside the layers' sum with the cause of the difference."""
    series = snapshot.current.table.get(key)
    if series is None:
        return ""
    whole = fmt.metric_number(series.metric, series.total.value)
    limits = [one for one in snapshot.limits if one.limit.metric == series.metric]
    kept = "".join(f" · {_limit(one, tr)}" for one in limits)
    if key == "memory":
        text = tr("Whole model {whole}, the most of any layer").format(whole=whole)
        return text + kept
    if key == _ENERGY:
        return measured_text(series, snapshot.base.table.get(key), tr) + kept
    found = overhead_of(series)
    if found is None:
        return tr("Whole model {whole}").format(whole=whole) + kept
    return tr(
        "Layers {layers} · whole {whole}{kept} · overhead {difference} ({share}): {cause}"
    ).format(
        layers=fmt.quantity(found.layers, "s"),
        whole=whole,
        kept=kept,
        difference=fmt.quantity(found.difference, "s"),
        share=fmt.percent(found.share),
        cause=found.cause,
    )


def _limit(status: LimitStatus, tr: fmt.Translate) -> str:
    mark = {True: "✓", False: "✗", None: "?"}[status.met]
    return f"{mark} {fmt.bound_text(status.limit, tr)}"


def measured(snapshot: Snapshot) -> bool:
    """Whether there is anything to show."""
    return any(key in snapshot.current.table for key in KEYS)
