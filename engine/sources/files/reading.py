"""Any file of tensors, by what it is."""

from pathlib import Path

from torch import nn

from engine.errors import ModelUnreadable
from engine.job import Job
from engine.requests import OpenRequest
from engine.sources.files.contents import Contents
from engine.sources.files.naming import plain_name
from engine.sources.files.numpy_files import read_npy, read_npz
from engine.sources.files.safetensors_files import read_safetensors, read_shards, with_index_hint
from engine.sources.files.sniffing import Kind, sniff
from engine.sources.files.torch_files import read_torch

_OF_TENSORS = (
    Kind.SAFETENSORS, Kind.SHARD_INDEX, Kind.NPZ, Kind.TORCH_ZIP, Kind.LEGACY_PICKLE, Kind.PICKLE,
)  # fmt: skip


def read_file(path: Path, kind: Kind, request: OpenRequest, job: Job) -> Contents | nn.Module:
    """The tensors of a file of that kind, or the model that it holds as a whole.

    Raises:
        ModelUnreadable: it is damaged, or holds nothing that can be used.
        ConsentNeeded: reading it runs code.
    """
    if kind is Kind.SAFETENSORS:
        return with_index_hint(read_safetensors(path), path)
    if kind is Kind.SHARD_INDEX:
        return read_shards(path, job)
    if kind is Kind.NPZ:
        return read_npz(path, job)
    return read_torch(path, kind, request, job)


def read_plain(path: Path, job: Job) -> Contents:
    """The tensors of a file that holds nothing else; a single one is under no name.

    Raises:
        ModelNotFound: there is no such file.
        ModelUnreadable: it is something else, or damaged.
        ConsentNeeded: it holds more than plain tensors; nobody is asked.
    """
    kind = sniff(path)
    if kind is Kind.NPY:
        return read_npy(path)
    found = None
    if kind in _OF_TENSORS:
        found = read_file(path, kind, OpenRequest(str(path)), job)
    if not isinstance(found, Contents):
        raise ModelUnreadable(f"{plain_name(path.name)} is {kind.value}, not a file of tensors.")
    return found
