"""Which channels depend on each other, found by torch-pruning behind an interface of our own."""

import ctypes
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch_pruning
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.errors import EditRefused
from engine.integer_layers import without_rounding
from engine.layers import LayerId
from engine.sharing import share
from engine.tracing import faker

ANALYSIS_SECONDS = 20.0
"""torch-pruning fails or hangs on channel shuffles and windowed attention: no longer than this."""


@dataclass(frozen=True)
class Member:
    """One side of one layer of a coupled group.

    Attributes:
        layer: its path; the full parameter name when ``side`` is ``parameter``.
        dim: the axis, for ``parameter`` only.
        of: channels on that side.
        pairs: (index on this side, index in the root layer's output), for every index.
    """

    layer: LayerId
    side: Literal["out", "in", "parameter"]
    dim: int
    of: int
    pairs: tuple[tuple[int, int], ...]


class ChannelGroups:
    """The coupled channels of one state of a model.

    Raises:
        EditRefused: the coupling of this model cannot be found, with the reason.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Fake tensors: the analysis needs autograd's graph of a forward pass, not its numbers.
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        fake = faker(self._mode, requires_grad=True)
        self._copy = share(model, fake).eval()
        with self._mode:
            without_rounding(self._copy)
        self._names = {module: LayerId(name) for name, module in self._copy.named_modules()}
        self._parameters = {id(one): name for name, one in self._copy.named_parameters()}
        self._graph = torch_pruning.DependencyGraph()
        try:
            with self._analysing(), torch.enable_grad():
                self._graph.build_dependency(
                    self._copy, tuple(fake(tensor) for tensor in inputs), verbose=False
                )
        except TimeoutError as error:
            raise EditRefused(
                f"The coupling of this model's channels was not found in {ANALYSIS_SECONDS:.0f} s.",
                "Prune single weights instead, or quantize.",
            ) from error
        except Exception as error:  # torch-pruning raises whatever it stumbles over
            raise EditRefused(
                f"The coupling of this model's channels cannot be found: {_first_line(error)}",
                "Prune single weights instead, or quantize.",
            ) from error

    def of(self, layer: LayerId) -> tuple[Member, ...]:
        """Everything that loses a channel when ``layer`` loses an output channel; itself first.

        Raises:
            EditRefused: the layer is not in the graph, or the group holds what cannot shrink.
        """
        module = self._copy.get_submodule(layer)
        pruner = self._graph.get_pruner_of_module(module)
        try:
            with self._analysing():
                channels = range(pruner.get_out_channels(module))
                group = self._graph.get_pruning_group(
                    module, pruner.prune_out_channels, list(channels)
                )
        except TimeoutError as error:
            raise EditRefused(f"What is coupled to {layer} was not found in time.") from error
        except Exception as error:  # as above
            raise EditRefused(
                f"What is coupled to {layer} cannot be found: {_first_line(error)}"
            ) from error
        return tuple(self._members(group, layer))

    @contextmanager
    def _analysing(self) -> Iterator[None]:
        """On fake tensors, for a limited time, and in silence: torch-pruning warns of deep graphs,
        and whether it understood them is for the law to tell.
        """
        with warnings.catch_warnings(action="ignore"), time_limit(ANALYSIS_SECONDS), self._mode:
            yield

    def _members(self, group: Any, root: LayerId) -> Iterator[Member]:
        for item in group:
            target = item.dep.target.module
            if isinstance(target, nn.Parameter):
                name, dim = self._parameters[id(target)], item.dep.target.pruning_dim
                side: Literal["out", "in", "parameter"] = "parameter"
                of = target.shape[dim]
            elif target in self._names:
                name, dim = self._names[target], 0
                side, of = _side(item.dep.handler, target, root, name)
            else:
                continue  # an operator between layers: it follows its inputs
            pairs = tuple(sorted(zip(item.idxs, item.root_idxs, strict=True)))
            yield Member(LayerId(name), side, dim, of, pairs)


_CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_PER_CHANNEL = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.PReLU,
)  # fmt: skip


def is_depthwise(module: nn.Module) -> bool:
    """Whether each output channel of a convolution reads one input channel of its own."""
    return (
        isinstance(module, _CONVOLUTIONS)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def _side(
    handler: Any, module: nn.Module, root: LayerId, name: str
) -> tuple[Literal["out", "in"], int]:
    """Which side of the layer the handler cuts, and how many channels it has."""
    is_out = handler.__func__.__name__ == "prune_out_channels"
    if isinstance(module, _CONVOLUTIONS):
        if is_depthwise(module):
            return "out", module.out_channels
        if module.groups > 1:
            raise EditRefused(
                f"{root} is coupled to {name}, a convolution in {module.groups} groups, "
                "which can lose channels only in whole groups; that is not supported yet.",
            )
        return ("out", module.out_channels) if is_out else ("in", module.in_channels)
    if isinstance(module, nn.Linear):
        return ("out", module.out_features) if is_out else ("in", module.in_features)
    if isinstance(module, nn.PReLU):
        return "out", module.num_parameters
    if isinstance(module, _PER_CHANNEL):
        return "out", int(module.num_features)  # type: ignore[arg-type]
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return "out", module.normalized_shape[0]
    raise EditRefused(
        f"{root} is coupled to {name} ({type(module).__name__}), which cannot lose channels yet."
    )


class _TimeIsUp(TimeoutError):
    """Thrown by a timer of ours, by nothing else."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this thread when the body, pure Python, has not ended in time.

    torch-pruning has no way to be stopped, so the exception is thrown in from a timer thread.
    """
    thread = threading.get_ident()
    lock = threading.Lock()
    state = {"ended": False, "pending": False}

    def strike() -> None:
        with lock:
            if not state["ended"]:
                state["pending"] = True
                _throw(thread)

    timer = threading.Timer(seconds, strike)
    timer.daemon = True
    timer.start()
    try:
        yield
    except _TimeIsUp:
        state["pending"] = False
        raise
    finally:
        with lock:
            state["ended"] = True
        timer.cancel()
        timer.join()
        if state["pending"]:  # thrown, but not yet delivered, or swallowed by the body
            _take_back(thread)


def _throw(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TimeIsUp))


def _take_back(thread: int) -> None:
    """Have whatever is on its way to this thread arrive here, where it does no harm.

    Throwing again replaces it. Throwing NULL, as C's documentation has it, would leave the
    interpreter's flag for pending work up for good, with which CPython 3.11 never leaves a call
    that a debugger, a profiler or a coverage tool traces.
    """
    with suppress(_TimeIsUp):
        _throw(thread)
        while True:
            pass


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
