"""What the Help menu shows."""

import re
import tomllib
from typing import get_args

import pytest
from PySide6.QtWidgets import QDialog, QTextBrowser, QWidget
from pytestqt.qtbot import QtBot

from engine import Spread, check_hardware, hardware_fields, list_hardware, resource
from gui import help_dialogs
from gui.models.edit_fields import edit_fields
from gui.models.edit_words import FAMILIES, choice_words, family_words, field_words, way_words
from gui.models.sensitivity_cells import reading_words


@pytest.fixture
def parent(qtbot: QtBot) -> QWidget:
    widget = QWidget()
    qtbot.addWidget(widget)
    return widget


def test_the_page_on_formats_names_them_all(parent: QWidget) -> None:
    help_dialogs.show_formats(parent)
    dialog = parent.findChild(QDialog, "formats")
    text = dialog.findChild(QTextBrowser, "formats_page").toPlainText()
    for name in (".safetensors", ".npz", ".pt2", "ONNX", "TorchScript", "factory", "catalogue"):
        assert name in text
    assert "|" not in text, "the table was understood as one"
    dialog.close()


def test_the_page_on_energy_names_all_hardware(parent: QWidget) -> None:
    help_dialogs.show_energy(parent)
    dialog = parent.findChild(QDialog, "energy")
    text = dialog.findChild(QTextBrowser, "energy_page").toPlainText()
    shipped = [entry.key for entry in list_hardware() if not entry.own]
    assert shipped
    for name in (*shipped, "clock and control power", "not modelled", "RAPL", "NVML", "CO₂"):
        assert name in text
    assert "|" not in text, "the tables were understood as such"
    dialog.close()


def test_the_page_on_pruning_names_what_the_panel_offers(parent: QWidget) -> None:
    help_dialogs.show_pruning(parent)
    dialog = parent.findChild(QDialog, "pruning")
    text = dialog.findChild(QTextBrowser, "pruning_page").toPlainText()
    families = [title for title, _ in family_words(str).values()]
    criteria = [
        choice_words("criterion", choice, method, str)[0]
        for method in ("prune-channels", "prune-weights", "prune-heads")
        for field in edit_fields(method)
        if field.name == "criterion"
        for choice in field.choices
    ]
    spreads = [choice_words("spread", one, "prune-channels", str)[0] for one in get_args(Spread)]
    for name in (*families, *criteria, *spreads, "McNemar", "2:4", "before recovery", "resnet50"):
        assert name in text, name
    assert "|" not in text, "the tables were understood as such"
    dialog.close()


def test_the_page_on_quantization_names_what_the_panel_offers(parent: QWidget) -> None:
    help_dialogs.show_quantization(parent)
    dialog = parent.findChild(QDialog, "quantization")
    text = dialog.findChild(QTextBrowser, "quantization_page").toPlainText()
    ways = [title for way, (title, _) in way_words(str).items() if way in FAMILIES["quantize"]]
    first = [word.split()[0] for word in ways]  # Round, Cast, Equalize, Smooth
    titles = [field_words("quantize", str)[name][0] for name in (
        "weight_bits", "activations", "granularity", "rounding", "bias_correction")]  # fmt: skip
    for name in (*first, *titles, "GPTQ", "AdaRound", "w4a8", "Quantization-aware", "VNNI"):
        assert name.casefold() in text.casefold(), name
    assert "|" not in text, "the tables were understood as such"
    dialog.close()


def test_the_example_of_ones_own_hardware_is_a_description_with_every_field() -> None:
    page = resource("help/energy.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    fields = tomllib.loads(example)
    every = hardware_fields(check_hardware(fields, "the example"))
    without = {"shared_bytes"}  # the other way to give the sizes of registers
    for name, value in every.items():
        if isinstance(value, dict):
            assert set(value) - without == set(fields[name]), name
    assert set(every) == set(fields)


def test_the_page_on_sensitivity_explains_what_the_map_shows(parent: QWidget) -> None:
    help_dialogs.show_sensitivity(parent)
    dialog = parent.findChild(QDialog, "sensitivity")
    text = dialog.findChild(QTextBrowser, "sensitivity_page").toPlainText()
    readings = [title for title, _ in reading_words(str).values() if title != "Estimate"]
    for name in (*readings, "estimate", "All but this layer", "coupled", "Distiller", "95 %"):
        assert name.lower() in text.lower(), name
    assert "|" not in text, "the table was understood as one"
    dialog.close()
