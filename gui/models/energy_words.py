"""What holds for a modelled energy, in words. No Qt."""

from collections.abc import Callable, Sequence

from engine import EnergyEstimate, LayerEnergy
from gui import format as fmt

Translate = Callable[[str], str]

_MOST_NAMES = 3  # in a caption of one line


def conditions(estimate: EnergyEstimate, tr: Translate = str) -> list[str]:
    """Hardware, dataflow, batch, bits, zeros, and what is not in the joules."""
    held, settings = estimate.series.conditions, estimate.settings
    texts = [held.get("hardware", settings.hardware.name), tr(settings.dataflow)]
    texts.append(tr("batch {batch}").format(batch=held.get("batch", settings.batch or "?")))
    texts.append(bits_text(settings.bits, tr))
    if "zeros" in held:
        texts.append(tr("zeros {how}").format(how=held["zeros"]))
    if names := unmodelled(estimate):
        texts.append(tr("not modelled: {names}").format(names=names_text(names, tr, _MOST_NAMES)))
    return texts


def bits_text(bits: int, tr: Translate = str) -> str:
    """The width of values, 0 for the model's own."""
    return tr("{bits} bit").format(bits=bits) if bits else tr("bits as the model")


def unmodelled(estimate: EnergyEstimate) -> list[str]:
    """Names of operators without a rule, which are not in the joules."""
    in_layers = (name for layer in estimate.layers.values() for name in layer.unmodelled)
    outside = (name for name, value in estimate.series.unattributed.items() if value is None)
    return sorted({*in_layers, *outside})


def zeros_text(estimate: EnergyEstimate, tr: Translate = str) -> str:
    """What zeros save on the hardware, in a few words."""
    if not estimate.settings.hardware.sparsity.skips_anything:
        return tr("skips no zeros")
    share = _saved_share(estimate)
    if estimate.zeros_measured:
        text = tr("zeros save {share}") if share else tr("no zeros to skip")
    else:
        text = tr("zeros save {share} so far") if share else tr("not measured yet")
    return text.format(share=fmt.percent(share))


def zeros_lines(estimate: EnergyEstimate, tr: Translate = str) -> str:
    """What zeros save and why, a sentence a line."""
    hardware = fmt.visible(estimate.settings.hardware.name, 80)
    skips = estimate.settings.hardware.sparsity.skips_anything
    share = _saved_share(estimate)
    lines = [
        (
            tr("{hardware} skips zeros; they save {share} of what energy would be without that.")
            if skips
            else tr("{hardware} does not skip zeros: a saving needs hardware that does.")
        ).format(hardware=hardware, share=fmt.percent(share))
    ]
    if skips and not estimate.zeros_measured:
        lines.append(tr("Zeros of activations are not measured: none of them are counted on."))
    return "\n".join(lines)


def _saved_share(estimate: EnergyEstimate) -> float:
    """What zeros save, as a share of the energy without that saving."""
    saved = estimate.saved
    return saved / (saved + estimate.series.total.value) if saved else 0.0


def bound_text(bound: str, by: str, tr: Translate = str) -> str:
    """What holds a layer back; "" when that is not known."""
    texts = {"DRAM": tr("DRAM-bound"), "compute": tr("compute-bound")}
    text = texts.get(bound, "")
    return tr("{bound} by energy").format(bound=text) if text and by == "energy" else text


def bound_meaning(by: str, tr: Translate = str) -> str:
    """What layers are called bound by, in one sentence."""
    if by == "time":
        return tr("A layer is bound by what takes it longer: fetching from DRAM, or computing.")
    return tr(
        "The speed of this hardware is not described, so a layer is bound by what takes more "
        "energy: DRAM, or all on the chip."
    )


def layer_texts(told: LayerEnergy, by: str, tr: Translate = str) -> list[str]:
    """What holds the layer back, and which of its operators are not in its joules."""
    texts = [bound_text(told.bound, by, tr)]
    if told.unmodelled:
        names = names_text(sorted(set(told.unmodelled)), tr, _MOST_NAMES)
        texts.append(tr("not modelled: {names}").format(names=names))
    return [text for text in texts if text]


def names_text(names: Sequence[str], tr: Translate = str, most: int = 6) -> str:
    """Names of operators or layers, of many the first few."""
    shown = ", ".join(fmt.visible(name, 80) for name in names[:most])
    if len(names) <= most:
        return shown
    return tr("{names} and {count} more").format(names=shown, count=len(names) - most)
