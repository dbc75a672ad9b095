"""What a user does in one sitting, through widgets and actions of the real window."""

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QFileDialog, QLineEdit, QPushButton, QStackedWidget

from engine import METRICS, Job, LayerId
from gui import errors, operations
from gui.views.command_palette import CommandPalette


def _button(desk, name: str) -> QPushButton:
    button = desk.window.findChild(QPushButton, name)
    assert isinstance(button, QPushButton), name
    return button


def _convolution(desk) -> LayerId:
    layers = [one.id for one in desk.snapshot.current.tree if "prune-channels" in one.methods]
    return layers[1]


def test_open_prune_evaluate_undo_export(desk, tmp_path: Path) -> None:
    _button(desk, "start_open_demo").click()
    desk.settle()
    table = desk.snapshot.base.table
    assert table.total(METRICS["accuracy"]).value > 0.9
    desk.window.selection.set((_convolution(desk),))
    apply = _button(desk, "applyEdit")
    desk.qtbot.waitUntil(apply.isEnabled)
    apply.click()
    desk.settle()
    assert desk.snapshot.cursor == 1
    pruned = desk.snapshot.current.table
    assert pruned.total(METRICS["energy"]).value < table.total(METRICS["energy"]).value
    desk.trigger("evaluate")
    desk.settle()
    assert desk.snapshot.current.table.total(METRICS["accuracy"]) is not None
    desk.trigger("undo")
    desk.settle()
    assert desk.snapshot.cursor == 0
    assert not desk.window.commands["undo"].isEnabled()
    desk.trigger("redo")
    desk.settle()
    path = tmp_path / "pruned.safetensors"
    _export(desk, path)
    assert path.stat().st_size > 0
    assert str(path) in desk.window.statusBar().currentMessage()
    assert not desk.errors


def _export(desk, path: Path) -> None:
    desk.trigger("export_checkpoint")
    dialog = desk.window.findChild(QFileDialog)
    assert isinstance(dialog, QFileDialog)
    dialog.fileSelected.emit(str(path))
    dialog.close()
    desk.settle()


def test_undo_and_redo_by_keyboard(demo) -> None:
    _apply(demo)
    demo.qtbot.keyClick(demo.window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    demo.settle()
    assert demo.snapshot.cursor == 0
    both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    demo.qtbot.keyClick(demo.window, Qt.Key.Key_Z, both)
    demo.settle()
    assert demo.snapshot.cursor == 1
    demo.qtbot.keyClick(demo.window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    demo.settle()
    demo.qtbot.keyClick(demo.window, Qt.Key.Key_Y, Qt.KeyboardModifier.ControlModifier)
    demo.settle()
    assert demo.snapshot.cursor == 1


def _apply(desk) -> None:
    from engine import PruneChannels

    operations.apply_edit(desk.document, PruneChannels((_convolution(desk),), 0.5))
    desk.settle()


def test_a_recipe_is_saved_and_dropped_on_another_window(demo, make_desk, tmp_path: Path) -> None:
    _apply(demo)
    path = tmp_path / "half.json"
    operations.save_recipe(demo.document, str(path))
    demo.settle()
    energy = demo.snapshot.current.table.total(METRICS["energy"])
    other = make_desk()
    other.trigger("open_demo")
    other.settle()
    other.drop(path)
    other.settle()
    assert other.snapshot.cursor == 1
    assert other.snapshot.current.table.total(METRICS["energy"]) == energy


def test_a_dropped_checkpoint_is_opened(demo, tmp_path: Path) -> None:
    path = tmp_path / "copy.safetensors"
    operations.export_checkpoint(demo.document, str(path))
    demo.settle()
    demo.drop(path)
    demo.settle()
    assert not demo.errors
    assert demo.snapshot.model.source == str(path)


def test_a_wrong_file_shows_the_start_page_again(desk, tmp_path: Path) -> None:
    wrong = tmp_path / "letter.safetensors"
    wrong.write_text("Dear model")
    desk.document.failed.connect(lambda error: errors.show_error(desk.window, error))
    operations.open_model(desk.document, str(wrong))
    desk.settle()
    dialog = desk.window.findChild(QDialog, "error_dialog")
    assert isinstance(dialog, errors.ErrorDialog)
    assert str(desk.errors[0]) in dialog.text
    assert desk.errors[0].remedy in dialog.text
    dialog.close()
    pages = desk.window.centralWidget()
    assert isinstance(pages, QStackedWidget)
    assert pages.currentWidget().objectName() == "start_page"
    assert _button(desk, "start_open_demo").isVisible()


def test_closing_during_a_job_ends_cleanly(demo) -> None:
    def endless(job: Job) -> None:
        while True:
            job.check()

    demo.jobs.submit("Endless", endless, pytest.fail, pytest.fail)
    demo.qtbot.waitUntil(lambda: demo.jobs.jobs()[0].elapsed > 0)
    demo.window.close()
    assert not demo.window.isVisible()
    assert not demo.jobs.active
    assert not demo.errors


def test_the_command_palette_finds_commands_and_layers(demo) -> None:
    demo.trigger("command_palette")
    _type(demo, "measure lat")
    demo.settle()
    layer = _convolution(demo)
    demo.trigger("command_palette")
    _type(demo, str(layer))
    assert demo.window.selection.layers == (layer,)


def _type(desk, text: str) -> None:
    palette = desk.window.findChild(CommandPalette)
    assert isinstance(palette, CommandPalette)
    line = palette.findChild(QLineEdit, "palette_line")
    assert isinstance(line, QLineEdit)
    desk.qtbot.keyClicks(line, text)
    desk.qtbot.keyClick(line, Qt.Key.Key_Return)
    desk.qtbot.waitUntil(lambda: desk.window.findChild(CommandPalette) is None)


def test_a_limit_is_typed_with_its_unit(demo) -> None:
    demo.trigger("limit_energy")
    dialog = demo.window.findChild(QDialog, "limit_dialog")
    assert isinstance(dialog, QDialog)
    line = dialog.findChild(QLineEdit, "limit_line")
    assert isinstance(line, QLineEdit)
    line.setText("5 apples")
    demo.qtbot.keyClick(line, Qt.Key.Key_Return)
    assert dialog.isVisible()
    line.setText("1 µJ")
    demo.qtbot.keyClick(line, Qt.Key.Key_Return)
    demo.settle()
    (status,) = demo.snapshot.limits
    assert (status.limit.bound, status.limit.relative) == (pytest.approx(1e-6), False)


def test_opening_another_model_forgets_the_selection(demo) -> None:
    demo.window.selection.set((_convolution(demo),))
    demo.trigger("open_demo")
    demo.settle()
    assert demo.window.selection.layers == ()


def test_the_window_is_where_it_was(demo, make_desk) -> None:
    demo.window.resize(800, 640)
    demo.window.close()
    assert make_desk().window.size().toTuple() == (800, 640)
