"""Descriptions of the hardware that energy is modelled on, one file each."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from engine.errors import EngineError
from engine.resources import resource

DEFAULT = "hardware/eyeriss_isca2016.toml"

_STRICT = ConfigDict(extra="forbid", frozen=True)
# Strict: TOML knows numbers from text and truth values, and so do its readers.
_Positive = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
_Cost = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
_Count = Annotated[int, Field(gt=0, strict=True)]


@dataclass(config=_STRICT)
class AccessCosts:
    """Energy of one access of a word at each level, in units of one MAC of that width."""

    mac: _Positive
    register_file: _Cost
    array: _Cost
    global_buffer: _Cost
    dram: _Cost


@dataclass(config=_STRICT)
class EnergyUnit:
    """What one MAC takes in joules, and who says so."""

    joules_per_mac: _Positive
    source: str


@dataclass(config=_STRICT)
class Hardware:
    """An accelerator: memory sizes in bytes, word width in bits, costs with their sources."""

    name: str
    source: str
    word_bits: _Count
    register_file_bytes: _Count
    global_buffer_bytes: _Count
    cost: AccessCosts
    unit: EnergyUnit


def read_hardware(path: Path) -> Hardware:
    """Read a description.

    Raises:
        EngineError: the file is not a hardware description; the message names the field.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(Hardware).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise EngineError(f"{path.name}: {field}: {first['msg']}.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EngineError(f"{path.name} is not a hardware description: {error}.") from error


@cache
def default_hardware() -> Hardware:
    """The Eyeriss array of the ISCA 2016 paper."""
    return read_hardware(resource(DEFAULT))
