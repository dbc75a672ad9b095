"""TorchScript archives: consent, a child first, then modules written out of their code."""

import re
from pathlib import Path
from typing import Any

import torch

from engine.errors import EngineError, InputsNeeded, ModelUnreadable
from engine.job import Job
from engine.requests import InputSpec, OpenRequest
from engine.sources.agreement import agreement, quiet, run, said
from engine.sources.files.archives import Archive, read_archive
from engine.sources.files.naming import plain_name
from engine.sources.graphs.scripted import scripted, with_layers
from engine.sources.opened import (
    OpenedModel,
    digest_of_file,
    likely_inputs,
    read_in_child_first,
    require_consent,
)
from engine.state import ModelInfo
from engine.tracing import sample_inputs

_REASON = "TorchScript is code: torch compiles it as it reads the file."
_OTHERWISE = "Export the model with torch.export, or open its Python code as a factory."


def open_torchscript(path: Path, request: OpenRequest, job: Job) -> OpenedModel:
    """Open what ``torch.jit.save`` wrote, its code turned back into modules.

    Raises:
        ConsentNeeded: nobody has allowed this very file yet; nothing was run.
        InputsNeeded: the request does not say what it takes, which the file never does.
        ModelUnreadable: it is no whole archive, or its code cannot be turned into modules.
    """
    archive = read_archive(path)
    archive.verify(job)
    digest = digest_of_file(path)
    require_consent(request, digest, plain_name(path.name), _modules_of(archive), _REASON)
    reader = f"{__name__}:_opened"
    return read_in_child_first(path, digest, request, reader, "TorchScript", job)


def _modules_of(archive: Archive) -> tuple[str, ...]:
    """Names of the Python modules whose compiled code it holds."""
    code = [name.partition("/code/")[2] for name in archive.members if name.endswith(".py")]
    names = [name.removesuffix(".py").replace("/", ".") for name in code if name]
    return tuple(dict.fromkeys(re.sub(r"\.___torch_mangle_\d+", "", name) for name in names))


def _opened(content: bytes, path: Path, inputs: tuple[InputSpec, ...]) -> OpenedModel:
    name = plain_name(path.name)
    module, unit = _loaded(content, name)
    if not inputs:
        raise InputsNeeded(
            f"{name} is TorchScript, which does not say what shapes it takes.",
            details={"inputs": [str(one) for one in likely_inputs(module)]},
        )
    samples = sample_inputs(inputs)
    wanted = run(lambda: module(*samples), samples, name)
    try:
        with quiet():
            blocks = scripted(module, unit)
    except EngineError:
        raise
    except Exception as error:  # whatever the code holds
        raise ModelUnreadable(
            f"The code of {name} cannot be turned into modules: {said(error)}", _OTHERWISE
        ) from error
    run(lambda: with_layers(blocks, samples), samples, name)
    proof = agreement(run(lambda: blocks(*samples), samples, name), wanted, name)
    shown, source = plain_name(path.stem), str(path.resolve())
    info = ModelInfo(shown, source, inputs, trained=True, notes=(proof,))
    return OpenedModel(info, blocks, samples)


def _loaded(content: bytes, name: str) -> tuple[Any, Any]:
    """The script module on the processor, and the unit that holds its functions."""
    try:
        with quiet():
            # As torch.jit.load does, which keeps the unit to itself.
            unit = torch._C.CompilationUnit()
            reader: Any = torch._C.import_ir_module_from_buffer
            read = reader(unit, content, torch.device("cpu"), {}, False)
            return torch.jit._recursive.wrap_cpp_module(read).eval(), unit
    except Exception as error:  # likewise
        raise ModelUnreadable(
            f"{name} cannot be loaded as TorchScript: {said(error)}", _OTHERWISE
        ) from error
