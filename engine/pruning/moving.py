"""How operators that move elements move their labels; what picks by number pins them."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from torch import Tensor

from engine.pruning.following import Call, Follower, Operand, Rule
from engine.pruning.labels import FOLLOWS, Labelling, Labels, aligned, reshaped, spread


def unknown(follower: Follower, call: Call) -> None:
    """What an operator without a rule puts out cannot be told."""
    for tensor in call.tensors:
        follower.pin(
            follower.of(tensor).ways,
            f"{follower.where} uses the operator {call.name}, through which channels cannot be "
            "followed",
        )


def source(call: Call) -> Tensor:
    """The tensor that is moved."""
    first = call.args[0] if call.args else next(call.tensors)
    return first if isinstance(first, Tensor) else next(call.tensors)


def numbered(axis: int, axes: int) -> int:
    """The axis, counted from the front."""
    return axis % axes if axes else 0


def same(follower: Follower, call: Call) -> None:
    """What comes out is labelled as what goes in."""
    follower.set(call.outputs[0], follower.of(source(call)))


def _made(follower: Follower, call: Call) -> None:
    follower.set(call.outputs[0], FOLLOWS)


def _moved(
    follower: Follower, call: Call, move: Callable[[Labelling], Labelling], out: Tensor
) -> None:
    labels = follower.of(source(call))
    follower.set(out, Labels(tuple(map(move, labels.ways)), labels.follows))


def _reshape(follower: Follower, call: Call) -> None:
    tensor, out = source(call), call.outputs[0]
    labels = follower.of(tensor)
    ways = []
    if _names_sizes(follower, tensor.shape, out.shape):
        for way in labels.ways:
            follower.atoms.assume(way)
    for way in labels.ways:
        moved, outer = reshaped(way, tensor.shape, out.shape)
        if outer:
            # Parts of one axis keep one size: the inner one shrinks, in every outer part alike.
            inner = moved[tuple(slice(1 if axis in outer else None) for axis in range(out.dim()))]
            why = f"{follower.where} divides them into parts of one width"
            follower.atoms.tie(moved, inner, why, assumed=True)
            moved = inner
        ways.append(moved)
    follower.set(out, Labels(tuple(ways), labels.follows))


def _names_sizes(follower: Follower, old: Sequence[int], new: Sequence[int]) -> bool:
    """Whether the model's code may give the new shape in numbers, which would stay as they are."""
    if follower.layer in follower.linear:
        return False  # torch's own, on the way to a matrix product
    return [size for size in old if size > 1] != [size for size in new if size > 1]


def _permute(follower: Follower, call: Call) -> None:
    axes = source(call).dim()
    if call.name.startswith("permute"):
        order = [numbered(axis, axes) for axis in call.argument("dims")]
    else:
        one, other = (0, axes - 1) if call.name in ("t", "t_") else _pair(call, axes)
        order = list(range(axes))
        if axes > 1:
            order[one], order[other] = order[other], order[one]
    _moved(follower, call, lambda way: way.transpose(order), call.outputs[0])


def _pair(call: Call, axes: int) -> tuple[int, int]:
    return numbered(call.argument("dim0"), axes), numbered(call.argument("dim1"), axes)


def _expand(follower: Follower, call: Call) -> None:
    out = call.outputs[0]
    _moved(follower, call, lambda way: aligned(way, out.dim()), out)


def _select(follower: Follower, call: Call) -> None:
    axis = numbered(call.argument("dim"), source(call).dim())
    ways = follower.without(
        follower.of(source(call)), [axis], f"{follower.where} picks one of them by its number"
    )
    labels = Labels(tuple(way.squeeze(axis) for way in ways), follower.of(source(call)).follows)
    for out in call.outputs:
        follower.set(out, labels)


def _slice(follower: Follower, call: Call) -> None:
    tensor, out = source(call), call.outputs[0]
    axis = numbered(call.argument("dim"), tensor.dim())
    size, part = tensor.shape[axis], out.shape[axis]
    if size == part:
        same(follower, call)
        return
    start, step = call.argument("start") or 0, call.argument("step")
    start = min(max(0, start + size if start < 0 else start), size)
    is_even = part > 1 and step == 1 and size % part == start % part == 0
    take(follower, tensor, axis, [(out, start)], size // part if is_even else 0)


def _split(follower: Follower, call: Call) -> None:
    tensor, outs = source(call), call.outputs
    axis = numbered(call.argument("dim"), tensor.dim())
    sizes = [out.shape[axis] for out in outs]
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    parts = len(outs) if len(set(sizes)) == 1 else 0
    take(follower, tensor, axis, list(zip(outs, starts, strict=True)), parts)


def take(
    follower: Follower, tensor: Tensor, axis: int, taken: list[tuple[Tensor, int]], parts: int
) -> None:
    """Give each of the tensors taken its part of the labels along the axis.

    Args:
        taken: each with where it starts.
        parts: how many of one size there are; 0: they differ, so that none can shrink.
    """
    labels = follower.of(tensor)
    if not parts:
        ways = follower.without(
            labels, [axis], f"{follower.where} takes parts of them of different sizes"
        )
        labels = Labels(tuple(ways), labels.follows)
    for way in labels.ways:
        if parts > 1 and way.shape[axis] > 1:
            each = np.split(way, parts, axis)
            for other in each[1:]:
                why = f"{follower.where} takes {parts} equal parts of them"
                follower.atoms.tie(other, each[0], why, assumed=True)
    for out, start in taken:
        stop = start + out.shape[axis]
        cut = [
            way if way.shape[axis] == 1 else way.take(range(start, stop), axis)
            for way in labels.ways
        ]
        follower.set(out, Labels(tuple(cut), labels.follows))


def _cat(follower: Follower, call: Call) -> None:
    tensors = [one for one in call.args[0] if one.dim() == call.outputs[0].dim()]
    axis = numbered(call.argument("dim"), call.outputs[0].dim())
    _side_by_side(
        follower, [(follower.of(one), tuple(one.shape)) for one in tensors], axis, call.outputs[0]
    )


def _stack(follower: Follower, call: Call) -> None:
    out = call.outputs[0]
    axis = numbered(call.argument("dim"), out.dim())
    operands = []
    for tensor in call.args[0]:
        labels = follower.of(tensor)
        ways = tuple(np.expand_dims(way, axis) for way in labels.ways)
        shape = (*tensor.shape[:axis], 1, *tensor.shape[axis:])
        operands.append((Labels(ways, labels.follows), shape))
    _side_by_side(follower, operands, axis, out)


def _side_by_side(follower: Follower, operands: Sequence[Operand], axis: int, out: Tensor) -> None:
    """Labels along the axis are put side by side, those across it meet."""
    why = f"{follower.where} puts them beside what cannot shrink"
    across = [
        (Labels(tuple(way for way in labels.ways if way.shape[axis] == 1), labels.follows),
         (*shape[:axis], 1, *shape[axis + 1 :]))
        for labels, shape in operands
    ]  # fmt: skip
    met = follower.meet(across, why)
    runs = []
    for labels, shape in operands:
        lengthwise = [way for way in labels.ways if way.shape[axis] > 1]
        blank = np.full([1] * len(shape), -1)
        run = follower.joined(lengthwise, why) if lengthwise else blank
        runs.append(spread(run, shape, [axis]))
    if any((run >= 0).any() for run in runs):
        full = [max(run.shape[at] for run in runs) for at in range(out.dim())]
        whole = [
            np.broadcast_to(run, [*full[:axis], run.shape[axis], *full[axis + 1 :]]) for run in runs
        ]
        met = Labels((*met.ways, np.concatenate(whole, axis)))
    follower.set(out, met)


def _roll(follower: Follower, call: Call) -> None:
    tensor = source(call)
    axes = [numbered(axis, tensor.dim()) for axis in call.argument("dims")] or range(tensor.dim())
    carry(follower, call, axes, f"{follower.where} shifts them by a number of places")


def _flip(follower: Follower, call: Call) -> None:
    axes = [numbered(axis, source(call).dim()) for axis in call.argument("dims")]
    _moved(follower, call, lambda way: np.flip(way, tuple(axes)), call.outputs[0])


def _repeat(follower: Follower, call: Call) -> None:
    repeats = call.argument("repeats")

    def move(way: Labelling) -> Labelling:
        way = aligned(way, len(repeats))
        return np.tile(
            way, [n if size > 1 else 1 for n, size in zip(repeats, way.shape, strict=True)]
        )

    _moved(follower, call, move, call.outputs[0])


def _pad(follower: Follower, call: Call) -> None:
    tensor, pad = source(call), call.argument("pad")
    by_axis = [(pad[at], pad[at + 1]) for at in range(0, len(pad), 2)]
    widths = [(0, 0)] * (tensor.dim() - len(by_axis)) + by_axis[::-1]
    cropped = [axis for axis, ends in enumerate(widths) if min(ends) < 0]
    ways = follower.without(
        follower.of(tensor), cropped, f"{follower.where} crops a number of them"
    )
    padded = tuple(
        np.pad(way, [e if s > 1 else (0, 0) for e, s in zip(widths, way.shape, strict=True)],
               constant_values=-1)
        for way in ways
    )  # fmt: skip
    follower.set(call.outputs[0], Labels(padded, follower.of(tensor).follows))


def carry(follower: Follower, call: Call, axes: Iterable[int], why: str) -> None:
    """All outputs are labelled as the input is, but along these axes."""
    labels = follower.of(source(call))
    ways = tuple(follower.without(labels, axes, why))
    for out in call.outputs:
        if out.dim() == source(call).dim():
            follower.set(out, Labels(ways, labels.follows))


def _as_strided(follower: Follower, call: Call) -> None:
    tensor, out = source(call), call.outputs[0]
    if tensor.shape == out.shape and tensor.stride() == out.stride():
        same(follower, call)
    else:
        unknown(follower, call)


def _index(follower: Follower, call: Call) -> None:
    tensor, indices = call.args[0], call.args[1]
    at = [axis for axis, one in enumerate(indices) if one is not None]
    labels = follower.of(tensor)
    ways = follower.without(labels, at, f"{follower.where} picks some of them by their numbers")
    # Indexed axes become one run of new ones: in their place, or in front when they lie apart.
    new = call.outputs[0].dim() - (tensor.dim() - len(at))
    place = at[0] if at[-1] - at[0] == len(at) - 1 else 0

    def move(way: Labelling) -> Labelling:
        rest = [size for axis, size in enumerate(way.shape) if axis not in at]
        return way.reshape(*rest[:place], *(1,) * new, *rest[place:])

    follower.set(call.outputs[0], Labels(tuple(map(move, ways)), labels.follows))


def _index_select(follower: Follower, call: Call) -> None:
    axis = numbered(call.argument("dim"), source(call).dim())
    carry(follower, call, [axis], f"{follower.where} picks some of them by their numbers")


def _embedding(follower: Follower, call: Call) -> None:
    weight, ids = call.args[:2]
    ways = follower.without(
        follower.of(weight), [0], f"{follower.where} picks some of them by their numbers"
    )
    shape = (*(1,) * ids.dim(), -1)
    follower.set(call.outputs[0], Labels(tuple(way.reshape(shape) for way in ways)))


def _pixel_shuffle(follower: Follower, call: Call) -> None:
    """(C·r·r, H, W) to (C, H·r, W·r): what is spread over positions goes together."""
    square, axes = call.argument("upscale_factor") ** 2, call.outputs[0].dim()
    labels = follower.of(source(call))
    why = f"{follower.where} spreads {square} of them over one's positions"
    ways = []
    for way in follower.without(labels, [axes - 2, axes - 1], f"{follower.where} mixes them"):
        blocks = np.moveaxis(way, axes - 3, -1).reshape(-1, square)
        follower.atoms.tie(blocks[:, 1:], blocks[:, :1], why)
        ways.append(way.take(range(0, way.shape[axes - 3], square), axes - 3))
    follower.set(call.outputs[0], Labels(tuple(ways)))


def rules(rule: Rule, names: str) -> dict[str, Rule]:
    """That rule for operators of these names."""
    return dict.fromkeys(names.split(), rule)


MOVING: dict[str, Rule] = {
    **rules(same, """alias clone contiguous detach lift lift_fresh lift_fresh_copy _to_copy
        dropout zero fill bernoulli"""),
    **rules(_made, """zeros zeros_like ones ones_like full full_like empty empty_like new_zeros
        new_ones new_full new_empty scalar_tensor rand rand_like randn randn_like
        empty_strided new_empty_strided"""),
    **rules(_reshape, """view _unsafe_view _reshape_alias reshape squeeze unsqueeze flatten
        unflatten"""),
    **rules(_permute, "permute transpose t"),
    **rules(_expand, "expand"),
    **rules(_select, "select unbind"),
    **rules(_slice, "slice"),
    **rules(_split, "split split_with_sizes unsafe_split unsafe_split_with_sizes chunk"),
    **rules(_cat, "cat"),
    **rules(_stack, "stack"),
    **rules(_roll, "roll"),
    **rules(_flip, "flip"),
    **rules(_repeat, "repeat"),
    **rules(_pad, "constant_pad_nd"),
    **rules(_as_strided, "as_strided"),
    **rules(_index, "index _unsafe_index"),
    **rules(_index_select, "index_select"),
    **rules(_embedding, "embedding"),
    **rules(_pixel_shuffle, "pixel_shuffle"),
}  # fmt: skip
