"""Layers that round, trained through the rounding.

A layer of integer or 16-bit weights that trains holds float32 weights, latent ones. The forward
pass rounds them, and what the layer reads, exactly as the layer itself does; the backward pass
takes the rounding for the identity where a value lies within its grid (the straight-through
estimator, Bengio et al., arXiv 1308.3432, 2013; quantization-aware training, Jacob et al., 2018).
Scales and zero points stay. What is kept of the training is the rounded weights.

Latent weights begin where the float weights were, as far as that rounds to what the layer holds;
where nobody knows them, in the middle of what rounds so.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.batch_norms import folded, is_batch_norm
from engine.editing import Subject
from engine.half_layers import HALF, HalfEmbedding, HalfWeights
from engine.integer_layers import (
    QUANTIZED,
    IntegerWeights,
    WeightFormat,
    float_weight,
    round_input,
    round_weight,
)
from engine.pruned_layers import Folded
from engine.rounded_operators import bake_operators

_WITHIN = 0.49  # steps from a value of the grid, which are sure to be rounded to it


def pass_through(
    model: nn.Module, trained: Collection[nn.Module], floats: Mapping[str, Tensor]
) -> None:
    """Let gradients through everything in ``model``, a copy of the caller's own, that rounds.

    Args:
        trained: those of its layers whose rounded weights are to be trained; the others' stay.
        floats: weights before rounding, by the layer's path, where they are known.
    """
    chosen = set(map(id, trained))
    for layer, module in list(model.named_modules()):
        if isinstance(module, HalfWeights):
            _widen(module, floats.get(layer), trains=id(module) in chosen)
        elif isinstance(module, IntegerWeights):
            if id(module) in chosen:
                _loosen(module, floats.get(layer))
            else:
                module.bake()
    bake_operators(model)


def floats_of(subject: Subject) -> dict[str, Tensor]:
    """The weights that the layers which round had before rounding, batch norms folded in.

    By path; empty for a state that nobody knows otherwise, such as that of a file.
    """
    if subject.unrounded is None:
        return {}
    norms = {
        module.into: name
        for name, module in subject.model.named_modules()
        if isinstance(module, Folded)
    }
    before = dict(subject.unrounded.model.named_modules())
    found = {}
    for layer, module in subject.model.named_modules():
        if isinstance(module, IntegerWeights | HalfWeights) and layer in before:
            norm = before.get(norms.get(layer, ""))
            folds = norm is not None and is_batch_norm(norm)
            if isinstance(getattr(before[layer], "weight", None), Tensor):
                found[layer] = folded(before[layer], norm if folds else None)[0].float()
    return found


def masks_of(model: nn.Module, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where the trained weights of a model that :func:`pass_through` got are zero for good.

    Integers may be zero because something small was rounded. Where the float weights held no
    zeros, all are free to move.
    """
    free = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, _Latent) and not module.is_masked
    }
    return {
        name: mask
        for name, one in trained.items()
        if one.dim() > 1 and id(one) not in free and bool((mask := one.detach() == 0).any())
    }


def as_stored(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, by full name, as the model that is trained keeps them: latent ones rounded."""
    found = {}
    for name, one in tensors.items():
        module, last = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        if isinstance(module, _Latent) and last == "weight":
            found[name] = round_weight(one, *_grid(module))
        elif isinstance(module, _HalfLatent):
            found[name] = one.to(module.half_type)
        else:
            found[name] = one
    return found


# Integers


class _Nearest(torch.autograd.Function):
    """Weights on their grid; gradients pass where it reaches."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, form: WeightFormat, scale: Tensor, zero_point: Tensor
    ) -> Tensor:
        values = float_weight(
            round_weight(weight, form, scale, zero_point), form, scale, zero_point
        )
        # Half a step beyond its last value is still rounded to it.
        ctx.save_for_backward((weight - values).abs() <= _steps(weight, form, scale) / 2)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (within,) = ctx.saved_tensors
        return gradients[0] * within, None, None, None


def _steps(weight: Tensor, form: WeightFormat, scale: Tensor) -> Tensor:
    """The step of each weight's grid, a little more, as sums of floats are not exact."""
    if scale.dim() == 2:
        scale = scale.repeat_interleave(form.group_size, 1)
        return scale.reshape(weight.shape) * 1.0001
    return scale.reshape(-1, *[1] * (weight.dim() - 1)) * 1.0001


class _Latent(IntegerWeights):
    """A layer of integer weights whose weight is a float32 parameter."""

    def float_weight(self) -> Tensor:
        """The weight on its grid."""
        found: Tensor = _Nearest.apply(self.weight, *_grid(self))
        return found

    def _rounded(self, x: Tensor) -> Tensor:
        return round_input(x, self.input_grid, fused=True)


_LATENT = {
    kind: type(f"Trained{kind.__name__}", (_Latent, kind), {}) for kind in QUANTIZED.values()
}


def _grid(module: IntegerWeights) -> tuple[WeightFormat, Tensor, Tensor]:
    return module.weight_format, module.weight_scale, module.weight_zero_point


def _loosen(module: IntegerWeights, before: Tensor | None) -> None:
    weight, changed = module.float_weight().detach(), _any(module)
    if before is not None and before.shape == weight.shape:
        reach = _steps(weight, module.weight_format, module.weight_scale) * _WITHIN
        weight = torch.minimum(
            torch.maximum(before.to(weight.device), weight - reach), weight + reach
        )
    changed.__class__ = _LATENT[type(changed)]
    del changed._buffers["weight"]
    changed.weight = nn.Parameter(weight)
    if changed.bias is not None:
        changed.bias.requires_grad_(True)


# 16 bits


class _Narrowed(torch.autograd.Function):
    """A value rounded to 16 bits; gradients pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class _HalfLatent(HalfWeights):
    """A layer in 16 bits whose parameters are of float32.

    Attributes:
        half_type: what they are rounded to.
    """

    half_type: torch.dtype

    def _rounded(self, x: Tensor) -> Tensor:
        found: Tensor = _Narrowed.apply(x, self.half_type)
        return found

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        bias = _any(self).bias
        return self._rounded(self.weight), None if bias is None else self._rounded(bias)


class _LatentEmbedding(_HalfLatent, HalfEmbedding):
    def forward(self, input: Tensor) -> Tensor:
        """(…) indices to (…, width), float32."""
        return functional.embedding(input, self._rounded(self.weight), self.padding_idx)


_HALF_LATENT: dict[type[nn.Module], type[nn.Module]] = {
    kind: type(f"Trained{kind.__name__}", (_HalfLatent, kind), {}) for kind in HALF.values()
} | {HalfEmbedding: _LatentEmbedding}


def _widen(module: HalfWeights, before: Tensor | None, trains: bool) -> None:
    changed, kept = _any(module), module.weight.detach()
    changed.half_type = kept.dtype
    changed.__class__ = _HALF_LATENT[type(changed)]
    for name, one in list(changed._parameters.items()):
        if one is not None:
            setattr(changed, name, nn.Parameter(one.detach().float(), trains))
    if before is not None and before.shape == kept.shape:
        before = before.to(kept.device)
        same = before.to(kept.dtype) == kept
        changed.weight = nn.Parameter(torch.where(same, before, kept.float()), trains)


def _any(module: Any) -> Any:
    """The layer as a module, whatever else it is."""
    return module
