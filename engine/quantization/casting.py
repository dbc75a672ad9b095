"""Weights and values in 16-bit floating point."""

import torch
from torch import Tensor, nn

from engine.editing import Subject, module_at
from engine.edits import Cast, LayersCast
from engine.errors import EditRefused, RecipeMismatch
from engine.half_layers import HALF, half_from, is_half
from engine.integer_layers import is_quantized
from engine.job import Job
from engine.layers import LayerId
from engine.sharing import replace_module
from engine.state import LayerEffect
from engine.tracing import Trace


class Casting:
    """Handler of :class:`engine.edits.Cast`."""

    spares_outputs = False
    keeps_ranges = True

    def applies(self, module: nn.Module) -> bool:
        """Convolutions, linear layers and embeddings in float32, of exactly torch's types."""
        if type(module) not in HALF or getattr(module, "max_norm", None) is not None:
            return False
        return all(one.dtype is torch.float32 for one in module.parameters())

    def fits(self, layer: LayerId, model: nn.Module, seen: Trace) -> bool:
        """Where no other layer reads the weights itself."""
        weight = module_at(model, layer)._parameters.get("weight")
        readers = seen.operators.layers_reading(f"{layer}.weight".lstrip(".")) - {layer}
        return all(module_at(model, one)._parameters.get("weight") is weight for one in readers)

    def draft(self, edit: Cast, subject: Subject, job: Job) -> LayersCast:
        """As :meth:`decide`: nothing is looked at but weights."""
        return self.decide(edit, subject, job)

    def decide(self, edit: Cast, subject: Subject, job: Job) -> LayersCast:
        """Refuse what cannot be cast, or does not fit into the type."""
        for layer in edit.layers:
            job.check()
            if why := self._why_not(module_at(subject.model, layer)):
                raise EditRefused(f"{layer} {why}.")
            if not self.fits(layer, subject.model, subject.trace):
                raise EditRefused(
                    f"{layer} cannot be cast: the layer around it reads its weights itself."
                )
        decision = LayersCast(edit.layers, edit.dtype)
        beyond = sum(int(rounded.isinf().sum()) for _, rounded in _rounded(decision, subject))
        if beyond:
            raise EditRefused(
                f"{_weights(beyond)} of the chosen layers {'is' if beyond == 1 else 'are'} beyond "
                f"the range of {edit.dtype}, ±{torch.finfo(_dtype(decision)).max:,.0f}.",
                "Choose bfloat16, whose range is that of float32.",
            )
        return decision

    def carry_out(self, decision: LayersCast, model: nn.Module) -> None:
        """Replace the layers by those in 16 bits."""
        for layer in decision.layers:
            module = module_at(model, layer)
            if not self.applies(module):
                raise RecipeMismatch(f"{layer} is no float32 layer that can be cast.")
            replace_module(model, layer, half_from(module, _dtype(decision)))

    def effects(self, decision: LayersCast, subject: Subject) -> tuple[LayerEffect, ...]:
        """Weight bits of each layer."""
        return tuple(
            LayerEffect(layer, "chosen", "weight bits", subject.tree[layer].weight_bits or 32, 16)
            for layer in decision.layers
        )

    def notes(self, decision: LayersCast, subject: Subject) -> tuple[str, ...]:
        """What the type cannot hold, and what latency on this machine will show."""
        lost = sum(
            int(((rounded == 0) & (weight != 0)).sum())
            for weight, rounded in _rounded(decision, subject)
        )
        found = []
        if lost:
            was = "is too small for it and becomes" if lost == 1 else "are too small and become"
            found.append(f"{_weights(lost)} {was} 0 in {decision.dtype}.")
        if decision.dtype == "float16":
            found.append(
                "Inputs and outputs beyond ±65,504 become infinite in float16; bfloat16 has the "
                "range of float32."
            )
        found.append(
            "On this machine 16-bit layers run as a simulation that sums in float32: their "
            "latency here is not that of a 16-bit runtime."
        )
        return tuple(found)

    def _why_not(self, module: nn.Module) -> str:
        """What keeps the layer from being cast; "" for nothing."""
        if self.applies(module):
            return ""
        if is_half(module):
            return "is kept in 16 bits already"
        if is_quantized(module):
            return "holds integers, which take no more bits than that"
        return f"({type(module).__name__}) cannot be kept in 16-bit floating point"


def _dtype(decision: LayersCast) -> torch.dtype:
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}[decision.dtype]


def _rounded(decision: LayersCast, subject: Subject) -> list[tuple[Tensor, Tensor]]:
    """Each finite parameter of the layers, and what becomes of it."""
    found = []
    for layer in map(LayerId, decision.layers):
        for one in module_at(subject.model, layer).parameters(recurse=False):
            finite = one.detach()[one.detach().isfinite()]
            found.append((finite, finite.to(_dtype(decision))))
    return found


def _weights(count: int) -> str:
    return "1 weight" if count == 1 else f"{count:,} weights"
