"""What an edit asks for beside the layers, read off its fields: types, bounds, use. No Qt."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from engine import EDITS

FieldKind = Literal["share", "number", "count", "choice", "text", "picked", "flag"]

_FIRST: Mapping[str, Mapping[str, Any]] = {  # a usual first try, where the edit itself has none
    "prune-channels": {"ratio": 0.3},
    "prune-heads": {"ratio": 0.25},
    "prune-weights": {"ratio": 0.5},
    "prune-by-method": {"amount": 0.5, "method": "L1Unstructured"},
    "factorize": {"ratio": 0.5},
    "mask-weights": {"path": ""},
}
_USUAL: Mapping[str, tuple[str, ...]] = {"quantize": ("weight_bits", "activations")}
"""What is asked for first, where the rest is seldom wanted."""
_OF_WEIGHTS = frozenset(
    {
        "weight_bits", "granularity", "group_size", "weight_symmetric", "weight_observer",
        "rounding", "bias_correction",
    }
)  # fmt: skip
_OF_INPUTS = frozenset({"activation_bits", "activation_symmetric", "observer"})
_LOOKS_AT_DATA = {"taylor", "activation", "wanda"}
_WITHOUT_CHANCE = {"L1Unstructured", "LnStructured", "Identity"}


@dataclass(frozen=True)
class EditField:
    """One field of an edit.

    Attributes:
        first: what the form shows at first.
        default: what the edit takes where nothing is said; ``MISSING`` where something must be.
        least, most: bounds, None where there is none.
        open_end: whether ``most`` itself is too much.
        choices: of a choice.
        usual: whether it is asked for at first sight; else among further settings.
    """

    name: str
    kind: FieldKind
    first: Any
    default: Any
    least: float | None = None
    most: float | None = None
    open_end: bool = False
    choices: tuple[Any, ...] = ()
    usual: bool = True


@dataclass(frozen=True)
class Selected:
    """What decides which fields have a use.

    Attributes:
        layers: how many layers the edit would be applied to.
        spatial: whether one of them is a convolution.
        by_hand: whether what goes is picked instead of an amount.
        weights: whether one of them has weights; else there are inputs to round alone.
    """

    layers: int = 1
    spatial: bool = True
    by_hand: bool = False
    weights: bool = True


@cache
def edit_fields(method: str) -> tuple[EditField, ...]:
    """The fields of that kind of edit, without the layers and without what leaves no choice.

    Those that are asked for at first sight come first.
    """
    kind, _ = EDITS[method]
    hints = get_type_hints(kind, include_extras=True)
    first = _FIRST.get(method, {})
    found = []
    for field in fields(kind):
        if field.name == "layers":
            continue
        default = first.get(field.name, field.default)
        one = _field(field.name, hints[field.name], default, field.default)
        if len(one.choices) != 1:
            usual = method not in _USUAL or field.name in _USUAL[method]
            found.append(replace(one, usual=usual))
    return tuple(sorted(found, key=lambda one: not one.usual))


def _field(name: str, hint: Any, first: Any, default: Any) -> EditField:
    bare, bounds = (hint, ()) if get_origin(hint) is not Annotated else _split(hint)
    if get_origin(bare) is Literal:
        return EditField(name, "choice", first, default, choices=get_args(bare))
    if get_origin(bare) is tuple:
        return EditField(name, "picked", first, default)
    if bare is str:
        return EditField(name, "text", first, default)
    if bare is bool:
        return EditField(name, "flag", first, default)
    least = _bound(bounds, "ge", "gt")
    below = _bound(bounds, "lt")
    most = below if below is not None else _bound(bounds, "le")
    kind: FieldKind = "count" if bare is int else "share" if most == 1 else "number"
    if kind == "count" and least is not None and _bound(bounds, "gt") is not None:
        least += 1
    return EditField(name, kind, first, default, least, most, below is not None)


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    bare, *bounds = get_args(hint)
    return bare, tuple(bounds)


def _bound(bounds: tuple[Any, ...], *names: str) -> float | None:
    """The first bound of one of these names among the annotations."""
    values = (getattr(bound, name, None) for bound in bounds for name in names)
    return next((value for value in values if value is not None), None)


def useful_fields(method: str, values: Mapping[str, Any], selected: Selected) -> frozenset[str]:
    """Names of the fields that change what the edit does, with the others as they are."""
    names = {field.name for field in edit_fields(method)}
    criterion = values.get("criterion")
    picked = selected.by_hand
    if "criterion" in names:
        if criterion != "random" or picked:
            names.discard("seed")
        if criterion not in _LOOKS_AT_DATA:
            names.discard("samples")
    if values.get("method") in _WITHOUT_CHANCE:
        names.discard("seed")
    if values.get("of"):  # the pattern says how many stay, within each group of weights
        names -= {"ratio", "spread"}
    if picked:
        names -= {"ratio", "multiple", "spread"}
    if not picked:
        names -= {"channels", "heads"}
    if selected.layers < 2:
        names.discard("spread")
    if not selected.spatial:
        names.discard("form")
    if method == "quantize":
        names -= _useless_in_rounding(values, selected)
    return frozenset(names)


def _useless_in_rounding(values: Mapping[str, Any], selected: Selected) -> frozenset[str]:
    """What a quantization has no use for, with its other values as they are."""
    inputs = values.get("activations", "static")
    without = set() if selected.weights else set(_OF_WEIGHTS)
    if values.get("granularity") != "group":
        without.add("group_size")
    if inputs == "none":
        without |= _OF_INPUTS
    if inputs == "dynamic":
        without.add("observer")
    chosen = {values.get(name) for name in ("weight_observer", "observer") if name not in without}
    if "percentile" not in chosen:
        without.add("percentile")
    learns = values.get("bias_correction") or values.get("rounding", "nearest") != "nearest"
    if inputs != "static" and not (learns and selected.weights):
        without.add("calibration_samples")
    return frozenset(without)
