"""The panel that wins accuracy back: what it asks for, what it refuses, and its curves."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QPointF, Qt
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QPushButton,
    QSpinBox,
    QToolButton,
)
from pytestqt.qtbot import QtBot

from engine import (
    ROOT,
    DataInfo,
    Device,
    Edit,
    FineTune,
    FoldNorms,
    LayerId,
    Part,
    PruneChannels,
    PruneWeights,
    Quantity,
    RecalibrateNorms,
    Snapshot,
    TuningProgress,
)
from gui.models.tuning_curve import (
    Pace,
    accuracy_range,
    ends,
    epoch_text,
    loss_range,
    nearest,
    point_text,
    summary_text,
    table,
)
from gui.selection import Selection
from gui.tasks import JobState
from gui.theme import Theme
from gui.training import GradualPruning, TrainingNews
from gui.views.recovery_panel import RecoveryPanel, RecoveryTab
from gui.views.tuning_plot import TuningPlot
from gui.views.tuning_view import TuningView

CONV = LayerId("stage1.block0.conv1")
CUT = PruneChannels((CONV,), 0.5)
PROGRESS = TuningProgress(
    2.5,
    4,
    ((0.5, 2.0), (1.0, 1.0), (1.5, 0.5), (2.0, 0.25)),
    (
        (0.0, Quantity(0.62, 0.57, 0.67)),
        (1.0, Quantity(0.93, 0.90, 0.95)),
        (2.0, Quantity(0.91, 0.88, 0.94)),
    ),
    1,
)


class Desk:
    """A panel with data chosen, over a document that writes down what it is asked."""

    def __init__(self, qtbot: QtBot, document: Any, selection: Selection, theme: Theme) -> None:
        self.document = document
        document.snapshot = replace(document.snapshot, data=DataInfo("digits", 1347, 450))
        self.planned: Edit | None = CUT
        self.selection = selection
        self.panel = RecoveryPanel(document, selection, theme, lambda: self.planned)
        qtbot.addWidget(self.panel)
        self.panel.resize(340, 520)
        self.panel.show()

    def find(self, kind: type[Any], name: str) -> Any:
        widget = self.panel.findChild(kind, name)
        assert isinstance(widget, kind), name
        return widget

    def start(self, tab: RecoveryTab) -> list[tuple[str, object]]:
        self.panel.show_tab(tab)
        self.document.calls.clear()
        self.find(QPushButton, "startRecovery").click()
        calls: list[tuple[str, object]] = self.document.calls
        return calls

    def text(self, name: str) -> str:
        """What that label shows; empty while it is hidden."""
        label = self.find(QLabel, name)
        return label.text() if label.isVisible() else ""

    def train(self, state: JobState | None, **news: Any) -> None:
        """Let a training stand so."""
        training = self.document.training
        told = training.active
        training.title, training.state = "Fine-tune for 4 epochs", state
        training.news = TrainingNews(**{"progress": PROGRESS, "held_out": 135, **news})
        self.document.refusal = "Stop it first." if state is not None else ""
        if told != training.active:
            self.document.tuning_changed.emit(training.active)
        training.changed.emit()


@pytest.fixture
def desk(
    qtbot: QtBot, fake_document: Any, base: Snapshot, selection: Selection, theme: Theme
) -> Desk:
    fake_document.snapshot = base
    return Desk(qtbot, fake_document, selection, theme)


def test_training_is_asked_for_as_the_form_says(desk: Desk) -> None:
    assert desk.start("tune") == [("tune", FineTune((ROOT,)))]
    desk.find(QSpinBox, "tune_epochs").setValue(12)
    desk.find(QDoubleSpinBox, "tune_learning_rate").setValue(0.0005)
    desk.find(QComboBox, "tune_optimizer").setCurrentIndex(1)
    desk.find(QComboBox, "tune_schedule").setCurrentIndex(1)
    desk.find(QDoubleSpinBox, "tune_distillation").setValue(40)
    desk.find(QSpinBox, "tune_samples").setValue(500)
    desk.find(QSpinBox, "tune_batch").setValue(32)
    desk.find(QSpinBox, "tune_seed").setValue(7)
    wanted = FineTune(
        (ROOT,), 12, 0.0005, "adamw", "constant", distillation=0.4, batch=32, samples=500, seed=7
    )
    assert desk.start("tune") == [("tune", wanted)]


def test_small_rates_are_written_as_short_as_they_are(desk: Desk) -> None:
    rate = desk.find(QDoubleSpinBox, "tune_learning_rate")
    assert rate.text() == "0.01"
    rate.setValue(0.0001)
    assert rate.text() == "0.0001"


def test_what_is_seldom_asked_for_is_folded_away(desk: Desk) -> None:
    batch, temperature = (desk.find(kind, name) for kind, name in (
        (QSpinBox, "tune_batch"), (QDoubleSpinBox, "tune_temperature"),
    ))  # fmt: skip
    assert not batch.isVisible()
    desk.find(QToolButton, "moreSettings").click()
    assert batch.isVisible()
    assert not temperature.isVisible()
    desk.find(QDoubleSpinBox, "tune_distillation").setValue(40)
    assert temperature.isVisible()


def test_the_selection_can_be_trained_alone(desk: Desk) -> None:
    layers = desk.find(QComboBox, "tune_layers")
    item = layers.model().item(1)
    assert not item.isEnabled()
    inner = LayerId("stage1.block0")
    desk.selection.set((LayerId("stage1"), inner, LayerId("head.fc")))
    assert layers.itemText(1) == "the 2 selected layers"  # one lies within another
    layers.setCurrentIndex(1)
    (call,) = desk.start("tune")
    assert call == ("tune", FineTune((LayerId("stage1"), LayerId("head.fc"))))
    desk.selection.set(())
    assert layers.currentIndex() == 0
    assert desk.start("tune") == [("tune", FineTune((ROOT,)))]


def test_devices_that_are_missing_say_why(desk: Desk) -> None:
    assert ("find_devices", None) in desk.document.calls
    desk.document.devices_found.emit(
        (Device("cpu", "Processor"), Device("cuda", "GPU", "There is no driver."))
    )
    box = desk.find(QComboBox, "tune_device")
    assert [box.itemText(at) for at in range(box.count())] == ["cpu", "cuda"]
    assert not box.model().item(1).isEnabled()
    assert "no driver" in box.itemData(1, Qt.ItemDataRole.ToolTipRole)


def test_batch_norms_are_recalibrated(desk: Desk) -> None:
    desk.find(QSpinBox, "norm_samples").setValue(200)
    assert desk.start("norms") == [("apply", RecalibrateNorms((ROOT,), 200))]


def test_a_model_without_batch_norms_says_so(desk: Desk) -> None:
    snapshot: Snapshot = desk.document.snapshot
    tree = type(snapshot.current.tree)(
        one for one in snapshot.current.tree if one.kind != "BatchNorm2d"
    )
    desk.document.show(replace(snapshot, current=replace(snapshot.current, tree=tree)))
    assert desk.start("norms") == []
    assert "no batch norm" in desk.text("recoveryHint")


def test_gradual_pruning_goes_to_the_planned_edit(desk: Desk) -> None:
    desk.find(QSpinBox, "tune_epochs").setValue(9)
    desk.find(QSpinBox, "gradual_steps").setValue(5)
    desk.find(QSpinBox, "gradual_epochs").setValue(2)
    desk.find(QComboBox, "gradual_kind").setCurrentIndex(1)
    wanted = GradualPruning(CUT, "iterative", 5, FineTune((ROOT,), epochs=2))
    assert desk.start("gradual") == [("prune_gradually", wanted)]
    assert "50 % of channels" in desk.text("gradualEdit")
    desk.planned = weights = PruneWeights((CONV,), 0.8)
    assert desk.start("gradual") == [("prune_gradually", replace(wanted, edit=weights))]


@pytest.mark.parametrize("planned", [None, FoldNorms((CONV,))])
def test_without_a_ratio_nothing_can_be_pruned_gradually(desk: Desk, planned: Edit | None) -> None:
    desk.planned = planned
    assert desk.start("gradual") == []
    assert "panel Layer" in desk.text("recoveryHint")


@pytest.mark.parametrize("tab", ["tune", "norms", "gradual"])
def test_without_data_it_says_what_to_do(desk: Desk, tab: RecoveryTab) -> None:
    desk.document.show(replace(desk.document.snapshot, data=None))
    assert desk.start(tab) == []
    assert "Choose data first" in desk.text("recoveryHint")


def test_without_a_model_it_says_what_to_do(desk: Desk) -> None:
    desk.document.snapshot = None
    desk.panel.refresh()
    assert desk.start("tune") == []
    assert desk.text("recoveryHint") == "Open a model first."


def test_while_training_it_offers_to_pause_and_to_stop(desk: Desk) -> None:
    pause, stop = (desk.find(QPushButton, name) for name in ("pauseTraining", "stopTraining"))
    assert not pause.isVisible()
    desk.train(JobState.RUNNING)
    assert desk.panel.current == "curves"
    assert pause.isVisible()
    desk.document.calls.clear()
    pause.click()
    desk.train(JobState.PAUSED)
    assert pause.text() == "Go on"
    pause.click()
    keep, discard = stop.menu().actions()
    keep.trigger()
    discard.trigger()
    assert desk.document.calls == [
        ("pause_tuning", None),
        ("resume_tuning", None),
        ("stop_tuning", True),
        ("stop_tuning", False),
    ]
    desk.panel.show_tab("norms")
    assert not desk.find(QPushButton, "startRecovery").isVisible()
    assert desk.text("recoveryHint") == "Stop it first."
    desk.train(None)
    assert not pause.isVisible()
    assert desk.find(QPushButton, "startRecovery").isVisible()


def test_there_is_nothing_to_keep_before_an_epoch_was_better(desk: Desk) -> None:
    keep = desk.find(QPushButton, "stopTraining").menu().actions()[0]
    desk.train(JobState.RUNNING, progress=replace(PROGRESS, best=0))
    assert not keep.isEnabled()
    desk.train(JobState.RUNNING)
    assert keep.isEnabled()


@pytest.mark.parametrize(
    ("state", "news", "text"),
    [
        (JobState.WAITING, {}, "waiting for other jobs"),
        (JobState.STOPPING, {}, "stopping…"),
        (JobState.RUNNING, {}, "epoch 2.5 of 4"),
        (JobState.PAUSED, {}, "epoch 2.5 of 4 · paused"),
        (JobState.RUNNING, {"resumed_at": 2.0}, "epoch 2.5 of 4 · taken up again after epoch 2"),
        (JobState.RUNNING, {"step": 2, "of": 3}, "step 2 of 3 · epoch 2.5 of 4"),
        (JobState.RUNNING, {"step": 2, "of": 3, "progress": None}, "step 2 of 3: pruning"),
    ],
)
def test_it_says_where_the_training_stands(
    desk: Desk, state: JobState, news: dict[str, Any], text: str
) -> None:
    desk.train(state, **news)
    assert desk.text("trainingState") == text


def test_time_left_follows_from_the_pace(desk: Desk) -> None:
    desk.document.training.seconds = 10.0
    desk.train(JobState.RUNNING, progress=replace(PROGRESS, epoch=1.0))
    assert "left" not in desk.text("trainingState")  # nothing was seen of its pace yet
    desk.document.training.seconds = 40.0
    desk.train(JobState.RUNNING, progress=replace(PROGRESS, epoch=2.0))
    assert desk.text("trainingState") == "epoch 2.0 of 4 · 1:00 left"


def test_it_says_what_is_held_out_and_what_could_be_lost(desk: Desk) -> None:
    assert desk.text("trainingNote") == ""
    desk.train(JobState.RUNNING, problem="After a crash it would start anew.")
    assert desk.text("trainingNote").startswith("135 samples held out of the training split")
    assert "validation data are not touched" in desk.text("trainingNote")
    assert "start anew" in desk.text("trainingNote")


def test_the_result_is_told_on_validation_data_once_it_is_known(desk: Desk) -> None:
    before: Snapshot = desk.document.snapshot
    desk.train(JobState.RUNNING)
    accuracy = before.current.table["accuracy"]
    after = replace(
        before,
        current=replace(before.current, id="tuned", table=before.current.table.without("accuracy")),
    )
    desk.document.show(after, Part.LAYERS)
    desk.document.training.ending = "applied"
    desk.train(None, changes=(_change(after),))
    assert desk.text("trainingResult") == ""
    better = replace(accuracy, total=Quantity(0.991, 0.985, 0.995))
    known = replace(
        after, current=replace(after.current, table=after.current.table.with_series(better))
    )
    desk.document.show(known, Part.METRICS)
    assert desk.text("trainingResult") == "accuracy 98.4 % → 99.1 % ±0.5 (validation)"
    assert desk.text("trainingState") == "applied with the weights of the best epoch"
    desk.document.show(before, Part.HISTORY)  # another state is shown
    assert desk.text("trainingResult") == ""


def _change(snapshot: Snapshot) -> Any:
    from engine import Change

    return Change(Part.LAYERS, frozenset(), snapshot)


# -- the curves


@pytest.fixture
def view(qtbot: QtBot, theme: Theme) -> TuningView:
    view = TuningView(theme)
    qtbot.addWidget(view)
    view.resize(320, 300)
    view.show()
    return view


def _plot(view: TuningView) -> TuningPlot:
    plot = view.findChild(TuningPlot, "tuningPlot")
    assert isinstance(plot, TuningPlot)
    return plot


def test_the_mouse_reads_both_curves_out(view: TuningView) -> None:
    view.show_progress(PROGRESS)
    caption = view.findChild(QLabel, "tuningCaption")
    assert isinstance(caption, QLabel)
    assert caption.text() == "held out 62.0 % → 93.0 % ±2.5 (epoch 1)"
    plot = _plot(view)
    plot.hovered.emit(1.1)
    assert caption.text() == "epoch 1: 93.0 % ±2.5, the best · loss 1 at 1.00"
    plot.hovered.emit(-1.0)
    assert caption.text().startswith("held out")


def test_a_place_in_either_plot_is_an_epoch(view: TuningView) -> None:
    plot = _plot(view)
    assert plot.epoch_at(QPointF(160, 100)) >= 0
    view.show_progress(PROGRESS)
    for one in (plot._upper, plot._lower):
        box = one.getViewBox()
        place = box.mapViewToScene(QPointF(2.0, sum(box.viewRange()[1]) / 2))
        assert plot.epoch_at(place) == pytest.approx(2.0)
    assert plot.epoch_at(QPointF(-5, -5)) < 0


def test_both_plots_show_all_epochs_from_the_start(view: TuningView) -> None:
    view.show_progress(PROGRESS)
    plot = _plot(view)
    for one in (plot._upper, plot._lower):
        low, high = one.getViewBox().viewRange()[0]
        assert low <= 0 < 4 <= high
    left = [one.getViewBox().sceneBoundingRect().left() for one in (plot._upper, plot._lower)]
    assert left[0] == left[1]  # the epochs lie above one another


def test_it_is_emptied_and_follows_the_theme(view: TuningView, theme: Theme) -> None:
    view.show_progress(PROGRESS)
    theme.set_mode("dark")
    view.show_progress(None)
    assert _plot(view).progress is None
    menu = view.make_menu()
    assert not any(action.isEnabled() for action in menu.actions())
    menu.close()
    menu.deleteLater()


def test_points_are_numbers_for_files() -> None:
    assert table(PROGRESS) == [
        ["epoch", "training loss", "held-out accuracy", "low", "high"],
        [0.0, None, 0.62, 0.57, 0.67],
        [0.5, 2.0, None, None, None],
        [1.0, 1.0, 0.93, 0.90, 0.95],
        [1.5, 0.5, None, None, None],
        [2.0, 0.25, 0.91, 0.88, 0.94],
    ]


def test_words_for_moments() -> None:
    assert epoch_text(0) == "before training"
    assert epoch_text(2.0) == "epoch 2"
    assert epoch_text(2.44) == "epoch 2.4"
    assert summary_text(replace(PROGRESS, best=0)) == (
        "held out 62.0 % ±5.0; no epoch was better so far"
    )
    assert summary_text(replace(PROGRESS, accuracies=())) == ""
    assert point_text(replace(PROGRESS, losses=()), 0.2) == "before training: 62.0 % ±5.0"


shares = st.floats(0, 1)


@given(st.lists(st.tuples(shares, shares, shares).map(sorted), max_size=6))
def test_the_axis_of_accuracy_holds_every_interval(values: list[list[float]]) -> None:
    points = tuple(
        (float(at), Quantity(middle, low, high)) for at, (low, middle, high) in enumerate(values)
    )
    low, high = accuracy_range(replace(PROGRESS, accuracies=points))
    assert high - low >= 0.02 - 1e-12
    assert all(low <= ends(value)[0] <= ends(value)[1] <= high for _, value in points)


@given(st.lists(st.floats(-10, 1e6), max_size=6))
def test_the_axis_of_the_loss_holds_every_loss(values: list[float]) -> None:
    points = tuple((float(at), value) for at, value in enumerate(values))
    low, high = loss_range(replace(PROGRESS, losses=points))
    assert low <= 0
    assert low < high
    assert all(low <= value <= high for value in values)


def test_the_nearest_point() -> None:
    assert nearest((), 1.0) == -1
    assert nearest(((0.0, None), (1.0, None), (2.0, None)), 1.4) == 1


def test_the_pace_begins_anew_with_each_step() -> None:
    pace, progress = Pace(), replace(PROGRESS, epoch=0.0)
    assert pace.left(1, progress, 5.0) is None
    assert pace.left(1, replace(progress, epoch=1.0), 7.0) == pytest.approx(6.0)
    assert pace.left(2, progress, 15.0) is None
    assert pace.left(2, replace(progress, epoch=2.0), 19.0) == pytest.approx(4.0)
