"""Preferences: defaults, types and what survives a restart."""

from pathlib import Path

import pytest
from PySide6.QtCore import QByteArray
from pytestqt.qtbot import QtBot

from gui.settings import RECENT_LIMIT, Settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.ini"


def test_at_first(path: Path) -> None:
    settings = Settings(path)
    assert settings.theme_mode == "system"
    assert settings.measure_after_edit
    assert (settings.hardware, settings.dataflow) == ("", "row-stationary")
    assert (settings.grouping, settings.energy_unit, settings.grid) == ("data type", "J", "")
    assert settings.recent == ()
    assert settings.geometry.isEmpty()
    assert settings.layout.isEmpty()


def test_what_is_set_survives(path: Path) -> None:
    settings = Settings(path)
    settings.theme_mode = "dark"
    settings.measure_after_edit = False
    settings.hardware, settings.dataflow = "own/mine", "weight-stationary"
    settings.grouping, settings.energy_unit, settings.grid = "level", "CO2", "Norway"
    settings.add_recent("resnet50")
    settings.save_window(QByteArray(b"where"), QByteArray(b"how"))
    del settings  # writes what is left to write
    again = Settings(path)
    assert again.theme_mode == "dark"
    assert not again.measure_after_edit
    assert (again.hardware, again.dataflow) == ("own/mine", "weight-stationary")
    assert (again.grouping, again.energy_unit, again.grid) == ("level", "CO2", "Norway")
    assert again.recent == ("resnet50",)
    assert (again.geometry, again.layout) == (QByteArray(b"where"), QByteArray(b"how"))
    assert path.read_text(encoding="utf-8").startswith("[General]")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_any_number_of_recent_models_survives(path: Path, count: int) -> None:
    settings = Settings(path)
    for number in range(count):
        settings.add_recent(f"/models/{number}, one.safetensors")
    del settings
    assert len(Settings(path).recent) == count


def test_recent_models_are_unique_the_last_first_and_few(path: Path) -> None:
    settings = Settings(path)
    for number in range(RECENT_LIMIT + 3):
        settings.add_recent(str(number))
    settings.add_recent("5")
    assert len(settings.recent) == RECENT_LIMIT
    assert settings.recent[0] == "5"
    assert settings.recent.count("5") == 1
    settings.clear_recent()
    assert settings.recent == ()


def test_nonsense_in_the_file_is_no_theme(path: Path) -> None:
    path.write_text("[General]\ntheme=plaid\n", encoding="utf-8")
    assert Settings(path).theme_mode == "system"


def test_changes_are_told(path: Path, qtbot: QtBot) -> None:
    settings = Settings(path)
    with qtbot.waitSignal(settings.changed):
        settings.measure_after_edit = False
