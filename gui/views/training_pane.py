"""How a training goes: where it stands, its curves, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QLabel, QSizePolicy, QWidget

from engine import METRICS, Quantity, RoundingProgress, TuningProgress
from gui import format as fmt
from gui.models.tuning_curve import Pace, epoch_text, rounding_text, stand
from gui.tasks import JobState
from gui.theme import Theme, scaled
from gui.views.jobs_panel import TIMED_AFTER, clock
from gui.views.parts import ElidedLabel
from gui.views.tuning_view import TuningView
from gui.widgets import column, plain_label

if TYPE_CHECKING:
    from gui.document import Document
    from gui.training import TrainingNews

_ACCURACY = METRICS["accuracy"]


class TrainingPane(QWidget):
    """Follows the training of the document, and shows the last one until the next."""

    def __init__(self, document: Document, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("trainingPane")
        self._document = document
        self._training = document.training
        self._before: Quantity | None = None  # validation accuracy of the state it began from
        self._pace = Pace()
        self._title = ElidedLabel("trainingTitle")
        self._title.setFont(scaled(self.font(), 1.0, bold=True))
        self._state = ElidedLabel("trainingState", "muted")
        self._view = TuningView(theme)
        self._note = self._wrapped("trainingNote", "muted")
        self._note.setFont(scaled(self.font(), 0.85))
        self._result = self._wrapped("trainingResult")
        self._empty = self._wrapped("trainingEmpty", "muted")
        self._empty.setText(
            self.tr("Loss and accuracy over the epochs show here once training has begun.")
        )
        for label in (self._title, self._state):
            label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        layout = column(self, spacing=4)
        for widget in (self._title, self._state, self._result):
            layout.addWidget(widget)
        layout.addWidget(self._view, 1)
        layout.addWidget(self._note)
        layout.addWidget(self._empty)
        layout.addStretch()
        document.tuning_changed.connect(self._on_tuning)
        document.training.changed.connect(self.refresh)
        document.changed.connect(self.refresh)
        self.refresh()

    @Slot()
    def refresh(self) -> None:
        """Show how the training stands now."""
        shown = bool(self._training.title)
        for widget in (self._title, self._state):
            widget.setVisible(shown)
        self._empty.setVisible(not shown)
        news = self._training.news
        rounding = news is not None and isinstance(news.progress, RoundingProgress)
        self._view.setVisible(news is not None and not rounding)  # there are no epochs to show
        self._title.show_text(self._training.title)
        self._state.show_text(self._state_text(news))
        if news is None or isinstance(news.progress, TuningProgress):
            self._view.show_progress(news.progress if news is not None else None)  # type: ignore[arg-type]
        self._show(self._note, self._note_text(news))
        self._show(self._result, self._result_text(news))

    def _wrapped(self, name: str, role: str = "") -> QLabel:
        label = plain_label("", name, role)
        label.setWordWrap(True)
        return label

    def _show(self, label: QLabel, text: str) -> None:
        label.setText(text)
        label.setVisible(bool(text) and bool(self._training.title))

    @Slot(bool)
    def _on_tuning(self, tuning: bool) -> None:
        snapshot = self._document.snapshot
        if tuning and snapshot is not None:
            self._before = snapshot.current.table.total(_ACCURACY)
            self._pace = Pace()

    def _state_text(self, news: TrainingNews | None) -> str:
        state = self._training.state
        if state is None:
            return self._ending_text(news)
        if state is JobState.WAITING:
            return self.tr("waiting for other jobs")
        if state is JobState.STOPPING:
            return self.tr("stopping…")
        parts = [self._place_text(news)]
        if state is JobState.PAUSED:
            parts.append(self.tr("paused"))
        elif news is not None and news.progress is not None:
            seconds = self._training.seconds
            left = self._pace.left(news.step, news.progress, seconds)
            if left is not None and seconds >= TIMED_AFTER:
                parts.append(self.tr("%s left") % clock(left))
        if news is not None and news.resumed_at is not None:
            parts.append(self._resumed_text(news))
        return " · ".join(parts)

    def _place_text(self, news: TrainingNews | None) -> str:
        if news is None:
            return self.tr("preparing…")
        step = self.tr("step {step} of {of}").format(step=news.step, of=news.of)
        if news.progress is None:
            return self.tr("%s: pruning") % step
        if isinstance(news.progress, RoundingProgress):
            at, of = stand(news.progress)
            layer = fmt.layer_name(news.progress.layer) if news.progress.layer else ""
            place = self.tr("layer {at} of {of}").format(at=min(int(at) + 1, of), of=of)
            return f"{place} · {layer}" if layer else place
        epoch = self.tr("epoch {at} of {of}").format(
            at=f"{news.progress.epoch:.1f}", of=news.progress.epochs
        )
        return f"{step} · {epoch}" if news.of > 1 else epoch

    def _resumed_text(self, news: TrainingNews) -> str:
        done = news.resumed_at or 0.0
        if isinstance(news.progress, RoundingProgress):
            return self.tr("taken up again after %s layers") % round(done)
        return self.tr("taken up again after %s") % epoch_text(done, self.tr)

    def _ending_text(self, news: TrainingNews | None) -> str:
        rounding = news is not None and isinstance(news.progress, RoundingProgress)
        return {
            "": "",
            "applied": self.tr("applied with the roundings that were learned")
            if rounding
            else self.tr("applied with the weights of the best epoch"),
            "no better": self.tr("no epoch was better than before: nothing was changed"),
            "stopped": self.tr("stopped; the same training will go on from here"),
            "discarded": self.tr("discarded: the model is as it was"),
            "failed": self.tr("ended by an error; what was applied before stays"),
        }[self._training.ending]

    def _note_text(self, news: TrainingNews | None) -> str:
        if news is None:
            return ""
        if isinstance(news.progress, RoundingProgress):
            return f"{rounding_text(news.progress, self.tr)} {fmt.visible(news.problem)}".strip()
        told = self.tr(
            "{count} samples held out of the training split choose the best epoch; validation data "
            "are not touched."
        ).format(count=fmt.count(news.held_out))
        return f"{told} {fmt.visible(news.problem)}".strip()

    def _result_text(self, news: TrainingNews | None) -> str:
        """Validation accuracy before and after, once it is known of the state that came of it."""
        snapshot = self._document.snapshot
        if self._training.active or news is None or not news.changes or snapshot is None:
            return ""
        now = snapshot.current.table.total(_ACCURACY)
        if now is None or snapshot.current.id != news.changes[-1].snapshot.current.id:
            return ""
        after = fmt.metric_value(_ACCURACY, now)
        if self._before is None:
            return self.tr("accuracy {after} (validation)").format(after=after)
        before = fmt.metric_number(_ACCURACY, self._before.value)
        return self.tr("accuracy {before} → {after} (validation)").format(
            before=before, after=after
        )
