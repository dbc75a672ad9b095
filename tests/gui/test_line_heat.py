"""Source lines with their time: what is shown of them, and how they are taken away."""

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import QLabel, QTreeView
from pytestqt.qtbot import QtBot

from engine import LayerId, LineProfile, SourceFunction, SourceLine
from gui.models.cells import CellRole
from gui.models.line_model import LineColumn, LineModel
from gui.theme import Theme
from gui.views.line_heat import LineHeat


@pytest.fixture
def model(line_profile: LineProfile) -> LineModel:
    model = LineModel()
    model.set_profile(line_profile)
    return model


@pytest.fixture
def view(qtbot: QtBot, theme: Theme, line_profile: LineProfile) -> LineHeat:
    view = LineHeat(theme)
    qtbot.addWidget(view)
    view.resize(700, 300)
    view.show_profile(line_profile)
    view.show()
    return view


def _texts(model: LineModel, row: int) -> list[str]:
    forward = model.index(0, 0)
    return [model.index(row, column, forward).data() for column in LineColumn]


def test_the_model_keeps_the_rules(line_profile: LineProfile) -> None:
    model = LineModel()
    tester = QAbstractItemModelTester(model)
    model.set_profile(line_profile)
    model.set_profile(None)
    assert model.rowCount() == 0
    assert tester.model() is model


def test_functions_hold_their_lines(model: LineModel) -> None:
    assert model.rowCount() == 2
    assert model.index(0, 0).data() == "Block.forward   net.py   8.00 ms"
    assert model.rowCount(model.index(0, 0)) == 4
    assert model.rowCount(model.index(1, 0)) == 1
    tip = model.index(0, 0).data(Qt.ItemDataRole.ToolTipRole)
    assert "/home/a/net.py" in tip


def test_lines_read_number_hits_time_and_share(model: LineModel) -> None:
    assert _texts(model, 1) == ["11", "3", "6.00 ms", "75.0 %", "\ty = self.conv(x)"]


def test_what_was_not_timed_shows_no_number(model: LineModel) -> None:
    assert _texts(model, 2) == ["12", "", "", "", "    # nothing"]
    index = model.index(2, LineColumn.SHARE, model.index(0, 0))
    assert index.data(CellRole.HEAT) is None
    assert index.data(CellRole.QUIET)


def test_heat_is_the_share_of_the_function(model: LineModel) -> None:
    index = model.index(1, LineColumn.SHARE, model.index(0, 0))
    assert index.data(CellRole.HEAT) == pytest.approx(0.75)
    tip = index.data(Qt.ItemDataRole.ToolTipRole)
    assert "Line 11: 3 hits, 6.00 ms, 75.0 % of Block.forward" in tip


def test_a_function_of_no_time_has_no_shares() -> None:
    model = LineModel()
    function = SourceFunction("f", "f.py", (SourceLine(1, "pass", 1, 0.0),), 0.0)
    model.set_profile(LineProfile(LayerId(""), (function,), 1))
    assert _texts(model, 0)[LineColumn.SHARE] == ""


def test_the_slowest_line_is_shown(view: LineHeat) -> None:
    lines = view.findChild(QTreeView, "lines")
    assert lines.currentIndex().siblingAtColumn(LineColumn.SOURCE).data() == "\ty = self.conv(x)"
    caption = view.findChild(QLabel, "lineCaption").text()
    assert caption == "stage1.block0 · 3 runs · times are of all runs"


def test_source_reaches_the_edge_and_scrolls_when_longer(
    view: LineHeat, line_profile: LineProfile
) -> None:
    lines = view.findChild(QTreeView, "lines")
    ends = lines.header().sectionPosition(LineColumn.SOURCE)
    ends += lines.columnWidth(LineColumn.SOURCE)
    assert ends == lines.viewport().width()
    long = SourceFunction("f", "f.py", (SourceLine(1, "x" * 500, 1, 1.0),), 1.0)
    view.show_profile(LineProfile(LayerId(""), (long,), 1))
    assert lines.columnWidth(LineColumn.SOURCE) > lines.viewport().width()


def test_lines_are_copied_as_source(view: LineHeat) -> None:
    lines = view.findChild(QTreeView, "lines")
    lines.selectAll()
    view.copy()
    copied = QGuiApplication.clipboard().text().splitlines()
    assert copied[:2] == ["def forward(self, x):", "\ty = self.conv(x)"]
    assert len(copied) == 5
    view.make_menu().actions()[1].trigger()
    table = QGuiApplication.clipboard().text().splitlines()
    assert table[0] == "function\tline\thits\ttime (s)\tsource"
    assert table[1] == "Block.forward\t10\t\t\tdef forward(self, x):"
