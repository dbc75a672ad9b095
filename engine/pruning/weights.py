"""Unstructured pruning: single weights zeroed by a mask.

The masks are computed by ``torch.nn.utils.prune``'s methods, and kept by us: its own mechanism
(hooks, ``weight_orig``) breaks ``deepcopy``, doubles the state dict and saves nothing.
"""

from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from engine.editing import Subject, module_at
from engine.edits import PruneWeights, WeightMask, WeightsZeroed
from engine.errors import EditRefused, RecipeMismatch
from engine.integer_layers import is_quantized
from engine.job import Job
from engine.sharing import own_parameter
from engine.state import LayerEffect

_KINDS = (nn.modules.conv._ConvNd, nn.Linear)
_METHODS = {"l1": prune.L1Unstructured, "random": prune.RandomUnstructured}


class WeightPruning:
    """Handler of :class:`engine.edits.PruneWeights`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Convolutions and linear layers in float."""
        return isinstance(module, _KINDS) and not is_quantized(module)

    def draft(self, edit: PruneWeights, subject: Subject, job: Job) -> WeightsZeroed:
        """The same as :meth:`decide`: masks are quick."""
        return self.decide(edit, subject, job)

    def decide(self, edit: PruneWeights, subject: Subject, job: Job) -> WeightsZeroed:
        """A mask for each layer."""
        if not 0 <= edit.ratio <= 1:
            raise EditRefused(f"A sparsity of {edit.ratio:g} is not possible: 0 to 1 is.")
        masks = []
        for layer in job.track(edit.layers, "Choosing weights"):
            module = module_at(subject.model, layer)
            if not self.applies(module):
                raise EditRefused(
                    f"{layer} is quantized: its weights can be zeroed only before that."
                    if is_quantized(module)
                    else f"{layer} ({type(module).__name__}) has no weights that can be zeroed."
                )
            weight = module.weight
            assert isinstance(weight, Tensor)
            keep = _mask(weight.detach(), edit)
            packed = np.packbits(keep.flatten().numpy()).tobytes()
            masks.append(WeightMask(layer, tuple(keep.shape), packed))
        return WeightsZeroed(tuple(masks))

    def carry_out(self, decision: WeightsZeroed, model: nn.Module) -> None:
        """Replace the weights by masked ones."""
        for mask in decision.masks:
            module = module_at(model, mask.layer)
            weight = module.weight
            assert isinstance(weight, Tensor)
            if tuple(weight.shape) != mask.shape:
                raise RecipeMismatch(f"The mask of {mask.layer} has another shape: {mask.shape}.")
            keep = kept(mask)
            module.weight = own_parameter(torch.where(keep, weight.detach(), 0.0), weight)

    def effects(self, decision: WeightsZeroed, subject: Subject) -> tuple[LayerEffect, ...]:
        """Zeros of each layer, before and after."""
        return tuple(
            LayerEffect(
                mask.layer,
                "chosen",
                "zeros",
                subject.tree[mask.layer].zeros,
                int((~kept(mask)).sum()),
            )
            for mask in decision.masks
        )

    def notes(self, decision: WeightsZeroed, subject: Subject) -> tuple[str, ...]:
        """What zeros are good for."""
        return (
            "Zeroed weights compress well, but save time and energy only on hardware "
            "that skips zeros.",
        )


def kept(mask: WeightMask) -> Tensor:
    """The mask as a boolean tensor of the weight's shape, True where the weight stays.

    Raises:
        RecipeMismatch: it has more or fewer bytes than the shape needs.
    """
    count = prod(mask.shape)
    if len(mask.kept) != -(-count // 8):
        raise RecipeMismatch(f"The mask of {mask.layer} does not have one bit for each weight.")
    bits = np.unpackbits(np.frombuffer(mask.kept, np.uint8))
    return torch.from_numpy(bits[:count].astype(bool)).reshape(mask.shape)


def _mask(weight: Tensor, edit: PruneWeights) -> Tensor:
    """True where the weight stays; zeros that are there already count towards the ratio."""
    zeros = weight.numel() - int(torch.count_nonzero(weight))
    count = round(edit.ratio * weight.numel()) - zeros
    if count <= 0:
        return weight != 0
    keep = weight != 0
    alive = weight[keep] if zeros else weight  # gathering is slow, and mostly needless
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(edit.seed)
        method = _METHODS[edit.criterion](amount=count)
        chosen: Tensor = method.compute_mask(alive, default_mask=torch.ones_like(alive)).bool()
    if not zeros:
        return chosen
    keep[keep.clone()] = chosen
    return keep
