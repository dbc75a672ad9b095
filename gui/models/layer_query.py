"""The language of the filter line: words and comparisons, all of which must hold."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from gui import format as fmt
from gui.models.layer_rows import Column, Row

Fields = Mapping[str, tuple[IntEnum, str]]
"""What can be compared, by name: the column and its unit."""

_FIELDS: Fields = {
    "parameters": (Column.PARAMETERS, "1"),
    "params": (Column.PARAMETERS, "1"),
    "sparsity": (Column.SPARSITY, "1"),
    "bits": (Column.BITS, "1"),
    "macs": (Column.MACS, "MAC"),
    "latency": (Column.LATENCY, "s"),
    "time": (Column.LATENCY, "s"),
    "memory": (Column.MEMORY, "B"),
    "energy": (Column.ENERGY, "J"),
    "measured_energy": (Column.MEASURED_ENERGY, "J"),
}
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "≤": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "≥": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
}
_SPACED_SIGN = re.compile(r"\s*(<=|>=|==|[<>=≤≥])\s*")
_SPACED_UNIT = re.compile(r"(?<=[<>=≤≥])([-\d.]+)\s+((?:[afpnuµmkKMGTPE]?(?:s|J|MAC)|%)(?=\s|$))")
_COMPARISON = re.compile(r"([^<>=≤≥]*)(<=|>=|==|[<>=≤≥])(.*)")


@dataclass(frozen=True)
class Comparison:
    """A bound on one column; rows without a value do not pass."""

    column: IntEnum
    holds: Callable[[float, float], bool]
    bound: float

    def accepts(self, values: Mapping[Any, float]) -> bool:
        """Whether the row with these values by column keeps the bound."""
        value = values.get(self.column)
        return value is not None and self.holds(value, self.bound)


@dataclass(frozen=True)
class Query:
    """A filter line that was read; ``problem`` says in words what could not be."""

    words: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    problem: str = ""

    def accepts(self, row: Row) -> bool:
        """Whether the row passes; comparisons speak of layers, not of what contains them."""
        if self.comparisons and not row.leaf:
            return False
        text = f"{row.layer.id} {row.layer.kind}".lower()
        return all(word in text for word in self.words) and all(
            one.accepts(row.values) for one in self.comparisons
        )


def parse_query(text: str, fields: Fields = _FIELDS) -> Query:
    """Read a filter line; what cannot be read is left out and named in ``problem``."""
    # "latency > 0.1 ms" is one comparison: close the gaps around the sign and before the unit.
    text = _SPACED_UNIT.sub(r"\1\2", _SPACED_SIGN.sub(r"\1", text))
    words: list[str] = []
    comparisons: list[Comparison] = []
    problem = ""
    for token in text.split():
        found = _COMPARISON.fullmatch(token)
        if not found:
            words.append(token.lower())
            continue
        try:
            comparisons.append(_comparison(fields, *found.groups()))
        except ValueError as error:
            problem = problem or str(error)
    return Query(tuple(words), tuple(comparisons), problem)


def _comparison(fields: Fields, name: str, sign: str, bound: str) -> Comparison:
    if name.lower() not in fields:
        known = ", ".join(sorted(fields))
        raise ValueError(f"“{name}” is no column; compare {known}")
    if not bound:
        raise ValueError(f"“{name}{sign}” lacks a value")
    column, unit = fields[name.lower()]
    return Comparison(column, _OPERATORS[sign], fmt.parse(bound, unit))
