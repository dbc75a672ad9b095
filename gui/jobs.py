"""The only threads: one worker owns the model, the window polls what it reports.

Three kinds of task share that thread. *Session jobs* run in the order in which they were
submitted, and each delivers its result. Of the *previews* for one place only the newest counts.
*Idle jobs* are what nobody waits for, such as measuring after an edit. A task that comes stops one
of a later kind, which takes its turn again afterwards.
"""

import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from threading import Condition, Thread
from typing import Any, TypeVar

from PySide6.QtCore import QObject, QTimer, Signal

from engine import Cancelled, Job
from gui.garbage import WindowCollector

T = TypeVar("T")

POLL_INTERVAL_MS = 30


class JobState(Enum):
    """Where a job stands; finished jobs are no longer listed."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"


class _Kind(IntEnum):
    """In the order in which the worker takes them."""

    SESSION = 0
    PREVIEW = 1
    IDLE = 2


@dataclass(frozen=True)
class JobView:
    """A job as a panel may show it.

    Attributes:
        text: the stage it is in, in its own words.
        fraction: share of the stage that is done, 0 to 1; None while the amount is unknown.
        age: seconds since it was submitted.
        elapsed: seconds since it was started.
        remaining: seconds the stage still takes if it goes on like this; None when unknown.
    """

    id: int
    title: str
    text: str
    fraction: float | None
    age: float
    elapsed: float
    remaining: float | None
    state: JobState


@dataclass(eq=False)
class _Task:
    """A function on its way through the worker.

    Attributes:
        slot: the place that a preview is for; those of different places know nothing of each other.
        withdrawn: nobody wants it any more.
        preempted: it was stopped for another task, and starts again behind that.
        result, error: what became of it; written by the worker.
    """

    id: int
    title: str
    function: Callable[[Job], Any]
    on_done: Callable[[Any], None]
    on_error: Callable[[BaseException], None]
    kind: _Kind = _Kind.SESSION
    slot: str = ""
    withdrawn: bool = False
    preempted: bool = False
    job: Job = field(default_factory=Job)
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    stage: tuple[str, int] = ("", 0)
    stage_started: float = 0.0
    result: Any = None
    error: BaseException | None = None

    def run(self) -> None:
        """Call the function on this thread; what it raises is kept, not raised."""
        self.started = time.monotonic()
        try:
            self.job.check()
            self.result = self.function(self.job)
        except BaseException as error:  # a SystemExit out of a library must not end the thread
            _release_frames(error)
            self.error = error

    def view(self, now: float) -> JobView:
        """The task as it stands at ``now``."""
        fraction = self.job.fraction
        stage = (self.job.text, self.job.total)
        if stage != self.stage:
            self.stage, self.stage_started = stage, now
        spent = now - self.stage_started
        state = JobState.WAITING if self.started is None else JobState.RUNNING
        return JobView(
            id=self.id,
            title=self.title,
            text=stage[0],
            fraction=fraction,
            age=now - self.submitted,
            elapsed=now - self.started if self.started is not None else 0.0,
            remaining=spent / fraction - spent if fraction else None,
            state=JobState.STOPPING if self.withdrawn else state,
        )

    def start_over(self) -> None:
        """Forget that it ever ran."""
        self.job, self.started, self.preempted, self.error = Job(), None, False, None


class JobRunner(QObject):
    """Runs tasks on the model thread and hands their results over on the window's thread.

    Signals:
        jobs_changed: a session or idle job was submitted, started or ended.
        progressed: the running job may have got further; emitted while there is work.
        idled: the last task has ended and its callback has returned.
    """

    jobs_changed = Signal()
    progressed = Signal()
    idled = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._tasks: dict[int, _Task] = {}  # submitted and not yet delivered; the window's
        self._next_id = 1
        self._listed: tuple[tuple[int, JobState], ...] = ()
        # Shared with the worker, and only touched while holding `_wakeup`.
        self._wakeup = Condition()
        self._waiting: dict[_Kind, deque[_Task]] = {kind: deque() for kind in _Kind}
        self._running: _Task | None = None
        self._held = False
        self._stopping = False
        self._ended: deque[int] = deque()  # the worker appends, the window takes; needs no lock
        self._thread = Thread(target=self._work, name="secateur-model")
        self._collector = WindowCollector(self)
        self._timer = QTimer(self, interval=POLL_INTERVAL_MS)
        self._timer.timeout.connect(self._poll)

    @property
    def active(self) -> bool:
        """Whether a task is waiting, running or yet to be delivered."""
        return bool(self._tasks)

    @property
    def busy(self) -> bool:
        """Whether a session or idle job is; previews do not count."""
        return any(task.kind is not _Kind.PREVIEW for task in self._tasks.values())

    def jobs(self) -> tuple[JobView, ...]:
        """The session and idle jobs, in the order in which they run."""
        now = time.monotonic()
        listed = (task for task in self._tasks.values() if task.kind is not _Kind.PREVIEW)
        return tuple(task.view(now) for task in sorted(listed, key=lambda task: task.kind))

    def hold(self) -> None:
        """Start no task until :meth:`release`; they can be submitted and cancelled as ever."""
        with self._wakeup:
            self._held = True

    def release(self) -> None:
        """Let the tasks start, if they were held."""
        with self._wakeup:
            self._held = False
            self._wakeup.notify()

    def submit(
        self,
        title: str,
        function: Callable[[Job], T],
        on_done: Callable[[T], None],
        on_error: Callable[[BaseException], None],
        idle: bool = False,
    ) -> int:
        """Queue a session job, or an idle one; returns its id.

        ``function`` runs on the model thread. One of the callbacks follows on this thread, or
        neither when the job was cancelled. What a cancelled job has still committed is delivered.
        """
        kind = _Kind.IDLE if idle else _Kind.SESSION
        task = self._admit(_Task(self._next_id, title, function, on_done, on_error, kind))
        self._announce()
        return task.id

    def preview(
        self,
        slot: str,
        function: Callable[[Job], T],
        on_done: Callable[[T], None],
        on_error: Callable[[BaseException], None],
    ) -> int:
        """Run ``function`` as soon as no session job waits.

        It replaces an earlier preview for the same ``slot``, and no other.
        """
        self.cancel_preview(slot)
        task = _Task(self._next_id, "", function, on_done, on_error, _Kind.PREVIEW, slot)
        return self._admit(task).id

    def cancel_preview(self, slot: str) -> None:
        """Forget the preview for ``slot``, if there is one; its callbacks never come."""
        for task in tuple(self._tasks.values()):
            if task.kind is _Kind.PREVIEW and task.slot == slot:
                self._withdraw(task)

    def cancel(self, job_id: int) -> None:
        """Ask a job to stop; one that still waits is gone at once."""
        task = self._tasks.get(job_id)
        if task is not None:
            self._withdraw(task)
            self._announce()

    def cancel_all(self) -> None:
        """Ask every session and idle job to stop; previews end with whoever waits for them."""
        for task in tuple(self._tasks.values()):
            if task.kind is not _Kind.PREVIEW:
                self._withdraw(task)
        self._announce()

    def shut_down(self, timeout: float | None = None) -> bool:
        """Cancel everything and end the thread; no callback comes afterwards.

        Returns:
            False when the running job did not notice within ``timeout`` seconds. The thread then
            ends with that job; Python waits for it before the process exits.
        """
        for task in tuple(self._tasks.values()):
            self._withdraw(task)
        self._announce()
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._timer.stop()
        if self._thread.is_alive():
            return False
        self._collector.stop()
        self._tasks.clear()
        return True

    def _admit(self, task: _Task) -> _Task:
        """Let the task wait for its turn, and stop what gives way to it."""
        self._next_id += 1
        self._tasks[task.id] = task
        with self._wakeup:
            self._waiting[task.kind].append(task)
            running = self._running
            if running is not None and running.kind > task.kind:
                running.preempted = True
                running.job.cancel()
            self._wakeup.notify()
        if self._thread.ident is None:
            self._collector.start()
            self._thread.start()
        self._timer.start()
        return task

    def _withdraw(self, task: _Task) -> None:
        """Cancel the task; if the worker does not have it yet, that is its end."""
        task.withdrawn = True
        task.job.cancel()
        with self._wakeup:
            if task not in self._waiting[task.kind]:
                return
            self._waiting[task.kind].remove(task)
        del self._tasks[task.id]

    def _poll(self) -> None:
        """Hand over what has ended; a callback that raises does not hold up the next ones."""
        while self._ended:
            task = self._tasks[self._ended.popleft()]
            if task.preempted and not task.withdrawn and isinstance(task.error, Cancelled):
                self._wait_again(task)
                continue
            del self._tasks[task.id]
            self._announce()
            self._deliver(task)
        self._announce()
        self.progressed.emit()
        if not self._tasks:
            self._timer.stop()
            self._collector.settle()
            self.idled.emit()

    def _deliver(self, task: _Task) -> None:
        if task.kind is _Kind.PREVIEW and task.withdrawn:
            return
        if task.error is None:
            task.on_done(task.result)
        elif not isinstance(task.error, Cancelled):
            task.on_error(task.error)

    def _wait_again(self, task: _Task) -> None:
        """Put a task that has given way back in front of its kind."""
        task.start_over()
        with self._wakeup:
            self._waiting[task.kind].appendleft(task)
            self._wakeup.notify()

    def _announce(self) -> None:
        """Emit ``jobs_changed`` when the list of jobs or their states differ from the last one."""
        listed = tuple((view.id, view.state) for view in self.jobs())
        if listed != self._listed:
            self._listed = listed
            self.jobs_changed.emit()

    def _work(self) -> None:
        """The model thread: run one task after another until told to stop. Never touches Qt.

        It reports a task by its id, when it has let go of the task itself: callbacks may hold the
        last reference to a widget, and a widget must not die on this thread.
        """
        while (ended := self._run_next()) is not None:
            self._ended.append(ended)

    def _run_next(self) -> int | None:
        task = self._take()
        if task is None:
            return None
        task.run()
        with self._wakeup:
            self._running = None
        return task.id

    def _take(self) -> _Task | None:
        """Wait for the next task; None when it is time to end."""
        with self._wakeup:
            while not self._stopping:
                waiting = next((tasks for tasks in self._waiting.values() if tasks), None)
                if waiting is not None and not self._held:
                    self._running = waiting.popleft()
                    return self._running
                self._wakeup.wait()
            return None


def _release_frames(error: BaseException | None) -> None:
    """Drop the local variables that the tracebacks hold: they keep whole models alive."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
