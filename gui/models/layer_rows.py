"""What the rows of the layer table say, as raw values: a snapshot in, rows out. No Qt."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from engine import (
    METRICS,
    Cast,
    Layer,
    LayerId,
    LayerTree,
    Metric,
    ModelState,
    PruneChannels,
    PruneWeights,
    Snapshot,
)
from gui import format as fmt


class Column(IntEnum):
    """Columns of the layer table, in order."""

    LAYER = 0
    KIND = 1
    OUTPUT = 2
    PARAMETERS = 3
    SPARSITY = 4
    BITS = 5
    MACS = 6
    LATENCY = 7
    MEMORY = 8
    MEASURED_ENERGY = 9
    ENERGY = 10


METRIC_COLUMNS: Mapping[Column, Metric] = {
    Column.PARAMETERS: METRICS["parameters"],
    Column.MACS: METRICS["macs"],
    Column.LATENCY: METRICS["latency"],
    Column.MEMORY: METRICS["memory"],
    Column.MEASURED_ENERGY: METRICS["measured_energy"],
    Column.ENERGY: METRICS["energy"],
}
OPTIONAL = (Column.MEMORY, Column.MEASURED_ENERGY)
"""Columns that are shown once they have been measured."""
_HALF = 16
NOT_MODELLED = "not modelled"
NUMBERS = (*METRIC_COLUMNS, Column.SPARSITY, Column.BITS)

Values = Mapping[Column, float]


@dataclass(frozen=True)
class Row:
    """One layer: its values now and in the base model; a container's are those of all below it.

    Attributes:
        values, base: absent columns have no value.
        chosen: an applied edit names the layer itself.
        badges: what edits did to it, such as ``✂ 30 %``, ``q8`` or ``w4a8``.
        unmodelled: operators in it, or below it, whose energy no rule tells.
    """

    layer: Layer
    leaf: bool
    values: Values
    base: Values
    bits: str
    chosen: bool
    badges: tuple[str, ...]
    unmodelled: tuple[str, ...] = ()

    def text(self, column: Column) -> str:
        """What the table shows in that column."""
        match column:
            case Column.LAYER:
                return self.layer.name
            case Column.KIND:
                return self.layer.kind
            case Column.OUTPUT:
                return fmt.shape(self.layer.output_shape)
            case Column.BITS:
                return self.bits
            case Column.SPARSITY:
                return fmt.percent(self.values.get(column))
            case Column.ENERGY if self.unmodelled:
                value = self.values.get(column)
                return NOT_MODELLED if value is None else f"≥ {fmt.quantity(value, 'J')}"
        return fmt.quantity(self.values.get(column), METRIC_COLUMNS[column].unit)


def build_rows(snapshot: Snapshot) -> tuple[Row, ...]:
    """The rows of the current state, in tree order."""
    tree, before = snapshot.current.tree, snapshot.base.tree
    values, base = _columns(snapshot.current), _columns(snapshot.base)
    bits, unmodelled = _bits(tree), _unmodelled(snapshot.current)
    edits = [entry.edit for entry in snapshot.history[: snapshot.cursor]]
    chosen = {layer for edit in edits for layer in edit.layers}
    cut = {layer for edit in edits if isinstance(edit, PruneChannels) for layer in edit.layers}
    zeroed = {layer for edit in edits if isinstance(edit, PruneWeights) for layer in edit.layers}
    floats = {
        layer: "f16" if edit.dtype == "float16" else "bf16"
        for edit in edits
        if isinstance(edit, Cast)
        for layer in edit.layers
    }
    rows = []
    for layer in tree:
        leaf = not tree.children(layer.id)
        was = before.get(layer.id)
        cuts = _badges(was, layer, layer.id in cut, layer.id in zeroed) if leaf else ()
        number = _number_badge(was, layer, floats)
        rows.append(
            Row(
                layer=layer,
                leaf=leaf,
                values=values.get(layer.id, {}),
                base=base.get(layer.id, {}),
                bits=bits.get(layer.id, fmt.ABSENT),
                chosen=layer.id in chosen,
                badges=(*cuts, number) if number else cuts,
                unmodelled=unmodelled.get(layer.id, ()),
            )
        )
    return tuple(rows)


def _columns(state: ModelState) -> dict[LayerId, dict[Column, float]]:
    """Values of every layer by column, containers with what is below them."""
    tree = state.tree
    parameters = tree.inclusive({one.id: one.parameters for one in tree if one.parameters})
    weights = tree.inclusive({one.id: one.weights for one in tree if one.weights})
    zeros = tree.inclusive({one.id: one.zeros for one in tree if one.weights})
    stored = tree.inclusive(
        {one.id: one.weight_bits * one.parameters for one in tree if one.weight_bits}
    )
    sums = {
        Column.PARAMETERS: parameters,
        Column.SPARSITY: {id_: zeros[id_] / of for id_, of in weights.items()},
        Column.BITS: {id_: bits / parameters[id_] for id_, bits in stored.items() if bits},
    }
    for column, metric in METRIC_COLUMNS.items():
        if column == Column.PARAMETERS:
            continue
        series = state.table.get(metric.key)
        if series is not None:
            own = {id_: value for id_, value in series.by_layer().items() if id_ in tree}
            sums[column] = tree.inclusive(own) if metric.adds_up else _most(tree, own)
    rows: dict[LayerId, dict[Column, float]] = {}
    for column, by_layer in sums.items():
        for id_, value in by_layer.items():
            rows.setdefault(id_, {})[column] = value
    return rows


def _most(tree: LayerTree, own: Mapping[LayerId, float]) -> dict[LayerId, float]:
    """The largest value of each layer and all below it; layers with nothing are absent."""
    most: dict[LayerId, float] = {}
    for layer in reversed(tuple(tree)):
        values = [most[one] for one in tree.children(layer.id) if one in most]
        values += [own[layer.id]] if layer.id in own else []
        if values:
            most[layer.id] = max(values)
    return most


def _unmodelled(state: ModelState) -> dict[LayerId, tuple[str, ...]]:
    """Operators without a rule in each layer and all below it, each once."""
    names: dict[LayerId, dict[str, None]] = {}
    for layer in reversed(tuple(state.tree)):
        told = state.energy.layers.get(layer.id)
        found = dict.fromkeys(told.unmodelled if told is not None else ())
        found.update(names.get(layer.id, {}))
        if found:
            names[layer.id] = found
            names.setdefault(state.tree.parent_of(layer.id), {}).update(found)
    return {layer: tuple(found) for layer, found in names.items()}


def _bits(tree: LayerTree) -> dict[LayerId, str]:
    """Bits of weights as text; a container's is the range of what is below it."""
    seen: dict[LayerId, set[int]] = {}
    texts: dict[LayerId, str] = {}
    for layer in reversed(tuple(tree)):
        bits = seen.setdefault(layer.id, set())
        if layer.weight_bits is not None:
            bits.add(layer.weight_bits)
        seen.setdefault(tree.parent_of(layer.id), set()).update(bits)
        if bits:
            low, high = min(bits), max(bits)
            texts[layer.id] = str(low) if low == high else f"{low}–{high}"
    return texts


def _badges(before: Layer | None, now: Layer, cut: bool, zeroed: bool) -> tuple[str, ...]:
    """What edits did to a layer, in a few characters each."""
    if before is None:
        return ()
    badges = []
    if cut and before.channels and now.channels is not None:
        badges.append(f"✂ {fmt.percent(1 - now.channels / before.channels, 0)}")
    elif now.parameters < before.parameters and not now.note:
        badges.append("✂ coupled")
    if zeroed and now.weights:  # rounding to integers makes zeros too, which nobody asked for
        badges.append(f"∅ {fmt.percent(now.zeros / now.weights, 0)}")
    return tuple(badges)


def _number_badge(before: Layer | None, now: Layer, floats: Mapping[LayerId, str]) -> str:
    """The bits that edits left it, such as ``q8``, ``w4a8`` or ``bf16``; "" while they did not.

    Args:
        floats: 16-bit types by the layers that were cast to them.
    """
    bits = now.weight_bits, now.activation_bits
    if before is None or (*bits, now.is_quantized) == (
        before.weight_bits, before.activation_bits, before.is_quantized,
    ):  # fmt: skip
        return ""
    if not now.is_quantized:
        return floats.get(now.id, "") if now.weight_bits == _HALF else ""
    weights, inputs = bits
    if weights == inputs and weights is not None:
        return f"q{weights}"
    return (f"w{weights}" if weights is not None else "") + (f"a{inputs}" if inputs else "")
