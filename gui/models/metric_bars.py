"""What a metric's bar chart draws: values by layer and part, in the order of the bars. No Qt."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from engine import METRICS, LayerId, Metric, Quantity, Series, Snapshot


@dataclass(frozen=True)
class MetricBars:
    """One bar a layer: its parts in the metric's unit, bottom up, and the base model's behind it.

    Attributes:
        parts: values by part, each as long as ``layers``.
        base: totals of the base model, 0 where it had none; empty when nothing has changed.
        spread: the interval of each layer that has one, by its place.
        whole: the whole model's value; for measurements not the sum of the layers'.
    """

    metric: Metric
    layers: tuple[LayerId, ...]
    parts: Mapping[str, tuple[float, ...]]
    base: tuple[float, ...]
    spread: Mapping[int, tuple[float, float]]
    whole: Quantity
    conditions: Mapping[str, str]

    @cached_property
    def totals(self) -> tuple[float, ...]:
        """Height of each bar."""
        return tuple(sum(column) for column in zip(*self.parts.values(), strict=True))

    def table(self) -> list[list[object]]:
        """Rows for a file, the header first."""
        unit, single = self.metric.unit, len(self.parts) == 1
        names = [self.metric.key] if single else [*self.parts, "total"]
        columns = [*self.parts.values(), *([] if single else [self.totals])]
        header: list[object] = ["layer", *(f"{name} ({unit})" for name in names)]
        if self.spread:
            header += [f"low ({unit})", f"high ({unit})"]
        if self.base:
            header.append(f"base ({unit})")
        return [header, *(self._cells(place, columns) for place in range(len(self.layers)))]

    def _cells(self, place: int, columns: list[tuple[float, ...]]) -> list[object]:
        cells: list[object] = [self.layers[place], *(values[place] for values in columns)]
        if self.spread:
            cells += self.spread.get(place, (None, None))
        return [*cells, self.base[place]] if self.base else cells


def metric_bars(snapshot: Snapshot, key: str, ordered: bool) -> MetricBars | None:
    """The bars of the current state; ``ordered`` puts the most expensive layer first."""
    now, before = (state.table.get(key) for state in (snapshot.current, snapshot.base))
    if now is None:
        return None
    base = before.by_layer() if before is not None else {}
    own = now.by_layer()
    layers = [layer.id for layer in snapshot.current.tree if layer.id in own or base.get(layer.id)]
    if ordered:
        layers.sort(key=lambda id_: own.get(id_, 0.0), reverse=True)
    names = dict.fromkeys(part for parts in now.layers.values() for part in parts)
    return MetricBars(
        metric=METRICS[key],
        layers=tuple(layers),
        parts={part: tuple(_value(now, id_, part) for id_ in layers) for part in names},
        base=tuple(base.get(id_, 0.0) for id_ in layers) if base and base != own else (),
        spread=_spread(now, layers),
        whole=now.total,
        conditions=now.conditions,
    )


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
