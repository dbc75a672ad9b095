"""ONNX files to models: checked and compared in a child process, then converted in this one."""

from pathlib import Path

from engine.child import run_in_child
from engine.errors import ChildFailed, ModelUnreadable
from engine.job import Job
from engine.requests import OpenRequest
from engine.sources.files.naming import plain_name
from engine.sources.onnx_files.checking import read_onnx
from engine.sources.onnx_files.conversion import Converted, convert_file
from engine.sources.opened import OpenedModel
from engine.state import ModelInfo


def open_onnx(path: Path, request: OpenRequest, job: Job) -> OpenedModel:
    """Open an ONNX file as a tree of torch's layers.

    Raises:
        ModelUnreadable: damaged, reaching outside its folder, of operators without a converter
            (all are named), or not the same as in ONNX Runtime.
        InputsNeeded: the file leaves sizes of its inputs open.
    """
    job.begin("Checking the ONNX file and comparing it with ONNX Runtime")
    payload = {"path": str(path), "inputs": [str(one) for one in request.inputs]}
    try:
        found = run_in_child("engine.sources.onnx_files.checking:inspect", payload, job)
    except ChildFailed as error:
        raise ModelUnreadable(
            "The ONNX file ended the process that was to check it; it is damaged or too large.",
            "Export it again.",
        ) from error
    file = read_onnx(path)
    if file.digest != found["digest"]:
        raise ModelUnreadable("The ONNX file changed while it was being opened.", "Try again.")
    converted = convert_file(file, request.inputs, job)
    if found["batch"]:
        converted.model.batch = found["batch"]
    notes = tuple(found["notes"])
    shown, source = plain_name(path.stem), str(path.resolve())
    task = _task(converted)
    info = ModelInfo(shown, source, converted.specs, trained=True, notes=notes, task=task)
    return OpenedModel(info, converted.model, converted.inputs)


def _task(converted: Converted) -> str:
    """What the model does, where inputs and results leave no doubt."""
    shapes = [one.shape for one in converted.inputs]
    is_image = len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][1] in (1, 3)
    ranks = [len(one.type.tensor_type.shape.dim) for one in converted.file.model.graph.output]
    return "classification" if is_image and ranks == [2] else ""
