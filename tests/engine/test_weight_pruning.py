"""Single weights zeroed: how many, which, and that nothing else moves."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from engine.editing import Subject, carried_out, look_at
from engine.edits import AppliedEdit, PruneWeights, Quantize, WeightMask
from engine.errors import EditRefused, RecipeMismatch
from engine.job import Job
from engine.layers import LayerId
from engine.pruning.weights import WeightPruning, kept
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


def test_quantized_layers_are_refused(demo: ModelSession, job: Job) -> None:
    layer = LayerId("head.fc")
    demo.apply(Quantize((layer,)), job)
    with pytest.raises(EditRefused, match=r"head\.fc is quantized"):
        demo.apply(PruneWeights((layer,), 0.5), job)
    assert demo.snapshot.cursor == 1


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
