"""Architectures that can be built by name: the demo's and torchvision's."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from engine.errors import ModelNotFound, ModelUnreadable
from engine.requests import InputSpec
from engine.sources import demo

DEMO = "demo"
TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class Architecture:
    """A model without trained weights, and what it takes.

    Attributes:
        source: the name that builds it again: ``demo`` or ``torchvision:resnet50``.
        inputs: what its forward takes.
    """

    source: str
    model: nn.Module
    inputs: tuple[InputSpec, ...]


def build(source: str, device: str = "cpu") -> Architecture:
    """The architecture with seeded random weights, in evaluation mode.

    Args:
        source: ``demo``, or a torchvision name with or without its prefix.
        device: ``meta`` for the structure alone.

    Raises:
        ModelNotFound: no architecture has that name; the message offers near ones.
        ModelUnreadable: there is one, but it takes inputs that are not supported yet.
    """
    try:
        return _build(source, device)
    except NotImplementedError:  # RegNets compute their widths with tensors, which must be real
        made = _build(source, "cpu")
        return replace(made, model=made.model.to(device))


def _build(source: str, device: str) -> Architecture:
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)  # the same "random" weights every time, so that recipes fit again
        if source == DEMO:
            return Architecture(DEMO, demo.DigitsNet().eval(), (InputSpec(demo.INPUT_SHAPE),))
        return _torchvision(source.removeprefix(TORCHVISION))


def _torchvision(name: str) -> Architecture:
    from torchvision import models  # two seconds, which the demo need not wait for

    known = models.list_models()
    if name not in known:
        near = get_close_matches(name, [DEMO, *known], n=3)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ModelNotFound(f"There is no model and no file “{name}”.{meant}")
    size = _published_size(models.get_model_weights(name))
    if size is None:
        raise ModelUnreadable(
            f"{name} takes no single image of fixed size (detection, video and optical flow "
            "models do not), which cannot be opened yet.",
            "Choose a classification or segmentation model.",
        )
    extra: dict[str, Any] = {"weights_backbone": None} if "segmentation" in _package(name) else {}
    # Two families warn that their initialisation will change; it is kept as it is.
    if name in ("googlenet", "inception_v3"):
        extra["init_weights"] = False
    model = models.get_model(name, weights=None, **extra).eval()
    return Architecture(TORCHVISION + name, model, (InputSpec((1, 3, size, size)),))


def _package(name: str) -> str:
    from torchvision import models

    return str(models.get_model_builder(name).__module__)


def _published_size(weights: Any) -> int | None:
    """Height and width that the published weights were evaluated at; None if not an image's."""
    for entry in weights:
        transforms = entry.transforms()
        for name in ("crop_size", "resize_size"):
            size = getattr(transforms, name, None)
            if isinstance(size, list | tuple) and size and "min_size" in entry.meta:
                if type(transforms).__name__ not in ("ImageClassification", "SemanticSegmentation"):
                    return None
                return int(size[0])
    return None
