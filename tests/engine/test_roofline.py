"""The roofline: hand-computed intensities, and a machine that is measured once and kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.job import Cancelled, Job
from engine.layers import ROOT, Layer, LayerId, LayerTree
from engine.metrics import LATENCY, OVERHEAD, Quantity, Series
from engine.profiles import Machine, RooflinePoint
from engine.profiling import latency, roofline
from engine.requests import RunSettings
from engine.session import ModelSession
from engine.tracing import trace

CPU = torch.device("cpu")
HERE = Machine("test", bandwidth=8.0, arithmetic=32.0)  # the ridge is at 4 FLOP per byte


@pytest.fixture(autouse=True)
def _quick_and_kept_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(roofline, "MOST_ARRAY_BYTES", 1 << 20)
    monkeypatch.setattr(roofline, "SIDES", (16, 32))
    monkeypatch.setattr(roofline, "REPEATS", 2)
    monkeypatch.setattr(latency, "RUNS", 3)
    monkeypatch.setattr(latency, "LEAST_SECONDS", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the kernels take, one run after the other; the last one for ever."""
    times = [0.5]

    class Clock:
        def __init__(self) -> None:
            self.now = 0.0
            self.starts = False

        def mark(self) -> float:
            self.starts = not self.starts
            if not self.starts:
                self.now += times.pop(0) if len(times) > 1 else times[0]
            return self.now

        def wait(self) -> None:
            """It has happened."""

        def seconds(self, first: float, last: float) -> float:
            return last - first

    monkeypatch.setattr(roofline, "clock_of", lambda device: Clock())
    return times


# -- layers


def timed(seconds: dict[str, float]) -> Series:
    layers = {LayerId(name): {"": Quantity(value)} for name, value in seconds.items()}
    return Series(LATENCY, Quantity(1.0), layers, conditions={"batch": "2", OVERHEAD: "clocks"})


def tree_of(model: nn.Module) -> LayerTree:
    return LayerTree(
        Layer(LayerId(name), type(module).__name__) for name, module in model.named_modules()
    )


def test_intensities_are_those_worked_out_by_hand() -> None:
    class Reshapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.then = nn.Linear(4, 8), nn.Conv1d(2, 3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.then(self.first(x).relu().reshape(1, 2, 8))

    made = Reshapes()
    table = trace(made, (torch.ones(2, 4),)).operators
    series = timed({"first": 0.25, "then": 0.5, "": 0.1})
    found = roofline.roofline(table, series, HERE, tree_of(made))
    first, then = found.points
    # (2×4)·(4×8) + bias: 64 MACs; reads 8 + 32 + 8 floats, writes 16.
    assert (first.layer, first.kind, first.operations, first.bytes) == ("first", "Linear", 128, 256)
    assert (first.intensity, first.rate) == (0.5, 512)
    assert first.bound(HERE) == "memory"
    # 7 places × 3 channels × (2×2); reads 16 + 12 floats, writes 21.
    assert (then.operations, then.bytes, then.seconds) == (2 * 84, 4 * 49, 0.5)
    assert found.machine is HERE
    assert dict(found.conditions) == {
        "batch": "2", "left out": "1 layers without multiply-accumulates",
    }  # fmt: skip


def test_a_layer_without_a_time_of_its_own_is_counted_not_drawn() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    table = trace(model, (torch.ones(1, 2),)).operators
    found = roofline.roofline(table, timed({"1": 0.5}), HERE, tree_of(model))
    assert [point.layer for point in found.points] == ["1"]
    assert found.conditions["not timed"] == "1 layers that do not run by themselves"


@given(st.floats(0.01, 1e6), st.floats(1.0, 1e12))
def test_which_roof_is_met_first_is_a_question_of_the_ridge(size: float, work: float) -> None:
    point = RooflinePoint(ROOT, "Linear", work, size, 1.0)
    on_memory, on_arithmetic = point.intensity * HERE.bandwidth, HERE.arithmetic
    expected = "compute" if on_memory >= on_arithmetic else "memory"
    assert point.bound(HERE) == expected


def test_settings_change_bytes_and_operations(session_of: Callable[..., ModelSession]) -> None:
    session = session_of(nn.Sequential(nn.Linear(4, 8)), 1, 4)
    (one,) = session.roofline(Job()).points
    (half,) = session.roofline(Job(), RunSettings(dtype="bfloat16", batch=3)).points
    assert (half.operations, half.bytes) == (3 * one.operations, (12 + 32 + 8 + 24) * 2)
    forward = session.roofline(Job(), RunSettings(backward=True))
    assert forward.conditions["pass"] == "forward"


def test_autocast_moves_fewer_bytes_where_nothing_is_cast(
    session_of: Callable[..., ModelSession],
) -> None:
    """Between two products the values stay in sixteen bits."""
    session = session_of(nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 4)), 1, 4)
    plain, cast = (
        {point.layer: point.bytes for point in session.roofline(Job(), settings).points}
        for settings in (RunSettings(), RunSettings(autocast=True))
    )
    assert plain["0"] == (4 + 32 + 8) * 4
    # Input and weights are read and written once more, in half the bits; so is the result.
    assert cast["0"] == (4 + 32) * (4 + 2) + (4 + 32 + 8) * 2


def test_the_demo_in_a_session(demo: ModelSession, job: Job) -> None:
    found = demo.roofline(job)
    kinds = {layer.id: layer.kind for layer in demo.snapshot.current.tree}
    products = {id_ for id_, kind in kinds.items() if kind in ("Conv2d", "Linear")}
    assert {point.layer for point in found.points} == products
    assert all(point.kind == kinds[point.layer] for point in found.points)
    macs = demo.snapshot.current.table["macs"].by_layer()
    assert {point.layer: point.operations for point in found.points} == {
        layer: 2 * count for layer, count in macs.items()
    }
    assert job.fraction == 1.0


# -- the machine


def test_a_roof_that_a_layer_is_above_is_measured_again(
    demo: ModelSession, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was measured while the machine did other work."""
    monkeypatch.setattr(roofline, "kept_figures", lambda *_: (1.0, 1.0, 0.0))
    assert demo.roofline(job).machine.arithmetic > 1e6


def test_bandwidth_and_arithmetic_are_those_of_the_fastest_run(clock: list[float]) -> None:
    clock[:] = [4.0, 2.0, 1.0, 0.25, 8.0, 8.0]
    found = roofline.machine(CPU, torch.float32, Job())
    assert found.bandwidth == 3 * (1 << 20) / 2.0
    # Sides 16 (in 0.25 s) and 32 (in 8 s).
    assert found.arithmetic == 2 * 16**3 / 0.25
    assert found.ridge == found.arithmetic / found.bandwidth
    assert found.name
    assert found.conditions["threads"] == str(torch.get_num_threads())
    assert found.conditions["dtype"] == "float32"


def test_a_machine_is_measured_once_for_each_type_and_number_of_threads(
    clock: list[float], tmp_path: Path
) -> None:
    first = roofline.machine(CPU, torch.float32, Job())
    clock[:] = [0.125]
    assert roofline.machine(CPU, torch.float32, Job()) == first
    assert roofline.machine(CPU, torch.bfloat16, Job()).bandwidth == 4 * first.bandwidth
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert roofline.machine(CPU, torch.float32, Job()).bandwidth == 4 * first.bandwidth
    finally:
        torch.set_num_threads(threads)
    assert [file.name for file in tmp_path.rglob("*.json")] == [roofline.FILE]


def test_a_damaged_file_is_measured_anew(clock: list[float], tmp_path: Path) -> None:
    first = roofline.machine(CPU, torch.float32, Job())
    (file,) = tmp_path.rglob(roofline.FILE)
    for damage in ("", "[]", file.read_text().replace("[", "[-")):
        file.write_text(damage)
        again = roofline.machine(CPU, torch.float32, Job())
        assert (again.bandwidth, again.arithmetic) == (first.bandwidth, first.arithmetic)


def test_what_a_busy_machine_gave_is_not_kept(clock: list[float], tmp_path: Path) -> None:
    clock[:] = [9.0, 1.0, 0.5]
    found = roofline.machine(CPU, torch.float32, Job())
    assert "busy" in found.conditions["noise"]
    assert not list(tmp_path.rglob("*.json"))
    assert "noise" not in roofline.machine(CPU, torch.float32, Job()).conditions


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert roofline.machine(CPU, torch.float32, Job()).bandwidth > 0


def test_a_cancel_stops_between_kernels(stop_at: Callable[[int], Job], tmp_path: Path) -> None:
    for checks in range(1, 7):
        with pytest.raises(Cancelled):
            roofline.machine(CPU, torch.float32, stop_at(checks))
    assert not list(tmp_path.rglob("*.json"))
