"""What every dialog of Secateur that asks something is laid out by."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QWidget,
)

from gui.theme import scaled
from gui.views.parts import set_property
from gui.widgets import breakable, column, named, wrapped_label

_HEADLINE_SIZE = 1.15
_SHOWN_LINES = 9


class Question(QDialog):
    """A headline, what the dialog itself puts below it, and the answers at the foot.

    Attributes:
        body: the layout from top to bottom.
    """

    def __init__(self, name: str, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.body = column(self, spacing=8)
        self.body.setContentsMargins(24, 20, 24, 16)

    def say(self, text: str, name: str = "", role: str = "") -> QLabel:
        """Add a paragraph, as plain text."""
        label = wrapped_label(text, name, role)
        self.body.addWidget(label)
        return label

    def head(self, text: str) -> QLabel:
        """Add the headline."""
        label = self.say(text, f"{self.objectName()}_head")
        label.setFont(scaled(label.font(), _HEADLINE_SIZE, bold=True))
        return label

    def lines(self, lines: tuple[str, ...], name: str) -> QPlainTextEdit:
        """Add lines to be read and copied from, as many as there are."""
        field = named(QPlainTextEdit(self), name)
        field.setPlainText("\n".join(breakable(line) for line in lines))
        field.setReadOnly(True)
        field.setTabChangesFocus(True)
        field.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        rows = min(max(len(lines), 3), _SHOWN_LINES)
        height = rows * field.fontMetrics().lineSpacing() + 16
        field.setMinimumHeight(height)
        if len(lines) < _SHOWN_LINES:
            field.setMaximumHeight(height)
        self.body.addWidget(field, 1)
        return field

    def answers(self, verb: str, safe: bool = True) -> QPushButton:
        """Add the buttons: Cancel, and the one that accepts, which is returned.

        Args:
            safe: whether Enter may accept; else it cancels.
        """
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel, self)
        accept = buttons.addButton(verb, QDialogButtonBox.ButtonRole.AcceptRole)
        named(accept, f"{self.objectName()}_accept")
        cancel = named(
            buttons.button(QDialogButtonBox.StandardButton.Cancel), f"{self.objectName()}_cancel"
        )
        set_property(accept if safe else cancel, "primary", True)
        accept.setAutoDefault(safe)
        cancel.setAutoDefault(not safe)
        (accept if safe else cancel).setDefault(True)
        if not safe:
            cancel.setFocus()
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        self._buttons = buttons
        self.body.addSpacing(8)
        self.body.addWidget(buttons)
        return accept

    def other_answer(self, text: str, name: str) -> QPushButton:
        """Add a button to those at the foot; the caller connects it."""
        button = self._buttons.addButton(text, QDialogButtonBox.ButtonRole.ActionRole)
        button.setAutoDefault(False)
        return named(button, name)
