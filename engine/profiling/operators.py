"""Operators of one pass over time, by torch.profiler, and the layers that they belong to."""

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, record_function

from engine.job import Job
from engine.layers import ROOT, LayerId
from engine.profiles import LayerSpan, OperatorCall, OperatorProfile
from engine.profiling.running import AS_IT_IS, Forward, Run, running, wrapped
from engine.requests import RunSettings

_WARM_UP_RUNS = 2
_MARK = "secateur:layer:"  # and a number: any name of a layer is then safe in the profiler's files
_PASS = "secateur:pass"
_GRADIENT = "autograd::engine::evaluate_function: "
_MEMORY = "[memory]"  # allocations that no operator made


def profile_operators(
    model: nn.Module, inputs: tuple[Any, ...], job: Job, settings: RunSettings = AS_IT_IS
) -> OperatorProfile:
    """Time, shapes and memory of every operator call of one pass, each with its layer.

    The operators' own times add up to that of the outermost ones; what is missing to the pass is
    Python between them, and the profiler's own work, which makes the pass longer than it is.
    Kernels of an accelerator stand beside the operators that started them.

    Raises:
        ProfilingFailed: the model does not run so on this machine.
        Cancelled: between two runs.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # it tells standard error when it starts
    with running(model, inputs, settings) as run:
        job.begin("Recording operators", _WARM_UP_RUNS + 3)
        for _ in range(_WARM_UP_RUNS):
            run.once()
            job.advance()
        _recorded(run)  # the profiler's first pass takes longer
        job.advance()
        record, layers = _recorded(run)
        job.advance()
    seconds, calls, spans = _read(record.events(), layers)
    trace = _chrome_trace(record, layers)
    job.advance()
    conditions = run.conditions | {"runs": "1", "recorder": "torch.profiler, which slows it down"}
    return OperatorProfile(seconds, calls, spans, trace, conditions)


def _recorded(run: Run) -> tuple[profile, list[LayerId]]:
    """One recorded pass, and the layers by the numbers that stand in the record."""
    layers: list[LayerId] = []

    def wrap(layer: LayerId, forward: Forward) -> Forward:
        name = f"{_MARK}{len(layers)}"
        layers.append(layer)

        def call(*args: Any, **kwargs: Any) -> Any:
            with record_function(name):
                return forward(*args, **kwargs)

        return call

    activities = [ProfilerActivity.CPU]
    if run.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with (
        wrapped(run.model, wrap),
        profile(activities=activities, record_shapes=True, profile_memory=True) as record,
        record_function(_PASS),
    ):
        run.once()
        run.clock().wait()
    return record, layers


# -- reading the record


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an event stands: its layer, and how many operators and layers are around it."""

    layer: LayerId
    operators: int
    layers: int


def _read(
    events: Iterable[Any], layers: list[LayerId]
) -> tuple[float, tuple[OperatorCall, ...], tuple[LayerSpan, ...]]:
    """Seconds of the pass, its operators and its layers' spans, each in order of their starts."""
    events = list(events)
    whole = next(event for event in events if event.name == _PASS)
    reader = _Reader(whole, layers)
    for event in events:
        if event.device_type == DeviceType.CPU and not event.is_async:
            reader.read(event)
    kernels = (
        reader.kernel(event)
        for event in events
        if event.device_type != DeviceType.CPU and not event.name.startswith("secateur:")
    )
    calls = sorted((*reader.calls, *kernels), key=lambda call: (call.start, -call.seconds))
    return _seconds(whole), tuple(calls), (*reader.spans, *reader.gradient_spans())


def _seconds(event: Any) -> float:
    return float(event.time_range.elapsed_us()) / 1e6


class _Reader:
    """Goes through the processor's events in order: parents come before their children."""

    def __init__(self, whole: Any, layers: list[LayerId]) -> None:
        self.calls: list[OperatorCall] = []
        self.spans: list[LayerSpan] = []
        self._whole = whole.time_range
        self._layers = layers
        self._places = {id(whole): _Place(ROOT, 0, 0)}
        self._by_id: dict[int, LayerId] = {}  # of events, for the kernels they started
        self._makers: dict[int, LayerId] = {}  # of gradients' operators, by autograd's numbers
        self._gradients: list[LayerSpan] = []
        self._latest = ROOT

    def read(self, event: Any) -> None:
        """Take the event down, if it belongs to the pass."""
        # A gradient's operators may run on a thread of their own, with nothing around them.
        around = self._places.get(id(event.cpu_parent), _Place(ROOT, 0, 0))
        inside = self._whole.start <= event.time_range.start <= self._whole.end
        if event.name in (_PASS, _MEMORY) or not inside:
            return
        if event.name.startswith(_MARK):
            layer = self._layers[int(event.name.removeprefix(_MARK))]
            self.spans.append(LayerSpan(layer, self._start(event), _seconds(event), around.layers))
            self._places[id(event)] = _Place(layer, around.operators, around.layers + 1)
        else:
            self._operator(event, around)

    def _operator(self, event: Any, around: _Place) -> None:
        layer = around.layer
        if event.name.startswith(_GRADIENT):
            # What adds to a parameter's gradient has no number, and follows what made it.
            layer = self._latest = self._makers.get(event.sequence_nr, self._latest)
            self._gradients.append(LayerSpan(layer, self._start(event), _seconds(event), 1))
        elif event.sequence_nr >= 0:
            self._makers[event.sequence_nr] = layer  # the innermost is the last
        self._places[id(event)] = _Place(layer, around.operators + 1, around.layers)
        self._by_id[event.id] = layer
        self.calls.append(
            OperatorCall(
                layer,
                event.name.removeprefix(_GRADIENT),
                self._start(event),
                _seconds(event),
                event.self_cpu_time_total / 1e6,
                around.operators,
                tuple(tuple(shape) for shape in event.input_shapes if shape),
                event.cpu_memory_usage + event.device_memory_usage,
            )
        )

    def kernel(self, event: Any) -> OperatorCall:
        """The call that an event on an accelerator is."""
        seconds = _seconds(event)
        return OperatorCall(
            self._by_id.get(event.linked_correlation_id, ROOT),
            event.name,
            self._start(event),
            seconds,
            seconds,
            0,
            device=f"{event.device_type.name.lower()}:{event.device_index}",
        )

    def gradient_spans(self) -> list[LayerSpan]:
        """The backward pass, and in it each stretch that belongs to one layer."""
        stretches: list[LayerSpan] = []
        for one in self._gradients:
            joined = stretches and stretches[-1].layer == one.layer
            start = stretches.pop().start if joined else one.start
            stretches.append(LayerSpan(one.layer, start, one.start + one.seconds - start, 1))
        if not stretches:
            return []
        first, last = stretches[0], stretches[-1]
        whole = LayerSpan(ROOT, first.start, last.start + last.seconds - first.start, 0)
        return [whole, *(one for one in stretches if one.layer != ROOT)]

    def _start(self, event: Any) -> float:
        return float(event.time_range.start - self._whole.start) / 1e6


def _chrome_trace(record: profile, layers: list[LayerId]) -> str:
    """The trace as JSON text, with the layers' own names."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8", errors="replace"), strict=False)
    for event in trace["traceEvents"]:
        name = event.get("name", "")
        if isinstance(name, str) and name.startswith(_MARK):
            event["name"] = layers[int(name.removeprefix(_MARK))] or "model"
        elif name == _PASS:
            event["name"] = "pass"
    for private in ("traceName", "host_name"):  # the temporary file's place, the machine's name
        trace.pop(private, None)
    return json.dumps(trace)
