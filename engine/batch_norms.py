"""Batch norms behind other layers: which can go into the weights, and the weights with them in."""

from typing import Any

from torch import Tensor, nn

from engine.layers import LayerId
from engine.operators import OperatorTable
from engine.sharing import own_parameter

FOLDABLE = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip
"""Layers that can take a batch norm in, by exact type: a subclass may compute something else."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_OTHERS = frozenset(
    {
        # With frozen statistics, for detection; with an activation behind, which stays.
        "torchvision.ops.misc.FrozenBatchNorm2d",
        "timm.layers.norm_act.BatchNormAct2d",
        "timm.layers.norm_act.FrozenBatchNormAct2d",
    }
)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether the layer scales and shifts each channel by kept statistics, before all else it does.

    By exact class, whose package need not be there.
    """
    kind = type(module)
    known = kind in _NORMS or f"{kind.__module__}.{kind.__qualname__}" in _OTHERS
    return known and getattr(module, "running_var", None) is not None


def norm_behind(layer: LayerId, model: nn.Module, table: OperatorTable) -> LayerId | None:
    """The batch norm that alone reads this layer's output, as it is; None when there is none."""
    product = table.only_product(layer)
    if product is None:
        return None  # a shared layer: its batch norms differ from call to call
    output = product.outputs[0]
    readers = table.readers(output)
    if len(readers) != 1 or table.is_result(output):
        return None
    reader = readers[0]
    if output.number not in {use.number for use in reader.inputs}:
        return None  # it reads a view, whose channels may be others
    if not is_batch_norm(model.get_submodule(reader.layer)):
        return None
    runs = [one for one in table.of(reader.layer) if one.name == reader.name and one.activations]
    return reader.layer if runs == [reader] else None


def folded(module: nn.Module, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with the batch norm behind them taken in, in the weight's own type.

    In float64 and by exactly rounded operations only (product, sum, quotient, square root), so
    that every machine gets the same bits (Jacob et al., 2018, section 3.2, for the formula).
    """
    weight, bias = _detached(module.weight), _detached(module.bias)
    assert weight is not None
    if norm is None:
        return weight, bias
    gain, mean, shift = _affine(norm)
    moved = (-mean if bias is None else bias.double() - mean) * gain
    if shift is not None:
        moved = moved + shift
    scaled = weight.double() * _by_channel(gain, module)
    return scaled.to(weight.dtype), moved.to(weight.dtype)


def fold(module: Any, norm: nn.Module) -> None:
    """Give the layer, of a copy of the caller's own, the batch norm behind it."""
    weight, bias = folded(module, norm)
    assert bias is not None
    module.weight = own_parameter(weight, module.weight)
    module.bias = own_parameter(bias, module.weight)


def _affine(norm: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gain, mean and shift of each channel, float64."""
    gain = 1 / (norm.running_var.double() + norm.eps).sqrt()
    if norm.weight is not None:
        gain = norm.weight.detach().double() * gain
    shift = None if norm.bias is None else norm.bias.detach().double()
    return gain, norm.running_mean.double(), shift


def _by_channel(gain: Tensor, module: Any) -> Tensor:
    """The gain of each output channel, of a shape that multiplies the weight."""
    axes = module.weight.dim()
    if not getattr(module, "transposed", False):
        return gain.reshape(-1, *(1,) * (axes - 1))
    # (inputs, outputs of a group, …): inputs lie group by group, and so do the gains.
    grouped = gain.reshape(module.groups, -1)
    rows = grouped.repeat_interleave(module.in_channels // module.groups, 0)
    return rows.reshape(*rows.shape, *(1,) * (axes - 2))


def _detached(tensor: Any) -> Tensor | None:
    return None if tensor is None else tensor.detach()
