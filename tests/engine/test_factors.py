"""Low-rank factors: the best of their rank, as cheap as asked for, and layers like any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.editing import Subject, carried_out, look_at
from engine.edits import (
    AppliedEdit,
    Factorize,
    FoldNorms,
    LayerFactors,
    LayersFactorized,
    PruneChannels,
    PruneHeads,
    PruneWeights,
    Quantize,
)
from engine.errors import EditRefused, RecipeMismatch
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.pruned_layers import Factors
from engine.pruning import factors
from engine.pruning.factors import Factorization
from engine.session import ModelSession
from engine.sharing import stored_tensor
from tests.engine.small_networks import (
    SHAPES,
    assert_round_trips,
    decided,
    edited,
    exported,
    layers_for,
    living,
    mobilenet_v2,
    off,
    output,
    resnet18,
    swin,
    vit,
)

LAYER = (LayerId("0"),)


def seen(layer: nn.Module, *shape: int) -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(layer).double().eval()
    return look_at(model, (torch.randn(shape, dtype=torch.double),))


def at_rank(subject: Subject, rank: int, form: str = "channel") -> Subject:
    """The one layer at that rank, whatever it saves."""
    module = subject.model.get_submodule("0")
    found: Any = form
    found = factors.form_for(module, found)
    stored = factors._stored(module, rank, found, Job())
    decision = LayersFactorized((LayerFactors(LAYER[0], rank, found, stored),))
    return carried_out(AppliedEdit(Factorize(LAYER, 0.5), decision), subject)


def dense(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The linear map that a model without biases is, as a matrix: from its action on a basis."""
    count = int(np.prod(shape))
    basis = torch.eye(count, dtype=torch.double).reshape(count, *shape)
    with torch.inference_mode():
        return model(basis).flatten(1)


LAYERS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("linear", lambda: nn.Linear(12, 7), (3, 12)),
    ("linear without bias", lambda: nn.Linear(6, 9, bias=False), (3, 6)),
    ("linear over positions", lambda: nn.Linear(6, 9), (2, 4, 6)),
    ("1x1", lambda: nn.Conv2d(6, 8, 1), (2, 6, 5, 5)),
    ("1x1 with a stride", lambda: nn.Conv2d(6, 8, 1, stride=2, padding=1), (2, 6, 5, 5)),
    ("3x3", lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 7)),
    ("3x3 with a stride", lambda: nn.Conv2d(4, 6, 3, (2, 1), (0, 2), bias=False), (2, 4, 8, 7)),
    ("dilated", lambda: nn.Conv2d(4, 6, (3, 2), dilation=(1, 3), padding=2), (2, 4, 8, 8)),
    ("same padding", lambda: nn.Conv2d(4, 6, (3, 5), padding="same"), (2, 4, 8, 7)),
    ("reflected", lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 6, 6)),
    ("around", lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 6, 6)),
    ("a column", lambda: nn.Conv2d(4, 6, (5, 1), padding=(2, 0)), (2, 4, 6, 6)),
    ("a row", lambda: nn.Conv2d(4, 6, (1, 5), padding=(0, 2)), (2, 4, 6, 6)),
    ("1-D", lambda: nn.Conv1d(4, 6, 5, stride=2, padding=2), (2, 4, 9)),
    ("3-D", lambda: nn.Conv3d(3, 5, 2, padding=1), (1, 3, 4, 4, 4)),
]
by_layer = pytest.mark.parametrize(
    ("make", "shape"), [one[1:] for one in LAYERS], ids=[one[0] for one in LAYERS]
)


@by_layer
@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_at_full_rank_nothing_changes(
    make: Callable[[], nn.Module], shape: tuple[int, ...], form: str
) -> None:
    subject = seen(make(), *shape)
    module = subject.model.get_submodule("0")
    sides = factors.matrix_sides(module, factors.form_for(module, form))  # type: ignore[arg-type]
    after = at_rank(subject, min(sides), form)
    assert off(output(after.model, subject), output(subject.model, subject)) < 1e-10
    assert after.tree[LAYER[0]].note == f"rank {min(sides)} of {min(sides)}"
    assert after.tree[LAYER[0]].kind == type(module).__name__
    assert after.tree[LAYER[0]].channels == subject.tree[LAYER[0]].channels


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000), st.data())
def test_no_matrix_of_that_rank_is_nearer(
    rows: int, columns: int, seed: int, data: st.DataObject
) -> None:
    """Eckart and Young, 1936: the error is the root of the squares left out, by numpy's values."""
    rank = data.draw(st.integers(1, min(rows, columns)))
    layer = nn.Linear(columns, rows, bias=False)
    layer.weight.data = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    subject = seen(layer, 1, columns)
    after = at_rank(subject, rank)
    found: Any = after.model.get_submodule("0")
    product = found.second.weight @ found.first.weight
    error = torch.linalg.norm(product - subject.model.get_submodule("0").weight).item()
    left_out = np.linalg.svd(layer.weight.detach().double().numpy(), compute_uv=False)[rank:]
    assert error == pytest.approx(np.sqrt((left_out**2).sum()), abs=1e-12, rel=1e-9)


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_a_convolution_is_the_best_of_its_form(form: str) -> None:
    """The kernel of both together, against the matrix that numpy cuts."""
    conv = nn.Conv2d(3, 5, (3, 2), bias=False).double()
    subject = seen(conv, 1, 3, 6, 6)
    after = at_rank(subject, 2, form)
    kernel = torch.zeros(5, 3, 3, 2, dtype=torch.double)
    found: Any = after.model.get_submodule("0")
    first, second = found.first.weight, found.second.weight
    with torch.no_grad():
        if form == "channel":
            kernel = torch.einsum("or,rihw->oihw", second[:, :, 0, 0], first)
            matrix = conv.weight.reshape(5, -1)
        else:
            kernel = torch.einsum("orw,rih->oihw", second[:, :, 0], first[..., 0])
            matrix = conv.weight.permute(0, 3, 1, 2).reshape(10, 9)
    left_out = np.linalg.svd(matrix.detach().numpy(), compute_uv=False)[2:]
    error = torch.linalg.norm(kernel - conv.weight).item()
    assert error == pytest.approx(np.sqrt((left_out**2).sum()), rel=1e-9)
    shapes = {"channel": ((2, 3, 3, 2), (5, 2, 1, 1)), "spatial": ((2, 3, 3, 1), (5, 2, 1, 2))}
    assert (tuple(first.shape), tuple(second.shape)) == shapes[form]


@by_layer
@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7, 0.99])
def test_it_saves_what_was_asked_for(
    make: Callable[[], nn.Module], shape: tuple[int, ...], form: Any, ratio: float
) -> None:
    subject = seen(make(), *shape)
    module: Any = subject.model.get_submodule("0")
    edit = Factorize(LAYER, ratio, form)
    draft = Factorization().draft(edit, subject, Job())
    (one,) = draft.layers
    sides = factors.matrix_sides(module, one.form)
    assert one.rank >= 1
    if one.rank > 1:
        assert one.rank * sum(sides) <= (1 - ratio) * module.weight.numel()
    assert (one.rank + 1) * sum(sides) > (1 - ratio) * module.weight.numel()
    told = {effect.quantity: effect for effect in Factorization().effects(draft, subject)}
    assert (told["rank"].before, told["rank"].after) == (min(sides), one.rank)
    after = edited(edit, subject)
    counted = sum(after.tree[LayerId(f"0.{name}")].parameters for name in ("first", "second"))
    assert told["parameters"].after == counted
    assert told["parameters"].before == subject.tree[LAYER[0]].parameters
    assert counted <= told["parameters"].before


def test_a_weight_of_zeros_has_factors_of_zeros() -> None:
    layer = nn.Linear(12, 8)
    layer.weight.data.zero_()
    subject = seen(layer, 2, 12)
    applied = decided(Factorize(LAYER, 0.5), subject)
    after = carried_out(applied, subject)
    assert torch.equal(output(after.model, subject), output(subject.model, subject))
    note = Factorization().notes(applied.decision, subject)[1]  # type: ignore[arg-type]
    assert "100.0% are kept" in note


def test_a_draft_has_shapes_and_no_values() -> None:
    subject = seen(nn.Linear(12, 8), 2, 12)
    edit = Factorize(LAYER, 0.5)
    draft = Factorization().draft(edit, subject, Job())
    after = carried_out(AppliedEdit(edit, draft), subject)
    assert after.model.get_submodule("0.first").weight.is_meta
    assert after.trace.result_shapes == subject.trace.result_shapes
    assert len(Factorization().notes(draft, subject)) == 1


def test_the_share_that_is_kept_is_told() -> None:
    layer = nn.Linear(4, 4, bias=False)
    layer.weight.data = torch.diag(torch.tensor([4.0, 2.0, 1.0, 2.0]))
    subject = seen(layer, 1, 4)
    decision = decided(Factorize(LAYER, 0.0), subject).decision
    (one,) = decision.layers
    assert one.rank == 2
    notes = Factorization().notes(decision, subject)
    assert notes[1] == "Of the squared singular values 80.0% are kept in 0."


# With the others, in any order


def test_the_factors_are_layers_like_any_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = living(resnet18, torch.float32)
    first, second = LayerId("layer1.0.conv1.first"), LayerId("layer1.0.conv1.second")
    edits = [
        PruneWeights((LayerId("layer1.0.conv1"),), 0.3),
        Factorize((LayerId("layer1.0.conv1"), LayerId("layer2.0.conv2")), 0.4),
        FoldNorms((second,)),
        Factorize((first,), 0.2, "spatial"),
        Factorize((LayerId("layer2.0.conv2.second"),), 0.2),
        PruneWeights((LayerId("layer1.0.conv1.first.second"),), 0.5),
        Quantize((LayerId("layer1.0.conv1.first.first"), second, LayerId("layer4.0.conv1"))),
    ]
    applied, state = [], subject
    for edit in edits:
        applied.append(decided(edit, state))
        state = carried_out(applied[-1], state)
    after = assert_round_trips(subject, applied, resnet18, monkeypatch, tmp_path)
    assert after.tree[LayerId("layer1.0.bn1")].note == f"folded into {second}"
    assert after.tree[second].weight_bits == 8
    # What an edit behind it made of the first factor is the rank that is told.
    assert after.tree[LayerId("layer1.0.conv1")].note.startswith("rank ")


def test_pruned_channels_before_and_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subject = living(mobilenet_v2, torch.float32)
    first = LayerId("features.3.conv.0.0")
    edits = [
        PruneChannels((LayerId("features.2.conv.0.0"),), 0.5, multiple=1),
        Factorize((LayerId("features.2.conv.0.0"), LayerId("features.4.conv.0.0")), 0.2),
        PruneChannels((first,), 0.5, multiple=1),
        PruneChannels((LayerId("features.4.conv.0.0.first"),), 0.5, multiple=1),
    ]
    applied, state = [], subject
    for edit in edits:
        applied.append(decided(edit, state))
        state = carried_out(applied[-1], state)
    after = assert_round_trips(subject, applied, mobilenet_v2, monkeypatch, tmp_path)
    found: Any = after.model.get_submodule("features.4.conv.0.0")
    before: Any = applied[1].decision.layers[1]  # type: ignore[union-attr]
    assert found.rank == found.second.in_channels == before.rank - round(before.rank * 0.5)


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_files_give_the_same_bits_again(
    form: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = living(resnet18)
    layers = layers_for("factorize", subject)
    applied = decided(Factorize(layers, 0.5, form), subject)
    after = assert_round_trips(subject, [applied], resnet18, monkeypatch, tmp_path)
    assert off(exported(after), output(after.model, subject)) < 1e-10


def test_attention_is_factorised_behind_fewer_heads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = living(swin)
    layer = layers_for("prune-heads", subject)[0]
    qkv = LayerId(f"{layer}.qkv")
    assert "factorize" not in subject.tree[qkv].methods
    with pytest.raises(EditRefused, match="is not called, the layer above reads its weight"):
        edited(Factorize((qkv,), 0.5), subject)
    first = decided(PruneHeads((layer,), 0.5), subject)
    after = carried_out(first, subject)
    second = decided(Factorize((qkv,), 0.3), after)
    final = assert_round_trips(subject, [first, second], swin, monkeypatch, tmp_path)
    assert "prune-heads" not in final.tree[layer].methods
    with pytest.raises(EditRefused, match=r"changed in qkv\.weight by another edit"):
        edited(PruneHeads((layer,), 0.5), final)


def test_it_is_undone_and_previewed(session_of: Callable[..., ModelSession], job: Job) -> None:
    session = session_of(vit(), *SHAPES[vit])
    layers = tuple(one.id for one in session.snapshot.base.tree if "factorize" in one.methods)
    edit = Factorize(layers, 0.4)
    effect = session.preview(edit, job)
    base, after = session.snapshot.base, session.apply(edit, job).snapshot.current
    assert effect.after == {key: after.table[key].total.value for key in effect.after}
    assert after.table["macs"].total.value < base.table["macs"].total.value
    prints = session.fingerprint(0), session.fingerprint()
    session.undo(job)
    assert session.fingerprint() == prints[0]
    session.redo(job)
    assert session.fingerprint() == prints[1]


def test_a_recipe_without_its_tensors_is_refused(
    session_of: Callable[..., ModelSession], job: Job, tmp_path: Path
) -> None:
    """A draft in place of a decision: the layers would have shapes and no weights."""
    session = session_of(nn.Sequential(nn.Linear(12, 8)), 2, 12)
    edit = Factorize(LAYER, 0.5)
    draft = Factorization().draft(edit, session._subject(0), job)
    from engine.recipe import Recipe, write_recipe

    write_recipe(tmp_path / "r.json", Recipe("toy", session.fingerprint(0), (
        AppliedEdit(edit, draft),
    )))  # fmt: skip
    with pytest.raises(RecipeMismatch):
        session.apply_recipe(str(tmp_path / "r.json"), job)
    assert session.snapshot.cursor == 0


# Refusals


class Standardised(nn.Conv2d):
    """May compute something else."""


REFUSED: list[tuple[nn.Module, tuple[int, ...], str]] = [
    (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 5, 5), "is a convolution in 2 groups"),
    (nn.Conv2d(4, 4, 3, groups=4), (1, 4, 5, 5), "is a convolution in 4 groups"),
    (Standardised(8, 8, 3), (1, 8, 5, 5), "is no convolution or linear layer"),
    (nn.ConvTranspose2d(8, 8, 3), (1, 8, 5, 5), "is no convolution or linear layer"),
    (nn.BatchNorm2d(4), (1, 4, 5, 5), "is no convolution or linear layer"),
    (nn.Linear(1, 9), (2, 1), "have 10: nothing is saved"),
    (nn.Linear(2, 2), (2, 2), "have 4: nothing is saved"),
    (nn.Conv2d(1, 2, 1), (1, 1, 3, 3), "nothing is saved"),
]


@pytest.mark.parametrize(("layer", "shape", "cause"), REFUSED, ids=lambda one: str(one)[:40])
def test_what_cannot_be_is_refused_in_words(
    layer: nn.Module, shape: tuple[int, ...], cause: str
) -> None:
    subject = seen(layer, *shape)
    assert "factorize" not in subject.tree[LAYER[0]].methods
    for decide in (Factorization().draft, Factorization().decide):
        with pytest.raises(EditRefused, match=cause):
            decide(Factorize(LAYER, 0.5), subject, Job())


@pytest.mark.parametrize("ratio", [1.0, -0.1, float("nan")])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(EditRefused, match="is not possible"):
        Factorization().draft(Factorize(LAYER, ratio), seen(nn.Linear(9, 9), 1, 9), Job())


def test_integer_weights_are_refused() -> None:
    subject = living(resnet18, torch.float32)
    layer = (LayerId("layer1.0.conv1"),)
    after = edited(Quantize(layer), subject)
    assert "factorize" not in after.tree[layer[0]].methods
    with pytest.raises(EditRefused, match="integer weights: factorise it before that"):
        edited(Factorize(layer, 0.5), after)


def changed(stored: Any, **to: Any) -> Any:
    import dataclasses

    return dataclasses.replace(stored, **to)


HOSTILE: dict[str, Callable[[LayerFactors], LayerFactors]] = {
    "another rank": lambda one: changed(one, rank=one.rank + 1),
    "far too high a rank": lambda one: changed(one, rank=10**9),
    "another form": lambda one: changed(one, form="spatial"),
    "another layer": lambda one: changed(one, layer=LayerId("")),
    "another name": lambda one: changed(
        one, tensors=(changed(one.tensors[0], name="first.bias"), one.tensors[1])
    ),
    "a path": lambda one: changed(
        one, tensors=(changed(one.tensors[0], name="__class__.weight"), one.tensors[1])
    ),
    "another type": lambda one: changed(
        one, tensors=(stored_tensor("first.weight", torch.zeros(3, 12)), one.tensors[1])
    ),
    "cut short": lambda one: changed(
        one, tensors=(changed(one.tensors[0], data=one.tensors[0].data[:-1]), one.tensors[1])
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_decisions_for_other_layers_do_not_fit(what: str) -> None:
    subject = seen(nn.Linear(12, 8), 2, 12)
    applied = decided(Factorize(LAYER, 0.3), subject)
    (one,) = applied.decision.layers  # type: ignore[union-attr]
    wrong = LayersFactorized((HOSTILE[what](one),))
    with pytest.raises(RecipeMismatch):
        carried_out(AppliedEdit(applied.request, wrong), subject)


def test_it_can_be_cancelled(stop_at: Callable[[int], Job]) -> None:
    subject = seen(nn.Linear(12, 8), 2, 12)
    with pytest.raises(Cancelled):
        Factorization().decide(Factorize(LAYER, 0.5), subject, stop_at(2))


def test_the_given_model_keeps_its_tensors_and_its_bias_is_shared() -> None:
    subject = seen(nn.Linear(12, 8), 2, 12)
    module: Any = subject.model.get_submodule("0")
    before = module.weight.clone()
    after: Any = edited(Factorize(LAYER, 0.5), subject).model.get_submodule("0")
    assert isinstance(after, Factors)
    assert torch.equal(module.weight, before)
    assert after.second.bias.data_ptr() == module.bias.data_ptr()
