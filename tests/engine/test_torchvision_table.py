"""Every figure that torchvision publishes of its models, counted again."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine.energy.estimates import EnergySettings
from engine.energy.model import estimate
from engine.layers import ROOT, LayerId
from engine.operators import Work
from engine.sources.architectures import Architecture, build
from engine.sources.libraries import torchvision_models
from engine.tracing import Trace, layer_tree, sample_inputs, trace

# Over about a second each.
LARGE = (
    "densenet1", "densenet2", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
    "efficientnet_v2", "maxvit", "mvit", "swin3d", "swin_b", "swin_s", "swin_v2_b", "swin_v2_s",
    "regnet_y_128gf", "vit_h_14", "vit_l", "quantized_resnext", "resnet152",
)  # fmt: skip

# Boxes that random weights keep are others than the published ones did.
DEPENDS_ON_DATA = (
    "fasterrcnn_mobilenet_v3_large_320_fpn-COCO_V1", "fasterrcnn_mobilenet_v3_large_fpn-COCO_V1",
    "fasterrcnn_resnet50_fpn-COCO_V1", "keypointrcnn_resnet50_fpn-COCO_LEGACY",
    "maskrcnn_resnet50_fpn-COCO_V1",
)  # fmt: skip
QUICK_TO_RUN = "fasterrcnn_mobilenet_v3_large_320_fpn"

# One of each family is counted by torch's own counter as well.
COUNTED_TWICE = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
    "lraspp_mobilenet_v3_large", "mnasnet1_0", "mobilenet_v3_large", "mvit_v2_s", "r3d_18",
    "raft_large", "raft_small", "regnet_y_400mf", "resnet50", "s3d", "shufflenet_v2_x1_0",
    "squeezenet1_0", "swin3d_t", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16",
)  # fmt: skip


def entries(*, detection: bool) -> Iterator[Any]:
    """Names of models with weights, once for each pair of published figures."""
    for name in torchvision_models.names():
        if (torchvision_models.task_of(name) == "detection") is not detection:
            continue
        seen = set()
        for entry in torchvision_models.entries(name):
            figures = entry.meta["num_params"], entry.meta["_ops"]
            if figures not in seen:
                seen.add(figures)
                slow = name != QUICK_TO_RUN if detection else name.startswith(LARGE)
                marks = [pytest.mark.slow] if slow else []
                yield pytest.param(name, entry, id=f"{name}-{entry.name}", marks=marks)


def built(name: str, entry: Any, device: str) -> Architecture:
    made = build(f"torchvision:{name}@{entry.name}", device)
    assert sum(one.numel() for one in made.model.parameters()) == entry.meta["num_params"]
    return made


def macs_of(found: Trace) -> int:
    return sum(found.operators.macs().values())


def check_attribution(model: nn.Module, found: Trace) -> None:
    """Every operator has a rule and a layer, and children add up to their parents."""
    assert not found.operators.unattributed()
    tree = layer_tree(model, found.output_shapes, lambda _module, layer: layer)
    own = found.operators.macs()
    assert {operator.layer for operator in found.operators} <= {layer.id for layer in tree}
    sums = tree.inclusive(own)
    for layer in tree:
        below = sum(sums.get(child, 0) for child in tree.children(layer.id))
        assert sums.get(layer.id, 0) == own.get(layer.id, 0) + below
    assert sums[ROOT] == sum(one.macs or 0 for one in found.operators if one.work is Work.PRODUCT)


def is_as_published(macs: int, entry: Any) -> bool:
    published = entry.meta["_ops"]
    digits = len(str(published).partition(".")[2])
    return math.isclose(macs / 1e9, published, rel_tol=0.005, abs_tol=0.5 * 10**-digits)


def counted_by_torch(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides its products from the counter too
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return int(counter.get_total_flops()) // 2


def check_energy(found: Trace, batch: int) -> None:
    """Every product is mapped, and its arithmetic is that of the MACs that were counted."""
    series = estimate(found.operators, EnergySettings(), batch).series
    assert not series.unattributed
    joules = macs_of(found) * EnergySettings().hardware.joules_per_mac
    assert series.by_part()["compute"] == pytest.approx(joules / batch)
    assert min(one.value for parts in series.layers.values() for one in parts.values()) >= 0


@pytest.mark.parametrize(("name", "entry"), list(entries(detection=False)))
def test_published_figures_without_running_anything(name: str, entry: Any) -> None:
    made = built(name, entry, "meta")
    inputs = sample_inputs(made.inputs)
    found = trace(made.model, inputs)
    assert found.ran == "fake"
    assert is_as_published(macs_of(found), entry)
    check_attribution(made.model, found)
    check_energy(found, made.inputs[0].shape[0])
    if name in COUNTED_TWICE:
        assert macs_of(found) == counted_by_torch(made.model, tuple(x.to("meta") for x in inputs))


@pytest.mark.parametrize(("name", "entry"), list(entries(detection=True)))
def test_detection_by_one_real_run(name: str, entry: Any) -> None:
    made = built(name, entry, "cpu")
    inputs = sample_inputs(made.inputs)
    found = trace(made.model, inputs)
    assert found.ran == "real"
    assert macs_of(found) == counted_by_torch(made.model, inputs)
    depends = f"{name}-{entry.name}" in DEPENDS_ON_DATA
    assert depends or is_as_published(macs_of(found), entry)
    check_attribution(made.model, found)
    check_energy(found, made.inputs[0].shape[0])


def test_resnet50_to_the_last_parameter() -> None:
    made = build("resnet50", "meta")
    own = trace(made.model, sample_inputs(made.inputs)).operators.macs()
    assert sum(own.values()) == 4_089_184_256
    assert sum(one.numel() for one in made.model.parameters()) == 25_557_032
    assert own[LayerId("conv1")] == 112 * 112 * 64 * 147
    assert own[LayerId("fc")] == 2048 * 1000
