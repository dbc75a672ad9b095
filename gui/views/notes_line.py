"""What opening the model found, in one quiet line that can be sent away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QToolButton, QWidget

from engine import Change, Part, Snapshot
from gui import format as fmt
from gui.theme import Theme
from gui.views.parts import ElidedLabel
from gui.widgets import named, row

if TYPE_CHECKING:
    from gui.document import Document


class NotesLine(QWidget):
    """The first note, how many more there are, and the way to all of them.

    Signals:
        information_wanted: the user wants to read all of it.
    """

    information_wanted = Signal()

    def __init__(self, document: Document, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("notesLine")
        self._text = ElidedLabel("notesText", "muted")
        self._more = self._button("notesMore", self.tr("Model information…"))
        self._more.clicked.connect(self.information_wanted)
        away = self._button("notesDismiss", "")
        away.setIcon(theme.icon("ph.x"))
        away.setToolTip(self.tr("Dismiss; File, Model information keeps it"))
        away.setAccessibleName(self.tr("Dismiss"))
        away.clicked.connect(self.hide)
        layout = row(self)
        layout.setContentsMargins(12, 2, 8, 2)
        layout.addWidget(self._text, 1)
        layout.addWidget(self._more)
        layout.addWidget(away)
        document.changed.connect(self._follow)
        self._show(document.snapshot)

    def _button(self, name: str, text: str) -> QToolButton:
        button = named(QToolButton(self), name)
        button.setText(text)
        button.setAutoRaise(True)
        return button

    def _follow(self, change: Change) -> None:
        if change.parts & Part.MODEL:
            self._show(change.snapshot)

    def _show(self, snapshot: Snapshot | None) -> None:
        notes = snapshot.model.notes if snapshot is not None else ()
        more = self.tr("and %s more") % (len(notes) - 1) if len(notes) > 1 else ""
        first = fmt.visible(notes[0]) if notes else ""
        self._text.show_text(f"{first}  {more}".rstrip())
        self._text.setToolTip(fmt.tooltip("\n".join(fmt.visible(note) for note in notes)))
        self.setVisible(bool(notes))
