"""What every edit that zeroes single weights shares: which can be, how masks are kept and told.

Masks are kept by us: the mechanism of ``torch.nn.utils.prune`` (hooks, ``weight_orig``) breaks
``deepcopy``, doubles the state dict and saves nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from engine.editing import Subject, module_at
from engine.edits import WeightMask, WeightsZeroed
from engine.errors import EditRefused, RecipeMismatch
from engine.integer_layers import IntegerWeights, is_quantized
from engine.layers import LayerId
from engine.sharing import own_parameter
from engine.state import LayerEffect

_KINDS = (nn.modules.conv._ConvNd, nn.Linear)
_OF_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Weight:
    """One tensor of a layer whose elements can be zeroed.

    Attributes:
        parameter: the module's own name of it.
        values: the tensor itself, without history; never written to.
    """

    layer: LayerId
    parameter: str
    module: nn.Module
    values: Tensor

    @property
    def name(self) -> str:
        """Full name of the parameter."""
        return f"{self.layer}.{self.parameter}" if self.layer else self.parameter

    def mask(self, keep: Tensor) -> WeightMask:
        """The mask, bit-packed; what is zero already goes whatever ``keep`` says."""
        keep = keep.logical_and(self.values != 0)
        packed = np.packbits(keep.flatten().numpy()).tobytes()
        return WeightMask(self.layer, tuple(self.values.shape), packed, self.parameter)


class Zeroing:
    """The part of a handler that does not depend on how masks are chosen."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Convolutions, linear and recurrent layers and attention, of floats or of integers."""
        return is_quantized(module) or bool(weights_in(module))

    def carry_out(self, decision: WeightsZeroed, model: nn.Module) -> None:
        """Replace the weights by masked ones, in every layer that has the same tensor."""
        for mask in decision.masks:
            weight, module = _masked(mask, model), module_at(model, mask.layer)
            if isinstance(module, IntegerWeights):
                module.weight = module.masked(kept(mask).to(weight.device))
                module.is_masked = True
                continue
            masked = torch.where(kept(mask).to(weight.device), weight.detach(), 0.0)
            instead = own_parameter(masked, weight)
            for _, holder, name in list(_holders(model, weight)):
                setattr(holder, name, instead)

    def effects(self, decision: WeightsZeroed, subject: Subject) -> tuple[LayerEffect, ...]:
        """Zeros of each layer, before and after; layers that share a tensor are coupled."""
        before: dict[LayerId, int] = {}
        after: dict[LayerId, int] = {}
        chosen = {mask.layer for mask in decision.masks}
        for mask in decision.masks:
            weight = _masked(mask, subject.model)
            stays = int(torch.count_nonzero(weight.detach() * kept(mask)))
            holders = [name for name, _, _ in _holders(subject.model, weight)]
            for layer in map(LayerId, holders or [mask.layer]):  # integers are no parameter
                before[layer] = before.get(layer, 0) + _zeros(weight)
                after[layer] = after.get(layer, 0) + weight.numel() - stays
        return tuple(
            LayerEffect(
                layer, "chosen" if layer in chosen else "coupled", "zeros", count, after[layer]
            )
            for layer, count in before.items()
        )

    def notes(self, decision: WeightsZeroed, subject: Subject) -> tuple[str, ...]:
        """What zeros are good for."""
        told = (
            "Zeroed weights compress well, but save time and energy only on hardware "
            "that skips zeros."
        )
        return (told, _TWO_OF_FOUR) if _is_two_of_four(decision, subject) else (told,)


# Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv 2104.08378 (2021).
_TWO_OF_FOUR = (
    "At most 2 of every 4 weights along the input channels are left: the form that the sparse "
    "tensor cores of NVIDIA's GPUs skip from Ampere on, in 16-bit or 8-bit types and with kernels "
    "made for it; processors and other GPUs run it as if it were dense."
)


def weights_in(module: nn.Module) -> dict[str, Tensor]:
    """The module's own weights whose elements can be zeroed, by name, perhaps none.

    Of integers what they stand for.
    """
    names: tuple[str, ...] = _OF_ATTENTION
    if isinstance(module, IntegerWeights):
        return {"weight": module.float_weight()}
    if isinstance(module, _KINDS):
        names = ("weight",)
    elif isinstance(module, nn.RNNBase):
        names = tuple(name for name in module._flat_weights_names if name.startswith("weight"))
    # What is computed from other tensors, as weight norm does, is none of the parameters.
    held = {name: module._parameters.get(name) for name in names}
    return {name: one for name, one in held.items() if one is not None and one.is_floating_point()}


def chosen_weights(layers: tuple[LayerId, ...], subject: Subject) -> tuple[Weight, ...]:
    """The weights of the layers, each tensor once.

    Raises:
        EditRefused: a layer has none that can be zeroed.
    """
    found: dict[int, Weight] = {}
    for layer in layers:
        module = module_at(subject.model, layer)
        weights = weights_in(module)
        if not weights:
            raise EditRefused(
                f"{layer} ({type(module).__name__}) has no weights that can be zeroed."
            )
        for name, one in weights.items():
            found.setdefault(id(one), Weight(layer, name, module, one.detach()))
    return tuple(found.values())


def kept(mask: WeightMask) -> Tensor:
    """The mask as a boolean tensor of the weight's shape, True where the weight stays.

    Raises:
        RecipeMismatch: it has more or fewer bytes than the shape needs.
    """
    count = prod(mask.shape)
    if len(mask.kept) != -(-count // 8):
        raise RecipeMismatch(f"The mask of {mask.layer} does not have one bit for each weight.")
    bits = np.unpackbits(np.frombuffer(mask.kept, np.uint8), count=count)
    return torch.from_numpy(bits.view(bool)).reshape(mask.shape)


def _masked(mask: WeightMask, model: nn.Module) -> Tensor:
    """The tensor that the mask was made for; refuses one from a file that is of another."""
    weight = weights_in(module_at(model, mask.layer)).get(mask.parameter)
    if weight is None:
        raise RecipeMismatch(f"{mask.layer} has no “{mask.parameter}” to be masked.")
    if tuple(weight.shape) != mask.shape:
        raise RecipeMismatch(f"The mask of {mask.layer} has another shape: {mask.shape}.")
    return weight


def by_input(module: nn.Module, weight: Tensor) -> Tensor:
    """The weight as (outputs, places of the kernel, input channels that each output reads)."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        return weight[:, None, :]
    if module.transposed:  # (in, out / groups, *kernel)
        groups = module.groups
        apart = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return apart.permute(0, 2, 3, 1).flatten(0, 1)
    return weight.flatten(2).transpose(1, 2)


def as_weight(module: nn.Module, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What :func:`by_input` made of a weight of that shape, as a weight again."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        return rows.reshape(shape)
    if module.transposed:
        apart = rows.reshape(module.groups, shape[1], *rows.shape[1:])
        return apart.permute(0, 3, 1, 2).reshape(shape)
    return rows.transpose(1, 2).reshape(shape)


def _holders(model: nn.Module, weight: Tensor) -> Iterator[tuple[str, nn.Module, str]]:
    """Path, module and name wherever the tensor is a parameter."""
    for path, module in model.named_modules():
        for name, one in module._parameters.items():
            if one is weight:
                yield path, module, name


def _zeros(weight: Tensor) -> int:
    return weight.numel() - int(torch.count_nonzero(weight.detach()))


def _is_two_of_four(decision: WeightsZeroed, subject: Subject) -> bool:
    """Whether every mask leaves at most 2 of every 4 weights along the input channels."""
    for mask in decision.masks:
        rows = by_input(module_at(subject.model, mask.layer), kept(mask))
        if rows.shape[-1] % 4 or int(rows.reshape(-1, 4).sum(1).max()) > 2:
            return False
    return bool(decision.masks)
