"""Layers that an edit changes: grouped, unfolded, pointed at in the tree, copied."""

from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from engine import ConsentNeeded, Effect, LayerEffect, LayerId, PruneChannels
from gui.models.effect_rows import as_table, effect_rows
from gui.selection import Selection
from gui.theme import Theme
from gui.views.effect_layers import EffectLayers
from gui.views.effect_view import EffectView
from gui.views.fact_rows import FactRows
from gui.views.layer_tree import LayerTreeView

EDIT = PruneChannels((LayerId("chosen"),), 0.3)


def _effects(count: int) -> list[LayerEffect]:
    """Every third layer shrinks on its input, the others alike on their output."""
    sides: list[Any] = ["input channels", "output channels", "output channels"]
    return [
        LayerEffect(LayerId(f"layer{i}.<b>"), "coupled", sides[i % 3], 64, 45) for i in range(count)
    ]


def test_few_layers_are_listed_one_by_one() -> None:
    rows = effect_rows(_effects(3))
    assert [row.name for row in rows] == ["layer0.<b>", "layer1.<b>", "layer2.<b>"]
    assert not any(row.below for row in rows)


def test_many_layers_that_change_alike_share_a_row() -> None:
    other = LayerEffect(LayerId("odd"), "coupled", "output channels", 7, 3)
    rows = effect_rows([*_effects(60), other])
    assert [(row.name, row.value, row.quantity) for row in rows] == [
        ("20 layers", "64 → 45", "input channels"),
        ("40 layers", "64 → 45", "output channels"),
        ("odd", "7 → 3", "output channels"),
    ]
    assert len(rows[1].below) == len(rows[1].layers) == 40
    assert len(as_table(rows)) == 61


@pytest.fixture
def layers(qtbot: QtBot, selection: Selection) -> EffectLayers:
    layers = EffectLayers("effectCoupled", selection)
    qtbot.addWidget(layers)
    layers.resize(320, 400)
    layers.show()
    layers.show_rows("Also shrinks", effect_rows(_effects(60)))
    return layers


def test_a_group_unfolds_and_the_list_grows(layers: EffectLayers) -> None:
    low = layers.sizeHint().height()
    item: Any = layers.tree.topLevelItem(0)
    layers.tree.itemClicked.emit(item, 0)
    assert item.isExpanded()
    assert layers.sizeHint().height() > low + 19 * 10
    layers.show_rows("Also shrinks", effect_rows(_effects(57)))  # the slider went on
    again: Any = layers.tree.topLevelItem(0)
    assert again.text(0) == "19 layers"
    assert again.isExpanded()
    layers.tree.itemClicked.emit(again, 0)
    assert not again.isExpanded()


def test_a_row_points_at_its_layers(
    qtbot: QtBot, layers: EffectLayers, selection: Selection
) -> None:
    item: Any = layers.tree.topLevelItem(1)
    with qtbot.waitSignal(selection.pointed) as pointed:
        layers.tree.itemEntered.emit(item, 0)
    assert len(pointed.args[0]) == 40
    assert pointed.args[1] is False
    with qtbot.waitSignal(selection.pointed) as pointed:
        layers.tree.setCurrentItem(item)
    assert pointed.args[1] is True
    assert not selection.layers  # pointing selects nothing: the draft stays


def test_a_double_click_selects_the_layer(layers: EffectLayers, selection: Selection) -> None:
    group: Any = layers.tree.topLevelItem(0)
    layers.tree.itemDoubleClicked.emit(group, 0)
    assert not selection.layers
    layers.tree.itemDoubleClicked.emit(group.child(1), 0)
    assert selection.layers == ("layer3.<b>",)


def test_all_layers_are_copied(layers: EffectLayers) -> None:
    layers.copy()
    lines = QGuiApplication.clipboard().text().splitlines()
    assert lines[0] == "Layer\tChange\tQuantity"
    assert len(lines) == 61
    assert lines[1] == "layer0.<b>\t64 → 45\tinput channels"


def test_names_are_no_markup(layers: EffectLayers) -> None:
    group: Any = layers.tree.topLevelItem(0)
    assert "&lt;b&gt;" in group.toolTip(0)


def test_the_tree_marks_what_is_pointed_at(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme
) -> None:
    view = LayerTreeView(fake_document, selection, theme)
    qtbot.addWidget(view)
    view.resize(700, 400)
    view.show()
    plain = view.tree.viewport().grab().toImage()
    selection.point([LayerId("head.fc")], reveal=True)
    assert view.tree.viewport().grab().toImage() != plain
    assert not selection.layers
    selection.point([LayerId("gone")], reveal=True)
    selection.point(())
    assert view.tree.viewport().grab().toImage() == plain


# The whole answer


@pytest.fixture
def view(qtbot: QtBot, theme: Theme, selection: Selection) -> EffectView:
    view = EffectView(theme, selection, QWidget())
    qtbot.addWidget(view)
    view.show()
    return view


def _label(view: QWidget, name: str) -> Any:
    return view.findChild(QLabel, name)


def test_chosen_and_coupled_layers_and_notes(view: EffectView) -> None:
    chosen = LayerEffect(LayerId("chosen"), "chosen", "output channels", 64, 45)
    folded = LayerEffect(LayerId("bn"), "folded", "weight bits", 32, 8)
    view.show_effect(Effect(EDIT, (chosen, *_effects(60), folded), {}, {}, ("A note.",)), "More.")
    assert _label(view, "effectChosenTitle").text() == "Changes"
    assert _label(view, "effectCoupledTitle").text() == "Also shrinks, coupled to that: 60 layers"
    assert _label(view, "effectNotes").text() == "A note.\nFolds in bn.\nMore."
    view.clear()
    assert not _label(view, "effectNotes").isVisible()


def test_totals_that_stay_share_a_row(view: EffectView) -> None:
    before = {"parameters": 100.0, "macs": 10.0, "energy": 1e-6, "size": 400.0}
    view.show_effect(Effect(EDIT, (), before, {**before, "energy": 5e-7}))
    totals: Any = view.findChild(FactRows, "effectTotals")
    assert [(one.name, one.value, one.remark) for one in totals.facts] == [
        ("Energy", "1.00 µJ → 500 nJ", "▼ 50 %"),
        ("Parameters, MACs, Size", "", "unchanged"),
    ]


def test_what_the_bars_show_is_not_said_twice(view: EffectView) -> None:
    told = LayerEffect(LayerId("chosen"), "chosen", "output channels", 6, 4, (1, 5))
    view.show_effect(Effect(EDIT, (told,), {}, {}))
    assert not _label(view, "effectChosenTitle").isVisible()


def test_code_that_may_not_run_can_be_reviewed(qtbot: QtBot, view: EffectView) -> None:
    review: Any = view.findChild(QPushButton, "reviewCode")
    view.show_error(ConsentNeeded("It would run own.py.", details={"digest": "ab", "runs": []}))
    assert review.isVisible()
    with qtbot.waitSignal(view.review_wanted):
        qtbot.mouseClick(review, Qt.MouseButton.LeftButton)
    view.show_effect(Effect(EDIT, (), {}, {}))
    assert not review.isVisible()
