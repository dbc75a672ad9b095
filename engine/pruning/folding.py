"""Batch norms folded into the layers before them."""

from torch import nn

from engine.batch_norms import FOLDABLE, fold, is_batch_norm, norm_behind
from engine.editing import Subject, module_at
from engine.edits import FoldNorms, NormsFolded
from engine.errors import EditRefused, RecipeMismatch
from engine.integer_layers import is_quantized
from engine.job import Job
from engine.layers import LayerId
from engine.pruned_layers import Folded
from engine.sharing import replace_module
from engine.state import LayerEffect
from engine.tracing import Trace


class NormFolding:
    """Handler of :class:`engine.edits.FoldNorms`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Convolutions, transposed ones too, and linear layers in float, of torch's types."""
        return type(module) in FOLDABLE and not is_quantized(module)

    def fits(self, layer: LayerId, model: nn.Module, seen: Trace) -> bool:
        """Where a batch norm alone reads the layer's output."""
        return norm_behind(layer, model, seen.operators) is not None

    def draft(self, edit: FoldNorms, subject: Subject, job: Job) -> NormsFolded:
        """The same as :meth:`decide`: the trace tells everything."""
        return self.decide(edit, subject, job)

    def decide(self, edit: FoldNorms, subject: Subject, job: Job) -> NormsFolded:
        """The batch norm behind each layer."""
        return NormsFolded(tuple((layer, _norm_of(layer, subject)) for layer in edit.layers))

    def carry_out(self, decision: NormsFolded, model: nn.Module) -> None:
        """Replace the layers' weights, and the batch norms by what they leave behind."""
        for layer, behind in decision.pairs:
            module, norm = module_at(model, layer), module_at(model, behind)
            if not self.applies(module) or not is_batch_norm(norm):
                raise RecipeMismatch(f"{behind} cannot be folded into {layer}.")
            fold(module, norm)
            replace_module(model, behind, Folded(norm, layer))

    def effects(self, decision: NormsFolded, subject: Subject) -> tuple[LayerEffect, ...]:
        """Parameters of the batch norms that go away, and of the layers that get a bias."""
        effects = []
        for layer, behind in decision.pairs:
            before, norm = subject.tree[layer].parameters, subject.tree[behind]
            module = module_at(subject.model, layer)
            bias = 0 if module.bias is not None else norm.channels or 0
            effects.append(LayerEffect(layer, "chosen", "parameters", before, before + bias))
            effects.append(LayerEffect(behind, "folded", "parameters", norm.parameters, 0))
        return tuple(effects)

    def notes(self, decision: NormsFolded, subject: Subject) -> tuple[str, ...]:
        """What stays the same, and what is no longer possible."""
        return (
            "The outputs stay the same, but for rounding.",
            "A folded batch norm has no scale to choose channels by, and no statistics to "
            "recalibrate.",
        )


def _norm_of(layer: LayerId, subject: Subject) -> LayerId:
    module = module_at(subject.model, layer)
    if is_quantized(module):
        raise EditRefused(f"{layer} has integer weights: a batch norm is folded before that.")
    if type(module) not in FOLDABLE:
        raise EditRefused(f"{layer} ({type(module).__name__}) cannot take a batch norm in.")
    found = norm_behind(layer, subject.model, subject.trace.operators)
    if found is None:
        raise EditRefused(
            f"No batch norm can be folded into {layer}: none of a known kind alone reads its "
            "output as it is, or one of the two runs more than once."
        )
    return found
