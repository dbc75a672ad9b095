"""A model as it would compute without rounding, for analyses that rounding stops."""

from torch import nn

from engine.half_layers import without_casts
from engine.integer_layers import without_integers
from engine.rounded_operators import without_rounded_operators


def without_rounding(model: nn.Module) -> None:
    """Turn every layer of integer or 16-bit weights in ``model``, a copy of the caller's own, into
    the float layer of the same shapes, and let layers that round in their own code do so no more:
    for analyses that follow gradients.
    """
    without_integers(model)
    without_casts(model)
    without_rounded_operators(model)
