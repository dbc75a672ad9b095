"""Products and additions in a layer's own code, with operands that are rounded to integers.

    residual   ── quantize ── dequantize ──┐
    branch     ── quantize ── dequantize ──┴── + ── output

Such a layer keeps its class, its tensors and its code: its forward runs under a
``TorchFunctionMode`` that rounds the operands of the calls which the code itself makes. What the
layers below it do, they do as ever.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.edits import RoundedOperator
from engine.errors import ForwardFailed
from engine.integer_layers import round_input

Change: TypeAlias = Callable[[int, Tensor], Tensor]
"""Number of an operand, and the operand, to what stands for it."""

Name: TypeAlias = Literal["add", "matmul"]

_aten = torch.ops.aten
_Kind: TypeAlias = Literal["add", "matmul", "baddbmm", "einsum", "attention"]
_KINDS: dict[Any, _Kind] = {
    **dict.fromkeys(
        (
            torch.add, Tensor.add, Tensor.add_, _aten.add, _aten.add.Tensor,
            _aten.add_, _aten.add_.Tensor,
        ), "add",
    ),
    **dict.fromkeys(
        (
            torch.matmul, torch.bmm, torch.mm, Tensor.matmul, Tensor.bmm, Tensor.mm,
            _aten.matmul, _aten.matmul.default, _aten.bmm, _aten.bmm.default,
            _aten.mm, _aten.mm.default,
        ), "matmul",
    ),
    **dict.fromkeys(
        (torch.baddbmm, Tensor.baddbmm, _aten.baddbmm, _aten.baddbmm.default), "baddbmm"
    ),
    **dict.fromkeys((torch.einsum, _aten.einsum, _aten.einsum.default), "einsum"),
    **dict.fromkeys(
        (
            F.scaled_dot_product_attention, _aten.scaled_dot_product_attention,
            _aten.scaled_dot_product_attention.default,
        ), "attention",
    ),
}  # fmt: skip
_IN_PLACE = frozenset({Tensor.add_, _aten.add_, _aten.add_.Tensor})
_PLACES: dict[_Kind, tuple[tuple[int, frozenset[str]], ...]] = {
    "add": ((0, frozenset({"input", "self"})), (1, frozenset({"other"}))),
    "matmul": ((0, frozenset({"input", "self"})), (1, frozenset({"other", "mat2"}))),
    "baddbmm": ((1, frozenset({"batch1"})), (2, frozenset({"batch2"}))),
    "attention": ((0, frozenset({"query"})), (1, frozenset({"key"})), (2, frozenset({"value"}))),
}
"""Where the operands stand among a function's arguments, and their names there."""


@dataclass(frozen=True)
class OperatorCall:
    """A call of a function that adds two float tensors, or multiplies matrices of them.

    Attributes:
        operands: those that are given; attention has one more, its weights.
        in_place: whether the first operand is written into.
    """

    function: Any
    kind: _Kind
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    operands: tuple[Tensor, ...]

    @property
    def names(self) -> tuple[Name, ...]:
        """The operators that it comes down to, each of two operands."""
        if self.kind == "attention":
            return "matmul", "matmul"
        return ("add",) if self.kind == "add" else ("matmul",)

    @property
    def in_place(self) -> bool:
        """Whether it writes into its first operand."""
        return self.function in _IN_PLACE

    def plain(self) -> Any:
        """What it gives."""
        return self.function(*self.args, **self.kwargs)

    def changed(self, change: Change) -> Tensor:
        """What it gives with other operands; what it would write into is left as it is."""
        new = [change(at, one) for at, one in enumerate(self.operands[:2])]
        result: Tensor
        if self.kind == "einsum":
            result = torch.einsum(self.args[0], *new)
            return result
        if self.kind == "attention":
            return _attention(new[0], new[1], self.operands[2], change, *_rest(self))
        args, kwargs = list(self.args), dict(self.kwargs)
        for (at, names), one in zip(_PLACES[self.kind], new, strict=True):
            if at < len(args):
                args[at] = one
            else:
                kwargs[next(name for name in names if name in kwargs)] = one
        result = (torch.add if self.in_place else self.function)(*args, **kwargs)
        return result


def operator_call(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> OperatorCall | None:
    """The call of a function of torch as such; None for a call of anything else.

    Whether it is one depends on the code alone, and never on shapes or numbers.
    """
    kind = _KINDS.get(function)
    if kind is None or "out" in kwargs:
        return None
    operands = _einsum_operands(args) if kind == "einsum" else _operands(kind, args, kwargs)
    wanted = 3 if kind == "attention" else 2
    if len(operands) != wanted or not all(map(_is_float, operands)):
        return None
    return OperatorCall(function, kind, args, kwargs, tuple(operands))


def _is_float(operand: Any) -> bool:
    return isinstance(operand, Tensor) and operand.dim() > 0 and operand.is_floating_point()


def _operands(kind: _Kind, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for at, names in _PLACES[kind]:
        named = [kwargs[name] for name in names if name in kwargs]
        found.extend(args[at : at + 1] or named)
    return found


def _einsum_operands(args: tuple[Any, ...]) -> list[Any]:
    if len(args) < 2 or not isinstance(args[0], str):
        return []
    given = args[1:]
    return list(given[0]) if isinstance(given[0], list | tuple) else list(given)


def _rest(call: OperatorCall) -> tuple[Any, ...]:
    """Mask, dropout, whether causal, scale and whether heads share keys."""
    names = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    defaults = (None, 0.0, False, None, False)
    given = dict(zip(names, call.args[3:], strict=False)) | dict(call.kwargs)
    return tuple(given.get(*pair) for pair in zip(names, defaults, strict=True))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    change: Change,
    mask: Tensor | None,
    dropout: float,
    is_causal: bool,
    scale: float | None,
    shares_keys: bool,
) -> Tensor:
    """Scaled dot-product attention by its two products; (…, L, E) of queries to (…, L, E')."""
    value = change(3, value)
    if shares_keys:
        times = query.shape[-3] // key.shape[-3]
        key, value = (one.repeat_interleave(times, -3) for one in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        weights = scores.softmax(-1)
    else:
        hidden = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else None
        # A row in which nobody may look is 0, as in torch's own.
        weights = _aten._safe_softmax(scores + mask if hidden is None else hidden, -1)
    weights = change(2, weights)
    return (F.dropout(weights, dropout) if dropout else weights) @ value


# Whose call it is


_CALL = nn.Module._call_impl.__code__


class _Own(TorchFunctionMode):
    """Sees the operators that one run of a layer's own code calls, in order.

    Args:
        names: the operators that it is known to call.
        change: what is done with each operand; they are numbered through all operators.
        wanted: numbers of those that something is done with.
    """

    def __init__(
        self, layer: str, names: tuple[Name, ...], wanted: frozenset[int], change: Change
    ) -> None:
        super().__init__()
        self._layer = layer
        self._names = names
        self._wanted = wanted
        self._change = change
        self._count = 0

    def run(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What the forward gives.

        Raises:
            ForwardFailed: it does not call the operators that it is known to call.
        """
        self._frame: FrameType | None = sys._getframe()
        try:
            with self:
                output = forward(*args, **kwargs)
        finally:
            self._frame = None  # which holds this mode
        if self._count != len(self._names):
            raise self._otherwise()
        return output

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = operator_call(func, args, kwargs or {})
        if call is None or not self._is_own():
            return func(*args, **(kwargs or {}))
        first, self._count = self._count, self._count + len(call.names)
        if self._names[first : self._count] != call.names:
            raise self._otherwise()
        if not self._wanted.intersection(range(2 * first, 2 * self._count)):
            return call.plain()

        def change(number: int, operand: Tensor) -> Tensor:
            number += 2 * first
            return self._change(number, operand) if number in self._wanted else operand

        return call.changed(change)

    def _is_own(self) -> bool:
        """Whether no other layer was called in between: the stack tells, whoever called it.

        Wrapping the layers below would miss those that are called by other ways, and would have to
        be undone before anybody copies them.
        """
        frame = sys._getframe(2)
        while frame is not self._frame:
            if frame.f_code is _CALL or frame.f_back is None:
                return False
            frame = frame.f_back
        return True

    def _otherwise(self) -> ForwardFailed:
        return ForwardFailed(
            f"{self._layer} adds or multiplies activations otherwise than when its operators were "
            "quantized: what its code calls depends on its input."
        )


# The layers


class RoundedOperators:
    """What layers with rounded operators of their own share; they are subclasses of their class.

    Attributes:
        operators: in the order in which the code calls them, those that stay in float among them.
    """

    operators: tuple[RoundedOperator, ...]
    _fused_operators: bool = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer takes to what it gives."""
        grids = [grid for one in self.operators for grid in one.inputs]
        names = tuple(one.name for one in self.operators)
        wanted = frozenset(at for at, grid in enumerate(grids) if grid is not None)
        fused = self._fused_operators

        def change(number: int, operand: Tensor) -> Tensor:
            return round_input(operand, grids[number], fused)

        forward = super().forward  # type: ignore[misc]
        return _Own(type(self).__name__, names, wanted, change).run(forward, args, kwargs)

    def bake(self) -> None:
        """Round by one fused operator from now on, of the same numbers."""
        self._fused_operators = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copied and pickled by the layer's own class, as this one is in no module."""
        reduced: Any = super().__reduce_ex__(protocol)
        made, args, *rest = reduced
        own = plain_class(self)
        return _made_again, (made, tuple(own if one is type(self) else one for one in args)), *rest


class _Watched(RoundedOperators):
    """Shows the operands of its operators, and gives what it always gave."""

    _told: tuple[tuple[Name, ...], frozenset[int], Callable[[int, Tensor], None]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer takes to what it gives."""
        names, wanted, see = self._told

        def change(number: int, operand: Tensor) -> Tensor:
            see(number, operand)
            return operand

        forward = super(RoundedOperators, self).forward  # type: ignore[misc]
        return _Own(type(self).__name__, names, wanted, change).run(forward, args, kwargs)


def round_operators(module: nn.Module, operators: tuple[RoundedOperator, ...]) -> None:
    """Make a layer, of a copy of the caller's own, round these operators of its own code.

    Args:
        module: such that :func:`why_not_rounded` knows no reason.
        operators: all that its code calls, as :attr:`engine.tracing.Trace.own_operators` has them.
    """
    changed: Any = module
    changed.__class__ = _class_over(RoundedOperators, plain_class(module))
    changed.operators = operators


def watch_operators(
    module: nn.Module,
    names: tuple[Name, ...],
    wanted: frozenset[int],
    see: Callable[[int, Tensor], None],
) -> None:
    """Make a layer, of a copy of the caller's own, show operands whenever it runs.

    Args:
        names: of all operators that its code calls.
        wanted: numbers of the operands to show, counted through all operators.
        see: is given the number and the operand.
    """
    changed: Any = module
    changed.__class__ = _class_over(_Watched, plain_class(module))
    changed._told = names, wanted, see


def without_rounded_operators(model: nn.Module) -> None:
    """Give every layer in ``model``, a copy of the caller's own, its plain operators back."""
    for module in model.modules():
        if isinstance(module, RoundedOperators):
            changed: Any = module
            changed.__class__ = plain_class(module)


def bake_operators(model: nn.Module) -> None:
    """Bake every layer of rounded operators in ``model``, a copy of the caller's own."""
    for module in model.modules():
        if isinstance(module, RoundedOperators):
            module.bake()


def plain_class(module: Any) -> type[Any]:
    """The class that the layer has without rounded operators."""
    kind = type(module)
    return kind.__mro__[2 + (kind.__mro__[1] is _Watched)] if _is_made(kind) else kind


def why_not_rounded(module: nn.Module) -> str:
    """Why the operators of a layer's code cannot be rounded, in half a sentence; "" if they can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "is a script, whose operators nobody can reach"
    if "forward" in vars(module):
        return "runs a forward that was put in the place of its own"
    if hasattr(type(module), "__deepcopy__"):
        return "copies itself in a way of its own"
    return ""


def _is_made(kind: type[Any]) -> bool:
    return issubclass(kind, RoundedOperators)


_CLASSES: dict[tuple[type[Any], type[Any]], type[Any]] = {}


def _class_over(rounded: type[Any], kind: type[Any]) -> type[Any]:
    if (rounded, kind) not in _CLASSES:
        # Known by the same name: what knows classes by their names knows this one as well.
        told = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        _CLASSES[rounded, kind] = type(kind.__name__, (rounded, kind), told)
    return _CLASSES[rounded, kind]


def _made_again(made: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """A layer of rounded operators without its state, which follows."""
    module = made(*args)
    module.__class__ = _class_over(RoundedOperators, type(module))
    return module
