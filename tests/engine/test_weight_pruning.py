"""Single weights zeroed: how many, which, and that nothing else moves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from engine.datasets.splits import DataSet, Split
from engine.editing import Subject, carried_out, look_at
from engine.edits import AppliedEdit, PruneWeights, Quantize, WeightMask
from engine.errors import EditRefused, RecipeMismatch
from engine.job import Job
from engine.layers import LayerId
from engine.pruning.ranking import lowest, lowest_in_rows
from engine.pruning.weights import WeightPruning
from engine.pruning.zeroing import as_weight, by_input, kept
from engine.requests import InputSpec
from engine.session import ModelSession
from engine.tracing import sample_inputs

WEIGHT = LayerId("0")


def subject_of(layer: nn.Module, *shape: int) -> Subject:
    return look_at(nn.Sequential(layer).eval(), sample_inputs([InputSpec(shape)]))


def linear(weight: Tensor) -> Subject:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight
    return subject_of(layer, 1, weight.shape[1])


def pruned(subject: Subject, ratio: float, **wish: object) -> Tensor:
    """The weight of the only layer afterwards."""
    edit = PruneWeights((WEIGHT,), ratio, **wish)
    decision = WeightPruning().decide(edit, subject, Job())
    weight = carried_out(AppliedEdit(edit, decision), subject).model[0].weight
    assert isinstance(weight, nn.Parameter)
    return weight.detach()


def side_by_side(*layers: nn.Module) -> Subject:
    """Layers that each read their own zeros; what they put out is not looked at."""
    return look_at(SideBySide(*layers).eval(), sample_inputs([InputSpec((1, 1))]))


class SideBySide(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            one(x.new_zeros(1, one.in_features))
            if isinstance(one, nn.Linear)
            else one(x.new_zeros(1, one.in_channels, 5, 5))
            for one in self.layers
        ]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return found


class Scores(nn.Module):
    """(N, C, H, W) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def decided(subject: Subject, ratio: float, **wish: object) -> tuple[WeightMask, ...]:
    """The masks of all layers."""
    layers = tuple(LayerId(f"layers.{at}") for at in range(len(subject.model.layers)))
    return WeightPruning().decide(PruneWeights(layers, ratio, **wish), subject, Job()).masks


def layer_of(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.data = weight
    return layer


def weights(seed: int, *shape: int) -> Tensor:
    """Weights without zeros and without equal magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    size = int(np.prod(shape))
    ranks = torch.randperm(size, generator=generator) + 1.0
    signs = torch.randint(0, 2, (size,), generator=generator) * 2 - 1
    return (ranks * signs).reshape(shape) / size


# How many


@given(
    st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.sampled_from(["l1", "random"])
)  # fmt: skip
@settings(max_examples=60)
def test_the_sparsity_is_exactly_the_one_asked_for(
    rows: int, columns: int, ratio: float, criterion: str
) -> None:
    weight = weights(rows, rows, columns)
    after = pruned(linear(weight), ratio, criterion=criterion)
    assert int((after == 0).sum()) == round(ratio * weight.numel())
    assert torch.equal(after[after != 0], weight[after != 0])


@given(st.sets(st.integers(0, 39)), st.floats(0, 1), st.sampled_from(["l1", "random"]))
@settings(max_examples=60)
def test_zeros_that_are_there_count(there: set[int], ratio: float, criterion: str) -> None:
    weight = weights(5, 5, 8)
    weight.view(-1)[sorted(there)] = 0.0
    after = pruned(linear(weight), ratio, criterion=criterion)
    assert int((after == 0).sum()) == max(len(there), round(ratio * 40))
    assert not after[weight == 0].any()
    assert torch.equal(after[after != 0], weight[after != 0])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3), (1, 4, 8)),
        (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 8, 8)),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
        (nn.ConvTranspose2d(4, 6, 3), (1, 4, 8, 8)),
        (nn.Linear(9, 5), (2, 3, 9)),
    ],
    ids=str,
)
def test_every_kind_that_has_weights(layer: nn.Module, shape: tuple[int, ...]) -> None:
    subject = subject_of(layer, *shape)
    assert "prune-weights" in subject.tree[WEIGHT].methods
    after = pruned(subject, 0.75)
    assert after.shape == layer.weight.shape
    assert int((after == 0).sum()) == round(0.75 * layer.weight.numel())


def test_ratio_1_leaves_the_bias_alone() -> None:
    subject = linear(weights(3, 3, 4))
    edit = PruneWeights((WEIGHT,), 1.0)
    decision = WeightPruning().decide(edit, subject, Job())
    model = carried_out(AppliedEdit(edit, decision), subject).model
    assert not model[0].weight.any()
    assert torch.equal(model(torch.randn(2, 4)), model[0].bias.expand(2, 3))


def test_ratio_0_changes_nothing(demo: ModelSession, job: Job) -> None:
    demo.apply(PruneWeights((LayerId("stem.conv"), LayerId("head.fc")), 0.0), job)
    assert demo.fingerprint(1) == demo.fingerprint(0)


# Which


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 0.999])
def test_the_mask_is_the_one_of_torch(ratio: float) -> None:
    layer = nn.Conv2d(5, 7, 3)
    wanted = nn.Conv2d(5, 7, 3)
    wanted.weight.data = layer.weight.detach().clone()
    prune.l1_unstructured(wanted, "weight", amount=ratio)
    after = pruned(subject_of(layer, 1, 5, 6, 6), ratio)
    assert torch.equal(after, wanted.weight)


def test_the_smallest_magnitudes_go_first() -> None:
    weight = torch.tensor([[0.1, -0.4, 0.0], [-0.2, 0.3, -0.5]])
    after = pruned(linear(weight), 0.5)
    assert torch.equal(after, torch.tensor([[0.0, -0.4, 0.0], [0.0, 0.3, -0.5]]))


def test_each_layer_has_its_own_sparsity(demo: ModelSession, job: Job) -> None:
    layers = (LayerId("stem.conv"), LayerId("stage1.block0.conv2"), LayerId("head.fc"))
    change = demo.apply(PruneWeights(layers, 0.6), job)
    tree = change.snapshot.current.tree
    assert change.layers == set(layers)
    # Of 32 * 9, 64 * 64 * 9 and 10 * 128 weights; none of the biases.
    assert [tree[layer].zeros for layer in layers] == [173, 22118, 768]


def test_the_choice_is_random_by_seed_and_leaves_the_global_state_alone() -> None:
    subject = linear(weights(1, 10, 10))
    before = torch.get_rng_state()
    first, again, other = (
        pruned(subject, 0.5, criterion="random", seed=seed) == 0 for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(pruned(subject, 0.5, criterion="random", seed=1) == 0, first)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Together: one ranking over the selection


def test_a_global_ranking_is_the_one_of_torch() -> None:
    layers = nn.Conv2d(2, 3, 3), nn.Linear(8, 5), nn.Linear(4, 4)
    for at, one in enumerate(layers):
        one.weight.data = weights(at, *one.weight.shape) * (at + 1)
    wanted = [nn.Module() for _ in layers]
    for module, one in zip(wanted, layers, strict=True):
        module.weight = nn.Parameter(one.weight.detach().clone())
    prune.global_unstructured(
        [(one, "weight") for one in wanted], prune.L1Unstructured, amount=round(0.6 * 110)
    )
    subject = side_by_side(*layers)
    masks = decided(subject, 0.6, spread="global")
    assert [kept(mask).int().tolist() for mask in masks] == [
        one.weight_mask.int().tolist() for one in wanted
    ]


@given(st.floats(0, 1), st.sampled_from(["l1", "random"]), st.sampled_from(["global", "energy"]))
@settings(max_examples=40)
def test_spread_amounts_are_exact_too(ratio: float, criterion: str, spread: str) -> None:
    subject = side_by_side(nn.Linear(7, 5), nn.Linear(6, 11), nn.Conv2d(3, 2, 3))
    energy = {LayerId("layers.0"): 3.0, LayerId("layers.1"): 1.0, LayerId("layers.2"): 2.0}
    masks = decided(replace(subject, energy=energy), ratio, criterion=criterion, spread=spread)
    assert sum(int((~kept(mask)).sum()) for mask in masks) == round(ratio * (35 + 66 + 54))


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["l1", "random"]),
    st.sampled_from(["layer", "global", "energy"]),
)
@settings(max_examples=60)
def test_more_is_never_less_anywhere(one: float, other: float, criterion: str, spread: str) -> None:
    subject = side_by_side(nn.Linear(7, 5), nn.Linear(6, 11), nn.Conv2d(3, 2, 3))
    energy = {LayerId("layers.0"): 3.0, LayerId("layers.1"): 1.0, LayerId("layers.2"): 2.0}
    subject = replace(subject, energy=energy)
    wish = {"criterion": criterion, "spread": spread}
    few, many = (decided(subject, ratio, **wish) for ratio in sorted((one, other)))
    for less, more in zip(few, many, strict=True):
        assert not (kept(more) & ~kept(less)).any()


def test_where_most_energy_goes_most_is_cut() -> None:
    subject = side_by_side(nn.Linear(64, 64), nn.Linear(64, 64))
    for one in subject.model.layers:
        one.weight.data = weights(0, 64, 64)  # alike but for their energy
    energy = {LayerId("layers.0"): 4e-6, LayerId("layers.1"): 1e-6}
    masks = decided(replace(subject, energy=energy), 0.5, spread="energy")
    first, second = (int((~kept(mask)).sum()) for mask in masks)
    assert first + second == 4096
    # Risk for each joule is alike at the margin, and the weights are 1 to 4096: what the square of
    # the next one is of the squares of all that are left, 4 to 1.
    squares = np.cumsum(np.arange(4097.0) ** 2)
    risks = [(gone + 1) ** 2 / (squares[4096] - squares[gone]) for gone in (first, second)]
    assert risks[0] / risks[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("ratio", [0.9, 0.95, 0.99])
def test_no_layer_is_emptied_where_most_is_cut_by_energy(ratio: float) -> None:
    sizes = ((8, 16), (256, 64), (16, 8))
    subject = side_by_side(*(nn.Linear(inputs, outputs) for inputs, outputs in sizes))
    energy = {LayerId(f"layers.{at}"): joules for at, joules in enumerate((9e-6, 1e-6, 5e-6))}
    masks = decided(replace(subject, energy=energy), ratio, spread="energy")
    counts = [int(kept(mask).sum()) for mask in masks]
    assert all(counts)
    assert ratio > 0.9 or min(counts) >= 38  # three in ten of 128
    total = sum(inputs * outputs for inputs, outputs in sizes)
    assert sum(counts) == total - round(ratio * total)


def test_energy_that_nobody_knows_cannot_spread() -> None:
    with pytest.raises(EditRefused, match="No energy is modelled for these layers"):
        pruned(linear(weights(1, 4, 4)), 0.5, spread="energy")


# Patterns: so many of every so many


@given(
    st.integers(1, 5), st.integers(1, 4), st.sampled_from([(2, 4), (1, 2), (4, 8), (1, 3), (3, 5)])
)
@settings(max_examples=40)
def test_every_group_keeps_its_largest(rows: int, groups: int, pattern: tuple[int, int]) -> None:
    keep, of = pattern
    weight = weights(rows, rows, groups * of)
    after = pruned(linear(weight), 0.123, keep=keep, of=of).reshape(-1, of)
    assert ((after != 0).sum(1) == keep).all()
    largest = weight.reshape(-1, of).abs().sort(descending=True).values[:, :keep]
    assert torch.equal(after.abs().sort(descending=True).values[:, :keep], largest)


def test_two_of_four_by_hand() -> None:
    weight = torch.tensor([[0.1, -0.4, 0.3, -0.2, 5.0, 6.0, -8.0, 7.0]])
    after = pruned(linear(weight), 0.0, keep=2, of=4)
    assert after.tolist() == [pytest.approx([0, -0.4, 0.3, 0, 0, 0, -8.0, 7.0])]


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(8, 6, 3), nn.Conv2d(8, 4, 3, groups=2), nn.ConvTranspose2d(8, 6, 3, groups=2)],
    ids=str,
)
def test_groups_lie_along_the_input_channels_at_each_place(layer: nn.Module) -> None:
    after = pruned(subject_of(layer, 1, 8, 5, 5), 0.0, keep=2, of=4)
    if layer.transposed:  # of each group of the layer by itself
        after = torch.cat(after.chunk(layer.groups), 1).transpose(0, 1)
    apart = after.movedim(1, -1).reshape(-1, 4)
    assert ((apart != 0).sum(1) == 2).all()


def test_zeros_that_are_there_go_first_in_their_group() -> None:
    weight = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.0, 0.0, 0.0, 0.3]])
    after = pruned(linear(weight), 0.0, keep=2, of=4)
    assert after.tolist() == [pytest.approx([0, 0, 0.2, 0.3]), pytest.approx([0, 0, 0, 0.3])]


def test_two_of_four_is_told_with_the_hardware_that_skips_it(
    session_of: Callable[..., ModelSession], job: Job
) -> None:
    session = session_of(nn.Linear(8, 8), 1, 8)
    (layer,) = (one.id for one in session.snapshot.current.tree if one.weights)
    notes = session.preview(PruneWeights((layer,), 0.0, keep=2, of=4), job).notes
    assert any("sparse tensor cores" in one for one in notes)
    assert not any(
        "tensor cores" in one for one in session.preview(PruneWeights((layer,), 0.3), job).notes
    )


@pytest.mark.parametrize(("keep", "of"), [(0, 4), (4, 4), (5, 4), (2, 0), (-1, 4)])
def test_what_is_no_pattern_is_refused(keep: int, of: int) -> None:
    with pytest.raises(EditRefused, match=f"To keep {keep} of every {of} weights is no pattern"):
        pruned(linear(weights(1, 4, 4)), 0.0, keep=keep, of=of)


def test_channels_that_do_not_divide_are_refused(demo: ModelSession, job: Job) -> None:
    with pytest.raises(
        EditRefused, match=r"stem\.conv reads 1 input channels, which do not divide"
    ):
        demo.apply(PruneWeights((LayerId("stem.conv"),), 0.0, keep=2, of=4), job)


# What training samples say


def with_samples(subject: Subject, samples: Tensor) -> Subject:
    split = Split(samples, torch.zeros(len(samples), dtype=torch.int64))
    return replace(subject, data=DataSet("samples", (), split, split, ""))


def test_wanda_weighs_by_what_is_read_within_each_output() -> None:
    subject = linear(torch.tensor([[4.0, 3.0, 2.0], [0.3, 0.2, 0.4]]))
    # Norms of the inputs: 1, 2 and 10, so that the products are 4, 6, 20 and 0.3, 0.4, 4.
    samples = torch.tensor([[0.6, 0.0, 6.0], [0.8, 2.0, -8.0]])
    after = pruned(with_samples(subject, samples), 1 / 3, criterion="wanda")
    assert after.tolist() == [pytest.approx([0.0, 3.0, 2.0]), pytest.approx([0.0, 0.2, 0.4])]
    after = pruned(with_samples(subject, samples), 1 / 3, criterion="wanda", spread="global")
    assert after.tolist() == [pytest.approx([4.0, 3.0, 2.0]), pytest.approx([0.0, 0.0, 0.4])]


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2)],
    ids=str,
)
def test_wanda_on_convolutions_takes_the_channel_that_each_weight_reads(layer: nn.Module) -> None:
    samples = torch.randn(3, 4, 5, 5)
    samples[:, 1] *= 1000  # whatever reads the second channel counts most
    layer.weight.data.sign_().mul_(torch.rand(layer.weight.shape) + 0.5)
    subject = with_samples(subject_of(nn.Sequential(layer, Scores()), 1, 4, 5, 5), samples)
    subject = replace(subject, model=subject.model[0])
    share = 1 - 1 / (4 // layer.groups)
    after = pruned(subject, share, criterion="wanda")
    inputs = after if layer.transposed else torch.cat(after.chunk(layer.groups), 1).transpose(0, 1)
    assert (inputs[1] != 0).all()


def test_wanda_gives_every_output_the_same_share() -> None:
    subject = with_samples(linear(weights(4, 6, 10)), torch.randn(5, 10))
    zeros = (pruned(subject, 0.37, criterion="wanda") == 0).sum(1)
    assert int(zeros.sum()) == round(0.37 * 60)
    assert int(zeros.max() - zeros.min()) <= 1


def test_taylor_is_weight_times_gradient() -> None:
    weight = torch.tensor([[0.5, -1.0, 0.25], [0.125, 2.0, -0.75]])
    subject = linear(weight)
    samples = torch.tensor([[1.0, 0.5, -2.0], [0.25, 1.5, 3.0]])
    layer = subject.model[0]
    loss = nn.functional.cross_entropy(layer(samples), torch.zeros(2, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(loss, layer.weight)
    scores = (layer.weight * gradient).abs().flatten()
    least = scores.argsort()[:3]
    after = pruned(with_samples(subject, samples), 0.5, criterion="taylor")
    assert set((after.flatten() == 0).nonzero().flatten().tolist()) == set(least.tolist())


def test_a_draft_tells_the_counts_without_looking_at_data() -> None:
    edit = PruneWeights((WEIGHT,), 0.5, "taylor")
    decision = WeightPruning().draft(edit, linear(weights(3, 4, 6)), Job())
    assert int((~kept(decision.masks[0])).sum()) == 12
    with pytest.raises(EditRefused, match="no data set is chosen"):
        WeightPruning().decide(edit, linear(weights(3, 4, 6)), Job())


# Layers of several weights, and weights of several layers


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (nn.LSTM(6, 4, num_layers=2, batch_first=True), [(16, 6), (16, 4), (16, 4), (16, 4)]),
        (nn.GRU(6, 4, batch_first=True), [(12, 6), (12, 4)]),
    ],
    ids=["LSTM", "GRU"],
)
def test_recurrent_layers_lose_weights_of_every_kind(
    layer: nn.RNNBase, shapes: list[tuple[int, ...]]
) -> None:
    subject = subject_of(layer, 1, 3, 6)
    edit = PruneWeights((WEIGHT,), 0.5)
    decision = WeightPruning().decide(edit, subject, Job())
    assert [mask.shape for mask in decision.masks] == shapes
    after = carried_out(AppliedEdit(edit, decision), subject).model
    zeros = sum(int((one == 0).sum()) for one in after.parameters() if one.dim() > 1)
    assert zeros == sum(int(np.prod(one)) for one in shapes) // 2
    x = torch.randn(2, 3, 6)
    assert not torch.equal(after(x)[0], subject.model(x)[0])  # what runs is what was masked


def test_attention_loses_weights_of_its_projections() -> None:
    subject = look_at(Attention().eval(), sample_inputs([InputSpec((1, 5, 8))]))
    layer, out = LayerId("attention"), LayerId("attention.out_proj")
    assert "prune-weights" in subject.tree[layer].methods
    edit = PruneWeights((layer, out), 0.5)
    decision = WeightPruning().decide(edit, subject, Job())
    assert [mask.parameter for mask in decision.masks] == ["in_proj_weight", "weight"]
    after = carried_out(AppliedEdit(edit, decision), subject)
    assert (after.tree[layer].zeros, after.tree[out].zeros) == (96, 32)
    effects = WeightPruning().effects(decision, subject)
    assert [(one.layer, one.before, one.after) for one in effects] == [(layer, 0, 96), (out, 0, 32)]


def test_a_weight_of_two_layers_is_masked_in_both() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    model[2].weight = model[0].weight
    subject = look_at(model, sample_inputs([InputSpec((1, 4))]))
    edit = PruneWeights((LayerId("2"),), 0.5)
    decision = WeightPruning().decide(edit, subject, Job())
    after = carried_out(AppliedEdit(edit, decision), subject)
    assert after.model[0].weight is after.model[2].weight
    assert int((after.model[0].weight == 0).sum()) == 8
    effects = WeightPruning().effects(decision, subject)
    assert [(one.layer, one.role, one.after) for one in effects] == [
        ("0", "coupled", 8), ("2", "chosen", 8)
    ]  # fmt: skip
    both = WeightPruning().decide(replace(edit, layers=(WEIGHT, LayerId("2"))), subject, Job())
    assert len(both.masks) == 1


def test_a_weight_that_is_computed_from_others_is_refused() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    subject = subject_of(layer, 1, 4)
    assert "prune-weights" not in subject.tree[WEIGHT].methods
    with pytest.raises(EditRefused, match="has no weights that can be zeroed"):
        pruned(subject, 0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_other_widths(dtype: torch.dtype) -> None:
    weight = (weights(9, 16, 16) * 3).to(dtype)
    subject = look_at(
        nn.Sequential(layer_of(weight)).eval(), sample_inputs([InputSpec((1, 16), str(dtype)[6:])])
    )
    after = pruned(subject, 0.5)
    assert after.dtype is dtype
    assert int((after == 0).sum()) == 128
    assert after[after != 0].abs().min() >= weight[after == 0].abs().max()


# The lowest of many


floats = st.floats(0, width=32, allow_nan=False) | st.just(-1.0)


@given(st.lists(st.lists(floats, max_size=9), min_size=1, max_size=4), st.data())
@settings(max_examples=150)
def test_the_lowest_are_those_that_sorting_gives(
    rows: list[list[float]], data: st.DataObject
) -> None:
    values = np.array([one for row in rows for one in row], np.float32)
    count = data.draw(st.integers(0, len(values)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    tensors = [torch.tensor(row, dtype=dtype) for row in rows]
    found = [one for part in lowest([lambda t=t: t for t in tensors], count, dtype) for one in part]
    chosen = np.zeros(len(values), bool)
    chosen[np.argsort(values, kind="stable")[:count]] = True
    assert [bool(one) for one in found] == chosen.tolist()


@given(st.integers(1, 6), st.integers(1, 7), st.data())
@settings(max_examples=50)
def test_the_lowest_of_each_row(rows: int, columns: int, data: st.DataObject) -> None:
    counts = torch.tensor(
        data.draw(st.lists(st.integers(0, columns), min_size=rows, max_size=rows))
    )
    scores = torch.randint(0, 3, (rows, columns)).float()
    chosen = lowest_in_rows(scores, counts)
    assert torch.equal(chosen.sum(1), counts)
    for row, went in zip(scores, chosen, strict=True):
        assert not went.any() or went.all() or row[went].max() <= row[~went].min()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3),
        nn.ConvTranspose3d(4, 6, 2, groups=2), nn.Linear(3, 5),
    ],
    ids=str,
)  # fmt: skip
def test_rows_by_input_become_the_weight_again(layer: nn.Module) -> None:
    weight = layer.weight.detach()
    rows = by_input(layer, weight)
    assert rows.shape[0] == getattr(layer, "out_channels", 5)
    assert torch.equal(as_weight(layer, rows, tuple(weight.shape)), weight)


# What it does and does not change


def test_nothing_but_the_chosen_weights_changes(demo: ModelSession, job: Job) -> None:
    layer = LayerId("stage1.block0.conv2")
    effect = demo.preview(PruneWeights((layer,), 0.5), job)
    (one,) = effect.layers
    assert (one.layer, one.role, one.quantity) == (layer, "chosen", "zeros")
    assert (one.before, one.after) == (0, 18432)
    assert effect.before == effect.after  # zeros are neither skipped nor stored shorter
    assert "only on hardware that skips zeros" in " ".join(effect.notes)
    base = demo.snapshot.base.tree
    tree = demo.apply(PruneWeights((layer,), 0.5), job).snapshot.current.tree
    assert [each.id for each in tree if each != base[each.id]] == [layer]
    assert tree[layer].zeros == one.after


def test_more_zeros_later_keep_the_earlier_ones() -> None:
    subject = linear(weights(2, 8, 8))
    zeros = pruned(subject, 0.0) == 0
    for ratio in (0.2, 0.5, 0.9):
        edit = PruneWeights((WEIGHT,), ratio, "random", seed=7)
        decision = WeightPruning().decide(edit, subject, Job())
        subject = carried_out(AppliedEdit(edit, decision), subject)
        now = subject.model[0].weight == 0
        assert (now | ~zeros).all()
        zeros = now


def test_a_shared_layer_is_masked_wherever_it_runs(
    session_of: Callable[..., ModelSession], job: Job
) -> None:
    shared = nn.Linear(4, 4)
    session = session_of(nn.Sequential(shared, nn.ReLU(), shared), 1, 4)
    tree = session.apply(PruneWeights((WEIGHT,), 0.5), job).snapshot.current.tree
    assert tree[WEIGHT].zeros == 8
    assert tree[WEIGHT].aliases == ("2",)


# Refusals


@pytest.mark.parametrize("ratio", [-0.01, 1.01, float("nan")])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(EditRefused, match="0 to 1 is"):
        pruned(linear(weights(2, 2, 2)), ratio)


@pytest.mark.parametrize("layer", ["stem.bn", "stem.relu", "stage1", "head.pool"])
def test_layers_without_weights_are_refused_and_offer_nothing(
    demo: ModelSession, job: Job, layer: str
) -> None:
    assert "prune-weights" not in demo.snapshot.current.tree[LayerId(layer)].methods
    with pytest.raises(EditRefused, match=f"^{layer} .* has no weights that can be zeroed"):
        demo.apply(PruneWeights((LayerId("stem.conv"), LayerId(layer)), 0.5), job)
    assert demo.snapshot.cursor == 0
    assert demo.snapshot.current.tree[LayerId("stem.conv")].zeros == 0


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_integer_weights_go_to_their_zero_point(
    demo: ModelSession,
    job: Job,
    granularity: Literal["tensor", "channel", "group"],
    symmetric: bool,
) -> None:
    layer = LayerId("stage1.block0.conv1")
    demo.apply(
        Quantize((layer,), granularity=granularity, group_size=9, weight_symmetric=symmetric), job
    )
    before = demo._subject(1).model.get_submodule(layer)
    demo.apply(PruneWeights((layer,), 0.5), job)
    after = demo._subject(2).model.get_submodule(layer)
    values, whole = after.float_weight(), before.float_weight()
    gone = values == 0
    assert int(gone.sum()) == demo.snapshot.current.tree[layer].zeros
    assert abs(int(gone.sum()) - gone.numel() // 2) <= 1
    assert torch.equal(values[~gone], whole[~gone])
    assert whole[gone].abs().max() <= whole[~gone].abs().min()
    assert before.weight is not after.weight


# Masks as they are kept


shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)


@given(shapes, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_a_mask_is_unpacked_as_it_was_packed(shape: tuple[int, ...], random: object) -> None:
    mask = np.array([random.random() < 0.5 for _ in range(int(np.prod(shape)))], dtype=bool)
    packed = WeightMask(LayerId("a"), shape, np.packbits(mask).tobytes())
    assert kept(packed).numpy().tolist() == mask.reshape(shape).tolist()
    assert len(packed.kept) == -(-mask.size // 8)


def test_the_bits_are_those_of_numpy_row_by_row() -> None:
    mask = WeightMask(LayerId("a"), (2, 5), bytes([0b10110001, 0b01000000]))
    assert kept(mask).int().tolist() == [[1, 0, 1, 1, 0], [0, 0, 1, 0, 1]]


@given(shapes, st.integers(-3, 3).filter(bool))
def test_masks_of_another_length_are_refused(shape: tuple[int, ...], more: int) -> None:
    size = -(-int(np.prod(shape)) // 8)
    with pytest.raises(RecipeMismatch, match="mask of a"):
        kept(WeightMask(LayerId("a"), shape, bytes(max(0, size + more))))


def test_a_frozen_weight_stays_frozen(demo: ModelSession, job: Job) -> None:
    layer = LayerId("head.fc")
    model = demo._subject(0).model
    model.get_submodule(layer).weight.requires_grad_(False)
    demo.apply(PruneWeights((layer,), 0.5), job)
    assert not demo._subject(1).model.get_submodule(layer).weight.requires_grad
