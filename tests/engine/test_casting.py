"""Casts: what 16 bits do to a layer, by torch's own rounding, through files and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.edits import Cast, FineTune, Quantize
from engine.errors import EditRefused, ModelUnreadable
from engine.half_layers import HALF, half_from, is_half
from engine.job import Job
from engine.layers import LayerId
from engine.metrics import ACCURACY, SIZE
from engine.session import ModelSession, open_model
from engine.sources.description import describe, rebuild

KINDS: dict[type[nn.Module], tuple[Callable[[], Any], tuple[int, ...]]] = {
    nn.Conv1d: (lambda: nn.Conv1d(4, 6, 3, 2, 1, groups=2), (2, 4, 9)),
    nn.Conv2d: (lambda: nn.Conv2d(4, 6, 3, bias=False, padding_mode="reflect"), (2, 4, 9, 9)),
    nn.Conv3d: (lambda: nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    nn.ConvTranspose1d: (lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1), (2, 4, 9)),
    nn.ConvTranspose2d: (lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (2, 4, 5, 5)),
    nn.ConvTranspose3d: (lambda: nn.ConvTranspose3d(2, 3, 2, bias=False), (1, 2, 3, 3, 3)),
    nn.Linear: (lambda: nn.Linear(5, 7), (3, 2, 5)),
}
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # half a step, as a share of the value
STEM, POINTWISE, HEAD = map(LayerId, ("stem.conv", "stage2.pointwise.conv", "head.fc"))
LINEAR = LayerId("0")


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).to(torch.float32)


@pytest.mark.parametrize("dtype", TYPES.values(), ids=str)
@pytest.mark.parametrize("kind", HALF, ids=lambda kind: kind.__name__)
def test_a_cast_layer_rounds_what_it_reads_and_writes_and_sums_in_float32(
    kind: type[nn.Module], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    if kind is nn.Embedding:
        plain: Any = nn.Embedding(9, 4, padding_idx=2)
        x: Tensor = torch.tensor([[0, 2], [8, 3]])
        given_x = x
    else:
        plain, x = KINDS[kind][0](), torch.randn(KINDS[kind][1])
        given_x = rounded(x, dtype)
    before = {name: one.clone() for name, one in plain.state_dict().items()}
    made: Any = half_from(plain, dtype)
    assert {one.dtype for one in made.parameters()} == {dtype}
    assert all(torch.equal(one, before[name]) for name, one in plain.state_dict().items())

    with torch.no_grad():
        for one in plain.parameters():
            one.copy_(rounded(one, dtype))
        wanted = rounded(plain(given_x), dtype)
        assert torch.equal(made(x), wanted)
    assert made.kind == kind.__name__


def test_transposed_convolutions_take_the_size_that_is_asked_for() -> None:
    plain = nn.ConvTranspose2d(2, 3, 3, 2)
    x = torch.randn(1, 2, 4, 4)
    made: Any = half_from(plain, torch.float16)
    assert made(x, [10, 9]).shape == plain(x, [10, 9]).shape == (1, 3, 10, 9)


@given(st.sampled_from(["float16", "bfloat16"]), st.integers(0, 2**31))
def test_a_cast_linear_layer_is_as_near_as_the_type_allows(name: str, seed: int) -> None:
    """Each product has two roundings, and the sum one more."""
    generator = torch.Generator().manual_seed(seed)
    plain = nn.Linear(16, 8, bias=False)
    with torch.no_grad():
        plain.weight.copy_(torch.randn(8, 16, generator=generator))
        x = torch.randn(4, 16, generator=generator)
        error = (half_from(plain, TYPES[name])(x) - plain(x)).abs()
        reach = x.abs() @ plain.weight.abs().T
    assert bool((error <= 3.1 * ROUNDING[name] * reach + 1e-7).all())


def test_a_cast_halves_bytes_and_bits(demo: ModelSession, job: Job) -> None:
    before = demo.snapshot.current
    layers = tuple(one.id for one in before.tree if "cast" in one.methods)
    assert POINTWISE in layers
    change = demo.apply(Cast(layers), job)
    after = change.snapshot.current
    for layer in layers:
        assert (after.tree[layer].weight_bits, after.tree[layer].activation_bits) == (16, 16)
        assert after.tree[layer].kind == before.tree[layer].kind
        assert after.tree[layer].parameters == before.tree[layer].parameters
        assert "cast" not in after.tree[layer].methods
        size = [one.table[SIZE.key].layers[layer][""].value for one in (after, before)]
        assert size[0] == size[1] / 2
    assert after.tree[LayerId("stem.bn")].weight_bits != 16
    demo.undo(job)
    assert demo.snapshot.current == before


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_computed_is_counted_in_16_bits(
    session_of: Callable[..., ModelSession], job: Job, dtype: Any
) -> None:
    session = session_of(nn.Sequential(nn.Linear(8, 4)), 1, 8)
    session.apply(Cast((LINEAR,), dtype), job)
    (product,) = (one for one in session._subject(1).trace.operators if one.macs)
    assert [use.bits for use in (*product.inputs, *product.outputs)] == [16, 16, 16, 32]
    assert session._subject(1).trace.operators.macs() == {LINEAR: 32}


@pytest.mark.parametrize("dtype", TYPES)
def test_accuracy_hardly_changes(demo: ModelSession, job: Job, dtype: Any) -> None:
    before = demo.evaluate(job).snapshot.current.table[ACCURACY.key].total
    layers = tuple(one.id for one in demo.snapshot.current.tree if "cast" in one.methods)
    demo.apply(Cast(layers, dtype), job)
    after = demo.evaluate(job).snapshot.current.table[ACCURACY.key].total
    assert before is not None
    assert after is not None
    assert abs(after.value - before.value) <= 0.005


def linear(session_of: Callable[..., ModelSession], *weights: float) -> ModelSession:
    layer = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    return session_of(nn.Sequential(layer), 1, len(weights))


def test_weights_that_float16_cannot_hold_are_refused_with_their_count(
    session_of: Callable[..., ModelSession], job: Job
) -> None:
    session = linear(session_of, 65504.0, 65520.0, -1e6, 1.0)
    with pytest.raises(EditRefused, match=r"2 weights of .* beyond .* float16, ±65,504") as caught:
        session.apply(Cast((LINEAR,)), job)
    assert "bfloat16" in caught.value.remedy
    assert not session.snapshot.history
    session.apply(Cast((LINEAR,), "bfloat16"), job)


def test_weights_that_become_zero_are_counted(
    session_of: Callable[..., ModelSession], job: Job
) -> None:
    session = linear(session_of, 2.0**-26, -(2.0**-25), 2.0**-24, 0.0)
    notes = session.preview(Cast((LINEAR,)), job).notes
    assert notes[0] == "2 weights are too small and become 0 in float16."
    assert "infinite" in notes[1]
    notes = session.preview(Cast((LINEAR,), "bfloat16"), job).notes
    assert not any("infinite" in one or "become 0" in one for one in notes)
    one = linear(session_of, 2.0**-26, 1.0).preview(Cast((LINEAR,)), job).notes[0]
    assert one == "1 weight is too small for it and becomes 0 in float16."


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [
        (None, Cast((LayerId("stem.bn"),)), r"stem.bn \(BatchNorm2d\) cannot be kept in 16-bit"),
        (Cast((STEM,)), Cast((STEM,), "bfloat16"), "stem.conv is kept in 16 bits already"),
        (Quantize((HEAD,), calibration_samples=4), Cast((HEAD,)), "head.fc holds integers"),
    ],
)
def test_what_cannot_be_cast_is_refused_by_name(
    demo: ModelSession, job: Job, first: Any, second: Cast, cause: str
) -> None:
    if first is not None:
        demo.apply(first, job)
    with pytest.raises(EditRefused, match=cause):
        demo.apply(second, job)


def test_models_in_16_bits_and_tables_that_renormalise_are_not_cast(
    session_of: Callable[..., ModelSession],
) -> None:
    session = session_of(nn.Sequential(nn.Linear(4, 2)).to(torch.bfloat16), 1, 4)
    assert "cast" not in session.snapshot.current.tree[LINEAR].methods
    from engine.quantization.casting import Casting

    assert not Casting().applies(nn.Embedding(3, 2, max_norm=1.0))
    assert Casting().applies(nn.Embedding(3, 2))


class Reader(nn.Module):
    """Multiplies by the weight of its child itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.inner.weight)


def test_layers_whose_weights_others_read_are_not_cast(
    session_of: Callable[..., ModelSession], job: Job
) -> None:
    session = session_of(nn.Sequential(Reader(), nn.Linear(4, 2)), 1, 4)
    tree = session.snapshot.current.tree
    assert [one.id for one in tree if "cast" in one.methods] == ["1"]
    with pytest.raises(EditRefused, match=r"0\.inner cannot be cast: the layer around it reads"):
        session.apply(Cast((LayerId("0.inner"),)), job)


# Files


def test_casts_and_integers_come_back_from_a_checkpoint(
    demo: ModelSession, job: Job, tmp_path: Path
) -> None:
    demo.apply(Cast((STEM, POINTWISE), "bfloat16"), job)
    demo.apply(Cast((LayerId("stage1.block0.conv1"),)), job)
    demo.apply(Quantize((HEAD,), calibration_samples=4), job)
    model = demo._subject(demo._cursor).model
    described, tensors = describe(model, "demo", demo.snapshot.model.inputs, trained=True)
    again: Any = rebuild(described, tensors)
    assert again.stem.conv.weight.dtype is torch.bfloat16
    assert again.stage1.block0.conv1.weight.dtype is torch.float16
    state = again.state_dict()
    assert all(torch.equal(state[name], one) for name, one in model.state_dict().items())
    path = tmp_path / "cast.json"
    demo.save_recipe(str(path), job)
    other = open_model("demo", job)
    other.apply_recipe(str(path), job)
    assert other.fingerprint() == demo.fingerprint()


def test_a_layer_cannot_be_described_as_integers_in_16_bits(demo: ModelSession, job: Job) -> None:
    from dataclasses import replace

    demo.apply(Quantize((HEAD,), calibration_samples=4), job)
    model = demo._subject(1).model
    described, tensors = describe(model, "demo", demo.snapshot.model.inputs, trained=True)
    both = replace(described.layers[HEAD], dtype="float16")
    with pytest.raises(ModelUnreadable, match="described in two ways"):
        rebuild(replace(described, layers={HEAD: both}), tensors)
    relu = {"stem.relu": replace(both, integers=None, bias=None)}
    with pytest.raises(ModelUnreadable, match=r"stem.relu \(ReLU\) cannot be in float16"):
        rebuild(replace(described, layers=relu), tensors)


def test_cast_layers_are_pruned_as_others_are(demo: ModelSession, job: Job) -> None:
    from engine.edits import PruneChannels, PruneWeights

    layer = LayerId("stage1.block0.conv1")
    demo.apply(Cast((layer, LayerId("stage1.block0.conv2"))), job)
    demo.apply(PruneChannels((layer,), 0.25), job)
    demo.apply(PruneWeights((layer,), 0.5), job)
    model: Any = demo._subject(demo._cursor).model
    conv = model.stage1.block0.conv1
    assert is_half(conv)
    assert conv.weight.dtype is torch.float16
    assert conv.weight.shape[0] == 48
    assert float((conv.weight == 0).float().mean()) == pytest.approx(0.5, abs=1e-3)


def test_cast_layers_are_trained_in_16_bits(demo: ModelSession, job: Job) -> None:
    demo.apply(Cast((HEAD,)), job)
    before = demo._subject(1).model.get_parameter("head.fc.weight").clone()
    demo.apply(FineTune((HEAD,), epochs=1, learning_rate=1e-3, samples=200), job)
    after = demo._subject(2).model.get_parameter("head.fc.weight")
    assert after.dtype is torch.float16
    assert not torch.equal(after, before)
