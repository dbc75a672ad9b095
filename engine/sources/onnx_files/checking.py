"""Reading an ONNX file without trusting it: sizes, external data, structure. No torch.

What is read here first in a child process, with bounded memory, is read again in the window's.
"""

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
import onnx.inliner
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
)

from engine.errors import EngineError, ModelUnreadable
from engine.sources.files.naming import plain_name
from engine.sources.files.onnx_sniffing import missing_bytes

OLDEST_OPSET = 11
MOST_NODES = 200_000

_LARGEST_FILE = 2**31 - 1
_HEAD = 4096
_CHECK_BYTES = 160 << 20
_CHECK_BYTES_PER_BYTE = 4
_LIGHT_BYTES = 1024
_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16,
    TensorProto.INT16: 16, TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16, TensorProto.DOUBLE: 64, TensorProto.UINT32: 32,
    TensorProto.UINT64: 64, TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16, TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8, TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.UINT4: 4,
    TensorProto.INT4: 4, TensorProto.FLOAT4E2M1: 4,
}  # fmt: skip
# Which field holds a type's values when raw_data does not, and how many entries an element takes.
_FIELDS: dict[int, tuple[str, float]] = {
    TensorProto.FLOAT: ("float_data", 1.0), TensorProto.COMPLEX64: ("float_data", 2.0),
    TensorProto.DOUBLE: ("double_data", 1.0), TensorProto.COMPLEX128: ("double_data", 2.0),
    TensorProto.INT64: ("int64_data", 1.0), TensorProto.UINT64: ("uint64_data", 1.0),
    TensorProto.UINT32: ("uint64_data", 1.0), TensorProto.UINT4: ("int32_data", 0.5),
    TensorProto.INT4: ("int32_data", 0.5), TensorProto.FLOAT4E2M1: ("int32_data", 0.5),
}  # fmt: skip


@dataclass(frozen=True)
class OnnxFile:
    """A model that has been read and found sound.

    Attributes:
        model: its structure, with functions inlined; tensors of more than a kilobyte are taken out.
        tensors: all tensors of the outermost graph by name, external data included.
        learned: names among them that are weights, not constants of the arithmetic.
        inputs: of the model, tensors left out.
        digest: of the file's content and of its external files' sizes and times.
    """

    model: ModelProto
    tensors: dict[str, TensorProto]
    learned: frozenset[str]
    inputs: tuple[ValueInfoProto, ...]
    digest: str

    def opset(self, domain: str = "") -> int:
        """The version of a domain's operators that the model was written for; 0: none."""
        return opset_of(self.model, domain)

    def whole(self) -> bytes:
        """The model as a file of its own, with all tensors in it.

        Raises:
            ValueError: it is larger than such a file can be.
        """
        model = ModelProto()
        model.CopyFrom(self.model)
        del model.graph.input[:]
        model.graph.input.extend(self.inputs)
        model.graph.initializer.extend(self.tensors.values())
        return bytes(model.SerializeToString())


def opset_of(model: ModelProto, domain: str) -> int:
    """The version of a domain's operators that the model was written for; 0: none."""
    same = ("", "ai.onnx") if domain in ("", "ai.onnx") else (domain,)
    return max((one.version for one in model.opset_import if one.domain in same), default=0)


Allow = Callable[[int], None]
"""Called with the size of each further file that is read."""


@contextmanager
def memory_bounded_for(path: Path) -> Iterator[Allow]:
    """Let this process take only some 160 MiB, and four times the file, beyond what it has.

    What is given lets it take four times another file's size as well. For a child; where the
    system knows no such limit, there is none.
    """
    if sys.platform != "linux":
        yield _allow_nothing
        return
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    most = used + _CHECK_BYTES
    highest = sys.maxsize if limits[1] == resource.RLIM_INFINITY else limits[1]

    def allow(size: int) -> None:
        nonlocal most
        most = min(most + _CHECK_BYTES_PER_BYTE * size, highest)
        resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))

    allow(min(path.stat().st_size, _LARGEST_FILE))
    try:
        yield allow
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _allow_nothing(_size: int) -> None:
    """Where there is no limit."""


def read_onnx(path: Path, allow: Allow = _allow_nothing) -> OnnxFile:
    """Read a model, and refuse what is damaged or reaches outside its folder.

    Args:
        allow: for each file of external data, before it is read.

    Raises:
        ModelUnreadable: the message names the cause.
    """
    try:
        return _read(path, allow)
    except EngineError:
        raise
    except MemoryError:
        raise _damaged("reading it takes many times the memory of its size") from None
    except Exception as error:  # the parser's, the checker's and the inliner's own
        raise _damaged(_first_line(error)) from error


def _read(path: Path, allow: Allow) -> OnnxFile:
    content = _content(path)
    model = ModelProto()
    model.ParseFromString(content)
    _check_versions(model)
    model.ClearField("training_info")
    tensors = list(_tensors(model))
    for tensor in tensors:
        _check_size(tensor)
    stamps = _fetch_external(tensors, path.parent, allow)
    digest = hashlib.sha256(content + repr(stamps).encode()).hexdigest()
    del content
    if model.graph.sparse_initializer:
        raise _sparse()
    taken, learned = taken_tensors(model.graph)
    light = _checked(model, taken)
    names = set(taken)
    inputs = tuple(one for one in light.graph.input if one.name not in names)
    return OnnxFile(light, taken, learned, inputs, digest)


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise ModelUnreadable(
            "The file is larger than 2 GB, which no ONNX file can be.",
            "Save the model with its tensors as external data beside it.",
        )
    content = path.read_bytes()
    missing = missing_bytes(content[:_HEAD], size)
    if missing > 0:
        raise ModelUnreadable(
            f"The ONNX file is cut short: {size:,} of at least {size + missing:,} bytes.",
            "Copy or download it again.",
        )
    return content


def _check_versions(model: ModelProto) -> None:
    if not model.graph.node and not model.graph.output:
        raise _damaged("it holds no graph")
    opset, newest = opset_of(model, ""), onnx.defs.onnx_opset_version()
    if opset == 0:
        raise _damaged("it does not say for which version of the operators it was written")
    if opset > newest:
        raise ModelUnreadable(
            f"The ONNX file was written for opset {opset}; the newest known here is {newest}.",
            f"Export the model again for opset {newest} or earlier.",
        )
    if opset < OLDEST_OPSET:
        raise ModelUnreadable(
            f"The ONNX file was written for opset {opset}, before {OLDEST_OPSET}.",
            "Bring it to a newer one with onnx.version_converter.",
        )


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors: of the outermost graph, of those inside operators, and of functions."""
    waiting: list[NodeProto] = [node for body in model.functions for node in body.node]
    graphs = [model.graph]
    seen = 0
    while waiting or graphs:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            waiting += graph.node
            continue
        seen += 1
        if seen > MOST_NODES:
            raise ModelUnreadable(f"The ONNX file holds more than {MOST_NODES:,} operators.")
        for attribute in waiting.pop().attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            graphs += [attribute.g] if attribute.HasField("g") else []
            graphs += attribute.graphs
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise _sparse()


def _sparse() -> ModelUnreadable:
    return ModelUnreadable("The ONNX file holds sparse tensors, which Secateur does not read.")


def _byte_count(tensor: TensorProto) -> int:
    return int(prod(tensor.dims) * _BITS[tensor.data_type] + 7) // 8


def _check_size(tensor: TensorProto) -> None:
    """A tensor must hold exactly as many values as its shape has."""
    if any(side < 0 for side in tensor.dims):
        raise _damaged(f"tensor “{plain_name(tensor.name)}” has a side of negative length")
    name, elements = plain_name(tensor.name), prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        found, wanted = len(tensor.string_data), elements
    elif tensor.data_type not in _BITS:
        raise _damaged(f"tensor “{name}” has the unknown type {tensor.data_type}")
    elif tensor.data_location == TensorProto.EXTERNAL:
        return
    elif tensor.HasField("raw_data"):
        found, wanted = len(tensor.raw_data), _byte_count(tensor)
    else:
        field, entries = _FIELDS.get(tensor.data_type, ("int32_data", 1.0))
        found, wanted = len(getattr(tensor, field)), int(elements * entries + 0.5)
    if found != wanted:
        shape = "×".join(map(str, tensor.dims))
        raise _damaged(
            f"tensor “{name}” of {shape} should hold {wanted:,} entries, and has {found:,}"
        )


# -- external data


def _fetch_external(
    tensors: list[TensorProto], folder: Path, allow: Allow
) -> list[tuple[str, int, int]]:
    """Read all external data into the tensors; names, sizes and times of the files it lies in."""
    stamps: dict[str, tuple[str, int, int]] = {}
    seen: set[tuple[int, int]] = set()
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location, name = entries.get("location", ""), plain_name(tensor.name)
        with _opened_inside(folder, location, tensor.name) as (file, about):
            if (place := (about.st_dev, about.st_ino)) not in seen:  # whatever it is called
                seen.add(place)
                allow(about.st_size)
            stamps[location] = (location, about.st_size, about.st_mtime_ns)
            offset = _number(entries, "offset", 0, name)
            wanted = _byte_count(tensor)
            length = _number(entries, "length", wanted, name)
            if length != wanted:
                raise _damaged(
                    f"tensor “{name}” needs {wanted:,} bytes, and its external data has {length:,}"
                )
            if offset + length > about.st_size:
                raise ModelUnreadable(
                    f"External data of tensor “{name}” is cut short: it ends at byte "
                    f"{offset + length:,} of a file of {about.st_size:,}.",
                    "Copy or download the file again, beside the model.",
                )
            file.seek(offset)
            tensor.raw_data = file.read(length)
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
    return sorted(stamps.values())


def _number(entries: dict[str, str], key: str, default: int, name: str) -> int:
    text = entries.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _damaged(
            f"external data of tensor “{plain_name(name)}” has the {key} “{plain_name(text, 40)}”"
        )
    return int(text)


@contextmanager
def _opened_inside(folder: Path, location: str, name: str) -> Iterator[tuple[Any, os.stat_result]]:
    """The file of that name, which must be an ordinary one inside the folder."""
    parts = PurePosixPath(location).parts
    reaches_out = ".." in parts or location.startswith(("/", "~")) or "\0" in location
    if not parts or reaches_out or any(sign in location for sign in "\\:"):
        raise _outside(name, location)
    path, shown = folder.joinpath(*parts), plain_name(location)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise _outside(name, location)
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ModelUnreadable(f"External data of the ONNX file, “{shown}”, is no file.")
        with path.open("rb") as file:
            yield file, about
    except OSError as error:
        raise ModelUnreadable(
            f"External data of the ONNX file, “{shown}”, cannot be read: "
            f"{error.strerror or error}.",
            "Put it beside the model.",
        ) from error


def _outside(name: str, location: str) -> ModelUnreadable:
    return ModelUnreadable(
        f"Tensor “{plain_name(name)}” lies in “{plain_name(location)}”, outside the folder of the "
        "model, where nothing is read.",
        "Save the model again with its external data beside it.",
    )


# -- structure


def taken_tensors(graph: GraphProto) -> tuple[dict[str, TensorProto], frozenset[str]]:
    """Take a graph's tensors out of it, by name; operators that are constants go as well.

    The names that come with them are those of weights.
    """
    taken = {tensor.name: tensor for tensor in graph.initializer}
    learned = frozenset(taken)
    kept = []
    for node in graph.node:
        is_constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
        value = node.attribute[0] if is_constant and len(node.attribute) == 1 else None
        if value is None or value.type != AttributeProto.TENSOR or not node.output:
            kept.append(node)
            continue
        if node.output[0] in taken:
            raise _damaged(f"“{plain_name(node.output[0])}” has two values")
        taken[node.output[0]] = value.t
        value.t.name = node.output[0]
    if len(kept) != len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)
    return taken, learned


def _checked(model: ModelProto, tensors: dict[str, TensorProto]) -> ModelProto:
    """The structure alone, found sound by onnx's checker, with functions inlined."""
    light = ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name or "graph"
    for field in ("node", "input", "output"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    known = {one.name for one in light.graph.input}
    for name, tensor in tensors.items():
        if name not in known:  # large ones are inputs to the checker, which wants no values
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
            )
    onnx.checker.check_model(_with_shapes(light).SerializeToString())
    if light.functions:
        light = onnx.inliner.inline_local_functions(light, True)
    return light


def _with_shapes(model: ModelProto) -> ModelProto:
    """A copy in which all inputs and outputs have a shape: the checker wants one, nobody else."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for one in (*copy.graph.input, *copy.graph.output):
        if one.type.HasField("tensor_type"):
            one.type.tensor_type.shape.SetInParent()
    return copy


def inspect(payload: dict[str, Any]) -> dict[str, Any]:
    """Check ``payload["path"]``, convert it and compare it with ONNX Runtime; for a child.

    Args:
        payload: besides, ``inputs``: texts of the sample inputs, perhaps none.

    Returns:
        ``digest``, ``notes`` of what was found, and the ``batch`` that its shapes are for, or 0.
    """
    path = Path(payload["path"])
    with memory_bounded_for(path) as allow:
        file = read_onnx(path, allow)
    # Only now, for it takes seconds to import torch, and a damaged file needs none of it.
    from engine.sources.onnx_files.comparison import compare

    found = compare(file, payload["inputs"])
    return {"digest": file.digest, "notes": found.notes, "batch": found.batch}


def _damaged(cause: str) -> ModelUnreadable:
    return ModelUnreadable(
        f"The ONNX file is damaged: {cause}.", "Export it again, or copy it again."
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return plain_name(lines[0] if lines else type(error).__name__, 300).rstrip(".")
