"""`catalogue` on the command line: choosing a model as a user does it."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import engine
import main
from engine import CatalogueCost


class Said(NamedTuple):
    code: int
    out: str
    err: str


def run(*arguments: str) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main.main(["catalogue", *arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def listed(*arguments: str) -> list[dict[str, Any]]:
    said = run(*arguments, "--json")
    assert said.code == main.OK, said.err
    found: list[dict[str, Any]] = json.loads(said.out)
    return found


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)


def test_a_table_for_each_metric_within_a_hundred_columns() -> None:
    said = run()
    assert said.code == main.OK
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "classification: ImageNet-1K acc@1" in said.out
    assert "optical flow: Sintel-Train-Cleanpass epe" in said.out
    # Names open models, so none is shortened; each model is there once.
    names = [line.split()[0] for line in lines if line.startswith(" ") and "×" in line]
    assert "deeplabv3_mobilenet_v3_large" in names
    assert len(names) == len(set(names))


def test_the_best_come_first() -> None:
    rows = listed("--task", "classification")
    accuracies = [one["accuracy"] for one in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert rows[0]["source"] == "torchvision:vit_h_14@IMAGENET1K_SWAG_E2E_V1"
    errors = [one["accuracy"] for one in listed("raft", "--all") if "Clean" in one["metric"]]
    assert len(errors) > 2
    flow = [
        [one["accuracy"] for one in listed("raft", "--all") if one["metric"] == metric]
        for metric in ("Sintel-Train-Cleanpass epe", "Kitti-Test fl_all")
    ]
    assert flow == [sorted(group) for group in flow]  # of errors the least


def test_words_bounds_and_globs() -> None:
    assert {one["name"] for one in listed("resnet", "params<12M")} == {
        "resnet18", "quantized_resnet18", "mc3_18",  # of the family “ResNet MC”
    }  # fmt: skip
    assert [one["name"] for one in listed("vit_l_*", "--sort", "name")] == ["vit_l_16", "vit_l_32"]


def test_all_weights_or_the_best() -> None:
    best = [one["weights"] for one in listed("resnet101") if one["name"] == "resnet101"]
    assert best == ["IMAGENET1K_V2"]
    every = [one["weights"] for one in listed("resnet101", "--all") if one["name"] == "resnet101"]
    assert every == ["IMAGENET1K_V2", "IMAGENET1K_V1"]


def test_sorted_by_another_column() -> None:
    macs = [one["macs"] for one in listed("efficientnet_b*", "--sort", "macs")]
    assert macs == sorted(macs)
    assert len(macs) == 8


def test_only_models_that_no_other_beats() -> None:
    every = listed("--task", "classification")
    front = listed("--task", "classification", "--pareto", "macs,accuracy")
    wanted = [
        one["name"]
        for one in every
        if not any(
            (other["macs"], -other["accuracy"]) != (one["macs"], -one["accuracy"])
            and other["macs"] <= one["macs"]
            and other["accuracy"] >= one["accuracy"]
            for other in every
        )
    ]
    assert {one["name"] for one in front} == set(wanted)
    assert 3 < len(front) < len(every)


def test_costs_are_asked_for_what_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cost(source: str, _job: object, energy: bool, latency: bool) -> CatalogueCost:
        asked.append((source, energy, latency))
        if "1_0" in source:
            return CatalogueCost(problem="It does not run here.")
        return CatalogueCost(0.002, "Eyeriss", 0.003, 0.0029, 0.0031)

    monkeypatch.setattr(engine, "model_costs", cost)
    said = run("squeezenet*", "--energy", "--latency")
    assert said.code == main.OK, said.err
    assert asked == [
        ("torchvision:squeezenet1_0@IMAGENET1K_V1", True, True),
        ("torchvision:squeezenet1_1@IMAGENET1K_V1", True, True),
    ]
    assert "2.00 mJ" in said.out
    assert "3.00 ms" in said.out
    assert "squeezenet1_0: It does not run here." in said.out
    assert max(map(len, said.out.splitlines())) <= 100
    asked.clear()
    (row,) = [one for one in listed("squeezenet*", "--sort", "energy") if "latency" in one]
    assert row["energy"] == 0.002
    assert asked[0][1:] == (True, False)


def test_a_real_cost() -> None:
    (row,) = listed("squeezenet1_1", "--energy")
    assert 0 < row["energy"] < 1
    assert row["hardware"]


def test_csv() -> None:
    said = run("resnet18", "--csv", "--task", "classification", "--sort", "name")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [one["name"] for one in rows] == ["quantized_resnet18", "resnet18"]
    assert rows[1]["macs"] == "1814000000"
    assert rows[1]["input_size"] == "224×224"


def test_timm_on_request() -> None:
    pytest.importorskip("timm")
    assert run("resnet10t").code == main.FAILED
    (row,) = listed("resnet10t", "--timm")
    assert (row["source"], row["accuracy"]) == ("timm:resnet10t@pretrained", None)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nosuchmodel",), main.FAILED, "No model of the catalogue matches “nosuchmodel”"),
        (("colour<3",), main.FAILED, "“colour” is no column"),
        (("--pareto", "macs"), main.FAILED, "“macs” is not two columns"),
        (("--pareto", "name,macs"), main.FAILED, "is not two columns"),
        (("--pareto", "macs,macs"), main.FAILED, "is not two columns"),
        (("--sort", "beauty"), main.USAGE, "invalid choice"),
        (("--json", "--csv"), main.USAGE, "not allowed with"),
    ],
)
def test_what_cannot_be_listed_is_said(arguments: tuple[str, ...], code: int, message: str) -> None:
    said = run(*arguments)
    assert (said.code, said.out) == (code, "")
    assert message in said.err
