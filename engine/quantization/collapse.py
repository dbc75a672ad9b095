"""Whether rounding has made a model's predictions collapse, told before anybody evaluates it."""

from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from engine.datasets import DataSet
from engine.editing import Subject
from engine.job import Job
from engine.quantization.calibration import ON_DATA, batches
from engine.scoring import first_result
from engine.sharing import share_for_running
from engine.tracing import batch_of

_SAMPLES, _LEAST_SAMPLES = 64, 16
_MOST_MACS = 1 << 36
"""Of a run over the samples: of large models fewer are taken, as every edit is checked."""
_FEWEST = 8
"""Samples below which their classes tell nothing."""
_ONE_CLASS, _SPREAD = 0.9, 0.6
"""Shares of the commonest class: such of a collapsed model, and at most such of a sound one."""
_ENTROPY_CHANGE = 0.25
"""Of the entropy of a blind guess."""
_PIXELS = 256  # of a sample, at most
_NAME = f"{ON_DATA}predictions"
_REMEDY = (
    "Undo it, and take a scale for each channel, an observer that leaves outliers out, or more "
    "bits; or leave the most sensitive layers in float."
)


@dataclass(frozen=True)
class Predictions:
    """What a model makes of some training samples.

    Attributes:
        classes: int64 (samples,), or of pixels; empty where it gives no scores of classes.
        entropy: mean over them, as a share of that of a blind guess.
        finite: whether every score was a number.
        samples: how many were run.
    """

    classes: Tensor
    entropy: float
    finite: bool
    samples: int

    @property
    def commonest(self) -> tuple[int, float]:
        """The class that most get, and their share."""
        counts = self.classes.bincount()
        at = int(counts.argmax())
        return at, float(counts[at]) / len(self.classes)


def collapse(rounded: nn.Module, subject: Subject, job: Job) -> tuple[str, ...]:
    """What has become of the predictions, a sentence for each thing that is grossly wrong.

    Compared with the model before anything in it was rounded, on 64 training samples at most.
    Without data only whether the outputs are numbers can be told.

    Args:
        rounded: the model as it would be.

    Raises:
        Cancelled: between two batches.
    """
    root, data = subject.unrounded or subject, subject.data
    count = _samples(root)
    seen, before = root.memo.get(_NAME, (None, None))
    if before is None or seen is not data:
        before = _predictions(root.model, root, data, count, "Running the float model", job)
        root.memo[_NAME] = data, before
    after = _predictions(rounded, root, data, count, "Running the rounded model", job)
    return judged(before, after, () if data is None else data.classes)


def judged(before: Predictions, after: Predictions, classes: tuple[str, ...]) -> tuple[str, ...]:
    """What has become of predictions, in sentences.

    Args:
        classes: their names; empty when nothing names them.
    """
    if not after.finite:
        return (f"The outputs are no longer finite numbers. {_REMEDY}",) if before.finite else ()
    if not before.finite or before.samples < _FEWEST or not len(before.classes):
        return ()
    found = []
    (_, sound), (place, share) = before.commonest, after.commonest
    if share >= _ONE_CLASS and sound <= _SPREAD:
        name = f"“{classes[place]}”" if place < len(classes) else str(place)
        found.append(
            f"The predictions collapse: {share:.0%} of {after.samples} training samples get the "
            f"class {name}, and {sound:.0%} got their commonest before. {_REMEDY}"
        )
    change = after.entropy - before.entropy
    if abs(change) >= _ENTROPY_CHANGE:
        how = "rises" if change > 0 else "falls"
        means = "the model hardly decides any more" if change > 0 else "the scores blow up"
        found.append(
            f"The entropy of predictions on {after.samples} training samples {how} from "
            f"{before.entropy:.0%} to {after.entropy:.0%} of a blind guess's: {means}. {_REMEDY}"
        )
    return tuple(found)


def _samples(root: Subject) -> int:
    macs = sum(root.trace.operators.macs().values()) / batch_of(root.inputs)
    return int(min(_SAMPLES, max(_LEAST_SAMPLES, _MOST_MACS // max(macs, 1))))


def _predictions(
    model: nn.Module, root: Subject, data: DataSet | None, count: int, text: str, job: Job
) -> Predictions:
    copy = share_for_running(model)
    with torch.inference_mode():
        parts = [
            _predicted(copy(*batch), batch_of(batch))
            for batch in batches(root, data, count, text, job)
        ]
    classes = [one.classes for one in parts]
    numbers = sum(map(len, classes))
    return Predictions(
        torch.cat(classes) if classes else torch.empty(0, dtype=torch.int64),
        sum(one.entropy * len(one.classes) for one in parts) / max(numbers, 1),
        all(one.finite for one in parts),
        sum(one.samples for one in parts),
    )


def _predicted(outputs: Any, samples: int) -> Predictions:
    scores = first_result(outputs)
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        return Predictions(torch.empty(0, dtype=torch.int64), 0.0, True, samples)
    finite = bool(torch.isfinite(scores).all())
    if not finite or scores.dim() not in (2, 4) or scores.shape[1] < 2:
        return Predictions(torch.empty(0, dtype=torch.int64), 0.0, finite, samples)
    every = max(1, scores[:1, :1].numel() // _PIXELS)
    rows = (
        scores.flatten(2)[..., ::every].movedim(1, -1).flatten(0, -2)
        if scores.dim() > 2
        else scores
    )
    chances = rows.double().log_softmax(1)
    entropies = -(chances.exp() * chances).sum(1) / log(rows.shape[1])
    return Predictions(rows.argmax(1), float(entropies.mean()), finite, samples)
