"""AdaRound in the background: in slices, paused, taken up again, with the same bits."""

from pathlib import Path

import pytest

from engine.edits import LayersQuantized, Quantize
from engine.errors import EditRefused
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.recovery import rounding as module
from engine.recovery.rounding import Rounding
from engine.session import ModelSession
from engine.state import RoundingProgress

LAYERS = tuple(map(LayerId, ("stage1.block0.conv1", "stage2.depthwise.conv", "head.fc")))
ASKED = Quantize(LAYERS, weight_bits=3, rounding="adaround", calibration_samples=64)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is learned is kept here, and not among the user's; and there is less to learn."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("engine.quantization.adaround.STEPS", "engine.quantization.repair.STEPS"):
        monkeypatch.setattr(name, 20)
    return tmp_path / "cache" / "secateur" / "tuning"


def ended(rounding: Rounding) -> LayersQuantized:
    while rounding.step(Job(), seconds=0.01):
        pass
    decision = rounding.finish().decision
    assert isinstance(decision, LayersQuantized)
    return decision


def test_slices_give_what_applying_it_gives(demo: ModelSession, job: Job, cache: Path) -> None:
    rounding = demo.start_tuning(ASKED, job)
    assert not rounding.resumed
    seen = []
    told = Job()
    while rounding.step(told, seconds=0.0005):
        assert isinstance(told.partial, RoundingProgress)
        seen.append(told.partial)
    assert len(seen) > 10
    assert [one.at for one in seen] == sorted(one.at for one in seen)
    assert {one.layer for one in seen} - {""} == set(LAYERS)
    assert rounding.progress.at == rounding.progress.of == 3
    assert all(0 < loss < 3 for _, loss in rounding.progress.losses)
    before = demo.fingerprint()
    demo.commit_tuning(rounding, job)
    in_slices = demo.fingerprint()
    assert not list(cache.glob("*"))
    demo.undo(job)
    assert demo.fingerprint() == before
    demo.apply(ASKED, job)
    assert demo.fingerprint() == in_slices


def test_one_that_was_interrupted_goes_on_behind_its_last_whole_layer(
    demo: ModelSession, job: Job, cache: Path
) -> None:
    wanted = ended(demo.start_tuning(ASKED, job))
    for path in cache.glob("*"):
        path.unlink()
    first = demo.start_tuning(ASKED, job)
    while first.progress.at < 1.5:
        first.step(job, seconds=0.0005)
    assert list(cache.glob("*.safetensors"))
    second = demo.start_tuning(ASKED, job)  # as after a crash: nothing was told to the first
    assert second.resumed
    assert second.progress.at == 1
    assert ended(second) == wanted
    second.discard()
    assert not list(cache.glob("*"))


def test_another_edit_starts_anew(demo: ModelSession, job: Job) -> None:
    ended(demo.start_tuning(ASKED, job))
    other = Quantize(LAYERS, weight_bits=4, rounding="adaround", calibration_samples=64)
    assert not demo.start_tuning(other, job).resumed


def test_ended_early_the_rest_is_rounded_to_the_nearest(demo: ModelSession, job: Job) -> None:
    rounding = demo.start_tuning(ASKED, job)
    while rounding.progress.at <= 1:
        rounding.step(job, seconds=0.0005)
    demo.commit_tuning(rounding, job)
    decision = demo._edits[0].decision
    assert isinstance(decision, LayersQuantized)
    names = [[stored.name for stored in one.tensors] for one in decision.layers]
    assert names == [["weight", "bias"], ["bias"], ["bias"]]
    assert all(demo.snapshot.current.tree[one].weight_bits == 3 for one in LAYERS)


def test_cancelled_it_can_go_on(demo: ModelSession, job: Job) -> None:
    rounding = demo.start_tuning(ASKED, job)
    rounding.step(job, seconds=0.001)
    stopped = Job()
    stopped.cancel()
    with pytest.raises(Cancelled):
        rounding.step(stopped)
    wanted = ended(rounding)
    assert wanted == ended(demo.start_tuning(ASKED, job))


def test_after_another_edit_it_is_refused(demo: ModelSession, job: Job) -> None:
    rounding = demo.start_tuning(ASKED, job)
    demo.apply(Quantize(LAYERS[:1]), job)
    with pytest.raises(EditRefused, match="edited since"):
        demo.commit_tuning(rounding, job)


def test_what_has_nothing_to_learn_is_refused(demo: ModelSession, job: Job) -> None:
    with pytest.raises(EditRefused, match="nothing to learn"):
        demo.start_tuning(Quantize(LAYERS), job)


def test_a_disk_that_cannot_be_written_is_told_and_not_raised(
    demo: ModelSession, job: Job, cache: Path
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    rounding = demo.start_tuning(ASKED, job)
    decision = ended(rounding)
    assert "would start anew" in rounding.problem
    assert all(one.tensors for one in decision.layers)
    assert module.SLICE_SECONDS < 1
