"""Ranges of activations and weights, by torchao's observers; one pass serves all layers."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.datasets import DataSet
from engine.editing import module_at
from engine.integer_layers import integer_range
from engine.job import Job
from engine.layers import LayerId
from engine.sharing import share_for_running

BATCH = 64


@dataclass(frozen=True)
class Grid:
    """Affine int8 grid of a tensor: value = (integer - zero_point) * scale."""

    scale: float
    zero_point: int


def input_grids(
    model: nn.Module,
    layers: tuple[LayerId, ...],
    inputs: tuple[Tensor, ...],
    data: DataSet | None,
    samples: int,
    job: Job,
) -> dict[LayerId, Grid]:
    """The grid of each layer's input, from a histogram over calibration samples.

    Args:
        inputs: used when there are no data: their shape, filled with seeded noise.
        data: its training split only.

    Layers that the samples never reach, or reach with values that are not finite, are absent.
    """
    copy = share_for_running(model)
    observations = {layer: _Observing(_histogram()) for layer in layers}
    for layer, observation in observations.items():
        module_at(copy, layer).register_forward_pre_hook(observation)
    with torch.inference_mode():
        for batch in _batches(inputs, data, samples, job):
            copy(*batch)
    grids = {}
    for layer, observation in observations.items():
        if observation.seen and observation.finite:
            scale, zero_point = observation.observer.calculate_qparams()
            grids[layer] = Grid(float(scale), int(zero_point))
    return grids


class _Observing:
    """Pre-forward hook that shows a layer's input to an observer."""

    def __init__(self, observer: Any) -> None:
        self.observer = observer
        self.seen = False
        self.finite = True

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not inputs:
            return  # called by keyword: not seen, and so refused
        self.seen = True
        self.finite = self.finite and bool(torch.isfinite(inputs[0]).all())
        if self.finite:  # the observer raises or warns otherwise
            self.observer(inputs[0])


def _batches(
    inputs: tuple[Any, ...], data: DataSet | None, samples: int, job: Job
) -> Iterator[tuple[Any, ...]]:
    if data is None:
        yield from job.track([inputs], "Calibrating")
        return
    chosen = data.training.spread(samples)
    job.begin("Calibrating", len(chosen))
    for batch, _ in chosen.batches(BATCH, job):
        yield (batch,)
        job.advance(len(batch))


def _histogram() -> Any:
    return _pt2e().HistogramObserver(
        dtype=torch.int8,
        qscheme=torch.per_tensor_affine,
        quant_min=integer_range(8)[0],
        quant_max=integer_range(8)[1],
    )


def _pt2e() -> Any:
    # WORKAROUND: importing torchao 0.18 under torch 2.14 logs a deprecation of torch's own
    # register_constant, which says nothing to our users.
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import torchao.quantization.pt2e as pt2e
    finally:
        logger.setLevel(level)
    return pt2e
