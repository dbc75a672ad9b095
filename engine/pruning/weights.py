"""Single weights zeroed by a criterion: unstructured, or so many of every so many (N:M)."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from engine.editing import Subject
from engine.edits import PruneWeights, WeightMask, WeightsZeroed
from engine.errors import EditRefused
from engine.job import Job
from engine.layers import LayerId
from engine.pruning.amounts import Pool, by_energy
from engine.pruning.ranking import GOES_FIRST, lowest, lowest_in_rows
from engine.pruning.statistics import input_norms, weight_gradients
from engine.pruning.zeroing import Weight, Zeroing, as_weight, by_input, chosen_weights, weights_in

_LOOK_AT_DATA = ("taylor", "wanda")
_PARTS = 256  # of a tensor, between which energy chooses
_SMALL_KEEP = 0.3  # share that stays of a small tensor, however much goes by energy


class WeightPruning(Zeroing):
    """Handler of :class:`engine.edits.PruneWeights`."""

    def draft(self, edit: PruneWeights, subject: Subject, job: Job) -> WeightsZeroed:
        """As many weights of each layer, by magnitude where the criterion looks at data."""
        if edit.criterion in _LOOK_AT_DATA and (edit.of or edit.spread != "global"):
            edit = replace(edit, criterion="l1")
        return self.decide(edit, subject, job)

    def decide(self, edit: PruneWeights, subject: Subject, job: Job) -> WeightsZeroed:
        """A mask for each weight tensor of the layers."""
        _check(edit)
        weights = chosen_weights(edit.layers, subject)
        if edit.of:
            _check_pattern(edit, weights)
        scores = _scores(edit, weights, subject, job)
        masks = _masks(edit, weights, scores, subject)
        return WeightsZeroed(tuple(job.track(masks, "Choosing weights", len(weights))))


def _check(edit: PruneWeights) -> None:
    if not 0 <= edit.ratio <= 1:
        raise EditRefused(f"A sparsity of {edit.ratio:g} is not possible: 0 to 1 is.")
    if (edit.keep or edit.of) and not 0 < edit.keep < edit.of:
        raise EditRefused(
            f"To keep {edit.keep} of every {edit.of} weights is no pattern.",
            "Keep at least 1 and fewer than all, such as 2 of 4; or 0 of 0 for no pattern.",
        )


def _check_pattern(edit: PruneWeights, weights: Iterable[Weight]) -> None:
    for weight in weights:
        channels = by_input(weight.module, weight.values).shape[-1]
        if channels % edit.of:
            raise EditRefused(
                f"{weight.layer} reads {channels} input channels, which do not divide into "
                f"groups of {edit.of}.",
                "Leave it out of the selection, or choose another pattern.",
            )


def _masks(
    edit: PruneWeights, weights: tuple[Weight, ...], scores: "_Scores", subject: Subject
) -> Iterator[WeightMask]:
    if edit.of:
        return (one.mask(_patterned(one, scores.of(one), edit)) for one in weights)
    if edit.spread == "global":
        total = round(edit.ratio * sum(one.values.numel() for one in weights))
        gone = lowest([partial(scores.of, one) for one in weights], total, scores.dtype)
        return (one.mask(~went) for one, went in zip(weights, gone, strict=True))
    if edit.spread == "energy":
        counts = _counts_by_energy(edit.ratio, weights, scores, subject)
    else:
        counts = [round(edit.ratio * one.values.numel()) for one in weights]
    each = zip(weights, counts, strict=True)
    return (one.mask(_without_least(one, scores, count)) for one, count in each)


def _without_least(weight: Weight, scores: "_Scores", count: int) -> Tensor:
    """What stays of one tensor when so many go, those that are zero already among them."""
    if scores.edit.criterion != "wanda":
        (gone,) = lowest([partial(scores.of, weight)], count, scores.dtype)
        return ~gone
    rows = by_input(weight.module, scores.of(weight))
    # The same share of each row, so that the rows' whole numbers add up to the count.
    bounds = torch.arange(len(rows) + 1) * count // len(rows)
    keep = ~lowest_in_rows(rows.flatten(1), bounds.diff())
    return as_weight(weight.module, keep.reshape(rows.shape), weight.values.shape)


def _counts_by_energy(
    ratio: float, weights: tuple[Weight, ...], scores: "_Scores", subject: Subject
) -> list[int]:
    """How many weights of each tensor go, by the rule that channels follow.

    The order is that of :func:`engine.pruning.amounts.by_energy`, in steps of small parts of each
    tensor, and what it ends at is the ratio of all weights.
    """
    pools = [_pool(one, scores.risks(one), subject) for one in weights]
    if not any(pool.joules.any() for pool in pools):
        raise EditRefused(
            "No energy is modelled for these layers, so that none can be spread by it.",
            "Spread the amount over the layers otherwise.",
        )
    total = sum(pool.width for pool in pools)
    wanted = round(ratio * total)
    too_few = [0] * len(pools)

    def left(steps: Sequence[int]) -> float:
        nonlocal too_few
        gone = sum(_gone(pools, steps))
        if gone < wanted:
            too_few = _gone(pools, steps)
        return 1 - gone / total

    # Small layers keep a good part, or much that goes by energy would cut the network through.
    kept = (total - wanted) // (2 * len(pools))
    least = [min(int(_SMALL_KEEP * pool.width), kept) for pool in pools]
    counts = _gone(pools, by_energy(pools, wanted / total, 1, left, least))
    # To the very number: the last step is cut short, or the widest make up for what is missing.
    for at in sorted(range(len(pools)), key=lambda at: -pools[at].width):
        most = max(counts[at], pools[at].width - least[at])
        counts[at] = min(most, max(too_few[at], counts[at] + wanted - sum(counts)))
    return counts


def _pool(weight: Weight, scores: Tensor, subject: Subject) -> Pool:
    """One tensor's weights in small parts of about equal size, those of the least score first."""
    ordered = np.sort(scores.flatten().numpy())
    starts = np.linspace(0, len(ordered), min(len(ordered), _PARTS) + 1).astype(np.int64)
    sizes, sums = np.diff(starts), np.add.reduceat(ordered, starts[:-1], dtype=np.float64)
    of_layer = sum(one.numel() for one in weights_in(weight.module).values())
    joules = subject.energy.get(weight.layer, 0.0) / of_layer
    return Pool(len(ordered), sizes, sums, float(sums.sum()), sizes * joules)


def _gone(pools: Sequence[Pool], steps: Sequence[int]) -> list[int]:
    return [int(pool.channels[:count].sum()) for pool, count in zip(pools, steps, strict=True)]


def _patterned(weight: Weight, scores: Tensor, edit: PruneWeights) -> Tensor:
    """What stays when ``edit.keep`` of every ``edit.of`` weights along the input channels do.

    At each place of a kernel by itself, as NVIDIA's 2:4 has it (Mishra et al., Accelerating Sparse
    Deep Neural Networks, arXiv 2104.08378, 2021).
    """
    rows = by_input(weight.module, scores)
    groups = rows.reshape(-1, edit.of)
    counts = torch.full((len(groups),), edit.of - edit.keep)
    keep = ~lowest_in_rows(groups, counts).reshape(rows.shape)
    return as_weight(weight.module, keep, weight.values.shape)


@dataclass(frozen=True)
class _Scores:
    """How much each weight counts: 0 or more, and below all that what is zero already.

    Attributes:
        dtype: of the scores; float32 tells all weights of 16 and 32 bits apart.
        gradients: by name of the parameter, for first-order Taylor.
        norms: of what each layer reads, by input channel, for Wanda.
    """

    edit: PruneWeights
    dtype: torch.dtype
    gradients: Mapping[str, Tensor]
    norms: Mapping[LayerId, Tensor]

    def of(self, weight: Weight) -> Tensor:
        """The scores of one tensor, in its shape."""
        values = weight.values.abs().to(self.dtype)
        zero = values == 0
        if self.edit.criterion == "random":
            values = torch.rand(values.shape, generator=_generator(self.edit.seed, weight))
            values = values.to(self.dtype)
        elif self.edit.criterion == "taylor":
            values = values * self.gradients[weight.name].to(self.dtype).abs()
        elif self.edit.criterion == "wanda":
            norms = _by_output(weight.module, self.norms[weight.layer].to(self.dtype))
            rows = by_input(weight.module, values) * norms
            values = as_weight(weight.module, rows, values.shape)
        return values.masked_fill_(zero, GOES_FIRST)

    def risks(self, weight: Weight) -> Tensor:
        """In the same order, what the loss of each distorts: of magnitudes the square."""
        scores = self.of(weight).clamp_(min=0)
        return scores if self.edit.criterion == "taylor" else scores.square_()


def _scores(edit: PruneWeights, weights: tuple[Weight, ...], subject: Subject, job: Job) -> _Scores:
    gradients: Mapping[str, Tensor] = {}
    norms: Mapping[LayerId, Tensor] = {}
    if edit.criterion == "taylor":
        gradients = weight_gradients(subject, [one.name for one in weights], edit.samples, job)
    elif edit.criterion == "wanda":
        _check_readers(weights)
        norms = input_norms(subject, [one.layer for one in weights], edit.samples, job)
    wide = any(one.values.dtype is torch.float64 for one in weights)
    return _Scores(edit, torch.float64 if wide else torch.float32, gradients, norms)


def _check_readers(weights: Iterable[Weight]) -> None:
    for weight in weights:
        if not isinstance(weight.module, nn.Linear | nn.modules.conv._ConvNd):
            raise EditRefused(
                f"{weight.layer} ({type(weight.module).__name__}) reads more than one input, and "
                "Wanda weighs by one.",
                "Leave it out of the selection, or take another criterion.",
            )


def _by_output(module: nn.Module, norms: Tensor) -> Tensor:
    """Norms of (input channels,) as (outputs, 1, input channels that each output reads)."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        return norms
    outputs = module.out_channels // module.groups
    return norms.reshape(module.groups, 1, -1).repeat_interleave(outputs, 0)


def _generator(seed: int, weight: Weight) -> torch.Generator:
    """Numbers of the tensor's own, whatever else is selected."""
    digest = hashlib.sha256(f"{seed} {weight.name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
