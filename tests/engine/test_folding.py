"""Batch norms folded away: the same outputs, fewer layers, and where that is impossible."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from engine.batch_norms import folded, is_batch_norm
from engine.editing import Subject, carried_out, look_at
from engine.edits import AppliedEdit, FoldNorms, NormsFolded, PruneChannels, Quantize
from engine.errors import EditRefused, RecipeMismatch
from engine.job import Job
from engine.layers import LayerId
from engine.pruning.folding import NormFolding
from engine.session import ModelSession
from tests.engine.living import alive
from tests.engine.small_networks import (
    SHAPES,
    assert_round_trips,
    decided,
    edited,
    exported,
    layers_for,
    living,
    mobilenet_v2,
    off,
    output,
    resnet18,
)

LAYER = (LayerId("0"),)


def seen(*layers: nn.Module, shape: tuple[int, ...] = (2, 4, 6, 6)) -> Subject:
    model = alive(nn.Sequential(*layers))
    torch.manual_seed(0)
    return look_at(model, (torch.randn(shape, dtype=torch.double),))


def timm_norm(**settings: Any) -> nn.Module:
    norm: nn.Module = pytest.importorskip("timm.layers").BatchNormAct2d(6, **settings)
    return norm


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 6), lambda: nn.BatchNorm1d(6), (3, 4)),
    "1-D": (lambda: nn.Conv1d(4, 6, 3), lambda: nn.BatchNorm1d(6), (2, 4, 8)),
    "2-D": (lambda: nn.Conv2d(4, 6, 3), lambda: nn.BatchNorm2d(6), (2, 4, 6, 6)),
    "no bias": (lambda: nn.Conv2d(4, 6, 3, bias=False), lambda: nn.BatchNorm2d(6), (2, 4, 6, 6)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), lambda: nn.BatchNorm2d(6), (2, 4, 6, 6)),
    "not affine": (
        lambda: nn.Conv2d(4, 6, 3), lambda: nn.BatchNorm2d(6, affine=False, eps=0.1), (2, 4, 6, 6),
    ),
    "3-D": (lambda: nn.Conv3d(4, 6, 2), lambda: nn.BatchNorm3d(6), (2, 4, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), lambda: nn.BatchNorm2d(6), (2, 4, 6, 6)),
    "transposed in groups": (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False),
        lambda: nn.BatchNorm2d(6),
        (2, 4, 6, 6),
    ),
    "transposed 1-D": (
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), lambda: nn.BatchNorm1d(6), (2, 4, 6),
    ),
    "frozen": (lambda: nn.Conv2d(4, 6, 3), lambda: FrozenBatchNorm2d(6), (2, 4, 6, 6)),
    "with an activation": (lambda: nn.Conv2d(4, 6, 3), timm_norm, (2, 4, 6, 6)),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_the_outputs_stay_the_same(pair: str) -> None:
    layer, norm, shape = PAIRS[pair]
    subject = seen(layer(), norm(), shape=shape)
    assert layers_for("fold-norms", subject) == LAYER
    after = edited(FoldNorms(LAYER), subject)
    wanted = output(subject.model, subject)
    assert off(output(after.model, subject), wanted) <= 1e-12
    assert off(output(subject.model[0], subject), wanted) > 1e-3  # type: ignore[index]
    tree = after.tree
    behind = tree[LayerId("1")]
    assert (behind.kind, behind.note) == (type(norm()).__name__, "folded into 0")
    assert (behind.parameters, behind.methods, behind.channels) == (0, (), None)
    before, now = subject.tree[LAYER[0]], tree[LAYER[0]]
    assert (now.kind, now.channels) == (before.kind, before.channels)
    told = {one.layer: one for one in NormFolding().effects(_decision(subject), subject)}
    assert (told[LAYER[0]].before, told[LAYER[0]].after) == (before.parameters, now.parameters)
    assert told[LayerId("1")].before == subject.tree[LayerId("1")].parameters


def _decision(subject: Subject) -> NormsFolded:
    return NormFolding().decide(FoldNorms(LAYER), subject, Job())


def test_numbers_by_hand() -> None:
    layer, norm = nn.Linear(1, 2), nn.BatchNorm1d(2, eps=0.0)
    layer.weight.data, layer.bias.data = torch.tensor([[3.0], [1.0]]), torch.tensor([1.0, 2.0])
    norm.running_mean, norm.running_var = torch.tensor([5.0, 2.0]), torch.tensor([4.0, 0.25])
    norm.weight.data, norm.bias.data = torch.tensor([10.0, 1.0]), torch.tensor([0.5, 0.0])
    weight, bias = folded(layer, norm)
    assert weight.tolist() == [[15.0], [2.0]]  # by 10 / 2 and by 1 / 0.5
    assert bias is not None
    assert bias.tolist() == [(1 - 5) * 5 + 0.5, 0.0]


def test_what_a_norm_of_timm_does_behind_stays() -> None:
    subject = seen(nn.Conv2d(4, 6, 3), timm_norm())
    after = edited(FoldNorms(LAYER), subject)
    assert after.tree[LayerId("1.act")].kind == "ReLU"
    assert not (output(after.model, subject) < 0).any()
    assert (output(after.model[0], subject) < 0).any()  # type: ignore[index]


def test_quantizing_keeps_it_too() -> None:
    """Folding is one: what quantizing takes in, it takes in so."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), timm_norm(), nn.Conv2d(6, 2, 1)).eval()
    subject = look_at(model, (torch.randn(2, 4, 6, 6),))
    after = edited(Quantize(LAYER), subject)
    assert after.tree[LayerId("1")].note == "folded into 0"
    assert off(output(after.model, subject), output(model, subject)) < 0.05


@pytest.mark.parametrize("make", [resnet18, mobilenet_v2])
def test_every_norm_of_a_network(
    make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = living(make)
    layers = layers_for("fold-norms", subject)
    norms = [one for one in subject.model.modules() if is_batch_norm(one)]
    assert len(layers) == len(norms)
    applied = decided(FoldNorms(layers), subject)
    after = assert_round_trips(subject, [applied], make, monkeypatch, tmp_path)
    assert off(output(after.model, subject), output(subject.model, subject)) <= 1e-10
    assert not any(is_batch_norm(one) for one in after.model.modules())
    assert layers_for("fold-norms", after) == ()
    assert off(exported(after), output(after.model, subject)) < 1e-10


def test_frozen_norms_of_a_backbone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As detection models have them, in every block."""

    def make() -> nn.Module:
        from torchvision import models

        return models.ResNet(
            models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5, norm_layer=FrozenBatchNorm2d
        )

    monkeypatch.setitem(SHAPES, make, (1, 3, 32, 32))
    subject = living(make)
    layers = layers_for("fold-norms", subject)
    assert len(layers) == 12
    applied = decided(FoldNorms(layers), subject)
    after = assert_round_trips(subject, [applied], make, monkeypatch, tmp_path)
    assert off(output(after.model, subject), output(subject.model, subject)) <= 1e-10


def test_folding_before_and_behind_other_edits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = living(mobilenet_v2, torch.float32)
    edits = [
        FoldNorms((LayerId("features.2.conv.0.0"),)),
        PruneChannels(
            (LayerId("features.2.conv.0.0"), LayerId("features.3.conv.0.0")), 0.5, multiple=1
        ),
        FoldNorms((LayerId("features.3.conv.0.0"),)),
        Quantize((LayerId("features.3.conv.0.0"), LayerId("features.4.conv.0.0"))),
    ]
    applied, state = [], subject
    for edit in edits:
        applied.append(decided(edit, state))
        state = carried_out(applied[-1], state)
    assert_round_trips(subject, applied, mobilenet_v2, monkeypatch, tmp_path)


def test_the_session_tells_and_undoes(session_of: Callable[..., ModelSession], job: Job) -> None:
    session = session_of(resnet18(), *SHAPES[resnet18])
    edit = FoldNorms((LayerId("layer1.0.conv1"),))
    effect = session.preview(edit, job)
    assert [(one.role, one.before, one.after) for one in effect.layers] == [
        ("chosen", 36864, 36864 + 64),
        ("folded", 128, 0),
    ]
    assert any("no scale to choose channels by" in note for note in effect.notes)
    after = session.apply(edit, job).snapshot.current.table
    assert effect.after == {key: after[key].total.value for key in effect.after}
    prints = session.fingerprint(0), session.fingerprint()
    session.undo(job)
    assert session.fingerprint() == prints[0]
    session.redo(job)
    assert session.fingerprint() == prints[1]


# Refusals


class Shared(nn.Module):
    """A layer that runs twice, with a norm for each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[0](self.conv(x)) + self.norms[1](self.conv(-x))


class OwnNorm(nn.BatchNorm2d):
    """May compute something else."""


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)),
        (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)),
        (nn.Conv2d(4, 6, 3), OwnNorm(6)),
        (nn.Conv2d(4, 6, 3), nn.InstanceNorm2d(6)),
        (nn.Conv2d(4, 6, 3),),
    ],
    ids=str,
)
def test_layers_without_a_norm_behind_are_refused(layers: tuple[nn.Module, ...]) -> None:
    subject = seen(*layers)
    assert layers_for("fold-norms", subject) == ()
    with pytest.raises(EditRefused, match="No batch norm can be folded into 0"):
        _decision(subject)


def test_a_shared_layer_is_refused() -> None:
    subject = look_at(Shared().eval(), (torch.randn(1, 4, 6, 6),))
    assert layers_for("fold-norms", subject) == ()


def test_other_layers_are_refused() -> None:
    subject = seen(nn.ReLU(), nn.BatchNorm2d(4))
    with pytest.raises(EditRefused, match=r"0 \(ReLU\) cannot take a batch norm in"):
        _decision(subject)


def test_integer_weights_are_refused() -> None:
    subject = living(resnet18, torch.float32)
    layer = (LayerId("layer1.0.conv1"),)
    after = edited(Quantize(layer), subject)
    with pytest.raises(EditRefused, match="a batch norm is folded before that"):
        edited(FoldNorms(layer), after)


@pytest.mark.parametrize("pair", [("0", "0"), ("1", "1"), ("1", "0"), ("2", "1")])
def test_decisions_for_other_models_do_not_fit(pair: tuple[str, str]) -> None:
    subject = seen(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    wrong = NormsFolded(((LayerId(pair[0]), LayerId(pair[1])),))
    with pytest.raises(RecipeMismatch, match="cannot be folded into"):
        carried_out(AppliedEdit(FoldNorms(LAYER), wrong), subject)


def test_the_given_model_keeps_its_tensors() -> None:
    subject = seen(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    before = {name: one.clone() for name, one in subject.model.state_dict().items()}
    edited(FoldNorms(LAYER), subject)
    after = subject.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], one) for name, one in before.items())
