"""What layers with weights read, as the matrices that their weights multiply.

A convolution reads at each position of its output one row of input values; rows are kept of some
positions, drawn evenly, so that memory is bounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.modules.conv import _ConvNd

from engine.batch_norms import norm_behind
from engine.editing import Subject, module_at
from engine.integer_layers import quantized_from, round_input
from engine.layers import LayerId
from engine.pruned_layers import Folded
from engine.quantization.grids import WeightPlan
from engine.sharing import replace_module, share_for_running

MOST_VALUES = 1 << 24
"""Input values that are kept of one layer (64 MiB)."""
MOST_ROWS = 1 << 14


@dataclass(frozen=True)
class Rows:
    """What a layer reads once those before it are rounded, and what it is to put out.

    Attributes:
        inputs: (groups, rows, columns), on the grid of the layer's input.
        targets: (groups, rows, output channels of a group): of the float model, without bias.
    """

    inputs: Tensor
    targets: Tensor


class PartlyRounded:
    """A running copy of a state, in which one layer after the other is replaced."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._model = share_for_running(subject.model)

    def put(self, layer: LayerId, plan: WeightPlan, integers: Tensor, bias: Tensor | None) -> None:
        """Round a layer, and take away the batch norm that is folded into its plan."""
        norm = norm_behind(layer, self._subject.model, self._subject.trace.operators)
        module = module_at(self._model, layer)
        made: Any = quantized_from(
            module, integers, bias, plan.scale, plan.zero_point, plan.form, plan.input
        )
        made.bake()
        replace_module(self._model, layer, made)
        if norm is not None:
            replace_module(self._model, norm, Folded(module_at(self._model, norm), layer))

    def inputs(
        self, layers: Sequence[LayerId], samples: tuple[Any, ...]
    ) -> dict[LayerId, list[Tensor]]:
        """What the layers read of these samples, call by call; the pass ends with the last."""
        caught: dict[LayerId, list[Tensor]] = {layer: [] for layer in layers}
        left = sum(self._calls(layer) for layer in layers)

        def catch(layer: LayerId, x: Tensor) -> None:
            nonlocal left
            caught[layer].append(x)
            left -= 1
            if left == 0:
                raise _Reached

        watches = [_watched(module_at(self._model, layer), layer, catch) for layer in layers]
        try:
            with torch.inference_mode():
                self._model(*samples)
        except _Reached:
            pass
        finally:
            for one in watches:
                one.remove()
        return caught

    def _calls(self, layer: LayerId) -> int:
        return sum(1 for one in self._subject.trace.operators.of(layer) if one.macs)


class _Reached(BaseException):
    """The pass has come as far as it was to go. A forward that catches exceptions lets it by."""


def _watched(module: nn.Module, layer: LayerId, catch: Any) -> Any:
    def see(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        catch(layer, inputs[0] if inputs else named["input"])

    return module.register_forward_pre_hook(see, with_kwargs=True)


class Reading:
    """Gathers the rows of one layer, batch by batch.

    Args:
        module: the float layer.
    """

    def __init__(self, module: nn.Module, plan: WeightPlan) -> None:
        self._module, self._plan = module, plan
        self._groups = module.groups if isinstance(module, _ConvNd) else 1
        of_row = plan.weight[0].numel() * self._groups
        self._most = max(1, min(MOST_ROWS, MOST_VALUES // of_row))
        self._parts: list[Rows] = []

    def add(
        self, reads: Sequence[Tensor], wanted: Sequence[Tensor], share: float, number: int
    ) -> None:
        """Take what the layer read in one batch, call by call.

        Args:
            reads: with the layers before it rounded.
            wanted: in the float model.
            share: of all samples.
            number: of the batch, which decides what positions are drawn.
        """
        weight = by_group(self._plan.weight, self._groups)
        for x, of_float in zip(reads, wanted, strict=True):
            count = max(1, int(self._most * share / len(reads)))
            rounded = round_input(x, self._plan.input, fused=True)
            inputs, meant = (
                rows_of(one, self._module, count, Generator().manual_seed(number))
                for one in (rounded, of_float)
            )
            self._parts.append(Rows(inputs, meant @ weight.mT))

    @property
    def rows(self) -> Rows | None:
        """All of them; None when nothing came."""
        if not self._parts:
            return None
        inputs, targets = zip(*((one.inputs, one.targets) for one in self._parts), strict=True)
        return Rows(torch.cat(inputs, 1), torch.cat(targets, 1))


def rows_of(x: Tensor, module: nn.Module, count: int, generator: Generator) -> Tensor:
    """Some of the rows of input values that make one output each.

    Args:
        x: what the layer reads, (N, C, …) or (…, features).
        module: a convolution or a linear layer.
        count: how many rows, at most; the same generator chooses the same positions.

    Returns:
        (groups, rows, columns): columns in the order of a row of the weight.
    """
    if not isinstance(module, _ConvNd):
        flat = x.reshape(1, -1, x.shape[-1])
        return flat[:, _drawn(flat.shape[1], count, generator)]
    axes = len(module.kernel_size)
    x = x if x.dim() == axes + 2 else x[None]
    patches = _patches(x, module).movedim(1, axes + 1)  # (N, positions …, C, kernel …)
    places = torch.unravel_index(
        _drawn(patches.shape[: axes + 1].numel(), count, generator), patches.shape[: axes + 1]
    )
    drawn = patches[places]
    return drawn.reshape(len(drawn), module.groups, -1).transpose(0, 1)


def _patches(x: Tensor, module: _ConvNd) -> Tensor:
    """A view of (N, C, positions …, kernel …) over the padded input."""
    around = module._reversed_padding_repeated_twice
    mode = module.padding_mode
    patches = F.pad(x, around, mode="constant" if mode == "zeros" else mode)
    for axis, size in enumerate(module.kernel_size):
        reach = (size - 1) * module.dilation[axis] + 1
        patches = patches.unfold(2 + axis, reach, module.stride[axis])[
            ..., :: module.dilation[axis]
        ]
    return patches


def _drawn(of: int, count: int, generator: Generator) -> Tensor:
    if of <= count:
        return torch.arange(of)
    return torch.randperm(of, generator=generator)[:count].sort().values


def by_group(weight: Tensor, groups: int) -> Tensor:
    """A weight as (groups, output channels of a group, columns)."""
    return weight.reshape(groups, len(weight) // groups, -1)
