"""The module that an ONNX graph becomes: its layers, and the order in which they are called."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """One call of a layer; values go by numbers.

    Attributes:
        path: of the layer.
        inputs: values that it is called with, None for one that is left out.
        results: values that it gives, in order; None for one that nothing reads.
        is_tuple: whether it gives a tuple, even of one.
    """

    path: str
    inputs: tuple[int | None, ...]
    results: tuple[int | None, ...]
    is_tuple: bool


class OnnxModel(nn.Module):
    """Layers called one after the other; no code is generated for it.

    Attributes:
        batch: when set, inputs of more samples are taken in parts of so many: shapes in the file
            hold for that number alone.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        steps: Iterable[Step],
        outputs: Sequence[int | Tensor],
    ) -> None:
        """Take the layers that the outputs need.

        Args:
            layers: by path.
            steps: in order; the values before theirs are the inputs.
            outputs: values, or tensors that depend on no input.
        """
        super().__init__()
        self.batch: int | None = None
        self._outputs: tuple[int | str, ...] = tuple(
            one if isinstance(one, int) else f"output{at}" for at, one in enumerate(outputs)
        )
        for name, tensor in zip(self._outputs, outputs, strict=True):
            if isinstance(name, str) and isinstance(tensor, Tensor):
                self.register_buffer(name, tensor.detach())
        self._steps = _needed(tuple(steps), {one for one in outputs if isinstance(one, int)})
        self._last_reads = _last_reads(self._steps, self._outputs)
        for step in self._steps:
            _put(self, step.path, layers[step.path])

    def forward(self, *inputs: Tensor) -> Any:
        """One tensor, or a tuple where the graph has several outputs."""
        batch = self.batch
        if batch is None or len(inputs[0]) <= batch:
            results = self._run(inputs)
        else:
            parts = zip(*(one.split(batch) for one in inputs), strict=True)
            results = [torch.cat(one) for one in zip(*map(self._run, parts), strict=True)]
        return results[0] if len(results) == 1 else tuple(results)

    def _run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        values: dict[int, Tensor] = dict(enumerate(inputs))
        for step, finished in zip(self._steps, self._last_reads, strict=True):
            layer = self.get_submodule(step.path)
            result = layer(*(None if one is None else values[one] for one in step.inputs))
            parts = result if step.is_tuple else (result,)
            named = zip(step.results, parts, strict=False)
            values |= {number: part for number, part in named if number is not None}
            for number in finished:  # or all activations would be kept to the end
                del values[number]
        return [
            values[one] if isinstance(one, int) else self.get_buffer(one) for one in self._outputs
        ]


def _needed(steps: tuple[Step, ...], wanted: set[int]) -> tuple[Step, ...]:
    """The steps on which the wanted values depend."""
    kept = []
    for step in reversed(steps):
        if wanted.intersection(step.results):
            wanted = wanted.union(one for one in step.inputs if one is not None)
            kept.append(step)
    return tuple(reversed(kept))


def _last_reads(steps: Sequence[Step], outputs: Sequence[int | str]) -> tuple[tuple[int, ...], ...]:
    """Values that nothing reads after each step."""
    needed: set[int | None] = {one for one in outputs if isinstance(one, int)} | {None}
    ends: list[tuple[int, ...]] = []
    for step in reversed(steps):
        over = {*step.inputs, *step.results} - needed
        needed |= over
        ends.append(tuple(one for one in over if one is not None))
    return tuple(reversed(ends))


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    *above, name = path.split(".")
    for part in above:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(name, module)
