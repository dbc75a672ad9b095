"""Peak memory of activations: hand-computed truths, and how the whole and the layers hang together.

A float32 of four bytes an element throughout; weights and the input never count.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.edits import PruneChannels
from engine.errors import ProfilingFailed
from engine.job import Cancelled, Job
from engine.layers import ROOT
from engine.metrics import MEMORY, Provenance, Series
from engine.profiling import memory
from engine.profiling.memory import measure_memory
from engine.requests import RunSettings
from engine.session import ModelSession


def measured(model: nn.Module, *shape: int, settings: RunSettings | None = None) -> Series:
    return measure_memory(model, (torch.ones(shape),), Job(), settings or RunSettings())


def test_a_chain_holds_what_a_layer_reads_and_what_it_writes() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    found = measured(model, 1, 4)
    # The root still holds ReLU's input when that has just ended.
    assert found.by_layer() == {ROOT: 64, "0": 32, "1": 64, "2": 40}
    assert found.total.value == 64
    assert found.metric is MEMORY
    assert found.metric.provenance is Provenance.MEASURED


def test_work_in_place_takes_no_memory() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    assert measured(model, 1, 4).by_layer() == {ROOT: 40, "0": 32, "1": 32, "2": 40}


def test_views_take_no_memory_and_keep_what_they_look_at() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            half = (x + 1)[:, :2]  # 32 bytes stay behind 16
            return half.unsqueeze(0) * 2

    assert measured(Halves(), 2, 4).total.value == 32 + 16


def test_a_residual_branch_keeps_its_input() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.branch = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.before(x)
            return x + self.branch(x)

    found = measured(Residual(), 1, 4)
    # At the sum: its two operands and itself.
    assert found.by_layer() == {ROOT: 48, "before": 16, "branch": 32}


def test_what_is_freed_within_a_layer_counts_while_it_lives() -> None:
    class Bulges(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.repeat(1, 100).sum(1)

    found = measured(nn.Sequential(Bulges(), nn.ReLU()), 1, 4)
    assert found.by_layer() == {ROOT: 8, "0": 1604, "1": 8}


def test_a_batch_takes_so_many_times_as_much() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    one, many = measured(model, 1, 4), measured(model, 1, 4, settings=RunSettings(batch=7))
    assert many.by_layer() == {layer: 7 * size for layer, size in one.by_layer().items()}


def test_half_the_bits_take_half_the_memory() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    half = measured(model, 1, 4, settings=RunSettings(dtype="bfloat16"))
    assert half.total.value == measured(model, 1, 4).total.value / 2


def test_gradients_and_what_is_kept_for_them_count() -> None:
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Sigmoid(), nn.Linear(8, 2, bias=False))
    found = measured(model, 1, 4, settings=RunSettings(backward=True))
    # Forward, nothing is freed that the gradients need: 32, 32 (which the sigmoid keeps), 8.
    kept, seed = 32 + 8, 8
    # The first to run is the last layer: its weight's gradient (64), and its input's (32).
    assert found.by_layer()["2"] >= kept + seed + 64 + 32
    assert found.total.value > measured(model, 1, 4).total.value
    assert found.conditions["pass"] == "forward and backward"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_made_at_first_use_and_kept_is_no_activation() -> None:
    class Caches(nn.Module):
        table: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.table is None:
                self.table = torch.arange(1000.0)
            return x + self.table[:4]

    assert measured(Caches(), 1, 4).total.value == 16


def test_buffers_and_a_large_input_do_not_count() -> None:
    assert measured(nn.BatchNorm1d(64).eval(), 4096, 64).total.value < 2 * 4096 * 64 * 4
    assert measured(nn.Flatten(), 64, 64).total.value == 0


def test_tensors_without_dense_storage_are_told() -> None:
    class Sparse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to_sparse().to_dense()

    found = measured(Sparse(), 2, 2)
    assert "not dense" in found.conditions["counted"]
    assert "not dense" not in measured(nn.ReLU(), 2, 2).conditions["counted"]


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["linear", "relu", "relu_", "nested"]), min_size=1, max_size=6))
def test_the_whole_peak_is_that_of_the_layer_with_the_highest(kinds: list[str]) -> None:
    made: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: nn.Linear(4, 4),
        "relu": nn.ReLU,
        "relu_": lambda: nn.ReLU(inplace=True),
        "nested": lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
    }
    model = nn.Sequential(nn.Linear(4, 4), *(made[kind]() for kind in kinds))
    found = measured(model, 3, 4)
    assert found.total.value == max(found.by_layer().values())
    assert set(found.layers) == {name for name, _ in model.named_modules()}
    assert min(found.by_layer().values()) >= 0


def test_a_session_measures_current_and_base(demo: ModelSession, job: Job) -> None:
    state = demo.measure_memory(job).snapshot.current
    assert state.table[MEMORY.key].layers.keys() == {layer.id for layer in state.tree}
    assert job.fraction == 1.0


def test_a_preview_compares_what_is_counted_alone(demo: ModelSession, job: Job) -> None:
    demo.measure_memory(job)
    edit = PruneChannels(demo.snapshot.current.tree.select(["stem.conv"]), 0.5)
    effect = demo.preview(edit, job)
    assert effect.before.keys() == effect.after.keys()
    assert MEMORY.key not in effect.before


def test_a_cancel_stops_between_runs() -> None:
    job = Job()

    class Stops(nn.Module):
        def __deepcopy__(self, memo: dict[int, object]) -> "Stops":
            return Stops()

        def forward(self, x: Tensor) -> Tensor:
            job.cancel()
            return x

    with pytest.raises(Cancelled):
        measure_memory(Stops(), (torch.ones(1, 2),), job)


def test_a_model_that_does_not_run_says_so() -> None:
    with pytest.raises(ProfilingFailed, match="does not run with device cpu"):
        measured(nn.Linear(3, 3), 1, 2)


def test_the_allocator_is_asked_at_every_change_of_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's figures by a stand-in: 100 bytes before, then a peak per stretch."""
    peaks = iter([100, 130, 120, 150, 110, 140])
    resets: list[object] = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peaks))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(memory, "_counted", memory._allocated)
    found = measured(nn.Sequential(nn.ReLU()), 1, 2)
    # Told: the root before its forward, the root, its child, the root again, the end.
    assert found.by_layer() == {ROOT: 30, "0": 50}
    assert len(resets) == 5
    assert "allocator" in found.conditions["counted"]
