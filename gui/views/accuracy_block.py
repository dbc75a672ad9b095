"""Accuracy of the edit that is being drafted, beside the base model's, as it comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtWidgets import QGridLayout, QPushButton, QWidget

from engine import Cast, Comparison, Edit, EngineError, Equalize, Quantize, Smooth
from gui import format as fmt
from gui.models.live_accuracy import (
    accuracy_text,
    can_compare,
    explanation,
    is_quick,
    learns,
)
from gui.theme import Theme, scaled, tabular
from gui.views.interval_bar import IntervalBar
from gui.views.parts import ElidedLabel
from gui.widgets import column, named, plain_label, row

if TYPE_CHECKING:
    from gui.document import Document

_BUSY = 500  # milliseconds after which waiting is said


class AccuracyBlock(QWidget):
    """Asks by itself where that is quick, and on a button otherwise.

    Signals:
        answered: nothing is under way any more for the edit that was to be followed.
    """

    answered = Signal()

    def __init__(self, document: Document, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("accuracyBlock")
        self._document = document
        self._theme = theme
        self._edit: Edit | None = None
        self._verdict = ""
        self._title = plain_label("", "accuracyTitle", "caption")
        self._title.setContentsMargins(0, 8, 0, 0)
        self._value = plain_label("", "accuracyValue")
        self._value.setFont(tabular(self.font()))
        self._change = plain_label("", "accuracyChange")
        self._change.setFont(tabular(self.font()))
        self._bar = IntervalBar(theme)
        self._ground = ElidedLabel("accuracyGround", "muted")
        self._ground.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._from = plain_label("", "accuracyFrom", "caption")
        self._to = plain_label(fmt.percent(1.0, 0), "accuracyTo", "caption")
        self._to.setAlignment(Qt.AlignmentFlag.AlignRight)
        for end in (self._from, self._to, self._ground):
            end.setFont(scaled(self.font(), 0.85))
        self._problem = plain_label("", "accuracyProblem", "muted")
        self._problem.setWordWrap(True)
        self._check = named(QPushButton(self.tr("Check accuracy")), "checkAccuracy")
        self._check.setToolTip(
            self.tr(
                "Run the edited model over the validation data; it ends once the answer is sure"
            )
        )
        self._check.clicked.connect(self._ask)
        self._busy = plain_label(self.tr("Evaluating…"), "accuracyBusy", "muted")
        self._wait = QTimer(self, singleShot=True, interval=_BUSY)
        self._wait.timeout.connect(self._show_busy)
        self._lay_out()
        theme.changed.connect(self._show_colour)
        self.clear()

    def clear(self) -> None:
        """Show nothing, and want nothing."""
        self.cancel()
        self._edit = None
        self._bar.clear()
        self._results.hide()
        self._check.hide()
        self._problem.hide()
        self.hide()

    def set_stale(self) -> None:
        """Let what is shown step back: it is of another edit."""
        self._results.setEnabled(False)

    def cancel(self) -> None:
        """What was asked for is not wanted, and what is shown holds no longer."""
        self._wait.stop()
        self._busy.hide()
        self._document.cancel_preview("accuracy")
        self.set_stale()

    def follow(self, edit: Edit) -> None:
        """Show the accuracy that this edit leaves, or offer to find it out."""
        self.cancel()
        self._edit = edit
        snapshot = self._document.snapshot
        self._title.setText(self._title_of(edit))
        if snapshot is None or not can_compare(snapshot) or learns(edit):
            self.clear()
        elif is_quick(snapshot, edit):
            self._ask()
            return
        else:
            self._offer()
        self.answered.emit()

    def _lay_out(self) -> None:
        self._results = named(QWidget(), "accuracyResults")
        grid = QGridLayout(self._results)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(1, 1)
        grid.addWidget(self._value, 0, 0, 1, 2)
        grid.addWidget(self._change, 0, 2)
        grid.addWidget(self._bar, 1, 0, 1, 3)
        grid.addWidget(self._from, 2, 0)
        grid.addWidget(self._ground, 2, 1)
        grid.addWidget(self._to, 2, 2)
        foot = row(spacing=8)
        foot.addWidget(self._check)
        foot.addWidget(self._busy)
        foot.addStretch(1)
        layout = column(self, spacing=4)
        layout.addWidget(self._title)
        layout.addWidget(self._results)
        layout.addWidget(self._problem)
        layout.addLayout(foot)

    def _title_of(self, edit: Edit) -> str:
        if isinstance(edit, Quantize | Cast | Equalize | Smooth):
            return self.tr("Accuracy")
        return self.tr("Accuracy, before recovery")

    def _offer(self) -> None:
        self._results.hide()
        self._problem.hide()
        self._check.show()
        self.show()

    @Slot()
    def _show_busy(self) -> None:
        self._busy.show()
        self.show()

    @Slot()
    def _ask(self) -> None:
        if self._edit is None:
            return
        self._check.hide()
        self._wait.start()
        self._document.preview_accuracy(self._edit, self._on_answer, self._show_comparison)

    def _on_answer(self, found: Comparison | EngineError | None) -> None:
        self._wait.stop()
        self._busy.hide()
        if isinstance(found, Comparison):
            self._show_comparison(found)
        else:
            self._results.hide()
            self._problem.setText(f"{found} {found.remedy}" if found is not None else "")
            self._problem.setVisible(found is not None)
            self.setVisible(found is not None)
        self.answered.emit()

    def _show_comparison(self, found: Comparison) -> None:
        said = accuracy_text(found, self.tr)
        self._problem.hide()
        self._results.setEnabled(True)
        self._results.show()
        self.show()
        self._value.setText(said.value)
        self._change.setText(f"{said.change} {self.tr(said.verdict)}".strip())
        self._verdict = said.verdict
        self._bar.show_values(found.accuracy, found.reference, said.verdict)
        self._from.setText(fmt.percent(self._bar.floor, 0))
        self._ground.show_text(said.ground)
        told = explanation(found, self.tr)
        self._results.setToolTip(fmt.tooltip(told))
        self._results.setAccessibleName(f"{said.value}, {said.change}, {said.ground}")
        self._show_colour()

    @Slot()
    def _show_colour(self) -> None:
        palette = self._theme.palette
        colors = {fmt.BETTER: palette.better, fmt.WORSE: palette.worse}
        self._change.setStyleSheet(f"color: {colors.get(self._verdict, palette.muted)}")
