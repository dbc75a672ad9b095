"""Quantization in the real window over the real engine: the range, the count, AdaRound kept."""

import pytest
from PySide6.QtWidgets import QLabel, QPushButton

from engine import LayerId, Quantize, RoundingProgress
from gui import operations
from gui.views.edit_panel import EditPanel
from gui.views.range_block import RangeBlock

CONV, BLOCK = LayerId("stage1.block0.conv1"), LayerId("stage1.block0")
UNTIL = 30_000


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def desk(demo):
    demo.settings.measure_after_edit = False
    return demo


def _text(desk, name: str) -> str:
    return desk.window.findChild(QLabel, name).text()


def test_a_layer_is_rounded_with_its_range_in_sight(desk) -> None:
    before = _text(desk, "quantizedCount")
    assert before.startswith("0 of ")
    panel = desk.window.findChild(EditPanel)
    desk.window.selection.set((CONV,))
    panel.choose_method("quantize")
    panel.form.set_values({**panel.form.values, "weight_bits": 4, "observer": "percentile"})
    desk.settle()
    assert "int8: " in _text(desk, "rangeWords")
    assert "clipped" in _text(desk, "rangeWords")  # a ten-thousandth lies beyond the percentile
    shown = desk.window.findChild(RangeBlock).plot.shown
    desk.window.findChild(QPushButton, "applyEdit").click()
    desk.settle()
    assert not desk.errors
    entry = desk.snapshot.history[-1]
    assert entry.edit == Quantize((CONV,), 4, observer="percentile")
    assert _text(desk, "quantizedCount") == before.replace("0 of", "1 of", 1)
    again = desk.window.findChild(RangeBlock).plot.shown
    assert again == shown  # the same values, and its own grid over them
    desk.window.selection.set((BLOCK,))
    panel.choose_method("quantize")
    desk.settle()
    assert "in 256 samples" in _text(desk, "rangeTitle")  # of the sum's first operand


@pytest.mark.slow
def test_adaround_leaves_the_window_alive_and_keeps_what_is_done(desk) -> None:
    edit = Quantize((CONV, LayerId("stage1.block0.conv2")), 3, rounding="adaround")
    operations.apply_edit(desk.document, edit)
    desk.qtbot.waitUntil(lambda: desk.document.training.better, timeout=UNTIL)
    news = desk.document.training.news
    assert isinstance(news.progress, RoundingProgress)
    assert _text(desk, "trainingState").startswith("layer 2 of 2")
    effects: list[object] = []
    desk.document.preview(Quantize((LayerId("head.fc"),)), effects.append)
    desk.qtbot.waitUntil(lambda: len(effects) == 1, timeout=UNTIL)
    desk.trigger("keep_training")
    desk.settle()
    assert not desk.errors
    assert desk.snapshot.history[-1].edit == edit
    assert _text(desk, "quantizedCount").startswith("2 of ")
