"""The machine's measured roof, and where the layers lie under it.

Williams, Waterman, Patterson: Roofline, an insightful visual performance model, CACM 52 (2009).
"""

import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from torch import nn

from engine.job import Job
from engine.kept import keep_figures, kept_figures
from engine.kept import machine as machine_name
from engine.layers import LayerId, LayerTree
from engine.metrics import OVERHEAD, Series
from engine.operators import OperatorTable, Work
from engine.profiles import Machine, Roofline, RooflinePoint
from engine.profiling.latency import measure_latency
from engine.profiling.running import AS_IT_IS, clock_of, running
from engine.requests import RunSettings
from engine.tracing import trace

FILE = "roofs.json"
REPEATS = 5
"""Runs of each kernel; the fastest counts."""
SIDES = (512, 1024, 2048)
ACCELERATOR_SIDES = (2048, 4096, 8192)
"""Of the square matrices whose product is timed."""
MOST_ARRAY_BYTES = 1 << 30

_USUAL_CACHE = 32 << 20  # where the system does not say


def profile_roofline(
    model: nn.Module,
    inputs: tuple[Any, ...],
    tree: LayerTree,
    job: Job,
    settings: RunSettings = AS_IT_IS,
) -> Roofline:
    """The roof of this machine, measured if it has not been, and the layers' forward passes.

    Operations and bytes are counted on the copy that is run, so that batch and type are those
    of the settings.

    Raises:
        ProfilingFailed: the model does not run so on this machine.
        Cancelled: between two runs.
    """
    forward = replace(settings, backward=False)
    with running(model, inputs, forward) as run:
        dtype = getattr(
            torch, run.conditions.get("autocast", run.conditions.get("dtype", "float32"))
        )
        roof = machine(run.device, dtype, job)
    latency = measure_latency(model, inputs, job, forward)
    with run.autocast():  # bytes as they are moved then
        operators = trace(run.model, run.inputs).operators
    found = roofline(operators, latency, roof, tree)
    if any(point.rate > roof.arithmetic for point in found.points):
        # No cache explains that: the roof was measured while the machine did other work.
        with running(model, inputs, forward) as run:
            found = replace(found, machine=machine(run.device, dtype, job, again=True))
    return found


def roofline(
    operators: OperatorTable, latency: Series, machine: Machine, tree: LayerTree
) -> Roofline:
    """Each layer's own operations and bytes over its own measured time.

    Bytes are those that its operators read and write, as if nothing stayed in a cache between two
    of them: where much does, a layer is faster than the roof over its intensity. Layers without
    multiply-accumulates, and those that ran inside a fused operator of the layer around them, are
    left out and counted in the conditions.
    """
    macs, moved, seconds = operators.macs(), _bytes(operators), latency.by_layer()
    points = [
        RooflinePoint(layer, tree[layer].kind, 2.0 * count, moved[layer], seconds[layer])
        for layer, count in macs.items()
        if layer in tree and seconds.get(layer, 0.0) > 0 and moved.get(layer, 0.0) > 0
    ]
    without = len(seconds) - len(seconds.keys() & macs.keys())
    left_out = {"left out": f"{without} layers without multiply-accumulates"} if without else {}
    fused = len(macs) - len(points)
    if fused:
        left_out["not timed"] = f"{fused} layers that do not run by themselves"
    conditions = {key: text for key, text in latency.conditions.items() if key != OVERHEAD}
    return Roofline(machine, tuple(points), conditions | left_out)


def _bytes(operators: OperatorTable) -> dict[LayerId, float]:
    """Bytes that each layer's own operators read and write, a tensor once per operator."""
    sums: dict[LayerId, float] = {}
    for operator in operators:
        if operator.work is not Work.FREE:
            uses = {use.number: use.bytes for use in (*operator.inputs, *operator.outputs)}
            sums[operator.layer] = sums.get(operator.layer, 0.0) + sum(uses.values())
    return sums


# -- the machine


def machine(device: torch.device, dtype: torch.dtype, job: Job, again: bool = False) -> Machine:
    """What the device reaches at best with as many threads as torch has now; kept once measured.

    Bandwidth is that of STREAM's triad (McCalpin 1995), a = b + s·c, over arrays well beyond the
    last cache where memory allows; arithmetic that of the fastest of some square matrix products.

    Args:
        again: measure although figures are kept; the better of old and new count.

    Raises:
        Cancelled: between two runs.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    kind, name = str(dtype).removeprefix("torch."), _name_of(device)
    key = f"{machine_name()}, {name}, {device}, {kind}, {threads} threads, {torch.__version__}"
    figures = kept_figures(FILE, key)
    noise = {}
    if figures is None or len(figures) != 3 or min(figures) <= 0:
        figures = None
    if figures is None or again:
        job.begin("Measuring this machine", REPEATS * (1 + len(_sides(device))))
        best = _Best(device, job)
        before = figures or (0.0, 0.0)
        figures = (
            max(before[0], _bandwidth(best, dtype)),
            max(before[1], _arithmetic(best, dtype)),
            time.time(),
        )
        if best.steady:
            keep_figures(FILE, key, figures)
        else:
            noise = {"noise": "the machine was busy, so these are not kept"}
    bandwidth, arithmetic, when = figures
    on_threads = {"threads": str(threads)} if threads else {}
    measured = time.strftime("%Y-%m-%d", time.gmtime(when))
    conditions = {"dtype": kind, **on_threads, "torch": torch.__version__, "measured": measured}
    return Machine(name, bandwidth, arithmetic, conditions | noise)


class _Best:
    """Least seconds of kernels on a device, and whether the runs of each were alike."""

    def __init__(self, device: torch.device, job: Job) -> None:
        self.device = device
        self.steady = True
        self._clock = clock_of(device)
        self._job = job

    def seconds(self, kernel: Callable[[], Any]) -> float:
        """Of the fastest run, after one that does not count."""
        kernel()
        times = [self._once(kernel) for _ in range(REPEATS)]
        best = max(min(times), 1e-9)
        self.steady &= median(times) <= 1.5 * best
        return best

    def _once(self, kernel: Callable[[], Any]) -> float:
        started = self._clock.mark()
        kernel()
        ended = self._clock.mark()
        self._clock.wait()
        self._job.advance()
        return self._clock.seconds(started, ended)


def _bandwidth(best: _Best, dtype: torch.dtype) -> float:
    elements = _array_bytes(best.device) // dtype.itemsize
    a, b, c = (torch.ones(elements, dtype=dtype, device=best.device) for _ in range(3))
    seconds = best.seconds(lambda: torch.add(b, c, alpha=3, out=a))
    return 3 * elements * dtype.itemsize / seconds


def _array_bytes(device: torch.device) -> int:
    """Four times the last cache, as STREAM asks for, if there is room."""
    room = int(psutil.virtual_memory().available) // 16
    cache = _last_cache() if device.type == "cpu" else MOST_ARRAY_BYTES // 4
    return max(1 << 20, min(4 * cache, MOST_ARRAY_BYTES, room))


def _last_cache() -> int:
    """Bytes of the processor's last cache."""
    sizes = [_USUAL_CACHE]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with suppress(OSError, ValueError):
            sizes.append(int(file.read_text().strip().removesuffix("K")) << 10)
    return max(sizes)


def _arithmetic(best: _Best, dtype: torch.dtype) -> float:
    def rate(side: int) -> float:
        a, b, out = (torch.ones(side, side, dtype=dtype, device=best.device) for _ in range(3))
        return 2 * side**3 / best.seconds(lambda: torch.mm(a, b, out=out))

    return max(rate(side) for side in _sides(best.device))


def _sides(device: torch.device) -> tuple[int, ...]:
    return SIDES if device.type == "cpu" else ACCELERATOR_SIDES


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
