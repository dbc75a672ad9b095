"""Cells measured: each the losses of an edited model, from where it parts from its reference."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from engine.editing import Subject
from engine.edits import Decision, Edit, edit_name
from engine.errors import DataSetUnreadable, EngineError, is_out_of_memory
from engine.job import Cancelled, Job
from engine.prefixes import Prefixes, Running
from engine.sensitivity.changes import Change, Row, change_of, changed_layers, edited
from engine.sensitivity.results import Place, Results
from engine.sensitivity.samples import Judged, Samples

UNEDITED = -1
"""In the place of a column: the state itself."""


@dataclass(frozen=True)
class _Twins:
    """Cells of one decision, and the model that it makes."""

    places: list[Place]
    run: Running


class Measuring:
    """Measures cells of a scan into its results, a batch at a time.

    Attributes:
        refused: why a cell cannot be measured.
    """

    def __init__(
        self,
        subject: Subject,
        rows: Sequence[Row],
        settings: Sequence[Edit],
        samples: Samples,
        results: Results,
    ) -> None:
        self.refused: dict[Place, str] = {}
        self._subject, self._rows, self._settings = subject, rows, settings
        self._samples, self._results = samples, results
        self._prefixes = Prefixes()
        self._changes: dict[Place, Change] = {}
        self._references: dict[int, nn.Module] = {UNEDITED: subject.model}

    def prepare(self, job: Job) -> None:
        """See how the model takes its samples.

        Raises:
            DataSetMismatch: it does not.
        """
        with self._prefixes.running(self._subject.model, None, 1) as run:
            self._samples.try_whether_alone(run, job)

    def reference(self, column: int, stop: int, job: Job) -> Iterator[None]:
        """The unedited state over the first ``stop`` samples, or all rows changed by a column."""
        seen = self._results.base_seen
        try:
            model = self._reference(column, job)
        except EngineError as error:  # the rows' changes do not go together
            self.refused |= {(row, column): str(error) for row in range(len(self._rows))}
            return
        example, most = self._samples.example, self._samples.rounds[-1]
        with self._prefixes.running(model, example, most) as run:
            for chunk in self._chunks(int(seen[column]), stop):
                self._results.base(column).take(chunk, self._samples.judged(run, chunk, job))
                seen[column] = chunk.stop
                yield

    def only(self, places: Sequence[Place], stop: int, job: Job) -> Iterator[Place | None]:
        """Cells of one row, that row alone changed, side by side; yields those that got further."""
        with ExitStack() as stack:
            found: list[tuple[Decision, _Twins]] = []
            for place in places:
                change = self.change(place, job)
                if change.decision is None:
                    continue
                twins = next((one for decision, one in found if decision == change.decision), None)
                if twins is None:
                    run = self._parting(place, [change], UNEDITED, stack, job)
                    if run is None:
                        continue
                    twins = _Twins([], run)
                    found.append((change.decision, twins))
                twins.places.append(place)
                yield None
            yield from self._run([twins for _, twins in found], stop, job)

    def all_but(self, place: Place, stop: int, job: Job) -> Iterator[Place | None]:
        """One cell, all other rows changed; yields it whenever it got further."""
        row, column = place
        if self.change(place, job).decision is None:
            return
        others = [one for at, one in enumerate(self._of_column(column, job)) if at != row]
        changes = [one for one in others if one.decision is not None]
        with ExitStack() as stack:
            run = self._parting(place, changes, column, stack, job)
            if run is not None:
                yield from self._run([_Twins([place], run)], stop, job)

    def change(self, place: Place, job: Job) -> Change:
        """What the cell's setting decides for its row; a refusal is written down."""
        if place not in self._changes:
            row, column = place
            change = change_of(self._settings[column], self._rows[row], self._subject, job)
            self._changes[place] = change
            if change.refusal:
                self.refused[place] = change.refusal
        return self._changes[place]

    def left_out(self, place: Place) -> Row:
        """Layers of the row that do not take the setting, as far as it is known."""
        return self._changes[place].left_out if place in self._changes else ()

    # -- inside

    def _of_column(self, column: int, job: Job) -> list[Change]:
        return [self.change((row, column), job) for row in range(len(self._rows))]

    def _reference(self, column: int, job: Job) -> nn.Module:
        if column not in self._references:
            changes = [one for one in self._of_column(column, job) if one.decision is not None]
            # One is kept beside the unedited state: each may hold a model's worth of weights.
            self._references = {UNEDITED: self._references[UNEDITED]}
            self._references[column] = edited(self._subject.model, changes)
        return self._references[column]

    def _parting(
        self, place: Place, changes: Sequence[Change], column: int, stack: ExitStack, job: Job
    ) -> Running | None:
        """The model with these changes, ready to run; None where they cannot be carried out."""
        base = self._reference(column, job)
        try:
            variant = edited(self._subject.model, changes)
        except EngineError as error:
            self.refused[place] = str(error)
            return None
        changed, resized = changed_layers(base, variant)
        kind = edit_name(self._settings[place[1]]) if resized else None
        return stack.enter_context(
            self._prefixes.parting(base, variant, self._samples.example, changed, kind)
        )

    def _run(self, twins: Sequence[_Twins], stop: int, job: Job) -> Iterator[Place | None]:
        seen = self._results.seen
        places = [place for one in twins for place in one.places]
        least = min((int(seen[place]) for place in places), default=stop)
        for chunk in self._chunks(least, stop):
            for one in twins:
                behind = [place for place in one.places if seen[place] < chunk.stop]
                if not behind or behind[0] in self.refused:
                    continue
                judged = self._judged(one, chunk, job)
                for place in behind:
                    if judged is not None:
                        self._results.cell(*place).take(chunk, judged)
                        seen[place] = chunk.stop
                    yield place

    def _judged(self, twins: _Twins, chunk: range, job: Job) -> Judged | None:
        """What the model makes of a chunk; None where it no longer runs."""
        try:
            return self._samples.judged(twins.run, chunk, job)
        except (Cancelled, DataSetUnreadable):
            raise
        except Exception as error:  # forwards raise what they like
            if is_out_of_memory(error):
                raise
            words = (str(error).splitlines() or [type(error).__name__])[0]
            told = words if isinstance(error, EngineError) else f"It no longer runs. {words}"
            self.refused |= dict.fromkeys(twins.places, told)
            return None

    def _chunks(self, seen: int, stop: int) -> Iterator[range]:
        """From there to the end of a round, cut as if nothing had been seen."""
        start = 0
        for end in self._samples.rounds:
            if end <= stop:
                yield from (one for one in self._samples.chunks(start, end) if one.stop > seen)
            start = end
