"""From what the user names to a model in memory: which way of opening it takes."""

import os
from pathlib import Path

from engine.errors import ChildFailed, ModelUnreadable
from engine.job import Job
from engine.lazy import resolve
from engine.requests import OpenRequest
from engine.resources import resource
from engine.sharing import assign_tensors
from engine.sources import demo
from engine.sources.architectures import DEMO, TIMM, TORCHVISION, build, open_architecture
from engine.sources.checkpoints import open_checkpoint
from engine.sources.files.naming import plain_name
from engine.sources.files.safetensors_files import read_tensors
from engine.sources.files.sniffing import Kind, sniff
from engine.sources.opened import OpenedModel
from engine.state import ModelInfo
from engine.tracing import sample_inputs
from engine.user_code import names_function

_CATALOGUES = (TORCHVISION, TIMM)

# What is more than tensors; each is imported when such a file is opened.
_STRUCTURES = {
    Kind.PROGRAM: "engine.sources.graphs.programs:open_program",
    Kind.TORCHSCRIPT: "engine.sources.graphs.torchscript:open_torchscript",
    Kind.ONNX: "engine.sources.onnx_files.opening:open_onnx",
    Kind.DESCRIPTION: "engine.sources.described:open_description",
}


def open_source(request: OpenRequest, job: Job) -> OpenedModel:
    """Open the demo, a catalogued model, a file or what a Python factory makes.

    A path is what exists as a file, or looks like one (a suffix or a separator).

    Raises:
        ModelNotFound: nothing has that name.
        ModelUnreadable: it is there but cannot be opened, or not without an answer of the user's;
            the message says why.
        DownloadFailed: published weights could not be fetched.
    """
    source = request.source
    if source == DEMO:
        return _demo(request)
    if source.startswith(_CATALOGUES):
        return open_architecture(request, job)
    if names_function(source) and not os.path.lexists(source):
        opened: OpenedModel = resolve("engine.sources.factories:open_factory")(source, request, job)
        return opened
    if _is_path(source):
        try:
            return _file(Path(source), request, job)
        except OSError as error:  # it was there, and went or changed its rights meanwhile
            raise ModelUnreadable(
                f"{plain_name(Path(source).name)} could not be opened: {error.strerror or error}.",
                "Try again.",
            ) from error
    return open_architecture(request, job)


def _is_path(source: str) -> bool:
    path = Path(source)
    # os.path, as Path's own raise for names that are too long to be any file's
    named = bool(source) and os.path.lexists(source)
    if named and source.isidentifier() and os.path.isdir(source):  # noqa: PTH112
        named = False  # a folder called resnet18 does not hide the model
    return path.suffix in _SUFFIXES or named or len(path.parts) > 1


_SUFFIXES = frozenset((
    ".safetensors", ".pt", ".pth", ".bin", ".pt2", ".onnx", ".ckpt", ".h5", ".npz", ".json", ".py",
    ".txt",
))  # fmt: skip


def _demo(request: OpenRequest) -> OpenedModel:
    architecture = build(DEMO)
    tensors, _ = read_tensors(resource(demo.WEIGHTS))
    assign_tensors(architecture.model, tensors)
    inputs = request.inputs or architecture.inputs
    info = ModelInfo("digits_net", DEMO, inputs, trained=True, task=architecture.task)
    return OpenedModel(info, architecture.model, sample_inputs(inputs), DEMO, demo.DATA)


def _file(path: Path, request: OpenRequest, job: Job) -> OpenedModel:
    kind = sniff(path)
    if kind is Kind.PYTHON:
        raise ModelUnreadable(
            f"{plain_name(path.name)} is a Python file, and nothing says which of its functions "
            "makes the model.",
            f"Name the function: {plain_name(path.name)}:build, perhaps with arguments.",
        )
    if kind is Kind.NPY:
        raise ModelUnreadable(
            f"{plain_name(path.name)} cannot be opened: it is {kind.value}.",
            "Save the arrays by name in an .npz.",
        )
    try:
        if kind in _STRUCTURES:
            opened: OpenedModel = resolve(_STRUCTURES[kind])(path, request, job)
            return opened
        return open_checkpoint(path, kind, request, job)
    except ChildFailed as error:
        raise ModelUnreadable(
            f"{plain_name(path.name)} could not be opened: the process that tried ended. {error}"
        ) from error
