"""The layer of ``torch.nn`` that does exactly what one recorded operator does.

An operator over parameters of its own becomes the layer that those who edit know: a convolution
that can lose channels instead of a call of ``aten.conv2d``.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn


class _Input:
    """Marks the one argument that is computed, not stored."""


INPUT: Final = _Input()

Arguments = Mapping[str, Any]
"""By the names in the operator's schema, defaults included; stored tensors as they are."""


def layer_for(operator: str, arguments: Arguments, dims: int | None = None) -> nn.Module | None:
    """The layer that computes the operator on its one input, over the same tensors.

    Args:
        operator: without namespace and overload, such as ``conv2d``.
        arguments: :data:`INPUT` stands for the layer's input.
        dims: of the input, where known; normalisation layers are told apart by it.

    Returns:
        None when no layer does just that.
    """
    make = _MAKERS.get(operator.removesuffix("_"))
    if make is None or sum(one is INPUT for one in arguments.values()) != 1:
        return None
    try:
        made = make(operator, arguments, dims)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # not a layer's kind
        return None
    if made is None or any(one.is_meta for one in (*made.parameters(), *made.buffers())):
        return None
    return made.eval()


def layer_holding(parameters: Mapping[str, Tensor | None]) -> nn.Module | None:
    """The layer that keeps a product's weight and bias for a parent that reads them itself.

    Attention does so; nothing was recorded of such a layer but what it holds.
    """
    weight, bias = parameters.get("weight"), parameters.get("bias")
    if weight is None or bias is None or weight.dim() != 2 or len(parameters) != 2:
        return None
    given = {"input": INPUT, "weight": weight, "bias": bias}
    return layer_for("linear", given) if weight.shape[:1] == bias.shape else None


def _with(layer: nn.Module, **tensors: Tensor | None) -> nn.Module | None:
    """The layer, built without data, over these tensors; None where they are not its own kind."""
    for name, tensor in tensors.items():
        old: Any = getattr(layer, name)
        if (old is None) != (tensor is None):
            return None
        if old is None or tensor is None:
            continue
        if isinstance(old, nn.Parameter) and not isinstance(tensor, nn.Parameter):
            return None
        if old.shape != tensor.shape:
            return None
        setattr(layer, name, tensor)
    return layer


def _pair(value: Any, sides: int) -> Any:
    """A list of one or of ``sides`` numbers as layers hold it."""
    if isinstance(value, int | str):
        return value
    found = tuple(value)
    return found * sides if len(found) == 1 else found


def _convolution(operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    weight, bias = given["weight"], given["bias"]
    sides = weight.dim() - 2
    # ``convolution`` serves both directions; its siblings say so by their names.
    transposed = given.get("transposed", "transpose" in operator)
    if given["input"] is not INPUT or not 1 <= sides <= 3:
        return None
    settings: dict[str, Any] = {
        name: _pair(given[name], sides) for name in ("stride", "padding", "dilation")
    }
    groups = given["groups"]
    first, second = weight.shape[:2]
    if transposed:
        kinds: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        settings["output_padding"] = _pair(given["output_padding"], sides)
        channels = (first, second * groups)
    else:
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        channels = (second * groups, first)
    made = kinds[sides - 1](
        *channels, tuple(weight.shape[2:]), groups=groups, bias=bias is not None,
        device="meta", **settings,
    )  # fmt: skip
    return _with(made, weight=weight, bias=bias)


def _linear(_operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    weight, bias = given["weight"], given["bias"]
    out, inside = weight.shape
    made = nn.Linear(inside, out, bias is not None, device="meta")
    return _with(made, weight=weight, bias=bias)


def _batch_norm(_operator: str, given: Arguments, dims: int | None) -> nn.Module | None:
    if given["training"] or dims is None:
        return None
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    weight, mean = given["weight"], given["running_mean"]
    made = kinds[dims](
        len(mean), given["eps"], given["momentum"], affine=weight is not None, device="meta"
    )
    made.num_batches_tracked = torch.tensor(0)
    return _with(
        made, weight=weight, bias=given["bias"], running_mean=mean, running_var=given["running_var"]
    )


def _layer_norm(_operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    weight, bias = given["weight"], given["bias"]
    made = nn.LayerNorm(
        list(given["normalized_shape"]), given["eps"], weight is not None, bias is not None,
        device="meta",
    )  # fmt: skip
    return _with(made, weight=weight, bias=bias)


def _group_norm(_operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    weight, bias = given["weight"], given["bias"]
    if weight is None:
        return None
    made = nn.GroupNorm(given["num_groups"], len(weight), given["eps"], device="meta")
    return _with(made, weight=weight, bias=bias)


def _rms_norm(_operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    weight = given["weight"]
    shape = list(given["normalized_shape"])
    made = nn.RMSNorm(shape, given["eps"], weight is not None, device="meta")
    return _with(made, weight=weight)


def _embedding(_operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    count, width = given["weight"].shape
    padding = given["padding_idx"]
    made = nn.Embedding(count, width, None if padding < 0 else padding, device="meta")
    return _with(made, weight=given["weight"])


def _prelu(_operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    return _with(nn.PReLU(given["weight"].numel(), device="meta"), weight=given["weight"])


def _max_pool(operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    sides = int(operator[-2])
    kinds: Any = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    kernel = _pair(given["kernel_size"], sides)
    made: nn.Module = kinds[sides - 1](
        kernel, _pair(given["stride"], sides) or kernel, _pair(given["padding"], sides),
        _pair(given["dilation"], sides), ceil_mode=given["ceil_mode"],
    )  # fmt: skip
    return made


def _avg_pool(operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    sides = int(operator[-2])
    kinds: Any = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
    kernel = _pair(given["kernel_size"], sides)
    more = {"divisor_override": given["divisor_override"]} if sides > 1 else {}
    made: nn.Module = kinds[sides - 1](
        kernel, _pair(given["stride"], sides) or kernel, _pair(given["padding"], sides),
        given["ceil_mode"], given["count_include_pad"], **more,
    )  # fmt: skip
    return made


def _adaptive_pool(operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    sides = int(operator[-2])
    kinds: Any = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
    made: nn.Module = kinds[sides - 1](_pair(given["output_size"], sides))
    return made


def _dropout(_operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    return None if given["train"] else nn.Dropout(given["p"])


def _gelu(_operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    return nn.GELU(given["approximate"])


def _elu(_operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    plain = given["scale"] == 1 and given["input_scale"] == 1
    return nn.ELU(given["alpha"]) if plain else None


def _softmax(operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    if given["dtype"] is not None:
        return None
    return {"softmax": nn.Softmax, "log_softmax": nn.LogSoftmax}[operator](given["dim"])


def _hardtanh(operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
    low, high, inplace = given["min_val"], given["max_val"], operator.endswith("_")
    return nn.ReLU6(inplace) if (low, high) == (0, 6) else nn.Hardtanh(low, high, inplace)


def _plain(kind: type[nn.Module], *names: str) -> "_Maker":
    """A maker of layers that take these arguments and compute nothing else."""

    def make(operator: str, given: Arguments, _dims: int | None) -> nn.Module | None:
        made: Any = kind(*(given[name] for name in names))
        if operator.endswith("_"):
            made.inplace = True
        return made  # type: ignore[no-any-return]

    return make


_Maker = Callable[[str, Arguments, int | None], nn.Module | None]

_MAKERS: dict[str, _Maker] = {
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **dict.fromkeys(("convolution", "_convolution"), _convolution),
    **{f"conv_transpose{n}d": _convolution for n in (1, 2, 3)},
    **{f"max_pool{n}d": _max_pool for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _avg_pool for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": _adaptive_pool for n in (1, 2, 3)},
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "embedding": _embedding,
    "prelu": _prelu,
    "dropout": _dropout,
    "gelu": _gelu,
    "elu": _elu,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "hardtanh": _hardtanh,
    "relu": _plain(nn.ReLU),
    "relu6": _plain(nn.ReLU6),
    "hardswish": _plain(nn.Hardswish),
    "hardsigmoid": _plain(nn.Hardsigmoid),
    "silu": _plain(nn.SiLU),
    "sigmoid": _plain(nn.Sigmoid),
    "tanh": _plain(nn.Tanh),
    "mish": _plain(nn.Mish),
    "leaky_relu": _plain(nn.LeakyReLU, "negative_slope"),
    "softplus": _plain(nn.Softplus, "beta", "threshold"),
    "flatten": _plain(nn.Flatten, "start_dim", "end_dim"),
    "pixel_shuffle": _plain(nn.PixelShuffle, "upscale_factor"),
}  # fmt: skip
