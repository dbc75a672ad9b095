"""The open model as the window knows it: a snapshot, one signal, and the verbs of the session.

The session itself lives on the model thread: only functions that run there touch it. The window
sees frozen snapshots.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from PySide6.QtCore import QObject, Signal

import engine
from engine import (
    DATAFLOWS,
    ActivationRange,
    CallProfile,
    Change,
    ChannelScores,
    Comparison,
    Dataflow,
    DataRequest,
    Edit,
    Effect,
    EnergySettings,
    EngineError,
    ExportReport,
    FineTune,
    Job,
    LayerId,
    Limit,
    LineProfile,
    Metric,
    OpenRequest,
    OperatorProfile,
    Part,
    PruneChannels,
    PruneHeads,
    Quantize,
    Roofline,
    RunSettings,
    SamplePreview,
    SensitivityFormat,
    SensitivityMap,
    Snapshot,
)
from gui import format as fmt
from gui.jobs import JobRunner
from gui.models.hardware_choice import hardware_by_id
from gui.scanning import Scanning, ScanUnderWay, ScanWish
from gui.settings import Settings
from gui.tasks import JobState
from gui.training import Asked, GradualPruning, Training, TrainingUnderWay

if TYPE_CHECKING:  # a report comes with the energy model, which the window shows without
    from engine import DescriptionReport, ModelSession

Opener: TypeAlias = "Callable[[OpenRequest, Job], ModelSession]"
Request: TypeAlias = OpenRequest | DataRequest
Answerer: TypeAlias = Callable[[Request, EngineError], bool]
Step: TypeAlias = "Callable[[ModelSession, Job], Change | None]"

PreviewSlot: TypeAlias = Literal["edit", "scores", "accuracy", "data", "ranges"]
Profile: TypeAlias = OperatorProfile | CallProfile | LineProfile | Roofline

T = TypeVar("T")

EVERYTHING = Part.MODEL | Part.LAYERS | Part.METRICS | Part.HISTORY | Part.LIMITS | Part.DATA


@dataclass(frozen=True)
class Profiled:
    """A profile, and the id of the state of the model that it was taken of."""

    state: str
    result: Profile


class Document(QObject):
    """What is open, and what can be done to it; every verb is a job on the model thread.

    Signals:
        changed: an :class:`engine.Change` was committed; ``snapshot`` is already the new one.
        busy_changed: whether session jobs are under way.
        opening_changed: the source that is being opened, empty when that has ended.
        modelling_changed: energy is being modelled under other settings, or that has ended.
        failed: the exception that ended a job.
        exported: the :class:`engine.ExportReport` of a written file.
        recipe_saved: the paths of the files that make up a recipe.
        description_saved: the :class:`engine.DescriptionReport` of a network description.
        map_saved: the path of a map of sensitivity that was written.
        profiled: a :class:`Profiled` was taken.
        unmeasured: the key of a metric that could not be taken by itself after opening or an edit,
            and the :class:`engine.EngineError` that says why.
        devices_found: the :class:`engine.Device` that models could run on, available or not.
        counters_found: the :class:`engine.CounterInfo` of counters of energy, readable or not.
        code_allowed: code of the user's own, which something asked for, may run from now on.
        tuning_changed: whether a training is under way, so that edits have to wait.

    Attributes:
        training: the training that is under way, or the last one.
        scanning: the scan of sensitivity that is under way, and the maps that came of them.
        run_settings: how the model is run while it is measured.
        answerer: is told of a request that could not be met, and why, before ``failed`` is. It
            may ask the user and make an amended request; True says that it has taken over.

    Args:
        opener: stands in for :func:`engine.open_model`, which imports torch.
    """

    changed = Signal(object)
    busy_changed = Signal(bool)
    opening_changed = Signal(str)
    modelling_changed = Signal()
    failed = Signal(object)
    exported = Signal(object)
    recipe_saved = Signal(object)
    description_saved = Signal(object)
    map_saved = Signal(str)
    profiled = Signal(object)
    unmeasured = Signal(str, object)
    devices_found = Signal(object)
    counters_found = Signal(object)
    code_allowed = Signal()
    tuning_changed = Signal(bool)

    def __init__(
        self,
        jobs: JobRunner,
        settings: Settings,
        opener: Opener | None = None,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self.jobs = jobs
        self.run_settings = RunSettings()
        self.answerer: Answerer | None = None
        self.training = Training(jobs, self)
        self.scanning = Scanning(jobs, self)
        self._settings = settings
        self._opener = opener
        # Only functions on the model thread look into a session; here it is a name for one.
        self._opened: ModelSession | None = None  # the one opened last
        self._shown: ModelSession | None = None  # the one that the snapshot is of
        self._snapshot: Snapshot | None = None
        self._busy = False
        self._opening: int | None = None
        self._follow_ups: list[int] = []
        self._looking: int | None = None
        self._counting: int | None = None
        self._modelling: tuple[int, EnergySettings] | None = None
        self._tuning = False
        self.training.changed.connect(self._follow_training)
        jobs.jobs_changed.connect(self._follow_jobs)

    @property
    def snapshot(self) -> Snapshot | None:
        """The open model at the last committed change; None before the first is open."""
        return self._snapshot

    @property
    def busy(self) -> bool:
        """Whether jobs are under way; previews do not count."""
        return self._busy

    @property
    def opening(self) -> bool:
        """Whether a model is being opened."""
        return self._opening is not None

    @property
    def energy_settings(self) -> EnergySettings | None:
        """What energy is modelled under, or will be once that is done; None without a model."""
        if self._modelling is not None:
            return self._modelling[1]
        return self._snapshot.current.energy.settings if self._snapshot is not None else None

    @property
    def tuning(self) -> bool:
        """Whether a training is under way, paused or not."""
        return self.training.active

    def apply_refusal(self) -> str:
        """Why edits have to wait, and what to do; empty while they need not."""
        refusal = self._under_way()
        return f"{refusal} {refusal.remedy}" if refusal is not None else ""

    def open(self, request: OpenRequest) -> None:
        """Open a model; the one that is open stays until that has succeeded.

        Its energy is modelled on the hardware that the user chose last.
        """
        choice = self._settings.hardware, self._settings.dataflow

        def work(job: Job) -> tuple[ModelSession, Change]:
            open_model = self._opener if self._opener is not None else engine.open_model
            session = open_model(request, job)
            _model_energy_on(session, *choice, job)
            snapshot = session.snapshot
            layers = frozenset(layer.id for layer in snapshot.current.tree)
            self._opened = session
            return session, Change(EVERYTHING, layers, snapshot)

        def on_done(opened: tuple[ModelSession, Change]) -> None:
            self.training.leave()  # it may have been asked for while this was being opened
            self.scanning.forget()
            self._shown, change = opened
            self._edited(change)

        under_way = self._under_way()
        if under_way is not None and self.training.state is not JobState.STOPPING:
            self._refuse(request, under_way)
            return
        self._cancel_follow_ups()
        title = self.tr("Opening %s") % fmt.visible(source_name(request.source))
        refused = partial(self._refuse, request)
        self._opening = self.jobs.submit(title, work, on_done, refused)
        self.opening_changed.emit(request.source)

    def apply(self, edit: Edit) -> None:
        """Apply the edit, behind those already applied; one that learns, in the background."""
        title = fmt.edit_text(edit, self.tr)
        if isinstance(edit, Quantize) and edit.rounding == "adaround":
            self._train(title, edit)
            return
        self._submit_edit(title, lambda session, job: session.apply(edit, job))

    def apply_recipe(self, path: str) -> None:
        """Apply the edits of a recipe file."""
        self._submit_edit(
            self.tr("Applying recipe"), lambda session, job: session.apply_recipe(path, job)
        )

    def go_to(self, cursor: int) -> None:
        """Show the model after the first ``cursor`` edits."""
        self._submit_edit(
            self.tr("Going to another state"), lambda session, job: session.go_to(cursor, job)
        )

    def undo(self) -> None:
        """Take the last applied edit back."""
        self._submit_edit(self.tr("Undoing"), lambda session, job: _step(session, -1, job))

    def redo(self) -> None:
        """Apply the edit that was taken back last."""
        self._submit_edit(self.tr("Redoing"), lambda session, job: _step(session, 1, job))

    def tune(self, edit: FineTune) -> None:
        """Train the current model in the background; its best weights become an edit."""
        self._train(fmt.edit_text(edit, self.tr), edit)

    def prune_gradually(self, pruning: GradualPruning) -> None:
        """Prune in steps in the background, and train after each; every one is an edit."""
        title = self.tr("In {steps} steps: {edit}")
        edit = fmt.edit_text(pruning.edit, self.tr)
        self._train(title.format(steps=pruning.steps, edit=edit), pruning)

    def pause_tuning(self) -> None:
        """Let the training rest; everything can be done meanwhile but edits."""
        self.training.pause()

    def resume_tuning(self) -> None:
        """Let the training go on."""
        self.training.resume()

    def stop_tuning(self, keep: bool) -> None:
        """End the training: apply its best weights so far, or forget it."""
        self.training.stop(keep)

    def interrupt_tuning(self) -> None:
        """End the training without a result, so that it can go on another time."""
        self.training.interrupt()

    def scan_refusal(self) -> str:
        """Why no scan can begin, and what to do; empty while one can."""
        if self._snapshot is None:
            return self.tr("Open a model first.")
        if self._snapshot.data is None:
            return self.tr("Choose data first: a scan takes the loss on training samples.")
        if self.tuning:
            return self.tr(
                "{title} is under way, and only one such job runs at a time. Stop it first, or"
                " wait until it has ended."
            ).format(title=self.training.title)
        return ""

    def scan(self, wish: ScanWish) -> None:
        """Find out in the background what each layer can bear, or go on where that stopped."""
        meant = self._shown
        if meant is None or self._has_to_wait():
            return
        title = self.tr("Scanning sensitivity")
        self.scanning.start(title, wish, partial(self._session, meant), self.failed.emit)

    def stop_scan(self) -> None:
        """End the scan; it goes on from there another time."""
        self.scanning.stop()

    def resume_scan(self) -> None:
        """Let a scan that rests go on."""
        self.scanning.resume()

    def open_map(self, path: str) -> None:
        """Show the map of sensitivity in a file; one of other layers is refused."""
        try:
            found = engine.read_sensitivity(path)
            tree = self._snapshot.current.tree if self._snapshot is not None else ()
            if not any(layer in tree for layers in found.rows for layer in layers):
                raise EngineError(
                    self.tr("%s names no layer of this model.") % Path(path).name,
                    self.tr("Open the model that was scanned first."),
                )
        except EngineError as error:
            self.failed.emit(error)
            return
        self.scanning.file(found, Path(path).name)

    def save_map(self, found: SensitivityMap, form: SensitivityFormat, path: str) -> None:
        """Write a map of sensitivity to a file."""
        try:
            engine.save_sensitivity(path, found, form)
        except EngineError as error:
            self.failed.emit(error)
            return
        self.map_saved.emit(path)

    def evaluate(self) -> None:
        """Take the accuracy of the current model, and the base model's if it is missing."""
        self._submit(self.tr("Evaluating"), lambda session, job: session.evaluate(job))

    def measure_latency(self) -> None:
        """Time every layer of the current model, and the base model's if they are missing."""
        settings = self.run_settings
        self._submit(
            self.tr("Measuring latency"),
            lambda session, job: session.measure_latency(job, settings),
        )

    def set_energy(self, settings: EnergySettings) -> None:
        """Model energy under these settings, in place of others that were asked for meanwhile."""
        if self._snapshot is None or settings == self.energy_settings:
            return
        if self._modelling is not None:
            self.jobs.cancel(self._modelling[0])
        job = self._submit(
            self.tr("Modelling energy"), lambda session, job: session.set_energy(settings, job)
        )
        self._modelling = job, settings
        self.modelling_changed.emit()

    def measure_zeros(self) -> None:
        """Measure zeros of activations on the data; modelled energy makes use of them."""
        self._submit(self.tr("Measuring zeros"), lambda session, job: session.measure_zeros(job))

    def measure_memory(self) -> None:
        """Take the peak memory of the current model, and the base model's if it is missing."""
        settings = self.run_settings
        self._submit(
            self.tr("Measuring memory"), lambda session, job: session.measure_memory(job, settings)
        )

    def measure_energy(self) -> None:
        """Count the joules of the current model, and the base model's if they are missing."""
        settings = self.run_settings
        self._submit(
            self.tr("Measuring energy"), lambda session, job: session.measure_energy(job, settings)
        )

    def profile_operators(self) -> None:
        """Record the operators of one pass; ``profiled`` follows."""
        settings = self.run_settings
        self._profile(
            self.tr("Profiling operators"),
            lambda session, job: session.profile_operators(job, settings),
        )

    def profile_python(self) -> None:
        """Record the Python calls of some passes; ``profiled`` follows."""
        settings = self.run_settings
        self._profile(
            self.tr("Profiling Python"),
            lambda session, job: session.profile_python(job, settings),
        )

    def profile_lines(self, layer: LayerId, follow: bool) -> None:
        """Time the lines of a layer's forward, with ``follow`` of what it calls too."""
        settings = self.run_settings
        self._profile(
            self.tr("Profiling lines of %s") % fmt.layer_name(layer),
            lambda session, job: session.profile_lines(layer, follow, job, settings),
        )

    def take_roofline(self) -> None:
        """Time the layers against what this machine can do; ``profiled`` follows."""
        settings = self.run_settings
        self._profile(
            self.tr("Taking the roofline"), lambda session, job: session.roofline(job, settings)
        )

    def find_devices(self) -> None:
        """Find out which devices models could run on; ``devices_found`` follows, unless cancelled.

        Nothing more is done while that is under way.
        """
        if any(job.id == self._looking for job in self.jobs.jobs()):
            return
        self._looking = self.jobs.submit(
            self.tr("Looking for devices"),
            lambda job: engine.devices(),
            self.devices_found.emit,
            self.failed.emit,
            idle=True,
        )

    def find_counters(self) -> None:
        """Find out which counters of energy there are; ``counters_found`` follows.

        Nothing more is done while that is under way.
        """
        if any(job.id == self._counting for job in self.jobs.jobs()):
            return
        self._counting = self.jobs.submit(
            self.tr("Looking for counters of energy"),
            lambda job: engine.energy_counters(),
            self.counters_found.emit,
            self.failed.emit,
            idle=True,
        )

    def load_data(self, request: DataRequest) -> None:
        """Choose the data that accuracy is taken on."""
        if self._has_to_wait():
            return
        self.scanning.stop()
        self._submit(
            self.tr("Loading %s") % fmt.visible(source_name(request.source)),
            lambda session, job: session.load_data(request, job),
            self._loaded,
            on_error=partial(self._refuse, request),
        )

    def set_limits(self, limits: tuple[Limit, ...]) -> None:
        """Replace all limits."""
        self._submit(
            self.tr("Setting limits"), lambda session, job: session.set_limits(limits, job)
        )

    def set_limit(self, metric: Metric, limit: Limit | None) -> None:
        """Replace the limit of one metric, or take it away."""

        def step(session: ModelSession, job: Job) -> Change:
            held = (status.limit for status in session.snapshot.limits)
            others = tuple(one for one in held if one.metric != metric)
            return session.set_limits((*others, limit) if limit is not None else others, job)

        self._submit(self.tr("Setting limit"), step)

    def export(self, path: str, format: Literal["checkpoint", "program", "onnx"]) -> None:
        """Write the current model to a file; ``exported`` follows when that has been checked."""

        meant = self._shown

        def work(job: Job) -> ExportReport:
            return self._session(meant).export(path, format, job)

        self.jobs.submit(self.tr("Exporting"), work, self.exported.emit, self.failed.emit)

    def save_recipe(self, path: str) -> None:
        """Write the applied edits to a file; ``recipe_saved`` follows."""

        meant = self._shown

        def work(job: Job) -> tuple[str, ...]:
            return self._session(meant).save_recipe(path, job)

        self.jobs.submit(self.tr("Saving recipe"), work, self.recipe_saved.emit, self.failed.emit)

    def save_description(self, path: str) -> None:
        """Write the layers as the MIT energy tool takes them; ``description_saved`` follows."""

        meant = self._shown

        def work(job: Job) -> DescriptionReport:
            return self._session(meant).save_description(path, job)

        title = self.tr("Saving network description")
        self.jobs.submit(title, work, self.description_saved.emit, self.failed.emit)

    def preview(self, edit: Edit, on_effect: Callable[[Effect | EngineError | None], None]) -> None:
        """Find out what the edit would do, in place of any earlier edit.

        ``on_effect`` gets the effect, or why the edit cannot be done; None after a crash, which
        ``failed`` reports.
        """

        meant = self._shown

        def work(job: Job) -> Effect:
            return self._session(meant).preview(edit, job)

        self._preview("edit", work, on_effect)

    def preview_scores(
        self,
        edit: PruneChannels | PruneHeads,
        on_scores: Callable[[ChannelScores | EngineError | None], None],
    ) -> None:
        """Find out how much each channel or head matters; answers as :meth:`preview`."""

        meant = self._shown

        def work(job: Job) -> ChannelScores:
            return self._session(meant).channel_scores(edit, job)

        self._preview("scores", work, on_scores)

    def preview_ranges(
        self,
        layer: LayerId,
        edit: Quantize | None,
        on_ranges: Callable[[tuple[ActivationRange, ...] | EngineError | None], None],
    ) -> None:
        """Find out what values the layer takes, and the grids that the edit would lay over them.

        Calibrates where that has not been done yet. Answers as :meth:`preview`.
        """

        meant = self._shown

        def work(job: Job) -> tuple[ActivationRange, ...]:
            return self._session(meant).activation_ranges(layer, edit, job)

        self._preview("ranges", work, on_ranges)

    def preview_accuracy(
        self,
        edit: Edit,
        on_comparison: Callable[[Comparison | EngineError | None], None],
        on_partial: Callable[[Comparison], None],
    ) -> None:
        """Find out what accuracy the edit would leave; answers as :meth:`preview`.

        ``on_partial`` gets what is known meanwhile.
        """

        meant = self._shown

        def work(job: Job) -> Comparison:
            return self._session(meant).preview_accuracy(edit, job)

        self._preview("accuracy", work, on_comparison, on_partial)

    def preview_data(
        self,
        request: DataRequest,
        count: int,
        on_samples: Callable[[tuple[SamplePreview, ...] | EngineError | None], None],
    ) -> None:
        """Find out what samples look like to the model, in place of any earlier data.

        ``on_samples`` gets at most ``count`` of them, or why there are none; None after a crash.
        """

        meant = self._shown

        def work(job: Job) -> tuple[SamplePreview, ...]:
            return self._session(meant).preview_data(request, count, job)

        self._preview("data", work, on_samples)

    def allow_code(self, digest: str) -> None:
        """Let code of that digest run from now on: the user has allowed it."""
        engine.allow_here({digest})
        self.code_allowed.emit()

    def cancel_preview(self, slot: PreviewSlot) -> None:
        """Drop the question for that place; its callbacks never come."""
        self.jobs.cancel_preview(slot)

    def cancel_all(self) -> None:
        """Ask every job to stop."""
        self.jobs.cancel_all()

    def _preview(
        self,
        slot: PreviewSlot,
        work: Callable[[Job], T],
        on_answer: Callable[[T | EngineError | None], None],
        on_partial: Callable[[T], None] | None = None,
    ) -> None:
        def on_error(error: BaseException) -> None:
            if isinstance(error, EngineError):
                on_answer(error)
            else:
                on_answer(None)
                self.failed.emit(error)

        self.jobs.preview(slot, work, on_answer, on_error, on_partial)

    def _session(self, meant: ModelSession | None) -> ModelSession:
        """The session that was shown when the user asked, for functions on the model thread.

        Not the one opened last: an edit aimed at one model must not land on the next.
        """
        session = meant if meant is not None else self._opened
        if session is None:
            raise EngineError(self.tr("No model is open."), self.tr("Open a model first."))
        return session

    def _submit(
        self,
        title: str,
        step: Step,
        on_done: Callable[[Change | None], None] | None = None,
        idle: bool = False,
        on_error: Callable[[BaseException], None] | None = None,
    ) -> int:
        meant = self._shown
        announce, refuse = on_done or self._committed, on_error or self.failed.emit

        def work(job: Job) -> Change | None:
            return step(self._session(meant), job)

        def concerns() -> bool:
            return meant is None or meant is self._shown  # else another was opened meanwhile

        def deliver(change: Change | None) -> None:
            if concerns():
                announce(change)

        def give_up(error: BaseException) -> None:
            if concerns() or not isinstance(error, EngineError):
                refuse(error)

        return self.jobs.submit(title, work, deliver, give_up, idle)

    def _profile(self, title: str, take: Callable[[ModelSession, Job], Profile]) -> None:
        meant = self._shown

        def work(job: Job) -> Profiled:
            session = self._session(meant)
            return Profiled(session.snapshot.current.id, take(session, job))

        def deliver(profiled: Profiled) -> None:
            if meant is self._shown:
                self.profiled.emit(profiled)

        self.jobs.submit(title, work, deliver, self.failed.emit)

    def _refuse(self, request: Request, error: BaseException) -> None:
        """Report why a request could not be met, unless the user can say what it lacks."""
        if isinstance(error, EngineError) and self.answerer and self.answerer(request, error):
            return
        self.failed.emit(error)

    def _submit_edit(self, title: str, step: Step) -> None:
        """Queue a step to another state; what is being measured of this one can wait."""
        if self._has_to_wait():
            return
        self.scanning.stop()  # it goes on when this state is shown again
        if self._settings.measure_after_edit:
            self._cancel_follow_ups()
        self._submit(title, step, self._edited)

    def _train(self, title: str, asked: Asked) -> None:
        meant = self._shown
        if meant is None or self._has_to_wait():
            return
        if self.scanning.active:
            text = self.tr("A scan is under way, and only one such job runs at a time.")
            self.failed.emit(ScanUnderWay(text))
            return

        def concerning(deliver: Callable[[Change], None]) -> Callable[[Change], None]:
            return lambda change: deliver(change) if meant is self._shown else None

        self.training.start(
            title,
            asked,
            partial(self._session, meant),
            concerning(self._committed),
            concerning(self._measure_anew),
            self.failed.emit,
        )

    def _has_to_wait(self) -> bool:
        """Report that a training is under way, if one is."""
        under_way = self._under_way()
        if under_way is not None:
            self.failed.emit(under_way)
        return under_way is not None

    def _under_way(self) -> TrainingUnderWay | None:
        if not self.tuning:
            return None
        return TrainingUnderWay(
            self.tr("Training is under way, and this would change the model that is trained.")
        )

    def _committed(self, change: Change | None) -> None:
        if change is not None:
            self._snapshot = change.snapshot
            self.changed.emit(change)

    def _edited(self, change: Change | None) -> None:
        """Announce the change, then measure what is not known of the new state."""
        self._committed(change)
        if change is not None:
            self._measure_anew(change)

    def _loaded(self, change: Change | None) -> None:
        """Announce other data; maps of sensitivity are of those before."""
        self.scanning.forget()
        self._edited(change)

    def _measure_anew(self, change: Change) -> None:
        """Measure what is not known of the state behind the change, if that is wanted."""
        opened = bool(change.parts & (Part.MODEL | Part.DATA))
        if opened or self._settings.measure_after_edit:
            self._follow_up(chosen=Part.DATA in change.parts and Part.MODEL not in change.parts)

    def _follow_up(self, chosen: bool) -> None:
        """Measure what is missing.

        Args:
            chosen: the user has just chosen the data, and waits for what they say.
        """
        self._cancel_follow_ups()
        loud = {"accuracy"} if chosen else set()
        wanted: tuple[tuple[str, str, Step], ...] = (
            ("accuracy", self.tr("Evaluating"), _evaluate_if_missing),
            ("latency", self.tr("Measuring latency"), self._measure_if_missing),
        )
        self._follow_ups = [
            self._submit(
                title,
                step,
                idle=True,
                on_error=None if key in loud else partial(self._leave_unmeasured, key),
            )
            for key, title, step in wanted
        ]

    def _leave_unmeasured(self, key: str, error: BaseException) -> None:
        """Say why without asking for attention: nobody asked for the measurement."""
        if isinstance(error, EngineError):
            self.unmeasured.emit(key, error)
        else:
            self.failed.emit(error)

    def _measure_if_missing(self, session: ModelSession, job: Job) -> Change | None:
        if _has(session.snapshot, "latency"):
            return None
        return session.measure_latency(job, self.run_settings)

    def _cancel_follow_ups(self) -> None:
        for job_id in self._follow_ups:
            self.jobs.cancel(job_id)
        self._follow_ups = []

    def _follow_training(self) -> None:
        if self.tuning != self._tuning:
            self._tuning = self.tuning
            self.tuning_changed.emit(self._tuning)

    def _follow_jobs(self) -> None:
        jobs = self.jobs.jobs()
        if self._opening is not None and all(job.id != self._opening for job in jobs):
            self._opening = None
            self.opening_changed.emit("")
        if self._modelling is not None and all(job.id != self._modelling[0] for job in jobs):
            self._modelling = None
            self.modelling_changed.emit()
        if bool(jobs) != self._busy:
            self._busy = bool(jobs)
            self.busy_changed.emit(self._busy)


# A module or a file, a function in it, and perhaps its arguments.
_FACTORY: Final = re.compile(r"(?P<where>.+):(?P<call>[^\W\d]\w*(\(.*\))?)", re.DOTALL)


def source_name(source: str) -> str:
    """A short name for a source: the file of a path, the name of a catalogued model."""
    name = source.removeprefix("torchvision:")
    factory = _FACTORY.fullmatch(name)
    if factory is not None:
        return f"{Path(factory['where']).name}:{factory['call']}"
    return Path(name).name or name


def _step(session: ModelSession, by: int, job: Job) -> Change | None:
    """Move the cursor; at either end of the history nothing happens."""
    cursor = session.snapshot.cursor + by
    return session.go_to(cursor, job) if 0 <= cursor <= len(session.snapshot.history) else None


def _model_energy_on(session: ModelSession, hardware: str, dataflow: Dataflow, job: Job) -> None:
    """Use the kept choice, as far as its description is still there and good."""
    if not hardware and dataflow == DATAFLOWS[0]:
        return
    held = session.snapshot.current.energy.settings
    chosen = hardware_by_id(engine.list_hardware(), hardware) or held.hardware
    settings = replace(held, hardware=chosen, dataflow=dataflow)
    if settings != held:
        session.set_energy(settings, job)


def _evaluate_if_missing(session: ModelSession, job: Job) -> Change | None:
    if session.snapshot.data is None or _has(session.snapshot, "accuracy"):
        return None
    return session.evaluate(job)


def _has(snapshot: Snapshot, key: str) -> bool:
    """Whether both states that the window compares have the metric."""
    return key in snapshot.base.table and key in snapshot.current.table
