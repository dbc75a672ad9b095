"""What can be said of a layer in numbers: metrics, their values, and where these came from.

Values are SI numbers (seconds, joules, bytes, MACs). Absent is not zero: a layer without a value
is not in the mapping, and work without a rule stands under ``unattributed``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from engine.layers import LayerId


class Provenance(Enum):
    """How a figure came about; shown with every figure."""

    COUNTED = "counted"
    MODELLED = "modelled"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity: its key in files and ``--json``, its SI unit, and which way is better.

    Attributes:
        adds_up: whether a layer's value and those below it sum to the whole of them; of a peak
            the largest is that of the whole.
    """

    key: str
    title: str
    unit: str
    provenance: Provenance
    lower_is_better: bool = True
    adds_up: bool = True


ACCURACY = Metric("accuracy", "Accuracy", "1", Provenance.MEASURED, lower_is_better=False)
ENERGY = Metric("energy", "Energy per inference", "J", Provenance.MODELLED)
LATENCY = Metric("latency", "Latency", "s", Provenance.MEASURED)
MACS = Metric("macs", "MACs", "MAC", Provenance.COUNTED)
SIZE = Metric("size", "Size", "B", Provenance.COUNTED)
PARAMETERS = Metric("parameters", "Parameters", "1", Provenance.COUNTED)

MEMORY = Metric("memory", "Peak activation memory", "B", Provenance.MEASURED, adds_up=False)

MEASURED_ENERGY = Metric("measured_energy", "Measured energy", "J", Provenance.MEASURED)

METRICS = {
    metric.key: metric
    for metric in (
        ACCURACY, ENERGY, LATENCY, MACS, SIZE, PARAMETERS, MEMORY, MEASURED_ENERGY,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with the interval it is known to lie in; low and high are None when it is exact."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One metric over one state of the model.

    Attributes:
        total: the whole model's value; for measurements not the sum of the layers'.
        layers: each layer's own value (without its children's), split into named parts; a metric
            that has no parts uses the one part ``""``.
        unattributed: work that no layer owns, or that has no rule (None), by name.
        conditions: what the figure holds under, such as ``{"batch": "1", "device": "cpu"}``.
    """

    metric: Metric
    total: Quantity
    layers: Mapping[LayerId, Mapping[str, Quantity]] = field(default_factory=dict)
    unattributed: Mapping[str, float | None] = field(default_factory=dict)
    conditions: Mapping[str, str] = field(default_factory=dict)

    def by_layer(self) -> dict[LayerId, float]:
        """Own value of each layer that has one, its parts added up."""
        return {
            layer: sum(quantity.value for quantity in parts.values())
            for layer, parts in self.layers.items()
        }

    def regrouped(self, group_of: Callable[[str], str]) -> "Series":
        """The same series with parts of the same group added up; exact values alone."""
        layers: dict[LayerId, dict[str, Quantity]] = {}
        for layer, parts in self.layers.items():
            sums: dict[str, float] = {}
            for part, quantity in parts.items():
                group = group_of(part)
                sums[group] = sums.get(group, 0.0) + quantity.value
            layers[layer] = {group: Quantity(value) for group, value in sums.items()}
        return replace(self, layers=layers)

    def by_part(self) -> dict[str, float]:
        """Each part over all layers."""
        sums: dict[str, float] = {}
        for parts in self.layers.values():
            for part, quantity in parts.items():
                sums[part] = sums.get(part, 0.0) + quantity.value
        return sums


@dataclass(frozen=True, slots=True)
class Overhead:
    """A measured sum over the layers beside the whole, which was measured without them.

    Attributes:
        whole, layers: in the metric's unit.
        cause: of the difference, in words.
    """

    whole: float
    layers: float
    cause: str

    @property
    def difference(self) -> float:
        """What the layers have more than the whole."""
        return self.layers - self.whole

    @property
    def share(self) -> float:
        """The difference as a share of the whole."""
        return self.difference / self.whole if self.whole else 0.0


OVERHEAD = "overhead"
"""The condition that names the cause of the difference."""


def overhead_of(series: Series) -> Overhead | None:
    """How far the sum over the layers is from the whole; None when they are of one measurement."""
    cause = series.conditions.get(OVERHEAD)
    if cause is None:
        return None
    return Overhead(series.total.value, sum(series.by_layer().values()), cause)


class MeasurementTable(Mapping[str, Series]):
    """The series of one state by metric key; immutable."""

    def __init__(self, series: Iterable[Series] = ()) -> None:
        self._series = {one.metric.key: one for one in series}

    def __getitem__(self, key: str) -> Series:
        return self._series[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def total(self, metric: Metric) -> Quantity | None:
        """The whole model's value; None when nobody has taken it."""
        series = self._series.get(metric.key)
        return series.total if series else None

    def with_series(self, *series: Series) -> "MeasurementTable":
        """A table that holds these as well, in place of earlier ones of the same metrics."""
        return MeasurementTable((*self._series.values(), *series))

    def without(self, key: str) -> "MeasurementTable":
        """A table that lacks that metric."""
        return MeasurementTable(one for one in self.values() if one.metric.key != key)


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound the user sets: the least accuracy, or the most of anything else.

    Attributes:
        bound: in the metric's unit, or with ``relative`` a share of the base model's value.
    """

    metric: Metric
    bound: float
    relative: bool = False

    def absolute(self, base: float | None) -> float | None:
        """The bound in the metric's unit; None when it is relative to an unknown base."""
        if not self.relative:
            return self.bound
        return None if base is None else self.bound * base

    def met(self, value: float | None, base: float | None) -> bool | None:
        """Whether ``value`` keeps within the bound; None when it cannot be told yet."""
        bound = self.absolute(base)
        if value is None or bound is None:
            return None
        return value <= bound if self.metric.lower_is_better else value >= bound
