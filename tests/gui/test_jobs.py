"""The model thread: order, cancelling, previews that give way, and a clean end."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from PySide6.QtCore import QThread
from PySide6.QtWidgets import QApplication, QToolButton
from pytestqt.qtbot import QtBot

from engine import Job
from gui.jobs import JobRunner, JobState
from gui.theme import Theme
from gui.views.jobs_panel import JobsPanel, job_text, time_text

WAIT = 5.0


class Gate:
    """A function for the worker that waits until it is let go, or cancelled."""

    def __init__(self, result: object = None) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.result = result

    def __call__(self, job: Job) -> object:
        self.entered.set()
        while not self.opened.wait(0.005):
            job.check()
        return self.result


class Log:
    """Callbacks that write down what they are called with."""

    def __init__(self) -> None:
        self.results: list[object] = []
        self.errors: list[BaseException] = []

    def done(self, result: object) -> None:
        self.results.append(result)

    def failed(self, error: BaseException) -> None:
        self.errors.append(error)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def jobs(qapp: QApplication) -> Iterator[JobRunner]:
    runner = JobRunner()
    yield runner
    assert runner.shut_down(WAIT)
    runner.deleteLater()


def _submit(jobs: JobRunner, log: Log, function: Callable[[Job], object]) -> int:
    return jobs.submit("Working", function, log.done, log.failed)


def _idle(qtbot: QtBot, jobs: JobRunner) -> None:
    qtbot.waitUntil(lambda: not jobs.active, timeout=5000)


def test_session_jobs_run_in_order_and_each_delivers(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    for number in range(5):
        _submit(jobs, log, lambda _, number=number: number)  # type: ignore[misc]
    assert jobs.busy
    _idle(qtbot, jobs)
    assert log.results == [0, 1, 2, 3, 4]
    assert not jobs.busy


def test_callbacks_come_on_the_threads_they_belong_to(qtbot: QtBot, jobs: JobRunner) -> None:
    threads: list[threading.Thread] = []
    jobs.submit(
        "Working",
        lambda _: threads.append(threading.current_thread()),
        lambda _: threads.append(threading.current_thread()),
        pytest.fail,
    )
    _idle(qtbot, jobs)
    assert threads[0] is not threading.main_thread()
    assert threads[1] is threading.main_thread()
    assert QThread.currentThread() == jobs.thread()


def test_an_exception_is_handed_over_with_its_traceback(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    def fail(_: Job) -> None:
        raise ValueError("no luck")

    _submit(jobs, log, fail)
    _submit(jobs, log, lambda _: "next")
    _idle(qtbot, jobs)
    assert str(log.errors[0]) == "no luck"
    assert log.errors[0].__traceback__ is not None
    assert log.results == ["next"]


def test_a_callback_that_raises_does_not_hold_up_the_next(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    def fail(_: object) -> None:
        raise ValueError("a bug in a view")

    with qtbot.captureExceptions() as caught:
        jobs.submit("Working", lambda _: None, fail, log.failed)
        _submit(jobs, log, lambda _: "next")
        _idle(qtbot, jobs)
    assert [str(error) for _, error, _ in caught] == ["a bug in a view"]
    assert log.results == ["next"]


def test_held_jobs_wait_and_can_be_cancelled(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    jobs.hold()
    entered = threading.Event()
    _submit(jobs, log, lambda _: entered.set())
    unwanted = _submit(jobs, log, lambda _: "unwanted")
    assert not entered.wait(0.05)
    assert [view.state for view in jobs.jobs()] == [JobState.WAITING, JobState.WAITING]
    jobs.cancel(unwanted)
    jobs.release()
    _idle(qtbot, jobs)
    assert entered.is_set()
    assert log.results == [None]


def test_held_jobs_do_not_hold_up_the_end(jobs: JobRunner, log: Log) -> None:
    jobs.hold()
    _submit(jobs, log, lambda _: "never")
    assert jobs.shut_down(WAIT)
    assert log.results == []


def test_a_waiting_job_is_gone_when_cancelled(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    gate = Gate("first")
    _submit(jobs, log, gate)
    second = _submit(jobs, log, lambda _: "second")
    jobs.cancel(second)
    assert len(jobs.jobs()) == 1
    gate.opened.set()
    _idle(qtbot, jobs)
    assert log.results == ["first"]


def test_a_running_job_stops_in_silence(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    gate = Gate()
    first = _submit(jobs, log, gate)
    assert gate.entered.wait(WAIT)
    jobs.cancel(first)
    assert jobs.jobs()[0].state is JobState.STOPPING
    _idle(qtbot, jobs)
    assert log.results == log.errors == []


def test_what_a_cancelled_job_has_committed_is_delivered(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    release = threading.Event()
    entered = threading.Event()

    def commit(_: Job) -> str:
        entered.set()
        release.wait(WAIT)
        return "committed"

    first = _submit(jobs, log, commit)
    assert entered.wait(WAIT)
    jobs.cancel(first)
    release.set()
    _idle(qtbot, jobs)
    assert log.results == ["committed"]


def test_the_newest_preview_replaces_the_older(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    running = Gate("running")
    jobs.preview("edit", running, log.done, log.failed)
    assert running.entered.wait(WAIT)
    jobs.preview("edit", lambda _: "waiting", log.done, log.failed)
    jobs.preview("edit", lambda _: "newest", log.done, log.failed)
    _idle(qtbot, jobs)
    assert log.results == ["newest"]
    assert not jobs.busy


def test_previews_for_different_places_leave_each_other_alone(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    data, edit = Gate("samples"), Gate("effect")
    jobs.preview("data", data, log.done, log.failed)
    assert data.entered.wait(WAIT)
    jobs.preview("edit", edit, log.done, log.failed)
    jobs.preview("edit", lambda _: "newest", log.done, log.failed)
    data.opened.set()
    _idle(qtbot, jobs)
    assert log.results == ["samples", "newest"]
    assert not edit.entered.is_set()


def test_cancelling_one_preview_leaves_the_other(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    gate = Gate()
    jobs.preview("edit", gate, log.done, log.failed)
    jobs.preview("data", lambda _: "samples", log.done, log.failed)
    assert gate.entered.wait(WAIT)
    jobs.cancel_preview("edit")
    _idle(qtbot, jobs)
    assert log.results == ["samples"]


def test_stopping_all_jobs_leaves_the_previews(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    gate = Gate()
    _submit(jobs, log, gate)
    assert gate.entered.wait(WAIT)
    jobs.preview("data", lambda _: "samples", log.done, log.failed)
    jobs.cancel_all()
    _idle(qtbot, jobs)
    assert log.results == ["samples"]


def test_a_preview_gives_way_to_a_session_job_and_comes_again(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    calls = 0
    entered = threading.Event()

    def preview(job: Job) -> str:
        nonlocal calls
        calls += 1
        entered.set()
        while calls == 1:
            job.check()
        return "preview"

    jobs.preview("edit", preview, log.done, log.failed)
    assert entered.wait(WAIT)
    _submit(jobs, log, lambda _: "edit")
    _idle(qtbot, jobs)
    assert log.results == ["edit", "preview"]
    assert calls == 2


def test_an_idle_job_gives_way_and_comes_again(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    gate = Gate("idle")
    jobs.submit("Measuring", gate, log.done, log.failed, idle=True)
    assert gate.entered.wait(WAIT)
    jobs.preview("edit", lambda _: "preview", log.done, log.failed)
    qtbot.waitUntil(lambda: log.results == ["preview"])
    assert jobs.jobs()[0].state is not JobState.STOPPING
    _submit(jobs, log, lambda _: "edit")
    qtbot.waitUntil(lambda: log.results == ["preview", "edit"])
    gate.opened.set()
    _idle(qtbot, jobs)
    assert log.results == ["preview", "edit", "idle"]


def test_an_idle_job_that_gives_way_can_be_cancelled(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    gate = Gate("idle")
    idle = jobs.submit("Measuring", gate, log.done, log.failed, idle=True)
    assert gate.entered.wait(WAIT)
    _submit(jobs, log, lambda _: "edit")
    jobs.cancel(idle)
    _idle(qtbot, jobs)
    assert log.results == ["edit"]


def test_a_cancelled_preview_never_answers(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    gate = Gate()
    jobs.preview("edit", gate, log.done, log.failed)
    assert gate.entered.wait(WAIT)
    jobs.cancel_preview("edit")
    _idle(qtbot, jobs)
    assert log.results == log.errors == []


def test_shutting_down_ends_the_thread_and_drops_what_waits(jobs: JobRunner, log: Log) -> None:
    gate = Gate()
    _submit(jobs, log, gate)
    _submit(jobs, log, lambda _: "never")
    assert gate.entered.wait(WAIT)
    assert jobs.shut_down(WAIT)
    assert log.results == []
    assert not jobs.active


def test_shutting_down_reports_a_job_that_does_not_notice(qapp: QApplication, log: Log) -> None:
    jobs = JobRunner()
    entered, release = threading.Event(), threading.Event()
    jobs.submit("Deaf", lambda _: entered.set() or release.wait(WAIT), log.done, log.failed)
    assert entered.wait(WAIT)
    assert not jobs.shut_down(0.05)
    release.set()
    assert jobs.shut_down(WAIT)


def test_the_timer_rests_while_there_is_nothing_to_do(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    _submit(jobs, log, lambda _: None)
    with qtbot.waitSignal(jobs.idled):
        pass
    with qtbot.assertNotEmitted(jobs.progressed, wait=150):
        pass


def test_progress_is_polled_from_the_job(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    gate = Gate()

    def work(job: Job) -> object:
        job.begin("reading", 4)
        job.advance(3)
        return gate(job)

    _submit(jobs, log, work)
    qtbot.waitUntil(lambda: jobs.jobs()[0].fraction == 0.75)
    view = jobs.jobs()[0]
    assert (view.title, view.text, view.state) == ("Working", "reading", JobState.RUNNING)
    assert job_text(view) == "Working: reading 75 %"
    gate.opened.set()
    _idle(qtbot, jobs)


def test_the_panel_shows_only_what_takes_its_time(
    qtbot: QtBot, jobs: JobRunner, log: Log, theme: Theme, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = JobsPanel(jobs, theme)
    qtbot.addWidget(panel)
    gate = Gate()
    _submit(jobs, log, gate)
    assert gate.entered.wait(WAIT)
    jobs.progressed.emit()
    assert panel.isHidden()
    monkeypatch.setattr("gui.views.jobs_panel.SHOWN_AFTER", 0.0)
    jobs.progressed.emit()
    assert not panel.isHidden()
    stop = panel.findChild(QToolButton, "job_cancel")
    assert isinstance(stop, QToolButton)
    stop.click()
    _idle(qtbot, jobs)
    assert panel.isHidden()


def test_time_left_is_told_after_three_seconds(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    gate = Gate()
    _submit(jobs, log, gate)
    assert gate.entered.wait(WAIT)
    view = replace(jobs.jobs()[0], state=JobState.RUNNING, remaining=65.0)
    assert time_text(replace(view, elapsed=0.1)) == ""
    assert time_text(replace(view, elapsed=2.0)) == "0:02"
    assert time_text(replace(view, elapsed=4.0)) == "1:05 left"
    gate.opened.set()
    _idle(qtbot, jobs)
