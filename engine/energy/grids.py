"""What electricity emits, by grid."""

import tomllib
from functools import cache
from typing import Annotated

from annotated_types import Gt
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from engine.resources import resource

FILE = "grid_intensity.toml"
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Grid:
    """A country's or region's electricity.

    Attributes:
        grams_per_kwh: CO2 equivalent for each kilowatt-hour generated, mean of the year.
        source: who says so.
    """

    name: str
    grams_per_kwh: float
    year: int
    source: str


@dataclass(config=ConfigDict(extra="forbid", frozen=True))
class _Table:
    year: int
    source: str
    grams_per_kwh: dict[str, Annotated[float, Gt(0)]]


@cache
def grids() -> tuple[Grid, ...]:
    """The grids that there are figures of: the world, then by name."""
    content = resource(FILE).read_text(encoding="utf-8")
    table = TypeAdapter(_Table).validate_python(tomllib.loads(content))
    return tuple(
        Grid(name, grams, table.year, table.source) for name, grams in table.grams_per_kwh.items()
    )


def co2_grams(joules: float, grid: Grid) -> float:
    """Grams of CO2 equivalent that so much electricity stands for on that grid."""
    return joules / _JOULES_PER_KWH * grid.grams_per_kwh
