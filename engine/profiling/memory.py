"""Measured peak memory of activations, of the model and while each layer runs."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.job import Job
from engine.layers import LayerId
from engine.metrics import MEMORY, Quantity, Series
from engine.profiling.running import AS_IT_IS, Run, running
from engine.requests import RunSettings


def measure_memory(
    model: nn.Module, inputs: tuple[Any, ...], job: Job, settings: RunSettings = AS_IT_IS
) -> Series:
    """The most bytes that one pass holds at once, beside weights, buffers and the input.

    A layer's value is the most that the whole model held at any moment while that layer was the
    innermost that ran: what earlier layers left for later ones counts to it. The total is thus
    the largest of the layers', and they do not add up. With ``settings.backward`` gradients and
    what is kept for them count as well.

    On CUDA the allocator tells, scratch space of the operators included. Elsewhere the storages
    that operators put out are counted from when they appear until nothing refers to them; scratch
    space inside an operator is not seen.

    Raises:
        ProfilingFailed: the model does not run so on this machine.
        Cancelled: between two runs.
    """
    with running(model, inputs, settings) as run:
        job.begin("Measuring memory", 2)
        run.once()  # what is made at first use and kept is no part of a pass
        job.advance()
        count = _allocated if run.device.type == "cuda" else _counted
        peaks, how = count(run)
        job.advance()
    return Series(
        MEMORY,
        Quantity(max(peaks.values())),
        {layer: {"": Quantity(peak)} for layer, peak in peaks.items()},
        conditions=run.conditions | {"counted": how, "a layer's value": "while it ran"},
    )


class _Peaks:
    """The most that each layer saw."""

    def __init__(self) -> None:
        self.by_layer: dict[LayerId, int] = {}
        self.layer: LayerId | None = None

    def see(self, size: int) -> None:
        """So many bytes are held, or were at most since the layer began."""
        if self.layer is not None:
            self.by_layer[self.layer] = max(size, self.by_layer.get(self.layer, 0))


def _counted(run: Run) -> tuple[dict[LayerId, int], str]:
    storages = _Storages()
    with storages:
        run.once(storages.enter, layers=True)
    how = "what operators put out, while it is referred to"
    if storages.strange:
        how += f", without {storages.strange} tensors that are not dense"
    return storages.peaks.by_layer, how


class _Storages(TorchDispatchMode):
    """Counts the bytes of living storages that operators have put out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peaks = _Peaks()
        self.strange = 0
        self._live = 0
        self._known: dict[int, Any] = {}  # by address; values keep what must not end meanwhile

    def enter(self, layer: LayerId | None) -> None:
        """From here on that layer runs."""
        self.peaks.layer = layer
        self.peaks.see(self._live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for storage in self._of((args, kwargs)):
            # Nothing of this pass put it out: a weight, a buffer, the input.
            self._known.setdefault(storage._cdata, storage)
        out = func(*args, **kwargs)
        for storage in self._of(out):
            if storage._cdata not in self._known:
                self._count(storage)
        self.peaks.see(self._live)
        return out

    def _of(self, tensors: Any) -> list[torch.UntypedStorage]:
        found = []
        for leaf in tree_leaves(tensors):
            if isinstance(leaf, Tensor):
                if leaf.layout is torch.strided:
                    found.append(leaf.untyped_storage())
                else:
                    self.strange += 1
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        size, address = storage.nbytes(), storage._cdata

        def ended(_reference: Any) -> None:
            self._live -= size
            self._known.pop(address, None)

        self._known[address] = weakref.ref(storage, ended)
        self._live += size


def _allocated(run: Run) -> tuple[dict[LayerId, int], str]:
    peaks, device = _Peaks(), run.device
    before = torch.cuda.memory_allocated(device)

    def enter(layer: LayerId | None) -> None:
        peaks.see(torch.cuda.max_memory_allocated(device) - before)
        torch.cuda.reset_peak_memory_stats(device)
        peaks.layer = layer

    run.once(enter, layers=True)
    return peaks.by_layer, "by CUDA's allocator, scratch space included"
