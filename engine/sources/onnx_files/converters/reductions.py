"""Operators that take sums, extremes and positions along axes."""

from collections.abc import Callable

import torch
from onnx2torch.utils.common import OperationConverterResult
from torch import Tensor

from engine.sources.onnx_files.converters.call import Call, converts


def _largest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.dtype is torch.bool:
        return _largest(x.to(torch.uint8), axes, keep).to(torch.bool)
    return torch.amax(x, axes, keep)


def _smallest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.dtype is torch.bool:
        return _smallest(x.to(torch.uint8), axes, keep).to(torch.bool)
    return torch.amin(x, axes, keep)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.dtype.is_floating_point:
        return torch.mean(x, axes, keep)
    return torch.mean(x.to(torch.float64), axes, keep).to(x.dtype)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((one % x.dim() for one in axes), reverse=True):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


def _of_absolutes(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _euclidean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    total = _sum(x * x, axes, keep)
    return torch.sqrt(total.to(torch.float64)).to(x.dtype) if _is_whole(x) else torch.sqrt(total)


def _is_whole(x: Tensor) -> bool:
    return not x.dtype.is_floating_point


def _of_squares(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


def _log_of_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.log(torch.sum(x, axes, keep)).to(x.dtype)


def _log_of_exponentials(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keep)


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMax": _largest, "ReduceMin": _smallest, "ReduceMean": _mean, "ReduceSum": _sum,
    "ReduceProd": _product, "ReduceL1": _of_absolutes, "ReduceL2": _euclidean,
    "ReduceSumSquare": _of_squares, "ReduceLogSum": _log_of_sum,
    "ReduceLogSumExp": _log_of_exponentials,
}  # fmt: skip


@converts(*_REDUCTIONS)
def _reduce(call: Call) -> OperationConverterResult:
    axes = call.integers(1, "axes")
    if not axes:
        # Without axes nothing is reduced, and what is done before and after to each element is.
        axes = [] if call.attribute("noop_with_empty_axes", 0) else list(range(len(call.shape())))
        if not axes:
            return call.apply(_elementwise, 0, kind=call.kind)
    return call.apply(
        _REDUCTIONS[call.kind], 0, axes=axes, keep=bool(call.attribute("keepdims", 1))
    )


def _elementwise(x: Tensor, kind: str) -> Tensor:
    return _REDUCTIONS[kind](x.unsqueeze(-1), [-1], False)


@converts("ArgMax", "ArgMin")
def _position(call: Call) -> OperationConverterResult:
    return call.apply(
        _position_of_extreme, 0,
        axis=call.attribute("axis", 0),
        keep=bool(call.attribute("keepdims", 1)),
        largest=call.kind == "ArgMax",
        last=bool(call.attribute("select_last_index", 0)),
    )  # fmt: skip


def _position_of_extreme(x: Tensor, axis: int, keep: bool, largest: bool, last: bool) -> Tensor:
    search = torch.argmax if largest else torch.argmin
    if not last:
        return search(x, axis, keep)
    return x.shape[axis] - 1 - search(x.flip(axis), axis, keep)


@converts("CumSum", "CumProd")
def _cumulated(call: Call) -> OperationConverterResult:
    return call.apply(
        _running_sum if call.kind == "CumSum" else _running_product, 0,
        axis=int(call.constant(1, "axes")),
        exclusive=bool(call.attribute("exclusive", 0)),
        reverse=bool(call.attribute("reverse", 0)),
    )  # fmt: skip


def _running_sum(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    if reverse:
        x = x.flip(axis)
    total = torch.cumsum(x, axis, dtype=x.dtype)
    if exclusive:
        total = total - x
    return total.flip(axis) if reverse else total


def _running_product(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    if reverse:
        x = x.flip(axis)
    if exclusive:
        ones = torch.ones_like(x.narrow(axis, 0, 1))
        x = torch.cat([ones, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    product = torch.cumprod(x, axis, dtype=x.dtype)
    return product.flip(axis) if reverse else product


@converts("LpNormalization")
def _normalised(call: Call) -> OperationConverterResult:
    return call.apply(
        _divided_by_norm, 0, axis=call.attribute("axis", -1), p=float(call.attribute("p", 2))
    )


def _divided_by_norm(x: Tensor, axis: int, p: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)
