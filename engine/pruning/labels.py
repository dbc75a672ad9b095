"""Which positions of a tensor belong to which channel, as arrays of numbers that move with it.

A labelling of a tensor says, for each of its positions, the atom that it goes with; -1 for none.
It has the tensor's axes, each in full or, where it says the same all along, of size 1. A tensor
has one labelling for each way in which it can be cut: a weight has one by outputs, one by inputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Labelling: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = Sequence[int]


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known of a tensor.

    Attributes:
        ways: its labellings; none: it cannot be cut.
        follows: whether it was made to measure (zeros, full) and takes any size.
    """

    ways: tuple[Labelling, ...] = ()
    follows: bool = False


NONE = Labels()
FOLLOWS = Labels(follows=True)


class Atoms:
    """Channels, numbered, and what is known of them: which go together, and which must stay."""

    def __init__(self) -> None:
        self._count = 0
        self._joined: list[tuple[Labelling, Labelling]] = []
        self._pinned: list[tuple[Labelling, str]] = []
        self._said: list[tuple[Labelling, str]] = []  # of both kinds, in order
        self._assumed: list[Labelling] = []

    def fresh(self, count: int) -> Labelling:
        """New atoms: their numbers."""
        self._count += count
        return np.arange(self._count - count, self._count)

    def join(self, one: Labelling, other: Labelling, why: str) -> None:
        """Atoms at the same position go together, and stay where the other has none.

        Args:
            one, other: of shapes that broadcast.
            why: they stay, in words that follow "because".
        """
        if one is other:
            return
        one, other = (each.ravel() for each in np.broadcast_arrays(one, other))
        both = (one >= 0) & (other >= 0)
        if both.all():
            self._joined.append((one, other))
            return
        self._joined.append((one[both], other[both]))
        self.pin(np.concatenate([one[~both], other[~both]]), why)

    def tie(self, one: Labelling, other: Labelling, why: str, assumed: bool = False) -> None:
        """Join channels of one and the same axis, and remember what ties them to each other.

        Args:
            assumed: as :meth:`assume` has it.
        """
        self.join(one, other, why)
        whole = np.broadcast_to(one, np.broadcast_shapes(one.shape, other.shape))
        self._said.append((whole, why))
        if assumed:
            self.assume(whole)

    def assume(self, atoms: Labelling) -> None:
        """That these can go takes for granted that the model's code computes its sizes."""
        self._assumed.append(atoms)

    def pin(self, atoms: Labelling, why: str) -> None:
        """These stay, whatever is asked for."""
        atoms = atoms[atoms >= 0].ravel()
        if atoms.size:
            self._pinned.append((atoms, why))
            self._said.append((atoms, why))

    def settled(self) -> "Settled":
        """What follows from all that was said."""
        first, second = (
            np.concatenate([each[side] for each in self._joined])
            if self._joined
            else np.zeros(0, np.int64)
            for side in (0, 1)
        )
        unit = _components(self._count, first, second)
        assumed = _reasons(unit, ((atoms, "") for atoms in self._assumed))
        return Settled(
            unit, _reasons(unit, self._pinned), _reasons(unit, self._said), frozenset(assumed)
        )


@dataclass(frozen=True, eq=False)
class Settled:
    """The outcome: what goes together.

    Attributes:
        unit: of every atom the number of the unit that it is part of.
        pinned: unit -> why it stays.
        said: unit -> what was first said of it: why it stays, or why one axis has several of it.
        assumed: units that are right if the model's code computes its sizes.
    """

    unit: Labelling
    pinned: dict[int, str]
    said: dict[int, str]
    assumed: frozenset[int]


def _reasons(unit: Labelling, said: Iterable[tuple[Labelling, str]]) -> dict[int, str]:
    """The first reason that was given for each unit."""
    reasons: dict[int, str] = {}
    for atoms, why in said:
        for one in np.unique(unit[atoms[atoms >= 0]]).tolist():
            reasons.setdefault(one, why)
    return reasons


def _components(count: int, first: Labelling, second: Labelling) -> Labelling:
    """Of each of ``count`` nodes the least that edges lead to; by hooking and shortcutting."""
    least = np.arange(count)
    while first.size:
        low, high = np.minimum(first, second), np.maximum(first, second)
        np.minimum.at(least, high, low)
        while not np.array_equal(shorter := least[least], least):
            least = shorter
        first, second = least[first], least[second]
        apart = first != second
        first, second = first[apart], second[apart]
    return least


# Movements


def varies(way: Labelling) -> list[int]:
    """The axes along which a labelling says different things."""
    return [axis for axis, size in enumerate(way.shape) if size > 1]


def compact(way: Labelling) -> Labelling:
    """The same labelling, of size 1 wherever it says the same all along."""
    for axis in varies(way):
        first = way.take([0], axis)
        if (way == first).all():
            way = first
    return way


def aligned(way: Labelling, axes: int) -> Labelling:
    """With axes of size 1 in front, as broadcasting puts them."""
    return way.reshape((1,) * (axes - way.ndim) + way.shape)


def spread(way: Labelling, shape: Shape, axes: Iterable[int]) -> Labelling:
    """In full along these axes of a tensor of that shape."""
    full = list(way.shape)
    for axis in axes:
        full[axis] = shape[axis]
    return np.broadcast_to(way, full)


def reshaped(way: Labelling, old: Shape, new: Shape) -> tuple[Labelling, list[int]]:
    """The labelling of a tensor that is viewed in another shape.

    Returns:
        it, and the new axes that are outer parts of an axis along which it varied.
    """
    blocks = list(_blocks(old, new))
    inside, after = list(way.shape), [1] * len(new)
    for was, now in blocks:
        if any(way.shape[axis] > 1 for axis in was):
            inside[was.start : was.stop] = old[was.start : was.stop]
            after[now.start : now.stop] = new[now.start : now.stop]
    moved = compact(np.broadcast_to(way, inside).reshape(after))
    return moved, [
        axis for _, now in blocks for axis in [each for each in now if moved.shape[each] > 1][:-1]
    ]


def _blocks(old: Shape, new: Shape) -> Iterable[tuple[range, range]]:
    """The shortest runs of axes that hold the same number of elements in both shapes."""
    cuts_old, cuts_new = _cuts(old), _cuts(new)
    common = sorted(cuts_old.keys() & cuts_new.keys())
    for start, stop in pairwise(common):
        yield range(cuts_old[start], cuts_old[stop]), range(cuts_new[start], cuts_new[stop])


def _cuts(shape: Shape) -> dict[int, int]:
    """Elements before an axis -> the last axis that so many are before."""
    return {prod(shape[:axis]): axis for axis in range(len(shape) + 1)}
