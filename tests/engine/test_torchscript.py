"""TorchScript: nothing runs unasked, and its code comes back as layers that compute the same."""

import copy
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.edits import PruneChannels, Quantize
from engine.errors import ConsentNeeded, InputsNeeded, ModelUnreadable
from engine.job import Job
from engine.layers import LayerId
from engine.lazy import resolve
from engine.requests import InputSpec, OpenRequest
from engine.session import ModelSession
from engine.sources import opened as opened_models
from engine.sources.files.archives import read_archive
from engine.sources.graphs import torchscript
from engine.sources.graphs.blocks import Block
from engine.sources.graphs.torchscript import open_torchscript
from engine.sources.opened import OpenedModel, digest_of


@pytest.fixture(autouse=True)
def _children_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child would do is done here, in a hundredth of the time."""

    def run(function: str, payload: Any, job: Job) -> Any:
        job.check()
        return resolve(function)(json.loads(json.dumps(payload)))

    monkeypatch.setattr(opened_models, "run_in_child", run)


def saved(model: nn.Module, *example: Any) -> bytes:
    """The archive that ``torch.jit.save`` writes: traced on the example, scripted without one."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; its files are still about
        made = torch.jit.trace(model, example) if example else torch.jit.script(model)
        torch.jit.save(made, buffer)
    return buffer.getvalue()


def opened(path: Path, content: bytes, *inputs: str) -> OpenedModel:
    """The archive, opened by somebody who trusts it."""
    path.write_bytes(content)
    specs = tuple(map(InputSpec.parse, inputs))
    trusted = frozenset({digest_of(content)})
    return open_torchscript(path, OpenRequest(str(path), specs, trusted=trusted), Job())


class Residual(nn.Module):
    """Layers, an addition, and a size that decides a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True))
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.norm = nn.LayerNorm(32)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.pool(x + self.second(x))
        x = x.view(x.size(0), x.size(1) * 4)
        return self.head(self.drop(self.norm(x)))


WAYS: dict[str, Callable[[nn.Module], bytes]] = {
    "traced": lambda model: saved(model, torch.randn(2, 3, 8, 8)),
    "scripted": lambda model: saved(model),
}


@pytest.mark.parametrize("way", WAYS)
def test_layers_come_back_with_their_shapes_and_work(way: str, tmp_path: Path) -> None:
    model = Residual().eval()
    again = opened(tmp_path / "model.pt", WAYS[way](model), "1x3x8x8")
    assert again.info.notes == (
        "Rebuilt from the file; its outputs on the sample input are the same, bit by bit.",
    )
    info = ModelSession(again).snapshot.current
    wanted = ModelSession(OpenedModel(again.info, model, again.inputs)).snapshot.current
    layers = {one.id: one for one in wanted.tree}
    assert {one.id: one for one in info.tree} == layers
    for key, series in wanted.table.items():
        assert info.table[key].total == series.total
    images = torch.randn(3, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(again.model(images), model(images))


@pytest.mark.parametrize("way", WAYS)
def test_it_is_pruned_and_quantized_like_the_model(way: str, tmp_path: Path, job: Job) -> None:
    model = Residual().eval()
    again = opened(tmp_path / "model.pt", WAYS[way](model), "1x3x8x8")
    session = ModelSession(again)
    session.apply(Quantize((LayerId("first.0"), LayerId("head"))), job)
    current = session.snapshot.current.tree
    assert [current[name].weight_bits for name in ("first.0", "second", "head")] == [8, 32, 8]
    plain = ModelSession(OpenedModel(again.info, model, again.inputs))
    outcomes = []
    for one in (ModelSession(again), plain):
        one.apply(PruneChannels((LayerId("second"),), 0.5), job)
        outcomes.append(one.snapshot.current.tree["second"].channels)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("way", WAYS)
def test_it_is_exported_for_any_batch(way: str, tmp_path: Path) -> None:
    model = Residual().eval()
    again = opened(tmp_path / "model.pt", WAYS[way](model), "2x3x8x8")
    free = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(again.model, again.inputs, dynamic_shapes=free)
    images = torch.randn(5, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(program.module()(images), model(images))


class Looping(nn.Module):
    """Loops, branches, lists, dictionaries and functions, none of which a trace has."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 3
        self.lift = nn.Linear(4, 4)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> dict[str, Tensor]:
        parts: list[Tensor] = []
        for step in range(self.steps):
            x = _grown(self.lift(x), step) * self.scale
            parts.append(x)
        if bias is not None:
            x = x + bias
        if x.dim() != 2:
            raise ValueError(f"expected two sides, got {x.dim()}")
        count = 0
        while count < len(parts) - 1:
            x = x - parts[count]
            count += 1
        return {"sum": torch.cat(parts, 1).sum(1), "last": x[:, -2:]}


def _grown(x: Tensor, step: int) -> Tensor:
    return x.relu() + step if step % 2 == 0 else x


def test_code_with_loops_and_branches_is_kept(tmp_path: Path) -> None:
    model = Looping().eval()
    again = opened(tmp_path / "model.pt", saved(model), "2x4")
    x, bias = torch.randn(5, 4), torch.randn(4)
    with torch.inference_mode():
        for given in ((x,), (x, bias)):
            got, wanted = again.model(*given), model(*given)
            assert got.keys() == wanted.keys()
            assert all(torch.equal(got[key], wanted[key]) for key in wanted)
    assert type(again.model.lift) is nn.Linear
    copied = copy.deepcopy(again.model)
    assert isinstance(copied, Block)
    with torch.inference_mode():
        assert torch.equal(copied(x)["sum"], model(x)["sum"])
    with pytest.raises(RuntimeError, match="expected two sides, got 3"):
        again.model(torch.randn(1, 5, 4))
    tree = ModelSession(again).snapshot.current.tree
    assert [one.kind for one in tree] == ["Looping", "Linear"]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.layer(self.layer(x)))


@pytest.mark.parametrize("way", [(), (torch.zeros(1, 4),)], ids=["scripted", "traced"])
def test_layers_called_twice_and_tied_weights_stay_so(way: tuple[Any, ...], tmp_path: Path) -> None:
    model = Twice().eval()
    again = opened(tmp_path / "model.pt", saved(model, *way), "2x4")
    assert type(again.model.layer) is nn.Linear
    assert again.model.other.weight is again.model.layer.weight
    x = torch.randn(2, 4)
    assert torch.equal(again.model(x), model(x))


# What does not open


def test_the_inputs_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputsNeeded, match="does not say what shapes") as caught:
        opened(tmp_path / "model.pt", saved(Residual().eval()))
    assert caught.value.details["inputs"] == ["1x3x224x224"]
    with pytest.raises(InputsNeeded) as caught:
        opened(tmp_path / "model.pt", saved(nn.Sequential(nn.Embedding(50, 8)).eval()))
    assert caught.value.details["inputs"] == ["1x128:int64<50"]
    with pytest.raises(ModelUnreadable, match="does not run on inputs of 1×5×8×8"):
        opened(tmp_path / "model.pt", saved(Residual().eval()), "1x5x8x8")


def test_nothing_is_compiled_before_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(saved(Residual().eval()))
    monkeypatch.setattr(torchscript, "_opened", None)
    with pytest.raises(ConsentNeeded, match="TorchScript is code") as caught:
        open_torchscript(path, OpenRequest(str(path)), Job())
    assert "__torch__.torch.nn.modules.conv" in caught.value.details["runs"]
    assert caught.value.details["digest"] == digest_of(path.read_bytes())


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


def test_code_that_cannot_be_written_out_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match="prim::SetAttr") as caught:
        opened(tmp_path / "model.pt", saved(Counter()), "2x3")
    assert "torch.export" in caught.value.remedy


def test_broken_archives_are_refused_in_words(tmp_path: Path) -> None:
    content = saved(nn.Sequential(nn.Linear(4, 3)).eval())
    path = tmp_path / "model.pt"
    with pytest.raises(ModelUnreadable, match="cut short"):
        opened(path, content[:-50], "2x4")
    path.write_bytes(content)
    for member in read_archive(path).members.values():
        damaged = bytearray(content)
        damaged[member.start + member.packed // 2] ^= 8
        with pytest.raises(ModelUnreadable, match="damaged"):
            opened(path, bytes(damaged), "2x4")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t", "googlenet"])
@pytest.mark.parametrize("way", ["traced", "scripted"])
def test_torchvision_networks_come_back_as_layers(name: str, way: str, tmp_path: Path) -> None:
    from torchvision import models

    settings = {"init_weights": False} if name == "googlenet" else {}
    model = models.get_model(name, weights=None, **settings).eval()
    example = (torch.randn(1, 3, 64, 64),) if way == "traced" else ()
    again = opened(tmp_path / "model.pt", saved(model, *example), "1x3x64x64")
    tree = ModelSession(again).snapshot.current.tree
    assert sum(one.parameters for one in tree) == sum(one.numel() for one in model.parameters())
    kinds = {one.id: one.kind for one in tree}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and path in kinds and "aux" not in path:
            assert kinds[path] == type(module).__name__
