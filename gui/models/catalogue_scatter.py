"""What the scatter of the catalogue draws: rows and two columns in, points and lines out. No Qt."""

from collections.abc import Iterable
from dataclasses import dataclass

from engine import pareto_front
from gui.models.catalogue_rows import Column, Row, best_of


@dataclass(frozen=True)
class Scatter:
    """Points by number.

    Attributes:
        rows: those that have both values.
        missing: how many have not.
        families: numbers of the models of each family in order of MACs, of those with several.
        front: numbers of the points that no other beats, by rising x; empty where the figures of
            different metrics cannot be compared.
        comparable: False in that case.
    """

    rows: tuple[Row, ...]
    places: tuple[tuple[float, float], ...]
    missing: int
    families: dict[str, tuple[int, ...]]
    front: tuple[int, ...]
    comparable: bool


def scatter(rows: Iterable[Row], x: Column, y: Column) -> Scatter:
    """The points of these rows over two columns."""
    every = tuple(rows)
    # None of these is ever zero, and zero has no place on a logarithmic axis.
    shown = tuple(row for row in every if min(row.values.get(x, 0), row.values.get(y, 0)) > 0)
    places = tuple((row.values[x], row.values[y]) for row in shown)
    comparable = Column.ACCURACY not in (x, y) or len({row.entry.metric for row in shown}) < 2
    front = _front(shown, x, y) if comparable and x != y else ()
    return Scatter(shown, places, len(every) - len(shown), _families(shown), front, comparable)


def _front(rows: tuple[Row, ...], x: Column, y: Column) -> tuple[int, ...]:
    numbers = pareto_front(
        range(len(rows)),
        cost=lambda number: -_merit(rows[number], x),
        gain=lambda number: _merit(rows[number], y),
    )
    return tuple(sorted(numbers, key=lambda number: rows[number].values[x]))


def _merit(row: Row, column: Column) -> float:
    """More is better: accuracy as it is, errors and costs turned round."""
    value = row.values[column]
    return value if column == Column.ACCURACY and not row.errs else -value


def _families(rows: tuple[Row, ...]) -> dict[str, tuple[int, ...]]:
    numbers = {row.entry.source: number for number, row in enumerate(rows)}
    members: dict[str, list[Row]] = {}
    for row in best_of(rows):
        if Column.MACS in row.values:
            members.setdefault(f"{row.entry.task} {row.entry.family}", []).append(row)
    return {
        family: tuple(
            numbers[row.entry.source]
            for row in sorted(several, key=lambda row: row.values[Column.MACS])
        )
        for family, several in members.items()
        if len(several) > 1
    }
