"""Recovery in the real window over the real engine: train, pause, stop, go on, and what waits."""

import pytest
from PySide6.QtWidgets import QComboBox, QDialog, QLabel, QPushButton, QSpinBox

from engine import METRICS, ROOT, FineTune, LayerId, PruneChannels, RecalibrateNorms
from gui import operations
from gui.actions import Spec
from gui.views.recovery_panel import RecoveryPanel

CONV, NEXT = LayerId("stage1.block0.conv1"), LayerId("stage1.block1.conv1")
ACCURACY = METRICS["accuracy"]
LONG = 500  # epochs: it does not end by itself
UNTIL = 30_000


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def pruned(demo):
    """The demo with so many channels gone that it has to be recovered, evaluated."""
    demo.settings.measure_after_edit = False
    operations.apply_edit(demo.document, PruneChannels((CONV, NEXT), 0.75, multiple=1))
    demo.settle()
    operations.evaluate(demo.document)
    demo.settle()
    assert _accuracy(demo) < 0.6
    return demo


def _accuracy(desk) -> float:
    return desk.snapshot.current.table.total(ACCURACY).value


def _panel(desk) -> RecoveryPanel:
    panel = desk.window.findChild(RecoveryPanel)
    assert panel is not None
    return panel


def _text(desk, name: str) -> str:
    return _panel(desk).findChild(QLabel, name).text()


def _train(desk, epochs: int = LONG) -> None:
    """Start by the panel, and wait for the second epoch."""
    desk.trigger("tune")
    _panel(desk).findChild(QSpinBox, "tune_epochs").setValue(epochs)
    _panel(desk).findChild(QPushButton, "startRecovery").click()
    desk.qtbot.waitUntil(lambda: _epoch(desk) > 1.2, timeout=UNTIL)


def _epoch(desk) -> float:
    news = desk.document.training.news
    return news.progress.epoch if news is not None and news.progress is not None else 0.0


def test_fine_tuning_wins_accuracy_back_and_can_be_undone(pruned) -> None:
    before = _accuracy(pruned)
    assert pruned.snapshot.before_recovery
    pruned.settings.measure_after_edit = True
    _train(pruned, epochs=2)
    pruned.settle()
    assert not pruned.errors
    assert [type(one.edit) for one in pruned.snapshot.history] == [PruneChannels, FineTune]
    assert not pruned.snapshot.before_recovery
    assert _accuracy(pruned) > 0.9
    shown = _text(pruned, "trainingResult")
    assert shown.startswith(f"accuracy {before * 100:.1f} % → {_accuracy(pruned) * 100:.1f} %")
    pruned.trigger("undo")
    pruned.settle()
    assert _accuracy(pruned) == before


def test_the_window_works_while_a_model_is_trained(pruned) -> None:
    _train(pruned)
    before = _epoch(pruned)
    effects: list[object] = []
    pruned.document.preview(PruneChannels((CONV,), 0.5), effects.append)
    pruned.qtbot.waitUntil(lambda: len(effects) == 1, timeout=UNTIL)
    operations.evaluate(pruned.document)
    changes = len(pruned.changes)
    pruned.qtbot.waitUntil(lambda: len(pruned.changes) > changes, timeout=UNTIL)
    pruned.window.selection.set((CONV,))
    apply = pruned.window.findChild(QPushButton, "applyEdit")
    assert not apply.isEnabled()
    assert "Stop it first" in apply.toolTip()
    waiting = [spec for spec, action in pruned.window.commands if _waits(spec, action)]
    assert {"undo", "apply_recipe"} <= {spec.id for spec in waiting}
    pruned.qtbot.waitUntil(lambda: _epoch(pruned) > before, timeout=UNTIL)
    pruned.trigger("keep_training")
    pruned.settle()
    assert type(pruned.snapshot.history[-1].edit) is FineTune
    assert pruned.window.commands["undo"].isEnabled()
    assert not pruned.errors


def _waits(spec: Spec, action) -> bool:
    return not action.isEnabled() and "Stop it first" in action.toolTip()


def test_stopped_it_goes_on_another_time_unless_it_is_discarded(pruned) -> None:
    _train(pruned)
    pruned.trigger("pause_training")
    pruned.qtbot.waitUntil(lambda: "paused" in _text(pruned, "trainingState"))
    pruned.trigger("cancel_all")
    pruned.settle()
    assert "will go on" in _text(pruned, "trainingState")
    assert len(pruned.snapshot.history) == 1
    _train(pruned)
    assert "taken up again after epoch" in _text(pruned, "trainingState")
    pruned.trigger("discard_training")
    pruned.settle()
    _train(pruned)
    assert "taken up again" not in _text(pruned, "trainingState")
    pruned.trigger("discard_training")
    pruned.settle()
    assert not pruned.errors


def test_batch_norms_are_recalibrated(pruned) -> None:
    before = _accuracy(pruned)
    pruned.trigger("recalibrate")
    _panel(pruned).findChild(QPushButton, "startRecovery").click()
    pruned.settle()
    operations.evaluate(pruned.document)
    pruned.settle()
    assert pruned.snapshot.history[-1].edit == RecalibrateNorms((ROOT,))
    assert _accuracy(pruned) > before
    assert not pruned.errors


def test_what_is_planned_is_pruned_gradually(demo) -> None:
    demo.settings.measure_after_edit = False
    demo.window.selection.set((NEXT,))
    demo.trigger("prune_gradually")
    panel = _panel(demo)
    panel.findChild(QSpinBox, "gradual_steps").setValue(2)
    panel.findChild(QComboBox, "gradual_kind").setCurrentIndex(1)
    planned = panel.findChild(QLabel, "gradualEdit").text()
    assert str(NEXT) in planned
    panel.findChild(QPushButton, "startRecovery").click()
    demo.settle()
    assert not demo.errors
    kinds = [type(one.edit) for one in demo.snapshot.history]
    assert kinds[0] is PruneChannels
    assert kinds.count(PruneChannels) == 2
    assert demo.snapshot.cursor == len(kinds)
    channels = demo.snapshot.base.tree[NEXT].channels
    assert demo.snapshot.current.tree[NEXT].channels < channels


def test_closing_asks_first(pruned) -> None:
    _train(pruned)
    pruned.window.close()
    dialog = pruned.window.findChild(QDialog, "stop_training")
    assert dialog is not None
    assert pruned.window.isVisible()
    dialog.reject()
    assert pruned.document.tuning
    pruned.window.close()
    (dialog,) = (
        one for one in pruned.window.findChildren(QDialog, "stop_training") if one.isVisible()
    )
    dialog.accept()
    assert not pruned.window.isVisible()
    assert not pruned.jobs.active


def test_closing_twice_means_it(pruned) -> None:
    _train(pruned)
    pruned.window.close()
    pruned.window.close()
    assert not pruned.window.isVisible()
    assert not pruned.jobs.active


def test_opening_another_model_asks_first(pruned) -> None:
    from gui import dialogs

    pruned.document.answerer = lambda request, error: dialogs.answer(
        pruned.document, pruned.window, request, error
    )
    _train(pruned)
    pruned.trigger("open_demo")
    dialog = pruned.window.findChild(QDialog, "stop_training")
    assert dialog is not None
    assert pruned.document.tuning
    dialog.accept()
    pruned.settle()
    assert pruned.snapshot.cursor == 0
    assert not pruned.document.tuning
    assert _text(pruned, "trainingTitle") == ""
    assert not pruned.errors
