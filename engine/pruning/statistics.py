"""What training samples tell of a model: what gradients say of its weights, and what layers read.

All run in evaluation mode, on copies, over samples spread evenly over the training split. Figures
are kept with the state they belong to, so that a slider that moves runs nothing again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from engine.datasets import DataSet, Samples
from engine.editing import Subject
from engine.errors import EditRefused, EngineError, is_out_of_memory
from engine.job import Job
from engine.layers import LayerId
from engine.losses import loss_of
from engine.sharing import own_parameter, share, share_for_running
from engine.unrounded import without_rounding

T = TypeVar("T")

_GRADIENT_BATCH = 16  # ResNet-50 at 224 x 224 keeps some 100 MB a sample for the way back
_READING_BATCH = 64

Side = tuple[str, str, int]
"""Layer, ``out`` or ``in``, 0; or a parameter's full name, ``parameter`` and the axis."""


def weight_gradients(
    subject: Subject, names: Sequence[str], samples: int, job: Job
) -> dict[str, Tensor]:
    """Gradient of the mean loss over the samples, for each of these parameters or integer weights.

    Args:
        names: full names of tensors.

    Returns:
        Tensors of the parameters' shapes, to be read only; zero where no sample leads.

    Raises:
        EditRefused: no data set is chosen, or the model does not let gradients through.
        DataSetMismatch: the data's task has no loss for this model.
        Cancelled: between two batches; nothing is remembered then.
    """
    data = _data(subject)
    seen, count, known = subject.memo.get("weight gradients", (None, 0, {}))
    if seen is not data or count != samples or not known.keys() >= set(names):
        known = _weight_gradients(subject.model, data, names, samples, job)
        # The last selection alone is kept: gradients are as large as the weights.
        subject.memo["weight gradients"] = data, samples, known
    return {name: known[name] for name in names}


def channel_products(subject: Subject, samples: int, job: Job) -> Mapping[Side, Tensor]:
    """Sum of weight times gradient over all that belongs to a channel, batch by batch.

    It is the loss that a channel's parameters stand for, to first order: of convolutions and linear
    layers the filter with its bias on the side ``out``, the columns that read it on the side
    ``in``; of norms scale and shift together on the side ``out``.

    Returns:
        float64 (batches, channels) by side; a parameter that no sample reaches is left out.

    Raises:
        As :func:`weight_gradients`.
    """
    return _remembered(
        subject, "products", samples, lambda data: _products(subject.model, data, samples, job)
    )


def input_norms(
    subject: Subject, layers: Sequence[LayerId], samples: int, job: Job
) -> dict[LayerId, Tensor]:
    """L2 norm of each input feature or channel of these layers, over all samples and positions.

    Args:
        layers: convolutions and linear layers.

    Returns:
        float64 (features,) or (input channels,), all groups' channels in a row.

    Raises:
        EditRefused: no data set is chosen; or a layer reads nothing that could be seen.
        Cancelled: between two batches.
    """
    reads = _reads(subject, samples, job)
    for layer in layers:
        if layer not in reads:
            raise EditRefused(
                f"What {layer} reads cannot be seen on training samples.",
                "Leave it out of the selection, or take a criterion that looks at weights alone.",
            )
    return {layer: reads[layer].norm for layer in layers}


def input_magnitudes(subject: Subject, samples: int, job: Job) -> dict[LayerId, Tensor]:
    """Mean magnitude of each input feature or channel of every convolution and linear layer.

    Returns:
        float64, shaped as by :func:`input_norms`; layers that read nothing that could be seen are
        absent.

    Raises:
        As :func:`input_norms`.
    """
    return {layer: one.magnitude for layer, one in _reads(subject, samples, job).items()}


def _data(subject: Subject) -> DataSet:
    if subject.data is None:
        raise EditRefused(
            "This criterion looks at training samples, and no data set is chosen.",
            "Choose a data set first, or a criterion that looks at weights alone.",
        )
    return subject.data


def _chosen(data: DataSet, samples: int) -> Samples:
    if samples < 1:
        raise EditRefused(
            "This criterion looks at one training sample at least.", "Take 1 or more."
        )
    return data.training.spread(samples)


def looked_at(subject: Subject, samples: int) -> str:
    """A name for so many samples of the data set among the analyses of a state.

    Raises:
        EditRefused: no data set is chosen.
    """
    data = _data(subject)
    name = f"data {id(data)}"
    subject.memo[name] = data  # kept, or another one would come to have its id
    return f"{samples} samples of {name}"


def _remembered(subject: Subject, what: str, samples: int, make: Callable[[DataSet], T]) -> T:
    name = f"{what} on {looked_at(subject, samples)}"
    return subject.once(name, lambda: make(_data(subject)))


# Gradients


def _weight_gradients(
    model: nn.Module, data: DataSet, names: Sequence[str], samples: int, job: Job
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    total = 0
    for copy, count in _passes(model, data, samples, job):
        total += count
        parameters = dict(copy.named_parameters(remove_duplicate=False))
        for name in names:
            gradient = parameters[name].grad
            weight = parameters[name].detach()
            added = torch.zeros_like(weight) if gradient is None else gradient * count
            sums[name] = sums[name] + added if name in sums else added
    return {name: one / total for name, one in sums.items()}


def _products(model: nn.Module, data: DataSet, samples: int, job: Job) -> dict[Side, Tensor]:
    batches: dict[Side, list[Tensor]] = {}
    for copy, _ in _passes(model, data, samples, job):
        for layer, module in copy.named_modules():
            for side, products in _products_of(layer, module):
                batches.setdefault(side, []).append(products)
    return {side: torch.stack(found) for side, found in batches.items()}


def _products_of(layer: str, module: nn.Module) -> Iterator[tuple[Side, Tensor]]:
    """Weight times gradient of the module's own parameters, summed by channel."""
    products = {
        name: parameter.detach() * parameter.grad
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.grad is not None
    }
    is_product = isinstance(module, _ConvNd | nn.Linear | nn.Embedding)
    if not is_product:
        for name, one in products.items():
            full = f"{layer}.{name}" if layer else name
            for axis in range(one.dim()):
                summed = one.double().unsqueeze(-1).movedim(axis, 0).flatten(1).sum(1)
                yield (full, "parameter", axis), summed
    weight = products.get("weight")
    if weight is None or not (is_product or weight.dim() == 1):
        return
    written = by_channel(module, "out", weight) if is_product else weight.double()
    if "bias" in products:
        written = written + products["bias"].double()
    yield (layer, "out", 0), written
    if is_product:
        yield (layer, "in", 0), by_channel(module, "in", weight)


def by_channel(module: nn.Module, side: str, weight: Tensor) -> Tensor:
    """Sums over everything but the channels of one side; float64 (channels,)."""
    matrix = weight.flatten(2).sum(2, dtype=torch.double) if weight.dim() > 2 else weight.double()
    # Rows are the channels of one side, columns those of the other within a group.
    rows = (
        "in" if isinstance(module, nn.Embedding) or getattr(module, "transposed", False) else "out"
    )
    if side == rows:
        return matrix.sum(1)
    groups = getattr(module, "groups", 1)
    columns: Tensor = matrix.unflatten(0, (groups, -1)).sum(1).flatten()
    return columns


def _passes(
    model: nn.Module, data: DataSet, samples: int, job: Job
) -> Iterator[tuple[nn.Module, int]]:
    """A copy with the gradients of a batch's mean loss, and the batch's size; batch by batch."""
    # Parameters of its own over the same numbers: gradients are kept in them.
    copy = share(model, lambda one: own_parameter(one) if _is_parameter(one) else one.clone())
    copy.eval()
    without_rounding(copy)
    loss = loss_of(data)
    chosen = _chosen(data, samples)
    job.begin("Following gradients on training samples", len(chosen))
    for inputs, targets in chosen.batches(_GRADIENT_BATCH, job):
        copy.zero_grad(set_to_none=True)
        with torch.enable_grad(), _told(data):
            found = loss(copy(inputs), targets)
            if not found.requires_grad:
                raise EditRefused(
                    "This model does not let gradients through.",
                    "Take a criterion that looks at weights alone.",
                )
            found.backward()
        if not torch.isfinite(found):
            raise EditRefused(f"The loss on {data.name} is not finite.")
        yield copy, len(inputs)
        job.advance(len(inputs))


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


@contextmanager
def _told(data: DataSet) -> Iterator[None]:
    """Say in words that a model does not run on samples."""
    try:
        yield
    except Exception as error:  # forwards raise what they like
        if isinstance(error, EngineError) or is_out_of_memory(error):
            raise
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise EditRefused(
            f"The model does not run on training samples of {data.name}: {words}"
        ) from error


# What layers read


@dataclass(frozen=True)
class _Reads:
    """What a layer read, by input channel.

    Attributes:
        magnitude: mean of |x|.
        norm: root of the sum of x².
    """

    magnitude: Tensor
    norm: Tensor


def _reads(subject: Subject, samples: int, job: Job) -> dict[LayerId, _Reads]:
    return _remembered(
        subject, "reads", samples, lambda data: _read(subject.model, data, samples, job)
    )


def _read(model: nn.Module, data: DataSet, samples: int, job: Job) -> dict[LayerId, _Reads]:
    copy = share_for_running(model)
    watches: dict[LayerId, _Watch] = {}
    for layer, module in copy.named_modules():
        if isinstance(module, _ConvNd | nn.Linear):
            watch = watches[LayerId(layer)] = _Watch(module)
            module.register_forward_pre_hook(watch, with_kwargs=True)
    chosen = _chosen(data, samples)
    job.begin("Watching activations on training samples", len(chosen))
    with torch.inference_mode():
        for inputs, _ in chosen.batches(_READING_BATCH, job):
            with _told(data):
                copy(inputs)
            job.advance(len(inputs))
    return {layer: watch.seen() for layer, watch in watches.items() if watch.count}


class _Watch:
    """Pre-forward hook that sums up what a layer reads."""

    def __init__(self, module: nn.Module) -> None:
        self._axis = -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)  # type: ignore[arg-type]
        self._magnitudes: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0
        self.count = 0  # values of one channel

    def __call__(self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = inputs[0] if inputs else named.get("input")
        if not isinstance(x, Tensor):
            return
        channels = x.detach().movedim(self._axis, 0).flatten(1)
        self._magnitudes = self._magnitudes + channels.abs().sum(1, dtype=torch.double)
        norms = torch.linalg.vector_norm(channels, dim=1, dtype=torch.double)
        self._squares = self._squares + norms.square()
        self.count += channels.shape[1]

    def seen(self) -> _Reads:
        """The figures over all that was read."""
        magnitudes, squares = torch.as_tensor(self._magnitudes), torch.as_tensor(self._squares)
        return _Reads(magnitudes / self.count, squares.sqrt())
