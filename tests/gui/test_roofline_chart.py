"""The roofline: where roofs and layers lie, what is read out, selected and written."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QGuiApplication, QImage, QPainter
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import QLabel, QTableView
from pytestqt.qtbot import QtBot

from engine import LayerId, Machine, Roofline, RooflinePoint
from gui.models.roofline_points import by_time, extent, reached, roof, sizes, table
from gui.selection import Selection
from gui.theme import Theme
from gui.views.chart_files import ChartFiles
from gui.views.roofline_chart import RooflineChart
from gui.views.roofline_plot import RooflinePlot

BN, CONV = LayerId("stem.bn"), LayerId("stem.conv")


@pytest.fixture
def chart(qtbot: QtBot, selection: Selection, theme: Theme, roofline: Roofline) -> RooflineChart:
    chart = RooflineChart(selection, theme)
    qtbot.addWidget(chart)
    chart.resize(800, 400)
    chart.show_profile(roofline)
    chart.show()
    qtbot.waitExposed(chart)
    chart.grab()  # places are known once it has been drawn
    return chart


@pytest.fixture
def plot(chart: RooflineChart) -> RooflinePlot:
    plot = chart.findChild(RooflinePlot)
    assert plot is not None
    return plot


def test_the_roof_slopes_to_the_ridge_and_is_level_behind_it(roofline: Roofline) -> None:
    assert roof(roofline, 1.0) == 1e10
    assert roof(roofline, 10.0) == 1e11
    assert roof(roofline, 1000.0) == 1e11


def test_layers_reach_a_share_of_their_roof(roofline: Roofline) -> None:
    bn, conv = roofline.points
    assert reached(roofline, bn) == pytest.approx(0.5)
    assert reached(roofline, conv) == pytest.approx(0.25)
    assert by_time(roofline.points) == [conv, bn]


def test_everything_lies_in_view(roofline: Roofline) -> None:
    seen = extent(roofline)
    assert seen.left < 0 < 2 < seen.right  # 1 and 100 FLOP/B
    assert seen.bottom < 9.69 < 11 < seen.top


def test_areas_go_with_time() -> None:
    points = [RooflinePoint(CONV, "Conv2d", 1.0, 1.0, seconds) for seconds in (1.0, 4.0, 1e-9)]
    assert sizes(points, 5.0, 20.0) == [10.0, 20.0, 5.0]
    assert sizes([], 5.0, 20.0) == []


def test_the_table_names_the_bound(roofline: Roofline) -> None:
    header, conv, bn = table(roofline)
    assert dict(zip(header, conv, strict=True))["bound"] == "compute"
    assert dict(zip(header, bn, strict=True))["bound"] == "memory"
    assert dict(zip(header, bn, strict=True))["of the roof"] == pytest.approx(0.5)


def test_layers_are_found_by_their_place(plot: RooflinePlot) -> None:
    box = plot.getViewBox()
    assert plot.point_at(box.mapViewToScene(QPointF(0.0, 9.699))) == 0
    assert plot.point_at(box.mapViewToScene(QPointF(2.0, 10.398))) == 1
    assert plot.point_at(box.mapViewToScene(QPointF(1.0, 11.0))) == -1


def test_the_mouse_reads_out_the_layer_below_it(chart: RooflineChart, plot: RooflinePlot) -> None:
    caption = chart.findChild(QLabel, "rooflineCaption")
    assert caption.text() == "Toy <1> · 1 memory-bound · 1 compute-bound"
    plot.scene().sigMouseMoved.emit(plot.getViewBox().mapViewToScene(QPointF(0.0, 9.699)))
    assert caption.text() == (
        "stem.bn BatchNorm2d   1 FLOP/byte · 5.00 GFLOP/s · memory-bound · 50 % of the roof"
        " · 200 µs"
    )
    plot.scene().sigMouseMoved.emit(QPointF(-50, -50))
    assert caption.text().startswith("Toy <1>")
    assert "threads: 2" in caption.toolTip()
    assert "Toy &lt;1&gt;" not in caption.text()


def test_a_click_selects_the_layer(plot: RooflinePlot, selection: Selection) -> None:
    plot.clicked.emit(1, False)
    assert selection.layers == (CONV,)
    plot.clicked.emit(0, True)
    assert selection.layers == (CONV, BN)


def test_roofs_and_ridge_are_named(plot: RooflinePlot) -> None:
    assert plot.roof_texts() == (
        "memory 10.0 GB/s",
        "arithmetic 100 GFLOP/s",
        "ridge 10 FLOP/byte",
    )
    assert plot.ridge == QPointF(1.0, 11.0)
    labels = [plot.getAxis(side).label.toPlainText().strip() for side in ("bottom", "left")]
    assert labels == ["Arithmetic intensity (FLOP/byte)", "Performance (FLOP/s)"]


def test_ticks_are_powers_of_ten_with_prefixes(plot: RooflinePlot) -> None:
    axis = plot.getAxis("left")
    assert axis.tickStrings([9.0, 10.0, 11.0], 1.0, 1.0) == ["1 G", "10 G", "100 G"]
    assert plot.getAxis("bottom").tickStrings([-1.0, 0.0, 3.0], 1.0, 1.0) == ["0.1", "1", "1 k"]
    assert [len(axis.tickValues(9.0, 11.0, size)[0][1]) for size in (100, 1000)] == [3, 7]


def test_selected_layers_are_marked(
    chart: RooflineChart, selection: Selection, theme: Theme
) -> None:
    plain = chart.grab().toImage()
    selection.set([LayerId("stem")])
    marked = chart.grab().toImage()
    assert marked != plain
    theme.set_mode("dark")
    assert chart.grab().toImage() != marked


def test_many_layers_are_named_without_covering_each_other(
    chart: RooflineChart, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[QRectF] = []
    draw = QPainter.drawText

    def note(painter: QPainter, *arguments: Any) -> None:
        if isinstance(arguments[0], QRectF) and str(arguments[-1]).startswith("layer"):
            written.append(arguments[0])
        draw(painter, *arguments)

    monkeypatch.setattr(QPainter, "drawText", note)
    points = tuple(
        RooflinePoint(LayerId(f"layer{at}"), "Conv2d", 1e8 * (1 + at / 500), 1e6, 1e-3)
        for at in range(50)
    )
    chart.show_profile(Roofline(Machine("Toy", 1e10, 1e11), points))
    chart.grab()
    assert 2 <= len(written) <= 8  # there is no room for more
    pairs = itertools.combinations(written, 2)
    assert not any(one.intersects(other) for one, other in pairs)


def test_picture_and_numbers_can_be_taken_away(chart: RooflineChart, tmp_path: Path) -> None:
    files = chart.findChild(ChartFiles)
    assert files is not None
    files.write(str(tmp_path / "roof.png"), files.png())
    assert not QImage(str(tmp_path / "roof.png")).isNull()
    assert "Toy &lt;1&gt;" in files.svg().decode()
    files.copy_table()
    assert QGuiApplication.clipboard().text().splitlines()[1].startswith("stem.conv,Conv2d,")
    texts = [action.text() for action in chart.make_menu().actions()]
    assert texts == [
        "Copy image", "Save as PNG…", "Save as SVG…", "Copy as CSV", "Save as CSV…",
        "Show as table…", "Show all layers",
    ]  # fmt: skip


def test_the_table_can_be_seen_and_sorted(chart: RooflineChart) -> None:
    files = chart.findChild(ChartFiles)
    assert files is not None
    files.show_table()
    dialog = chart.findChild(object, "tableDialog")
    model = dialog.findChild(QTableView, "numbers").model()
    QAbstractItemModelTester(
        model.sourceModel(), QAbstractItemModelTester.FailureReportingMode.Fatal
    )
    assert model.rowCount() == 2
    assert model.index(0, 0).data() == "stem.conv"
    assert [model.headerData(at, Qt.Orientation.Horizontal) for at in (0, 7)] == ["layer", "bound"]
    model.sort(4, Qt.SortOrder.AscendingOrder)
    assert model.index(0, 0).data() == "stem.bn"
    dialog.copy()
    assert QGuiApplication.clipboard().text().startswith("layer,kind,")
    dialog.close()


def test_before_anything_is_taken_nothing_can_be_written(
    qtbot: QtBot, selection: Selection, theme: Theme
) -> None:
    chart = RooflineChart(selection, theme)
    qtbot.addWidget(chart)
    assert not any(action.isEnabled() for action in chart.make_menu().actions())
    assert not chart.grab().isNull()


def test_conditions_of_the_layers_are_on_the_screen(
    chart: RooflineChart, roofline: Roofline
) -> None:
    chart.show_profile(replace(roofline, conditions={"device": "cpu", "batch": "8"}))
    caption = chart.findChild(QLabel, "rooflineCaption").text()
    assert caption.endswith("1 compute-bound · cpu · batch 8")
