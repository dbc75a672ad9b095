"""Files of ``torch.save`` and pickles: plain tensors safely, all else after consent."""

import io
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.child import run_in_child
from engine.errors import ModelUnreadable, OutOfMemory, is_out_of_memory
from engine.job import Job
from engine.requests import OpenRequest
from engine.sources.files.archives import STORED, Archive, read_archive
from engine.sources.files.contents import Contents, Stored, find_state
from engine.sources.files.naming import megabytes, plain_name, plain_names
from engine.sources.files.pickles import (
    ITEM_SIZES,
    LARGEST,
    BrokenPickle,
    PickleScan,
    StoredStorage,
    StoredTensor,
    scan_pickle,
)
from engine.sources.files.sniffing import Kind
from engine.sources.opened import digest_of, digest_of_file, require_consent

_MOST_TIMES = 64
"""How often the numbers of a file may be viewed by its tensors, all together."""

_LEGACY_PICKLES = 5  # magic number, protocol, machine, the object, keys of the storages
_SAVE_AGAIN = "Save its state dict alone: torch.save(model.state_dict(), …)."


def read_torch(path: Path, kind: Kind, request: OpenRequest, job: Job) -> Contents | nn.Module:
    """The tensors of a file, or the model that it holds as a whole.

    Whatever is more than plain tensors needs consent, is loaded in a child process first, and only
    then, from the very same bytes, in this one.

    Raises:
        ModelUnreadable: it is damaged, or holds no tensors that can be used.
        ConsentNeeded: it runs code.
    """
    scan = {
        Kind.TORCH_ZIP: _scan_archive,
        Kind.LEGACY_PICKLE: _scan_legacy,
        Kind.PICKLE: _scan_bare,
    }[kind](path, job)
    if kind is Kind.PICKLE and scan.whole and not scan.runs:
        raise ModelUnreadable(f"{plain_name(path.name)} is a pickle that holds no tensors.")
    if scan.runs or scan.unsafe:
        return _with_consent(path, kind, scan, request, job)
    if scan.odd:
        raise ModelUnreadable(
            f"{plain_name(path.name)} holds {' and '.join(scan.odd)} tensors, which cannot be "
            "opened as weights.",
            "Save the model before it was converted, as plain numbers.",
        )
    return _plain_contents(path, scan)


def _plain_contents(path: Path, scan: PickleScan) -> Contents:
    stored, notes = find_state(scan.value, StoredTensor)
    for name, tensor in stored.items():
        _check_extent(path, name, tensor)
    kept = sum(one.size for one in scan.storages.values())
    if sum(one.size for one in stored.values()) > _MOST_TIMES * kept:
        raise ModelUnreadable(
            f"{plain_name(path.name)} is damaged: its tensors have far more numbers than it holds."
        )

    def read() -> dict[str, Tensor]:
        value = _loaded(path, lambda file: torch.load(file, map_location="cpu", weights_only=True))
        return _checked(path, find_state(value, Tensor)[0])

    return Contents(
        {name: Stored(one.shape, one.dtype) for name, one in stored.items()}, read, notes
    )


def _check_extent(path: Path, name: str, tensor: StoredTensor) -> None:
    shown = f"“{plain_name(name)}”"
    if 0 in tensor.shape:
        return
    last = tensor.offset + sum(
        (side - 1) * stride for side, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if (last + 1) * ITEM_SIZES[tensor.dtype] > tensor.storage.size:
        raise _damaged(path, f"{shown} reaches beyond the numbers that are kept for it")
    if tensor.size > tensor.storage.size:
        raise _damaged(
            path,
            f"{shown} spreads {megabytes(tensor.storage.size)} to {megabytes(tensor.size)} by "
            "repeating them",
        )


def _checked(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, one in tensors.items():
        shown = f"{plain_name(path.name)}: “{plain_name(name)}”"
        if one.layout is not torch.strided or one.is_quantized or one.is_nested:
            raise ModelUnreadable(f"{shown} is a quantized, sparse or nested tensor.", _SAVE_AGAIN)
        if one.device.type != "cpu":
            raise ModelUnreadable(f"{shown} has no numbers (device {one.device}).", _SAVE_AGAIN)
        if one.nbytes > one.untyped_storage().nbytes():
            raise ModelUnreadable(f"{shown} repeats the numbers it has.", _SAVE_AGAIN)
    return tensors


# -- reading without running


def _scan_archive(path: Path, job: Job) -> PickleScan:
    archive = read_archive(path)
    if packed := [one.name for one in archive.members.values() if one.method != STORED]:
        raise _damaged(path, f"“{plain_name(packed[0])}” is packed, which PyTorch never does")
    archive.verify(job)
    top = next(iter(archive.members)).partition("/")[0]
    name = f"{top}/data.pkl"
    if archive.members[name].size > LARGEST:
        scan = PickleScan(unsafe="It is too large to be followed to its end.", whole=False)
    else:
        scan = _scanned(path, archive.content(name))
    _check_storages(path, archive, top, scan.storages)
    return scan


def _check_storages(
    path: Path, archive: Archive, top: str, storages: Mapping[str, StoredStorage]
) -> None:
    for key, storage in storages.items():
        member = archive.members.get(f"{top}/data/{key}")
        shown = f"“{plain_name(key)}”"
        if member is None:
            raise _damaged(path, f"it lacks the numbers {shown} that its tensors refer to")
        if member.size != storage.size:
            raise _damaged(
                path,
                f"the numbers {shown} take {megabytes(member.size)}, not "
                f"{megabytes(storage.size)} as its tensors say",
            )


def _scan_legacy(path: Path, job: Job) -> PickleScan:
    """Of the five pickles of the old format, the object's; what any of them runs is named."""
    with path.open("rb") as file:
        content = file.read(LARGEST)
        size = file.seek(0, os.SEEK_END)
        scans: list[PickleScan] = []
        at = 0
        for _ in range(_LEGACY_PICKLES):
            scans.append(_scanned(path, content[at:]))
            at += scans[-1].end
        whole = scans[3]
        runs = tuple(dict.fromkeys(name for scan in scans for name in scan.runs))
        unsafe = next((scan.unsafe for scan in scans if scan.unsafe), "")
        scan = replace(whole, runs=runs, unsafe=unsafe)
        if not (runs or unsafe or scan.odd):
            _check_legacy_storages(path, file, at, size, scans[4].value, scan.storages)
    return scan


def _check_legacy_storages(
    path: Path, file: Any, at: int, size: int, keys: Any, storages: Mapping[str, StoredStorage]
) -> None:
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise _damaged(path, "its tensors and the numbers kept for them do not agree")
    whole = at + sum(8 + storages[key].size for key in keys)
    if size < whole:
        raise ModelUnreadable(
            f"{plain_name(path.name)} is cut short: {megabytes(size)} of {megabytes(whole)} are "
            "there.",
            "Copy or download the file again.",
        )
    if size > whole:
        raise _damaged(path, f"{megabytes(size - whole)} follow its end")
    for key in keys:
        file.seek(at)
        if int.from_bytes(file.read(8), "little") != storages[key].count:
            raise _damaged(path, f"the numbers “{plain_name(key)}” have another count than said")
        at += 8 + storages[key].size


def _scan_bare(path: Path, job: Job) -> PickleScan:
    with path.open("rb") as file:
        return _scanned(path, file.read(LARGEST + 1))


def _scanned(path: Path, content: bytes) -> PickleScan:
    try:
        return scan_pickle(content)
    except BrokenPickle as error:
        raise _damaged(path, f"the pickle in it cannot be followed, for {error}") from error


# -- after consent


def _with_consent(
    path: Path, kind: Kind, scan: PickleScan, request: OpenRequest, job: Job
) -> Contents | nn.Module:
    digest = digest_of_file(path)
    shown = plain_name(path.name)
    reason = scan.unsafe
    if scan.runs:
        reason = f"It is no plain state dict but names {plain_names(scan.runs)}."
    require_consent(request, digest, shown, scan.runs, reason)
    job.begin(f"Opening {shown} in a process of its own")
    payload = {"path": os.fsdecode(path), "kind": kind.name, "digest": digest}
    run_in_child("engine.sources.files.torch_files:look_inside", payload, job)
    job.begin(f"Opening {shown}")
    return _trusted(path, kind, digest)


def look_inside(payload: dict[str, str]) -> str:
    """In the child: load what the user allowed, and answer with what it is.

    Raises:
        ModelUnreadable: it fails, or holds neither a model nor tensors.
    """
    found = _trusted(Path(payload["path"]), Kind[payload["kind"]], payload["digest"])
    return type(found).__name__ if isinstance(found, nn.Module) else f"{len(found.tensors)} tensors"


def _trusted(path: Path, kind: Kind, digest: str) -> Contents | nn.Module:
    def load(file: io.BytesIO) -> Any:
        if digest_of(file.getvalue()) != digest:
            raise ModelUnreadable(f"{plain_name(path.name)} was changed since it was allowed.")
        if kind is Kind.PICKLE:
            return pickle.load(file)
        return torch.load(file, map_location="cpu", weights_only=False)

    value = _loaded(path, load, whole=True)
    model = _model_in(value)
    if model is not None:
        return model.eval()
    found, notes = find_state(value, (Tensor, np.ndarray))
    tensors = _checked(path, {name: _as_tensor(path, name, one) for name, one in found.items()})
    stored = {
        name: Stored(tuple(one.shape), str(one.dtype).removeprefix("torch."))
        for name, one in tensors.items()
    }
    return Contents(stored, lambda: tensors, notes)


def _model_in(value: Any) -> nn.Module | None:
    if isinstance(value, nn.DataParallel):
        return _model_in(value.module)
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, dict):
        models = {str(key): one for key, one in value.items() if isinstance(one, nn.Module)}
        return next((models[one] for one in ("model", "ema", *models) if one in models), None)
    return None


def _as_tensor(path: Path, name: str, one: Any) -> Tensor:
    if isinstance(one, Tensor):
        return one.detach()
    try:
        return torch.from_numpy(np.array(one, order="C"))
    except TypeError as error:
        raise ModelUnreadable(
            f"{plain_name(path.name)}: “{plain_name(name)}” holds no numbers but {one.dtype}.",
            _SAVE_AGAIN,
        ) from error


def _loaded(path: Path, load: Callable[[Any], Any], whole: bool = False) -> Any:
    """What ``load`` makes of the file, its failures in words.

    Args:
        whole: give it the bytes instead of the open file, so that nobody changes them meanwhile.
    """
    try:
        with path.open("rb") as file:
            return load(io.BytesIO(file.read()) if whole else file)
    except ModelUnreadable:
        raise
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, AttributeError) and "Can't get attribute" not in str(error):
            raise _failed(path, error) from error
        raise ModelUnreadable(
            f"{plain_name(path.name)} needs code that is not here: {plain_name(error)}.",
            "Install the package it was saved with, or save its state dict alone.",
        ) from error
    except Exception as error:  # whatever code in the file may raise
        if is_out_of_memory(error):
            raise OutOfMemory(f"{plain_name(path.name)} does not fit into memory.") from error
        raise _failed(path, error) from error


def _failed(path: Path, error: Exception) -> ModelUnreadable:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelUnreadable(
        f"{plain_name(path.name)} could not be loaded: {plain_name(first)}.", _SAVE_AGAIN
    )


def _damaged(path: Path, cause: str) -> ModelUnreadable:
    return ModelUnreadable(
        f"{plain_name(path.name)} is damaged: {cause}.", "Copy or save the file again."
    )
