"""Products as loops: what a mapping search needs to know of a convolution or matrix product.

Every product becomes a convolution of rows. A matrix product of (P, C) by (C, M) is one of P rows
of one column each under a kernel of one tap; a transposed convolution is the ordinary one over
its input that gives the stride's phases as further filters (the sub-pixel convolution of Shi et
al., CVPR 2016); attention is two products whose scores stay on the chip.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil, gcd, prod

import numpy as np

from engine.operators import Operator, OperatorTable, TensorUse, Window


@dataclass(frozen=True, slots=True)
class Loops:
    """The loop bounds of one of ``groups`` equal, independent products.

    A row is what lies along all spatial axes but the first: ``middle`` lines of columns.

    Attributes:
        images, channels, filters: N, and C and M of one group.
        rows, middle, columns: of the output: along the first spatial axis, those between, the last.
        in_rows, in_middle, in_columns: of the input, without padding.
        taps, stride, dilation: of the kernel along the same three; several axes between are one.
        padding: along rows.
        padded: share of what the taps read that is padding.
    """

    groups: int
    images: int
    channels: int
    filters: int
    rows: int
    in_rows: int
    middle: int = 1
    in_middle: int = 1
    columns: int = 1
    in_columns: int = 1
    taps: tuple[int, int, int] = (1, 1, 1)
    stride: tuple[int, int, int] = (1, 1, 1)
    dilation: tuple[int, int, int] = (1, 1, 1)
    padding: int = 0
    padded: float = 0.0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all groups, those with padding among them."""
        return self.groups * self.outputs * self.channels * prod(self.taps)

    @property
    def weights(self) -> int:
        """Weights of one group."""
        return self.filters * self.channels * prod(self.taps)

    @property
    def inputs(self) -> int:
        """Inputs of one group, without padding."""
        return self.images * self.channels * self.in_rows * self.in_middle * self.in_columns

    @property
    def outputs(self) -> int:
        """Results of one group."""
        return self.images * self.filters * self.rows * self.middle * self.columns

    def under(self, axis: int, outputs: int) -> int:
        """Inputs along an axis that so many neighbouring outputs are made of, with padding."""
        apart, over = self.overlap(axis)
        taps = self.taps[axis]
        return outputs * taps - max(0, outputs - apart) * max(0, taps - over)

    def overlap(self, axis: int) -> tuple[int, int]:
        """An output has its inputs under some taps in common with the one so many outputs before.

        There they lie so many taps further. Nobody reads what lies between the taps.
        """
        stride, dilation = self.stride[axis], self.dilation[axis]
        common = gcd(stride, dilation)
        return dilation // common, stride // common

    def rows_fetched(self, strip: int, tall: int = 0) -> float:
        """Input rows fetched for all output rows in strips of so many: halos twice, padding not.

        Args:
            tall: rows of the kernel that are gone through at a time; all when left out.
        """
        tall = tall or self.taps[0]
        firsts = range(0, self.taps[0], tall)
        return sum(self._fetched(strip, first, min(tall, self.taps[0] - first)) for first in firsts)

    def _fetched(self, strip: int, first: int, taps: int) -> float:
        """As :meth:`rows_fetched`, of so many rows of the kernel from ``first`` on."""
        stride, dilation = self.stride[0], self.dilation[0]
        apart, over = self.overlap(0)
        begin = first * dilation - self.padding
        reach = (taps - 1) * dilation + 1
        # Strips that no padding touches, and that are whole, are all alike.
        step = strip * stride
        low = min(ceil(max(0, -begin) / step), ceil(self.rows / strip))
        last = (self.in_rows - begin - (strip - 1) * stride - reach) // step
        high = max(low, min(self.rows // strip, last + 1))
        alike = strip * taps - max(0, strip - apart) * max(0, taps - over)
        edges = (*range(low), *range(high, ceil(self.rows / strip)))
        starts = np.array(edges, dtype=np.int64)[:, None] * strip
        tap = np.arange(taps)[None, :]
        # Under a tap that an earlier output's later tap reaches, only the first outputs are new.
        new = np.where(tap + over < taps, apart, strip)
        new = np.minimum(new, np.minimum(strip, self.rows - starts))
        offset = starts * stride + begin + tap * dilation
        before = np.maximum(0, -(offset // stride))
        inside = np.minimum(new - 1, (self.in_rows - 1 - offset) // stride) - before + 1
        return float(alike) * (high - low) + float(np.maximum(inside, 0).sum())


@dataclass(frozen=True, slots=True)
class Product:
    """One product of an operator, and which tensors are its operands.

    Attributes:
        moving: the operand that is laid out in rows (feature map); None: it stays on the chip,
            the result of the product before.
        held: the operand that takes the place of the filters (weights, or a second activation).
        result: None: it stays on the chip, for the next product.
        macs: real ones; padding to whole phases is not among them.
        real: share of the loops' taps that are there, where phases are padded to be alike.
    """

    loops: Loops
    moving: TensorUse | None
    held: TensorUse
    result: TensorUse | None
    macs: int
    real: float = 1.0


def products_of(
    operator: Operator,
    operators: OperatorTable,
    buffer_bits: int,
    bits_of: Callable[[TensorUse], int],
) -> tuple[Product, ...]:
    """The products that an operator consists of; none when nobody has written down how.

    Args:
        operators: the pass that it belongs to.
        buffer_bits: capacity of the global buffer, which decides whether a recurrent layer's
            weights stay on the chip from step to step.
        bits_of: width in which the hardware holds a value.
    """
    name = operator.name.partition(".")[2]
    if operator.window is not None:
        return (_convolution(operator, operator.window),)
    if name.startswith("_scaled_dot_product"):
        return _attention(operator)
    if name == "mkldnn_rnn_layer":
        return _recurrence(operator, buffer_bits, bits_of)
    if name == "deform_conv2d":
        return (_deformed(operator),)
    if operator.name in FACTORS:
        return (_matrix(operator, operators),)
    return ()


FACTORS: Mapping[str, int] = {
    "aten.mm": 0, "aten.bmm": 0, "aten._int_mm": 0, "aten._scaled_mm": 0,
    "aten.mv": 0, "aten.dot": 0, "aten.vdot": 0,
    "aten.addmm": 1, "aten.baddbmm": 1, "aten.addmv": 1,
}  # fmt: skip
"""Where the factors of a matrix product begin among an operator's inputs: what is added comes
first, scales come last."""


def _convolution(operator: Operator, window: Window) -> Product:
    image, weight = operator.inputs[:2]
    result = operator.outputs[0]
    loops = (
        _transposed(image, weight, result, window)
        if window.transposed
        else _plain(image, weight, result, window)
    )
    real = weight.elements / (loops.weights * loops.groups) if window.transposed else 1.0
    return Product(loops, image, weight, result, operator.macs or 0, real)


def _plain(image: TensorUse, weight: TensorUse, result: TensorUse, window: Window) -> Loops:
    outputs, inputs, images = result.shape[2:], image.shape[2:], image.shape[0]
    while len(outputs) > 2 and _is_batch(window):  # frames that the kernel does not mix
        images *= outputs[0]
        outputs, inputs, window = outputs[1:], inputs[1:], _without_first_axis(window)
    return replace(
        _spatial(window.groups, image, result, outputs, inputs, window.kernel),
        images=images,
        stride=_three(window.stride),
        dilation=_three(window.dilation),
        padding=window.padding[0],
        padded=_padded(inputs, outputs, window),
    )


def _spatial(
    groups: int,
    image: TensorUse,
    result: TensorUse,
    outputs: tuple[int, ...],
    inputs: tuple[int, ...],
    taps: tuple[int, ...],
) -> Loops:
    """A convolution over these axes, of stride 1 and without padding."""
    rows, middle, columns = _three(outputs)
    in_rows, in_middle, in_columns = _three(inputs)
    return Loops(
        groups, image.shape[0], image.shape[1] // groups, result.shape[1] // groups,
        rows, in_rows, middle, in_middle, columns, in_columns, _three(taps),
    )  # fmt: skip


def _is_batch(window: Window) -> bool:
    return (window.kernel[0], window.stride[0], window.padding[0]) == (1, 1, 0)


def _without_first_axis(window: Window) -> Window:
    return replace(
        window,
        kernel=window.kernel[1:],
        stride=window.stride[1:],
        padding=window.padding[1:],
        dilation=window.dilation[1:],
    )


def _three(axes: tuple[int, ...]) -> tuple[int, int, int]:
    """One number each for rows, the axes between, and columns.

    Of a single axis: rows of one column each, so that a long signal is cut into strips.
    """
    return axes[0], prod(axes[1:-1]), prod(axes[1:][-1:])


def _padded(inputs: tuple[int, ...], outputs: tuple[int, ...], window: Window) -> float:
    """Share of what taps read that is padding: each axis by itself, as they are independent."""
    real = 1.0
    for size, out, taps, stride, dilation, padding in zip(
        inputs, outputs, window.kernel, window.stride, window.dilation, window.padding, strict=True
    ):
        inside = sum(_inside(out, stride, tap * dilation - padding, size) for tap in range(taps))
        real *= inside / max(1, out * taps)
    return 1.0 - real


def _inside(out: int, stride: int, offset: int, size: int) -> int:
    """Of the positions offset, offset + stride, … how many of ``out`` lie within 0 to size."""
    first = max(0, ceil(-offset / stride))
    last = min(out - 1, (size - 1 - offset) // stride)
    return max(0, last - first + 1)


def _transposed(image: TensorUse, weight: TensorUse, result: TensorUse, window: Window) -> Loops:
    pairs = zip(result.shape[2:], window.stride, strict=True)
    outputs = tuple(ceil(out / stride) for out, stride in pairs)
    taps = tuple(
        ceil(((one - 1) * dilation + 1) / stride)
        for one, dilation, stride in zip(window.kernel, window.dilation, window.stride, strict=True)
    )
    plain = _spatial(window.groups, image, result, outputs, image.shape[2:], taps)
    return replace(
        plain,
        filters=plain.filters * prod(window.stride),
        padding=((window.kernel[0] - 1) * window.dilation[0] - window.padding[0])
        // window.stride[0],
    )


def _deformed(operator: Operator) -> Product:
    """Its taps read wherever the offsets say: as many inputs, in the order of a plain one."""
    image, weight = operator.inputs[:2]
    result = operator.outputs[0]
    kernel = weight.shape[2:]
    stride = tuple(
        max(1, round(size / out))
        for size, out in zip(image.shape[2:], result.shape[2:], strict=True)
    )
    padding = tuple((taps - 1) // 2 for taps in kernel)
    groups = image.shape[1] // weight.shape[1]
    window = Window(kernel, stride, padding, (1,) * len(kernel), groups, False)
    return Product(_plain(image, weight, result, window), image, weight, result, operator.macs or 0)


def _rows(groups: int, rows: int, channels: int, filters: int) -> Loops:
    return Loops(groups, 1, channels, filters, rows, rows)


def _matrix(operator: Operator, operators: OperatorTable) -> Product:
    first = FACTORS[operator.name]
    left, right = operator.inputs[first : first + 2]
    result = operator.outputs[0]
    groups = left.shape[0] if len(left.shape) == 3 else 1
    channels = left.shape[-1]
    rows = left.shape[-2] if len(left.shape) > 1 else 1
    filters = right.shape[-1] if len(right.shape) > 1 else 1
    moving, held = left, right
    if left.weight and not right.weight:  # the weights take the filters' place on either side
        moving, held, rows, filters = right, left, filters, rows
    if groups > 1 and operators.is_repeated(held):  # one matrix for all groups is fetched once
        rows, groups = rows * groups, 1
    loops = _rows(groups, rows, channels, filters)
    return Product(loops, moving, held, result, operator.macs or 0)


def _attention(operator: Operator) -> tuple[Product, ...]:
    query, key, value = operator.inputs[:3]
    result = operator.outputs[0]
    groups = prod(key.shape[:-2])  # several query heads may share one of keys
    rows = prod(query.shape[:-1]) // groups
    scores = _rows(groups, rows, query.shape[-1], key.shape[-2])
    sums = _rows(groups, rows, key.shape[-2], value.shape[-1])
    return (
        Product(scores, query, key, None, scores.macs),
        Product(sums, None, value, result, sums.macs),
    )


def _recurrence(
    operator: Operator, buffer_bits: int, bits_of: Callable[[TensorUse], int]
) -> tuple[Product, ...]:
    sequence, to_hidden, hidden = operator.inputs[:3]
    result = operator.outputs[0]
    steps, batch = sequence.shape[:2]
    gates, width = hidden.shape
    once = _rows(1, steps * batch, to_hidden.shape[-1], gates)
    # A step needs the one before it: weights that do not fit are fetched again for each.
    stays = hidden.elements * bits_of(hidden) * 2 <= buffer_bits
    again = _rows(1, steps * batch, width, gates) if stays else _rows(steps, batch, width, gates)
    return (
        Product(once, sequence, to_hidden, None, once.macs),
        Product(again, None, hidden, result, again.macs),
    )
