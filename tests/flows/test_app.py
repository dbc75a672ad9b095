"""The program as a process of its own: pictures, interrupting, timing, and what it prints."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtGui import QImage

from gui.theme import DARK

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120

START = """
import sys, time
from gui.app import run
sys.exit(run(*sys.argv[1:], started=time.perf_counter()))
"""
PICTURE = """
import sys
from gui.app import run
source, recipe, picture, view = sys.argv[1:]
sys.exit(run(source, "dark", recipe or None, picture, (1000, 700), view))
"""
NOTE_IMPORTS = """
import os, sys, threading
class Notes:
    def find_spec(self, name, path=None, target=None):
        print(threading.current_thread().name, name, flush=True)
sys.meta_path.insert(0, Notes())
sys.exit = os._exit  # what is imported on the way out is of no interest
"""


def _environment(home: Path, **more: str) -> dict[str, str]:
    kept = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    return {**kept, "QT_QPA_PLATFORM": "offscreen", **more}


def _draw(
    source: str, recipe: str, path: Path, home: Path, view: str = "", before: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", before + PICTURE, source, recipe, str(path), view],
        cwd=ROOT,
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_a_picture_is_drawn_and_nothing_else_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "window.png"
    home = tmp_path / "home"
    home.mkdir()
    done = _draw("demo", "", path, home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    image = QImage(str(path))
    assert (image.width(), image.height()) == (1000, 700)
    assert image.pixelColor(2, 2).lightness() < 128  # the dark theme was asked for
    assert not list((home / "config").rglob("*.ini"))


@pytest.mark.parametrize(("view", "part"), [("flame", "convolution"), ("energy", "weights")])
def test_a_picture_shows_the_view_that_was_asked_for(tmp_path: Path, view: str, part: str) -> None:
    path = tmp_path / "view.png"
    done = _draw("demo", "", path, tmp_path, view)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    image = QImage(str(path))
    lower = range(image.height() // 2, image.height(), 2)
    shown = {image.pixelColor(x, y).name() for y in lower for x in range(0, image.width(), 2)}
    assert DARK.categories[part] in shown


@pytest.mark.parametrize(
    ("source", "recipe", "name"), [("no-such-model", "", "no-such-model"), ("demo", "none", "none")]
)
def test_what_goes_wrong_is_one_line(source: str, recipe: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "window.png"
    done = _draw(source, recipe, path, tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert not path.exists()


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    done = _draw("demo", "", tmp_path / "no" / "such" / "folder.png", tmp_path)
    assert done.returncode != 0
    assert "folder.png" in done.stderr


def test_the_window_shows_before_anything_slow_is_imported() -> None:
    slow = {"torch", "torchvision", "numpy", "pydantic", "pyqtgraph", "sklearn"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys, gui.app; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert not slow & set(done.stdout.split())


def test_no_two_threads_import_foreign_packages_at_once(tmp_path: Path) -> None:
    """Two threads within the same package's imports may each see it half initialised."""
    done = _draw("demo", "", tmp_path / "window.png", tmp_path, before=NOTE_IMPORTS)
    assert done.returncode == 0, done.stderr
    notes = [line.split() for line in done.stdout.splitlines()]
    own = {"gui", "engine", "PySide6", "shiboken6", "__main__", *sys.stdlib_module_names}
    foreign = [(thread, name) for thread, name in notes if name.partition(".")[0] not in own]
    threads = [thread for thread, _ in foreign]
    assert set(threads) == {"MainThread", "secateur-model"}
    later = foreign[threads.index("secateur-model") :]
    assert [name for thread, name in later if thread == "MainThread"] == []


def test_the_window_times_itself_and_an_interrupt_closes_it(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", START, "demo"],
        cwd=ROOT,
        env=_environment(tmp_path, SECATEUR_TIMING="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        times = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)  # while the model is being evaluated
        out, err = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out == ""
    assert "Traceback" not in err
    assert 0 < times["visible"] < times["loaded"]


def test_an_interrupt_while_torch_is_imported_closes_it(tmp_path: Path) -> None:
    code = START.replace(
        "sys.exit(",
        "import os, signal, threading; "
        "threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start(); sys.exit(",
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "demo"],
        cwd=ROOT,
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
