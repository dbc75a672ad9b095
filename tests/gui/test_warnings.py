"""Warnings of quantization: told from notes before it, and kept in sight behind it."""

from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QToolButton, QWidget
from pytestqt.qtbot import QtBot

from engine import ROOT, FineTune, HistoryEntry, LayerId, Quantize, Snapshot
from gui.models.history_model import HistoryModel, HistoryRole
from gui.selection import Selection
from gui.theme import Theme
from gui.views.effect_view import EffectView
from gui.views.history import HistoryView
from gui.views.warning_list import WarningList, WarningMark
from gui.views.warnings_line import WarningsLine, standing_warnings
from tests.gui.conftest import effect_of

FC = LayerId("head.fc")
EDIT = Quantize((FC,))
COLLAPSE = "All <64> samples fall into one class."


@pytest.fixture
def collapsed(pruned: Snapshot) -> Snapshot:
    """The edited model behind a quantization that went wrong."""
    entry = HistoryEntry(EDIT, pruned.current.table, warnings=(COLLAPSE, "No VNNI."))
    return replace(pruned, history=(*pruned.history, entry), cursor=2)


def test_an_effect_tells_warnings_from_notes(qtbot: QtBot, theme: Theme) -> None:
    view = EffectView(theme, Selection(), QWidget())
    qtbot.addWidget(view)
    view.show()
    effect = replace(effect_of(EDIT), notes=("Calibrated.",), warnings=("Few <steps> are left.",))
    view.show_effect(effect)
    warned: Any = view.findChild(WarningList)
    assert warned.texts == ("Few <steps> are left.",)
    assert warned.isVisible()
    text: Any = warned.findChild(QLabel, "warning")
    assert text.text() == "Warning: Few <steps> are left."
    mark: Any = warned.findChild(WarningMark)
    assert not mark.pixmap().isNull()
    notes: Any = view.findChild(QLabel, "effectNotes")
    assert notes.text() == "Calibrated."
    view.show_effect(replace(effect, warnings=()))
    assert not warned.isVisible()
    view.show_effect(effect)
    view.clear()
    assert not warned.isVisible()


def test_the_mark_follows_the_theme(qtbot: QtBot, theme: Theme) -> None:
    mark = WarningMark(theme)
    qtbot.addWidget(mark)
    light = mark.pixmap().toImage()
    theme.set_mode("dark")
    assert mark.pixmap().toImage() != light
    theme.set_mode("light")


def test_what_stands_is_from_the_last_recovery_on(collapsed: Snapshot) -> None:
    assert standing_warnings(collapsed) == (COLLAPSE, "No VNNI.")
    assert standing_warnings(replace(collapsed, cursor=1)) == ()
    tuned = HistoryEntry(FineTune((ROOT,)), collapsed.current.table)
    after = replace(collapsed, history=(*collapsed.history, tuned), cursor=3)
    assert standing_warnings(after) == ()
    again = (*after.history, collapsed.history[-1])
    assert standing_warnings(replace(after, history=again, cursor=4)) == (COLLAPSE, "No VNNI.")


def test_a_line_says_it_until_it_is_dismissed(
    qtbot: QtBot, fake_document: Any, theme: Theme, pruned: Snapshot, collapsed: Snapshot
) -> None:
    line = WarningsLine(fake_document, theme)
    qtbot.addWidget(line)
    assert not line.isVisible()
    fake_document.show(collapsed)
    assert line.isVisible()
    text: Any = line.findChild(QLabel, "warningsText")
    assert text.text() == "Warning: No VNNI. (and 1 more)"
    assert "All &lt;64&gt; samples" in text.toolTip()
    away: Any = line.findChild(QToolButton, "warningsDismiss")
    away.click()
    assert not line.isVisible()
    fake_document.show(collapsed)
    assert not line.isVisible()
    fake_document.show(pruned)
    other = replace(collapsed.history[-1], warnings=("Another.",))
    fake_document.show(replace(collapsed, history=(*pruned.history, other)))
    assert line.isVisible()
    assert text.text() == "Warning: Another."


def test_the_history_keeps_them(
    qtbot: QtBot, fake_document: Any, theme: Theme, collapsed: Snapshot
) -> None:
    model = HistoryModel()
    model.set_snapshot(collapsed)
    assert not model.index(1).data(HistoryRole.WARNINGS)
    assert model.index(2).data(HistoryRole.WARNINGS) == (COLLAPSE, "No VNNI.")
    tip = model.index(2).data(Qt.ItemDataRole.ToolTipRole)
    assert "Warning: All &lt;64&gt; samples fall into one class." in tip
    spoken = model.index(2).data(Qt.ItemDataRole.AccessibleTextRole)
    assert f"Warning: {COLLAPSE}" in spoken
    plain = replace(collapsed.history[-1], warnings=())
    fake_document.snapshot = replace(collapsed, history=(collapsed.history[0], plain))
    view = HistoryView(fake_document, theme)
    qtbot.addWidget(view)
    view.resize(300, 140)
    view.show()
    unmarked = view.grab().toImage()
    fake_document.show(collapsed)
    assert view.grab().toImage() != unmarked
