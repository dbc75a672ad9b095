"""What a modelled energy says: settings in, figures by layer, data type and memory level out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from engine.layers import LayerId
from engine.metrics import Series

if TYPE_CHECKING:  # reading descriptions takes pydantic, which the window shows without
    from engine.energy.hardware import Hardware

Dataflow = Literal["row-stationary", "weight-stationary", "output-stationary"]
DATAFLOWS: tuple[Dataflow, ...] = ("row-stationary", "weight-stationary", "output-stationary")

COMPUTE = "compute"
DATA_TYPES = ("weights", "input", "output")
LEVELS = ("DRAM", "buffer", "array", "registers")
"""Memory levels, the farthest first; array: between processing elements."""

PARTS = (COMPUTE, *(f"{data} {level}" for data in DATA_TYPES for level in LEVELS))
"""The parts of a layer's energy: arithmetic, and each data type at each level."""


def data_type_of(part: str) -> str:
    """``compute``, or which data a part moves."""
    return part.partition(" ")[0]


def level_of(part: str) -> str:
    """``compute``, or the level at which a part moves data."""
    return part.rpartition(" ")[2]


Grouping = Literal["data type", "level"]
GROUPINGS: Mapping[Grouping, Callable[[str], str]] = {"data type": data_type_of, "level": level_of}
"""How the parts of an energy can be added up for a chart; for :meth:`Series.regrouped`."""


def _default() -> "Hardware":
    from engine.energy.hardware import default_hardware

    return default_hardware()


@dataclass(frozen=True)
class EnergySettings:
    """What modelled energy holds under.

    Attributes:
        batch: samples at once; 0: as the sample input has it.
        bits: width of weights and activations alike, to ask what if; 0: as the model has them.
    """

    hardware: "Hardware" = field(default_factory=_default)
    dataflow: Dataflow = "row-stationary"
    batch: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True)
class LayerEnergy:
    """What is known of a layer's energy beside its joules.

    Attributes:
        bound: what holds it back: by time where the hardware's speed is known, else by energy
            (the larger of DRAM and all on the chip); "" without products.
        utilisation: share of the processing elements that work; None without products.
        mapping: how its largest product lies on the hardware, in words.
        input_zeros, weight_zeros: share of zeros in what its products read; None: not known.
        saved: joules an inference that zeros save, on hardware that skips them alone.
        unmodelled: operators in it without a rule, not in its joules.
    """

    bound: Literal["DRAM", "compute", ""] = ""
    utilisation: float | None = None
    mapping: str = ""
    input_zeros: float | None = None
    weight_zeros: float | None = None
    saved: float = 0.0
    unmodelled: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnergyEstimate:
    """Modelled energy of one state of the model, in joules an inference.

    Attributes:
        series: its layers' parts are :data:`PARTS`.
        layers: of every layer that has energy, or operators without a rule.
        bound_by: what :attr:`LayerEnergy.bound` was decided by.
        zeros_measured: whether zeros of activations are known from data, or none are counted on.
    """

    series: Series
    settings: EnergySettings
    layers: Mapping[LayerId, LayerEnergy]
    bound_by: Literal["time", "energy"]
    zeros_measured: bool = False

    @property
    def saved(self) -> float:
        """Joules an inference that zeros save, on hardware that skips them alone."""
        return sum(layer.saved for layer in self.layers.values())
