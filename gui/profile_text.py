"""Profiles as text: tables for a terminal and plain values for ``--json``. No Qt."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from engine import (
    CallNode,
    CallProfile,
    LineProfile,
    OperatorProfile,
    Quantity,
    Roofline,
    Series,
    Snapshot,
    overhead_of,
)
from gui import format as fmt
from gui.models.operator_rows import Grouping, operator_rows
from gui.models.roofline_points import by_time, reached

MEASURED = ("latency", "memory", "measured_energy")
"""Keys of what is measured layer by layer."""
MOST_ROWS = 30
"""Of operators and functions; ``--json`` has them all."""
LEAST_SHARE = 0.01
"""Of all time that a function takes, or it is left out."""
_WIDTH = 140


class Printer:
    """Writes tables to standard output.

    Args:
        width: of a terminal; None when there is none.
    """

    def __init__(self, width: int | None) -> None:
        from rich.console import Console

        self._console = Console(width=width or _WIDTH, highlight=False, soft_wrap=False)

    def layers(self, snapshot: Snapshot) -> None:
        """What is measured of every layer, and of the whole."""
        table = snapshot.current.table
        shown = [table[key] for key in MEASURED if key in table]
        rows = list(_layer_rows(snapshot, shown))
        titles = [title for series in shown for title in _LAYER_TITLES[series.metric.key]]
        self._table(["Layer", "Kind", *titles], rows, texts=2, title=snapshot.model.name)
        for series in shown:
            for line in whole(series):
                self._say(line)

    def operators(self, profile: OperatorProfile) -> None:
        """The operators that take longest, by layer."""
        rows = operator_rows(profile, Grouping.OPERATOR_IN_LAYER)
        cells = [
            [
                "" if row.layer is None else fmt.layer_name(row.layer), row.name, row.device,
                str(row.calls), _time(row.own), fmt.percent(row.share), _time(row.total),
                fmt.quantity(row.bytes, "B"),
            ]
            for row in rows[:MOST_ROWS]
        ]  # fmt: skip
        self._table(
            ["Layer", "Operator", "On", "Calls", "Own", "Share", "Total", "Memory"], cells, texts=3
        )
        self._left_out(len(rows) - len(cells), "operators")
        own = sum(call.own for call in profile.calls if call.device == "cpu")
        self._say(
            f"The pass takes {_time(profile.seconds)}, operators on the processor {_time(own)} "
            f"of it ({_conditions(profile.conditions)})"
        )

    def calls(self, profile: CallProfile) -> None:
        """The tree of calls, without what takes less than a hundredth."""
        every = profile.root.total
        nodes = [one for one in _nodes(profile.root, 0) if one[1].total >= LEAST_SHARE * every]
        cells = [
            [
                "  " * depth + node.name, fmt.place(node.file, node.line), str(node.calls),
                _time(node.own), _time(node.total),
                fmt.percent(node.total / every if every else None),
            ]
            for depth, node in nodes
        ]  # fmt: skip
        self._table(["Function", "Where", "Calls", "Own", "Total", "Share"], cells, texts=2)
        self._say(f"{profile.runs} passes ({_conditions(profile.conditions)})")

    def lines(self, profile: LineProfile) -> None:
        """The source of each function with the time of every line."""
        for function in profile.functions:
            cells = [
                [
                    str(line.number), str(line.hits or ""),
                    "" if line.seconds is None else _time(line.seconds),
                    ""
                    if line.seconds is None or not function.seconds
                    else fmt.percent(line.seconds / function.seconds),
                    line.text,
                ]
                for line in function.lines
            ]  # fmt: skip
            self._table(
                ["Line", "Hits", "Time", "Share", "Source"], cells, texts=0, last_is_text=True,
                title=f"{function.name} of {fmt.short_file(function.file)}",
            )  # fmt: skip
        self._say(f"{profile.runs} passes ({_conditions(profile.conditions)})")

    def roofline(self, roofline: Roofline) -> None:
        """The machine, and each layer under its roof, the slowest first."""
        machine = roofline.machine
        cells = [
            [
                fmt.layer_name(point.layer), point.kind, _time(point.seconds),
                f"{point.intensity:.3g}", fmt.quantity(point.rate, "FLOP/s"),
                fmt.percent(reached(roofline, point)), point.bound(machine),
            ]
            for point in by_time(roofline.points)
        ]  # fmt: skip
        self._table(
            ["Layer", "Kind", "Time", "FLOP/B", "Rate", "Of the roof", "Bound"], cells, texts=2
        )
        self._say(
            f"{machine.name}: {fmt.quantity(machine.bandwidth, 'B/s')}, "
            f"{fmt.quantity(machine.arithmetic, 'FLOP/s')}, ridge at {machine.ridge:.3g} FLOP/B "
            f"({_conditions(machine.conditions)})"
        )
        self._say(f"Layers: {_conditions(roofline.conditions)}")

    def _left_out(self, count: int, what: str) -> None:
        if count > 0:
            self._say(f"{count} more {what}; --json has them all.")

    def _say(self, line: str) -> None:
        self._console.print(_text(line), soft_wrap=True)

    def _table(
        self,
        titles: Sequence[str],
        rows: Iterable[Sequence[str]],
        texts: int,
        last_is_text: bool = False,
        title: str = "",
    ) -> None:
        """Args: ``texts`` is how many of the first columns hold words."""
        from rich import box
        from rich.table import Table

        table = Table(
            title=_text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD,
            pad_edge=False, collapse_padding=True,
        )  # fmt: skip
        for at, name in enumerate(titles):
            words = at < texts or (last_is_text and at == len(titles) - 1)
            table.add_column(
                name, justify="left" if words else "right", no_wrap=True, overflow="ellipsis"
            )
        for row in rows:
            table.add_row(*(_text(cell) for cell in row))
        self._console.print(table)


# -- words


_LAYER_TITLES: Mapping[str, tuple[str, ...]] = {
    "latency": ("Latency", "Own", "Middle half of the runs"),
    "memory": ("Memory while it runs",),
    "measured_energy": ("Energy", "Own, run alone", "Least and most"),
}


def _layer_rows(snapshot: Snapshot, shown: Sequence[Series]) -> Iterator[list[str]]:
    """A row for each layer that has a value; time and energy hold those of its children."""
    tree = snapshot.current.tree
    sums = {
        series.metric.key: tree.inclusive(series.by_layer())
        for series in shown
        if series.metric.adds_up
    }
    for layer in tree:
        if not any(layer.id in sums.get(one.metric.key, one.layers) for one in shown):
            continue
        depth = layer.id.count(".") + bool(layer.id)
        cells = ["  " * depth + (layer.name or snapshot.model.name), layer.kind]
        for series in shown:
            own = series.layers.get(layer.id, {}).get("")
            if series.metric.adds_up:
                sum_, unit = sums[series.metric.key].get(layer.id), series.metric.unit
                cells += [fmt.quantity(sum_, unit), _own(own, unit), _spread(own, unit)]
            else:
                cells.append(fmt.ABSENT if own is None else fmt.quantity(own.value, "B"))
        yield cells


def whole(series: Series) -> Iterator[str]:
    """Lines that say the whole model's value, and how far the layers' sum is from it."""
    value = fmt.metric_value(series.metric, series.total)
    conditions = {key: text for key, text in series.conditions.items() if key != "overhead"}
    unit = series.metric.unit
    spread = f" ({_spread(series.total, unit)})" if series.total.low is not None else ""
    yield f"{series.metric.title}: {value}{spread}; {_conditions(conditions)}"
    overhead = overhead_of(series)
    if overhead is not None:
        yield (
            f"Layers add up to {_time(overhead.layers)}, the whole takes {_time(overhead.whole)}: "
            f"overhead {_time(overhead.difference)} ({fmt.percent(overhead.share)}), "
            f"{overhead.cause}"
        )
    for name, left in series.unattributed.items():
        # What has no value is named, with its reason, among the conditions.
        if left is not None:
            yield f"Unattributed, {name}: {fmt.quantity(left, unit)}"


def _nodes(node: CallNode, depth: int) -> Iterator[tuple[int, CallNode]]:
    yield depth, node
    for child in node.children:
        yield from _nodes(child, depth + 1)


def _own(value: Quantity | None, unit: str) -> str:
    return fmt.ABSENT if value is None else fmt.quantity(value.value, unit)


def _spread(value: Quantity | None, unit: str) -> str:
    if value is None or value.low is None or value.high is None:
        return fmt.ABSENT
    return f"{fmt.quantity(value.low, unit)} – {fmt.quantity(value.high, unit)}"


def _time(seconds: float | None) -> str:
    return fmt.quantity(seconds, "s")


def _conditions(conditions: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in conditions.items())


def _text(name: str) -> Any:
    """Names from models and lines of source are text, never markup."""
    from rich.text import Text

    return Text(name)


# -- numbers for machines


def layer_facts(snapshot: Snapshot) -> dict[str, Any]:
    """Latency, memory and energy as plain values, as far as they are measured."""
    found: dict[str, Any] = {}
    for key in MEASURED:
        series = snapshot.current.table.get(key)
        if series is not None:
            found[key] = _series_facts(series)
    return found


def _series_facts(series: Series) -> dict[str, Any]:
    overhead = overhead_of(series)
    return {
        **_quantity_facts(series.total),
        "provenance": series.metric.provenance.value,
        "conditions": dict(series.conditions),
        "layers": {
            layer: _quantity_facts(quantity)
            for layer, parts in series.layers.items()
            for quantity in parts.values()
        },
        **(
            {}
            if overhead is None
            else {
                "sum_over_layers": overhead.layers,
                "overhead": overhead.difference,
                "overhead_share": overhead.share,
                "overhead_cause": overhead.cause,
            }
        ),
        **({"unattributed": dict(series.unattributed)} if series.unattributed else {}),
    }


def _quantity_facts(quantity: Quantity) -> dict[str, Any]:
    facts: dict[str, Any] = {"value": quantity.value}
    if quantity.low is not None:
        facts["interval"] = [quantity.low, quantity.high]
    return facts


def facts(profile: OperatorProfile | CallProfile | LineProfile | Roofline) -> dict[str, Any]:
    """All of a profile as plain values in SI units, but for what goes into files of its own."""
    found = asdict(profile)
    for file in ("trace", "stats"):
        found.pop(file, None)
    if isinstance(profile, Roofline):
        found["machine"]["ridge"] = profile.machine.ridge
        for line, point in zip(found["points"], profile.points, strict=True):
            line |= {"intensity": point.intensity, "rate": point.rate,
                     "bound": point.bound(profile.machine)}  # fmt: skip
    return found
