"""Channels followed through a forward pass, operator by operator.

What the rules of :mod:`engine.pruning.moving` and :mod:`engine.pruning.computing` have in common:
labels meet, are tied, or are pinned with the reason in words.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.layers import LayerId
from engine.pruning.labels import NONE, Atoms, Labelling, Labels, varies


@dataclass(frozen=True)
class Call:
    """One operator call.

    Attributes:
        name: without namespace, such as ``convolution``.
    """

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument of that name in the operator's schema."""
        for at, one in enumerate(self.func._schema.arguments):
            if one.name == name:
                if at < len(self.args):
                    return self.args[at]
                return self.kwargs.get(name, one.default_value)
        return default

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All input tensors."""
        return (leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor))

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """All output tensors."""
        if isinstance(self.out, Tensor):
            return (self.out,)
        return tuple(leaf for leaf in tree_leaves(self.out) if isinstance(leaf, Tensor))


Operand: TypeAlias = tuple[Labels, Sequence[int]]
"""Labels of a tensor and its shape, with as many axes as the result has."""


class Follower(TorchDispatchMode):
    """Carries labels along with the tensors of one forward pass.

    Args:
        channels: of a norm's layer the atoms of its channels.
        linear: the linear layers.
        rule_of: what tells how an operator is followed.
    """

    def __init__(
        self,
        atoms: Atoms,
        channels: dict[LayerId, Labelling],
        linear: frozenset[LayerId],
        rule_of: Callable[[str, Any], "Rule"],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rule_of = rule_of
        self.atoms = atoms
        self.channels = channels
        self.linear = linear
        self.layer = LayerId("")
        self.paused = False
        self._read: set[int] = set()
        # Weakly, as a real run would keep all activations; an id may so come to name another.
        self._known: dict[int, tuple[weakref.ref[Tensor], Labels]] = {}

    def was_read(self, tensor: Tensor) -> bool:
        """Whether any operator has read it."""
        return id(tensor) in self._read

    def of(self, tensor: Tensor) -> Labels:
        """What is known of it."""
        self._read.add(id(tensor))
        held, labels = self._known.get(id(tensor), (None, NONE))
        return labels if held is not None and held() is tensor else NONE

    def set(self, tensor: Tensor, labels: Labels) -> None:
        """This is known of it from now on; an atom that is all there is along its axis stays."""
        if single := [way for way in labels.ways if way.size == 1]:
            self.pin(single, f"only all of them together could go in {self.where}")
            labels = Labels(tuple(way for way in labels.ways if way.size > 1), labels.follows)
        self._known[id(tensor)] = weakref.ref(tensor), labels

    @property
    def where(self) -> str:
        """The layer that runs, in words."""
        return self.layer or "the model's own forward"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.paused:
            name = func._overloadpacket.__name__
            call = Call(name, func, args, kwargs or {}, out)
            if call.outputs:
                self._rule_of(name, func)(self, call)
        return out

    def pin(self, ways: Iterable[Labelling], why: str) -> None:
        """None of these channels can go."""
        for way in ways:
            self.atoms.pin(way, why)

    def without(self, labels: Labels, axes: Iterable[int], why: str) -> list[Labelling]:
        """The ways that say nothing along these axes; the others are pinned."""
        axes = set(axes)
        free = [way for way in labels.ways if axes.isdisjoint(varies(way))]
        if len(free) < len(labels.ways):
            self.pin((way for way in labels.ways if not axes.isdisjoint(varies(way))), why)
        return free

    def along(self, way: Labelling, axis: int) -> Labelling:
        """The atoms along one axis, (size,); those that differ along other axes are tied."""
        lines: Labelling = np.moveaxis(way, axis, -1).reshape(-1, way.shape[axis])
        if len(lines) > 1:
            why = f"{self.where} has them in parts that keep one width"
            self.atoms.tie(lines[1:], lines[:1], why, assumed=True)
        line: Labelling = lines[0]
        return line

    def meet(self, operands: Sequence[Operand], why: str) -> Labels:
        """What elements are labelled that depend on an element of each of these."""
        clusters: list[tuple[set[int], list[Labelling], set[int]]] = []
        for number, (labels, _) in enumerate(operands):
            for way in labels.ways:
                axes, ways, owners = set(varies(way)), [way], {number}
                for other in [one for one in clusters if not axes.isdisjoint(one[0])]:
                    clusters.remove(other)
                    axes, ways, owners = axes | other[0], other[1] + ways, owners | other[2]
                clusters.append((axes, ways, owners))
        ways = [self.joined(each, why) for _, each, _ in clusters]
        for (axes, _, owners), way in zip(clusters, ways, strict=True):
            for number, (labels, shape) in enumerate(operands):
                absent = number not in owners and not labels.follows
                if absent and any(shape[axis] > 1 for axis in axes):
                    self.atoms.pin(way, why)
                    break
        follows = not ways and all(labels.follows for labels, _ in operands)
        return Labels(tuple(ways), follows)

    def joined(self, ways: list[Labelling], why: str) -> Labelling:
        """The one labelling that these, which meet position by position, amount to."""
        whole, *others = ways
        for other in others:
            self.atoms.join(whole, other, why)
            if whole.size < other.size or (whole < 0).any():
                one, two = np.broadcast_arrays(whole, other)
                whole = np.where(one >= 0, one, two)
        return whole

    def norm(self, tensor: Tensor, out: Tensor, axis: int, others: Iterable[Any] = ()) -> None:
        """A norm whose values, one for each channel along the axis, meet the input."""
        shape = [1] * tensor.dim()
        shape[axis] = tensor.shape[axis]
        operands: list[Operand] = [(self.of(tensor), tensor.shape)]
        for one in others:
            if isinstance(one, Tensor):
                ways = tuple(way.reshape(shape) for way in self.of(one).ways)
                operands.append((Labels(ways), shape))
        own = self.channels.get(self.layer)
        if own is not None and len(own) == shape[axis] > 1:
            operands.append((Labels((own.reshape(shape),)), shape))
        why = f"{self.where} normalises them with values that cannot shrink"
        self.set(out, self.meet(operands, why))

    def product(
        self, one: Operand, letters: str, other: Operand, others: str, out: str, why: str
    ) -> Labels:
        """The labels of a sum of products, axes named as ``einsum`` names them."""
        summed = [each for each in letters if each in others and each not in out]
        for letter in summed:
            self._contract(one, letters.index(letter), other, others.index(letter), why)
        rest = []
        for (labels, shape), names in ((one, letters), (other, others)):
            gone = [axis for axis, name in enumerate(names) if name not in out]
            apart = [axis for axis in gone if names[axis] not in summed]
            ways = [
                way for way in labels.ways if {names[a] for a in varies(way)}.isdisjoint(summed)
            ]
            ways = self.without(Labels(tuple(ways)), apart, f"{self.where} sums over them")
            rest.append((_renamed(ways, names, out), _renamed_shape(shape, names, out)))
        return self.meet(rest, why)

    def _contract(self, one: Operand, axis: int, other: Operand, axis2: int, why: str) -> None:
        found = [
            [self.along(way, at) for way in labels.ways if way.shape[at] > 1]
            for (labels, _), at in ((one, axis), (other, axis2))
        ]
        if all(found):
            self.joined(found[0] + found[1], why)
        else:
            self.pin(found[0] + found[1], why)


Rule: TypeAlias = Callable[[Follower, Call], None]
"""Labels the outputs of a call."""


def _renamed(ways: Iterable[Labelling], names: str, out: str) -> Labels:
    moved = []
    for way in ways:
        kept = [axis for axis, name in enumerate(names) if name in out]
        inner = way.reshape([way.shape[axis] for axis in kept])  # the others are of size 1
        order = sorted(range(len(kept)), key=lambda at: out.index(names[kept[at]]))
        shape = [1] * len(out)
        for at in range(len(kept)):
            shape[out.index(names[kept[at]])] = inner.shape[at]
        moved.append(inner.transpose(order).reshape(shape))
    return Labels(tuple(moved))


def _renamed_shape(shape: Sequence[int], names: str, out: str) -> list[int]:
    return [shape[names.index(name)] if name in names else 1 for name in out]
