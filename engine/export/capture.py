"""A model handed to a child process, and its graph captured there by ``torch.export``."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from engine.errors import ExportFailed
from engine.export.checkpoint import checkpoint_bytes, opened_again
from engine.export.verify import probe
from engine.state import ModelInfo
from engine.user_code import allowed_here


def handed_over(
    model: nn.Module, architecture: str, info: ModelInfo, folder: Path
) -> dict[str, Any]:
    """What :func:`captured` takes in the child; the model is written into ``folder``, as a
    checkpoint where it has an architecture.
    """
    told = {
        "inputs": [str(one) for one in info.inputs],
        "trusted": sorted(allowed_here()),
    }
    path = folder / "model"
    if architecture:
        path = path.with_suffix(".safetensors")
        path.write_bytes(checkpoint_bytes(model, architecture, info))
        return {**told, "path": str(path), "pickled": False}
    try:
        torch.save(model, path)
    except (AttributeError, TypeError, ValueError, RecursionError, RuntimeError) as error:
        raise ExportFailed(
            f"The modules of {info.name} cannot be handed to the process that exports: {error}."
        ) from error
    return {**told, "path": str(path), "pickled": True}


def captured(payload: dict[str, Any]) -> tuple[ExportedProgram, bool]:
    """In the child: the model as a program, and whether its batch size is free.

    Raises:
        ExportFailed: ``torch.export`` cannot capture it.
    """
    if payload["pickled"]:
        # Written a moment ago by the parent, into a folder that nobody else can write to.
        model = torch.load(payload["path"], weights_only=False)
    else:
        model = opened_again(payload).model
    inputs = probe(payload["inputs"])
    program = _for_any_batch(model, inputs)
    return program or _for_one_batch(model, inputs), program is not None


def batch_note(free: bool, info: ModelInfo) -> str:
    """What is to be said of the batch sizes that the file takes."""
    return "It takes any batch size." if free else f"It takes batches of {info.batch} only."


def _for_any_batch(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram | None:
    """None where a free batch size is impossible, for whatever reason."""
    batches = {one.shape[:1] if isinstance(one, Tensor) else None for one in inputs}
    if len(batches) != 1 or not all(batches):  # lists, scalars, or batches of several lengths
        return None
    # torch.export takes a batch of one for a constant, so the example has two samples.
    pair = tuple(torch.cat([one, one]) for one in inputs)
    free = tuple({0: torch.export.Dim.AUTO} for _ in pair)
    try:
        program = torch.export.export(model, pair, dynamic_shapes=free)
        # What torch found to hold for one batch size only, it fixes without a word.
        with torch.inference_mode():
            program.module()(*inputs)
    except Exception:  # a fixed one may be possible
        return None
    return program


def _for_one_batch(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    try:
        return torch.export.export(model, inputs)
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise ExportFailed(
            f"torch.export cannot export this model: {lines[0] if lines else repr(error)}",
            "Export a checkpoint instead.",
        ) from error
