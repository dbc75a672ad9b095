"""Metrics: counted by hand, confirmed by torchmetrics, with an interval that scipy confirms."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor, nn

from engine.datasets import DataSet, LazySplit, Split, digits
from engine.edits import PruneWeights
from engine.errors import ConsentNeeded, DataSetMismatch, DataSetNotFound, DataSetUnreadable
from engine.evaluate import BATCH, evaluate
from engine.job import Cancelled, Job
from engine.metrics import ACCURACY, Provenance, Series
from engine.requests import DataRequest
from engine.scoring import wilson_interval
from engine.session import ModelSession
from engine.state import Part


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
    found = evaluate(nn.Identity(), toy(images, [0, 1, 0, 0, 2]), Job())
    assert found.metric is ACCURACY
    assert found.metric.provenance is Provenance.MEASURED
    assert found.total.value == 3 / 5
    assert (found.total.low, found.total.high) == wilson_interval(3, 5)
    assert dict(found.layers) == {}
    assert found.conditions == {
        "metric": "top-1",
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
    found = evaluate(nn.Identity(), toy(images, labels.tolist()), Job())
    right = sum(
        max(range(3), key=row.__getitem__) == label
        for row, label in zip(images.tolist(), labels.tolist(), strict=True)
    )
    assert found.conditions["correct"] == str(right)
    assert found.total.value == right / count


def test_outputs_that_are_not_numbers_are_wrong_or_right_but_never_an_error() -> None:
    images = scores([float("nan"), 0, 0], [0, 1, 0])
    found = evaluate(nn.Identity(), toy(images, [1, 1]), Job())
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
    found = evaluate(model, toy(scores([1, 0, 0], [0, 1, 0]), [0, 1]), Job())
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
        (nn.Linear(3, 4), "toy has 3 classes, and the model gives 4 scores."),
        (nn.Unflatten(1, (3, 1)), "toy has 3 classes"),
        (nn.Linear(3, 3).double(), "The model does not take the samples of toy"),
    ],
)
def test_models_that_do_not_fit_are_told_so(model: nn.Module, words: str) -> None:
    data = toy(scores([1, 0, 0], [0, 1, 0]), [0, 1])
    with pytest.raises(DataSetMismatch) as caught:
        evaluate(model, data, Job())
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


class Gives(nn.Module):
    """Its input, dressed up by a function."""

    def __init__(self, dress: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.dress = dress

    def forward(self, x: Tensor) -> Any:
        return self.dress(x)


RIGHT = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "dress",
    [
        lambda x: {"aux": -x, "out": x},
        lambda x: {"logits": x, "loss": x.sum()},
        lambda x: {"scores": x},
        lambda x: (x, -x),
        lambda x: [x],
    ],
)
def test_of_several_results_the_main_one_counts(dress: Callable[[Tensor], Any]) -> None:
    found = evaluate(Gives(dress), toy(scores(*RIGHT), [0, 1, 2]), Job())
    assert found.total.value == 1


@pytest.mark.parametrize(
    "dress",
    [lambda x: {}, lambda x: (), lambda x: "text", lambda x: x.sum(), lambda x: [{"boxes": x}]],
)
def test_results_without_scores_are_told_so(dress: Callable[[Tensor], Any]) -> None:
    with pytest.raises(DataSetMismatch, match="does not give one score for each to every sample"):
        evaluate(Gives(dress), toy(scores(*RIGHT), [0, 1, 2]), Job())


def one_at_a_time(x: Tensor) -> Tensor:
    if len(x) > 1:
        raise AssertionError("Guard failed: x.size()[0] == 1")
    return x


@pytest.mark.parametrize(
    "dress",
    [
        one_at_a_time,
        lambda x: x.reshape(1, -1)[:, :3] if len(x) > 1 else x,
        lambda x: {"out": one_at_a_time(x)},
        lambda x: (one_at_a_time(x), x),
    ],
)
def test_models_that_take_one_sample_at_once_are_given_so(dress: Callable[[Tensor], Any]) -> None:
    images = scores(*RIGHT, [1, 0, 0])
    found = evaluate(Gives(dress), toy(images, [0, 1, 2, 1]), Job())
    assert found.total.value == 3 / 4


@pytest.mark.parametrize("label", [3, -1])
def test_labels_that_no_score_stands_for_are_told(label: int) -> None:
    data = dataclasses.replace(toy(scores(*RIGHT), [0, 1, label]), classes=())
    with pytest.raises(DataSetMismatch) as caught:
        evaluate(nn.Identity(), data, Job())
    assert str(caught.value) == (
        f"toy has the label {label}, and the model gives 3 scores, which are counted from 0."
    )


def test_data_may_leave_the_number_of_classes_to_the_model() -> None:
    data = dataclasses.replace(toy(scores(*RIGHT), [0, 0, 2]), classes=())
    assert evaluate(nn.Identity(), data, Job()).total.value == 2 / 3


def test_numbers_of_classes_are_told_in_words() -> None:
    with pytest.raises(
        DataSetMismatch, match=r"^toy has 3 classes, and the model gives 1,000 scores"
    ):
        evaluate(nn.Linear(3, 1000), toy(scores(*RIGHT), [0, 1, 2]), Job())


# Top-5


@given(st.integers(1, 40), st.integers(6, 9), st.integers(0, 2**31))
def test_top_5_counted_by_hand(count: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, classes, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator).tolist()
    data = dataclasses.replace(toy(images, labels, classes), metric="top-5")
    found = evaluate(nn.Identity(), data, Job())
    right = sum(
        label in sorted(range(classes), key=row.__getitem__)[-5:]
        for row, label in zip(images.tolist(), labels, strict=True)
    )
    assert found.total.value == right / count
    assert (found.total.low, found.total.high) == wilson_interval(right, count)
    assert (found.conditions["metric"], found.conditions["correct"]) == ("top-5", str(right))


def test_top_5_of_five_classes_says_nothing() -> None:
    data = dataclasses.replace(toy(torch.rand(2, 5), [0, 1], 5), metric="top-5")
    with pytest.raises(DataSetMismatch, match="5 scores"):
        evaluate(nn.Identity(), data, Job())


# Mean IoU


def pixels(images: Tensor, labels: Tensor) -> DataSet:
    """Scores of shape (N, K, H, W), a label for each pixel."""
    split = Split(images, labels)
    names = tuple("abcdefghij"[: images.shape[1]])
    return DataSet("street", names, split, split, "a toy", "mean IoU", pixelwise=True)


def test_mean_iou_by_hand() -> None:
    """Class 0: one pixel of two that either names; class 1: two of three; class 2: nowhere."""
    found = torch.tensor([[[0, 1], [1, 1]]])
    labels = torch.tensor([[[0, 1], [1, 0]]])
    labels = torch.cat([labels, torch.full((1, 2, 2), 255)])
    images = nn.functional.one_hot(torch.cat([found, found]), 3).movedim(-1, 1).float()
    series = evaluate(nn.Identity(), pixels(images, labels), Job())
    assert series.total.value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert series.conditions == {
        "metric": "mean IoU",
        "data": "street, validation split",
        "samples": "2",
        "interval": "95 %, bootstrap over samples",
    }


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**31))
def test_mean_iou_is_that_of_torchmetrics(count: int, classes: int, seed: int) -> None:
    from torchmetrics.classification import MulticlassJaccardIndex

    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, classes, 3, 4, generator=generator)
    labels = torch.randint(0, classes, (count, 3, 4), generator=generator)
    labels[torch.rand(count, 3, 4, generator=generator) < 0.2] = 255
    labels[0, 0, 0] = 0
    oracle = MulticlassJaccardIndex(classes, ignore_index=255)
    oracle.update(images, labels)
    found = evaluate(Gives(lambda x: {"out": x}), pixels(images, labels), Job()).total
    assert found.value == pytest.approx(float(oracle.compute()), abs=1e-6)
    if count == 1:
        assert (found.low, found.high) == (None, None)
    else:
        assert found.low <= found.value <= found.high


def test_without_a_pixel_that_counts_there_is_no_mean_iou() -> None:
    data = pixels(torch.rand(2, 3, 4, 4), torch.full((2, 4, 4), 255))
    with pytest.raises(DataSetMismatch, match="No pixel of street has a label that counts"):
        evaluate(nn.Identity(), data, Job())


def test_more_classes_than_a_label_leaves_room_for_are_refused() -> None:
    """The label of pixels that do not count would be a class."""
    data = pixels(torch.rand(1, 256, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    data = dataclasses.replace(data, classes=tuple(map(str, range(256))))
    with pytest.raises(DataSetMismatch, match="256 classes"):
        evaluate(nn.Identity(), data, Job())


def test_scores_that_are_whole_numbers_count_as_any() -> None:
    scores = torch.tensor([[1, 9, 0], [7, 3, 2]])
    found = evaluate(Gives(lambda x: x.to(torch.int8)), toy(scores.float(), [1, 1], 3), Job())
    assert found.total.value == 0.5


def test_the_interval_of_mean_iou_narrows_with_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (80, 2, 2), generator=generator)
    images = torch.rand(80, 2, 2, 2, generator=generator)
    few, many = (
        evaluate(nn.Identity(), pixels(images[:n], labels[:n]), Job()).total for n in (10, 80)
    )
    assert 0 < many.high - many.low < few.high - few.low


def test_outputs_of_another_size_than_the_labels_are_told() -> None:
    with pytest.raises(DataSetMismatch, match="one score for each to every pixel"):
        evaluate(
            nn.AvgPool2d(2), pixels(torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4).long()), Job()
        )


# The user's own


def own(judge: Callable[[], Any]) -> DataSet:
    return dataclasses.replace(toy(torch.rand(150, 3), [0] * 150), metric="mine.py:m", judge=judge)


def test_values_of_a_function_are_averaged_over_samples() -> None:
    found = evaluate(nn.Identity(), own(lambda: lambda outputs, targets: len(targets) / 100), Job())
    assert found.total.value == pytest.approx((64 * 0.64 * 2 + 22 * 0.22) / 150)
    assert (found.total.low, found.conditions["interval"]) == (None, "none")
    assert found.conditions["metric"] == "mine.py:m"


def test_an_object_gathers_and_computes_afresh_each_time() -> None:
    from torchmetrics.classification import MulticlassAccuracy

    data = own(lambda: MulticlassAccuracy(3, average="micro"))
    wanted = evaluate(nn.Identity(), dataclasses.replace(data, metric="top-1", judge=None), Job())
    for _ in range(2):
        found = evaluate(nn.Identity(), data, Job())
        assert found.total.value == pytest.approx(wanted.total.value)


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (lambda: lambda outputs, targets: "good", "mine.py:m gave a str, no number."),
        (lambda: lambda outputs, targets: outputs, "mine.py:m gave a Tensor, no number."),
        (lambda: lambda outputs, targets: 7.5, "mine.py:m gave 7.5."),
        (lambda: lambda outputs, targets: float("nan"), "mine.py:m gave nan."),
        (lambda: lambda outputs: 1, "mine.py:m raised TypeError: "),
        (lambda: 3, "mine.py:m made a int, which is no metric."),
        (lambda: 1 / 0, "mine.py:m raised ZeroDivisionError: division by zero."),
    ],
)
def test_metrics_that_give_no_share_are_told_so(judge: Callable[[], Any], words: str) -> None:
    with pytest.raises(DataSetUnreadable) as caught:
        evaluate(nn.Identity(), own(judge), Job())
    assert str(caught.value).startswith(words)


METRICS = """
class Mine:
    def __init__(self, part=1.0):
        self.part, self.seen = part, 0
    def update(self, outputs, targets):
        self.seen += len(targets)
    def compute(self):
        return self.part * self.seen / 450
def half(outputs, targets):
    return 0.5
"""


@pytest.mark.parametrize(
    ("name", "wanted"), [("half", 0.5), ("Mine", 1.0), ("Mine(part=0.25)", 0.25)]
)
def test_metrics_of_a_file_run_after_consent(
    name: str, wanted: float, tmp_path: Path, demo: ModelSession, job: Job
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"{METRICS}# {tmp_path}")
    request = DataRequest("digits", metric=f"{path}:{name}")
    with pytest.raises(ConsentNeeded) as caught:
        demo.load_data(request, job)
    trusted = frozenset({caught.value.details["digest"]})
    data = demo.load_data(dataclasses.replace(request, trusted=trusted), job).snapshot.data
    assert data is not None
    assert data.metric == f"{path}:{name}"
    for _ in range(2):
        assert demo.evaluate(job).snapshot.current.table[ACCURACY.key].total.value == wanted


def test_a_metric_that_is_not_there_is_told_in_words_of_data(
    tmp_path: Path, demo: ModelSession, job: Job
) -> None:
    with pytest.raises(DataSetNotFound, match="does not exist"):
        demo.load_data(DataRequest("digits", metric=f"{tmp_path}/none.py:score"), job)


# Skipped samples


def skipping(broken: Callable[[int], bool]) -> DataSet:
    """Twenty samples, their own scores; some cannot be read."""

    class Source:
        def __len__(self) -> int:
            return 20

        def name(self, at: int) -> str:
            return f"{at}.png"

        def read(self, at: int) -> tuple[Tensor, Tensor]:
            if broken(at):
                raise OSError("gone")
            return torch.eye(3)[at % 3], torch.tensor(at % 3)

    split = LazySplit(Source(), lambda sample, target: (sample, target), True, range(20))
    return DataSet("toy", tuple("abc"), split, split, "a toy")


def test_the_metric_says_over_how_many_samples_it_is(
    session_of: Callable[..., ModelSession],
) -> None:
    session, job = session_of(nn.Linear(3, 3), 1, 3), Job()
    session._data = skipping(lambda at: at % 5 == 0)
    change = session.evaluate(job)
    conditions = change.snapshot.current.table[ACCURACY.key].conditions
    assert (conditions["samples"], conditions["skipped"]) == ("16", "4")
    assert conditions["weights"] == "random"
    assert job.fraction == 1
    assert change.snapshot.data is not None
    assert change.snapshot.data.broken == tuple(f"{at}.png: gone" for at in (0, 5, 10, 15))
    assert Part.DATA in change.parts


def test_when_every_sample_is_broken_there_is_no_figure() -> None:
    with pytest.raises(DataSetUnreadable, match="None of the 20 samples of toy can be read"):
        evaluate(nn.Identity(), skipping(lambda at: True), Job())


def test_accuracy_of_trained_weights_has_no_warning(demo: ModelSession, job: Job) -> None:
    found = demo.evaluate(job).snapshot.current.table[ACCURACY.key]
    assert "weights" not in found.conditions


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
        evaluate(model, toy(images, [0] * len(images)), job)
    assert Calls.seen == [BATCH, BATCH]


def test_progress_is_told_in_samples() -> None:
    Calls.seen, job, seen = [], Job(), []
    images = torch.rand(2 * BATCH + 6, 3)
    model = Calls(lambda _: seen.append((job.done, job.total)))
    evaluate(model, toy(images, [0] * len(images)), job)
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
