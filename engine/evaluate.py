"""A data set's metric over its validation split: of one state, of two side by side, of masks."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from engine.datasets import DataSet
from engine.datasets.splits import most_together
from engine.errors import DataSetMismatch, DataSetUnreadable, EngineError, is_out_of_memory
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.metrics import ACCURACY, Quantity, Series
from engine.prefixes import PREFIX_BUDGET, Batch, Form, Prefixes, Running
from engine.scoring import (
    Judge,
    evidence_of_difference,
    first_result,
    is_share,
    judge_of,
    mcnemar,
    share_of,
)
from engine.state import Comparison

BATCH = 64
_ORDER_SEED = 0
_READING = 1e8  # multiply-accumulates that reading a sample is worth
LEAST_SAMPLES = 512
"""That a comparison rests on, however soon it is clear: below, an accuracy says little."""
CERTAIN = 20.0
"""Evidence at which a difference counts as real: without any, one run in as many gets there."""

Places = tuple[int, ...]
"""Of samples that are read together."""


def evaluate(model: nn.Module, data: DataSet, job: Job) -> Series:
    """The data set's metric of one model, with nothing kept; see :meth:`Evaluator.evaluate`."""
    return Evaluator(data, budget=0).evaluate(model, job)


class Evaluator:
    """Judges states of a model by one data set, each from where it differs from those before.

    Samples are taken in a fixed random order where the metric is a share of them, so that any part
    of a run stands for the whole, however the data are sorted.

    Attributes:
        data: what is judged by.
    """

    def __init__(self, data: DataSet, budget: int = PREFIX_BUDGET) -> None:
        """Start with nothing known.

        Args:
            budget: bytes of samples and activations that are kept from run to run; 0: none.
        """
        self.data = data
        self._prefixes = Prefixes(budget)
        self._right = WeakKeyDictionary[nn.Module, dict[Places, Tensor]]()
        self._figures = WeakKeyDictionary[nn.Module, Quantity]()

    def evaluate(self, model: nn.Module, job: Job) -> Series:
        """The metric, as accuracy: a share, of which more is better.

        Samples that cannot be read are left out if the data set says so; ``conditions`` tell over
        how many the figure is, and how many were skipped. ``job.partial`` is the quantity so far.

        Raises:
            DataSetMismatch: the model does not take these samples, or does not give what the
                metric needs for each of these classes.
            DataSetUnreadable: a sample is broken, or all are; the user's own metric raised.
            Cancelled: between two batches.
        """
        data, judge = self.data, judge_of(self.data)
        total, seen = len(data.validation), 0
        job.begin(f"Evaluating on {data.name}", total)
        with self._running(model, total) as run:
            for chunk in self._chunks(total, job):
                self._judged(run, model, chunk, judge)
                seen += chunk.samples
                if seen:
                    job.partial = judge.sketch()
                chunk.end(job)
        self._put_broken_in_order()
        skipped = total - seen
        self._check_any(seen, skipped)
        self._figures[model] = judge.quantity()
        conditions = {
            "metric": data.metric,
            "data": f"{data.name}, validation split",
            "samples": str(seen),
            **({"skipped": str(skipped)} if skipped else {}),
            **judge.conditions(),
        }
        return Series(ACCURACY, self._figures[model], conditions=conditions)

    def compare(
        self, base: nn.Module, edited: nn.Module, job: Job, samples: int | None = None
    ) -> Comparison:
        """Accuracy of an edited model beside that of the base, on the same samples.

        It ends before all samples are taken once the difference is certain enough (see
        :func:`engine.scoring.evidence_of_difference`). ``job.partial`` is the comparison so far.

        Args:
            samples: the most to take; None: all.

        Raises:
            As :meth:`evaluate`.
        """
        data, total = self.data, self._most(samples)
        pair = _Pair(self._figures.get(base) if samples is None else None, data, total)
        job.begin(f"Comparing on {data.name}", total)
        with ExitStack() as runs:
            run = runs.enter_context(self._running(edited, total, lasting=False))
            other: Running | None = None
            for chunk in self._chunks(total, job):
                if pair.needs_base and chunk.places not in self._right.get(base, {}):
                    other = other or runs.enter_context(self._running(base, total))
                    self._judged(other, base, chunk, pair.base)
                self._judged(run, edited, chunk, pair.edited)
                rights = [self._right.get(one, {}).get(chunk.places) for one in (base, edited)]
                pair.add(chunk.samples, *rights)
                if pair.samples:
                    job.partial = pair.so_far()
                chunk.end(job)
                if pair.is_settled:
                    break
        self._put_broken_in_order()
        self._check_any(pair.samples, total)
        return pair.final()

    def difference(self, base: nn.Module, edited: nn.Module) -> tuple[int, int] | None:
        """Samples that only the base has right, and only the edited model; None if not known."""
        first, second = self._right.get(base, {}), self._right.get(edited, {})
        if not first or first.keys() != second.keys():
            return None
        counts = [_lost_and_gained(first[one], second[one]) for one in first]
        return sum(lost for lost, _ in counts), sum(gained for _, gained in counts)

    def masked(
        self,
        model: nn.Module,
        layer: LayerId,
        candidates: Sequence[Sequence[int]],
        job: Job,
        axis: int = 1,
        samples: int | None = None,
    ) -> tuple[Quantity, ...]:
        """Accuracy with each of these sets of a layer's channels at zero, as if they were removed.

        The layer, and all before it, is computed once for all sets. To stand for a removal it must
        be the last before another product: the batch norm or activation behind a convolution.

        Args:
            candidates: indices of channels.
            axis: of the layer's output, that of channels.
            samples: the most to take; None: all.

        Raises:
            InvalidSelection: the layer puts out no single tensor.
            As :meth:`evaluate`.
        """
        total, seen = self._most(samples), 0
        judges = [judge_of(self.data) for _ in candidates]
        job.begin(f"Trying masks on {layer}", total)
        with self._running(model, total) as run:

            def outputs(batch: Batch) -> list[Any]:
                return list(run.masked(batch, layer, candidates, axis))

            for chunk in self._chunks(total, job):
                for batch, targets in chunk.batches:
                    found = self._outputs(outputs, batch)
                    for judge, output in zip(judges, found, strict=True):
                        judge.update(output, targets)
                seen += chunk.samples
                chunk.end(job)
        self._check_any(seen, total)
        return tuple(judge.quantity() for judge in judges)

    # -- samples

    def _most(self, samples: int | None) -> int:
        total = len(self.data.validation)
        return total if samples is None else min(total, max(samples, 1))

    @cached_property
    def _order(self) -> list[int]:
        """Places of the samples as they are taken; sorted ones would make the first ones alike."""
        places = list(range(len(self.data.validation)))
        if is_share(self.data):
            random.Random(_ORDER_SEED).shuffle(places)
        return places

    @cached_property
    def _example(self) -> Tensor | None:
        """The first sample that can be read, with the batch axis."""
        for at in self._order:
            found = self.data.validation.sample(at)
            if not isinstance(found, str):
                return found[0].unsqueeze(0)
        return None

    def _chunks(self, total: int, job: Job) -> Iterator["_Chunk"]:
        size = BATCH if self._example is None else min(BATCH, most_together(self._example))
        for at in range(0, total, size):
            # Sorted: files that lie together are read together.
            yield self._chunk(tuple(sorted(self._order[at : min(at + size, total)])), job)

    def _chunk(self, places: Places, job: Job) -> "_Chunk":
        known = self._prefixes.store.get(places, "targets")
        held = None if known else self._read(places, job)
        forms = known or [(Form.of(inputs), targets) for inputs, targets in held or ()]
        return _Chunk(
            places,
            [
                (Batch((places, at), form, self._loader(places, at, held, job)), targets)
                for at, (form, targets) in enumerate(forms)
            ],
        )

    def _loader(
        self, places: Places, at: int, held: list[tuple[Tensor, Tensor]] | None, job: Job
    ) -> Callable[[], Tensor]:
        def load() -> Tensor:
            kept: list[Tensor] | None = self._prefixes.store.get(places, "inputs")
            if kept is not None:
                return kept[at]
            return (self._read(places, job) if held is None else held)[at][0]

        return load

    def _read(self, places: Places, job: Job) -> list[tuple[Tensor, Tensor]]:
        """Samples from where they are stored; kept where there is room."""
        samples = self.data.validation.at(places)
        read = list(samples.batches(BATCH, _Asked(job)))
        inputs, targets = [one for one, _ in read], [(Form.of(one), to) for one, to in read]
        worth, store = _READING * len(places), self._prefixes.store
        size = sum(to.nbytes for _, to in targets)
        store.put(places, "targets", targets, size, worth)
        size = sum(one.nbytes for one in inputs)
        store.put(places, "inputs", inputs, size, worth)
        return read

    def _put_broken_in_order(self) -> None:
        """Tell samples that cannot be read in their stored order, not in that they were met in."""
        samples = self.data.validation
        if samples.broken:
            names = map(samples.name, range(len(samples)))
            told = {one: samples.broken.pop(one) for one in names if one in samples.broken}
            samples.broken.update(told)

    def _check_any(self, seen: int, skipped: int) -> None:
        if not seen:
            raise DataSetUnreadable(
                f"None of the {skipped:,} samples of {self.data.name} can be read."
            )

    # -- runs

    def _running(
        self, model: nn.Module, total: int, lasting: bool = True
    ) -> AbstractContextManager[Running]:
        example = self._example if self._prefixes.store.budget else None
        return self._prefixes.running(model, example, total, lasting)

    def _judged(self, run: Running, model: nn.Module, chunk: "_Chunk", judge: Judge) -> None:
        """Run a chunk, and remember which of its samples are right."""
        rights = []
        for batch, targets in chunk.batches:
            (output,) = self._outputs(lambda one: [run(one)], batch)
            right = judge.update(output, targets)
            if right is not None:
                rights.append(right)
        if rights:
            self._right.setdefault(model, {})[chunk.places] = torch.cat(rights)

    def _outputs(self, run: Callable[[Batch], list[Any]], batch: Batch) -> list[Any]:
        """What the model gives for a batch; sample by sample where it takes but one at once."""
        try:
            together = run(batch)
            if batch.count == 1 or all(_is_whole(one, batch.count) for one in together):
                return together
        except Exception as error:  # exported programs raise what they like
            if is_out_of_memory(error) or isinstance(error, EngineError | Cancelled):
                raise
            if batch.count == 1:
                words = (str(error).splitlines() or [type(error).__name__])[0]
                raise DataSetMismatch(
                    f"The model does not take the samples of {self.data.name}, "
                    f"shape {'×'.join(map(str, batch.form.shape[1:]))}: {words}"
                ) from error
        singles = [self._outputs(run, one) for one in _singles(batch)]
        return [_joined(list(parts)) for parts in zip(*singles, strict=True)]


class _Asked(Job):
    """Lets a reader ask whether to stop, without telling progress of its own."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def check(self) -> None:
        """Ask the job itself."""
        self._job.check()


@dataclass
class _Chunk:
    """Samples that are taken in one step.

    Attributes:
        batches: what runs together, with its targets: all of one shape are one batch.
    """

    places: Places
    batches: list[tuple[Batch, Tensor]]

    @property
    def samples(self) -> int:
        """How many could be read."""
        return sum(batch.count for batch, _ in self.batches)

    def end(self, job: Job) -> None:
        """Tell that they are done."""
        job.advance(len(self.places))


class _Pair:
    """Two models on the same samples, as far as they have been run.

    Args:
        reference: the base's figure where it is known and needs no run; of a share of samples it
            is counted anew, sample by sample.
    """

    def __init__(self, reference: Quantity | None, data: DataSet, total: int) -> None:
        self.base, self.edited = judge_of(data), judge_of(data)
        self.samples = self.lost = self.gained = 0
        self._is_share = is_share(data)
        self._reference = None if self._is_share else reference
        self._right = 0
        self._total = total

    @property
    def needs_base(self) -> bool:
        """Whether the base is to be run."""
        return self._reference is None

    @property
    def is_settled(self) -> bool:
        """Whether the difference is certain before all samples are taken."""
        enough = LEAST_SAMPLES <= self.samples < self._total
        return enough and evidence_of_difference(self.lost, self.gained) >= CERTAIN

    def add(self, samples: int, base: Tensor | None, edited: Tensor | None) -> None:
        """Count samples, and of shares which of them are right, (N,)."""
        self.samples += samples
        if base is not None and edited is not None:
            lost, gained = _lost_and_gained(base, edited)
            self.lost, self.gained = self.lost + lost, self.gained + gained
            self._right += int(base.sum())

    def so_far(self) -> Comparison | None:
        """The comparison up to now, where it is told quickly."""
        if self._is_share:
            return self.final()
        accuracy, reference = self.edited.sketch(), self._reference or self.base.sketch()
        if accuracy is None or reference is None:
            return None
        return Comparison(accuracy, reference, None, None, None, self.samples, self._total)

    def final(self) -> Comparison:
        """The comparison over all samples that were taken."""
        if not self._is_share:
            accuracy, reference = self.edited.quantity(), self._reference or self.base.quantity()
            return Comparison(accuracy, reference, None, None, None, self.samples, self._total)
        now = self._right - self.lost + self.gained
        return Comparison(
            share_of(now, self.samples),
            share_of(self._right, self.samples),
            self.lost,
            self.gained,
            mcnemar(self.lost, self.gained),
            self.samples,
            self._total,
            self.is_settled,
        )


def _lost_and_gained(base: Tensor, edited: Tensor) -> tuple[int, int]:
    return int((base & ~edited).sum()), int((edited & ~base).sum())


def _is_whole(output: Any, count: int) -> bool:
    """Whether an output has as many samples as went in."""
    result = first_result(output)
    return not isinstance(result, Tensor) or result.shape[:1] == (count,)


def _singles(batch: Batch) -> list[Batch]:
    """The samples of a batch, each as a batch of its own."""
    form = replace(batch.form, shape=(1, *batch.form.shape[1:]))
    return [
        Batch((batch.key, at), form, lambda at=at: batch.load()[at : at + 1])  # type: ignore[misc]
        for at in range(batch.count)
    ]


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
