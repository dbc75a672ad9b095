"""Train the demo network on handwritten digits and write the weights that ship beside this file.

Usage: python resources/demo/train.py [--out FILE]

The recipe was fixed without the validation split, which is looked at once, after training. One
machine and one PyTorch version give the same weights each time; others round differently. (The
files may differ all the same: safetensors writes its metadata in no fixed order.)
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import Generator, Tensor, nn

if importlib.util.find_spec("engine") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.datasets import SPLIT_SEED, Split, digits
from engine.sources.demo import DigitsNet

TRAINING_SEED = 0
EPOCHS = 100
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1

# One pixel of an 8-pixel image is a quarter in the [-1, 1] coordinates of grid_sample.
MAX_SHIFT = 0.2
MAX_ROTATION = math.radians(12)
MAX_SHEAR = 0.15
MAX_SCALING = 0.15


def train(
    seed: int = TRAINING_SEED, epochs: int = EPOCHS, peak_learning_rate: float = PEAK_LEARNING_RATE
) -> DigitsNet:
    """Train a network on the training split and return it in eval mode.

    `seed` decides the initial weights, the order of the images and their distortions. The caller's
    random state is left as it was. What is returned is the state after the last epoch, whatever
    its accuracy.
    """
    with _one_thread():
        return _train(seed, epochs, peak_learning_rate)


def _train(seed: int, epochs: int, peak_learning_rate: float) -> DigitsNet:
    split = digits().training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsNet()
    generator = torch.Generator().manual_seed(seed)
    steps_per_epoch = len(split) // BATCH_SIZE
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=peak_learning_rate,
        total_steps=epochs * steps_per_epoch,
        pct_start=0.2,
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)

    model.train()
    for _ in range(epochs):
        # A batch of the few images left over would give batch norm poor statistics; they are
        # dropped, and the next shuffle picks others.
        order = torch.randperm(len(split), generator=generator)[: steps_per_epoch * BATCH_SIZE]
        for chosen in order.split(BATCH_SIZE):
            loss = loss_of(model(distort(split.images[chosen], generator)), split.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run the block on one processor core.

    The number of threads decides the order of sums, and so the last bits of the weights. Images
    this small gain little from a second thread, and training takes seven times as long with one
    when another program competes for the cores, since the threads wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def distort(images: Tensor, generator: Generator) -> Tensor:
    """Return (N, C, H, W) images, each shifted, turned, slanted and scaled by its own chance."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle = uniform(MAX_ROTATION)
    width, height = 1 + uniform(MAX_SCALING), 1 + uniform(MAX_SCALING)
    slant = uniform(MAX_SHEAR)
    rows = [
        torch.stack([width * angle.cos(), slant - angle.sin(), uniform(MAX_SHIFT)], dim=1),
        torch.stack([angle.sin(), height * angle.cos(), uniform(MAX_SHIFT)], dim=1),
    ]
    grid = nn.functional.affine_grid(
        torch.stack(rows, dim=1), list(images.shape), align_corners=False
    )
    return nn.functional.grid_sample(images, grid, align_corners=False)


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Return the fraction of `split` that `model` classifies correctly, in [0, 1]."""
    correct = sum(
        int((model(images).argmax(dim=1) == labels).sum()) for images, labels in split.batches(256)
    )
    return correct / len(split)


def save(model: DigitsNet, validation_accuracy: float, path: Path) -> None:
    """Write the weights to `path`, whole or not at all."""
    metadata = {
        "architecture": "engine.sources.demo:DigitsNet",
        "validation_accuracy": f"{validation_accuracy:.6f}",
        "split_seed": str(SPLIT_SEED),
        "training_seed": str(TRAINING_SEED),
    }
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(to_safetensors(model.state_dict(), metadata))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo network on handwritten digits.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).with_name("digits.safetensors"),
        metavar="FILE",
        help="where to write the weights (default: %(default)s)",
    )
    out: Path = parser.parse_args().out

    start = time.perf_counter()
    model = train()
    seconds = time.perf_counter() - start
    validation_accuracy = accuracy(model, digits().validation)
    save(model, validation_accuracy, out)

    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"parameters           {parameters:,}")
    print(f"training accuracy    {accuracy(model, digits().training):.2%}")
    print(f"validation accuracy  {validation_accuracy:.2%}")
    print(f"training time        {seconds:.0f} s")
    print(f"written to           {out}")


if __name__ == "__main__":
    main()
