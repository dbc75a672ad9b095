"""SmoothQuant: outliers moved from what layers read into their weights, the outputs the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.datasets import DataSet, Split
from engine.editing import Subject, carried_out, look_at
from engine.edits import AppliedEdit, ChannelScale, ChannelsScaled, Quantize, Smooth
from engine.errors import EditRefused
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.quantization.smoothing import Smoothing
from engine.sharing import fingerprint
from tests.engine.conftest import StopAt
from tests.engine.living import alive
from tests.engine.small_networks import (
    SHAPES,
    decided,
    edited,
    living,
    off,
    output,
    replayed,
    resnet18,
    swin,
    timm_vit,
    vit,
)


def fitting(subject: Subject) -> tuple[LayerId, ...]:
    return tuple(layer.id for layer in subject.tree if "smooth" in layer.methods)


def with_data(subject: Subject, images: Tensor) -> Subject:
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    return look_at(subject.model, subject.inputs, DataSet("toy", ("a",), split, split, "a toy"))


def test_a_norm_and_a_linear_layer_by_hand() -> None:
    """s = sqrt(max|X| / max|W|): 8 and 2 give 2; 1 and 4 give 1/2."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).eval()
    model[1].weight.data = torch.tensor([[2.0, -1.0], [-1.0, 4.0]])
    subject = look_at(model, (torch.randn(2, 2),))
    inputs = torch.tensor([[-8.0, 0.5], [1.0, 1.0]]) * (1 + model[0].eps) ** 0.5
    subject = with_data(subject, inputs)
    after = edited(Smooth((LayerId("0"),)), subject).model
    torch.testing.assert_close(after[0].weight.data, torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(after[1].weight.data, torch.tensor([[4.0, -0.5], [-2.0, 2.0]]))


@pytest.mark.parametrize("make", [vit, swin, timm_vit, resnet18])
def test_the_outputs_stay_the_same(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    subject = living(make)
    before = fingerprint(subject.model)
    layers = fitting(subject)
    assert len(layers) > 3
    applied = decided(Smooth(layers), subject)
    after = carried_out(applied, subject)
    assert off(output(after.model, subject), output(subject.model, subject)) < 1e-12
    assert fingerprint(after.model) != before == fingerprint(subject.model)
    again = replayed([applied], subject, tmp_path)
    assert fingerprint(again.model) == fingerprint(after.model)
    assert {one.quantity for one in Smoothing().effects(applied.decision, subject)} == {
        "channels scaled"
    }


def test_attention_is_smoothed_with_the_norm_before_it() -> None:
    """Whichever of the two is named."""
    subject = living(vit)
    norm = LayerId("encoder.layers.encoder_layer_0.ln_1")
    attention = LayerId("encoder.layers.encoder_layer_0.self_attention")
    by_norm, by_layer = (decided(Smooth((one,)), subject).decision for one in (norm, attention))
    assert by_norm == by_layer
    assert [(one.layer, one.side) for one in by_norm.scales] == [(norm, "out"), (attention, "in")]
    both = decided(Smooth((norm, attention)), subject).decision
    assert both == by_norm


def test_strength_says_where_the_difficulty_goes() -> None:
    subject = living(vit)
    layer = (LayerId("encoder.layers.encoder_layer_0.ln_2"),)
    weight = subject.model.get_parameter("encoder.layers.encoder_layer_0.mlp.0.weight")
    none, all_ = (
        decided(Smooth(layer, strength=strength), subject).decision.scales[1].factors
        for strength in (0.0, 1.0)
    )
    wanted = 1 / weight.abs().amax(0)
    torch.testing.assert_close(torch.tensor(none), wanted.float(), rtol=1e-5, atol=0)
    spread = torch.tensor(all_)
    assert (spread > 0).all()
    assert not torch.allclose(spread / spread[0], torch.tensor(none) / none[0], rtol=0.01)


def with_outliers(subject: Subject) -> Subject:
    """Channels of what the norms put out 60 times as large, the weights that read them as small."""
    scales = []
    for block in range(2):
        name = f"encoder.layers.encoder_layer_{block}"
        factors = torch.ones(32)
        factors[[3 + block, 17]] = 60.0
        scales.append(ChannelScale(LayerId(f"{name}.ln_2"), "out", tuple(factors.tolist())))
        taken = tuple((1 / factors).tolist())
        scales.append(ChannelScale(LayerId(f"{name}.mlp.0"), "in", taken))
    asked = Smooth(tuple(one.layer for one in scales))
    return carried_out(AppliedEdit(asked, ChannelsScaled(tuple(scales))), subject)


def test_outlier_channels_no_longer_ruin_quantized_inputs() -> None:
    torch.manual_seed(0)
    images = torch.randn(256, *SHAPES[vit][1:])
    model = alive(vit(), dtype=torch.float32)
    start = with_data(with_outliers(look_at(model, (images[:2],))), images)
    norms = tuple(LayerId(f"encoder.layers.encoder_layer_{block}.ln_2") for block in range(2))
    asked = Quantize(
        tuple(LayerId(f"encoder.layers.encoder_layer_{block}.mlp.0") for block in range(2)),
        observer="min-max",
    )
    wanted = output(start.model, Subject(start.model, (images,), start.trace, start.tree))

    def agreement(after: Subject) -> float:
        with torch.inference_mode():
            found = after.model(images)
        return float((found.argmax(1) == wanted.argmax(1)).float().mean())

    ruined = agreement(edited(asked, start))
    mended = agreement(edited(asked, edited(Smooth(norms), start)))
    assert ruined < 0.95 < 0.98 < mended


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        out: Tensor = self.linear(y) + y
        return out


def test_a_norm_that_something_else_reads_is_refused() -> None:
    subject = look_at(ReadTwice().eval(), (torch.randn(2, 4),))
    assert not fitting(subject)
    with pytest.raises(EditRefused, match="add reads it together with another value"):
        decided(Smooth((LayerId("norm"),)), subject)
    with pytest.raises(EditRefused, match="linear reads no norm"):
        decided(Smooth((LayerId("linear"),)), subject)


def test_a_norm_behind_which_something_bends_is_refused() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)).eval()
    subject = look_at(model, (torch.randn(2, 4),))
    assert not fitting(subject)
    with pytest.raises(EditRefused, match="gelu in 1 reads it"):
        decided(Smooth((LayerId("0"),)), subject)


@pytest.mark.parametrize(("field", "value"), [("strength", 1.5), ("samples", 0)])
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    subject = living(vit)
    asked = Smooth(fitting(subject), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(EditRefused):
        decided(asked, subject)


def test_values_that_are_not_finite_are_refused() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    subject = with_data(look_at(model, (torch.randn(2, 4),)), torch.full((3, 4), torch.nan))
    with pytest.raises(EditRefused, match="finite"):
        decided(Smooth((LayerId("0"),)), subject)


def test_cancelling_leaves_nothing(stop_at: type[StopAt]) -> None:
    subject = living(vit)
    before, memo = fingerprint(subject.model), dict(subject.memo)
    with pytest.raises(Cancelled):
        Smoothing().decide(Smooth(fitting(subject)), subject, stop_at(2))
    assert fingerprint(subject.model) == before
    assert subject.memo.keys() == memo.keys()


def test_a_draft_names_the_same_layers() -> None:
    subject = living(vit)
    asked = Smooth(fitting(subject))
    draft = Smoothing().draft(asked, subject, Job())
    told = [(one.layer, one.side) for one in draft.scales]
    decided_scales = decided(asked, subject).decision.scales
    assert told == [(one.layer, one.side) for one in decided_scales]
    assert all(factor == 1.0 for one in draft.scales for factor in one.factors)
