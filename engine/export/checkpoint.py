"""Weights as safetensors, with the description that rebuilds the pruned model around them."""

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from engine.errors import ExportFailed
from engine.export.verify import answer, write_verified
from engine.job import Job
from engine.requests import OpenRequest
from engine.sources.description import describe, to_metadata
from engine.sources.opened import OpenedModel
from engine.sources.opening import open_source
from engine.state import ExportReport, ModelInfo
from engine.user_code import allow_here

ALLOWED = 1e-6
"""The same operators on the same bits: nothing but threads may order sums otherwise."""


def checkpoint_bytes(model: nn.Module, architecture: str, info: ModelInfo) -> bytes:
    """The whole file in memory.

    Raises:
        ExportFailed: there is no architecture by whose name the model could be built again.
    """
    if not architecture:
        raise ExportFailed(
            f"The structure of {info.name} came out of its file, and a checkpoint holds tensors "
            "and the name of an architecture only.",
            "Export a program (.pt2), which holds the structure as well.",
        )
    description, tensors = describe(model, architecture, info.inputs, info.trained)
    content: bytes = save(tensors, to_metadata(description))
    return content


def export_checkpoint(
    model: nn.Module, architecture: str, info: ModelInfo, path: Path, job: Job
) -> ExportReport:
    """Write the checkpoint, re-opened and compared before it gets its name.

    Raises:
        ExportFailed: it could not be written or did not pass the comparison.
    """
    job.begin("Writing the checkpoint")
    content = checkpoint_bytes(model, architecture, info)
    reader = "engine.export.checkpoint:reopen"
    return write_verified(path, content, reader, model, info.inputs, ALLOWED, job)


def reopen(payload: dict[str, Any]) -> None:
    """In the child: open the checkpoint as any user would, and answer with its outputs."""
    answer(opened_again(payload).model, payload)


def opened_again(payload: dict[str, Any]) -> OpenedModel:
    """In the child: the checkpoint at ``payload["path"]``, its factory's code allowed as there."""
    allow_here(payload["trusted"])
    return open_source(OpenRequest(payload["path"]), Job())
