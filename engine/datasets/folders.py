"""Folders of pictures: one sub-folder a class, perhaps inside ``train`` and ``val``."""

# ruff: noqa: PTH118  # paths of a million pictures are kept and joined as text
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.datasets.pictures import read_picture
from engine.datasets.splits import HELD_BACK, Stored, stratified
from engine.errors import DataSetNotFound
from engine.job import Job

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"}
)
"""Of files that are taken for pictures, in small letters."""

_TRAINING = ("train", "training")
_VALIDATION = ("val", "valid", "validation", "test")
_REMEDY = "Put the pictures into one sub-folder a class, perhaps inside “train” and “val”."


@dataclass(frozen=True)
class PictureFiles:
    """Pictures with the number of their class; nothing is read before it is asked for.

    Attributes:
        files: paths inside ``folder``.
        others: files that are no pictures and were left out.
    """

    folder: str
    files: list[str]
    labels: list[int]
    others: int

    def __len__(self) -> int:
        return len(self.files)

    def name(self, at: int) -> str:
        """The path inside the folder; bytes that are no text are written as escapes."""
        return plain(self.files[at])

    def read(self, at: int) -> tuple[Any, int]:
        """The picture and its class."""
        return read_picture(os.path.join(self.folder, self.files[at])), self.labels[at]


def open_folder(path: Path, job: Job) -> Stored:
    """List a folder's pictures.

    Raises:
        DataSetNotFound: there is no such folder, or it has no class folders with pictures in it.
    """
    if not path.is_dir():
        raise DataSetNotFound(f"{plain(path)} is not a folder.", _REMEDY)
    root = path.resolve()
    train, judge = _one_of(root, _TRAINING), _one_of(root, _VALIDATION)
    if train is None or judge is None:
        return _split(path, train or judge or root, job)
    classes = sorted({*_class_folders(train), *_class_folders(judge)})
    training, validation = (_listed(root, one.name, classes, job) for one in (train, judge))
    if not len(validation):
        raise DataSetNotFound(f"There is no picture in a folder of {plain(judge)}.", _REMEDY)
    return Stored(
        plain(path.name or root.name),
        tuple(map(plain, classes)),
        (training, range(len(training))),
        (validation, range(len(validation))),
        f"Pictures of {plain(path)}; “{train.name}” calibrates, “{judge.name}” reports."
        + _remarks(classes, training, validation),
    )


def plain(name: str | Path) -> str:
    """A file's name as text that can be written anywhere."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _split(path: Path, root: Path, job: Job) -> Stored:
    """One folder for both halves."""
    classes = _class_folders(root)
    found = _listed(root, "", classes, job)
    if not len(found):
        raise DataSetNotFound(
            f"There is no picture in a class folder of {plain(root)}"
            + (f", beside {found.others} other files." if found.others else "."),
            _REMEDY,
        )
    training, validation = stratified(found.labels)
    return Stored(
        plain(path.name or root.name),
        tuple(map(plain, classes)),
        (found, training),
        (found, validation),
        f"Pictures of {plain(root)}. {HELD_BACK}" + _remarks(classes, found),
    )


def _remarks(classes: list[str], *halves: PictureFiles) -> str:
    filled = {label for half in halves for label in half.labels}
    empty = [name for at, name in enumerate(classes) if at not in filled]
    others = sum(half.others for half in halves)
    said = ""
    if empty:
        named = ", ".join(f"“{plain(name)}”" for name in empty[:5])
        said += (
            f" Class folders without a picture: {len(empty)} ({named}{', …' * (len(empty) > 5)})."
        )
    if others:
        said += f" Files left out, as they are no pictures: {others}."
    return said


def _one_of(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(one.name for one in entries if one.is_dir() and not one.name.startswith("."))


def _listed(root: Path, half: str, classes: list[str], job: Job) -> PictureFiles:
    files: list[str] = []
    labels: list[int] = []
    others = 0
    for label, name in enumerate(classes):
        for path in sorted(_walk(root, os.path.join(half, name), job)):
            if _is_picture(path):
                files.append(path)
                labels.append(label)
            else:
                others += 1
    return PictureFiles(str(root), files, labels, others)


def _is_picture(path: str) -> bool:
    name = Path(path).name
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _walk(root: Path, name: str, job: Job) -> Iterator[str]:
    """Regular files below a folder, by their path inside ``root``; each folder once."""
    waiting, seen = [name], set()
    while waiting:
        job.check()
        inside = waiting.pop()
        try:
            state = (root / inside).stat()
            if (state.st_dev, state.st_ino) in seen:
                continue  # links that lead in a circle
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(root / inside) as entries:
                for entry in entries:
                    path = os.path.join(inside, entry.name)
                    if entry.is_dir():
                        waiting.append(path)
                    elif entry.is_file():
                        yield path
        except OSError:  # a folder that may not be read has no pictures to give
            continue
