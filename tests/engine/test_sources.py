"""Opening models: by name, by path, and everything a path may turn out to be."""

import contextlib
import json
import os
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from engine.edits import PruneChannels, Quantize
from engine.errors import ConsentNeeded, EngineError, ForwardFailed, ModelNotFound, ModelUnreadable
from engine.job import Job
from engine.layers import LayerId
from engine.requests import InputSpec, OpenRequest
from engine.session import ModelSession, open_model
from engine.sources.architectures import build
from engine.sources.description import KEY, describe, to_metadata
from engine.sources.opened import OpenedModel
from engine.sources.opening import open_source


def read(source: str) -> OpenedModel:
    return open_source(OpenRequest(source), Job())


# -- by name


def test_the_demo_takes_other_inputs() -> None:
    inputs = (InputSpec((4, 1, 8, 8)),)
    opened = open_source(OpenRequest("demo", inputs), Job())
    assert opened.info.inputs == inputs
    assert [tuple(one.shape) for one in opened.inputs] == [(4, 1, 8, 8)]


def test_the_demo_is_trained_and_brings_its_data() -> None:
    opened = read("demo")
    assert opened.info.trained
    assert (opened.info.source, opened.data, opened.architecture) == ("demo", "digits", "demo")
    assert opened.info.input_shape == (1, 1, 8, 8)
    assert [tuple(one.shape) for one in opened.inputs] == [(1, 1, 8, 8)]
    assert not opened.model.training


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("squeezenet1_1", 224),
        ("mobilenet_v3_small", 224),
        ("resnet50", 224),
        ("efficientnet_b3", 300),
        ("inception_v3", 299),
        ("vit_b_16", 224),
        ("lraspp_mobilenet_v3_large", 520),
    ],
)
def test_torchvision_models_take_their_published_input(name: str, size: int) -> None:
    opened = read(name)
    assert (opened.info.name, opened.info.source) == (name, f"torchvision:{name}")
    assert opened.info.input_shape == (1, 3, size, size)
    assert not opened.info.trained
    assert not opened.data


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_parameters_are_as_many_as_torchvision_publishes(name: str) -> None:
    from torchvision import models

    published = models.get_model_weights(name).DEFAULT.meta["num_params"]
    assert sum(one.numel() for one in read(name).model.parameters()) == published


def test_random_weights_are_the_same_every_time_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = read("squeezenet1_1").model.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = read("torchvision:squeezenet1_1").model.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_structure_without_weights_takes_no_memory_even_where_torch_needs_values() -> None:
    """RegNets read their widths from tensors while they are built."""
    for name in ("squeezenet1_1", "regnet_y_400mf"):
        model = build(name, "meta").model
        assert {one.device.type for one in model.state_dict().values()} == {"meta"}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet51", "resnet50"),
        ("ResNet50", "resnet50"),
        ("resnet-50", "resnet50"),
        ("mobilnet_v2", "mobilenet_v2"),
        ("dmeo", "demo"),
        ("torchvision:vgg17", "vgg16"),
        ("qwertzuiop", None),
        (" ", None),
        ("x" * 10_000, None),
        ("nul\0", None),
    ],
)
def test_unknown_names_are_answered_with_near_ones(name: str, near: str | None) -> None:
    with pytest.raises(ModelNotFound) as caught:
        read(name)
    message = str(caught.value)
    assert f"“{name.removeprefix('torchvision:')}”" in message
    assert ("Did you mean" in message) == (near is not None)
    assert near is None or near in message


# -- by path


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("torchvision:mobilenet_v2(inverted_residual_setting=[[1, 16, 10000000, 1]])", "far more"),
        ("demo\n<b>", r"“demo\\n<b>”, and there is no such"),
        ("de\nmo.py:build", r"“de\\nmo.py:build”, and there is no such"),
        ("d" * 5000, "no name of one"),
    ],
)
def test_an_architecture_named_by_a_file_builds_no_more_than_its_tensors_need(
    parts: tuple[dict[str, Tensor], dict[str, Any]], tmp_path: Path, source: str, cause: str
) -> None:
    tensors, description = parts
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(tensors, {KEY: json.dumps({**description, "source": source})}))
    with pytest.raises(ModelUnreadable, match=cause):
        read(str(path))


@pytest.fixture(scope="module")
def parts() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a whole checkpoint; each test alters its own copy."""
    description, tensors = describe(
        build("demo").model, "demo", (InputSpec((1, 1, 8, 8)),), trained=True
    )
    return tensors, json.loads(to_metadata(description)[KEY])


@pytest.fixture
def checkpoint(tmp_path: Path, parts: tuple[dict[str, Tensor], dict[str, Any]]) -> Any:
    """Write a checkpoint, whole but for what is given."""

    def write(tensors: Any = None, text: str | None = None, **changes: Any) -> Path:
        stored, description = dict(parts[0]), {**parts[1], **changes}
        stored.update(tensors or {})
        stored = {name: one for name, one in stored.items() if one is not None}
        path = tmp_path / "model.safetensors"
        content = json.dumps(description) if text is None else text
        path.write_bytes(save(stored, {KEY: content}))
        return path

    return write


def refused(path: Path | str, kind: type[EngineError] = ModelUnreadable) -> str:
    with pytest.raises(EngineError) as caught:
        read(str(path))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_checkpoint_opens_with_every_bit(checkpoint: Any, parts: Any) -> None:
    opened = read(str(checkpoint()))
    assert opened.info.name == "model"
    assert opened.info.trained
    assert opened.data == "digits"
    state = opened.model.state_dict()
    assert state.keys() == parts[0].keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in parts[0].items())


def test_edited_models_come_back_with_every_bit(
    demo: ModelSession, job: Job, tmp_path: Path
) -> None:
    demo.apply(PruneChannels((LayerId("stage1.block0.conv2"),), 0.3), job)
    demo.apply(Quantize((LayerId("stem.conv"), LayerId("head.fc")), calibration_samples=32), job)
    path = tmp_path / "edited.safetensors"
    demo.export(str(path), "checkpoint", job)
    assert open_model(str(path), job).fingerprint() == demo.fingerprint()


def test_models_of_torchvision_come_back_with_every_bit(job: Job, tmp_path: Path) -> None:
    session = open_model("squeezenet1_1", job)
    session.apply(PruneChannels((LayerId("features.3.squeeze"),), 0.25), job)
    path = tmp_path / "edited.safetensors"
    session.export(str(path), "checkpoint", job)
    opened = open_model(str(path), job)
    assert opened.fingerprint() == session.fingerprint()
    assert not opened.snapshot.model.trained


def test_layouts_with_a_version_come_back(job: Job, tmp_path: Path) -> None:
    """MNASNet refuses tensors that do not say which version of its layout they are in."""
    session = open_model("mnasnet0_5", job)
    path = tmp_path / "mnasnet.safetensors"
    session.export(str(path), "checkpoint", job)
    assert open_model(str(path), job).fingerprint() == session.fingerprint()


@pytest.mark.parametrize("padding", range(0, 300, 7))
def test_a_header_of_any_length_is_taken_for_a_header(
    checkpoint: Any, parts: Any, padding: int
) -> None:
    """Every 32nd length begins with the byte that a pickle begins with."""
    read(str(checkpoint(text=json.dumps(parts[1]) + " " * padding)))


def test_paths_without_a_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing.safetensors"
    assert refused(missing, ModelNotFound) == f"There is no file {missing}."
    assert refused("weights.pth", ModelNotFound) == "There is no file weights.pth."
    assert refused("some/where", ModelNotFound) == "There is no file some/where."
    assert "There is no file" in refused(tmp_path / ("x" * 10_000), ModelNotFound)


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.sign),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_nothing_in_a_pickle_is_executed(tmp_path: Path, protocol: int, suffix: str) -> None:
    path, sign = tmp_path / f"model{suffix}", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Bomb(sign), protocol))
    assert "posix.mkdir" in refused(path, ConsentNeeded)
    assert not sign.exists()
    pickle.loads(path.read_bytes())
    assert sign.exists(), "the bomb works"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"\0" * 100, "zeros only"),
        (b"{}", "a JSON file"),
        (b"\x02\0\0\0\0\0\0\0{}", "no tensors"),
        (b"\x03\0\0\0\0\0\0\0{} ", "no tensors"),
        (b"\x02\0\0\0\0\0\0\0[]", "that of no model file"),
        (b"\x02\0\0\0\0\0\0\0{", "cut short"),
        (b"\xff" * 8 + b"{}", "cut short"),
        (struct.pack("<Q", 1 << 62) + b"{}", "cut short"),
        (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "its header is no JSON"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    message = refused(path)
    assert message.startswith("model.safetensors")
    assert cause in message


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.safetensors")
    assert "not a regular file" in refused(tmp_path / "fifo.safetensors")
    assert "not a regular file" in refused("/dev/zero")
    assert "a folder" in refused(tmp_path)
    assert refused("/") == "/ cannot be opened: it is a folder, not a regular file."
    (tmp_path / "dangling.safetensors").symlink_to("nowhere")
    assert "a link that leads nowhere" in refused(tmp_path / "dangling.safetensors")
    (tmp_path / "loop").symlink_to("loop")
    assert "a link that leads back to itself" in refused(tmp_path / "loop")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="one of Linux's odd files")
def test_a_file_that_gives_an_error_when_read() -> None:
    assert "mem cannot be opened: Input/output error" in refused("/proc/self/mem")


def test_every_way_of_cutting_it_short_is_noticed(checkpoint: Any, tmp_path: Path) -> None:
    whole = checkpoint().read_bytes()
    path = tmp_path / "cut.safetensors"
    header = 8 + int.from_bytes(whole[:8], "little")
    for size in (0, 1, 7, 8, 9, 100, header - 1, header, header + 1, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert refused(path).startswith("cut.safetensors")


@pytest.fixture(scope="module")
def flipped(
    parts: tuple[dict[str, Tensor], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, Path]:
    """A whole checkpoint, and a path for damaged ones."""
    whole = save(parts[0], {KEY: json.dumps(parts[1])})
    return whole, tmp_path_factory.mktemp("flipped") / "flipped.safetensors"


@given(st.data())
@settings(max_examples=200)
def test_one_flipped_bit_in_the_header_gives_the_model_or_one_error(
    flipped: tuple[bytes, Path], data: st.DataObject
) -> None:
    """No bit of the header makes anything else happen than opening or refusing in words."""
    damaged = bytearray(flipped[0])
    header = 8 + int.from_bytes(damaged[:8], "little")
    at = data.draw(st.integers(0, header - 1) | st.integers(0, 16))
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    flipped[1].write_bytes(damaged)
    with contextlib.suppress(EngineError):
        open_model(str(flipped[1]), Job())


def test_tensors_without_our_description_are_known_by_their_shapes(
    tmp_path: Path, parts: Any
) -> None:
    path = tmp_path / "plain.safetensors"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(save(parts[0], metadata))
        opened = read(str(path))
        assert opened.architecture == "demo"
        assert opened.info.notes == (
            f"This is demo: {len(parts[0])} of {len(parts[0])} tensors match.",
        )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ("[]", "should be an object"),
        ("{}", "version: Field required"),
        ('{"version": 3}', "source: Field required"),
        ('{"version": "1"}', "version"),
        ('{"version": NaN}', "version"),
        ('{"version": 2, "unheard": "of"}', "another version of Secateur (format 2)"),
    ],
)
def test_descriptions_that_are_none(checkpoint: Any, text: str, cause: str) -> None:
    message = refused(checkpoint(text=text))
    assert message.startswith("model.safetensors")
    assert cause in message


def conv(**structure: Any) -> dict[str, Any]:
    return {"layers": {"stem.conv": {"structure": structure}}}


INTEGERS = {"bits": 8, "symmetric": True, "granularity": "channel"}
GRID = {"bits": 8, "scale": 0.1, "zero_point": 0, "symmetric": False}


def integers(layer: str = "head.fc", structure: Any = None, **changes: Any) -> dict[str, Any]:
    described = {"integers": {**INTEGERS, "input": GRID, **changes}, "bias": True}
    return {"layers": {layer: {**described, "structure": structure or {}}}}


def grid(**changes: Any) -> dict[str, Any]:
    return integers(input={**GRID, **changes})


def both(*fields: str) -> dict[str, Any]:
    found = {"integers": {**INTEGERS, "input": GRID}, "dtype": "float16", "explicit": True}
    return {"layers": {"head.fc": {name: found[name] for name in fields}}}


def operators(**changes: Any) -> dict[str, Any]:
    """Of a residual block, which adds once."""
    one = {"name": "add", "inputs": [GRID, GRID], **changes}
    return {"layers": {"stage1.block0": {"operators": [one]}}}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"version": 7}, "another version"),
        ({"unheard": "of"}, "unheard"),
        ({"source": "demo2"}, "“demo2”"),
        ({"source": "/etc/passwd"}, "“/etc/passwd”"),
        ({"source": "fasterrcnn_resnet50_fpn"}, "backbone.body.conv1.weight is missing"),
        ({"source": "squeezenet1_1"}, "features.0.weight is missing"),
        ({"source": 3}, "source"),
        ({"trained": "yes"}, "trained"),
        ({"inputs": "1x1x8x8"}, "inputs"),
        ({"inputs": ["1x-1x8x8"]}, "“1x-1x8x8” is no input"),
        ({"inputs": ["0x1x8x8"]}, "a side of length zero"),
        ({"inputs": ["1x1x8x8:object"]}, "no type “object”"),
        ({"inputs": ["1x1x1000000x1000000"]}, "too large"),
        ({"inputs": ["1" + "0" * 30]}, "too large"),
        ({"layers": {"nowhere": {"structure": {"out_channels": 3}}}}, "nowhere"),
        ({"layers": {"stem.conv": {"unheard": "of"}}}, "layers.stem.conv.unheard"),
        (conv(kernel_size=3), "stem.conv has no kernel_size"),
        (conv(forward=3), "stem.conv has no forward"),
        (conv(out_features=3), "out_features"),
        (conv(out_channels=[32, 32]), "stem.conv has no out_channels of that kind"),
        (conv(out_channels="32"), "out_channels"),
        (conv(out_channels=31), "stem.conv.weight has shape (32, 1, 3, 3), not (31, 1, 3, 3)"),
        (conv(out_channels=-3), "out_channels"),
        (conv(groups=0), "groups"),
        (conv(in_channels=10**12), "not (32, 1000000000000, 3, 3)"),
        (conv(in_channels=10**9, out_channels=10**10), "overflow"),
        (conv(in_channels=10**30), "do not fit"),
        ({"layers": {"stem.bn": {"structure": {"num_features": 10**12}}}}, "stem.bn.weight"),
        ({"parameters": {"stem.conv.weight": [10**6, 10**6]}}, "stem.conv.weight"),
        ({"parameters": {"stem.conv.nothing": [1]}}, "nothing"),
        ({"parameters": {"stem.conv.forward": [1]}}, "forward"),
        ({"parameters": {"training": [1]}}, "training"),
        ({"parameters": {"stem": [1]}}, "stem"),
        ({"tied": {"head.fc.weight": "nowhere"}}, "head.fc.weight is tied to nowhere"),
        ({"tied": {"head.fc.weight": "head.fc.bias"}}, "head.fc.weight has shape (10,)"),
        ({"tied": {"nowhere": "head.fc.bias"}}, "nowhere belongs to no layer"),
        (grid(scale="nan"), "input.scale"),
        (grid(scale=float("nan")), "input.scale"),
        (grid(scale=float("inf")), "input.scale"),
        (grid(scale=-1.0), "input.scale"),
        (grid(scale=1e-300), "input.scale"),
        (grid(zero_point=128), "128 is no integer of 8 bits"),
        (grid(zero_point=-(10**30)), "is no integer of 8 bits"),
        (grid(bits=16, zero_point=2**15), "32768 is no integer of 16 bits"),
        (grid(symmetric="no"), "input.symmetric"),
        (grid(bits=4), "input.bits"),
        (integers(bits=1), "integers.bits"),
        (integers(bits=17), "integers.bits"),
        (integers(bits=True), "integers.bits"),
        (integers(granularity="row"), "integers.granularity"),
        (integers(group_size=4), "groups have a size, and nothing else has"),
        (integers(granularity="group"), "groups have a size, and nothing else has"),
        (integers(granularity="group", group_size=-4), "integers.group_size"),
        (integers(granularity="group", group_size=7), "rows of 128 have no groups of 7"),
        (integers(granularity="group", group_size=10**30), "have no groups of"),
        (integers(), "head.fc.weight holds torch.float32, not torch.int8"),
        (integers(bits=16), "head.fc.weight holds torch.float32, not torch.int16"),
        (integers(bits=4), "head.fc.weight has shape (10, 128), not (640,)"),
        (integers(bits=9), "head.fc.weight has shape (10, 128), not (1440,)"),
        (integers(structure={"in_features": 10**12}), "not (10, 1000000000000)"),
        (integers(structure={"out_features": 10**12}), "not (1000000000000,)"),
        ({"layers": {"stem.conv": {"folded_into": "head.fc"}}}, "stem.conv cannot be folded"),
        ({"layers": {"": {"folded_into": "head.fc"}}}, "the model cannot be folded"),
        ({"layers": {"stem.bn": {"folded_into": "nowhere"}}}, "nowhere"),
        ({"layers": {"stem.bn": {"folded_into": "stem.conv"}}}, "stem.bn.bias belongs to no layer"),
        (integers("stem.relu"), "stem.relu (ReLU) cannot hold integer weights"),
        ({"layers": {"stem.conv": {"dtype": "float64"}}}, "layers.stem.conv.dtype"),
        ({"layers": {"stem.conv": {"dtype": "float16"}}}, "float32, not torch.float16"),
        ({"layers": {"stem.relu": {"dtype": "float16"}}}, "stem.relu (ReLU) cannot be in float16"),
        (both("integers", "dtype"), "head.fc is described in two ways"),
        (both("integers", "explicit"), "head.fc is described in two ways"),
        ({"layers": {"head.fc": {"explicit": True}}}, "head.fc is no attention that can call"),
        ({"layers": {"head.fc": {"explicit": False}}}, "layers.head.fc.explicit"),
        (operators(name="mul"), "operators.0.name"),
        (operators(inputs=[GRID]), "operators.0.inputs"),
        (operators(inputs=[GRID, {**GRID, "zero_point": 200}]), "200 is no integer of 8 bits"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused_by_name(
    checkpoint: Any, changes: dict[str, Any], cause: str
) -> None:
    assert cause in refused(checkpoint(**changes))


def test_sizes_that_a_file_only_claims_cost_no_memory(checkpoint: Any) -> None:
    """No tensor made while refusing has more elements than the file has bytes."""
    path = checkpoint(**conv(in_channels=10**6))
    made = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.device.type != "meta":
                made.append(out.numel())
            return out

    with Watching():
        refused(path)
    assert 0 < max(made) <= path.stat().st_size


@pytest.mark.parametrize(
    ("tensors", "cause"),
    [
        ({"head.fc.bias": None}, "head.fc.bias is missing"),
        ({"extra": torch.zeros(2)}, "extra belongs to no layer"),
        ({"head.fc.bias": torch.zeros(11)}, "head.fc.bias has shape (11,), not (10,)"),
        ({"head.fc.bias": torch.zeros(10, dtype=torch.int32)}, "head.fc.bias holds torch.int32"),
        ({"head.fc.bias": torch.zeros(10, dtype=torch.half)}, "head.fc.bias holds torch.float16"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    checkpoint: Any, tensors: dict[str, Any], cause: str
) -> None:
    assert cause in refused(checkpoint(tensors))


def test_a_model_that_does_not_run_on_its_described_input(checkpoint: Any, job: Job) -> None:
    path = checkpoint(inputs=["1x3x8x8"])
    with pytest.raises(ForwardFailed, match=r"stem\.conv on an input of 1×3×8×8"):
        open_model(str(path), job)


def test_operators_that_a_layer_does_not_call_are_refused(checkpoint: Any, job: Job) -> None:
    open_model(str(checkpoint(**operators())), job)
    path = checkpoint(**operators(name="matmul"))
    with pytest.raises(ForwardFailed, match="adds or multiplies activations otherwise"):
        open_model(str(path), job)


def test_an_opened_model_does_not_depend_on_its_file(tmp_path: Path) -> None:
    """Its tensors must not be mapped onto a file that others may write or cut short."""
    path = tmp_path / "model.safetensors"
    session = open_model("demo", Job())
    session.export(str(path), "checkpoint", Job())
    opened = open_model(str(path), Job())
    before = opened.fingerprint()
    content = bytearray(path.read_bytes())
    content[-4000:] = bytes(4000)
    with path.open("r+b") as file:
        file.write(content)
    assert opened.fingerprint() == before


def test_a_folder_does_not_hide_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeezenet1_1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read("squeezenet1_1").info.source == "torchvision:squeezenet1_1"
