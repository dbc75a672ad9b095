"""What the energy chart draws: energies by layer and part, in the order of the bars. No Qt."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from engine import LayerId, Series, Snapshot


@dataclass(frozen=True)
class EnergyBars:
    """One bar a layer: its parts in joules, bottom up, and the base model's total behind it.

    Attributes:
        parts: values by part, each as long as ``layers``.
        base: totals of the base model, 0 where it had none; empty when nothing has changed.
    """

    layers: tuple[LayerId, ...]
    parts: Mapping[str, tuple[float, ...]]
    base: tuple[float, ...]
    conditions: Mapping[str, str]
    provenance: str

    @cached_property
    def totals(self) -> tuple[float, ...]:
        """Height of each bar."""
        return tuple(sum(column) for column in zip(*self.parts.values(), strict=True))

    def table(self) -> list[list[object]]:
        """Rows for a file, the header first."""
        header = ["layer", *(f"{part or 'energy'} (J)" for part in self.parts), "total (J)"]
        columns = [self.layers, *self.parts.values(), self.totals]
        if self.base:
            header.append("base (J)")
            columns.append(self.base)
        return [list(header), *(list(row) for row in zip(*columns, strict=True))]


def energy_bars(snapshot: Snapshot, ordered: bool) -> EnergyBars | None:
    """The bars of the current state; ``ordered`` puts the most expensive layer first."""
    now, before = (state.table.get("energy") for state in (snapshot.current, snapshot.base))
    if now is None:
        return None
    base = before.by_layer() if before is not None else {}
    own = now.by_layer()
    layers = [layer.id for layer in snapshot.current.tree if layer.id in own or base.get(layer.id)]
    if ordered:
        layers.sort(key=lambda id_: own.get(id_, 0.0), reverse=True)
    names = dict.fromkeys(part for parts in now.layers.values() for part in parts)
    return EnergyBars(
        layers=tuple(layers),
        parts={part: tuple(_value(now, id_, part) for id_ in layers) for part in names},
        base=tuple(base.get(id_, 0.0) for id_ in layers) if base and base != own else (),
        conditions=now.conditions,
        provenance=now.metric.provenance.value,
    )


def _value(series: Series, layer: LayerId, part: str) -> float:
    quantity = series.layers.get(layer, {}).get(part)
    return quantity.value if quantity is not None else 0.0
