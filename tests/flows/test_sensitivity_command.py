"""``sensitivity`` on the command line: what it prints and writes, and what it refuses."""

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import main
from engine import Job, PruneChannels, Quantize, open_model, read_sensitivity
from engine.sensitivity import scanning
from gui.sensitivity_options import settings_of


class Said(NamedTuple):
    """What a run ended with and said."""

    code: int
    out: str
    err: str


def run(*arguments: object) -> Said:
    """The command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main.main([str(one) for one in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SCAN = ("sensitivity", "demo", "--samples", 16)


def test_a_table_and_three_files(tmp_path: Path) -> None:
    files = [tmp_path / f"map.{form}" for form in ("json", "csv", "distiller")]
    said = run(
        *SCAN, "--settings", "channels=40", "weights=50,90", "bits=4",
        *(word for one in files for word in (f"--{one.suffix[1:]}", one)),
    )  # fmt: skip
    assert said.code == main.OK, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("Rise of the loss with only this layer changed")
    titles = "".join(lines[2:4])
    assert [word for word in ("40 %", "50 %", "90 %", "Bits") if word not in titles] == []
    (coupled,) = (line for line in lines if line.startswith("│ stage1.block0.conv2 +3"))
    assert coupled.count("│") == 6
    assert "head.fc puts out the model's result" in said.out
    assert "16 training samples of digits" in said.out
    found = read_sensitivity(str(files[0]))
    assert found.complete
    assert len(found.settings) == 4
    assert files[1].read_text().startswith("layer,coupled,setting,")
    assert read_sensitivity(str(files[2])).settings == found.settings[1:3]


def test_layers_and_direction_are_those_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    said = run(
        *SCAN, "--settings", "bits=3,2", "--layers", "stage1.*", "--direction", "all-but",
        "--json", file,
    )  # fmt: skip
    assert said.code == main.OK, said.err
    assert "all layers but this one" in said.out
    found = read_sensitivity(str(file))
    assert found.direction == "all but this"
    assert all(row[0].startswith("stage1.") for row in found.rows)
    assert all(len(row) == 1 for row in found.rows)


def test_a_recipe_is_applied_first(tmp_path: Path) -> None:
    session = open_model("demo", Job())
    session.apply(PruneChannels(session.snapshot.base.tree.select(["stem.conv"]), 0.5), Job())
    recipe, file = tmp_path / "recipe.json", tmp_path / "map.json"
    session.save_recipe(str(recipe), Job())
    said = run(*SCAN, "--recipe", recipe, "--settings", "bits=4", "--json", file)
    assert said.code == main.OK, said.err
    assert read_sensitivity(str(file)).state == session.snapshot.current.id


def test_an_interrupted_scan_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = scanning.Scan.step, []

    def interrupted(self: scanning.Scan, job: Job, seconds: float = 0.0) -> bool:
        steps.append(self.resumed)
        if len(steps) == 60:
            raise KeyboardInterrupt
        return step(self, job, 0.0)

    monkeypatch.setattr(scanning.Scan, "step", interrupted)
    wish = (*SCAN, "--settings", "weights=50,90", "bits=4")
    assert run(*wish).code == main.INTERRUPTED
    assert not any(steps)
    assert run(*wish).code == main.OK
    assert steps[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--settings", "paint=3"), "“paint=3” is no setting"),
        (("--settings", "bits"), "“bits” is no setting"),
        (("--settings", "bits=four"), "“four” in “bits=four” is no number"),
        (("--layers", "nowhere.*"), "matches no layer"),
        (("--layers", "stem.bn"), "None of the settings"),
        (("--samples", "0"), "samples 0"),
        (("--data", "nowhere"), "nowhere"),
        (("--json", "/nowhere/map.json"), "could not be written"),
    ],
)
def test_what_cannot_be_is_one_line(words: tuple[str, ...], told: str) -> None:
    small = ("--settings", "bits=4") if words[0] == "--json" else ()
    said = run(*SCAN, *small, *words)
    assert said.code == main.FAILED
    assert told in said.err
    assert said.err.count("\n") == 1


def test_a_model_without_data_is_refused() -> None:
    said = run("sensitivity", "resnet18")
    assert said.code == main.FAILED
    assert "No data set is chosen" in said.err


def test_settings_in_words() -> None:
    channels, eight, four, inputs = settings_of(["channels=20", "bits=8,4,8", "inputs=8"])
    assert isinstance(channels, PruneChannels)
    assert channels.ratio == 0.2
    assert isinstance(eight, Quantize)
    assert isinstance(four, Quantize)
    assert isinstance(inputs, Quantize)
    assert (eight.weight_bits, four.weight_bits, eight.activations) == (8, 4, "none")
    assert (inputs.activations, inputs.activation_bits) == ("static", 8)
