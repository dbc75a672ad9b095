"""The histogram of a layer's input under its grid: the numbers, the words, and the block."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import QPointF
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QComboBox, QLabel, QPushButton
from pytestqt.qtbot import QtBot

from engine import ActivationRange, DataInfo, EngineError, LayerId, LayerTree, Quantize, Snapshot
from engine.edits import InputGrid
from gui.models.activation_histogram import (
    bars,
    bin_text,
    clipped,
    decades,
    grid_span,
    grid_text,
    height_range,
    heights,
    seen_text,
    steps,
    table,
    value_range,
)
from gui.selection import Selection
from gui.theme import Theme
from gui.views.edit_panel import EditPanel
from gui.views.range_block import RangeBlock

CONV1, CONV2 = LayerId("stage1.block0.conv1"), LayerId("stage1.block0.conv2")
FC = LayerId("head.fc")
# Of 0 to 8 in bins of one; the grid goes from 0 to 6.375.
SEEN = ActivationRange(
    CONV1, 0, "input", 0.0, 8.0, 0.0, 8.0, (1000, 100, 100, 10, 10, 1, 0, 1),
    InputGrid(8, 0.025, -128), 256,
)  # fmt: skip


def test_the_grid_ends_where_its_integers_do() -> None:
    assert grid_span(SEEN) == pytest.approx((0.0, 255 * 0.025))
    symmetric = replace(SEEN, grid=InputGrid(8, 0.5, 0, symmetric=True))
    assert grid_span(symmetric) == (-64.0, 63.5)
    assert grid_span(replace(SEEN, grid=None)) is None
    assert grid_span(replace(SEEN, grid=InputGrid())) is None  # dynamic: each sample has its own


def test_what_lies_beyond_the_grid_is_clipped() -> None:
    assert clipped(SEEN) == pytest.approx(1 / 1222)  # 6.5 and 7.5 lie beyond; one value is there
    assert clipped(replace(SEEN, grid=None)) == 0
    assert clipped(replace(SEEN, counts=(0,) * 8)) == 0


def test_neighbours_share_a_bar_where_room_lacks() -> None:
    assert bars(SEEN, 100).counts == SEEN.counts
    few = bars(SEEN, 3)
    assert few.counts == (1200, 21, 1)
    assert few.edges == (0.0, 3.0, 6.0, 8.0)
    assert sum(few.counts) == sum(SEEN.counts)


def test_the_axis_of_counts_is_logarithmic_and_shows_a_single_value() -> None:
    floor, top = height_range(SEEN.counts)
    assert floor < 0 < 3 < top < 4
    assert heights((1000, 1, 0)) == [3.0, 0.0, floor]
    assert decades(SEEN.counts) == [0, 1, 2, 3]
    assert decades((0,)) == [0]


def test_both_the_values_and_the_grid_are_in_view() -> None:
    low, high = value_range(replace(SEEN, grid=InputGrid(8, 0.5, 0)))
    assert low < -64
    assert high > 63.5
    low, high = value_range(SEEN)
    assert low < 0
    assert 8 < high < 9


def test_steps_thin_out_and_keep_zero() -> None:
    every, places = steps(SEEN, 256)
    assert (every, len(places)) == (1, 256)
    every, places = steps(SEEN, 100)
    assert every == 4
    assert places[0] == 0
    assert places[1] == pytest.approx(0.1)
    odd = replace(SEEN, grid=InputGrid(8, 0.025, -100))
    every, places = steps(odd, 20)
    assert every == 16
    assert min(map(abs, places)) == 0
    assert min(places) >= grid_span(odd)[0]  # type: ignore[index]
    assert steps(replace(SEEN, grid=None), 20) == (1, [])


def test_words() -> None:
    assert seen_text(SEEN) == "0 to 8 in 256 samples"
    assert grid_text(SEEN) == "int8: 0 to 6.38, scale 0.025, zero point −128; 0.08 % clipped"
    assert grid_text(replace(SEEN, grid=None)) == "stays in float"
    assert "grid of its own" in grid_text(replace(SEEN, grid=InputGrid(16)))
    shown = bars(SEEN, 8)
    assert bin_text(SEEN, shown, 0.5) == "0 to 1: 1 000 values → −128 to −88"
    assert bin_text(SEEN, shown, 7.5) == "7 to 8: 1 values, clipped"
    assert bin_text(SEEN, shown, 9.0) == ""
    assert bin_text(replace(SEEN, grid=None), shown, 0.5) == "0 to 1: 1 000 values"


def test_the_table_has_every_bin() -> None:
    header, *rows = table(SEEN)
    assert header == ["from", "to", "values", "within the grid"]
    assert rows[0] == [0.0, 1.0, 1000, 1]
    assert rows[-1] == [7.0, 8.0, 1, 0]
    assert table(replace(SEEN, grid=None))[1][-1] is None


@pytest.fixture
def small(pruned: Snapshot) -> Snapshot:
    """The edited model with a data set on which calibration takes no time."""
    return replace(pruned, data=DataInfo("digits", 1000, 450))


@pytest.fixture
def block(qtbot: QtBot, fake_document: Any, theme: Theme, small: Snapshot) -> Iterator[RangeBlock]:
    fake_document.snapshot = small
    block = RangeBlock(fake_document, theme)
    qtbot.addWidget(block)
    block.resize(340, 260)
    yield block
    block.show_layer(None, None)  # it may still wait for an answer


def _asked(document: Any) -> list[Any]:
    return [argument for call, argument in document.calls if call == "preview_ranges"]


def _label(block: Any, name: str) -> QLabel:
    return block.findChild(QLabel, name)  # type: ignore[no-any-return]


def test_it_asks_by_itself_and_shows_the_answer(block: RangeBlock, fake_document: Any) -> None:
    block.show_layer(CONV1, Quantize((CONV1,)))
    assert _asked(fake_document) == [(CONV1, Quantize((CONV1,)))]
    fake_document.ranging((SEEN,))
    assert block.isVisible()
    assert block.plot.shown is not None
    assert sum(block.plot.shown.counts) == sum(SEEN.counts)
    assert _label(block, "rangeTitle").text() == "Input: 0 to 8 in 256 samples"
    assert "zero point −128" in _label(block, "rangeWords").text()
    box = block.plot.getViewBox()
    block.plot._on_moved(box.mapViewToScene(QPointF(0.1, 0.5)))
    assert "values →" in _label(block, "rangeTitle").text()
    assert not block.grab().isNull()


def test_weights_do_not_ask_again_but_grids_do(block: RangeBlock, fake_document: Any) -> None:
    edit = Quantize((CONV1,))
    block.show_layer(CONV1, edit)
    block.show_layer(CONV1, replace(edit, weight_bits=4, rounding="gptq"))
    assert len(_asked(fake_document)) == 1
    block.show_layer(CONV1, replace(edit, observer="min-max"))
    assert len(_asked(fake_document)) == 2
    block.show_layer(CONV1, None)
    assert len(_asked(fake_document)) == 3


def test_operands_can_be_chosen_among(block: RangeBlock, fake_document: Any) -> None:
    other = replace(SEEN, operand=1, name="add, 2nd operand", most=4.0)
    block.show_layer(CONV1, Quantize((CONV1,)))
    fake_document.ranging((replace(SEEN, name="add, 1st operand"), other))
    choice: Any = block.findChild(QComboBox, "rangeOperand")
    assert choice.isVisible()
    choice.setCurrentIndex(1)
    assert _label(block, "rangeTitle").text() == "0 to 4 in 256 samples"


def test_a_long_calibration_is_offered_and_can_be_stopped(
    qtbot: QtBot, block: RangeBlock, fake_document: Any, small: Snapshot
) -> None:
    edit = replace(Quantize((CONV1,)), calibration_samples=10_000_000)
    block.show_layer(CONV1, edit)
    button: Any = block.findChild(QPushButton, "rangeCalibrate")
    assert not _asked(fake_document)
    assert button.isVisible()
    button.click()
    assert len(_asked(fake_document)) == 1
    stop: Any = block.findChild(QPushButton, "rangeStop")
    qtbot.waitUntil(stop.isVisible)
    assert _label(block, "rangeBusy").text().startswith("Calibrating")
    stop.click()
    assert ("cancel_preview", "ranges") in fake_document.calls
    assert button.isVisible()
    assert not stop.isVisible()


def test_without_data_and_when_refused_it_says_so(
    block: RangeBlock, fake_document: Any, pruned: Snapshot, small: Snapshot
) -> None:
    fake_document.snapshot = replace(pruned, data=None)
    block.show_layer(CONV1, Quantize((CONV1,)))
    assert _label(block, "rangeWords").text().startswith("Choose data")
    fake_document.snapshot = small
    block.show_layer(CONV1, Quantize((CONV1,)))
    assert _asked(fake_document) == [(CONV1, Quantize((CONV1,)))]  # these data are other ones
    fake_document.snapshot = replace(small, data=DataInfo("others", 1000, 450))
    block.show_layer(CONV1, Quantize((CONV1,)))
    assert len(_asked(fake_document)) == 2
    block.show_layer(CONV2, Quantize((CONV2,)))
    fake_document.ranging(EngineError("It reads <NaN>.", "Look at the data."))
    assert _label(block, "rangeWords").text() == "It reads <NaN>. Look at the data."
    assert block.plot.shown is None


def test_its_menu_copies_the_numbers(block: RangeBlock, fake_document: Any) -> None:
    block.show_layer(CONV1, Quantize((CONV1,)))
    fake_document.ranging((SEEN,))
    menu = block.make_menu()
    next(one for one in menu.actions() if one.text() == "Copy as CSV").trigger()
    lines = QGuiApplication.clipboard().text().splitlines()
    assert lines[0] == "from,to,values,within the grid"
    assert len(lines) == 9
    menu.close()


def test_the_panel_shows_it_for_one_layer_to_be_rounded(
    qtbot: QtBot, fake_document: Any, theme: Theme, small: Snapshot
) -> None:
    layers = [replace(one, methods=()) if one.id == FC else one for one in small.current.tree]
    rounded = replace(small.current, tree=LayerTree(layers))
    fake_document.snapshot = replace(small, current=rounded)
    selection = Selection()
    panel = EditPanel(fake_document, selection, theme)
    qtbot.addWidget(panel)
    panel.show()
    block: Any = panel.findChild(RangeBlock)
    selection.set([CONV1])
    assert not block.isVisible()
    panel.choose_method("quantize")
    assert block.isVisible()
    panel.form.set_values({**panel.form.values, "activations": "none"})
    assert not block.isVisible()
    panel.form.set_values({**panel.form.values, "activations": "static"})
    selection.set([CONV1, CONV2])
    assert not block.isVisible()
    selection.set([FC])  # it lies on a grid of its own already
    assert block.isVisible()
    assert _asked(fake_document)[-1] == (FC, None)
    block.show_layer(None, None)
