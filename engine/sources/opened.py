"""What every way of opening a model gives, and the consent that some of them need."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.child import run_in_child
from engine.energy.zeros import Zeros
from engine.errors import ConsentNeeded, ModelUnreadable
from engine.job import Job
from engine.layers import Layer, LayerId, LayerTree
from engine.lazy import resolve
from engine.operators import Operator, OperatorTable, Work
from engine.requests import DTYPES, InputSpec, OpenRequest
from engine.sources.files.naming import plain_name
from engine.state import ModelInfo


@dataclass(frozen=True)
class Declared:
    """What a source says of tensors that it does not hold.

    Attributes:
        bits: in which a layer's products read what comes from the sample, read weights, and write.
    """

    zeros: Zeros = field(default_factory=Zeros)
    bits: Mapping[LayerId, tuple[int, int, int]] = field(default_factory=dict)

    def stated(self, operators: OperatorTable) -> OperatorTable:
        """The table with these bits in place of those of the tensors' types."""
        return operators.mapped(self._stated) if self.bits else operators

    def shown(self, tree: LayerTree) -> LayerTree:
        """The layers with the bits and zeros of what they would hold."""
        return LayerTree(map(self._shown, tree)) if self.bits else tree

    def _shown(self, layer: Layer) -> Layer:
        if layer.id not in self.bits:
            return layer
        read, weights, _ = self.bits[layer.id]
        share = self.zeros.weights.get(f"{layer.id}.weight", 0.0)
        zeros = round(share * layer.weights)
        return replace(layer, weight_bits=weights, activation_bits=read, zeros=zeros)

    def _stated(self, operator: Operator) -> Operator:
        bits = self.bits.get(operator.layer)
        if bits is None or operator.work is not Work.PRODUCT:
            return operator
        read, weights, written = bits
        return replace(
            operator,
            inputs=tuple(
                replace(use, bits=weights if use.weight else read) for use in operator.inputs
            ),
            outputs=tuple(replace(use, bits=written) for use in operator.outputs),
        )


@dataclass(frozen=True)
class OpenedModel:
    """A model ready for a session.

    Attributes:
        inputs: positional arguments of its forward (tensors, or lists of tensors).
        architecture: the name that builds its unpruned structure again; "" when there is none, as
            for structures that came out of a file.
        data: name of the data set that belongs to it; "" when none is known.
        declared: of a model without weights.
    """

    info: ModelInfo
    model: nn.Module
    inputs: tuple[Any, ...]
    architecture: str = ""
    data: str = ""
    declared: Declared = field(default_factory=Declared)


def digest_of(content: bytes) -> str:
    """What consent is given to: SHA-256 of the content."""
    return hashlib.sha256(content).hexdigest()


def digest_of_file(path: Path) -> str:
    """:func:`digest_of` what is in the file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allowed_content(path: Path, digest: str) -> bytes:
    """The whole file, if it is still what was allowed.

    Raises:
        ModelUnreadable: it is not.
    """
    content = path.read_bytes()
    if digest_of(content) != digest:
        raise ModelUnreadable(f"{path.name} was changed while it was being opened.", "Try again.")
    return content


def read_in_child_first(
    path: Path, digest: str, request: OpenRequest, reader: str, what: str, job: Job
) -> OpenedModel:
    """Read what the user allowed in a process of its own, and only then here: what aborts, aborts
    there.

    Args:
        digest: of the content that was allowed.
        reader: lazy name of a function of the content, the path and the inputs that are wished.
        what: is being opened, for the progress.

    Raises:
        ModelUnreadable: the content has changed since, or as the reader says.
        ChildFailed: the process ended.
    """
    inputs = [str(one) for one in request.inputs]
    payload = {"path": str(path), "digest": digest, "inputs": inputs, "reader": reader}
    job.begin(f"Opening the {what} in a process of its own")
    run_in_child("engine.sources.opened:try_reader", payload, job)
    job.begin(f"Opening the {what}")
    return _read(payload)


def try_reader(payload: dict[str, Any]) -> None:
    """In the child: all that opening does."""
    _read(payload)


def _read(payload: dict[str, Any]) -> OpenedModel:
    path = Path(payload["path"])
    inputs = tuple(InputSpec.parse(one) for one in payload["inputs"])
    content = allowed_content(path, payload["digest"])
    opened: OpenedModel = resolve(payload["reader"])(content, path, inputs)
    return opened


def spec_of(example: Tensor, name: str) -> InputSpec:
    """What samples of the example's kind are: its shape and type, integers of its range.

    Args:
        name: of what takes it, for the message.

    Raises:
        ModelUnreadable: inputs of that type cannot be sampled.
    """
    dtype = str(example.dtype).removeprefix("torch.")
    shape = tuple(example.shape)
    if dtype not in DTYPES or 0 in shape:
        kind = f"{dtype} of shape {'×'.join(map(str, shape)) or 'none'}"
        raise ModelUnreadable(f"{name} takes an input that cannot be sampled: {kind}.")
    if dtype == "bool" or example.dtype.is_floating_point or example.is_meta:
        return InputSpec(shape, dtype)
    # No integer beyond the example's: it may be an index into a table.
    return InputSpec(shape, dtype, max(2, int(example.max()) + 1))


def likely_inputs(model: nn.Module) -> tuple[InputSpec, ...]:
    """What a model with such a first layer often takes; empty when that says nothing."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() < 2:
            continue
        kind = getattr(module, "original_name", type(module).__name__)  # a script module's own
        if kind == "Embedding":
            return (InputSpec((1, 128), "int64", weight.shape[0]),)
        sides = {2: (), 3: (1024,), 4: (224, 224), 5: (16, 112, 112)}.get(weight.dim())
        if sides is not None:
            # A convolution in groups, or a transposed one, says less by its weight.
            said = getattr(module, "in_channels", None)
            width = said if isinstance(said, int) else weight.shape[1]
            return (InputSpec((1, width, *sides)),)
    return ()


def require_consent(
    request: OpenRequest, digest: str, what: str, runs: tuple[str, ...], reason: str
) -> None:
    """Go on only if the user allowed this very content to run.

    Args:
        digest: of the content that would run.
        what: its name, for the message.
        runs: names of classes and functions that would be called, as far as they can be told.
        reason: why it cannot be opened without, as a sentence.

    Raises:
        ConsentNeeded: not yet.
    """
    if digest not in request.trusted:
        raise ConsentNeeded(
            f"Opening {what} runs code that it names. {reason}",
            details={"digest": digest, "what": what, "runs": list(map(plain_name, runs))},
        )
