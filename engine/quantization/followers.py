"""Which layers with weights read the channels of a value, past what keeps each channel's scale.

    value ── ReLU, pooling, views, padding with zeros … ──┬── convolution or linear layer
                                                          └── convolution or linear layer

A channel that is multiplied by a positive factor comes to these layers multiplied by it, so that
their weights can take it back.
"""

from dataclasses import dataclass, replace

from torch import nn
from torch.nn.modules.conv import _ConvNd

from engine.editing import module_at
from engine.errors import EditRefused
from engine.integer_layers import QUANTIZED, is_quantized
from engine.layers import LayerId
from engine.operators import Operator, OperatorTable, TensorUse

_KEEPING = frozenset(
    {
        "aten.relu", "aten.relu_", "aten.leaky_relu", "aten.leaky_relu_", "aten._prelu_kernel",
        "aten.clone", "aten.roll", "aten.constant_pad_nd", "aten.mean",
        "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices", "aten.avg_pool2d",
        "aten.avg_pool3d", "aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d",
        "aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d",
        "aten.upsample_nearest2d", "aten.upsample_bilinear2d",
    }
)  # fmt: skip
"""Operators f with f(c x) = c f(x) for any c > 0, channel by channel."""


@dataclass(frozen=True)
class Reader:
    """A layer whose weights multiply the channels.

    Attributes:
        places: input features in a row that hold one channel: more than 1 behind flattening.
    """

    layer: LayerId
    places: int


@dataclass(frozen=True)
class _Channels:
    """A value with its channels along one axis.

    Attributes:
        axis: 1 or -1.
        places: as in :class:`Reader`.
    """

    use: TensorUse
    axis: int
    places: int = 1

    @property
    def count(self) -> int:
        return self.use.shape[self.axis] // self.places


def readers_of(
    value: TensorUse, is_convolution: bool, model: nn.Module, table: OperatorTable
) -> tuple[Reader, ...]:
    """The layers that read the value's channels, in order.

    Args:
        is_convolution: whether channels are the value's axis 1; else they are its last.

    Raises:
        EditRefused: something reads it that does not keep the scale of each channel; the message
            begins with a verb.
    """
    readers: list[Reader] = []
    pending = [_Channels(value, 1 if is_convolution else -1)]
    while pending:
        channels = pending.pop()
        if table.is_result(channels.use):
            raise EditRefused("its output is the model's own")
        for reader in table.readers(channels.use):
            read = _as_read(channels, reader)
            if reader.macs:
                readers.append(_reader(read, reader, model, table))
            else:
                pending.append(_kept(read, reader))
    if not readers:
        raise EditRefused("nothing reads its output")
    return tuple(readers)


def _as_read(channels: _Channels, reader: Operator) -> _Channels:
    """The value as the operator takes it, through views."""
    if len(reader.activations) != 1:
        raise EditRefused(f"{_named(reader)} reads it together with another value")
    use = reader.activations[0]
    before, now = channels.use.shape, use.shape
    if before == now:
        return replace(channels, use=use)
    if channels.axis == -1 and now[-1:] == before[-1:]:
        return replace(channels, use=use)
    if channels.axis == 1 and now[:2] == before[:2]:
        return replace(channels, use=use)
    flat = channels.axis == 1 and len(now) == 2 and now[0] == before[0]
    if flat and use.elements == channels.use.elements:
        return _Channels(use, -1, now[1] // before[1])
    raise EditRefused(f"its channels are rearranged before {_named(reader)}")


def _kept(read: _Channels, reader: Operator) -> _Channels:
    if reader.name not in _KEEPING:
        raise EditRefused(
            f"{_named(reader)} reads it, and that of a multiple is not the multiple of it"
        )
    output = reader.outputs[0]
    same = slice(0, 2) if read.axis == 1 else slice(-1, None)
    if output.shape[same] != read.use.shape[same]:
        raise EditRefused(f"{_named(reader)} mixes its channels")
    return replace(read, use=output)


def _reader(read: _Channels, reader: Operator, model: nn.Module, table: OperatorTable) -> Reader:
    if is_quantized(module_at(model, reader.layer)):
        raise EditRefused(f"{reader.layer} reads it, which has integer weights already")
    weight = max(reader.weights, key=lambda use: use.elements, default=None)
    name = "" if weight is None else table.name_of(weight)
    owner, _, parameter = name.rpartition(".")
    layer = LayerId(owner)
    module = module_at(model, layer) if name else None
    if weight is None or module is None or inputs_of(module, parameter) is None:
        raise EditRefused(f"{_named(reader)} reads it, which is no layer whose weights can change")
    if len(table.readers(weight)) != 1:
        raise EditRefused(f"the weights of {layer} are used in several places")
    if inputs_of(module, parameter) != read.count * read.places:
        raise EditRefused(f"its channels are rearranged before {layer}")
    return Reader(layer, read.places)


def inputs_of(module: nn.Module, parameter: str = "") -> int | None:
    """Input channels or features of a layer whose columns can be scaled; None of all others."""
    if isinstance(module, nn.MultiheadAttention):
        of_input = parameter in ("", "in_proj_weight") and module.in_proj_weight is not None
        return module.embed_dim if of_input else None
    if parameter not in ("", "weight"):
        return None
    if is_quantized(module):
        return None
    if type(module) in QUANTIZED and isinstance(module, _ConvNd):
        return module.in_channels
    return module.in_features if isinstance(module, nn.Linear) else None


def _named(reader: Operator) -> str:
    kind = reader.name.removeprefix("aten.").strip("_")
    return f"{kind} in {reader.layer}" if reader.layer else kind
