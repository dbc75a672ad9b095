"""A scan in the real window over the real engine: a map, a cell applied, and back again."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PySide6.QtWidgets import QComboBox, QLabel, QPushButton

from engine import (
    Cell,
    DataRequest,
    LayerId,
    PruneWeights,
    SensitivityMap,
    read_sensitivity,
    save_sensitivity,
)
from gui import operations
from gui.picture import Picture
from gui.scanning import ScanWish
from gui.views.sensitivity_view import SensitivityView

CONV, FC = LayerId("stage1.block0.conv1"), LayerId("head.fc")
FEW = ScanWish(("weights",), (CONV, FC), samples=32)
LONG = ScanWish(samples=1024)
UNTIL = 60_000


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def scanned(demo):
    """The demo with a map of two layers, the view in front."""
    demo.settings.measure_after_edit = False
    demo.trigger("sensitivity")
    operations.scan(demo.document, FEW)
    demo.settle()
    assert not demo.errors
    return demo


def _view(desk) -> SensitivityView:
    view = desk.window.findChild(SensitivityView)
    assert view is not None
    return view


def _map(desk) -> SensitivityMap:
    found = _view(desk).model.map
    assert found is not None
    return found


def _text(desk, name: str) -> str:
    label = _view(desk).findChild(QLabel, name)
    return label.text() if label.isVisible() else ""


def test_a_cell_is_applied_and_undoing_brings_the_map_back(scanned) -> None:
    found = _map(scanned)
    assert found.complete
    assert found.rows == ((CONV,), (FC,))
    assert [cell.samples for cell in found.cells.values()] == [32] * len(found.cells)
    worst = max(range(len(found.settings)), key=lambda one: found.cell(1, one).rise)
    assert found.cell(1, worst).rise > 0
    view = _view(scanned)
    scanned.window.selection.set((FC,))
    assert view.table.place is not None
    view.table.go_to(view.table.place[0], worst)
    edit = found.edit(1, worst)
    view.findChild(QPushButton, "applyCell").click()
    scanned.settle()
    assert [one.edit for one in scanned.snapshot.history] == [edit]
    assert "of the state before" in _text(scanned, "mapStale")
    assert view.findChild(QPushButton, "scanButton").isEnabled()
    scanned.trigger("undo")
    scanned.settle()
    assert (_map(scanned), _text(scanned, "mapStale")) == (found, "")
    assert not scanned.errors


@pytest.mark.slow
def test_an_edit_ends_a_scan_which_goes_on_at_that_state(demo) -> None:
    demo.settings.measure_after_edit = False
    demo.trigger("sensitivity")
    view = _view(demo)
    samples = view.findChild(QComboBox, "scanSamples")
    samples.setCurrentIndex(samples.findData(LONG.samples))
    view.findChild(QPushButton, "scanButton").click()
    scanning = demo.document.scanning
    demo.qtbot.waitUntil(lambda: _measured(scanning.newest("only this")) > 2, timeout=UNTIL)
    known = _measured(scanning.newest("only this"))
    first = scanning.newest("only this")
    operations.apply_edit(demo.document, first.edit(*next(iter(_done(first)))))
    demo.settle()
    assert len(demo.snapshot.history) == 1
    assert scanning.ending == "stopped"
    assert "of the state before" in _text(demo, "mapStale")
    demo.trigger("undo")
    demo.settle()
    button = view.findChild(QPushButton, "scanButton")
    assert button.text() == "Resume"
    button.click()
    demo.qtbot.waitUntil(lambda: _measured(scanning.newest("only this")) > known, timeout=UNTIL)
    assert button.text() == "Stop"
    button.click()
    demo.settle()
    assert not demo.errors


def _done(found: SensitivityMap):
    return (place for place, cell in found.cells.items() if cell.samples)


def _measured(found: SensitivityMap | None) -> int:
    return 0 if found is None else sum(1 for _ in _done(found))


@pytest.mark.slow
def test_a_training_and_a_scan_wait_for_each_other(demo) -> None:
    demo.settings.measure_after_edit = False
    demo.trigger("sensitivity")
    operations.scan(demo.document, LONG)
    demo.trigger("tune")
    demo.window.findChild(QPushButton, "startRecovery").click()
    assert "A scan is under way" in str(demo.errors[-1])
    operations.stop_scan(demo.document)
    demo.settle()
    demo.window.findChild(QPushButton, "startRecovery").click()
    assert demo.document.tuning
    button = _view(demo).findChild(QPushButton, "scanButton")
    assert not button.isEnabled()
    assert "only one such job" in button.toolTip()
    operations.discard_tuning(demo.document)
    demo.settle()
    assert button.isEnabled()
    assert len(demo.errors) == 1


@pytest.mark.slow
def test_a_map_travels_through_files(scanned, tmp_path: Path) -> None:
    found = _map(scanned)
    operations.save_map(scanned.document, found, "json", str(tmp_path / "demo"))
    path = tmp_path / "demo.sensitivity.json"
    assert read_sensitivity(str(path)) == found
    operations.save_map(scanned.document, found, "distiller", str(tmp_path / "demo"))
    operations.open_map(scanned.document, str(tmp_path / "demo.csv"))
    assert (_map(scanned).state, _text(scanned, "mapCaption")[:8]) == ("", "demo.csv")
    operations.apply_edit(scanned.document, found.edit(0, 0))
    scanned.settle()
    assert "does not name" in _text(scanned, "mapStale")
    assert _map(scanned).settings == found.settings
    assert not scanned.errors
    other = tmp_path / "other.csv"
    other.write_text("parameter,sparsity,top1,top5,loss\na,0.0,90,99,0.3\na,0.5,80,95,0.6\n")
    operations.open_map(scanned.document, str(other))
    assert "names no layer of this model" in str(scanned.errors[-1])
    operations.open_map(scanned.document, str(tmp_path / "missing.json"))
    assert "missing.json" in str(scanned.errors[-1])


@pytest.mark.slow
def test_a_picture_shows_the_map_of_a_file(
    demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gui.picture.QApplication", SimpleNamespace(exit=lambda: None))
    rows = ((CONV,), (FC,))
    cells = {(0, 0): Cell(rise=0.5, samples=32), (1, 0): Cell(rise=1.0, samples=32)}
    found = SensitivityMap(rows, (PruneWeights((), 0.5),), "only this", cells, complete=True)
    save_sensitivity(str(tmp_path / "map.json"), found, "json")
    path = tmp_path / "window.png"
    picture = Picture(
        demo.window, demo.document, str(path), "sensitivity", str(tmp_path / "map.json")
    )
    operations.evaluate(demo.document)  # a picture begins when the last job has ended
    demo.qtbot.waitUntil(path.exists, timeout=UNTIL)
    assert picture.error == ""
    assert _map(demo) == found
    assert _view(demo).isVisible()
    assert not demo.document.scanning.active


@pytest.mark.slow
def test_other_data_and_another_model_forget_the_maps(scanned) -> None:
    operations.choose_data(scanned.document, DataRequest("digits"))
    scanned.settle()
    assert _view(scanned).model.map is None
    operations.scan(scanned.document, FEW)
    scanned.settle()
    assert _map(scanned).complete
    scanned.trigger("open_demo")
    scanned.settle()
    assert _view(scanned).model.map is None
    assert not scanned.errors
