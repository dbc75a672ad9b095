"""Move the outliers of what layers read into their weights.

SmoothQuant (Xiao et al., 2023, equation 4): channel j of what a norm puts out is divided by
s_j = max|X_j|^a / max|W_j|^(1 - a), and column j of all weights that read it is multiplied by s_j.
The norm takes the division into its own scale and shift, so that nothing more is computed.
"""

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.batch_norms import is_batch_norm
from engine.editing import Subject, module_at
from engine.edits import ChannelScale, ChannelsScaled, Smooth
from engine.errors import EditRefused
from engine.job import Job
from engine.layers import LayerId
from engine.operators import OperatorTable
from engine.quantization.calibration import batches
from engine.quantization.followers import Reader, inputs_of, readers_of
from engine.quantization.scaling import LEAST, MOST, checked, largest_read, scaled, touched
from engine.sharing import share_for_running
from engine.state import LayerEffect
from engine.tracing import Trace


class Smoothing:
    """Handler of :class:`engine.edits.Smooth`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Norms with a scale for each channel, and layers with weights that may read one."""
        return _is_norm(module) or inputs_of(module) is not None

    def fits(self, layer: LayerId, model: nn.Module, seen: Trace) -> bool:
        """Where layers with weights alone read the norm."""
        return layer in _norms(model, seen.operators)

    def draft(self, edit: Smooth, subject: Subject, job: Job) -> ChannelsScaled:
        """Which layers take part; all factors are 1."""
        places = _places(edit, subject)
        ones = {one.norm: torch.ones(_channels(one.norm, subject)) for one in places}
        return ChannelsScaled(tuple(_scales(places, ones)))

    def decide(self, edit: Smooth, subject: Subject, job: Job) -> ChannelsScaled:
        """The factors, by what the norms put out on training samples."""
        if not 0 <= edit.strength <= 1:
            raise EditRefused(f"A strength of {edit.strength:g} is not possible.", "Choose 0 to 1.")
        if edit.samples < 1:
            raise EditRefused("Smoothing looks at one training sample at least.", "Take 1 or more.")
        places = _places(edit, subject)
        reaches = _reaches([one.norm for one in places], edit.samples, subject, job)
        factors = {one.norm: _factors(one, reaches[one.norm], edit, subject) for one in places}
        scales = tuple(_scales(places, factors))
        return checked(ChannelsScaled(scales, _told(reaches, factors)), subject)

    def carry_out(self, decision: ChannelsScaled, model: nn.Module) -> None:
        """Scale norms and weights."""
        scaled(decision, model)

    def effects(self, decision: ChannelsScaled, subject: Subject) -> tuple[LayerEffect, ...]:
        """How many channels are multiplied."""
        return touched(decision, subject)

    def notes(self, decision: ChannelsScaled, subject: Subject) -> tuple[str, ...]:
        """What stays the same, and what came of it."""
        told = (decision.told,) if decision.told else ()
        return ("The outputs stay the same, but for rounding.", *told)


@dataclass(frozen=True)
class _Place:
    """A norm, and all that reads it."""

    norm: LayerId
    readers: tuple[Reader, ...]


def _is_norm(module: nn.Module) -> bool:
    """Whether the last it does is to multiply each channel, and to shift it perhaps."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 1:
        return False
    by_channel = isinstance(module, _BatchNorm) and is_batch_norm(module)
    return by_channel or isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm)


def _channel_axis(norm: nn.Module) -> int:
    return -1 if isinstance(norm, nn.LayerNorm | nn.RMSNorm) else 1


_found: MutableMapping[OperatorTable, dict[LayerId, LayerId]] = WeakKeyDictionary()


def _norms(model: nn.Module, table: OperatorTable) -> dict[LayerId, LayerId]:
    """By layer the norm that it is smoothed with: itself, or what it reads; once for a trace."""
    if table not in _found:
        of: dict[LayerId, LayerId] = {}
        for name, module in model.named_modules():
            if _is_norm(module):
                with suppress(EditRefused):
                    place = _place(LayerId(name), model, table)
                    of |= dict.fromkeys(
                        (place.norm, *(one.layer for one in place.readers)), place.norm
                    )
        _found[table] = of
    return _found[table]


def _channels(norm: LayerId, subject: Subject) -> int:
    return len(module_at(subject.model, norm).weight)  # type: ignore[arg-type]


def _place(norm: LayerId, model: nn.Module, table: OperatorTable) -> _Place:
    module = module_at(model, norm)
    weight = f"{norm}.weight"
    runs = [one for one in table.of(norm) if weight in map(table.name_of, one.inputs)]
    axis = _channel_axis(module)
    if len(runs) != 1 or runs[0].outputs[0].shape[axis] != len(module.weight):  # type: ignore[arg-type]
        raise EditRefused(f"{norm} cannot be smoothed: it does not run once over its channels.")
    try:
        return _Place(norm, readers_of(runs[0].outputs[0], axis == 1, model, table))
    except EditRefused as error:
        raise EditRefused(
            f"{norm} cannot be smoothed: {error}.", "Leave it out of the selection."
        ) from error


def _places(edit: Smooth, subject: Subject) -> list[_Place]:
    """The norms of the edit's layers, each once, in the order of the selection."""
    model, table = subject.model, subject.trace.operators
    norms: dict[LayerId, None] = {}
    for layer in edit.layers:
        norm = layer if _is_norm(module_at(model, layer)) else _norms(model, table).get(layer)
        if norm is None:
            raise EditRefused(
                f"{layer} reads no norm that can be smoothed: between the two something bends or "
                "mixes channels, or the norm is read in other places as well.",
                "Select the norm itself to see the reason, or leave the layer out.",
            )
        norms[norm] = None
    return [_place(norm, model, table) for norm in norms]


def _reaches(
    norms: Sequence[LayerId], samples: int, subject: Subject, job: Job
) -> dict[LayerId, Tensor]:
    """The largest magnitude of each channel that the norms put out, float64 (channels,)."""
    copy = share_for_running(subject.model)
    reaches: dict[LayerId, Tensor] = {}

    def watch(norm: LayerId) -> None:
        module = module_at(copy, norm)
        axis = _channel_axis(module)

        def see(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found = output.detach().movedim(axis, 0).flatten(1).abs().amax(1).double()
            reaches[norm] = torch.maximum(reaches.get(norm, found), found)

        module.register_forward_hook(see)

    for norm in norms:
        watch(norm)
    with torch.inference_mode():
        for inputs in batches(subject, subject.data, samples, "Watching what norms put out", job):
            copy(*inputs)
    for norm in norms:
        if norm not in reaches or not torch.isfinite(reaches[norm]).all():
            raise EditRefused(f"{norm} puts out nothing on these samples, or no finite numbers.")
    return reaches


def _factors(place: _Place, reach: Tensor, edit: Smooth, subject: Subject) -> Tensor:
    """The paper's s of each channel, float64; 1 where nothing is put out or nothing reads it."""
    weights = torch.zeros_like(reach)
    for one in place.readers:
        largest = largest_read(module_at(subject.model, one.layer), one.places)
        weights = torch.maximum(weights, largest)
    found = reach.pow(edit.strength) / weights.pow(1 - edit.strength)
    alive = (reach > 0) & (weights > 0)
    return torch.where(alive, found, 1.0).clamp(LEAST, MOST)


def _scales(places: list[_Place], factors: dict[LayerId, Tensor]) -> Iterator[ChannelScale]:
    for place in places:
        by = factors[place.norm].float().double()
        yield ChannelScale(place.norm, "out", tuple((1 / by).tolist()))
        for one in place.readers:
            yield ChannelScale(one.layer, "in", tuple(by.tolist()))


def _told(reaches: dict[LayerId, Tensor], factors: dict[LayerId, Tensor]) -> str:
    before, after = (
        max(_outlier(reach / by) for reach, by in pairs)
        for pairs in (
            [(one, torch.ones_like(one)) for one in reaches.values()],
            [(one, factors[norm]) for norm, one in reaches.items()],
        )
    )
    return (
        f"The largest channel reached {before:.3g} times as far as the median one in the worst of "
        f"these norms, and reaches {after:.3g} times as far."
    )


def _outlier(reach: Tensor) -> float:
    median = float(reach.median())
    return float(reach.max()) / median if median > 0 else 1.0
