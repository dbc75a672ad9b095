"""``tune`` on the command line: it wins accuracy back, writes what it is told to, and refuses."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import main
from engine import ROOT, FineTune, Job, PruneChannels, open_model
from engine.recipe import read_recipe

LAYERS = ("stem.conv", "stage1.block0.conv1", "stage1.block1.conv1", "stage2.pointwise.conv")


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


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than half of the channels of four of the demo's layers."""
    session = open_model("demo", Job())
    session.apply(PruneChannels(session.snapshot.base.tree.select(LAYERS), 0.6), Job())
    path = tmp_path_factory.mktemp("recipe") / "pruned.json"
    session.save_recipe(str(path), Job())
    return path


def test_it_wins_back_what_pruning_cost(recipe: Path, tmp_path: Path) -> None:
    whole, file = tmp_path / "whole.json", tmp_path / "small.safetensors"
    facts = run(
        "tune", "demo", "--recipe", recipe, "--recalibrate", "--epochs", 2,
        "--save-recipe", whole, "--out", file, "--json",
    ).facts  # fmt: skip
    assert facts["before"]["accuracy"] < 0.7
    assert facts["accuracy"] > 0.95
    assert facts["base"]["accuracy"] > 0.98
    assert not facts["before_recovery"]
    assert facts["current"]["parameters"] == facts["before"]["parameters"]
    recalibrated, trained = facts["recovery"]
    assert recalibrated == "8 batch norms on 1,024 training samples in batches of 64"
    assert trained.startswith("2 epochs, held-out accuracy ")
    assert set(facts["files"]) >= {str(whole), str(file)}
    assert [type(one.request).__name__ for one in read_recipe(whole).edits] == [
        "PruneChannels", "RecalibrateNorms", "FineTune",
    ]  # fmt: skip
    for again in (("demo", "--recipe", whole), (file, "--data", "digits")):
        assert run("evaluate", *again, "--json").facts["accuracy"] == facts["accuracy"]


def test_it_says_so_in_words(recipe: Path) -> None:
    said = run("tune", "demo", "--recipe", recipe, "--epochs", 1, "--layers", "head.*")
    assert (said.code, said.err) == (main.OK, "")
    assert "Accuracy before recovery: " in said.out
    assert "1 epoch, held-out accuracy " in said.out
    assert "Wrote" not in said.out


def test_a_result_before_recovery_is_labelled(recipe: Path) -> None:
    said = run("evaluate", "demo", "--recipe", recipe)
    assert "Accuracy (before recovery)" in said.out
    assert run("evaluate", "demo", "--recipe", recipe, "--json").facts["before_recovery"]
    assert "(before recovery)" not in run("evaluate", "demo").out


def test_every_setting_reaches_the_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[FineTune] = []

    def refuse(self: object, edit: FineTune, job: Job) -> None:
        asked.append(edit)
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.session.ModelSession.apply", refuse)
    said = run(
        "tune", "demo", "--epochs", 7, "--learning-rate", 0.5, "--optimizer", "adamw",
        "--schedule", "constant", "--weight-decay", 0.25, "--distillation", 0.75,
        "--temperature", 2, "--batch", 16, "--samples", 100, "--seed", 3, "--device", "cuda:1",
    )  # fmt: skip
    assert said.code == main.INTERRUPTED
    run("tune", "demo")
    run("tune", "demo", "--layers", "stage1", "--layers", "head.fc")
    stage = open_model("demo", Job()).snapshot.base.tree.select(["stage1", "head.fc"])[0]
    assert asked == [
        FineTune((ROOT,), 7, 0.5, "adamw", "constant", 0.25, 0.75, 2.0, 16, 100, 3, "cuda:1"),
        FineTune((ROOT,)),
        FineTune((stage, "head.fc")),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--epochs", 0), "Nothing is asked for: no epoch, and no recalibration."),
        (("--epochs", -1), "-1 is not possible for the epochs."),
        (("--layers", "stage9"), "“stage9” matches no layer."),
        (("--device", "mps"), "mps is unavailable: "),
        (("--learning-rate", 1e30, "--epochs", 1), "not finite at a learning rate of 1e+30."),
        (("--out", "model.xyz"), "has no suffix that names a format."),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: tuple[Any, ...], why: str) -> None:
    said = run("tune", "demo", *arguments)
    assert (said.code, said.out) == (main.FAILED, "")
    assert why in said.err
    assert said.err.count("\n") == 1


def test_without_data_there_is_nothing_to_train_on() -> None:
    said = run("tune", "squeezenet1_1", "--epochs", 1)
    assert said.code == main.FAILED
    assert "No data set is chosen" in said.err
