"""Tell whether Qt can start on this machine, without starting it.

A missing system library ends `import PySide6` in a traceback; a platform plugin that cannot be
loaded, or a display that does not answer, ends the process inside Qt. Asked first, each becomes one
line that says what to do. Only the standard library is imported, so that this runs before anything
is installed:

    python3 -m gui.system          silent when Qt can start; else one line, and exit status 1
    python3 -m gui.system --apt    the Debian and Ubuntu packages that the window needs
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform as machine
import re
import sys
from pathlib import Path
from typing import Final

# What Qt's libraries and its X11 and Wayland plugins name as needed, less what every Debian has.
# Both the README and .ci/run take the list from here.
_WINDOW_PACKAGES: Final = (
    "fonts-dejavu-core",  # Qt brings no font of its own
    "libdbus-1-3",
    "libegl1",
    "libfontconfig1",
    "libfreetype6",
    "libgl1",
    "libglib2.0-0",
    "libwayland-client0",
    "libwayland-cursor0",
    "libwayland-egl1",
    "libx11-6",
    "libx11-xcb1",
    "libxcb-cursor0",
    "libxcb-icccm4",
    "libxcb-image0",
    "libxcb-keysyms1",
    "libxcb-randr0",
    "libxcb-render-util0",
    "libxcb-render0",
    "libxcb-shape0",
    "libxcb-shm0",
    "libxcb-sync1",
    "libxcb-util1",
    "libxcb-xfixes0",
    "libxcb-xkb1",
    "libxcb1",
    "libxkbcommon-x11-0",
    "libxkbcommon0",
)
# What QtWebEngine, the browser behind the graph view, needs on top.
_GRAPH_PACKAGES: Final = (
    "libasound2",
    "libbrotli1",
    "libexpat1",
    "libgbm1",
    "libgssapi-krb5-2",
    "libnspr4",
    "libnss3",
    "libudev1",
    "libxcb-dri3-0",
    "libxcomposite1",
    "libxdamage1",
    "libxext6",
    "libxfixes3",
    "libxkbfile1",
    "libxrandr2",
    "libxtst6",
)
# Renamed when Debian 13 and Ubuntu 24.04 widened time_t to 64 bits; both have glibc 2.39 or later,
# the releases before them an earlier one.
_RENAMED: Final = {"libasound2": "libasound2t64", "libglib2.0-0": "libglib2.0-0t64"}
_RENAMED_SINCE_GLIBC: Final = (2, 39)

_WINDOW_LIBRARIES: Final = ("libQt6Widgets.so.6", "libQt6OpenGLWidgets.so.6", "libQt6Svg.so.6")
_GRAPH_LIBRARIES: Final = ("libQt6WebEngineWidgets.so.6",)

# "libEGL.so.1: cannot open shared object file: No such file or directory"; damaged files likewise.
_LOADER_NAMES = re.compile(
    r"([^/\s:]+\.so[.\d]*): (?:cannot open shared|file too short|invalid ELF|cannot read file)"
)


def apt_packages() -> tuple[str, ...]:
    """The packages that the window needs, by their names on this release of Debian or Ubuntu."""
    packages = _WINDOW_PACKAGES + _GRAPH_PACKAGES
    library, version = machine.libc_ver()
    if library != "glibc" or _numbers(version) < _RENAMED_SINCE_GLIBC:
        return packages
    return tuple(_RENAMED.get(package, package) for package in packages)


def default_platform() -> str:
    """The Qt platform that a window would use here: "xcb", "wayland;xcb", "offscreen", ..."""
    if asked := os.environ.get("QT_QPA_PLATFORM"):
        return asked
    displays = {"wayland": "WAYLAND_DISPLAY", "xcb": "DISPLAY"}
    return ";".join(name for name, at in displays.items() if os.environ.get(at)) or "offscreen"


def has_display() -> bool:
    """Whether a window can be shown, or Qt was told by QT_QPA_PLATFORM to do without a display."""
    if not sys.platform.startswith("linux"):
        return True
    names = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    return any(os.environ.get(name) for name in names)


def missing_libraries(platform: str) -> tuple[str, ...]:
    """The shared libraries that keep Qt from starting on `platform`, a value of QT_QPA_PLATFORM.

    The loader names one missing library for each of Qt's, so there may be more than are listed.
    """
    missing = _unloadable(_WINDOW_LIBRARIES)
    # "wayland;xcb" names alternatives, tried in turn; what follows ":" are arguments.
    plugins = [_unloadable((f"platforms/{part.split(':')[0]}",)) for part in platform.split(";")]
    if all(plugins):
        missing += tuple(name for names in plugins for name in names)
    return tuple(dict.fromkeys(missing))


def missing_graph_libraries() -> tuple[str, ...]:
    """The shared libraries that keep QtWebEngine, and so the graph view, from starting."""
    return _unloadable(_GRAPH_LIBRARIES)


def display_answers(platform: str) -> bool:
    """Whether the display of `platform` takes connections; Qt ends the process where none does."""
    if not sys.platform.startswith("linux"):
        return True
    return any(_connects(part.split(":")[0]) for part in platform.split(";"))


def apt_line(missing: tuple[str, ...]) -> str:
    """One line that tells the user what to install, given what `missing_libraries` found."""
    if "PySide6" in missing:
        return "Secateur's window needs PySide6, which is not installed; `make run` installs it."
    return (
        f"Secateur's window needs system libraries that are missing here ({', '.join(missing)}); "
        f"on Debian and Ubuntu: sudo apt-get install {' '.join(apt_packages())}"
    )


def main() -> int:
    if "--apt" in sys.argv[1:]:
        print(" ".join(apt_packages()))
        return 0
    platform = default_platform()
    if missing := missing_libraries(platform):
        print(apt_line(missing), file=sys.stderr)
        return 1
    if not display_answers(platform):
        print(
            "Secateur's window cannot reach the display: no server answers at "
            f"DISPLAY={os.environ.get('DISPLAY', '')} "
            f"WAYLAND_DISPLAY={os.environ.get('WAYLAND_DISPLAY', '')}.",
            file=sys.stderr,
        )
        return 1
    return 0


def _unloadable(libraries: tuple[str, ...]) -> tuple[str, ...]:
    """What the loader misses for these of Qt's libraries; () where that cannot be told."""
    if not sys.platform.startswith("linux"):
        return ()  # wheels for the other systems bring all that they need
    spec = importlib.util.find_spec("PySide6")
    if spec is None or spec.origin is None:
        return ("PySide6",)
    missing = []
    for library in libraries:
        path = _qt_file(Path(spec.origin).parent / "Qt", library)
        if path is None:
            continue  # a Qt laid out differently, as a distribution's own is
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            named = _LOADER_NAMES.search(str(error))
            missing.append(named[1] if named else str(error))
    return tuple(dict.fromkeys(missing))


def _qt_file(qt: Path, library: str) -> Path | None:
    if not library.startswith("platforms/"):
        path = qt / "lib" / library
        return path if path.exists() else None
    name = library.removeprefix("platforms/")
    folder = qt / "plugins" / "platforms"
    # Before Qt 6.10 Wayland's plugin was libqwayland-generic.so.
    found = [*folder.glob(f"libq{name}.so"), *sorted(folder.glob(f"libq{name}-*.so"))]
    return found[0] if found else None


def _connects(platform: str) -> bool:
    """Whether a server takes a connection; true for a platform that needs none."""
    calls = {
        "xcb": ("libxcb.so.1", "xcb_connect", (None, None), "xcb_disconnect"),
        "wayland": (
            "libwayland-client.so.0",
            "wl_display_connect",
            (None,),
            "wl_display_disconnect",
        ),
    }
    if platform not in calls:
        return True
    name, connect, arguments, disconnect = calls[platform]
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return False
    opener = getattr(library, connect)
    opener.restype = ctypes.c_void_p
    connection = opener(*arguments)
    if connection is None:
        return False
    handle = ctypes.c_void_p(connection)
    # xcb_connect returns an object even where it has failed.
    failed = platform == "xcb" and library.xcb_connection_has_error(handle) != 0
    getattr(library, disconnect)(handle)
    return not failed


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


if __name__ == "__main__":
    sys.exit(main())
