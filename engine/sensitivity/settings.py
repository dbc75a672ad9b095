"""The settings that a scan tries when none are named."""

from engine.edits import Edit, PruneChannels, PruneWeights, Quantize, edit_name
from engine.layers import LayerTree

CHANNELS = (0.2, 0.4, 0.6, 0.8)
WEIGHTS = (0.5, 0.7, 0.9)
BITS = (8, 6, 4, 3, 2)
ACTIVATION_BITS = (8,)


def channels_setting(ratio: float) -> PruneChannels:
    """Output channels removed, the least L2 norm first."""
    return PruneChannels((), ratio, multiple=1)


def weights_setting(ratio: float) -> PruneWeights:
    """Single weights zeroed, the least magnitude first."""
    return PruneWeights((), ratio)


def bits_setting(bits: int) -> Quantize:
    """Weights alone in so many bits, a scale for each channel, without repair."""
    return Quantize((), weight_bits=bits, activations="none", bias_correction=False)


def activations_setting(bits: int) -> Quantize:
    """Inputs in so many bits, on static ranges, and weights in 8."""
    return Quantize((), activation_bits=bits, bias_correction=False)  # type: ignore[arg-type]


def usual_settings(tree: LayerTree) -> tuple[Edit, ...]:
    """A dozen settings, as far as they fit some layer of the model."""
    every: tuple[Edit, ...] = (
        *map(channels_setting, CHANNELS),
        *map(weights_setting, WEIGHTS),
        *map(bits_setting, BITS),
        *map(activations_setting, ACTIVATION_BITS),
    )
    methods = {name for layer in tree for name in layer.methods}
    return tuple(one for one in every if edit_name(one) in methods)
