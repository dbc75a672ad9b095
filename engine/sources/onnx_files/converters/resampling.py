"""Operators that read images between their pixels."""

from collections.abc import Callable
from math import ceil, floor
from typing import Any

import torch
import torch.nn.functional as F
from onnx2torch.utils.common import OperationConverterResult
from torch import Tensor, nn

from engine.sources.onnx_files.converters.call import Call, Unconvertible, converts

_GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}


@converts("GridSample")
def _grid_sample(call: Call) -> OperationConverterResult:
    mode = call.attribute("mode", "linear")
    return call.apply(
        F.grid_sample, 0, 1, mode=_GRID_MODES.get(mode, mode),
        padding_mode=call.attribute("padding_mode", "zeros"),
        align_corners=bool(call.attribute("align_corners", 0)),
    )  # fmt: skip


@converts("Upsample")
def _upsample(call: Call) -> OperationConverterResult:
    raise Unconvertible("which ONNX replaced by Resize in opset 10")


@converts("Resize")
def _resize(call: Call) -> OperationConverterResult:
    old = call.shape()
    scales, sizes = _targets(call, old)
    mode = call.attribute("mode", "nearest")
    by_torch = _torch_layer(call, old, scales, sizes, mode)
    if by_torch is not None:
        return call.over(by_torch, 0)
    crops = call.attribute("coordinate_transformation_mode") == "tf_crop_and_resize"
    roi = call.constant(1, "regions") if crops else None
    region = _region(roi, call.attribute("axes"), len(old))
    kernels = _kernels(call, mode)
    extrapolation = call.attribute("extrapolation_value", 0.0)
    matrices = {}
    for axis, (length, size, scale) in enumerate(zip(old, sizes, scales, strict=True)):
        if length != size or scale != 1 or (crops and region[axis] != (0.0, 1.0)):
            points = _points(call, length, size, scale, region[axis])
            matrices[axis] = _weights(points, length, scale, kernels, crops, call)
    return call.over(Resampling(matrices, extrapolation if crops else 0.0), 0)


def _targets(call: Call, old: tuple[int, ...]) -> tuple[list[float], list[int]]:
    """Scale and size of every dimension."""
    axes = [one % len(old) for one in call.attribute("axes") or range(len(old))]
    at = 1 if call.version < 11 else 2
    given = call.constant(at, "scales") if call.has(at) else None
    scales, sizes = [1.0] * len(old), list(old)
    if given is not None and given.numel():
        for axis, scale in zip(axes, given.tolist(), strict=True):
            scales[axis], sizes[axis] = scale, floor(old[axis] * scale)
        return scales, sizes
    wanted = call.integers(3, "sizes") or []
    if not wanted:
        raise Unconvertible("without a size")
    policy = call.attribute("keep_aspect_ratio_policy", "stretch")
    each = [one / old[axis] for axis, one in zip(axes, wanted, strict=True)]
    if policy != "stretch":
        one = min(each) if policy == "not_larger" else max(each)
        each = [one] * len(axes)
        wanted = [floor(old[axis] * one + 0.5) for axis in axes]
    for axis, scale, size in zip(axes, each, wanted, strict=True):
        scales[axis], sizes[axis] = scale, size
    return scales, sizes


def _torch_layer(
    call: Call, old: tuple[int, ...], scales: list[float], sizes: list[int], mode: str
) -> nn.Module | None:
    """Torch's own layer, where it computes the same."""
    how = call.attribute("coordinate_transformation_mode", "half_pixel")
    if call.version < 11:
        how = "asymmetric"
    outer = sizes[:2] == list(old[:2]) and 3 <= len(old) <= 5
    exact = all(
        abs(length * scale - size) < 1e-4
        for length, scale, size in zip(old, scales, sizes, strict=True)
    )
    if not (outer and exact) or call.attribute("antialias", 0):
        return None
    spatial = tuple(sizes[2:])
    # By a factor where it is a whole one, so that images of other sizes pass as well.
    whole = all(float(scale).is_integer() for scale in scales)
    size = {"scale_factor": tuple(scales[2:])} if whole else {"size": spatial}
    if mode == "nearest":
        rounding = call.attribute("nearest_mode", "round_prefer_floor")
        plain = how == "asymmetric" and (rounding == "floor" or call.version < 11)
        centred = whole and how in ("half_pixel", "pytorch_half_pixel")
        rounds = rounding in ("round_prefer_floor", "round_prefer_ceil")
        return nn.Upsample(mode="nearest", **size) if plain or (centred and rounds) else None
    if call.attribute("exclude_outside", 0) or how not in (
        "half_pixel", "pytorch_half_pixel", "align_corners",
    ):  # fmt: skip
        return None
    names = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear"}
    if abs(call.attribute("cubic_coeff_a", -0.75) + 0.75) < 1e-6:
        names["cubic", 2] = "bicubic"
    name = names.get((mode, len(spatial)))
    if name is None or (1 in spatial and how != "half_pixel"):
        return None
    return nn.Upsample(mode=name, align_corners=how == "align_corners", **size)


class Resampling(nn.Module):
    """Each of some dimensions multiplied by a matrix; torch has no layer for these settings."""

    def __init__(
        self, matrices: dict[int, tuple[Tensor, Tensor | None]], extrapolation: float
    ) -> None:
        super().__init__()
        self.axes = tuple(matrices)
        self.extrapolation = extrapolation
        for axis, (weights, outside) in matrices.items():
            self.register_buffer(f"weights{axis}", weights)
            self.register_buffer(f"outside{axis}", outside)

    def forward(self, x: Tensor) -> Tensor:
        """The resampled tensor, of the same type."""
        dtype = x.dtype
        x = x if dtype.is_floating_point else x.to(torch.float32)
        beyond = torch.zeros((), dtype=torch.bool, device=x.device)
        for axis in self.axes:
            weights = getattr(self, f"weights{axis}").to(x.dtype)
            x = torch.matmul(x.movedim(axis, -1), weights.T).movedim(-1, axis)
            outside = getattr(self, f"outside{axis}")
            if outside is not None:
                beyond = beyond | outside.reshape(-1, *[1] * (x.dim() - 1 - axis))
        if beyond.dim():
            x = torch.where(beyond, self.extrapolation, x)
        return x.to(dtype)


def _region(roi: Tensor | None, axes: list[int] | None, rank: int) -> list[tuple[float, float]]:
    region = [(0.0, 1.0)] * rank
    if roi is not None and roi.numel():
        chosen = [one % rank for one in axes or range(rank)]
        for at, axis in enumerate(chosen):
            region[axis] = (float(roi[at]), float(roi[at + len(chosen)]))
    return region


def _points(
    call: Call, length: int, size: int, scale: float, region: tuple[float, float]
) -> list[float]:
    """Where in the old pixels each new one is read."""
    how = call.attribute("coordinate_transformation_mode", "half_pixel")
    how = "asymmetric" if call.version < 11 else how
    wide = scale * length
    if how == "half_pixel":
        return [(at + 0.5) / scale - 0.5 for at in range(size)]
    if how == "half_pixel_symmetric":
        shift = length / 2 * (1 - size / wide)
        return [shift + (at + 0.5) / scale - 0.5 for at in range(size)]
    if how == "pytorch_half_pixel":
        return [-0.5 if wide == 1 else (at + 0.5) / scale - 0.5 for at in range(size)]
    if how == "align_corners":
        return [0.0 if wide == 1 else at * (length - 1) / (wide - 1) for at in range(size)]
    if how == "tf_crop_and_resize":
        start, end = region
        if size == 1:
            return [(start + end) * (length - 1) / 2]
        step = (end - start) * (length - 1) / (size - 1)
        return [at * step + start * (length - 1) for at in range(size)]
    return [at / scale for at in range(size)]


_Kernel = tuple[Callable[[float], float] | None, int]


def _kernels(call: Call, mode: str) -> _Kernel:
    """The weight at a distance and how far it reaches; None: of the nearest alone."""
    if mode == "nearest":
        return None, 1
    if mode == "linear":
        return (lambda d: max(1 - abs(d), 0.0)), 1
    a = call.attribute("cubic_coeff_a", -0.75)

    def cubic(d: float) -> float:
        d = abs(d)
        if d <= 1:
            return float((a + 2) * d**3 - (a + 3) * d**2 + 1)
        return float(a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a) if d < 2 else 0.0

    return cubic, 2


_ROUNDINGS: dict[str, Callable[[float], int]] = {
    "round_prefer_floor": lambda x: ceil(x - 0.5), "round_prefer_ceil": lambda x: floor(x + 0.5),
    "floor": floor, "ceil": ceil,
}  # fmt: skip


def _weights(
    points: list[float], length: int, scale: float, kernel: _Kernel, crops: bool, call: Call
) -> tuple[Tensor, Tensor | None]:
    """The matrix from old pixels to new ones, and which of these lie outside the old ones."""
    weight_at, reach = kernel
    stretch = min(scale, 1.0) if call.attribute("antialias", 0) else 1.0
    matrix = torch.zeros(len(points), length, dtype=torch.float64)
    for row, x in enumerate(points):
        if weight_at is None:
            rounding = "floor" if call.version < 11 else "round_prefer_floor"
            nearest = _ROUNDINGS[call.attribute("nearest_mode", rounding)](x)
            matrix[row, min(max(nearest, 0), length - 1)] = 1
            continue
        wide = ceil(reach / stretch)
        near = range(floor(x) - wide, floor(x) + wide + 2)
        found = {at: weight_at((at - x) * stretch) for at in near}
        if call.attribute("exclude_outside", 0):
            found = {at: one for at, one in found.items() if 0 <= at < length}
        total = sum(found.values())
        for at, one in found.items():
            matrix[row, min(max(at, 0), length - 1)] += one / total
    outside = torch.tensor([not 0 <= x <= length - 1 for x in points])
    return matrix.to(torch.float32), outside if crops else None


@converts("DeformConv")
def _deformable(call: Call) -> OperationConverterResult:
    pads = call.attribute("pads") or [0] * 4
    if pads[:2] != pads[2:]:
        raise Unconvertible("with uneven padding")
    return call.apply(
        _deformed, *call.arguments, stride=tuple(call.attribute("strides") or (1, 1)),
        padding=tuple(pads[:2]), dilation=tuple(call.attribute("dilations") or (1, 1)),
    )  # fmt: skip


def _deformed(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    from torchvision.ops import deform_conv2d

    result: Tensor = deform_conv2d(x, offset, weight, bias, mask=mask, **settings)
    return result
