"""The strip of figures: what the model is worth and what it costs, against base and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QFrame, QWidget

from engine import METRICS, Change, Snapshot
from gui.models.figures import figure
from gui.theme import Theme
from gui.views.figure_card import FigureCard
from gui.widgets import row

if TYPE_CHECKING:
    from gui.document import Document

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
        for key in _ORDER:
            card = FigureCard(METRICS[key], theme, self)
            card.data_wanted.connect(self.data_wanted)
            card.limit_wanted.connect(self.limit_wanted)
            card.broken_wanted.connect(self.broken_wanted)
            if self._cards:
                layout.addWidget(_divider())
            layout.addWidget(card, 5 if key == "accuracy" else 4)  # it may hold a button
            self._cards[key] = card
        document.changed.connect(self._on_changed)
        self._show(document.snapshot)

    def card(self, key: str) -> FigureCard:
        """The card of that metric."""
        return self._cards[key]

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        self._show(change.snapshot)

    def _show(self, snapshot: Snapshot | None) -> None:
        for key, card in self._cards.items():
            card.show_figure(figure(snapshot, METRICS[key], self.tr) if snapshot else None)


def _divider() -> QFrame:
    line = QFrame()
    line.setProperty("role", "divider")
    line.setFixedWidth(1)
    return line
