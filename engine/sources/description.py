"""The description that travels inside an exported checkpoint: enough to rebuild the model.

It names the architecture and lists, layer by layer, what differs from it: channel counts, heads,
factors, integer weights with their grids, folded batch norms, removed blocks. It says what the
model is, not how it became so.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, field
from threading import get_ident
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from engine.batch_norms import FOLDABLE, is_batch_norm
from engine.edits import InputGrid
from engine.errors import ConsentNeeded, ModelNotFound, ModelUnreadable
from engine.integer_layers import QUANTIZED, WeightFormat, is_quantized, quantized_from
from engine.layers import LayerId
from engine.pruned_layers import (
    Factors,
    Folded,
    Form,
    Removed,
    factors_of,
    form_for,
    heads_of,
    why_heads_stay,
    without_heads,
)
from engine.requests import InputSpec
from engine.sharing import assign_tensors, own_parameter, replace_module
from engine.sources.architectures import build, is_factory
from engine.sources.files.naming import plain_name
from engine.user_code import require_call_allowed

KEY = "secateur"
VERSION = 2
_LONGEST_SOURCE = 4000
_MODULES, _MODULES_PER_TENSOR = 1000, 8  # more than any known architecture has

_STRUCTURE = (
    "in_channels", "out_channels", "groups", "in_features", "out_features",
    "num_features", "num_parameters", "normalized_shape", "num_channels", "num_groups",
    "embedding_dim",
)  # fmt: skip

_MOST_CHANNELS = 2**31 - 1
_Shape = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


@dataclass(config=ConfigDict(extra="forbid", frozen=True, strict=True))
class LayerDescription:
    """What differs in one layer, once all that is said of the layers above it is done.

    Attributes:
        structure: hyperparameters by torch's names.
        input_scale, input_zero_point: set for layers of integer weights.
        bias: whether a layer of integer weights has a bias, or another where it differs.
        folded_into: set for a batch norm that went into another layer.
        heads: how many an attention layer has left.
        rank, full_rank, form: of the two factors that a layer is now; they are described as layers
            of their own.
        removed: set for a residual block that hands its input on.
    """

    structure: dict[str, PositiveInt | _Shape] = field(default_factory=dict)
    input_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    input_zero_point: Annotated[int, Field(ge=-128, le=127)] | None = None
    bias: bool | None = None
    folded_into: str | None = None
    heads: PositiveInt | None = None
    rank: Annotated[PositiveInt, Field(le=_MOST_CHANNELS)] | None = None
    full_rank: Annotated[PositiveInt, Field(le=_MOST_CHANNELS)] | None = None
    form: Form | None = None
    removed: Literal[True] | None = None


@dataclass(config=ConfigDict(extra="forbid", frozen=True, strict=True))
class Description:
    """A model: its architecture's name, its inputs, and the layers that differ.

    Attributes:
        inputs: texts of :class:`engine.requests.InputSpec`.
        parameters: shapes of bare parameters that differ, by full name.
        tied: names of tensors that are the same as another, which alone is stored.
    """

    version: int
    source: str
    inputs: tuple[str, ...]
    trained: bool
    layers: dict[str, LayerDescription] = field(default_factory=dict)
    parameters: dict[str, _Shape] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)


@dataclass(config=ConfigDict(extra="ignore", strict=True))
class _Version:
    """What is read first: other versions may have other fields."""

    version: int


def describe(
    model: nn.Module, source: str, inputs: tuple[InputSpec, ...], trained: bool
) -> tuple[Description, dict[str, Tensor]]:
    """The description of ``model``, and the tensors to store beside it."""
    reference = build(source, "meta").model
    layers = {}
    for name, module in model.named_modules():
        found = _difference(module, reference.get_submodule(name))
        if found is not None:
            layers[name] = found
            _restore(
                reference, LayerId(name), found
            )  # which says what the layers below differ from
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner = first.setdefault(id(tensor), name)
        if owner == name:
            tensors[name] = tensor.detach().contiguous()
        else:
            tied[name] = owner
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in reference.named_parameters(remove_duplicate=False)
    }
    bare = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if shapes.get(name) != tuple(parameter.shape)
    }
    texts = tuple(str(one) for one in inputs)
    return Description(VERSION, source, texts, trained, layers, bare, tied), tensors


def to_metadata(description: Description) -> dict[str, str]:
    """The description as a safetensors file holds it."""
    return {KEY: json.dumps(asdict(description), separators=(",", ":"))}


def read_description(metadata: dict[str, str], file: str) -> Description:
    """The description in a file's metadata.

    Raises:
        ModelUnreadable: there is none, or it is not one that this version can read.
    """
    if KEY not in metadata:
        raise ModelUnreadable(
            f"{file} holds tensors only, without the architecture they belong to."
        )
    try:
        version = TypeAdapter(_Version).validate_json(metadata[KEY]).version
        if version != VERSION:
            raise ModelUnreadable(
                f"{file} was written by another version of Secateur (format {version}).",
                "Open it with that version, or export it again.",
            )
        found = TypeAdapter(Description).validate_json(metadata[KEY])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "description"
        raise ModelUnreadable(
            f"{file}: {plain_name(where)}: {plain_name(first['msg'])}."
        ) from error
    if len(found.source) > _LONGEST_SOURCE:
        raise ModelUnreadable("The architecture that it names is no name of one.")
    try:
        inputs_of(found)
    except ValueError as error:
        raise ModelUnreadable(
            f"{file} describes a model with an unusable input: {plain_name(error)}."
        ) from error
    return found


def inputs_of(description: Description) -> tuple[InputSpec, ...]:
    """The inputs of the described model."""
    return tuple(InputSpec.parse(one) for one in description.inputs)


def rebuild(
    description: Description, tensors: dict[str, Tensor], trusted: Collection[str] = frozenset()
) -> nn.Module:
    """The model that the description and the tensors stand for, in evaluation mode.

    Args:
        trusted: as in :class:`engine.requests.OpenRequest`, for a factory's architecture.

    Raises:
        ConsentNeeded: it is a factory's, and its code was not allowed to run yet.
        ModelUnreadable: the two do not fit each other.
    """
    # Without data at first: what a file says of sizes costs no memory before its tensors agree.
    try:
        if is_factory(description.source):
            require_source_allowed(description, trusted)
            model = build(description.source, "meta", trusted).model
        else:
            with _at_most(_MODULES + _MODULES_PER_TENSOR * len(tensors)):
                model = build(description.source, "meta").model
    except ModelNotFound as error:
        raise _no_such_architecture(description) from error
    try:
        for name, layer in description.layers.items():
            _restore(model, LayerId(name), layer)
        for module in model.modules():
            if isinstance(module, Folded):
                model.get_submodule(module.into)
        for name, shape in description.parameters.items():
            parent, _, last = name.rpartition(".")
            old = model.get_parameter(name)
            setattr(model.get_submodule(parent), last, nn.Parameter(old.new_empty(shape)))
        state = dict(tensors)
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        for name, owner in description.tied.items():
            if owner not in tensors:
                raise ValueError(f"{name} is tied to {owner}, which is missing.")
            if {name, owner} <= parameters:  # one parameter, not two over the same memory
                state[owner] = own_parameter(state[owner])
            state[name] = state[owner]
        _check_fit(model.state_dict(), state)
        assign_tensors(model, state)
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelUnreadable(
            f"The tensors do not fit the described architecture: {plain_name(first)}",
            "Export the checkpoint again.",
        ) from error
    quantized: Any
    for quantized in filter(is_quantized, model.modules()):
        channels = len(quantized.weight_scale)
        # The one tensor that no file holds.
        quantized.weight_zero_point = torch.zeros(channels, dtype=torch.int64)
    return model.eval()


def require_source_allowed(description: Description, trusted: Collection[str]) -> None:
    """Go on only if the user allowed the very call that the file names; nothing of it has run.

    Raises:
        ConsentNeeded, ModelNotFound, ModelUnreadable: see :func:`engine.user_code.load_function`.
    """
    try:
        require_call_allowed(description.source, frozenset(trusted))
    except ConsentNeeded as error:
        shown = [plain_name(one, _LONGEST_SOURCE) for one in error.details["runs"]]
        details = {**error.details, "what": plain_name(error.details["what"]), "runs": shown}
        raise ConsentNeeded(plain_name(error, _LONGEST_SOURCE), error.remedy, details) from error
    except ModelNotFound as error:
        raise _no_such_architecture(description) from error
    except ModelUnreadable as error:
        raise ModelUnreadable(plain_name(error), error.remedy) from error


def _no_such_architecture(description: Description) -> ModelUnreadable:
    return ModelUnreadable(
        f"It is a checkpoint of “{plain_name(description.source)}”, and there is no such "
        "architecture."
    )


@contextmanager
def _at_most(modules: int) -> Iterator[None]:
    """Build no more modules than that: arguments in a file may ask for any number of layers."""
    thread = get_ident()

    def count(_parent: nn.Module, _name: str, _child: nn.Module | None) -> None:
        nonlocal modules
        modules -= get_ident() == thread
        if modules < 0:
            raise RuntimeError("it has far more layers than there are tensors.")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _check_fit(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        if name not in found:
            raise ValueError(f"{name} is missing.")
        kind, shape = found[name].dtype, tuple(found[name].shape)
        if shape != tuple(tensor.shape):
            raise ValueError(f"{name} has shape {shape}, not {tuple(tensor.shape)}.")
        if kind != tensor.dtype:
            raise ValueError(f"{name} holds {kind}, not {tensor.dtype}.")
    if strange := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{strange[0]} belongs to no layer.")


def _difference(module: nn.Module, reference: nn.Module) -> LayerDescription | None:
    if isinstance(module, Folded) and not isinstance(reference, Folded):
        return LayerDescription(folded_into=module.into)
    if isinstance(module, Removed) and not isinstance(reference, Removed):
        return LayerDescription(removed=True)
    if isinstance(module, Factors) and not isinstance(reference, Factors):
        return LayerDescription(rank=module.rank, full_rank=module.full_rank, form=module.form)
    if heads_of(module) != heads_of(reference):
        return LayerDescription(heads=heads_of(module))
    structure = {
        name: getattr(module, name)
        for name in _STRUCTURE
        if isinstance(getattr(module, name, None), int | tuple)
        and getattr(module, name) != getattr(reference, name, None)
    }
    has_bias = getattr(module, "bias", None) is not None
    if is_quantized(module):
        found: Any = module
        return LayerDescription(
            structure, found.input_grid.scale, found.input_grid.zero_point, has_bias
        )
    gained = has_bias and type(module) in FOLDABLE and reference.bias is None
    if structure or gained:
        return LayerDescription(structure, bias=True if gained else None)
    return None


def _restore(model: nn.Module, layer: LayerId, found: LayerDescription) -> None:
    """Give one layer the described structure, its tensors left empty."""
    module: Any = model.get_submodule(layer)
    if _replaced(layer, found):
        replace_module(model, layer, _stand_in(layer, module, found))
        return
    for name, value in found.structure.items():
        if name not in _STRUCTURE or type(getattr(module, name)) is not type(value):
            raise ValueError(f"{layer} has no {name} of that kind.")
        setattr(module, name, value)
    if found.bias and type(module) in FOLDABLE and module.bias is None:
        module.bias = nn.Parameter(module.weight.new_empty(0))
    for name, shape in _shapes(module).items():
        old = getattr(module, name, None)
        if isinstance(old, nn.Parameter):
            setattr(module, name, nn.Parameter(old.new_empty(shape)))
        elif isinstance(old, Tensor):
            setattr(module, name, old.new_empty(shape))
    if found.input_scale is not None and found.input_zero_point is not None:
        replace_module(model, layer, _quantized(layer, module, found))


def _replaced(layer: LayerId, found: LayerDescription) -> bool:
    """Whether something else stands in the layer's place; else the layer itself was changed."""
    factors = found.rank, found.full_rank, found.form
    ways = [
        found.folded_into is not None,
        found.removed is not None,
        found.heads is not None,
        factors != (None,) * 3,
    ]
    changed = bool(found.structure) or found.bias is not None or found.input_scale is not None
    if sum(ways) + changed > 1 or (ways[-1] and None in factors):
        raise ValueError(f"{layer or 'the model'} is described in two ways, or in half of one.")
    return any(ways)


def _stand_in(layer: LayerId, module: Any, found: LayerDescription) -> nn.Module:
    """What an edit put in the layer's place."""
    if found.folded_into is not None:
        if not is_batch_norm(module):
            raise ValueError(f"{layer or 'the model'} cannot be folded into another layer.")
        return Folded(module, found.folded_into)
    if found.heads is not None:
        return _with_heads(layer, module, found.heads)
    if found.rank is not None and found.full_rank is not None and found.form is not None:
        return _factorised(layer, module, found.rank, found.full_rank, found.form)
    if not layer:
        raise ValueError("the model as a whole cannot be removed.")
    return Removed(type(module).__name__)


def _with_heads(layer: LayerId, module: nn.Module, heads: int) -> nn.Module:
    before = heads_of(module)
    if before is None or heads >= before or why_heads_stay(module):
        raise ValueError(f"{layer or 'the model'} cannot have {heads} heads.")
    return without_heads(module, range(heads, before))


def _factorised(
    layer: LayerId, module: nn.Module, rank: int, full_rank: int, form: Form
) -> nn.Module:
    plain = type(module) in QUANTIZED and getattr(module, "groups", 1) == 1
    if not plain or form != form_for(module, form):
        raise ValueError(f"{layer or 'the model'} cannot be two factors, “{form}”.")
    return factors_of(module, rank, form, full_rank)


def _quantized(layer: LayerId, module: Any, found: LayerDescription) -> nn.Module:
    if type(module) not in QUANTIZED:
        raise ValueError(f"{layer} ({type(module).__name__}) cannot hold integer weights.")
    assert found.input_scale is not None
    assert found.input_zero_point is not None
    channels = module.weight.shape[0]
    with torch.device("meta"):
        return quantized_from(
            module,
            torch.empty(module.weight.shape, dtype=torch.int8),
            torch.empty(channels) if found.bias else None,
            torch.empty(channels),
            torch.empty(channels, dtype=torch.int64),
            WeightFormat(),
            InputGrid(8, found.input_scale, found.input_zero_point),
        )


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    """Shapes that the module's tensors must have by its hyperparameters."""
    if isinstance(module, nn.modules.conv._ConvNd):
        sides = (module.out_channels, module.in_channels // module.groups)
        if module.transposed:
            sides = (module.in_channels, module.out_channels // module.groups)
        return {"weight": (*sides, *module.kernel_size), "bias": (module.out_channels,)}
    if isinstance(module, nn.Linear):
        return {
            "weight": (module.out_features, module.in_features),
            "bias": (module.out_features,),
        }
    if isinstance(module, nn.Embedding):
        return {"weight": (module.num_embeddings, module.embedding_dim)}
    normalized = getattr(module, "normalized_shape", None)
    if isinstance(normalized, tuple):
        return dict.fromkeys(("weight", "bias"), normalized)
    count = next(
        (
            getattr(module, name)
            for name in ("num_features", "num_parameters", "num_channels")
            if hasattr(module, name)
        ),
        None,
    )
    if count is None:
        return {}
    return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (count,))
