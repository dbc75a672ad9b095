"""Scans of sensitivity in the window: one at a time, in slices, and the maps that came of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from PySide6.QtCore import QObject, Signal

from engine import Cancelled, Direction, EngineError, Job, LayerId, ScanRequest, SensitivityMap
from gui.jobs import JobRunner
from gui.models.sensitivity_columns import of_groups
from gui.tasks import JobState, JobView, Slices

if TYPE_CHECKING:  # the session imports torch
    from engine import ModelSession

Getter: TypeAlias = "Callable[[], ModelSession]"
Ending: TypeAlias = Literal["", "complete", "stopped", "failed"]

_SLICE_SECONDS: Final = 0.1  # what the user may have to wait for it


class ScanUnderWay(EngineError):
    """What runs in slices has to wait for what already does."""

    remedy = "Stop it first, or wait until it has ended; a scan goes on later where it stopped."


@dataclass(frozen=True)
class ScanWish:
    """What the user wants to be scanned.

    Attributes:
        groups: kinds of settings (:data:`gui.models.sensitivity_columns.GROUPS`); all if empty.
        layers: that become rows, with what they are coupled to; all if empty.
        samples: of the training split, at most.
    """

    groups: tuple[str, ...] = ()
    layers: tuple[LayerId, ...] = ()
    direction: Direction = "only this"
    samples: int = 256

    def request(self, usual: ScanRequest) -> ScanRequest:
        """The wish as the engine takes it: the usual settings, as far as they are wanted."""
        return replace(
            usual,
            settings=of_groups(usual.settings, self.groups),
            layers=self.layers,
            direction=self.direction,
            samples=self.samples,
            first=min(usual.first, self.samples),
        )


class Scanning(QObject):
    """The scan that is under way, and all maps of the open model, filed by state.

    Signals:
        changed: a scan was started, paused or ended, or got further; or a map was filed.
        opened: a map was read from a file: the map, and the file's name.
    """

    changed = Signal()
    opened = Signal(object, str)

    def __init__(self, jobs: JobRunner, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs = jobs
        self._job: int | None = None
        self._state: JobState | None = None
        self._wish: ScanWish | None = None  # of the scan under way
        self._wishes: dict[tuple[str, Direction], ScanWish] = {}
        self._maps: dict[tuple[str, Direction], SensitivityMap] = {}
        self._newest: dict[Direction, SensitivityMap] = {}
        self._ending: Ending = ""
        self._forgotten = 0  # how often; what comes of a scan before that is of another model
        jobs.jobs_changed.connect(self._follow)

    @property
    def active(self) -> bool:
        """Whether a scan is under way, paused or not."""
        return self._job is not None

    @property
    def state(self) -> JobState | None:
        """Where it stands; None when none is under way."""
        return self._state

    @property
    def wish(self) -> ScanWish | None:
        """What the scan under way, or the last one, was asked for."""
        return self._wish

    @property
    def ending(self) -> Ending:
        """What became of the last one; empty while one is under way, or before the first."""
        return self._ending

    @property
    def view(self) -> JobView | None:
        """The scan as a job: its stage in words, its share done; None when none is under way."""
        return next((view for view in self._jobs.jobs() if view.id == self._job), None)

    def map_of(self, state: str, direction: Direction) -> SensitivityMap | None:
        """The map of that state of the model, if there is one."""
        return self._maps.get((state, direction))

    def newest(self, direction: Direction) -> SensitivityMap | None:
        """The map of that direction that was filed or renewed last, whatever its state."""
        return self._newest.get(direction)

    def wish_of(self, state: str, direction: Direction) -> ScanWish | None:
        """What that map was asked for; None for one that was read from a file."""
        return self._wishes.get((state, direction))

    def file(self, found: SensitivityMap, name: str) -> None:
        """Keep a map that was read from a file; one that was scanned of its state stays."""
        key = found.state, found.direction
        if key not in self._wishes:
            self._maps[key] = found
        self._newest[found.direction] = found
        self.changed.emit()
        self.opened.emit(found, name)

    def start(
        self,
        title: str,
        wish: ScanWish,
        session: Getter,
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Begin, or go on with a scan of the same wish that was stopped.

        Args:
            session: gives it, on the model thread.

        Raises:
            EngineError: something else that works in slices is under way.
        """

        turn = self._forgotten

        def work(job: Job) -> Slices[SensitivityMap]:
            return _scan(session(), wish, job)

        def take(found: SensitivityMap) -> None:
            if turn == self._forgotten:
                self._wishes[found.state, found.direction] = wish
                self._maps[found.state, found.direction] = found
                self._newest[found.direction] = found
                self.changed.emit()

        def done(found: SensitivityMap) -> None:
            self._ending = "complete"
            take(found)

        def fail(error: BaseException) -> None:
            if turn == self._forgotten:
                self._ending = "failed"
                self.changed.emit()
                on_error(error)

        self._job = self._jobs.submit_background(title, work, done, fail, take)
        self._wish, self._ending = wish, ""
        self._follow()

    def pause(self) -> None:
        """Let it rest."""
        if self._job is not None:
            self._jobs.pause(self._job)

    def resume(self) -> None:
        """Let it go on."""
        if self._job is not None:
            self._jobs.resume(self._job)

    def stop(self) -> None:
        """End it; a scan of the same wish of the same state goes on from there."""
        if self._job is not None:
            self._jobs.cancel(self._job)

    def forget(self) -> None:
        """Another model or other data are open: end the scan, and drop the maps."""
        self.stop()
        self._forgotten += 1
        for kept in (self._maps, self._wishes, self._newest):
            kept.clear()
        self._wish, self._ending = None, ""
        self.changed.emit()

    def _follow(self) -> None:
        view = self.view
        state = view.state if view is not None else None
        if view is None and self._job is not None:
            self._job = None
            self._ending = self._ending or "stopped"  # until told better
        if state != self._state:
            self._state = state
            self.changed.emit()


def _scan(session: ModelSession, wish: ScanWish, job: Job) -> Slices[SensitivityMap]:
    """Scan in slices; when cancelled, what is known stays for another time."""
    scan = session.start_scan(wish.request(session.default_scan()), job)
    try:
        job.partial = scan.progress
        yield
        while scan.step(job, _SLICE_SECONDS):
            job.text = f"{job.text}. {scan.problem}" if scan.problem else job.text
            yield
    except Cancelled:
        scan.pause()
        raise
    return scan.progress
