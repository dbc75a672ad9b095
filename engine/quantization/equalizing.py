"""Even out the ranges of channels between two layers in a row.

Cross-layer equalization (Nagel et al., 2019, section 4.1): with r1 and r2 the largest magnitude
among the weights that write a channel and that read it, multiplying the first by sqrt(r2 / r1) and
dividing the second by it makes both sqrt(r1 r2). It holds past ReLU, and past nothing that clips
or bends at a fixed value (ReLU6, hard-swish, SiLU, GELU): such pairs are refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from engine.batch_norms import folded, norm_behind
from engine.editing import Subject, module_at
from engine.edits import ChannelScale, ChannelsScaled, Equalize
from engine.errors import EditRefused
from engine.integer_layers import QUANTIZED, is_quantized
from engine.job import Job
from engine.layers import LayerId
from engine.operators import OperatorTable
from engine.quantization.followers import Reader, readers_of
from engine.quantization.scaling import LEAST, MOST, by_input, checked, scaled, touched
from engine.state import LayerEffect
from engine.tracing import Trace

_ROUNDS = 40
_SETTLED = 0.01  # a round that changes no range by more ends the search


class Equalization:
    """Handler of :class:`engine.edits.Equalize`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Convolutions and linear layers in float, of exactly torch's types."""
        return type(module) in QUANTIZED and not is_quantized(module)

    def fits(self, layer: LayerId, model: nn.Module, seen: Trace) -> bool:
        """Where another such layer alone reads the output, past ReLU at most."""
        try:
            _pair(layer, model, seen.operators)
        except EditRefused:
            return False
        return True

    def draft(self, edit: Equalize, subject: Subject, job: Job) -> ChannelsScaled:
        """As :meth:`decide`, which looks at weights alone."""
        return self.decide(edit, subject, job)

    def decide(self, edit: Equalize, subject: Subject, job: Job) -> ChannelsScaled:
        """The factors of each channel, all pairs balanced with each other."""
        pairs = [_pair(layer, subject.model, subject.trace.operators) for layer in edit.layers]
        weights = _Magnitudes(pairs, subject)
        before = _spread(pairs, weights)
        factors = _balanced(pairs, weights, job)
        scales = tuple(_scales(pairs, factors))
        told = (
            f"The largest range of a channel over the smallest was {before:.3g} in the worst of "
            f"these layers, and is {_spread(pairs, weights):.3g}."
        )
        return checked(ChannelsScaled(scales, told), subject)

    def carry_out(self, decision: ChannelsScaled, model: nn.Module) -> None:
        """Scale the weights."""
        scaled(decision, model)

    def effects(self, decision: ChannelsScaled, subject: Subject) -> tuple[LayerEffect, ...]:
        """How many channels are multiplied; batch norms that go away."""
        return touched(decision, subject)

    def notes(self, decision: ChannelsScaled, subject: Subject) -> tuple[str, ...]:
        """What stays the same, and what came of it."""
        return ("The outputs stay the same, but for rounding.", decision.told)


@dataclass(frozen=True)
class _Pair:
    """Two layers in a row.

    Attributes:
        norm: behind the first, to be folded into it.
    """

    first: LayerId
    norm: LayerId | None
    second: Reader

    @property
    def layers(self) -> tuple[LayerId, LayerId]:
        return self.first, self.second.layer


def _pair(layer: LayerId, model: nn.Module, table: OperatorTable) -> _Pair:
    module = module_at(model, layer)
    if is_quantized(module):
        raise EditRefused(f"{layer} has integer weights: channels are equalized before that.")
    product = table.only_product(layer)
    if type(module) not in QUANTIZED or product is None:
        raise EditRefused(
            f"{layer} ({type(module).__name__}) is no convolution or linear layer that runs once."
        )
    norm = norm_behind(layer, model, table)
    value = product.outputs[0] if norm is None else table.readers(product.outputs[0])[0].outputs[0]
    try:
        readers = readers_of(value, isinstance(module, _ConvNd), model, table)
        if len(readers) > 1:
            names = " and ".join(one.layer for one in readers[:2])
            raise EditRefused(f"{names} both read it")
    except EditRefused as error:
        raise EditRefused(
            f"{layer} cannot be equalized with the layer behind it: {error}.",
            "Leave it out of the selection.",
        ) from error
    if type(module_at(model, readers[0].layer)) not in QUANTIZED:
        raise EditRefused(f"{layer} is read by {readers[0].layer}, which cannot be equalized.")
    return _Pair(layer, norm, readers[0])


class _Magnitudes:
    """Magnitudes of the weights of both layers of each pair, batch norms folded in, float64."""

    def __init__(self, pairs: list[_Pair], subject: Subject) -> None:
        model, table = subject.model, subject.trace.operators
        self._weights: dict[LayerId, Tensor] = {}
        self._groups: dict[LayerId, int] = {}
        for layer in dict.fromkeys(one for pair in pairs for one in pair.layers):
            module = module_at(model, layer)
            norm = norm_behind(layer, model, table)
            weight, _ = folded(module, None if norm is None else module_at(model, norm))
            self._weights[layer] = weight.double().abs()
            self._groups[layer] = module.groups if isinstance(module, _ConvNd) else 1

    def written(self, pair: _Pair) -> Tensor:
        """The largest that writes each channel."""
        return self._weights[pair.first].flatten(1).amax(1)

    def read(self, pair: _Pair) -> Tensor:
        """The largest that reads each channel."""
        found = self._by_input(pair.second.layer).amax((1, 3))
        return found.reshape(-1, pair.second.places).amax(1)

    def scale(self, pair: _Pair, factors: Tensor) -> None:
        """Multiply what writes the channels, and divide what reads them."""
        first = self._weights[pair.first]
        first.mul_(factors.reshape(-1, *(1,) * (first.dim() - 1)))
        columns = self._by_input(pair.second.layer)
        taken = factors.repeat_interleave(pair.second.places).reshape(len(columns), 1, -1, 1)
        self._weights[pair.second.layer] = (columns / taken).reshape(
            self._weights[pair.second.layer].shape
        )

    def _by_input(self, layer: LayerId) -> Tensor:
        """(groups, output channels of a group, input channels of a group, the rest)."""
        return by_input(self._weights[layer], self._groups[layer])


def _balanced(pairs: list[_Pair], weights: _Magnitudes, job: Job) -> list[Tensor]:
    """What each pair's channels are multiplied by where they are written, float64 (channels,)."""
    factors = [torch.ones_like(weights.written(pair)) for pair in pairs]
    for _ in job.track(range(_ROUNDS), "Balancing channels"):
        largest = 0.0
        for at, pair in enumerate(pairs):
            wanted = (weights.read(pair) / weights.written(pair)).sqrt()
            alive = torch.isfinite(wanted) & (wanted > 0)  # else nothing writes or reads it
            after = torch.where(alive, factors[at] * wanted, factors[at]).clamp(LEAST, MOST)
            change = after / factors[at]
            weights.scale(pair, change)
            factors[at] = after
            largest = max(largest, float(change.log().abs().max()))
        if largest < _SETTLED:
            break
    return factors


def _spread(pairs: list[_Pair], weights: _Magnitudes) -> float:
    """The largest range of a written channel over the smallest that is not 0; the worst pair's."""
    worst = 1.0
    for pair in pairs:
        ranges = weights.written(pair)
        alive = ranges[ranges > 0]
        if len(alive):
            worst = max(worst, float(alive.max() / alive.min()))
    return worst


def _scales(pairs: list[_Pair], factors: list[Tensor]) -> Iterator[ChannelScale]:
    for pair, by in zip(pairs, factors, strict=True):
        kept = by.float().double()
        yield ChannelScale(pair.first, "out", tuple(kept.tolist()), pair.norm)
        yield ChannelScale(pair.second.layer, "in", tuple((1 / kept).tolist()))
