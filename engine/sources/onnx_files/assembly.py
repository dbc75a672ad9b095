"""An ONNX graph to a module tree, one operator at a time.

Each operator is looked at on fake tensors of the sample input's shapes. What depends on no input
is computed at once (shapes, and weights that were transposed or dequantized), so that the model
that remains computes nothing from shapes; all else becomes a module.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from onnx import GraphProto, NodeProto, TensorProto
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from engine.errors import ModelUnreadable
from engine.job import Job
from engine.sources.files.naming import plain_name
from engine.sources.onnx_files.checking import OnnxFile
from engine.sources.onnx_files.converters import (
    NoConverter,
    Unconvertible,
    Value,
    convert,
    definition,
    has_definition,
)
from engine.sources.onnx_files.converters.call import hold, tensor_of
from engine.sources.onnx_files.converters.layers import parameter, with_bias
from engine.sources.onnx_files.model import OnnxModel, Step
from engine.sources.onnx_files.naming import module_paths

_MOST_FOLDED = 1 << 24
"""Elements that a constant may have which is larger than all that it is made from."""
_MOST_SEARCHED = 1 << 20
"""Elements of constants whose content decides how large the result is."""
_FOUR_BITS = (TensorProto.INT4, TensorProto.UINT4)
_COUNTING = (torch.int64, torch.int32, torch.bool)
"""Types of shapes and indices, which no weights have."""
_DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)


class NotConverted(Exception):
    """One operator cannot be converted in the form it has; the message says which form.

    Attributes:
        node: the operator.
    """

    def __init__(self, node: NodeProto, form: str) -> None:
        super().__init__(form)
        self.node = node


class Assembly:
    """A graph on its way to a module tree.

    Attributes:
        largest: elements of the largest value so far.
    """

    def __init__(self, file: OnnxFile, inputs: Sequence[Tensor]) -> None:
        self.largest = 0
        self._file = file
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._modules: dict[str, nn.Module] = {}
        self._steps: list[Step] = []
        self._protos = dict(file.tensors)
        self._values: dict[str, Value] = {}
        self._numbers: dict[str, int] = {}  # of values that are computed as the model runs
        self._same: dict[str, str] = {}  # other names of values
        self._parameters: dict[str, nn.Parameter] = {}
        self._layers: dict[str, nn.Module] = {}  # by the name of their result
        self._reads = Counter(_reads(file.model.graph))
        for info, sample in zip(file.inputs, inputs, strict=True):
            self._give(info.name, Value(self._mode.from_tensor(sample)), computed=True)

    def run(self, job: Job) -> OnnxModel:
        """Convert all of it.

        Raises:
            NotConverted: an operator cannot be converted in its form.
            ModelUnreadable: the graph refers to what it does not have, or its shapes do not fit.
        """
        nodes = list(self._file.model.graph.node)
        paths = module_paths(nodes, self._file.learned)
        steps = zip(nodes, paths, strict=True)
        with quiet_fakes():
            for node, path in job.track(steps, "Converting the operators", len(nodes)):
                self._add(node, path, self._file.opset(node.domain))
        outputs = [self._output(one.name) for one in self._file.model.graph.output]
        model = OnnxModel(self._modules, self._steps, outputs)
        return model.eval()

    # -- values

    def _name(self, name: str) -> str:
        return self._same.get(name, name)

    def _give(self, name: str, value: Value, computed: bool = False) -> None:
        if name in self._values or name in self._same:
            raise ModelUnreadable(f"The ONNX file is damaged: “{plain_name(name)}” has two values.")
        self._values[name] = value
        self.largest = max(self.largest, value.fake.numel())
        if computed:
            self._numbers[name] = len(self._numbers)

    def _value(self, name: str, node: NodeProto | None = None) -> Value:
        name = self._name(name)
        if name not in self._values:
            if name not in self._protos:
                shown = plain_name(name)
                raise ModelUnreadable(f"The ONNX file is damaged: nothing gives “{shown}”.")
            proto = self._protos[name]
            try:
                tensor = tensor_of(proto)
            except Unconvertible as error:
                raise NotConverted(node or NodeProto(op_type="Constant"), str(error)) from error
            four_bit = proto.data_type in _FOUR_BITS
            fake = self._mode.from_tensor(tensor)
            learned = name in self._file.learned and tensor.dtype not in _COUNTING
            self._give(name, Value(fake, tensor, learned, four_bit))
        return self._values[name]

    def _alias(self, new: str, old: str) -> None:
        self._value(old)
        self._same[new] = self._name(old)

    def _constant(self, name: str) -> Tensor:
        """A known value as it is kept in a module: weights are parameters, once each."""
        name = self._name(name)
        value = self._value(name)
        assert value.known is not None
        if not (value.learned and value.known.is_floating_point() and value.known.numel() > 1):
            return value.known
        if name not in self._parameters:
            self._parameters[name] = parameter(value.known)
        return self._parameters[name]

    def _output(self, name: str) -> int | Tensor:
        """The number of a value, or the value itself where it is known."""
        name = self._name(name)
        self._value(name)
        return self._numbers[name] if name in self._numbers else self._constant(name)

    # -- operators

    def _add(self, node: NodeProto, path: str, opset: int) -> None:
        if node.op_type == "Identity":
            self._alias(node.output[0], node.input[0])
        elif node.op_type == "If":
            self._add_branch(node, path, opset)
        elif not self._add_to_bias(node):
            self._convert(node, path, opset)

    def _add_all(self, nodes: Iterable[NodeProto], path: str, opset: int) -> None:
        for at, node in enumerate(nodes):
            self._add(node, f"{path}_{at}_{node.op_type.lower()}", opset)

    def _add_branch(self, node: NodeProto, path: str, opset: int) -> None:
        """Only the branch that is taken, which must be known."""
        condition = self._value(node.input[0]).known
        if condition is None:
            raise NotConverted(node, "that depends on the model's input")
        wanted = "then_branch" if bool(condition.reshape(())) else "else_branch"
        branch = next(one.g for one in node.attribute if one.name == wanted)
        self._protos.update({tensor.name: tensor for tensor in branch.initializer})
        self._add_all(branch.node, path, opset)
        for outer, result in zip(node.output, branch.output, strict=True):
            self._alias(outer, result.name)

    def _add_definition(self, node: NodeProto, path: str, opset: int) -> None:
        """The simpler operators that ONNX says the operator is made of."""
        values = {name: self._value(name, node) for name in node.input if name}
        nodes, opset = definition(node, values, opset, f"{path}:")
        self._reads.update(name for one in nodes for name in one.input)
        self._add_all(nodes, path, opset)

    def _add_to_bias(self, node: NodeProto) -> bool:
        """Whether the operator only adds a constant to a layer's result, and its bias now does."""
        if node.op_type != "Add":
            return False
        for layer, other in (tuple(node.input), tuple(reversed(node.input))):
            name = self._name(layer)
            addend = self._value(other, node).known
            if name in self._layers and addend is not None and self._reads[layer] == 1:
                rank = self._values[name].fake.dim()
                if with_bias(self._layers[name], addend, rank):
                    self._alias(node.output[0], name)
                    return True
        return False

    def _convert(self, node: NodeProto, path: str, opset: int) -> None:
        values = {name: self._value(name, node) for name in node.input if name}
        try:
            module, names = convert(node, values, opset)
        except Unconvertible as error:
            if not has_definition(node.op_type, opset, node.domain):
                raise NotConverted(node, str(error)) from error
            try:
                self._add_definition(node, path, opset)
            except NotConverted as inner:
                if isinstance(error, NoConverter):
                    part = f"since {inner.node.op_type}, of which it is made, cannot be: {inner}"
                    raise NotConverted(node, part) from inner
                raise NotConverted(node, str(error)) from error
            return
        arguments = [values[name] if name else None for name in names]
        given = [one for one in arguments if one is not None]
        is_known = all(one.known is not None for one in given)
        result = self._looked_at(node, module, arguments, is_known)
        learned = any(one.learned for one in given)
        limit = sum(one.fake.numel() for one in given if one.learned)
        if not learned:  # weights must not grow, or there would be more of them than in the file
            limit = max(_MOST_FOLDED, sum(one.fake.numel() for one in given))
        if is_known and sum(one.numel() for one in _as_list(result)) <= limit:
            self._fold(node, module, arguments, learned)
        else:
            self._place(node, path, module, names, result)

    def _looked_at(
        self, node: NodeProto, module: nn.Module, arguments: list[Value | None], is_known: bool
    ) -> Any:
        """The module's result on fakes; None where only known content tells its size."""
        fakes = [None if one is None else one.fake for one in arguments]
        try:
            with torch.no_grad(), self._mode:
                return module.eval()(*fakes)
        except _DATA_DEPENDENT as error:
            elements = sum(one.numel() for one in fakes if one is not None)
            if is_known and elements <= _MOST_SEARCHED:
                return None
            raise NotConverted(node, "whose result's size depends on the model's input") from error
        except Exception as error:
            raise self._misfit(node, fakes, error) from error

    def _misfit(
        self, node: NodeProto, fakes: Sequence[Tensor | None], error: Exception
    ) -> ModelUnreadable:
        shapes = ", ".join("×".join(map(str, one.shape)) for one in fakes if one is not None)
        cause = str(error).strip().splitlines() or [type(error).__name__]
        return ModelUnreadable(
            f"Operator {node.op_type} “{plain_name(node.name)}” of the ONNX file does not run on "
            f"inputs of {shapes or 'no shape'}: {plain_name(cause[0], 200)}",
            "Check the input's shape; or export the model again.",
        )

    def _fold(
        self, node: NodeProto, module: nn.Module, arguments: list[Value | None], learned: bool
    ) -> None:
        known = [None if one is None else one.known for one in arguments]
        try:
            with torch.no_grad():
                results = _as_list(module(*known))
        except Exception as error:
            raise self._misfit(node, known, error) from error
        for name, tensor in zip(node.output, results, strict=False):
            if name:
                own = tensor.detach().contiguous()
                self._give(name, Value(self._mode.from_tensor(own), own, learned))

    def _place(
        self,
        node: NodeProto,
        path: str,
        module: nn.Module,
        names: Sequence[str],
        result: Any,
    ) -> None:
        running: list[int | None] = []
        constants: list[Tensor | None] = []
        for name in names:
            is_constant = bool(name) and self._value(name).known is not None
            constants.append(self._constant(name) if is_constant else None)
            if not is_constant:
                running.append(self._numbers[self._name(name)] if name else None)
        if any(one is not None for one in constants):
            module = hold(module, constants)
        self._modules[path] = module
        for name, fake in zip(node.output, _as_list(result), strict=False):
            if name:
                self._give(name, Value(fake), computed=True)
        is_tuple = not isinstance(result, Tensor)
        if not is_tuple:
            self._layers[node.output[0]] = module
        results = tuple(self._numbers.get(name) for name in node.output)
        self._steps.append(Step(path, tuple(running), results, is_tuple))


def _as_list(result: Any) -> list[Tensor]:
    if result is None:
        return []
    return [result] if isinstance(result, Tensor) else list(result)


@contextmanager
def quiet_fakes() -> Iterator[None]:
    """Keep torch from logging what it raises as well when shapes do not fit."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reads(graph: GraphProto) -> Iterator[str]:
    """Names of values, once each time that one is read."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _reads(attribute.g)
    for result in graph.output:
        yield result.name
