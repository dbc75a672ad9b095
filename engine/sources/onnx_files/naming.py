"""Module paths for ONNX operators, so that the layer tree reads as the source did."""

import keyword
import re
from ast import literal_eval
from collections import Counter
from collections.abc import Sequence, Set

from onnx import NodeProto

from engine.sources.onnx_files.model import OnnxModel

_LONGEST = 80
_DEEPEST = 30
_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch's exporter keeps the modules' paths


def module_paths(nodes: Sequence[NodeProto], learned: frozenset[str]) -> list[str]:
    """A dotted path for each operator, none twice and none within another.

    Args:
        learned: names of tensors that are weights.
    """
    scopes = [_scope(node) for node in nodes]
    alone = Counter(path for path, _ in scopes)
    containers = {path[:cut] for path, _ in scopes for cut in range(len(path))}
    reads = Counter(name for node in nodes for name in node.input)
    unshared = {name for name in learned if reads[name] == 1}
    taken: set[str] = set()
    paths = []
    for node, (path, name) in zip(nodes, scopes, strict=True):
        is_module = alone[path] == 1 and path not in containers
        own = path if path and is_module else (*path, name)
        weight = _named_by_weight(node, unshared)
        # Behind a folded batch norm the weight's name says more than the place.
        if weight and alone[weight] <= 1 and weight not in containers:
            own = weight
        paths.append(_unused(".".join(map(_identifier, own)), taken))
    return paths


def _named_by_weight(node: NodeProto, learned: Set[str]) -> tuple[str, ...] | None:
    """The path of ``layer1.0.conv1.weight``, where the operator has such a tensor."""
    for name in node.input:
        path, dot, last = name.rpartition(".")
        if dot and last == "weight" and name in learned and path.replace(".", "_").isidentifier():
            return tuple(path.split("."))[:_DEEPEST]
    return None


def _scope(node: NodeProto) -> tuple[tuple[str, ...], str]:
    """The module that an operator stood in, and its own name there."""
    own = node.name.rpartition("/")[2] or node.op_type.lower()
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = _literal(entry.value)
            if len(scopes) > 1:
                return tuple(scopes[-2].split("."))[:_DEEPEST] if scopes[-2] else (), scopes[-1]
    if not node.name.startswith("/"):
        return (), own
    path: list[str] = []
    before = ""
    for part in node.name.strip("/").split("/")[:-1][:_DEEPEST]:
        # A module in a list is written as “layer1.0” behind “layer1”.
        path.append(part.removeprefix(f"{before}.") if before else part)
        before = part
    return tuple(piece for part in path for piece in part.split("."))[:_DEEPEST], own


def _literal(text: str) -> list[str]:
    try:
        found = literal_eval(text) if len(text) < 10_000 else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _identifier(text: str) -> str:
    """The text as a name that a module's child can have."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII).lstrip("_")[:_LONGEST] or "node"
    reserved = keyword.iskeyword(name) or hasattr(OnnxModel, name)
    return f"{name}_" if reserved or name in _TAKEN else name


_TAKEN = frozenset({"training", "batch"})


def _unused(path: str, taken: set[str]) -> str:
    """The path, numbered if it is taken or would be inside or around another; now taken."""
    tried, number = path, 0
    while tried in taken or f"{tried}." in taken or any(one in taken for one in _above(tried)):
        number += 1
        tried = f"{path}_{number}"
        if any(one in taken for one in _above(path)):
            tried = f"{path.replace('.', '_')}_{number}"
    taken.add(tried)
    taken.update(f"{one}." for one in _above(tried))
    return tried


def _above(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:cut]) for cut in range(1, len(parts))]
