"""The law of pruning, asked of any model: removed is masked, and costs are as predicted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.edits import ChannelSlice
from engine.pruning.coupling import Coupling, Group
from engine.pruning.law import masked
from engine.pruning.shrinking import shrink
from engine.sharing import share
from engine.tracing import plain_kernels, trace
from tests.engine.living import floats

Shape: TypeAlias = tuple[int, ...]

LAW = 1e-9
"""Largest difference allowed, of the largest output, in float64."""

VISIBLE = 1e-3
"""By which share of the largest output masking must move it, for the law to say something."""


@dataclass(frozen=True)
class Verdict:
    """What came of removing channels of one model.

    Attributes:
        off: largest difference of pruned and masked outputs, of the largest output.
        moved: by which share of it masking moved the output.
        predicted, counted: parameters and MACs, by the plan and of the pruned model that ran.
    """

    off: float
    moved: float
    predicted: tuple[int, int]
    counted: tuple[int, int]

    def faults(self) -> list[str]:
        """What contradicts the law, in words."""
        said = []
        if not self.off <= LAW:
            said.append(f"pruned and masked differ by {self.off:.2g}")
        if not self.moved > VISIBLE:
            said.append(f"masking moves the output by {self.moved:.2g} alone")
        if self.predicted != self.counted:
            said.append(f"predicted {self.predicted}, counted {self.counted}")
        return said


def slices_of(groups: Iterable[Group], seed: int = 0, share: float = 0.5) -> list[ChannelSlice]:
    """About that share of every group's units, drawn, at least one and never all of any side."""
    generator = np.random.default_rng(seed)
    removed: dict[tuple[str, str, int], tuple[int, set[int]]] = {}
    for group in groups:
        count = min(max(1, int(group.units * share)), max(1, group.units - 1))
        gone = generator.permutation(group.units)[:count]
        for member in group.members:
            key = member.layer, member.side, member.dim
            indices = removed.setdefault(key, (len(member.units), set()))[1]
            indices.update(np.flatnonzero(np.isin(member.units, gone)).tolist())
    return [
        ChannelSlice(layer, side, tuple(sorted(indices)), of, dim)
        for (layer, side, dim), (of, indices) in removed.items()
        if indices
    ]


class Accused:
    """A living model on trial.

    Args:
        inputs: its sample input, in float64.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.model = model
        self.inputs = inputs
        self.coupling = Coupling(model, inputs)
        self._trace = trace(model, inputs)
        self._whole = self._run(model)

    @torch.no_grad()
    def _run(self, model: nn.Module) -> list[Tensor]:
        with plain_kernels():
            return list(floats(model(*self.inputs)))

    def judged(self, slices: Sequence[ChannelSlice]) -> Verdict:
        """Remove the slices and compare with the masked model."""
        pruned = share(self.model)
        shrink(pruned, slices)
        counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
        with counter:
            smaller = self._run(pruned)
        parameters = sum(one.numel() for one in pruned.parameters())
        del pruned
        larger = self._run(masked(self.model, slices))
        scale = max(float(one.abs().max()) for one in larger)
        return Verdict(
            _apart(smaller, larger) / scale,
            _apart(self._whole, larger) / scale,
            (self._parameters(slices), self._macs(slices)),
            (parameters, counter.get_total_flops() // 2),
        )

    def traced(self, slices: Sequence[ChannelSlice]) -> tuple[int, int]:
        """Parameters and MACs that Secateur's own trace of the pruned model tells."""
        pruned = share(self.model)
        shrink(pruned, slices)
        macs = trace(pruned, self.inputs).operators.macs()
        return sum(one.numel() for one in pruned.parameters()), sum(macs.values())

    def _parameters(self, slices: Iterable[ChannelSlice]) -> int:
        kept = _kept(slices)
        total = 0.0
        for name, tensor in self.model.named_parameters():
            layer, _, last = name.rpartition(".")
            share = kept.get((layer, "out", 0), 1.0)
            for axis in range(tensor.dim()):
                share *= kept.get((name, "parameter", axis), 1.0)
            if last == "weight" and not self._is_grouped(layer):
                share *= kept.get((layer, "in", 0), 1.0)
            total += tensor.numel() * share
        return round(total)

    def _macs(self, slices: Iterable[ChannelSlice]) -> int:
        kept = _kept(slices)
        total = 0.0
        for layer, macs in self._trace.operators.macs().items():
            share = kept.get((layer, "out", 0), 1.0)
            if not self._is_grouped(layer):
                share *= kept.get((layer, "in", 0), 1.0)
            total += macs * share
        return round(total)

    def _is_grouped(self, layer: str) -> bool:
        """Whether its inputs go with its outputs, in whole groups."""
        return getattr(self.model.get_submodule(layer), "groups", 1) > 1


def _kept(slices: Iterable[ChannelSlice]) -> dict[tuple[str, str, int], float]:
    return {(one.layer, one.side, one.dim): 1 - len(one.removed) / one.of for one in slices}


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


# torch's counter has no formula for the kernel that processors use.
_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def _apart(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    assert [one.shape for one in some] == [one.shape for one in others]
    return max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))
