"""Qt's needs are told in one line, and nothing of Qt is started to find them out."""

import ctypes
import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from gui import system

VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")


@pytest.fixture
def qt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed PySide6 of empty files."""
    package = tmp_path / "PySide6"
    for name in (
        "__init__.py",
        "Qt/lib/libQt6Widgets.so.6",
        "Qt/lib/libQt6OpenGLWidgets.so.6",
        "Qt/lib/libQt6Svg.so.6",
        "Qt/lib/libQt6WebEngineWidgets.so.6",
        "Qt/plugins/platforms/libqxcb.so",
        "Qt/plugins/platforms/libqoffscreen.so",
        "Qt/plugins/platforms/libqwayland-generic.so",
    ):
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    spec = ModuleSpec("PySide6", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(sys, "platform", "linux")
    return package


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """File name -> what the loader says of it; every other library loads."""
    refused: dict[str, str] = {}

    def load(path: str) -> None:
        if message := refused.get(Path(path).name):
            raise OSError(message)

    monkeypatch.setattr(ctypes, "CDLL", load)
    return refused


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def absent(library: str) -> str:
    return f"{library}: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize("platform", ["xcb", "offscreen", "wayland", "wayland;xcb", "unheard-of"])
def test_nothing_is_missing_where_everything_loads(
    platform: str, qt: Path, refuse: dict[str, str]
) -> None:
    assert system.missing_libraries(platform) == ()
    assert system.missing_graph_libraries() == ()


def test_each_missing_library_is_named_once(qt: Path, refuse: dict[str, str]) -> None:
    refuse["libQt6Widgets.so.6"] = refuse["libQt6Svg.so.6"] = absent("libEGL.so.1")
    refuse["libqxcb.so"] = absent("libxcb-cursor.so.0")
    assert system.missing_libraries("xcb") == ("libEGL.so.1", "libxcb-cursor.so.0")
    assert system.missing_libraries("offscreen:size=800x600") == ("libEGL.so.1",)


def test_one_of_two_alternative_platforms_is_enough(qt: Path, refuse: dict[str, str]) -> None:
    refuse["libqwayland-generic.so"] = absent("libwayland-cursor.so.0")
    assert system.missing_libraries("wayland") == ("libwayland-cursor.so.0",)
    assert system.missing_libraries("wayland;xcb") == ()


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("/lib/x86_64-linux-gnu/libGL.so.1: file too short", "libGL.so.1"),
        ("/lib/libnss3.so: invalid ELF header", "libnss3.so"),
        (
            "/lib/libc.so.6: version `GLIBC_2.39' not found (required by libQt6Core.so.6)",
            "/lib/libc.so.6: version `GLIBC_2.39' not found (required by libQt6Core.so.6)",
        ),
    ],
)
def test_other_complaints_of_the_loader(
    message: str, named: str, qt: Path, refuse: dict[str, str]
) -> None:
    refuse["libQt6Widgets.so.6"] = message
    assert system.missing_libraries("offscreen") == (named,)


def test_the_graph_view_is_judged_by_itself(qt: Path, refuse: dict[str, str]) -> None:
    refuse["libQt6WebEngineWidgets.so.6"] = absent("libnss3.so")
    assert system.missing_libraries("offscreen") == ()
    assert system.missing_graph_libraries() == ("libnss3.so",)


def test_without_pyside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    missing = system.missing_libraries("xcb")
    assert missing == ("PySide6",)
    assert "make run" in system.apt_line(missing)


def test_the_line_is_one_line_and_names_every_package() -> None:
    line = system.apt_line(("libEGL.so.1",))
    assert "\n" not in line
    assert "libEGL.so.1" in line
    assert line.endswith("sudo apt-get install " + " ".join(system.apt_packages()))


@pytest.mark.parametrize(
    ("libc", "name"),
    [
        (("glibc", "2.36"), "libasound2"),
        (("glibc", "2.39"), "libasound2t64"),
        (("glibc", "3.0"), "libasound2t64"),
        (("", ""), "libasound2"),
    ],
)
def test_packages_renamed_by_the_release(
    libc: tuple[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: libc)
    assert name in system.apt_packages()


@pytest.mark.parametrize(
    ("variables", "platform", "display"),
    [
        ({}, "offscreen", False),
        ({"DISPLAY": ""}, "offscreen", False),
        ({"DISPLAY": ":0"}, "xcb", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "wayland", True),
        ({"DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0"}, "wayland;xcb", True),
        ({"DISPLAY": ":0", "QT_QPA_PLATFORM": "vnc"}, "vnc", True),
    ],
)
def test_display(
    variables: dict[str, str], platform: str, display: bool, environment: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert system.default_platform() == platform
    assert system.has_display() is display


@pytest.mark.parametrize("os_name", ["darwin", "win32"])
def test_other_systems_always_have_a_display(os_name: str, environment: pytest.MonkeyPatch) -> None:
    environment.setattr(sys, "platform", os_name)
    assert system.has_display()
    assert system.display_answers("cocoa")
    assert system.missing_libraries("cocoa") == ()


def test_a_display_that_nobody_serves_does_not_answer(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DISPLAY", ":4711")
    environment.setenv("WAYLAND_DISPLAY", "no-such-socket")
    assert not system.display_answers("xcb")
    assert not system.display_answers("wayland;xcb")
    assert system.display_answers("offscreen")


def test_the_command_prints_one_line_to_stderr(
    qt: Path, refuse: dict[str, str], environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    environment.setattr(sys, "argv", ["gui.system"])
    assert system.main() == 0
    assert capsys.readouterr() == ("", "")

    refuse["libqoffscreen.so"] = absent("libEGL.so.1")
    assert system.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == system.apt_line(("libEGL.so.1",)) + "\n"


def test_the_command_lists_the_packages_without_anything_installed() -> None:
    run = subprocess.run(
        [sys.executable, "-I", "-S", str(Path(system.__file__)), "--apt"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert tuple(run.stdout.split()) == system.apt_packages()
    assert run.stderr == ""
