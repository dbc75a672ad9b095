"""All 80 classifiers of torchvision: everything in them is quantized, evaluated and undone."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from engine.datasets import DataSet, Split
from engine.editing import look_at
from engine.edits import Quantize
from engine.job import Job
from engine.layers import LayerTree
from engine.metrics import ACCURACY
from engine.quantization.quantizing import Quantization
from engine.requests import InputSpec
from engine.session import ModelSession
from engine.sharing import share, share_for_running
from engine.sources.opening import OpenedModel
from engine.state import ModelInfo
from tests.engine.living import alive, settled
from tests.engine.pruning_models import CLASSIFIERS, built, pixels_of

QUICK = ("resnet18", "shufflenet_v2_x0_5", "squeezenet1_1")
FAMILIES = (
    *QUICK, "mobilenet_v2",
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnext50_32x4d", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32",
)  # fmt: skip
"""One of each: their layers are wired as in the larger ones."""

IMAGES = 4

CLOSE = 0.1
"""Error that 16 bits may make, of the outputs' spread. Networks of random weights blow errors up:
8 bits make up to 256 times as much, which tells nothing of a model that somebody trained."""

LARGE = 60e6
"""Parameters above which biases are not corrected, which would take minutes altogether."""


@contextmanager
def _unset() -> Iterator[None]:
    """Build without drawing weights, as all are drawn again."""
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    with mock.patch.multiple(nn.init, **dict.fromkeys(names, lambda tensor, *_, **__: tensor)):
        yield


def images(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(IMAGES, 3, pixels_of(name), pixels_of(name), generator=generator)


@torch.no_grad()
def living(name: str) -> nn.Module:
    with _unset():
        model = built(name)
    return settled(alive(model, dtype=torch.float32), (images(name),))


def opened(name: str, model: nn.Module) -> ModelSession:
    """A session over the living model, with images to calibrate on and to be evaluated by."""
    inputs = images(name)
    split = Split(inputs, torch.arange(IMAGES))
    info = ModelInfo(name, name, (InputSpec(tuple(inputs[:1].shape)),), trained=False)
    session = ModelSession(OpenedModel(info, model, (inputs[:1],), name, ""))
    session._data = DataSet("toy", tuple(map(str, range(1000))), split, split, "a toy")
    return session


def reasons(tree: LayerTree) -> dict[str, str]:
    """Layers that could compute with integers and do not, with what they say of it."""
    return {
        one.id: one.why_float
        for one in tree
        if not one.is_quantized and (one.why_float or "quantize" in one.methods)
    }


def test_there_are_as_many_models_as_torchvision_has() -> None:
    assert len(CLASSIFIERS) == 80


def error_of_16_bits(model: nn.Module, x: Tensor) -> float:
    """Of the outputs with everything in 16 bits, as a share of their spread."""
    subject = look_at(model, (x,))
    edit = Quantize(
        subject.tree.select([""], "quantize"),
        weight_bits=16, activation_bits=16, observer="min-max", bias_correction=False,
    )  # fmt: skip
    rounded = share(model)
    Quantization().carry_out(Quantization().decide(edit, subject, Job()), rounded)
    with torch.inference_mode():
        wanted, got = (share_for_running(one)(x) for one in (model, rounded))
    return float((got - wanted).std() / wanted.std())


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CLASSIFIERS],
)
def test_everything_is_quantized_evaluated_and_undone(name: str) -> None:
    model, job = living(name), Job()
    session = opened(name, model)
    before = session.snapshot.current.tree
    size = sum(layer.parameters for layer in before)
    edit = Quantize(
        before.select([""], "quantize"), calibration_samples=IMAGES, bias_correction=size < LARGE
    )
    fingerprint = session.fingerprint()
    after = session.apply(edit, job).snapshot.current.tree
    counted, of = after.quantized_count()
    assert reasons(after) == {}
    assert counted == of >= len(edit.layers)
    table = session.evaluate(job).snapshot.current.table
    assert 0 <= table[ACCURACY.key].total.value <= 1
    session.undo(job)
    assert session.fingerprint() == fingerprint
    assert session.snapshot.current.tree == before
    if name in FAMILIES:  # layers that are wired wrongly are far off, whatever their bits
        assert error_of_16_bits(model, images(name)) < CLOSE
