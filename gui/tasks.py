"""A function on its way through the worker, and the job that a panel shows of it."""

import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, TypeAlias, TypeVar

from engine import Cancelled, Job

T = TypeVar("T")

Slices: TypeAlias = Generator[None, None, T]
"""Work that pauses where it yields; what it returns is its result."""


class JobState(Enum):
    """Where a job stands; finished jobs are no longer listed."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"


class Kind(IntEnum):
    """In the order in which the worker takes them."""

    SESSION = 0
    PREVIEW = 1
    IDLE = 2
    BACKGROUND = 3


@dataclass(frozen=True)
class JobView:
    """A job as a panel may show it.

    Attributes:
        text: the stage it is in, in its own words.
        fraction: share of the stage that is done, 0 to 1; None while the amount is unknown.
        age: seconds since it was submitted.
        elapsed: seconds since it was started; of work in slices those that the slices took.
        remaining: seconds the stage still takes if it goes on like this; None when unknown.
        partial: the result as far as it is known; None while it is not.
        pausable: whether it works in slices, so that it can pause between two of them.
    """

    id: int
    title: str
    text: str
    fraction: float | None
    age: float
    elapsed: float
    remaining: float | None
    state: JobState
    partial: Any = None
    pausable: bool = False


@dataclass(eq=False)
class Task:
    """A function on its way through the worker.

    Attributes:
        on_partial: gets each partial result that the window sees in time.
        slot: the place that a preview is for; those of different places know nothing of each other.
        withdrawn: nobody wants it any more.
        preempted: it was stopped for another task, and starts again behind that.
        paused: no slice of it is to begin.
        slices: what is left of the work in slices, once it has begun; the worker's alone.
        result, error: what became of it; written by the worker.
    """

    id: int
    title: str
    function: Callable[[Job], Any]
    on_done: Callable[[Any], None]
    on_error: Callable[[BaseException], None]
    kind: Kind = Kind.SESSION
    slot: str = ""
    on_partial: Callable[[Any], None] | None = None
    withdrawn: bool = False
    preempted: bool = False
    paused: bool = False
    job: Job = field(default_factory=Job)
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    slices: Slices[Any] | None = None
    slice_started: float | None = None
    worked: float = 0.0  # seconds that the slices took which have ended
    stage: tuple[str, int] = ("", 0)
    stage_started: float = 0.0  # in seconds worked
    shown: Any = None  # the partial result that was handed over last
    result: Any = None
    error: BaseException | None = None

    @property
    def sliced(self) -> bool:
        """Whether it works in slices."""
        return self.kind is Kind.BACKGROUND

    @property
    def begun(self) -> bool:
        """Whether slices of it wait to go on, or to be told that they shall not."""
        return self.slices is not None

    @property
    def ready(self) -> bool:
        """Whether the worker may take it; one that was withdrawn has its work to unwind."""
        return self.withdrawn or not self.paused

    def run(self) -> bool:
        """Call the function on this thread, or do one slice of it; whether that was the end.

        What it raises is kept, not raised. Slices of a cancelled job find :class:`Cancelled` raised
        where they paused.
        """
        self.slice_started = time.monotonic()
        if self.started is None:
            self.started = self.slice_started
        try:
            if self.sliced:
                return self._do_slice()
            self.job.check()
            self.result = self.function(self.job)
        except BaseException as error:  # a SystemExit out of a library must not end the thread
            _release_frames(error)
            self.error = error
        finally:
            self.worked += time.monotonic() - self.slice_started
            self.slice_started = None
        return True

    def _do_slice(self) -> bool:
        if self.slices is None:
            self.slices = self.function(self.job)
        try:
            if self.job.cancelled:
                self.slices.throw(Cancelled())
            else:
                next(self.slices)
        except StopIteration as end:
            self.result = end.value
            return True
        return False

    def take_partial(self) -> Any:
        """The partial result, if it is another than the one taken last; None otherwise."""
        partial = self.job.partial
        if partial is self.shown:
            return None
        self.shown = partial
        return partial

    def view(self, now: float) -> JobView:
        """The task as it stands at ``now``."""
        fraction = self.job.fraction
        elapsed = self._elapsed(now)
        # The text of work in slices tells how it goes, and so changes within a stage.
        stage = ("" if self.sliced else self.job.text, self.job.total)
        if stage != self.stage:
            self.stage, self.stage_started = stage, elapsed
        spent = elapsed - self.stage_started
        return JobView(
            id=self.id,
            title=self.title,
            text=self.job.text,
            fraction=fraction,
            age=now - self.submitted,
            elapsed=elapsed,
            remaining=spent / fraction - spent if fraction else None,
            state=self._state(),
            partial=self.job.partial,
            pausable=self.sliced,
        )

    def _elapsed(self, now: float) -> float:
        if self.started is None:
            return 0.0
        if not self.sliced:
            return now - self.started
        running = self.slice_started
        return self.worked + (now - running if running is not None else 0.0)

    def _state(self) -> JobState:
        if self.withdrawn:
            return JobState.STOPPING
        if self.paused:
            return JobState.PAUSED
        return JobState.WAITING if self.started is None else JobState.RUNNING

    def start_over(self) -> None:
        """Forget that it ever ran."""
        self.job, self.started, self.preempted, self.error = Job(), None, False, None


def _release_frames(error: BaseException | None) -> None:
    """Drop the local variables that the tracebacks hold: they keep whole models alive."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
