"""The document while a model is trained, over a session whose training does what a test says."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from engine import (
    ROOT,
    Change,
    DataRequest,
    Edit,
    EngineError,
    FineTune,
    HistoryEntry,
    Job,
    LayerId,
    OpenRequest,
    Part,
    PruneChannels,
    Quantity,
    Quantize,
    RoundingProgress,
    Snapshot,
    TuningProgress,
)
from gui import operations
from gui.document import Document
from gui.jobs import JobRunner
from gui.models.tuning_curve import Pace, rounding_text, stand
from gui.settings import Settings
from gui.tasks import JobState
from gui.training import GradualPruning, TrainingUnderWay

WAIT = 5.0
EDIT = PruneChannels((LayerId("stage1.block0.conv1"),), 0.5)
TUNE = FineTune((ROOT,), epochs=4)
GRADUAL = GradualPruning(EDIT, "iterative", 3, TUNE)


class Tuning:
    """Stands for the engine's: an epoch a slice, as long as it is let; the second is the best."""

    held_out = 7

    def __init__(self, edit: FineTune, resumed: bool) -> None:
        self.edit = edit
        self.resumed = resumed
        self.problem = ""
        self.epoch = 2 if resumed else 0
        self.allowed = 10_000
        self.better = True
        self.put_away: list[str] = []

    @property
    def progress(self) -> TuningProgress:
        value = Quantity(0.5, 0.4, 0.6)
        points = tuple((float(at), value) for at in range(self.epoch + 1))
        best = min(2, self.epoch) if self.better else 0
        return TuningProgress(self.epoch, self.edit.epochs, ((0.5, 1.0),), points, best)

    def step(self, job: Job, seconds: float) -> bool:
        time.sleep(0.002)
        self.epoch += self.epoch < self.allowed
        return self.epoch < self.edit.epochs

    def pause(self) -> None:
        self.put_away.append("kept")

    def discard(self) -> None:
        self.put_away.append("discarded")


class Rounding(Tuning):
    """Stands for the engine's: a quarter of a layer a slice."""

    held_out = property()  # type: ignore[assignment]  # it has none

    @property
    def progress(self) -> RoundingProgress:  # type: ignore[override]
        at = self.epoch / 4
        return RoundingProgress(LayerId("stem.conv"), at, 9, ((0.1, 0.01), (0.9, 0.4), (1.2, 0.1)))

    def step(self, job: Job, seconds: float) -> bool:
        time.sleep(0.002)
        self.epoch += self.epoch < self.allowed
        return self.epoch < 36


@dataclass
class Session:
    """Stands for the engine's session: every commit adds an edit to the history."""

    snapshot: Snapshot
    resumed: bool = False
    better: bool = True
    allowed: int = 10_000
    problem: Exception | None = None
    endless: bool = False  # applying an edit
    tunings: list[Tuning] = field(default_factory=list)
    committed: list[str] = field(default_factory=list)

    def start_tuning(self, edit: Any, job: Job) -> Tuning:
        if self.problem is not None:
            raise self.problem
        kind = Rounding if isinstance(edit, Quantize) else Tuning
        tuning = kind(edit, self.resumed)
        tuning.better, tuning.allowed = self.better, self.allowed
        self.tunings.append(tuning)
        return tuning

    def commit_tuning(self, tuning: Tuning, job: Job) -> Change:
        job.check()
        return self._commit(tuning.edit, f"tuned to epoch {tuning.epoch}")

    def scheduled(self, edit: PruneChannels, kind: str, steps: int) -> Iterator[Edit]:
        return (replace(edit, ratio=edit.ratio * at / steps) for at in range(1, steps + 1))

    def apply(self, edit: Edit, job: Job) -> Change:
        while self.endless:
            job.check()
        return self._commit(edit, "applied")

    def go_to(self, cursor: int, job: Job) -> Change:
        self.committed.append(f"went to {cursor}")
        self.snapshot = replace(self.snapshot, cursor=cursor)
        return Change(Part.HISTORY, frozenset(), self.snapshot)

    def evaluate(self, job: Job) -> Change:
        return Change(Part.METRICS, frozenset(), self.snapshot)

    def preview(self, edit: Edit, job: Job) -> str:
        return "effect"

    def _commit(self, edit: Edit, what: str) -> Change:
        self.committed.append(what)
        at = self.snapshot.cursor
        entry = HistoryEntry(edit, self.snapshot.current.table)
        current = replace(self.snapshot.current, id=f"state {len(self.committed)}")
        self.snapshot = replace(
            self.snapshot,
            current=current,
            history=(*self.snapshot.history[:at], entry),
            cursor=at + 1,
        )
        return Change(Part.LAYERS | Part.HISTORY, frozenset(), self.snapshot)


@dataclass
class Bench:
    qtbot: QtBot
    session: Session
    document: Document = None  # type: ignore[assignment]
    changes: list[Change] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)

    def settle(self) -> None:
        self.qtbot.waitUntil(lambda: not self.document.jobs.active)

    def begin(self, start: Callable[[], None], epoch: int = 1) -> Tuning:
        """Start, and wait until it has come so far."""
        start()
        self.qtbot.waitUntil(lambda: _epoch(self.document) >= epoch)
        return self.session.tunings[-1]

    def tune(self) -> Tuning:
        """Train endlessly."""
        edit = replace(TUNE, epochs=1_000_000)
        return self.begin(lambda: operations.tune(self.document, edit), 3)


def _epoch(document: Document) -> float:
    news = document.training.news
    progress = news.progress if news is not None else None
    return progress.epoch if isinstance(progress, TuningProgress) else -1


@pytest.fixture
def bench(qtbot: QtBot, qapp: QApplication, pruned: Snapshot, tmp_path: Path) -> Iterator[Bench]:
    jobs = JobRunner()
    bench = Bench(qtbot, Session(replace(pruned, data=None)))
    settings = Settings(tmp_path / "settings.ini")
    settings.measure_after_edit = False
    sessions: list[Any] = [bench.session]
    bench.document = Document(jobs, settings, lambda request, job: sessions.pop(0))
    bench.document.failed.connect(bench.failed.append)
    bench.document.open(OpenRequest("demo"))
    bench.settle()
    bench.document.changed.connect(bench.changes.append)
    yield bench
    assert jobs.shut_down(WAIT)


def test_training_ends_as_one_change(bench: Bench) -> None:
    operations.tune(bench.document, TUNE)
    assert bench.document.tuning
    bench.settle()
    assert bench.session.committed == ["tuned to epoch 4"]
    assert [change.snapshot.history[-1].edit for change in bench.changes] == [TUNE]
    assert bench.document.snapshot is bench.changes[-1].snapshot
    training = bench.document.training
    assert (training.active, training.ending, training.better) == (False, "applied", True)
    assert training.news is not None
    assert training.news.held_out == 7
    assert not bench.failed


def test_everything_but_edits_is_served_meanwhile(bench: Bench) -> None:
    tuning = bench.tune()
    answers: list[Any] = []
    bench.document.preview(EDIT, answers.append)
    bench.qtbot.waitUntil(lambda: answers == ["effect"])
    operations.evaluate(bench.document)
    bench.qtbot.waitUntil(lambda: len(bench.changes) == 1)
    before = tuning.epoch
    bench.qtbot.waitUntil(lambda: tuning.epoch > before)
    assert not bench.failed
    operations.discard_tuning(bench.document)
    bench.settle()


@pytest.mark.parametrize(
    "act",
    [
        lambda document: operations.apply_edit(document, EDIT),
        operations.undo,
        operations.redo,
        lambda document: operations.go_to(document, 0),
        lambda document: operations.apply_recipe(document, "recipe.json"),
        lambda document: operations.choose_data(document, DataRequest("digits")),
        lambda document: operations.tune(document, TUNE),
        lambda document: operations.prune_gradually(document, GRADUAL),
        lambda document: operations.open_model(document, "demo"),
    ],
)
def test_what_changes_the_model_is_refused_in_words(
    bench: Bench, act: Callable[[Document], None]
) -> None:
    bench.tune()
    assert "Stop it first" in bench.document.apply_refusal()
    act(bench.document)
    assert [type(error) for error in bench.failed] == [TrainingUnderWay]
    assert len(bench.document.jobs.jobs()) == 1  # the training
    operations.discard_tuning(bench.document)
    bench.settle()
    assert bench.document.apply_refusal() == ""
    assert not bench.changes


def test_the_window_is_told_when_edits_have_to_wait(bench: Bench) -> None:
    told: list[bool] = []
    bench.document.tuning_changed.connect(told.append)
    bench.tune()
    operations.pause_tuning(bench.document)
    operations.discard_tuning(bench.document)
    bench.settle()
    assert told == [True, False]


def test_a_pause_stops_the_epochs(bench: Bench) -> None:
    tuning = bench.tune()
    operations.pause_tuning(bench.document)
    assert bench.document.training.state is JobState.PAUSED
    assert bench.document.apply_refusal()
    bench.qtbot.wait(60)
    before = tuning.epoch
    bench.qtbot.wait(60)
    assert tuning.epoch == before
    operations.resume_tuning(bench.document)
    bench.qtbot.waitUntil(lambda: tuning.epoch > before)
    operations.discard_tuning(bench.document)
    bench.settle()


@pytest.mark.parametrize("paused", [False, True])
def test_stopped_it_keeps_the_best_so_far(bench: Bench, paused: bool) -> None:
    tuning = bench.tune()
    if paused:
        operations.pause_tuning(bench.document)
    operations.keep_tuning(bench.document)
    bench.settle()
    assert bench.session.committed == [f"tuned to epoch {tuning.epoch}"]
    assert bench.document.training.ending == "applied"
    assert len(bench.changes) == 1


def test_discarded_it_leaves_nothing(bench: Bench) -> None:
    tuning = bench.tune()
    operations.discard_tuning(bench.document)
    bench.settle()
    assert tuning.put_away == ["discarded"]
    assert bench.session.committed == []
    assert bench.document.training.ending == "discarded"


@pytest.mark.parametrize(
    "stop", [operations.cancel_all, operations.interrupt_tuning, lambda one: one.jobs.shut_down(5)]
)
def test_interrupted_it_is_put_away_for_another_time(
    bench: Bench, stop: Callable[[Document], None]
) -> None:
    tuning = bench.tune()
    stop(bench.document)
    bench.settle()
    assert tuning.put_away == ["kept"]
    assert bench.session.committed == []
    assert bench.document.training.ending in ("", "stopped")  # nobody listens after the end


def test_where_no_epoch_was_better_nothing_is_changed(bench: Bench) -> None:
    bench.session.better = False
    operations.tune(bench.document, TUNE)
    bench.settle()
    assert bench.session.committed == []
    assert bench.session.tunings[0].put_away == ["discarded"]
    assert bench.document.training.ending == "no better"
    assert not bench.changes


def test_one_taken_up_again_says_from_where(bench: Bench) -> None:
    bench.session.resumed = True
    operations.tune(bench.document, TUNE)
    bench.settle()
    assert bench.document.training.news is not None
    assert bench.document.training.news.resumed_at == 2


def test_a_refused_training_says_why(bench: Bench) -> None:
    bench.session.problem = refusal = EngineError("No data set is chosen.", "Choose one.")
    operations.tune(bench.document, TUNE)
    bench.settle()
    assert bench.failed == [refusal]
    assert bench.document.training.ending == "failed"
    assert not bench.document.tuning


ADAROUND = Quantize((LayerId("stem.conv"),), 4, rounding="adaround")


def test_roundings_are_learned_in_the_background(bench: Bench) -> None:
    operations.apply_edit(bench.document, ADAROUND)
    bench.settle()
    assert bench.session.committed == ["tuned to epoch 36"]
    assert [one.edit for one in bench.changes[-1].snapshot.history][-1] == ADAROUND
    assert bench.document.training.ending == "applied"
    news = bench.document.training.news
    assert news is not None
    assert news.progress == RoundingProgress(
        LayerId("stem.conv"), 9.0, 9, ((0.1, 0.01), (0.9, 0.4), (1.2, 0.1))
    )
    assert news.held_out == 0


def test_other_roundings_are_applied_at_once(bench: Bench) -> None:
    operations.apply_edit(bench.document, replace(ADAROUND, rounding="gptq"))
    bench.settle()
    assert bench.session.committed == ["applied"]
    assert not bench.session.tunings


def test_stopped_roundings_keep_the_layers_that_are_done(bench: Bench) -> None:
    bench.session.allowed = 6
    operations.apply_edit(bench.document, ADAROUND)
    bench.qtbot.waitUntil(lambda: bool(bench.session.tunings))
    bench.qtbot.waitUntil(lambda: bench.document.training.better)
    bench.document.stop_tuning(keep=True)
    bench.settle()
    assert bench.session.committed == ["tuned to epoch 6"]
    operations.apply_edit(bench.document, ADAROUND)
    bench.qtbot.waitUntil(lambda: bench.document.training.better)
    bench.document.stop_tuning(keep=False)
    bench.settle()
    assert len(bench.session.committed) == 1
    assert bench.session.tunings[-1].put_away == ["discarded"]


def test_what_roundings_have_won_is_told_of_whole_layers() -> None:
    progress = RoundingProgress(
        LayerId("stem.conv"), 2.5, 9, ((0.1, 0.01), (0.9, 0.4), (1.2, 0.1), (1.9, 0.6), (2.2, 0.0))
    )
    assert rounding_text(progress).startswith("Error of the layers' outputs: 50 % of that")
    assert rounding_text(replace(progress, at=0.5)) == ""
    assert stand(progress) == (2.5, 9)
    pace = Pace()
    assert pace.left(1, progress, 10.0) is None
    assert pace.left(1, replace(progress, at=3.5), 20.0) == pytest.approx(55.0)


def test_gradual_pruning_prunes_and_trains_in_turn(bench: Bench) -> None:
    operations.prune_gradually(bench.document, GRADUAL)
    bench.settle()
    assert bench.session.committed == ["applied", "tuned to epoch 4"] * 3
    assert len(bench.changes) == 6  # each is shown, once
    snapshot = bench.document.snapshot
    assert snapshot is not None
    ratios = [
        one.edit.ratio for one in snapshot.history[1::2] if isinstance(one.edit, PruneChannels)
    ]
    assert ratios == pytest.approx([0.5 / 3, 1 / 3, 0.5])
    assert bench.document.training.news is not None
    assert (bench.document.training.news.step, bench.document.training.news.of) == (3, 3)


def _second_step(bench: Bench) -> None:
    """Let the first step end, and the second one train without end."""
    bench.session.allowed = 10_000
    operations.prune_gradually(bench.document, replace(GRADUAL, tune=replace(TUNE, epochs=30)))
    bench.qtbot.waitUntil(lambda: len(bench.session.tunings) == 1)
    bench.session.allowed = 5  # the next one comes no further
    bench.qtbot.waitUntil(
        lambda: len(bench.session.tunings) == 2 and bench.session.tunings[1].epoch == 5
    )


def test_stopped_in_a_later_step_it_keeps_the_best_and_goes_no_further(bench: Bench) -> None:
    _second_step(bench)
    operations.keep_tuning(bench.document)
    bench.settle()
    assert bench.session.committed == [
        "applied", "tuned to epoch 30", "applied", "tuned to epoch 5"
    ]  # fmt: skip
    assert len(bench.changes) == 4


def test_interrupted_before_anything_was_pruned_nothing_is_told(bench: Bench) -> None:
    bench.session.endless = True
    operations.prune_gradually(bench.document, GRADUAL)
    bench.qtbot.waitUntil(lambda: bench.document.training.news is not None)
    operations.cancel_all(bench.document)
    bench.settle()
    assert bench.document.training.ending == "stopped"
    assert bench.session.committed == []
    assert not bench.changes


def test_interrupted_in_a_later_step_whole_steps_stay(bench: Bench) -> None:
    _second_step(bench)
    operations.cancel_all(bench.document)
    bench.settle()
    assert bench.document.training.ending == "stopped"
    assert bench.session.committed[-1] == "went to 3"  # one edit was there before
    assert bench.document.snapshot is bench.session.snapshot
    assert bench.session.tunings[1].put_away == ["kept"]


def test_discarded_in_a_later_step_nothing_stays(bench: Bench) -> None:
    _second_step(bench)
    operations.discard_tuning(bench.document)
    bench.settle()
    assert bench.document.training.ending == "discarded"
    assert bench.session.committed[-1] == "went to 1"
    assert bench.document.snapshot is bench.session.snapshot
    assert bench.session.tunings[1].put_away == ["discarded"]


def test_a_training_asked_for_while_another_model_opens_ends_with_the_old_one(
    bench: Bench, pruned: Snapshot
) -> None:
    release = threading.Event()

    def opener(request: OpenRequest, job: Job) -> Any:
        release.wait(WAIT)
        return Session(pruned)

    bench.document._opener = opener
    bench.document.open(OpenRequest("other"))
    operations.tune(bench.document, replace(TUNE, epochs=1_000_000))
    release.set()
    bench.settle()
    assert bench.session.committed == []
    assert bench.document.training.title == ""
    assert not bench.document.tuning
    assert not bench.failed
