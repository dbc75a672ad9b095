"""Training samples of a scan: drawn once, read in chunks, each chunk judged as one."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.datasets import DataSet
from engine.datasets.splits import most_together
from engine.errors import DataSetMismatch, DataSetUnreadable, EngineError, is_out_of_memory
from engine.job import Cancelled, Job
from engine.losses import sample_losses
from engine.prefixes import Batch, Form
from engine.scoring import first_result, is_share

BATCH = 64
_REMEMBERED = 1 << 29  # bytes of samples that are read from their files but once

Losses = NDArray[np.float64]
"""Of each sample, (samples,); not a number where it could not be read."""
Rights = NDArray[np.int8]
"""Of each sample: 1 right, 0 wrong, (samples,)."""
Forward = Callable[[Batch], Any]


@dataclass(frozen=True)
class Judged:
    """Losses of the samples of a chunk that could be read, and which of them are right."""

    losses: Losses
    rights: Rights


class Samples:
    """At most ``count`` training samples in an order drawn by the seed.

    Attributes:
        data: what they are of.
        rounds: how many samples the scan rests on after each round.
        example: the first that can be read, with the batch axis.
        alone: whether the model takes but one at once.

    Raises:
        DataSetUnreadable: none can be read.
    """

    def __init__(self, data: DataSet, count: int, first: int, seed: int) -> None:
        total = min(count, len(data.training))
        self._places = random.Random(seed).sample(range(len(data.training)), total)
        self._training = data.training.remembering(_REMEMBERED)
        self.data = data
        self.rounds = tuple(_rounds(total, max(1, first)))
        self.example = self._example()
        self.alone = False
        self._last: tuple[range, list[tuple[Tensor, Tensor]]] = range(0), []
        self._size = min(BATCH, most_together(self.example))

    def __len__(self) -> int:
        return len(self._places)

    def chunks(self, start: int, stop: int) -> list[range]:
        """The samples from one round's end to the next, in chunks that are judged together."""
        return [range(at, min(at + self._size, stop)) for at in range(start, stop, self._size)]

    def judged(self, forward: Forward, chunk: range, job: Job) -> Judged:
        """What a model makes of a chunk.

        Raises:
            DataSetMismatch: it gives no score for each class.
            Exception: whatever the model raises.
        """
        losses, rights = [], []
        for batch, targets in self._batches(chunk, job):
            for output, wanted in self._outputs(forward, batch, targets):
                losses.append(sample_losses(output, wanted, self.data))
                rights.append(_right(output, wanted, self.data))
        if not losses:
            return Judged(np.empty(0), np.empty(0, np.int8))
        return Judged(torch.cat(losses).numpy(), torch.cat(rights).to(torch.int8).numpy())

    def try_whether_alone(self, forward: Forward, job: Job) -> None:
        """See whether the model takes several samples at once.

        Raises:
            DataSetMismatch: it takes none.
        """
        batch, targets = next(iter(self._batches(self.chunks(0, self.rounds[0])[0], job)))
        for alone in (False, True):
            self.alone = alone
            try:
                for output, wanted in self._outputs(forward, batch, targets):
                    if len(sample_losses(output, wanted, self.data)) != len(wanted):
                        raise DataSetMismatch("It does not give a result for each sample.")
                return
            except Exception as error:  # exported programs raise what they like
                if is_out_of_memory(error) or isinstance(error, Cancelled):
                    raise
                if alone or batch.count == 1:
                    raise self._misfit(error) from error

    def _misfit(self, error: Exception) -> EngineError:
        if isinstance(error, EngineError):
            return error
        words = (str(error).splitlines() or [type(error).__name__])[0]
        return DataSetMismatch(f"The model does not take the samples of {self.data.name}: {words}")

    def _outputs(
        self, forward: Forward, batch: Batch, targets: Tensor
    ) -> Iterator[tuple[Any, Tensor]]:
        if not self.alone:
            yield forward(batch), targets
            return
        for at in range(batch.count):
            form = replace(batch.form, shape=(1, *batch.form.shape[1:]))
            one = Batch((batch.key, at), form, lambda at=at: batch.load()[at : at + 1])  # type: ignore[misc]
            yield forward(one), targets[at : at + 1]

    def _batches(self, chunk: range, job: Job) -> Iterator[tuple[Batch, Tensor]]:
        if self._last[0] != chunk:
            samples = self._training.at([self._places[at] for at in chunk])
            self._last = chunk, list(samples.batches(BATCH, job))
        for at, (inputs, targets) in enumerate(self._last[1]):
            # A clone: of edited models no one knows what they write into.
            yield Batch((chunk, at), Form.of(inputs), lambda x=inputs: x.clone()), targets  # type: ignore[misc]

    def _example(self) -> Tensor:
        for at in self._places:
            found = self._training.sample(at)
            if not isinstance(found, str):
                return found[0].unsqueeze(0)
        raise DataSetUnreadable(
            f"None of the {len(self._places):,} training samples of {self.data.name} can be read."
        )


def _rounds(total: int, first: int) -> Iterator[int]:
    """First so many, then twice as many, then four times as many each time."""
    at, times = first, 2
    while at < total:
        yield at
        at, times = at * times, 4
    yield total


def _right(output: Any, targets: Tensor, data: DataSet) -> Tensor:
    """Which samples are right, (N,), by the data set's own top-k; -1: nothing is right or wrong."""
    if not is_share(data):
        return torch.full((len(targets),), -1)
    scores: Tensor = first_result(output)
    best = scores.topk(5 if data.metric == "top-5" else 1, dim=1).indices
    return (best == targets[:, None]).any(1)
