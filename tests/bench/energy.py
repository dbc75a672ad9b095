"""How fast energy is modelled, and what peers take for the same network."""

import csv
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from figures import Figure

PEERS = Path(__file__).parent / "peers"
ALEXNET = Path(__file__).resolve().parents[1] / "data" / "alexnet_caffe_layers.csv"
BATCH = 16
LAYERS, SHAPES = 10_000, 8


def modelling(runs: int) -> Iterator[Figure]:
    """Model ResNet-50, first and again, and a network of very many layers."""
    from torchvision.models import resnet50

    from engine.energy.estimates import EnergySettings
    from engine.energy.hardware import find_hardware
    from engine.energy.model import estimate
    from engine.energy.zeros import OperatorKeys, Zeros
    from engine.requests import InputSpec
    from engine.tracing import sample_inputs, trace

    model = resnet50(weights=None).eval()
    operators, batch = (
        trace(model, sample_inputs([InputSpec((count, 3, 224, 224))])).operators
        for count in (1, BATCH)
    )
    chip = find_hardware("eyeriss_chip")
    keys = OperatorKeys()
    values = {keys.of(one): (0.5,) * (len(one.inputs) + len(one.outputs)) for one in operators}
    dearer = replace(chip, cost=replace(chip.cost, dram=chip.cost.dram * 1.5))

    def modelled(hardware=chip, zeros=None) -> None:
        estimate(operators, EnergySettings(hardware), 1, zeros or Zeros())

    search = "energy of ResNet-50, with the mapping search"
    yield Figure(search, first(modelled, runs), 1.0)
    of_batch = first(lambda: estimate(batch, EnergySettings(chip), BATCH), runs)
    yield Figure(f"{search}, batch {BATCH}", of_batch, 1.0)
    for name, again in (
        ("repeated", modelled),
        ("only zeros changed", lambda: modelled(zeros=Zeros(values=values))),
        ("only costs changed", lambda: modelled(dearer)),
    ):
        yield Figure(f"energy of ResNet-50, {name}", changed(modelled, again, runs), 0.05)
    yield from many_layers(max(1, runs // 3))


def many_layers(runs: int) -> Iterator[Figure]:
    """A network of very many layers, first and again: shapes are searched, not layers."""
    from engine.energy.estimates import EnergySettings
    from engine.energy.model import estimate

    operators = chain()

    def modelled() -> None:
        estimate(operators, EnergySettings(), 1)

    again = changed(modelled, modelled, runs)
    yield Figure(
        f"energy of {LAYERS:,} layers of {SHAPES} shapes", first(modelled, runs), 1.5,
        "repeated", again, "searching every layer would take a multiple",
    )  # fmt: skip


def chain():
    """Operators of :data:`LAYERS` linear layers in a row, of :data:`SHAPES` shapes in turn."""
    import torch
    from torch import nn

    from engine.tracing import trace

    widths = [64 * (at + 2) for at in range(SHAPES)]
    with torch.device("meta"):
        layers = (nn.Linear(widths[at % SHAPES], widths[(at + 1) % SHAPES]) for at in range(LAYERS))
        return trace(nn.Sequential(*layers).eval(), (torch.empty(1, widths[0]),)).operators


def peers(runs: int) -> Iterator[Figure]:
    """Model the Caffe AlexNet beside tools that search mappings too, where they are installed."""
    from engine.energy.estimates import EnergySettings
    from engine.energy.hardware import default_hardware
    from engine.energy.model import estimate

    operators = alexnet()
    hardware = default_hardware()

    def modelled():
        return estimate(operators, EnergySettings(hardware), BATCH)

    seconds = first(modelled, runs)
    ours = modelled().series.total.value * BATCH / hardware.joules_per_mac
    name = f"energy of Caffe AlexNet, batch {BATCH}, 16 x 16"
    for title, script, variable, words in (
        ("nn-dataflow", "nn_dataflow_alexnet.py", "SECATEUR_BENCH_NN_DATAFLOW", ""),
        ("ZigZag", "zigzag_alexnet.py", "SECATEUR_BENCH_ZIGZAG", ", without the array's"),
    ):
        found, why = taken(script, variable)
        if found is None:
            yield Figure(name, seconds, 1.0, title, note=f"{title} is skipped: {why}")
            continue
        told = f"energy {ours:.4g} MAC, the peer's {found['energy']:.4g}{words}"
        yield Figure(name, seconds, 1.0, title, found["seconds"], told)


def taken(script: str, variable: str) -> tuple[dict[str, float] | None, str]:
    """What the peer's script says in the environment whose Python the variable names, or why not.

    An environment of its own: the peers need other versions than we do.
    """
    python = os.environ.get(variable)
    if not python:
        return None, f"{variable} names no Python that has it"
    command = [python, str(PEERS / script), str(ALEXNET), str(BATCH)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout), ""
    except subprocess.CalledProcessError as error:
        return None, (error.stderr.strip().splitlines() or ["it failed"])[-1]
    except (OSError, ValueError) as error:
        return None, str(error)


def alexnet():
    """Operators of the layers that the table has, each on an input of its own."""
    import torch
    from torch import nn

    from engine.tracing import trace

    class Layers(nn.Module):
        def __init__(self, layers) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, *inputs):
            return [layer(one) for layer, one in zip(self.layers, inputs, strict=True)]

    layers, inputs = [], []
    with ALEXNET.open() as file, torch.device("meta"):
        for line in csv.DictReader(row for row in file if not row.startswith("#")):
            size = {name: int(value) for name, value in line.items() if name != "layer"}
            c, m, side = size["in_channels"], size["out_channels"], size["in_height"]
            if side == 1:
                layers.append(nn.Linear(c, m, bias=False))
                inputs.append(torch.empty(BATCH, c))
                continue
            layers.append(
                nn.Conv2d(
                    c, m, size["kernel"], size["stride"], size["padding"],
                    groups=size["groups"], bias=False,
                )
            )  # fmt: skip
            inputs.append(torch.empty(BATCH, c, side, side))
        return trace(Layers(layers).eval(), tuple(inputs)).operators


def first(work: Callable[[], object], runs: int) -> float:
    """Median seconds with nothing remembered."""
    taken = []
    for _ in range(max(runs, 1)):
        forget()
        taken.append(clocked(work))
    return statistics.median(taken)


def changed(before: Callable[[], object], after: Callable[[], object], runs: int) -> float:
    """Median seconds of ``after`` where only ``before`` is remembered."""
    taken = []
    for _ in range(max(runs, 1)):
        forget()
        before()
        taken.append(clocked(after))
    return statistics.median(taken)


def clocked(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def forget() -> None:
    """Empty what the model remembers of products it has seen."""
    from engine.energy import dataflow, loops, model

    for module in (dataflow, loops, model):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
