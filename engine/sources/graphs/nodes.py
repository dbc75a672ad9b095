"""What a node of a recorded graph calls, and with what."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.sources.graphs.leaves import INPUT


def schema_of(node: fx.Node) -> list[Any]:
    """The arguments of the operator that the node calls, as its schema has them."""
    target = node.target
    return list(target._schema.arguments) if isinstance(target, torch._ops.OpOverload) else []


def operator_name(node: Any) -> str:
    """The operator's name without namespace and overload; "" for what is none."""
    target = getattr(node, "target", None)
    if not isinstance(target, torch._ops.OpOverload):
        return ""
    return target._schema.name.partition("::")[2]


def arguments_of(
    node: fx.Node,
    module: nn.Module,
    place: fx.Node | None = None,
    known: Mapping[fx.Node, Tensor] | None = None,
) -> dict[str, Any]:
    """The operator's arguments by name: stored tensors themselves, ``place`` as ``INPUT``.

    Other nodes stay nodes, which no layer takes.
    """
    stored = known or {}

    def value(one: Any) -> Any:
        if place is not None and one is place:
            return INPUT
        if isinstance(one, fx.Node):
            is_own = one.op == "get_attr" and isinstance(one.target, str)
            return getattr(module, str(one.target), one) if is_own else stored.get(one, one)
        return list(one) if isinstance(one, list | tuple) else one

    names = [argument.name for argument in schema_of(node)]
    found = {
        argument.name: argument.default_value
        for argument in schema_of(node)
        if argument.has_default_value()
    }
    found.update(zip(names, map(value, node.args), strict=False))
    found.update({name: value(one) for name, one in node.kwargs.items()})
    return found
