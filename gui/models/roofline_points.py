"""What the roofline chart draws, as plain values. No Qt."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import Final

from engine import Roofline, RooflinePoint
from gui import format as fmt

_MARGIN = 0.3  # powers of ten around the points
_ROOM_ABOVE = 0.5


@dataclass(frozen=True)
class Extent:
    """The part of the plane that is worth seeing, in powers of ten."""

    left: float
    right: float
    bottom: float
    top: float


BOUNDS: Final = ("memory", "compute")


def extent(roofline: Roofline) -> Extent:
    """Room for all points, the ridge and some of either roof."""
    ridge = log10(roofline.machine.ridge)
    across = [ridge, *(log10(point.intensity) for point in roofline.points)]
    up = [log10(roofline.machine.arithmetic), *(log10(point.rate) for point in roofline.points)]
    return Extent(
        min(across) - _MARGIN, max(across) + 2 * _MARGIN, min(up) - _MARGIN, max(up) + _ROOM_ABOVE
    )


def table(roofline: Roofline) -> list[list[object]]:
    """Rows for a file, the header first: raw values in SI units."""
    header: list[object] = [
        "layer", "kind", "operations (FLOP)", "bytes (B)", "time (s)", "intensity (FLOP/B)",
        "rate (FLOP/s)", "bound", "of the roof",
    ]  # fmt: skip
    return [header, *(_cells(roofline, point) for point in by_time(roofline.points))]


def _cells(roofline: Roofline, point: RooflinePoint) -> list[object]:
    return [
        fmt.layer_name(point.layer), point.kind, point.operations, point.bytes, point.seconds,
        point.intensity, point.rate, point.bound(roofline.machine), reached(roofline, point),
    ]  # fmt: skip


def roof(roofline: Roofline, intensity: float) -> float:
    """FLOP a second that the machine allows at that intensity."""
    machine = roofline.machine
    return min(machine.arithmetic, machine.bandwidth * intensity)


def reached(roofline: Roofline, point: RooflinePoint) -> float:
    """Share of what the machine allows that the layer reaches."""
    return point.rate / roof(roofline, point.intensity)


def by_time(points: Sequence[RooflinePoint]) -> list[RooflinePoint]:
    """The layers that take longest first."""
    return sorted(points, key=lambda point: point.seconds, reverse=True)


def sizes(points: Sequence[RooflinePoint], least: float, most: float) -> list[float]:
    """Diameters whose areas go with the time, between two bounds."""
    longest = max((point.seconds for point in points), default=0.0) or 1.0
    return [max(least, most * (point.seconds / longest) ** 0.5) for point in points]
