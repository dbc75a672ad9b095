"""What the table of operators says: a profile in, rows added up by layer, operator or both. No Qt.

A group's total and memory leave out calls inside another of its calls: they are in it already.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from engine import LayerId, OperatorCall, OperatorProfile
from gui import format as fmt

Key: TypeAlias = "tuple[LayerId | None, str, str]"
_MOST_SHAPES = 4


class Grouping(Enum):
    """What one row of the table stands for."""

    OPERATOR_IN_LAYER = "operator in layer"
    OPERATOR = "operator"
    LAYER = "layer"


@dataclass(frozen=True)
class OperatorRow:
    """Calls that are added up.

    Attributes:
        layer: None when they are of several layers.
        name: the operator; empty when they are of several operators.
        own: seconds in the calls themselves; ``total`` with the operators that they called.
        share: own time of the whole pass.
        bytes: memory that they, with the operators that they called, allocated less what they
            released; None when not recorded.
    """

    layer: LayerId | None
    name: str
    device: str
    calls: int
    own: float
    total: float
    share: float
    shapes: tuple[str, ...]
    bytes: int | None

    @property
    def shape_text(self) -> str:
        """The shapes of the inputs, those of the first few different calls."""
        more = len(self.shapes) - _MOST_SHAPES
        texts = [*self.shapes[:_MOST_SHAPES], *([f"+{more}"] if more > 0 else [])]
        return "; ".join(texts)


@dataclass
class _Sum:
    calls: int = 0
    own: float = 0.0
    total: float = 0.0
    bytes: int | None = None
    shapes: dict[str, None] = field(default_factory=dict)

    def add(self, call: OperatorCall, nested: bool) -> None:
        self.calls += 1
        self.own += call.own
        if not nested:
            self.total += call.seconds
        if call.bytes is not None:
            self.bytes = (self.bytes or 0) + (0 if nested else call.bytes)
        if call.shapes:
            self.shapes[shapes_text(call.shapes)] = None


def shapes_text(shapes: Iterable[tuple[int, ...]]) -> str:
    """Shapes of tensors in one line, such as ``1×64×56×56, 64×64``; without axes ``scalar``."""
    return ", ".join("×".join(map(str, shape)) or "scalar" for shape in shapes)


def operator_rows(profile: OperatorProfile, grouping: Grouping) -> tuple[OperatorRow, ...]:
    """The rows, the one with the most time of its own first."""
    sums: dict[Key, _Sum] = {}
    for call, key, nested in _grouped(profile.calls, _KEYS[grouping]):
        sums.setdefault(key, _Sum()).add(call, nested)
    rows = (
        OperatorRow(
            layer, name, device, one.calls, one.own, one.total,
            one.own / profile.seconds if profile.seconds else 0.0, tuple(one.shapes), one.bytes,
        )
        for (layer, name, device), one in sums.items()
    )  # fmt: skip
    return tuple(sorted(rows, key=lambda row: row.own, reverse=True))


def table(rows: Sequence[OperatorRow]) -> list[list[object]]:
    """Rows for a file or a spreadsheet, the header first: raw values in SI units."""
    header: list[object] = [
        "layer", "operator", "device", "calls", "own (s)", "share", "total (s)", "memory (B)",
        "input shapes",
    ]  # fmt: skip
    return [header, *(_cells(row) for row in rows)]


def _cells(row: OperatorRow) -> list[object]:
    layer = fmt.layer_name(row.layer) if row.layer is not None else None
    return [
        layer, row.name or None, row.device, row.calls, row.own, row.share, row.total, row.bytes,
        "; ".join(row.shapes),
    ]  # fmt: skip


def _grouped(
    calls: Iterable[OperatorCall], key_of: Callable[[OperatorCall], Key]
) -> Iterator[tuple[OperatorCall, Key, bool]]:
    """Each call with its group, and whether a call around it is of the same one."""
    around: dict[str, list[Key]] = {}  # by device
    for call in sorted(calls, key=lambda one: (one.start, one.depth)):
        key = key_of(call)
        stack = around.setdefault(call.device, [])
        del stack[call.depth :]
        yield call, key, key in stack
        stack.append(key)


_KEYS: dict[Grouping, Callable[[OperatorCall], Key]] = {
    Grouping.OPERATOR_IN_LAYER: lambda call: (call.layer, call.name, call.device),
    Grouping.OPERATOR: lambda call: (None, call.name, call.device),
    Grouping.LAYER: lambda call: (call.layer, "", call.device),
}
