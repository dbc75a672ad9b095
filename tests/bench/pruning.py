"""Accuracy against MACs and modelled energy, method beside method, at one fine-tuning budget.

    python tests/bench/pruning.py [--out FOLDER] [--only NETWORK] [--reduced]

Each method prunes the same trained network to several amounts; each result is fine-tuned by the
same code for the same number of epochs on the same samples, and judged on validation samples that
neither saw. Energy is modelled at batch 16 (at batch 1 fetching a linear layer's weights outweighs
all else) on hardware where zeros save what can be saved, so that masked weights and removed
channels can be laid side by side. Writes a plot, a table and the points.
"""

import argparse
import contextlib
import copy
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
from figures import Figure  # noqa: E402
from scenes import residual, scenes, trained, with_large_linear  # noqa: E402
from torch import nn  # noqa: E402

from engine.datasets import DataSet, digits  # noqa: E402
from engine.edits import FineTune, PruneChannels, PruneWeights  # noqa: E402
from engine.energy.estimates import EnergySettings  # noqa: E402
from engine.energy.hardware import find_hardware  # noqa: E402
from engine.job import Job  # noqa: E402
from engine.layers import ROOT as WHOLE  # noqa: E402
from engine.layers import LayerId  # noqa: E402
from engine.metrics import ACCURACY, ENERGY, MACS  # noqa: E402
from engine.requests import InputSpec  # noqa: E402
from engine.session import ModelSession, open_model  # noqa: E402
from engine.sources.opened import OpenedModel  # noqa: E402
from engine.state import ModelInfo  # noqa: E402

HARDWARE, BATCH = "eyeriss_zero_skipping", 16
TUNING = FineTune(layers=(WHOLE,), epochs=2, learning_rate=0.01, seed=0)
WEIGHT_RATIOS = (0.5, 0.7, 0.8, 0.9, 0.95)
CHANNEL_RATIOS = (0.2, 0.35, 0.5, 0.65, 0.8)
ENERGY_RATIOS = (0.35, 0.5, 0.65, 0.8, 0.9)
ALLOWED_LOSS = 0.02
"""Accuracy below the base's at which energies are compared."""


@dataclass(frozen=True)
class Point:
    """One pruned and fine-tuned network.

    Attributes:
        macs: of an inference, those whose weight is not zero.
        energy: modelled joules of an inference.
        before: accuracy before fine-tuning.
    """

    network: str
    method: str
    amount: float
    accuracy: float
    before: float
    macs: float
    energy: float


@dataclass(frozen=True)
class Task:
    """A trained network with its data.

    Attributes:
        last: the layer whose channels are the classes: no method prunes those.
    """

    name: str
    model: nn.Module
    data: DataSet
    shape: tuple[int, ...]
    last: str


def main() -> int:
    """Take all points, write them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="folder for the points and the plot")
    parser.add_argument("--reduced", action="store_true", help="the demo alone, fewer amounts")
    parser.add_argument("--only", choices=NETWORKS, default=None, help="one network alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    networks = NETWORKS[:1] if options.reduced else NETWORKS
    points = [
        point
        for task in tasks((options.only,) if options.only else networks)
        for point in curves(task, options.reduced)
    ]
    print(table(points))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps([asdict(one) for one in points], indent=1)
        (options.out / "pruning.json").write_text(text)
        plot(points, options.out / "pruning.png")
    return 0


NETWORKS = ("demo", "residual", "with large linear")
BASE = "unpruned"


def figures(reduced: bool) -> Iterator[Figure]:
    """Energy of energy-ordered pruning over that of the others, at equal accuracy."""
    for task in tasks(NETWORKS[:1] if reduced else NETWORKS):
        points = list(curves(task, reduced))
        base = next(one for one in points if one.method == BASE)
        for ours, peer in COMPARED:
            found, other = (energy_at(points, one) for one in (ours, peer))
            name = f"{task.name}: J by {ours}, {ALLOWED_LOSS:.0%} below"
            if found is None or other is None:
                note = f"{ours if found is None else peer} does not get so near to the base"
                yield Figure(name, found or base.energy, base.energy / 1.5, note=note)
            else:
                note = f"joules, not seconds; {base.energy:.3g} unpruned"
                yield Figure(name, found, 1 / 1.5, peer, other, note)


COMPARED = (
    ("weights by energy", "weights by magnitude"),
    ("channels by energy", "weights by magnitude"),
    ("channels by energy", "channels by magnitude"),
    ("channels by energy", "torch-pruning"),
)


def tasks(networks: tuple[str, ...]) -> Iterator[Task]:
    """The demo, and two larger networks trained here."""
    for name in networks:
        if name == "demo":
            demo = open_model("demo", Job())
            yield Task(name, demo._opened.model, digits(), (1, 1, 8, 8), "head.fc")
            continue
        model = trained(residual if name == "residual" else with_large_linear, scenes(), epochs=12)
        last = [name for name, one in model.named_modules() if isinstance(one, nn.Linear)][-1]
        yield Task(name, model, scenes(), (1, 3, 32, 32), last)


def curves(task: Task, reduced: bool) -> Iterator[Point]:
    """Every method at every amount, after the unpruned network."""
    session = opened(task, task.model)
    yield measured(session, task, BASE, 0.0, session.evaluate(Job()))
    for method, (make, amounts) in METHODS.items():
        for amount in amounts[2:] if reduced else amounts:
            session = make(task, amount)
            before = accuracy(session)
            session.apply(TUNING, Job())
            yield measured(session, task, method, amount, session.evaluate(Job()), before)


def opened(task: Task, model: nn.Module) -> ModelSession:
    """A session on the model, with the data, and energy modelled where zeros save."""
    info = ModelInfo(task.name, task.name, (InputSpec(task.shape),), trained=True)
    inputs = (task.data.validation.images[:1],)  # type: ignore[attr-defined]
    session = ModelSession(OpenedModel(info, model, inputs))
    with stored(task.data) as path:
        session.load_data(path, Job())
    session.set_energy(EnergySettings(find_hardware(HARDWARE), batch=BATCH), Job())
    session.measure_zeros(Job())
    return session


@contextlib.contextmanager
def stored(data: DataSet) -> Iterator[str]:
    """The data set as a file, as a user would open it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{data.name}.npz")
        arrays = {
            f"{name}_{half}": getattr(split, what).numpy()
            for half, split in (("train", data.training), ("test", data.validation))
            for name, what in (("x", "images"), ("y", "labels"))
        }
        np.savez(path, **arrays)
        yield str(path)


def prunable(task: Task, model: nn.Module) -> tuple[LayerId, ...]:
    """All layers with weights to prune, but the last."""
    return tuple(
        LayerId(name)
        for name, one in model.named_modules()
        if isinstance(one, nn.Conv2d | nn.Linear) and name != task.last
    )


def by_weights(spread: str) -> Callable[[Task, float], ModelSession]:
    """Single weights, by Secateur."""

    def make(task: Task, amount: float) -> ModelSession:
        session = opened(task, task.model)
        layers = (*prunable(task, task.model), LayerId(task.last))
        session.apply(PruneWeights(layers, amount, spread=spread), Job())  # type: ignore[arg-type]
        session.measure_zeros(Job())
        return session

    return make


def by_channels(spread: str) -> Callable[[Task, float], ModelSession]:
    """Channels, by Secateur."""

    def make(task: Task, amount: float) -> ModelSession:
        session = opened(task, task.model)
        session.apply(
            PruneChannels(prunable(task, task.model), amount, spread=spread, multiple=1),  # type: ignore[arg-type]
            Job(),
        )
        session.measure_zeros(Job())
        return session

    return make


def by_torch(task: Task, amount: float) -> ModelSession:
    """Single weights, by ``torch.nn.utils.prune``'s global magnitude."""
    from torch.nn.utils import prune

    model = copy.deepcopy(task.model)
    chosen = [(one, "weight") for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(chosen, prune.L1Unstructured, amount=amount)
    for module, name in chosen:
        prune.remove(module, name)
    return opened(task, model)


def by_torch_pruning(task: Task, amount: float) -> ModelSession:
    """Channels, by torch-pruning's global group magnitude."""
    import torch_pruning

    model = copy.deepcopy(task.model)
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        task.data.validation.images[:1],  # type: ignore[attr-defined]
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=amount,
        max_pruning_ratio=0.9,
        ignored_layers=[model.get_submodule(task.last)],
    )
    pruner.step()
    for parameter in model.parameters():
        parameter.grad = None
    return opened(task, model)


METHODS: dict[str, tuple[Callable[[Task, float], ModelSession], tuple[float, ...]]] = {
    "weights by magnitude": (by_weights("global"), WEIGHT_RATIOS),
    "torch.nn.utils.prune": (by_torch, WEIGHT_RATIOS),
    "weights by energy": (by_weights("energy"), WEIGHT_RATIOS),
    "channels by magnitude": (by_channels("global"), CHANNEL_RATIOS),
    "torch-pruning": (by_torch_pruning, CHANNEL_RATIOS),
    "channels by energy": (by_channels("energy"), ENERGY_RATIOS),
}


def accuracy(session: ModelSession) -> float:
    """On the validation samples."""
    total = session.evaluate(Job()).snapshot.current.table.total(ACCURACY)
    assert total is not None
    return total.value


def measured(session, task, method, amount, change, before=0.0) -> Point:
    """The current state as a point."""
    session.measure_zeros(Job())
    table = session.snapshot.current.table
    accuracy, energy = (table[one.key].total.value for one in (ACCURACY, ENERGY))
    tree = session.snapshot.current.tree
    macs = sum(
        part.value * (1 - tree[layer].zeros / max(1, tree[layer].weights))
        for layer, parts in table[MACS.key].layers.items()
        for part in parts.values()
    )
    return Point(task.name, method, amount, accuracy, before or accuracy, macs, energy)


def energy_at(points: list[Point], method: str) -> float | None:
    """Joules at which the method's accuracy is the base's less the allowed loss.

    Between two points along a straight line; None where no point is that good.
    """
    base = next(one for one in points if one.method == BASE)
    wanted = base.accuracy - ALLOWED_LOSS
    own = sorted((one for one in points if one.method == method), key=lambda one: -one.energy)
    good = [one for one in own if one.accuracy >= wanted]
    if not good:
        return None
    last = good[-1]
    worse = [one for one in own if one.energy < last.energy]
    if not worse:
        return last.energy
    share = (last.accuracy - wanted) / max(last.accuracy - worse[0].accuracy, 1e-9)
    return last.energy - share * (last.energy - worse[0].energy)


def table(points: list[Point]) -> str:
    """The points as a table in Markdown."""
    rows = [
        "| network | method | amount | before | accuracy | MMAC | µJ |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {one.network} | {one.method} | {one.amount:.2f} | {one.before:.1%} | "
        f"{one.accuracy:.1%} | {one.macs / 1e6:.2f} | {one.energy * 1e6:.1f} |"
        for one in points
    ]
    return "\n".join(rows)


COLOURS = {
    "weights by magnitude": "#7f7f7f",
    "torch.nn.utils.prune": "#bcbd22",
    "weights by energy": "#2ca02c",
    "channels by magnitude": "#9467bd",
    "torch-pruning": "#ff7f0e",
    "channels by energy": "#1f77b4",
}


def plot(points: list[Point], path: Path) -> None:
    """Accuracy against MACs and against energy, both of the unpruned, a row a network."""
    import pyqtgraph
    from pyqtgraph.exporters import ImageExporter

    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    app = pyqtgraph.mkQApp()
    pyqtgraph.setConfigOptions(background="w", foreground="k", antialias=True)
    sheet = pyqtgraph.GraphicsLayoutWidget()
    networks = list(dict.fromkeys(one.network for one in points))
    sheet.resize(1100, 380 * len(networks))
    for network in networks:
        own = [one for one in points if one.network == network]
        for key, title in (("macs", "MACs with a weight"), ("energy", "modelled energy")):
            _draw(sheet.addPlot(title=f"{network}: accuracy against {title}"), own, key)
        sheet.nextRow()
    sheet.show()
    app.processEvents()
    ImageExporter(sheet.scene()).export(str(path))


def _draw(chart, points: list[Point], key: str) -> None:
    base = next(one for one in points if one.method == BASE)
    chart.addLegend(offset=(-10, -10))
    chart.getAxis("bottom").enableAutoSIPrefix(False)
    chart.setLabel("bottom", "share of the unpruned network's")
    chart.setLabel("left", "validation accuracy")
    chart.addLine(y=base.accuracy, pen="#cccccc")
    for method, colour in COLOURS.items():
        own = sorted((one for one in points if one.method == method), key=lambda one: one.amount)
        x = [getattr(one, key) / getattr(base, key) for one in own]
        y = [one.accuracy for one in own]
        chart.plot(x, y, name=method, pen={"color": colour, "width": 2}, symbol="o",
                   symbolBrush=colour, symbolPen=None, symbolSize=7)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
