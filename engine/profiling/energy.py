"""Measured energy of the model and of each layer, by the counters that this machine has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from time import perf_counter, sleep
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from engine.energy.counters import (
    CounterInfo,
    EnergyCounter,
    Gpu,
    Meter,
    find_counters,
    readable,
)
from engine.errors import CounterUnavailable, ProfilingFailed
from engine.job import Job
from engine.layers import LayerId, LayerTree
from engine.metrics import MEASURED_ENERGY, Quantity, Series
from engine.profiling.running import AS_IT_IS, Forward, Run, running, wrapped
from engine.requests import RunSettings
from engine.tracing import batch_of

DIFFERENCE = "difference to the whole"
"""What the whole takes beyond its layers, among what is unattributed; below zero when less."""

LAYER_PARTS = 4
"""Parts of a layer's window whose least and most are its interval."""

SCATTER = 0.1
"""Trials that differ by more than this share are told of."""

_STEPS = 1000  # of progress


@dataclass(frozen=True)
class Protocol:
    """How long what is measured, in seconds.

    Attributes:
        settle: of rest, so that clocks fall, before idle power is measured.
        idle: of the window of idle power.
        warm_up: of running before the first window.
        window: of each trial at least.
        layer: of each layer's replay at least.
        layer_warm_up: of each layer's running before that.
        between_reads: of the counters.
    """

    settle: float = 1.0
    idle: float = 5.0
    warm_up: float = 2.0
    window: float = 5.0
    trials: int = 5
    layer: float = 2.0
    layer_warm_up: float = 0.1
    between_reads: float = 0.1


@dataclass(frozen=True)
class _Window:
    """What was read while something ran again and again.

    Attributes:
        marks: joules, seconds and runs since its start, at each read.
    """

    marks: tuple[tuple[float, float, int], ...]

    @property
    def joules(self) -> float:
        return self.marks[-1][0]

    @property
    def seconds(self) -> float:
        return self.marks[-1][1]

    @property
    def runs(self) -> int:
        return self.marks[-1][2]

    def gross(self) -> float:
        """Joules a run."""
        return self.joules / self.runs

    def net(self, idle_watts: float) -> float:
        """Joules a run beyond those of idle."""
        return (self.joules - idle_watts * self.seconds) / self.runs

    def parts(self, count: int) -> list["_Window"]:
        """The same in so many windows of about one length, or as many as there were reads."""
        marks = ((0.0, 0.0, 0), *self.marks)
        count = min(count, len(self.marks))
        ends = [marks[len(self.marks) * at // count] for at in range(count + 1)]
        return [
            _Window(((last[0] - first[0], last[1] - first[1], last[2] - first[2]),))
            for first, last in pairwise(ends)
        ]


def energy_counters() -> tuple[CounterInfo, ...]:
    """The counters of energy that this machine has, and why others cannot be read."""
    return tuple(counter.info for counter in find_counters(_gpus()))


def counters_of(device: str) -> tuple[EnergyCounter, ...]:
    """The counters that together tell the energy of that device.

    Raises:
        CounterUnavailable: there is none, or one of them cannot be read.
    """
    return readable(find_counters(_gpus() if device.startswith("cuda") else ()), device)


def _gpus() -> tuple[Gpu, ...]:
    if not torch.cuda.is_available():
        return ()
    return tuple(_gpu(at) for at in range(torch.cuda.device_count()))


def _gpu(at: int) -> Gpu:
    found: Any = torch.cuda.get_device_properties(at)
    bus = f"{found.pci_domain_id:08X}:{found.pci_bus_id:02X}:{found.pci_device_id:02X}.0"
    return Gpu(f"cuda:{at}", found.name, bus, "AMD" if torch.version.hip else "NVIDIA")


def measure_energy(
    model: nn.Module,
    inputs: tuple[Any, ...],
    tree: LayerTree,
    job: Job,
    settings: RunSettings = AS_IT_IS,
    layers: bool = True,
    protocol: Protocol = Protocol(),
    counters: Callable[[str], Sequence[EnergyCounter]] = counters_of,
) -> Series:
    """Joules an inference beyond idle, the median of the trials with their least and most.

    An inference is one sample: a pass of a batch is as many. Idle power is measured first, with
    the model on the device and nothing running. What the counters count is everything that the
    device does, other programs' work as well.

    With ``layers``, each layer that ran and holds none that did is then run alone, again and
    again on the inputs that it had in a pass. What the whole takes beyond them is unattributed,
    with the layers that could not be run alone or took no more than idle.

    Args:
        counters: those of a device, named as torch does with its number.

    Raises:
        CounterUnavailable: no counter tells the energy of the device.
        ProfilingFailed: the model does not run so, or takes no more than idle.
        Cancelled: between two runs.
    """
    with running(model, inputs, settings) as run:
        meter = Meter(found := counters(_device_of(run)), perf_counter)
        course = _Course(job)
        started = perf_counter()
        names = _innermost_that_ran(run, tree)  # the first pass makes what is kept, too
        _wait(run)
        course.plan(protocol, perf_counter() - started, len(names) if layers else 0)
        idle = _idle_watts(meter, protocol, course)
        trials = _trials(run, meter, protocol, course)
        _check_above_idle(trials, idle)
        batch = batch_of(run.inputs)
        total = _total([trial.net(idle) / batch for trial in trials])
        alone = _Layers(run, meter, protocol, course, idle).measured(names if layers else ())
        conditions = run.conditions | _conditions(found, trials, idle, total, batch)
    if not layers:
        return Series(MEASURED_ENERGY, total, conditions=conditions)
    return _with_layers(Series(MEASURED_ENERGY, total, conditions=conditions), alone, batch)


def _device_of(run: Run) -> str:
    name = str(run.device)
    return f"cuda:{torch.cuda.current_device()}" if name == "cuda" else name


# -- the whole


def _idle_watts(meter: Meter, protocol: Protocol, course: "_Course") -> float:
    course.begin("Measuring idle power", protocol.settle + protocol.idle)
    _rest(protocol.settle, protocol.between_reads, course)
    meter.start()
    joules = seconds = 0.0
    while seconds < protocol.idle:
        sleep(protocol.between_reads)
        joules, seconds = meter.read()
        course.at(protocol.settle + seconds)
    return joules / seconds


def _rest(seconds: float, step: float, course: "_Course") -> None:
    started = perf_counter()
    while (elapsed := perf_counter() - started) < seconds:
        course.at(elapsed)
        sleep(step)


def _trials(run: Run, meter: Meter, protocol: Protocol, course: "_Course") -> list[_Window]:
    course.begin("Warming up", protocol.warm_up)
    chunk = _chunk_of(_repeated(run, meter, protocol.warm_up, 1, course), protocol)
    trials = []
    for at in range(protocol.trials):
        text = f"Measuring energy, trial {at + 1} of {protocol.trials}"
        course.begin(text, protocol.window)
        trials.append(_repeated(run, meter, protocol.window, chunk, course))
        meter.check()
    return trials


def _repeated(
    run: Run, meter: Meter, seconds: float, chunk: int, course: "_Course", reads: int = 1
) -> _Window:
    """Run it for so long at least, and until so many reads; read after every ``chunk`` runs."""
    marks: list[tuple[float, float, int]] = []
    _wait(run)
    meter.start()
    elapsed = 0.0
    while elapsed < seconds or len(marks) < reads:
        for _ in range(chunk):
            course.check()
            run.once()
        _wait(run)
        joules, elapsed = meter.read()
        course.at(elapsed)
        marks.append((joules, elapsed, chunk * (len(marks) + 1)))
    return _Window(tuple(marks))


def _chunk_of(window: _Window, protocol: Protocol) -> int:
    """Runs between two reads: reading must not become a part of what is read."""
    a_run = window.seconds / window.runs
    return max(1, round(protocol.between_reads / a_run)) if a_run > 0 else 1


def _wait(run: Run) -> None:
    """Return when the device has done all that it was given."""
    run.clock().wait()


def _check_above_idle(trials: list[_Window], idle: float) -> None:
    if median(trial.net(idle) for trial in trials) > 0:
        return
    watts = median(trial.joules / trial.seconds for trial in trials)
    raise ProfilingFailed(
        f"The model's energy is not above idle: {watts:.3g} W while it ran, {idle:.3g} W at rest.",
        "Choose a larger batch, and close other programs.",
    )


def _total(net: list[float]) -> Quantity:
    return Quantity(median(net), min(net), max(net))


def _conditions(
    counters: Sequence[EnergyCounter],
    trials: list[_Window],
    idle: float,
    total: Quantity,
    batch: int,
) -> dict[str, str]:
    shortest = min(trial.seconds for trial in trials)
    gross = median(trial.gross() for trial in trials) / batch
    found = {
        "counter": "; ".join(one.info.covers for one in counters),
        "windows": f"{len(trials)} of at least {shortest:.3g} s",
        "idle": f"{idle:.4g} W, taken off",
        "gross": f"{gross:.4g} J with idle",
        "spread": "least and most of the trials",
    }
    least, most = total.low or 0.0, total.high or 0.0
    if most - least > SCATTER * total.value:
        share = (most - least) / total.value
        found["noise"] = (
            f"the trials differ by {share:.0%}: other programs ran, or clocks and temperature "
            "changed"
        )
    return found


# -- layers


@dataclass(frozen=True)
class _Alone:
    """What running layers alone gave: joules a pass, and why others have none."""

    joules: dict[LayerId, Quantity]
    failed: dict[LayerId, str]


@dataclass(frozen=True)
class _Layers:
    """Runs layers alone."""

    run: Run
    meter: Meter
    protocol: Protocol
    course: "_Course"
    idle: float

    def measured(self, names: Sequence[LayerId]) -> _Alone:
        """Joules a pass of each of them."""
        joules: dict[LayerId, Quantity] = {}
        failed: dict[LayerId, str] = {}
        for at, name in enumerate(names, start=1):
            text = f"Measuring energy of layer {at} of {len(names)}"
            self.course.begin(text, self.protocol.layer + self.protocol.layer_warm_up)
            try:
                window = self._window(name)
            except ProfilingFailed as error:  # of the layer, or of a counter from here on
                failed[name] = _reason(error)
                continue
            value = window.net(self.idle)
            if value > 0:
                parts = [part.net(self.idle) for part in window.parts(LAYER_PARTS)]
                joules[name] = Quantity(value, min(parts), max(parts))
            else:
                failed[name] = "it takes no more than idle"
        return _Alone(joules, failed)

    def _window(self, name: LayerId) -> _Window:
        replay = _replay(self.run, name)
        warm = _repeated(replay, self.meter, self.protocol.layer_warm_up, 1, self.course)
        chunk = _chunk_of(warm, self.protocol)
        seconds = self.protocol.layer
        window = _repeated(replay, self.meter, seconds, chunk, self.course, LAYER_PARTS)
        self.meter.check()
        return window


def _reason(error: ProfilingFailed) -> str:
    """What went wrong in one line, without the conditions, which are those of all layers."""
    said = error if isinstance(error, CounterUnavailable) else error.__cause__ or error
    return next(iter(str(said).strip().splitlines()), type(said).__name__)


def _innermost_that_ran(run: Run, tree: LayerTree) -> tuple[LayerId, ...]:
    """Layers that a pass runs and below which it runs none, in the tree's order."""
    ran: set[LayerId] = set()

    def wrap(layer: LayerId, forward: Forward) -> Forward:
        def call(*args: Any, **kwargs: Any) -> Any:
            ran.add(layer)
            return forward(*args, **kwargs)

        return call

    with wrapped(run.model, wrap):
        run.once()
    return tuple(
        layer.id
        for layer in tree
        if layer.id in ran and ran.isdisjoint(set(tree.under(layer.id)) - {layer.id})
    )


class _Replay(nn.Module):
    """Does what one layer does in one pass, on the inputs that it had there."""

    def __init__(self, layer: nn.Module, calls: list[tuple[Any, Any]]) -> None:
        super().__init__()
        self.layer = layer
        self._calls = calls

    def forward(self) -> list[Any]:
        """What the layer gives, call by call."""
        return [self.layer(*args, **kwargs) for args, kwargs in self._calls]


def _replay(run: Run, name: LayerId) -> Run:
    """That layer alone, ready to be run.

    A layer that works in place works on its own results from the second run on, which takes the
    same operators; copies in between would be measured with it.
    """
    calls: list[tuple[Any, Any]] = []

    def wrap(layer: LayerId, forward: Forward) -> Forward:
        def call(*args: Any, **kwargs: Any) -> Any:
            # Before the layer, or one after it, writes into them.
            calls.append(tree_map_only(Tensor, _held, (args, kwargs)))
            return forward(*args, **kwargs)

        return call if layer == name else forward

    with wrapped(run.model, wrap):
        run.once()
    module = run.model.get_submodule(name)
    tensors = [*tree_leaves(calls), *module.parameters()]
    needs_gradient = any(isinstance(one, Tensor) and one.requires_grad for one in tensors)
    settings = replace(run.settings, backward=run.settings.backward and needs_gradient)
    return replace(run, model=_Replay(module, calls), inputs=(), settings=settings)


def _held(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _with_layers(series: Series, alone: _Alone, batch: int) -> Series:
    """The same with layers' values, in joules an inference, and what is left."""
    values = {layer: _divided(one, batch) for layer, one in alone.joules.items()}
    rest = series.total.value - sum(one.value for one in values.values())
    notes = {
        "layers": "each run alone on the inputs that it has in a pass",
        **(
            {"not attributed": "; ".join(f"{name}: {why}" for name, why in alone.failed.items())}
            if alone.failed
            else {}
        ),
    }
    return replace(
        series,
        layers={layer: {"": value} for layer, value in values.items()},
        unattributed={DIFFERENCE: rest, **dict.fromkeys(alone.failed)},
        conditions={**series.conditions, **notes},
    )


def _divided(value: Quantity, by: int) -> Quantity:
    low, high = value.low, value.high
    return Quantity(
        value.value / by, None if low is None else low / by, None if high is None else high / by
    )


# -- progress


class _Course:
    """Tells the job how much of the time is over, and about how much is left."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._planned = self._over = self._stage = 0.0
        self._text = ""
        job.begin("Measuring energy", _STEPS)

    def plan(self, protocol: Protocol, a_pass: float, layers: int) -> None:
        """Expect so much time, when one pass takes ``a_pass`` seconds."""
        passes = max(protocol.warm_up, a_pass) + protocol.trials * max(protocol.window, a_pass)
        # Each layer's inputs are taken from a pass of the whole.
        each = a_pass + protocol.layer_warm_up + protocol.layer
        self._planned = protocol.settle + protocol.idle + passes + layers * each

    def begin(self, text: str, seconds: float) -> None:
        """The next stage, of so many seconds."""
        self._over += self._stage
        self._stage, self._text = seconds, text
        self.at(0.0)

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            Cancelled: the user wants no more.
        """
        self._job.check()

    def at(self, seconds: float) -> None:
        """So long into the stage; stop here if asked to."""
        self.check()
        over = self._over + min(seconds, self._stage)
        if self._planned:
            self._job.done = int(_STEPS * min(1.0, over / self._planned))
        self._job.text = f"{self._text}, about {_words(max(0.0, self._planned - over))} left"


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
