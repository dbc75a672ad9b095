"""ONNX Runtime beside the simulation, on networks that recognise what they see."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import onnxruntime
import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_map

from engine.datasets import DataSet, Split
from engine.editing import look_at
from engine.edits import Quantize
from engine.export.onnx_counts import ACCURACY_LEVEL, Products, counted
from engine.export.onnx_file import serialized
from engine.export.onnx_graph import onnx_of
from engine.job import Job
from engine.quantization.quantizing import Quantization
from engine.sharing import share
from engine.sources.agreement import quiet
from tests.engine.recognizing import recognizing, task

NETWORKS = {"resnet18": 64, "mobilenet_v2": 96, "efficientnet_b0": 96, "vit_b_16": 48}
"""Name -> side of the pictures."""
CALIBRATION = 32
_BATCH = 20


@dataclass(frozen=True)
class Agreement:
    """One network, in both.

    Attributes:
        same: share of samples of the same first class, ONNX Runtime's beside the simulation's.
        unrest: share whose class in the simulation stays when its input changes in the sixth digit.
        rounding: share of the same first class, the simulation's beside float's.
        error: root mean square of the difference over that of the outputs about their mean.
        classes: how many different ones are predicted.
        bytes: size of the file.
    """

    network: str
    same: float
    unrest: float
    rounding: float
    error: float
    classes: int
    convolutions: Products
    products: Products
    bytes: int


def agreement(name: str, samples: int) -> Agreement:
    """Quantize, write, run both."""
    side = NETWORKS[name]
    model = recognizing(name, side)
    data = task(side, CALIBRATION, samples)
    assert isinstance(data.validation, Split)
    images = data.validation.images
    quantized = quantized_whole(model, images, data)
    content = written(quantized, images[:2])
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        run = running(content, optimized)
        got = _all(lambda x: run(x)[0], images)
        counts = counted(str(optimized))
    wanted, floats = _all(quantized, images), _all(model, images)
    moved = images * (1 + 1e-6 * torch.randn(images.shape, generator=Generator().manual_seed(9)))
    classes = wanted.argmax(1)

    def share_of(outputs: Tensor) -> float:
        return float((outputs.argmax(1) == classes).double().mean())

    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    error = float((got - wanted).square().mean().sqrt() / spread)
    shares = share_of(got), share_of(_all(quantized, moved)), share_of(floats)
    return Agreement(name, *shares, error, len(classes.unique()), *counts, len(content))


def quantized_whole(model: nn.Module, images: Tensor, data: DataSet) -> nn.Module:
    """The network with all that can be quantized at the edit's defaults."""
    subject = look_at(model, (images[:1],), data)
    edit = Quantize(subject.tree.select([""], "quantize"), calibration_samples=CALIBRATION)
    handler = Quantization()
    quantized = share(model)
    handler.carry_out(handler.decide(edit, subject, Job()), quantized)
    return quantized


def written(model: nn.Module, *inputs: Any) -> bytes:
    """The ONNX file of a model, for any batch."""
    free = tree_map(lambda _: {0: torch.export.Dim.AUTO}, inputs)
    with quiet(), torch.no_grad():
        program = torch.export.export(model.eval(), inputs, dynamic_shapes=free)
        return serialized(onnx_of(program))


def running(
    content: bytes, optimized: Path | None = None, level: str = ""
) -> Callable[..., list[Tensor]]:
    """The file as a function.

    Args:
        optimized: where ONNX Runtime writes what it runs.
        level: at which it computes what it keeps packed; 1 rounds nothing more.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    if level:
        options.add_session_config_entry(ACCURACY_LEVEL, level)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        feeds = {name: one.numpy() for name, one in zip(names, inputs, strict=True)}
        return [torch.from_numpy(one) for one in session.run(None, feeds)]

    return run


@torch.no_grad()
def _all(run: Any, images: Tensor) -> Tensor:
    return torch.cat([run(part) for part in images.split(_BATCH)])
