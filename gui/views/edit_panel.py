"""Edits the selected layers: choose a method, see what it would do, apply."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtGui import QKeyEvent, QShowEvent
from PySide6.QtWidgets import (
    QFrame,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from engine import (
    EDITS,
    Change,
    Edit,
    Effect,
    EnergyEstimate,
    EngineError,
    LayerId,
    Part,
    Quantize,
)
from gui import format as fmt
from gui import operations
from gui.models.edit_words import FAMILIES, family_of
from gui.models.effect_rows import changes_something
from gui.models.energy_facts import weight_zeros_text
from gui.models.targets import Targets, targets
from gui.selection import Selection
from gui.theme import Theme, scaled
from gui.views.accuracy_block import AccuracyBlock
from gui.views.channel_block import ChannelBlock, picked_layer
from gui.views.edit_form import EditForm, EditForms
from gui.views.effect_view import EffectView
from gui.views.energy_block import EnergyBlock
from gui.views.method_bar import MethodBar
from gui.views.parts import ElidedLabel
from gui.views.range_block import RangeBlock
from gui.widgets import column, named, plain_label, row

if TYPE_CHECKING:
    from gui.document import Document

_BREATH = 30  # milliseconds in which values that change together become one question
_PATIENCE = 0.5  # seconds that a question may take on although its values have changed
_BUSY = 500  # milliseconds after which waiting is said
_REFRESHING = Part.MODEL | Part.LAYERS | Part.HISTORY


def _learns(edit: Edit) -> bool:
    """Whether the edit is learned in the background."""
    return isinstance(edit, Quantize) and edit.rounding == "adaround"


class EditPanel(QWidget):
    """The form of an edit for the selected layers, with a preview of its effect.

    Signals:
        consent_wanted: the error over code that may not run yet, and who names that code.
    """

    consent_wanted = Signal(object, str)

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("editPanel")
        self._document = document
        self._selection = selection
        self._targets: Targets | None = None
        self._chosen: tuple[LayerId, ...] = ()  # when it was shown last
        self._estimate: EnergyEstimate | None = None  # that the shown effect began from
        self._refusal: EngineError | None = None
        self._asked: type[Edit] | None = None
        self._without: dict[str, EngineError] = {}  # by method: layers that cannot take part
        self._applying = False
        self._make_header()
        self._make_methods()
        self._channels = ChannelBlock(document, theme)
        self._ranges = RangeBlock(document, theme)
        self._accuracy = AccuracyBlock(document, theme)
        self._effect = EffectView(theme, selection, self._accuracy)
        self._energy = EnergyBlock(theme)
        self._busy = plain_label(self.tr("Working out the effect…"), "previewBusy", "muted")
        self._hint = plain_label("", "editHint", "muted")
        self._hint.setWordWrap(True)
        self._make_buttons()
        self._lay_out()
        self._next = self._timer(_BREATH, self._ask)  # active: what is shown is of earlier values
        self._asked_at: float | None = None  # while a question is under way
        self._wait = self._timer(_BUSY, self._busy.show)
        self._channels.picked.connect(self._on_picked)
        self._effect.review_wanted.connect(self._want_consent)
        self._accuracy.answered.connect(self._go_on)
        document.code_allowed.connect(self._restart)
        document.changed.connect(self._on_changed)
        document.busy_changed.connect(self._on_busy)
        document.tuning_changed.connect(self._restart)
        selection.changed.connect(self._on_selected)
        self.refresh()

    @property
    def method(self) -> str:
        """Name of the chosen kind of edit."""
        return self._ways[self._bar.family]

    @property
    def form(self) -> EditForm:
        """The form of the chosen method."""
        return self._forms.form(self.method)

    @property
    def edit(self) -> Edit | None:
        """The edit that the form asks for; None while it fits no layer or lacks something."""
        layers = self._able
        return self.form.edit(layers) if layers and not self.form.lack else None

    @property
    def _able(self) -> tuple[Any, ...]:
        """The selected layers that the method works for."""
        able = self._targets.by_method.get(self.method, ()) if self._targets else ()
        out = self._out(self.method)
        return tuple(one for one in able if one not in out) if out else able

    def _out(self, method: str) -> frozenset[LayerId]:
        """The selected layers that turned out not to be able to take part."""
        refusal = self._without.get(method)
        return frozenset(refusal.details["layers"]) if refusal is not None else frozenset()

    @Slot(str)
    def choose_method(self, method: str) -> None:
        """Show the form of that kind of edit."""
        self._ways[family_of(method)] = method
        self._bar.choose(family_of(method))
        self._on_method()

    @Slot()
    def refresh(self) -> None:
        """Show the selected layers and what can be done to them."""
        snapshot = self._document.snapshot
        chosen = self._selection.layers
        self._targets = targets(snapshot, chosen, self.tr) if snapshot and chosen else None
        self._title.show_text(self._targets.title if self._targets else self.tr("No layer"))
        self._summary.show_text(self._targets.summary if self._targets else "")
        self._summary.setVisible(self._targets is not None)
        self._forms.forget_picks()  # numbers of other layers, or of wider ones
        self._without.clear()
        self._show_energy()
        self._show_methods(stay=chosen == self._chosen)
        self._chosen = chosen
        self._on_method()

    @Slot()
    def apply(self) -> None:
        """Apply the edit."""
        edit = self.edit
        if edit is None or not self._apply.isEnabled():
            return
        self._forms.accept(self.method)
        self._forget_preview()
        self._applying = True
        self._apply.setEnabled(False)  # a second click would cut what is left once more
        operations.apply_edit(self._document, edit)
        if _learns(edit) and not self._document.tuning:  # refused: a scan is under way
            self._restart()

    @Slot()
    def discard(self) -> None:
        """Go back to the values that were applied last, or to the first ones."""
        self._forms.discard(self.method)

    def _show_energy(self) -> None:
        """Say what is known of the energy of the one selected layer."""
        snapshot, chosen = self._document.snapshot, self._selection.layers
        state = snapshot.current if snapshot is not None else None
        self._energy.show_layer(state, chosen[0] if len(chosen) == 1 else None)

    def _make_header(self) -> None:
        self._title = ElidedLabel("editTitle")
        self._title.setFont(scaled(self.font(), 1.15, bold=True))
        self._summary = ElidedLabel("editSummary", "muted")

    def _make_methods(self) -> None:
        """One button a family, one form a kind of edit."""
        self._bar = MethodBar()
        self._forms = EditForms()
        self._ways = {family: methods[0] for family, methods in FAMILIES.items()}
        self._forms.changed.connect(self._restart)
        self._forms.way_wanted.connect(self.choose_method)
        self._bar.chosen.connect(self._on_method)

    def _make_buttons(self) -> None:
        self._apply = named(QPushButton(self.tr("Apply")), "applyEdit")
        self._apply.setProperty("primary", True)
        self._apply.setToolTip(self.tr("Apply the edit (Enter)"))
        self._apply.clicked.connect(self.apply)
        self._esc = plain_label(self.tr("Esc to discard"), "escHint", "muted")

    def _lay_out(self) -> None:
        content = named(QWidget(), "editContent")
        inner = QVBoxLayout(content)
        inner.setContentsMargins(12, 8, 12, 8)
        inner.setSpacing(6)
        inner.addWidget(self._title)
        inner.addWidget(self._summary)
        for widget in (
            self._bar,
            self._forms,
            self._channels,
            self._hint,
            self._effect,
            self._busy,
            self._ranges,
            self._energy,
        ):
            inner.addWidget(widget)
        inner.addStretch(1)
        scroll = named(QScrollArea(), "editScroll")
        scroll.setWidget(content)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        foot = row(spacing=8)
        foot.setContentsMargins(12, 4, 12, 4)
        foot.addWidget(self._esc)
        foot.addStretch(1)
        foot.addWidget(self._apply)
        layout = column(self, spacing=0)
        layout.addWidget(scroll, 1)
        layout.addLayout(foot)

    def _timer(self, milliseconds: int, slot: Callable[[], object]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.timeout.connect(slot)
        return timer

    def _show_methods(self, stay: bool) -> None:
        """Offer what the model has a use for, and leave a method that can be applied.

        Args:
            stay: with what was applied just now, so that Enter once more is not another edit.
        """
        known = self._targets
        reasons: dict[str, str] = {}
        for family, methods in FAMILIES.items():
            if known is None or not known.in_model.intersection(methods):
                continue
            able = [method for method in methods if method in known.by_method]
            reasons[family] = "" if able else known.reason_against(methods[0], self.tr)
            if able and self._ways[family] not in able:
                self._ways[family] = able[0]
        possible = [family for family, reason in reasons.items() if not reason]
        stay = stay and self._bar.family in reasons
        if possible and self._bar.family not in possible and not stay:
            self._bar.choose(possible[0])
        self._bar.show_families(reasons)
        self._bar.setVisible(bool(reasons))
        self._esc.setVisible(bool(possible))

    def _show_hint(self) -> None:
        """Say what to do first, or for how many of the selected layers the method works."""
        text = ""
        if self._document.snapshot is None:
            text = self.tr("Open a model to edit its layers.")
        elif self._targets is None:
            text = self.tr("Select a layer to edit it; several at once work as well.")
        elif self.method not in self._targets.by_method:
            text = self._targets.reason_against(self.method, self.tr)
        else:
            text = self._document.apply_refusal() or self.form.lack
            text = text or self._count_text(self._targets) or self._targets.why_float(self.tr)
        refusal = self._without.get(self.method)
        self._hint.setToolTip(fmt.tooltip(str(refusal)) if refusal else "")
        self._hint.setText(text)
        self._hint.setVisible(bool(text))

    def _count_text(self, known: Targets) -> str:
        """How many of the selected layers take part, where that is not plain."""
        able = len(self._able)
        if self.method in ("remove-blocks", "prune-heads"):  # of what holds layers
            return self.tr("Applies to %s of them.") % able if able > 1 else ""
        of = known.candidates(self.method)
        if of < 2:
            return ""
        text = self.tr("Applies to {able} of {of} layers.").format(able=able, of=of)
        if self.method in self._without:
            text += self.tr(" The channels of the others have to stay.")
        return text

    @Slot()
    def _on_method(self) -> None:
        reasons: dict[str, str] = {}
        if self._targets is not None:
            self.form.set_layers(self._targets.selected(self._able))
            ways = FAMILIES[family_of(self.method)]
            reasons = {way: self._targets.reason_against(way, self.tr) for way in ways}
        self._forms.show_form(self.method, reasons)
        self._forms.setVisible(bool(self._able))
        self._restart()

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        if change.parts & _REFRESHING:
            self.refresh()
        elif change.parts & (Part.METRICS | Part.DATA):
            self._show_energy()
            fresh = change.snapshot.current.energy is not self._estimate
            if (fresh or change.parts & Part.DATA) and not self._applying:
                self._restart()  # what is shown is in joules of other hardware, or of other data

    @Slot(bool)
    def _on_busy(self, busy: bool) -> None:
        if self._applying and not busy:  # it was refused or cancelled
            self._restart()

    @Slot()
    def _on_selected(self) -> None:
        self._accuracy.clear()  # its scale was for other layers
        self.refresh()

    @Slot(object)
    def _on_picked(self, picked: tuple[int, ...] | None) -> None:
        self.form.set_picked(picked)

    @Slot()
    def _restart(self) -> None:
        """Ask for the effect of these values.

        A question that is soon answered goes on meanwhile, so that the answers follow the hand.
        """
        self._applying = False
        snapshot = self._document.snapshot
        self._estimate = snapshot.current.energy if snapshot is not None else None
        self._effect.set_stale(True)
        self._accuracy.set_stale()
        self._show_hint()
        self._show_channels()
        self._show_ranges()
        possible = self.edit is not None
        self._allow(possible)
        if possible and self.isVisible():
            self._next.start(self._delay())
            return
        self._forget_preview()
        if not possible:
            self._effect.clear()
            self._accuracy.clear()

    def _allow(self, possible: bool) -> None:
        """Let the edit be applied if that is possible, or say why it has to wait."""
        refusal = self._document.apply_refusal()
        self._apply.setEnabled(possible and not refusal)
        self._apply.setToolTip(fmt.tooltip(refusal or self.tr("Apply the edit (Enter)")))
        self._show_hint()

    def _delay(self) -> int:
        """Milliseconds until these values are asked about, if what is under way lasts as long."""
        if self._next.isActive():
            return self._next.remainingTime()
        spent = monotonic() - self._asked_at if self._asked_at is not None else _PATIENCE
        return max(_BREATH, round((_PATIENCE - spent) * 1000))

    def _show_channels(self) -> None:
        """Let channels be picked where one layer is to lose some."""
        drafted = self.form.edit(self._able) if self._able else None
        layer = picked_layer(drafted)
        snapshot = self._document.snapshot
        if layer is None or snapshot is None or not self.isVisible():
            self._channels.show_layer(None, None)
            return
        self._channels.show_layer(drafted, snapshot.current.tree[layer].channels)  # type: ignore[arg-type]
        self._channels.show_picked(self.form.picked)

    def _show_ranges(self) -> None:
        """Show the values of the one layer that is to be rounded, or is, under its grids."""
        able, known = self._able, self._targets
        drafted = self.form.edit(able) if able else None
        if not self.isVisible() or known is None:
            self._ranges.show_layer(None, None)
        elif not isinstance(drafted, Quantize):
            self._ranges.show_layer(known.rounded, None)
        else:
            one = able[0] if len(able) == 1 else known.one
            shown = one in able and drafted.activations != "none"
            self._ranges.show_layer(one if shown else known.rounded, drafted if shown else None)

    def _forget_preview(self) -> None:
        self._next.stop()
        self._asked_at = None
        self._stop_waiting()
        self._document.cancel_preview("edit")
        self._accuracy.cancel()

    def _stop_waiting(self) -> None:
        self._wait.stop()
        self._busy.hide()

    @Slot()
    def _ask(self) -> None:
        edit = self.edit
        self._forget_preview()
        if edit is not None:
            self._wait.start()
            self._asked_at, self._asked = monotonic(), type(edit)
            self._document.preview(edit, self._on_effect)

    @Slot()
    def _go_on(self) -> None:
        """An answer is complete: ask about the values of now, if they are others."""
        self._asked_at = None
        if self._next.isActive():
            self._ask()

    def _on_effect(self, effect: Effect | EngineError | None) -> None:
        self._stop_waiting()
        if isinstance(effect, EngineError) and self._go_without(effect):
            return
        stale = self._next.isActive()
        self._effect.set_stale(stale)
        changes = isinstance(effect, Effect) and changes_something(effect)
        self._allow(changes or stale)
        if isinstance(effect, Effect):
            idle = "" if changes else self.tr("This would change nothing.")
            self._effect.show_effect(effect, idle or self._zeros_text(effect))
            self._show_removed(effect)
            self._accuracy.follow(effect.edit)
            return
        self._accuracy.clear()
        self._go_on()
        if isinstance(effect, EngineError):
            self._refusal = effect
            self._channels.show_refused()
            self._effect.show_error(effect)
        else:
            self._effect.clear()

    def _go_without(self, refusal: EngineError) -> bool:
        """Leave out the layers that cannot take part; False where that is no way out."""
        able, out = self._able, refusal.details.get("layers", ())
        left = [one for one in able if one not in out]
        if not left or len(left) == len(able) or self._asked is not EDITS[self.method][0]:
            return False
        self._without[self.method] = refusal
        self._asked_at = None
        self._on_method()
        return True

    @Slot()
    def _want_consent(self) -> None:
        named_by = self.form.values.get("method", "")
        self.consent_wanted.emit(self._refusal, named_by)

    def _show_removed(self, effect: Effect) -> None:
        """Mark the channels that would go."""
        layer = picked_layer(effect.edit)
        for one in effect.layers:
            if one.layer == layer and one.quantity in ("output channels", "heads"):
                self._channels.show_gone(one.removed, one.before)
                return
        self._channels.show_gone(())

    def _zeros_text(self, effect: Effect) -> str:
        """What zeroed weights save on the hardware that energy is modelled on."""
        snapshot = self._document.snapshot
        if snapshot is None or self._bar.family != "weights":
            return ""
        return weight_zeros_text(snapshot.current.energy.settings.hardware, self.tr)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.apply()
        elif event.key() == Qt.Key.Key_Escape:
            self.discard()
        else:
            super().keyPressEvent(event)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._restart()
