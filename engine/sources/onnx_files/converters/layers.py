"""Convolutions, products, normalisations and pools: torch's own layers wherever they fit."""

from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from onnx2torch.utils.common import OperationConverterResult
from torch import Tensor, nn

from engine.sources.onnx_files.converters.call import Call, Unconvertible, converts

_CONVOLUTIONS: dict[int, type[Any]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[Any]] = {
    1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d,
}  # fmt: skip
_NORMS: dict[int, type[Any]] = {
    0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d,
}  # fmt: skip
_INSTANCE_NORMS: dict[int, type[Any]] = {
    1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d,
}  # fmt: skip
_MAX_POOLS: dict[int, type[Any]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE_POOLS: dict[int, type[Any]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_GLOBAL_POOLS: dict[tuple[str, int], type[Any]] = {
    ("GlobalAveragePool", 1): nn.AdaptiveAvgPool1d,
    ("GlobalAveragePool", 2): nn.AdaptiveAvgPool2d,
    ("GlobalAveragePool", 3): nn.AdaptiveAvgPool3d,
    ("GlobalMaxPool", 1): nn.AdaptiveMaxPool1d,
    ("GlobalMaxPool", 2): nn.AdaptiveMaxPool2d,
    ("GlobalMaxPool", 3): nn.AdaptiveMaxPool3d,
}


class Slide:
    """How a window moves over the spatial dimensions, from an operator's attributes."""

    def __init__(self, call: Call, kernel: tuple[int, ...]) -> None:
        rank = len(kernel)
        self.kernel = kernel
        self.strides = tuple(call.attribute("strides") or [1] * rank)
        self.dilations = tuple(call.attribute("dilations") or [1] * rank)
        pads = tuple(call.attribute("pads") or [0] * rank * 2)
        self.before, self.after = pads[:rank], pads[rank:]
        how = call.attribute("auto_pad", "NOTSET")
        if how == "VALID":
            self.before = self.after = (0,) * rank
        elif how.startswith("SAME"):
            totals = tuple(map(self._lacking, call.shape()[2:], range(rank)))
            small, large = zip(*((one // 2, one - one // 2) for one in totals), strict=True)
            upper = how == "SAME_UPPER"
            self.before, self.after = (small, large) if upper else (large, small)

    def _lacking(self, length: int, axis: int) -> int:
        stride = int(self.strides[axis])
        window = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        return max((ceil(length / stride) - 1) * stride + int(window) - length, 0)

    @property
    def even(self) -> bool:
        """Whether as much is added before as after, as torch's layers do it."""
        return self.before == self.after

    @property
    def padding(self) -> list[int]:
        """What is added, in the order of :func:`torch.nn.functional.pad`."""
        sides = reversed(list(zip(self.before, self.after, strict=True)))
        return [one for both in sides for one in both]


def parameter(tensor: Tensor) -> nn.Parameter:
    """A parameter that trains if its type can."""
    return nn.Parameter(tensor.contiguous(), requires_grad=tensor.dtype.is_floating_point)


def _with_weights(module: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    # Set directly: the constructor's random numbers would cost time, and be thrown away.
    module.weight = parameter(weight)
    if bias is not None:
        module.bias = parameter(bias)
    return module


def _built(kind: type[Any], *arguments: Any, **settings: Any) -> nn.Module:
    with torch.device("meta"):
        module: nn.Module = kind(*arguments, **settings)
    return module


@converts("Conv")
def _conv(call: Call) -> OperationConverterResult:
    weight, bias = call.known(1), call.known(2)
    is_known = weight is not None and (bias is not None or not call.has(2))
    slide = Slide(call, call.shape(1)[2:])
    groups = call.attribute("group", 1)
    if weight is None or not is_known or len(slide.kernel) not in _CONVOLUTIONS:
        return call.apply(
            _convolved, *call.arguments, padding=slide.padding, stride=slide.strides,
            dilation=slide.dilations, groups=groups,
        )  # fmt: skip
    return call.over(convolution(slide, weight, bias, groups), 0)


def convolution(slide: Slide, weight: Tensor, bias: Tensor | None, groups: int) -> nn.Module:
    """Torch's layer, behind one that pads where it pads unevenly."""
    module = _built(
        _CONVOLUTIONS[len(slide.kernel)], weight.shape[1] * groups, weight.shape[0], slide.kernel,
        slide.strides, slide.before if slide.even else 0, slide.dilations, groups, bias is not None,
    )  # fmt: skip
    _with_weights(module, weight, bias)
    return module if slide.even else behind_padding(slide.padding, "conv", module)


def behind_padding(padding: list[int], name: str, module: nn.Module, value: float = 0) -> nn.Module:
    """The module behind one that pads."""
    pads: dict[int, type[Any]] = {
        2: nn.ConstantPad1d, 4: nn.ConstantPad2d, 6: nn.ConstantPad3d,
    }  # fmt: skip
    pad = pads[len(padding)](tuple(padding), value)
    return nn.Sequential(OrderedDict([("pad", pad), (name, module)]))


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: list[int],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    result: Tensor = convolve(F.pad(x, padding), weight, bias, stride, 0, dilation, groups)
    return result


@converts("ConvTranspose")
def _conv_transpose(call: Call) -> OperationConverterResult:
    weight, bias = call.known(1), call.known(2)
    slide = Slide(call, call.shape(1)[2:])
    groups = call.attribute("group", 1)
    before, sizes = _cut_by_transposed(call, slide)
    full = tuple(
        (length - 1) * stride + (kernel - 1) * dilation + 1
        for length, stride, kernel, dilation in zip(
            call.shape()[2:], slide.strides, slide.kernel, slide.dilations, strict=True
        )
    )
    extra = tuple(b + b + size - whole for b, size, whole in zip(before, sizes, full, strict=True))
    fits = all(
        0 <= one < max(stride, dilation)
        for one, stride, dilation in zip(extra, slide.strides, slide.dilations, strict=True)
    )
    if weight is not None and (bias is not None or not call.has(2)) and fits:
        module = _built(
            _TRANSPOSED[len(slide.kernel)], weight.shape[0], weight.shape[1] * groups,
            slide.kernel, slide.strides, before, extra, groups, bias is not None, slide.dilations,
        )  # fmt: skip
        return call.over(_with_weights(module, weight, bias), 0)
    return call.apply(
        _transposed_and_cut, *call.arguments, stride=slide.strides, dilation=slide.dilations,
        groups=groups, before=before, sizes=sizes,
    )  # fmt: skip


def _cut_by_transposed(call: Call, slide: Slide) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is cut away before the result, and the result's size."""
    rank = len(slide.kernel)
    extra = call.attribute("output_padding") or [0] * rank
    how = call.attribute("auto_pad", "NOTSET")
    sizes = call.attribute("output_shape")
    if how.startswith("SAME") and sizes is None:
        sizes = [one * s for one, s in zip(call.shape()[2:], slide.strides, strict=True)]
    full = [
        (length - 1) * stride + (kernel - 1) * dilation + 1 + more
        for length, stride, kernel, dilation, more in zip(
            call.shape()[2:], slide.strides, slide.kernel, slide.dilations, extra, strict=True
        )
    ]
    if sizes is None:
        cut = zip(full, slide.before, slide.after, strict=True)
        return slide.before, tuple(whole - b - a for whole, b, a in cut)
    totals = [max(whole - size, 0) for whole, size in zip(full, sizes[-rank:], strict=True)]
    before = tuple(one // 2 if how != "SAME_LOWER" else one - one // 2 for one in totals)
    return before, tuple(sizes[-rank:])


def _transposed_and_cut(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    before: tuple[int, ...],
    sizes: tuple[int, ...],
) -> Tensor:
    name = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")[weight.dim() - 3]
    result: Tensor = getattr(F, name)(x, weight, None, stride, 0, 0, groups, dilation)
    for axis, (first, size) in enumerate(zip(before, sizes, strict=True), start=2):
        lacking = first + size - result.shape[axis]
        if lacking > 0:
            result = F.pad(result, [0, 0] * (result.dim() - 1 - axis) + [0, lacking])
        result = result.narrow(axis, first, size)
    return result if bias is None else result + bias.reshape(-1, *[1] * len(sizes))


@converts("Gemm")
def _gemm(call: Call) -> OperationConverterResult:
    weight, bias = call.known(1), call.known(2)
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    swap_a, swap_b = bool(call.attribute("transA", 0)), bool(call.attribute("transB", 0))
    if weight is not None and not swap_a and (bias is not None or not call.has(2)):
        weight = weight if swap_b else weight.T
        width = weight.shape[0]
        if bias is None or bias.numel() in (1, width):
            offset = None if bias is None else _scaled(bias.reshape(-1).expand(width), beta)
            return call.over(linear(_scaled(weight, alpha), offset), 0)
    return call.apply(
        _general_product, *call.arguments, alpha=alpha, beta=beta, swap_a=swap_a, swap_b=swap_b
    )


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor * factor


def linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Torch's layer over these tensors."""
    module = _built(nn.Linear, weight.shape[1], weight.shape[0], bias is not None)
    return _with_weights(module, weight, bias)


def _general_product(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    swap_a: bool,
    swap_b: bool,
) -> Tensor:
    product = _scaled((a.T if swap_a else a) @ (b.T if swap_b else b), alpha)
    return product if c is None else product + _scaled(c, beta)


@converts("MatMul")
def _matmul(call: Call) -> OperationConverterResult:
    weight = call.known(1)
    if weight is not None and weight.dim() == 2 and weight.dtype.is_floating_point:
        return call.over(linear(weight.T, None), 0)
    return call.apply(torch.matmul, 0, 1)


def with_bias(module: nn.Module, addend: Tensor, rank: int) -> bool:
    """Whether adding ``addend`` to the layer's result, of that rank, is now done by its bias."""
    if isinstance(module, nn.Linear):
        channels, behind = module.out_features, 0
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        channels, behind = module.out_channels, len(module.kernel_size)
    else:
        return False
    wanted = [channels] + [1] * behind
    leading = [1] * (addend.dim() - len(wanted))
    fits = [*addend.shape] == leading + wanted and addend.dim() <= rank
    if module.bias is not None or not fits or addend.dtype != module.weight.dtype:
        return False
    module.bias = parameter(addend.reshape(-1))
    return True


@converts("BatchNormalization")
def _batch_norm(call: Call) -> OperationConverterResult:
    if call.attribute("training_mode", 0) or call.outputs > 1:
        raise Unconvertible("in training mode")
    tensors = [call.known(index) for index in range(1, 5)]
    epsilon = call.attribute("epsilon", 1e-5)
    rank = len(call.shape()) - 2
    if any(one is None for one in tensors) or rank not in _NORMS:
        return call.apply(_batch_normalised, *range(5), epsilon=epsilon)
    scale, shift, mean, variance = [one for one in tensors if one is not None]
    module = _built(_NORMS[rank], scale.numel(), epsilon, 1 - call.attribute("momentum", 0.9))
    _with_weights(module, scale, shift)
    module.running_mean, module.running_var = mean.clone(), variance.clone()
    module.num_batches_tracked = torch.tensor(0)
    return call.over(module, 0)


def _batch_normalised(
    x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, epsilon)


@converts("LayerNormalization")
def _layer_norm(call: Call) -> OperationConverterResult:
    if call.outputs > 1:
        raise Unconvertible("with its statistics as outputs")
    shape = call.shape()
    normalised = shape[call.attribute("axis", -1) % len(shape) :]
    epsilon = call.attribute("epsilon", 1e-5)
    scale, shift = call.known(1), call.known(2)
    fits = scale is not None and scale.shape == normalised
    fits = fits and (shift.shape == normalised if shift is not None else not call.has(2))
    if scale is None or not fits:
        return call.apply(_layer_normalised, *call.arguments, shape=normalised, epsilon=epsilon)
    module = _built(nn.LayerNorm, normalised, epsilon, bias=shift is not None)
    return call.over(_with_weights(module, scale, shift), 0)


def _layer_normalised(
    x: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    *,
    shape: tuple[int, ...],
    epsilon: float,
) -> Tensor:
    result = F.layer_norm(x, shape, eps=epsilon) * scale
    return result if shift is None else result + shift


@converts("RMSNormalization")
def _rms_norm(call: Call) -> OperationConverterResult:
    shape = call.shape()
    normalised = shape[call.attribute("axis", -1) % len(shape) :]
    epsilon, scale = call.attribute("epsilon", 1e-5), call.known(1)
    if scale is None or scale.shape != normalised:
        return call.apply(_rms_normalised, 0, 1, shape=normalised, epsilon=epsilon)
    module = _built(nn.RMSNorm, normalised, epsilon)
    return call.over(_with_weights(module, scale, None), 0)


def _rms_normalised(x: Tensor, scale: Tensor, shape: tuple[int, ...], epsilon: float) -> Tensor:
    return F.rms_norm(x, shape, eps=epsilon) * scale


@converts("InstanceNormalization")
def _instance_norm(call: Call) -> OperationConverterResult:
    scale, shift, rank = call.known(1), call.known(2), len(call.shape()) - 2
    epsilon = call.attribute("epsilon", 1e-5)
    if scale is None or shift is None or rank not in _INSTANCE_NORMS:
        return call.apply(_instance_normalised, 0, 1, 2, epsilon=epsilon)
    module = _built(_INSTANCE_NORMS[rank], scale.numel(), epsilon, affine=True)
    return call.over(_with_weights(module, scale, shift), 0)


def _instance_normalised(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=shift, eps=epsilon)


@converts("GroupNormalization")
def _group_norm(call: Call) -> OperationConverterResult:
    groups, channels = call.attribute("num_groups"), call.shape()[1]
    epsilon, scale, shift = call.attribute("epsilon", 1e-5), call.known(1), call.known(2)
    repeats = channels // groups if call.version < 21 else 1  # once a group before that
    if scale is None or shift is None:
        return call.apply(
            _group_normalised, 0, 1, 2, groups=groups, repeats=repeats, epsilon=epsilon
        )
    module = _built(nn.GroupNorm, groups, channels, epsilon)
    _with_weights(module, scale.repeat_interleave(repeats), shift.repeat_interleave(repeats))
    return call.over(module, 0)


def _group_normalised(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, repeats: int, epsilon: float
) -> Tensor:
    scale, shift = scale.repeat_interleave(repeats), shift.repeat_interleave(repeats)
    return F.group_norm(x, groups, scale, shift, epsilon)


@converts("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(call: Call) -> OperationConverterResult:
    kind = _GLOBAL_POOLS.get((call.kind, len(call.shape()) - 2))
    if kind is None:
        raise Unconvertible(f"over {len(call.shape()) - 2} dimensions")
    return call.over(kind(1), 0)


@converts("MaxPool")
def _max_pool(call: Call) -> OperationConverterResult:
    slide = Slide(call, tuple(call.attribute("kernel_shape")))
    rank, ceiled = len(slide.kernel), bool(call.attribute("ceil_mode", 0))
    if call.outputs > 1 and call.attribute("storage_order", 0):
        raise Unconvertible("with indices in column order")
    if rank not in _MAX_POOLS:
        raise Unconvertible(f"over {rank} dimensions")
    half = all(2 * pad <= kernel for pad, kernel in zip(slide.before, slide.kernel, strict=True))
    plain = slide.even and half and call.dtype().is_floating_point
    if not plain:
        if call.outputs > 1:
            raise Unconvertible("with indices, over uneven padding")
        return _window_pool(call, slide, torch.amax, ceiled)
    if call.outputs > 1:
        return call.apply(
            _largest_and_where, 0, kernel=slide.kernel, stride=slide.strides,
            padding=slide.before, dilation=slide.dilations, ceiled=ceiled,
        )  # fmt: skip
    module = _MAX_POOLS[rank](
        slide.kernel, slide.strides, slide.before, slide.dilations, ceil_mode=ceiled
    )
    return call.over(module, 0)


def _largest_and_where(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceiled: bool,
) -> tuple[Tensor, Tensor]:
    name = f"max_pool{len(kernel)}d"
    values, where = getattr(F, name)(x, kernel, stride, padding, dilation, ceiled, True)
    # ONNX counts through the whole tensor, torch through each channel.
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * x[0, 0].numel()
    return values, where + planes.reshape(x.shape[0], x.shape[1], *[1] * len(kernel))


@converts("AveragePool")
def _average_pool(call: Call) -> OperationConverterResult:
    slide = Slide(call, tuple(call.attribute("kernel_shape")))
    rank, ceiled = len(slide.kernel), bool(call.attribute("ceil_mode", 0))
    counted = bool(call.attribute("count_include_pad", 0))
    half = all(2 * pad <= kernel for pad, kernel in zip(slide.before, slide.kernel, strict=True))
    if rank in _AVERAGE_POOLS and slide.even and half and set(slide.dilations) == {1}:
        module = _AVERAGE_POOLS[rank](
            slide.kernel, slide.strides, slide.before, ceiled, count_include_pad=counted
        )
        return call.over(module, 0)
    return _window_pool(call, slide, torch.nanmean, ceiled, counted)


@converts("LpPool")
def _lp_pool(call: Call) -> OperationConverterResult:
    slide = Slide(call, tuple(call.attribute("kernel_shape")))
    ceiled, p = bool(call.attribute("ceil_mode", 0)), call.attribute("p", 2)
    return _window_pool(call, slide, torch.linalg.vector_norm, ceiled, ord=p)


def _window_pool(
    call: Call,
    slide: Slide,
    measure: Callable[..., Tensor],
    ceiled: bool,
    zeros: bool = False,
    **settings: Any,
) -> OperationConverterResult:
    """A pool that torch has no layer for, over the windows themselves.

    Args:
        zeros: whether the padding counts as zeros; what rounding sizes up adds never counts.
    """
    inner = slide.padding if zeros else [0] * len(slide.padding)
    after = list(slide.after)
    for axis, length in enumerate(call.shape()[2:]):
        window = (slide.kernel[axis] - 1) * slide.dilations[axis] + 1
        room = length + slide.before[axis] + after[axis] - window
        if ceiled and room % slide.strides[axis]:
            steps = ceil(room / slide.strides[axis])
            if steps * slide.strides[axis] < length + slide.before[axis]:
                after[axis] += slide.strides[axis] - room % slide.strides[axis]
    slide.after = tuple(after)
    outer = [whole - part for whole, part in zip(slide.padding, inner, strict=True)]
    filling = {torch.amax: -torch.inf, torch.nanmean: torch.nan}.get(measure, 0.0)
    if filling == -torch.inf and not call.dtype().is_floating_point:
        filling = float(torch.iinfo(call.dtype()).min)
    return call.apply(
        _measured_in_windows, 0, zeros=inner, padding=outer, filling=filling, kernel=slide.kernel,
        stride=slide.strides, dilation=slide.dilations, measure=measure, settings=settings,
    )  # fmt: skip


def _measured_in_windows(
    x: Tensor,
    zeros: list[int],
    padding: list[int],
    filling: float,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    measure: Callable[..., Tensor],
    settings: dict[str, Any],
) -> Tensor:
    whole = x.dtype if not x.dtype.is_floating_point else None
    x = F.pad(F.pad(x, zeros), padding, value=int(filling) if whole else filling)
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(axis, (size - 1) * gap + 1, step)[..., ::gap]
    return measure(x, dim=tuple(range(-len(kernel), 0)), **settings)
