"""Channels that hang together: by hand-computed truth, by the law, and beside torch-pruning."""

import time
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import get_model

from engine.errors import EditRefused
from engine.layers import LayerId
from engine.pruning.coupling import Coupling, Group
from engine.pruning.labels import Atoms
from engine.tracing import trace
from tests.engine.living import alive
from tests.engine.pruning_law import Accused, slices_of

Coupled = dict[tuple[str, str, int], list[int]]


class Net(nn.Module):
    """Layers by name, and a forward over them."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


def shuffled(net: nn.Module, x: Tensor) -> Tensor:
    x = torch.cat([net.left(x), net.right(x)], 1)
    samples, channels, high, wide = x.shape
    x = x.view(samples, 2, channels // 2, high, wide).transpose(1, 2).flatten(1, 2)
    return net.last(x.relu())


def gated(net: nn.Module, x: Tensor) -> Tensor:
    value, gate = net.both(x).chunk(2, 1)
    return net.last(value * gate.sigmoid())


def windows(net: nn.Module, x: Tensor) -> Tensor:
    x = net.first(x).permute(0, 2, 3, 1)
    samples, *_, channels = x.shape
    x = F.pad(x, (0, 0, 0, 1, 0, 1)).roll((-1, -1), (1, 2))
    x = x.view(samples, 2, 3, 2, 3, channels).transpose(2, 3).reshape(-1, 9, channels)
    x = net.last(net.norm(x).relu())
    return x.view(samples, 2, 2, 3, 3, -1).transpose(2, 3).reshape(samples, 6, 6, -1)


def tokens(net: nn.Module, x: Tensor) -> Tensor:
    x = net.patch(x).flatten(2).transpose(1, 2)
    x = torch.cat([net.token.expand(len(x), -1, -1), x], 1) + net.place
    return net.last(net.norm(x + net.scale * net.down(net.up(x).relu()))[:, 0])


def attention(net: nn.Module, x: Tensor) -> Tensor:
    x = x.flatten(2).transpose(1, 2)
    value = net.value(x)
    weights = (net.query(x) @ net.key(x).transpose(1, 2)).softmax(-1)
    return net.last(weights @ value)


def glued(net: nn.Module, x: Tensor) -> Tensor:
    return net.last(F.glu(net.first(x), 1))


def upscaled(net: nn.Module, x: Tensor) -> Tensor:
    return net.last(F.pixel_shuffle(net.first(x), 2).relu())


def in_order(net: nn.Module, x: Tensor) -> Tensor:
    for layer in net.children():
        x = layer(x)
    return x


def flat(net: nn.Module, x: Tensor) -> Tensor:
    return net.last(net.norm(net.first(x)).relu().flatten(1))


def padded(net: nn.Module, x: Tensor) -> Tensor:
    """A shortcut filled up with zeros, as in the first ResNets."""
    x = net.first(x)
    return net.last((F.pad(x, (0, 0, 0, 0, 0, 2)) + net.more(x)).relu())


def stacked(net: nn.Module, x: Tensor) -> Tensor:
    return net.last(torch.stack([net.left(x), net.right(x)], 1).amax(1))


def repeated(net: nn.Module, x: Tensor) -> Tensor:
    return net.last(net.first(x).repeat(1, 2, 1, 1).relu())


def reversed_(net: nn.Module, x: Tensor) -> Tensor:
    return net.last(net.first(x).flip(1))


class Scaled(nn.Module):
    """A weight that is multiplied without a layer, as ``einsum`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.table = nn.Linear(5, 6), nn.Parameter(torch.zeros(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ncj,jk->nck", self.first(x[:, 0]), self.table)


TOYS: dict[str, tuple[nn.Module, str, Coupled]] = {
    "shuffle": (
        Net(shuffled, left=conv(2, 3), right=conv(2, 3), last=conv(6, 2)),
        "left",
        {
            ("left", "out", 0): [0, 1, 2],
            ("right", "out", 0): [0, 1, 2],
            ("last", "in", 0): [0, 0, 1, 1, 2, 2],
        },
    ),
    "equal chunks": (
        Net(gated, both=conv(2, 6), last=conv(3, 2)),
        "both",
        {("both", "out", 0): [0, 1, 2, 0, 1, 2], ("last", "in", 0): [0, 1, 2]},
    ),
    "glu": (
        Net(glued, first=conv(2, 6), last=conv(3, 2)),
        "first",
        {("first", "out", 0): [0, 1, 2, 0, 1, 2], ("last", "in", 0): [0, 1, 2]},
    ),
    "windows": (
        Net(windows, first=conv(2, 3), norm=nn.LayerNorm(3), last=nn.Linear(3, 2)),
        "first",
        {
            ("first", "out", 0): [0, 1, 2],
            ("norm", "out", 0): [0, 1, 2],
            ("last", "in", 0): [0, 1, 2],
        },
    ),
    "tokens": (
        Net(
            tokens, patch=nn.Conv2d(2, 3, 5), token=nn.Parameter(torch.zeros(1, 1, 3)),
            place=nn.Parameter(torch.zeros(1, 2, 3)), scale=nn.Parameter(torch.ones(3)),
            up=nn.Linear(3, 4), down=nn.Linear(4, 3), norm=nn.LayerNorm(3), last=nn.Linear(3, 2),
        ),
        "patch",
        {
            ("patch", "out", 0): [0, 1, 2],
            ("token", "parameter", 2): [0, 1, 2],
            ("place", "parameter", 2): [0, 1, 2],
            ("scale", "parameter", 0): [0, 1, 2],
            ("up", "in", 0): [0, 1, 2],
            ("down", "out", 0): [0, 1, 2],
            ("norm", "out", 0): [0, 1, 2],
            ("last", "in", 0): [0, 1, 2],
        },
    ),
    "attention, queries": (
        Net(
            attention, query=nn.Linear(2, 3), key=nn.Linear(2, 3), value=nn.Linear(2, 4),
            last=nn.Linear(4, 2),
        ),
        "query",
        {("query", "out", 0): [0, 1, 2], ("key", "out", 0): [0, 1, 2]},
    ),
    "attention, values": (
        Net(
            attention, query=nn.Linear(2, 3), key=nn.Linear(2, 3), value=nn.Linear(2, 4),
            last=nn.Linear(4, 2),
        ),
        "value",
        {("value", "out", 0): [0, 1, 2, 3], ("last", "in", 0): [0, 1, 2, 3]},
    ),
    "whole groups": (
        Net(
            in_order, first=conv(2, 6), grouped=conv(6, 9, 3, groups=3), norm=nn.BatchNorm2d(9),
            last=conv(9, 2),
        ),
        "first",
        {
            ("first", "out", 0): [0, 0, 1, 1, 2, 2],
            ("grouped", "in", 0): [0, 0, 1, 1, 2, 2],
            ("grouped", "out", 0): [0, 0, 0, 1, 1, 1, 2, 2, 2],
            ("norm", "out", 0): [0, 0, 0, 1, 1, 1, 2, 2, 2],
            ("last", "in", 0): [0, 0, 0, 1, 1, 1, 2, 2, 2],
        },
    ),
    "whole groups, transposed": (
        Net(
            in_order, first=conv(2, 6), grouped=nn.ConvTranspose2d(6, 9, 2, groups=3),
            last=conv(9, 2),
        ),
        "first",
        {
            ("first", "out", 0): [0, 0, 1, 1, 2, 2],
            ("grouped", "in", 0): [0, 0, 1, 1, 2, 2],
            ("grouped", "out", 0): [0, 0, 0, 1, 1, 1, 2, 2, 2],
            ("last", "in", 0): [0, 0, 0, 1, 1, 1, 2, 2, 2],
        },
    ),
    "depthwise, two outputs each": (
        Net(in_order, first=conv(2, 3), wide=conv(3, 6, 3, groups=3), last=conv(6, 2)),
        "first",
        {
            ("first", "out", 0): [0, 1, 2],
            ("wide", "in", 0): [0, 1, 2],
            ("wide", "out", 0): [0, 0, 1, 1, 2, 2],
            ("last", "in", 0): [0, 0, 1, 1, 2, 2],
        },
    ),
    "whole normalisation groups": (
        Net(in_order, first=conv(2, 6), norm=nn.GroupNorm(3, 6), last=conv(6, 2)),
        "first",
        {
            ("first", "out", 0): [0, 0, 1, 1, 2, 2],
            ("norm", "out", 0): [0, 0, 1, 1, 2, 2],
            ("last", "in", 0): [0, 0, 1, 1, 2, 2],
        },
    ),
    "instance norm": (
        Net(in_order, first=conv(2, 3), norm=nn.InstanceNorm2d(3, affine=True), last=conv(3, 2)),
        "first",
        {
            ("first", "out", 0): [0, 1, 2],
            ("norm", "out", 0): [0, 1, 2],
            ("last", "in", 0): [0, 1, 2],
        },
    ),
    "instance norm without values": (
        Net(in_order, first=conv(2, 3), norm=nn.InstanceNorm2d(3), last=conv(3, 2)),
        "first",
        {
            ("first", "out", 0): [0, 1, 2],
            ("norm", "out", 0): [0, 1, 2],
            ("last", "in", 0): [0, 1, 2],
        },
    ),
    "RMS norm": (
        Net(in_order, first=nn.Linear(5, 3), norm=nn.RMSNorm(3), last=nn.Linear(3, 2)),
        "first",
        {
            ("first", "out", 0): [0, 1, 2],
            ("norm", "out", 0): [0, 1, 2],
            ("last", "in", 0): [0, 1, 2],
        },
    ),
    "flattened": (
        Net(flat, first=conv(2, 3), norm=nn.BatchNorm2d(3), last=nn.Linear(75, 2)),
        "first",
        {
            ("first", "out", 0): [0, 1, 2],
            ("norm", "out", 0): [0, 1, 2],
            ("last", "in", 0): [unit for unit in range(3) for _ in range(25)],
        },
    ),
    "pixel shuffle": (
        Net(upscaled, first=conv(2, 8), last=conv(2, 2)),
        "first",
        {("first", "out", 0): [0] * 4 + [1] * 4, ("last", "in", 0): [0, 1]},
    ),
    "stacked": (
        Net(stacked, left=conv(2, 3), right=conv(2, 3), last=conv(3, 2)),
        "left",
        {
            ("left", "out", 0): [0, 1, 2],
            ("right", "out", 0): [0, 1, 2],
            ("last", "in", 0): [0, 1, 2],
        },
    ),
    "repeated": (
        Net(repeated, first=conv(2, 3), last=conv(6, 2)),
        "first",
        {("first", "out", 0): [0, 1, 2], ("last", "in", 0): [0, 1, 2, 0, 1, 2]},
    ),
    "reversed": (
        Net(reversed_, first=conv(2, 3), last=conv(3, 2)),
        "first",
        {("first", "out", 0): [0, 1, 2], ("last", "in", 0): [2, 1, 0]},
    ),
    "a bare matrix": (
        Scaled(),
        "first",
        {
            ("first", "out", 0): [0, 1, 2, 3, 4, 5],
            ("table", "parameter", 0): [0, 1, 2, 3, 4, 5],
        },
    ),
}  # fmt: skip


def coupled(group: Group) -> Coupled:
    return {(one.layer, one.side, one.dim): one.units.tolist() for one in group.members}


def sample() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, 2, 5, 5, generator=generator, dtype=torch.double),)


@pytest.mark.parametrize("toy", TOYS)
def test_toys_are_coupled_as_worked_out_by_hand(toy: str) -> None:
    model, layer, truth = TOYS[toy]
    group = Coupling(alive(model), sample()).of(LayerId(layer))
    assert coupled(group) == truth
    assert (group.layer, group.members[0].layer, group.members[0].side) == (layer, layer, "out")
    assert group.units == 1 + max(truth[layer, "out", 0])


@pytest.mark.parametrize("toy", TOYS)
def test_toys_obey_the_law(toy: str) -> None:
    accused = Accused(alive(TOYS[toy][0]), sample())
    for group in accused.coupling.groups():
        off = accused.judged(slices_of([group])).off
        assert off <= 1e-9, group.layer


def test_channels_beside_padding_stay() -> None:
    """Zeros stand beside the first three; what follows takes them for channels of their own."""
    model = Net(padded, first=conv(2, 3), more=conv(3, 5), last=conv(5, 2))
    accused = Accused(alive(model), sample())
    group = accused.coupling.of(LayerId("more"))
    assert coupled(group)["more", "out", 0] == [0, 1, 2, -1, -1]
    assert coupled(group)["last", "in", 0] == [0, 1, 2, -1, -1]
    assert not accused.judged(slices_of([group])).faults()


def test_shared_weights_are_coupled_and_stay_shared() -> None:
    first, shared = conv(2, 4), conv(4, 4)
    model = Net(in_order, first=first, one=shared, act=nn.ReLU(), two=conv(4, 4), last=conv(4, 2))
    model.two.weight = shared.weight
    accused = Accused(alive(model), sample())
    group = accused.coupling.of(LayerId("one"))
    assert set(coupled(group)) == {
        ("first", "out", 0), ("one", "in", 0), ("one", "out", 0), ("two", "in", 0),
        ("two", "out", 0), ("last", "in", 0),
    }  # fmt: skip
    assert accused.judged(slices_of([group])).off <= 1e-9


# What stays, and why


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "softmax": (lambda x: x.softmax(1), "the model's own forward takes the softmax over them"),
    "mean": (lambda x: x - x.mean(1, keepdim=True), "takes the mean over them"),
    "norm": (lambda x: F.normalize(x, dim=1), "takes the norm over them"),
    "one of them": (lambda x: x * x[:, :1], "takes parts of them of different sizes"),
    "by number": (lambda x: x * x[:, 2].unsqueeze(1), "picks one of them by its number"),
    "gathered": (lambda x: x[:, [3, 2, 1, 0, 4]], "picks some of them by their numbers"),
    "cumulative": (lambda x: x.cumsum(1), "takes the cumsum over them"),
    "shifted": (lambda x: x.roll(1, 1), "shifts them by a number of places"),
    "constant": (
        lambda x: x + torch.arange(5.0, dtype=x.dtype).view(5, 1, 1),
        "combines them with what cannot shrink",
    ),
    "unequal parts": (
        lambda x: torch.cat(x.split([2, 3], 1)[::-1], 1),
        "takes parts of them of different sizes",
    ),
    "unknown": (lambda x: torch.linalg.inv(x), "uses the operator linalg_inv_ex"),
    "multiplied": (
        lambda x: torch.einsum("nchw,cd->ndhw", x, torch.eye(5, dtype=x.dtype)),
        "multiplies them with what cannot shrink",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_stays_is_refused_with_the_reason(case: str) -> None:
    middle, reason = REFUSED[case]
    model = Net(lambda net, x: net.last(middle(net.first(x))), first=conv(2, 5), last=conv(5, 2))
    coupling = Coupling(alive(model), sample())
    assert reason in coupling.why_not(LayerId("first"))
    with pytest.raises(EditRefused, match="output channels of first cannot be removed") as caught:
        coupling.of(LayerId("first"))
    assert reason in str(caught.value)
    assert caught.value.remedy
    assert coupling.groups() == ()


def test_the_output_stays_and_so_does_what_is_not_used() -> None:
    model = Net(lambda net, x: net.first(x), first=conv(2, 5), unused=conv(5, 2), one=conv(2, 1))
    coupling = Coupling(model.eval(), (torch.zeros(1, 2, 5, 5),))
    assert coupling.why_not(LayerId("first")) == "they are the model's output"
    assert coupling.why_not(LayerId("unused")) == "the layer is not used in a forward pass"
    assert coupling.why_not(LayerId("one")) == "there is only one"
    assert coupling.why_not(LayerId("nowhere")) == "the layer has none that could be followed"


def test_a_forward_that_fails_is_refused_with_its_cause() -> None:
    model = Net(in_order, first=conv(2, 4), last=conv(3, 2)).eval()
    with pytest.raises(EditRefused, match=r"cannot be found: .*channels") as caught:
        Coupling(model, (torch.zeros(1, 2, 5, 5),))
    assert "Prune single weights" in caught.value.remedy


def test_models_without_weights_and_those_that_look_at_data_are_followed() -> None:
    def looking(net: nn.Module, x: Tensor) -> Tensor:
        return net.last(net.first(x).relu() if bool((x > 0).any()) else net.first(x))

    layers = {"first": conv(2, 4), "last": conv(4, 2)}
    seen = Coupling(Net(looking, **layers).eval(), (torch.zeros(1, 2, 5, 5),))
    with torch.device("meta"):
        bare = Net(in_order, first=conv(2, 4), last=conv(4, 2)).eval()
    meta = Coupling(bare, (torch.zeros(1, 2, 5, 5),))
    assert coupled(seen.of(LayerId("first"))) == coupled(meta.of(LayerId("first")))
    with torch.device("meta"):
        blind = Net(looking, first=conv(2, 4), last=conv(4, 2)).eval()
    with pytest.raises(EditRefused, match="cannot be found"):
        Coupling(blind, (torch.zeros(1, 2, 5, 5),))


def divided(net: nn.Module, x: Tensor) -> Tensor:
    x = net.first(x)
    return net.last(x.view(len(x), 2, 3, 5, 5).transpose(1, 2).flatten(1, 2))


def kept(net: nn.Module, x: Tensor) -> Tensor:
    return net.last(net.first(x).reshape(len(x), 6, 25).transpose(1, 2))


def merged(net: nn.Module, x: Tensor) -> Tensor:
    return net.last(net.first(x).view(-1, 150))


@pytest.mark.parametrize(
    ("forward", "last"),
    [(divided, conv(6, 2)), (kept, nn.Linear(6, 2)), (merged, nn.Linear(150, 2))],
)
def test_sizes_that_the_code_holds_as_numbers_are_found_out(
    forward: Callable[..., Tensor], last: nn.Module
) -> None:
    """By its operators alone each looks as if it followed its input's sizes."""
    coupling = Coupling(
        Net(forward, first=conv(2, 6), last=last).eval(), (torch.zeros(1, 2, 5, 5),)
    )
    reason = coupling.why_not(LayerId("first"))
    assert reason.startswith("with fewer of them the model no longer runs. The model stopped")
    assert coupling.groups() == ()


def test_attention_keeps_its_width_and_says_so() -> None:
    coupling = Coupling(get_model("vit_b_32", image_size=64).eval(), (torch.zeros(1, 3, 64, 64),))
    block = "encoder.layers.encoder_layer_0"
    assert coupling.why_not(LayerId(f"{block}.mlp.0")) == ""
    assert coupling.why_not(LayerId("conv_proj")) == (
        f"the attention layer {block}.self_attention takes its own width from theirs"
    )


# At random


widths = st.integers(2, 4)


class Random(nn.Module):
    """Parts drawn one after the other, each of which couples channels in its own way."""

    def __init__(self, parts: list[tuple[str, int]]) -> None:
        super().__init__()
        self.kinds = [kind for kind, _ in parts]
        self.parts = nn.ModuleList()
        width = 2
        for kind, size in parts:
            width = self._add(kind, width, 2 * size)
        self.last = nn.Linear(width * 9, 3)

    def _add(self, kind: str, width: int, wanted: int) -> int:
        if kind == "residual":
            self.parts.append(nn.Sequential(conv(width, wanted, 3), nn.ReLU(), conv(wanted, width)))
            return width
        if kind == "concat":
            self.parts.append(conv(width, wanted))
            return width + wanted
        if kind == "grouped":
            norm = nn.BatchNorm2d(wanted)
            self.parts.append(nn.Sequential(conv(width, wanted), conv(wanted, wanted, 3, 2), norm))
            return wanted
        if kind in ("chunk", "shuffle"):
            self.parts.append(conv(width, 2 * wanted))
            return wanted if kind == "chunk" else 2 * wanted
        self.parts.append(nn.Sequential(conv(width, wanted), nn.GroupNorm(2, wanted)))
        return wanted

    def forward(self, x: Tensor) -> Tensor:
        for kind, part in zip(self.kinds, self.parts, strict=True):
            y = part(x)
            if kind == "residual":
                x = x + y
            elif kind == "concat":
                x = torch.cat([x, y], 1)
            elif kind == "chunk":
                value, gate = y.chunk(2, 1)
                x = value * gate.sigmoid()
            elif kind == "shuffle":
                x = y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
            else:
                x = y
            x = F.leaky_relu(x)
        return self.last(x.flatten(1))


kinds = st.sampled_from(["residual", "concat", "grouped", "chunk", "shuffle", "normed"])


@given(st.lists(st.tuples(kinds, widths), min_size=1, max_size=5))
@settings(max_examples=25)
def test_random_networks_obey_the_law(parts: list[tuple[str, int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.randn(2, 2, 3, 3, generator=generator, dtype=torch.double),)
    accused = Accused(alive(Random(parts)), inputs)
    groups = accused.coupling.groups()
    for group in groups:
        verdict = accused.judged(slices_of([group]))
        assert verdict.off <= 1e-9, group.layer
        assert verdict.predicted == verdict.counted


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
        )
    )
)
def test_atoms_are_joined_as_the_plain_algorithm_joins_them(
    drawn: tuple[int, list[tuple[int, int]]],
) -> None:
    count, edges = drawn
    atoms = Atoms()
    numbers = atoms.fresh(count)
    sets = [{one} for one in range(count)]
    for one, other in edges:
        atoms.join(numbers[[one]], numbers[[other]], "")
        both = sets[one] | sets[other]
        for each in both:
            sets[each] = both
    unit = atoms.settled().unit
    assert [[unit[a] == unit[b] for b in range(count)] for a in range(count)] == [
        [b in sets[a] for b in range(count)] for a in range(count)
    ]


# Beside torch-pruning


def by_torch_pruning(model: nn.Module, inputs: Tensor) -> dict[str, set[tuple[str, str, int, int]]]:
    """Layer -> (layer, side, index, index in the layer's output) of all that goes with it."""
    names = {module: name for name, module in model.named_modules()}
    found = {}
    with warnings.catch_warnings(action="ignore"):
        graph = torch_pruning.DependencyGraph().build_dependency(model, inputs, verbose=False)
        for module, name in names.items():
            if not isinstance(module, nn.Conv2d | nn.Linear) or module not in graph.module2node:
                continue
            pruner = graph.get_pruner_of_module(module)
            width = pruner.get_out_channels(module)
            group = graph.get_pruning_group(module, pruner.prune_out_channels, list(range(width)))
            found[name] = {
                (names[target], side_of(item), index, root)
                for item in group
                if (target := item.dep.target.module) in names
                for index, root in zip(item.idxs, item.root_idxs, strict=True)
            }
    return found


def side_of(item: object) -> str:
    module = item.dep.target.module  # type: ignore[attr-defined]
    is_in = item.dep.handler.__func__.__name__ == "prune_in_channels"  # type: ignore[attr-defined]
    has_sides = isinstance(module, nn.Linear) or getattr(module, "groups", 0) == 1
    return "in" if is_in and has_sides else "out"


def by_secateur(coupling: Coupling, layer: str) -> set[tuple[str, str, int, int]]:
    group = coupling.of(LayerId(layer))
    roots = group.members[0].units.tolist()
    return {
        (one.layer, one.side, index, roots.index(unit))
        for one in group.members
        for index, unit in enumerate(one.units.tolist())
        if unit >= 0
    }


@pytest.mark.parametrize(
    "name",
    [
        "resnet18", "mobilenet_v2", "squeezenet1_1", "alexnet",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("densenet121", "googlenet", "mnasnet0_5", "vgg11_bn", "efficientnet_b0")
        ),
    ],
)  # fmt: skip
def test_torch_pruning_finds_the_same(name: str) -> None:
    settings = {"init_weights": False} if name == "googlenet" else {}
    model = get_model(name, **settings).eval()
    inputs = torch.zeros(1, 3, 64, 64)
    theirs = by_torch_pruning(model, inputs)
    coupling = Coupling(model, (inputs,))
    asked = [layer for layer in theirs if not coupling.why_not(LayerId(layer))]
    assert len(asked) == len(theirs) - 1  # the output
    for layer in asked:
        assert by_secateur(coupling, layer) == theirs[layer], layer


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16_bn", "resnet152", "densenet201", "swin_t"])
def test_a_plan_for_every_layer_takes_less_than_a_second(name: str) -> None:
    model = get_model(name).eval()
    inputs = (torch.zeros(1, 3, 224, 224),)
    trace(model, inputs)  # as opening it does
    start = time.process_time()
    groups = Coupling(model, inputs).groups()
    assert time.process_time() - start < 1
    assert len(groups) > 10
