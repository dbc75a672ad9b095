"""A recipe: the edits with what the run decided, to and from a file.

JSON for reading, and beside it a safetensors file for what cannot be derived again (masks, bit
by bit). Replay copies the decisions and never recomputes them, so that the weights are bit-equal
on any machine.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from engine.edits import EDITS, AppliedEdit, edit_name
from engine.errors import RecipeUnreadable
from engine.files import write_atomically

_FORMAT = "secateur-recipe"
_VERSION = 1
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Recipe:
    """Edits in order, and the model that they were decided on.

    Attributes:
        source: what opens the base model, such as ``demo``.
        fingerprint: SHA-256 of the base model's tensors.
    """

    source: str
    fingerprint: str
    edits: tuple[AppliedEdit, ...]


def write_recipe(path: Path, recipe: Recipe) -> tuple[Path, ...]:
    """Write the recipe and, when it holds masks, the tensors beside it; the files written.

    The tensors' file is named by its content and written first, so that whatever happens in
    between, an older recipe at ``path`` stays whole. A link is followed: both files lie where the
    recipe really is.
    """
    asked, path = path, Path(os.path.realpath(path))
    blobs: dict[str, bytes] = {}
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": {"source": recipe.source, "fingerprint": recipe.fingerprint},
        "edits": [_encode(index, one, blobs) for index, one in enumerate(recipe.edits)],
    }
    written = [asked]
    if blobs:
        tensors = save({name: np.frombuffer(blob, np.uint8) for name, blob in blobs.items()})
        digest = hashlib.sha256(tensors).hexdigest()
        beside = path.with_name(f"{path.stem}.{digest[:12]}.safetensors")
        is_new = not beside.exists()
        write_atomically(beside, tensors)
        content["tensors"] = {"file": beside.name, "sha256": digest}
        written.append(beside if asked.is_symlink() else asked.with_name(beside.name))
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    try:
        write_atomically(path, text.encode(), lambda written: _same(written, recipe))
    except BaseException:
        if blobs and is_new:  # else an older recipe needs it
            beside.unlink(missing_ok=True)
        raise
    return tuple(written)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe and the tensors beside it.

    Raises:
        RecipeUnreadable: a file is missing or damaged, or is something else; the message says
            which part.
    """
    path = Path(os.path.realpath(path))
    content = _read_json(path)
    try:
        if content["format"] != _FORMAT:
            raise RecipeUnreadable(f"{path.name} is not a recipe of Secateur.")
        if content["version"] != _VERSION:
            raise RecipeUnreadable(
                f"{path.name} was written by another version (format {content['version']})."
            )
        blobs = _read_blobs(path, content.get("tensors"))
        edits = tuple(_decode(one, blobs) for one in content["edits"])
        source, fingerprint = str(content["model"]["source"]), str(content["model"]["fingerprint"])
        return Recipe(source, fingerprint, edits)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (error.title, *first["loc"])))
        raise RecipeUnreadable(f"{path.name}: {where}: {first['msg']}.") from error
    except KeyError as error:
        raise RecipeUnreadable(f"{path.name} is not whole: {error} is missing.") from error
    except (TypeError, AttributeError, RecursionError) as error:
        raise RecipeUnreadable(f"{path.name} is not built as a recipe is: {error}.") from error


def _encode(index: int, applied: AppliedEdit, blobs: dict[str, bytes]) -> dict[str, Any]:
    name = edit_name(applied.request)
    request, decision = EDITS[name]
    return {
        "edit": name,
        "request": TypeAdapter(request).dump_python(applied.request),
        "decision": _moved_out(
            TypeAdapter(decision).dump_python(applied.decision), f"{index}", blobs
        ),
    }


def _decode(found: Any, blobs: dict[str, bytes]) -> AppliedEdit:
    name = found["edit"]
    if name not in EDITS:
        raise RecipeUnreadable(f"There is no edit of the kind “{name}” in this version.")
    request, decision = EDITS[name]
    return AppliedEdit(
        TypeAdapter(request).validate_python(found["request"]),
        TypeAdapter(decision).validate_python(_moved_in(found["decision"], blobs)),
    )


def _moved_out(value: Any, name: str, blobs: dict[str, bytes]) -> Any:
    """``value`` with every bytes object replaced by the name under which ``blobs`` has it."""
    if isinstance(value, bytes):
        blobs[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {key: _moved_out(one, f"{name}.{key}", blobs) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_moved_out(one, f"{name}.{i}", blobs) for i, one in enumerate(value)]
    return value


def _moved_in(value: Any, blobs: dict[str, bytes]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return blobs[value["tensor"]]
        return {key: _moved_in(one, blobs) for key, one in value.items()}
    if isinstance(value, list):
        return [_moved_in(one, blobs) for one in value]
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise RecipeUnreadable(f"{path} is not there, or is not a regular file.")
        if path.stat().st_size > _MOST_BYTES:
            raise RecipeUnreadable(f"{path.name} is larger than any recipe.")
        content = json.loads(
            path.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite
        )
    except OSError as error:
        raise RecipeUnreadable(f"{path.name} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise RecipeUnreadable(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise RecipeUnreadable(f"{path.name} is not a recipe of Secateur.")
    return content


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"it holds {number}, which is no number")
    return float(number)


def _read_blobs(path: Path, named: Any) -> dict[str, bytes]:
    if named is None:
        return {}
    name = str(named["file"])
    if name in ("", "..") or Path(name).name != name:  # never outside the recipe's folder
        raise RecipeUnreadable(f"{path.name} names a file in another folder: {name}.")
    beside = path.with_name(name)
    try:
        if not beside.is_file():
            raise RecipeUnreadable(f"{beside.name}, which belongs to {path.name}, is missing.")
        tensors = beside.read_bytes()
    except OSError as error:
        raise RecipeUnreadable(f"{beside.name} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(tensors).hexdigest() != named["sha256"]:
        raise RecipeUnreadable(f"{beside.name} is damaged: its checksum differs.")
    try:
        return {name: array.tobytes() for name, array in load(tensors).items()}
    except (SafetensorError, KeyError) as error:  # KeyError: a type that numpy does not have
        raise RecipeUnreadable(f"{beside.name} is damaged: {error}.") from error


def _same(written: Path, recipe: Recipe) -> None:
    if read_recipe(written) != recipe:
        raise RecipeUnreadable("The recipe did not read back as it was written.")
