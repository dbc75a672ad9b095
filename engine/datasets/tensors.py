"""Files of tensors: NumPy's ``.npz`` and ``.safetensors``."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from engine.datasets.folders import plain
from engine.datasets.splits import HELD_BACK, Stored, stratified
from engine.errors import DataSetNotFound, DataSetUnreadable

SUFFIXES = frozenset({".npz", ".safetensors"})

_INPUTS = ("x", "images", "data", "inputs", "samples", "features")
_TARGETS = ("y", "labels", "targets", "target", "label", "masks")
_TRAINING = ("train", "training")
_VALIDATION = ("test", "val", "valid", "validation")
_REMEDY = (
    "Name the arrays x and y, images and labels, data and targets, or x_train, y_train, x_test "
    "and y_test."
)


@dataclass(frozen=True)
class Rows:
    """Samples along the first axis of two tensors."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return int(self.inputs.shape[0])

    def name(self, at: int) -> str:
        """Its number, from 1."""
        return f"sample {at + 1}"

    def read(self, at: int) -> tuple[Tensor, Tensor]:
        """The row of each."""
        return self.inputs[at], self.targets[at]


def open_tensors(path: Path) -> Stored:
    """Read a file's samples into memory, in the types they are stored in.

    Raises:
        DataSetNotFound: there is no such file.
        DataSetUnreadable: it is damaged, holds Python objects, or nothing that looks like samples
            with labels.
    """
    if not os.path.isfile(path):  # noqa: PTH113  # Path's own raises for names that are too long
        raise DataSetNotFound(f"{plain(path)} is not a file.")
    store = _Npz(path) if path.suffix.lower() == ".npz" else _Safetensors(path)
    pairs = _pairs(store.names(), path)
    rows = [_rows(store.read(pair, path), pair, path) for pair in pairs]
    name, named = plain(path.stem), " and ".join(f"“{plain(one)}”" for one in pairs[-1])
    if len(rows) == 2:
        halves = [(one, range(len(one))) for one in rows]
        return Stored(name, (), halves[0], halves[1], f"{plain(path)}; {named} report.")
    (only,) = rows
    labels = only.targets.tolist() if only.targets.dim() == 1 else [0] * len(only)
    training, validation = stratified(labels)
    said = f"{named} of {plain(path)}. {HELD_BACK}"
    return Stored(name, (), (only, training), (only, validation), said)


@dataclass(frozen=True)
class _Npz:
    path: Path

    def names(self) -> list[str]:
        with _damage_named(self.path), zipfile.ZipFile(self.path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]

    def read(self, names: tuple[str, ...], path: Path) -> list[Tensor]:
        with _damage_named(path), zipfile.ZipFile(path) as archive:
            _check_memory(sum(_claimed(archive, f"{name}.npy") for name in names), path)
        with _damage_named(path), np.load(path, allow_pickle=False) as file:
            return [_tensor(file[name]) for name in names]


@dataclass(frozen=True)
class _Safetensors:
    path: Path

    def names(self) -> list[str]:
        from safetensors import safe_open

        with _damage_named(self.path), safe_open(self.path, "pt") as file:
            return list(file.keys())

    def read(self, names: tuple[str, ...], path: Path) -> list[Tensor]:
        from safetensors import safe_open

        _check_memory(path.stat().st_size, path)
        with _damage_named(path), safe_open(path, "pt") as file:
            # Clones: the tensors are mapped onto the file, which others may change.
            return [file.get_tensor(name).clone() for name in names]


class _damage_named:  # noqa: N801  # reads as a statement
    """Turns whatever a reader raises into our own error."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, MemoryError | DataSetUnreadable):
            words = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            if "allow_pickle" in words:
                words = "it holds Python objects, which would have to be run to be read"
            raise DataSetUnreadable(f"{plain(self._path.name)} cannot be read: {words}.") from error


def _claimed(archive: zipfile.ZipFile, name: str) -> int:
    """Bytes of an array as its header has them, which its member must hold."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        forms = np.lib.format
        read = forms.read_array_header_1_0 if version == (1, 0) else forms.read_array_header_2_0
        shape, _, dtype = read(member)
    size = prod(shape) * dtype.itemsize
    if size > archive.getinfo(name).file_size:
        raise ValueError(f"“{plain(name)}” is cut short")
    return size


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"it holds {array.dtype} where numbers are needed")
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return torch.from_numpy(native.reshape(array.shape))


def _check_memory(size: int, path: Path) -> None:
    free = psutil.virtual_memory().available
    if size > free:
        raise DataSetUnreadable(
            f"The arrays of {plain(path.name)} take {size / 1e9:.1f} GB, "
            f"and {free / 1e9:.1f} GB of memory are free.",
            "Use a smaller file, or a folder of pictures, which is read bit by bit.",
        )


def _pairs(names: list[str], path: Path) -> list[tuple[str, str]]:
    """Names of inputs and targets: of training and validation, or of all samples."""
    known = {name.lower().replace("-", "_"): name for name in names}
    training, validation = (_pair(known, part) for part in (_TRAINING, _VALIDATION))
    if training and validation:
        return [training, validation]
    whole = _pair(known, ()) or training or validation
    if whole is None:
        listed = ", ".join(f"“{plain(one)}”" for one in names[:8]) or "nothing"
        raise DataSetUnreadable(
            f"{plain(path.name)} holds {listed}, and no samples with labels by names that are "
            "understood.",
            _REMEDY,
        )
    return [whole]


def _pair(known: Mapping[str, str], parts: tuple[str, ...]) -> tuple[str, str] | None:
    forms = [form for part in parts for form in (f"{{}}_{part}", f"{part}_{{}}")] or ["{}"]
    for form in forms:
        inputs, targets = (
            next((known[form.format(one)] for one in kind if form.format(one) in known), None)
            for kind in (_INPUTS, _TARGETS)
        )
        if inputs is not None and targets is not None:
            return inputs, targets
    return None


def _rows(found: list[Tensor], names: tuple[str, str], path: Path) -> Rows:
    inputs, targets = found
    if targets.dim() == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if not inputs.dim() or not targets.dim() or len(inputs) != len(targets) or not len(inputs):
        shapes = " and ".join("×".join(map(str, one.shape)) or "one number" for one in found)
        raise DataSetUnreadable(
            f"“{plain(names[0])}” and “{plain(names[1])}” of {plain(path.name)} are {shapes}: "
            "not one label for each sample.",
            _REMEDY,
        )
    return Rows(inputs, targets)
