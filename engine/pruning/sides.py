"""The sides of a model's layers, and one forward pass that tells how they hang together.

Every channel on every side of every layer is an atom, and so is every index of a bare parameter
along each of its axes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_leaves, tree_map_only

from engine.errors import EditRefused
from engine.layers import LayerId
from engine.pruning.computing import rule_of
from engine.pruning.following import Follower
from engine.pruning.labels import Atoms, Labelling, Labels, Settled
from engine.pruning.shrinking import is_depthwise, normalises_channels
from engine.sharing import share, share_for_running, tensors_of
from engine.tracing import DATA_DEPENDENT, deeper_calls, faker, plain_kernels
from engine.unrounded import without_rounding

Side: TypeAlias = Literal["out", "in", "parameter"]


@dataclass(frozen=True, eq=False)
class LayerSide:
    """Channels of a layer, or of a bare parameter along one axis.

    Attributes:
        atoms: of every channel, in order.
        is_root: whether it is the output of a convolution or linear layer.
    """

    layer: LayerId
    side: Side
    dim: int
    atoms: Labelling
    is_root: bool = False


def follow(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[LayerSide], Settled]:
    """All sides in the model's order, and what one forward pass tells of their atoms.

    On tensors without data; where what the model does depends on data, once in earnest.

    Raises:
        EditRefused: the pass failed.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = faker(mode)
    try:
        return _followed(share(model, fake).eval(), tree_map_only(Tensor, fake, inputs), mode)
    except DATA_DEPENDENT as error:
        if any(tensor.is_meta for _, tensor in tensors_of(model)):
            raise _not_found(error) from error
    except Exception as error:  # whatever the model's own code raises
        raise _not_found(error) from error
    try:
        return _followed(share_for_running(model, baked=False), inputs, nullcontext())
    except Exception as error:
        raise _not_found(error) from error


def _not_found(error: Exception) -> EditRefused:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    return EditRefused(
        f"The coupling of this model's channels cannot be found: {cause}",
        "Prune single weights instead, or quantize.",
    )


def _followed(
    copy: nn.Module, samples: tuple[Any, ...], mode: AbstractContextManager[Any]
) -> tuple[list[LayerSide], Settled]:
    """Follow one pass of ``copy``, which is the analysis' own."""
    with mode:
        without_rounding(copy)
    sides = _Sides(copy)
    linear = {name for name, module in copy.named_modules() if isinstance(module, nn.Linear)}
    follower = Follower(sides.atoms, sides.norms, frozenset(map(LayerId, linear)), rule_of)
    for tensor, ways in sides.ways.values():
        follower.set(tensor, Labels(tuple(ways)))
    depth = _watch(copy, follower)
    with torch.no_grad(), plain_kernels(), deeper_calls(depth), mode, follower:
        result = copy(*samples)
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            follower.pin(follower.of(leaf).ways, "they are the model's output")
    for weight, atoms in sides.weights:
        if not follower.was_read(weight):
            follower.pin([atoms], "the layer is not used in a forward pass")
    return sides.found, sides.atoms.settled()


_PER_CHANNEL = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.PReLU,
)  # fmt: skip


class _Sides:
    """The sides of all layers.

    Attributes:
        found: in the model's order.
        ways: id of a tensor -> it and its labellings.
        norms: atoms of each norm's channels, by layer.
        weights: the weights of convolutions and linear layers, with the atoms of their outputs.
    """

    def __init__(self, model: nn.Module) -> None:
        self.atoms = Atoms()
        self.found: list[LayerSide] = []
        self.ways: dict[int, tuple[Tensor, list[Labelling]]] = {}
        self.norms: dict[LayerId, Labelling] = {}
        self.weights: list[tuple[Tensor, Labelling]] = []
        for name, module in model.named_modules():
            layer = LayerId(name)
            if isinstance(module, _ConvNd | nn.Linear) and "weight" in module._parameters:
                self._product(layer, module)
            elif isinstance(module, nn.Embedding):
                self._give(module.weight, self._side(layer, "out", module.embedding_dim)[None])
            elif isinstance(module, _PER_CHANNEL) or normalises_channels(module):
                self._norm(layer, module)
            else:
                self._bare(layer, module)

    def _side(self, layer: LayerId, side: Side, count: int, dim: int = 0) -> Labelling:
        atoms = self.atoms.fresh(count)
        self.found.append(LayerSide(layer, side, dim, atoms))
        return atoms

    def _give(self, tensor: Tensor | None, way: Labelling) -> None:
        """Label a tensor; one that several layers hold couples them."""
        if tensor is None or way.size < 2:
            return
        _, ways = self.ways.setdefault(id(tensor), (tensor, []))
        for known in ways:
            if known.shape == way.shape:
                self.atoms.join(known, way, "")
                return
        ways.append(way)

    def _product(self, layer: LayerId, module: _ConvNd | nn.Linear) -> None:
        weight = module.weight
        is_transposed = isinstance(module, _ConvNd) and module.transposed
        groups = module.groups if isinstance(module, _ConvNd) else 1
        rows, columns = weight.shape[:2]
        outer, inner = rows, columns * groups
        out = self.atoms.fresh(inner if is_transposed else outer)
        self.found.append(LayerSide(layer, "out", 0, out, is_root=True))
        self.weights.append((weight, out))
        self._give(module.bias, out)
        first = out
        if not is_depthwise(module):
            read = self._side(layer, "in", outer if is_transposed else inner)
            first, second = (read, out) if is_transposed else (out, read)
            # Of a grouped convolution each row has the columns of its own group.
            alike = rows // groups if groups > 1 else 1
            second = second.reshape(groups, 1, columns).repeat(alike, 1).reshape(-1, columns)
            self._give(weight, second.reshape(*second.shape, *(1,) * (weight.dim() - 2)))
        self._give(weight, first.reshape(-1, *(1,) * (weight.dim() - 1)))

    def _norm(self, layer: LayerId, module: nn.Module) -> None:
        tensors = [
            one
            for name in ("weight", "bias", "running_mean", "running_var")
            if isinstance(one := getattr(module, name, None), Tensor)
        ]
        count = next((len(one) for one in tensors), _channels(module))
        if count < 2:
            return
        self.norms[layer] = self._side(layer, "out", count)
        for tensor in tensors:
            self._give(tensor, self.norms[layer])

    def _bare(self, layer: LayerId, module: nn.Module) -> None:
        """Tensors of any other module: each axis is a way to cut them."""
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None or not tensor.is_floating_point() or id(tensor) in self.ways:
                continue
            path = LayerId(f"{layer}.{name}".lstrip("."))
            for axis, size in enumerate(tensor.shape):
                if size > 1:
                    shape = [1] * tensor.dim()
                    shape[axis] = size
                    self._give(tensor, self._side(path, "parameter", size, axis).reshape(shape))


def _channels(module: nn.Module) -> int:
    for name in ("num_features", "num_channels", "num_parameters"):
        if isinstance(count := getattr(module, name, None), int):
            return count
    return int(module.normalized_shape[0])  # type: ignore[index]


# Layers whose forward says more than its operators


@dataclass(frozen=True)
class _Attention:
    """An attention layer whose heads its operators alone do not show.

    Attributes:
        inner: tensors along whose axes the heads stand.
        one_width: whether its forward takes the heads' width from that of its input.
    """

    inner: tuple[tuple[str, int], ...]
    one_width: bool = True


_TORCH = (
    ("in_proj_weight", 0), ("q_proj_weight", 0), ("k_proj_weight", 0), ("v_proj_weight", 0),
    ("out_proj.weight", 1),
)  # fmt: skip
_EXPLICIT = ("in_proj.weight", 0), ("out_proj.weight", 1)
_SWIN = ("qkv.weight", 0), ("proj.weight", 1)
_MAXVIT = ("to_qkv.weight", 0), ("merge.weight", 1)
_ATTENTION = {
    "torch.nn.modules.activation.MultiheadAttention": _Attention(_TORCH),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": _Attention(_SWIN),
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": _Attention(_MAXVIT),
    "timm.layers.attention.Attention": _Attention(_SWIN, one_width=False),
    "engine.pruned_layers.ExplicitMultiheadAttention": _Attention(_EXPLICIT, one_width=False),
    "engine.pruned_layers.ExplicitWindowAttention": _Attention(_SWIN, one_width=False),
    "engine.pruned_layers.ExplicitRelativeAttention": _Attention(_MAXVIT, one_width=False),
}
"""By the full name of the class or one of its bases, whose package need not be there."""


def _attention_of(module: nn.Module) -> _Attention | None:
    for kind in type(module).__mro__:
        if known := _ATTENTION.get(f"{kind.__module__}.{kind.__qualname__}"):
            return known
    return None


def _watch(model: nn.Module, follower: Follower) -> int:
    """Tell the follower which layer runs. Levels of layers."""
    depth = 0
    stack = [follower.layer]
    for name, module in model.named_modules():
        depth = max(depth, name.count(".") + 1)
        module.register_forward_pre_hook(
            _entering(LayerId(name), follower, stack), with_kwargs=True
        )
        module.register_forward_hook(_leaving(follower, stack), with_kwargs=True, always_call=True)
    return depth


def _entering(
    layer: LayerId, follower: Follower, stack: list[LayerId]
) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        stack.append(layer)
        follower.layer = layer
        if attention := _attention_of(module):
            _pin_attention(module, attention, (args, kwargs), follower)
        elif isinstance(module, _InstanceNorm):
            follower.norm(args[0], args[0], 1)
        elif _is_plain_rms_norm(module):
            follower.paused = True

    return hook


def _leaving(
    follower: Follower, stack: list[LayerId]
) -> Callable[[nn.Module, Any, Any, Any], None]:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if _is_plain_rms_norm(module):
            follower.paused = False
            if isinstance(output, Tensor):
                follower.norm(args[0], output, output.dim() - 1)
        stack.pop()
        follower.layer = stack[-1]

    return hook


def _is_plain_rms_norm(module: nn.Module) -> bool:
    """Whether it is torch's own, whose operators, one by one, would look like a mean."""
    return type(module).forward is nn.RMSNorm.forward and normalises_channels(module)


def _pin_attention(
    module: nn.Module, attention: _Attention, given: Any, follower: Follower
) -> None:
    if attention.one_width:
        why = f"the attention layer {follower.where} takes its own width from theirs"
        for tensor in _tensors(given):
            follower.pin(follower.of(tensor).ways, why)
    why = (
        f"they are the heads of the attention layer {follower.where}, which are removed by the "
        "edit of their own"
    )
    for name, axis in attention.inner:
        owner, _, last = name.rpartition(".")
        weight = getattr(module.get_submodule(owner), last, None)
        if isinstance(weight, Tensor):
            follower.pin((way for way in follower.of(weight).ways if way.shape[axis] > 1), why)


def _tensors(given: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
