"""TorchScript's intermediate code as Python text, one function a method, a line a node."""

import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from engine.errors import ModelUnreadable

_HEAD = """\
import math
import operator
import torch
from torch import device, inf, nan
from engine.sources.graphs import script_runtime as run
"""

# Operators on numbers, lists and texts, which are Python's own, by their names in TorchScript.
_PLAIN: Mapping[str, str] = {
    "aten::len": "len", "aten::__getitem__": "run.first_of", "aten::slice": "run.sliced",
    "aten::__is__": "operator.is_", "aten::__isnot__": "operator.is_not",
    "aten::__not__": "operator.not_", "aten::__contains__": "operator.contains",
    "aten::eq": "operator.eq", "aten::ne": "operator.ne", "aten::lt": "operator.lt",
    "aten::le": "operator.le", "aten::gt": "operator.gt", "aten::ge": "operator.ge",
    "aten::add": "operator.add", "aten::sub": "operator.sub", "aten::mul": "operator.mul",
    "aten::div": "run.divided", "aten::floordiv": "operator.floordiv",
    "aten::remainder": "operator.mod", "aten::neg": "operator.neg", "aten::pow": "operator.pow",
    "aten::__and__": "operator.and_", "aten::__or__": "operator.or_",
    "aten::append": "list.append", "aten::list": "list", "aten::format": "str.format",
    "aten::Int": "run.whole", "aten::Float": "float", "aten::Bool": "bool", "aten::str": "str",
    "aten::_set_item": "operator.setitem", "aten::keys": "list", "aten::values": "dict.values",
    "aten::__range_length": "run.range_length", "aten::warn": "run.nothing",
    "aten::ceil": "math.ceil", "aten::floor": "math.floor", "prim::min": "min",
    "prim::max": "max", "prim::Print": "run.nothing", "prim::RaiseException": "run.fail",
    "prim::dtype": "run.dtype_number", "prim::abs": "abs", "aten::copy": "list",
    "aten::extend": "list.extend", "aten::insert": "list.insert", "aten::pop": "list.pop",
    "aten::clear": "list.clear", "aten::reverse": "list.reverse", "aten::get": "dict.get",
    "aten::rsub": "run.subtracted",
}  # fmt: skip

# Of numbers as well as of tensors that traced code made of them.
_EITHER: Mapping[str, str] = {
    name: _PLAIN[name]
    for name in (
        "aten::add", "aten::sub", "aten::mul", "aten::div", "aten::remainder", "aten::neg",
        "aten::eq", "aten::ne", "aten::lt", "aten::le", "aten::gt", "aten::ge", "aten::Int",
        "aten::Float", "aten::Bool", "aten::rsub", "aten::pow", "aten::floor", "aten::ceil",
    )
} | {"aten::floor_divide": "operator.floordiv", "aten::IntImplicit": "run.whole"}  # fmt: skip

# Written as they stand, ``{0}`` being the first argument.
_WRITTEN: Mapping[str, str] = {
    "prim::unchecked_cast": "{0}", "aten::_unwrap_optional": "{0}", "prim::NumToTensor": "{0}",
    "aten::ScalarImplicit": "{0}", "aten::FloatImplicit": "{0}", "prim::data": "{0}.detach()",
    "prim::device": "{0}.device", "prim::is_cuda": "{0}.is_cuda", "aten::dim": "{0}.dim()",
    "prim::shape": "list({0}.shape)", "prim::requires_grad": "False",
    "aten::__derive_index": "{1} + {0} * {2}", "prim::Uninitialized": "None",
    "prim::TupleIndex": "{0}[{1}]", "aten::copy_": "{0}.copy_({1})",
}  # fmt: skip


class ScriptText:
    """Writes the methods of one script module.

    Args:
        module: as ``torch.jit`` loads it.
        functions: gives the graph of a function that the code names in full.
        repeats: whether a child's other method does what its ``forward`` does.
    """

    def __init__(
        self,
        module: Any,
        functions: Callable[[str], Any],
        repeats: Callable[[Any, str], bool],
    ) -> None:
        self.constants: dict[str, Tensor] = {}
        self.attributes: dict[str, Any] = {}
        self._module = module
        self._functions = functions
        self._repeats = repeats
        self._written: dict[str, list[str]] = {}

    def text(self, method: str = "forward") -> str:
        """The source of that method and of all that it needs."""
        self._write(method, self._module._c._get_method(method).graph, self._module)
        return _HEAD + "\n".join(line for lines in self._written.values() for line in lines)

    def _write(self, name: str, graph: Any, module: Any | None) -> None:
        if name in self._written:
            return
        self._written[name] = []  # it may call itself
        body = _Body(self, graph, module)
        given = body.inputs if module is None else _with_defaults(body.inputs, module, name)
        self._written[name] = [f"def {name}({', '.join(given)}):", *body.lines, ""]

    def function(self, value: Any) -> str:
        """The name of a function that a constant stands for, written beside the methods."""
        full = str(value.type())
        name = "function_" + re.sub(r"\W", "_", full)
        self._write(name, self._functions(full), None)
        return name

    def method(self, owner: Any, name: str) -> str:
        """How a method of the module or of a child is called: ``""`` for a plain call."""
        if owner is self._module:
            self._write(name, self._module._c._get_method(name).graph, self._module)
            return f".{name}"
        if name == "forward" or self._repeats(owner, name):
            return ""
        raise ModelUnreadable(
            f"A module in it is called by the method “{name}” of another one, which keeps its "
            "layers from being told apart.",
            "Export the model with torch.export, or open its Python code as a factory.",
        )

    def constant(self, value: Any) -> str:
        """An expression for a constant."""
        if isinstance(value, Tensor) and value.dtype is torch.int64 and not value.dim():
            return repr(int(value))  # of a shape, more often than not, and as good otherwise
        if isinstance(value, Tensor):
            name = f"constant_{len(self.constants)}"
            self.constants[name] = value
            return f"self.{name}"
        return repr(value)

    def attribute(self, owner: Any, name: str) -> None:
        """Remember that an attribute which is neither tensor nor module is read."""
        if owner is self._module:
            self.attributes[name] = getattr(owner, name)


class _Body:
    """The lines of one function; values that are modules or functions have no line."""

    def __init__(self, text: ScriptText, graph: Any, module: Any | None) -> None:
        self.lines: list[str] = []
        self._text = text
        self._names: dict[str, str] = {}
        self._modules: dict[str, Any] = {}
        self._depth = 1
        given = list(graph.inputs())
        if module is not None:
            self._names[given[0].debugName()] = "self"
            self._modules[given[0].debugName()] = module
        self.inputs = [self._name(one) for one in given]
        self._block(graph)
        self._line(f"return {', '.join(map(self._name, graph.outputs()))}")

    def _line(self, text: str) -> None:
        self.lines.append("    " * self._depth + text)

    def _name(self, value: Any) -> str:
        known = self._names.get(value.debugName())
        if known is None:
            known = "v_" + re.sub(r"\W", "_", value.debugName())
            self._names[value.debugName()] = known
        return known

    def _block(self, block: Any) -> None:
        for node in block.nodes():
            self._node(node)

    def _node(self, node: Any) -> None:
        kind = node.kind()
        special = _SPECIAL.get(kind)
        if special is not None:
            special(self, node)
            return
        given = [self._name(one) for one in node.inputs()]
        outputs = list(node.outputs())
        expression = _expression(node, given)
        if len(outputs) == 1:
            self._line(f"{self._name(outputs[0])} = {expression}")
        else:
            self._line(expression)

    def _constant(self, node: Any) -> None:
        output = node.output()
        if output.type().kind() == "FunctionType":
            self._names[output.debugName()] = self._text.function(output)
        else:
            self._names[output.debugName()] = f"({self._text.constant(output.toIValue())})"

    def _get_attribute(self, node: Any) -> None:
        name, owner = node.s("name"), node.input()
        reader = f".{name}" if _is_name(name) else None
        base = self._name(owner)
        expression = f"{base}{reader}" if reader else f"getattr({base}, {name!r})"
        module = self._modules.get(owner.debugName())
        if module is None:
            raise _unknown("attributes of objects that are no modules")
        self._names[node.output().debugName()] = expression
        if name in dict(module.named_children()):
            self._modules[node.output().debugName()] = getattr(module, name)
        elif name not in module._parameters and name not in module._buffers:
            self._text.attribute(module, name)

    def _call_method(self, node: Any) -> None:
        owner, *given = node.inputs()
        module = self._modules.get(owner.debugName())
        if module is None:
            raise _unknown("methods of objects that are no modules")
        how = self._text.method(module, node.s("name"))
        arguments = ", ".join(map(self._name, given))
        self._line(f"{self._name(node.output())} = {self._name(owner)}{how}({arguments})")

    def _call_function(self, node: Any) -> None:
        called, *given = node.inputs()
        arguments = ", ".join(map(self._name, given))
        self._line(f"{self._name(node.output())} = {self._name(called)}({arguments})")

    def _if(self, node: Any) -> None:
        condition = self._name(node.input())
        for head, block in zip((f"if {condition}:", "else:"), node.blocks(), strict=True):
            self._line(head)
            self._depth += 1
            self._block(block)
            for output, value in zip(node.outputs(), block.outputs(), strict=True):
                self._line(f"{self._name(output)} = {self._name(value)}")
            self._line("pass")
            self._depth -= 1

    def _loop(self, node: Any) -> None:
        most, first, *before = map(self._name, node.inputs())
        (block,) = node.blocks()
        index, *inside = map(self._name, block.inputs())
        carried = [self._name(one) for one in node.outputs()]
        go = f"go_{index}"
        for name, value in zip((index, go, *carried), ("0", first, *before), strict=True):
            self._line(f"{name} = {value}")
        self._line(f"while {go} and {index} < {most}:")
        self._depth += 1
        for name, value in zip(inside, carried, strict=True):
            self._line(f"{name} = {value}")
        self._block(block)
        after = ", ".join(map(self._name, block.outputs()))
        self._line(f"{', '.join((go, *carried))} = {after}")
        self._line(f"{index} += 1")
        self._depth -= 1

    def _unpack(self, node: Any) -> None:
        names = "".join(f"{self._name(one)}, " for one in node.outputs())
        self._line(f"{names}= {self._name(node.input())}" if names else "pass")

    def _construct(self, node: Any) -> None:
        given = [self._name(one) for one in node.inputs()]
        if node.kind() == "prim::DictConstruct":
            pairs = zip(given[::2], given[1::2], strict=True)
            made = "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        elif node.kind() == "prim::ListConstruct":
            made = f"[{', '.join(given)}]"
        else:
            made = f"({''.join(f'{one}, ' for one in given)})"
        self._line(f"{self._name(node.output())} = {made}")


_SPECIAL: Mapping[str, Callable[[_Body, Any], None]] = {
    "prim::Constant": _Body._constant,
    "prim::GetAttr": _Body._get_attribute,
    "prim::CallMethod": _Body._call_method,
    "prim::CallFunction": _Body._call_function,
    "prim::If": _Body._if,
    "prim::Loop": _Body._loop,
    "prim::ListUnpack": _Body._unpack,
    "prim::TupleUnpack": _Body._unpack,
    "prim::ListConstruct": _Body._construct,
    "prim::TupleConstruct": _Body._construct,
    "prim::DictConstruct": _Body._construct,
}


def _with_defaults(names: list[str], module: Any, method: str) -> list[str]:
    arguments = module._c._get_method(method).schema.arguments
    return [
        f"{name}={one.default_value!r}" if one.has_default_value() else name
        for name, one in zip(names, arguments, strict=True)
    ]


def _expression(node: Any, given: list[str]) -> str:
    """One operator on expressions."""
    kind, arguments = node.kind(), ", ".join(given)
    if kind == "aten::size":
        return f"{given[0]}.size({given[1]})" if len(given) > 1 else f"list({given[0]}.shape)"
    if kind in _WRITTEN:
        return _WRITTEN[kind].format(*given)
    takes_tensors = any(_is_tensor(one.type()) for one in node.inputs())
    if kind in _EITHER and takes_tensors:
        return f"run.arithmetic({_EITHER[kind]}, {_operator(node)}, {_by_schema(node, given)})"
    if kind in _PLAIN and not (takes_tensors and kind == "aten::slice"):
        return f"{_PLAIN[kind]}({arguments})"
    return f"{_operator(node)}({_by_schema(node, given)})"


def _by_schema(node: Any, given: list[str]) -> str:
    """The arguments as the operator takes them: the last ones often by their names only."""
    names = torch._C.parse_schema(node.schema()).arguments
    return ", ".join(
        f"{argument.name}={one}" if argument.kwarg_only else one
        for argument, one in zip(names, given, strict=True)
    )


def _operator(node: Any) -> str:
    """The registered operator, by its full name."""
    namespace, _, name = node.kind().partition("::")
    schema = node.schema()
    found = getattr(getattr(torch.ops, namespace), name, None)
    if namespace == "prim" or found is None or schema == "(no schema)":
        raise _unknown(f"the operator {node.kind()}")
    overload = torch._C.parse_schema(schema).overload_name or "default"
    path = f"torch.ops.{namespace}.{name}"
    return f"{path}.{overload}" if overload in found.overloads() else path


def _is_tensor(kind: Any) -> bool:
    return str(kind.annotation_str) in ("Tensor", "Optional[Tensor]")


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _unknown(what: str) -> ModelUnreadable:
    return ModelUnreadable(
        f"It uses {what}, which cannot be shown layer by layer.",
        "Export the model with torch.export, or open its Python code as a factory.",
    )
