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
        scores = first_result(outputs)
        if not isinstance(scores, Tensor) or scores.dim() != targets.dim() + 1:
            raise DataSetMismatch(
                f"The model gives no score for each class of {data.name}, which training needs.",
                "Choose data of the model's own task.",
            )
        return cross_entropy(scores, targets, ignore_index=IGNORED if targets.dim() == 3 else -100)

    return loss
