"""An opened ONNX model beside ONNX Runtime: the same inputs, the largest difference."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from engine.errors import ModelUnreadable
from engine.job import Job
from engine.requests import InputSpec
from engine.sources.agreement import difference as largest_difference
from engine.sources.files.naming import plain_name
from engine.sources.onnx_files.checking import OnnxFile
from engine.sources.onnx_files.conversion import Converted, convert_file

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

_MOST_ELEMENTS = 1 << 25
_TINY = 1e-30
_TOLERANCE = 1e-3
_ROUNDED_TOLERANCE = 5e-2
_MOST_OTHER = 0.01
"""Share of whole numbers (classes, positions) that may differ, where two scores are near."""
_ROUNDING = ("QuantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear")
_COARSE = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Comparison:
    """What running a model told.

    Attributes:
        notes: in sentences.
        batch: number of samples that its shapes hold for; 0: for any.
    """

    notes: list[str]
    batch: int


def compare(file: OnnxFile, inputs: list[str]) -> Comparison:
    """Convert a file and run it, here and in ONNX Runtime.

    Raises:
        ModelUnreadable: it cannot be converted, or its results differ.
        InputsNeeded: the file leaves sizes of its inputs open.
    """
    converted = convert_file(file, [InputSpec.parse(one) for one in inputs], Job())
    opset = f"Its operators are those of opset {file.opset()}."
    if converted.largest > _MOST_ELEMENTS:
        reason = f"one of its values has {converted.largest:,} elements"
        return Comparison([opset, f"Not compared with ONNX Runtime: {reason}."], 0)
    found = _here(converted.model, converted.inputs)
    notes = [opset, _compared(file, converted, found)]
    batch = _fixed_batch(converted, found)
    if batch:
        samples = f"{batch} samples" if batch > 1 else "one sample"
        notes.append(f"Its shapes are fixed: it runs on {samples} at a time.")
    return Comparison(notes, batch)


def _compared(file: OnnxFile, converted: Converted, found: list[Tensor]) -> str:
    try:
        expected = _by_onnx_runtime(file, converted)
    except Exception as error:  # onnxruntime's classes derive from Exception alone
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"Not compared: ONNX Runtime does not run it ({plain_name(lines[0], 200)})."
    return difference_in_words(found, expected, _tolerance(converted))


def _fixed_batch(converted: Converted, found: list[Tensor]) -> int:
    """How many samples the shapes in the file hold for; 0: for any, as far as can be told."""
    batches = {tuple(one.shape[:1]) for one in (*converted.inputs, *found)}
    if len(batches) != 1 or batches == {()}:
        return 0
    (batch,) = batches.pop()
    twice = tuple(torch.cat([one, one.roll(1, -1)]) for one in converted.inputs)
    try:
        both = _here(converted.model, twice)
        again = _here(converted.model, tuple(one[batch:] for one in twice))
    except ModelUnreadable:
        return int(batch)
    apart = [
        largest_difference([one], [torch.cat([first, second])])
        for one, first, second in zip(both, found, again, strict=True)
        if len(one) == 2 * batch
    ]
    same = len(apart) == len(found) and all(
        error <= _ROUNDED_TOLERANCE * max(size, _TINY) for error, size in apart
    )
    return 0 if same else int(batch)


def _by_onnx_runtime(file: OnnxFile, converted: Converted) -> list[Tensor]:
    import onnxruntime as ort

    ort.disable_telemetry_events()
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # As the file has it: fused operators round otherwise.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(file.whole(), options, providers=["CPUExecutionProvider"])
    feeds = {
        info.name: sample.numpy()
        for info, sample in zip(file.inputs, converted.inputs, strict=True)
    }
    return [torch.from_numpy(np.asarray(one)) for one in session.run(None, feeds)]


def _here(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    try:
        with torch.no_grad():
            return list(tree_leaves(model(*inputs)))
    except Exception as error:  # what kernels lack shows only as they run
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelUnreadable(
            f"The ONNX file does not run on its sample input: {plain_name(cause[0], 200)}.",
            "Export the model for other types or sizes.",
        ) from error


def _tolerance(converted: Converted) -> float:
    rounds = any(node.op_type in _ROUNDING for node in converted.file.model.graph.node)
    tensors = (*converted.inputs, *converted.model.state_dict().values())
    coarse = any(one.dtype in _COARSE for one in tensors)
    return _ROUNDED_TOLERANCE if rounds or coarse else _TOLERANCE


def difference_in_words(found: list[Tensor], expected: list[Tensor], tolerance: float) -> str:
    """The largest difference in words.

    Raises:
        ModelUnreadable: it is beyond the tolerance.
    """
    if [one.shape for one in found] != [one.shape for one in expected]:
        raise _differs("it gives other shapes")
    pairs = list(zip(found, expected, strict=True))
    floats = [pair for pair in pairs if pair[1].is_floating_point()]
    apart = [largest_difference([one], [other]) for one, other in floats]
    error = max((one for one, _ in apart), default=0.0)
    largest = max((one for _, one in apart), default=0.0)
    agrees = all(one <= tolerance * max(size, _TINY) for one, size in apart)
    whole = [one == other for one, other in pairs if not other.is_floating_point()]
    agrees = agrees and all(one.float().mean() >= 1 - _MOST_OTHER for one in whole if one.numel())
    figures = f"outputs differ by at most {figure(error)} (largest output {figure(largest)})"
    if not floats:
        different = sum(int((~one).sum()) for one in whole)
        figures = f"{different:,} of {sum(one.numel() for one in whole):,} whole numbers differ"
    if not agrees:
        raise _differs(figures)
    return f"Compared with ONNX Runtime: {figures}."


def figure(value: float) -> str:
    """Two digits, such as 1.2e-6."""
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e+")


def _differs(what: str) -> ModelUnreadable:
    return ModelUnreadable(
        f"The ONNX file would not be the same model here as in ONNX Runtime: {what}.",
        "Open what it was exported from, or report the file to the makers of Secateur.",
    )
