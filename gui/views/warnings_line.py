"""What was found wrong with the model as it stands, in one line above the panels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QToolButton, QWidget

from engine import RECOVERING, Change, Part, Snapshot
from gui import format as fmt
from gui.theme import Theme
from gui.views.parts import ElidedLabel
from gui.views.warning_list import WarningMark
from gui.widgets import named, row

if TYPE_CHECKING:
    from gui.document import Document

_SHOWN_PARTS = Part.MODEL | Part.HISTORY


class WarningsLine(QWidget):
    """The last warning and how many more there are; away until there are others."""

    def __init__(self, document: Document, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("warningsLine")
        self._dismissed: tuple[str, ...] = ()
        self._texts: tuple[str, ...] = ()
        self._text = ElidedLabel("warningsText", elide=Qt.TextElideMode.ElideRight)
        away = named(QToolButton(self), "warningsDismiss")
        away.setAutoRaise(True)
        away.setIcon(theme.icon("ph.x"))
        away.setToolTip(self.tr("Dismiss; the history keeps it"))
        away.setAccessibleName(self.tr("Dismiss"))
        away.clicked.connect(self._dismiss)
        layout = row(self)
        layout.setContentsMargins(12, 2, 8, 2)
        layout.addWidget(WarningMark(theme))
        layout.addWidget(self._text, 1)
        layout.addWidget(away)
        document.changed.connect(self._follow)
        self._show(document.snapshot)

    @Slot(object)
    def _follow(self, change: Change) -> None:
        if change.parts & _SHOWN_PARTS:
            self._show(change.snapshot)

    def _show(self, snapshot: Snapshot | None) -> None:
        self._texts = standing_warnings(snapshot) if snapshot is not None else ()
        first = self.tr("Warning: %s") % self._texts[-1] if self._texts else ""
        more = self.tr("(and %s more)") % (len(self._texts) - 1) if len(self._texts) > 1 else ""
        self._text.show_text(fmt.visible(f"{first} {more}".rstrip()))
        self._text.setToolTip(fmt.tooltip("\n".join(self._texts)))
        self.setVisible(bool(self._texts) and self._texts != self._dismissed)

    @Slot()
    def _dismiss(self) -> None:
        self._dismissed = self._texts
        self.hide()


def standing_warnings(snapshot: Snapshot) -> tuple[str, ...]:
    """Of the edits that are applied, from the last recovery on: that may have mended the rest."""
    found: list[str] = []
    for entry in snapshot.history[: snapshot.cursor]:
        if type(entry.edit) in RECOVERING:
            found.clear()
        found.extend(one for one in entry.warnings if one not in found)
    return tuple(found)
