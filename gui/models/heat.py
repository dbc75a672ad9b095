"""How much of the heat a value has: its place between the least and the most of its column."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_LEAST_LOG = 0.04  # so that the smallest value of a logarithmic scale still shows


@dataclass(frozen=True)
class HeatScale:
    """Maps values to 0..1, linearly from zero or by their logarithm from the least."""

    low: float
    high: float
    logarithmic: bool

    def fraction(self, value: float | None) -> float | None:
        """Place of the value on the scale; None when it has none."""
        if value is None or value < 0:
            return None
        if value == 0:
            return 0.0
        if not self.logarithmic:
            return min(1.0, value / self.high)
        if self.low == self.high:
            return 1.0
        place = math.log(value / self.low) / math.log(self.high / self.low)
        return _LEAST_LOG + (1 - _LEAST_LOG) * min(max(place, 0.0), 1.0)


def heat_scale(values: Iterable[float | None], logarithmic: bool) -> HeatScale | None:
    """The scale on which these values lie; None when there is nothing to show."""
    positive = [value for value in values if value is not None and value > 0]
    if not positive:
        return None
    return HeatScale(min(positive) if logarithmic else 0.0, max(positive), logarithmic)
