"""Writing files so that a crash, a full disk or a failed check never costs the old one."""

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from engine.errors import ExportFailed


def write_atomically(
    path: Path, content: bytes, check: Callable[[Path], None] = lambda path: None
) -> None:
    """Give ``path`` this content, all of it or none.

    A temporary file in the same folder is written, its size compared, ``check`` run on it, and
    only then it takes the name; folder and file are flushed to the disk. A file that was there
    hands down its permissions, and a link stays a link.

    Raises:
        ExportFailed: the system refused, with its reason; or what ``check`` raises.
    """
    target = Path(os.path.realpath(path))
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:40]}.", suffix=path.suffix, dir=target.parent
        )
    except OSError as error:
        raise _refused(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if temporary.stat().st_size != len(content):
            raise ExportFailed(f"Only a part of {path.name} could be written.")
        check(temporary)
        temporary.chmod(_mode(target))  # mkstemp's files are private
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _refused(path: Path, error: OSError) -> ExportFailed:
    return ExportFailed(f"{path} could not be written: {error.strerror or error}.")


def _mode(path: Path) -> int:
    with suppress(FileNotFoundError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows has no handle on folders to flush
    with suppress(OSError):  # the file is there; some file systems cannot flush folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
