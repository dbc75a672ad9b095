"""The flame graph: where boxes lie, which of them are drawn, and what mouse and keyboard do."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QColor, QImage, QPixmap
from PySide6.QtWidgets import QFileDialog, QLabel, QToolButton
from pytestqt.qtbot import QtBot

from engine import LayerId, LayerSpan, OperatorCall, OperatorProfile
from gui.models.flame import KINDS, LAYER, OTHER, Box, Flame, Row, flame, kind_of
from gui.selection import Selection
from gui.theme import Theme, contrast
from gui.views.chart_files import ChartFiles
from gui.views.flame_graph import FlameGraph
from gui.views.flame_view import FlameView

CONV, FC = LayerId("stem.conv"), LayerId("head.fc")


@pytest.fixture
def view(
    qtbot: QtBot, selection: Selection, theme: Theme, operator_profile: OperatorProfile
) -> FlameView:
    view = FlameView(selection, theme)
    qtbot.addWidget(view)
    view.resize(1000, 320)
    view.show_profile(operator_profile)
    view.show()
    qtbot.waitExposed(view)
    return view


@pytest.fixture
def graph(view: FlameView) -> FlameGraph:
    graph = view.findChild(FlameGraph)
    assert graph is not None
    return graph


def _boxes(shown: Flame) -> dict[str, Box]:
    return {box.name: box for row in shown.rows for box in row.boxes}


def _middle(graph: FlameGraph, box: Box) -> QPoint:
    return graph.place_of(box).center().toPoint()


def test_what_encloses_stands_above(operator_profile: OperatorProfile) -> None:
    boxes = _boxes(flame(operator_profile))
    rows = {name: box.row for name, box in boxes.items()}
    assert [rows[name] for name in ("model", "stem", "stem.conv")] == [0, 1, 2]
    assert (rows["aten::conv2d"], rows["aten::convolution"]) == (3, 4)
    assert rows["volta_sgemm"] == 5  # a device has rows of its own
    assert flame(operator_profile).lanes == ((0, "cpu"), (5, "cuda:0"))
    assert boxes["aten::conv2d"].shapes == "1×3×8×8, 8"


def test_one_device_needs_no_lane(operator_profile: OperatorProfile) -> None:
    calls = tuple(call for call in operator_profile.calls if call.device == "cpu")
    shown = flame(OperatorProfile(0.01, calls, operator_profile.spans))
    assert shown.lanes == ()
    assert shown.kinds == ("convolution", "matrix product")


def test_a_profile_of_nothing_is_empty() -> None:
    shown = flame(OperatorProfile(0.0, (), ()))
    assert shown.rows == ()
    assert shown.at(0.0, 0) is None


times = st.integers(0, 1000).map(lambda number: number / 1000)


@given(st.lists(st.tuples(times, times), max_size=30))
def test_boxes_of_a_row_never_lie_on_each_other(ends: list[tuple[float, float]]) -> None:
    spans = tuple(
        LayerSpan(LayerId(str(at)), min(pair), abs(pair[0] - pair[1]), 0)
        for at, pair in enumerate(ends)
    )
    shown = flame(OperatorProfile(1.0, (), spans))
    assert sum(len(row.boxes) for row in shown.rows) == len(spans)
    for row in shown.rows:
        for before, after in zip(row.boxes, row.boxes[1:], strict=False):
            assert before.end <= after.start + 1e-12


@given(
    st.lists(st.tuples(st.floats(0, 0.02), st.floats(0.0, 0.05)), max_size=60),
    st.floats(0.001, 0.1),
)
def test_no_box_as_wide_as_a_pixel_is_left_out(
    steps: list[tuple[float, float]], pixel: float
) -> None:
    boxes, now = [], 0.0
    for gap, seconds in steps:
        boxes.append(Box("x", CONV, LAYER, now + gap, seconds, 0))
        now = boxes[-1].end
    row = Row(boxes)
    shown = list(row.visible(0.0, now, pixel))
    assert all(box in shown for box in boxes if box.seconds >= pixel)
    # Thin ones are merged: no two begin in one pixel.
    thin = [box.start for box in shown if box.seconds < pixel]
    assert all(after - before >= 0.999 * pixel for before, after in itertools.pairwise(thin))


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::conv2d", "convolution"),
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::native_batch_norm", "normalisation"),
        ("aten::addmm", "matrix product"),
        ("aten::scaled_dot_product_attention", "matrix product"),
        ("aten::clamp_min_", "elementwise"),
        ("aten::softmax", "elementwise"),
        ("aten::expand", "data movement"),
        ("aten::_to_copy", "data movement"),
        ("aten::max_pool2d", "reduction"),
        ("aten::topk", "reduction"),
        ("mine::frobnicate", OTHER),
    ],
)
def test_operators_have_a_kind_by_their_name(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_names_can_be_read_over_every_kind(theme: Theme, mode: str) -> None:
    theme.set_mode(mode)  # type: ignore[arg-type]
    for kind in KINDS:
        color = theme.color(kind)
        assert contrast(theme.text_on(color), color) >= 4.5
    assert (
        contrast(theme.text_on(QColor(theme.palette.selection)), QColor(theme.palette.selection))
        >= 4.5
    )


def test_the_box_below_the_mouse_is_read_out(view: FlameView, graph: FlameGraph) -> None:
    box = _boxes(graph.flame)["aten::conv2d"]
    assert graph.box_at(QPointF(_middle(graph, box))) == box
    text = view.read_out(box)
    assert text.startswith("aten::conv2d · stem.conv   3.00 ms · 30.0 % of the pass · from 1.00 ms")
    assert text.endswith("1×3×8×8, 8")
    assert view.read_out(None) == "pass 10.0 ms, 5 calls · cpu · batch 1"
    assert graph.box_at(QPointF(5, 5)) is None  # the ruler


def test_hovering_shows_the_read_out(qtbot: QtBot, view: FlameView, graph: FlameGraph) -> None:
    caption = view.findChild(QLabel, "flameCaption")
    box = _boxes(graph.flame)["head.fc"]
    with qtbot.waitSignal(graph.pointed):
        qtbot.mouseMove(graph.viewport(), _middle(graph, box))
    assert caption.text().startswith("head.fc   3.00 ms")


def test_a_click_selects_the_layer(qtbot: QtBot, graph: FlameGraph, selection: Selection) -> None:
    boxes = _boxes(graph.flame)
    left = Qt.MouseButton.LeftButton
    qtbot.mouseClick(graph.viewport(), left, pos=_middle(graph, boxes["aten::convolution"]))
    assert selection.layers == (CONV,)
    control = Qt.KeyboardModifier.ControlModifier
    qtbot.mouseClick(graph.viewport(), left, control, _middle(graph, boxes["head.fc"]))
    assert selection.layers == (CONV, FC)


def test_a_double_click_zooms_into_the_box(
    qtbot: QtBot, view: FlameView, graph: FlameGraph
) -> None:
    box = _boxes(graph.flame)["stem.conv"]
    qtbot.mouseDClick(graph.viewport(), Qt.MouseButton.LeftButton, pos=_middle(graph, box))
    assert graph.shown == pytest.approx((box.start, box.end))
    whole = view.findChild(QToolButton, "showAll")
    assert whole.isVisible()
    whole.click()
    assert graph.shown == pytest.approx((0.0, 0.010))
    assert not whole.isVisible()


def test_zooming_keeps_what_is_below_the_mouse(graph: FlameGraph) -> None:
    graph.zoom(4.0, 0.25)
    low, high = graph.shown
    assert high - low == pytest.approx(0.0025)
    assert low + 0.25 * (high - low) == pytest.approx(0.0025)
    graph.zoom(1e-9)
    assert graph.shown == pytest.approx((0.0, 0.010))
    graph.zoom(1e12)
    assert graph.shown[1] > graph.shown[0]


def test_a_drag_pans_and_selects_nothing(
    qtbot: QtBot, graph: FlameGraph, selection: Selection
) -> None:
    graph.zoom(2.0, 0.0)
    viewport, left = graph.viewport(), Qt.MouseButton.LeftButton
    qtbot.mousePress(viewport, left, pos=QPoint(600, 60))
    qtbot.mouseMove(viewport, QPoint(500, 60))
    qtbot.mouseRelease(viewport, left, pos=QPoint(500, 60))
    low, high = graph.shown
    assert low == pytest.approx(0.005 * 100 / viewport.width())
    assert high - low == pytest.approx(0.005)
    assert selection.layers == ()


def test_the_keyboard_goes_everywhere(
    qtbot: QtBot, graph: FlameGraph, selection: Selection
) -> None:
    read: list[str] = []
    graph.pointed.connect(lambda box: read.append(box.name))
    keys = Qt.Key
    for key in (keys.Key_Down, keys.Key_Down, keys.Key_Right, keys.Key_Down, keys.Key_Up):
        qtbot.keyClick(graph, key)
    assert read == ["model", "stem", "head", "head.fc", "head"]
    qtbot.keyClick(graph, keys.Key_Space)
    assert selection.layers == (LayerId("head"),)
    qtbot.keyClick(graph, keys.Key_Return)
    assert graph.shown == pytest.approx((0.0055, 0.0095))
    qtbot.keyClick(graph, keys.Key_Escape)
    assert graph.shown == pytest.approx((0.0, 0.010))
    qtbot.keyClick(graph, keys.Key_Plus)
    assert graph.shown[1] - graph.shown[0] < 0.010
    qtbot.keyClick(graph, keys.Key_Home)
    assert graph.shown == pytest.approx((0.0, 0.010))


def test_a_layer_selected_elsewhere_comes_into_view(
    graph: FlameGraph, selection: Selection
) -> None:
    graph.zoom_into(_boxes(graph.flame)["stem.conv"])
    selection.set([FC])
    low, high = graph.shown
    assert low <= 0.006 <= high
    selection.set([LayerId("no such")])  # of no box; nothing happens
    assert graph.shown == (low, high)


def test_drawing_takes_no_more_boxes_than_there_are_pixels(
    qtbot: QtBot, selection: Selection, theme: Theme, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tuple(OperatorCall(CONV, "aten::add", at * 1e-6, 9e-7, 9e-7, 0) for at in range(60_000))
    graph = FlameGraph(selection, theme)
    qtbot.addWidget(graph)
    graph.resize(800, 200)
    graph.show_flame(flame(OperatorProfile(0.06, calls, (LayerSpan(CONV, 0.0, 0.06, 0),))))
    drawn = 0

    def count(*_: object) -> None:
        nonlocal drawn
        drawn += 1

    monkeypatch.setattr(FlameGraph, "_draw_box", count)
    graph.render(QPixmap(800, 200))
    assert 0 < drawn <= 800 + 2


def test_draws_in_both_looks(view: FlameView, theme: Theme) -> None:
    light = view.grab().toImage()
    theme.set_mode("dark")
    assert view.grab().toImage() != light


def test_picture_trace_and_numbers_can_be_taken_away(
    view: FlameView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = view.findChild(ChartFiles)
    assert files is not None
    files.write(str(tmp_path / "flame.png"), files.png())
    assert QImage(str(tmp_path / "flame.png")).width() == 2 * view.findChild(FlameGraph).width()
    assert files.svg().startswith(b"<?xml")
    texts = [action.text() for action in view.make_menu().actions()]
    assert texts[0] == "Copy image"
    assert texts[-1] == "Save trace…"
    monkeypatch.setattr(QFileDialog, "open", lambda self: None)
    view.ask_trace()
    dialog = view.findChild(QFileDialog)
    dialog.fileSelected.emit(str(tmp_path / "trace.json"))
    assert json.loads((tmp_path / "trace.json").read_text()) == {"traceEvents": []}
    dialog.close()
