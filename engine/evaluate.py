"""A data set's metric over its validation split."""

from typing import Any

import torch
from torch import Tensor, nn

from engine.datasets import DataSet
from engine.errors import DataSetMismatch, DataSetUnreadable, is_out_of_memory
from engine.job import Job
from engine.metrics import ACCURACY, Series
from engine.scoring import first_result, judge_of
from engine.sharing import share_for_running

BATCH = 64


def evaluate(model: nn.Module, data: DataSet, job: Job) -> Series:
    """The data set's metric, as accuracy: a share, of which more is better.

    Samples that cannot be read are left out if the data set says so; ``conditions`` tell over how
    many the figure is, and how many were skipped.

    Raises:
        DataSetMismatch: the model does not take these samples, or does not give what the metric
            needs for each of these classes.
        DataSetUnreadable: a sample is broken, or all are; the user's own metric raised.
        Cancelled: between two batches.
    """
    copy = share_for_running(model)
    judge = judge_of(data)
    seen = 0
    job.begin(f"Evaluating on {data.name}", len(data.validation))
    with torch.inference_mode():
        for inputs, targets in data.validation.batches(BATCH, job):
            judge.update(_outputs(copy, inputs, data), targets)
            seen += len(targets)
            job.advance(len(targets))
    skipped = len(data.validation) - seen
    if not seen:
        raise DataSetUnreadable(f"None of the {skipped:,} samples of {data.name} can be read.")
    conditions = {
        "metric": data.metric,
        "data": f"{data.name}, validation split",
        "samples": str(seen),
        **({"skipped": str(skipped)} if skipped else {}),
        **judge.conditions(),
    }
    return Series(ACCURACY, judge.quantity(), conditions=conditions)


def _outputs(model: nn.Module, inputs: Tensor, data: DataSet) -> Any:
    """What the model gives for a batch; sample by sample where it takes but one at once."""
    try:
        together = model(inputs)
        result = first_result(together)
        whole = not isinstance(result, Tensor) or result.shape[:1] == inputs.shape[:1]
        if len(inputs) == 1 or whole:
            return together
        return _joined([model(one) for one in inputs.split(1)])
    except Exception as error:  # exported programs raise what they like
        if is_out_of_memory(error):
            raise
        if len(inputs) > 1:
            return _joined([_outputs(model, one, data) for one in inputs.split(1)])
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataSetMismatch(
            f"The model does not take the samples of {data.name}, "
            f"shape {'×'.join(map(str, inputs.shape[1:]))}: {words}"
        ) from error


def _joined(outputs: list[Any]) -> Any:
    """Results of single samples as one result of a batch."""
    first = outputs[0]
    if isinstance(first, dict):
        return {key: _joined([one[key] for one in outputs]) for key in first}
    if isinstance(first, tuple | list):
        return [_joined(list(parts)) for parts in zip(*outputs, strict=True)]
    return (
        torch.cat([torch.atleast_1d(one) for one in outputs]) if torch.is_tensor(first) else first
    )
