"""Metrics over outputs and targets: torchmetrics', and the user's own.

torchmetrics is imported when the first metric is made: it takes seconds.
"""

from collections.abc import Callable
from math import exp, isfinite, lgamma, log, sqrt
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.datasets import DataSet
from engine.datasets.pictures import IGNORED
from engine.errors import DataSetMismatch, DataSetUnreadable
from engine.metrics import Quantity

_Z95 = 1.959963984540054  # the normal distribution's 97.5 % point
_RESAMPLES = 500
_TOP = {"top-1": 1, "top-5": 5}
_ADVICE = "Return a share between 0 and 1, where more is better."


class Judge(Protocol):
    """Gathers what a metric needs, batch by batch."""

    def update(self, outputs: Any, targets: Tensor) -> Tensor | None:
        """Take in one batch; which samples are right, (N,), where each is either right or wrong.

        Raises:
            DataSetMismatch: outputs and targets do not belong together.
        """

    def quantity(self) -> Quantity:
        """The metric over all batches so far, with its 95 % interval if there is one."""

    def sketch(self) -> Quantity | None:
        """The metric over all batches so far as far as it is told quickly; None if it is not."""

    def conditions(self) -> dict[str, str]:
        """What the figure holds under."""


def judge_of(data: DataSet) -> Judge:
    """A fresh judge of the data set's metric."""
    if data.judge is not None:
        return _Own(data.judge, data.metric)
    if data.metric in _TOP:
        return _TopK(_TOP[data.metric], data)
    return _MeanIoU(data)


def is_share(data: DataSet) -> bool:
    """Whether the metric counts samples, each of which is right or wrong."""
    return data.judge is None and data.metric in _TOP


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a share of successes (E. B. Wilson, 1927, JASA 22:209-212)."""
    share, square = correct / total, _Z95 * _Z95
    centre = (share + square / (2 * total)) / (1 + square / total)
    spread = share * (1 - share) / total + square / (4 * total * total)
    half = _Z95 / (1 + square / total) * sqrt(spread)
    # It holds the share itself, also at 0 and 1, where sums of floats just miss it.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def share_of(correct: int, total: int) -> Quantity:
    """A share of successes with its interval."""
    return Quantity(correct / total, *wilson_interval(correct, total))


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided p-value of McNemar's exact test (Q. McNemar, 1947, Psychometrika 12:153-157).

    How likely it is that what two models tell apart is split at least so unevenly if each of
    these samples is as likely to be lost as to be gained.
    """
    differing, fewer = lost + gained, min(lost, gained)
    ways = tail = 1  # to choose so many of them, and at most so many
    for one in range(fewer):
        ways = ways * (differing - one) // (one + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << differing))


def evidence_of_difference(lost: int, gained: int) -> float:
    """How much better a bet on a difference has done than one on none, looking at any time.

    The likelihood of the samples in their order if the share of losses among them may be anything
    (uniformly), over that if it is one half. If there is no difference it is a martingale of mean
    1, so that it ever reaches 1/α with a probability of at most α, however often one looks
    (J. Ville, 1939; H. Robbins, 1970, Ann. Math. Stat. 41:1397-1409). McNemar's p, looked at after
    every batch, would promise a difference far more often than it says.
    """
    differing = lost + gained
    likelihood = lgamma(lost + 1) + lgamma(gained + 1) - lgamma(differing + 2)
    return exp(min(700.0, likelihood + differing * log(2)))  # beyond it a float overflows


class _TopK:
    """Share of samples whose label is among the k largest scores."""

    def __init__(self, k: int, data: DataSet) -> None:
        self._k = k
        self._data = data
        self._counts: Any = None  # made when the number of scores is known
        self._correct = 0
        self._total = 0

    def update(self, outputs: Any, targets: Tensor) -> Tensor | None:
        scores = _scores(outputs, targets, self._data)
        if self._counts is None:
            self._counts = self._counter(scores.shape[1])
        # Scores of one place each: counts by sample are given over places alone.
        counted: Tensor = self._counts(scores.unsqueeze(-1), targets.unsqueeze(-1))
        right = counted[:, 0] > 0
        self._correct += int(right.sum())
        self._total += len(right)
        return right

    def quantity(self) -> Quantity:
        return share_of(self._correct, self._total)

    def sketch(self) -> Quantity | None:
        return self.quantity()

    def conditions(self) -> dict[str, str]:
        return {"correct": str(self._correct), "interval": "95 %, Wilson"}

    def _counter(self, scores: int) -> Any:
        from torchmetrics.classification import MulticlassStatScores

        if scores <= self._k:
            raise DataSetMismatch(
                f"The model gives {scores} scores, and the label is always among the largest "
                f"{self._k}.",
                "Choose top-1.",
            )
        return MulticlassStatScores(
            scores, top_k=self._k, average="micro", multidim_average="samplewise"
        )


class _MeanIoU:
    """Mean over classes of intersection over union of pixels; ignored ones are left out.

    A class that neither the labels nor the outputs have does not count. Of each sample both areas
    are kept, for an interval by resampling them.
    """

    def __init__(self, data: DataSet) -> None:
        self._data = data
        self._both: list[Tensor] = []
        self._either: list[Tensor] = []

    def update(self, outputs: Any, targets: Tensor) -> Tensor | None:
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        scores = _scores(outputs, targets, self._data)
        if scores.shape[1] > IGNORED:
            raise DataSetMismatch(
                f"The model tells {scores.shape[1]:,} classes apart, and pixels labelled {IGNORED} "
                "do not count in a mean IoU.",
                "Judge it by a Python function.",
            )
        for found, wanted in zip(scores.argmax(1), targets, strict=True):
            table = multiclass_confusion_matrix(
                found, wanted, scores.shape[1], ignore_index=IGNORED, validate_args=False
            )
            both = table.diagonal()
            self._both.append(both)
            self._either.append(table.sum(0) + table.sum(1) - both)
        return None

    def quantity(self) -> Quantity:
        found = self.sketch()
        if found is None:
            raise DataSetMismatch(f"No pixel of {self._data.name} has a label that counts.")
        value, (both, either) = found.value, self._areas()
        if len(both) < 2:
            return found
        generator = torch.Generator().manual_seed(0)
        drawn = []
        for _ in range(_RESAMPLES):
            chosen = torch.randint(len(both), (len(both),), generator=generator)
            times = torch.bincount(chosen, minlength=len(both)).double()
            drawn.append(_mean_ratio(times @ both, times @ either))
        low, high = torch.stack(drawn).nanquantile(torch.tensor([0.025, 0.975]).double()).tolist()
        return Quantity(value, min(low, value), max(high, value))

    def sketch(self) -> Quantity | None:
        both, either = self._areas()
        if not either.any():
            return None
        return Quantity(float(_mean_ratio(both.sum(0), either.sum(0))))

    def _areas(self) -> tuple[Tensor, Tensor]:
        """Of intersection and of union, (N, K)."""
        return torch.stack(self._both).double(), torch.stack(self._either).double()

    def conditions(self) -> dict[str, str]:
        several = len(self._both) > 1
        return {"interval": "95 %, bootstrap over samples" if several else "none"}


class _Own:
    """A metric of the user's: a function whose values are averaged, or an object."""

    def __init__(self, make: Callable[[], Any], name: str) -> None:
        self._name = name
        self._sum = 0.0
        self._total = 0
        self._metric = self._called(make)
        if not callable(self._metric) and not hasattr(self._metric, "update"):
            raise DataSetUnreadable(
                f"{name} made a {type(self._metric).__name__}, which is no metric.",
                "Give a function of outputs and targets, or an object with update and compute.",
            )

    def update(self, outputs: Any, targets: Tensor) -> Tensor | None:
        self._total += len(targets)
        if hasattr(self._metric, "update"):
            self._called(self._metric.update, outputs, targets)
        else:
            self._sum += self._number(self._metric, outputs, targets) * len(targets)
        return None

    def quantity(self) -> Quantity:
        if hasattr(self._metric, "update"):
            return Quantity(self._number(self._metric.compute))
        return Quantity(self._sum / self._total)

    def sketch(self) -> Quantity | None:
        # What an object gathers is asked for once, when all is there.
        return None if hasattr(self._metric, "update") else self.quantity()

    def conditions(self) -> dict[str, str]:
        return {"interval": "none"}

    def _number(self, function: Callable[..., Any], *arguments: Any) -> float:
        found = self._called(function, *arguments)
        try:
            value = float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(found).__name__
            raise DataSetUnreadable(f"{self._name} gave a {kind}, no number.", _ADVICE) from error
        if not isfinite(value) or not 0 <= value <= 1:
            raise DataSetUnreadable(f"{self._name} gave {value:g}.", _ADVICE)
        return value

    def _called(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise DataSetUnreadable(
                f"{self._name} raised {type(error).__name__}: {error}.", "Correct the metric."
            ) from error


def _scores(outputs: Any, targets: Tensor, data: DataSet) -> Tensor:
    """Outputs that give a score for each class to each sample or pixel.

    Raises:
        DataSetMismatch: they do not, or the labels are not numbers of these classes.
    """
    scores = first_result(outputs)
    unit = "pixel" if targets.dim() == 3 else "sample"
    given = scores.shape if isinstance(scores, Tensor) else ()
    if len(given) < 2 or (*given[:1], *given[2:]) != tuple(targets.shape):
        raise DataSetMismatch(
            f"{_classes(data)}, and the model does not give one score for each to every {unit}.",
            f"Choose data of the model's own task; {_given(scores)}.",
        )
    count = given[1]
    if data.classes and count != len(data.classes):
        raise DataSetMismatch(f"{_classes(data)}, and the model gives {count:,} scores.")
    counted = targets[targets != IGNORED] if targets.dim() == 3 else targets
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < count:
        wrong = int(counted.min()) if int(counted.min()) < 0 else int(counted.max())
        raise DataSetMismatch(
            f"{data.name} has the label {wrong}, and the model gives {count:,} scores, "
            "which are counted from 0."
        )
    found: Tensor = scores
    return found if found.is_floating_point() else found.float()


def first_result(outputs: Any) -> Any:
    """The main result of a model that gives several: segmentation's ``out``, the logits."""
    if isinstance(outputs, dict):
        keys = [key for key in ("out", "logits") if key in outputs] or list(outputs)
        return outputs[keys[0]] if keys else None
    if isinstance(outputs, tuple | list):
        return outputs[0] if outputs else None
    return outputs


def _classes(data: DataSet) -> str:
    return (
        f"{data.name} has {len(data.classes):,} classes"
        if data.classes
        else (f"{data.name} has numbered classes")
    )


def _given(scores: Any) -> str:
    if isinstance(scores, Tensor):
        return f"this one gives {'×'.join(map(str, scores.shape)) or 'one number'}"
    return f"this one gives a {type(scores).__name__}"


def _mean_ratio(both: Tensor, either: Tensor) -> Tensor:
    """Mean over classes that occur; (K,) areas."""
    return (both / either)[either > 0].mean()
