"""Exported programs (``.pt2``): consent, a child first, then modules that can be edited."""

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

import engine.integer_layers  # noqa: F401  (registers the operators that programs use)
from engine.errors import EngineError, ModelUnreadable
from engine.job import Job
from engine.requests import InputSpec, OpenRequest
from engine.sources.agreement import agreement, quiet, run, said
from engine.sources.files.archives import Archive, read_archive
from engine.sources.files.naming import plain_name, plain_names
from engine.sources.files.pickles import BrokenPickle, scan_pickle
from engine.sources.graphs.unflattening import (
    control_flow,
    flat_example,
    put_in_evaluation_mode,
    unflattened,
)
from engine.sources.opened import (
    OpenedModel,
    digest_of_file,
    read_in_child_first,
    require_consent,
    spec_of,
)
from engine.state import ModelInfo
from engine.tracing import sample_inputs

_PROGRAM = re.compile(r"(^|/)models/[^/]*\.json$|^serialized_exported_program\.json$")
_REASON = "Exported programs have no safe form: torch reads a part of them as pickles."
_LONGEST_MARK = 256  # of what tells the version, in bytes
_MOST_UNPACKED = 1 << 23  # bytes of members that pickles are looked for in
_MOST_FOLLOWED = 1 << 20  # bytes of pickles that are followed
_EXPORT_AGAIN = "Export the model again with torch.export, after model.eval()."


def open_program(path: Path, request: OpenRequest, job: Job) -> OpenedModel:
    """Open what ``torch.export.save`` wrote, its module hierarchy back.

    Raises:
        ConsentNeeded: nobody has allowed this very file yet; nothing was run.
        ModelUnreadable: it is no whole program, or one that cannot become modules.
    """
    archive = read_archive(path)
    _check_kind(archive)
    archive.verify(job)
    digest = digest_of_file(path)
    require_consent(request, digest, plain_name(path.name), _names_called(archive), _REASON)
    reader = f"{__name__}:_opened"
    return read_in_child_first(path, digest, request, reader, "program", job)


def _check_kind(archive: Archive) -> None:
    """Refuse archives that are another kind of package, or written for another torch."""
    name, members = plain_name(archive.path.name), archive.members
    if any("/data/aotinductor/" in f"/{member}" for member in members):
        raise ModelUnreadable(
            f"{name} holds code compiled for one machine (AOTInductor), not operators.",
            "Open the exported program that it was compiled from.",
        )
    programs = [one for one in members if _PROGRAM.search(one)]
    if not programs:
        raise ModelUnreadable(f"{name} is a PyTorch archive without an exported program.")
    if len(programs) > 1:
        found = plain_names(sorted(Path(one).stem for one in programs))
        raise ModelUnreadable(
            f"{name} holds several programs ({found}).", "Save the one to open in its own file."
        )
    _check_version(archive, programs[0])


def _check_version(archive: Archive, program: str) -> None:
    from torch._export.serde.schema import SCHEMA_VERSION

    name, tail = plain_name(archive.path.name), b""
    version = writer = None
    for chunk in archive.chunks(archive.members[program], Job()):  # it may be long
        text = tail + chunk
        version = version or re.search(rb'"schema_version": *\{"major": *(\d{1,9})', text)
        writer = writer or re.search(rb'"torch_version": *"([\w.+-]{1,40})"', text)
        tail = text[-_LONGEST_MARK:]
    if version is not None and int(version[1]) != SCHEMA_VERSION[0]:
        by = f" by torch {writer[1].decode()}" if writer else ""
        raise ModelUnreadable(
            f"{name} was written{by} in form {int(version[1])} of exported programs; "
            f"the torch of this machine reads form {SCHEMA_VERSION[0]}.",
            f"Export the model again with torch {torch.__version__.partition('+')[0]}.",
        )


def _names_called(archive: Archive) -> tuple[str, ...]:
    """What the pickles in it would call, as far as the first of them can be followed in time."""
    found: dict[str, None] = {}
    left = _MOST_FOLLOWED
    for pickle in _all_pickles(archive):
        left -= len(pickle)
        if left < 0:
            return (*found, "more than was looked through")
        with suppress(BrokenPickle):  # torch will say what is wrong with it
            found.update(dict.fromkeys(scan_pickle(pickle).runs))
    return tuple(found)


def _all_pickles(archive: Archive) -> Iterator[bytes]:
    """The pickles in it, those in archives within it too."""
    left = _MOST_UNPACKED
    for name, member in archive.members.items():
        if member.size <= left and archive.head(member)[:1] in (b"\x80", b"P"):
            left -= member.size
            yield from _pickles(archive.content(name))


def _pickles(content: bytes) -> Iterator[bytes]:
    if content.startswith(b"\x80"):
        yield content
    broken = (zipfile.BadZipFile, EOFError, OSError, ValueError)
    with suppress(*broken), zipfile.ZipFile(io.BytesIO(content)) as inner:  # likewise
        for one in inner.infolist():
            if one.compress_type == zipfile.ZIP_STORED and one.filename.endswith(".pkl"):
                yield inner.read(one)


def _opened(content: bytes, path: Path, wanted: tuple[InputSpec, ...]) -> OpenedModel:
    name = plain_name(path.name)
    program = _loaded(content, name)
    specs, notes = _inputs(program, name)
    if wanted and len(wanted) != len(specs):
        raise ModelUnreadable(
            f"{name} takes {len(specs)} inputs ({', '.join(map(str, specs))}), not {len(wanted)}.",
            "Give that many, or none to take the program's own.",
        )
    specs = wanted or specs
    inputs = sample_inputs(specs)
    if put_in_evaluation_mode(program):
        notes = (*notes, "It was exported for training, and is opened as in evaluation.")
    wanted_outputs = run(lambda: _called(program, inputs), inputs, name)
    model = _as_modules(program, name)
    proof = agreement(run(lambda: model(*inputs), inputs, name), wanted_outputs, name)
    info = ModelInfo(plain_name(path.stem), str(path.resolve()), specs, True, (proof, *notes))
    return OpenedModel(info, model, inputs)


def _loaded(content: bytes, name: str) -> ExportedProgram:
    """The program; torch executes what its pickles name."""
    try:
        with quiet():
            program = torch.export.load(io.BytesIO(content))
            tensors = [*program.state_dict.values(), *program.constants.values()]
            if any(one.device.type != "cpu" for one in tensors if isinstance(one, Tensor)):
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, "cpu")
    except Exception as error:  # anything: the content decides what torch does
        raise ModelUnreadable(
            f"{name} cannot be loaded as an exported program: {said(error)}", _EXPORT_AGAIN
        ) from error
    return program


def _as_modules(program: ExportedProgram, name: str) -> nn.Module:
    try:
        with quiet():
            model = unflattened(program)
    except EngineError:
        raise
    except Exception as error:  # likewise
        raise ModelUnreadable(
            f"The operators of {name} cannot be turned into modules: {said(error)}", _EXPORT_AGAIN
        ) from error
    if flow := control_flow(program):
        raise ModelUnreadable(
            f"What {name} computes depends on its data ({', '.join(flow)}), which cannot be "
            "traced layer by layer.",
            "Export the model again without branches and loops over data.",
        )
    return model


# What it takes


def _inputs(program: ExportedProgram, name: str) -> tuple[tuple[InputSpec, ...], tuple[str, ...]]:
    """The inputs as the program's signature has them, and what was chosen where it leaves room."""
    examples = [one for one in flat_example(program) if isinstance(one, Tensor)]
    places = _places(program)
    if len(examples) != len(places):
        raise ModelUnreadable(f"{name} does not say what it takes.", _EXPORT_AGAIN)
    free = [_free_dimensions(place) for place in places]
    any_batch = bool(free) and all(0 in one for one in free)
    notes = []
    if any_batch:
        notes.append("It takes any batch size; its sample input holds one.")
    elif examples:
        batch = examples[0].shape[0] if examples[0].dim() else 1
        notes.append(f"It was exported for batches of {batch} and may take no others.")
    if any(one - {0} for one in free) or (not any_batch and any(free)):
        notes.append("Other free sides of its inputs are as long as in the example it holds.")
    specs = tuple(_spec(one, any_batch, name) for one in examples)
    return specs, tuple(notes)


def _places(program: ExportedProgram) -> list[torch.fx.Node]:
    """The graph's nodes of tensors that the caller gives."""
    names = set(program.graph_signature.user_inputs)
    return [
        node
        for node in program.graph.nodes
        if node.op == "placeholder"
        and node.name in names
        and isinstance(node.meta.get("val"), Tensor)
    ]


def _free_dimensions(place: torch.fx.Node) -> set[int]:
    shape = place.meta["val"].shape
    return {side for side, length in enumerate(shape) if not isinstance(length, int)}


def _spec(example: Tensor, any_batch: bool, name: str) -> InputSpec:
    spec = spec_of(example, name)
    return replace(spec, shape=(1, *spec.shape[1:])) if any_batch else spec


# The proof


def _called(program: ExportedProgram, inputs: tuple[Any, ...]) -> Any:
    """What the program puts out, its inputs in the nesting that its own caller gives them in."""
    given = iter(inputs)
    leaves = [next(given) if isinstance(one, Tensor) else one for one in flat_example(program)]
    args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    return program.module()(*args, **kwargs)
