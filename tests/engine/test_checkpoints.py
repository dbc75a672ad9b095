"""Files of tensors to models: every format, the same numbers."""

import argparse
import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.errors import (
    ArchitectureNeeded,
    ConsentNeeded,
    EngineError,
    InputsNeeded,
    ModelUnreadable,
)
from engine.job import Job
from engine.requests import InputSpec, OpenRequest
from engine.sources.demo import DigitsNet
from engine.sources.files import torch_files
from engine.sources.files.pickles import scan_pickle
from engine.sources.opened import OpenedModel
from engine.sources.opening import open_source

INPUT = (InputSpec((1, 3)),)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A trained-looking state dict of the demo's network."""
    model = DigitsNet()
    for buffer in model.buffers():
        buffer.copy_(torch.rand(buffer.shape) * 9 + 1)
    return {name: one.detach() for name, one in model.state_dict().items()}


def opened(path: Path, **request: Any) -> OpenedModel:
    return open_source(OpenRequest(str(path), **request), Job())


def same(found: OpenedModel, state: dict[str, Tensor]) -> bool:
    have = found.model.state_dict()
    return have.keys() == state.keys() and all(torch.equal(have[one], state[one]) for one in state)


def writes_npz(state: dict[str, Tensor], path: Path, how: Callable[..., None] = np.savez) -> None:
    how(path, **{name: one.numpy() for name, one in state.items()})


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "safetensors": save_file,
    "archive": torch.save,
    "legacy": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "npz": writes_npz,
    "packed npz": lambda state, path: writes_npz(state, path, np.savez_compressed),
    "ordered": lambda state, path: torch.save(OrderedDict(state), path),
    "parameters": lambda state, path: torch.save(
        {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()}, path
    ),
    "nested": lambda state, path: torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path
    ),
}


@pytest.mark.parametrize("way", WRITERS)
def test_every_format_gives_the_same_numbers(
    tmp_path: Path, state: dict[str, Tensor], way: str
) -> None:
    path = tmp_path / ("weights.npz" if "npz" in way else "weights.bin")
    WRITERS[way](state, path)
    found = opened(path)
    assert same(found, state)
    assert found.architecture == "demo"
    assert found.data == "digits"
    assert (found.info.name, found.info.source) == ("weights", str(path))
    assert found.info.trained
    assert found.info.task == "classification"
    assert found.info.notes[0] == "This is demo: 50 of 50 tensors match."
    assert not found.model.training
    assert [tuple(one.shape) for one in found.inputs] == [(1, 1, 8, 8)]


def test_what_a_training_script_keeps_beside_is_noted(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    other = {name: one * 2 for name, one in state.items()}
    value = {"model": state, "ema": other, "optimizer": {"state": {0: torch.zeros(2)}}, "epoch": 1}
    torch.save(value, tmp_path / "weights.pt")
    found = opened(tmp_path / "weights.pt")
    assert same(found, state)
    assert "Opened its “model”; it also holds tensors under ema." in found.info.notes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_opened_as_float32(
    tmp_path: Path, state: dict[str, Tensor], dtype: torch.dtype
) -> None:
    other = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(other, tmp_path / "weights.pt")
    found = opened(tmp_path / "weights.pt")
    assert same(found, {name: one.to(state[name].dtype) for name, one in other.items()})
    name = str(dtype).removeprefix("torch.")
    assert f"Its {name} numbers are opened as float32." in found.info.notes


def test_tensors_that_share_their_numbers_become_their_own(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    flat = torch.cat([one.flatten() for one in state.values() if one.is_floating_point()])
    views, at = {}, 0
    for name, one in state.items():
        views[name] = one
        if one.is_floating_point():
            views[name] = flat[at : at + one.numel()].view(one.shape)
            at += one.numel()
    torch.save(views, tmp_path / "weights.pt")
    found = opened(tmp_path / "weights.pt")
    assert same(found, state)
    places = [one.untyped_storage().data_ptr() for one in found.model.state_dict().values()]
    assert len(set(places)) == len(places)


def test_weights_of_the_catalogue_bring_what_is_known_of_it(tmp_path: Path) -> None:
    from torchvision import models

    model = models.squeezenet1_1(num_classes=5)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    found = opened(tmp_path / "weights.pth")
    assert same(found, model.state_dict())
    assert found.architecture == "torchvision:squeezenet1_1(num_classes=5)"
    assert found.info.inputs == (InputSpec((1, 3, 224, 224)),)
    assert found.info.preprocessing is not None
    assert "It tells 5 classes apart." in found.info.notes


def test_other_inputs_than_the_architectures(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "weights.pt")
    found = opened(tmp_path / "weights.pt", inputs=(InputSpec((4, 1, 16, 16)),))
    assert [tuple(one.shape) for one in found.inputs] == [(4, 1, 16, 16)]


def test_tensors_of_nothing_known(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ArchitectureNeeded, match="weights holds 1 tensors"):
        opened(tmp_path / "weights.safetensors")


# -- shards


def sharded(folder: Path, state: dict[str, Tensor]) -> Path:
    names = list(state)
    places = {}
    for number, some in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in some}, folder / file)
        places.update(dict.fromkeys(some, file))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_shards_become_one_model(tmp_path: Path, state: dict[str, Tensor]) -> None:
    found = opened(sharded(tmp_path, state))
    assert same(found, state)
    assert "It is in 2 shards." in found.info.notes


def test_shards_behind_links_into_one_other_folder(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    """As a cache keeps them: every name is a link to a blob."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for number, path in enumerate(sorted(sharded(blobs, state).parent.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    assert same(opened(snapshot / "model.safetensors.index.json"), state)


def test_one_shard_says_where_the_whole_is(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "model-00001-of-00001.safetensors"
    save_file(state, path)
    note = "It is one shard of several; open model.safetensors.index.json for the whole."
    assert note in opened(path).info.notes


# -- Chainer


def chainers(state: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    """The names that chainer.serializers.save_npz gives."""
    roles = {
        "running_mean": "avg_mean",
        "running_var": "avg_var",
        "num_batches_tracked": "N",
    }
    arrays = {}
    for name, one in state.items():
        layer, _, role = name.rpartition(".")
        norm = f"{layer}.running_mean" in state
        plain = {"weight": "gamma", "bias": "beta"} if norm else {"weight": "W", "bias": "b"}
        role = {**roles, **plain}[role]
        arrays[f"{prefix}{layer.replace('.', '/')}/{role}"] = one.numpy()
    return arrays


@pytest.mark.parametrize("prefix", ["", "predictor/", "updater/model:main/predictor/"])
def test_chainers_names_become_torchs(
    tmp_path: Path, state: dict[str, Tensor], prefix: str
) -> None:
    arrays = chainers(state, prefix)
    if prefix.startswith("updater"):
        arrays["updater/optimizer:main/t"] = np.array(7)
        arrays["updater/optimizer:main/predictor/stem/conv/W/v"] = np.zeros(3)
        arrays["_snapshot"] = np.array("text")
    np.savez_compressed(tmp_path / "snapshot.npz", **arrays)
    found = opened(tmp_path / "snapshot.npz")
    assert same(found, state)
    assert "A snapshot of Chainer's." in found.info.notes
    assert any("2e-5" in note for note in found.info.notes)
    assert any("updater/optimizer:main/t" in note for note in found.info.notes) == (
        prefix.startswith("updater")
    )


def test_arrays_of_the_other_byte_order_and_memory_order(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    arrays = {
        name: one.numpy().astype(one.numpy().dtype.newbyteorder(">"), order="F")
        for name, one in state.items()
    }
    np.savez(tmp_path / "weights.npz", **arrays)
    assert same(opened(tmp_path / "weights.npz"), state)


# -- what needs consent


def allowed(path: Path, **request: Any) -> OpenedModel:
    with pytest.raises(ConsentNeeded) as caught:
        opened(path, **request)
    digest = caught.value.details["digest"]
    return opened(path, trusted=frozenset({digest}), **request)


@pytest.mark.parametrize("new", [True, False])
def test_a_whole_module_opens_after_consent_with_inputs(tmp_path: Path, new: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    path = tmp_path / "model.pt"
    torch.save(nn.DataParallel(model), path, _use_new_zipfile_serialization=new)
    with pytest.raises(ConsentNeeded) as caught:
        opened(path)
    assert "torch.nn.modules.linear.Linear" in caught.value.details["runs"]
    assert caught.value.details["what"] == "model.pt"
    trusted = frozenset({caught.value.details["digest"]})
    with pytest.raises(InputsNeeded, match=r"Nothing in model\.pt says") as needed:
        opened(path, trusted=trusted)
    assert needed.value.details["inputs"] == ["1x3"]
    found = opened(path, trusted=trusted, inputs=INPUT)
    assert torch.equal(found.model(torch.ones(1, 3)), model(torch.ones(1, 3)))
    assert found.info.notes == ("The file holds the whole model, of class Sequential.",)
    assert found.architecture == ""


def test_another_object_beside_the_tensors_needs_consent(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, path)
    assert same(allowed(path), state)


def test_a_newer_pickle_protocol_needs_consent(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "model.pt"
    torch.save(state, path, pickle_protocol=4)
    assert same(allowed(path), state)


def test_a_pickle_of_arrays(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({name: one.numpy() for name, one in state.items()}))
    assert same(allowed(path), state)


def test_a_class_that_is_not_here(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    out = io.BytesIO()
    torch.save(nn.Linear(2, 2), out)
    name = b"torch.nn.modules.linear"
    path.write_bytes(_renamed(out.getvalue(), name, b"missing_package_of_mine"))
    with pytest.raises(ModelUnreadable, match=r"needs code that is not here: No module named"):
        allowed(path)


def _renamed(whole: bytes, old: bytes, new: bytes) -> bytes:
    """The archive with other text in its members, whole again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as before, zipfile.ZipFile(out, "w") as after:
        for member in before.infolist():
            after.writestr(member.filename, before.read(member).replace(old, new))
    return out.getvalue()


def test_a_file_that_was_changed_since_it_was_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 2), path)

    def change(*_: Any) -> None:
        torch.save(nn.Linear(2, 3), path)

    monkeypatch.setattr(torch_files, "run_in_child", change)
    with pytest.raises(ModelUnreadable, match="was changed since it was allowed"):
        allowed(path)


def test_consent_to_one_file_is_none_to_another(tmp_path: Path) -> None:
    for name, size in (("a", 2), ("b", 3)):
        torch.save(nn.Linear(size, size), tmp_path / name)
    digests = []
    for name in ("a", "b"):
        with pytest.raises(ConsentNeeded) as caught:
            opened(tmp_path / name)
        digests.append(caught.value.details["digest"])
    with pytest.raises(ConsentNeeded):
        opened(tmp_path / "b", trusted=frozenset({digests[0]}))


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ({"a": torch.zeros(3).expand(9, 3)}, "spreads 12 bytes to 108 bytes"),
        ({"a": torch.zeros(3), "b": [1]}, "holds 1 tensors"),
    ],
)
def test_files_without_code_are_judged_without_consent(
    tmp_path: Path, value: Any, cause: str
) -> None:
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(EngineError, match=re.escape(cause)) as caught:
        opened(tmp_path / "model.pt")
    assert not isinstance(caught.value, ConsentNeeded)


# -- pickles, followed without running them


def test_a_scan_sees_what_torch_loads(state: dict[str, Tensor]) -> None:
    value = {
        "state_dict": OrderedDict(state),
        "shape": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "lr": 0.1,
        "name": "x",
        "big": 1 << 80,
        "none": None,
        "flags": [True, (1, 2, 3, 4)],
        "raw": b"\x00\xff",
        "complex": 1j,
    }
    out = io.BytesIO()
    torch.save(value, out)
    scan = scan_pickle(zipfile.ZipFile(out).read("archive/data.pkl"))
    assert (scan.runs, scan.unsafe, scan.odd) == ((), "", ())
    tensors = scan.value["state_dict"]
    assert tensors.keys() == state.keys()
    for name, one in state.items():
        assert tensors[name].shape == tuple(one.shape)
        assert tensors[name].strides == one.stride()
        assert tensors[name].dtype == str(one.dtype).removeprefix("torch.")
    for name in ("lr", "name", "big", "none", "flags", "raw"):
        assert scan.value[name] == value[name]
    assert scan.value["shape"] == (1, 2)
