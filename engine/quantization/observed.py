"""What calibration found, as values that whoever decides grids may keep."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from engine.layers import LayerId
from engine.quantization.histograms import Histogram

Point = tuple[LayerId, int]
"""A layer's input, 0; or an operand of a layer's own operators, all of them counted in order."""


@dataclass(frozen=True, eq=False)
class Ranges:
    """What values came to one point.

    Attributes:
        channel_least, channel_most, channel_mean: float32 (channels,), by input channel of a layer
            with weights: axis 1 of convolutions, the last of linear layers. None elsewhere.
    """

    histogram: Histogram
    channel_least: Tensor | None = None
    channel_most: Tensor | None = None
    channel_mean: Tensor | None = None

    @property
    def least(self) -> float:
        """The smallest value."""
        return self.histogram.least

    @property
    def most(self) -> float:
        """The largest value."""
        return self.histogram.most

    @property
    def finite(self) -> bool:
        """Whether every value was a number; if not, nothing else here means anything."""
        return self.histogram.finite


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranges of every point that the samples reached.

    Attributes:
        samples: of the training split; 0: noise, as no data set is chosen.
    """

    points: Mapping[Point, Ranges]
    samples: int

    def ranges(self, layer: LayerId, operand: int = 0) -> Ranges | None:
        """What came to that point; None where no sample led."""
        return self.points.get((layer, operand))

    def operands(self, layer: LayerId) -> tuple[int, ...]:
        """Those of the layer that were reached, in order."""
        return tuple(sorted(operand for one, operand in self.points if one == layer))
