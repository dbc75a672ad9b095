"""Families of edits as buttons: what is offered, what is off and why, rows and keyboard."""

from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QLabel, QToolButton
from pytestqt.qtbot import QtBot

from engine import (
    FoldNorms,
    Layer,
    LayerId,
    LayerTree,
    MaskWeights,
    PruneHeads,
    RemoveBlocks,
    Snapshot,
)
from gui.models.targets import outermost, targets
from gui.selection import Selection
from gui.theme import Theme
from gui.views.edit_panel import EditPanel
from gui.views.method_bar import MethodBar

STAGE, BLOCK = LayerId("stage1"), LayerId("stage1.block0")
CONV1, CONV2, FC = (
    LayerId("stage1.block0.conv1"),
    LayerId("stage1.block0.conv2"),
    LayerId("head.fc"),
)
MORE = {
    BLOCK: ("remove-blocks",),
    CONV1: ("prune-channels", "prune-weights", "mask-weights", "prune-by-method", "fold-norms"),
}


@pytest.fixture
def rich(pruned: Snapshot) -> Snapshot:
    """A model with a block, an attention layer with children, and more ways to prune."""
    tree = [replace(layer, methods=MORE.get(layer.id, layer.methods)) for layer in _plain(pruned)]
    attention = LayerId("head.attention")
    tree += [
        Layer(attention, "MultiheadAttention", (1, 8, 64), 0, methods=("prune-heads",)),
        Layer(LayerId("head.attention.out_proj"), "Linear", (1, 8, 64), 4_096),
    ]
    return replace(pruned, current=replace(pruned.current, tree=LayerTree(tree)))


def _plain(snapshot: Snapshot) -> list[Layer]:
    return list(snapshot.current.tree)


def test_containers_are_targets_of_their_own(rich: Snapshot) -> None:
    found = targets(rich, [LayerId("head")])
    assert found.by_method["prune-heads"] == ("head.attention",)
    found = targets(rich, [STAGE])
    assert found.by_method["remove-blocks"] == (BLOCK,)
    assert found.by_method["fold-norms"] == (CONV1,)


def test_a_block_within_a_removed_block_is_not_named() -> None:
    ids = tuple(LayerId(path) for path in ("a", "a.b", "ab", "c.d", "c.d.e"))
    assert outermost(ids) == ("a", "ab", "c.d")


def test_reasons_say_what_to_select_instead(rich: Snapshot) -> None:
    found = targets(rich, [CONV2])
    assert found.reason_against("remove-blocks") == (
        "Select the whole block stage1.block0 to remove it."
    )
    assert "residual block" in targets(rich, [FC]).reason_against("remove-blocks")
    assert "attention" in found.reason_against("prune-heads")
    assert "batch norm" in found.reason_against("fold-norms")
    assert targets(rich, [BLOCK]).reason_against("remove-blocks") == ""


def test_a_removed_block_is_said_to_be_removed(rich: Snapshot) -> None:
    gone = replace(rich.current.tree[CONV2], methods=(), note="removed")
    tree = LayerTree(gone if layer.id == CONV2 else layer for layer in rich.current.tree)
    found = targets(replace(rich, current=replace(rich.current, tree=tree)), [CONV2])
    assert found.reason_against("remove-blocks") == "Not possible: removed."


@pytest.fixture
def bar(qtbot: QtBot) -> MethodBar:
    bar = MethodBar()
    qtbot.addWidget(bar)
    bar.show_families({"channels": "", "weights": "", "fold": "No norm.", "quantize": ""})
    bar.resize(900, 40)
    bar.show()
    return bar


def _button(parent: Any, family: str) -> QToolButton:
    found = parent.findChild(QToolButton, f"family_{family}")
    assert found is not None
    return found


def test_what_no_layer_of_the_model_has_is_not_there(bar: MethodBar) -> None:
    assert not _button(bar, "heads").isVisible()
    assert _button(bar, "fold").isVisible()
    assert not _button(bar, "fold").isEnabled()
    assert "No norm." in _button(bar, "fold").toolTip()
    assert _button(bar, "fold").accessibleDescription() == "No norm."


def test_rows_follow_the_width_and_are_even(bar: MethodBar) -> None:
    layout: Any = bar.layout()

    def rows() -> list[int]:
        layout.activate()
        tops = [_button(bar, one).y() for one in ("channels", "weights", "fold", "quantize")]
        return [sorted(set(tops)).index(top) for top in tops]

    assert rows() == [0, 0, 0, 0]
    wide = max(_button(bar, one).sizeHint().width() for one in ("channels", "quantize"))
    bar.resize(3 * wide + 10, 80)
    assert rows() == [0, 0, 1, 1]
    bar.resize(wide + 2, 200)
    assert rows() == [0, 1, 2, 3]


def test_arrows_go_to_the_next_that_is_on(qtbot: QtBot, bar: MethodBar) -> None:
    with qtbot.waitSignal(bar.chosen) as chosen:
        qtbot.keyClick(_button(bar, "channels"), Qt.Key.Key_Left)
    assert chosen.args == ["quantize"]
    qtbot.keyClick(_button(bar, "quantize"), Qt.Key.Key_Left)
    assert bar.family == "weights"
    qtbot.keyClick(_button(bar, "weights"), Qt.Key.Key_Right)
    assert bar.family == "quantize"


# In the panel


@pytest.fixture
def panel(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme, rich: Snapshot
) -> EditPanel:
    fake_document.snapshot = rich
    panel = EditPanel(fake_document, selection, theme)
    qtbot.addWidget(panel)
    panel.resize(340, 500)
    panel.show()
    return panel


def test_a_selected_block_is_removed(panel: EditPanel, selection: Selection) -> None:
    selection.set([BLOCK])
    _button(panel, "blocks").click()
    assert panel.edit == RemoveBlocks((BLOCK,))
    selection.set([CONV2])
    assert panel.method == "prune-channels"
    assert not _button(panel, "blocks").isEnabled()


def test_attention_has_heads(panel: EditPanel, selection: Selection) -> None:
    selection.set([LayerId("head.attention")])
    assert panel.edit == PruneHeads((LayerId("head.attention"),), 0.25)
    hint: Any = panel.findChild(QLabel, "editHint")
    assert not hint.isVisible()


def test_folding_has_nothing_to_fill_in(panel: EditPanel, selection: Selection) -> None:
    selection.set([CONV1])
    _button(panel, "fold").click()
    assert panel.edit == FoldNorms((CONV1,))


def test_the_ways_to_weights_are_within_weights(
    qtbot: QtBot, panel: EditPanel, selection: Selection
) -> None:
    selection.set([CONV1])
    _button(panel, "weights").click()
    assert panel.method == "prune-weights"
    way: Any = panel.form.findChild(QComboBox, "way")
    way.setCurrentIndex(way.findData("mask-weights"))
    assert panel.method == "mask-weights"
    assert panel.edit is None
    hint: Any = panel.findChild(QLabel, "editHint")
    assert hint.text() == "Choose the file of the mask."
    panel.form.set_values({"path": "/m.npz"})
    assert panel.edit == MaskWeights((CONV1,), "/m.npz")
    _button(panel, "channels").click()
    _button(panel, "weights").click()
    assert panel.method == "mask-weights"  # where the user left it
    selection.set([FC])  # which can only be pruned by a criterion
    assert panel.method == "prune-weights"


def test_spreading_shows_for_several_layers(panel: EditPanel, selection: Selection) -> None:
    selection.set([CONV2])
    spread: Any = panel.form.findChild(QComboBox, "spread")
    assert not spread.isVisible()
    selection.set([CONV1, CONV2])
    assert spread.isVisible()
    spread.setCurrentIndex(spread.findData("energy"))
    edit: Any = panel.edit
    assert edit.spread == "energy"
    selection.set([CONV2])
    edit = panel.edit
    assert edit.spread == "layer"
