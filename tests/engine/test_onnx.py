"""Opening ONNX files: exports of torch, files built by hand, files that are not to be trusted."""

import json
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from engine.editing import look_at
from engine.edits import PruneChannels, Quantize
from engine.errors import InputsNeeded, ModelUnreadable
from engine.job import Job
from engine.layers import LayerId
from engine.requests import InputSpec, OpenRequest
from engine.session import ModelSession
from engine.sharing import share
from engine.sources.files.onnx_sniffing import looks_like_onnx
from engine.sources.onnx_files import checking as onnx_checking
from engine.sources.onnx_files.comparison import (
    Comparison,
    compare,
    difference_in_words,
    figure,
)
from engine.sources.onnx_files.conversion import Converted, convert_file
from engine.sources.onnx_files.opening import open_onnx
from engine.sources.opened import OpenedModel
from engine.tracing import trace

NEWEST = 25
"""The newest opset that ONNX Runtime runs."""


def export(model: nn.Module, inputs: tuple[Any, ...], path: Path, opset: int, **more: Any) -> Path:
    """Write the model as torch's exporter does; without its passing warnings and log lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), inputs, path, opset_version=opset, verbose=False, **more)
    return path


def opened(path: Path, *inputs: InputSpec) -> OpenedModel:
    return open_onnx(path, OpenRequest(str(path), inputs=inputs), Job())


def converted(path: Path, *inputs: InputSpec) -> Converted:
    """The file as a model, without a process of its own and without a comparison."""
    return convert_file(onnx_checking.read_onnx(path), inputs, Job())


def compared(path: Path) -> Comparison:
    return compare(onnx_checking.read_onnx(path), [])


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, outputs, name=f"{outputs[0]}_node", **attributes)


def save(
    path: Path,
    nodes: list[Any],
    tensors: dict[str, Any] | None = None,
    shape: tuple[Any, ...] = (1, 4),
    opset: int = 18,
    dtype: int = TensorProto.FLOAT,
    result: int = TensorProto.FLOAT,
    domain: str = "",
) -> Path:
    """A file of these operators, from “x” to “y”."""
    initializers = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in (tensors or {}).items()
    ]
    graph = helper.make_graph(
        nodes, "toy",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", result, None)],
        initializers,
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def floats(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# -- exports of torch


def macs(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    return sum(one.macs or 0 for one in trace(model, inputs).operators)


class Block(nn.Module):
    """A residual block and a head: what most networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(torch.relu(self.conv1(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture(scope="session")
def block(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = Block()
    path = tmp_path_factory.mktemp("onnx") / "block.onnx"
    return model, export(model, (torch.randn(1, 3, 16, 16),), path, NEWEST)


@pytest.fixture(scope="session")
def block_opened(block: tuple[nn.Module, Path]) -> OpenedModel:
    return opened(block[1])


def test_layers_come_back_under_their_names(block_opened: OpenedModel) -> None:
    kinds = {name: type(module) for name, module in block_opened.model.named_modules()}
    assert kinds["stem.0"] is nn.Conv2d
    assert kinds["conv1"] is nn.Conv2d
    assert kinds["head"] is nn.Linear


def test_outputs_are_those_of_the_exported_model(
    block: tuple[nn.Module, Path], block_opened: OpenedModel
) -> None:
    with torch.no_grad():
        for batch in (1, 3):
            x = torch.randn(batch, 3, 16, 16)
            torch.testing.assert_close(block_opened.model(x), block[0](x), rtol=1e-4, atol=1e-5)


def test_info_says_what_was_found(block_opened: OpenedModel) -> None:
    info = block_opened.info
    assert info.inputs == (InputSpec((1, 3, 16, 16)),)
    assert info.trained
    assert info.task == "classification"
    assert block_opened.architecture == ""
    assert any(note.startswith("Compared with ONNX Runtime: outputs differ by at most")
               for note in info.notes)  # fmt: skip


def test_macs_are_those_of_the_exported_model(
    block: tuple[nn.Module, Path], block_opened: OpenedModel
) -> None:
    inputs = block_opened.inputs
    assert macs(block_opened.model, inputs) == macs(block[0], inputs)


def test_copy_shares_tensors_and_runs(block_opened: OpenedModel) -> None:
    copy = share(block_opened.model)
    mine = dict(block_opened.model.named_parameters())
    assert all(tensor is mine[name] for name, tensor in copy.named_parameters())
    with torch.no_grad():
        x = block_opened.inputs[0]
        assert torch.equal(copy(x), block_opened.model(x))


def test_channels_are_pruned(block_opened: OpenedModel, job: Job) -> None:
    session = ModelSession(block_opened)
    before = session.snapshot.current.tree[LayerId("conv1")]
    change = session.apply(PruneChannels((LayerId("conv1"),), 0.3), job)
    after = change.snapshot.current.tree[LayerId("conv1")]
    assert before.channels == 16
    assert after.channels is not None
    assert after.channels < 16


def test_layers_are_quantized(block_opened: OpenedModel, job: Job) -> None:
    session = ModelSession(block_opened)
    change = session.apply(Quantize((LayerId("conv2"),), calibration_samples=4), job)
    layer = change.snapshot.current.tree[LayerId("conv2")]
    assert (layer.weight_bits, layer.activation_bits) == (8, 8)


class Attention(nn.Module):
    """A small encoder over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 16)
        self.place = nn.Parameter(torch.randn(1, 7, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.tokens(x) + self.place)


def test_encoder_of_tokens_comes_back(tmp_path: Path) -> None:
    model = Attention()
    x = torch.randint(50, (1, 7))
    path = export(model, (x,), tmp_path / "encoder.onnx", 18)
    found = converted(path)
    assert found.specs == (InputSpec((1, 7), "int64", 50),)
    assert "differ by at most" in compared(path).notes[1]
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), model(x), rtol=1e-4, atol=1e-5)
    kinds = [type(one) for one in found.model.modules()]
    assert kinds.count(nn.Embedding) == 1
    assert kinds.count(nn.LayerNorm) == 4
    assert kinds.count(nn.Linear) >= 6
    assert macs(found.model, (x,)) == macs(model, (x,))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [13, 18, NEWEST])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16"])
def test_torchvision_models_cost_what_they_did(tmp_path: Path, name: str, opset: int) -> None:
    if (name, opset) == ("vit_b_16", 13):
        opset = 17  # the older exporter writes attention from there on
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    size = 224 if name == "vit_b_16" else 64
    inputs = (torch.randn(1, 3, size, size),)
    more = {} if opset >= 18 else {"dynamo": False}
    found = opened(export(model, inputs, tmp_path / f"{name}.onnx", opset, **more))
    assert macs(found.model, inputs) == pytest.approx(macs(model, inputs), rel=0.005)
    assert any(note.startswith("Compared with ONNX Runtime") for note in found.info.notes)
    with torch.no_grad():
        wanted = model(*inputs)
        torch.testing.assert_close(
            found.model(*inputs), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())
        )
    first = next(one for one, at in found.model.named_modules() if isinstance(at, nn.Conv2d))
    assert look_at(found.model, inputs).tree[LayerId(first)].channels


def test_quantized_exports_keep_layers_and_count_eight_bits(tmp_path: Path) -> None:
    weight = np.clip(np.round(floats(4, 3, 3, 3) * 40), -127, 127).astype(np.int8)
    path = save(
        tmp_path / "qdq.onnx",
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
            node("Conv", ["d", "wd"], ["c"], kernel_shape=[3, 3]),
            node("Relu", ["c"], ["y"]),
        ],
        {
            "s": np.float32(0.05), "z": np.uint8(128), "w": weight,
            "ws": np.linspace(0.01, 0.04, 4, dtype=np.float32), "wz": np.zeros(4, np.int8),
        },
        (1, 3, 8, 8),
    )  # fmt: skip
    model = converted(path).model
    convolutions = [one for one in model.modules() if type(one) is nn.Conv2d]
    assert len(convolutions) == 1
    scales = torch.linspace(0.01, 0.04, 4).reshape(4, 1, 1, 1)
    torch.testing.assert_close(
        convolutions[0].weight.detach(), torch.from_numpy(weight).float() * scales
    )
    reads = [one.inputs[0].bits for one in trace(model, (torch.zeros(1, 3, 8, 8),)).operators
             if "convolution" in one.name]  # fmt: skip
    assert reads == [8]


def test_dynamic_batch_is_one_and_stays_free(tmp_path: Path) -> None:
    path = save(
        tmp_path / "batch.onnx",
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Unsqueeze", ["n", "axis"], ["n1"]),
            node("Concat", ["n1", "rest"], ["shape"], axis=0),
            node("Reshape", ["x", "shape"], ["r"]),
            node("MatMul", ["r", "w"], ["m"]),
            node("Add", ["m", "b"], ["y"]),
        ],
        {"zero": np.int64(0), "axis": np.array([0]), "rest": np.array([-1]),
         "w": floats(12, 5), "b": floats(5)},
        ("batch", 3, 4),
    )  # fmt: skip
    found = converted(path)
    assert found.specs == (InputSpec((1, 3, 4)),)
    assert compared(path).batch == 0
    (layer,) = (one for one in found.model.modules() if isinstance(one, nn.Linear))
    assert layer.bias is not None
    x = torch.randn(7, 3, 4)
    wanted = x.flatten(1) @ torch.from_numpy(floats(12, 5)) + torch.from_numpy(floats(5))
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), wanted, rtol=1e-4, atol=1e-5)


def test_shapes_for_one_sample_run_samples_one_by_one(tmp_path: Path) -> None:
    path = save(
        tmp_path / "fixed.onnx",
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            node("Reshape", ["t", "heads"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("Reshape", ["r", "shape"], ["b"]),
            node("Transpose", ["b"], ["y"], perm=[1, 0, 2]),
        ],
        {"heads": np.array([3, 2, 2]), "shape": np.array([3, 1, 4])},
        (1, 3, 4),
    )
    found = converted(path)
    told = compared(path)
    assert told.batch == 1
    assert told.notes[-1] == "Its shapes are fixed: it runs on one sample at a time."
    found.model.batch = told.batch
    x = torch.randn(5, 3, 4)
    with torch.no_grad():
        wanted = torch.cat([found.model(one) for one in x.split(1)])
        assert torch.equal(found.model(x), wanted)


def test_inputs_that_are_left_open_are_asked_for_with_a_guess(tmp_path: Path) -> None:
    path = save(tmp_path / "open.onnx", [node("Relu", ["x"], ["y"])], {}, ("n", 3, "h", "w"))
    with pytest.raises(InputsNeeded) as refusal:
        opened(path)
    assert refusal.value.details == {"inputs": ["1x3x224x224"]}
    assert converted(path, InputSpec((1, 3, 10, 12))).specs == (InputSpec((1, 3, 10, 12)),)


def test_inputs_too_large_for_a_sample_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "large", [node("Relu", ["x"], ["y"])], {}, (1, 1 << 40))
    with pytest.raises(ModelUnreadable, match="1,099,511,627,776 elements, too many for a sample"):
        converted(path)


@pytest.mark.parametrize("side", [0, -1])
def test_a_side_of_no_length_is_an_open_one(tmp_path: Path, side: int) -> None:
    path = save(tmp_path / "open", [node("Relu", ["x"], ["y"])], {}, (side, side))
    with pytest.raises(InputsNeeded, match="dimension 1"):
        converted(path)
    assert converted(path, InputSpec((2, 3))).specs == (InputSpec((2, 3)),)


def test_inputs_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "relu.onnx", [node("Relu", ["x"], ["y"])])
    with pytest.raises(InputsNeeded, match="of 1×4 and type float32, not 1x5"):
        converted(path, InputSpec((1, 5)))


def test_vocabulary_bounds_integers(tmp_path: Path) -> None:
    path = save(
        tmp_path / "words.onnx", [node("Gather", ["words", "x"], ["y"])],
        {"words": floats(30, 6)}, ("batch", 7), dtype=TensorProto.INT64,
    )  # fmt: skip
    found = converted(path)
    assert found.specs == (InputSpec((1, 7), "int64", 30),)
    assert [type(one) for one in found.model.children()] == [nn.Embedding]


def test_known_branch_is_taken(tmp_path: Path) -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [node(kind, ["x"], [f"{name}_y"])], name, [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, (1, 4))],
        )
        for name, kind in (("then", "Relu"), ("else", "Neg"))
    }  # fmt: skip
    path = save(tmp_path / "if.onnx", [node("If", ["c"], ["y"], **branches)], {"c": np.bool_(True)})
    assert [type(one) for one in converted(path).model.children()] == [nn.ReLU]


def test_operators_are_made_of_simpler_ones_as_onnx_defines_them(tmp_path: Path) -> None:
    path = save(
        tmp_path / "mvn.onnx", [node("MeanVarianceNormalization", ["x"], ["y"])], {}, (2, 3, 4, 4)
    )
    model = converted(path).model
    x = torch.randn(2, 3, 4, 4)
    dims = (0, 2, 3)
    wanted = (x - x.mean(dims, True)) / (x.var(dims, unbiased=False, keepdim=True).sqrt() + 1e-9)
    torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)


# -- refusals


def test_all_operators_without_converter_are_named(tmp_path: Path) -> None:
    path = save(
        tmp_path / "own.onnx",
        [
            node("Fancy", ["x"], ["a"], domain="my.company"),
            node("Plain", ["a"], ["b"], domain="my.company"),
            node("STFT", ["b", "step"], ["y"]),
        ],
        {"step": np.int64(1)},
        domain="my.company",
    )
    with pytest.raises(ModelUnreadable) as refusal:
        opened(path)
    message = str(refusal.value)
    for name in ("Fancy (my.company 1)", "Plain (my.company 1)", "STFT (ai.onnx 18)"):
        assert name in message


def test_control_flow_is_refused_in_words(tmp_path: Path) -> None:
    body = helper.make_graph(
        [node("Identity", ["going"], ["go"]), node("Relu", ["state"], ["next"])], "body",
        [helper.make_tensor_value_info("at", TensorProto.INT64, ()),
         helper.make_tensor_value_info("going", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("state", TensorProto.FLOAT, (1, 4))],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("next", TensorProto.FLOAT, (1, 4))],
    )  # fmt: skip
    path = save(
        tmp_path / "loop.onnx", [node("Loop", ["n", "", "x"], ["y"], body=body)],
        {"n": np.int64(3)},
    )  # fmt: skip
    with pytest.raises(ModelUnreadable, match=r"control flow \(Loop\)"):
        converted(path)


def test_size_that_depends_on_data_is_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "nonzero.onnx", [node("NonZero", ["x"], ["y"])], result=TensorProto.INT64
    )
    with pytest.raises(ModelUnreadable, match=r"NonZero .* depends on the model's input"):
        converted(path)


def test_results_that_differ_are_refused_with_figures() -> None:
    ours, theirs = [torch.tensor([1.0, 2.5])], [torch.tensor([1.0, 2.0])]
    with pytest.raises(ModelUnreadable, match=r"differ by at most 0\.5 \(largest output 2\)"):
        difference_in_words(ours, theirs, 1e-3)
    assert difference_in_words(theirs, theirs, 1e-3).endswith("at most 0 (largest output 2).")


@pytest.mark.parametrize(("value", "text"), [(1.2e-6, "1.2e-6"), (4.1, "4.1"), (0.0, "0")])
def test_figures_are_short(value: float, text: str) -> None:
    assert figure(value) == text


def test_opsets_out_of_range_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match="opset 9, before 11"):
        onnx_checking.read_onnx(save(tmp_path / "a", [node("Relu", ["x"], ["y"])], opset=9))
    with pytest.raises(ModelUnreadable, match="opset 99; the newest known"):
        onnx_checking.read_onnx(save(tmp_path / "b", [node("Relu", ["x"], ["y"])], opset=99))


# -- files that are not to be trusted


def linear_file(path: Path) -> Path:
    return save(path, [node("MatMul", ["x", "w"], ["y"])], {"w": floats(4, 300)})


def refused(path: Path) -> str:
    with pytest.raises(ModelUnreadable) as refusal:
        onnx_checking.read_onnx(path)
    assert type(refusal.value) is ModelUnreadable
    return str(refusal.value)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, share: float) -> None:
    whole = linear_file(tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(whole[: int(len(whole) * share)])
    message = refused(path)
    assert "cut short" in message or "damaged" in message


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(30):
        path = tmp_path / f"random{number}"
        path.write_bytes(rng.bytes(2000))
        assert "damaged" in refused(path) or "cut short" in refused(path)


def test_flipped_bits_never_escape_as_other_errors(tmp_path: Path) -> None:
    whole = bytearray(linear_file(tmp_path / "whole").read_bytes())
    rng = np.random.default_rng(1)
    path = tmp_path / "flipped"
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[int(rng.integers(120))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with suppress(ModelUnreadable):
            onnx_checking.read_onnx(path)


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    """The file of one linear layer, with something changed."""
    model = onnx.load(linear_file(path))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_tensors_of_another_size_than_their_shape_are_refused(tmp_path: Path) -> None:
    def huge(model: Any) -> None:
        model.graph.initializer[0].dims[0] = 1 << 60

    def negative(model: Any) -> None:
        model.graph.initializer[0].dims[0] = -4

    assert "should hold" in refused(changed(tmp_path / "huge", huge))
    assert "negative" in refused(changed(tmp_path / "negative", negative))


def test_values_given_twice_or_never_are_refused(tmp_path: Path) -> None:
    never = save(tmp_path / "never", [node("Add", ["x", "nothing"], ["y"])])
    twice = save(tmp_path / "twice", [node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])])
    assert "damaged" in refused(never)
    assert "damaged" in refused(twice)


def test_deeply_nested_graphs_are_refused(tmp_path: Path) -> None:
    # Written by hand, as nobody's library would: graphs in attributes in nodes in graphs.
    content = b""
    for _ in range(5000):
        content = b"\x2a" + _varint(len(content) + 0) + content  # AttributeProto.g wraps
    path = tmp_path / "deep"
    path.write_bytes(b"\x08\x0a\x3a" + _varint(len(content)) + content)
    assert "damaged" in refused(path)


def _varint(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def external(path: Path, location: str, **more: int) -> Path:
    """The file of one linear layer, whose tensor lies elsewhere."""

    def move(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            tensor.external_data.add(key=key, value=str(value))

    return changed(path, move)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"\0" * 8 + floats(4, 300).tobytes())
    file = onnx_checking.read_onnx(external(tmp_path / "m", "data.bin", offset=8, length=4800))
    assert file.tensors["w"].raw_data == floats(4, 300).tobytes()


@pytest.mark.parametrize(
    "location",
    ["../data.bin", "a/../../data.bin", "/etc/hostname", "~/data.bin", "C:\\data.bin", "a\\..\\b",
     "", "data\0.bin", "..", "link/data.bin", "link.bin"],
)  # fmt: skip
def test_external_data_outside_the_folder_is_never_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "data.bin").write_bytes(floats(4, 300).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "link.bin").symlink_to(tmp_path / "data.bin")
    assert "outside the folder" in refused(external(folder / "m", location))


def test_external_data_that_is_no_whole_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.bin").write_bytes(b"\0" * 100)
    (tmp_path / "folder.bin").mkdir()
    os.mkfifo(tmp_path / "pipe.bin")
    assert "cut short" in refused(external(tmp_path / "m", "short.bin"))
    assert "cannot be read" in refused(external(tmp_path / "m", "missing.bin"))
    assert "is no file" in refused(external(tmp_path / "m", "folder.bin"))
    assert "is no file" in refused(external(tmp_path / "m", "pipe.bin"))
    assert "external data has 7" in refused(external(tmp_path / "m", "short.bin", length=7))


def test_names_are_shown_as_one_plain_line(tmp_path: Path) -> None:
    def rename(model: Any) -> None:
        model.graph.node[0].input[1] = model.graph.initializer[0].name = "w\n\u202e<b>" + "x" * 9000
        model.graph.initializer[0].dims[0] = 5

    message = refused(changed(tmp_path / "names", rename))
    assert "\n" not in message
    assert "\u202e" not in message
    assert len(message) < 1000


def test_constant_that_would_fill_memory_is_not_computed(tmp_path: Path) -> None:
    path = save(
        tmp_path / "bomb.onnx",
        [
            node("ConstantOfShape", ["side"], ["big"]),
            node("ReduceSum", ["big"], ["sum"], keepdims=0),
            node("Add", ["x", "sum"], ["y"]),
        ],
        {"side": np.array([1 << 20, 1 << 18])},
    )
    assert "Not compared with ONNX Runtime: one of its values has" in compared(path).notes[-1]


def test_layers_named_like_attributes_and_keywords_are_renamed(tmp_path: Path) -> None:
    names = ["forward", "class", "a.b", "", "training", "../x", "x\n<b>", "n" * 5000, "_modules"]
    nodes = [node("Relu", ["x" if at == 0 else f"v{at}"], [f"v{at + 1}"])
             for at in range(len(names))]  # fmt: skip
    for one, name in zip(nodes, names, strict=True):
        one.name = name
    nodes[-1].output[0] = "y"
    model = converted(save(tmp_path / "names.onnx", nodes)).model
    with torch.no_grad():
        torch.testing.assert_close(model(torch.ones(1, 4)), torch.ones(1, 4))
    leaves = [name for name, one in model.named_modules() if isinstance(one, nn.ReLU)]
    assert len(leaves) == len(names)
    assert all(part.isidentifier() for name in leaves for part in name.split("."))


_MEASURED = """
import json, resource, sys, time
from pathlib import Path
import torch
from engine.errors import ModelUnreadable
from engine.sources.onnx_files import checking as onnx_checking
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = Path(sys.argv[1])
try:
    with onnx_checking.memory_bounded_for(path) as allow:
        onnx_checking.read_onnx(path, allow)
    message = ""
except ModelUnreadable as error:
    message = str(error)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"kilobytes": after - before, "message": message}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by Linux's own limit")
def test_many_empty_operators_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    import subprocess

    path = tmp_path / "empties"
    nodes = b"\x0a\x00" * 6_000_000  # a node takes two bytes here, and a hundred in memory
    path.write_bytes(b"\x08\x0a\x3a" + _varint(len(nodes)) + nodes + b"\x42\x02\x10\x12")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEASURED, str(path)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer["message"]
    assert answer["kilobytes"] < 256 << 10


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by Linux's own limit")
def test_external_data_counts_into_the_bound_on_memory_once(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    path = external(tmp_path / "m", "data.bin")
    (tmp_path / "data.bin").write_bytes(floats(4, 300).tobytes())
    os.link(tmp_path / "data.bin", tmp_path / "same.bin")
    model = onnx.load(path, load_external_data=False)
    for name, place in (("again", "./data.bin"), ("linked", "same.bin")):
        model.graph.initializer.append(model.graph.initializer[0])
        model.graph.initializer[-1].name = name
        model.graph.initializer[-1].external_data[0].value = place
    path.write_bytes(model.SerializeToString())
    sizes: list[int] = []
    assert len(onnx_checking.read_onnx(path, sizes.append).tensors) == 3
    assert sizes == [4800]
    with onnx_checking.memory_bounded_for(path) as allow:
        first = resource.getrlimit(resource.RLIMIT_AS)[0]
        allow(1000)
        assert resource.getrlimit(resource.RLIMIT_AS)[0] == first + 4000
    assert resource.getrlimit(resource.RLIMIT_AS) == before


# -- sniffing


def test_sniffing_knows_models_by_their_outermost_fields(block: tuple[nn.Module, Path]) -> None:
    content = block[1].read_bytes()
    assert looks_like_onnx(content[:4096], len(content))
    for other in (b"", b"PK\x03\x04" + bytes(100), b"\x80\x02}q\x00.", b"#!/bin/sh\n", bytes(64)):
        assert not looks_like_onnx(other, len(other))
