"""Where the time and the memory go: the views of profiling, and how the model is run for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLayout,
    QPushButton,
    QStackedWidget,
    QTabBar,
    QToolButton,
    QWidget,
)

from engine import (
    CallProfile,
    Change,
    Device,
    LayerId,
    LineProfile,
    OperatorProfile,
    Part,
    Roofline,
    RunSettings,
    Snapshot,
)
from gui import format as fmt
from gui import operations
from gui.selection import Selection
from gui.theme import Theme, scaled
from gui.views.call_tree import CallTree
from gui.views.flame_view import FlameView
from gui.views.latency_view import LatencyView, measured
from gui.views.line_heat import LineHeat
from gui.views.operator_table import OperatorTable
from gui.views.roofline_chart import RooflineChart
from gui.views.run_form import RunForm
from gui.widgets import column, named, plain_label, row

if TYPE_CHECKING:
    from gui.document import Document, Profiled

_TEXT_WIDTH = 480
_LEAST_SIZE = (320, 160)


@dataclass(frozen=True)
class _Tab:
    """One view.

    Attributes:
        explains: what it shows, in a sentence or two.
        verb: what its button says.
        kind: of the profile that it shows; None when it reads the document's measurements.
        widget: the view; with a kind it has ``show_profile``.
    """

    key: str
    title: str
    explains: str
    verb: str
    kind: type | None
    run: Callable[[], None]
    widget: Any


class ProfilePage(QWidget):
    """Tabs over one row of settings; what a tab lacks it offers to measure."""

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("profilePage")
        self._document = document
        self._selection = selection
        self._taken: dict[type, Profiled] = {}
        self._shown: dict[str, Profiled] = {}  # by tab; a view is filled when it is looked at
        self._cursors: dict[str, int] = {}  # of the states that led to the one shown
        self._devices_wanted = True
        self._flame = FlameView(selection, theme)
        self._calls = CallTree(theme)
        self._latency = LatencyView(document, selection, theme)
        self._follow = named(QToolButton(), "followCalls")
        self._follow.setText(self.tr("and the functions it calls"))
        self._follow.setCheckable(True)
        self._follow.setToolTip(self.tr("Time the lines of functions that the forward calls too"))
        self._tabs = self._make_tabs(theme)
        self._make_bar()
        self._make_empty()
        self._lay_out()
        document.changed.connect(self._on_changed)
        document.profiled.connect(self._on_profiled)
        document.devices_found.connect(self._on_devices)
        selection.changed.connect(self._refresh)
        self._latency.metric_chosen.connect(self._refresh)
        if document.snapshot is not None:
            self._follow_history(document.snapshot)
            self._form.show_batch(document.snapshot.model.batch)
        self._on_tab(0)

    @property
    def current(self) -> str:
        """Key of the tab in front."""
        return self._tabs[self._bar.currentIndex()].key

    def show_tab(self, key: str) -> None:
        """Bring that tab to the front."""
        self._bar.setCurrentIndex([tab.key for tab in self._tabs].index(key))

    @Slot()
    def run(self) -> None:
        """Measure what the tab in front shows."""
        if self._button.isEnabled():
            self._tab.run()

    def save_trace(self) -> None:
        """Ask where the Chrome trace shall go; without one, show where to take it."""
        self.show_tab("flame")
        if self._result(self._tab):
            self._flame.ask_trace()

    def save_prof(self) -> None:
        """Ask where the Python profile shall go; without one, show where to take it."""
        self.show_tab("python")
        if self._result(self._tab):
            self._calls.ask_prof()

    @property
    def _tab(self) -> _Tab:
        return self._tabs[self._bar.currentIndex()]

    @property
    def _layer(self) -> LayerId | None:
        """The layer whose lines are timed: the first selected one."""
        return next(iter(self._selection.layers), None)

    def _make_tabs(self, theme: Theme) -> tuple[_Tab, ...]:
        document, selection = self._document, self._selection
        return (
            _Tab(
                "latency",
                self.tr("Latency, memory, energy"),
                self.tr(
                    "Median time of each layer with its spread, the most memory that was in use "
                    "while it ran, and its joules where they are counted, beside the whole model's."
                ),
                self.tr("Measure"),
                None,
                self._measure,
                self._latency,
            ),
            _Tab(
                "operators",
                self.tr("Operators"),
                self.tr(
                    "The operators of torch that one pass runs, with their time and memory, each "
                    "counted to the layer that called it."
                ),
                self.tr("Profile operators"),
                OperatorProfile,
                lambda: operations.profile_operators(document),
                OperatorTable(selection, theme),
            ),
            _Tab(
                "flame",
                self.tr("Flame graph"),
                self.tr(
                    "One pass over time: layers, the layers within them, and below those the "
                    "operators that they run."
                ),
                self.tr("Profile operators"),
                OperatorProfile,
                lambda: operations.profile_operators(document),
                self._flame,
            ),
            _Tab(
                "python",
                self.tr("Python"),
                self.tr(
                    "Which Python functions the model runs through, who calls whom, and how much "
                    "time that takes beside the operators."
                ),
                self.tr("Profile Python"),
                CallProfile,
                lambda: operations.profile_python(document),
                self._calls,
            ),
            _Tab(
                "lines",
                self.tr("Lines"),
                self.tr("The source of a layer's forward with the time of every line."),
                self.tr("Profile lines"),
                LineProfile,
                self._run_lines,
                LineHeat(theme),
            ),
            _Tab(
                "roofline",
                self.tr("Roofline"),
                self.tr(
                    "Each layer's arithmetic per byte against what this machine reaches at best: "
                    "left of the ridge memory holds it back, right of it arithmetic."
                ),
                self.tr("Take roofline"),
                Roofline,
                lambda: operations.take_roofline(document),
                RooflineChart(selection, theme),
            ),
        )

    def _make_bar(self) -> None:
        self._bar = named(QTabBar(), "profileTabs")
        self._bar.setExpanding(False)
        self._bar.setDrawBase(False)
        self._bar.setDocumentMode(True)
        self._bar.setAccessibleName(self.tr("Profile views"))
        for tab in self._tabs:
            place = self._bar.addTab(tab.title)
            self._bar.setTabToolTip(place, fmt.tooltip(tab.explains))
        self._bar.currentChanged.connect(self._on_tab)
        self._form = RunForm()
        self._form.changed.connect(self._on_settings)
        self._button = named(QPushButton(), "profileButton")
        self._button.setProperty("primary", True)
        self._button.clicked.connect(self.run)
        self._stale = plain_label("", "staleBadge", "badge")
        self._stale.setToolTip(
            self.tr("The model has been edited since; profile again to see it as it is now.")
        )

    def _make_empty(self) -> None:
        """What a tab shows before it has been measured; the button moves into it."""
        self._empty = named(QWidget(), "profileEmpty")
        self._empty_title = plain_label("", "profileEmptyTitle")
        self._empty_title.setFont(scaled(self.font(), 1.15, bold=True))
        self._empty_text = plain_label("", "profileEmptyText", "muted")
        self._empty_text.setWordWrap(True)
        self._empty_text.setFixedWidth(_TEXT_WIDTH)
        self._empty_place = row()
        self._empty_hint = plain_label("", "profileHint", "muted")
        layout = column(self._empty, spacing=8)
        layout.addStretch(1)
        for part in (self._empty_title, self._empty_text):
            part.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            layout.addWidget(part, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addSpacing(4)
        layout.addLayout(self._centred(self._empty_place))
        layout.addWidget(self._empty_hint, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addStretch(1)

    def _centred(self, inner: QHBoxLayout) -> QHBoxLayout:
        outer = row()
        outer.addStretch(1)
        outer.addLayout(inner)
        outer.addStretch(1)
        return outer

    def _lay_out(self) -> None:
        self._button_place = row()
        top = row(spacing=8)
        top.setContentsMargins(0, 0, 8, 0)
        top.addWidget(self._bar, 1)
        top.addWidget(self._stale)
        top.addLayout(self._button_place)
        settings = row(spacing=4)
        settings.setContentsMargins(8, 4, 8, 4)
        self._follow.setFixedHeight(self._form.sizeHint().height())
        settings.addWidget(self._form)
        settings.addWidget(self._follow)
        settings.addStretch(1)
        self._stack = QStackedWidget()
        for tab in self._tabs:
            self._stack.addWidget(tab.widget)
        self._stack.addWidget(self._empty)
        layout = column(self, spacing=0)
        # Narrow docks cut the settings off instead of pushing the other panels aside.
        layout.setSizeConstraint(QLayout.SizeConstraint.SetNoConstraint)
        self.setMinimumSize(*_LEAST_SIZE)
        layout.addLayout(top)
        layout.addLayout(settings)
        layout.addWidget(self._stack, 1)

    @property
    def _counts_energy(self) -> bool:
        """Whether it is energy that the first tab would measure: minutes, so by itself."""
        return self._latency.shown_metric.key == "measured_energy"

    def _measure(self) -> None:
        measure = operations.measure_energy if self._counts_energy else operations.measure
        measure(self._document)

    def _run_lines(self) -> None:
        if self._layer is not None:
            operations.profile_lines(self._document, self._layer, self._follow.isChecked())

    def _result(self, tab: _Tab) -> bool:
        """Whether that tab has something to show."""
        snapshot = self._document.snapshot
        if tab.kind is None:
            return snapshot is not None and measured(snapshot)
        return tab.kind in self._taken

    def _hint(self) -> str:
        """Why the tab in front cannot be measured yet, or of what it would be."""
        if self._document.snapshot is None:
            return self.tr("Open a model first.")
        if self._tab.key != "lines":
            return ""
        if self._layer is None:
            return self.tr("Select a layer first.")
        return fmt.layer_name(self._layer)

    @Slot()
    def _refresh(self) -> None:
        """Show the result of the tab in front, or what it would be; the button where it belongs."""
        tab, hint = self._tab, self._hint()
        lines = tab.key == "lines"
        shown = self._result(tab)
        self._fill(tab)
        self._stack.setCurrentWidget(tab.widget if shown else self._empty)
        self._empty_title.setText(tab.title)
        self._empty_text.setText(tab.explains)
        self._empty_text.setFixedHeight(self._empty_text.heightForWidth(_TEXT_WIDTH))
        self._empty_hint.setText(hint)
        self._empty_hint.setVisible(bool(hint))
        energy = tab.key == "latency" and self._counts_energy
        self._button.setText(self.tr("Measure energy") if energy else tab.verb)
        self._button.setToolTip(fmt.tooltip(hint if lines else tab.explains))
        ready = self._document.snapshot is not None and (not lines or self._layer is not None)
        self._button.setEnabled(ready)
        (self._button_place if shown else self._empty_place).addWidget(self._button)
        self._follow.setVisible(lines)
        stale = self._stale_text(tab)
        self._stale.setText(stale)
        self._stale.setVisible(bool(stale))

    def _fill(self, tab: _Tab) -> None:
        """Give the view the newest profile of its kind, if it does not have it."""
        taken = self._taken.get(tab.kind) if tab.kind is not None else None
        if taken is not None and self._shown.get(tab.key) is not taken:
            self._shown[tab.key] = taken
            tab.widget.show_profile(taken.result)

    def _stale_text(self, tab: _Tab) -> str:
        taken, snapshot = self._shown.get(tab.key), self._document.snapshot
        if taken is None or snapshot is None or taken.state == snapshot.current.id:
            return ""
        if self._cursors.get(taken.state) == snapshot.cursor - 1:
            return self.tr("of the state before the last edit")
        return self.tr("of another state of the model")

    @Slot(int)
    def _on_tab(self, _: int) -> None:
        self._refresh()
        self._look_for_devices()

    def _look_for_devices(self) -> None:
        if self._devices_wanted and self.isVisible() and self._document.snapshot is not None:
            self._document.find_devices()

    @Slot(object)
    def _on_devices(self, devices: Sequence[Device]) -> None:
        self._devices_wanted = False
        self._form.show_devices(devices)

    @Slot(object)
    def _on_settings(self, settings: RunSettings) -> None:
        self._document.run_settings = settings
        self._latency.show_counters()  # they count for one device each

    @Slot(object)
    def _on_profiled(self, profiled: Profiled) -> None:
        self._taken[type(profiled.result)] = profiled
        self._refresh()

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        if change.parts & Part.MODEL:
            self._taken.clear()
            self._shown.clear()
            self._cursors.clear()
            self._form.show_batch(change.snapshot.model.batch)
        self._follow_history(change.snapshot)
        self._refresh()

    def _follow_history(self, snapshot: Snapshot) -> None:
        kept = {id_: at for id_, at in self._cursors.items() if at < snapshot.cursor}
        self._cursors = kept | {snapshot.current.id: snapshot.cursor}

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        self._look_for_devices()
