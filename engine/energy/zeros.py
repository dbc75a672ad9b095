"""Where zeros are: what hardware that skips them may save."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.layers import LayerId
from engine.operators import Operator

OperatorKey = tuple[LayerId, str, int]
"""An operator by its layer, its name, and how many of that name ran there before it.

Edits leave it as it is where they leave the operator, so that what was measured of one state can
be said of the next.
"""


class OperatorKeys:
    """Names the operators of one pass, in the order in which they run."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[LayerId, str]] = Counter()

    def of(self, operator: Operator) -> OperatorKey:
        """The key of the operator that runs next."""
        of_its_kind = operator.layer, operator.name
        at = self._counts[of_its_kind]
        self._counts[of_its_kind] += 1
        return (*of_its_kind, at)


@dataclass(frozen=True)
class Zeros:
    """Shares of zeros, 0 to 1.

    Attributes:
        weights: of parameters and buffers by full name.
        values: of each operator's inputs, then outputs; empty: nobody knows.
        origin: where those are from, in half a sentence.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[OperatorKey, tuple[float, ...]] = field(default_factory=dict)
    origin: str = "measured on data"
