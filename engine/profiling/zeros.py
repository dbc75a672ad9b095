"""Zeros among the values that operators read and write, measured on data."""

import torch
from torch import Tensor, nn

from engine.datasets import DataSet
from engine.energy.zeros import OperatorKey, OperatorKeys
from engine.errors import DataSetUnreadable
from engine.job import Job
from engine.operators import Operator
from engine.tracing import watch_values

SAMPLES = 64
"""Of the training split, spread over it: shares of zeros differ little from one to the next."""

_BATCH = 16


def measure_zeros(
    model: nn.Module, data: DataSet, job: Job
) -> dict[OperatorKey, tuple[float, ...]]:
    """Share of zeros in each operator's inputs, then outputs, over some training samples.

    Raises:
        DataSetUnreadable: the split has no sample.
        ForwardFailed: the model does not run on them.
        Cancelled: between two batches.
    """
    chosen = data.training.spread(SAMPLES)
    job.begin("Measuring zeros", len(chosen))
    zeros: dict[OperatorKey, list[int]] = {}
    elements: dict[OperatorKey, list[int]] = {}
    for batch, _ in chosen.batches(_BATCH, job):
        keys = OperatorKeys()

        def seen(operator: Operator, tensors: list[Tensor], keys: OperatorKeys = keys) -> None:
            key = keys.of(operator)
            found = [one.numel() - int(torch.count_nonzero(one)) for one in tensors]
            sizes = [one.numel() for one in tensors]
            zeros[key] = _added(zeros.get(key), found)
            elements[key] = _added(elements.get(key), sizes)

        watch_values(model, (batch,), seen)
        job.advance(len(batch))
    if not elements:
        raise DataSetUnreadable(f"{data.name} has no training sample to measure zeros on.")
    return {
        key: tuple(
            none / all_ if all_ else 0.0 for none, all_ in zip(found, elements[key], strict=True)
        )
        for key, found in zeros.items()
    }


def _added(before: list[int] | None, now: list[int]) -> list[int]:
    """The sums; tensors that not every batch has are left out."""
    return now if before is None else [a + b for a, b in zip(before, now, strict=False)]
