"""What energy is shown in: joules, MACs of the hardware, or grams of CO₂. No Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import engine
from gui import format as fmt

if TYPE_CHECKING:  # reading descriptions takes pydantic, which the window shows without
    from engine import Grid, Hardware

UnitName: TypeAlias = Literal["J", "MAC", "CO2"]
UNIT_NAMES: tuple[UnitName, ...] = ("J", "MAC", "CO2")


@dataclass(frozen=True)
class EnergyUnit:
    """A unit of energy of one inference.

    Attributes:
        symbol: on axes and in headers of files; takes SI prefixes.
        per_joule: how many of it one joule of one inference is.
        title, axis: what is shown in it, for captions and in short for axes.
        header: the unit in full, for the header of a file.
        note: what must be known of it, such as whose grid; "" for nothing.
    """

    name: UnitName = "J"
    symbol: str = "J"
    per_joule: float = 1.0
    title: str = "Energy"
    axis: str = "Energy"
    header: str = "J"
    note: str = ""

    def of(self, joules: float) -> float:
        """That energy in this unit."""
        return joules * self.per_joule

    def text(self, joules: float | None) -> str:
        """That energy as a number with prefix and symbol, such as ``41.2 µJ``."""
        if joules is None:
            return fmt.ABSENT
        number = fmt.quantity(self.of(joules), self.symbol)
        return f"{number} MAC" if self.name == "MAC" else number


JOULES = EnergyUnit()


def mac_unit(hardware: Hardware) -> EnergyUnit:
    """Energy in MACs of full words on that hardware."""
    note = f"1 MAC = {hardware.joules_per_mac * 1e12:.3g} pJ"
    return EnergyUnit("MAC", "MAC", 1 / hardware.joules_per_mac, header="MAC", note=note)


def co2_unit(grid: Grid) -> EnergyUnit:
    """Energy as the CO₂ equivalent of a thousand inferences on electricity of that grid."""
    return EnergyUnit(
        "CO2",
        "g",
        engine.co2_grams(1000.0, grid),
        title="CO₂ equivalent of 1,000 inferences",
        axis="CO₂ equivalent",
        header="g CO2 equivalent of 1000 inferences",
        note=f"{grid.name} {grid.year}, {grid.grams_per_kwh:g} g/kWh, 1,000 inferences",
    )
