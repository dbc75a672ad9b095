"""Bodies of ONNX functions, made ready to stand where they are called."""

from collections.abc import Callable, Iterable, Mapping

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

_Rename = Callable[[str], str]


def instantiated(
    body: FunctionProto, call: NodeProto, prefix: str, defaults: Iterable[AttributeProto]
) -> list[NodeProto]:
    """The operators of a function, on the values and with the attributes of one call.

    Args:
        defaults: of attributes that the call does not give.
        prefix: of the names of values inside, which must be none's else.
    """
    inputs = [*call.input, *[""] * len(body.input)]
    actual: dict[str, str] = dict(zip(body.input, inputs, strict=False))
    actual |= {
        inner: outer for inner, outer in zip(body.output, call.output, strict=False) if outer
    }
    given = {one.name: one for one in (*defaults, *body.attribute_proto)}
    given |= {one.name: one for one in call.attribute}

    def rename(name: str) -> str:
        return actual.get(name, f"{prefix}{name}" if name else "")

    return [_instantiated(node, rename, given) for node in body.node]


def _instantiated(
    node: NodeProto, rename: _Rename, given: Mapping[str, AttributeProto]
) -> NodeProto:
    made = NodeProto(op_type=node.op_type, domain=node.domain, name=node.name)
    made.input.extend(map(rename, node.input))
    made.output.extend(map(rename, node.output))
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            made.attribute.append(_renamed(attribute, rename, given))
        elif attribute.ref_attr_name in given:
            made.attribute.append(given[attribute.ref_attr_name])
            made.attribute[-1].name = attribute.name
    return made


def _renamed(
    attribute: AttributeProto, rename: _Rename, given: Mapping[str, AttributeProto]
) -> AttributeProto:
    made = AttributeProto()
    made.CopyFrom(attribute)
    for graph in _graphs(made):
        nodes = [_instantiated(node, rename, given) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        for named in (*graph.initializer, *graph.input, *graph.output):
            named.name = rename(named.name)
    return made


def _graphs(attribute: AttributeProto) -> Iterable[GraphProto]:
    return [attribute.g] if attribute.HasField("g") else []
