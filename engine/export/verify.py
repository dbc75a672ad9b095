"""The check that every exported file passes before it gets its name."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from engine.child import run_in_child
from engine.errors import ExportFailed
from engine.files import write_atomically
from engine.job import Job
from engine.requests import InputSpec
from engine.sharing import share_for_running
from engine.sources.agreement import difference
from engine.state import ExportReport
from engine.tracing import sample_inputs
from engine.user_code import allowed_here


def probe(inputs: Iterable[str]) -> tuple[Any, ...]:
    """The seeded inputs on which file and memory are compared; the same in every process.

    Args:
        inputs: texts of :class:`engine.requests.InputSpec`.
    """
    return sample_inputs(InputSpec.parse(one) for one in inputs)


def outputs_of(model: Any, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Every tensor the model puts out, by position."""
    with torch.inference_mode():
        leaves = tree_leaves(model(*inputs))
    tensors = [leaf.contiguous() for leaf in leaves if isinstance(leaf, Tensor)]
    return {str(index): tensor.clone() for index, tensor in enumerate(tensors)}


def write_verified(
    path: Path,
    content: bytes,
    reader: str,
    model: nn.Module,
    inputs: tuple[InputSpec, ...],
    allowed: float,
    job: Job,
) -> ExportReport:
    """Write ``content``, re-open it in a fresh process, compare, and only then give it its name.

    Args:
        reader: lazy name of a function that takes ``{"path", "inputs", "outputs", "trusted"}`` and
            writes the re-opened model's outputs to the last; ``trusted`` says which of the
            user's code was allowed. What it returns, a sentence or None, is the report's note.
        model: the one in memory.
        allowed: largest difference, as a share of the largest output.

    Raises:
        ExportFailed: it could not be written, or outputs differ by more, or in shape.
    """
    result = (0.0, 0.0, "")

    def check(written: Path) -> None:
        nonlocal result
        job.begin("Re-opening the file and comparing")
        result = _compare(reader, written, model, inputs, allowed, job)

    write_atomically(path, content, check)
    error, largest, note = result
    return ExportReport((str(path),), error, largest, len(content), note)


def _compare(
    reader: str,
    path: Path,
    model: nn.Module,
    inputs: tuple[InputSpec, ...],
    allowed: float,
    job: Job,
) -> tuple[float, float, str]:
    """Largest absolute difference of the re-opened outputs, largest absolute output, note."""
    texts = [str(one) for one in inputs]
    wanted = outputs_of(share_for_running(model, baked=False), probe(texts))
    with TemporaryDirectory() as folder:
        answers = Path(folder) / "outputs.safetensors"
        payload = {
            "path": str(path),
            "inputs": texts,
            "outputs": str(answers),
            "trusted": sorted(allowed_here()),
        }
        note = run_in_child(reader, payload, job)
        got = load(answers.read_bytes())  # not mapped: Windows keeps what is
    shapes = [{name: one.shape for name, one in outputs.items()} for outputs in (got, wanted)]
    if shapes[0] != shapes[1]:
        raise ExportFailed("The re-opened model puts out other shapes than the one in memory.")
    error, largest = difference([got[name] for name in wanted], list(wanted.values()))
    if not error <= allowed * largest + 1e-12:
        raise ExportFailed(
            f"The re-opened model differs by {error:.3g} from the one in memory "
            f"(largest output {largest:.3g}); the file was not kept."
        )
    return error, largest, note or ""


def answer(model: Any, payload: dict[str, Any]) -> None:
    """In the child: run the probe on the re-opened model and write its outputs."""
    save_file(outputs_of(model, probe(payload["inputs"])), payload["outputs"])
