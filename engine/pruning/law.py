"""The law by which every cut of channels is judged, and the masked models that it compares with.

The law: the pruned model puts out what the unpruned one puts out when the removed channels are
masked where they are read. A normalisation over all channels of a position (layer norm, RMS norm)
reads them too: masked, it normalises over those that stay.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from engine.editing import Subject, module_at
from engine.edits import ChannelSlice
from engine.errors import EditRefused, is_out_of_memory
from engine.integer_layers import IntegerWeights, bake, round_weight
from engine.layers import LayerId
from engine.pruning.shrinking import kept, normalises_channels, shrink, shrink_layer
from engine.pruning.unchanged import Unchanged
from engine.rounded_operators import bake_operators
from engine.sharing import own_parameter, replace_module, share, share_for_running

LAW_TOLERANCE = 1e-3
"""Largest difference allowed between pruned and masked outputs, as a share of the largest one.

Float32 sums in another order differ by far less; a wrong coupling by far more.
"""


def masked(model: nn.Module, slices: Iterable[ChannelSlice]) -> nn.Module:
    """A copy of the same shapes that is blind to the removed channels, wherever they are read.

    The columns that read them are zero, and what writes them, for where no layer reads (queries and
    keys, sums whose range decides how they are rounded); a norm over the channels is one over those
    that stay.
    """
    copy = share(model)
    _mask(copy, slices)
    return copy


def _mask(copy: nn.Module, slices: Iterable[ChannelSlice]) -> None:
    for one in sorted(slices, key=lambda one: one.side == "in"):  # readers may be wrapped
        if one.side == "parameter":
            parent, _, name = one.layer.rpartition(".")
            _zero(copy.get_submodule(parent), name, one.removed, one.dim)
            continue
        module = module_at(copy, one.layer)
        if normalises_channels(module):
            replace_module(copy, one.layer, _NormOfKept(module, one))
        elif one.side == "in":
            _blind(module, one.removed)
            if _sees_range(module):
                replace_module(copy, one.layer, _ReadsKept(module, one))
        elif isinstance(module, nn.Linear | _ConvNd):
            _mute(module, one.removed)
        elif isinstance(module, _BatchNorm):
            _silence(module, one.removed)


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
    for one in (pruned, blind):
        bake(one)
        bake_operators(one)
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


# Masking


def _zero(module: nn.Module, name: str, indices: Sequence[int], dim: int) -> None:
    tensor: Tensor = getattr(module, name)
    nothing = _nothing(module) if name == "weight" else torch.zeros_like(tensor)
    places = torch.tensor(indices, device=tensor.device)
    blind = tensor.detach().index_copy(dim, places, nothing.index_select(dim, places))
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
    grouped, nothing = (
        one.view(module.groups, -1, *weight.shape[1:]) for one in (weight, _nothing(module))
    )
    for index in indices:
        place = index // columns, slice(None), index % columns
        grouped[place] = nothing[place]
    _replace(module, "weight", weight)


def _nothing(module: nn.Module) -> Tensor:
    """A weight of the layer's own type that stands for zeros."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    if isinstance(module, IntegerWeights):
        form, zeros = module.weight_format, torch.zeros(weight.shape)
        return round_weight(zeros, form, module.weight_scale, module.weight_zero_point)
    return torch.zeros_like(weight).detach()


def _mute(module: nn.Linear | _ConvNd, indices: Sequence[int]) -> None:
    """Let the layer put zeros out on these channels."""
    transposed = isinstance(module, _ConvNd) and module.transposed
    if not transposed:
        _zero(module, "weight", indices, 0)
    elif module.groups == 1:
        _zero(module, "weight", indices, 1)
    if module.bias is not None:
        _zero(module, "bias", indices, 0)


def _silence(norm: _BatchNorm, indices: Sequence[int]) -> None:
    """Let the batch norm put zeros out on these channels."""
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None:
            _zero(norm, name, indices, 0)


def _sees_range(module: nn.Module) -> bool:
    """Whether even what the layer's weights are blind to decides how its input is rounded."""
    grid = module.input_grid if isinstance(module, IntegerWeights) else None
    return grid is not None and grid.scale is None


class _ReadsKept(nn.Module):
    """A layer whose input is 0 on the removed channels, which leaves its range to the others."""

    def __init__(self, layer: nn.Module, one: ChannelSlice) -> None:
        super().__init__()
        self._axis = -1 if isinstance(layer, nn.Linear) else 1
        self._layer = layer
        self.register_buffer("_removed", torch.tensor(one.removed), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        removed: Tensor = self._removed  # type: ignore[assignment]
        out: Tensor = self._layer(x.index_fill(self._axis, removed, 0.0))
        return out


class _NormOfKept(nn.Module):
    """A norm over the channels that stay; the others it leaves at 0."""

    def __init__(self, norm: nn.Module, one: ChannelSlice) -> None:
        super().__init__()
        # Others than torch's own put the channels where convolutions have them.
        plain = type(norm).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward)
        self._axis = -1 if plain else 1
        self._of = one.of
        self._norm = norm
        keep = kept(one)
        self.register_buffer("_keep", keep, persistent=False)
        shrink_layer(norm, "out", keep)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised where channels stay, of the same shape."""
        keep: Tensor = self._keep  # type: ignore[assignment]
        axis = self._axis if x.shape[self._axis] == self._of else -1
        normed = self._norm(x.index_select(axis, keep))
        return x.new_zeros(x.shape, dtype=normed.dtype).index_copy(axis, keep, normed)
