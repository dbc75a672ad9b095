"""What is modelled or measured of catalogue entries, one after another, behind everything else."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from PySide6.QtCore import QObject, Signal

from engine import CatalogueCost, EngineError, Job
from gui.jobs import JobRunner
from gui.models.catalogue_rows import What
from gui.tasks import JobState

Ask: TypeAlias = Callable[[str, What, Job], CatalogueCost]


@dataclass(frozen=True)
class _Wish:
    source: str
    name: str
    what: What


class CostQueue(QObject):
    """Asks for one cost at a time, each an idle job of its own.

    So what the user does meanwhile comes first, and what is known is shown as soon as it is.
    Stopping the job that runs, here or in the list of jobs, stops all that wait behind it.

    Signals:
        costed: the source of an entry, what was asked of it, and the
            :class:`engine.CatalogueCost`.
        changed: how many are done or wait.
        failed: the exception that ended a job other than an :class:`engine.EngineError`.

    Attributes:
        done, total: of the entries asked for since the queue was last empty.

    Args:
        ask: finds one cost out, on the model thread.
    """

    costed = Signal(str, str, object)
    changed = Signal()
    failed = Signal(object)

    def __init__(self, jobs: JobRunner, ask: Ask, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.done = self.total = 0
        self._jobs = jobs
        self._ask = ask
        self._wishes: deque[_Wish] = deque()  # the first is being asked for
        self._running: int | None = None
        self._answers: list[CatalogueCost] = []  # of the running job; the worker appends
        jobs.jobs_changed.connect(self._notice_stop)

    @property
    def waiting(self) -> tuple[tuple[str, What], ...]:
        """Sources of the entries that are not done, and what is asked of them."""
        return tuple((wish.source, wish.what) for wish in self._wishes)

    @property
    def current(self) -> str:
        """Name of the entry that is being asked for; empty when none is."""
        return self._wishes[0].name if self._wishes else ""

    def add(self, what: What, entries: Iterable[tuple[str, str]]) -> None:
        """Ask for that cost of entries, given as source and name; twice is once."""
        for source, name in entries:
            wish = _Wish(source, name, what)
            if wish not in self._wishes:
                self._wishes.append(wish)
                self.total += 1
        self._go_on()

    def stop(self) -> None:
        """Forget all that wait, and stop the one that runs."""
        running, self._running = self._running, None
        self._answers = []  # so that one which is under way is not taken for the next
        self._wishes.clear()
        self.done = self.total = 0
        if running is not None:
            self._jobs.cancel(running)
        self.changed.emit()

    def _go_on(self) -> None:
        if not self._wishes:
            self.done = self.total = 0
        elif self._running is None:
            self._start(self._wishes[0])
        self.changed.emit()

    def _start(self, wish: _Wish) -> None:
        answers: list[CatalogueCost] = []
        self._answers = answers

        def work(job: Job) -> CatalogueCost:
            try:
                cost = self._ask(wish.source, wish.what, job)
            except EngineError as error:
                cost = CatalogueCost(problem=f"{error} {error.remedy}".strip())
            answers.append(cost)
            return cost

        energy = self.tr("Estimating energy of %s") % wish.name
        title = energy if wish.what == "energy" else self.tr("Measuring latency of %s") % wish.name
        on_done, on_error = partial(self._deliver, wish, answers), partial(self._give_up, answers)
        self._running = self._jobs.submit(title, work, on_done, on_error, idle=True)

    def _deliver(self, wish: _Wish, answers: list[CatalogueCost], cost: CatalogueCost) -> None:
        if answers is not self._answers:  # stopped meanwhile, perhaps another asked for since
            return
        self._running = None
        self._wishes.popleft()
        self.done += 1
        self.costed.emit(wish.source, wish.what, cost)
        self._go_on()

    def _give_up(self, answers: list[CatalogueCost], error: BaseException) -> None:
        if answers is self._answers:
            self._running = None
            self.stop()
        self.failed.emit(error)

    def _notice_stop(self) -> None:
        """Stop all when the running job is stopped, or has gone without an answer."""
        if self._running is None:
            return
        mine = next((job for job in self._jobs.jobs() if job.id == self._running), None)
        if (mine is None and not self._answers) or (mine and mine.state is JobState.STOPPING):
            self.stop()
