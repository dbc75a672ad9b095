"""Attention with fewer heads: the law, the choice, every class that is known, and its files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.editing import Subject, carried_out, look_at
from engine.edits import AppliedEdit, HeadsGone, HeadsRemoved, PruneHeads, Quantize
from engine.errors import EditRefused, RecipeMismatch
from engine.job import Job
from engine.layers import LayerId
from engine.pruned_layers import heads_of, without_heads
from engine.pruning.heads import HeadPruning
from engine.session import ModelSession
from engine.sharing import share
from tests.engine.small_networks import (
    ATTENTION,
    SHAPES,
    Make,
    assert_round_trips,
    decided,
    edited,
    exported,
    layers_for,
    living,
    maxvit,
    off,
    output,
    reopened,
    swin,
    swin_v2,
    vit,
)

LAW = 1e-12  # of the largest output, in float64
VISIBLE = 1e-3  # of it, by which the heads must matter for the law to say something
OUTPUTS = ("out_proj", "proj", "merge")


def masked(model: nn.Module, decision: HeadsRemoved) -> nn.Module:
    """The model whose output projections read nothing from the removed heads."""
    copy = share(model)
    for one in decision.layers:
        layer: Any = copy.get_submodule(one.layer)
        projection = next(getattr(layer, name) for name in OUTPUTS if hasattr(layer, name))
        weight = projection.weight.detach().clone()
        by_head = weight.view(len(weight), one.of, -1)
        by_head[:, list(one.removed)] = 0
        projection.weight = nn.Parameter(weight)
    return copy


def assert_law(subject: Subject, edit: PruneHeads) -> Subject:
    applied = decided(edit, subject)
    after = carried_out(applied, subject)
    wanted = output(masked(subject.model, applied.decision), subject)
    assert off(output(after.model, subject), wanted) <= LAW
    assert off(output(subject.model, subject), wanted) > VISIBLE
    return after


@pytest.mark.parametrize("make", ATTENTION)
def test_a_model_without_heads_is_one_that_reads_nothing_from_them(make: Make) -> None:
    subject = living(make)
    layers = layers_for("prune-heads", subject)
    assert len(layers) == {maxvit: 6, swin: 4, swin_v2: 4}.get(make, 2)
    for layer in layers[:2]:  # shifted windows, and those that are not
        assert_law(subject, PruneHeads((layer,), 0.5))
    after = assert_law(subject, PruneHeads(layers, 0.5, "random", seed=3))
    for layer in layers:
        before, now = subject.tree[layer], after.tree[layer]
        heads = heads_of(subject.model.get_submodule(layer))
        assert now.kind == before.kind
        assert now.note == f"{heads // 2} of {heads} heads"
        below = [tree.inclusive({one.id: one.parameters for one in tree}) for tree in (
            subject.tree, after.tree
        )]  # fmt: skip
        assert below[1][layer] < below[0][layer]


@pytest.mark.parametrize("make", ATTENTION)
def test_files_give_the_same_bits_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = living(make)
    layers = layers_for("prune-heads", subject)
    first = decided(PruneHeads(layers, 0.25), subject)
    second = decided(PruneHeads(layers[:1], 0.5, "random"), carried_out(first, subject))
    assert_round_trips(subject, [first, second], make, monkeypatch, tmp_path)


@pytest.mark.parametrize(
    "make", [vit, *(pytest.param(one, marks=pytest.mark.slow) for one in (swin, swin_v2, maxvit))]
)
def test_it_is_exported_for_any_batch(make: Make) -> None:
    subject = living(make, torch.float32)
    after = edited(PruneHeads(layers_for("prune-heads", subject), 0.5), subject)
    assert off(exported(after), output(after.model, subject)) < 1e-5


@pytest.mark.parametrize("make", ATTENTION)
def test_pruning_twice_is_pruning_once(make: Make) -> None:
    subject = living(make)
    layer = layers_for("prune-heads", subject)[-1]
    heads = heads_of(subject.model.get_submodule(layer))
    assert heads is not None
    once = edited(PruneHeads((layer,), 0.0, heads=tuple(range(1, heads))), subject)
    twice = edited(PruneHeads((layer,), 0.0, heads=(heads - 1,)), subject)
    if heads > 2:
        twice = edited(PruneHeads((layer,), 0.0, heads=tuple(range(1, heads - 1))), twice)
    assert torch.equal(output(once.model, subject), output(twice.model, subject))
    assert once.tree[layer].note == f"1 of {heads} heads"
    assert once.tree == twice.tree


def test_the_keys_of_swin_v2_stay_without_a_bias() -> None:
    """The original leaves it out of every pass, so whatever stands there means nothing."""
    subject = living(swin_v2)
    layer = layers_for("prune-heads", subject)[0]
    after = edited(PruneHeads((layer,), 0.5), subject)
    assert not after.model.get_submodule(layer).qkv.bias.chunk(3)[1].any()
    assert subject.model.get_submodule(layer).qkv.bias.chunk(3)[1].all()


# The choice


def attention(heads: int = 3, **settings: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return nn.MultiheadAttention(6, heads, batch_first=True, **settings).double().eval()


class Attending(nn.Module):
    """Self-attention as its caller wishes."""

    def __init__(self, layer: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layer, x)


def plainly(layer: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = layer(x, x, x, need_weights=False)[0]
    return found


def seen(layer: nn.Module, call: Callable[[nn.Module, Tensor], Tensor] = plainly) -> Subject:
    torch.manual_seed(1)
    return look_at(Attending(layer, call).eval(), (torch.randn(2, 5, 6, dtype=torch.double),))


LAYER = (LayerId("layer"),)


def test_the_head_that_can_write_least_goes_first() -> None:
    """Importance by hand: values and outputs of head 1 are large, but miss each other."""
    layer = attention(3)
    with torch.no_grad():
        value = layer.in_proj_weight[12:].zero_().view(3, 2, 6)
        out = layer.out_proj.weight.zero_().view(6, 3, 2)
        value[0, 0, 0], out[0, 0, 0] = 2.0, 3.0
        value[1, 0, 0], out[0, 1, 1] = 9.0, 9.0
        value[2, 1, 0], out[0, 2, 1] = 1.0, 5.0
    subject = seen(layer)
    (gone,) = HeadPruning().decide(PruneHeads(LAYER, 0.3), subject, Job()).layers
    assert gone == HeadsGone(LAYER[0], (1,), 3)
    (gone,) = HeadPruning().decide(PruneHeads(LAYER, 0.6), subject, Job()).layers
    assert gone.removed == (1, 2)


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.1, 0), (0.34, 1), (0.5, 2), (0.99, 2)])
def test_a_ratio_takes_whole_heads_and_never_all(ratio: float, count: int) -> None:
    decision = HeadPruning().decide(PruneHeads(LAYER, ratio), seen(attention(3)), Job())
    assert sum(len(one.removed) for one in decision.layers) == count
    if not count:
        assert HeadPruning().notes(decision, seen(attention(3)))[0].endswith("nothing changes.")


def test_random_heads_follow_the_seed() -> None:
    subject = living(swin)
    layer = layers_for("prune-heads", subject)[-1]
    chosen = {
        seed: decided(PruneHeads((layer,), 0.5, "random", seed=seed), subject).decision
        for seed in (0, 0, 1, 2, 3)
    }
    assert chosen[0] == decided(PruneHeads((layer,), 0.5, "random"), subject).decision
    assert len(set(map(repr, chosen.values()))) > 1


# torch's own layer, called in every way


CALLS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], dict[str, Any]]] = {
    "plain": (plainly, {}),
    "with weights": (lambda layer, x: layer(x, x, x)[0], {}),
    "weights themselves": (
        lambda layer, x: layer(x, x, x, average_attn_weights=False)[1].sum(1), {},
    ),
    "another key": (lambda layer, x: layer(x, x * 2, x - 1, need_weights=False)[0], {}),
    "without bias": (plainly, {"bias": False}),
    "causal": (
        lambda layer, x: layer(
            x, x, x, need_weights=False, is_causal=True,
            attn_mask=torch.full((5, 5), float("-inf"), dtype=x.dtype).triu(1),
        )[0], {},
    ),
    "padded": (
        lambda layer, x: layer(
            x, x, x, torch.arange(5).expand(2, 5) > 3, attn_mask=torch.eye(5) > 0
        )[0], {},
    ),
    "one by one": (lambda layer, x: torch.stack([layer(one, one, one)[0] for one in x]), {}),
    "one by one with padding": (
        lambda layer, x: torch.stack(
            [layer(one, one, one, torch.arange(5) > 3, need_weights=False)[0] for one in x]
        ), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_torchs_layer_is_called_as_before(call: str) -> None:
    how, settings = CALLS[call]
    subject = seen(attention(3, **settings), how)
    if call == "weights themselves":  # of the heads that stay, which the law is silent about
        after = edited(PruneHeads(LAYER, 0.0, heads=(1,)), subject)
        original: Any = subject.model
        x = subject.inputs[0]
        weights = original.layer(x, x, x, average_attn_weights=False)[1].detach()
        assert off(output(after.model, subject), weights[:, [0, 2]].sum(1)) < LAW
        return
    assert_law(subject, PruneHeads(LAYER, 0.0, heads=(1,)))


def test_the_sequence_may_come_first() -> None:
    layer = attention(3)
    layer.batch_first = False
    assert_law(seen(layer), PruneHeads(LAYER, 0.3))


def test_a_whole_encoder_of_torch_runs_without_heads() -> None:
    """Its fused kernel, which takes the inner width for the outer one, has to stay out."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True, norm_first=True).double()
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    subject = look_at(encoder, (torch.randn(2, 5, 8, dtype=torch.double),))
    layers = layers_for("prune-heads", subject)
    assert layers == ("layers.0.self_attn", "layers.1.self_attn")
    assert_law(subject, PruneHeads(layers, 0.5))


def test_its_children_are_layers_like_any_other() -> None:
    """Quantized before heads are removed they are refused, behind that they can be."""
    subject = living(vit, torch.float32)
    layer = layers_for("prune-heads", subject)[0]
    projection = LayerId(f"{layer}.out_proj")
    after = edited(PruneHeads((layer,), 0.5), subject)
    assert after.tree[projection].kind == "Linear"
    again = edited(Quantize((projection,)), after)
    assert again.tree[projection].weight_bits == 8
    assert off(output(again.model, subject), output(after.model, subject)) < 0.05
    with pytest.raises(EditRefused, match="integer weights in out_proj: prune before rounding"):
        edited(PruneHeads((layer,), 0.5), again)
    assert "prune-heads" not in again.tree[layer].methods


def test_swin_is_quantized_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = living(swin, torch.float32)
    layer = layers_for("prune-heads", subject)[1]
    after = edited(PruneHeads((layer,), 0.5), subject)
    rounded = edited(Quantize((LayerId(f"{layer}.qkv"), LayerId(f"{layer}.proj"))), after)
    assert off(output(rounded.model, subject), output(after.model, subject)) < 0.1
    again = reopened(rounded, swin, monkeypatch)
    assert torch.equal(output(again.model, subject), output(rounded.model, subject))
    assert again.tree == rounded.tree


def test_undo_and_redo_give_the_same_bits(
    session_of: Callable[..., ModelSession], job: Any, tmp_path: Path
) -> None:
    session = session_of(vit(), *SHAPES[vit])
    layers = tuple(one.id for one in session.snapshot.base.tree if "prune-heads" in one.methods)
    effect = session.preview(PruneHeads(layers, 0.5), job)
    assert [(one.quantity, one.before, one.after) for one in effect.layers] == [("heads", 4, 2)] * 2
    after = session.apply(PruneHeads(layers, 0.5), job).snapshot.current
    assert effect.after == {key: after.table[key].total.value for key in effect.after}
    assert after.table["macs"].total.value < session.snapshot.base.table["macs"].total.value
    prints = session.fingerprint(0), session.fingerprint()
    assert session.undo(job).snapshot.cursor == 0
    assert session.fingerprint() == prints[0]
    session.redo(job)
    assert session.fingerprint() == prints[1] != prints[0]


# Refusals


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (PruneHeads(LAYER, 1.0), "ratio of 1 is not possible"),
        (PruneHeads(LAYER, -0.1), "ratio of -0.1 is not possible"),
        (PruneHeads(LAYER, 0.5, heads=(3,)), "has heads 0 to 2"),
        (PruneHeads(LAYER, 0.5, heads=(-1,)), "has heads 0 to 2"),
        (PruneHeads(LAYER, 0.5, heads=(0, 1, 2)), "one must stay"),
        (PruneHeads((*LAYER, LayerId("other")), 0.5, heads=(0,)), "2 layers at once"),
        (PruneHeads((LayerId("layer.out_proj"),), 0.5), "no attention layer of a known kind"),
    ],
)
def test_what_cannot_be_is_refused_in_words(edit: PruneHeads, cause: str) -> None:
    with pytest.raises(EditRefused, match=cause):
        HeadPruning().decide(edit, seen(attention(3)), Job())


@pytest.mark.parametrize(
    "settings", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 4, "vdim": 4}]
)
def test_attention_with_keys_of_its_own_is_refused(settings: dict[str, Any]) -> None:
    layer = nn.MultiheadAttention(6, 3, **settings)
    assert not HeadPruning().applies(layer)


def test_a_single_head_stays() -> None:
    subject = seen(attention(1))
    assert "prune-heads" not in subject.tree[LAYER[0]].methods
    with pytest.raises(EditRefused, match="its one head stays"):
        HeadPruning().decide(PruneHeads(LAYER, 0.5), subject, Job())


class Own(nn.MultiheadAttention):
    """May compute something else."""


def test_subclasses_are_not_known() -> None:
    assert heads_of(Own(6, 3)) is None
    assert not HeadPruning().applies(Own(6, 3))


def test_timm_norms_over_all_heads_are_refused() -> None:
    attention = pytest.importorskip("timm.layers").Attention
    layer = attention(8, 4, scale_norm=True, norm_layer=nn.LayerNorm)
    assert not HeadPruning().applies(layer)
    subject = look_at(nn.Sequential(layer).eval(), (torch.randn(1, 3, 8),))
    with pytest.raises(EditRefused, match="normalises over all heads at once"):
        HeadPruning().decide(PruneHeads((LayerId("0"),), 0.5), subject, Job())


def test_timm_gates_lose_their_heads_too() -> None:
    attention = pytest.importorskip("timm.layers").Attention
    torch.manual_seed(0)
    layer = attention(8, 4, qkv_bias=True, gated=True, qk_norm=True, norm_layer=nn.LayerNorm)
    model = nn.Sequential(layer.double()).eval()
    assert_law(
        look_at(model, (torch.randn(2, 3, 8, dtype=torch.double),)),
        PruneHeads((LayerId("0"),), 0.5),
    )


@pytest.mark.parametrize(
    "gone",
    [
        HeadsGone(LAYER[0], (0,), 4),
        HeadsGone(LAYER[0], (), 3),
        HeadsGone(LAYER[0], (3,), 3),
        HeadsGone(LAYER[0], (0, 1, 2), 3),
        HeadsGone(LayerId("layer.out_proj"), (0,), 3),
    ],
)
def test_decisions_for_other_layers_do_not_fit(gone: HeadsGone) -> None:
    subject = seen(attention(3))
    with pytest.raises(RecipeMismatch):
        carried_out(AppliedEdit(PruneHeads(LAYER, 0.5), HeadsRemoved((gone,))), subject)


def test_the_given_model_keeps_its_tensors() -> None:
    subject = living(swin_v2)
    before = {name: one.clone() for name, one in subject.model.state_dict().items()}
    kinds = [type(one) for one in subject.model.modules()]
    edited(PruneHeads(layers_for("prune-heads", subject), 0.5), subject)
    assert [type(one) for one in subject.model.modules()] == kinds
    after = subject.model.state_dict()
    assert all(torch.equal(after[name], one) for name, one in before.items())


def test_a_module_of_ones_own_loses_heads_in_place() -> None:
    layer = without_heads(attention(3), (0,))
    assert heads_of(layer) == 2
    assert {name for name, _ in layer.named_parameters()} == {
        "in_proj.weight", "in_proj.bias", "out_proj.weight", "out_proj.bias",
    }  # fmt: skip
