"""What an edit does to each layer as few rows: layers that change alike share one. No Qt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from engine import Effect, LayerEffect, LayerId
from gui import format as fmt

Translate = Callable[[str], str]

_FEW: Final = 6  # so many layers are listed one by one


@dataclass(frozen=True)
class EffectRow:
    """One row, and the layers it stands for.

    Attributes:
        below: a row for each layer, where there are several.
    """

    name: str
    value: str
    quantity: str
    layers: tuple[LayerId, ...]
    below: tuple["EffectRow", ...] = ()


def effect_rows(effects: Sequence[LayerEffect], tr: Translate = str) -> tuple[EffectRow, ...]:
    """The rows, those that change alike together, where it would be many otherwise."""
    single = [_row(effect, tr) for effect in effects]
    if len(effects) <= _FEW:
        return tuple(single)
    alike: dict[tuple[str, str], list[EffectRow]] = {}
    for row in single:
        alike.setdefault((row.quantity, row.value), []).append(row)
    return tuple(rows[0] if len(rows) == 1 else _group(rows, tr) for rows in alike.values())


def _row(effect: LayerEffect, tr: Translate) -> EffectRow:
    value = f"{fmt.count(effect.before)} → {fmt.count(effect.after)}"
    return EffectRow(fmt.layer_name(effect.layer), value, tr(effect.quantity), (effect.layer,))


def _group(rows: list[EffectRow], tr: Translate) -> EffectRow:
    layers = tuple(layer for row in rows for layer in row.layers)
    name = tr("{count} layers").format(count=len(rows))
    return EffectRow(name, rows[0].value, rows[0].quantity, layers, tuple(rows))


def changes_something(effect: Effect) -> bool:
    """Whether the model would be another one; an amount of nothing leaves it as it is."""
    changed = any(one.before != one.after or one.role == "folded" for one in effect.layers)
    return changed or effect.before != effect.after


def as_table(rows: Sequence[EffectRow]) -> list[tuple[str, str, str]]:
    """Every layer on a line of its own, for a spreadsheet."""
    single = [one for row in rows for one in (row.below or (row,))]
    return [(one.name, one.value, one.quantity) for one in single]
