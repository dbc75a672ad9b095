"""Running a model over batches, each from the last place up to which it is known."""

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from engine.errors import is_out_of_memory
from engine.layers import LayerId
from engine.prefixes.absent import Absent, Form, has_absent
from engine.prefixes.cuts import Cut, cut_behind, last_cut, spread_cuts
from engine.prefixes.flow import UNKNOWN, Flow, common_until, flow_of
from engine.prefixes.passes import Mask, Pass, Reached, Snapshot, Strayed, Take
from engine.prefixes.store import Store
from engine.sharing import run_as_it_is, share_for_running

PREFIX_BUDGET = 1 << 30
"""Bytes of values that are kept between runs."""

_WORTHWHILE = 0.02
"""Share of a pass that a cut must save beyond the one before it."""

_OF_MANY = 0.001
"""The same where many variants are run from the cut."""


@dataclass(frozen=True)
class Batch:
    """Samples that go through the model together.

    Attributes:
        key: tells which these are, among all of the data.
        form: of the inputs, (N, …).
        load: gives them; not asked for where what follows them is known.
    """

    key: Hashable
    form: Form
    load: Callable[[], Tensor]

    @property
    def count(self) -> int:
        """Samples in it."""
        return self.form.shape[0]


@dataclass(frozen=True)
class _Parting:
    """What variants of a model share that part from it at the same place.

    Attributes:
        flow: of the model, its digests those from before they part.
        cuts: found so far, by ordinal.
        aim: the last cut before they part; None where there is none.
    """

    flow: Flow
    cuts: "dict[int, Cut | None]" = field(default_factory=dict)
    aim: Cut | None = None


class Prefixes:
    """Keeps values of passes over one set of samples, within a budget of bytes.

    Whatever model is run, it starts where it first differs from those run before: another state,
    or the same after undo. Results are those of whole passes, bit by bit.

    Attributes:
        store: holds snapshots by batch, and whatever else its owner keeps of the samples.
    """

    def __init__(self, budget: int = PREFIX_BUDGET) -> None:
        self.store = Store[Any](budget)
        self._flows = WeakKeyDictionary[nn.Module, Flow]()
        self._strayed = WeakKeyDictionary[nn.Module, str]()
        self._partings = WeakKeyDictionary[nn.Module, dict[Hashable, _Parting]]()

    @contextmanager
    def running(
        self, model: nn.Module, example: Tensor | None, samples: int, lasting: bool = True
    ) -> Iterator["Running"]:
        """A copy of ``model``, ready to run in evaluation mode.

        Args:
            example: one sample, with the batch axis; None if there is none to watch the model on.
            samples: how many will be run.
            lasting: whether states derived from this one will be run, so that it is worth while to
                keep values all over it.

        Raises:
            ModelUnreadable: it cannot be copied.
        """
        self.store.next_round()
        flow = self._flow(model, example)
        known = [other for one, other in self._flows.items() if one is not model]
        run = Running(self, model, flow, self._strayed.get(model, flow.reason))
        if not run.reason:
            run.aim(self._cuts(flow, known, samples, lasting))
        try:
            yield run
        finally:
            run.close()

    @contextmanager
    def parting(
        self,
        model: nn.Module,
        variant: nn.Module,
        example: Tensor | None,
        changed: frozenset[LayerId],
        kind: Hashable = None,
    ) -> Iterator["Running"]:
        """``variant`` itself, ready to run each batch from where it parts from ``model``.

        It is taken to part at the first use of what is changed. What is kept there serves all
        variants that part there.

        Args:
            variant: a sharing copy of the caller's own, of no use afterwards.
            example: as in :meth:`running`.
            changed: the layers in which they differ.
            kind: None where they differ in tensors, and in layers of other classes over these. Else
                a name of how they differ: the first variant of each kind is watched, as other
                layers may look at sizes and the like; where it parts the others part as well.
        """
        self.store.next_round()
        known = self._partings.setdefault(model, {})
        if (changed, kind) not in known:
            known[changed, kind] = self._parting(model, variant, example, changed, kind is not None)
        found = known[changed, kind]
        run = Running(self, variant, found.flow, found.flow.reason, found)
        run.aim([] if found.aim is None else [found.aim])
        try:
            yield run
        finally:
            run.close()

    def _parting(
        self,
        model: nn.Module,
        variant: nn.Module,
        example: Tensor | None,
        changed: frozenset[LayerId],
        watched: bool,
    ) -> _Parting:
        base = self._flow(model, example)
        if example is None or self._strayed.get(model, base.reason):
            return _Parting(UNKNOWN)
        # A layer that this pass does not come to may be used by other numbers of samples.
        until = min((base.first_uses.get(one, 0) for one in changed), default=sys.maxsize)
        if watched:
            until = common_until(base, variant, example, until)
        shared = {one: at for one, at in base.digests.items() if base.calls[at].end <= until}
        return _Parting(replace(base, digests=shared), {}, last_cut(base, until))

    def remember(self, model: nn.Module, reason: str) -> None:
        """Run this model whole from now on."""
        self._strayed[model] = reason

    def _flow(self, model: nn.Module, example: Tensor | None) -> Flow:
        if example is None or not self.store.budget:
            return UNKNOWN
        if model not in self._flows:
            self._flows[model] = flow_of(model, example)
        return self._flows[model]

    def _cuts(self, flow: Flow, known: list[Flow], samples: int, lasting: bool) -> list[Cut]:
        """Where it is worth while to keep values: where others part from it, and all over it."""
        cuts = spread_cuts(flow, self.store.budget // max(samples, 1)) if lasting else ()
        parting = last_cut(flow, max((flow.common(other) for other in known), default=0))
        return [*cuts, *([] if parting is None or parting in cuts else [parting])]


class Running:
    """A model that is run over batches.

    Attributes:
        reason: why every batch goes through the whole of it, in half a sentence; "" if it need not.
    """

    def __init__(
        self,
        owner: Prefixes,
        model: nn.Module,
        flow: Flow,
        reason: str,
        parting: "_Parting | None" = None,
    ) -> None:
        self.reason = reason
        self._owner = owner
        self._store = owner.store
        self._model = model
        self._flow = flow
        self._worthwhile = _WORTHWHILE if parting is None else _OF_MANY
        self._is_own = parting is not None
        self._aims: list[Cut] = []
        self._cuts = {} if parting is None else parting.cuts
        self._pass: Pass | None = None
        self._mask: tuple[LayerId, Mask] | None = None
        self._copy = self._fresh()

    def aim(self, cuts: list[Cut]) -> None:
        """Keep values at these places from now on, where there is room."""
        self._aims = cuts

    def close(self) -> None:
        """Let go of the copy; its layers and what steers them hold each other."""
        for module in self._copy.modules():
            module.__dict__.pop("forward", None)

    def __call__(self, batch: Batch) -> Any:
        """What the model gives for the batch; from the last place up to which it is known.

        Raises:
            Exception: whatever the model raises.
        """
        if self.reason:
            return self._whole(batch)
        start = self._start(batch)
        takes = self._takes(batch, start)
        try:
            output = self._steered(batch, start, takes)
        except (Strayed, _Mistaken):
            return self._whole(batch)
        for take in takes:
            self._keep(batch, take)
        return output

    def whole(self, inputs: Tensor) -> Any:
        """What the model gives for inputs of any kind, by a whole pass."""
        with torch.no_grad():
            return self._copy(inputs.clone() if self._flow.changes_inputs else inputs)

    def masked(
        self, batch: Batch, layer: LayerId, candidates: Sequence[Sequence[int]], axis: int
    ) -> Iterator[Any]:
        """What the model gives with each of these sets of a layer's channels at zero.

        What comes before is computed once for all.

        Args:
            axis: of the layer's output, that of channels.

        Raises:
            InvalidSelection: the layer puts out no single tensor.
        """
        cut = self._behind(layer)
        try:
            snapshot = self._snapshot(batch, cut) if cut else None
        except (Strayed, _Mistaken):
            snapshot = None
        for mask in [Mask(tuple(one), axis) for one in candidates]:
            if cut is not None and snapshot is not None:
                try:
                    yield self._steered(batch, (cut, snapshot), mask=mask)
                    continue
                except (Strayed, _Mistaken):
                    snapshot = None
            yield self._whole(batch, (layer, mask))

    # -- inside

    def _fresh(self) -> nn.Module:
        # Made ready once: what is run whole after a mistake is the same module.
        copy = run_as_it_is(self._model) if self._is_own else share_for_running(self._model)
        for name, module in copy.named_modules():
            module.__dict__["forward"] = self._called(LayerId(name), module.forward)
        return copy

    def _called(self, layer: LayerId, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            steering = self._pass
            if steering is not None and not steering.is_free:
                return steering.call(layer, forward, args, kwargs)
            output = forward(*args, **kwargs)
            if self._mask is not None and self._mask[0] == layer:
                return self._mask[1](output)
            return output

        return call

    def _whole(self, batch: Batch, mask: "tuple[LayerId, Mask] | None" = None) -> Any:
        inputs = batch.load()
        self._mask = mask
        try:
            return self.whole(inputs)
        finally:
            self._mask = None

    def _steered(
        self,
        batch: Batch,
        start: tuple[Cut, Snapshot] | None,
        takes: Sequence[Take] = (),
        stop: bool = False,
        mask: "Mask | None" = None,
    ) -> Any:
        """A pass from ``start``; None if it was to stop.

        Raises:
            _Mistaken, Strayed: it could not be taken up there; whole ones can still be made.
        """
        known = start is not None and not start[0].takes_input
        inputs = Absent(batch.form) if known else batch.load()
        if not known and self._flow.changes_inputs:
            inputs = inputs.clone()
        self._pass = steering = Pass(self._flow, start, inputs, takes, stop, mask)
        try:
            with torch.no_grad():
                output = self._copy(inputs)
            if not steering.is_free or has_absent(output):
                raise Strayed
        except Strayed:
            self._give_up("its passes are not alike")
            raise
        except Reached:
            return None
        except Exception as error:
            self._blame(error, start)
            raise _Mistaken from error
        finally:
            self._pass = None
        if start is not None and not start[1].intact:
            self._store.drop(batch.key, start[0].digest)
            self._give_up("it writes into what was kept")
            raise _Mistaken
        return output

    def _blame(self, error: Exception, start: tuple[Cut, Snapshot] | None) -> None:
        """Make ready for a whole pass if what failed can be the fault of what is kept."""
        if is_out_of_memory(error) and self._store.bytes:
            self._store.clear()
        elif start is not None and not is_out_of_memory(error):
            self._give_up("it cannot be taken up midway")
        else:
            raise error

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._owner.remember(self._model, reason)
        self.close()
        self._copy = self._fresh()

    def _cut(self, ordinal: int) -> Cut | None:
        if ordinal not in self._cuts:
            self._cuts[ordinal] = cut_behind(self._flow, ordinal)
        return self._cuts[ordinal]

    def _start(self, batch: Batch, until: int | None = None) -> tuple[Cut, Snapshot] | None:
        """The last place, up to a time, that something is kept of for this batch."""
        digests = self._flow.digests
        ordinals = [digests[one] for one in self._store.keys(batch.key) if one in digests]
        for ordinal in sorted(ordinals, key=lambda one: -self._flow.calls[one].end):
            cut = self._cut(ordinal)
            if cut is None or (until is not None and cut.at > until):
                continue
            snapshot: Snapshot | None = self._store.get(batch.key, cut.digest)
            if snapshot is not None and cut.kept <= snapshot.tensors.keys():
                return cut, snapshot
        return None

    def _takes(self, batch: Batch, start: tuple[Cut, Snapshot] | None) -> list[Take]:
        after, done = (start[0].at, start[0].work) if start else (0, 0.0)
        least = done + self._worthwhile * self._flow.work
        return [
            Take(self._flow, cut)
            for cut in self._aims
            if cut.at > after and cut.work >= least and self._store.fits(cut.bytes * batch.count)
        ]

    def _keep(self, batch: Batch, take: Take) -> None:
        if take.snapshot is not None:
            cut, snapshot = take.cut, take.snapshot
            worth = cut.work * batch.count
            self._store.put(batch.key, cut.digest, snapshot, snapshot.bytes, worth)

    def _behind(self, layer: LayerId) -> Cut | None:
        """The cut behind a layer's one call."""
        calls = [call.ordinal for call in self._flow.calls if call.layer == layer]
        return self._cut(calls[0]) if len(calls) == 1 and not self.reason else None

    def _snapshot(self, batch: Batch, cut: Cut) -> Snapshot | None:
        """What is kept at that cut; computed as far as it if need be."""
        start = self._start(batch, cut.at)
        if start is not None and start[0].digest == cut.digest:
            return start[1]
        take = Take(self._flow, cut)
        self._steered(batch, start, [take], stop=True)
        self._keep(batch, take)
        return take.snapshot


class _Mistaken(Exception):
    """A pass could not be taken up where it was; a whole one must be made."""
