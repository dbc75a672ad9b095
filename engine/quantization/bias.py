"""The mean error of a rounded layer's output, from what its input is on average.

Bias correction (Nagel et al., 2019, section 4.2): E[W_q x] - E[W x] = (W_q - W) E[x], with E[x] by
input channel. Padding of convolutions is taken for average input as well.
"""

from torch import Tensor

from engine.integer_layers import float_weight
from engine.quantization.grids import WeightPlan


def expected_error(plan: WeightPlan, integers: Tensor, mean: Tensor) -> Tensor:
    """How far rounding moves each output on average, float64 (output channels,).

    Args:
        integers: the rounded weight.
        mean: of each input channel or feature, (input channels,).
    """
    moved = float_weight(integers, plan.form, plan.scale, plan.zero_point).double() - plan.weight
    by_input = moved.reshape(len(moved), plan.weight.shape[1], -1).sum(2)
    groups = len(mean) // by_input.shape[1]
    grouped = by_input.reshape(groups, -1, by_input.shape[1])
    return (grouped @ mean.double().reshape(groups, -1, 1)).flatten()
