"""Networks of random weights that recognise kinds of random pictures, with the margins of trained
ones: what two ways of computing one network may be compared on.

A fresh network is no such thing. Its batch norms are the identity, it says the same of all
pictures, and a deep one multiplies the least change from layer to layer: of MobileNetV2, rounded to
8 bits, half the predictions change when its input does in the sixth digit, in any runtime.
"""

from typing import Any

import torch
import torchvision
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.efficientnet import MBConv
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock

from engine.datasets import DataSet, Split

KINDS = 10
DAMPING = 0.1
CENTRE = 4.0  # of depthwise filters, in standard deviations of their weights
FITTED_ON = 200
VARIETY = 0.2


def pictures(count: int, side: int, seed: int, kinds: int = KINDS) -> Split:
    """Random pictures (count, 3, side, side) around those of a few kinds, and their kinds."""
    generator = Generator().manual_seed(seed)
    of = torch.randint(kinds, (count,), generator=generator)
    patterns = _clouds(kinds, side, (2, 4, 8, 16), Generator().manual_seed(77))
    own = _clouds(count, side, (1, 4, 16, 64), generator)
    return Split((patterns[of] + VARIETY * own) / (1 + VARIETY**2) ** 0.5, of)


def _clouds(count: int, side: int, sizes: tuple[int, ...], generator: Generator) -> Tensor:
    """Sums of noise at several scales, of variance 1."""
    total = torch.zeros(count, 3, side, side)
    for size in sizes:
        noise = torch.randn(count, 3, size, size, generator=generator)
        total += interpolate(noise, size=(side, side), mode="bilinear")
    return total / total.std((1, 2, 3), keepdim=True)


def task(side: int, calibration: int, samples: int) -> DataSet:
    """Pictures to calibrate on, and others to judge by."""
    return DataSet(
        name="random pictures",
        classes=tuple(map(str, range(1000))),
        training=pictures(calibration, side, 1),
        validation=pictures(samples, side, 2),
        description="",
    )


@torch.no_grad()
def recognizing(name: str, side: int) -> nn.Module:
    """One of torchvision's classifiers, its last layer fitted to the kinds of pictures.

    As in trained networks residual branches are weak beside what they are added to, depthwise
    filters mostly see what they are centred on, and batch norms have their input's statistics.
    """
    torch.manual_seed(0)
    more: dict[str, Any] = {"image_size": side} if name.startswith("vit") else {}
    model = getattr(torchvision.models, name)(weights=None, **more).eval()
    for module in model.modules():
        _calm(module)
    split = pictures(FITTED_ON, side, 3)
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        model(split.images)
    model.eval()
    _fit_head(model, split)
    return model


def _calm(module: nn.Module) -> None:
    last: Any = None
    if isinstance(module, BasicBlock):
        last = module.bn2
    elif isinstance(module, InvertedResidual) and module.use_res_connect:
        last = module.conv[-1]
    elif isinstance(module, MBConv) and module.use_res_connect:
        last = module.block[-1][1]
    if last is not None:
        last.weight.fill_(DAMPING)
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        middle = module.kernel_size[0] // 2
        module.weight[:, :, middle, middle] += CENTRE * module.weight.std()


def _fit_head(model: nn.Module, split: Split) -> None:
    """Ridge regression of +1 for the picture's kind and -1 for all else."""
    head = [one for one in model.modules() if isinstance(one, nn.Linear)][-1]
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for part in split.images.split(20):
        model(part)
    handle.remove()
    features = torch.cat(seen).double()
    wanted = -torch.ones(len(features), head.out_features, dtype=torch.float64)
    wanted[torch.arange(len(features)), split.labels] = 1
    centred, mean = features - features.mean(0), features.mean(0)
    products = centred @ centred.T
    ridge = 0.1 * products.diagonal().mean() * torch.eye(len(features), dtype=torch.float64)
    weight = centred.T @ torch.linalg.solve(products + ridge, wanted - wanted.mean(0))
    head.weight.copy_(weight.T + 0.1 * weight.std() * torch.randn(weight.T.shape))
    head.bias.copy_(wanted.mean(0) - mean @ weight)
