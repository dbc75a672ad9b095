"""What a converter is told of one operator, and how it joins onnx2torch's registry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from onnx import (
    AttributeProto,
    GraphProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    defs,
    helper,
    numpy_helper,
)
from onnx2torch.node_converters.registry import add_converter, get_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
from torch import Tensor, nn

DOMAIN = "secateur"
"""Domain of our converters in the registry; onnx2torch's own stay what they are."""

TORCH_DTYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8, TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32, TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8, TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32, TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool, TensorProto.INT4: torch.int8, TensorProto.UINT4: torch.uint8,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn, TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    TensorProto.COMPLEX64: torch.complex64, TensorProto.COMPLEX128: torch.complex128,
}  # fmt: skip
"""How a tensor of each type is held; four-bit integers take a byte."""
_ONNX_DTYPES = {
    dtype: code
    for code, dtype in reversed(list(TORCH_DTYPES.items()))
    if code not in (TensorProto.INT4, TensorProto.UINT4)
}
_VIEWED_AS = {1: torch.uint8, 2: torch.int16}


class Unconvertible(Exception):
    """A converter exists, but not for what this operator asks; the message says what."""


class NoConverter(Unconvertible):
    """There is no converter at all."""


def tensor_of(proto: TensorProto) -> Tensor:
    """A tensor of the values that ``proto`` holds."""
    dtype = TORCH_DTYPES.get(proto.data_type)
    if dtype is None:
        raise Unconvertible(f"type {helper.tensor_dtype_to_string(proto.data_type)}")
    array = numpy_helper.to_array(proto)
    if proto.data_type in (TensorProto.INT4, TensorProto.UINT4):
        array = array.astype("int8" if dtype is torch.int8 else "uint8")
    if dtype in (torch.bfloat16,) or "float8" in str(dtype):
        raw = array.view(f"i{dtype.itemsize}" if dtype.itemsize > 1 else "u1")
        return torch.from_numpy(raw.copy()).view(dtype)
    return torch.from_numpy(array.copy())


@dataclass(frozen=True)
class Value:
    """What is known of one value of the graph.

    Attributes:
        fake: a tensor of its shape and dtype.
        known: its content, where it depends on no input of the model.
        learned: whether the content came out of the model's weights.
        four_bit: whether its bytes hold four-bit integers.
    """

    fake: Tensor
    known: Tensor | None = None
    learned: bool = False
    four_bit: bool = False

    @property
    def bits(self) -> int:
        """Width of one element in ONNX."""
        return 4 if self.four_bit else self.fake.dtype.itemsize * 8


class _Held:
    """A known value as onnx2torch's converters read it."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def to_torch(self) -> Tensor:
        return self._tensor

    def to_numpy(self) -> Any:
        return self._tensor.numpy()


class CallGraph(OnnxGraph):  # type: ignore[misc]  # onnx2torch has no type information
    """One operator with its inputs, as onnx2torch sees a graph: known inputs are initialisers."""

    def __init__(self, node: NodeProto, values: Mapping[str, Value]) -> None:
        inputs = {name: values[name] for name in node.input if name}
        super().__init__(
            GraphProto(
                node=[node],
                input=[_info(name, one) for name, one in inputs.items() if one.known is None],
            )
        )
        self.values = inputs
        self._initializers = {
            name: _Held(one.known) for name, one in inputs.items() if one.known is not None
        }


def _info(name: str, value: Value) -> ValueInfoProto:
    return ValueInfoProto(name=name, type=type_of(value))


def type_of(value: Value) -> TypeProto:
    """Type and shape, as ONNX writes them."""
    dtype = _ONNX_DTYPES.get(value.fake.dtype, TensorProto.UNDEFINED)
    return helper.make_tensor_type_proto(dtype, list(value.fake.shape))


class Applied(nn.Module):
    """A function with fixed settings; in the layer tree it is called what ONNX calls it."""

    def __init__(self, function: Callable[..., Any], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.settings = dict(settings)

    def forward(self, *inputs: Tensor | None) -> Any:
        """The function of the inputs; None stands for one that is left out."""
        return self.function(*inputs, **self.settings)

    def extra_repr(self) -> str:
        """The settings, in words."""
        return ", ".join(f"{key}={value}" for key, value in self.settings.items())


class _Operator(nn.Module):
    """Mixed into what is none of torch's layers: some of the inputs are its own tensors."""

    slots: tuple[str, ...] = ()

    def forward(self, *inputs: Tensor | None) -> Any:
        """The operator of the inputs, with its own tensors in between."""
        if not self.slots:
            return super().forward(*inputs)
        given = iter(inputs)
        every = [getattr(self, slot) if slot else next(given) for slot in self.slots]
        return super().forward(*every)


@cache
def _named(kind: Any, name: str) -> type[nn.Module]:
    return type(name, (_Operator, kind), {"__module__": __name__})


def called(module: nn.Module, name: str) -> nn.Module:
    """The module under ONNX's name for it, where its class is none of torch's."""
    kind: Any = type(module)
    if not kind.__module__.startswith("torch."):
        module.__class__ = _named(kind, name)
    return module


def hold(module: nn.Module, constants: Sequence[Tensor | None]) -> nn.Module:
    """The module with those of its inputs that are known as its own.

    Args:
        constants: one for each input, in order; None for those that it is called with.
    """
    if not isinstance(module, _Operator):
        module = called(Applied(module, {}), type(module).__name__)
    slots = []
    for at, tensor in enumerate(constants):
        name = f"operand{at}" if tensor is not None else ""
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(name, tensor)
        elif tensor is not None:
            module.register_buffer(name, tensor)
        slots.append(name)
    module.slots = tuple(slots)  # type: ignore[assignment]  # an _Operator by now
    return module


@dataclass(frozen=True)
class Call:
    """One operator to convert.

    Attributes:
        version: of its operator set, the one in which it last changed.
        node, graph: as onnx2torch has them.
    """

    version: int
    node: OnnxNode
    graph: CallGraph

    @property
    def kind(self) -> str:
        """ONNX's name of the operator."""
        return str(self.node.operation_type)

    @property
    def outputs(self) -> int:
        """Outputs that it has, left-out ones before the last included."""
        return len(self.node.output_values)

    def attribute(self, name: str, default: Any = None) -> Any:
        """That attribute's value, or the default."""
        given = self.node.attributes.get(name, default)
        return [] if isinstance(given, AttributeProto) else given  # onnx2torch leaves empty lists

    def has(self, index: int) -> bool:
        """Whether that input is given."""
        names = self.node.input_values
        return index < len(names) and bool(names[index])

    @property
    def arguments(self) -> range:
        """Indices of all inputs, left-out ones included."""
        return range(len(self.node.input_values))

    def value(self, index: int) -> Value:
        """What is known of that input, which must be given."""
        if not self.has(index):
            raise Unconvertible(f"without its input {index}")
        return self.graph.values[self.node.input_values[index]]

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of that input."""
        return tuple(self.value(index).fake.shape)

    def dtype(self, index: int = 0) -> torch.dtype:
        """Type of that input."""
        return self.value(index).fake.dtype

    def known(self, index: int) -> Tensor | None:
        """Content of that input; None when it is left out or depends on the model's inputs."""
        return self.value(index).known if self.has(index) else None

    def constant(self, index: int, what: str) -> Tensor:
        """Content of that input, which must not depend on the model's inputs."""
        tensor = self.known(index)
        if tensor is None:
            raise Unconvertible(f"{what} that depend on the model's input")
        return tensor

    def integers(self, index: int, name: str) -> list[int] | None:
        """A list given as an attribute in old versions, as an input in new ones; None: neither."""
        if self.has(index):
            return [int(one) for one in self.constant(index, name).reshape(-1).tolist()]
        given = self.attribute(name)
        return None if given is None else [int(one) for one in given]

    def over(self, module: nn.Module, *inputs: int) -> OperationConverterResult:
        """The result: ``module`` called with those inputs."""
        names = self.node.input_values
        chosen = tuple(names[one] if self.has(one) else "" for one in inputs)
        return OperationConverterResult(module, OnnxMapping(chosen, self.node.output_values))

    def apply(
        self, function: Callable[..., Any], *inputs: int, **settings: Any
    ) -> OperationConverterResult:
        """The result: ``function`` called with those inputs and settings."""
        return self.over(Applied(function, settings), *inputs)

    def answer(self, tensor: Tensor) -> OperationConverterResult:
        """The result is known: ``tensor``."""
        return self.apply(_same, tensor=tensor)


def _same(tensor: Tensor) -> Tensor:
    return tensor


Converter = Callable[[Call], OperationConverterResult]


def converts(*operators: str) -> Callable[[Converter], Converter]:
    """Register a converter for all versions of these operators."""

    def register(converter: Converter) -> Converter:
        for operator in operators:
            for version in _versions()[operator]:
                add_converter(operator, version, DOMAIN)(_adapted(converter, version))
        return converter

    return register


@cache
def _versions() -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in defs.get_all_schemas_with_history():
        if one.domain == "":
            found.setdefault(one.name, []).append(one.since_version)
    return found


def _adapted(converter: Converter, version: int) -> Callable[..., OperationConverterResult]:
    def convert(node: OnnxNode, graph: CallGraph) -> OperationConverterResult:
        return converter(Call(version, node, graph))

    return convert


def newer_versions_alike(operators: Sequence[str]) -> None:
    """Let onnx2torch's newest converter of each serve the versions that came after it.

    They only accept more types.
    """
    for operator in operators:
        newest = None
        for version in sorted(_versions()[operator]):
            try:
                newest = get_converter(operator, version)
            except NotImplementedError:
                if newest is not None:
                    add_converter(operator, version)(newest)
