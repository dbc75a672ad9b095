"""Layers with integer weights; the form that is evaluated is the form that is exported.

    input ── quantize ── dequantize ──┐
    integer weight ──── dequantize ───┴── convolution or linear ── output

The operators are ``torch.ops.quantized_decomposed``, as torchao's PT2E flow writes them.
"""

from dataclasses import dataclass
from typing import Any

import torch

# WORKAROUND: torch registers the quantized_decomposed operators only here, in a package that it
# deprecates otherwise; our own torch.library definitions if the module goes.
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn

from engine.edits import InputGrid

_ops = torch.ops.quantized_decomposed
_LEAST_SCALE = 2.0**-126  # of float32 in full precision


def integer_range(bits: int, symmetric: bool = False) -> tuple[int, int]:
    """Least and greatest integer; symmetric: no -128, so that a sign flip stays representable."""
    top = 2 ** (bits - 1) - 1
    return (-top, top) if symmetric else (-top - 1, top)


def integer_type(bits: int) -> torch.dtype:
    """What integers of so many bits are kept in."""
    return torch.int8 if bits <= 8 else torch.int16


@dataclass(frozen=True)
class WeightFormat:
    """What integers a weight is kept in; its scales are tensors of the layer.

    Attributes:
        bits, symmetric, group_size: as in :class:`engine.edits.WeightGrid`.
    """

    bits: int = 8
    symmetric: bool = True
    group_size: int = 0

    @property
    def range(self) -> tuple[int, int]:
        """Least and greatest integer."""
        return integer_range(self.bits, self.symmetric)

    @property
    def dtype(self) -> torch.dtype:
        """What they are kept in."""
        return integer_type(self.bits)


def round_weight(weight: Tensor, form: WeightFormat, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Integers of float weights, to the nearest; output channels first.

    Args:
        scale, zero_point: of shape (), (channels,) or (channels, groups).
    """
    rows = weight.reshape(len(weight), -1)
    scale, zero_point = (_by_weight(one, form) for one in (scale, zero_point))
    rounded = (rows / scale).round() + zero_point
    return rounded.clamp(*form.range).to(form.dtype).reshape(weight.shape)


def float_weight(weight: Tensor, form: WeightFormat, scale: Tensor, zero_point: Tensor) -> Tensor:
    """What the integers stand for, float32, by one operator."""
    grid = (*form.range, form.dtype)
    if scale.dim() == 0:
        values: Tensor = _ops.dequantize_per_tensor.tensor(weight, scale, zero_point, *grid)
    elif scale.dim() == 1:
        values = _ops.dequantize_per_channel(weight, scale, zero_point, 0, *grid)
    elif form.group_size == 1:  # which the operator for groups does not take
        flat = (one.flatten() for one in (weight, scale, zero_point))
        values = _ops.dequantize_per_channel(*flat, 0, *grid).view(weight.shape)
    else:
        values = _ops.dequantize_per_channel_group(
            weight.flatten(1), scale, zero_point, *grid, form.group_size, torch.float32
        ).view(weight.shape)
    return values


def _by_weight(values: Tensor, form: WeightFormat) -> Tensor:
    """Scales or zero points of a shape that goes with (channels, weights of a row)."""
    if values.dim() == 2:
        return values.repeat_interleave(form.group_size, 1)
    return values.reshape(-1, 1)


def round_input(x: Tensor, grid: InputGrid | None, fused: bool = False) -> Tensor:
    """A value on its grid, float32; as it is without one.

    Args:
        fused: by one operator of the same numbers, which lets gradients pass where the grid
            reaches (the straight-through estimator, Bengio et al., 2013).
    """
    if grid is None:
        return x
    sides = integer_range(grid.bits)
    if grid.scale is None:
        by_sample = _PassedThrough.apply if fused else _rounded_by_sample
        values: Tensor = by_sample(x, grid)
        return values
    if fused:
        return torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero_point, *sides)
    told = (grid.scale, grid.zero_point, *sides, integer_type(grid.bits))
    rounded: Tensor = _ops.dequantize_per_tensor(_ops.quantize_per_tensor(x, *told), *told)
    return rounded


def _rounded_by_sample(x: Tensor, grid: InputGrid) -> Tensor:
    """Each entry of the first axis on a grid of its own, as a runtime takes it at batch 1."""
    rows = x.unsqueeze(0) if x.dim() == 1 else x.flatten(1)
    low, high = integer_range(grid.bits)
    least, most = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    if grid.symmetric:
        reach = torch.maximum(-least, most)
        scale = (reach / high).clamp(min=_LEAST_SCALE)
        zero_point = torch.zeros_like(scale, dtype=torch.int64)
    else:
        least, most = least.clamp(max=0.0), most.clamp(min=0.0)  # zero must be on the grid
        scale = ((most - least) / (high - low)).clamp(min=_LEAST_SCALE)
        zero_point = (low - (least / scale).round()).clamp(low, high).to(torch.int64)
    told = (scale, zero_point, low, high, integer_type(grid.bits))
    integers = _ops.quantize_per_token(rows, *told)
    values: Tensor = _ops.dequantize_per_token(integers, *told, torch.float32)
    return values.view_as(x)


class _PassedThrough(torch.autograd.Function):
    """Rounding by sample, whose ranges hold every value; gradients pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: InputGrid) -> Tensor:
        return _rounded_by_sample(x, grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class IntegerWeights:
    """What quantized convolutions and linear layers share.

    Attributes:
        weight: int8 or int16, the float layer's shape, output channels first.
        weight_scale: float32 (), (output channels,) or (output channels, groups).
        weight_zero_point: int64, of the same shape.
        weight_format: the integers.
        input_grid: of the input, per tensor; None: it stays in float.
        is_masked: whether the float weight held zeros, which training leaves.
    """

    kind: str
    is_masked: bool
    _baked: Tensor | None = None
    weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    weight_format: WeightFormat
    input_grid: InputGrid | None

    def bake(self) -> None:
        """Keep the dequantized weights, and round inputs by one fused operator from now on.

        For copies that are run many times: separate operators cost more than the layer. The
        numbers stay the same.
        """
        self._baked = self.float_weight()

    def float_weight(self) -> Tensor:
        """What the integers stand for, float32."""
        if self._baked is not None:
            return self._baked
        return float_weight(
            self.weight, self.weight_format, self.weight_scale, self.weight_zero_point
        )

    def zeros(self) -> int:
        """How many weights stand for 0: those at their zero point."""
        rows = self.weight.reshape(len(self.weight), -1)
        return int((rows == _by_weight(self.weight_zero_point, self.weight_format)).sum())

    def masked(self, kept: Tensor) -> Tensor:
        """The integers with those at their zero point that are not kept.

        Args:
            kept: bool, of the weight's shape.
        """
        zero = _by_weight(self.weight_zero_point, self.weight_format).to(self.weight.dtype)
        rows = self.weight.reshape(len(self.weight), -1)
        return torch.where(kept.reshape(rows.shape), rows, zero).view(self.weight.shape)

    def _rounded(self, x: Tensor) -> Tensor:
        return round_input(x, self.input_grid, fused=self._baked is not None)


class QuantizedConv1d(IntegerWeights, nn.Conv1d):
    """A 1-D convolution of integer weights and rounded input."""

    kind = "Conv1d"

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, L) to (N, C', L')."""
        output: Tensor = self._conv_forward(self._rounded(input), self.float_weight(), self.bias)
        return output


class QuantizedConv2d(IntegerWeights, nn.Conv2d):
    """A 2-D convolution of integer weights and rounded input."""

    kind = "Conv2d"

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        output: Tensor = self._conv_forward(self._rounded(input), self.float_weight(), self.bias)
        return output


class QuantizedConv3d(IntegerWeights, nn.Conv3d):
    """A 3-D convolution of integer weights and rounded input."""

    kind = "Conv3d"

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, D, H, W) to (N, C', D', H', W')."""
        output: Tensor = self._conv_forward(self._rounded(input), self.float_weight(), self.bias)
        return output


class QuantizedLinear(IntegerWeights, nn.Linear):
    """A linear layer of integer weights and rounded input."""

    kind = "Linear"

    def forward(self, input: Tensor) -> Tensor:
        """(…, features) to (…, features')."""
        return nn.functional.linear(self._rounded(input), self.float_weight(), self.bias)


QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
    nn.Linear: QuantizedLinear,
}
"""Float layer -> quantized layer, by exact type: a subclass may compute something else."""


def is_quantized(module: nn.Module) -> bool:
    """Whether the layer holds integer weights."""
    return isinstance(module, IntegerWeights)


def bake(model: nn.Module) -> None:
    """Bake every layer of integer weights in ``model``, a copy of the caller's own."""
    for module in model.modules():
        if isinstance(module, IntegerWeights):
            module.bake()


def without_integers(model: nn.Module) -> None:
    """Turn every layer of integer weights in ``model``, a copy of the caller's own, into the
    float layer of the same shapes.
    """
    plain = {quantized: kind for kind, quantized in QUANTIZED.items()}
    for module in model.modules():
        if isinstance(module, IntegerWeights):
            weight = module.float_weight()
            del module._buffers["weight"]
            changed: Any = module
            changed.__class__ = plain[type(module)]
            changed.weight = nn.Parameter(weight)


def quantized_from(
    module: nn.Module,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    zero_point: Tensor,
    form: WeightFormat,
    grid: InputGrid | None,
) -> nn.Module:
    """The quantized form of a float layer, which is left as it is.

    Args:
        module: one of the types in :data:`QUANTIZED`.
        weight: integers, of the format's dtype.
        bias: float32 (output channels,), None for none.
        scale: float32 (), (output channels,) or (output channels, groups).
        zero_point: int64, of the same shape.
    """
    made = module.__new__(QUANTIZED[type(module)])
    made.__dict__.update(module.__dict__)
    made._parameters = {"bias": None if bias is None else nn.Parameter(bias, requires_grad=False)}
    made._buffers = {}
    made._non_persistent_buffers_set = set()
    made.register_buffer("weight", weight)
    made.register_buffer("weight_scale", scale)
    made.register_buffer("weight_zero_point", zero_point, persistent=not form.symmetric)
    made.weight_format = form  # type: ignore[assignment]  # plain data: constants in
    made.input_grid = grid  # type: ignore[assignment]  # exported programs
    kept = module.weight.detach()  # type: ignore[operator]
    made.is_masked = not kept.is_meta and bool((kept == 0).any())  # type: ignore[assignment]
    return made
