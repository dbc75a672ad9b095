"""From what the user names to a model in memory: which way of opening it takes."""

import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import ModelNotFound, ModelUnreadable
from engine.job import Job
from engine.lazy import resolve
from engine.requests import OpenRequest
from engine.resources import resource
from engine.sources import demo
from engine.sources.architectures import DEMO, build
from engine.sources.description import Description, inputs_of, read_description, rebuild
from engine.sources.opened import OpenedModel
from engine.state import ModelInfo
from engine.tracing import sample_inputs

# ``package.module:function`` or ``path/file.py:function``, perhaps with arguments.
_FACTORY = re.compile(r"(?:.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*(?:\(.*\))?", re.DOTALL)
_CATALOGUES = ("torchvision:", "timm:")


def open_source(request: OpenRequest, job: Job) -> OpenedModel:
    """Open the demo, a catalogued model, a file or what a Python factory makes.

    A path is what exists as a file, or looks like one (a suffix or a separator).

    Raises:
        ModelNotFound: nothing has that name.
        ModelUnreadable: it is there but cannot be opened, or not without an answer of the user's;
            the message says why.
    """
    source = request.source
    if source == DEMO or source.startswith(_CATALOGUES):
        return _catalogued(request)
    if _FACTORY.fullmatch(source) and not os.path.lexists(source):
        opened: OpenedModel = resolve("engine.sources.factories:open_factory")(source, request, job)
        return opened
    if _is_path(source):
        return _file(Path(source), request, job)
    return _catalogued(request)


def _is_path(source: str) -> bool:
    path = Path(source)
    # os.path, as Path's own raise for names that are too long to be any file's
    named = bool(source) and os.path.lexists(source)
    if named and source.isidentifier() and os.path.isdir(source):  # noqa: PTH112
        named = False  # a folder called resnet18 does not hide the model
    return path.suffix in _SUFFIXES or named or len(path.parts) > 1


_SUFFIXES = frozenset(
    {".safetensors", ".pt", ".pth", ".bin", ".pt2", ".onnx", ".ckpt", ".h5", ".npz", ".json", ".py"}
)


def _catalogued(request: OpenRequest) -> OpenedModel:
    architecture = build(request.source)
    data = ""
    if request.source == DEMO:
        tensors, _ = read_tensors(resource(demo.WEIGHTS))
        architecture.model.load_state_dict(tensors, strict=True, assign=True)
        data = "digits"
    trained = request.source == DEMO
    name = "digits_net" if trained else architecture.source.partition(":")[2]
    info = ModelInfo(name, architecture.source, architecture.inputs, trained=trained)
    inputs = sample_inputs(architecture.inputs)
    return OpenedModel(info, architecture.model, inputs, architecture.source, data)


def _file(path: Path, request: OpenRequest, job: Job) -> OpenedModel:
    tensors, metadata = read_tensors(path)
    description = read_description(metadata, path.name)
    model = rebuild(description, tensors)
    info = ModelInfo(path.stem, str(path.resolve()), inputs_of(description), description.trained)
    inputs = sample_inputs(info.inputs)
    return OpenedModel(info, model, inputs, description.source, _data_of(description))


def _data_of(description: Description) -> str:
    return "digits" if description.source == DEMO else ""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata; nothing in the file is executed.

    Raises:
        ModelNotFound: there is no such file.
        ModelUnreadable: it is not a regular, readable, whole safetensors file.
    """
    if not os.path.lexists(path):
        raise ModelNotFound(f"There is no file {path}.")
    problem = _problem_with(path)
    if problem:
        raise ModelUnreadable(f"{path.name or path} cannot be opened: {problem}.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # Clones: the tensors are mapped onto the file, and whoever writes into it would change
            # the model, or end the process by cutting it short.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelUnreadable(
            f"{path.name} is damaged or cut short: {error}.", "Copy or export the file again."
        ) from error


def _problem_with(path: Path) -> str:
    """Why the file cannot be a safetensors file; "" when it may be one."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is no Unicode text, which the safetensors library needs"
    try:
        if not path.exists():
            return "it is a link that leads nowhere"
        if path.is_dir():
            return "it is a folder"
        if not path.is_file():
            return "it is not a regular file"
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        return error.strerror or str(error)
    if not size:
        return "it is empty"
    # First of all, as the length of a header may begin with any bytes, a pickle's too.
    length = int.from_bytes(head[:8], "little")
    if length <= size - 8 and head[8:].lstrip().startswith(b"{"):
        return ""
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself"
    if head.startswith(b"PK\x03\x04"):
        return "it is a PyTorch or ZIP archive; only checkpoints that Secateur exported open yet"
    if head.startswith(b"\x80"):
        return "it is a pickle; only checkpoints that Secateur exported open yet"
    return "its content is not that of a safetensors file, or it is cut short"
