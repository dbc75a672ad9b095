"""The map of energy: areas in proportion, cells within cells, one scale with the base."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QCoreApplication, QPoint, QPointF, Qt
from PySide6.QtGui import QColor, QGuiApplication
from PySide6.QtWidgets import QLabel, QToolButton
from pytestqt.qtbot import QtBot

from engine import (
    METRICS,
    ROOT,
    Layer,
    LayerEnergy,
    LayerId,
    LayerTree,
    MeasurementTable,
    Part,
    Quantity,
    Series,
    Snapshot,
    grids,
)
from gui.models.energy_map import (
    Box,
    Cell,
    EnergyTree,
    energy_tree,
    lay_out,
    neighbour,
    path_to,
    squarify,
)
from gui.models.energy_unit import EnergyUnit, co2_unit
from gui.selection import Selection
from gui.theme import Theme, blend, contrast
from gui.views.energy_map import EnergyMap
from gui.views.treemap_plot import TreemapPlot

CONV1 = LayerId("stage1.block0.conv1")
CONV2 = LayerId("stage1.block0.conv2")
BLOCK = LayerId("stage1.block0")
STEM = LayerId("stem.conv")
ROOM = Box(0.0, 0.0, 800.0, 500.0)

joules = st.floats(1e-9, 1.0)


@st.composite
def trees(draw: st.DrawFn) -> EnergyTree:
    """Hierarchies of any shape, in which containers may do work of their own."""
    paths = [""]
    for at in range(draw(st.integers(1, 25))):
        above = draw(st.sampled_from(paths))
        paths.append(f"{above}.m{at}" if above else f"m{at}")
    tree = LayerTree(Layer(LayerId(path), "Module") for path in paths)
    leaves = set(tree.leaves)
    own = {
        layer.id: (draw(joules), draw(joules))
        for layer in tree
        if layer.id in leaves or draw(st.booleans())
    }
    sums = {
        layer.id: tuple(
            sum(own[below][part] for below in tree.under(layer.id) if below in own)
            for part in (0, 1)
        )
        for layer in tree
    }
    totals = {layer: sum(values) for layer, values in sums.items()}
    return EnergyTree(tree, ("compute", "DRAM"), own, sums, totals, {})


def _overlap(one: Box, two: Box) -> float:
    width = min(one.right, two.right) - max(one.left, two.left)
    height = min(one.bottom, two.bottom) - max(one.top, two.top)
    return width * height if width > 0 and height > 0 else 0.0


@given(st.lists(joules, min_size=1, max_size=40), st.floats(20, 2000), st.floats(20, 2000))
def test_areas_are_in_proportion_and_fill_the_room(
    values: list[float], width: float, height: float
) -> None:
    values.sort(reverse=True)
    room = Box(3.0, 5.0, width, height)
    boxes = squarify(values, room)
    for value, box in zip(values, boxes, strict=True):
        assert box.area == pytest.approx(room.area * value / sum(values), rel=1e-6, abs=1e-6)
        assert box.left >= room.left - 1e-6
        assert box.right <= room.right + 1e-6
        assert box.top >= room.top - 1e-6
        assert box.bottom <= room.bottom + 1e-6
    for one, two in combinations(boxes, 2):
        assert _overlap(one, two) < 1e-6 * room.area


def test_equal_values_come_out_near_squares() -> None:
    boxes = squarify([1.0] * 24, Box(0, 0, 600, 400))
    assert max(max(box.width / box.height, box.height / box.width) for box in boxes) < 1.6


@given(trees(), st.floats(1.0, 3000.0))
def test_cells_lie_in_their_containers_and_share_them(energy: EnergyTree, least: float) -> None:
    cells = lay_out(energy, ROOT, ROOM, 18.0, least)
    groups: dict[int, list[Cell]] = {}
    for place, cell in enumerate(cells):
        assert cell.parent < place
        groups.setdefault(cell.parent, []).append(cell)
    for parent, held in groups.items():
        around = cells[parent].inner if parent >= 0 else ROOM
        layer = cells[parent].layer if parent >= 0 else ROOT
        assert around is not None
        total = energy.totals[layer]
        assert sum(cell.joules for cell in held) == pytest.approx(total)
        for part in (0, 1):
            summed = sum(cell.values[part] for cell in held)
            assert summed == pytest.approx(energy.sums[layer][part])
        for cell in held:
            assert cell.box.area == pytest.approx(around.area * cell.joules / total, abs=1e-3)
            assert _overlap(cell.box, around) == pytest.approx(cell.box.area, abs=1e-3)
        for one, two in combinations(held, 2):
            assert _overlap(one.box, two.box) < 1e-3


@given(trees())
def test_every_layer_is_drawn_or_merged_or_in_one_that_is(energy: EnergyTree) -> None:
    cells = lay_out(energy, ROOT, ROOM, 18.0, 400.0)
    shown = {cell.layer for cell in cells if cell.kind != "rest"}
    shown |= {layer for cell in cells for layer in cell.merged}
    for layer in energy.own:
        assert layer in shown or any(one in shown for one in path_to(energy.tree, layer))


@given(trees(), st.sampled_from(["left", "right", "up", "down"]), st.data())
def test_arrows_stay_on_the_map(energy: EnergyTree, side: Any, data: st.DataObject) -> None:
    cells = lay_out(energy, ROOT, ROOM, 18.0, 30.0)
    at = data.draw(st.integers(0, len(cells) - 1))
    for _ in range(len(cells) + 1):  # and come to an end
        at, before = neighbour(cells, at, side), at
        if at == before:
            return
    pytest.fail("went round in a circle")


def test_what_only_wraps_another_container_has_no_frame() -> None:
    tree = LayerTree(Layer(LayerId(path), "M") for path in ("", "a", "a.b", "a.b.x", "a.b.y"))
    own = {LayerId("a.b.x"): (3.0,), LayerId("a.b.y"): (1.0,)}
    sums = {LayerId(path): (4.0,) for path in ("", "a", "a.b")} | own
    energy = EnergyTree(tree, ("",), own, sums, {k: sum(v) for k, v in sums.items()}, {})
    assert energy.inner(ROOT) == "a.b"
    assert [cell.layer for cell in lay_out(energy, LayerId("a.b"), ROOM, 18.0, 1.0)] == [
        "a.b.x", "a.b.y",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("grouping", "parts"),
    [
        ("data type", ("compute", "weights", "input", "output")),
        ("level", ("compute", "registers", "buffer", "DRAM")),
    ],
)
def test_parts_are_grouped_and_add_up(
    pruned: Snapshot, grouping: Any, parts: tuple[str, ...]
) -> None:
    energy = energy_tree(pruned, grouping)
    assert energy is not None
    assert energy.parts == parts
    own = pruned.current.table["energy"].by_layer()
    assert {layer: sum(values) for layer, values in energy.own.items()} == pytest.approx(own)
    assert energy.totals[ROOT] == pytest.approx(sum(own.values()))
    assert energy.base[ROOT] == pytest.approx(sum(pruned.base.table["energy"].by_layer().values()))


def test_unedited_there_is_no_base(base: Snapshot) -> None:
    energy = energy_tree(base, "level")
    assert energy is not None
    assert not energy.base
    assert energy.share_of_base(ROOT) == 1.0


# -- the widget


@pytest.fixture
def view(qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme) -> EnergyMap:
    view = EnergyMap(fake_document, selection, theme)
    qtbot.addWidget(view)
    view.resize(1000, 500)
    view.show()
    qtbot.waitExposed(view)
    return view


def _cell(plot: TreemapPlot, layer: LayerId) -> Cell:
    return next(cell for cell in plot.cells if cell.layer == layer and cell.kind != "rest")


def _middle(cell: Cell) -> QPoint:
    face = cell.face
    return QPoint(round(face.left + face.width / 2), round(face.top + face.height / 2))


def test_the_map_has_the_share_of_the_bases_area(view: EnergyMap, pruned: Snapshot) -> None:
    here, base = view.plot.extent()
    now, before = (state.table["energy"].total.value for state in (pruned.current, pruned.base))
    assert base is not None
    assert here.area / base.area == pytest.approx(now / before)
    assert "the whole frame is the base, 2.79 µJ" in view.caption()
    assert "modelled" in view.caption()


def test_energy_that_rose_outlines_the_base(
    view: EnergyMap, fake_document: Any, pruned: Snapshot
) -> None:
    fake_document.show(replace(pruned, base=pruned.current, current=pruned.base))
    here, base = view.plot.extent()
    assert base is not None
    assert base.area < here.area == pytest.approx(view.plot.width() * view.plot.height())
    assert "dashed outline is the base" in view.caption()


def test_hovering_reads_out(
    qtbot: QtBot, view: EnergyMap, fake_document: Any, pruned: Snapshot
) -> None:
    told = dict(pruned.current.energy.layers)
    told[CONV2] = LayerEnergy("DRAM", 0.75, "64 filters at once")
    energy = replace(pruned.current.energy, layers=told, bound_by="time")
    fake_document.show(replace(pruned, current=replace(pruned.current, energy=energy)))
    cell = _cell(view.plot, CONV2)
    caption = view.findChild(QLabel, "mapCaption")
    with qtbot.waitSignal(view.plot.pointed):
        qtbot.mouseMove(view.plot, _middle(cell))
    text = caption.text()
    for part in (CONV2, "905 nJ", "of the model", "weights 33 %", "DRAM-bound", "75 %", "64 fil"):
        assert part in text
    qtbot.mouseMove(view.plot, QPoint(view.plot.width() - 2, view.plot.height() - 2))
    assert "modelled" in caption.text()


def test_a_click_selects_everywhere(qtbot: QtBot, view: EnergyMap, selection: Selection) -> None:
    left = Qt.MouseButton.LeftButton
    qtbot.mouseClick(view.plot, left, pos=_middle(_cell(view.plot, CONV2)))
    assert selection.layers == (CONV2,)
    qtbot.mouseClick(
        view.plot, left, Qt.KeyboardModifier.ControlModifier, _middle(_cell(view.plot, CONV1))
    )
    assert selection.layers == (CONV2, CONV1)


def test_a_double_click_zooms_in_and_the_trail_leads_out(qtbot: QtBot, view: EnergyMap) -> None:
    cell = _cell(view.plot, CONV2)
    qtbot.mouseDClick(view.plot, Qt.MouseButton.LeftButton, pos=_middle(cell))
    assert view.plot.root == BLOCK
    assert {cell.layer for cell in view.plot.cells} == {CONV1, CONV2}
    crumbs = view.findChildren(QToolButton)
    assert [one.text().strip("▸ ") for one in crumbs] == ["digits_net", "stage1", "block0"]
    qtbot.waitUntil(lambda: all(one.isVisible() for one in crumbs))
    crumbs[0].click()
    assert view.plot.root == ROOT


def test_the_keyboard_goes_selects_and_zooms(
    qtbot: QtBot, view: EnergyMap, selection: Selection
) -> None:
    plot = view.plot
    plot.setFocus()
    qtbot.keyClick(plot, Qt.Key.Key_Right)
    assert plot.accessibleDescription().startswith("stage1.block0, ")
    qtbot.keyClick(plot, Qt.Key.Key_Down)
    assert plot.accessibleDescription().startswith("conv2, 905 nJ")
    qtbot.keyClick(plot, Qt.Key.Key_Space)
    assert selection.layers == (CONV2,)
    qtbot.keyClick(plot, Qt.Key.Key_Return)
    assert plot.root == BLOCK
    qtbot.keyClick(plot, Qt.Key.Key_Escape)
    assert plot.root == ROOT


def test_a_selected_layer_that_is_out_of_view_is_shown(
    view: EnergyMap, selection: Selection
) -> None:
    view.plot.zoom_to(BLOCK)
    selection.set((STEM,))
    assert view.plot.root == ROOT


def test_the_zoom_outlives_an_edit(view: EnergyMap, fake_document: Any, base: Snapshot) -> None:
    view.plot.zoom_to(BLOCK)
    fake_document.show(base, Part.LAYERS | Part.METRICS | Part.HISTORY)
    assert view.plot.root == BLOCK


def test_another_model_is_shown_whole(view: EnergyMap, fake_document: Any, base: Snapshot) -> None:
    view.plot.zoom_to(BLOCK)
    fake_document.show(base, Part.MODEL | Part.LAYERS)
    assert view.plot.root == ROOT
    assert view.plot.cells


def test_a_container_that_wraps_one_other_is_outlined_as_that(
    view: EnergyMap, selection: Selection
) -> None:
    plain = view.plot.grab().toImage()
    assert all(cell.layer != "stage1" for cell in view.plot.cells)
    selection.set((LayerId("stage1"),))
    assert view.plot.grab().toImage() != plain


def test_the_unit_is_the_pages(view: EnergyMap) -> None:
    view.show_unit(EnergyUnit("MAC", "MAC", 1e12))
    table = view.table()
    assert table is not None
    assert table[0][1] == "compute (MAC)"
    assert "k MAC" in view.read_out(_cell(view.plot, CONV2))
    view.show_unit(co2_unit(grids()[0]))
    assert view.caption().startswith("CO₂ equivalent of 1,000 inferences by layer · modelled")
    assert f"{grids()[0].name} {grids()[0].year}" in view.findChild(QLabel, "mapCaption").text()


def test_the_table_has_every_layer_by_part(view: EnergyMap, pruned: Snapshot) -> None:
    view.show_grouping("level")
    table = view.table()
    assert table is not None
    assert table[0] == [
        "layer", "compute (J)", "registers (J)", "buffer (J)", "DRAM (J)", "total (J)", "base (J)",
    ]  # fmt: skip
    total = sum(row[-2] for row in table[1:])  # type: ignore[misc]
    assert total == pytest.approx(pruned.current.table["energy"].total.value)
    names = [action.text() for action in view.make_menu().actions()]
    assert {"Copy image", "Save as PNG…", "Save as SVG…", "Copy as CSV"} <= set(names)


def test_the_picture_shows_what_the_map_shows(view: EnergyMap, theme: Theme) -> None:
    actions = {action.text(): action for action in view.make_menu().actions()}
    actions["Copy image"].trigger()
    image = QGuiApplication.clipboard().image()
    cell = _cell(view.plot, CONV2)
    below = image.pixelColor(  # twice as large, below a caption of 32 pixels
        round(2 * (cell.box.left + 8)), round(2 * (cell.box.bottom - 8 + 32))
    )
    bottom = blend(QColor(theme.palette.surface), theme.color("compute"), 0.5)
    assert below.name() == bottom.name()
    view.plot.zoom_to(BLOCK)
    actions["Show all layers"].trigger()
    assert view.plot.root == ROOT


def test_without_energy_it_says_why(view: EnergyMap, fake_document: Any, pruned: Snapshot) -> None:
    empty = view.findChild(QLabel, "mapEmpty")
    nothing = Series(METRICS["energy"], Quantity(0.0))
    state = replace(pruned.current, table=MeasurementTable((nothing,)))
    fake_document.show(replace(pruned, current=state, base=state))
    assert empty.isVisible()
    assert "No energy has been modelled" in empty.text()
    assert view.table() is None
    assert view.plot.cells == ()


def test_before_a_model_is_open_it_asks_for_one(
    qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme
) -> None:
    fake_document.snapshot = None
    view = EnergyMap(fake_document, selection, theme)
    qtbot.addWidget(view)
    assert "Open a model" in view.findChild(QLabel, "mapEmpty").text()


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_names_can_be_read_over_every_part(theme: Theme, mode: Any) -> None:
    theme.set_mode(mode)
    text = QColor("#000000" if mode == "light" else "#ffffff")
    parts = ("compute", "weights", "input", "output", "registers", "array", "buffer", "DRAM")
    for part in parts:
        fill = blend(QColor(theme.palette.surface), theme.color(part), 0.5)
        assert contrast(text, fill) >= 4.5


def test_ten_thousand_layers_are_drawn_at_once(
    qtbot: QtBot, selection: Selection, theme: Theme, make_large: Callable[[int], Snapshot],
    fake_document: Any,
) -> None:  # fmt: skip
    fake_document.snapshot = make_large(10_000)
    view = EnergyMap(fake_document, selection, theme)
    qtbot.addWidget(view)
    view.resize(1600, 900)
    view.show()
    started = time.process_time()
    view.refresh()
    view.plot.grab()
    assert time.process_time() - started < 2.0  # a tenth of it where nothing else runs
    rest = next(cell for cell in view.plot.cells if cell.kind == "rest")
    assert len(rest.merged) + len(view.plot.cells) - 1 == 10_000
    qtbot.mouseClick(view.plot, Qt.MouseButton.LeftButton, pos=_middle(rest))
    assert selection.layers == rest.merged
    assert view.plot.cell_at(QPointF(_middle(rest))) == rest


def test_the_map_stays_where_it_is_while_something_is_read_out(
    qtbot: QtBot, view: EnergyMap
) -> None:
    caption, before = view.findChild(QLabel, "mapCaption"), view.plot.geometry()
    qtbot.mouseMove(view.plot, _middle(_cell(view.plot, CONV2)))
    QCoreApplication.processEvents()
    QCoreApplication.processEvents()  # the layout, then what follows from it
    assert view.plot.geometry() == before
    assert caption.text().startswith(CONV2)
