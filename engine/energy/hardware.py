"""Descriptions of the hardware that energy is modelled on, one file each."""

import os
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import (
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from engine.errors import ExportFailed, HardwareUnreadable
from engine.files import write_atomically
from engine.kept import config_folder
from engine.resources import resource

DEFAULT = "hardware/eyeriss_isca2016.toml"
FOLDER = "hardware"
"""Of the shipped descriptions among the resources, and of the user's own among the settings."""

# Enough for the longest texts; some larger files would keep the reader of TOML busy for minutes.
_LARGEST_FILE = 32 * 1024
_LONGEST_TEXT = 700
_LONGEST_KEY = 60
_BY_LINE = "; global buffer on the line of sram_cost"

_STRICT = ConfigDict(extra="forbid", frozen=True)
# Strict: TOML knows numbers from text and truth values, and so do its readers. Bounds: far outside
# of anything built, yet such that energies and counts stay finite, exact and above zero.
_Picojoules = Annotated[float, Field(ge=1e-6, le=1e12, strict=True, allow_inf_nan=False)]
_Cost = Annotated[float, Field(ge=0, le=1e12, strict=True, allow_inf_nan=False)]
_Rate = Annotated[float, Field(ge=1, le=1e18, strict=True, allow_inf_nan=False)]
_Side = Annotated[int, Field(ge=1, le=2**16, strict=True)]
_WordBits = Annotated[int, Field(ge=1, le=64, strict=True)]
_Size = Annotated[int, Field(ge=0, le=2**40, strict=True)]
_Switch = Annotated[bool, Field(strict=True)]
_Name = Annotated[
    str, StringConstraints(pattern=r"^\P{Cc}*[^\s\p{Cc}]\P{Cc}*$", max_length=100, strict=True)
]
_Note = Annotated[
    str, StringConstraints(pattern=r"^[\P{Cc}\n\t]*$", max_length=_LONGEST_TEXT, strict=True)
]
_Text = Annotated[_Note, StringConstraints(pattern=r"\S")]


@dataclass(config=_STRICT)
class Array:
    """Processing elements; one row and one column for a machine that multiplies one at a time."""

    rows: _Side
    columns: _Side
    source: _Text


@dataclass(config=_STRICT)
class RegisterFile:
    """Storage within each processing element, in bytes: one for all, or one for each data type."""

    source: _Text
    shared_bytes: _Size = 0
    weights_bytes: _Size = 0
    input_bytes: _Size = 0
    output_bytes: _Size = 0

    @model_validator(mode="after")
    def _one_way(self) -> "RegisterFile":
        separate = (self.weights_bytes, self.input_bytes, self.output_bytes)
        if self.shared_bytes and any(separate):
            raise ValueError("give either shared_bytes or the three separate sizes, not both")
        if not self.shared_bytes and not all(separate):
            raise ValueError(
                "give shared_bytes, or all of weights_bytes, input_bytes and output_bytes"
            )
        return self


@dataclass(config=_STRICT)
class GlobalBuffer:
    """The memory between the array and DRAM."""

    bytes: _Size
    source: _Text


@dataclass(config=_STRICT)
class Speed:
    """What decides whether DRAM or the array holds a layer back.

    Attributes:
        clock_hertz: of the array; each processing element does one MAC a cycle.
        dram_bytes_per_second: between the chip and DRAM.
    """

    clock_hertz: _Rate
    dram_bytes_per_second: _Rate
    source: _Text


@dataclass(config=_STRICT)
class RegisterCosts:
    """Energy of one access of a word in a register file, by data type."""

    weights: _Cost
    input: _Cost
    output: _Cost


@dataclass(config=_STRICT)
class AccessCosts:
    """Energy of one MAC and of one access of a word at each level.

    Attributes:
        unit: what the numbers are in: ``pJ``, or ``MAC`` for costs normalised to one MAC.
        picojoules: one unit in picojoules; 1 where the unit is that.
        array: of one delivery of a word to a processing element.
    """

    unit: Literal["MAC", "pJ"]
    picojoules: _Picojoules
    mac: _Picojoules
    register_file: RegisterCosts
    array: _Cost
    global_buffer: _Cost
    dram: _Cost
    source: _Text

    @model_validator(mode="after")
    def _one_unit(self) -> "AccessCosts":
        if self.unit == "pJ" and self.picojoules != 1:
            raise ValueError("picojoules has to be 1 where the unit is pJ")
        return self


@dataclass(config=_STRICT)
class Sparsity:
    """What the hardware makes of zeros.

    Attributes:
        gates_zero_inputs, gates_zero_weights: such an operand saves the MAC and the read of the
            other operand from the register file.
        compresses_maps, compresses_weights: they go to DRAM run-length encoded.
    """

    gates_zero_inputs: _Switch
    gates_zero_weights: _Switch
    compresses_maps: _Switch
    compresses_weights: _Switch
    source: _Text

    @property
    def skips_anything(self) -> bool:
        """Whether zeros save anything at all."""
        return (
            self.gates_zero_inputs
            or self.gates_zero_weights
            or self.compresses_maps
            or self.compresses_weights
        )


@dataclass(config=_STRICT)
class Hardware:
    """An accelerator: array, memories, word width and costs, each with its source.

    Attributes:
        technology: such as ``65 nm``; "" when the source does not say.
        word_bits: width of a word; wider values are held in one.
        note: what its user must know, in plain sentences.
    """

    name: _Name
    source: _Text
    word_bits: _WordBits
    array: Array
    register_file: RegisterFile
    global_buffer: GlobalBuffer
    cost: AccessCosts
    sparsity: Sparsity
    technology: _Note = ""
    speed: Speed | None = None
    note: _Note = ""

    @model_validator(mode="after")
    def _holds_a_word_of_each(self) -> "Hardware":
        file = self.register_file
        for name, size, words in (
            ("register_file.shared_bytes", file.shared_bytes, 3),
            ("register_file.weights_bytes", file.weights_bytes, 1),
            ("register_file.input_bytes", file.input_bytes, 1),
            ("register_file.output_bytes", file.output_bytes, 1),
        ):
            if size:  # the other way of giving sizes is all zeros
                _check_holds(name, size, words, self.word_bits)
        _check_holds("global_buffer.bytes", self.global_buffer.bytes, 3, self.word_bits)
        return self

    @property
    def joules_per_unit(self) -> float:
        """One unit of its costs in joules."""
        return self.cost.picojoules * 1e-12

    @property
    def joules_per_mac(self) -> float:
        """One MAC of full words in joules: what energy is normalised by."""
        return self.cost.mac * self.joules_per_unit


@dataclass(frozen=True)
class HardwareEntry:
    """One description in the list.

    Attributes:
        key: name of the file without its suffix.
        own: whether it is the user's.
        hardware: None when the file is bad.
        problem: why, in words.
    """

    key: str
    path: Path
    own: bool
    hardware: Hardware | None = None
    problem: str = ""


def _check_holds(name: str, size: int, words: int, word_bits: int) -> None:
    """Refuse a memory of ``size`` bytes that cannot hold that many words."""
    if size * 8 < words * word_bits:
        needed = -(-words * word_bits // 8)
        which = "one word of each data type" if words == 3 else "a word"
        raise ValueError(f"{name}: should be at least {needed} bytes, to hold {which}")


def read_hardware(path: Path) -> Hardware:
    """Read a description.

    Raises:
        HardwareUnreadable: the file is not one; the message names the field and the reason.
    """
    try:
        fields = tomllib.loads(_content(path).decode("utf-8"))
    except OSError as error:
        raise HardwareUnreadable(
            f"{path.name} could not be read: {error.strerror or error}."
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, endless digits or brackets
        reason = "its values are nested too deep" if isinstance(error, RecursionError) else error
        raise HardwareUnreadable(f"{path.name} is not a hardware description: {reason}.") from error
    return check_hardware(fields, path.name)


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise HardwareUnreadable(f"{path.name} is not a hardware description: it is not a file.")
    with path.open("rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise HardwareUnreadable(
            f"{path.name} is not a hardware description: "
            f"it is larger than {_LARGEST_FILE // 1024} kB."
        )
    return content


def check_hardware(fields: Mapping[str, object], name: str) -> Hardware:
    """The description with these fields, as they stand in a file.

    Raises:
        HardwareUnreadable: a field is missing, superfluous or wrong; ``details["field"]`` is its
            dotted name.
    """
    try:
        return TypeAdapter(Hardware).validate_python(dict(fields))
    except ValidationError as error:
        field, reason = _complaint(error.errors()[0])
        raise HardwareUnreadable(f"{name}: {field}: {reason}.", details={"field": field}) from error


_WRONG_TEXT = "should not be blank, nor hold control characters"
_REASONS = {
    "missing": "is missing",
    "unexpected_keyword_argument": "is no field of a hardware description",
    "dataclass_type": "should be a section with fields of its own",
    "string_pattern_mismatch": _WRONG_TEXT,
    "string_unicode": _WRONG_TEXT,
    "string_type": "should be text in quotation marks",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "bool_type": "should be true or false",
}


def _complaint(error: ErrorDetails) -> tuple[str, str]:
    """Dotted name of the field, and what is wrong with it."""
    field = ".".join(map(str, error["loc"]))
    plain = re.sub("^(Value error, |Input |String )", "", error["msg"])
    reason = _REASONS.get(error["type"], plain)
    if not field:  # what concerns several sections names the field itself
        field, _, reason = reason.partition(": ")
    return field, reason


def write_hardware(hardware: Hardware, path: Path) -> None:
    """Write a description, whole or not at all.

    Raises:
        ExportFailed: the system refused.
    """
    write_atomically(path, tomli_w.dumps(hardware_fields(hardware)).encode())


def hardware_fields(hardware: Hardware) -> dict[str, object]:
    """A description's fields as they stand in a file."""
    fields = asdict(hardware)
    if hardware.speed is None:
        del fields["speed"]
    return fields


def list_hardware() -> tuple[HardwareEntry, ...]:
    """The shipped descriptions by name, then the user's own, bad files behind good ones."""
    shipped = _entries(resource(FOLDER), own=False)
    return (*shipped, *_entries(own_folder(), own=True))


def _entries(folder: Path, own: bool) -> list[HardwareEntry]:
    # Names with a dot in front are files that are just being written.
    paths = [path for path in folder.glob("*.toml") if not path.name.startswith(".")]
    return sorted((_entry(path, own) for path in paths), key=_place)


def _place(entry: HardwareEntry) -> tuple[bool, str, str]:
    name = entry.hardware.name if entry.hardware else ""
    return entry.hardware is None, name.casefold(), entry.key


def own_folder() -> Path:
    """Where the user's own descriptions are kept; there may be none yet."""
    return config_folder() / FOLDER


def save_own(hardware: Hardware, name: str, editing: str = "") -> Path:
    """Keep a description among the user's own, under a name that no other has.

    The file is named after it. A name or a file name that is taken gets a number; nothing is
    overwritten but the description that is edited, whose file stays where it is.

    Args:
        hardware: its own name does not count.
        name: what it is to be called.
        editing: key of the user's own description that this is the new state of.

    Returns:
        The file; its stem is the key.

    Raises:
        HardwareUnreadable: the name is not one, or there is no such description to edit.
        ExportFailed: the system refused.
    """
    edited = _own_path(editing) if editing else None
    others = [entry for entry in list_hardware() if entry.path != edited]
    named = _renamed(hardware, name, others)
    taken = {entry.key.casefold() for entry in others}
    path = edited or own_folder() / f"{_free(_key(name), taken, '_')}.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportFailed(
            f"{path.parent} could not be made: {error.strerror or error}.",
            remedy="Make the folder above it writable.",
        ) from error
    write_hardware(named, path)
    return path


def _renamed(hardware: Hardware, name: str, others: Iterable[HardwareEntry]) -> Hardware:
    """The same under that name, or the name and a number where one of the others has it."""
    taken = {entry.hardware.name.casefold() for entry in others if entry.hardware}
    return check_hardware(
        {**hardware_fields(hardware), "name": _free(name.strip(), taken, " ")}, "The description"
    )


def _free(wanted: str, taken: set[str], gap: str) -> str:
    """The wanted name, or the first with a number behind it that is not taken."""
    name, number = wanted, 2
    while name.casefold() in taken:
        name, number = f"{wanted}{gap}{number}", number + 1
    return name


def _key(name: str) -> str:
    """A file name, without suffix, that every system accepts."""
    parts = unicodedata.normalize("NFKD", name.casefold())
    plain = "".join(one for one in parts if not unicodedata.combining(one))
    key = re.sub("[^a-z0-9]+", "_", plain)[:_LONGEST_KEY].strip("_")
    # Windows keeps con, nul, com1 and others for devices, whatever suffix they have.
    reserved = re.fullmatch(r"con|prn|aux|nul|com\d|lpt\d", key)
    return f"hardware_{key}" if reserved else key or "hardware"


def remove_own(key: str) -> None:
    """Delete one of the user's own descriptions.

    Raises:
        HardwareUnreadable: there is none with that key.
        ExportFailed: the system refused.
    """
    path = _own_path(key)
    try:
        path.unlink()
    except OSError as error:
        raise ExportFailed(
            f"{path} could not be removed: {error.strerror or error}.",
            remedy="Make its folder writable.",
        ) from error


def _own_path(key: str) -> Path:
    """File of the user's own description with that key, be it good or bad."""
    for entry in list_hardware():
        if entry.own and entry.key == key:
            return entry.path
    raise HardwareUnreadable(f"None of your own hardware descriptions is called “{key}”.")


def find_hardware(name_or_path: str) -> Hardware:
    """The description with that key or name, in any case, or in the file at that path.

    Raises:
        HardwareUnreadable: there is none, several have the name, or the one meant is bad; the
            remedy lists the keys.
    """
    entries = list_hardware()
    # A shipped key means the same on every machine, whatever the user's own files are called.
    wanted = name_or_path.casefold()
    by_key = [entry for entry in entries if entry.key.casefold() == wanted][:1]
    found = by_key or [
        entry for entry in entries if entry.hardware and entry.hardware.name.casefold() == wanted
    ]
    remedy = f"Give the path of a .toml file, or one of {', '.join(one.key for one in entries)}."
    if len(found) > 1:
        raise HardwareUnreadable(
            f"Several hardware descriptions are called “{name_or_path}”.", remedy
        )
    if found and found[0].hardware is None:
        raise HardwareUnreadable(found[0].problem, remedy)
    if found and found[0].hardware:
        return found[0].hardware
    if os.path.exists(name_or_path):  # noqa: PTH110  (Path's raises on what cannot be a path)
        return read_hardware(Path(name_or_path))
    raise HardwareUnreadable(
        f"“{name_or_path}” is neither a hardware description nor a file.", remedy
    )


def _entry(path: Path, own: bool) -> HardwareEntry:
    try:
        return HardwareEntry(path.stem, path, own, read_hardware(path))
    except HardwareUnreadable as error:
        return HardwareEntry(path.stem, path, own, problem=str(error))


@cache
def default_hardware() -> Hardware:
    """The Eyeriss array of the ISCA 2016 paper."""
    return read_hardware(resource(DEFAULT))


def sram_cost(size: float) -> float:
    """Energy of one 16-bit access of an SRAM of ``size`` bytes, in units of one 16-bit MAC.

    The straight line through (0.5 kB, 1) and (100 kB, 6): the costs of register file and global
    buffer in Eyeriss, ISCA 2016, Table IV.
    """
    return 1 + 5 * (size / 1024 - 0.5) / 99.5


def with_buffer(hardware: Hardware, size: int) -> Hardware:
    """The same hardware with another global buffer of ``size`` bytes, its cost by that line.

    Normalised costs are on the line, which is scaled to the width of a word: an access grows with
    its bits, the MAC that it is compared to with their square. Costs in picojoules move in
    proportion to the line. The size that it has already changes nothing: a description states its
    own cost.

    Raises:
        HardwareUnreadable: no buffer has that size.
    """
    if size == hardware.global_buffer.bytes:
        return hardware
    fields = hardware_fields(hardware)
    buffer = {"bytes": size, "source": "chosen by the user"}
    resized = check_hardware({**fields, "global_buffer": buffer}, hardware.name)
    cost = asdict(hardware.cost) | {
        "global_buffer": _buffer_cost(hardware, size),
        "source": hardware.cost.source.removesuffix(_BY_LINE) + _BY_LINE,
    }
    return check_hardware({**hardware_fields(resized), "cost": cost}, hardware.name)


def _buffer_cost(hardware: Hardware, size: int) -> float:
    cost = hardware.cost
    if cost.unit == "MAC":
        return sram_cost(size) * cost.mac * 16 / hardware.word_bits
    return cost.global_buffer * sram_cost(size) / sram_cost(hardware.global_buffer.bytes)
