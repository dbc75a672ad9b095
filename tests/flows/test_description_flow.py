"""A network description: looked at without a window, opened in it, and saved from it."""

import json
from pathlib import Path

import pytest
from PySide6.QtWidgets import QFileDialog

import main
from engine import METRICS, LayerId
from gui import operations

# AlexNet's first convolution and its last linear layer, as the papers describe them, at batch 4.
LINES = (
    "1,227,227,3,4,0,16,11,11,3,96,0,16,55,55,96,4,0,16,4,4,0,0,0,0\n"
    "2,1,1,4096,4,0,16,1,1,4096,1000,0,16,1,1,1000,4,0,16,1,1,0,0,0,0\n"
)


@pytest.fixture
def description(tmp_path: Path) -> Path:
    path = tmp_path / "alexnet.txt"
    path.write_text(LINES)
    return path


def test_inspect_tells_what_a_described_network_costs(
    description: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["inspect", str(description), "--json"]) == main.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["macs"] == 105_415_200 + 4_096_000
    assert facts["energy"] > 0
    assert [one.get("macs") for one in facts["layers"]][1:] == [105_415_200, 4_096_000]
    assert main.main(["inspect", str(description)]) == main.OK
    said = capsys.readouterr().out
    assert "shapes without weights" in said
    assert "random" not in said


def test_inspect_names_the_line_and_the_field_that_are_wrong(
    description: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description.write_text(LINES.replace(",55,55,", ",55,54,"))
    assert main.main(["inspect", str(description)]) == main.FAILED
    said = capsys.readouterr().err
    assert "alexnet.txt, line 1: ofmap width: it is 54" in said
    assert "25 comma-separated fields" in said


def test_it_is_opened_in_the_window_and_saved_again(desk, description: Path) -> None:
    desk.drop(description)
    desk.settle()
    assert not desk.errors
    assert not desk.snapshot.model.has_weights
    macs = desk.snapshot.current.table.total(METRICS["macs"])
    assert macs.value == 105_415_200 + 4_096_000
    desk.window.selection.set((LayerId("layer1"),))
    _save(desk, description.with_name("again.txt"))
    assert description.with_name("again.txt").read_text() == LINES
    assert not desk.errors


def test_the_demo_is_saved_and_the_window_says_where(demo, tmp_path: Path) -> None:
    _save(demo, tmp_path / "digits")  # the suffix is added
    assert sorted(one.name for one in tmp_path.iterdir() if one.suffix != ".ini") == [
        "digits.energy.csv",
        "digits.txt",
    ]
    said = demo.window.statusBar().currentMessage()
    assert said == "Saved digits.txt, digits.energy.csv"
    assert not demo.errors


def test_the_window_names_what_a_description_leaves_out(desk, tmp_path: Path) -> None:
    operations.open_model(desk.document, "timm:vit_tiny_patch16_224")
    desk.settle()
    assert not desk.errors
    _save(desk, tmp_path / "vit.txt")
    said = desk.window.statusBar().currentMessage()
    assert "12 operators" in said
    assert "attention" in said
    assert said.endswith("both factors come from the sample, as in attention")
    assert (tmp_path / "vit.energy.csv").read_text().count("as in attention") == 12


def test_a_folder_that_cannot_be_written_is_told(demo, tmp_path: Path) -> None:
    operations.save_description(demo.document, str(tmp_path / "missing" / "digits.txt"))
    demo.settle()
    (error,) = demo.errors
    assert "could not be written" in str(error)


def _save(desk, path: Path) -> None:
    desk.trigger("save_description")
    dialog = desk.window.findChild(QFileDialog)
    assert isinstance(dialog, QFileDialog)
    dialog.fileSelected.emit(str(path))
    dialog.close()
    desk.settle()
