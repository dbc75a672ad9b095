"""Integers for weights and inputs: by hand, folded rightly, calibrated honestly, and close."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.batch_norms import folded
from engine.datasets import DataSet, Split, digits, loading
from engine.editing import Subject, carried_out, look_at, weight_zeros
from engine.edits import (
    AppliedEdit,
    InputGrid,
    LayersQuantized,
    PruneChannels,
    Quantize,
    QuantizedLayer,
)
from engine.errors import EditRefused, RecipeMismatch
from engine.integer_layers import QUANTIZED, bake, quantized_from, round_weight
from engine.job import Job
from engine.layers import LayerId
from engine.metrics import ACCURACY
from engine.quantization.grids import weight_plan
from engine.quantization.quantizing import Quantization
from engine.requests import InputSpec
from engine.session import ModelSession
from engine.sharing import fingerprint, stored_tensor
from engine.tracing import sample_inputs


def seen(model: nn.Module, *shape: int, data: DataSet | None = None) -> Subject:
    return look_at(model.eval(), sample_inputs([InputSpec(shape)]), data)


def decided(subject: Subject, *layers: str, **wishes: Any) -> LayersQuantized:
    edit = Quantize(tuple(map(LayerId, layers)), **wishes)
    return Quantization().decide(edit, subject, Job())


def after(subject: Subject, *layers: str, **wishes: Any) -> Subject:
    edit = Quantize(tuple(map(LayerId, layers)), **wishes)
    return carried_out(AppliedEdit(edit, decided(subject, *layers, **wishes)), subject)


def quantized(subject: Subject, *layers: str, **wishes: Any) -> nn.Module:
    return after(subject, *layers, **wishes).model


def toy_data(training: Tensor, classes: int = 10) -> DataSet:
    """These images to calibrate with, and a validation split that must not be looked at."""
    names = tuple(map(str, range(classes)))
    labels = torch.zeros(len(training), dtype=torch.int64)
    poison = Split(torch.full_like(training, float("nan")), labels)
    return DataSet("toy", names, Split(training, labels), poison, "a toy")


def quantizable(session: ModelSession) -> tuple[LayerId, ...]:
    tree = session.snapshot.current.tree
    return tuple(layer.id for layer in tree if "quantize" in layer.methods)


@torch.inference_mode()
def relative_error(model: nn.Module, subject: Subject) -> float:
    got, wanted = (one(*subject.inputs) for one in (model, subject.model))
    return float((got - wanted).abs().max() / wanted.abs().max())


# By hand


def test_weights_of_a_small_convolution_by_hand() -> None:
    layer = nn.Conv2d(1, 2, (1, 2))
    layer.weight.data = torch.tensor([[1.27, -0.5], [-0.254, 0.1]]).reshape(2, 1, 1, 2)
    subject = seen(nn.Sequential(layer), 1, 1, 3, 3)
    (decision,) = decided(subject, "0").layers
    assert decision.weight.scales == pytest.approx((0.01, 0.002), rel=1e-6)
    made = quantized(subject, "0", bias_correction=False)[0]
    assert made.weight.dtype is torch.int8
    assert made.weight.flatten(1).tolist() == [[127, -50], [-127, 50]]
    assert made.weight_scale.tolist() == list(decision.weight.scales)
    assert torch.equal(made.bias, layer.bias)


def test_the_smallest_integer_is_never_used() -> None:
    """A symmetric grid: the sign of a weight can be flipped."""
    layer = nn.Linear(1000, 20)
    made = quantized(seen(nn.Sequential(layer), 1, 1000), "0")[0]
    assert int(made.weight.abs().amax(1).min()) == 127
    assert int(made.weight.min()) >= -127
    error = (made.weight * made.weight_scale[:, None] - layer.weight).abs()
    assert (error <= made.weight_scale[:, None] * 0.5001).all()


def test_an_input_between_0_and_1_has_a_grid_from_0_to_1() -> None:
    training = torch.rand(256, 1, 3, 3)
    training[0, 0, 0] = torch.tensor([0.0, 0.5, 1.0])
    subject = seen(nn.Sequential(nn.Conv2d(1, 2, 1)), 1, 1, 3, 3, data=toy_data(training))
    (decision,) = decided(subject, "0").layers
    assert decision.input.scale == pytest.approx(1 / 255, rel=0.02)
    assert decision.input.zero_point == -128


def test_signed_inputs_have_their_zero_on_the_grid() -> None:
    training = torch.linspace(-1, 3, 1024).reshape(64, 1, 4, 4)
    subject = seen(nn.Sequential(nn.Conv2d(1, 2, 1)), 1, 1, 4, 4, data=toy_data(training))
    (decision,) = decided(subject, "0").layers
    assert decision.input.scale == pytest.approx(4 / 255, rel=0.02)
    assert decision.input.zero_point == pytest.approx(-64, abs=2)


LAYERS = [
    (nn.Conv1d(3, 4, 3, padding=1), (2, 3, 9)),
    (nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2), (2, 3, 9, 9)),
    (nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 6, 6)),
    (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 6, 6)),
    (nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), (2, 3, 6, 6)),
    (nn.Conv2d(3, 4, (3, 1), padding="same"), (2, 3, 6, 6)),
    (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    (nn.Linear(6, 4), (5, 6)),
    (nn.Linear(6, 4, bias=False), (5, 6)),
    (nn.Linear(6, 4), (2, 3, 6)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_a_quantized_layer_computes_what_its_integers_say(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    """Against the same layer in float64 on numbers rounded by numpy."""
    subject = seen(nn.Sequential(layer), *shape)
    (decision,) = decided(subject, "0").layers
    made = quantized(subject, "0")
    channels = np.array(decision.weight.scales).reshape(-1, *(1,) * (layer.weight.dim() - 1))
    weight = np.clip(np.round(layer.weight.detach().double().numpy() / channels), -127, 127)
    scale, zero = decision.input.scale, decision.input.zero_point
    x = subject.inputs[0].double().numpy()
    x = (np.clip(np.round(x / scale) + zero, -128, 127) - zero) * scale
    reference = copy.deepcopy(layer).double()
    reference.weight.data = torch.from_numpy(weight * channels)
    reference.bias = nn.Parameter(made[0].bias.double())
    wanted = reference(torch.from_numpy(x)).float()
    got = made(subject.inputs[0])
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert not torch.equal(got, layer(subject.inputs[0]))


def test_depthwise_filters_have_a_scale_each(demo: ModelSession, job: Job) -> None:
    layer = LayerId("stage2.depthwise.conv")
    change = demo.apply(Quantize((layer,)), job)
    found = change.snapshot.current.tree[layer]
    assert (found.weight_bits, found.activation_bits, found.kind) == (8, 8, "Conv2d")
    weight = torch.randn(5, 1, 3, 3) * torch.tensor([1e-3, 1.0, 1e3, 0.0, 1.0]).reshape(5, 1, 1, 1)
    conv = nn.Conv2d(5, 5, 3, groups=5)
    conv.weight.data = weight
    (decision,) = decided(seen(nn.Sequential(conv), 1, 5, 4, 4), "0").layers
    wanted = weight.abs().flatten(1).amax(1) / 127
    assert decision.weight.scales[:3] == pytest.approx(wanted[:3].tolist(), rel=1e-6)
    assert decision.weight.scales[3] > 0  # an empty filter has a scale to divide by


# Folding


def stirred(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics and gains that are anything but the identity."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in norm.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(drawn.abs() + 0.3 if "var" in name else drawn)
    return norm


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("make", "norm", "shape"),
    [
        (lambda bias: nn.Conv1d(3, 5, 3, bias=bias), nn.BatchNorm1d, (2, 3, 7)),
        (lambda bias: nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d, (2, 3, 7, 7)),
        (lambda bias: nn.Conv3d(3, 5, 2, bias=bias), nn.BatchNorm3d, (2, 3, 4, 4, 4)),
        (lambda bias: nn.Linear(3, 5, bias=bias), nn.BatchNorm1d, (4, 3)),
    ],
)
def test_folded_weights_compute_layer_and_batch_norm(
    make: Callable[[bool], nn.Module],
    norm: type[nn.Module],
    shape: tuple[int, ...],
    bias: bool,
    affine: bool,
) -> None:
    layer, behind = make(bias), stirred(norm(5, affine=affine, eps=1e-2)).eval()
    x = torch.randn(shape, dtype=torch.double)
    wanted = behind.double()(layer.double()(x))
    weight, moved = folded(layer.float(), behind.float())
    assert weight.dtype is moved.dtype is torch.float32
    made = copy.deepcopy(layer).double()
    made.weight.data, made.bias = weight.double(), nn.Parameter(moved.double())
    assert (made(x) - wanted).abs().max() <= 1e-6 * wanted.abs().max()


class Wired(nn.Module):
    """Two layers and two batch norms, wired by a function."""

    def __init__(
        self,
        wire: Callable[[nn.Module, Tensor], Tensor],
        first: nn.Module,
        norm: nn.Module,
        second: nn.Module | None = None,
        other: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.other = first, norm, second, other
        self.wire = wire

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, x)


def both(norm: nn.Module, y: Tensor) -> tuple[Tensor, Tensor]:
    return norm(y), y


def twice(y: Tensor) -> Tensor:
    return y + y.relu()


def conv(inputs: int = 3, outputs: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


FOLDED = {
    "behind a convolution": (
        Wired(lambda m, x: m.norm(m.first(x)), conv(), stirred(nn.BatchNorm2d(3))),
        (2, 3, 5, 5),
    ),
    "behind a linear layer": (
        Wired(lambda m, x: m.norm(m.first(x)), nn.Linear(4, 3), stirred(nn.BatchNorm1d(3))),
        (2, 4),
    ),
    "before several readers": (
        Wired(
            lambda m, x: twice(m.norm(m.first(x))),
            conv(),
            stirred(nn.BatchNorm2d(3)),
        ),
        (2, 3, 5, 5),
    ),
}
NOT_FOLDED = {
    "no batch norm": (
        Wired(lambda m, x: m.norm(m.first(x)), conv(), nn.ReLU()),
        (2, 3, 5, 5),
    ),
    "something in between": (
        Wired(lambda m, x: m.norm(m.first(x).relu()), conv(), stirred(nn.BatchNorm2d(3))),
        (2, 3, 5, 5),
    ),
    "a second reader": (
        Wired(lambda m, x: sum(both(m.norm, m.first(x))), conv(), stirred(nn.BatchNorm2d(3))),
        (2, 3, 5, 5),
    ),
    "a layer that runs twice": (
        Wired(
            lambda m, x: m.norm(m.first(x)) + m.other(m.first(x * 2)),
            conv(),
            stirred(nn.BatchNorm2d(3)),
            None,
            stirred(nn.BatchNorm2d(3, affine=False)),
        ),
        (2, 3, 5, 5),
    ),
    "a batch norm that runs twice": (
        Wired(
            lambda m, x: m.norm(m.first(x)) + m.norm(m.second(x)),
            conv(),
            stirred(nn.BatchNorm2d(3)),
            conv(),
        ),
        (2, 3, 5, 5),
    ),
    "statistics of the batch": (
        Wired(
            lambda m, x: m.norm(m.first(x)), conv(), nn.BatchNorm2d(3, track_running_stats=False)
        ),
        (2, 3, 5, 5),
    ),
    "a batch norm over pixels": (
        Wired(
            lambda m, x: m.norm(m.first(x).flatten(1)), conv(), stirred(nn.BatchNorm1d(3 * 5 * 5))
        ),
        (2, 3, 5, 5),
    ),
    "a batch norm over pixels of one channel": (
        Wired(
            lambda m, x: m.norm(m.first(x).flatten(1)), conv(3, 1), stirred(nn.BatchNorm1d(5 * 5))
        ),
        (2, 3, 5, 5),
    ),
    "a batch norm over positions": (
        Wired(lambda m, x: m.norm(m.first(x)), nn.Linear(4, 3), stirred(nn.BatchNorm1d(3))),
        (2, 3, 4),
    ),
    "a batch norm over another axis": (
        Wired(
            lambda m, x: m.norm(m.first(x).transpose(1, 2)), conv(3, 5), stirred(nn.BatchNorm2d(5))
        ),
        (2, 3, 5, 5),
    ),
    "the layer's output is a result as well": (
        Wired(lambda m, x: both(m.norm, m.first(x)), conv(), stirred(nn.BatchNorm2d(3))),
        (2, 3, 5, 5),
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_a_batch_norm_is_folded(case: str) -> None:
    model, shape = FOLDED[case]
    subject = seen(copy.deepcopy(model), *shape)
    (decision,) = decided(subject, "first").layers
    assert decision.folded == "norm"
    made = quantized(subject, "first")
    assert relative_error(made, subject) < 0.05
    after = look_at(made, subject.inputs).tree
    assert after[LayerId("norm")].note == "folded into first"
    assert after[LayerId("norm")].parameters == 0
    assert after[LayerId("norm")].kind == type(model.norm).__name__
    assert made.first.bias is not None


@pytest.mark.parametrize("case", NOT_FOLDED)
def test_a_batch_norm_is_not_folded_behind(case: str) -> None:
    model, shape = NOT_FOLDED[case]
    subject = seen(copy.deepcopy(model), *shape)
    (decision,) = decided(subject, "first").layers
    assert decision.folded is None
    made = quantized(subject, "first")
    with torch.inference_mode():
        got, wanted = (one(*subject.inputs) for one in (made, subject.model))
    for one, other in zip(
        got if isinstance(got, tuple) else [got],
        wanted if isinstance(wanted, tuple) else [wanted],
        strict=True,
    ):
        assert (one - other).abs().max() < 0.05 * other.abs().max()


# Calibration


def test_calibration_never_looks_at_validation_data(
    demo: ModelSession, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = ("stem.conv", "stage1.block0.conv2", "head.fc")
    model = demo._opened.model
    wanted = decided(seen(model, 1, 1, 8, 8, data=digits()), *layers)
    real = digits()
    nothing = Split(torch.full_like(real.validation.images, float("nan")), real.validation.labels)
    poisoned = replace(real, validation=nothing)
    monkeypatch.setitem(loading._DATA_SETS, "digits", lambda: poisoned)
    demo.load_data("digits", job)
    change = demo.apply(Quantize(tuple(map(LayerId, layers))), job)
    assert change.snapshot.cursor == 1
    assert decided(seen(model, 1, 1, 8, 8, data=poisoned), *layers).layers == wanted.layers
    after = carried_out(
        AppliedEdit(Quantize(tuple(map(LayerId, layers))), wanted), demo._subject(0)
    )
    assert (
        demo.fingerprint() == ModelSession(replace(demo._opened, model=after.model)).fingerprint()
    )


class Witness(nn.Module):
    """Writes down the first value of each sample it is given for real."""

    seen: list[float]  # of the class, as calibration runs a copy

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor:
            type(self).seen += x.flatten(1)[:, 0].tolist()
        return x


@pytest.mark.parametrize(
    ("samples", "wanted"),
    [
        (1, [0]),
        (5, [0, 250, 500, 749, 999]),
        (1000, list(range(1000))),
        (5000, list(range(1000))),
    ],
)
def test_calibration_samples_are_spread_over_the_training_split(
    samples: int, wanted: list[int]
) -> None:
    Witness.seen = []
    training = torch.arange(1000.0).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    model = nn.Sequential(Witness(), nn.Conv2d(1, 2, 1))
    subject = seen(model, 1, 1, 2, 2, data=toy_data(training))
    decision = decided(subject, "1", calibration_samples=samples)
    probe, calibrated = Witness.seen[:2], Witness.seen[2:]
    assert probe == [0, 999], "whether it takes two samples at once"
    assert calibrated == pytest.approx(wanted, abs=1)
    count = min(samples, 1000)
    assert decision.calibration == f"Calibrated on {count} training samples of toy."


def test_without_data_the_note_says_what_the_ranges_are_worth(
    session_of: Callable[..., ModelSession], job: Job
) -> None:
    session = session_of(nn.Sequential(nn.Linear(4, 3)), 1, 4)
    effect = session.preview(Quantize((LayerId("0"),)), job)
    assert effect.notes[0] == (
        "Calibrated on random noise, as no data set is chosen: expect poor accuracy."
    )
    assert session.apply(Quantize((LayerId("0"),)), job).snapshot.cursor == 1


def test_one_decision_is_the_same_whatever_else_is_quantized_with_it() -> None:
    model = nn.Sequential(conv(), nn.ReLU(), conv())
    subject = seen(model, 1, 3, 5, 5)
    assert decided(subject, "0", "2").layers == (
        *decided(subject, "0").layers,
        *decided(subject, "2").layers,
    )


def test_layers_that_no_sample_reaches_are_refused() -> None:
    model = Wired(lambda m, x: m.first(x), conv(), nn.Identity(), conv())
    with pytest.raises(EditRefused, match=r"^second is not reached"):
        decided(seen(model, 1, 3, 5, 5), "first", "second")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_inputs_that_are_not_finite_are_refused(bad: float) -> None:
    training = torch.rand(70, 3, 5, 5)
    training[69, 0, 0, 0] = bad
    subject = seen(nn.Sequential(conv()), 1, 3, 5, 5, data=toy_data(training))
    with pytest.raises(EditRefused, match="not finite"):
        decided(subject, "0")


# The fast form


FORMS = st.builds(
    lambda bits, symmetric, granularity, size: Quantize(
        (LayerId("0"),),
        weight_bits=bits,
        weight_symmetric=symmetric,
        granularity=granularity,
        group_size=size,
    ),
    st.integers(2, 16),
    st.booleans(),
    st.sampled_from(["tensor", "channel", "group"]),
    st.integers(1, 40),
)
"""What a weight may be asked to become."""


def inputs_around(grid: InputGrid, shape: tuple[int, ...], spread: float, draw: Any) -> Tensor:
    """Values around a grid's ends and its middle, on its points and halfway between them."""
    width = 2**grid.bits
    steps = torch.randn(shape, generator=draw) * (width / 2) * spread - grid.zero_point
    halves = torch.randint(0, 3, shape, generator=draw) / 2
    scale = grid.scale or 1.0
    return torch.where(halves < 1, (steps.round() + halves) * scale, steps * scale)


@given(
    FORMS,
    # Single precision, as calibration gives them: only such have one inverse.
    st.one_of(st.none(), st.floats(-6, 3).map(lambda power: float(np.float32(10.0**power)))),
    st.sampled_from([8, 16]),
    st.booleans(),
    st.floats(-1, 1),
    st.integers(0, 2**31),
    st.sampled_from([0.5, 1.0, 3.0, 1e4]),
)
@settings(max_examples=80)
def test_baked_layers_put_out_the_same_bits(
    edit: Quantize,
    scale: float | None,
    bits: Any,
    symmetric: bool,
    zero: float,
    seed: int,
    spread: float,
) -> None:
    """For all grids of weights and inputs, static and dynamic."""
    draw = torch.Generator().manual_seed(seed)
    zero_point = 0 if symmetric else round(zero * (2 ** (bits - 1) - 1))
    grid = InputGrid(bits, scale, 0 if scale is None else zero_point, symmetric)
    for layer, shape in ((nn.Linear(16, 4), (8, 16)), (nn.Conv2d(2, 3, 3), (2, 2, 6, 6))):
        weight = torch.randn(layer.weight.shape, generator=draw)
        plan = weight_plan(edit, weight, layer.bias.detach(), grid)
        integers = round_weight(plan.weight, plan.form, plan.scale, plan.zero_point)
        made = quantized_from(
            layer, integers, plan.bias, plan.scale, plan.zero_point, plan.form, grid
        )
        fast = copy.deepcopy(made)
        bake(fast)
        x = inputs_around(grid, shape, spread, draw)
        assert torch.equal(made(x), fast(x))


def test_evaluation_runs_the_form_that_is_exported(demo: ModelSession, job: Job) -> None:
    """The whole demo, explicit operators against the fast form."""
    demo.apply(Quantize(quantizable(demo)), job)
    model = demo._subject(1).model
    fast = copy.deepcopy(model)
    bake(fast)
    images = digits().validation.images[:100]
    with torch.inference_mode():
        assert torch.equal(model(images), fast(images))


# Decisions


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"weight_bits": 4, "granularity": "group", "group_size": 9, "weight_observer": "mse"},
        {"weight_bits": 7, "granularity": "tensor", "weight_symmetric": False},
        {"activations": "dynamic", "activation_symmetric": True},
        {"activations": "none", "weight_bits": 16},
        {"activation_bits": 16, "observer": "percentile", "percentile": 99.0},
    ],
    ids=str,
)
def test_a_decision_is_the_same_every_time_and_carries_out_to_the_same_bits(
    wishes: dict[str, Any],
) -> None:
    training = torch.randn(100, 3, 6, 6)
    model = nn.Sequential(conv(3, 4), stirred(nn.BatchNorm2d(4)), nn.ReLU(), conv(4, 2))
    made = []
    for _ in range(2):
        subject = seen(copy.deepcopy(model), 1, 3, 6, 6, data=toy_data(training))
        made.append((decided(subject, "0", "3", **wishes), after(subject, "0", "3", **wishes)))
    (first, one), (second, other) = made
    assert first == second
    assert fingerprint(one.model) == fingerprint(other.model)
    assert relative_error(one.model, seen(model, 1, 3, 6, 6)) < 0.3
    bits = wishes.get("activation_bits", 8) if wishes.get("activations") != "none" else None
    for layer in map(LayerId, ("0", "3")):
        found = one.tree[layer]
        assert (found.weight_bits, found.activation_bits) == (wishes.get("weight_bits", 8), bits)


def tampered(name: str, tensor: Tensor) -> Callable[[QuantizedLayer], QuantizedLayer]:
    return lambda one: replace(one, tensors=(stored_tensor(name, tensor),))


def with_grid(**changes: Any) -> Callable[[QuantizedLayer], QuantizedLayer]:
    return lambda one: replace(one, weight=replace(one.weight, **changes))


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (tampered("weight", torch.zeros(3, 4)), "not 4-bit integers"),
        (tampered("weight", torch.zeros(4, 3, dtype=torch.int8)), "not 4-bit integers"),
        (tampered("weight", torch.full((3, 4), 8, dtype=torch.int8)), "not 4-bit integers"),
        (tampered("weight", torch.full((3, 4), -8, dtype=torch.int8)), "not 4-bit integers"),
        (tampered("weight", torch.zeros(3, 4, dtype=torch.int16)), "not 4-bit integers"),
        (tampered("bias", torch.zeros(4)), "bias that is given"),
        (tampered("bias", torch.zeros(3, dtype=torch.float64)), "bias that is given"),
        (tampered("gain", torch.zeros(3)), "no tensor called “gain”"),
        (with_grid(scales=(1.0, 1.0)), "3 channels, and 2 scales"),
        (with_grid(group_size=3), "3 channels, and 3 scales"),
        (with_grid(group_size=1, scales=(1.0,) * 12, zero_points=(0,) * 12), "12 scales"),
        (with_grid(zero_points=(0, 0)), "zero points"),
        (with_grid(zero_points=(0, 1, 0)), "zero points"),
        (with_grid(symmetric=False, zero_points=(0, 9, 0)), "zero points"),
        (lambda one: replace(one, input=InputGrid(8, 1.0, 128)), "not on its grid"),
        (lambda one: replace(one, layer=LayerId("1")), "no layer that can be quantized"),
        (lambda one: replace(one, folded=LayerId("1")), "no layer that can be quantized"),
    ],
)
def test_a_decision_that_was_tampered_with_is_refused(
    tamper: Callable[[QuantizedLayer], QuantizedLayer], words: str
) -> None:
    subject = seen(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 1, 4)
    edit = Quantize((LayerId("0"),), weight_bits=4)
    decision = Quantization().decide(edit, subject, Job())
    changed = replace(decision, layers=tuple(map(tamper, decision.layers)))
    with pytest.raises(RecipeMismatch, match=words):
        carried_out(AppliedEdit(edit, changed), subject)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    layer = nn.Linear(4, 3)
    layer.weight.data[1, 2] = bad
    with pytest.raises(EditRefused, match="0 holds weights that are not finite"):
        decided(seen(nn.Sequential(layer), 1, 4), "0")


# What follows from it


def test_bits_size_and_energy_follow(demo: ModelSession, job: Job) -> None:
    layer = LayerId("head.fc")
    effect = demo.preview(Quantize((layer,)), job)
    before, after = demo.snapshot.base, demo.apply(Quantize((layer,)), job).snapshot.current
    assert (before.tree[layer].weight_bits, before.tree[layer].activation_bits) == (32, None)
    assert (after.tree[layer].weight_bits, after.tree[layer].activation_bits) == (8, 8)
    assert after.tree[layer].parameters == before.tree[layer].parameters == 1290
    sizes = [state.table["size"].by_layer()[layer] for state in (before, after)]
    assert sizes == [1290 * 4, 1280 + 10 * 4 + 10 * 4]  # integers, bias, scales
    assert after.table["macs"].total == before.table["macs"].total
    energies = [state.table["energy"].layers[layer]["compute"].value for state in (before, after)]
    assert energies[1] == pytest.approx(energies[0] / 4)
    for key in ("size", "energy", "macs", "parameters"):
        assert effect.after[key] == after.table[key].total.value


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_zeros_of_an_affine_grid_are_counted_at_its_zero_point(granularity: str) -> None:
    layer = nn.Linear(64, 8)
    layer.weight.data = torch.rand(8, 64) + 0.5
    layer.weight.data[:, ::2] = 0
    subject = seen(nn.Sequential(layer), 1, 64)
    rounded = after(subject, "0", granularity=granularity, weight_symmetric=False)
    assert subject.tree[LayerId("0")].zeros == rounded.tree[LayerId("0")].zeros == 8 * 32
    assert weight_zeros(rounded.model)["0.weight"] == 0.5


def test_folding_takes_the_batch_norm_out_of_every_count(demo: ModelSession, job: Job) -> None:
    before = demo.snapshot.base
    after = demo.apply(Quantize((LayerId("stem.conv"),)), job).snapshot.current
    assert after.tree[LayerId("stem.bn")].parameters == 0
    saved = before.table["parameters"].total.value - after.table["parameters"].total.value
    assert saved == 2 * 32 - 32  # gain and shift go, the convolution's bias comes
    for key in ("energy", "size"):
        assert LayerId("stem.bn") in before.table[key].layers
        assert LayerId("stem.bn") not in after.table[key].layers


def test_every_layer_of_the_demo_in_int8_costs_less_than_a_point(
    demo: ModelSession, job: Job
) -> None:
    layers = quantizable(demo)
    assert len(layers) == 9 + 2  # with the additions of two blocks
    demo.apply(Quantize(layers), job)
    snapshot = demo.evaluate(job).snapshot
    base, now = (
        state.table[ACCURACY.key].total.value for state in (snapshot.base, snapshot.current)
    )
    assert abs(base - now) < 0.01
    sizes = [state.table["size"].total.value for state in (snapshot.base, snapshot.current)]
    assert 3.5 < sizes[0] / sizes[1] < 4
    assert {one.weight_bits for one in snapshot.current.tree if one.parameters} == {8}
    latency = demo.measure_latency(job).snapshot.current.table["latency"]
    assert latency.conditions["int8"] == "11 layers simulated in floating point"


def test_a_preview_looks_at_no_data(demo: ModelSession, job: Job) -> None:
    """It tells the same costs as the edit without running the model."""
    layers = quantizable(demo)
    effect = demo.preview(Quantize(layers), job)
    roles = {one.layer: one.role for one in effect.layers}
    assert [layer for layer, role in roles.items() if role == "chosen"] == list(layers)
    assert sum(role == "folded" for role in roles.values()) == 8
    after = demo.apply(Quantize(layers), job).snapshot.current.table
    assert effect.after == {key: after[key].total.value for key in effect.after}


def test_pruned_layers_can_be_quantized(demo: ModelSession, job: Job) -> None:
    demo.apply(PruneChannels((LayerId("stage1.block0.conv2"),), 0.3), job)
    demo.apply(Quantize(quantizable(demo)), job)
    tree = demo.evaluate(job).snapshot.current.tree
    assert tree[LayerId("stage1.block0.conv2")].channels == 48
    assert tree[LayerId("stage1.block0.conv2")].weight_bits == 8


# Refusals


@pytest.mark.parametrize("layer", ["stem.bn", "stem.relu", "stage1", "head.pool"])
def test_layers_that_cannot_hold_integers_are_refused(
    demo: ModelSession, job: Job, layer: str
) -> None:
    before = demo.fingerprint()
    for operation in (demo.preview, demo.apply):
        with pytest.raises(EditRefused, match=rf"^{layer} \(\w+\) cannot be quantized"):
            operation(Quantize((LayerId("stem.conv"), LayerId(layer))), job)
    assert (demo.snapshot.cursor, demo.fingerprint()) == (0, before)


def test_subclasses_may_compute_something_else_and_are_refused() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

    subject = seen(nn.Sequential(Standardised(3, 4, 3)), 1, 3, 5, 5)
    assert "quantize" not in subject.tree[LayerId("0")].methods
    with pytest.raises(EditRefused, match=r"0 \(Standardised\) cannot be quantized"):
        decided(subject, "0")


def test_quantizing_twice_is_refused(demo: ModelSession, job: Job) -> None:
    demo.apply(Quantize((LayerId("head.fc"),)), job)
    for operation in (demo.preview, demo.apply):
        with pytest.raises(EditRefused, match=r"head\.fc is quantized already"):
            operation(Quantize((LayerId("stem.conv"), LayerId("head.fc"))), job)
    assert demo.snapshot.cursor == 1


def test_a_layer_named_twice_is_refused(demo: ModelSession, job: Job) -> None:
    with pytest.raises(EditRefused, match=r"head\.fc.* twice"):
        demo.apply(Quantize((LayerId("head.fc"), LayerId("head.fc"))), job)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"weight_bits": 1}, "2 to 16 bits"),
        ({"weight_bits": 17}, "2 to 16 bits"),
        ({"activation_bits": 4}, "8 or 16 bits"),
        ({"calibration_samples": 0}, "at least one sample"),
        ({"group_size": 0}, "at least one weight"),
        ({"percentile": 50.0}, "above 50"),
        ({"percentile": float("nan")}, "above 50"),
        ({"granularity": "row"}, "granularity"),
        ({"observer": "entropy"}, "observer"),
        ({"weight_observer": "entropy"}, "observer of weights"),
        ({"activations": "maybe"}, "static, dynamic or none"),
        ({"rounding": "up"}, "rounding"),
    ],
)
def test_what_no_grid_can_be_made_of_is_refused_in_words(wish: dict[str, Any], words: str) -> None:
    subject = seen(nn.Sequential(conv()), 1, 3, 5, 5)
    edit = Quantize((LayerId("0"),), **wish)
    for operation in (Quantization().draft, Quantization().decide):
        with pytest.raises(EditRefused, match=words):
            operation(edit, subject, Job())


@pytest.mark.parametrize(
    ("module", "shape", "words"),
    [
        (nn.ConvTranspose2d(3, 4, 2), (1, 3, 4, 4), "transposed"),
        (nn.PReLU(), (1, 3), "neither a convolution nor a linear"),
        (nn.ReLU(), (1, 3), "no weights"),
        (nn.BatchNorm2d(3), (1, 3, 4, 4), "goes into the layer before"),
        (nn.Sequential(nn.Linear(3, 2)), (1, 3), "choose those"),
    ],
)
def test_what_stays_in_float_says_why(
    module: nn.Module, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(EditRefused, match=words):
        decided(seen(nn.Sequential(module), *shape), "0")


def test_an_embedding_says_why_it_stays_in_float() -> None:
    inputs = sample_inputs([InputSpec((2, 3), "int64", high=5)])
    subject = look_at(nn.Sequential(nn.Embedding(5, 4)).eval(), inputs)
    with pytest.raises(EditRefused, match="looked up and not multiplied"):
        decided(subject, "0")


def test_every_float_type_has_its_quantized_one() -> None:
    for plain, integer in QUANTIZED.items():
        assert issubclass(integer, plain)
        assert integer.kind == plain.__name__


class ByKeyword(nn.Module):
    """Calls its layers by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)
        self.second = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(input=self.first(input=x))


def test_a_layer_called_by_keyword_is_calibrated() -> None:
    x = torch.randn(1, 1, 2, 2)
    subject = look_at(ByKeyword().eval(), (x,))
    (decision,) = decided(subject, "first", observer="min-max").layers
    assert decision.input.scale == pytest.approx(
        (max(float(x.max()), 0) - min(float(x.min()), 0)) / 255, rel=1e-6
    )
