"""The mapping of one product on an array, searched for the least energy.

The loop nest has three levels, DRAM over global buffer over array. A tile of so many input
channels, filters, output rows and images lies in the buffer; a pass of the array takes a part of
it. At each level only the innermost of three loops (filters, channels, strips of rows and images)
decides what is fetched again, so that there are three orders at each: what the innermost loop
does not index stays, the rest is fetched again in every turn of it (the rule of nn-dataflow).

* Row-stationary (Eyeriss, ISCA 2016): a set of processing elements is as high as the kernel and
  as wide as a strip of output rows; sets side by side take further channels and filters. Each
  element convolves rows: 4 accesses of its register file a MAC (weight, input, partial sum read and
  written). A row of inputs or of partial sums stays there across passes only if all of it fits.
* Weight-stationary: an element holds a weight, inputs are broadcast to the array, partial sums move
  from element to element.
* Output-stationary: an element holds a partial sum, weights and inputs are delivered for each MAC.
* Partial sums that are put away ``a`` times take ``2a - 1`` accesses: ``a`` writes, ``a - 1``
  reads (ISCA 2016). As there, an access of the buffer is one between it and the array: that a word
  comes from DRAM or goes there is paid for by DRAM's cost alone.
* Rows that two strips share are fetched for both. Padding is not fetched, and is delivered to the
  array. Every delivery of a word to an element counts, and every partial sum that one element hands
  to the next.
* A tile is a whole number of passes. Kernels higher than the array, or wider than the register
  file, are folded: taken in parts that add up like further channels. Rows too long for the buffer
  are cut into pieces.

The space that is searched exactly: numbers of tiles along channels, rows and images, and of
channels and filters in an element and of sets side by side, that are powers of two or the most
there can be (sets that are left take filters; in volumes all of them or none); the widest strip
that cuts the output's rows evenly, half of it, and so on; all nine pairs of orders; the largest
number of filters that then fits the buffer. Fewer bits only add to the space, so that energy never
rises with them.

What comes out is not one mapping but all that are best for some costs and zeros (the Pareto front
over weights, inputs and partial sums from DRAM, buffer and array accesses): when only costs or
zeros change, the best of them is still the best of the space.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.energy.estimates import Dataflow
from engine.energy.hardware import Hardware
from engine.energy.loops import Loops

Numbers: TypeAlias = NDArray[Any]

KEPT_FRONTS = 4096


class Bits(NamedTuple):
    """Width of a word of each data type."""

    weights: int
    input: int
    output: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """What of the hardware decides which mappings there are: not its costs."""

    rows: int
    columns: int
    word_bits: int
    shared: int
    separate: tuple[int, int, int]
    buffer: int

    @classmethod
    def of(cls, hardware: Hardware) -> "Geometry":
        """The geometry of that hardware; sizes in bits."""
        registers = hardware.register_file
        return cls(
            hardware.array.rows,
            hardware.array.columns,
            hardware.word_bits,
            registers.shared_bytes * 8,
            (registers.weights_bytes * 8, registers.input_bytes * 8, registers.output_bytes * 8),
            hardware.global_buffer.bytes * 8,
        )

    def most(self, bits: Bits) -> int:
        """The most weights that a register file can hold."""
        return (self.shared or self.separate[0]) // bits.weights

    def widest(self) -> int:
        """The widest kernel row that a register file can hold, of full words."""
        word = self.word_bits
        if self.shared:
            return max(1, (self.shared // word - 1) // 2)
        return max(1, min(self.separate[0], self.separate[1]) // word)

    def holds(self, weights: Numbers, inputs: Numbers, outputs: Numbers) -> NDArray[np.bool_]:
        """Whether a register file holds so many bits of each."""
        if self.shared:
            return np.asarray(weights + inputs + outputs <= self.shared)
        most = self.separate
        return np.asarray((weights <= most[0]) & (inputs <= most[1]) & (outputs <= most[2]))


@dataclass(frozen=True, slots=True)
class Accesses:
    """Words moved by all groups of a product under one mapping.

    ``dram``, ``buffer`` and ``array`` are of weights, inputs and outputs (partial sums) in turn.

    Attributes:
        spilled: words of partial sums among the DRAM accesses of outputs: all but the last write.
        utilisation: share of the processing elements that work in a usual pass.
        tile: channels, filters, output rows and images in the buffer.
        pass_: channels, filters and output rows in one pass of the array.
    """

    dram: tuple[float, float, float]
    spilled: float
    buffer: tuple[float, float, float]
    array: tuple[float, float, float]
    utilisation: float
    tile: tuple[int, int, int, int]
    pass_: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Front:
    """The mappings of a product that are best for some costs.

    Attributes:
        counts: a row a mapping: DRAM words of weights, inputs and spilled partial sums, then
            buffer words of weights, inputs, outputs, then array words of the three.
        said: a row a mapping: utilisation, the tile and the pass of :class:`Accesses`.
        final: words of results, written to DRAM once under every mapping.
    """

    counts: Numbers
    said: Numbers
    final: float

    def best(self, costs: Numbers) -> Accesses:
        """The mapping of least energy.

        Args:
            costs: energy of a word for each column of ``counts``.
        """
        at = int(np.argmin(self.counts @ costs))
        found, said = self.counts[at], self.said[at]
        d, b, a = found[:3], found[3:6], found[6:]
        return Accesses(
            (float(d[0]), float(d[1]), float(d[2]) + self.final),
            float(d[2]),
            (float(b[0]), float(b[1]), float(b[2])),
            (float(a[0]), float(a[1]), float(a[2])),
            float(said[0]),
            (int(said[1]), int(said[2]), int(said[3]), int(said[4])),
            (int(said[5]), int(said[6]), int(said[7])),
        )


@lru_cache(maxsize=KEPT_FRONTS)
def front(
    loops: Loops,
    bits: Bits,
    geometry: Geometry,
    dataflow: Dataflow,
    packs: bool = True,
    resident: bool = False,
) -> Front | None:
    """All mappings of a product that are best for some costs; None when none fits the hardware.

    Args:
        packs: whether zeros may make some words from DRAM cheaper than others.
        resident: inputs do not come from DRAM at all.
    """
    found = []
    for cut in _cuts(loops, geometry):
        tilings = _tilings(cut, _PASSES[dataflow](cut, bits, geometry), bits, geometry)
        keep = _best_for_some(tilings.objectives(bits, packs, resident), tilings.utilisation)
        found.append(tilings.rows(keep))
    if len(found) > 1:
        counts = np.concatenate([counts for counts, _ in found])
        said = np.concatenate([said for _, said in found])
        far, near = _far((*counts.T[:3],), bits, packs, resident), _near((*counts.T[3:],), bits)
        keep = _best_for_some((*far, *near), said[:, 0])
        found = [(counts[keep], said[keep])]
    ((counts, said),) = found
    if not len(counts):
        return None
    return Front(counts * loops.groups, said, float(loops.outputs * loops.groups))


# -- rows too long for the buffer


def _cuts(loops: Loops, geometry: Geometry) -> Iterator[Loops]:
    """The product with its rows in 1, 2, 4, … pieces, until a row of full words fits.

    The axes between rows and columns are cut before the columns are. A piece is as if it were an
    image of its own.
    """
    words = geometry.buffer // geometry.word_bits
    cut, middle, columns = loops, loops.middle, loops.columns
    while True:
        yield cut
        strip = min(cut.under(0, 1), cut.in_rows) * cut.in_middle * cut.in_columns
        fits = strip + cut.middle * cut.columns + prod(cut.taps) <= words
        if fits or middle == columns == 1:
            return
        if middle > 1:
            middle = ceil(middle / 2)
        else:
            columns = ceil(columns / 2)
        pieces = ceil(loops.middle / middle) * ceil(loops.columns / columns)
        cut = replace(
            loops,
            images=loops.images * pieces,
            middle=middle,
            in_middle=min(loops.in_middle, _span(loops, 1, middle)),
            columns=columns,
            in_columns=min(loops.in_columns, _span(loops, 2, columns)),
        )


def _span(loops: Loops, axis: int, outputs: int) -> int:
    """Inputs along an axis from the first under so many outputs to what the next ones begin with.

    All of them are fetched, whether read or not, as along a line that is not cut; but for a single
    output, which has to fit where nothing else does.
    """
    stride, reach = loops.stride[axis], (loops.taps[axis] - 1) * loops.dilation[axis] + 1
    return reach if outputs == 1 else (outputs - 1) * stride + max(stride, reach)


# -- what one pass of the array takes


@dataclass(frozen=True, slots=True)
class Passes:
    """Ways to use the array for one pass; every field has a number a way.

    Attributes:
        channels, filters, rows: that a pass takes.
        folds: passes that it takes to work through so many channels.
        turns: passes over so many rows of one image.
        keeps: what stays in the elements while the innermost loop turns, see below.
        inputs: words of inputs read from the buffer for all passes of one tile of filters.
        fan: elements that a weight read from the buffer is delivered to.
        each: deliveries of inputs and of outputs, whatever the tiling is.
        visit: deliveries of inputs every time that all tiles of filters are gone through.
        utilisation: share of the elements at work, groups side by side where there is room.
    """

    channels: Numbers
    filters: Numbers
    rows: Numbers
    folds: Numbers
    turns: Numbers
    keeps: Numbers
    inputs: Numbers
    fan: Numbers
    each: Numbers
    visit: Numbers
    utilisation: Numbers


_WEIGHTS, _INPUTS, _OUTPUTS = 0.0, 1.0, 2.0
"""What the innermost loop of the array leaves in place."""


def _row_stationary(loops: Loops, bits: Bits, geometry: Geometry) -> Passes:
    high, wide = geometry.rows, geometry.columns
    taps_down, taps_between, taps_across = loops.taps
    tall = ceil(taps_down / ceil(taps_down / high))  # rows of the kernel in a set
    across = ceil(taps_across / ceil(taps_across / geometry.widest()))  # taps in an element
    folds_across = ceil(taps_across / across)
    folds = ceil(taps_down / tall) * folds_across * taps_between
    parts = loops.channels * folds  # that add up to one output
    delivered = loops.under(2, loops.columns)
    few = {1} if loops.middle > 1 else set()
    held = geometry.most(bits)
    q, r, p, t, strip, keeps = np.array(
        [
            (q, r, p, t, strip, keeps)
            for strip in even_parts(loops.rows, wide)
            for r in series(min(high // tall * (wide // strip), parts))
            for t in sorted({min(high // tall * (wide // strip) // r, loops.filters), *few})
            for q in series(ceil(parts / r))
            if q * across <= held
            for p in series(ceil(loops.filters / t))
            if p * q * across <= held
            for keeps in (_WEIGHTS, _INPUTS, _OUTPUTS)
        ]
        # The smallest pass, for buffers that hold little more.
        + [(1, 1, 1, 1, strip, _WEIGHTS) for strip in even_parts(loops.rows, wide)],
        dtype=np.float64,
    ).T
    row = np.where(keeps == _INPUTS, delivered, across)
    sums = np.where(keeps == _OUTPUTS, loops.columns, 1)
    fits = geometry.holds(
        p * q * across * bits.weights, q * row * bits.input, p * sums * bits.output
    )
    q, r, p, t, strip, keeps = (one[fits] for one in (q, r, p, t, strip, keeps))
    # Every element gets the row under its tap for each output row; sets apart in filters do too.
    lines = loops.rows * loops.middle * taps_down * taps_between * loops.images * loops.channels
    sent = lines * delivered * folds_across
    added = tall * np.ceil(parts / q)  # partial sums of elements that make up an output
    channels, passes = np.maximum(1.0, np.floor(q * r / folds)), np.ceil(folds / (q * r))
    chains = np.ceil(loops.channels / channels) * passes
    busy = np.minimum(r, np.ceil(parts / q)) * np.minimum(t, np.ceil(loops.filters / p))
    return Passes(
        channels=channels,
        filters=np.minimum(p * t, loops.filters),
        rows=strip,
        folds=passes,
        turns=np.full_like(q, loops.middle),
        keeps=keeps,
        inputs=_read(loops, strip, tall) * folds_across,
        fan=loops.rows / np.ceil(loops.rows / strip),
        each=np.stack(
            [
                np.where(keeps == _INPUTS, 0, sent * np.ceil(loops.filters / p)),
                loops.outputs * np.maximum(added - chains, 0),
            ]
        ),
        visit=np.where(keeps == _INPUTS, sent * t, 0),
        utilisation=_together(loops, busy, high // tall * np.floor(wide / strip))
        * tall
        * strip
        / (high * wide),
    )


def _together(loops: Loops, busy: Numbers, room: Numbers | int) -> Numbers:
    """What is at work when as many groups as there is room for are gone through side by side."""
    return busy * np.minimum(loops.groups, np.floor(room / busy))


def _read(loops: Loops, strips: Numbers, tall: int) -> Numbers:
    """Words of inputs that passes over strips so wide read from the buffer."""
    lines = {strip: loops.rows_fetched(int(strip), tall) for strip in np.unique(strips)}
    between = loops.middle * loops.taps[1] if loops.in_middle > 1 else loops.in_middle
    rows = np.array([lines[strip] for strip in strips], dtype=np.float64)
    return rows * between * loops.in_columns * loops.channels * loops.images


def _weight_stationary(loops: Loops, bits: Bits, geometry: Geometry) -> Passes:
    elements = geometry.rows * geometry.columns
    taps = prod(loops.taps)
    folds = ceil(taps / elements)
    held = ceil(taps / folds)  # taps of a channel in the array
    channels, filters = np.array(
        [
            (c, m)
            for c in series(min(loops.channels, elements // held))
            for m in (min(loops.filters, elements // (held * c)),)
        ]
        # The smallest pass, for buffers that hold little more.
        + [(1, 1)],
        dtype=np.float64,
    ).T
    one = np.ones_like(channels)
    macs = float(loops.outputs * loops.channels * taps)
    chains = np.ceil(loops.channels / channels) * folds
    return Passes(
        channels=channels,
        filters=filters,
        rows=one,
        folds=folds * one,
        turns=loops.middle * one,
        keeps=_WEIGHTS * one,
        inputs=loops.inputs * folds * one,
        fan=one,
        each=np.stack([macs * one, macs - loops.outputs * chains]),
        visit=0 * one,
        utilisation=_together(loops, held * channels * filters, elements) / elements,
    )


def _output_stationary(loops: Loops, bits: Bits, geometry: Geometry) -> Passes:
    elements = geometry.rows * geometry.columns
    columns, strip, filters = np.array(
        [
            (columns, strip, min(loops.filters, elements // (columns * strip)))
            for columns in even_parts(loops.columns, elements)
            for strip in even_parts(loops.rows, elements // columns)
        ]
        # The smallest pass, for buffers that hold little more.
        + [(1, 1, 1)],
        dtype=np.float64,
    ).T
    one = np.ones_like(columns)
    macs = float(loops.outputs * loops.channels * prod(loops.taps))
    across = np.ceil(loops.columns / columns)
    read = np.array([loops.under(2, int(c)) for c in columns]) * across / loops.in_columns
    return Passes(
        channels=one,
        filters=filters,
        rows=strip,
        folds=one,
        turns=loops.middle * across,
        keeps=_OUTPUTS * one,
        inputs=_read(loops, strip, loops.taps[0]) * np.maximum(read, 1),
        fan=loops.rows / np.ceil(loops.rows / strip) * loops.columns / across,
        each=np.stack([macs * one, 0 * one]),
        visit=0 * one,
        utilisation=_together(loops, columns * strip * filters, elements) / elements,
    )


_PASSES: dict[Dataflow, Callable[[Loops, Bits, Geometry], Passes]] = {
    "row-stationary": _row_stationary,
    "weight-stationary": _weight_stationary,
    "output-stationary": _output_stationary,
}

REGISTER_ACCESSES: dict[Dataflow, tuple[int, int, int]] = {
    "row-stationary": (1, 1, 2),
    "weight-stationary": (1, 0, 0),
    "output-stationary": (0, 0, 2),
}
"""Accesses of a register file for each MAC: of weights, inputs and partial sums."""


# -- tiles in the buffer


@dataclass(frozen=True, slots=True)
class Tilings:
    """Ways to tile, each under the three orders of the loops over tiles; one group's words.

    Attributes:
        dram: by order, then by data type (of outputs those spilled), a number a way.
        array_side: words between buffer and array, then to elements, by data type.
        said: columns of :attr:`Front.said`.
    """

    dram: tuple[tuple[Numbers, Numbers, Numbers], ...]
    array_side: tuple[Numbers, ...]
    said: tuple[Numbers, ...]

    @property
    def utilisation(self) -> Numbers:
        """Of every way under every order."""
        return np.tile(self.said[0], len(self.dram))

    def objectives(self, bits: Bits, packs: bool, resident: bool) -> tuple[Numbers, ...]:
        """What costs tell apart, of every way under every order."""
        far = [_far(one, bits, packs, resident) for one in self.dram]
        return (
            *(np.concatenate(one) for one in zip(*far, strict=True)),
            *(np.tile(one, len(self.dram)) for one in _near(self.array_side, bits)),
        )

    def rows(self, places: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
        """``counts`` and ``said`` of :class:`Front` at these places."""
        order, way = np.divmod(places, max(1, len(self.said[0])))
        dram = [np.stack(one)[order, way] for one in zip(*self.dram, strict=True)]
        return (
            np.stack([*dram, *(one[way] for one in self.array_side)]).T,
            np.stack([one[way] for one in self.said]).T,
        )


def _tilings(loops: Loops, passes: Passes, bits: Bits, geometry: Geometry) -> Tilings:
    """Every way to tile that fits."""
    way, channel_tiles, row_tiles, image_tiles = _tile_numbers(loops, passes)
    channels, filters, rows = (one[way] for one in (passes.channels, passes.filters, passes.rows))
    c = np.minimum(loops.channels, _share(loops.channels, channels, channel_tiles) * channels)
    e = np.minimum(loops.rows, _share(loops.rows, rows, row_tiles) * rows)
    n = np.ceil(loops.images / image_tiles)
    reach = np.minimum(loops.in_rows, _under(loops, e))
    room = geometry.buffer - bits.input * c * n * reach * loops.in_middle * loops.in_columns
    of_filter = bits.output * n * e * loops.middle * loops.columns + bits.weights * c * prod(
        loops.taps
    )
    m = np.floor(room / of_filter)
    m = np.where(m >= loops.filters, loops.filters, np.floor(m / filters) * filters)
    fits = m >= 1
    way, c, e, n, m = (one[fits] for one in (way, c, e, n, m))
    channels, filters, rows = (one[fits] for one in (channels, filters, rows))

    tiles_c, tiles_m = np.ceil(loops.channels / c), np.ceil(loops.filters / m)
    tiles_s = np.ceil(loops.rows / e) * np.ceil(loops.images / n)
    passes_m = np.ceil(loops.filters / filters)
    passes_s = np.ceil(loops.rows / rows) * loops.images * passes.turns[way]
    sums = np.ceil(loops.channels / channels) * passes.folds[way]
    keeps = passes.keeps[way]
    turns_o = 2 * np.where(keeps == _OUTPUTS, tiles_c, sums) - 1
    weights = loops.weights * np.where(keeps == _WEIGHTS, tiles_s, passes_s)
    inputs = passes.inputs[way] * np.where(keeps == _INPUTS, tiles_m, passes_m)
    outputs = loops.outputs * turns_o
    array = np.stack(
        [
            weights * passes.fan[way],
            passes.each[0][way] + passes.visit[way] * tiles_m,
            passes.each[1][way] + loops.outputs * (turns_o - 1) / 2,  # sums that are read back
        ]
    )
    fetched = _fetched(loops, e)
    spilled = loops.outputs * (2 * tiles_c - 2)
    once = np.full_like(c, loops.weights)
    return Tilings(
        # What the innermost loop leaves in the buffer: weights, inputs, outputs.
        (
            (once, fetched * tiles_m, spilled),
            (once * tiles_s, fetched, spilled),
            (once * tiles_s, fetched * tiles_m, np.zeros_like(c)),
        ),
        (weights, inputs, outputs, *array),
        (passes.utilisation[way], c, m, e, n, channels, filters, rows),
    )


def _tile_numbers(
    loops: Loops, passes: Passes
) -> tuple[NDArray[np.int64], Numbers, Numbers, Numbers]:
    """Every way to use the array with every number of tiles along channels, rows and images."""
    in_channels = np.ceil(loops.channels / passes.channels)
    in_rows = np.ceil(loops.rows / passes.rows)
    by_channels, by_rows = _numbers(in_channels), _numbers(in_rows)
    by_images = np.array(series(loops.images), dtype=np.float64)
    valid = _reached(by_channels, in_channels)[:, :, None] & _reached(by_rows, in_rows)[:, None, :]
    way, at_channels, at_rows = np.nonzero(valid)
    images = np.tile(by_images, len(way))
    way, at_channels, at_rows = (
        np.repeat(one, len(by_images)) for one in (way, at_channels, at_rows)
    )
    return (
        way,
        np.minimum(by_channels[at_channels], in_channels[way]),
        np.minimum(by_rows[at_rows], in_rows[way]),
        images,
    )


def _numbers(most: Numbers) -> Numbers:
    return np.array(series(int(most.max(initial=1))), dtype=np.float64)


def _reached(numbers: Numbers, most: Numbers) -> NDArray[np.bool_]:
    """Which numbers of tiles make sense: those up to the first that leaves one pass in each."""
    before = np.concatenate([[0.0], numbers[:-1]])
    return np.asarray(before[None, :] < most[:, None])


def _share(whole: int, step: Numbers, tiles: Numbers) -> Numbers:
    """Passes along one axis that a tile takes."""
    return np.ceil(np.ceil(whole / step) / tiles)


def _under(loops: Loops, rows: Numbers) -> Numbers:
    """As :meth:`Loops.under` along rows."""
    apart, over = loops.overlap(0)
    taps = loops.taps[0]
    return np.asarray(rows * taps - np.maximum(0, rows - apart) * max(0, taps - over))


def _fetched(loops: Loops, strips: Numbers) -> Numbers:
    """Words of inputs fetched from DRAM once over all strips so high."""
    sizes, place = np.unique(strips, return_inverse=True)
    rows = np.array([loops.rows_fetched(int(one)) for one in sizes], dtype=np.float64)
    line = loops.in_middle * loops.in_columns * loops.channels * loops.images
    return np.asarray(rows[place] * line)


# -- choosing


def _far(dram: Sequence[Numbers], bits: Bits, packs: bool, resident: bool) -> tuple[Numbers, ...]:
    """What costs tell apart of DRAM's words, in bits: all in one, or by data type."""
    moved = [one * width for one, width in zip(dram, bits, strict=True)]
    if resident:
        del moved[1]
    return tuple(moved) if packs else (np.sum(moved, axis=0),)


def _near(array_side: Sequence[Numbers], bits: Bits) -> tuple[Numbers, ...]:
    """What costs tell apart of the rest, in bits: to and from the buffer, and to elements."""
    return tuple(
        np.sum([one * width for one, width in zip(level, bits, strict=True)], axis=0)
        for level in (array_side[:3], array_side[3:])
    )


def _best_for_some(objectives: Sequence[Numbers], utilisation: Numbers) -> NDArray[np.int64]:
    """Places of the points that no other one beats in everything; of equals the busiest."""
    places = np.arange(len(utilisation))
    scaled = [one / max(float(one.max(initial=0)), 1.0) for one in objectives]
    for weights in _DIRECTIONS:  # a few good points first: they beat nearly all the others
        if not len(places):
            break
        sums = np.sum([one * weights[at % len(weights)] for at, one in enumerate(scaled)], axis=0)
        best = int(np.argmin(sums))
        better = scaled[0] < scaled[0][best]
        for one in scaled[1:]:
            better |= one < one[best]
        better |= np.all([one == one[best] for one in scaled], axis=0)
        places, scaled = places[better], [one[better] for one in scaled]
    order = np.lexsort((-utilisation[places], np.sum(scaled, axis=0)))
    left = [one[order] for one in scaled]
    places = places[order]
    keep: list[int] = []
    while len(places):
        keep.append(int(places[0]))
        # The first has the least sum of what is left, so that nothing left beats it.
        better = left[0] < left[0][0]
        for one in left[1:]:
            better |= one < one[0]
        places, left = places[better], [one[better] for one in left]
    return np.array(keep, dtype=np.int64)


_DIRECTIONS = ((1.0,), (3.0, 1.0), (1.0, 3.0), (1.0, 1.0, 3.0), (9.0, 3.0, 1.0), (1.0, 3.0, 9.0))


def series(most: int) -> list[int]:
    """1, 2, 4, 8, … below ``most``, and ``most``."""
    return [*(2**at for at in range((max(most, 1) - 1).bit_length())), max(most, 1)]


def even_parts(whole: int, most: int) -> list[int]:
    """The largest size up to ``most`` that cuts ``whole`` evenly, half of it, and so on to 1."""
    least = ceil(whole / most)
    return sorted({ceil(whole / (least * part)) for part in series(ceil(whole / least))})
