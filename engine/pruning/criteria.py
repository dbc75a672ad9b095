"""Which channels matter: one score for each unit of a coupled group, by the papers' criteria.

A score is taken over the whole group, so that a residual sum keeps what any of its branches
needs. The least go first. Integer weights count as what they stand for.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from engine.editing import Subject, module_at
from engine.edits import PruneChannels
from engine.errors import EditRefused
from engine.integer_layers import is_quantized
from engine.job import Job
from engine.pruning.coupling import Group, Member
from engine.pruning.statistics import channel_products, input_magnitudes, looked_at

Scores = NDArray[np.float64]
"""One for each unit of a group, (units,)."""

COMPARABLE = frozenset({"bn-scale", "taylor", "lamp"})
"""Criteria whose scores mean the same in every layer, as their papers have it; the others are
divided by the mean of their group before groups are compared (Fang et al., DepGraph, CVPR 2023)."""

_ROWS = 256  # of filters whose distances to all others are taken at once


def unit_scores(edit: PruneChannels, group: Group, subject: Subject, job: Job) -> Scores:
    """The score of each unit of the group, float64 (units,), at least 0.

    Raises:
        EditRefused: the criterion says nothing about this group; or it looks at data, and none
            are chosen.
        Cancelled: while data are looked at.
    """
    if edit.criterion == "random":  # of every layer its own, whatever is chosen beside it
        seed = [edit.seed % 2**63, *group.layer.encode()]
        return np.random.default_rng(seed).random(group.units)
    name = f"{edit.criterion} of {group.layer}"
    if edit.criterion in ("taylor", "activation"):
        name += f" on {looked_at(subject, edit.samples)}"
    return subject.once(name, lambda: _CRITERIA[edit.criterion](edit, group, subject, job))


def _l1(_edit: PruneChannels, group: Group, subject: Subject, _job: Job) -> Scores:
    """Sum of magnitudes of the filters that write a unit (Li et al., ICLR 2017)."""
    return _over_writers(group, subject, lambda one: _norms(one, 1))


def _l2(_edit: PruneChannels, group: Group, subject: Subject, _job: Job) -> Scores:
    """L2 norm of all the filters that write a unit (Li et al., ICLR 2017)."""
    return np.sqrt(_squares(group, subject))


def _fpgm(_edit: PruneChannels, group: Group, subject: Subject, job: Job) -> Scores:
    """Distance to the other filters of the layer: the least is nearest to their geometric
    median, and can best be stood for (He et al., CVPR 2019)."""
    return _over_writers(group, subject, lambda one: _distances(_filters(one), job))


def _lamp(_edit: PruneChannels, group: Group, subject: Subject, _job: Job) -> Scores:
    """Square of the L2 norm as a share of all squares that are not less (LAMP, Lee et al., ICLR
    2021): the loss of what is left when it goes, which can be compared between layers."""
    return relative(_squares(group, subject))


def _bn_scale(_edit: PruneChannels, group: Group, subject: Subject, _job: Job) -> Scores:
    """Mean magnitude of the batch norms' scales (network slimming, Liu et al., ICCV 2017)."""
    sums, counts = np.zeros(group.units), np.zeros(group.units)
    for member in group.members:
        module = _module(member, subject)
        if member.side == "out" and isinstance(module, _BatchNorm) and module.affine:
            sums += by_unit(member, group.units, module.weight.detach().abs().double().numpy())
            counts += by_unit(member, group.units, np.ones(len(member.units)))
    if not counts.all():
        raise EditRefused(
            f"Not every channel of {group.layer} goes through a batch norm with a scale.",
            "Take another criterion for it.",
        )
    return sums / counts


def _taylor(edit: PruneChannels, group: Group, subject: Subject, job: Job) -> Scores:
    """Square of the sum of weight times gradient over all that goes with a unit, the mean over
    batches (Molchanov et al., CVPR 2019): the change of the loss to first order, squared."""
    products = channel_products(subject, edit.samples, job)
    sums: NDArray[np.float64] | None = None
    for member in group.members:
        found = products.get((member.layer, member.side, member.dim))
        if found is not None:
            units = np.array([by_unit(member, group.units, one.numpy()) for one in found])
            sums = units if sums is None else sums + units
    if sums is None:
        raise EditRefused(
            f"No training sample leads through {group.layer}.", "Take another criterion for it."
        )
    means: Scores = np.square(sums).mean(0)
    return means


def _activation(edit: PruneChannels, group: Group, subject: Subject, job: Job) -> Scores:
    """Mean magnitude of a unit's values where they are read, behind norm and activation, summed
    over the layers that read them."""
    magnitudes = input_magnitudes(subject, edit.samples, job)
    scores, seen = np.zeros(group.units), np.zeros(group.units)
    for member in group.members:
        found = magnitudes.get(member.layer) if member.side == "in" else None
        if found is None:
            continue
        counts = by_unit(member, group.units, np.ones(len(member.units)))
        scores += by_unit(member, group.units, found.numpy()) / np.maximum(counts, 1)
        seen += counts
    if not seen.all():
        raise EditRefused(
            f"Not every channel of {group.layer} is read where it could be watched.",
            "Take another criterion for it.",
        )
    return scores


_CRITERIA: dict[str, Callable[[PruneChannels, Group, Subject, Job], Scores]] = {
    "l1": _l1,
    "l2": _l2,
    "bn-scale": _bn_scale,
    "fpgm": _fpgm,
    "taylor": _taylor,
    "activation": _activation,
    "lamp": _lamp,
}


def relative(scores: Scores) -> Scores:
    """Each score as a share of the sum of those that are not less, itself among them; 0 to 1."""
    order = np.argsort(scores, kind="stable")
    left = np.cumsum(scores[order][::-1])[::-1]
    shares = np.empty_like(scores)
    shares[order] = np.divide(scores[order], left, out=np.zeros_like(left), where=left > 0)
    return shares


def by_unit(member: Member, units: int, values: Scores) -> Scores:
    """Sums over the indices of a member that go with each unit, (units,)."""
    goes = member.units >= 0
    return np.bincount(member.units[goes], weights=values[goes], minlength=units).astype(float)


def _squares(group: Group, subject: Subject) -> Scores:
    return _over_writers(group, subject, lambda one: _norms(one, 2).square())


def _over_writers(group: Group, subject: Subject, score: Callable[[nn.Module], Tensor]) -> Scores:
    """The sum of what each layer that writes the group's channels says of its own."""
    sums = np.zeros(group.units)
    for member, module in _writers(group, subject):
        sums += by_unit(member, group.units, score(module).numpy())
    return sums


def _writers(group: Group, subject: Subject) -> Iterator[tuple[Member, nn.Module]]:
    for member in group.members:
        module = _module(member, subject)
        if member.side == "out" and isinstance(module, _ConvNd | nn.Linear):
            yield member, module


def _module(member: Member, subject: Subject) -> nn.Module | None:
    return None if member.side == "parameter" else module_at(subject.model, member.layer)


def _norms(module: nn.Module, order: int) -> Tensor:
    """L1 or L2 norm of each filter, float64 (channels,)."""
    norms: Tensor = torch.linalg.vector_norm(_filters(module), order, dim=1).double()
    return norms


def _filters(module: Any) -> Tensor:
    """The weights that write each channel, (channels, weights), at least in float32."""
    weight: Tensor = module.float_weight() if is_quantized(module) else module.weight.detach()
    if getattr(module, "transposed", False):  # (in, out / groups, …)
        weight = weight.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))


def _distances(filters: Tensor, job: Job) -> Tensor:
    """Sum of each row's Euclidean distances to all rows, float64 (rows,)."""
    centred = filters - filters.mean(0)  # products of small numbers cancel less
    sums = []
    job.begin("Comparing filters", len(filters))
    for rows in centred.split(_ROWS):
        sums.append(torch.cdist(rows, centred).sum(1, dtype=torch.double))
        job.advance(len(rows))
    return torch.cat(sums)
