"""Asks for a Python function by its module or file, its name and its arguments."""

import ast
from pathlib import Path
from typing import Final

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QWidget,
)

from engine import FunctionName
from gui.dialogs.question import Question
from gui.widgets import breakable, named, row

PYTHON_SUFFIX: Final = ".py"
_MOST_BYTES: Final = 1 << 20  # of a file whose functions are listed


class FactoryDialog(Question):
    """Three fields, and what they come to in one line.

    Signals:
        chosen: the factory as text, such as ``models/net.py:make(depth=18)``.

    Args:
        where: the module or file to begin with.
    """

    chosen = Signal(str)

    def __init__(
        self, title: str, verb: str, parent: QWidget | None = None, where: str = ""
    ) -> None:
        super().__init__("factory", title, parent)
        self.head(title)
        self.say(
            self.tr(
                "A function that returns what is wanted. Its code runs as your own would;"
                " Secateur shows what it is and asks before that."
            ),
            role="muted",
        )
        self._where = named(QLineEdit(where, self), "factory_where")
        self._where.setPlaceholderText(self.tr("package.module or path/file.py"))
        self._function = named(QComboBox(self), "factory_function")
        self._function.setEditable(True)
        self._function.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._arguments = named(QLineEdit(self), "factory_arguments")
        self._arguments.setPlaceholderText(self.tr("None, or such as: depth=18, classes=10"))
        self._lay_out()
        self._message = self.say("", "factory_message", "muted")
        self._accept = self.answers(verb)
        self._where.textChanged.connect(self._follow_where)
        self._function.editTextChanged.connect(self._check)
        self._arguments.textChanged.connect(self._check)
        self._follow_where(where)

    @property
    def factory(self) -> str:
        """What the fields come to.

        Raises:
            ValueError: a field is missing or cannot be read; the message says which.
        """
        where, function = self._where.text().strip(), self._function.currentText().strip()
        if not where:
            raise ValueError(self.tr("Give a module such as package.module, or a Python file."))
        if not function:
            raise ValueError(self.tr("Give the name of a function in it."))
        arguments = self._arguments.text().strip()
        text = f"{where}:{function}({arguments})" if arguments else f"{where}:{function}"
        FunctionName.parse(text)
        return text

    def _lay_out(self) -> None:
        browse = named(QPushButton(self.tr("Browse…"), self), "factory_browse")
        browse.setAutoDefault(False)
        browse.clicked.connect(self._browse)
        line = row()
        line.addWidget(self._where, 1)
        line.addWidget(browse)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.setVerticalSpacing(8)
        form.setHorizontalSpacing(16)
        form.addRow(self.tr("Module or file"), line)
        form.addRow(self.tr("Function"), self._function)
        form.addRow(self.tr("Arguments"), self._arguments)
        self.body.addSpacing(4)
        self.body.addLayout(form)

    def _browse(self) -> None:
        kinds = self.tr("Python files (*.py)")
        dialog = named(QFileDialog(self, self.tr("Python file"), "", kinds), "factory_file")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.fileSelected.connect(self._where.setText)
        dialog.open()

    def _follow_where(self, text: str) -> None:
        """Take a whole factory apart, or list the functions of a file."""
        text = text.strip()
        try:
            whole = FunctionName.parse(text)
        except ValueError:
            self._offer(functions_of(text))
        else:
            arguments = text.removeprefix(f"{whole.where}:{whole.name}")
            self._where.setText(whole.where)
            self._function.setEditText(whole.name)
            self._arguments.setText(arguments.removeprefix("(").removesuffix(")"))
        self._check()

    def _offer(self, names: tuple[str, ...]) -> None:
        typed = self._function.currentText()
        self._function.blockSignals(True)
        self._function.clear()
        self._function.addItems(names)
        if typed and typed not in names:
            self._function.setEditText(typed)
        self._function.blockSignals(False)

    def _check(self) -> None:
        try:
            self._message.setText(breakable(self.factory))
        except ValueError as error:
            self._message.setText(breakable(str(error)))
            self._accept.setEnabled(False)
            return
        self._accept.setEnabled(True)

    def accept(self) -> None:
        factory = self.factory
        super().accept()
        self.chosen.emit(factory)


def functions_of(path: str) -> tuple[str, ...]:
    """Names of the functions and classes that a Python file defines; it is read, never run.

    Returns:
        nothing for what is no Python file.
    """
    file = Path(path)
    try:
        if not path.endswith(PYTHON_SUFFIX) or not file.is_file():
            return ()
        if file.stat().st_size > _MOST_BYTES:
            return ()
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return ()
    made = (ast.FunctionDef, ast.ClassDef)
    return tuple(one.name for one in tree.body if isinstance(one, made) and one.name[0] != "_")
