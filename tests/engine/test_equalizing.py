"""Cross-layer equalization: the same outputs, even channels, and where it cannot be done."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.batch_norms import folded
from engine.editing import Subject, carried_out, look_at
from engine.edits import AppliedEdit, ChannelScale, ChannelsScaled, Equalize, Quantize
from engine.errors import EditRefused, RecipeMismatch
from engine.job import Job
from engine.layers import LayerId
from engine.quantization.equalizing import Equalization
from engine.session import ModelSession
from engine.sharing import fingerprint
from tests.engine.living import alive
from tests.engine.small_networks import decided, edited, off, output, replayed

Make = Callable[[], nn.Module]


def seen(model: nn.Module, *shape: int) -> Subject:
    return look_at(alive(model), (torch.randn(shape, dtype=torch.double),))


def fitting(subject: Subject) -> tuple[LayerId, ...]:
    return tuple(layer.id for layer in subject.tree if "equalize" in layer.methods)


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x).relu()
        out: Tensor = self.second(inner) + inner
        return out


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        out: Tensor = self.second(y)
        return out


def test_two_linear_layers_by_hand() -> None:
    """Ranges 8 and 2 meet at 4, ranges 1 and 9 at 3."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).eval()
    model[0].weight.data = torch.tensor([[8.0, -4.0], [0.5, -1.0]])
    model[0].bias.data = torch.tensor([2.0, 3.0])
    model[2].weight.data = torch.tensor([[2.0, -9.0]])
    subject = look_at(model, (torch.randn(3, 2),))
    after = edited(Equalize((LayerId("0"),)), subject).model
    torch.testing.assert_close(after[0].weight.data, torch.tensor([[4.0, -2.0], [1.5, -3.0]]))
    torch.testing.assert_close(after[0].bias.data, torch.tensor([1.0, 9.0]))
    torch.testing.assert_close(after[2].weight.data, torch.tensor([[4.0, -3.0]]))


PAIRS: dict[str, tuple[Make, tuple[int, ...], tuple[str, ...]]] = {
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        (2, 3, 9, 9),
        ("0",),
    ),
    "nothing between": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)),
        (2, 5, 6),
        ("0",),
    ),
    "depthwise between, with batch norms": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(),
            nn.Conv2d(8, 4, 1),
        ),
        (2, 3, 9, 9),
        ("0", "3"),
    ),
    "groups": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=2), nn.PReLU(8), nn.Conv2d(8, 6, 1, groups=2)
        ),
        (2, 4, 9, 9),
        ("0",),
    ),
    "pooled, padded and flattened": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.MaxPool2d(2),
            nn.ZeroPad2d(1),
            nn.AdaptiveAvgPool2d(2),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(32, 4),
        ),
        (2, 3, 9, 9),
        ("0",),
    ),
    "one dimension, three": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3), nn.Unflatten(2, (5, 1, 1)),
            nn.Conv3d(4, 2, 1),
        ),
        (2, 3, 9),
        ("0",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_the_outputs_stay_the_same(name: str, tmp_path: Path) -> None:
    make, shape, pairs = PAIRS[name]
    torch.manual_seed(0)
    subject = seen(make(), *shape)
    before = fingerprint(subject.model)
    layers = fitting(subject)
    assert set(layers) >= set(pairs)
    applied = decided(Equalize(layers), subject)
    after = carried_out(applied, subject)
    assert off(output(after.model, subject), output(subject.model, subject)) < 1e-12
    assert fingerprint(after.model) != before == fingerprint(subject.model)
    again = replayed([applied], subject, tmp_path)
    assert fingerprint(again.model) == fingerprint(after.model)


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_ranges_of_both_layers_agree_channel_by_channel(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    )
    for one in (model[0], model[2], model[4]):
        one.weight.data *= torch.randn(len(one.weight), 1, 1, 1).exp()
    subject = look_at(model.eval(), (torch.randn(1, 3, 5, 5),))
    after = edited(Equalize((LayerId("0"), LayerId("2"))), subject).model
    written = [after[at].weight.abs().flatten(1).amax(1) for at in (0, 2)]
    read = [after[2].weight.abs().flatten(1).amax(1), after[4].weight.abs().amax((0, 2, 3))]
    for one, other in zip(written, read, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0)


def test_a_batch_norm_is_folded_and_says_so() -> None:
    make, shape, _ = PAIRS["depthwise between, with batch norms"]
    subject = seen(make(), *shape)
    applied = decided(Equalize((LayerId("0"),)), subject)
    effects = Equalization().effects(applied.decision, subject)
    assert {(one.layer, one.role, one.quantity) for one in effects} == {
        ("0", "coupled", "channels scaled"),
        ("3", "coupled", "channels scaled"),
        ("1", "folded", "parameters"),
    }
    after = carried_out(applied, subject)
    assert after.tree[LayerId("1")].note == "folded into 0"
    weight, _ = folded(subject.model[0], subject.model[1])
    assert after.model[0].weight.shape == weight.shape


def test_a_channel_that_nothing_writes_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    model[0].weight.data[1] = 0
    model[2].weight.data[:, 2] = 0
    subject = look_at(model, (torch.randn(2, 3),))
    decision = decided(Equalize((LayerId("0"),)), subject).decision
    assert decision.scales[0].factors[1:3] == (1.0, 1.0)


REFUSED: dict[str, tuple[Make, tuple[int, ...], str, str]] = {
    "ReLU6": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 4, 1)),
        (1, 3, 5, 5), "0", "hardtanh in 1 reads it",
    ),
    "SiLU": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.SiLU(), nn.Conv2d(8, 4, 1)),
        (1, 3, 5, 5), "0", "silu in 1 reads it",
    ),
    "a sum": (Sum, (1, 3, 5, 5), "first", "together with another value"),
    "a shuffle": (Shuffled, (1, 3, 5, 5), "first", "rearranged"),
    "the last layer": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (1, 3), "0", "the model's own"
    ),
    "no layer with weights": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (1, 3), "1", "is no convolution"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_reason(name: str) -> None:
    make, shape, layer, reason = REFUSED[name]
    subject = look_at(make().eval(), (torch.randn(shape),))
    assert layer not in fitting(subject)
    with pytest.raises(EditRefused, match=reason):
        decided(Equalize((LayerId(layer),)), subject)


def test_integer_weights_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    subject = edited(Quantize((LayerId("2"),)), look_at(model.eval(), (torch.randn(2, 3),)))
    with pytest.raises(EditRefused, match="integer weights"):
        decided(Equalize((LayerId("0"),)), subject)
    assert not fitting(subject)


class Sneaky(nn.Module):
    """Its operators say that the channels are kept, and its code treats one of them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).mT.contiguous())
        return out


def test_what_the_operators_do_not_show_is_found_by_running_it() -> None:
    """A transposed square matrix: its last axis is as long as before, and is another."""
    subject = look_at(Sneaky().eval(), (torch.randn(2, 4, 4),))
    with pytest.raises(EditRefused, match="outputs would change"):
        decided(Equalize((LayerId("first"),)), subject)


def test_a_recipe_for_other_layers_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    subject = look_at(model, (torch.randn(2, 3),))
    for layer, side, count in (("0", "out", 3), ("2", "in", 3), ("1", "in", 4)):
        scale = ChannelScale(LayerId(layer), side, (2.0,) * count)  # type: ignore[arg-type]
        with pytest.raises(RecipeMismatch):
            Equalization().carry_out(ChannelsScaled((scale,)), model)
    missing = ChannelScale(LayerId("0"), "out", (2.0,) * 4, LayerId("1"))
    with pytest.raises(RecipeMismatch, match="no batch norm"):
        Equalization().carry_out(ChannelsScaled((missing,)), model)
    assert subject.model is model


def test_per_tensor_weights_of_depthwise_layers_are_mended(demo: ModelSession, job: Job) -> None:
    """The demo's depthwise layer with channels of uneven ranges, as training without care leaves
    them: per-tensor int8 ruins it, and equalizing first brings it back.
    """
    pair = (LayerId("stage2.depthwise.conv"), LayerId("stage2.pointwise.conv"))
    channels = demo.snapshot.current.tree[pair[0]].channels
    uneven = tuple((2.0 ** (16 * torch.rand(channels or 0) - 8)).tolist())
    subject = demo._subject(0)
    spoilt = ChannelsScaled(
        (
            ChannelScale(pair[0], "out", uneven, LayerId("stage2.depthwise.bn")),
            ChannelScale(pair[1], "in", tuple(1 / one for one in uneven)),
        )
    )
    start = carried_out(AppliedEdit(Equalize(pair[:1]), spoilt), subject)
    data = subject.data
    assert data is not None
    images = next(iter(data.validation.batches(300)))[0]

    @torch.inference_mode()
    def agreement(after: Subject) -> float:
        wanted = subject.model(images).argmax(1)
        return float((after.model(images).argmax(1) == wanted).float().mean())

    assert agreement(start) > 0.99
    asked = Quantize(pair, granularity="tensor")
    spoilt_by_it = agreement(edited(asked, start))
    mended = agreement(edited(asked, edited(Equalize(pair[:1]), start)))
    assert spoilt_by_it < 0.9 < 0.98 < mended
