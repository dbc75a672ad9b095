"""torchvision's classification and segmentation models at the smallest inputs that they take."""

import torch
import torchvision
from torch import nn
from torchvision.models import get_model, list_models

CLASSIFIERS = tuple(list_models(torchvision.models))
SEGMENTATION = tuple(list_models(torchvision.models.segmentation))
MODELS = (*CLASSIFIERS, *SEGMENTATION)

QUICK = (
    "lraspp_mobilenet_v3_large", "mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t",
)  # fmt: skip
"""Small and different from each other: what the quick tests ask."""

_PIXELS = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224}


def pixels_of(name: str) -> int:
    """Height and width of the smallest input."""
    if name.startswith("vit_"):
        return 2 * int(name.rpartition("_")[2])  # 2 × 2 patches
    return _PIXELS.get(name, 32)


def built(name: str) -> nn.Module:
    """The model with random weights, in evaluation mode."""
    settings: dict[str, object] = {}
    if name.startswith("vit_"):
        settings["image_size"] = pixels_of(name)
    if name in ("googlenet", "inception_v3"):
        settings["init_weights"] = False
    if name in SEGMENTATION:
        settings["weights_backbone"] = None
    return get_model(name, weights=None, **settings).eval()


def outlined(name: str) -> nn.Module:
    """The model without weights, where torchvision can build it so."""
    try:
        with torch.device("meta"):
            return built(name)
    except NotImplementedError:  # RegNet computes its widths with tensors
        return built(name)
