"""Tensors to architectures, by names and shapes alone."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from engine.errors import ArchitectureNeeded, ModelNotFound
from engine.job import Cancelled, Job
from engine.sources.files.contents import Stored, find_state, unwrapped
from engine.sources.matching import Match, match


def tensors_of(model: nn.Module) -> dict[str, Stored]:
    return {
        name: Stored(tuple(one.shape), str(one.dtype).removeprefix("torch."))
        for name, one in model.state_dict().items()
    }


def structure(name: str, **arguments: Any) -> dict[str, Stored]:
    """As torchvision itself builds it."""
    with torch.device("meta"):
        return tensors_of(models.get_model(name, weights=None, **arguments))


def matched(tensors: Mapping[str, Stored], chosen: str = "", what: str = "weights") -> Match:
    return match(tensors, what, chosen, frozenset(), Job())


def refused(tensors: Mapping[str, Stored], chosen: str = "") -> tuple[str, list[dict[str, Any]]]:
    with pytest.raises(ArchitectureNeeded) as caught:
        matched(tensors, chosen)
    return str(caught.value), caught.value.details["candidates"]


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet50", 320), ("squeezenet1_1", 52), ("densenet121", 727), ("mobilenet_v3_small", 244)],
)
def test_a_state_dict_says_what_it_is(name: str, count: int) -> None:
    tensors = structure(name)
    found = matched(tensors)
    assert found.source == f"torchvision:{name}"
    assert found.names == {one: one for one in tensors}
    assert found.notes == (f"This is {name}: {count} of {count} tensors match.",)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module._orig_mod.", "net.module."])
def test_wrappers_before_every_name_do_not_matter(prefix: str) -> None:
    tensors = {prefix + name: one for name, one in structure("squeezenet1_1").items()}
    found = matched(tensors)
    assert found.source == "torchvision:squeezenet1_1"
    assert all(file == prefix + name for name, file in found.names.items())


def test_counters_of_batches_may_be_missing() -> None:
    tensors = {k: v for k, v in structure("resnet18").items() if "num_batches" not in k}
    assert matched(tensors).notes == ("This is resnet18: 102 of 102 tensors match.",)


def test_densenets_of_earlier_versions() -> None:
    """Their published files still have names such as ``denselayer1.norm.1.weight``."""
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")
    tensors = {pattern.sub(r"\1.\2", k): v for k, v in structure("densenet121").items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in tensors
    found = matched(tensors)
    assert found.source == "torchvision:densenet121"
    wanted = "features.denseblock1.denselayer1.norm1.weight"
    assert found.names[wanted] == "features.denseblock1.denselayer1.norm.1.weight"


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("resnet50", 10),
        ("squeezenet1_1", 7),
        ("mobilenet_v3_small", 2),
        ("fasterrcnn_resnet50_fpn", 3),
    ],
)
def test_another_number_of_classes(name: str, classes: int) -> None:
    extra = {"weights_backbone": None} if "rcnn" in name else {}
    found = matched(structure(name, num_classes=classes, **extra))
    assert found.source == f"torchvision:{name}(num_classes={classes})"
    assert f"It tells {classes} classes apart." in found.notes


def test_auxiliary_heads_are_left_out_where_published_models_have_none() -> None:
    found = matched(structure("googlenet", aux_logits=True, init_weights=False))
    assert found.source == "torchvision:googlenet"
    assert not any(name.startswith("aux") for name in found.names)
    assert found.notes[1] == "18 tensors of auxiliary heads are left out."


def test_segmentation_with_and_without_its_auxiliary_head() -> None:
    name = "lraspp_mobilenet_v3_large"
    assert matched(structure(name, weights_backbone=None)).source == f"torchvision:{name}"
    plain = structure("fcn_resnet50", weights_backbone=None, num_classes=5)
    found = matched(plain)
    assert found.source == "torchvision:fcn_resnet50(aux_loss=False, num_classes=5)"
    assert set(found.names.values()) == set(plain)


def test_the_nearest_are_offered_with_what_differs() -> None:
    tensors = structure("resnet50")
    del tensors["layer1.0.conv1.weight"]
    tensors["layer2.0.conv1.weight"] = Stored((64, 256, 1, 1), "float32")
    tensors["layer3.0.conv1.weight"] = Stored((256, 512, 1, 1), "int8")
    tensors["head.weight"] = Stored((3, 3), "float32")
    message, candidates = refused(tensors)
    assert "fit no architecture of the catalogue in full" in message
    assert "The nearest is torchvision:resnet50: 317 of 320 match." in message
    best = candidates[0]
    assert (best["source"], best["matching"], best["total"]) == ("torchvision:resnet50", 317, 320)
    assert best["differing"] == (
        "layer2.0.conv1.weight is 64×256×1×1, not 128×256×1×1",
        "layer3.0.conv1.weight holds int8, not float32",
        "layer1.0.conv1.weight is missing",
        "head.weight is left over",
    )
    assert len(candidates) == 5
    assert candidates[1]["source"] != best["source"]


def test_what_has_more_than_the_architecture_is_offered_and_not_opened() -> None:
    tensors = {**structure("squeezenet1_1"), "decoder.weight": Stored((8, 8), "float32")}
    _, candidates = refused(tensors)
    assert candidates[0]["source"] == "torchvision:squeezenet1_1"
    assert candidates[0]["differing"] == ("decoder.weight is left over",)


def test_a_few_tensors_fit_nothing_and_no_model_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.sources import matching

    monkeypatch.setattr(matching, "build", lambda *_: pytest.fail("built"))
    matching._counts()
    message, candidates = refused({"weight": Stored((2, 2), "float32")})
    assert message.startswith("weights holds 1 tensors (such as weight of 2×2)")
    assert candidates == []


def renamed(name: str) -> dict[str, Stored]:
    """The same shapes under a stranger's names."""
    return {
        f"{layer.replace('features', 'a').replace('classifier', 'b')}x.{role}": one
        for old, one in structure(name).items()
        for layer, _, role in [old.rpartition(".")]
    }


def test_other_names_with_the_same_shapes_are_offered_and_opened_when_chosen() -> None:
    tensors = renamed("vgg11")
    shuffled = dict(sorted(tensors.items(), reverse=True))
    for found in (tensors, shuffled):
        message, candidates = refused(found)
        best = candidates[0]
        assert best["source"] == "torchvision:vgg11"
        assert best["note"] == "Its names differ; the shapes match in order."
        assert "names differ" in message
        chosen = matched(found, best["source"])
        assert chosen.names["features.3.weight"] == "a.3x.weight"
        assert chosen.names["classifier.6.bias"] == "b.6x.bias"
        assert "Its names differ; the shapes match in order." in chosen.notes


def test_shapes_in_order_do_not_make_a_bias_of_a_weight() -> None:
    """Sorted by name, as safetensors has them, a batch norm's tensors come in another order."""
    tensors = structure("resnet18")
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    numbered = {
        f"layer{layers.index(layer):03}.{role}": one
        for name, one in tensors.items()
        for layer, _, role in [name.rpartition(".")]
    }
    found = matched(dict(sorted(numbered.items())), "resnet18")
    assert found.names["bn1.weight"] == "layer001.weight"
    assert all(name.rpartition(".")[2] == file[9:] for name, file in found.names.items())


def test_two_architectures_of_the_same_tensors_are_told_apart_by_the_files_name() -> None:
    plain, small = (f"fasterrcnn_mobilenet_v3_large_{end}" for end in ("fpn", "320_fpn"))
    tensors = structure(plain, weights_backbone=None)
    for name, other in ((plain, small), (small, plain)):
        found = matched(tensors, what=f"{name}-907ea3f9")
        assert found.source == f"torchvision:{name}"
        assert any(f"torchvision:{other} has the same tensors" in one for one in found.notes)
    assert "same tensors" not in " ".join(matched(tensors, plain).notes)


def test_a_choice_that_does_not_fit() -> None:
    message, candidates = refused(structure("resnet18"), "resnet34")
    assert "do not fit the architecture that was chosen" in message
    assert candidates[0]["source"] == "torchvision:resnet34"
    assert candidates[0]["differing"][0] == "layer1.2.conv1.weight is missing"
    with pytest.raises(ModelNotFound, match="resnet51"):
        matched(structure("resnet18"), "resnet51")


def test_a_choice_may_have_another_number_of_classes() -> None:
    found = matched(structure("resnet18", num_classes=4), "resnet18")
    assert found.source == "torchvision:resnet18(num_classes=4)"


def test_comparing_can_be_cancelled(stop_at: Any) -> None:
    with pytest.raises(Cancelled):
        match(renamed("resnet18"), "weights", "", frozenset(), stop_at(3))


def test_timms_names_are_found_too() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        tensors = tensors_of(timm.create_model("vit_tiny_patch16_224"))
    assert matched(tensors).source == "timm:vit_tiny_patch16_224"


# -- what a checkpoint holds beside the model


def test_the_model_is_found_in_a_training_scripts_checkpoint() -> None:
    state = {"a.weight": 1.0, "b.weight": 2.0}
    value = {
        "epoch": 3,
        "model": {"state_dict": state},
        "ema": dict(state),
        "optimizer": {"state": {"0": {"exp_avg": 3.0}}},
        "rng_state": 4.0,
    }
    found, notes = find_state(value, float)
    assert found == state
    assert notes == ("Opened its “model”; it also holds tensors under ema.",)


def test_parts_in_several_dictionaries_become_one() -> None:
    value = {"encoder": {"weight": 1.0}, "decoder": {"weight": 2.0}, "step": 7}
    found, notes = find_state(value, float)
    assert found == {"encoder.weight": 1.0, "decoder.weight": 2.0}
    assert notes == ("Left aside in it: step.",)


def test_a_list_with_a_state_dict_in_it() -> None:
    assert find_state([3, {"weight": 1.0}], float)[0] == {"weight": 1.0}
    assert find_state({b"weight": 1.0}, float)[0] == {"weight": 1.0}
    assert find_state(3, float)[0] == {}


def test_names_lose_only_what_all_of_them_have() -> None:
    assert unwrapped({"module.a.b": 0, "module.c": 0}) == {"a.b": "module.a.b", "c": "module.c"}
    assert unwrapped({"module.a": 0, "b": 0}) == {"module.a": "module.a", "b": "b"}
    assert unwrapped({"features.a": 0}) == {"features.a": "features.a"}
    assert unwrapped({"module": 0}) == {"module": "module"}
    assert unwrapped({"a._orig_mod.b": 0}) == {"a.b": "a._orig_mod.b"}


@pytest.mark.slow
def test_structures_are_compared_as_they_are_built() -> None:
    """Built without numbers and without filling, they have the names and shapes of the real."""
    from engine.sources import matching
    from engine.sources.architectures import build

    for source in matching._counts():
        assert matching._signature(source) == tensors_of(build(source, "meta").model), source
