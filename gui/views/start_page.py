"""What the window shows while no model is open: ways to open one, or how far that is."""

from functools import partial

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QProgressBar,
    QPushButton,
    QStackedLayout,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from gui import format as fmt
from gui import operations
from gui.actions import Actions, plain_text
from gui.document import Document, source_name
from gui.jobs import JobRunner
from gui.settings import Settings
from gui.theme import Theme, scaled
from gui.views.parts import ElidedLabel
from gui.widgets import column, named, plain_label, row

_WIDTH = 440
_TITLE_SIZE = 2.2
_RECENT_SHOWN = 5
_NAME_LENGTH = 48


class StartPage(QWidget):
    """Opens the demo, a model or a file; shows progress while one is being opened."""

    def __init__(
        self,
        document: Document,
        settings: Settings,
        theme: Theme,
        actions: Actions,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("start_page")
        self._document = document
        self._settings = settings
        self._theme = theme
        self._stack = QStackedLayout(self)
        self._stack.addWidget(self._centred(self._choices(actions)))
        self._opening = _Opening(document.jobs, self)
        self._stack.addWidget(self._centred(self._opening))
        document.opening_changed.connect(self._follow)
        settings.changed.connect(self._list_recent)
        self._list_recent()

    def _choices(self, actions: Actions) -> QWidget:
        page = QWidget(self)
        layout = column(page)
        title = plain_label("Secateur", "start_title")
        title.setFont(scaled(title.font(), _TITLE_SIZE, bold=True))
        layout.addWidget(title)
        claim = plain_label(
            self.tr("Cut a neural network to its energy, latency and memory budget."), role="muted"
        )
        claim.setWordWrap(True)
        layout.addWidget(claim)
        layout.addSpacing(16)
        layout.addWidget(self._button(actions["open_demo"], primary=True))
        others = row()
        others.addWidget(self._button(actions["show_catalogue"]))
        others.addWidget(self._button(actions["open_file"]))
        layout.addLayout(others)
        hint = plain_label(
            self.tr("Or drop a file on this window: PyTorch, safetensors, ONNX, .pt2, .npz, .py."),
            role="muted",
        )
        hint.setWordWrap(True)
        layout.addWidget(hint)
        layout.addSpacing(16)
        self._recent = column(spacing=0)
        layout.addLayout(self._recent)
        return page

    def _button(self, action: QAction, primary: bool = False) -> QPushButton:
        button = named(QPushButton(plain_text(action), self), f"start_{action.objectName()}")
        button.setToolTip(action.toolTip())
        button.setProperty("primary", primary)
        button.setProperty("large", True)
        button.clicked.connect(action.trigger)
        return button

    def _list_recent(self) -> None:
        while (item := self._recent.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.hide()
                widget.deleteLater()
        recent = self._settings.recent[:_RECENT_SHOWN]
        if not recent:
            return
        self._recent.addWidget(plain_label(self.tr("Recent"), role="caption"))
        for source in recent:
            self._recent.addWidget(self._recent_button(source))

    def _recent_button(self, source: str) -> QToolButton:
        button = named(QToolButton(self), "start_recent")
        name = fmt.visible(source_name(source), _NAME_LENGTH)
        button.setText(name.replace("&", "&&"))
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        button.setIcon(self._theme.icon("ph.clock-counter-clockwise"))
        button.setAccessibleName(source)
        button.setToolTip(fmt.tooltip(source))
        button.clicked.connect(partial(self._open_recent, source))
        return button

    def _open_recent(self, source: str, _: bool = False) -> None:
        operations.open_model(self._document, source)

    def _centred(self, widget: QWidget) -> QWidget:
        widget.setFixedWidth(_WIDTH)
        page = QWidget(self)
        layout = QVBoxLayout(page)
        layout.addStretch(2)
        layout.addWidget(widget, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addStretch(3)
        return page

    def _follow(self, source: str) -> None:
        self._opening.set_source(source)
        self._stack.setCurrentIndex(1 if source else 0)


class _Opening(QWidget):
    """The name of what is being opened, the stage, and a way to stop it."""

    def __init__(self, jobs: JobRunner, parent: QWidget) -> None:
        super().__init__(parent)
        self._jobs = jobs
        self._title = ElidedLabel("opening_title")
        self._title.setFont(scaled(self._title.font(), 1.3, bold=True))
        self._stage = plain_label("", "opening_stage", "muted")
        self._bar = named(QProgressBar(self), "opening_progress")
        self._bar.setTextVisible(False)
        self._bar.setRange(0, 0)
        stop = named(QPushButton(self.tr("Cancel"), self), "opening_cancel")
        stop.clicked.connect(jobs.cancel_all)
        layout = column(self)
        layout.addWidget(self._title)
        layout.addWidget(self._bar)
        layout.addWidget(self._stage)
        layout.addWidget(stop, 0, Qt.AlignmentFlag.AlignRight)
        jobs.progressed.connect(self._refresh)

    def set_source(self, source: str) -> None:
        """Say what is being opened."""
        self._title.show_text(self._named(source) if source else "")
        self._stage.setText("")

    def _named(self, source: str) -> str:
        return self.tr("Opening %s") % fmt.visible(source_name(source))

    def _refresh(self) -> None:
        running = next(iter(self._jobs.jobs()), None)
        if running is None or not self.isVisible():
            return
        self._stage.setText(running.text or self.tr("Starting torch"))
        known = running.fraction is not None
        self._bar.setRange(0, 1000 if known else 0)
        self._bar.setValue(round((running.fraction or 0.0) * 1000))
