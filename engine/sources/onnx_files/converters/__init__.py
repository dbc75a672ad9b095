"""ONNX operators to torch modules: onnx2torch's converters, and ours where it has none that fit.

onnx2torch stops at opset 16, and leaves shapes to be read out of tensors as the model runs, which
neither tracing on fake tensors nor pruning can follow. Ours stand in its registry under a domain
of their own and are asked first.
"""

from collections.abc import Mapping
from typing import Any

import onnx2torch.node_converters  # noqa: F401  # it fills the registry
from onnx import FunctionProto, NodeProto, defs
from onnx2torch.node_converters.registry import get_converter
from torch import nn

from engine.sources.onnx_files.converters import (  # noqa: F401  # each registers its converters
    arithmetic,
    indexing,
    layers,
    quantized,
    recurrent,
    reductions,
    resampling,
    shapes,
)
from engine.sources.onnx_files.converters.call import (
    DOMAIN,
    CallGraph,
    NoConverter,
    Unconvertible,
    Value,
    called,
    newer_versions_alike,
    type_of,
)
from engine.sources.onnx_files.functions import instantiated

newer_versions_alike(
    (
        "Abs", "Acos", "Add", "And", "Asin", "Atan", "Ceil", "Celu", "Cos", "Div", "Elu", "Exp",
        "Floor", "Greater", "GreaterOrEqual", "Identity", "LeakyRelu", "Less", "LessOrEqual",
        "Log", "LRN", "Mul", "Not", "Or", "Relu", "RoiAlign",
        "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sub", "Tan", "Tanh",
        "Xor",
    )
)  # fmt: skip

__all__ = [
    "CONTROL_FLOW", "NoConverter", "Unconvertible", "Value", "convert", "definition",
    "has_converter", "has_definition",
]  # fmt: skip

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
"""Operators that run graphs of their own."""


def has_converter(operator: str, opset: int, domain: str = "") -> bool:
    """Whether there is a converter for that operator as of that opset."""
    return _converter(operator, opset, domain) is not None


def has_definition(operator: str, opset: int, domain: str = "") -> bool:
    """Whether ONNX itself says how the operator is made of simpler ones."""
    if not defs.has(operator, opset, domain):
        return False
    schema: Any = defs.get_schema(operator, opset, domain)
    return bool(schema.has_function or schema.has_context_dependent_function)


def definition(
    node: NodeProto, values: Mapping[str, Value], opset: int, prefix: str
) -> tuple[list[NodeProto], int]:
    """The simpler operators that one of :func:`has_definition` is made of, and their opset.

    Args:
        prefix: of names for the values between them.
    """
    schema: Any = defs.get_schema(node.op_type, opset, node.domain)
    known = [
        one
        for one in (
            schema.context_dependent_function_opset_versions
            if schema.has_context_dependent_function
            else schema.function_opset_versions
        )
        if one <= opset
    ]
    version = max(known, default=schema.since_version)
    body = _body(schema, version, node, values)
    defaults = [one.default_value for one in schema.attributes.values() if one.default_value.name]
    nodes = instantiated(body, node, prefix, defaults)
    return nodes, max((one.version for one in body.opset_import), default=opset)


def _body(schema: Any, version: int, node: NodeProto, values: Mapping[str, Value]) -> FunctionProto:
    if not schema.has_context_dependent_function:
        return _function(schema.get_function_with_opset_version(version))
    types = [type_of(values[name]).SerializeToString() if name else b"" for name in node.input]
    body = schema.get_context_dependent_function_with_opset_version(
        version, node.SerializeToString(), types
    )
    return _function(body)


def _function(content: bytes) -> FunctionProto:
    made = FunctionProto()
    made.ParseFromString(content)
    return made


def convert(
    node: NodeProto, values: Mapping[str, Value], opset: int
) -> tuple[nn.Module, tuple[str, ...]]:
    """The module that does what the operator does, and names of the values it is called with.

    Args:
        values: what is known of the operator's inputs.

    Raises:
        Unconvertible: not in this form; the message says which.
        NoConverter: in none.
    """
    converter = _converter(node.op_type, opset, node.domain)
    if converter is None:
        raise NoConverter("in this version")
    graph = CallGraph(node, values)
    try:
        module, mapping = converter(next(iter(graph.nodes.values())), graph)
    except (NotImplementedError, KeyError, ValueError, IndexError, TypeError) as error:
        raise Unconvertible(f"as it is used here ({str(error)[:100]})") from error
    return called(module, node.op_type), tuple(mapping.inputs)


def _converter(operator: str, opset: int, domain: str) -> Any:
    if domain not in ("", "ai.onnx") or not defs.has(operator, opset):
        return None
    version = defs.get_schema(operator, opset).since_version
    for where in (DOMAIN, ""):
        try:
            return get_converter(operator, version, where)
        except NotImplementedError:
            continue
    return None
