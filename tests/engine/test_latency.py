"""Latency: which layers have a time, under which conditions, and how it adds up.

Times themselves are not asserted: they belong to the machine. Where sums are compared, the clock
is one that the test moves.
"""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from engine.edits import PruneChannels, Quantize
from engine.errors import OutOfMemory, ProfilingFailed
from engine.job import Cancelled, Job
from engine.layers import ROOT, LayerId
from engine.metrics import LATENCY, OVERHEAD, Provenance, Quantity, Series, overhead_of
from engine.profiling import latency, running
from engine.profiling.latency import measure_latency
from engine.requests import RunSettings
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
    monkeypatch.setattr(running, "perf_counter", made)
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
        """1000 s in the warm-up runs, then 1 s, 2 s, …; each twice: for the whole and by layer."""

        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            run = Varies.calls // 2 - 2
            Varies.calls += 1
            clock.now += 1000.0 if run < 0 else 1.0 * (run + 1)
            return x

    monkeypatch.setattr(latency, "RUNS", 7)
    monkeypatch.setattr(latency, "MOST_SECONDS", 1e6)
    found = measured(Varies(), 1, 2)
    assert (found.total.low, found.total.value, found.total.high) == (2.0, 4.0, 6.0)
    assert found.layers[ROOT][""] == found.total
    assert found.conditions["runs"] == "7"


def test_fast_models_run_until_enough_has_been_measured(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "LEAST_SECONDS", 2.0)
    assert measured(Takes(clock, 0.125), 1, 2).conditions["runs"] == "8"
    assert measured(Takes(clock, 1e-6), 1, 2).conditions["runs"] == str(latency.MOST_RUNS)
    assert measured(Takes(clock, 1.0), 1, 2).conditions["runs"] == "5"


def test_slow_models_run_until_too_much_has_been_measured(clock: Clock) -> None:
    assert measured(Takes(clock, 4.0), 1, 2).conditions["runs"] == "4"  # 32 s, both passes
    assert measured(Takes(clock, 1000.0), 1, 2).conditions["runs"] == str(latency.LEAST_RUNS)


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
    assert "reading the clock 73 times" in conditions.pop(OVERHEAD)
    assert conditions == {
        "device": "cpu",
        "threads": str(torch.get_num_threads()),
        "batch": "1",
        "dtype": "float32",
        "pass": "forward",
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


@pytest.mark.parametrize("at", [1, 2, 3, 8, 10])
def test_a_cancel_stops_before_the_next_run(at: int) -> None:
    Stops.runs, job = 0, Job()
    model = Stops(lambda run: job.cancel() if run == at else None)
    with pytest.raises(Cancelled):
        measure_latency(model, (torch.zeros(1, 2),), job)
    assert Stops.runs == at


def test_passes_with_clocks_take_turns_with_passes_without() -> None:
    """Neither has hooks: with these some modules compute in another way."""
    clocks: list[bool] = []

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not self._forward_hooks
            assert not self._forward_pre_hooks
            clocks.append("forward" in self.__dict__)
            return x

    model = Looks()
    measured(model, 1, 2)
    assert clocks == [False, True] * 7
    assert "forward" not in model.__dict__


def test_fused_attention_stays_fused() -> None:
    """The encoder's fast path bypasses its children, so these have no time of their own."""
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=8, batch_first=True)
    found = measured(layer.eval(), 1, 3, 8)
    assert set(found.layers) == {ROOT}


def test_the_overhead_is_the_difference_of_sum_and_whole(clock: Clock) -> None:
    class Slower(nn.Module):
        """A clock around it costs a quarter of a second."""

        def forward(self, x: Tensor) -> Tensor:
            clock.now += 1.25 if "forward" in self.__dict__ else 1.0
            return x

    found = overhead_of(measured(nn.Sequential(Slower(), Slower()), 1, 2))
    assert found is not None
    assert (found.whole, found.layers, found.difference, found.share) == (2.0, 2.5, 0.5, 0.25)
    assert found.cause.startswith("reading the clock 7 times")


def test_other_figures_have_no_overhead(demo: ModelSession) -> None:
    assert all(overhead_of(series) is None for series in demo.snapshot.base.table.values())


def test_progress_reaches_its_end() -> None:
    job = Job()
    measure_latency(nn.ReLU(), (torch.zeros(1, 2),), job)
    assert (job.fraction, job.text) == (1.0, "Measuring latency")


@pytest.mark.parametrize(
    ("low", "high", "layers", "says"),
    [
        (1.0, 2.0, 1.5, ""),
        (1.0, 2.1, 1.5, "the runs differ by more than 2×"),
        (1.0, 2.0, 1.36, ""),
        (1.0, 2.0, 1.3, "delays hit other layers in each run"),
    ],
)
def test_runs_that_scatter_are_called_noise(
    low: float, high: float, layers: float, says: str
) -> None:
    found = latency._noise(Quantity(1.5, low, high), layers, usual=1.5)
    assert says in found
    assert bool(found) is bool(says)


def test_delays_that_medians_leave_out_are_the_cause_that_is_named(clock: Clock) -> None:
    class Stalls(nn.Module):
        """Takes a second, and four more in every third run, each its own third."""

        def __init__(self, turn: int) -> None:
            super().__init__()
            self.turn, self.runs = turn, 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            clock.now += 5.0 if self.runs // 2 % 3 == self.turn else 1.0
            return x

    found = measured(nn.Sequential(*(Stalls(turn) for turn in range(3))), 1, 2)
    overhead = overhead_of(found)
    assert overhead is not None
    assert (overhead.whole, overhead.layers) == (7.0, 3.0)
    assert "delays hit other layers" in overhead.cause
    assert found.conditions["noise"] in overhead.cause


# -- settings


def under(model: nn.Module, settings: RunSettings, *shape: int) -> Series:
    return measure_latency(model, (torch.ones(shape),), Job(), settings)


class Sees(nn.Module):
    """Notes what it is run on."""

    seen: tuple[object, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.conv2d(x, self.weight)
        last = torch.channels_last
        Sees.seen = (
            torch.get_num_threads(), len(x), x.dtype, self.weight.dtype,
            x.is_contiguous(memory_format=last), y.dtype, torch.is_inference_mode_enabled(),
        )  # fmt: skip
        return y


def test_settings_reach_the_model_and_are_put_back() -> None:
    threads = torch.get_num_threads()
    model = Sees()
    under(model, RunSettings(), 3, 2, 4, 4)
    assert Sees.seen == (threads, 3, torch.float32, torch.float32, False, torch.float32, True)
    settings = RunSettings(threads=2, batch=5, dtype="bfloat16", channels_last=True)
    found = under(model, settings, 3, 2, 4, 4)
    assert Sees.seen == (2, 5, torch.bfloat16, torch.bfloat16, True, torch.bfloat16, True)
    assert torch.get_num_threads() == threads
    assert model.weight.dtype is torch.float32
    told = {key: found.conditions[key] for key in ("threads", "batch", "dtype", "memory order")}
    assert told == {
        "threads": "2", "batch": "5", "dtype": "bfloat16", "memory order": "channels last",
    }  # fmt: skip
    found = under(model, RunSettings(autocast=True, batch=2), 3, 2, 4, 4)
    assert Sees.seen == (threads, 2, torch.float32, torch.float32, False, torch.bfloat16, True)
    assert found.conditions["autocast"] == "bfloat16"


def test_threads_are_put_back_when_the_model_fails() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no such luck\nand more")

    threads = torch.get_num_threads()
    with pytest.raises(ProfilingFailed, match=r"does not run with device cpu.*: no such luck$"):
        under(Fails(), RunSettings(threads=2), 1, 2)
    assert torch.get_num_threads() == threads


def test_lists_of_samples_and_structures_take_the_batch() -> None:
    class Takes(nn.Module):
        def forward(self, images: list[Tensor], more: dict[str, Tensor]) -> Tensor:
            assert [tuple(one.shape) for one in images] == [(3, 4), (3, 5), (3, 4)]
            assert len(more["ids"]) == 3
            assert more["ids"].dtype is torch.int64
            assert more["mask"].dtype is torch.bfloat16
            assert more["size"].shape == (7,)
            return images[0]

    images = [torch.ones(3, 4), torch.ones(3, 5)]
    more = {
        "ids": torch.zeros(2, dtype=torch.int64), "mask": torch.ones(2, 2), "size": torch.ones(7),
    }  # fmt: skip
    settings = RunSettings(batch=3, dtype="bfloat16")
    found = measure_latency(Takes(), (images, more), Job(), settings)
    assert found.conditions["batch"] == "3"


def test_the_backward_pass_counts_to_the_layers_of_its_operators(clock: Clock) -> None:
    class Costs(torch.autograd.Function):
        """Takes time in both directions."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, ahead: float, back: float) -> Tensor:
            clock.now += ahead
            ctx.back = back
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
            clock.now += ctx.back
            return gradient, None, None

    class Layer(nn.Module):
        def __init__(self, ahead: float, back: float) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.times = (ahead, back)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = Costs.apply(x * self.weight, *self.times)
            return y

    model = nn.Sequential(Layer(1.0, 3.0), nn.ReLU(inplace=True), Layer(0.5, 0.25))
    found = under(model, RunSettings(backward=True), 1, 2)
    assert found.by_layer() == pytest.approx({ROOT: 0.0, "0": 4.0, "1": 0.0, "2": 0.75})
    assert found.total.value == 4.75
    assert found.conditions["pass"] == "forward and backward"
    assert "gradients begin" in found.conditions[OVERHEAD]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_never_reach_a_scripted_model(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("ignore")
    model = torch.jit.script(nn.Linear(2, 2))
    found = under(model, RunSettings(backward=True), 1, 2)
    assert set(found.layers) == {ROOT}
    assert model.weight.grad is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (RunSettings(device="nonsense"), "nonsense is unavailable: torch knows no such device"),
        (RunSettings(device="meta"), "meta is unavailable"),
        (RunSettings(threads=-1), "-1 threads cannot be had"),
        (RunSettings(threads=100_000), "100000 threads cannot be had"),
        (RunSettings(batch=-3), "A batch of -3"),
        (RunSettings(dtype="int4"), "cannot be run in int4"),
    ],
)
def test_what_cannot_be_is_refused_in_words(settings: RunSettings, says: str) -> None:
    with pytest.raises(ProfilingFailed, match=says) as caught:
        under(nn.Linear(2, 2), settings, 1, 2)
    assert caught.value.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_missing_cuda_is_named_with_the_reason(name: str) -> None:
    with pytest.raises(ProfilingFailed, match=f"^{name} is unavailable: .") as caught:
        under(nn.Linear(2, 2), RunSettings(device=name), 1, 2)
    assert "driver" in caught.value.remedy


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="needs a machine without MPS")
def test_missing_mps_is_named_with_the_reason() -> None:
    with pytest.raises(ProfilingFailed, match=r"^mps is unavailable: .*(built|macOS)"):
        under(nn.Linear(2, 2), RunSettings(device="mps"), 1, 2)


def test_a_gradient_that_nothing_needs_is_refused() -> None:
    with pytest.raises(ProfilingFailed, match="no gradient to run"):
        under(nn.ReLU(), RunSettings(backward=True), 1, 2)


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(ProfilingFailed, match="shapes but no weights"):
        under(nn.Linear(2, 2, device="meta"), RunSettings(), 1, 2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (RunSettings(backward=True), "have no gradient"),
        (RunSettings(dtype="bfloat16"), "simulated in float32"),
        (RunSettings(autocast=True), "simulated in float32"),
    ],
)
def test_integer_layers_run_forward_in_float32_alone(
    demo: ModelSession, job: Job, settings: RunSettings, says: str
) -> None:
    demo.apply(Quantize((LayerId("head.fc"),)), job)
    with pytest.raises(ProfilingFailed, match=says):
        demo.measure_latency(job, settings)


def test_lack_of_memory_is_told_as_such(session_of: Callable[..., ModelSession]) -> None:
    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not isinstance(x, FakeTensor):
                raise MemoryError
            return x

    with pytest.raises(OutOfMemory):
        session_of(Greedy(), 1, 2).measure_latency(Job())


def test_figures_under_other_settings_are_no_comparison(demo: ModelSession, job: Job) -> None:
    demo.measure_latency(job)
    demo.apply(PruneChannels((LayerId("stage1.block0.conv2"),), 0.3), job)
    changed = demo.measure_latency(job, RunSettings(batch=4)).snapshot
    batches = [
        state.table[LATENCY.key].conditions["batch"] for state in (changed.base, changed.current)
    ]
    assert batches == ["4", "4"]
    with pytest.raises(ProfilingFailed):
        demo.measure_latency(job, RunSettings(threads=-1))
    assert demo.snapshot.current.table[LATENCY.key].conditions["batch"] == "4"


# -- accelerators, by a stand-in for torch's module of one


class Queue:
    """Events that know their times only after one synchronisation."""

    def __init__(self) -> None:
        self.waits, self.marks, self.done = 0, 0, 0

    def Event(self, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)

    def synchronize(self) -> None:
        self.waits += 1
        self.done = self.marks


class Event:
    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def record(self) -> None:
        self.queue.marks += 1
        self.at = self.queue.marks

    def elapsed_time(self, other: "Event") -> float:
        assert max(self.at, other.at) <= self.queue.done
        return 1000.0 * (other.at - self.at)


def test_events_are_read_after_one_synchronisation(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    monkeypatch.setattr(torch, "get_device_module", lambda device: queue)
    monkeypatch.setattr(running, "clock_of", lambda device: running.EventClock(device))
    waits: list[int] = []
    monkeypatch.setattr(latency, "_cause", lambda *_: waits.append(queue.waits) or "events")
    found = measured(nn.Sequential(nn.ReLU(), nn.ReLU()), 1, 2)
    assert waits == [1]
    # A second between two marks: one to the root before, between and after its two children.
    assert found.by_layer() == {ROOT: 4.0, "0": 1.0, "1": 1.0}
    assert found.total.value == 1.0
