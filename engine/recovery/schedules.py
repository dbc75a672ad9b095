"""Pruning in several steps, so that training between them can follow."""

from dataclasses import replace
from typing import Literal, TypeAlias

from engine.edits import PruneChannels, PruneWeights
from engine.errors import EditRefused

ScheduleKind: TypeAlias = Literal["one-shot", "iterative", "gradual"]
"""All at once; each step the same share of what is left; or automated gradual pruning."""

Scheduled: TypeAlias = PruneChannels | PruneWeights
"""What is pruned by a ratio that can grow."""


def shares(kind: ScheduleKind, steps: int, final: float, initial: float = 0.0) -> tuple[float, ...]:
    """The share that is gone after each step.

    Gradual is the cubic of Zhu and Gupta, To prune, or not to prune (2017):
    s_t = s_f + (s_i - s_f) (1 - t/n)^3, much at first and little at the end.

    Args:
        final, initial: share that is gone at the end, and already.

    Raises:
        EditRefused: there is no such schedule.
    """
    if steps < 1:
        raise EditRefused(f"Pruning in {steps} steps is not possible.", "Choose 1 or more.")
    if not 0 <= final <= 1:
        raise EditRefused(f"A share of {final:g} cannot be removed.", "Choose 0 to 1.")
    if kind == "one-shot" or steps == 1 or final <= initial:
        return (final,)
    left = [1 - step / steps for step in range(1, steps)]
    if kind == "gradual":
        return (*(final + (initial - final) * one**3 for one in left), final)
    if final == 1:
        raise EditRefused(
            "No number of equal shares of what is left removes everything.",
            "Choose less than 1, or another schedule.",
        )
    kept, least = 1 - initial, 1 - final
    return (*(1 - kept * (least / kept) ** (1 - one) for one in left), final)


def schedule(
    edit: Scheduled, kind: ScheduleKind, steps: int, initial: float = 0.0
) -> tuple[Scheduled, ...]:
    """The edits that reach what ``edit`` asks for, in order.

    Of weights a step's ratio is the sparsity behind it, of channels the share of those that the
    step finds.

    Args:
        initial: share of weights that are zero already.

    Raises:
        EditRefused: there is no such schedule, or the edit has no ratio that could grow.
    """
    _check(edit, kind, steps)
    if isinstance(edit, PruneWeights):
        return tuple(replace(edit, ratio=one) for one in shares(kind, steps, edit.ratio, initial))
    before, made = 0.0, list[Scheduled]()
    for share in shares(kind, steps, edit.ratio):
        made.append(replace(edit, ratio=ratio_of_left(share, 1.0, 1 - before)))
        before = share
    return tuple(made)


def ratio_of_left(share: float, at_first: float, left: float) -> float:
    """The ratio of what is left to remove, so that ``share`` of what there was is gone.

    Widths are rounded at every step; reckoned from what is really left, that does not add up.
    """
    return max(0.0, 1 - (1 - share) * at_first / left)


def _check(edit: Scheduled, kind: ScheduleKind, steps: int) -> None:
    if kind == "one-shot" or steps == 1:
        return
    if isinstance(edit, PruneChannels) and edit.channels:
        raise EditRefused(
            "Channels that are picked by hand go all at once.", "Give a ratio to go by steps."
        )
    if isinstance(edit, PruneWeights) and edit.of:
        raise EditRefused(
            f"A pattern of {edit.keep}:{edit.of} is reached all at once.",
            "Give a ratio to go by steps.",
        )
