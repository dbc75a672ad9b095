"""The layer table: sums, marks, what changes tell, and the filter's language."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtTest import QAbstractItemModelTester
from pytestqt.qtbot import QtBot

from engine import (
    METRICS,
    ROOT,
    Cast,
    HistoryEntry,
    LayerEnergy,
    LayerId,
    LayerTree,
    MeasurementTable,
    ModelState,
    PruneWeights,
    Quantity,
    Series,
    Snapshot,
)
from gui.models.heat import heat_scale
from gui.models.layer_filter import LayerFilter
from gui.models.layer_model import LayerModel, Role
from gui.models.layer_query import parse_query
from gui.models.layer_rows import Column, build_rows
from gui.models.metric_bars import metric_bars

CONV1 = LayerId("stage1.block0.conv1")
CONV2 = LayerId("stage1.block0.conv2")
FC = LayerId("head.fc")


@pytest.fixture
def model(qapp: object, pruned: Snapshot) -> LayerModel:
    model = LayerModel()
    # Held by the model, so that it lives as long.
    QAbstractItemModelTester(model, QAbstractItemModelTester.FailureReportingMode.Fatal, model)
    model.set_snapshot(pruned)
    return model


def _text(model: LayerModel, layer: str, column: Column) -> str:
    return str(model.layer_index(LayerId(layer), column).data())


def test_parents_show_the_sum_of_what_is_below(pruned: Snapshot) -> None:
    rows = {row.layer.id: row for row in build_rows(pruned)}
    for column in (Column.PARAMETERS, Column.MACS, Column.LATENCY, Column.ENERGY):
        leaves = [row.values[column] for row in rows.values() if row.leaf and column in row.values]
        assert rows[ROOT].values[column] == pytest.approx(sum(leaves))


def test_absent_is_a_dash_and_not_zero(model: LayerModel) -> None:
    assert _text(model, "stem.relu", Column.ENERGY) == "–"
    index = model.layer_index(LayerId("stem.relu"), Column.ENERGY)
    assert index.data(Role.SORT) is None


def _unmodelled(snapshot: Snapshot) -> Snapshot:
    """A ReLU without any rule, and a convolution of which one operator has none."""
    state = snapshot.current
    told = {
        **state.energy.layers,
        LayerId("stem.relu"): LayerEnergy(unmodelled=("aten::relu",)),
        CONV2: LayerEnergy("DRAM", 0.75, "64 filters", 0.4, 0.5, 1e-7, ("mine::shift",)),
    }
    return replace(snapshot, current=replace(state, energy=replace(state.energy, layers=told)))


def test_work_without_a_rule_is_not_modelled_and_not_zero(
    model: LayerModel, pruned: Snapshot
) -> None:
    model.set_snapshot(_unmodelled(pruned))
    model.set_heat(Column.ENERGY, logarithmic=False)
    index = model.layer_index(LayerId("stem.relu"), Column.ENERGY)
    assert index.data() == "not modelled"
    assert index.data(Role.SORT) is None  # so it comes last
    assert index.data(Role.HEAT) is None
    assert "aten::relu" in index.data(Qt.ItemDataRole.ToolTipRole)
    assert _text(model, "head.pool", Column.ENERGY) == "–"  # it has nothing to model


def test_energy_that_lacks_some_operators_is_marked(model: LayerModel, pruned: Snapshot) -> None:
    model.set_snapshot(_unmodelled(pruned))
    assert _text(model, CONV2, Column.ENERGY) == "≥ 905 nJ"
    assert _text(model, CONV1, Column.ENERGY) == "462 nJ"
    for layer in (CONV2, LayerId("stage1.block0"), ROOT):
        tip = model.layer_index(layer, Column.ENERGY).data(Qt.ItemDataRole.ToolTipRole)
        assert "mine::shift" in tip
    assert "aten::relu" in tip
    assert _text(model, "stem", Column.ENERGY).startswith("≥ ")
    assert _text(model, "head", Column.ENERGY) == "21.0 nJ"


def test_a_container_of_nothing_but_unmodelled_work_is_not_modelled(
    model: LayerModel, pruned: Snapshot
) -> None:
    state = _unmodelled(pruned).current
    energy = state.table["energy"]
    cut = {id_: parts for id_, parts in energy.layers.items() if not id_.startswith("stem")}
    table = MeasurementTable((replace(energy, layers=cut),))
    model.set_snapshot(replace(pruned, current=replace(state, table=table)))
    assert _text(model, "stem", Column.ENERGY) == "not modelled"


def test_the_energys_tooltip_says_all_that_is_known(model: LayerModel, pruned: Snapshot) -> None:
    model.set_snapshot(_unmodelled(pruned))
    tip = model.layer_index(CONV2, Column.ENERGY).data(Qt.ItemDataRole.ToolTipRole)
    for text in (
        "by data type: compute 295 nJ · weights 295 nJ · input 295 nJ · output 20.0 nJ",
        "by level: compute 295 nJ · registers 295 nJ · buffer 295 nJ · DRAM 20.0 nJ",
        "DRAM-bound by energy", "in use: 75 %", "Mapping: 64 filters",
        "Zeros in the input: 40.0 %", "Zeros in the weights: 50.0 %",
        "Saved by zeros: 100 nJ (only on hardware that skips zeros)",
    ):  # fmt: skip
        assert text in tip
    whole = model.layer_index(ROOT, Column.ENERGY).data(Qt.ItemDataRole.ToolTipRole)
    assert "Mapping" not in whole
    assert "by level" in whole
    assert "by level" not in model.layer_index(CONV2, Column.MACS).data(Qt.ItemDataRole.ToolTipRole)


def test_the_root_is_called_after_the_model(model: LayerModel) -> None:
    assert _text(model, "", Column.LAYER) == "digits_net"


def test_edited_layers_are_marked(model: LayerModel) -> None:
    assert model.layer_index(CONV1).data(Role.CHOSEN) is True
    assert model.layer_index(CONV1).data(Role.BADGES) == ("✂ 50 %",)
    assert model.layer_index(CONV2).data(Role.CHOSEN) is False
    # It has zeros, as rounding makes them, but nobody pruned its weights.
    assert model.layer_index(CONV2).data(Role.BADGES) == ("✂ coupled",)
    assert model.layer_index(LayerId("head.fc")).data(Role.BADGES) == ("q8",)
    assert model.layer_index(LayerId("stem.bn")).data(Role.NOTE) == "folded into stem.conv"


def test_zeroed_weights_are_marked(pruned: Snapshot) -> None:
    edits = (*pruned.history, HistoryEntry(PruneWeights((CONV2,), 0.5), pruned.current.table))
    rows = {row.layer.id: row for row in build_rows(replace(pruned, history=edits, cursor=2))}
    assert rows[CONV2].badges == ("✂ coupled", "∅ 50 %")


@pytest.mark.parametrize(
    ("weights", "inputs", "badge"),
    [(8, 8, "q8"), (4, None, "w4"), (4, 8, "w4a8"), (8, 16, "w8a16"), (None, 8, "a8")],
)
def test_mixed_precision_is_told_apart(
    base: Snapshot, weights: int | None, inputs: int | None, badge: str
) -> None:
    changed = {"weight_bits": weights, "activation_bits": inputs, "is_quantized": True}
    assert _badges(base, "stem.conv", **changed) == (badge,)
    assert _badges(base, "stem", **changed) == (badge,)  # a block whose own sums are rounded


def test_casts_say_which_type(base: Snapshot) -> None:
    layer = LayerId("stem.conv")
    cast = HistoryEntry(Cast((layer,), "bfloat16"), base.current.table)
    after = replace(base, history=(cast,), cursor=1)
    assert _badges(after, layer, weight_bits=16, activation_bits=16) == ("bf16",)
    half = HistoryEntry(Cast((layer,)), base.current.table)
    both = replace(base, history=(cast, half), cursor=2)
    assert _badges(both, layer, weight_bits=16, activation_bits=16) == ("f16",)
    assert _badges(base, layer) == ()


def _badges(snapshot: Snapshot, path: str, **changed: Any) -> tuple[str, ...]:
    """Of a layer that edits have changed so."""
    layers = [replace(one, **changed) if one.id == path else one for one in snapshot.current.tree]
    current = replace(snapshot.current, tree=LayerTree(layers))
    rows = {row.layer.id: row for row in build_rows(replace(snapshot, current=current))}
    return rows[LayerId(path)].badges


def test_a_layer_says_why_it_stays_in_float(base: Snapshot) -> None:
    why = "its <weights> are looked up"
    layers = [replace(one, why_float=why) if one.id == FC else one for one in base.current.tree]
    model = LayerModel()
    model.set_snapshot(replace(base, current=replace(base.current, tree=LayerTree(layers))))
    for column in (Column.LAYER, Column.BITS):
        tip = model.layer_index(FC, column).data(Qt.ItemDataRole.ToolTipRole)
        assert "Cannot be quantized: its &lt;weights&gt; are looked up" in tip


def test_bits_of_a_container_are_a_range(model: LayerModel) -> None:
    assert _text(model, "", Column.BITS) == "8–32"
    assert _text(model, "head", Column.BITS) == "8"


def test_tooltips_compare_with_the_base_and_escape_names(model: LayerModel) -> None:
    tip = model.layer_index(CONV1, Column.ENERGY).data(Qt.ItemDataRole.ToolTipRole)
    assert "base" in tip
    assert "▼" in tip
    assert "modelled" in tip
    assert "Eyeriss &lt;ISCA 2016&gt;" in tip


def test_the_same_snapshot_again_changes_nothing(model: LayerModel, pruned: Snapshot) -> None:
    changes: list[object] = []
    model.dataChanged.connect(lambda *args: changes.append(args))
    model.set_snapshot(pruned)
    assert changes == []


def test_an_edit_renews_rows_and_does_not_reset(
    qtbot: QtBot, model: LayerModel, base: Snapshot
) -> None:
    with qtbot.assertNotEmitted(model.modelReset), qtbot.waitSignal(model.dataChanged):
        model.set_snapshot(base)
    assert model.layer_index(CONV1).data(Role.BADGES) == ()


def test_another_model_resets(
    qtbot: QtBot, model: LayerModel, make_large: Callable[[int], Snapshot]
) -> None:
    with qtbot.waitSignal(model.modelReset):
        model.set_snapshot(make_large(30))
    assert model.rowCount(model.index(0, 0)) == 30
    model.set_snapshot(None)
    assert model.rowCount() == 0


def test_heat_comes_from_leaves_alone(model: LayerModel) -> None:
    model.set_heat(Column.MACS, logarithmic=False)
    assert model.layer_index(CONV2, Column.MACS).data(Role.HEAT) == 1.0
    assert model.layer_index(LayerId("stage1"), Column.MACS).data(Role.HEAT) is None
    assert model.layer_index(CONV2, Column.ENERGY).data(Role.HEAT) is None


@pytest.mark.parametrize("logarithmic", [False, True])
def test_heat_rises_with_the_value(logarithmic: bool) -> None:
    scale = heat_scale([1e-6, None, 3e-6, 1e-4, 0.0], logarithmic)
    assert scale is not None
    places = [scale.fraction(value) for value in (0.0, 1e-6, 3e-6, 1e-4)]
    assert places == sorted(places, key=lambda place: place or 0)
    assert places[0] == 0
    assert places[-1] == 1
    assert scale.fraction(None) is None


def test_nothing_to_show_has_no_scale() -> None:
    assert heat_scale([None, 0.0], logarithmic=True) is None


def _shown(proxy: LayerFilter, parent: QModelIndex | None = None) -> list[str]:
    parent = parent or QModelIndex()
    names = []
    for row in range(proxy.rowCount(parent)):
        index = proxy.index(row, 0, parent)
        names += [index.data(Role.LAYER), *_shown(proxy, index)]
    return names


@pytest.mark.parametrize(
    ("query", "leaves"),
    [
        ("fc", {"head.fc"}),
        ("CONV2D block0", {CONV1, CONV2}),
        ("params>10k", {CONV2}),
        ("macs>=100k energy>0.5uJ", {CONV2}),
        ("latency < 0.02 ms", {"stem.conv", "head.fc"}),
        ("sparsity=50%", {CONV2}),
        ("bits<=8", {"head.fc"}),
        ("nothing", set()),
    ],
)
def test_filter(model: LayerModel, query: str, leaves: set[str]) -> None:
    proxy = LayerFilter(model)
    QAbstractItemModelTester(proxy, QAbstractItemModelTester.FailureReportingMode.Fatal, proxy)
    proxy.set_query(parse_query(query))
    assert {name for name in _shown(proxy) if model.row_of(model.layer_index(name)).leaf} == leaves


@pytest.mark.parametrize("query", ["speed>3", "energy>", "energy>3kg", "macs>many"])
def test_a_comparison_that_cannot_be_read_is_named(query: str) -> None:
    assert parse_query(query).problem


def test_problems_leave_the_rest_standing() -> None:
    query = parse_query("conv energy>lots")
    assert query.words == ("conv",)
    assert query.comparisons == ()


@pytest.mark.parametrize("order", list(Qt.SortOrder))
def test_sorting_is_by_value_and_puts_absent_last(model: LayerModel, order: Qt.SortOrder) -> None:
    proxy = LayerFilter(model)
    proxy.sort(Column.ENERGY, order)
    stem = proxy.mapFromSource(model.layer_index(LayerId("stem")))
    values = [proxy.index(row, Column.ENERGY, stem).data(Role.SORT) for row in range(3)]
    assert values[0] is not None
    assert values[1:] == [None, None]
    proxy.sort(-1)
    assert _shown(proxy) == [row.layer.id for row in model.rows()]


def test_measured_layers_whose_intervals_overlap_have_no_order(
    model: LayerModel, pruned: Snapshot
) -> None:
    def measured(state: ModelState, *values: Quantity) -> ModelState:
        layers = {layer: {"": one} for layer, one in zip((CONV1, CONV2), values, strict=True)}
        series = Series(METRICS["measured_energy"], Quantity(1.0), layers)
        return replace(state, table=state.table.with_series(series))

    base = measured(pruned.base, Quantity(5e-3, 4e-3, 6e-3), Quantity(5e-3, 4e-3, 6e-3))
    now = measured(pruned.current, Quantity(4e-3, 3e-3, 4.5e-3), Quantity(2e-3, 1e-3, 3e-3))
    model.set_snapshot(shown := replace(pruned, base=base, current=now))
    tips = [
        str(model.layer_index(layer, Column.MEASURED_ENERGY).data(Qt.ItemDataRole.ToolTipRole))
        for layer in (CONV1, CONV2)
    ]
    assert "no order" in tips[0]
    assert "▼" not in tips[0]
    assert "▼ 60 %" in tips[1]
    bars = metric_bars(shown, "measured_energy", ordered=False)
    assert bars is not None
    assert [bars.layers[place] for place in bars.tied] == [CONV1]
