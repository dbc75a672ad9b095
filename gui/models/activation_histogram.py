"""What calibration saw of a tensor, with the grid over it, in numbers and words. No Qt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log10
from typing import Final, TypeAlias

from engine import ActivationRange
from gui import format as fmt

Translate: TypeAlias = Callable[[str], str]
Span: TypeAlias = tuple[float, float]

_MARGIN: Final = 0.03  # of what is shown, on either side
_FLOOR: Final = 0.5  # the height at which bars of the logarithmic axis stand
_HEADROOM: Final = 1.6


@dataclass(frozen=True)
class Bars:
    """Bins of equal width, as many as there is room for.

    Attributes:
        edges: one more than there are counts.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def bars(seen: ActivationRange, most: int) -> Bars:
    """The histogram in at most so many bins: neighbours are put together."""
    run = max(1, ceil(len(seen.counts) / max(1, most)))
    starts = range(0, len(seen.counts), run)
    width = (seen.stop - seen.start) / max(1, len(seen.counts))
    edges = [seen.start + width * start for start in starts]
    return Bars(
        (*edges, seen.stop),
        tuple(sum(seen.counts[start : start + run]) for start in starts),
    )


def heights(counts: Sequence[int]) -> list[float]:
    """Logarithms of the counts, those of empty bins at the floor."""
    return [log10(max(count, _FLOOR)) for count in counts]


def height_range(counts: Sequence[int]) -> Span:
    """What the axis of counts shows, in logarithms to the base 10."""
    return log10(_FLOOR), log10(max(1, *counts, 1) * _HEADROOM)


def decades(counts: Sequence[int]) -> list[int]:
    """Powers of ten that lie within the axis of counts."""
    return list(range(int(height_range(counts)[1]) + 1))


def grid_span(seen: ActivationRange) -> Span | None:
    """The least and the most that the grid holds; None where there is no grid for all samples."""
    grid = seen.grid
    if grid is None or grid.scale is None:
        return None
    half = 2 ** (grid.bits - 1)
    return (-half - grid.zero_point) * grid.scale, (half - 1 - grid.zero_point) * grid.scale


def value_range(seen: ActivationRange) -> Span:
    """What the axis of values shows: all that was seen, and all of the grid."""
    ends = [seen.least, seen.most, *(grid_span(seen) or ())]
    low, high = min(ends), max(ends)
    room = (high - low) * _MARGIN or 1.0
    return low - room, high + room


def steps(seen: ActivationRange, most: int) -> tuple[int, list[float]]:
    """Values on the grid, at most so many: every how many-th they are, and where they lie."""
    span, grid = grid_span(seen), seen.grid
    if span is None or grid is None or grid.scale is None:
        return 1, []
    count = round((span[1] - span[0]) / grid.scale) + 1
    every = 1
    while count / every > most:
        every *= 2
    low, high = (round(end / grid.scale) for end in span)
    first = -(-low // every) * every  # 0 is always one of them
    return every, [grid.scale * place for place in range(first, high + 1, every)]


def clipped(seen: ActivationRange) -> float:
    """Share of the values that lie beyond the grid, to a bin; 0 where there is none."""
    span, total = grid_span(seen), sum(seen.counts)
    if span is None or not total:
        return 0.0
    width = (seen.stop - seen.start) / len(seen.counts)
    outside = 0
    for place, count in enumerate(seen.counts):
        middle = seen.start + (place + 0.5) * width
        outside += count if not span[0] <= middle <= span[1] else 0
    return outside / total


def number(value: float) -> str:
    """A value of an activation, in few digits."""
    return f"{value:.3g}".replace("-", "−")


def seen_text(seen: ActivationRange, tr: Translate = str) -> str:
    """What was seen, such as ``−0.3 to 6.1 in 256 samples``."""
    return tr("{low} to {high} in {samples} samples").format(
        low=number(seen.least), high=number(seen.most), samples=fmt.count(seen.samples)
    )


def grid_text(seen: ActivationRange, tr: Translate = str) -> str:
    """The grid in words: its bits, ends, scale and zero point, and what lies beyond."""
    grid, span = seen.grid, grid_span(seen)
    if grid is None:
        return tr("stays in float")
    if span is None:
        return tr("int{bits}, each sample on a grid of its own").format(bits=grid.bits)
    text = tr("int{bits}: {low} to {high}, scale {scale}, zero point {zero}").format(
        bits=grid.bits,
        low=number(span[0]),
        high=number(span[1]),
        scale=number(grid.scale or 0.0),
        zero=number(grid.zero_point),
    )
    share = clipped(seen)
    if share:
        text += tr("; {share} clipped").format(share=fmt.percent(share, 2))
    return text


def bin_text(seen: ActivationRange, shown: Bars, value: float, tr: Translate = str) -> str:
    """What the bar at that value says; empty beside all bars."""
    for low, high, count in zip(shown.edges, shown.edges[1:], shown.counts, strict=False):
        if low <= value <= high:
            text = tr("{low} to {high}: {count} values").format(
                low=number(low), high=number(high), count=f"{count:,}".replace(",", " ")
            )
            return f"{text}{_integers_text(seen, low, high, tr)}"
    return ""


def _integers_text(seen: ActivationRange, low: float, high: float, tr: Translate) -> str:
    """The integers that these values become."""
    grid, span = seen.grid, grid_span(seen)
    if grid is None or grid.scale is None or span is None:
        return ""
    if high <= span[0] or low >= span[1]:
        return tr(", clipped")
    ends = [
        round(min(max(end, span[0]), span[1]) / grid.scale) + grid.zero_point for end in (low, high)
    ]
    first, last = (number(end) for end in ends)
    return (
        f" → {first}"
        if first == last
        else tr(" → {first} to {last}").format(first=first, last=last)
    )


def table(seen: ActivationRange) -> list[list[object]]:
    """Every bin as calibration has it, the header first."""
    count = max(1, len(seen.counts))
    width = (seen.stop - seen.start) / count
    span = grid_span(seen)
    header: list[object] = ["from", "to", "values", "within the grid"]
    rows: list[list[object]] = [header]
    for place, values in enumerate(seen.counts):
        low = seen.start + place * width
        inside = None if span is None else int(span[0] <= low + width / 2 <= span[1])
        rows.append([low, low + width, values, inside])
    return rows
