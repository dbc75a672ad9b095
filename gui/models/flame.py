"""The flame graph as boxes in rows: layers over time, the operators that they run below. No Qt."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from operator import itemgetter
from typing import TypeAlias

from engine import LayerId, LayerSpan, OperatorCall, OperatorProfile
from gui import format as fmt
from gui.models.operator_rows import shapes_text

LAYER = "layer"

_PART = re.compile(r"[a-z]+")

# The first kind of which a word is a part of the operator's name; from four letters on a
# beginning is enough.
_KINDS = (
    ("convolution", "conv fprop"),
    ("normalisation", "norm"),
    (
        "matrix product",
        "linear mm bmm addmm baddbmm mv addmv matmul einsum attention bilinear gemm sgemm hgemm",
    ),
    (
        "data movement",
        "copy to contiguous cat view reshape permute transpose t pad empty fill clone slice select"
        " memcpy memset index gather scatter stack flatten expand strided resize detach narrow"
        " zero ones embedding squeeze unsqueeze roll split chunk upsample as alias",
    ),
    (
        "elementwise",
        "relu leaky gelu silu mish elu sigmoid tanh softmax add sub mul div clamp hard exp log pow"
        " sqrt rsqrt neg elementwise dropout threshold where bernoulli",
    ),
    ("reduction", "pool mean sum max min amax amin argmax topk sort reduce var std"),
)
_Entry: TypeAlias = tuple[float, int, int, LayerSpan | OperatorCall]

OTHER = "other"
KINDS = (*(kind for kind, _ in _KINDS), OTHER)
"""Kinds of operators, as the legend names them."""


@dataclass(frozen=True, slots=True)
class Box:
    """One call of a layer or an operator.

    Attributes:
        kind: ``layer``, or one of :data:`KINDS`.
        row: from the top.
    """

    name: str
    layer: LayerId
    kind: str
    start: float
    seconds: float
    row: int
    shapes: str = ""

    @property
    def end(self) -> float:
        """Seconds since the pass began."""
        return self.start + self.seconds

    @property
    def label(self) -> str:
        """What the box says: the rows above it say the rest."""
        return self.name.rpartition("." if self.kind == LAYER else "::")[2]


class Row:
    """Boxes side by side, in time."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self.boxes = tuple(boxes)
        self._starts = [box.start for box in boxes]

    def at(self, time: float) -> Box | None:
        """The box that is running then."""
        place = bisect_right(self._starts, time) - 1
        found = self.boxes[place] if place >= 0 else None
        return found if found is not None and time <= found.end else None

    def visible(self, low: float, high: float, pixel: float) -> Iterator[Box]:
        """Boxes between two times; of thin ones that share a pixel only the first.

        Args:
            pixel: seconds that one pixel stands for.
        """
        place = max(0, bisect_right(self._starts, low) - 1)
        while place < len(self.boxes) and self._starts[place] <= high:
            box = self.boxes[place]
            if box.end >= low:
                yield box
            place += 1
            if box.seconds < pixel:
                # Of those that begin within its pixel, the last alone can reach beyond.
                after = bisect_right(self._starts, box.start + pixel)
                wide = after > place and self.boxes[after - 1].seconds >= pixel
                place = after - 1 if wide else max(place, after)

    def near(self, box: Box, step: int) -> Box | None:
        """The box so many places further on; None past either end."""
        place = bisect_right(self._starts, box.start) - 1 + step
        return self.boxes[place] if 0 <= place < len(self.boxes) else None


@dataclass(frozen=True)
class Flame:
    """All boxes of one pass.

    Attributes:
        seconds: of the whole pass, and at least to the end of the last box.
        lanes: the device whose boxes begin at that row; empty for one device alone.
    """

    seconds: float
    rows: tuple[Row, ...]
    lanes: tuple[tuple[int, str], ...] = ()

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of operators that occur, in the legend's order."""
        found = {box.kind for row in self.rows for box in row.boxes}
        return tuple(kind for kind in KINDS if kind in found)

    def at(self, time: float, row: int) -> Box | None:
        """The box at that place."""
        return self.rows[row].at(time) if 0 <= row < len(self.rows) else None

    def above(self, box: Box) -> Box | None:
        """The box that called it."""
        return self.at(box.start + box.seconds / 2, box.row - 1)

    def below(self, box: Box) -> Box | None:
        """The longest of those that it calls."""
        if box.row + 1 >= len(self.rows):
            return None
        inner = [
            one
            for one in self.rows[box.row + 1].visible(box.start, box.end, 0.0)
            if one.start >= box.start and one.end <= box.end
        ]
        return max(inner, key=lambda one: one.seconds, default=None)

    def first(self, layer: LayerId) -> Box | None:
        """The first call of that layer."""
        boxes = (box for row in self.rows for box in row.boxes)
        return next((box for box in boxes if box.kind == LAYER and box.layer == layer), None)

    def table(self) -> list[list[object]]:
        """Rows for a file, the header first."""
        header: list[object] = ["layer", "name", "kind", "depth", "start (s)", "time (s)", "shapes"]
        return [header, *(_cells(box) for row in self.rows for box in row.boxes)]


def _cells(box: Box) -> list[object]:
    layer = fmt.layer_name(box.layer)
    return [layer, box.name, box.kind, box.row, box.start, box.seconds, box.shapes or None]


def flame(profile: OperatorProfile) -> Flame:
    """Place every call of the profile: what encloses another stands above it."""
    devices = dict.fromkeys(("cpu", *(call.device for call in profile.calls)))
    rows: list[list[Box]] = []
    lanes = []
    for device in devices:
        first = len(rows)
        calls = [call for call in profile.calls if call.device == device]
        spans = profile.spans if device == "cpu" else ()
        _place(_in_order(spans, calls), first, rows)
        if len(rows) > first:
            lanes.append((first, device))
    ends = [row[-1].end for row in rows]
    return Flame(
        max((profile.seconds, *ends)),
        tuple(Row(row) for row in rows),
        tuple(lanes) if len(lanes) > 1 else (),
    )


def _in_order(spans: Iterable[LayerSpan], calls: Iterable[OperatorCall]) -> list[_Entry]:
    """All calls by their start; of what starts at once, layers before operators, outer first."""
    entries: list[_Entry] = [(span.start, 0, span.depth, span) for span in spans]
    entries += ((call.start, 1, call.depth, call) for call in calls)
    return sorted(entries, key=itemgetter(0, 1, 2))


def _place(entries: Iterable[_Entry], first: int, rows: list[list[Box]]) -> None:
    """Put each call a row below the one that runs while it starts."""
    running: list[float] = []  # ends
    for start, _, _, call in entries:
        while running and running[-1] <= start:
            running.pop()
        place = first + len(running)
        running.append(start + call.seconds)
        if place == len(rows):
            rows.append([])
        rows[place].append(_box(call, place))


def _box(call: LayerSpan | OperatorCall, row: int) -> Box:
    if isinstance(call, LayerSpan):
        return Box(fmt.layer_name(call.layer), call.layer, LAYER, call.start, call.seconds, row)
    kind, shapes = kind_of(call.name), shapes_text(call.shapes)
    return Box(call.name, call.layer, kind, call.start, call.seconds, row, shapes)


@cache
def kind_of(operator: str) -> str:
    """The kind of work that an operator does, by its name."""
    parts = _PART.findall(operator.lower())
    for kind, words in _KINDS:
        for word in words.split():
            if any(part == word or (len(word) > 3 and part.startswith(word)) for part in parts):
                return kind
    return OTHER
