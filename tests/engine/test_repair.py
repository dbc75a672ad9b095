"""Making up for rounding: biases, rows of what layers read, and whole networks in order."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from engine.datasets import DataSet, Split
from engine.editing import Subject, carried_out, look_at
from engine.edits import LayersQuantized, Quantize
from engine.errors import EditRefused
from engine.integer_layers import QUANTIZED, round_weight
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.quantization import repair as module
from engine.quantization.bias import expected_error
from engine.quantization.grids import weight_plan
from engine.quantization.quantizing import Quantization
from engine.quantization.rows import rows_of
from engine.sharing import fingerprint
from tests.engine.conftest import StopAt
from tests.engine.living import alive
from tests.engine.small_networks import decided, edited, living, replayed, resnet18
from tests.engine.test_quantization import LAYERS

ROUNDINGS = ("nearest", "gptq", "adaround")


@pytest.fixture(autouse=True)
def _fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdaRound's quality has a test of its own."""
    monkeypatch.setattr("engine.quantization.adaround.STEPS", 40)


def with_data(model: nn.Module, images: Tensor) -> Subject:
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    return look_at(model.eval(), (images[:2],), DataSet("toy", ("a",), split, split, "a toy"))


def network() -> nn.Module:
    """Plain, depthwise, grouped and linear layers, with and without biases and batch norms."""
    return alive(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
            nn.Conv2d(8, 8, 1, groups=2, bias=False), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 5, bias=False),
        ),
        dtype=torch.float32,
    )  # fmt: skip


NAMES = tuple(map(LayerId, ("0", "3", "5", "9")))


def images(count: int = 96) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=Generator().manual_seed(0))


# Biases


def test_the_expected_error_by_hand() -> None:
    """At 2 bits [1, 0.4] is [1, 0]: where the second input is 3 on average, 1.2 is missing."""
    plan = weight_plan(
        Quantize((LayerId("0"),), weight_bits=2), torch.tensor([[1.0, 0.4]]), None, None
    )
    integers = round_weight(plan.weight, plan.form, plan.scale, plan.zero_point)
    assert integers.tolist() == [[1, 0]]
    found = expected_error(plan, integers, torch.tensor([7.0, 3.0]))
    assert found.tolist() == pytest.approx([-1.2])


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_expected_error_of_convolutions(groups: int) -> None:
    """Inputs that are their mean everywhere miss by exactly so much."""
    conv = nn.Conv2d(6, 12, 3, groups=groups, bias=False)
    plan = weight_plan(Quantize((LayerId("0"),), weight_bits=3), conv.weight.detach(), None, None)
    integers = round_weight(plan.weight, plan.form, plan.scale, plan.zero_point)
    mean = torch.randn(6)
    flat = mean.reshape(1, 6, 1, 1).expand(1, 6, 5, 5)
    moved = integers * plan.scale.reshape(-1, 1, 1, 1) - plan.weight
    wanted = torch.conv2d(flat, moved, groups=groups)[0, :, 1, 1]
    torch.testing.assert_close(expected_error(plan, integers, mean).float(), wanted)


@pytest.mark.parametrize("bias", [True, False])
def test_correction_takes_the_mean_error_of_the_output_away(bias: bool) -> None:
    torch.manual_seed(0)
    rows = torch.rand(256, 6) + torch.arange(6)
    model = nn.Sequential(nn.Linear(6, 4, bias=bias))
    subject = with_data(model, rows)
    asked = Quantize((LayerId("0"),), weight_bits=3, activations="none")

    def mean_error(edit: Quantize) -> float:
        after = edited(edit, subject).model
        with torch.inference_mode():
            return float((after(rows) - model(rows)).mean(0).abs().max())

    assert mean_error(replace(asked, bias_correction=False)) > 0.1
    for rounding in ROUNDINGS:
        assert mean_error(replace(asked, rounding=rounding)) < 1e-4


def test_without_anything_to_make_up_for_nothing_is_kept() -> None:
    subject = with_data(network(), images())
    found = decided(Quantize(NAMES, bias_correction=False), subject).decision
    assert isinstance(found, LayersQuantized)
    assert all(one.tensors == () for one in found.layers)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_layers_without_a_bias_get_one(rounding: str) -> None:
    subject = with_data(network(), images())
    found = decided(Quantize(NAMES, rounding=rounding), subject)  # type: ignore[arg-type]
    assert isinstance(found.decision, LayersQuantized)
    names = {"nearest": ["bias"]}.get(rounding, ["weight", "bias"])
    for one in found.decision.layers:
        assert [stored.name for stored in one.tensors] == names
    after = carried_out(found, subject).model
    assert after[9].bias is not None


# Rows


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_rows_times_weights_are_what_the_layer_puts_out(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    groups = getattr(layer, "groups", 1)
    rows = rows_of(x, layer, 10**6, Generator())
    weight = layer.weight.detach().reshape(groups, len(layer.weight) // groups, -1)  # type: ignore[arg-type, union-attr, operator]
    found = (rows @ weight.mT).transpose(0, 1).flatten(1)
    with torch.inference_mode():
        wanted = layer(x) - (0 if layer.bias is None else layer(torch.zeros_like(x)))
    axis = -1 if isinstance(layer, nn.Linear) else 1
    torch.testing.assert_close(found, wanted.movedim(axis, -1).flatten(0, -2))


@given(st.integers(1, 200), st.integers(0, 100))
@settings(max_examples=20)
def test_so_many_rows_of_some_positions(count: int, seed: int) -> None:
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    whole = rows_of(x, layer, 10**6, Generator())
    some = rows_of(x, layer, count, Generator().manual_seed(seed))
    again = rows_of(x, layer, count, Generator().manual_seed(seed))
    assert some.shape == (1, min(count, 72), 27)
    assert torch.equal(some, again)
    alike = (some[0][:, None] == whole[0][None]).all(2)
    assert (alike.sum(1) == 1).all()
    assert (alike.sum(0) <= 1).all()


# Whole networks


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_outputs_at_3_bits_come_nearer_to_the_float_models(rounding: str) -> None:
    torch.manual_seed(0)
    subject = with_data(network(), images())
    asked = Quantize(NAMES, weight_bits=3, weight_observer="mse")
    others = torch.rand(64, 3, 8, 8)

    def error(edit: Quantize) -> float:
        after = edited(edit, subject).model
        with torch.inference_mode():
            return float((after(others) - subject.model(others)).square().mean())

    plain = error(replace(asked, bias_correction=False))
    assert error(replace(asked, rounding=rounding)) < 0.7 * plain  # type: ignore[arg-type]


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_decisions_are_the_same_again_and_replay_bit_by_bit(rounding: str, tmp_path: Path) -> None:
    subject = with_data(network(), images())
    before = fingerprint(subject.model)
    asked = Quantize(NAMES, weight_bits=4, rounding=rounding)  # type: ignore[arg-type]
    first = decided(asked, subject)
    torch.manual_seed(99)
    fresh = look_at(subject.model, subject.inputs, subject.data)
    assert decided(asked, fresh) == first
    after = carried_out(first, subject)
    assert fingerprint(replayed([first], subject, tmp_path).model) == fingerprint(after.model)
    assert fingerprint(subject.model) == before


@pytest.mark.parametrize("activations", ["static", "dynamic", "none"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_every_way_of_rounding_inputs_and_every_grid(activations: str, granularity: str) -> None:
    subject = with_data(network(), images())
    asked = Quantize(
        NAMES, weight_bits=4, granularity=granularity, group_size=9, weight_symmetric=False,
        activations=activations, rounding="gptq",
    )  # type: ignore[arg-type]  # fmt: skip
    after = edited(asked, subject)
    assert [after.tree[one].weight_bits for one in NAMES] == [4] * 4


def test_layers_come_in_the_order_they_run_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are named: each is rounded for what the ones before it put out."""
    subject = with_data(network(), images())
    forth, back = (
        decided(Quantize(names, weight_bits=3, rounding="gptq"), subject).decision
        for names in (NAMES, NAMES[::-1])
    )
    assert {one.layer: one for one in forth.layers} == {one.layer: one for one in back.layers}
    monkeypatch.setattr(module, "_MOST_STAGES", 1)  # all in one pass: none sees the others rounded
    at_once = decided(Quantize(NAMES, weight_bits=3, rounding="gptq"), subject).decision
    assert at_once.layers[0] == forth.layers[0]
    assert at_once.layers[3] != forth.layers[3]


def test_a_residual_network_on_noise() -> None:
    """Without data, and with layers that are read in several places."""
    subject = living(resnet18, torch.float32)
    layers = tuple(layer.id for layer in subject.tree if "quantize" in layer.methods)[:6]
    after = edited(Quantize(layers, weight_bits=4, rounding="gptq"), subject)
    assert all(after.tree[one].is_quantized for one in layers)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


def test_a_layer_that_no_sample_reaches_is_refused() -> None:
    subject = with_data(Unused(), torch.randn(10, 4))
    names = (LayerId("used"), LayerId("unused"))
    with pytest.raises(EditRefused, match="unused is not reached"):
        decided(Quantize(names, activations="none", rounding="gptq"), subject)


@pytest.mark.parametrize("rounding", ["gptq", "adaround"])
def test_samples_that_are_not_finite_are_refused(rounding: str) -> None:
    images = torch.randn(10, 4)
    images[3, 1] = torch.nan
    subject = with_data(nn.Sequential(nn.Linear(4, 4)), images)
    with pytest.raises(EditRefused, match="0 reads values that are not finite"):
        decided(Quantize((LayerId("0"),), activations="none", rounding=rounding), subject)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(self.layer(x).relu())
        return out


def test_a_layer_that_runs_twice_is_rounded_for_both() -> None:
    subject = with_data(Twice(), torch.randn(64, 4))
    after = edited(Quantize((LayerId("layer"),), weight_bits=4, rounding="gptq"), subject)
    assert after.tree[LayerId("layer")].weight_bits == 4


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_cancelling_leaves_nothing(rounding: str, stop_at: type[StopAt]) -> None:
    subject = with_data(network(), images())
    before = fingerprint(subject.model)
    asked = Quantize(NAMES, rounding=rounding)  # type: ignore[arg-type]
    plans = Quantization().plans(asked, subject, Job())
    memo = set(subject.memo)
    for checks in (1, 4):
        with pytest.raises(Cancelled):
            module.repaired(asked, plans, subject, stop_at(checks))
    assert fingerprint(subject.model) == before
    assert set(subject.memo) == memo
    assert not any(one._forward_pre_hooks for one in subject.model.modules())
    assert all(type(one) not in QUANTIZED.values() for one in subject.model.modules())
