"""Masks from files, and weights that come with masks: the same numbers from every format."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from engine.edits import MaskWeights
from engine.errors import ConsentNeeded, EditRefused
from engine.job import Job
from engine.layers import LayerId
from engine.requests import InputSpec, OpenRequest
from engine.session import ModelSession
from engine.sources.demo import DigitsNet
from engine.sources.opened import OpenedModel
from engine.sources.opening import open_source

CONV, FC = LayerId("stem.conv"), LayerId("head.fc")


@pytest.fixture
def masks(demo: ModelSession) -> dict[str, Tensor]:
    """Masks of two of the demo's layers, by the layers' names."""
    model = demo._subject(0).model
    generator = torch.Generator().manual_seed(1)
    return {
        layer: torch.rand(model.get_submodule(layer).weight.shape, generator=generator) > 0.5
        for layer in (CONV, FC)
    }


def applied(demo: ModelSession, path: Path, *layers: LayerId) -> nn.Module:
    """The demo's network with the masks of that file."""
    demo.apply(MaskWeights(layers or (CONV, FC), str(path)), Job())
    return demo._subject(1).model


def npz(masks: dict[str, Tensor], path: Path) -> None:
    np.savez(path, **{name: one.numpy() for name, one in masks.items()})


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "masks.pt": torch.save,
    "masks.pth": lambda masks, path: torch.save({"state_dict": masks, "epoch": 3}, path),
    "masks.bin": lambda masks, path: torch.save(masks, path, _use_new_zipfile_serialization=False),
    "masks.safetensors": save_file,
    "masks.npz": npz,
}


@pytest.mark.parametrize("file", WRITERS)
def test_every_format_gives_the_same_masks(
    tmp_path: Path, demo: ModelSession, masks: dict[str, Tensor], file: str
) -> None:
    WRITERS[file](masks, tmp_path / file)
    model = applied(demo, tmp_path / file)
    base = demo._subject(0).model
    for layer, mask in masks.items():
        wanted = base.get_submodule(layer).weight * mask
        assert torch.equal(model.get_submodule(layer).weight, wanted)
    tree = demo.snapshot.current.tree
    assert [tree[layer].zeros for layer in masks] == [int((~one).sum()) for one in masks.values()]


NAMES = ("{}", "{}.weight", "{}.weight_mask", "{}_mask", "module.{}.weight")


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_found_by_every_usual_name(
    tmp_path: Path, demo: ModelSession, masks: dict[str, Tensor], name: str
) -> None:
    save_file({name.format(one): mask for one, mask in masks.items()}, tmp_path / "m.safetensors")
    model = applied(demo, tmp_path / "m.safetensors")
    for layer, mask in masks.items():
        assert not model.get_submodule(layer).weight[~mask].any()


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int8, torch.int32, torch.int64, torch.uint16, torch.float16, torch.bfloat16,
     torch.float32, torch.float64, torch.float8_e4m3fn],
    ids=str,
)  # fmt: skip
def test_zeros_and_ones_of_any_type(
    tmp_path: Path, demo: ModelSession, masks: dict[str, Tensor], dtype: torch.dtype
) -> None:
    save_file({FC: masks[FC].to(torch.float32).to(dtype)}, tmp_path / "m.safetensors")
    applied(demo, tmp_path / "m.safetensors", FC)
    assert demo.snapshot.current.tree[FC].zeros == int((~masks[FC]).sum())


def test_a_single_array_is_the_mask_of_a_single_layer(
    tmp_path: Path, demo: ModelSession, masks: dict[str, Tensor]
) -> None:
    np.save(tmp_path / "mask.npy", masks[FC].numpy())
    with pytest.raises(EditRefused, match=r"has no mask for stem\.conv\.weight, head\.fc\.weight"):
        applied(demo, tmp_path / "mask.npy")
    applied(demo, tmp_path / "mask.npy", FC)
    assert demo.snapshot.current.tree[FC].zeros == int((~masks[FC]).sum())


def test_what_prune_saves_is_a_file_of_masks(
    tmp_path: Path, demo: ModelSession, masks: dict[str, Tensor]
) -> None:
    model = DigitsNet()
    for layer, mask in masks.items():
        prune.custom_from_mask(model.get_submodule(layer), "weight", mask)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    applied(demo, tmp_path / "model.pt")
    tree = demo.snapshot.current.tree
    assert [tree[layer].zeros for layer in masks] == [int((~one).sum()) for one in masks.values()]


def test_a_recipe_needs_the_file_no_more(
    tmp_path: Path, demo: ModelSession, masks: dict[str, Tensor], job: Job
) -> None:
    save_file(masks, tmp_path / "m.safetensors")
    applied(demo, tmp_path / "m.safetensors")
    after = demo.fingerprint()
    demo.save_recipe(str(tmp_path / "a.json"), job)
    assert str(tmp_path) not in (tmp_path / "a.json").read_text()
    (tmp_path / "m.safetensors").unlink()
    demo.undo(job)
    demo.apply_recipe(str(tmp_path / "a.json"), job)
    assert demo.fingerprint() == after


class Sign:
    """Unpickled, it leaves a folder behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


def pickled(masks: dict[str, Tensor], path: Path) -> None:
    path.write_bytes(pickle.dumps({FC: Sign(path.parent / "ran")}))


def _raw(content: bytes) -> Callable[[dict[str, Tensor], Path], None]:
    return lambda masks, path: path.write_bytes(content) and None


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor], Path], None], str]] = {
    "no such layer": (lambda masks, path: save_file({"a": masks[FC]}, path), "has no mask for"),
    "one is missing": (
        lambda masks, path: save_file({FC: masks[FC]}, path), r"no mask for stem\.conv\.weight"
    ),
    "another shape": (
        lambda masks, path: save_file({**masks, FC: masks[FC][1:].contiguous()}, path),
        r"The mask of head\.fc\.weight is 9×128, and the weight is 10×128",
    ),
    "halves": (
        lambda masks, path: save_file({**masks, FC: masks[FC] / 2}, path), "more than 0 and 1"
    ),
    "no numbers": (
        lambda masks, path: save_file({**masks, FC: masks[FC] * torch.nan}, path),
        "more than 0 and 1",
    ),
    "complex": (
        lambda masks, path: save_file({**masks, FC: masks[FC].to(torch.complex64) * 1j}, path),
        "more than 0 and 1",
    ),
    "negative": (
        lambda masks, path: save_file({**masks, FC: -masks[FC].to(torch.int8)}, path),
        "more than 0 and 1",
    ),
    "text": (_raw(b"keep all of them\n"), "it is a text file"),
    "nothing": (_raw(b""), "it is empty"),
    "a picture": (_raw(b"\x89PNG\r\n\x1a\n" + bytes(50)), "a picture"),
    "a Python file": (
        lambda masks, path: path.with_suffix(".py").write_text("import os\n") and None,
        "a Python file, not a file of tensors",
    ),
    "a cut array": (
        lambda masks, path: np.save(path.with_suffix(".npy"), masks[FC].numpy()) or _cut(path),
        "another size than its shape says",
    ),
    "objects": (
        lambda masks, path: np.save(
            path.with_suffix(".npy"), np.array([Sign(path.parent / "ran")], object)
        ),
        "holds Python objects",
    ),
    "code in a pickle": (pickled, "more than plain tensors"),
    "code beside masks": (
        lambda masks, path: torch.save({**masks, "a": Sign(path.parent / "ran")}, path),
        "more than plain tensors",
    ),
}  # fmt: skip


def _cut(path: Path) -> None:
    whole = path.with_suffix(".npy").read_bytes()
    path.with_suffix(".npy").write_bytes(whole[:-7])


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_mask_is_refused_in_words(
    tmp_path: Path, demo: ModelSession, masks: dict[str, Tensor], case: str
) -> None:
    make, cause = BROKEN[case]
    make(masks, tmp_path / "masks.pt")
    (path,) = tmp_path.iterdir()
    with pytest.raises(EditRefused, match=cause):
        applied(demo, path)
    assert demo.snapshot.cursor == 0
    assert not (tmp_path / "ran").exists()


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (10, 128)}"
HEADERS = {
    "a terabyte": (GOOD.replace("10", str(1 << 40)), "another size than its shape"),
    "too little": (GOOD.replace("10", "11"), "another size than its shape"),
    "a negative side": (GOOD.replace("10", "-10"), "a broken header"),
    "code": ("__import__('os').mkdir('ran')", "a broken header"),
    "nested": ("(" * 5000, "a broken header"),
    "texts": (GOOD.replace("<f4", "<U1"), "holds no numbers"),
    "too long": (" " * 20_000, "longer than any array's"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_arrays_with_hostile_headers_are_refused(
    tmp_path: Path, demo: ModelSession, case: str
) -> None:
    header, cause = HEADERS[case]
    start = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "mask.npy").write_bytes(start + bytes(10 * 128 * 4))
    with pytest.raises(EditRefused, match=cause):
        applied(demo, tmp_path / "mask.npy", FC)
    (tmp_path / "mask.npy").write_bytes(start[:9])
    with pytest.raises(EditRefused, match="damaged"):
        applied(demo, tmp_path / "mask.npy", FC)


@pytest.mark.parametrize(("path", "cause"), [("", "No file of masks"), ("gone.pt", "no file gone")])
def test_files_that_are_not_there(demo: ModelSession, job: Job, path: str, cause: str) -> None:
    with pytest.raises(EditRefused, match=cause):
        demo.preview(MaskWeights((FC,), path), job)


# -- checkpoints that come with masks


def opened(path: Path, **request: Any) -> OpenedModel:
    return open_source(OpenRequest(str(path), **request), Job())


def masked_demo() -> tuple[nn.Module, dict[str, Tensor]]:
    """The demo's network as torch.nn.utils.prune leaves it, and the weights that it runs with."""
    model = DigitsNet()
    for layer, amount in ((CONV, 0.5), (FC, 0.75)):
        prune.l1_unstructured(model.get_submodule(layer), "weight", amount)
    prune.random_unstructured(model.get_submodule(FC), "bias", 0.5)
    plain = model.state_dict()
    for original in [one for one in plain if one.endswith("_orig")]:
        name = original.removesuffix("_orig")
        plain[name] = plain.pop(f"{name}_orig") * plain.pop(f"{name}_mask")
    return model, plain


def prefixed(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"state_dict": {f"module.{name}": one for name, one in state.items()}}, path)


@pytest.mark.parametrize("write", [torch.save, save_file, npz, prefixed])
def test_weights_that_come_with_masks_open_masked(
    tmp_path: Path, write: Callable[[dict[str, Tensor], Path], None]
) -> None:
    model, plain = masked_demo()
    path = tmp_path / "model.npz"
    write(model.state_dict(), path)
    found = opened(path)
    have = found.model.state_dict()
    assert have.keys() == plain.keys()
    assert all(torch.equal(have[name], one) for name, one in plain.items())
    assert "2 layers came with pruning masks, and what they mask is zero." in found.info.notes
    assert found.info.notes[0] == "This is demo: 50 of 50 tensors match."
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(found.model(x), model.eval()(x))


def test_a_whole_module_with_masks_opens_without_its_hooks(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.random_unstructured(model[0], "weight", 0.5)  # twice: a container of both
    wanted = {"0.weight": model[0].weight.detach().clone(), "2.weight": model[2].weight.detach()}
    path = tmp_path / "model.pt"
    torch.save(model, path)
    with pytest.raises(ConsentNeeded) as caught:
        opened(path)
    allowed = frozenset({caught.value.details["digest"]})
    found = opened(path, trusted=allowed, inputs=(InputSpec((1, 3)),))
    assert not prune.is_pruned(found.model)
    assert all(torch.equal(found.model.state_dict()[name], one) for name, one in wanted.items())
    assert found.info.notes[1] == "1 layer came with pruning masks, and what they mask is zero."
    assert ModelSession(found).snapshot.base.tree[LayerId("0")].zeros == 9


def test_a_factory_that_prunes_opens_without_hooks(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch.nn.utils import prune\n\n"
        "def build():\n    layer = torch.nn.Linear(4, 4)\n"
        "    prune.l1_unstructured(layer, 'weight', 0.5)\n    return layer, (torch.ones(1, 4),)\n"
    )
    text = f"{tmp_path / 'nets.py'}:build"
    with pytest.raises(ConsentNeeded) as caught:
        open_source(OpenRequest(text), Job())
    request = OpenRequest(text, trusted=frozenset({caught.value.details["digest"]}))
    found = open_source(request, Job())
    assert not prune.is_pruned(found.model)
    assert int((found.model.weight == 0).sum()) == 8
    assert any("came with pruning masks" in note for note in found.info.notes)


def test_an_original_without_a_mask_stays_what_it_is(tmp_path: Path) -> None:
    """As spectral norm keeps it."""
    layer = nn.Linear(4, 4)
    state = {"weight_orig": layer.weight.detach(), "weight_u": torch.ones(4), "bias": torch.ones(4)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(Exception, match=r"model holds 3 tensors \(such as weight_orig"):
        opened(tmp_path / "model.pt")
