"""A tensor without numbers, in the place of one that nobody is to need.

Whatever is computed from it is absent as well, and it turns into numbers nowhere: a mistake about
what is needed ends in an error or in an absent result, never in a wrong one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


@dataclass(frozen=True, slots=True)
class Form:
    """All of a tensor but its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> "Form":
        """That of a tensor."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)


class Absent(Tensor):
    """A tensor that has a form and no numbers."""

    form: Form

    @staticmethod
    def __new__(cls, form: Form) -> "Absent":
        made: Absent = Tensor._make_wrapper_subclass(
            cls, form.shape, strides=form.stride, dtype=form.dtype, device=form.device
        )
        made.form = form
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The form of what the operator would give.

        Raises:
            RuntimeError: it would change the form of a tensor, or fill one with what is absent.
        """
        arguments = (args, kwargs or {})
        device = next(one.form.device for one in tree_leaves(arguments) if isinstance(one, Absent))
        if func._schema.is_mutable:
            return _written(func, args)
        made = func(*tree_map_only(Tensor, _meta, arguments[0]), **_on_meta(arguments[1]))
        return tree_map_only(
            Tensor,
            lambda one: Absent(Form(tuple(one.shape), one.stride(), one.dtype, device)),
            made,
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Absent({self.form})"


def has_absent(outputs: Any) -> bool:
    """Whether a tensor without numbers is among these."""
    return any(isinstance(leaf, Absent) for leaf in tree_leaves(outputs))


def _written(func: Any, args: Any) -> Any:
    """Writing in place leaves an absent tensor as it is."""
    written = [
        one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments
    ]
    target = args[0] if args else None
    first_alone = written[:1] == [True] and not any(written[1:])
    if not (first_alone and isinstance(target, Absent)) or torch.Tag.inplace_view in func.tags:
        raise RuntimeError(f"{func} would write what is absent")
    return target


def _meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _on_meta(kwargs: dict[str, Any]) -> dict[str, Any]:
    moved = {key: torch.device("meta") for key in ("device",) if kwargs.get(key) is not None}
    return {**tree_map_only(Tensor, _meta, kwargs), **moved}
