"""Exported programs (``.pt2``), made and checked in child processes."""

import io
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import engine.integer_layers  # noqa: F401  (registers the operators that programs use)
from engine.child import run_in_child
from engine.errors import ExportFailed
from engine.export.checkpoint import checkpoint_bytes
from engine.export.verify import answer, write_verified
from engine.job import Job
from engine.requests import OpenRequest
from engine.sources.opening import open_source
from engine.state import ExportReport, ModelInfo

ALLOWED = 1e-4
"""Decomposed operators may round otherwise than the fused ones they stand for."""


def export_program(
    model: nn.Module, architecture: str, info: ModelInfo, path: Path, job: Job
) -> ExportReport:
    """Export with ``torch.export``, and compare the re-opened program with the model in memory.

    Raises:
        ExportFailed: torch cannot export the model, or the program did not pass.
    """
    job.begin("Preparing the export")
    weights = checkpoint_bytes(model, architecture, info)
    job.begin("Exporting the program")
    try:
        with TemporaryDirectory() as folder:
            checkpoint, program = Path(folder, "model.safetensors"), Path(folder, "model.pt2")
            checkpoint.write_bytes(weights)
            payload = {"weights": str(checkpoint), "program": str(program)}
            free = run_in_child("engine.export.program:make", payload, job)
            content = program.read_bytes()
    except OSError as error:
        raise ExportFailed(f"The temporary files could not be written: {error}.") from error
    reader = "engine.export.program:reopen"
    report = write_verified(path, content, reader, model, info.inputs, ALLOWED, job)
    batch = info.batch
    note = "It takes any batch size." if free else f"It takes batches of {batch} only."
    return replace(report, note=note)


def make(payload: dict[str, str]) -> bool:
    """In the child: rebuild the model and export it; whether its batch size is free."""
    opened = open_source(OpenRequest(payload["weights"]), Job())
    # torch.export takes a batch of one for a constant, so the example has two samples.
    pair = tuple(torch.cat([one, one]) for one in opened.inputs)
    free = tuple({0: torch.export.Dim.AUTO} for _ in pair)
    dynamic = True
    try:
        program = torch.export.export(opened.model, pair, dynamic_shapes=free)
    except Exception:  # whatever stops a free batch size may allow a fixed one
        dynamic = False
        try:
            program = torch.export.export(opened.model, opened.inputs)
        except Exception as error:
            lines = str(error).strip().splitlines()
            raise ExportFailed(
                f"torch.export cannot export this model: {lines[0] if lines else repr(error)}",
                "Export a checkpoint instead.",
            ) from error
    # Serialised to memory first: on a full disk torch.export.save aborts the process.
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    Path(payload["program"]).write_bytes(buffer.getvalue())
    return dynamic


def reopen(payload: dict[str, Any]) -> None:
    """In the child: load the program that was just written, and answer with its outputs."""
    answer(torch.export.load(payload["path"]).module(), payload)
