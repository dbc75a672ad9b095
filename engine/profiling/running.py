"""How a model is run while it is measured: one interface for processor, CUDA and MPS.

The model runs as a copy that shares its weights, so that the user's own never meets a wrapped
layer, a gradient or another device.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from engine.errors import ProfilingFailed, is_out_of_memory
from engine.integer_layers import is_quantized
from engine.layers import ROOT, LayerId
from engine.requests import RunSettings
from engine.rounded_operators import RoundedOperators
from engine.sharing import share, share_for_running, tensors_of
from engine.tracing import batch_of, batched

Now = Callable[[LayerId | None], None]
"""Told whenever another layer becomes the innermost that runs; None: none of them does."""

Forward = Callable[..., Any]

AS_IT_IS = RunSettings()
"""One forward pass on the processor, as the model and its sample input are."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class WallClock:
    """Reads the processor's clock."""

    def mark(self) -> Any:
        """This moment."""
        return perf_counter()

    def wait(self) -> None:
        """Return when everything before the last mark has happened: it has."""

    def seconds(self, first: Any, last: Any) -> float:
        """Time from one mark to the other."""
        return float(last - first)


class EventClock:
    """Marks moments in an accelerator's queue of work, which are only known after :meth:`wait`."""

    def __init__(self, device: torch.device) -> None:
        self._module = torch.get_device_module(device)

    def mark(self) -> Any:
        """The moment at which all work up to here is done."""
        event = self._module.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """Return when everything before the last mark has happened."""
        self._module.synchronize()

    def seconds(self, first: Any, last: Any) -> float:
        """Time from one mark to the other."""
        return float(first.elapsed_time(last)) / 1000


Clock = WallClock | EventClock


def clock_of(device: torch.device) -> Clock:
    """What time on the device is read from."""
    return WallClock() if device.type == "cpu" else EventClock(device)


@dataclass(frozen=True)
class Run:
    """A model that is ready to be run any number of times.

    Attributes:
        model: a copy, in evaluation mode.
        conditions: what its figures hold under.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    settings: RunSettings
    device: torch.device
    conditions: dict[str, str]

    def clock(self) -> Clock:
        """What its time is read from."""
        return clock_of(self.device)

    def once(
        self,
        now: Now = lambda layer: None,
        layers: bool = False,
        within: AbstractContextManager[Any] = nullcontext(),  # noqa: B008  (it holds nothing)
    ) -> None:
        """Run one pass: forward, and backward where the settings say so.

        Args:
            now: told when the root runs, and None when it does not any more.
            layers: tell it of every layer. A gradient's operator counts to the layer whose
                operator it belongs to, a parameter's gradient to the layer that holds it.
            within: entered around the model's own calls alone.

        Raises:
            ProfilingFailed: the model does not run under these settings.
            RuntimeError, MemoryError: memory ran out.
        """
        try:
            self._pass(now, layers, within)
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, ProfilingFailed):
                raise
            said = str(error).strip().splitlines()
            raise ProfilingFailed(
                f"The model does not run {self._how()}: {said[0] if said else type(error).__name__}"
            ) from error

    def _how(self) -> str:
        keys = ("device", "dtype", "batch", "memory order", "autocast", "pass")
        return "with " + ", ".join(
            f"{key} {self.conditions[key]}" for key in keys if key in self.conditions
        )

    def _pass(self, now: Now, layers: bool, within: AbstractContextManager[Any]) -> None:
        origins = _Origins(self.model, now) if layers and self.settings.backward else None
        told = origins.note if origins else now
        with following(self.model, told) if layers else nullcontext(), self.autocast():
            told(ROOT)
            with within:
                result = self.model(*self.inputs)
            told(None)
        if not self.settings.backward:
            return
        outputs, seeds = _seeds(result)
        if origins:
            origins.follow(outputs)
        now(ROOT)
        with within:
            torch.autograd.backward(outputs, seeds)
        now(None)
        self.model.zero_grad(set_to_none=True)

    def autocast(self) -> AbstractContextManager[object]:
        """What the model's operators run within: lower precision where the settings say so."""
        if not self.settings.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, _autocast_dtype(self.device))


def _seeds(result: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs that a gradient can start from, and its first values."""
    outputs = [
        leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad
    ]
    if not outputs:
        raise ProfilingFailed(
            "There is no gradient to run: no output depends on a parameter that trains.",
            "Profile the forward pass alone.",
        )
    return outputs, [torch.ones_like(output) for output in outputs]


@contextmanager
def running(
    model: nn.Module, inputs: tuple[Any, ...], settings: RunSettings = AS_IT_IS
) -> Iterator[Run]:
    """Make the model ready to be run under the settings; all that they change is put back.

    Args:
        inputs: positional arguments of its forward, tensors and lists of tensors.

    Raises:
        ProfilingFailed: this machine or this model cannot do so.
    """
    device = device_named(settings.device)
    with ExitStack() as stack:
        stack.enter_context(_threads(settings.threads))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        copy, samples = _prepared(model, inputs, settings, device)
        conditions = _conditions(copy, samples, settings, device)
        grad = torch.enable_grad() if settings.backward else torch.inference_mode()
        stack.enter_context(grad)
        yield Run(copy, samples, settings, device, conditions)


@contextmanager
def wrapped(model: nn.Module, wrap: Callable[[LayerId, Forward], Forward]) -> Iterator[None]:
    """Put ``wrap(layer, forward)`` in the place of every layer's forward, the root's included.

    Not hooks: some modules compute differently when they have any.
    """
    before = [(module, module.__dict__.get("forward")) for module in model.modules()]
    for name, module in model.named_modules():
        module.__dict__["forward"] = wrap(LayerId(name), module.forward)
    try:
        yield
    finally:
        for module, own in before:
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


def following(model: nn.Module, now: Now) -> AbstractContextManager[None]:
    """Tell ``now`` which layer is the innermost that runs, each time that changes."""
    around: list[LayerId] = []

    def wrap(layer: LayerId, forward: Forward) -> Forward:
        def call(*args: Any, **kwargs: Any) -> Any:
            around.append(layer)
            now(layer)
            try:
                return forward(*args, **kwargs)
            finally:
                around.pop()
                if around:  # what ends the root is told by whoever started it
                    now(around[-1])

        return call

    return wrapped(model, wrap)


class _Origins:
    """Leads operators of the backward pass back to layers, by the numbers autograd gives them."""

    def __init__(self, model: nn.Module, now: Now) -> None:
        self._now = now
        self._numbers: list[int] = []  # the next one, when a layer began or went on
        self._layers: list[LayerId] = []
        self._owners = {
            id(tensor): LayerId(name.rpartition(".")[0]) for name, tensor in tensors_of(model)
        }

    def note(self, layer: LayerId | None) -> None:
        """Pass on what the forward pass tells, and remember it."""
        if layer is not None:
            self._numbers.append(torch._C._autograd._get_sequence_nr())
            self._layers.append(layer)
        self._now(layer)

    def follow(self, outputs: list[Tensor]) -> None:
        """Have the coming backward pass tell as well."""
        pending, seen = [output.grad_fn for output in outputs], set[Any]()
        while pending:
            node = pending.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            node.register_prehook(self._teller(node))
            pending.extend(before for before, _ in node.next_functions)

    def _teller(self, node: Any) -> Callable[[Any], None]:
        variable = getattr(node, "variable", None)  # of what adds to a parameter's gradient
        if variable is None:
            layer = self._layers[bisect_right(self._numbers, node._sequence_nr()) - 1]
        else:
            layer = self._owners.get(id(variable), ROOT)
        return lambda _gradients: self._now(layer)


# -- making ready


def device_named(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ProfilingFailed: this machine does not have it; the message says why.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _unavailable(name, "torch knows no such device", _CHOOSE) from None
    if device.type == "cuda":
        _check_cuda(name, device)
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            built = torch.backends.mps.is_built()
            why = "it needs macOS on Apple silicon" if built else "this torch was built without it"
            raise _unavailable(name, why, _CHOOSE)
    elif device.type != "cpu":
        raise _unavailable(name, "Secateur does not measure there", _CHOOSE)
    return device


_CHOOSE = "Choose cpu, cuda or mps, as far as this machine has them."


def _check_cuda(name: str, device: torch.device) -> None:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")
        raise _unavailable(
            name, why, "Install NVIDIA's driver and a torch built with CUDA, or choose cpu."
        ) from error
    if (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise _unavailable(name, f"this machine has {count} such device(s)", _CHOOSE)


def _unavailable(name: str, why: str, remedy: str) -> ProfilingFailed:
    return ProfilingFailed(f"{name} is unavailable: {why}.", remedy)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    most = os.cpu_count() or 1
    if not 0 <= number <= most:
        raise ProfilingFailed(
            f"{number} threads cannot be had: this machine runs {most} at once.",
            f"Choose 1 to {most}.",
        )
    before = torch.get_num_threads()
    try:
        if number:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)


def _prepared(
    model: nn.Module, inputs: tuple[Any, ...], settings: RunSettings, device: torch.device
) -> tuple[nn.Module, tuple[Any, ...]]:
    """The running copy and its inputs, on that device, in that type, batch and memory order."""
    if settings.dtype and settings.dtype not in _DTYPES:
        raise ProfilingFailed(
            f"A model cannot be run in {settings.dtype}.", f"Choose {', '.join(_DTYPES)}."
        )
    dtype = _DTYPES.get(settings.dtype)
    if any(map(_is_rounded, model.modules())):
        _check_integers(settings)
    if any(tensor.is_meta for _, tensor in tensors_of(model)):
        raise ProfilingFailed(
            "The model has shapes but no weights, so it cannot run.", "Open it with weights."
        )

    def place(tensor: Tensor) -> Tensor:
        floats = tensor.is_floating_point() and dtype is not None
        moved = tensor.detach().to(device, dtype if floats else tensor.dtype)
        if settings.channels_last and moved.dim() in _ORDERS:
            moved = moved.contiguous(memory_format=_ORDERS[moved.dim()])
        # A parameter of its own, so that gradients are not added to the user's.
        made = isinstance(tensor, nn.Parameter)
        return nn.Parameter(moved, tensor.requires_grad) if made else moved

    with torch.no_grad():
        copy = share(share_for_running(model), place).eval()
        if any(isinstance(module, torch.jit.ScriptModule) for module in copy.modules()):
            # These are copied with tensors of their own, by an operator that gradients follow.
            copy.to(device, dtype)
            for made, parameter in zip(copy.parameters(), model.parameters(), strict=True):
                made.requires_grad_(parameter.requires_grad)
    return copy, tree_map_only(Tensor, place, _batched(inputs, settings.batch))


_ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _check_integers(settings: RunSettings) -> None:
    remedy = "Undo to a state of floating point, or choose a plain forward pass."
    if settings.backward:
        raise ProfilingFailed("Layers of integer weights have no gradient.", remedy)
    if settings.dtype not in ("", "float32") or settings.autocast:
        raise ProfilingFailed(
            "Layers of integer weights are simulated in float32 and in no other type.", remedy
        )


def _batched(inputs: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    """The inputs at ``size`` samples, repeated or cut; unchanged at 0."""
    if size < 0:
        raise ProfilingFailed(f"A batch of {size} cannot be run.", "Choose at least one sample.")
    return batched(inputs, size)


def _autocast_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cpu" else torch.float16


def _conditions(
    model: nn.Module, inputs: tuple[Any, ...], settings: RunSettings, device: torch.device
) -> dict[str, str]:
    tensors = [*model.parameters(), *(one for one in tree_leaves(inputs))]
    floats = [one for one in tensors if isinstance(one, Tensor) and one.is_floating_point()]
    conditions = {"device": _name_of(device)}
    if device.type == "cpu":
        conditions["threads"] = str(torch.get_num_threads())
    conditions["batch"] = str(batch_of(inputs))
    if floats:
        conditions["dtype"] = _plain(floats[0].dtype)
    if settings.channels_last:
        conditions["memory order"] = "channels last"
    if settings.autocast:
        conditions["autocast"] = _plain(_autocast_dtype(device))
    conditions["pass"] = "forward and backward" if settings.backward else "forward"
    conditions["torch"] = torch.__version__
    integers = sum(map(_is_rounded, model.modules()))
    if integers:
        conditions["int8"] = f"{integers} layers simulated in floating point"
    return conditions


def _is_rounded(module: nn.Module) -> bool:
    return is_quantized(module) or isinstance(module, RoundedOperators)


def _name_of(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
