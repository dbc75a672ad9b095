"""Layers in 16-bit floating point; the form that is evaluated is the form that is exported.

    input ─── to 16 bits ── to 32 ──┐
    16-bit weight ───────── to 32 ──┴── convolution or linear ── to 16 bits ── to 32 ── output

Products are summed in float32, as hardware does. The operators are those by which torchao writes a
cast (``quantized_decomposed.convert_element_type``).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import engine.integer_layers  # noqa: F401  (registers the operators)

_converted = torch.ops.quantized_decomposed.convert_element_type.no_fuse

_TRANSPOSED: dict[int, Any] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


class HalfWeights:
    """What layers in 16-bit floating point share.

    Attributes:
        weight: a parameter of the 16-bit type, of the float layer's shape; so is ``bias``.
    """

    kind: str
    weight: Tensor

    def _rounded(self, x: Tensor) -> Tensor:
        """A value of 16 bits, in the type that it had."""
        rounded: Tensor = _converted(_converted(x, self.weight.dtype), x.dtype)
        return rounded

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in the type that the sums have."""
        bias = _plain(self).bias
        wide = None if bias is None else _converted(bias, x.dtype)
        return _converted(self.weight, x.dtype), wide


def _plain(layer: HalfWeights) -> Any:
    """The layer as torch's own, which it is as well."""
    return layer


class _Convolution(HalfWeights):
    def forward(self, input: Tensor) -> Tensor:
        """(N, C, …) to (N, C', …)."""
        x = self._rounded(input)
        return self._rounded(_plain(self)._conv_forward(x, *self._wide(x)))


class _Transposed(HalfWeights):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, …) to (N, C', …)."""
        x, layer = self._rounded(input), _plain(self)
        sides = len(layer.kernel_size)
        padding = layer._output_padding(
            x, output_size, layer.stride, layer.padding, layer.kernel_size, sides, layer.dilation
        )
        rest = layer.stride, layer.padding, padding, layer.groups, layer.dilation
        return self._rounded(_TRANSPOSED[sides](x, *self._wide(x), *rest))


class HalfConv1d(_Convolution, nn.Conv1d):
    """A 1-D convolution in 16 bits."""

    kind = "Conv1d"


class HalfConv2d(_Convolution, nn.Conv2d):
    """A 2-D convolution in 16 bits."""

    kind = "Conv2d"


class HalfConv3d(_Convolution, nn.Conv3d):
    """A 3-D convolution in 16 bits."""

    kind = "Conv3d"


class HalfConvTranspose1d(_Transposed, nn.ConvTranspose1d):
    """A transposed 1-D convolution in 16 bits."""

    kind = "ConvTranspose1d"


class HalfConvTranspose2d(_Transposed, nn.ConvTranspose2d):
    """A transposed 2-D convolution in 16 bits."""

    kind = "ConvTranspose2d"


class HalfConvTranspose3d(_Transposed, nn.ConvTranspose3d):
    """A transposed 3-D convolution in 16 bits."""

    kind = "ConvTranspose3d"


class HalfLinear(HalfWeights, nn.Linear):
    """A linear layer in 16 bits."""

    kind = "Linear"

    def forward(self, input: Tensor) -> Tensor:
        """(…, features) to (…, features')."""
        x = self._rounded(input)
        return self._rounded(functional.linear(x, *self._wide(x)))


class HalfEmbedding(HalfWeights, nn.Embedding):
    """A table of 16-bit rows."""

    kind = "Embedding"

    def forward(self, input: Tensor) -> Tensor:
        """(…) indices to (…, width), float32."""
        rows = functional.embedding(input, self.weight, self.padding_idx)
        found: Tensor = _converted(rows, torch.float32)
        return found


HALF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: HalfConv1d,
    nn.Conv2d: HalfConv2d,
    nn.Conv3d: HalfConv3d,
    nn.ConvTranspose1d: HalfConvTranspose1d,
    nn.ConvTranspose2d: HalfConvTranspose2d,
    nn.ConvTranspose3d: HalfConvTranspose3d,
    nn.Linear: HalfLinear,
    nn.Embedding: HalfEmbedding,
}
"""Float layer -> the same in 16 bits, by exact type: a subclass may compute something else."""


def is_half(module: nn.Module) -> bool:
    """Whether the layer keeps its weights and values in 16-bit floating point."""
    return isinstance(module, HalfWeights)


def half_from(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The layer in 16 bits, parameters rounded to the nearest; ``module`` is left as it is.

    Args:
        module: one of the types in :data:`HALF`.
        dtype: ``torch.float16``, whose greatest number is 65,504, or ``torch.bfloat16``.
    """
    made = module.__new__(HALF[type(module)])
    made.__dict__.update(module.__dict__)
    made._parameters = {
        name: None if one is None else nn.Parameter(one.detach().to(dtype), one.requires_grad)
        for name, one in module._parameters.items()
    }
    return made


def without_casts(model: nn.Module) -> None:
    """Turn every layer in 16 bits in ``model``, a copy of the caller's own, into the float32
    layer of the same values.
    """
    plain = {half: kind for kind, half in HALF.items()}
    for module in model.modules():
        if isinstance(module, HalfWeights):
            changed: Any = module
            changed.__class__ = plain[type(module)]
            for name, one in list(changed._parameters.items()):
                if one is not None:
                    setattr(changed, name, nn.Parameter(one.detach().float(), one.requires_grad))
