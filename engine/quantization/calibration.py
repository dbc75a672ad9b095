"""What values the layers read on training samples; one pass serves every pending edit.

Ranges are those of the model before any of its layers was rounded or cast, so that what is decided
for a layer does not depend on what was quantized before it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.datasets import DataSet
from engine.editing import Subject
from engine.errors import DataSetMismatch, EngineError, is_out_of_memory
from engine.integer_layers import QUANTIZED, is_quantized
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.quantization.histograms import Histogram
from engine.quantization.observed import Calibration, Point, Ranges
from engine.quantization.operators import explicit_subject, watch_own_operators
from engine.sharing import share_for_running
from engine.tracing import batch_of

_MOST_TOGETHER = 64
_MOST_VALUES = 1 << 23  # of one activation: 32 MiB of float32
ON_DATA = "on data: "
"""Of the names of analyses that :func:`forget` drops."""
_NAME = f"{ON_DATA}calibration"


def calibration(subject: Subject, samples: int, job: Job) -> Calibration:
    """Ranges over so many training samples, spread evenly, or over the seeded noise input.

    Remembered for the data set last calibrated on, with the state from which the model has only
    been rounded since.

    Raises:
        Cancelled: between two batches; nothing is remembered then.
    """
    root = subject.unrounded or subject
    seen, count, known = root.memo.get(_NAME, (None, 0, None))
    if known is None or seen is not subject.data or count != samples:
        known = _calibrated(explicit_subject(root), subject, samples, job)
        root.memo[_NAME] = subject.data, samples, known
    assert isinstance(known, Calibration)
    return known


def forget(subject: Subject) -> None:
    """Drop what is remembered, as other data are chosen."""
    for one in (subject, subject.unrounded or subject):
        for name in [name for name in one.memo if name.startswith(ON_DATA)]:
            del one.memo[name]


def _calibrated(root: Subject, subject: Subject, samples: int, job: Job) -> Calibration:
    copy = share_for_running(root.model)
    watches = _watched(root, copy)
    data = subject.data
    with torch.inference_mode():
        for batch in batches(root, data, samples, "Calibrating", job):
            copy(*batch)
    points = {point: watch.ranges() for point, watch in watches.items() if watch.seen}
    return Calibration(points, 0 if data is None else min(samples, len(data.training)))


def _watched(root: Subject, copy: nn.Module) -> dict[Point, "_Watch"]:
    """Watches on every point of ``copy``, a running copy of the state's model."""
    watches: dict[Point, _Watch] = {}
    for name, module in copy.named_modules():
        if type(module) in QUANTIZED or is_quantized(module):
            watch = watches[LayerId(name), 0] = _Watch(module)
            module.register_forward_pre_hook(watch.reads, with_kwargs=True)

    def see(layer: LayerId, operand: int) -> Callable[[Tensor], None]:
        return watches.setdefault((layer, operand), _Watch()).see

    watch_own_operators(root, copy, see)
    return watches


def batches(
    root: Subject, data: DataSet | None, samples: int, text: str, job: Job
) -> Iterator[tuple[Any, ...]]:
    """Arguments of the model, batch by batch: spread training samples, or the noise input.

    Raises:
        DataSetMismatch: the model does not take the samples.
    """
    if data is None:
        yield from job.track([root.inputs], text)
        return
    chosen, together = data.training.spread(samples), _together(root, data, job)
    job.begin(text, len(chosen))
    for batch, _ in chosen.batches(together, job):
        yield (batch,)
        job.advance(len(batch))


def _together(root: Subject, data: DataSet, job: Job) -> int:
    """How many samples to run at once: so few that memory does not grow with the activations, and
    one where the model takes but one. Remembered with the state for the data.
    """
    name = f"{ON_DATA}together"
    seen, count = root.memo.get(name, (None, 0))
    if seen is not data:
        operators, batch = root.trace.operators, batch_of(root.inputs)
        largest = max((use.elements for one in operators for use in one.outputs), default=1)
        count = max(1, min(_MOST_TOGETHER, _MOST_VALUES * batch // max(largest, 1)))
        if not _takes(root, data, min(count, 2), job):
            count = 1
        root.memo[name] = data, count
    return int(count)


def _takes(root: Subject, data: DataSet, count: int, job: Job) -> bool:
    """Whether the model runs on so many samples at once.

    Raises:
        DataSetMismatch: it does not run on one.
    """
    first = next(iter(data.training.spread(count).batches(count, job)), None)
    if first is None:
        return True
    samples = first[0]
    try:
        with torch.inference_mode():
            share_for_running(root.model)(samples)
    except Exception as error:  # exported programs raise what they like
        if is_out_of_memory(error) or isinstance(error, EngineError | Cancelled):
            raise
        if len(samples) > 1:
            _takes(root, data, 1, job)
            return False
        words = (str(error).splitlines() or [type(error).__name__])[0]
        shape = "×".join(map(str, samples.shape[1:]))
        raise DataSetMismatch(
            f"The model does not take the samples of {data.name}, shape {shape}: {words}"
        ) from error
    return True


class _Watch:
    """Takes down what comes to one point.

    Args:
        module: the layer with weights that reads it, if one does.
    """

    def __init__(self, module: nn.Module | None = None) -> None:
        self._axis = None if module is None else _channel_axis(module)
        self._histogram = Histogram.empty()
        self._channels: tuple[Tensor, Tensor, Tensor] | None = None  # least, most, sum
        self._count = 0  # values of one channel

    @property
    def seen(self) -> bool:
        """Whether anything came."""
        return len(self._histogram.places) > 0

    def reads(self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Pre-forward hook of the layer."""
        self.see(inputs[0] if inputs else named.get("input"))

    def see(self, values: Any) -> None:
        """Take these down; nothing more once one of them was no number."""
        if not isinstance(values, Tensor) or not values.is_floating_point():
            return
        if not self._histogram.finite or not values.numel():
            return
        self._histogram = self._histogram.with_values(values)
        if self._axis is not None and self._histogram.finite:
            self._by_channel(values.detach().float())

    def _by_channel(self, values: Tensor) -> None:
        axis = self._axis or -1
        channels = values.shape[axis]
        # (samples, channels, places); of a linear layer every place is a sample.
        blocks = values.reshape(-1, channels, values.shape[axis + 1 :].numel() if axis < -1 else 1)
        found = (
            blocks.amin(2).amin(0),
            blocks.amax(2).amax(0),
            blocks.sum(2).sum(0, dtype=torch.double),
        )
        self._count += blocks.shape[0] * blocks.shape[2]
        if self._channels is not None:
            least, most, total = self._channels
            found = (
                torch.minimum(least, found[0]),
                torch.maximum(most, found[1]),
                total + found[2],
            )
        self._channels = found

    def ranges(self) -> Ranges:
        """All that came."""
        if self._channels is None:
            return Ranges(self._histogram)
        least, most, total = self._channels
        return Ranges(self._histogram, least, most, (total / self._count).float())


def _channel_axis(module: nn.Module) -> int:
    """Of the input of a layer with weights, from the end: the batch axis may be missing."""
    if isinstance(module, nn.Linear):
        return -1
    return -1 - len(module.kernel_size)  # type: ignore[arg-type]
