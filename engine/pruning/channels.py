"""Structured pruning: output channels removed with everything coupled to them.

Every decision is checked on the sample input against :mod:`engine.pruning.law`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd

from engine.editing import Subject, module_at
from engine.edits import ChannelSlice, ChannelsRemoved, PruneChannels
from engine.errors import EditRefused
from engine.integer_layers import IntegerWeights
from engine.job import Job
from engine.layers import LayerId
from engine.pruning.amounts import Pool, by_energy, by_layer, by_rank
from engine.pruning.coupling import Group, Member, group_of
from engine.pruning.criteria import COMPARABLE, Scores, by_unit, unit_scores
from engine.pruning.law import check_law
from engine.pruning.shrinking import kept, regrouped, shrink
from engine.state import LayerEffect

_Side = tuple[LayerId, str, int]


class ChannelPruning:
    """Handler of :class:`engine.edits.PruneChannels`."""

    spares_outputs = True

    def applies(self, module: nn.Module) -> bool:
        """Convolutions and linear layers of more than one output channel."""
        if isinstance(module, nn.Linear):
            return module.out_features > 1
        return isinstance(module, _ConvNd) and module.out_channels > 1

    def draft(self, edit: PruneChannels, subject: Subject, job: Job) -> ChannelsRemoved:
        """The channels that would go; data are looked at, once for all drafts."""
        if not 0 <= edit.ratio < 1:
            raise EditRefused(
                f"A ratio of {edit.ratio:g} is not possible: it must be at least 0 and below 1."
            )
        if edit.multiple < 1:
            raise EditRefused(
                f"Widths cannot be rounded to multiples of {edit.multiple}.", "Choose 1 or more."
            )
        if edit.channels and len(edit.layers) > 1:
            raise EditRefused(
                f"Channels are picked of one layer, and {len(edit.layers)} are chosen.",
                "Choose one layer, or give a ratio.",
            )
        groups = self._groups(edit, subject, job)
        if edit.channels:
            decision = ChannelsRemoved(_slices([(groups[0], _picked(edit, groups[0]))]))
        else:
            decision = _by_amount(edit, groups, subject, job)
        for one in decision.slices:
            if len(one.removed) >= one.of:
                raise EditRefused(
                    f"Pruning {', '.join(edit.layers)} would leave {one.layer} without channels."
                )
        return decision

    def decide(self, edit: PruneChannels, subject: Subject, job: Job) -> ChannelsRemoved:
        """The channels that go, checked by the law on the sample input."""
        decision = self.draft(edit, subject, job)
        if decision.slices:
            job.begin("Checking the plan on the sample input")
            check_law(decision.slices, subject)
        return decision

    def carry_out(self, decision: ChannelsRemoved, model: nn.Module) -> None:
        """Replace the tensors of every slice by smaller ones."""
        shrink(model, decision.slices)

    def effects(self, decision: ChannelsRemoved, subject: Subject) -> tuple[LayerEffect, ...]:
        """Channels of every layer of the groups, before and after."""
        return tuple(
            LayerEffect(
                _layer_of(one),
                "coupled",
                "input channels" if one.side == "in" else "output channels",
                one.of,
                one.of - len(one.removed),
                one.removed,
            )
            for one in decision.slices
        )

    def notes(self, decision: ChannelsRemoved, subject: Subject) -> tuple[str, ...]:
        """How the amount was met, what shrinks together, and that it saves on every device."""
        if not decision.slices:
            return (decision.told or "The amount removes no whole channel: nothing changes.",)
        saved = "Removed channels save time, memory and energy on every device."
        told = (decision.told, _reach(decision, subject), _split_groups(decision, subject), saved)
        return tuple(one for one in told if one)

    def _groups(self, edit: PruneChannels, subject: Subject, job: Job) -> list[Group]:
        """The group of each chosen layer."""
        groups, refusals = [], dict[LayerId, EditRefused]()
        for layer in job.track(edit.layers, "Finding coupled channels"):
            module = module_at(subject.model, layer)
            try:
                if not self.applies(module):
                    raise EditRefused(
                        f"{layer} ({type(module).__name__}) has no output channels that could be "
                        "removed."
                    )
                groups.append(group_of(subject, layer))
            except EditRefused as refusal:
                refusals[layer] = refusal
        if refusals:
            raise _together(refusals, len(edit.layers))
        return groups


_MOST_REASONS = 5


def _together(refusals: Mapping[LayerId, EditRefused], chosen: int) -> EditRefused:
    """One refusal with the reasons of all; the first one where they are the same."""
    reasons = list(dict.fromkeys(map(str, refusals.values())))
    details = {"layers": list(refusals)} if len(refusals) < chosen else None
    if len(reasons) == 1:
        first = next(iter(refusals.values()))
        return EditRefused(str(first), first.remedy, details)
    more = " …" if len(reasons) > _MOST_REASONS else ""
    return EditRefused(
        f"{len(refusals)} of the {chosen} chosen layers cannot lose channels. "
        f"{' '.join(reasons[:_MOST_REASONS])}{more}",
        "Leave them out of the selection.",
        details,
    )


def _picked(edit: PruneChannels, group: Group) -> NDArray[np.bool_]:
    """The units that hold the channels picked by hand."""
    units, layer = group.members[0].units, edit.layers[0]
    if beyond := [one for one in edit.channels if not 0 <= one < len(units)]:
        raise EditRefused(f"{layer} has channels 0 to {len(units) - 1}, and no {beyond[0]}.")
    stay = [one for one in edit.channels if units[one] < 0]
    if stay:
        raise EditRefused(f"Channel {stay[0]} of {layer} cannot be removed.")
    gone = np.zeros(group.units, np.bool_)
    gone[units[list(edit.channels)]] = True
    together = np.flatnonzero(gone[units] & (units >= 0))
    if len(together) == len(units):
        raise EditRefused(f"One channel of {layer} at least must stay.")
    if left := sorted({*together.tolist()} - {*edit.channels}):
        raise EditRefused(
            f"The channels of {layer} go in whole groups: with those picked would go "
            f"{', '.join(map(str, left[:8]))}{' …' if len(left) > 8 else ''} as well.",
            "Pick these too, or none of their group.",
        )
    return gone


# By amount


@dataclass(frozen=True, eq=False)
class _Candidates:
    """What one layer puts up for removal.

    Attributes:
        order: units of the group that may go, least score first.
    """

    group: Group
    order: NDArray[np.intp]
    pool: Pool

    def first(self, count: int) -> NDArray[np.bool_]:
        """Which units are gone when ``count`` are, (units,)."""
        gone = np.zeros(self.group.units, np.bool_)
        gone[self.order[:count]] = True
        return gone


def _by_amount(
    edit: PruneChannels, groups: Sequence[Group], subject: Subject, job: Job
) -> ChannelsRemoved:
    candidates = list(_candidates(edit, groups, subject, job))
    pools = [one.pool for one in candidates]
    told = ""
    if edit.spread == "layer":
        counts = by_layer(pools, edit.ratio, edit.multiple)
    elif edit.spread == "global":
        counts = by_rank(pools, edit.ratio, edit.multiple)
    else:
        left = _EnergyLeft(candidates, subject)
        counts = by_energy(pools, edit.ratio, edit.multiple, left)
        told = (
            f"About {100 * (1 - left(counts)):.0f} % is saved of the modelled energy of these "
            "layers and those coupled to them."
        )
    slices = _slices(
        [(one.group, one.first(count)) for one, count in zip(candidates, counts, strict=True)]
    )
    wide = edit.multiple > 1 and any(one.width >= 2 * edit.multiple for one in pools)
    if wide and edit.ratio:
        rounded = f"Widths are rounded to multiples of {edit.multiple}."
        nothing = (
            f"Rounded to multiples of {edit.multiple}, the amount removes no channel: "
            "nothing changes."
        )
        told = f"{told} {rounded}".strip() if slices else nothing
    return ChannelsRemoved(slices, told if slices or wide else "")


def _candidates(
    edit: PruneChannels, groups: Sequence[Group], subject: Subject, job: Job
) -> Iterator[_Candidates]:
    """The units of each layer that are not those of an earlier one too."""
    taken: dict[_Side, NDArray[np.bool_]] = {}
    for group in groups:
        job.check()
        fresh = _fresh(group, taken)
        if not fresh.any():
            continue  # coupled to an earlier choice, whose share it has
        scores = unit_scores(edit, group, subject, job)
        order = np.argsort(scores, kind="stable")
        order = order[(fresh & ~_last_ones(group, order))[order]]
        if edit.criterion not in COMPARABLE:
            scores = scores / (scores[fresh].mean() or 1.0)
            if edit.spread == "energy":
                scores = np.square(scores)  # of magnitudes: distortion is a matter of squares
        root = group.members[0].units
        pool = Pool(
            int(np.count_nonzero((root < 0) | fresh[root])),
            np.bincount(root[root >= 0], minlength=group.units)[order],
            scores[order],
            float(scores[fresh].sum()),
            _joules(group, subject)[order],
        )
        yield _Candidates(group, order, pool)


def _fresh(group: Group, taken: dict[_Side, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Which units no earlier group had, (units,); they are taken from now on."""
    fresh = np.ones(group.units, np.bool_)
    for member in group.members:
        seen = taken.get(_side(member))
        if seen is not None:
            fresh[member.units[seen & (member.units >= 0)]] = False
    for member in group.members:
        seen = taken.setdefault(_side(member), np.zeros(len(member.units), np.bool_))
        seen |= (member.units >= 0) & fresh[member.units]
    return fresh


def _last_ones(group: Group, order: NDArray[np.intp]) -> NDArray[np.bool_]:
    """The units that must stay, (units,): of each side of each layer the one of highest score."""
    rank = np.empty(group.units, np.intp)
    rank[order] = np.arange(group.units)
    last = np.zeros(group.units, np.bool_)
    for member in group.members:
        if len(member.units) and member.units.min() >= 0:
            last[order[rank[member.units].max()]] = True
    return last


def _slices(
    gone_of: Iterable[tuple[Group, NDArray[np.bool_]]],
) -> tuple[ChannelSlice, ...]:
    """What goes of every side of every layer, from which units of each group go."""
    removed: dict[_Side, NDArray[np.bool_]] = {}
    for group, gone in gone_of:
        for member in group.members:
            one = removed.setdefault(_side(member), np.zeros(len(member.units), np.bool_))
            one |= (member.units >= 0) & gone[member.units]
    return tuple(
        ChannelSlice(layer, side, tuple(np.flatnonzero(one).tolist()), len(one), dim)  # type: ignore[arg-type]
        for (layer, side, dim), one in removed.items()
        if one.any()
    )


def _side(member: Member) -> _Side:
    return member.layer, member.side, member.dim


# Energy


def _costly(group: Group, subject: Subject) -> Iterator[tuple[Member, float]]:
    """The members whose layer's modelled energy falls with their channels, and its joules.

    A convolution in groups loses groups whole, on both sides: its outputs alone tell how many.
    """
    for member in group.members:
        joules = subject.energy.get(member.layer, 0.0)
        if member.side == "parameter" or joules <= 0:
            continue
        module = module_at(subject.model, member.layer)
        if member.side == "in" and isinstance(module, _ConvNd) and module.groups > 1:
            continue
        yield member, joules


def _joules(group: Group, subject: Subject) -> Scores:
    """Modelled joules that each unit saves when it goes alone, (units,)."""
    joules = np.zeros(group.units)
    for member, energy in _costly(group, subject):
        joules += by_unit(
            member, group.units, np.full(len(member.units), energy / len(member.units))
        )
    return joules


class _EnergyLeft:
    """The share of modelled energy left of all layers that the candidates touch.

    A layer's energy is taken to go with the product of its widths on both sides, as its MACs do.

    Raises:
        EditRefused: none is known.
    """

    def __init__(self, candidates: Sequence[_Candidates], subject: Subject) -> None:
        self._joules: dict[LayerId, float] = {}
        # By pool and side: the share of the side's channels gone after 0, 1, … units.
        self._gone: list[dict[_Side, NDArray[np.float64]]] = []
        for one in candidates:
            gone: dict[_Side, NDArray[np.float64]] = {}
            for member, joules in _costly(one.group, subject):
                self._joules[member.layer] = joules
                channels = by_unit(member, one.group.units, np.ones(len(member.units)))
                shares = np.cumsum(channels[one.order]) / len(member.units)
                gone[_side(member)] = np.concatenate([[0.0], shares])
            self._gone.append(gone)
        self._all = sum(self._joules.values())
        if not self._all:
            raise EditRefused(
                "No modelled energy is known of these layers.",
                "Spread the ratio over layers or globally instead.",
            )

    def __call__(self, counts: Sequence[int]) -> float:
        """What is left when so many units of each pool go."""
        kept: dict[_Side, float] = {}
        for gone, count in zip(self._gone, counts, strict=True):
            for side, shares in gone.items():
                kept[side] = kept.get(side, 1.0) - float(shares[count])
        left = dict(self._joules)
        for (layer, _, _), share in kept.items():
            left[layer] *= share
        return sum(left.values()) / self._all


# What is told


def _split_groups(decision: ChannelsRemoved, subject: Subject) -> str:
    """Which groups of weights under one scale fall apart, in a sentence; "" where none does."""
    split: list[str] = []
    for one in decision.slices:
        module: Any = module_at(subject.model, one.layer) if one.side == "in" else None
        size = module.weight_format.group_size if isinstance(module, IntegerWeights) else 0
        if size and getattr(module, "groups", 1) == 1:
            fewer = regrouped(module, kept(one))[0]
            if fewer < size:
                split.append(f"{one.layer} (of {size} weights, then of {fewer})")
    if not split:
        return ""
    return (
        f"Groups of weights that share a scale become smaller in {', '.join(split)}: more scales "
        "are stored. Quantized after pruning, groups stay whole."
    )


def _reach(decision: ChannelsRemoved, subject: Subject) -> str:
    """How many layers shrink, and what they take of the modelled energy."""
    layers = {_layer_of(one) for one in decision.slices}
    told = f"{len(layers)} layers shrink together" if len(layers) > 1 else ""
    whole = sum(subject.energy.values())
    if not told or not whole:
        return f"{told}." if told else ""
    share = sum(subject.energy.get(layer, 0.0) for layer in layers) / whole
    return f"{told}; they take {100 * share:.0f} % of the modelled energy."


def _layer_of(one: ChannelSlice) -> LayerId:
    return LayerId(one.layer.rpartition(".")[0]) if one.side == "parameter" else one.layer
