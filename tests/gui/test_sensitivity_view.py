"""The panel of sensitivity: what it shows, what it asks for, and how it hangs on the selection."""

from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QColor, QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QComboBox, QLabel, QPushButton, QToolButton
from pytestqt.qtbot import QtBot

from engine import (
    Cell,
    DataInfo,
    LayerId,
    Part,
    PruneChannels,
    PruneWeights,
    Quantize,
    SensitivityMap,
    Snapshot,
)
from gui.scanning import ScanWish
from gui.selection import Selection
from gui.tasks import JobState, JobView
from gui.theme import Theme
from gui.views.sensitivity_view import SensitivityView

STEM, CONV1, CONV2, FC = (
    LayerId(path) for path in ("stem.conv", "stage1.block0.conv1", "stage1.block0.conv2", "head.fc")
)
MAP = SensitivityMap(
    ((STEM, CONV2), (CONV1,), (FC,)),
    (
        PruneChannels((), 0.2),
        PruneWeights((), 0.5),
        Quantize((), weight_bits=4, activations="none"),
    ),
    "only this",
    {
        (0, 0): Cell(estimate=0.2, rise=0.5, error=0.05, lost=0.04, samples=256),
        (1, 0): Cell(estimate=0.1, rise=0.004, error=0.01, lost=0.004, samples=256),
        (2, 0): Cell(refusal="its channels are the model's output"),
        (1, 2): Cell(estimate=0.3),
    },
    loss=0.1,
    accuracy=0.98,
    samples=256,
    data="digits",
    state="base",
    complete=True,
)


class Panel:
    """A panel with data chosen, over a document that writes down what it is asked."""

    def __init__(
        self, qtbot: QtBot, document: Any, snapshot: Snapshot, selection: Selection, theme: Theme
    ) -> None:
        self.qtbot, self.document, self.selection = qtbot, document, selection
        self.theme = theme
        document.snapshot = replace(snapshot, data=DataInfo("digits", 1347, 450))
        self.view = SensitivityView(document, selection, theme)
        qtbot.addWidget(self.view)
        self.view.resize(900, 360)
        self.view.show()

    def find(self, kind: type[Any], name: str) -> Any:
        widget = self.view.findChild(kind, name)
        assert isinstance(widget, kind), name
        return widget

    @property
    def button(self) -> QPushButton:
        button: QPushButton = self.find(QPushButton, "scanButton")
        return button

    def text(self, name: str) -> str:
        """What that label shows; empty while it is hidden."""
        label = self.find(QLabel, name)
        return label.text() if label.isVisible() else ""

    def file(self, found: SensitivityMap, wish: ScanWish | None = None) -> None:
        """Let a map have come of a scan."""
        scanning = self.document.scanning
        scanning._maps[found.state, found.direction] = found
        scanning._newest[found.direction] = found
        if wish is not None:
            scanning._wishes[found.state, found.direction] = wish
        scanning.changed.emit()

    def scans(self, state: JobState, text: str = "Measuring on 32 samples") -> None:
        """Let a scan be under way."""
        view = JobView(7, "Scanning", text, 0.25, 9.0, 9.0, 27.0, state, pausable=True)
        self.document.scanning._job = 7
        self.document.jobs.views = (view,)
        self.document.jobs.jobs_changed.emit()
        self.view.refresh()

    def pixel(self, row: int, column: int, corner: QPoint) -> QColor:
        table = self.view.table
        picture: QImage = table.viewport().grab().toImage()
        rect = table.visualRect(self.view.model.index(row, column))
        place = (rect.topLeft() + corner) * picture.devicePixelRatio()
        return picture.pixelColor(place)


@pytest.fixture
def panel(
    qtbot: QtBot, fake_document: Any, base: Snapshot, selection: Selection, theme: Theme
) -> Panel:
    return Panel(qtbot, fake_document, base, selection, theme)


def test_before_a_scan_it_says_what_the_map_shows(panel: Panel) -> None:
    assert "how much the" in panel.text("sensitivityEmptyText")
    assert panel.button.text() == "Scan"
    assert panel.button.isVisible()
    panel.button.click()
    assert panel.document.calls == [("scan", ScanWish())]


def test_keys_go_to_the_cells_or_to_the_button_while_there_are_none(panel: Panel) -> None:
    panel.view.take_focus()
    assert panel.view.focusWidget() is panel.button
    panel.file(MAP)
    panel.view.take_focus()
    assert panel.view.focusWidget() is panel.view.table


def test_without_data_it_offers_to_choose_some(panel: Panel, base: Snapshot) -> None:
    panel.document.show(base)
    assert panel.text("sensitivityEmptyText").endswith("It takes a data set.")
    assert not panel.button.isVisible()
    with panel.qtbot.waitSignal(panel.view.data_wanted):
        panel.find(QPushButton, "chooseScanData").click()


def test_without_a_model_nothing_can_be_asked(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme
) -> None:
    fake_document.snapshot = None
    fake_document.scan_refused = "Open a model first."
    view = SensitivityView(fake_document, selection, theme)
    qtbot.addWidget(view)
    view.show()
    assert not view.findChild(QPushButton, "chooseScanData").isVisible()
    assert not view.findChild(QPushButton, "scanButton").isVisible()
    assert view.findChild(QLabel, "sensitivityEmptyProgress").text() == "Open a model first."


def test_a_scan_is_asked_for_as_the_controls_say(panel: Panel) -> None:
    panel.find(QComboBox, "scanDirection").setCurrentIndex(1)
    samples = panel.find(QComboBox, "scanSamples")
    samples.setCurrentIndex(samples.findData(64))
    for action in panel.find(QToolButton, "scanSettings").menu().actions()[:2]:
        action.setChecked(False)
    panel.find(QComboBox, "scanRows").setCurrentIndex(1)
    assert not panel.button.isEnabled()
    assert "Select layers" in panel.button.toolTip()
    panel.selection.set([LayerId("stage1")])
    panel.button.click()
    wish = ScanWish(("bits", "inputs"), (CONV1, CONV2), "all but this", 64)
    assert panel.document.calls == [("scan", wish)]


def test_a_scan_of_no_settings_is_not_to_be_had(panel: Panel) -> None:
    button = panel.find(QToolButton, "scanSettings")
    for action in button.menu().actions():
        action.setChecked(False)
    assert [one.isChecked() for one in button.menu().actions()] == [False, False, False, True]
    assert button.text() == "Inputs"


def test_the_button_stops_and_resumes(panel: Panel) -> None:
    panel.scans(JobState.RUNNING)
    assert panel.button.text() == "Stop"
    assert "Measuring on 32 samples · 25 %, 0:27 left" in panel.text("sensitivityEmptyProgress")
    panel.button.click()
    panel.scans(JobState.PAUSED)
    assert panel.button.text() == "Resume"
    panel.button.click()
    assert [name for name, _ in panel.document.calls] == ["stop_scan", "resume_scan"]
    panel.scans(JobState.STOPPING)
    assert not panel.button.isEnabled()


def test_what_else_runs_is_said_in_words(panel: Panel) -> None:
    panel.document.scan_refused = "Fine-tune is under way, and only one such job runs at a time."
    panel.document.tuning_changed.emit(True)
    assert not panel.button.isEnabled()
    assert "only one such job" in panel.button.toolTip()
    assert "only one such job" in panel.text("sensitivityEmptyProgress")


def test_a_scan_cut_short_goes_on_and_one_that_is_whole_need_not(panel: Panel) -> None:
    panel.file(replace(MAP, complete=False), ScanWish())
    assert (panel.button.text(), panel.button.isEnabled()) == ("Resume", True)
    panel.file(MAP, ScanWish())
    assert (panel.button.text(), panel.button.isEnabled()) == ("Scan", False)
    samples = panel.find(QComboBox, "scanSamples")
    samples.setCurrentIndex(samples.findData(512))
    assert (panel.button.text(), panel.button.isEnabled()) == ("Scan", True)


def test_choosing_a_cell_selects_its_layers_and_reads_it(panel: Panel) -> None:
    panel.file(MAP)
    panel.view.table.go_to(0, 0)
    assert panel.selection.layers == (STEM, CONV2)
    assert panel.text("cellTitle") == "stem.conv · Channels 20 %"
    assert panel.text("cellCoupled") == "with stage1.block0.conv2"
    assert panel.text("cellNumbers").startswith("rise of loss 0.50 ±0.098")


def test_a_selection_elsewhere_shows_its_row(panel: Panel) -> None:
    panel.file(MAP)
    panel.view.table.go_to(0, 2)
    panel.selection.set([FC])
    assert panel.view.table.place == (2, 2)
    panel.selection.set([CONV2])
    assert panel.view.table.place == (0, 2)
    assert panel.selection.layers == (CONV2,)  # no echo
    panel.selection.set([LayerId("stem.bn")])
    assert panel.view.table.place == (0, 2)


def test_a_new_map_begins_at_the_selected_layer(panel: Panel) -> None:
    panel.selection.set([CONV1])
    panel.file(MAP)
    assert panel.view.table.place == (1, 0)


def test_pointing_reads_a_cell_without_choosing_it(panel: Panel) -> None:
    panel.file(MAP)
    panel.view.table.go_to(0, 0)
    pointed: list[object] = []
    panel.selection.pointed.connect(lambda layers, _: pointed.append(layers))
    table = panel.view.table
    table.entered.emit(panel.view.model.index(1, 2))
    assert panel.text("cellTitle") == "stage1.block0.conv1 · Bits 4"
    assert panel.text("cellNumbers") == "estimated 0.30 · an estimate, not measured"
    assert pointed == [(CONV1,)]
    table.pointed.emit(-1, -1)
    assert panel.text("cellTitle") == "stem.conv · Channels 20 %"


@pytest.mark.parametrize("way", ["button", "enter", "double click"])
def test_a_cell_is_applied_as_an_edit(panel: Panel, way: str) -> None:
    panel.file(MAP)
    table = panel.view.table
    table.go_to(1, 0)
    if way == "button":
        panel.find(QPushButton, "applyCell").click()
    elif way == "enter":
        QTest.keyClick(table, Qt.Key.Key_Return)
    else:
        place = table.visualRect(panel.view.model.index(1, 0)).center()
        panel.qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
        panel.qtbot.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert panel.document.calls == [("apply", PruneChannels((CONV1,), 0.2))]


def test_the_keyboard_walks_the_cells(panel: Panel) -> None:
    panel.file(MAP)
    panel.view.table.go_to(0, 0)
    for key in (Qt.Key.Key_Down, Qt.Key.Key_Right, Qt.Key.Key_Right):
        QTest.keyClick(panel.view.table, key)
    assert panel.view.table.place == (1, 2)
    assert panel.selection.layers == (CONV1,)


def test_what_cannot_be_applied_says_why(panel: Panel) -> None:
    panel.file(MAP)
    panel.view.table.go_to(2, 0)
    apply = panel.find(QPushButton, "applyCell")
    assert not apply.isEnabled()
    assert "model&#x27;s output" in apply.toolTip()
    assert panel.text("cellNumbers") == "its channels are the model's output"
    QTest.keyClick(panel.view.table, Qt.Key.Key_Return)
    panel.document.refusal = "Stop it first."
    panel.view.table.go_to(0, 0)
    assert "Stop it first." in apply.toolTip()
    assert panel.document.calls == []


def test_a_map_of_all_but_this_is_looked_at_only(panel: Panel) -> None:
    panel.file(MAP)
    panel.file(replace(MAP, direction="all but this"))
    panel.find(QComboBox, "scanDirection").setCurrentIndex(1)
    assert panel.view.model.map is not None
    assert panel.view.model.map.direction == "all but this"
    panel.view.table.go_to(0, 0)
    apply = panel.find(QPushButton, "applyCell")
    assert not apply.isEnabled()
    assert "Only this layer" in apply.toolTip()


def test_after_an_edit_the_map_is_of_the_state_before_and_undo_brings_it_back(
    panel: Panel, base: Snapshot, pruned: Snapshot
) -> None:
    panel.file(MAP)
    assert panel.text("mapStale") == ""
    panel.document.show(pruned, Part.LAYERS | Part.HISTORY)
    stale = panel.find(QLabel, "mapStale")
    assert "of the state before “Prune 50 % of channels" in stale.toolTip()
    assert panel.view.model.map is MAP
    later = replace(MAP, state=pruned.current.id, loss=0.5)
    panel.file(later)
    assert (panel.view.model.map, panel.text("mapStale")) == (later, "")
    panel.document.show(base, Part.LAYERS | Part.HISTORY)
    assert (panel.view.model.map, panel.text("mapStale")) == (MAP, "")


def test_a_click_on_a_heading_orders_the_rows_and_another_puts_them_back(panel: Panel) -> None:
    panel.file(MAP)
    order = panel.find(QComboBox, "mapOrder")
    panel.view.table.go_to(1, 0)
    panel.view.table.sort_wanted.emit(2)
    assert panel.view.model.layers(0) == (CONV1,)
    assert order.currentIndex() == -1
    assert panel.view.table.place == (0, 0)  # the cell has moved with its row
    assert panel.selection.layers == (CONV1,)
    panel.view.table.sort_wanted.emit(2)
    assert panel.view.model.layers(0) == (STEM, CONV2)
    assert order.currentData() == "model"


def test_marks_are_explained_as_far_as_they_occur(panel: Panel) -> None:
    panel.file(MAP)
    legend = panel.view.findChild(object, "mapLegend")
    assert legend.accessibleName() == "0.30 – 0.50, estimate, within its error, not possible"
    panel.find(QComboBox, "mapReading").setCurrentIndex(1)
    assert legend.accessibleName() == "4.0 – 4.0 points, within its error, not possible"


def test_heat_lies_behind_what_is_certain_alone(panel: Panel) -> None:
    panel.file(MAP)
    surface = QColor(panel.theme.palette.surface)
    corner = QPoint(4, 3)
    assert panel.pixel(0, 0, corner) != surface
    assert panel.pixel(1, 0, corner) == surface


def test_the_picture_has_every_row(panel: Panel) -> None:
    many = tuple((LayerId(f"block{row}"),) for row in range(60))
    cells = {(row, 0): Cell(rise=0.1 * row, samples=8) for row in range(60)}
    panel.file(replace(MAP, rows=many, cells=cells))
    svg = panel.view._files.svg().decode()
    assert "block0" in svg
    assert "block59" in svg
    assert "20 %" in svg


def test_the_menu_offers_files(panel: Panel) -> None:
    panel.file(MAP)
    menu = panel.view.make_menu()
    texts = [action.text() for action in menu.actions() if action.text()]
    assert texts[-3:] == ["Save as JSON…", "Save as Distiller CSV…", "Open map…"]
    assert "Save as SVG…" in texts
    with panel.qtbot.waitSignal(panel.view.open_wanted):
        menu.actions()[-1].trigger()
    menu.close()


def test_the_map_of_a_file_is_shown_whatever_was_shown_and_loses_no_scan(panel: Panel) -> None:
    panel.file(MAP, ScanWish())
    other = replace(MAP, direction="all but this", loss=0.7)
    panel.document.scanning.file(other, "other.json")
    assert panel.view.model.map is other
    assert panel.text("mapCaption").startswith("other.json · loss 0.70")
    again = replace(MAP, loss=0.9)  # of the very state that was scanned
    panel.document.scanning.file(again, "again.json")
    assert panel.view.model.map is again
    assert "This state has been scanned so." in panel.button.toolTip()
    menu = panel.view.make_menu()
    back = next(one for one in menu.actions() if one.text() == "Back to the scanned map")
    back.trigger()
    assert (panel.view.model.map, panel.text("mapCaption")[:9]) == (MAP, "loss 0.10")
    assert "Back to the scanned map" not in [one.text() for one in panel.view.make_menu().actions()]
    menu.close()


def test_thousands_of_rows_are_drawn_as_far_as_they_are_seen(panel: Panel) -> None:
    many = tuple((LayerId(f"block{row}"),) for row in range(3000))
    cells = {(row, column): Cell(rise=0.1, samples=8) for row in range(3000) for column in (0, 1)}
    panel.file(replace(MAP, rows=many, cells=cells))
    asked: list[int] = []
    shown = panel.view.model.shown

    def watched(row: int, column: int) -> Any:
        asked.append(row)
        return shown(row, column)

    panel.view.model.shown = watched  # type: ignore[method-assign]
    panel.view.table.viewport().grab()
    assert 0 < len(set(asked)) < 40
    panel.view.table.go_to(2999, 0)
    assert panel.view.table.visualRect(panel.view.model.index(2999, 0)).isValid()
