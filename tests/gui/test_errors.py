"""What the user reads when something goes wrong."""

import sys

import pytest
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QPlainTextEdit, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from engine import EngineError
from gui import errors


def _raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.fixture
def parent(qtbot: QtBot) -> QWidget:
    widget = QWidget()
    qtbot.addWidget(widget)
    return widget


def _details(dialog: errors.ErrorDialog) -> QPlainTextEdit:
    found = dialog.findChild(QPlainTextEdit, "error_details")
    assert isinstance(found, QPlainTextEdit)
    return found


def _press(dialog: errors.ErrorDialog, name: str) -> None:
    button = dialog.findChild(QPushButton, name)
    assert isinstance(button, QPushButton)
    button.click()


def test_an_engine_error_says_what_happened_and_what_to_do(parent: QWidget) -> None:
    error = EngineError("The file is <b>empty</b>.", "Choose another.")
    dialog = errors.show_error(parent, _raised(error))
    assert dialog.text == "The file is <b>empty</b>.\nChoose another."
    assert not _details(dialog).isVisible()
    _press(dialog, "error_toggle")
    assert _details(dialog).isVisible()
    dialog.close()


def test_anything_else_is_a_crash_report(parent: QWidget) -> None:
    dialog = errors.show_error(parent, _raised(KeyError("stage9")))
    assert "inside Secateur" in dialog.text
    assert "you can go on working" in dialog.text
    assert _details(dialog).isVisible()
    dialog.close()


def test_copy_takes_words_and_details(parent: QWidget) -> None:
    dialog = errors.show_error(parent, _raised(KeyError("stage9")))
    _press(dialog, "error_copy")
    copied = QGuiApplication.clipboard().text()
    assert "inside Secateur" in copied
    assert "KeyError: 'stage9'" in copied
    assert "PySide6" in copied
    dialog.close()


def test_the_hook_reports_and_can_be_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _, error, __: printed.append(error))
    before = sys.excepthook
    reported: list[BaseException] = []
    restore = errors.install_hook(reported.append)
    error = ValueError("a bug")
    sys.excepthook(ValueError, error, None)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert reported == [error]
    assert printed[0] is error
    restore()
    assert sys.excepthook is before


@pytest.mark.parametrize("name", ["x" * 10_000, "<b>x</b>\n" * 500, "a\u202eb"])
def test_whatever_a_name_holds_the_dialog_fits_the_screen(parent: QWidget, name: str) -> None:
    dialog = errors.show_error(parent, _raised(EngineError(f"{name} cannot be opened.")))
    assert dialog.width() < 700
    assert dialog.height() < 800
    shown = dialog.findChild(QLabel, "error_headline").text()
    assert "\u202e" not in shown
    assert name in dialog.text  # what is copied is whole
    dialog.close()
