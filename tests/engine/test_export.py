"""Exports: what is re-opened is what was in memory, or nothing was written."""

import itertools
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from engine import bit_packing
from engine.bit_packing import packed, stored_form, unpacked
from engine.datasets import digits
from engine.edits import Edit, PruneChannels, PruneHeads, PruneWeights, Quantize
from engine.errors import EngineError, ExportFailed, ModelUnreadable
from engine.export import checkpoint, program, verify
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.lazy import resolve
from engine.metrics import ACCURACY, SIZE
from engine.requests import InputSpec, OpenRequest
from engine.session import ModelSession, open_model
from engine.sources import description
from engine.sources import opened as opened_models
from engine.sources.architectures import Architecture, build
from engine.sources.description import describe, read_description, rebuild
from engine.sources.opened import OpenedModel, digest_of
from engine.sources.opening import open_source
from engine.state import ModelInfo
from engine.tracing import sample_inputs

STEM, SUM, HEAD = map(LayerId, ("stem.conv", "stage1.block0.conv2", "head.fc"))
EDITS: dict[str, Edit] = {
    "channels": PruneChannels((SUM, LayerId("stage2.pointwise.conv")), 0.3),
    "weights": PruneWeights((STEM, LayerId("stage1.block0.conv1")), 0.5),
    "integers": Quantize((STEM, LayerId("stage2.depthwise.conv"), HEAD), calibration_samples=32),
}
COMBINATIONS = [
    combination
    for size in range(len(EDITS) + 1)
    for combination in itertools.permutations(EDITS, size)
    # Zeroing weights that are integers is refused.
    if not ("integers" in combination and "weights" in combination)
    or combination.index("weights") < combination.index("integers")
]


@pytest.fixture
def _children_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child would do is done here, in a hundredth of the time."""

    def run(function: str, payload: Any, job: Job) -> Any:
        job.check()
        return resolve(function)(json.loads(json.dumps(payload)))

    monkeypatch.setattr(verify, "run_in_child", run)
    monkeypatch.setattr(program, "run_in_child", run)
    monkeypatch.setattr(opened_models, "run_in_child", run)


in_process = pytest.mark.usefixtures("_children_in_this_process")


def edited(session: ModelSession, edits: tuple[str, ...]) -> ModelSession:
    for name in edits:
        session.apply(EDITS[name], Job())
    return session


def described(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["secateur"])


@torch.inference_mode()
def outputs(session: ModelSession) -> Tensor:
    return session._subject(session._cursor).model(digits().validation.images[:100])


# Checkpoints


@in_process
@pytest.mark.parametrize("edits", COMBINATIONS, ids="-".join)
def test_a_reopened_checkpoint_is_the_model_that_was_exported(
    demo: ModelSession, job: Job, tmp_path: Path, edits: tuple[str, ...]
) -> None:
    path = tmp_path / "model.safetensors"
    report = edited(demo, edits).export(str(path), "checkpoint", job)
    assert report.files == (str(path),)
    assert report.bytes == path.stat().st_size
    assert report.largest_error == 0.0
    assert report.largest_output > 0.1

    again = open_model(str(path), job)
    assert torch.equal(outputs(again), outputs(demo))
    assert again.fingerprint() == demo.fingerprint()
    assert again.snapshot.current.tree == demo.snapshot.current.tree
    assert again.snapshot.model.trained
    assert again.snapshot.model.input_shape == (1, 1, 8, 8)
    tables = [session.snapshot.current.table for session in (again, demo)]
    for key in tables[1]:
        assert tables[0][key] == tables[1][key]
    accuracies = [
        session.evaluate(job).snapshot.current.table[ACCURACY.key].total
        for session in (again, demo)
    ]
    assert accuracies[0] == accuracies[1]


@in_process
def test_a_reopened_checkpoint_can_be_edited_and_exported_again(
    demo: ModelSession, job: Job, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    edited(demo, ("channels", "integers")).export(str(first), "checkpoint", job)
    more = PruneChannels((LayerId("stage1.block0.conv1"),), 0.5)
    again = open_model(str(first), job)
    again.apply(more, job)
    again.export(str(second), "checkpoint", job)
    demo.apply(more, job)
    assert open_model(str(second), job).fingerprint() == demo.fingerprint()


@in_process
def test_the_description_lists_what_differs_and_nothing_else(
    demo: ModelSession, job: Job, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    demo.export(str(path), "checkpoint", job)
    plain = {
        "version": 3, "source": "demo", "inputs": ["1x1x8x8"], "trained": True,
        "layers": {}, "parameters": {}, "tied": {},
    }  # fmt: skip
    assert described(path) == plain

    demo.apply(PruneWeights((STEM,), 0.5), job)
    demo.export(str(path), "checkpoint", job)
    assert described(path) == plain  # zeros are in the weights

    demo.apply(PruneChannels((LayerId("stage1.block0.conv1"),), 0.5), job)
    demo.export(str(path), "checkpoint", job)
    structures = {name: one["structure"] for name, one in described(path)["layers"].items()}
    assert structures == {
        "stage1.block0.conv1": {"out_channels": 32},
        "stage1.block0.bn1": {"num_features": 32},
        "stage1.block0.conv2": {"in_channels": 32},
    }

    demo.apply(Quantize((HEAD, STEM)), job)
    demo.export(str(path), "checkpoint", job)
    layers = described(path)["layers"]
    assert set(layers) == {*structures, "head.fc", "stem.conv", "stem.bn"}
    assert layers["stem.bn"]["folded_into"] == "stem.conv"
    assert layers["stem.conv"]["bias"] is True
    assert layers["head.fc"]["structure"] == {}
    integers = layers["head.fc"]["integers"]
    assert (integers["bits"], integers["granularity"], integers["group_size"]) == (8, "channel", 0)
    assert -128 <= integers["input"]["zero_point"] <= 127


@in_process
def test_integer_weights_are_stored_as_integers(
    demo: ModelSession, job: Job, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    whole = demo.export(str(path), "checkpoint", job).bytes
    layers = [one.id for one in demo.snapshot.current.tree if "quantize" in one.methods]
    demo.apply(Quantize(tuple(layers)), job)
    assert demo.export(str(path), "checkpoint", job).bytes < whole / 3
    with safe_open(path, "pt") as file:
        assert file.get_tensor("head.fc.weight").dtype is torch.int8
        assert not [name for name in file.keys() if name.startswith("stem.bn")]  # noqa: SIM118


GRIDS: dict[str, dict[str, Any]] = {
    "tensor": {"granularity": "tensor"},
    "reduced": {"weight_bits": 7},
    "affine4": {"weight_bits": 4, "weight_symmetric": False},
    "groups4": {"weight_bits": 4, "granularity": "group", "group_size": 16},
    "groups3": {"weight_bits": 3, "granularity": "group", "weight_symmetric": False},
    "two": {"weight_bits": 2},
    "twelve": {"weight_bits": 12, "weight_symmetric": False},
    "sixteen": {"weight_bits": 16, "activation_bits": 16},
    "dynamic": {"activations": "dynamic"},
    "dynamic16": {"activations": "dynamic", "activation_bits": 16, "activation_symmetric": True},
    "weights": {"activations": "none", "weight_bits": 5},
}


@in_process
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(one, marks=[pytest.mark.slow] if one in ("reduced", "two", "sixteen") else [])
        for one in GRIDS
    ],
)
def test_every_grid_comes_back_with_every_bit_and_takes_the_bytes_that_are_shown(
    demo: ModelSession, job: Job, tmp_path: Path, way: str
) -> None:
    path = tmp_path / "model.safetensors"
    layers = tuple(one.id for one in demo.snapshot.current.tree if "quantize" in one.methods)
    demo.apply(Quantize(layers, calibration_samples=32, **GRIDS[way]), job)
    assert demo.export(str(path), "checkpoint", job).largest_error == 0.0
    again = open_model(str(path), job)
    assert torch.equal(outputs(again), outputs(demo))
    assert again.fingerprint() == demo.fingerprint()
    assert again.snapshot.current.tree == demo.snapshot.current.tree
    size = demo.snapshot.current.table[SIZE.key].total
    assert size is not None
    assert sum(one.nbytes for one in load(path.read_bytes()).values()) == size.value
    assert again.snapshot.current.table[SIZE.key] == demo.snapshot.current.table[SIZE.key]


@given(st.integers(2, 16), st.lists(st.integers(0, 5), max_size=3), st.integers(0, 2**31))
def test_packed_integers_come_back(bits: int, shape: list[int], seed: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    kind = torch.int8 if bits <= 8 else torch.int16
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(low, high, shape, generator=generator).to(kind)
    stored = packed(integers, bits)
    form = stored_form(tuple(shape), bits)
    assert (stored.dtype, stored.shape) == (form.dtype, form.shape)
    assert torch.equal(unpacked(stored, bits, tuple(shape)), integers)


def test_integers_are_packed_from_the_least_bit_on() -> None:
    """As ONNX packs those of four bits: the first in the low half of the first byte."""
    assert packed(torch.tensor([1, -1, 7]), 4).tolist() == [0xF1, 0x07]
    assert packed(torch.tensor([1, -2, 0, -1]), 2).tolist() == [0b11_00_10_01]
    assert packed(torch.tensor([-3, 3]), 3).tolist() == [0b011_101]


def test_long_tensors_are_packed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    integers = torch.randint(-4, 4, (5, 7)).to(torch.int8)
    whole = packed(integers, 3)
    monkeypatch.setattr(bit_packing, "_AT_ONCE", 8)
    assert torch.equal(packed(integers, 3), whole)
    assert torch.equal(unpacked(whole, 3, (5, 7)), integers)


@in_process
@pytest.mark.parametrize(
    ("name", "change", "cause"),
    [
        ("head.fc.weight", lambda one: one.fill_(0x88), "holds the smallest integer"),
        ("head.fc.weight", lambda one: one[:-1], "has shape"),
        ("head.fc.weight", lambda one: one.view(torch.int8), "holds torch.int8"),
        ("head.fc.weight_scale", lambda one: one.fill_(float("nan")), "no positive number"),
        ("head.fc.weight_scale", lambda one: one.fill_(float("inf")), "no positive number"),
        ("head.fc.weight_scale", lambda one: one.neg(), "no positive number"),
    ],
)
def test_integers_that_no_grid_has_are_refused(
    demo: ModelSession,
    job: Job,
    tmp_path: Path,
    name: str,
    change: Callable[[Tensor], Tensor],
    cause: str,
) -> None:
    path = tmp_path / "model.safetensors"
    demo.apply(Quantize((HEAD,), weight_bits=4, calibration_samples=32), job)
    demo.export(str(path), "checkpoint", job)
    tensors = load(path.read_bytes())
    tensors[name] = change(tensors[name])
    path.write_bytes(save(tensors, {"secateur": json.dumps(described(path))}))
    with pytest.raises(ModelUnreadable, match=cause):
        open_model(str(path), job)


@pytest.mark.parametrize(
    "name", ["resnet18", "regnet_y_400mf", "swin_t", "convnext_tiny", "mobilenet_v3_small"]
)
def test_unedited_architectures_have_nothing_to_describe(name: str) -> None:
    architecture = build(name, "meta")
    found, tensors = describe(architecture.model, architecture.source, architecture.inputs, False)
    assert (found.layers, found.parameters, found.tied) == ({}, {}, {})
    assert list(tensors) == list(architecture.model.state_dict())


class Tied(nn.Module):
    """Two convolutions of one weight, one under two names, and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.again = self.conv
        self.gain = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.first, self.second = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.second.weight = self.first.weight
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) * self.gain + self.again(-x)
        return self.last(self.second(self.first(x).relu()))


@pytest.fixture
def tied(monkeypatch: pytest.MonkeyPatch, session_of: Callable[..., ModelSession]) -> ModelSession:
    def make(source: str, device: str = "cpu", trusted: object = ()) -> Architecture:
        with torch.random.fork_rng(), torch.device(device):
            return Architecture(source, Tied().eval(), (InputSpec((1, 1, 8, 8)),))

    monkeypatch.setattr(description, "build", make)
    return session_of(Tied(), 1, 1, 8, 8)


class Attentive(nn.Module):
    """Attention that reads its packed projection itself, and a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.attention(x, x, x, need_weights=False)[0]
        return self.last(x + found)


@in_process
@pytest.mark.parametrize("heads", [4, 3])
@pytest.mark.parametrize("activations", ["static", "dynamic", "none"])
def test_rounded_attention_comes_back_with_its_products_and_projections(
    session_of: Callable[..., ModelSession],
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    heads: int,
    activations: Any,
) -> None:
    def make(source: str, device: str = "cpu", trusted: object = ()) -> Architecture:
        with torch.random.fork_rng(), torch.device(device):
            return Architecture(source, Attentive().eval(), (InputSpec((1, 5, 16)),))

    monkeypatch.setattr(description, "build", make)
    torch.manual_seed(0)
    session = session_of(Attentive(), 1, 5, 16)
    if heads < 4:
        session.apply(PruneHeads((LayerId("attention"),), 0.25), job)
    layers = tuple(one.id for one in session.snapshot.current.tree if "quantize" in one.methods)
    assert LayerId("attention") in layers
    session.apply(Quantize(layers, activations=activations), job)
    path = tmp_path / "model.safetensors"
    assert session.export(str(path), "checkpoint", job).largest_error == 0.0
    again = open_model(str(path), job)
    assert again.fingerprint() == session.fingerprint()
    assert again.snapshot.current.tree == session.snapshot.current.tree
    found = described(path)["layers"]
    assert found["attention"]["heads"] == (heads if heads < 4 else None)
    assert found["attention"]["explicit"] == (True if heads == 4 else None)
    assert found["attention.in_proj"]["integers"]["bits"] == 8
    rounded = [[one["name"], one["inputs"]] for one in found["attention"]["operators"]]
    if activations == "none":
        assert rounded == []
    else:
        assert [name for name, _ in rounded].count("matmul") == 2


@in_process
def test_tied_weights_are_stored_once_and_stay_tied(
    tied: ModelSession, job: Job, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    tied.export(str(path), "checkpoint", job)
    found = described(path)
    assert found["tied"] == {
        "again.weight": "conv.weight", "again.bias": "conv.bias", "second.weight": "first.weight",
    }  # fmt: skip
    assert found["layers"] == {}
    again = open_model(str(path), job)
    model = again._subject(0).model
    assert model.second.weight is model.first.weight
    assert model.again is model.conv
    assert again.fingerprint() == tied.fingerprint()
    assert again.snapshot.current.tree == tied.snapshot.current.tree


@in_process
def test_what_is_zeroed_in_tied_weights_is_stored_once(
    tied: ModelSession, job: Job, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    tied.apply(PruneWeights((LayerId("first"),), 0.5), job)
    tied.export(str(path), "checkpoint", job)
    assert described(path)["tied"]["second.weight"] == "first.weight"
    again = open_model(str(path), job)
    assert again.fingerprint() == tied.fingerprint()
    model = again._subject(0).model
    assert model.second.weight is model.first.weight
    assert int((model.second.weight == 0).sum()) == 72


@in_process
def test_what_an_edit_unties_is_stored_apart(tied: ModelSession, job: Job, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tied.apply(Quantize((LayerId("first"),)), job)
    tied.export(str(path), "checkpoint", job)
    assert "second.weight" not in described(path)["tied"]
    again = open_model(str(path), job)
    assert again.fingerprint() == tied.fingerprint()
    model = again._subject(0).model
    assert model.first.weight.dtype is torch.int8
    assert model.second.weight.dtype is torch.float32


@in_process
def test_bare_parameters_and_shared_layers_are_rebuilt_smaller(
    tied: ModelSession, job: Job, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    tied.apply(PruneChannels((LayerId("conv"),), 0.5), job)
    tied.apply(Quantize((LayerId("conv"), LayerId("last"))), job)
    tied.export(str(path), "checkpoint", job)
    assert described(path)["parameters"]["gain"] == [1, 2, 1, 1]
    again = open_model(str(path), job)
    assert again.fingerprint() == tied.fingerprint()
    model = again._subject(0).model
    assert model.again is model.conv


def test_a_model_in_memory_round_trips_without_a_file() -> None:
    architecture = build("demo")
    found, tensors = describe(architecture.model, "demo", architecture.inputs, False)
    model = rebuild(found, tensors)
    assert not model.training
    state = model.state_dict()
    assert all(torch.equal(state[name], one) for name, one in tensors.items())
    with pytest.raises(ModelUnreadable):
        read_description({}, "tensors.safetensors")


# What fails


def altered(change: Callable[[dict[str, Tensor]], None]) -> Callable[..., bytes]:
    """A writer that puts something else into the file than what is in memory."""
    honest = checkpoint.checkpoint_bytes

    def write(model: nn.Module, architecture: str, info: Any) -> bytes:
        content = honest(model, architecture, info)
        tensors = load(content)
        change(tensors)
        length = int.from_bytes(content[:8], "little")
        return save(tensors, json.loads(content[8 : 8 + length])["__metadata__"])

    return write


DAMAGE: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "one weight": lambda tensors: tensors["stem.conv.weight"][0, 0, 0, 0].add_(0.5),
    "not a number": lambda tensors: tensors["head.fc.bias"][3].fill_(float("nan")),
    "a statistic": lambda tensors: tensors["stage1.block1.bn2.running_mean"].add_(0.1),
}


@in_process
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_computes_something_else_is_not_kept(
    demo: ModelSession,
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"what was there before")
    monkeypatch.setattr(checkpoint, "checkpoint_bytes", altered(DAMAGE[damage]))
    with pytest.raises(ExportFailed, match="differs by"):
        demo.export(str(path), "checkpoint", job)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


@in_process
def test_a_file_cut_short_is_not_kept(
    demo: ModelSession, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = checkpoint.checkpoint_bytes
    monkeypatch.setattr(checkpoint, "checkpoint_bytes", lambda *one: honest(*one)[:-100])
    with pytest.raises(EngineError):
        demo.export(str(tmp_path / "model.safetensors"), "checkpoint", job)
    assert list(tmp_path.iterdir()) == []


@in_process
@pytest.mark.parametrize("target", ["missing/model.safetensors", "folder", "file/model"])
def test_targets_that_cannot_be_written_are_refused(
    demo: ModelSession, job: Job, tmp_path: Path, target: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportFailed, match="could not be written"):
        demo.export(str(tmp_path / target), "checkpoint", job)
    assert sorted(tmp_path.iterdir()) == before
    assert list((tmp_path / "folder").iterdir()) == []
    assert (tmp_path / "file").read_bytes() == b"old"


@in_process
def test_an_export_cancelled_at_any_point_leaves_the_old_file(
    demo: ModelSession, tmp_path: Path, stop_at: type[Job]
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    before = demo.snapshot
    for checks in itertools.count(1):
        try:
            demo.export(str(path), "checkpoint", stop_at(checks))
            break
        except Cancelled:
            assert path.read_bytes() == b"old"
            assert list(tmp_path.iterdir()) == [path]
            assert demo.snapshot == before
    assert checks > 2
    assert open_model(str(path), Job()).fingerprint() == demo.fingerprint()


# In children, as users have it


def test_a_checkpoint_is_reopened_by_a_process_of_its_own(
    demo: ModelSession, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(checkpoint, "reopen", None)  # here nobody can re-open it
    report = edited(demo, ("channels", "integers")).export(str(path), "checkpoint", job)
    assert report.largest_error <= 1e-6 * report.largest_output
    assert open_model(str(path), job).fingerprint() == demo.fingerprint()


def test_a_child_at_work_is_stopped_by_a_cancel(
    demo: ModelSession, tmp_path: Path, stop_at: type[Job]
) -> None:
    # Two checks begin the stages; the third is made while the child starts.
    job = stop_at(3)
    with pytest.raises(Cancelled):
        demo.export(str(tmp_path / "model.safetensors"), "checkpoint", job)
    assert job.text == "Re-opening the file and comparing"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("edits", [(), ("channels",), ("channels", "weights", "integers")])
def test_an_exported_program_computes_the_same_for_any_batch(
    demo: ModelSession, job: Job, tmp_path: Path, edits: tuple[str, ...]
) -> None:
    path = tmp_path / "model.pt2"
    report = edited(demo, edits).export(str(path), "program", job)
    assert report.largest_error <= 1e-4 * report.largest_output
    assert report.bytes == path.stat().st_size
    reopened = torch.export.load(path).module()
    with torch.inference_mode():
        got = reopened(digits().validation.images[:100])
    wanted = outputs(demo)
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.slow
@in_process
def test_programs_hold_the_explicit_operators(demo: ModelSession, job: Job, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    edited(demo, ("integers",)).export(str(path), "program", job)
    exported = torch.export.load(path)
    names = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert sum("quantize_per_tensor.default" in name for name in names) == 2 * 3
    assert sum("dequantize_per_channel" in name for name in names) == 3
    weights = [one for name, one in exported.state_dict.items() if name.endswith("fc.weight")]
    assert [one.dtype for one in weights] == [torch.int8]


@in_process
def test_a_program_that_differs_is_not_kept(
    demo: ModelSession, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child answers with a program of other weights."""

    def make(payload: dict[str, Any]) -> bool:
        other = nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(64, 10)))
        torch.export.save(
            torch.export.export(other, (torch.zeros(1, 1, 8, 8),)), payload["program"]
        )
        return True

    monkeypatch.setattr(program, "make", make)
    with pytest.raises(ExportFailed, match="differs by"):
        demo.export(str(tmp_path / "model.pt2"), "program", job)
    assert list(tmp_path.iterdir()) == []


@in_process
def test_models_that_torch_cannot_export_are_refused_in_words(
    demo: ModelSession, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("graph break\nand more")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ExportFailed, match=r"cannot export this model: graph break$") as caught:
        demo.export(str(tmp_path / "model.pt2"), "program", job)
    assert "checkpoint" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


# Models whose structure came out of a file


class Pair(nn.Module):
    """Looks integers up in a table and weighs them with a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, indices: Tensor, weights: Tensor) -> dict[str, Tensor]:
        found = self.head(self.table(indices) * weights.unsqueeze(-1))
        return {"sum": found.sum(1), "positive": found > 0}


class Listed(nn.Module):
    """Takes images as a list, as detection models do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, images: list[Tensor]) -> Tensor:
        return torch.stack([self.conv(one).mean() for one in images])


def from_a_file(model: nn.Module, *inputs: str) -> ModelSession:
    specs = tuple(map(InputSpec.parse, inputs))
    info = ModelInfo("net", "net.onnx", specs, trained=True)
    return ModelSession(OpenedModel(info, model.eval(), sample_inputs(specs)))


def test_a_checkpoint_needs_an_architecture(job: Job, tmp_path: Path) -> None:
    session = from_a_file(Listed(), "2x3x8x8[]")
    with pytest.raises(ExportFailed, match="structure of net came out of its file") as caught:
        session.export(str(tmp_path / "net.safetensors"), "checkpoint", job)
    assert "Export a program" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


PROGRAMS = {
    "several inputs": (Pair, ("2x3:int64<9", "2x3"), "It takes any batch size."),
    "a batch of one": (Pair, ("1x3:int64<9", "1x3"), "It takes any batch size."),
    "batches of two lengths": (Pair, ("2x3:int64<9", "1x3"), "It takes batches of 2 only."),
    "a list of images": (Listed, ("2x3x8x8[]",), "It takes batches of 2 only."),
}


@in_process
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_of_models_without_an_architecture(job: Job, tmp_path: Path, name: str) -> None:
    make, inputs, note = PROGRAMS[name]
    session = from_a_file(make(), *inputs)
    path = tmp_path / "net.pt2"
    report = session.export(str(path), "program", job)
    assert report.note == note
    assert report.largest_error == 0.0
    assert report.largest_output > 0


@in_process
def test_a_program_is_opened_edited_and_exported_again(
    demo: ModelSession, job: Job, tmp_path: Path
) -> None:
    path = tmp_path / "first.pt2"
    edited(demo, ("channels", "integers")).export(str(path), "program", job)
    request = OpenRequest(str(path), trusted=frozenset({digest_of(path.read_bytes())}))
    again = ModelSession(open_source(request, job))
    with torch.inference_mode():
        images = digits().validation.images[:20]
        assert torch.equal(again._subject(0).model(images), outputs(demo)[:20])
    again.apply(PruneChannels((LayerId("stage1.block0.conv1"),), 0.5), job)
    report = again.export(str(tmp_path / "second.pt2"), "program", job)
    assert report.note == "It takes any batch size."


@in_process
def test_modules_that_cannot_be_handed_over_are_refused_in_words(job: Job, tmp_path: Path) -> None:
    class Local(nn.Linear):
        """Of a class that no other process finds."""

    session = from_a_file(Local(3, 2), "2x3")
    with pytest.raises(ExportFailed, match="cannot be handed to the process"):
        session.export(str(tmp_path / "net.pt2"), "program", job)
