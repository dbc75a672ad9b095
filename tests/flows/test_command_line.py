"""The main job without a window, as a user of the command line does it."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

import engine
import main
from engine import Job, open_model

ROOT = Path(engine.__file__).resolve().parent.parent


class Said(NamedTuple):
    """What a run ended with and said."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, Any]:
        """The whole standard output as one JSON document, without NaN and the like."""

        def refuse(constant: str) -> float:
            raise AssertionError(f"{constant} is no JSON")

        assert self.code in (main.OK, main.UNMET), self.err
        found: dict[str, Any] = json.loads(self.out, parse_constant=refuse)
        return found


def run(*arguments: object) -> Said:
    """In this process, for speed; without a picture of the window."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(main, "_draw", lambda recipe, picture: "not asked for")
        try:
            code = main.main([str(one) for one in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def run_afresh(*arguments: object, **variables: str) -> Said:
    """In a process of its own, as installed."""
    done = subprocess.run(
        [sys.executable, "-m", "main", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        check=False,
    )
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


def complaint(said: Said) -> str:
    """The one line that says why nothing was done."""
    assert said.code == main.FAILED, said
    assert said.out == ""
    assert re.fullmatch(r"secateur: [^\n]+\.\n", said.err), said.err
    assert "Traceback" not in said.err
    return said.err


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs start in an empty folder, so that what they leave is seen."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one run of the demo says; its files lie in ``folder``."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    said = run("demo", "--json", "--out", folder)
    assert said.err == "No picture of the window: not asked for\n"
    return {**said.facts, "folder": folder}


# -- inspect


def test_inspect_gives_plain_numbers_that_add_up() -> None:
    facts = run("inspect", "demo", "--json").facts
    assert (facts["model"], facts["source"], facts["trained"]) == ("digits_net", "demo", True)
    assert facts["inputs"] == ["1x1x8x8"]
    # By hand: kernel area x inputs x outputs x output positions of each convolution, and the head.
    assert facts["macs"] == 64 * 9 * 32 + 16 * (
        9 * 32 * 64 + 9 * 64 * 64 + 32 * 64 + 2 * 9 * 64 * 64 + 9 * 64 + 64 * 128
    ) + 128 * 10  # fmt: skip
    assert facts["unattributed"] == []
    for key in ("parameters", "macs", "size", "energy"):
        assert sum(layer.get(key, 0) for layer in facts["layers"]) == pytest.approx(facts[key])
    for layer in facts["layers"]:
        if "energy_parts" in layer:
            assert sum(layer["energy_parts"].values()) == pytest.approx(layer["energy"])
    assert 1e-7 < facts["energy"] < 1e-3, "joules"
    assert {one["provenance"] for one in facts["conditions"].values()} == {"counted", "modelled"}


def test_inspect_lists_the_layers_as_the_model_has_them() -> None:
    layers = {one["layer"]: one for one in run("inspect", "demo", "--json").facts["layers"]}
    model = open_model("demo", Job())._opened.model
    assert list(layers) == [name for name, _ in model.named_modules()]
    stem = layers["stem.conv"]
    assert (stem["kind"], stem["output_shape"]) == ("Conv2d", [1, 32, 8, 8])
    assert (stem["parameters"], stem["macs"], stem["weight_bits"]) == (288, 18_432, 32)
    assert stem["size"] == 4 * 288
    assert "macs" not in layers["stem.relu"], "absent is not zero"


def test_inspect_agrees_with_what_torchvision_publishes() -> None:
    facts = run("inspect", "resnet50", "--json").facts
    assert facts["parameters"] == 25_557_032
    assert facts["macs"] == 4_089_184_256
    assert facts["trained"] is False
    assert facts["conditions"]["macs"]["batch"] == "1"


def test_inspect_measures_latency_when_asked() -> None:
    facts = run("inspect", "demo", "--latency", "--json").facts
    low, high = facts["latency_interval"]
    assert 0 < low <= facts["latency"] <= high < 1, "seconds"
    assert facts["conditions"]["latency"]["provenance"] == "measured"


def test_inspect_prints_a_table_for_people() -> None:
    said = run("inspect", "demo")
    assert (said.code, said.err) == (main.OK, "")
    for words in ("digits_net at 1×1×8×8", "depthwise", "MACs: 2.26 M = 2,257,152 (counted"):
        assert words in said.out
    assert re.search(r"^0 of \d+ layers quantized\.$", said.out, re.MULTILINE)
    assert "random" not in said.out
    assert "The weights are random" in run("inspect", "squeezenet1_1").out


# -- the demo's main job


def test_the_demo_reaches_its_baseline(done: dict[str, Any]) -> None:
    assert done["base"]["accuracy"] >= 0.98
    assert done["edits"] == [
        "Prune 30 % of channels of stage1.block0.conv2 (L2)", "Quantize 11 layers to int8",
    ]  # fmt: skip


def test_everything_costs_less_afterwards(done: dict[str, Any]) -> None:
    for key in ("parameters", "macs", "size", "energy"):
        assert done["current"][key] < done["base"][key]
        assert done[key] == done["current"][key]
    assert done["current"]["size"] < done["base"]["size"] / 4
    low, high = done["accuracy_interval"]
    assert low < done["accuracy"] < high


def test_the_structured_edit_shrank_every_coupled_layer(done: dict[str, Any]) -> None:
    exported = run("inspect", done["exported"]["file"], "--json").facts
    layers = {one["layer"]: one for one in exported["layers"]}
    kept = 48  # 44.8, to a multiple of 8
    for layer in (
        "stage1.block0.conv2", "stage1.block0.bn2", "stage1.block0.skip.conv",
        "stage1.block0.skip.bn", "stage1.block1.conv2", "stage1.block1.bn2",
        "stage2.depthwise.conv", "stage2.depthwise.bn",
    ):  # fmt: skip
        assert layers[layer]["output_shape"] == [1, kept, 4, 4]
    # Weights, and the bias that the folded batch norm left.
    assert layers["stage1.block0.conv2"]["parameters"] == kept * 64 * 9 + kept
    assert layers["stage1.block0.skip.conv"]["parameters"] == kept * 32 + kept
    assert layers["stage1.block1.conv1"]["parameters"] == 64 * kept * 9 + 64
    assert layers["stage1.block1.conv2"]["parameters"] == kept * 64 * 9 + kept
    assert layers["stage2.depthwise.conv"]["parameters"] == kept * 9 + kept
    assert layers["stage2.pointwise.conv"]["parameters"] == 128 * kept + 128
    assert layers["stage1.block0.conv1"]["parameters"] == 64 * 32 * 9 + 64, "not coupled"
    assert exported["parameters"] == done["current"]["parameters"]
    assert exported["macs"] == done["current"]["macs"]
    assert exported["size"] == done["current"]["size"]


def test_int8_costs_less_than_a_point_against_the_pruned_model(
    done: dict[str, Any], tmp_path: Path
) -> None:
    recipe = json.loads((done["folder"] / "recipe.json").read_text(encoding="utf-8"))
    assert [one["edit"] for one in recipe["edits"]] == ["prune-channels", "quantize"]
    recipe["edits"].pop()
    (tmp_path / "pruned.json").write_text(json.dumps(recipe))
    shutil.copy(done["folder"] / recipe["tensors"]["file"], tmp_path)
    pruned = run("evaluate", "demo", "--recipe", tmp_path / "pruned.json", "--json").facts
    assert pruned["parameters"] < done["base"]["parameters"]
    assert pruned["size"] > 2 * done["size"], "pruned, and not quantized"
    assert abs(pruned["accuracy"] - done["accuracy"]) < 0.01


def test_the_files_are_there_and_no_others(done: dict[str, Any]) -> None:
    assert sorted(done["files"]) == sorted(str(one) for one in done["folder"].iterdir())
    assert done["picture"] is None
    checkpoint = Path(done["exported"]["file"])
    assert checkpoint.stat().st_size == done["exported"]["bytes"]
    assert done["exported"]["largest_error"] == 0


def test_the_exported_file_is_exactly_as_good_in_a_fresh_process(done: dict[str, Any]) -> None:
    assert done["exported"]["accuracy"] == done["accuracy"]
    again = run_afresh("evaluate", done["exported"]["file"], "--json")
    assert again.err == ""
    assert again.facts["accuracy"] == done["accuracy"]
    assert again.facts["energy"] == done["energy"]


def test_the_recipe_gives_the_same_model_again(done: dict[str, Any]) -> None:
    replayed = run("evaluate", "demo", "--recipe", done["folder"] / "recipe.json", "--json").facts
    for key in ("parameters", "macs", "size", "energy", "accuracy", "edits"):
        assert replayed[key] == done[key]


@pytest.mark.slow
def test_the_demo_speaks_to_people_too(done: dict[str, Any], tmp_path: Path) -> None:
    said = run("demo", "--out", tmp_path / "out")
    assert said.code == main.OK
    assert f"accuracy {done['accuracy']:.1%}".replace("%", " %") in said.out
    assert "re-opened in a fresh process" in said.out
    assert "outputs bit-equal" in said.out
    assert str(tmp_path / "out" / "recipe.json") in said.out


@pytest.mark.slow
def test_the_demo_draws_the_window(tmp_path: Path) -> None:
    said = run_afresh("demo", "--json", "--out", tmp_path)
    assert said.err == ""
    picture = Path(said.facts["picture"])
    head = picture.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n")
    size = (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))
    assert size == (1280, 800)
    assert said.facts["files"][-1] == str(picture)


# -- apply


def test_apply_writes_a_checkpoint(done: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "applied.safetensors"
    facts = run("apply", "demo", done["folder"] / "recipe.json", "--out", out, "--json").facts
    assert facts["files"] == [str(out)]
    assert facts["largest_error"] == 0
    assert facts["current"]["energy"] == done["current"]["energy"]
    assert out.read_bytes() == Path(done["exported"]["file"]).read_bytes()


def test_apply_tells_people_what_it_wrote(done: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "APPLIED.SAFETENSORS"
    said = run("apply", "demo", done["folder"] / "recipe.json", "--out", out)
    assert (said.code, said.err) == (main.OK, "")
    assert f"Wrote {out}, re-opened and compared: outputs bit-equal." in said.out
    assert out.is_file()


@pytest.mark.slow
def test_apply_writes_a_program_that_torch_runs(done: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "applied.pt2"
    said = run_afresh("apply", "demo", done["folder"] / "recipe.json", "--out", out, "--json")
    assert said.err == ""
    assert said.facts["files"] == [str(out)]
    assert zipfile.is_zipfile(out)
    assert said.facts["largest_error"] < 1e-3


@pytest.mark.slow
def test_apply_writes_a_file_that_onnx_runtime_runs(done: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "applied.onnx"
    said = run_afresh("apply", "demo", done["folder"] / "recipe.json", "--out", out)
    assert said.err == ""
    assert (
        "ONNX Runtime runs 7 of 8 convolutions and 1 of 1 matrix products in integers" in said.out
    )
    assert out.is_file()


# -- evaluate


@pytest.mark.parametrize(
    ("limits", "met"),
    [
        (["--min-accuracy", "0.98"], [True]),
        (["--min-accuracy", "0.9999"], [False]),
        (["--max-size", "600kB", "--max-energy", "0.1mJ"], [True, True]),
        (["--max-size", "600000", "--max-energy", "1uJ"], [False, True]),
        (["--max-latency", "10s"], [True]),
    ],
)
def test_limits_decide_the_exit_code(limits: list[str], met: list[bool]) -> None:
    said = run("evaluate", "demo", *limits, "--json")
    assert said.code == (main.OK if all(met) else main.UNMET)
    assert sorted(one["met"] for one in said.facts["limits"]) == met
    assert said.err == ""


def test_limits_are_told_in_plain_numbers_and_in_words() -> None:
    limits = ["--max-energy", "50 uJ", "--max-size", "300 kB"]
    said = run("evaluate", "demo", *limits, "--json")
    assert said.facts["limits"] == [
        {"metric": "energy", "bound": 50e-6, "relative": False, "met": False},
        {"metric": "size", "bound": 300_000, "relative": False, "met": False},
    ]
    words = run("evaluate", "demo", *limits)
    assert words.code == main.UNMET
    assert "Energy per inference ≤ 50.0 µJ: not met" in words.out


def test_relative_limits_are_met_by_a_recipe_that_keeps_them(done: dict[str, Any]) -> None:
    recipe = done["folder"] / "recipe.json"
    said = run(
        "evaluate", "demo", "--recipe", recipe, "--max-size", "25%", "--max-energy", "45%",
        "--min-accuracy", "98%", "--json",
    )  # fmt: skip
    assert said.code == main.OK
    assert [one["met"] for one in said.facts["limits"]] == [True, True, True]
    said = run("evaluate", "demo", "--recipe", recipe, "--max-size", "10%", "--json")
    assert said.code == main.UNMET
    assert said.facts["limits"] == [
        {"metric": "size", "bound": 0.1, "relative": True, "met": False}
    ]


# -- what cannot be used


def damaged(folder: Path, done: dict[str, Any]) -> dict[str, Path]:
    """Files of every bad kind, by a name for each."""
    whole = Path(done["exported"]["file"]).read_bytes()
    recipe = (done["folder"] / "recipe.json").read_text(encoding="utf-8")
    contents: dict[str, bytes] = {
        "empty.safetensors": b"",
        "cut.safetensors": whole[:-1],
        "lfs.safetensors": b"version https://git-lfs.github.com/spec/v1\n",
        "pickle.pt": b"\x80\x04N.",
        "two\nlines\x1b[31m.safetensors": b"no",
        "no.json": b"{",
        "other.json": b"[]",
        "foreign.json": recipe.replace('"fingerprint": "', '"fingerprint": "0').encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    shutil.copy(done["folder"] / json.loads(recipe)["tensors"]["file"], folder)
    os.mkfifo(folder / "fifo.safetensors")
    (folder / "folder").mkdir()
    return {one.name: one for one in folder.iterdir()}


BAD: list[tuple[Callable[[dict[str, Path]], list[object]], str]] = [
    (lambda _: ["inspect", "resnet51"], "Did you mean resnet50"),
    (lambda _: ["inspect", ""], "no name of a model"),
    (lambda _: ["inspect", "x" * 10_000], "no model and no file"),
    (lambda _: ["inspect", "missing.safetensors"], "no file missing.safetensors"),
    (lambda _: ["inspect", "resnet18", "--input", "3 by 224"], "no input"),
    (lambda _: ["inspect", "resnet18@IMAGENET1K_V7"], "IMAGENET1K_V7"),
    (lambda bad: ["inspect", bad["empty.safetensors"]], "empty"),
    (lambda bad: ["inspect", bad["cut.safetensors"]], "cut short"),
    (lambda bad: ["inspect", bad["lfs.safetensors"]], "Git LFS pointer"),
    (lambda bad: ["inspect", bad["pickle.pt"]], "pickle"),
    (lambda bad: ["inspect", bad["fifo.safetensors"]], "not a regular file"),
    (lambda bad: ["inspect", bad["folder"]], "folder"),
    (lambda bad: ["inspect", bad["two\nlines\x1b[31m.safetensors"]], "two\\nlines"),
    (lambda _: ["evaluate", "demo", "--data", "cifar"], "“cifar”"),
    (lambda _: ["evaluate", "squeezenet1_1"], "No data set is chosen"),
    (lambda _: ["evaluate", "squeezenet1_1", "--data", "digits"], "1×8×8"),
    (lambda _: ["evaluate", "demo", "--recipe", "missing.json"], "missing.json"),
    (lambda bad: ["evaluate", "demo", "--recipe", bad["no.json"]], "not JSON"),
    (lambda bad: ["evaluate", "demo", "--recipe", bad["other.json"]], "not a recipe"),
    (lambda bad: ["evaluate", "demo", "--recipe", bad["foreign.json"]], "other weights"),
    (lambda bad: ["evaluate", "demo", "--recipe", bad["folder"]], "not a regular file"),
    (lambda _: ["evaluate", "demo", "--max-energy", "much"], "“much” is not a number"),
    (lambda _: ["evaluate", "demo", "--max-energy", ""], "not a number"),
    (lambda _: ["evaluate", "demo", "--max-energy", "5 kg"], "“kg” is no unit here"),
    (lambda _: ["evaluate", "demo", "--max-energy", "nan"], "not a number"),
    (lambda _: ["evaluate", "demo", "--max-energy", "1e999"], "out of range"),
    (lambda _: ["evaluate", "demo", "--max-size=-1"], "out of range"),
    (lambda _: ["evaluate", "demo", "--max-latency=-5%"], "out of range"),
    (lambda _: ["evaluate", "demo", "--min-accuracy", "97"], "impossible"),
    (lambda _: ["apply", "demo", "missing.json", "--out", "x.safetensors"], "missing.json"),
    (lambda bad: ["apply", "demo", bad["foreign.json"], "--out", "x.pt2"], "other weights"),
    (lambda bad: ["apply", "demo", bad["no.json"], "--out", "x"], "no suffix"),
    (lambda bad: ["apply", "demo", bad["no.json"], "--out", "x.tflite"], "no suffix"),
    (lambda bad: ["demo", "--out", bad["no.json"]], "cannot be made"),
    (lambda bad: ["demo", "--out", bad["no.json"] / "below"], "cannot be made"),
]


@pytest.mark.parametrize("json_too", [False, True], ids=["words", "json"])
@pytest.mark.parametrize(("arguments", "cause"), BAD, ids=[cause for _, cause in BAD])
def test_bad_input_gives_one_line_and_leaves_nothing(
    arguments: Any,
    cause: str,
    json_too: bool,
    done: dict[str, Any],
    tmp_path: Path,
    here: Path,
) -> None:
    (tmp_path / "bad").mkdir()
    bad = damaged(tmp_path / "bad", done)
    command = arguments(bad)
    before = sorted(tmp_path.rglob("*"))
    assert cause in complaint(run(*command, *(["--json"] if json_too else [])))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("size", ["big", "0x800", "99999x99999", "1280x", "-5x5", "1e3x5"])
def test_a_picture_has_a_size_that_a_window_may_have(size: str, here: Path) -> None:
    assert f"“{size}” is not a size" in complaint(run("--picture", "x.png", f"--size={size}"))
    assert not list(here.iterdir())


@pytest.mark.parametrize("target", ["missing/x.safetensors", "taken.safetensors"])
def test_an_export_that_cannot_be_written_leaves_nothing(
    target: str, done: dict[str, Any], here: Path
) -> None:
    (here / "taken.safetensors").mkdir()
    said = run("apply", "demo", done["folder"] / "recipe.json", "--out", target)
    assert target in complaint(said)
    assert list(here.rglob("*")) == [here / "taken.safetensors"]


def test_bad_input_gives_one_line_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"\x80\x04N.")
    assert "pickle" in complaint(run_afresh("inspect", tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["inspect"],
        ["inspect", "demo", "--nonsense"],
        ["inspect", "demo", "resnet50"],
        ["apply", "demo", "recipe.json"],
        ["evaluate", "demo", "--max-energy"],
        ["--theme", "pink"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    said = run(*arguments)
    assert (said.code, said.out) == (main.USAGE, "")
    assert "usage: secateur" in said.err


def test_help_names_commands_and_exit_codes() -> None:
    said = run("--help")
    assert (said.code, said.err) == (main.OK, "")
    for words in ("inspect", "apply", "evaluate", "demo", "130  interrupted", "such as"):
        assert words in said.out or words == "such as"
    assert "a share of base such as 50%" in " ".join(run("evaluate", "--help").out.split())


def test_options_of_the_window_may_stand_before_its_command() -> None:
    parse = main._parser().parse_args
    assert parse(["--theme", "dark", "window", "demo"]).theme == "dark"
    assert parse(["--theme", "dark", "window", "--theme", "light"]).theme == "light"
    assert parse(["window"]).size == parse([]).size == "1280x800"


# -- streams


def test_a_terminal_without_our_signs_gets_others() -> None:
    said = run_afresh("evaluate", "demo", "--max-energy", "1mJ", PYTHONIOENCODING="ascii")
    assert (said.code, said.err) == (main.OK, "")
    assert r"Energy per inference \u2264 1.00 mJ: met" in said.out


@pytest.mark.skipif(os.name != "posix", reason="names of undecodable bytes are POSIX's")
def test_what_opening_still_needs_is_answered_by_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    missing = complaint(run("inspect", "squeezenet1_1@IMAGENET1K_V1"))
    assert "Add --download to fetch the 4.96 MB of them" in missing
    strange, code = tmp_path / "strange.safetensors", tmp_path / "nets.py"
    save_file({"strange": torch.zeros(3)}, strange)
    assert "Give --architecture" in complaint(run("inspect", strange))
    code.write_text("from torch import nn\ndef make():\n    return nn.Linear(3, 2)\n")
    assert "add --trust" in complaint(run("inspect", f"{code}:make"))
    said = complaint(run("inspect", f"{code}:make", "--trust"))
    assert "Give --input for each of its inputs, such as 1x3." in said
    assert run("inspect", f"{code}:make", "--trust", "--input", "1x3").code == main.OK


def test_a_file_name_that_is_no_text_is_told_as_it_can_be(
    done: dict[str, Any], tmp_path: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors"))
    odd.write_bytes(Path(done["exported"]["file"]).read_bytes())
    assert "no Unicode text" in complaint(run_afresh("inspect", odd))


def test_a_reader_that_has_seen_enough_ends_it_in_silence() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "main", "inspect", "demo", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == main.OK


def test_interrupting_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "open_model", interrupted, raising=False)
    assert run("inspect", "demo") == Said(main.INTERRUPTED, "", "")


def test_a_share_of_the_base_needs_an_edit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["evaluate", "demo", "--max-energy", "50%"]) == main.FAILED
    assert "--recipe" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, str(ROOT / "main.py"), "inspect", "demo", "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == main.FAILED
    assert done.stderr.count("\n") == 1
    assert "could not be written" in done.stderr
