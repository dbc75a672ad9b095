"""Tensors that training or measuring gave a model: found, kept in a decision, put back."""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from engine.edits import Retrained
from engine.errors import RecipeMismatch
from engine.integer_layers import IntegerWeights
from engine.layers import LayerId, LayerTree
from engine.sharing import own_parameter, restored_tensor, stored_tensor, tensors_of
from engine.state import LayerEffect


def retrained(model: nn.Module, after: Mapping[str, Tensor], told: str) -> Retrained:
    """The decision that gives ``model`` those of the tensors that it does not have already."""
    before = dict(tensors_of(model))
    changed = (
        stored_tensor(name, tensor)
        for name, tensor in after.items()
        if not torch.equal(tensor.cpu(), before[name].detach().cpu())
    )
    return Retrained(tuple(changed), told)


def put_back(decision: Retrained, model: nn.Module) -> None:
    """Give ``model``, a sharing copy, the tensors; tied ones stay tied.

    Raises:
        RecipeMismatch: it has none of that name, shape and type.
    """
    there = dict(tensors_of(model))
    for one in decision.tensors:
        old, tensor = there.get(one.name), restored_tensor(one)
        if old is None or old.shape != tensor.shape or old.dtype != tensor.dtype:
            raise RecipeMismatch(f"The model has no {one.dtype} tensor {one.name} of that shape.")
        new = own_parameter(tensor, old) if isinstance(old, nn.Parameter) else tensor
        _replace(model, old, new)
    for layer, module in model.named_modules():
        if isinstance(module, IntegerWeights) and not _is_on_grid(module):
            raise RecipeMismatch(f"{layer} would hold integers that its grid does not have.")


def _is_on_grid(module: IntegerWeights) -> bool:
    low, high = module.weight_format.range
    if module.weight.is_meta or not module.weight.numel():
        return True
    return low <= int(module.weight.min()) and int(module.weight.max()) <= high


def touched(decision: Retrained, tree: LayerTree) -> tuple[LayerEffect, ...]:
    """How many values of each layer the decision replaces."""
    counts: dict[LayerId, int] = {}
    for one in decision.tensors:
        layer = _owner(one.name, tree)
        counts[layer] = counts.get(layer, 0) + prod(one.shape)
    return tuple(
        LayerEffect(layer, "chosen", "values retrained", 0, count)
        for layer, count in counts.items()
    )


def _owner(name: str, tree: LayerTree) -> LayerId:
    layer = LayerId(name.rpartition(".")[0])
    return layer if layer in tree else tree.parent_of(layer)


def _replace(model: nn.Module, old: Tensor, new: Tensor) -> None:
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in list(held.items()):
                if tensor is old:
                    held[name] = new  # type: ignore[assignment]
