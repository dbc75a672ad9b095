"""Hardware descriptions: shipped ones against their sources, bad files, the user's own; grids."""

import csv
import os
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.energy.grids import Grid, co2_grams, grids
from engine.energy.hardware import (
    AccessCosts,
    Array,
    GlobalBuffer,
    Hardware,
    HardwareEntry,
    RegisterCosts,
    RegisterFile,
    Sparsity,
    Speed,
    check_hardware,
    default_hardware,
    find_hardware,
    hardware_fields,
    list_hardware,
    own_folder,
    read_hardware,
    remove_own,
    save_own,
    sram_cost,
    with_buffer,
    write_hardware,
)
from engine.errors import ExportFailed, HardwareUnreadable
from engine.resources import resource

DATA = Path(__file__).parent.parent / "data"
SHIPPED = sorted(resource("hardware").glob("*.toml"))
KB = 1024

needs_permissions = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="root may read and write anywhere"
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder, not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("APPDATA", str(tmp_path))
    assert tmp_path in own_folder().parents
    return own_folder()


def shipped(key: str) -> Hardware:
    return read_hardware(resource(f"hardware/{key}.toml"))


def rows(name: str) -> list[dict[str, str]]:
    """A table of tests/data, without the lines that name its source."""
    with (DATA / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def access(model: str, component: str, word_bits: int) -> tuple[float, float]:
    """Picojoules of reading and of writing a word, from the table of public accelerator models."""
    (row,) = (
        row
        for row in rows("energy_reference_tables")
        if row["model"] == model and row["component"].startswith(component)
    )
    words = max(1.0, int(row["width_bits"]) // word_bits)
    read = float(row["read_pJ"])
    return read / words, float(row["write_pJ"] or read) / words


# The shipped descriptions


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_section_of_a_shipped_description_names_its_source(path: Path) -> None:
    fields = tomllib.loads(path.read_text(encoding="utf-8"))
    sections = {name: value for name, value in fields.items() if isinstance(value, dict)}
    assert {"array", "register_file", "global_buffer", "cost", "sparsity"} <= set(sections)
    for section in (fields, *sections.values()):
        assert len(section["source"].split()) > 3
        assert "  " not in section["source"]
    hardware = read_hardware(path)
    assert "  " not in hardware.note
    assert hardware.note.endswith("."), "plain sentences"
    assert hardware.joules_per_mac > 0


def test_shipped_names_are_all_different() -> None:
    names = [entry.hardware.name for entry in list_hardware() if entry.hardware and not entry.own]
    assert len(names) == len(SHIPPED) == len({name.casefold() for name in names}) >= 6


def test_the_default_is_the_study_of_isca_2016() -> None:
    hardware = default_hardware()
    rules = {row["what"]: row["rule"] for row in rows("cost_rules")}

    def accesses(what: str) -> float:
        return float(rules[what].split()[0])

    register_file = accesses("register file 0.5 kB")
    assert hardware.cost.register_file == RegisterCosts(*[register_file] * 3)
    assert hardware.cost.mac == 1
    assert hardware.cost.array == accesses("between PEs (array)")
    assert hardware.cost.global_buffer == accesses("global buffer 100 kB")
    assert hardware.cost.dram == accesses("DRAM")
    assert (hardware.array.rows, hardware.array.columns, hardware.word_bits) == (16, 16, 16)
    assert hardware.register_file.shared_bytes == 512
    assert hardware.global_buffer.bytes == 128 * KB
    assert hardware.joules_per_mac == pytest.approx(2e-12)
    assert not hardware.sparsity.skips_anything


def test_the_eyeriss_chip() -> None:
    hardware, model = shipped("eyeriss_chip"), "nn_dataflow isscc16"
    cost = hardware.cost
    assert (cost.unit, hardware.word_bits, hardware.technology) == ("pJ", 16, "65 nm")
    assert (cost.mac, cost.mac) == access(model, "MAC", 16)
    for data in (cost.register_file.weights, cost.register_file.input, cost.register_file.output):
        assert (data, data) == access(model, "RF", 16)
    assert (cost.array, cost.array) == access(model, "array", 16)
    assert (cost.global_buffer, cost.global_buffer) == access(model, "global buffer", 16)
    assert (cost.dram, cost.dram) == access(model, "DRAM", 16)
    assert (hardware.array.rows, hardware.array.columns) == (12, 14)
    assert hardware.global_buffer.bytes == 108 * KB == 27 * 512 * 64 // 8
    file = hardware.register_file
    words = file.weights_bytes / 2, file.input_bytes / 2, file.output_bytes / 2
    assert words == (224, 12, 24)
    assert hardware.speed is not None
    peak = 168 * hardware.speed.clock_hertz
    assert peak == pytest.approx(33.6e9), "MAC/s, as the paper has it"
    assert hardware.speed.dram_bytes_per_second == 60e6 * 64 / 8
    zeros = hardware.sparsity
    assert (zeros.gates_zero_inputs, zeros.compresses_maps) == (True, True)
    assert (zeros.gates_zero_weights, zeros.compresses_weights) == (False, False)


def test_the_45_nm_design_with_accelergys_costs() -> None:
    hardware, model = shipped("eyeriss_45nm_accelergy"), "sparseloop eyeriss"
    cost = hardware.cost
    assert hardware.word_bits == 16
    assert cost.mac == access(model, "MAC", 16)[0]
    assert cost.register_file.weights == access(model, "weights spad", 16)[0]
    # Of the other two, reading and writing cost the same.
    for data, component in (("input", "ifmap spad"), ("output", "psum spad")):
        assert [getattr(cost.register_file, data)] * 2 == [*access(model, component, 16)]
    assert cost.global_buffer == pytest.approx(sum(access(model, "global buffer", 16)) / 2)
    assert (cost.dram, cost.dram) == access(model, "DRAM", 16) == (128, 128)
    assert cost.array == 0
    assert hardware.global_buffer.bytes == 12800 * 64 // 8
    assert hardware.array.rows * hardware.array.columns == 168
    assert hardware.speed is None


def test_the_von_neumann_machine_with_horowitzs_costs() -> None:
    hardware, model = shipped("von_neumann_45nm"), "horowitz isscc14"
    cost = hardware.cost
    product, addition = access(model, "fp32 multiply", 32)[0], access(model, "fp32 add", 32)[0]
    assert cost.mac == pytest.approx(product + addition)
    small, large = access(model, "SRAM 8 kB", 32)[0], access(model, "SRAM 1 MB", 32)[0]
    assert cost.register_file == RegisterCosts(small, small, small)
    assert cost.global_buffer == large == 50
    assert cost.dram == access(model, "DRAM", 32)[0] == 650
    assert (hardware.array.rows, hardware.array.columns, hardware.word_bits) == (1, 1, 32)
    assert hardware.register_file.shared_bytes == 8 * KB
    assert hardware.global_buffer.bytes == KB * KB
    assert "instruction" in hardware.note
    # The rule for narrower words meets the table's own figures for 8 bit: 0.2 + 0.1.
    assert cost.mac / (32 / 8) ** 2 == pytest.approx(0.3, rel=0.05)


def test_the_edge_npu_with_zigzags_costs() -> None:
    hardware, model = shipped("edge_npu_8bit_zigzag"), "zigzag eyeriss_like"
    cost = hardware.cost
    assert hardware.word_bits == 8
    assert cost.mac == access(model, "MAC", 8)[0]
    reading = access(model, "RF 64 B", 8)[0]
    assert (cost.register_file.weights, cost.register_file.input) == (reading, reading)
    assert cost.global_buffer == pytest.approx(sum(access(model, "SRAM 1 MB", 8)) / 2)
    assert cost.dram == access(model, "DRAM", 8)[0] == 125
    assert hardware.global_buffer.bytes == KB * KB
    assert hardware.register_file.weights_bytes == hardware.register_file.input_bytes == 64
    assert hardware.register_file.output_bytes == 16 * 8 // 24, "partial sums of 24 bit"


def test_zero_skipping_differs_from_the_study_in_zeros_alone() -> None:
    found, study = shipped("eyeriss_zero_skipping"), default_hardware()
    zeros = found.sparsity
    assert zeros.gates_zero_inputs
    assert zeros.gates_zero_weights
    assert zeros.compresses_maps
    assert zeros.compresses_weights
    same = replace(found.cost, source=study.cost.source)
    assert same == study.cost
    assert replace(found.array, source=study.array.source) == study.array
    assert found.register_file.shared_bytes == study.register_file.shared_bytes
    assert found.global_buffer.bytes == study.global_buffer.bytes


# The line of SRAM


def test_an_sram_costs_1_at_half_a_kilobyte_and_6_at_100() -> None:
    assert sram_cost(512) == 1
    assert sram_cost(100 * KB) == 6
    assert sram_cost(128 * KB) == pytest.approx(7.407, abs=1e-3)


def test_a_description_states_its_own_cost_until_its_buffer_changes() -> None:
    study = default_hardware()
    assert with_buffer(study, 128 * KB) is study
    changed = with_buffer(study, 100 * KB)
    assert changed.cost.global_buffer == 6
    assert changed.global_buffer.bytes == 100 * KB
    assert study.global_buffer.source not in changed.global_buffer.source, "nobody published that"
    assert changed.cost.source.startswith(study.cost.source)
    assert len(with_buffer(changed, 50 * KB).cost.source) == len(changed.cost.source)
    assert replace(changed.cost, global_buffer=6, source=study.cost.source) == study.cost


def test_costs_in_picojoules_move_in_proportion_to_the_line() -> None:
    chip = shipped("eyeriss_chip")
    found = with_buffer(chip, 216 * KB).cost.global_buffer
    assert found == pytest.approx(15 * sram_cost(216 * KB) / sram_cost(108 * KB))
    back = with_buffer(with_buffer(chip, 216 * KB), 108 * KB)
    assert back.cost.global_buffer == pytest.approx(15)


def test_the_line_in_units_of_a_narrower_mac() -> None:
    """An 8-bit access is half of a 16-bit one, an 8-bit MAC a quarter."""
    narrow = replace(default_hardware(), word_bits=8)
    assert with_buffer(narrow, 100 * KB).cost.global_buffer == 12


@pytest.mark.parametrize("size", [-1, 0, 5, 2**41, 10**400, True, 1024.5])
def test_a_size_that_no_buffer_has_is_refused(size: Any) -> None:
    with pytest.raises(HardwareUnreadable, match=r"global_buffer\.bytes: should"):
        with_buffer(default_hardware(), size)


# Bad files

GOOD = """\
name = "Own"
source = "me"
word_bits = 8

[array]
rows = 2
columns = 3
source = "me"

[register_file]
shared_bytes = 64
source = "me"

[global_buffer]
bytes = 4096
source = "me"

[cost]
unit = "pJ"
picojoules = 1
mac = 0.5
register_file = { weights = 1, input = 1, output = 2 }
array = 0
global_buffer = 2
dram = 50
source = "me"

[sparsity]
gates_zero_inputs = true
gates_zero_weights = false
compresses_maps = false
compresses_weights = false
source = "me"
"""
OWN = Hardware(
    "Own", "me", 8, Array(2, 3, "me"), RegisterFile("me", 64), GlobalBuffer(4096, "me"),
    AccessCosts("pJ", 1, 0.5, RegisterCosts(1, 1, 2), 0, 2, 50, "me"),
    Sparsity(True, False, False, False, "me"),
)  # fmt: skip


def refusal(path: Path) -> str:
    with pytest.raises(HardwareUnreadable) as caught:
        read_hardware(path)
    assert caught.value.remedy
    return str(caught.value)


def written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_a_description_of_ones_own_is_read_whole(tmp_path: Path) -> None:
    assert read_hardware(written(tmp_path / "own.toml", GOOD)) == OWN


@pytest.mark.parametrize(
    ("line", "instead", "field", "reason"),
    [
        ('name = "Own"\n', "", "name", "is missing"),
        ('name = "Own"', 'name = " "', "name", "should not be blank"),
        ('name = "Own"', 'name = "two\\nlines"', "name", "control characters"),
        ('name = "Own"', f'name = "{"x" * 101}"', "name", "at most 100 characters"),
        ('name = "Own"', "name = 5", "name", "should be text"),
        ("word_bits = 8", "word_bits = 0", "word_bits", "greater than or equal to 1"),
        ("word_bits = 8", "word_bits = 65", "word_bits", "less than or equal to 64"),
        ("word_bits = 8", "word_bits = 7.5", "word_bits", "whole number"),
        ("word_bits = 8", "word_bits = 8\ncolour = 1", "colour", "is no field"),
        ("rows = 2", "rows = -2", "array.rows", "greater than or equal to 1"),
        ("rows = 2", "rows = true", "array.rows", "whole number"),
        ("rows = 2", "rows = nan", "array.rows", "whole number"),
        ("rows = 2", f"rows = 1{'0' * 30}", "array.rows", "less than or equal to 65536"),
        ("rows = 2", "rows = 2020-01-01", "array.rows", "whole number"),
        ("[array]", "[arrays]", "array", "is missing"),
        ("[sparsity]", "[extra]\n[sparsity]", "extra", "is no field"),
        ("dram = 50\n", "", "cost.dram", "is missing"),
        ("dram = 50", "dram = -1", "cost.dram", "greater than or equal to 0"),
        ("dram = 50", 'dram = "50"', "cost.dram", "should be a number"),
        ("dram = 50", "dram = true", "cost.dram", "should be a number"),
        ("dram = 50", "dram = inf", "cost.dram", "finite"),
        ("dram = 50", "dram = nan", "cost.dram", "finite"),
        ("dram = 50", f"dram = 1{'0' * 400}", "cost.dram", "number"),
        ("dram = 50", "dram = 50\nwires = 1", "cost.wires", "is no field"),
        ("mac = 0.5", "mac = 0", "cost.mac", "greater than or equal to"),
        ("mac = 0.5", "mac = 1e-300", "cost.mac", "greater than or equal to"),
        ('unit = "pJ"', 'unit = "J"', "cost.unit", "'MAC' or 'pJ'"),
        ("picojoules = 1", "picojoules = 2", "cost", "has to be 1 where the unit is pJ"),
        (
            "register_file = { weights = 1, input = 1, output = 2 }", "register_file = 1",
            "cost.register_file", "a section with fields",
        ),
        ("output = 2 }", "output = -2 }", "cost.register_file.output", "greater than"),
        ("shared_bytes = 64\n", "", "register_file", "give shared_bytes, or all of"),
        ("shared_bytes = 64", "input_bytes = 1", "register_file", "give shared_bytes, or all of"),
        ("shared_bytes = 64", "shared_bytes = 64\ninput_bytes = 1", "register_file", "not both"),
        ("shared_bytes = 64", "shared_bytes = 2", "register_file.shared_bytes", "at least 3 bytes"),
        ("bytes = 4096", "bytes = -1", "global_buffer.bytes", "greater than or equal to 0"),
        ("bytes = 4096", "bytes = 2", "global_buffer.bytes", "one word of each data type"),
        ("inputs = true", "inputs = 1", "sparsity.gates_zero_inputs", "true or false"),
        ("[sparsity]", "[speed]\n[sparsity]", "speed.clock_hertz", "is missing"),
    ],
)  # fmt: skip
def test_a_wrong_description_is_refused_by_field_and_reason(
    tmp_path: Path, line: str, instead: str, field: str, reason: str
) -> None:
    assert line in GOOD
    path = written(tmp_path / "own.toml", GOOD.replace(line, instead, 1))
    with pytest.raises(HardwareUnreadable) as caught:
        read_hardware(path)
    assert str(caught.value).startswith(f"own.toml: {field}: ")
    assert reason in str(caught.value)
    assert caught.value.details == {"field": field}


@pytest.mark.parametrize("short", ["weights", "input", "output"])
def test_each_register_file_holds_a_word(short: str) -> None:
    sizes = {"weights_bytes": 4, "input_bytes": 4, "output_bytes": 4}
    fields = hardware_fields(OWN) | {"word_bits": 32}
    assert check_hardware(fields | {"register_file": {"source": "me", **sizes}}, "own")
    sizes[f"{short}_bytes"] = 3
    with pytest.raises(
        HardwareUnreadable,
        match=rf"^own: register_file\.{short}_bytes: should be at least 4 bytes, to hold a word\.$",
    ):
        check_hardware(fields | {"register_file": {"source": "me", **sizes}}, "own")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"word_bits = ", "Invalid value"),
        (b"\xff\xfe", "can't decode"),
        (b"x = " + b"[" * 20_000, "nested too deep"),
        (b"x = 1" + b"0" * 5000, "digits"),
        (b"#" * (32 * KB + 1), "larger than 32 kB"),
    ],
    ids=["syntax", "encoding", "nested", "digits", "size"],
)
def test_what_is_not_toml_is_refused_in_words(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    found = refusal(path)
    assert found.startswith("own.toml is not a hardware description: ")
    assert reason in found


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: takes no space on the disk, would take all memory
    assert "larger than 32 kB" in refusal(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "is not a file" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "none.toml")
    assert "could not be read" in refusal(tmp_path / ("x" * 300 + ".toml"))
    assert "null byte" in refusal(tmp_path / "a\0b.toml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "own.toml")
    assert "is not a file" in refusal(tmp_path / "own.toml")


@needs_permissions
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = written(tmp_path / "own.toml", GOOD)
    path.chmod(0)
    assert refusal(path) == "own.toml could not be read: Permission denied."


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["name", "rows", "source", "unit"]), inner)
        ),
        max_leaves=6,
    ),
    st.sampled_from(["cost", "array", "register_file", "speed", "word_bits", "name", "note", "x"]),
)
def test_whatever_stands_in_a_field_it_is_taken_or_refused_by_name(value: Any, field: str) -> None:
    refused = ""
    try:
        check_hardware(hardware_fields(OWN) | {field: value}, "own")
    except HardwareUnreadable as error:
        refused = str(error)
    # A word that is too wide is a complaint about the memory that cannot hold it.
    assert re.match(rf"^$|own: ({field}|register_file\.shared_bytes)\b.*: .", refused, re.DOTALL)


# Written and read again

costs = st.floats(0, 1e12)
rates = st.floats(1, 1e18)
notes = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=700) | st.just(
    "two\nlines\t“quoted” \"\"\" ''' \\ end"
)
texts = notes.filter(str.strip)
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=100).filter(
    str.strip
)
sides = st.integers(1, 2**16)
separate = st.builds(
    RegisterFile,
    texts,
    weights_bytes=st.integers(8, 2**40),
    input_bytes=st.integers(8, 2**40),
    output_bytes=st.integers(8, 2**40),
)
units = st.tuples(st.just("MAC"), st.floats(1e-6, 1e12)) | st.just(("pJ", 1.0))
access_costs = units.flatmap(
    lambda unit: st.builds(
        AccessCosts,
        st.just(unit[0]),
        st.just(unit[1]),
        st.floats(1e-6, 1e12),
        st.builds(RegisterCosts, costs, costs, costs),
        *[costs] * 3,
        texts,
    )
)
descriptions = st.builds(
    Hardware,
    names,
    texts,
    st.integers(1, 64),
    st.builds(Array, sides, sides, texts),
    separate | st.builds(RegisterFile, texts, st.integers(24, 2**40)),
    st.builds(GlobalBuffer, st.integers(24, 2**40), texts),
    access_costs,
    st.builds(Sparsity, *[st.booleans()] * 4, texts),
    notes,
    st.none() | st.builds(Speed, rates, rates, texts),
    notes,
)


@given(descriptions)
@settings(max_examples=50)
def test_what_is_written_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, hardware: Hardware
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.toml"
    write_hardware(hardware, path)
    assert read_hardware(path) == hardware
    assert hash(read_hardware(path)) == hash(hardware)
    assert check_hardware(hardware_fields(hardware), "same") == hardware


def test_the_longest_description_can_be_read_again(tmp_path: Path) -> None:
    def lengthened(fields: Mapping[str, object]) -> dict[str, object]:
        return {
            key: lengthened(value) if isinstance(value, dict)
            else "\U0001f50b" * 700 if key in ("source", "note", "technology")
            else value
            for key, value in fields.items()
        }  # fmt: skip

    longest = check_hardware(lengthened(hardware_fields(shipped("eyeriss_chip"))), "longest")
    write_hardware(longest, tmp_path / "longest.toml")
    assert read_hardware(tmp_path / "longest.toml") == longest


@given(st.sampled_from(SHIPPED), st.integers(24, 2**39))
def test_a_larger_buffer_costs_more(path: Path, size: int) -> None:
    small = with_buffer(read_hardware(path), size)
    large = with_buffer(small, 2 * size)
    assert large.cost.global_buffer > small.cost.global_buffer > 0


# The list and the user's own


def own_entries() -> list[HardwareEntry]:
    return [entry for entry in list_hardware() if entry.own]


def test_the_list_without_a_folder_of_ones_own(own: Path) -> None:
    entries = list_hardware()
    assert [entry.key for entry in entries if entry.problem] == []
    assert {entry.path for entry in entries} == set(SHIPPED)
    assert [entry.own for entry in entries] == [False] * len(SHIPPED)
    assert not own.exists()


def test_bad_files_are_listed_behind_good_ones_with_the_reason(own: Path) -> None:
    own.mkdir(parents=True)
    written(own / "a_bad.toml", "rows = 1")
    written(own / "z.toml", GOOD)
    (own / "folder.toml").mkdir()
    (own / "gone.toml").symlink_to(own / "nowhere.toml")
    written(own / ".z.toml.tmp.toml", "half wr")
    written(own / "notes.txt", "mine")
    found = {entry.key: entry for entry in own_entries()}
    assert list(found) == ["z", "a_bad", "folder", "gone"]
    assert found["z"].hardware == OWN
    assert found["z"].problem == ""
    assert found["a_bad"].hardware is None
    assert found["a_bad"].problem.startswith("a_bad.toml: name: is missing")
    assert "is not a file" in found["folder"].problem
    assert "No such file" in found["gone"].problem
    assert not list_hardware()[0].own, "the shipped ones come first"


def test_a_description_is_saved_under_a_file_name_made_from_its_name(own: Path) -> None:
    path = save_own(default_hardware(), "  My Größe/array: 8×8!  ")
    assert path == own / "my_grosse_array_8_8.toml"
    assert read_hardware(path) == replace(default_hardware(), name="My Größe/array: 8×8!")
    assert [entry.key for entry in own_entries()] == [path.stem]


def has_controls(name: str) -> bool:
    return any(unicodedata.category(one) in ("Cc", "Cs") for one in name)


@given(st.text(max_size=120))
@settings(max_examples=100)
def test_any_name_makes_a_plain_file_name(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.energy.hardware.write_hardware", lambda hardware, path: None)
        patch.setattr(Path, "mkdir", lambda *args, **kwargs: None)
        if not name.strip() or len(name.strip()) > 100 or has_controls(name.strip()):
            with pytest.raises(HardwareUnreadable, match="name: "):
                save_own(OWN, name)
            return
        path = save_own(OWN, name)
    assert path.parent == own_folder()
    assert path.suffix == ".toml"
    assert path.stem.isascii()
    assert path.stem.replace("_", "a").isalnum()
    assert len(path.name) < 80


@pytest.mark.parametrize("name", ["CON", "nul", "Com1", "...", "加速器", "../../etc/passwd", "~"])
def test_names_that_systems_would_read_otherwise(own: Path, name: str) -> None:
    path = save_own(OWN, name)
    assert path.parent == own
    assert path.stem not in ("con", "nul", "com1", "")
    assert read_hardware(path).name == name


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, "\ud800"])
def test_what_is_no_name_is_refused_and_nothing_written(own: Path, name: str) -> None:
    with pytest.raises(HardwareUnreadable, match="name: "):
        save_own(OWN, name)
    assert not own.exists()


def test_a_taken_name_gets_a_number_and_nothing_is_overwritten(own: Path) -> None:
    chip = shipped("eyeriss_chip")
    copy = save_own(chip, chip.name.upper())
    again = save_own(chip, chip.name)
    assert read_hardware(copy).name == f"{chip.name.upper()} 2"
    assert read_hardware(again).name == f"{chip.name} 3"
    assert len({copy, again}) == 2
    # A shipped key belongs to the shipped description, whatever else is called so.
    like_a_key = save_own(OWN, "Eyeriss chip")
    assert like_a_key.stem == "eyeriss_chip_2"
    # Another's file is left alone, also a bad one.
    bad = written(own / "mine.toml", "not one")
    assert save_own(OWN, "Mine").stem == "mine_2"
    assert bad.read_text(encoding="utf-8") == "not one"


def test_the_description_that_is_edited_keeps_its_file_and_its_name(own: Path) -> None:
    path = save_own(OWN, "Mine")
    wider = replace(OWN, word_bits=16)
    assert save_own(wider, "Mine", editing="mine") == path
    assert read_hardware(path) == replace(wider, name="Mine")
    assert save_own(wider, "Renamed", editing="mine") == path
    assert [(entry.key, entry.hardware) for entry in own_entries()] == [
        ("mine", replace(wider, name="Renamed"))
    ]


def test_a_bad_file_of_ones_own_can_be_edited_and_removed(own: Path) -> None:
    own.mkdir(parents=True)
    path = written(own / "broken.toml", "not one")
    assert save_own(OWN, "Mended", editing="broken") == path
    assert read_hardware(path).name == "Mended"
    remove_own("broken")
    assert own_entries() == []


@pytest.mark.parametrize("key", ["eyeriss_chip", "none", "", "../hardware/own", "own.toml"])
def test_only_ones_own_can_be_edited_or_removed(own: Path, key: str) -> None:
    path = save_own(OWN, "Own")
    before = resource("hardware/eyeriss_chip.toml").read_bytes()
    with pytest.raises(HardwareUnreadable, match="None of your own"):
        remove_own(key)
    if key:
        with pytest.raises(HardwareUnreadable, match="None of your own"):
            save_own(OWN, "Other", editing=key)
    assert path.exists()
    assert resource("hardware/eyeriss_chip.toml").read_bytes() == before
    assert len(own_entries()) == 1


def test_a_folder_that_cannot_be_made_is_said(own: Path) -> None:
    own.parent.parent.mkdir(parents=True, exist_ok=True)
    own.parent.write_bytes(b"a file in its place")
    with pytest.raises(ExportFailed, match="could not be made") as caught:
        save_own(OWN, "Own")
    assert "writable" in caught.value.remedy


def test_what_cannot_be_removed_is_said(own: Path) -> None:
    (own / "folder.toml").mkdir(parents=True)
    with pytest.raises(ExportFailed, match="could not be removed"):
        remove_own("folder")


def test_hardware_is_found_by_key_by_name_and_by_path(own: Path, tmp_path: Path) -> None:
    chip = shipped("eyeriss_chip")
    assert find_hardware("eyeriss_chip") == chip
    assert find_hardware("EYERISS CHIP (JSSC 2017)") == chip
    assert find_hardware(str(resource("hardware/eyeriss_chip.toml"))) == chip
    assert find_hardware(str(written(tmp_path / "free.toml", GOOD))) == OWN
    save_own(OWN, "Mine, all mine")
    assert find_hardware("mine_all_mine") == find_hardware("mine, ALL mine")


@pytest.mark.parametrize("wanted", ["", "eyeris", "none.toml", "a\0b", "x" * 5000, "[", "*"])
def test_what_is_nowhere_is_refused_with_the_keys(own: Path, wanted: str) -> None:
    save_own(OWN, "Mine")
    with pytest.raises(
        HardwareUnreadable, match="is neither a hardware description nor a file"
    ) as (caught):
        find_hardware(wanted)
    assert all(f"{path.stem}, " in caught.value.remedy for path in SHIPPED)
    assert caught.value.remedy.endswith(" mine.")


def test_a_bad_description_and_an_ambiguous_name_are_not_guessed_around(own: Path) -> None:
    own.mkdir(parents=True)
    written(own / "bad.toml", "rows = 1")
    with pytest.raises(HardwareUnreadable, match=r"bad\.toml: name: is missing"):
        find_hardware("bad")
    written(own / "one.toml", GOOD)
    written(own / "two.toml", GOOD)
    with pytest.raises(HardwareUnreadable, match="Several") as caught:
        find_hardware("own")
    assert "one, two" in caught.value.remedy
    # A shipped key is what it always was.
    written(own / "eyeriss_chip.toml", GOOD)
    assert find_hardware("eyeriss_chip") == shipped("eyeriss_chip")


# Grids


def test_each_grid_has_a_plausible_figure_a_year_and_a_source() -> None:
    names = [grid.name for grid in grids()]
    assert names[0] == "World"
    assert names[1:] == sorted(names[1:])
    assert 8 <= len(names) == len(set(names)) <= 15
    for grid in grids():
        assert 10 < grid.grams_per_kwh < 900, "between hydropower and lignite"
        assert 2020 <= grid.year <= 2030
        assert "Ember" in grid.source


def test_grids_stand_in_the_known_order() -> None:
    by_name = {grid.name: grid.grams_per_kwh for grid in grids()}
    order = ["Norway", "France", "United Kingdom", "World", "Poland", "India"]
    assert [by_name[name] for name in order] == sorted(by_name[name] for name in order)


def test_a_kilowatt_hour_emits_what_the_grid_says() -> None:
    grid = Grid("Somewhere", 400, 2023, "me")
    assert co2_grams(3.6e6, grid) == pytest.approx(400)
    assert co2_grams(9.0, grid) == pytest.approx(0.001)
    assert co2_grams(0, grid) == 0
