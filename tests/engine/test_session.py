"""The session: what an operation may change, what it must not, and that undo is the identity."""

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine import datasets
from engine.datasets import DataSet, Split, loading
from engine.edits import Edit, PruneChannels, PruneWeights, Quantize
from engine.errors import (
    DataSetMismatch,
    DataSetNotFound,
    EditRefused,
    EngineError,
    ModelNotFound,
    OutOfMemory,
    RecipeMismatch,
    RecipeUnreadable,
)
from engine.export import verify
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.lazy import resolve
from engine.metrics import ACCURACY, ENERGY, LATENCY, MACS, SIZE, Limit
from engine.profiling import latency
from engine.requests import InputSpec, OpenRequest
from engine.session import ModelSession, open_model
from engine.sharing import share_for_running, unshared_bytes
from engine.sources.architectures import build
from engine.sources.opening import OpenedModel, open_source
from engine.state import Part, Snapshot
from engine.tracing import sample_inputs

STEM, FIRST, SUM, LAST, HEAD = map(
    LayerId,
    ("stem.conv", "stage1.block0.conv1", "stage1.block0.conv2", "stage2.pointwise.conv", "head.fc"),
)


@pytest.fixture(autouse=True)
def _quick_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are taken, not believed."""
    monkeypatch.setattr(latency, "WARM_UP_RUNS", 1)
    monkeypatch.setattr(latency, "RUNS", 2)
    monkeypatch.setattr(latency, "LEAST_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def _children_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child would do is done here; that children do it is tested with the exports."""

    def run(function: str, payload: Any, job: Job) -> Any:
        job.check()
        return resolve(function)(json.loads(json.dumps(payload)))

    monkeypatch.setattr(verify, "run_in_child", run)


@cache
def opened() -> OpenedModel:
    """The demo, opened once: no session may change it, which every test here relies on."""
    return open_source(OpenRequest("demo"), Job())


def fresh(budget: int = 1 << 30, data: bool = True) -> ModelSession:
    session = ModelSession(opened(), budget)
    if data:
        session.load_data("digits", Job())
    return session


@torch.inference_mode()
def outputs(session: ModelSession) -> Tensor:
    images = datasets.digits().validation.images[:50]
    return share_for_running(session._subject(session._cursor).model)(images)


def prints(session: ModelSession) -> list[str]:
    """Fingerprints of all states."""
    return [session.fingerprint(at) for at in range(len(session.snapshot.history) + 1)]


EDITS: tuple[Edit, ...] = (
    PruneChannels((STEM,), 0.3),
    PruneChannels((SUM,), 0.25, "random", seed=3),
    PruneChannels((LAST, FIRST), 0.5, "l1"),
    PruneWeights((HEAD, SUM), 0.6),
    PruneWeights((STEM,), 0.4, "random", seed=5),
    Quantize((HEAD,), calibration_samples=32),
    Quantize((STEM, LAST), calibration_samples=16),
)


# Whatever the user does, in any order


walks = st.lists(
    st.one_of(
        st.sampled_from(EDITS).map(lambda edit: ("apply", edit)),
        st.sampled_from(EDITS).map(lambda edit: ("preview", edit)),
        st.integers(-1, 6).map(lambda cursor: ("go_to", cursor)),
        st.sampled_from(
            [("undo",), ("redo",), ("evaluate",), ("measure_latency",), ("export",), ("save",)]
        ),
    ),
    min_size=3,
    max_size=9,
)


@given(walks, st.sampled_from([0, 1 << 30]))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_operation_changes_a_state(
    tmp_path: Path, walk: list[tuple[Any, ...]], budget: int
) -> None:
    """Every state keeps its bits, and the cursor is where it should be, refused or not."""
    session = fresh(budget)
    history: list[tuple[Edit, str]] = []
    cursor, base = 0, session.fingerprint(0)
    for name, *arguments in walk:
        before = session.snapshot
        try:
            if name == "export":
                session.export(str(tmp_path / "model.safetensors"), "checkpoint", Job())
            elif name == "save":
                session.save_recipe(str(tmp_path / "model.json"), Job())
            else:
                getattr(session, name)(*arguments, Job())
        except EditRefused:
            assert session.snapshot == before
        else:
            if name == "apply":
                history = [*history[:cursor], (arguments[0], session.fingerprint())]
            cursor += {"apply": 1, "undo": -1, "redo": 1}.get(name, 0)
            cursor = arguments[0] if name == "go_to" else cursor
        assert session.snapshot.cursor == cursor
        assert [one.edit for one in session.snapshot.history] == [edit for edit, _ in history]
        assert prints(session) == [base, *(kept for _, kept in history)]
        if name in ("preview", "export", "save"):
            assert session.snapshot == before


def test_undo_and_redo_give_the_same_bits_and_the_same_snapshot() -> None:
    session = fresh()
    seen: list[tuple[Snapshot, Tensor]] = [(session.snapshot, outputs(session))]
    for edit in EDITS:
        session.apply(edit, Job())
        seen.append((session.snapshot, outputs(session)))
    for name, states in (("undo", seen[-2::-1]), ("redo", seen[1:])):
        for snapshot, out in states:
            change = getattr(session, name)(Job())
            assert change.snapshot.current == snapshot.current
            assert change.snapshot.cursor == snapshot.cursor
            assert torch.equal(outputs(session), out)


def test_the_same_edits_lead_to_the_same_state() -> None:
    one, other = fresh(), fresh()
    for edit in EDITS:
        one.apply(edit, Job())
        other.apply(EDITS[0], Job())
        other.undo(Job())
        other.preview(EDITS[1], Job())
        other.apply(edit, Job())
    assert prints(one) == prints(other)
    assert one.snapshot == other.snapshot


def test_there_is_nothing_to_undo_or_redo() -> None:
    session = fresh()
    for operation, words in ((session.undo, "nothing to undo"), (session.redo, "nothing to redo")):
        before = session.snapshot
        with pytest.raises(EditRefused, match=words):
            operation(Job())
        assert session.snapshot == before


def test_a_new_edit_drops_the_undone_ones() -> None:
    session = fresh()
    for edit in EDITS[:3]:
        session.apply(edit, Job())
    session.go_to(1, Job())
    snapshot = session.apply(EDITS[3], Job()).snapshot
    assert [one.edit for one in snapshot.history] == [EDITS[0], EDITS[3]]
    assert snapshot.cursor == 2
    with pytest.raises(EditRefused, match="nothing to redo"):
        session.redo(Job())


def test_a_change_says_what_it_changed() -> None:
    session = fresh()
    edits = Part.LAYERS | Part.METRICS | Part.HISTORY | Part.LIMITS
    change = session.apply(PruneWeights((HEAD,), 0.5), Job())
    assert (change.parts, change.layers) == (edits, {HEAD})
    session.apply(Quantize((STEM,)), Job())
    change = session.undo(Job())
    assert (change.parts, change.layers) == (edits, {STEM, LayerId("stem.bn")})
    assert session.go_to(0, Job()).layers == {HEAD}
    assert session.go_to(2, Job()).layers == {HEAD, STEM, LayerId("stem.bn")}
    assert session.go_to(2, Job()).layers == frozenset()
    assert session.evaluate(Job()).parts == Part.METRICS | Part.LIMITS
    assert session.set_limits((), Job()).parts == Part.LIMITS
    assert session.load_data("digits", Job()).parts == Part.DATA | Part.METRICS | Part.LIMITS


def test_snapshots_are_frozen() -> None:
    session = fresh()
    before = session.snapshot
    copy = dataclasses.replace(before)
    session.apply(EDITS[0], Job())
    session.evaluate(Job())
    assert before == copy
    assert before.cursor == 0
    assert ACCURACY.key not in before.current.table


# What fails changes nothing


@pytest.mark.parametrize(
    "edit",
    [
        PruneChannels((HEAD,), 0.5),
        PruneChannels((STEM, HEAD), 0.5),
        PruneChannels((STEM,), 1.0),
        PruneWeights((STEM, LayerId("stem.bn")), 0.5),
        PruneWeights((), 0.5),
        PruneWeights((LayerId("nowhere"),), 0.5),
        PruneWeights((LayerId(""),), 0.5),
        Quantize((STEM, STEM)),
        Quantize((STEM,), calibration_samples=0),
    ],
    ids=str,
)
def test_a_refused_edit_changes_nothing(edit: Edit) -> None:
    session = fresh()
    session.apply(EDITS[3], Job())
    session.apply(EDITS[0], Job())
    session.undo(Job())
    before, states = session.snapshot, prints(session)
    for operation in (session.preview, session.apply):
        with pytest.raises(EditRefused) as caught:
            operation(edit, Job())
        assert str(caught.value)
        assert caught.value.remedy
    assert session.snapshot == before
    assert prints(session) == states


CANCELLABLE: dict[str, Callable[[ModelSession, Path, Job], object]] = {
    "prune channels": lambda s, _, job: s.apply(EDITS[2], job),
    "prune weights": lambda s, _, job: s.apply(EDITS[3], job),
    "quantize": lambda s, _, job: s.apply(EDITS[6], job),
    "undo": lambda s, _, job: s.undo(job),
    "redo": lambda s, _, job: s.redo(job),
    "evaluate": lambda s, _, job: s.evaluate(job),
    "measure": lambda s, _, job: s.measure_latency(job),
    "load data": lambda s, _, job: s.load_data("digits", job),
    "set limits": lambda s, _, job: s.set_limits((Limit(MACS, 1.0),), job),
    "apply a recipe": lambda s, folder, job: s.apply_recipe(str(folder / "recipe.json"), job),
}


@pytest.mark.parametrize("name", CANCELLABLE)
def test_a_job_cancelled_at_any_point_changes_nothing(
    name: str, tmp_path: Path, stop_at: type[Job]
) -> None:
    if name == "apply a recipe":
        writer = fresh()
        for edit in (EDITS[0], EDITS[3], EDITS[5]):
            writer.apply(edit, Job())
        writer.save_recipe(str(tmp_path / "recipe.json"), Job())
        session = fresh()
    else:
        session = fresh()
        session.apply(EDITS[0], Job())
        session.apply(EDITS[4], Job())
        session.undo(Job())
    before, states = session.snapshot, prints(session)
    for checks in count(1):
        try:
            CANCELLABLE[name](session, tmp_path, stop_at(checks))
        except Cancelled:
            assert session.snapshot == before, checks
            assert prints(session) == states, checks
            assert checks < 200
        else:
            break
    assert checks > 1  # it could be cancelled at all
    if name != "load data":
        assert session.snapshot != before


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_a_cancelled_preview_leaves_nothing_behind(edit: Edit, stop_at: type[Job]) -> None:
    session = fresh()
    before = session.snapshot
    for checks in count(1):
        try:
            effect = session.preview(edit, stop_at(checks))
            break
        except Cancelled:
            assert session.snapshot == before
    assert checks > 1
    assert effect == fresh().preview(edit, Job())


def test_opening_can_be_cancelled(stop_at: type[Job]) -> None:
    for checks in count(1):
        try:
            session = open_model("demo", stop_at(checks))
            break
        except Cancelled:
            pass
    assert checks > 1
    assert session.fingerprint() == fresh().fingerprint()


# Memory


def test_dropped_states_are_rebuilt_bit_by_bit() -> None:
    rich, poor = fresh(), fresh(budget=0)
    for edit in EDITS:
        rich.apply(edit, Job())
        poor.apply(edit, Job())
        assert len(poor._kept) == 2  # base and current
    assert len(rich._kept) == len(EDITS) + 1
    for cursor in (3, 5, 0, len(EDITS), 1):
        poor.go_to(cursor, Job())
        rich.go_to(cursor, Job())
        assert len(poor._kept) <= 2
        assert poor.fingerprint() == rich.fingerprint()
        assert torch.equal(outputs(poor), outputs(rich))
        assert poor.snapshot.current == rich.snapshot.current


def test_the_oldest_states_are_dropped_first() -> None:
    session = fresh()
    for edit in EDITS[:4]:
        session.apply(edit, Job())
    held: set[int] = set()
    base, current, before = (unshared_bytes(session._subject(at).model, held) for at in (0, 4, 3))
    assert min(base, current) > before > 0  # most of it is shared
    small = fresh(budget=before)
    for edit in EDITS[:4]:
        small.apply(edit, Job())
    assert [small._id(at) in small._kept for at in range(5)] == [True, False, False, True, True]


class Wide(nn.Module):
    """A small convolution beside a linear layer of 100 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 3)
        self.wide = nn.utils.skip_init(nn.Linear, 10_000, 10_000, bias=False, dtype=torch.float16)
        self.wide.weight.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)) + self.wide.weight[0, 0].float()


@pytest.mark.parametrize("edit", [PruneChannels, PruneWeights])
def test_an_edit_copies_nothing_that_it_does_not_touch(
    session_of: Callable[..., ModelSession], edit: type
) -> None:
    session = session_of(Wide(), 1, 1, 8, 8)
    session.apply(edit((LayerId("one"),), 0.5), Job())
    base, now = (session._subject(at).model for at in (0, 1))
    assert now.wide.weight.data_ptr() == base.wide.weight.data_ptr()
    held: set[int] = set()
    assert unshared_bytes(base, held) > 200_000_000
    assert 0 < unshared_bytes(now, held) < 1000
    copy = share_for_running(now)
    assert copy.wide.weight.data_ptr() == base.wide.weight.data_ptr()
    assert unshared_bytes(copy, held) == 0


# Models that write while they run


class Scribbler(nn.Module):
    """Writes into every kind of tensor that a forward may write into."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.last = nn.Conv2d(4, 10, 6)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("histogram", torch.zeros(5, dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.plain = torch.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(x.mean())
        x = self.conv(x)
        self.calls += 1
        self.histogram[1] += 2
        self.scratch.add_(1)
        self.plain.add_(1)
        return self.last(x).flatten(1)


def test_models_that_write_into_their_buffers_are_left_as_they_were(
    session_of: Callable[..., ModelSession],
) -> None:
    model = Scribbler()
    session = session_of(model, 1, 1, 8, 8)
    session.load_data("digits", Job())
    before = session.fingerprint()
    session.preview(Quantize((LayerId("conv"),)), Job())
    session.apply(PruneChannels((LayerId("conv"),), 0.5), Job())
    session.apply(Quantize((LayerId("conv"), LayerId("last"))), Job())
    after = session.fingerprint()
    session.evaluate(Job())
    session.measure_latency(Job())
    assert (session.fingerprint(0), session.fingerprint()) == (before, after)
    for state in (session._subject(0).model, session._subject(2).model, model):
        for name in ("mean", "calls", "histogram", "scratch", "plain"):
            assert not getattr(state, name).any(), name


# Measurements


def test_measurements_come_back_with_undo() -> None:
    session = fresh()
    session.apply(EDITS[0], Job())
    session.evaluate(Job())
    measured = session.measure_latency(Job()).snapshot
    found = measured.current.table[ACCURACY.key], measured.current.table[LATENCY.key]
    assert set(measured.base.table) == set(measured.current.table)  # the base, to compare with
    applied = session.apply(EDITS[3], Job()).snapshot
    assert ACCURACY.key not in applied.current.table
    assert LATENCY.key not in applied.current.table
    assert applied.history[0].table == measured.current.table
    back = session.undo(Job()).snapshot.current.table
    assert (back[ACCURACY.key], back[LATENCY.key]) == found
    base = session.undo(Job()).snapshot.current.table
    assert base[ACCURACY.key] == measured.base.table[ACCURACY.key]


def test_the_base_is_measured_once() -> None:
    session = fresh()
    first = session.measure_latency(Job()).snapshot.base.table[LATENCY.key]
    session.apply(EDITS[0], Job())
    again = session.measure_latency(Job()).snapshot
    assert again.base.table[LATENCY.key] is first
    assert again.current.table[LATENCY.key] is not first


def test_edits_made_again_find_their_measurements() -> None:
    session = fresh()
    session.apply(EDITS[0], Job())
    found = session.evaluate(Job()).snapshot.current.table[ACCURACY.key]
    session.undo(Job())
    session.apply(EDITS[3], Job())
    session.undo(Job())
    assert session.apply(EDITS[0], Job()).snapshot.current.table[ACCURACY.key] == found


def test_without_data_nothing_can_be_evaluated() -> None:
    session = fresh(data=False)
    assert session.snapshot.data is None
    with pytest.raises(DataSetNotFound, match="digits_net"):
        session.evaluate(Job())
    assert ACCURACY.key not in session.snapshot.current.table


def test_limits_are_met_or_not_or_not_known() -> None:
    session = fresh()
    limits = (
        Limit(ACCURACY, 0.5),
        Limit(ACCURACY, 1.01),
        Limit(ENERGY, 0.5, relative=True),
        Limit(SIZE, 1e9),
        Limit(LATENCY, 0.0),
        Limit(ACCURACY, 0.9, relative=True),
    )

    def met() -> list[bool | None]:
        status = session.snapshot.limits
        assert tuple(one.limit for one in status) == limits
        return [one.met for one in status]

    session.set_limits(limits, Job())
    assert met() == [None, None, False, True, None, None]
    session.evaluate(Job())
    assert met() == [True, False, False, True, None, True]
    session.measure_latency(Job())
    assert met() == [True, False, False, True, False, True]
    session.apply(PruneChannels((SUM, FIRST, LAST, STEM), 0.9), Job())
    assert met() == [None, None, True, True, None, None]
    session.undo(Job())
    assert met() == [True, False, False, True, False, True]


# Data


def toy(shape: tuple[int, ...], classes: int) -> DataSet:
    split = Split(torch.rand(20, *shape), torch.zeros(20, dtype=torch.int64))
    return DataSet("toy", tuple(map(str, range(classes))), split, split, "a toy")


def test_data_that_do_not_fit_leave_the_chosen_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loading._DATA_SETS, "toy", lambda: toy((3, 8, 8), 10))
    session = fresh()
    session.evaluate(Job())
    before = session.snapshot
    with pytest.raises(DataSetMismatch, match=r"samples of toy are 3×8×8, .* takes 1×8×8"):
        session.load_data("toy", Job())
    with pytest.raises(DataSetNotFound, match="cifar"):
        session.load_data("cifar", Job())
    assert session.snapshot == before


def test_other_data_take_the_accuracies_along_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(loading._DATA_SETS, "toy", lambda: toy((1, 8, 8), 10))
    session = fresh()
    session.apply(EDITS[0], Job())
    session.evaluate(Job())
    session.measure_latency(Job())
    states = prints(session)
    snapshot = session.load_data("toy", Job()).snapshot
    assert (snapshot.data.name, snapshot.data.training_samples) == ("toy", 20)
    for state in (snapshot.base, snapshot.current):
        assert ACCURACY.key not in state.table
        assert LATENCY.key in state.table
    assert prints(session) == states
    session.apply(Quantize((HEAD,)), Job())
    assert "samples of toy" in session._edits[-1].decision.calibration
    assert (
        session.evaluate(Job()).snapshot.current.table[ACCURACY.key].conditions["samples"] == "20"
    )


def test_data_of_other_classes_are_refused_when_evaluating(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(loading._DATA_SETS, "toy", lambda: toy((1, 8, 8), 7))
    session = fresh()
    session.load_data("toy", Job())
    before = session.snapshot
    with pytest.raises(DataSetMismatch, match="7 classes"):
        session.evaluate(Job())
    assert session.snapshot == before


class Greedy(nn.Module):
    """Asks for a petabyte when it is run for real."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 10, 6)

    def forward(self, x: Tensor) -> Tensor:
        torch.empty(1 << 50)
        return self.last(self.conv(x)).flatten(1)


@pytest.mark.parametrize(
    "operation",
    [
        lambda session: session.evaluate(Job()),
        lambda session: session.measure_latency(Job()),
        lambda session: session.apply(Quantize((LayerId("conv"),)), Job()),
        lambda session: session.apply(PruneChannels((LayerId("conv"),), 0.5), Job()),
    ],
)
def test_lack_of_memory_is_named_and_changes_nothing(
    session_of: Callable[..., ModelSession], operation: Callable[[ModelSession], object]
) -> None:
    session = session_of(Greedy(), 1, 1, 8, 8)
    session.load_data("digits", Job())
    before, state = session.snapshot, session.fingerprint()
    with pytest.raises(OutOfMemory):
        operation(session)
    assert session.snapshot == before
    assert session.fingerprint() == state


def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(ModelNotFound, match="resnet51"):
        open_model("resnet51", Job())


def test_a_preview_tells_no_measurement() -> None:
    """Totals of an effect are what is counted or modelled, even where nothing was right."""
    session = fresh()
    labels = datasets.digits().validation.labels
    wrong = Split(datasets.digits().validation.images, (labels + 1) % 10)
    session._data = dataclasses.replace(datasets.digits(), validation=wrong)
    table = session.evaluate(Job()).snapshot.current.table
    assert table[ACCURACY.key].total.value < 0.05
    session.measure_latency(Job())
    effect = session.preview(EDITS[0], Job())
    assert set(effect.before) == set(effect.after) == {"parameters", "macs", "size", "energy"}


# Recipes


def recorded(folder: Path, edits: tuple[Edit, ...] = EDITS) -> tuple[ModelSession, Path]:
    session = fresh()
    for edit in edits:
        session.apply(edit, Job())
    path = folder / "recipe.json"
    session.save_recipe(str(path), Job())
    return session, path


def test_a_replayed_recipe_gives_the_same_bits(tmp_path: Path) -> None:
    made, path = recorded(tmp_path)
    again = fresh(data=False)  # decisions are copied, not made again
    change = again.apply_recipe(str(path), Job())
    assert change.snapshot.cursor == len(EDITS)
    assert prints(again) == prints(made)
    assert torch.equal(outputs(again), outputs(made))
    assert again.snapshot.current == made.snapshot.current
    assert [one.edit for one in again.snapshot.history] == list(EDITS)
    assert change.layers == {layer for at in range(1, 8) for layer in made._touched[made._id(at)]}
    again.go_to(0, Job())
    assert again.fingerprint() == made.fingerprint(0)


def test_a_recipe_holds_the_applied_edits_only(tmp_path: Path) -> None:
    session = fresh()
    for edit in EDITS[:3]:
        session.apply(edit, Job())
    session.go_to(2, Job())
    session.save_recipe(str(tmp_path / "recipe.json"), Job())
    again = fresh()
    snapshot = again.apply_recipe(str(tmp_path / "recipe.json"), Job()).snapshot
    assert len(snapshot.history) == snapshot.cursor == 2
    assert again.fingerprint() == session.fingerprint()


def test_a_recipe_of_other_weights_is_refused(tmp_path: Path) -> None:
    _, path = recorded(tmp_path, EDITS[:1])
    architecture = build("demo")
    other = dataclasses.replace(opened(), model=architecture.model)
    session = ModelSession(other)
    before = session.snapshot
    with pytest.raises(RecipeMismatch, match="other weights"):
        session.apply_recipe(str(path), Job())
    assert session.snapshot == before


def test_a_recipe_starts_from_the_base(tmp_path: Path) -> None:
    made, path = recorded(tmp_path, EDITS[:2])
    session = fresh()
    session.apply(EDITS[3], Job())
    before = session.snapshot
    with pytest.raises(RecipeMismatch, match="edits are applied already"):
        session.apply_recipe(str(path), Job())
    assert session.snapshot == before
    session.undo(Job())
    assert session.apply_recipe(str(path), Job()).snapshot.cursor == 2
    assert session.fingerprint() == made.fingerprint()


def damaged(content: dict[str, Any], where: str) -> dict[str, Any]:
    """A recipe that reads, and whose last edit cannot be done."""
    edits = content["edits"]
    if where == "unknown layer":
        edits[-1]["decision"]["slices"][0]["layer"] = "nowhere.conv"
    elif where == "other size":
        edits[-1]["decision"]["slices"][0]["of"] = 1000
    elif where == "beyond the channels":
        edits[-1]["decision"]["slices"][0]["removed"] = [31, 32]
    elif where == "not coupled":
        del edits[-1]["decision"]["slices"][-1]
    elif where == "no convolution":
        edits[-1]["decision"]["slices"][0]["layer"] = "stem.relu"
    return content


@pytest.mark.parametrize(
    "where",
    ["unknown layer", "other size", "beyond the channels", "not coupled", "no convolution"],
)
def test_of_a_recipe_all_edits_are_applied_or_none(tmp_path: Path, where: str) -> None:
    _, path = recorded(tmp_path, (EDITS[3], EDITS[0]))
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(damaged(content, where)), encoding="utf-8")
    session = fresh()
    before, state = session.snapshot, session.fingerprint()
    with pytest.raises((RecipeMismatch, RecipeUnreadable)) as caught:
        session.apply_recipe(str(path), Job())
    assert str(caught.value)
    assert session.snapshot == before
    assert session.fingerprint() == state
    session.apply(EDITS[0], Job())


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not there"):
        fresh().apply_recipe(str(tmp_path / "none.json"), Job())


def test_random_weights_are_the_same_every_time() -> None:
    """So that a recipe for an untrained torchvision model fits again."""
    before = torch.get_rng_state()
    prints = {open_model("squeezenet1_1", Job()).fingerprint() for _ in range(2)}
    assert len(prints) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_tests_with_a_shared_base_have_left_it_as_it_was() -> None:
    assert fresh().fingerprint() == open_model("demo", Job()).fingerprint()


def test_the_sample_input_is_the_same_in_every_process() -> None:
    assert torch.equal(opened().inputs[0], sample_inputs([InputSpec((1, 1, 8, 8))])[0])
