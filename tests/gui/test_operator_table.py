"""The table of operators: what it adds up, how it filters and sorts, what it gives away."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import QComboBox, QLabel, QLineEdit, QTreeView
from pytestqt.qtbot import QtBot

from engine import LayerId, OperatorCall, OperatorProfile
from gui.models.cells import CellRole
from gui.models.operator_model import OperatorColumn, OperatorFilter, OperatorModel
from gui.models.operator_rows import Grouping, operator_rows, shapes_text, table
from gui.selection import Selection
from gui.theme import Theme
from gui.views.operator_table import OperatorTable

CONV, FC = LayerId("stem.conv"), LayerId("head.fc")


@pytest.fixture
def view(
    qtbot: QtBot, selection: Selection, theme: Theme, operator_profile: OperatorProfile
) -> OperatorTable:
    view = OperatorTable(selection, theme)
    qtbot.addWidget(view)
    view.resize(900, 300)
    view.show_profile(operator_profile)
    view.show()
    return view


def _column(view: OperatorTable, column: OperatorColumn) -> list[str]:
    model = view.findChild(QTreeView, "operators").model()
    return [model.index(row, column).data() for row in range(model.rowCount())]


def test_calls_are_added_up_by_layer_and_operator(operator_profile: OperatorProfile) -> None:
    rows = operator_rows(operator_profile, Grouping.OPERATOR_IN_LAYER)
    found = {(row.layer, row.name): row for row in rows}
    addmm = found[FC, "aten::addmm"]
    assert addmm.calls == 2
    assert addmm.own == pytest.approx(0.003)
    assert addmm.total == pytest.approx(0.003)  # the inner call is in the outer one
    assert addmm.bytes == 40
    assert addmm.share == pytest.approx(0.3)
    assert rows[0].name == "volta_sgemm"
    assert rows[0].bytes is None


def test_by_layer_the_total_counts_the_outermost_calls(operator_profile: OperatorProfile) -> None:
    rows = operator_rows(operator_profile, Grouping.LAYER)
    conv = next(row for row in rows if row.layer == CONV and row.device == "cpu")
    assert (conv.name, conv.calls) == ("", 2)
    assert conv.own == conv.total == pytest.approx(0.003)
    assert conv.bytes == 512


def test_by_operator_layers_are_put_together(operator_profile: OperatorProfile) -> None:
    rows = operator_rows(operator_profile, Grouping.OPERATOR)
    assert {row.layer for row in rows} == {None}
    assert {row.name for row in rows} == {
        "aten::conv2d", "aten::convolution", "aten::addmm", "volta_sgemm",
    }  # fmt: skip


calls = st.lists(
    st.builds(
        OperatorCall,
        st.sampled_from([CONV, FC]),
        st.sampled_from(["a", "b"]),
        st.floats(0, 1),
        st.floats(0, 1),
        st.floats(0, 1),
        st.integers(0, 3),
    )
)


@given(calls, st.sampled_from(list(Grouping)))
def test_own_time_is_kept_however_it_is_grouped(
    calls: list[OperatorCall], grouping: Grouping
) -> None:
    rows = operator_rows(OperatorProfile(1.0, tuple(calls), ()), grouping)
    assert sum(row.own for row in rows) == pytest.approx(sum(call.own for call in calls))
    assert sum(row.calls for row in rows) == len(calls)
    # However calls lie in each other, no group takes longer than all of its calls.
    assert sum(row.total for row in rows) <= sum(call.seconds for call in calls) + 1e-9


def test_shapes_are_written_in_one_line() -> None:
    assert shapes_text(((1, 3, 8, 8), (8,), ())) == "1×3×8×8, 8, scalar"


def test_the_model_keeps_the_rules(qtbot: QtBot, operator_profile: OperatorProfile) -> None:
    model = OperatorModel()
    proxy = OperatorFilter(model)
    testers = [QAbstractItemModelTester(one) for one in (model, proxy)]
    model.set_rows(operator_rows(operator_profile, Grouping.OPERATOR_IN_LAYER))
    proxy.set_text("conv")
    proxy.sort(OperatorColumn.MEMORY, Qt.SortOrder.DescendingOrder)
    model.set_rows(())
    assert len(testers) == 2


@pytest.mark.parametrize("order", list(Qt.SortOrder))
def test_what_is_absent_comes_last(order: Qt.SortOrder, operator_profile: OperatorProfile) -> None:
    model = OperatorModel()
    proxy = OperatorFilter(model)
    model.set_rows(operator_rows(operator_profile, Grouping.OPERATOR_IN_LAYER))
    proxy.sort(OperatorColumn.MEMORY, order)
    assert proxy.index(proxy.rowCount() - 1, OperatorColumn.MEMORY).data() == "–"


def test_cells_read_in_units(view: OperatorTable) -> None:
    assert _column(view, OperatorColumn.OWN)[0] == "4.00 ms"
    assert _column(view, OperatorColumn.SHARE)[0] == "40.0 %"
    assert "512 B" in _column(view, OperatorColumn.MEMORY)
    model = view.findChild(QTreeView, "operators").model()
    assert model.index(0, OperatorColumn.SHARE).data(CellRole.HEAT) == pytest.approx(1.0)


def test_the_filter_wants_every_word(view: OperatorTable) -> None:
    view.findChild(QLineEdit, "operatorFilter").setText("conv ATEN")
    assert set(_column(view, OperatorColumn.OPERATOR)) == {"aten::conv2d", "aten::convolution"}
    assert view.findChild(QLabel, "operatorStatus").text() == (
        "2 / 4 rows, 3.00 ms · cpu · batch 1"
    )
    view.findChild(QLineEdit, "operatorFilter").setText("no such")
    assert _column(view, OperatorColumn.OPERATOR) == []


def test_the_grouping_hides_what_it_adds_up(view: OperatorTable) -> None:
    grouping = view.findChild(QComboBox, "operatorGrouping")
    tree = view.findChild(QTreeView, "operators")
    grouping.setCurrentIndex(grouping.findData(Grouping.LAYER))
    assert tree.isColumnHidden(OperatorColumn.OPERATOR)
    assert not tree.isColumnHidden(OperatorColumn.LAYER)
    grouping.setCurrentIndex(grouping.findData(Grouping.OPERATOR))
    assert tree.isColumnHidden(OperatorColumn.LAYER)


def test_without_recorded_memory_the_column_is_gone(
    view: OperatorTable, operator_profile: OperatorProfile
) -> None:
    call = OperatorCall(CONV, "aten::add", 0.0, 1.0, 1.0, 0)
    view.show_profile(OperatorProfile(1.0, (call,), ()))
    assert view.findChild(QTreeView, "operators").isColumnHidden(OperatorColumn.MEMORY)


def test_rows_and_layers_are_selected_together(view: OperatorTable, selection: Selection) -> None:
    tree = view.findChild(QTreeView, "operators")
    selection.set([LayerId("head")])
    chosen = tree.selectionModel().selectedRows()
    assert [index.data(CellRole.LAYER) for index in chosen] == [FC]
    row = _column(view, OperatorColumn.OPERATOR).index("aten::conv2d")
    tree.setCurrentIndex(tree.model().index(row, 0))
    assert selection.layers == (CONV,)


def test_rows_are_copied_as_they_are_seen(view: OperatorTable) -> None:
    view.copy()
    lines = QGuiApplication.clipboard().text().splitlines()
    assert lines[0].split("\t")[:3] == ["layer", "operator", "device"]
    assert lines[1].split("\t")[:4] == ["stem.conv", "volta_sgemm", "cuda:0", "1"]
    assert len(lines) == 5
    tree = view.findChild(QTreeView, "operators")
    tree.setCurrentIndex(tree.model().index(1, 0))
    view.copy()
    assert len(QGuiApplication.clipboard().text().splitlines()) == 2


def test_csv_holds_raw_values(view: OperatorTable, operator_profile: OperatorProfile) -> None:
    rows = operator_rows(operator_profile, Grouping.OPERATOR_IN_LAYER)
    assert table(rows)[1][4] == 0.004
    assert "stem.conv,aten::conv2d,cpu,1,0.001" in view.csv()


def test_headers_explain_themselves(view: OperatorTable) -> None:
    model: Any = view.findChild(QTreeView, "operators").model()
    for column in OperatorColumn:
        tip = model.headerData(column, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole)
        assert tip.startswith("<qt>")
    assert [action.text() for action in view.make_menu().actions()] == ["Copy rows", "Save as CSV…"]


def test_times_of_devices_beside_each_other_are_no_sum(view: OperatorTable) -> None:
    status = view.findChild(QLabel, "operatorStatus").text()
    assert status == "4 rows, cpu 6.00 ms, cuda:0 4.00 ms · cpu · batch 1"
