"""What is known of a layer's modelled energy, in words. No Qt."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine import GROUPINGS, Hardware, LayerEnergy, LayerId, ModelState
from gui import format as fmt
from gui.models.energy_words import bound_text, names_text

Translate = Callable[[str], str]


@dataclass(frozen=True)
class EnergyFact:
    """One thing that is known: its name, its value and what must be said of it."""

    name: str
    value: str
    remark: str = ""


def parts_below(state: ModelState, layer: LayerId) -> dict[str, float]:
    """Joules of a layer and all below it by part; empty without energy."""
    series = state.table.get("energy")
    sums: dict[str, float] = {}
    for one in state.tree.under(layer) if series is not None else ():
        for part, quantity in series.layers.get(one, {}).items():  # type: ignore[union-attr]
            sums[part] = sums.get(part, 0.0) + quantity.value
    return sums


def unmodelled_below(state: ModelState, layer: LayerId) -> tuple[str, ...]:
    """Operators without a rule in a layer and all below it, each once."""
    names: dict[str, None] = {}
    for one in state.tree.under(layer):
        told = state.energy.layers.get(one)
        names.update(dict.fromkeys(told.unmodelled if told else ()))
    return tuple(names)


def energy_facts(state: ModelState, layer: LayerId, tr: Translate = str) -> tuple[EnergyFact, ...]:
    """What is known of the energy of a layer, or of a container's layers together."""
    parts = parts_below(state, layer)
    below = tuple(state.tree.under(layer))
    missing = unmodelled_below(state, layer)
    facts: list[EnergyFact] = []
    if parts:
        own = sum(parts.values())
        whole = state.table["energy"].total.value
        share = f" · {fmt.percent(own / whole)}" if whole else ""
        facts.append(EnergyFact(tr("Per inference"), f"{fmt.quantity(own, 'J')}{share}"))
    elif missing:
        facts.append(EnergyFact(tr("Per inference"), tr("not modelled")))
    if len(below) == 1 and (told := state.energy.layers.get(layer)) is not None:
        facts += _told(told, state.energy.bound_by, tr)
    saved = sum(state.energy.layers[one].saved for one in below if one in state.energy.layers)
    hardware = state.energy.settings.hardware
    if saved > 0:
        remark = tr("only on hardware that skips zeros")
        facts.append(EnergyFact(tr("Saved by zeros"), fmt.quantity(saved, "J"), remark))
    elif not hardware.sparsity.skips_anything and any(
        _has_zeros(state.energy.layers.get(one)) for one in below
    ):
        facts.append(
            EnergyFact(tr("Saved by zeros"), tr("none"), tr("this hardware skips no zeros"))
        )
    if missing:
        facts.append(
            EnergyFact(tr("Operators without a rule"), str(len(missing)), names_text(missing, tr))
        )
    return tuple(facts)


def _told(told: LayerEnergy, bound_by: str, tr: Translate) -> Iterator[EnergyFact]:
    """What an estimate says of one layer beside its joules."""
    if told.bound:
        yield EnergyFact(tr("Bound"), bound_text(told.bound, bound_by, tr))
    if told.utilisation is not None:
        yield EnergyFact(tr("Array in use"), fmt.percent(told.utilisation, 0))
    if told.input_zeros:
        yield EnergyFact(tr("Zeros in the input"), fmt.percent(told.input_zeros))
    if told.weight_zeros:
        yield EnergyFact(tr("Zeros in the weights"), fmt.percent(told.weight_zeros))


def _has_zeros(told: LayerEnergy | None) -> bool:
    return told is not None and bool(told.input_zeros or told.weight_zeros)


def grouped_lines(parts: dict[str, float], tr: Translate = str) -> list[str]:
    """Joules by data type and by level, a line each."""
    titles = {"data type": tr("by data type"), "level": tr("by level")}
    lines = []
    for grouping, group_of in GROUPINGS.items():
        sums: dict[str, float] = {}
        for part, joules in parts.items():
            sums[group_of(part)] = sums.get(group_of(part), 0.0) + joules
        texts = (
            f"{tr(name)} {fmt.quantity(joules, 'J')}" for name, joules in sums.items() if joules
        )
        lines.append(f"{titles[grouping]}: {' · '.join(texts)}")
    return lines


def energy_lines(state: ModelState, layer: LayerId, tr: Translate = str) -> list[str]:
    """Everything that is known, a line each, for a tooltip."""
    parts = parts_below(state, layer)
    lines = grouped_lines(parts, tr) if parts else []
    for fact in energy_facts(state, layer, tr)[1:]:  # the first one is the energy itself
        lines.append(f"{fact.name}: {fact.value}{f' ({fact.remark})' if fact.remark else ''}")
    if mapping := mapping_of(state, layer):
        lines.append(tr("Mapping: {mapping}").format(mapping=mapping))
    return lines


def mapping_of(state: ModelState, layer: LayerId) -> str:
    """How a layer lies on the hardware, in words; empty for what does no products."""
    told = state.energy.layers.get(layer)
    return told.mapping if told is not None else ""


def weight_zeros_text(hardware: Hardware, tr: Translate = str) -> str:
    """What zeroed weights save on that hardware, in one sentence."""
    sparsity = hardware.sparsity
    if sparsity.gates_zero_weights or sparsity.compresses_weights:
        text = tr(
            "The energy saving counts on {hardware} skipping zero weights; hardware that does not "
            "skip them saves nothing."
        )
    else:
        text = tr("{hardware} saves no energy from zero weights: it does not skip them.")
    return text.format(hardware=fmt.visible(hardware.name))
