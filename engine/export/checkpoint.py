"""Weights as safetensors, with the description that rebuilds the pruned model around them."""

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from engine.export.verify import answer, write_verified
from engine.job import Job
from engine.requests import OpenRequest
from engine.sources.description import describe, to_metadata
from engine.sources.opening import open_source
from engine.state import ExportReport, ModelInfo

ALLOWED = 1e-6
"""The same operators on the same bits: nothing but threads may order sums otherwise."""


def checkpoint_bytes(model: nn.Module, architecture: str, info: ModelInfo) -> bytes:
    """The whole file in memory."""
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
    answer(open_source(OpenRequest(payload["path"]), Job()).model, payload)
