"""ONNX files with QuantizeLinear and DequantizeLinear, run by ONNX Runtime before they are kept."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from engine.child import run_in_child
from engine.errors import ExportFailed
from engine.export.capture import batch_note, captured, handed_over
from engine.export.onnx_counts import ACCURACY_LEVEL, counted, in_words
from engine.export.verify import answer, outputs_of, probe, write_verified
from engine.files import write_atomically
from engine.job import Job
from engine.sharing import share_for_running
from engine.sources.agreement import difference, quiet, said
from engine.state import ExportReport, ModelInfo

if TYPE_CHECKING:
    import onnx_ir as ir

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

ALLOWED = 1e-3
"""Another library's kernels sum in another order."""

ALLOWED_ROUNDED = 5e-2
"""Where values are rounded, another order moves some of them by one step, and more after them."""

_BEYOND = 3
"""Integer kernels round biases too, which moves more values than the sixth digit of the input."""

_MOST_BYTES = 2**31 - 2**24
"""Of tensors in one file, which protobuf ends at 2 GiB; beyond, they have a file of their own."""

_ROUNDING = ("QuantizeLinear", "Round")

_SATURATION = (
    "If this machine's processor has no VNNI, its integer kernels cut sums at 16 bits: quantize "
    "weights to 7 bits, or export where it has."
)


def export_onnx(
    model: nn.Module, architecture: str, info: ModelInfo, path: Path, job: Job
) -> ExportReport:
    """Export with ``torch.onnx``, and compare ONNX Runtime's outputs with those in memory.

    Of the largest output they may differ by :data:`ALLOWED`; by :data:`ALLOWED_ROUNDED` where
    activations are rounded; and by more only where the model in memory changes by a third of that
    by itself when its input does in the sixth digit, which the report says.

    Raises:
        ExportFailed: torch cannot export the model, or the file did not pass.
    """
    job.begin("Preparing the export")
    try:
        with TemporaryDirectory() as folder:
            payload = {
                **handed_over(model, architecture, info, Path(folder)),
                "folder": folder,
                "name": path.stem,
            }
            job.begin("Exporting to ONNX")
            made = run_in_child("engine.export.onnx_file:make", payload, job)
            content = Path(folder, "model.onnx").read_bytes()
            tensors = Path(folder, made["tensors"]) if made["tensors"] else None
            with _beside(path, tensors) as more:
                report = _checked(path, content, made["rounded"], model, info, job)
    except OSError as error:
        raise ExportFailed(f"The temporary files could not be written: {error}.") from error
    note = f"{batch_note(made['free'], info)} {report.note}"
    return replace(report, files=(*report.files, *more), note=note)


@contextmanager
def _beside(path: Path, tensors: Path | None) -> Iterator[tuple[str, ...]]:
    """The file of tensors next to the model, under its own name; gone again if the model fails."""
    if tensors is None:
        yield ()
        return
    target = path.with_name(tensors.name)
    new = not target.exists()
    try:
        write_atomically(target, tensors.read_bytes())
        yield (str(target),)
    except BaseException:
        if new:
            target.unlink(missing_ok=True)
        raise


def _checked(
    path: Path, content: bytes, rounded: bool, model: nn.Module, info: ModelInfo, job: Job
) -> ExportReport:
    reader = "engine.export.onnx_file:reopen"
    allowed = ALLOWED_ROUNDED if rounded else ALLOWED
    unrest = _unrest(model, info) if rounded else 0.0
    most = max(allowed, _BEYOND * unrest)
    try:
        report = write_verified(path, content, reader, model, info.inputs, most, job)
    except ExportFailed as error:
        raise ExportFailed(str(error), error.remedy or (_SATURATION if rounded else "")) from error
    if most == allowed:
        return report
    told = (
        f"Its outputs change by up to {100 * unrest:.2g} % when its input changes in the sixth "
        "digit, so the comparison tells little."
    )
    return replace(report, note=f"{report.note} {told}")


def _unrest(model: nn.Module, info: ModelInfo) -> float:
    """How far outputs move, as a share of the largest, when inputs do in the sixth digit.

    Rounding turns the least change into a whole step, and what is not trained may multiply steps
    from layer to layer.
    """
    running = share_for_running(model, baked=True)
    inputs = probe(str(one) for one in info.inputs)
    wanted = list(outputs_of(running, inputs).values())
    moved = [_moved(inputs, seed) for seed in range(3)]
    apart = [difference(list(outputs_of(running, one).values()), wanted) for one in moved]
    return max(error / max(largest, 1e-12) for error, largest in apart)


def _moved(inputs: tuple[Any, ...], seed: int) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)

    def moved(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(moved(one) for one in value)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        noise = torch.randn(value.shape, generator=generator)
        return value * (1 + 1e-6 * noise.to(value.dtype))

    return tuple(moved(one) for one in inputs)


# In the children


def make(payload: dict[str, Any]) -> dict[str, Any]:
    """Read the model and write ``model.onnx`` into ``payload["folder"]``.

    Returns:
        whether the batch size is ``free``, whether activations are ``rounded``, and the name of
        the file of ``tensors``, "" for none.
    """
    try:
        from engine.export.onnx_graph import onnx_of
    except ImportError as error:
        raise ExportFailed(
            f"Exporting to ONNX needs a library that is not installed: {error.name}.",
            "Install it with pip install onnx onnxscript.",
        ) from error
    program, free = captured(payload)
    try:
        with quiet():
            graph = onnx_of(program)
    except Exception as error:  # whatever the exporter meets
        raise ExportFailed(
            f"torch.onnx cannot export this model: {said(error)}", "Export a program instead."
        ) from error
    tensors = _write(graph, Path(payload["folder"]), payload["name"])
    rounded = any(node.op_type in _ROUNDING or _is_narrow(node) for node in graph.graph)
    return {"free": free, "rounded": rounded, "tensors": tensors}


def _is_narrow(node: "ir.Node") -> bool:
    """Whether it casts to 16-bit floating point."""
    return node.op_type == "Cast" and node.attributes["to"].as_int() in (10, 16)


def _write(graph: "ir.Model", folder: Path, name: str) -> str:
    import onnx_ir as ir

    held = [one.const_value for one in graph.graph.initializers.values() if one.const_value]
    tensors = ""
    if sum(one.nbytes for one in held) > _MOST_BYTES:
        digest = hashlib.sha256()
        for one in held:
            digest.update(one.tobytes())
        tensors = f"{name}.{digest.hexdigest()[:12]}.onnx.data"
        ir.external_data.unload_from_model(graph, folder, tensors, size_threshold_bytes=1024)
    Path(folder, "model.onnx").write_bytes(serialized(graph))
    return tensors


def serialized(graph: "ir.Model") -> bytes:
    """The file's content."""
    import onnx_ir as ir

    content: bytes = ir.serde.serialize_model(graph).SerializeToString()
    return content


def reopen(payload: dict[str, Any]) -> str:
    """Check the file, run it with ONNX Runtime, answer with its outputs; what runs in integers."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportFailed(
            "ONNX Runtime, which checks the file, is not installed.",
            "Install it with pip install onnxruntime.",
        ) from error
    onnxruntime.disable_telemetry_events()
    with TemporaryDirectory() as folder:
        optimized = str(Path(folder, "optimized.onnx"))
        try:
            answer(_running(payload["path"], optimized), payload)
        except Exception as error:  # onnxruntime's classes derive from Exception alone
            raise ExportFailed(f"ONNX Runtime does not run the file: {said(error)}") from error
        return in_words(counted(optimized))


def _running(path: str, optimized: str) -> Callable[..., list[Tensor]]:
    """The file as a function of tensors, checked; what ONNX Runtime makes of it is written."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = optimized
    options.add_session_config_entry(ACCURACY_LEVEL, "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Any) -> list[Tensor]:
        given = [one for one in tree_leaves(inputs) if isinstance(one, Tensor)]
        feeds = {name: one.numpy() for name, one in zip(names, given, strict=True)}
        return [torch.from_numpy(one) for one in session.run(None, feeds)]

    return run
