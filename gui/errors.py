"""What went wrong, in words: an EngineError with its way out, anything else as a crash report."""

import platform
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from types import TracebackType

from PySide6 import __version__ as pyside_version
from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QStyle,
    QWidget,
)

from engine import EngineError
from gui.widgets import column, named, row, wrapped_label

_ICON_SIZE = 32


def show_error(parent: QWidget, error: BaseException) -> "ErrorDialog":
    """Tell the user, without holding up the program; returns the open dialog."""
    dialog = ErrorDialog(error, parent)
    dialog.open()
    return dialog


def install_hook(report: Callable[[BaseException], object]) -> Callable[[], None]:
    """Send what no code catches to ``report`` as well as to the terminal; returns the undoing."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        if issubclass(kind, Exception):
            report(error)

    sys.excepthook = hook

    def restore() -> None:
        sys.excepthook = before

    return restore


def details(error: BaseException) -> str:
    """What a report of the error needs: the traceback, and the versions it happened with."""
    trace = "".join(traceback.format_exception(error)).rstrip()
    return f"{trace}\n\n{_versions()}"


def version() -> str:
    """Secateur's version; empty when it runs without being installed."""
    try:
        return metadata.version("secateur")
    except metadata.PackageNotFoundError:
        return ""


class ErrorDialog(QDialog):
    """What happened and why, what to do about it, and details folded away."""

    def __init__(self, error: BaseException, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("error_dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._details = details(error)
        if isinstance(error, EngineError):
            self.setWindowTitle(self.tr("That did not work"))
            self._lay_out(str(error), error.remedy)
            self._folded.hide()
            return
        self.setWindowTitle(self.tr("Crash report"))
        self._lay_out(
            self.tr("Something went wrong inside Secateur."),
            self.tr(
                "Your model is as it was, and you can go on working. The details below say where "
                "it happened; please add them when you report it."
            ),
        )
        self._toggle.setChecked(True)

    @property
    def text(self) -> str:
        """All that the dialog says without its details."""
        return self._text

    def _lay_out(self, headline: str, advice: str) -> None:
        self._text = f"{headline}\n{advice}"
        words = column()
        words.addWidget(wrapped_label(headline, "error_headline"))
        words.addWidget(wrapped_label(advice, "error_advice"))
        words.addStretch()
        top = row(spacing=16)
        top.addWidget(self._icon(), 0, Qt.AlignmentFlag.AlignTop)
        top.addLayout(words, 1)
        layout = column(self, spacing=16)
        layout.setContentsMargins(24, 24, 24, 16)
        layout.addLayout(top)
        layout.addWidget(self._folded_details(), 1)
        layout.addWidget(self._buttons())

    def _icon(self) -> QLabel:
        label = QLabel(self)
        icon = self.style().standardIcon(QStyle.StandardPixmap.SP_MessageBoxWarning)
        label.setPixmap(icon.pixmap(_ICON_SIZE, _ICON_SIZE))
        return label

    def _folded_details(self) -> QWidget:
        self._folded = named(QPlainTextEdit(self._details, self), "error_details")
        self._folded.setReadOnly(True)
        self._folded.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self._folded.setMinimumHeight(160)
        return self._folded

    def _buttons(self) -> QDialogButtonBox:
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close, self)
        buttons.rejected.connect(self.reject)
        close = buttons.button(QDialogButtonBox.StandardButton.Close)
        close.setDefault(True)
        close.setFocus()
        self._toggle = named(QPushButton(self.tr("Details"), self), "error_toggle")
        self._toggle.setCheckable(True)
        self._toggle.setAutoDefault(False)
        self._toggle.toggled.connect(self._unfold)
        copy = named(QPushButton(self.tr("Copy"), self), "error_copy")
        copy.setToolTip(self.tr("Copy the message and the details"))
        copy.setAutoDefault(False)
        copy.clicked.connect(self._copy)
        buttons.addButton(self._toggle, QDialogButtonBox.ButtonRole.ActionRole)
        buttons.addButton(copy, QDialogButtonBox.ButtonRole.ActionRole)
        return buttons

    def _unfold(self, unfolded: bool) -> None:
        self._folded.setVisible(unfolded)
        self.adjustSize()

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(f"{self.text}\n\n{self._details}")


def _versions() -> str:
    name = QCoreApplication.applicationName() or "Secateur"
    python = f"Python {platform.python_version()}, PySide6 {pyside_version}"
    return f"{name} {version()}\n{python}\n{platform.platform()}".replace(" \n", "\n")
