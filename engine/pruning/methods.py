"""Weights zeroed by methods of ``torch.nn.utils.prune`` and the user's own subclasses.

A method computes masks on copies of the weights; its hooks are never installed.
"""

import inspect
import json
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import prune

from engine.editing import Subject
from engine.edits import TORCH_METHODS, PruneByMethod, WeightMask, WeightsZeroed
from engine.errors import ConsentNeeded, EditRefused, EngineError, is_out_of_memory
from engine.job import Job
from engine.pruning.zeroing import Weight, Zeroing, chosen_weights
from engine.user_code import FunctionName, load_function, raised

_TORCHS_OWN = "torch.nn.utils.prune:"


class MethodPruning(Zeroing):
    """Handler of :class:`engine.edits.PruneByMethod`."""

    def draft(self, edit: PruneByMethod, subject: Subject, job: Job) -> WeightsZeroed:
        """The same as :meth:`decide`: whatever the method does, it says all."""
        return self.decide(edit, subject, job)

    def decide(self, edit: PruneByMethod, subject: Subject, job: Job) -> WeightsZeroed:
        """The masks that the method computes, one for each weight tensor.

        Raises:
            ConsentNeeded: the user's code has not been allowed to run;
                :func:`engine.user_code.allow_here` does.
        """
        weights = chosen_weights(edit.layers, subject)
        method = _method(edit)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(edit.seed % 2**63)
            each = job.track(weights, "Computing masks")
            return WeightsZeroed(tuple(_mask(edit, method, one) for one in each))


def _method(edit: PruneByMethod) -> prune.BasePruningMethod:
    """The method with its arguments."""
    found = _class(edit.method.strip())
    given = _arguments(edit)
    try:
        taken = inspect.signature(found).parameters
        named = any(one.kind is one.VAR_KEYWORD for one in taken.values())
        if "amount" in taken or named:
            given = {"amount": edit.amount, **given}
        made = found(**given)
    except (Exception, SystemExit) as error:
        raise _raised(edit, error, f"the arguments {json.dumps(given)}") from error
    if not isinstance(made, prune.BasePruningMethod):
        raise EditRefused(f"{edit.method} does not make a method of torch.nn.utils.prune.")
    return made


def _class(name: str) -> type[Any]:
    plain = name.removeprefix(_TORCHS_OWN)
    if plain in TORCH_METHODS:
        found: type[Any] = getattr(prune, plain)
        return found
    if ":" not in plain:
        known = ", ".join(TORCH_METHODS)
        other = "A mask from a file is an edit of its own. " if plain == "CustomFromMask" else ""
        raise EditRefused(
            f"“{name}” is no pruning method.",
            f"{other}Choose {known}, or name a class as file.py:Class or package.module:Class.",
        )
    try:
        if FunctionName.parse(name).arguments is not None:
            raise EditRefused(
                f"“{name}” has arguments in its name.", "Give them as JSON beside it."
            )
        made: Any = load_function(name, frozenset())
    except (ConsentNeeded, EditRefused):
        raise
    except (EngineError, ValueError) as error:
        remedy = getattr(error, "remedy", "Write file.py:Class or package.module:Class.")
        raise EditRefused(str(error), remedy) from error
    if not (isinstance(made, type) and issubclass(made, prune.BasePruningMethod)):
        raise EditRefused(
            f"{name} is no subclass of torch.nn.utils.prune.BasePruningMethod.",
            "Derive it from that class and define compute_mask.",
        )
    return made


def _arguments(edit: PruneByMethod) -> dict[str, Any]:
    try:
        given = json.loads(edit.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise EditRefused(
            f"The arguments are no JSON: {error}.", 'Write them such as {"n": 2, "dim": 0}.'
        ) from error
    if not isinstance(given, dict):
        raise EditRefused(
            "The arguments are no JSON object.", 'Write them such as {"n": 2, "dim": 0}.'
        )
    return given


def _mask(edit: PruneByMethod, method: prune.BasePruningMethod, weight: Weight) -> WeightMask:
    """What the method makes of one tensor, as ``torch.nn.utils.prune`` would apply it.

    Zeros that are there stand for an earlier mask: the method then sees, by its ``PRUNING_TYPE``,
    only what is left.
    """
    before = weight.values != 0
    values, default = weight.values.clone(), before.to(weight.values.dtype)
    try:
        if before.all():
            found = method.compute_mask(values, default_mask=default)
        else:
            method._tensor_name = weight.parameter
            found = prune.PruningContainer(method).compute_mask(values, default_mask=default)
        keep = _as_mask(found, weight)
    except EditRefused as error:
        raise EditRefused(f"{edit.method} {error}", error.remedy) from error
    except (Exception, SystemExit) as error:
        raise _raised(edit, error, weight.name) from error
    return weight.mask(keep)


def _as_mask(found: Any, weight: Weight) -> Tensor:
    what = f"mask for {weight.name}"
    if not isinstance(found, Tensor):
        raise EditRefused(f"gave a {type(found).__name__} as the {what}.", "Return a tensor.")
    if found.shape != weight.values.shape:
        raise EditRefused(
            f"gave a {what} of shape {tuple(found.shape)} instead of {tuple(weight.values.shape)}.",
            "Return a mask of the shape of default_mask.",
        )
    mask: Tensor = found.detach().to(weight.values.device)
    if not ((mask == 0) | (mask == 1)).all():
        raise EditRefused(f"gave a {what} that holds more than 0 and 1.", "Return 0 and 1 alone.")
    return mask.bool()


def _raised(edit: PruneByMethod, error: BaseException, what: str) -> BaseException:
    """What the method raised, in words; what must pass through, as it is."""
    if isinstance(error, Exception) and is_out_of_memory(error):
        return error
    where = edit.method.rpartition(":")[0]
    return EditRefused(
        f"{edit.method} raised {raised(error, where)} for {what}.",
        "Correct the method, or give it other arguments.",
    )
