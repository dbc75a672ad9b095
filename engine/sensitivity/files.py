"""Maps of sensitivity as files: JSON that is read back whole, CSV, and Distiller's CSV.

Distiller (Intel, distiller/sensitivity.py) writes one line for each parameter and sparsity, with
top-1 and top-5 in percent and the loss.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engine.edits import EDITS, Edit, PruneChannels, PruneWeights, edit_name
from engine.errors import ExportFailed, SensitivityUnreadable
from engine.files import write_atomically
from engine.layers import LayerId
from engine.sensitivities import Cell, SensitivityFormat, SensitivityMap, setting_name

_FORMAT, _VERSION = "secateur-sensitivity", 1
_COLUMNS = (
    "layer", "coupled", "setting", "direction",
    "estimate", "rise", "error", "lost", "samples", "refusal",
)  # fmt: skip
_DISTILLER = ("parameter", "sparsity", "top1", "top5", "loss")
_MOST_BYTES = 1 << 28
_MOST_CELLS = 1 << 20
_HEAD: TypeAdapter[SensitivityMap] = TypeAdapter(SensitivityMap)
_CELL = TypeAdapter(Cell)


def save_sensitivity(path: str, found: SensitivityMap, form: SensitivityFormat) -> None:
    """Write a map.

    Args:
        form: ``json`` holds all of it; ``csv`` a line for each cell, for people and tables;
            ``distiller`` the columns of zeroed weights, or if there are none those of removed
            channels, and of rows that are changed together the same figures for each layer.

    Raises:
        ExportFailed: it could not be written, or Distiller's format cannot say it.
    """
    write = {"json": _as_json, "csv": _as_csv, "distiller": _as_distiller}[form]
    write_atomically(Path(path), write(found).encode())


def read_sensitivity(path: str) -> SensitivityMap:
    """Read a map that was saved as JSON, or one of Distiller's.

    Raises:
        SensitivityUnreadable: it is none, or damaged; the message names the line or the field.
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise SensitivityUnreadable(f"{file} is not there, or is not a regular file.")
        if file.stat().st_size > _MOST_BYTES:
            raise SensitivityUnreadable(f"{file.name} is larger than any map of sensitivity.")
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SensitivityUnreadable(f"{file.name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SensitivityUnreadable(f"{file.name} is not text.") from error
    is_json = text.lstrip().startswith("{")
    return _from_json(text, file.name) if is_json else _from_distiller(text, file.name)


# JSON


def _as_json(found: SensitivityMap) -> str:
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        **_HEAD.dump_python(replace(found, settings=(), cells={}), exclude={"settings", "cells"}),
        "settings": [{"edit": edit_name(one), "request": asdict(one)} for one in found.settings],
        "cells": [
            {"row": row, "column": column, **_said(cell)}
            for (row, column), cell in sorted(found.cells.items())
        ],
    }  # fmt: skip
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _said(cell: Cell) -> dict[str, Any]:
    """What a cell says, without what is as usual; infinity in words, which JSON lacks."""
    usual = Cell()
    return {
        name: "inf" if value == math.inf else value
        for name, value in asdict(cell).items()
        if value != getattr(usual, name)
    }


def _from_json(text: str, name: str) -> SensitivityMap:
    try:
        content = json.loads(text, parse_constant=_no_number)
        if content.get("format") != _FORMAT:
            raise SensitivityUnreadable(f"{name} is not a map of sensitivity.")
        if content["version"] != _VERSION:
            raise SensitivityUnreadable(
                f"{name} was written by another version (format {content['version']})."
            )
        head = {key: one for key, one in content.items() if key not in ("format", "version")}
        cells, settings = head.pop("cells"), head.pop("settings")
        found = _HEAD.validate_python(head | {"settings": (), "cells": {}})
        whole = replace(
            found,
            settings=tuple(_setting(one, name) for one in settings),
            cells=dict(_cell(one) for one in cells),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (error.title, *first["loc"])))
        raise SensitivityUnreadable(f"{name}: {where}: {first['msg']}.") from error
    except KeyError as error:
        raise SensitivityUnreadable(f"{name} is not whole: {error} is missing.") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SensitivityUnreadable(f"{name} is not a map of sensitivity: {error}.") from error
    _check(whole, name)
    return whole


def _setting(said: Mapping[str, Any], name: str) -> Edit:
    if said["edit"] not in EDITS:
        raise SensitivityUnreadable(f"{name}: there is no edit of the kind “{said['edit']}” here.")
    setting: Edit = TypeAdapter(EDITS[said["edit"]][0]).validate_python(said["request"])
    return setting


def _cell(said: Mapping[str, Any]) -> tuple[tuple[int, int], Cell]:
    row, column = int(said["row"]), int(said["column"])
    facts = {key: one for key, one in said.items() if key not in ("row", "column")}
    return (row, column), _CELL.validate_python(facts)


def _check(found: SensitivityMap, name: str) -> None:
    """Refuse cells that are in no row or column, and numbers that are none."""
    for (row, column), cell in found.cells.items():
        if not (0 <= row < len(found.rows) and 0 <= column < len(found.settings)):
            raise SensitivityUnreadable(f"{name}: there is no cell {row}, {column}.")
        for field in ("estimate", "rise", "error", "lost"):
            value = getattr(cell, field)
            if (
                value is not None
                and not math.isfinite(value)
                and (field, value) != ("rise", math.inf)
            ):
                raise SensitivityUnreadable(f"{name}: the cell {row}, {column} holds {value}.")
    if not all(found.rows):
        raise SensitivityUnreadable(f"{name}: a row has no layer.")


def _no_number(word: str) -> float:
    raise ValueError(f"it holds {word}, which is no number")


# CSV


def _as_csv(found: SensitivityMap) -> str:
    return _table(_COLUMNS, _lines(found))


def _lines(found: SensitivityMap) -> Iterator[list[Any]]:
    for at, row in enumerate(found.rows):
        for column, setting in enumerate(found.settings):
            cell = found.cell(at, column)
            yield [
                row[0], " ".join(row[1:]), setting_name(setting), found.direction,
                cell.estimate, cell.rise, cell.error, cell.lost, cell.samples, cell.refusal,
            ]  # fmt: skip


def _table(columns: Iterable[str], lines: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue()


# Distiller's


def _as_distiller(found: SensitivityMap) -> str:
    columns = _sparsities(found)
    if found.direction != "only this" or found.loss is None or not columns:
        raise ExportFailed(
            "Distiller's file holds what layers lose at several sparsities, each alone.",
            "Measure zeroed weights or removed channels, only this layer changed; or write CSV.",
        )
    return _table(_DISTILLER, _distilled(found, found.loss, columns))


def _sparsities(found: SensitivityMap) -> dict[int, float]:
    """Columns of one kind of pruning by so much of each layer, with how much."""
    for kind in (PruneWeights, PruneChannels):
        chosen = {
            column: one.ratio
            for column, one in enumerate(found.settings)
            if isinstance(one, kind) and not getattr(one, "of", 0)
        }
        if chosen:
            return dict(sorted(chosen.items(), key=lambda one: one[1]))
    return {}


def _distilled(
    found: SensitivityMap, loss: float, columns: Mapping[int, float]
) -> Iterator[list[Any]]:
    for at, row in enumerate(found.rows):
        cells = {ratio: found.cell(at, column) for column, ratio in columns.items()}
        measured = {ratio: one for ratio, one in cells.items() if one.rise is not None}
        for layer in row if measured else ():
            parameter = f"{layer}.weight" if layer else "weight"
            yield [parameter, 0.0, _percent(found.accuracy, 0.0), None, loss]
            for ratio, one in measured.items():
                assert one.rise is not None
                top1 = _percent(found.accuracy, one.lost)
                yield [parameter, ratio, top1, None, loss + one.rise]


def _percent(accuracy: float | None, lost: float | None) -> float | None:
    return None if accuracy is None or lost is None else 100 * (accuracy - lost)


def _from_distiller(text: str, name: str) -> SensitivityMap:
    """A map of zeroed weights; its rises are over what the file says of sparsity 0."""
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise SensitivityUnreadable(f"{name} is not a table: {error}.") from error
    if not lines or tuple(one.strip() for one in lines[0]) != _DISTILLER:
        raise SensitivityUnreadable(
            f"{name} does not begin with the columns {','.join(_DISTILLER)}."
        )
    figures: dict[LayerId, dict[float, tuple[float | None, float]]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if line:
            layer, sparsity, figure = _distiller_line(line, f"{name}, line {number}")
            figures.setdefault(layer, {})[sparsity] = figure
    return _of_figures(figures, name)


def _distiller_line(
    line: list[str], where: str
) -> tuple[LayerId, float, tuple[float | None, float]]:
    if len(line) != len(_DISTILLER):
        raise SensitivityUnreadable(f"{where} has {len(line)} fields, not {len(_DISTILLER)}.")
    parts = line[0].strip().removesuffix("weight").rstrip(".").split(".")
    # DataParallel, which Distiller wraps models in, puts itself into the names.
    layer = LayerId(".".join(one for one in parts if one != "module"))
    sparsity = _number(line[1], "sparsity", where)
    if not 0 <= sparsity <= 1:
        raise SensitivityUnreadable(f"{where}: a sparsity of {sparsity:g} is not possible.")
    top1 = _number(line[2], "top1", where) if line[2].strip() else None
    return layer, round(sparsity, 9), (top1, _number(line[4], "loss", where))


def _number(word: str, field: str, where: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if math.isnan(value) or (field != "loss" and math.isinf(value)):
        raise SensitivityUnreadable(f"{where}: {field}: “{word[:40]}” is no number.")
    return value


def _of_figures(
    figures: Mapping[LayerId, Mapping[float, tuple[float | None, float]]], name: str
) -> SensitivityMap:
    ratios = sorted({ratio for found in figures.values() for ratio in found if ratio > 0})
    if not ratios or len(ratios) * len(figures) > _MOST_CELLS:
        raise SensitivityUnreadable(f"{name} holds no table of layers by sparsities.")
    cells = {}
    for row, (layer, found) in enumerate(figures.items()):
        if 0.0 not in found or math.isinf(found[0.0][1]):
            raise SensitivityUnreadable(f"{name} does not say the loss of {layer} at sparsity 0.")
        for ratio, figure in found.items():
            if ratio > 0:
                cells[row, ratios.index(ratio)] = _risen(found[0.0], figure)
    top1, loss = next(iter(figures.values()))[0.0]
    return SensitivityMap(
        tuple((layer,) for layer in figures),
        tuple(PruneWeights((), ratio) for ratio in ratios),
        "only this",
        cells,
        loss,
        None if top1 is None else top1 / 100,
        complete=True,
    )


def _risen(before: tuple[float | None, float], now: tuple[float | None, float]) -> Cell:
    lost = None if before[0] is None or now[0] is None else (before[0] - now[0]) / 100
    return Cell(rise=now[1] - before[1], lost=lost)
