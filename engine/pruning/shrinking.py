"""Channels cut out of layers."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from engine.editing import module_at
from engine.edits import ChannelSlice
from engine.errors import RecipeMismatch
from engine.integer_layers import IntegerWeights
from engine.sharing import own_parameter


def is_depthwise(module: nn.Module) -> bool:
    """Whether each output channel of a convolution reads one input channel of its own."""
    return (
        isinstance(module, _ConvNd)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def normalises_channels(module: nn.Module) -> bool:
    """Whether it is a norm over one axis, all channels of a position at once."""
    shape = getattr(module, "normalized_shape", None)
    return isinstance(shape, tuple) and len(shape) == 1


def width(module: nn.Module, side: str) -> int:
    """Channels on one side of a layer that can lose some; 0: a layer of another kind."""
    if isinstance(module, nn.Linear):
        return module.out_features if side == "out" else module.in_features
    if isinstance(module, _ConvNd):
        return module.out_channels if side == "out" else module.in_channels
    if normalises_channels(module):
        return int(module.normalized_shape[0])  # type: ignore[index]
    for name in ("num_features", "num_channels", "num_parameters", "embedding_dim"):
        if isinstance(count := getattr(module, name, None), int):
            return count
    return 0


def shrink(model: nn.Module, slices: Iterable[ChannelSlice]) -> None:
    """Replace the tensors of every slice by smaller ones, the layers' hyperparameters following.

    Args:
        model: a sharing copy; tied tensors stay tied.

    Raises:
        RecipeMismatch: a slice was cut for a layer of another size.
    """
    slices = tuple(slices)
    for one in slices:
        _check_fit(one, model)
    cutter = _Cutter()
    for one in slices:
        if one.side == "parameter":
            parent, _, name = one.layer.rpartition(".")
            cutter.cut(model.get_submodule(parent), name, kept(one), one.dim)
        else:
            cutter.shrink(module_at(model, one.layer), one.side, kept(one))


def _check_fit(one: ChannelSlice, model: nn.Module) -> None:
    """Refuse a slice from a file that was cut for a layer of another size."""
    if one.side == "parameter":
        parent, _, name = one.layer.rpartition(".")
        of, unit = getattr(model.get_submodule(parent), name).shape[one.dim], 1
    else:
        module = module_at(model, one.layer)
        of = width(module, one.side)
        if not of:
            raise RecipeMismatch(
                f"{one.layer or 'The model'} ({type(module).__name__}) has no channels to remove."
            )
        unit = _unit(module, of)
    fits = of == one.of and len(set(one.removed)) < of and max(one.removed, default=0) < of
    if not fits or not _is_of_whole(one.removed, unit):
        raise RecipeMismatch(
            f"{len(one.removed)} of {one.of} channels cannot be removed from {one.layer}, "
            f"which has {of}{f' in groups of {unit}' if 1 < unit < of else ''}."
        )


def _unit(module: nn.Module, of: int) -> int:
    """How many of its channels can only go together."""
    if isinstance(module, _ConvNd) and module.groups > 1:
        return of // module.groups
    return of // module.num_groups if isinstance(module, nn.GroupNorm) else 1


def _is_of_whole(removed: Sequence[int], unit: int) -> bool:
    if unit <= 1 or not removed:
        return True
    groups = {index // unit for index in removed}
    return len(removed) == unit * len(groups)


def kept(one: ChannelSlice) -> Tensor:
    """Sorted indices of the channels that stay."""
    keep = torch.ones(one.of, dtype=torch.bool)
    keep[list(one.removed)] = False
    return keep.nonzero().flatten()


def shrink_layer(module: nn.Module, side: str, keep: Tensor) -> None:
    """Keep only some channels on one side of a layer, of a copy of the caller's own."""
    _Cutter().shrink(module, side, keep)


def _reads_all(module: Any) -> bool:
    """Whether each output channel reads every input channel."""
    return getattr(module, "groups", 1) == 1


def regrouped(module: IntegerWeights, keep: Tensor) -> tuple[int, Tensor]:
    """The largest groups that the weights of these input channels have with the scales they had.

    Returns:
        Weights in a group, and for each group of a row the one before whose scale it takes.
    """
    size = module.weight_format.group_size
    columns = torch.arange(module.weight[0].numel()).view(module.weight.shape[1], -1)
    before = columns[keep].flatten() // size
    for fewer in range(min(size, len(before)), 1, -1):
        if len(before) % fewer == 0:
            groups = before.view(-1, fewer)
            if bool((groups == groups[:, :1]).all()):
                return fewer, groups[:, 0]
    return 1, before


class _Cutter:
    """Cuts layers of one model, and tied tensors once."""

    def __init__(self) -> None:
        # The tensors cut are kept beside their parts: an id would name another one otherwise.
        self._parts: dict[tuple[int, int, tuple[int, ...]], tuple[Tensor, Tensor]] = {}

    def cut(self, module: nn.Module, name: str, keep: Tensor, dim: int) -> None:
        """Replace one tensor of the module by its kept part; absent tensors stay absent."""
        tensor = getattr(module, name, None)
        if tensor is None:
            return
        key = id(tensor), dim, tuple(keep.tolist())
        if key not in self._parts:
            part = tensor.detach().index_select(dim, keep.to(tensor.device))
            if isinstance(tensor, nn.Parameter):
                part = own_parameter(part, tensor)
            self._parts[key] = tensor, part
        setattr(module, name, self._parts[key][1])

    def shrink(self, module: nn.Module, side: str, keep: Tensor) -> None:
        """Keep only some channels on one side of a layer, its hyperparameters following."""
        if isinstance(module, IntegerWeights):
            self._shrink_grid(module, side, keep)
        if isinstance(module, nn.Linear):
            self._shrink_linear(module, side, keep)
        elif isinstance(module, _ConvNd):
            self._shrink_convolution(module, side, keep)
        elif isinstance(module, nn.Embedding):
            self.cut(module, "weight", keep, 1)
            module.embedding_dim = len(keep)
        else:
            self._shrink_norm(module, keep)

    def _shrink_grid(self, module: IntegerWeights, side: str, keep: Tensor) -> None:
        """Keep the scales of what stays; a group that loses weights becomes several smaller ones,
        of the same scale, so that every weight stays what it is.
        """
        names = ("weight_scale", "weight_zero_point")
        if side == "out" and module.weight_scale.dim():
            for name in names:
                self.cut(module, name, keep, 0)  # type: ignore[arg-type]  # a module as well
        if side == "out" or not module.weight_format.group_size or not _reads_all(module):
            return
        size, groups = regrouped(module, keep)
        for name in names:
            setattr(module, name, getattr(module, name).index_select(1, groups))
        module.weight_format = replace(module.weight_format, group_size=size)

    def _shrink_linear(self, module: nn.Linear, side: str, keep: Tensor) -> None:
        self.cut(module, "weight", keep, 0 if side == "out" else 1)
        if side == "out":
            self.cut(module, "bias", keep, 0)
            module.out_features = len(keep)
        else:
            module.in_features = len(keep)

    def _shrink_convolution(self, module: _ConvNd, side: str, keep: Tensor) -> None:
        if is_depthwise(module):
            self.cut(module, "weight", keep, 0)
            self.cut(module, "bias", keep, 0)
            module.in_channels = module.out_channels = module.groups = len(keep)
            return
        axis = int((side == "in") != module.transposed)
        if module.groups == 1 or axis == 0:  # of whole groups, axis 1 keeps its size
            self.cut(module, "weight", keep, axis)
        if module.groups > 1 and axis == 1:
            module.groups = len(keep) // module.weight.shape[1]
        if side == "out":
            self.cut(module, "bias", keep, 0)
            module.out_channels = len(keep)
        else:
            module.in_channels = len(keep)

    def _shrink_norm(self, module: nn.Module, keep: Tensor) -> None:
        """One value a channel: all norms, and PReLU."""
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.cut(module, name, keep, 0)
        if normalises_channels(module):
            module.normalized_shape = (len(keep),)  # type: ignore[assignment]
        elif isinstance(module, nn.GroupNorm):
            module.num_groups = len(keep) * module.num_groups // module.num_channels
            module.num_channels = len(keep)
        elif isinstance(module, nn.PReLU):
            module.num_parameters = len(keep)
        else:
            module.num_features = len(keep)  # type: ignore[assignment]
