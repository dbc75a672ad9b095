"""ZIP archives, read strictly: what any two readers could understand differently is refused.

PyTorch's own reader and Python's look a member up in different ways, follow names out of the
archive's top folder and leave checksums alone. Here every name is unique and inside, every member
lies within the file and beside the others, its two headers agree, and its checksum is computed.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from engine.errors import ModelUnreadable
from engine.job import Job
from engine.sources.files.naming import megabytes, plain_name

STORED, DEFLATED = 0, 8

MOST_MEMBERS = 1 << 16
"""Members that an archive may have."""

MOST_INFLATION = 32
"""How many times its packed size an archive may unpack to, beside :data:`FREE_INFLATION` bytes."""

FREE_INFLATION = 1 << 24

_LARGEST_DIRECTORY = 1 << 25
_CHUNK = 1 << 20
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _DESCRIBED_LATER = 1, 8
_METHODS = {1: "shrink", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        packed, size: bytes in the archive, and unpacked.
        header, start: where its local header and its content begin.
    """

    name: str
    method: int
    checksum: int
    packed: int
    size: int
    header: int
    start: int


@dataclass(frozen=True)
class Archive:
    """A strictly read archive; its members in the order of their names' directory."""

    path: Path
    members: Mapping[str, Member]

    def verify(self, job: Job) -> None:
        """Compute the checksum of every member, in bounded memory.

        Raises:
            ModelUnreadable: one differs, or unpacks to another size than it says.
        """
        with self.path.open("rb") as file:
            for member in job.track(tuple(self.members.values()), "Checking the file"):
                for _ in self._chunks(file, member, job):
                    pass

    def content(self, name: str) -> bytes:
        """The whole of one member, its checksum compared.

        Raises:
            ModelUnreadable: it is damaged.
        """
        return b"".join(self.chunks(self.members[name], Job()))

    def chunks(self, member: Member, job: Job) -> Iterator[bytes]:
        """The content piece by piece; what is wrong with it is said at the latest at its end.

        Raises:
            ModelUnreadable: it is damaged.
        """
        with self.path.open("rb") as file:
            yield from self._chunks(file, member, job)

    def head(self, member: Member) -> bytes:
        """The first bytes of a member, a megabyte of them at most; its checksum is not computed."""
        with self.path.open("rb") as file:
            return next(self._unpacked(file, member), b"")

    def _chunks(self, file: BinaryIO, member: Member, job: Job) -> Iterator[bytes]:
        checksum = size = 0
        for chunk in self._unpacked(file, member):
            job.check()
            checksum = zlib.crc32(chunk, checksum)
            size += len(chunk)
            if size > member.size:
                break
            yield chunk
        if size != member.size:
            raise _damaged(self.path, f"{_member(member)} does not unpack to the size it names")
        if checksum != member.checksum:
            raise _damaged(self.path, f"the checksum of {_member(member)} does not agree")

    def _unpacked(self, file: BinaryIO, member: Member) -> Iterator[bytes]:
        file.seek(member.start)
        left = member.packed
        inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == DEFLATED else None
        while left and (packed := file.read(min(left, _CHUNK))):
            left -= len(packed)
            if inflater is None:
                yield packed
                continue
            while packed and not inflater.eof:
                try:
                    yield inflater.decompress(packed, _CHUNK)
                except zlib.error as error:
                    raise _damaged(self.path, f"{_member(member)} cannot be unpacked") from error
                packed = inflater.unconsumed_tail


def read_archive(path: Path) -> Archive:
    """The members of a ZIP archive, with all that can be told without reading their content.

    Raises:
        ModelUnreadable: it is cut short, damaged, or written so that readers could disagree.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        count, directory, end = _directory(path, file, size)
        if end - directory > _LARGEST_DIRECTORY:
            raise _damaged(path, "its table of contents is longer than any model's")
        file.seek(directory)
        records = file.read(end - directory)
        members: dict[str, Member] = {}
        for member in _members(path, records, count):
            if member.name in members:
                raise _damaged(path, f"{_member(member)} is in it twice")
            members[member.name] = _located(path, file, member, directory)
    _check_places(path, members, directory)
    _check_inflation(path, members)
    return Archive(path, members)


def _directory(path: Path, file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Number of members, start and end of the table of contents."""
    if size < _END.size:
        raise _cut_short(path)
    file.seek(size - _END.size)
    sign, disk, first, here, count, length, start, comment = _END.unpack(file.read(_END.size))
    if sign != b"PK\x05\x06" or comment:
        raise _cut_short(path)
    end = size - _END.size
    if end >= _LOCATOR.size + _END64.size:
        file.seek(end - _LOCATOR.size)
        sign, _, at, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if sign == b"PK\x06\x07":
            return _large_directory(path, file, at, end - _LOCATOR.size, count)
    if (disk, first) != (0, 0) or here != count or start + length != end:
        raise _damaged(path, "its table of contents is not where it should be")
    return count, start, end


def _large_directory(
    path: Path, file: BinaryIO, at: int, end: int, small_count: int
) -> tuple[int, int, int]:
    if at != end - _END64.size:
        raise _damaged(path, "its table of contents is not where it should be")
    file.seek(at)
    sign, _, _, _, disk, first, here, count, length, start = _END64.unpack(file.read(_END64.size))
    if sign != b"PK\x06\x06" or (disk, first) != (0, 0) or here != count or start + length != at:
        raise _damaged(path, "its table of contents is not where it should be")
    if small_count not in (count, 0xFFFF):
        raise _damaged(path, "it names two numbers of members")
    return count, start, at


def _members(path: Path, records: bytes, count: int) -> Iterator[Member]:
    if count > MOST_MEMBERS:
        raise _damaged(path, f"it names {count:,} members, more than a model has")
    at = 0
    for _ in range(count):
        record = records[at : at + _CENTRAL.size]
        if len(record) < _CENTRAL.size or not record.startswith(b"PK\x01\x02"):
            raise _damaged(path, "its table of contents is broken")
        (_, _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length,
         comment_length, disk, _, _, header) = _CENTRAL.unpack(record)  # fmt: skip
        at += _CENTRAL.size
        name = records[at : at + name_length]
        extra = records[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        large = _large_fields(extra, (size, packed, header))
        if at > len(records) or disk or large is None:
            raise _damaged(path, "its table of contents is broken")
        size, packed, header = large
        member = Member(_decoded(path, name), method, checksum, packed, size, header, 0)
        _check_method(path, member, flags)
        yield member
    if at != len(records):
        raise _damaged(path, "its table of contents is longer than its members")


def _large_fields(extra: bytes, fields: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """The fields, those that are too large for 32 bits from where they are kept then."""
    if 0xFFFFFFFF not in fields:
        return fields
    found = list(fields)
    while len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        if kind == 1:
            values = [int.from_bytes(extra[4 + i : 12 + i], "little") for i in range(0, length, 8)]
            for index, field in enumerate(found):
                if field == 0xFFFFFFFF:
                    if not values:
                        return None
                    found[index] = values.pop(0)
            return found[0], found[1], found[2]
        extra = extra[4 + length :]
    return None


def _decoded(path: Path, raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, f"a member has the name {raw!r:.80}, which is no text") from error
    parts = name.removesuffix("/").split("/")
    if not name or "\\" in name or "\0" in name or {"", ".", ".."} & set(parts) or ":" in parts[0]:
        raise _damaged(path, f"a member's name, “{plain_name(name)}”, leads out of it")
    return name


def _check_method(path: Path, member: Member, flags: int) -> None:
    if flags & _ENCRYPTED:
        raise ModelUnreadable(
            f"{plain_name(path.name)} is encrypted.", "Decrypt it first, then open it."
        )
    if member.method not in (STORED, DEFLATED):
        name = _METHODS.get(member.method, f"number {member.method}")
        raise _damaged(path, f"{_member(member)} is packed by a method no model uses ({name})")
    if member.method == STORED and member.packed != member.size:
        raise _damaged(path, f"{_member(member)} has two sizes")


def _located(path: Path, file: BinaryIO, member: Member, end: int) -> Member:
    """The member with the place of its content, after its two headers were compared."""
    file.seek(min(member.header, end))
    record = file.read(_LOCAL.size)
    if member.header > end or len(record) < _LOCAL.size or not record.startswith(b"PK\x03\x04"):
        raise _damaged(path, f"{_member(member)} is not where its table of contents says")
    (_, _, flags, method, _, _, checksum, packed, size, name_length, extra_length) = _LOCAL.unpack(
        record
    )
    name, extra = file.read(name_length), file.read(extra_length)
    found = (size, packed, checksum)
    if flags & _DESCRIBED_LATER and not any(found):
        found = (member.size, member.packed, member.checksum)
    elif (large := _large_fields(extra, (size, packed, 0))) is not None:
        found = (large[0], large[1], checksum)
    if (name, method) != (member.name.encode(), member.method) or found != (
        member.size,
        member.packed,
        member.checksum,
    ):
        raise _damaged(path, f"the two headers of {_member(member)} do not agree")
    return replace(member, start=member.header + _LOCAL.size + name_length + extra_length)


def _check_places(path: Path, members: Mapping[str, Member], directory: int) -> None:
    end, before = 0, None
    for member in sorted(members.values(), key=lambda one: one.header):
        if member.header < end:
            raise _damaged(path, f"{_member(before or member)} and {_member(member)} overlap")
        end, before = member.start + member.packed, member
    if end > directory:
        raise _damaged(path, f"{_member(before)} reaches beyond the end")


def _check_inflation(path: Path, members: Mapping[str, Member]) -> None:
    packed = sum(one.packed for one in members.values())
    size = sum(one.size for one in members.values())
    if size > MOST_INFLATION * packed + FREE_INFLATION:
        raise ModelUnreadable(
            f"{plain_name(path.name)} is a ZIP bomb: {megabytes(packed)} that would unpack to "
            f"{megabytes(size)}.",
            "Save it without compression if these are really its tensors.",
        )


def _member(member: Member | None) -> str:
    return f"“{plain_name(member.name, 80)}”" if member else "a member"


def _cut_short(path: Path) -> ModelUnreadable:
    return ModelUnreadable(
        f"{plain_name(path.name)} is cut short, or something follows its end: "
        "the archive's table of contents, which should end it, is not there.",
        "Copy or download the file again.",
    )


def _damaged(path: Path, cause: str) -> ModelUnreadable:
    return ModelUnreadable(
        f"{plain_name(path.name)} is damaged: {cause}.", "Copy or export the file again."
    )
