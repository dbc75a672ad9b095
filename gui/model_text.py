"""A model's figures as text: tables for people, JSON for machines. No Qt."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from engine import METRICS, LayerTree, ModelState, Provenance, Snapshot
from gui import format as text


def print_json(facts: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write facts to standard output: plain numbers, in SI units."""
    print(json.dumps(facts, indent=1, ensure_ascii=False))


def _totals(state: ModelState) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for key, series in state.table.items():
        facts[key] = series.total.value
        if series.total.low is not None:
            facts[f"{key}_interval"] = [series.total.low, series.total.high]
    return facts


def _conditions(state: ModelState) -> dict[str, Any]:
    return {
        key: {"provenance": series.metric.provenance.value, **series.conditions}
        for key, series in state.table.items()
    }


def model_facts(snapshot: Snapshot) -> dict[str, Any]:
    """What is known of the current state as a whole."""
    unattributed = {
        name
        for series in snapshot.current.table.values()
        for name, value in series.unattributed.items()
        if value is None
    }
    return {
        "model": snapshot.model.name,
        "source": snapshot.model.source,
        "trained": snapshot.model.trained,
        "inputs": [str(spec) for spec in snapshot.model.inputs],
        "notes": list(snapshot.model.notes),
        **_totals(snapshot.current),
        **_quantized(snapshot.current.tree),
        "unattributed": sorted(unattributed),
        "conditions": _conditions(snapshot.current),
    }


def _quantized(tree: LayerTree) -> dict[str, Any]:
    """How many layers compute with integers, of how many, and why others cannot."""
    quantized, of = tree.quantized_count()
    reasons = {one.id: one.why_float for one in tree if one.why_float}
    return {"layers_quantized": quantized, "layers_quantizable": of, "stay_float": reasons}


def comparison_facts(snapshot: Snapshot) -> dict[str, Any]:
    """The current state beside the base model, and the edits between them."""
    return model_facts(snapshot) | {
        "base": _totals(snapshot.base),
        "current": _totals(snapshot.current),
        "edits": [text.edit_text(entry.edit) for entry in snapshot.history[: snapshot.cursor]],
        "warnings": [
            one for entry in snapshot.history[: snapshot.cursor] for one in entry.warnings
        ],
        "before_recovery": snapshot.before_recovery,
    }


def recovery_facts(before: Snapshot, snapshot: Snapshot) -> dict[str, Any]:
    """As :func:`comparison_facts`, with what came of the recovery since ``before``."""
    return comparison_facts(snapshot) | {
        "before": _totals(before.current),
        "recovery": [one.told for one in snapshot.history[before.cursor : snapshot.cursor]],
    }


def data_facts(snapshot: Snapshot) -> dict[str, Any]:
    """What data the accuracy is of."""
    data = snapshot.data
    if data is None:
        return {}
    return {"data": {"name": data.name, "description": data.description,
                     "metric": data.metric, "broken": list(data.broken)}}  # fmt: skip


def layer_facts(state: ModelState) -> list[dict[str, Any]]:
    """What is known of each layer."""
    rows = []
    for layer in state.tree:
        facts: dict[str, Any] = {
            "layer": layer.id,
            "kind": layer.kind,
            "output_shape": None if layer.output_shape is None else list(layer.output_shape),
            "parameters": layer.parameters,
            "weights": layer.weights,
            "zeros": layer.zeros,
            "weight_bits": layer.weight_bits,
            "activation_bits": layer.activation_bits,
            "aliases": list(layer.aliases),
            "quantized": layer.is_quantized,
            "note": layer.note,
        }
        for key, series in state.table.items():
            parts = series.layers.get(layer.id)
            if parts is None or key == "parameters":
                continue
            facts[key] = sum(quantity.value for quantity in parts.values())
            if set(parts) != {""}:
                facts[f"{key}_parts"] = {part: quantity.value for part, quantity in parts.items()}
        rows.append(facts)
    return rows


# -- tables for people


def print_layers(snapshot: Snapshot) -> None:
    """Write a table of the layers, and the totals."""
    from rich.table import Table

    state = snapshot.current
    tree: LayerTree = state.tree
    shown = [METRICS[key] for key in ("macs", "latency", "energy") if key in state.table]
    table = Table(
        title=_plain(f"{snapshot.model.name} at {_shape(snapshot)}"), title_justify="left"
    )
    table.add_column("Layer", no_wrap=True)
    table.add_column("Kind")
    for name in ("Output", "Parameters", "Bits", *(metric.title for metric in shown)):
        table.add_column(name, justify="right")
    sums = {
        metric.key: tree.inclusive(state.table[metric.key].by_layer())
        for metric in (METRICS["parameters"], *shown)
    }
    for layer in tree:
        depth = layer.id.count(".") + bool(layer.id)
        table.add_row(
            _plain("  " * depth + (layer.name or snapshot.model.name)),
            _plain(layer.kind),
            text.shape(layer.output_shape),
            text.count(sums["parameters"].get(layer.id)),
            str(layer.weight_bits or ""),
            *(text.metric_number(metric, sums[metric.key].get(layer.id)) for metric in shown),
        )
    _console().print(table)
    _print_quantized(tree)
    _print_totals(snapshot)


def _print_quantized(tree: LayerTree) -> None:
    print(f"{text.quantized_text(tree.quantized_count()).capitalize()}.")
    for layer in tree:
        if layer.why_float:
            print(one_line(f"{text.layer_name(layer.id)} cannot be quantized: {layer.why_float}."))


def _print_totals(snapshot: Snapshot) -> None:
    for series in snapshot.current.table.values():
        metric = series.metric
        exact = f" = {series.total.value:,.0f}" if metric.provenance is Provenance.COUNTED else ""
        conditions = ", ".join(f"{key} {value}" for key, value in series.conditions.items())
        value = text.metric_value(metric, series.total)
        origin = f"{metric.provenance.value}; {conditions}".rstrip("; ")
        print(f"{metric.title}: {value}{exact} ({origin})")
        if series.unattributed:
            print(f"  without a rule, not in the total: {', '.join(series.unattributed)}")
    for note in snapshot.model.notes:
        print(note)
    if snapshot.model.has_weights and not snapshot.model.trained:
        print("The weights are random: accuracy would mean nothing.")


def print_comparison(snapshot: Snapshot) -> None:
    """Write a table of before and after."""
    from rich.table import Table

    for entry in snapshot.history[: snapshot.cursor]:
        print(f"• {text.edit_text(entry.edit)}")
        for warning in entry.warnings:
            print(one_line(f"  Warning: {warning}"))
    print(f"{text.quantized_text(snapshot.current.tree.quantized_count()).capitalize()}.")
    table = Table()
    table.add_column(_plain(snapshot.model.name))
    for name in ("Before", "After", "Change"):
        table.add_column(name, justify="right")
    table.add_column("")
    for key, metric in METRICS.items():
        series = snapshot.current.table.get(key)
        if series is None:
            continue
        base = snapshot.base.table.total(metric)
        early = key == "accuracy" and snapshot.before_recovery
        table.add_row(
            f"{metric.title} (before recovery)" if early else metric.title,
            text.metric_value(metric, base),
            text.metric_value(metric, series.total),
            text.change(metric, base.value if base else None, series.total.value),
            metric.provenance.value,
        )
    _console().print(table)
    if not snapshot.model.trained:
        print("The weights are random: accuracy means nothing.")


def print_recovery(before: Snapshot, snapshot: Snapshot) -> None:
    """Write the table of :func:`print_comparison`, and what came of the recovery."""
    print_comparison(snapshot)
    metric = METRICS["accuracy"]
    found = before.current.table.total(metric)
    print(f"Accuracy before recovery: {text.metric_value(metric, found)}.")
    for entry in snapshot.history[before.cursor : snapshot.cursor]:
        print(one_line(f"{text.edit_text(entry.edit)}: {entry.told}."))


def print_data(snapshot: Snapshot) -> None:
    """Write what data the accuracy is of, and which samples were skipped."""
    data, accuracy = snapshot.data, snapshot.current.table.get("accuracy")
    if data is None or accuracy is None:
        return
    conditions = ", ".join(f"{key} {value}" for key, value in accuracy.conditions.items())
    for line in (f"Accuracy: {conditions}.", data.description):
        print(one_line(line))
    for name in data.broken:
        print(one_line(f"Skipped {name}"))


def _shape(snapshot: Snapshot) -> str:
    return ", ".join(str(spec).replace("x", "×") for spec in snapshot.model.inputs)


def _plain(name: str) -> Any:
    """Names from models are text, never markup."""
    from rich.text import Text

    return Text(name)


def _console() -> Any:
    from rich.console import Console

    # Piped into a file the table keeps its width instead of folding at 80 columns.
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def one_line(message: str) -> str:
    """Whatever the names in it hold, nothing that a terminal would obey."""
    return "".join(sign if sign.isprintable() else " " for sign in message)
