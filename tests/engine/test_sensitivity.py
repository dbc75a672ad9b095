"""The scan of layers by settings: its numbers, what it can stand, and its files."""

import csv
import json
import math
import os
import signal
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
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import engine
from engine.datasets import DataSet, LazySplit, Split
from engine.editing import Subject, handler_of, look_at
from engine.edits import Edit, PruneChannels, PruneWeights, Quantize
from engine.errors import (
    DataSetMismatch,
    DataSetNotFound,
    DataSetUnreadable,
    EditRefused,
    ExportFailed,
    SensitivityUnreadable,
)
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.sensitivities import Cell, ScanRequest, SensitivityMap
from engine.sensitivity.changes import change_of, edited, rows_of
from engine.sensitivity.files import read_sensitivity, save_sensitivity
from engine.sensitivity.measuring import UNEDITED
from engine.sensitivity.samples import Samples
from engine.sensitivity.scanning import Scan
from engine.sensitivity.settings import (
    activations_setting,
    bits_setting,
    channels_setting,
    usual_settings,
    weights_setting,
)
from engine.session import ModelSession
from engine.sharing import share_for_running
from tests.engine import small_networks
from tests.engine.living import alive

REPOSITORY = Path(engine.__file__).resolve().parent.parent
SETTINGS: tuple[Edit, ...] = (
    channels_setting(0.5),
    weights_setting(0.7),
    bits_setting(3),
    activations_setting(8),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scans are kept here, and not among the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "secateur" / "scans"


# Toys


class Block(nn.Module):
    """A residual sum: what it adds is coupled to what it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.norm(self.one(x)).relu())


class Net(nn.Module):
    """A stem, two residual blocks, a side branch that does nothing, and a head of 4 classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.blocks = nn.Sequential(Block(), Block())
        self.idle = nn.Conv2d(6, 1, 1)
        self.head = nn.Linear(6, 4)
        for one in self.modules():
            if isinstance(one, nn.BatchNorm2d):
                nn.init.uniform_(one.weight, 0.5, 1.5)
                nn.init.uniform_(one.bias, -0.3, 0.3)
                nn.init.uniform_(one.running_mean, -0.2, 0.2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.norm(self.stem(x)).relu())
        out: Tensor = self.head(x.mean((2, 3)))
        return 3 * out + 0.0 * self.idle(x).mean((2, 3))


def pictures(count: int = 40, classes: int = 4, shape: tuple[int, ...] = (3, 6, 6)) -> DataSet:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, *shape, generator=generator)
    split = Split(images, torch.randint(classes, (count,), generator=generator))
    return DataSet("toy", (), split, split, "a toy")


def subject_of(model: nn.Module | None = None, data: DataSet | None = None) -> Subject:
    data = data or pictures()
    assert isinstance(data.training, Split)
    return look_at((model or Net()).eval(), (data.training.images[:1],), data)


def scan_of(request: ScanRequest, subject: Subject | None = None) -> Scan:
    subject = subject or subject_of()
    assert subject.data is not None
    return Scan(request, subject, subject.data, Job())


def finished(scan: Scan) -> SensitivityMap:
    while scan.step(Job(), 10):
        pass
    return scan.progress


def request(**changes: Any) -> ScanRequest:
    return ScanRequest(**{"settings": SETTINGS, "samples": 40, "first": 8, **changes})


def place_of(found: SensitivityMap, layer: str) -> int:
    return next(at for at, row in enumerate(found.rows) if layer in row)


def losses_of(model: nn.Module, scan: Scan) -> np.ndarray[Any, Any]:
    """Losses of the scan's samples by whole passes, in the same batches."""
    samples, copy, found, start = scan._samples, share_for_running(model), [], 0
    with torch.no_grad():
        for stop in samples.rounds:
            for chunk in samples.chunks(start, stop):
                part = samples.data.training.at([samples._places[at] for at in chunk])
                ((inputs, targets),) = part.batches(len(chunk))
                scores = copy(inputs.clone()).double()
                found.append(cross_entropy(scores, targets, reduction="none").numpy())
            start = stop
    return np.concatenate(found)


# Numbers


@pytest.mark.parametrize("direction", ["only this", "all but this"])
def test_numbers_are_those_of_whole_passes_of_edited_models(direction: Any) -> None:
    scan = scan_of(request(direction=direction))
    subject, found = scan._measuring._subject, finished(scan)
    base = losses_of(subject.model, scan)
    assert (scan._results.base().losses == base).all()
    assert found.loss == base.mean()
    measured = 0
    for column, setting in enumerate(found.settings):
        changes = [change_of(setting, row, subject, Job()) for row in found.rows]
        every = [one for one in changes if one.decision is not None]
        together = losses_of(edited(subject.model, every), scan)
        for row, change in enumerate(changes):
            cell = found.cells[row, column]
            assert bool(cell.refusal) == (change.decision is None)
            if cell.refusal:
                continue
            measured += 1
            if direction == "only this":
                rises = losses_of(edited(subject.model, [change]), scan) - base
            else:
                others = [one for one in every if one is not change]
                rises = together - losses_of(edited(subject.model, others), scan)
            assert cell.rise == rises.mean()
            assert cell.error == pytest.approx(rises.std(ddof=1) / len(rises) ** 0.5, rel=1e-12)
            assert cell.samples == 40
    assert measured > 15
    assert found.complete


@pytest.mark.parametrize(
    "name",
    ["vit", *(pytest.param(one, marks=pytest.mark.slow) for one in ("swin", "swin_v2", "maxvit"))],
)
def test_numbers_of_transformers_are_those_of_whole_passes(name: str) -> None:
    """Attention and additions in the code of layers themselves among them."""
    model = alive(getattr(small_networks, name)()).float()
    side = 16 if name == "vit" else 32
    data = pictures(12, 5, (3, side, side))
    subject = subject_of(model, data)
    wish = request(settings=usual_settings(subject.tree)[1::2], samples=12, first=4)
    scan = scan_of(wish, subject)
    found = finished(scan)
    measured = {place for place, cell in found.cells.items() if not cell.refusal}
    assert len(measured) > len(found.rows)
    for place in measured:
        decided = change_of(found.settings[place[1]], found.rows[place[0]], subject, Job())
        losses = losses_of(edited(model, [decided]), scan)
        assert (scan._results.cell(*place).losses == losses).all(), place
    assert all(
        found.cells[place].estimate is not None
        for place in measured
        if subject.tree[found.rows[place[0]][0]].weights
    )


def test_what_does_nothing_costs_nothing_and_has_no_error() -> None:
    found = finished(scan_of(request()))
    row = place_of(found, "idle")
    for column in range(1, len(SETTINGS)):
        cell = found.cells[row, column]
        assert (cell.rise, cell.error, cell.lost, cell.samples) == (0.0, 0.0, 0.0, 40)
        assert cell.estimate == 0.0


def test_truth_known_by_hand() -> None:
    """Scores of ±2 for the right class; without weights both are 0, and the loss log 2."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Identity())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2) * 2)  # type: ignore[union-attr]
    labels = torch.arange(20) % 2
    inputs = nn.functional.one_hot(labels, 2) * 2.0 - 1.0  # +1 for the class, -1 for the other
    split = Split(inputs, labels)
    data = DataSet("two", (), split, split, "two points")
    subject = look_at(model.eval(), (inputs[:1],), data)
    scan = Scan(
        ScanRequest((PruneWeights((), 1.0), PruneWeights((), 0.0)), samples=20),
        subject,
        data,
        Job(),
    )
    found = finished(scan)
    before = math.log(1 + math.exp(-4))
    assert found.loss == pytest.approx(before, rel=1e-12)
    assert found.accuracy == 1.0
    everything, nothing = found.cells[0, 0], found.cells[0, 1]
    assert everything.rise == pytest.approx(math.log(2) - before, rel=1e-12)
    assert everything.error == pytest.approx(0.0, abs=1e-15)
    assert everything.lost == 0.5  # of two equal scores the first is taken for the class
    assert (nothing.rise, nothing.error, nothing.lost) == (0.0, 0.0, 0.0)


def test_applying_a_cell_gives_its_loss(session_of: Callable[..., ModelSession]) -> None:
    session = session_of(Net(), 1, 3, 6, 6)
    session._data = pictures()
    session._kept = {key: replace(one, data=session._data) for key, one in session._kept.items()}
    scan = session.start_scan(request(), Job())
    found = finished(scan)
    assert found.state == session.snapshot.current.id
    for column in range(len(SETTINGS)):
        row = place_of(found, "blocks.0.one")
        session.apply(found.edit(row, column), Job())
        losses = losses_of(session._subject(session._cursor).model, scan)
        rise = found.cells[row, column].rise
        assert rise == (losses - scan._results.base().losses).mean()
        session.undo(Job())


def test_reading_the_data_leaves_them_as_they_are() -> None:
    class Careless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.one(x.mul_(2))
            return out

    data = pictures(shape=(3,))
    before = data.training.images.clone()  # type: ignore[attr-defined]
    model = Careless()
    found = finished(scan_of(request(settings=SETTINGS[1:3]), subject_of(model, data)))
    assert data.training.images.equal(before)  # type: ignore[attr-defined]
    with torch.no_grad():
        scores = model(before.clone()).double()
    assert found.loss == pytest.approx(float(cross_entropy(scores, data.training.labels)))  # type: ignore[attr-defined]


def test_a_loss_that_is_no_number_counts_as_infinite() -> None:
    class Dividing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.two(x) / self.one.weight.abs().sum()
            return out + 0 * self.one(x).sum(1, keepdim=True)

    found = finished(
        scan_of(
            request(settings=(PruneWeights((), 1.0),)), subject_of(Dividing(), pictures(shape=(3,)))
        )
    )
    cell = found.cells[place_of(found, "one"), 0]
    assert cell.rise == math.inf
    assert cell.error is None


# Rows


def test_layers_that_are_coupled_are_one_row_where_channels_go() -> None:
    subject = subject_of()
    rows = rows_of(request(), subject, Job())
    assert ("stem", "blocks.0.two", "blocks.1.two") in rows
    assert ("blocks.0.one",) in rows
    alone = rows_of(request(settings=SETTINGS[1:3]), subject, Job())
    assert ("stem",) in alone
    assert ("blocks.0.two",) in alone
    assert sum(map(len, rows)) == len(set().union(*rows))


def test_chosen_containers_stand_for_what_is_below() -> None:
    subject = subject_of()
    rows = rows_of(request(layers=("blocks.0", "head")), subject, Job())
    assert set().union(*rows) >= {"blocks.0.one", "blocks.0.two", "head"}
    assert not {"stem", "blocks.1.two"} & set().union(*rows)
    with pytest.raises(EditRefused, match="None of the settings"):
        rows_of(request(layers=("norm",)), subject, Job())


def test_a_residual_layer_does_not_look_robust() -> None:
    """Channels of the sum go in all that write them: the row costs what the group costs."""
    found = finished(scan_of(request()))
    row = place_of(found, "blocks.1.two")
    edit = found.edit(row, 0)
    assert edit.layers == found.rows[row]
    subject = subject_of()
    decision = handler_of(edit).decide(edit, subject, Job())
    one = handler_of(edit).decide(replace(edit, layers=("blocks.1.two",)), subject, Job())  # type: ignore[arg-type]
    assert set(decision.slices) == set(one.slices)
    assert {"stem", "blocks.0.two"} <= {slice_.layer for slice_ in one.slices}


def test_what_cannot_be_is_refused_with_the_reason_and_the_rest_is_measured() -> None:
    found = finished(scan_of(request()))
    head = place_of(found, "head")
    assert "puts out the model's result" in found.cells[head, 0].refusal
    assert found.cells[head, 0].rise is None
    assert found.cells[head, 1].rise is not None
    with pytest.raises(ValueError, match="result"):
        found.edit(head, 0)


def test_settings_that_decide_the_same_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    judged = Samples.judged
    monkeypatch.setattr(
        Samples, "judged", lambda self, *rest: ran.append(rest) or judged(self, *rest)
    )
    near = (PruneChannels((), 0.5, multiple=1), PruneChannels((), 0.52, multiple=1))
    found = finished(scan_of(request(settings=near, layers=("blocks.0.one",))))
    assert found.cells[0, 0] == found.cells[0, 1]
    rounds = 8, 8, 24
    assert len(ran) == 2 * len(rounds)  # the unedited state, and one cell of the two


# Rounds


def test_rounds_are_doubled_once_and_then_quadrupled() -> None:
    data = pictures(300)
    assert Samples(data, 256, 32, 0).rounds == (32, 64, 256)
    assert Samples(data, 1000, 32, 0).rounds == (32, 64, 256, 300)
    assert Samples(data, 20, 32, 0).rounds == (20,)
    assert [len(one) for one in Samples(data, 256, 32, 0).chunks(64, 256)] == [64, 64, 64]
    assert Samples(data, 50, 8, 1)._places != Samples(data, 50, 8, 2)._places


def test_cells_of_unsettled_rank_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.sensitivity.scanning._SIGMAS", 0.1)  # random weights are alike
    scan = scan_of(request())
    while scan._results.base_seen[UNEDITED] < 16:  # the second round has begun
        scan.step(Job(), 0)
    unsettled = scan._unsettled()
    pending = set(scan._pending(16))
    settled = {place for place in pending if not unsettled[place]}
    assert settled
    assert settled != pending
    order: list[tuple[int, int]] = []
    while scan._pending(16):
        before = scan._results.seen.copy()
        scan.step(Job(), 0)
        order += [(row, column) for row, column in np.argwhere(scan._results.seen > before)]
    first = min(order.index(one) for one in settled)
    assert all(order.index(one) < first for one in pending - settled)


def test_the_map_fills_in_and_stays_frozen() -> None:
    scan = scan_of(request())
    start = scan.progress
    assert all(one == Cell() or one.refusal for one in start.cells.values())
    assert not start.complete
    job, seen = Job(), []
    while scan.step(job, 0):
        seen.append(sum(one.samples for one in scan.progress.cells.values()))
        assert job.partial.rows == start.rows
    assert seen == sorted(seen)
    assert len(set(seen)) > 10
    assert all(one == Cell() or one.refusal for one in start.cells.values())
    assert job.done == job.total
    with pytest.raises(TypeError):
        scan.progress.cells[0, 0] = Cell()  # type: ignore[index]


# Stopping and going on


def test_a_scan_goes_on_from_what_was_kept(cache: Path) -> None:
    whole = finished(scan_of(request()))
    scan_of(request()).discard()
    first = scan_of(request())
    assert not first.resumed
    while first._results.seen.sum() < 300:
        first.step(Job(), 0)
    assert not first.done
    first.pause()
    known = int(first._results.seen.sum())
    second = scan_of(request())
    assert second.resumed
    assert int(second._results.seen.sum()) == known
    assert finished(second) == whole
    third = scan_of(request())
    third.step(Job(), 10)
    assert third.done
    assert third.progress == whole
    third.discard()
    assert not any(cache.iterdir())


def test_another_request_state_or_data_starts_anew(cache: Path) -> None:
    finished(scan_of(request()))
    other = subject_of()
    with torch.no_grad():
        other.model.stem.bias.add_(1)  # type: ignore[operator, union-attr]
    few = pictures(39)
    for scan in (
        scan_of(request(seed=1)),
        scan_of(request(settings=SETTINGS[:1])),
        scan_of(request(), other),
        scan_of(request(), subject_of(data=few)),
    ):
        assert not scan.resumed
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert not scan_of(request()).resumed


def test_a_cancelled_scan_is_whole_and_goes_on(stop_at: Any) -> None:
    whole = finished(scan_of(request(settings=SETTINGS[:2])))
    scan_of(request(settings=SETTINGS[:2])).discard()
    scan = scan_of(request(settings=SETTINGS[:2]))
    cancelled, at = 0, 1
    while not scan.done:
        try:
            scan.step(stop_at(at), 10)
        except Cancelled:
            cancelled, at = cancelled + 1, at + 1
    assert cancelled > 5
    assert scan.progress == whole


def test_a_full_disk_is_told_and_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ExportFailed("The disk is full.")

    monkeypatch.setattr("engine.sensitivity.keeping.write_atomically", refuse)
    scan = scan_of(request(settings=SETTINGS[:1]))
    assert finished(scan).complete
    assert "start anew" in scan.problem


@pytest.mark.slow
def test_a_killed_scan_goes_on(tmp_path: Path) -> None:
    script = (
        "from engine.job import Job; from engine.session import open_model\n"
        "from engine.sensitivity import scanning; scanning._KEEP_SECONDS = 0.2\n"
        "import torch; torch.set_num_threads(1)\n"
        "s = open_model('demo', Job()); scan = s.start_scan(s.default_scan(), Job())\n"
        "while scan.step(Job()): print(int(scan._results.seen.sum()), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, env=dict(os.environ)
    ) as child:
        assert child.stdout is not None
        while int(child.stdout.readline() or "1000000") < 3000:
            pass
        time.sleep(0.3)
        os.kill(child.pid, signal.SIGKILL)
    session = engine.open_model("demo", Job())
    scan = session.start_scan(session.default_scan(), Job())
    assert scan.resumed
    assert scan._results.seen.sum() > 2000
    assert finished(scan).complete


# Requests and data


def test_a_scan_needs_data_weights_and_settings(
    session_of: Callable[..., ModelSession], demo: ModelSession
) -> None:
    with pytest.raises(DataSetNotFound):
        session_of(Net(), 1, 3, 6, 6).start_scan(request(), Job())
    for wrong in ({"settings": ()}, {"samples": 0}, {"first": 0}):
        with pytest.raises(EditRefused):
            demo.start_scan(replace(demo.default_scan(), **wrong), Job())  # type: ignore[arg-type]
    with pytest.raises(EditRefused, match="no layer"):
        demo.start_scan(replace(demo.default_scan(), layers=(LayerId("nowhere"),)), Job())
    assert len(demo.default_scan().settings) == 13


def test_usual_settings_are_those_that_fit_some_layer() -> None:
    kinds = {type(one) for one in usual_settings(subject_of().tree)}
    assert kinds == {PruneChannels, PruneWeights, Quantize}
    only = look_at(nn.Sequential(nn.LSTM(3, 4)), (torch.zeros(1, 2, 3),))
    assert {type(one) for one in usual_settings(only.tree)} == {PruneWeights}


def test_data_of_another_task_are_refused() -> None:
    data = pictures(shape=(5,))
    model = Net()
    with pytest.raises(DataSetMismatch, match="does not take the samples"):
        Scan(request(), subject_of(model), data, Job())


def test_models_that_take_one_sample_at_once_are_scanned() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.one(x.reshape(1, 3))
            return out

    several = nn.Sequential(nn.Linear(3, 4))
    single = Single()
    single.one = several[0]  # type: ignore[assignment]
    data = pictures(shape=(3,))
    wish = request(settings=SETTINGS[1:3])
    alone = finished(scan_of(wish, subject_of(single, data)))
    together = finished(scan_of(wish, subject_of(several, data)))
    for column in range(2):
        one, other = alone.cells[0, column].rise, together.cells[0, column].rise
        assert one == pytest.approx(other, rel=1e-4)


def test_samples_that_cannot_be_read_are_left_out() -> None:
    class Source:
        def __len__(self) -> int:
            return 40

        def name(self, at: int) -> str:
            return f"{at}"

        def read(self, at: int) -> tuple[Tensor, Tensor]:
            if at % 5 == 0:
                raise OSError(5, "broken")
            return whole.training.images[at], whole.training.labels[at]  # type: ignore[attr-defined]

    whole = pictures()
    split = LazySplit(Source(), lambda image, label: (image, label), True, range(40))
    data = DataSet("toy", (), split, split, "a toy")
    subject = replace(subject_of(), data=data)
    found = finished(Scan(request(settings=SETTINGS[:2]), subject, data, Job()))
    counts = {one.samples for one in found.cells.values() if not one.refusal}
    assert counts == {32}
    assert found.loss is not None
    none = replace(split, prepare=lambda *_: 1 / 0)
    with pytest.raises(DataSetUnreadable, match="None of the"):
        Scan(request(), subject, replace(data, training=none), Job())


def test_only_training_samples_are_looked_at() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the validation split was asked for {name}")

    data = replace(pictures(), validation=Untouchable())  # type: ignore[arg-type]
    subject = replace(subject_of(), data=data)
    assert finished(Scan(request(), subject, data, Job())).complete


# Estimates


def test_estimates_are_half_the_mean_square_of_gradient_times_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.sensitivity.gradients._PARTS", 16)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    data = pictures(16, shape=(6,))  # as many parts as samples: each gradient by itself
    subject = subject_of(model, data)
    found = finished(scan_of(request(settings=SETTINGS[1:3], samples=16), subject))
    for row, (layer,) in enumerate(found.rows):
        weight: Tensor = model.get_submodule(layer).weight  # type: ignore[assignment]
        for column in range(2):
            change = change_of(found.settings[column], (layer,), subject, Job())
            module: Any = edited(model, [change]).get_submodule(layer)
            new = module.float_weight() if column else module.weight
            squares = []
            for inputs, target in data.training.batches(1):
                (slope,) = torch.autograd.grad(cross_entropy(model(inputs), target), weight)
                squares.append(float((slope * (new - weight)).sum().detach()) ** 2)
            # Gradients are kept in 16 bits, and the mean of squares is found from the variance.
            want = np.mean(squares) / 2
            assert found.cells[row, column].estimate == pytest.approx(want, rel=0.1)


def test_estimates_rank_a_trained_network_as_the_measured_rises_do(demo: ModelSession) -> None:
    from scipy.stats import spearmanr

    found = finished(demo.start_scan(replace(demo.default_scan(), samples=64), Job()))
    cells = [
        one for one in found.cells.values() if one.rise is not None and one.estimate is not None
    ]
    assert len(cells) > 60
    rank = spearmanr([one.estimate for one in cells], [one.rise for one in cells]).statistic
    assert rank > 0.6


# Files


numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
cells = st.builds(
    Cell,
    estimate=st.none() | numbers,
    rise=st.none() | numbers | st.just(math.inf),
    error=st.none() | numbers,
    lost=st.none() | st.floats(-1, 1),
    samples=st.integers(0, 10**6),
    refusal=st.text(max_size=20),
    left_out=st.lists(st.text(max_size=5), max_size=2).map(tuple),
)
maps = st.builds(
    SensitivityMap,
    rows=st.lists(
        st.lists(st.text(max_size=8), min_size=1, max_size=3).map(tuple), min_size=2, max_size=4
    ).map(tuple),
    settings=st.just(SETTINGS),
    direction=st.sampled_from(["only this", "all but this"]),
    cells=st.dictionaries(st.tuples(st.integers(0, 1), st.integers(0, 3)), cells, max_size=6),
    loss=st.none() | numbers,
    accuracy=st.none() | st.floats(0, 1),
    samples=st.integers(0, 10**6),
    data=st.text(max_size=10),
    state=st.text(max_size=10),
    complete=st.booleans(),
)


@settings(max_examples=50)
@given(maps)
def test_json_holds_all_of_a_map(tmp_path_factory: pytest.TempPathFactory, found: Any) -> None:
    path = str(tmp_path_factory.mktemp("maps") / "map.json")
    save_sensitivity(path, found, "json")
    again = read_sensitivity(path)
    assert again == replace(found, cells=dict(found.cells))
    assert isinstance(again.settings[0], PruneChannels)


def test_csv_has_a_line_for_each_cell(tmp_path: Path) -> None:
    found = finished(scan_of(request()))
    path = tmp_path / "map.csv"
    save_sensitivity(str(path), found, "csv")
    lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert len(lines) == len(found.rows) * len(SETTINGS)
    first = lines[place_of(found, "blocks.0.one") * len(SETTINGS) + 1]
    cell = found.cells[place_of(found, "blocks.0.one"), 1]
    assert first["layer"] == "blocks.0.one"
    assert first["setting"] == "prune-weights ratio=0.7"
    assert (float(first["rise"]), float(first["error"])) == (cell.rise, cell.error)
    coupled = next(one for one in lines if one["layer"] == "stem")
    assert coupled["coupled"] == "blocks.0.two blocks.1.two"


def test_distillers_file_is_written_and_read(tmp_path: Path) -> None:
    ratios = (PruneWeights((), 0.5), PruneWeights((), 0.9))
    found = finished(scan_of(request(settings=(*ratios, bits_setting(4)))))
    path = tmp_path / "sensitivity.csv"
    save_sensitivity(str(path), found, "distiller")
    lines = path.read_text().splitlines()
    assert lines[0] == "parameter,sparsity,top1,top5,loss"
    assert lines[1].startswith("stem.weight,0.0,")
    again = read_sensitivity(str(path))
    assert again.settings == ratios
    # A row that only rounding can be applied to has no line there.
    taking = [at for at in range(len(found.rows)) if found.cells[at, 0].rise is not None]
    assert again.rows == tuple(found.rows[at] for at in taking)
    assert again.loss == found.loss
    for at, row in enumerate(taking):
        for column in range(2):
            one, other = again.cells[at, column], found.cells[row, column]
            assert one.rise == pytest.approx(other.rise, abs=1e-12)
            assert one.lost == pytest.approx(other.lost, abs=1e-12)


DISTILLERS = """parameter,sparsity,top1,top5,loss
module.conv1.weight,0.0,91.71000000000001,99.63,0.35311551988124845
module.conv1.weight,0.05,91.74,99.63,0.35341642685234553
module.conv1.weight,0.30000000000000004,91.62,99.63,0.3525034536759853
module.layer1.0.conv1.weight,0.0,91.71000000000001,99.63,0.35311552211642266
module.layer1.0.conv1.weight,0.05,91.69,99.63,0.35309315249323836
"""


def test_a_file_of_distillers_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.csv"
    path.write_text(DISTILLERS)
    found = read_sensitivity(str(path))
    assert found.rows == (("conv1",), ("layer1.0.conv1",))
    assert found.settings == (PruneWeights((), 0.05), PruneWeights((), 0.3))
    assert found.accuracy == pytest.approx(0.9171)
    assert found.cells[0, 1].rise == pytest.approx(0.3525034536759853 - 0.35311551988124845)
    assert found.cells[0, 0].lost == pytest.approx(-0.0003)
    assert (1, 1) not in found.cells
    assert found.edit(1, 0) == PruneWeights((LayerId("layer1.0.conv1"),), 0.05)


def test_distillers_file_cannot_say_everything(tmp_path: Path) -> None:
    found = finished(scan_of(request(settings=(bits_setting(4),))))
    with pytest.raises(ExportFailed, match="Distiller"):
        save_sensitivity(str(tmp_path / "a.csv"), found, "distiller")
    assert not list(tmp_path.glob("*.csv"))


GOOD = {
    "format": "secateur-sensitivity", "version": 1, "rows": [["a"]], "direction": "only this",
    "settings": [{"edit": "prune-weights", "request": {"layers": [], "ratio": 0.5}}],
    "cells": [{"row": 0, "column": 0, "rise": 0.5}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "does not begin with the columns"),
        ("{", "is not a map"),
        ("{}", "is not a map"),
        ('{"format": "secateur-recipe"}', "is not a map"),
        (json.dumps(GOOD | {"version": 2}), "another version"),
        (json.dumps({key: one for key, one in GOOD.items() if key != "rows"}), "rows"),
        (json.dumps(GOOD | {"cells": [{"row": 3, "column": 0}]}), "no cell 3, 0"),
        (json.dumps(GOOD | {"cells": [{"row": 0, "column": -1}]}), "no cell 0, -1"),
        (json.dumps(GOOD | {"cells": [{"row": 0, "column": 0, "rise": "nan"}]}), "nan"),
        (json.dumps(GOOD | {"cells": [{"row": 0, "column": 0, "error": "inf"}]}), "inf"),
        (json.dumps(GOOD | {"cells": [{"row": "x", "column": 0}]}), "invalid literal"),
        (json.dumps(GOOD | {"cells": {"row": 0}}), "is not a map"),
        (json.dumps(GOOD | {"rows": [[]]}), "a row has no layer"),
        (json.dumps(GOOD | {"direction": "sideways"}), "direction"),
        (json.dumps(GOOD | {"settings": [{"edit": "paint", "request": {}}]}), "paint"),
        (json.dumps(GOOD | {"settings": [{"edit": "quantize", "request": {}}]}), "layers"),
        (json.dumps(GOOD).replace("0.5}]", "NaN}]"), "NaN"),
        ("[" * 100_000, "does not begin"),
        ('{"a":' * 100_000, "is not a map"),
        ("parameter,sparsity,top1,top5\n", "does not begin"),
        ("parameter,sparsity,top1,top5,loss\n", "holds no table"),
        ("parameter,sparsity,top1,top5,loss\na.weight,0.5\n", "line 2 has 2 fields"),
        ("parameter,sparsity,top1,top5,loss\na.weight,x,1,1,1\n", "sparsity: “x”"),
        ("parameter,sparsity,top1,top5,loss\na.weight,1.5,1,1,1\n", "sparsity of 1.5"),
        ("parameter,sparsity,top1,top5,loss\na.weight,0.5,1,1,nan\n", "loss: “nan”"),
        ("parameter,sparsity,top1,top5,loss\na.weight,0.5,1,1,1\n", "at sparsity 0"),
        ('parameter,sparsity,top1,top5,loss\n"a.weight,0.5,1,1,1\n', "is not a table"),
    ],
)  # fmt: skip
def test_hostile_files_are_one_clear_error(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "map"
    path.write_text(text)
    with pytest.raises(SensitivityUnreadable, match=told) as refused:
        read_sensitivity(str(path))
    assert "\n" not in str(refused.value)


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SensitivityUnreadable, match="not there"):
            read_sensitivity(str(path))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00\x01" * 100)
    with pytest.raises(SensitivityUnreadable, match="not text"):
        read_sensitivity(str(binary))


def test_cells_of_all_but_this_stand_for_no_one_edit() -> None:
    found = SensitivityMap((("a",),), SETTINGS, "all but this")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="many"):
        found.edit(0, 0)
    row = LayerId("a"), LayerId("b")
    left = SensitivityMap((row,), SETTINGS, "only this", {(0, 1): Cell(left_out=row[1:])})
    assert left.edit(0, 1) == replace(SETTINGS[1], layers=("a",))
