"""Which integers a tensor is rounded to: ranges to scales and zero points."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.edits import InputGrid, Quantize, WeightGrid
from engine.integer_layers import WeightFormat, integer_range

_LEAST_SCALE = 2.0**-126  # of float32 in full precision


@dataclass(frozen=True)
class WeightPlan:
    """A layer's float weight, batch norm folded in, and the grid that it is to be rounded to.

    Attributes:
        weight: float32, output channels first.
        bias: float32 (output channels,); None for none.
        scale, zero_point: of shape (), (output channels,) or (output channels, groups).
        input: the grid of the layer's input.
    """

    weight: Tensor
    bias: Tensor | None
    form: WeightFormat
    scale: Tensor
    zero_point: Tensor
    input: InputGrid | None

    @property
    def grid(self) -> WeightGrid:
        """The same as plain data."""
        return WeightGrid(
            self.form.bits,
            self.form.symmetric,
            self.form.group_size,
            tuple(self.scale.flatten().tolist()),
            tuple(self.zero_point.flatten().tolist()),
        )


def scales_of(grid: WeightGrid, channels: int) -> tuple[WeightFormat, Tensor, Tensor]:
    """The recorded grid as tensors for a weight of so many output channels."""
    form = WeightFormat(grid.bits, grid.symmetric, grid.group_size)
    scale = torch.tensor(grid.scales, dtype=torch.float32)
    zero_point = torch.tensor(grid.zero_points, dtype=torch.int64)
    if grid.group_size:
        return form, scale.reshape(channels, -1), zero_point.reshape(channels, -1)
    if len(scale) == 1 != channels:
        return form, scale.reshape(()), zero_point.reshape(())
    return form, scale, zero_point


def weight_plan(
    edit: Quantize, weight: Tensor, bias: Tensor | None, grid: InputGrid | None
) -> WeightPlan:
    """The grid of a weight by what the edit asks for."""
    rows = weight.reshape(len(weight), -1)
    size = 0
    if edit.granularity == "group":
        width = rows.shape[1]
        size = max(one for one in range(1, min(edit.group_size, width) + 1) if width % one == 0)
        rows = rows.reshape(-1, size)
    elif edit.granularity == "tensor":
        rows = rows.reshape(1, -1)
    form = WeightFormat(edit.weight_bits, edit.weight_symmetric, size)
    low, high = form.range
    least, most = rows.amin(1).clamp(max=0.0), rows.amax(1).clamp(min=0.0)
    if form.symmetric:
        scale = (torch.maximum(-least, most) / high).clamp(min=_LEAST_SCALE)
        zero_point = torch.zeros_like(scale, dtype=torch.int64)
    else:
        scale = ((most - least) / (high - low)).clamp(min=_LEAST_SCALE)
        zero_point = (low - (least / scale).round()).clamp(low, high).to(torch.int64)
    shape = {"tensor": (), "channel": (len(weight),), "group": (len(weight), -1)}[edit.granularity]
    return WeightPlan(weight, bias, form, scale.reshape(shape), zero_point.reshape(shape), grid)


def input_grid(least: float, most: float, bits: int, symmetric: bool) -> InputGrid:
    """The static grid of that range, widened to hold zero."""
    low, high = integer_range(bits)
    least, most = min(least, 0.0), max(most, 0.0)
    if symmetric:
        return InputGrid(bits, max(max(-least, most) / high, _LEAST_SCALE), 0, True)  # type: ignore[arg-type]
    scale = max((most - least) / (high - low), _LEAST_SCALE)
    zero_point = min(max(low - round(least / scale), low), high)
    return InputGrid(bits, scale, zero_point)  # type: ignore[arg-type]
