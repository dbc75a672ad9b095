"""Training in the window: one at a time, in slices, paused and ended by the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from PySide6.QtCore import QObject, Signal

from engine import (
    Cancelled,
    Change,
    EngineError,
    FineTune,
    Job,
    Quantize,
    RoundingProgress,
    TuningProgress,
)
from gui.jobs import JobRunner
from gui.tasks import JobState, JobView, Slices

if TYPE_CHECKING:  # pruning step by step imports torch
    from engine import (
        ModelSession,
        PruneChannels,
        PruneWeights,
        Rounding,
        ScheduleKind,
        Tuning,
    )

Getter: TypeAlias = "Callable[[], ModelSession]"
Changes: TypeAlias = tuple[Change, ...]
Ending: TypeAlias = Literal["", "applied", "no better", "stopped", "discarded", "failed"]

_SLICE_SECONDS: Final = 0.1  # what the user may have to wait for it


class TrainingUnderWay(EngineError):
    """What would change the model that is being trained has to wait."""

    remedy = "Stop it first, keeping the best so far or not, or wait until it has ended."


@dataclass(frozen=True)
class GradualPruning:
    """Pruning in steps, each followed by training.

    Attributes:
        edit: what is reached in the end.
        kind: how the steps are laid out.
        tune: what follows each step.
    """

    edit: PruneChannels | PruneWeights
    kind: ScheduleKind
    steps: int
    tune: FineTune


Asked: TypeAlias = FineTune | GradualPruning | Quantize
"""What is trained: a quantization learns how its weights are rounded."""


@dataclass(frozen=True)
class TrainingNews:
    """How a training goes, as it is handed to the window.

    Attributes:
        progress: of training, or of roundings that are learned; None while a step of pruning is
            being done.
        step, of: which training this is of a row of them, counted from 1.
        resumed_at: the epoch at which it was taken up again, or how many layers were done; None of
            one that started anew.
        held_out: training samples that choose the best epoch, and are not trained on.
        problem: why a crash would lose it, in a sentence; "" while it would not.
        changes: what was committed so far.
    """

    progress: TuningProgress | RoundingProgress | None = None
    step: int = 1
    of: int = 1
    resumed_at: float | None = None
    held_out: int = 0
    problem: str = ""
    changes: Changes = ()


class Training(QObject):
    """The training that is under way, or the last one.

    Signals:
        changed: it was started, paused or ended, or got further.
    """

    changed = Signal()

    def __init__(self, jobs: JobRunner, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs = jobs
        self._job: int | None = None
        self._state: JobState | None = None
        self._wish = _Wish()
        self._news: TrainingNews | None = None
        self._title = ""
        self._ending: Ending = ""
        self._handed_over = 0  # of the changes
        jobs.jobs_changed.connect(self._follow)

    @property
    def active(self) -> bool:
        """Whether one is under way, paused or not."""
        return self._job is not None

    @property
    def state(self) -> JobState | None:
        """Where it stands; None when none is under way."""
        return self._state

    @property
    def paused(self) -> bool:
        """Whether it rests."""
        return self._state is JobState.PAUSED

    @property
    def better(self) -> bool:
        """Whether an epoch was better than the state before training, or a layer is done."""
        progress = self._news.progress if self._news is not None else None
        if isinstance(progress, RoundingProgress):
            return progress.at >= 1
        return progress is not None and progress.best > 0

    @property
    def title(self) -> str:
        """What is being done, or was done last; empty before the first."""
        return self._title

    @property
    def ending(self) -> Ending:
        """What became of it; empty while it is under way, or before the first."""
        return self._ending

    @property
    def news(self) -> TrainingNews | None:
        """What is known of it, or of the last one; None before its first batches."""
        return self._news

    @property
    def seconds(self) -> float:
        """How long it has worked, pauses left out; 0 when none is under way."""
        view = self._view()
        return view.elapsed if view is not None else 0.0

    def start(
        self,
        title: str,
        asked: Asked,
        session: Getter,
        on_change: Callable[[Change], None],
        on_done: Callable[[Change], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Begin; ``on_change`` gets each committed change, ``on_done`` the last one once more.

        Args:
            session: gives it, on the model thread.

        Raises:
            EngineError: one is under way already.
        """
        wish = _Wish()

        def work(job: Job) -> Slices[Changes]:
            return _Work(session(), wish, job).do(asked)

        def hand_over(changes: Changes) -> None:
            fresh, self._handed_over = changes[self._handed_over :], len(changes)
            for change in fresh:
                on_change(change)

        def take(news: TrainingNews) -> None:
            self._news = news
            hand_over(news.changes)
            self.changed.emit()

        def done(changes: Changes) -> None:
            hand_over(changes)
            whole: Ending = "applied" if changes else "no better"
            self._end(self._cut_short() if wish.interrupted else whole)
            if changes:
                on_done(changes[-1])

        def fail(error: BaseException) -> None:
            self._end("failed")
            on_error(error)

        self._job = self._jobs.submit_background(title, work, done, fail, take)
        self._title, self._ending, self._wish = title, "", wish
        self._news, self._handed_over = None, 0
        self._follow()

    def pause(self) -> None:
        """Let it rest."""
        if self._job is not None:
            self._jobs.pause(self._job)

    def resume(self) -> None:
        """Let it go on."""
        if self._job is not None:
            self._jobs.resume(self._job)

    def stop(self, keep: bool) -> None:
        """End it: apply the best weights so far, or forget it altogether."""
        if self._job is None:
            return
        if keep:
            self._wish.enough = True
            self._jobs.resume(self._job)
        else:
            self._wish.unwanted = True
            self._jobs.cancel(self._job)

    def interrupt(self) -> None:
        """End it without a result; the same training of the same state goes on from there."""
        if self._job is not None:
            self._jobs.cancel(self._job)

    def leave(self) -> None:
        """Another model is open: end the training of this one, and show it no longer."""
        self.interrupt()
        self._title, self._news = "", None
        self._end("")

    def _cut_short(self) -> Ending:
        return "discarded" if self._wish.unwanted else "stopped"

    def _end(self, ending: Ending) -> None:
        self._ending = ending
        self.changed.emit()

    def _view(self) -> JobView | None:
        return next((view for view in self._jobs.jobs() if view.id == self._job), None)

    def _follow(self) -> None:
        view = self._view()
        state = view.state if view is not None else None
        if view is None and self._job is not None:
            self._job = None
            self._ending = self._cut_short()  # until told better
        if state != self._state:
            self._state = state
            self.changed.emit()


class _Wish:
    """What the user wants of a training; written by the window, read by the worker."""

    def __init__(self) -> None:
        self.enough = False  # apply the best so far
        self.unwanted = False  # nor is it to be kept for later
        self.interrupted = False  # and was it; this the worker writes


class _Work:
    """A training on the model thread, in slices.

    Interrupted, it stays on disk unless nobody wants it, and the same training on the same state
    goes on from there.
    """

    def __init__(self, session: ModelSession, wish: _Wish, job: Job) -> None:
        self._session = session
        self._wish = wish
        self._job = job
        self._news = TrainingNews()

    def do(self, asked: Asked) -> Slices[Changes]:
        """Train and commit; the changes, none where no epoch was better than none."""
        if isinstance(asked, GradualPruning):
            yield from self._prune(asked)
        else:
            yield from self._tune(asked)
        return self._news.changes

    def _tune(self, edit: FineTune | Quantize) -> Slices[None]:
        tuning = self._session.start_tuning(edit, self._job)
        self._tell(
            progress=tuning.progress,
            resumed_at=_done(tuning.progress) if tuning.resumed else None,
            held_out=0 if isinstance(edit, Quantize) else tuning.held_out,  # type: ignore[union-attr]
        )
        told = Job()  # its partial results are not those of this job
        try:
            while not self._wish.enough and tuning.step(told, _SLICE_SECONDS):
                self._job.text, self._job.done, self._job.total = told.text, told.done, told.total
                self._tell(progress=tuning.progress, problem=tuning.problem)
                yield
        except Cancelled:
            self._put_away(tuning)
            raise
        self._tell(progress=tuning.progress)
        if _is_worth_it(tuning.progress):
            self._commit(self._session.commit_tuning(tuning, self._job))
        else:
            tuning.discard()

    def _prune(self, asked: GradualPruning) -> Slices[None]:
        """Prune and train in turn; when cancelled, whole turns stay unless nobody wants them."""
        start = whole = self._session.snapshot.cursor
        try:
            for step, edit in enumerate(
                self._session.scheduled(asked.edit, asked.kind, asked.steps), start=1
            ):
                self._tell(progress=None, step=step, of=asked.steps, resumed_at=None)
                self._commit(self._session.apply(edit, self._job))
                yield
                yield from self._tune(asked.tune)
                whole = self._session.snapshot.cursor
                if self._wish.enough:
                    break
        except Cancelled:
            self._wish.interrupted = True
            back = start if self._wish.unwanted else whole
            if self._session.snapshot.cursor != back:
                self._commit(self._session.go_to(back, Job()))
            if not self._news.changes:
                raise

    def _commit(self, change: Change) -> None:
        self._tell(changes=(*self._news.changes, change))

    def _tell(self, **news: object) -> None:
        self._news = replace(self._news, **news)  # type: ignore[arg-type]
        self._job.partial = self._news

    def _put_away(self, tuning: Tuning | Rounding) -> None:
        if self._wish.unwanted:
            tuning.discard()
        else:
            tuning.pause()


def _done(progress: TuningProgress | RoundingProgress) -> float:
    """Epochs, or layers."""
    return progress.at if isinstance(progress, RoundingProgress) else progress.epoch


def _is_worth_it(progress: TuningProgress | RoundingProgress) -> bool:
    """Whether what came of it is to be applied: the layers left are rounded to the nearest."""
    return isinstance(progress, RoundingProgress) or progress.best > 0
