"""Modules whose forward is generated text: what programs and TorchScript become in memory.

Such a module copies, pickles, traces and shows its source like one that somebody wrote.
"""

import hashlib
import linecache
from functools import cache
from types import FunctionType
from typing import Any

from torch import nn


class Block(nn.Module):
    """A module that runs its source over its own tensors and children.

    Made by :func:`block`; each pair of kind and source is a subclass named by the kind, so that
    the layer tree reads as the original model did.

    Attributes:
        source: defines ``forward``, and what it calls, behind the imports that it needs.
    """

    source = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by kind and source: the class itself is in no module."""
        return _empty, (type(self).__name__, self.source), dict(self.__dict__)


def block(kind: str, source: str) -> Block:
    """A block without tensors and children.

    Args:
        kind: name of the class it stands for, whatever a file holds there.
        source: text that defines ``forward(self, …)`` and other methods; it is trusted.
    """
    name = kind.rpartition(".")[2]
    return _class(name if name.isidentifier() else "Block", source)()


def _empty(kind: str, source: str) -> Block:
    made = _class(kind, source)
    return made.__new__(made)


@cache
def _class(kind: str, source: str) -> type[Block]:
    return type(kind, (Block,), {**_functions(source), "source": source})


def _functions(source: str) -> dict[str, FunctionType]:
    name = f"<block {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    # Where tracebacks and profilers of lines look for text that is in no file.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope: dict[str, Any] = {}
    exec(compile(source, name, "exec"), scope)
    return {
        key: one
        for key, one in scope.items()
        if isinstance(one, FunctionType) and one.__code__.co_filename == name
    }
