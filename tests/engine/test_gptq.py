"""GPTQ: each column's error made up for, as far as it can be, on any grid."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.edits import Quantize
from engine.integer_layers import float_weight, round_weight
from engine.layers import LayerId
from engine.quantization import gptq as module
from engine.quantization.gptq import DAMPING
from engine.quantization.grids import WeightPlan, weight_plan
from engine.quantization.rows import Rows, by_group

LAYERS = (LayerId("0"),)


def correlated(count: int, columns: int, seed: int) -> Tensor:
    """Rows of inputs with a few directions that hold most of them."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator)
    scale = torch.logspace(0, -2, columns)
    return torch.randn(count, columns, generator=generator) * scale @ mixing


def rows_for(plan: WeightPlan, inputs: Tensor) -> Rows:
    """As many groups as the inputs have; targets are those of the float weight."""
    return Rows(inputs, inputs @ by_group(plan.weight, len(inputs)).mT)


def missed(plan: WeightPlan, integers: Tensor, rows: Rows) -> float:
    values = by_group(
        float_weight(integers, plan.form, plan.scale, plan.zero_point), len(rows.inputs)
    )
    return float((rows.inputs @ values.mT - rows.targets).square().mean())


def nearest(plan: WeightPlan) -> Tensor:
    return round_weight(plan.weight, plan.form, plan.scale, plan.zero_point)


def gptq(plan: WeightPlan, rows: Rows) -> Tensor:
    """The integers, without a pause."""
    work = module.gptq(plan, rows)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def test_the_second_of_two_columns_is_the_best_that_the_first_leaves() -> None:
    """By trying every integer of the second column, on the damped Hessian."""
    weight = torch.rand(32, 2) * 2 - 1
    edit = Quantize(LAYERS, weight_bits=3)
    plan = weight_plan(edit, weight, None, None)
    inputs = torch.tensor([[2.0, 1.0], [1.5, 1.1], [-1.0, -0.2], [0.5, 0.6]])
    hessian = inputs.T @ inputs / 4
    assert hessian[0, 0] > hessian[1, 1]  # so that column 0 goes first
    hessian += DAMPING * hessian.diagonal().mean() * torch.eye(2)
    found = gptq(plan, rows_for(plan, inputs[None]))
    for row, scale, integers in zip(weight, plan.scale, found.tolist(), strict=True):
        first = int((row[0] / scale).round().clamp(-3, 3))
        assert integers[0] == first

        def error(
            second: int, row: Tensor = row, scale: Tensor = scale, first: int = first
        ) -> float:
            off = torch.tensor([first, second]) * scale - row
            return float(off @ hessian @ off)

        assert integers[1] == min(range(-3, 4), key=error)
    assert not torch.equal(found, nearest(plan))  # or this would tell nothing


GRIDS = tuple(itertools.product(("tensor", "channel", "group"), (True, False)))


@pytest.mark.parametrize(("granularity", "symmetric"), GRIDS)
@pytest.mark.parametrize("groups", [1, 4])
def test_correlated_inputs_are_met_better_than_by_the_nearest(
    granularity: str, symmetric: bool, groups: int
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 24)
    edit = Quantize(
        LAYERS, weight_bits=3, granularity=granularity, group_size=8, weight_symmetric=symmetric
    )  # type: ignore[arg-type]
    plan = weight_plan(edit, weight, None, None)
    inputs = torch.stack([correlated(200, 24, seed) for seed in range(groups)])
    rows = rows_for(plan, inputs)
    found = gptq(plan, rows)
    assert found.dtype is torch.int8
    assert found.shape == weight.shape
    assert plan.form.range[0] <= int(found.min()) <= int(found.max()) <= plan.form.range[1]
    assert missed(plan, found, rows) < 0.6 * missed(plan, nearest(plan), rows)


@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(1, 12))
@settings(max_examples=25)
def test_never_clearly_worse_than_the_nearest(seed: int, bits: int, columns: int) -> None:
    """Greedy, so that it may lose on single draws; on average over outputs it does not."""
    torch.manual_seed(seed)
    plan = weight_plan(Quantize(LAYERS, weight_bits=bits), torch.randn(64, columns), None, None)
    rows = rows_for(plan, correlated(64, columns, seed)[None])
    assert missed(plan, gptq(plan, rows), rows) <= 1.1 * missed(plan, nearest(plan), rows)


def test_without_correlation_it_is_the_nearest() -> None:
    weight = torch.randn(6, 4)
    plan = weight_plan(Quantize(LAYERS, weight_bits=4), weight, None, None)
    rows = rows_for(plan, torch.eye(4)[None])
    assert torch.equal(gptq(plan, rows), nearest(plan))


def test_errors_of_the_layers_before_are_made_up_for() -> None:
    """Inputs that came out half as large as in float: the weights are doubled before rounding."""
    torch.manual_seed(0)
    weight = torch.rand(4, 6) / 3
    weight[:, 0] = 1.0  # so that the others are not at the end of the range
    plan = weight_plan(Quantize(LAYERS, weight_bits=8), weight, None, None)
    inputs = torch.randn(1, 400, 6)
    inputs[:, :, 0] = 0
    rows = Rows(inputs / 2, inputs @ plan.weight.T)
    assert missed(plan, gptq(plan, rows), rows) < 0.1 * missed(plan, nearest(plan), rows)


def test_columns_that_read_nothing_are_left_to_the_nearest() -> None:
    plan = weight_plan(Quantize(LAYERS, weight_bits=4), torch.randn(3, 5), None, None)
    inputs = correlated(50, 5, 1)[None].clone()
    inputs[:, :, 2] = 0
    found = gptq(plan, rows_for(plan, inputs))
    assert torch.equal(found[:, 2], nearest(plan)[:, 2])
    dead = gptq(plan, rows_for(plan, torch.zeros(1, 50, 5)))
    assert torch.equal(dead, nearest(plan))


def test_wide_layers_are_rounded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = weight_plan(Quantize(LAYERS, weight_bits=3), torch.randn(8, 40), None, None)
    rows = rows_for(plan, correlated(300, 40, 0)[None])
    whole = missed(plan, gptq(plan, rows), rows)
    monkeypatch.setattr(module, "MOST_COLUMNS", 16)
    pieces = missed(plan, gptq(plan, rows), rows)
    assert whole < pieces < missed(plan, nearest(plan), rows)


def test_blocks_of_columns_give_what_single_columns_give(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = weight_plan(Quantize(LAYERS, weight_bits=3), torch.randn(8, 40), None, None)
    rows = rows_for(plan, correlated(300, 40, 0)[None])
    found = []
    for block in (128, 7, 1):
        monkeypatch.setattr(module, "_BLOCK", block)
        found.append(gptq(plan, rows))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
