"""Small living networks of every family that edits know, and the round trips that each passes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from engine.editing import Subject, carried_out, handler_of, look_at
from engine.edits import AppliedEdit, Edit
from engine.export.capture import _for_any_batch
from engine.job import Job
from engine.recipe import Recipe, read_recipe, write_recipe
from engine.requests import InputSpec
from engine.sources import description
from engine.sources.architectures import Architecture
from engine.sources.description import describe, read_description, rebuild, to_metadata
from tests.engine.living import alive

Make = Callable[[], nn.Module]


def vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(16, 8, 2, 4, 32, 48, num_classes=5)


def swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([2, 2], 16, [2, 2], [4, 8], [4, 4], num_classes=5)


def swin_v2() -> nn.Module:
    from torchvision.models.swin_transformer import (
        PatchMergingV2,
        SwinTransformer,
        SwinTransformerBlockV2,
    )

    return SwinTransformer(
        [2, 2], 16, [2, 2], [4, 8], [4, 4],
        num_classes=5, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2,
    )  # fmt: skip


def maxvit() -> nn.Module:
    from torchvision.models.maxvit import MaxVit

    return MaxVit((32, 32), 16, 4, [16, 32], [1, 2], 8, 0.0, num_classes=5)


def timm_vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=32, num_heads=4, depth=2, num_classes=5
    )
    return model


def resnet18() -> nn.Module:
    from torchvision import models

    return models.ResNet(models.resnet.BasicBlock, [2, 2, 1, 1], num_classes=5)


def mobilenet_v2() -> nn.Module:
    from torchvision import models

    setting = [[1, 8, 1, 1], [6, 12, 2, 2], [6, 16, 2, 2]]
    return models.MobileNetV2(5, width_mult=1.0, inverted_residual_setting=setting)


SHAPES: dict[Make, tuple[int, ...]] = {
    vit: (2, 3, 16, 16),
    swin: (2, 3, 36, 36),  # maps of 18x18 and 9x9, padded to windows of 4x4
    swin_v2: (2, 3, 36, 36),
    maxvit: (2, 3, 32, 32),
    timm_vit: (2, 3, 32, 32),
    resnet18: (2, 3, 32, 32),
    mobilenet_v2: (2, 3, 32, 32),
}
ATTENTION = (vit, swin, swin_v2, maxvit, timm_vit)


@cache
def living(make: Make, dtype: torch.dtype = torch.double) -> Subject:
    """A small network that is alive, and looked at; the same for every test, which leave it be."""
    torch.manual_seed(0)
    model = alive(make()).to(dtype)
    return look_at(model, (torch.randn(SHAPES[make], dtype=dtype),))


def decided(edit: Edit, subject: Subject) -> AppliedEdit:
    return AppliedEdit(edit, handler_of(edit).decide(edit, subject, Job()))


def edited(edit: Edit, subject: Subject) -> Subject:
    return carried_out(decided(edit, subject), subject)


def layers_for(method: str, subject: Subject) -> tuple[Any, ...]:
    return tuple(layer.id for layer in subject.tree if method in layer.methods)


@torch.inference_mode()
def output(model: nn.Module, subject: Subject) -> Tensor:
    found: Tensor = model(*subject.inputs)
    return found


def off(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((got - wanted).abs().max() / wanted.abs().max())


def reopened(subject: Subject, make: Make, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """The model written as a checkpoint, its text and tensors read again, and built anew."""
    inputs = (InputSpec(SHAPES[make]),)
    dtype = subject.inputs[0].dtype

    def build(source: str, device: str = "cpu", trusted: object = ()) -> Architecture:
        with torch.random.fork_rng(), torch.device(device):
            return Architecture(source, make().eval().to(dtype), inputs)

    monkeypatch.setattr(description, "build", build)
    found, tensors = describe(subject.model, "toy", inputs, trained=False)
    again = rebuild(read_description(to_metadata(found), "toy"), load(save(tensors)))
    return look_at(again, subject.inputs)


def replayed(applied: list[AppliedEdit], subject: Subject, folder: Path) -> Subject:
    """The state that the edits lead to when a recipe of them is written and read again."""
    path = folder / "edits.json"
    write_recipe(path, Recipe("toy", "", tuple(applied)))
    read = read_recipe(path).edits
    assert read == tuple(applied)
    for one in read:
        subject = carried_out(one, subject)
    return subject


def assert_round_trips(
    subject: Subject,
    applied: list[AppliedEdit],
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
) -> Subject:
    """The state behind the edits, the same from a recipe and from a checkpoint, bit by bit."""
    after = subject
    for one in applied:
        after = carried_out(one, after)
    wanted = output(after.model, subject)
    for other in (replayed(applied, subject, folder), reopened(after, make, monkeypatch)):
        assert torch.equal(output(other.model, subject), wanted)
        assert other.tree == after.tree
    return after


def exported(subject: Subject) -> Tensor:
    """What the model puts out as an exported program of any batch size."""
    program = _for_any_batch(subject.model, subject.inputs)
    assert program is not None
    with torch.inference_mode():
        found: Tensor = program.module()(*subject.inputs)
    return found
