"""The strip of figures: what the model is worth and what it costs, against base and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QFrame, QWidget

from engine import METRICS, Change, EngineError, Part, Quantity, Snapshot
from gui.models.figures import figure, figure_so_far
from gui.theme import Theme
from gui.views.figure_card import FigureCard
from gui.widgets import row

if TYPE_CHECKING:
    from gui.document import Document

# With these another state is shown, and what could not be taken of the last one is tried again.
_RENEWING = Part.MODEL | Part.LAYERS | Part.HISTORY | Part.DATA
_ORDER = ("accuracy", "energy", "latency", "macs", "size", "parameters")


class FiguresStrip(QWidget):
    """Six cards in a row.

    Signals:
        data_wanted: the user wants to choose validation data.
        limit_wanted: the user wants to set the limit of the metric with that key.
        broken_wanted: the user wants to know which samples were skipped.
    """

    data_wanted = Signal()
    limit_wanted = Signal(str)
    broken_wanted = Signal()

    def __init__(self, document: Document, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("figuresStrip")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        layout = row(self, spacing=0)
        self._cards: dict[str, FigureCard] = {}
        self._problems: dict[str, str] = {}  # by metric: why it could not be taken
        self._so_far: Quantity | None = None  # accuracy while it is being taken
        for key in _ORDER:
            card = FigureCard(METRICS[key], theme, self)
            card.data_wanted.connect(self.data_wanted)
            card.limit_wanted.connect(self.limit_wanted)
            card.broken_wanted.connect(self.broken_wanted)
            if self._cards:
                layout.addWidget(_divider())
            layout.addWidget(card, 5 if key == "accuracy" else 4)  # it may hold a button
            self._cards[key] = card
        self._document = document
        document.changed.connect(self._on_changed)
        document.unmeasured.connect(self._on_unmeasured)
        document.jobs.progressed.connect(self._on_progress)
        document.jobs.jobs_changed.connect(self._on_progress)
        self._show(document.snapshot)

    def card(self, key: str) -> FigureCard:
        """The card of that metric."""
        return self._cards[key]

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        if change.parts & _RENEWING:
            self._problems.clear()
        self._show(change.snapshot)

    @Slot(str, object)
    def _on_unmeasured(self, key: str, error: EngineError) -> None:
        self._problems[key] = f"{error} {error.remedy}"
        self._show(self._document.snapshot)

    @Slot()
    def _on_progress(self) -> None:
        """Show accuracy as far as the job that takes it has come."""
        views = self._document.jobs.jobs()
        so_far = next((one.partial for one in views if isinstance(one.partial, Quantity)), None)
        if so_far != self._so_far:
            self._so_far = so_far
            self._show_card("accuracy", self._document.snapshot)

    def _show(self, snapshot: Snapshot | None) -> None:
        for key in self._cards:
            self._show_card(key, snapshot)

    def _show_card(self, key: str, snapshot: Snapshot | None) -> None:
        problem = self._problems.get(key, "")
        shown = figure(snapshot, METRICS[key], self.tr, problem) if snapshot else None
        so_far = self._so_far if key == "accuracy" and _is_of_current(snapshot) else None
        if shown is not None and so_far is not None:
            shown = figure_so_far(shown, so_far, self.tr)
        self._cards[key].show_figure(shown)


def _is_of_current(snapshot: Snapshot | None) -> bool:
    """Whether what comes in is the current state's accuracy; a base without one comes first."""
    return snapshot is not None and (not snapshot.cursor or "accuracy" in snapshot.base.table)


def _divider() -> QFrame:
    line = QFrame()
    line.setProperty("role", "divider")
    line.setFixedWidth(1)
    return line
