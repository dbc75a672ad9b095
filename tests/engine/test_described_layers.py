"""What a checkpoint may say of heads, factors, folded norms and removed blocks, and what not."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.editing import Subject
from engine.edits import Factorize, FoldNorms, PruneHeads, RemoveBlocks
from engine.errors import ModelUnreadable
from engine.layers import LayerId
from engine.requests import InputSpec
from engine.sources import description
from engine.sources.architectures import Architecture
from engine.sources.description import describe, read_description, rebuild, to_metadata
from tests.engine.small_networks import SHAPES, edited, living, resnet18, vit


class Both(nn.Module):
    """A convolutional network and a transformer side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet, self.vit = resnet18(), vit()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.resnet(x) + self.vit(x)
        return found


SHAPES[Both] = (1, 3, 16, 16)
INPUTS = (InputSpec(SHAPES[Both]),)
ATTENTION = "vit.encoder.layers.encoder_layer_0.self_attention"
BLOCK = "vit.encoder.layers.encoder_layer_1"
CONV, NORM = "resnet.layer1.0.conv1", "resnet.layer1.0.bn1"


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A model with one of each, in single precision."""
    found = living(Both, torch.float32)
    for edit in (
        FoldNorms((LayerId(CONV),)),
        Factorize((LayerId(CONV),), 0.5),
        PruneHeads((LayerId(ATTENTION),), 0.5),
        RemoveBlocks((LayerId(BLOCK),)),
    ):
        found = edited(edit, found)
    return found


@pytest.fixture(autouse=True)
def _architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(source: str, device: str = "cpu", trusted: object = ()) -> Architecture:
        with torch.random.fork_rng(), torch.device(device):
            return Architecture(source, Both().eval(), INPUTS)

    monkeypatch.setattr(description, "build", build)


def described(subject: Subject) -> tuple[dict[str, Any], dict[str, Tensor]]:
    found, tensors = describe(subject.model, "toy", INPUTS, trained=False)
    return json.loads(to_metadata(found)["secateur"]), tensors


def opened(text: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    return rebuild(read_description({"secateur": json.dumps(text)}, "toy"), tensors)


def test_each_layer_is_described_by_what_it_is(subject: Subject) -> None:
    text, tensors = described(subject)
    said = {
        name: {key: value for key, value in layer.items() if value not in (None, {}, [])}
        for name, layer in text["layers"].items()
    }
    assert said == {
        CONV: {"rank": 28, "full_rank": 64, "form": "channel"},
        f"{CONV}.second": {"bias": True},
        NORM: {"folded_into": CONV},
        ATTENTION: {"heads": 2},
        BLOCK: {"removed": True},
    }
    assert text["parameters"] == {}
    assert not [name for name in tensors if name.startswith((NORM, BLOCK))]
    again = opened(text, tensors)
    x = torch.randn(SHAPES[Both])
    with torch.inference_mode():
        assert torch.equal(again(x), subject.model(x))


CASES: list[tuple[str, dict[str, Any], str]] = [
    (ATTENTION, {"heads": 0}, "heads"),
    (ATTENTION, {"heads": -2}, "heads"),
    (ATTENTION, {"heads": True}, "heads"),
    (ATTENTION, {"heads": 2.0}, "heads"),
    (ATTENTION, {"heads": 4}, "cannot have 4 heads"),
    (ATTENTION, {"heads": 10**40}, "cannot have"),
    (ATTENTION, {"heads": 1}, "in_proj.weight has shape (48, 32), not (24, 32)"),
    (CONV, {"heads": 2}, "cannot have 2 heads"),
    ("", {"heads": 2}, "the model cannot have 2 heads"),
    (CONV, {"rank": 28}, "described in two ways, or in half of one"),
    (CONV, {"form": "channel"}, "half of one"),
    (CONV, {"rank": 28, "full_rank": 64, "form": "diagonal"}, "form"),
    (CONV, {"rank": 0, "full_rank": 64, "form": "channel"}, "rank"),
    (CONV, {"rank": 2**31, "full_rank": 64, "form": "channel"}, "rank"),
    (CONV, {"rank": 28, "full_rank": 10**30, "form": "channel"}, "full_rank"),
    (CONV, {"rank": 27, "full_rank": 64, "form": "channel"}, f"{CONV}.first.weight has shape"),
    (CONV, {"rank": 2**31 - 1, "full_rank": 9, "form": "channel"}, f"{CONV}.first.weight has"),
    (CONV, {"rank": 28, "full_rank": 64, "form": "spatial"}, f"{CONV}.first.weight has shape"),
    (NORM, {"rank": 28, "full_rank": 64, "form": "channel"}, "cannot be two factors"),
    ("", {"rank": 28, "full_rank": 64, "form": "channel"}, "the model cannot be two factors"),
    (
        "vit.heads.head", {"rank": 2, "full_rank": 5, "form": "spatial"},
        "vit.heads.head cannot be two factors, “spatial”",
    ),
    (BLOCK, {"removed": False}, "removed"),
    (BLOCK, {"removed": "yes"}, "removed"),
    ("", {"removed": True}, "the model as a whole cannot be removed"),
    (ATTENTION, {"removed": True}, f"{ATTENTION}.in_proj.bias belongs to no layer"),
    (CONV, {"removed": True, "heads": 2}, "described in two ways"),
    (NORM, {"folded_into": CONV, "bias": True}, "described in two ways"),
    (NORM, {"folded_into": "nowhere"}, "nowhere"),
    (NORM, {"folded_into": f"{BLOCK}.ln_1"}, "ln_1"),
    (f"{CONV}.second", {"bias": None}, f"{CONV}.second.bias belongs to no layer"),
    (f"{CONV}.third", {"bias": True}, "third"),
    (f"{BLOCK}.ln_1", {"structure": {"normalized_shape": [3]}}, "ln_1"),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "said", "cause"), CASES)
def test_what_does_not_fit_is_refused_by_name(
    subject: Subject, layer: str, said: dict[str, Any], cause: str
) -> None:
    text, tensors = described(subject)
    text["layers"][layer] = said
    with pytest.raises(ModelUnreadable) as caught:
        opened(text, tensors)
    assert cause in str(caught.value)


def test_children_before_their_parents_are_refused(subject: Subject) -> None:
    text, tensors = described(subject)
    text["layers"] = dict(reversed(text["layers"].items()))
    with pytest.raises(ModelUnreadable, match="second"):
        opened(text, tensors)


def test_claims_cost_no_memory(subject: Subject) -> None:
    """Nothing that a description asks for is made before tensors agree with it."""
    text, tensors = described(subject)
    text["layers"][CONV]["rank"] = 2**31 - 1
    made = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.device.type != "meta":
                made.append(out.numel())
            return out

    with Watching(), pytest.raises(ModelUnreadable):
        opened(text, tensors)
    assert max(made, default=0) <= max(one.numel() for one in tensors.values())
