"""Residual blocks left out: which are found, the law, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.editing import Subject, carried_out, look_at
from engine.edits import (
    AppliedEdit,
    BlocksRemoved,
    Factorize,
    FoldNorms,
    PruneHeads,
    Quantize,
    RemoveBlocks,
)
from engine.errors import EditRefused, RecipeMismatch
from engine.job import Cancelled, Job
from engine.layers import ROOT, LayerId
from engine.pruned_layers import Removed
from engine.pruning.blocks import BlockRemoval
from engine.session import ModelSession
from engine.sharing import share
from engine.sources.architectures import build
from engine.tracing import sample_inputs, trace
from tests.engine.small_networks import (
    SHAPES,
    Make,
    assert_round_trips,
    decided,
    edited,
    exported,
    layers_for,
    living,
    maxvit,
    mobilenet_v2,
    off,
    output,
    resnet18,
    swin,
    timm_vit,
    vit,
)

# Of each block the last thing that it does to what it adds: without it, nothing is added.
LAST: dict[Make, tuple[str, ...]] = {
    vit: ("self_attention.out_proj", "mlp.3"),
    swin: ("attn.proj", "mlp.3"),
    maxvit: ("layers.conv_c", "attn_layer.1.merge", "mlp_layer.3"),
    timm_vit: ("attn.proj", "mlp.fc2"),
    resnet18: ("bn2",),
    mobilenet_v2: ("conv.3",),
}
BLOCKS: dict[Make, list[str]] = {
    vit: ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"],
    swin: ["features.1.0", "features.1.1", "features.3.0", "features.3.1"],
    maxvit: [
        f"blocks.{path}"
        for path in (
            "0.layers.0.layers.window_attention", "0.layers.0.layers.grid_attention",
            "1.layers.0.layers.window_attention", "1.layers.0.layers.grid_attention",
            "1.layers.1.layers.MBconv", "1.layers.1.layers.window_attention",
            "1.layers.1.layers.grid_attention",
        )
    ],
    timm_vit: ["blocks.0", "blocks.1"],
    resnet18: ["layer1.0", "layer1.1", "layer2.1"],
    mobilenet_v2: ["features.3", "features.5"],
}  # fmt: skip


def silenced(subject: Subject, make: Make, layers: list[str]) -> nn.Module:
    """The model whose blocks multiply what they add by 0."""
    copy = share(subject.model)
    for layer in layers:
        for name in LAST[make]:
            try:
                last = copy.get_submodule(f"{layer}.{name}")
            except AttributeError:
                continue
            for parameter in ("weight", "bias"):
                tensor = getattr(last, parameter)
                setattr(last, parameter, nn.Parameter(torch.zeros_like(tensor)))
            if isinstance(last, nn.BatchNorm2d):
                last.running_mean = torch.zeros_like(last.running_mean)
    return copy


@pytest.mark.parametrize("make", BLOCKS)
def test_a_model_without_blocks_is_one_whose_blocks_add_nothing(make: Make) -> None:
    subject = living(make)
    assert list(layers_for("remove-blocks", subject)) == BLOCKS[make]
    for some in (BLOCKS[make][:1], BLOCKS[make][1:]):
        after = edited(RemoveBlocks(tuple(map(LayerId, some))), subject)
        wanted = output(silenced(subject, make, some), subject)
        assert off(output(after.model, subject), wanted) <= 1e-12
        assert off(output(subject.model, subject), wanted) > 1e-3
        for layer in map(LayerId, some):
            now = after.tree[layer]
            assert (now.kind, now.note) == (subject.tree[layer].kind, "removed")
            assert (now.methods, tuple(after.tree.under(layer))) == ((), (layer,))
            assert now.output_shape == subject.tree[layer].output_shape


@pytest.mark.parametrize("make", BLOCKS)
def test_files_give_the_same_bits_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = living(make)
    applied = decided(RemoveBlocks((LayerId(BLOCKS[make][-1]),)), subject)
    assert_round_trips(subject, [applied], make, monkeypatch, tmp_path)


@pytest.mark.parametrize("make", [resnet18, vit])
def test_it_is_exported_for_any_batch(make: Make) -> None:
    subject = living(make, torch.float32)
    after = edited(RemoveBlocks((LayerId(BLOCKS[make][0]),)), subject)
    assert off(exported(after), output(after.model, subject)) < 1e-5


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet50", 16 - 4),
        ("regnet_y_400mf", 16 - 4),
        ("mobilenet_v3_small", 11 - 5),
        ("convnext_tiny", 3 + 3 + 9 + 3),
        ("shufflenet_v2_x0_5", 0),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("wide_resnet50_2", 16 - 4),
                ("efficientnet_b0", 16 - 7),
                ("efficientnet_v2_s", 40 - 5),
                ("mnasnet0_5", 10),
                ("swin_v2_t", 2 + 2 + 6 + 2),
                ("vit_b_32", 12),
                ("densenet121", 0),
                ("googlenet", 0),
                ("vgg11", 0),
                ("squeezenet1_1", 0),
            )
        ),
    ],
)
def test_the_blocks_of_torchvision_are_found(name: str, blocks: int) -> None:
    """As many as the published architectures have that keep their shape."""
    made = build(name, "meta")
    assert len(trace(made.model, sample_inputs(made.inputs)).residual_layers) == blocks


# With the others, in any order


def test_other_edits_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subject = living(resnet18, torch.float32)
    edits = [
        FoldNorms((LayerId("layer1.0.conv1"),)),
        Factorize((LayerId("layer1.1.conv1"),), 0.5),
        Quantize((LayerId("layer1.0.conv2"), LayerId("layer2.0.conv2"))),
        RemoveBlocks((LayerId("layer1.0"), LayerId("layer1.1"))),
        Quantize((LayerId("fc"),)),
    ]
    applied, state = [], subject
    for edit in edits:
        applied.append(decided(edit, state))
        state = carried_out(applied[-1], state)
    after = assert_round_trips(subject, applied, resnet18, monkeypatch, tmp_path)
    assert after.tree[LayerId("layer1.1")].note == "removed"


def test_other_edits_behind_it_leave_it_alone() -> None:
    subject = living(vit, torch.float32)
    first, second = map(LayerId, BLOCKS[vit])
    after = edited(RemoveBlocks((first,)), subject)
    later = edited(PruneHeads((LayerId(f"{second}.self_attention"),), 0.5), after)
    assert later.tree[first].note == "removed"
    with pytest.raises(EditRefused, match="is no residual block"):
        edited(RemoveBlocks((first,)), later)


def test_the_session_tells_what_is_saved(session_of: Callable[..., ModelSession], job: Job) -> None:
    session = session_of(resnet18(), *SHAPES[resnet18])
    layer = LayerId("layer1.1")
    effect = session.preview(RemoveBlocks((layer,)), job)
    whole = 2 * (64 * 64 * 9 + 2 * 64)
    (told,) = effect.layers
    assert (told.layer, told.quantity, told.before, told.after) == (layer, "parameters", whole, 0)
    change = session.apply(RemoveBlocks((layer,)), job)
    tables = change.snapshot.base.table, change.snapshot.current.table
    saved = tables[0]["parameters"].total.value - tables[1]["parameters"].total.value
    assert saved == whole
    assert effect.after == {key: tables[1][key].total.value for key in effect.after}
    prints = session.fingerprint(0), session.fingerprint()
    session.undo(job)
    assert session.fingerprint() == prints[0]
    session.redo(job)
    assert session.fingerprint() == prints[1]


# Blocks of every shape


class Block(nn.Module):
    """A convolution, and what its block does with it."""

    def __init__(self, wire: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.wire = wire

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(x, self.conv(x))


def swapped(x: Tensor, y: Tensor) -> Tensor:
    """Out of its layout and back into it."""
    rows = x.permute(0, 2, 3, 1).reshape(-1, 4)
    rows = rows + y.permute(0, 2, 3, 1).reshape(-1, 4)
    return rows.view(x.shape[0], *x.shape[2:], 4).permute(0, 3, 1, 2).contiguous()


def in_place(x: Tensor, y: Tensor) -> Tensor:
    y += x
    return y


HAND_ON: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda x, y: x + y,
    "sum the other way": lambda x, y: y + x,
    "in place": in_place,
    "into the input": lambda x, y: x.add_(y),
    "difference of opinion": lambda x, y: x + y * -1,
    "by turns": lambda x, y: x.roll(1, 2).roll(-1, 2) + y,
    "another layout": swapped,
    "two sums": lambda x, y: (x + y) + y.sigmoid(),
}
CHANGE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda x, y: x * y,
    "scaled": lambda x, y: x * 0.5 + y,
    "activation": lambda x, y: F.gelu(x + y),
    "nothing added": lambda x, y: y,
    "rounded": lambda x, y: x.round() + y,
}
LIKELY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "clipped": lambda x, y: F.relu(x + y),
    "twice": lambda x, y: x + x + y,
    "turned round": lambda x, y: x.transpose(2, 3) + y,
    "moved": lambda x, y: x.roll(1, 2) + y,
    "scaled by the sum": lambda x, y: torch.add(y, x, alpha=2),
    "itself clipped": lambda x, y: x + x.relu() + y,
}


def seen(wire: Callable[[Tensor, Tensor], Tensor], first: nn.Module | None = None) -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(first or nn.Identity(), Block(wire), nn.Conv2d(4, 2, 1)).eval()
    return look_at(model, (torch.randn(2, 4, 6, 6),))


BLOCK = (LayerId("1"),)


@pytest.mark.parametrize("wire", HAND_ON)
def test_blocks_that_hand_their_input_on(wire: str) -> None:
    subject = seen(HAND_ON[wire])
    assert layers_for("remove-blocks", subject) == BLOCK
    after = edited(RemoveBlocks(BLOCK), subject)
    model = subject.model
    with torch.inference_mode():
        assert torch.equal(output(after.model, subject), model[2](model[0](*subject.inputs)))


@pytest.mark.parametrize("wire", CHANGE)
def test_blocks_that_do_not_are_not_offered(wire: str) -> None:
    subject = seen(CHANGE[wire])
    assert layers_for("remove-blocks", subject) == ()
    for decide in (BlockRemoval().draft, BlockRemoval().decide):
        with pytest.raises(EditRefused, match=r"1 \(Block\) is no residual block"):
            decide(RemoveBlocks(BLOCK), subject, Job())


@pytest.mark.parametrize("wire", LIKELY)
def test_blocks_that_seem_to_are_run(wire: str) -> None:
    subject = seen(LIKELY[wire])
    assert layers_for("remove-blocks", subject) == BLOCK
    with pytest.raises(EditRefused, match="would still change its input"):
        BlockRemoval().decide(RemoveBlocks(BLOCK), subject, Job())


def test_an_activation_behind_the_sum_is_nothing_to_what_is_positive() -> None:
    subject = seen(LIKELY["clipped"], nn.ReLU())
    after = edited(RemoveBlocks(BLOCK), subject)
    assert after.tree[BLOCK[0]].note == "removed"


class Twice(nn.Module):
    """One block that runs twice, on other numbers."""

    def __init__(self, wire: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.block = Block(wire)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x.relu()) - 1)


def test_every_call_of_a_shared_block_counts() -> None:
    x = (torch.randn(1, 4, 5, 5),)
    layer = (LayerId("block"),)
    after = edited(RemoveBlocks(layer), look_at(Twice(HAND_ON["sum"]).eval(), x))
    assert torch.equal(after.model(*x), x[0].relu() - 1)
    with pytest.raises(EditRefused, match="would still change its input"):
        edited(RemoveBlocks(layer), look_at(Twice(LIKELY["clipped"]).eval(), x))


class Masked(nn.Module):
    """A block that is called with a mask, and by keyword."""

    def __init__(self, by_keyword: bool) -> None:
        super().__init__()
        self.first, self.by_keyword = Given(), by_keyword

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x=x, mask=x) if self.by_keyword else self.first(x, x, scale=2)


class Given(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor, scale: int = 1) -> Tensor:
        return x + self.fc(x) * mask * scale


def test_what_else_a_block_is_given_goes_with_it() -> None:
    x = (torch.randn(3, 4),)
    layer = (LayerId("first"),)
    after = edited(RemoveBlocks(layer), look_at(Masked(by_keyword=False).eval(), x))
    assert torch.equal(after.model(*x), x[0])
    subject = look_at(Masked(by_keyword=True).eval(), x)
    assert layers_for("remove-blocks", subject) == ()


def test_a_block_within_a_block_goes_with_it() -> None:
    class Outer(Block):
        def __init__(self) -> None:
            super().__init__(lambda x, y: x + y.sigmoid())
            self.conv = Block(HAND_ON["sum"])

    subject = look_at(nn.Sequential(Outer()).eval(), (torch.randn(1, 4, 5, 5),))
    layers = layers_for("remove-blocks", subject)
    assert layers == ("0", "0.conv")
    assert decided(RemoveBlocks(layers), subject).decision == BlocksRemoved((LayerId("0"),))


def test_a_list_of_blocks_is_no_block(job: Job) -> None:
    model = nn.Sequential(nn.Sequential(*(Block(HAND_ON["sum"]) for _ in range(2)))).eval()
    subject = look_at(model, (torch.randn(1, 4, 5, 5),))
    assert layers_for("remove-blocks", subject) == ("0.0", "0.1")
    with pytest.raises(EditRefused):
        BlockRemoval().decide(RemoveBlocks((LayerId("0"),)), subject, job)


def test_a_model_is_no_block_of_itself(job: Job) -> None:
    subject = look_at(Block(HAND_ON["sum"]).eval(), (torch.randn(1, 4, 5, 5),))
    with pytest.raises(EditRefused, match="The model"):
        BlockRemoval().decide(RemoveBlocks((ROOT,)), subject, job)


@pytest.mark.parametrize("layer", [ROOT, LayerId("1.conv"), LayerId("2")])
def test_decisions_for_other_models_do_not_fit(layer: LayerId) -> None:
    subject = seen(HAND_ON["sum"])
    with pytest.raises(RecipeMismatch, match="no block that can be left out"):
        carried_out(AppliedEdit(RemoveBlocks((layer,)), BlocksRemoved((layer,))), subject)


def test_it_can_be_cancelled(stop_at: Callable[[int], Job]) -> None:
    subject = seen(HAND_ON["sum"])
    with pytest.raises(Cancelled):
        BlockRemoval().decide(RemoveBlocks(BLOCK), subject, stop_at(2))


def test_a_removed_block_takes_what_the_block_took() -> None:
    x = torch.randn(2, 3)
    assert Removed("Block")(x, None, mask=x) is x
