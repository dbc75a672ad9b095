"""Where the time goes inside a layer's ``forward``, line by line, by line_profiler."""

import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

import torch
from line_profiler import LineProfiler
from torch import nn

from engine.errors import InvalidSelection, ProfilingFailed
from engine.job import Job
from engine.layers import LayerId
from engine.profiles import LineProfile, SourceFunction, SourceLine
from engine.profiling.running import AS_IT_IS, Run, running
from engine.requests import RunSettings

RUNS = 10
_WARM_UP_RUNS = 2

_Holders = dict[CodeType, list[FunctionType]]
"""The functions that hold each code; decorated in the same place, several share one."""

_PLUMBING = nn.Module.__call__.__code__.co_filename  # it leads to other layers


def profile_lines(
    model: nn.Module,
    inputs: tuple[Any, ...],
    layer: LayerId,
    follow: bool,
    job: Job,
    settings: RunSettings = AS_IT_IS,
) -> LineProfile:
    """Time per line of the ``forward`` of one layer, over some passes of the whole model.

    Only this layer's calls are timed, not those of others of its class (unless its forward is
    decorated: then those inside it count as well). A line's time holds all that it calls, and
    grows by the profiler's own work at each line.

    Args:
        follow: add the functions in Python that the forward calls itself, other layers left out.
            They are timed wherever this layer's forward leads to them.

    Raises:
        InvalidSelection: there is no such layer.
        ProfilingFailed: its forward has no Python source or was not run, or the model does not
            run so on this machine.
        Cancelled: between two runs.
    """
    with running(model, inputs, settings) as run:
        module = _module(run.model, layer)
        forward = _forward_of(module, layer)
        job.begin("Timing lines", _WARM_UP_RUNS + 1 + RUNS)
        for _ in range(_WARM_UP_RUNS):
            run.once()
            job.advance()
        called = _called(run, module, forward) if follow else {}
        job.advance()
        functions = _timed(run, module, forward, called, job)
    if not functions[0].seconds:
        raise ProfilingFailed(
            f"The forward of {layer or 'the model'} does not run in a pass of the model.",
            "Choose a layer that the model calls.",
        )
    conditions = run.conditions | {"runs": str(RUNS), "recorder": "line_profiler, which slows it"}
    return LineProfile(layer, functions, RUNS, conditions)


def _module(model: nn.Module, layer: LayerId) -> nn.Module:
    try:
        return model.get_submodule(layer)
    except AttributeError:
        raise InvalidSelection(f"There is no layer “{layer}”.") from None


def _forward_of(module: nn.Module, layer: LayerId) -> FunctionType:
    """The function in Python behind the layer's forward, without decorators."""
    name = layer or "the model"
    if isinstance(module, torch.jit.ScriptModule):
        raise ProfilingFailed(
            f"The forward of {name} is TorchScript, which does not run as Python.",
            "Profile its operators.",
        )
    bound = inspect.unwrap(module.forward)
    function = getattr(bound, "__func__", bound)
    if not isinstance(function, FunctionType) or _source(function.__code__) is None:
        raise ProfilingFailed(
            f"There is no Python source for the forward of {name}.", "Profile its operators."
        )
    return function


def _source(code: CodeType) -> tuple[list[str], int] | None:
    """The lines of a function's source and the number of the first; generated code has them too."""
    try:
        return inspect.getsourcelines(code)
    except (OSError, TypeError, SyntaxError):
        return None


# -- the functions that a forward calls


def _called(run: Run, module: nn.Module, forward: FunctionType) -> _Holders:
    """Functions with Python source that the forward calls itself, in order of their first call."""
    codes: dict[CodeType, dict[str, Any]] = {}
    own_name = next(iter(forward.__code__.co_varnames), "")  # of the module, usually “self”

    def look(frame: FrameType, event: str, _argument: Any) -> None:
        caller, code = frame.f_back, frame.f_code
        if event != "call" or caller is None or caller.f_code is not forward.__code__:
            return
        if caller.f_locals.get(own_name) is module and code.co_filename != _PLUMBING:
            codes[code] = frame.f_globals

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        run.once()
    finally:
        sys.setprofile(before)
    codes.pop(forward.__code__, None)
    found = {code: _holders(code, names) for code, names in codes.items() if _source(code)}
    return {code: functions for code, functions in found.items() if functions}


def _holders(code: CodeType, names: dict[str, Any]) -> list[FunctionType]:
    """Functions that run the code, among what the collector knows and by its name.

    The collector alone does not do: it says nothing of what was frozen (:func:`gc.freeze`).
    """
    found = [one for one in gc.get_referrers(code) if isinstance(one, FunctionType)]
    first, *rest = code.co_qualname.split(".")
    named: Any = names.get(first)
    for part in rest:
        named = inspect.getattr_static(named, part, None)
    while named is not None:
        named = getattr(named, "__func__", named)
        if isinstance(named, FunctionType) and named.__code__ is code and named not in found:
            found.append(named)
        named = getattr(named, "__wrapped__", None)
    return found


# -- timing


def _timed(
    run: Run, module: nn.Module, forward: FunctionType, called: _Holders, job: Job
) -> tuple[SourceFunction, ...]:
    profiler = LineProfiler()
    with _own_forward(module, forward, profiler) as own, _watched(called, profiler) as others:
        for _ in range(RUNS):
            run.once()
            job.advance()
        stats = profiler.get_stats()
    return tuple(_source_function(code, stats) for code in (own, *others))


@contextmanager
def _own_forward(
    module: nn.Module, forward: FunctionType, profiler: LineProfiler
) -> Iterator[CodeType]:
    """Have the profiler time this module's forward, and nothing but while it runs."""
    bound = module.forward
    if inspect.unwrap(bound) is not bound:  # the decorator holds the function: no room for a copy
        holders = _holders(forward.__code__, forward.__globals__) or [forward]
        own = {forward.__code__: holders}
        with _watched(own, profiler) as (code,), _forward(module, bound, profiler):
            yield code
        return
    copy = FunctionType(
        forward.__code__, forward.__globals__, forward.__name__, forward.__defaults__,
        forward.__closure__,
    )  # fmt: skip
    copy.__kwdefaults__ = forward.__kwdefaults__
    profiler.add_function(copy)  # which gives it a code of its own
    method = MethodType(copy, bound.__self__) if inspect.ismethod(bound) else copy
    with _forward(module, method, profiler):
        yield copy.__code__


@contextmanager
def _forward(
    module: nn.Module, forward: Callable[..., Any], profiler: LineProfiler
) -> Iterator[None]:
    """Put ``forward``, with the profiler on, in the place of the module's own."""
    before = module.__dict__.get("forward")

    def call(*args: Any, **kwargs: Any) -> Any:
        profiler.enable_by_count()
        try:
            return forward(*args, **kwargs)
        finally:
            profiler.disable_by_count()

    module.__dict__["forward"] = call
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


@contextmanager
def _watched(holders: _Holders, profiler: LineProfiler) -> Iterator[list[CodeType]]:
    """Have the profiler time functions wherever they are; the codes that it gives them meanwhile.

    It marks a function by changing its code, so that all who hold the code are changed, and all
    get it back.
    """
    try:
        for same in holders.values():
            profiler.add_function(same[0])
            for other in same[1:]:
                other.__code__ = same[0].__code__
        yield [same[0].__code__ for same in holders.values()]
    finally:
        for code, same in holders.items():
            for one in same:
                one.__code__ = code


def _source_function(code: CodeType, stats: Any) -> SourceFunction:
    source = _source(code)
    assert source is not None
    lines, first = source
    timings = stats.timings.get((code.co_filename, code.co_firstlineno, code.co_qualname), ())
    found = {number: (hits, time * stats.unit) for number, hits, time in timings}
    return SourceFunction(
        code.co_qualname,
        code.co_filename,
        tuple(
            SourceLine(number, text.rstrip("\n"), *found.get(number, (0, None)))
            for number, text in enumerate(lines, start=first)
        ),
        sum(seconds for _, seconds in found.values()),
    )
