"""The loss that belongs to a data set's task, for what follows gradients on training samples."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.datasets import DataSet
from engine.datasets.pictures import IGNORED
from engine.errors import DataSetMismatch
from engine.scoring import first_result

Loss = Callable[[Any, Tensor], Tensor]
"""(a model's outputs, targets of the batch) -> mean loss, a scalar."""


def loss_of(data: DataSet) -> Loss:
    """Cross entropy over classes, of each sample or of each pixel with a label that counts."""

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        scores = _scores(outputs, targets, data)
        return cross_entropy(scores, targets, ignore_index=_ignored(targets))

    return loss


def sample_losses(outputs: Any, targets: Tensor, data: DataSet) -> Tensor:
    """The same loss of each sample by itself, float64 (N,); of pixels the mean over those counted.

    Raises:
        DataSetMismatch: the model gives no score for each class.
    """
    scores = _scores(outputs, targets, data).double()
    losses = cross_entropy(scores, targets, ignore_index=_ignored(targets), reduction="none")
    if losses.dim() == 1:
        return losses
    counted = (targets != IGNORED).flatten(1).sum(1)
    return losses.flatten(1).sum(1) / counted


def _scores(outputs: Any, targets: Tensor, data: DataSet) -> Tensor:
    scores = first_result(outputs)
    if not isinstance(scores, Tensor) or scores.dim() != targets.dim() + 1:
        raise DataSetMismatch(
            f"The model gives no score for each class of {data.name}, which its loss needs.",
            "Choose data of the model's own task.",
        )
    return scores


def _ignored(targets: Tensor) -> int:
    return IGNORED if targets.dim() == 3 else -100
