"""Whether bytes are an ONNX model, by a walk over its outermost fields. No torch, no protobuf."""

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_IR_VERSION, _GRAPH, _OPSETS = 1, 7, 8
# What each field of onnx.ModelProto is written as: numbers as varints, all else with a length.
_MODEL_FIELDS = {
    1: _VARINT, 2: _LENGTH, 3: _LENGTH, 4: _LENGTH, 5: _VARINT, 6: _LENGTH, 7: _LENGTH,
    8: _LENGTH, 14: _LENGTH, 20: _LENGTH, 25: _LENGTH, 26: _LENGTH,
}  # fmt: skip
_MOST_FIELDS = 10_000
_NEWEST_IR = 1000


def looks_like_onnx(head: bytes, size: int) -> bool:
    """Whether a file that begins so may be an ONNX model, whole or cut short.

    Args:
        head: its first bytes, some kilobytes are enough.
        size: of the whole file, in bytes.
    """
    seen: set[int] = set()
    for number, _, _ in _fields(head):
        if number not in _MODEL_FIELDS:
            return False
        seen.add(number)
    if size <= len(head):
        return _GRAPH in seen and bool({_IR_VERSION, _OPSETS} & seen)
    return _GRAPH in seen or len(seen) > 1


def missing_bytes(head: bytes, size: int) -> int:
    """How many bytes the outermost fields promise beyond the end of the file; 0 when whole."""
    return max([0, *(end - size for _, _, end in _fields(head))])


def _fields(head: bytes) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each outermost field as far as ``head`` reaches.

    What is no such field comes as number 0, and ends the walk.
    """
    at = 0
    for _ in range(_MOST_FIELDS):
        if at >= len(head):
            return
        tag, start = _varint(head, at)
        number, wire = tag >> 3, tag & 7
        if _MODEL_FIELDS.get(number) != wire:
            yield 0, at, at
            return
        value, end = _varint(head, start)
        if number == _IR_VERSION and not 0 < value < _NEWEST_IR:
            yield 0, at, at
            return
        yield number, end, end if wire == _VARINT else end + value
        at = end if wire == _VARINT else end + value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The number written there and where the next begins; (0, end) when it is cut off."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    return 0, len(content)
