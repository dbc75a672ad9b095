"""AdaRound: up or down, learned on some rows, better on others."""

import pytest
import torch

from engine.edits import Quantize
from engine.layers import LayerId
from engine.quantization import adaround as module
from engine.quantization.adaround import AdaRound
from engine.quantization.grids import WeightPlan, weight_plan
from engine.quantization.rows import Rows
from tests.engine.test_gptq import correlated, gptq, missed, nearest, rows_for

LAYERS = (LayerId("0"),)


@pytest.fixture(autouse=True)
def _fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for so small a layer."""
    monkeypatch.setattr(module, "STEPS", 300)


def plan_of(bits: int, **asked: object) -> WeightPlan:
    torch.manual_seed(0)
    edit = Quantize(LAYERS, weight_bits=bits, weight_observer="mse", **asked)  # type: ignore[arg-type]
    return weight_plan(edit, torch.randn(16, 24), None, None)


def learned(plan: WeightPlan, rows: Rows) -> AdaRound:
    made = AdaRound(plan, rows)
    while not made.done:
        made.advance()
    return made


def halves(plan: WeightPlan, groups: int = 1) -> tuple[Rows, Rows]:
    """Rows to learn from and rows to judge by, alike."""
    inputs = torch.stack([correlated(2000, 24, seed) for seed in range(groups)])
    return rows_for(plan, inputs[:, ::2]), rows_for(plan, inputs[:, 1::2])


@pytest.mark.parametrize("bits", [3, 4])
def test_held_out_rows_are_met_better_than_by_the_nearest(bits: int) -> None:
    plan = plan_of(bits)
    rows, others = halves(plan)
    made = learned(plan, rows)
    ratio = missed(plan, made.integers(), others) / missed(plan, nearest(plan), others)
    assert ratio < 0.4
    assert made.loss == pytest.approx(ratio, abs=0.2)


@pytest.mark.parametrize("granularity", ["tensor", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_grid(granularity: str, symmetric: bool) -> None:
    plan = plan_of(3, granularity=granularity, group_size=8, weight_symmetric=symmetric)
    rows, others = halves(plan, groups=2)
    found = learned(plan, rows).integers()
    assert missed(plan, found, others) < 0.5 * missed(plan, nearest(plan), others)
    assert found.dtype is torch.int8
    assert plan.form.range[0] <= int(found.min()) <= int(found.max()) <= plan.form.range[1]


def test_each_weight_goes_up_or_down_and_no_further() -> None:
    plan = plan_of(4)
    found = learned(plan, halves(plan)[0]).integers()
    exact = (plan.weight / plan.scale[:, None]).clamp(*map(float, plan.form.range))
    assert ((found - exact).abs() < 1).all()
    assert not torch.equal(found, nearest(plan))


def test_before_the_first_step_it_is_the_nearest() -> None:
    plan = plan_of(4)
    assert torch.equal(AdaRound(plan, halves(plan)[0]).integers(), nearest(plan))


def test_sigmoids_settle_at_0_or_1() -> None:
    """So that rounding them in the end changes next to nothing."""
    plan = plan_of(3)
    rows = halves(plan)[0]
    made = learned(plan, rows)
    hard = missed(plan, made.integers(), rows) / missed(plan, nearest(plan), rows)
    soft = made.loss
    assert hard == pytest.approx(soft, abs=0.05)


def test_the_same_rows_and_seed_give_the_same_integers() -> None:
    plan = plan_of(3)
    rows = halves(plan)[0]
    torch.manual_seed(1)
    first = learned(plan, rows).integers()
    torch.manual_seed(2)  # nobody else's random numbers are drawn from
    assert torch.equal(learned(plan, rows).integers(), first)


def test_the_regulariser_is_what_the_paper_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient against autograd's of the sum of 1 - |2 h - 1| ** beta."""
    plan = plan_of(3)
    made = AdaRound(plan, halves(plan)[0])
    made.step = module.STEPS  # beta is 2 by then
    up = torch.rand(1, 16, 24, requires_grad=True)
    (1 - (2 * up - 1).abs().pow(2.0)).sum().backward()
    assert up.grad is not None
    torch.testing.assert_close(made._pull(up.detach()), module._LAMBDA / up.numel() * up.grad)


def test_targets_of_the_float_model_are_learned_not_those_of_rounded_inputs() -> None:
    """Asymmetric reconstruction: inputs that are too small call for larger weights."""
    plan = plan_of(3)
    inputs = correlated(1000, 24, 0)[None]
    targets = inputs @ plan.weight.T
    found = learned(plan, Rows(inputs * 0.9, targets)).integers()
    rows = Rows(inputs * 0.9, targets)
    other = learned(plan, rows_for(plan, inputs * 0.9)).integers()
    assert missed(plan, found, rows) < missed(plan, other, rows)


def test_gptq_and_adaround_are_both_far_better_than_the_nearest() -> None:
    plan = plan_of(3)
    rows, others = halves(plan)
    by_nearest = missed(plan, nearest(plan), others)
    for found in (gptq(plan, rows), learned(plan, rows).integers()):
        assert missed(plan, found, others) < 0.5 * by_nearest
