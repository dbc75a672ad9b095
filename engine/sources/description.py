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

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from engine.bit_packing import bits_of_integers, packed, stored_form, unpacked
from engine.errors import ConsentNeeded, ModelNotFound, ModelUnreadable
from engine.integer_layers import IntegerWeights
from engine.layers import LayerId
from engine.pruned_layers import Folded
from engine.requests import InputSpec
from engine.sharing import assign_tensors, own_parameter
from engine.sources.architectures import build, is_factory
from engine.sources.files.naming import plain_name
from engine.sources.layer_descriptions import (
    STRICT,
    LayerDescription,
    Shape,
    difference,
    restore,
)
from engine.user_code import require_call_allowed

KEY = "secateur"
VERSION = 3
_LONGEST_SOURCE = 4000
_MODULES, _MODULES_PER_TENSOR = 1000, 8  # more than any known architecture has


@dataclass(config=STRICT)
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
    parameters: dict[str, Shape] = field(default_factory=dict)
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
        found = difference(module, reference.get_submodule(name))
        if found is not None:
            layers[name] = found
            restore(reference, LayerId(name), found)  # which says what the layers below differ from
    bits = bits_of_integers(model)
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner = first.setdefault(id(tensor), name)
        if owner == name:
            few = bits.get(name)
            tensors[name] = packed(tensor, few) if few else tensor.detach().contiguous()
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
            restore(model, LayerId(name), layer)
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
        wanted, bits = model.state_dict(), bits_of_integers(model)
        shapes = {name: tuple(wanted[name].shape) for name in bits}
        forms = {name: stored_form(shapes[name], few) for name, few in bits.items()}
        _check_fit({**wanted, **forms}, state)
        for name, few in bits.items():
            state[name] = unpacked(state[name], few, shapes[name]).to(wanted[name].dtype)
        assign_tensors(model, state)
        for module in model.modules():
            if isinstance(module, IntegerWeights):
                _complete(module)
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelUnreadable(
            f"The tensors do not fit the described architecture: {plain_name(first)}",
            "Export the checkpoint again.",
        ) from error
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


def _complete(module: IntegerWeights) -> None:
    """Give it the zero points that no file holds, and refuse integers of none of its grids."""
    form, scale = module.weight_format, module.weight_scale
    if form.symmetric:
        module.weight_zero_point = torch.zeros_like(scale, dtype=torch.int64)
        if bool((module.weight < form.range[0]).any()):
            raise ValueError("a symmetric weight holds the smallest integer.")
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise ValueError("a scale is no positive number.")


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
