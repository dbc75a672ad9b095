"""The form for descriptions of hardware: a copy, checked as it is typed, kept as the user's own."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QLabel,
    QLineEdit,
    QListWidget,
    QPlainTextEdit,
    QPushButton,
)
from pytestqt.qtbot import QtBot

from engine import (
    EnergySettings,
    HardwareEntry,
    default_hardware,
    hardware_fields,
    list_hardware,
    own_folder,
    read_hardware,
    save_own,
    with_buffer,
    write_hardware,
)
from gui.dialogs.hardware import HardwareDialog
from gui.models.hardware_choice import hardware_id
from gui.models.hardware_fields import GROUPS, checked, content_of, values_of
from gui.settings import Settings

SHIPPED = [entry for entry in list_hardware() if not entry.own]


pytestmark = pytest.mark.usefixtures("no_own_hardware")


@pytest.fixture
def dialog(qtbot: QtBot, fake_document: Any, settings: Settings) -> HardwareDialog:
    dialog = HardwareDialog(fake_document, settings)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)  # pytest-qt closes it
    qtbot.addWidget(dialog, before_close_func=HardwareDialog.discard)
    dialog.show()
    return dialog


def _find(dialog: QDialog, kind: type[Any], name: str) -> Any:
    found = dialog.findChild(kind, name)
    assert isinstance(found, kind), name
    return found


def _type(dialog: QDialog, field: str, text: str) -> None:
    _find(dialog, QLineEdit, f"field_{field}").setText(text)


def _click(dialog: QDialog, name: str) -> None:
    button = _find(dialog, QPushButton, f"hardware_{name}")
    assert button.isEnabled(), name
    button.click()


def _choose(dialog: QDialog, text: str) -> None:
    names = _find(dialog, QListWidget, "hardware_list")
    texts = [names.item(place).text() for place in range(names.count())]
    names.setCurrentRow(next(place for place, one in enumerate(texts) if one.startswith(text)))


def _message(dialog: QDialog) -> str:
    return str(_find(dialog, QLabel, "hardware_message").text()).replace("\u200b", "")


def _own() -> list[HardwareEntry]:
    return [entry for entry in list_hardware() if entry.own]


# -- values


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.key)
def test_a_form_gives_back_what_it_was_filled_with(entry: HardwareEntry) -> None:
    assert entry.hardware is not None
    assert checked(values_of(entry.hardware)) == entry.hardware


def test_every_field_of_a_description_is_in_the_form() -> None:
    with_speed = next(one.hardware for one in SHIPPED if one.hardware and one.hardware.speed)
    names = {field.name for group in GROUPS for field in group.fields} - {"register_file"}
    assert names == set(_leaves(hardware_fields(with_speed)))


def _leaves(fields: Any, above: str = "") -> list[str]:
    if not isinstance(fields, dict):
        return [above]
    return [
        name
        for key, value in fields.items()
        for name in _leaves(value, f"{above}.{key}" if above else key)
    ]


@given(size=st.integers(1024, 2**30), dram=st.floats(1e-3, 1e9))
def test_numbers_keep_every_digit(size: int, dram: float) -> None:
    hardware = default_hardware()
    hardware = replace(
        hardware,
        global_buffer=replace(hardware.global_buffer, bytes=size),
        cost=replace(hardware.cost, dram=dram),
    )
    assert checked(values_of(hardware)) == hardware


def test_what_is_left_out_is_not_in_the_file() -> None:
    values = values_of(default_hardware())
    assert "speed" not in content_of(values)
    content = content_of(values | {"register_file": "one for each data type"})
    assert "shared_bytes" not in content["register_file"]  # type: ignore[operator]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.title)
def test_every_field_has_a_sentence(group: Any) -> None:
    for field in group.fields:
        assert field.tip[0].isupper()
        assert field.tip.endswith(".")
        assert field.title


# -- the form


def test_the_description_in_use_is_shown_first(dialog: HardwareDialog) -> None:
    line = _find(dialog, QLineEdit, "field_name")
    assert line.text() == default_hardware().name
    assert not _find(dialog, QPushButton, "hardware_save").isEnabled()
    assert _find(dialog, QPushButton, "hardware_use").text() == "Use"
    assert not _find(dialog, QPushButton, "hardware_delete").isEnabled()


@pytest.mark.parametrize(
    ("field", "text", "reason"),
    [
        ("cost.dram", "-3", "greater than or equal to 0"),
        ("array.rows", "many", "whole number"),
        ("array.rows", "1.5", "whole number"),
        ("cost.mac", "1_0", "number"),
        ("name", " ", "blank"),
        ("cost.mac", "inf", ""),
    ],
)
def test_what_is_wrong_is_said_at_the_field(
    dialog: HardwareDialog, field: str, text: str, reason: str
) -> None:
    _type(dialog, field, text)
    problem = _find(dialog, QLabel, f"problem_{field}")
    assert problem.isVisible()
    assert reason in problem.text()
    assert _find(dialog, QLineEdit, f"field_{field}").property("invalid")
    assert _message(dialog).startswith(f"{field}: ")
    assert not _find(dialog, QPushButton, "hardware_use").isEnabled()
    assert dialog.save() == ""
    _type(dialog, field, "16" if field != "name" else "Right")
    assert not problem.isVisible()
    assert _message(dialog) == ""


def test_a_register_file_of_one_kind_hides_the_sizes_of_the_other(dialog: HardwareDialog) -> None:
    shared = _find(dialog, QLineEdit, "field_register_file.shared_bytes")
    weights = _find(dialog, QLineEdit, "field_register_file.weights_bytes")
    assert (shared.isVisible(), weights.isVisible()) == (True, False)
    box = _find(dialog, QComboBox, "field_register_file")
    box.setCurrentIndex(1)
    assert (shared.isVisible(), weights.isVisible()) == (False, True)
    for data in ("weights", "input", "output"):
        _type(dialog, f"register_file.{data}_bytes", "64")
    _click(dialog, "save")
    (entry,) = _own()
    assert entry.hardware is not None
    assert entry.hardware.register_file.shared_bytes == 0
    assert entry.hardware.register_file.output_bytes == 64


def test_speed_can_be_unknown(dialog: HardwareDialog) -> None:
    clock = _find(dialog, QLineEdit, "field_speed.clock_hertz")
    assert not clock.isVisible()
    _find(dialog, QCheckBox, "field_speed").setChecked(True)
    assert clock.isVisible()
    assert _message(dialog).startswith("speed.clock_hertz: ")
    clock.setText("200e6")
    _type(dialog, "speed.dram_bytes_per_second", "1e9")
    _find(dialog, QPlainTextEdit, "field_speed.source").setPlainText("a guess")
    _click(dialog, "save")
    (entry,) = _own()
    assert entry.hardware is not None
    assert entry.hardware.speed is not None
    assert entry.hardware.speed.clock_hertz == 200e6


def test_another_buffer_offers_its_cost(dialog: HardwareDialog) -> None:
    offer = _find(dialog, QPushButton, "bufferOffer")
    assert not offer.isVisible()
    _type(dialog, "global_buffer.bytes", "65536")
    assert offer.isVisible()
    expected = with_buffer(default_hardware(), 65536).cost.global_buffer
    assert f"{expected:.4g} MAC" in offer.text()
    offer.click()
    assert not offer.isVisible()
    cost = _find(dialog, QLineEdit, "field_cost.global_buffer")
    assert float(cost.text()) == expected
    source = _find(dialog, QPlainTextEdit, "field_cost.source").toPlainText()
    assert "sram_cost" in source
    _type(dialog, "global_buffer.bytes", "32768")
    assert offer.isVisible()
    cost.setText("7")  # typed by hand
    assert not offer.isVisible()


# -- files


def test_a_copy_is_saved_and_the_shipped_one_stays(
    dialog: HardwareDialog, fake_document: Any, settings: Settings
) -> None:
    _type(dialog, "cost.dram", "100")
    _click(dialog, "save")
    (entry,) = _own()
    assert entry.hardware is not None
    assert entry.hardware.cost.dram == 100
    assert entry.hardware.name == f"{default_hardware().name} 2"
    assert read_hardware(SHIPPED[0].path) == SHIPPED[0].hardware
    assert "Saved as" in _message(dialog)
    assert not fake_document.calls
    assert settings.hardware == ""


def test_an_own_one_is_saved_over_itself_and_used_again_where_it_is(
    qtbot: QtBot, fake_document: Any, settings: Settings
) -> None:
    path = save_own(default_hardware(), "Mine")
    mine = read_hardware(path)
    fake_document.wanted = EnergySettings(mine, batch=4)
    dialog = HardwareDialog(fake_document, settings)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)  # pytest-qt closes it
    qtbot.addWidget(dialog)
    assert _find(dialog, QLineEdit, "field_name").text() == "Mine"
    _type(dialog, "cost.dram", "50")
    _click(dialog, "save")
    (entry,) = _own()
    assert entry.path == path
    assert entry.hardware is not None
    assert fake_document.calls == [("set_energy", EnergySettings(entry.hardware, batch=4))]


def test_save_and_use_models_energy_on_it(
    dialog: HardwareDialog, fake_document: Any, settings: Settings
) -> None:
    _type(dialog, "name", "Mine")
    _type(dialog, "word_bits", "8")
    _click(dialog, "use")
    (entry,) = _own()
    assert entry.hardware is not None
    assert entry.hardware.word_bits == 8
    assert fake_document.calls == [("set_energy", EnergySettings(entry.hardware))]
    assert settings.hardware == hardware_id(entry) == "own/mine"
    assert not dialog.isVisible()


def test_an_unchanged_one_is_used_without_a_copy(
    dialog: HardwareDialog, fake_document: Any, settings: Settings
) -> None:
    other = next(one for one in SHIPPED if one.hardware != default_hardware())
    assert other.hardware is not None
    _choose(dialog, other.hardware.name)
    _click(dialog, "use")
    assert fake_document.calls == [("set_energy", EnergySettings(other.hardware))]
    assert settings.hardware == other.key
    assert not _own()


def test_without_a_model_the_choice_is_kept_for_the_next(
    qtbot: QtBot, fake_document: Any, settings: Settings
) -> None:
    fake_document.snapshot = None
    dialog = HardwareDialog(fake_document, settings)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)  # pytest-qt closes it
    qtbot.addWidget(dialog)
    _choose(dialog, default_hardware().name)
    _click(dialog, "use")
    assert settings.hardware == "eyeriss_isca2016"
    assert not fake_document.calls


def test_what_was_typed_stays_while_another_is_looked_at(dialog: HardwareDialog) -> None:
    other = next(one for one in SHIPPED if one.hardware != default_hardware())
    assert other.hardware is not None
    _type(dialog, "cost.dram", "123")
    _choose(dialog, other.hardware.name)
    assert _find(dialog, QLineEdit, "field_cost.dram").text() != "123"
    _choose(dialog, default_hardware().name)
    assert _find(dialog, QLineEdit, "field_cost.dram").text() == "123"


def test_what_was_typed_is_not_lost_unasked(dialog: HardwareDialog, qtbot: QtBot) -> None:
    _type(dialog, "array.rows", "12")
    dialog.close()
    assert dialog.isVisible()
    question = _find(dialog, QDialog, "hardware_discard_question")
    assert default_hardware().name in " ".join(
        label.text() for label in question.findChildren(QLabel)
    )
    with qtbot.waitSignal(dialog.finished):
        question.accept()
    assert not _own()


def test_import_keeps_a_copy(dialog: HardwareDialog, tmp_path: Path) -> None:
    path = tmp_path / "theirs.toml"
    write_hardware(replace(default_hardware(), name="Theirs"), path)
    dialog.import_file(str(path))
    (entry,) = _own()
    assert entry.path.parent == own_folder()
    assert _find(dialog, QLineEdit, "field_name").text() == "Theirs"
    assert _find(dialog, QPushButton, "hardware_delete").isEnabled()


def test_a_bad_file_is_refused_with_field_and_reason(
    dialog: HardwareDialog, tmp_path: Path
) -> None:
    path = tmp_path / "bad.toml"
    write_hardware(default_hardware(), path)
    path.write_text(path.read_text("utf-8").replace("rows = 16", "rows = 0"), "utf-8")
    dialog.import_file(str(path))
    assert "bad.toml: array.rows: " in _message(dialog)
    assert "Mend the field" in _message(dialog)
    assert not _own()
    dialog.import_file(str(tmp_path / "missing.toml"))
    assert "missing.toml" in _message(dialog)


def test_export_writes_what_the_form_holds(dialog: HardwareDialog, tmp_path: Path) -> None:
    path = tmp_path / "out.toml"
    _type(dialog, "cost.dram", "77")
    dialog.export_file(str(path))
    assert tomllib.loads(path.read_text("utf-8"))["cost"]["dram"] == 77
    dialog.export_file(str(tmp_path / "no such folder" / "out.toml"))
    assert "no such folder" in _message(dialog)


def test_an_own_one_is_deleted_after_a_question(dialog: HardwareDialog, qtbot: QtBot) -> None:
    _type(dialog, "name", "Mine")
    _click(dialog, "save")
    _click(dialog, "delete")
    name = "hardware_delete_question"
    _find(dialog, QDialog, name).reject()
    qtbot.waitUntil(lambda: dialog.findChild(QDialog, name) is None)
    assert _own()
    _click(dialog, "delete")
    _find(dialog, QDialog, name).accept()
    assert not _own()
    assert _find(dialog, QListWidget, "hardware_list").count() == len(SHIPPED)


def test_a_bad_own_file_says_why_and_can_be_deleted(
    qtbot: QtBot, fake_document: Any, settings: Settings
) -> None:
    path = save_own(default_hardware(), "Mine")
    path.write_text("name = <b>", encoding="utf-8")
    dialog = HardwareDialog(fake_document, settings)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)  # pytest-qt closes it
    qtbot.addWidget(dialog)
    _choose(dialog, path.name)
    about = _find(dialog, QLabel, "hardware_about")
    assert "is not a hardware description" in about.text()
    assert not _find(dialog, QPushButton, "hardware_use").isEnabled()
    assert not _find(dialog, QPushButton, "hardware_save").isEnabled()
    dialog.delete()
    assert not path.exists()
