"""Additions and products of a layer's own code: found, rounded, and nobody else's touched."""

import copy
import io
import operator
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.editing import Subject, carried_out, look_at
from engine.edits import (
    AppliedEdit,
    InputGrid,
    LayersQuantized,
    OperatorsRounded,
    PruneHeads,
    Quantize,
    RoundedOperator,
)
from engine.errors import EditRefused, RecipeMismatch
from engine.integer_layers import is_quantized, round_input
from engine.job import Job
from engine.layers import LayerId
from engine.prefixes.absent import Form
from engine.prefixes.running import Batch, Prefixes
from engine.pruned_layers import explicit_attention, is_explicit
from engine.quantization.calibration import calibration
from engine.quantization.operators import explicit_subject
from engine.rounded_operators import (
    RoundedOperators,
    bake_operators,
    plain_class,
    round_operators,
    watch_operators,
    without_rounded_operators,
)
from engine.sharing import share, share_for_running
from tests.engine.small_networks import (
    ATTENTION,
    SHAPES,
    Make,
    assert_round_trips,
    decided,
    edited,
    living,
    maxvit,
    mobilenet_v2,
    off,
    output,
    resnet18,
    swin,
    swin_v2,
    timm_vit,
    vit,
)
from tests.engine.test_heads import CALLS, Attending, attention

OTHERS = (mobilenet_v2, swin, swin_v2, maxvit, timm_vit)


def slowly(make: Make) -> Any:
    return pytest.param(make, marks=pytest.mark.slow)


ONE, TWO = InputGrid(8, 0.125), InputGrid(8, 0.5, 3)


class Own(nn.Module):
    """Two values of a sample, and what its code makes of them."""

    def __init__(self, code: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        return self.code(x.sin() * 3, x.cos() * 2)


def in_place(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


ADDITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda x, y: x + y,
    "+=": in_place,
    "torch.add": torch.add,
    "named": lambda x, y: torch.add(input=x, other=y),
    "add_": lambda x, y: x.add_(y),
    "iadd": operator.iadd,
    "sum": lambda x, y: sum([x, y]),  # type: ignore[dict-item, return-value]
    "operator of a program": lambda x, y: torch.ops.aten.add.Tensor(x, y),
    "behind a view": lambda x, y: (x[:, None] + y[:, None])[:, 0],
}
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "@": lambda x, y: x @ y.mT,
    "matmul": lambda x, y: torch.matmul(x, y.transpose(-1, -2)),
    "method": lambda x, y: x.matmul(y.mT),
    "bmm": lambda x, y: torch.bmm(x, y.mT),
    "named": lambda x, y: torch.bmm(input=x, mat2=y.mT),
    "baddbmm": lambda x, y: torch.baddbmm(torch.zeros(()), x, y.mT),
    "einsum": lambda x, y: torch.einsum("bij,bkj->bik", x, y),
    "einsum of a list": lambda x, y: torch.einsum("bij,bkj->bik", [x, y]),
    "operator of a program": lambda x, y: torch.ops.aten.bmm.default(x, y.mT),
}
X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def seen(model: nn.Module, x: Tensor = X) -> Subject:
    return look_at(model.eval(), (x,))


def rounding(model: nn.Module, *operators: RoundedOperator) -> nn.Module:
    made = share(model).eval()
    round_operators(made, operators)
    return made


def one(name: Any, *grids: InputGrid | None) -> RoundedOperator:
    return RoundedOperator(name, grids)


# By hand


@pytest.mark.parametrize("code", ADDITIONS)
def test_additions_round_both_operands(code: str) -> None:
    model = Own(ADDITIONS[code])
    (own,) = seen(model).trace.own_operators[LayerId("")] or ()
    assert (own.name, own.takes_activations) == ("add", True)
    wanted = round_input(X.sin() * 3, ONE) + round_input(X.cos() * 2, TWO)
    assert torch.equal(rounding(model, one("add", ONE, TWO))(X), wanted)
    half = X.sin() * 3 + round_input(X.cos() * 2, TWO)
    assert torch.equal(rounding(model, one("add", None, TWO))(X), half)


@pytest.mark.parametrize("code", PRODUCTS)
def test_products_round_both_operands(code: str) -> None:
    model = Own(PRODUCTS[code])
    (own,) = seen(model).trace.own_operators[LayerId("")] or ()
    assert (own.name, own.takes_activations) == ("matmul", True)
    wanted = round_input(X.sin() * 3, ONE) @ round_input(X.cos() * 2, TWO).mT
    assert torch.allclose(rounding(model, one("matmul", ONE, TWO))(X), wanted, atol=1e-6)


def causal(rows: int, columns: int) -> Tensor:
    return torch.ones(rows, columns, dtype=torch.bool).tril()


FUSED: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "plain": ({}, lambda scores: scores / 2),
    "scaled": ({"scale": 0.3}, lambda scores: scores * 0.3),
    "causal": ({"is_causal": True}, lambda s: (s / 2).masked_fill(~causal(5, 5), -torch.inf)),
    "hidden": (
        {"attn_mask": causal(5, 5)}, lambda s: (s / 2).masked_fill(~causal(5, 5), -torch.inf),
    ),
    "added": ({"attn_mask": torch.eye(5)}, lambda scores: scores / 2 + torch.eye(5)),
}  # fmt: skip


@pytest.mark.parametrize("case", FUSED)
def test_fused_attention_is_two_products(case: str) -> None:
    settings, scored = FUSED[case]
    model = Own(lambda x, y: F.scaled_dot_product_attention(x, y, y, **settings))
    own = seen(model).trace.own_operators[LayerId("")] or ()
    assert [found.name for found in own] == ["matmul", "matmul"]
    weights = InputGrid(8, 1 / 255, -128)
    x, y = X.sin() * 3, X.cos() * 2
    rounded = round_input(x, ONE), round_input(y, TWO), round_input(y, ONE)
    chances = scored(rounded[0] @ rounded[1].mT).softmax(-1)
    wanted = round_input(chances, weights) @ rounded[2]
    made = rounding(model, one("matmul", ONE, TWO), one("matmul", weights, ONE))
    assert torch.allclose(made(X), wanted, atol=1e-6)
    # Watched it gives what it gave, and shows all four.
    shown: dict[int, Tensor] = {}
    watched = share(model)
    watch_operators(watched, ("matmul", "matmul"), frozenset(range(4)), shown.__setitem__)
    assert torch.allclose(watched(X), model(X), atol=1e-6)
    assert torch.allclose(shown[2], scored(x @ y.mT).softmax(-1), atol=1e-6)
    assert torch.equal(shown[3], y)


def test_heads_may_share_keys_and_nobody_may_look() -> None:
    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)

    class Shared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.tensor([True, True, False])[:, None].expand(3, 3)
            return F.scaled_dot_product_attention(
                query * x, key * x, key, attn_mask=mask, enable_gqa=True
            )

    model = Shared()
    fine = InputGrid(16, 2**-12)
    made = rounding(model, one("matmul", fine, fine), one("matmul", fine, fine))
    got, wanted = made(torch.ones(())), model(torch.ones(()))
    assert torch.allclose(got, wanted, atol=2e-3)
    assert not got[..., 2, :].any()


@given(st.floats(2**-6, 4, width=32), st.integers(-100, 100), st.sampled_from([8, 16]))
def test_a_rounded_sum_is_off_by_half_a_step_of_each(scale: float, zero: int, bits: Any) -> None:
    grid = InputGrid(bits, scale, zero)
    low, high = (side * scale for side in (-(2 ** (bits - 1)) - zero, 2 ** (bits - 1) - 1 - zero))
    model = Own(lambda x, y: x.clamp(low, high) + y.clamp(low, high))
    error = rounding(model, one("add", grid, grid))(X) - model(X)
    assert error.abs().max() <= scale * 1.0001 + 1e-5


# Whose operators


class Residual(nn.Module):
    """A block whose branch may hold another."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def test_what_layers_below_do_is_theirs() -> None:
    model = Residual(Residual(nn.Tanh()))
    trace = seen(model).trace
    assert [len(own or ()) for own in trace.own_operators.values()].count(1) == 2
    outer, inner = share(model), share(model)
    round_operators(outer, (one("add", ONE, ONE),))
    round_operators(inner.branch, (one("add", ONE, ONE),))  # type: ignore[arg-type]
    within = X + X.tanh()
    rounded = round_input(X, ONE) + round_input(X.tanh(), ONE)
    assert torch.equal(outer(X), round_input(X, ONE) + round_input(within, ONE))
    assert torch.equal(inner(X), X + rounded)
    round_operators(outer.branch, (one("add", ONE, ONE),))  # type: ignore[arg-type]
    assert torch.equal(outer(X), round_input(X, ONE) + round_input(rounded, ONE))


def test_a_child_that_is_not_called_as_a_layer_is_the_parents_own_code() -> None:
    class Direct(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return self.branch.forward(x) + x

    subject = seen(Direct(Residual(nn.Tanh())))
    assert len(subject.trace.own_operators[LayerId("")] or ()) == 2
    made = rounding(subject.model, one("add", ONE, ONE), one("add", None, None))
    assert torch.equal(made(X), round_input(X, ONE) + round_input(X.tanh(), ONE) + X)


def test_weights_and_other_shapes_are_counted_and_stay() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.ones(1, 5, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.place  # a weight
            x = x + x.mean(1, keepdim=True)  # another shape
            return x + x.tanh() + 1  # and a number, which is none

    own = seen(Mixed(), X[:1]).trace.own_operators[LayerId("")] or ()
    assert [one.takes_activations for one in own] == [False, False, True]
    (decision,) = quantize(seen(Mixed()), "").operators
    assert [one.inputs == (None, None) for one in decision.operators] == [True, True, False]


def quantize(subject: Subject, *layers: str, **wishes: Any) -> LayersQuantized:
    applied = decided(Quantize(tuple(map(LayerId, layers)), **wishes), subject)
    assert isinstance(applied.decision, LayersQuantized)
    return applied.decision


def test_code_that_goes_other_ways_is_never_rounded_wrongly() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.tanh() if len(x) == 2 else x @ x.mT

    model = rounding(Branching(), one("add", ONE, ONE))
    model(X)
    for x in (X[:1], torch.zeros(0, 5, 4)):
        with pytest.raises(Exception, match="otherwise than when its operators were quantized"):
            model(x)

    class Growing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(len(x)):
                x = x + x.tanh()
            return x

    model = rounding(Growing(), one("add", ONE, ONE), one("add", ONE, ONE))
    model(X)
    for x in (X[:1], torch.cat([X, X])):
        with pytest.raises(Exception, match="what its code calls depends on its input"):
            model(x)


def test_a_layer_that_does_not_do_the_same_twice_stays_in_float() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Own(lambda x, y: x @ y.mT if x.shape[1] == 5 else x + y)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).mean() * self.inner(x[:, :3])

    subject = seen(Twice())
    inner = subject.tree[LayerId("inner")]
    assert "quantize" not in inner.methods
    assert inner.why_float == "it does not multiply the same whenever it runs"


def test_decisions_of_other_operators_are_refused() -> None:
    subject = seen(nn.Sequential(Residual(nn.Tanh())))
    layer = LayerId("0")
    edit = Quantize((layer,))
    for wrong in ((one("add", ONE, ONE),) * 2, (one("matmul", ONE, ONE),), ()):
        decision = LayersQuantized((), "", (OperatorsRounded(layer, wrong),))
        with pytest.raises(EditRefused, match="otherwise than when its operators"):
            carried_out(AppliedEdit(edit, decision), subject)
    for grids in ((ONE,), (ONE, InputGrid(8, 1.0, 200))):
        decision = LayersQuantized((), "", (OperatorsRounded(layer, (one("add", *grids),)),))
        with pytest.raises(RecipeMismatch, match="fit no operator"):
            carried_out(AppliedEdit(edit, decision), subject)
    again = edited(edit, subject)
    with pytest.raises(RecipeMismatch, match="quantized already"):
        carried_out(decided(edit, subject), again)


# Sums that are written into what they add to


class Named(nn.Module):
    """Reads the sum by another name than that of what it added to."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        other = x.view(-1)
        x.add_(x.tanh())
        return other


def test_a_sum_that_is_read_by_another_name_is_refused() -> None:
    subject = seen(nn.Sequential(Named(), Own(in_place)))
    with pytest.raises(EditRefused, match=r"^0 adds in place"):
        quantize(subject, "0", "1")
    assert quantize(subject, "1").operators


def test_a_sum_in_place_leaves_what_others_read() -> None:
    subject = living(resnet18, torch.float32)
    blocks = [layer.id for layer in subject.tree if layer.kind == "BasicBlock"]
    own = [subject.trace.own_operators[block] or () for block in blocks]
    assert all(len(one) == 1 and one[0].in_place for one in own)
    after = edited(Quantize(tuple(blocks), activation_bits=16), subject)
    assert off(output(after.model, subject), output(subject.model, subject)) < 1e-3


# The layer as such


def rounded_resnet(make: Make = resnet18) -> tuple[Subject, Subject]:
    subject = living(make, torch.float32)
    edit = Quantize(subject.tree.select([""], "quantize"))
    return subject, edited(edit, subject)


@pytest.mark.parametrize("make", [resnet18, vit, swin])
def test_copies_and_pickles_stay_what_they_are(make: Make) -> None:
    subject, after = rounded_resnet(make)
    wanted = output(after.model, subject)
    written = io.BytesIO()
    torch.save(after.model, written)
    written.seek(0)
    read = torch.load(written, weights_only=False)
    for other in (copy.deepcopy(after.model), share(after.model), read):
        kinds = [isinstance(one, RoundedOperators) for one in other.modules()]
        assert kinds == [isinstance(one, RoundedOperators) for one in after.model.modules()]
        assert sum(kinds) == {resnet18: 6, vit: 4, swin: 8}[make]
        assert torch.equal(output(other, subject), wanted)


def test_its_class_is_that_of_the_layer() -> None:
    subject, after = rounded_resnet()
    for layer in subject.tree:
        old, new = (one.model.get_submodule(layer.id) for one in (subject, after))
        if not is_quantized(new) and layer.kind == "BasicBlock":
            assert isinstance(new, RoundedOperators)
            assert isinstance(new, type(old))
            assert plain_class(new) is type(old)
        assert after.tree[layer.id].kind in (layer.kind, "Folded")
    assert (
        len({type(one) for one in after.model.modules() if isinstance(one, RoundedOperators)}) == 1
    )


@pytest.mark.parametrize("make", [resnet18, vit, swin])
@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_the_fast_form_has_the_same_bits(make: Make, activations: Any) -> None:
    subject = living(make, torch.float32)
    edit = Quantize(subject.tree.select([""], "quantize"), activations=activations)
    after = edited(edit, subject)
    plain, fast = (share_for_running(after.model, baked) for baked in (False, True))
    assert torch.equal(output(plain, subject), output(fast, subject))


def test_it_can_be_taken_back() -> None:
    subject, _ = rounded_resnet()
    blocks = [layer.id for layer in subject.tree if layer.kind == "BasicBlock"]
    after = edited(Quantize(tuple(blocks)), subject)
    bare = share(after.model)
    without_rounded_operators(bare)
    assert torch.equal(output(bare, subject), output(subject.model, subject))
    baked = share(after.model)
    bake_operators(baked)
    assert torch.equal(output(baked, subject), output(after.model, subject))


@pytest.mark.parametrize("make", [resnet18, vit, slowly(swin)])
def test_programs_compute_the_same_bits(make: Make) -> None:
    subject, after = rounded_resnet(make)
    program = torch.export.export(after.model, subject.inputs)
    assert torch.equal(output(program.module(), subject), output(after.model, subject))
    grids = [
        grid for layer in operators_of(after) for one in layer.operators for grid in one.inputs
    ]
    operators = len(grids) - grids.count(None)
    inputs = sum(is_quantized(one) for one in after.model.modules())
    rounds = [node for node in program.graph.nodes if "quantize_per_tensor" in str(node.target)]
    assert len(rounds) == 2 * (operators + inputs)


def operators_of(subject: Subject) -> list[RoundedOperators]:
    return [one for one in subject.model.modules() if isinstance(one, RoundedOperators)]


@pytest.mark.parametrize("make", [resnet18, vit])
def test_runs_that_start_midway_give_the_same_bits(make: Make) -> None:
    subject, after = rounded_resnet(make)
    blocks = [one.id for one in after.tree if one.kind in ("BasicBlock", "EncoderBlock")]
    later = share(after.model)
    round_operators(later.get_submodule(blocks[-1]), tuple(
        one("add", *[None if grid is None else InputGrid(8, 0.5) for grid in found.inputs])
        for found in after.model.get_submodule(blocks[-1]).operators
    ))  # fmt: skip
    prefixes = Prefixes()
    (x,) = subject.inputs
    for model in (after.model, later, after.model):
        with prefixes.running(model, x[:1], len(x)) as running:
            got = running(Batch(0, Form.of(x), lambda: x))
            assert not running.reason
            assert torch.equal(got, output(share_for_running(model), subject))


def test_threads_do_not_see_each_other() -> None:
    subject, after = rounded_resnet()
    models = [subject.model, after.model] * 2
    wanted = [output(one, subject) for one in models]
    right: list[bool] = []

    def work(model: nn.Module, expected: Tensor) -> None:
        right.append(all(torch.equal(output(model, subject), expected) for _ in range(5)))

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(models, wanted, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 4


@pytest.mark.parametrize("make", [resnet18, vit, *map(slowly, OTHERS)])
def test_recipes_and_checkpoints_give_the_same_bits(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = living(make, torch.float32)
    layers = subject.tree.select([""], "quantize")
    first = decided(Quantize(layers[::2]), subject)
    between = carried_out(first, subject)
    rest = between.tree.select([""], "quantize")
    second = decided(Quantize(rest), between)
    after = assert_round_trips(subject, [first, second], make, monkeypatch, tmp_path)
    assert not [one for one in after.tree if "quantize" in one.methods]
    counted, of = after.tree.quantized_count()
    assert counted == of >= len(layers)
    assert off(output(after.model, subject), output(subject.model, subject)) < 0.3


# Calibration


def test_every_operand_has_the_range_of_its_values() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x * 2 + x.tanh()
            return x @ x.mT

    subject = seen(Both())
    found = calibration(subject, 1, Job())
    total = X * 2 + X.tanh()
    for operand, values in enumerate((X * 2, X.tanh(), total, total.mT)):
        ranges = found.ranges(LayerId(""), operand)
        assert ranges is not None
        assert (ranges.least, ranges.most) == (float(values.min()), float(values.max()))
    assert found.ranges(LayerId(""), 4) is None


def test_grids_follow_the_ranges() -> None:
    subject = seen(Own(lambda x, y: x + y.abs()))
    for wishes, wanted in (
        ({"observer": "min-max"}, (-128, 127)),
        ({"observer": "min-max", "activation_bits": 16}, (-(2**15), 2**15 - 1)),
    ):
        ((operands,),) = [
            [one.inputs for one in layer.operators]
            for layer in quantize(subject, "", **wishes).operators
        ]
        x, y = (X.sin() * 3, (X.cos() * 2).abs())
        for grid, values in zip(operands, (x, y), strict=True):
            assert grid is not None
            assert grid.scale is not None
            low, high = ((side - grid.zero_point) * grid.scale for side in wanted)
            assert low <= float(values.min()) + grid.scale
            assert high == pytest.approx(float(values.max()), abs=grid.scale)


def test_with_activations_in_float_there_is_nothing_to_round() -> None:
    subject = seen(nn.Sequential(Residual(nn.Linear(4, 4))))
    with pytest.raises(EditRefused, match="nothing to round in the chosen layers"):
        quantize(subject, "0", activations="none")
    decision = quantize(subject, "0", "0.branch", activations="none")
    assert (len(decision.layers), decision.operators) == (1, ())
    dynamic = quantize(subject, "0", activations="dynamic").operators[0].operators[0]
    assert [grid is not None and grid.scale is None for grid in dynamic.inputs] == [True, True]


# Attention that reads the weights of its projections


@pytest.mark.parametrize("make", ATTENTION)
def test_explicit_attention_computes_the_same(make: Make) -> None:
    subject = living(make)
    after = explicit_subject(subject)
    assert off(output(after.model, subject), output(subject.model, subject)) < 1e-14
    assert (after is subject) == (make in (timm_vit, maxvit))
    assert explicit_subject(after) is after
    assert {one.kind for one in after.tree} >= {one.kind for one in subject.tree} - {
        "NonDynamicallyQuantizableLinear"
    }


@pytest.mark.parametrize("call", CALLS)
def test_torchs_own_is_called_as_before(call: str) -> None:
    how, settings = CALLS[call]
    subject = look_at(Attending(attention(3, **settings), how).eval(), (DOUBLE,))
    after = explicit_subject(subject)
    assert off(output(after.model, subject), output(subject.model, subject)) < 1e-14


DOUBLE = torch.randn(2, 5, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def test_an_attention_layer_brings_its_packed_projection() -> None:
    subject = living(vit, torch.float32)
    layer = LayerId(next(one.id for one in subject.tree if one.kind == "MultiheadAttention"))
    decision = quantize(subject, layer)
    assert [one.layer for one in decision.layers] == [f"{layer}.in_proj"]
    assert [(one.layer, len(one.operators)) for one in decision.operators] == [(layer, 2)]
    after = edited(Quantize((layer,)), subject)
    assert after.tree[LayerId(f"{layer}.in_proj")].weight_bits == 8
    assert after.tree[LayerId(f"{layer}.out_proj")].kind == "Linear"
    assert "quantize" in after.tree[LayerId(f"{layer}.out_proj")].methods
    assert off(output(after.model, subject), output(subject.model, subject)) < 0.05
    # The others stay as they are.
    assert sum(is_explicit(one) for one in after.model.modules()) == 1


@pytest.mark.parametrize(("make", "name"), [(vit, "out_proj"), (swin, "qkv"), (swin_v2, "proj")])
def test_a_projection_alone_makes_its_attention_explicit(make: Make, name: str) -> None:
    subject = living(make, torch.float32)
    layer = next(one.id for one in subject.tree if one.name == name)
    after = edited(Quantize((layer,)), subject)
    around = subject.tree.parent_of(layer)
    assert is_explicit(after.model.get_submodule(around))
    assert after.tree[layer].is_quantized
    assert not after.tree[around].is_quantized
    assert "quantize" in after.tree[around].methods
    assert after.tree[around].kind == subject.tree[around].kind
    assert off(output(after.model, subject), output(subject.model, subject)) < 0.05


def test_heads_go_before_and_after() -> None:
    subject = living(vit, torch.float32)
    layers = tuple(one.id for one in subject.tree if one.kind == "MultiheadAttention")
    pruned = edited(PruneHeads(layers, 0.5), subject)
    products = edited(Quantize(layers), pruned)  # the packed projections are layers by now
    assert not products.tree[LayerId(f"{layers[0]}.in_proj")].is_quantized
    assert off(output(products.model, subject), output(pruned.model, subject)) < 0.05
    fewer = edited(PruneHeads(layers, 0.5), products)
    assert fewer.tree[layers[0]].note == "1 of 4 heads"
    assert fewer.tree[layers[0]].is_quantized
    everything = edited(Quantize(layers), subject)
    with pytest.raises(EditRefused, match="integer weights in in_proj: prune before rounding"):
        edited(PruneHeads(layers, 0.5), everything)


def test_the_fused_kernel_of_encoder_layers_stays_out() -> None:
    """It reads the weights of all layers in it, and would find integers."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 4, 16, batch_first=True), 2, enable_nested_tensor=False
    ).eval()
    subject = look_at(encoder, (torch.randn(2, 5, 8),))
    wanted = output(subject.model, subject)
    for chosen in (["layers.0.linear1"], ["layers.1"], [""]):
        after = edited(Quantize(subject.tree.select(chosen, "quantize")), subject)
        got = output(share_for_running(after.model), subject)
        assert 0 < off(got, wanted) < 0.1
    assert after.tree.quantized_count() == (12, 12)


def test_attention_across_two_sequences_keeps_its_packed_projection() -> None:
    how, settings = CALLS["another key"]
    subject = look_at(Attending(attention(3, **settings).float(), how).eval(), (DOUBLE.float(),))
    decision = quantize(subject, "layer")
    assert [len(decision.layers), len(decision.operators)] == [0, 1]
    after = edited(Quantize((LayerId("layer"), LayerId("layer.out_proj"))), subject)
    assert off(output(after.model, subject), output(subject.model, subject)) < 0.05


def test_a_module_of_ones_own_becomes_explicit() -> None:
    layer = attention(3)
    made = explicit_attention(layer)
    assert is_explicit(made)
    assert not is_explicit(layer)
    assert explicit_attention(made) is made
    assert made.in_proj.weight is layer.in_proj_weight  # type: ignore[union-attr]


# What stays in float


class Bare(nn.Module):
    """Multiplies by a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class Reader(nn.Module):
    """Reads its child's weights, as fused code does."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.child.weight)


class Idle(nn.Module):
    """Holds a layer that runs in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x) if self.training else x.clone()


class Subclass(nn.Linear):
    """May compute something else."""


class OwnAttention(nn.MultiheadAttention):
    """Likewise."""


def attending(layer: nn.Module) -> nn.Module:
    return Attending(layer, lambda one, x: one(x, x, x)[0])


def other_keys() -> nn.Module:
    layer = nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True)
    return Attending(layer, lambda one, x: one(x, x[..., :3], x[..., :3])[0])


FLOAT: list[tuple[Callable[[], nn.Module], dict[str, str]]] = [
    (Bare, {"0": "it multiplies in code of its own (aten.mm)"}),
    (
        lambda: nn.ConvTranspose1d(5, 4, 2),
        {"0": "a transposed convolution has no integer form here"},
    ),
    (
        lambda: Attending(nn.LSTM(4, 4), lambda one, x: one(x)[0]),
        {"0.layer": "a recurrent layer keeps its state in float between steps"},
    ),
    (lambda: Subclass(4, 4), {"0": "it may compute something else than Linear"}),
    (Reader, {"0": "it multiplies in code of its own (aten.mm)",
              "0.child": "the layer around it reads its weights itself"}),
    (Idle, {}),
    (nn.Tanh, {}),
    (lambda: nn.LayerNorm(4), {}),
    (other_keys, {
        "0.layer": "it has keys or values of its own beside those of its input",
        "0.layer.out_proj": "it has keys or values of its own beside those of its input",
    }),
    (lambda: attending(OwnAttention(4, 2, batch_first=True)), {
        "0.layer": "it multiplies in code of its own (aten.addmm, aten.bmm)",
        "0.layer.out_proj": "the layer around it reads its weights itself",
    }),
]  # fmt: skip


@pytest.mark.parametrize(("make", "reasons"), FLOAT)
def test_what_stays_in_float_says_why(
    make: Callable[[], nn.Module], reasons: dict[str, str]
) -> None:
    torch.manual_seed(0)
    subject = seen(nn.Sequential(make()))
    assert {one.id: one.why_float for one in subject.tree if one.why_float} == reasons
    assert not [one.id for one in subject.tree if "quantize" in one.methods]
    assert subject.tree.quantized_count() == (0, len(reasons))
    for name in reasons:
        with pytest.raises(EditRefused, match="cannot be quantized"):
            quantize(subject, name)


def test_a_forward_that_was_put_in_place_stays_in_float() -> None:
    block = Residual(nn.Tanh())
    block.forward = lambda x: x + x.tanh()  # type: ignore[method-assign]
    subject = seen(nn.Sequential(block))
    assert "forward that was put" in subject.tree[LayerId("0")].why_float


def test_all_below_a_container_is_chosen() -> None:
    subject = living(resnet18, torch.float32)
    layers = subject.tree.select(["layer1"], "quantize")
    assert {subject.tree[one].kind for one in layers} == {"BasicBlock", "Conv2d"}
    assert subject.tree.select([""], "quantize")[0] == "conv1"
    assert SHAPES[resnet18][0] == len(subject.inputs[0])
