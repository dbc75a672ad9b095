"""Layers with integer weights; the form that is evaluated is the form that is exported.

    input ── quantize ── dequantize ──┐
    integer weight ──── dequantize ───┴── convolution or linear ── output

The operators are ``torch.ops.quantized_decomposed``, as torchao's PT2E flow writes them.
"""

from typing import Any

import torch

# WORKAROUND: torch registers the quantized_decomposed operators only here, in a package that it
# deprecates otherwise; our own torch.library definitions if the module goes.
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn

WEIGHT_RANGE = (-127, 127)  # symmetric: no -128, so that a sign flip stays representable
INPUT_RANGE = (-128, 127)

_ops = torch.ops.quantized_decomposed


class _IntegerWeights:
    """What quantized convolutions and linear layers share.

    Attributes:
        weight: int8, the float layer's shape, output channels first.
        weight_scale: float32 (output channels,); zero points are all 0.
        input_scale, input_zero_point: of the input, per tensor.
    """

    kind: str
    _baked: Tensor | None = None
    weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    input_scale: float
    input_zero_point: int

    def bake(self) -> None:
        """Keep the dequantized weights, and round inputs by one fused operator from now on.

        For copies that are run many times: separate operators cost more than the layer. The
        numbers stay the same.
        """
        self._baked = self._float_weight()

    def _rounded(self, x: Tensor) -> Tensor:
        if self._baked is not None:
            return torch.fake_quantize_per_tensor_affine(
                x, self.input_scale, self.input_zero_point, *INPUT_RANGE
            )
        grid = (self.input_scale, self.input_zero_point, *INPUT_RANGE, torch.int8)
        rounded: Tensor = _ops.dequantize_per_tensor(_ops.quantize_per_tensor(x, *grid), *grid)
        return rounded

    def _float_weight(self) -> Tensor:
        if self._baked is not None:
            return self._baked
        weight: Tensor = _ops.dequantize_per_channel(
            self.weight, self.weight_scale, self.weight_zero_point, 0, *WEIGHT_RANGE, torch.int8
        )
        return weight


class QuantizedConv1d(_IntegerWeights, nn.Conv1d):
    """A 1-D convolution of integer weights and rounded input."""

    kind = "Conv1d"

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, L) to (N, C', L')."""
        output: Tensor = self._conv_forward(self._rounded(input), self._float_weight(), self.bias)
        return output


class QuantizedConv2d(_IntegerWeights, nn.Conv2d):
    """A 2-D convolution of integer weights and rounded input."""

    kind = "Conv2d"

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        output: Tensor = self._conv_forward(self._rounded(input), self._float_weight(), self.bias)
        return output


class QuantizedConv3d(_IntegerWeights, nn.Conv3d):
    """A 3-D convolution of integer weights and rounded input."""

    kind = "Conv3d"

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, D, H, W) to (N, C', D', H', W')."""
        output: Tensor = self._conv_forward(self._rounded(input), self._float_weight(), self.bias)
        return output


class QuantizedLinear(_IntegerWeights, nn.Linear):
    """A linear layer of integer weights and rounded input."""

    kind = "Linear"

    def forward(self, input: Tensor) -> Tensor:
        """(…, features) to (…, features')."""
        return nn.functional.linear(self._rounded(input), self._float_weight(), self.bias)


QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
    nn.Linear: QuantizedLinear,
}
"""Float layer -> quantized layer, by exact type: a subclass may compute something else."""


def is_quantized(module: nn.Module) -> bool:
    """Whether the layer holds integer weights."""
    return isinstance(module, _IntegerWeights)


def bake(model: nn.Module) -> None:
    """Bake every layer of integer weights in ``model``, a copy of the caller's own."""
    for module in model.modules():
        if isinstance(module, _IntegerWeights):
            module.bake()


def without_rounding(model: nn.Module) -> None:
    """Turn every layer of integer weights in ``model``, a copy of the caller's own, into the
    float layer of the same shapes: for analyses that follow gradients, which rounding stops.
    """
    plain = {quantized: kind for kind, quantized in QUANTIZED.items()}
    for module in model.modules():
        if isinstance(module, _IntegerWeights):
            weight = module._float_weight()
            del module._buffers["weight"]
            changed: Any = module
            changed.__class__ = plain[type(module)]
            changed.weight = nn.Parameter(weight)


def quantized_from(
    module: nn.Module,
    weight: Tensor,
    bias: Tensor | None,
    weight_scale: Tensor,
    input_scale: float,
    input_zero_point: int,
) -> nn.Module:
    """The quantized form of a float layer, which is left as it is.

    Args:
        module: one of the types in :data:`QUANTIZED`.
        weight: int8 weights.
        bias: float32 (output channels,), None for none.
        weight_scale: float32 (output channels,).
    """
    made = module.__new__(QUANTIZED[type(module)])
    made.__dict__.update(module.__dict__)
    made._parameters = {"bias": None if bias is None else nn.Parameter(bias, requires_grad=False)}
    made._buffers = {}
    made._non_persistent_buffers_set = set()
    made.register_buffer("weight", weight)
    made.register_buffer("weight_scale", weight_scale)
    made.register_buffer(
        "weight_zero_point", torch.zeros(len(weight_scale), dtype=torch.int64), persistent=False
    )
    made.input_scale = input_scale  # type: ignore[assignment]  # plain numbers: constants in
    made.input_zero_point = input_zero_point  # type: ignore[assignment]  # exported programs
    return made
