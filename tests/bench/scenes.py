"""The benchmark's task and its networks: digits somewhere on photographs, seeded.

Scikit-learn's handwritten digits, at a random place, size, angle and colour, on patches of the two
photographs that it ships: 32x32, three channels, ten classes. Training and validation share
neither a digit's drawing nor a region of a photograph.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

from engine.datasets import DataSet, Split, digits

SIDE = 32
TRAINING, VALIDATION = 12_000, 5_000
MAX_ANGLE = math.radians(25)
SCALES = (0.45, 0.75)  # side of the digit over that of the picture
CONTRAST = (0.35, 0.9)
NOISE = 0.04


@functools.cache
def scenes(training: int = TRAINING, validation: int = VALIDATION) -> DataSet:
    """The task; every call with the same counts gives the same pictures.

    Pictures are float32 (N, 3, 32, 32), about -1 to 1.
    """
    source = digits()
    assert isinstance(source.training, Split)
    assert isinstance(source.validation, Split)
    left, right = _photographs()
    return DataSet(
        name="scenes",
        classes=source.classes,
        training=_pictures(source.training, left, training, seed=1),
        validation=_pictures(source.validation, right, validation, seed=2),
        description="Digits at a random place, size and angle on photographs, 32 × 32.",
    )


def _photographs() -> tuple[list[Tensor], list[Tensor]]:
    """Left parts of both photographs for training, right parts for validation; (3, H, W)."""
    from sklearn.datasets import load_sample_images

    whole = [
        interpolate(torch.tensor(one).permute(2, 0, 1)[None].float() / 255, scale_factor=0.5)[0]
        for one in load_sample_images().images
    ]
    cut = [int(one.shape[2] * 0.7) for one in whole]
    return (
        [one[:, :, :at] for one, at in zip(whole, cut, strict=True)],
        [one[:, :, at:] for one, at in zip(whole, cut, strict=True)],
    )


def _pictures(drawings: Split, photographs: list[Tensor], count: int, seed: int) -> Split:
    generator = Generator().manual_seed(seed)
    chosen = torch.randint(len(drawings), (count,), generator=generator)
    shape = _placed(drawings.images[chosen], generator)
    grounds = torch.stack([_patch(photographs, generator) for _ in range(count)])
    colours = torch.rand((count, 3, 1, 1), generator=generator).round()  # of the ink, channelwise
    low, high = CONTRAST
    strength = torch.rand((count, 1, 1, 1), generator=generator) * (high - low) + low
    pictures = grounds + shape * strength * (colours - grounds)
    pictures += NOISE * torch.randn(pictures.shape, generator=generator)
    return Split(pictures * 2 - 1, drawings.labels[chosen])


def _placed(drawings: Tensor, generator: Generator) -> Tensor:
    """Each (1, 8, 8) drawing turned, sized and moved within (1, 32, 32)."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(len(drawings), generator=generator) * (high - low) + low

    angle, scale = uniform(-MAX_ANGLE, MAX_ANGLE), uniform(*SCALES)
    reach = 1 - scale
    x, y = uniform(-1, 1) * reach, uniform(-1, 1) * reach
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = [
        torch.stack([cos, sin, -(cos * x + sin * y)], 1),
        torch.stack([-sin, cos, sin * x - cos * y], 1),
    ]
    grid = affine_grid(torch.stack(rows, 1), [len(drawings), 1, SIDE, SIDE], align_corners=False)
    return grid_sample(drawings, grid, align_corners=False)


def _patch(photographs: list[Tensor], generator: Generator) -> Tensor:
    photograph = photographs[int(torch.randint(len(photographs), (), generator=generator))]
    _, height, width = photograph.shape
    top = int(torch.randint(height - SIDE + 1, (), generator=generator))
    left = int(torch.randint(width - SIDE + 1, (), generator=generator))
    return photograph[:, top : top + SIDE, left : left + SIDE]


class Block(nn.Module):
    """Two 3x3 convolutions added to their input, which is projected where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        inner = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(inner)) + self.skip(x))
        return out


def residual() -> nn.Module:
    """A residual network of 3 stages of 2 blocks: convolutions and one small linear layer."""
    widths, layers = (24, 48, 96), []
    before = widths[0]
    for at, width in enumerate(widths):
        layers += [Block(before, width, 1 if at == 0 else 2), Block(width, width, 1)]
        before = width
    return nn.Sequential(
        nn.Conv2d(3, widths[0], 3, 2, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(before, 10),
    )


def with_large_linear() -> nn.Module:
    """Convolutions and, as in AlexNet, large linear layers with most of the weights."""
    layers: list[nn.Module] = []
    before = 3
    for width, pool in ((32, True), (64, True), (96, False), (96, True)):
        layers += [nn.Conv2d(before, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
        before = width
    layers += [nn.Flatten()]
    before *= (SIDE // 8) ** 2
    for width in (512, 512):
        layers += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, 10))


def trained(
    make: Callable[[], nn.Module], data: DataSet, epochs: int, seed: int = 0, peak: float = 4e-3
) -> nn.Module:
    """The network after so many epochs of AdamW under a one-cycle learning rate, in eval mode."""
    assert isinstance(data.training, Split)
    images, labels = data.training.images, data.training.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().train()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        steps = epochs * (len(labels) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps)
        for _ in range(epochs):
            order = torch.randperm(len(labels))
            for chosen in order[: len(labels) // _BATCH * _BATCH].split(_BATCH):
                loss = nn.functional.cross_entropy(
                    model(images[chosen]), labels[chosen], label_smoothing=0.05
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


_BATCH = 128
