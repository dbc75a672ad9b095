"""Network descriptions as models: layers of the right shapes without weights, each on its own."""

from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.energy.mit_format import DescribedLayer, read_description
from engine.energy.zeros import Zeros
from engine.errors import ModelUnreadable
from engine.job import Job
from engine.layers import LayerId
from engine.requests import InputSpec, OpenRequest
from engine.sources.files.naming import plain_name
from engine.sources.opened import Declared, OpenedModel
from engine.state import ModelInfo

_NOTE = "A network description: shapes without weights. Only size, MACs and energy can be told."
_PADDED = (
    "Where padding differs between two sides, what one side has more is taken as part of the "
    "input feature map: layers %s."
)


class Described(nn.Module):
    """The layers of a description, ``layer1`` to ``layerN``.

    Described layers need not follow one upon the other, so each reads a map of its own size, and
    all of them are results.
    """

    def __init__(self, layers: tuple[DescribedLayer, ...]) -> None:
        super().__init__()
        batch = batch_of(layers)
        # By number: maps for each sample, and the shape of one.
        self.maps = [(one.ifmap.count // batch, _map_shape(one)) for one in layers]
        for one in layers:
            self.add_module(_name(one), _module(one))

    def forward(self, sample: Tensor) -> list[Tensor]:
        """Every layer's output, for as many samples as the first axis has."""
        given = [  # views: making them costs nothing that would count
            sample.as_strided((sample.shape[0] * each, *shape), (0,) * (len(shape) + 1))
            for each, shape in self.maps
        ]
        return [layer(one) for layer, one in zip(self.children(), given, strict=True)]


def open_description(path: Path, request: OpenRequest, job: Job) -> OpenedModel:
    """Open a network description.

    Raises:
        DescriptionUnreadable: it is none; the message names line and field.
        ModelUnreadable: inputs are wished for, which a description says itself.
    """
    job.begin("Reading the network description")
    name = plain_name(path.name)
    if request.inputs:
        raise ModelUnreadable(
            f"{name} is a network description, which says itself what each layer takes.",
            "Leave the inputs out.",
        )
    layers = read_description(path, name)
    shape = (batch_of(layers), *_map_shape(layers[0]))
    info = ModelInfo(
        plain_name(path.stem),
        str(path.resolve()),
        (InputSpec(shape),),
        trained=False,
        notes=_notes(layers),
        has_weights=False,
    )
    model = Described(layers).eval()
    return OpenedModel(
        info, model, (torch.empty(shape, device="meta"),), declared=_declared(layers)
    )


def batch_of(layers: tuple[DescribedLayer, ...]) -> int:
    """Samples in a description; layers on parts of a sample have several maps for each."""
    return min(layer.ifmap.count for layer in layers)


def _notes(layers: tuple[DescribedLayer, ...]) -> tuple[str, ...]:
    uneven = [str(layer.index) for layer in layers if any(_excess(layer))]
    shown = ", ".join(uneven[:3]) + (f" and {len(uneven) - 3:,} more" if uneven[3:] else "")
    return (_NOTE, _PADDED % shown) if uneven else (_NOTE,)


def _declared(layers: tuple[DescribedLayer, ...]) -> Declared:
    weights, values, bits = {}, {}, {}
    for layer in layers:
        id_ = LayerId(_name(layer))
        product = "aten.mm" if layer.kind == "fully connected" else "aten.convolution"
        given = layer.ifmap.entries
        tall, wide = _excess(layer)
        sides = (layer.ifmap.height + tall) * (layer.ifmap.width + wide)
        padded = sides * layer.ifmap.channels * layer.ifmap.count
        read = (layer.ifmap.zeros + padded - given) / padded
        weights[f"{id_}.weight"] = layer.filter.zero_share
        values[id_, product, 0] = read, layer.filter.zero_share, layer.ofmap.zero_share
        bits[id_] = layer.ifmap.bits, layer.filter.bits, layer.ofmap.bits
    return Declared(Zeros(weights, values, origin="the description says"), bits)


def _name(layer: DescribedLayer) -> str:
    return f"layer{layer.index}"


def _excess(layer: DescribedLayer) -> tuple[int, int]:
    """Rows and columns by which the padding of one side is more than that of the other."""
    top, bottom, left, right = layer.padding
    return abs(top - bottom), abs(left - right)


def _map_shape(layer: DescribedLayer) -> tuple[int, ...]:
    """Shape of one input feature map as the layer's module reads it."""
    tall, wide = _excess(layer)
    ifmap = layer.ifmap
    shape = ifmap.channels, ifmap.height + tall, ifmap.width + wide
    return (prod(shape),) if layer.kind == "fully connected" else shape


def _module(layer: DescribedLayer) -> nn.Module:
    filters = layer.ofmap.channels
    if layer.kind == "fully connected":
        return nn.Linear(prod(_map_shape(layer)), filters, bias=False, device="meta")
    top, bottom, left, right = layer.padding
    return nn.Conv2d(
        layer.ifmap.channels,
        filters,
        (layer.filter.height, layer.filter.width),
        layer.stride,
        (min(top, bottom), min(left, right)),
        groups=layer.groups,
        bias=False,
        device="meta",
    )
