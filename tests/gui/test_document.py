"""The document over a session that does what a test says: who is told of what goes wrong."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from engine import (
    Change,
    CounterInfo,
    DataInfo,
    DataRequest,
    Edit,
    EnergySettings,
    EngineError,
    Job,
    LayerId,
    MeasurementTable,
    ModelInfo,
    OpenRequest,
    Part,
    PruneChannels,
    RunSettings,
    Snapshot,
    default_hardware,
    list_hardware,
)
from engine.errors import CounterUnavailable
from gui import operations
from gui.document import Document
from gui.jobs import JobRunner
from gui.main_window import MainWindow
from gui.models.hardware_choice import hardware_id
from gui.settings import Settings
from gui.theme import Theme

WAIT = 5.0
DATA = DataRequest("data.py:make")
EDIT = PruneChannels((LayerId("stage1.block0.conv1"),), 0.5)
NO_GRADIENT = EngineError("It has no gradient.", "Measure forward alone.")


@dataclass
class Session:
    """Stands for the engine's session; each of its verbs can be held up, or told to fail."""

    snapshot: Snapshot
    problems: dict[str, Exception] = field(default_factory=dict)
    entered: threading.Event = field(default_factory=threading.Event)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    measured_under: RunSettings | None = None
    settings: list[EnergySettings] = field(default_factory=list)

    def apply(self, edit: Edit, job: Job) -> Change:
        return self._do("apply", Change(Part.LAYERS, frozenset(), self.snapshot), job)

    def measure_latency(self, job: Job, settings: RunSettings) -> Change:
        return self._do("latency", Change(Part.METRICS, frozenset(), self.snapshot), job)

    def set_energy(self, settings: EnergySettings, job: Job) -> Change:
        self.settings.append(settings)
        self._do("energy", None, job)
        current = self.snapshot.current
        current = replace(current, energy=replace(current.energy, settings=settings))
        self.snapshot = replace(self.snapshot, current=current)
        return Change(Part.METRICS, frozenset(), self.snapshot)

    def measure_zeros(self, job: Job) -> Change:
        return self._do("zeros", Change(Part.METRICS, frozenset(), self.snapshot), job)

    def measure_energy(self, job: Job, settings: RunSettings) -> Change:
        self.measured_under = settings
        return self._do("energy", Change(Part.METRICS, frozenset(), self.snapshot), job)

    def load_data(self, request: DataRequest, job: Job) -> Change:
        return self._do("load", Change(Part.DATA, frozenset(), self.snapshot), job)

    def evaluate(self, job: Job) -> Change:
        return self._do("evaluate", Change(Part.METRICS, frozenset(), self.snapshot), job)

    def preview(self, edit: Edit, job: Job) -> str:
        return self._do("effect", "effect", job)

    def channel_scores(self, edit: Edit, job: Job) -> str:
        return self._do("scores", "scores", job)

    def preview_accuracy(self, edit: Edit, job: Job) -> str:
        job.partial = "so far"
        return self._do("accuracy", "accuracy", job)

    def preview_data(self, request: DataRequest, count: int, job: Job) -> str:
        return self._do("samples", "samples", job)

    def _do(self, verb: str, result: Any, job: Job) -> Any:
        gate = self.gates.get(verb)
        if gate is not None:
            self.entered.set()
            while not gate.wait(0.005):
                job.check()
        if verb in self.problems:
            raise self.problems[verb]
        return result


@dataclass
class Bench:
    """A document whose openings give the sessions one after another."""

    qtbot: QtBot
    sessions: list[Session]
    document: Document = None  # type: ignore[assignment]
    failed: list[BaseException] = field(default_factory=list)
    unmeasured: list[tuple[str, EngineError]] = field(default_factory=list)

    def opener(self, request: OpenRequest, job: Job) -> Any:
        if not self.sessions:
            raise EngineError("There is no such model.", "Choose another.")
        return self.sessions.pop(0)

    def open(self) -> None:
        self.document.open(OpenRequest("demo"))

    def settle(self) -> None:
        self.qtbot.waitUntil(lambda: not self.document.jobs.active)


@pytest.fixture
def session(pruned: Snapshot) -> Session:
    return Session(replace(pruned, data=None))


@pytest.fixture
def other(pruned: Snapshot) -> Session:
    model = ModelInfo("other", "other", pruned.model.inputs, trained=True)
    return Session(replace(pruned, data=None, model=model))


@pytest.fixture
def bench(
    qtbot: QtBot, qapp: QApplication, session: Session, other: Session, tmp_path: Path
) -> Iterator[Bench]:
    jobs = JobRunner()
    bench = Bench(qtbot, [session, other])
    bench.document = Document(jobs, Settings(tmp_path / "settings.ini"), bench.opener)
    bench.document.failed.connect(bench.failed.append)
    bench.document.unmeasured.connect(lambda *said: bench.unmeasured.append(said))
    yield bench
    assert jobs.shut_down(WAIT)


def _unmeasured(session: Session) -> None:
    """Take the latency away, so that it is measured after opening and after each edit."""
    table = session.snapshot.current.table
    left = MeasurementTable(one for key, one in table.items() if key != "latency")
    state = replace(session.snapshot.current, table=left)
    session.snapshot = replace(session.snapshot, current=state)


def test_accuracy_of_a_draft_comes_in_parts(bench: Bench, session: Session) -> None:
    bench.open()
    bench.settle()
    gate = session.gates["accuracy"] = threading.Event()
    done: list[Any] = []
    parts: list[Any] = []
    bench.document.preview_accuracy(EDIT, done.append, parts.append)
    bench.qtbot.waitUntil(lambda: parts == ["so far"])
    assert not done
    gate.set()
    bench.settle()
    assert done == ["accuracy"]
    assert not bench.document.busy


def test_what_is_drafted_gives_way_to_the_next_draft_of_its_kind_alone(
    bench: Bench, session: Session
) -> None:
    bench.open()
    bench.settle()
    gate = session.gates["accuracy"] = threading.Event()
    answers: list[Any] = []
    bench.document.preview_accuracy(EDIT, lambda _: answers.append("stale"), lambda _: None)
    assert session.entered.wait(WAIT)
    bench.document.preview_accuracy(EDIT, answers.append, lambda _: None)
    bench.document.preview_scores(EDIT, answers.append)
    gate.set()
    bench.settle()
    assert sorted(answers) == ["accuracy", "scores"]


def test_code_is_allowed_and_told(bench: Bench) -> None:
    with bench.qtbot.waitSignal(bench.document.code_allowed):
        operations.allow_code(bench.document, "no digest of anything")


def test_measuring_by_itself_fails_quietly(bench: Bench, session: Session) -> None:
    _unmeasured(session)
    session.problems["latency"] = NO_GRADIENT
    bench.open()
    bench.settle()
    bench.document.apply(EDIT)
    bench.settle()
    assert bench.unmeasured == [("latency", NO_GRADIENT)] * 2
    assert not bench.failed
    bench.document.measure_latency()  # this the user asked for
    bench.settle()
    assert bench.failed == [NO_GRADIENT]


def test_data_that_the_user_chose_and_the_model_does_not_take_are_told_aloud(
    bench: Bench, session: Session
) -> None:
    bench.open()
    bench.settle()
    session.snapshot = replace(
        session.snapshot,
        data=DataInfo("pictures", 10, 5),
        current=replace(session.snapshot.current, table=MeasurementTable()),
    )
    session.problems["evaluate"] = mismatch = EngineError("It gives 10 scores.", "Choose others.")
    bench.document.load_data(DATA)
    bench.settle()
    assert bench.failed == [mismatch]
    assert not bench.unmeasured


def test_a_crash_while_measuring_by_itself_is_reported(bench: Bench, session: Session) -> None:
    _unmeasured(session)
    session.problems["latency"] = crash = ZeroDivisionError("a bug")
    bench.open()
    bench.settle()
    assert bench.failed == [crash]
    assert not bench.unmeasured


def test_the_status_bar_says_what_could_not_be_taken(
    bench: Bench, theme: Theme, tmp_path: Path
) -> None:
    window = MainWindow(bench.document, Settings(tmp_path / "window.ini"), theme)
    bench.qtbot.addWidget(window)
    bench.document.unmeasured.emit("latency", NO_GRADIENT)
    assert window.statusBar().currentMessage() == (
        "Latency could not be taken: It has no gradient."
    )
    window.close()


def _replace_while_loading(bench: Bench, session: Session, error: Exception) -> list[Exception]:
    """Let data fail when the next model is open already; gives what the user was asked."""
    asked: list[Exception] = []
    bench.document.answerer = lambda _, why: not asked.append(why)  # type: ignore[func-returns-value]
    bench.open()
    bench.settle()
    bench.open()
    session.problems["load"] = error
    bench.document.load_data(DATA)  # for the model that is still shown
    bench.settle()
    assert bench.document.snapshot is not None
    assert bench.document.snapshot.model.name == "other"
    return asked


def test_an_error_of_data_for_a_replaced_model_is_dropped(bench: Bench, session: Session) -> None:
    assert _replace_while_loading(bench, session, EngineError("It runs code.")) == []
    assert not bench.failed


def test_a_crash_of_data_for_a_replaced_model_is_reported(bench: Bench, session: Session) -> None:
    crash = ZeroDivisionError("a bug")
    assert _replace_while_loading(bench, session, crash) == []
    assert bench.failed == [crash]


def _ask_both(bench: Bench, session: Session) -> list[tuple[str, Any]]:
    """Ask for pictures of data, which are held up, and for an edit's effect; gives the answers."""
    answers: list[tuple[str, Any]] = []
    session.gates["samples"] = threading.Event()
    bench.open()
    bench.settle()
    bench.document.preview_data(DATA, 6, _writer(answers, "data"))
    assert session.entered.wait(WAIT)
    bench.document.preview(EDIT, _writer(answers, "edit"))
    return answers


def _writer(answers: list[tuple[str, Any]], name: str) -> Callable[[Any], None]:
    return lambda answer: answers.append((name, answer))


def test_questions_about_data_and_edits_are_both_answered(bench: Bench, session: Session) -> None:
    answers = _ask_both(bench, session)
    session.gates["samples"].set()
    bench.settle()
    assert answers == [("data", "samples"), ("edit", "effect")]


def test_dropping_the_question_about_an_edit_leaves_that_about_data(
    bench: Bench, session: Session
) -> None:
    answers = _ask_both(bench, session)
    bench.document.cancel_preview("edit")
    session.gates["samples"].set()
    bench.settle()
    assert answers == [("data", "samples")]


def test_an_opening_that_fails_leaves_the_questions(bench: Bench, session: Session) -> None:
    answers = _ask_both(bench, session)
    bench.sessions.clear()
    bench.open()
    session.gates["samples"].set()
    bench.settle()
    assert sorted(answers) == [("data", "samples"), ("edit", "effect")]
    assert len(bench.failed) == 1


def test_devices_are_looked_for_once_at_a_time_and_again_when_cancelled(
    bench: Bench, session: Session
) -> None:
    session.gates["apply"] = threading.Event()
    bench.open()
    bench.settle()
    bench.document.apply(EDIT)  # devices wait behind it
    assert session.entered.wait(WAIT)
    bench.document.find_devices()
    bench.document.find_devices()
    jobs = bench.document.jobs
    searches = [job.id for job in jobs.jobs() if job.title == "Looking for devices"]
    assert len(searches) == 1
    jobs.cancel(searches[0])
    bench.document.find_devices()
    again = [job.id for job in jobs.jobs() if job.title == "Looking for devices"]
    assert len(again) == 1
    assert again != searches
    jobs.cancel_all()
    bench.settle()


# -- energy under other settings


def test_energy_is_modelled_under_other_settings(bench: Bench) -> None:
    document = bench.document
    assert document.energy_settings is None
    bench.open()
    bench.settle()
    assert document.energy_settings == EnergySettings()
    wanted = EnergySettings(batch=16)
    with bench.qtbot.waitSignal(document.modelling_changed):
        operations.set_energy(document, wanted)
    assert document.energy_settings == wanted
    bench.settle()
    assert document.energy_settings == wanted
    assert document.snapshot is not None
    assert document.snapshot.current.energy.settings == wanted


def test_the_newest_settings_win(bench: Bench, session: Session) -> None:
    bench.open()
    bench.settle()
    gate = session.gates["energy"] = threading.Event()
    session.entered.clear()
    bench.document.set_energy(EnergySettings(batch=2))
    bench.qtbot.waitUntil(session.entered.is_set)
    bench.document.jobs.hold()  # the worker may be quicker than the next two lines
    bench.document.set_energy(EnergySettings(batch=3))
    bench.document.set_energy(EnergySettings(batch=4))
    assert bench.document.energy_settings == EnergySettings(batch=4)
    bench.document.jobs.release()
    gate.set()
    bench.settle()
    assert bench.document.energy_settings == EnergySettings(batch=4)
    assert session.settings == [EnergySettings(batch=2), EnergySettings(batch=4)]
    assert not bench.failed


def test_settings_in_force_are_not_modelled_again(bench: Bench, session: Session) -> None:
    bench.document.set_energy(EnergySettings(batch=2))  # nothing is open
    bench.open()
    bench.settle()
    bench.document.set_energy(EnergySettings())
    bench.settle()
    assert not session.settings


def test_refused_settings_leave_those_in_force(bench: Bench, session: Session) -> None:
    bench.open()
    bench.settle()
    session.problems["energy"] = refusal = EngineError("It does not run at 7.", "Choose another.")
    bench.document.set_energy(EnergySettings(batch=7))
    with bench.qtbot.waitSignal(bench.document.modelling_changed):
        bench.settle()
    assert bench.document.energy_settings == EnergySettings()
    assert bench.failed == [refusal]


def test_stopped_settings_leave_those_in_force(bench: Bench, session: Session) -> None:
    bench.open()
    bench.settle()
    session.gates["energy"] = threading.Event()
    bench.document.set_energy(EnergySettings(batch=7))
    operations.cancel_all(bench.document)
    bench.settle()
    assert bench.document.energy_settings == EnergySettings()
    assert not bench.failed


def test_a_model_is_opened_on_the_hardware_chosen_last(
    bench: Bench, session: Session, tmp_path: Path
) -> None:
    entry = next(one for one in list_hardware() if one.hardware != default_hardware())
    settings = Settings(tmp_path / "settings.ini")
    settings.hardware, settings.dataflow = hardware_id(entry), "output-stationary"
    document = Document(bench.document.jobs, settings, bench.opener)
    document.open(OpenRequest("demo"))
    bench.settle()
    assert entry.hardware is not None
    assert session.settings == [EnergySettings(entry.hardware, "output-stationary")]
    assert document.energy_settings == session.settings[0]


def test_hardware_that_is_gone_is_the_default(
    bench: Bench, session: Session, tmp_path: Path
) -> None:
    settings = Settings(tmp_path / "settings.ini")
    settings.hardware = "own/gone"
    document = Document(bench.document.jobs, settings, bench.opener)
    document.open(OpenRequest("demo"))
    bench.settle()
    assert not session.settings
    assert document.energy_settings == EnergySettings()


def test_zeros_are_measured(bench: Bench, session: Session) -> None:
    bench.open()
    bench.settle()
    session.gates["zeros"] = threading.Event()
    session.entered.clear()
    operations.measure_zeros(bench.document)
    bench.qtbot.waitUntil(session.entered.is_set)
    session.gates["zeros"].set()
    bench.settle()
    assert not bench.failed


def test_energy_is_measured_as_the_model_is_run(bench: Bench, session: Session) -> None:
    bench.open()
    bench.settle()
    bench.document.run_settings = RunSettings(batch=8)
    with bench.qtbot.waitSignal(bench.document.changed):
        bench.document.measure_energy()
    bench.settle()
    assert session.measured_under == RunSettings(batch=8)
    assert bench.failed == []


def test_without_a_counter_the_reason_and_the_command_are_reported(
    bench: Bench, session: Session
) -> None:
    bench.open()
    bench.settle()
    session.problems["energy"] = CounterUnavailable("No permission.", "Run: chmod a+r x")
    bench.document.measure_energy()
    bench.settle()
    assert [str(error) for error in bench.failed] == ["No permission."]
    assert bench.failed[0].remedy == "Run: chmod a+r x"  # type: ignore[attr-defined]


def test_counters_are_looked_for_once_at_a_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = (CounterInfo("rapl", "package 0", "the processor", "cpu"),)
    monkeypatch.setattr("engine.energy_counters", lambda: counters)
    found: list[object] = []
    bench.document.counters_found.connect(found.append)
    bench.document.find_counters()
    bench.document.find_counters()
    bench.settle()
    assert found == [counters]
