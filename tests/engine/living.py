"""Models that are alive: nothing in them hides what is wrong with something else.

A fresh torchvision model in evaluation mode puts out next to nothing: its batch norms are the
identity, its biases, layer scales and last layers zero, so that a forgotten channel is not seen.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves

from engine.sharing import tensors_of


@torch.no_grad()
def alive(model: nn.Module, seed: int = 1, dtype: torch.dtype = torch.double) -> nn.Module:
    """The model in evaluation mode, every weight and statistic drawn anew.

    Products keep their scale, so that hundreds of layers neither swell nor die out; norms, layer
    scales and position embeddings get values of their own for each channel.
    """
    generator = torch.Generator().manual_seed(seed)
    model = model.to(dtype).eval()
    products = {
        name + "weight": module
        for name, module in ((f"{name}.".lstrip("."), one) for name, one in model.named_modules())
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }
    for name, tensor in tensors_of(model):
        if not tensor.is_floating_point():
            continue
        tensor.normal_(generator=generator)
        if name in products:
            module = products[name]
            transposed = getattr(module, "transposed", False)
            rows = tensor.shape[0] if not transposed else tensor.numel() // tensor.shape[0]
            tensor.mul_((2 / max(1, tensor.numel() // rows)) ** 0.5)
        elif name.endswith("proj_weight"):  # attention's own, which would see one token alone
            tensor.mul_(tensor.shape[1] ** -0.5)
        elif name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.abs_().mul_(0.5).add_(0.5)
        elif name.endswith(("bias", "running_mean")):
            tensor.mul_(0.2)
        elif name.endswith("layer_scale"):
            tensor.abs_().add_(0.2).mul_(0.5)
        else:
            tensor.mul_(0.5)
    return model


@torch.no_grad()
def settled(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The living model with statistics near those of these inputs, a little off for each channel.

    For deep ones: norms by foreign statistics let their activations swell from block to block.
    """
    generator = torch.Generator().manual_seed(2)

    def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, _NormBase)
        if module.running_mean is None or module.running_var is None:
            return
        flat = given[0].transpose(0, 1).flatten(1)
        off = torch.rand(2, len(flat), generator=generator, dtype=flat.dtype)
        # Not the variance alone: what differs least would be blown up most, and rounding with it.
        spread = flat.square().mean(1) + flat.square().mean() + 1e-6
        module.running_mean.copy_(flat.mean(1) + (off[0] - 0.5) * spread.sqrt())
        module.running_var.copy_(spread * (0.5 + off[1]))

    handles = [
        module.register_forward_pre_hook(hook)
        for module in model.modules()
        if isinstance(module, _NormBase) and module.track_running_stats
    ]
    model(*inputs)
    for handle in handles:
        handle.remove()
    return model


def floats(output: object) -> Iterator[Tensor]:
    """All float tensors that a model put out."""
    return (
        leaf
        for leaf in tree_leaves(output)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    )
