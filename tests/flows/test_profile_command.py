"""``profile`` on the command line: what it prints, what it writes, what it refuses."""

import contextlib
import io
import json
import pstats
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import main
from engine import session
from engine.energy import counters
from engine.energy.counters import CounterInfo, EnergyCounter
from engine.profiling import energy, latency, roofline, source_lines
from gui import format as fmt


class Said(NamedTuple):
    """What a run ended with and said."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, Any]:
        """Standard output as JSON."""
        assert self.code == main.OK, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


def run(*arguments: object) -> Said:
    """``profile`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main.main(["profile", *map(str, arguments)])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(latency, "RUNS", 3)
    monkeypatch.setattr(latency, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(source_lines, "RUNS", 2)
    monkeypatch.setattr(roofline, "MOST_ARRAY_BYTES", 1 << 20)
    monkeypatch.setattr(roofline, "SIDES", (16,))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def line_of(said: Said, begins: str) -> str:
    """The one line that starts so, without its indentation."""
    (line,) = [one.strip() for one in said.out.splitlines() if one.strip().startswith(begins)]
    return line


def test_latency_and_memory_are_shown_when_nothing_is_named() -> None:
    said = run("demo")
    assert said.code == main.OK, said.err
    row = line_of(said, "block0 ")
    assert re.search(r"_ResidualBlock +[\d.]+ [mµ]s +[\d.]+ [mµ]s .* – .* 24.6 kB", row)
    assert "threads 1, batch 1, dtype float32, pass forward" in line_of(said, "Latency:")
    assert line_of(said, "Peak activation memory: 24.6 kB;")
    told = line_of(said, "Layers add up to")
    assert re.search(
        r"the whole takes [\d.]+ .s: overhead −?[\d.]+ .?s \(.*%\), reading the clock 73 times",
        told,
    )


def test_one_of_the_two_alone() -> None:
    assert "Memory while it runs" not in run("demo", "--latency").out
    said = run("demo", "--memory")
    assert "Latency" not in said.out
    assert "24.6 kB" in said.out


def test_settings_reach_the_figures() -> None:
    settings = ("--batch", 3, "--dtype", "bfloat16", "--channels-last", "--backward")
    facts = run("demo", "--latency", *settings, "--json").facts
    told = facts["latency"]["conditions"]
    assert (told["batch"], told["dtype"], told["memory order"]) == (
        "3",
        "bfloat16",
        "channels last",
    )
    assert told["pass"] == "forward and backward"
    assert run("demo", "--memory", "--autocast", "--json").facts["memory"]["conditions"]["autocast"]


def test_json_has_plain_numbers() -> None:
    facts = run("demo", "--json").facts
    assert set(facts) == {"model", "latency", "memory", "files"}
    found = facts["latency"]
    low, high = found["interval"]
    assert low <= found["value"] <= high
    own = [layer["value"] for layer in found["layers"].values()]
    assert found["sum_over_layers"] == pytest.approx(sum(own))
    assert found["overhead"] == pytest.approx(sum(own) - found["value"])
    assert found["overhead_cause"].startswith("reading the clock")
    assert facts["memory"]["value"] == max(
        layer["value"] for layer in facts["memory"]["layers"].values()
    )
    assert found["provenance"] == "measured"


SHORT = energy.Protocol(0.01, 0.03, 0.03, 0.03, 5, 0.01, 0.002, 0.001)


def processor_time(device: str) -> tuple[EnergyCounter, ...]:
    """A counter of 1 W, and of 20 W more while this process computes."""
    info = CounterInfo("toy", "toy", "processor time", device)
    return (EnergyCounter(info, lambda: time.perf_counter() + 20 * time.process_time(), 1.0),)


@pytest.fixture
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = partial(energy.measure_energy, protocol=SHORT, counters=processor_time)
    monkeypatch.setattr(session, "measure_energy", taken)


@pytest.mark.usefixtures("_counted")
def test_measured_energy_of_the_whole_and_of_each_layer() -> None:
    said = run("demo", "--energy")
    assert said.code == main.OK, said.err
    assert "Latency" not in said.out
    assert re.search(r"conv +Conv2d +[\d.]+ .?J +[\d.]+ .?J +−?[\d.]+ .?J – [\d.]+ .?J", said.out)
    # Layers that hold others are rows of their own, with the sums of those.
    assert re.search(r"stage1 +Sequential +[\d.]+ .?J +– +–", said.out)
    told = line_of(said, "Measured energy:")
    assert re.search(r"Measured energy: [\d.]+ .?J \([\d.]+ .?J – [\d.]+ .?J\); device cpu", told)
    assert re.search(r"counter processor time, windows 5 of at least 0\.\d+ s, ", told)
    assert re.search(r"idle [\d.]+ W, taken off, gross [\d.e-]+ J with idle", told)
    assert line_of(said, "Unattributed, difference to the whole:").endswith("J")


@pytest.mark.usefixtures("_counted")
def test_measured_energy_as_json() -> None:
    facts = run("demo", "--energy", "--batch", 2, "--json").facts
    assert set(facts) == {"model", "measured_energy", "files"}
    found = facts["measured_energy"]
    low, high = found["interval"]
    assert 0 < low <= found["value"] <= high
    assert found["conditions"]["batch"] == "2"
    assert found["provenance"] == "measured"
    layers = sum(layer["value"] for layer in found["layers"].values())
    rest = found["unattributed"].pop("difference to the whole")
    assert layers + rest == pytest.approx(found["value"])
    assert set(found["unattributed"].values()) <= {None}


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_without_a_counter_the_reason_and_the_way_out_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: tuple[str, ...]
) -> None:
    bare = counters.Roots(tmp_path / "powercap", tmp_path / "i2c", "linux")
    found = partial(counters.find_counters, roots=bare)
    monkeypatch.setattr(energy, "find_counters", found)
    said = run("demo", "--energy", *form)
    assert said.code == main.FAILED == 4
    assert said.out == ""
    assert "no energy counter of the processor" in said.err
    assert said.err.endswith("sudo modprobe intel_rapl_msr\n")
    assert said.err.count("\n") == 1


def test_operators_and_their_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    said = run("demo", "--operators", "--trace", file)
    assert re.search(r"stem\.conv +aten::\w+ +cpu +1 ", said.out)
    assert "more operators" in said.out
    assert "operators on the processor" in line_of(said, "The pass takes")
    assert said.out.endswith(f"Wrote {file}.\n")
    assert "Latency" not in said.out
    names = {event.get("name") for event in json.loads(file.read_text())["traceEvents"]}
    assert {"aten::conv2d", "stem.conv"} <= names


def test_python_and_its_prof_file(tmp_path: Path) -> None:
    file = tmp_path / "demo.prof"
    said = run("demo", "--python", "--prof", file)
    assert re.search(r"forward +sources/demo.py:\d+ +5 ", said.out)
    assert "5 passes (device cpu" in said.out
    assert pstats.Stats(str(file)).total_calls > 0  # type: ignore[attr-defined]


def test_a_file_alone_prints_no_table(tmp_path: Path) -> None:
    said = run("demo", "--prof", tmp_path / "demo.prof")
    assert said.out == f"Wrote {tmp_path / 'demo.prof'}.\n"


def test_lines_of_a_layer() -> None:
    said = run("demo", "--lines", "stem.conv", "--follow")
    assert "Conv2d.forward of torch/nn/modules/conv.py" in said.out
    assert "Conv2d._conv_forward of torch/nn/modules/conv.py" in said.out
    assert re.search(r"\d+ +2 .*% +return self\._conv_forward\(", said.out)
    facts = run("demo", "--lines", "stem.conv", "--json").facts["lines"]
    assert facts["layer"] == "stem.conv"
    assert facts["functions"][0]["lines"][-1]["hits"] == 2


def test_the_roofline() -> None:
    said = run("demo", "--roofline")
    assert re.search(r"head\.fc +Linear .* (memory|compute)", said.out)
    assert "ridge at" in said.out
    assert "overhead" not in said.out
    facts = run("demo", "--roofline", "--json").facts["roofline"]
    assert facts["machine"]["ridge"] > 0
    assert {point["bound"] for point in facts["points"]} <= {"memory", "compute"}


def test_a_recipe_is_applied_first(tmp_path: Path) -> None:
    from engine import Job, PruneChannels, open_model

    session = open_model("demo", Job())
    layers = session.snapshot.base.tree.select(["stage1.block0.conv2"])
    session.apply(PruneChannels(layers, 0.5), Job())
    session.save_recipe(str(tmp_path / "recipe.json"), Job())
    facts = run("demo", "--memory", "--recipe", tmp_path / "recipe.json", "--json").facts
    assert facts["memory"]["value"] < 24_576


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--lines", "nope"), "There is no layer “nope”"),
        (("--follow",), "--follow says how --lines is done"),
        (("--batch", "-1"), "A batch of -1 cannot be run"),
        (("--threads", "99999"), "99999 threads cannot be had"),
        (("--device", "abacus"), "abacus is unavailable"),
        (("--trace", "/nowhere/trace.json"), "/nowhere/trace.json could not be written"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    said = run("demo", *arguments)
    assert said.code == main.FAILED
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1


def test_an_unknown_type_is_a_usage_error() -> None:
    assert run("demo", "--dtype", "int4").code == main.USAGE


@pytest.mark.parametrize(
    ("file", "short"),
    [
        ("/usr/lib/python3/site-packages/torch/nn/functional.py", "torch/nn/functional.py"),
        ("/usr/lib/python3/dist-packages/six.py", "six.py"),
        ("/home/me/model/blocks.py", "model/blocks.py"),
        ("<eval_with_key>.3", "<eval_with_key>.3"),
        ("", ""),
    ],
)
def test_files_are_named_by_their_ends(file: str, short: str) -> None:
    assert fmt.short_file(file) == short


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    model = nn.Sequential()\n"
        "    model.add_module('[red]x[/red]', nn.Linear(2, 2))\n"
        "    return model\n"
    )
    said = run(f"{file}:make", "--trust", "--input", "1x2", "--memory")
    assert said.code == main.OK, said.err
    assert "[red]x[/red]" in said.out
