"""What the rows of the catalogue say, as raw values: entries and costs in, rows out. No Qt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from math import prod
from typing import Literal, TypeAlias

from engine import CatalogueCost, CatalogueEntry
from gui import format as fmt
from gui.models.layer_query import Comparison

What: TypeAlias = Literal["energy", "latency"]


class Column(IntEnum):
    """Columns of the catalogue, in order."""

    NAME = 0
    FAMILY = 1
    TASK = 2
    WEIGHTS = 3
    ACCURACY = 4
    METRIC = 5
    INPUT = 6
    PARAMETERS = 7
    MACS = 8
    FILE_SIZE = 9
    CACHED = 10
    ENERGY = 11
    LATENCY = 12


UNITS: Mapping[Column, str] = {
    Column.ACCURACY: "1",
    Column.INPUT: "px",
    Column.PARAMETERS: "1",
    Column.MACS: "MAC",
    Column.FILE_SIZE: "B",
    Column.ENERGY: "J",
    Column.LATENCY: "s",
}
"""Columns of numbers, each of which can be an axis."""

FIELDS: Mapping[str, tuple[Column, str]] = {
    "accuracy": (Column.ACCURACY, "1"),
    "params": (Column.PARAMETERS, "1"),
    "parameters": (Column.PARAMETERS, "1"),
    "macs": (Column.MACS, "MAC"),
    "size": (Column.FILE_SIZE, "B"),
    "energy": (Column.ENERGY, "J"),
    "latency": (Column.LATENCY, "s"),
}
"""What the filter line can compare."""

COSTS: Mapping[What, Column] = {"energy": Column.ENERGY, "latency": Column.LATENCY}
"""Where what is found out on request stands."""

_ERRORS = ("epe", "error", "fl-all", "fl_all")


@dataclass(frozen=True)
class Row:
    """One entry, and what was modelled or measured of it.

    Attributes:
        cost: its figures; what went wrong is in ``problems``, in words and by column.
        waiting: columns of costs that are on the way.
        values: absent columns have no value.
    """

    entry: CatalogueEntry
    cost: CatalogueCost = field(default_factory=CatalogueCost)
    problems: Mapping[Column, str] = field(default_factory=dict)
    waiting: frozenset[Column] = frozenset()
    values: Mapping[Column, float] = field(init=False)

    def __post_init__(self) -> None:
        entry, cost = self.entry, self.cost
        found = {
            Column.ACCURACY: entry.accuracy,
            Column.INPUT: prod(entry.input_size) if entry.input_size else None,
            Column.PARAMETERS: entry.parameters,
            Column.MACS: entry.macs,
            Column.FILE_SIZE: entry.file_size,
            Column.ENERGY: cost.energy,
            Column.LATENCY: cost.latency,
        }
        values = {column: float(value) for column, value in found.items() if value is not None}
        object.__setattr__(self, "values", values)

    @property
    def errs(self) -> bool:
        """Whether its published figure counts errors, so that less is better."""
        return any(word in self.entry.metric.lower() for word in _ERRORS)

    def text(self, column: Column) -> str:
        """What the table shows in that column."""
        entry = self.entry
        match column:
            case Column.NAME:
                return entry.name
            case Column.FAMILY:
                return entry.family
            case Column.TASK:
                return entry.task
            case Column.WEIGHTS:
                return entry.weights or fmt.ABSENT
            case Column.METRIC:
                return entry.metric or fmt.ABSENT
            case Column.INPUT:
                return "×".join(map(str, entry.input_size)) or fmt.ABSENT
            case Column.CACHED:
                return "✓" if entry.cached else ""
        return self._number(column)

    def sort_key(self, column: Column) -> float | str | None:
        """What the column is sorted by; None when absent."""
        if column in UNITS:
            return self.values.get(column)
        if column == Column.CACHED:
            return float(self.entry.cached)
        text = self.text(column)
        return None if text == fmt.ABSENT else text.casefold()

    def _number(self, column: Column) -> str:
        value = self.values.get(column)
        if column == Column.ACCURACY:
            return fmt.ABSENT if value is None else f"{value:.1f}"
        if value is None and column in COSTS.values():
            return "…" if column in self.waiting else self.problems.get(column, fmt.ABSENT)
        return fmt.quantity(value, UNITS[column])


@dataclass(frozen=True)
class Wanted:
    """Which rows are to be seen; the empty one lets all through.

    Attributes:
        best: of several weights of a model only those with the best published figure.
    """

    words: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    task: str = ""
    cached: bool = False
    best: bool = False
    origin: str = ""

    def accepts(self, row: Row) -> bool:
        """Whether the row passes, as far as it alone can tell."""
        entry = row.entry
        if (self.task or entry.task) != entry.task or (self.origin or entry.origin) != entry.origin:
            return False
        if self.cached and not entry.cached:
            return False
        text = f"{entry.name} {entry.family} {entry.task} {entry.weights} {entry.metric}".lower()
        return all(word in text for word in self.words) and all(
            one.accepts(row.values) for one in self.comparisons
        )

    def sources(self, rows: Iterable[Row]) -> frozenset[str]:
        """Sources of the rows that pass."""
        passed = [row for row in rows if self.accepts(row)]
        return frozenset(row.entry.source for row in (best_of(passed) if self.best else passed))


def best_of(rows: Iterable[Row]) -> list[Row]:
    """One row a model: the weights with the best published figure, the first without any."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row.entry.origin, row.entry.name)
        if key not in best or _merit(row) > _merit(best[key]):
            best[key] = row
    return list(best.values())


def _merit(row: Row) -> float:
    value = row.entry.accuracy
    if value is None:
        return float("-inf")
    return -value if row.errs else value
