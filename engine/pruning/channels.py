"""Structured pruning: output channels removed with everything coupled to them.

The law: the pruned model puts out what the unpruned one puts out when the removed channels are
masked where they are read. Every decision is checked against it on the sample input, but where a
layer norm is coupled: its mean is over the channels that are left, and removal is not masking.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from engine.editing import Subject, module_at
from engine.edits import ChannelSlice, ChannelsRemoved, PruneChannels
from engine.errors import EditRefused, RecipeMismatch, is_out_of_memory
from engine.integer_layers import is_quantized
from engine.job import Job
from engine.layers import LayerId
from engine.pruning.groups import ChannelGroups, Member, is_depthwise
from engine.sharing import own_parameter, share_for_running
from engine.state import LayerEffect

LAW_TOLERANCE = 1e-3
"""Largest difference allowed between pruned and masked outputs, as a share of the largest one.

Float32 sums in another order differ by far less; a wrong coupling by far more.
"""

_ROOTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class ChannelPruning:
    """Handler of :class:`engine.edits.PruneChannels`."""

    spares_outputs = True

    def applies(self, module: nn.Module) -> bool:
        """Convolutions (plain or depthwise) and linear layers of more than one channel."""
        # Attention's output projection is used without being called: torch-pruning misses it.
        if not isinstance(module, _ROOTS) or isinstance(module, NonDynamicallyQuantizableLinear):
            return False
        if isinstance(module, nn.Linear):
            return module.out_features > 1
        return module.out_channels > 1 and (module.groups == 1 or is_depthwise(module))

    def draft(self, edit: PruneChannels, subject: Subject, job: Job) -> ChannelsRemoved:
        """The channels that would go."""
        if not 0 <= edit.ratio < 1:
            raise EditRefused(
                f"A ratio of {edit.ratio:g} is not possible: it must be at least 0 and below 1."
            )
        removed: dict[tuple[LayerId, str, int], tuple[int, set[int]]] = {}
        for layer in edit.layers:
            job.check()
            module = module_at(subject.model, layer)
            if not self.applies(module):
                raise EditRefused(_why_not(layer, module))
            if (layer, "out", 0) in removed:
                continue  # an earlier choice is coupled to it and has shrunk it already
            members = self._group(subject, layer)
            _add(removed, members, self._choose(edit, subject, layer, members))
        decision = ChannelsRemoved(
            tuple(
                ChannelSlice(layer, side, tuple(sorted(gone)), of, dim)  # type: ignore[arg-type]
                for (layer, side, dim), (of, gone) in removed.items()
                if gone
            )
        )
        for one in decision.slices:
            if len(one.removed) >= one.of:
                raise EditRefused(
                    f"Pruning {', '.join(edit.layers)} would leave {one.layer} without channels."
                )
        return decision

    def decide(self, edit: PruneChannels, subject: Subject, job: Job) -> ChannelsRemoved:
        """The channels that go, checked by the law on the sample input."""
        decision = self.draft(edit, subject, job)
        job.begin("Checking the plan on the sample input")
        _check_law(decision, subject)
        return decision

    def carry_out(self, decision: ChannelsRemoved, model: nn.Module) -> None:
        """Replace the tensors of every slice by smaller ones."""
        for one in decision.slices:
            _check_fit(one, model)
            keep = _kept(one)
            if one.side == "parameter":
                parent, _, name = one.layer.rpartition(".")
                _cut(model.get_submodule(parent), name, keep, one.dim)
            else:
                _shrink(module_at(model, one.layer), one.side, keep)

    def effects(self, decision: ChannelsRemoved, subject: Subject) -> tuple[LayerEffect, ...]:
        """Channels of every layer of the groups, before and after."""
        return tuple(
            LayerEffect(
                one.layer if one.side != "parameter" else LayerId(one.layer.rpartition(".")[0]),
                "coupled",
                "input channels" if one.side == "in" else "output channels",
                one.of,
                one.of - len(one.removed),
            )
            for one in decision.slices
        )

    def notes(self, decision: ChannelsRemoved, subject: Subject) -> tuple[str, ...]:
        """Savings that hold on every device, and whether the plan will be checked."""
        if not decision.slices:
            return ("The amount removes no whole channel: nothing changes.",)
        saved = "Removed channels save time, memory and energy on every device."
        if _has_law(decision, subject):
            return (saved,)
        return (
            saved,
            "A layer norm averages over these channels, so that removing them is more than "
            "masking them: the plan is not checked against the masked model.",
        )

    def _group(self, subject: Subject, layer: LayerId) -> tuple[Member, ...]:
        groups = subject.once("channels", lambda: ChannelGroups(subject.model, subject.inputs))
        return subject.once(f"channels of {layer}", lambda: groups.of(layer))

    def _choose(
        self, edit: PruneChannels, subject: Subject, layer: LayerId, members: tuple[Member, ...]
    ) -> frozenset[int]:
        """The root's output channels that go: those of least importance over the group."""
        of = members[0].of
        count = min(round(edit.ratio * of), of - 1)
        if edit.criterion == "random":
            generator = torch.Generator().manual_seed(edit.seed)
            order = torch.randperm(of, generator=generator)
        else:
            power = 1 if edit.criterion == "l1" else 2
            order = subject.once(
                f"{edit.criterion} of {layer}",
                lambda: _importance(subject.model, members, power).argsort(stable=True),
            )
        return frozenset(order[:count].tolist())


def _why_not(layer: LayerId, module: nn.Module) -> str:
    kind = type(module).__name__
    if isinstance(module, _ROOTS[:3]) and module.groups > 1:
        return f"{layer} is a convolution in {module.groups} groups: not supported yet."
    return f"{layer} ({kind}) has no output channels that could be removed."


def _add(
    removed: dict[tuple[LayerId, str, int], tuple[int, set[int]]],
    members: Iterable[Member],
    gone: frozenset[int],
) -> None:
    for member in members:
        key = (member.layer, member.side, member.dim)
        indices = removed.setdefault(key, (member.of, set()))[1]
        indices.update(index for index, root in member.pairs if root in gone)


def _importance(model: nn.Module, members: Iterable[Member], power: int) -> Tensor:
    """L1 or L2 norm of all filters that write each of the root's output channels.

    The norm of Li et al., Pruning Filters for Efficient ConvNets (2017), taken over the coupled
    group, so that a residual sum keeps what any of its branches needs. Shape (channels,).
    """
    scores: Tensor | None = None
    for member in members:
        if member.side != "out":
            continue
        module = module_at(model, member.layer)
        if not isinstance(module, _ROOTS):
            continue
        norms = module.weight.detach().double().flatten(1).abs().pow(power).sum(1)
        if is_quantized(module):
            norms *= torch.as_tensor(module.weight_scale, dtype=torch.double) ** power
        if scores is None:
            scores = torch.zeros(member.of, dtype=torch.double)
        indices, roots = (torch.tensor(one) for one in zip(*member.pairs, strict=True))
        scores.index_add_(0, roots, norms[indices])
    assert scores is not None  # the root itself is an out member
    return scores


def _check_fit(one: ChannelSlice, model: nn.Module) -> None:
    """Refuse a slice from a file that was cut for a layer of another size."""
    if one.side == "parameter":
        parent, _, name = one.layer.rpartition(".")
        of = getattr(model.get_submodule(parent), name).shape[one.dim]
    else:
        of = _width(module_at(model, one.layer), one.side)
    if of != one.of or not len(set(one.removed)) < of or max(one.removed, default=0) >= of:
        raise RecipeMismatch(
            f"{len(one.removed)} of {one.of} channels cannot be removed from {one.layer}, "
            f"which has {of}."
        )


def _width(module: nn.Module, side: str) -> int:
    if isinstance(module, nn.Linear):
        return module.out_features if side == "out" else module.in_features
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels if side == "out" else module.in_channels
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    return int(module.num_parameters if isinstance(module, nn.PReLU) else module.num_features)  # type: ignore[arg-type]


def _kept(one: ChannelSlice) -> Tensor:
    keep = torch.ones(one.of, dtype=torch.bool)
    keep[list(one.removed)] = False
    return keep.nonzero().flatten()


def _cut(module: nn.Module, name: str, keep: Tensor, dim: int) -> None:
    """Replace one tensor of the module by its kept part; absent tensors stay absent."""
    tensor = getattr(module, name, None)
    if tensor is None:
        return
    smaller = tensor.detach().index_select(dim, keep.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, own_parameter(smaller, tensor))
    else:
        setattr(module, name, smaller)


def _shrink(module: nn.Module, side: str, keep: Tensor) -> None:
    """Keep only some channels on one side of a layer, its hyperparameters following."""
    count = len(keep)
    if side == "out" and is_quantized(module):
        _cut(module, "weight_scale", keep, 0)
        _cut(module, "weight_zero_point", keep, 0)
    if isinstance(module, nn.Linear):
        _cut(module, "weight", keep, 0 if side == "out" else 1)
        if side == "out":
            _cut(module, "bias", keep, 0)
            module.out_features = count
        else:
            module.in_features = count
    elif isinstance(module, nn.modules.conv._ConvNd):
        _shrink_convolution(module, side, keep)
    elif isinstance(module, nn.LayerNorm):
        _cut(module, "weight", keep, 0)
        _cut(module, "bias", keep, 0)
        module.normalized_shape = (count,)
    else:  # one value a channel: batch and instance norm, PReLU
        for name in ("weight", "bias", "running_mean", "running_var"):
            _cut(module, name, keep, 0)
        if isinstance(module, nn.PReLU):
            module.num_parameters = count
        else:
            module.num_features = count  # type: ignore[assignment]


def _shrink_convolution(module: nn.modules.conv._ConvNd, side: str, keep: Tensor) -> None:
    count = len(keep)
    if is_depthwise(module):
        _cut(module, "weight", keep, 0)
        _cut(module, "bias", keep, 0)
        module.in_channels = module.out_channels = module.groups = count
        return
    out_axis = 1 if module.transposed else 0
    if side == "out":
        _cut(module, "weight", keep, out_axis)
        _cut(module, "bias", keep, 0)
        module.out_channels = count
    else:
        _cut(module, "weight", keep, 1 - out_axis)
        module.in_channels = count


def _cut_layers(
    decision: ChannelsRemoved, subject: Subject
) -> list[tuple[ChannelSlice, nn.Module]]:
    return [
        (one, module_at(subject.model, one.layer))
        for one in decision.slices
        if one.side != "parameter"
    ]


def _has_law(decision: ChannelsRemoved, subject: Subject) -> bool:
    """Whether removal is masking: not where a layer norm's mean is over the channels left."""
    cut = _cut_layers(decision, subject)
    return not any(isinstance(module, nn.LayerNorm) for _, module in cut)


def _check_law(decision: ChannelsRemoved, subject: Subject) -> None:
    """Run pruned and masked model on the sample input and compare, where there is a law."""
    if not _has_law(decision, subject):
        return
    layers = _cut_layers(decision, subject)
    pruned = share_for_running(subject.model)
    ChannelPruning().carry_out(decision, pruned)
    masked = share_for_running(subject.model)
    for one, module in layers:
        if one.side == "in":
            axis = _channel_axis(module)
            mask = torch.zeros(one.of).index_fill_(0, _kept(one), 1.0)
            masked.get_submodule(one.layer).register_forward_pre_hook(_Masking(mask, axis))
    with torch.inference_mode():
        try:
            smaller = list(_floats(pruned(*subject.inputs)))
        except RuntimeError as failure:
            if is_out_of_memory(failure):
                raise
            return  # it does not even run: refused, in words, when its shapes are validated
        larger = list(_floats(masked(*subject.inputs)))
    if [one.shape for one in smaller] != [one.shape for one in larger]:
        return  # likewise
    for got, wanted in zip(smaller, larger, strict=True):
        scale = float(wanted.abs().max())
        error = float((got - wanted).abs().max())
        if not error <= LAW_TOLERANCE * scale + 1e-9:
            raise EditRefused(
                f"The channels coupled to {', '.join(_roots(decision))} were not found rightly: "
                f"the pruned model is off by {error:.3g} of {scale:.3g}.",
                "Prune single weights of these layers instead, or quantize them.",
            )


def _roots(decision: ChannelsRemoved) -> Iterator[str]:
    return (one.layer for one in decision.slices[:1])


def _channel_axis(module: nn.Module) -> int:
    """Axis of the channels in the module's input, counted from the end."""
    return -1 if isinstance(module, nn.Linear) else -1 - len(getattr(module, "kernel_size", ()))


class _Masking:
    """Pre-forward hook that zeroes channels of a layer's input."""

    def __init__(self, mask: Tensor, axis: int) -> None:
        self._mask = mask.reshape(-1, *(1,) * (-1 - axis))

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not inputs:  # called by keyword: left unmasked, so that the law refuses the plan
            return inputs
        first, *rest = inputs
        return (first * self._mask.to(first), *rest)


def _floats(output: object) -> Iterator[Tensor]:
    for leaf in torch.utils._pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            yield leaf
