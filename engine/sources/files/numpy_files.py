"""NumPy's archives (``.npz``) of tensors, Chainer's snapshots among them, and single arrays."""

import ast
import io
import os
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import ModelUnreadable
from engine.job import Job
from engine.sources.files.archives import Archive, read_archive
from engine.sources.files.contents import Contents, Stored
from engine.sources.files.naming import plain_name, plain_names

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000
_TYPE = re.compile(r"[<>|=]?(?P<kind>[a-zA-Z])(?P<size>\d+)?.*")
_DTYPES = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32",
    "i2": "int16", "i1": "int8", "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8",
    "b1": "bool", "c8": "complex64", "c16": "complex128",
}  # fmt: skip

_CHAINER = {
    "W": "weight", "b": "bias", "gamma": "weight", "beta": "bias",
    "avg_mean": "running_mean", "avg_var": "running_var", "N": "num_batches_tracked",
}  # fmt: skip
_CHAINERS_OWN = frozenset({"W", "gamma", "avg_mean"})
_CHAINER_MODEL = re.compile(r"updater/model:[^/]+/")
_CHAINER_EPSILON = (
    "Chainer adds 2e-5 to variances by default where PyTorch adds 1e-5; outputs differ slightly."
)


def read_npz(path: Path, job: Job) -> Contents:
    """The arrays of an ``.npz``, with PyTorch's names where they have Chainer's.

    Raises:
        ModelUnreadable: it is damaged, or holds Python objects.
    """
    archive = read_archive(path)
    archive.verify(job)
    stored = {}
    texts = []
    for member in archive.members.values():
        name = member.name.removesuffix(".npy")
        found = _stored(path, member.name, archive.head(member), member.size)
        if found is None:
            texts.append(name)
        else:
            stored[name] = found
    names, notes = _torch_names(stored)
    if texts:
        notes = (*notes, f"Left aside, as they are no numbers: {plain_names(texts)}.")

    def read() -> dict[str, Tensor]:
        return {name: _array(archive, f"{full}.npy") for name, full in names.items()}

    return Contents({name: stored[full] for name, full in names.items()}, read, notes)


def _torch_names(stored: Mapping[str, Stored]) -> tuple[dict[str, str], tuple[str, ...]]:
    """PyTorch's name of each array, to its own name; with notes."""
    if not any("/" in name and name.rpartition("/")[2] in _CHAINERS_OWN for name in stored):
        return {name: name for name in stored}, ()
    snapshot = [name for name in stored if _CHAINER_MODEL.match(name)]
    names = {}
    for full in snapshot or stored:
        layer, _, last = _CHAINER_MODEL.sub("", full, count=1).rpartition("/")
        if last in _CHAINER:
            names[f"{layer}.{_CHAINER[last]}".replace("/", ".")] = full
    aside = sorted(set(stored) - set(names.values()))
    notes: tuple[str, ...] = ("A snapshot of Chainer's.",)
    if any(name.endswith("avg_var") for name in stored):
        notes = (*notes, _CHAINER_EPSILON)
    if aside:
        notes = (*notes, f"Left aside in it: {plain_names(aside)}.")
    return names, notes


def read_npy(path: Path) -> Contents:
    """The one array of an ``.npy``, under no name.

    Raises:
        ModelUnreadable: it is damaged, or holds anything but numbers.
    """
    with path.open("rb") as file:
        head = file.read(_LONGEST_HEADER + 12)
        size = file.seek(0, os.SEEK_END)
    stored = _stored(path, path.name, head, size)
    if stored is None:
        raise ModelUnreadable(f"{plain_name(path.name)} holds no numbers.")
    return Contents({"": stored}, lambda: {"": _tensor(path, path.name, path.read_bytes())})


def _array(archive: Archive, name: str) -> Tensor:
    return _tensor(archive.path, name, archive.content(name))


def _tensor(path: Path, name: str, content: bytes) -> Tensor:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _damaged(path, name, "is no array that NumPy reads") from error
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))


def _stored(path: Path, name: str, start: bytes, whole: int) -> Stored | None:
    """Shape and type of one array; None for texts and dates.

    Args:
        start: its first bytes, the header among them.
        whole: bytes that it takes in all.

    Raises:
        ModelUnreadable: its header does not fit its size, or it holds Python objects.
    """
    wide = start[6:7] != b"\x01"
    first = 12 if wide else 10
    if not start.startswith(_MAGIC) or start[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise _damaged(path, name, "is no NumPy array")
    length = int.from_bytes(start[8:first], "little")
    if length > _LONGEST_HEADER or first + length > len(start):
        raise _damaged(path, name, "has a header longer than any array's")
    described = _described(start[first : first + length])
    if described is None:
        raise _damaged(path, name, "has a broken header")
    kind, shape = described
    if kind.startswith(("O", "V")):
        raise ModelUnreadable(
            f"{plain_name(path.name)}: “{plain_name(name)}” holds Python objects, "
            "which only a pickle can bring back.",
            "Save the arrays as plain numbers.",
        )
    if kind not in _DTYPES:
        return None
    size = prod(shape) * int(kind[1:])
    if first + length + size != whole:
        raise _damaged(path, name, "has another size than its shape says")
    return Stored(shape, _DTYPES[kind])


def _described(header: bytes) -> tuple[str, tuple[int, ...]] | None:
    """NumPy's letter and size of the type, and the shape; None if it is not so described."""
    try:
        found: Any = ast.literal_eval(header.decode("latin1").strip())
        kind, shape = found["descr"], found["shape"]
        whole = type(shape) is tuple and all(type(one) is int and one >= 0 for one in shape)
        if found.keys() != {"descr", "shape", "fortran_order"} or not whole or len(shape) > 32:
            return None
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        return None
    if not isinstance(kind, str):
        return "V", shape  # named fields
    parts = _TYPE.fullmatch(kind)
    return None if parts is None else (parts["kind"] + (parts["size"] or ""), shape)


def _damaged(path: Path, name: str, cause: str) -> ModelUnreadable:
    return ModelUnreadable(
        f"{plain_name(path.name)} is damaged: “{plain_name(name)}” {cause}.",
        "Copy or save the file again.",
    )
