"""Layers by their canonical dotted path, and the tree they form."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import NewType

from engine.errors import InvalidSelection

LayerId = NewType("LayerId", str)
"""Canonical dotted path in the base model, such as ``stage1.block0.conv1``; the root is ``""``."""

ROOT = LayerId("")


@dataclass(frozen=True, slots=True)
class Layer:
    """One module of the model, as one state of it has it.

    Attributes:
        id: canonical path; a module that is used twice has one, the first, and ``aliases``.
        kind: class name, such as ``Conv2d``.
        output_shape: shape of the first tensor it puts out at the sample input; None when it
            was not run.
        parameters: elements of its own parameters, without its children's.
        weights: how many of those are weights, in tensors of two axes and more; sparsity is a
            share of them (biases and batch norm's shift start at zero and prove nothing).
        zeros: how many of the weights are zero.
        weight_bits, activation_bits: bits of its own weights and of its input; None when it has
            no weights, or its input is not rounded.
        channels: output channels or features; None where the notion does not apply.
        note: what an edit left to say, such as ``folded into stem.conv``.
        methods: names of the edits (:data:`engine.edits.EDITS`) that can be applied to it now.
        is_quantized: whether it computes with integers: its weights, or operators of its own.
        why_float: why it cannot be quantized, in half a sentence, though it computes products or
            adds; "" where it can, is, or has nothing to quantize.
    """

    id: LayerId
    kind: str
    output_shape: tuple[int, ...] | None = None
    parameters: int = 0
    weights: int = 0
    zeros: int = 0
    weight_bits: int | None = None
    activation_bits: int | None = None
    channels: int | None = None
    aliases: tuple[str, ...] = ()
    note: str = ""
    methods: tuple[str, ...] = ()
    is_quantized: bool = False
    why_float: str = ""

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.id.rpartition(".")[2]


class LayerTree:
    """The layers of one state in the order in which the model defines them; immutable.

    Args:
        layers: parents before their children, the root first.
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._layers = {layer.id: layer for layer in layers}
        children: dict[LayerId, list[LayerId]] = {id_: [] for id_ in self._layers}
        for id_ in self._layers:
            if id_ != ROOT:
                children[self.parent_of(id_)].append(id_)
        self._children = {id_: tuple(below) for id_, below in children.items()}

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())

    def __len__(self) -> int:
        return len(self._layers)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._layers

    def __getitem__(self, id_: LayerId) -> Layer:
        return self._layers[id_]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerTree) and self._layers == other._layers

    __hash__ = None  # type: ignore[assignment]

    def get(self, id_: LayerId) -> Layer | None:
        """The layer of that path, None when there is none."""
        return self._layers.get(id_)

    def parent_of(self, id_: LayerId) -> LayerId:
        """Nearest ancestor that is a layer of this tree; the root's is the root."""
        path = str(id_)
        while path:
            path = path.rpartition(".")[0]
            if path in self._layers:
                return LayerId(path)
        return ROOT

    def children(self, id_: LayerId) -> tuple[LayerId, ...]:
        """Layers directly below, in order."""
        return self._children[id_]

    def under(self, id_: LayerId) -> Iterator[LayerId]:
        """The layer itself and everything below it, parents first."""
        yield id_
        for child in self._children[id_]:
            yield from self.under(child)

    @cached_property
    def leaves(self) -> tuple[LayerId, ...]:
        """Layers without children, in order."""
        return tuple(id_ for id_, below in self._children.items() if not below)

    def quantized_count(self) -> tuple[int, int]:
        """How many layers compute with integers, and of how many that have something to round.

        Layers that were cast to 16-bit floats are among the latter.
        """
        able = [
            layer for layer in self
            if layer.activation_bits is not None or layer.is_quantized or layer.why_float
            or "quantize" in layer.methods
        ]  # fmt: skip
        return sum(layer.is_quantized for layer in able), len(able)

    def inclusive(self, own: Mapping[LayerId, float]) -> dict[LayerId, float]:
        """Sum of ``own`` over each layer and all below it; layers with nothing are absent."""
        sums: dict[LayerId, float] = {}
        for id_ in reversed(tuple(self._layers)):
            if id_ in own:
                sums[id_] = sums.get(id_, 0) + own[id_]
            if id_ in sums and id_ != ROOT:
                parent = self.parent_of(id_)
                sums[parent] = sums.get(parent, 0) + sums[id_]
        return sums

    def select(self, patterns: Iterable[str], method: str | None = None) -> tuple[LayerId, ...]:
        """Layers that the patterns (paths, or globs such as ``stage1.*``) name, in tree order.

        A path that names a container stands for everything below it. With ``method``, a glob or
        container stands only for the layers to which that edit can be applied; a layer named in
        full is always taken, so that an impossible wish is refused and not ignored.

        Raises:
            InvalidSelection: a pattern matches no layer.
        """
        chosen: set[LayerId] = set()
        for pattern in patterns:
            exact = self._layers.get(LayerId(pattern))
            if exact is not None and not self._children[exact.id]:
                chosen.add(exact.id)
                continue
            matched = (
                set(self.under(exact.id))
                if exact is not None
                else {id_ for id_ in self._layers if fnmatchcase(id_, pattern)}
            )
            if method is not None:
                matched = {id_ for id_ in matched if method in self._layers[id_].methods}
            if not matched:
                fit = f" to which “{method}” can be applied" if method else ""
                raise InvalidSelection(f"“{pattern}” matches no layer{fit}.")
            chosen |= matched
        return tuple(id_ for id_ in self._layers if id_ in chosen)
