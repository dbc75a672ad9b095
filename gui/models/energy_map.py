"""The treemap of modelled energy over the module hierarchy: values, and where cells lie. No Qt."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal, NamedTuple

from engine import GROUPINGS, ROOT, Grouping, LayerId, LayerTree, Series, Snapshot
from gui.models.metric_bars import ORDERS

Kind = Literal["layer", "container", "rest"]

_MARGIN = 2.0  # pixels around what a container holds
_LEAST_OPEN = 40.0  # pixels of either side of a container that shows what it holds
_MOST = 4_000  # cells of one container; the smallest ones beyond are merged


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height

    @property
    def area(self) -> float:
        """In square pixels."""
        return self.width * self.height

    def holds(self, x: float, y: float) -> bool:
        """Whether the point lies in it."""
        return self.left <= x < self.right and self.top <= y < self.bottom

    def scaled(self, share: float) -> "Box":
        """The rectangle of the same shape at its upper left that has that share of its area."""
        side = sqrt(max(0.0, share))
        return Box(self.left, self.top, self.width * side, self.height * side)


@dataclass(frozen=True)
class EnergyTree:
    """Modelled energy of one state by layer, in joules, and that of the base beside it.

    Attributes:
        tree: whose layers these are.
        parts: what the energy is split into, bottom up.
        own: of each layer that has energy itself, by place in ``parts``.
        sums: the same over each layer and all below it.
        totals, base: sums of all parts, now and in the base; ``base`` is empty when it is as now.
    """

    tree: LayerTree
    parts: tuple[str, ...]
    own: Mapping[LayerId, tuple[float, ...]]
    sums: Mapping[LayerId, tuple[float, ...]]
    totals: Mapping[LayerId, float]
    base: Mapping[LayerId, float]

    def share_of_base(self, layer: LayerId) -> float:
        """Energy now as a share of the base's; 1 when there is nothing to compare with."""
        before = self.base.get(layer, 0.0)
        return self.totals.get(layer, 0.0) / before if before else 1.0

    def container_of(self, layer: LayerId) -> LayerId:
        """The layer itself if it holds others with energy, else what holds it."""
        return layer if self.opens(layer) else self.tree.parent_of(layer)

    def opens(self, layer: LayerId) -> bool:
        """Whether there is anything with energy below it."""
        return any(child in self.totals for child in self.tree.children(layer))

    def inner(self, layer: LayerId) -> LayerId:
        """The container in which alone all of that container's energy is, down to where it forks.

        What wraps a single container says nothing by a frame of its own.
        """
        while layer not in self.own:
            held = [one for one in self.tree.children(layer) if one in self.totals]
            if len(held) != 1 or not self.opens(held[0]):
                break
            layer = held[0]
        return layer


def energy_tree(snapshot: Snapshot, grouping: Grouping) -> EnergyTree | None:
    """What the map of the current state draws; None without modelled energy."""
    state = snapshot.current
    series = state.table.get("energy")
    before = snapshot.base.table.get("energy")
    if series is None:
        return None
    parts, own = _own(series, grouping)
    own = {layer: values for layer, values in own.items() if layer in state.tree}
    sums = _sums(state.tree, own, len(parts))
    totals = {layer: sum(values) for layer, values in sums.items()}
    base: dict[LayerId, float] = {}
    if before is not None and before is not series:
        single = {layer: (value,) for layer, value in before.by_layer().items() if value > 0}
        tree = snapshot.base.tree
        single = {layer: value for layer, value in single.items() if layer in tree}
        base = {layer: value for layer, (value,) in _sums(tree, single, 1).items()}
    return EnergyTree(state.tree, parts, own, sums, totals, {} if base == totals else base)


def _own(
    series: Series, grouping: Grouping
) -> tuple[tuple[str, ...], dict[LayerId, tuple[float, ...]]]:
    """Each layer's own energy by group; layers whose energy is zero are left out."""
    names = dict.fromkeys(part for parts in series.layers.values() for part in parts)
    group_of = {name: GROUPINGS[grouping](name) for name in names}
    groups = set(group_of.values())
    order = [part for part in ORDERS[grouping] if part in groups]
    order += sorted(groups - set(order))
    places = {name: order.index(group) for name, group in group_of.items()}
    found = {}
    for layer, parts in series.layers.items():
        values = [0.0] * len(order)
        for name, quantity in parts.items():
            values[places[name]] += quantity.value
        if sum(values) > 0:
            found[layer] = tuple(values)
    return tuple(order), found


def _sums(
    tree: LayerTree, own: Mapping[LayerId, tuple[float, ...]], width: int
) -> dict[LayerId, tuple[float, ...]]:
    """Own values of each layer and all below it; layers with nothing are absent."""
    ids = [layer.id for layer in tree]
    sums: dict[LayerId, list[float]] = {}
    for layer in reversed(ids):  # children come after their parents
        held = [sums[child] for child in tree.children(layer) if child in sums]
        if layer in own:
            held.append(list(own[layer]))
        if held:
            sums[layer] = [sum(one[place] for one in held) for place in range(width)]
    return {layer: tuple(sums[layer]) for layer in ids if layer in sums}


@dataclass(frozen=True, slots=True)
class Cell:
    """One rectangle of the map.

    Attributes:
        kind: a container that is too small to open is one cell without anything in it.
        layer: what it stands for; a container's own work and merged cells stand for the container.
        inner: where a container draws what it holds; None when nothing is drawn in it.
        parent: place of the cell around it; -1 at the top.
        values: joules by part.
        merged: the layers that a rest stands for.
    """

    kind: Kind
    layer: LayerId
    box: Box
    inner: Box | None
    parent: int
    values: tuple[float, ...]
    merged: tuple[LayerId, ...] = ()

    @property
    def joules(self) -> float:
        """All of its energy."""
        return sum(self.values)

    @property
    def face(self) -> Box:
        """What can be seen of it: all, or the header of a container that shows what it holds."""
        if self.inner is None:
            return self.box
        return Box(self.box.left, self.box.top, self.box.width, self.inner.top - self.box.top)


class _Item(NamedTuple):
    """Something to be laid out."""

    kind: Kind
    layer: LayerId
    values: tuple[float, ...]
    joules: float
    merged: tuple[LayerId, ...] = ()


def lay_out(
    energy: EnergyTree, root: LayerId, room: Box, header: float, least: float
) -> tuple[Cell, ...]:
    """Cells of what that container holds, each after the one around it.

    The areas within one container are in proportion to the energy; what would have less than
    ``least`` square pixels is merged into one cell.

    Args:
        header: height of the strip that names a container.
    """
    cells: list[Cell] = []
    waiting = [(root, room, -1)]
    while waiting:
        container, inner, parent = waiting.pop()
        items = _items(energy, container)
        total = sum(item.joules for item in items)
        if not total or inner.area <= 0:
            continue
        items = _merged(items, container, least * total / inner.area)
        boxes = squarify([item.joules for item in items], inner)
        for item, box in zip(items, boxes, strict=True):
            within = _within(item, box, header)
            if within is not None:
                waiting.append((item.layer, within, len(cells)))
            cells.append(Cell(item.kind, item.layer, box, within, parent, item.values, item.merged))
    return tuple(cells)


def _items(energy: EnergyTree, container: LayerId) -> list[_Item]:
    """What a container holds, the costliest first."""
    found = []
    for child in energy.tree.children(container):
        if child in energy.totals:
            layer = energy.inner(child)
            kind: Kind = "container" if energy.opens(layer) else "layer"
            found.append(_Item(kind, layer, energy.sums[child], energy.totals[child]))
    if container in energy.own:
        own = energy.own[container]
        found.append(_Item("layer", container, own, sum(own)))
    return sorted(found, key=lambda item: item.joules, reverse=True)


def _merged(items: list[_Item], container: LayerId, least: float) -> list[_Item]:
    """The items with those below ``least`` joules as one; a single one stays as it is."""
    shown = sum(item.joules >= least for item in items[:_MOST])
    rest = items[shown:]
    if len(rest) < 2:
        return items
    values = tuple(map(sum, zip(*(item.values for item in rest), strict=True)))
    total = sum(item.joules for item in rest)
    layers = tuple(item.layer for item in rest)
    return [*items[:shown], _Item("rest", container, values, total, layers)]


def _within(item: _Item, box: Box, header: float) -> Box | None:
    """Where a container draws what it holds; None when that is too small, or no container."""
    if item.kind != "container" or min(box.width, box.height - header) < _LEAST_OPEN:
        return None
    return Box(
        box.left + _MARGIN,
        box.top + header,
        box.width - 2 * _MARGIN,
        box.height - header - _MARGIN,
    )


def squarify(values: Sequence[float], room: Box) -> list[Box]:
    """Rectangles, as near to squares as can be, that fill the room in proportion to the values.

    Bruls, Huizing and van Wijk, "Squarified treemaps", 2000: rows along the shorter side, each
    taken as long as that brings its rectangles nearer to squares.

    Args:
        values: positive, for good shapes the largest first.
    """
    boxes: list[Box] = []
    left = sum(values)
    first = 0
    while first < len(values):
        if left <= 0 or room.area <= 0:  # lost in rounding
            return boxes + [Box(room.left, room.top, 0.0, 0.0)] * (len(values) - first)
        side = min(room.width, room.height)
        after, taken = _row(values, first, side * side * left / room.area)
        last = after == len(values)
        depth = max(room.width, room.height) * (1.0 if last else min(1.0, taken / left))
        boxes += _fill(values[first:after], taken, room, depth)
        if room.width >= room.height:
            room = Box(room.left + depth, room.top, room.width - depth, room.height)
        else:
            room = Box(room.left, room.top + depth, room.width, room.height - depth)
        left -= taken
        first = after
    return boxes


def _row(values: Sequence[float], first: int, square: float) -> tuple[int, float]:
    """Where the row that begins at ``first`` ends, and its sum.

    Args:
        square: of the row's length, in the unit of the values.
    """
    low = high = taken = values[first]
    worst = _worst(low, high, taken, square)
    after = first + 1
    while after < len(values):
        value = values[after]
        low, high, more = min(low, value), max(high, value), taken + value
        shape = _worst(low, high, more, square)
        if shape > worst:
            break
        worst, taken, after = shape, more, after + 1
    return after, taken


def _worst(low: float, high: float, taken: float, square: float) -> float:
    """The worst ratio of sides in a row of that sum."""
    filled = taken * taken
    if not filled or not low:
        return float("inf")
    return max(square * high / filled, filled / (square * low) if square * low else float("inf"))


def _fill(values: Sequence[float], taken: float, room: Box, depth: float) -> Iterator[Box]:
    """Lay a row along the shorter side of the room."""
    upright = room.width >= room.height
    along = room.height if upright else room.width
    place = room.top if upright else room.left
    for value in values:
        length = along * value / taken
        if upright:
            yield Box(room.left, place, depth, length)
        else:
            yield Box(place, room.top, length, depth)
        place += length


Side = Literal["left", "right", "up", "down"]


def neighbour(cells: Sequence[Cell], at: int, side: Side) -> int:
    """Place of the cell next to that one on that side; the same where there is none."""
    turned = _TURNS[side]
    mine = turned(cells[at].face)
    best, found = float("inf"), at
    for place, cell in enumerate(cells):
        face = turned(cell.face)
        ahead = face.left - mine.right
        if place == at or ahead < -1.0 or face.left <= mine.left:
            continue
        middle = mine.top + mine.height / 2
        aside = max(0.0, face.top - middle, middle - face.bottom)
        if ahead + 2 * aside < best:
            best, found = ahead + 2 * aside, place
    return found


_TURNS: Mapping[Side, Callable[[Box], Box]] = {
    "right": lambda box: box,
    "left": lambda box: Box(-box.right, box.top, box.width, box.height),
    "down": lambda box: Box(box.top, box.left, box.height, box.width),
    "up": lambda box: Box(-box.bottom, box.left, box.height, box.width),
}
"""Boxes turned so that the side lies to the right."""


def path_to(tree: LayerTree, layer: LayerId) -> tuple[LayerId, ...]:
    """The containers around a layer and itself, the root first."""
    path = [layer]
    while path[-1] != ROOT:
        path.append(tree.parent_of(path[-1]))
    return tuple(reversed(path))
