"""Asks whether a training that is under way may be stopped for something else."""

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from gui.dialogs.question import Question
from gui.document import Document


def ask_to_stop(document: Document, parent: QWidget, verb: str) -> "StopDialog":
    """Ask, and return the open dialog; the training goes on meanwhile."""
    dialog = StopDialog(verb, document.training.title, parent)
    dialog.open()
    return dialog


class StopDialog(Question):
    """Says that nothing of the training is lost; Enter lets it go on.

    Signals:
        stop_wanted: stop it, and do the other thing.
    """

    stop_wanted = Signal()

    def __init__(self, verb: str, where: str, parent: QWidget | None = None) -> None:
        super().__init__("stop_training", "", parent)
        self.setWindowTitle(self.tr("Training is under way"))
        self.head(self.tr("Stop the training?"))
        self.say(where, "stop_training_where")
        self.say(
            self.tr(
                "What has been trained stays on disk: the same training of the same state of this "
                "model goes on from there. To use the best weights now, stop it from the panel "
                "Recover and keep them."
            ),
            "stop_training_offer",
            "muted",
        )
        self.answers(verb, safe=False)

    def accept(self) -> None:
        super().accept()
        self.stop_wanted.emit()
