"""Widgets in reference cycles die on the window's thread, whoever allocates."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from PySide6.QtCore import QThread
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from gui.garbage import WindowCollector
from gui.jobs import JobRunner

ROOT = Path(__file__).resolve().parents[2]

# Widgets with timers in cycles, and a thread that makes much garbage of its own.
PROGRAM = """
import gc, sys, threading
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication, QWidget
from gui.garbage import WindowCollector

class Cyclic(QWidget):
    def __init__(self):
        super().__init__()
        self.me = self
        self.timer = QTimer(self, interval=1)
        self.timer.timeout.connect(self.update)
        self.timer.start()

def litter():
    for _ in range(200_000):
        cell = []
        cell.append(cell)

app = QApplication([])
collector = WindowCollector()
if sys.argv[1] == "guarded":
    collector.start()
for _ in range(100):
    Cyclic()
thread = threading.Thread(target=litter)
thread.start()
thread.join()
app.processEvents()
collector.collect()
app.processEvents()
print("alive")
"""


@pytest.fixture
def collector(qapp: object) -> Iterator[WindowCollector]:
    collector = WindowCollector()
    collector.start()
    yield collector
    collector.stop()


class Cyclic(QWidget):
    """A widget that only the cyclic collector ends, and that tells on which thread."""

    def __init__(self, ends: list[bool]) -> None:
        super().__init__()
        self.me = self
        self._ends = ends
        self._home = self.thread()

    def __del__(self) -> None:
        self._ends.append(QThread.currentThread() is self._home)


def litter() -> None:
    """Make enough garbage to set Python's own collection off many times."""
    for _ in range(50_000):
        cell: list[object] = []
        cell.append(cell)


def test_another_thread_does_not_collect(collector: WindowCollector) -> None:
    ends: list[bool] = []
    Cyclic(ends)
    thread = Thread(target=litter)
    thread.start()
    thread.join()
    assert ends == []
    gc.collect()
    assert ends == [True]


def test_the_window_collects_when_it_is_due(collector: WindowCollector) -> None:
    ends: list[bool] = []
    Cyclic(ends)
    litter()
    collector.collect()
    assert ends == [True]


def test_python_collects_again_afterwards(qtbot: QtBot) -> None:
    assert gc.isenabled()
    jobs = JobRunner()
    jobs.submit("job", lambda job: None, lambda _: None, lambda _: None)
    assert not gc.isenabled()
    assert jobs.shut_down()
    assert gc.isenabled()


def test_a_program_survives() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "guarded"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-500:]
