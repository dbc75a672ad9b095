"""Modules that edits put in the place of a model's own: attention, two factors, nothing at all.

A stand-in keeps the names of parameters and children, and takes what the original took where the
model calls it. Whoever makes one hands over a module of a copy of their own (see
:mod:`engine.sharing`): its children and attributes are changed, its tensors are not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from engine.integer_layers import is_quantized
from engine.rounded_operators import plain_class
from engine.sharing import own_parameter

Form: TypeAlias = Literal["channel", "spatial"]


class StandIn:
    """What stands where a layer of another class stood.

    Attributes:
        kind: that class.
    """

    kind: str

    @property
    def note(self) -> str:
        """What the edit left to say, such as ``removed``."""
        return ""


def note_of(module: nn.Module) -> str:
    """What an edit left to say of the layer; "" for nothing."""
    if isinstance(module, StandIn) and module.note:
        return module.note
    before = getattr(module, "heads_before", None)
    return f"{heads_of(module)} of {before} heads" if isinstance(before, int) else ""


class Removed(StandIn, nn.Module):
    """Stands where a residual block stood, and hands its input on.

    Args:
        kind: the class it had.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    @property
    def note(self) -> str:
        """That it is gone."""
        return "removed"

    def forward(self, input: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """The first argument as it is."""
        return input


class Folded(StandIn, nn.Module):
    """Stands where a batch norm stood that went into the layer before it.

    What the norm did behind normalising (timm's have an activation of their own) it still does.

    Args:
        norm: the batch norm, whose children move here.
        into: path of the layer that took it in.
    """

    def __init__(self, norm: nn.Module, into: str) -> None:
        super().__init__()
        self.kind = type(norm).__name__
        self.into = into
        for name, child in norm.named_children():
            self.add_module(name, child)

    @property
    def note(self) -> str:
        """Where it went."""
        return f"folded into {self.into}"

    def forward(self, input: Tensor) -> Tensor:
        """The input through what is left, of the same shape."""
        for child in self.children():
            input = child(input)
        return input


# Two factors


class Factors(StandIn, nn.Module):
    """A layer as two narrower ones, ``first`` and ``second``, each a layer like any other.

    Args:
        kind: the class it had.
        form: as in :class:`engine.edits.Factorize`.
        full_rank: the rank that the layer's weight had at most.
    """

    def __init__(
        self, kind: str, first: nn.Module, second: nn.Module, form: Form, full_rank: int
    ) -> None:
        super().__init__()
        self.kind = kind
        self.form = form
        self.full_rank = full_rank
        self.first = first
        self.second = second

    @property
    def rank(self) -> int:
        """Channels between the two."""
        return channels_of(self.first) or 0

    @property
    def note(self) -> str:
        """How narrow it is."""
        return f"rank {self.rank} of {self.full_rank}"

    def forward(self, input: Tensor) -> Tensor:
        """What the layer takes to what it put out."""
        output: Tensor = self.second(self.first(input))
        return output


def channels_of(module: nn.Module) -> int | None:
    """Output channels or features; None where the notion does not apply."""
    if isinstance(module, Factors):
        return channels_of(module.second)
    for name in ("out_channels", "out_features", "num_features"):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return None


def form_for(module: nn.Module, form: Form) -> Form:
    """The form that a layer is factorised in: only 2-D convolutions have a column and a row."""
    spatial = isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    return form if spatial else "channel"


def matrix_sides(module: nn.Module, form: Form) -> tuple[int, int]:
    """Rows and columns of the weight as the matrix that is factorised: of what is read, written.

    Args:
        module: a linear layer, or a convolution without groups.
    """
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    assert isinstance(module, _ConvNd)
    inputs, outputs, kernel = module.in_channels, module.out_channels, module.kernel_size
    if form == "spatial":
        return inputs * kernel[0], outputs * kernel[1]
    return inputs * math.prod(kernel), outputs


def factors_of(module: nn.Module, rank: int, form: Form, full_rank: int = 0) -> Factors:
    """Two layers of that rank in the layer's place, weights still without data (``meta``).

    Args:
        module: a linear layer, or a convolution without groups; its bias goes to the second.
        full_rank: what is said of it; 0: as the weight's shape has it.
    """
    made = _linear_factors(module, rank) if isinstance(module, nn.Linear) else None
    first, second = made or _convolution_factors(module, rank, form)
    second.bias = module.bias
    kind = getattr(module, "kind", type(module).__name__)
    full_rank = full_rank or min(matrix_sides(module, form))
    return Factors(kind, first, second, form, full_rank).train(module.training)


def _linear_factors(module: nn.Linear, rank: int) -> tuple[nn.Module, nn.Module]:
    like: dict[str, Any] = {"bias": False, "device": "meta", "dtype": module.weight.dtype}
    return (
        nn.Linear(module.in_features, rank, **like),
        nn.Linear(rank, module.out_features, **like),
    )


def _convolution_factors(module: Any, rank: int, form: Form) -> tuple[nn.Module, nn.Module]:
    like: dict[str, Any] = {"bias": False, "device": "meta", "dtype": module.weight.dtype}
    make, padded = type(module), module.padding_mode
    sides = (module.kernel_size, module.stride, module.padding, module.dilation)
    if form == "channel":
        first = make(module.in_channels, rank, *sides, padding_mode=padded, **like)
        return first, make(rank, module.out_channels, 1, **like)
    column, row = (_along(axis, *sides) for axis in (0, 1))
    return (
        make(module.in_channels, rank, **column, padding_mode=padded, **like),
        make(rank, module.out_channels, **row, padding_mode=padded, **like),
    )


def _along(axis: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> dict[str, Any]:
    """The part of a 2-D convolution's geometry that is along one axis."""

    def only(pair: tuple[int, int], otherwise: int) -> tuple[int, ...]:
        return tuple(one if at == axis else otherwise for at, one in enumerate(pair))

    return {
        "kernel_size": only(kernel, 1),
        "stride": only(stride, 1),
        "padding": padding if isinstance(padding, str) else only(padding, 0),
        "dilation": only(dilation, 1),
    }


# Attention that calls its projections


class ExplicitAttention(StandIn, nn.Module):
    """An attention layer that calls its projections, which are layers like any other.

    Its inner width, heads times head size, need not be its outer one.

    Attributes:
        head_size: features of one head, as before.
        heads_before: how many heads the layer came with, where some were removed.
    """

    head_size: int
    heads_before: int


class ExplicitMultiheadAttention(ExplicitAttention):
    """``torch.nn.MultiheadAttention`` over one embedding."""

    in_proj: nn.Module
    out_proj: nn.Module
    num_heads: int
    dropout: float
    batch_first: bool

    @property
    def in_proj_bias(self) -> Tensor | None:
        """As torch's encoder layers ask for it."""
        return getattr(self.in_proj, "bias", None)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What torch's takes to what it gives: (N, L, E), or (L, N, E), or (L, E) without a batch.

        Args:
            is_causal: a hint that the mask is causal, which is given as well and needs no hint.
        """
        inputs = [query, key, value]
        if lone := query.dim() == 2:
            inputs = [one.unsqueeze(0) for one in inputs]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            inputs = [one.transpose(0, 1) for one in inputs]
        output, weights = self._attend(inputs, key_padding_mask, attn_mask, need_weights)
        if lone:
            output, weights = output.squeeze(0), None if weights is None else weights.squeeze(0)
        elif not self.batch_first:
            output = output.transpose(0, 1)
        if weights is not None and average_attn_weights:
            weights = weights.mean(-3)
        return output, weights

    def _attend(
        self, inputs: list[Tensor], padding: Tensor | None, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Three of (N, L, E) to one, and the weights (N, heads, L, S) if asked for."""
        query, key, value = self._projected(inputs)
        mask = self._merged(mask, padding, query)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = query * self.head_size**-0.5 @ key.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            mixed = weights @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), weights

    def _projected(self, inputs: list[Tensor]) -> list[Tensor]:
        """Query, key and value as (N, heads, L, head size)."""
        projection = self.in_proj
        if inputs[0] is inputs[1] is inputs[2]:
            found = projection(inputs[0]).chunk(3, -1)
        elif type(projection) is nn.Linear:
            biases = (None,) * 3 if projection.bias is None else projection.bias.chunk(3)
            parts = zip(inputs, projection.weight.chunk(3), biases, strict=True)
            found = tuple(F.linear(*part) for part in parts)
        else:
            found = tuple(projection(one).chunk(3, -1)[at] for at, one in enumerate(inputs))
        return [one.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for one in found]

    def _merged(self, mask: Tensor | None, padding: Tensor | None, query: Tensor) -> Tensor | None:
        """Both masks as one that is added to (N, heads, L, S)."""
        total = None
        if mask is not None:
            mask = _additive(mask, query)
            # Three axes: one mask for each sample and head.
            total = mask.unflatten(0, (-1, self.num_heads)) if mask.dim() == 3 else mask
        if padding is not None:
            hidden = _additive(padding, query)[:, None, None, :]
            total = hidden if total is None else total + hidden
        return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask that is added: minus infinity where a boolean one says that nobody looks."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


class ExplicitWindowAttention(ExplicitAttention):
    """torchvision's ``ShiftedWindowAttention`` (Swin, Liu et al., 2021)."""

    qkv: nn.Module
    proj: nn.Module
    num_heads: int
    window_size: list[int]
    shift_size: list[int]
    attention_dropout: float
    dropout: float
    relative_position_index: Tensor
    relative_position_bias_table: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to the same."""
        high, wide = x.shape[1:3]
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -wide % columns, 0, -high % rows))
        padded = x.shape[1:3]
        # A window as large as the map sees all of it: no need to shift.
        down = 0 if rows >= padded[0] else self.shift_size[0]
        right = 0 if columns >= padded[1] else self.shift_size[1]
        if not down + right:
            return self._over_windows(x, None)[:, :high, :wide].contiguous()
        x = x.roll((-down, -right), (1, 2))
        x = self._over_windows(x, self._mask(x, down, right)).roll((down, right), (1, 2))
        return x[:, :high, :wide].contiguous()

    def _over_windows(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention within each window of (N, H, W, C), to the same."""
        rows, columns = self.window_size
        samples, high, wide, channels = x.shape
        grid = (samples, high // rows, rows, wide // columns, columns, channels)
        tokens = x.view(grid).transpose(2, 3).reshape(-1, rows * columns, channels)
        tokens = self._attend(tokens, mask)
        grid = (samples, high // rows, wide // columns, rows, columns, channels)
        return tokens.view(grid).transpose(2, 3).reshape(samples, high, wide, channels)

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(windows, tokens, C) to the same; ``mask`` is (windows of a sample, tokens, tokens)."""
        count, tokens, _ = x.shape
        shape = (count, tokens, 3, self.num_heads, self.head_size)
        query, key, value = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        scores = self._scores(query, key) + self._position_bias()
        if mask is not None:
            by_sample = (count // len(mask), len(mask), *scores.shape[1:])
            scores = (scores.view(by_sample) + mask[:, None]).view(scores.shape)
        weights = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        mixed: Tensor = self.proj((weights @ value).transpose(1, 2).flatten(2))
        return F.dropout(mixed, self.dropout, self.training)

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        scale: float = self.head_size**-0.5
        return (query * scale) @ key.transpose(-2, -1)

    def _position_bias(self) -> Tensor:
        return self._by_pair(self.relative_position_bias_table)

    def _by_pair(self, table: Tensor) -> Tensor:
        """The entries of (offsets, heads) for every pair of tokens, as (1, heads, T, T)."""
        tokens = self.window_size[0] * self.window_size[1]
        entries = table[self.relative_position_index].view(tokens, tokens, -1)
        return entries.permute(2, 0, 1).contiguous().unsqueeze(0)

    def _mask(self, x: Tensor, down: int, right: int) -> Tensor:
        """-100 between tokens that the shift alone brought into one window."""
        (rows, columns), (high, wide) = self.window_size, x.shape[1:3]
        regions = x.new_zeros((high, wide))
        count = 0
        for part in (slice(0, -rows), slice(-rows, -down), slice(-down, None)):
            for other in (slice(0, -columns), slice(-columns, -right), slice(-right, None)):
                regions[part, other] = count
                count += 1
        grid = (high // rows, rows, wide // columns, columns)
        regions = regions.view(grid).transpose(1, 2).reshape(-1, rows * columns)
        apart = regions.unsqueeze(1) != regions.unsqueeze(2)
        return torch.zeros_like(apart, dtype=x.dtype).masked_fill(apart, -100.0)


class ExplicitWindowAttentionV2(ExplicitWindowAttention):
    """torchvision's ``ShiftedWindowAttentionV2`` (Liu et al., 2022)."""

    logit_scale: Tensor
    cpb_mlp: nn.Module
    relative_coords_table: Tensor

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        cosines = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        return cosines * self.logit_scale.clamp(max=math.log(100.0)).exp()

    def _position_bias(self) -> Tensor:
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        return 16 * self._by_pair(table).sigmoid()


class ExplicitRelativeAttention(ExplicitAttention):
    """torchvision's ``RelativePositionalMultiHeadAttention`` (MaxViT)."""

    to_qkv: nn.Module
    merge: nn.Module
    n_heads: int
    max_seq_len: int
    scale_factor: float
    relative_position_index: Tensor
    relative_position_bias_table: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, windows, tokens, C) to the same."""
        shape = (*x.shape[:3], self.n_heads, self.head_size)
        parts = self.to_qkv(x).chunk(3, -1)
        query, key, value = (one.reshape(shape).transpose(2, 3) for one in parts)
        scores = query @ (key * self.scale_factor).transpose(-2, -1)
        weights = (scores + self._position_bias()).softmax(-1)
        output: Tensor = self.merge((weights @ value).transpose(2, 3).flatten(3))
        return output

    def _position_bias(self) -> Tensor:
        entries = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        square = entries.view(self.max_seq_len, self.max_seq_len, -1)
        return square.permute(2, 0, 1).contiguous().unsqueeze(0)


@dataclass(frozen=True)
class _Cut:
    """One axis of one tensor that heads share: ``parts`` runs of heads, each of ``size`` entries.

    Attributes:
        size: 0 for the head size.
    """

    tensor: str
    axis: int
    parts: int = 1
    size: int = 0


@dataclass(frozen=True)
class _Kind:
    """How a class of attention lays its heads out.

    Attributes:
        heads: the attribute that counts them.
        widths: attributes that hold their inner width.
        explicit: the class that stands in; None where the original says its inner width itself.
        calls: whether the original calls its projections too.
        cuts: the projections to query, key and value first, the one to the output second.
    """

    heads: str
    explicit: type[ExplicitAttention] | None
    cuts: tuple[_Cut, ...]
    widths: tuple[str, ...] = ()
    calls: bool = False


def _kind(
    heads: str,
    qkv: str,
    output: str,
    explicit: type[ExplicitAttention] | None,
    *more: _Cut,
    **settings: Any,
) -> _Kind:
    projections = (_Cut(f"{qkv}.weight", 0, 3), _Cut(f"{output}.weight", 1))
    return _Kind(heads, explicit, (*projections, _Cut(f"{qkv}.bias", 0, 3), *more), **settings)


_TABLE = _Cut("relative_position_bias_table", 1, size=1)
_KINDS = {
    "torch.nn.modules.activation.MultiheadAttention": _kind(
        "num_heads", "in_proj", "out_proj", ExplicitMultiheadAttention
    ),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": _kind(
        "num_heads", "qkv", "proj", ExplicitWindowAttention, _TABLE
    ),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": _kind(
        "num_heads", "qkv", "proj", ExplicitWindowAttentionV2,
        _Cut("logit_scale", 0, size=1), _Cut("cpb_mlp.2.weight", 0, size=1),
    ),
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": _kind(
        "n_heads", "to_qkv", "merge", ExplicitRelativeAttention, _TABLE, calls=True
    ),
    "timm.layers.attention.Attention": _kind(
        "num_heads", "qkv", "proj", None,
        _Cut("gate.weight", 0), _Cut("gate.bias", 0), widths=("attn_dim",), calls=True,
    ),
}  # fmt: skip
"""By the full name of the class, whose package need not be there: a subclass may do otherwise."""


def _kind_of(module: nn.Module) -> _Kind | None:
    own = plain_class(module)
    for kind in _KINDS.values():
        if own is kind.explicit:
            return kind
    return _KINDS.get(f"{own.__module__}.{own.__qualname__}")


def heads_of(module: nn.Module) -> int | None:
    """Heads of an attention layer of a known class; None for any other layer."""
    kind = _kind_of(module)
    return None if kind is None else int(getattr(module, kind.heads))


def why_heads_stay(module: nn.Module) -> str:
    """Why no head can be removed from an attention layer of a known class; "" if some can be."""
    kind = _kind_of(module)
    assert kind is not None
    if why := _why_not_explicit(module):
        return why
    if kind.explicit is None and not isinstance(module.norm, nn.Identity):
        return "normalises over all heads at once"
    size, heads = _head_size(module, kind), getattr(module, kind.heads)
    for cut in kind.cuts:
        parent, name = _owner(module, cut.tensor)
        if is_quantized(parent):
            return f"has integer weights in {cut.tensor.rpartition('.')[0]}: prune before rounding"
        tensor = getattr(parent, name, None)
        if tensor is None and not isinstance(parent, Factors):
            continue  # without a bias, or without a gate
        if tensor is None or tensor.shape[cut.axis] != cut.parts * heads * (cut.size or size):
            return f"was changed in {cut.tensor} by another edit: prune heads before that"
    return ""


def without_heads(module: nn.Module, removed: Sequence[int]) -> nn.Module:
    """The attention layer without these heads, its children cut in place.

    Args:
        module: of a known class, and such that :func:`why_heads_stay` knows no reason.
        removed: indices of heads, not all of them.
    """
    kind = _kind_of(module)
    assert kind is not None
    size, heads = _head_size(module, kind), int(getattr(module, kind.heads))
    gone = set(removed)
    kept = torch.tensor([head for head in range(heads) if head not in gone])
    made: Any = explicit_attention(module)
    made.heads_before = getattr(module, "heads_before", heads)
    setattr(made, kind.heads, len(kept))
    for width in kind.widths:
        setattr(made, width, len(kept) * size)
    for cut in kind.cuts:
        _cut(*_owner(made, cut.tensor), cut, _entries(kept, heads, cut, size))
    return made  # type: ignore[no-any-return]


def is_explicit(module: nn.Module) -> bool:
    """Whether it is attention of ours, which calls its projections."""
    return isinstance(module, ExplicitAttention)


def reads_projections(module: nn.Module) -> bool:
    """Whether it is attention of a known class that reads the weights of its projections itself.

    Projections that are to be anything else than they are need :func:`explicit_attention` around
    them.
    """
    kind = None if is_explicit(module) else _kind_of(module)
    return kind is not None and not kind.calls


def why_not_explicit(module: nn.Module) -> str:
    """Why attention that reads its projections stays as it is; "" if it need not."""
    return _why_not_explicit(module) if reads_projections(module) else ""


def _why_not_explicit(module: nn.Module) -> str:
    if isinstance(module, nn.MultiheadAttention) and (
        not module._qkv_same_embed_dim or module.bias_k is not None or module.add_zero_attn
    ):
        return "has keys or values of its own beside those of its input"
    return ""


def explicit_attention(module: nn.Module) -> nn.Module:
    """The attention layer with all its heads, as one that calls its projections.

    Args:
        module: of a known class, and such that :func:`why_not_explicit` knows no reason.

    Returns:
        The layer itself where it is one already. torch's packed projection becomes a layer
        ``in_proj``.
    """
    kind = _kind_of(module)
    assert kind is not None
    if kind.explicit is None or is_explicit(module):
        return module
    made: Any = _stand_in(module, kind.explicit, _head_size(module, kind))
    if isinstance(made, ExplicitWindowAttentionV2):
        made.qkv = _without_key_bias(made.qkv)
    return made  # type: ignore[no-any-return]


def head_projections(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Each head's projection to its values (heads, head size, C), and to the output (…, C').

    The second is (heads, C', head size).
    """
    kind = _kind_of(module)
    assert kind is not None
    heads, size = getattr(module, kind.heads), _head_size(module, kind)
    qkv, output = (_tensor(module, cut.tensor).detach() for cut in kind.cuts[:2])
    value = qkv.chunk(3)[2].reshape(heads, size, -1)
    return value, output.reshape(-1, heads, size).transpose(0, 1)


def _head_size(module: nn.Module, kind: _Kind) -> int:
    known = getattr(module, "head_size", None) or getattr(module, "head_dim", None)
    if isinstance(known, int):
        return known
    return int(_tensor(module, kind.cuts[1].tensor).shape[1]) // int(getattr(module, kind.heads))


def _tensor(module: nn.Module, name: str) -> Any:
    """The tensor of that name, packed or in a layer of its own; None where there is none."""
    parent, last = _owner(module, name)
    return getattr(parent, last, None)


def _owner(module: nn.Module, tensor: str) -> tuple[Any, str]:
    """The module that holds the tensor, None where there is none, and the tensor's name there."""
    *path, name = tensor.split(".")
    owner: Any = module
    if isinstance(module, nn.MultiheadAttention) and path == ["in_proj"]:
        return module, f"in_proj_{name}"
    for one in path:
        owner = getattr(owner, one, None)
    return owner, name


def _entries(kept: Tensor, heads: int, cut: _Cut, size: int) -> Tensor:
    """Indices along the cut's axis that belong to the heads that are kept."""
    runs = torch.arange(cut.parts * heads * (cut.size or size)).reshape(cut.parts, heads, -1)
    return runs[:, kept].flatten()


def _cut(owner: Any, name: str, cut: _Cut, keep: Tensor) -> None:
    tensor = getattr(owner, name, None)
    if tensor is None:
        return
    smaller = tensor.detach().index_select(cut.axis, keep.to(tensor.device))
    setattr(owner, name, own_parameter(smaller, tensor))
    if isinstance(owner, nn.Linear) and name == "weight":
        owner.out_features, owner.in_features = smaller.shape


def _stand_in(module: nn.Module, explicit: type[ExplicitAttention], size: int) -> Any:
    """A module of that class around the parameters, buffers and children of the original."""
    made: Any = explicit.__new__(explicit)
    made.__dict__.update(module.__dict__)
    for held in ("_parameters", "_buffers", "_modules"):
        made.__dict__[held] = dict(module.__dict__[held])
    made.kind = type(module).__name__
    made.head_size = size
    if isinstance(module, nn.MultiheadAttention):
        del made._modules["out_proj"]
        made.in_proj = _unpacked(made._parameters)
        made.out_proj = _called(module.out_proj)
        # WORKAROUND: torch's fused encoder layer takes the inner width for the outer one and asks
        # for nothing but this; without effect if torch has another question.
        made._qkv_same_embed_dim = False
    return made


def _called(projection: nn.Module) -> nn.Module:
    """The output projection as a layer like any other: it is called now, not only read."""
    assert isinstance(projection, NonDynamicallyQuantizableLinear)
    made = nn.Linear.__new__(nn.Linear)
    made.__dict__.update(projection.__dict__)
    made._parameters = dict(projection._parameters)
    return made


def _unpacked(parameters: dict[str, Any]) -> nn.Module:
    """torch's packed projection to queries, keys and values as a layer; its tensors move there."""
    weight, bias = parameters.pop("in_proj_weight"), parameters.pop("in_proj_bias")
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        parameters.pop(name, None)
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight, made.bias = weight, bias
    return made.eval()


def _without_key_bias(qkv: nn.Module) -> nn.Module:
    """The projection with a keys' bias of 0, which the original leaves out of every pass."""
    if not isinstance(qkv.bias, Tensor):
        return qkv
    made = qkv.__new__(type(qkv))
    made.__dict__.update(qkv.__dict__)
    made._parameters = dict(qkv._parameters)
    query, key, value = qkv.bias.detach().chunk(3)
    made.bias = own_parameter(torch.cat([query, torch.zeros_like(key), value]), qkv.bias)
    return made
