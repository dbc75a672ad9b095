"""Fine-tuning: what it trains, what it leaves, and that it can stop and go on anywhere."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import engine
from engine.datasets import DataSet, LazySplit, Split
from engine.editing import Subject, look_at
from engine.edits import FineTune, PruneChannels, PruneWeights, Quantize, Retrained
from engine.errors import DataSetUnreadable, EditRefused
from engine.job import Cancelled, Job
from engine.layers import ROOT, LayerId
from engine.metrics import ACCURACY, Quantity
from engine.recovery import checkpoints
from engine.recovery.held_out import parted
from engine.recovery.training import Training, distillation_loss
from engine.recovery.tuning import Tuning
from engine.requests import OpenRequest
from engine.session import ModelSession, open_model
from engine.sharing import restored_tensor
from engine.sources.opening import open_source
from engine.state import TuningProgress

HEAD, STEM = LayerId("head.fc"), LayerId("stem.conv")
REPOSITORY = Path(engine.__file__).resolve().parent.parent
QUICK = FineTune((ROOT,), epochs=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trainings are kept here, and not among the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "secateur" / "tuning"


def few(count: int = 200, classes: int = 3, shape: tuple[int, ...] = (6,)) -> DataSet:
    """Points around as many centres as there are classes."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(classes, *shape, generator=generator)
    labels = torch.arange(count) % classes
    points = centres[labels] + 0.3 * torch.randn(count, *shape, generator=generator)
    split = Split(points, labels)
    return DataSet("toy", tuple("abcdefgh"[:classes]), split, split, "a toy")


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def subject_of(model: nn.Module, data: DataSet | None, shape: tuple[int, ...] = (6,)) -> Subject:
    return look_at(model.eval(), (torch.zeros(2, *shape),), data)


def tuned(edit: FineTune, subject: Subject) -> dict[str, Tensor]:
    """The tensors that a fine-tuning changed."""
    tuning = Tuning(edit, subject, Job())
    while tuning.step(Job()):
        pass
    return tensors_of(tuning)


def tensors_of(tuning: Tuning) -> dict[str, Tensor]:
    decision = tuning.finish().decision
    assert isinstance(decision, Retrained)
    tuning.discard()
    return {one.name: restored_tensor(one) for one in decision.tensors}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def accuracy(session: ModelSession) -> float:
    return session.evaluate(Job()).snapshot.current.table[ACCURACY.key].total.value


# What it does


def test_it_wins_back_what_pruning_cost(demo: ModelSession) -> None:
    layers = ("stem.conv", "stage1.block0.conv1", "stage1.block1.conv1", "stage2.pointwise.conv")
    demo.apply(PruneChannels(tuple(map(LayerId, layers)), 0.6), Job())
    before, job = accuracy(demo), Job()
    change = demo.apply(FineTune((ROOT,), epochs=2), job)
    assert before < 0.7
    assert accuracy(demo) > 0.95
    assert isinstance(job.partial, TuningProgress)
    assert job.partial.best == 2
    assert job.partial.epoch == job.partial.epochs == 2
    assert STEM in change.layers
    assert not demo.snapshot.before_recovery


def test_the_first_steps_are_torchs_own() -> None:
    """Against a plain loop over the same batches, written down here."""
    data, edit = few(), replace(QUICK, epochs=2, learning_rate=0.05, weight_decay=0.01)
    subject = subject_of(small(), data)
    training = Training(edit, subject)
    model = small().train()
    heavy, light = [model[0].weight, model[3].weight], [
        model[0].bias, model[1].weight, model[1].bias, model[3].bias,
    ]  # fmt: skip
    optimizer = torch.optim.SGD(
        [{"params": heavy, "weight_decay": 0.01}, {"params": light}],
        lr=0.05, momentum=0.9, nesterov=True,
    )  # fmt: skip
    samples, _ = parted(data, edit)
    images, labels = samples.images, samples.labels  # type: ignore[attr-defined]
    steps = 2 * training.batches
    while not training.done:
        at = training.standing
        number = at.epochs * training.batches + at.batch
        places = training._places(at.epochs)[at.batch]
        trains = len(at.accuracies) > at.epochs
        training.advance()
        if not trains:
            continue
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.5 * (1 + np.cos(np.pi * number / steps))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[places]), labels[places]).backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(training._changing()[name].detach(), tensor)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_same_seed_gives_the_same_bits(optimizer: Any, schedule: Any) -> None:
    edit = replace(QUICK, optimizer=optimizer, schedule=schedule, seed=3)
    subject = subject_of(nn.Sequential(small(), nn.Dropout(0.2)), few())
    once = tuned(edit, subject)
    torch.rand(5)  # whatever else draws
    assert same(once, tuned(edit, subject))
    assert not same(once, tuned(replace(edit, seed=4), subject))


def test_others_who_draw_are_not_disturbed() -> None:
    subject = subject_of(nn.Sequential(small(), nn.Dropout(0.2)), few())
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    tuned(QUICK, subject)
    assert torch.equal(torch.rand(3), wanted)


def test_nothing_of_the_state_is_written() -> None:
    model = small()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    asks = [one.requires_grad for one in model.parameters()]
    tuned(QUICK, subject_of(model, few()))
    assert same(before, model.state_dict())
    assert not any(module.training for module in model.modules())
    assert [one.requires_grad for one in model.parameters()] == asks
    assert all(one.grad is None for one in model.parameters())


def test_only_the_chosen_layers_train() -> None:
    found = tuned(FineTune((LayerId("3"),), epochs=1), subject_of(small(), few()))
    assert set(found) == {"3.weight", "3.bias"}, "the batch norm keeps its statistics too"


def test_frozen_parameters_stay_unless_all_are() -> None:
    model = small()
    model[0].weight.requires_grad = False
    assert "0.weight" not in tuned(QUICK, subject_of(model, few()))
    for one in model.parameters():
        one.requires_grad = False
    assert "0.weight" in tuned(QUICK, subject_of(model, few()))


def test_tied_weights_train_as_one() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    assert set(tuned(QUICK, subject_of(model, few(classes=6)))) == {"0.weight", "0.bias", "2.bias"}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masks_are_kept(demo: ModelSession, optimizer: Any) -> None:
    """Momentum and weight decay would bring zeros back to life."""
    layers = tuple(one.id for one in demo.snapshot.base.tree if "prune-weights" in one.methods)
    demo.apply(PruneWeights(layers, 0.8), Job())
    before = {one.id: one.zeros for one in demo.snapshot.current.tree}
    demo.apply(FineTune((ROOT,), epochs=1, optimizer=optimizer, learning_rate=0.001), Job())
    after = {one.id: one.zeros for one in demo.snapshot.current.tree}
    assert after == before
    assert demo.snapshot.history[-1].edit != demo.snapshot.history[0].edit
    assert demo.fingerprint(2) != demo.fingerprint(1)


def test_biases_and_scales_do_not_decay() -> None:
    """Of a loss without gradient only decay is left: on weights, and on nothing else."""
    training = Training(replace(QUICK, weight_decay=0.3), subject_of(small(), few()))
    decays = {
        id(one): group["weight_decay"]
        for group in training._optimizer.param_groups
        for one in group["params"]
    }
    for name, one in training._trained.items():
        assert decays[id(one)] == (0.3 if name in ("0.weight", "3.weight") else 0.0)


class Steps(nn.Module):
    """What it puts out jumps: nothing before it learns."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_nothing_left_to_train_is_refused_in_words(demo: ModelSession) -> None:
    model = nn.Sequential(nn.Linear(6, 6), Steps(), nn.Linear(6, 3))
    with pytest.raises(EditRefused, match="no gradient reaches the chosen layers"):
        Training(replace(QUICK, layers=(LayerId("0"),)), subject_of(model, few()))
    with pytest.raises(EditRefused, match="no weights that could be trained"):
        demo.apply(FineTune((LayerId("stem.relu"),), epochs=1), Job())


# Which weights are kept


def test_samples_held_out_are_a_tenth_and_never_trained_on() -> None:
    data = few(200)
    rest, held = parted(data, QUICK)
    images = [{tuple(one.tolist()) for one in part.images} for part in (rest, held)]  # type: ignore[attr-defined]
    assert (len(rest), len(held)) == (180, 20)
    assert not images[0] & images[1]
    assert len(parted(few(2), QUICK)[1]) == 1
    assert len(parted(few(30_000), QUICK)[1]) == 2_000
    other = parted(data, replace(QUICK, seed=1))[1]
    assert {tuple(one.tolist()) for one in other.images} != images[1]  # type: ignore[attr-defined]


class Rising(Training):
    """A training that is told what it is judged by."""

    told: tuple[tuple[float, float | None], ...] = ()

    def _file(self, accuracy: Quantity, loss: float | None) -> None:
        accuracy_, loss = self.told[len(self.standing.accuracies)]
        super()._file(Quantity(accuracy_), loss)


@pytest.mark.parametrize(
    ("told", "best"),
    [
        ((0.5, 1.0, 0.7, 1.0, 0.9, 1.0, 0.8, 1.0), 2),
        ((0.5, 1.0, 0.4, 0.1, 0.3, 0.1, 0.2, 0.1), 0),
        ((0.5, 1.0, 0.5, 0.9, 0.5, 0.8, 0.5, 0.85), 2),
        ((0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0), 0),
        ((0.5, 1.0, 0.9, None, 0.6, 1.0, 0.5, 1.0), 2),
        ((0.5, None, 0.5, 9.0, 0.5, 9.0, 0.5, 9.0), 1),
    ],
)
def test_the_best_epoch_counts_the_start_too(told: tuple[Any, ...], best: int) -> None:
    """More accurate, or as accurate at less loss; the earlier of equals."""
    training = Rising(replace(QUICK, epochs=3), subject_of(small(), few()))
    training.told = tuple(zip(told[::2], told[1::2], strict=True))
    kept: dict[int, dict[str, Tensor]] = {0: {}}
    while not training.done:
        training.advance()
        at = training.standing
        if at.batch == 0:
            kept.setdefault(
                at.epochs, {n: o.detach().clone() for n, o in training._changing().items()}
            )
    assert training.standing.best == best
    assert same(training.best(), kept[best])


def test_weights_that_never_got_better_are_those_before(demo: ModelSession) -> None:
    change = demo.apply(FineTune((ROOT,), epochs=1, learning_rate=3.0), Job())
    assert demo.fingerprint(1) == demo.fingerprint(0)
    assert change.layers == frozenset()
    (applied,) = demo._edits
    assert isinstance(applied.decision, Retrained)
    assert applied.decision.told == "1 epoch, held-out accuracy 100.0 % before and never better"


def test_what_came_of_it_is_told() -> None:
    tuning = Tuning(replace(QUICK, epochs=3), subject_of(small(), few()), Job())
    job = Job()
    while tuning.step(job):
        pass
    decision = tuning.finish().decision
    assert isinstance(decision, Retrained)
    at = tuning.progress
    shares = [f"{100 * one.value:.1f} %" for _, one in at.accuracies]
    assert at.accuracies[at.best][1].value > at.accuracies[0][1].value
    assert decision.told == (
        f"3 epochs, held-out accuracy {shares[0]} → {shares[at.best]}, best after epoch {at.best}"
    )
    assert job.text.startswith(f"Fine-tuning: epoch 3 of 3, loss {at.losses[-1][1]:.3g}, ")
    assert job.text.endswith(f"held-out accuracy {shares[-1]}")
    assert job.fraction == 1
    assert job.partial == at
    assert [epoch for epoch, _ in at.accuracies] == [0, 1, 2, 3]
    assert [epoch for epoch, _ in at.losses] == sorted({epoch for epoch, _ in at.losses})
    assert at.losses[-1][0] == 3


def test_less_loss_at_the_same_accuracy_is_told_as_such() -> None:
    tuning = Tuning(replace(QUICK, epochs=2), subject_of(small(), few()), Job())
    tuning._training = rising = Rising(tuning.edit, subject_of(small(), few()))
    rising.told = ((0.5, 1.0), (0.5, 0.9), (0.4, 0.1))
    while tuning.step(Job()):
        pass
    decision = tuning.finish().decision
    assert isinstance(decision, Retrained)
    expected = "2 epochs, held-out accuracy 50.0 % as before, at the least loss after epoch 1"
    assert decision.told == expected


# Distillation


def test_distillation_is_the_published_loss() -> None:
    """By numpy from Hinton et al.: T^2 times the divergence of softened distributions."""
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    softened = []
    for one in (student, teacher):
        powers = np.exp(one.numpy() / 3)
        softened.append(powers / powers.sum(1, keepdims=True))
    expected = 9 * (softened[1] * np.log(softened[1] / softened[0])).sum(1).mean()
    assert float(distillation_loss(student, teacher, 3.0)) == pytest.approx(expected)
    pixels = distillation_loss(student.T[None], teacher.T[None], 3.0)  # (1, classes, pixels)
    assert float(pixels) == pytest.approx(expected)
    assert float(distillation_loss(teacher, teacher, 3.0)) == pytest.approx(0, abs=1e-12)


def test_the_base_model_teaches_alone_if_asked_to() -> None:
    """Labels that are nonsense do no harm then: the student comes to agree with its teacher."""
    teacher, data = small(1), few(400)
    images, labels = data.training.images, data.training.labels  # type: ignore[attr-defined]
    nonsense = replace(data, training=Split(images, (labels + 1) % 3))
    subject = replace(subject_of(small(2), nonsense), base=teacher.eval())
    training = Training(
        replace(QUICK, epochs=20, distillation=1.0, learning_rate=0.1, schedule="constant"), subject
    )
    with torch.no_grad():
        wanted = teacher(images).softmax(1)
        before = (small(2).eval()(images).softmax(1) - wanted).abs().mean()
    while not training.done:
        training.advance()
    with torch.no_grad():
        after = (training._model.eval()(images).softmax(1) - wanted).abs().mean()
    assert after < before / 4


# Slices


def test_slices_of_any_length_give_the_same_bits() -> None:
    subject, edit = subject_of(small(), few()), replace(QUICK, epochs=2)
    whole = tuned(edit, subject)
    tuning = Tuning(edit, subject, Job())
    slices = 1
    while tuning.step(Job(), seconds=0):
        slices += 1
    assert slices == tuning._training.work[1] + 3, "one batch each, and the end of three judgings"
    assert same(tensors_of(tuning), whole)


def test_a_slice_ends_in_time() -> None:
    data = few(30_000)
    tuning = Tuning(replace(QUICK, epochs=50), subject_of(small(), data), Job())
    start = time.perf_counter()
    assert tuning.step(Job(), seconds=0.2)
    assert 0.2 <= time.perf_counter() - start < 2
    assert 0 <= tuning.progress.epoch < 50
    tuning.discard()


def test_it_can_be_finished_at_any_time_with_the_best_so_far() -> None:
    subject = subject_of(small(), few())
    tuning = Tuning(replace(QUICK, epochs=9, schedule="constant"), subject, Job())
    assert tensors_of(tuning) == {}
    while len(tuning.progress.accuracies) < 3:
        tuning.step(Job(), seconds=0)
    tuning.step(Job(), seconds=0)
    best = tuning.progress.best
    assert best in (1, 2)
    assert same(tensors_of(tuning), tuned(replace(tuning.edit, epochs=best), subject))


def test_a_session_tunes_in_slices_and_goes_on_serving(demo: ModelSession, cache: Path) -> None:
    demo.apply(PruneWeights((STEM,), 0.5), Job())
    reference = open_model("demo", Job())
    reference.apply(PruneWeights((STEM,), 0.5), Job())
    reference.apply(QUICK, Job())
    before, bits = demo.snapshot, demo.fingerprint()
    tuning = demo.start_tuning(QUICK, Job())
    while tuning.step(Job(), seconds=0):
        assert demo.fingerprint() == bits
    assert demo.snapshot == before
    change = demo.commit_tuning(tuning, Job())
    assert change.snapshot.cursor == 2
    assert demo.fingerprint() == reference.fingerprint()
    assert demo._edits[-1] == reference._edits[-1]
    assert not list(cache.iterdir())


def test_another_state_does_not_take_its_weights(demo: ModelSession) -> None:
    tuning = demo.start_tuning(QUICK, Job())
    tuning.step(Job())
    demo.apply(PruneWeights((STEM,), 0.5), Job())
    before = demo.snapshot
    with pytest.raises(EditRefused, match="edited since the training started"):
        demo.commit_tuning(tuning, Job())
    assert demo.snapshot == before
    with pytest.raises(EditRefused, match="edited since"):
        open_model("demo", Job()).commit_tuning(tuning, Job())
    demo.undo(Job())
    assert demo.commit_tuning(tuning, Job()).snapshot.cursor == 1


def test_cancelled_between_batches_it_is_whole(stop_at: type[Job]) -> None:
    subject, edit = subject_of(small(), few()), replace(QUICK, epochs=2)
    whole = tuned(edit, subject)
    tuning = Tuning(edit, subject, Job())
    for _ in range(4):
        with pytest.raises(Cancelled):
            tuning.step(stop_at(3))  # type: ignore[call-arg]
    while tuning.step(Job()):
        pass
    assert same(tensors_of(tuning), whole)


# After a crash

DIES = """
import os, torch
torch.set_num_threads(1)
from engine.edits import FineTune, PruneWeights, Quantize
from engine.job import Job
from engine.layers import ROOT, LayerId
from engine.session import open_model
session = open_model("demo", Job())
session.apply(PruneWeights((LayerId("stem.conv"),), 0.5), Job())
layers = LayerId("stem.conv"), LayerId("stage2.pointwise.conv")
session.apply(Quantize(layers, weight_bits=3, calibration_samples=32), Job())
for optimizer, until, paused in (("sgd", 1.3, False), ("adamw", 1.3, True), ("adamw", 2.0, True)):
    edit = FineTune((ROOT,), epochs=3, optimizer=optimizer, seed=round(10 * until))
    made = session.start_tuning(edit, Job())
    while made.progress.epoch < until:
        made.step(Job(), seconds=0)
    if paused:
        made.pause()
os._exit(9)
"""


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What trainings in a process that died have kept."""
    folder = tmp_path_factory.mktemp("cache")
    died = subprocess.run(
        [sys.executable, "-c", DIES],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        check=False,
    )
    assert died.returncode == 9, died.stderr.decode()
    return folder / "secateur" / "tuning"


@pytest.mark.parametrize(
    ("optimizer", "until", "went_on_at"),
    [("sgd", 1.3, 1.0), ("adamw", 1.3, 1 + 6 / 19), ("adamw", 2.0, 2.0)],
)
def test_a_training_that_was_killed_goes_on_and_ends_with_the_same_bits(
    demo: ModelSession,
    cache: Path,
    left_behind: Path,
    optimizer: Any,
    until: float,
    went_on_at: float,
) -> None:
    shutil.copytree(left_behind, cache)
    edit = FineTune((ROOT,), epochs=3, optimizer=optimizer, seed=round(10 * until))
    demo.apply(PruneWeights((STEM,), 0.5), Job())
    layers = STEM, LayerId("stage2.pointwise.conv")
    demo.apply(Quantize(layers, weight_bits=3, calibration_samples=32), Job())
    resumed = demo.start_tuning(edit, Job())
    assert resumed.resumed
    assert resumed.progress.epoch == pytest.approx(went_on_at)
    while resumed.step(Job()):
        pass
    assert not resumed.problem
    found = tensors_of(resumed)
    assert len(list(cache.iterdir())) == 2, "it is done, and nothing of it is kept"
    fresh = demo.start_tuning(edit, Job())
    assert not fresh.resumed
    while fresh.step(Job()):
        pass
    assert fresh.progress == resumed.progress
    assert same(found, tensors_of(fresh))
    assert found["stem.conv.weight"].dtype is torch.int8


def kept_half() -> tuple[FineTune, Subject]:
    """A training that was paused in its second epoch."""
    edit, subject = replace(QUICK, epochs=3), subject_of(small(), few())
    tuning = Tuning(edit, subject, Job())
    while tuning.progress.epoch < 1.5:
        tuning.step(Job(), seconds=0)
    tuning.pause()
    return edit, subject


def test_only_the_same_training_goes_on(cache: Path) -> None:
    edit, subject = kept_half()
    assert Tuning(edit, subject, Job()).resumed
    assert not Tuning(replace(edit, seed=1), subject, Job()).resumed
    assert not Tuning(edit, subject_of(small(3), few()), Job()).resumed
    assert not Tuning(edit, subject_of(small(), few(150)), Job()).resumed


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_file_is_none(cache: Path, damage: str) -> None:
    edit, subject = kept_half()
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "other":  # of the right key, of other tensors
        content = bytearray(content.replace(b'"now.0.bias"', b'"now.9.bias"'))
    file.write_bytes(
        {"cut": content[:-9], "flipped": b"\xff" + content[1:], "empty": b"", "other": content}[
            damage
        ]
    )
    tuning = Tuning(edit, subject, Job())
    assert not tuning.resumed
    assert tuning.progress.epoch == 0
    while tuning.step(Job()):
        pass
    found = tensors_of(tuning)
    assert same(found, tuned(edit, subject))


def test_a_full_disk_costs_no_more_than_the_resuming(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    edit, subject = replace(QUICK, epochs=2), subject_of(small(), few())
    tuning = Tuning(edit, subject, Job())
    while tuning.step(Job()):
        pass
    assert "would start anew" in tuning.problem
    found = tensors_of(tuning)
    cache.unlink()
    assert same(found, tuned(edit, subject))


def test_trainings_that_nobody_went_on_with_are_dropped(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    old, newer, newest = (cache / f"{name}.safetensors" for name in "abc")
    for file, days in ((old, checkpoints.KEPT_DAYS + 1), (newer, 2), (newest, 1)):
        file.write_bytes(bytes(100))
        os.utime(file, (time.time() - days * 86_400,) * 2)
    tuning = Tuning(QUICK, subject_of(small(), few()), Job())
    assert set(cache.iterdir()) == {newer, newest}
    monkeypatch.setattr(checkpoints, "KEPT_BYTES", 150)
    Tuning(QUICK, subject_of(small(), few()), Job())
    assert set(cache.iterdir()) == {newest}
    tuning.discard()


def test_writing_takes_no_more_than_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = Tuning(replace(QUICK, epochs=30), subject_of(small(), few()), Job())
    written = []

    def slow(*_: Any) -> None:
        written.append(time.perf_counter())
        time.sleep(0.02)

    monkeypatch.setattr(checkpoints.Checkpoint, "write", slow)
    start = time.perf_counter()
    while tuning.step(Job()):
        pass
    assert 1 <= len(written) <= 1 + (time.perf_counter() - start) / 0.2


def test_any_whole_number_is_a_seed() -> None:
    for seed in (-1, 10**30):
        assert tuned(replace(QUICK, seed=seed), subject_of(small(), few()))


# What cannot be done


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"epochs": 0}, "0 is not possible for the epochs"),
        ({"batch": 0}, "the batch"),
        ({"samples": -1}, "the samples"),
        ({"learning_rate": 0.0}, "the learning rate"),
        ({"learning_rate": float("nan")}, "the learning rate"),
        ({"weight_decay": -1.0}, "the weight decay"),
        ({"temperature": 0.0}, "the temperature"),
        ({"distillation": 1.5}, "the distillation"),
        ({"device": "tpu9"}, "tpu9 is unavailable: torch knows no such device"),
        ({"device": "mps"}, "mps is unavailable: "),
        ({"samples": 1}, "too few samples: 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(EditRefused, match=why):
        Tuning(replace(QUICK, **settings), subject_of(small(), few()), Job())


def test_without_data_there_is_no_training(session_of: Callable[..., ModelSession]) -> None:
    with pytest.raises(EditRefused, match="no data set is chosen"):
        session_of(small(), 1, 6).apply(QUICK, Job())


def test_a_loss_that_is_not_finite_names_the_learning_rate(demo: ModelSession) -> None:
    before = demo.snapshot
    with pytest.raises(EditRefused, match="epoch 1 is not finite at a learning rate of 1e") as told:
        demo.apply(replace(QUICK, epochs=3, learning_rate=1e20, schedule="constant"), Job())
    assert told.value.remedy == "Choose a lower one, such as 1e+19."
    assert demo.snapshot == before


class Bursting(Training):
    """A training whose loss is no number any more in the second epoch."""

    def _stepped(self, places: Tensor, rate: float) -> float | None:
        loss = super()._stepped(places, rate)
        return float("inf") if self.standing.epochs else loss


def test_a_better_epoch_is_kept_when_the_loss_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.recovery.tuning.Training", Bursting)
    subject = subject_of(small(), few())
    tuning = Tuning(replace(QUICK, epochs=3, schedule="constant"), subject, Job())
    while tuning.step(Job()):
        pass
    decision = tuning.finish().decision
    assert isinstance(decision, Retrained)
    assert decision.told.startswith("1 epoch, held-out accuracy ")
    assert decision.told.endswith(
        "best after epoch 1; ended early, as the loss of epoch 2 is not finite at a learning rate "
        "of 0.01"
    )
    monkeypatch.undo()
    assert same(tensors_of(tuning), tuned(replace(tuning.edit, epochs=1), subject))


def test_a_model_that_cannot_run_so_is_told(session_of: Callable[..., ModelSession]) -> None:
    data = few(65)
    with pytest.raises(EditRefused, match=r"toy, 1 samples at once, on cpu: Expected more than 1"):
        Tuning(replace(QUICK, batch=1), subject_of(small(), data), Job())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "side", "pixelwise"),
    [("googlenet", 64, False), ("swin_t", 64, False), ("lraspp_mobilenet_v3_large", 64, True)],
)
def test_what_gives_more_than_logits_or_labels_pixels_trains_too(
    source: str, side: int, pixelwise: bool
) -> None:
    opened = open_source(OpenRequest(source), Job())
    labels = torch.randint(0, 21, (6, side, side) if pixelwise else (6,))
    split = Split(torch.randn(6, 3, side, side), labels)
    metric = "mean IoU" if pixelwise else "top-1"
    data = DataSet("toy", (), split, split, "", metric, pixelwise=pixelwise)
    subject = look_at(opened.model, opened.inputs, data)
    training = Training(replace(QUICK, batch=3, learning_rate=1e-4), subject)
    before = {name: one.detach().clone() for name, one in training._trained.items()}
    while not training.done:
        training.advance()
    moved = [not torch.equal(one, before[name]) for name, one in training._trained.items()]
    assert sum(moved) > 0.8 * len(moved), "auxiliary heads do not train"


# Samples that are read from files


class Rows:
    """Rows of a toy data set, each read counted; some are broken."""

    def __init__(self, data: DataSet, broken: frozenset[int] = frozenset()) -> None:
        self.split, self.broken = data.training, broken
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.split)

    def name(self, at: int) -> str:
        return f"row {at}"

    def read(self, at: int) -> tuple[Tensor, Tensor]:
        self.reads.append(at)
        if at in self.broken:
            raise ValueError("scratched")
        sample = self.split.sample(at)
        assert not isinstance(sample, str)
        return sample


def lazily(rows: Rows, skip: bool = False) -> DataSet:
    split = LazySplit(rows, lambda inputs, target: (inputs, target), skip, range(len(rows)))
    return replace(few(), training=split)


def test_samples_from_files_train_alike_and_are_read_once() -> None:
    rows = Rows(few())
    found = tuned(replace(QUICK, epochs=3), subject_of(small(), lazily(rows)))
    assert same(found, tuned(replace(QUICK, epochs=3), subject_of(small(), few())))
    assert sorted(rows.reads) == list(range(200))


def test_what_does_not_fit_into_memory_is_read_again() -> None:
    rows = Rows(few(10))
    split = lazily(rows).training.remembering(5 * (6 * 4 + 8))
    for _ in range(2):
        assert sum(len(targets) for _, targets in split.batches(4)) == 10
    assert len(rows.reads) == 15


def test_broken_samples_are_left_out_or_stop_it() -> None:
    rows = Rows(few(), broken=frozenset({3, 50, 51}))
    data = lazily(rows, skip=True)
    assert tuned(QUICK, subject_of(small(), data))
    assert set(data.broken) == {"row 3", "row 50", "row 51"}
    with pytest.raises(DataSetUnreadable, match="row"):
        tuned(QUICK, subject_of(small(), lazily(rows)))
    every = Rows(few(), broken=frozenset(range(200)))
    with pytest.raises(DataSetUnreadable, match="can be read"):
        Tuning(QUICK, subject_of(small(), lazily(every, skip=True)), Job())


def test_samples_at_places_come_in_that_order() -> None:
    data = few(10)
    for split in (data.training, lazily(Rows(data)).training):
        (batch,) = split.at([7, 2, 2]).batches(9)
        assert torch.equal(batch[0], data.training.images[[7, 2, 2]])  # type: ignore[attr-defined]
        assert list(split.at([]).batches(9)) == [] or len(next(split.at([]).batches(9))[1]) == 0


# Other devices


def test_it_is_trained_there_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in takes the accelerator's place: that every tensor is moved is all it can show."""
    moved: list[torch.device] = []
    plain = Tensor.to

    def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        moved.extend(one for one in args if isinstance(one, torch.device))
        return plain(tensor, *args, **kwargs)

    monkeypatch.setattr("engine.recovery.preparing.device_named", lambda name: torch.device("cpu"))
    monkeypatch.setattr(Tensor, "to", to)
    found = tuned(replace(QUICK, device="cuda", distillation=0.5), subject_of(small(), few()))
    assert all(one.device.type == "cpu" for one in found.values())
    assert len(moved) > 20
