"""What the curves of a training show, in numbers and words. No Qt."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from engine import METRICS, Quantity, RoundingProgress, TuningProgress
from gui import format as fmt

Translate: TypeAlias = Callable[[str], str]
Progress: TypeAlias = TuningProgress | RoundingProgress
Span: TypeAlias = tuple[float, float]

_MARGIN = 0.08  # of what is shown, above and below
_LEAST_SPAN = 0.02  # two percentage points: less would enlarge chance


def ends(value: Quantity) -> Span:
    """Low and high end of the interval of a value; itself twice where it has none."""
    low = value.value if value.low is None else value.low
    high = value.value if value.high is None else value.high
    return low, high


def accuracy_range(progress: TuningProgress) -> Span:
    """What the axis of accuracy shows: every interval, with some room around them."""
    every = [ends(value) for _, value in progress.accuracies]
    if not every:
        return 0.0, 1.0
    low, high = min(one for one, _ in every), max(one for _, one in every)
    room = max((high - low) * _MARGIN, (_LEAST_SPAN - (high - low)) / 2)
    return low - room, high + room


def loss_range(progress: TuningProgress) -> Span:
    """What the axis of the loss shows: from 0, or below the least where there are losses below."""
    losses = [loss for _, loss in progress.losses]
    if not losses:
        return 0.0, 1.0
    low, high = min(0.0, *losses), max(losses)
    return low, high + ((high - low) * _MARGIN or 1.0)


def nearest(points: Sequence[tuple[float, object]], epoch: float) -> int:
    """Place of the point that is nearest to that epoch, -1 when there is none."""
    distances = [abs(at - epoch) for at, _ in points]
    return min(range(len(distances)), key=distances.__getitem__, default=-1)


def epoch_text(epoch: float, tr: Translate = str) -> str:
    """Write a moment of a training, such as ``epoch 2.4``."""
    if epoch == 0:
        return tr("before training")
    return tr("epoch {epoch}").format(epoch=f"{epoch:.1f}".removesuffix(".0"))


def point_text(progress: TuningProgress, epoch: float, tr: Translate = str) -> str:
    """What the curves say nearest to that epoch."""
    parts = []
    at = nearest(progress.accuracies, epoch)
    if at >= 0:
        when, value = progress.accuracies[at]
        best = tr(", the best") if at == progress.best else ""
        shown = fmt.metric_value(METRICS["accuracy"], value)
        parts.append(f"{epoch_text(when, tr)}: {shown}{best}")
    at = nearest(progress.losses, epoch)
    if at >= 0:
        when, loss = progress.losses[at]
        parts.append(tr("loss {loss} at {epoch}").format(loss=f"{loss:.3g}", epoch=f"{when:.2f}"))
    return " · ".join(parts)


def summary_text(progress: TuningProgress, tr: Translate = str) -> str:
    """The best so far against the state before training, of the samples held out."""
    if not progress.accuracies:
        return ""
    metric = METRICS["accuracy"]
    before, best = progress.accuracies[0][1], progress.accuracies[progress.best]
    held = tr("held out")
    if progress.best == 0:
        shown = fmt.metric_value(metric, before)
        return tr("{held} {value}; no epoch was better so far").format(held=held, value=shown)
    return tr("{held} {before} → {best} ({epoch})").format(
        held=held,
        before=fmt.metric_number(metric, before.value),
        best=fmt.metric_value(metric, best[1]),
        epoch=epoch_text(best[0], tr),
    )


class Pace:
    """How fast a training goes, from when it was first seen of each step of a row of them."""

    def __init__(self) -> None:
        self._step = 0
        self._seconds = self._at = 0.0

    def left(self, step: int, progress: Progress, seconds: float) -> float | None:
        """Seconds that the step still takes if it goes on like this; None while nobody knows.

        Args:
            seconds: of work so far.
        """
        at, of = stand(progress)
        if step != self._step:
            self._step, self._seconds, self._at = step, seconds, at
        done, worked = at - self._at, seconds - self._seconds
        if done <= 0 or worked <= 0:
            return None
        return worked / done * (of - at)


def stand(progress: Progress) -> tuple[float, int]:
    """How many epochs, or layers, are done, and of how many."""
    if isinstance(progress, RoundingProgress):
        return progress.at, progress.of
    return progress.epoch, progress.epochs


def rounding_text(progress: RoundingProgress, tr: Translate = str) -> str:
    """What learned roundings have won so far; empty before a layer is done."""
    ended = {int(at): loss for at, loss in progress.losses if int(at) < int(progress.at)}
    if not ended:
        return ""
    left = sum(ended.values()) / len(ended)  # within a layer the loss rises while roundings settle
    text = tr("Error of the layers' outputs: {share} of that of rounding to the nearest.")
    return text.format(share=fmt.percent(left, 0))


def table(progress: TuningProgress) -> list[list[object]]:
    """Every point of both curves, the header first; what one of them lacks is empty."""
    rows: dict[float, list[object]] = {
        epoch: [epoch, loss, None, None, None] for epoch, loss in progress.losses
    }
    for epoch, value in progress.accuracies:
        one = rows.setdefault(epoch, [epoch, None, None, None, None])
        one[2:] = [value.value, value.low, value.high]
    header: list[object] = ["epoch", "training loss", "held-out accuracy", "low", "high"]
    return [header, *(rows[epoch] for epoch in sorted(rows))]
