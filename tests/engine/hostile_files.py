"""Hostile and broken files, generated: each a path to open, and what its one message must name.

What a pickle would run here is harmless: it makes a folder, whose absence is then checked.
"""

import gzip
import io
import json
import lzma
import os
import pickle
import pickletools
import random
import socket
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn


@dataclass(frozen=True)
class Case:
    """A file to be refused.

    Attributes:
        make: writes it into a folder of its own; what runs makes the second path. Gives what to
            open.
        cause: part of the message.
    """

    name: str
    make: Callable[[Path, Path], Path]
    cause: str


class Bomb:
    """Unpickled, it leaves a folder behind."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.sign),)


class Net(nn.Module):
    """A module of a class that only this test has."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


def state() -> OrderedDict[str, torch.Tensor]:
    """A small, whole state dict."""
    return OrderedDict(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict())


def cases() -> Iterator[Case]:
    """All files, in an order of their formats."""
    for group in (
        _no_files, _other_formats, _pickles, _nested, _raw_pickles, _torch_archives,
        _archive_tricks, _cut_short, _flipped, _legacy, _safetensors, _shards, _numpy, _structures,
        _names, _at_the_limits,
    ):  # fmt: skip
        for name, make, cause in group():
            yield Case(f"{group.__name__.strip('_')}: {name}", make, cause)


_Row = tuple[str, Callable[[Path, Path], Path], str]


def _writes(content: bytes, name: str = "model.pt") -> Callable[[Path, Path], Path]:
    def make(folder: Path, sign: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def _with_sign(build: Callable[[Path], bytes], name: str = "model.pt") -> Any:
    def make(folder: Path, sign: Path) -> Path:
        return _writes(build(sign), name)(folder, sign)

    return make


# -- nothing that has content


def _no_files() -> Iterator[_Row]:
    def fifo(folder: Path, sign: Path) -> Path:
        os.mkfifo(folder / "model.pt")
        return folder / "model.pt"

    def link(to: str) -> Callable[[Path, Path], Path]:
        def make(folder: Path, sign: Path) -> Path:
            (folder / "model.pt").symlink_to(to)
            return folder / "model.pt"

        return make

    def to_a_pipe(folder: Path, sign: Path) -> Path:
        fifo(folder, sign)
        (folder / "link.pt").symlink_to("model.pt")
        return folder / "link.pt"

    def ring(folder: Path, sign: Path) -> Path:
        (folder / "a.pt").symlink_to("b.pt")
        (folder / "b.pt").symlink_to("a.pt")
        return folder / "a.pt"

    def through_ring(folder: Path, sign: Path) -> Path:
        (folder / "loop").symlink_to("loop")
        return folder / "loop" / "model.pt"

    def listening(folder: Path, sign: Path) -> Path:
        # By its short name: the whole path of a socket must fit into 107 bytes.
        before = os.open(".", os.O_RDONLY)
        os.chdir(folder)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("model.pt")
        os.fchdir(before)
        os.close(before)
        return folder / "model.pt"

    def folder_named(folder: Path, sign: Path) -> Path:
        (folder / "model.pt").mkdir()
        return folder / "model.pt"

    def below_a_file(folder: Path, sign: Path) -> Path:
        (folder / "file").write_bytes(b"x")
        return folder / "file" / "model.pt"

    yield "missing", lambda folder, _: folder / "model.pt", "There is no file"
    yield "pipe", fifo, "a pipe"
    yield "link to a pipe", to_a_pipe, "a pipe"
    yield "socket", listening, "a socket"
    yield "folder", folder_named, "a folder"
    yield "below a file", below_a_file, "There is no file"
    yield "link to itself", link("model.pt"), "leads back to itself"
    yield "two links to each other", ring, "leads back to itself"
    yield "below a link to itself", through_ring, "cannot be opened"
    yield "dangling link", link("nowhere"), "leads nowhere"
    yield "link to zeros", link("/dev/zero"), "a device"
    for device in ("zero", "full", "null", "tty", "urandom"):
        yield device, lambda _, __, device=device: Path("/dev") / device, "a device"
    yield "own memory", lambda *_: Path("/proc/self/mem"), "Input/output error"
    yield "nothing in it", _writes(b""), "it is empty"
    yield "link to a folder", link("."), "a folder"


# -- other formats, by their true name


def packed_tar(name: str, content: bytes = b"data") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _other_formats() -> Iterator[_Row]:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 97781543\n"
    rows = {
        "Git LFS pointer": (pointer, "a Git LFS pointer, not the file itself (97.8 MB)"),
        "web page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        "web page after a mark": (b"\xef\xbb\xbf \n<HTML><script>x()</script>", "a web page"),
        "XML": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML file"),
        "gzip": (gzip.compress(pickle.dumps(1)), "packed with gzip"),
        "xz": (lzma.compress(b"x" * 100), "packed with xz"),
        "bzip2": (b"BZh91AY&SY" + b"\1" * 50, "packed with bzip2"),
        "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + b"\1" * 50, "a 7z archive"),
        "RAR": (b"Rar!\x1a\x07\x01\0" + b"\1" * 50, "a RAR archive"),
        "Zstandard": (b"\x28\xb5\x2f\xfd" + b"\1" * 50, "packed with Zstandard"),
        "tar": (packed_tar("weights.txt"), "a tar archive"),
        "PyTorch's tar": (packed_tar("storages"), "tar format"),
        "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "an HDF5 file"),
        "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + b"\0" * 50, "a TensorFlow Lite model"),
        "GGUF": (b"GGUF\3\0\0\0" + b"\1" * 50, "a GGUF file"),
        "single array": (b"\x93NUMPY\1\0v\0{'descr': '<f4'}", "a single NumPy array"),
        "picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "a picture"),
        "PDF": (b"%PDF-1.7\n" + b"\1" * 50, "a PDF document"),
        "JSON": (b'{"layers": []}', "a JSON file"),
        "JSON list": (b"[1, 2]", "a JSON file"),
        "text": (b"ResNet-50 weights\n", "a text file"),
        "zeros": (bytes(5000), "begins with zeros only"),
        "noise": (bytes(range(255, 0, -1)) * 9, "of no model file"),
        "half a text": ("Größe ".encode() * 700, "a text file"),
    }
    for name, (content, cause) in rows.items():
        yield name, _writes(content), cause


# -- pickles that run something


def _reduce(sign: Path) -> bytes:
    return pickle.dumps(Bomb(sign), 2)


def _code(sign: Path, body: str) -> bytes:
    """A pickle in the text form of protocol 0; SIGN in it stands for the path."""
    return body.replace("SIGN", str(sign)).encode("latin1")


_BODIES = {
    "REDUCE": ("cos\nmkdir\n(VSIGN\ntR.", "os.mkdir"),
    "REDUCE of a nested name": ("cos\npath.os.mkdir\n(VSIGN\ntR.", "os.path.os.mkdir"),
    "INST": ("(VSIGN\nios\nmkdir\n.", "os.mkdir"),
    "OBJ": ("(cos\nmkdir\nVSIGN\no.", "os.mkdir"),
    "BUILD": ("cargparse\nNamespace\n)R(dV__class__\ncos\nmkdir\nsb.", "argparse.Namespace"),
    "eval": ("cbuiltins\neval\n(V__import__('os').mkdir('SIGN')\ntR.", "builtins.eval"),
    "Python 2's name of eval": ("c__builtin__\neval\n(V1\ntR.", "builtins.eval"),
    "getattr": ("cbuiltins\ngetattr\n(cos\nsystem\nV__call__\ntR.", "builtins.getattr"),
    "by way of POP": ("cos\nmkdir\n(VSIGN\ntR0N.", "os.mkdir"),
    "by way of the memo": ("cos\nmkdir\np0\n0g0\n(VSIGN\ntR.", "os.mkdir"),
    "by way of DUP": ("cos\nmkdir\n2(VSIGN\ntR.", "os.mkdir"),
    "hidden before a dictionary": ("cos\nmkdir\n(VSIGN\ntR0(dVa\nI1\ns.", "os.mkdir"),
    "subprocess": ("csubprocess\ncall\n((lVtouch\naVSIGN\natR.", "subprocess.call"),
    "torch.load within": ("ctorch.storage\n_load_from_bytes\n(VSIGN\ntR.", "_load_from_bytes"),
    "torch.hub": ("ctorch.hub\nload\n(Va/b\nVc\ntR.", "torch.hub.load"),
    "an extension's code": ("\x80\x02\x82\x05.", "extension 5"),
}


def _pickles() -> Iterator[_Row]:
    for name, (body, cause) in _BODIES.items():
        yield name, _with_sign(lambda sign, body=body: _code(sign, body)), cause
        yield (
            f"{name}, in an archive",
            _with_sign(lambda sign, body=body: _archive(b"\x80\x02" + _code(sign, body))),
            cause,
        )
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield (
            f"protocol {protocol}",
            _with_sign(lambda sign, p=protocol: pickle.dumps(Bomb(sign), p)),
            "mkdir",
        )
    newobj_ex = b"\x80\x04\x8c\x08argparse\x8c\x09Namespace\x93)}\x92."  # STACK_GLOBAL, NEWOBJ_EX
    yield "NEWOBJ_EX", _writes(newobj_ex), "argparse.Namespace"
    joined = b"\x80\x04\x8c\x02os\x94h\x00h\x00\x93."
    yield "a name from the memo", _writes(joined), "os.os"
    made = b"\x80\x04}\x8c\x01a\x93."
    yield "a name that is no text", _writes(made), "a name that is put together while it runs"
    newobj = b"\x80\x02cargparse\nNamespace\n)\x81."
    yield "NEWOBJ", _writes(newobj), "argparse.Namespace"


def _nested() -> Iterator[_Row]:
    """The same, within something else."""

    def script(sign: Path, where: str) -> bytes:
        members = {"m/data.pkl": b"N.", "m/code/__torch__.py": b"x", "m/constants.pkl": b"N."}
        return _zipped({**members, where: _reduce(sign)})

    def program(sign: Path) -> bytes:
        members = {"m/archive_format": b"pt2", "m/models/model.json": b"{}"}
        inner = _saved((Bomb(sign),))
        return _zipped(
            {**members, "m/data/sample_inputs/model.pt": inner, "m/byteorder": b"little"}
        )

    def shard(folder: Path, sign: Path) -> Path:
        (folder / "x.safetensors").write_bytes(_saved(Bomb(sign)))
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
        return path

    yield "in a tar", _with_sign(lambda sign: packed_tar("a.pkl", _reduce(sign))), "a tar archive"
    yield (
        "in PyTorch's tar",
        _with_sign(lambda sign: packed_tar("pickle", _reduce(sign))),
        "tar format",
    )
    yield "in gzip", _with_sign(lambda sign: gzip.compress(_reduce(sign))), "packed with gzip"
    yield "in xz", _with_sign(lambda sign: lzma.compress(_reduce(sign))), "packed with xz"
    yield (
        "in an archive in an archive",
        _with_sign(lambda sign: _zipped({"model.pt": _saved(Bomb(sign))})),
        "holds no model",
    )
    for where in ("m/data.pkl", "m/constants.pkl"):
        yield f"in TorchScript, {where}", _with_sign(lambda s, w=where: script(s, w)), "TorchScript"
    yield "in an exported program", _with_sign(program, "m.pt2"), "runs code"
    yield (
        "in an exported program of before",
        _with_sign(
            lambda sign: _zipped(
                {
                    "serialized_exported_program.json": b"{}",
                    "serialized_state_dict.pt": _saved(Bomb(sign)),
                    "version": b"7.0",
                }
            ),
            "m.pt2",
        ),
        "m.pt2",
    )
    yield "in a shard", shard, "x.safetensors is a PyTorch checkpoint, not a safetensors file"
    yield (
        "in metadata",
        _with_sign(
            lambda sign: save(state(), {"secateur": _reduce(sign).decode("latin1")}),
            "a.safetensors",
        ),
        "a.safetensors",
    )


def _raw_pickles() -> Iterator[_Row]:
    yield "numbers", _writes(pickle.dumps({"a": 1})), "a pickle that holds no tensors"
    yield "text persistent id", _writes(b"\x80\x02Pname\n."), "holds no tensors"
    yield "cut short", _writes(pickle.dumps({"a": "x" * 500})[:200]), "cut short"
    yield "only a signature", _writes(b"\x80\x02"), "cut short"
    yield "one byte", _writes(b"\x80"), "a single byte of a pickle"
    yield "nothing on the stack", _writes(b"\x80\x02."), "do not fit together"
    yield "no such memo", _writes(b"\x80\x02h\x07."), "do not fit together"
    yield "no mark", _writes(b"\x80\x02N\x85t."), "do not fit together"
    yield "a length beyond all", _writes(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f."), "followed"
    yield "a text of 4 GB", _writes(b"\x80\x02X\xff\xff\xff\xff."), "cut short"
    yield "no such operation", _writes(b"\x80\x02\xff\xff."), "what no pickle has"
    yield "not text", _writes(b"\x80\x02X\x02\0\0\0\xff\xfe."), "what no pickle has"
    yield (
        "three million operations",
        _with_sign(lambda _: b"\x80\x02" + b"]0" * 1_500_000 + b"N."),
        "more operations than can be followed",
    )
    yield (
        "300,000 nested lists",
        _with_sign(lambda _: b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b"."),
        "holds no tensors",
    )
    laughs = b"\x80\x02)" + b"q\0h\0\x86" * 60 + b"."
    yield "doubled sixty times", _writes(laughs), "holds no tensors"
    yield (
        "numpy's",
        _writes(pickle.dumps({"a": np.zeros(3)}, 2)),
        "numpy",
    )
    yield "tensors", _writes(pickle.dumps(state(), 2)), "_load_from_bytes"


# -- torch's archives


def _archive(
    content: bytes, storages: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED
) -> bytes:
    """What torch.save writes, around any pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("model/data.pkl", content)
        archive.writestr("model/byteorder", b"little")
        for key, numbers in (storages or {}).items():
            archive.writestr(f"model/data/{key}", numbers)
        archive.writestr("model/version", b"3\n")
    return out.getvalue()


def _saved(value: Any, **how: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **how)
    return out.getvalue()


def _tensor(
    kind: str = "FloatStorage", key: str = "0", count: int = 4, offset: int = 0,
    shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,),
) -> bytes:  # fmt: skip
    """The pickle of a dictionary with one tensor, of any numbers."""

    def number(value: int) -> bytes:
        raw = value.to_bytes(10, "little", signed=True)
        return b"\x8a\x0a" + raw

    def text(value: str) -> bytes:
        raw = value.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    return b"".join(
        (
            b"\x80\x02}", text("fc.weight"), b"ctorch._utils\n_rebuild_tensor_v2\n((",
            text("storage"), f"ctorch\n{kind}\n".encode(), text(key), text("cpu"), number(count),
            b"tQ", number(offset), numbers(shape), numbers(strides),
            b"\x89ccollections\nOrderedDict\n)RtRs.",
        )
    )  # fmt: skip


def _torch_archives() -> Iterator[_Row]:
    four = {"0": struct.pack("<4f", 1, 2, 3, 4)}
    yield "a bomb", _with_sign(lambda sign: _saved(Bomb(sign))), "mkdir"
    yield (
        "a bomb among tensors",
        _with_sign(lambda sign: _saved({**state(), "extra": Bomb(sign)})),
        "mkdir",
    )
    yield (
        "a bomb in a nested list",
        _with_sign(lambda sign: _saved({"state_dict": state(), "log": [[Bomb(sign)]]})),
        "mkdir",
    )
    yield (
        "a bomb as a key",
        _with_sign(lambda sign: _saved({"state_dict": state(), ("a", Bomb(sign)): 1})),
        "mkdir",
    )
    yield (
        "a bomb in a bomb's bytes",
        _with_sign(lambda sign: _saved({"state_dict": state(), "more": _saved(Bomb(sign))})),
        "holds 7 tensors",
    )
    yield "a whole module", _writes(_saved(nn.Linear(2, 2))), "torch.nn.modules.linear.Linear"
    yield "a whole module of our own", _writes(_saved(Net())), "Net"
    yield (
        "a whole optimizer",
        _writes(_saved(torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1))),
        "torch.optim.sgd.SGD",
    )
    yield (
        "a date beside the tensors",
        _writes(_saved({"model": state(), "path": Path("x")})),
        "pathlib",
    )
    yield "protocol 4", _writes(_saved(state(), pickle_protocol=4)), "protocol 4"
    yield "no tensors", _writes(_saved({"epoch": 3})), "holds no tensors"
    yield "a number", _writes(_saved(3)), "holds no tensors"
    yield "quantized", _with_sign(lambda _: _saved({"w": _quantized()})), "quantized tensors"
    yield "sparse", _writes(_saved({"w": torch.eye(3).to_sparse()})), "sparse tensors"
    yield "meta", _writes(_saved({"w": torch.empty(3, device="meta")})), "empty (meta) tensors"
    expanded = _archive(_tensor(count=1, shape=(1 << 40,), strides=(0,)), {"0": bytes(4)})
    yield "one number spread to a billion", _writes(expanded), "by repeating them"
    overlapping = _archive(_tensor(shape=(3, 3), strides=(1, 0)), four)
    yield "overlapping rows", _writes(overlapping), "by repeating them"
    for name, tensor in {
        "a shape beyond its storage": _tensor(shape=(5,)),
        "an offset beyond its storage": _tensor(offset=1),
        "a stride beyond its storage": _tensor(shape=(2, 2), strides=(3, 1)),
        "a product that overflows": _tensor(shape=(1 << 40, 1 << 40), strides=(1 << 40, 1)),
    }.items():
        yield name, _writes(_archive(tensor, four)), "reaches beyond the numbers"
    for name, tensor in {
        "a negative shape": _tensor(shape=(-4,)),
        "a negative stride": _tensor(strides=(-1,)),
        "a negative offset": _tensor(offset=-1),
        "fewer strides than sides": _tensor(shape=(2, 2)),
        "a hundred axes": _tensor(shape=(1,) * 100, strides=(1,) * 100),
    }.items():
        yield name, _writes(_archive(tensor, four)), "in a way no state dict does"
    yield "a storage too small", _writes(_archive(_tensor(count=9), four)), "not 36 bytes"
    yield "a storage too large", _writes(_archive(_tensor(count=2), four)), "not 8 bytes"
    yield "of another type", _writes(_archive(_tensor("DoubleStorage"), four)), "not 32 bytes"
    yield "no storage", _writes(_archive(_tensor(), {})), "it lacks the numbers"
    yield "a storage elsewhere", _writes(_archive(_tensor(key="../../0"), four)), "it lacks"
    yield "an unknown storage", _writes(_archive(_tensor("OtherStorage"), four)), "OtherStorage"
    odd = b"\x80\x02X\x01\0\0\0aQ."
    yield "an odd persistent id", _writes(_archive(odd)), "something kept elsewhere"
    key = b"\x80\x02})" + b"q\0h\0\x86" * 60 + b"Ns."
    yield "a key that takes for ever to hash", _writes(_archive(key)), "other keys than texts"
    nested = b"\x80\x02}" + b"".join(
        b"q%c}(X\1\0\0\0ah%cX\1\0\0\0bh%cu" % (i, i, i) for i in range(60)
    )
    yield "dictionaries doubled sixty times", _writes(_archive(nested + b".")), "holds no tensors"
    big = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R."
    yield "a terabyte of zeros", _writes(_archive(big)), "builtins.bytearray"
    huge = b"\x80\x02ctorch\nTensor\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R."
    yield "a terabyte of numbers", _writes(_archive(huge)), "torch.Tensor"
    masks = b"\x80\x02ccollections\nOrderedDict\n)R}X\5\0\0\0items]sb."
    yield "a dictionary with other methods", _writes(_archive(masks)), "sets attributes"
    yield (
        "a class in place of a call",
        _writes(_archive(b"\x80\x02}X\1\0\0\0aNN\x81s.")),
        "something it made",
    )
    yield (
        "longer than can be followed",
        _with_sign(lambda _: _archive(b"\x80\x02" + b"]0" * (17 << 20) + b"N.")),
        "too large to be followed",
    )


def _quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still in many files
        return torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)


def _at_the_limits() -> Iterator[_Row]:
    """As much as is read at all, of what costs most."""
    dictionary = b"}q\0"
    yield (
        "400,000 dictionaries",
        _with_sign(lambda _: _archive(b"\x80\x02" + dictionary * 399_000 + b".")),
        "no tensors",
    )
    yield (
        "800,000 lists",
        _with_sign(lambda _: _archive(b"\x80\x02" + b"]" * 790_000 + b".")),
        "no tensors",
    )
    yield (
        "16 MB of rare characters",
        _with_sign(lambda _: _archive(_text(("😀" + "a" * 16_000_000).encode()))),
        "no tensors",
    )
    yield (
        "800,000 short texts",
        _with_sign(lambda _: _archive(b"\x80\x02](" + b"X\2\0\0\0ab" * 790_000 + b"e.")),
        "no tensors",
    )
    yield (
        "490,000 lists in a header",
        _with_sign(lambda _: _header(b'{"a":[' + b"[]," * 320_000 + b"0]}"), "a.safetensors"),
        "not described",
    )
    yield (
        "65,000 members",
        _with_sign(lambda _: _archive(_tensor(), dict.fromkeys(map(str, range(65_000)), b"1234"))),
        "not 16 bytes",
    )
    yield (
        "an index of 100,000 tensors",
        _with_sign(_many_places, "a.json"),
        "10000.safetensors is missing",
    )
    yield (
        "80,000 tensors",
        _with_sign(lambda _: _header(_many_tensors(80_000), bytes(320_000)), "a.safetensors"),
        "holds 80,000 tensors",
    )
    program = {"m/archive_format": b"pt2", "m/models/model.json": b"{}"}
    pickled = b"\x80\x02](" + b"N" * 790_000 + b"e."
    yield (
        "a program of 20 long pickles",
        _with_sign(
            lambda _: _zipped({**program, **{f"m/data/{at}": pickled for at in range(20)}}), "m.pt2"
        ),
        "code",
    )
    yield (
        "a program whose text unpacks to 300 MB",
        _with_sign(lambda _: _zipped({**program, **_long_text()}, zipfile.ZIP_DEFLATED), "m.pt2"),
        "code",
    )
    # Last, as it needs most libraries.
    some = {"weight": torch.zeros(1000, 1000)}
    yield (
        "a million numbers that fit nothing",
        _with_sign(lambda _: save(some), "a.safetensors"),
        "holds 1 tensors",
    )


def _text(raw: bytes) -> bytes:
    return b"\x80\x02X" + struct.pack("<I", len(raw)) + raw + b"."


def _long_text() -> dict[str, bytes]:
    """A program's, beside what cannot be packed: small beside it, but no bomb."""
    noise = random.Random(0).randbytes(10 << 20)
    return {"m/models/model.json": bytes(300 << 20), "m/data/noise": noise}


def _many_tensors(count: int) -> dict[str, Any]:
    return {f"layers.{i}.weight": _entry([1], 4 * i, 4 * i + 4) for i in range(count)}


def _many_places(sign: Path) -> bytes:
    return json.dumps(
        {"weight_map": {f"layers.{i}.weight": "10000.safetensors" for i in range(100_000)}}
    ).encode()


# -- archives that readers could disagree about


def _archive_tricks() -> Iterator[_Row]:
    four = {"0": struct.pack("<4f", 1, 2, 3, 4)}
    whole = _archive(_tensor(), four)

    def twice(sign: Path) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("model/data.pkl", _tensor())
            archive.writestr("model/data.pk_", _reduce(sign))
            for key, numbers in four.items():
                archive.writestr(f"model/data/{key}", numbers)
        return out.getvalue().replace(b"data.pk_", b"data.pkl")

    def named(name: str) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("model/data.pkl", _tensor())
            info = zipfile.ZipInfo(name)
            info.filename = name
            archive.writestr(info, b"x")
        return out.getvalue()

    def two_tops() -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a/data.pkl", _tensor())
            archive.writestr("b/data.pkl", _tensor())
        return out.getvalue()

    def moved(at: int, value: int, sign: bytes = b"PK\x01\x02") -> bytes:
        """With another number in the first record of that sign."""
        content = bytearray(whole)
        struct.pack_into("<I", content, content.index(sign) + at, value)
        return bytes(content)

    end = whole.index(b"PK\x05\x06")
    yield "a member twice", _with_sign(twice), "is in it twice"
    for name in (
        "/etc/passwd",
        "../../escape",
        "model/../../up",
        "model//x",
        "C:/x",
        "a\\b",
        "./x",
    ):
        yield f"a member named {name}", _writes(named(name)), "leads out of it"
    yield "two top folders", _writes(two_tops()), "one top folder"
    yield "bytes before it", _writes(b"#!/bin/sh\n" + whole), "cannot be opened"
    yield "bytes after it", _writes(whole + b"x"), "follows its end"
    yield "two archives in one", _writes(whole + whole), "not where it should be"
    yield "a comment", _writes(whole[:-2] + b"\4\0abcd"), "follows its end"
    yield "two sizes", _writes(moved(20, 9)), "two sizes"
    yield "another local size", _writes(moved(18, 9, b"PK\x03\x04")), "do not agree"
    yield "another local name", _writes(whole.replace(b"data.pkl", b"data.pxl", 1)), "do not agree"
    yield "another checksum in both", _writes(_both(whole, 16, 14, 1234)), "checksum"
    yield "a place in the middle", _writes(moved(42, 4)), "is not where"
    yield "a place beyond the end", _writes(moved(42, 1 << 30)), "is not where"
    yield "two members in one place", _writes(_same_place(whole)), "do not agree"
    yield "an overlap", _writes(_overlapping()), "overlap"
    yield "encrypted", _writes(_flagged(whole, 1)), "encrypted"
    yield "packed by bzip2", _writes(_archive(_tensor(), four, zipfile.ZIP_BZIP2)), "bzip2"
    yield "packed by LZMA", _writes(_archive(_tensor(), four, zipfile.ZIP_LZMA)), "LZMA"
    yield "deflated", _writes(_archive(_tensor(), four, zipfile.ZIP_DEFLATED)), "is packed"
    yield (
        "more members than said",
        _writes(whole[: end + 8] + b"\1\0\1\0" + whole[end + 12 :]),
        ("longer than its members"),
    )
    yield (
        "fewer members than said",
        _writes(whole[: end + 8] + b"\7\0\7\0" + whole[end + 12 :]),
        ("table of contents is broken"),
    )
    yield "empty", _writes(b"PK\x05\x06" + bytes(18)), "an empty ZIP archive"
    yield "a document", _writes(_zipped({"word/document.xml": b"<x/>"})), "holds no model"
    yield "Keras's", _writes(_zipped({"config.json": b"{}", "model.weights.h5": b"x"})), "a Keras"
    yield (
        "ten thousand members without content",
        _with_sign(lambda _: _zipped(dict.fromkeys((f"a/{i}" for i in range(10_000)), b""))),
        "holds no model",
    )
    yield "a bomb", _with_sign(lambda _: _zipped(_zeros(), _DEFLATED), "a.npz"), "a ZIP bomb"
    yield (
        "a bomb in PyTorch's clothes",
        _with_sign(lambda _: _archive(_tensor(), _zeros(), _DEFLATED)),
        "a ZIP bomb",
    )
    yield (
        "a bomb that lies",
        _with_sign(lambda _: _lying_bomb(), "a.npz"),
        "does not unpack to the size",
    )
    yield (
        "no name in UTF-8",
        _writes(whole.replace(b"model/version", b"model/v\xffrsion")),
        "no text",
    )


_DEFLATED = zipfile.ZIP_DEFLATED


def _zeros() -> dict[str, bytes]:
    return {"a.npy": bytes(100 << 20)}


def _zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _both(whole: bytes, central: int, local: int, value: int) -> bytes:
    content = bytearray(whole)
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + central, value)
    struct.pack_into("<I", content, content.index(b"PK\x03\x04") + local, value)
    return bytes(content)


def _flagged(whole: bytes, flag: int) -> bytes:
    content = bytearray(whole)
    content[content.index(b"PK\x01\x02") + 8] |= flag
    return bytes(content)


def _same_place(whole: bytes) -> bytes:
    content = bytearray(whole)
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 1)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    return bytes(content)


def _overlapping() -> bytes:
    """A member whose content holds another, each with a right header and checksum."""
    inner = _zipped({"model/data/0": b"1234"})
    inner = inner[: inner.index(b"PK\x01\x02")]
    outer = bytearray(_zipped({"model/data.pkl": inner, "model/data/0": b"1234"}))
    second = outer.rindex(b"PK\x01\x02")
    struct.pack_into("<I", outer, second + 42, outer.index(inner))
    return bytes(outer)


def _lying_bomb() -> bytes:
    """A deflated member that says it is small, in both headers."""
    whole = _zipped(_zeros(), _DEFLATED)
    return _both(_both(whole, 24, 22, 1000), 24, 22, 1000)


# -- damage


def _formats() -> dict[str, tuple[bytes, str]]:
    """One whole file of each format, and its name."""
    tensors = {name: one.contiguous() for name, one in state().items()}
    arrays = io.BytesIO()
    np.savez(arrays, **{name: one.numpy() for name, one in tensors.items()})
    packed = io.BytesIO()
    np.savez_compressed(packed, **{name: one.numpy() for name, one in tensors.items()})
    return {
        "archive": (_saved(state()), "model.pt"),
        "legacy": (_saved(state(), _use_new_zipfile_serialization=False), "model.pth"),
        "safetensors": (save(tensors), "model.safetensors"),
        "npz": (arrays.getvalue(), "model.npz"),
        "packed npz": (packed.getvalue(), "model.npz"),
    }


def _cut_short() -> Iterator[_Row]:
    causes = {"archive": "cut short", "npz": "cut short", "packed npz": "cut short"}
    for name, (content, file) in _formats().items():
        for share in (0.02, 0.3, 0.6, 0.9, 0.999):
            size = min(max(9, int(len(content) * share)), len(content) - 1)
            cause = causes.get(name, "cut short" if share > 0.02 else "model")
            yield f"{name}, {share:.1%} of it", _writes(content[:size], file), cause


def _flipped() -> Iterator[_Row]:
    """One bit of what carries checksums or exact sizes."""
    places = {
        "archive": ("the numbers", b"data/0", 100, "checksum"),
        "npz": ("the numbers", b"descr", 130, "checksum"),
        "packed npz": ("the numbers", b".npy", 60, "damaged"),
        "safetensors": ("a name", b"0.weight", 0, "no architecture"),
        "legacy": ("a class", b"OrderedDict", 3, "OrdgredDict"),
    }
    for name, (content, file) in _formats().items():
        place, near, beyond, cause = places[name]
        damaged = bytearray(content)
        damaged[content.index(near) + beyond] ^= 2
        yield f"{name}, {place}", _writes(bytes(damaged), file), cause
    archive, file = _formats()["archive"]
    for member in zipfile.ZipFile(io.BytesIO(archive)).infolist():
        for local in (True, False):
            damaged = bytearray(archive)
            at = archive.index(b"PK\x07\x08", member.header_offset) - 1
            damaged[at if local else archive.rindex(member.filename.encode())] ^= 1
            where, cause = ("the end", "checksum") if local else ("the name", "do not agree")
            yield f"archive, {where} of {member.filename}", _writes(bytes(damaged), file), cause


# -- the format before version 1.6


def _legacy() -> Iterator[_Row]:
    def old(value: Any) -> bytes:
        return _saved(value, _use_new_zipfile_serialization=False)

    whole = old(state())
    yield "a bomb", _with_sign(lambda sign: old(Bomb(sign))), "mkdir"
    yield "a bomb among tensors", _with_sign(lambda s: old({**state(), "x": Bomb(s)})), "mkdir"
    yield "a whole module", _writes(old(nn.Linear(2, 2))), "torch.nn.modules.linear.Linear"
    ends = _ends(whole)

    def before(sign: Path) -> bytes:
        """The bomb where the protocol's number should be."""
        return whole[: ends[0]] + _reduce(sign) + whole[ends[1] :]

    yield "a bomb before the object", _with_sign(before), "mkdir"
    yield "bytes after it", _writes(whole + b"more"), "4 bytes follow its end"
    other = bytearray(whole)
    other[ends[4]] ^= 1  # the first count of numbers
    yield "another count of numbers", _writes(bytes(other)), "another count"
    none = whole[: ends[3]] + pickle.dumps([], 2) + whole[ends[4] :]
    yield "no keys", _writes(none), "do not agree"
    twice = pickle.loads(whole[ends[3] : ends[4]])
    twice[0] = twice[1]
    repeated = whole[: ends[3]] + pickle.dumps(twice, 2) + whole[ends[4] :]
    yield "a key twice", _writes(repeated), "do not agree"
    tar_too = bytearray(whole)
    tar_too[257:262] = b"ustar"
    yield "a tar as well", _writes(bytes(tar_too)), "model.pt"


def _ends(whole: bytes) -> list[int]:
    """Where each of the five pickles of the old format ends."""
    stream = io.BytesIO(whole)
    return [[stream.tell() for _ in pickletools.genops(stream)][-1] for _ in range(5)]


# -- safetensors


def _header(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def _entry(shape: list[Any], begin: Any, end: Any, kind: Any = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def _safetensors() -> Iterator[_Row]:
    rows: dict[str, tuple[Any, bytes, str]] = {
        "overlapping": ({"a": _entry([2], 0, 8), "b": _entry([2], 4, 12)}, bytes(12), "overlap"),
        "the same place": ({"a": _entry([2], 0, 8), "b": _entry([2], 0, 8)}, bytes(8), "overlap"),
        "a gap": ({"a": _entry([1], 0, 4), "b": _entry([1], 8, 12)}, bytes(12), "a gap before"),
        "a gap at first": ({"a": _entry([1], 4, 8)}, bytes(8), "a gap before"),
        "backwards": ({"a": _entry([1], 4, 0)}, bytes(4), "does not fit its place"),
        "beyond the end": ({"a": _entry([4], 0, 16)}, bytes(8), "cut short"),
        "bytes left": ({"a": _entry([1], 0, 4)}, bytes(9), "5 bytes follow its last tensor"),
        "another shape": ({"a": _entry([3], 0, 8)}, bytes(8), "does not fit its place"),
        "a shape that overflows": (
            {"a": _entry([1 << 33, 1 << 33], 0, 8)}, bytes(8), "does not fit its place",
        ),
        "a negative shape": ({"a": _entry([-2], 0, 8)}, bytes(8), "no whole numbers"),
        "a fraction": ({"a": _entry([2.0], 0, 8)}, bytes(8), "no whole numbers"),
        "true": ({"a": _entry([True], 0, 4)}, bytes(4), "no whole numbers"),
        "three offsets": (
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, bytes(4), "whole",
        ),
        "no such type": ({"a": _entry([2], 0, 1, "F4")}, bytes(1), "a type that PyTorch has not"),
        "type of a list": ({"a": _entry([2], 0, 1, [])}, bytes(1), "a type that PyTorch has not"),
        "an extra field": ({"a": {**_entry([1], 0, 4), "x": 1}}, bytes(4), "not described"),
        "no fields": ({"a": {}}, b"", "not described"),
        "a list for a tensor": ({"a": []}, b"", "not described"),
        "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "metadata are no texts"),
        "no tensors": ({}, b"", "holds no tensors"),
        "twice": (b'{"a":{},"a":{}}', b"", "“a” is in it twice"),
        "no JSON": (b"{nothing}", b"", "is no JSON"),
        "not text": (b'{"\xff\xfe":1}', b"", "is no JSON"),
        "nested 100,000 times": (b'{"a":' * 100_000, b"", "is no JSON"),
        "a number of 100,000 digits": (b'{"a":' + b"9" * 100_000 + b"}", b"", "is no JSON"),
        "a million empty lists": (
            b'{"a":[' + b"[]," * 1_500_000 + b"0]}", b"", "more values than a model has",
        ),
    }  # fmt: skip
    for name, (header, data, cause) in rows.items():
        yield name, _writes(_header(header, data), "model.safetensors"), cause
    long = struct.pack("<Q", 17 << 20) + b"{".ljust(17 << 20)
    yield "a header of 17 MB", _writes(long, "a.safetensors"), "larger than any model's"
    claimed = struct.pack("<Q", 1 << 29) + b"{}"
    yield "a header of 512 MB, claimed", _writes(claimed, "a.safetensors"), "cut short"
    yield "a header of all", _writes(b"\xff" * 8 + b"{}", "a.safetensors"), "of no model file"
    described = {"__metadata__": {"secateur": "{}"}}
    yield "our own, empty", _writes(_header(described), "a.safetensors"), "version"


def _shards() -> Iterator[_Row]:
    one = save({"a": torch.zeros(2)})

    def index(places: Any, **shards: bytes) -> Callable[[Path, Path], Path]:
        def make(folder: Path, sign: Path) -> Path:
            for name, content in shards.items():
                (folder / f"{name}.safetensors").write_bytes(content)
            (folder.parent / "outside.safetensors").write_bytes(one)
            path = folder / "model.safetensors.index.json"
            path.write_text(json.dumps({"metadata": {}, "weight_map": places}))
            return path

        return make

    def linked(folder: Path, sign: Path) -> Path:
        path = index({"a": "x.safetensors"})(folder, sign)
        (folder / "x.safetensors").symlink_to("../outside.safetensors")
        return path

    def piped(folder: Path, sign: Path) -> Path:
        os.mkfifo(folder / "x.safetensors")
        return index({"a": "x.safetensors"})(folder, sign)

    both = {"a": "x.safetensors", "b": "y.safetensors"}
    for place in ("../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a\\b", "", 3):
        yield f"a shard at {place!r}", index({"a": place}), "outside its folder"
    yield "a link out of the folder", linked, "a link out of its folder"
    yield "a pipe", piped, "a pipe"
    yield "a missing shard", index({"a": "x.safetensors"}), "x.safetensors is missing"
    yield "a tensor twice", index(both, x=one, y=one), "“a” is in two of its shards"
    yield "a missing tensor", index({**both, "b": "x.safetensors"}, x=one), "its shards lack b"
    extra = save({"a": torch.zeros(2), "c": torch.zeros(1)})
    yield "an extra tensor", index({"a": "x.safetensors"}, x=extra), "“c” is in x.safetensors and"
    yield "a damaged shard", index({"a": "x.safetensors"}, x=one[:-1]), "cut short"
    yield "a pickle as a shard", index({"a": "x.safetensors"}, x=pickle.dumps(1)), "is a pickle"
    yield "no shards", index({}), "maps no tensors"
    yield "a list of shards", index([1]), "maps no tensors"


# -- NumPy


def _npy(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    raw = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(raw)) + raw + data


def _numpy() -> Iterator[_Row]:
    def objects(sign: Path) -> bytes:
        out = io.BytesIO()
        np.savez(out, a=np.array([Bomb(sign)], dtype=object))
        return out.getvalue()

    yield "objects", _with_sign(objects, "a.npz"), "holds Python objects"
    fields = np.zeros(2, dtype=[("x", "f4"), ("y", "i4")])
    out = io.BytesIO()
    np.savez(out, a=fields)
    yield "named fields", _writes(out.getvalue(), "a.npz"), "holds Python objects"
    good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"
    rows = {
        "no array": (b"not an array", "is no NumPy array"),
        "an unknown version": (_npy(good, bytes(8), b"\7\0"), "is no NumPy array"),
        "too little": (_npy(good, bytes(4)), "another size than its shape"),
        "too much": (_npy(good, bytes(12)), "another size than its shape"),
        "a terabyte": (_npy(good.replace("(2,)", f"({1 << 40},)"), bytes(8)), "another size"),
        "a negative side": (_npy(good.replace("(2,)", "(-2,)"), bytes(8)), "a broken header"),
        "code": (_npy("__import__('os').mkdir('x')", bytes(8)), "a broken header"),
        "nested": (_npy("(" * 5000, bytes(8)), "a broken header"),
        "too long a header": (b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 30), "longer than any"),
        "only texts": (_npy(good.replace("<f4", "<U2"), bytes(16)), "holds no tensors"),
    }
    for name, (content, cause) in rows.items():
        yield name, _writes(_zipped({"a.npy": content}), "a.npz"), cause


# -- structures: exported programs, TorchScript, ONNX


def _structures() -> Iterator[_Row]:
    script = {
        "m/data.pkl": pickle.dumps(1, 2),
        "m/code/__torch__.py": b"x",
        "m/constants.pkl": b".",
    }
    program = {"m/archive_format": b"pt2", "m/models/model.json": b"{}"}
    yield "TorchScript", _writes(_zipped(script)), "code"
    yield "an exported program", _writes(_zipped(program), "m.pt2"), "code"
    yield "a Python file", _writes(b"import os\nos.mkdir('x')\n", "m.py"), "a Python file"
    model = _onnx()
    yield "ONNX cut short", _writes(model[: len(model) // 2], "m.onnx"), "cut short"
    yield "ONNX without its end", _writes(model[:-5], "m.onnx"), "damaged"
    for place in ("../outside.bin", "/etc/passwd", "sub/../../outside.bin"):
        yield f"ONNX with data at {place}", _onnx_with_data(place), "outside"
    yield "ONNX with data behind a link", _onnx_behind_link, "outside"


def _onnx(location: str = "") -> bytes:
    import onnx
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    if location:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "16")):
            weight.external_data.add(key=key, value=value)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, 2])],
        [value("y", TensorProto.FLOAT, [1, 2])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    assert onnx.load_from_string(content)
    return content


def _onnx_with_data(location: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, sign: Path) -> Path:
        (folder.parent / "outside.bin").write_bytes(bytes(16))
        (folder / "sub").mkdir()
        return _writes(_onnx(location), "m.onnx")(folder, sign)

    return make


def _onnx_behind_link(folder: Path, sign: Path) -> Path:
    (folder.parent / "outside.bin").write_bytes(bytes(16))
    (folder / "w.bin").symlink_to("../outside.bin")
    return _writes(_onnx("w.bin"), "m.onnx")(folder, sign)


# -- names


def _names() -> Iterator[_Row]:
    shown = {
        "HTML": ("<img src=x onerror=alert(1)>.pt", "<img src=x"),
        "a new line": ("a\nError: all is well.pt", r"a\nError"),
        "bidirectional marks": ("model\u202etp.exe.pt", r"model\u202etp"),
        "an escape sequence": ("\x1b[31mred.pt", r"\x1b[31mred"),
        "zero width": ("a\u200bb.pt", r"a\u200bb"),
        "no Unicode": (os.fsdecode(b"w\xff\xfe.pt"), r"w\udcff\udcfe"),
        "255 characters": ("x" * 252 + ".pt", "…"),
        "a quotation mark": ('"; rm -rf ".pt', '"; rm -rf'),
        "a line separator": ("a\u2028b.pt", r"a\u2028b"),
    }
    for name, (file, cause) in shown.items():
        yield name, _writes(b"text", file), cause
    yield "10,000 characters", lambda folder, _: folder / ("x" * 10_000), "its name is too long"
    yield "a zero byte", lambda folder, _: folder / "a\0b.pt", r"a\x00b"
    long = {"x" * 10_000: torch.zeros(2)}
    yield "a tensor of 10,000 characters", _writes(save(long), "a.safetensors"), "xxx…xxx"
    odd = {"<b>\u202e\n</b>": torch.zeros(2)}
    yield "a tensor with marks", _writes(save(odd), "a.safetensors"), r"<b>\u202e\n</b>"
    yield "a tensor with marks, in an archive", _writes(_saved(odd)), r"<b>\u202e\n</b>"
