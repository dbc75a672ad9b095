"""The model thread: order, cancelling, previews that give way, and a clean end."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from PySide6.QtCore import QThread
from PySide6.QtWidgets import QApplication, QToolButton
from pytestqt.qtbot import QtBot

from engine import Cancelled, EngineError, Job
from gui.jobs import JobRunner
from gui.tasks import JobState, Slices
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


class Counter:
    """Counts in slices until it is told to end, and writes down how it went."""

    def __init__(self, most: int = 10_000) -> None:
        self.most = most
        self.done = 0
        self.starts = 0
        self.enough = threading.Event()
        self.ended: list[str] = []
        self.problem: Exception | None = None

    def __call__(self, job: Job) -> Slices[int]:
        self.starts += 1
        job.begin("counting", self.most)
        try:
            while self.done < self.most and not self.enough.is_set():
                yield
                self._count(job)
        except Cancelled:
            self.ended.append(f"cancelled on {threading.current_thread().name}")
            raise
        return self.done

    def _count(self, job: Job) -> None:
        if self.problem is not None:
            raise self.problem
        time.sleep(0.001)
        self.done += 1
        job.partial = (self.done,)
        job.advance()


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


# -- work in slices


def _background(jobs: JobRunner, log: Log, work: Callable[[Job], Slices[int]]) -> int:
    return jobs.submit_background("Counting", work, log.done, log.failed)


def test_background_work_ends_with_its_result(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    counter = Counter(7)
    _background(jobs, log, counter)
    assert jobs.busy
    _idle(qtbot, jobs)
    assert log.results == [7]
    assert not log.errors


def test_background_work_serves_everything_else_between_its_slices(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    counter = Counter()
    number = _background(jobs, log, counter)
    qtbot.waitUntil(lambda: counter.done > 2)
    jobs.preview("edit", lambda _: "preview", log.done, log.failed)
    qtbot.waitUntil(lambda: log.results == ["preview"])
    _submit(jobs, log, lambda _: "session")
    qtbot.waitUntil(lambda: log.results == ["preview", "session"])
    jobs.submit("Measuring", lambda _: "idle", log.done, log.failed, idle=True)
    qtbot.waitUntil(lambda: log.results == ["preview", "session", "idle"])
    before = counter.done
    qtbot.waitUntil(lambda: counter.done > before)
    assert counter.starts == 1
    jobs.cancel(number)
    _idle(qtbot, jobs)


def test_a_session_job_does_not_wait_for_background_work_to_end(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    """The slices stand still while it runs, and no slice is lost or done twice."""
    counter = Counter()
    _background(jobs, log, counter)
    qtbot.waitUntil(lambda: counter.done > 2)
    seen: list[int] = []

    def work(_: Job) -> None:
        seen.append(counter.done)
        time.sleep(0.05)
        seen.append(counter.done)

    _submit(jobs, log, work)
    qtbot.waitUntil(lambda: len(seen) == 2)
    assert seen[0] == seen[1]
    counter.enough.set()
    _idle(qtbot, jobs)
    assert log.results == [None, counter.done]


def test_paused_background_work_rests_and_goes_on(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    counter = Counter()
    number = _background(jobs, log, counter)
    qtbot.waitUntil(lambda: counter.done > 2)
    with qtbot.waitSignal(jobs.jobs_changed):
        jobs.pause(number)
    assert jobs.jobs()[0].state is JobState.PAUSED
    _submit(jobs, log, lambda _: "session")  # is served all the same
    qtbot.waitUntil(lambda: log.results == ["session"])
    before, worked = counter.done, jobs.jobs()[0].elapsed
    qtbot.wait(60)
    assert counter.done == before
    assert jobs.jobs()[0].elapsed == worked
    jobs.resume(number)
    assert jobs.jobs()[0].state is JobState.RUNNING
    qtbot.waitUntil(lambda: counter.done > before)
    counter.enough.set()
    _idle(qtbot, jobs)
    assert log.results == ["session", counter.done]


def test_background_work_can_be_paused_before_it_begins(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    gate, counter = Gate("first"), Counter(3)
    _submit(jobs, log, gate)
    number = _background(jobs, log, counter)
    jobs.pause(number)
    gate.opened.set()
    qtbot.waitUntil(lambda: log.results == ["first"])
    qtbot.wait(60)
    assert counter.starts == 0
    jobs.resume(number)
    _idle(qtbot, jobs)
    assert log.results == ["first", 3]


def test_cancelled_background_work_unwinds_on_the_model_thread(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    counter = Counter()
    number = _background(jobs, log, counter)
    qtbot.waitUntil(lambda: counter.done > 2)
    jobs.cancel(number)
    assert jobs.jobs()[0].state is JobState.STOPPING
    _idle(qtbot, jobs)
    assert counter.ended == ["cancelled on secateur-model"]
    assert log.results == log.errors == []


def test_paused_background_work_unwinds_when_cancelled(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    counter = Counter()
    number = _background(jobs, log, counter)
    qtbot.waitUntil(lambda: counter.done > 2)
    jobs.pause(number)
    qtbot.wait(30)  # no slice is running by now
    jobs.cancel(number)
    _idle(qtbot, jobs)
    assert counter.ended == ["cancelled on secateur-model"]


def test_background_work_that_has_not_begun_is_gone_when_cancelled(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    gate, counter = Gate("first"), Counter(3)
    _submit(jobs, log, gate)
    number = _background(jobs, log, counter)
    jobs.cancel(number)
    assert len(jobs.jobs()) == 1
    gate.opened.set()
    _idle(qtbot, jobs)
    assert counter.starts == 0


def test_an_error_in_a_slice_is_handed_over(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    counter = Counter()
    counter.problem = ValueError("no luck")
    _background(jobs, log, counter)
    _idle(qtbot, jobs)
    assert [str(error) for error in log.errors] == ["no luck"]
    _background(jobs, log, Counter(2))  # and the next one works
    _idle(qtbot, jobs)
    assert log.results == [2]


def test_an_error_before_the_first_slice_does_not_end_the_thread(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    def fail(_: Job) -> Slices[int]:
        raise SystemExit(3)

    _background(jobs, log, fail)
    _submit(jobs, log, lambda _: "next")
    _idle(qtbot, jobs)
    assert [type(error) for error in log.errors] == [SystemExit]
    assert log.results == ["next"]


def test_a_second_background_job_is_refused_in_words(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    number = _background(jobs, log, Counter())
    with pytest.raises(EngineError, match="Counting") as refused:
        _background(jobs, log, Counter())
    assert refused.value.remedy
    jobs.cancel(number)
    _idle(qtbot, jobs)


@pytest.mark.parametrize("paused", [False, True])
def test_shutting_down_unwinds_background_work(
    qtbot: QtBot, jobs: JobRunner, log: Log, paused: bool
) -> None:
    counter = Counter()
    number = _background(jobs, log, counter)
    qtbot.waitUntil(lambda: counter.done > 2)
    if paused:
        jobs.pause(number)
    assert jobs.shut_down(WAIT)
    assert counter.ended == ["cancelled on secateur-model"]
    assert log.results == log.errors == []
    assert not jobs.active


def test_partial_results_are_handed_over_once_each(qtbot: QtBot, jobs: JobRunner, log: Log) -> None:
    partials: list[tuple[int]] = []
    counter = Counter()
    jobs.submit_background("Counting", counter, log.done, log.failed, partials.append)
    qtbot.waitUntil(lambda: len(partials) >= 3)
    assert partials == sorted(set(partials))
    assert jobs.jobs()[0].partial >= partials[-1]
    counter.enough.set()
    _idle(qtbot, jobs)


def test_the_last_partial_result_comes_before_the_whole(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    """Also of a task that ends while another one's result is being handed over."""
    release = threading.Event()

    def work(job: Job) -> str:
        release.wait(WAIT)
        job.partial = "last"
        return "whole"

    def hold_up(_: object) -> None:
        release.set()
        time.sleep(0.1)

    jobs.submit("Working", lambda _: None, hold_up, log.failed)
    jobs.preview("accuracy", work, log.done, log.failed, log.done)
    _idle(qtbot, jobs)
    assert log.results == ["last", "whole"]


def test_partial_results_of_a_preview_come_until_it_is_cancelled(
    qtbot: QtBot, jobs: JobRunner, log: Log
) -> None:
    partials: list[str] = []
    gate = Gate("whole")

    def work(job: Job) -> object:
        job.partial = "half"
        return gate(job)

    jobs.preview("accuracy", work, log.done, log.failed, partials.append)
    qtbot.waitUntil(lambda: partials == ["half"])
    qtbot.wait(60)
    assert partials == ["half"]
    gate.opened.set()
    _idle(qtbot, jobs)
    assert log.results == ["whole"]
    gate.opened.clear()
    gate.entered.clear()
    jobs.preview("accuracy", work, log.done, log.failed, partials.append)
    assert gate.entered.wait(WAIT)
    jobs.cancel_preview("accuracy")
    _idle(qtbot, jobs)
    assert partials == ["half"]


def test_the_panel_pauses_background_work(
    qtbot: QtBot, jobs: JobRunner, log: Log, theme: Theme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gui.views.jobs_panel.SHOWN_AFTER", 0.0)
    panel = JobsPanel(jobs, theme)
    qtbot.addWidget(panel)
    counter = Counter()
    _background(jobs, log, counter)
    qtbot.waitUntil(lambda: counter.done > 2)
    jobs.progressed.emit()
    pause = panel.findChild(QToolButton, "job_pause")
    assert isinstance(pause, QToolButton)
    assert not pause.isHidden()
    pause.click()
    assert jobs.jobs()[0].state is JobState.PAUSED
    assert job_text(jobs.jobs()[0]) == "Counting (paused)"
    assert pause.toolTip() == "Go on"
    pause.click()
    assert jobs.jobs()[0].state is JobState.RUNNING
    counter.enough.set()
    _idle(qtbot, jobs)


def test_only_work_in_slices_can_be_paused(
    qtbot: QtBot, jobs: JobRunner, log: Log, theme: Theme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gui.views.jobs_panel.SHOWN_AFTER", 0.0)
    panel = JobsPanel(jobs, theme)
    qtbot.addWidget(panel)
    gate = Gate()
    number = _submit(jobs, log, gate)
    assert gate.entered.wait(WAIT)
    jobs.pause(number)
    assert jobs.jobs()[0].state is JobState.RUNNING
    pause = panel.findChild(QToolButton, "job_pause")
    assert isinstance(pause, QToolButton)
    assert pause.isHidden()
    gate.opened.set()
    _idle(qtbot, jobs)
