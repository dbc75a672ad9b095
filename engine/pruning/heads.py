"""Whole attention heads removed.

The law: the layer puts out what it put out with the columns of its output projection that read the
removed heads at 0. Heads can go at little loss (Michel et al., Are Sixteen Heads Really Better than
One?, 2019).
"""

import torch
from torch import Tensor, nn

from engine.editing import Subject, module_at
from engine.edits import HeadsGone, HeadsRemoved, PruneHeads
from engine.errors import EditRefused, RecipeMismatch
from engine.job import Job
from engine.layers import LayerId
from engine.pruned_layers import head_projections, heads_of, why_heads_stay, without_heads
from engine.sharing import replace_module
from engine.state import LayerEffect

_KNOWN = (
    "Heads can be removed from torch's MultiheadAttention, the attention of torchvision's Swin and "
    "MaxViT, and timm's Attention, while their weights are in float."
)


class HeadPruning:
    """Handler of :class:`engine.edits.PruneHeads`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Attention of a known class that has more than one head, each of its own."""
        return not _why_not(module)

    def draft(self, edit: PruneHeads, subject: Subject, job: Job) -> HeadsRemoved:
        """The same as :meth:`decide`: norms of projections are quick."""
        return self.decide(edit, subject, job)

    def decide(self, edit: PruneHeads, subject: Subject, job: Job) -> HeadsRemoved:
        """The heads of least norm in each layer, or those that were picked."""
        if not 0 <= edit.ratio < 1:
            raise EditRefused(
                f"A ratio of {edit.ratio:g} is not possible: it must be at least 0 and below 1."
            )
        if edit.heads and len(edit.layers) > 1:
            raise EditRefused(
                f"Heads were picked by hand for {len(edit.layers)} layers at once.",
                "Select the one layer that they belong to.",
            )
        for layer in edit.layers:
            if why := _why_not(module_at(subject.model, layer)):
                raise EditRefused(f"No head of {layer} can be removed: {why}.", _KNOWN)
        chosen = (
            HeadsGone(layer, *_choose(edit, subject, layer))
            for layer in job.track(edit.layers, "Choosing heads")
        )
        return HeadsRemoved(tuple(one for one in chosen if one.removed))

    def carry_out(self, decision: HeadsRemoved, model: nn.Module) -> None:
        """Replace the layers by ones of fewer heads."""
        for one in decision.layers:
            module = module_at(model, one.layer)
            fits = heads_of(module) == one.of and not why_heads_stay(module)
            if not fits or not 0 < len(set(one.removed)) < one.of or max(one.removed) >= one.of:
                raise RecipeMismatch(
                    f"{len(one.removed)} of {one.of} heads cannot be removed from {one.layer}."
                )
            replace_module(model, one.layer, without_heads(module, one.removed))

    def effects(self, decision: HeadsRemoved, subject: Subject) -> tuple[LayerEffect, ...]:
        """Heads of each layer, before and after."""
        return tuple(
            LayerEffect(
                one.layer, "chosen", "heads", one.of, one.of - len(one.removed), one.removed
            )
            for one in decision.layers
        )

    def notes(self, decision: HeadsRemoved, subject: Subject) -> tuple[str, ...]:
        """Savings that hold on every device."""
        if not decision.layers:
            return ("The amount removes no whole head: nothing changes.",)
        return ("Removed heads save time, memory and energy on every device.",)


def _why_not(module: nn.Module) -> str:
    """Why the layer loses no head; "" if it can."""
    heads = heads_of(module)
    if heads is None:
        return f"{type(module).__name__} is no attention layer of a known kind"
    if heads == 1:
        return "its one head stays"
    why = why_heads_stay(module)
    return f"it {why}" if why else ""


def _choose(edit: PruneHeads, subject: Subject, layer: LayerId) -> tuple[tuple[int, ...], int]:
    """The heads that go, sorted, and how many there are."""
    module = module_at(subject.model, layer)
    of = heads_of(module) or 0
    if edit.heads:
        picked = sorted(set(edit.heads))
        if not 0 <= picked[0] <= picked[-1] < of:
            raise EditRefused(f"{layer} has heads 0 to {of - 1}.")
        if len(picked) == of:
            raise EditRefused(f"{layer} would be left without heads: one must stay.")
        return tuple(picked), of
    if edit.criterion == "random":
        generator = torch.Generator().manual_seed(edit.seed % 2**63)
        order = torch.randperm(of, generator=generator)
    else:
        order = subject.once(
            f"heads of {layer}", lambda: head_importance(module).argsort(stable=True)
        )
    count = min(round(edit.ratio * of), of - 1)
    return tuple(sorted(order[:count].tolist())), of


def head_importance(module: nn.Module) -> Tensor:
    """Frobenius norm of each head's output projection times its value projection, (heads,).

    The product is all that a head can write, whatever it attends to (Elhage et al., A Mathematical
    Framework for Transformer Circuits, 2021). By the trace of a product of two Gram matrices of
    the head's size, float64.

    Raises:
        EditRefused: no head of the layer can be removed.
    """
    if why := _why_not(module):
        raise EditRefused(f"No head can be removed: {why}.", _KNOWN)
    value, output = (one.double() for one in head_projections(module))
    grams = value @ value.transpose(1, 2), output.transpose(1, 2) @ output
    return (grams[0] * grams[1]).sum((1, 2)).clamp(min=0).sqrt()
