"""The table of actions and what is built from it; the palette's search."""

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QApplication, QLabel, QMenu
from pytestqt.qtbot import QtBot

from engine import Snapshot
from gui.actions import ACTIONS, Standing, plain_text
from gui.document import Document
from gui.jobs import JobRunner
from gui.main_window import MainWindow
from gui.settings import Settings
from gui.theme import Theme
from gui.views.command_palette import Entry, search


@pytest.fixture
def window(qtbot: QtBot, qapp: QApplication, theme: Theme, tmp_path: Path) -> Iterator[MainWindow]:
    settings = Settings(tmp_path / "settings.ini")
    jobs = JobRunner()
    window = MainWindow(Document(jobs, settings), settings, theme)
    qtbot.addWidget(window)
    yield window
    window.close()
    assert jobs.shut_down(5.0)


def test_ids_and_shortcuts_are_unique() -> None:
    assert len({spec.id for spec in ACTIONS}) == len(ACTIONS)
    keys = Counter(keys for spec in ACTIONS for keys in spec.shortcuts)
    assert not [key for key, count in keys.items() if count > 1]
    assert all(QKeySequence(key).toString() for key in keys)


@pytest.mark.parametrize("name", ["", "base", "pruned"])
def test_every_predicate_answers_in_every_situation(
    name: str, request: pytest.FixtureRequest
) -> None:
    snapshot: Snapshot | None = request.getfixturevalue(name) if name else None
    for spec in ACTIONS:
        for busy, training, better in product((False, True), repeat=3):
            assert spec.enabled(Standing(snapshot, busy, training, better)) in (True, False)


def test_undo_and_redo_follow_the_cursor(base: Snapshot, pruned: Snapshot) -> None:
    enabled = {spec.id: spec.enabled for spec in ACTIONS}
    assert not enabled["undo"](Standing(base))
    assert enabled["undo"](Standing(pruned))
    assert not enabled["redo"](Standing(pruned))


def test_a_training_can_be_stopped_and_kept_only_where_there_is_one(base: Snapshot) -> None:
    enabled = {spec.id: spec.enabled for spec in ACTIONS}
    keys = ("pause_training", "discard_training", "keep_training")
    found = [
        [enabled[key](Standing(base, True, training, better)) for key in keys]
        for training, better in ((False, False), (True, False), (True, True))
    ]
    assert found == [[False, False, False], [True, True, False], [True, True, True]]


def test_no_menu_is_empty_and_no_item_dead(window: MainWindow) -> None:
    menus = window.menuBar().findChildren(QMenu)
    assert {"menu_file", "menu_edit", "menu_limits", "menu_appearance"} <= {
        menu.objectName() for menu in menus
    }
    for menu in menus:
        if menu.objectName() == "menu_recent":
            assert not menu.isEnabled()  # nothing was opened yet
            continue
        assert menu.actions(), menu.objectName()
    in_menus = {action for menu in menus for action in menu.actions()}
    assert all(action in in_menus for _, action in window.commands)


def test_icons_exist(window: MainWindow) -> None:
    for spec, action in window.commands:
        if spec.icon:
            assert not action.icon().pixmap(16, 16).isNull(), spec.icon


def test_without_a_model_only_what_opens_one_can_be_done(window: MainWindow) -> None:
    enabled = {spec.id for spec, action in window.commands if action.isEnabled()}
    assert {"open_demo", "show_catalogue", "open_file", "open_factory", "quit"} <= enabled
    assert not {"undo", "evaluate", "export_checkpoint", "limit_energy"} & enabled


def test_the_theme_can_be_chosen(window: MainWindow, theme: Theme) -> None:
    window.commands["theme_dark"].trigger()
    assert theme.mode == "dark"
    assert window.commands["theme_dark"].isChecked()
    assert not window.commands["theme_light"].isChecked()


def test_measuring_can_be_switched(window: MainWindow) -> None:
    window.commands["measure_after_edit"].trigger()
    assert not window.commands["measure_after_edit"].isChecked()


def test_shortcuts_are_listed(window: MainWindow) -> None:
    window.commands["shortcuts"].trigger()
    dialog = window.findChild(object, "shortcuts")
    texts = {label.text() for label in dialog.findChildren(QLabel)}
    assert {"Undo", "Ctrl+Z"} <= texts
    dialog.close()


def test_texts_read_without_marks(window: MainWindow) -> None:
    action = QAction("&Save recipe…", window)
    assert plain_text(action) == "Save recipe…"


def test_the_search_wants_every_word_and_ranks_beginnings() -> None:
    texts = ("stage1.conv2", "Measure latency", "conv1", "Command palette…")
    entries = [Entry(text, "", lambda: None) for text in texts]

    def found(text: str) -> list[str]:
        return [entry.text for entry in search(entries, text)]

    assert found("") == list(texts)
    assert found("conv") == ["conv1", "stage1.conv2"]
    assert found("LAT mea") == ["Measure latency"]
    assert found("no such") == []
