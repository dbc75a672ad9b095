"""The scan of layers by settings, in slices that leave room for the user between them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import isinf
from time import perf_counter
from types import MappingProxyType

from engine.datasets import DataSet
from engine.editing import Subject
from engine.errors import EditRefused, ExportFailed
from engine.job import Job
from engine.sensitivities import Cell, ScanRequest, SensitivityMap
from engine.sensitivity.changes import rows_of
from engine.sensitivity.estimating import Estimating
from engine.sensitivity.keeping import kept_of
from engine.sensitivity.measuring import UNEDITED, Measuring
from engine.sensitivity.results import Place, Results
from engine.sensitivity.samples import Samples

SLICE_SECONDS = 0.3
"""How long :meth:`Scan.step` works; a single batch that takes longer is not cut."""

_KEEP_SECONDS = 20.0
_SIGMAS = 2.0  # of standard errors to each side: intervals that tell whether a rank is settled


class Scan:
    """A scan under way, of one state of the model.

    First come estimates of all cells, then rounds over more and more samples; in each the cells
    whose rank in their column is not settled come first. It goes on only while somebody calls
    :meth:`step`. What has been measured is kept on disk, and a scan of the same request on the
    same state and data starts from it.

    A cell's model is what the edit makes, and its losses are those of whole passes of it, bit by
    bit; passes start where it parts from the unedited one. For ``all but this`` each row is
    changed as it would be alone.

    Args:
        subject: the state; of the data their training split alone is looked at.
        state: its id.

    Raises:
        EditRefused: no setting can be applied to any of the layers, or the request makes no sense.
        DataSetMismatch, DataSetUnreadable: the model and its data do not go together.

    Attributes:
        resumed: whether it went on from what an earlier one had kept.
        problem: why it could not be kept on disk, in a sentence; "" while it can.
    """

    def __init__(
        self, request: ScanRequest, subject: Subject, data: DataSet, job: Job, state: str = ""
    ) -> None:
        job.begin("Preparing the scan")
        _check(request)
        self.request = request
        self.problem = ""
        self._data, self._state = data, state
        self._rows = rows = rows_of(request, subject, job)
        self._samples = Samples(data, request.samples, request.first, request.seed)
        self._results = Results(len(rows), len(request.settings), len(self._samples))
        self._measuring = Measuring(subject, rows, request.settings, self._samples, self._results)
        self._measuring.prepare(job)
        self._estimating = Estimating(subject, data, rows, request.settings)
        self._kept = kept_of(request, subject, data, state)
        self.resumed = self._kept.read_into(self._results.arrays)
        self._cells: dict[Place, Cell] = {}
        for place in self._places:
            self._tell_cell(place)
        self._asked = _Asked()
        self._work: Iterator[None] | None = None
        self._stage = ""
        self._done = False
        self._is_new = False  # whether something is known that is not kept
        self._kept_at = perf_counter()

    @property
    def done(self) -> bool:
        """Whether every cell that can be measured is, over all samples."""
        return self._done

    @property
    def progress(self) -> SensitivityMap:
        """The map as far as it has come, frozen."""
        seen = int(self._results.base_seen[UNEDITED])
        loss, accuracy = self._results.base_means(seen)
        return SensitivityMap(
            self._rows,
            self.request.settings,
            self.request.direction,
            MappingProxyType(dict(self._cells)),
            loss,
            accuracy,
            seen,
            self._data.name,
            self._state,
            self._done,
        )

    def step(self, job: Job, seconds: float = SLICE_SECONDS) -> bool:
        """Work for about so many seconds; whether anything is left to do.

        The job's text, share done and ``partial`` (a :class:`SensitivityMap`) tell how it goes.

        Raises:
            DataSetUnreadable: a sample is broken, and such ones are not to be skipped.
            Cancelled: between two batches; the scan is whole, and may go on.
        """
        end = perf_counter() + seconds
        self._asked.job = job
        while not self._done:
            job.check()
            self._advance()
            self._tell(job)
            if perf_counter() >= end:
                break
        if self._done or perf_counter() - self._kept_at > _KEEP_SECONDS:
            self.pause()
        job.partial = self.progress
        return not self._done

    def pause(self) -> None:
        """Keep on disk what is known; :meth:`step` goes on from here all the same."""
        if not self._is_new:
            return
        try:
            self._kept.write(self._results.arrays)
            self.problem = ""
        except ExportFailed as error:
            self.problem = f"After a crash this scan would start anew: {error}"
        self._is_new = False
        self._kept_at = perf_counter()

    def discard(self) -> None:
        """Remove what is kept of it on disk."""
        self._kept.remove()

    # -- the work, a batch at a time

    @property
    def _places(self) -> list[Place]:
        return [
            (row, column)
            for row in range(len(self._rows))
            for column in range(len(self.request.settings))
        ]

    def _advance(self) -> None:
        """Do the next bit; what raises is begun anew from what is known."""
        work = self._all() if self._work is None else self._work
        self._work = None
        self._done = next(work, self) is self
        if not self._done:
            self._work = work

    def _all(self) -> Iterator[None]:
        self._stage = "Estimating"
        yield from self._estimates()
        for stop in self._samples.rounds:
            self._stage = f"Measuring on {stop:,} samples"
            yield from self._known(self._measuring.reference(UNEDITED, stop, self._asked))
            if self.request.direction == "only this":
                yield from self._only(stop)
            else:
                yield from self._all_but(stop)

    def _estimates(self) -> Iterator[None]:
        if not self._results.wants_estimates:
            return
        for place, estimate in self._estimating.all(self._asked):
            if place is not None:
                self._results.estimates[place] = estimate
                self._tell_cell(place)
            yield
        self._results.wants_estimates = False
        self._is_new = True

    def _only(self, stop: int) -> Iterator[None]:
        """One row after the other: first those cells whose rank is not settled."""
        unsettled = self._unsettled()
        for wanted in (True, False):
            rows: dict[int, list[Place]] = {}
            for place in self._pending(stop):
                if bool(unsettled[place] or not self._cells[place].samples) is wanted:
                    rows.setdefault(place[0], []).append(place)
            order = sorted(rows, key=lambda row: -max(unsettled[one] for one in rows[row]))
            for row in order:
                yield from self._known(self._measuring.only(rows[row], stop, self._asked))

    def _all_but(self, stop: int) -> Iterator[None]:
        """One column after the other, beside all rows changed."""
        unsettled = self._unsettled()
        for column in range(len(self.request.settings)):
            yield from self._known(self._measuring.reference(column, stop, self._asked))
            places = [one for one in self._pending(stop) if one[1] == column]
            for place in sorted(places, key=lambda one: -unsettled[one]):
                yield from self._known(self._measuring.all_but(place, stop, self._asked))

    def _pending(self, stop: int) -> list[Place]:
        """Cells that this round is to measure."""
        refused = self._measuring.refused
        return [
            one for one in self._places if one not in refused and self._results.seen[one] < stop
        ]

    def _unsettled(self) -> Counter[Place]:
        """Of each cell, with how many of its column its interval overlaps."""
        found: Counter[Place] = Counter()
        for column in range(len(self.request.settings)):
            cells = [(row, self._cells[row, column]) for row in range(len(self._rows))]
            spans = [(row, *_interval(one)) for row, one in cells if one.rise is not None]
            for row, low, high in spans:
                overlaps = sum(low <= top and bottom <= high for _, bottom, top in spans)
                found[row, column] = overlaps - 1
        return found

    def _known(self, work: Iterator[Place | None]) -> Iterator[None]:
        """Write down what a bit of work has found."""
        for place in work:
            self._is_new = True
            if place is not None:
                self._tell_cell(place)
            yield
        for place in self._measuring.refused:
            self._tell_cell(place)

    # -- what is told

    def _tell_cell(self, place: Place) -> None:
        cell = self._results.measured(*place, self.request.direction == "all but this")
        if refusal := self._measuring.refused.get(place, ""):
            cell = Cell(refusal=refusal)
        self._cells[place] = replace(cell, left_out=self._measuring.left_out(place))

    def _tell(self, job: Job) -> None:
        total = len(self._samples) * (len(self._cells) - len(self._measuring.refused))
        job.tell(f"{self._stage}: sensitivity of layers", int(self._results.seen.sum()), total)


class _Asked(Job):
    """Lets the work ask the job of the moment whether to stop, and tell nothing of its own."""

    job: Job | None = None

    def check(self) -> None:
        """Ask that job."""
        if self.job is not None:
            self.job.check()


def _interval(cell: Cell) -> tuple[float, float]:
    assert cell.rise is not None
    reach = _SIGMAS * (cell.error or 0.0)
    return (cell.rise, cell.rise) if isinf(cell.rise) else (cell.rise - reach, cell.rise + reach)


def _check(request: ScanRequest) -> None:
    if not request.settings:
        raise EditRefused("There is no setting to scan.", "Choose one or more.")
    for name, value in (("samples", request.samples), ("first", request.first)):
        if value < 1:
            raise EditRefused(f"A scan with {name} {value} is not possible.", "Choose 1 or more.")
