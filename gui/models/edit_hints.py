"""What is worth trying beside the values that a form has. No Qt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Translate = Callable[[str], str]

FEW_BITS: Final = 4  # at so few, rounding to the nearest loses more than repair costs


@dataclass(frozen=True)
class EditHint:
    """Other values for some fields, and why."""

    text: str
    values: Mapping[str, Any]


def edit_hint(method: str, values: Mapping[str, Any], tr: Translate = str) -> EditHint | None:
    """What would likely do better than these values; None where nothing is known to."""
    if method != "quantize" or values["weight_bits"] > FEW_BITS:
        return None
    better: dict[str, Any] = {}
    if values["granularity"] == "tensor":
        better["granularity"] = "channel"
    if values["weight_observer"] == "min-max":
        better["weight_observer"] = "mse"
    if values["rounding"] == "nearest":
        better["rounding"] = "gptq"
    if not better:
        return None
    names = {
        "granularity": tr("one scale for each channel"),
        "weight_observer": tr("the range of least squared error"),
        "rounding": "GPTQ",
    }
    told = [names[name] for name in better]
    listed = f" {tr('and')} ".join(filter(None, (", ".join(told[:-1]), told[-1])))
    return EditHint(tr("With so few bits, try {listed}.").format(listed=listed), better)
