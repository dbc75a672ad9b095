"""Architectures by name: built as their weights entries build them, without a download."""

import re
import sys
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum

from engine.errors import ModelNotFound, ModelUnreadable
from engine.job import Job
from engine.requests import InputSpec, OpenRequest, Preprocessing
from engine.sources.architectures import (
    RANDOM_WEIGHTS,
    CatalogueName,
    build,
    open_architecture,
)
from engine.sources.libraries import timm_models, torchvision_models
from engine.tracing import sample_inputs


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("it wanted to download")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


def shapes(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: (tuple(one.shape), one.dtype) for name, one in model.state_dict().items()}


# As torchvision builds them

A_FEW = {
    "resnet50", "googlenet", "inception_v3", "densenet121", "vit_b_16", "regnet_y_400mf",
    "fcn_resnet50", "lraspp_mobilenet_v3_large", "fasterrcnn_resnet50_fpn", "ssd300_vgg16",
    "r3d_18", "mvit_v2_s", "raft_small", "quantized_resnet18", "vgg16",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in A_FEW else [pytest.mark.slow])
        for name in torchvision_models.names()
    ],
)
def test_each_entry_builds_what_torchvision_builds_with_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entry in torchvision_models.entries(name):
        with monkeypatch.context() as patch:
            # What torchvision does when the download has succeeded.
            patch.setattr(WeightsEnum, "get_state_dict", lambda *_args, **_kwargs: {})
            patch.setattr(nn.Module, "load_state_dict", lambda *_args, **_kwargs: None)
            fixed = torchvision_models._fixed(name)
            # RegNets compute their widths with tensors, which must be real.
            with torch.device("cpu" if "regnet" in name else "meta"):
                theirs = models.get_model(
                    name, weights=torchvision_models.float_entry(entry), **fixed
                ).eval()
        ours = build(f"{name}@{entry.name}", "meta").model
        assert repr(ours) == repr(theirs)
        assert shapes(ours) == shapes(theirs)
        assert {one.device.type for one in ours.state_dict().values()} <= {"meta"}
        trains = [one.requires_grad for one in theirs.parameters()]
        assert [one.requires_grad for one in ours.parameters()] == trains
        assert not ours.training


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "swin_v2_t", "vit_b_32"])
def test_random_weights_are_the_same_every_time(name: str) -> None:
    before = torch.get_rng_state()
    first, second = (build(name).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[one], second[one]) for one in first)
    assert torch.equal(torch.get_rng_state(), before)
    assert shapes(build(name, "meta").model) == shapes(build(name).model)


def test_loading_works_as_ever_after_a_model_was_built() -> None:
    load = nn.Module.load_state_dict
    with pytest.raises(ModelUnreadable):
        build("resnet18(num_classes=-3)")
    model = build("squeezenet1_1").model
    assert nn.Module.load_state_dict is load
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})


# What is known of a model beside its structure


@pytest.mark.parametrize(
    ("name", "task", "inputs", "classes"),
    [
        ("resnet50", "classification", ["1x3x224x224"], 1000),
        ("efficientnet_b7", "classification", ["1x3x600x600"], 1000),
        ("vit_b_16@IMAGENET1K_SWAG_E2E_V1", "classification", ["1x3x384x384"], 1000),
        ("quantized_resnet18", "classification", ["1x3x224x224"], 1000),
        ("fcn_resnet50", "segmentation", ["1x3x520x520"], 21),
        ("retinanet_resnet50_fpn", "detection", ["1x3x800x800[]"], 91),
        ("ssd300_vgg16", "detection", ["1x3x300x300[]"], 91),
        ("r3d_18", "video", ["1x3x16x112x112"], 400),
        ("raft_small", "optical flow", ["1x3x512x512"] * 2, 0),
    ],
)
def test_task_inputs_and_classes(name: str, task: str, inputs: list[str], classes: int) -> None:
    made = build(name, "meta")
    assert made.source == f"torchvision:{name}"
    assert (made.task, [str(one) for one in made.inputs]) == (task, inputs)
    assert len(made.classes) == classes


def test_preprocessing_is_that_of_the_weights() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert build("resnet50@IMAGENET1K_V2", "meta").preprocessing == Preprocessing(
        "RGB", (232,), (224, 224), "bilinear", mean, std
    )
    assert build("resnet50@IMAGENET1K_V1", "meta").preprocessing == Preprocessing(
        "RGB", (256,), (224, 224), "bilinear", mean, std
    )
    assert build("fcn_resnet50", "meta").preprocessing == Preprocessing(
        "RGB", (520,), (), "bilinear", mean, std
    )
    assert build("ssd300_vgg16", "meta").preprocessing == Preprocessing()


def test_the_demo() -> None:
    made = build("demo")
    assert (made.source, made.inputs) == ("demo", (InputSpec((1, 1, 8, 8)),))


# Arguments


@pytest.mark.parametrize(
    ("source", "layer", "count"),
    [
        ("resnet18(num_classes=10)", "fc.weight", 10),
        ("googlenet(num_classes=7)", "fc.weight", 7),
        ("fcn_resnet50(num_classes=5)", "classifier.4.weight", 5),
        ("fasterrcnn_resnet50_fpn(num_classes=3)", "roi_heads.box_predictor.cls_score.weight", 3),
    ],
)
def test_another_number_of_classes(source: str, layer: str, count: int) -> None:
    made = build(source, "meta")
    assert made.model.state_dict()[layer].shape[0] == count
    assert made.source == f"torchvision:{source}"
    assert made.classes == ()
    plain = build(source.partition("(")[0], "meta").model
    assert made.model.state_dict().keys() == plain.state_dict().keys()


def test_arguments_that_published_weights_were_not_made_with() -> None:
    assert "aux_classifier.0.weight" in build("fcn_resnet50", "meta").model.state_dict()
    without = build("fcn_resnet50(aux_loss=False)", "meta").model.state_dict()
    assert "aux_classifier.0.weight" not in without
    assert str(build("vit_b_16(image_size=384)", "meta").inputs[0]) == "1x3x384x384"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("resnet51", ModelNotFound, "There is no model and no file “resnet51”. Did you mean"),
        ("resnet50@V9", ModelNotFound, "resnet50 has no published weights “V9”"),
        ("resnet50(", ModelNotFound, "“resnet50(” is no name"),
        ("resnet50(3)", ModelNotFound, "arguments of “resnet50(3)” cannot be read"),
        ("resnet50(a=b)", ModelNotFound, "cannot be read"),
        ("resnet50(a=__import__('os'))", ModelNotFound, "cannot be read"),
        ("resnet50(**{'a': 1})", ModelNotFound, "cannot be read"),
        ("resnet50()()", ModelNotFound, "cannot be read"),
        ("resnet50(colour=1)", ModelUnreadable, "unexpected keyword argument"),
        ("resnet50(num_classes='many')", ModelUnreadable, "cannot be built"),
        ("resnet50(weights='DEFAULT')", ModelUnreadable, "weights of resnet50 is Secateur's"),
        ("fcn_resnet50(weights_backbone='DEFAULT')", ModelUnreadable, "weights_backbone"),
        ("quantized_resnet50(quantize=True)", ModelUnreadable, "quantize"),
        ("timm:resnet18(checkpoint_path='x')", ModelUnreadable, "checkpoint_path"),
        ("timm:nosuchmodel", ModelNotFound, "timm has no model"),
        ("timm:resnet18@V1", ModelNotFound, "timm calls its weights “pretrained”"),
        ("", ModelNotFound, "is no name"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(
    source: str, error: type[Exception], message: str
) -> None:
    if source.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(error) as caught:
        open_architecture(OpenRequest(source), Job())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4
)


@given(
    st.sampled_from(["torchvision", "timm"]),
    st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True),
    st.dictionaries(st.from_regex(r"[a-z]{1,6}x", fullmatch=True), literals, max_size=3),
    st.sampled_from(["", "IMAGENET1K_V1", "pretrained"]),
)
def test_names_survive_being_written_down(
    library: str, name: str, arguments: dict[str, Any], weights: str
) -> None:
    full = CatalogueName(library, name, arguments, weights)
    assert CatalogueName.parse(str(full)) == full


# Opening


def test_random_weights_say_so() -> None:
    opened = open_architecture(OpenRequest("squeezenet1_1"), Job())
    assert not opened.info.trained
    assert opened.info.notes == (RANDOM_WEIGHTS,)
    assert opened.info.name == "squeezenet1_1"
    assert opened.architecture == opened.info.source == "torchvision:squeezenet1_1"
    assert opened.info.preprocessing is not None


def test_inputs_of_the_users_own() -> None:
    asked = (InputSpec((2, 3, 64, 64)),)
    opened = open_architecture(OpenRequest("squeezenet1_1", inputs=asked), Job())
    assert opened.info.inputs == asked
    assert opened.inputs[0].shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    "name", ["densenet121", "mnasnet0_5", "quantized_resnet18", "squeezenet1_1"]
)
def test_published_tensors_are_loaded_as_torchvision_loads_them(name: str) -> None:
    fresh = build(name).model.state_dict()
    tensors = OrderedDict((key, torch.full_like(one, 2)) for key, one in fresh.items())
    tensors._metadata = fresh._metadata  # MNASNet loads nothing without its version
    if name == "densenet121":  # whose files have names of long ago
        tensors = OrderedDict(
            (re.sub(r"\.norm([12])\.(?!num)", r".norm.\1.", key), one)
            for key, one in tensors.items()
        )
    weights = torchvision_models.entries(name)[0].name
    made = torchvision_models.build(CatalogueName("torchvision", name, {}, weights), tensors)
    assert all(bool((one == 2).all()) for one in made.model.state_dict().values())
    assert bool(made.notes) is name.startswith("quantized")


def test_published_tensors_that_do_not_fit_are_refused() -> None:
    wrong = {"classifier.1.weight": torch.zeros(3)}
    with pytest.raises(ModelUnreadable, match="cannot be built: Error"):
        torchvision_models.build(CatalogueName.parse("squeezenet1_1@IMAGENET1K_V1"), wrong)


# timm


@pytest.fixture
def _timm() -> None:
    pytest.importorskip("timm")


@pytest.mark.usefixtures("_timm")
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_timm(device: str) -> None:
    made = build("timm:resnet10t(num_classes=7)", device)
    assert made.source == "timm:resnet10t(num_classes=7)"
    assert made.task == "classification"
    assert made.inputs == (InputSpec((1, 3, 176, 176)),)
    assert made.preprocessing is not None
    assert made.preprocessing.crop == (176, 176)
    assert {one.device.type for one in made.model.parameters()} == {device}
    if device == "cpu":
        assert made.model(*sample_inputs(made.inputs)).shape == (1, 7)


@pytest.mark.usefixtures("_timm")
def test_tensors_of_timm() -> None:
    state = build("timm:resnet10t").model.state_dict()
    name = CatalogueName.parse("timm:resnet10t@pretrained")
    ones: dict[str, Tensor] = {key: torch.ones_like(one) for key, one in state.items()}
    made = timm_models.build(name, ones)
    assert all(bool((one == 1).all()) for one in made.model.state_dict().values())
    with pytest.raises(ModelUnreadable, match="cannot be built: Error"):
        timm_models.build(name, {})


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    timm_models._timm.cache_clear()
    try:
        with pytest.raises(ModelNotFound, match="not installed") as caught:
            build("timm:resnet18")
        assert "secateur[timm]" in caught.value.remedy
        assert timm_models.names() == ()
    finally:
        timm_models._timm.cache_clear()
