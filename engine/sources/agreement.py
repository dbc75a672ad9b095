"""Whether modules that were rebuilt compute what their file does."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from engine.errors import ModelUnreadable
from engine.sources.files.naming import plain_name

ALLOWED = 1e-4
"""Largest difference from the file's own outputs, as a share of the largest output."""


def run(call: Callable[[], Any], inputs: tuple[Any, ...], name: str) -> list[Tensor]:
    """All tensors that a call puts out, without gradients.

    Raises:
        ModelUnreadable: it raised; the message names the inputs.
    """
    try:
        with torch.inference_mode(), quiet():
            return [one for one in tree_leaves(call()) if isinstance(one, Tensor)]
    except Exception as error:  # whatever the file holds
        shapes = ", ".join(
            "×".join(map(str, one.shape)) for one in inputs if isinstance(one, Tensor)
        )
        raise ModelUnreadable(
            f"{name} does not run on inputs of {shapes}: {said(error)}",
            "Give inputs of the shapes that it was exported for.",
        ) from error


def agreement(got: list[Tensor], wanted: list[Tensor], name: str) -> str:
    """How far the rebuilt modules' outputs are from those of the file, in words.

    Raises:
        ModelUnreadable: too far.
    """
    if [one.shape for one in got] != [other.shape for other in wanted]:
        raise ModelUnreadable(f"The modules rebuilt from {name} put out other shapes than it.")
    apart, largest = difference(got, wanted)
    if not apart <= ALLOWED * largest:
        raise ModelUnreadable(
            f"The modules rebuilt from {name} differ from it by {apart:.3g} "
            f"(largest output {largest:.3g}).",
            "Open the Python code that it was made from as a factory.",
        )
    if apart == 0:
        return "Rebuilt from the file; its outputs on the sample input are the same, bit by bit."
    return (
        f"Rebuilt from the file; its outputs on the sample input differ by {apart:.3g} at most "
        f"(largest output {largest:.3g})."
    )


def difference(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[float, float]:
    """Largest absolute difference, and largest finite absolute value that was wanted.

    What is no number in both, or the same infinity, agrees; in one alone, it differs by infinity.
    """
    pairs = [(_real(one), _real(other)) for one, other in zip(got, wanted, strict=True)]
    errors = [_apart(one, other) for one, other in pairs if other.numel()]
    sizes = [
        float(other.nan_to_num(0.0, 0.0, 0.0).abs().max()) for _, other in pairs if other.numel()
    ]
    return max(errors, default=0.0), max(sizes, default=0.0)


def _apart(got: Tensor, wanted: Tensor) -> float:
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    apart = (got - wanted).abs().nan_to_num(torch.inf)
    return float(torch.where(same, 0.0, apart).max())


def _real(tensor: Tensor) -> Tensor:
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return plain.detach().double()


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that torch warns of or logs while it reads a file: it raises what matters."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def said(error: BaseException) -> str:
    """The innermost cause's first line: torch logs the reason and raises something vaguer."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = plain_name(lines[0], 300) if lines else type(error).__name__
    return first if first.endswith((".", "!", "?")) else f"{first}."
