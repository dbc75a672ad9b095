"""Exported programs: nothing runs unasked, and what opens is the model that was exported."""

import copy
import inspect
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.child import run_in_child
from engine.edits import InputGrid, PruneChannels, PruneWeights, Quantize
from engine.errors import ConsentNeeded, ModelUnreadable
from engine.half_layers import HalfWeights, half_from
from engine.integer_layers import (
    IntegerWeights,
    QuantizedConv2d,
    QuantizedLinear,
    WeightFormat,
    quantized_from,
    round_input,
    round_weight,
)
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.lazy import resolve
from engine.requests import InputSpec, OpenRequest
from engine.session import ModelSession
from engine.sharing import share
from engine.sources import opened as opened_models
from engine.sources.files.archives import read_archive
from engine.sources.graphs import programs
from engine.sources.graphs.blocks import Block
from engine.sources.graphs.programs import open_program
from engine.sources.opened import OpenedModel, digest_of
from engine.sources.opening import open_source


@pytest.fixture(autouse=True)
def _children_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child would do is done here, in a hundredth of the time."""

    def run(function: str, payload: Any, job: Job) -> Any:
        job.check()
        return resolve(function)(json.loads(json.dumps(payload)))

    monkeypatch.setattr(opened_models, "run_in_child", run)


def saved(model: nn.Module, *args: Any, **settings: Any) -> bytes:
    """The archive that ``torch.export.save`` writes of the model."""
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, args, **settings), buffer)
    return buffer.getvalue()


def opened(path: Path, content: bytes, *inputs: InputSpec) -> OpenedModel:
    """The program, opened by somebody who trusts it."""
    path.write_bytes(content)
    trusted = frozenset({digest_of(content)})
    return open_program(path, OpenRequest(str(path), inputs, trusted=trusted), Job())


def rewritten(content: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The archive with some members changed, or left out for None."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            made = change(entry.filename, old.read(entry))
            if made is not None:
                new.writestr(zipfile.ZipInfo(entry.filename), made)
    return buffer.getvalue()


ANY_BATCH = ({0: torch.export.Dim.AUTO},)


@pytest.fixture(scope="module")
def demo_model() -> OpenedModel:
    return open_source(OpenRequest("demo"), Job())


@pytest.fixture(scope="module")
def demo_program(demo_model: OpenedModel) -> bytes:
    pair = torch.cat([demo_model.inputs[0]] * 2)
    return saved(demo_model.model, pair, dynamic_shapes=ANY_BATCH)


@pytest.fixture(scope="module")
def small_program() -> bytes:
    return saved(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), torch.zeros(2, 4))


# What opens


def test_the_demo_comes_back_as_itself(
    demo_model: OpenedModel, demo_program: bytes, tmp_path: Path
) -> None:
    again = opened(tmp_path / "digits.pt2", demo_program)
    assert again.info.inputs == (InputSpec((1, 1, 8, 8)),)
    assert again.info.notes == (
        "Rebuilt from the file; its outputs on the sample input are the same, bit by bit.",
        "It takes any batch size; its sample input holds one.",
    )
    assert (again.info.name, again.info.trained, again.architecture) == ("digits", True, "")
    sessions = [ModelSession(one).snapshot.current for one in (again, demo_model)]
    trees = [{one.id: one for one in state.tree} for state in sessions]
    assert trees[0] == trees[1]
    for key, series in sessions[1].table.items():
        assert sessions[0].table[key].total == series.total
    images = torch.randn(7, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(again.model(images), demo_model.model(images))


def test_a_program_is_pruned_and_quantized_like_the_model(
    demo_model: OpenedModel, demo_program: bytes, tmp_path: Path, job: Job
) -> None:
    models = []
    for one in (opened(tmp_path / "digits.pt2", demo_program), demo_model):
        session = ModelSession(one)
        session.apply(PruneChannels((LayerId("stage1.block0.conv2"),), 0.5), job)
        session.apply(PruneWeights((LayerId("stage1.block0.conv1"),), 0.5), job)
        session.apply(Quantize((LayerId("stem.conv"), LayerId("head.fc"))), job)
        models.append(session._subject(3).model)
    with torch.inference_mode():
        outputs = [one(demo_model.inputs[0]) for one in models]
    assert torch.equal(*outputs)
    assert models[0].stage1.block0.conv2.out_channels == 32


def test_layers_of_integer_weights_come_back_as_such(
    demo_model: OpenedModel, tmp_path: Path, job: Job
) -> None:
    session = ModelSession(demo_model)
    names = tuple(map(LayerId, ("stem.conv", "stage2.depthwise.conv", "head.fc")))
    before = session.apply(Quantize(names), job).snapshot.current
    model = session._subject(1).model
    content = saved(model, torch.zeros(2, 1, 8, 8), dynamic_shapes=ANY_BATCH)
    again = opened(tmp_path / "digits.pt2", content)
    kinds = [type(again.model.get_submodule(name)) for name in names]
    assert kinds == [QuantizedConv2d, QuantizedConv2d, QuantizedLinear]
    after = ModelSession(again).snapshot.current
    for name in names:
        old, new = before.tree[name], after.tree[name]
        assert (new.kind, new.weight_bits, new.parameters) == (old.kind, 8, old.parameters)
    assert after.table["size"].total == before.table["size"].total
    assert after.table["energy"].total == before.table["energy"].total


INPUTS = {
    "static": InputGrid(8, 0.02, -7),
    "static16": InputGrid(16, 1e-4, 300),
    "dynamic": InputGrid(),
    "dynamic16": InputGrid(16, symmetric=True),
    "none": None,
}
WEIGHTS = {  # format, and the shape of the scales of (4, 6) or (4, 6, …) weights
    "tensor": (WeightFormat(8), ()),
    "affine4": (WeightFormat(4, symmetric=False), (4,)),
    "int12": (WeightFormat(12), (4,)),
    "group2": (WeightFormat(2, symmetric=False, group_size=3), None),
    "single": (WeightFormat(4, group_size=1), None),
}
SHAPES: dict[type[nn.Module], tuple[Callable[[], Any], tuple[int, ...]]] = {
    nn.Linear: (lambda: nn.Linear(6, 4), (2, 3, 6)),
    nn.Conv1d: (lambda: nn.Conv1d(6, 4, 3, padding=1, bias=False), (2, 6, 8)),
    nn.Conv2d: (lambda: nn.Conv2d(6, 4, 3, stride=2), (2, 6, 8, 8)),
    nn.Conv3d: (lambda: nn.Conv3d(6, 4, 1), (2, 6, 3, 3, 3)),
}


def rounded(kind: type[nn.Module], weights: str, inputs: str) -> nn.Module:
    torch.manual_seed(0)
    layer = SHAPES[kind][0]()
    form, shape = WEIGHTS[weights]
    groups = layer.weight[0].numel() // max(1, form.group_size)
    scales = (4, groups) if shape is None else shape
    scale = torch.rand(scales) * 0.1 + 0.05
    zero_point = torch.zeros(scales, dtype=torch.int64)
    if not form.symmetric:
        zero_point = torch.randint(*form.range, scales)
    weight = round_weight(layer.weight.detach(), form, scale, zero_point)
    bias = None if layer.bias is None else layer.bias.detach()
    return quantized_from(layer, weight, bias, scale, zero_point, form, INPUTS[inputs])


@pytest.mark.parametrize(
    ("kind", "weights", "inputs", "batch"),
    [
        *((nn.Linear, one, "static", ANY_BATCH) for one in WEIGHTS),
        *((nn.Conv2d, "group2", one, ANY_BATCH) for one in INPUTS if one != "static"),
        *((kind, "affine4", "dynamic", ANY_BATCH) for kind in (nn.Conv1d, nn.Conv3d)),
        (nn.Linear, "affine4", "dynamic", None),
    ],
    ids=lambda one: getattr(one, "__name__", one if isinstance(one, str) else None),
)
def test_every_grid_comes_back_from_a_program(
    tmp_path: Path, kind: type[nn.Module], weights: str, inputs: str, batch: Any
) -> None:
    layer: Any = rounded(kind, weights, inputs)
    model, x = nn.Sequential(layer, nn.ReLU()).eval(), torch.randn(SHAPES[kind][1])
    again = opened(tmp_path / "layer.pt2", saved(model, x, dynamic_shapes=batch)).model
    found: Any = again.get_submodule("0")
    assert type(found) is type(layer)
    assert (found.weight_format, found.input_grid) == (layer.weight_format, layer.input_grid)
    state = layer.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in found.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("plain", "x"),
    [
        *((make, torch.randn(shape)) for make, shape in SHAPES.values()),
        (lambda: nn.ConvTranspose2d(3, 4, 3, 2), torch.randn(2, 3, 4, 4)),
        (lambda: nn.Embedding(5, 3), torch.tensor([[1, 4], [0, 2]])),
    ],
    ids=["linear", "conv1", "conv2", "conv3", "transposed", "table"],
)
def test_casts_come_back_from_a_program(
    tmp_path: Path, plain: Callable[[], Any], x: Tensor, dtype: torch.dtype
) -> None:
    layer: Any = half_from(plain(), dtype)
    model = nn.Sequential(layer, nn.ReLU()).eval()
    again = opened(tmp_path / "cast.pt2", saved(model, x, dynamic_shapes=ANY_BATCH)).model
    found: Any = again.get_submodule("0")
    assert type(found) is type(layer)
    assert torch.equal(found.weight, layer.weight)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))


class Rounding(nn.Module):
    """Almost a layer of ours: what it does with its input or weight is a little different."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("weight", torch.randint(-8, 8, (4, 6)).to(torch.int8))
        self.register_buffer("scale", torch.rand(4))
        self.narrow = nn.Parameter(torch.randn(4, 6).half())

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.quantized_decomposed
        grid = (0.1, 0, -128, 127, torch.int8)
        if self.way == "twice":
            x = round_input(round_input(x, INPUTS["static"]), INPUTS["static"])
        elif self.way == "two grids":
            other = (0.2, 0, -128, 127, torch.int8)
            x = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *grid), *other)
        elif self.way == "per row":
            rows = round_input(x.flatten(0, 1), InputGrid())
            x = rows.view_as(x)
        elif self.way == "half":
            cast = ops.convert_element_type.no_fuse
            return nn.functional.linear(x, cast(self.narrow, torch.float32))
        low = -9 if self.way == "odd range" else -8
        bounds = (low, 7, torch.int8)
        floats = ops.dequantize_per_channel(self.weight, self.scale, None, 0, *bounds)
        return nn.functional.linear(x, floats)


@pytest.mark.parametrize("way", ["twice", "two grids", "per row", "half", "odd range"])
def test_what_rounds_otherwise_stays_as_it_is(tmp_path: Path, way: str) -> None:
    model, x = nn.Sequential(Rounding(way), nn.ReLU()).eval(), torch.randn(2, 3, 6)
    again = opened(tmp_path / "other.pt2", saved(model, x)).model
    assert not isinstance(again.get_submodule("0"), IntegerWeights | HalfWeights)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))


class Twisted(nn.Module):
    """A layer called twice, once without gradients; a bare parameter; named, nested inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.table = nn.Embedding(10, 4)
        self.gain = nn.Parameter(torch.randn(1, 3, 1, 1))
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(
        self, pair: tuple[Tensor, Tensor], scale: float = 2.0, *, mask: Tensor
    ) -> dict[str, Any]:
        images, indices = pair
        with torch.no_grad():
            y = self.conv(images)
        y = self.conv(y) * scale * self.gain + self.shift
        return {"images": y, "more": [self.table(indices), mask.float()]}


def test_odd_programs_keep_their_structure(tmp_path: Path) -> None:
    model = Twisted().eval()
    images, indices, mask = torch.randn(2, 3, 8, 8), torch.tensor([1, 5]), torch.ones(2) > 0
    program = torch.export.export(model, ((images, indices),), {"mask": mask})
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    again = opened(tmp_path / "twisted.pt2", buffer.getvalue())
    assert [str(one) for one in again.info.inputs] == ["2x3x8x8", "2:int64<6", "2:bool"]
    assert "batches of 2" in again.info.notes[1]
    assert dict(again.model.named_children()).keys() == {"conv", "table"}
    assert type(again.model.conv) is nn.Conv2d
    assert {name for name, _ in again.model.named_parameters()} == {
        name for name, _ in model.named_parameters()
    }
    with torch.inference_mode():
        got, wanted = again.model(images, indices, mask), model((images, indices), mask=mask)
    assert got.keys() == wanted.keys()
    assert torch.equal(got["images"], wanted["images"])
    assert all(map(torch.equal, got["more"], wanted["more"]))
    tree = ModelSession(again).snapshot.current.tree
    assert [one.id for one in tree] == ["", "conv", "table"]


def test_what_was_exported_for_training_is_opened_for_evaluation(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    images = torch.randn(2, 3, 8, 8)
    again = opened(tmp_path / "model.pt2", saved(model, images))
    assert "for training" in again.info.notes[-1]
    assert [type(one) for one in again.model.children()] == [nn.Conv2d, nn.BatchNorm2d, nn.Dropout]
    with torch.inference_mode():
        assert torch.equal(again.model(images), model.eval()(images))


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2), (2, 2, 9)),
    "conv2d same": (nn.Conv2d(2, 4, 3, padding="same", bias=False), (2, 2, 6, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2, dilation=2), (2, 2, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2), (2, 2, 5, 5)),
    "linear": (nn.Linear(4, 3, bias=False), (2, 5, 4)),
    "batch norm": (nn.BatchNorm1d(4, affine=False), (2, 4, 5)),
    "layer norm": (nn.LayerNorm((4, 5), elementwise_affine=False), (2, 4, 5)),
    "group norm": (nn.GroupNorm(2, 4), (2, 4, 5)),
    "rms norm": (nn.RMSNorm(5, eps=1e-5), (2, 4, 5)),
    "prelu": (nn.PReLU(4), (2, 4, 5)),
    "leaky": (nn.LeakyReLU(0.3), (2, 4)),
    "elu": (nn.ELU(0.7), (2, 4)),
    "relu6": (nn.ReLU6(), (2, 4)),
    "in place": (nn.Hardswish(inplace=True), (2, 4)),
    "gelu": (nn.GELU("tanh"), (2, 4)),
    "softmax": (nn.Softmax(1), (2, 4)),
    "max pool": (nn.MaxPool2d((3, 2), 2, (1, 0), ceil_mode=True), (2, 3, 7, 8)),
    "average pool": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 3, 7, 8)),
    "adaptive pool": (nn.AdaptiveAvgPool2d((2, 3)), (2, 3, 7, 8)),
    "flatten": (nn.Flatten(2), (2, 3, 4, 5)),
    "shuffle": (nn.PixelShuffle(2), (2, 8, 3, 3)),
    "identity": (nn.Identity(), (2, 3)),
}


def alike(layer: nn.Module) -> str:
    """The layer's settings; a number for every side reads like one for all of them."""
    return re.sub(r"\((\d+)(, \1)+\)", r"\1", layer.extra_repr())


def test_every_layer_that_is_known_comes_back_as_its_own_class(tmp_path: Path) -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(layer for layer, _ in LAYERS.values())

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            return tuple(part(x.clone()) for part, x in zip(self.parts, inputs, strict=True))

    inputs = tuple(torch.randn(shape) for _, shape in LAYERS.values())
    again = opened(tmp_path / "model.pt2", saved(Parallel().eval(), *inputs))
    assert "bit by bit" in again.info.notes[0]
    parts = dict(again.model.parts.named_children())
    for index, (name, (layer, _)) in enumerate(LAYERS.items()):
        if name != "identity":  # it left no operator behind
            found = parts[str(index)]
            assert type(found) is type(layer), name
            assert alike(found) == alike(layer), name


def test_blocks_are_copied_pickled_and_read_like_written_modules(tmp_path: Path) -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(x * self.weight) + 1

    again = opened(tmp_path / "gate.pt2", saved(nn.Sequential(Gate()), torch.randn(2, 4)))
    gate = again.model.get_submodule("0")
    assert isinstance(gate, Block)
    assert type(gate).__name__ == "Gate"
    source = inspect.getsource(type(gate).forward)
    assert source.startswith("def forward(self, ")
    assert "torch.ops.aten.sigmoid.default" in source
    x = torch.randn(2, 4)
    for other in (copy.deepcopy(gate), pickle.loads(pickle.dumps(gate)), share(gate)):
        assert type(other) is type(gate)
        assert torch.equal(other(x), gate(x))
    assert share(gate).weight is gate.weight


def test_the_inputs_can_be_given(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    sides = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    content = saved(model, torch.randn(2, 1, 9, 9), dynamic_shapes=(sides,))
    plain = opened(tmp_path / "model.pt2", content)
    assert plain.info.inputs == (InputSpec((1, 1, 9, 9)),)
    assert "as long as in the example" in plain.info.notes[-1]
    wanted = InputSpec((4, 1, 12, 7))
    assert opened(tmp_path / "model.pt2", content, wanted).inputs[0].shape == (4, 1, 12, 7)
    with pytest.raises(ModelUnreadable, match="takes 1 inputs"):
        opened(tmp_path / "model.pt2", content, wanted, wanted)
    with pytest.raises(ModelUnreadable, match="does not run on inputs of 1×3×9×9"):
        opened(tmp_path / "model.pt2", content, InputSpec((1, 3, 9, 9)))


# What does not open


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))


class Counting(nn.Module):
    def forward(self, x: Tensor, count: int) -> Tensor:
        return x * count


def test_branches_over_data_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match=r"depends on its data \(cond\)"):
        opened(tmp_path / "model.pt2", saved(Branching(), torch.randn(2, 3)))


def test_numbers_are_constants_or_refused(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    fixed = opened(tmp_path / "model.pt2", saved(Counting(), x, 3))
    assert torch.equal(fixed.model(x), x * 3)
    free = {"x": None, "count": torch.export.Dim.DYNAMIC}
    with pytest.raises(ModelUnreadable, match="takes a number, “count”"):
        opened(tmp_path / "model.pt2", saved(Counting(), x, 3, dynamic_shapes=free))


def test_inputs_that_cannot_be_sampled_are_refused(tmp_path: Path) -> None:
    content = saved(nn.Identity(), torch.zeros(2, 3, dtype=torch.complex64))
    with pytest.raises(ModelUnreadable, match="complex64 of shape 2×3"):
        opened(tmp_path / "model.pt2", content)


def with_member(name: str, text: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        buffer = io.BytesIO(rewritten(content, lambda _, one: one))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(zipfile.ZipInfo(name), text)
        return buffer.getvalue()

    return change


def with_text(name: str, old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        return rewritten(
            content, lambda one, data: data.replace(old, new) if one.endswith(name) else data
        )

    return change


def without(name: str) -> Callable[[bytes], bytes]:
    return lambda content: rewritten(content, lambda one, data: None if name in one else data)


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut short": (lambda content: content[:-100], "cut short"),
    "a flipped bit": (
        lambda content: content.replace(b"aten.linear", b"aten.lineaq", 1),
        "checksum",
    ),
    "no program": (without("models/"), "without an exported program"),
    "two programs": (with_member("archive/models/other.json", b"{}"), r"\(model, other\)"),
    "compiled": (with_member("archive/data/aotinductor/model/a.so", b""), "AOTInductor"),
    "another form": (
        with_text("model.json", b'"schema_version": {"major": ', b'"schema_version": {"major": 9'),
        "in form 9",
    ),
    "no weights": (without("weights/"), "cannot be loaded as an exported program"),
    "an operator that is none": (
        with_text("model.json", b"aten.linear", b"aten.lineaq"),
        "cannot be loaded as an exported program",
    ),
    "no JSON": (with_text("model.json", b"{", b"("), "cannot be loaded"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_broken_programs_are_refused_in_words(
    small_program: bytes, tmp_path: Path, damage: str
) -> None:
    change, words = BROKEN[damage]
    with pytest.raises(ModelUnreadable, match=words) as caught:
        opened(tmp_path / "model.pt2", change(small_program))
    assert "model.pt2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_no_flipped_bit_goes_unnoticed(small_program: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(small_program)
    for name, member in read_archive(path).members.items():
        damaged = bytearray(small_program)
        damaged[member.start + member.size // 2] ^= 4
        with pytest.raises(ModelUnreadable, match="damaged") as caught:
            opened(path, bytes(damaged))
        assert name in str(caught.value)


# Consent


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_runs_before_consent(small_program: bytes, tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "it ran"
    buffer = io.BytesIO()
    torch.save(Hostile(marker), buffer, pickle_protocol=protocol)
    content = rewritten(
        small_program,
        lambda name, data: buffer.getvalue() if name.endswith("model.pt") else data,
    )
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(ConsentNeeded) as caught:
        open_program(path, OpenRequest(str(path)), Job())
    details = caught.value.details
    assert details["digest"] == digest_of(content)
    assert details["what"] == "model.pt2"
    assert details["runs"] == [f"{os.mkdir.__module__}.mkdir"]
    other = OpenRequest(str(path), trusted=frozenset({digest_of(small_program)}))
    with pytest.raises(ConsentNeeded):  # consent is to one content
        open_program(path, other, Job())
    assert not marker.exists()


def test_what_would_run_is_looked_for_within_bounds(small_program: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(small_program)
    top = next(iter(read_archive(path).members)).partition("/")[0]
    long = b"\x80\x02]" + b"(lq\x00" * 190_000 + b"."  # a list in a list in a list
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(3):
            archive.writestr(f"{top}/data/more_{number}", long)
    with pytest.raises(ConsentNeeded) as caught:
        open_program(path, OpenRequest(str(path)), Job())
    assert caught.value.details["runs"][-1] == "more than was looked through"


def test_a_program_that_changes_after_consent_is_not_read(
    small_program: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt2"

    def swap(function: str, payload: Any, job: Job) -> None:
        path.write_bytes(small_program + b"more")

    monkeypatch.setattr(opened_models, "run_in_child", swap)
    with pytest.raises(ModelUnreadable, match="was changed while"):
        opened(path, small_program)


def test_a_child_opens_it_first(
    small_program: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(*_: object) -> None:
        raise AssertionError("it was opened here first")

    monkeypatch.setattr(opened_models, "run_in_child", run_in_child)
    monkeypatch.setattr(programs, "_opened", here)
    broken = BROKEN["no weights"][0](small_program)
    with pytest.raises(ModelUnreadable, match="cannot be loaded"):
        opened(tmp_path / "model.pt2", broken)


def test_opening_can_be_cancelled(small_program: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(small_program)
    job = Job()
    job.cancel()
    request = OpenRequest(str(path), trusted=frozenset({digest_of(small_program)}))
    with pytest.raises(Cancelled):
        open_program(path, request, job)


# Whole networks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit", "swin_t"])
def test_torchvision_networks_come_back_as_layers(name: str, tmp_path: Path, job: Job) -> None:
    from torchvision import models

    if name == "vit":
        model: nn.Module = models.VisionTransformer(32, 16, 2, 2, 32, 64)
    else:
        model = models.get_model(name, weights=None)
    images = torch.randn(2, 3, 32 if name == "vit" else 64, 32 if name == "vit" else 64)
    content = saved(model.eval(), images, dynamic_shapes=ANY_BATCH)
    again = opened(tmp_path / f"{name}.pt2", content)
    assert "bit by bit" in again.info.notes[0]
    session = ModelSession(again)
    tree = session.snapshot.current.tree
    layers = dict(model.named_modules())
    for one in tree:
        if isinstance(layers[one.id], nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm):
            # The projection of attention is one, under a name that means nothing here.
            kind = type(layers[one.id]).__name__
            assert one.kind == kind.replace("NonDynamicallyQuantizable", "")
    assert sum(one.parameters for one in tree) == sum(one.numel() for one in model.parameters())
    first = next(one.id for one in tree if "quantize" in one.methods)
    session.apply(Quantize((first,)), job)
    if name != "vit":
        assert session.snapshot.current.tree[first].weight_bits == 8
