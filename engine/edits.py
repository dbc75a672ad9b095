"""Every kind of edit as plain data: what was asked for, and beside it what the run decided.

An edit is a frozen dataclass with a name in :data:`EDITS`; its handler is found by type
(:data:`HANDLERS`). A new method is one dataclass here, one handler module and one test: the form,
the recipe, undo and the history follow from the fields. The bounds in the annotations hold for
what is read from a file; what a user asks for is judged, in words, by the handler.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Interval, Le, Lt

from engine.layers import LayerId

Scale: TypeAlias = Annotated[float, Interval(ge=2.0**-126, le=2.0**127)]
"""What float32 holds in full precision."""


@dataclass(frozen=True)
class PruneChannels:
    """Remove output channels of the layers, with everything that is coupled to them.

    Attributes:
        layers: convolutions or linear layers.
        ratio: share of each layer's output channels to remove, 0 to below 1.
        criterion: which channels go first: least L1 or L2 norm over the coupled group, or random.
        seed: for ``random``.
    """

    layers: tuple[LayerId, ...]
    ratio: Annotated[float, Ge(0), Lt(1)]
    criterion: Literal["l1", "l2", "random"] = "l2"
    seed: int = 0


@dataclass(frozen=True)
class ChannelSlice:
    """Indices removed along one side of one layer.

    Attributes:
        side: ``out`` or ``in`` for the layer's channels; ``parameter`` for a bare parameter,
            whose full name ``layer`` then is.
        dim: the axis, for ``parameter`` only.
        removed: sorted indices before the edit.
        of: how many there were before.
    """

    layer: LayerId
    side: Literal["out", "in", "parameter"]
    removed: tuple[Annotated[int, Ge(0)], ...]
    of: Annotated[int, Gt(0)]
    dim: int = 0


@dataclass(frozen=True)
class ChannelsRemoved:
    """Decision of :class:`PruneChannels`: every slice of the coupled groups."""

    slices: tuple[ChannelSlice, ...]


@dataclass(frozen=True)
class PruneWeights:
    """Zero single weights of the layers (unstructured pruning).

    Attributes:
        ratio: sparsity of each layer's weight afterwards, 0 to 1; existing zeros count.
        criterion: least magnitude first (``l1``), or random.
        seed: for ``random``.
    """

    layers: tuple[LayerId, ...]
    ratio: Annotated[float, Ge(0), Le(1)]
    criterion: Literal["l1", "random"] = "l1"
    seed: int = 0


@dataclass(frozen=True)
class WeightMask:
    """Which weights of a layer stay: one bit each, row-major, as ``numpy.packbits`` writes them."""

    layer: LayerId
    shape: tuple[Annotated[int, Gt(0)], ...]
    kept: bytes


@dataclass(frozen=True)
class WeightsZeroed:
    """Decision of :class:`PruneWeights`: the masks, bit-packed."""

    masks: tuple[WeightMask, ...]


@dataclass(frozen=True)
class Quantize:
    """Round the weights and the input of each layer to integers.

    Weights: symmetric, one scale for each output channel. Activations: affine, one scale and zero
    point, calibrated on training samples. Batch norm behind a layer is folded first.

    Attributes:
        weight_bits, activation_bits: 8 in this version.
        calibration_samples: how many training samples set the activation ranges.
    """

    layers: tuple[LayerId, ...]
    weight_bits: Literal[8] = 8
    activation_bits: Literal[8] = 8
    calibration_samples: Annotated[int, Gt(0)] = 256


@dataclass(frozen=True)
class QuantizedLayer:
    """What quantizing decided for one layer.

    Attributes:
        folded: the batch norm that went into the weights, None when there was none.
        weight_scales: one for each output channel.
        input_scale, input_zero_point: input = (integer - zero point) * scale, signed 8 bit.
    """

    layer: LayerId
    folded: LayerId | None
    weight_scales: tuple[Scale, ...]
    input_scale: Scale
    input_zero_point: Annotated[int, Interval(ge=-128, le=127)]


@dataclass(frozen=True)
class LayersQuantized:
    """Decision of :class:`Quantize`, and the calibration it rests on."""

    layers: tuple[QuantizedLayer, ...]
    calibration: str


Edit: TypeAlias = PruneChannels | PruneWeights | Quantize
Decision: TypeAlias = ChannelsRemoved | WeightsZeroed | LayersQuantized

EDITS: dict[str, tuple[type[Edit], type[Decision]]] = {
    "prune-channels": (PruneChannels, ChannelsRemoved),
    "prune-weights": (PruneWeights, WeightsZeroed),
    "quantize": (Quantize, LayersQuantized),
}
"""Name in files and on the command line -> request and decision."""

HANDLERS: dict[type[Edit], str] = {
    PruneChannels: "engine.pruning.channels:ChannelPruning",
    PruneWeights: "engine.pruning.weights:WeightPruning",
    Quantize: "engine.quantization.static:StaticQuantization",
}
"""Request -> handler, as a lazy name: handlers import torch."""


def edit_name(edit: Edit | type[Edit]) -> str:
    """The name of the edit's kind, such as ``prune-channels``."""
    kind = edit if isinstance(edit, type) else type(edit)
    return next(name for name, (request, _) in EDITS.items() if request is kind)


@dataclass(frozen=True)
class AppliedEdit:
    """An edit in the history: the request, and what the run decided; replay copies the latter."""

    request: Edit
    decision: Decision
