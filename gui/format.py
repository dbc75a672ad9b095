"""The only place where a number becomes text, and text a number again. No Qt."""

import csv
import html
import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import PurePath

from engine import (
    ROOT,
    Cast,
    Edit,
    Equalize,
    Factorize,
    FineTune,
    FoldNorms,
    InputSpec,
    LayerId,
    Limit,
    MaskWeights,
    Metric,
    PruneByMethod,
    PruneChannels,
    PruneHeads,
    PruneWeights,
    Quantity,
    Quantize,
    RecalibrateNorms,
    RemoveBlocks,
    Smooth,
)

ABSENT = "–"
BETTER, WORSE = "better", "worse"

_PREFIXES = ("a", "f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P", "E")
_ONES = _PREFIXES.index("")
_COUNTED = {"1", "MAC", "B"}  # no milli-bytes: whole numbers below a thousand stay whole
_BARE = {"1", "MAC"}  # the title says what is counted
_POWERS = {prefix: 3 * (place - _ONES) for place, prefix in enumerate(_PREFIXES)}
_POWERS |= {"u": -6, "μ": -6, "K": 3}  # what keyboards give for µ and k
_NUMBER = re.compile(r"\s*([-+−]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*")

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format, half a pair, separators

Translate = Callable[[str], str]


def quantity(value: float | None, unit: str, digits: int = 3) -> str:
    """Write a value with ``digits`` significant digits, an SI prefix and its unit."""
    if value is None or math.isnan(value):
        return ABSENT
    symbol = "" if unit in _BARE else unit
    sign = "−" if value < 0 else ""
    if math.isinf(value):
        return f"{sign}∞ {symbol}".rstrip()
    number, prefix = _scaled(abs(value), digits, counted=unit in _COUNTED)
    return f"{sign}{number} {prefix}{symbol}".rstrip()


def _scaled(value: float, digits: int, counted: bool) -> tuple[str, str]:
    """Split a value that is not negative into its digits and a prefix."""
    if value == 0 or (counted and value < 1000 and value == int(value)):
        return f"{value:.0f}", ""
    # Python's own rounding decides the power of ten, so that 999.96 becomes 1.00 k.
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    place, shift = divmod(int(power), 3)
    if counted and place < 0:
        return f"{value:.{digits}g}", ""
    if not 0 <= place + _ONES < len(_PREFIXES):
        return f"{mantissa}e{int(power)}", ""
    number = f"{float(mantissa) * 10**shift:.{max(0, digits - 1 - shift)}f}"
    return number, _PREFIXES[place + _ONES]


def tick(value: float, unit: str) -> str:
    """Write a round value as short as it is, for an axis: ``20 M``, ``0.5 ms``."""
    number, _, symbol = quantity(value, unit, 4).partition(" ")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return f"{number} {symbol}".rstrip()


def intensity(value: float) -> str:
    """Write an arithmetic intensity: floating-point operations for each byte moved."""
    return f"{value:.3g} FLOP/byte"


def loss(value: float) -> str:
    """Write a loss, or a change of one, in three places at most: ``0.12``, ``−0.004``, ``12``."""
    if math.isnan(value):
        return ABSENT
    size, sign = abs(value), "−" if value < 0 else ""
    if size == 0:
        return "0"
    if size < 0.0005:
        return f"{sign}<0.001"
    if size >= 9.95:
        return quantity(value, "1", 2 if size < 99.5 else 3)
    return f"{sign}{size:.{1 if size >= 0.995 else 2 if size >= 0.0995 else 3}f}"


def points(share: float) -> str:
    """Write a change of a share in percentage points, without the word: ``2.3``, ``−0.4``."""
    size, sign = abs(share) * 100, "−" if share < 0 else ""
    if size == 0:
        return "0"
    if size < 0.05:
        return f"{sign}<0.1"
    return f"{sign}{size:.{0 if size >= 9.95 else 1}f}"


def count(value: float | None) -> str:
    """Write a number of things, such as ``54.1 k``."""
    return quantity(value, "1")


def percent(fraction: float | None, decimals: int = 1) -> str:
    """Write a share of one in percent; what is not zero never reads as zero."""
    if fraction is None or not math.isfinite(fraction):
        return ABSENT
    if fraction == 0:
        return "0 %"
    least = 10.0**-decimals
    shown = abs(fraction) * 100
    sign = "−" if fraction < 0 else ""
    if 0 < shown < least / 2:
        return f"{sign}<{least:.{decimals}f} %"
    return f"{'' if round(shown, decimals) == 0 else sign}{shown:.{decimals}f} %"


def amount(ratio: float) -> str:
    """Write a share that somebody typed, as short as it is: ``30 %``."""
    return f"{ratio * 100:.6g} %"


def accuracy(value: Quantity | None) -> str:
    """Write an accuracy with half its interval, such as ``97.6 % ±1.4``."""
    if value is None:
        return ABSENT
    text = percent(value.value)
    if value.low is None or value.high is None:
        return text
    return f"{text} ±{(value.high - value.low) * 50:.1f}"


def interval(metric: Metric, value: Quantity) -> str:
    """Write the ends of the interval a value lies in; empty when it is exact."""
    if value.low is None or value.high is None:
        return ""
    return f"{_plain(metric, value.low)} and {_plain(metric, value.high)}"


def metric_value(metric: Metric, value: Quantity | None) -> str:
    """Write a value of that metric; absent is a dash, never zero."""
    if value is None:
        return ABSENT
    return accuracy(value) if metric.key == "accuracy" else _plain(metric, value.value)


def metric_number(metric: Metric, value: float | None) -> str:
    """Write a value of that metric without an interval."""
    return ABSENT if value is None else _plain(metric, value)


def _plain(metric: Metric, value: float) -> str:
    return percent(value) if metric.key == "accuracy" else quantity(value, metric.unit)


def delta(base: float | None, current: float | None) -> str:
    """Write a change relative to the base, such as ``▼ 53 %``; empty when it cannot be told."""
    if base is None or current is None or not (math.isfinite(base) and math.isfinite(current)):
        return ""
    if base == current:
        return "unchanged"
    arrow = "▲" if current > base else "▼"
    if base == 0:
        return f"{arrow} from 0"
    change = abs((current - base) / base)
    if change >= 10:
        return f"{arrow} {change + 1:.3g}×" if current / base > 0 else arrow
    return f"{arrow} {percent(change, 1 if change < 0.0995 else 0)}"


def delta_points(base: float | None, current: float | None) -> str:
    """Write a change of an accuracy in percentage points, such as ``▼ 0.8 pp``."""
    if base is None or current is None or not (math.isfinite(base) and math.isfinite(current)):
        return ""
    if base == current:
        return "unchanged"
    points = abs(current - base) * 100
    size = f"{points:.1f}" if points >= 0.05 else "<0.1"
    return f"{'▲' if current > base else '▼'} {size} pp"


def change(metric: Metric, base: float | None, current: float | None) -> str:
    """Write how that metric changed, in points for an accuracy and relative for the rest."""
    return (delta_points if metric.key == "accuracy" else delta)(base, current)


def verdict(metric: Metric, base: float | None, current: float | None) -> str:
    """Say ``better`` or ``worse``; empty when nothing changed or it cannot be told."""
    if base is None or current is None or base == current:
        return ""
    return BETTER if (current < base) == metric.lower_is_better else WORSE


def overlap(base: Quantity | None, current: Quantity | None) -> bool:
    """Whether two measured values lie in intervals that overlap: then they have no order."""
    if base is None or current is None or base == current:
        return False
    ends = (base.low, base.high, current.low, current.high)
    if any(end is None for end in ends):
        return False
    return bool(base.low <= current.high and current.low <= base.high)  # type: ignore[operator]


def shape(sizes: tuple[int, ...] | None) -> str:
    """Write a tensor's shape without its batch, such as ``16×8×8``."""
    if not sizes:
        return ABSENT
    return "×".join(str(size) for size in sizes[1:]) or "1"


def input_text(spec: InputSpec) -> str:
    """Write one input of a model, such as ``1×3×224×224 float32``."""
    sides = "×".join(str(side) for side in spec.shape) or "1"
    below = f" < {spec.high}" if "int" in spec.dtype else ""
    return f"{sides} {spec.dtype}{below}{' []' if spec.listed else ''}"


def layer_name(path: LayerId) -> str:
    """Write a layer's path; the root has none and reads ``model``."""
    return str(path) if path != ROOT else "model"


def conditions_text(conditions: Mapping[str, str], tr: Translate = str) -> str:
    """Write the conditions that change a figure most, such as ``cpu · float32 · batch 1``."""
    texts = [conditions[name] for name in ("hardware", "device", "dtype") if name in conditions]
    if "threads" in conditions:
        texts.append(tr("{count} threads").format(count=conditions["threads"]))
    if "autocast" in conditions:
        texts.append(tr("autocast to {dtype}").format(dtype=conditions["autocast"]))
    texts += [conditions["memory order"]] if "memory order" in conditions else []
    if conditions.get("pass", "forward") != "forward":
        texts.append(conditions["pass"])
    if "batch" in conditions:
        texts.append(tr("batch {batch}").format(batch=conditions["batch"]))
    return " · ".join(texts)


def short_file(name: str) -> str:
    """The end of a path that says which file it is."""
    parts = PurePath(name).parts
    for root in ("site-packages", "dist-packages"):
        if root in parts:
            return "/".join(parts[len(parts) - parts[::-1].index(root) :])
    return "/".join(parts[-2:])


def place(file: str, line: int) -> str:
    """Where a function is defined, in short; one in C is nowhere."""
    return f"{short_file(file)}:{line}" if file else ""


def edit_text(edit: Edit, tr: Translate = str) -> str:
    """Say an edit in one line, such as ``Prune 30 % of channels of head.fc (L2)``."""
    template, words = _edit_words(edit, tr)
    return template.format(layers=_layers_text(edit, tr), **words)


def done_text(edit: Edit, told: str, integers: bool, tr: Translate = str) -> str:
    """Say an edit that was applied, of training what came of it: it may have ended early.

    Args:
        told: what came of it, in a phrase; "" of edits that are done as they are asked for.
        integers: whether the model had integer layers then.
    """
    if not isinstance(edit, FineTune) or not told:
        return edit_text(edit, tr)
    name = tr("Quantization-aware training") if integers else tr("Fine-tune")
    whole = edit.layers == (ROOT,)
    of = "" if whole else tr(" of {layers}") if integers else tr(" {layers}")
    return f"{name}{of.format(layers=_layers_text(edit, tr))}: {told}"


def _edit_words(edit: Edit, tr: Translate) -> tuple[str, dict[str, str]]:
    """How an edit of that kind is said, and what stands in it beside the layers."""
    match edit:
        case PruneChannels() | PruneHeads() | PruneWeights():
            return _pruning_words(edit, tr)
        case RemoveBlocks():
            one = len(edit.layers) == 1
            return (tr("Remove block {layers}") if one else tr("Remove {layers}")), {}
        case MaskWeights():
            words = {"file": visible(short_file(edit.path))}
            return tr("Zero weights of {layers} by the mask {file}"), words
        case PruneByMethod():
            words = {"amount": amount(edit.amount), "method": visible(edit.method)}
            return tr("Prune {amount} of weights of {layers} ({method})"), words
        case Factorize():
            form = tr(", column and row") if edit.form == "spatial" else ""
            words = {"amount": amount(edit.ratio), "form": form}
            return tr("Factorize {layers} for {amount} fewer parameters{form}"), words
        case FoldNorms():
            return tr("Fold batch norms into {layers}"), {}
        case Quantize():
            return _rounding_words(edit, tr)
        case Cast():
            return tr("Cast {layers} to {dtype}"), {"dtype": edit.dtype}
        case Equalize():
            return tr("Equalize the channels of {layers}"), {}
        case Smooth():
            return tr("Smooth {layers} by {amount}"), {"amount": amount(edit.strength)}
        case RecalibrateNorms() | FineTune():
            return _recovery_words(edit, tr)


def _pruning_words(
    edit: PruneChannels | PruneHeads | PruneWeights, tr: Translate
) -> tuple[str, dict[str, str]]:
    how = [criterion_name(edit.criterion, tr)]
    if not isinstance(edit, PruneHeads) and edit.spread != "layer":
        how.append(spread_name(edit.spread, tr))
    words = {"amount": amount(edit.ratio), "how": ", ".join(how)}
    if isinstance(edit, PruneWeights):
        if not edit.of:
            return tr("Prune {amount} of weights of {layers} ({how})"), words
        words |= {"keep": str(edit.keep), "of": str(edit.of)}
        return tr("Prune weights of {layers} to {keep}:{of} ({how})"), words
    channels = isinstance(edit, PruneChannels)
    picked = edit.channels if isinstance(edit, PruneChannels) else edit.heads
    if picked:
        words["count"] = str(len(picked))
        if channels:
            return tr("Prune {count} picked channels of {layers}"), words
        return tr("Prune {count} picked heads of {layers}"), words
    if channels:
        return tr("Prune {amount} of channels of {layers} ({how})"), words
    return tr("Prune {amount} of heads of {layers} ({how})"), words


def _rounding_words(edit: Quantize, tr: Translate) -> tuple[str, dict[str, str]]:
    words = {"bits": str(edit.weight_bits), "how": _how(edit, tr)}
    if edit.activations == "none":
        return tr("Quantize {layers} to int{bits} weights{how}"), words
    words["inputs"] = str(edit.activation_bits)
    if edit.activations == "static" and edit.activation_bits == edit.weight_bits:
        return tr("Quantize {layers} to int{bits}{how}"), words
    words["range"] = tr("dynamic ") if edit.activations == "dynamic" else ""
    return tr("Quantize {layers} to int{bits} weights, {range}int{inputs} inputs{how}"), words


def _how(edit: Quantize, tr: Translate) -> str:
    """What is not as usual of how weights are rounded, in brackets."""
    told = []
    if edit.granularity == "tensor":
        told.append(tr("per tensor"))
    elif edit.granularity == "group":
        told.append(tr("groups of %s") % edit.group_size)
    if edit.rounding != "nearest":
        told.append(rounding_name(edit.rounding, tr))
    return f" ({', '.join(told)})" if told else ""


def rounding_name(rounding: str, tr: Translate = str) -> str:
    """Write how weights are rounded, as the field does: ``GPTQ``."""
    return {"nearest": tr("nearest"), "gptq": "GPTQ", "adaround": "AdaRound"}[rounding]


def _recovery_words(edit: RecalibrateNorms | FineTune, tr: Translate) -> tuple[str, dict[str, str]]:
    whole = edit.layers == (ROOT,)
    if isinstance(edit, RecalibrateNorms):
        words = {"samples": str(edit.samples)}
        if whole:
            return tr("Recalibrate batch norms ({samples} samples)"), words
        return tr("Recalibrate batch norms of {layers} ({samples} samples)"), words
    words = {
        "epochs": tr("1 epoch") if edit.epochs == 1 else tr("%s epochs") % edit.epochs,
        "teacher": tr(", with distillation") if edit.distillation else "",
    }
    if whole:
        return tr("Fine-tune for {epochs}{teacher}"), words
    return tr("Fine-tune {layers} for {epochs}{teacher}"), words


def _layers_text(edit: Edit, tr: Translate) -> str:
    if len(edit.layers) == 1:
        return layer_name(edit.layers[0])
    if isinstance(edit, RemoveBlocks):
        return tr("{count} blocks").format(count=len(edit.layers))
    return tr("{count} layers").format(count=len(edit.layers))


def quantized_text(count: tuple[int, int], tr: Translate = str) -> str:
    """Write how many layers compute with integers, of those that have something to round."""
    if not count[1]:
        return tr("no layer to quantize")
    return tr("{quantized} of {of} layers quantized").format(quantized=count[0], of=count[1])


def criterion_name(criterion: str, tr: Translate = str) -> str:
    """Write which channels or weights go first, as the field does: ``L2``, ``random``."""
    names = {
        "bn-scale": tr("batch-norm scale"),
        "taylor": tr("Taylor"),
        "activation": tr("activation"),
        "wanda": tr("Wanda"),
        "random": tr("random"),
    }
    return names.get(criterion, criterion.upper())


def spread_name(spread: str, tr: Translate = str) -> str:
    """Write how an amount is spread over layers, in a few words."""
    names = {
        "layer": tr("each layer its share"),
        "global": tr("one ranking"),
        "energy": tr("by energy"),
    }
    return names[spread]


def bound_text(limit: Limit, tr: Translate = str) -> str:
    """Write a limit without its metric, such as ``≤ 50.0 µJ``."""
    sign = "≤" if limit.metric.lower_is_better else "≥"
    if limit.relative:
        return tr("{sign} {share} of base").format(sign=sign, share=amount(limit.bound))
    return f"{sign} {metric_number(limit.metric, limit.bound)}"


def limit_text(limit: Limit, tr: Translate = str) -> str:
    """Write a limit in full, such as ``Energy per inference ≤ 50.0 µJ``."""
    return f"{tr(limit.metric.title)} {bound_text(limit, tr)}"


def parse(text: str, unit: str) -> float:
    """Read a number with an optional SI prefix, unit or ``%``, such as ``0.1ms`` or ``10k``.

    Raises:
        ValueError: the text is no number, or carries another unit; the message says which.
    """
    found = _NUMBER.fullmatch(text)
    if not found:
        raise ValueError(f"“{text.strip()}” is not a number")
    # Decimal, so that 50 µJ is 5e-05 to the last digit.
    number, suffix = Decimal(found[1].replace("−", "-")), found[2]
    if suffix == "%" and unit == "1":
        return float(number / 100)
    for symbol in ("",) if unit == "1" else (unit, ""):
        prefix = suffix[: len(suffix) - len(symbol)]
        if suffix.lower().endswith(symbol.lower()) and prefix in _POWERS:
            return float(number.scaleb(_POWERS[prefix]))
    wanted = "a plain number" if unit in _BARE else f"a value in {unit}"
    raise ValueError(f"“{suffix}” is no unit here; give {wanted}")


def tooltip(text: str) -> str:
    """Text for a tooltip, shown as it is: Qt would take ``<b>`` in a layer's name for markup."""
    return f"<qt>{html.escape(text).replace(chr(10), '<br>')}</qt>" if text else ""


def visible(text: str, most: int = 600) -> str:
    """Text from elsewhere, fit to be read: marks that hide or turn it round are spelt out.

    A name may hold line breaks, zero-width characters and marks of direction that make it read as
    another. The middle of what is longer than ``most`` is left out.
    """
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} … {text[-half:]}"
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in _HIDDEN
        else letter
        for letter in text
    )


def delimited(rows: Iterable[Iterable[object]], delimiter: str = ",") -> str:
    """A table as CSV or TSV, for files and spreadsheets; absent values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return text.getvalue()
