"""Model and sample input in, layer tree and operator table out; nothing is computed if possible.

The forward pass runs on a copy whose tensors are fake (shape, dtype and device without data), so
the user's model never sees a hook, whatever its forward does. Where shapes depend on data (the
boxes that a detection model keeps), the copy runs once in earnest.
"""

import itertools
import logging
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from engine.errors import ForwardFailed
from engine.layers import ROOT, Layer, LayerId, LayerTree
from engine.operators import Operator, OperatorTable, OwnOperator, TensorUse, Window, Work
from engine.requests import InputSpec
from engine.rounded_operators import OperatorCall, operator_call
from engine.sharing import share, share_for_running, tensors_of

aten = torch.ops.aten

# Operators that move data without multiplying-accumulating and that carry no tag saying so.
_TRAFFIC = frozenset(
    str(packet)
    for packet in (
        aten.native_batch_norm, aten._native_batch_norm_legit,
        aten._native_batch_norm_legit_no_training, aten.cudnn_batch_norm,
        aten.native_layer_norm, aten.native_group_norm, aten._fused_rms_norm,
        aten._softmax, aten._log_softmax, aten._safe_softmax,
        aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.avg_pool2d,
        aten.avg_pool3d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d,
        aten.adaptive_max_pool2d, aten.adaptive_max_pool3d,
        aten.mean, aten.sum, aten.amax, aten.amin, aten.max, aten.min, aten.argmax, aten.prod,
        aten.var, aten.var_mean, aten.std, aten.cumsum, aten.norm, aten.linalg_vector_norm,
        aten.cat, aten.stack, aten.clone, aten.copy, aten.copy_, aten._to_copy,
        aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d,
        aten.index, aten.index_select, aten.gather, aten.embedding, aten.roll, aten.repeat,
        aten.flip, aten.topk, aten.sort, aten.masked_fill, aten.tril, aten.triu,
        aten.upsample_nearest2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d,
        aten.channel_shuffle, aten.native_channel_shuffle, aten.pixel_shuffle,
        aten.full, aten.full_like, aten.zeros, aten.zeros_like, aten.ones, aten.ones_like,
        aten.arange, aten.linspace, aten.fill_, aten.zero_, aten.new_zeros, aten.new_full,
        aten.scalar_tensor, aten.empty, aten.empty_like, aten.new_empty, aten.bernoulli_,
        aten._unsafe_index, aten.native_dropout, aten.grid_sampler_2d, aten.grid_sampler_3d,
        aten.hardswish, aten.hardswish_, aten.im2col, aten.col2im,
        aten.upsample_nearest1d, aten.upsample_nearest3d, aten._upsample_nearest_exact2d,
        aten.upsample_linear1d, aten.upsample_trilinear3d,
        aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa,
        aten.nonzero, aten._unique2, aten.index_put, aten.index_put_, aten.index_add,
        aten.scatter, aten.scatter_, aten.scatter_add, aten.scatter_add_, aten.masked_select,
        aten.argmin, aten.any, aten.all, aten.logsumexp, aten.cumprod, aten.std_mean,
        aten.rand, aten.randn, aten.randint, aten.randperm, aten.rand_like, aten.randn_like,
        aten.reflection_pad1d, aten.replication_pad1d, aten.replication_pad3d,
        aten.new_ones, aten.new_empty_strided, aten.empty_strided, aten.eye, aten.tril_indices,
        aten.masked_fill_, aten.resize_, aten.split_with_sizes_copy, aten._weight_norm_interface,
        aten.bucketize, aten.searchsorted, aten.floor_divide,
    )
) | {  # comparisons and interpolation, as in pooling
    "torchvision.nms", "torchvision.roi_align", "torchvision.roi_pool",
    "torchvision.ps_roi_align", "torchvision.ps_roi_pool",
}  # fmt: skip
_FREE = frozenset(
    str(packet)
    for packet in (
        aten.detach, aten.alias, aten._unsafe_view, aten.lift_fresh, aten._reshape_alias,
        aten.as_strided_, aten.squeeze_, aten.unsqueeze_, aten.t_, aten.transpose_,
        aten.lift, aten.unsafe_split, aten.unsafe_split_with_sizes,
    )
)  # fmt: skip
_QUANTIZED = "quantized_decomposed."


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    Attributes:
        output_shapes: of the first tensor that each layer put out, by path.
        result_shapes: of all tensors that the model put out, in order.
        output_layers: layers whose products reach the model's outputs through element-wise work
            alone: their channels are the outputs'.
        residual_layers: layers that add to what they are given what they make of it, and put out
            a sum of the same shape (:meth:`engine.operators.OperatorTable.hands_on`).
        ran: ``real`` when shapes depend on data, so that the figures hold for the sample input.
        own_operators: additions and products of matrices that the code of each layer itself calls,
            in order; None where it does not call the same whenever it runs.
    """

    operators: OperatorTable
    output_shapes: dict[LayerId, tuple[int, ...]]
    result_shapes: tuple[tuple[int, ...], ...]
    output_layers: frozenset[LayerId]
    residual_layers: frozenset[LayerId] = frozenset()
    ran: Literal["fake", "real"] = "fake"
    own_operators: Mapping[LayerId, tuple[OwnOperator, ...] | None] = field(default_factory=dict)


def trace(model: nn.Module, inputs: tuple[Any, ...], batch: int = 0) -> Trace:
    """Record one forward pass in evaluation mode on inputs of these shapes and dtypes.

    Args:
        inputs: positional arguments: tensors, or lists, tuples and mappings of them.
        batch: samples, repeated or cut; 0: as many as the inputs have.

    Raises:
        ForwardFailed: the model's forward raised; the message names the layer.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = faker(mode)
    try:
        samples = tree_map_only(Tensor, fake, inputs)
        samples = batched(samples, batch)  # which takes no memory, as they are
        return _recorded(share(model, fake).eval(), samples, mode, "fake")
    except _NeedsData as needs:
        if any(tensor.is_meta for _, tensor in tensors_of(model)):
            raise ForwardFailed(
                f"{needs}, so it needs real weights, and this model has none.",
                "Open the model with weights, random or published.",
            ) from needs
    real = batched(inputs, batch)
    return _recorded(share_for_running(model, baked=False), real, nullcontext(), "real")


Seen = Callable[[Operator, list[Tensor]], None]
"""Told of every operator as it has run, with its tensors: inputs first, then outputs."""


def watch_values(model: nn.Module, inputs: tuple[Any, ...], seen: Seen) -> None:
    """Run the model once in earnest, on a copy, and show every operator's tensors.

    Raises:
        ForwardFailed: as :func:`trace`.
    """
    _recorded(share_for_running(model, baked=False), inputs, nullcontext(), "real", seen)


class _NeedsData(ForwardFailed):
    """Shapes depend on data, or an operator has no rule for its shapes."""


# What fake tensors raise where only data can tell how to go on.
DATA_DEPENDENT = (
    DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException,
)  # fmt: skip


def _recorded(
    copy: nn.Module,
    samples: tuple[Any, ...],
    mode: AbstractContextManager[Any],
    ran: Literal["fake", "real"],
    seen: Seen | None = None,
) -> Trace:
    """What one pass of ``copy``, which is the tracer's own, shows."""
    recorder = _Recorder({id(tensor): name for name, tensor in tensors_of(copy)}, seen)
    depth = _watch(copy, recorder)
    calls = _Calls(recorder)
    try:
        with torch.no_grad(), plain_kernels(), deeper_calls(depth), mode, recorder, calls:
            result = copy(*samples)
    except DATA_DEPENDENT as error:
        layer = recorder.layer_of(error)
        raise _NeedsData(f"What {_where(layer)} does depends on its data ({error})") from error
    except Exception as error:
        raise _forward_failed(error, recorder.layer_of(error), samples) from error
    results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    operators = OperatorTable(tuple(recorder.operators), map(recorder.number_of, results))
    return Trace(
        operators,
        recorder.shapes,
        tuple(tuple(leaf.shape) for leaf in results),
        operators.last_products(),
        recorder.residual_layers(operators),
        ran,
        recorder.own_operators,
    )


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Keep the fused attention kernel, which hides its matrix products, out of the way."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it logs it raises as well, and we say it in words
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        logger.setLevel(level)


@contextmanager
def deeper_calls(depth: int) -> Iterator[None]:
    """Room for what watching adds to the stack: a model that runs by itself runs here too."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 2 * depth + 200)  # a frame a level, and those of fake tensors
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def layer_tree(
    model: nn.Module, shapes: dict[LayerId, tuple[int, ...]], describe: "Describe"
) -> LayerTree:
    """The modules of ``model`` as layers, shared ones once, with what ``describe`` adds."""
    canonical: dict[int, LayerId] = {}
    aliases: dict[LayerId, list[str]] = {}
    modules: list[tuple[LayerId, nn.Module]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        first = canonical.setdefault(id(module), LayerId(name))
        if first == name:
            modules.append((first, module))
        else:
            aliases.setdefault(first, []).append(name)
    return LayerTree(
        describe(
            module,
            Layer(
                id_,
                type(module).__name__,
                shapes.get(id_),
                aliases=tuple(aliases.get(id_, ())),
            ),
        )
        for id_, module in modules
    )


Describe = Callable[[nn.Module, Layer], Layer]


def faker(mode: FakeTensorMode, requires_grad: bool = False) -> Callable[[Tensor], Tensor]:
    """A function that gives each tensor's fake: shape, strides and dtype, no data.

    Args:
        requires_grad: whether every float parameter's fake takes part in autograd.
    """

    def fake(tensor: Tensor) -> Tensor:
        device = "cpu" if tensor.device.type == "meta" else tensor.device
        is_parameter = isinstance(tensor, nn.Parameter)
        empty = torch.empty_strided(
            tensor.shape,
            tensor.stride(),
            dtype=tensor.dtype,
            device="meta",
            requires_grad=requires_grad and is_parameter and tensor.is_floating_point(),
        )
        # Made directly: through the mode each takes ten times as long, and a model has hundreds.
        made = FakeTensor(mode, empty, torch.device(device))
        if is_parameter:
            made._is_param = True  # what torch itself marks a subclass's parameters by
        return made

    return fake


def _watch(model: nn.Module, recorder: "_Recorder") -> int:
    """Tell the recorder which layer runs; ``model`` is its own copy. Levels of layers."""
    depth = 0
    for name, module in model.named_modules():
        depth = max(depth, name.count(".") + 1)
        module.register_forward_pre_hook(recorder.entering(LayerId(name)), prepend=True)
        # Always: or a layer whose parent catches what it raised would seem to run on.
        module.register_forward_hook(recorder.leaving(LayerId(name)), always_call=True)
    return depth


def _where(layer: LayerId) -> str:
    return f"layer {layer}" if layer else "the model at its top level"


def _forward_failed(error: Exception, layer: LayerId, inputs: tuple[Any, ...]) -> ForwardFailed:
    leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    shapes = " and ".join("×".join(map(str, tensor.shape)) for tensor in leaves)
    where = f"in layer {layer}" if layer else "at its top level"
    cause = str(error).strip().splitlines()
    return ForwardFailed(
        f"The model stopped {where} on an input of {shapes}: "
        f"{cause[0] if cause else type(error).__name__}"
    )


class _Recorder(TorchDispatchMode):
    """Writes down every operator that reaches the dispatcher."""

    def __init__(self, names: dict[int, str], seen: Seen | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen
        self.operators: list[Operator] = []
        self.shapes: dict[LayerId, tuple[int, ...]] = {}
        self._names = names
        self._stack: list[LayerId] = [ROOT]
        # Of every running layer its first operator and the tensor it was given, None for others.
        self._given: list[tuple[int, TensorUse | None]] = []
        self._calls: dict[LayerId, list[tuple[int, int, int, int] | None]] = {}
        # Weakly, as a real run would keep all activations; an id may so come to name another.
        self._uses: dict[int, tuple[weakref.ref[Tensor], TensorUse]] = {}
        self._numbers = itertools.count()
        self.own_operators: dict[LayerId, tuple[OwnOperator, ...] | None] = {}
        self._own: list[list[OwnOperator]] = [[]]  # of every running layer
        self._failed: tuple[BaseException | None, LayerId] = (None, ROOT)

    def layer_of(self, error: BaseException) -> LayerId:
        """Innermost layer that raised the error."""
        raised, layer = self._failed
        return layer if raised is error else ROOT

    def entering(self, layer: LayerId) -> Callable[[nn.Module, Any], None]:
        """A pre-forward hook for that layer."""

        def hook(_module: nn.Module, inputs: Any) -> None:
            self._stack.append(layer)
            self._own.append([])
            given = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            use = None if given is None else self._use(given)
            self._given.append((len(self.operators), use))

        return hook

    def leaving(self, layer: LayerId) -> Callable[[nn.Module, Any, Any], None]:
        """A forward hook for that layer, which is called when it raises as well."""

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._stack.pop()
            own = tuple(self._own.pop())
            if self.own_operators.setdefault(layer, own) != own:
                self.own_operators[layer] = None
            self._note_call(layer, output)
            raised = sys.exc_info()[1] if output is None else None
            if raised is not None and raised is not self._failed[0]:
                self._failed = raised, layer
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor):
                    self.shapes[layer] = tuple(leaf.shape)
                    break

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = tuple(
            self._use(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        )
        out = func(*args, **kwargs)
        work = work_of(func)
        macs = _macs_of(func, args, kwargs, out) if work is Work.PRODUCT else 0
        outputs = tuple(
            self._written(func, leaf, inputs, args)
            for leaf in tree_leaves(out)
            if isinstance(leaf, Tensor)
        )
        if not outputs:  # a question about a tensor, not work on it
            return out
        operator = Operator(
            self._stack[-1],
            str(func._overloadpacket),
            work,
            inputs,
            outputs,
            None if work is Work.UNKNOWN else macs,
            _window_of(func, args),
        )
        self.operators.append(operator)
        if self._seen is not None:
            leaves = tree_leaves((args, kwargs, out))
            self._seen(operator, [leaf for leaf in leaves if isinstance(leaf, Tensor)])
        return out

    def note_own(self, call: OperatorCall) -> None:
        """See a call of the running layer's own code, before it is made."""
        uses = [self._use(operand) for operand in call.operands]
        if call.kind == "attention":
            takes = [not (uses[0].weight or uses[1].weight), not uses[2].weight]
        else:
            alike = call.names[0] == "matmul" or uses[0].shape == uses[1].shape
            takes = [alike and not any(use.weight for use in uses)]
        pairs = zip(call.names, takes, strict=True)
        self._own[-1].extend(OwnOperator(*pair, call.in_place) for pair in pairs)

    def _note_call(self, layer: LayerId, output: Any) -> None:
        first, given = self._given.pop()
        call = None
        if given is not None and isinstance(output, Tensor) and given.shape == output.shape:
            call = first, len(self.operators), given.number, self._use(output).number
        self._calls.setdefault(layer, []).append(call)

    def residual_layers(self, operators: OperatorTable) -> frozenset[LayerId]:
        """Layers that hand their input on, with something added, whenever they run."""
        return frozenset(
            layer
            for layer, calls in self._calls.items()
            if layer != ROOT
            and all(call is not None and operators.hands_on(*call, layer) for call in calls)
        )

    def number_of(self, tensor: Tensor) -> int:
        """The number of the value that a tensor holds now."""
        return self._use(tensor).number

    def _use(self, tensor: Tensor) -> TensorUse:
        known, use = self._uses.get(id(tensor), (None, None))
        if use is None or known is None or known() is not tensor:
            name = self._names.get(id(tensor), "")
            use = self._remember(tensor, _bits(tensor.dtype), bool(name), name)
        return use

    def _remember(self, tensor: Tensor, bits: int, weight: bool, name: str = "") -> TensorUse:
        use = TensorUse(next(self._numbers), tuple(tensor.shape), bits, weight, name)
        self._uses[id(tensor)] = weakref.ref(tensor), use
        return use

    def _written(
        self, func: Any, tensor: Tensor, inputs: tuple[TensorUse, ...], args: Any
    ) -> TensorUse:
        weight = bool(inputs) and all(use.weight for use in inputs)
        if work_of(func) is not Work.FREE or not inputs:
            bits = _bits(tensor.dtype)
        elif str(func._overloadpacket).startswith(_QUANTIZED):
            bits = _notated_bits(func, args, inputs[0].bits, tensor)
        else:
            bits = inputs[0].bits
        return self._remember(tensor, bits, weight)


class _Calls(TorchFunctionMode):
    """Tells the recorder what the layers' code calls, before the dispatcher takes it apart."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = operator_call(func, args, kwargs or {})
        if call is not None:
            self._recorder.note_own(call)
        return func(*args, **(kwargs or {}))


@cache
def work_of(func: Any) -> Work:
    """What an operator of the dispatcher costs, as far as its rule tells."""
    packet = str(func._overloadpacket)
    if func._overloadpacket in flop_registry or packet in _PRODUCTS:
        return Work.PRODUCT
    if func.is_view or packet in _FREE or packet.startswith(_QUANTIZED):
        return Work.FREE  # a value is rounded as it is written: no traffic of its own
    if packet in _TRAFFIC or is_pointwise(func):
        return Work.TRAFFIC
    return Work.UNKNOWN


def _notated_bits(func: Any, args: Any, before: int, tensor: Tensor) -> int:
    """Bits of what an operator that rounds or restores puts out.

    Behind a dequantizer what is stored is still the integer, of the bits that its range needs; the
    float is the arithmetic's notation.
    """
    names = [one.name for one in func._schema.arguments]
    if "quant_min" not in names:  # a cast: to fewer bits, and back in notation only
        return min(before, _bits(tensor.dtype))
    low, high = (args[names.index(side)] for side in ("quant_min", "quant_max"))
    return int(high - low).bit_length()


def is_pointwise(func: Any) -> bool:
    """Whether each output element of an operator depends on the input elements at its place."""
    # Only some in-place variants carry their operator's tag, so the plain one is asked as well.
    if torch.Tag.pointwise in func.tags:
        return True
    plain = getattr(aten, func._schema.name.removeprefix("aten::").removesuffix("_"), None)
    return plain is not None and any(
        torch.Tag.pointwise in getattr(plain, overload).tags for overload in plain.overloads()
    )


def _attention(args: Any, _out: Any) -> int:
    query, key, value = (tuple(tensor.shape) for tensor in args[:3])
    return int(prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _matrix_times_vector(args: Any, _out: Any) -> int:
    return int(args[0].numel())


def _deformed_convolution(args: Any, out: Any) -> int:
    # Each output element reads a kernel of inputs, wherever it finds them.
    return int(out.numel() * args[1][0].numel())


def _recurrence(args: Any, _out: Any) -> int:
    steps_and_batch, weights = args[0].shape[:2], args[1:3]
    return int(prod(steps_and_batch) * sum(weight.numel() for weight in weights))


# Products that torch's registry has no formula for.
_PRODUCTS: dict[str, Callable[[Any, Any], int]] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_attention_math_for_mps": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten.mv": _matrix_times_vector,
    "aten.dot": _matrix_times_vector,
    "aten.vdot": _matrix_times_vector,
    "aten.addmv": lambda args, _out: int(args[1].numel()),
    "aten._int_mm": lambda args, _out: int(args[0].numel() * args[1].shape[-1]),
    "aten.mkldnn_rnn_layer": _recurrence,
    "torchvision.deform_conv2d": _deformed_convolution,
}


def _macs_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    formula = _PRODUCTS.get(str(func._overloadpacket))
    if formula is not None:
        return formula(args, out)
    # torch's formulas count a multiply-accumulate as two operations.
    return int(flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)) // 2


def _window_of(func: Any, args: Any) -> Window | None:
    if func._overloadpacket is not aten.convolution:
        return None
    _, weight, _, stride, padding, dilation, transposed, _, groups = args[:9]
    return Window(
        tuple(weight.shape[2:]),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        int(groups),
        bool(transposed),
    )


def _bits(dtype: torch.dtype) -> int:
    return 1 if dtype is torch.bool else dtype.itemsize * 8


def sample_inputs(specs: Iterable[InputSpec]) -> tuple[Any, ...]:
    """Seeded inputs: standard-normal floats, integers below each spec's bound.

    A listed one (images of a detection model) is a list of tensors with values in 0 to 1.
    """
    generator = torch.Generator().manual_seed(0)
    return tuple(_sample(spec, generator) for spec in specs)


def _sample(spec: InputSpec, generator: torch.Generator) -> Any:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if spec.listed:
        return list(torch.rand(spec.shape, generator=generator).to(dtype))
    if dtype.is_floating_point:
        return torch.randn(spec.shape, generator=generator).to(dtype)
    return torch.randint(spec.high, spec.shape, generator=generator).to(dtype)


def batched(inputs: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    """The inputs at ``size`` samples, repeated or cut; 0: as they are."""
    now = batch_of(inputs)
    if size in (0, now):
        return inputs
    which = [at % now for at in range(size)]

    def resized(tensor: Tensor) -> Tensor:
        return tensor[which] if tensor.dim() and tensor.shape[0] == now else tensor

    return tuple(
        [one[at % len(one)] for at in range(size)]
        if isinstance(one, list) and one
        else tree_map_only(Tensor, resized, one)
        for one in inputs
    )


def batch_of(inputs: tuple[Any, ...]) -> int:
    """Samples in the first input: entries of a list, else the first axis of its first tensor."""
    if inputs and isinstance(inputs[0], list):
        return max(1, len(inputs[0]))
    first = next((leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)), None)
    return first.shape[0] if first is not None and first.dim() else 1
