"""What the Help menu shows."""

import pytest
from PySide6.QtWidgets import QDialog, QTextBrowser, QWidget
from pytestqt.qtbot import QtBot

from gui import help_dialogs


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
