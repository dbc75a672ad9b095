"""The views of profiling together: settings, what is measured by which button, what is stale."""

from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtWidgets import QComboBox, QLabel, QPushButton, QSpinBox, QToolButton
from pytestqt.qtbot import QtBot

from engine import (
    METRICS,
    CallProfile,
    CounterInfo,
    Device,
    LayerId,
    Limit,
    LimitStatus,
    LineProfile,
    MeasurementTable,
    ModelState,
    OperatorProfile,
    Part,
    Quantity,
    Roofline,
    RunSettings,
    Series,
    Snapshot,
)
from gui.document import Profiled
from gui.selection import Selection
from gui.theme import Theme
from gui.views.latency_view import summary
from gui.views.profile_page import ProfilePage
from gui.views.run_form import RunForm

CONV1 = LayerId("stage1.block0.conv1")
DEVICES = (
    Device("cpu", "Toy processor"),
    Device("cuda", "NVIDIA CUDA", "cuda is unavailable: no driver. Choose cpu."),
)


@pytest.fixture
def page(qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme) -> ProfilePage:
    page = ProfilePage(fake_document, selection, theme)
    qtbot.addWidget(page)
    page.resize(920, 320)
    page.show()
    qtbot.waitExposed(page)
    return page


def _button(page: ProfilePage) -> QPushButton:
    return page.findChild(QPushButton, "profileButton")


def _without(snapshot: Snapshot, *keys: str) -> Snapshot:
    table = MeasurementTable(one for key, one in snapshot.current.table.items() if key not in keys)
    return replace(snapshot, current=replace(snapshot.current, table=table))


def _memory(state: ModelState) -> ModelState:
    layers = {CONV1: {"": Quantity(4e6)}, LayerId("head.fc"): {"": Quantity(1e6)}}
    series = Series(METRICS["memory"], Quantity(4e6), layers, conditions={"device": "cpu"})
    return replace(state, table=state.table.with_series(series))


@pytest.mark.parametrize(
    ("tab", "calls"),
    [
        ("latency", ["measure_latency", "measure_memory"]),
        ("operators", ["profile_operators"]),
        ("flame", ["profile_operators"]),
        ("python", ["profile_python"]),
        ("roofline", ["take_roofline"]),
    ],
)
def test_every_tab_measures_what_it_shows(
    page: ProfilePage, fake_document: Any, tab: str, calls: list[str]
) -> None:
    page.show_tab(tab)
    assert page.current == tab
    fake_document.calls.clear()
    _button(page).click()
    assert fake_document.calls == [(call, RunSettings()) for call in calls]


def test_lines_are_those_of_the_selected_layer(
    page: ProfilePage, fake_document: Any, selection: Selection
) -> None:
    page.show_tab("lines")
    assert not _button(page).isEnabled()
    assert page.findChild(QLabel, "profileHint").text() == "Select a layer first."
    page.run()
    assert not [call for call in fake_document.calls if call[0] == "profile_lines"]
    selection.set([CONV1])
    assert page.findChild(QLabel, "profileHint").text() == CONV1
    page.findChild(QToolButton, "followCalls").click()
    page.run()
    assert fake_document.calls[-1] == ("profile_lines", (CONV1, True))


def test_an_empty_tab_says_what_it_would_show(page: ProfilePage) -> None:
    page.show_tab("roofline")
    assert "what this machine reaches at best" in page.findChild(QLabel, "profileEmptyText").text()
    assert page.findChild(QLabel, "profileEmptyTitle").isVisible()
    assert _button(page).text() == "Take roofline"
    empty = page.findChild(object, "profileEmpty")
    assert empty.isAncestorOf(_button(page))  # one primary button, and here it is


def test_a_result_takes_the_place_of_the_empty_state(
    page: ProfilePage,
    fake_document: Any,
    operator_profile: OperatorProfile,
    call_profile: CallProfile,
    line_profile: LineProfile,
    roofline: Roofline,
) -> None:
    views = {
        "operators": ("operatorTable", operator_profile),
        "flame": ("flameView", operator_profile),
        "python": ("callTree", call_profile),
        "lines": ("lineHeat", line_profile),
        "roofline": ("rooflineChart", roofline),
    }
    state = fake_document.snapshot.current.id
    for tab, (name, profile) in views.items():
        fake_document.profiled.emit(Profiled(state, profile))
        page.show_tab(tab)
        assert page.findChild(object, name).isVisible()
        assert not page.findChild(object, "profileEmpty").isVisible()
        assert _button(page).isVisible()


def test_what_an_edit_overtook_is_marked(
    page: ProfilePage, fake_document: Any, base: Snapshot, pruned: Snapshot, roofline: Roofline
) -> None:
    badge = page.findChild(QLabel, "staleBadge")
    page.show_tab("roofline")
    fake_document.show(base)
    fake_document.profiled.emit(Profiled("base", roofline))
    assert not badge.isVisible()
    fake_document.show(pruned, Part.LAYERS)
    assert badge.isVisible()
    assert badge.text() == "of the state before the last edit"
    page.show_tab("latency")
    assert not badge.isVisible()
    page.show_tab("roofline")
    fake_document.show(base, Part.LAYERS)  # undone: it is of what is shown again
    assert not badge.isVisible()
    fake_document.profiled.emit(Profiled("elsewhere", roofline))
    assert badge.text() == "of another state of the model"


def test_another_model_empties_the_tabs(
    page: ProfilePage, fake_document: Any, base: Snapshot, roofline: Roofline
) -> None:
    page.show_tab("roofline")
    fake_document.profiled.emit(Profiled("pruned", roofline))
    assert not page.findChild(object, "profileEmpty").isVisible()
    fake_document.show(base, Part.MODEL)
    assert page.findChild(object, "profileEmpty").isVisible()


def test_without_a_model_nothing_can_be_measured(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme
) -> None:
    fake_document.snapshot = None
    page = ProfilePage(fake_document, selection, theme)
    qtbot.addWidget(page)
    page.show()
    assert not _button(page).isEnabled()
    assert page.findChild(QLabel, "profileHint").text() == "Open a model first."
    assert ("find_devices", None) not in fake_document.calls


def test_settings_hold_for_what_is_measured(page: ProfilePage, fake_document: Any) -> None:
    page.findChild(QSpinBox, "runBatch").setValue(8)
    types = page.findChild(QComboBox, "runType")
    types.setCurrentIndex(types.findData("bfloat16"))
    page.findChild(QToolButton, "runChannelsLast").click()
    page.findChild(QToolButton, "runAutocast").click()
    passes = page.findChild(QComboBox, "runPass")
    passes.setCurrentIndex(passes.findData(True))
    page.findChild(QSpinBox, "runThreads").setValue(1)
    assert fake_document.run_settings == RunSettings(
        "cpu", 1, 8, "bfloat16", channels_last=True, autocast=True, backward=True
    )


def test_the_first_look_asks_for_devices_once(page: ProfilePage, fake_document: Any) -> None:
    assert fake_document.calls.count(("find_devices", None)) == 1
    fake_document.devices_found.emit(DEVICES)
    page.show_tab("flame")
    page.hide()
    page.show()
    assert fake_document.calls.count(("find_devices", None)) == 1


def test_devices_that_were_not_found_are_asked_for_again(
    page: ProfilePage, fake_document: Any
) -> None:
    page.hide()
    assert fake_document.calls.count(("find_devices", None)) == 1
    page.show()  # the search was cancelled meanwhile
    assert fake_document.calls.count(("find_devices", None)) == 2


def test_unavailable_devices_cannot_be_chosen_and_say_why(
    page: ProfilePage, fake_document: Any
) -> None:
    fake_document.devices_found.emit(DEVICES)
    box = page.findChild(QComboBox, "runDevice")
    model: Any = box.model()
    assert [model.item(place).isEnabled() for place in (0, 1)] == [True, False]
    assert "no driver" in model.item(1).toolTip()
    assert box.currentData() == "cpu"


def test_threads_are_the_processors_alone(qtbot: QtBot) -> None:
    form = RunForm()
    qtbot.addWidget(form)
    form.show_devices((Device("cpu", "a"), Device("cuda:0", "b")))
    threads = form.findChild(QSpinBox, "runThreads")
    threads.setValue(1)
    box = form.findChild(QComboBox, "runDevice")
    box.setCurrentIndex(1)
    assert not threads.isEnabled()
    assert form.settings == RunSettings("cuda:0")
    form.show_devices((Device("cpu", "a"),))  # it is gone
    assert form.settings.device == "cpu"


def test_the_batch_of_the_sample_input_is_said(page: ProfilePage) -> None:
    assert page.findChild(QSpinBox, "runBatch").text() == "own batch (1)"


def test_the_models_own_batch_and_one_read_differently(qtbot: QtBot) -> None:
    form = RunForm()
    qtbot.addWidget(form)
    batch = form.findChild(QSpinBox, "runBatch")
    form.show_batch(4)
    assert (batch.text(), form.settings.batch) == ("own batch (4)", 0)
    batch.setValue(1)
    assert (batch.text(), form.settings.batch) == ("batch 1", 1)


def test_memory_can_be_looked_at_instead(
    page: ProfilePage, fake_document: Any, base: Snapshot
) -> None:
    state = _memory(base.current)
    fake_document.show(replace(base, current=state, base=state))
    page.findChild(QToolButton, "show_memory").click()
    text = page.findChild(QLabel, "latencySummary").text()
    assert text == "Whole model 4.00 MB, the most of any layer"
    chart = page.findChild(object, "latencyChart")
    assert chart.read_out(0) == f"{CONV1}   4.00 MB"  # peaks have no share of a sum
    assert not chart.findChild(QToolButton, "chartShare").isEnabled()
    assert chart.caption() == "Activation memory by layer · measured · cpu · batch ?"


def test_without_a_measurement_the_tab_is_empty(
    page: ProfilePage, fake_document: Any, pruned: Snapshot
) -> None:
    assert not page.findChild(object, "profileEmpty").isVisible()
    fake_document.show(_without(pruned, "latency"), Part.METRICS)
    assert page.findChild(object, "profileEmpty").isVisible()


def test_the_overhead_and_its_cause_are_on_the_screen(base: Snapshot) -> None:
    series = base.current.table["latency"]
    sum_of_layers = sum(series.by_layer().values())
    series = replace(
        series, total=Quantity(sum_of_layers / 1.25), conditions={"overhead": "clocks"}
    )
    state = replace(base.current, table=base.current.table.with_series(series))
    text = summary(replace(base, current=state), "latency")
    assert text == "Layers 130 µs · whole 104 µs · overhead 26.1 µs (25.0 %): clocks"
    assert summary(base, "latency") == "Whole model 2.05 ms"
    assert summary(base, "memory") == ""


def test_a_limit_on_memory_is_judged_where_memory_is(base: Snapshot) -> None:
    limit = LimitStatus(Limit(METRICS["memory"], 2e6), met=False)
    shown = replace(base, current=_memory(base.current), limits=(limit,))
    assert summary(shown, "memory").endswith("· ✗ ≤ 2.00 MB")


@pytest.mark.parametrize("file", ["save_trace", "save_prof"])
def test_files_of_a_model_that_went_are_not_written(
    page: ProfilePage,
    fake_document: Any,
    base: Snapshot,
    operator_profile: OperatorProfile,
    call_profile: CallProfile,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("gui.views.flame_view.ask_and_write", lambda *_: asked.append("trace"))
    monkeypatch.setattr("gui.views.call_tree.ask_and_write", lambda *_: asked.append("prof"))
    for profile in (operator_profile, call_profile):
        fake_document.profiled.emit(Profiled("pruned", profile))
    getattr(page, file)()
    assert asked == [file.removeprefix("save_")]
    fake_document.show(base, Part.MODEL)
    getattr(page, file)()
    assert len(asked) == 1


COUNTERS = (
    CounterInfo("rapl", "the processor", "the processor", "cpu", "No permission. Run: chmod a+r x"),
    CounterInfo("nvml:0", "Toy GPU", "Toy GPU, the whole board", "cuda:0"),
)


def _energy(state: ModelState, value: Quantity) -> ModelState:
    """Measured: two layers, one that could not be run alone, the rest of the whole."""
    layers = {CONV1: {"": Quantity(2e-3)}, LayerId("head.fc"): {"": Quantity(1e-3)}}
    series = Series(
        METRICS["measured_energy"],
        value,
        layers,
        {"difference to the whole": value.value - 3e-3, "stem.conv": None},
        {"device": "cuda", "gross": "0.02 J with idle", "idle": "30 W, taken off"},
    )
    return replace(state, table=state.table.with_series(series))


def _count_energy(page: ProfilePage) -> None:
    page.findChild(QToolButton, "show_measured_energy").click()


def test_energy_is_measured_by_itself(page: ProfilePage, fake_document: Any) -> None:
    _count_energy(page)
    assert _button(page).text() == "Measure energy"
    fake_document.calls.clear()
    _button(page).click()
    assert [call for call, _ in fake_document.calls] == ["measure_energy"]
    page.findChild(QToolButton, "show_latency").click()
    assert _button(page).text() == "Measure"


def test_counters_are_looked_for_when_energy_is_looked_at(
    page: ProfilePage, fake_document: Any
) -> None:
    asked = [call for call, _ in fake_document.calls]
    assert "find_counters" not in asked
    _count_energy(page)
    assert [call for call, _ in fake_document.calls].count("find_counters") == 1
    empty = page.findChild(QLabel, "chartEmpty")
    assert empty.text() == "Energy has not been measured yet."
    fake_document.counters_found.emit(COUNTERS)
    assert empty.isVisible()
    assert empty.text().endswith(
        "Energy of the processor unavailable. No permission. Run: chmod a+r x"
    )
    page.findChild(QToolButton, "show_memory").click()
    assert "unavailable" not in empty.text()
    _count_energy(page)
    assert [call for call, _ in fake_document.calls].count("find_counters") == 1


def test_the_counter_is_that_of_the_device(page: ProfilePage, fake_document: Any) -> None:
    fake_document.devices_found.emit((DEVICES[0], Device("cuda:0", "Toy GPU")))
    _count_energy(page)
    fake_document.counters_found.emit(COUNTERS)
    devices = page.findChild(QComboBox, "runDevice")
    devices.setCurrentIndex(devices.findData("cuda:0"))
    empty = page.findChild(QLabel, "chartEmpty")
    assert empty.text().endswith("Counted: Toy GPU, the whole board.")


def test_what_the_layers_leave_of_the_measured_energy_is_told(base: Snapshot) -> None:
    now = _energy(base.current, Quantity(4e-3, 3.5e-3, 4.5e-3))
    text = summary(replace(base, current=now), "measured_energy")
    assert text == (
        "Layers 3.00 mJ · whole 4.00 mJ, between 3.50 mJ and 4.50 mJ · unattributed 1.00 mJ "
        "(25.0 %) · without a value: stem.conv · gross 0.02 J with idle · idle 30 W, taken off"
    )
    near = replace(base, current=now, base=_energy(base.base, Quantity(5e-3, 4.4e-3, 6e-3)))
    assert summary(near, "measured_energy").endswith("the intervals overlap: no order")
    far = replace(base, current=now, base=_energy(base.base, Quantity(8e-3, 7e-3, 9e-3)))
    assert summary(far, "measured_energy").endswith("base 8.00 mJ ▼ 50 %")


def test_measured_energy_is_drawn_with_its_summary(
    page: ProfilePage, fake_document: Any, pruned: Snapshot
) -> None:
    _count_energy(page)
    fake_document.show(
        replace(pruned, current=_energy(pruned.current, Quantity(4e-3))), Part.METRICS
    )
    assert not page.findChild(QLabel, "chartEmpty").isVisible()
    assert page.findChild(QLabel, "latencySummary").text().startswith("Layers 3.00 mJ")
