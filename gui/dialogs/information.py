"""Says what is known of the open model, and which samples of its data could not be read."""

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QDialogButtonBox,
    QGridLayout,
    QLineEdit,
    QPushButton,
    QWidget,
)

from engine import METRICS, DataInfo, ModelInfo, Preprocessing, Snapshot
from gui import format as fmt
from gui.dialogs.question import Question
from gui.document import Document
from gui.widgets import named, plain_label, wrapped_label

_VALUE_WIDTH = 360
_SHORT = 40


def show_information(document: Document, parent: QWidget) -> None:
    """Show source, inputs, weights and what opening the model found."""
    snapshot = document.snapshot
    if snapshot is not None:
        _Facts(snapshot, parent).open()


def show_broken(document: Document, parent: QWidget) -> None:
    """List the samples that could not be read."""
    data = document.snapshot.data if document.snapshot is not None else None
    if data is not None and data.broken:
        _Broken(data, parent).open()


class _Facts(Question):
    """Names and values in two columns, the notes below; all of it can be copied."""

    def __init__(self, snapshot: Snapshot, parent: QWidget) -> None:
        super().__init__("information", "", parent)
        self.setWindowTitle(self.tr("Model information"))
        self.head(snapshot.model.name)
        facts = model_facts(snapshot)
        grid = QGridLayout()
        grid.setHorizontalSpacing(24)
        grid.setVerticalSpacing(6)
        grid.setColumnStretch(1, 1)
        for place, (name, value) in enumerate(facts):
            top = Qt.AlignmentFlag.AlignTop
            grid.addWidget(plain_label(name, role="muted"), place, 0, top)
            grid.addWidget(_value(value), place, 1, top)
        self.body.addSpacing(4)
        self.body.addLayout(grid)
        for note in snapshot.model.notes:
            self.say(note, "information_note")
        self.body.addSpacing(8)
        lines = [f"{name}: {value}" for name, value in facts]
        text = "\n".join((snapshot.model.name, *lines, *snapshot.model.notes))
        self.body.addWidget(_close_and_copy(self, text))


class _Broken(Question):
    """Names of samples, one a line."""

    def __init__(self, data: DataInfo, parent: QWidget) -> None:
        super().__init__("broken", "", parent)
        self.setWindowTitle(self.tr("Skipped samples"))
        self.head(self.tr("%s samples could not be read") % len(data.broken))
        self.say(self.tr("They are left out of every figure on %s.") % data.name, role="muted")
        self.lines(data.broken, "broken_names")
        self.body.addSpacing(8)
        self.body.addWidget(_close_and_copy(self, "\n".join(data.broken)))
        self.resize(480, 360)


def model_facts(snapshot: Snapshot) -> tuple[tuple[str, str], ...]:
    """What is known of the model, as names and values."""
    model, table = snapshot.model, snapshot.base.table
    parameters = METRICS["parameters"]
    facts = [
        (_tr("Source"), model.source),
        (_tr("Task"), model.task or fmt.ABSENT),
        *(
            (_tr("Input %s") % place if len(model.inputs) > 1 else _tr("Input"), text)
            for place, text in enumerate(map(fmt.input_text, model.inputs), 1)
        ),
        (_tr("Parameters"), fmt.metric_value(parameters, table.total(parameters))),
        (_tr("Weights"), _weights_text(model)),
        (_tr("Preprocessing"), preprocessing_text(model.preprocessing)),
    ]
    return tuple(facts)


def _weights_text(model: ModelInfo) -> str:
    if not model.has_weights:
        return _tr("none, shapes alone")
    return _tr("trained") if model.trained else _tr("random (untrained)")


def preprocessing_text(how: Preprocessing | None) -> str:
    """How a picture becomes a sample, in one sentence."""
    if how is None:
        return fmt.ABSENT
    steps: list[str] = [how.colour]
    if how.resize:
        sides = "×".join(map(str, how.resize))
        steps.append(_tr("resized to {sides} ({how})").format(sides=sides, how=how.interpolation))
    if how.crop:
        steps.append(_tr("middle %s cut out") % "×".join(map(str, how.crop)))
    if how.mean:
        steps.append(_tr("minus mean %s") % _numbers(how.mean))
    if how.std:
        steps.append(_tr("divided by %s") % _numbers(how.std))
    return ", ".join(steps)


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _value(text: str) -> QWidget:
    """The text to be read and copied from; a path stays one line, and so as it is."""
    if " " in text or len(text) < _SHORT:
        return wrapped_label(text, "information_value", width=_VALUE_WIDTH)
    line = named(QLineEdit(fmt.visible(text)), "information_value")
    line.setReadOnly(True)
    line.setFrame(False)
    line.setCursorPosition(0)
    line.setToolTip(fmt.tooltip(fmt.visible(text)))
    return line


def _close_and_copy(dialog: Question, text: str) -> QDialogButtonBox:
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close, dialog)
    buttons.rejected.connect(dialog.reject)
    close = buttons.button(QDialogButtonBox.StandardButton.Close)
    close.setDefault(True)
    close.setFocus()
    copy = named(QPushButton(_tr("Copy")), f"{dialog.objectName()}_copy")
    copy.setAutoDefault(False)
    copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(text))
    buttons.addButton(copy, QDialogButtonBox.ButtonRole.ActionRole)
    return buttons


def _tr(text: str) -> str:
    return QCoreApplication.translate("Information", text)
