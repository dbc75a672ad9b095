"""The table of actions: what the menus, the toolbar and the command palette are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication, QObject
from PySide6.QtGui import QAction, QKeySequence

from engine import METRICS, Grouping, Metric, Snapshot
from gui import dialogs, operations
from gui import format as fmt
from gui.document import Document
from gui.settings import Settings, ThemeMode
from gui.theme import Theme
from gui.widgets import named

if TYPE_CHECKING:
    from gui.main_window import MainWindow
    from gui.views.energy_page import EnergyView
    from gui.views.recovery_panel import RecoveryTab


@dataclass(frozen=True)
class Context:
    """All that an action works on."""

    document: Document
    settings: Settings
    theme: Theme
    window: MainWindow


@dataclass(frozen=True)
class Standing:
    """How things stand, as far as actions ask.

    Attributes:
        busy: whether jobs are under way.
        training: whether a training is; ``better`` whether it has weights worth keeping.
    """

    snapshot: Snapshot | None = None
    busy: bool = False
    training: bool = False
    better: bool = False


Enabled = Callable[[Standing], bool]


def always(now: Standing) -> bool:
    return True


def is_busy(now: Standing) -> bool:
    return now.busy


def has_model(now: Standing) -> bool:
    return now.snapshot is not None


def has_data(now: Standing) -> bool:
    return now.snapshot is not None and now.snapshot.data is not None


def has_edits(now: Standing) -> bool:
    return now.snapshot is not None and now.snapshot.cursor > 0


def can_redo(now: Standing) -> bool:
    return now.snapshot is not None and now.snapshot.cursor < len(now.snapshot.history)


def has_limits(now: Standing) -> bool:
    return now.snapshot is not None and bool(now.snapshot.limits)


def is_training(now: Standing) -> bool:
    return now.training


def is_better(now: Standing) -> bool:
    return now.training and now.better


@dataclass(frozen=True)
class Spec:
    """One action.

    Attributes:
        menu: title of its menu; with ``/`` of a menu within.
        group: where it stands there; a line is drawn between groups.
        run: does it.
        enabled: whether it can be done as things stand.
        checked: for a switch, whether it is on.
        edits: whether it changes the model, so that it has to wait while that is trained.
        tip: what it does, in one sentence.
        short: the word on the toolbar; empty when it is not there.
    """

    id: str
    text: str
    menu: str
    group: int
    run: Callable[[Context], object]
    enabled: Enabled = has_model
    shortcuts: tuple[str, ...] = ()
    icon: str = ""
    tip: str = ""
    short: str = ""
    checked: Callable[[Context], bool] | None = None
    edits: bool = False


def _text(text: str) -> str:
    """Mark a text for translation; it is translated when the action is built."""
    return str(QT_TRANSLATE_NOOP("Actions", text))


def _dialog(ask: Callable[..., None]) -> Callable[[Context], None]:
    """An action that asks for something first."""
    return lambda context: ask(context.document, context.window)


def _operation(verb: Callable[[Document], None]) -> Callable[[Context], None]:
    """An action that needs nothing but the document."""
    return lambda context: verb(context.document)


def _set_theme(mode: ThemeMode, context: Context) -> None:
    context.settings.theme_mode = mode
    context.theme.set_mode(mode)


def _toggle_measuring(context: Context) -> None:
    context.settings.measure_after_edit = not context.settings.measure_after_edit


def _profile(tab: str) -> Callable[[Context], None]:
    """An action that profiles and shows the view of it."""
    return lambda context: context.window.profile(tab)


def _recovery(tab: RecoveryTab) -> Callable[[Context], None]:
    """An action that shows a way of winning accuracy back."""
    return lambda context: context.window.show_recovery(tab)


def _toggle_pause(context: Context) -> None:
    paused = context.document.training.paused
    (operations.resume_tuning if paused else operations.pause_tuning)(context.document)


def _energy(view: EnergyView) -> Callable[[Context], None]:
    """An action that shows energy by layer."""
    return lambda context: context.window.show_energy(view)


def _group_energy(grouping: Grouping, context: Context) -> None:
    context.settings.grouping = grouping


def _grouping(id_: str, grouping: Grouping, text: str, tip: str) -> Spec:
    return Spec(
        id_,
        text,
        "&Energy",
        2,
        partial(_group_energy, grouping),
        always,
        tip=tip,
        checked=lambda context: context.settings.grouping == grouping,
    )


def _ask_hardware(context: Context) -> None:
    # Reading descriptions takes pydantic, which the window shows without.
    from gui.dialogs.hardware import ask_hardware

    ask_hardware(context.document, context.settings, context.window)


def _limit(metric: Metric) -> Spec:
    return Spec(
        f"limit_{metric.key}",
        f"{metric.title}…",
        "&Limits",
        0,
        lambda context: dialogs.ask_limit(context.document, context.window, metric),
        tip=_text("Set the bound that the model shall keep within"),
    )


def _appearance(mode: ThemeMode, text: str) -> Spec:
    return Spec(
        f"theme_{mode}",
        text,
        "&View/&Appearance",
        1,
        partial(_set_theme, mode),
        always,
        checked=lambda context: context.theme.mode == mode,
    )


# One action a line or two: id, text, menu, group, what it does, when; then keys, icon, tip, short.
# fmt: off
_FILE: Final = (
    Spec("open_demo", _text("Open &demo"), "&File", 0, _operation(operations.open_demo), always,
         ("Ctrl+D",), "ph.rocket-launch", _text("Open a small trained network with its data")),
    Spec("show_catalogue", _text("Model &catalogue"), "&File", 0,
         lambda context: context.window.show_catalogue(), always,
         ("Ctrl+K",), "ph.stack", _text("Compare every published model, and open one"),
         _text("Catalogue")),
    Spec("open_file", _text("&Open…"), "&File", 0, _dialog(dialogs.ask_file), always,
         ("Ctrl+O",), "ph.folder-open",
         _text("Open a checkpoint, an exported program, an ONNX model or a Python file"),
         _text("Open")),
    Spec("open_factory", _text("Open Python &factory…"), "&File", 0,
         _dialog(dialogs.ask_factory), always, ("Ctrl+Shift+O",), "ph.code",
         _text("Open what a Python function returns")),
    Spec("model_information", _text("Model &information…"), "&File", 1,
         _dialog(dialogs.show_information), has_model, ("Ctrl+I",), "ph.info",
         _text("Where the model comes from, what it takes, and what opening it found")),
    Spec("export_checkpoint", _text("&Export checkpoint…"), "&File", 2,
         _dialog(dialogs.ask_export_checkpoint), has_model, ("Ctrl+E",), "ph.export",
         _text("Write weights and structure to a file that Secateur opens again"),
         _text("Export")),
    Spec("export_program", _text("Export &program (.pt2)…"), "&File", 2,
         _dialog(dialogs.ask_export_program), has_model, ("Ctrl+Shift+E",), "ph.package",
         _text("Write a program that torch runs without Secateur")),
    Spec("export_onnx", _text("Export &ONNX…"), "&File", 2,
         _dialog(dialogs.ask_export_onnx), has_model, (), "ph.share-network",
         _text("Write a file for ONNX Runtime, quantized layers as integers")),
    Spec("save_recipe", _text("&Save recipe…"), "&File", 3,
         _dialog(dialogs.ask_save_recipe), has_edits, ("Ctrl+S",), "ph.floppy-disk",
         _text("Write the edits to a file, to repeat them elsewhere")),
    Spec("apply_recipe", _text("&Apply recipe…"), "&File", 3,
         _dialog(dialogs.ask_recipe), has_model, ("Ctrl+Shift+R",), "ph.list-numbers",
         _text("Apply the edits of a recipe to this model"), edits=True),
    Spec("save_description", _text("Save &network description…"), "&File", 4,
         _dialog(dialogs.ask_save_description), has_model, (), "ph.file-text",
         _text("Write the layers as the MIT energy tool takes them, with their modelled energy")),
    Spec("quit", _text("&Quit"), "&File", 5, lambda context: context.window.close(), always,
         ("Ctrl+Q",), "ph.sign-out"),
)
_EDIT: Final = (
    Spec("undo", _text("&Undo"), "&Edit", 0, _operation(operations.undo), has_edits,
         ("Ctrl+Z",), "ph.arrow-u-up-left", _text("Take the last edit back"), _text("Undo"),
         edits=True),
    Spec("redo", _text("&Redo"), "&Edit", 0, _operation(operations.redo), can_redo,
         ("Ctrl+Shift+Z", "Ctrl+Y"), "ph.arrow-u-up-right",
         _text("Apply the edit again that was taken back last"), _text("Redo"), edits=True),
    Spec("find_layer", _text("&Find layers"), "&Edit", 1,
         lambda context: context.window.focus_filter(), has_model,
         ("Ctrl+F",), "ph.funnel", _text("Go to the filter above the layers")),
    Spec("command_palette", _text("&Command palette…"), "&Edit", 1,
         lambda context: context.window.show_command_palette(), always,
         ("Ctrl+Shift+P",), "ph.magnifying-glass", _text("Find a command or a layer by typing")),
)
_PROFILE: Final = (
    Spec("evaluate", _text("&Evaluate accuracy"), "&Profile", 0,
         _operation(operations.evaluate), has_data, ("F5",), "ph.target",
         _text("Take the accuracy of the model as it is now, on the validation data"),
         _text("Evaluate")),
    Spec("measure_latency", _text("Measure &latency"), "&Profile", 0,
         _operation(operations.measure_latency), has_model, ("F6",), "ph.timer",
         _text("Time the model as it is now, layer by layer, on this machine"),
         _text("Measure latency")),
    Spec("measure_memory", _text("Measure &memory"), "&Profile", 0,
         _operation(operations.measure_memory), has_model, ("Shift+F6",), "ph.hard-drives",
         _text("Take the most memory that is in use while each layer runs")),
    Spec("measure_energy", _text("Measure ener&gy"), "&Profile", 0,
         _operation(operations.measure_energy), has_model, ("Ctrl+F6",), "ph.lightning",
         _text("Count the joules of each layer; takes a counter of energy, and some minutes")),
    Spec("profile_operators", _text("Profile &operators"), "&Profile", 1,
         _profile("operators"), has_model, ("F7",), "ph.list-bullets",
         _text("Record which operators one pass runs, and count them to layers")),
    Spec("flame_graph", _text("&Flame graph"), "&Profile", 1,
         _profile("flame"), has_model, ("Shift+F7",), "ph.flame",
         _text("Record one pass and show its layers and operators over time")),
    Spec("profile_python", _text("Profile &Python calls"), "&Profile", 1,
         _profile("python"), has_model, ("F8",), "ph.tree-structure",
         _text("Record which Python functions the model runs through")),
    Spec("profile_lines", _text("Profile source l&ines of the layer"), "&Profile", 1,
         _profile("lines"), has_model, ("Shift+F8",), "ph.code",
         _text("Time the lines of the selected layer's forward")),
    Spec("roofline", _text("&Roofline"), "&Profile", 1,
         _profile("roofline"), has_model, ("F9",), "ph.chart-line",
         _text("Set the layers' speed against what this machine reaches at best")),
    Spec("sensitivity", _text("&Sensitivity of layers"), "&Profile", 2,
         lambda context: context.window.show_sensitivity(), has_model, ("Ctrl+Shift+S",),
         "ph.thermometer", _text("Show what each layer can bear: layers by settings")),
    Spec("scan_sensitivity", _text("S&can sensitivity, or stop the scan"), "&Profile", 2,
         lambda context: context.window.scan_sensitivity(), has_data, (), "ph.play",
         _text("Measure in the background how the loss rises, layer by layer")),
    Spec("open_map", _text("Open sensitivity &map…"), "&Profile", 2,
         _dialog(dialogs.ask_map), has_model, (), "ph.folder-open",
         _text("Show a map that was saved here, or a table of Distiller's")),
    Spec("save_trace", _text("Save Chrome &trace…"), "&Profile", 3,
         lambda context: context.window.save_trace(), has_model, (), "ph.floppy-disk",
         _text("Write the profiled operators for Perfetto and chrome://tracing")),
    Spec("save_prof", _text("Save Python profile (.prof)…"), "&Profile", 3,
         lambda context: context.window.save_prof(), has_model, (), "ph.floppy-disk",
         _text("Write the Python calls for pstats and its viewers")),
    Spec("choose_data", _text("Choose validation &data…"), "&Profile", 4,
         lambda context: dialogs.ask_data(context.document, context.window, context.theme),
         has_model, (), "ph.database", _text("Choose the data that accuracy is taken on"),
         edits=True),
    Spec("measure_after_edit", _text("&Measure after each edit"), "&Profile", 5,
         _toggle_measuring, always,
         tip=_text("Take accuracy and latency again whenever the model has changed"),
         checked=lambda context: context.settings.measure_after_edit),
    Spec("cancel_all", _text("&Stop all jobs"), "&Profile", 6,
         _operation(operations.cancel_all), is_busy, ("Ctrl+.",), "ph.stop-circle",
         _text("Stop everything that is under way; nothing half-done remains")),
)
_ENERGY: Final = (
    Spec("choose_hardware", _text("&Choose hardware…"), "&Energy", 0,
         lambda context: context.window.choose_hardware(), has_model, ("Ctrl+H",), "ph.cpu",
         _text("Choose what energy is modelled on")),
    Spec("hardware_forms", _text("&Hardware descriptions…"), "&Energy", 0,
         _ask_hardware,
         always, (), "ph.sliders",
         _text("Look at descriptions, edit a copy, import and export")),
    Spec("energy_bars", _text("Energy as &bars"), "&Energy", 1,
         _energy("bars"), has_model, ("Ctrl+B",), "ph.chart-bar",
         _text("Show the energy of each layer as stacked bars")),
    Spec("energy_map", _text("Energy as &map"), "&Energy", 1,
         _energy("map"), has_model, ("Ctrl+M",), "ph.squares-four",
         _text("Show the energy of the modules as areas within areas")),
    _grouping("energy_by_data", "data type", _text("By &data type"),
              _text("Add energy up by arithmetic, weights, inputs and outputs")),
    _grouping("energy_by_level", "level", _text("By &level"),
              _text("Add energy up by arithmetic and levels of memory")),
    Spec("measure_zeros", _text("Measure &zeros"), "&Energy", 3,
         _operation(operations.measure_zeros), has_data, (), "ph.number-zero",
         _text("Count zeros of activations on data, for hardware that skips them")),
)
_RECOVER: Final = (
    Spec("tune", _text("&Fine-tune…"), "&Recover", 0, _recovery("tune"), has_model,
         ("Ctrl+T",), "ph.barbell", _text("Train the model as it is now, and keep the best epoch")),
    Spec("recalibrate", _text("Recalibrate &batch norms…"), "&Recover", 0, _recovery("norms"),
         has_model, ("Ctrl+Shift+B",), "ph.ruler",
         _text("Measure the statistics of batch norms anew on training samples")),
    Spec("prune_gradually", _text("Prune &gradually…"), "&Recover", 0, _recovery("gradual"),
         has_model, ("Ctrl+G",), "ph.trend-down", _text("Prune in steps, and train after each")),
    Spec("training_curves", _text("&Curves of training"), "&Recover", 1, _recovery("curves"),
         has_model, ("Ctrl+Shift+T",), "ph.chart-line",
         _text("Show loss and accuracy over the epochs")),
    Spec("pause_training", _text("&Pause training"), "&Recover", 2, _toggle_pause, is_training,
         ("Ctrl+Shift+Space",), "ph.pause",
         _text("Let the training rest, or go on"),
         checked=lambda context: context.document.training.paused),
    Spec("keep_training", _text("&Stop and keep the best"), "&Recover", 2,
         _operation(operations.keep_tuning), is_better, ("Ctrl+Shift+.",), "ph.check-circle",
         _text("End the training and apply the weights of its best epoch")),
    Spec("discard_training", _text("Stop and &discard"), "&Recover", 2,
         _operation(operations.discard_tuning), is_training, (), "ph.trash",
         _text("End the training; the model stays as it is")),
)
_LIMITS: Final = (
    *(_limit(metric) for metric in METRICS.values()),
    Spec("clear_limits", _text("&Remove all limits"), "&Limits", 1,
         _operation(operations.clear_limits), has_limits),
)
_VIEW: Final = (
    Spec("reset_layout", _text("&Reset layout"), "&View", 1,
         lambda context: context.window.reset_layout(), has_model,
         tip=_text("Put every panel back where it was at first")),
    _appearance("light", _text("&Light")),
    _appearance("dark", _text("&Dark")),
    _appearance("system", _text("As the &system")),
)
_HELP: Final = (
    Spec("shortcuts", _text("&Keyboard shortcuts"), "&Help", 0,
         lambda context: context.window.show_shortcuts(), always, ("F1",), "ph.keyboard"),
    Spec("formats", _text("&File formats"), "&Help", 0,
         lambda context: context.window.show_formats(), always, (), "ph.files",
         _text("What can be done with each kind of file")),
    Spec("energy_help", _text("&Energy"), "&Help", 0,
         lambda context: context.window.show_energy_help(), always, (), "ph.lightning",
         _text("How energy is modelled and measured, and on what hardware")),
    Spec("pruning_help", _text("&Pruning and recovery"), "&Help", 0,
         lambda context: context.window.show_pruning_help(), always, (), "ph.scissors",
         _text("What each method removes and saves, and how accuracy is won back")),
    Spec("sensitivity_help", _text("&Sensitivity"), "&Help", 0,
         lambda context: context.window.show_sensitivity_help(), always, (), "ph.thermometer",
         _text("What the map of sensitivity says, and how it is measured")),
    Spec("quantization_help", _text("&Quantization"), "&Help", 0,
         lambda context: context.window.show_quantization_help(), always, (), "ph.grid-four",
         _text("What can be rounded, how ranges are found, and how accuracy is kept")),
    Spec("about", _text("&About Secateur"), "&Help", 0,
         lambda context: context.window.show_about(), always, (), "ph.info"),
)
# fmt: on

ACTIONS: Final[tuple[Spec, ...]] = (
    *_FILE, *_EDIT, *_PROFILE, *_RECOVER, *_ENERGY, *_LIMITS, *_VIEW, *_HELP,
)  # fmt: skip


class Actions(QObject):
    """The table as Qt's actions, enabled and checked as the document stands."""

    def __init__(self, context: Context) -> None:
        super().__init__(context.window)
        self._context = context
        self._actions = {spec.id: self._build(spec) for spec in ACTIONS}
        self._seen = (False, False, False)  # of the training
        context.document.changed.connect(self.refresh)
        context.document.busy_changed.connect(self.refresh)
        context.document.training.changed.connect(self._follow_training)
        context.settings.changed.connect(self.refresh)
        self.refresh()

    def __getitem__(self, id_: str) -> QAction:
        return self._actions[id_]

    def __iter__(self) -> Iterator[tuple[Spec, QAction]]:
        return ((spec, self._actions[spec.id]) for spec in ACTIONS)

    def refresh(self, _: object = None) -> None:
        """Enable and check every action as things stand."""
        now = self._standing()
        refusal = self._context.document.apply_refusal()
        for spec, action in self:
            waits = spec.edits and bool(refusal)
            action.setEnabled(spec.enabled(now) and not waits)
            if spec.edits:
                action.setToolTip(fmt.tooltip(refusal) if waits else self._tip(spec, action))
            if spec.checked is not None:
                action.setChecked(spec.checked(self._context))

    def _standing(self) -> Standing:
        document = self._context.document
        training = document.training
        return Standing(document.snapshot, document.busy, training.active, training.better)

    def _follow_training(self) -> None:
        """Refresh when the training means something else for actions, not at every batch."""
        training = self._context.document.training
        seen = training.active, training.paused, training.better
        if seen != self._seen:
            self._seen = seen
            self.refresh()

    def _tip(self, spec: Spec, action: QAction) -> str:
        tip = translate(spec.tip or spec.text).replace("&", "").rstrip("…")
        keys = action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
        return f"{tip} ({keys})" if keys else tip

    def _build(self, spec: Spec) -> QAction:
        action = named(QAction(translate(spec.text), self), spec.id)
        action.setShortcuts([QKeySequence(shortcut) for shortcut in spec.shortcuts])
        action.setCheckable(spec.checked is not None)
        if spec.icon:
            action.setIcon(self._context.theme.icon(spec.icon))
        if spec.short:
            action.setIconText(translate(spec.short))
        action.setToolTip(self._tip(spec, action))
        action.triggered.connect(partial(self._run, spec))
        # The window holds them, so that shortcuts work while the menu bar is hidden.
        self._context.window.addAction(action)
        return action

    def _run(self, spec: Spec, _: bool = False) -> None:
        spec.run(self._context)
        self.refresh()


def translate(text: str) -> str:
    """A text of the table in the user's language."""
    return QCoreApplication.translate("Actions", text)


def plain_text(action: QAction) -> str:
    """The action's text as one reads it, without marks for the keyboard."""
    return action.text().replace("&", "")


def full_text(spec: Spec, action: QAction) -> str:
    """The action's text behind that of its menu, such as ``Limits: Accuracy…``."""
    menu = translate(spec.menu.rpartition("/")[2]).replace("&", "")
    return f"{menu}: {plain_text(action)}"
