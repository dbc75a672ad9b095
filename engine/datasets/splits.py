"""The two halves of a data set: one to calibrate with, one to judge by."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.errors import DataSetUnreadable, EngineError, is_out_of_memory
from engine.job import Job
from engine.requests import Preprocessing

# The shipped demo weights were trained on the training half of exactly this split. Another seed
# would put images they have seen into the validation split, so a change calls for a retraining.
SPLIT_SEED = 20

VALIDATION_SHARE = 0.25
"""Of data that do not say themselves what they are to be judged by."""

_MOST_ELEMENTS = 1 << 23  # of one batch: 32 MiB of float32, 55 pictures of 3 × 224 × 224

Sample = tuple[Tensor, Tensor]
"""What the model takes, without the batch axis, and its target: int64 of shape () or (H, W)."""


class Samples(Protocol):
    """One half of a data set."""

    def __len__(self) -> int:
        """How many samples there are, those that cannot be read among them."""

    @property
    def broken(self) -> dict[str, str]:
        """Samples that could not be read and were skipped so far: name and reason."""

    def batches(self, size: int, job: Job | None = None) -> Iterator[Sample]:
        """Yield (inputs, targets), at most ``size`` samples at a time, in stored order.

        Args:
            job: is advanced by each sample that is skipped; asked at each sample whether to stop.

        Raises:
            ValueError: ``size`` is below 1.
            DataSetUnreadable: a sample is broken, and such ones are not to be skipped.
            DataSetMismatch: a sample does not fit the model.
        """

    def spread(self, count: int) -> "Samples":
        """At most ``count`` of the samples, evenly spread over the stored order."""

    def at(self, places: Sequence[int]) -> "Samples":
        """The samples at those places, in that order; nothing is read."""

    def remembering(self, size: int) -> "Samples":
        """The same samples, of which as many as fit into ``size`` bytes are read but once."""

    def name(self, at: int) -> str:
        """What the sample at that place is called."""

    def sample(self, at: int) -> Sample | str:
        """The sample at that place, or why it cannot be read.

        Raises:
            DataSetMismatch: it can, but does not fit the model.
        """


@dataclass(frozen=True, eq=False)
class Split:
    """Images in memory with the class of each.

    `images` is float32 of shape (N, C, H, W); `labels` is int64 of shape (N,), an index into the
    data set's classes.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    @property
    def broken(self) -> dict[str, str]:
        """None: what is in memory has been read."""
        return {}

    def batches(self, size: int, job: Job | None = None) -> Iterator[Sample]:
        """Yield (images, labels) in stored order, `size` at a time; the last may be smaller.

        The tensors are views of this split and must not be written to.

        Raises:
            ValueError: `size` is below 1.
        """
        _check_size(size)
        for batch in zip(self.images.split(size), self.labels.split(size), strict=True):
            if job is not None:
                job.check()
            yield batch

    def spread(self, count: int) -> "Split":
        """At most ``count`` of the images, evenly spread."""
        return self.at(_spread(len(self), count))

    def at(self, places: Sequence[int]) -> "Split":
        """Copies of the images at those places."""
        chosen = torch.as_tensor(places, dtype=torch.int64)
        return Split(self.images[chosen], self.labels[chosen])

    def remembering(self, size: int) -> "Split":
        """This: it is in memory."""
        return self

    def name(self, at: int) -> str:
        """Its number, from 1."""
        return f"sample {at + 1}"

    def sample(self, at: int) -> Sample:
        """The image and its label."""
        return self.images[at], self.labels[at]


class Source(Protocol):
    """Samples as they are stored: pictures, rows of tensors."""

    def __len__(self) -> int:
        """How many there are."""

    def name(self, at: int) -> str:
        """What to call a sample in words: plain text."""

    def read(self, at: int) -> tuple[Any, Any]:
        """The stored sample and its target; any exception says that it is broken."""


@dataclass(frozen=True, eq=False)
class LazySplit:
    """Samples that are read when they are asked for, and no longer kept than their batch.

    Attributes:
        prepare: from what is stored to what the model takes.
        skip: whether broken samples are left out, or stop the run.
        indices: places in ``source``.
        broken: is shared by all splits made of this one.
    """

    source: Source
    prepare: Callable[[Any, Any], Sample]
    skip: bool
    indices: Sequence[int]
    broken: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, at: int) -> str:
        """As the source calls it."""
        return self.source.name(self.indices[at])

    def spread(self, count: int) -> "LazySplit":
        """At most ``count`` of the samples, evenly spread; nothing is read."""
        return self.at(_spread(len(self), count))

    def at(self, places: Sequence[int]) -> "LazySplit":
        """The samples at those places, in that order; nothing is read."""
        return replace(self, indices=[self.indices[at] for at in places])

    def remembering(self, size: int) -> "LazySplit":
        """The same samples, kept as they are read until ``size`` bytes are full."""
        return replace(self, source=_Remembered(self.source, self.prepare, size), prepare=_as_is)

    def batches(self, size: int, job: Job | None = None) -> Iterator[Sample]:
        """Yield (inputs, targets) as :meth:`Samples.batches` says.

        A batch ends early where the next sample has another shape, or memory would grow.
        """
        _check_size(size)
        gathered: list[Sample] = []
        for sample in self._readable(job):
            if gathered and not (len(gathered) < size and _fits(sample, gathered)):
                yield _stacked(gathered)
                gathered = []
            gathered.append(sample)
        if gathered:
            yield _stacked(gathered)

    def sample(self, at: int) -> Sample | str:
        """The sample at that place, or why it cannot be read; see :meth:`Samples.sample`."""
        try:
            return self.prepare(*self.source.read(self.indices[at]))
        except EngineError:
            raise
        except Exception as error:  # whatever decoders and the user's own code raise
            if is_out_of_memory(error):
                raise
            return _reason(error)

    def _readable(self, job: Job | None) -> Iterator[Sample]:
        for at in range(len(self)):
            if job is not None:
                job.check()
            found = self.sample(at)
            if not isinstance(found, str):
                yield found
                continue
            name = self.name(at)
            if not self.skip:
                raise DataSetUnreadable(f"The sample {name} cannot be read: {found}.")
            self.broken[name] = found
            if job is not None:
                job.advance()


class _Remembered:
    """A source of samples that keeps what it has read and prepared, within a budget of bytes."""

    def __init__(self, source: Source, prepare: Callable[[Any, Any], Sample], budget: int) -> None:
        self._source = source
        self._prepare = prepare
        self._left = budget
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self._source)

    def name(self, at: int) -> str:
        return self._source.name(at)

    def read(self, at: int) -> Sample:
        if at in self._kept:
            return self._kept[at]
        sample = self._prepare(*self._source.read(at))
        size = sum(one.nbytes for one in sample)
        if size <= self._left:
            self._left -= size
            self._kept[at] = sample
        return sample


def _as_is(inputs: Any, target: Any) -> Sample:
    return inputs, target


@dataclass(frozen=True, eq=False)
class DataSet:
    """A named task: what to calibrate with, and what to judge by.

    Attributes:
        classes: their names in the order of their numbers; empty when nothing names them.
        training: calibrates, and never reports.
        validation: reports, and never calibrates.
        description: where the data come from and how they were split and prepared, in sentences.
        metric: as in :class:`engine.requests.DataRequest`, never empty.
        judge: what the user's own metric is made by; None for one of ours.
        preprocessing: how pictures became samples; None when they did not.
        pixelwise: whether every pixel has a label of its own.
    """

    name: str
    classes: tuple[str, ...]
    training: Samples
    validation: Samples
    description: str
    metric: str = "top-1"
    judge: Callable[[], Any] | None = None
    preprocessing: Preprocessing | None = None
    pixelwise: bool = False

    @property
    def broken(self) -> dict[str, str]:
        """Samples that were skipped so far: name and reason."""
        training, validation = self.training.broken, self.validation.broken
        # Halves that count from one each give the same name to two samples.
        twice = set[str]() if training is validation else training.keys() & validation.keys()
        told = {
            f"{name} (training)" if name in twice else name: why for name, why in training.items()
        }
        return told | validation


@dataclass(frozen=True)
class Stored:
    """What a kind of source found, before it is made to fit a model.

    Attributes:
        training, validation: where samples are stored, and which of them belong to that half.
        description: sentences.
    """

    name: str
    classes: tuple[str, ...]
    training: tuple[Source, Sequence[int]]
    validation: tuple[Source, Sequence[int]]
    description: str


HELD_BACK = "A quarter of the samples, drawn with a fixed seed, is held back for validation."
"""What is said of data that :func:`stratified` has split."""


def stratified(labels: Iterable[int]) -> tuple[list[int], list[int]]:
    """Places of training and of validation samples: of each class the same share, seeded.

    A class of one sample goes to validation.
    """
    by_class: dict[int, list[int]] = {}
    for at, label in enumerate(labels):
        by_class.setdefault(label, []).append(at)
    generator = random.Random(SPLIT_SEED)
    training: list[int] = []
    validation: list[int] = []
    for label in sorted(by_class):
        places = by_class[label]
        generator.shuffle(places)
        held = max(1, round(len(places) * VALIDATION_SHARE))
        validation += places[:held]
        training += places[held:]
    return sorted(training), sorted(validation)


def most_together(inputs: Tensor) -> int:
    """How many samples like this one make a batch that memory does not grow with."""
    return max(1, _MOST_ELEMENTS // max(1, inputs.numel()))


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"A batch holds at least one image, not {size}.")


def _spread(length: int, count: int) -> list[int]:
    # Evenly: the split's order says nothing, a data set's order often does.
    evenly = torch.linspace(0, length - 1, min(count, length), dtype=torch.float64)
    places: list[int] = evenly.round().int().tolist()
    return places


def _fits(sample: Sample, gathered: list[Sample]) -> bool:
    first, _ = gathered[0]
    same = all(one.shape == other.shape for one, other in zip(sample, gathered[0], strict=True))
    return same and len(gathered) < most_together(first)


def _stacked(gathered: list[Sample]) -> Sample:
    inputs, targets = zip(*gathered, strict=True)
    return torch.stack(inputs), torch.stack(targets)


def _reason(error: Exception) -> str:
    """Why a sample is broken, in half a sentence."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "its content is no picture of a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "it has too many pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return words or type(error).__name__
