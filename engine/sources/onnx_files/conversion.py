"""From a checked ONNX file to a model, or to a refusal that names its operators."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto
from torch import Tensor

from engine.errors import ModelUnreadable
from engine.job import Job
from engine.requests import InputSpec
from engine.sources.files.naming import plain_name
from engine.sources.onnx_files.assembly import Assembly, NotConverted
from engine.sources.onnx_files.checking import OnnxFile
from engine.sources.onnx_files.converters import CONTROL_FLOW, has_converter, has_definition
from engine.sources.onnx_files.inputs import input_specs
from engine.sources.onnx_files.model import OnnxModel
from engine.tracing import sample_inputs

_MOST_NAMED = 12


@dataclass(frozen=True)
class Converted:
    """A model out of an ONNX file.

    Attributes:
        largest: elements of the largest value that it computes.
    """

    file: OnnxFile
    specs: tuple[InputSpec, ...]
    inputs: tuple[Tensor, ...]
    model: OnnxModel
    largest: int


def convert_file(file: OnnxFile, given: Sequence[InputSpec], job: Job) -> Converted:
    """Convert a file for the inputs that are given, or that it names itself.

    Raises:
        ModelUnreadable: some operators cannot be converted.
        InputsNeeded: it leaves sizes of its inputs open.
    """
    check_operators(file)
    specs = input_specs(file, given)
    inputs = sample_inputs(specs)
    model, largest = assembled(file, inputs, job)
    return Converted(file, specs, inputs, model, largest)


def assembled(file: OnnxFile, inputs: tuple[Tensor, ...], job: Job) -> tuple[OnnxModel, int]:
    """The model for inputs of these shapes, and the elements of the largest value in it.

    Raises:
        ModelUnreadable: an operator cannot be converted in the form it has.
    """
    assembly = Assembly(file, inputs)
    try:
        return assembly.run(job), assembly.largest
    except NotConverted as error:
        raise _refused(error) from error


def check_operators(file: OnnxFile) -> None:
    """Refuse a file of which some operators can be converted in no form; all are named.

    Raises:
        ModelUnreadable: likewise.
    """
    missing = [
        node
        for node in file.model.graph.node
        if node.op_type != "If"
        and not has_converter(node.op_type, file.opset(node.domain), node.domain)
        and not has_definition(node.op_type, file.opset(node.domain), node.domain)
    ]
    if missing:
        raise _no_converter(missing, file)


def _no_converter(missing: Sequence[NodeProto], file: OnnxFile) -> ModelUnreadable:
    control = sorted({node.op_type for node in missing} & CONTROL_FLOW)
    named = sorted(
        {
            f"{plain_name(node.op_type, 60)} "
            f"({plain_name(node.domain, 60) or 'ai.onnx'} {file.opset(node.domain)})"
            for node in missing
            if node.op_type not in control
        }
    )
    causes = []
    if named:
        noun = "These operators have" if len(named) > 1 else "This operator has"
        causes.append(f"{noun} no converter: {_listed(named)}.")
    if control:
        causes.append(f"It holds control flow ({_listed(control)}), which no layer can stand for.")
    return ModelUnreadable(
        "The ONNX file cannot be converted. " + " ".join(causes),
        "Export the model without them, or open what it was exported from.",
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    shown = ", ".join(names[:_MOST_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown


def _refused(error: NotConverted) -> ModelUnreadable:
    name = f" “{plain_name(error.node.name)}”" if error.node.name else ""
    return ModelUnreadable(
        f"Operator {error.node.op_type}{name} of the ONNX file cannot be converted {error}.",
        "Export the model without it, or open what it was exported from.",
    )
