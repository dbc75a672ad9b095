"""What the cards of the figures strip say: a snapshot in, texts out. No Qt."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from engine import LimitStatus, Metric, Quantity, Series, Snapshot
from gui import format as fmt
from gui.models.measured_energy import against, spread_text

Translate = Callable[[str], str]

_USUAL = "top-1"

MEANINGS = {
    "accuracy": "Share of validation samples that are classified right, with its 95 % interval.",
    "energy": "Energy of one inference, modelled for the named hardware.",
    "latency": "Median time of one pass on this machine.",
    "macs": "Multiply-accumulate operations of one inference.",
    "size": "Bytes that the parameters take at their number of bits; zeros are not packed.",
    "parameters": "Weights, biases and other learned numbers.",
    "measured_energy": "Energy of one inference beyond idle, by this machine's counters.",
    "memory": "Most bytes that values between layers take at one moment, weights left out.",
}
"""Each metric by its key, explained in one sentence."""


@dataclass(frozen=True)
class Figure:
    """One metric: its value now, against the base, against its limit.

    Attributes:
        value: as text; a dash when absent, and ``why`` says why.
        base, change: texts; empty when nothing has been edited.
        verdict: ``better``, ``worse``, or empty when they are the same or cannot be told apart.
        limit: text of the limit, empty when there is none; ``met`` as the engine has it.
        title: of the card, with the name of the metric where that is not the usual one.
        skipped: samples that could not be read and are not in the value.
        badge: what must be known of the value at first sight, in a word or two.
    """

    metric: Metric
    value: str
    why: str
    base: str
    change: str
    verdict: str
    limit: str
    met: bool | None
    tooltip: str
    needs_data: bool = False
    title: str = ""
    skipped: int = 0
    badge: str = ""


def figure(snapshot: Snapshot, metric: Metric, tr: Translate = str, problem: str = "") -> Figure:
    """The card of that metric; ``problem`` says why it could not be taken, if that was tried."""
    now = snapshot.current.table.get(metric.key)
    before = snapshot.base.table.get(metric.key)
    meaningless = metric.key == "accuracy" and not snapshot.model.trained
    value = None if meaningless or now is None else now.total
    base = None if meaningless or before is None else before.total
    status = next((one for one in snapshot.limits if one.limit.metric == metric), None)
    edited = snapshot.cursor > 0 and value is not None and base is not None
    numbers = (base.value if base else None, value.value if value else None)
    return Figure(
        metric=metric,
        value=fmt.metric_value(metric, value),
        why="" if value else _why(snapshot, metric, problem, tr),
        base=fmt.metric_number(metric, numbers[0]) if edited else "",
        change=fmt.change(metric, *numbers) if edited else "",
        verdict=fmt.verdict(metric, *numbers) if edited and not fmt.overlap(base, value) else "",
        limit=fmt.bound_text(status.limit, tr) if status else "",
        met=status.met if status else None,
        tooltip="\n".join(
            [
                _tooltip(metric, now, value, base, status, tr, "" if value else problem),
                *(_counted(snapshot, tr) if metric.key == "energy" else ()),
                *_badge_lines(_badge(snapshot, metric, value, tr), tr),
            ]
        ),
        needs_data=_needs_data(snapshot, metric) and value is None,
        title=_title(metric, now, tr),
        skipped=int(now.conditions.get("skipped", 0)) if value is not None and now else 0,
        badge=_badge(snapshot, metric, value, tr),
    )


def figure_so_far(shown: Figure, value: Quantity, tr: Translate = str) -> Figure:
    """The card while its metric is being taken, with what is known of it."""
    text, why = fmt.metric_value(shown.metric, value), tr("so far")
    ends = tr("between {interval}").format(interval=fmt.interval(shown.metric, value))
    return replace(
        shown, value=text, why=why, base="", change="", verdict="", needs_data=False, badge="",
        tooltip="\n".join([tr(shown.metric.title), f"{text}, {why}", ends]),
    )  # fmt: skip


def _badge(snapshot: Snapshot, metric: Metric, value: Quantity | None, tr: Translate) -> str:
    if metric.key != "accuracy":
        return ""
    if not snapshot.model.trained and snapshot.model.has_weights:
        return tr("untrained")
    return tr("before recovery") if value is not None and snapshot.before_recovery else ""


def _badge_lines(badge: str, tr: Translate) -> list[str]:
    texts = {
        tr("untrained"): tr("The weights are random, so its accuracy means nothing."),
        tr("before recovery"): tr(
            "Pruned and not recovered since: recalibrating batch norms or fine-tuning may win"
            " some of it back."
        ),
    }
    return [texts[badge]] if badge else []


def _counted(snapshot: Snapshot, tr: Translate) -> list[str]:
    """What energy was measured on this machine, beside that modelled for other hardware."""
    now = snapshot.current.table.get("measured_energy")
    before = snapshot.base.table.get("measured_energy")
    if now is None:
        return []
    how = fmt.conditions_text(now.conditions, tr)
    line = tr("Measured here: {value}").format(value=spread_text(now.total, tr))
    lines = [f"{line} ({how})" if how else line]
    if before is not None and snapshot.cursor > 0:
        lines.append(against(before.total, now.total, tr))
    return lines


def _judge(series: Series | None) -> str:
    """Name of the metric that an accuracy is, where that is not the usual one."""
    name = series.conditions.get("metric", _USUAL) if series is not None else _USUAL
    return "" if name == _USUAL else name


def _title(metric: Metric, series: Series | None, tr: Translate) -> str:
    title = tr("Energy (modelled)") if metric.key == "energy" else tr(metric.title)
    judge = _judge(series) if metric.key == "accuracy" else ""
    return f"{title} ({judge})" if judge else title


def _needs_data(snapshot: Snapshot, metric: Metric) -> bool:
    return metric.key == "accuracy" and snapshot.data is None and snapshot.model.trained


def _why(snapshot: Snapshot, metric: Metric, problem: str, tr: Translate) -> str:
    if problem and (metric.key != "accuracy" or snapshot.model.trained):
        return tr("could not be taken")
    if metric.key != "accuracy":
        measured = metric.provenance.value == "measured"
        return tr("not measured yet") if measured else tr("no value")
    if not snapshot.model.trained:
        return tr("untrained") if snapshot.model.has_weights else tr("no weights")
    return tr("no data") if snapshot.data is None else tr("not evaluated yet")


def _tooltip(
    metric: Metric,
    series: Series | None,
    value: Quantity | None,
    base: Quantity | None,
    status: LimitStatus | None,
    tr: Translate,
    problem: str,
) -> str:
    judge = _judge(series) if metric.key == "accuracy" else ""
    meaning = tr("{metric} on the validation data.").format(metric=judge)
    lines = [tr(metric.title), meaning if judge else tr(MEANINGS.get(metric.key, ""))]
    lines.append(problem)
    if value is not None:
        lines.append(f"{fmt.metric_value(metric, value)}, {tr(metric.provenance.value)}")
        if interval := fmt.interval(metric, value):
            lines.append(tr("between {interval}").format(interval=interval))
    if base is not None:
        lines.append(tr("base {value}").format(value=fmt.metric_value(metric, base)))
    if fmt.overlap(base, value):
        lines.append(tr("The two intervals overlap: the difference may be chance."))
    if series is not None and (skipped := int(series.conditions.get("skipped", 0))):
        seen = int(series.conditions.get("samples", 0))
        text = tr("over {seen} of {all} samples; {skipped} could not be read and were skipped")
        lines.append(text.format(seen=seen, all=seen + skipped, skipped=skipped))
    if series is not None and series.conditions:
        lines.append(" · ".join(f"{name} {text}" for name, text in series.conditions.items()))
    if series is not None and series.unattributed:
        names = ", ".join(sorted(series.unattributed))
        lines.append(tr("outside the layers: {names}").format(names=names))
    if status is not None:
        kept = {True: tr("kept"), False: tr("not kept"), None: tr("not known yet")}[status.met]
        limit = fmt.limit_text(status.limit, tr)
        lines.append(tr("limit {limit}: {kept}").format(limit=limit, kept=kept))
    return "\n".join(line for line in lines if line)
