"""Channels cut out of layers, and the law by which every cut is judged.

The law: the pruned model puts out what the unpruned one puts out when the removed channels are
masked where they are read. A normalisation over all channels of a position (layer norm, RMS norm)
reads them too: masked, it normalises over those that stay.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from engine.editing import Subject, module_at
from engine.edits import ChannelSlice
from engine.errors import EditRefused, RecipeMismatch, is_out_of_memory
from engine.integer_layers import bake, is_quantized
from engine.layers import LayerId
from engine.pruning.unchanged import Unchanged
from engine.sharing import own_parameter, replace_module, share, share_for_running

LAW_TOLERANCE = 1e-3
"""Largest difference allowed between pruned and masked outputs, as a share of the largest one.

Float32 sums in another order differ by far less; a wrong coupling by far more.
"""


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
            cutter.cut(model.get_submodule(parent), name, _kept(one), one.dim)
        else:
            cutter.shrink(module_at(model, one.layer), one.side, _kept(one))


def masked(model: nn.Module, slices: Iterable[ChannelSlice]) -> nn.Module:
    """A copy of the same shapes that is blind to the removed channels, wherever they are read.

    The columns that read them are zero, and the rows that write them, for where no layer reads
    (queries and keys); a norm over the channels is one over those that stay.
    """
    copy = share(model)
    _mask(copy, slices)
    return copy


def _mask(copy: nn.Module, slices: Iterable[ChannelSlice]) -> None:
    for one in slices:
        if one.side == "parameter":
            parent, _, name = one.layer.rpartition(".")
            _zero(copy.get_submodule(parent), name, one.removed, one.dim)
            continue
        module = module_at(copy, one.layer)
        if normalises_channels(module):
            replace_module(copy, one.layer, _NormOfKept(module, one))
        elif one.side == "in":
            _blind(module, one.removed)
        elif isinstance(module, nn.Linear | _ConvNd):
            _mute(module, one.removed)


def check_law(slices: Sequence[ChannelSlice], subject: Subject) -> None:
    """Run the pruned and the masked model on the sample input and compare them.

    A model that no longer runs, or puts out other shapes, passes here: that is refused, in words,
    when its shapes are validated.

    Raises:
        EditRefused: they differ, so that the channels were not coupled rightly.
    """
    if any(one.is_meta for one in subject.model.parameters()):
        return  # nothing can be computed: shapes are all that will be checked
    pruned, blind = (share_for_running(subject.model, baked=False) for _ in range(2))
    shrink(pruned, slices)
    _mask(blind, slices)
    bake(pruned)
    bake(blind)
    unchanged = Unchanged(map(_owner, slices))
    unchanged.keep_of(pruned)
    with torch.inference_mode():
        try:
            smaller = list(_floats(pruned(*subject.inputs)))
        except RuntimeError as failure:
            if is_out_of_memory(failure):
                raise
            return
        unchanged.reuse_in(blind)
        larger = list(_floats(blind(*subject.inputs)))
    if [one.shape for one in smaller] != [one.shape for one in larger]:
        return
    for got, wanted in zip(smaller, larger, strict=True):
        if not wanted.numel():  # a detector that found nothing
            continue
        scale = float(wanted.abs().max())
        error = float((got - wanted).abs().max())
        if not error <= _tolerance(subject.model) * scale + 1e-9:
            raise EditRefused(
                f"The channels coupled to {slices[0].layer} were not found rightly: "
                f"the pruned model is off by {error:.3g} of {scale:.3g}.",
                "Prune single weights of these layers instead, or quantize them.",
            )


def _owner(one: ChannelSlice) -> LayerId:
    return LayerId(one.layer.rpartition(".")[0]) if one.side == "parameter" else one.layer


def _tolerance(model: nn.Module) -> float:
    """The law's tolerance, or a few roundings where the model computes in 16 bits."""
    floats = (one.dtype for one in model.parameters() if one.is_floating_point())
    return max(LAW_TOLERANCE, *(4 * torch.finfo(one).eps for one in set(floats)))


def _floats(output: object) -> Iterator[Tensor]:
    for leaf in torch.utils._pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            yield leaf


# Cutting


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


def _kept(one: ChannelSlice) -> Tensor:
    keep = torch.ones(one.of, dtype=torch.bool)
    keep[list(one.removed)] = False
    return keep.nonzero().flatten()


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
        if side == "out" and is_quantized(module):
            self.cut(module, "weight_scale", keep, 0)
            self.cut(module, "weight_zero_point", keep, 0)
        if isinstance(module, nn.Linear):
            self._shrink_linear(module, side, keep)
        elif isinstance(module, _ConvNd):
            self._shrink_convolution(module, side, keep)
        elif isinstance(module, nn.Embedding):
            self.cut(module, "weight", keep, 1)
            module.embedding_dim = len(keep)
        else:
            self._shrink_norm(module, keep)

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


# Masking


def _zero(module: nn.Module, name: str, indices: Sequence[int], dim: int) -> None:
    tensor: Tensor = getattr(module, name)
    blind = tensor.detach().index_fill(dim, torch.tensor(indices, device=tensor.device), 0)
    _replace(module, name, blind)


def _replace(module: nn.Module, name: str, tensor: Tensor) -> None:
    old = getattr(module, name)
    setattr(module, name, own_parameter(tensor, old) if isinstance(old, nn.Parameter) else tensor)


def _blind(module: nn.Module, indices: Sequence[int]) -> None:
    """Let the layer read nothing from these input channels."""
    if not isinstance(module, _ConvNd) or module.groups == 1 or module.transposed:
        transposed = isinstance(module, _ConvNd) and module.transposed
        _zero(module, "weight", indices, 0 if transposed else 1)
        return
    weight = module.weight.detach().clone()
    columns = weight.shape[1]
    grouped = weight.view(module.groups, -1, *weight.shape[1:])
    for index in indices:
        grouped[index // columns, :, index % columns] = 0
    _replace(module, "weight", weight)


def _mute(module: nn.Linear | _ConvNd, indices: Sequence[int]) -> None:
    """Let the layer put zeros out on these channels."""
    transposed = isinstance(module, _ConvNd) and module.transposed
    if not transposed:
        _zero(module, "weight", indices, 0)
    elif module.groups == 1:
        _zero(module, "weight", indices, 1)
    if module.bias is not None:
        _zero(module, "bias", indices, 0)


class _NormOfKept(nn.Module):
    """A norm over the channels that stay; the others it leaves at 0."""

    def __init__(self, norm: nn.Module, one: ChannelSlice) -> None:
        super().__init__()
        # Others than torch's own put the channels where convolutions have them.
        plain = type(norm).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward)
        self._axis = -1 if plain else 1
        self._of = one.of
        self._norm = norm
        keep = _kept(one)
        self.register_buffer("_keep", keep, persistent=False)
        _Cutter().shrink(norm, "out", keep)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised where channels stay, of the same shape."""
        keep: Tensor = self._keep  # type: ignore[assignment]
        axis = self._axis if x.shape[self._axis] == self._of else -1
        normed = self._norm(x.index_select(axis, keep))
        return x.new_zeros(x.shape, dtype=normed.dtype).index_copy(axis, keep, normed)
