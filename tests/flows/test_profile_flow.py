"""Profiling in the real window over the real engine: every view, its actions, its settings."""

import json

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QLabel,
    QPushButton,
    QSpinBox,
    QTreeView,
    QWidget,
)

from engine import LayerId, PruneChannels, RunSettings
from gui import operations
from gui.views.profile_page import ProfilePage

CONV = LayerId("stage1.block0.conv2")


def _page(desk) -> ProfilePage:
    page = desk.window.findChild(ProfilePage)
    assert page is not None
    return page


def _shown(desk, name: str) -> QWidget:
    """The view of that name, which must be in front."""
    view = _page(desk).findChild(QWidget, name)
    assert view.isVisible()
    return view


def test_operators_are_profiled_into_table_and_flame_graph(demo, tmp_path, monkeypatch) -> None:
    demo.trigger("profile_operators")
    demo.settle()
    table = _shown(demo, "operators")
    assert isinstance(table, QTreeView)
    layers = {table.model().index(row, 0).data() for row in range(table.model().rowCount())}
    assert CONV in layers
    demo.trigger("flame_graph")
    demo.settle()
    assert "calls" in _shown(demo, "flameCaption").text()
    monkeypatch.setattr(QFileDialog, "open", lambda self: None)
    demo.trigger("save_trace")
    dialog = _page(demo).findChild(QFileDialog)
    dialog.fileSelected.emit(str(tmp_path / "trace.json"))
    dialog.close()
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert not demo.errors


def test_python_and_lines_are_profiled(demo, tmp_path, monkeypatch) -> None:
    demo.trigger("profile_python")
    demo.settle()
    tree = _shown(demo, "calls")
    assert isinstance(tree, QTreeView)
    assert tree.model().rowCount() == 1
    monkeypatch.setattr(QFileDialog, "open", lambda self: None)
    demo.trigger("save_prof")
    dialog = _page(demo).findChild(QFileDialog)
    dialog.fileSelected.emit(str(tmp_path / "run.prof"))
    dialog.close()
    assert (tmp_path / "run.prof").stat().st_size > 0
    demo.window.selection.set([LayerId("stage1.block0")])
    demo.trigger("profile_lines")
    demo.settle()
    assert "stage1.block0" in _shown(demo, "lineCaption").text()
    assert not demo.errors


def test_memory_is_measured_under_the_settings(demo) -> None:
    demo.window.workbench.show_profile("latency")
    _page(demo).findChild(QSpinBox, "runBatch").setValue(4)
    assert demo.document.run_settings == RunSettings(batch=4)
    _page(demo).findChild(QPushButton, "profileButton").click()
    demo.settle()
    table = demo.snapshot.current.table
    assert table["latency"].conditions["batch"] == "4"
    assert table["memory"].conditions["batch"] == "4"
    summary = _page(demo).findChild(QLabel, "latencySummary").text()
    assert "overhead" in summary
    assert table["latency"].conditions["overhead"] in summary
    assert not demo.errors


def test_an_edit_marks_what_was_profiled_before(demo) -> None:
    demo.settings.measure_after_edit = False
    demo.trigger("profile_operators")
    demo.settle()
    operations.apply_edit(demo.document, PruneChannels((CONV,), 0.25))
    demo.settle()
    badge = _page(demo).findChild(QLabel, "staleBadge")
    assert badge.text() == "of the state before the last edit"
    operations.undo(demo.document)
    demo.settle()
    assert not badge.isVisible()


def test_a_profile_of_a_model_that_has_gone_is_not_shown(demo) -> None:
    operations.open_demo(demo.document)
    demo.trigger("profile_operators")  # of the model that is still shown
    demo.settle()
    assert _page(demo).findChild(QWidget, "profileEmpty").isVisible()


def test_what_this_machine_lacks_is_said(demo) -> None:
    demo.window.workbench.show_profile("flame")
    demo.settle()
    box = _page(demo).findChild(QComboBox, "runDevice")
    assert box.itemData(0) == "cpu"
    assert box.count() >= 3  # CUDA and MPS are named even where they are missing
    model = box.model()
    for place in range(box.count()):
        reason = "unavailable" in box.itemData(place, Qt.ItemDataRole.ToolTipRole)
        assert model.item(place).isEnabled() is not reason
    demo.document.run_settings = RunSettings(device="cuda:99")
    operations.profile_operators(demo.document)
    demo.settle()
    assert [type(error).__name__ for error in demo.errors] == ["ProfilingFailed"]
    assert "cuda:99" in str(demo.errors[0])


@pytest.mark.slow
def test_the_roofline_is_taken(demo) -> None:
    demo.trigger("roofline")
    demo.settle()
    assert "bound" in _shown(demo, "rooflineCaption").text()
    assert not demo.errors
