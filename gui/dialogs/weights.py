"""Asks whether published weights may be fetched."""

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import QUrl, Signal
from PySide6.QtWidgets import QWidget

from engine import EngineError
from gui import format as fmt
from gui.dialogs.question import Question


class WeightsDialog(Question):
    """Says how much comes from where.

    Signals:
        download_wanted: fetch them.
        random_wanted: open the model without.
    """

    download_wanted = Signal()
    random_wanted = Signal()

    def __init__(self, error: EngineError, name: str, parent: QWidget | None = None) -> None:
        super().__init__("weights", "", parent)
        self.setWindowTitle(self.tr("Weights are not on this machine"))
        name = fmt.visible(name, 120)
        self.head(self.tr("Download the weights of {name}?").replace("{name}", name))
        size = _size(error.details)
        host = QUrl(str(error.details.get("url", ""))).host()
        self.say(str(error), "weights_reason")
        self.say(self._offer(size, host), "weights_offer", "muted")
        verb = self.tr("Download %s") % size if size else self.tr("Download")
        self.answers(verb)
        random = self.other_answer(self.tr("Open with random weights"), "weights_random")
        random.setToolTip(self.tr("Costs are the same; its accuracy means nothing"))
        random.clicked.connect(self._choose_random)

    def _offer(self, size: str, host: str) -> str:
        amount = size or self.tr("An unknown amount")
        where = host or self.tr("its publisher")
        return (
            self.tr("{amount} would come from {host} and stay in torch's cache on this machine.")
            .replace("{amount}", amount)
            .replace("{host}", where)
        )

    def _choose_random(self) -> None:
        self.reject()
        self.random_wanted.emit()

    def accept(self) -> None:
        super().accept()
        self.download_wanted.emit()


def _size(details: Mapping[str, Any]) -> str:
    size = details.get("bytes")
    return fmt.quantity(size, "B") if isinstance(size, int) else ""
