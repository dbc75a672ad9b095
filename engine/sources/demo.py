"""The demo network: a small digit classifier with every structure that matters to pruning."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

__all__ = ["INPUT_SHAPE", "WEIGHTS", "DigitsNet"]

INPUT_SHAPE = (1, 1, 8, 8)
WEIGHTS = "demo/digits.safetensors"
DATA = "digits"


class DigitsNet(nn.Module):
    """Classify images of shape (N, 1, 8, 8), values in [0, 1], as logits of shape (N, 10).

    It holds a plain convolution, a residual block whose width changes (so that its shortcut is a
    projection), a residual block whose shortcut is the identity, a depthwise-separable block and
    a linear head. Every submodule runs exactly once per pass, so that hooks, costs and graph nodes
    match modules one to one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn_relu(1, 32, kernel=3)
        self.stage1 = nn.Sequential(
            OrderedDict(
                block0=_ResidualBlock(32, 64, stride=2),
                block1=_ResidualBlock(64, 64, stride=1),
            )
        )
        self.stage2 = nn.Sequential(
            OrderedDict(
                depthwise=_conv_bn_relu(64, 64, kernel=3, groups=64),
                pointwise=_conv_bn_relu(64, 128, kernel=1),
            )
        )
        self.head = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(128, 10),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images of shape (N, 1, 8, 8) to logits of shape (N, 10)."""
        features = self.stage2(self.stage1(self.stem(images)))
        logits: Tensor = self.head(features)
        return logits


class _ResidualBlock(nn.Module):
    """Add two 3x3 convolutions to their input, projected where width or stride changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, kernel=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(outputs, outputs, kernel=3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(
                OrderedDict(
                    conv=_conv(inputs, outputs, kernel=1, stride=stride),
                    bn=nn.BatchNorm2d(outputs),
                )
            )
        self.relu2 = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(features)))))
        shortcut = features if self.skip is None else self.skip(features)
        out: Tensor = self.relu2(residual + shortcut)
        return out


def _conv_bn_relu(inputs: int, outputs: int, *, kernel: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=_conv(inputs, outputs, kernel=kernel, groups=groups),
            bn=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(),
        )
    )


def _conv(inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the image size at stride 1.

    It has no bias: a batch norm follows, and would subtract it.
    """
    return nn.Conv2d(
        inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
