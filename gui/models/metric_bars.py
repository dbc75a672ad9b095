"""What a metric's bar chart draws: values by layer and part, in the order of the bars. No Qt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from engine import (
    GROUPINGS,
    METRICS,
    Grouping,
    LayerEnergy,
    LayerId,
    Metric,
    ModelState,
    Quantity,
    Series,
    Snapshot,
)
from gui import format as fmt

ORDERS: Mapping[Grouping, tuple[str, ...]] = {
    "data type": ("compute", "weights", "input", "output"),
    "level": ("compute", "registers", "array", "buffer", "DRAM"),
}
"""Groups of the energy's parts as the bars stack them, bottom up."""


@dataclass(frozen=True)
class MetricBars:
    """One bar a layer: its parts in the metric's unit, bottom up, and the base model's behind it.

    Attributes:
        parts: values by part as drawn, each as long as ``layers``.
        detail: likewise, but of every part there is, for the table.
        base: totals of the base model, 0 where it had none; empty when nothing has changed.
        spread: the interval of each layer that has one, by its place.
        whole: the whole model's value; for measurements not the sum of the layers'.
        told: of a layer's energy what is known beside its value.
        tied: places of layers whose interval overlaps the base's: the two have no order.
        unknown: places of layers without a value, as nothing in them could be modelled.
    """

    metric: Metric
    layers: tuple[LayerId, ...]
    parts: Mapping[str, tuple[float, ...]]
    detail: Mapping[str, tuple[float, ...]]
    base: tuple[float, ...]
    spread: Mapping[int, tuple[float, float]]
    whole: Quantity
    conditions: Mapping[str, str]
    told: Mapping[LayerId, LayerEnergy] = field(default_factory=dict)
    unknown: frozenset[int] = frozenset()
    tied: frozenset[int] = frozenset()

    @cached_property
    def totals(self) -> tuple[float, ...]:
        """Height of each bar."""
        if not self.parts:
            return (0.0,) * len(self.layers)
        return tuple(sum(column) for column in zip(*self.parts.values(), strict=True))

    @property
    def marks(self) -> dict[int, str]:
        """What holds a layer back, by its place: ``DRAM`` or ``compute``; ``?`` for unknown."""
        marks = {
            place: self.told[layer].bound
            for place, layer in enumerate(self.layers)
            if layer in self.told and self.told[layer].bound
        }
        return marks | dict.fromkeys(self.unknown, "?")

    def table(self, unit: str = "", scale: float = 1.0) -> list[list[object]]:
        """Rows for a file, the header first.

        Args:
            unit: the metric's own when left out; ``scale`` of it make one.
        """
        unit = unit or self.metric.unit
        single = len(self.detail) == 1
        names = [self.metric.key] if single else [*self.detail, "total"]
        columns = [*self.detail.values(), *([] if single else [self.totals])]
        header: list[object] = ["layer", *(f"{name} ({unit})" for name in names)]
        if self.spread:
            header += [f"low ({unit})", f"high ({unit})"]
        if self.base:
            header.append(f"base ({unit})")
        if self.told:
            header += ["bound by", "not modelled"]
        rows = (self._cells(place, columns, scale) for place in range(len(self.layers)))
        return [header, *rows]

    def _cells(self, place: int, columns: list[tuple[float, ...]], scale: float) -> list[object]:
        layer = self.layers[place]
        values: list[float | None] = [column[place] for column in columns]
        if place in self.unknown:
            values = [None] * len(columns)
        if self.spread:
            values += self.spread.get(place, (None, None))
        if self.base:
            values.append(self.base[place])
        cells = [None if value is None else value * scale for value in values]
        return [layer, *cells, *self._told_cells(layer)]

    def _told_cells(self, layer: LayerId) -> list[object]:
        if not self.told:
            return []
        told = self.told.get(layer, LayerEnergy())
        return [told.bound, " ".join(told.unmodelled)]


def metric_bars(
    snapshot: Snapshot, key: str, ordered: bool, grouping: Grouping | None = None
) -> MetricBars | None:
    """The bars of the current state; ``ordered`` puts the most expensive layer first.

    Args:
        grouping: of the parts of an energy; every part by itself when left out.
    """
    now, before = (state.table.get(key) for state in (snapshot.current, snapshot.base))
    if now is None:
        return None
    base = before.by_layer() if before is not None else {}
    own = now.by_layer()
    told = snapshot.current.energy.layers if key == "energy" else {}
    layers = _layers(snapshot.current, own, base, told)
    if ordered:
        layers.sort(key=lambda id_: own.get(id_, 0.0), reverse=True)
    drawn = now if grouping is None else now.regrouped(GROUPINGS[grouping])
    return MetricBars(
        metric=METRICS[key],
        layers=tuple(layers),
        parts=_columns(drawn, layers, ORDERS[grouping] if grouping is not None else ()),
        detail=_columns(now, layers),
        base=tuple(base.get(id_, 0.0) for id_ in layers) if base and base != own else (),
        spread=_spread(now, layers),
        whole=now.total,
        conditions=now.conditions,
        told=told,
        unknown=frozenset(place for place, id_ in enumerate(layers) if _unknown(id_, own, told)),
        tied=frozenset(place for place, id_ in enumerate(layers) if tied(now, before, id_)),
    )


def tied(now: Series, before: Series | None, layer: LayerId) -> bool:
    """Whether a layer's interval overlaps the base's, so that neither is the lower one."""
    if before is None:
        return False
    own = [series.layers.get(layer, {}) for series in (before, now)]
    if any(list(parts) != [""] for parts in own):
        return False
    return fmt.overlap(own[0][""], own[1][""])


def _layers(
    state: ModelState,
    own: Mapping[LayerId, float],
    base: Mapping[LayerId, float],
    told: Mapping[LayerId, LayerEnergy],
) -> list[LayerId]:
    """The layers that get a bar: with a value now or before, or without one for want of a rule."""
    return [
        layer.id
        for layer in state.tree
        if layer.id in own or base.get(layer.id) or _unknown(layer.id, own, told)
    ]


def _unknown(
    layer: LayerId, own: Mapping[LayerId, float], told: Mapping[LayerId, LayerEnergy]
) -> bool:
    return layer not in own and layer in told and bool(told[layer].unmodelled)


def _columns(
    series: Series, layers: list[LayerId], order: tuple[str, ...] = ()
) -> dict[str, tuple[float, ...]]:
    """Values by part, parts in that order, then in their own."""
    found = dict.fromkeys(part for parts in series.layers.values() for part in parts)
    names = [*(part for part in order if part in found), *found]
    return {part: tuple(_value(series, id_, part) for id_ in layers) for part in names}


def _value(series: Series, layer: LayerId, part: str) -> float:
    quantity = series.layers.get(layer, {}).get(part)
    return quantity.value if quantity is not None else 0.0


def _spread(series: Series, layers: list[LayerId]) -> dict[int, tuple[float, float]]:
    """Intervals of layers whose value is one number."""
    found = {}
    for place, layer in enumerate(layers):
        quantities = tuple(series.layers.get(layer, {}).values())
        if len(quantities) == 1 and quantities[0].low is not None:
            found[place] = (quantities[0].low, quantities[0].high or quantities[0].low)
    return found
