"""From a ratio to how many units of each layer go.

Units go in the order of their scores, in steps: from one width that may remain to the next. What
may remain is a multiple of a number, which suits hardware, and never nothing.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

LEAST_SHARE = 0.1
"""Of a layer's channels stays where layers are ranked together: one that is emptied cuts the
network through (layer collapse: Tanaka et al., NeurIPS 2020)."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The units that one layer puts up for removal, in the order in which they would go.

    Attributes:
        width: channels of the layer, those of units that must stay among them.
        channels: how many each unit takes along, (units,).
        scores: never falling, (units,).
        mass: sum of the scores of all units, those that must stay among them.
        joules: modelled energy that each unit saves, (units,).
    """

    width: int
    channels: NDArray[np.int64]
    scores: NDArray[np.float64]
    mass: float
    joules: NDArray[np.float64]


Left = Callable[[Sequence[int]], float]
"""From how many units of each pool go to the share of modelled energy that is left."""


def by_layer(pools: Sequence[Pool], ratio: float, multiple: int) -> list[int]:
    """How many units of each pool go when each layer loses its share.

    The width that remains is the allowed one nearest to (1 - ratio) of the width, the wider of two.
    Allowed are all multiples of ``multiple``, and the width as it is; of layers narrower than two
    multiples any width. More ratio never brings back a unit.
    """
    counts = []
    for pool in pools:
        allowed = _allowed(pool, multiple)
        widths = _widths(pool)[allowed]
        away = np.abs(widths - pool.width * (1 - ratio))
        counts.append(int(allowed[np.argmin(np.round(away, 9))]))  # 0.7 of 10 is not quite 7
    return counts


def by_rank(pools: Sequence[Pool], ratio: float, multiple: int) -> list[int]:
    """How many units of each pool go when all are ranked together by their scores.

    Steps of least mean score go first, until the number of channels removed is as near to ``ratio``
    of all as steps allow. Each layer keeps at least :data:`LEAST_SHARE`, or 1 - ratio if that is
    less.

    Args:
        pools: their scores can be compared.
    """
    steps = _ranked(
        pools,
        _least(pools, ratio),
        multiple,
        lambda pool, start, end: float(pool.scores[start:end].mean()),
    )
    removed = np.cumsum([0, *(step.channels for step in steps)])
    wanted = ratio * sum(pool.width for pool in pools)
    number = int(np.argmin(np.round(np.abs(removed - wanted), 9)))
    return _counts(pools, steps[:number])


def by_energy(
    pools: Sequence[Pool],
    ratio: float,
    multiple: int,
    left: Left,
    least: Sequence[int] | None = None,
) -> list[int]:
    """How many units of each pool go when ``ratio`` of the modelled energy is to be saved.

    In the spirit of energy-aware pruning (Yang, Chen and Sze, CVPR 2017), which prunes the layers
    that take most energy first and most. Steps go in the order of what they risk for each joule
    they save. The risk is what a step is of all that is left of the layer's score: the relative
    distortion that LAMP bounds the loss by (Lee et al., ICLR 2021), which grows as a layer gets
    thin. Were all units of equal score, layers would be cut down from the one that takes most until
    all that were cut take the same. It stops as near to ``ratio`` as steps allow; each layer keeps
    at least :data:`LEAST_SHARE`, or 1 - ratio if that is less.
    """

    def risk(pool: Pool, start: int, end: int) -> float:
        rest = pool.mass - pool.scores[:start].sum()
        saved = pool.joules[start:end].sum()
        if saved <= 0:
            return np.inf
        return float(pool.scores[start:end].sum() / rest / saved) if rest > 0 else 0.0

    steps = _ranked(pools, least or _least(pools, ratio), multiple, risk)

    def missed(number: int) -> float:
        return left(_counts(pools, steps[:number])) - (1 - ratio)

    # What is left falls with every step: where enough is saved is found by halves.
    number = bisect_left(range(len(steps)), True, key=lambda taken: missed(taken) <= 1e-12)
    if number and missed(number - 1) <= -missed(number):
        number -= 1
    return _counts(pools, steps[:number])


@dataclass(frozen=True)
class _Step:
    """From one allowed width of a pool to the next: ``end`` units are gone then."""

    rank: float
    pool: int
    end: int
    channels: int


def _least(pools: Sequence[Pool], ratio: float) -> list[int]:
    """How many channels each pool keeps in any case."""
    share = min(LEAST_SHARE, 1 - ratio)
    return [max(1, ceil(round(share * pool.width, 9))) for pool in pools]


def _ranked(
    pools: Sequence[Pool],
    least: Sequence[int],
    multiple: int,
    rank: Callable[[Pool, int, int], float],
) -> list[_Step]:
    """The steps that may be taken, those of least rank first, those of a pool in their order."""
    steps = []
    for at, pool in enumerate(pools):
        widths = _widths(pool)
        highest = 0.0
        for start, end in pairwise(_allowed(pool, multiple).tolist()):
            if widths[end] < least[at]:
                break
            highest = max(highest, rank(pool, start, end))  # no step before the one in front of it
            steps.append(_Step(highest, at, end, int(widths[start] - widths[end])))
    return sorted(steps, key=lambda step: (step.rank, step.pool, step.end))


def _counts(pools: Sequence[Pool], steps: Sequence[_Step]) -> list[int]:
    counts = [0] * len(pools)
    for step in steps:
        counts[step.pool] = max(counts[step.pool], step.end)
    return counts


def _widths(pool: Pool) -> NDArray[np.int64]:
    """Channels that remain after 0, 1, … units are gone."""
    return pool.width - np.concatenate([[0], np.cumsum(pool.channels)])


def _allowed(pool: Pool, multiple: int) -> NDArray[np.int64]:
    """How many units may go so that a width remains that is allowed, ascending from 0."""
    widths = _widths(pool)
    fits = widths > 0
    if pool.width >= 2 * multiple:
        fits &= widths % multiple == 0
    fits[0] = True
    return np.flatnonzero(fits)
