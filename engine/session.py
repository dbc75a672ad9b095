"""A session: the base model, the list of edits, and a cursor in it. The only mutable object.

Undo moves the cursor over an immutable list; it runs no inverse commands. States share tensors,
and only dropped ones are rebuilt, from the recorded decisions. Measurements are filed under the
state they belong to.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Literal, overload
from weakref import WeakKeyDictionary

from torch import nn

from engine.bit_packing import bits_of_integers
from engine.datasets import DataSet, load_data, preview
from engine.editing import Subject, carried_out, checked, handler_of, look_at, weight_zeros
from engine.edits import (
    ON_SHAPES,
    AppliedEdit,
    Edit,
    FineTune,
    LayersQuantized,
    MaskWeights,
    PruneByMethod,
    PruneChannels,
    PruneHeads,
    Quantize,
    Retrained,
    before_recovery,
    reads_weights,
    without_folders,
)
from engine.energy.describing import DescriptionReport, describe, save_description
from engine.energy.estimates import EnergyEstimate, EnergySettings
from engine.energy.model import estimate
from engine.energy.zeros import OperatorKey, Zeros
from engine.errors import (
    DataSetNotFound,
    EditRefused,
    EngineError,
    ExportFailed,
    OutOfMemory,
    ProfilingFailed,
    RecipeMismatch,
    is_out_of_memory,
)
from engine.evaluate import Evaluator
from engine.job import Cancelled, Job
from engine.layers import LayerId, LayerTree
from engine.lazy import resolve
from engine.metrics import (
    ACCURACY,
    ENERGY,
    LATENCY,
    MACS,
    MEASURED_ENERGY,
    MEMORY,
    PARAMETERS,
    SIZE,
    Limit,
    MeasurementTable,
    Provenance,
    Quantity,
    Series,
)
from engine.profiles import CallProfile, LineProfile, OperatorProfile, Roofline
from engine.profiling.energy import measure_energy
from engine.profiling.latency import measure_latency
from engine.profiling.memory import measure_memory
from engine.profiling.operators import profile_operators
from engine.profiling.python_calls import profile_python
from engine.profiling.roofline import profile_roofline
from engine.profiling.running import AS_IT_IS
from engine.profiling.source_lines import profile_lines
from engine.profiling.zeros import measure_zeros
from engine.pruning.importance import channel_scores
from engine.quantization.calibration import forget
from engine.quantization.ranges import activation_ranges
from engine.recipe import Recipe, read_recipe, write_recipe
from engine.recovery.rounding import Rounding
from engine.recovery.schedules import (
    Scheduled,
    ScheduleKind,
    ratio_of_left,
    schedule,
    shares,
)
from engine.recovery.tuning import Tuning
from engine.requests import DataRequest, OpenRequest, RunSettings
from engine.scoring import mcnemar
from engine.sensitivities import ScanRequest
from engine.sensitivity.scanning import Scan
from engine.sensitivity.settings import usual_settings
from engine.sharing import fingerprint, tensors_of, unshared_bytes
from engine.sources.opened import OpenedModel
from engine.sources.opening import open_source
from engine.state import (
    ActivationRange,
    Change,
    ChannelScores,
    Comparison,
    DataInfo,
    Effect,
    ExportReport,
    HistoryEntry,
    LayerEffect,
    LimitStatus,
    ModelState,
    Part,
    SamplePreview,
    Snapshot,
)

Format = Literal["checkpoint", "program", "onnx"]
_EXPORTS: dict[Format, str] = {
    "checkpoint": "engine.export.checkpoint:export_checkpoint",
    "program": "engine.export.program:export_program",
    "onnx": "engine.export.onnx_file:export_onnx",
}
Values = Mapping[OperatorKey, tuple[float, ...]]
_BASE_ID = "base"
_OF_FILES = (MaskWeights, PruneByMethod)
"""Edits that read a file of the user's, which may change."""
_MOST_TRIED = 2
_HELD_SHAPES = {"shapes": "those of the sample input, as they depend on data"}
MOST_SAMPLES, MOST_BITS = 65_536, 64
"""That energy is modelled for."""
MEMORY_BUDGET = 2 << 30
"""Bytes of tensors that states other than base and current may hold before they are dropped."""


def open_model(source: str | OpenRequest, job: Job) -> "ModelSession":
    """Open a model; with the data set that belongs to it, if there is one.

    Args:
        source: a name, a path or a factory, or with it what its file does not say.

    Raises:
        ModelNotFound, ModelUnreadable: see :func:`engine.sources.opening.open_source`.
        ForwardFailed: it does not run on its sample input.
    """
    job.begin("Opening the model")
    with _foreign_errors_named():
        request = OpenRequest(source) if isinstance(source, str) else source
        opened = open_source(request, job)
        job.begin("Tracing its operators")
        session = ModelSession(opened)
    if opened.data:
        with suppress(DataSetNotFound):  # the model is whole; whoever evaluates it will be told
            session.load_data(opened.data, job)
    return session


def evaluate_source(payload: dict[str, str]) -> dict[str, float]:
    """Open ``payload["source"]``, evaluate it on ``payload["data"]``; for a fresh process."""
    session = open_model(payload["source"], Job())
    session.load_data(payload["data"], Job())
    found = session.evaluate(Job()).snapshot.current.table[ACCURACY.key].total
    return {"accuracy": found.value}


class ModelSession:
    """What the user does to one opened model. Used from one thread at a time.

    Every operation commits in its last statement: cancelled or failed before that, nothing has
    changed.
    """

    def __init__(self, opened: OpenedModel, memory_budget: int = MEMORY_BUDGET) -> None:
        self._opened = opened
        self._memory_budget = memory_budget
        self._data: DataSet | None = None
        self._edits: tuple[AppliedEdit, ...] = ()
        self._cursor = 0
        self._limits: tuple[Limit, ...] = ()
        self._energy = EnergySettings()
        self._estimates: dict[str, EnergyEstimate] = {}  # by state
        base = look_at(opened.model, opened.inputs)
        base = replace(base, tree=opened.declared.shown(base.tree))
        self._ids: tuple[str, ...] = (_BASE_ID,)  # of the states before and after each edit
        self._kept: dict[str, Subject] = {_BASE_ID: base}
        self._values: dict[str, Values] = {}  # shares of zeros as measured, by state
        self._tables = {_BASE_ID: _counted(base, opened.info.batch)}
        self._file_estimate(_BASE_ID, self._modelled(base, self._energy, self._values, _BASE_ID))
        self._touched: dict[str, frozenset[LayerId]] = {}  # by the edit that led to the state
        self._run_under: dict[str, RunSettings] = {}  # by metric
        self._judge: Evaluator | None = None
        self._tried: dict[tuple[str, Edit], Subject] = {}  # by state and edit, not applied
        # By the state that they started from.
        self._tunings = WeakKeyDictionary[Tuning | Rounding, str]()

    # -- what there is

    @property
    def snapshot(self) -> Snapshot:
        """Everything as it is now, frozen."""
        base, current = self._model_state(0), self._model_state(self._cursor)
        return Snapshot(
            self._opened.info,
            base,
            current,
            self._history(),
            self._cursor,
            tuple(LimitStatus(one, _met(one, base, current)) for one in self._limits),
            self._data_info(),
        )  # fmt: skip

    def _history(self) -> tuple[HistoryEntry, ...]:
        requests = [one.request for one in self._edits]
        return tuple(
            HistoryEntry(
                one.request,
                self._tables.get(self._id(at), MeasurementTable()),
                before_recovery(requests[:at]),
                one.decision.told if isinstance(one.decision, Retrained) else "",
                one.decision.warnings if isinstance(one.decision, LayersQuantized) else (),
            )
            for at, one in enumerate(self._edits, start=1)
        )

    def _data_info(self) -> DataInfo | None:
        data = self._data
        if data is None:
            return None
        return DataInfo(
            data.name,
            len(data.training),
            len(data.validation),
            data.metric,
            tuple(f"{name}: {problem}" for name, problem in data.broken.items()),
            data.description,
        )

    def fingerprint(self, cursor: int | None = None) -> str:
        """SHA-256 over names, types, shapes and bits of a state's tensors, the current one's."""
        model = self._subject(self._cursor if cursor is None else cursor).model
        return fingerprint(model)

    # -- editing

    def preview(self, edit: Edit, job: Job) -> Effect:
        """What the edit would do to the current state; changes nothing.

        Raises:
            EditRefused: it cannot be applied; the message says why.
        """
        with _foreign_errors_named():
            subject = self._to_edit()
            handler = handler_of(edit)
            self._check_layers(edit, subject)
            draft = handler.draft(edit, subject, job)
            job.check()
            edited = carried_out(AppliedEdit(edit, draft), subject)
            after = _counted(edited, self._opened.info.batch).with_series(
                self._modelled(edited, self._energy, self._values).series
            )
            effects = tuple(_with_role(effect, edit) for effect in handler.effects(draft, subject))
            before = self._tables[self._id(self._cursor)]
            warnings = draft.warnings if isinstance(draft, LayersQuantized) else ()
            notes = tuple(one for one in handler.notes(draft, subject) if one not in warnings)
            return Effect(edit, effects, _totals(before), _totals(after), notes, warnings)

    def channel_scores(self, edit: PruneChannels | PruneHeads, job: Job) -> ChannelScores:
        """How much each output channel, or head, of the edit's one layer matters.

        Raises:
            EditRefused: its channels cannot be removed, or the criterion needs data.
        """
        with _foreign_errors_named():
            subject = self._to_edit()
            self._check_layers(edit, subject)
            return channel_scores(edit, subject, job)

    def activation_ranges(
        self, layer: LayerId, edit: Quantize | None, job: Job
    ) -> tuple[ActivationRange, ...]:
        """What a layer reads on training samples, with the grid that the edit would lay over it.

        Calibrates the current state if that has not been done for these data.

        Args:
            edit: None: the grid is the one on which the layer rounds already, if it does.

        Raises:
            EditRefused: there is no such layer, or some values are not finite.
            ProfilingFailed: the model has no weights.
        """
        subject = self._subject(self._cursor)
        if layer not in subject.tree:
            raise EditRefused(f"The model has no layer “{layer}”.")
        _check_weights(subject, ProfilingFailed)
        samples = (edit or self._quantizing(layer)).calibration_samples
        with _foreign_errors_named():
            return activation_ranges(layer, edit, samples, subject, job)

    def _quantizing(self, layer: LayerId) -> Quantize:
        """The edit that quantized a layer, or one as it would by default."""
        applied = (one.request for one in reversed(self._edits[: self._cursor]))
        quantizing = (one for one in applied if isinstance(one, Quantize) and layer in one.layers)
        return next(quantizing, Quantize((layer,)))

    def apply(self, edit: Edit, job: Job) -> Change:
        """Apply the edit to the current state; undone edits behind it are dropped.

        Raises:
            EditRefused: it cannot be applied; nothing has changed.
            Cancelled: likewise.
        """
        with _foreign_errors_named():
            subject = self._to_edit()
            self._check_layers(edit, subject)
            decision = handler_of(edit).decide(edit, subject, job)
            return self._commit((checked(AppliedEdit(edit, decision), subject, job),), job)

    def apply_schedule(
        self, edit: Scheduled, kind: ScheduleKind, steps: int, tune: FineTune | None, job: Job
    ) -> Change:
        """Prune in several steps, each followed by fine-tuning; every one is an edit of its own.

        Cancelled in a later step, it keeps the whole steps before that one.

        Args:
            tune: what follows each step; None: nothing does.

        Raises:
            EditRefused: a step cannot be done; nothing has changed.
            Cancelled: in the first step; nothing has changed.
        """
        plan = self.scheduled(edit, kind, steps)
        of = 1 if kind == "one-shot" else steps
        before = whole = self._edits, self._ids, self._cursor
        layers: set[LayerId] = set()
        try:
            for at, asked in enumerate(plan, start=1):
                with job.within(f"Step {at} of {of}"):
                    touched = self.apply(asked, job).layers
                    if tune is not None:
                        touched |= self.apply(tune, job).layers
                whole = self._edits, self._ids, self._cursor
                layers |= touched
        except Cancelled:
            self._edits, self._ids, self._cursor = whole
            if whole is before:
                raise
        except BaseException:
            self._edits, self._ids, self._cursor = before
            raise
        return self._changed(Part.LAYERS | Part.METRICS | Part.HISTORY | Part.LIMITS, layers)

    def scheduled(self, edit: Scheduled, kind: ScheduleKind, steps: int) -> Iterator[Scheduled]:
        """The edits of such a pruning, each reckoned from the state that is current by then.

        Raises:
            EditRefused: there is no such schedule, or the edit cannot be done by steps.
        """
        subject = self._to_edit()
        self._check_layers(edit, subject)
        first = subject.tree
        plan = schedule(edit, kind, steps, _sparsity(first, edit.layers))
        targets = zip(plan, shares(kind, steps, edit.ratio), strict=True)
        return (self._reckoned(step, share, first) for step, share in targets)

    def _reckoned(self, step: Scheduled, share: float, first: LayerTree) -> Scheduled:
        """The step with its ratio reckoned from the channels that are left by now."""
        if not isinstance(step, PruneChannels) or step.channels:
            return step
        now = self._subject(self._cursor).tree
        at_first, left = (
            sum(tree[layer].channels or 0 for layer in step.layers) for tree in (first, now)
        )
        return replace(step, ratio=ratio_of_left(share, at_first, left)) if left else step

    @overload
    def start_tuning(self, edit: FineTune, job: Job) -> Tuning: ...

    @overload
    def start_tuning(self, edit: Quantize, job: Job) -> Rounding: ...

    def start_tuning(self, edit: FineTune | Quantize, job: Job) -> Tuning | Rounding:
        """Make ready to fine-tune the current state in slices, or to learn roundings of it so.

        Changes nothing. What :meth:`apply` does in one go: :meth:`Tuning.step` does a part of it,
        on a copy, and :meth:`commit_tuning` makes an edit of the best so far, at any time.

        Raises:
            EditRefused: it cannot be trained, or quantized, so.
        """
        with _foreign_errors_named():
            subject = self._to_edit()
            self._check_layers(edit, subject)
            tuning = (
                Tuning(edit, subject, job)
                if isinstance(edit, FineTune)
                else Rounding(edit, subject, job)
            )
        self._tunings[tuning] = self._id(self._cursor)
        return tuning

    def commit_tuning(self, tuning: Tuning | Rounding, job: Job) -> Change:
        """Apply a fine-tuning with its best weights so far, or roundings as far as they are
        learned; what is kept on disk goes.

        Raises:
            EditRefused: the current state is no longer the one that it started from.
        """
        if self._tunings.get(tuning) != self._id(self._cursor):
            raise EditRefused(
                "The model has been edited since the training started, so its weights do not "
                "belong to the current state.",
                "Go back to the state it started from (in the history), and apply it there.",
            )
        with _foreign_errors_named():
            found = checked(tuning.finish(), self._subject(self._cursor), job)
            change = self._commit((found,), job)
        tuning.discard()
        return change

    def default_scan(self) -> ScanRequest:
        """A dozen settings that tell layers apart, for the current state."""
        return ScanRequest(usual_settings(self._subject(self._cursor).tree))

    def start_scan(self, request: ScanRequest, job: Job) -> Scan:
        """Make ready to measure what each layer of the current state can bear; changes nothing.

        Raises:
            DataSetNotFound: no data set is chosen.
            ProfilingFailed: the model has no weights.
            EditRefused: no setting can be applied to any of the layers.
            DataSetMismatch, DataSetUnreadable: the model and its data do not go together.
        """
        if self._data is None:
            raise DataSetNotFound(f"No data set is chosen for {self._opened.info.name}.")
        with _foreign_errors_named():
            subject = self._to_edit()
            _check_weights(subject, ProfilingFailed)
            for layer in request.layers:
                if layer not in subject.tree:
                    raise EditRefused(f"The model has no layer “{layer}”.")
            return Scan(request, subject, self._data, job, self._id(self._cursor))

    def undo(self, job: Job) -> Change:
        """Go one edit back."""
        return self.go_to(self._cursor - 1, job)

    def redo(self, job: Job) -> Change:
        """Go one edit forward."""
        return self.go_to(self._cursor + 1, job)

    def go_to(self, cursor: int, job: Job) -> Change:
        """Make the state after ``cursor`` edits the current one.

        Raises:
            EditRefused: there is no such state.
        """
        if not 0 <= cursor <= len(self._edits):
            raise EditRefused(
                "There is nothing to undo." if cursor < 0 else "There is nothing to redo."
            )
        with _foreign_errors_named():
            job.begin("Going to that state")
            first, last = sorted((cursor, self._cursor))
            layers: set[LayerId] = set()
            for at in range(first + 1, last + 1):
                layers |= self._touched[self._id(at)]
            self._model_state(cursor)  # with its energy, which may fail, before anything changes
            self._cursor = cursor
            self._drop_states()
            return self._changed(Part.LAYERS | Part.METRICS | Part.HISTORY | Part.LIMITS, layers)

    # -- data and measurements

    def load_data(self, source: str | DataRequest, job: Job) -> Change:
        """Choose the data set that calibrates (training split) and reports (validation split).

        Args:
            source: a name, a folder or a file, or with it what it does not say.

        Raises:
            DataSetNotFound: there is none.
            DataSetMismatch: its samples do not have the shape of the model's input.
            DataSetUnreadable: a file is damaged.
            ConsentNeeded: the user's own code has not been allowed to run.
        """
        request = DataRequest(source) if isinstance(source, str) else source
        with _foreign_errors_named():
            data = load_data(request, self._opened.info, job)
            # Zeros and accuracies that were measured on other data say nothing about these.
            dense = self._all_modelled(self._energy, {}, job) if self._values else None
        self._data = data
        self._tried.clear()
        for one in self._kept.values():
            forget(one)
        self._kept = {id_: replace(one, data=data) for id_, one in self._kept.items()}
        self._tables = {id_: table.without(ACCURACY.key) for id_, table in self._tables.items()}
        if dense is not None:
            self._values = {}
            self._file_all(dense)
        return self._changed(Part.DATA | Part.METRICS | Part.LIMITS)

    def preview_data(self, request: DataRequest, count: int, job: Job) -> tuple[SamplePreview, ...]:
        """At most ``count`` validation samples as the model would see them; changes nothing.

        Raises:
            As :meth:`load_data`.
        """
        with _foreign_errors_named():
            return preview(request, self._opened.info, count, job)

    def evaluate(self, job: Job) -> Change:
        """Accuracy of the current state on validation data, and of the base if it is missing.

        Raises:
            DataSetNotFound: no data set is chosen.
            ProfilingFailed: the model has no weights.
        """
        if self._data is None:
            raise DataSetNotFound(f"No data set is chosen for {self._opened.info.name}.")
        data = self._data
        _check_weights(self._subject(self._cursor), ProfilingFailed)
        change = self._measure(
            ACCURACY.key, lambda subject: self._told(self._judged(subject.model, data, job))
        )
        return replace(change, parts=change.parts | Part.DATA) if data.broken else change

    def preview_accuracy(self, edit: Edit, job: Job, samples: int | None = None) -> Comparison:
        """Accuracy that the current state would have with the edit, beside the base's.

        Changes nothing. ``job.partial`` is the comparison so far; it ends early when it is settled.

        Args:
            samples: the most validation samples to take; None: all.

        Raises:
            DataSetNotFound: no data set is chosen.
            ProfilingFailed: the model has no weights.
            EditRefused: the edit cannot be applied; the message says why.
            DataSetMismatch, DataSetUnreadable: see :meth:`engine.evaluate.Evaluator.evaluate`.
        """
        if self._data is None:
            raise DataSetNotFound(f"No data set is chosen for {self._opened.info.name}.")
        _check_weights(self._subject(self._cursor), ProfilingFailed)
        with _foreign_errors_named():
            edited = self._with(edit, job).model
            base = self._subject(0).model
            return self._evaluator(self._data).compare(base, edited, job, samples)

    def _with(self, edit: Edit, job: Job) -> Subject:
        """The current state with an edit that is not applied; the last few are remembered."""
        key = self._id(self._cursor), edit
        known = self._tried.pop(key, None)
        if known is None:
            subject = self._to_edit()
            self._check_layers(edit, subject)
            decision = handler_of(edit).decide(edit, subject, job)
            known = carried_out(AppliedEdit(edit, decision), subject)
        if not isinstance(edit, _OF_FILES):
            self._tried[key] = known
        while len(self._tried) > _MOST_TRIED:
            del self._tried[next(iter(self._tried))]
        return known

    def _evaluator(self, data: DataSet) -> Evaluator:
        if self._judge is None or self._judge.data is not data:
            self._judge = Evaluator(data)
        return self._judge

    def _judged(self, model: nn.Module, data: DataSet, job: Job) -> Series:
        """Accuracy of a state, and how it differs from the base's sample by sample."""
        evaluator, base = self._evaluator(data), self._subject(0).model
        series = evaluator.evaluate(model, job)
        differing = None if model is base else evaluator.difference(base, model)
        if differing is None:
            return series
        words = _difference_text(*differing)
        return replace(series, conditions={**series.conditions, "against base": words})

    def _told(self, accuracy: Series) -> Series:
        """The series with a warning where the weights mean nothing."""
        if self._opened.info.trained:
            return accuracy
        return replace(accuracy, conditions={**accuracy.conditions, "weights": "random"})

    def measure_latency(self, job: Job, settings: RunSettings = AS_IT_IS) -> Change:
        """Latency of the current state on this machine, and of the base if it is missing.

        This and what follows raise ProfilingFailed where the model does not run under the
        settings.
        """
        return self._run(
            LATENCY.key,
            lambda subject: measure_latency(subject.model, subject.inputs, job, settings),
            settings,
        )

    def set_energy(self, settings: EnergySettings, job: Job) -> Change:
        """Model energy on that hardware, at that batch, of every state from now on.

        Raises:
            EngineError: there is no such batch or width.
            ForwardFailed: the model does not run at that batch.
        """
        _check_settings(settings)
        with _foreign_errors_named():
            job.begin("Modelling energy")
            found = self._all_modelled(settings, self._values, job)
        self._energy = settings
        self._tried.clear()
        self._file_all(found)
        return self._changed(Part.METRICS | Part.LIMITS)

    def measure_zeros(self, job: Job) -> Change:
        """Measure zeros of activations on the training split, of the current state and the base.

        Modelled energy makes use of them from then on, where the hardware does.

        Raises:
            DataSetNotFound: no data set is chosen.
            ProfilingFailed: the model has no weights.
        """
        data = self._data
        if data is None:
            raise DataSetNotFound(f"No data set is chosen for {self._opened.info.name}.")
        _check_weights(self._subject(self._cursor), ProfilingFailed)
        with _foreign_errors_named():
            values = dict(self._values)
            for cursor in dict.fromkeys((0, self._cursor)):
                model = self._subject(cursor).model
                values.pop(self._id(cursor), None)  # the last one measured is to be the last here
                values[self._id(cursor)] = measure_zeros(model, data, job)
            found = self._all_modelled(self._energy, values, job)
        self._values = values
        self._tried.clear()
        self._file_all(found)
        return self._changed(Part.METRICS | Part.LIMITS)

    def measure_memory(self, job: Job, settings: RunSettings = AS_IT_IS) -> Change:
        """Peak activation memory of the current state, and of the base if it is missing."""
        return self._run(
            MEMORY.key,
            lambda subject: measure_memory(subject.model, subject.inputs, job, settings),
            settings,
        )

    def measure_energy(
        self, job: Job, settings: RunSettings = AS_IT_IS, layers: bool = True
    ) -> Change:
        """Measured energy of the current state, and of the base if it is missing.

        Args:
            layers: run each layer alone as well, which takes seconds for each.

        Raises:
            CounterUnavailable: nothing counts the energy of the device.
        """

        def take(subject: Subject) -> Series:
            return measure_energy(
                subject.model, subject.inputs, subject.tree, job, settings, layers
            )

        return self._run(MEASURED_ENERGY.key, take, settings)

    def _run(self, key: str, take: Callable[[Subject], Series], settings: RunSettings) -> Change:
        """Measure; figures of that metric under other settings are dropped, as no comparison."""
        before = self._tables
        if self._run_under.get(key, settings) != settings:
            self._tables = {id_: table.without(key) for id_, table in before.items()}
        try:
            change = self._measure(key, take)
        except BaseException:
            self._tables = before
            raise
        self._run_under[key] = settings
        return change

    def profile_operators(self, job: Job, settings: RunSettings = AS_IT_IS) -> OperatorProfile:
        """Operators of the current state over time."""
        with self._profiled() as subject:
            return profile_operators(subject.model, subject.inputs, job, settings)

    def profile_python(self, job: Job, settings: RunSettings = AS_IT_IS) -> CallProfile:
        """Python's calls while the current state runs."""
        with self._profiled() as subject:
            return profile_python(subject.model, subject.inputs, job, settings)

    def profile_lines(
        self, layer: LayerId, follow: bool, job: Job, settings: RunSettings = AS_IT_IS
    ) -> LineProfile:
        """Time per line of a layer's forward, with ``follow`` also of functions it calls.

        Raises:
            InvalidSelection: there is no such layer.
        """
        with self._profiled() as subject:
            return profile_lines(subject.model, subject.inputs, layer, follow, job, settings)

    def roofline(self, job: Job, settings: RunSettings = AS_IT_IS) -> Roofline:
        """The current state's layers under the roof of this machine."""
        with self._profiled() as subject:
            return profile_roofline(subject.model, subject.inputs, subject.tree, job, settings)

    @contextmanager
    def _profiled(self) -> Iterator[Subject]:
        with _foreign_errors_named():
            yield self._subject(self._cursor)

    def set_limits(self, limits: tuple[Limit, ...], job: Job) -> Change:
        """Replace the limits that the model must keep."""
        job.check()
        self._limits = limits
        return self._changed(Part.LIMITS)

    # -- files

    def export(self, path: str, format: Format, job: Job) -> ExportReport:
        """Write the current state, verified by re-opening it in a fresh process.

        Raises:
            ExportFailed: nothing is left at ``path`` but what was there before.
        """
        write = resolve(_EXPORTS[format])
        with _foreign_errors_named():
            subject = self._subject(self._cursor)
            _check_weights(subject, ExportFailed)
            report: ExportReport = write(
                subject.model, self._opened.architecture, self._opened.info, Path(path), job
            )
        return report

    def save_recipe(self, path: str, job: Job) -> tuple[str, ...]:
        """Write the applied edits with their decisions; the files written."""
        job.begin("Saving the recipe")
        # Of a file its name alone: a recipe is shared, folders are not.
        source = Path(self._opened.info.source).name
        edits = tuple(
            replace(one, request=without_folders(one.request))
            for one in self._edits[: self._cursor]
        )
        recipe = Recipe(source, self.fingerprint(0), edits)
        return tuple(str(one) for one in write_recipe(Path(path), recipe))

    def save_description(self, path: str, job: Job) -> DescriptionReport:
        """Write the current state for the MIT energy tool, and its modelled energy beside it.

        Batch and bits are those that energy is modelled at; what the format cannot say is in the
        report.

        Raises:
            ExportFailed: it could not be written, or nothing in the model has a line there.
        """
        job.begin("Saving the network description")
        with _foreign_errors_named():
            state, subject = self._model_state(self._cursor), self._subject(self._cursor)
            batch = self._energy.batch or self._opened.info.batch
            operators = self._opened.declared.stated(subject.at_batch(batch).operators)
            zeros = self._zeros(subject, self._values, state.id)
            description = describe(operators, batch, zeros, self._energy.bits)
        return save_description(Path(path), description, state.energy)

    def apply_recipe(self, path: str, job: Job) -> Change:
        """Apply all edits of a recipe, or none, by copying its decisions.

        Raises:
            RecipeUnreadable: the file is not a recipe or is damaged.
            RecipeMismatch: it belongs to another model.
        """
        job.begin("Reading the recipe")
        recipe = read_recipe(Path(path))
        with _foreign_errors_named():
            if recipe.fingerprint != self.fingerprint(0):
                raise RecipeMismatch(
                    f"{Path(path).name} was made for “{recipe.source}” with other weights "
                    f"than those of {self._opened.info.name}."
                )
            if self._cursor:
                raise RecipeMismatch(
                    "A recipe starts from the base model, and edits are applied already.",
                    "Undo to the base first (the first line of the history).",
                )
            damaged = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
            try:
                with _foreign_errors_named():
                    return self._commit(recipe.edits, job)
            except (EditRefused, *damaged) as error:
                cause = f"there is no {error}" if isinstance(error, KeyError) else str(error)
                raise RecipeMismatch(
                    f"{Path(path).name} does not fit {self._opened.info.name}: {cause}"
                ) from error

    # -- inside

    def _commit(self, edits: tuple[AppliedEdit, ...], job: Job) -> Change:
        """Append decided edits to the applied ones and make the result current."""
        history, ids = self._edits[: self._cursor], self._ids[: self._cursor + 1]
        subject = self._subject(self._cursor)
        made: dict[str, Subject] = {}
        touched: dict[str, frozenset[LayerId]] = {}
        for one in job.track(edits, "Applying"):
            self._check_layers(one.request, subject)
            layers = _layers(one, subject)
            had_weights = _has_weights(subject)
            subject = carried_out(one, subject)
            if had_weights:
                _check_weights(subject, RecipeMismatch)  # a decision without its tensors
            history, ids = (*history, one), (*ids, _state_id(ids[-1], one))
            made[ids[-1]] = subject
            touched[ids[-1]] = layers
        fresh = {id_: one for id_, one in made.items() if id_ not in self._tables}
        counted = {id_: _counted(one, self._opened.info.batch) for id_, one in fresh.items()}
        estimates = {
            id_: self._modelled(one, self._energy, self._values, id_) for id_, one in fresh.items()
        }
        job.check()
        self._kept.update(made)
        self._tables.update(counted)
        for id_, found in estimates.items():
            self._file_estimate(id_, found)
        self._touched.update(touched)
        self._edits, self._ids, self._cursor = history, ids, len(history)
        self._drop_states()
        parts = Part.LAYERS | Part.METRICS | Part.HISTORY | Part.LIMITS
        return self._changed(parts, set().union(*touched.values()))

    def _changed(self, parts: Part, layers: "set[LayerId] | None" = None) -> Change:
        return Change(parts, frozenset(layers or ()), self.snapshot)

    def _id(self, cursor: int) -> str:
        return self._ids[cursor]

    def _model_state(self, cursor: int) -> ModelState:
        id_ = self._id(cursor)
        subject = self._subject(cursor)
        if id_ not in self._estimates:  # dropped when energy was modelled anew
            self._file_estimate(id_, self._modelled(subject, self._energy, self._values, id_))
        return ModelState(id_, subject.tree, self._tables[id_], self._estimates[id_])

    def _file_estimate(self, id_: str, found: EnergyEstimate) -> None:
        self._estimates[id_] = found
        self._tables[id_] = self._tables[id_].with_series(found.series)

    def _file_all(self, found: Mapping[str, EnergyEstimate]) -> None:
        """File estimates in place of all that there are; other states get theirs when asked for."""
        self._estimates.clear()
        self._tables = {id_: table.without(ENERGY.key) for id_, table in self._tables.items()}
        for id_, one in found.items():
            self._file_estimate(id_, one)

    def _all_modelled(
        self, settings: EnergySettings, values: Mapping[str, Values], job: Job
    ) -> dict[str, EnergyEstimate]:
        """Modelled energy of every state that is kept; files nothing.

        Args:
            values: shares of zeros as measured, by state.
        """
        found = {}
        for id_, subject in self._kept.items():
            job.check()
            found[id_] = self._modelled(subject, settings, values, id_)
        return found

    def _modelled(
        self,
        subject: Subject,
        settings: EnergySettings,
        values: Mapping[str, Values],
        id_: str = "",
    ) -> EnergyEstimate:
        """Modelled energy of a state, with zeros as measured of it or of the last that was."""
        batch = settings.batch or self._opened.info.batch
        seen = subject.at_batch(batch)
        operators = self._opened.declared.stated(seen.operators)
        found = estimate(operators, settings, batch, self._zeros(subject, values, id_))
        if seen.ran != "real":
            return found
        held = replace(found.series, conditions={**found.series.conditions, **_HELD_SHAPES})
        return replace(found, series=held)

    def _zeros(self, subject: Subject, values: Mapping[str, Values], id_: str) -> Zeros:
        """Zeros of a state's own weights, and of values as measured, or as declared."""
        declared = self._opened.declared.zeros
        measured = values.get(id_) or next(reversed(tuple(values.values())), {})
        weights = {**weight_zeros(subject.model), **declared.weights}
        return Zeros(weights, measured) if measured else replace(declared, weights=weights)

    def _subject(self, cursor: int) -> Subject:
        """The state after ``cursor`` edits, rebuilt from the nearest kept one if dropped."""
        missing = []
        while (id_ := self._id(cursor)) not in self._kept:
            cursor -= 1
            missing.append((self._edits[cursor], id_))
        subject = self._kept[id_]
        for applied, id_ in reversed(missing):
            subject = self._kept[id_] = carried_out(applied, subject)
        return subject

    def _to_edit(self) -> Subject:
        """The current state, with what deciding an edit may ask for beyond it."""
        state = self._model_state(self._cursor)
        series = state.table[ENERGY.key]
        energy = {
            id_: sum(one.value for one in parts.values()) for id_, parts in series.layers.items()
        }
        return replace(self._subject(self._cursor), base=self._subject(0).model, energy=energy)

    def _drop_states(self) -> None:
        """Forget the oldest states beyond the memory budget, never base and current."""
        always = {self._id(0), self._id(self._cursor)}
        held: set[int] = set()
        for id_ in always:
            unshared_bytes(self._kept[id_].model, held)
        size = 0
        for id_ in reversed([one for one in self._kept if one not in always]):
            size += unshared_bytes(self._kept[id_].model, held)
            if size > self._memory_budget:
                del self._kept[id_]

    def _measure(self, key: str, take: Callable[[Subject], Series]) -> Change:
        found = {}
        with _foreign_errors_named():
            for cursor in dict.fromkeys((0, self._cursor)):
                id_ = self._id(cursor)
                if cursor == self._cursor or key not in self._tables[id_]:
                    found[id_] = take(self._subject(cursor))
        for id_, series in found.items():
            self._tables[id_] = self._tables[id_].with_series(series)
        return self._changed(Part.METRICS | Part.LIMITS)

    def _check_layers(self, edit: Edit, subject: Subject) -> None:
        if not edit.layers:
            raise EditRefused("No layer is selected.", "Select at least one layer.")
        if reads_weights(edit):
            _check_weights(subject, EditRefused, _AT_RANDOM if type(edit) in ON_SHAPES else "")
        seen: set[LayerId] = set()
        for layer in edit.layers:
            if layer not in subject.tree:
                raise EditRefused(f"The model has no layer “{layer}”.")
            if layer in seen:
                raise EditRefused(f"The layer {layer} is named twice.", "Name each layer once.")
            seen.add(layer)


def _sparsity(tree: LayerTree, layers: tuple[LayerId, ...]) -> float:
    """Share of the layers' weights that are zero."""
    found = [one for one in (tree.get(layer) for layer in layers) if one is not None]
    weights = sum(one.weights for one in found)
    return sum(one.zeros for one in found) / weights if weights else 0.0


def _difference_text(lost: int, gained: int) -> str:
    """Samples that the base alone has right, and the edited model alone, with McNemar's p."""
    p_value = mcnemar(lost, gained)
    told = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
    return f"lost {lost:,}, gained {gained:,}, {told}"


def _check_settings(settings: EnergySettings) -> None:
    for number, most, what in (
        (settings.batch, MOST_SAMPLES, "samples at once"),
        (settings.bits, MOST_BITS, "bits"),
    ):
        if not 0 <= number <= most:
            raise EngineError(
                f"Energy cannot be modelled for {number:,} {what}.",
                f"Give 1 to {most:,}, or 0 for what the model itself has.",
            )


def _check_weights(subject: Subject, refusal: type[EngineError], instead: str = "") -> None:
    """Raise ``refusal`` for a model of shapes alone.

    Args:
        instead: what can be done without weights, as a sentence.
    """
    if not _has_weights(subject):
        remedy = f"Open it with weights. {instead}".strip()
        raise refusal("The model has shapes but no weights.", remedy)


def _has_weights(subject: Subject) -> bool:
    return not any(tensor.is_meta for _, tensor in tensors_of(subject.model))


_AT_RANDOM = "To see what the edit would save, choose at random or by hand."


def _counted(subject: Subject, batch: int) -> MeasurementTable:
    """What is counted from the trace and the tensors."""
    parameters = {one.id: {"": Quantity(one.parameters)} for one in subject.tree if one.parameters}
    macs = subject.trace.operators.macs()
    unruled = subject.trace.operators.unattributed()
    held = _HELD_SHAPES if subject.trace.ran == "real" else {}
    sizes: dict[LayerId, int] = {}
    packed_bits = bits_of_integers(subject.model)
    stored = {
        id(tensor): (name, tensor)
        for name, tensor in reversed(subject.model.state_dict(keep_vars=True).items())
    }
    for name, tensor in reversed(stored.values()):
        layer = LayerId(name.rpartition(".")[0])
        stated = tensor.is_meta and tensor.is_floating_point()
        few = subject.tree[layer].weight_bits if stated else packed_bits.get(name)
        bits = few or tensor.itemsize * 8
        sizes[layer] = sizes.get(layer, 0) + ceil(tensor.numel() * bits / 8)
    return MeasurementTable(
        (
            Series(PARAMETERS, _sum(parameters), parameters),
            Series(
                MACS,
                Quantity(sum(macs.values()) / batch),
                {layer: {"": Quantity(count / batch)} for layer, count in macs.items()},
                unruled,
                {"batch": str(batch), **held},
            ),
            Series(
                SIZE,
                Quantity(sum(sizes.values())),
                {layer: {"": Quantity(size)} for layer, size in sizes.items()},
            ),
        )
    )


def _layers(applied: AppliedEdit, subject: Subject) -> frozenset[LayerId]:
    effects = handler_of(applied.request).effects(applied.decision, subject)
    return frozenset(effect.layer for effect in effects)


def _state_id(before: str, applied: AppliedEdit) -> str:
    """A name for the state behind that edit; the same edits in a row give the same name."""
    return hashlib.sha256(f"{before} {applied!r}".encode()).hexdigest()[:16]


def _met(limit: Limit, base: ModelState, current: ModelState) -> bool | None:
    value, reference = (one.table.total(limit.metric) for one in (current, base))
    return limit.met(value.value if value else None, reference.value if reference else None)


def _with_role(effect: LayerEffect, edit: Edit) -> LayerEffect:
    if effect.layer in edit.layers and effect.quantity != "input channels":
        return replace(effect, role="chosen")
    return effect


def _totals(table: MeasurementTable) -> dict[str, float]:
    """Totals of what is exact: counted or modelled, not measured."""
    return {
        key: one.total.value
        for key, one in table.items()
        if one.metric.provenance is not Provenance.MEASURED
    }


def _sum(layers: dict[LayerId, dict[str, Quantity]]) -> Quantity:
    return Quantity(sum(part.value for parts in layers.values() for part in parts.values()))


@contextmanager
def _foreign_errors_named() -> Iterator[None]:
    """Turn what the system and torch raise for lack of memory into our own error."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory("Memory ran out; the model is as it was.") from error
        raise
