"""Trainings that go on after a crash: what they need, kept in the user's cache folder.

One file each, of tensors (safetensors) with the standing as JSON in its header; reading one runs
nothing. A file that is damaged, or of another training, is no file.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.editing import Subject
from engine.edits import FineTune, Quantize
from engine.errors import ExportFailed
from engine.files import write_atomically
from engine.kept import cache_folder, drop_old
from engine.recovery.training import Standing
from engine.sharing import fingerprint

KEPT_DAYS = 30
KEPT_BYTES = 8 << 30
"""How long a training that nobody went on with is kept, and how much of them in all."""

_FORMAT = "secateur-tuning 1"
_STANDING = TypeAdapter(Standing)


@dataclass(frozen=True)
class Checkpoint:
    """The place on disk of one training."""

    path: Path
    key: str

    def write(self, standing: Standing, tensors: dict[str, Tensor]) -> None:
        """Keep it, in place of what was kept before.

        Raises:
            ExportFailed: the disk is full, or the folder cannot be written; the older one stays.
        """
        said = {
            "format": _FORMAT,
            "key": self.key,
            "standing": _STANDING.dump_json(standing).decode(),
        }
        whole = {name: one.contiguous() for name, one in tensors.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExportFailed(f"{self.path.parent} cannot be made: {error.strerror}.") from error
        write_atomically(self.path, save(whole, said))

    def read(self) -> tuple[Standing, dict[str, Tensor]] | None:
        """What was kept; None when there is nothing, or nothing whole."""
        with suppress(OSError, SafetensorError, ValidationError, KeyError, RuntimeError):
            with safe_open(self.path, "pt") as file:
                said = file.metadata() or {}
                if (said["format"], said["key"]) != (_FORMAT, self.key):
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return _STANDING.validate_json(said["standing"]), tensors
        return None

    def remove(self) -> None:
        """Keep it no longer."""
        with suppress(OSError):
            self.path.unlink()


def checkpoint_of(edit: FineTune | Quantize, subject: Subject) -> Checkpoint:
    """Where what is learned for that edit on that state, with these data, is kept.

    Older ones that nobody went on with are dropped.
    """
    data, base = subject.data, None
    if isinstance(edit, FineTune) and edit.distillation:
        base = subject.base
    told = [
        _FORMAT,
        torch.__version__,
        repr(edit),
        fingerprint(subject.model),
        "" if base is None else fingerprint(base),
        "" if subject.unrounded is None else fingerprint(subject.unrounded.model),
        [] if data is None else [data.name, data.description, data.metric, len(data.training)],
    ]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    folder = cache_folder() / "tuning"
    drop_old(folder, "*.safetensors", KEPT_DAYS, KEPT_BYTES)
    return Checkpoint(folder / f"{key[:24]}.safetensors", key)
