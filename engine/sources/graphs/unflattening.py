"""An exported program as a tree of modules that can be edited.

``torch.export.unflatten`` gives the original hierarchy back, with a graph in each module. Here
every module whose graph is one layer's work becomes that layer of ``torch.nn``, every other one a
:class:`~engine.sources.graphs.blocks.Block` that runs its graph as text.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.unflatten import InterpreterModule, UnflattenedModule
from torch.fx.graph_module import _format_import_block
from torch.package.importer import sys_importer
from torch.utils import _pytree as pytree

from engine.errors import ModelUnreadable
from engine.sources.graphs.blocks import block
from engine.sources.graphs.leaves import layer_for, layer_holding
from engine.sources.graphs.nodes import arguments_of, operator_name, schema_of
from engine.sources.graphs.rounded import rounded_layer


def unflattened(program: ExportedProgram) -> nn.Module:
    """The model, in evaluation mode, over tensors of its own.

    Its forward takes the program's tensor inputs by position, in the order of its signature,
    nested and named ones too.

    Raises:
        ModelUnreadable: the program holds what no module can.
    """
    _inline_gradient_modes(program.graph_module)
    for entry in program.module_call_graph[1:]:
        entry.signature = None  # else modules that are called twice count their calls
    tree = torch.export.unflatten(program)
    _arrange_outputs(tree, program)
    _drop_constant_inputs(tree, program)
    return _rebuilt(tree).eval()


def control_flow(program: ExportedProgram) -> list[str]:
    """Names of the operators that run parts of the program by what its data says."""
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return sorted({str(one) for one in called if isinstance(one, torch._ops.HigherOrderOperator)})


def put_in_evaluation_mode(program: ExportedProgram) -> bool:
    """Let dropout and batch norms that were exported for training do what they do afterwards.

    Returns:
        Whether there were any.
    """
    graph = program.graph_module.graph
    counters = {
        place
        for place, target in program.graph_signature.inputs_to_buffers.items()
        if target.endswith("num_batches_tracked")
    }
    found = False
    for node in list(graph.nodes):
        if operator_name(node) == "add_" and not node.users and str(node.args[0]) in counters:
            graph.erase_node(node)
        for index, argument in enumerate(schema_of(node)):
            if argument.name in ("train", "training") and node.args[index : index + 1] == (True,):
                node.update_arg(index, False)
                found = True
    program.graph_module.recompile()
    return found


def _inline_gradient_modes(module: Any) -> None:
    """Put what ``torch.no_grad()`` enclosed where it stood: nothing here needs its gradients."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or str(node.target) != "wrap_with_set_grad_enabled":
            continue
        _, inner, *arguments = node.args
        body: Any = module.get_submodule(inner.target)
        _inline_gradient_modes(body)
        places = [one for one in body.graph.nodes if one.op == "placeholder"]
        with graph.inserting_before(node):
            results: Any = graph.graph_copy(body.graph, dict(zip(places, arguments, strict=True)))
        for user in list(node.users):  # each takes one of the results out
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        if not inner.users:
            graph.erase_node(inner)


def flat_example(program: ExportedProgram) -> list[Any]:
    """What the program was exported with, in the order of its signature; empty if unknown."""
    if program.example_inputs is None:
        return []
    args, kwargs = program.example_inputs
    return pytree.tree_leaves((tuple(args), kwargs))


def _arrange_outputs(tree: UnflattenedModule, program: ExportedProgram) -> None:
    """Let the graph itself put out what the program's caller gets."""
    end = next(node for node in tree.graph.nodes if node.op == "output")
    spec: Any = program.call_spec.out_spec
    end.args = (_arranged(list(end.args[0]), spec),)


def _arranged(leaves: list[Any], spec: Any) -> Any:
    try:
        found = pytree.tree_unflatten(leaves, spec)
        fx.node.map_arg(found, lambda node: node)
    except Exception:  # classes of outputs are anybody's code
        return tuple(leaves)
    known = (tuple, list, dict, fx.Node)
    return found if isinstance(found, known) else tuple(leaves)


def _drop_constant_inputs(tree: UnflattenedModule, program: ExportedProgram) -> None:
    """Take out inputs that are not tensors: the graph was made for one value of each."""
    places = [node for node in tree.graph.nodes if node.op == "placeholder"]
    for place, example in zip(places, flat_example(program), strict=False):
        if isinstance(example, Tensor):
            continue
        if place.users:
            raise ModelUnreadable(
                f"The program takes a number, “{place.name}”, that may change from run to run.",
                "Export it again with tensors as its only inputs that change.",
            )
        tree.graph.erase_node(place)


def _rebuilt(module: nn.Module) -> nn.Module:
    graph = getattr(module, "graph", None)
    if isinstance(module, fx.GraphModule):
        return module  # a body that an operator of higher order calls
    if not isinstance(graph, fx.Graph):  # computes nothing; may hold tensors for its parent
        if not any((module._parameters, module._buffers, module._modules)):
            return nn.Identity()
        alone = not module._buffers and not module._modules
        held = layer_holding(module._parameters) if alone else None
        return held or _filled(nn.Module(), module)
    found = None if isinstance(module, UnflattenedModule) else _as_layer(module, graph)
    if found is not None:
        return found
    kind = module.type_name() if isinstance(module, InterpreterModule | UnflattenedModule) else ""
    return _filled(block(kind or "Program", _text(graph)), module)


def _text(graph: fx.Graph) -> str:
    graph.set_codegen(fx.graph.CodeGen())
    code = graph.python_code("self")
    return f"{_format_import_block(code.globals, sys_importer)}\n{code.src.lstrip()}"


def _filled(made: nn.Module, module: nn.Module) -> nn.Module:
    """``made`` with the module's tensors and rebuilt children."""
    for name, parameter in module._parameters.items():
        made.register_parameter(name, parameter)
    for name, buffer in module._buffers.items():
        made.register_buffer(name, buffer, name not in module._non_persistent_buffers_set)
    for name, constant in module.__dict__.items():
        if isinstance(constant, Tensor):
            made.register_buffer(name, constant, persistent=False)
    for name, child in module._modules.items():
        if child is None:
            continue
        rebuilt = _rebuilt(child)
        # The second call of a module is called "name@1"; what is the same has one module.
        first = made._modules.get(name.partition("@")[0])
        same = first is not None and _same(first, rebuilt)
        made.add_module(name, first if same else rebuilt)
    return made


def _same(first: nn.Module, second: nn.Module) -> bool:
    """Whether both compute the same over the same tensors."""
    if type(first) is not type(second) or first.extra_repr() != second.extra_repr():
        return False
    if _tensor_ids(first) != _tensor_ids(second) or first._modules.keys() != second._modules.keys():
        return False
    pairs = zip(first.children(), second.children(), strict=True)
    return all(_same(one, other) for one, other in pairs)


def _tensor_ids(module: nn.Module) -> dict[str, int]:
    held = {**module._parameters, **module._buffers}
    return {name: id(one) for name, one in held.items() if name != "num_batches_tracked"}


# One layer's work


def _as_layer(module: nn.Module, graph: fx.Graph) -> nn.Module | None:
    """The layer that does all of what the module's graph does; None if there is none."""
    places = [node for node in graph.nodes if node.op == "placeholder"]
    calls = [node for node in graph.nodes if node.op == "call_function"]
    others = [node for node in graph.nodes if node.op in ("call_module", "call_method")]
    end = next((node for node in graph.nodes if node.op == "output"), None)
    if end is None or len(places) != 1 or others or module._modules:
        return None
    result = end.args[0]
    if not calls:
        return nn.Identity() if result is places[0] else None
    if result is not calls[-1] or not isinstance(calls[-1].target, torch._ops.OpOverload):
        return None
    if len(calls) == 1:
        given = arguments_of(calls[0], module, places[0])
        made = layer_for(operator_name(calls[0]), given, _dims(places[0]))
    else:
        made = rounded_layer(module, calls, places[0])
    return None if made is None or not _takes_all(made, module) else made


def _takes_all(made: nn.Module, module: nn.Module) -> bool:
    """Whether no tensor of the module is lost; hands over what evaluation does not read."""
    tracked = module._buffers.get("num_batches_tracked")
    if tracked is not None and "num_batches_tracked" in made._buffers:
        made._buffers["num_batches_tracked"] = tracked
    return set(module._parameters) <= set(made.state_dict())


def _dims(place: fx.Node) -> int | None:
    seen = place.meta.get("val")
    return seen.dim() if isinstance(seen, Tensor) else None
