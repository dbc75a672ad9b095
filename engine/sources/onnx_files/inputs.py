"""What an ONNX model takes, as far as the file says."""

import re
from collections.abc import Iterable, Sequence
from math import prod

from onnx import NodeProto, TensorProto, ValueInfoProto

from engine.errors import InputsNeeded, ModelUnreadable
from engine.requests import DTYPES, InputSpec
from engine.sources.files.naming import plain_name
from engine.sources.onnx_files.checking import OnnxFile
from engine.sources.onnx_files.converters.call import TORCH_DTYPES

_MOST_ELEMENTS = 1 << 25
_STEPS = 128
_PIXELS = 224
_IMAGE_RANKS = (4, 5)
_SEQUENCE = re.compile("seq|len|time|token|step", re.IGNORECASE)
_FOUR_BITS = (TensorProto.INT4, TensorProto.UINT4)
# Operators behind which numbers are still the same ones.
_PASSING = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})


def input_specs(file: OnnxFile, given: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """What the model takes: as the file says, or as given where that agrees with it.

    A batch that is left open is 1.

    Raises:
        InputsNeeded: other sizes are left open, or those given do not agree.
        ModelUnreadable: an input is no tensor of numbers.
    """
    dtypes = [_dtype(info) for info in file.inputs]
    sides = [_sides(info) for info in file.inputs]
    if given:
        _check(file, given, dtypes, sides)
        return tuple(given)
    specs = _guessed(file, dtypes, sides)
    for info, spec in zip(file.inputs, specs, strict=True):
        if (count := prod(spec.shape)) > _MOST_ELEMENTS:
            raise ModelUnreadable(
                f"The ONNX file takes “{plain_name(info.name)}” of {count:,} elements, too many "
                "for a sample.",
                "Export the model for smaller inputs.",
            )
    left_open = [
        f"{plain_name(info.name)}: {plain_name(', '.join(names))}"
        for info, shape in zip(file.inputs, sides, strict=True)
        if (names := _left_open(shape))
    ]
    if left_open:
        raise _needed(
            f"The ONNX file leaves sizes of its inputs open ({'; '.join(left_open)}).", specs
        )
    return specs


def _needed(message: str, specs: Iterable[InputSpec]) -> InputsNeeded:
    return InputsNeeded(message, details={"inputs": [str(one) for one in specs]})


_Side = int | str
"""A length, or the name of one that is left open."""


def _dtype(info: ValueInfoProto) -> str:
    code = info.type.tensor_type.elem_type
    name = str(TORCH_DTYPES.get(code, "")).removeprefix("torch.")
    if not info.type.HasField("tensor_type") or name not in DTYPES or code in _FOUR_BITS:
        kind = info.type.WhichOneof("value") or "nothing"
        what = TensorProto.DataType.Name(code) if kind == "tensor_type" else kind
        raise ModelUnreadable(
            f"The ONNX file takes “{plain_name(info.name)}”, which is of type {what.lower()}; only "
            "tensors of numbers can be given.",
            "Export a part of the model that takes numbers.",
        )
    return name


def _sides(info: ValueInfoProto) -> list[_Side] | None:
    """Lengths of an input's dimensions; None when not even their number is said."""
    if not info.type.tensor_type.HasField("shape"):
        return None
    return [
        # Some exporters write an open side as 0 or -1.
        side.dim_value if side.dim_value > 0 else side.dim_param or f"dimension {at}"
        for at, side in enumerate(info.type.tensor_type.shape.dim)
    ]


def _is_batch(at: int, side: _Side) -> bool:
    return at == 0 and isinstance(side, str) and not _SEQUENCE.search(side)


def _left_open(sides: list[_Side] | None) -> list[str]:
    if sides is None:
        return ["all"]
    open_ones = [(at, one) for at, one in enumerate(sides) if isinstance(one, str)]
    return [one for at, one in open_ones if not _is_batch(at, one)]


def _guessed(
    file: OnnxFile, dtypes: Sequence[str], sides: Sequence[list[_Side] | None]
) -> tuple[InputSpec, ...]:
    batches = {shape[0] for shape in sides if shape and _is_batch(0, shape[0])}
    return tuple(
        InputSpec(
            tuple(_length(one, len(shape), batches) for one in shape or ()),
            dtype,
            _bound(file, info.name) if "int" in dtype else 2,
        )
        for info, dtype, shape in zip(
            file.inputs, dtypes, [one or [] for one in sides], strict=True
        )
    )


def _length(side: _Side, rank: int, batches: set[_Side]) -> int:
    if isinstance(side, int):
        return side
    if side in batches:
        return 1
    return _PIXELS if rank in _IMAGE_RANKS else _STEPS


def _bound(file: OnnxFile, name: str) -> int:
    """Below which numbers an input of integers must stay: the rows of what it looks up in."""
    found = []
    same = {name}
    for node in file.model.graph.node:
        if node.op_type in _PASSING and node.input[0] in same:
            same.add(node.output[0])
        if node.op_type == "Gather" and len(node.input) > 1 and node.input[1] in same:
            found += _rows(file, node)
    return min(found, default=2)


def _rows(file: OnnxFile, node: NodeProto) -> list[int]:
    table = file.tensors.get(node.input[0])
    axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
    return (
        [table.dims[axis]]
        if table is not None and -len(table.dims) <= axis < len(table.dims)
        else []
    )


def _check(
    file: OnnxFile,
    given: Sequence[InputSpec],
    dtypes: Sequence[str],
    sides: Sequence[list[_Side] | None],
) -> None:
    specs = _guessed(file, dtypes, sides)
    if len(given) != len(specs):
        raise _needed(f"The model takes {len(specs)} inputs, not {len(given)}.", specs)
    for info, spec, dtype, shape in zip(file.inputs, given, dtypes, sides, strict=True):
        fits = shape is None or (
            len(shape) == len(spec.shape)
            and all(
                isinstance(side, str) or side == length
                for side, length in zip(shape, spec.shape, strict=True)
            )
        )
        if spec.dtype != dtype or spec.listed or not fits:
            wanted = "any shape" if shape is None else "×".join(map(str, shape)) or "a number"
            raise _needed(
                f"Input “{plain_name(info.name)}” is of {wanted} and type {dtype}, not {spec}.",
                specs,
            )
