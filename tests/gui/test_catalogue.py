"""The catalogue: what its rows say, how they are chosen and sorted, costs, scatter, opening."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import (
    QComboBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QToolButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

from engine import CatalogueCost, CatalogueEntry, EngineError, Job, OpenRequest, Snapshot
from gui.document import Document
from gui.jobs import JobRunner
from gui.models.catalogue_costs import CostQueue
from gui.models.catalogue_model import CatalogueFilter, CatalogueModel
from gui.models.catalogue_rows import FIELDS, Column, Row, Wanted, best_of
from gui.models.catalogue_scatter import scatter
from gui.models.cells import CellRole
from gui.models.layer_query import parse_query
from gui.settings import Settings
from gui.theme import Theme
from gui.views.catalogue_scatter import CatalogueScatter
from gui.views.catalogue_view import Catalogue, CatalogueView
from gui.views.chart_files import ChartFiles
from gui.views.scatter_plot import ScatterPlot, round_values


def _entry(name: str, accuracy: float | None, macs: int | None, **more: Any) -> CatalogueEntry:
    weights = more.pop("weights", "V1")
    source = f"torchvision:{name}@{weights}" if weights else f"torchvision:{name}"
    facts = {
        "task": "classification", "family": "Net", "metric": "ImageNet-1K acc@1",
        "input_size": (224, 224), "parameters": 5_000_000, "file_size": 20_000_000,
    }  # fmt: skip
    return CatalogueEntry(
        name, source, **{**facts, **more}, weights=weights, accuracy=accuracy, macs=macs
    )


SMALL = _entry("small", 70.0, 100_000_000, family="Small", cached=True)
MIDDLE = _entry("middle", 75.0, 400_000_000)
LARGE = _entry("large", 80.0, 4_000_000_000)
LARGE_2 = _entry("large", 82.0, 4_000_000_000, weights="V2")
WORSE = _entry("worse", 72.0, 5_000_000_000)
BARE = _entry("bare", None, None, weights="", metric="", input_size=(), parameters=None)
SEGMENTS = _entry("segments", 60.0, 9_000_000_000, task="segmentation", metric="VOC miou")
FLOW = _entry("flow", 4.0, 8_000_000_000, task="optical flow", metric="Sintel epe")
FLOW_2 = _entry("flow", 2.0, 8_000_000_000, task="optical flow", metric="Sintel epe", weights="V2")
ENTRIES = (SMALL, MIDDLE, LARGE, LARGE_2, WORSE, BARE, SEGMENTS, FLOW, FLOW_2)


@pytest.fixture
def model(qapp: object) -> CatalogueModel:
    model = CatalogueModel()
    QAbstractItemModelTester(model, QAbstractItemModelTester.FailureReportingMode.Fatal, model)
    model.set_entries(ENTRIES)
    return model


@pytest.fixture
def rows(model: CatalogueModel) -> CatalogueFilter:
    proxy = CatalogueFilter(model)
    QAbstractItemModelTester(proxy, QAbstractItemModelTester.FailureReportingMode.Fatal, proxy)
    proxy.set_wanted(Wanted())
    return proxy


def _cell(model: CatalogueModel, entry: CatalogueEntry, column: Column) -> str:
    return str(model.index(model.place_of(entry.source), column).data())


def test_cells_are_short_and_absent_is_a_dash(model: CatalogueModel) -> None:
    texts = {column: _cell(model, SMALL, column) for column in Column}
    assert texts[Column.ACCURACY] == "70.0"
    assert texts[Column.INPUT] == "224×224"
    assert texts[Column.PARAMETERS] == "5.00 M"
    assert texts[Column.MACS] == "100 M"
    assert texts[Column.FILE_SIZE] == "20.0 MB"
    assert texts[Column.CACHED] == "✓"
    assert texts[Column.ENERGY] == "–"
    assert {_cell(model, BARE, column) for column in (Column.ACCURACY, Column.MACS)} == {"–"}
    assert model.index(model.place_of(BARE.source), Column.MACS).data(CellRole.SORT) is None


def test_numbers_stand_right_and_tips_are_plain(model: CatalogueModel) -> None:
    model.set_entries([replace(SMALL, name="<b>x</b>", source="<b>x</b>")])
    index = model.index(0, Column.MACS)
    assert index.data(Qt.ItemDataRole.TextAlignmentRole) & Qt.AlignmentFlag.AlignRight
    assert "&lt;b&gt;" in model.index(0, Column.NAME).data(Qt.ItemDataRole.ToolTipRole)


def test_costs_fill_their_own_column(model: CatalogueModel) -> None:
    model.set_waiting([(SMALL.source, "energy")])
    assert _cell(model, SMALL, Column.ENERGY) == "…"
    assert _cell(model, SMALL, Column.LATENCY) == "–"
    model.set_cost(SMALL.source, "energy", CatalogueCost(energy=2e-3, hardware="Eyeriss"))
    model.set_cost(SMALL.source, "latency", CatalogueCost(problem="Memory ran out."))
    assert _cell(model, SMALL, Column.ENERGY) == "2.00 mJ"
    assert _cell(model, SMALL, Column.LATENCY) == "Memory ran out."
    tip = model.index(model.place_of(SMALL.source), Column.ENERGY).data(Qt.ItemDataRole.ToolTipRole)
    assert "Eyeriss" in tip
    cost = CatalogueCost(latency=3e-3, latency_low=2.9e-3, latency_high=3.2e-3)
    model.set_cost(SMALL.source, "latency", cost)
    assert _cell(model, SMALL, Column.ENERGY) == "2.00 mJ"
    assert _cell(model, SMALL, Column.LATENCY) == "3.00 ms"


def test_costs_survive_reading_the_catalogue_again(model: CatalogueModel) -> None:
    model.set_cost(SMALL.source, "energy", CatalogueCost(energy=2e-3))
    model.set_entries([BARE, SMALL])
    assert _cell(model, SMALL, Column.ENERGY) == "2.00 mJ"


@pytest.mark.parametrize("order", list(Qt.SortOrder))
def test_sorting_puts_absent_last(rows: CatalogueFilter, order: Qt.SortOrder) -> None:
    rows.sort(Column.ACCURACY, order)
    values = [rows.row_at(place).values.get(Column.ACCURACY) for place in range(len(ENTRIES))]
    known = [value for value in values if value is not None]
    assert values[-1] is None
    assert known == sorted(known, reverse=order == Qt.SortOrder.DescendingOrder)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("large", {"large"}),
        ("SMALL classification", {"small"}),
        ("accuracy>=75 macs<1G", {"middle"}),
        ("voc", {"segments"}),
        ("energy<1mJ", set()),
    ],
)
def test_the_filter_line(rows: CatalogueFilter, line: str, names: set[str]) -> None:
    query = parse_query(line, FIELDS)
    assert not query.problem
    rows.set_wanted(Wanted(query.words, query.comparisons))
    assert {one.entry.name for one in rows.shown} == names
    assert rows.rowCount() == len(rows.shown)


def test_a_cost_that_comes_can_bring_its_row_in(
    model: CatalogueModel, rows: CatalogueFilter
) -> None:
    query = parse_query("energy<1mJ", FIELDS)
    rows.set_wanted(Wanted((), query.comparisons))
    model.set_cost(SMALL.source, "energy", CatalogueCost(energy=5e-4))
    assert [one.entry for one in rows.shown] == [SMALL]


def test_switches(rows: CatalogueFilter) -> None:
    rows.set_wanted(Wanted(task="segmentation"))
    assert [one.entry for one in rows.shown] == [SEGMENTS]
    rows.set_wanted(Wanted(cached=True))
    assert [one.entry for one in rows.shown] == [SMALL]
    rows.set_wanted(Wanted(origin="timm"))
    assert rows.shown == []


def test_best_weights_are_by_published_figure_errors_turned_round() -> None:
    best = {row.entry.source for row in best_of(map(Row, ENTRIES))}
    assert LARGE_2.source in best
    assert LARGE.source not in best
    assert FLOW_2.source in best  # half the error
    assert BARE.source in best


def _scatter(*entries: CatalogueEntry) -> Any:
    return scatter(map(Row, entries), Column.MACS, Column.ACCURACY)


def test_the_front_is_what_no_other_beats() -> None:
    found = _scatter(SMALL, MIDDLE, LARGE, LARGE_2, WORSE, BARE)
    assert [found.rows[one].entry.source for one in found.front] == [
        SMALL.source, MIDDLE.source, LARGE_2.source,
    ]  # fmt: skip
    assert found.missing == 1


def test_of_two_costs_the_front_is_low_in_both() -> None:
    entries = (replace(SMALL, file_size=3), replace(MIDDLE, file_size=1), WORSE)
    found = scatter(map(Row, entries), Column.MACS, Column.FILE_SIZE)
    assert [found.rows[one].entry.name for one in found.front] == ["small", "middle"]


def test_figures_of_several_metrics_have_no_front() -> None:
    found = _scatter(SMALL, SEGMENTS)
    assert not found.comparable
    assert found.front == ()


def test_of_errors_less_is_better() -> None:
    found = _scatter(FLOW, FLOW_2)
    assert [found.rows[one].entry for one in found.front] == [FLOW_2]


def test_families_are_joined_in_order_of_macs_once_a_model() -> None:
    found = _scatter(WORSE, LARGE, LARGE_2, MIDDLE, SMALL)
    (line,) = found.families.values()
    assert [found.rows[one].entry.source for one in line] == [
        MIDDLE.source, LARGE_2.source, WORSE.source,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "some"), [(6, 12, 1e9), (8.2, 8.9, 5e8), (-3.1, -2.9, 1e-3), (0.3, 3.2, 10)]
)
def test_logarithmic_axes_have_round_ticks(low: float, high: float, some: float) -> None:
    values = round_values(low, high)
    assert some in values
    assert len(values) >= 2
    assert all(10**low <= value * 1.0001 for value in values)
    assert all(value <= 10**high * 1.0001 for value in values)


@dataclass
class Bench:
    """A catalogue view over entries and costs written by hand."""

    qtbot: QtBot
    document: Document
    view: CatalogueView
    requests: list[OpenRequest]
    asked: list[tuple[str, str]]
    hardwares: list[str]
    failed: list[BaseException] = field(default_factory=list)

    def settle(self) -> None:
        self.qtbot.waitUntil(lambda: not self.document.jobs.active)

    def find(self, kind: type[QWidget], name: str) -> Any:
        found = self.view.findChild(kind, name)
        assert found is not None, name
        return found

    def names(self) -> list[str]:
        table = self.view.table
        return [str(table.model().index(row, 0).data()) for row in range(table.model().rowCount())]

    def filter(self, text: str) -> None:
        line = self.find(QLineEdit, "catalogueFilter")
        line.setText(text)
        self.qtbot.keyClick(line, Qt.Key.Key_Return)


@pytest.fixture
def make_bench(
    qtbot: QtBot, theme: Theme, pruned: Snapshot, tmp_path: Path
) -> Iterator[Callable[..., Bench]]:
    documents: list[Document] = []

    def make(entries: Callable[[Job], Any] = lambda job: ENTRIES) -> Bench:
        requests: list[OpenRequest] = []
        asked: list[tuple[str, str]] = []
        hardwares: list[str] = []

        @dataclass
        class Session:
            snapshot: Snapshot

        def opener(request: OpenRequest, job: Job) -> Any:
            requests.append(request)
            return Session(replace(pruned, data=None))

        def cost(source: str, what: str, hardware: str, job: Job) -> CatalogueCost:
            asked.append((source, what))
            hardwares.append(hardware)
            if source == WORSE.source:
                raise EngineError("It does not run.", "Choose another.")
            return CatalogueCost(energy=1e-3) if what == "energy" else CatalogueCost(latency=2e-3)

        document = Document(JobRunner(), Settings(tmp_path / "settings.ini"), opener)
        documents.append(document)
        view = CatalogueView(document, theme, Catalogue(entries, cost))
        qtbot.addWidget(view)
        view.resize(1280, 800)
        bench = Bench(qtbot, document, view, requests, asked, hardwares)
        document.failed.connect(bench.failed.append)
        view.show()
        bench.settle()
        return bench

    yield make
    for document in documents:
        assert document.jobs.shut_down(5.0)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def test_at_first_one_task_and_the_best_weights(bench: Bench) -> None:
    assert bench.find(QComboBox, "catalogueTask").currentData() == "classification"
    assert sorted(bench.names()) == ["bare", "large", "middle", "small", "worse"]
    assert bench.find(QLabel, "catalogueCount").text() == "5 of 9"
    bench.find(QToolButton, "catalogueBest").click()
    assert bench.names().count("large") == 2
    bench.find(QComboBox, "catalogueTask").setCurrentIndex(0)
    assert len(bench.names()) == len(ENTRIES)


def test_enter_opens_the_only_model_left(bench: Bench) -> None:
    bench.filter("middle")
    bench.settle()
    assert bench.requests == [OpenRequest(MIDDLE.source)]


def test_enter_and_double_click_open_the_row(bench: Bench) -> None:
    bench.view.table.select([SMALL.source])
    bench.qtbot.keyClick(bench.view.table, Qt.Key.Key_Return)
    bench.view.table.doubleClicked.emit(bench.view.table.currentIndex())
    bench.find(QPushButton, "catalogueOpen").click()
    bench.settle()
    assert bench.requests == [OpenRequest(SMALL.source)] * 3


def test_a_filter_that_cannot_be_read_is_named(bench: Bench) -> None:
    bench.filter("speed>3")
    assert bench.find(QLineEdit, "catalogueFilter").property("invalid")
    assert "“speed” is no column" in bench.find(QLabel, "catalogueCount").text()
    assert not bench.failed


def test_what_is_not_listed_can_be_opened_by_its_name(bench: Bench) -> None:
    bench.filter("timm:net_tiny")
    button = bench.find(QPushButton, "catalogueRemedy")
    assert button.isVisible()
    assert "timm:net_tiny" in button.text()
    button.click()
    bench.settle()
    assert bench.requests == [OpenRequest("timm:net_tiny")]


def test_what_another_choice_hides_is_offered(bench: Bench) -> None:
    bench.filter("voc")
    button = bench.find(QPushButton, "catalogueRemedy")
    assert button.text() == "Show 1 of other tasks and libraries"
    button.click()
    assert bench.names() == ["segments"]


def test_costs_of_the_selected_models(bench: Bench) -> None:
    bench.view.table.select([SMALL.source, WORSE.source])
    bench.find(QPushButton, "catalogueEnergy").click()
    bench.settle()
    assert sorted(bench.asked) == [(SMALL.source, "energy"), (WORSE.source, "energy")]
    model = bench.view.model
    assert _cell(model, SMALL, Column.ENERGY) == "1.00 mJ"
    assert _cell(model, WORSE, Column.ENERGY) == "It does not run. Choose another."
    assert "their rows say why" in bench.find(QLabel, "catalogueProgressText").text()
    assert not bench.failed


def test_energy_is_modelled_on_the_chosen_hardware(bench: Bench) -> None:
    bench.view.table.select([SMALL.source])
    for what in ("energy", "latency"):
        bench.view.estimate(what)
    bench.settle()
    bench.view.show_hardware("own/mine")
    model = bench.view.model
    assert _cell(model, SMALL, Column.ENERGY) != "1.00 mJ"
    assert _cell(model, SMALL, Column.LATENCY) == "2.00 ms"
    bench.view.estimate("energy")
    bench.settle()
    assert bench.hardwares == ["", "", "own/mine"]
    assert _cell(model, SMALL, Column.ENERGY) == "1.00 mJ"


def test_without_a_selection_costs_of_all_shown_that_lack_them(bench: Bench) -> None:
    assert bench.find(QPushButton, "catalogueLatency").text() == "Measure latency (5)"
    bench.view.model.set_cost(SMALL.source, "latency", CatalogueCost(latency=1e-3))
    bench.view.estimate("latency")
    bench.settle()
    assert len(bench.asked) == 4
    assert (SMALL.source, "latency") not in bench.asked


def test_a_selected_point_is_the_selected_row_and_back(bench: Bench) -> None:
    plot = bench.find(ScatterPlot, "scatterPlot")
    chart = bench.find(CatalogueScatter, "catalogueScatter")
    names = [row.entry.name for row in chart.scatter.rows]
    plot.clicked.emit(names.index("middle"))
    assert [row.entry for row in bench.view.table.selected] == [MIDDLE]
    plot.opened.emit(names.index("middle"))
    bench.settle()
    assert bench.requests == [OpenRequest(MIDDLE.source)]


def test_points_are_found_by_their_place_and_read_out(bench: Bench) -> None:
    plot = bench.find(ScatterPlot, "scatterPlot")
    chart = bench.find(CatalogueScatter, "catalogueScatter")
    names = [row.entry.name for row in chart.scatter.rows]
    number = names.index("large")
    assert plot.point_at(plot.scene_place(number) + QPointF(3, 3)) == number
    assert plot.point_at(QPointF(-50, -50)) == -1
    plot.scene().sigMouseMoved.emit(plot.scene_place(number))
    said = bench.find(QLabel, "scatterCaption").text()
    assert said.startswith("large V2")
    assert "82.0 ImageNet-1K acc@1" in said
    assert "MACs 4.00 G" in said
    plot.scene().sigMouseMoved.emit(QPointF(-50, -50))
    assert "Pareto front of 3" in bench.find(QLabel, "scatterCaption").text()


def test_the_scatter_says_what_it_lacks(bench: Bench) -> None:
    combo = bench.find(QComboBox, "scatterX")
    combo.setCurrentIndex(combo.findData(Column.ENERGY))
    assert "Estimate energy" in bench.find(QLabel, "scatterEmpty").text()
    bench.view.estimate("energy")
    bench.settle()
    chart = bench.find(CatalogueScatter, "catalogueScatter")
    assert len(chart.scatter.rows) == 3  # worse does not run, bare has no accuracy


def test_the_numbers_behind_the_scatter(bench: Bench) -> None:
    chart = bench.find(CatalogueScatter, "catalogueScatter")
    head, *body = chart.numbers()
    assert head == ["model", "weights", "family", "MACs", "Accuracy", "front"]
    assert ["small", "V1", "Small", 1e8, 70.0, "yes"] in body
    assert ["worse", "V1", "Net", 5e9, 72.0, ""] in body


def test_rows_are_copied_as_raw_values(bench: Bench) -> None:
    bench.view.table.select([SMALL.source])
    bench.view.copy_rows()
    head, line = QGuiApplication.clipboard().text().splitlines()
    cells = dict(zip(head.split("\t"), line.split("\t"), strict=True))
    assert cells["File size (B)"] == "20000000.0"
    assert cells["Energy (J)"] == ""
    assert cells["Source"] == SMALL.source


def test_escape_leaves(bench: Bench) -> None:
    with bench.qtbot.waitSignal(bench.view.left):
        bench.find(QToolButton, "catalogueBack").click()


def test_a_catalogue_that_cannot_be_read_can_be_tried_again(
    make_bench: Callable[..., Bench],
) -> None:
    answers: list[Any] = [EngineError("No."), ENTRIES]

    def entries(job: Job) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    bench = make_bench(entries)
    assert [str(error) for error in bench.failed] == ["No."]
    bench.find(QPushButton, "catalogueRemedy").click()
    bench.settle()
    assert len(bench.names()) == 5


def test_reading_can_be_stopped_and_begun_again(make_bench: Callable[..., Bench]) -> None:
    impatient: list[bool] = []

    def entries(job: Job) -> Any:
        if not impatient:
            impatient.append(True)
            job.cancel()
        job.check()
        return ENTRIES

    bench = make_bench(entries)
    assert bench.find(QLabel, "catalogueNotice").text() == "The catalogue was not read."
    bench.find(QPushButton, "catalogueRemedy").click()
    bench.settle()
    assert len(bench.names()) == 5
    assert not bench.failed


def test_the_scatter_can_be_taken_away(bench: Bench) -> None:
    files = bench.find(CatalogueScatter, "catalogueScatter").findChild(ChartFiles)
    svg = files.svg().decode()
    assert "Accuracy over MACs" in svg
    assert "middle" in svg  # named, as it is on the front
    assert files.image().width() == 2 * bench.find(ScatterPlot, "scatterPlot").width()
    assert [action.text() for action in files.make_menu().actions()][:3] == [
        "Copy image", "Save as PNG…", "Save as SVG…",
    ]  # fmt: skip


def test_it_is_read_again_after_a_model_was_opened(make_bench: Callable[..., Bench]) -> None:
    reads: list[int] = []

    def entries(job: Job) -> Any:
        reads.append(1)
        return ENTRIES

    bench = make_bench(entries)
    bench.view.hide()
    bench.view.show()
    bench.settle()
    assert len(reads) == 1
    bench.view.open_source(SMALL.source)
    bench.settle()
    bench.view.hide()
    bench.view.show()
    bench.settle()
    assert len(reads) == 2


def test_draws_in_both_looks(bench: Bench, theme: Theme) -> None:
    bench.view.table.select([MIDDLE.source])
    light = bench.view.grab().toImage()
    theme.set_mode("dark")
    assert bench.view.grab().toImage() != light


@pytest.fixture
def jobs(qapp: object) -> Iterator[JobRunner]:
    jobs = JobRunner()
    yield jobs
    assert jobs.shut_down(5.0)


def test_stopping_the_running_job_stops_all_behind_it(qtbot: QtBot, jobs: JobRunner) -> None:
    def endless(source: str, what: str, job: Job) -> CatalogueCost:
        while True:
            job.check()

    queue = CostQueue(jobs, endless)
    queue.add("latency", [("a", "A"), ("b", "B"), ("a", "A")])
    assert queue.total == 2  # asked for twice is once
    qtbot.waitUntil(lambda: jobs.jobs()[0].elapsed > 0)
    jobs.cancel(jobs.jobs()[0].id)
    assert queue.waiting == ()
    qtbot.waitUntil(lambda: not jobs.active)


def test_the_queue_lets_others_go_first_and_then_goes_on(qtbot: QtBot, jobs: JobRunner) -> None:
    order: list[str] = []
    gate: list[bool] = []

    def ask(source: str, what: str, job: Job) -> CatalogueCost:
        while not gate:
            job.check()
        order.append(source)
        return CatalogueCost(energy=1.0)

    queue = CostQueue(jobs, ask)
    queue.add("energy", [("a", "A"), ("b", "B")])
    qtbot.waitUntil(lambda: jobs.jobs()[0].elapsed > 0)

    def urgent(job: Job) -> None:
        order.append("urgent")
        gate.append(True)

    jobs.submit("Urgent", urgent, lambda _: None, pytest.fail)
    qtbot.waitUntil(lambda: not jobs.active)
    assert order == ["urgent", "a", "b"]
    assert (queue.waiting, queue.done, queue.total) == ((), 0, 0)


def test_a_crash_ends_the_queue_and_is_told(qtbot: QtBot, jobs: JobRunner) -> None:
    def crash(source: str, what: str, job: Job) -> CatalogueCost:
        raise ZeroDivisionError

    queue = CostQueue(jobs, crash)
    failed: list[BaseException] = []
    queue.failed.connect(failed.append)
    queue.add("energy", [("a", "A"), ("b", "B")])
    qtbot.waitUntil(lambda: not jobs.active)
    assert [type(error) for error in failed] == [ZeroDivisionError]
    assert queue.waiting == ()


@pytest.mark.parametrize("crashes", [False, True])
def test_what_was_stopped_is_not_taken_for_the_next(
    qtbot: QtBot, jobs: JobRunner, crashes: bool
) -> None:
    gate: list[bool] = []

    def deaf(source: str, what: str, job: Job) -> CatalogueCost:
        while source == "a" and not gate:
            pass  # it does not notice that it was stopped
        if source == "a" and crashes:
            raise ZeroDivisionError
        return CatalogueCost(energy=1.0 if source == "a" else 2.0)

    queue = CostQueue(jobs, deaf)
    costed: list[tuple[str, float]] = []
    queue.costed.connect(lambda source, _, cost: costed.append((source, cost.energy)))
    queue.add("energy", [("a", "A")])
    qtbot.waitUntil(lambda: jobs.jobs()[0].elapsed > 0)
    queue.stop()
    queue.add("energy", [("b", "B")])
    gate.append(True)
    qtbot.waitUntil(lambda: not jobs.active)
    assert costed == [("b", 2.0)]
