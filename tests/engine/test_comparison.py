"""Two models on the same samples: McNemar's test, when to stop, and what a session says of it."""

import dataclasses
import math
import random
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.datasets import DataSet, LazySplit, Split
from engine.edits import PruneChannels, PruneWeights, Quantize
from engine.errors import DataSetNotFound, EditRefused
from engine.evaluate import BATCH, CERTAIN, LEAST_SAMPLES, Evaluator, evaluate
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.metrics import ACCURACY, Quantity
from engine.scoring import evidence_of_difference, mcnemar, wilson_interval
from engine.session import ModelSession
from engine.state import Comparison

# The test


@pytest.mark.parametrize(
    ("lost", "gained", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 0.0625),  # 2 / 2^5
        (0, 6, 0.03125),  # 2 / 2^6
        (4, 1, 0.375),  # 2 (1 + 5) / 2^5
        (3, 3, 1.0),
        (10, 2, 0.03857421875),  # 2 (1 + 12 + 66) / 2^12
        # scipy.stats.binomtest(lost, lost + gained, 0.5).pvalue
        (121, 59, 4.4344492637551645e-06),
        (59, 121, 4.4344492637551645e-06),
        (515, 520, 0.9010586626548216),
        (30, 12, 0.007915897334896727),
    ],
)
def test_mcnemar_by_hand_and_by_scipy(lost: int, gained: int, p_value: float) -> None:
    assert mcnemar(lost, gained) == pytest.approx(p_value, rel=1e-9)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_sum_of_the_binomial_distribution(lost: int, gained: int) -> None:
    differing = lost + gained
    tail = sum(math.comb(differing, one) for one in range(min(lost, gained) + 1))
    exact = min(Fraction(1), Fraction(2 * tail, 2**differing))
    assert mcnemar(lost, gained) == pytest.approx(float(exact), rel=1e-9)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_evidence_is_a_bet_that_pays_fairly(lost: int, gained: int) -> None:
    """By hand: 2^n B(lost + 1, gained + 1); and what it is worth next is on average what it is."""
    found = evidence_of_difference(lost, gained)
    differing = lost + gained
    exact = Fraction(2**differing, (differing + 1) * math.comb(differing, lost))
    assert found == pytest.approx(float(exact), rel=1e-9)
    either = evidence_of_difference(lost + 1, gained), evidence_of_difference(lost, gained + 1)
    assert sum(either) / 2 == pytest.approx(found, rel=1e-9)


def test_evidence_beyond_what_a_float_holds_is_still_a_number() -> None:
    assert CERTAIN < evidence_of_difference(50_000, 0) < math.inf


def test_without_a_difference_a_run_seldom_stops() -> None:
    """Looked at again and again, in a thousand runs over samples that differ either way."""
    generator = random.Random(7)
    stopped = promised = 0
    for _ in range(1000):
        draws = [sum(generator.random() < 0.5 for _ in range(15)) for _ in range(60)]
        looks = [(sum(draws[:at]), 15 * at - sum(draws[:at])) for at in range(1, 61)]
        stopped += any(evidence_of_difference(*look) >= CERTAIN for look in looks)
        # The normal approximation of McNemar's test is enough to show what it would do.
        promised += any(
            abs(lost - gained) > 1.96 * math.sqrt(lost + gained) for lost, gained in looks
        )
    assert stopped <= 50
    assert promised > 200


def test_with_a_difference_a_run_stops_soon() -> None:
    assert evidence_of_difference(8, 0) >= CERTAIN
    assert evidence_of_difference(40, 15) >= CERTAIN
    assert evidence_of_difference(7, 0) < CERTAIN


# Two models


class Shift(nn.Module):
    """Its input, of which some classes are told wrongly."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong = nn.Parameter(torch.tensor(wrong))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4) to (N, 3): scores, and a number below which the sample is told wrongly."""
        return torch.where(x[:, 3:] < self.wrong, -x[:, :3], x[:, :3])


def numbered(count: int, sort: bool = False) -> DataSet:
    """Samples of three classes, each with a number of its own below 1."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (count,), generator=generator)
    chance = torch.rand(count, 1, generator=generator)
    if sort:
        chance = chance.sort(0).values
    split = Split(torch.cat([nn.functional.one_hot(labels, 3).float(), chance], 1), labels)
    return DataSet("numbers", tuple("abc"), split, split, "toy")


def test_a_comparison_counts_what_is_lost_and_gained() -> None:
    images = torch.eye(3).repeat(2, 1)
    split = Split(images, torch.tensor([0, 1, 2, 0, 1, 1]))
    data = DataSet("six", tuple("abc"), split, split, "toy")
    turned = nn.Linear(3, 3, bias=False)
    turned.weight = nn.Parameter(torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]]))
    found = Evaluator(data).compare(nn.Identity(), turned, Job())
    # The base is right at 0 1 2 0 1 and wrong at the last; the other at 0, 0 and the last.
    assert found == Comparison(
        Quantity(3 / 6, *wilson_interval(3, 6)),
        Quantity(5 / 6, *wilson_interval(5, 6)),
        3,
        1,
        0.625,
        6,
        6,
    )


@settings(max_examples=30)
@given(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1))
def test_both_figures_are_those_of_evaluating_each(count: int, one: float, other: float) -> None:
    data, base, edited = numbered(count), Shift(one), Shift(other)
    found = Evaluator(data).compare(base, edited, Job())
    assert found.accuracy == evaluate(edited, data, Job()).total
    assert found.reference == evaluate(base, data, Job()).total
    assert (found.samples, found.of, found.settled) == (count, count, False)
    assert found.lost is not None
    assert found.gained is not None
    difference = found.accuracy.value - found.reference.value
    assert found.gained - found.lost == pytest.approx(difference * count)
    assert found.p_value == mcnemar(found.lost, found.gained)


def test_a_clear_difference_ends_the_run() -> None:
    data, job = numbered(40 * BATCH), Job()
    found = Evaluator(data).compare(Shift(0.0), Shift(0.3), job)
    assert found.settled
    assert LEAST_SAMPLES <= found.samples < LEAST_SAMPLES + BATCH
    assert found.accuracy.low is not None
    assert found.accuracy.low < 0.7 < found.accuracy.high
    assert job.partial == found
    alike = Evaluator(data).compare(Shift(0.3), Shift(0.3), Job())
    assert (alike.settled, alike.samples, alike.p_value) == (False, 40 * BATCH, 1.0)


def test_a_part_of_sorted_data_stands_for_the_whole() -> None:
    data = numbered(40 * BATCH, sort=True)
    found = Evaluator(data).compare(Shift(0.0), Shift(0.3), Job(), samples=500)
    assert found.samples == found.of == 500
    assert abs(found.accuracy.value - 0.7) < 0.06


def test_the_comparison_arrives_bit_by_bit() -> None:
    data, seen = numbered(3 * BATCH), []

    class Watching(Job):
        def advance(self, steps: int = 1) -> None:
            seen.append((self.partial, steps))
            super().advance(steps)

    found = Evaluator(data).compare(Shift(0.1), Shift(0.2), Watching())
    assert [(one.samples, steps) for one, steps in seen] == [(64, 64), (128, 64), (192, 64)]
    assert seen[-1][0] == found
    widths = [one.accuracy.high - one.accuracy.low for one, _ in seen]
    assert widths == sorted(widths, reverse=True)


def test_accuracy_arrives_bit_by_bit() -> None:
    data, seen = numbered(3 * BATCH), []

    class Watching(Job):
        def advance(self, steps: int = 1) -> None:
            seen.append(self.partial)
            super().advance(steps)

    found = evaluate(Shift(0.5), data, Watching()).total
    assert len(seen) == 3
    assert all(one.low <= one.value <= one.high for one in seen)
    assert seen[-1] == found


def test_a_cancelled_comparison_leaves_what_is_known_right() -> None:
    data, job = numbered(5 * BATCH), Job()
    evaluator, base, edited = Evaluator(data), Shift(0.2), Shift(0.4)

    class Cancelling(Job):
        def advance(self, steps: int = 1) -> None:
            if self.done:
                self.cancel()
            super().advance(steps)

    with pytest.raises(Cancelled):
        evaluator.compare(base, edited, Cancelling())
    assert evaluator.difference(base, edited) is not None  # of the samples that both have had
    assert evaluator.compare(base, edited, job) == Evaluator(data).compare(base, edited, Job())


def test_other_metrics_have_figures_and_no_test() -> None:
    def share(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).float().mean())

    data = dataclasses.replace(numbered(100), metric="mine.py:share", judge=lambda: share)
    evaluator, base, edited = Evaluator(data), Shift(0.0), Shift(0.5)
    for _ in range(2):  # the second time the base's figure is known
        found = evaluator.compare(base, edited, Job())
        assert (found.lost, found.gained, found.p_value) == (None, None, None)
        assert found.reference == evaluate(base, data, Job()).total
        assert found.accuracy == evaluate(edited, data, Job()).total
        evaluator.evaluate(base, Job())
    few = evaluator.compare(base, edited, Job(), samples=10)
    assert (few.samples, few.of) == (10, 10)


# Samples


class Source:
    """Pictures of which some cannot be read; counts how often each is."""

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        self.count, self.broken, self.read_at = count, broken, list[int]()

    def __len__(self) -> int:
        return self.count

    def name(self, at: int) -> str:
        return f"{at}.png"

    def read(self, at: int) -> tuple[Tensor, Tensor]:
        self.read_at.append(at)
        if at in self.broken:
            raise OSError("gone")
        generator = torch.Generator().manual_seed(at)
        return torch.rand(3, 8, 8, generator=generator), torch.tensor(at % 3)


def stored(source: Source) -> DataSet:
    split = LazySplit(source, lambda one, target: (one, target), True, range(len(source)))
    return DataSet("stored", tuple("abc"), split, split, "toy")


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def other_weights(model: nn.Module, layer: int) -> nn.Module:
    from engine.sharing import share

    edited = share(model)
    edited[layer].weight = nn.Parameter(torch.randn_like(edited[layer].weight))
    return edited


def test_samples_are_read_once() -> None:
    source = Source(150, frozenset({3, 70, 71}))
    evaluator, base = Evaluator(stored(source)), small_net()
    first = evaluator.evaluate(base, Job())
    assert (first.conditions["samples"], first.conditions["skipped"]) == ("147", "3")
    assert sorted(set(source.read_at)) == list(range(150))
    read = len(source.read_at)
    job = Job()
    for layer in (6, 2, 0):
        edited = other_weights(base, layer)
        assert (
            evaluator.evaluate(edited, job).total == evaluate(edited, stored(source), Job()).total
        )
        assert job.fraction == 1
    del source.read_at[read:]
    evaluator.compare(base, other_weights(base, 2), Job())
    assert len(source.read_at) == read


def test_what_cannot_be_read_is_told_in_stored_order() -> None:
    data = stored(Source(150, frozenset({140, 3, 70})))
    Evaluator(data).evaluate(small_net(), Job())
    assert list(data.broken) == ["3.png", "70.png", "140.png"]


def test_with_little_memory_samples_are_read_again() -> None:
    source = Source(100)
    evaluator, base = Evaluator(stored(source), budget=5_000), small_net()
    wanted = evaluate(base, stored(source), Job())
    for _ in range(2):
        source.read_at.clear()
        assert evaluator.evaluate(base, Job()) == wanted
        assert set(source.read_at) == set(range(100))


def test_a_cancel_while_samples_are_read_again_is_no_error() -> None:
    source, job = Source(100), Job()
    evaluator, base = Evaluator(stored(source), budget=5_000), small_net()
    evaluator.evaluate(base, Job())
    read = source.read

    def cancelling(at: int) -> tuple[Tensor, Tensor]:
        job.cancel()
        return read(at)

    source.read = cancelling  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        evaluator.evaluate(base, job)


def test_masks_are_judged_as_models_of_their_own() -> None:
    data, model = stored(Source(100)), small_net()
    found = Evaluator(data).masked(model, LayerId("1"), [(), (0, 1, 2), range(8)], Job())
    assert found[0] == evaluate(model, data, Job()).total
    for channels, quantity in zip([(0, 1, 2), range(8)], found[1:], strict=True):
        edited = small_net()
        edited[1].register_forward_hook(
            lambda _module, _inputs, out, channels=channels: out.index_fill(
                1, torch.tensor(list(channels)), 0
            )
        )
        assert quantity == evaluate(edited, data, Job()).total


def test_masks_of_models_that_take_one_sample_at_once() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 1:
                raise ValueError("one at a time")
            return self.net(x)

    data, model = stored(Source(20)), Single()
    evaluator = Evaluator(data)
    (found,) = evaluator.masked(model, LayerId("net.1"), [()], Job())
    assert found == evaluate(model, data, Job()).total
    assert evaluator.evaluate(model, Job()).total == found


# Sessions


def layers_for(session: ModelSession, method: str) -> list[LayerId]:
    return [one.id for one in session.snapshot.current.tree if method in one.methods]


def test_a_preview_is_what_applying_would_give(demo: ModelSession, job: Job) -> None:
    base = demo.evaluate(job).snapshot.base.table[ACCURACY.key].total
    weights = layers_for(demo, "prune-weights")
    edits = (
        PruneChannels((layers_for(demo, "prune-channels")[1],), 0.5),
        PruneWeights((weights[-1],), 0.9),
        Quantize((weights[2], weights[3])),
    )
    for edit in edits:
        before = demo.snapshot
        found = [demo.preview_accuracy(edit, Job()) for _ in range(2)]
        assert found[0] == found[1]
        assert found[0].reference == base
        assert demo.snapshot == before
        demo.apply(edit, job)
        table = demo.evaluate(job).snapshot.current.table[ACCURACY.key]
        assert table.total == found[0].accuracy
        fresh = evaluate(demo._subject(1).model, demo._data, Job())
        assert table.total == fresh.total
        words = table.conditions["against base"]
        assert words.startswith(f"lost {found[0].lost}, gained {found[0].gained}, p ")
        demo.undo(job)


def test_undo_and_redo_evaluate_from_what_is_kept(
    demo: ModelSession, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.evaluate(job)
    demo.apply(PruneWeights((layers_for(demo, "prune-weights")[-1],), 0.9), job)
    first = demo.evaluate(job).snapshot.current.table[ACCURACY.key]
    demo.undo(job)
    demo.redo(job)
    calls = list[str]()
    conv2d = torch.nn.functional.conv2d
    monkeypatch.setattr(
        torch.nn.Conv2d,
        "_conv_forward",
        lambda self, x, weight, bias: (
            calls.append("conv")
            or conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        ),
    )
    assert demo.evaluate(job).snapshot.current.table[ACCURACY.key] == first
    assert len(calls) < 8 * 2, "a whole evaluation runs eight batches through eight convolutions"


def test_previews_need_data_and_an_edit_that_can_be_applied(
    demo: ModelSession, session_of: Callable[..., ModelSession], job: Job
) -> None:
    with pytest.raises(DataSetNotFound):
        session_of(nn.Linear(3, 3), 1, 3).preview_accuracy(PruneWeights((LayerId(""),), 0.5), job)
    with pytest.raises(EditRefused):
        demo.preview_accuracy(PruneWeights((), 0.5), job)


def test_the_words_of_a_clear_difference(demo: ModelSession, job: Job) -> None:
    demo.apply(PruneWeights(tuple(layers_for(demo, "prune-weights")), 0.98), job)
    snapshot = demo.evaluate(job).snapshot
    assert snapshot.current.table[ACCURACY.key].conditions["against base"].endswith("p < 0.001")
    assert "against base" not in snapshot.base.table[ACCURACY.key].conditions
