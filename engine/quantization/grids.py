"""Which integers a tensor is rounded to: ranges to scales and zero points."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from engine.edits import InputGrid, Quantize, WeightGrid
from engine.integer_layers import WeightFormat, integer_range
from engine.job import Job
from engine.quantization.histograms import Histogram, chosen_range

_LEAST_SCALE, _MOST_SCALE = 2.0**-126, 2.0**127  # of float32 in full precision
_CHUNK = 1 << 22
"""Weights that are looked at together: memory is bounded, and a job can be cancelled between."""
_SHRUNK = torch.linspace(1.0, 0.1, 19, dtype=torch.float64)
_AROUND = torch.linspace(0.045, -0.045, 10, dtype=torch.float64)


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
    edit: Quantize,
    weight: Tensor,
    bias: Tensor | None,
    grid: InputGrid | None,
    job: Job | None = None,
) -> WeightPlan:
    """The grid of a weight by what the edit asks for."""
    size = _group(edit, weight[:1].numel())
    form = WeightFormat(edit.weight_bits, edit.weight_symmetric, size)
    if edit.granularity == "tensor":
        rows, shape = weight.reshape(1, -1), torch.Size()
    else:
        rows = weight.reshape(-1, size or weight[:1].numel())
        shape = torch.Size((len(weight), len(rows) // len(weight)) if size else (len(weight),))
    found = [_row_scales(edit, part, form) for part in _chunks(rows, job)]
    scale, zero_point = (torch.cat(one).reshape(shape) for one in zip(*found, strict=True))
    return WeightPlan(weight, bias, form, scale, zero_point, grid)


def _group(edit: Quantize, width: int) -> int:
    """How many weights of a row of that width share a scale; 0: all of them.

    Rows that nothing but 1 divides have one scale: a scale for each weight would be no saving.
    """
    if edit.granularity != "group":
        return 0
    sizes = range(2, min(edit.group_size, width) + 1)
    return max((one for one in sizes if width % one == 0), default=0)


def _chunks(rows: Tensor, job: Job | None) -> Iterator[Tensor]:
    for part in rows.split(max(1, _CHUNK // max(rows.shape[1], 1))):
        if job is not None:
            job.check()
        yield part


def _row_scales(edit: Quantize, rows: Tensor, form: WeightFormat) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each row."""
    if edit.weight_observer == "percentile":
        least, most = _percentile(rows, edit.percentile / 100, form.symmetric)
    else:
        least, most = rows.amin(1), rows.amax(1)
    if form.symmetric:
        least = torch.minimum(least, -most)
        most = -least
    sides = least.clamp(max=0.0), most.clamp(min=0.0)
    if edit.weight_observer == "mse":
        sides = _least_error(rows, *sides, form)
    return _grid(*sides, form)


def _grid(least: Tensor, most: Tensor, form: WeightFormat) -> tuple[Tensor, Tensor]:
    """Float32 scales and int64 zero points of ranges that hold zero."""
    low, high = form.range
    if form.symmetric:
        scale = (most / high).clamp(_LEAST_SCALE, _MOST_SCALE)
        return scale, torch.zeros_like(scale, dtype=torch.int64)
    scale = (most / (high - low) - least / (high - low)).clamp(_LEAST_SCALE, _MOST_SCALE)
    return scale, (low - (least / scale).round()).clamp(low, high).to(torch.int64)


def _percentile(rows: Tensor, kept: float, symmetric: bool) -> tuple[Tensor, Tensor]:
    """What so large a share of each row's weights, or a weight more, lies within."""
    width = rows.shape[1]
    stays = min(width, ceil(kept * width - 1e-9))
    if symmetric:
        reach = rows.abs().kthvalue(stays, 1).values
        return -reach, reach
    cut = (width - stays) // 2
    ordered = rows.sort(1).values
    return ordered[:, cut], ordered[:, width - 1 - cut]


def _least_error(
    rows: Tensor, least: Tensor, most: Tensor, form: WeightFormat
) -> tuple[Tensor, Tensor]:
    """The range of each row, within this one, whose rounding has the least squared error.

    Both sides are shrunk together first; those of an affine grid each alone after that.
    """
    both = _swept(rows, least, most, (True, True), form)
    if form.symmetric:
        return both
    for side in ((False, True), (True, False), (False, True)):
        both = _swept(rows, *both, side, form)
    return both


def _swept(
    rows: Tensor, least: Tensor, most: Tensor, shrunk: tuple[bool, bool], form: WeightFormat
) -> tuple[Tensor, Tensor]:
    """The range with one side or both shrunk by the factor of the least error, of each row."""
    best = torch.full_like(least, torch.inf)
    factor = torch.ones_like(least)

    def sides(tried: Tensor) -> tuple[Tensor, Tensor]:
        return least * tried if shrunk[0] else least, most * tried if shrunk[1] else most

    def attempt(tried: Tensor) -> None:
        nonlocal best, factor
        error = _error(rows, *_grid(*sides(tried), form), form)
        better = error < best
        best, factor = torch.where(better, error, best), torch.where(better, tried, factor)

    for one in _SHRUNK:
        attempt(torch.full_like(least, float(one)))
    centre = factor
    for one in _AROUND:
        attempt((centre + float(one)).clamp(max=1.0))
    return sides(factor)


def _error(rows: Tensor, scale: Tensor, zero_point: Tensor, form: WeightFormat) -> Tensor:
    """Squared error of rounding each row, summed."""
    scale, zero_point = scale[:, None], zero_point[:, None].to(rows.dtype)
    low, high = form.range
    steps = rows / scale
    rounded = steps.round().clamp_(min=low - zero_point, max=high - zero_point)
    return rounded.sub_(steps).mul_(scale).square_().sum(1)


def activation_grid(edit: Quantize, seen: Histogram | None) -> InputGrid | None:
    """The grid of an activation by what the edit asks for; None: it stays in float.

    Args:
        seen: its values on training samples; needed for a static grid alone. None: the grid's
            bits are right and its scale is 1.
    """
    if edit.activations == "none":
        return None
    if edit.activations == "dynamic":
        return InputGrid(edit.activation_bits, None, 0, edit.activation_symmetric)
    if seen is None:
        return InputGrid(edit.activation_bits, 1.0, 0, edit.activation_symmetric)
    bits, symmetric = edit.activation_bits, edit.activation_symmetric
    least, most = chosen_range(seen, edit.observer, bits, symmetric, edit.percentile)
    return input_grid(least, most, bits, symmetric)


def input_grid(least: float, most: float, bits: int, symmetric: bool) -> InputGrid:
    """The static grid of that range, widened to hold zero."""
    low, high = integer_range(bits)
    least, most = min(least, 0.0), max(most, 0.0)
    if symmetric:
        return InputGrid(bits, _single(max(-least, most) / high), 0, True)  # type: ignore[arg-type]
    scale = _single(most / (high - low) - least / (high - low))
    zero_point = min(max(low - round(least / scale), low), high)
    return InputGrid(bits, scale, zero_point)  # type: ignore[arg-type]


def _single(scale: float) -> float:
    """The nearest number that float32 holds: only such have one inverse in every kernel."""
    return float(torch.tensor(min(max(scale, _LEAST_SCALE), _MOST_SCALE), dtype=torch.float32))
