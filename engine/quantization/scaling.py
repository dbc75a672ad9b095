"""Layers multiplied channel by channel, so that the model's outputs stay the same."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from engine.batch_norms import fold, is_batch_norm
from engine.editing import Subject, module_at
from engine.edits import ChannelScale, ChannelsScaled
from engine.errors import EditRefused, RecipeMismatch
from engine.layers import LayerId
from engine.pruned_layers import Folded
from engine.quantization.followers import inputs_of
from engine.sharing import own_parameter, replace_module, share, share_for_running
from engine.state import LayerEffect

LEAST, MOST = 2.0**-16, 2.0**16  # of a factor
_ALLOWED = 1e-3  # of the largest output


def scaled(decision: ChannelsScaled, model: nn.Module) -> None:
    """Give ``model``, a sharing copy, the scaled weights.

    Raises:
        RecipeMismatch: it has no such layer, or one of other channels.
    """
    for one in decision.scales:
        module = module_at(model, one.layer)
        if one.folded is not None:
            norm = module_at(model, one.folded)
            if not is_batch_norm(norm):
                raise RecipeMismatch(f"{one.folded} is no batch norm.")
            fold(module, norm)
            replace_module(model, one.folded, Folded(norm, one.layer))
        factors = torch.tensor(one.factors, dtype=torch.float64)
        tensors = list(_tensors(module, one.side))
        if not tensors:
            raise RecipeMismatch(f"{one.layer} has no weights that can be scaled.")
        for name, tensor in tensors:
            by = _by_weight(factors, module, tensor, one)
            made = (tensor.detach().double() * by).to(tensor.dtype)
            setattr(module, name, own_parameter(made, tensor))


def _tensors(module: Any, side: str) -> Iterator[tuple[str, nn.Parameter]]:
    names = ("weight", "bias") if side == "out" else ("weight", "in_proj_weight")
    for name in names:
        tensor = getattr(module, name, None)
        if isinstance(tensor, nn.Parameter):
            yield name, tensor


def _by_weight(factors: Tensor, module: nn.Module, tensor: Tensor, one: ChannelScale) -> Tensor:
    """The factors of a shape that multiplies the layer's tensor."""
    count = len(factors)
    if one.side == "out":
        if tensor.shape[0] != count or not tensor.is_floating_point():
            raise RecipeMismatch(f"{one.layer} does not have {count} channels that can be scaled.")
        return factors.reshape(-1, *(1,) * (tensor.dim() - 1))
    inputs = inputs_of(module)
    if inputs is None or inputs % count:
        raise RecipeMismatch(f"{one.layer} does not read {count} channels that can be scaled.")
    factors = factors.repeat_interleave(inputs // count)
    groups = module.groups if isinstance(module, _ConvNd) else 1
    # (groups, input channels of a group) to a row for each output channel.
    rows = factors.reshape(groups, -1).repeat_interleave(tensor.shape[0] // groups, 0)
    return rows.reshape(*rows.shape, *(1,) * (tensor.dim() - 2))


def by_input(weight: Tensor, groups: int) -> Tensor:
    """A weight as (groups, output channels of a group, input channels of a group, the rest)."""
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)


def largest_read(module: Any, places: int) -> Tensor:
    """The largest magnitude among the weights that read each channel, float64 (channels,)."""
    _, weight = next(_tensors(module, "in"))
    groups = module.groups if isinstance(module, _ConvNd) else 1
    found = by_input(weight.detach().double().abs(), groups).amax((1, 3))
    return found.reshape(-1, places).amax(1)


def checked(decision: ChannelsScaled, subject: Subject) -> ChannelsScaled:
    """The decision, if the outputs on the sample input stay what they are.

    Raises:
        EditRefused: they do not.
    """
    after = share(subject.model)
    scaled(decision, after)
    before, now = (_outputs(model, subject) for model in (subject.model, after))
    for one, other in zip(before, now, strict=True):
        reach = one.abs().max() if one.numel() else torch.tensor(0.0)
        if torch.isfinite(reach) and not (one - other).abs().max() <= _ALLOWED * reach:
            raise EditRefused(
                "Scaled so, the model's outputs would change: its code does more with the "
                "channels than its operators show.",
                "Leave these layers out of the selection.",
            )
    return decision


@torch.inference_mode()
def _outputs(model: nn.Module, subject: Subject) -> list[Tensor]:
    found = tree_leaves(share_for_running(model)(*subject.inputs))
    return [one for one in found if isinstance(one, Tensor) and one.is_floating_point()]


def touched(decision: ChannelsScaled, subject: Subject) -> tuple[LayerEffect, ...]:
    """How many channels of each layer are multiplied, on both sides; batch norms that go away."""
    counts: dict[LayerId, int] = {}
    effects = []
    for one in decision.scales:
        changed = sum(1 for factor in one.factors if factor != 1.0)
        counts[one.layer] = max(counts.get(one.layer, 0), changed)
        if one.folded is not None:
            norm = subject.tree[one.folded]
            effects.append(LayerEffect(one.folded, "folded", "parameters", norm.parameters, 0))
    return (
        *(LayerEffect(layer, "coupled", "channels scaled", 0, n) for layer, n in counts.items()),
        *effects,
    )
