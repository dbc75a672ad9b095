"""Operators that work element by element."""

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from onnx2torch.utils.common import OperationConverterResult
from torch import Tensor, nn

from engine.sources.onnx_files.converters.call import TORCH_DTYPES, Call, Unconvertible, converts

_FUNCTIONS = {
    "Acosh": torch.acosh, "Asinh": torch.asinh, "Atanh": torch.atanh, "Cosh": torch.cosh,
    "Sinh": torch.sinh, "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor, "BitwiseNot": torch.bitwise_not, "IsNaN": torch.isnan,
    "Det": torch.linalg.det, "Sqrt": torch.sqrt, "Neg": torch.neg, "Erf": torch.erf,
    "Where": torch.where, "Reciprocal": torch.reciprocal,
}  # fmt: skip


@converts(*_FUNCTIONS)
def _function(call: Call) -> OperationConverterResult:
    return call.apply(_FUNCTIONS[call.kind], *call.arguments)


@converts("Gelu")
def _gelu(call: Call) -> OperationConverterResult:
    return call.over(nn.GELU(call.attribute("approximate", "none")), 0)


@converts("Mish")
def _mish(call: Call) -> OperationConverterResult:
    return call.over(nn.Mish(), 0)


@converts("HardSwish")
def _hardswish(call: Call) -> OperationConverterResult:
    return call.over(nn.Hardswish(), 0)


@converts("HardSigmoid")
def _hardsigmoid(call: Call) -> OperationConverterResult:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return call.over(nn.Hardsigmoid(), 0)
    return call.apply(_line_within_unit, 0, slope=alpha, offset=beta)


def _line_within_unit(x: Tensor, slope: float, offset: float) -> Tensor:
    return (x * slope + offset).clamp(0, 1)


@converts("Swish")
def _swish(call: Call) -> OperationConverterResult:
    alpha = call.attribute("alpha", 1.0)
    return call.over(nn.SiLU(), 0) if alpha == 1 else call.apply(_scaled_swish, 0, alpha=alpha)


def _scaled_swish(x: Tensor, alpha: float) -> Tensor:
    return x * torch.sigmoid(alpha * x)


@converts("ThresholdedRelu")
def _thresholded_relu(call: Call) -> OperationConverterResult:
    return call.over(nn.Threshold(call.attribute("alpha", 1.0), 0.0), 0)


@converts("PRelu")
def _prelu(call: Call) -> OperationConverterResult:
    slope, channels = call.known(1), call.shape()[1:2]
    if slope is not None and slope.shape[: len(channels)] == channels and slope.dim() > 1:
        is_per_channel = slope.dim() == len(call.shape()) - 1 and slope.numel() == channels[0]
        if is_per_channel:
            module = nn.PReLU(slope.numel())
            module.weight = nn.Parameter(slope.reshape(-1))
            return call.over(module, 0)
    return call.apply(_sloped_below_zero, 0, 1)


def _sloped_below_zero(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@converts("Pow")
def _pow(call: Call) -> OperationConverterResult:
    exponent = call.known(1)
    if exponent is not None and exponent.numel() == 1 and exponent.dim() <= len(call.shape()):
        number = exponent.item()
        if float(number).is_integer() or call.dtype().is_floating_point:
            whole = int(number) if float(number).is_integer() else float(number)
            return call.apply(_power_of, 0, exponent=whole)
    return call.apply(_power, 0, 1)


def _power_of(x: Tensor, exponent: float) -> Tensor:
    return torch.pow(x, exponent)


def _power(x: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(x, exponent).to(x.dtype)


@converts("Max", "Min")
def _extreme(call: Call) -> OperationConverterResult:
    function = torch.maximum if call.kind == "Max" else torch.minimum
    return call.apply(_reduced_by, *call.arguments, step=function)


def _reduced_by(*inputs: Tensor, step: Any) -> Tensor:
    return reduce(step, inputs)


@converts("Sum", "Mean")
def _total(call: Call) -> OperationConverterResult:
    divisor = len(call.arguments) if call.kind == "Mean" else 1
    return call.apply(_total_over, *call.arguments, divisor=divisor)


def _total_over(*inputs: Tensor, divisor: int) -> Tensor:
    total = reduce(torch.add, inputs)
    return total / divisor if divisor > 1 else total


@converts("Clip")
def _clip(call: Call) -> OperationConverterResult:
    bounds = []
    for index, name in ((1, "min"), (2, "max")):
        known = call.known(index)
        if known is None and call.has(index):
            return call.apply(_clamped, *range(3) if call.has(2) else range(2))
        bounds.append(call.attribute(name) if known is None else known.item())
    lowest, highest = bounds
    if (lowest, highest) == (0, 6):
        return call.over(nn.ReLU6(), 0)
    if (lowest, highest) == (0, None):
        return call.over(nn.ReLU(), 0)
    return call.apply(_clamped, 0, lowest=lowest, highest=highest)


def _clamped(x: Tensor, lowest: Any = None, highest: Any = None) -> Tensor:
    if lowest is not None:
        x = torch.clamp(x, min=lowest)
    return x if highest is None else torch.clamp(x, max=highest)


@converts("Mod")
def _mod(call: Call) -> OperationConverterResult:
    return call.apply(torch.fmod if call.attribute("fmod", 0) else torch.remainder, 0, 1)


@converts("BitShift")
def _bitshift(call: Call) -> OperationConverterResult:
    return call.apply(_shifted, 0, 1, left=call.attribute("direction") == "LEFT")


def _shifted(x: Tensor, by: Tensor, left: bool) -> Tensor:
    # torch shifts no unsigned types wider than a byte.
    wide, amount = x.to(torch.int64), by.to(torch.int64)
    return (wide << amount if left else wide >> amount).to(x.dtype)


@converts("Equal")
def _equal(call: Call) -> OperationConverterResult:
    return call.apply(torch.eq, 0, 1)


@converts("IsInf")
def _isinf(call: Call) -> OperationConverterResult:
    below, above = call.attribute("detect_negative", 1), call.attribute("detect_positive", 1)
    return call.apply(_infinite, 0, below=bool(below), above=bool(above))


def _infinite(x: Tensor, below: bool, above: bool) -> Tensor:
    found = torch.isinf(x)
    if not below:
        found = found & (x > 0)
    return found if above else found & (x < 0)


@converts("Shrink")
def _shrink(call: Call) -> OperationConverterResult:
    return call.apply(
        _shrunk, 0, bias=call.attribute("bias", 0.0), lambd=call.attribute("lambd", 0.5)
    )


def _shrunk(x: Tensor, bias: float, lambd: float) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))


@converts("Cast")
def _cast(call: Call) -> OperationConverterResult:
    return _cast_to(call, torch_dtype(call.attribute("to")))


@converts("CastLike")
def _cast_like(call: Call) -> OperationConverterResult:
    if call.value(1).four_bit:
        raise Unconvertible("to four bits")
    return _cast_to(call, call.dtype(1))


def _cast_to(call: Call, dtype: torch.dtype) -> OperationConverterResult:
    if "float8" not in str(dtype):
        return call.apply(_as_type, 0, dtype=dtype)
    if not call.attribute("saturate", 1):
        raise Unconvertible("to eight bits without saturation")
    return call.apply(_saturated, 0, dtype=dtype)


def _saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    most = torch.finfo(dtype).max
    return x.clamp(-most, most).to(dtype)


@converts("BitCast")
def _bit_cast(call: Call) -> OperationConverterResult:
    return call.apply(_same_bits, 0, dtype=torch_dtype(call.attribute("to")))


def _same_bits(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.view(dtype)


def torch_dtype(code: int) -> torch.dtype:
    """How tensors of that ONNX type are held."""
    # Four-bit integers are held in bytes, so that a cast to them would have to wrap around.
    if code not in TORCH_DTYPES or TORCH_DTYPES[code].itemsize * 8 != _bits(code):
        raise Unconvertible(f"type number {code}")
    return TORCH_DTYPES[code]


def _bits(code: int) -> int:
    from onnx import TensorProto

    return 4 if code in (TensorProto.INT4, TensorProto.UINT4) else TORCH_DTYPES[code].itemsize * 8


def _as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


@converts("Softmax", "LogSoftmax")
def _softmax(call: Call) -> OperationConverterResult:
    is_log = call.kind == "LogSoftmax"
    if call.version >= 13:
        axis = call.attribute("axis", -1)
        return call.over(nn.LogSoftmax(axis) if is_log else nn.Softmax(axis), 0)
    axis = call.attribute("axis", 1) % max(len(call.shape()), 1)
    if axis == len(call.shape()) - 1:
        return call.over(nn.LogSoftmax(-1) if is_log else nn.Softmax(-1), 0)
    return call.apply(
        _softmax_of_rest, 0, axis=axis, normalise=F.log_softmax if is_log else F.softmax
    )


def _softmax_of_rest(x: Tensor, axis: int, normalise: Any) -> Tensor:
    # Before version 13 all dimensions from the axis on were one.
    result: Tensor = normalise(x.flatten(axis), dim=-1).reshape(x.shape)
    return result


@converts("Hardmax")
def _hardmax(call: Call) -> OperationConverterResult:
    if call.version < 13 and call.attribute("axis", 1) != len(call.shape()) - 1:
        raise Unconvertible("over several dimensions")
    return call.apply(_one_at_largest, 0, axis=call.attribute("axis", -1))


def _one_at_largest(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


@converts("Dropout")
def _dropout(call: Call) -> OperationConverterResult:
    if call.outputs > 1:
        raise Unconvertible("with its mask as an output")
    training = call.known(2)
    if call.has(2) and (training is None or bool(training)):
        raise Unconvertible("in training mode")
    ratio = call.known(1)
    share = call.attribute("ratio", 0.5) if ratio is None else float(ratio)
    return call.over(nn.Dropout(share), 0)
