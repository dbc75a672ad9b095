"""Samples held out of the training split, by which the best epoch is chosen."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from engine.datasets import DataSet, Samples
from engine.edits import FineTune
from engine.errors import DataSetUnreadable, EditRefused
from engine.metrics import Quantity
from engine.scoring import judge_of

SHARE, MOST = 0.1, 2_000
"""Of the training samples, and at most so many."""

_REMEMBERED = 1 << 29  # bytes of samples that are read from their files but once


def parted(data: DataSet, edit: FineTune) -> tuple[Samples, Samples]:
    """The training split as (what is trained on, what is held out), drawn by the edit's seed.

    Raises:
        EditRefused: there are too few samples.
    """
    chosen = data.training.spread(edit.samples) if edit.samples else data.training
    count = len(chosen)
    if count < 2:
        raise EditRefused(
            f"The training split of {data.name} has too few samples: {count}.",
            "Two are the least: one to train on, one to choose the best epoch by.",
        )
    chosen = chosen.remembering(_REMEMBERED)
    generator = torch.Generator().manual_seed(edit.seed % 2**63)
    order = torch.randperm(count, generator=generator)
    least = min(max(1, round(SHARE * count)), MOST)
    held, rest = (chosen.at(sorted(part.tolist())) for part in (order[:least], order[least:]))
    return rest, held


class Judging:
    """One pass over the samples held out.

    Attributes:
        done: batches so far.
    """

    def __init__(self, data: DataSet, samples: Samples, size: int) -> None:
        self.done = 0
        self._data = data
        self._judge = judge_of(data)
        self._batches = samples.batches(size)
        self._loss = 0.0
        self._seen = 0

    def advance(self, run: Callable[[Tensor, Tensor], tuple[Any, float]]) -> bool:
        """Judge the next batch; whether there was one.

        Args:
            run: from inputs and targets to outputs and mean loss.
        """
        batch = next(self._batches, None)
        if batch is None:
            return False
        outputs, loss = run(*batch)
        self._judge.update(outputs, batch[1])
        self._loss += loss * len(batch[1])
        self._seen += len(batch[1])
        self.done += 1
        return True

    def found(self) -> tuple[Quantity, float | None]:
        """The metric, and the mean loss; None when that is no finite number.

        Raises:
            DataSetUnreadable: no sample could be read.
        """
        if not self._seen:
            raise DataSetUnreadable(
                f"None of the samples of {self._data.name} that were held out can be read."
            )
        loss = self._loss / self._seen
        return self._judge.quantity(), loss if isfinite(loss) else None
