"""A unit of work: progress out, cancel in."""

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """The user cancelled the job; nothing half-done remains. Not an error."""


class Job:
    """Progress as plain attributes that any thread may read, and one flag to stop it.

    The worker writes ``text``, ``done`` and ``total``; the window polls them (200,000 signals
    cost seconds of the worker's time, as many attribute writes a few milliseconds).
    """

    def __init__(self) -> None:
        self.text = ""
        self.done = 0
        self.total = 0  # 0: the amount of work is not known
        self.partial: Any = None  # the result as far as it is known, frozen; the newest replaces it
        self._cancelled = False
        self._stage = ""

    @property
    def fraction(self) -> float | None:
        """Share of the work that is done, 0 to 1; None while the amount is unknown."""
        total = self.total
        return min(1.0, self.done / total) if total else None

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked the job to stop."""
        return self._cancelled

    def cancel(self) -> None:
        """Ask the job to stop at its next check; safe from any thread."""
        self._cancelled = True

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            Cancelled: somebody called :meth:`cancel`.
        """
        if self._cancelled:
            raise Cancelled

    def begin(self, text: str, total: int = 0) -> None:
        """Start a stage of ``total`` steps, named for the user."""
        self.check()
        self.tell(text, 0, total)

    def tell(self, text: str, done: int, total: int) -> None:
        """Say how the stage goes, in other words than those it began with."""
        self.text, self.done, self.total = f"{self._stage}{text}", done, total

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """Put ``stage`` before the names of stages begun inside, such as “Step 2 of 4”."""
        outer, self._stage = self._stage, f"{self._stage}{stage}: "
        try:
            yield
        finally:
            self._stage = outer

    def advance(self, steps: int = 1) -> None:
        """Report ``steps`` more steps as done, and stop here if asked to."""
        self.done += steps
        self.check()

    def track(self, items: Iterable[T], text: str, total: int | None = None) -> Iterator[T]:
        """Yield ``items`` as a stage of their own, a step each."""
        if total is None:
            total = len(items) if isinstance(items, Sized) else 0
        self.begin(text, total)
        for item in items:
            yield item
            self.advance()
