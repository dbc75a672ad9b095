"""The document over the real engine: one change for each commit, order, failing, undo."""

from pathlib import Path

from engine import METRICS, ROOT, Change, Effect, EngineError, LayerId, Part, PruneChannels
from gui import operations


def _edit(desk, ratio: float = 0.5) -> PruneChannels:
    layers = (one.id for one in desk.snapshot.current.tree if "prune-channels" in one.methods)
    return PruneChannels((next(layers),), ratio)


def _no_follow_ups(desk) -> None:
    desk.settings.measure_after_edit = False
    desk.changes.clear()


def test_opening_evaluates_and_measures_by_itself(demo) -> None:
    assert demo.changes[0].parts & Part.MODEL
    assert demo.snapshot.current.table.total(METRICS["accuracy"]) is not None
    assert demo.snapshot.current.table.total(METRICS["latency"]) is not None
    assert [bool(change.parts & Part.MODEL) for change in demo.changes] == [True, False, False]


def test_an_edit_never_lands_on_a_model_opened_meanwhile(demo) -> None:
    _no_follow_ups(demo)
    edit = _edit(demo)
    operations.open_demo(demo.document)
    operations.apply_edit(demo.document, edit)  # aimed at the model that is still shown
    demo.settle()
    assert demo.snapshot.cursor == 0
    assert demo.snapshot.history == ()


def test_each_commit_is_one_change(demo) -> None:
    _no_follow_ups(demo)
    operations.apply_edit(demo.document, _edit(demo))
    demo.settle()
    assert len(demo.changes) == 1
    assert demo.changes[0].parts & Part.LAYERS
    assert demo.changes[0].snapshot is demo.snapshot


def test_an_edit_is_followed_by_measuring(demo) -> None:
    operations.apply_edit(demo.document, _edit(demo))
    demo.settle()
    assert demo.snapshot.cursor == 1
    assert "accuracy" in demo.snapshot.current.table
    assert "latency" in demo.snapshot.current.table


def test_undone_twice_in_a_row_before_the_first_has_ended(demo) -> None:
    _no_follow_ups(demo)
    for ratio in (0.25, 0.5):
        operations.apply_edit(demo.document, _edit(demo, ratio))
    operations.undo(demo.document)
    operations.undo(demo.document)
    operations.undo(demo.document)  # there is nothing more to undo, which is no error
    demo.settle()
    assert demo.snapshot.cursor == 0
    assert len(demo.snapshot.history) == 2
    assert len(demo.changes) == 4
    operations.redo(demo.document)
    demo.settle()
    assert demo.snapshot.cursor == 1


def test_undo_finds_the_measurements_again(demo) -> None:
    before = demo.snapshot.current.table.total(METRICS["latency"])
    operations.apply_edit(demo.document, _edit(demo))
    demo.settle()
    demo.changes.clear()
    operations.undo(demo.document)
    demo.settle()
    assert demo.snapshot.current.table.total(METRICS["latency"]) == before
    assert len(demo.changes) == 1


def test_a_preview_changes_nothing(demo) -> None:
    demo.changes.clear()
    effects: list[Effect | EngineError | None] = []
    demo.document.preview(_edit(demo, 0.25), effects.append)
    edit = _edit(demo, 0.5)
    demo.document.preview(edit, effects.append)
    demo.settle()
    assert [effect.edit for effect in effects if isinstance(effect, Effect)] == [edit]
    assert demo.changes == []


def test_a_refused_preview_says_why(demo) -> None:
    effects: list[Effect | EngineError | None] = []
    demo.document.preview(PruneChannels((LayerId("no.such.layer"),), 0.5), effects.append)
    demo.settle()
    assert isinstance(effects[0], EngineError)
    assert not demo.errors


def test_a_wrong_file_keeps_the_open_model(demo, tmp_path: Path) -> None:
    wrong = tmp_path / "letter.safetensors"
    wrong.write_text("Dear model")
    before = demo.snapshot
    operations.open_model(demo.document, str(wrong))
    assert demo.document.opening
    demo.settle()
    assert isinstance(demo.errors[0], EngineError)
    assert demo.snapshot is before
    assert not demo.document.opening
    operations.evaluate(demo.document)  # and the model still works
    demo.settle()
    assert len(demo.errors) == 1


def test_without_a_model_an_operation_says_what_to_do(desk) -> None:
    operations.evaluate(desk.document)
    desk.settle()
    assert isinstance(desk.errors[0], EngineError)
    assert desk.errors[0].remedy


def test_a_second_file_replaces_the_first(demo, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    operations.apply_edit(demo.document, _edit(demo))
    operations.export_checkpoint(demo.document, str(path))
    demo.settle()
    pruned = demo.snapshot.current.table.total(METRICS["parameters"])
    operations.open_model(demo.document, str(path))
    demo.settle()
    assert not demo.errors
    assert demo.snapshot.cursor == 0
    assert demo.snapshot.base.table.total(METRICS["parameters"]) == pruned
    assert demo.settings.recent == (demo.snapshot.model.source,)


def test_limits_are_set_replaced_and_removed_one_by_one(demo) -> None:
    energy, size = METRICS["energy"], METRICS["size"]
    operations.set_limit(demo.document, energy, 0.5, relative=True)
    operations.set_limit(demo.document, size, 1e9)
    operations.set_limit(demo.document, size, 1.0)
    demo.settle()
    met = {status.limit.metric: status.met for status in demo.snapshot.limits}
    assert met == {energy: False, size: False}
    operations.clear_limit(demo.document, energy)
    demo.settle()
    assert [status.limit.metric for status in demo.snapshot.limits] == [size]
    operations.clear_limits(demo.document)
    demo.settle()
    assert demo.snapshot.limits == ()


def test_the_changed_layers_are_named_when_opening(demo) -> None:
    change: Change = demo.changes[0]
    assert ROOT in change.layers
    assert len(change.layers) == len(change.snapshot.current.tree)
