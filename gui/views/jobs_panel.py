"""What is under way: a line for each job, with its progress and a way to stop it."""

from collections.abc import Callable

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import (
    QGridLayout,
    QProgressBar,
    QToolButton,
    QWidget,
)

from gui.jobs import JobRunner
from gui.tasks import JobState, JobView
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
        self._icons = {True: theme.icon("ph.play"), False: theme.icon("ph.pause")}
        self._paused = False
        self._pause = self._button("job_pause", self._toggle_pause)
        cancel = self._button("job_cancel", self._stop)
        _label(cancel, theme.icon("ph.x"), self.tr("Stop"))
        layout = QGridLayout(self)
        layout.setHorizontalSpacing(8)
        layout.setVerticalSpacing(4)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._title, 0, 0)
        layout.addWidget(self._time, 0, 1, Qt.AlignmentFlag.AlignRight)
        layout.addWidget(self._pause, 0, 2)
        layout.addWidget(cancel, 0, 3)
        layout.addWidget(self._bar, 1, 0, 1, 4)
        layout.setColumnStretch(0, 1)

    def show_job(self, view: JobView) -> None:
        """Show how far the job is."""
        self._title.show_text(job_text(view))
        self._time.setText(time_text(view))
        self._show_pause(view)
        self._bar.setVisible(view.state is not JobState.WAITING)
        if view.fraction is None:
            self._bar.setRange(0, 0)
        else:
            self._bar.setRange(0, _STEPS)
            self._bar.setValue(round(view.fraction * _STEPS))

    def _show_pause(self, view: JobView) -> None:
        self._pause.setVisible(view.pausable and view.state is not JobState.STOPPING)
        self._paused = view.state is JobState.PAUSED
        text = self.tr("Go on") if self._paused else self.tr("Pause")
        if self._pause.toolTip() != text:
            _label(self._pause, self._icons[self._paused], text)

    def _button(self, name: str, slot: Callable[[], None]) -> QToolButton:
        button = named(QToolButton(self), name)
        button.setAutoRaise(True)
        button.clicked.connect(slot)
        return button

    def _toggle_pause(self) -> None:
        (self._jobs.resume if self._paused else self._jobs.pause)(self._id)

    def _stop(self) -> None:
        self._jobs.cancel(self._id)


def _label(button: QToolButton, icon: QIcon, text: str) -> None:
    button.setIcon(icon)
    button.setToolTip(text)
    button.setAccessibleName(text)


def job_text(view: JobView) -> str:
    """What the job is doing, such as ``Evaluating: validation samples 62 %``."""
    if view.state is JobState.WAITING:
        return f"{view.title} ({_tr('waiting')})"
    if view.state is JobState.STOPPING:
        return f"{view.title} ({_tr('stopping')})"
    if view.state is JobState.PAUSED:
        return f"{view.title} ({_tr('paused')})"
    stage = f": {view.text}" if view.text and view.text != view.title else ""
    share = f" {view.fraction:.0%}".replace("%", " %") if view.fraction is not None else ""
    return f"{view.title}{stage}{share}"


def time_text(view: JobView) -> str:
    """How long the job has run, and from three seconds on how long its stage still takes."""
    if view.state is not JobState.RUNNING or view.elapsed < SHOWN_AFTER:
        return ""
    if view.elapsed < TIMED_AFTER or view.remaining is None:
        return clock(view.elapsed)
    return _tr("{time} left").format(time=clock(view.remaining))


def clock(seconds: float) -> str:
    """Write seconds as minutes and seconds, such as ``1:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _tr(text: str) -> str:
    return QCoreApplication.translate("JobsPanel", text)
