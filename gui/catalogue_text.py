"""The catalogue as text: which rows are asked for, in what order, as table, JSON or CSV. No Qt."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import Any

from engine import CatalogueCost, CatalogueEntry, EngineError
from gui import format as fmt
from gui.models.catalogue_rows import FIELDS, Column, Row, Wanted, best_of
from gui.models.catalogue_scatter import scatter
from gui.models.layer_query import parse_query

COLUMNS: Mapping[str, Column] = {
    "name": Column.NAME,
    "input": Column.INPUT,
    **{name: column for name, (column, _) in FIELDS.items()},
}
"""Columns by the names that the command line gives them."""

TASKS = ("classification", "segmentation", "detection", "video", "optical flow")

_SHOWN = (
    (Column.NAME, "Model"), (Column.WEIGHTS, "Weights"), (Column.ACCURACY, "Accuracy"),
    (Column.INPUT, "Input"), (Column.PARAMETERS, "Params"), (Column.MACS, "MACs"),
    (Column.FILE_SIZE, "File"), (Column.CACHED, "Here"), (Column.ENERGY, "Energy"),
    (Column.LATENCY, "Latency"),
)  # fmt: skip
_NARROW = 100
_TEXTS = (Column.NAME, Column.WEIGHTS)


def wanted_rows(
    entries: Iterable[CatalogueEntry], pattern: str, task: str, every: bool
) -> list[Row]:
    """The rows that a filter line or a glob on the name lets through.

    Args:
        every: all weights of a model, not only those with the best published figure.

    Raises:
        EngineError: the line cannot be read, or nothing passes.
    """
    is_glob = "*" in pattern or "?" in pattern
    query = parse_query("" if is_glob else pattern, FIELDS)
    if query.problem:
        raise EngineError(f"The filter: {query.problem}.", "Write such as “resnet params<30M”.")
    wanted = Wanted(query.words, query.comparisons, task)
    rows = [row for row in map(Row, entries) if wanted.accepts(row)]
    if is_glob:
        rows = [row for row in rows if fnmatchcase(row.entry.name, pattern)]
    if not rows:
        raise EngineError(
            f"No model of the catalogue matches “{fmt.visible(pattern)}”.",
            "Leave the pattern out to list them all.",
        )
    return rows if every else best_of(rows)


def axes(wish: str | None) -> tuple[Column, Column] | tuple[()]:
    """The two columns of ``macs,accuracy``; none for None.

    Raises:
        EngineError: they are not two columns that hold numbers.
    """
    if wish is None:
        return ()
    x, _, y = wish.partition(",")
    numbers = {name: column for name, column in COLUMNS.items() if column != Column.NAME}
    if x not in numbers or y not in numbers or numbers[x] == numbers[y]:
        raise EngineError(
            f"“{fmt.visible(wish)}” is not two columns.",
            f"Give two of {', '.join(numbers)}, such as macs,accuracy.",
        )
    return numbers[x], numbers[y]


def with_costs(rows: Iterable[Row], cost: Callable[[str], CatalogueCost]) -> list[Row]:
    """The rows with what ``cost`` says of each source."""
    return [replace(row, cost=cost(row.entry.source)) for row in rows]


def on_front(rows: Sequence[Row], x: Column, y: Column) -> list[Row]:
    """Of each metric's models those that no other beats in both columns."""
    found = []
    for group in grouped(rows, Column.NAME):
        seen = scatter(group, x, y)
        found += [seen.rows[number] for number in seen.front]
    return found


def grouped(rows: Iterable[Row], column: Column) -> list[list[Row]]:
    """The rows of each task and metric, whose figures can be compared, the best of all first."""
    groups: dict[tuple[int, str, str], list[Row]] = {}
    for row in rows:
        task = row.entry.task
        place = TASKS.index(task) if task in TASKS else len(TASKS)
        # What publishes no figure comes last within its task.
        key = (place, task, row.entry.metric or "\uffff")
        groups.setdefault(key, []).append(row)
    return [_sorted(groups[key], column) for key in sorted(groups)]


def _sorted(rows: list[Row], column: Column) -> list[Row]:
    def key(row: Row) -> tuple[bool, Any, str]:
        value = row.sort_key(column)
        if column == Column.ACCURACY and not row.errs and isinstance(value, float):
            value = -value
        return value is None, 0 if value is None else value, row.entry.name

    return sorted(rows, key=key)


def facts(rows: Iterable[Row], column: Column) -> list[dict[str, Any]]:
    """Plain values in SI units, one mapping a row; absent ones are None."""
    found = []
    for row in (row for group in grouped(rows, column) for row in group):
        entry, cost = asdict(row.entry), asdict(row.cost)
        entry["input_size"] = list(row.entry.input_size)
        asked = {name: value for name, value in cost.items() if value not in (None, "")}
        found.append(entry | asked)
    return found


def as_csv(rows: Iterable[Row], column: Column) -> str:
    """One line a row, in SI units; what is absent is empty."""
    lines = facts(rows, column)
    names = list(dict.fromkeys(name for line in lines for name in line))
    cells = (
        ["×".join(map(str, line[name])) if name == "input_size" else line.get(name)
         for name in names]
        for line in lines
    )  # fmt: skip
    return fmt.delimited([names, *cells])


def print_tables(rows: Sequence[Row], column: Column, width: int | None) -> None:
    """Write a table for each metric to standard output.

    Args:
        width: of a terminal; None when there is none.
    """
    from rich.console import Console

    shown = [
        (one, title)
        for one, title in _SHOWN
        if one not in (Column.ENERGY, Column.LATENCY)
        or any(one in row.values or row.cost.problem for row in rows)
    ]
    console = Console(width=width or _NARROW, highlight=False)
    for group in grouped(rows, column):
        console.print(_table(group, shown))
    problems = {f"{row.entry.name}: {row.cost.problem}" for row in rows if row.cost.problem}
    for problem in sorted(problems):
        print(fmt.visible(problem, 500))


def _table(rows: Sequence[Row], shown: Sequence[tuple[Column, str]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    first = rows[0].entry
    title = f"{first.task}: {first.metric or 'no published figure'}"
    table = Table(
        title=Text(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for column, name in shown:
        # The long names of weights are the first to give way, and open no model.
        table.add_column(
            name,
            justify="left" if column in _TEXTS else "right",
            no_wrap=column != Column.WEIGHTS,
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*(Text(_cell(row, column)) for column, _ in shown))
    return table


def _cell(row: Row, column: Column) -> str:
    if column in (Column.ENERGY, Column.LATENCY) and column not in row.values:
        return fmt.ABSENT  # why, is said below the table
    return row.text(column)
