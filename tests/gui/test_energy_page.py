"""The energy page: what its settings ask for, what they show, and where they go in narrow docks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QLabel, QSpinBox, QToolButton, QWidget
from pytestqt.qtbot import QtBot

from engine import (
    DataInfo,
    EnergySettings,
    Hardware,
    LayerEnergy,
    Part,
    Snapshot,
    check_hardware,
    default_hardware,
    grids,
    hardware_fields,
    list_hardware,
    save_own,
)
from gui.models import energy_words
from gui.models.energy_unit import JOULES
from gui.models.hardware_choice import hardware_by_id, hardware_id, id_of
from gui.selection import Selection
from gui.settings import Settings
from gui.theme import Theme
from gui.views.energy_map import EnergyMap
from gui.views.energy_page import EnergyPage
from gui.views.folding_row import FoldingRow
from gui.views.hardware_box import HardwareBox
from gui.views.metric_chart import MetricChart

WIDE, DOCK = 1600, 900
# What the offscreen platform says of every popup.
popups = pytest.mark.qt_log_ignore(r"plugin does not support (raise|grabbing)")


pytestmark = pytest.mark.usefixtures("no_own_hardware")


@pytest.fixture
def make_page(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme, settings: Settings
) -> Callable[[], EnergyPage]:
    def make() -> EnergyPage:
        page = EnergyPage(fake_document, selection, theme, settings)
        qtbot.addWidget(page)
        page.resize(WIDE, 300)
        page.show()
        qtbot.waitExposed(page)
        return page

    return make


@pytest.fixture
def page(make_page: Callable[[], EnergyPage]) -> EnergyPage:
    return make_page()


def _find(page: QWidget, kind: type[Any], name: str) -> Any:
    found = page.findChild(kind, name)
    assert isinstance(found, kind), name
    return found


def _choose(box: QComboBox, data: object) -> None:
    """What a click on that entry does."""
    box.setCurrentIndex(box.findData(data))
    box.activated.emit(box.currentIndex())


def _asked(document: Any) -> list[EnergySettings]:
    return [settings for verb, settings in document.calls if verb == "set_energy"]


def _modelled(document: Any, settings: EnergySettings) -> None:
    """The document commits what it was asked for."""
    snapshot = document.snapshot
    energy = replace(snapshot.current.energy, settings=settings)
    document.wanted = None
    document.show(replace(snapshot, current=replace(snapshot.current, energy=energy)), Part.METRICS)


def _other() -> tuple[str, Hardware]:
    """Id and description of a shipped one that is not the default."""
    entry = next(one for one in list_hardware() if one.hardware != default_hardware())
    assert entry.hardware is not None
    return hardware_id(entry), entry.hardware


def _mine(**changes: object) -> Hardware:
    return check_hardware({**hardware_fields(default_hardware()), **changes}, "mine")


# -- hardware


def test_the_hardware_in_force_is_shown(page: EnergyPage) -> None:
    box = _find(page, HardwareBox, "energyHardware")
    assert box.currentText() == default_hardware().name
    assert "Does not skip zeros" in box.toolTip()


def test_choosing_hardware_models_energy_on_it_and_remembers_it(
    page: EnergyPage, fake_document: Any, settings: Settings
) -> None:
    id_, hardware = _other()
    _choose(_find(page, HardwareBox, "energyHardware"), id_)
    assert _asked(fake_document) == [EnergySettings(hardware)]
    assert settings.hardware == id_


def test_own_descriptions_come_last_behind_a_line_bad_ones_disabled(
    make_page: Callable[[], EnergyPage], tmp_path: Path
) -> None:
    path = save_own(_mine(), "My <b>array</b>")
    path.with_name("bad.toml").write_text("name = 3", encoding="utf-8")
    page = make_page()
    box = _find(page, HardwareBox, "energyHardware")
    texts = [box.itemText(place) for place in range(box.count())]
    shipped = [one.hardware.name for one in list_hardware() if not one.own and one.hardware]
    assert texts == [*shipped, "", "My <b>array</b>", "bad", "", "Edit a copy, add, manage…"]
    bad = box.findText("bad")
    assert not box.model().item(bad).isEnabled()
    tip = box.itemData(bad, Qt.ItemDataRole.ToolTipRole)
    assert "name" in tip
    assert "bad.toml" in tip


@popups
def test_a_new_description_is_there_when_the_list_opens(page: EnergyPage) -> None:
    box = _find(page, HardwareBox, "energyHardware")
    save_own(_mine(), "Late")
    box.showPopup()
    assert box.findText("Late") > 0
    assert box.currentText() == default_hardware().name
    box.hidePopup()


def test_hardware_without_a_file_is_still_named(page: EnergyPage, fake_document: Any) -> None:
    _modelled(fake_document, EnergySettings(_mine(name="Gone")))
    box = _find(page, HardwareBox, "energyHardware")
    assert box.currentText() == "Gone"
    _modelled(fake_document, EnergySettings())
    assert box.currentText() == default_hardware().name


def test_hardware_saved_elsewhere_is_named_each_time(page: EnergyPage, fake_document: Any) -> None:
    box = _find(page, HardwareBox, "energyHardware")
    for name in ("First", "Second"):
        save_own(_mine(name=name), name)
        _modelled(fake_document, EnergySettings(_mine(name=name)))
        assert box.currentText() == name


def test_a_new_batch_leaves_hardware_that_was_chosen_elsewhere(
    page: EnergyPage, settings: Settings
) -> None:
    id_, _ = _other()
    _choose(_find(page, HardwareBox, "energyHardware"), id_)
    settings.hardware = "own/mine"  # as the form of descriptions does
    _find(page, QSpinBox, "energyBatch").setValue(16)
    assert settings.hardware == "own/mine"


def test_a_long_name_is_elided(page: EnergyPage, fake_document: Any) -> None:
    box = _find(page, HardwareBox, "energyHardware")
    _modelled(fake_document, EnergySettings(_mine(name="W" * 60)))
    whole = box.grab().toImage()
    _modelled(fake_document, EnergySettings(_mine(name="W" * 60 + "i")))
    assert box.grab().toImage() != whole  # the end of the name shows


def test_the_last_entry_leads_to_the_forms(
    page: EnergyPage, fake_document: Any, qtbot: QtBot
) -> None:
    box = _find(page, HardwareBox, "energyHardware")
    with qtbot.waitSignal(page.forms_wanted):
        _choose(box, "manage")
    assert box.currentText() == default_hardware().name
    assert not _asked(fake_document)


def test_an_id_tells_own_from_shipped_descriptions() -> None:
    save_own(_mine(), "eyeriss isca2016")
    entries = list_hardware()
    ids = [hardware_id(entry) for entry in entries]
    assert len(set(ids)) == len(ids)
    assert hardware_by_id(entries, "eyeriss_isca2016") == default_hardware()
    assert hardware_by_id(entries, "no such") is None
    assert id_of(entries, default_hardware()) == "eyeriss_isca2016"
    assert id_of(entries, _mine(name="unknown")) == ""


# -- dataflow, batch and bits


def test_each_field_asks_for_its_setting(
    page: EnergyPage, fake_document: Any, settings: Settings
) -> None:
    _find(page, QSpinBox, "energyBatch").setValue(16)
    _choose(_find(page, QComboBox, "energyBits"), 8)
    _choose(_find(page, QComboBox, "energyDataflow"), "weight-stationary")
    assert _asked(fake_document) == [
        EnergySettings(batch=16),
        EnergySettings(batch=16, bits=8),
        EnergySettings(batch=16, bits=8, dataflow="weight-stationary"),
    ]
    assert settings.dataflow == "weight-stationary"


def test_fields_follow_what_is_in_force(page: EnergyPage, fake_document: Any) -> None:
    _, hardware = _other()
    _modelled(fake_document, EnergySettings(hardware, "output-stationary", 4, 2))
    assert _find(page, HardwareBox, "energyHardware").currentText() == hardware.name
    assert _find(page, QComboBox, "energyDataflow").currentText() == "output-stationary"
    assert _find(page, QSpinBox, "energyBatch").value() == 4
    assert _find(page, QComboBox, "energyBits").currentText() == "2 bit"
    assert not _asked(fake_document)


def test_what_was_refused_gives_way_to_what_is_in_force(
    page: EnergyPage, fake_document: Any
) -> None:
    batch = _find(page, QSpinBox, "energyBatch")
    batch.setValue(7)
    assert fake_document.wanted == EnergySettings(batch=7)
    fake_document.wanted = None
    fake_document.modelling_changed.emit()
    assert batch.value() == 0
    assert batch.text() == "own batch (1)"
    batch.setValue(7)  # may be asked for again
    assert len(_asked(fake_document)) == 2


def test_other_news_leave_what_was_asked_for(page: EnergyPage, fake_document: Any) -> None:
    batch = _find(page, QSpinBox, "energyBatch")
    batch.setValue(7)
    fake_document.show(fake_document.snapshot, Part.METRICS)
    assert batch.value() == 7


# -- grouping, unit and views


def test_grouping_reaches_both_views_and_is_remembered(
    page: EnergyPage, settings: Settings
) -> None:
    chart = page.findChild(MetricChart)
    assert list(chart.bars.parts) == ["compute", "weights", "input", "output"]
    _find(page, QToolButton, "energyByLevel").click()
    assert chart.bars is not None
    assert list(chart.bars.parts) == ["compute", "registers", "buffer", "DRAM"]
    assert settings.grouping == "level"
    settings.grouping = "data type"  # as the menu does
    assert _find(page, QToolButton, "energyByData").isChecked()
    assert list(chart.bars.parts) == ["compute", "weights", "input", "output"]


def test_the_unit_is_that_of_the_chosen_hardware(
    page: EnergyPage, fake_document: Any, settings: Settings
) -> None:
    assert page.unit == JOULES
    _choose(_find(page, QComboBox, "energyUnit"), "MAC")
    assert page.unit.per_joule == pytest.approx(1 / 2e-12)
    assert settings.energy_unit == "MAC"
    _, hardware = _other()
    fake_document.wanted = EnergySettings(hardware)  # what is shown is still of the one before
    assert page.unit.per_joule == pytest.approx(1 / 2e-12)
    _modelled(fake_document, EnergySettings(hardware))
    assert page.unit.per_joule == pytest.approx(1 / hardware.joules_per_mac)


def test_a_grid_is_asked_for_with_co2_alone(page: EnergyPage, settings: Settings) -> None:
    box = _find(page, QComboBox, "energyGrid")
    assert not box.isVisible()
    _choose(_find(page, QComboBox, "energyUnit"), "CO2")
    assert box.isVisible()
    assert page.unit.note.startswith(grids()[0].name)
    last = grids()[-1]
    _choose(box, last.name)
    assert settings.grid == last.name
    assert page.unit.per_joule == pytest.approx(1000 / 3.6e6 * last.grams_per_kwh)


def test_bars_or_map(page: EnergyPage) -> None:
    assert page.shown == "bars"
    _find(page, QToolButton, "energyAreas").click()
    assert page.shown == "map"
    assert page.findChild(EnergyMap).isVisible()
    page.show_view("bars")
    assert _find(page, QToolButton, "energyBars").isChecked()
    assert page.findChild(MetricChart).isVisible()


def test_what_was_chosen_is_there_after_a_restart(
    settings: Settings, make_page: Callable[[], EnergyPage]
) -> None:
    settings.grouping, settings.energy_unit, settings.grid = "level", "CO2", "Norway"
    page = make_page()
    assert _find(page, QToolButton, "energyByLevel").isChecked()
    assert _find(page, QComboBox, "energyGrid").currentText() == "Norway"
    assert "Norway" in page.findChild(MetricChart).caption()


def test_nonsense_in_the_settings_is_the_default(
    settings: Settings, make_page: Callable[[], EnergyPage]
) -> None:
    settings.grid = "Atlantis"
    settings.energy_unit = "calories"  # type: ignore[assignment]
    settings.dataflow = "sideways"  # type: ignore[assignment]
    assert make_page().unit == JOULES
    assert settings.dataflow == "row-stationary"


def test_without_a_model_nothing_can_be_set(
    fake_document: Any, make_page: Callable[[], EnergyPage]
) -> None:
    fake_document.snapshot = None
    page = make_page()
    assert not _find(page, QComboBox, "energyBits").isEnabled()


# -- zeros


def _skipping(snapshot: Snapshot, saved: float, measured: bool) -> Snapshot:
    """The snapshot on hardware that skips zeros, as a tenth of the energy or so."""
    hardware = _mine(
        name="Skipper",
        sparsity=hardware_fields(default_hardware())["sparsity"] | {"gates_zero_inputs": True},  # type: ignore[operator]
    )
    energy = snapshot.current.energy
    told = {layer: replace(one, saved=0.0) for layer, one in energy.layers.items()}
    told[next(iter(told))] = LayerEnergy(saved=saved)
    energy = replace(
        energy, settings=EnergySettings(hardware), layers=told, zeros_measured=measured
    )
    return replace(snapshot, current=replace(snapshot.current, energy=energy))


def test_zeros_need_hardware_that_skips_them(page: EnergyPage) -> None:
    label = _find(page, QLabel, "zerosText")
    assert label.text() == "skips no zeros"
    assert not _find(page, QToolButton, "measureZeros").isVisible()
    assert "does not skip zeros" in label.toolTip()


def test_what_zeros_save_is_a_share_of_the_energy_without_that(
    page: EnergyPage, fake_document: Any
) -> None:
    total = fake_document.snapshot.current.energy.series.total.value
    fake_document.show(_skipping(fake_document.snapshot, total / 3, True))
    label = _find(page, QLabel, "zerosText")
    assert label.text() == "zeros save 25.0 %"
    assert "Skipper skips zeros" in label.toolTip()
    fake_document.show(_skipping(fake_document.snapshot, total / 3, False))
    assert label.text() == "zeros save 25.0 % so far"
    assert "not measured" in label.toolTip()
    fake_document.show(_skipping(fake_document.snapshot, 0.0, True))
    assert label.text() == "no zeros to skip"


def test_zeros_are_measured_on_data(page: EnergyPage, fake_document: Any) -> None:
    button = _find(page, QToolButton, "measureZeros")
    assert not button.isEnabled()
    assert "Choose data" in button.toolTip()
    data = DataInfo("digits", 1_000, 360)
    skipping = _skipping(fake_document.snapshot, 0.0, False)
    fake_document.show(replace(skipping, data=data), Part.DATA | Part.METRICS)
    assert button.isVisible()
    button.click()
    assert fake_document.calls[-1] == ("measure_zeros", None)


def test_many_operators_without_a_rule_are_counted(pruned: Snapshot) -> None:
    told = {next(iter(pruned.current.energy.layers)): LayerEnergy(unmodelled=tuple("edcba"))}
    energy = replace(pruned.current.energy, layers=told)
    assert energy_words.conditions(energy)[-1] == "not modelled: a, b, c and 2 more"


# -- room


def test_a_wide_page_shows_every_setting(page: EnergyPage) -> None:
    row = page.findChild(FoldingRow)
    assert row.folded == []
    assert not _find(page, QToolButton, "foldedSettings").isVisible()
    assert _find(page, QComboBox, "energyDataflow").isVisible()


@popups
def test_a_dock_folds_what_does_not_fit(page: EnergyPage, fake_document: Any) -> None:
    page.resize(DOCK, 230)
    row, batch = page.findChild(FoldingRow), _find(page, QSpinBox, "energyBatch")
    assert batch in row.folded
    assert not batch.isVisible()
    for widget in page.findChildren(QToolButton):
        if widget.isVisible() and widget.parent() is row:
            assert widget.geometry().right() <= row.width()
    _find(page, QToolButton, "foldedSettings").click()
    assert batch.isVisible()
    batch.setValue(3)
    assert _asked(fake_document) == [EnergySettings(batch=3)]
    page.resize(WIDE, 230)
    assert row.folded == []
    assert batch.isVisible()
    assert batch.value() == 3
    assert not _find(page, QWidget, "foldedPanel").isVisible()


@pytest.mark.parametrize("width", [200, 400, 640, 900, 1100, 1300, 2000])
def test_no_width_breaks_the_page(page: EnergyPage, fake_document: Any, width: int) -> None:
    fake_document.show(_skipping(fake_document.snapshot, 0.0, False))
    page.resize(width, 200)
    page.grab()
    fields = [
        _find(page, QWidget, name)
        for name in ("measureZeros", "energyUnit", "energyBatch", "energyBits", "energyDataflow")
    ]
    row = page.findChild(FoldingRow)
    assert {*row.folded} == {field for field in fields if not field.isVisible()}
    _find(page, QToolButton, "energyAreas").click()
    page.grab()


def test_both_looks_differ(page: EnergyPage, theme: Theme) -> None:
    light = page.grab().toImage()
    theme.set_mode("dark")
    assert page.grab().toImage() != light
