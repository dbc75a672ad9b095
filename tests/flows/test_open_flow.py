"""Opening what engineers have, through the real window: questions, answers, what is shown then."""

from functools import partial
from pathlib import Path

import pytest
import torch
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QTableWidget,
)
from torchvision.models import squeezenet1_1

from engine import METRICS
from gui import dialogs
from gui.views.catalogue_view import CatalogueView
from gui.views.picture_strip import PictureStrip

NET = """
import torch
from pathlib import Path
Path({mark!r}).write_text("ran")

def make(width=4):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, width))
"""

GREY = """
from torch import nn
from torchvision.models import squeezenet1_1

def make():
    model = squeezenet1_1()
    model.features[0] = nn.Conv2d(1, 64, 3, 2)
    return model
"""


@pytest.fixture
def asking(desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A window that asks, on a machine without any weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    desk.document.answerer = partial(dialogs.answer, desk.document, desk.window)
    desk.settings.measure_after_edit = False
    return desk


def _dialog(desk, name: str) -> QDialog:
    desk.settle()
    found = desk.window.findChild(QDialog, name)
    assert isinstance(found, QDialog), (name, desk.errors)
    return found


def _click(desk, name: str) -> None:
    button = desk.window.findChild(QPushButton, name)
    assert isinstance(button, QPushButton), name
    button.click()
    desk.settle()


def _give_input(desk, text: str) -> None:
    line = _dialog(desk, "inputs").findChild(QLineEdit, "input_shape")
    line.setText(text)
    line.textEdited.emit(text)
    _click(desk, "inputs_accept")


def test_a_state_dict_is_recognised_and_says_so(asking, tmp_path: Path) -> None:
    path = tmp_path / "<b>weights</b>.pt"
    path.parent.mkdir()  # the name holds a separator
    torch.save(squeezenet1_1().state_dict(), path)
    asking.drop(path)
    asking.settle()
    assert not asking.errors
    assert asking.snapshot.model.trained
    note = asking.window.findChild(QLabel, "notesText")
    assert "squeezenet1_1" in note.text()
    assert "52 of 52" in note.text()
    asking.trigger("model_information")
    lines = _dialog(asking, "information").findChildren(QLineEdit)
    assert str(path) in [line.text() for line in lines]
    _dialog(asking, "information").close()


@pytest.mark.slow
def test_tensors_of_no_catalogued_model_open_by_a_factory(asking, tmp_path: Path) -> None:
    path, factory = tmp_path / "grey.pt", tmp_path / "grey.py"
    tensors = squeezenet1_1().state_dict()
    tensors["features.0.weight"] = tensors["features.0.weight"][:, :1].clone()
    torch.save(tensors, path)
    factory.write_text(GREY)
    asking.drop(path)
    dialog = _dialog(asking, "architecture")
    table = dialog.findChild(QTableWidget)
    assert [table.item(0, place).text() for place in (0, 1)] == ["squeezenet1_1", "51 of 52"]
    differing = dialog.findChild(QPlainTextEdit, "architecture_differing").toPlainText()
    assert "features.0.weight" in differing
    dialog.findChild(QLineEdit, "architecture_other").setText(f"{factory}:make")
    _click(asking, "architecture_accept")
    _dialog(asking, "consent")
    _click(asking, "consent_accept")
    _give_input(asking, "1x1x64x64")
    assert not asking.errors
    assert asking.snapshot.model.input_shape[1] == 1


def test_a_pickled_module_opens_only_after_consent(asking, tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 4)), path)
    asking.drop(path)
    runs = _dialog(asking, "consent").findChild(QPlainTextEdit, "consent_runs").toPlainText()
    assert "Sequential" in runs
    assert asking.document.snapshot is None
    _click(asking, "consent_accept")
    _give_input(asking, "1x2x4")
    assert not asking.errors
    assert asking.snapshot.current.tree[""].output_shape == (1, 4)


def test_a_dropped_python_file_asks_for_its_function_and_runs_after_consent(
    asking, tmp_path: Path
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "net.py"
    path.write_text(NET.format(mark=str(mark)))
    asking.drop(path)
    dialog = _dialog(asking, "factory")
    assert dialog.findChild(QComboBox, "factory_function").currentText() == "make"
    dialog.findChild(QLineEdit, "factory_arguments").setText("width=6")
    _click(asking, "factory_accept")
    _dialog(asking, "consent")
    assert not mark.exists()
    _click(asking, "consent_accept")
    assert mark.exists()
    _give_input(asking, "1x8")
    assert not asking.errors
    assert asking.snapshot.current.tree[""].output_shape == (1, 6)


def test_refusing_consent_runs_nothing_and_keeps_the_model(asking, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "net.py"
    path.write_text(NET.format(mark=str(mark)))
    asking.trigger("open_demo")
    asking.settle()
    asking.drop(path)
    _click(asking, "factory_accept")
    _click(asking, "consent_cancel")
    assert not mark.exists()
    assert asking.snapshot.model.source == "demo"
    assert not asking.errors


@pytest.mark.slow
def test_a_catalogue_model_without_its_weights(asking) -> None:
    asking.trigger("show_catalogue")
    asking.settle()
    view = asking.window.findChild(CatalogueView)
    assert view.isVisible()
    line = view.findChild(QLineEdit, "catalogueFilter")
    line.setText("squeezenet1_1")
    asking.qtbot.keyClick(line, Qt.Key.Key_Return)
    dialog = _dialog(asking, "weights")
    assert "pytorch.org" in "".join(label.text() for label in dialog.findChildren(QLabel))
    _click(asking, "weights_random")
    assert not asking.errors
    assert not asking.snapshot.model.trained
    assert not view.isVisible()
    assert asking.window.findChild(QLabel, "figureBadge").isVisible()
    asking.trigger("show_catalogue")
    assert view.isVisible()
    view.left.emit()
    assert not view.isVisible()


def test_data_are_chosen_by_what_is_seen_of_them(asking) -> None:
    asking.trigger("open_demo")
    asking.settle()
    asking.trigger("choose_data")
    dialog = _dialog(asking, "data")
    strip = dialog.findChild(PictureStrip)
    asking.qtbot.waitUntil(lambda: bool(strip.samples), timeout=20_000)
    assert {sample.label for sample in strip.samples} <= set("0123456789")
    metric = dialog.findChild(QComboBox, "data_metric")
    metric.setCurrentIndex(metric.findData("top-5"))
    _click(asking, "data_accept")
    assert not asking.errors
    assert asking.snapshot.data.metric == "top-5"
    assert asking.snapshot.base.table.total(METRICS["accuracy"]).value > 0.98
    title = asking.window.findChild(QLabel, "figureTitle")
    assert title.text() == "Accuracy (top-5)"
