"""Accuracy of a drafted edit: asked for when quick, shown as it comes in, told from chance."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from engine import (
    Comparison,
    DataInfo,
    EngineError,
    LayerId,
    Part,
    PruneChannels,
    Quantity,
    Quantize,
    Snapshot,
)
from gui.models.live_accuracy import accuracy_text, can_compare, explanation, is_quick
from gui.selection import Selection
from gui.theme import Theme
from gui.views.accuracy_block import AccuracyBlock
from gui.views.edit_panel import EditPanel
from gui.views.interval_bar import IntervalBar

CONV1, CONV2 = LayerId("stage1.block0.conv1"), LayerId("stage1.block0.conv2")
EDIT = PruneChannels((CONV1,), 0.3)
BASE = Quantity(0.99, 0.97, 0.998)


def compared(
    value: float = 0.978, p: float | None = 0.031, samples: int = 128, settled: bool = True,
    width: float = 0.014,
) -> Comparison:  # fmt: skip
    accuracy = Quantity(value, value - width, value + width)
    return Comparison(accuracy, BASE, 7, 1, p, samples, 450, settled)


@pytest.fixture
def small(pruned: Snapshot) -> Snapshot:
    """The edited model with a data set that is soon run over."""
    return replace(pruned, data=DataInfo("digits", 1000, 450))


@pytest.fixture
def block(
    qtbot: QtBot, fake_document: Any, theme: Theme, small: Snapshot
) -> Iterator[AccuracyBlock]:
    fake_document.snapshot = small
    block = AccuracyBlock(fake_document, theme)
    qtbot.addWidget(block)
    block.resize(320, 120)
    yield block
    block.clear()  # it may still wait for an answer


def _text(parent: Any, name: str) -> str:
    return str(parent.findChild(QLabel, name).text())


def _asked(document: Any) -> list[Any]:
    return [edit for call, edit in document.calls if call == "preview_accuracy"]


def test_a_comparison_in_words() -> None:
    said = accuracy_text(compared())
    assert said.value == "97.8 % (96.4–99.2)"
    assert said.change == "▼ 1.2 pp"
    assert said.verdict == "worse"
    assert said.ground == "p = 0.031 · 128 of 450 samples were enough"
    so_far = accuracy_text(compared(settled=False))
    assert so_far.ground == "128 of 450 samples"
    assert so_far.verdict == ""  # p, looked at again and again, would find a difference too often
    assert accuracy_text(compared(p=1e-9, samples=450)).ground == "p < 0.001 · 450 samples"


def test_what_may_be_chance_has_no_verdict() -> None:
    said = accuracy_text(compared(p=0.4, samples=450, settled=False))
    assert said.verdict == ""
    assert said.ground.startswith("p = 0.4, may be chance")
    same = replace(compared(0.99, p=1.0), lost=0, gained=0)
    assert accuracy_text(same).change == "unchanged"
    assert "p =" not in accuracy_text(same).ground


def test_a_metric_without_single_samples_goes_by_its_intervals() -> None:
    plain = replace(compared(p=None), lost=None, gained=None)
    assert accuracy_text(plain).verdict == ""  # 97.8 ± 1.4 and 99.0 overlap
    apart = replace(plain, accuracy=Quantity(0.9, 0.88, 0.92))
    assert accuracy_text(apart).verdict == "worse"
    assert "McNemar" not in explanation(plain)
    assert "7 samples that the base has right are lost" in explanation(compared())


def test_a_second_decides_what_goes_without_asking(small: Snapshot) -> None:
    assert can_compare(small)
    assert is_quick(small, EDIT)
    assert not is_quick(replace(small, data=DataInfo("photos", 1, 50_000)), EDIT)
    assert not is_quick(small, Quantize((CONV1,), rounding="adaround"))
    assert not can_compare(replace(small, data=None))
    assert not can_compare(replace(small, model=replace(small.model, trained=False)))
    assert not can_compare(None)


def test_it_is_asked_for_by_itself_and_shown_as_it_comes_in(
    block: AccuracyBlock, fake_document: Any
) -> None:
    block.follow(EDIT)
    assert _asked(fake_document) == [EDIT]
    on_done, on_partial = fake_document.comparing
    on_partial(compared(0.97, None, 64, settled=False, width=0.04))
    assert block.isVisible()
    assert _text(block, "accuracyValue") == "97.0 % (93.0–101.0)"
    on_partial(compared(0.975, 0.2, 96, settled=False, width=0.02))
    assert "96 of 450" in _text(block, "accuracyGround")
    on_done(compared())
    assert _text(block, "accuracyValue") == "97.8 % (96.4–99.2)"
    assert _text(block, "accuracyChange") == "▼ 1.2 pp worse"
    assert not block.grab().isNull()


def test_what_has_to_be_learned_first_is_not_compared(
    block: AccuracyBlock, fake_document: Any
) -> None:
    block.follow(Quantize((CONV1,), rounding="adaround"))
    assert not _asked(fake_document)
    assert not block.isVisible()
    block.follow(Quantize((CONV1,)))
    assert len(_asked(fake_document)) == 1
    assert _text(block, "accuracyTitle") == "Accuracy"  # there is nothing to recover from


def test_the_scale_only_widens(qtbot: QtBot, theme: Theme) -> None:
    bar = IntervalBar(theme)
    qtbot.addWidget(bar)
    bar.show_values(Quantity(0.95, 0.92, 0.98), BASE, "")
    assert bar.floor == 0.9
    bar.show_values(Quantity(0.6, 0.55, 0.65), BASE, "worse")
    assert bar.floor == 0.5
    bar.show_values(Quantity(0.98, 0.97, 0.99), BASE, "")
    assert bar.floor == 0.5
    bar.show_values(Quantity(0.3, None, None), BASE, "worse")
    assert bar.floor == 0.0
    assert not bar.grab().isNull()
    bar.clear()
    assert bar.floor == 0.9


def test_much_data_waits_for_the_button(
    block: AccuracyBlock, fake_document: Any, small: Snapshot
) -> None:
    fake_document.snapshot = replace(small, data=DataInfo("photos", 1, 50_000))
    block.follow(EDIT)
    assert not _asked(fake_document)
    check: Any = block.findChild(QPushButton, "checkAccuracy")
    assert check.isVisible()
    check.click()
    assert _asked(fake_document) == [EDIT]
    assert not check.isVisible()


def test_without_data_nothing_is_said(
    block: AccuracyBlock, fake_document: Any, small: Snapshot
) -> None:
    fake_document.snapshot = replace(small, data=None)
    block.follow(EDIT)
    assert not block.isVisible()
    assert not _asked(fake_document)


def test_why_there_is_none_is_said(block: AccuracyBlock, fake_document: Any) -> None:
    block.follow(EDIT)
    fake_document.comparing[0](EngineError("A sample is <b>broken</b>.", "Skip it."))
    assert _text(block, "accuracyProblem") == "A sample is <b>broken</b>. Skip it."
    block.follow(EDIT)
    fake_document.comparing[0](compared())
    problem: Any = block.findChild(QLabel, "accuracyProblem")
    assert not problem.isVisible()
    block.follow(EDIT)
    fake_document.comparing[0](None)  # it crashed, which is reported elsewhere
    assert not block.isVisible()


def test_waiting_is_said_after_a_while(qtbot: QtBot, block: AccuracyBlock) -> None:
    block.follow(EDIT)
    busy: Any = block.findChild(QLabel, "accuracyBusy")
    assert not busy.isVisible()
    qtbot.waitUntil(busy.isVisible, timeout=3000)
    block.clear()
    assert not busy.isVisible()


# In the panel


@pytest.fixture
def panel(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme, small: Snapshot
) -> EditPanel:
    fake_document.snapshot = small
    panel = EditPanel(fake_document, selection, theme)
    qtbot.addWidget(panel)
    panel.resize(340, 700)
    panel.show()
    return panel


def test_it_follows_the_form(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    selection.set([CONV1])
    qtbot.waitUntil(lambda: bool(_asked(fake_document)))
    fake_document.comparing[0](compared())
    results: Any = panel.findChild(AccuracyBlock).findChild(object, "accuracyResults")
    assert results.isEnabled()
    panel.form.set_values({**panel.form.values, "ratio": 0.6})
    assert not results.isEnabled()  # it is of the earlier amount
    qtbot.waitUntil(lambda: len(_asked(fake_document)) == 2)
    assert _asked(fake_document)[1].ratio == 0.6
    fake_document.comparing[1](compared(0.5, samples=64))
    assert results.isEnabled()


def test_another_model_takes_it_away(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any, base: Snapshot
) -> None:
    selection.set([CONV1])
    qtbot.waitUntil(lambda: bool(_asked(fake_document)))
    fake_document.comparing[0](compared())
    block: Any = panel.findChild(AccuracyBlock)
    assert block.isVisible()
    selection.set([])
    fake_document.show(replace(base, model=replace(base.model, name="second")))
    assert not block.isVisible()


def test_other_data_are_asked_anew(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any, small: Snapshot
) -> None:
    selection.set([CONV1])
    qtbot.waitUntil(lambda: len(_asked(fake_document)) == 1)
    fake_document.show(replace(small, data=DataInfo("letters", 10, 20)), Part.DATA | Part.METRICS)
    qtbot.waitUntil(lambda: len(_asked(fake_document)) == 2)


def test_a_refused_edit_has_no_accuracy(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    fake_document.answer = lambda edit: EngineError("No channel would stay.", "Take less.")
    selection.set([CONV2])
    qtbot.waitUntil(lambda: "No channel" in _text(panel, "effectError"))
    assert not _asked(fake_document)
