"""How operators that compute follow channels: what meets is joined, what is summed over is one.

What would give other numbers once channels are gone pins them.
"""

import re
from typing import Any

import numpy as np
from torch import Tensor

from engine.pruning.following import Call, Follower, Operand, Rule
from engine.pruning.labels import Labels, aligned, spread
from engine.pruning.moving import MOVING, carry, numbered, rules, same, source, take, unknown
from engine.tracing import is_pointwise


def rule_of(name: str, func: Any) -> Rule:
    """How an operator is followed.

    Args:
        name: without namespace; in-place variants go by the plain one.
    """
    rule = _RULES.get(name) or _RULES.get(name.rstrip("_"))
    if rule is None and name.startswith("_scaled_dot_product"):
        rule = _attention
    if rule is None and is_pointwise(func):
        rule = _pointwise
    return rule or unknown


def _pointwise(follower: Follower, call: Call) -> None:
    out = call.outputs[0]
    tensors = list(call.tensors)
    if len(tensors) == 1:
        same(follower, call)
        return
    why = f"{follower.where} combines them with what cannot shrink"
    met = follower.meet([_operand(follower, one, out.dim()) for one in tensors], why)
    if out is call.args[0] and met.ways and _is_part(out) and not follower.of(out).ways:
        follower.pin(met.ways, f"{follower.where} writes them into a part of another tensor")
    for each in call.outputs:
        follower.set(each, met)


def _operand(follower: Follower, tensor: Tensor, axes: int) -> Operand:
    labels = follower.of(tensor)
    if tensor.dim() == axes:
        return labels, tensor.shape
    ways = tuple(aligned(way, axes) for way in labels.ways)
    return Labels(ways, labels.follows), (1,) * (axes - tensor.dim()) + tuple(tensor.shape)


def _is_part(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()


def _reduce(follower: Follower, call: Call) -> None:
    tensor, out = source(call), call.outputs[0]
    given = call.argument("dim")
    axes = [given] if isinstance(given, int) else given
    axes = [numbered(axis, tensor.dim()) for axis in axes or range(tensor.dim())]
    labels = follower.of(tensor)
    ways = follower.without(labels, axes, f"{follower.where} takes the {_word(call)} over them")
    if out.dim() != tensor.dim():
        ways = [way.squeeze(tuple(axes)) for way in ways]
    for each in call.outputs:
        follower.set(each, Labels(tuple(ways), labels.follows))


def _word(call: Call) -> str:
    words = {"amax": "maximum", "max": "maximum", "amin": "minimum", "min": "minimum",
             "linalg_vector_norm": "norm", "var": "variance", "var_mean": "variance",
             "std": "deviation"}  # fmt: skip
    return words.get(call.name, call.name.strip("_").replace("_", " "))


def _along_axis(follower: Follower, call: Call) -> None:
    axis = numbered(call.argument("dim"), source(call).dim())
    carry(follower, call, [axis], f"{follower.where} takes the {_word(call)} over them")


def _over_positions(follower: Follower, call: Call) -> None:
    """Pooling, interpolation and the like over the last axes."""
    found = re.search(r"([123])d", call.name)
    axes, spatial = source(call).dim(), int(found[1]) if found else 1
    carry(follower, call, range(axes - spatial, axes), f"{follower.where} mixes them")


def _gated(follower: Follower, call: Call) -> None:
    """One half times the sigmoid of the other."""
    tensor, out = source(call), call.outputs[0]
    take(follower, tensor, numbered(call.argument("dim"), tensor.dim()), [(out, 0)], 2)


# Norms


def _batch_norm(follower: Follower, call: Call) -> None:
    tensor, *others = call.args[:5]
    follower.norm(tensor, call.outputs[0], 1, others)


def _layer_norm(follower: Follower, call: Call) -> None:
    tensor, shape, *others = call.args[:4]
    last = range(tensor.dim() - len(shape), tensor.dim())
    if len(shape) > 1 or follower.layer not in follower.channels:
        carry(follower, call, last, f"{follower.where} normalises over them")
    else:
        follower.norm(tensor, call.outputs[0], tensor.dim() - 1, others)


def _group_norm(follower: Follower, call: Call) -> None:
    tensor, weight, bias = call.args[:3]
    groups = call.argument("group")
    if follower.layer not in follower.channels:
        carry(follower, call, [1], f"{follower.where} normalises over them")
        return
    labels = follower.of(tensor)
    for way in labels.ways:
        if way.shape[1] > 1:
            blocks = follower.along(way, 1).reshape(groups, -1)
            why = f"{follower.where} normalises them together"
            follower.atoms.tie(blocks[:, 1:], blocks[:, :1], why)
    follower.norm(tensor, call.outputs[0], 1, (weight, bias))


# Products


def _mixed(follower: Follower) -> str:
    return f"{follower.where} multiplies them with what cannot shrink"


def _matrices(letters: str, others: str, out: str) -> Rule:
    def rule(follower: Follower, call: Call) -> None:
        one, other = list(call.tensors)[-2:]
        met = follower.product(
            (follower.of(one), one.shape), letters, (follower.of(other), other.shape), others, out,
            _mixed(follower),
        )  # fmt: skip
        if call.name in ("addmm", "baddbmm", "addmv", "addbmm"):
            added = _operand(follower, call.args[0], len(out))
            met = follower.meet([(met, call.outputs[0].shape), added], _mixed(follower))
        follower.set(call.outputs[0], met)

    return rule


def _attention(follower: Follower, call: Call) -> None:
    """softmax(query · key + mask) · value; heads are an axis of their own."""
    query, key, value = ((follower.of(one), one.shape) for one in call.args[:3])
    if call.argument("scale") is None:
        why = f"{follower.where} scales attention by how many there are"
        query, key = (
            (Labels(tuple(follower.without(labels, [3], why))), shape)
            for labels, shape in (query, key)
        )
    scores = follower.product(query, "bhne", key, "bhse", "bhns", _mixed(follower))
    shape = (*query[1][:3], key[1][2])
    mask = call.argument("attn_mask", call.argument("attn_bias"))
    if mask is not None:
        scores = follower.meet([(scores, shape), _operand(follower, mask, 4)], _mixed(follower))
    over = follower.without(scores, [3], f"{follower.where} takes the softmax over them")
    weights = Labels(tuple(over)), shape
    met = follower.product(weights, "bhns", value, "bhsv", "bhnv", _mixed(follower))
    follower.set(call.outputs[0], met)


def _convolution(follower: Follower, call: Call) -> None:
    tensor, weight, bias = call.args[:3]
    transposed, groups, spatial = call.args[6], call.args[8], tensor.dim() - 2
    one, other = (follower.of(tensor), tensor.shape), (follower.of(weight), weight.shape)
    if groups > 1:
        met = _grouped(follower, one, other, transposed, groups)
    else:
        met = follower.product(
            one, "nk" + "pqr"[:spatial], other, ("ko" if transposed else "ok") + "uvw"[:spatial],
            "no" + "xyz"[:spatial], _mixed(follower),
        )  # fmt: skip
    out = call.outputs[0]
    if bias is not None:
        shape = (1, -1, *(1,) * spatial)
        added = Labels(tuple(way.reshape(shape) for way in follower.of(bias).ways))
        shape = (1, out.shape[1], *(1,) * spatial)
        met = follower.meet([(met, (1, *out.shape[1:])), (added, shape)], _mixed(follower))
    follower.set(out, met)


def _grouped(
    follower: Follower, one: Operand, other: Operand, transposed: bool, groups: int
) -> Labels:
    """Whole groups go: the inputs, the weights and the outputs of one are one unit."""
    axes = range(2, len(one[1]))
    (rows, columns), sums = other[1][:2], f"{follower.where} sums over them"
    read = follower.without(one[0], axes, sums)
    across = [way for way in read if way.shape[1] == 1]
    inputs = [follower.along(way, 1) for way in read if way.shape[1] > 1]
    # Of a weight the rows of one group follow each other, whatever they are.
    weights = [spread(way, other[1], [0]) for way in follower.without(other[0], axes, sums)]
    if not inputs or not weights:
        follower.pin(inputs + weights, _mixed(follower))
        return Labels(tuple(across))
    why = f"{follower.where} is a convolution in {groups} groups, which can only go whole"
    blocks = [way.reshape(groups, -1) for way in inputs + weights]
    for block in blocks:
        follower.atoms.tie(block[:, 1:], block[:, :1], why)
    unit = follower.joined([block[:, 0] for block in blocks], why)
    out = np.repeat(unit, columns if transposed else rows // groups)
    return Labels((*across, out.reshape(1, -1, *(1,) * len(axes))))


_RULES: dict[str, Rule] = {
    **MOVING,
    **rules(_pointwise, "hardswish floor_divide masked_fill _prelu_kernel threshold copy"),
    **rules(_reduce, """mean sum amax amin prod var var_mean std std_mean linalg_vector_norm
        logsumexp any all max min argmax argmin norm"""),
    **rules(_along_axis, """_softmax _log_softmax _safe_softmax cumsum cumprod topk sort
        softmax log_softmax"""),
    **rules(_over_positions, """max_pool1d_with_indices max_pool2d_with_indices
        max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d
        _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool1d
        upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d
        upsample_bicubic2d upsample_linear1d upsample_trilinear3d _upsample_nearest_exact2d
        _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d
        reflection_pad3d replication_pad1d replication_pad2d replication_pad3d"""),
    **rules(_gated, "glu"),
    **rules(_batch_norm, """native_batch_norm cudnn_batch_norm miopen_batch_norm
        _native_batch_norm_legit _native_batch_norm_legit_no_training"""),
    **rules(_layer_norm, "native_layer_norm"),
    **rules(_group_norm, "native_group_norm"),
    **rules(_matrices("mk", "kn", "mn"), "mm addmm"),
    **rules(_matrices("bmk", "bkn", "bmn"), "bmm baddbmm"),
    **rules(_matrices("mk", "k", "m"), "mv addmv"),
    **rules(_matrices("k", "k", ""), "dot vdot"),
    **rules(_convolution, "convolution"),
}  # fmt: skip
