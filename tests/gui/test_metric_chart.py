"""The chart of a metric by layer: what it draws, reads out, selects and writes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QCoreApplication, QPointF
from PySide6.QtGui import QContextMenuEvent, QGuiApplication, QImage
from PySide6.QtWidgets import QLabel, QMessageBox, QToolButton
from pytestqt.qtbot import QtBot

from engine import (
    METRICS,
    Grid,
    LayerEnergy,
    LayerId,
    Part,
    Quantity,
    Series,
    Snapshot,
    default_hardware,
)
from gui.models.energy_unit import co2_unit, mac_unit
from gui.models.metric_bars import metric_bars
from gui.selection import Selection
from gui.theme import Theme
from gui.views.bar_plot import BarPlot
from gui.views.chart_files import ChartFiles
from gui.views.chart_legend import ChartLegend
from gui.views.metric_chart import MetricChart

CONV2 = LayerId("stage1.block0.conv2")
HELD = "modelled · Eyeriss <ISCA 2016> · row-stationary · batch 1 · bits as the model"


@pytest.fixture
def chart(qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme) -> MetricChart:
    chart = MetricChart(fake_document, selection, theme, ("energy",))
    qtbot.addWidget(chart)
    chart.resize(700, 240)
    chart.show()
    qtbot.waitExposed(chart)
    return chart


def _plot(chart: MetricChart) -> BarPlot:
    plot = chart.findChild(BarPlot)
    assert plot is not None
    return plot


def test_parts_add_up_to_the_series(pruned: Snapshot) -> None:
    bars = metric_bars(pruned, "energy", ordered=False)
    assert bars is not None
    series = pruned.current.table["energy"]
    assert sum(bars.totals) == pytest.approx(series.total.value)
    assert dict(zip(bars.layers, bars.totals, strict=True)) == pytest.approx(series.by_layer())


def test_sorted_puts_the_most_expensive_first(pruned: Snapshot) -> None:
    bars = metric_bars(pruned, "energy", ordered=True)
    assert bars is not None
    assert bars.layers[0] == CONV2
    assert list(bars.totals) == sorted(bars.totals, reverse=True)


def test_no_ghost_without_an_edit(base: Snapshot) -> None:
    bars = metric_bars(base, "energy", ordered=False)
    assert bars is not None
    assert bars.base == ()


def test_caption_names_the_conditions(chart: MetricChart) -> None:
    assert chart.caption() == f"Energy by layer · {HELD}"


def test_reads_out_layer_parts_total_and_base(chart: MetricChart) -> None:
    assert chart.bars is not None
    text = chart.read_out(chart.bars.layers.index(CONV2))
    for part in ("compute 295 nJ", "weights 295 nJ", "input 295 nJ", "output 20.0 nJ", "base"):
        assert part in text
    assert text.startswith(CONV2)
    assert "total 905 nJ" in text
    assert "▼ 49 %" in text
    assert text.endswith("DRAM-bound by energy")


def test_a_click_selects_the_layer(chart: MetricChart, selection: Selection) -> None:
    assert chart.bars is not None
    place = chart.bars.layers.index(CONV2)
    _plot(chart).clicked.emit(place, False)
    assert selection.layers == (CONV2,)
    _plot(chart).clicked.emit(0, True)
    assert selection.layers == (CONV2, chart.bars.layers[0])
    _plot(chart).clicked.emit(place, True)
    assert selection.layers == (chart.bars.layers[0],)


def test_bars_are_found_by_their_place(chart: MetricChart) -> None:
    plot = _plot(chart)
    place = plot.getViewBox().mapViewToScene(QPointF(2.1, 1e-7))
    assert plot.bar_at(place) == 2
    assert plot.bar_at(QPointF(-50, -50)) == -1


def test_the_mouse_reads_out_the_bar_below_it(chart: MetricChart) -> None:
    plot = _plot(chart)
    place = plot.getViewBox().mapViewToScene(QPointF(2, 1e-7))
    plot.scene().sigMouseMoved.emit(place)
    caption = chart.findChild(QLabel, "chartCaption")
    assert caption.text().startswith(CONV2)
    plot.scene().sigMouseMoved.emit(QPointF(-50, -50))
    assert caption.text() == HELD


def test_share_is_in_percent(chart: MetricChart) -> None:
    chart.findChild(QToolButton, "chartShare").click()
    assert "%" in _plot(chart).getAxis("left").label.toPlainText()


def test_a_low_axis_names_its_unit_alone(chart: MetricChart) -> None:
    axis = _plot(chart).getAxis("left")
    assert "Energy" in axis.label.toPlainText()
    _plot(chart).set_axis("Energy of something with a very long name" * 3, "J")
    assert "Energy" not in axis.label.toPlainText()
    assert "J)" in axis.label.toPlainText()
    chart.findChild(QToolButton, "chartShare").click()
    chart.resize(600, 120)
    chart.grab()
    assert axis.label.toPlainText().strip() == "(%)"
    chart.resize(600, 500)
    chart.grab()
    assert axis.label.toPlainText().strip() == "Share of energy (%)"


def test_thousands_of_layers_stay_a_few_items(
    chart: MetricChart, fake_document: Any, make_large: Callable[[int], Snapshot]
) -> None:
    fake_document.show(make_large(3000))
    assert chart.bars is not None
    assert len(chart.bars.layers) == 3000
    assert len(_plot(chart).getPlotItem().items) < 8
    chart.grab()


def test_hidden_it_goes_stale_and_refreshes_when_shown(
    chart: MetricChart, fake_document: Any, base: Snapshot
) -> None:
    chart.hide()
    before = chart.bars
    fake_document.show(base, Part.METRICS)
    assert chart.bars is before
    chart.show()
    assert chart.bars is not before


def test_without_a_model_it_says_what_to_do(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme
) -> None:
    fake_document.snapshot = None
    chart = MetricChart(fake_document, selection, theme, ("energy",))
    qtbot.addWidget(chart)
    assert "Open a model" in chart.findChild(QLabel, "chartEmpty").text()
    assert not any(action.isEnabled() for action in chart.make_menu().actions())


def test_picture_and_numbers_can_be_taken_away(chart: MetricChart, tmp_path: Path) -> None:
    files = chart.findChild(ChartFiles)
    assert files is not None
    assert chart.bars is not None
    files.write(str(tmp_path / "chart.png"), files.png())
    assert QImage(str(tmp_path / "chart.png")).width() == 2 * _plot(chart).width()
    svg = files.svg().decode()
    assert svg.startswith("<?xml")
    assert "Eyeriss &lt;ISCA 2016&gt;" in svg
    files.copy_table()
    lines = QGuiApplication.clipboard().text().splitlines()
    assert lines[0] == (
        "layer,compute (J),weights registers (J),input buffer (J),output DRAM (J),total (J),"
        "base (J),bound by,not modelled"
    )
    assert len(lines) == 1 + len(chart.bars.layers)
    files.copy_image()
    assert not QGuiApplication.clipboard().image().isNull()


@pytest.mark.parametrize("part", ["compute", "weights", "input"])
def test_the_picture_shows_the_bars(chart: MetricChart, theme: Theme, part: str) -> None:
    files = chart.findChild(ChartFiles)
    assert files is not None
    image = files.image()
    plot = image.height() - 2 * _plot(chart).height()  # where it begins, below caption and legend
    seen = {
        image.pixelColor(x, y).name()
        for x in range(0, image.width(), 2)
        for y in range(plot, image.height(), 2)
    }
    assert theme.color(part).name() in seen


def test_a_file_that_cannot_be_written_is_said(chart: MetricChart, tmp_path: Path) -> None:
    files = chart.findChild(ChartFiles)
    assert files is not None
    files.write(str(tmp_path / "missing" / "chart.csv"), b"")
    box = chart.findChild(QMessageBox, "saveFailed")
    assert "missing" in box.informativeText()
    box.close()


def test_draws_in_both_looks(chart: MetricChart, theme: Theme, selection: Selection) -> None:
    selection.set([LayerId("stage1")])
    light = chart.grab().toImage()
    theme.set_mode("dark")
    assert chart.grab().toImage() != light


def test_the_menu_of_the_plot_is_ours(
    qtbot: QtBot, chart: MetricChart, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[QContextMenuEvent] = []
    monkeypatch.setattr(MetricChart, "contextMenuEvent", lambda _, event: asked.append(event))
    viewport = _plot(chart).viewport()
    place = viewport.rect().center()
    event = QContextMenuEvent(QContextMenuEvent.Reason.Mouse, place, viewport.mapToGlobal(place))
    QCoreApplication.sendEvent(viewport, event)
    assert asked
    texts = [action.text() for action in chart.make_menu().actions()]
    assert texts[:3] == ["Copy image", "Save as PNG…", "Save as SVG…"]


@pytest.fixture
def measured(base: Snapshot) -> Snapshot:
    """Latencies with a spread, of two layers."""
    layers = {
        LayerId("stem.conv"): {"": Quantity(2e-5, 1e-5, 4e-5)},
        CONV2: {"": Quantity(6e-5, 5e-5, 8e-5)},
    }
    series = Series(METRICS["latency"], Quantity(1e-4), layers, conditions={"threads": "2"})
    state = replace(base.current, table=base.current.table.with_series(series))
    return replace(base, current=state, base=state)


def test_the_spread_of_measurements_is_drawn_and_read_out(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme, measured: Snapshot
) -> None:
    fake_document.snapshot = measured
    chart = MetricChart(fake_document, selection, theme, ("latency", "memory"))
    qtbot.addWidget(chart)
    assert chart.bars is not None
    assert chart.bars.spread == {0: (1e-5, 4e-5), 1: (5e-5, 8e-5)}
    assert chart.read_out(1) == (
        "stage1.block0.conv2   60.0 µs · between 50.0 µs and 80.0 µs · 75.0 %"
    )
    assert _plot(chart).getViewBox().viewRange()[1][1] > 8e-5  # the whisker is in view
    assert chart.bars.table() == [
        ["layer", "latency (s)", "low (s)", "high (s)"],
        ["stem.conv", 2e-5, 1e-5, 4e-5],
        ["stage1.block0.conv2", 6e-5, 5e-5, 8e-5],
    ]
    assert chart.caption() == "Latency by layer · measured · 2 threads · batch ?"


def test_another_metric_can_be_chosen(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme, measured: Snapshot
) -> None:
    fake_document.snapshot = measured
    chart = MetricChart(fake_document, selection, theme, ("latency", "memory"))
    qtbot.addWidget(chart)
    with qtbot.waitSignal(chart.metric_chosen):
        chart.findChild(QToolButton, "show_memory").click()
    assert chart.shown_metric == METRICS["memory"]
    assert chart.bars is None
    text = chart.findChild(QLabel, "chartEmpty").text()
    assert text == "Activation memory has not been measured yet."


def test_one_metric_needs_no_chooser(chart: MetricChart) -> None:
    assert not chart.findChild(QToolButton, "show_energy").isVisible()


def test_parts_are_grouped_by_level_bottom_up(chart: MetricChart) -> None:
    chart.show_grouping("level")
    assert chart.bars is not None
    assert list(chart.bars.parts) == ["compute", "registers", "buffer", "DRAM"]
    place = chart.bars.layers.index(CONV2)
    assert "buffer 295 nJ · DRAM 20.0 nJ · total 905 nJ" in chart.read_out(place)


@pytest.mark.parametrize("grouping", [None, "data type", "level"])
def test_no_grouping_loses_energy(pruned: Snapshot, grouping: Any) -> None:
    bars = metric_bars(pruned, "energy", ordered=True, grouping=grouping)
    assert bars is not None
    own = pruned.current.table["energy"].by_layer()
    assert dict(zip(bars.layers, bars.totals, strict=True)) == pytest.approx(own)
    assert len(bars.detail) == 4


def test_energy_is_shown_in_macs_of_the_hardware(chart: MetricChart) -> None:
    chart.show_unit(mac_unit(default_hardware()))  # 2 pJ
    assert chart.bars is not None
    place = chart.bars.layers.index(CONV2)
    assert "compute 147 k MAC" in chart.read_out(place)
    assert "MAC" in _plot(chart).getAxis("left").label.toPlainText()
    heights = _plot(chart).bar_heights
    assert heights[place] == pytest.approx(chart.bars.totals[place] / 2e-12)
    files = chart.findChild(ChartFiles)
    assert files is not None
    files.copy_table()
    lines = QGuiApplication.clipboard().text().splitlines()
    assert lines[0].startswith("layer,compute (MAC),weights registers (MAC)")
    compute = float(lines[1 + place].split(",")[1])
    assert compute == pytest.approx(chart.bars.detail["compute"][place] / 2e-12)
    assert "1 MAC = 2 pJ" in chart.caption()


def test_energy_is_shown_as_co2_of_a_thousand_inferences(chart: MetricChart) -> None:
    grid = Grid("Toyland", 360.0, 2024, "a toy")  # 0.1 mg for a joule, a thousand times
    chart.show_unit(co2_unit(grid))
    assert chart.bars is not None
    place = chart.bars.layers.index(CONV2)
    assert "total 90.5 ng" in chart.read_out(place)
    caption = chart.caption()
    assert caption.startswith("CO₂ equivalent of 1,000 inferences by layer · modelled")
    assert "Toyland 2024, 360 g/kWh" in caption


def test_the_unit_changes_no_share(chart: MetricChart) -> None:
    chart.findChild(QToolButton, "chartShare").click()
    before = _plot(chart).bar_heights
    chart.show_unit(mac_unit(default_hardware()))
    assert _plot(chart).bar_heights == pytest.approx(before)
    assert sum(before) == pytest.approx(1)


def test_marks_say_what_holds_a_layer_back(chart: MetricChart) -> None:
    assert chart.bars is not None
    marks = chart.bars.marks
    assert marks.pop(chart.bars.layers.index(CONV2)) == "DRAM"
    assert set(marks.values()) == {"compute"}
    legend = chart.findChild(ChartLegend, "chartLegend")
    assert "D DRAM-bound, C compute-bound" in legend.accessibleName()
    assert "speed of this hardware is not described" in legend.toolTip()
    assert _plot(chart).getAxis("top").isVisible()
    files = chart.findChild(ChartFiles)
    assert files is not None
    files.copy_table()
    assert "DRAM," in QGuiApplication.clipboard().text()


def test_other_metrics_have_no_marks(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme
) -> None:
    chart = MetricChart(fake_document, selection, theme, ("latency",))
    qtbot.addWidget(chart)
    chart.show_unit(mac_unit(default_hardware()))  # of energy alone
    assert chart.bars is not None
    assert chart.bars.marks == {}
    assert not _plot(chart).getAxis("top").isVisible()
    assert "µs" in chart.read_out(0)


@pytest.fixture
def unmodelled(base: Snapshot) -> Snapshot:
    """A layer without a value, and one of whose operators another has no rule."""
    told = {
        **base.current.energy.layers,
        LayerId("stem.relu"): LayerEnergy(unmodelled=("toy::strange <1>",)),
        CONV2: LayerEnergy("DRAM", unmodelled=("toy::other",)),
    }
    state = replace(base.current, energy=replace(base.current.energy, layers=told))
    return replace(base, current=state)


def test_what_is_not_modelled_is_said_and_never_zero(
    chart: MetricChart, fake_document: Any, unmodelled: Snapshot
) -> None:
    fake_document.show(unmodelled)
    assert chart.bars is not None
    place = chart.bars.layers.index(LayerId("stem.relu"))
    assert chart.read_out(place) == "stem.relu   not modelled: toy::strange <1>"
    assert chart.bars.marks[place] == "?"
    assert "not modelled: toy::other, toy::strange <1>" in chart.caption()
    assert chart.read_out(chart.bars.layers.index(CONV2)).endswith("not modelled: toy::other")
    header, *rows = chart.bars.table()
    cells = dict(zip(header, rows[place], strict=True))
    assert cells["total (J)"] is None
    assert cells["compute (J)"] is None
    assert cells["not modelled"] == "toy::strange <1>"


def test_a_low_plot_leaves_room_to_its_bars(chart: MetricChart) -> None:
    plot, axis = _plot(chart), _plot(chart).getAxis("bottom")
    plot.resize(700, 400)
    high = axis.height()
    plot.resize(700, 120)
    assert axis.height() < high
