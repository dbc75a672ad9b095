"""What the operators of quantized layers are in ONNX; torch's own table has the rest.

Rounding is QuantizeLinear, what integers stand for is DequantizeLinear, both of opset 21, which
has integers of 4 and 16 bits and scales by blocks.
"""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset21

import engine.integer_layers  # noqa: F401  (registers the operators)

OPSET = 21

op: Any = opset21  # its types leave out what is given here, such as casts to a type by number

_ops = torch.ops.quantized_decomposed


def stored_in(low: int, high: int) -> ir.DataType:
    """The narrowest of ONNX's integers that hold this range and that its runtimes read."""
    for bits, kind in ((4, ir.DataType.INT4), (8, ir.DataType.INT8)):
        if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1):
            return kind
    return ir.DataType.INT16


def _constant(value: Any, kind: ir.DataType) -> Any:
    return op.Constant(value=ir.tensor(value, dtype=kind))


def _per_tensor_rounded(x: Any, scale: float, zero: int, low: int, high: int, dtype: int) -> Any:
    return op.QuantizeLinear(
        x, _constant(scale, ir.DataType.FLOAT), _constant(zero, stored_in(low, high))
    )


def _per_tensor_values(
    x: Any, scale: float, zero: int, low: int, high: int, dtype: int, out_dtype: int = -1
) -> Any:
    return op.DequantizeLinear(
        x, _constant(scale, ir.DataType.FLOAT), _constant(zero, stored_in(low, high))
    )


def _weight(x: Any, scale: Any, zero: Any, low: int, high: int, **how: int) -> Any:
    kind = stored_in(low, high)
    return op.DequantizeLinear(op.Cast(x, to=kind), scale, op.Cast(zero, to=kind), **how)


def _whole_weight(
    x: Any, scale: Any, zero: Any, low: int, high: int, dtype: int, out_dtype: int = -1
) -> Any:
    return _weight(x, scale, zero, low, high)


def _weight_by_channel(
    x: Any, scale: Any, zero: Any, axis: int, low: int, high: int, dtype: int, out_dtype: int = -1
) -> Any:
    return _weight(x, scale, zero, low, high, axis=axis)


def _weight_by_group(
    x: Any,
    scale: Any,
    zero: Any,
    low: int,
    high: int,
    dtype: int,
    group_size: int,
    out_dtype: int = -1,
) -> Any:
    if stored_in(low, high) == ir.DataType.INT4:
        return _weight(x, scale, zero, low, high, axis=1, block_size=group_size)
    # WORKAROUND: ONNX Runtime 1.32 takes blocks of 8 bits for columns, and fails or multiplies by
    # wrong scales. As rows of their own it leaves them in float.
    every = _constant([-1], ir.DataType.INT64)
    rows = op.Reshape(x, _constant([-1, group_size], ir.DataType.INT64))
    scales, zeros = op.Reshape(scale, every), op.Reshape(zero, every)
    return op.Reshape(_weight(rows, scales, zeros, low, high, axis=0), op.Shape(x))


def _rows_rounded(x: Any, scale: Any, zero: Any, low: int, high: int, dtype: int) -> Any:
    """Rows on grids of their own, which QuantizeLinear has for constant grids only."""
    one = _constant(1.0, ir.DataType.FLOAT)
    steps = op.Add(op.Mul(x, op.Div(one, scale)), op.Cast(zero, to=ir.DataType.FLOAT))
    ends = [_constant(float(end), ir.DataType.FLOAT) for end in (low, high)]
    return op.Cast(op.Clip(op.Round(steps), *ends), to=stored_in(low, high))


def _rows_values(
    x: Any, scale: Any, zero: Any, low: int, high: int, dtype: int, out_dtype: int = -1
) -> Any:
    steps = op.Sub(op.Cast(x, to=ir.DataType.FLOAT), op.Cast(zero, to=ir.DataType.FLOAT))
    return op.Mul(steps, scale)


def _converted(x: Any, dtype: int) -> Any:
    return op.Cast(x, to=dtype)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    _ops.quantize_per_tensor.default: _per_tensor_rounded,
    _ops.dequantize_per_tensor.default: _per_tensor_values,
    _ops.dequantize_per_tensor.tensor: _whole_weight,
    _ops.dequantize_per_channel.default: _weight_by_channel,
    _ops.dequantize_per_channel_group.default: _weight_by_group,
    _ops.quantize_per_token.default: _rows_rounded,
    _ops.dequantize_per_token.default: _rows_values,
    _ops.convert_element_type.no_fuse: _converted,
}
"""Operator of torch -> function that writes it in ONNX."""
