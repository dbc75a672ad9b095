"""What is under way: a line for each job, with its progress and a way to stop it."""

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtWidgets import (
    QGridLayout,
    QProgressBar,
    QToolButton,
    QWidget,
)

from gui.jobs import JobRunner, JobState, JobView
from gui.theme import Theme
from gui.views.parts import ElidedLabel
from gui.widgets import column, named, plain_label

SHOWN_AFTER = 0.5
TIMED_AFTER = 3.0
_STEPS = 1000


class JobsPanel(QWidget):
    """A row for each session job that takes longer than half a second; empty otherwise."""

    def __init__(self, jobs: JobRunner, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("jobs_panel")
        self._jobs = jobs
        self._theme = theme
        self._rows: dict[int, _Row] = {}
        self._layout = column(self, spacing=4)
        self._layout.setContentsMargins(8, 4, 8, 4)
        self.hide()
        jobs.jobs_changed.connect(self._refresh)
        jobs.progressed.connect(self._refresh)

    def _refresh(self) -> None:
        shown = {view.id: view for view in self._jobs.jobs() if view.age >= SHOWN_AFTER}
        for id_ in self._rows.keys() - shown.keys():
            row = self._rows.pop(id_)
            self._layout.removeWidget(row)
            row.deleteLater()
        for id_, view in shown.items():
            if id_ not in self._rows:
                self._rows[id_] = _Row(id_, self._jobs, self._theme, self)
                self._layout.addWidget(self._rows[id_])
            self._rows[id_].show_job(view)
        self.setVisible(bool(shown))


class _Row(QWidget):
    def __init__(self, id_: int, jobs: JobRunner, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("job")
        self._id = id_
        self._jobs = jobs
        self._title = ElidedLabel("job_title")
        self._time = plain_label("", "job_time", "muted")
        self._bar = named(QProgressBar(self), "job_progress")
        self._bar.setTextVisible(False)
        cancel = named(QToolButton(self), "job_cancel")
        cancel.setIcon(theme.icon("ph.x"))
        cancel.setToolTip(self.tr("Stop"))
        cancel.setAccessibleName(self.tr("Stop"))
        cancel.setAutoRaise(True)
        cancel.clicked.connect(self._stop)
        layout = QGridLayout(self)
        layout.setHorizontalSpacing(8)
        layout.setVerticalSpacing(4)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._title, 0, 0)
        layout.addWidget(self._time, 0, 1, Qt.AlignmentFlag.AlignRight)
        layout.addWidget(cancel, 0, 2)
        layout.addWidget(self._bar, 1, 0, 1, 3)
        layout.setColumnStretch(0, 1)

    def show_job(self, view: JobView) -> None:
        """Show how far the job is."""
        self._title.show_text(job_text(view))
        self._time.setText(time_text(view))
        self._bar.setVisible(view.state is not JobState.WAITING)
        if view.fraction is None:
            self._bar.setRange(0, 0)
        else:
            self._bar.setRange(0, _STEPS)
            self._bar.setValue(round(view.fraction * _STEPS))

    def _stop(self) -> None:
        self._jobs.cancel(self._id)


def job_text(view: JobView) -> str:
    """What the job is doing, such as ``Evaluating: validation samples 62 %``."""
    if view.state is JobState.WAITING:
        return f"{view.title} ({_tr('waiting')})"
    if view.state is JobState.STOPPING:
        return f"{view.title} ({_tr('stopping')})"
    stage = f": {view.text}" if view.text and view.text != view.title else ""
    share = f" {view.fraction:.0%}".replace("%", " %") if view.fraction is not None else ""
    return f"{view.title}{stage}{share}"


def time_text(view: JobView) -> str:
    """How long the job has run, and from three seconds on how long its stage still takes."""
    if view.state is not JobState.RUNNING or view.elapsed < SHOWN_AFTER:
        return ""
    if view.elapsed < TIMED_AFTER or view.remaining is None:
        return _clock(view.elapsed)
    return _tr("{time} left").format(time=_clock(view.remaining))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _tr(text: str) -> str:
    return QCoreApplication.translate("JobsPanel", text)
