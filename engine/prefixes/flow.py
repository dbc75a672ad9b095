"""What one forward pass did: which layers it called, and by which operators values came about.

Two passes do the same up to some moment if their operators, with their numbers and constants, are
the same up to it. So each call of a layer is given a digest of all that went before its end; the
same digest in another state of a model says that its output there is the same, bit by bit.
"""

import hashlib
import itertools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from engine.errors import is_out_of_memory
from engine.layers import LayerId
from engine.sharing import bytes_of, share_for_running, tensors_of

_ELEMENT = 16
"""What writing an element costs beside a multiply-accumulate; decides where cuts lie, no more."""

INPUT = 0
"""The number of the model's input, and of its storage."""

PLAIN = (int, float, str, bool, type(None), torch.Size, torch.dtype, torch.device)
"""What a layer may put out beside tensors so that its output can be kept and put back."""

_READERS = frozenset({"numpy", "tolist", "data_ptr", "_to_dlpack", "__dlpack__"})


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the pass.

    Attributes:
        number: of the tensor object.
        storage: of the memory behind it, which views share.
    """

    number: int
    storage: int


@dataclass(frozen=True, slots=True)
class Step:
    """An operator's call.

    Attributes:
        at: when, on the clock that the calls of layers share.
        made: storages that it allocated.
        changed: storages that were there, and that it wrote into.
    """

    at: int
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    made: frozenset[int]
    changed: frozenset[int]


@dataclass(slots=True)
class Call:
    """A layer's call.

    Attributes:
        ordinal: its place among all calls, by their start.
        children: ordinals of the calls inside.
        leaves: what it put out, flattened; None for what is no tensor.
        whole: whether its output is tensors and plain values alone.
        digest: of everything up to its end, and of weights that nothing read.
        trail: of everything up to its end alone.
        work: of everything up to its end, in multiply-accumulates.
    """

    ordinal: int
    layer: LayerId
    start: int
    end: int = sys.maxsize
    children: list[int] = field(default_factory=list)
    leaves: tuple[Value | None, ...] = ()
    whole: bool = False
    digest: bytes = b""
    trail: bytes = b""
    work: float = 0.0


@dataclass(frozen=True)
class Flow:
    """One pass.

    Attributes:
        calls: the root's first.
        given: storages that were there before: weights, constants.
        sizes: of each storage, in bytes.
        barrier: when values of the sample first decided in Python how to go on.
        reason: why nothing of it can be kept for another pass, in half a sentence; "" if it can.
        first_uses: when each layer was called or a tensor of its own was read, whichever was first.
    """

    calls: tuple[Call, ...]
    steps: tuple[Step, ...]
    results: tuple[Value, ...]
    given: frozenset[int]
    sizes: dict[int, int]
    work: float
    barrier: int
    reason: str
    digests: dict[bytes, int]
    first_uses: dict[LayerId, int]

    @property
    def changes_inputs(self) -> bool:
        """Whether the forward writes into what it is given."""
        return any(INPUT in step.changed for step in self.steps)

    def common(self, other: "Flow") -> int:
        """When the last call ended up to which both passes did the same; 0: none did."""
        same = self.digests.keys() & other.digests.keys()
        return max((self.calls[self.digests[one]].end for one in same), default=0)


UNKNOWN = Flow((), (), (), frozenset(), {}, 0.0, 0, "nothing is to be kept", {}, {})
"""That of a model that nobody has watched."""


def flow_of(model: nn.Module, example: Tensor) -> Flow:
    """Watch one pass of a copy of ``model`` over one sample, in evaluation mode.

    Args:
        example: with the batch axis.
    """
    copy, example = share_for_running(model), example.clone()
    watch = _Watch(copy, example)
    result, reason = None, ""
    try:
        with torch.no_grad(), _telling_reads(watch.read), watch:
            result = copy(example)
    except Exception as error:  # whatever is wrong with it, the evaluation itself will say
        if is_out_of_memory(error):
            raise
        reason = "it does not run on a single sample"
    if not all(map(torch.equal, model.buffers(), copy.buffers())):
        reason = "its forward changes its own buffers"
    watch.seal(copy)
    return watch.flow(result, reason or watch.keeps(copy))


def common_until(flow: Flow, variant: nn.Module, example: Tensor, until: int) -> int:
    """When the last call ended, up to that time, before which a variant's pass does the same.

    The pass is watched so far and no further.

    Args:
        example: as in :func:`flow_of`.
    """
    copy, example = share_for_running(variant), example.clone()
    watch = _Watch(copy, example, until)
    try:
        with torch.no_grad(), watch:
            copy(example)
    except _Enough:
        pass
    except Exception as error:  # it does not do the same
        if is_out_of_memory(error):
            raise
    trails = {one.trail for one in watch.ended}
    return max(
        (one.end for one in flow.calls if one.end <= until and one.trail in trails), default=0
    )


class _Enough(BaseException):
    """No more of the pass is to be watched. Not an Exception, which a forward may catch."""


class _Watch(TorchDispatchMode):
    """Writes down calls and operators of one pass.

    Args:
        until: when it is to be broken off.
    """

    def __init__(self, model: nn.Module, example: Tensor, until: int = sys.maxsize) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._until = until
        self._calls: list[Call] = []
        self._open: list[Call] = []
        self._steps: list[Step] = []
        self._clock = itertools.count()
        self._numbers = itertools.count()
        self._storages = itertools.count()
        self._known: dict[int, tuple[weakref.ref[Tensor], Value]] = {}
        self._tainted: set[int] = set()  # storages that depend on the sample
        self._given: set[int] = set()
        self._sizes: dict[int, int] = {}
        self._work = 0.0
        self._barrier = sys.maxsize
        self._reason = ""
        self._digest = hashlib.blake2b(digest_size=16)
        self._held: dict[int, tuple[Tensor, list[LayerId]]] = {}  # with the layers that hold it
        for name, tensor in _held_tensors(model):
            self._held.setdefault(id(tensor), (tensor, []))[1].append(name)
        self._first_uses: dict[LayerId, int] = {}
        self._tainted.add(self._number(example, next(self._storages)).storage)
        self._tell("input", tuple(example.shape), example.stride(), example.dtype)
        # What the bits of sums depend on beside the operators.
        self._tell(torch.get_num_threads(), torch.get_float32_matmul_precision())
        for name, module in model.named_modules():
            module.__dict__["forward"] = self._called(LayerId(name), module.forward)

    @property
    def ended(self) -> list[Call]:
        """Calls that have come to their end."""
        return [one for one in self._calls if one.trail]

    def flow(self, result: Any, reason: str) -> Flow:
        """What was seen."""
        known = (self._find(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        within = [one for one in self._calls if one.whole and one.end < self._barrier]
        return Flow(
            tuple(self._calls),
            tuple(self._steps),
            tuple(one for one in known if one is not None),
            frozenset(self._given),
            self._sizes,
            self._work,
            self._barrier,
            self._reason or reason,
            {one.digest: one.ordinal for one in within},
            self._first_uses,
        )

    def seal(self, model: nn.Module) -> None:
        """Let digests tell what was not read as well: other numbers of samples may need it."""
        # Scalars that nothing reads count batches in norms, and change when these are measured.
        unread = [
            content(one) for _, one in tensors_of(model) if one.dim() and self._find(one) is None
        ]
        for call in self._calls:
            call.digest = hashlib.blake2b(b"".join((call.trail, *unread)), digest_size=16).digest()

    def keeps(self, model: nn.Module) -> str:
        """Says so if a layer holds what the pass computed, which the next may read; else ""."""
        for name, module in model.named_modules():
            for leaf in _leaves_of(module):
                found = self._find(leaf)
                if found is not None and found.storage in self._tainted:
                    return f"{name or 'it'} keeps what it has computed"
        return ""

    def read(self, tensor: Tensor) -> None:
        """Take note that Python looks at a tensor's numbers."""
        self._use(tensor, next(self._clock))
        found = self._find(tensor)
        if found is not None and found.storage in self._tainted:
            self._barrier = min(self._barrier, next(self._clock))

    def _called(self, layer: LayerId, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._enter(layer)
            output = forward(*args, **kwargs)
            self._leave(output)
            return output

        return call

    def _enter(self, layer: LayerId) -> None:
        call = Call(len(self._calls), layer, next(self._clock))
        if call.start >= self._until:
            raise _Enough
        if self._open:
            self._open[-1].children.append(call.ordinal)
        self._calls.append(call)
        self._open.append(call)
        self._first_uses.setdefault(layer, call.start)
        self._tell("enter", layer)

    def _leave(self, output: Any) -> None:
        call = self._open.pop()
        leaves, spec = tree_flatten(output)
        found = [self._find(leaf) if isinstance(leaf, Tensor) else None for leaf in leaves]
        lost = any(
            one is None and not isinstance(leaf, PLAIN)
            for one, leaf in zip(found, leaves, strict=True)
        )
        call.leaves, call.whole = tuple(found), not lost
        told = (
            leaf if one is None else one.number for one, leaf in zip(found, leaves, strict=True)
        )
        self._tell("leave", spec, *(() if lost else told))
        call.end, call.trail, call.work = next(self._clock), self._digest.digest(), self._work

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        reads = tuple(self._read_by(func, tensor) for tensor in tensors)
        numbers = iter(reads)
        self._tell(
            func, *(next(numbers).number if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        )
        out = func(*args, **kwargs)
        at = next(self._clock)
        for tensor in tensors:
            self._use(tensor, at)
        storages = {
            _memory(tensor): use.storage for tensor, use in zip(tensors, reads, strict=True)
        }
        written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        before = set(self._sizes)
        writes = tuple(self._written(leaf, storages) for leaf in written)
        made = frozenset(self._sizes.keys() - before)
        changed = frozenset(
            use.storage
            for tensor in _written_into(func, args, kwargs)
            if (use := self._find(tensor)) is not None
        )
        self._judge(func, args, kwargs, at, reads, changed)
        if any(use.storage in self._tainted for use in reads):
            self._tainted |= made | changed
        self._steps.append(Step(at, reads, writes, made, changed))
        self._work += _macs(func, args, kwargs, out) + _ELEMENT * sum(
            self._sizes[storage] / 4 for storage in made
        )
        return out

    def _use(self, tensor: Tensor, at: int) -> None:
        _, layers = self._held.get(id(tensor), (None, ()))
        for layer in layers:
            self._first_uses.setdefault(layer, at)

    def _judge(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        at: int,
        reads: tuple[Value, ...],
        changed: frozenset[int],
    ) -> None:
        if changed & self._given:
            self._reason = "its forward changes what it holds"
        if torch.Tag.nondeterministic_seeded in func.tags and _draws(func, args, kwargs):
            self._reason = f"its forward draws random numbers ({func})"
        depends = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        if depends & set(func.tags) and any(one.storage in self._tainted for one in reads):
            self._barrier = min(self._barrier, at)

    def _read_by(self, func: Any, tensor: Tensor) -> Value:
        found = self._find(tensor)
        if found is not None:
            return found
        value = self._number(tensor, next(self._storages))
        self._given.add(value.storage)
        constant = func is torch.ops.aten.lift_fresh.default
        if not constant and id(tensor) not in self._held:
            self._reason = "its forward reads tensors that none of its layers holds"
        self._tell("given", tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
        self._tell(content(tensor))
        return value

    def _written(self, tensor: Tensor, storages: dict[int, int]) -> Value:
        found = self._find(tensor)
        if found is not None:  # in place
            return found
        storage = storages.get(_memory(tensor))
        return self._number(tensor, next(self._storages) if storage is None else storage)

    def _find(self, leaf: Any) -> Value | None:
        known, value = self._known.get(id(leaf), (None, None))
        return value if known is not None and known() is leaf else None

    def _number(self, tensor: Tensor, storage: int) -> Value:
        value = Value(next(self._numbers), storage)
        self._known[id(tensor)] = weakref.ref(tensor), value
        self._sizes.setdefault(storage, tensor.nbytes)
        return value

    def _tell(self, *words: Any) -> None:
        self._digest.update(repr(words).encode())


def _held_tensors(model: nn.Module) -> Iterator[tuple[LayerId, Tensor]]:
    for name, module in model.named_modules():
        for leaf in _leaves_of(module):
            if isinstance(leaf, Tensor):
                yield LayerId(name), leaf


def _leaves_of(module: nn.Module) -> list[Any]:
    """All that a layer holds itself, also in lists, tuples and mappings."""
    return tree_leaves({key: one for key, one in vars(module).items() if key != "_modules"})


def _memory(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and opaque ones have none
        return -id(tensor)


@cache
def _places_written(func: Any) -> tuple[tuple[int, str], ...]:
    arguments = enumerate(func._schema.arguments)
    return tuple(
        (at, one.name) for at, one in arguments if one.alias_info and one.alias_info.is_write
    )


def _written_into(func: Any, args: Any, kwargs: Any) -> Iterable[Tensor]:
    found = (args[at] if at < len(args) else kwargs.get(name) for at, name in _places_written(func))
    return [leaf for leaf in tree_leaves(list(found)) if isinstance(leaf, Tensor)]


def _draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator that may draw does: not with a dropout of 0, nor outside training."""
    for at, one in enumerate(func._schema.arguments):
        value = args[at] if at < len(args) else kwargs.get(one.name, one.default_value)
        if one.name in ("dropout_p", "dropout", "p", "train", "training") and not value:
            return False
    return True


def _macs(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    formula = flop_registry.get(func._overloadpacket)
    try:
        return 0.0 if formula is None else formula(*args, **kwargs, out_val=out) / 2
    except (TypeError, ValueError, AssertionError):  # a call that torch's formula does not know
        return 0.0


_contents: MutableMapping[Tensor, tuple[int, bytes]] = WeakIdKeyDictionary()


def content(tensor: Tensor) -> bytes:
    """Digest of a tensor's bits; taken once for each version of it, as states share tensors."""
    version = -1 if tensor.is_inference() else tensor._version
    known, digest = _contents.get(tensor, (None, b""))
    if known is None or known != version or version < 0:
        digest = hashlib.sha256(bytes_of(tensor)).digest()
        _contents[tensor] = version, digest
    return digest


@contextmanager
def _telling_reads(told: Callable[[Tensor], None]) -> Iterator[None]:
    """Tell of every tensor whose numbers go to Python past the dispatcher, in this thread."""

    def profile(_frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and called.__name__ in _READERS:
            tensor = getattr(called, "__self__", None)
            if isinstance(tensor, Tensor):
                told(tensor)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)
