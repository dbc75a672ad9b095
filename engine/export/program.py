"""Exported programs (``.pt2``), made and checked in child processes."""

import io
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import engine.integer_layers  # noqa: F401  (registers the operators that programs use)
from engine.child import run_in_child
from engine.errors import ExportFailed
from engine.export.checkpoint import checkpoint_bytes, opened_again
from engine.export.verify import answer, probe, write_verified
from engine.job import Job
from engine.state import ExportReport, ModelInfo
from engine.user_code import allowed_here

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
                **_handed_over(model, architecture, info, Path(folder)),
                "program": str(Path(folder, "model.pt2")),
                "inputs": [str(one) for one in info.inputs],
                "trusted": sorted(allowed_here()),
            }
            job.begin("Exporting the program")
            free = run_in_child("engine.export.program:make", payload, job)
            content = Path(payload["program"]).read_bytes()
    except OSError as error:
        raise ExportFailed(f"The temporary files could not be written: {error}.") from error
    reader = "engine.export.program:reopen"
    report = write_verified(path, content, reader, model, info.inputs, ALLOWED, job)
    batch = info.batch
    note = "It takes any batch size." if free else f"It takes batches of {batch} only."
    return replace(report, note=note)


def _handed_over(
    model: nn.Module, architecture: str, info: ModelInfo, folder: Path
) -> dict[str, Any]:
    """The model written for the child: as a checkpoint where it has an architecture."""
    path = folder / "model"
    if architecture:
        path = path.with_suffix(".safetensors")
        path.write_bytes(checkpoint_bytes(model, architecture, info))
        return {"path": str(path), "pickled": False}
    try:
        torch.save(model, path)
    except (AttributeError, TypeError, ValueError, RecursionError, RuntimeError) as error:
        raise ExportFailed(
            f"The modules of {info.name} cannot be handed to the process that exports: {error}."
        ) from error
    return {"path": str(path), "pickled": True}


def make(payload: dict[str, Any]) -> bool:
    """In the child: read the model and export it; whether its batch size is free."""
    if payload["pickled"]:
        # Written a moment ago by the parent, into a folder that nobody else can write to.
        model = torch.load(payload["path"], weights_only=False)
    else:
        model = opened_again(payload).model
    inputs = probe(payload["inputs"])
    program = _exported_for_any_batch(model, inputs)
    free = program is not None
    # Serialised to memory first: on a full disk torch.export.save aborts the process.
    buffer = io.BytesIO()
    torch.export.save(program or _exported(model, inputs), buffer)
    Path(payload["program"]).write_bytes(buffer.getvalue())
    return free


def _exported_for_any_batch(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram | None:
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


def _exported(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    try:
        return torch.export.export(model, inputs)
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise ExportFailed(
            f"torch.export cannot export this model: {lines[0] if lines else repr(error)}",
            "Export a checkpoint instead.",
        ) from error


def reopen(payload: dict[str, Any]) -> None:
    """In the child: load the program that was just written, and answer with its outputs."""
    answer(torch.export.load(payload["path"]).module(), payload)
