"""Measured latency of the model and of each layer."""

from collections.abc import Callable
from itertools import pairwise
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from torch import nn

from engine.job import Job
from engine.layers import LayerId
from engine.metrics import LATENCY, OVERHEAD, Quantity, Series
from engine.profiling.running import (
    AS_IT_IS,
    Clock,
    Run,
    WallClock,
    following,
    running,
)
from engine.requests import RunSettings

WARM_UP_RUNS = 3
LEAST_RUNS = 3
RUNS = 15
MOST_RUNS = 200
LEAST_SECONDS = 0.4
"""Fast models run more often than RUNS, until so much time has been measured."""
MOST_SECONDS = 30.0
"""Slow ones less often, when so much has."""

_STEPS = 100  # of progress

Timeline = list[tuple[LayerId | None, Any]]
"""From each mark on, the innermost layer that ran."""


def measure_latency(
    model: nn.Module, inputs: tuple[Any, ...], job: Job, settings: RunSettings = AS_IT_IS
) -> Series:
    """Median latency in seconds, with the middle half of the runs as the spread.

    A layer's own value is its time without its children's; with ``settings.backward`` it holds
    the gradient's operators of that layer too. The whole is timed in passes of its own, without
    clocks on the layers, each followed by a pass with them, so that both meet the machine in the
    same mood. :func:`engine.metrics.overhead_of` says how far they are apart.

    Raises:
        ProfilingFailed: the model does not run so on this machine.
        Cancelled: between two runs.
    """
    with running(model, inputs, settings) as run:
        job.begin("Measuring latency", _STEPS)
        clock = run.clock()
        passes = _repeat(lambda layers: _timeline(run, clock, layers), job)
        clock.wait()
        whole = [sum(_own_seconds(plain, clock).values()) for plain, _ in passes]
        by_run = [_own_seconds(detailed, clock) for _, detailed in passes]
        cause = _cause(run, len(passes[-1][1]), clock)
    total = _summary(whole)
    layers = {
        layer: _summary([own[layer] for own in by_run if layer in own])
        for layer in dict.fromkeys(layer for own in by_run for layer in own)
    }
    usual = median(sum(own.values()) for own in by_run)
    noise = _noise(total, sum(one.value for one in layers.values()), usual)
    conditions = run.conditions | {
        "runs": str(len(whole)),
        "spread": "middle half of the runs",
        OVERHEAD: f"{cause}; {noise or 'the rest is by how much runs differ'}",
        **({"noise": noise} if noise else {}),
    }
    parts = {layer: {"": one} for layer, one in layers.items()}
    return Series(LATENCY, total, parts, conditions=conditions)


def _timeline(run: Run, clock: Clock, layers: bool) -> Timeline:
    """One pass, marked where it starts and ends, or with ``layers`` at every change of layer."""
    timeline: Timeline = []
    mark = clock.mark
    run.once(lambda layer: timeline.append((layer, mark())), layers)
    return timeline


def _own_seconds(timeline: Timeline, clock: Clock) -> dict[LayerId, float]:
    own: dict[LayerId, float] = {}
    for (layer, start), (_, end) in pairwise(timeline):
        if layer is not None:
            own[layer] = own.get(layer, 0.0) + clock.seconds(start, end)
    return own


def _repeat(one: Callable[[bool], Timeline], job: Job) -> list[tuple[Timeline, Timeline]]:
    """Pairs of passes, without and with clocks on the layers, as many as the constants say."""

    def pair() -> tuple[Timeline, Timeline]:
        plain = one(False)
        job.check()
        detailed = one(True)
        job.check()
        return plain, detailed

    started = perf_counter()
    for at in range(WARM_UP_RUNS):
        if at == 0 or perf_counter() - started < MOST_SECONDS / 4:
            pair()
    passes: list[tuple[Timeline, Timeline]] = []
    started = perf_counter()
    while not _enough(len(passes), elapsed := perf_counter() - started):
        job.done = int(_STEPS * min(1.0, _progress(len(passes), elapsed)))
        passes.append(pair())
    job.done = _STEPS
    return passes


def _enough(runs: int, elapsed: float) -> bool:
    if runs >= LEAST_RUNS and elapsed >= MOST_SECONDS:
        return True
    return runs >= MOST_RUNS or (runs >= RUNS and elapsed >= LEAST_SECONDS)


def _progress(runs: int, elapsed: float) -> float:
    usual = min(runs / RUNS, max(elapsed / max(LEAST_SECONDS, 1e-9), runs / MOST_RUNS))
    return max(usual, min(runs / LEAST_RUNS, elapsed / MOST_SECONDS))


def _cause(run: Run, marks: int, clock: Clock) -> str:
    cost = _cost_of_a_mark(clock)
    what = "reading the clock" if isinstance(clock, WallClock) else "events in the queue"
    where = "layers begin and end" + (", and gradients begin" if run.settings.backward else "")
    return f"{what} {marks} times where {where}, {cost * 1e6:.1f} µs each as measured"


def _cost_of_a_mark(clock: Clock, calls: int = 200) -> float:
    """Seconds that a wrapped layer takes longer than a bare one, for each of its two marks."""
    # Within another, as the outermost layer is told of its end by whoever runs it.
    layers, timeline = nn.Sequential(*(nn.Identity() for _ in range(calls))), Timeline()

    def seconds() -> float:
        started = clock.mark()
        layers(None)
        ended = clock.mark()
        clock.wait()
        return clock.seconds(started, ended)

    bare = min(seconds() for _ in range(3))
    with following(layers, lambda layer: timeline.append((layer, clock.mark()))):
        marked = min(seconds() for _ in range(3))
    return max(0.0, marked - bare) / (2 * calls)


def _noise(total: Quantity, layers: float, usual: float) -> str:
    """A word of warning when other programs make parallel operators wait, else "".

    Args:
        layers: sum of the layers' medians.
        usual: median over the runs of the sum of all layers in each.
    """
    if layers < 0.9 * usual:
        return (
            "the machine was busy: delays hit other layers in each run, so that medians of layers "
            "leave them out and that of the whole does not"
        )
    if total.low is not None and total.high is not None and total.high > 2 * total.low:
        return "the runs differ by more than 2×: the machine was busy"
    return ""


def _summary(times: list[float]) -> Quantity:
    low, middle, high = quantiles(times, n=4) if len(times) > 1 else times * 3
    return Quantity(middle, low, high)
