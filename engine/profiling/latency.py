"""Measured latency of the model and of each layer."""

from collections.abc import Callable
from statistics import quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from engine.integer_layers import is_quantized
from engine.job import Job
from engine.layers import LayerId
from engine.metrics import LATENCY, Quantity, Series
from engine.sharing import share_for_running

WARM_UP_RUNS = 3
RUNS = 15
LEAST_SECONDS = 0.2
"""Fast models run more often, until so much time has been measured."""
MOST_RUNS = 200

_STEPS = 100  # of progress, for the whole and for the layers


def measure_latency(model: nn.Module, inputs: tuple[Tensor, ...], job: Job) -> Series:
    """Median latency in seconds, with the middle half of the runs as the spread.

    A layer's own value is its time without its children's. The whole is timed in runs of its
    own, without clocks on the layers.

    Raises:
        Cancelled: between two runs.
    """
    copy = share_for_running(model)
    with torch.inference_mode():
        job.begin("Measuring latency", 2 * _STEPS)
        whole = _repeat(lambda: _timed(copy, inputs), job)
        clock = _Clock(copy)
        runs = _repeat(lambda: clock.run(copy, inputs), job)
    layers = {
        layer: {"": _summary([run[layer] for run in runs if layer in run])}
        for layer in dict.fromkeys(layer for run in runs for layer in run)
    }
    integers = sum(is_quantized(module) for module in copy.modules())
    total = _summary(whole)
    simulated = {"int8": f"{integers} layers simulated in floating point"} if integers else {}
    return Series(
        LATENCY,
        total,
        layers,
        conditions={
            "device": "cpu",
            "threads": str(torch.get_num_threads()),
            "batch": str(inputs[0].shape[0]),
            "dtype": str(inputs[0].dtype).removeprefix("torch."),
            "runs": str(len(whole)),
            "spread": "middle half of the runs",
            "torch": torch.__version__,
            **simulated,
            **_noise(total),
        },
    )


def _noise(total: Quantity) -> dict[str, str]:
    """A word of warning when the runs scatter: other programs make parallel operators wait."""
    if total.low is None or total.high is None or total.high <= 2 * total.low:
        return {}
    return {"noise": "the runs differ by more than 2×: the machine was busy"}


def _repeat(run: Callable[[], Any], job: Job) -> list[Any]:
    """Results of as many runs as the constants above ask for, as one step of the job."""
    for _ in range(WARM_UP_RUNS):
        run()
        job.check()
    results: list[Any] = []
    started, before = perf_counter(), job.done
    while len(results) < RUNS or (
        perf_counter() - started < LEAST_SECONDS and len(results) < MOST_RUNS
    ):
        results.append(run())
        job.check()
        elapsed = perf_counter() - started
        spent = max(elapsed / max(LEAST_SECONDS, 1e-9), len(results) / MOST_RUNS)
        job.done = before + int(_STEPS * min(1.0, len(results) / RUNS, spent))
    job.done = before + _STEPS
    return results


def _timed(model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    started = perf_counter()
    model(*inputs)
    return perf_counter() - started


def _summary(times: list[float]) -> Quantity:
    low, median, high = quantiles(times, n=4) if len(times) > 1 else times * 3
    return Quantity(median, low, high)


class _Clock:
    """Own time of each layer, by hooks on a copy of the model."""

    def __init__(self, model: nn.Module) -> None:
        self._own: dict[LayerId, float] = {}
        self._running: list[list[float]] = []  # start, time of children
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leaving(LayerId(name)))

    def run(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[LayerId, float]:
        """Own seconds of each layer in one forward pass."""
        self._own = {}
        model(*inputs)
        return self._own

    def _enter(self, _module: nn.Module, _inputs: Any) -> None:
        self._running.append([perf_counter(), 0.0])

    def _leaving(self, layer: LayerId) -> Callable[[nn.Module, Any, Any], None]:
        def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            started, in_children = self._running.pop()
            spent = perf_counter() - started
            self._own[layer] = self._own.get(layer, 0.0) + spent - in_children
            if self._running:
                self._running[-1][1] += spent

        return leave
