"""Operators that only move values, and those that make them out of shapes.

Shapes are those of the sample input, so that nothing depends on data; but what a reshape leaves
as it is, it copies from its input, so that other batches and pruned channels pass.
"""

from math import prod

import torch
import torch.nn.functional as F
from onnx2torch.utils.common import OperationConverterResult
from torch import Tensor, nn

from engine.sources.onnx_files.converters.call import Call, Unconvertible, converts, tensor_of


@converts("Constant")
def _constant(call: Call) -> OperationConverterResult:
    for name, dtype in (
        ("value_float", torch.float32), ("value_floats", torch.float32),
        ("value_int", torch.int64), ("value_ints", torch.int64),
    ):  # fmt: skip
        if name in call.node.attributes:
            return call.answer(torch.tensor(call.attribute(name), dtype=dtype))
    if "value" in call.node.attributes:
        return call.answer(tensor_of(call.attribute("value").proto))
    raise Unconvertible("of text or sparse values")


@converts("Shape")
def _shape(call: Call) -> OperationConverterResult:
    chosen = call.shape()[call.attribute("start", 0) : call.attribute("end", None)]
    return call.answer(torch.tensor(chosen, dtype=torch.int64))


@converts("Size")
def _size(call: Call) -> OperationConverterResult:
    return call.answer(torch.tensor(prod(call.shape()), dtype=torch.int64))


@converts("ConstantOfShape")
def _filled(call: Call) -> OperationConverterResult:
    given = call.attribute("value")
    value = torch.zeros(1) if given is None else tensor_of(given.proto)
    return call.apply(_full, shape=call.integers(0, "shape"), value=value.reshape(()))


def _full(shape: list[int], value: Tensor) -> Tensor:
    return value.expand(shape).clone()


@converts("EyeLike")
def _eye_like(call: Call) -> OperationConverterResult:
    from engine.sources.onnx_files.converters.arithmetic import torch_dtype

    code = call.attribute("dtype")
    dtype = call.dtype() if code is None else torch_dtype(code)
    return call.apply(_eye, shape=call.shape(), offset=call.attribute("k", 0), dtype=dtype)


def _eye(shape: tuple[int, int], offset: int, dtype: torch.dtype) -> Tensor:
    # Ones where the column is that far right of the row.
    rows, columns = torch.arange(shape[0]).unsqueeze(1), torch.arange(shape[1])
    return (columns - rows == offset).to(dtype)


@converts("Range")
def _range(call: Call) -> OperationConverterResult:
    start, limit, step = (call.constant(index, "bounds").item() for index in range(3))
    return call.apply(_counted, start=start, limit=limit, step=step, dtype=call.dtype())


def _counted(start: float, limit: float, step: float, dtype: torch.dtype) -> Tensor:
    return torch.arange(start, limit, step, dtype=dtype)


@converts("Reshape")
def _reshape(call: Call) -> OperationConverterResult:
    wanted = call.integers(1, "shape")
    if wanted is None:
        raise Unconvertible("without a shape")
    old = call.shape()
    if not call.attribute("allowzero", 0):
        wanted = [old[at] if one == 0 else one for at, one in enumerate(wanted)]
    if -1 in wanted:
        rest = prod(one for one in wanted if one != -1)
        wanted[wanted.index(-1)] = prod(old) // rest if rest else 0
    if prod(old) != prod(wanted):
        raise Unconvertible(f"from {old} to {tuple(wanted)}")
    return _reshaped_to(call, old, tuple(wanted))


def _reshaped_to(
    call: Call, old: tuple[int, ...], new: tuple[int, ...]
) -> OperationConverterResult:
    first, last = _shared(old, new)
    merged, parts = old[first : len(old) - last], new[first : len(new) - last]
    if first and len(parts) == 1 and len(merged) > 1:
        return call.over(nn.Flatten(first, len(old) - last - 1), 0)
    sizes = list(parts)
    if sizes and 0 not in new:
        sizes[sizes.index(max(sizes))] = -1
    return call.apply(_reshape_between, 0, first=first, sizes=sizes, last=last)


def _shared(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, int]:
    """How many sides at the beginning and at the end are the same in both."""
    most = min(len(old), len(new))
    first = next((at for at in range(most) if old[at] != new[at]), most)
    rest = most - first
    last = next((at for at in range(rest) if old[-1 - at] != new[-1 - at]), rest)
    return first, last


def _reshape_between(x: Tensor, first: int, sizes: list[int], last: int) -> Tensor:
    return x.reshape(*x.shape[:first], *sizes, *x.shape[x.dim() - last :])


@converts("Flatten")
def _flatten(call: Call) -> OperationConverterResult:
    axis, rank = call.attribute("axis", 1), len(call.shape())
    if axis == 1 and rank > 1:
        return call.over(nn.Flatten(), 0)
    return call.apply(_flat_matrix, 0, axis=axis if axis >= 0 else axis + rank)


def _flat_matrix(x: Tensor, axis: int) -> Tensor:
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@converts("Transpose")
def _transpose(call: Call) -> OperationConverterResult:
    order = call.attribute("perm") or list(reversed(range(len(call.shape()))))
    return call.apply(_permuted, 0, order=order)


def _permuted(x: Tensor, order: list[int]) -> Tensor:
    return x.permute(order)


@converts("Squeeze")
def _squeeze(call: Call) -> OperationConverterResult:
    axes = call.integers(1, "axes")
    if axes is None:
        axes = [at for at, side in enumerate(call.shape()) if side == 1]
    return call.apply(_squeezed, 0, axes=tuple(axes))


def _squeezed(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.squeeze(axes)


@converts("Unsqueeze")
def _unsqueeze(call: Call) -> OperationConverterResult:
    axes = call.integers(1, "axes") or []
    rank = len(call.shape()) + len(axes)
    return call.apply(_unsqueezed, 0, axes=sorted(one % rank for one in axes))


def _unsqueezed(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


@converts("Concat")
def _concat(call: Call) -> OperationConverterResult:
    return call.apply(_concatenated, *call.arguments, axis=call.attribute("axis", 1))


def _concatenated(*inputs: Tensor, axis: int) -> Tensor:
    batch = max(one.shape[0] for one in inputs)
    if axis % inputs[0].dim() == 0 or batch == 1:
        return torch.cat(inputs, axis)
    # A constant such as a class token was exported for one sample; it serves all of them.
    whole = [
        one.expand(batch, *one.shape[1:]) if one.shape[0] == 1 and batch > 1 else one
        for one in inputs
    ]
    return torch.cat(whole, axis)


@converts("Split")
def _split(call: Call) -> OperationConverterResult:
    axis, parts = call.attribute("axis", 0), call.outputs
    sizes = call.integers(1, "split")
    if sizes is None:
        length = call.shape()[axis]
        each = -(-length // call.attribute("num_outputs", parts))
        if length % parts == 0:
            return call.apply(_chunks, 0, parts=parts, axis=axis)
        sizes = [min(each, length - at * each) for at in range(parts)]
    return call.apply(_pieces, 0, sizes=sizes, axis=axis)


def _chunks(x: Tensor, parts: int, axis: int) -> tuple[Tensor, ...]:
    # By the length there is now: channels before it may have been pruned.
    return x.chunk(parts, axis)


def _pieces(x: Tensor, sizes: list[int], axis: int) -> tuple[Tensor, ...]:
    return torch.split_with_sizes(x, sizes, axis)


@converts("Slice")
def _slice(call: Call) -> OperationConverterResult:
    starts, ends = call.integers(1, "starts") or [], call.integers(2, "ends") or []
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = call.integers(4, "steps") or [1] * len(starts)
    rank = len(call.shape())
    cuts = [
        (axis % rank, start, end, step)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    ]
    return call.apply(_cut, 0, cuts=cuts)


def _cut(x: Tensor, cuts: list[tuple[int, int, int, int]]) -> Tensor:
    for axis, start, end, step in cuts:
        length = x.shape[axis]
        # Python's rules, but an end that was clamped away below must not count from the end.
        first, stop, _ = slice(start, end if end >= -length else None, step).indices(length)
        if end < -length and step > 0:
            stop = 0
        if step < 0:
            count = len(range(first, stop, step))
            lowest = first + (count - 1) * step if count else 0
            x = x.narrow(axis, lowest, first - lowest + 1 if count else 0).flip(axis)
            first, stop = 0, x.shape[axis]
        if (first, abs(step)) != (0, 1) or stop < x.shape[axis]:
            x = x[(slice(None),) * axis + (slice(first, max(stop, first), abs(step)),)]
    return x


@converts("Expand")
def _expand(call: Call) -> OperationConverterResult:
    wanted = torch.broadcast_shapes(call.shape(), tuple(call.integers(1, "shape") or []))
    missing = len(wanted) - len(call.shape())
    sizes = [
        -1 if at >= missing and call.shape()[at - missing] == side else side
        for at, side in enumerate(wanted)
    ]
    return call.apply(_expanded, 0, sizes=sizes)


def _expanded(x: Tensor, sizes: list[int]) -> Tensor:
    return x.expand(sizes)


@converts("Tile")
def _tile(call: Call) -> OperationConverterResult:
    return call.apply(_tiled, 0, repeats=call.integers(1, "repeats"))


def _tiled(x: Tensor, repeats: list[int]) -> Tensor:
    return x.repeat(repeats)


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@converts("Pad")
def _pad(call: Call) -> OperationConverterResult:
    pads = call.integers(1, "pads") or []
    rank = len(call.shape())
    axes = call.integers(3, "axes")
    axes = list(range(rank)) if axes is None else [one % rank for one in axes]
    before, after = [0] * rank, [0] * rank
    for at, axis in enumerate(axes):
        before[axis], after[axis] = pads[at], pads[at + len(axes)]
    given = call.known(2)
    if given is None and call.has(2):
        raise Unconvertible("with a value that depends on the model's input")
    value = call.attribute("value", 0.0) if given is None else given.item()
    mode = call.attribute("mode", "constant")
    if mode == "constant":
        flat = [one for at in reversed(range(rank)) for one in (before[at], after[at])]
        while len(flat) > 2 and flat[-2:] == [0, 0]:
            flat = flat[:-2]
        return call.apply(_padded, 0, padding=flat, value=value)
    if mode not in _PAD_MODES:
        raise Unconvertible(f"in mode “{mode}”")
    return call.apply(_padded_from_itself, 0, before=before, after=after, mode=mode)


def _padded(x: Tensor, padding: list[int], value: float) -> Tensor:
    return F.pad(x, padding, value=value)


def _padded_from_itself(x: Tensor, before: list[int], after: list[int], mode: str) -> Tensor:
    rank = x.dim()
    outer = rank - min(2, rank - 1)
    inner = [one for at in reversed(range(outer, rank)) for one in (before[at], after[at])]
    if rank > 2 and not any(before[:outer] + after[:outer]) and min(inner) >= 0:
        return F.pad(x, inner, _PAD_MODES[mode]) if rank < 5 else _indexed(x, before, after, mode)
    return _indexed(x, before, after, mode)


def _indexed(x: Tensor, before: list[int], after: list[int], mode: str) -> Tensor:
    for axis, (first, last) in enumerate(zip(before, after, strict=True)):
        if not (first or last):
            continue
        length = x.shape[axis]
        at = torch.arange(-first, length + last, device=x.device)
        if mode == "edge":
            at = at.clamp(0, length - 1)
        elif mode == "wrap":
            at = at % length
        else:
            around = max(2 * (length - 1), 1)
            at = (length - 1) - ((at % around) - (length - 1)).abs()
        x = x.index_select(axis, at)
    return x


@converts("DepthToSpace")
def _depth_to_space(call: Call) -> OperationConverterResult:
    size = call.attribute("blocksize")
    if call.attribute("mode", "DCR") == "CRD":
        return call.over(nn.PixelShuffle(size), 0)
    return call.apply(_columns_from_depth, 0, size=size)


def _columns_from_depth(x: Tensor, size: int) -> Tensor:
    N, C, H, W = x.shape
    blocks = x.reshape(N, size, size, C // size**2, H, W).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(N, C // size**2, H * size, W * size)


@converts("SpaceToDepth")
def _space_to_depth(call: Call) -> OperationConverterResult:
    return call.apply(
        _depth_from_columns, 0,
        size=call.attribute("blocksize"), outer=call.attribute("mode", "DCR") == "DCR",
    )  # fmt: skip


def _depth_from_columns(x: Tensor, size: int, outer: bool) -> Tensor:
    N, C, H, W = x.shape
    blocks = x.reshape(N, C, H // size, size, W // size, size)
    order = (0, 3, 5, 1, 2, 4) if outer else (0, 1, 3, 5, 2, 4)
    return blocks.permute(order).reshape(N, C * size**2, H // size, W // size)


@converts("Trilu")
def _trilu(call: Call) -> OperationConverterResult:
    diagonal = int(call.constant(1, "diagonals")) if call.has(1) else 0
    keep = torch.triu if call.attribute("upper", 1) else torch.tril
    return call.apply(keep, 0, diagonal=diagonal)


@converts("Col2Im")
def _col2im(call: Call) -> OperationConverterResult:
    image, block = call.integers(1, "shape") or [], call.integers(2, "shape") or []
    pads = call.attribute("pads") or [0] * 4
    if len(image) != 2 or pads[:2] != pads[2:]:
        raise Unconvertible("in other than two evenly padded dimensions")
    stride, dilation = call.attribute("strides") or (1, 1), call.attribute("dilations") or (1, 1)
    fold = nn.Fold(tuple(image), tuple(block), tuple(dilation), tuple(pads[:2]), tuple(stride))
    return call.over(fold, 0)
