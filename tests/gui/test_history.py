"""The history: entries, what is applied, going to a state."""

from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QAbstractItemModelTester
from pytestqt.qtbot import QtBot

from engine import HistoryEntry, LayerId, Part, Quantize, Snapshot
from gui.models.history_model import HistoryModel, HistoryRole
from gui.theme import Theme
from gui.views.history import HistoryView


@pytest.fixture
def longer(pruned: Snapshot) -> Snapshot:
    """One edit applied, one undone."""
    entry = HistoryEntry(Quantize((LayerId("head.fc"),)), pruned.current.table)
    return replace(pruned, history=(*pruned.history, entry))


@pytest.fixture
def model(qapp: object, longer: Snapshot) -> HistoryModel:
    model = HistoryModel()
    QAbstractItemModelTester(model, QAbstractItemModelTester.FailureReportingMode.Fatal, model)
    model.set_snapshot(longer)
    return model


def test_an_accuracy_before_recovery_says_so(longer: Snapshot) -> None:
    pruned, quantized = longer.history
    model = HistoryModel()
    model.set_snapshot(replace(longer, history=(replace(pruned, before_recovery=True), quantized)))
    figures = [model.index(row).data(HistoryRole.FIGURES) for row in range(3)]
    assert ["before recovery" in text for text in figures] == [False, True, False]


@pytest.fixture
def view(qtbot: QtBot, fake_document: Any, longer: Snapshot, theme: Theme) -> HistoryView:
    fake_document.snapshot = longer
    view = HistoryView(fake_document, theme)
    qtbot.addWidget(view)
    view.resize(380, 200)
    view.show()
    return view


def _column(model: HistoryModel, role: int) -> list[Any]:
    return [model.index(row).data(role) for row in range(model.rowCount())]


def test_entries(model: HistoryModel) -> None:
    assert _column(model, Qt.ItemDataRole.DisplayRole) == [
        "Base: digits_net",
        "Prune 50 % of channels of stage1.block0.conv1 (L2)",
        "Quantize head.fc to int8",
    ]
    assert _column(model, HistoryRole.APPLIED) == [True, True, False]
    assert _column(model, HistoryRole.CURRENT) == [False, True, False]
    assert model.current() == 1
    assert "1.44 µJ" in model.index(1).data(HistoryRole.FIGURES)


def test_undo_keeps_the_rows(qtbot: QtBot, model: HistoryModel, longer: Snapshot) -> None:
    with qtbot.assertNotEmitted(model.rowsRemoved), qtbot.waitSignal(model.dataChanged):
        model.set_snapshot(replace(longer, cursor=0, current=longer.base))
    assert _column(model, HistoryRole.CURRENT) == [True, False, False]


def test_a_new_edit_replaces_what_was_undone(model: HistoryModel, pruned: Snapshot) -> None:
    entry = HistoryEntry(Quantize((LayerId("stem.conv"),)), pruned.current.table)
    model.set_snapshot(replace(pruned, history=(*pruned.history, entry), cursor=2))
    assert model.rowCount() == 3
    assert model.index(2).data() == "Quantize stem.conv to int8"
    model.set_snapshot(None)
    assert model.rowCount() == 0


def test_untrained_models_show_no_accuracy(model: HistoryModel, longer: Snapshot) -> None:
    model.set_snapshot(replace(longer, model=replace(longer.model, trained=False)))
    assert model.index(1).data(HistoryRole.FIGURES) == "1.44 µJ"


def test_a_click_goes_there(qtbot: QtBot, view: HistoryView, fake_document: Any) -> None:
    place = view.visualRect(view.model().index(2, 0)).center()
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert fake_document.calls == [("go_to", 2)]


def test_enter_goes_there_as_well(qtbot: QtBot, view: HistoryView, fake_document: Any) -> None:
    qtbot.keyClick(view, Qt.Key.Key_Up)
    qtbot.keyClick(view, Qt.Key.Key_Return)
    assert fake_document.calls == [("go_to", 0)]


def test_the_state_that_is_shown_is_nothing_to_go_to(
    qtbot: QtBot, view: HistoryView, fake_document: Any
) -> None:
    qtbot.keyClick(view, Qt.Key.Key_Return)
    assert fake_document.calls == []


def test_follows_the_document(view: HistoryView, fake_document: Any, base: Snapshot) -> None:
    fake_document.show(base, Part.HISTORY)
    assert view.model().rowCount() == 1
    assert view.currentIndex().row() == 0
    assert not view.grab().isNull()
