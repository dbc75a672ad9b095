"""Figures of this machine that are kept between runs, in the user's cache folder.

Nothing depends on them: a file that is missing or damaged means that they are taken again.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from engine.errors import ExportFailed
from engine.files import write_atomically

_FIGURES = TypeAdapter(dict[str, tuple[FiniteFloat, ...]])


def cache_folder() -> Path:
    """Where the system wants such files."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "secateur"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "secateur" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "secateur"
    return Path.home() / ".cache" / "secateur"


def drop_old(folder: Path, pattern: str, days: int, size: int) -> None:
    """Drop files of a folder that are older, and the oldest beyond so many bytes in all."""
    last, left = time.time() - days * 86_400, size
    found = []
    for path in folder.glob(pattern):
        with suppress(OSError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    for written, taken, path in sorted(found, reverse=True):
        left -= taken
        if written < last or left < 0:
            with suppress(OSError):
                path.unlink()


def config_folder() -> Path:
    """Where the user's own files of settings are, beside those of the window."""
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home()) / "Secateur"
    chosen = os.environ.get("XDG_CONFIG_HOME")
    return (Path(chosen) if chosen else Path.home() / ".config") / "Secateur"


def machine() -> str:
    """A name for this machine, as folders may be shared between several."""
    return f"{platform.node()} {platform.machine()}"


def kept_figures(file: str, key: str) -> tuple[float, ...] | None:
    """The figures under that key; None when there are none."""
    return _read(cache_folder() / file).get(key)


def keep_figures(file: str, key: str, figures: Sequence[float]) -> None:
    """Keep figures under a key, beside those that are kept already."""
    path = cache_folder() / file
    with suppress(ExportFailed, OSError):  # a full disk costs no more than the next run's time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _text({**_read(path), key: tuple(figures)}))


def _text(figures: Mapping[str, tuple[float, ...]]) -> bytes:
    return json.dumps(figures, indent=1, sort_keys=True, allow_nan=False).encode()


def _read(path: Path) -> dict[str, tuple[float, ...]]:
    try:
        return _FIGURES.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return {}
