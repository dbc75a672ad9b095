"""Latency: which layers have a time, under which conditions, and how it adds up.

Times themselves are not asserted: they belong to the machine. Where sums are compared, the clock
is one that the test moves.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from engine.edits import Quantize
from engine.job import Cancelled, Job
from engine.layers import ROOT, LayerId
from engine.metrics import LATENCY, Provenance, Quantity, Series
from engine.profiling import latency
from engine.profiling.latency import measure_latency
from engine.session import ModelSession


@pytest.fixture(autouse=True)
def _few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARM_UP_RUNS", 2)
    monkeypatch.setattr(latency, "RUNS", 5)
    monkeypatch.setattr(latency, "LEAST_SECONDS", 0.0)


class Clock:
    """A clock that stands still until a layer moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(latency, "perf_counter", made)
    return made


class Takes(nn.Module):
    """Takes so many seconds by that clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.clock = clock

    def __deepcopy__(self, memo: dict[int, object]) -> "Takes":
        return Takes(self.clock, self.seconds)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds
        return x


class Outer(nn.Module):
    """Spends 3 s itself, and what its children spend; one of them runs twice."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.inner = nn.Sequential(Takes(clock, 0.5), Takes(clock, 0.25))
        self.twice = Takes(clock, 2.0)
        self.idle = Takes(clock, 100.0)

    def __deepcopy__(self, memo: dict[int, object]) -> "Outer":
        return Outer(self.clock)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += 1.0
        x = self.twice(self.inner(self.twice(x)))
        self.clock.now += 2.0
        return x


def measured(model: nn.Module, *shape: int) -> Series:
    return measure_latency(model, (torch.zeros(shape),), Job())


def test_own_times_are_without_the_childrens_and_calls_add_up(clock: Clock) -> None:
    found = measured(Outer(clock), 1, 2)
    assert found.by_layer() == pytest.approx(
        {ROOT: 3.0, "inner": 0.0, "inner.0": 0.5, "inner.1": 0.25, "twice": 4.0}
    )
    assert found.total.value == sum(found.by_layer().values()) == 7.75


def test_the_value_is_the_median_and_the_spread_the_middle_half(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Varies(nn.Module):
        """1 s in the warm-up runs, then 10 s, 20 s, …"""

        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Varies.calls += 1
            run = (Varies.calls - 1) % 9 - 2
            clock.now += 1000.0 if run < 0 else 10.0 * (run + 1)
            return x

    monkeypatch.setattr(latency, "RUNS", 7)
    found = measured(Varies(), 1, 2)
    assert (found.total.low, found.total.value, found.total.high) == (20.0, 40.0, 60.0)
    assert found.conditions["runs"] == "7"


def test_fast_models_run_until_enough_has_been_measured(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "LEAST_SECONDS", 1.0)
    assert measured(Takes(clock, 0.125), 1, 2).conditions["runs"] == "8"
    assert measured(Takes(clock, 1e-6), 1, 2).conditions["runs"] == str(latency.MOST_RUNS)
    assert measured(Takes(clock, 10.0), 1, 2).conditions["runs"] == "5"


def test_every_layer_of_the_demo_that_runs_has_a_time(demo: ModelSession, job: Job) -> None:
    table = demo.measure_latency(job).snapshot.current.table
    found = table[LATENCY.key]
    assert found.metric.provenance is Provenance.MEASURED
    assert set(found.layers) == {layer.id for layer in demo.snapshot.current.tree}
    for parts in found.layers.values():
        (quantity,) = parts.values()
        assert quantity.low <= quantity.value <= quantity.high
    assert min(quantity.low for parts in found.layers.values() for quantity in parts.values()) >= 0
    assert 0 < found.total.low <= found.total.value <= found.total.high
    assert not found.unattributed


def test_conditions_say_where_and_how(demo: ModelSession, job: Job) -> None:
    conditions = dict(demo.measure_latency(job).snapshot.current.table[LATENCY.key].conditions)
    conditions.pop("noise", None)  # as busy as this machine is
    assert conditions == {
        "device": "cpu",
        "threads": str(torch.get_num_threads()),
        "batch": "1",
        "dtype": "float32",
        "runs": "5",
        "spread": "middle half of the runs",
        "torch": torch.__version__,
    }
    layers = LayerId("stem.conv"), LayerId("head.fc")
    demo.apply(Quantize(layers), job)
    conditions = dict(demo.measure_latency(job).snapshot.current.table[LATENCY.key].conditions)
    assert conditions["int8"] == "2 layers simulated in floating point"


def test_conditions_follow_the_input() -> None:
    found = measure_latency(nn.Linear(2, 2).double(), (torch.zeros(4, 2).double(),), Job())
    assert (found.conditions["batch"], found.conditions["dtype"]) == ("4", "float64")


def test_a_shared_layer_has_one_row() -> None:
    shared = nn.Linear(3, 3)
    found = measured(nn.Sequential(shared, nn.ReLU(), shared), 1, 3)
    assert set(found.layers) == {"", "0", "1"}


def test_a_layer_that_is_not_run_has_no_time(clock: Clock) -> None:
    assert "idle" not in measured(Outer(clock), 1, 2).layers


class Stops(nn.Module):
    """Counts its runs and has the job cancelled at one of them."""

    runs = 0

    def __init__(self, stop: Callable[[int], None]) -> None:
        super().__init__()
        self.stop = stop

    def __deepcopy__(self, memo: dict[int, object]) -> "Stops":
        return Stops(self.stop)

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        Stops.runs += 1
        self.stop(Stops.runs)
        return x


@pytest.mark.parametrize("at", [1, 3, 8, 10])
def test_a_cancel_stops_before_the_next_run(at: int) -> None:
    Stops.runs, job = 0, Job()
    model = Stops(lambda run: job.cancel() if run == at else None)
    with pytest.raises(Cancelled):
        measure_latency(model, (torch.zeros(1, 2),), job)
    assert Stops.runs == at


def test_the_whole_is_timed_without_clocks_on_its_layers() -> None:
    """Warm-up and runs, first without hooks, then with them; the model itself has none."""
    hooks: list[int] = []

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            hooks.append(len(self._forward_hooks) + len(self._forward_pre_hooks))
            return x

    model = Looks()
    measured(model, 1, 2)
    assert hooks == [0] * 7 + [2] * 7
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_progress_reaches_its_end() -> None:
    job = Job()
    measure_latency(nn.ReLU(), (torch.zeros(1, 2),), job)
    assert (job.fraction, job.text) == (1.0, "Measuring latency")


@pytest.mark.parametrize(("low", "high", "noisy"), [(1.0, 2.0, False), (1.0, 2.1, True)])
def test_runs_that_scatter_are_called_noise(low: float, high: float, noisy: bool) -> None:
    assert bool(latency._noise(Quantity(1.5, low, high))) is noisy
