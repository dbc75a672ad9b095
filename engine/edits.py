"""Every kind of edit as plain data: what was asked for, and beside it what the run decided.

An edit is a frozen dataclass with a name in :data:`EDITS`; its handler is found by type
(:data:`HANDLERS`). A new method is one dataclass here, one handler module and one test: the form,
the recipe, undo and the history follow from the fields. The bounds in the annotations hold for
what is read from a file; what a user asks for is judged, in words, by the handler.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Interval, Le, Lt

from engine.layers import LayerId

Scale: TypeAlias = Annotated[float, Interval(ge=2.0**-126, le=2.0**127)]
"""What float32 holds in full precision."""


Spread: TypeAlias = Literal["layer", "global", "energy"]
"""How an amount is spread over the selected layers: each its own share; all together in one
ranking; or more of it where modelled energy goes."""

Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
Count: TypeAlias = Annotated[int, Gt(0)]


@dataclass(frozen=True, repr=False)
class StoredTensor:
    """A tensor that cannot be derived again: its bytes, row-major, little-endian.

    Attributes:
        name: full name of the parameter or buffer.
        dtype: torch's name of it, such as ``float32``.
    """

    name: str
    dtype: str
    shape: tuple[Annotated[int, Ge(0)], ...]
    data: bytes

    def __repr__(self) -> str:  # states are named by it: of large tensors the digest will do
        digest = hashlib.sha256(self.data).hexdigest()
        return f"StoredTensor({self.name!r}, {self.dtype!r}, {self.shape}, sha256={digest})"


@dataclass(frozen=True)
class PruneChannels:
    """Remove output channels of the layers, with everything that is coupled to them.

    Attributes:
        layers: convolutions or linear layers.
        ratio: share of the layers' output channels to remove, 0 to below 1; with ``spread`` by
            energy the share to save of the modelled energy of the layers and what is coupled to
            them.
        criterion: which channels go first, judged over the coupled group: least L1 or L2 norm
            (Li et al., 2017); batch norm's scale (Liu et al., 2017); distance to the geometric
            median (FPGM, He et al., 2019); first-order Taylor (Molchanov et al., 2019); mean
            magnitude of the activation; LAMP (Lee et al., 2021); or random.
        spread: how the ratio is spread over the layers; channels that are coupled count once.
        multiple: widths are rounded to a multiple of it, the nearest; layers narrower than two
            multiples take any width; 1: all do.
        channels: output channels picked by hand, of the one layer; ``ratio`` then says nothing.
        samples: training samples for ``taylor`` and ``activation``.
        seed: for ``random``.
    """

    layers: tuple[LayerId, ...]
    ratio: Annotated[float, Ge(0), Lt(1)]
    criterion: Literal["l1", "l2", "bn-scale", "fpgm", "taylor", "activation", "lamp", "random"] = (
        "l2"
    )
    spread: Spread = "layer"
    multiple: Count = 8
    channels: tuple[Annotated[int, Ge(0)], ...] = ()
    samples: Count = 256
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
    """Decision of :class:`PruneChannels`: every slice of the coupled groups.

    Attributes:
        told: how the amount was met, in plain sentences.
    """

    slices: tuple[ChannelSlice, ...]
    told: str = ""


@dataclass(frozen=True)
class PruneWeights:
    """Zero single weights of the layers: unstructured, or ``keep`` of every ``of`` (N:M).

    Attributes:
        ratio: sparsity of the layers' weights afterwards, 0 to 1; existing zeros count. With a
            pattern it follows from that.
        criterion: least magnitude first (``l1``) or square (``l2``, which ranks alike), first-order
            Taylor, Wanda (weight times norm of the input, Sun et al., 2024), or random.
        spread: how the ratio is spread over the layers. Wanda compares within each output, so
            that each has the layer's share; with ``global`` all weights are in one ranking.
        keep, of: of every ``of`` weights in a row along the input channels at most ``keep`` stay,
            such as 2 of 4; 0: no pattern.
        samples: training samples for ``taylor`` and ``wanda``.
        seed: for ``random``.
    """

    layers: tuple[LayerId, ...]
    ratio: Share
    criterion: Literal["l1", "l2", "taylor", "wanda", "random"] = "l1"
    spread: Spread = "layer"
    keep: Annotated[int, Ge(0)] = 0
    of: Annotated[int, Ge(0)] = 0
    samples: Count = 256
    seed: int = 0


@dataclass(frozen=True)
class MaskWeights:
    """Zero the weights that a mask in a file says.

    Attributes:
        path: a file of masks, 0 where a weight goes and 1 where it stays, each under the name of
            the layer, of its parameter, or of that with ``_mask``.
    """

    layers: tuple[LayerId, ...]
    path: str


@dataclass(frozen=True)
class PruneByMethod:
    """Zero weights by a pruning method of ``torch.nn.utils.prune``, or a subclass of its own.

    Attributes:
        method: one of :data:`TORCH_METHODS`, or ``file.py:Class`` and ``package.module:Class``.
        amount: what the method takes as such, if it takes one.
        arguments: its other arguments, a JSON object.
        seed: of torch's random numbers while it runs.
    """

    layers: tuple[LayerId, ...]
    method: str
    amount: Share
    arguments: str = "{}"
    seed: int = 0


@dataclass(frozen=True, repr=False)
class WeightMask:
    """Which weights of a layer stay: one bit each, row-major, as ``numpy.packbits`` writes them.

    Attributes:
        parameter: the layer's own name of the tensor.
    """

    layer: LayerId
    shape: tuple[Annotated[int, Gt(0)], ...]
    kept: bytes
    parameter: str = "weight"

    def __repr__(self) -> str:  # as of StoredTensor
        digest = hashlib.sha256(self.kept).hexdigest()
        return f"WeightMask({self.layer!r}, {self.shape}, {self.parameter!r}, sha256={digest})"


@dataclass(frozen=True)
class WeightsZeroed:
    """Decision of what zeroes weights: the masks, bit-packed."""

    masks: tuple[WeightMask, ...]


@dataclass(frozen=True)
class PruneHeads:
    """Remove whole heads of attention layers.

    Attributes:
        layers: attention layers of a known kind.
        ratio: share of each layer's heads to remove, 0 to below 1.
        criterion: least L2 norm of what the head puts into the output, or random.
        heads: picked by hand, of the one layer; ``ratio`` then says nothing.
        seed: for ``random``.
    """

    layers: tuple[LayerId, ...]
    ratio: Annotated[float, Ge(0), Lt(1)]
    criterion: Literal["l2", "random"] = "l2"
    heads: tuple[Annotated[int, Ge(0)], ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class HeadsGone:
    """The heads that one layer loses: sorted indices before the edit."""

    layer: LayerId
    removed: tuple[Annotated[int, Ge(0)], ...]
    of: Count


@dataclass(frozen=True)
class HeadsRemoved:
    """Decision of :class:`PruneHeads`."""

    layers: tuple[HeadsGone, ...]


@dataclass(frozen=True)
class RemoveBlocks:
    """Take whole residual blocks out, so that their input passes on unchanged."""

    layers: tuple[LayerId, ...]


@dataclass(frozen=True)
class BlocksRemoved:
    """Decision of :class:`RemoveBlocks`."""

    layers: tuple[LayerId, ...]


@dataclass(frozen=True)
class Factorize:
    """Replace each layer's weight by two smaller ones, by singular value decomposition.

    Attributes:
        layers: linear layers and convolutions without groups.
        ratio: share of the layer's parameters to save, 0 to below 1.
        form: for spatial convolutions: ``channel`` puts a 1x1 behind a narrow convolution (Zhang
            et al., 2016), ``spatial`` a column in front of a row (Jaderberg et al., 2014).
    """

    layers: tuple[LayerId, ...]
    ratio: Annotated[float, Ge(0), Lt(1)]
    form: Literal["channel", "spatial"] = "channel"


@dataclass(frozen=True)
class LayerFactors:
    """The two factors of one layer: its children ``first`` and ``second`` from then on.

    Attributes:
        tensors: ``first.weight`` and ``second.weight``; the bias stays as it is. Empty in a draft,
            whose factors have shapes alone.
    """

    layer: LayerId
    rank: Count
    form: Literal["channel", "spatial"]
    tensors: tuple[StoredTensor, ...]


@dataclass(frozen=True)
class LayersFactorized:
    """Decision of :class:`Factorize`."""

    layers: tuple[LayerFactors, ...]


@dataclass(frozen=True)
class FoldNorms:
    """Fold the batch norm behind each layer into its weights: the same outputs, fewer layers."""

    layers: tuple[LayerId, ...]


@dataclass(frozen=True)
class NormsFolded:
    """Decision of :class:`FoldNorms`: (layer, batch norm) pairs."""

    pairs: tuple[tuple[LayerId, LayerId], ...]


@dataclass(frozen=True)
class RecalibrateNorms:
    """Measure the statistics of batch norms anew on training samples.

    Attributes:
        layers: the batch norms below these; the root for all.
    """

    layers: tuple[LayerId, ...]
    samples: Count = 1024


@dataclass(frozen=True)
class FineTune:
    """Train the layers on the training split; masks stay as they are.

    Layers that round are trained through their rounding (quantization-aware training, Jacob et
    al., 2018), on the grids that they have.

    Attributes:
        layers: what is trained, with everything below; the root for all.
        optimizer: SGD has a momentum of 0.9 and Nesterov's step.
        schedule: of the learning rate: from its value down to 0 along a cosine, or constant.
        distillation: share of the loss that follows the base model's outputs (Hinton et al.,
            2015), 0 to 1, at ``temperature``.
        samples: of the training split, so many, evenly spread; 0: all.
        device: torch's name of where it is done.
    """

    layers: tuple[LayerId, ...]
    epochs: Count = 3
    learning_rate: Annotated[float, Gt(0)] = 0.01
    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    distillation: Share = 0.0
    temperature: Annotated[float, Gt(0)] = 4.0
    batch: Count = 64
    samples: Annotated[int, Ge(0)] = 0
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Retrained:
    """Decision of what trains or measures anew: the tensors that came of it.

    Attributes:
        told: what came of it, in a plain sentence.
    """

    tensors: tuple[StoredTensor, ...]
    told: str


IntegerBits: TypeAlias = Annotated[int, Interval(ge=2, le=16)]
Granularity: TypeAlias = Literal["tensor", "channel", "group"]
Observer: TypeAlias = Literal["min-max", "percentile", "mse"]


@dataclass(frozen=True)
class Quantize:
    """Round weights and inputs of the layers to integers.

    A layer is a convolution, a linear layer, an attention layer (its projection and its matrix
    products) or a residual block (its additions, whose operands are rounded). A batch norm behind
    a convolution or linear layer is folded first.

    Attributes:
        weight_bits: 2 to 16; 7 is what is called reduced range.
        granularity: one scale for the whole tensor, for each output channel, or for each group of
            ``group_size`` weights of an output channel in a row.
        group_size: the most; each layer takes the largest that divides its rows.
        weight_symmetric: zero point 0, and as many steps below it as above.
        weight_observer: how the weights' range is chosen: as it is, so that ``percentile`` of them
            lie within, or by the least mean squared error.
        rounding: of weights: to the nearest; GPTQ (Frantar et al., 2023), which makes up for each
            column's error in the columns after it; AdaRound (Nagel et al., 2020), which learns
            whether each goes up or down.
        activations: ``static`` ranges from calibration; ``dynamic`` ones, of each sample as it
            comes; ``none`` leaves inputs in float.
        activation_symmetric: zero point 0.
        observer: how static ranges are chosen, as ``weight_observer``.
        percentile: share of values, in percent, that ``percentile`` keeps within the range.
        bias_correction: shift the bias by the mean error of the output (Nagel et al., 2019).
        calibration_samples: how many training samples are looked at.
    """

    layers: tuple[LayerId, ...]
    weight_bits: IntegerBits = 8
    granularity: Granularity = "channel"
    group_size: Count = 32
    weight_symmetric: bool = True
    weight_observer: Observer = "min-max"
    rounding: Literal["nearest", "gptq", "adaround"] = "nearest"
    activations: Literal["static", "dynamic", "none"] = "static"
    activation_bits: Literal[8, 16] = 8
    activation_symmetric: bool = False
    observer: Observer = "mse"
    percentile: Annotated[float, Gt(50), Le(100)] = 99.99
    bias_correction: bool = True
    calibration_samples: Count = 256


@dataclass(frozen=True)
class WeightGrid:
    """Of a weight: value = (integer - zero point) * scale.

    Attributes:
        symmetric: whether integers go from -(2**(bits-1) - 1) to its negative; else from
            -2**(bits-1) to 2**(bits-1) - 1.
        group_size: weights of a row that share a scale; 0: a row has one, or all have.
        scales: one; one for each output channel; or one for each group, row by row.
        zero_points: as many, all 0 if symmetric.
    """

    bits: IntegerBits
    symmetric: bool
    group_size: Annotated[int, Ge(0)]
    scales: tuple[Scale, ...]
    zero_points: tuple[Annotated[int, Interval(ge=-(2**15), le=2**15 - 1)], ...]


@dataclass(frozen=True)
class InputGrid:
    """Of an activation: value = (integer - zero point) * scale, -2**(bits-1) to 2**(bits-1) - 1.

    Attributes:
        scale: None for a dynamic one: each entry of the first axis (each sample) has its own.
        symmetric: whether zero points are 0; says something of dynamic ones only.
    """

    bits: Literal[8, 16] = 8
    scale: Scale | None = None
    zero_point: Annotated[int, Interval(ge=-(2**15), le=2**15 - 1)] = 0
    symmetric: bool = False


@dataclass(frozen=True)
class QuantizedLayer:
    """What quantizing decided for one layer with weights.

    Attributes:
        folded: the batch norm that went into the weights, None when there was none.
        input: None where the input stays in float.
        tensors: ``weight`` (integers) and ``bias`` where they cannot be derived from the float
            layer and the grid.
    """

    layer: LayerId
    folded: LayerId | None
    weight: WeightGrid
    input: InputGrid | None
    tensors: tuple[StoredTensor, ...] = ()


@dataclass(frozen=True)
class RoundedOperator:
    """A product of two activations, or an addition of two, in the code of a layer itself.

    Attributes:
        name: ``add`` or ``matmul``.
        inputs: the grid of each operand; None stays in float.
    """

    name: Literal["add", "matmul"]
    inputs: tuple[InputGrid | None, ...]


@dataclass(frozen=True)
class OperatorsRounded:
    """What quantizing decided for the operators of one layer, in the order in which they run."""

    layer: LayerId
    operators: tuple[RoundedOperator, ...]


@dataclass(frozen=True)
class LayersQuantized:
    """Decision of :class:`Quantize`, and the calibration it rests on.

    Attributes:
        warnings: what was found wrong with the result, such as a collapse, in plain sentences.
    """

    layers: tuple[QuantizedLayer, ...]
    calibration: str
    operators: tuple[OperatorsRounded, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cast:
    """Keep weights, inputs and outputs of the layers in 16-bit floating point.

    Products are summed in float32, as hardware does.
    """

    layers: tuple[LayerId, ...]
    dtype: Literal["float16", "bfloat16"] = "float16"


@dataclass(frozen=True)
class LayersCast:
    """Decision of :class:`Cast`."""

    layers: tuple[LayerId, ...]
    dtype: Literal["float16", "bfloat16"]


@dataclass(frozen=True)
class Equalize:
    """Even out the ranges of channels between two layers in a row; outputs stay the same.

    Cross-layer equalization (Nagel et al., 2019), so that one scale for a tensor fits all its
    channels. Batch norms in between are folded first.

    Attributes:
        layers: the first of each pair; the second is what alone reads it, past ReLU.
    """

    layers: tuple[LayerId, ...]


@dataclass(frozen=True)
class Smooth:
    """Move the outliers of a layer's input channels into its weights; outputs stay the same.

    SmoothQuant (Xiao et al., 2023): the norm before the layers is divided by a factor for each
    channel, and the layers' weights are multiplied by it.

    Attributes:
        layers: norms, or layers that read one.
        strength: the paper's alpha: 0 leaves the difficulty to activations, 1 to weights.
    """

    layers: tuple[LayerId, ...]
    strength: Share = 0.5
    samples: Count = 256


@dataclass(frozen=True)
class ChannelScale:
    """A layer's weights multiplied along one side, by a power of two or any factor a channel.

    Attributes:
        side: ``out`` scales bias (and shift) as well.
        folded: the batch norm that goes into the layer before it is scaled.
    """

    layer: LayerId
    side: Literal["out", "in"]
    factors: tuple[Scale, ...]
    folded: LayerId | None = None


@dataclass(frozen=True)
class ChannelsScaled:
    """Decision of :class:`Equalize` and of :class:`Smooth`.

    Attributes:
        told: what came of it, in a plain sentence.
    """

    scales: tuple[ChannelScale, ...]
    told: str = ""


Edit: TypeAlias = (
    PruneChannels
    | PruneHeads
    | RemoveBlocks
    | PruneWeights
    | MaskWeights
    | PruneByMethod
    | Factorize
    | FoldNorms
    | Equalize
    | Smooth
    | Quantize
    | Cast
    | RecalibrateNorms
    | FineTune
)
Decision: TypeAlias = (
    ChannelsRemoved
    | HeadsRemoved
    | BlocksRemoved
    | WeightsZeroed
    | LayersFactorized
    | NormsFolded
    | ChannelsScaled
    | LayersQuantized
    | LayersCast
    | Retrained
)

EDITS: dict[str, tuple[type[Edit], type[Decision]]] = {
    "prune-channels": (PruneChannels, ChannelsRemoved),
    "prune-heads": (PruneHeads, HeadsRemoved),
    "remove-blocks": (RemoveBlocks, BlocksRemoved),
    "prune-weights": (PruneWeights, WeightsZeroed),
    "mask-weights": (MaskWeights, WeightsZeroed),
    "prune-by-method": (PruneByMethod, WeightsZeroed),
    "factorize": (Factorize, LayersFactorized),
    "fold-norms": (FoldNorms, NormsFolded),
    "equalize": (Equalize, ChannelsScaled),
    "smooth": (Smooth, ChannelsScaled),
    "quantize": (Quantize, LayersQuantized),
    "cast": (Cast, LayersCast),
    "recalibrate-norms": (RecalibrateNorms, Retrained),
    "fine-tune": (FineTune, Retrained),
}
"""Name in files and on the command line -> request and decision."""

HANDLERS: dict[type[Edit], str] = {
    PruneChannels: "engine.pruning.channels:ChannelPruning",
    PruneHeads: "engine.pruning.heads:HeadPruning",
    RemoveBlocks: "engine.pruning.blocks:BlockRemoval",
    PruneWeights: "engine.pruning.weights:WeightPruning",
    MaskWeights: "engine.pruning.masks:MaskedWeights",
    PruneByMethod: "engine.pruning.methods:MethodPruning",
    Factorize: "engine.pruning.factors:Factorization",
    FoldNorms: "engine.pruning.folding:NormFolding",
    Equalize: "engine.quantization.equalizing:Equalization",
    Smooth: "engine.quantization.smoothing:Smoothing",
    Quantize: "engine.quantization.quantizing:Quantization",
    Cast: "engine.quantization.casting:Casting",
    RecalibrateNorms: "engine.recovery.recalibration:NormRecalibration",
    FineTune: "engine.recovery.tuning:FineTuning",
}
"""Request -> handler, as a lazy name: handlers import torch."""

ON_SHAPES: frozenset[type[Edit]] = frozenset({PruneChannels, PruneHeads, FoldNorms})
"""Edits that can be decided for a model that has shapes and no weights, some of them in some
ways alone; see :func:`reads_weights`."""

TORCH_METHODS = (
    "L1Unstructured", "RandomUnstructured", "LnStructured", "RandomStructured", "Identity",
)  # fmt: skip
"""Methods of ``torch.nn.utils.prune`` that :class:`PruneByMethod` knows by name."""

RECOVERING: frozenset[type[Edit]] = frozenset({RecalibrateNorms, FineTune})
"""Edits that win accuracy back; they are asked for beside the layers, not of a selection."""


PRUNING: frozenset[type[Edit]] = frozenset(
    {PruneChannels, PruneHeads, RemoveBlocks, PruneWeights, MaskWeights, PruneByMethod, Factorize}
)
"""Edits that cost accuracy which recovery wins back."""


def before_recovery(edits: Sequence[Edit]) -> bool:
    """Whether something was pruned and nothing has recovered it since: what is measured then is
    not yet what the pruned model can do.
    """
    last = next((type(one) for one in reversed(edits) if type(one) in PRUNING | RECOVERING), None)
    return last in PRUNING


def reads_weights(edit: Edit) -> bool:
    """Whether the values of weights decide the edit; else their shapes do."""
    if isinstance(edit, PruneChannels):
        return edit.criterion != "random" and not edit.channels
    if isinstance(edit, PruneHeads):
        return edit.criterion != "random" and not edit.heads
    return type(edit) not in ON_SHAPES


def without_folders(edit: Edit) -> Edit:
    """The edit with files by their names alone: folders are nobody else's business."""
    if isinstance(edit, MaskWeights):
        return replace(edit, path=_file_name(edit.path))
    if isinstance(edit, PruneByMethod):
        return replace(edit, method=_file_name(edit.method))
    return edit


def _file_name(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def edit_name(edit: Edit | type[Edit]) -> str:
    """The name of the edit's kind, such as ``prune-channels``."""
    kind = edit if isinstance(edit, type) else type(edit)
    return next(name for name, (request, _) in EDITS.items() if request is kind)


@dataclass(frozen=True)
class AppliedEdit:
    """An edit in the history: the request, and what the run decided; replay copies the latter."""

    request: Edit
    decision: Decision
