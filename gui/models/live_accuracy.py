"""What a comparison of two accuracies says, and whether one can be had without asking. No Qt."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from engine import METRICS, Comparison, Edit, Quantity, Quantize, Snapshot
from gui import format as fmt

Translate = Callable[[str], str]

QUICK_SECONDS: Final = 1.0
"""A whole pass over the validation data that takes less is made without asking."""
_MACS_PER_SECOND: Final = 5e9  # where latency has not been measured: a slow processor
_SIGNIFICANT: Final = 0.05


@dataclass(frozen=True)
class AccuracyText:
    """A comparison in words.

    Attributes:
        value: with its interval, such as ``97.8 % (96.1–98.9)``.
        change: against the base, such as ``▼ 1.2 pp``.
        verdict: ``better``, ``worse``, or empty where chance may have done it.
        ground: what it rests on, such as ``p = 0.03 · 128 of 450 samples``.
    """

    value: str
    change: str
    verdict: str
    ground: str


def accuracy_text(found: Comparison, tr: Translate = str) -> AccuracyText:
    """The comparison in words."""
    now, base = found.accuracy, found.reference
    verdict = fmt.verdict(METRICS["accuracy"], base.value, now.value) if _is_sure(found) else ""
    return AccuracyText(
        _with_interval(now),
        fmt.delta_points(base.value, now.value),
        verdict,
        " · ".join(part for part in (_chance(found, tr), _seen(found, tr)) if part),
    )


def _is_sure(found: Comparison) -> bool:
    """Whether the two differ beyond chance; p counts at the end alone, looked at once."""
    if found.p_value is None:
        return not fmt.overlap(found.reference, found.accuracy)
    return found.settled or (found.samples == found.of and found.p_value < _SIGNIFICANT)


def _with_interval(value: Quantity) -> str:
    text = fmt.percent(value.value)
    if value.low is None or value.high is None:
        return text
    return f"{text} ({value.low * 100:.1f}–{value.high * 100:.1f})"


def _chance(found: Comparison, tr: Translate) -> str:
    p = found.p_value
    ended = found.settled or found.samples == found.of
    if p is None or not ended or not (found.lost or found.gained):
        return ""
    size = tr("p < 0.001") if p < 0.001 else tr("p = {p}").format(p=f"{p:.2g}")
    return size if _is_sure(found) else tr("{size}, may be chance").format(size=size)


def _seen(found: Comparison, tr: Translate) -> str:
    seen = tr("{count} of {of} samples").format(count=found.samples, of=found.of)
    if found.settled and found.samples < found.of:
        return tr("{seen} were enough").format(seen=seen)
    return seen if found.samples < found.of else tr("%s samples") % found.of


def explanation(found: Comparison, tr: Translate = str) -> str:
    """What the comparison is, in sentences for a tooltip."""
    lines = [
        tr("Accuracy that the edit leaves, before any recovery, beside that of the base model."),
        tr("base {value}").format(value=_with_interval(found.reference)),
    ]
    if found.lost is not None and found.gained is not None:
        text = tr("{lost} samples that the base has right are lost, {gained} are gained.")
        lines.append(text.format(lost=found.lost, gained=found.gained))
    if found.p_value is not None:
        lines.append(tr("p: McNemar's exact test, how likely so uneven a split is by chance."))
    return "\n".join(lines)


def can_compare(snapshot: Snapshot | None) -> bool:
    """Whether accuracy means anything: data are chosen, and the weights are trained."""
    return snapshot is not None and snapshot.data is not None and snapshot.model.trained


def is_quick(snapshot: Snapshot, edit: Edit) -> bool:
    """Whether the accuracy of the edit can follow the hand without being asked for."""
    samples = snapshot.data.validation_samples if snapshot.data is not None else 0
    return not learns(edit) and pass_seconds(snapshot, samples) <= QUICK_SECONDS


def learns(edit: Edit) -> bool:
    """Whether deciding the edit takes a training of its own, too long for a preview."""
    return isinstance(edit, Quantize) and edit.rounding == "adaround"


def pass_seconds(snapshot: Snapshot, samples: int) -> float:
    """About how long the model takes for so many samples; infinite where nobody knows."""
    table = snapshot.current.table
    macs, latency = table.total(METRICS["macs"]), table.total(METRICS["latency"])
    known = [macs.value / _MACS_PER_SECOND] if macs is not None else []
    if latency is not None:  # one sample at a time is the slowest way
        known.append(latency.value / snapshot.model.batch)
    return samples * min(known, default=float("inf"))
