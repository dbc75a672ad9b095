"""Scans that go on where they stopped: what they need, kept in the user's cache folder.

One file each, of arrays (safetensors); reading one runs nothing. A file that is damaged, or of
another scan, is no file.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from engine.datasets import DataSet
from engine.editing import Subject
from engine.errors import ExportFailed
from engine.files import write_atomically
from engine.kept import cache_folder, drop_old
from engine.sensitivities import ScanRequest
from engine.sharing import fingerprint

KEPT_DAYS = 30
KEPT_BYTES = 1 << 29
"""How long a scan is kept, and how much of them in all."""

_FORMAT = "secateur-scan 1"
Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Kept:
    """The place on disk of one scan."""

    path: Path
    key: str

    def write(self, arrays: Arrays) -> None:
        """Keep them, in place of what was kept before.

        Raises:
            ExportFailed: the disk is full, or the folder cannot be written; the older ones stay.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExportFailed(f"{self.path.parent} cannot be made: {error.strerror}.") from error
        write_atomically(self.path, save(arrays, {"format": _FORMAT, "key": self.key}))

    def read_into(self, arrays: Arrays) -> bool:
        """Fill the arrays with what was kept; whether there was something whole and fitting."""
        with suppress(OSError, SafetensorError, KeyError, ValueError):
            with safe_open(self.path, "np") as file:
                said = file.metadata() or {}
                if (said["format"], said["key"]) != (_FORMAT, self.key):
                    return False
                found = {name: file.get_tensor(name) for name in arrays}
            if all(_fits(found[name], one) for name, one in arrays.items()):
                for name, one in arrays.items():
                    one[...] = found[name]
                return True
        return False

    def remove(self) -> None:
        """Keep it no longer."""
        with suppress(OSError):
            self.path.unlink()


def _fits(found: NDArray[np.generic], wanted: NDArray[np.generic]) -> bool:
    return found.shape == wanted.shape and found.dtype == wanted.dtype


def kept_of(request: ScanRequest, subject: Subject, data: DataSet, state: str) -> Kept:
    """Where a scan of that request, on that state and with these data, is kept.

    Old ones are dropped.

    Args:
        state: its id, as not all that edits do shows in tensors.
    """
    told = [
        _FORMAT,
        torch.__version__,
        torch.get_num_threads(),
        repr(request),
        state,
        fingerprint(subject.model),
        [data.name, data.description, data.metric, len(data.training)],
    ]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    folder = cache_folder() / "scans"
    drop_old(folder, "*.safetensors", KEPT_DAYS, KEPT_BYTES)
    return Kept(folder / f"{key[:24]}.safetensors", key)
