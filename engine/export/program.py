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
from engine.export.capture import batch_note, captured, handed_over
from engine.export.verify import answer, write_verified
from engine.job import Job
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
    try:
        with TemporaryDirectory() as folder:
            payload = {
                **handed_over(model, architecture, info, Path(folder)),
                "program": str(Path(folder, "model.pt2")),
            }
            job.begin("Exporting the program")
            free = run_in_child("engine.export.program:make", payload, job)
            content = Path(payload["program"]).read_bytes()
    except OSError as error:
        raise ExportFailed(f"The temporary files could not be written: {error}.") from error
    reader = "engine.export.program:reopen"
    report = write_verified(path, content, reader, model, info.inputs, ALLOWED, job)
    return replace(report, note=batch_note(free, info))


def make(payload: dict[str, Any]) -> bool:
    """In the child: read the model and export it; whether its batch size is free."""
    program, free = captured(payload)
    # Serialised to memory first: on a full disk torch.export.save aborts the process.
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    Path(payload["program"]).write_bytes(buffer.getvalue())
    return free


def reopen(payload: dict[str, Any]) -> None:
    """In the child: load the program that was just written, and answer with its outputs."""
    answer(torch.export.load(payload["path"]).module(), payload)
