"""ONNX files: what ONNX Runtime computes from them is what the model in memory does."""

import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from engine.datasets import digits
from engine.edits import InputGrid, PruneChannels, Quantize
from engine.errors import ExportFailed
from engine.export import onnx_counts, onnx_file, verify
from engine.half_layers import half_from
from engine.integer_layers import WeightFormat, quantized_from, round_weight
from engine.job import Job
from engine.layers import LayerId
from engine.lazy import resolve
from engine.requests import InputSpec
from engine.session import ModelSession
from engine.sources import opened as opened_models
from engine.sources.opened import OpenedModel
from engine.state import ModelInfo
from engine.tracing import sample_inputs
from tests.engine import recognizing
from tests.engine.onnx_agreement import agreement, running, written

AGREEING = 0.995
"""Share of samples with the same first class."""


@pytest.fixture
def _children_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child would do is done here, in a tenth of the time."""

    def run(function: str, payload: Any, job: Job) -> Any:
        job.check()
        return resolve(function)(json.loads(json.dumps(payload)))

    for module in (verify, onnx_file, opened_models):
        monkeypatch.setattr(module, "run_in_child", run)


in_process = pytest.mark.usefixtures("_children_in_this_process")


def everything(session: ModelSession) -> tuple[LayerId, ...]:
    return session.snapshot.current.tree.select([""], "quantize")


# Layers of every kind

GRIDS = {
    "float": None,
    "8": InputGrid(8, 0.03, 5),
    "16": InputGrid(16, 2e-4, -300),
    "dynamic": InputGrid(8),
    "dynamic symmetric 16": InputGrid(16, symmetric=True),
}
WEIGHTS = {
    f"{bits} bits by {by}{' affine' * (not symmetric)}": (bits, by, symmetric)
    for bits, by, symmetric in itertools.product(
        (2, 4, 7, 8, 12, 16), ("tensor", "channel", "group"), (True, False)
    )
}


def rounded(
    layer: Any, bits: int, by: str, symmetric: bool, grid: InputGrid | None, group: int = 8
) -> nn.Module:
    """The layer with weights rounded to the grid over their least and greatest."""
    form = WeightFormat(bits, symmetric, group if by == "group" else 0)
    weight = layer.weight.detach()
    shapes = {"tensor": (1, -1), "channel": (len(weight), -1), "group": (-1, group)}
    rows = weight.reshape(shapes[by])
    low, high = form.range
    least, most = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    if symmetric:
        scale, zero = torch.maximum(-least, most) / high, torch.zeros(len(rows), dtype=torch.int64)
    else:
        scale = (most - least) / (high - low)
        zero = (low - (least / scale).round()).clamp(low, high).long()
    shape = {"tensor": (), "channel": (len(weight),), "group": (len(weight), -1)}[by]
    scale, zero = scale.reshape(shape), zero.reshape(shape)
    integers = round_weight(weight, form, scale, zero)
    return quantized_from(layer, integers, layer.bias.detach(), scale, zero, form, grid)


class SideBySide(nn.Module):
    """Layers with an input each; one output each."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(8, 6, 3, padding=1), (3, 8, 9)),
    "Conv2d": (lambda: nn.Conv2d(8, 6, 3, stride=2), (3, 8, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(8, 8, (2, 4), groups=8, dilation=2), (3, 8, 9, 9)),
    "Conv3d": (lambda: nn.Conv3d(8, 6, 1), (3, 8, 3, 3, 3)),
    "Linear": (lambda: nn.Linear(16, 6), (3, 16)),
    "Linear on tokens": (lambda: nn.Linear(16, 6), (3, 5, 16)),
}
KINDS = list(itertools.product(WEIGHTS, GRIDS))


def check_kinds(layers: list[str], kinds: list[tuple[str, str]]) -> None:
    """Export one of each, all in one file, and compare at another batch size."""
    made = [LAYERS[name] for name in layers]
    modules = [
        rounded(make(), *WEIGHTS[weight], GRIDS[grid])
        for (make, _), (weight, grid) in zip(made, kinds, strict=True)
    ]
    model = SideBySide(modules).eval()
    run = running(written(model, [torch.randn(shape) for _, shape in made]), level="1")
    inputs = [torch.randn(7, *shape[1:]) for _, shape in made]
    with torch.no_grad():
        wanted = model(inputs)
    for name, kind, module, got, one in zip(
        layers, kinds, modules, run(*inputs), wanted, strict=True
    ):
        error = float((got - one).abs().max())
        # Of so many steps a few ties go the other way.
        allowed = 1e-4 if "16" in kind[1] else 1e-5
        assert error <= allowed * float(one.abs().max()) + bias_step(module), (name, kind, error)


def bias_step(module: nn.Module) -> float:
    """What rounding the bias to 32 bits may change, where integers are summed."""
    grid: InputGrid | None = module.input_grid
    if not isinstance(module, nn.Linear) or grid is None or grid.scale is None or grid.bits > 8:
        return 0.0
    return grid.scale * float(module.weight_scale.max()) / 2


def test_layers_of_many_kinds_agree() -> None:
    layers = list(LAYERS) * 4
    check_kinds(layers, [KINDS[at * 37 % len(KINDS)] for at in range(len(layers))])


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_every_kind_agree(name: str) -> None:
    kinds = KINDS[list(LAYERS).index(name) % 3 :: 3]  # each of two layers in all
    check_kinds([name] * len(kinds), kinds)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_layers_in_16_bit_floating_point_agree(dtype: torch.dtype, digits: int) -> None:
    layers = [nn.Conv2d(64, 32, 3), nn.Conv2d(32, 8, 1), nn.Flatten(), nn.Linear(72, 300)]
    model = nn.Sequential(
        *(half_from(one, dtype) if list(one.parameters()) else one for one in layers)
    ).eval()
    content = written(model, torch.randn(2, 64, 5, 5))
    kinds = {one.name: one.data_type for one in onnx.load_from_string(content).graph.initializer}
    assert kinds["0.weight"] == getattr(onnx.TensorProto, str(dtype)[6:].upper())
    x = torch.randn(5, 64, 5, 5)
    with torch.no_grad():
        wanted = model(x)
    (got,) = running(content)(x)
    assert (got - wanted).abs().max() <= 2 ** (1 - digits) * wanted.abs().max()
    assert (got != wanted).float().mean() < 0.1  # a tie here and there


# What is in the file


def test_weights_are_stored_as_integers_of_their_bits_under_their_names() -> None:
    layers = nn.Sequential(
        rounded(nn.Conv2d(8, 8, 3), 8, "channel", True, GRIDS["8"]),
        rounded(nn.Conv2d(8, 8, 3), 3, "group", False, None),
        nn.Flatten(),
        rounded(nn.Linear(72, 8), 12, "tensor", True, GRIDS["16"]),
        rounded(nn.Linear(8, 4), 4, "channel", True, GRIDS["8"]),
    )
    graph = onnx.load_from_string(written(layers, torch.randn(2, 8, 7, 7))).graph
    tensors = {one.name: one for one in graph.initializer}
    kinds = {name: one.data_type for name, one in tensors.items() if name.endswith("weight")}
    kind = onnx.TensorProto
    assert kinds == {
        "0.weight": kind.INT8, "1.weight": kind.INT4, "3.weight": kind.INT16, "4.weight": kind.INT4,
    }  # fmt: skip
    assert len(tensors["1.weight"].raw_data) == 8 * 72 // 2
    for name, layer in (("0.weight", layers[0]), ("3.weight", layers[3])):
        assert (numpy_helper.to_array(tensors[name]) == layer.weight.numpy()).all()
    grids = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    stored = [tensors[node.input[2]].data_type for node in grids]
    assert stored == [kind.UINT8, kind.INT16, kind.UINT8]
    zero = numpy_helper.to_array(tensors[grids[0].input[2]])
    assert int(zero) == GRIDS["8"].zero_point + 128


def test_a_value_that_several_layers_read_is_rounded_once() -> None:
    layers = [rounded(nn.Conv2d(8, 6, 1), 8, "channel", True, GRIDS["8"]) for _ in range(3)]

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x: Tensor) -> Tensor:
            return sum(layer(x) for layer in self.layers)

    graph = onnx.load_from_string(written(Sum(), torch.randn(2, 8, 4, 4))).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QuantizeLinear"] == 1
    assert kinds["Conv"] == 3


# What ONNX Runtime runs


def test_integer_products_are_counted_with_reasons(tmp_path: Path) -> None:
    """Convolutions: rounded output, 16 bits, 4 bits, float output, none at all."""
    grid = InputGrid(8, 0.03, -128)
    model = nn.Sequential(
        rounded(nn.Conv2d(8, 8, 3), 8, "channel", True, grid),
        nn.ReLU(),
        rounded(nn.Conv2d(8, 8, 1), 4, "channel", True, grid),
        rounded(nn.Conv2d(8, 8, 1), 8, "channel", True, GRIDS["16"]),
        rounded(nn.Conv2d(8, 8, 1), 8, "tensor", True, GRIDS["8"]),
        nn.SiLU(),
        nn.Conv2d(8, 8, 1),
        nn.Flatten(),
        rounded(nn.Linear(8 * 25, 4), 8, "channel", True, GRIDS["8"]),
    )
    optimized = tmp_path / "optimized.onnx"
    running(written(model, torch.randn(2, 8, 7, 7)), optimized)
    convolutions, products = onnx_counts.counted(str(optimized))
    assert (convolutions.integer, convolutions.total) == (1, 5)
    assert sorted(count for _, count in convolutions.reasons) == [1, 1, 1, 1]
    assert products == onnx_counts.Products(1, 1, ())
    told = onnx_counts.in_words((convolutions, products))
    assert told.startswith("ONNX Runtime runs 1 of 5 convolutions and 1 of 1 matrix products in in")
    for words in ("not quantized", "fixed grid of 8 bits", "8-bit integers", "not rounded before"):
        assert words in told


def test_products_with_packed_weights_are_exact_at_the_level_that_is_told(tmp_path: Path) -> None:
    model = nn.Sequential(rounded(nn.Linear(64, 8), 4, "group", True, None, group=32))
    content = written(model, torch.randn(2, 3, 64))
    x = torch.randn(5, 3, 64)
    with torch.no_grad():
        wanted = model(x)
    optimized = tmp_path / "optimized.onnx"
    errors = [
        float((running(content, optimized, level)(x)[0] - wanted).abs().max() / wanted.abs().max())
        for level in ("1", "4")
    ]
    assert errors[0] < 1e-5 < 1e-4 < errors[1] < 0.05
    counts = onnx_counts.counted(str(optimized))
    assert (counts[1].integer, counts[1].total) == (0, 1)
    assert onnx_counts.ACCURACY_LEVEL in onnx_counts.in_words(counts)


def test_nothing_is_said_of_reasons_where_nothing_is_quantized() -> None:
    floats = onnx_counts.Products(0, 3, (("that are not quantized", 3),))
    none = onnx_counts.Products(0, 0, ())
    words = onnx_counts.in_words((floats, none))
    assert words == "ONNX Runtime runs 0 of 3 convolutions in integers."
    assert "no convolution" in onnx_counts.in_words((none, none))


# From the session


@in_process
def test_the_quantized_demo_agrees_on_all_validation_samples(
    demo: ModelSession, job: Job, tmp_path: Path
) -> None:
    demo.apply(PruneChannels((LayerId("stage1.block0.conv1"),), 0.3), job)
    demo.apply(Quantize(everything(demo)), job)
    path = tmp_path / "demo.onnx"
    report = demo.export(str(path), "onnx", job)
    assert report.files == (str(path),)
    assert report.bytes == path.stat().st_size < 200_000
    assert report.note.startswith("It takes any batch size. ONNX Runtime runs 7 of 8 convolutions")
    images = digits().validation.images
    with torch.no_grad():
        wanted = demo._subject(demo._cursor).model(images).argmax(1)
    (got,) = running(path.read_bytes())(images)
    assert (got.argmax(1) == wanted).float().mean() >= AGREEING
    assert str(Path.cwd()).encode() not in path.read_bytes()


@pytest.mark.slow
def test_an_unedited_model_is_exported_by_processes_of_its_own(
    demo: ModelSession, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "make", None)  # here nobody can make it
    path = tmp_path / "demo.onnx"
    report = demo.export(str(path), "onnx", job)
    assert report.largest_error <= 1e-5 * report.largest_output
    assert "0 of 8 convolutions and 0 of 1 matrix products" in report.note
    onnx.checker.check_model(str(path))


@in_process
def test_large_tensors_go_to_a_file_beside_it(
    demo: ModelSession, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", 1 << 16)
    path = tmp_path / "demo.onnx"
    first, second = (demo.export(str(path), "onnx", job) for _ in range(2))
    assert first == second
    assert sorted(map(str, tmp_path.iterdir())) == sorted(first.files)
    tensors = Path(first.files[1])
    assert tensors.stat().st_size > 10 * first.bytes
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = digits().validation.images
    (got,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        wanted = demo._subject(0).model(images)
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


class Restless(nn.Module):
    """Its output hangs on the sixth digit of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 1e7).round().sin()


class Calm(nn.Module):
    """Rounds as well, far from any tie."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 0 + 2.2).round()


@in_process
@pytest.mark.parametrize("model", [Restless(), Calm()])
def test_what_no_comparison_can_tell_is_said(model: nn.Module, job: Job, tmp_path: Path) -> None:
    specs = (InputSpec((1, 40)),)
    info = ModelInfo("net", "net.pt", specs, trained=True)
    session = ModelSession(OpenedModel(info, model.eval(), sample_inputs(specs)))
    report = session.export(str(tmp_path / "net.onnx"), "onnx", job)
    assert ("the comparison tells little" in report.note) == isinstance(model, Restless)


# What fails


def _altered(content: bytes) -> bytes:
    """The file with one weight changed."""
    model = onnx.load_from_string(content)
    tensor = next(one for one in model.graph.initializer if len(one.dims) == 4)
    array = numpy_helper.to_array(tensor).copy()
    array[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    changed: bytes = model.SerializeToString()
    return changed


def _flattening(content: bytes) -> bytes:
    """A file that puts its input out."""
    model = onnx.load_from_string(content)
    graph = model.graph
    flat = helper.make_node("Flatten", [graph.input[0].name], [graph.output[0].name])
    made: bytes = helper.make_model(
        helper.make_graph([flat], "flat", graph.input, graph.output),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    ).SerializeToString()
    return made


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a weight": (_altered, "differs by"),
    "cut short": (lambda content: content[:-100], "does not run the file"),
    "other outputs": (_flattening, "other shapes"),
}


@in_process
@pytest.mark.parametrize(
    ("damage", "most"), [*((one, 1 << 31) for one in DAMAGE), ("other outputs", 1 << 16)]
)
def test_a_file_that_computes_something_else_is_not_kept(
    demo: ModelSession,
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
    most: int,
) -> None:
    """``most`` bytes of tensors in one file; beyond, there are two, and neither stays."""
    change, words = DAMAGE[damage]
    honest = onnx_file.serialized
    monkeypatch.setattr(onnx_file, "serialized", lambda graph: change(honest(graph)))
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", most)
    path = tmp_path / "demo.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ExportFailed, match=words):
        demo.export(str(path), "onnx", job)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@in_process
def test_models_that_torch_cannot_export_are_refused_in_words(
    demo: ModelSession, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        ExportFailed, match=r"cannot export this model: no such operator\.$"
    ) as caught:
        demo.export(str(tmp_path / "demo.onnx"), "onnx", job)
    assert "program" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


@in_process
@pytest.mark.parametrize(
    ("library", "remedy"),
    [("engine.export.onnx_graph", "onnxscript"), ("onnxruntime", "onnxruntime")],
)
def test_a_library_that_is_missing_is_named(
    demo: ModelSession,
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    remedy: str,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExportFailed, match="not installed") as caught:
        demo.export(str(tmp_path / "demo.onnx"), "onnx", job)
    assert remedy in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


# Networks as they are used

INTEGER = {
    "resnet18": ((20, 20), (1, 1)),
    "mobilenet_v2": ((51, 52), (1, 1)),
    "efficientnet_b0": ((16, 81), (1, 1)),
    "vit_b_16": ((0, 1), (73, 73)),
}
"""How many convolutions and matrix products run in integers, of how many."""


@pytest.mark.slow
@pytest.mark.parametrize("name", INTEGER)
def test_onnx_runtime_agrees_with_the_simulation(name: str) -> None:
    found = agreement(name, 200)
    assert found.classes == recognizing.KINDS
    assert found.same >= AGREEING
    products = found.convolutions, found.products
    assert tuple((one.integer, one.total) for one in products) == INTEGER[name]
