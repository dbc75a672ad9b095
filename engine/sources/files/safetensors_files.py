"""Safetensors files, one or in shards with an index; headers are checked before the library's."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import EngineError, ModelUnreadable
from engine.job import Job
from engine.sources.files.contents import Contents, Stored
from engine.sources.files.naming import megabytes, plain_name, plain_names
from engine.sources.files.pickles import ITEM_SIZES
from engine.sources.files.sniffing import Kind, sniff

LARGEST_HEADER = 1 << 24
"""Bytes of a header, or of an index, that are read."""

_MOST_VALUES = 500_000
_MOST_SHARDS = 10_000

DTYPES: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def read_safetensors(path: Path) -> Contents:
    """The tensors of one safetensors file, its header checked in every number.

    Raises:
        ModelUnreadable: it is damaged or cut short.
    """
    tensors, metadata = _header(path)
    return Contents(tensors, lambda: _read(path), metadata=metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata; nothing in the file is executed.

    Raises:
        ModelNotFound: there is no such file.
        ModelUnreadable: it is not a regular, readable, whole safetensors file.
    """
    if sniff(path) is not Kind.SAFETENSORS:
        raise ModelUnreadable(f"{plain_name(path.name)} is not a safetensors file.")
    contents = read_safetensors(path)
    return contents.read(), dict(contents.metadata or {})


def read_shards(index: Path, job: Job) -> Contents:
    """The tensors of all shards that an index names; they must lie beside it.

    Raises:
        ModelUnreadable: a shard or a tensor is missing, there twice, elsewhere, or damaged.
    """
    places = _places(index)
    shards: dict[str, Contents] = {}
    for name in job.track(sorted(set(places.values())), "Reading the shards"):
        shards[name] = _shard(index, name)
    tensors: dict[str, Stored] = {}
    for name, shard in shards.items():
        for tensor, stored in shard.tensors.items():
            if tensor in tensors:
                raise _damaged(index, f"“{plain_name(tensor)}” is in two of its shards")
            if places.get(tensor) != name:
                raise _damaged(
                    index, f"“{plain_name(tensor)}” is in {plain_name(name)} and not in the index"
                )
            tensors[tensor] = stored
    if missing := [one for one in places if one not in tensors]:
        raise _damaged(index, f"its shards lack {plain_names(missing)}")

    def read() -> dict[str, Tensor]:
        job.begin("Reading the tensors", len(shards))
        whole: dict[str, Tensor] = {}
        for shard in shards.values():
            whole.update(shard.read())
            job.advance()
        return whole

    return Contents(tensors, read, (f"It is in {len(shards):,} shards.",))


def index_beside(path: Path) -> str:
    """Name of the index that one shard belongs to, by the shard's own name; "" if it is none."""
    stem, sign, rest = path.name.rpartition("-of-")
    name, _, number = stem.rpartition("-")
    count, _, suffix = rest.partition(".")
    if not (sign and name and number.isdigit() and count.isdigit()):
        return ""
    return f"{name}.{suffix}.index.json"


def _read(path: Path) -> dict[str, Tensor]:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ModelUnreadable(
            f"{plain_name(path.name)} cannot be opened: its path is no Unicode text, which the "
            "safetensors library needs.",
            "Rename it.",
        ) from error
    try:
        with safe_open(path, "pt") as file:
            # Clones: the tensors are mapped onto the file, and whoever writes into it would change
            # the model, or end the process by cutting it short.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, plain_name(error)) from error


def _header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_HEADER:
            raise _damaged(path, f"its header of {megabytes(length)} is larger than any model's")
        raw = file.read(length)
    if len(raw) < length:
        raise _cut_short(path, size, 8 + length)
    header = _parsed(path, raw)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(type(one) is not str for one in metadata.values()):
        raise _damaged(path, "its metadata are no texts")
    spans = []
    tensors = {}
    for name, entry in header.items():
        tensors[name], begin, end = _entry(path, name, entry)
        spans.append((begin, end, name))
    _check_spans(path, sorted(spans), 8 + length, size)
    return tensors, metadata


def _entry(path: Path, name: str, entry: Any) -> tuple[Stored, int, int]:
    shown = f"“{plain_name(name)}”"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"{shown} is not described as a tensor")
    shape, offsets, kind = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and len(shape) <= 64):
        raise _damaged(path, f"the sizes of {shown} are no whole numbers")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ModelUnreadable(
            f"{plain_name(path.name)}: {shown} is of a type that PyTorch has not: "
            f"{plain_name(kind, 40)}."
        )
    stored = Stored(tuple(shape), DTYPES[kind])
    if offsets[1] - offsets[0] != stored.elements * ITEM_SIZES[stored.dtype]:
        raise _damaged(path, f"the shape of {shown} does not fit its place in the file")
    return stored, offsets[0], offsets[1]


def _are_sizes(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(
        type(one) is int and 0 <= one < 1 << 62 for one in numbers
    )


def _check_spans(path: Path, spans: list[tuple[int, int, str]], start: int, size: int) -> None:
    end, before = 0, "the header"
    for begin, stop, name in spans:
        shown = f"“{plain_name(name)}”"
        if begin < end:
            raise _damaged(path, f"{before} and {shown} overlap")
        if begin > end:
            raise _damaged(path, f"there is a gap before {shown}")
        end, before = stop, shown
    if start + end > size:
        raise _cut_short(path, size, start + end)
    if start + end < size:
        raise _damaged(path, f"{megabytes(size - start - end)} follow its last tensor")


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    """A JSON object of bounded size, in which every name is once."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise _damaged(path, f"“{plain_name(twice)}” is in it twice")
        return made

    # Before parsing: three bytes of JSON become an object of a hundred.
    values = raw.count(b"[") + raw.count(b"{") + raw.count(b",") // 2
    if values > _MOST_VALUES:
        raise _damaged(path, "its header names more values than a model has")
    try:
        header = json.loads(raw.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    return header


def _places(index: Path) -> dict[str, str]:
    """Which shard each tensor is in."""
    with index.open("rb") as file:
        raw = file.read(LARGEST_HEADER + 1)
    if len(raw) > LARGEST_HEADER:
        raise _damaged(index, "it is larger than any model's index")
    places = _parsed(index, raw).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise _damaged(index, "it maps no tensors to shards")
    for shard in places.values():
        if (
            not isinstance(shard, str)
            or not shard
            or {"/", "\\", "\0"} & set(shard)
            or ".." in shard
        ):
            raise ModelUnreadable(
                f"{plain_name(index.name)} names a shard outside its folder: {plain_name(shard)}.",
                "Put the index and its shards into one folder.",
            )
    if len(set(places.values())) > _MOST_SHARDS:
        raise _damaged(index, "it names more shards than a model has")
    return places


def _shard(index: Path, name: str) -> Contents:
    path = index.parent / name
    # Where both are links, as in the cache of Hugging Face, their targets must lie together.
    homes = {os.path.realpath(index.parent), str(Path(os.path.realpath(index)).parent)}
    if os.path.lexists(path) and str(Path(os.path.realpath(path)).parent) not in homes:
        raise ModelUnreadable(
            f"{plain_name(index.name)} names a shard that is a link out of its folder: "
            f"{plain_name(name)}.",
            "Put the index and its shards into one folder.",
        )
    try:
        kind = sniff(path)
        if kind is not Kind.SAFETENSORS:
            raise ModelUnreadable(f"{plain_name(name)} is {kind.value}, not a safetensors file.")
        return read_safetensors(path)
    except EngineError as error:
        text = str(error) if os.path.lexists(path) else f"{plain_name(name)} is missing."
        raise ModelUnreadable(
            f"A shard of {plain_name(index.name)} cannot be read: {text}", error.remedy
        ) from error


def with_index_hint(contents: Contents, path: Path) -> Contents:
    """The contents, with a note if they are one shard of several."""
    index = index_beside(path)
    if not index:
        return contents
    note = f"It is one shard of several; open {plain_name(index)} for the whole."
    return replace(contents, notes=(*contents.notes, note))


def _cut_short(path: Path, size: int, whole: int) -> ModelUnreadable:
    return ModelUnreadable(
        f"{plain_name(path.name)} is cut short: {megabytes(size)} of {megabytes(whole)} are there.",
        "Copy or download the file again.",
    )


def _damaged(path: Path, cause: str) -> ModelUnreadable:
    return ModelUnreadable(
        f"{plain_name(path.name)} is damaged: {cause}.", "Copy or export the file again."
    )
