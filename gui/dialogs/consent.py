"""Asks whether what a file names may run; the safe answer is the one that Enter gives."""

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from engine import Change, EngineError, Part
from gui import format as fmt
from gui.dialogs.question import Question
from gui.views.parts import ElidedLabel
from gui.widgets import plain_label

_DIGITS = 16  # of the digest: enough to compare two by eye


class ConsentDialog(Question):
    """Names the file and what it would call.

    Signals:
        allowed: the digest of the content that may run.

    Args:
        error: its details are those of ``ConsentNeeded``.
        source: what was asked for, as the user gave it.
        verb: on the button that allows it.
    """

    allowed = Signal(str)

    def __init__(
        self, error: EngineError, source: str, verb: str, parent: QWidget | None = None
    ) -> None:
        super().__init__("consent", "", parent)
        self.setWindowTitle(self.tr("This file can run code"))
        self._digest = str(error.details.get("digest", ""))
        runs = tuple(str(name) for name in error.details.get("runs", ()))
        what = fmt.visible(str(error.details.get("what", "")) or source, 120)
        self.head(self.tr("Run what {what} names?").replace("{what}", what))
        self.say(str(error), "consent_reason")
        self._say_where(source)
        self._list(runs)
        self.say(error.remedy, "consent_advice", "muted")
        self.answers(verb, safe=False)
        copy = self.other_answer(self.tr("Copy"), "consent_copy")
        copy.setToolTip(self.tr("Copy the names, the file and its SHA-256"))
        self._text = "\n".join((str(error), source, self._digest, *runs))
        copy.clicked.connect(self._copy)

    def _say_where(self, source: str) -> None:
        place = ElidedLabel("consent_source", "muted")
        place.show_text(fmt.visible(source))
        self.body.addWidget(place)
        digest = plain_label(f"SHA-256 {self._digest[:_DIGITS]}…", "consent_digest", "muted")
        digest.setToolTip(fmt.tooltip(self._digest))
        self.body.addWidget(digest)

    def _list(self, runs: tuple[str, ...]) -> None:
        if not runs:
            self.say(self.tr("What it would call cannot be told before it runs."), "consent_runs")
            return
        self.say(self.tr("It would call:"))
        self.lines(runs, "consent_runs")

    def follow(self, change: Change) -> None:
        """Close without an answer when the model that was asked about is replaced."""
        if change.parts & Part.MODEL:
            self.reject()

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self._text)

    def accept(self) -> None:
        super().accept()
        self.allowed.emit(self._digest)
