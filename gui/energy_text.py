"""Modelled energy as text: tables for a terminal, JSON and CSV. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import engine
from engine import GROUPINGS, EnergyEstimate, EngineError, Grouping, LayerEnergy, LayerId, Snapshot
from gui import format as fmt
from gui.models.energy_unit import JOULES, EnergyUnit, UnitName, co2_unit, mac_unit
from gui.models.energy_words import bound_meaning

if TYPE_CHECKING:  # reading descriptions takes pydantic, which the window shows without
    from engine import DescriptionReport, Grid, Hardware, HardwareEntry

SORTS = ("order", "energy", "macs", "utilisation")
NOT_MODELLED = "not modelled"
_WIDTH = 1000  # into a file nothing is folded or cut
_COLUMN: Mapping[UnitName, str] = {"J": "Energy", "MAC": "Energy in MACs", "CO2": "CO₂"}


@dataclass(frozen=True)
class Row:
    """A layer's own energy, in the unit that is shown.

    Attributes:
        energy: None when nothing in the layer is modelled.
        parts: by data type or by level.
        share: of the total.
    """

    layer: LayerId
    kind: str
    macs: float | None
    energy: float | None
    parts: Mapping[str, float]
    share: float | None
    told: LayerEnergy


@dataclass(frozen=True)
class Compared:
    """What the model takes on one hardware under one dataflow, in the unit that is shown.

    Attributes:
        dram: share of the energy that DRAM takes.
    """

    hardware: Hardware
    dataflow: str
    energy: float
    dram: float | None


# -- what is shown


def grid_named(wish: str) -> Grid:
    """The grid of that name, in any case.

    Raises:
        EngineError: there is none; the remedy lists them.
    """
    found = [grid for grid in engine.grids() if grid.name.casefold() == wish.casefold()]
    if not found:
        names = ", ".join(f"“{grid.name}”" for grid in engine.grids())
        cause = f"There is no figure for a grid “{fmt.visible(wish)}”." if wish else (
            "CO2 depends on whose electricity it is."
        )  # fmt: skip
        raise EngineError(cause, f"Give --grid one of {names}.")
    return found[0]


def unit_of(name: UnitName, hardware: Hardware, grid: Grid | None) -> EnergyUnit:
    """The unit of that name; CO2 counts a thousand inferences on ``grid``, which it needs."""
    if name == "MAC":
        return mac_unit(hardware)
    if name == "CO2" and grid is not None:
        return co2_unit(grid)
    return JOULES


def rows(snapshot: Snapshot, grouping: Grouping, unit: EnergyUnit, sort: str) -> list[Row]:
    """The layers that have energy or work without a rule, in their order or the largest first."""
    state, estimate = snapshot.current, snapshot.current.energy
    series = estimate.series.regrouped(GROUPINGS[grouping])
    macs = state.table["macs"].by_layer() if "macs" in state.table else {}
    total = series.total.value
    found = []
    for layer in state.tree:
        told = estimate.layers.get(layer.id)
        if told is None:
            continue
        parts = {name: one.value for name, one in series.layers.get(layer.id, {}).items()}
        energy = sum(parts.values()) if parts else None
        share = energy / total if energy is not None and total else None
        shown = {name: unit.of(joules) for name, joules in parts.items()}
        found.append(
            Row(
                layer.id, layer.kind, macs.get(layer.id),
                None if energy is None else unit.of(energy), shown, share, told,
            )
        )  # fmt: skip
    return sorted(found, key=_SORT_KEYS[sort], reverse=True) if sort in _SORT_KEYS else found


_SORT_KEYS: Mapping[str, Callable[[Row], float]] = {
    "energy": lambda row: -1.0 if row.energy is None else row.energy,
    "macs": lambda row: row.macs or 0.0,
    "utilisation": lambda row: -1.0 if row.told.utilisation is None else row.told.utilisation,
}


def compared(estimate: EnergyEstimate, unit: EnergyUnit) -> Compared:
    """One line of the comparison."""
    series = estimate.series
    by_level = series.regrouped(GROUPINGS["level"]).by_part()
    total = series.total.value
    settings = estimate.settings
    dram = by_level.get("DRAM", 0.0) / total if total else None
    return Compared(settings.hardware, settings.dataflow, unit.of(total), dram)


# -- tables for people


class Printer:
    """Writes tables to standard output.

    Args:
        width: of a terminal; None when there is none.
    """

    def __init__(self, width: int | None) -> None:
        from rich.console import Console

        self._console = Console(width=width or _WIDTH, highlight=False)

    def layers(self, snapshot: Snapshot, shown: Sequence[Row], unit: EnergyUnit) -> None:
        """Every layer's energy and its parts, the totals, and what they hold under."""
        parts = _part_names(shown)
        cells = [_cells(row, parts, unit) for row in shown]
        total = _total_row(snapshot, shown, parts, unit)
        titles = [
            "Layer", "Kind", "MACs", _COLUMN[unit.name], *(_title(part) for part in parts),
            "Share", "Bound", "In use",
        ]  # fmt: skip
        self._table(titles, [*cells, total], texts=2, title=snapshot.model.name)
        for line in said(snapshot, unit):
            self._say(line)

    def hardware(self, entries: Iterable[HardwareEntry]) -> None:
        """Every description that there is, and what is wrong with the user's own."""
        entries = list(entries)
        cells = [
            [
                entry.key, entry.hardware.name, entry.hardware.technology or fmt.ABSENT,
                "your own" if entry.own else entry.hardware.source,
            ]
            for entry in entries
            if entry.hardware is not None
        ]  # fmt: skip
        self._table(["Key", "Name", "Technology", "Source"], cells, texts=4, folds=True)
        for entry in entries:
            if entry.hardware is None:
                self._say(f"{entry.path}: {entry.problem}")

    def comparison(self, lines: Iterable[Compared], unit: EnergyUnit) -> None:
        """One line for each hardware and dataflow."""
        cells = [
            [
                line.hardware.name, line.hardware.technology or fmt.ABSENT, line.dataflow,
                _number(line.energy, unit), fmt.percent(line.dram),
            ]
            for line in lines
        ]  # fmt: skip
        self._table(
            ["Hardware", "Technology", "Dataflow", _COLUMN[unit.name], "DRAM"], cells, texts=3
        )
        if unit.name == "MAC":
            self._say("A MAC is that of each hardware: between two of them it compares nothing.")

    def description(self, report: DescriptionReport) -> None:
        """What was written in the MIT tool's format, and what that format cannot say."""
        self._say(f"Wrote {', '.join(report.files)}.")
        for one in report.products:
            self._say(f"  left out: {fmt.layer_name(one.layer)}, {one.operator}: {one.reason}")
        rest = len(report.left_out) - len(report.products)
        if rest:
            self._say(f"  left out: {rest} operators that multiply nothing; --json names them.")

    def _say(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(fmt.visible(line, 2000)), soft_wrap=True)

    def _table(
        self,
        titles: Sequence[str],
        rows: Iterable[Sequence[str]],
        texts: int,
        title: str = "",
        folds: bool = False,
    ) -> None:
        """Args: ``texts`` is how many of the first columns hold words; ``folds`` breaks them."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(fmt.visible(title)) if title else None, title_justify="left",
            box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
        )  # fmt: skip
        rows = list(rows)
        for at, name in enumerate(titles):
            words = at < texts
            table.add_column(
                name,
                justify="left" if words else "right",
                no_wrap=not folds or at == 0,
                overflow="ellipsis",
                # Where room is scarce names give way, never figures.
                min_width=None if words else max(len(name), *(len(row[at]) for row in rows), 0),
            )
        for row in rows:
            table.add_row(*(Text(fmt.visible(cell)) for cell in row))
        self._console.print(table)


def _cells(row: Row, parts: Iterable[str], unit: EnergyUnit) -> list[str]:
    energy = NOT_MODELLED if row.energy is None else _number(row.energy, unit)
    return [
        fmt.layer_name(row.layer), row.kind, fmt.quantity(row.macs, "MAC"), energy,
        *(_number(row.parts.get(part), unit) for part in parts),
        fmt.percent(row.share), row.told.bound or fmt.ABSENT, _in_use(row.told.utilisation),
    ]  # fmt: skip


def _total_row(
    snapshot: Snapshot, shown: Iterable[Row], parts: Iterable[str], unit: EnergyUnit
) -> list[str]:
    shown = list(shown)
    state = snapshot.current
    macs = state.table["macs"].total.value if "macs" in state.table else None
    sums = [sum(row.parts.get(part, 0.0) for row in shown) for part in parts]
    total = unit.of(state.energy.series.total.value)
    return [
        "Total", "", fmt.quantity(macs, "MAC"), _number(total, unit),
        *(_number(value, unit) for value in sums), fmt.percent(1.0 if total else None), "", "",
    ]  # fmt: skip


def said(snapshot: Snapshot, unit: EnergyUnit) -> Iterator[str]:
    """What must be known of the figures, line by line."""
    estimate = snapshot.current.energy
    series, hardware = estimate.series, estimate.settings.hardware
    conditions = ", ".join(f"{key} {value}" for key, value in series.conditions.items())
    yield f"{unit.title}, modelled: {unit.text(series.total.value)}; {conditions}"
    if unit.note:
        yield unit.note
    if snapshot.cursor:
        before = snapshot.base.energy.series.total.value
        change = fmt.delta(before, series.total.value)
        yield f"Before the edits: {unit.text(before)} ({change})"
    yield from _about_zeros(estimate, unit)
    yield bound_meaning(estimate.bound_by)
    for layer, told in estimate.layers.items():
        if told.unmodelled:
            names = ", ".join(dict.fromkeys(told.unmodelled))
            yield f"Not modelled, not in the total: {fmt.layer_name(layer)}: {names}"
    if hardware.note:
        yield hardware.note


def _about_zeros(estimate: EnergyEstimate, unit: EnergyUnit) -> Iterator[str]:
    hardware = estimate.settings.hardware
    if not hardware.sparsity.skips_anything:
        yield f"{hardware.name} skips no zeros: those of weights and activations save nothing."
        return
    without = estimate.series.total.value + estimate.saved
    share = fmt.percent(estimate.saved / without if without else None)
    yield (
        f"Zeros save {unit.text(estimate.saved)} ({share}), on hardware that skips "
        "them as this does; on other hardware nothing."
    )
    if not estimate.zeros_measured:
        yield "Zeros of activations are not measured: --data SOURCE does that."


def _number(value: float | None, unit: EnergyUnit) -> str:
    if value is None:
        return fmt.ABSENT
    return fmt.quantity(value, unit.symbol)


def _in_use(share: float | None) -> str:
    return fmt.ABSENT if share is None else fmt.percent(share, 0)


def _title(part: str) -> str:
    return part[:1].upper() + part[1:]


def _part_names(shown: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(part for row in shown for part in row.parts))


# -- numbers for machines


def facts(snapshot: Snapshot, shown: Iterable[Row], unit: EnergyUnit) -> dict[str, Any]:
    """Everything as plain values; energies in the unit that ``unit`` names."""
    shown = list(shown)
    estimate = snapshot.current.energy
    parts = {part: sum(row.parts.get(part, 0.0) for row in shown) for part in _part_names(shown)}
    found: dict[str, Any] = {
        "model": snapshot.model.name,
        "unit": unit.header,
        "energy": unit.of(estimate.series.total.value),
        "parts": parts,
        "saved_by_zeros": unit.of(estimate.saved),
        "bound_by": estimate.bound_by,
        "provenance": estimate.series.metric.provenance.value,
        "conditions": dict(estimate.series.conditions),
        "layers": [_row_facts(row, unit) | {"parts": dict(row.parts)} for row in shown],
    }
    if snapshot.cursor:
        found["base"] = unit.of(snapshot.base.energy.series.total.value)
    return found


def _row_facts(row: Row, unit: EnergyUnit) -> dict[str, Any]:
    told = row.told
    return {
        "layer": row.layer,
        "kind": row.kind,
        "macs": row.macs,
        "energy": row.energy,
        "share": row.share,
        "bound": told.bound,
        "utilisation": told.utilisation,
        "input_zeros": told.input_zeros,
        "weight_zeros": told.weight_zeros,
        "saved_by_zeros": unit.of(told.saved),
        "mapping": told.mapping,
        "not_modelled": list(told.unmodelled),
    }


def as_csv(shown: Iterable[Row], unit: EnergyUnit) -> str:
    """One line a layer; what is absent is empty."""
    shown = list(shown)
    parts = _part_names(shown)
    lines = [
        _row_facts(row, unit)
        | {part: row.parts.get(part) for part in parts}
        | {"unit": unit.header, "not_modelled": " ".join(row.told.unmodelled)}
        for row in shown
    ]
    return table_csv(lines)


def hardware_facts(entries: Iterable[HardwareEntry]) -> list[dict[str, Any]]:
    """The list of descriptions as plain values."""
    return [
        {
            "key": entry.key,
            "name": entry.hardware.name if entry.hardware else None,
            "technology": entry.hardware.technology if entry.hardware else None,
            "source": entry.hardware.source if entry.hardware else None,
            "own": entry.own,
            "file": str(entry.path),
            "problem": entry.problem,
        }
        for entry in entries
    ]


def comparison_facts(lines: Iterable[Compared], unit: EnergyUnit) -> list[dict[str, Any]]:
    """The comparison as plain values."""
    return [
        {
            "hardware": line.hardware.name,
            "technology": line.hardware.technology,
            "dataflow": line.dataflow,
            "unit": unit.header,
            "energy": line.energy,
            "dram_share": line.dram,
        }
        for line in lines
    ]


def description_facts(report: DescriptionReport) -> dict[str, Any]:
    """What was written in the MIT tool's format, and what was left out, as plain values."""
    return {
        "files": list(report.files),
        "left_out": [
            {"layer": one.layer, "operator": one.operator, "reason": one.reason, "macs": one.macs}
            for one in report.left_out
        ],
    }


def table_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Plain values as CSV, one line a mapping; what is absent is empty."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    return fmt.delimited([names, *([line.get(name) for name in names] for line in lines)])
