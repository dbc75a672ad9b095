"""Copies of a model that share its tensors.

The one rule of sharing: whatever writes in place takes its own copies first. Edits replace
tensors and never write into them, so that every earlier state keeps its bits.
"""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from engine.edits import StoredTensor
from engine.errors import ModelUnreadable, RecipeMismatch
from engine.integer_layers import bake, is_quantized
from engine.layers import LayerId
from engine.rounded_operators import bake_operators


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with their full names, shared ones once under their first name."""
    seen: set[int] = set()
    for named in (model.named_parameters, model.named_buffers):
        for name, tensor in named(remove_duplicate=True):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor


def share(model: nn.Module, swap: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> nn.Module:
    """A copy of the module tree over the same tensors, or over ``swap(tensor)`` for each.

    Takes time in proportion to the number of modules, and no memory for tensors.

    Raises:
        ModelUnreadable: some module refuses to be copied.
    """
    memo: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers, module.__dict__):
            for tensor in held.values():
                if isinstance(tensor, Tensor) and id(tensor) not in memo:
                    memo[id(tensor)] = swap(tensor)
    try:
        # Children first: the copy of a deep model then recurses no deeper than one module.
        for module in reversed(list(model.modules())):
            _copied(module, memo)
        return _copied(model, memo)
    except (TypeError, RuntimeError, RecursionError) as error:
        raise ModelUnreadable(
            f"The model cannot be copied, which every edit needs: {error}.",
            "Remove what cannot be copied (open files, locks, generators) from its modules.",
        ) from error


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """What ``copy.deepcopy`` makes; of modules that leave it to the default in a fraction of its
    time, most of which goes into the dictionaries of hooks that are not there.
    """
    kind: Any = type(module)
    if id(module) in memo or not _copies_by_default(kind):
        return copy.deepcopy(module, memo)
    made: nn.Module = kind.__new__(kind)
    memo[id(module)] = made
    state = {
        name: type(value)() if name in _EMPTY and not value else copy.deepcopy(value, memo)
        for name, value in module.__getstate__().items()
    }
    made.__setstate__(state)
    return made


_EMPTY = frozenset(name for name, value in vars(nn.Module()).items() if value in ({}, set()))


@lru_cache(1000)
def _copies_by_default(kind: Any) -> bool:
    """Whether ``copy.deepcopy`` copies the state of such a module and does nothing else."""
    return (
        not any(hasattr(kind, name) for name in ("__deepcopy__", "__getnewargs__"))
        and not hasattr(kind, "__getnewargs_ex__")
        and kind.__getstate__ is nn.Module.__getstate__
        and all(
            getattr(kind, name) is getattr(object, name)
            for name in ("__reduce_ex__", "__reduce__", "__new__")
        )
    )


def share_for_running(model: nn.Module, baked: bool = True) -> nn.Module:
    """A copy in evaluation mode that may be run freely: weights shared, all else its own.

    Args:
        baked: whether layers of integer weights take their fast form, of the same numbers.

    A forward that updates buffers (running statistics, caches) then writes into its own copy.
    """
    weights = {id(module.weight) for module in model.modules() if is_quantized(module)}

    def own(tensor: Tensor) -> Tensor:
        fixed = isinstance(tensor, nn.Parameter) or id(tensor) in weights
        return tensor if fixed else tensor.clone()

    copy = share(model, own).eval()
    return _baked(copy) if baked else copy


def _baked(copy: nn.Module) -> nn.Module:
    with torch.no_grad():
        bake(copy)
    bake_operators(copy)
    return copy


def run_as_it_is(model: nn.Module) -> nn.Module:
    """The model itself, a sharing copy of the caller's own, made fit to be run like a copy by
    :func:`share_for_running`.
    """
    own: dict[int, Tensor] = {}
    for module in model.modules():
        for name, tensor in module._buffers.items():
            if tensor is not None and not (name == "weight" and is_quantized(module)):
                module._buffers[name] = own.setdefault(id(tensor), tensor.clone())
    return _baked(model.eval())


def unshared_bytes(model: nn.Module, others: set[int]) -> int:
    """Bytes of storages that ``model`` holds and that are not in ``others``; adds them to it."""
    size = 0
    for _, tensor in tensors_of(model):
        storage = tensor.untyped_storage()
        if storage._cdata not in others:
            others.add(storage._cdata)
            size += storage.nbytes()
    return size


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bits of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors_of(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if not tensor.is_meta:  # else shapes are all that it has
            digest.update(bytes_of(tensor))
    return digest.hexdigest()


def stored_tensor(name: str, tensor: Tensor) -> StoredTensor:
    """The tensor's bits as plain data, for a decision that keeps them."""
    kind = str(tensor.dtype).removeprefix("torch.")
    return StoredTensor(name, kind, tuple(tensor.shape), bytes(bytes_of(tensor)))


def restored_tensor(stored: StoredTensor) -> Tensor:
    """The tensor that was stored, bit by bit.

    Raises:
        RecipeMismatch: its bytes are not those of such a tensor.
    """
    dtype = getattr(torch, stored.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise RecipeMismatch(f"There is no type of numbers called “{stored.dtype}”.")
    if len(stored.data) != prod(stored.shape) * dtype.itemsize:
        raise RecipeMismatch(f"{stored.name} does not have as many bytes as its shape needs.")
    if not stored.data:
        return torch.empty(stored.shape, dtype=dtype)
    return torch.frombuffer(bytearray(stored.data), dtype=dtype).reshape(stored.shape)


def bytes_of(tensor: Tensor) -> memoryview:
    """The bits of a tensor, row-major."""
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return raw.numpy().data


def own_parameter(tensor: Tensor, instead_of: Tensor | None = None) -> nn.Parameter:
    """A parameter over a new tensor, with no history; frozen if the one it replaces was."""
    trains = tensor.is_floating_point() if instead_of is None else instead_of.requires_grad
    return nn.Parameter(tensor.detach(), requires_grad=trains)


def assign_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make these the model's tensors, as they are and all of them.

    Args:
        tensors: named and shaped as the model's own.

    Raises:
        RuntimeError: some are missing, unknown, or of another shape.
    """
    state = OrderedDict(tensors)
    # Modules read from it which layout tensors are in; without it some convert what is no older.
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=True, assign=True)


def replace_module(model: nn.Module, layer: LayerId, module: nn.Module) -> None:
    """Put ``module`` wherever the layer stands in ``model``, under its aliases too."""
    old = model.get_submodule(layer)
    for parent in list(model.modules()):
        # named_children() would leave out a second name under the same parent.
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, module)
