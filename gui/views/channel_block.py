"""Which channels of the one selected layer go: shown for an amount, or picked by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QToolButton, QWidget

from engine import ChannelScores, EngineError, LayerId, PruneChannels, PruneHeads
from gui import format as fmt
from gui.theme import Theme
from gui.views.channel_bars import ChannelBars, ChannelScroll
from gui.views.parts import ElidedLabel, choice_box
from gui.widgets import column, named, plain_label, row

if TYPE_CHECKING:
    from gui.document import Document

Picking = PruneChannels | PruneHeads


class ChannelBlock(QWidget):
    """Bars of importance, a heading, and a switch between amount and hand.

    Signals:
        picked: the channels that the hand lets go; None: the amount decides.
    """

    picked = Signal(object)

    def __init__(self, document: Document, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("channelBlock")
        self._document = document
        self._asked: tuple[str, Picking] | None = None  # state and edit that the bars are of
        self._found: ChannelScores | None = None
        self._by_hand = False
        self._title = ElidedLabel("channelTitle", "caption")
        self._bars = ChannelBars(theme, self.tr("Channel"))
        self._scroll = ChannelScroll(self._bars)
        self._problem = plain_label("", "channelProblem", "muted")
        self._problem.setWordWrap(True)
        self._order = choice_box("channelOrder", self.tr("Order of the bars"))
        self._order.addItem(self.tr("Least first"), True)
        self._order.addItem(self.tr("In order"), False)
        self._hand = named(QToolButton(), "byHand")
        self._hand.setText(self.tr("By hand"))
        self._hand.setCheckable(True)
        tip = self.tr("Pick what goes: click or drag over the bars, Shift-click for a run")
        self._hand.setToolTip(fmt.tooltip(tip))
        self._lay_out()
        self._order.currentIndexChanged.connect(self._show_bars)
        self._hand.clicked.connect(self._on_hand)
        self._bars.marked.connect(self._on_marked)

    @property
    def bars(self) -> ChannelBars:
        """The bars."""
        return self._bars

    def show_layer(self, edit: Picking | None, channels: int | None) -> None:
        """Show the channels of the layer of that edit; None: nothing to pick from."""
        self.setVisible(edit is not None)
        if edit is None:
            self._forget()
            return
        heads = isinstance(edit, PruneHeads)
        self._bars.noun = self.tr("Head") if heads else self.tr("Channel")
        asked = self._state(), _unpicked(edit)
        if asked == self._asked:
            return
        before, self._asked = self._asked, asked
        if before is None or _place(asked) != _place(before):
            self._found = None
            self._bars.show_scores(range(channels or 0), None, ranked=False)
            self._show_gone(())
        self._ask(asked[1])

    def show_gone(self, gone: Iterable[int], of: int | None = None) -> None:
        """Show what goes, of so many, by the amount; by hand it is what the hand says."""
        if self._found is None and of is not None and of != self._bars.count:
            self._bars.show_scores(range(of), None, ranked=False)
        self._show_gone(self._bars.gone if self._by_hand else gone)

    def show_refused(self) -> None:
        """Leave it to the refusal of the edit to say why; that there are no scores follows."""
        self._say("")

    def show_picked(self, picked: tuple[int, ...] | None) -> None:
        """Show that these are picked by hand; None: the amount decides."""
        self._by_hand = picked is not None
        self._hand.setChecked(self._by_hand)
        if picked is not None:
            self._show_gone(picked)

    def _lay_out(self) -> None:
        head = row(spacing=4)
        head.addWidget(self._title, 1)
        head.addWidget(self._order)
        head.addWidget(self._hand)
        layout = column(self, spacing=4)
        layout.addLayout(head)
        layout.addWidget(self._scroll)
        layout.addWidget(self._problem)
        self._problem.hide()

    def _state(self) -> str:
        snapshot = self._document.snapshot
        return snapshot.current.id if snapshot is not None else ""

    def _ask(self, edit: Picking) -> None:
        if edit.criterion != "random":
            self._document.preview_scores(edit, self._on_scores)
        else:
            self._document.cancel_preview("scores")
            self._say("")
            self._found = None if self._found is None else replace(self._found, scores=())
            self._show_bars()

    def _on_scores(self, found: ChannelScores | EngineError | None) -> None:
        if isinstance(found, ChannelScores):
            self._found = found
            self._say("")
        elif self._found is not None:  # the units hold, whatever the criterion
            self._found = replace(self._found, scores=())
        if isinstance(found, EngineError):
            self._say(f"{self.tr('No importance to show:')} {found} {found.remedy}")
        self._show_bars()

    @Slot()
    def _show_bars(self) -> None:
        ranked = bool(self._order.currentData())
        found = self._found
        if found is None:
            self._bars.show_scores(range(self._bars.count), None, ranked)
        else:
            self._bars.show_scores(found.units, found.scores or None, ranked)

    def _show_gone(self, gone: Iterable[int]) -> None:
        self._bars.show_gone(gone)
        heads = isinstance(self._asked[1], PruneHeads) if self._asked else False
        text = (
            self.tr("{gone} of {count} heads go")
            if heads
            else self.tr("{gone} of {count} channels go")
        )
        count = fmt.count(self._bars.count)
        self._title.show_text(text.format(gone=len(self._bars.gone), count=count))

    def _say(self, problem: str) -> None:
        self._problem.setText(problem)
        self._problem.setVisible(bool(problem))

    def _forget(self) -> None:
        self._document.cancel_preview("scores")
        self._asked, self._found = None, None
        self._say("")

    @Slot(bool)
    def _on_hand(self, by_hand: bool) -> None:
        self._by_hand = by_hand
        self.picked.emit(tuple(sorted(self._bars.gone)) if by_hand else None)

    @Slot(object)
    def _on_marked(self, gone: frozenset[int]) -> None:
        self._by_hand = True
        self._hand.setChecked(True)
        self._show_gone(gone)
        self.picked.emit(tuple(sorted(gone)))


def _place(asked: tuple[str, Picking]) -> tuple[str, type[Picking], tuple[LayerId, ...]]:
    """State, method and layer: with another of them there are other bars."""
    state, edit = asked
    return state, type(edit), edit.layers


def _unpicked(edit: Picking) -> Picking:
    """The edit as far as the bars depend on it."""
    if isinstance(edit, PruneHeads):
        return replace(edit, ratio=0.0, heads=())
    return replace(edit, ratio=0.0, channels=(), multiple=1, spread="layer")


def picked_layer(edit: object) -> LayerId | None:
    """The layer whose channels or heads the edit would choose among; None of several."""
    if isinstance(edit, PruneChannels | PruneHeads) and len(edit.layers) == 1:
        return edit.layers[0]
    return None
