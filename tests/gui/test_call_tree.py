"""The tree of Python calls: what it shows, that branches come when they are unfolded."""

from pathlib import Path

import pytest
from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import QFileDialog, QToolButton, QTreeView
from pytestqt.qtbot import QtBot

from engine import CallNode, CallProfile
from gui import format as fmt
from gui.models.call_model import CallColumn, CallModel
from gui.models.cells import CellRole
from gui.theme import Theme
from gui.views.call_tree import CallTree


@pytest.fixture
def model(call_profile: CallProfile) -> CallModel:
    model = CallModel()
    model.set_profile(call_profile)
    return model


@pytest.fixture
def view(qtbot: QtBot, theme: Theme, call_profile: CallProfile) -> CallTree:
    view = CallTree(theme)
    qtbot.addWidget(view)
    view.resize(800, 300)
    view.show_profile(call_profile)
    view.show()
    return view


def _text(index: QModelIndex, column: CallColumn) -> str:
    return str(index.siblingAtColumn(column).data())


def test_the_model_keeps_the_rules(call_profile: CallProfile) -> None:
    model = CallModel()
    tester = QAbstractItemModelTester(model)
    model.set_profile(call_profile)
    index = model.index(0, 0)
    while index.isValid():
        index = model.hottest(index)
    model.set_profile(None)
    assert model.rowCount() == 0
    assert tester.model() is model


def test_branches_are_made_when_they_are_wanted(model: CallModel) -> None:
    root = model.index(0, 0)
    assert model.hasChildren(root)
    assert model.rowCount(root) == 0
    assert model.canFetchMore(root)
    model.fetchMore(root)
    assert model.rowCount(root) == 1
    assert not model.canFetchMore(root)
    model.fetchMore(root)  # a second time changes nothing
    assert model.rowCount(root) == 1


def test_the_most_expensive_call_comes_first(model: CallModel) -> None:
    forward = model.hottest(model.index(0, 0))
    conv = model.hottest(forward)
    assert _text(conv, CallColumn.WHERE) == "nn/conv.py:553"
    assert conv.row() == 0  # although the profile has it second
    assert model.hottest(model.hottest(conv)) == QModelIndex()


def test_cells_read_in_units(model: CallModel) -> None:
    forward = model.hottest(model.index(0, 0))
    texts = [_text(forward, column) for column in CallColumn]
    assert texts == ["forward", "10.0 ms", "100.0 %", "1.00 ms", "3", "a/net.py:12"]
    tip = forward.data(Qt.ItemDataRole.ToolTipRole)
    assert "10.0 ms with all it calls, 1.00 ms of its own" in tip
    assert forward.siblingAtColumn(CallColumn.SHARE).data(CellRole.HEAT) == pytest.approx(1.0)


def test_a_function_in_c_stands_nowhere() -> None:
    assert fmt.place("", 0) == ""


def test_a_run_of_no_time_has_no_shares() -> None:
    model = CallModel()
    model.set_profile(CallProfile(CallNode("passes", "", 0, 0, 0.0, 0.0), 0))
    assert _text(model.index(0, 0), CallColumn.SHARE) == "–"


def test_the_hottest_path_is_unfolded(view: CallTree) -> None:
    current = view.current
    assert _text(current, CallColumn.FUNCTION) == "<built-in method conv2d>"
    tree = view.findChild(QTreeView, "calls")
    assert tree.isExpanded(tree.model().index(0, 0))
    tree.collapseAll()
    view.findChild(QToolButton, "hottestPath").click()
    assert view.current == current


def test_a_click_on_a_header_sorts(view: CallTree) -> None:
    tree = view.findChild(QTreeView, "calls")
    forward = tree.model().index(0, 0, tree.model().index(0, 0))
    tree.sortByColumn(CallColumn.OWN, Qt.SortOrder.DescendingOrder)
    owns = [tree.model().index(row, CallColumn.OWN, forward).data() for row in (0, 1)]
    assert owns == ["2.00 ms", "1.00 ms"]


def test_the_profile_and_its_rows_can_be_taken_away(
    view: CallTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "open", lambda self: None)
    view.findChild(QToolButton, "saveProf").click()
    dialog = view.findChild(QFileDialog)
    dialog.fileSelected.emit(str(tmp_path / "run.prof"))
    assert (tmp_path / "run.prof").read_bytes() == b"statistics"
    dialog.close()
    view.copy()
    lines = QGuiApplication.clipboard().text().splitlines()
    assert lines[0] == "function\ttotal (s)\town (s)\tcalls\twhere"
    assert lines[1] == "<built-in method conv2d>\t0.006\t0.006\t3\t"
    assert len(view.make_menu().actions()) == 4
