"""Channels removed with all that is coupled to them: the law, the choice, and what is refused."""

import copy
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.editing import Subject, carried_out, look_at
from engine.edits import AppliedEdit, ChannelsRemoved, PruneChannels, Quantize
from engine.errors import EditRefused
from engine.integer_layers import IntegerWeights, WeightFormat, quantized_from
from engine.job import Job
from engine.layers import LayerId
from engine.pruning.channels import ChannelPruning
from engine.pruning.coupling import Coupling, Group
from engine.pruning.shrinking import regrouped
from engine.quantization.quantizing import Quantization
from engine.requests import InputSpec
from engine.session import ModelSession
from engine.sharing import tensors_of
from engine.sources.architectures import build
from engine.sources.demo import DigitsNet
from engine.state import LayerEffect
from engine.tracing import sample_inputs

LAW = 1e-9  # of the largest output, in float64
VISIBLE = 1e-3  # of it, by which masking must move the output for the law to say something

PRUNABLE = (
    "stem.conv",
    "stage1.block0.conv1",
    "stage1.block0.conv2",
    "stage1.block0.skip.conv",
    "stage1.block1.conv1",
    "stage1.block1.conv2",
    "stage2.depthwise.conv",
    "stage2.pointwise.conv",
)


def alive(model: nn.Module) -> nn.Module:
    """The model in float64 with every parameter and statistic drawn, so that none hides another.

    Fresh batch norms are the identity and fresh biases small: a forgotten one would not be seen.
    """
    generator = torch.Generator().manual_seed(1)
    model = model.double().eval()
    for name, tensor in tensors_of(model):
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.double)
            if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
                drawn = drawn.abs() + 0.5
            elif tensor.dim() > 1:
                drawn = drawn / tensor[0].numel() ** 0.5
            tensor.data.copy_(drawn)
    return model


def seen(model: nn.Module, *shape: int) -> Subject:
    dtype = next(iter(model.parameters())).dtype
    return look_at(model, tuple(one.to(dtype) for one in sample_inputs([InputSpec(shape)])))


def decided(subject: Subject, *layers: str, ratio: float, **wish: object) -> AppliedEdit:
    edit = PruneChannels(tuple(map(LayerId, layers)), ratio, **{"multiple": 1, **wish})
    return AppliedEdit(edit, ChannelPruning().decide(edit, subject, Job()))


def removed(decision: ChannelsRemoved) -> dict[tuple[str, str], tuple[int, ...]]:
    return {(one.layer, one.side): one.removed for one in decision.slices}


@torch.inference_mode()
def output(model: nn.Module, subject: Subject) -> Tensor:
    return model(*subject.inputs)


def masked(subject: Subject, decision: ChannelsRemoved) -> nn.Module:
    """The whole model, blind to the removed channels: their columns in every reader are zero."""
    model = copy.deepcopy(subject.model)
    for one in decision.slices:
        if one.side == "in":
            reader = model.get_submodule(one.layer)
            axis = 0 if getattr(reader, "transposed", False) else 1
            columns = reader.weight.shape[axis]
            for index in one.removed:  # of a convolution in groups, of its own group alone
                rows = slice(None)
                if columns < one.of:
                    each = reader.out_channels // reader.groups
                    rows = slice(index // columns * each, (index // columns + 1) * each)
                reader.weight.data.movedim(axis, 1)[rows, index % columns] = 0.0
    return model


def assert_law(subject: Subject, applied: AppliedEdit) -> None:
    pruned = carried_out(applied, subject).model
    got, wanted = output(pruned, subject), output(masked(subject, applied.decision), subject)
    scale = wanted.abs().max()
    assert (got - wanted).abs().max() <= LAW * scale
    assert (output(subject.model, subject) - wanted).abs().max() > VISIBLE * scale


# Networks with every way in which channels hang together


class Concat(nn.Module):
    """Two branches side by side, the second read at an offset."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 6, 1)
        self.norm = nn.BatchNorm2d(10)
        self.last = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x), self.right(x)], 1)
        return self.last(torch.relu(self.norm(both)))


class Flattened(nn.Module):
    """Each channel becomes 9 features of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.hidden, self.last = nn.Linear(54, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(torch.relu(self.norm(self.conv(x))).flatten(1))))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(2, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.depthwise(torch.relu(self.expand(x))))))


class Skip(nn.Module):
    """Two sums in a row tie three convolutions together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (
            nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1),
        )  # fmt: skip
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.norm(self.one(x)))
        return self.last(torch.relu(x + self.two(x)))


class SqueezeExcite(nn.Module):
    """Channels scaled by what is computed from their means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        scale = self.excite(nn.functional.silu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return self.last(x * scale.sigmoid())


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.PReLU(6)
        self.last = nn.Conv1d(6, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.norm(self.conv(x.flatten(2)))))


class Upsampling(nn.Module):
    """A transposed convolution reads and another one follows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.up(torch.relu(self.conv(x)))))


class Gained(nn.Module):
    """A bare parameter has one value for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.gain = nn.Parameter(torch.randn(1, 6, 1, 1))
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.conv(x) * self.gain))


TOYS = {
    Concat: ("left", "right"),
    Flattened: ("conv", "hidden"),
    Depthwise: ("expand", "depthwise"),
    Skip: ("stem", "one", "two"),
    SqueezeExcite: ("conv", "squeeze", "excite"),
    OneDimensional: ("conv",),
    Upsampling: ("conv",),
    Gained: ("conv",),
}
SHAPE = (2, 2, 5, 5)


# The law


@cache
def living_demo() -> Subject:
    """Read only; its analysis is shared by all tests here."""
    return seen(alive(DigitsNet()), 2, 1, 8, 8)


def test_the_layers_of_the_demo_that_can_be_pruned_are_these() -> None:
    able = [one.id for one in living_demo().tree if "prune-channels" in one.methods]
    assert able == [*PRUNABLE]  # not the output layer, unless it is named


@pytest.mark.parametrize("layer", PRUNABLE)
@pytest.mark.parametrize("ratio", [0.3, 0.95])
def test_the_demo_pruned_is_the_demo_masked_at_the_readers(layer: str, ratio: float) -> None:
    subject = living_demo()
    assert_law(subject, decided(subject, layer, ratio=ratio, criterion="random"))


@pytest.mark.parametrize(
    ("toy", "layer"), [(toy, layer) for toy, layers in TOYS.items() for layer in layers]
)
def test_toys_pruned_are_toys_masked_at_the_readers(toy: type[nn.Module], layer: str) -> None:
    subject = seen(alive(toy()), *SHAPE)
    for ratio in (0.3, 0.6):
        assert_law(subject, decided(subject, layer, ratio=ratio, criterion="random"))


@pytest.mark.parametrize("toy", TOYS)
def test_all_layers_of_a_toy_at_once(toy: type[nn.Module]) -> None:
    subject = seen(alive(toy()), *SHAPE)
    assert_law(subject, decided(subject, *TOYS[toy], ratio=0.5, criterion="random"))


@pytest.mark.parametrize("toy", TOYS)
def test_pruning_again_what_was_pruned(toy: type[nn.Module]) -> None:
    subject = seen(alive(toy()), *SHAPE)
    for layer in TOYS[toy]:
        applied = decided(subject, layer, ratio=0.4)
        assert_law(subject, applied)
        subject = carried_out(applied, subject)


def test_a_layer_norm_shrinks_with_its_features_although_the_law_is_not_for_it() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(self.first(x)))

    subject = seen(alive(Normed()), 2, 4)
    applied = decided(subject, "first", ratio=0.5)
    keep = [index for index in range(6) if index not in removed(applied.decision)["first", "out"]]
    pruned = carried_out(applied, subject).model
    hidden = subject.model.first(subject.inputs[0])[:, keep]
    norm, last = subject.model.norm, subject.model.last
    hidden = nn.functional.layer_norm(hidden, (3,), norm.weight[keep], norm.bias[keep])
    wanted = nn.functional.linear(hidden, last.weight[:, keep], last.bias)
    torch.testing.assert_close(pruned(subject.inputs[0]), wanted)


@pytest.mark.parametrize(
    ("layer", "activations"),
    [*((one, "static") for one in PRUNABLE), *((one, "dynamic") for one in PRUNABLE[2::4])],
)
def test_the_law_holds_for_integer_weights_too(
    demo: ModelSession, job: Job, layer: str, activations: Any
) -> None:
    """A masked input is rounded to exactly zero; sums of another order may round one step off."""
    able = [one.id for one in demo.snapshot.current.tree if "quantize" in one.methods]
    demo.apply(Quantize(tuple(able), activations=activations), job)
    subject = demo._subject(1)
    applied = decided(subject, layer, ratio=0.5, criterion="random")
    pruned = carried_out(applied, subject).model
    got, wanted = output(pruned, subject), output(blind(subject, applied.decision), subject)
    scale = wanted.abs().max()
    assert (got - wanted).abs().max() <= 1e-3 * scale
    assert (output(subject.model, subject) - wanted).abs().max() > 1e-2 * scale
    for one in applied.decision.slices:
        module = pruned.get_submodule(one.layer)
        if hasattr(module, "weight_scale"):
            assert len(module.weight_scale) == len(module.weight_zero_point) == len(module.weight)


def blind(subject: Subject, decision: ChannelsRemoved) -> nn.Module:
    """The whole model with zeros for the removed channels, wherever they are written or read."""
    model = copy.deepcopy(subject.model)
    for one in decision.slices:
        layer = model.get_submodule(one.layer)
        axis = -1 if isinstance(layer, nn.Linear) else 1
        gone = torch.tensor(one.removed)
        if one.side == "in":
            layer.register_forward_pre_hook(
                lambda _, x, axis=axis, gone=gone: (x[0].index_fill(axis, gone, 0.0),)
            )
        else:
            layer.register_forward_hook(
                lambda *told, axis=axis, gone=gone: told[-1].index_fill(axis, gone, 0.0)
            )
    return model


GRIDS: dict[str, dict[str, object]] = {
    "tensor": {"granularity": "tensor", "weight_symmetric": False},
    "channel": {"weight_bits": 4, "weight_symmetric": False},
    "groups": {"weight_bits": 4, "granularity": "group", "group_size": 6},
    "affine groups": {
        "weight_bits": 3, "granularity": "group", "group_size": 4, "weight_symmetric": False,
    },
    "dynamic": {"activations": "dynamic", "activation_bits": 16},
    "static": {"activations": "static", "activation_bits": 16, "granularity": "tensor"},
}  # fmt: skip


@pytest.mark.parametrize("way", GRIDS)
@pytest.mark.parametrize(
    ("network", "shape", "layers", "pruned"),
    [
        (Flattened, (2, 2, 5, 5), ("conv", "hidden", "last"), ("conv", "hidden")),
        (Concat, (2, 2, 5, 5), ("left", "right", "last"), ("left", "right")),
        (Depthwise, (2, 2, 5, 5), None, None),
    ],
    ids=["flattened", "concat", "depthwise"],
)
def test_the_law_holds_for_every_grid(
    network: type[nn.Module],
    shape: tuple[int, ...],
    layers: tuple[str, ...] | None,
    pruned: tuple[str, ...] | None,
    way: str,
) -> None:
    subject = seen(alive(network()).float(), *shape)
    able = [one.id for one in subject.tree if "quantize" in one.methods]
    asked = {"activations": "none", **GRIDS[way]}
    chosen = tuple(map(LayerId, layers)) if layers else tuple(able)
    edit = Quantize(chosen, bias_correction=False, **asked)  # type: ignore[arg-type]
    subject = carried_out(AppliedEdit(edit, Quantization().decide(edit, subject, Job())), subject)
    names = pruned or tuple(one.id for one in subject.tree if "prune-channels" in one.methods)[:1]
    applied = decided(subject, *names, ratio=0.5, criterion="l2")
    smaller = carried_out(applied, subject).model
    got, wanted = output(smaller, subject), output(blind(subject, applied.decision), subject)
    scale = wanted.abs().max()
    assert (got - wanted).abs().max() <= 1e-4 * scale
    assert (output(subject.model, subject) - wanted).abs().max() > VISIBLE * scale
    for module in smaller.modules():
        if isinstance(module, IntegerWeights):
            form, rows = module.weight_format, module.weight.flatten(1)
            expected = {
                0: (), 1: rows.shape[:1],
                2: (rows.shape[0], rows.shape[1] // max(1, form.group_size)),
            }  # fmt: skip
            assert tuple(module.weight_scale.shape) == expected[module.weight_scale.dim()]
            assert module.weight_zero_point.shape == module.weight_scale.shape


def test_groups_that_split_are_told_and_take_what_they_take(demo: ModelSession, job: Job) -> None:
    head, before = LayerId("head.fc"), LayerId("stage2.pointwise.conv")
    demo.apply(Quantize((head,), weight_bits=4, granularity="group", group_size=32), job)
    edit = PruneChannels((before,), 0.5, criterion="random", multiple=1)
    told = [one for one in demo.preview(edit, job).notes if one.startswith("Groups of weights")]
    assert re.search(r"smaller in head.fc \(of 32 weights, then of \d+\)", told[0])
    size = demo.apply(edit, job).snapshot.current.table["size"].layers[head][""].value
    module: Any = demo._subject(2).model.get_submodule(head)
    scales = 64 // module.weight_format.group_size
    assert size == 10 * 64 / 2 + 10 * scales * 4 + 10 * 4  # four bits each, scales, biases
    demo.undo(job)
    whole = replace(edit, channels=tuple(range(32, 96)))
    assert not any(one.startswith("Groups") for one in demo.preview(whole, job).notes)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.data())
def test_groups_split_no_more_than_they_must(
    channels: int, kernel: int, size: int, data: st.DataObject
) -> None:
    """Every weight keeps its scale, and no larger groups would do."""
    columns = channels * kernel
    size = max(one for one in range(1, min(size, columns) + 1) if columns % one == 0)
    layer = nn.Conv1d(channels, 2, kernel)
    scale = 1.0 + torch.arange(2 * columns // size, dtype=torch.float32).reshape(2, -1)
    zero_point = torch.zeros(scale.shape, dtype=torch.int64)
    form, integers = WeightFormat(4, True, size), torch.ones(layer.weight.shape).to(torch.int8)
    made = quantized_from(layer, integers, None, scale, zero_point, form, None)
    keep = torch.tensor(
        sorted(data.draw(st.sets(st.integers(0, channels - 1), min_size=1, max_size=channels)))
    )
    fewer, groups = regrouped(made, keep)  # type: ignore[arg-type]
    before = made.float_weight()[:, keep].flatten(1)  # type: ignore[operator]
    assert torch.equal(scale[:, groups].repeat_interleave(fewer, 1), before)
    for more in range(fewer + 1, size + 1):
        parts = before[0].unflatten(0, (-1, more)) if before.shape[1] % more == 0 else None
        assert parts is None or bool((parts != parts[:, :1]).any())


def test_integer_filters_are_weighed_with_their_scales() -> None:
    """All filters have the same integers; what they stand for differs."""
    subject = seen(pair(torch.tensor([[1.0], [0.1], [-0.5], [0.2]])), 1, 1, 3, 3)
    edit = Quantize((LayerId("0"),))
    decision = Quantization().decide(edit, subject, Job())
    subject = carried_out(AppliedEdit(edit, decision), subject)
    assert subject.model[0].weight.abs().flatten().tolist() == [127] * 4
    assert removed(decided(subject, "0", ratio=0.5).decision)["0", "out"] == (1, 3)


# What shrinks


def test_thirty_percent_of_a_residual_sum_shrinks_exactly_what_is_coupled(
    demo: ModelSession, job: Job
) -> None:
    edit = PruneChannels((LayerId("stage1.block0.conv2"),), 0.3, multiple=1)
    outputs = {
        "stage1.block0.conv2", "stage1.block0.bn2", "stage1.block0.skip.conv",
        "stage1.block0.skip.bn", "stage1.block1.conv2", "stage1.block1.bn2",
        "stage2.depthwise.conv", "stage2.depthwise.bn",
    }  # fmt: skip
    inputs = {"stage1.block1.conv1", "stage2.pointwise.conv"}
    before = demo.snapshot.current.tree
    effect = demo.preview(edit, job)
    assert {(one.layer, one.quantity, one.before, one.after) for one in effect.layers} == {
        *((layer, "output channels", 64, 45) for layer in outputs),
        *((layer, "input channels", 64, 45) for layer in inputs),
    }
    assert [one.layer for one in effect.layers if one.role == "chosen"] == list(edit.layers)

    change = demo.apply(edit, job)
    assert change.layers == outputs | inputs
    after = change.snapshot.current.tree
    for layer in after:
        was = before[layer.id]
        assert layer.channels == (45 if layer.id in outputs else was.channels), layer.id
        assert (layer.parameters != was.parameters) == (layer.id in outputs | inputs), layer.id
    assert after[LayerId("stage1.block1.conv1")].parameters == 64 * 45 * 9
    assert after[LayerId("stage2.depthwise.conv")].parameters == 45 * 9
    assert after[LayerId("stage2.pointwise.conv")].parameters == 128 * 45
    demo.evaluate(job)  # it runs


def test_hyperparameters_follow_the_tensors() -> None:
    applied = decided(living_demo(), "stage1.block0.conv2", ratio=0.3)
    model = carried_out(applied, living_demo()).model
    depthwise = model.get_submodule("stage2.depthwise.conv")
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (45, 45, 45)
    assert model.get_submodule("stage1.block1.conv1").in_channels == 45
    assert model.get_submodule("stage1.block0.bn2").num_features == 45
    flat = seen(alive(Flattened()), *SHAPE)
    linear = carried_out(decided(flat, "conv", ratio=0.5), flat).model.hidden
    assert (linear.in_features, linear.out_features, tuple(linear.weight.shape)) == (27, 8, (8, 27))


def test_flattened_channels_take_all_their_features_along() -> None:
    subject = seen(alive(Flattened()), *SHAPE)
    slices = removed(decided(subject, "conv", ratio=0.34).decision)
    gone = slices["conv", "out"]
    assert len(gone) == 2
    assert slices["hidden", "in"] == tuple(9 * c + pixel for c in gone for pixel in range(9))


def test_concatenated_channels_are_removed_at_their_offset() -> None:
    subject = seen(alive(Concat()), *SHAPE)
    slices = removed(decided(subject, "right", ratio=0.5).decision)
    gone = tuple(4 + index for index in slices["right", "out"])
    assert len(gone) == 3
    assert slices == {
        ("right", "out"): slices["right", "out"],
        ("norm", "out"): gone,
        ("last", "in"): gone,
    }


# Which channels go


def pair(first: Tensor) -> nn.Sequential:
    """A 1 × 1 convolution with these weights (channels, inputs) and one that reads it."""
    channels, inputs = first.shape
    model = nn.Sequential(
        nn.Conv2d(inputs, channels, 1, bias=False), nn.ReLU(), nn.Conv2d(channels, 2, 1)
    )
    model[0].weight.data = first.reshape(channels, inputs, 1, 1)
    return model.eval()


@pytest.mark.parametrize(
    ("criterion", "ratio", "gone"),
    [
        ("l1", 0.25, (3,)),
        ("l1", 0.5, (0, 3)),
        ("l2", 0.25, (3,)),
        # The sum of magnitudes says filter 0 (1.5 against 2), that of squares filter 2.
        ("l2", 0.5, (2, 3)),
        ("l2", 0.75, (0, 2, 3)),
        ("l2", 0.99, (0, 2, 3)),  # one always stays
    ],
)
def test_the_filters_of_least_norm_go(criterion: str, ratio: float, gone: tuple[int, ...]) -> None:
    model = pair(torch.tensor([[1.5, 0.0], [-3.0, 1.0], [1.0, -1.0], [0.1, 0.2]]))
    subject = seen(model, 1, 2, 3, 3)
    applied = decided(subject, "0", ratio=ratio, criterion=criterion)
    assert removed(applied.decision) == {("0", "out"): gone, ("2", "in"): gone}
    kept = [index for index in range(4) if index not in gone]
    pruned = carried_out(applied, subject).model
    assert torch.equal(pruned[0].weight, model[0].weight[kept])
    assert torch.equal(pruned[2].weight, model[2].weight[:, kept])
    assert torch.equal(pruned[2].bias, model[2].bias)


def test_a_residual_sum_keeps_what_any_of_its_branches_needs() -> None:
    model = Skip()
    for layer, norms in (
        (model.stem, [1, 9, 1, 9, 1, 1]),
        (model.one, [1, 1, 9, 1, 1, 9]),
        (model.two, [9, 1, 1, 1, 1, 1]),
    ):
        unit = torch.ones_like(layer.weight) / layer.weight[0].numel() ** 0.5
        layer.weight.data = unit * torch.tensor(norms).reshape(6, 1, 1, 1)
    subject = seen(model.eval(), *SHAPE)
    slices = removed(decided(subject, "one", ratio=1 / 6).decision)
    assert slices["one", "out"] == slices["stem", "out"] == slices["two", "out"] == (4,)


def test_random_choice_follows_its_seed_and_leaves_the_global_state_alone() -> None:
    subject = living_demo()
    before = torch.get_rng_state()

    def gone(seed: int) -> tuple[int, ...]:
        applied = decided(subject, "stem.conv", ratio=0.5, criterion="random", seed=seed)
        return removed(applied.decision)["stem.conv", "out"]

    assert gone(1) == gone(1) != gone(2)
    assert len(gone(1)) == 16
    assert torch.equal(torch.get_rng_state(), before)


def test_two_chosen_layers_of_one_group_are_cut_once() -> None:
    subject = living_demo()
    both = decided(subject, "stage1.block0.conv2", "stage2.depthwise.conv", ratio=0.3)
    assert both.decision == decided(subject, "stage1.block0.conv2", ratio=0.3).decision


def test_ratio_0_changes_nothing(demo: ModelSession, job: Job) -> None:
    edit = PruneChannels(tuple(map(LayerId, PRUNABLE)), 0.0)
    effect = demo.preview(edit, job)
    assert effect.layers == ()
    assert effect.before == effect.after
    assert effect.notes == ("The amount removes no whole channel: nothing changes.",)
    before = demo.snapshot.current
    change = demo.apply(edit, job)
    assert change.layers == frozenset()
    assert change.snapshot.current.tree == before.tree
    assert demo.fingerprint(1) == demo.fingerprint(0)


def test_a_ratio_below_half_a_channel_changes_nothing() -> None:
    subject = seen(pair(torch.eye(4)), 1, 4, 3, 3)
    assert decided(subject, "0", ratio=0.12).decision.slices == ()
    assert len(removed(decided(subject, "0", ratio=0.13).decision)["0", "out"]) == 1


# Channels picked by hand


def test_picked_channels_go_and_no_others() -> None:
    subject = living_demo()
    applied = decided(subject, "stem.conv", ratio=0.0, channels=(7, 3, 30), multiple=8)
    assert_law(subject, applied)
    assert removed(applied.decision)["stem.conv", "out"] == (3, 7, 30)


@pytest.mark.parametrize(
    ("layers", "channels", "words"),
    [
        (("stem.conv", "stage1.block0.conv1"), (1,), "picked of one layer, and 2 are chosen"),
        (("stem.conv",), (1, 32), "channels 0 to 31, and no 32"),
        (("stem.conv",), (-1,), "and no -1"),
        (("stem.conv",), tuple(range(32)), "One channel of stem.conv at least must stay"),
    ],
)
def test_impossible_picks_are_refused(
    layers: tuple[str, ...], channels: tuple[int, ...], words: str
) -> None:
    with pytest.raises(EditRefused, match=words):
        decided(living_demo(), *layers, ratio=0.3, channels=channels)


def test_half_a_group_cannot_be_picked() -> None:
    subject = seen(alive(Groups()), *SHAPE)
    with pytest.raises(EditRefused, match=r"with those picked would go 1, 3 as well") as caught:
        decided(subject, "grouped", ratio=0.3, channels=(0, 2))
    assert "none of their group" in caught.value.remedy
    slices = removed(decided(subject, "grouped", ratio=0.3, channels=(3, 0, 1, 2)).decision)
    assert slices["grouped", "out"] == (0, 1, 2, 3)


# Rounding


def test_widths_are_rounded_to_multiples(demo: ModelSession, job: Job) -> None:
    edit = PruneChannels((LayerId("stage1.block0.conv2"),), 0.3)
    effect = demo.preview(edit, job)
    assert {one.after for one in effect.layers} == {48}  # 44.8 asked for
    assert effect.notes[0] == "Widths are rounded to multiples of 8."
    assert re.match(r"10 layers shrink together; they take \d+ % of the", effect.notes[1])


def test_what_rounding_leaves_as_it_was_is_told(demo: ModelSession, job: Job) -> None:
    effect = demo.preview(PruneChannels((LayerId("stem.conv"),), 0.1), job)
    assert effect.layers == ()
    assert effect.notes == (
        "Rounded to multiples of 8, the amount removes no channel: nothing changes.",
    )


class Wide(nn.Module):
    """A sum with two convolutions side by side: the ranking of it could take one whole."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 6, 1)
        self.all = nn.Conv2d(2, 10, 1)
        self.last = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.left(x), self.right(x)], 1) + self.all(x))


def test_no_layer_that_is_coupled_loses_its_last_channel() -> None:
    model = alive(Wide())
    model.left.weight.data *= 1e-3
    model.all.weight.data[:4] *= 1e-3
    subject = seen(model, *SHAPE)
    applied = decided(subject, "all", ratio=0.4)
    assert len(removed(applied.decision)["all", "out"]) == 4
    assert len(removed(applied.decision)["left", "out"]) == 3
    assert_law(subject, applied)


@pytest.mark.parametrize("spread", ["layer", "global"])
def test_layers_that_share_a_part_are_cut_once_where_they_do(spread: str) -> None:
    """Of the wide layer all channels are those of the two others, and have their shares."""
    subject = seen(alive(Wide()), *SHAPE)
    both = decided(subject, "left", "right", ratio=0.5, spread=spread)
    three = decided(subject, "left", "right", "all", ratio=0.5, spread=spread)
    assert both.decision == three.decision
    assert len(removed(both.decision)["all", "out"]) == 5
    assert_law(subject, both)


# What is refused


def refused(model: nn.Module, layer: str, *shape: int, ratio: float = 0.5) -> str:
    subject = seen(model, *shape)
    edit = PruneChannels((LayerId(layer),), ratio, multiple=1)
    with pytest.raises(EditRefused) as caught:
        carried_out(AppliedEdit(edit, ChannelPruning().decide(edit, subject, Job())), subject)
    assert caught.value.remedy
    return str(caught.value)


def test_the_output_layer_is_refused(demo: ModelSession, job: Job) -> None:
    edit = PruneChannels((LayerId("head.fc"),), 0.3)
    before = demo.fingerprint(0)
    for operation in (demo.preview, demo.apply):
        with pytest.raises(EditRefused, match=r"head\.fc cannot be removed") as caught:
            operation(edit, job)
        assert "model's output" in str(caught.value)
        assert caught.value.remedy
    assert (demo.snapshot.cursor, demo.snapshot.history) == (0, ())
    assert demo.fingerprint() == before


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(EditRefused, match="at least 0 and below 1"):
        decided(living_demo(), "stem.conv", ratio=ratio)


@pytest.mark.parametrize("multiple", [0, -8])
def test_widths_are_multiples_of_something(multiple: int) -> None:
    with pytest.raises(EditRefused, match=f"multiples of {multiple}"):
        decided(living_demo(), "stem.conv", ratio=0.5, multiple=multiple)


class Groups(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.grouped(self.first(x)))


@pytest.mark.parametrize("layer", ["first", "grouped"])
def test_convolutions_in_groups_lose_whole_groups(layer: str) -> None:
    subject = seen(alive(Groups()), *SHAPE)
    applied = decided(subject, layer, ratio=0.5)
    assert_law(subject, applied)
    slices = removed(applied.decision)
    assert slices[layer, "out"] in ((0, 1, 2, 3), (4, 5, 6, 7))
    assert len({slices[side] for side in slices}) == 1
    grouped = carried_out(applied, subject).model.grouped
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (4, 4, 1)


def test_a_norm_over_all_channels_at_once_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 1), nn.LayerNorm((6, 5, 5)), nn.Conv2d(6, 3, 1))
    assert "1 normalises over them" in refused(model, "0", *SHAPE)


def test_all_that_cannot_be_pruned_is_named_with_its_reason() -> None:
    edit = PruneChannels(tuple(map(LayerId, ("stem.conv", "stem.relu", "head.fc"))), 0.5)
    with pytest.raises(EditRefused, match="2 of the 3 chosen layers cannot lose") as caught:
        ChannelPruning().draft(edit, living_demo(), Job())
    for words in ("stem.relu (ReLU) has no output channels", "they are the model's output"):
        assert words in str(caught.value)
    assert "Leave them out" in caught.value.remedy
    assert caught.value.details == {"layers": ["stem.relu", "head.fc"]}


def test_where_no_chosen_layer_can_be_pruned_none_is_to_be_left_out() -> None:
    edit = PruneChannels(tuple(map(LayerId, ("stem.relu", "head.fc"))), 0.5)
    with pytest.raises(EditRefused, match="2 of the 2") as caught:
        ChannelPruning().draft(edit, living_demo(), Job())
    assert not caught.value.details


@pytest.mark.parametrize("layer", ["stage1.block0.bn1", "stem.relu", "stage1", "head.flatten"])
def test_layers_without_removable_channels_are_refused(layer: str) -> None:
    with pytest.raises(EditRefused, match=f"{layer} .* has no output channels"):
        decided(living_demo(), layer, ratio=0.5)


class SoftmaxOverChannels(nn.Module):
    """Shapes fit after removal, but what is left is divided by another sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x).softmax(1))


class FindsNothing(nn.Module):
    """Puts out what lies above a threshold, and nothing does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.last(self.conv(x)).flatten()
        return found[found > 1e9]


def test_a_detector_that_finds_nothing_is_pruned() -> None:
    applied = decided(seen(alive(FindsNothing()), *SHAPE), "conv", ratio=0.5, multiple=1)
    assert set(removed(applied.decision)) == {("conv", "out"), ("last", "in")}


def test_what_masking_does_not_imitate_is_refused() -> None:
    assert "softmax over them" in refused(alive(SoftmaxOverChannels()), "conv", *SHAPE)


@pytest.mark.slow
def test_a_network_of_windowed_attention_is_pruned_where_it_can_be() -> None:
    architecture = build("swin_t")
    subject = look_at(architecture.model, sample_inputs(architecture.inputs))
    applied = decided(subject, "features.1.0.mlp.0", ratio=0.5)
    assert set(removed(applied.decision)) == {
        ("features.1.0.mlp.0", "out"),
        ("features.1.0.mlp.3", "in"),
    }
    before = sum(subject.trace.operators.macs().values())
    after = sum(carried_out(applied, subject).trace.operators.macs().values())
    assert before - after == 56 * 56 * 2 * 96 * 192  # half of two layers of 96 × 384


def mirrored(group: Group) -> Group:
    """The readers' channels in the wrong order."""
    members = (
        replace(one, units=one.units[::-1].copy()) if one.side == "in" else one
        for one in group.members
    )
    return replace(group, members=tuple(members))


def forgetful(group: Group) -> Group:
    """The first reader is overlooked."""
    first = next(one for one in group.members if one.side == "in")
    return replace(group, members=tuple(one for one in group.members if one is not first))


@pytest.mark.parametrize("damage", [mirrored, forgetful])
@pytest.mark.parametrize("layer", ["stem.conv", "stage1.block0.conv1", "stage2.pointwise.conv"])
def test_wrongly_coupled_channels_are_noticed_by_the_law(
    demo: ModelSession,
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    layer: str,
    damage: Callable[[Group], Group],
) -> None:
    true = Coupling.of
    monkeypatch.setattr(Coupling, "of", lambda self, layer: damage(true(self, layer)))
    before = demo.fingerprint()
    with pytest.raises(EditRefused):
        demo.apply(PruneChannels((LayerId(layer),), 0.3), job)
    assert demo.snapshot.cursor == 0
    assert demo.fingerprint() == before


# What is told beforehand


@pytest.mark.parametrize("layers", [("stem.conv",), ("stage1.block0.conv2",), PRUNABLE])
def test_a_preview_tells_what_applying_gives(
    demo: ModelSession, job: Job, layers: tuple[str, ...]
) -> None:
    edit = PruneChannels(tuple(map(LayerId, layers)), 0.4)
    effect = demo.preview(edit, job)
    assert demo.snapshot.cursor == 0
    assert {key: one.total.value for key, one in demo.snapshot.current.table.items()} == (
        effect.before
    )
    change = demo.apply(edit, job)
    table = change.snapshot.current.table
    assert {key: one.total.value for key, one in table.items()} == effect.after
    assert set(effect.after) == {"parameters", "macs", "energy", "size"}
    assert all(effect.after[key] < effect.before[key] for key in effect.after)
    assert change.layers == {one.layer for one in effect.layers}


@cache
def predicted(layer: str, ratio: float) -> tuple[int, int, tuple[LayerEffect, ...]]:
    """Parameters, MACs and effects of the demo pruned so."""
    subject = living_demo()
    edit = PruneChannels((LayerId(layer),), ratio, multiple=1)
    decision = ChannelPruning().draft(edit, subject, Job())
    after = carried_out(AppliedEdit(edit, decision), subject)
    return (
        sum(one.parameters for one in after.tree),
        sum(after.trace.operators.macs().values()),
        ChannelPruning().effects(decision, subject),
    )


ratios = st.integers(0, 99).map(lambda percent: percent / 100)


@given(st.sampled_from(PRUNABLE), ratios, ratios)
@settings(max_examples=20)
def test_cost_never_rises_with_the_ratio(layer: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    parameters, macs, effects = predicted(layer, low)
    fewer_parameters, fewer_macs, more_effects = predicted(layer, high)
    assert fewer_parameters <= parameters
    assert fewer_macs <= macs
    left = {(each.layer, each.quantity): each.after for each in more_effects}
    assert all(left[each.layer, each.quantity] <= each.after for each in effects)


@given(st.sampled_from(["l1", "l2"]), ratios, ratios)
@settings(max_examples=20)
def test_a_higher_ratio_removes_the_same_channels_and_more(
    criterion: str, one: float, other: float
) -> None:
    low, high = (
        set(
            removed(
                ChannelPruning().draft(
                    PruneChannels((LayerId("stem.conv"),), ratio, criterion), living_demo(), Job()
                )
            ).get(("stem.conv", "out"), ())
        )
        for ratio in sorted((one, other))
    )
    assert low <= high


# Nothing is written into


def digest(model: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, tensor in tensors_of(model):
        sha.update(name.encode() + tensor.detach().numpy().tobytes())
    return sha.hexdigest()


def test_the_base_keeps_its_bits_and_untouched_tensors_are_shared() -> None:
    subject = living_demo()
    before = digest(subject.model)
    applied = decided(subject, "stage1.block0.conv1", ratio=0.3)
    pruned = dict(tensors_of(carried_out(applied, subject).model))
    assert digest(subject.model) == before
    touched = {one.layer for one in applied.decision.slices}
    assert touched == {"stage1.block0.conv1", "stage1.block0.bn1", "stage1.block0.conv2"}
    for name, tensor in tensors_of(subject.model):
        shared = pruned[name].data_ptr() == tensor.data_ptr()
        counter = name.endswith("num_batches_tracked")
        assert shared == (counter or name.rpartition(".")[0] not in touched), name


def test_frozen_parameters_stay_frozen() -> None:
    model = DigitsNet().eval()
    model.stem.conv.weight.requires_grad_(False)
    subject = seen(model, 1, 1, 8, 8)
    pruned = carried_out(decided(subject, "stem.conv", ratio=0.5), subject).model
    assert not pruned.stem.conv.weight.requires_grad
    assert pruned.stem.bn.weight.requires_grad
