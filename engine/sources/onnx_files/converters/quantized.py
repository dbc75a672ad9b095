"""Operators of integer arithmetic, and those that round to integers and back.

Rounding of activations to eight bits becomes ``torch.ops.quantized_decomposed``, as everywhere
in Secateur, so that what is stored between layers counts as eight bits.
"""

from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from onnx2torch.utils.common import OperationConverterResult
from torch import Tensor, nn

import engine.integer_layers  # noqa: F401  # it registers quantized_decomposed
from engine.sources.onnx_files.converters.arithmetic import torch_dtype
from engine.sources.onnx_files.converters.call import Call, Unconvertible, converts
from engine.sources.onnx_files.converters.layers import Slide, convolution

_ops = torch.ops.quantized_decomposed


@converts("QuantizeLinear")
def _quantize(call: Call) -> OperationConverterResult:
    code = call.attribute("output_dtype", 0)
    if code in (TensorProto.INT4, TensorProto.UINT4):
        dtype, bits = (torch.int8 if code == TensorProto.INT4 else torch.uint8), 4
    elif call.has(2):
        dtype, bits = call.dtype(2), call.value(2).bits
    else:
        dtype = torch_dtype(code) if code else torch.uint8
        bits = dtype.itemsize * 8
    if dtype.is_floating_point:
        return call.apply(
            _scaled_down, *call.arguments, dtype=dtype, axis=_axis(call),
            block=call.attribute("block_size", 0), saturate=bool(call.attribute("saturate", 1)),
        )  # fmt: skip
    lowest, highest = _range(dtype, bits)
    grid = _grid(call)
    if grid is not None and bits == 8:
        return call.apply(
            _ops.quantize_per_tensor.default, 0, scale=grid[0], zero_point=grid[1],
            quant_min=lowest, quant_max=highest, dtype=dtype,
        )  # fmt: skip
    return call.apply(
        _rounded, *call.arguments, dtype=dtype, lowest=lowest, highest=highest, axis=_axis(call),
        block=call.attribute("block_size", 0),
    )  # fmt: skip


@converts("DequantizeLinear")
def _dequantize(call: Call) -> OperationConverterResult:
    code = call.attribute("output_dtype", 0)
    result = torch_dtype(code) if code else call.dtype(1)
    grid = _grid(call)
    if grid is not None and call.dtype() in (torch.int8, torch.uint8) and not code:
        lowest, highest = _range(call.dtype(), 8)
        return call.apply(
            _ops.dequantize_per_tensor.default, 0, scale=grid[0], zero_point=grid[1],
            quant_min=lowest, quant_max=highest, dtype=call.dtype(),
        )  # fmt: skip
    return call.apply(
        _scaled_up, *call.arguments, axis=_axis(call), block=call.attribute("block_size", 0),
        dtype=result,
    )  # fmt: skip


def _axis(call: Call) -> int:
    rank = len(call.shape())
    return int(call.attribute("axis", 1)) % rank if rank else 0


def _range(dtype: torch.dtype, bits: int) -> tuple[int, int]:
    if dtype.is_signed:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def _grid(call: Call) -> tuple[float, int] | None:
    """Scale and zero point, where they are known, float32, and one for the whole tensor."""
    scale, zero = call.known(1), call.known(2)
    if scale is None or scale.numel() != 1 or scale.dtype is not torch.float32:
        return None
    if zero is None:
        return None if call.has(2) else (scale.item(), 0)
    return scale.item(), int(zero.reshape(()).item())


def _along(tensor: Tensor, like: Tensor, axis: int, block: int) -> Tensor:
    """Scales or zero points, brought to where they apply."""
    if block:
        return tensor.repeat_interleave(block, axis).narrow(axis, 0, like.shape[axis])
    if tensor.numel() == 1 and tensor.dim() <= 1:
        return tensor.reshape(())
    if tensor.dim() == 1:
        return tensor.reshape([-1 if at == axis else 1 for at in range(like.dim())])
    return tensor


def _rounded(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    dtype: torch.dtype,
    lowest: int,
    highest: int,
    axis: int,
    block: int,
) -> Tensor:
    scaled = torch.round(x / _along(scale, x, axis, block).to(x.dtype))
    if zero is not None:
        scaled = scaled + _along(zero, x, axis, block).to(scaled.dtype)
    return scaled.clamp(lowest, highest).to(dtype)


def _scaled_down(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    dtype: torch.dtype,
    axis: int,
    block: int,
    saturate: bool,
) -> Tensor:
    scaled = x / _along(scale, x, axis, block)
    if zero is not None:
        scaled = scaled + _along(zero.to(x.dtype), x, axis, block)
    most = torch.finfo(dtype).max
    return (scaled.clamp(-most, most) if saturate else scaled).to(dtype)


def _scaled_up(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int,
    block: int,
    dtype: torch.dtype,
) -> Tensor:
    whole = x.to(torch.float32) if x.dtype.is_floating_point else x.to(torch.int32)
    if zero is not None:
        whole = whole - _along(zero.to(whole.dtype), x, axis, block)
    return (whole.to(scale.dtype) * _along(scale, x, axis, block)).to(dtype)


@converts("MatMulInteger")
def _matmul_integer(call: Call) -> OperationConverterResult:
    return call.apply(_integer_product, *call.arguments)


def _integer_product(
    a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    return torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))


def _centred(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    whole = x.to(torch.int32)
    if zero is None:
        return whole
    zero = zero.to(torch.int32)
    if zero.numel() == 1:
        return whole - zero.reshape(())
    return whole - (zero.unsqueeze(-1) if axis == -2 and zero.dim() == 1 else zero)


@converts("ConvInteger")
def _conv_integer(call: Call) -> OperationConverterResult:
    slide = Slide(call, call.shape(1)[2:])
    return call.apply(
        _integer_convolution, *call.arguments, padding=slide.padding, stride=slide.strides,
        dilation=slide.dilations, groups=call.attribute("group", 1),
    )  # fmt: skip


def _integer_convolution(
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None = None,
    weight_zero: Tensor | None = None,
    *,
    padding: list[int],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    # Torch convolves no integers; in float64 sums of 8-bit products are exact.
    wide = F.pad(_centred(x, x_zero, -1).to(torch.float64), padding)
    kernel = weight.to(torch.float64)
    if weight_zero is not None:
        kernel = kernel - weight_zero.to(torch.float64).reshape(-1, *[1] * (weight.dim() - 1))
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    result: Tensor = convolve(wide, kernel, None, stride, 0, dilation, groups)
    return result.to(torch.int32)


@converts("QLinearMatMul")
def _quantized_matmul(call: Call) -> OperationConverterResult:
    lowest, highest = _range(call.dtype(7), 8)
    return call.apply(_quantized_product, *range(8), lowest=lowest, highest=highest)


def _quantized_product(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    scale: Tensor,
    zero: Tensor,
    lowest: int,
    highest: int,
) -> Tensor:
    # Summed in integers as the operator is defined, and scaled once.
    total = torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))
    per_row = a_scale.unsqueeze(-1) if a_scale.dim() == 1 and a_scale.numel() > 1 else a_scale
    factor = per_row.to(torch.float64) * b_scale.to(torch.float64) / scale.to(torch.float64)
    rounded = torch.round(total.to(torch.float64) * factor) + zero.to(torch.float64)
    return rounded.clamp(lowest, highest).to(zero.dtype)


class QuantizedConvolution(nn.Module):
    """A float convolution between a dequantize and a quantize operator."""

    def __init__(self, conv: nn.Module, before: dict[str, Any], after: dict[str, Any]) -> None:
        super().__init__()
        self.conv = conv
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        """Integers in, integers out."""
        result: Tensor = _ops.quantize_per_tensor.default(
            self.conv(_ops.dequantize_per_tensor.default(x, **self.before)), **self.after
        )
        return result


@converts("QLinearConv")
def _quantized_conv(call: Call) -> OperationConverterResult:
    tensors = [call.constant(index, "scales or weights") for index in range(1, 8)]
    x_scale, x_zero, weight, scale, zero, y_scale, y_zero = tensors
    if x_scale.numel() != 1 or y_scale.numel() != 1:
        raise Unconvertible("with scales per channel of its input")
    shape = [-1] + [1] * (weight.dim() - 1)
    floats = (weight.float() - zero.float().reshape(shape)) * scale.reshape(shape)
    bias = call.constant(8, "biases") if call.has(8) else None
    if bias is not None:
        bias = bias.float() * (x_scale * scale).reshape(-1)
    slide = Slide(call, tuple(weight.shape[2:]))
    conv = convolution(slide, floats, bias, call.attribute("group", 1))
    module = QuantizedConvolution(conv, _ends(x_scale, x_zero), _ends(y_scale, y_zero))
    return call.over(module, 0)


def _ends(scale: Tensor, zero: Tensor) -> dict[str, Any]:
    lowest, highest = _range(zero.dtype, 8)
    return {
        "scale": scale.item(), "zero_point": int(zero.item()),
        "quant_min": lowest, "quant_max": highest, "dtype": zero.dtype,
    }  # fmt: skip
