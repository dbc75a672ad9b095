"""Operators that pick, place and order values by their index."""

import torch
from onnx2torch.utils.common import OperationConverterResult
from torch import Tensor, nn

from engine.sources.onnx_files.converters.call import Call, Unconvertible, converts

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@converts("Gather")
def _gather(call: Call) -> OperationConverterResult:
    table, axis = call.value(0), call.attribute("axis", 0)
    at = call.known(1)
    if table.learned and table.known is not None and at is None and axis == 0:
        weight = table.known
        if weight.dim() == 2 and weight.dtype.is_floating_point:
            return call.over(_embedding(weight), 1)
    if at is not None and at.dim() == 0:
        return call.apply(_selected, 0, axis=axis, at=int(at))
    return call.apply(_taken, 0, 1, axis=axis % len(call.shape()))


def _embedding(weight: Tensor) -> nn.Module:
    with torch.device("meta"):
        module = nn.Embedding(*weight.shape)
    module.weight = nn.Parameter(weight)
    return module


def _selected(x: Tensor, axis: int, at: int) -> Tensor:
    return x.select(axis, at)


def _taken(x: Tensor, at: Tensor, axis: int) -> Tensor:
    return x[(slice(None),) * axis + (at.to(torch.int64),)]


def _from_start(at: Tensor, length: int) -> Tensor:
    """Indices that may count from the end, as torch's scatter and gather want them."""
    at = at.to(torch.int64)
    return torch.where(at < 0, at + length, at)


@converts("GatherElements")
def _gather_elements(call: Call) -> OperationConverterResult:
    return call.apply(_gathered, 0, 1, axis=call.attribute("axis", 0))


def _gathered(x: Tensor, at: Tensor, axis: int) -> Tensor:
    return x.gather(axis, _from_start(at, x.shape[axis]))


@converts("ScatterElements", "Scatter")
def _scatter_elements(call: Call) -> OperationConverterResult:
    return call.apply(
        _scattered, 0, 1, 2,
        axis=call.attribute("axis", 0), how=call.attribute("reduction", "none"),
    )  # fmt: skip


def _scattered(x: Tensor, at: Tensor, values: Tensor, axis: int, how: str) -> Tensor:
    at = _from_start(at, x.shape[axis])
    if how == "none":
        return x.scatter(axis, at, values)
    return x.scatter_reduce(axis, at, values, _REDUCTIONS[how])


@converts("GatherND")
def _gather_nd(call: Call) -> OperationConverterResult:
    return call.apply(_gathered_points, 0, 1, batched=call.attribute("batch_dims", 0))


def _gathered_points(x: Tensor, at: Tensor, batched: int) -> Tensor:
    at = at.to(torch.int64)
    lead = x.shape[:batched]
    wheres = [
        torch.arange(side, device=x.device).reshape(-1, *[1] * (at.dim() - 2 - axis))
        for axis, side in enumerate(lead)
    ]
    return x[(*wheres, *at.unbind(-1))]


@converts("ScatterND")
def _scatter_nd(call: Call) -> OperationConverterResult:
    return call.apply(_scattered_points, 0, 1, 2, how=call.attribute("reduction", "none"))


def _scattered_points(x: Tensor, at: Tensor, values: Tensor, how: str) -> Tensor:
    depth = at.shape[-1]
    flat, row = x.reshape(-1, *x.shape[depth:]), torch.zeros_like(at[..., 0], dtype=torch.int64)
    for axis in range(depth):
        row = row * x.shape[axis] + _from_start(at[..., axis], x.shape[axis])
    row, values = row.reshape(-1), values.reshape(-1, *x.shape[depth:])
    if how == "none":
        return flat.index_copy(0, row, values).reshape(x.shape)
    wide = row.reshape(-1, *[1] * (values.dim() - 1)).expand_as(values)
    return flat.scatter_reduce(0, wide, values, _REDUCTIONS[how]).reshape(x.shape)


@converts("TopK")
def _top_k(call: Call) -> OperationConverterResult:
    count = int(call.constant(1, "counts")) if call.has(1) else call.attribute("k")
    return call.apply(
        _top, 0, count=count, axis=call.attribute("axis", -1),
        largest=bool(call.attribute("largest", 1)),
    )  # fmt: skip


def _top(x: Tensor, count: int, axis: int, largest: bool) -> tuple[Tensor, Tensor]:
    # Of equal values the one with the lower index comes first, which topk does not promise.
    values, where = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), where.narrow(axis, 0, count)


@converts("OneHot")
def _one_hot(call: Call) -> OperationConverterResult:
    depth = int(call.constant(1, "depths").reshape(()))
    return call.apply(_hot, 0, 2, depth=depth, axis=call.attribute("axis", -1))


def _hot(at: Tensor, values: Tensor, depth: int, axis: int) -> Tensor:
    place = axis if axis >= 0 else axis + at.dim() + 1
    at = at.to(torch.int64).unsqueeze(place)
    at = torch.where(at < 0, at + depth, at)
    classes = torch.arange(depth, device=at.device)
    classes = classes.reshape(-1, *[1] * (at.dim() - 1 - place))
    return torch.where(at == classes, values[1], values[0])


@converts("Compress")
def _compress(call: Call) -> OperationConverterResult:
    keep = call.constant(1, "choices").nonzero().reshape(-1)
    return call.apply(_compressed, 0, axis=call.attribute("axis"), keep=keep)


def _compressed(x: Tensor, axis: int | None, keep: Tensor) -> Tensor:
    return x.reshape(-1)[keep] if axis is None else x.index_select(axis, keep)


@converts("ReverseSequence")
def _reverse_sequence(call: Call) -> OperationConverterResult:
    time = call.attribute("time_axis", 0)
    return call.apply(_reversed, 0, 1, time=time)


def _reversed(x: Tensor, lengths: Tensor, time: int) -> Tensor:
    if time == 1:
        return _reversed(x.transpose(0, 1), lengths, 0).transpose(0, 1)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    at = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, at.reshape(*at.shape, *[1] * (x.dim() - 2)).expand_as(x))


@converts("Einsum")
def _einsum(call: Call) -> OperationConverterResult:
    equation = call.attribute("equation")
    if not call.arguments:
        raise Unconvertible("without inputs")
    return call.apply(_summed, *call.arguments, equation=equation)


def _summed(*inputs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *inputs)


@converts("NonZero")
def _non_zero(call: Call) -> OperationConverterResult:
    return call.apply(_positions, 0)


def _positions(x: Tensor) -> Tensor:
    return x.reshape(x.shape or (1,)).nonzero().T


@converts("NonMaxSuppression", "Unique")
def _of_unknown_size(call: Call) -> OperationConverterResult:
    raise Unconvertible("since the size of its result depends on the model's input")
