"""The Python side of running a model, by cProfile: which function calls which, and its time."""

import cProfile
import marshal
import pstats
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType, ModuleType
from typing import Any

from torch import nn

from engine.errors import ProfilingFailed
from engine.job import Job
from engine.profiles import CallNode, CallProfile
from engine.profiling.running import AS_IT_IS, Run, running
from engine.requests import RunSettings

RUNS = 5
_WARM_UP_RUNS = 2

_DEEPEST = 200  # calls in calls

CPROFILE_KEEPS_TO_ITS_THREAD = sys.version_info < (3, 12)
"""Later ones also see what other threads call, such as the window's, and mistake whose it is."""

Function = tuple[str, int, str]
"""File, line and name, as :mod:`pstats` has them."""

_OUTSIDE: Function = ("", 0, "")  # what runs the passes


def profile_python(
    model: nn.Module,
    inputs: tuple[Any, ...],
    job: Job,
    settings: RunSettings = AS_IT_IS,
    runs: int = RUNS,
) -> CallProfile:
    """The call tree of ``runs`` passes, and the ``.prof`` file of the same passes.

    cProfile keeps one figure for each caller and callee, wherever in the tree the two meet, and
    every layer meets ``Module._call_impl``. So one more pass is followed call by call, and each
    figure is split among the places where that caller calls that callee, in the proportion in
    which the followed pass spent its time there. Times of the whole tree add up to cProfile's own;
    they are longer than without it, most where many short functions run. Where cProfile does not
    keep to its thread, every pass is followed instead, which takes longer still.

    Raises:
        ProfilingFailed: the model does not run so on this machine, or something else (a debugger,
            a coverage tool) has taken Python's one place for profilers.
        Cancelled: between two runs.
    """
    if sys.getprofile() is not None:
        raise ProfilingFailed(
            "Another profiler or debugger is running in this process.", "Start Secateur without it."
        )
    with running(model, inputs, settings) as run:
        job.begin("Profiling Python", _WARM_UP_RUNS + runs + CPROFILE_KEEPS_TO_ITS_THREAD)
        for _ in range(_WARM_UP_RUNS):
            run.once()
            job.advance()
        figures = _figures(run, runs, job) if CPROFILE_KEEPS_TO_ITS_THREAD else None
        follower = _Follower()
        for _ in range(1 if figures else runs):
            run.once(within=follower)
            job.advance()
    recorder = "cProfile" if figures else "sys.setprofile"
    figures = figures or _followed_figures(follower.root)
    root = _tree(follower.root, figures, runs)
    conditions = run.conditions | {
        "runs": str(runs), "recorder": f"{recorder}, which slows it down",
    }  # fmt: skip
    return CallProfile(root, runs, marshal.dumps(figures), conditions)


Figures = dict[Function, tuple[int, int, float, float, dict[Function, tuple[Any, ...]]]]
"""Primitive calls, calls, own and total seconds; by caller the same with calls first."""


def _figures(run: Run, runs: int, job: Job) -> Figures:
    profiler = cProfile.Profile()
    for _ in range(runs):
        run.once(within=profiler)
        job.advance()
    figures: Figures = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    return {function: one for function, one in figures.items() if not _is_the_profilers(function)}


def _is_the_profilers(function: Function) -> bool:
    return function[0] == cProfile.__file__ or "_lsprof.Profiler" in function[2]


# -- following one pass


@dataclass(slots=True)
class _Place:
    """A function where it stands in the tree of calls."""

    function: Function
    calls: int = 0
    own: float = 0.0
    children: dict[Function, "_Place"] = field(default_factory=dict)

    def child(self, function: Function) -> "_Place":
        """The place of a function that this one calls."""
        if function not in self.children:
            self.children[function] = _Place(function)
        return self.children[function]


class _Follower:
    """Follows every call while it is entered; the places are below ``root``."""

    def __init__(self) -> None:
        self.root = _Place(_OUTSIDE)
        self._stack = [self.root]
        self._deeper = 0  # calls below the deepest place that is kept
        self._latest = 0.0

    def __enter__(self) -> None:
        self._latest = time.perf_counter()
        sys.setprofile(self._follow)

    def __exit__(self, *_error: object) -> None:
        sys.setprofile(None)
        del self._stack[1:]

    def _follow(self, frame: FrameType, event: str, argument: Any) -> None:
        stack = self._stack
        stack[-1].own += time.perf_counter() - self._latest
        if event in ("call", "c_call"):
            if len(stack) > _DEEPEST:
                self._deeper += 1
            else:
                function = _function_of(frame) if event == "call" else _builtin(argument)
                stack.append(stack[-1].child(function))
                stack[-1].calls += 1
        elif self._deeper:
            self._deeper -= 1
        elif len(stack) > 1:
            stack.pop()
        self._latest = time.perf_counter()


def _function_of(frame: FrameType) -> Function:
    code = frame.f_code
    return code.co_filename, code.co_firstlineno, code.co_name


def _builtin(function: Any) -> Function:
    """A function in C by the name that cProfile gives it."""
    name, owner = function.__name__, getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType):
        for kind in type(owner).__mro__:
            if name in kind.__dict__:
                return "~", 0, repr(kind.__dict__[name])
    module = function.__module__
    return "~", 0, f"<built-in method {f'{module}.' if isinstance(module, str) else ''}{name}>"


def _followed_figures(root: _Place) -> Figures:
    """What cProfile would have kept of the followed calls."""
    figures: dict[Function, list[Any]] = {}

    def add(caller: _Place, place: _Place, above: frozenset[Function]) -> float:
        function, calls = place.function, place.calls
        inside = above | {function}
        total = place.own + sum(add(place, one, inside) for one in place.children.values())
        kept = figures.setdefault(function, [0, 0, 0.0, 0.0, {}])
        outermost = function not in above  # of a recursion, whose time counts once
        for at, value in enumerate((calls, calls, place.own, total)):
            kept[at] += value if at in (1, 2) or outermost else 0
        if caller.function != _OUTSIDE:
            before = kept[4].get(caller.function, (0, 0, 0.0, 0.0))
            now = (calls, calls, place.own, total)
            kept[4][caller.function] = tuple(a + b for a, b in zip(before, now, strict=True))
        return total

    for place in root.children.values():
        if place.function[0] != __file__:  # the follower's own end
            add(root, place, frozenset())
    return {function: tuple(kept) for function, kept in figures.items()}


# -- the tree


class _Seen:
    """Time and calls of the followed pass by caller and callee, over all their places."""

    def __init__(self, root: _Place) -> None:
        self.own: dict[tuple[Function, Function], float] = {}
        self.calls: dict[tuple[Function, Function], int] = {}
        for caller, place in _pairs(root):
            pair = caller.function, place.function
            self.own[pair] = self.own.get(pair, 0.0) + place.own
            self.calls[pair] = self.calls.get(pair, 0) + place.calls


def _tree(followed: _Place, figures: Figures, runs: int) -> CallNode:
    seen = _Seen(followed)
    children = _below(followed, figures, seen) + _unfollowed(figures, seen)
    return _summed(CallNode("model", "", 0, runs, 0.0, 0.0), children)


def _below(caller: _Place, figures: Figures, seen: _Seen) -> list[CallNode]:
    nodes = [_node(place, caller, figures, seen) for place in caller.children.values()]
    return [node for node in nodes if node.calls or node.children]


def _pairs(root: _Place) -> Iterator[tuple[_Place, _Place]]:
    pending = [root]
    while pending:
        caller = pending.pop()
        for place in caller.children.values():
            yield caller, place
            pending.append(place)


def _node(place: _Place, caller: _Place, figures: Figures, seen: _Seen) -> CallNode:
    pair = caller.function, place.function
    calls, own = _figure(figures, *pair)
    made = _named(
        place.function,
        round(calls * place.calls / seen.calls[pair]),
        own * place.own / seen.own[pair] if seen.own[pair] else 0.0,
    )
    return _summed(made, _below(place, figures, seen))


def _figure(figures: Figures, caller: Function, callee: Function) -> tuple[int, float]:
    """Calls and own seconds of a function as this one calls it."""
    if callee not in figures:
        return 0, 0.0
    _, calls, own, _, callers = figures[callee]
    if caller == _OUTSIDE:  # what the passes call themselves has no caller that cProfile saw
        known = callers.values()
        return calls - sum(one[0] for one in known), own - sum(one[2] for one in known)
    if caller not in callers:
        return 0, 0.0
    return callers[caller][0], callers[caller][2]


def _unfollowed(figures: Figures, seen: _Seen) -> list[CallNode]:
    """Calls that cProfile saw and the followed pass did not make, such as those of finalizers."""
    nodes = []
    for callee, (_, _, _, _, callers) in figures.items():
        for caller in (*callers, _OUTSIDE):
            calls, own = _figure(figures, caller, callee)
            if calls and (caller, callee) not in seen.own:
                nodes.append(_summed(_named(callee, calls, own), []))
    return nodes


def _named(function: Function, calls: int, own: float) -> CallNode:
    file, line, name = function
    return CallNode(name, "" if file == "~" else file, line, calls, own, own)


def _summed(node: CallNode, children: list[CallNode]) -> CallNode:
    """The node over its children, the longest first."""
    children.sort(key=lambda child: -child.total)
    total = node.own + sum(child.total for child in children)
    return CallNode(node.name, node.file, node.line, node.calls, node.own, total, tuple(children))
