"""Top-1 accuracy over a data set's validation split, with its confidence interval."""

from math import sqrt

import torch
from torch import nn

from engine.datasets import DataSet
from engine.errors import DataSetMismatch, is_out_of_memory
from engine.job import Job
from engine.metrics import ACCURACY, Quantity, Series
from engine.sharing import share_for_running

BATCH = 64
_Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


def accuracy(model: nn.Module, data: DataSet, job: Job) -> Series:
    """Share of validation samples whose largest output is their label.

    Raises:
        DataSetMismatch: the model does not take these samples, or does not give one score for
            each of these classes.
        Cancelled: between two batches.
    """
    copy = share_for_running(model)
    total = len(data.validation)
    correct = 0
    job.begin(f"Evaluating on {data.name}", total)
    with torch.inference_mode():
        for images, labels in data.validation.batches(BATCH):
            try:
                scores = copy(images)
            except (RuntimeError, ValueError, TypeError) as error:
                if is_out_of_memory(error):
                    raise
                raise DataSetMismatch(
                    f"The model does not take the samples of {data.name}, "
                    f"shape {'×'.join(map(str, data.sample_shape))}: "
                    f"{str(error).splitlines()[0]}"
                ) from error
            expected = (len(images), len(data.classes))
            if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != expected:
                raise DataSetMismatch(
                    f"{data.name} has {len(data.classes)} classes, "
                    "and the model does not give one score for each."
                )
            correct += int((scores.argmax(1) == labels).sum())
            job.advance(len(images))
    low, high = wilson_interval(correct, total)
    return Series(
        ACCURACY,
        Quantity(correct / total, low, high),
        conditions={
            "data": f"{data.name}, validation split",
            "samples": str(total),
            "correct": str(correct),
            "interval": "95 %, Wilson",
        },
    )


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a share of successes (E. B. Wilson, 1927, JASA 22:209-212)."""
    share, square = correct / total, _Z95 * _Z95
    centre = (share + square / (2 * total)) / (1 + square / total)
    spread = share * (1 - share) / total + square / (4 * total * total)
    half = _Z95 / (1 + square / total) * sqrt(spread)
    # It holds the share itself, also at 0 and 1, where sums of floats just miss it.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
