"""Evaluating on one's own data, from the command line."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import main
from engine.datasets import digits


class Said(NamedTuple):
    """What a run ended with and said."""

    code: int
    out: str
    err: str


def run(*arguments: object) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main.main([str(one) for one in ("evaluate", *arguments)])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def facts(*arguments: object) -> dict[str, Any]:
    said = run(*arguments, "--json")
    assert said.code == main.OK, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def complaint(*arguments: object) -> str:
    said = run(*arguments)
    assert said.code == main.FAILED, said
    assert re.fullmatch(r"secateur: [^\n]+\.\n", said.err), said.err
    return said.err


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first hundred validation digits, as pictures in class folders of two halves."""
    root = tmp_path_factory.mktemp("written")
    validation = digits().validation
    for at, (image, label) in enumerate(
        zip(validation.images[:100], validation.labels[:100], strict=True)
    ):
        folder = root / ("val" if at >= 20 else "train") / str(int(label))
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (image[0] * 255).round().numpy().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{at}.png")
    return root


def test_the_demo_reads_digits_from_pictures(written: Path) -> None:
    found = facts("demo", "--data", written)
    assert found["accuracy"] > 0.95
    conditions = found["conditions"]["accuracy"]
    assert (conditions["samples"], conditions["metric"]) == ("80", "top-1")
    assert found["data"]["name"] == written.name
    assert "“train” calibrates, “val” reports" in found["data"]["description"]


def test_metric_and_number_of_samples(written: Path) -> None:
    found = facts("demo", "--data", written, "--metric", "top-5", "--most", 30)
    conditions = found["conditions"]["accuracy"]
    assert (conditions["samples"], conditions["metric"]) == ("30", "top-5")


def test_preprocessing_by_hand(written: Path) -> None:
    steps = "colour=grey,resize=8x8,mean=0.5,std=0.5"
    found = facts("demo", "--data", written, "--preprocess", steps)
    assert "as set by hand: colour=grey,resize=8x8" in found["data"]["description"]
    assert found["accuracy"] < facts("demo", "--data", written)["accuracy"], "it was not trained so"


def test_broken_pictures_stop_or_are_skipped(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "val" / "0"
    folder.mkdir(parents=True)
    for half in ("train", "val"):
        for name in map(str, range(10)):
            (tmp_path / "data" / half / name).mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(folder / "a.png")
    (folder / "b\x1b[31m.png").write_bytes(b"broken")
    words = complaint("demo", "--data", tmp_path / "data")
    assert "its content is no picture of a known format" in words
    said = run("demo", "--data", tmp_path / "data", "--skip-broken")
    assert said.code == main.OK
    assert "samples 1, skipped 1" in said.out
    assert "Skipped val/0/b [31m.png: its content" in said.out
    assert "\x1b" not in said.out


def test_code_of_ones_own_runs_with_trust(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(f"def score(outputs, targets):\n    return 0.25\n# {tmp_path}\n")
    arguments = ("demo", "--data", "digits", "--metric", f"{script}:score")
    words = complaint(*arguments)
    assert f"Named are {script}:score." in words
    assert "--trust" in words
    assert facts(*arguments, "--trust")["accuracy"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "nothing"), "There is no data set “nothing”."),
        (("--data", "digits", "--metric", "recall"), "There is no metric “recall”."),
        (("--data", "digits", "--preprocess", "blur=3"), "“blur=3” is no step"),
        (("--data", "digits", "--most", "-1"), "--most"),
        (("--metric", "top-5"), "Name the data by --data."),
        (("--data", "torchvision:MNIST:/nowhere"), "Nothing is downloaded here"),
    ],
)
def test_what_does_not_work_is_told_in_one_line(arguments: tuple[str, ...], words: str) -> None:
    assert words in complaint("demo", *arguments)


def test_help_tells_the_kinds_of_data() -> None:
    said = run("--help")
    assert said.code == main.OK
    words = " ".join(said.out.split())
    for sign in ("torchvision:CLASS:FOLDER", "mean IoU", "--skip-broken", "--preprocess"):
        assert sign in words
