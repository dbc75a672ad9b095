"""Gradients of the loss on training samples, and what they say of moves of the parameters."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.datasets import DataSet
from engine.editing import module_at
from engine.edits import ChannelSlice
from engine.job import Job
from engine.layers import LayerId
from engine.losses import loss_of
from engine.pruning.statistics import by_channel
from engine.sharing import own_parameter, share

_PARTS = 8  # batches, whose gradients are told apart
_BYTES = 1 << 29  # of gradients that are kept


@dataclass
class _Reading:
    """What one layer's input is like.

    Attributes:
        squares: mean over samples of the sum of squared gradients of the sample's loss.
        least, most: of its values.
    """

    squares: float = 0.0
    least: float = 0.0
    most: float = 0.0


class Gradients:
    """Gradients of the loss, batch by batch.

    Args:
        plain: the model in float.
        layers: whose inputs are looked at as well.
    """

    def __init__(self, plain: nn.Module, layers: Sequence[LayerId]) -> None:
        self._model = share(
            plain, lambda one: own_parameter(one) if _is_float_parameter(one) else one.clone()
        )
        self._model.eval()
        self._parts: dict[str, list[Tensor]] = {}
        self._known: dict[str, Tensor] = {}
        self._channels: dict[tuple[LayerId, str], Tensor] = {}
        self._readings = {layer: _Reading() for layer in layers}
        self._size = 1  # samples of a part
        self._count = self._total = 0  # of the part at hand, and of all

    def gather(self, data: DataSet, count: int, job: Job) -> Iterator[None]:
        """Go forward and back over so many samples."""
        weights = sum(one.numel() for one in self._model.parameters() if one.dim() > 1)
        parts = max(1, min(_PARTS, count, _BYTES // max(1, 2 * weights)))
        chosen = data.training.spread(count)
        self._size = -(-count // parts)
        loss = loss_of(data)
        for layer in self._readings:
            module_at(self._model, layer).register_forward_pre_hook(self._watch(layer))
        for inputs, targets in chosen.batches(self._size, job):
            self._model.zero_grad(set_to_none=True)
            self._count = len(targets)
            with torch.enable_grad():
                loss(self._model(_followed(inputs)), targets).backward()
            self._total += len(targets)
            for name, one in self._model.named_parameters():
                if one.grad is not None and one.dim() > 1:
                    self._parts.setdefault(name, []).append(one.grad.flatten().bfloat16())
            yield
        self._model.zero_grad(set_to_none=True)

    def rise(self, moved: Mapping[str, Tensor]) -> float:
        """Second order of the loss when parameters move by so much; not a number for none.

        Args:
            moved: full name of a parameter -> difference.
        """
        return self._second_order(
            self._matrix(name) @ one.flatten().float()
            for name, one in moved.items()
            if name in self._parts
        )

    def rise_without(self, slices: Iterable[ChannelSlice]) -> float:
        """The same when these channels of layers' weights are zero."""
        return self._second_order(
            -self._of_channels(one.layer, one.side)[:, list(one.removed)].sum(1)
            for one in slices
            if f"{one.layer}.weight" in self._parts
        )

    def _second_order(self, products: Iterable[Tensor]) -> float:
        """Half the mean square over samples of gradient times move, from sums over parts of it."""
        found = list(products)
        if not found:
            return float("nan")
        each = torch.stack(found).sum(0)
        mean, spread = float(each.mean()), 0.0
        if len(each) > 1:  # of means over parts, from which that of samples follows
            spread = float(each.var(correction=1)) * self._size
        return (mean * mean + spread) / 2

    def by_rounding(self, layer: LayerId, bits: int) -> float:
        """Second order of the loss when the layer's input is rounded on a grid over its range."""
        found = self._readings[layer]
        step = (found.most - found.least) / float(2**bits - 1)
        return found.squares / self._total * step * step / 24

    def forget(self) -> None:
        """Drop what was made ready for the last row."""
        self._known.clear()

    def _of_channels(self, layer: LayerId, side: str) -> Tensor:
        """Gradient times weight by part and channel, (parts, channels)."""
        if (layer, side) not in self._channels:
            module: Any = module_at(self._model, layer)
            weight = module.weight.detach()
            parts = (one.view_as(weight) * weight for one in self._parts[f"{layer}.weight"])
            self._channels[layer, side] = torch.stack(
                [by_channel(module, side, one).float() for one in parts]
            )
        return self._channels[layer, side]

    def _matrix(self, name: str) -> Tensor:
        if name not in self._known:
            self._known[name] = torch.stack(self._parts[name]).float()
        return self._known[name]

    def _watch(self, layer: LayerId) -> Callable[..., Any]:
        found = self._readings[layer]

        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            if not inputs or not isinstance(inputs[0], Tensor) or not inputs[0].requires_grad:
                return inputs
            least, most = inputs[0].detach().aminmax()
            found.least, found.most = min(found.least, float(least)), max(found.most, float(most))
            # Of its own, as others may read the same tensor.
            alone = inputs[0].view_as(inputs[0])
            alone.register_hook(back)
            return alone, *inputs[1:]

        def back(gradient: Tensor) -> None:
            # Of the mean loss over the batch: each sample's own is as many times as large.
            found.squares += float(gradient.square().sum()) * self._count**2

        return hook


def _followed(inputs: Tensor) -> Tensor:
    """The same values, with a gradient, which a forward may write into."""
    return inputs.detach().requires_grad_() * 1 if inputs.is_floating_point() else inputs


def _is_float_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
