"""The fields of a description of hardware as a form shows them, and text to values. No Qt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from engine import EngineError, Hardware, check_hardware, hardware_fields

Kind: TypeAlias = Literal["text", "lines", "number", "switch", "choice"]
Values: TypeAlias = Mapping[str, object]
"""Values by dotted name: texts as they were typed, and switches."""

SHARED, SEPARATE = "one for all data", "one for each data type"


@dataclass(frozen=True)
class Field:
    """One field: its dotted name in the file, its title, its unit, and a sentence about it."""

    name: str
    title: str
    tip: str
    unit: str = ""
    kind: Kind = "number"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Fields that belong together; an optional one can be left out as a whole."""

    name: str
    title: str
    fields: tuple[Field, ...]
    optional: bool = False


def _source(section: str) -> Field:
    tip = "Where the numbers of this group come from: a paper with its table, a file, a data sheet."
    return Field(f"{section}.source", "Source", tip, kind="lines")


def _cost(name: str, title: str, tip: str) -> Field:
    return Field(f"cost.{name}", title, tip, "units")


def _switch(name: str, title: str, tip: str) -> Field:
    return Field(f"sparsity.{name}", title, tip, kind="switch")


GROUPS: tuple[Group, ...] = (
    Group("", "Description", (
        Field("name", "Name", "What it is called in lists and captions.", kind="text"),
        Field("technology", "Technology", "Such as 65 nm; empty when the source does not say.",
              kind="text"),
        Field("word_bits", "Word", "Width of one access; wider values are held in one word.",
              "bit"),
        Field("source", "Source", "The paper, file or data sheet that describes the machine.",
              kind="lines"),
        Field("note", "Note", "What its user must know, such as what is not modelled.",
              kind="lines"),
    )),
    Group("array", "Array", (
        Field("array.rows", "Rows", "Processing elements above one another."),
        Field("array.columns", "Columns", "Processing elements side by side."),
        _source("array"),
    )),
    Group("register_file", "Register file", (
        Field("register_file", "Kind", "Whether data types share the storage in an element.",
              kind="choice", choices=(SHARED, SEPARATE)),
        Field("register_file.shared_bytes", "Size", "Of each element, for all data types.",
              "bytes"),
        Field("register_file.weights_bytes", "Weights", "Of each element, for weights.", "bytes"),
        Field("register_file.input_bytes", "Input", "Of each element, for inputs.", "bytes"),
        Field("register_file.output_bytes", "Output", "Of each element, for partial sums.",
              "bytes"),
        _source("register_file"),
    )),
    Group("global_buffer", "Buffer", (
        Field("global_buffer.bytes", "Size", "Memory between the array and DRAM.", "bytes"),
        _source("global_buffer"),
    )),
    Group("cost", "Costs", (
        Field("cost.unit", "Unit", "What the costs are in: picojoules, or multiples of one MAC.",
              kind="choice", choices=("pJ", "MAC")),
        Field("cost.picojoules", "One unit", "A unit in picojoules; 1 where the unit is that.",
              "pJ"),
        _cost("mac", "MAC", "One multiply-accumulate of full words."),
        _cost("register_file.weights", "Register, weights", "One access of a word of weights."),
        _cost("register_file.input", "Register, input", "One access of a word of inputs."),
        _cost("register_file.output", "Register, output", "One access of a partial sum."),
        _cost("array", "Array", "One delivery of a word to a processing element."),
        _cost("global_buffer", "Buffer", "One access of a word in the buffer."),
        _cost("dram", "DRAM", "One access of a word in DRAM."),
        _source("cost"),
    )),
    Group("sparsity", "Sparsity", (
        _switch("gates_zero_inputs", "Gates zero inputs",
                "A zero input saves the MAC and the read of the weight."),
        _switch("gates_zero_weights", "Gates zero weights",
                "A zero weight saves the MAC and the read of the input."),
        _switch("compresses_maps", "Compresses maps",
                "Inputs and outputs go to DRAM run-length encoded."),
        _switch("compresses_weights", "Compresses weights",
                "Weights come from DRAM run-length encoded."),
        _source("sparsity"),
    )),
    Group("speed", "Speed", (
        Field("speed.clock_hertz", "Clock", "Each processing element does one MAC a cycle.", "Hz"),
        Field("speed.dram_bytes_per_second", "DRAM", "Between the chip and DRAM.", "bytes/s"),
        _source("speed"),
    ), optional=True),
)  # fmt: skip
_FIELDS = tuple(field for group in GROUPS for field in group.fields)
_SEPARATE_SIZES = tuple(f"register_file.{data}_bytes" for data in ("weights", "input", "output"))
_SHARED_SIZE = "register_file.shared_bytes"


def values_of(hardware: Hardware) -> dict[str, object]:
    """What a form shows of it; the optional group's name says whether it is there."""
    content = hardware_fields(hardware)
    values: dict[str, object] = {}
    for field in _FIELDS:
        value = _at(content, field.name)
        values[field.name] = value if isinstance(value, bool) else _text(value)
    values["register_file"] = SHARED if hardware.register_file.shared_bytes else SEPARATE
    values["speed"] = hardware.speed is not None
    return values


def left_out(values: Values) -> frozenset[str]:
    """The fields that have no meaning as the others stand."""
    unused = {*_SEPARATE_SIZES} if values["register_file"] == SHARED else {_SHARED_SIZE}
    if not values["speed"]:
        unused |= {field.name for field in _FIELDS if field.name.startswith("speed.")}
    return frozenset(unused)


def checked(values: Values) -> Hardware:
    """The description that a form holds.

    Raises:
        HardwareUnreadable: a field is wrong; ``details["field"]`` is its dotted name.
    """
    return check_hardware(content_of(values), "The description")


def content_of(values: Values) -> dict[str, object]:
    """What a form holds, as it stands in a file."""
    content: dict[str, Any] = {}
    unused = left_out(values) | {"register_file"}
    for field in _FIELDS:
        if field.name in unused:
            continue
        *sections, last = field.name.split(".")
        inner = content
        for section in sections:
            inner = inner.setdefault(section, {})
        value = values[field.name]
        inner[last] = _number(str(value)) if field.kind == "number" else value
    return content


def field_of(error: EngineError) -> str:
    """The dotted name of the field that is wrong; "" when it is none of them."""
    return str(error.details.get("field", ""))


def reason_of(error: EngineError) -> str:
    """What is wrong with that field, without its name."""
    return str(error).rpartition(f"{field_of(error)}: ")[2]


def _text(value: object) -> str:
    """A value as it stands in its field; empty for none."""
    if value is None or isinstance(value, Mapping):
        return ""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _number(text: str) -> object:
    """A number where the text is one; else the text, which the check refuses by name."""
    plain = text.strip().replace("−", "-").replace("_", "?")  # Python would read 1_000
    for kind in (int, float):
        try:
            return kind(plain)
        except ValueError:
            continue
    return text


def _at(content: Mapping[str, object], name: str) -> object:
    value: object = content
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
