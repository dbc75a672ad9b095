"""Weights as safetensors, with the description that rebuilds the pruned model around them."""

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from engine.export.verify import answer, compare
from engine.files import write_atomically
from engine.job import Job
from engine.sources.description import describe, to_metadata
from engine.sources.opening import open_source
from engine.state import ExportReport, ModelInfo

ALLOWED = 1e-6
"""The same operators on the same bits: nothing but threads may order sums otherwise."""


def checkpoint_bytes(model: nn.Module, architecture: str, info: ModelInfo) -> bytes:
    """The whole file in memory."""
    description, tensors = describe(model, architecture, info.input_shape, info.trained)
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
    result = (0.0, 0.0)

    def check(written: Path) -> None:
        nonlocal result
        job.begin("Re-opening the file and comparing")
        result = compare(
            "engine.export.checkpoint:reopen", written, model, info.input_shape, ALLOWED, job
        )

    write_atomically(path, content, check)
    return ExportReport((str(path),), *result, bytes=len(content))


def reopen(payload: dict[str, Any]) -> None:
    """In the child: open the checkpoint as any user would, and answer with its outputs."""
    answer(open_source(payload["path"]).model, payload)
