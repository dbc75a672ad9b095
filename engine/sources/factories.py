"""Models that a function of the user's own Python code makes."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from engine.child import run_in_child
from engine.errors import ChildFailed, InputsNeeded, ModelUnreadable
from engine.job import Job
from engine.requests import InputSpec, OpenRequest
from engine.sources.architectures import Architecture
from engine.sources.files.naming import plain_name
from engine.sources.masked import take_masks_in, told
from engine.sources.opened import OpenedModel, likely_inputs, spec_of
from engine.state import ModelInfo
from engine.tracing import sample_inputs
from engine.user_code import (
    FunctionName,
    allowed_here,
    load_function,
    raised,
    require_allowed,
)

_NOTE = "Weights are as the function made them: random, unless it loaded some."


def open_factory(text: str, request: OpenRequest, job: Job) -> OpenedModel:
    """Open what ``package.module:function`` or ``path/file.py:function(key=value)`` makes.

    The function gives a module, or a module and the tuple of its sample inputs; a module's class
    does as well.

    Raises:
        ConsentNeeded: nobody has allowed that code yet; nothing of it was run.
        InputsNeeded: neither the function nor the request says what the model takes.
        ModelNotFound: there is no such file, module or function.
        ModelUnreadable: the code raised, or made something else.
    """
    try_in_child(text, request.trusted, job)
    job.begin("Building the model")
    made = build_from(text, request.trusted)
    inputs = request.inputs or made.inputs
    if not inputs:
        raise InputsNeeded(
            f"{text} does not say what its model takes.",
            details={"inputs": [str(one) for one in likely_inputs(made.model)]},
        )
    name = FunctionName.parse(text).name
    info = ModelInfo(name, text, inputs, trained=False, notes=(_NOTE, *made.notes))
    return OpenedModel(info, made.model, sample_inputs(inputs), text)


def try_in_child(text: str, trusted: Collection[str], job: Job) -> None:
    """Build what the text names once in a process of its own: what ends a process, ends that one.

    Raises:
        ConsentNeeded, ModelNotFound, ModelUnreadable: see :func:`open_factory`.
    """
    require_allowed(text, frozenset(trusted))
    job.begin("Building the model in a process of its own")
    payload = {"text": text, "trusted": sorted(allowed_here().union(trusted))}
    try:
        run_in_child("engine.sources.factories:try_factory", payload, job)
    except ChildFailed as error:
        raise ModelUnreadable(
            f"{plain_name(text)} ended the process that called it. {error}",
            "Mend the function, then open it again.",
        ) from error


def try_factory(payload: dict[str, Any]) -> None:
    """In the child: build the model once."""
    build_from(payload["text"], payload["trusted"])


def build_from(text: str, trusted: Collection[str], device: str = "cpu") -> Architecture:
    """What the function makes, in evaluation mode; random weights are the same every time.

    Args:
        trusted: as in :class:`engine.requests.OpenRequest`; code that was allowed since this
            process began needs no naming.
        device: ``meta`` for the structure alone.

    Raises:
        ConsentNeeded, ModelNotFound, ModelUnreadable: see :func:`open_factory`.
    """
    function = load_function(text, frozenset(trusted))
    where = FunctionName.parse(text).where
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = _called(function, device)
    except (Exception, SystemExit) as error:  # anybody's code
        raise ModelUnreadable(
            f"{text} raised while it built the model: {raised(error, where)}.",
            "Correct the function, or give it other arguments.",
        ) from error
    model, inputs = made if _is_pair(made) else (made, ())
    if not isinstance(model, nn.Module):
        raise ModelUnreadable(
            f"{text} gives {_kind(made)}, not a module of torch.nn.",
            "Name a function that gives a module, or a module and the tuple of its inputs.",
        )
    specs = tuple(_spec(one, text) for one in inputs)
    if device == "meta":
        model.to(device)  # what its constructor made elsewhere
    notes = told(take_masks_in(model))
    return Architecture(text, model.eval(), specs, notes=notes)


def _called(function: Any, device: str) -> Any:
    if device == "cpu":
        return function()
    try:
        with torch.device(device):
            return function()
    except Exception:  # code that computes with its tensors needs real ones
        return function()


def _is_pair(made: Any) -> bool:
    return isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], tuple | list)


def _kind(made: Any) -> str:
    return "nothing" if made is None else f"a {type(made).__name__}"


def _spec(example: Any, text: str) -> InputSpec:
    if isinstance(example, Tensor):
        return spec_of(example.detach(), text)
    tensors = example if isinstance(example, list) else []
    shapes = {tuple(one.shape) for one in tensors if isinstance(one, Tensor)}
    if len(shapes) != 1 or not all(isinstance(one, Tensor) for one in tensors):
        raise ModelUnreadable(
            f"{text} gives {_kind(example)} among its sample inputs.",
            "Give tensors, or lists of tensors of one shape.",
        )
    first = spec_of(tensors[0], text)
    return InputSpec((len(tensors), *first.shape), first.dtype, first.high, listed=True)
