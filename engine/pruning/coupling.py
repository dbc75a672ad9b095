"""Which channels depend on each other: groups of units that can only be removed together."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.layers import LayerId
from engine.pruning.groups import ChannelGroups

Side = Literal["out", "in", "parameter"]


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


class Coupling:
    """The coupled channels of one state of a model.

    Raises:
        EditRefused: they cannot be found, with the reason.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._groups = ChannelGroups(model, inputs)

    def of(self, layer: LayerId) -> Group:
        """The group that the layer's output channels belong to.

        Raises:
            EditRefused: they cannot be removed; the message says why.
        """
        found = self._groups.of(layer)
        members = []
        for one in found:
            units = np.full(one.of, -1, np.int32)
            for index, root in one.pairs:
                units[index] = root
            members.append(Member(one.layer, one.side, one.dim, units))
        return Group(layer, found[0].of, tuple(members))
