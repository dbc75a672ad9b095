"""A pass that leaves out what is known, and keeps what later passes may leave out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from engine.errors import InvalidSelection
from engine.layers import LayerId
from engine.prefixes.absent import Absent, Form
from engine.prefixes.cuts import Cut
from engine.prefixes.flow import INPUT, PLAIN, Flow, Value


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor stood in an output."""

    number: int
    form: Form


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is kept of one batch at a cut.

    Attributes:
        outputs: of the layers left out, by the ordinals of their calls: leaves and their form.
        tensors: those kept, by number.
        versions: of these when they were kept: how often they had been written into.
    """

    outputs: dict[int, tuple[TreeSpec, tuple[Any, ...]]]
    tensors: dict[int, Tensor]
    versions: dict[int, int]

    @property
    def bytes(self) -> int:
        """Of the memory behind the tensors."""
        held = {
            one.untyped_storage()._cdata: one.untyped_storage().nbytes()
            for one in self.tensors.values()
        }
        return sum(held.values())

    @property
    def intact(self) -> bool:
        """Whether nobody has written into a tensor."""
        return all(self.tensors[one]._version == now for one, now in self.versions.items())


@dataclass(frozen=True)
class Mask:
    """Channels that are set to zero.

    Attributes:
        axis: that of channels.
    """

    channels: tuple[int, ...]
    axis: int

    def __call__(self, output: Any) -> Tensor:
        """The output with these channels at zero; the output itself is left as it is.

        Raises:
            InvalidSelection: it is no tensor.
        """
        if not isinstance(output, Tensor):
            raise InvalidSelection(
                "The layer puts out several tensors, so no channel can be masked."
            )
        chosen = torch.tensor(self.channels, dtype=torch.int64, device=output.device)
        return output.index_fill(self.axis, chosen, 0)


class Strayed(BaseException):
    """The pass went another way than the one that was watched.

    Not an Exception: a forward that catches those must not catch this.
    """


class Reached(BaseException):
    """The pass has come as far as it was to go; likewise."""


class Take:
    """Takes a snapshot during a pass.

    Attributes:
        snapshot: when it has been taken; None before, and if it cannot be.
    """

    def __init__(self, flow: Flow, cut: Cut) -> None:
        self.cut = cut
        self.snapshot: Snapshot | None = None
        self._flow = flow
        self._outputs: dict[int, tuple[TreeSpec, tuple[Any, ...]]] = {}
        self._tensors: dict[int, Tensor] = {}

    def note(self, ordinal: int, output: Any) -> None:
        """See what a call put out.

        Raises:
            Strayed: something else than in the pass that was watched.
        """
        if ordinal not in self.cut.skipped:
            return
        leaves, spec = tree_flatten(output)
        values = self._flow.calls[ordinal].leaves
        if len(leaves) != len(values):
            raise Strayed
        self._outputs[ordinal] = spec, tuple(map(self._noted, leaves, values))
        if ordinal == self.cut.call:
            self._finish()

    def _noted(self, leaf: Any, value: Value | None) -> Any:
        if value is None or not isinstance(leaf, Tensor):
            if value is not None or not isinstance(leaf, PLAIN):
                raise Strayed
            return leaf
        if value.number in self.cut.kept:
            self._tensors[value.number] = leaf
        return _Place(value.number, Form.of(leaf))

    def _finish(self) -> None:
        tensors = {
            number: tensor.clone() if number in self.cut.copied else tensor
            for number, tensor in self._tensors.items()
            if not isinstance(tensor, Absent)
        }
        same = all(
            one.stride() == self._tensors[number].stride() for number, one in tensors.items()
        )
        if same and tensors.keys() == self.cut.kept:
            versions = {number: one._version for number, one in tensors.items()}
            self.snapshot = Snapshot(self._outputs, tensors, versions)
        self._tensors = {}


class Pass:
    """Steers one pass through the calls of layers.

    Args:
        start: where it begins, with what was kept there; None: with the input.
        takes: snapshots to take behind that.
        stop: whether it ends with the last of them.
        mask: of what the layer before the start puts out.
    """

    def __init__(
        self,
        flow: Flow,
        start: tuple[Cut, Snapshot] | None,
        inputs: Tensor,
        takes: Sequence[Take] = (),
        stop: bool = False,
        mask: Mask | None = None,
    ) -> None:
        self._flow = flow
        self._mask = mask
        self._masked = start[0].call if start else -1
        self._takes = takes
        self._stop = stop
        self._skipped = start[0].skipped if start else frozenset[int]()
        self._snapshot = start[1] if start else None
        self._copied = start[0].copied if start else frozenset[int]()
        self._back: dict[int, Tensor] = {INPUT: inputs}
        cuts = [one.cut for one in takes] + ([start[0]] if start else [])
        self._expected = _visible(flow, self._skipped, max((one.at for one in cuts), default=0))
        self._next = 0

    @property
    def is_free(self) -> bool:
        """Whether there is nothing more to steer."""
        return self._next >= len(self._expected)

    def call(
        self, layer: LayerId, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """A layer's call: left out, or done and looked at.

        Raises:
            Strayed: another one was expected.
            Reached: it was the last one wanted.
        """
        ordinal = self._expected[self._next]
        if self._flow.calls[ordinal].layer != layer:
            raise Strayed
        self._next += 1
        if ordinal in self._skipped:
            output = self._put_back(ordinal)
            if self._mask is not None and ordinal == self._masked:
                output = self._mask(output)
        else:
            output = forward(*args, **kwargs)
        for take in self._takes:
            take.note(ordinal, output)
        if self._stop and self._takes[-1].cut.call == ordinal:
            raise Reached
        return output

    def _put_back(self, ordinal: int) -> Any:
        assert self._snapshot is not None
        spec, leaves = self._snapshot.outputs[ordinal]
        return tree_unflatten([self._leaf(one, self._snapshot) for one in leaves], spec)

    def _leaf(self, leaf: Any, snapshot: Snapshot) -> Any:
        if not isinstance(leaf, _Place):
            return leaf
        if leaf.number not in self._back:  # one object for one number, as it was
            kept = snapshot.tensors.get(leaf.number)
            if kept is not None and leaf.number in self._copied:
                kept = kept.clone()
            self._back[leaf.number] = Absent(leaf.form) if kept is None else kept
        return self._back[leaf.number]


def _visible(flow: Flow, skipped: frozenset[int], until: int) -> list[int]:
    """Ordinals of the calls that start up to then, without those inside of one left out."""
    found, end = [], -1
    for call in flow.calls:
        if call.start >= until:
            break
        if call.start > end:
            found.append(call.ordinal)
            if call.ordinal in skipped:
                end = call.end
    return found
