"""Matrix products and additions in layers' own code: what a selection reaches, and their grids.

Attention that reads the weights of its projections itself is first replaced by one that calls them
(:func:`explicit_subject`), so that they are layers which can be rounded. What is decided is decided
on that form of the model; carried out, only the layers that need it are replaced.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from engine.editing import Subject, look_at, module_at
from engine.edits import InputGrid, OperatorsRounded, Quantize, RoundedOperator
from engine.errors import EditRefused, RecipeMismatch
from engine.integer_layers import integer_range
from engine.job import Job
from engine.layers import LayerId
from engine.operators import OwnOperator
from engine.pruned_layers import (
    ExplicitMultiheadAttention,
    explicit_attention,
    reads_projections,
    why_not_explicit,
)
from engine.quantization.grids import activation_grid
from engine.quantization.observed import Calibration
from engine.rounded_operators import (
    RoundedOperators,
    round_operators,
    watch_operators,
    why_not_rounded,
)
from engine.sharing import replace_module, share, share_for_running

_PACKED = "in_proj"


@dataclass(frozen=True)
class Chosen:
    """What the selection of an edit comes down to.

    Attributes:
        subject: the state with explicit attention, which all of it is decided on.
        edit: the request for the layers with weights alone, perhaps none.
        operators: layers whose own operators are rounded.
    """

    subject: Subject
    edit: Quantize
    operators: tuple[LayerId, ...]


def chosen(edit: Quantize, subject: Subject) -> Chosen:
    """The layers with weights and those with operators of their own among the chosen ones.

    An attention layer brings its packed projection along, which is no layer before.
    """
    open_subject = explicit_subject(subject)
    weights: list[LayerId] = []
    operators: list[LayerId] = []
    for layer in dict.fromkeys(edit.layers):
        if rounds(open_subject.trace.own_operators.get(layer)):
            operators.append(layer)
        else:
            weights.append(layer)
        packed = LayerId(f"{layer}.{_PACKED}")
        module = module_at(open_subject.model, layer)
        is_new = packed not in subject.tree and isinstance(module, ExplicitMultiheadAttention)
        if is_new and packed not in weights and packed in open_subject.trace.output_shapes:
            weights.append(packed)
    layers = tuple(weights)
    reached = operators if edit.activations != "none" else []
    if not layers and not reached:
        raise EditRefused(
            "With activations in float there is nothing to round in the chosen layers: they add "
            "and multiply activations.",
            "Choose layers with weights as well, or round activations.",
        )
    return Chosen(open_subject, replace(edit, layers=layers), tuple(reached))


def rounds(own: tuple[OwnOperator, ...] | None) -> bool:
    """Whether some of a layer's own operators take two activations."""
    return any(one.takes_activations for one in own or ())


# Explicit attention


def explicit_subject(subject: Subject) -> Subject:
    """The state with every attention layer calling its projections; itself where all do.

    It computes the same but for the order of sums, and is remembered.
    """
    layers = [
        LayerId(name)
        for name, module in subject.model.named_modules()
        if name and reads_projections(module) and not why_not_explicit(module)
    ]
    if not layers:
        return subject
    found = subject.once("explicit attention", lambda: _explicit(subject, layers))
    return replace(found, data=subject.data, unrounded=subject.unrounded or subject)


def _explicit(subject: Subject, layers: Iterable[LayerId]) -> Subject:
    model = share(subject.model)
    for layer in layers:
        replace_module(model, layer, explicit_attention(module_at(model, layer)))
    return look_at(model, subject.inputs, subject.data)


def make_explicit(model: nn.Module, layers: Iterable[LayerId]) -> None:
    """Let attention in ``model``, a copy of the caller's own, call the projections among these.

    Args:
        layers: attention layers, or layers in them, as they are named afterwards.
    """
    for layer in layers:
        for around in list(_attention_around(model, layer)):
            replace_module(model, around, explicit_attention(module_at(model, around)))


def _attention_around(model: nn.Module, layer: LayerId) -> Iterator[LayerId]:
    """Attention layers that a change of the layer would break."""
    path = ""
    module = model
    for name in layer.split("."):
        if isinstance(module, nn.TransformerEncoderLayer):
            # Its fused kernel reads the weights of all its layers, unless its attention is ours.
            yield from _reading(module.self_attn, f"{path}.self_attn".lstrip("."))
        inner = getattr(module, name, None)
        if not isinstance(inner, nn.Module):
            return  # what explicit attention will have
        path, module = f"{path}.{name}".lstrip("."), inner
        yield from _reading(module, path)


def _reading(module: nn.Module, path: str) -> Iterator[LayerId]:
    if reads_projections(module) and not why_not_explicit(module):
        yield LayerId(path)


# Grids


def operator_grids(
    edit: Quantize, picked: Chosen, seen: Calibration | None, job: Job
) -> tuple[OperatorsRounded, ...]:
    """The grids of the operands of own operators by what the edit asks for.

    Args:
        seen: what calibration saw, needed for static grids; None: all scales are 1.

    Raises:
        EditRefused: an operand was not seen, or held values that are not finite.
    """
    own = picked.subject.trace.own_operators

    def grid(layer: LayerId, operand: int) -> InputGrid | None:
        if seen is None or edit.activations != "static":
            return activation_grid(edit, None)
        ranges = seen.ranges(layer, operand)
        if ranges is None or not ranges.finite:
            raise EditRefused(
                f"An operand in {_named(layer)} is not reached by the calibration samples, or "
                "holds values that are not finite.",
                "Leave it out of the selection, or take activations as they come (dynamic).",
            )
        return activation_grid(edit, ranges.histogram)

    return tuple(
        OperatorsRounded(layer, _rounded(layer, own[layer] or (), grid))
        for layer in job.track(picked.operators, "Choosing the operands' grids")
    )


def _rounded(
    layer: LayerId,
    own: Iterable[OwnOperator],
    grid: Callable[[LayerId, int], InputGrid | None],
) -> tuple[RoundedOperator, ...]:
    return tuple(
        RoundedOperator(
            one.name,
            tuple(grid(layer, 2 * at + side) if one.takes_activations else None for side in (0, 1)),
        )
        for at, one in enumerate(own)
    )


def round_own_operators(decided: Iterable[OperatorsRounded], model: nn.Module) -> None:
    """Let layers of ``model``, a copy of the caller's own, round the operands that were decided.

    Raises:
        RecipeMismatch: that is not possible in a layer, or its grids are none.
    """
    for one in decided:
        module = module_at(model, one.layer)
        if isinstance(module, RoundedOperators):
            raise RecipeMismatch(f"The operators of {_named(one.layer)} are quantized already.")
        if why := why_not_rounded(module):
            raise RecipeMismatch(f"The operators of {_named(one.layer)} stay in float: it {why}.")
        for operator in one.operators:
            if len(operator.inputs) != 2 or not all(map(_is_grid, operator.inputs)):
                raise RecipeMismatch(
                    f"The operators of {_named(one.layer)} have grids that fit no operator."
                )
        round_operators(module, one.operators)


def grids_of(one: OperatorsRounded) -> tuple[InputGrid, ...]:
    """The grids of all operands that are rounded, in order."""
    grids = (grid for operator in one.operators for grid in operator.inputs)
    return tuple(grid for grid in grids if grid is not None)


def _is_grid(grid: InputGrid | None) -> bool:
    if grid is None:
        return True
    low, high = integer_range(grid.bits)
    return low <= grid.zero_point <= high


def watch_own_operators(
    subject: Subject, copy: nn.Module, see: Callable[[LayerId, int], Callable[[Tensor], None]]
) -> None:
    """Show the operands of every own operator that takes activations, whenever ``copy`` runs.

    Args:
        subject: of explicit attention; ``copy`` is a running copy of its model.
        see: gives what is told of an operand of a layer; operands are counted through all of the
            layer's operators.
    """
    for layer, own in subject.trace.own_operators.items():
        module = module_at(copy, layer)
        if not rounds(own) or why_not_rounded(module) or isinstance(module, RoundedOperators):
            continue
        wanted = _operands(own or (), lambda one: one.takes_activations)
        told = {operand: see(layer, operand) for operand in wanted}
        _watch(module, own or (), wanted, _telling(told))


def _telling(told: Mapping[int, Callable[[Tensor], None]]) -> Callable[[int, Tensor], None]:
    return lambda operand, values: told[operand](values)


def _watch(
    module: nn.Module,
    own: Iterable[OwnOperator],
    wanted: frozenset[int],
    see: Callable[[int, Tensor], None],
) -> None:
    watch_operators(module, tuple(one.name for one in own), wanted, see)


def _operands(own: Iterable[OwnOperator], which: Callable[[OwnOperator], bool]) -> frozenset[int]:
    return frozenset(2 * at + side for at, one in enumerate(own) if which(one) for side in (0, 1))


def check_in_place(picked: Chosen) -> None:
    """Look whether a rounded addition, which leaves its first operand as it is, will do.

    Raises:
        EditRefused: a layer adds in place, and reads the sum by another name.
    """
    subject = picked.subject
    own = subject.trace.own_operators
    layers = [layer for layer in picked.operators if any(one.in_place for one in own[layer] or ())]
    if not layers or subject.once(f"in place {layers}", lambda: _hand_on(subject, layers)):
        return
    for layer in layers:
        if not _hand_on(subject, [layer]):
            raise EditRefused(
                f"{_named(layer)} adds in place, and reads the sum by another name than that of "
                "what it added to: its addition cannot be rounded.",
                "Leave it out of the selection, or write “x = x + y” in its code.",
            )


def _hand_on(subject: Subject, layers: Iterable[LayerId]) -> bool:
    """Whether the model computes the same with additions of these layers that write nowhere."""
    plain, other = (share_for_running(subject.model) for _ in range(2))
    for layer in layers:
        own = subject.trace.own_operators[layer] or ()
        wanted = _operands(own, lambda one: one.in_place)
        _watch(module_at(other, layer), own, wanted, lambda _at, _x: None)
    with torch.inference_mode():
        results = [tree_leaves(one(*_own_inputs(subject))) for one in (plain, other)]
    return all(
        torch.allclose(one, another, 0, 0, equal_nan=True)
        for one, another in zip(*results, strict=True)
        if isinstance(one, Tensor)
    )


def _own_inputs(subject: Subject) -> tuple[Tensor, ...]:

    inputs: tuple[Tensor, ...] = tree_map_only(Tensor, torch.clone, subject.inputs)
    return inputs


def _named(layer: LayerId) -> str:
    return layer or "the model itself"
