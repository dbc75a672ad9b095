"""Rounding column by column, each column's error made up for in the columns after it.

GPTQ (Frantar et al., 2023), by the inverse of the Hessian H = 2 X X^T, where X is what the layer
reads once the layers before it are rounded. That differs from what it reads in float, so that the
weights to be rounded are first moved to where they put out nearest to the same (least squares):
in trials at 2 and 3 bits this won up to 6 points of accuracy, and never lost any that could be
told from chance.
"""

from collections.abc import Generator
from typing import TypeAlias

import torch
from torch import Tensor

from engine.integer_layers import WeightFormat
from engine.quantization.grids import WeightPlan
from engine.quantization.rows import Rows, by_group

DAMPING = 0.01  # of the mean of the Hessian's diagonal, added to it
PULL = 0.1  # likewise, of the weights towards what they were
MOST_COLUMNS = 4096
"""That make up for each other: wider layers are cut into pieces of at most as many, or the Hessian
would take more memory than the weights."""
_BLOCK = 128


Work: TypeAlias = Generator[None, None, Tensor]
"""Yields between pieces of work, where it may be left for good; returns integers."""


def gptq(plan: WeightPlan, rows: Rows) -> Work:
    """Find integers of the plan's weight, of its format's dtype and its shape.

    Columns go in the order of their share in the Hessian, the largest first.

    Args:
        rows: what the layer reads and is to put out.
    """
    groups, _, columns = rows.inputs.shape
    weight = by_group(plan.weight, groups)
    grid = (by_group(one, groups) for one in by_weight(plan))
    # Of wider layers the targets are those of all columns, which no piece alone can meet.
    targets = rows.targets if columns <= MOST_COLUMNS else None
    count = -(-columns // MOST_COLUMNS)
    pieces = (one.tensor_split(count, -1) for one in (weight, *grid, rows.inputs))
    found = []
    for part, scale, zero_point, inputs in zip(*pieces, strict=True):
        hessian = _mean_product(inputs, inputs)
        wanted = None if targets is None else _mean_product(targets, inputs)
        exact = part.double()
        moved = exact if wanted is None else _moved(exact, hessian, wanted)
        found.append((yield from _rounded(moved, scale, zero_point, hessian, plan.form)))
    return torch.cat(found, -1).to(plan.form.dtype).reshape(plan.weight.shape)


def _mean_product(left: Tensor, right: Tensor) -> Tensor:
    """Of two matrices' rows the mean outer product, float64 (groups, columns, columns)."""
    return (left.mT @ right).double() / left.shape[1]


def _moved(weight: Tensor, hessian: Tensor, wanted: Tensor) -> Tensor:
    """The weight with the least squared error of the output, drawn towards what it was.

    Args:
        wanted: mean product of targets and inputs.
    """
    pull = PULL * hessian.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    pull = pull.clamp(min=torch.finfo(torch.double).tiny)
    ridge = hessian + pull * torch.eye(hessian.shape[1], dtype=torch.double)
    solved: Tensor = torch.cholesky_solve((wanted + pull * weight).mT, torch.linalg.cholesky(ridge))
    return solved.mT


def by_weight(plan: WeightPlan) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each weight, float64 (output channels, columns)."""
    rows = plan.weight.flatten(1)
    given = plan.scale.double(), plan.zero_point.double()
    if plan.scale.dim() == 2:
        scale, zero_point = (one.repeat_interleave(plan.form.group_size, 1) for one in given)
        return scale, zero_point
    scale, zero_point = (one.reshape(-1, 1).expand(rows.shape) for one in given)
    return scale, zero_point


def _rounded(
    weight: Tensor, scale: Tensor, zero_point: Tensor, hessian: Tensor, form: WeightFormat
) -> Work:
    """Integers (groups, output channels of a group, columns), float64."""
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    factor = _factor(_reordered(hessian, order))
    of_columns = order[:, None, :].expand(weight.shape)
    left, scale, zero_point = (one.gather(2, of_columns) for one in (weight, scale, zero_point))
    integers = torch.empty_like(left)
    for start in range(0, left.shape[2], _BLOCK):
        yield
        block = slice(start, min(start + _BLOCK, left.shape[2]))
        errors = torch.zeros_like(left[:, :, block])
        for at in range(block.start, block.stop):
            found = (left[:, :, at] / scale[:, :, at]).round() + zero_point[:, :, at]
            integers[:, :, at] = found.clamp(*form.range)
            value = (integers[:, :, at] - zero_point[:, :, at]) * scale[:, :, at]
            error = (left[:, :, at] - value) / factor[:, at, at, None]
            left[:, :, at : block.stop] -= error[:, :, None] * factor[:, None, at, at : block.stop]
            errors[:, :, at - start] = error
        left[:, :, block.stop :] -= errors @ factor[:, block, block.stop :]
    return torch.empty_like(integers).scatter_(2, of_columns, integers)


def _reordered(hessian: Tensor, order: Tensor) -> Tensor:
    rows = hessian.gather(1, order[:, :, None].expand(hessian.shape))
    return rows.gather(2, order[:, None, :].expand(hessian.shape))


def _factor(hessian: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse."""
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    damping = DAMPING * diagonal.mean(1, keepdim=True)
    # A column that reads nothing but zeros is left to the nearest integer.
    damped = hessian + torch.diag_embed((damping + (diagonal == 0)).expand(diagonal.shape))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
