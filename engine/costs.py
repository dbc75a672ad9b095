"""What a model of the catalogue costs on this machine and on modelled hardware."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch

from engine.catalogue import CatalogueCost
from engine.energy.estimates import EnergySettings
from engine.energy.hardware import Hardware, default_hardware
from engine.energy.model import MODEL, estimate
from engine.errors import EngineError, ForwardFailed, is_out_of_memory
from engine.job import Job
from engine.kept import keep_figures, kept_figures, machine
from engine.profiling.latency import measure_latency
from engine.sources.architectures import Architecture, build
from engine.tracing import Trace, sample_inputs, trace

FILE = "catalogue.json"


def model_costs(
    source: str,
    job: Job,
    energy: bool = True,
    latency: bool = False,
    hardware: Hardware | None = None,
) -> CatalogueCost:
    """Modelled energy and measured latency of one model, with random weights; kept once known.

    Latency is measured while nothing else runs: one at a time is the caller's duty.

    Args:
        source: of :class:`engine.catalogue.CatalogueEntry`.
        hardware: that energy is modelled on; the default's when left out.

    Raises:
        Cancelled: nothing is kept of what was not finished.
    """
    hardware = hardware or default_hardware()
    found = CatalogueCost(hardware=hardware.name if energy else "")
    try:
        if energy:
            key = _energy_key(source, hardware)
            (joules,) = _once(key, 1, lambda: _energy(source, hardware, job))
            found = replace(found, energy=joules)
        if latency:
            median, low, high = _once(_latency_key(source), 3, lambda: _latency(source, job))
            found = replace(found, latency=median, latency_low=low, latency_high=high)
    except EngineError as error:
        return replace(found, problem=str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return replace(found, problem="Memory ran out.")
    return found


def _once(key: str, count: int, take: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
    figures = kept_figures(FILE, key)
    if figures is None or len(figures) != count:
        figures = take()
        if max(figures) <= 2 * min(figures):  # or the machine was busy while it was measured
            keep_figures(FILE, key, figures)
    return figures


def _energy_key(source: str, hardware: Hardware) -> str:
    # By content, as a description may change under its name.
    digest = hashlib.sha256(repr(hardware).encode()).hexdigest()[:16]
    return f"energy of {source} on {digest}, model {MODEL}, torch {torch.__version__}"


def _latency_key(source: str) -> str:
    threads = torch.get_num_threads()
    return f"latency of {source} on {machine()}, torch {torch.__version__}, {threads} threads"


def _energy(source: str, hardware: Hardware, job: Job) -> tuple[float, ...]:
    job.begin(f"Modelling the energy of {source}")
    seen, batch = _traced(source)
    return (estimate(seen.operators, EnergySettings(hardware), batch).series.total.value,)


def _traced(source: str) -> tuple[Trace, int]:
    """The trace without weights' data, or with it where the shapes depend on it."""
    made = build(source, "meta")
    try:
        return trace(made.model, sample_inputs(made.inputs)), _batch(made)
    except ForwardFailed:
        made = build(source)
        return trace(made.model, sample_inputs(made.inputs)), _batch(made)


def _batch(made: Architecture) -> int:
    return made.inputs[0].shape[0]


def _latency(source: str, job: Job) -> tuple[float, ...]:
    job.begin(f"Building {source}")
    made = build(source)
    total = measure_latency(made.model, sample_inputs(made.inputs), job).total
    low = total.value if total.low is None else total.low
    high = total.value if total.high is None else total.high
    return total.value, low, high
