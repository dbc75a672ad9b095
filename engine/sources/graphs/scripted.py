"""A TorchScript module as a tree of modules with layers that can be told apart.

Each module's code becomes a :class:`~engine.sources.graphs.blocks.Block`. Those that, on the sample
input, turn out to do one layer's work become that layer.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.sources.graphs.blocks import Block, block
from engine.sources.graphs.leaves import INPUT, layer_for, layer_holding
from engine.sources.graphs.script_text import ScriptText


def scripted(module: Any, unit: Any) -> nn.Module:
    """The tree of blocks, in evaluation mode, over the module's own tensors.

    Args:
        module: a script module as ``torch.jit`` wraps it.
        unit: the compilation unit that it was read into.

    Raises:
        ModelUnreadable: its code uses what cannot be written in Python.
    """
    return _Reader(unit).block(module).eval()


class _Reader:
    def __init__(self, unit: Any) -> None:
        self._unit = unit
        self._parameters: dict[int, tuple[Tensor, nn.Parameter]] = {}

    def block(self, module: Any) -> nn.Module:
        """One module and its children."""
        made: nn.Module = nn.Identity()
        if hasattr(module, "forward"):
            text = ScriptText(module, self._function, self._repeats)
            made = block(str(module.original_name), text.text())
            for name, value in text.attributes.items():
                if name != "training":
                    made.__dict__[name] = value
            for name, constant in text.constants.items():
                made.register_buffer(name, constant, persistent=False)
        elif any((module._parameters, module._buffers, list(module.children()))):
            made = nn.Module()  # a trace did not call it, but may read what it holds
        for name, tensor in module._parameters.items():
            made.register_parameter(name, self._parameter(tensor))
        for name, tensor in module._buffers.items():
            made.register_buffer(name, tensor)
        for name, child in module.named_children():
            made.add_module(name, self.block(child))
        return made if isinstance(made, Block) else _held(made) or made

    def _parameter(self, tensor: Tensor | None) -> nn.Parameter | None:
        if tensor is None:
            return None
        # The tensor is kept beside it: an id belongs to what lives.
        made = nn.Parameter(tensor.detach(), requires_grad=tensor.is_floating_point())
        return self._parameters.setdefault(id(tensor), (tensor, made))[1]

    def _function(self, name: str) -> Any:
        return self._unit.find_function(name).graph

    def _repeats(self, module: Any, name: str) -> bool:
        texts = [
            _nameless(ScriptText(module, self._function, self._repeats).text(one))
            for one in ("forward", name)
        ]
        return texts[0] == texts[1]


def _nameless(text: str) -> str:
    """The text with its values counted instead of named, and its first function unnamed."""
    names: dict[str, str] = {}
    counted = re.sub(r"\bv_\w+", lambda one: names.setdefault(one[0], f"v{len(names)}"), text)
    return re.sub(r"def forward\w*\(", "def (", counted)


# Layers


def with_layers(model: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    """The tree with the layer of ``torch.nn`` wherever a childless block did just its work."""
    watch = _Watch()
    leaves = {name: one for name, one in model.named_modules() if isinstance(one, Block) and name}
    handles = []
    for one in leaves.values():
        if not one._modules:
            handles.append(one.register_forward_pre_hook(watch.entering))
            handles.append(one.register_forward_hook(watch.leaving))
    try:
        with torch.inference_mode(), watch:
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, one in leaves.items():
        layer = watch.layers.get(one)
        if one not in watch.layers:
            layer = _held(one)
        if layer is not None and set(one._parameters) <= set(layer.state_dict()):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, layer)
    return model


def _held(module: nn.Module) -> nn.Module | None:
    """The layer whose tensors an uncalled module holds for its parent."""
    alone = not module._modules and not module._buffers
    return layer_holding(module._parameters) if alone else None


class _Watch(TorchFunctionMode):
    """Sees which operators a block calls, before they are taken apart."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: dict[nn.Module, nn.Module | None] = {}
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def entering(self, _module: nn.Module, _inputs: Any) -> None:
        """Before a childless block runs."""
        self._calls = []

    def leaving(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """After it ran: the layer that it is, the same at each of its runs."""
        calls, self._calls = self._calls, []
        found = None
        if len(inputs) == 1 and not calls and output is inputs[0]:
            found = nn.Identity()
        elif len(inputs) == 1 and len(calls) == 1 and calls[0][3] is output:
            function, args, kwargs, _ = calls[0]
            found = _layer(function, args, kwargs, inputs[0])
        before = self.layers.setdefault(module, found)
        if before is None or found is None or repr(before) != repr(found):
            self.layers[module] = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
            self._calls.append((func, args, kwargs or {}, result))
        return result


def _layer(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], x: Any) -> Any:
    if isinstance(function, torch._ops.OpOverloadPacket) or not isinstance(x, Tensor):
        return None
    arguments = function._schema.arguments
    given = {one.name: one.default_value for one in arguments if one.has_default_value()}
    given.update(zip((one.name for one in arguments), args, strict=False))
    given.update(kwargs)
    given = {name: INPUT if one is x else one for name, one in given.items()}
    return layer_for(function._schema.name.partition("::")[2], given, x.dim())
