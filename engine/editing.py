"""What every handler of an edit gets and gives: the contract between session and methods.

A handler never writes into a tensor of the model it is given (see :mod:`engine.sharing`).
"""

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from engine.datasets import DataSet
from engine.edits import (
    HANDLERS,
    ON_SHAPES,
    RECOVERING,
    AppliedEdit,
    Edit,
    InputGrid,
    Quantize,
    edit_name,
)
from engine.errors import EditRefused, ForwardFailed
from engine.half_layers import is_half
from engine.integer_layers import IntegerWeights, is_quantized
from engine.job import Job
from engine.layers import Layer, LayerId, LayerTree
from engine.lazy import resolve
from engine.pruned_layers import StandIn, channels_of, note_of
from engine.rounded_operators import RoundedOperators
from engine.sharing import share, tensors_of
from engine.state import LayerEffect
from engine.tracing import Trace, batch_of, layer_tree, trace

T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """One state of the model, as the handlers see it; to be read only.

    Attributes:
        inputs: the sample input that the model was traced with.
        data: for calibration (its training split); None when none is chosen.
        base: the model without any edit, for what learns from it; None: this one.
        energy: modelled joules of each layer, for what weighs layers by them.
        memo: analyses of this state that several edits or previews share, by name.
        unrounded: the state that this one computes the same as but for rounding; None: this one.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    trace: Trace
    tree: LayerTree
    data: DataSet | None = None
    base: nn.Module | None = None
    energy: Mapping[LayerId, float] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)
    unrounded: "Subject | None" = None

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The analysis of that name, made on first use; a refusal is remembered as well."""
        if name not in self.memo:
            try:
                self.memo[name] = make()
            except EditRefused as error:
                self.memo[name] = error
        value: T | EditRefused = self.memo[name]
        if isinstance(value, EditRefused):
            raise EditRefused(str(value), value.remedy)
        return value

    def at_batch(self, size: int) -> Trace:
        """The trace at that many samples.

        Raises:
            ForwardFailed: the model does not run so.
        """
        if size == batch_of(self.inputs):
            return self.trace
        known, seen = self.memo.get("batch", (0, self.trace))
        if known != size:  # the last alone is kept: a box of numbers runs through many
            seen = trace(self.model, self.inputs, size)
            self.memo["batch"] = size, seen
        return seen  # type: ignore[no-any-return]


class Handler(Protocol):
    """How one kind of edit is decided, applied and told.

    Attributes:
        spares_outputs: whether it leaves layers that put out the model's result alone, unless
            they are named.

    A handler that needs more than the layer may have ``fits(layer, model, seen)`` as well: whether
    the edit can be applied where the layer stands in the model, as the trace shows it; that of
    quantization has ``why_not`` of the same arguments, which says why it cannot. One whose edits
    only round says ``keeps_ranges = True``. One that can tell only by running what comes of an edit
    whether it went wrong has ``checked(decision, subject, job)``, which gives the decision with
    warnings in it.
    """

    spares_outputs: bool

    def applies(self, module: nn.Module) -> bool:
        """Whether the edit can be applied to that layer as it stands."""

    def draft(self, edit: Any, subject: Subject, job: Job) -> Any:
        """A decision good enough to tell sizes and costs; may skip looking at data."""

    def decide(self, edit: Any, subject: Subject, job: Job) -> Any:
        """The decision in full; raises EditRefused with the layers and the reason."""

    def carry_out(self, decision: Any, model: nn.Module) -> None:
        """Give ``model``, a sharing copy, the tensors and modules that were decided."""

    def effects(self, decision: Any, subject: Subject) -> tuple[LayerEffect, ...]:
        """What the decision does to each layer it touches."""

    def notes(self, decision: Any, subject: Subject) -> tuple[str, ...]:
        """What the engineer must know of it, in plain sentences."""


def handler_of(edit: Edit) -> Handler:
    """The handler of an edit's kind."""
    return _handler(HANDLERS[type(edit)])


@cache
def _handler(name: str) -> Handler:
    handler: Handler = resolve(name)()
    return handler


def checked(applied: AppliedEdit, subject: Subject, job: Job) -> AppliedEdit:
    """The edit with warnings of what running its result shows, where its handler looks for any."""
    check = getattr(handler_of(applied.request), "checked", None)
    if check is None:
        return applied
    return replace(applied, decision=check(applied.decision, subject, job))


def carried_out(applied: AppliedEdit, subject: Subject) -> Subject:
    """The state behind a decided edit, validated on fake tensors before anybody sees it.

    Raises:
        EditRefused: the edited model would not run, or would put out other shapes.
    """
    model = share(subject.model)
    handler = handler_of(applied.request)
    handler.carry_out(applied.decision, model)
    try:
        after = look_at(model, subject.inputs, subject.data)
    except ForwardFailed as error:
        raise EditRefused(f"Edited so, the model would no longer run. {error}") from error
    before, now = subject.trace.result_shapes, after.trace.result_shapes
    # Shapes that depend on data, such as how many objects are found, tell nothing.
    if now != before and after.trace.ran == "fake":
        raise EditRefused(
            f"The edit would change the model's output from {_shapes(before)} to {_shapes(now)}.",
            "Leave the output layer, and what is coupled to it, out of the selection.",
        )
    if getattr(handler, "keeps_ranges", False):
        return replace(after, unrounded=subject.unrounded or subject)
    return after


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes)


def methods_of(module: nn.Module, layer: LayerId, model: nn.Module, seen: Trace) -> tuple[str, ...]:
    """Names of the edits that a selection offers for that layer as it stands."""
    is_output = layer in seen.output_layers
    is_meta = any(one.is_meta for one in module.parameters(recurse=False))
    kinds = ON_SHAPES if is_meta else HANDLERS.keys() - RECOVERING
    handlers = {edit_name(kind): _handler(HANDLERS[kind]) for kind in HANDLERS if kind in kinds}
    return tuple(
        name
        for name, handler in handlers.items()
        if handler.applies(module)
        and not (is_output and handler.spares_outputs)
        and getattr(handler, "fits", _anywhere)(layer, model, seen)
    )


def _anywhere(_layer: LayerId, _model: nn.Module, _seen: Trace) -> bool:
    return True


def look_at(model: nn.Module, inputs: tuple[Tensor, ...], data: DataSet | None = None) -> Subject:
    """Trace a state: its operators, its layers, and nothing remembered yet."""
    seen = trace(model, inputs)
    counted: set[int] = set()

    def describe(module: nn.Module, layer: Layer) -> Layer:
        methods = methods_of(module, layer.id, model, seen)
        why: Any = _handler(HANDLERS[Quantize])
        return replace(
            _described(module, layer, counted),
            methods=methods,
            why_float=why.why_not(layer.id, model, seen),
        )

    tree = layer_tree(model, seen.output_shapes, describe)
    return Subject(model, inputs, seen, tree, data)


def _described(module: nn.Module, layer: Layer, counted: set[int]) -> Layer:
    """The layer with what its own tensors tell.

    Args:
        counted: ids of tensors that an earlier layer has; tied ones count where they come first.
    """
    own = [one for one in module.parameters(recurse=False) if id(one) not in counted]
    counted.update(map(id, own))
    weight = getattr(module, "weight", None)
    quantized = is_quantized(module)
    if quantized:
        own.append(weight)  # type: ignore[arg-type]  # integer weights are a buffer
    return replace(
        layer,
        kind=getattr(module, "kind", layer.kind) if _is_ours(module) else layer.kind,
        parameters=sum(one.numel() for one in own),
        weights=sum(one.numel() for one in own if one.dim() > 1),
        zeros=sum(_zeros(one, module) for one in own if one.dim() > 1),
        weight_bits=_weight_bits(module, weight),
        activation_bits=_activation_bits(module),
        channels=channels_of(module),
        note=note_of(module),
        is_quantized=quantized or isinstance(module, RoundedOperators),
    )


def _weight_bits(module: nn.Module, weight: Any) -> int | None:
    if isinstance(module, IntegerWeights):
        return module.weight_format.bits
    return weight.dtype.itemsize * 8 if isinstance(weight, Tensor) else None


def _activation_bits(module: nn.Module) -> int | None:
    if is_half(module):
        return 16
    grids: tuple[InputGrid | None, ...] = ()
    if isinstance(module, IntegerWeights):
        grids = (module.input_grid,)
    elif isinstance(module, RoundedOperators):
        grids = tuple(grid for one in module.operators for grid in one.inputs)
    return next((grid.bits for grid in grids if grid is not None), None)


def _is_ours(module: nn.Module) -> bool:
    return is_quantized(module) or is_half(module) or isinstance(module, StandIn)


def weight_zeros(model: nn.Module) -> dict[str, float]:
    """Share of zeros in each parameter and buffer of two axes and more, by full name."""
    return {
        name: _zeros(tensor, module_at(model, LayerId(name.rpartition(".")[0]))) / tensor.numel()
        for name, tensor in tensors_of(model)
        if tensor.dim() > 1 and tensor.numel()
    }


_zeros_of: MutableMapping[Tensor, tuple[int, int]] = WeakIdKeyDictionary()


def _zeros(tensor: Tensor, holder: nn.Module) -> int:
    """Zero elements; counted once for each version of a tensor, as states share tensors.

    Args:
        holder: the layer whose tensor it is; integer weights stand for 0 at their zero point.
    """
    if tensor.device.type == "meta":
        return 0
    version, zeros = _zeros_of.get(tensor, (-1, 0))
    if version != tensor._version:
        if isinstance(holder, IntegerWeights) and tensor is holder.weight:
            zeros = holder.zeros()
        else:
            zeros = tensor.numel() - int(torch.count_nonzero(tensor))
        _zeros_of[tensor] = (tensor._version, zeros)
    return zeros


def module_at(model: nn.Module, layer: LayerId) -> nn.Module:
    """The module of that canonical path."""
    return model.get_submodule(layer)
