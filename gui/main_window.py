"""The window: pages, menus and toolbar out of the table of actions; no logic."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PySide6.QtCore import QByteArray, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QDragEnterEvent, QDropEvent, QPaintEvent, QShowEvent
from PySide6.QtWidgets import QDialog, QLayout, QMainWindow, QStackedWidget

from engine import (
    METRICS,
    Change,
    EngineError,
    ExportReport,
    LayerId,
    Part,
    Snapshot,
)
from gui import dialogs, errors, help_dialogs
from gui import format as fmt
from gui.actions import Actions, Context, full_text
from gui.document import Document
from gui.menus import Menus, RecentMenu, build_toolbar
from gui.selection import Selection
from gui.settings import Settings
from gui.theme import Theme
from gui.views.command_palette import CommandPalette, Entry
from gui.views.start_page import StartPage
from gui.widgets import plain_label

if TYPE_CHECKING:
    from engine import DescriptionReport
    from gui.views.catalogue_view import CatalogueView
    from gui.views.energy_page import EnergyView
    from gui.views.recovery_panel import RecoveryTab
    from gui.views.workbench import Workbench

_FIRST_SIZE: Final = (1280, 800)
_LEAST_SIZE: Final = (800, 500)
_SHUT_DOWN_TIMEOUT: Final = 10.0
_BREATH_MS: Final = 20
_UNSEEN_MS: Final = 1000  # a window that starts minimised is never painted
_NOTICE_MS: Final = 15_000
_TITLE_LENGTH: Final = 80


class MainWindow(QMainWindow):
    """A start page, and the workbench once a model is open.

    The workbench is built after the first paint: its charts take longer to import than the window
    takes to show.

    Signals:
        first_painted: the window is there to be seen.
        prepared: everything that the window itself imports is imported.

    Args:
        quiet: show no dialog when a job fails; whoever asks for that listens to
            ``document.failed``.
    """

    first_painted = Signal()
    prepared = Signal()

    def __init__(
        self, document: Document, settings: Settings, theme: Theme, quiet: bool = False
    ) -> None:
        super().__init__()
        self.setObjectName("main_window")
        self.setAcceptDrops(True)
        self.resize(*_FIRST_SIZE)
        # A fixed least size, in place of one that follows whatever the panels show.
        layout = self.layout()
        if layout is not None:
            layout.setSizeConstraint(QLayout.SizeConstraint.SetNoConstraint)
        self.setMinimumSize(*_LEAST_SIZE)
        self.selection = Selection(self)
        self._document = document
        self._settings = settings
        self._theme = theme
        self._painted = self._begun = False
        self._steps = iter((self._load_icons, self._load_charts, self._load_workbench))
        self._workbench: Workbench | None = None
        self._question: QDialog | None = None  # before the window closes
        self._catalogue: CatalogueView | None = None
        self.commands = Actions(Context(document, settings, theme, self))
        recent = RecentMenu(document, settings, self)
        self._menus = Menus(self.menuBar(), self.commands, recent)
        self._toolbar = build_toolbar(self.commands, self)
        self.addToolBar(self._toolbar)
        self._pages = QStackedWidget(self)
        self._start = StartPage(document, settings, theme, self.commands)
        self._pages.addWidget(self._start)
        self.setCentralWidget(self._pages)
        self._facts = plain_label("", "model_facts", "muted")
        self.statusBar().addPermanentWidget(self._facts)
        self.statusBar().setSizeGripEnabled(False)
        self._show_model(document.snapshot)
        document.changed.connect(self._follow)
        document.exported.connect(self._tell_exported)
        document.recipe_saved.connect(self._tell_saved)
        document.description_saved.connect(self._tell_described)
        document.map_saved.connect(self._tell_map_saved)
        document.scanning.opened.connect(self.show_sensitivity)
        document.unmeasured.connect(self._tell_unmeasured)
        if not quiet:
            document.failed.connect(partial(errors.show_error, self))
            document.answerer = partial(dialogs.answer, document, self)
        self.restoreGeometry(settings.geometry)

    def show_command_palette(self) -> None:
        """Show every command and layer, to be found by typing."""
        commands = [
            Entry(full_text(spec, action), action.shortcut().toString(), action.trigger)
            for spec, action in self.commands
            if action.isEnabled()
        ]
        snapshot = self._document.snapshot
        layers = [
            Entry(fmt.layer_name(layer.id), layer.kind, partial(self._jump, layer.id))
            for layer in (snapshot.current.tree if snapshot is not None else ())
        ]
        CommandPalette([*commands, *layers], self).pop_up()

    def focus_filter(self) -> None:
        """Put the cursor into the line that filters the layers, or the models."""
        if self._catalogue is not None and self._pages.currentWidget() is self._catalogue:
            self._catalogue.focus_filter()
        else:
            self.workbench.focus_filter()

    def show_catalogue(self) -> None:
        """Show every model that can be opened by its name."""
        if self._catalogue is None:
            self._catalogue = self._build_catalogue()
        self._pages.setCurrentWidget(self._catalogue)

    def profile(self, tab: str) -> None:
        """Show that view of profiling, and measure what it shows."""
        self.workbench.show_profile(tab).run()

    def show_recovery(self, tab: RecoveryTab) -> None:
        """Show that way of winning accuracy back, or the curves of training."""
        self._pages.setCurrentWidget(self.workbench)
        self.workbench.show_recovery(tab)

    def show_energy(self, view: EnergyView) -> None:
        """Show the energy by layer as bars or as a map."""
        self._pages.setCurrentWidget(self.workbench)
        self.workbench.show_energy(view)

    def show_sensitivity(self) -> None:
        """Show the map of what each layer can bear."""
        self._pages.setCurrentWidget(self.workbench)
        self.workbench.show_sensitivity()

    def scan_sensitivity(self) -> None:
        """Show that map, and begin, end or resume its scan."""
        self._pages.setCurrentWidget(self.workbench)
        self.workbench.show_sensitivity().run()

    def choose_hardware(self) -> None:
        """Show the energy by layer, and offer the hardware that it can be modelled on."""
        self._pages.setCurrentWidget(self.workbench)
        self.workbench.show_energy().choose_hardware()

    def save_trace(self) -> None:
        """Write the Chrome trace of the profiled operators."""
        self.workbench.show_profile("flame").save_trace()

    def save_prof(self) -> None:
        """Write the profile of Python calls."""
        self.workbench.show_profile("python").save_prof()

    def reset_layout(self) -> None:
        """Put every panel back where it was at first."""
        self.workbench.reset_layout()

    def show_shortcuts(self) -> None:
        """List what the keyboard can do."""
        help_dialogs.show_shortcuts(self, [action for _, action in self.commands])

    def show_formats(self) -> None:
        """Show what can be done with each kind of file."""
        help_dialogs.show_formats(self)

    def show_energy_help(self) -> None:
        """Show how energy is modelled and measured."""
        help_dialogs.show_energy(self)

    def show_pruning_help(self) -> None:
        """Show what each way of pruning saves, and how accuracy is won back."""
        help_dialogs.show_pruning(self)

    def show_sensitivity_help(self) -> None:
        """Show what the map of sensitivity says, and how it is measured."""
        help_dialogs.show_sensitivity(self)

    def show_quantization_help(self) -> None:
        """Show what can be rounded, how ranges are found, and how accuracy is kept."""
        help_dialogs.show_quantization(self)

    def show_about(self) -> None:
        """Say what Secateur is and in which version."""
        help_dialogs.show_about(self)

    @property
    def workbench(self) -> Workbench:
        """The panels around the model, built when first asked for."""
        if self._workbench is None:
            self._workbench = self._build_workbench()
        return self._workbench

    def _build_workbench(self) -> Workbench:
        from gui.views.workbench import Workbench

        workbench = Workbench(self._document, self.selection, self._theme, self._settings, self)
        workbench.data_wanted.connect(self.commands["choose_data"].trigger)
        workbench.map_wanted.connect(self.commands["open_map"].trigger)
        workbench.limit_wanted.connect(self._ask_limit)
        workbench.information_wanted.connect(self.commands["model_information"].trigger)
        workbench.hardware_forms_wanted.connect(self.commands["hardware_forms"].trigger)
        workbench.broken_wanted.connect(partial(dialogs.show_broken, self._document, self))
        workbench.consent_wanted.connect(partial(dialogs.ask_to_run, self._document, self))
        self._pages.addWidget(workbench)
        self._menus.insert_toggles(workbench.toggles)
        return workbench

    def _build_catalogue(self) -> CatalogueView:
        from gui.views.catalogue_view import CatalogueView

        catalogue = CatalogueView(self._document, self._theme, parent=self)
        catalogue.left.connect(self._leave_catalogue)
        catalogue.show_hardware(self._settings.hardware)
        self._settings.changed.connect(self._follow_hardware)
        self._pages.addWidget(catalogue)
        return catalogue

    def _follow_hardware(self) -> None:
        """Let the catalogue model energy on the hardware that was chosen."""
        if self._catalogue is not None:
            self._catalogue.show_hardware(self._settings.hardware)

    def _leave_catalogue(self) -> None:
        """Go back to the model, or to the start while none is open."""
        opened = self._document.snapshot is not None
        self._pages.setCurrentWidget(self.workbench if opened else self._start)

    def _get_ready(self) -> None:
        """Do the next thing that takes time before a model can be shown.

        Between the steps the window answers.
        """
        step = next(self._steps, None)
        if step is not None:
            step()
            QTimer.singleShot(_BREATH_MS, self._get_ready)

    def _load_icons(self) -> None:
        self.commands["undo"].icon().pixmap(16, 16)

    def _load_charts(self) -> None:
        # numpy and pydantic come along. Two threads that import such a package at once may each
        # see it half initialised, so that the worker has to wait for this one.
        import gui.views.workbench  # noqa: F401

        self.prepared.emit()

    def _load_workbench(self) -> None:
        _ = self.workbench

    def _follow(self, change: Change) -> None:
        if change.parts & Part.MODEL:
            self.selection.set(())
            if change.snapshot.model.source != "demo":
                self._settings.add_recent(change.snapshot.model.source)
            self._show_model(change.snapshot)
        elif change.parts & Part.DATA:
            self._facts.setText(self._facts_of(change.snapshot))

    def _show_model(self, snapshot: Snapshot | None) -> None:
        """Show the page for what is open, and name it."""
        self._toolbar.setVisible(snapshot is not None)
        self.statusBar().setVisible(snapshot is not None)
        if snapshot is None:
            self.setWindowTitle("Secateur")
            return
        self.setWindowTitle(f"{fmt.visible(snapshot.model.name, _TITLE_LENGTH)} – Secateur")
        self._facts.setText(self._facts_of(snapshot))
        first = self._pages.currentWidget() is not self.workbench
        self._pages.setCurrentWidget(self.workbench)
        if first:
            self.workbench.restore_layout(self._settings.layout)

    def _facts_of(self, snapshot: Snapshot) -> str:
        model, data = snapshot.model, snapshot.data
        batch = self.tr("batch %s") % model.batch
        inputs = ", ".join(fmt.shape(spec.shape) for spec in model.inputs)
        facts = [fmt.visible(model.name, _TITLE_LENGTH), self.tr("input %s") % inputs, batch]
        if not model.trained:
            facts.append(self.tr("untrained") if model.has_weights else self.tr("no weights"))
        if data is not None:
            samples = self.tr("%s validation samples") % fmt.count(data.validation_samples)
            facts.append(f"{data.name}, {samples}")
        return "  ·  ".join(facts)

    def _tell_exported(self, report: ExportReport) -> None:
        self._notify(
            self.tr("Exported {file} ({size}); read back, its outputs differ by {error} at most")
            .replace("{file}", report.files[0])
            .replace("{size}", fmt.quantity(report.bytes, "B"))
            .replace("{error}", f"{report.largest_error:.1e}")
            + (f". {report.note}" if report.note else "")
        )

    def _tell_saved(self, files: tuple[str, ...]) -> None:
        self._notify(self.tr("Saved %s") % ", ".join(files))

    def _tell_map_saved(self, path: str) -> None:
        self._tell_saved((path,))

    def _tell_described(self, report: DescriptionReport) -> None:
        files = ", ".join(Path(file).name for file in report.files)
        self._notify(self.tr("Saved %s") % fmt.visible(files) + self._left_out_text(report))

    def _left_out_text(self, report: DescriptionReport) -> str:
        """What of the model's products a description lacks; other work has no line by its kind."""
        if not report.products:
            return ""
        first = report.products[0]
        such = fmt.visible(f"{first.operator} in {fmt.layer_name(first.layer)}: {first.reason}")
        text = self.tr(
            "; left out, as the format cannot say them: {count} operators, such as {such}"
        )
        return text.format(count=fmt.count(len(report.products)), such=such)

    def _tell_unmeasured(self, key: str, error: EngineError) -> None:
        self._notify(
            self.tr("{metric} could not be taken: {cause}")
            .replace("{metric}", self.tr(METRICS[key].title))
            .replace("{cause}", fmt.visible(str(error)))
        )

    def _notify(self, text: str) -> None:
        self.statusBar().showMessage(text, _NOTICE_MS)

    def _ask_limit(self, key: str) -> None:
        dialogs.ask_limit(self._document, self, METRICS[key])

    def _jump(self, layer: LayerId) -> None:
        self.selection.set((layer,))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        QTimer.singleShot(_UNSEEN_MS, self._begin)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if not self._painted:
            self._painted = True
            self.first_painted.emit()
            QTimer.singleShot(_BREATH_MS, self._begin)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._get_ready()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        urls = event.mimeData().urls()
        if len(urls) == 1 and urls[0].isLocalFile():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        dialogs.open_path(self._document, self, event.mimeData().urls()[0].toLocalFile())

    def _stay(self) -> None:
        self._question = None

    def _ask_to_leave(self) -> None:
        """Ask whether training may be stopped; who closes the window once more means it."""
        dialog = dialogs.ask_to_stop(self._document, self, self.tr("Stop and close"))
        dialog.rejected.connect(self._stay)
        dialog.stop_wanted.connect(self.close)
        self._question = dialog

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._document.tuning and self._question is None:
            event.ignore()
            self._ask_to_leave()
            return
        if self._question is not None:
            self._question.close()
        shown = self._workbench is not None and self._pages.currentWidget() is self._workbench
        layout = self.workbench.save_layout() if shown else QByteArray()
        self._settings.save_window(self.saveGeometry(), layout)
        event.accept()
        self.hide()  # the running job may take a moment to notice
        self._document.jobs.shut_down(_SHUT_DOWN_TIMEOUT)
