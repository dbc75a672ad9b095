"""Measured latency and memory by layer, and how far the layers' sum is from the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from engine import LimitStatus, Snapshot, overhead_of
from gui import format as fmt
from gui.selection import Selection
from gui.theme import Theme
from gui.views.metric_chart import MetricChart
from gui.widgets import column, plain_label

if TYPE_CHECKING:
    from gui.document import Document

KEYS = ("latency", "memory")


class LatencyView(QWidget):
    """The bars, and below them what they come to."""

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
        self._summary = plain_label("", "latencySummary", "muted")
        self._summary.setWordWrap(True)
        self._summary.setContentsMargins(8, 4, 8, 4)
        layout = column(self, spacing=0)
        layout.addWidget(self._chart, 1)
        layout.addWidget(self._summary)
        document.changed.connect(self._refresh)
        self._chart.metric_chosen.connect(self._refresh)
        self._refresh()

    @Slot()
    def _refresh(self) -> None:
        snapshot = self._document.snapshot
        text = summary(snapshot, self._chart.shown_metric.key, self.tr) if snapshot else ""
        self._summary.setText(text)
        self._summary.setVisible(bool(text))


def summary(snapshot: Snapshot, key: str, tr: fmt.Translate = str) -> str:
    """The whole in words; for latency beside the layers' sum, with the cause of the difference."""
    series = snapshot.current.table.get(key)
    if series is None:
        return ""
    whole = fmt.metric_number(series.metric, series.total.value)
    limits = [one for one in snapshot.limits if one.limit.metric == series.metric]
    kept = "".join(f" · {_limit(one, tr)}" for one in limits)
    if key == "memory":
        text = tr("Whole model {whole}, the most of any layer").format(whole=whole)
        return text + kept
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
