"""Histograms of values, filled batch by batch, and the range that an observer chooses from one.

A bin holds the numbers that share the upper half of their float32 bits: sign, exponent and seven
bits of the mantissa. It is a 128th to a 256th of its values wide, so that an outlier, however
large, does not coarsen the rest; nothing has to be known of the range beforehand, and the order of
the values does not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from engine.edits import Observer
from engine.integer_layers import integer_range

_CHUNK = 1 << 18
"""Values that are counted at once: what is made of them stays in the processor's cache."""

_SIDE = 1 << 15  # places of one sign
_INFINITE = 0x7F80  # from here on infinities and what is no number
_LIKELY_KEPT = 0.9
"""Share of values (other than 0) that the least squared error is taken never to cut."""
_TRIED, _REFINED = 48, 17


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many values fell where.

    Attributes:
        places: int64 (bins,), ascending, of bins that hold something: for a value whose upper bits
            less the sign are m, m if it is positive, else -1 - m.
        counts: int64 (bins,).
        least, most: the smallest and the largest value, exactly; infinite where there is none.
    """

    places: Tensor
    counts: Tensor
    least: float
    most: float

    @staticmethod
    def empty() -> "Histogram":
        """Of no values."""
        none = torch.empty(0, dtype=torch.int64)
        return Histogram(none, none, float("inf"), float("-inf"))

    def with_values(self, values: Tensor) -> "Histogram":
        """The histogram of these values as well; of any shape and floating-point type."""
        if not values.numel():
            return self
        flat = values.detach().float().flatten()
        places, counts = _counted(flat)
        least, most = (float(one) for one in torch.aminmax(flat))
        merged, which = torch.unique(torch.cat([self.places, places]), return_inverse=True)
        summed = torch.zeros_like(merged).index_add_(0, which, torch.cat([self.counts, counts]))
        return Histogram(merged, summed, min(self.least, least), max(self.most, most))

    @property
    def finite(self) -> bool:
        """Whether every value was a number."""
        return not len(self.places) or bool(
            self.places[0] >= -_INFINITE and self.places[-1] < _INFINITE
        )

    @property
    def total(self) -> int:
        """How many values there are."""
        return int(self.counts.sum())

    @cached_property
    def edges(self) -> tuple[Tensor, Tensor]:
        """Where each bin starts and stops, float64, none beyond the extreme values.

        A bin that an extreme value starts has no width: such as 6 behind ReLU6.
        """
        negative = self.places < 0
        inner = torch.where(negative, -1 - self.places, self.places)
        near, far = (_magnitude(one) for one in (inner, inner + 1))
        start = torch.where(negative, -far, near).clamp(min=self.least)
        stop = torch.where(negative, -near, far).clamp(max=self.most)
        return start, stop

    def evenly(self, bins: int) -> tuple[float, float, tuple[int, ...]]:
        """Start, stop and counts of so many bins of one width; their sum is the total.

        A bin that lies over several of them gives to each in proportion.
        """
        start, stop = self.least, self.most
        if not stop > start:
            return start, stop, (self.total,) + (0,) * (bins - 1)
        lower, upper = ((edge - start) * (bins / (stop - start)) for edge in self.edges)
        borders = torch.arange(1, bins, dtype=torch.float64)
        width = (upper - lower).clamp(min=1e-12)
        below = torch.cat(
            [
                ((part[:, None] - lower) / width).clamp(0, 1) @ self.counts.double()
                for part in borders.split(64)
            ]
        )
        ends = torch.cat([torch.zeros(1), below.round(), torch.tensor([float(self.total)])])
        return start, stop, tuple(ends.diff().long().tolist())


def _counted(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Places and counts of float32 values in a row."""
    counts = torch.zeros(2 * _SIDE, dtype=torch.int64)
    for part in flat.split(_CHUNK):
        upper = (part.view(torch.int32) >> 16).add_(_SIDE)
        counts += torch.bincount(upper, minlength=2 * _SIDE)
    # Negative numbers come first and upwards by their magnitude.
    ordered = torch.cat([counts[:_SIDE].flip(0), counts[_SIDE:]])
    places = ordered.nonzero().flatten()
    return places - _SIDE, ordered[places]


def _magnitude(upper: Tensor) -> Tensor:
    """The number with these upper bits, float64; all below the first normal ones are 0."""
    value = (upper << 16).int().view(torch.float32).double()
    return torch.where(upper == 0, 0.0, value)


def chosen_range(
    seen: Histogram, observer: Observer, bits: int, symmetric: bool, percentile: float
) -> tuple[float, float]:
    """Least and greatest value that a grid of so many bits is to hold.

    Args:
        percentile: share of the values, in percent, that the observer of that name keeps within;
            of what it cuts, an affine grid loses as much on either side.
    """
    if observer == "percentile":
        return _percentile_range(seen, symmetric, percentile / 100)
    if observer == "mse" and seen.most > seen.least:
        return _Search(seen, bits, symmetric).best()
    return seen.least, seen.most


def _percentile_range(seen: Histogram, symmetric: bool, kept: float) -> tuple[float, float]:
    start, stop = seen.edges
    if symmetric:
        reach = torch.maximum(-start, stop)
        order = reach.argsort()
        inside = seen.counts[order].cumsum(0)
        at = int(torch.searchsorted(inside, kept * seen.total))
        most = float(reach[order][min(at, len(order) - 1)])
        return max(-most, seen.least), min(most, seen.most)
    cut = int((1 - kept) / 2 * seen.total + 1e-9)  # whole values at either end
    below = seen.counts.cumsum(0)
    above = seen.counts.flip(0).cumsum(0).flip(0)
    first = int((below > cut).nonzero()[0])
    last = int((above > cut).nonzero()[-1])
    return float(start[first]), float(stop[last])


_Sides = Callable[[Tensor], tuple[Tensor | float, Tensor | float]]
"""Magnitudes that are tried -> least and greatest values."""


class _Search:
    """The range of the least mean squared error of rounding, clipping included.

    Values are taken to lie evenly within their bin, so that a bin's error is an integral in closed
    form. Zeros cost nothing: zero is on every grid. First both sides are cut at the same
    magnitude, then each in turn.
    """

    def __init__(self, seen: Histogram, bits: int, symmetric: bool) -> None:
        self._least, self._most = min(seen.least, 0.0), max(seen.most, 0.0)
        self._low, self._high = integer_range(bits)
        self._symmetric = symmetric
        start, stop, counts = _coarse(seen)
        reach = torch.maximum(-start, stop)
        order = reach.argsort()
        inside = counts[order].cumsum(0)
        at = int(torch.searchsorted(inside, _LIKELY_KEPT * float(inside[-1])))
        self._inner = float(reach[order][at])  # nothing within is cut
        told = reach > self._inner * 2.0 ** -(bits + 4)  # the rest is next to zero on any grid
        self._start, self._stop, self._counts = start[told], stop[told], counts[told]
        self._width = self._stop - self._start

    def best(self) -> tuple[float, float]:
        """Least and greatest value."""
        outer = max(-self._least, self._most)
        reach = self._swept(outer, _either_side)
        least, most = max(self._least, -reach), min(self._most, reach)
        if self._symmetric:
            return least, most
        for _ in range(2):
            if self._most > 0:
                most = self._swept(self._most, partial(_above, least))
            if self._least < 0:
                least = -self._swept(-self._least, partial(_below, most))
        return least, most

    def _swept(self, outer: float, sides: "_Sides") -> float:
        """The magnitude, up to ``outer``, at which the error is least."""
        inner = min(self._inner, outer)
        tried = _spaced(inner, outer, _TRIED)
        at = int(self._errors(*sides(tried)).argmin())
        around = float(tried[max(at - 1, 0)]), float(tried[min(at + 1, len(tried) - 1)])
        refined = torch.cat([tried[at : at + 1], _spaced(*around, _REFINED)])
        return float(refined[self._errors(*sides(refined)).argmin()])

    def _errors(self, least: Tensor | float, most: Tensor | float) -> Tensor:
        """Summed squared error of each range tried, float64 (tried,)."""
        least, most = (torch.as_tensor(one, dtype=torch.float64) for one in (least, most))
        least, most = least.clamp(min=self._least), most.clamp(max=self._most)
        if self._symmetric:
            scale = torch.maximum(-least, most) / self._high
            zero = torch.zeros_like(scale)
        else:
            scale = (most - least) / (self._high - self._low)
            zero = (self._low - (least / scale).round()).clamp(self._low, self._high)
        scale, zero = scale.reshape(-1, 1), zero.reshape(-1, 1)
        first, at_start = self._integral(self._start / scale, zero)
        last, _ = self._integral(self._stop / scale, zero)
        width = self._width / scale
        mean = torch.where(width > 0, (last - first) / width, at_start)
        return (mean @ self._counts) * scale.flatten().square()

    def _integral(self, steps: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
        """Of the squared error from 0 to there, and the squared error there, in steps."""
        whole = steps.round().clamp(self._low - zero, self._high - zero)
        off = steps - whole
        square = off.square()
        return whole / 12 + square * off / 3, square


def _either_side(tried: Tensor) -> tuple[Tensor, Tensor]:
    return -tried, tried


def _above(least: float, tried: Tensor) -> tuple[float, Tensor]:
    return least, tried


def _below(most: float, tried: Tensor) -> tuple[Tensor, float]:
    return -tried, most


def _coarse(seen: Histogram) -> tuple[Tensor, Tensor, Tensor]:
    """Start, stop and counts of bins four times as wide, those of zero left out."""
    start, stop = seen.edges
    some = (seen.places != 0) & (seen.places != -1)
    start, stop, counts = start[some], stop[some], seen.counts[some]
    _, which = torch.unique_consecutive(seen.places[some] >> 2, return_inverse=True)
    bins = int(which[-1]) + 1 if len(which) else 0
    ends = torch.full((2, bins), float("inf"), dtype=torch.float64)
    ends[0].scatter_reduce_(0, which, start, "amin")
    ends[1].scatter_reduce_(0, which, -stop, "amin")
    summed = torch.zeros(bins, dtype=torch.float64).index_add_(0, which, counts.double())
    return ends[0], -ends[1], summed


def _spaced(inner: float, outer: float, count: int) -> Tensor:
    """Numbers from one to the other in equal proportions, float64."""
    powers = torch.linspace(0, 1, count, dtype=torch.float64)
    return (inner * (outer / inner) ** powers).clamp(inner, outer)
