"""The check that every exported file passes before it gets its name."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from engine.child import run_in_child
from engine.errors import ExportFailed
from engine.job import Job
from engine.sharing import share_for_running
from engine.tracing import sample_inputs


def probe(input_shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The seeded input on which file and memory are compared; the same in every process."""
    return sample_inputs([input_shape])


def outputs_of(model: Any, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Every tensor the model puts out, by position."""
    with torch.inference_mode():
        leaves = tree_leaves(model(*inputs))
    tensors = [leaf.contiguous() for leaf in leaves if isinstance(leaf, Tensor)]
    return {str(index): tensor.clone() for index, tensor in enumerate(tensors)}


def compare(
    reader: str,
    path: Path,
    model: nn.Module,
    input_shape: tuple[int, ...],
    allowed: float,
    job: Job,
) -> tuple[float, float]:
    """Open ``path`` in a fresh process, run the probe, compare with the model in memory.

    Args:
        reader: lazy name of a function that takes ``{"path", "input_shape", "outputs"}`` and
            writes the re-opened model's outputs to the last.
        allowed: largest difference, as a share of the largest output.

    Returns:
        Largest absolute difference and largest absolute output.

    Raises:
        ExportFailed: outputs differ by more, or in shape.
    """
    wanted = outputs_of(share_for_running(model, baked=False), probe(input_shape))
    with TemporaryDirectory() as folder:
        answers = Path(folder) / "outputs.safetensors"
        payload = {"path": str(path), "input_shape": input_shape, "outputs": str(answers)}
        run_in_child(reader, payload, job)
        got = load_file(answers)
    largest = max((float(one.abs().max()) for one in wanted.values() if one.numel()), default=0.0)
    if {name: one.shape for name, one in got.items()} != {
        name: one.shape for name, one in wanted.items()
    }:
        raise ExportFailed("The re-opened model puts out other shapes than the one in memory.")
    error = max(
        (float((got[name] - one).abs().max()) for name, one in wanted.items() if one.numel()),
        default=0.0,
    )
    if not error <= allowed * largest + 1e-12:
        raise ExportFailed(
            f"The re-opened model differs by {error:.3g} from the one in memory "
            f"(largest output {largest:.3g}); the file was not kept."
        )
    return error, largest


def answer(model: Any, payload: dict[str, Any]) -> None:
    """In the child: run the probe on the re-opened model and write its outputs."""
    save_file(outputs_of(model, probe(tuple(payload["input_shape"]))), payload["outputs"])
