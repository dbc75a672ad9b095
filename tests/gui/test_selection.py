"""The shared selection."""

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
