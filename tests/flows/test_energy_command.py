"""``energy`` on the command line: what it prints, what it compares, what it refuses."""

import contextlib
import csv
import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import main
from engine import (
    DATAFLOWS,
    Job,
    PruneChannels,
    default_hardware,
    grids,
    list_hardware,
    open_model,
    own_folder,
    resource,
)
from gui import energy_text
from gui import format as fmt
from gui.models.energy_unit import JOULES

CHIP = "eyeriss_chip"
LEVELS = ["compute", "DRAM", "buffer", "array", "registers"]
DATA_TYPES = ["compute", "weights", "input", "output"]


class Said(NamedTuple):
    """What a run ended with and said."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> Any:
        """Standard output as JSON."""
        assert self.code == main.OK, self.err
        return json.loads(self.out)

    @property
    def table(self) -> list[dict[str, str]]:
        """Standard output as CSV."""
        assert self.code == main.OK, self.err
        return list(csv.DictReader(io.StringIO(self.out)))


def run(*arguments: object, command: str = "energy") -> Said:
    """The command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main.main([command, *map(str, arguments)])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Half of the channels of one of the demo's layers."""
    session = open_model("demo", Job())
    layers = session.snapshot.base.tree.select(["stage1.block0.conv2"])
    session.apply(PruneChannels(layers, 0.5), Job())
    session.save_recipe(str(tmp_path / "recipe.json"), Job())
    return tmp_path / "recipe.json"


def line_of(said: Said, begins: str) -> str:
    """The one line that starts so, without its indentation."""
    (line,) = [one.strip() for one in said.out.splitlines() if one.strip().startswith(begins)]
    return line


# -- layer by layer


def test_a_table_by_layer_with_its_totals_and_conditions() -> None:
    said = run("demo")
    assert said.code == main.OK, said.err
    titles = line_of(said, "Layer ").split()
    assert titles == [
        "Layer", "Kind", "MACs", "Energy", "Compute", "Weights", "Input", "Output",
        "Share", "Bound", "In", "use",
    ]  # fmt: skip
    assert re.search(r"Conv2d +590 k +[\d.]+ [nµ]J", line_of(said, "stage1.block1.conv2 "))
    assert "2.26 M" in line_of(said, "Total")
    told = line_of(said, "Energy, modelled:")
    assert "hardware Eyeriss (ISCA 2016)" in told
    assert "row-stationary, batch 1" in told
    assert line_of(said, "Eyeriss (ISCA 2016) skips no zeros")
    assert default_hardware().note in said.out


@pytest.mark.parametrize(
    ("by", "parts"), [("data-type", DATA_TYPES), ("level", LEVELS)], ids=["data type", "level"]
)
def test_parts_add_up_to_layers_and_layers_to_the_total(by: str, parts: list[str]) -> None:
    facts = run("demo", "--by", by, "--json").facts
    assert sorted(facts["parts"]) == sorted(parts)
    assert facts["unit"] == "J"
    assert 1e-7 < facts["energy"] < 1e-2
    for layer in facts["layers"]:
        assert sum(layer["parts"].values()) == pytest.approx(layer["energy"], rel=1e-12)
    assert sum(one["energy"] for one in facts["layers"]) == pytest.approx(facts["energy"])
    assert sum(facts["parts"].values()) == pytest.approx(facts["energy"])
    assert sum(one["share"] for one in facts["layers"]) == pytest.approx(1)


def test_the_energy_is_that_of_inspect() -> None:
    energy, inspected = run("demo", "--json"), run("demo", "--json", command="inspect")
    assert energy.facts["energy"] == inspected.facts["energy"]
    assert energy.facts["conditions"].items() <= inspected.facts["conditions"]["energy"].items()


def test_csv_has_the_numbers_of_json() -> None:
    lines = run("demo", "--csv", "--by", "level").table
    layers = run("demo", "--json", "--by", "level").facts["layers"]
    assert [one["layer"] for one in lines] == [one["layer"] for one in layers]
    for line, layer in zip(lines, layers, strict=True):
        assert float(line["energy"]) == layer["energy"]
        assert float(line["DRAM"]) == layer["parts"]["DRAM"]
        assert line["utilisation"] == (
            "" if layer["utilisation"] is None else str(layer["utilisation"])
        )
    assert {one["unit"] for one in lines} == {"J"}


@pytest.mark.parametrize("key", ["energy", "macs"])
def test_the_largest_come_first_when_sorted(key: str) -> None:
    layers = run("demo", "--sort", key, "--json").facts["layers"]
    values = [one[key] or 0 for one in layers]
    assert values == sorted(values, reverse=True)
    assert values != [one[key] or 0 for one in run("demo", "--json").facts["layers"]]


def test_macs_and_co2_are_the_same_energy_in_other_units() -> None:
    joules = run("demo", "--json").facts
    macs = run("demo", "--unit", "MAC", "--json").facts
    hardware = default_hardware()
    assert macs["energy"] * hardware.joules_per_mac == pytest.approx(joules["energy"])
    assert macs["parts"]["compute"] == pytest.approx(2_258_816, rel=0.01), "a MAC is one"
    norway = next(grid for grid in grids() if grid.name == "Norway")
    grams = run("demo", "--unit", "CO2", "--grid", "norway", "--json").facts
    of_thousand = 1000 * joules["energy"] / 3.6e6 * norway.grams_per_kwh
    assert grams["energy"] == pytest.approx(of_thousand)
    assert "1000 inferences" in grams["unit"]
    said = run("demo", "--unit", "CO2", "--grid", "World")
    assert line_of(said, "World ")


# -- what it is modelled under


def test_hardware_dataflow_batch_and_bits_reach_the_model() -> None:
    asked = ("--hardware", CHIP, "--dataflow", "weight-stationary", "--batch", 4, "--bits", 8)
    told = run("demo", *asked, "--json").facts["conditions"]
    assert told["hardware"] == "Eyeriss chip (JSSC 2017)"
    assert (told["dataflow"], told["batch"]) == ("weight-stationary", "4")
    wide, narrow = (
        run("demo", "--bits", bits, "--json").facts["parts"]["compute"] for bits in (16, 8)
    )
    assert narrow == pytest.approx(wide / 4)
    one, many = (run("demo", "--batch", n, "--json").facts["parts"]["weights"] for n in (1, 16))
    assert many < one, "weights that are fetched once serve all images"


def test_a_file_of_ones_own_is_hardware_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = resource("hardware/eyeriss_isca2016.toml").read_text(encoding="utf-8")
    file.write_text(text.replace("dram = 200.0", "dram = 400.0"), encoding="utf-8")
    before = run("demo", "--by", "level", "--json").facts["parts"]
    after = run("demo", "--by", "level", "--hardware", file, "--json").facts["parts"]
    assert after["compute"] == before["compute"]
    assert before["DRAM"] < after["DRAM"] <= 2 * before["DRAM"] * (1 + 1e-12)


def test_zeros_of_activations_are_measured_on_data() -> None:
    plain = run("demo", "--hardware", CHIP)
    assert line_of(plain, "Zeros of activations are not measured: --data SOURCE")
    said = run("demo", "--hardware", CHIP, "--data", "digits")
    assert "Zeros of activations are not measured" not in said.out
    assert "on other hardware nothing" in line_of(said, "Zeros save")
    facts = run("demo", "--hardware", CHIP, "--data", "digits", "--json").facts
    assert facts["saved_by_zeros"] > 0
    zeros = {one["layer"]: one["input_zeros"] for one in facts["layers"]}
    assert 0 < zeros["stage1.block0.conv2"] < 1
    unskipped = run("demo", "--data", "digits", "--json").facts
    assert unskipped["saved_by_zeros"] == 0


def test_a_recipe_is_applied_first(recipe: Path) -> None:
    facts = run("demo", "--recipe", recipe, "--json").facts
    assert facts["base"] == run("demo", "--json").facts["energy"]
    assert facts["energy"] < facts["base"]
    assert "▼" in line_of(run("demo", "--recipe", recipe), "Before the edits:")


# -- instead of the layers


def test_compare_has_a_line_for_each_hardware_and_dataflow() -> None:
    shipped = [one.hardware for one in list_hardware() if not one.own]
    lines = run("demo", "--compare", "--json").facts
    pairs = [(line["hardware"], line["dataflow"]) for line in lines]
    assert pairs == [(one.name, flow) for one in shipped if one for flow in DATAFLOWS]
    assert all(0 < line["dram_share"] < 1 for line in lines)
    alone = run("demo", "--hardware", CHIP, "--json").facts["energy"]
    assert ("Eyeriss chip (JSSC 2017)", "row-stationary", alone) in [
        (line["hardware"], line["dataflow"], line["energy"]) for line in lines
    ]
    assert len(run("demo", "--compare", "--csv").table) == len(lines)
    said = run("demo", "--compare", "--unit", "MAC")
    assert said.out.count("row-stationary") == len(lines) // len(DATAFLOWS)
    assert line_of(said, "A MAC is that of each hardware")


def test_compare_leaves_what_is_named_as_it_is() -> None:
    lines = run("demo", "--compare", "--hardware", CHIP, "--json").facts
    assert [line["dataflow"] for line in lines] == list(DATAFLOWS)
    lines = run("demo", "--compare", "--dataflow", DATAFLOWS[1], "--json").facts
    assert {line["dataflow"] for line in lines} == {DATAFLOWS[1]}
    assert len({line["hardware"] for line in lines}) == len(lines) > 1


def test_hardware_is_listed_without_a_model_and_bad_files_with_the_reason() -> None:
    own_folder().mkdir(parents=True)
    (own_folder() / "mine.toml").write_text('name = "Mine"', encoding="utf-8")
    said = run("--list-hardware")
    assert said.code == main.OK, said.err
    for entry in list_hardware():
        if not entry.own:
            assert entry.hardware is not None
            assert entry.key in said.out
            assert entry.hardware.name in said.out
    assert "mine.toml" in said.out
    facts = {one["key"]: one for one in run("--list-hardware", "--json").facts}
    assert facts["mine"]["own"]
    assert facts["mine"]["problem"]
    assert facts[CHIP] | {"file": ""} == {
        "key": CHIP, "name": "Eyeriss chip (JSSC 2017)", "technology": "65 nm", "own": False,
        "source": facts[CHIP]["source"], "file": "", "problem": "",
    }  # fmt: skip
    assert CHIP in {one["key"] for one in run("--list-hardware", "--csv").table}


def test_the_network_is_written_in_the_mit_tools_format(tmp_path: Path) -> None:
    file = tmp_path / "demo.txt"
    said = run("demo", "--mit", file, "--batch", 2)
    assert said.code == main.OK, said.err
    assert str(file) in line_of(said, "Wrote ")
    lines = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]
    assert {len(line) for line in lines} == {25}
    assert [int(line[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert {line[4] for line in lines} == {"2"}, "the batch"
    facts = run("demo", "--mit", file, "--json").facts
    assert str(file) in facts["files"]
    assert all(one["reason"] for one in facts["left_out"])


# -- what has no rule, and names


def test_layers_without_a_rule_are_listed_and_never_zero(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "import torch\n"
        "from torch import nn\n"
        "torch.library.define('secateur_tests::riddle', '(Tensor x) -> Tensor')\n"
        "torch.library.impl('secateur_tests::riddle', 'default', lambda x: x.clone())\n"
        "torch.library.register_fake('secateur_tests::riddle', lambda x: torch.empty_like(x))\n"
        "class Odd(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.ops.secateur_tests.riddle(x)\n"
        "def make():\n"
        "    return nn.Sequential(nn.Linear(2, 2), Odd())\n",
        encoding="utf-8",
    )
    asked = (f"{file}:make", "--trust", "--input", "1x2")
    said = run(*asked)
    assert said.code == main.OK, said.err
    assert re.search(r"^ *1 +Odd +– +not modelled ", said.out, re.MULTILINE)
    told = line_of(said, "Not modelled, not in the total:")
    assert "secateur_tests.riddle" in told
    (layer,) = [one for one in run(*asked, "--json").facts["layers"] if one["not_modelled"]]
    assert layer["energy"] is None
    assert layer["share"] is None


def test_names_are_text_and_never_markup_or_commands(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    model = nn.Sequential()\n"
        "    model.add_module('[red]x[/red]\\x1b[2J', nn.Linear(2, 2))\n"
        "    return model\n",
        encoding="utf-8",
    )
    said = run(f"{file}:make", "--trust", "--input", "1x2")
    assert said.code == main.OK, said.err
    assert "[red]x[/red]" in said.out
    assert "\x1b" not in said.out


# -- what cannot be


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("demo", "--hardware", "abacus"), "“abacus” is neither a hardware description nor a file"),
        (("demo", "--batch", "-1"), "A batch of -1 is impossible"),
        (("demo", "--bits", "-8"), "A width in bits of -8 is impossible"),
        (("demo", "--unit", "CO2"), "CO2 depends on whose electricity it is"),
        (("demo", "--unit", "CO2", "--grid", "Utopia"), "There is no figure for a grid “Utopia”"),
        (("demo", "--grid", "World"), "Add --unit CO2"),
        (("demo", "--preprocess", "resize=8"), "--preprocess says how data are used"),
        (("demo", "--data", "/nowhere/pictures"), "/nowhere/pictures"),
        (("demo", "--recipe", "/nowhere/recipe.json"), "recipe.json"),
        (("demo", "--mit", "/nowhere/demo.txt"), "demo.txt"),
        (("demo", "--compare", "--mit", "demo.txt"), "Give one of the two"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    said = run(*arguments)
    assert said.code == main.FAILED, said
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [(), ("demo", "--dataflow", "sideways"), ("demo", "--by", "colour"), ("demo", "--unit", "kg"),
     ("demo", "--json", "--csv"), ("demo", "--batch", "many"), ("demo", "--sort", "name")],
)  # fmt: skip
def test_what_is_not_understood_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    said = run(*arguments)
    assert said.code == main.USAGE
    assert said.out == ""


# -- the other commands


def test_inspect_and_evaluate_take_hardware() -> None:
    wanted = run("demo", "--hardware", CHIP, "--json").facts["energy"]
    facts = run("demo", "--hardware", CHIP, "--json", command="inspect").facts
    assert facts["energy"] == wanted
    assert facts["conditions"]["energy"]["hardware"] == "Eyeriss chip (JSSC 2017)"
    for bound, code in ((wanted * 1.001, main.OK), (wanted * 0.999, main.UNMET)):
        asked = ("--hardware", CHIP, "--max-energy", f"{bound:.12g}")
        said = run("demo", *asked, command="evaluate")
        assert said.code == code
        assert line_of(said, "Energy per inference ≤").endswith("met, on Eyeriss chip (JSSC 2017)")
    for command in ("inspect", "evaluate"):
        said = run("demo", "--hardware", "abacus", command=command)
        assert said.code == main.FAILED
        assert "abacus" in said.err


def test_in_a_narrow_terminal_names_give_way_and_figures_stay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = open_model("demo", Job())
    rows = energy_text.rows(session.snapshot, "data type", JOULES, "order")
    for width in (100, 1000):
        energy_text.Printer(width).layers(session.snapshot, rows, JOULES)
        table = capsys.readouterr().out.split("Energy, modelled")[0]
        assert max(map(len, table.splitlines())) <= width
        names = [line.split()[0] for line in table.splitlines() if "Conv2d" in line]
        assert names
        assert all(fmt.quantity(row.energy, "J") in table for row in rows)
        assert any("…" in name for name in names) == (width == 100)
        assert not any("…" in line[40:] for line in table.splitlines())
