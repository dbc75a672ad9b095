"""Recovery without training: batch norms measured anew, schedules, and what is said of a state."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.datasets import DataSet, Split, loading
from engine.editing import Subject, handler_of, look_at
from engine.edits import (
    FineTune,
    FoldNorms,
    PruneChannels,
    PruneWeights,
    Quantize,
    RecalibrateNorms,
    Retrained,
    StoredTensor,
    before_recovery,
)
from engine.errors import EditRefused, RecipeMismatch
from engine.job import Cancelled, Job
from engine.layers import ROOT, LayerId
from engine.metrics import ACCURACY
from engine.recovery.recalibration import BATCH
from engine.recovery.schedules import schedule, shares
from engine.session import ModelSession
from engine.sharing import restored_tensor, stored_tensor

CONVOLUTIONS = tuple(map(LayerId, ("0", "3", "6", "9")))
FIRST, SECOND = CONVOLUTIONS[:2]
NORMS = tuple(map(LayerId, ("1", "4", "7", "10")))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pictures(count: int, seed: int) -> Split:
    """Four classes: a pattern each, in noise."""
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randn(4, 1, 8, 8, generator=generator)
    generator.manual_seed(seed)
    labels = torch.arange(count) % 4  # each class as often
    noise = torch.randn(count, 1, 8, 8, generator=generator)
    return Split(patterns[labels] + noise, labels)


def toy_data(count: int = 512) -> DataSet:
    return DataSet("toy", tuple("abcd"), pictures(count, 1), pictures(256, 2), "a toy")


def toy_model() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (1, 16, 16, 16):
        layers += [nn.Conv2d(inputs, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


@pytest.fixture(scope="module")
def learned() -> dict[str, Tensor]:
    """Weights of the toy model after a few rounds over its data, by plain torch."""
    torch.manual_seed(0)
    model, data = toy_model(), pictures(512, 1)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(10):
        for chosen in torch.randperm(len(data)).split(64):
            loss = nn.functional.cross_entropy(model(data.images[chosen]), data.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


@pytest.fixture
def toy(
    learned: dict[str, Tensor],
    session_of: Callable[..., ModelSession],
    monkeypatch: pytest.MonkeyPatch,
) -> ModelSession:
    """A session over the trained toy, with its data."""
    model = toy_model()
    model.load_state_dict({name: one.clone() for name, one in learned.items()})
    monkeypatch.setitem(loading._DATA_SETS, "toy", toy_data)
    session = session_of(model, 1, 1, 8, 8)
    session.load_data("toy", Job())
    return session


def accuracy(session: ModelSession) -> float:
    return session.evaluate(Job()).snapshot.current.table[ACCURACY.key].total.value


def decided(model: nn.Module, edit: RecalibrateNorms, data: DataSet | None) -> Retrained:
    decision = handler_of(edit).decide(edit, subject_of(model, data), Job())
    assert isinstance(decision, Retrained)
    return decision


def subject_of(model: nn.Module, data: DataSet | None) -> Subject:
    return look_at(model.eval(), (torch.zeros(1, 1, 8, 8),), data)


def statistics_of(decision: Retrained) -> dict[str, Tensor]:
    return {one.name: restored_tensor(one) for one in decision.tensors}


# Batch norms


def test_statistics_are_those_of_the_samples_reckoned_by_hand() -> None:
    """Means over batches of what numpy finds in each, which is what a plain mean momentum gives."""
    model, data = toy_model().eval(), toy_data(160)
    told = statistics_of(decided(model, RecalibrateNorms((ROOT,)), data))
    order = torch.randperm(160, generator=torch.Generator().manual_seed(0)).tolist()
    images = data.training.images.numpy()  # type: ignore[attr-defined]
    means, variances = [], []
    for start in range(0, 160, BATCH):
        chosen = torch.from_numpy(images[order[start : start + BATCH]])
        with torch.no_grad():
            values = model[0](chosen).numpy().astype(np.float64)  # type: ignore[index]
        means.append(values.mean((0, 2, 3)))
        variances.append(values.var((0, 2, 3), ddof=1))
    np.testing.assert_allclose(told["1.running_mean"], np.mean(means, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told["1.running_var"], np.mean(variances, 0), rtol=1e-5)
    assert int(told["1.num_batches_tracked"]) == 3
    assert set(told) == {
        f"{norm}.{name}"
        for norm in NORMS
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_a_later_norm_sees_what_the_earlier_one_makes_of_its_batch() -> None:
    model, data = toy_model().eval(), toy_data(64)
    told = statistics_of(decided(model, RecalibrateNorms((ROOT,)), data))
    by_torch = toy_model().train()
    for norm in (by_torch[1], by_torch[4]):  # type: ignore[index]
        norm.momentum = 1.0
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        by_torch(data.training.images[order])  # type: ignore[attr-defined]
    torch.testing.assert_close(told["4.running_mean"], by_torch[4].running_mean)  # type: ignore[index]
    torch.testing.assert_close(told["4.running_var"], by_torch[4].running_var)  # type: ignore[index]


@pytest.mark.parametrize(
    "edit", [PruneChannels(CONVOLUTIONS, 0.25, multiple=1), PruneWeights(CONVOLUTIONS, 0.7)]
)
def test_a_pruned_toy_wins_its_accuracy_back(
    toy: ModelSession, edit: PruneChannels | PruneWeights
) -> None:
    before = accuracy(toy)
    toy.apply(edit, Job())
    pruned = accuracy(toy)
    assert toy.snapshot.before_recovery
    change = toy.apply(RecalibrateNorms((ROOT,)), Job())
    assert change.layers == set(NORMS)
    assert before > 0.95
    assert pruned < 0.65
    assert accuracy(toy) > 0.9
    assert not toy.snapshot.before_recovery


def test_measuring_writes_into_nothing_that_is_shared(toy: ModelSession) -> None:
    before = toy.fingerprint()
    toy.apply(RecalibrateNorms((ROOT,)), Job())
    assert toy.fingerprint() != before
    assert toy.fingerprint(0) == before
    toy.undo(Job())
    assert toy.fingerprint() == before


def test_only_norms_below_the_chosen_layers_change(toy: ModelSession) -> None:
    change = toy.apply(RecalibrateNorms((LayerId("4"),)), Job())
    assert change.layers == {LayerId("4")}


def test_samples_are_drawn_over_classes_that_are_stored_in_a_row() -> None:
    """Batches of one class each would have too small a variance."""
    sorted_by_class = toy_data(256).training.at(sorted(range(256), key=lambda at: at % 4))
    data = DataSet("toy", tuple("abcd"), sorted_by_class, pictures(8, 2), "a toy")
    model = nn.Sequential(nn.BatchNorm2d(1))
    told = statistics_of(decided(model, RecalibrateNorms((ROOT,)), data))
    whole = sorted_by_class.images.var()  # type: ignore[attr-defined]
    assert float(told["0.running_var"]) == pytest.approx(float(whole), rel=0.02)


def test_a_last_batch_of_one_sample_is_left_out() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))
    told = decided(model, RecalibrateNorms((ROOT,), samples=65), toy_data(128))
    assert told.told == "1 batch norm on 64 training samples in batches of 64"


def test_what_cannot_be_measured_is_refused_in_words(toy: ModelSession) -> None:
    with pytest.raises(EditRefused, match="no data set is chosen"):
        decided(toy_model(), RecalibrateNorms((ROOT,)), None)
    with pytest.raises(EditRefused, match="no batch norm with running statistics"):
        toy.apply(RecalibrateNorms((LayerId("14"),)), Job())
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))
    with pytest.raises(EditRefused, match="more than 1 value per channel"):
        decided(model, RecalibrateNorms((ROOT,), samples=1), toy_data())
    for samples in (0, -4):
        with pytest.raises(EditRefused, match="at least one sample"):
            decided(toy_model(), RecalibrateNorms((ROOT,), samples=samples), toy_data())


def test_cancelled_nothing_has_changed(toy: ModelSession, stop_at: type[Job]) -> None:
    before = toy.snapshot
    with pytest.raises(Cancelled):
        toy.apply(RecalibrateNorms((ROOT,)), stop_at(5))  # type: ignore[call-arg]
    assert toy.snapshot == before


# Kept tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_stored_tensors_come_back_bit_by_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (100 * torch.randn(shape)).to(dtype)
    again = restored_tensor(stored_tensor("a", tensor))
    assert again.dtype == dtype
    assert again.shape == tensor.shape
    assert torch.equal(again, tensor)


@pytest.mark.parametrize(
    "stored",
    [
        StoredTensor("1.running_mean", "float32", (16,), bytes(63)),
        StoredTensor("1.running_mean", "float31", (16,), bytes(64)),
        StoredTensor("1.running_mean", "nn", (16,), bytes(64)),
        StoredTensor("1.running_mean", "float32", (8,), bytes(32)),
        StoredTensor("1.running_mean", "int32", (16,), bytes(64)),
        StoredTensor("9.running_mean", "float32", (16,), bytes(64)),
    ],
)
def test_tensors_that_do_not_fit_are_refused(stored: StoredTensor) -> None:
    edit = RecalibrateNorms((ROOT,))
    with pytest.raises(RecipeMismatch):
        handler_of(edit).carry_out(Retrained((stored,), ""), toy_model())


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    new = stored_tensor("0.weight", torch.ones(4, 4))
    handler_of(FineTune((ROOT,))).carry_out(Retrained((new,), ""), model)
    assert model[0].weight is model[1].weight
    assert bool((model[1].weight == 1).all())


def test_a_recipe_gives_the_same_statistics(toy: ModelSession, tmp_path: Path) -> None:
    toy.apply(RecalibrateNorms((ROOT,)), Job())
    wanted = toy.fingerprint()
    toy.save_recipe(str(tmp_path / "r.json"), Job())
    toy.undo(Job())
    toy.apply_recipe(str(tmp_path / "r.json"), Job())
    assert toy.fingerprint() == wanted


# Said of a state


PRUNED = PruneWeights((FIRST,), 0.5)


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ((), False),
        ((PRUNED,), True),
        ((PRUNED, RecalibrateNorms((ROOT,))), False),
        ((PRUNED, FineTune((ROOT,))), False),
        ((FineTune((ROOT,)), PRUNED), True),
        ((PRUNED, FineTune((ROOT,)), PRUNED), True),
        ((PRUNED, FoldNorms((FIRST,)), Quantize((FIRST,))), True),
        ((FoldNorms((FIRST,)), Quantize((FIRST,))), False),
    ],
)
def test_a_result_before_recovery_is_told(edits: tuple, expected: bool) -> None:
    assert before_recovery(edits) is expected


def test_the_history_tells_it_of_every_state(toy: ModelSession) -> None:
    toy.apply(PRUNED, Job())
    toy.apply(RecalibrateNorms((ROOT,)), Job())
    assert [one.before_recovery for one in toy.snapshot.history] == [True, False]
    assert not toy.snapshot.before_recovery
    assert toy.undo(Job()).snapshot.before_recovery
    assert not toy.undo(Job()).snapshot.before_recovery


# Schedules

KINDS = st.sampled_from(["one-shot", "iterative", "gradual"])


@given(KINDS, st.integers(1, 20), st.floats(0, 0.99), st.floats(0, 0.9))
def test_shares_grow_to_what_is_asked(kind: str, steps: int, final: float, initial: float) -> None:
    found = shares(kind, steps, final, initial)  # type: ignore[arg-type]
    assert found[-1] == final
    assert list(found) == sorted(found) or final <= initial
    assert len(found) == (1 if kind == "one-shot" or final <= initial else steps)


def test_gradual_is_the_published_cubic() -> None:
    """By hand from s_t = s_f + (s_i - s_f)(1 - t/n)^3 of Zhu and Gupta."""
    expected = [0.9 - 0.8 * 27 / 64, 0.9 - 0.8 / 8, 0.9 - 0.8 / 64, 0.9]
    assert shares("gradual", 4, 0.9, 0.1) == pytest.approx(expected)


def test_iterative_takes_the_same_share_of_what_is_left_each_time() -> None:
    found = shares("iterative", 3, 0.875)
    assert found == pytest.approx([0.5, 0.75, 0.875])
    steps = schedule(PruneChannels((FIRST,), 0.875), "iterative", 3)
    assert [one.ratio for one in steps] == pytest.approx([0.5, 0.5, 0.5])


@given(KINDS, st.integers(1, 12), st.floats(0, 0.95))
def test_channel_steps_leave_what_one_step_would(kind: str, steps: int, ratio: float) -> None:
    left = 1.0
    for one in schedule(PruneChannels((FIRST,), ratio), kind, steps):  # type: ignore[arg-type]
        assert 0 <= one.ratio < 1
        left *= 1 - one.ratio
    assert left == pytest.approx(1 - ratio)


def test_weight_steps_say_the_sparsity_behind_each() -> None:
    steps = schedule(PruneWeights((FIRST,), 0.9), "gradual", 2, initial=0.1)
    assert [one.ratio for one in steps] == pytest.approx([0.8, 0.9])


@pytest.mark.parametrize(
    ("edit", "kind", "steps", "why"),
    [
        (PRUNED, "iterative", 0, "0 steps"),
        (PruneWeights((FIRST,), 1.0), "iterative", 3, "removes everything"),
        (PruneWeights((FIRST,), 0.5, keep=2, of=4), "gradual", 3, "2:4"),
        (PruneChannels((FIRST,), 0.0, channels=(1, 2)), "gradual", 3, "picked by hand"),
        (PruneChannels((FIRST,), 1.5), "gradual", 3, "cannot be removed"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(
    edit: PruneChannels | PruneWeights, kind: str, steps: int, why: str
) -> None:
    with pytest.raises(EditRefused, match=why):
        schedule(edit, kind, steps)  # type: ignore[arg-type]


def test_a_schedule_is_steps_that_can_be_undone_one_by_one(toy: ModelSession) -> None:
    edit = PruneChannels((FIRST,), 0.75, multiple=1)
    change = toy.apply_schedule(edit, "iterative", 2, FineTune((ROOT,), epochs=1), Job())
    history = change.snapshot.history
    assert [type(one.edit) for one in history] == [PruneChannels, FineTune] * 2
    assert change.snapshot.current.tree[FIRST].channels == 4
    assert {FIRST, LayerId("1"), SECOND} <= change.layers
    widths = [toy.undo(Job()).snapshot.current.tree[FIRST].channels for _ in history]
    assert widths == [4, 8, 8, 16]


def test_rounding_does_not_stop_a_schedule(toy: ModelSession) -> None:
    """16 channels in eights: three steps to a quarter would each round to no change."""
    edit = PruneChannels((FIRST,), 0.5, multiple=8)
    change = toy.apply_schedule(edit, "iterative", 4, None, Job())
    assert change.snapshot.current.tree[FIRST].channels == 8
    assert len(change.snapshot.history) == 4


def test_weights_that_are_zero_already_count(toy: ModelSession) -> None:
    toy.apply(PruneWeights((FIRST,), 0.5), Job())
    change = toy.apply_schedule(PruneWeights((FIRST,), 0.75), "iterative", 2, None, Job())
    ratios = [one.edit.ratio for one in change.snapshot.history[1:]]  # type: ignore[union-attr]
    assert ratios == pytest.approx([1 - 0.5 * 0.5**0.5, 0.75], abs=0.01)
    layer = change.snapshot.current.tree[FIRST]
    assert layer.zeros == round(0.75 * layer.weights)


class StopWithin(Job):
    """A job that the user cancels as soon as its text says so."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._wanted = text

    def check(self) -> None:
        if self._wanted in self.text:
            self.cancel()
        super().check()


def test_cancelled_in_a_later_step_whole_steps_stay(toy: ModelSession) -> None:
    edit, tune = PruneChannels((FIRST,), 0.75, multiple=1), FineTune((ROOT,), epochs=1)
    change = toy.apply_schedule(edit, "iterative", 3, tune, StopWithin("Step 2 of 3: Fine-tuning"))
    assert [type(one.edit) for one in change.snapshot.history] == [PruneChannels, FineTune]
    assert change.snapshot.cursor == 2
    assert toy.snapshot == change.snapshot


def test_cancelled_in_the_first_step_nothing_has_changed(toy: ModelSession) -> None:
    before = toy.snapshot
    edit, tune = PruneChannels((FIRST,), 0.75, multiple=1), FineTune((ROOT,), epochs=1)
    with pytest.raises(Cancelled):
        toy.apply_schedule(edit, "iterative", 3, tune, StopWithin("Step 1 of 3: Fine-tuning"))
    assert toy.snapshot == before


def test_a_step_that_is_refused_leaves_nothing_behind(toy: ModelSession) -> None:
    before, bits = toy.snapshot, toy.fingerprint()
    edit = PruneChannels((FIRST,), 0.5, multiple=1)
    tune = FineTune((ROOT,), epochs=1, learning_rate=1e30)
    with pytest.raises(EditRefused, match="not finite at a learning rate of 1e"):
        toy.apply_schedule(edit, "gradual", 2, tune, Job())
    with pytest.raises(EditRefused, match="no layer"):
        toy.apply_schedule(PruneWeights((LayerId("x"),), 0.5), "gradual", 2, None, Job())
    assert toy.snapshot == before
    assert toy.fingerprint() == bits


def test_stages_inside_a_step_are_named_by_it() -> None:
    job = Job()
    with job.within("Step 1 of 2"):
        job.begin("Pruning", 3)
        assert (job.text, job.done, job.total) == ("Step 1 of 2: Pruning", 0, 3)
        with job.within("Inner"):
            job.tell("Half", 1, 2)
            assert (job.text, job.done, job.total) == ("Step 1 of 2: Inner: Half", 1, 2)
    job.begin("After")
    assert job.text == "After"
