"""From what the user names to a model in memory."""

import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine.errors import ModelNotFound, ModelUnreadable
from engine.resources import resource
from engine.sources import demo
from engine.sources.architectures import DEMO, build
from engine.sources.description import Description, read_description, rebuild
from engine.state import ModelInfo
from engine.tracing import sample_inputs


@dataclass(frozen=True)
class OpenedModel:
    """A model ready for a session.

    Attributes:
        architecture: the name that builds its unpruned structure.
        data: name of the data set that belongs to it; "" when none is known.
    """

    info: ModelInfo
    model: nn.Module
    inputs: tuple[Tensor, ...]
    architecture: str
    data: str


def open_source(source: str) -> OpenedModel:
    """Open the demo, a torchvision model by name, or an exported checkpoint by path.

    A path is what exists as a file, or looks like one (a suffix or a separator).

    Raises:
        ModelNotFound: nothing has that name.
        ModelUnreadable: the file is there but cannot be opened; the message says why.
    """
    path = Path(source)
    # os.path, as Path's own raise for names that are too long to be any file's
    named = bool(source) and os.path.lexists(source)
    if named and source.isidentifier() and os.path.isdir(source):  # noqa: PTH112
        named = False  # a folder called resnet18 does not hide the model
    if source != DEMO and (path.suffix in _SUFFIXES or named or len(path.parts) > 1):
        return _checkpoint(path)
    architecture = build(source)
    data = ""
    if source == DEMO:
        tensors, _ = read_tensors(resource(demo.WEIGHTS))
        architecture.model.load_state_dict(tensors, strict=True, assign=True)
        data = "digits"
    name = "digits_net" if source == DEMO else architecture.source.partition(":")[2]
    info = ModelInfo(name, architecture.source, architecture.input_shape, trained=source == DEMO)
    inputs = sample_inputs([architecture.input_shape])
    return OpenedModel(info, architecture.model, inputs, architecture.source, data)


_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".bin", ".pt2", ".onnx", ".ckpt", ".h5"})


def _checkpoint(path: Path) -> OpenedModel:
    tensors, metadata = read_tensors(path)
    description = read_description(metadata, path.name)
    model = rebuild(description, tensors)
    info = ModelInfo(
        path.stem, str(path.resolve()), tuple(description.input_shape), description.trained
    )
    inputs = sample_inputs([info.input_shape])
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
