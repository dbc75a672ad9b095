"""What a scan of sensitivity takes, and how soon its ranking is right.

    python tests/bench/sensitivity.py [--reduced]

Speed is that of networks with random weights, brought to life, on small noise, which changes none
of the shapes of the work; every cell is checked to have the very losses that whole passes of the
edited model have. Ranking is that of trained networks.
"""

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from figures import Figure, report  # noqa: E402
from scenes import residual, scenes, trained  # noqa: E402
from scipy.stats import spearmanr  # type: ignore[import-untyped]  # noqa: E402
from torch import nn  # noqa: E402

from engine.datasets import DataSet, Split, digits  # noqa: E402
from engine.editing import Subject, handler_of, look_at  # noqa: E402
from engine.edits import Edit  # noqa: E402
from engine.job import Job  # noqa: E402
from engine.losses import sample_losses  # noqa: E402
from engine.sensitivities import ScanRequest, SensitivityMap  # noqa: E402
from engine.sensitivity.scanning import Scan  # noqa: E402
from engine.sensitivity.settings import (  # noqa: E402
    bits_setting,
    channels_setting,
    usual_settings,
    weights_setting,
)
from engine.session import open_model  # noqa: E402
from engine.sharing import share, share_for_running  # noqa: E402
from tests.engine.living import alive, settled  # noqa: E402

SETTINGS: tuple[Edit, ...] = (
    *map(channels_setting, (0.2, 0.6)),
    weights_setting(0.7),
    bits_setting(4),
)
CORRELATION, EARLY_CORRELATION = 0.6, 0.9
"""Goals of Spearman's rank correlation with the final map: of estimates, and of 32 images."""


@dataclass(frozen=True)
class Network:
    """One of torchvision's, and the pictures that it is scanned on: their side, and how many."""

    title: str
    name: str
    side: int
    images: int


NETWORKS = (
    Network("ResNet-18", "resnet18", 96, 128),
    Network("ResNet-50", "resnet50", 128, 32),
    Network("MobileNetV2", "mobilenet_v2", 96, 128),
)


def main() -> int:
    """Take all figures and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reduced", action="store_true", help="the smallest networks alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    report(figures(options.reduced), options.json)
    return 0


def figures(reduced: bool) -> Iterator[Figure]:
    """Seconds of scans beside whole passes, of estimates, and how well they rank."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:  # what was kept would go on
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            for network in NETWORKS[:1] if reduced else NETWORKS:
                yield from speed(network)
            yield from ranking("demo", *demo())
            if not reduced:
                model = trained(residual, scenes(), epochs=12)
                yield from ranking("residual", model, scenes())
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


def speed(network: Network) -> Iterator[Figure]:
    """Scan a network, and do the same by whole passes; the numbers must be the same."""
    model, data = living(network)
    subject = look_at(model, (data.training.images[:1],), data)  # type: ignore[attr-defined]
    scan = Scan(ScanRequest(SETTINGS, samples=network.images), subject, data, Job())
    wall, started = time.perf_counter(), time.process_time()
    while scan._results.wants_estimates:
        scan.step(Job(), 0)
    estimate, wall = time.process_time() - started, time.perf_counter() - wall
    started = time.process_time()
    while scan.step(Job(), 10):
        pass
    ours = time.process_time() - started
    started = time.process_time()
    wanted = by_whole_passes(scan, subject, data)
    theirs = time.process_time() - started
    for place, losses in wanted.items():
        assert np.array_equal(scan._results.cell(*place).losses, losses), place
    size = f"{network.images} images of {network.side} x {network.side}"
    yield Figure(
        f"scan of {network.title}, {size}", ours, 0.5, "whole passes", theirs,
        f"{theirs / ours:.1f}x faster, seconds of processor; {len(wanted)} cells, the same bits",
    )  # fmt: skip
    count = sum(one.estimate is not None for one in scan.progress.cells.values())
    yield Figure(
        f"estimate of {network.title}", estimate, 5.0,
        note=f"{count} cells, seconds of processor; {wall:.1f} s by the clock",
    )  # fmt: skip


def by_whole_passes(
    scan: Scan, subject: Subject, data: DataSet
) -> Mapping[tuple[int, int], np.ndarray]:
    """Losses of every cell: decide the edit, carry it out, run the whole model."""
    found, samples = scan.progress, scan._samples
    chunks, start = [], 0
    for stop in samples.rounds:
        chunks += samples.chunks(start, stop)
        start = stop

    def losses(model: nn.Module) -> np.ndarray:
        copy = share_for_running(model)
        parts = []
        with torch.no_grad():
            for chunk in chunks:
                for inputs, labels in data.training.at(
                    [samples._places[at] for at in chunk]
                ).batches(len(chunk)):
                    parts.append(sample_losses(copy(inputs), labels, data).numpy())
        return np.concatenate(parts)

    assert np.array_equal(scan._results.base().losses, losses(subject.model))
    wanted = {}
    for place, cell in found.cells.items():
        if not cell.refusal:
            edit = found.edit(*place)
            handler = handler_of(edit)
            decision = handler.decide(edit, subject, Job())
            model = share(subject.model)
            handler.carry_out(decision, model)
            wanted[place] = losses(model)
    return wanted


def ranking(name: str, model: nn.Module, data: DataSet) -> Iterator[Figure]:
    """How near the estimate and the map of 32 images come to the order of the final map."""
    assert isinstance(data.training, Split)
    subject = look_at(model, (data.training.images[:1],), data)
    scan = Scan(ScanRequest(usual_settings(subject.tree)), subject, data, Job())
    while scan.progress.samples <= 32:
        early = scan.progress
        scan.step(Job(), 0)
    while scan.step(Job(), 10):
        pass
    final = scan.progress
    guesses = {key: one.estimate for key, one in final.cells.items()}
    firsts = {key: one.rise for key, one in early.cells.items()}
    for what, goal, figures in (
        ("the estimate", CORRELATION, guesses),
        ("the map of 32 images", EARLY_CORRELATION, firsts),
    ):
        every, by_setting = correlations(figures, final)
        yield Figure(
            f"{name}: 1 - rank correlation of {what} with that of 256", 1 - every, 1 - goal,
            note=f"not seconds; mean within a setting {by_setting:.2f}",
        )  # fmt: skip


def correlations(
    figures: Mapping[tuple[int, int], float | None], final: SensitivityMap
) -> tuple[float, float]:
    """Spearman's rank correlation over all cells, and its mean over settings."""
    rises = {key: one.rise for key, one in final.cells.items() if one.rise is not None}
    pairs = {
        key: (value, rises[key])
        for key, value in figures.items()
        if value is not None and key in rises
    }

    def of(chosen: list[tuple[float, float]]) -> float:
        return float(spearmanr([one for one, _ in chosen], [one for _, one in chosen]).statistic)

    columns = range(len(final.settings))
    each = [[pair for key, pair in pairs.items() if key[1] == column] for column in columns]
    return of(list(pairs.values())), float(np.mean([of(one) for one in each if len(one) > 2]))


def living(network: Network) -> tuple[nn.Module, DataSet]:
    """A network whose outputs mean something to the eye of a test, and noise for it."""
    import torchvision

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(network.images, 3, network.side, network.side, generator=generator)
    split = Split(images, torch.randint(1000, (network.images,), generator=generator))
    model = alive(torchvision.models.get_model(network.name, weights=None))
    settled(model, (images[:8].double(),))
    return model.float(), DataSet("noise", (), split, split, "noise")


def demo() -> tuple[nn.Module, DataSet]:
    """The demo, which is trained, and its digits."""
    return open_model("demo", Job())._opened.model, digits()


if __name__ == "__main__":
    sys.exit(main())
