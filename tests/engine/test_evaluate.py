"""Accuracy: counted by hand, with an interval that scipy confirms."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor, nn

from engine.datasets import DataSet, Split, digits
from engine.edits import PruneWeights
from engine.errors import DataSetMismatch
from engine.evaluate import BATCH, accuracy, wilson_interval
from engine.job import Cancelled, Job
from engine.metrics import ACCURACY, Provenance, Series
from engine.session import ModelSession


def toy(images: Tensor, labels: list[int], classes: int = 3) -> DataSet:
    """A validation split of these; the training split must not be looked at."""
    validation = Split(images, torch.tensor(labels))
    training = Split(torch.full_like(images, float("nan")), torch.tensor(labels))
    return DataSet("toy", tuple("abcdefghij"[:classes]), training, validation, "a toy")


def scores(*rows: list[float]) -> Tensor:
    """Images that are their own scores."""
    return torch.tensor(rows, dtype=torch.float32)


# The interval


@given(
    st.integers(1, 20_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))
)
def test_the_interval_is_the_one_of_scipy(counts: tuple[int, int]) -> None:
    correct, total = counts
    wanted = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, total) == pytest.approx(
        (wanted.low, wanted.high), rel=1e-9, abs=1e-12
    )


@given(
    st.integers(1, 20_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))
)
def test_the_interval_holds_the_share_and_stays_a_share(counts: tuple[int, int]) -> None:
    correct, total = counts
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total <= high <= 1


def test_intervals_of_the_extremes() -> None:
    """Wilson's is never empty: nothing right among ten leaves up to 28 %."""
    low, high = wilson_interval(0, 10)
    assert (low, round(high, 4)) == (0.0, 0.2775)
    low, high = wilson_interval(10, 10)
    assert (round(low, 4), high) == (0.7225, 1.0)


# The share


def test_accuracy_by_hand() -> None:
    images = scores([9, 1, 2], [0, 3, 1], [0, 1, 5], [4, 2, 3], [1, 0, 0])
    found = accuracy(nn.Identity(), toy(images, [0, 1, 0, 0, 2]), Job())
    assert found.metric is ACCURACY
    assert found.metric.provenance is Provenance.MEASURED
    assert found.total.value == 3 / 5
    assert (found.total.low, found.total.high) == wilson_interval(3, 5)
    assert dict(found.layers) == {}
    assert found.conditions == {
        "data": "toy, validation split",
        "samples": "5",
        "correct": "3",
        "interval": "95 %, Wilson",
    }


@given(st.integers(1, 3 * BATCH + 1), st.integers(0, 2**31))
def test_every_sample_counts_once_whatever_the_number_of_batches(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    found = accuracy(nn.Identity(), toy(images, labels.tolist()), Job())
    right = sum(
        max(range(3), key=row.__getitem__) == label
        for row, label in zip(images.tolist(), labels.tolist(), strict=True)
    )
    assert found.conditions["correct"] == str(right)
    assert found.total.value == right / count


def test_outputs_that_are_not_numbers_are_wrong_or_right_but_never_an_error() -> None:
    images = scores([float("nan"), 0, 0], [0, 1, 0])
    found = accuracy(nn.Identity(), toy(images, [1, 1]), Job())
    assert found.total.value == 0.5


def test_models_are_evaluated_in_evaluation_mode_and_stay_as_they_were() -> None:
    class Undecided(nn.Module):
        """Right in evaluation mode only; counts its calls."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return -x if self.training else x

    model = Undecided().train()
    found = accuracy(model, toy(scores([1, 0, 0], [0, 1, 0]), [0, 1]), Job())
    assert found.total.value == 1.0
    assert model.training
    assert model.calls == 0


def test_the_demo_is_as_good_as_its_validation_split_says(demo: ModelSession, job: Job) -> None:
    found: Series = demo.evaluate(job).snapshot.current.table[ACCURACY.key]
    validation = digits().validation
    with torch.inference_mode():
        given = demo._subject(0).model(validation.images).argmax(1)
    right = int((given == validation.labels).sum())
    assert found.conditions["correct"] == str(right)
    assert found.conditions["samples"] == "450"
    assert found.total.low < found.total.value < found.total.high
    assert found.total.value > 0.98


# What does not fit


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(4, 3), "The model does not take the samples of toy, shape 3: "),
        (nn.Linear(3, 4), "toy has 3 classes, and the model does not give one score for each."),
        (nn.Unflatten(1, (3, 1)), "toy has 3 classes"),
        (nn.Linear(3, 3).double(), "The model does not take the samples of toy"),
    ],
)
def test_models_that_do_not_fit_are_told_so(model: nn.Module, words: str) -> None:
    data = toy(scores([1, 0, 0], [0, 1, 0]), [0, 1])
    with pytest.raises(DataSetMismatch) as caught:
        accuracy(model, data, Job())
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_models_with_several_results_are_told_so() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x}

    with pytest.raises(DataSetMismatch, match="one score for each"):
        accuracy(Two(), toy(scores([1, 0, 0]), [0]), Job())


# Cancelling


class Calls(nn.Module):
    """Counts the batches it is given and has the job cancelled at one of them."""

    seen: list[int]  # of the class, as a copy is run

    def __init__(self, stop: Callable[[int], None]) -> None:
        super().__init__()
        self.stop = stop

    def __deepcopy__(self, memo: dict[int, object]) -> "Calls":
        return self

    def forward(self, x: Tensor) -> Tensor:
        type(self).seen.append(len(x))
        self.stop(len(type(self).seen))
        return x


def test_a_cancel_stops_between_two_batches() -> None:
    Calls.seen, job = [], Job()
    images = torch.rand(5 * BATCH, 3)
    model = Calls(lambda batch: job.cancel() if batch == 2 else None)
    with pytest.raises(Cancelled):
        accuracy(model, toy(images, [0] * len(images)), job)
    assert Calls.seen == [BATCH, BATCH]


def test_progress_is_told_in_samples() -> None:
    Calls.seen, job, seen = [], Job(), []
    images = torch.rand(2 * BATCH + 6, 3)
    model = Calls(lambda _: seen.append((job.done, job.total)))
    accuracy(model, toy(images, [0] * len(images)), job)
    assert Calls.seen == [BATCH, BATCH, 6]
    assert seen == [(0, 134), (64, 134), (128, 134)]
    assert (job.fraction, job.text) == (1.0, "Evaluating on toy")


def test_edits_that_hurt_are_seen_to_hurt(demo: ModelSession, job: Job) -> None:
    layers = tuple(
        layer.id for layer in demo.snapshot.current.tree if "prune-weights" in layer.methods
    )
    demo.apply(PruneWeights(layers, 0.98), job)
    snapshot = demo.evaluate(job).snapshot
    base, now = (state.table[ACCURACY.key].total for state in (snapshot.base, snapshot.current))
    assert now.high < base.low
