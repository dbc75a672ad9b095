"""The application: the window shows first, then the worker thread imports torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PySide6.QtCore import QObject, QSocketNotifier, QTimer
from PySide6.QtWidgets import QApplication

from engine import Change, Part
from gui import errors, operations
from gui.document import Document
from gui.jobs import JobRunner
from gui.main_window import MainWindow
from gui.picture import Picture
from gui.settings import Settings, ThemeMode
from gui.theme import Theme

PICTURE_SIZE = (1280, 800)
OK, FAILED = 0, 4  # as main.py documents its exit status


def run(
    source: str | None = None,
    theme: ThemeMode | None = None,
    recipe: str | None = None,
    picture: str | None = None,
    size: tuple[int, int] | None = None,
    view: str = "",
    started: float | None = None,
    map: str = "",
) -> int:
    """Show the window, open ``source`` and stay until the user leaves; returns the exit status.

    Args:
        source: what to open, the demo when left out.
        theme: what the window shall look like this time, whatever the settings say.
        recipe: a file whose edits are applied once the model is open.
        picture: write a picture of the window to this file and leave. Such a run knows nothing
            of the user's settings.
        size: of the picture.
        view: of profiling, for the picture: measured and brought to the front.
        started: ``time.perf_counter()`` at the start of the program, to count from when the
            environment sets ``SECATEUR_TIMING``.
        map: a file with a map of sensitivity, for the picture of that view.
    """
    app = QApplication(sys.argv[:1])
    app.setApplicationName("Secateur")
    app.setDesktopFileName("secateur")
    if picture is None:
        workplace = _Workplace(app, Settings(), theme)
        with _interrupts_close(workplace.window):
            return workplace.stay(source, recipe, started)
    with TemporaryDirectory(prefix="secateur-") as folder:
        workplace = _Workplace(app, Settings(Path(folder, "picture.ini")), theme, quiet=True)
        return workplace.draw(source, recipe, picture, size or PICTURE_SIZE, view, map)


class _Workplace(QObject):
    """Everything that lives as long as the window."""

    def __init__(
        self, app: QApplication, settings: Settings, theme: ThemeMode | None, quiet: bool = False
    ) -> None:
        super().__init__()
        self._app = app
        self._theme = Theme(app, self)
        self._theme.set_mode(theme or settings.theme_mode)
        self._jobs = JobRunner(self)
        self._document = Document(self._jobs, settings, parent=self)
        self._recipe: str | None = None
        self._settings = settings
        self._document.changed.connect(self._apply_recipe)
        self.window = MainWindow(self._document, settings, self._theme, quiet)
        self._jobs.hold()
        self.window.prepared.connect(self._jobs.release)

    def stay(self, source: str | None, recipe: str | None, started: float | None) -> int:
        """Work until the window is closed."""
        self._recipe = recipe
        restore = errors.install_hook(self._report)
        if started is not None and os.environ.get("SECATEUR_TIMING"):
            _Timing(started, self.window, self._document)
        self.window.show()
        operations.open_model(self._document, source or "demo")
        try:
            return self._app.exec()
        finally:
            self._leave()
            restore()

    def draw(
        self,
        source: str | None,
        recipe: str | None,
        path: str,
        size: tuple[int, int],
        view: str,
        map: str,
    ) -> int:
        """Write a picture of the window once everything has settled."""
        self._recipe = recipe
        self.window.resize(*size)
        picture = Picture(self.window, self._document, path, view, map)
        restore = errors.install_hook(picture.fail)
        self.window.show()
        operations.open_model(self._document, source or "demo")
        try:
            self._app.exec()
        finally:
            self._leave()
            restore()
        if picture.error:
            print(picture.error, file=sys.stderr)
        return FAILED if picture.error else OK

    def _apply_recipe(self, change: Change) -> None:
        if change.parts & Part.MODEL and self._recipe is not None:
            recipe, self._recipe = self._recipe, None
            operations.apply_recipe(self._document, recipe)

    def _report(self, error: BaseException) -> None:
        # What fails while it is drawn fails again and again: one report is enough.
        if self.window.findChild(errors.ErrorDialog) is None:
            errors.show_error(self.window, error)

    def _leave(self) -> None:
        self.window.close()
        self._jobs.shut_down()


class _Timing(QObject):
    """Prints one line of JSON when the model is there: seconds until it was, and the window."""

    def __init__(self, started: float, window: MainWindow, document: Document) -> None:
        super().__init__(window)
        self._started = started
        self._visible = 0.0
        window.first_painted.connect(self._note_visible)
        document.changed.connect(self._note_loaded)
        self._document = document

    def _note_visible(self) -> None:
        self._visible = time.perf_counter() - self._started

    def _note_loaded(self, _: Change) -> None:
        self._document.changed.disconnect(self._note_loaded)
        QTimer.singleShot(0, self._print)  # behind the views, which show it now

    def _print(self) -> None:
        loaded = time.perf_counter() - self._started
        print(json.dumps({"visible": self._visible, "loaded": loaded}), flush=True)


@contextmanager
def _interrupts_close(window: MainWindow) -> Iterator[None]:
    """Let Ctrl+C in the terminal close the window.

    Python handles a signal only between two of its instructions, and there are none while Qt
    waits. So the signal also writes to a socket, which wakes Qt.
    """
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    notifier = QSocketNotifier(reader.fileno(), QSocketNotifier.Type.Read)

    def drain() -> None:
        reader.recv(64)

    def close(_number: int, _frame: object) -> None:
        window.close()

    notifier.activated.connect(drain)
    before = signal.signal(signal.SIGINT, close)
    fd = signal.set_wakeup_fd(writer.fileno())
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd)
        signal.signal(signal.SIGINT, before)
        notifier.setEnabled(False)
        reader.close()
        writer.close()
