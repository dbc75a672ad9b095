"""Which description of hardware is meant, by a text that can be kept. No Qt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reading descriptions takes pydantic, which the window shows without
    from engine import Hardware, HardwareEntry

_OWN = "own/"


def hardware_id(entry: HardwareEntry) -> str:
    """What tells the description from all others: its key, and whether it is the user's."""
    return f"{_OWN if entry.own else ''}{entry.key}"


def hardware_by_id(entries: Iterable[HardwareEntry], id_: str) -> Hardware | None:
    """The description of that id; None when there is none, or it is bad."""
    return next((one.hardware for one in entries if hardware_id(one) == id_), None)


def id_of(entries: Iterable[HardwareEntry], hardware: Hardware) -> str:
    """The id of the entry that describes the same; "" when none does."""
    return next((hardware_id(one) for one in entries if one.hardware == hardware), "")
