"""Accuracy after quantization, setting beside setting and peer beside peer, on trained networks.

    python tests/bench/quantization.py [--only NETWORK] [--reduced]

Each network is quantized as a whole, calibrated on 256 samples of its training split, and judged
on validation samples that nothing else saw. Peers get the same network and the same samples.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from figures import Figure  # noqa: E402
from pruning import NETWORKS, Task, accuracy, opened, tasks  # noqa: E402
from quantization_peers import peers  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from engine.edits import Edit, FineTune, Quantize  # noqa: E402
from engine.evaluate import evaluate  # noqa: E402
from engine.job import Job  # noqa: E402
from engine.layers import ROOT as WHOLE  # noqa: E402
from engine.session import ModelSession  # noqa: E402

SAMPLES = 256
ALLOWED_INT8, ALLOWED_INT4, ALLOWED_BEHIND = 0.5, 2.0, 0.1
"""Points of accuracy: below float, and behind a peer."""
_INT4: dict[str, Any] = {"weight_bits": 4, "weight_observer": "mse"}


@dataclass(frozen=True)
class Way:
    """A setting of the edit, and what follows it.

    Attributes:
        asked: fields of :class:`engine.edits.Quantize`.
        reduced: whether the reduced run takes it as well.
    """

    asked: Mapping[str, Any] = field(default_factory=dict)
    then: tuple[Edit, ...] = ()
    reduced: bool = False


WAYS: dict[str, Way] = {
    "int8": Way(reduced=True),
    "int8, no bias correction": Way({"bias_correction": False}),
    "int8, min-max": Way({"observer": "min-max"}),
    "int8, weights per tensor": Way({"granularity": "tensor"}),
    "int4 weights, nearest": Way({**_INT4, "bias_correction": False}, reduced=True),
    "int4 weights, bias correction": Way(_INT4),
    "int4 weights, GPTQ": Way({**_INT4, "rounding": "gptq"}, reduced=True),
    "int4 weights, AdaRound": Way({**_INT4, "rounding": "adaround"}),
    "int4 weights, trained": Way(_INT4, (FineTune((WHOLE,), epochs=1, learning_rate=0.005),)),
}
REPAIRED = ("int4 weights, GPTQ", "int4 weights, AdaRound")


@dataclass(frozen=True)
class Point:
    """One network, quantized in one way; peers by their names."""

    network: str
    way: str
    accuracy: float
    base: float

    @property
    def lost(self) -> float:
        """Points of accuracy below float."""
        return 100 * (self.base - self.accuracy)


def main() -> int:
    """Take all points, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reduced", action="store_true", help="the demo alone, fewer settings")
    parser.add_argument("--only", choices=NETWORKS, default=None, help="one network alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    networks = NETWORKS[:1] if options.reduced else NETWORKS
    for task in tasks((options.only,) if options.only else networks):
        for one in points(task, options.reduced):
            print(f"{one.network:20} {one.way:32} {one.accuracy:7.2%} {one.lost:+6.2f}", flush=True)
    return 0


def figures(reduced: bool) -> Iterator[Figure]:
    """Points lost by 8 and by 4 bits, and points behind each peer."""
    for task in tasks(NETWORKS[:1] if reduced else NETWORKS):
        found = {one.way: one for one in points(task, reduced)}
        note = f"points, not seconds; {found['int8'].base:.1%} in float"
        name = f"{task.name}: points lost by"
        yield Figure(f"{name} int8", found["int8"].lost, ALLOWED_INT8, note=note)
        best = min(found[one].lost for one in REPAIRED if one in found)
        yield Figure(f"{name} int4 weights, repaired", best, ALLOWED_INT4, note=note)
        for peer in found.keys() - WAYS.keys():
            behind = found["int8"].lost - found[peer].lost
            name = f"{task.name}: points behind {peer}"
            yield Figure(name, behind, ALLOWED_BEHIND, note=f"{peer} loses {found[peer].lost:.2f}")


def points(task: Task, reduced: bool) -> Iterator[Point]:
    """Every way of ours, and every peer."""
    base = accuracy(opened(task, task.model))
    for name, way in WAYS.items():
        if way.reduced or not reduced:
            yield Point(task.name, name, accuracy(quantized(task, way)), base)
    chosen = task.data.training.spread(SAMPLES)
    samples = next(iter(chosen.batches(SAMPLES, Job())))[0]
    for name, quantize in peers().items():
        yield Point(task.name, name, judged(task, quantize(task.model, samples)), base)


def quantized(task: Task, way: Way) -> ModelSession:
    """A session on the network with every layer quantized that can be."""
    session = opened(task, task.model)
    layers = session.snapshot.current.tree.select([""], "quantize")
    session.apply(Quantize(layers, **way.asked), Job())
    for edit in way.then:
        session.apply(edit, Job())
    return session


def judged(task: Task, run: Any) -> float:
    """Accuracy of a peer's result on the same validation samples."""
    return evaluate(_Called(run), task.data, Job()).total.value


class _Called(nn.Module):
    """A function as a model."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.__dict__["run"] = run  # not a child: it may refuse to be copied or set to eval

    def __deepcopy__(self, _memo: Any) -> "_Called":
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the function gives."""
        found: Tensor = self.run(x)
        return found


if __name__ == "__main__":
    sys.exit(main())
