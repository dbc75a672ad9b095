"""The tree of layers as people use it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QComboBox, QLabel, QLineEdit, QToolButton
from pytestqt.qtbot import QtBot

from engine import METRICS, LayerId, LayerTree, Part, Quantity, Series, Snapshot
from gui.models.layer_model import Role
from gui.models.layer_rows import Column
from gui.selection import Selection
from gui.theme import Theme
from gui.views.layer_tree import LayerTreeView

CONV1 = LayerId("stage1.block0.conv1")
FC = LayerId("head.fc")


@pytest.fixture
def selection() -> Selection:
    return Selection()


@pytest.fixture
def view(qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme) -> LayerTreeView:
    view = LayerTreeView(fake_document, selection, theme)
    qtbot.addWidget(view)
    view.resize(900, 500)
    view.show()
    return view


def _filter(view: LayerTreeView) -> QLineEdit:
    return view.findChild(QLineEdit, "layerFilter")


def _shown(view: LayerTreeView) -> list[str]:
    tree, found = view.tree, []
    index = tree.indexAt(QPoint(4, 4))
    while index.isValid():
        found.append(index.data(Role.LAYER))
        index = tree.indexBelow(index)
    return found


def _rows_selected(view: LayerTreeView) -> set[str]:
    return {index.data(Role.LAYER) for index in view.tree.selectionModel().selectedRows()}


def _click(qtbot: QtBot, view: LayerTreeView, layer: LayerId) -> None:
    model = view.tree.model()
    found = model.match(model.index(0, 0), Role.LAYER, layer, 1, Qt.MatchFlag.MatchRecursive)
    place = view.tree.visualRect(found[0]).center()
    qtbot.mouseClick(view.tree.viewport(), Qt.MouseButton.LeftButton, pos=place)


def test_a_click_selects_everywhere(
    qtbot: QtBot, view: LayerTreeView, selection: Selection
) -> None:
    _click(qtbot, view, CONV1)
    assert selection.layers == (CONV1,)


def test_selecting_elsewhere_shows_here_without_an_echo(
    qtbot: QtBot, view: LayerTreeView, selection: Selection
) -> None:
    view.tree.collapseAll()
    with qtbot.waitSignals([selection.changed], check_params_cbs=None):
        selection.set([FC, CONV1])
    assert selection.layers == (FC, CONV1)
    assert _rows_selected(view) == {FC, CONV1}


def test_the_filter_leaves_the_selection_alone(view: LayerTreeView, selection: Selection) -> None:
    selection.set([CONV1])
    _filter(view).setText("fc")
    assert _shown(view) == ["", "head", "head.fc"]
    assert selection.layers == (CONV1,)
    _filter(view).clear()
    assert _rows_selected(view) == {CONV1}


def test_clearing_the_filter_folds_as_before(view: LayerTreeView) -> None:
    view.tree.collapseAll()
    view.tree.expandToDepth(0)
    before = _shown(view)
    _filter(view).setText("conv")
    assert len(_shown(view)) > len(before)
    _filter(view).clear()
    assert _shown(view) == before


def test_a_bad_comparison_is_said_in_place(view: LayerTreeView) -> None:
    status = view.findChild(QLabel, "layerStatus")
    _filter(view).setText("speed>3")
    assert "speed" in status.text()
    assert status.isVisible()
    _filter(view).setText("nothing at all")
    assert "No layer" in status.text()
    _filter(view).clear()
    assert not status.isVisible()


def test_an_edit_keeps_what_was_unfolded_and_selected(
    view: LayerTreeView, selection: Selection, fake_document: Any, base: Snapshot
) -> None:
    view.tree.collapseAll()
    selection.set([CONV1])
    before = _shown(view)
    fake_document.show(base, Part.LAYERS | Part.METRICS)
    assert _shown(view) == before
    assert _rows_selected(view) == {CONV1}


def test_another_model_forgets_layers_that_it_lacks(
    view: LayerTreeView,
    selection: Selection,
    fake_document: Any,
    make_large: Callable[[int], Snapshot],
) -> None:
    selection.set([CONV1])
    fake_document.show(make_large(200))
    assert selection.layers == ()
    assert _shown(view)[:2] == ["", "block0"]


def test_copied_rows_are_raw_values_with_units(view: LayerTreeView, selection: Selection) -> None:
    selection.set([CONV1])
    view.copy_rows()
    header, line, _ = QGuiApplication.clipboard().text().split("\n")
    assert header.split("\t")[-1] == "Energy (J)"
    cells = dict(zip(header.split("\t"), line.split("\t"), strict=True))
    assert cells["Layer"] == CONV1
    assert float(cells["MACs"]) == 147_456
    assert cells["Sparsity"] == "0.0"


def test_select_same_kind(view: LayerTreeView, selection: Selection) -> None:
    selection.set([CONV1])
    view.select_same_kind()
    assert selection.layers == ("stem.conv", CONV1, "stage1.block0.conv2")


def test_heat_follows_the_chooser(view: LayerTreeView) -> None:
    assert view.model.heat_column == Column.ENERGY
    combo = view.findChild(QComboBox, "heatColumn")
    combo.setCurrentText("MACs")
    assert view.model.heat_column == Column.MACS
    view.findChild(QToolButton, "heatLogarithmic").click()
    assert view.model.scale is not None
    assert view.model.scale.logarithmic
    combo.setCurrentText("None")
    assert view.model.scale is None


def test_third_click_on_a_header_returns_to_the_models_order(
    qtbot: QtBot, view: LayerTreeView
) -> None:
    before, header = _shown(view), view.tree.header()
    place = QPoint(header.sectionViewportPosition(Column.MACS) + 20, 10)
    orders = []
    for _ in range(3):
        qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=place)
        orders.append(_shown(view))
    assert orders[0].index("stage1.block0.conv2") < orders[0].index(CONV1)
    assert orders[0] != orders[1]
    assert orders[2] == before


def test_names_get_the_room_that_numbers_leave(view: LayerTreeView) -> None:
    widths = sum(view.tree.columnWidth(column) for column in Column)
    assert widths == view.tree.viewport().width()
    view.resize(500, 400)
    assert view.tree.columnWidth(Column.LAYER) >= 150


def test_the_menu_offers_rows_and_folding(view: LayerTreeView, selection: Selection) -> None:
    actions = [action for action in view.make_menu().actions() if action.text()]
    texts = [action.text() for action in actions]
    assert texts == ["Select same kind", "Copy rows", "Expand all", "Collapse all"]
    assert not actions[1].isEnabled()
    selection.set([CONV1])
    assert view.make_menu().actions()[1].isEnabled()


def test_draws_in_both_looks(view: LayerTreeView, theme: Theme, selection: Selection) -> None:
    selection.set([CONV1])
    light = view.grab().toImage()
    theme.set_mode("dark")
    assert view.grab().toImage() != light


def test_memory_has_a_column_once_it_has_been_measured(
    view: LayerTreeView, fake_document: Any, base: Snapshot
) -> None:
    assert view.tree.isColumnHidden(Column.MEMORY)
    layers = {
        LayerId("stage1.block0.conv1"): {"": Quantity(3e6)},
        LayerId("stage1.block0.conv2"): {"": Quantity(5e6)},
        LayerId("stage1.block0"): {"": Quantity(4e6)},
    }
    series = Series(METRICS["memory"], Quantity(5e6), layers)
    state = replace(base.current, table=base.current.table.with_series(series))
    fake_document.show(replace(base, current=state, base=state), Part.METRICS)
    assert not view.tree.isColumnHidden(Column.MEMORY)
    index = view.model.layer_index(LayerId("stage1"), Column.MEMORY)
    assert index.data() == "5.00 MB"  # peaks do not add up
    assert "most of all below" in index.data(Qt.ItemDataRole.ToolTipRole)
    assert view.model.layer_index(LayerId("stem.conv"), Column.MEMORY).data() == "–"
    view.findChild(QLineEdit, "layerFilter").setText("memory>4MB")
    root = view.tree.model().index(0, 0)
    assert view.tree.model().rowCount(root) == 1


def test_measured_energy_has_a_column_once_it_has_been_measured(
    view: LayerTreeView, fake_document: Any, base: Snapshot
) -> None:
    assert view.tree.isColumnHidden(Column.MEASURED_ENERGY)
    layers = {
        LayerId("stage1.block0.conv1"): {"": Quantity(3e-3, 2e-3, 4e-3)},
        LayerId("stage1.block0.conv2"): {"": Quantity(5e-3)},
    }
    series = Series(METRICS["measured_energy"], Quantity(9e-3), layers)
    state = replace(base.current, table=base.current.table.with_series(series))
    fake_document.show(replace(base, current=state, base=state), Part.METRICS)
    assert not view.tree.isColumnHidden(Column.MEASURED_ENERGY)
    assert view.tree.isColumnHidden(Column.MEMORY)
    index = view.model.layer_index(LayerId("stage1"), Column.MEASURED_ENERGY)
    assert index.data() == "8.00 mJ"
    assert "measured" in index.data(Qt.ItemDataRole.ToolTipRole)
    assert view.model.layer_index(LayerId("stem.conv"), Column.MEASURED_ENERGY).data() == "–"
    view.findChild(QLineEdit, "layerFilter").setText("measured_energy>4mJ")
    assert view.tree.model().rowCount(view.tree.model().index(0, 0)) == 1


def test_how_many_layers_are_quantized_is_always_said(
    qtbot: QtBot, view: LayerTreeView, fake_document: Any, base: Snapshot
) -> None:
    count: Any = view.findChild(QLabel, "quantizedCount")
    quantized, of = fake_document.snapshot.current.tree.quantized_count()
    assert quantized == 1
    assert count.isVisible()
    assert count.text() == f"1 of {of} layers quantized"
    changed = {
        CONV1: {"why_float": "its <weights> are looked up"},
        FC: {"weight_bits": 16, "activation_bits": 16},  # cast, and no integers
    }
    layers = [
        replace(one, methods=(), **changed.get(one.id, {}))  # type: ignore[arg-type]
        for one in base.current.tree
    ]
    fake_document.show(replace(base, current=replace(base.current, tree=LayerTree(layers))))
    assert count.text() == "0 of 2 layers quantized"
    assert f"{CONV1}: its &lt;weights&gt; are looked up" in count.toolTip()
