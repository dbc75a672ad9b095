"""Edits the selected layers: choose a method, see what it would do, apply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, QTimer, Slot
from PySide6.QtGui import QKeyEvent, QShowEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QFrame,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from engine import EDITS, Change, Edit, Effect, EnergyEstimate, EngineError, Part, PruneWeights
from gui import format as fmt
from gui import operations
from gui.models.energy_facts import weight_zeros_text
from gui.models.targets import Targets, targets
from gui.selection import Selection
from gui.theme import Theme, scaled
from gui.views.edit_form import EditForm
from gui.views.effect_view import EffectView
from gui.views.energy_block import EnergyBlock
from gui.views.parts import ElidedLabel
from gui.widgets import column, named, plain_label, row

if TYPE_CHECKING:
    from gui.document import Document

_DEBOUNCE = 120  # milliseconds of rest before a preview is asked for
_BUSY = 500  # milliseconds after which waiting is said
_REFRESHING = Part.MODEL | Part.LAYERS | Part.HISTORY


class EditPanel(QWidget):
    """The form of an edit for the selected layers, with a preview of its effect."""

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
        self._accepted: dict[str, dict[str, Any]] = {}
        self._estimate: EnergyEstimate | None = None  # that the shown effect began from
        self._applying = False
        self._make_header()
        self._make_methods(theme)
        self._effect = EffectView(theme)
        self._energy = EnergyBlock(theme)
        self._busy = plain_label(self.tr("Working out the effect…"), "previewBusy", "muted")
        self._hint = plain_label("", "editHint", "muted")
        self._hint.setWordWrap(True)
        self._make_buttons()
        self._lay_out()
        self._rest = self._timer(_DEBOUNCE, self._ask)
        self._wait = self._timer(_BUSY, self._busy.show)
        document.changed.connect(self._on_changed)
        document.busy_changed.connect(self._on_busy)
        selection.changed.connect(self.refresh)
        self.refresh()

    @property
    def method(self) -> str:
        """Name of the chosen kind of edit."""
        return list(EDITS)[self._group.checkedId()]

    @property
    def form(self) -> EditForm:
        """The form of the chosen method."""
        return self._forms[self.method]

    @property
    def edit(self) -> Edit | None:
        """The edit that the form asks for; None when the method fits no selected layer."""
        layers = self._targets.by_method.get(self.method) if self._targets else None
        return self.form.edit(layers) if layers else None

    def choose_method(self, method: str) -> None:
        """Show the form of that kind of edit."""
        self._group.button(list(EDITS).index(method)).setChecked(True)
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
        self._show_energy()
        self._show_methods()
        self._restart()

    @Slot()
    def apply(self) -> None:
        """Apply the edit."""
        edit = self.edit
        if edit is None or not self._apply.isEnabled():
            return
        self._accepted[self.method] = self.form.values
        self._forget_preview()
        self._applying = True
        self._apply.setEnabled(False)  # a second click would cut what is left once more
        operations.apply_edit(self._document, edit)

    @Slot()
    def discard(self) -> None:
        """Go back to the values that were applied last, or to the first ones."""
        self.form.set_values(self._accepted[self.method])

    def _show_energy(self) -> None:
        """Say what is known of the energy of the one selected layer."""
        snapshot, chosen = self._document.snapshot, self._selection.layers
        state = snapshot.current if snapshot is not None else None
        self._energy.show_layer(state, chosen[0] if len(chosen) == 1 else None)

    def _make_header(self) -> None:
        self._title = ElidedLabel("editTitle")
        self._title.setFont(scaled(self.font(), 1.15, bold=True))
        self._summary = ElidedLabel("editSummary", "muted")

    def _make_methods(self, theme: Theme) -> None:
        """One button and one form for each kind of edit that the engine knows."""
        self._group = QButtonGroup(self)
        self._buttons = named(QFrame(), "methodButtons")
        layout = row(self._buttons, spacing=4)
        self._stack = QStackedWidget()
        self._forms: dict[str, EditForm] = {}
        icons = {"prune-channels": "ph.scissors", "prune-weights": "ph.dots-nine"}
        for place, (name, (kind, _)) in enumerate(EDITS.items()):
            button = named(QToolButton(), f"method_{name}")
            button.setText(self._method_titles().get(name, name))
            button.setIcon(theme.icon(icons.get(name, "ph.stack")))
            button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
            button.setCheckable(True)
            self._group.addButton(button, place)
            layout.addWidget(button)
            form = EditForm(kind)
            form.changed.connect(self._restart)
            self._forms[name] = form
            self._accepted[name] = form.values
            self._stack.addWidget(form)
        layout.addStretch(1)
        self._group.button(0).setChecked(True)
        self._group.idClicked.connect(self._on_method)

    def _method_titles(self) -> dict[str, str]:
        return {
            "prune-channels": self.tr("Channels"),
            "prune-weights": self.tr("Weights"),
            "quantize": self.tr("Quantize"),
        }

    def _method_tips(self) -> dict[str, str]:
        return {
            "prune-channels": self.tr(
                "Remove output channels, with everything coupled to them: smaller on any hardware"
            ),
            "prune-weights": self.tr(
                "Set single weights to zero: a saving only on hardware that skips zeros"
            ),
            "quantize": self.tr("Round weights and input to 8-bit integers, calibrated on data"),
        }

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
        inner.setSpacing(8)
        inner.addWidget(self._title)
        inner.addWidget(self._summary)
        for widget in (
            self._buttons,
            self._stack,
            self._hint,
            self._effect,
            self._busy,
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
        foot.setContentsMargins(12, 8, 12, 8)
        foot.addWidget(self._esc)
        foot.addStretch(1)
        foot.addWidget(self._apply)
        layout = column(self, spacing=0)
        layout.addWidget(scroll, 1)
        layout.addLayout(foot)

    def _timer(self, milliseconds: int, slot: Any) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.timeout.connect(slot)
        return timer

    def _show_methods(self) -> None:
        """Disable what cannot be done, with the reason, and leave a method that can."""
        tips = self._method_tips()
        possible = self._targets.by_method if self._targets else {}
        for name, button in zip(EDITS, self._group.buttons(), strict=True):
            reason = self._targets.reason_against(name, self.tr) if self._targets else ""
            button.setEnabled(name in possible)
            button.setToolTip(fmt.tooltip(reason or tips.get(name, "")))
        if possible and self.method not in possible:
            self._group.button(list(EDITS).index(next(iter(possible)))).setChecked(True)
        self._stack.setCurrentWidget(self.form)
        self._stack.setVisible(bool(possible))
        self._buttons.setVisible(self._targets is not None)
        self._esc.setVisible(bool(possible))
        self._show_hint()

    def _show_hint(self) -> None:
        """Say what to do first, or for how many of the selected layers the method works."""
        text = ""
        if self._document.snapshot is None:
            text = self.tr("Open a model to edit its layers.")
        elif self._targets is None:
            text = self.tr("Select a layer to edit it; several at once work as well.")
        elif not self._targets.by_method:
            text = self._targets.reason_against(self.method, self.tr)
        else:
            able = len(self._targets.by_method.get(self.method, ()))
            of = sum(bool(layer.methods) for layer in self._targets.leaves)
            if of > 1:
                text = self.tr("Applies to {able} of {of} layers.").format(able=able, of=of)
        self._hint.setText(text)
        self._hint.setVisible(bool(text))

    @Slot()
    def _on_method(self) -> None:
        self._stack.setCurrentWidget(self.form)
        self._show_hint()
        self._restart()

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        if change.parts & _REFRESHING:
            self.refresh()
        elif change.parts & Part.METRICS:
            self._show_energy()
            if change.snapshot.current.energy is not self._estimate and not self._applying:
                self._restart()  # the effect that is shown is in joules of another hardware

    @Slot(bool)
    def _on_busy(self, busy: bool) -> None:
        if self._applying and not busy:  # it was refused or cancelled
            self._restart()

    @Slot()
    def _restart(self) -> None:
        """Ask for the effect once the values have come to rest."""
        self._forget_preview()
        self._applying = False
        snapshot = self._document.snapshot
        self._estimate = snapshot.current.energy if snapshot is not None else None
        self._effect.setEnabled(False)  # what it shows is of earlier values
        possible = self.edit is not None
        self._apply.setEnabled(possible)
        if possible and self.isVisible():
            self._rest.start()
        elif not possible:
            self._effect.clear()

    def _forget_preview(self) -> None:
        self._rest.stop()
        self._stop_waiting()
        self._document.cancel_preview("edit")

    def _stop_waiting(self) -> None:
        self._wait.stop()
        self._busy.hide()

    @Slot()
    def _ask(self) -> None:
        edit = self.edit
        if edit is not None:
            self._wait.start()
            self._document.preview(edit, self._on_effect)

    def _on_effect(self, effect: Effect | EngineError | None) -> None:
        self._stop_waiting()
        self._effect.setEnabled(True)
        self._apply.setEnabled(isinstance(effect, Effect))
        if isinstance(effect, Effect):
            self._effect.show_effect(effect, self._zeros_text(effect))
        elif isinstance(effect, EngineError):
            self._effect.show_error(effect)
        else:
            self._effect.clear()

    def _zeros_text(self, effect: Effect) -> str:
        """What zeroed weights save on the hardware that energy is modelled on."""
        snapshot = self._document.snapshot
        if snapshot is None or not isinstance(effect.edit, PruneWeights):
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
