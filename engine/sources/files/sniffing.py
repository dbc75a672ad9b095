"""What a file is, told by its content and never by its suffix alone. Nothing in it is run."""

import os
import pickletools
import stat
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from engine.errors import ModelNotFound, ModelUnreadable
from engine.sources.files.archives import Archive, read_archive
from engine.sources.files.naming import megabytes, plain_name
from engine.sources.files.onnx_sniffing import looks_like_onnx, missing_bytes

_HEAD = 1 << 16
_LARGEST_HEADER = 1 << 30
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_COPY_AGAIN = "Copy or download the file again."
_UNPACK = "Unpack it first, then open what it holds."


class Kind(Enum):
    """What a file that may hold a model is; the value is its name in messages."""

    SAFETENSORS = "a safetensors file"
    SHARD_INDEX = "an index of shards"
    TORCH_ZIP = "a PyTorch checkpoint"
    LEGACY_PICKLE = "a PyTorch checkpoint of before version 1.6"
    PICKLE = "a pickle"
    TORCHSCRIPT = "a TorchScript archive"
    PROGRAM = "an exported program"
    NPZ = "an archive of NumPy arrays"
    NPY = "a single NumPy array (.npy)"
    ONNX = "an ONNX model"
    PYTHON = "a Python file"
    DESCRIPTION = "a network description"


def sniff(path: Path) -> Kind:
    """What the file is. It is opened only if it is a regular one, and read in small parts.

    Raises:
        ModelNotFound: there is no file of that name.
        ModelUnreadable: it is nothing that can be opened; the message says what it is instead.
    """
    size = _regular_size(path)
    try:
        # Not waiting, should it have become a pipe since.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            head = file.read(_HEAD)
            return _kind(path, head, size)
    except OSError as error:
        raise _refused(path, (error.strerror or str(error))) from error


def _regular_size(path: Path) -> int:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ModelNotFound(f"There is no file {plain_name(path)}.") from error
    except OSError as error:
        if "too long" in str(error):
            raise ModelNotFound(
                f"There is no file {plain_name(path)}: its name is too long."
            ) from error
        raise _refused(path, error.strerror or str(error)) from error
    try:
        found = os.stat(path)  # noqa: PTH116 (one call, and its reason, for every kind of path)
    except FileNotFoundError as error:
        raise _refused(path, "it is a link that leads nowhere") from error
    except OSError as error:
        loop = "it is a link that leads back to itself" if path.is_symlink() else ""
        raise _refused(path, loop or error.strerror or str(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, _SPECIAL.get(stat.S_IFMT(found.st_mode), "it is not a regular file"))
    return found.st_size


_SPECIAL = {
    stat.S_IFDIR: "it is a folder, not a regular file",
    stat.S_IFIFO: "it is a pipe, not a regular file",
    stat.S_IFSOCK: "it is a socket, not a regular file",
    stat.S_IFCHR: "it is a device, not a regular file",
    stat.S_IFBLK: "it is a device, not a regular file",
}


def _kind(path: Path, head: bytes, size: int) -> Kind:
    if not head:
        raise _refused(path, "it is empty")
    # First of all, as the length of a header may begin with any bytes, a pickle's too.
    length = int.from_bytes(head[:8], "little")
    if head[8:].lstrip().startswith(b"{") and 2 <= length < _LARGEST_HEADER:
        if length > size - 8:
            raise _cut_short(path, size, 8 + length, "its header alone takes more")
        return Kind.SAFETENSORS
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_archive(read_archive(path))
    for is_one, kind in _KINDS:
        if is_one(path, head, size):
            return kind
    if looks_like_onnx(head, size):
        if missing := missing_bytes(head, size):
            raise _cut_short(path, size, size + missing)
        return Kind.ONNX
    raise _named(path, head, size)


def _kind_of_archive(archive: Archive) -> Kind:
    names = archive.members
    tops = {name.partition("/")[0] for name in names}
    inside = {name.partition("/")[2] for name in names}
    shown = plain_name(archive.path.name)
    if not names:
        raise ModelUnreadable(f"{shown} is an empty ZIP archive.")
    if names.keys() & {"serialized_exported_program.json", "serialized_state_dict.pt"}:
        return Kind.PROGRAM
    if all(name.endswith(".npy") for name in names):
        return Kind.NPZ
    if inside & {"archive_format", "archive_version"} or any(
        name.startswith("models/") for name in inside
    ):
        return Kind.PROGRAM
    if "data.pkl" in inside and len(tops) > 1:
        raise ModelUnreadable(
            f"{shown} is no checkpoint: a PyTorch archive has one top folder, not {len(tops)}."
        )
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        return Kind.TORCHSCRIPT
    if "data.pkl" in inside:
        return Kind.TORCH_ZIP
    if "model.weights.h5" in names:
        raise ModelUnreadable(f"{shown} is a Keras model.", _CONVERT)
    raise ModelUnreadable(f"{shown} is a ZIP archive that holds no model.", _UNPACK)


def _is_legacy(path: Path, head: bytes, size: int) -> bool:
    return head.startswith(b"\x80") and _LEGACY_MAGIC in head[:64]


def _is_pickle(path: Path, head: bytes, size: int) -> bool:
    if head[:1] == b"\x80":
        return len(head) > 1 and head[1] <= 5
    return _parses_as_pickle(head, size)


def _parses_as_pickle(head: bytes, size: int) -> bool:
    """Whether an old pickle, which has no signature, begins so: by its operations alone."""
    if head[:1] not in b"()]}cFGIJKLMNSTUVX":
        return False
    count = 0
    try:
        for operation, _, _ in pickletools.genops(head):
            count += 1
            if operation.name == "STOP":
                return count > 1
    except ValueError as error:
        # Cut off in the middle of the part that was read: not told from a text by a few letters.
        return size > len(head) and count > 100 and "not enough" in str(error)
    return False


def _is_index(path: Path, head: bytes, size: int) -> bool:
    return head.lstrip().startswith(b"{") and b'"weight_map"' in head


def _is_python(path: Path, head: bytes, size: int) -> bool:
    return path.suffix == ".py" and b"\0" not in head


def _is_description(path: Path, head: bytes, size: int) -> bool:
    """By its first line, wrong fields and all, so that whoever reads it can name them."""
    fields = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].split(b",")
    whole = sum(field.strip().isdigit() for field in fields)
    return len(fields) >= _FIELDS_OF_A_DESCRIPTION and whole * 2 > len(fields)


_FIELDS_OF_A_DESCRIPTION = 20  # of 25: fewer are a table of some other kind


def _is_array(path: Path, head: bytes, size: int) -> bool:
    return head.startswith(b"\x93NUMPY")


_KINDS: tuple[tuple[Callable[[Path, bytes, int], bool], Kind], ...] = (
    (_is_array, Kind.NPY),
    (_is_legacy, Kind.LEGACY_PICKLE),
    (_is_index, Kind.SHARD_INDEX),
    (_is_python, Kind.PYTHON),
    (_is_description, Kind.DESCRIPTION),
    (_is_pickle, Kind.PICKLE),
)

_CONVERT = "Export it to ONNX or safetensors with the program that wrote it."

_SIGNATURES: tuple[tuple[int, bytes, str, str | None], ...] = (
    (0, b"\x1f\x8b", "it is packed with gzip", _UNPACK),
    (0, b"\xfd7zXZ\0", "it is packed with xz", _UNPACK),
    (0, b"BZh", "it is packed with bzip2", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "it is a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "it is a RAR archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "it is packed with Zstandard", _UNPACK),
    (257, b"ustar", "it is a tar archive", _UNPACK),
    (0, b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, as Keras writes", _CONVERT),
    (4, b"TFL3", "it is a TensorFlow Lite model", _CONVERT),
    (0, b"GGUF", "it is a GGUF file of a language model", _CONVERT),
    (0, b"\x89PNG", "it is a picture", None),
    (0, b"\xff\xd8\xff", "it is a picture", None),
    (0, b"GIF8", "it is a picture", None),
    (0, b"%PDF", "it is a PDF document", None),
    (0, b"\x7fELF", "it is a program of this machine's, not a model", None),
)
_TAR_CHECKPOINT = (b"sys_info", b"pickle", b"storages", b"tensors")


def _named(path: Path, head: bytes, size: int) -> ModelUnreadable:
    """Why it is no model, in words that name what it is instead."""
    if head.startswith(b"version https://git-lfs"):
        whole = next((one for one in head.split(b"\n") if one.startswith(b"size ")), b"")[5:]
        of = f" ({megabytes(int(whole))})" if whole.isdigit() and len(whole) < 18 else ""
        return _refused(
            path,
            f"it is a Git LFS pointer, not the file itself{of}",
            "Fetch the file itself with “git lfs pull”.",
        )
    if head[257:262] == b"ustar" and head.split(b"\0")[0].split(b"/")[0] in _TAR_CHECKPOINT:
        return _refused(
            path,
            "it is in PyTorch's tar format of before version 0.1.10, which cannot be read safely",
            "Load and save it again with a newer PyTorch.",
        )
    for at, sign, words, remedy in _SIGNATURES:
        if head[at : at + len(sign)] == sign:
            return _refused(path, words, remedy)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return _refused(
            path,
            "it is a web page that was saved in its place",
            "Download the file itself; perhaps the address needs a login.",
        )
    if text.startswith((b"<?xml", b"<net")):
        return _refused(path, "it is an XML file", _CONVERT)
    if head.startswith(b"\x0a") and (b"\x12\x0bPlaceholder" in head or b"\x12\x05Const" in head):
        return _refused(path, "it is a TensorFlow graph", _CONVERT)
    if head.startswith(b"\x80") and len(head) == 1:
        return _refused(path, "it is cut short: a single byte of a pickle is left", _COPY_AGAIN)
    if text.startswith((b"{", b"[")):
        return _refused(path, "it is a JSON file, which holds no tensors")
    if not any(head):
        return _refused(path, "it begins with zeros only, as a failed download leaves", _COPY_AGAIN)
    if _is_text(head):
        return _refused(path, "it is a text file")
    return _refused(path, "its content is that of no model file, or it is cut short or damaged")


def _is_text(head: bytes) -> bool:
    try:
        text = head[:4096].decode()
    except UnicodeDecodeError as error:
        if len(head) < 4096 or error.start < 4090:
            return False
        text = head[: error.start].decode()
    return all(one.isprintable() or one in "\t\r\n" for one in text)


def _cut_short(path: Path, size: int, whole: int, why: str = "") -> ModelUnreadable:
    because = f" ({why})" if why else ""
    return ModelUnreadable(
        f"{plain_name(path.name)} is cut short: {megabytes(size)} of {megabytes(whole)} are "
        f"there{because}.",
        _COPY_AGAIN,
    )


def _refused(path: Path, cause: str, remedy: str | None = None) -> ModelUnreadable:
    shown = plain_name(path.name or path)
    return ModelUnreadable(f"{shown} cannot be opened: {cause}.", remedy)
