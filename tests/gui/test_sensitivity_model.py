"""Maps of sensitivity: what cells read, how sure that is, their heat and the order of the rows."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import Qt
from PySide6.QtTest import QAbstractItemModelTester
from pytestqt.qtbot import QtBot

from engine import (
    Cell,
    LayerId,
    PruneChannels,
    PruneWeights,
    Quantize,
    RemoveBlocks,
    SensitivityMap,
    Snapshot,
    save_sensitivity,
)
from gui import format as fmt
from gui.models.sensitivity_cells import cell_lines, order, scale, shown, table
from gui.models.sensitivity_columns import arranged, columns, of_groups, runs
from gui.models.sensitivity_model import SensitivityModel
from gui.models.sensitivity_words import map_text, refusal_of, stale_text

STEM, CONV1, CONV2, FC = (
    LayerId(path) for path in ("stem.conv", "stage1.block0.conv1", "stage1.block0.conv2", "head.fc")
)
BITS = Quantize((), weight_bits=4, activations="none")
SETTINGS = (BITS, PruneChannels((), 0.2), PruneChannels((), 0.8), PruneWeights((), 0.5))
MAP = SensitivityMap(
    ((STEM, CONV2), (CONV1,), (FC,)),
    SETTINGS,
    "only this",
    {
        (0, 0): Cell(estimate=0.2, rise=0.5, error=0.05, lost=0.04, samples=256),
        (1, 0): Cell(estimate=0.1, rise=0.004, error=0.01, lost=0.004, samples=256),
        (2, 0): Cell(estimate=0.3, rise=1.5, error=0.1, lost=0.2, samples=256),
        (0, 1): Cell(estimate=0.01),
        (1, 1): Cell(estimate=0.02, rise=0.03, error=0.002, lost=0.0, samples=64),
        (2, 1): Cell(refusal="its channels are the model's output"),
    },
    loss=0.1,
    accuracy=0.98,
    samples=256,
    data="digits",
    state="base",
)


@pytest.fixture
def model(qtbot: QtBot) -> SensitivityModel:
    model = SensitivityModel()
    model.show_map(MAP)
    return model


def _texts(model: SensitivityModel) -> list[list[str]]:
    wide = range(model.columnCount())
    return [[model.index(row, one).data() for one in wide] for row in range(model.rowCount())]


def test_columns_stand_in_groups_with_short_titles() -> None:
    place = arranged(SETTINGS)
    assert place == (1, 2, 3, 0)
    headings = [columns(SETTINGS)[one] for one in place]
    assert [(one.group, one.title) for one in headings] == [
        ("channels", "20 %"), ("channels", "80 %"), ("weights", "50 %"), ("bits", "4"),
    ]  # fmt: skip
    assert runs(headings) == [("channels", 0, 1), ("weights", 2, 2), ("bits", 3, 3)]
    assert headings[0].tip == "Prune 20 % of channels of the layer (L2)"


def test_inputs_are_a_group_of_their_own_and_a_pattern_names_itself() -> None:
    settings = (Quantize(()), Quantize((), weight_bits=4), PruneWeights((), 0.5, keep=2, of=4))
    assert [(one.group, one.title) for one in columns(settings)] == [
        ("inputs", "8"), ("inputs", "8/4"), ("weights", "2:4"),
    ]  # fmt: skip
    assert of_groups(settings, ("weights",)) == settings[2:]
    assert of_groups(settings, ()) == settings


def test_settings_that_read_alike_are_told_apart() -> None:
    alike = (PruneChannels((), 0.2), PruneChannels((), 0.2, criterion="fpgm"))
    assert [one.title for one in columns(alike)] == ["20 % L2", "20 % FPGM"]


def test_a_cell_says_how_far_it_is() -> None:
    assert shown(None, "loss", 256, False).standing == "unknown"
    assert shown(Cell(refusal="no"), "loss", 256, False).standing == "refused"
    assert shown(Cell(estimate=0.1), "loss", 256, False).standing == "estimate"
    half = shown(Cell(rise=0.1, error=0.01, samples=128), "loss", 256, False)
    assert (half.standing, half.progress) == ("measuring", 0.5)
    assert shown(Cell(rise=0.1, samples=128), "loss", 256, True).standing == "settled"
    assert shown(Cell(rise=0.1, samples=256), "loss", 256, False).standing == "settled"


def test_what_cannot_be_told_from_zero_shows_its_interval_and_no_heat() -> None:
    unsure = shown(Cell(rise=0.004, error=0.01, samples=64), "loss", 64, True)
    assert (unsure.text, unsure.certain, unsure.strength) == ("±0.020", False, None)
    sure = shown(Cell(rise=0.03, error=0.01, samples=64), "loss", 64, True)
    assert (sure.text, sure.certain, sure.strength) == ("0.030", True, 0.03)


def test_very_small_effects_read_zero_and_are_told_below() -> None:
    for rise, told in ((2e-4, "rise of loss <0.001"), (-2e-4, "fall of loss <0.001")):
        cell = Cell(estimate=rise, rise=rise, error=1e-5, samples=64)
        sure = shown(cell, "loss", 64, True)
        assert (sure.text, sure.certain) == ("0", True)
        assert shown(cell, "estimate", 64, True).text == "≈0"
        assert cell_lines(cell, sure)[0] == f"{told} ±<0.001"


def test_few_samples_that_change_sides_may_be_chance() -> None:
    five = shown(Cell(rise=0.1, lost=5 / 256, samples=256), "accuracy", 256, True)
    six = shown(Cell(rise=0.1, lost=6 / 256, samples=256), "accuracy", 256, True)
    assert (five.certain, five.strength) == (False, None)
    assert (six.text, six.certain) == ("2.3", True)
    assert shown(Cell(estimate=0.1), "accuracy", 256, True).standing == "unknown"


def test_the_estimate_can_be_seen_beside_what_was_measured() -> None:
    one = shown(Cell(estimate=0.1, rise=0.5, samples=256), "estimate", 256, True)
    assert (one.standing, one.text) == ("estimate", "≈0.10")


def test_a_loss_that_is_no_number_any_more_is_the_hottest() -> None:
    cells = [shown(Cell(rise=rise, samples=8), "loss", 8, True) for rise in (0.1, 1.0, math.inf)]
    heat = scale(cells, logarithmic=True)
    assert heat is not None
    assert (heat.high, heat.fraction(math.inf)) == (1.0, 1.0)
    assert cells[2].text == "∞"


def test_a_logarithmic_scale_spans_three_decades_at_most() -> None:
    cells = [shown(Cell(rise=rise, samples=8), "loss", 8, True) for rise in (1e-7, -1.0, 2.0)]
    heat = scale(cells, logarithmic=True)
    assert heat is not None
    assert (heat.low, heat.high) == (0.002, 2.0)
    assert heat.fraction(-1.0) is None


values = st.one_of(
    st.none(),
    st.builds(
        lambda rise, error: Cell(rise=rise, error=error, samples=64),
        st.floats(-1, 5),
        st.floats(0, 1),
    ),
)


@given(st.lists(st.lists(values, min_size=2, max_size=2), max_size=8))
def test_rows_within_their_error_keep_the_order_of_the_model(
    cells: list[list[Cell | None]],
) -> None:
    rows = [[shown(one, "loss", 64, True) for one in row] for row in cells]
    assert order(rows, "model") == tuple(range(len(rows)))
    for by in ("sensitivity", 0, 1):
        found = order(rows, by)  # type: ignore[arg-type]
        assert sorted(found) == list(range(len(rows)))
    unsure = [row for row in order(rows, 0) if rows[row][0].value is not None]
    unsure = [row for row in unsure if rows[row][0].strength is None]
    assert unsure == sorted(unsure)
    strengths = [rows[row][0].strength or 0.0 for row in order(rows, 0) if cells[row][0]]
    assert strengths == sorted(strengths, reverse=True)


def test_the_model_keeps_the_rules(model: SensitivityModel) -> None:
    tester = QAbstractItemModelTester(model)
    model.arrange("sensitivity")
    model.show_reading("accuracy", False)
    model.show_map(replace(MAP, cells={}))
    model.show_map(replace(MAP, rows=MAP.rows[:1], cells={}))
    model.show_map(None)
    model.show_map(MAP)
    assert tester is not None


def test_cells_are_read_by_row_and_group(model: SensitivityModel) -> None:
    assert _texts(model) == [
        ["≈0.010", "", "", "0.50"],
        ["0.030", "", "", "±0.020"],
        ["–", "", "", "1.5"],
    ]
    names = [model.headerData(row, Qt.Orientation.Vertical) for row in range(3)]
    assert names == ["stem.conv +1", "stage1.block0.conv1", "head.fc"]
    tip = model.headerData(0, Qt.Orientation.Vertical, Qt.ItemDataRole.ToolTipRole)
    assert "coupled" in tip
    assert CONV2 in tip


def test_rows_are_ordered_by_sensitivity_or_by_a_column(model: SensitivityModel) -> None:
    kept = Qt.ItemDataRole.DisplayRole
    model.arrange("sensitivity")
    assert [model.layers(row)[0] for row in range(3)] == [FC, STEM, CONV1]
    model.arrange(1)
    assert [model.layers(row)[0] for row in range(3)] == [CONV1, STEM, FC]
    assert model.sorted_column == 0
    assert model.index(0, 0).data(kept) == "0.030"
    assert model.place_of(CONV2) == 1
    assert model.place_of(LayerId("nowhere")) is None


def test_rows_stay_where_they_are_while_a_scan_goes_on(model: SensitivityModel) -> None:
    model.arrange("sensitivity")
    resets: list[None] = []
    model.modelReset.connect(lambda: resets.append(None))
    louder = {**MAP.cells, (1, 0): Cell(rise=9.0, error=0.1, samples=256)}
    model.show_map(replace(MAP, cells=louder))
    assert resets == []
    assert [model.layers(row)[0] for row in range(3)] == [FC, STEM, CONV1]
    model.arrange("sensitivity")
    assert model.layers(0) == (CONV1,)


def test_a_map_that_goes_on_says_what_is_new_alone(model: SensitivityModel) -> None:
    grown = {**MAP.cells, (0, 1): Cell(rise=0.2, error=0.01, samples=256), (1, 2): Cell(estimate=1)}
    model.show_map(replace(MAP, cells=grown))
    assert [model.index(row, 0).data() for row in range(3)] == ["0.20", "0.030", "–"]
    assert model.index(1, 1).data() == "≈1.0"
    model.show_map(replace(MAP, cells={(1, 2): Cell(estimate=1)}))
    assert _texts(model) == [["", "", "", ""], ["", "≈1.0", "", ""], ["", "", "", ""]]
    model.show_map(replace(MAP, cells=grown, complete=True))
    assert model.shown(1, 0).standing == "settled"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1e-5, "<0.001"), (-1e-5, "−<0.001"), (0.0005, "0.001"), (0.0994, "0.099"),
        (0.0996, "0.10"), (0.9949, "0.99"), (0.996, "1.0"), (9.94, "9.9"), (9.96, "10"),
        (-12.4, "−12"), (123.4, "123"), (1234.0, "1.23 k"), (math.inf, "∞"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_a_loss_takes_three_places_at_most(value: float, text: str) -> None:
    assert fmt.loss(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0"),
        (0.0004, "<0.1"),
        (-0.0004, "−<0.1"),
        (0.023, "2.3"),
        (0.0996, "10"),
        (-0.5, "−50"),
    ],
)
def test_points_read_without_their_word(share: float, text: str) -> None:
    assert fmt.points(share) == text


def test_heat_is_of_the_cells_that_say_something(model: SensitivityModel) -> None:
    heat = [[model.heat(model.shown(row, column)) for column in (0, 3)] for row in range(3)]
    assert heat[2] == [None, 1.0]  # refused; the largest
    assert heat[1][1] is None  # cannot be told from zero
    assert heat[0][0] == pytest.approx(0.04)  # the least, an estimate
    assert 0.04 < heat[1][0] < heat[0][1] < 1.0


def test_what_is_applied_is_marked(model: SensitivityModel) -> None:
    model.show_applied([MAP.edit(0, 0), PruneChannels((FC,), 0.2)])
    marked = [
        (row, column) for row in range(3) for column in range(4) if model.applied(row, column)
    ]
    assert marked == [(0, 3)]
    model.show_applied([])
    assert not model.applied(0, 3)


def test_a_cell_is_told_in_words(model: SensitivityModel) -> None:
    def told(row: int, column: int) -> str:
        return " · ".join(cell_lines(model.cell(row, column), model.shown(row, column)))

    assert told(0, 3) == (
        "rise of loss 0.50 ±0.098 · accuracy lost 4.0 points · estimated 0.20 · "
        "measured on 256 samples"
    )
    assert "not to be told from zero" in told(1, 3)
    assert told(1, 0).endswith("being measured, 64 samples so far")
    assert told(0, 0) == "estimated 0.010 · an estimate, not measured"
    assert told(2, 0) == "its channels are the model's output"
    assert told(0, 1) == "nothing is known yet"
    left = Cell(rise=0.1, samples=256, left_out=(FC,))
    assert "without head.fc" in " ".join(cell_lines(left, shown(left, "loss", 256, True)))


def test_the_table_is_what_the_engine_writes(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    save_sensitivity(str(path), MAP, "csv")
    assert fmt.delimited(table(MAP)) == path.read_text(encoding="utf-8")


def test_a_map_says_what_it_is_of(pruned: Snapshot) -> None:
    assert map_text(MAP) == (
        "loss 0.10 before · accuracy 98.0 % · 256 training samples of digits · not complete"
    )
    own = replace(MAP, state=pruned.current.id)
    assert stale_text(own, pruned, {}) == ""
    before = stale_text(MAP, pruned, {"base": 0})
    assert before.startswith("of the state before “Prune 50 % of channels of stage1.block0.conv1")
    assert "another state" in stale_text(MAP, pruned, {})
    assert "does not name" in stale_text(replace(MAP, state=""), pruned, {})


def test_cells_that_cannot_be_applied_say_why(base: Snapshot) -> None:
    assert refusal_of(MAP, (STEM,), MAP.cell(0, 0), base) == ""
    assert "Only this" in refusal_of(
        replace(MAP, direction="all but this"), (STEM,), MAP.cell(0, 0), base
    )
    assert refusal_of(MAP, (FC,), MAP.cell(2, 1), base) == "its channels are the model's output"
    assert "no layer gone" in refusal_of(MAP, (LayerId("gone"),), None, base)


def test_blocks_that_go_are_titled() -> None:
    assert [one.title for one in columns((RemoveBlocks(()),))] == ["out"]
