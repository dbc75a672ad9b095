"""Writing files: all of it or none, and never at the cost of the old one."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ExportFailed
from engine.files import write_atomically

OLD, NEW = b"old content", b"new content, and more of it"

needs_permissions = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is there already, alone in its folder."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(OLD)
    return path


def untouched(path: Path) -> bool:
    return path.read_bytes() == OLD and list(path.parent.iterdir()) == [path]


def refusal(path: Path, *check: Any) -> str:
    with pytest.raises(ExportFailed) as caught:
        write_atomically(path, NEW, *check)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_new_file_and_an_old_one_get_the_content(tmp_path: Path, path: Path) -> None:
    fresh = tmp_path / "fresh.bin"
    for target in (fresh, path):
        write_atomically(target, NEW)
        assert target.read_bytes() == NEW
    write_atomically(path, b"")
    assert path.read_bytes() == b""
    assert sorted(tmp_path.iterdir()) == [fresh, path], "nothing else is left"


def test_the_check_sees_the_whole_new_file_while_the_old_one_is_there(path: Path) -> None:
    seen = []

    def check(written: Path) -> None:
        seen.append((written.read_bytes(), path.read_bytes()))
        assert (written.parent, written.suffix) == (path.parent, path.suffix)

    write_atomically(path, NEW, check)
    assert seen == [(NEW, OLD)]


@pytest.mark.parametrize(
    "error", [ExportFailed("Wrong."), ValueError("wrong"), KeyboardInterrupt()]
)
def test_what_the_check_raises_comes_out_and_the_old_file_stays(
    path: Path, error: BaseException
) -> None:
    def check(_: Path) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(path, NEW, check)
    assert caught.value is error
    assert untouched(path)


@pytest.mark.parametrize("step", ["write", "flush", "fsync", "chmod", "replace"])
def test_a_full_disk_at_any_step_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    fdopen = os.fdopen

    class Full:
        """A file over the real handle whose ``step`` finds no space."""

        def __init__(self, handle: int, mode: str) -> None:
            self._file = fdopen(handle, mode)

        def __enter__(self) -> Any:
            setattr(self, step, full)
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    if step in ("write", "flush"):
        monkeypatch.setattr(os, "fdopen", Full)
    elif step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, step, full)
    assert "No space left on device" in refusal(path)
    assert untouched(path)


def test_a_file_that_came_out_shorter_is_not_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: os.ftruncate(handle, 3))
    with pytest.raises(ExportFailed, match=r"Only a part of model\.safetensors"):
        write_atomically(path, NEW)
    assert untouched(path)


def test_a_folder_that_cannot_be_flushed_does_not_undo_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, NEW)
    assert path.read_bytes() == NEW


def test_file_and_folder_are_flushed_before_and_after_the_file_takes_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    flush, replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        flush(handle)

    def take_name(self: Path, target: Path) -> Path:
        steps.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", take_name)
    write_atomically(path, NEW)
    assert steps == ["file", "name", "folder"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file or directory" in refusal(tmp_path / "missing" / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_where_a_folder_is_needed(path: Path) -> None:
    assert "Not a directory" in refusal(path / "model.safetensors")
    assert untouched(path)


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model.safetensors"
    folder.mkdir()
    (folder / "precious").write_bytes(OLD)
    assert "directory" in refusal(folder)
    assert (folder / "precious").read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [folder]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert "File name too long" in refusal(tmp_path / ("x" * 300))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "-rf", ".hidden", "a b\nc", "%s{0}"])
def test_names_that_are_allowed_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, NEW)
    assert [one.name for one in tmp_path.iterdir()] == [name]


@needs_permissions
def test_a_folder_that_may_not_be_written(path: Path) -> None:
    path.parent.chmod(0o555)
    try:
        assert "Permission denied" in refusal(path)
        assert untouched(path)
    finally:
        path.parent.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_of_any_new_file(
    tmp_path: Path, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "new", NEW)
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode
    finally:
        assert os.umask(before) == mask, "the process keeps its mask"


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_an_old_file_hands_down_its_permissions(path: Path, mode: int) -> None:
    path.chmod(mode)
    write_atomically(path, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_stays_a_link_and_its_file_gets_the_content(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "model.bin"
    target.write_bytes(OLD)
    link = tmp_path / "link.bin"
    link.symlink_to(target)
    write_atomically(link, NEW)
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert list(target.parent.iterdir()) == [target]
