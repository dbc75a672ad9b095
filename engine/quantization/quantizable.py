"""Which layers can be quantized, and why the others stay in float."""

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from engine.batch_norms import is_batch_norm
from engine.editing import module_at
from engine.half_layers import is_half
from engine.integer_layers import QUANTIZED, is_quantized
from engine.layers import LayerId
from engine.operators import Work
from engine.pruned_layers import is_explicit, reads_projections, why_not_explicit
from engine.quantization.operators import rounds
from engine.rounded_operators import RoundedOperators, why_not_rounded
from engine.tracing import Trace


@dataclass(frozen=True)
class Verdict:
    """Whether a layer can be quantized as it stands.

    Attributes:
        why: it cannot, in half a sentence; "" if it can, or computes nothing that could be.
    """

    possible: bool
    why: str = ""


_POSSIBLE, _NOTHING = Verdict(True), Verdict(False)


def verdict(layer: LayerId, model: nn.Module, seen: Trace) -> Verdict:
    """Whether the layer can be quantized where it stands in the model, as the trace shows it."""
    module = module_at(model, layer)
    if is_rounded(module):
        return _NOTHING
    if is_half(module):
        return Verdict(False, "it is kept in 16-bit floating point")
    if any(one.is_meta for one in module.parameters(recurse=False)):
        return _NOTHING
    if type(module) in QUANTIZED or type(module) is NonDynamicallyQuantizableLinear:
        return _of_weights(layer, module, model, seen)
    if reads_projections(module):
        return _judged(why_not_explicit(module) if layer else "is the whole model")
    if rounds(seen.own_operators.get(layer)):
        return _judged(why_not_rounded(module))
    return Verdict(False, _why_float(layer, module, seen))


def is_rounded(module: nn.Module) -> bool:
    """Whether it is quantized already: its weights, or operators of its own code."""
    return is_quantized(module) or isinstance(module, RoundedOperators)


def is_idle(layer: LayerId, module: nn.Module, seen: Trace) -> bool:
    """Whether a layer with weights takes no part in a run, not even by its weights."""
    has_weights = type(module) in QUANTIZED and layer not in seen.output_shapes
    return has_weights and not seen.operators.layers_reading(_weight(layer))


def _weight(layer: LayerId) -> str:
    return f"{layer}.weight".lstrip(".")


def _holds(reader: nn.Module, module: nn.Module) -> bool:
    """Whether a layer that reads another's weight has it as its own: the two are tied."""
    return reader._parameters.get("weight") is module._parameters["weight"]


def _judged(why: str) -> Verdict:
    return Verdict(not why, f"it {why}" if why else "")


def _of_weights(layer: LayerId, module: nn.Module, model: nn.Module, seen: Trace) -> Verdict:
    parent = module_at(model, LayerId(layer.rpartition(".")[0])) if layer else module
    if reads_projections(parent):
        return _judged(why_not_explicit(parent))
    if module._parameters.get("weight") is None:
        return Verdict(False, "it computes its weights anew whenever it runs")
    readers = seen.operators.layers_reading(_weight(layer))
    if any(not _holds(module_at(model, one), module) for one in readers - {layer}):
        return Verdict(False, "the layer around it reads its weights itself")
    if layer not in seen.output_shapes:
        return _NOTHING  # it does not run
    if type(module) not in QUANTIZED:
        return Verdict(False, _subclass(nn.Linear))
    return _POSSIBLE


def _why_float(layer: LayerId, module: nn.Module, seen: Trace) -> str:
    """Why a layer that is none of those that can be quantized stays as it is."""
    if layer not in seen.output_shapes or is_explicit(module):
        return ""
    if why := _reason_of_kind(module):
        return why
    names = {one.name for one in seen.operators.of(layer) if one.work is Work.PRODUCT}
    if not names:
        return ""
    if seen.own_operators.get(layer, ()) is None:
        return "it does not multiply the same whenever it runs"
    return f"it multiplies in code of its own ({', '.join(sorted(names))})"


def reason_against(layer: LayerId, model: nn.Module, seen: Trace) -> str:
    """Why the layer cannot be quantized, in half a sentence; "" if it can."""
    found, module = verdict(layer, model, seen), module_at(model, layer)
    if found.possible or found.why:
        return found.why
    if is_batch_norm(module) or isinstance(module, _BatchNorm):
        return "a batch norm goes into the layer before it when that is quantized"
    if next(module.children(), None) is not None:
        return "it holds layers; choose those"
    if next(module.parameters(recurse=False), None) is None:
        return "it has no weights"
    return "it is neither a convolution nor a linear layer"


def _reason_of_kind(module: nn.Module) -> str:
    if isinstance(module, _ConvTransposeNd):
        return "a transposed convolution has no integer form here"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "its weights are looked up and not multiplied"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "a recurrent layer keeps its state in float between steps"
    plain = next((kind for kind in QUANTIZED if isinstance(module, kind)), None)
    return "" if plain is None else _subclass(plain)


def _subclass(plain: type[nn.Module]) -> str:
    return f"it may compute something else than {plain.__name__}"
