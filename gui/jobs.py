"""The only threads: one worker owns the model, the window polls what it reports.

Four kinds of task share that thread. *Session jobs* run in the order in which they were
submitted, and each delivers its result. Of the *previews* for one place only the newest counts.
*Idle jobs* are what nobody waits for, such as measuring after an edit. A task that comes stops one
of a later kind, which takes its turn again afterwards. A *background job*, such as training, works
in slices: whatever comes is served between two of them, and nothing of it is done twice.
"""

import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Any, TypeVar

from PySide6.QtCore import QObject, QTimer, Signal

from engine import Cancelled, EngineError, Job
from gui.garbage import WindowCollector
from gui.tasks import JobState, JobView, Kind, Slices, Task

T = TypeVar("T")

POLL_INTERVAL_MS = 30


class JobRunner(QObject):
    """Runs tasks on the model thread and hands their results over on the window's thread.

    Signals:
        jobs_changed: a job was submitted, started, paused or ended; previews do not count.
        progressed: the running job may have got further; emitted while there is work.
        idled: the last task has ended and its callback has returned.
    """

    jobs_changed = Signal()
    progressed = Signal()
    idled = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._tasks: dict[int, Task] = {}  # submitted and not yet delivered; the window's
        self._next_id = 1
        self._listed: tuple[tuple[int, JobState], ...] = ()
        # Shared with the worker, and only touched while holding `_wakeup`.
        self._wakeup = Condition()
        self._waiting: dict[Kind, deque[Task]] = {kind: deque() for kind in Kind}
        self._running: Task | None = None
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
        """Whether a job is; previews do not count."""
        return any(task.kind is not Kind.PREVIEW for task in self._tasks.values())

    def jobs(self) -> tuple[JobView, ...]:
        """All but the previews, in the order in which they run."""
        now = time.monotonic()
        listed = (task for task in self._tasks.values() if task.kind is not Kind.PREVIEW)
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
        kind = Kind.IDLE if idle else Kind.SESSION
        task = self._admit(Task(self._next_id, title, function, on_done, on_error, kind))
        self._announce()
        return task.id

    def submit_background(
        self,
        title: str,
        start: Callable[[Job], Slices[T]],
        on_done: Callable[[T], None],
        on_error: Callable[[BaseException], None],
        on_partial: Callable[[Any], None] | None = None,
    ) -> int:
        """Queue a background job; returns its id.

        ``start`` is a generator function. It runs on the model thread from one ``yield`` to the
        next, whenever nothing else waits; a cancelled one finds ``Cancelled`` raised where it
        paused. ``on_partial`` gets what it leaves in ``job.partial``. Otherwise as :meth:`submit`.

        Raises:
            EngineError: there is a background job already.
        """
        under_way = next((task for task in self._tasks.values() if task.sliced), None)
        if under_way is not None:
            raise EngineError(
                self.tr("Another job of this kind is under way: %s.") % under_way.title,
                self.tr("Stop it, or wait until it has ended."),
            )
        kind = Kind.BACKGROUND
        task = Task(self._next_id, title, start, on_done, on_error, kind, on_partial=on_partial)
        self._admit(task)
        self._announce()
        return task.id

    def preview(
        self,
        slot: str,
        function: Callable[[Job], T],
        on_done: Callable[[T], None],
        on_error: Callable[[BaseException], None],
        on_partial: Callable[[Any], None] | None = None,
    ) -> int:
        """Run ``function`` as soon as no session job waits.

        It replaces an earlier preview for the same ``slot``, and no other. ``on_partial`` gets what
        it leaves in ``job.partial`` before it is done.
        """
        self.cancel_preview(slot)
        kind = Kind.PREVIEW
        task = Task(self._next_id, "", function, on_done, on_error, kind, slot, on_partial)
        return self._admit(task).id

    def cancel_preview(self, slot: str) -> None:
        """Forget the preview for ``slot``, if there is one; its callbacks never come."""
        for task in tuple(self._tasks.values()):
            if task.kind is Kind.PREVIEW and task.slot == slot:
                self._withdraw(task)

    def preview_view(self, slot: str) -> JobView | None:
        """The newest preview for ``slot`` as it stands; None when there is none."""
        now = time.monotonic()
        asked = (
            task.view(now)
            for task in reversed(self._tasks.values())
            if task.kind is Kind.PREVIEW and task.slot == slot and not task.withdrawn
        )
        return next(asked, None)

    def pause(self, job_id: int) -> None:
        """Let a background job rest when its slice has ended, until :meth:`resume`."""
        self._set_paused(job_id, True)

    def resume(self, job_id: int) -> None:
        """Let a background job go on where it paused."""
        self._set_paused(job_id, False)

    def _set_paused(self, job_id: int, paused: bool) -> None:
        task = self._tasks.get(job_id)
        if task is not None and task.sliced:
            with self._wakeup:
                task.paused = paused
                self._wakeup.notify()
            self._announce()

    def cancel(self, job_id: int) -> None:
        """Ask a job to stop; one that still waits is gone at once."""
        task = self._tasks.get(job_id)
        if task is not None:
            self._withdraw(task)
            self._announce()

    def cancel_all(self) -> None:
        """Ask every job to stop; previews end with whoever waits for them."""
        for task in tuple(self._tasks.values()):
            if task.kind is not Kind.PREVIEW:
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

    def _admit(self, task: Task) -> Task:
        """Let the task wait for its turn, and stop what gives way to it."""
        self._next_id += 1
        self._tasks[task.id] = task
        with self._wakeup:
            self._waiting[task.kind].append(task)
            running = self._running
            if running is not None and running.kind > task.kind and not running.sliced:
                running.preempted = True
                running.job.cancel()
            self._wakeup.notify()
        if self._thread.ident is None:
            self._collector.start()
            self._thread.start()
        self._timer.start()
        return task

    def _withdraw(self, task: Task) -> None:
        """Cancel the task; if the worker has not begun it yet, that is its end."""
        task.job.cancel()
        with self._wakeup:
            task.withdrawn = True
            self._wakeup.notify()
            if task.begun or task not in self._waiting[task.kind]:
                return
            self._waiting[task.kind].remove(task)
        del self._tasks[task.id]

    def _poll(self) -> None:
        """Hand over what has ended; a callback that raises does not hold up the next ones."""
        for task in tuple(self._tasks.values()):
            self._deliver_partial(task)
        while self._ended:
            task = self._tasks[self._ended.popleft()]
            if task.preempted and not task.withdrawn and isinstance(task.error, Cancelled):
                self._wait_again(task)
                continue
            self._deliver_partial(task)
            del self._tasks[task.id]
            self._announce()
            self._deliver(task)
        self._announce()
        self.progressed.emit()
        if not self._tasks:
            self._timer.stop()
            self._collector.settle()
            self.idled.emit()

    def _deliver_partial(self, task: Task) -> None:
        if task.on_partial is None or task.withdrawn:
            return
        partial = task.take_partial()
        if partial is not None:
            task.on_partial(partial)

    def _deliver(self, task: Task) -> None:
        if task.kind is Kind.PREVIEW and task.withdrawn:
            return
        if task.error is None:
            task.on_done(task.result)
        elif not isinstance(task.error, Cancelled):
            task.on_error(task.error)

    def _wait_again(self, task: Task) -> None:
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
        while (ran := self._run_next()) is not None:
            id_, ended = ran
            if ended:
                self._ended.append(id_)

    def _run_next(self) -> tuple[int, bool] | None:
        """Run a task, or a slice of it: which, and whether it has ended. None: time to end."""
        task = self._take()
        if task is None:
            return None
        ended = task.run()
        with self._wakeup:
            self._running = None
            if not ended:
                self._waiting[task.kind].appendleft(task)
        return task.id, ended

    def _take(self) -> Task | None:
        """Wait for the next task; None when it is time to end, and all is unwound."""
        with self._wakeup:
            while True:
                waiting = self._next_waiting()
                if waiting is not None:
                    self._running = waiting.popleft()
                    return self._running
                if self._stopping:
                    return None
                self._wakeup.wait()

    def _next_waiting(self) -> deque[Task] | None:
        """The queue whose first task is to be taken next."""
        ready = (tasks for tasks in self._waiting.values() if tasks and tasks[0].ready)
        return next(ready, None) if not self._held or self._stopping else None
