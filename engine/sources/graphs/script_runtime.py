"""What text made from TorchScript calls: the operators of its interpreter that torch lacks.

Numbers stay numbers here: traced code turns sizes into tensors and back, which fakes cannot follow.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_NUMBERS = {
    torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4,
    torch.float16: 5, torch.float32: 6, torch.float64: 7, torch.complex32: 8,
    torch.complex64: 9, torch.complex128: 10, torch.bool: 11, torch.bfloat16: 15,
}  # fmt: skip
"""As TorchScript counts the types."""


def dtype_number(tensor: Tensor) -> int:
    """The tensor's type as TorchScript has it."""
    return _NUMBERS[tensor.dtype]


def arithmetic(
    plain: Callable[..., Any], tensors: Callable[..., Any], *values: Any, **settings: Any
) -> Any:
    """``tensors`` of all, or ``plain`` of the first values where none is a tensor."""
    if any(isinstance(one, Tensor) for one in values):
        return tensors(*values, **settings)
    return plain(*values[: 1 if plain in _UNARY else 2])


def whole(value: Any) -> Any:
    """The whole number; sizes that torch.export keeps open stay open."""
    return value if isinstance(value, torch.SymInt) else int(value)


_UNARY: tuple[Callable[..., Any], ...] = (
    operator.neg, whole, float, bool, math.floor, math.ceil,
)  # fmt: skip


def first_of(values: Any, index: int) -> Any:
    """The element, however the index is counted."""
    return values[index]


def sliced(values: Any, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    """A part of a list or a text."""
    return values[start:end:step]


def range_length(low: int, high: int, step: int) -> int:
    """How often a loop from ``low`` to below ``high`` runs."""
    return len(range(low, high, step))


def subtracted(one: Any, other: Any) -> Any:
    """A difference, its second part first."""
    return other - one


def divided(one: Any, other: Any) -> float:
    """A quotient of two numbers."""
    return float(one) / float(other)


def fail(message: Any, *_: Any) -> None:
    """Raise what the original raised."""
    raise RuntimeError(str(message))


def nothing(*_: Any) -> None:
    """Warnings and prints are not repeated."""
