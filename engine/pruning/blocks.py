"""Whole residual blocks taken out.

The law: the block puts out its input when what it adds to it is multiplied by 0. A network of such
blocks is an ensemble of paths, most of which survive (Veit et al., Residual Networks Behave Like
Ensembles of Relatively Shallow Networks, 2016).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.editing import Subject, module_at
from engine.edits import BlocksRemoved, RemoveBlocks
from engine.errors import EditRefused, RecipeMismatch
from engine.job import Job
from engine.layers import ROOT, LayerId
from engine.operators import ADDITIONS, carries
from engine.pruned_layers import Removed, StandIn
from engine.sharing import replace_module, share_for_running
from engine.state import LayerEffect
from engine.tracing import Trace, work_of


class BlockRemoval:
    """Handler of :class:`engine.edits.RemoveBlocks`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Whatever has layers below it and is not what an edit left."""
        return not isinstance(module, StandIn) and next(module.children(), None) is not None

    def fits(self, layer: LayerId, model: nn.Module, seen: Trace) -> bool:
        """Where the layer adds something to its input, and puts out the sum."""
        return layer in seen.residual_layers

    def draft(self, edit: RemoveBlocks, subject: Subject, job: Job) -> BlocksRemoved:
        """The blocks, by the operators that they run."""
        for layer in edit.layers:
            module = module_at(subject.model, layer)
            if not self.applies(module) or layer not in subject.trace.residual_layers:
                raise EditRefused(
                    f"{layer or 'The model'} ({type(module).__name__}) is no residual block that "
                    "could be left out: it does not put out its input with something added.",
                    "Blocks that change the shape, such as the first of a stage, have to stay.",
                )
        return BlocksRemoved(_outermost(edit.layers))

    def decide(self, edit: RemoveBlocks, subject: Subject, job: Job) -> BlocksRemoved:
        """The blocks, each proved on what reaches it from the sample input."""
        decision = self.draft(edit, subject, job)
        job.begin("Running the model on its sample input")
        given = _inputs_of(decision.layers, subject)
        for layer in job.track(decision.layers, "Checking the blocks"):
            _check_law(layer, module_at(subject.model, layer), given[layer])
        return decision

    def carry_out(self, decision: BlocksRemoved, model: nn.Module) -> None:
        """Replace the blocks by ones that hand their input on."""
        for layer in decision.layers:
            module = module_at(model, layer)
            if layer == ROOT or not self.applies(module):
                raise RecipeMismatch(f"{layer or 'The model'} is no block that can be left out.")
            replace_module(model, layer, Removed(type(module).__name__))

    def effects(self, decision: BlocksRemoved, subject: Subject) -> tuple[LayerEffect, ...]:
        """Parameters of each block, itself and all below."""
        return tuple(
            LayerEffect(
                layer,
                "chosen",
                "parameters",
                sum(subject.tree[one].parameters for one in subject.tree.under(layer)),
                0,
            )
            for layer in decision.layers
        )

    def notes(self, decision: BlocksRemoved, subject: Subject) -> tuple[str, ...]:
        """Savings that hold on every device, and what a block more or less costs."""
        return (
            "Removed blocks save time, memory and energy on every device.",
            "What later layers were trained to read is missing: fine-tune afterwards.",
        )


def _outermost(layers: Sequence[LayerId]) -> tuple[LayerId, ...]:
    """Those that are not within another of them."""
    return tuple(
        layer for layer in layers if not any(layer.startswith(f"{other}.") for other in layers)
    )


def _inputs_of(
    layers: Sequence[LayerId], subject: Subject
) -> dict[LayerId, list[tuple[Tensor, ...]]]:
    """What each layer is given, call by call, in one pass over the sample input."""
    model = share_for_running(subject.model)
    given: dict[LayerId, list[tuple[Tensor, ...]]] = {layer: [] for layer in layers}
    for layer, calls in given.items():

        def catch(_module: nn.Module, inputs: tuple[Tensor, ...], calls: Any = calls) -> None:
            # The block may write into what it is given.
            calls.append(tuple(one.clone() if isinstance(one, Tensor) else one for one in inputs))

        module_at(model, layer).register_forward_pre_hook(catch)
    with torch.no_grad():
        model(*subject.inputs)
    return given


def _check_law(layer: LayerId, module: nn.Module, calls: list[tuple[Tensor, ...]]) -> None:
    """Run the block, all that it adds to its input left out, and compare with the input.

    Raises:
        EditRefused: it puts out something else.
    """
    for given in calls:
        block = share_for_running(module)
        own = given[0].clone()
        with torch.no_grad(), _NothingAdded(own):
            output = block(own, *given[1:])
        if output.shape != given[0].shape or not torch.equal(output, given[0]):
            raise EditRefused(
                f"{layer} ({type(module).__name__}) cannot be left out: without what it adds, it "
                "would still change its input (by an activation behind the sum, for example).",
            )


class _NothingAdded(TorchDispatchMode):
    """Follows a tensor through a block, and adds nothing to it."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._carrying = {id(start): start}  # the tensors too, or an id might name another one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        carried = [id(one) in self._carrying for one in args if isinstance(one, Tensor)]
        name = str(func._overloadpacket)
        if name in ADDITIONS and len(carried) == 2 and any(carried):
            args = self._without_others(func, args)
        elif carried[:1] != [True] or not carries(name, work_of(func)):
            return func(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            self._carrying[id(one)] = one
        return out

    def _without_others(self, func: Any, args: Any) -> Any:
        """The arguments with zeros for every tensor that is not followed."""
        if func._schema.is_mutable and id(args[0]) not in self._carrying:
            args[0].zero_()
            return args
        return tuple(
            torch.zeros_like(one)
            if isinstance(one, Tensor) and id(one) not in self._carrying
            else one
            for one in args
        )
