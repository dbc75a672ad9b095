"""Which channels depend on each other: groups of units that can only be removed together.

Every channel on every side of every layer is an atom. One forward pass, on tensors without data
where that is possible, tells which of them go together and which must stay.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from engine.editing import Subject
from engine.edits import ChannelSlice
from engine.errors import EditRefused, ForwardFailed
from engine.layers import LayerId
from engine.pruning.labels import Labelling
from engine.pruning.shrinking import shrink
from engine.pruning.sides import Side, follow
from engine.sharing import share
from engine.tracing import trace


@dataclass(frozen=True, eq=False)
class Member:
    """One side of one layer of a group.

    Attributes:
        layer: its path; the full parameter name when ``side`` is ``parameter``.
        dim: the axis, for ``parameter`` only.
        units: of every index on that side the unit that it goes with; -1: it stays. int32.
    """

    layer: LayerId
    side: Side
    dim: int
    units: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Group:
    """Everything that shrinks when ``layer`` loses output channels; a unit goes whole or stays.

    Attributes:
        layer: the one asked for; its own output side is the first member.
        units: how many there are.
    """

    layer: LayerId
    units: int
    members: tuple[Member, ...]


def without(group: Group, units: Iterable[int]) -> tuple[ChannelSlice, ...]:
    """The slices that take these units out of every member."""
    gone = list(units)
    return tuple(
        ChannelSlice(one.layer, one.side, tuple(removed), len(one.units), one.dim)
        for one in group.members
        if (removed := np.flatnonzero(np.isin(one.units, gone)).tolist())
    )


class Coupling:
    """The coupled channels of one state of a model.

    Raises:
        EditRefused: they cannot be found, with the reason.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._model, self._inputs = model, inputs
        self._stops: dict[bytes, str] = {}
        self._sides, self._settled = follow(model, inputs)
        self._of_side = [self._settled.unit[one.atoms] for one in self._sides]
        self._roots = {one.layer: number for number, one in enumerate(self._sides) if one.is_root}

    def of(self, layer: LayerId) -> Group:
        """The group that the layer's output channels belong to.

        Raises:
            EditRefused: they cannot be removed; the message says why.
        """
        if reason := self.why_not(layer):
            raise EditRefused(
                f"The output channels of {layer} cannot be removed: {reason}.",
                "Prune other layers, or zero single weights of this one.",
            )
        return self._group(layer)

    def _group(self, layer: LayerId) -> Group:
        root = self._roots[layer]
        free = self._free(root)
        numbers = np.full(len(self._settled.unit), -1, np.int32)
        numbers[free] = np.arange(len(free))
        touched = dict.fromkeys([root, *self._touching(free)])
        members = (
            Member(one.layer, one.side, one.dim, numbers[self._of_side[number]])
            for number, one in ((number, self._sides[number]) for number in touched)
        )
        return Group(layer, len(free), tuple(members))

    def groups(self) -> tuple[Group, ...]:
        """Every group that can be pruned, once, named by its first layer."""
        found: dict[bytes, LayerId] = {}
        for layer, number in self._roots.items():
            if not self.why_not(layer):
                found.setdefault(np.sort(self._free(number)).tobytes(), layer)
        return tuple(map(self.of, found.values()))

    def why_not(self, layer: LayerId) -> str:
        """Why the layer's output channels cannot be removed; "" if they can."""
        if layer not in self._roots:
            return "the layer has none that could be followed"
        number = self._roots[layer]
        units = self._of_side[number]
        if len(units) < 2:
            return "there is only one"
        free = self._free(number)
        if len(free) > 1 or (len(free) == 1 and (units != free[0]).any()):
            return "" if self._settled.assumed.isdisjoint(free.tolist()) else self._tried(layer)
        first, settled = int(units[0]), self._settled
        reasons = settled.said if (units == first).all() else settled.pinned
        return reasons.get(first, "only all of them together could go")

    def _tried(self, layer: LayerId) -> str:
        """Why the model stops without the first unit: its code may hold a size as a number."""
        key = np.sort(self._free(self._roots[layer])).tobytes()
        if key not in self._stops:
            pruned = share(self._model)
            shrink(pruned, without(self._group(layer), [0]))
            try:
                trace(pruned, self._inputs)
                self._stops[key] = ""
            except ForwardFailed as error:
                self._stops[key] = f"with fewer of them the model no longer runs. {error}"
        return self._stops[key].rstrip(".")

    def _free(self, side: int) -> Labelling:
        """The units of a side that may go, in order of their first channel."""
        units, first = np.unique(self._of_side[side], return_index=True)
        units = units[np.argsort(first)]
        return units[~self._is_pinned[units]]

    @cached_property
    def _is_pinned(self) -> NDArray[np.bool_]:
        pinned = np.zeros(len(self._settled.unit), bool)
        pinned[list(self._settled.pinned)] = True
        return pinned

    @cached_property
    def _touches(self) -> dict[int, list[int]]:
        """Unit -> numbers of the sides that it has channels on."""
        touches: dict[int, list[int]] = {}
        for number, units in enumerate(self._of_side):
            for unit in set(units.tolist()):
                touches.setdefault(unit, []).append(number)
        return touches

    def _touching(self, units: Labelling) -> list[int]:
        return sorted({number for unit in units.tolist() for number in self._touches[unit]})


def group_of(subject: Subject, layer: LayerId) -> Group:
    """:meth:`Coupling.of` the state, found once for each state and layer.

    Raises:
        EditRefused: as there.
    """
    coupling = subject.once("channels", lambda: Coupling(subject.model, subject.inputs))
    return subject.once(f"channels of {layer}", lambda: coupling.of(layer))
