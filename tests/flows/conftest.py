"""The real window over the real engine, and ways to wait for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from engine import Change, Snapshot
from gui.document import Document
from gui.jobs import JobRunner
from gui.main_window import MainWindow
from gui.settings import Settings
from gui.theme import Theme

TIMEOUT = 60_000


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was kept of other runs is gone on with."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))


@dataclass
class Desk:
    """A window with everything behind it, and what its document has said."""

    qtbot: QtBot
    window: MainWindow
    document: Document
    settings: Settings
    changes: list[Change] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    @property
    def jobs(self) -> JobRunner:
        return self.document.jobs

    @property
    def snapshot(self) -> Snapshot:
        assert self.document.snapshot is not None
        return self.document.snapshot

    def settle(self) -> None:
        """Wait until every job has ended and its result is shown."""
        self.qtbot.waitUntil(lambda: not self.jobs.active, timeout=TIMEOUT)

    def drop(self, path: Path) -> None:
        """Let a file fall on the window."""
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path))])
        event = QDropEvent(
            QPointF(10, 10),
            Qt.DropAction.CopyAction,
            data,
            Qt.MouseButton.LeftButton,
            Qt.KeyboardModifier.NoModifier,
        )
        self.window.dropEvent(event)

    def trigger(self, action: str) -> None:
        """Do what a click on that menu item does."""
        assert self.window.commands[action].isEnabled(), f"{action} is not enabled"
        self.window.commands[action].trigger()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "settings.ini")


@pytest.fixture
def make_desk(qtbot: QtBot, qapp: QApplication, settings: Settings) -> Iterator[Callable[[], Desk]]:
    desks: list[Desk] = []

    def make() -> Desk:
        document = Document(JobRunner(), settings)
        theme = Theme(qapp)
        theme.set_mode("light")
        window = MainWindow(document, settings, theme, quiet=True)
        desk = Desk(qtbot, window, document, settings)
        document.changed.connect(desk.changes.append)
        document.failed.connect(desk.errors.append)
        qtbot.addWidget(window)
        window.show()
        desks.append(desk)
        return desk

    yield make
    for desk in desks:
        desk.window.close()
        assert desk.jobs.shut_down(TIMEOUT / 1000)


@pytest.fixture
def desk(make_desk: Callable[[], Desk]) -> Desk:
    """A window in which nothing is open yet."""
    return make_desk()


@pytest.fixture
def demo(desk: Desk) -> Desk:
    """A window with the demo in it, evaluated and measured."""
    desk.trigger("open_demo")
    desk.settle()
    assert not desk.errors
    return desk
