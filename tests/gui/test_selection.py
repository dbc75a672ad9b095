"""The shared selection."""

import time

from PySide6.QtCore import QObject
from pytestqt.qtbot import QtBot

from engine import LayerId
from gui.selection import Selection

A, B = LayerId("a"), LayerId("b")


def test_tells_who_selected_what(qtbot: QtBot) -> None:
    selection, view = Selection(), QObject()
    seen: list[object] = []
    selection.changed.connect(lambda layers: seen.append((layers, selection.origin)))
    selection.set([A, B, A], view)
    assert seen == [((A, B), view)]
    assert selection.layers == (A, B)
    assert selection.origin is None


def test_the_same_again_is_no_news(qtbot: QtBot) -> None:
    selection = Selection()
    selection.set([A])
    with qtbot.assertNotEmitted(selection.changed):
        selection.set([A])


def test_a_click_selects_one_and_with_control_one_more_or_less() -> None:
    selection, view = Selection(), QObject()
    origins: list[object] = []
    selection.changed.connect(lambda _: origins.append(selection.origin))
    selection.pick(A, adds=False, origin=view)
    selection.pick(B, adds=True)
    assert selection.layers == (A, B)
    selection.pick(A, adds=True)
    assert selection.layers == (B,)
    selection.pick(A, adds=False)
    assert selection.layers == (A,)
    assert origins == [view, None, None, None]


def test_containers_cover_what_is_in_them() -> None:
    selection = Selection()
    selection.set([LayerId("stage1")])
    assert selection.covers(LayerId("stage1"))
    assert selection.covers(LayerId("stage1.block0.conv1"))
    assert not selection.covers(LayerId("stage10"))
    selection.set([LayerId("")])
    assert selection.covers(LayerId(""))
    assert not selection.covers(LayerId("stage1"))  # the model itself, not all of it


def test_ten_thousand_selected_layers_are_looked_up_at_once() -> None:
    selection = Selection()
    layers = [LayerId(f"stage{at}.conv") for at in range(10_000)]
    selection.set(layers)
    started = time.process_time()
    assert all(map(selection.covers, layers))
    assert not selection.covers(LayerId("stage1"))
    assert time.process_time() - started < 1.0  # a hundredth of it where nothing else runs
