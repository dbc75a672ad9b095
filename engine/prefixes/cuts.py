"""Where a pass can be taken up again, and what must be kept for it.

A cut lies behind the end of a layer's call. In front of it whole layers are left out, the largest
that have ended; what runs between layers runs again, if what follows needs it. Kept is what the
layers left out have handed over and a later operator reads.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from engine.prefixes.flow import INPUT, Call, Flow, Step

_MOST_CUTS = 7
_CANDIDATES = 12


@dataclass(frozen=True)
class Cut:
    """A place in a pass.

    Attributes:
        call: behind whose end it lies; its ordinal.
        at: when that ended.
        digest: of everything before.
        skipped: ordinals of the calls that are left out.
        kept: numbers of the tensors that are needed behind.
        copied: those of them that are written into behind.
        takes_input: whether the model's input is needed behind.
        work: left out, in multiply-accumulates.
        bytes: of what is kept, for as many samples as the pass had.
    """

    call: int
    at: int
    digest: bytes
    skipped: frozenset[int]
    kept: frozenset[int]
    copied: frozenset[int]
    takes_input: bool
    work: float
    bytes: int


def cut_behind(flow: Flow, ordinal: int) -> Cut | None:
    """The cut behind that call; None where the pass cannot be taken up."""
    call = flow.calls[ordinal]
    if flow.reason or call.end >= flow.barrier or call.digest not in flow.digests:
        return None
    skipped = tuple(_ended(flow, call.end))
    if ordinal not in {one.ordinal for one in skipped}:
        return None
    needs = _Needs(flow, call.end, skipped)
    if not needs.met:
        return None
    return Cut(
        ordinal,
        call.end,
        call.digest,
        frozenset(one.ordinal for one in skipped),
        needs.kept,
        needs.copied,
        needs.takes_input,
        call.work,
        needs.bytes,
    )


def last_cut(flow: Flow, until: int) -> Cut | None:
    """The last cut up to that time."""
    ended = sorted((one for one in flow.calls if one.end <= until), key=lambda one: -one.end)
    for call in ended[:_CANDIDATES]:
        cut = cut_behind(flow, call.ordinal)
        if cut is not None:
            return cut
    return None


def spread_cuts(flow: Flow, most_bytes: int) -> tuple[Cut, ...]:
    """A handful of cuts that divide the work evenly, each the lightest thereabouts.

    Args:
        most_bytes: all of them together; those that save least for their bytes are left out.
    """
    chosen: dict[bytes, Cut] = {}
    for part in range(1, _MOST_CUTS + 1):
        near = flow.work * part / (_MOST_CUTS + 1), flow.work / (2 * _MOST_CUTS + 2)
        cut = _lightest(flow, near[0] - near[1], near[0] + near[1])
        if cut is not None:
            chosen[cut.digest] = cut
    taken, size = list[Cut](), 0
    for cut in sorted(chosen.values(), key=lambda one: -one.work / max(one.bytes, 1)):
        if size + cut.bytes <= most_bytes:
            taken.append(cut)
            size += cut.bytes
    return tuple(sorted(taken, key=lambda one: one.at))


def _lightest(flow: Flow, low: float, high: float) -> Cut | None:
    within = [one for one in flow.calls if low <= one.work < high and one.whole]
    within.sort(key=lambda one: (_output_bytes(flow, one), -one.end))
    cuts = [cut_behind(flow, one.ordinal) for one in within[:_CANDIDATES]]
    return min((one for one in cuts if one is not None), key=lambda one: one.bytes, default=None)


def _output_bytes(flow: Flow, call: Call) -> int:
    return sum(flow.sizes[one.storage] for one in call.leaves if one is not None)


def _ended(flow: Flow, at: int) -> Iterator[Call]:
    """The largest calls that had ended by then and whose output can be put back."""
    pending = [0] if flow.calls else []
    while pending:
        call = flow.calls[pending.pop()]
        if call.end <= at and call.whole:
            yield call
        elif call.start < at:
            pending.extend(call.children)


class _Needs:
    """What the operators that still run read of those that do not.

    A tensor object that a call left out hands over may reach its reader by that call's output or
    by another name, which a pass does not tell. So whatever is needed must hold the same by either.

    Attributes:
        met: whether all of it can be kept and put back.
        kept, copied, takes_input, bytes: as in :class:`Cut`.
    """

    def __init__(self, flow: Flow, at: int, skipped: tuple[Call, ...]) -> None:
        self._flow = flow
        self._at = at
        self._spans = sorted((one.start, one.end) for one in skipped)
        self._starts = [start for start, _ in self._spans]
        self._live = live = self._backwards()
        needed = {use.number: use.storage for step in live for use in step.reads}
        needed |= {use.number: use.storage for use in flow.results}
        handed = {leaf.number for one in skipped for leaf in one.leaves if leaf is not None}
        self.kept = frozenset(needed.keys() & handed - {INPUT})
        self.takes_input = INPUT in needed
        storages = [needed[number] for number in self.kept]
        self.bytes = sum(flow.sizes[one] for one in set(storages))
        behind = {one for step in flow.steps if step.at > at for one in step.changed}
        self.copied = frozenset(one for one in self.kept if needed[one] in behind)
        self._dropped = frozenset(
            one for step in flow.steps if self._is_dropped(step) for one in step.made
        )
        self.met = (
            not self._made_inside() & needed.keys() - handed
            and not self._is_entangled(set(needed.values()))
            and all(
                one in self._dropped and storages.count(one) == 1 for one in behind & {*storages}
            )
        )

    def _is_dropped(self, step: Step) -> bool:
        """Whether the operator is inside a call that is left out."""
        span = bisect_right(self._starts, step.at) - 1
        return span >= 0 and step.at < self._spans[span][1]

    def _backwards(self) -> list[Step]:
        """The operators that run and whose work reaches a result, last first."""
        wanted = {use.storage for use in self._flow.results}
        live = []
        for step in reversed(self._flow.steps):
            if self._is_dropped(step):
                continue
            if step.changed & wanted or any(use.storage in wanted for use in step.writes):
                live.append(step)
                wanted -= step.made
                wanted |= {use.storage for use in step.reads}
        return live

    def _made_inside(self) -> set[int]:
        """Numbers of the tensors that first came about in calls left out."""
        seen, inside = {INPUT}, set[int]()
        for step in self._flow.steps:
            seen |= {use.number for use in step.reads}
            if self._is_dropped(step):
                inside |= {use.number for use in step.writes} - seen
            seen |= {use.number for use in step.writes}
        return inside

    def _is_entangled(self, needed: set[int]) -> bool:
        """Whether needed memory is written into before the cut in a way that cannot be repeated.

        Kept is what a tensor holds at the cut. It must have been made and written by layers left
        out alone, or by operators that run alone, and read by none of these before the last change.
        """
        read = {
            use.storage: step.at for step in self._live if step.at < self._at for use in step.reads
        }  # the first of each, as they come last first
        for step in self._flow.steps:
            if step.at > self._at:
                return False
            for one in step.changed & needed:
                inside = self._is_dropped(step)
                if inside != (one in self._dropped):
                    return True
                if inside and read.get(one, step.at) < step.at:
                    return True
        return False
