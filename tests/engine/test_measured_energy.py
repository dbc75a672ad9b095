"""Measured energy: by a counter and a clock that the layers themselves move, so that it is exact.

Costs are halves and quarters of joules and seconds, which floating point adds up without error.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter, process_time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from engine import session
from engine.edits import PruneChannels
from engine.energy.counters import CounterInfo, EnergyCounter, Gpu
from engine.errors import CounterUnavailable, ProfilingFailed
from engine.job import Cancelled, Job
from engine.layers import ROOT, Layer, LayerId, LayerTree
from engine.metrics import MEASURED_ENERGY, Provenance, Series
from engine.profiling import energy, running
from engine.profiling.energy import (
    DIFFERENCE,
    Protocol,
    counters_of,
    energy_counters,
    measure_energy,
)
from engine.requests import RunSettings
from engine.session import ModelSession

QUICK = Protocol(
    settle=0.5,
    idle=1.0,
    warm_up=1.0,
    window=2.0,
    trials=5,
    layer=1.0,
    layer_warm_up=0.25,
    between_reads=0.125,
)
STEP = 1 / 64
"""Seconds that a call takes."""


class World:
    """A machine: seconds and joules, which grow by what runs on it and by its idle power."""

    def __init__(self) -> None:
        self.now = 0.0
        self.joules = 0.0
        self.idle_watts = 0.5
        self.reads = 0

    def spend(self, joules: float, seconds: float = STEP) -> None:
        self.now += seconds
        self.joules += joules + self.idle_watts * seconds

    def sleep(self, seconds: float) -> None:
        self.spend(0.0, seconds)

    def count(self) -> float:
        self.reads += 1
        return self.joules

    def counters(self, device: str) -> tuple[EnergyCounter, ...]:
        info = CounterInfo("toy", "toy", "all that the toy does", device)
        return (EnergyCounter(info, self.count, 1.0),)


WORLD = World()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    WORLD.__init__()  # type: ignore[misc]
    monkeypatch.setattr(energy, "perf_counter", lambda: WORLD.now)
    monkeypatch.setattr(energy, "sleep", WORLD.sleep)
    return WORLD


class Costs(nn.Module):
    """Takes so many joules a call."""

    def __init__(self, joules: float) -> None:
        super().__init__()
        self.joules = joules

    def forward(self, x: Tensor) -> Tensor:
        WORLD.spend(self.joules)
        return x


def tree_of(model: nn.Module) -> LayerTree:
    return LayerTree(
        Layer(LayerId(name), type(module).__name__) for name, module in model.named_modules()
    )


def measured(
    model: nn.Module,
    inputs: tuple[Any, ...] = (torch.zeros(1, 2),),
    job: Job | None = None,
    settings: RunSettings | None = None,
    layers: bool = True,
    protocol: Protocol = QUICK,
) -> Series:
    return measure_energy(
        model,
        inputs,
        tree_of(model),
        job or Job(),
        settings or RunSettings(),
        layers,
        protocol,
        WORLD.counters,
    )


# -- how much


def test_what_each_call_costs_is_what_is_measured(world: World) -> None:
    found = measured(nn.Sequential(Costs(2.0), nn.Sequential(Costs(0.5), Costs(0.25))))
    assert found.metric is MEASURED_ENERGY
    assert found.metric.provenance is Provenance.MEASURED
    assert found.total.value == found.total.low == found.total.high == 2.75
    assert found.by_layer() == {"0": 2.0, "1.0": 0.5, "1.1": 0.25}
    assert found.layers[LayerId("0")][""].low == found.layers[LayerId("0")][""].high == 2.0
    assert found.unattributed == {DIFFERENCE: 0.0}


def test_idle_power_is_taken_off_whatever_it_is(world: World) -> None:
    world.idle_watts = 64.0
    found = measured(Costs(2.0))
    assert found.total.value == 2.0
    assert found.by_layer() == {ROOT: 2.0}
    assert found.conditions["idle"] == "64 W, taken off"
    assert found.conditions["gross"] == "3 J with idle"


def test_an_inference_is_one_sample(world: World) -> None:
    found = measured(nn.Sequential(Costs(2.0), Costs(1.0)), (torch.zeros(4, 2),))
    assert found.total.value == 0.75
    assert found.by_layer() == {"0": 0.5, "1": 0.25}
    assert measured(Costs(2.0), settings=RunSettings(batch=8)).total.value == 0.25


class Outer(nn.Module):
    """Takes 4 J itself; one child runs twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = Costs(1.0)
        self.once = Costs(0.5)
        self.never = Costs(100.0)

    def forward(self, x: Tensor) -> Tensor:
        WORLD.spend(4.0)
        return self.twice(self.once(self.twice(x)))


def test_what_no_layer_takes_is_unattributed(world: World) -> None:
    found = measured(Outer())
    assert found.total.value == 6.5
    assert found.by_layer() == {"twice": 2.0, "once": 0.5}
    assert found.unattributed == {DIFFERENCE: 4.0}


class Attention(nn.Module):
    """Uses its child's weights without calling it, as nn.MultiheadAttention does."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, 2)

    def forward(self, query: Tensor, *, scale: float) -> tuple[Tensor, None]:
        WORLD.spend(3.0)
        return nn.functional.linear(query, self.out.weight) * scale, None


class Uses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, scale=0.5)[0]
        return out


def test_a_layer_whose_children_do_not_run_is_run_itself(world: World) -> None:
    assert measured(Uses()).by_layer() == {"attention": 3.0}


def test_a_shared_layer_has_one_value(world: World) -> None:
    shared = Costs(1.0)
    assert measured(nn.Sequential(shared, Costs(0.5), shared)).by_layer() == {"0": 2.0, "1": 0.5}


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=5), st.integers(0, 1000))
@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_layers_and_the_rest_add_up_to_the_whole(world: World, costs: list[int], own: int) -> None:
    class Whole(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            WORLD.spend(own / 8)
            out: Tensor = super().forward(x)
            return out

    found = measured(Whole(*(Costs(cost / 8) for cost in costs)))
    rest = found.unattributed[DIFFERENCE]
    assert rest is not None
    assert sum(found.by_layer().values()) + rest == pytest.approx(found.total.value, rel=1e-12)
    assert rest == pytest.approx(own / 8, abs=1e-9)


def test_gradients_count_where_they_are_asked_for(world: World) -> None:
    class Doubles(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            WORLD.spend(1.0)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            WORLD.spend(2.0)
            return gradient

    class Trains(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = Doubles.apply(x * self.weight)
            return out

    model = nn.Sequential(Costs(0.5), Trains(), Costs(0.25))
    found = measured(model, settings=RunSettings(backward=True))
    assert found.by_layer() == {"0": 0.5, "1": 3.0, "2": 0.25}
    assert found.total.value == 3.75
    assert all(parameter.grad is None for parameter in model.parameters())


# -- how sure


class Tells(Job):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fractions: list[float] = []
        super().__init__()

    @property
    def text(self) -> str:
        return self.texts[-1]

    @text.setter
    def text(self, text: str) -> None:
        self.texts.append(text)
        self.fractions.append(getattr(self, "done", 0))


class Varies(nn.Module):
    """Takes so many joules in each trial."""

    def __init__(self, job: Job, joules: list[float]) -> None:
        super().__init__()
        self.job = job
        self.joules = joules

    def __deepcopy__(self, memo: dict[int, object]) -> "Varies":
        return self

    def forward(self, x: Tensor) -> Tensor:
        _, found, after = self.job.text.partition(", trial ")
        WORLD.spend(self.joules[int(after[0]) - 1] if found else 100.0)
        return x


def test_the_value_is_the_median_and_the_spread_all_trials(world: World) -> None:
    job = Job()
    found = measured(Varies(job, [4.0, 16.0, 5.0, 6.0, 7.0]), job=job, layers=False)
    assert (found.total.low, found.total.value, found.total.high) == (4.0, 6.0, 16.0)
    assert found.conditions["spread"] == "least and most of the trials"
    assert found.conditions["noise"].startswith("the trials differ by 200%")


def test_trials_that_agree_are_not_warned_of(world: World) -> None:
    job = Job()
    found = measured(Varies(job, [6.0, 6.25, 6.0, 6.5, 6.0]), job=job, layers=False)
    assert "noise" not in found.conditions
    assert found.total.high == 6.5


def test_the_spread_of_a_layer_is_that_of_its_windows_parts(world: World) -> None:
    class Rises(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Rises.calls += 1
            WORLD.spend(float(Rises.calls))
            return x

    value = measured(Rises()).layers[ROOT][""]
    assert value.low is not None
    assert value.high is not None
    assert value.low < value.value < value.high


def test_conditions_say_how(world: World) -> None:
    conditions = dict(measured(Costs(2.0)).conditions)
    assert conditions == {
        "device": "cpu",
        "threads": str(torch.get_num_threads()),
        "batch": "1",
        "dtype": "float32",
        "pass": "forward",
        "torch": torch.__version__,
        "counter": "all that the toy does",
        "windows": "5 of at least 2 s",
        "idle": "0.5 W, taken off",
        "gross": "2.008 J with idle",
        "spread": "least and most of the trials",
        "layers": "each run alone on the inputs that it has in a pass",
    }


def test_the_usual_windows_are_those_that_the_method_asks_for() -> None:
    usual = Protocol()
    assert (usual.window, usual.idle, usual.trials, usual.layer) == (5.0, 5.0, 5, 2.0)
    assert usual.warm_up > 0


def test_the_counter_is_read_now_and_then_and_not_after_each_run(world: World) -> None:
    measured(Costs(2.0), layers=False)
    runs = world.now / STEP
    assert world.reads < runs / 3


# -- what cannot be told


def test_what_is_not_above_idle_is_said_and_no_number_given(world: World) -> None:
    with pytest.raises(
        ProfilingFailed, match=r"not above idle: 0\.5 W while it ran, 0\.5 W at rest"
    ):
        measured(nn.Sequential(Costs(0.0)))


def test_a_layer_that_is_not_above_idle_has_no_value(world: World) -> None:
    found = measured(nn.Sequential(Costs(2.0), Costs(0.0)))
    assert found.by_layer() == {"0": 2.0}
    assert found.unattributed == {DIFFERENCE: 0.0, "1": None}
    assert found.conditions["not attributed"] == "1: it takes no more than idle"


class Needs(nn.Module):
    """Fails unless its parent runs it."""

    def forward(self, x: Tensor) -> Tensor:
        if not Parent.runs:
            raise RuntimeError("where is my parent?\nand so on")
        WORLD.spend(1.0)
        return x


class Parent(nn.Module):
    runs = False

    def __init__(self) -> None:
        super().__init__()
        self.needs = Needs()
        self.other = Costs(2.0)

    def forward(self, x: Tensor) -> Tensor:
        Parent.runs = True
        try:
            return self.other(self.needs(x))
        finally:
            Parent.runs = False


def test_a_layer_that_does_not_run_alone_is_unattributed(world: World) -> None:
    found = measured(Parent())
    assert found.total.value == 3.0
    assert found.by_layer() == {"other": 2.0}
    assert found.unattributed == {DIFFERENCE: 1.0, "needs": None}
    assert found.conditions["not attributed"] == "needs: where is my parent?"


def test_a_stuck_counter_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "count", lambda: 42.0)
    with pytest.raises(CounterUnavailable, match="did not move in 2 s"):
        measured(Costs(2.0))


def test_a_counter_slower_than_the_windows_is_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "count", lambda: world.joules // 64 * 64)
    with pytest.raises(CounterUnavailable, match="too slow for windows"):
        measured(Costs(1.0))


def test_a_counter_slower_than_layers_windows_leaves_the_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "count", lambda: world.joules // 20 * 20)
    found = measured(nn.Sequential(Costs(1.0)))
    assert found.total.value == pytest.approx(1.0, rel=0.2)
    assert not found.layers
    assert found.unattributed["0"] is None
    assert "too slow" in found.conditions["not attributed"]


def test_without_a_counter_nothing_runs(world: World) -> None:
    def none(device: str) -> tuple[EnergyCounter, ...]:
        raise CounterUnavailable(f"Nothing counts {device}.", "Run: sudo something")

    model = nn.Linear(2, 2)
    with pytest.raises(CounterUnavailable, match="Nothing counts cpu") as caught:
        measure_energy(
            model, (torch.zeros(1, 2),), tree_of(model), Job(), protocol=QUICK, counters=none
        )
    assert caught.value.remedy == "Run: sudo something"
    assert world.now == 0.0


# -- what runs


class Sees(nn.Module):
    """Notes what it is given."""

    def __init__(self, seen: list[float]) -> None:
        super().__init__()
        self.seen = seen

    def __deepcopy__(self, memo: dict[int, object]) -> "Sees":
        return self

    def forward(self, x: Tensor) -> Tensor:
        WORLD.spend(1.0)
        self.seen.append(float(x.sum()))
        return x


class Adds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        WORLD.spend(1.0)
        return x.add_(1.0)


def test_a_layer_runs_on_what_it_has_in_a_pass_before_others_write_into_it(world: World) -> None:
    seen: list[float] = []
    inputs = (torch.full((1, 2), 3.0),)
    model = nn.Sequential(Costs(0.0), Sees(seen), Adds())

    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            WORLD.spend(0.25)
            out: Tensor = self.inner(x.clone())
            return out

    found = measured(Copies(), inputs)
    assert found.by_layer() == {"inner.1": 1.0, "inner.2": 1.0}
    assert set(seen) == {6.0}
    assert inputs[0].sum() == 6.0


def test_the_users_model_is_left_alone(world: World) -> None:
    model = nn.Sequential(Costs(1.0), nn.BatchNorm1d(2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x)
            return out

    measured(Slow(), (torch.ones(4, 2),), layers=False)
    assert model.training
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_are_left_out_on_request(world: World) -> None:
    found = measured(nn.Sequential(Costs(2.0), Costs(1.0)), layers=False)
    assert found.total.value == 3.0
    assert not found.layers
    assert not found.unattributed


def test_progress_tells_how_long_it_takes(world: World) -> None:
    job = Tells()
    minutes = Protocol(idle=64.0, window=64.0, layer=32.0)
    measured(nn.Sequential(*(Costs(1.0) for _ in range(4))), job=job, protocol=minutes)
    texts = list(dict.fromkeys(text.partition(", about")[0] for text in job.texts if text))
    assert texts[1:4] == ["Measuring idle power", "Warming up", "Measuring energy, trial 1 of 5"]
    assert texts[-1] == "Measuring energy of layer 4 of 4"
    assert any(text.endswith(", about 9 min left") for text in job.texts)
    assert job.texts[-1].endswith(" 0 s left")
    assert job.fractions == sorted(job.fractions)
    assert job.fraction is not None
    assert job.fraction > 0.98


@pytest.mark.parametrize("at", [1, 5, 50, 300, 500])
def test_cancel_works_between_runs(world: World, stop_at: type[Job], at: int) -> None:
    with pytest.raises(Cancelled):
        measured(nn.Sequential(Costs(2.0), Costs(1.0)), job=stop_at(at))  # type: ignore[call-arg]


# -- accelerators, by stand-ins for what torch says of them


class Queue:
    """An accelerator's clock: what it was given is done when somebody waits for it."""

    def __init__(self) -> None:
        self.given: list[float] = []

    def wait(self) -> None:
        for joules in self.given:
            WORLD.spend(joules)
        self.given.clear()


class Queued(nn.Module):
    """Puts so many joules into the queue."""

    def __init__(self, queue: Queue, joules: float) -> None:
        super().__init__()
        self.queue = queue
        self.joules = joules

    def __deepcopy__(self, memo: dict[int, object]) -> "Queued":
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.queue.given.append(self.joules)
        return x


def test_windows_hold_what_was_given_in_them_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue()
    monkeypatch.setattr(running, "clock_of", lambda device: queue)
    found = measured(nn.Sequential(Queued(queue, 2.0), Queued(queue, 0.5)))
    assert found.total.low == found.total.value == found.total.high == 2.5
    assert found.by_layer() == {"0": 2.0, "1": 0.5}
    assert not queue.given


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """Two GPUs in torch, the one on the later address first; what was asked of the counters."""
    asked: list[Gpu] = []

    def found(gpus: tuple[Gpu, ...]) -> tuple[EnergyCounter, ...]:
        asked.extend(gpus)
        infos = [CounterInfo("toy", gpu.title, gpu.bus, gpu.device) for gpu in gpus]
        return tuple(EnergyCounter(info, lambda: 0.0, 1.0) for info in infos)

    properties = [
        SimpleNamespace(name=name, pci_domain_id=1, pci_bus_id=bus, pci_device_id=0)
        for name, bus in (("B", 0xC1), ("A", 0x0A))
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    monkeypatch.setattr(energy, "find_counters", found)
    return asked


def test_gpus_are_named_as_torch_does_and_found_by_their_address(two_gpus: list[Gpu]) -> None:
    (second,) = counters_of("cuda:1")
    assert (second.info.title, second.info.covers) == ("A", "00000001:0A:00.0")
    assert [info.device for info in energy_counters()] == ["cuda:0", "cuda:1"]
    assert energy_counters()[0].covers == "00000001:C1:00.0"


def test_the_processor_is_measured_without_waking_a_gpu(two_gpus: list[Gpu]) -> None:
    with pytest.raises(CounterUnavailable):
        counters_of("cpu")
    assert not two_gpus


# -- in a session


@pytest.fixture
def quick(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = partial(measure_energy, protocol=QUICK, counters=world.counters)
    monkeypatch.setattr(session, "measure_energy", taken)


class Real(Costs):
    """Costs nothing while shapes are worked out."""

    def forward(self, x: Tensor) -> Tensor:
        return x if isinstance(x, FakeTensor) else super().forward(x)


@pytest.mark.usefixtures("quick")
def test_a_session_files_it_and_drops_what_is_no_comparison(
    session_of: Callable[..., ModelSession], job: Job
) -> None:
    toy = session_of(nn.Sequential(nn.Linear(4, 4), Real(2.0), nn.Linear(4, 4)), 1, 4)
    toy.measure_energy(job, layers=False)
    assert toy.snapshot.current.table[MEASURED_ENERGY.key].total.value == 2.0
    toy.apply(PruneChannels((LayerId("0"),), 0.5), job)
    assert MEASURED_ENERGY.key not in toy.snapshot.current.table
    changed = toy.measure_energy(job, RunSettings(batch=4), layers=False).snapshot
    assert [
        state.table[MEASURED_ENERGY.key].conditions["batch"]
        for state in (changed.base, changed.current)
    ] == ["4", "4"]
    with pytest.raises(ProfilingFailed):
        toy.measure_energy(job, RunSettings(threads=-1))
    assert toy.snapshot.current.table[MEASURED_ENERGY.key].total.value == 0.5


SHORT = Protocol(0.01, 0.05, 0.05, 0.05, 5, 0.02, 0.005, 0.002)


def processor_time(device: str) -> tuple[EnergyCounter, ...]:
    """A counter of 1 W by the real clock, and 20 W more while this process computes."""
    info = CounterInfo("toy", "toy", "processor time", device)
    return (EnergyCounter(info, lambda: perf_counter() + 20 * process_time(), 1.0),)


def test_the_demo_by_a_counter_of_processor_time(
    demo: ModelSession, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = partial(measure_energy, protocol=SHORT, counters=processor_time)
    monkeypatch.setattr(session, "measure_energy", taken)
    found = demo.measure_energy(job).snapshot.current
    series = found.table[MEASURED_ENERGY.key]
    assert 0 < (series.total.low or 0) <= series.total.value <= (series.total.high or 0)
    named = set(series.layers) | (set(series.unattributed) - {DIFFERENCE})
    assert named == set(found.tree.leaves)
    rest = series.unattributed[DIFFERENCE]
    assert rest is not None
    assert sum(series.by_layer().values()) + rest == pytest.approx(series.total.value)


def test_scripted_layers_run_alone_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(torch.jit.script(nn.Linear(2, 2)), nn.ReLU())
        inputs = (torch.zeros(1, 2),)
        found = measure_energy(
            model, inputs, tree_of(model), Job(), protocol=SHORT, counters=processor_time
        )
    assert set(found.layers) | set(found.unattributed) == {"0", "1", DIFFERENCE}
