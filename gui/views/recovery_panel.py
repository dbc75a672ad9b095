"""Wins accuracy back: batch norms measured anew, training, pruning in steps; and its curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import (
    QFrame,
    QLabel,
    QMenu,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from engine import (
    Device,
    Edit,
    Layer,
    LayerId,
    PruneChannels,
    PruneWeights,
    RoundingProgress,
    Snapshot,
)
from gui import format as fmt
from gui import operations
from gui.selection import Selection
from gui.tasks import JobState
from gui.theme import Theme
from gui.views.recovery_forms import FieldForm, GradualForm, NormsForm, TuningForm
from gui.views.training_pane import TrainingPane
from gui.widgets import column, named, plain_label, row

if TYPE_CHECKING:
    from gui.document import Document
    from gui.training import Training

RecoveryTab: TypeAlias = Literal["tune", "norms", "gradual", "curves"]

_NORMS: Final = ("batchnorm", "bn")  # in the kind of a layer, also in one of the user's own


@dataclass(frozen=True)
class _Way:
    """One way of recovery.

    Attributes:
        explains: what it does, in a sentence or two.
        verb: what its button says.
        refusal: why it cannot be done, and what to do first; empty when it can.
    """

    key: RecoveryTab
    title: str
    explains: str
    verb: str
    widget: FieldForm
    refusal: Callable[[Snapshot], str]
    start: Callable[[], None]


class RecoveryPanel(QWidget):
    """A tab for each way, and one for the curves of training.

    Args:
        planned: the edit that the panel for edits asks for at the moment.
    """

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        planned: Callable[[], Edit | None],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("recoveryPanel")
        self._document = document
        self._selection = selection
        self._planned = planned
        self._devices_wanted = True
        self._norms, self._tuning, self._gradual = NormsForm(), TuningForm(), GradualForm()
        self._pane = TrainingPane(document, theme)
        self._ways = self._make_ways()
        self._make_bar()
        self._make_buttons()
        self._lay_out()
        document.changed.connect(self.refresh)
        document.tuning_changed.connect(self._on_tuning)
        document.training.changed.connect(self._show_buttons)
        document.devices_found.connect(self._on_devices)
        selection.changed.connect(self.refresh)
        self.refresh()

    @property
    def current(self) -> RecoveryTab:
        """Key of the tab in front."""
        return self._keys[self._bar.currentIndex()]

    def show_tab(self, key: RecoveryTab) -> None:
        """Bring that tab to the front."""
        self._bar.setCurrentIndex(self._keys.index(key))

    @Slot()
    def start(self) -> None:
        """Do what the tab in front asks for."""
        way = self._way
        if way is not None and self._start.isEnabled():
            focused = self._start.hasFocus()
            way.start()
            if focused and self._document.tuning:
                self._pause.setFocus()  # the button to begin is gone

    @Slot()
    def refresh(self) -> None:
        """Show what can be done with the model as it stands."""
        snapshot = self._document.snapshot
        chosen = _topmost(self._selection.layers)
        self._norms.show_selection(chosen)
        self._tuning.show_selection(chosen)
        if snapshot is not None and snapshot.data is not None:
            self._tuning.show_samples(snapshot.data.training_samples)
        self._gradual.show_plan(self._planned(), self._tuning.edit)
        self._show_hint()
        self._show_buttons()

    @property
    def _keys(self) -> list[RecoveryTab]:
        return [*(way.key for way in self._ways), "curves"]

    @property
    def _way(self) -> _Way | None:
        """The way of the tab in front; None before the curves."""
        return next((way for way in self._ways if way.key == self.current), None)

    def _make_ways(self) -> tuple[_Way, ...]:
        document = self._document
        return (
            _Way(
                "tune",
                self.tr("Fine-tune"),
                self.tr("Train on the training split; what is pruned or rounded stays so."),
                self.tr("Start training"),
                self._tuning,
                self._data_refusal,
                lambda: operations.tune(document, self._tuning.edit),
            ),
            _Way(
                "norms",
                self.tr("Batch norms"),
                self.tr(
                    "Measure the statistics of batch norms anew: often a second that wins back "
                    "most of what pruning has lost."
                ),
                self.tr("Recalibrate"),
                self._norms,
                self._norms_refusal,
                lambda: operations.recalibrate(document, self._norms.edit),
            ),
            _Way(
                "gradual",
                self.tr("Gradual"),
                self.tr("Prune in steps, and train after each: the network adapts on the way."),
                self.tr("Prune gradually"),
                self._gradual,
                self._gradual_refusal,
                self._prune_gradually,
            ),
        )

    def _make_bar(self) -> None:
        self._bar = named(QTabBar(), "recoveryTabs")
        self._bar.setExpanding(False)
        self._bar.setDrawBase(False)
        self._bar.setDocumentMode(True)
        self._bar.setAccessibleName(self.tr("Ways of recovery"))
        for way in self._ways:
            place = self._bar.addTab(way.title)
            self._bar.setTabToolTip(place, fmt.tooltip(way.explains))
        place = self._bar.addTab(self.tr("Curves"))
        tip = self.tr("Loss and accuracy of the training that is under way, or of the last one")
        self._bar.setTabToolTip(place, fmt.tooltip(tip))
        self._bar.currentChanged.connect(self._on_tab)

    def _make_buttons(self) -> None:
        self._start = named(QPushButton(), "startRecovery")
        self._start.setProperty("primary", True)
        self._start.clicked.connect(self.start)
        self._pause = named(QPushButton(), "pauseTraining")
        self._pause.clicked.connect(self._toggle_pause)
        self._stop = named(QPushButton(self.tr("Stop")), "stopTraining")
        menu = QMenu(self._stop)
        self._keep = menu.addAction(self.tr("Keep the best so far"))
        self._keep.triggered.connect(self._stop_and_keep)
        menu.addAction(self.tr("Discard")).triggered.connect(self._discard)
        self._stop.setMenu(menu)

    def _lay_out(self) -> None:
        self._explains = self._wrapped("recoveryExplains", "muted")
        self._hint = self._wrapped("recoveryHint", "muted")
        self._stack = QStackedWidget()
        for way in self._ways:
            self._stack.addWidget(_scrolled(way.widget))
        content = QWidget()
        inside = QVBoxLayout(content)
        inside.setContentsMargins(12, 8, 12, 0)
        inside.setSpacing(8)
        inside.addWidget(self._explains)
        inside.addWidget(self._stack, 1)
        self._pages = QStackedWidget()
        self._pages.addWidget(content)
        self._pages.addWidget(_inset(self._pane))
        foot = row(spacing=8)
        foot.setContentsMargins(12, 8, 12, 8)
        foot.addWidget(self._pause)
        foot.addWidget(self._stop)
        foot.addStretch(1)
        foot.addWidget(self._start)
        hint = column(spacing=0)
        hint.setContentsMargins(12, 4, 12, 0)
        hint.addWidget(self._hint)
        layout = column(self, spacing=0)
        layout.addWidget(self._bar)
        layout.addWidget(self._pages, 1)
        layout.addLayout(hint)
        layout.addLayout(foot)

    def _wrapped(self, name: str, role: str) -> QLabel:
        label = plain_label("", name, role)
        label.setWordWrap(True)
        return label

    # -- what can be done, and why not

    def _data_refusal(self, snapshot: Snapshot) -> str:
        if not snapshot.model.has_weights:
            return self.tr("The model has no weights. Open it with weights.")
        if snapshot.data is None:
            return self.tr("Choose data first: their training split is trained on.")
        return ""

    def _norms_refusal(self, snapshot: Snapshot) -> str:
        if not any(_is_norm(layer) for layer in snapshot.current.tree):
            return self.tr("The model has no batch norm whose statistics could be measured.")
        if snapshot.data is None:
            return self.tr("Choose data first: statistics are measured on their training split.")
        return ""

    def _gradual_refusal(self, snapshot: Snapshot) -> str:
        if not isinstance(self._planned(), PruneChannels | PruneWeights):
            return self.tr("Choose layers, and a ratio of channels or weights, in the panel Layer.")
        return self._data_refusal(snapshot)

    def _refusal(self, way: _Way) -> str:
        snapshot = self._document.snapshot
        if snapshot is None:
            return self.tr("Open a model first.")
        return self._document.apply_refusal() or way.refusal(snapshot)

    # -- showing

    @Slot(int)
    def _on_tab(self, _: int) -> None:
        self.refresh()

    def _show_hint(self) -> None:
        way = self._way
        self._pages.setCurrentIndex(0 if way is not None else 1)
        if way is None:
            self._hint.hide()
            return
        self._stack.setCurrentIndex(self._ways.index(way))
        explains = self._explanation(way)
        self._explains.setText(explains)
        refusal = self._refusal(way)
        self._hint.setText(refusal)
        self._hint.setVisible(bool(refusal))
        self._start.setText(way.verb)
        self._start.setToolTip(fmt.tooltip(refusal or explains))
        self._start.setEnabled(not refusal)

    def _explanation(self, way: _Way) -> str:
        """What the way does with this very model."""
        snapshot = self._document.snapshot
        if way.key != "tune" or snapshot is None or not snapshot.current.tree.quantized_count()[0]:
            return way.explains
        return self.tr(
            "Quantization-aware training: the weights learn with the rounding in place, scales stay"
            " as they are, and what comes of it are integers again. What is pruned stays so."
        )

    @Slot()
    def _show_buttons(self) -> None:
        """Offer to begin, or to pause and end what has begun."""
        training = self._document.training
        ending = training.state is JobState.STOPPING
        for button in (self._pause, self._stop):
            button.setVisible(training.active)
            button.setEnabled(not ending)
        self._pause.setText(self.tr("Go on") if training.paused else self.tr("Pause"))
        self._keep.setEnabled(training.better)
        self._keep.setText(self._keep_text(training))
        self._start.setVisible(self._way is not None and not training.active)

    def _keep_text(self, training: Training) -> str:
        progress = training.news.progress if training.news is not None else None
        if isinstance(progress, RoundingProgress):
            if training.better:
                return self.tr("Keep the layers done; the others are rounded to the nearest")
            return self.tr("Keep the layers done (none is yet)")
        if training.better:
            return self.tr("Keep the best so far")
        return self.tr("Keep the best so far (no epoch was better yet)")

    # -- doing

    def _prune_gradually(self) -> None:
        edit = self._planned()
        if isinstance(edit, PruneChannels | PruneWeights):
            pruning = self._gradual.pruning(edit, self._tuning.edit)
            operations.prune_gradually(self._document, pruning)

    @Slot()
    def _toggle_pause(self) -> None:
        paused = self._document.training.paused
        (operations.resume_tuning if paused else operations.pause_tuning)(self._document)

    @Slot()
    def _stop_and_keep(self) -> None:
        operations.keep_tuning(self._document)

    @Slot()
    def _discard(self) -> None:
        operations.discard_tuning(self._document)

    @Slot(bool)
    def _on_tuning(self, tuning: bool) -> None:
        if tuning:
            self.show_tab("curves")
        self.refresh()

    def _look_for_devices(self) -> None:
        if self._devices_wanted and self.isVisible() and self._document.snapshot is not None:
            self._document.find_devices()

    @Slot(object)
    def _on_devices(self, devices: Sequence[Device]) -> None:
        self._devices_wanted = False
        self._tuning.show_devices(devices)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.refresh()
        self._look_for_devices()


def _is_norm(layer: Layer) -> bool:
    return not layer.note and any(name in layer.kind.lower() for name in _NORMS)


def _topmost(layers: Sequence[LayerId]) -> tuple[LayerId, ...]:
    """The layers without those that lie within another one of them."""
    chosen = set(layers)
    return tuple(
        layer
        for layer in layers
        if not any(layer != one and (not one or layer.startswith(f"{one}.")) for one in chosen)
    )


def _scrolled(widget: QWidget) -> QScrollArea:
    scroll = QScrollArea()
    scroll.setWidget(widget)
    scroll.setWidgetResizable(True)
    scroll.setFrameShape(QFrame.Shape.NoFrame)
    scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return scroll


def _inset(widget: QWidget) -> QWidget:
    around = QWidget()
    layout = column(around)
    layout.setContentsMargins(12, 8, 12, 0)
    layout.addWidget(widget)
    return around
