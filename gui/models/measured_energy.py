"""Measured energy, and the counters it takes, in words. No Qt."""

from collections.abc import Callable, Iterator, Sequence

from engine import CounterInfo, Quantity, Series
from gui import format as fmt
from gui.models.energy_words import names_text

Translate = Callable[[str], str]


def counters_text(counters: Sequence[CounterInfo], device: str, tr: Translate = str) -> str:
    """What counts the energy of that device, or why nothing does and what mends that."""
    kind = device.partition(":")[0]
    found = [one for one in counters if one.device in (device, kind)]
    if not found:
        text = tr("Energy unavailable: no counter is known for {device}.")
        return text.format(device=device)
    return "\n".join(_counter(one, tr) for one in found)


def _counter(counter: CounterInfo, tr: Translate) -> str:
    if counter.unavailable:
        text = tr("Energy of {title} unavailable. {reason}")
        return text.format(title=counter.title, reason=fmt.visible(counter.unavailable))
    return tr("Counted: {covers}.").format(covers=fmt.visible(counter.covers))


def measured_text(series: Series, base: Series | None, tr: Translate = str) -> str:
    """The whole with its spread, what the layers leave of it, gross and idle, and the base."""
    return " · ".join(_measured(series, base, tr))


def _measured(series: Series, base: Series | None, tr: Translate) -> Iterator[str]:
    layers = sum(series.by_layer().values())
    if series.layers:
        yield tr("Layers {layers}").format(layers=fmt.quantity(layers, "J"))
    yield tr("whole {whole}").format(whole=spread_text(series.total, tr))
    if series.layers:
        rest = series.total.value - layers
        share = fmt.percent(rest / series.total.value) if series.total.value else fmt.ABSENT
        text = tr("unattributed {rest} ({share})")
        yield text.format(rest=fmt.quantity(rest, "J"), share=share)
    missing = tuple(name for name, value in series.unattributed.items() if value is None)
    if missing:
        yield tr("without a value: {names}").format(names=names_text(missing, tr))
    held = series.conditions
    yield from (f"{tr(name)} {held[name]}" for name in ("gross", "idle", "noise") if name in held)
    if base is not None and base is not series:
        yield against(base.total, series.total, tr)


def spread_text(value: Quantity, tr: Translate = str) -> str:
    """A value with the interval that it lies in."""
    text = fmt.quantity(value.value, "J")
    if value.low is None or value.high is None:
        return text
    low, high = fmt.quantity(value.low, "J"), fmt.quantity(value.high, "J")
    return tr("{value}, between {low} and {high}").format(value=text, low=low, high=high)


def against(base: Quantity, now: Quantity, tr: Translate = str) -> str:
    """The base and how it changed, unless the intervals overlap: then the two have no order."""
    text = tr("base {value}").format(value=fmt.quantity(base.value, "J"))
    if fmt.overlap(base, now):
        return f"{text}, {tr('the intervals overlap: no order')}"
    return f"{text} {fmt.delta(base.value, now.value)}".strip()
