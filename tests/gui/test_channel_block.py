"""Channels as bars: what goes by an amount, what the hand picks, by mouse and keyboard."""

from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QComboBox, QDoubleSpinBox, QLabel, QPushButton, QToolButton
from pytestqt.qtbot import QtBot

from engine import (
    ChannelScores,
    Effect,
    EngineError,
    LayerEffect,
    LayerId,
    PruneChannels,
    PruneHeads,
    Snapshot,
)
from gui.selection import Selection
from gui.theme import Theme
from gui.views.channel_bars import ChannelBars
from gui.views.channel_block import ChannelBlock
from gui.views.edit_panel import EditPanel

CONV1, CONV2 = LayerId("stage1.block0.conv1"), LayerId("stage1.block0.conv2")
SCORES = (0.5, 0.1, 0.9, 0.3, 0.7, 0.2)


def _scores(edit: PruneChannels) -> ChannelScores:
    return ChannelScores(SCORES, tuple(range(len(SCORES))))


@pytest.fixture
def block(qtbot: QtBot, fake_document: Any, theme: Theme) -> ChannelBlock:
    fake_document.scores = _scores
    block = ChannelBlock(fake_document, theme)
    qtbot.addWidget(block)
    block.resize(300, 120)
    block.show()
    block.show_layer(PruneChannels((CONV1,), 0.3), 6)
    return block


def _bar(bars: ChannelBars, place: int) -> QPoint:
    return QPoint(bars.center_of(place), bars.height() // 2)


def _click(qtbot: QtBot, bars: ChannelBars, place: int, shift: bool = False) -> None:
    modifier = Qt.KeyboardModifier.ShiftModifier if shift else Qt.KeyboardModifier.NoModifier
    qtbot.mouseClick(bars, Qt.MouseButton.LeftButton, modifier, _bar(bars, place))


def _title(block: ChannelBlock) -> str:
    label: Any = block.findChild(QLabel, "channelTitle")
    return str(label.text())


def _order(block: ChannelBlock, ranked: bool) -> None:
    combo: Any = block.findChild(QComboBox, "channelOrder")
    combo.setCurrentIndex(combo.findData(ranked))


def test_bars_stand_in_order_of_importance_or_of_the_layer(block: ChannelBlock) -> None:
    assert block.bars.order == (1, 5, 3, 0, 4, 2)
    _order(block, ranked=False)
    assert block.bars.order == (0, 1, 2, 3, 4, 5)


def test_what_an_amount_would_remove_is_marked(block: ChannelBlock) -> None:
    block.show_gone((1, 5), 6)
    assert block.bars.gone == {1, 5}
    assert _title(block) == "2 of 6 channels go"
    assert "goes" in block.bars.text_of(5)
    assert "rank 5 of 6" in block.bars.text_of(5)


def test_a_click_starts_from_what_is_marked(qtbot: QtBot, block: ChannelBlock) -> None:
    block.show_gone((1, 5), 6)
    with qtbot.waitSignal(block.picked) as picked:
        _click(qtbot, block.bars, 5)
    assert picked.args == [(1, 2, 5)]
    _click(qtbot, block.bars, 0)  # the least important one stays after all
    assert block.bars.gone == {2, 5}
    block.show_gone((0,), 6)  # the amount says nothing any more
    assert block.bars.gone == {2, 5}


def test_shift_and_dragging_mark_runs(qtbot: QtBot, block: ChannelBlock) -> None:
    _order(block, ranked=False)
    _click(qtbot, block.bars, 1)
    _click(qtbot, block.bars, 3, shift=True)
    assert block.bars.gone == {1, 2, 3}
    qtbot.mousePress(block.bars, Qt.MouseButton.LeftButton, pos=_bar(block.bars, 2))
    qtbot.mouseMove(block.bars, _bar(block.bars, 5))
    qtbot.mouseRelease(block.bars, Qt.MouseButton.LeftButton, pos=_bar(block.bars, 5))
    assert block.bars.gone == {1}


def test_the_keyboard_does_all_that_the_mouse_does(qtbot: QtBot, block: ChannelBlock) -> None:
    _order(block, ranked=False)
    bars = block.bars
    bars.setFocus()
    for key in (Qt.Key.Key_Right, Qt.Key.Key_Space):
        qtbot.keyClick(bars, key)
    assert bars.gone == {1}
    assert bars.accessibleDescription().startswith("Channel 1")
    for _ in range(2):
        qtbot.keyClick(bars, Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier)
    assert bars.gone == {1, 2, 3}
    qtbot.keyClick(bars, Qt.Key.Key_End)
    qtbot.keyClick(bars, Qt.Key.Key_Right)  # there is nothing beyond
    qtbot.keyClick(bars, Qt.Key.Key_Space)
    qtbot.keyClick(bars, Qt.Key.Key_Home)
    qtbot.keyClick(bars, Qt.Key.Key_Left)
    qtbot.keyClick(bars, Qt.Key.Key_Space)
    assert bars.gone == {0, 1, 2, 3, 5}
    assert bars.accessibleName() == "Channel: 6, 5 of them go"


def test_channels_of_a_unit_go_together(qtbot: QtBot, block: ChannelBlock) -> None:
    units = (0, 0, 1, 1, 2, -1)
    block.bars.show_scores(units, SCORES, ranked=False)
    _click(qtbot, block.bars, 3)
    assert block.bars.gone == {2, 3}
    assert "goes with 1 others" in block.bars.text_of(2)
    _click(qtbot, block.bars, 5)
    assert block.bars.gone == {2, 3}
    assert "cannot go" in block.bars.text_of(5)


def test_the_hand_can_be_taken_back(qtbot: QtBot, block: ChannelBlock) -> None:
    by_hand: Any = block.findChild(QToolButton, "byHand")
    block.show_gone((1,), 6)
    with qtbot.waitSignal(block.picked) as picked:
        by_hand.click()
    assert picked.args == [(1,)]
    with qtbot.waitSignal(block.picked) as picked:
        by_hand.click()
    assert picked.args == [None]


def test_scores_are_asked_for_once_a_criterion(block: ChannelBlock, fake_document: Any) -> None:
    def asked() -> list[Any]:
        return [edit for call, edit in fake_document.calls if call == "preview_scores"]

    assert len(asked()) == 1
    block.show_layer(PruneChannels((CONV1,), 0.7, multiple=4), 6)
    assert len(asked()) == 1
    block.show_layer(PruneChannels((CONV1,), 0.7, "l1"), 6)
    assert [edit.criterion for edit in asked()] == ["l2", "l1"]
    block.show_layer(PruneChannels((CONV1,), 0.7, "random"), 6)
    assert len(asked()) == 2  # chance has no importance to show
    assert block.bars.order == (0, 1, 2, 3, 4, 5)


def test_without_scores_it_says_why_and_channels_can_be_picked(
    qtbot: QtBot, fake_document: Any, block: ChannelBlock
) -> None:
    fake_document.scores = lambda edit: EngineError("No <b>data</b> are chosen.", "Choose some.")
    block.show_layer(PruneChannels((CONV1,), 0.3, "taylor"), 6)
    problem: Any = block.findChild(QLabel, "channelProblem")
    assert problem.isVisible()
    assert problem.text() == "No importance to show: No <b>data</b> are chosen. Choose some."
    _click(qtbot, block.bars, 2)
    assert block.bars.gone == {2}
    fake_document.scores = _scores
    block.show_layer(PruneChannels((CONV1,), 0.3, "l1"), 6)
    assert not problem.isVisible()


def test_another_layer_starts_afresh(block: ChannelBlock, fake_document: Any) -> None:
    fake_document.scores = None
    block.show_gone((1, 5), 6)
    block.show_layer(PruneChannels((CONV2,), 0.3), 4)
    assert block.bars.count == 4
    assert not block.bars.gone
    block.show_layer(None, None)
    assert not block.isVisible()


def test_heads_are_bars_as_well(block: ChannelBlock, fake_document: Any) -> None:
    fake_document.scores = None  # they are yet to come
    block.show_layer(PruneHeads((CONV1,), 0.25), None)
    block.show_gone((3,), 12)
    assert block.bars.count == 12
    assert _title(block) == "1 of 12 heads go"
    assert block.bars.text_of(3) == "Head 3 · goes"
    block.show_layer(PruneChannels((CONV2,), 0.25), 4)
    assert _title(block) == "0 of 4 channels go"
    block.show_layer(PruneHeads((CONV2,), 0.25), None)
    fake_document.scores = _scores
    block.show_layer(PruneHeads((CONV1,), 0.25), None)
    assert block.bars.order == (1, 5, 3, 0, 4, 2)


def test_thousands_of_channels_scroll(qtbot: QtBot, fake_document: Any, theme: Theme) -> None:
    many = tuple(float(place % 97) for place in range(2048))
    fake_document.scores = lambda edit: ChannelScores(many, tuple(range(2048)))
    block = ChannelBlock(fake_document, theme)
    qtbot.addWidget(block)
    block.resize(300, 140)
    block.show()
    block.show_layer(PruneChannels((CONV1,), 0.3), 2048)
    bars = block.bars
    assert bars.minimumWidth() > 2048 * 4
    bars.setFocus()
    qtbot.keyClick(bars, Qt.Key.Key_End)
    assert not bars.visibleRegion().boundingRect().contains(_bar(bars, 0))
    assert bars.visibleRegion().boundingRect().contains(_bar(bars, 2047))
    assert not block.grab().isNull()


# In the panel


@pytest.fixture
def panel(qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme) -> EditPanel:
    def effect(edit: Any) -> Effect:
        removed = getattr(edit, "channels", ()) or (1, 5)
        told = LayerEffect(CONV1, "chosen", "output channels", 6, 6 - len(removed), removed)
        return Effect(edit, (told,), {}, {})

    fake_document.scores = _scores
    fake_document.answer = effect
    panel = EditPanel(fake_document, selection, theme)
    qtbot.addWidget(panel)
    panel.resize(340, 600)
    panel.show()
    return panel


def _bars(panel: EditPanel) -> ChannelBars:
    bars = panel.findChild(ChannelBars)
    assert bars is not None
    return bars


def test_picked_channels_are_applied(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    selection.set([CONV1])
    bars = _bars(panel)
    qtbot.waitUntil(lambda: bars.gone == {1, 5})
    _click(qtbot, bars, 5)
    amount: Any = panel.form.findChild(QDoubleSpinBox, "ratio")
    assert not amount.isVisible()
    assert panel.edit == PruneChannels((CONV1,), 0.3, channels=(1, 2, 5))
    apply: Any = panel.findChild(QPushButton, "applyEdit")
    qtbot.waitUntil(lambda: ("preview", panel.edit) in fake_document.calls)
    apply.click()
    assert ("apply", PruneChannels((CONV1,), 0.3, channels=(1, 2, 5))) in fake_document.calls


def test_escape_gives_the_amount_its_say_again(
    qtbot: QtBot, panel: EditPanel, selection: Selection
) -> None:
    selection.set([CONV1])
    bars = _bars(panel)
    qtbot.waitUntil(lambda: bars.gone == {1, 5})
    _click(qtbot, bars, 5)
    qtbot.keyClick(bars, Qt.Key.Key_Escape)
    assert panel.edit == PruneChannels((CONV1,), 0.3)


def test_nothing_picked_is_no_edit(qtbot: QtBot, panel: EditPanel, selection: Selection) -> None:
    selection.set([CONV1])
    bars = _bars(panel)
    qtbot.waitUntil(lambda: bars.gone == {1, 5})
    for place in (0, 1):
        _click(qtbot, bars, place)
    assert not bars.gone
    assert panel.edit is None
    hint: Any = panel.findChild(QLabel, "editHint")
    assert hint.text() == "Pick what shall go, or let the amount decide."


def test_picks_do_not_outlive_their_layer(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any, pruned: Snapshot
) -> None:
    selection.set([CONV1])
    bars = _bars(panel)
    qtbot.waitUntil(lambda: bars.gone == {1, 5})
    _click(qtbot, bars, 5)
    selection.set([CONV2])
    assert panel.edit == PruneChannels((CONV2,), 0.3)
    selection.set([CONV1])
    _click(qtbot, bars, 5)
    state = replace(pruned.current, id="narrower")
    fake_document.show(replace(pruned, current=state))  # it was applied, say
    assert panel.edit == PruneChannels((CONV1,), 0.3)


def test_a_refusal_is_said_once(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    refusal = EngineError("The channels of it cannot be removed.", "Prune others.")
    fake_document.scores = fake_document.answer = lambda edit: refusal
    selection.set([CONV2])
    error: Any = panel.findChild(QLabel, "effectError")
    qtbot.waitUntil(lambda: "cannot be removed" in error.text())
    problem: Any = panel.findChild(QLabel, "channelProblem")
    assert not problem.isVisible()


def test_several_layers_have_no_bars(panel: EditPanel, selection: Selection) -> None:
    selection.set([CONV1, CONV2])
    block = panel.findChild(ChannelBlock)
    assert block is not None
    assert not block.isVisible()
    selection.set([CONV1])
    assert block.isVisible()
    panel.choose_method("prune-weights")
    assert not block.isVisible()
