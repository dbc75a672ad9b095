"""Files of tensors to models: Secateur's own checkpoints, and state dicts of all kinds."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from engine.errors import InputsNeeded, ModelUnreadable
from engine.job import Job
from engine.requests import OpenRequest
from engine.sharing import assign_tensors
from engine.sources.architectures import DEMO, build, is_factory
from engine.sources.description import (
    KEY,
    inputs_of,
    read_description,
    rebuild,
    require_source_allowed,
)
from engine.sources.factories import try_in_child
from engine.sources.files.contents import Contents
from engine.sources.files.naming import plain_name
from engine.sources.files.reading import read_file
from engine.sources.files.sniffing import Kind
from engine.sources.masked import take_masks_in, told, without_masks
from engine.sources.matching import Match, match
from engine.sources.opened import OpenedModel, likely_inputs
from engine.state import ModelInfo
from engine.tracing import sample_inputs


def open_checkpoint(path: Path, kind: Kind, request: OpenRequest, job: Job) -> OpenedModel:
    """Open a file of tensors, or one that holds a model as a whole.

    Raises:
        ModelUnreadable: it is damaged, or holds nothing that can be opened.
        ConsentNeeded: opening it runs code.
        ArchitectureNeeded: nothing says what its tensors belong to.
        InputsNeeded: nothing says what the model takes.
    """
    found = read_file(path, kind, request, job)
    if isinstance(found, nn.Module):
        return _open_model(found, path, request)
    if KEY in (found.metadata or {}):
        return _open_own(found, path, request, job)
    if not found.tensors:
        raise ModelUnreadable(f"{plain_name(path.name)} holds no tensors.")
    found = without_masks(found)
    if is_factory(request.architecture):
        try_in_child(request.architecture, request.trusted, job)
    matched = match(found.tensors, path.stem, request.architecture, request.trusted, job)
    return _open_matched(found, matched, path, request, job)


def _open_own(contents: Contents, path: Path, request: OpenRequest, job: Job) -> OpenedModel:
    """A checkpoint that Secateur exported: its description says all."""
    description = read_description(dict(contents.metadata or {}), plain_name(path.name))
    if is_factory(description.source):
        require_source_allowed(description, request.trusted)
        try_in_child(description.source, request.trusted, job)
    model = rebuild(description, contents.read(), request.trusted)
    inputs = request.inputs or inputs_of(description)
    info = ModelInfo(plain_name(path.stem), str(path.resolve()), inputs, description.trained)
    data = "digits" if description.source == DEMO else ""
    return OpenedModel(info, model, sample_inputs(inputs), description.source, data)


def _open_matched(
    contents: Contents, matched: Match, path: Path, request: OpenRequest, job: Job
) -> OpenedModel:
    job.begin("Reading the tensors")
    tensors = contents.read()
    job.begin("Building the model")
    made = build(matched.source, "cpu", request.trusted)
    state = made.model.state_dict()
    kept = {name: _like(state[name], tensors[file]) for name, file in matched.names.items()}
    assign_tensors(made.model, {**state, **_own(kept)})
    inputs = request.inputs or made.inputs
    if not inputs:
        raise _inputs_needed(path, made.model)
    info = ModelInfo(
        plain_name(path.stem),
        str(path.resolve()),
        inputs,
        trained=True,
        notes=(*matched.notes, *contents.notes, *_converted(state, tensors, matched), *made.notes),
        task=made.task,
        preprocessing=made.preprocessing,
    )
    data = "digits" if made.source == DEMO else ""
    return OpenedModel(info, made.model.eval(), sample_inputs(inputs), made.source, data)


def _like(wanted: Tensor, found: Tensor) -> Tensor:
    """The tensor in the type that the architecture has."""
    return found.detach().to(wanted.dtype).contiguous()


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, none of them a view of another's numbers."""
    seen: set[int] = set()
    alone = {}
    for name, one in tensors.items():
        storage = one.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() > one.nbytes
        seen.add(storage.data_ptr())
        alone[name] = one.clone() if shared else one
    return alone


def _converted(
    state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], matched: Match
) -> tuple[str, ...]:
    kinds = {
        str(tensors[file].dtype).removeprefix("torch.")
        for name, file in matched.names.items()
        if state[name].is_floating_point() and tensors[file].dtype != state[name].dtype
    }
    if not kinds:
        return ()
    return (f"Its {' and '.join(sorted(kinds))} numbers are opened as float32.",)


def _open_model(model: nn.Module, path: Path, request: OpenRequest) -> OpenedModel:
    if not request.inputs:
        raise _inputs_needed(path, model)
    whole = f"The file holds the whole model, of class {plain_name(type(model).__name__)}."
    info = ModelInfo(
        plain_name(path.stem),
        str(path.resolve()),
        request.inputs,
        trained=True,
        notes=(whole, *told(take_masks_in(model))),
    )
    return OpenedModel(info, model, sample_inputs(request.inputs))


def _inputs_needed(path: Path, model: nn.Module) -> InputsNeeded:
    return InputsNeeded(
        f"Nothing in {plain_name(path.name)} says what the model takes.",
        details={"inputs": [str(one) for one in likely_inputs(model)]},
    )
