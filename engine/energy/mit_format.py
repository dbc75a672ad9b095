"""The text format of the MIT energy estimation tool: a network as layer shapes.

One layer a line, 25 comma-separated integers: the number of the line; height, width, channels,
count, zero entries and bits of the input feature maps, the filters and the output feature maps;
stride; padding (T.-J. Yang et al., "A Method to Estimate the Energy Consumption of Deep Neural
Networks", Asilomar 2017, and the tool's own page, energyestimation.mit.edu).

It has convolutions, depthwise ones (filters of one channel) and fully connected layers (filters as
large as the map). Read beyond that: a layer in groups as one line, whose filters have fewer
channels than the map; depthwise filters as Keras has them, one filter of all channels.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import DescriptionUnreadable

MOST_LAYERS = 10_000
_MOST_BYTES = 4 << 20
_MOST_ENTRIES = 1 << 40
_MOST_MACS = 1 << 53  # counted exactly by a float
_MOST_BITS = 64

_DATA = ("ifmap", "filter", "ofmap")
_OF_EACH = ("height", "width", "channels", "count", "zeros", "bits")
FIELDS = (
    "index",
    *(f"{data} {name}" for data in _DATA for name in _OF_EACH),
    "stride y", "stride x",
    "padding top", "padding bottom", "padding left", "padding right",
)  # fmt: skip
"""Names of the fields of a line, in order."""

_MAY_BE_ZERO = frozenset(name for name in FIELDS if name.endswith("zeros") or "padding" in name)
# No sign, point or exponent, and no digits beyond ASCII's; short, so that no number is huge.
_INTEGER = re.compile(r"[0-9]{1,15}", re.ASCII)

Kind = Literal["conv", "depthwise", "fully connected"]


@dataclass(frozen=True, slots=True)
class Entries:
    """Feature maps or filters.

    Attributes:
        count: maps (the batch) or filters.
        zeros: how many of all entries are zero.
        bits: of one entry.
    """

    height: int
    width: int
    channels: int
    count: int
    zeros: int
    bits: int

    @property
    def entries(self) -> int:
        """Number of entries of them all."""
        return self.height * self.width * self.channels * self.count

    @property
    def zero_share(self) -> float:
        """Zeros as a share of all entries."""
        return self.zeros / self.entries


@dataclass(frozen=True, slots=True)
class DescribedLayer:
    """One line.

    Attributes:
        index: of the line, from 1.
        stride: y, x.
        padding: top, bottom, left, right.
    """

    index: int
    ifmap: Entries
    filter: Entries
    ofmap: Entries
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]

    @property
    def groups(self) -> int:
        """Independent groups of channels; as many as channels in a depthwise layer."""
        if self.filter.count == 1 and self.ofmap.channels == self.filter.channels:
            return self.ifmap.channels  # as Keras has it; of one channel it is the same
        return self.ifmap.channels // self.filter.channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates for all its maps."""
        window = self.filter.height * self.filter.width * (self.ifmap.channels // self.groups)
        return self.ofmap.entries * window

    @property
    def kind(self) -> Kind:
        """What the line stands for; a filter as large as its map makes it fully connected."""
        if self.groups > 1 and self.groups == self.ifmap.channels:
            return "depthwise"
        whole = (self.filter.height, self.filter.width) == (self.ifmap.height, self.ifmap.width)
        return "fully connected" if whole and self.groups == 1 and not any(self.padding) else "conv"

    @property
    def padded_entries(self) -> int:
        """Entries of its input feature maps with the padding around them."""
        top, bottom, left, right = self.padding
        tall, wide = self.ifmap.height + top + bottom, self.ifmap.width + left + right
        return tall * wide * self.ifmap.channels * self.ifmap.count

    @property
    def fields(self) -> tuple[int, ...]:
        """The 25 numbers of the line."""
        each = (
            number
            for data in (self.ifmap, self.filter, self.ofmap)
            for number in (
                data.height, data.width, data.channels, data.count, data.zeros, data.bits,
            )
        )  # fmt: skip
        return (self.index, *each, *self.stride, *self.padding)


def read_description(path: Path, name: str = "") -> tuple[DescribedLayer, ...]:
    """Read a network description; empty lines are taken at its end only, comments nowhere.

    Args:
        name: of the file in messages, its own when left out.

    Raises:
        DescriptionUnreadable: it is none; the message names line and field.
        OSError: the system refused.
    """
    name = name or path.name
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise _unreadable(name, f"it is larger than {_MOST_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(name, "it is not text") from error
    return parse_description(text, name)


def parse_description(text: str, name: str) -> tuple[DescribedLayer, ...]:
    """The layers that a text describes; ``name`` is said in messages.

    Raises:
        DescriptionUnreadable: as :func:`read_description`.
    """
    lines = text.rstrip().split("\n")
    if lines == [""]:
        raise _unreadable(name, "it is empty")
    if len(lines) > MOST_LAYERS:
        raise _unreadable(name, f"it has more than {MOST_LAYERS:,} lines")
    layers = []
    for at, line in enumerate(lines, start=1):
        try:
            layers.append(_layer(line, at))
        except ValueError as error:
            raise _unreadable(name, str(error), at) from error
    fewest = min(layer.ifmap.count for layer in layers)
    for layer in layers:
        if layer.ifmap.count % fewest:
            raise _unreadable(
                name,
                f"ifmap count: {layer.ifmap.count} maps are no multiple of the batch, {fewest}, "
                "which is the fewest that any line has",
                layer.index,
            )
    return tuple(layers)


def write_description(layers: Sequence[DescribedLayer]) -> str:
    """The text of a description, one layer a line."""
    return "".join(f"{','.join(map(str, layer.fields))}\n" for layer in layers)


def _unreadable(name: str, cause: str, line: int = 0) -> DescriptionUnreadable:
    where = f", line {line}" if line else ""
    return DescriptionUnreadable(f"{name}{where}: {cause}.")


def _layer(line: str, at: int) -> DescribedLayer:
    """One line; ValueError says the field and the reason."""
    texts = [one.strip() for one in line.split(",")]
    if texts == [""]:
        raise ValueError("it is empty, in the middle of the description")
    if len(texts) != len(FIELDS):
        raise ValueError(f"it has {len(texts)} fields, not {len(FIELDS)}")
    numbers = [_number(one, name) for one, name in zip(texts, FIELDS, strict=True)]
    if numbers[0] != at:
        raise ValueError(f"index: it is {numbers[0]}, not the number of the line")
    layer = DescribedLayer(
        numbers[0],
        Entries(*numbers[1:7]),
        Entries(*numbers[7:13]),
        Entries(*numbers[13:19]),
        (numbers[19], numbers[20]),
        (numbers[21], numbers[22], numbers[23], numbers[24]),
    )
    if problem := next(_problems(layer), ""):
        raise ValueError(problem)
    return layer


def _number(text: str, name: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        shown = text if text.isprintable() and len(text) < 20 else "what stands there"
        raise ValueError(f"{name}: “{shown}” is not a whole number of at most 15 digits")
    number = int(text)
    if not number and name not in _MAY_BE_ZERO:
        raise ValueError(f"{name}: it must be positive")
    if name.endswith("bits") and number > _MOST_BITS:
        raise ValueError(f"{name}: {number} are more than {_MOST_BITS}")
    return number


def _problems(layer: DescribedLayer) -> Iterator[str]:
    """What contradicts itself in a line: the field and the reason."""
    for name, data in zip(_DATA, (layer.ifmap, layer.filter, layer.ofmap), strict=True):
        if data.entries > _MOST_ENTRIES:
            yield f"{name}: {data.entries:,} entries are too many"
        if data.zeros > data.entries:
            yield f"{name} zeros: {data.zeros:,} are more than its {data.entries:,} entries"
    if layer.padded_entries > _MOST_ENTRIES:
        yield f"padding: with it the ifmap has {layer.padded_entries:,} entries, which are too many"
    if layer.ofmap.count != layer.ifmap.count:
        yield (f"ofmap count: {layer.ofmap.count} maps come out, where {layer.ifmap.count} go in")
    yield from _problems_of_channels(layer)
    for axis, size in zip(("height", "width"), _output_sides(layer), strict=True):
        given = getattr(layer.ofmap, axis)
        if size < 1:
            yield f"filter {axis}: it is larger than the padded ifmap"
        elif given != size:
            yield (
                f"ofmap {axis}: it is {given}, where ifmap, filter, stride and padding give {size}"
            )
    if layer.macs > _MOST_MACS:
        yield f"ofmap: {layer.macs:,} MACs are too many"


def _problems_of_channels(layer: DescribedLayer) -> Iterator[str]:
    given, taken, made = layer.ifmap.channels, layer.filter.channels, layer.ofmap.channels
    if layer.filter.count == 1 and given == taken == made:
        return  # depthwise as Keras has it, or one channel
    if given % taken:
        yield f"filter channels: {taken} do not divide the ifmap's {given}"
    elif layer.filter.count % (given // taken):
        yield (
            f"filter count: {layer.filter.count} filters do not divide into the {given // taken} "
            "groups that ifmap and filter channels make"
        )
    if made != layer.filter.count:
        yield f"ofmap channels: they are {made}, where there are {layer.filter.count} filters"


def _output_sides(layer: DescribedLayer) -> tuple[int, int]:
    """Height and width of the ofmap: as many steps of the filter as fit on the padded ifmap."""
    top, bottom, left, right = layer.padding
    tall = layer.ifmap.height + top + bottom - layer.filter.height
    wide = layer.ifmap.width + left + right - layer.filter.width
    return tall // layer.stride[0] + 1, wide // layer.stride[1] + 1
