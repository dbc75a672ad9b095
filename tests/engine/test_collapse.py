"""Known ways in which integers ruin a model: each is warned of, and the remedy told repairs it."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.datasets import DataSet, Split, digits
from engine.editing import Subject, carried_out, checked, handler_of, look_at
from engine.edits import AppliedEdit, LayersQuantized, Quantize
from engine.job import Job
from engine.layers import LayerId
from engine.quantization.collapse import Predictions, judged
from engine.quantization.warnings import foreseen, saturation
from engine.requests import InputSpec
from engine.session import ModelSession
from engine.tracing import sample_inputs

SOUND, RUINED = 0.97, 0.5
"""Shares of validation samples that keep the float model's class."""


def seen(model: nn.Module, *shape: int, data: DataSet | None = None) -> Subject:
    return look_at(model.eval(), sample_inputs([InputSpec(shape)]), data)


def quantized(subject: Subject, edit: Quantize) -> tuple[nn.Module, tuple[str, ...]]:
    """The model as the edit makes it, and what is warned of."""
    decision = handler_of(edit).decide(edit, subject, Job())
    applied = checked(AppliedEdit(edit, decision), subject, Job())
    assert isinstance(applied.decision, LayersQuantized)
    return carried_out(applied, subject).model, applied.decision.warnings


@torch.inference_mode()
def agreement(model: nn.Module, subject: Subject, images: Tensor) -> float:
    got, wanted = (one(images).argmax(1) for one in (model, subject.model))
    return float((got == wanted).double().mean())


def about(warnings: tuple[str, ...], words: str) -> bool:
    return any(words in one for one in warnings)


def layers(*names: str) -> tuple[LayerId, ...]:
    return tuple(map(LayerId, names))


class Small(nn.Module):
    """A convolution, one by channel, one by position, and a classifier, for digits.

    Args:
        zoom: how many pixels a side each pixel of a digit has; the model computes the same.
        more: channels of the first two layers beyond 16.
    """

    def __init__(self, activation: Callable[[], nn.Module], zoom: int = 1, more: int = 0) -> None:
        super().__init__()
        around: Any = {"padding": zoom, "dilation": zoom}
        self.first = nn.Conv2d(1, 16 + more, 3, **around)
        self.depthwise = nn.Conv2d(16 + more, 16 + more, 3, **around, groups=16 + more)
        self.pointwise = nn.Conv2d(16 + more, 32, 1, stride=2 * zoom)
        self.head = nn.Linear(32 * 16, 10)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.depthwise(self.act(self.first(x))))
        return self.head(self.act(self.pointwise(x)).flatten(1))


@cache
def trained(activation: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Weights that tell digits apart, from a second of training."""
    torch.manual_seed(1)
    model = Small(activation)
    training = digits().training
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(5):
        for images, labels in training.batches(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# Depthwise filters of unlike ranges


def unlike_filters() -> Small:
    """The trained model, one filter of which is a thousand times larger than the others."""
    state = dict(trained(nn.ReLU))
    factors = torch.full((16, 1, 1, 1), 1e-3)
    factors[0] = 1.0
    state["depthwise.weight"] = state["depthwise.weight"] * factors
    state["depthwise.bias"] = state["depthwise.bias"] * factors.flatten()
    state["pointwise.weight"] = state["pointwise.weight"] / factors.reshape(1, -1, 1, 1)
    model = Small(nn.ReLU)
    model.load_state_dict(state)
    return model


def test_one_scale_for_all_depthwise_filters_collapses_and_one_each_does_not() -> None:
    subject = seen(unlike_filters(), 1, 1, 8, 8, data=digits())
    images = digits().validation.images
    edit = Quantize(layers("depthwise"), granularity="tensor")
    ruined, warnings = quantized(subject, edit)
    assert agreement(ruined, subject, images) < RUINED
    assert about(warnings, "Filters of depthwise convolutions (depthwise)")
    assert about(warnings, "collapse") or about(warnings, "entropy of predictions")
    sound, warnings = quantized(subject, replace(edit, granularity="channel"))
    assert agreement(sound, subject, images) >= SOUND
    assert warnings == ()


# Outliers among activations


def magnified(split: Any, zoom: int) -> Split:
    images = split.images
    return Split(images.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3).clone(), split.labels)


def glaring(zoom: int) -> DataSet:
    """Digits, one training sample of which has a pixel that is a little too bright."""
    data = digits()
    training, validation = (magnified(one, zoom) for one in (data.training, data.validation))
    training.images[0, 0, 4, 4] = 1.05
    return replace(data, training=training, validation=validation)


def with_detector(activation: Callable[[], nn.Module], zoom: int) -> Small:
    """The trained model with a channel that tells too bright pixels, which nothing reads."""
    model = Small(activation, zoom, more=1)
    state = model.state_dict()
    for name, tensor in trained(activation).items():
        state[name].zero_()
        state[name][tuple(slice(size) for size in tensor.shape)] = tensor
    state["first.weight"][16, 0, 1, 1] = 3e4
    state["first.bias"][16] = -3e4 * 1.0005
    return model


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Hardswish])
@pytest.mark.parametrize(
    ("observer", "zoom"),
    [
        ("percentile", 1),
        # A squared error is not worth cutting unless the outlier is one among millions.
        ("mse", 4),
    ],
)
def test_an_outlier_ruins_the_whole_range_and_not_one_that_leaves_it_out(
    activation: Callable[[], nn.Module], observer: Any, zoom: int
) -> None:
    data = glaring(zoom)
    subject = seen(with_detector(activation, zoom), 1, 1, 8 * zoom, 8 * zoom, data=data)
    images = next(data.validation.batches(200))[0]
    edit = Quantize(layers("depthwise"), observer="min-max", calibration_samples=1347)
    ruined, warnings = quantized(subject, edit)
    assert agreement(ruined, subject, images) < RUINED
    assert about(warnings, "collapse") or about(warnings, "entropy of predictions")
    assert about(warnings, "behind hard-swish") == (activation is nn.Hardswish)
    sound, warnings = quantized(subject, replace(edit, observer=observer))
    assert agreement(sound, subject, images) >= SOUND
    assert warnings == ()


# Softmax


class Finder(nn.Module):
    """Tells which of eight tokens is like the first, by attention.

    All keys and the query have a large part in common, which the softmax takes no notice of.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.full_like(x[..., :1], 1000.0)], -1)
        query, keys = x[:, :1], x[:, 1:]
        return (query @ keys.mT * 0.5).softmax(-1).squeeze(1).log()


def tokens(count: int) -> DataSet:
    """Eight tokens of 16 signs behind one of them; the class is the number of that one."""
    draw = torch.Generator().manual_seed(4)
    keys = torch.randint(0, 2, (count, 8, 16), generator=draw) * 2.0 - 1
    which = torch.randint(0, 8, (count,), generator=draw)
    x = torch.cat([keys[torch.arange(count), which][:, None], keys], 1)
    return DataSet("tokens", tuple("abcdefgh"), Split(x, which), Split(x, which), "")


def test_8_bits_before_a_softmax_collapse_and_16_do_not() -> None:
    data = tokens(256)
    subject = seen(nn.Sequential(Finder()), 1, 9, 16, data=data)
    x, which = next(data.validation.batches(256))
    assert torch.equal(subject.model(x).argmax(1), which)
    edit = Quantize(layers("0"))
    ruined, warnings = quantized(subject, edit)
    assert agreement(ruined, subject, x) < RUINED
    assert about(warnings, "A softmax reads what is computed from 8-bit inputs in 0")
    assert about(warnings, "100% of 64 training samples get the class")
    sound, warnings = quantized(subject, replace(edit, activation_bits=16))
    assert agreement(sound, subject, x) >= SOUND
    assert warnings == ()


# What is foreseen


def warned(model: nn.Module, *shape: int, **wishes: Any) -> tuple[str, ...]:
    subject = seen(model, *shape)
    names = tuple(LayerId(name) for name, one in model.named_modules() if not [*one.children()])
    weights = tuple(name for name in names if "quantize" in subject.tree[name].methods)
    return foreseen(Quantize(weights, **wishes), subject)


def test_dynamic_convolutions_are_warned_of_and_linear_layers_are_not() -> None:
    pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 9, 2))
    (told,) = warned(pair, 1, 3, 5, 5, activations="dynamic")
    assert told.startswith("Few runtimes have dynamic quantization of convolutions (0)")
    assert warned(pair[1:], 1, 36, activations="dynamic") == ()
    assert warned(pair, 1, 3, 5, 5) == ()


def test_many_layers_are_named_by_the_first_few() -> None:
    model = nn.Sequential(*(nn.Conv1d(2, 2, 1) for _ in range(6)))
    (told,) = warned(model, 1, 2, 4, activations="dynamic")
    assert "(0, 1, 2 and 3 more)" in told


@pytest.mark.parametrize("curve", [nn.Hardswish, nn.SiLU, nn.GELU])
@pytest.mark.parametrize("between", [nn.Identity, nn.Flatten])
def test_the_whole_range_is_warned_of_behind_a_curve(
    curve: Callable[[], nn.Module], between: Callable[[], nn.Module]
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), curve(), between(), nn.Linear(4, 4))
    (told,) = warned(model, 2, 4, observer="min-max")
    assert "input of 3 is set" in told
    assert warned(model, 2, 4, observer="mse") == ()
    assert warned(model, 2, 4, observer="min-max", activations="dynamic") == ()
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), between(), nn.Linear(4, 4))
    assert warned(plain, 2, 4, observer="min-max") == ()


def test_a_layer_before_a_softmax_is_warned_of() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Softmax(-1))
    (told,) = warned(model, 2, 4)
    assert told.startswith("A softmax reads what is computed from 8-bit inputs in 2,")
    assert warned(model, 2, 4, activation_bits=16) == ()
    assert warned(model, 2, 4, activations="none") == ()


NEW, OLD = frozenset({"avx2", "avx512_vnni"}), frozenset({"avx2", "sse4_2"})


@pytest.mark.parametrize(
    ("flags", "wishes", "warned_of"),
    [
        (OLD, {}, True),
        (NEW, {}, False),
        (frozenset({"avx2", "avx_vnni"}), {}, False),
        (frozenset({"asimddp"}), {}, False),
        (OLD, {"weight_bits": 7}, False),
        (OLD, {"weight_bits": 4}, False),
        (OLD, {"activation_bits": 16}, False),
        (OLD, {"activations": "none"}, False),
        (OLD, {"activations": "dynamic"}, True),
    ],
)
def test_a_processor_without_vnni_is_warned_of_at_full_range(
    flags: frozenset[str], wishes: dict[str, Any], warned_of: bool
) -> None:
    subject = seen(nn.Sequential(nn.Linear(4, 4)), 1, 4)
    edit = Quantize(layers("0"), **wishes)
    decision = handler_of(edit).decide(edit, subject, Job())
    assert bool(saturation(decision, flags)) == warned_of


# The detector


def made(classes: list[int], entropy: float, finite: bool = True) -> Predictions:
    return Predictions(torch.tensor(classes, dtype=torch.int64), entropy, finite, len(classes))


SPREAD = [0, 1, 2, 3] * 4


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (made(SPREAD, 0.2), made(SPREAD, 0.3), ()),
        (
            made(SPREAD, 0.2),
            made([2] * 16, 0.2),
            ("100% of 16 training samples get the class “c”",),
        ),
        (made(SPREAD, 0.2), made([2] * 15 + [1], 0.2), ("94% of 16",)),
        (made([2] * 15 + [1], 0.2), made([2] * 16, 0.2), ()),  # so it was before
        (made(SPREAD, 0.1), made(SPREAD, 0.6), ("rises from 10% to 60%",)),
        (made(SPREAD, 0.6), made(SPREAD, 0.1), ("falls from 60% to 10%",)),
        (made(SPREAD, 0.1), made([2] * 16, 0.9), ("class “c”", "rises from 10% to 90%")),
        (made(SPREAD, 0.1), made([], 0.0, False), ("no longer finite",)),
        (made([], 0.0, False), made([], 0.0, False), ()),
        (made([0, 1], 0.1), made([0, 0], 0.9), ()),  # too few to tell
    ],
)
def test_what_is_grossly_wrong_is_told(
    before: Predictions, after: Predictions, words: tuple[str, ...]
) -> None:
    found = judged(before, after, tuple("abcd"))
    assert len(found) == len(words)
    for one, wanted in zip(found, words, strict=True):
        assert wanted in one
        assert one.count(". ") >= 1  # and what to do


def test_every_pixel_of_a_segmentation_counts() -> None:
    """Outputs (N, classes, H, W) in a mapping."""

    class Segmenting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.conv(x)}

    model = Segmenting()
    model.conv.weight.data = torch.tensor([[1e-3, 0.0, 1.0], [0.0, 1e-3, 1.0]]).reshape(2, 3, 1, 1)
    model.conv.bias.data.zero_()
    images = torch.randn(16, 3, 6, 6)
    data = DataSet("toy", (), Split(images, torch.zeros(16)), Split(images, torch.zeros(16)), "")
    subject = seen(model, 1, 3, 6, 6, data=replace(data, pixelwise=True))
    _, warnings = quantized(subject, Quantize(layers("conv"), bias_correction=False))
    assert about(warnings, "of 16 training samples get the class 0")


def test_warnings_are_kept_with_the_edit(demo: ModelSession, job: Job) -> None:
    names = tuple(one.id for one in demo.snapshot.base.tree if "quantize" in one.methods)
    edit = Quantize(names, weight_bits=2, granularity="tensor", bias_correction=False)
    (told,) = demo.apply(edit, job).snapshot.history
    assert about(told.warnings, "Filters of depthwise convolutions (stage2.depthwise.conv)")
    assert about(told.warnings, "training samples")
    demo.undo(job)
    (told,) = demo.redo(job).snapshot.history
    assert about(told.warnings, "training samples")


def test_a_sound_edit_has_no_warnings(demo: ModelSession, job: Job) -> None:
    names = tuple(one.id for one in demo.snapshot.base.tree if "quantize" in one.methods)
    assert demo.apply(Quantize(names), job).snapshot.history[0].warnings == ()
