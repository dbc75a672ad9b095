"""Asks what a model takes: shape and type of each of its inputs."""

from typing import Final

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QToolButton,
    QWidget,
)

from engine import DTYPES, InputSpec
from gui import format as fmt
from gui.dialogs.question import Question
from gui.views.amount_field import ignore_wheel_without_focus
from gui.views.parts import set_property
from gui.widgets import breakable, column, named, plain_label, row

_USUAL: Final = InputSpec((1, 3, 224, 224))
_MOST_BATCH: Final = 65_536
_MOST_BELOW: Final = 2_000_000_000
_INTEGERS: Final = ("int64", "int32", "int16", "int8", "uint8")


class InputsDialog(Question):
    """A row an input, and the batch of all of them.

    Signals:
        chosen: the inputs, as a tuple of :class:`engine.InputSpec`.

    Args:
        reason: why they are asked for.
        guesses: what the source suggests.
    """

    chosen = Signal(object)

    def __init__(
        self,
        name: str,
        reason: str,
        guesses: tuple[InputSpec, ...],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__("inputs", "", parent)
        self.setWindowTitle(self.tr("Sample input"))
        self._rows: list[InputRow] = []
        name = fmt.visible(name, 120)
        self.head(self.tr("What does {name} take?").replace("{name}", name))
        self.say(reason, "inputs_reason", "muted")
        self.body.addSpacing(4)
        self._list = column(spacing=4)
        self.body.addLayout(self._list)
        self.body.addLayout(self._foot())
        self._message = self.say("", "inputs_message", "muted")
        self._accept = self.answers(self.tr("Open"))
        for spec in guesses or (_USUAL,):
            self._add(spec)
        self._rows[0].focus()

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the rows say.

        Raises:
            ValueError: a row is no input; the message says which and why.
        """
        return tuple(one.spec for one in self._rows)

    def _foot(self) -> QHBoxLayout:
        add = named(QPushButton(self.tr("Add input"), self), "inputs_add")
        add.setAutoDefault(False)
        add.clicked.connect(self._add_another)
        self._batch = named(QSpinBox(self), "inputs_batch")
        self._batch.setRange(1, _MOST_BATCH)
        self._batch.setToolTip(self.tr("Samples in one run: the first side of every shape"))
        self._batch.valueChanged.connect(self._set_batch)
        ignore_wheel_without_focus(self._batch)
        label = plain_label(self.tr("Batch"))
        label.setBuddy(self._batch)
        foot = row()
        foot.addWidget(add)
        foot.addStretch(1)
        foot.addWidget(label)
        foot.addWidget(self._batch)
        return foot

    def _add_another(self) -> None:
        self._add(_USUAL)
        self._rows[-1].focus()

    def _add(self, spec: InputSpec) -> None:
        one = InputRow(spec, self)
        one.changed.connect(self._check)
        one.removed.connect(self._remove)
        self._rows.append(one)
        self._list.addWidget(one)
        self._number()

    def _remove(self, one: "InputRow") -> None:
        self._rows.remove(one)
        self._list.removeWidget(one)
        one.hide()
        one.deleteLater()
        self._number()

    def _number(self) -> None:
        for place, one in enumerate(self._rows):
            one.set_place(place + 1, alone=len(self._rows) == 1)
        self._check()

    def _set_batch(self, batch: int) -> None:
        for one in self._rows:
            one.set_batch(batch)

    def _check(self) -> None:
        """Say at once whether the rows can be understood, and how."""
        try:
            inputs = self.inputs
        except ValueError as error:
            self._message.setText(breakable(str(error)))
            self._accept.setEnabled(False)
            return
        self._message.setText(breakable(", ".join(fmt.input_text(one) for one in inputs)))
        self._accept.setEnabled(True)
        self._follow_batch(inputs[0])

    def _follow_batch(self, first: InputSpec) -> None:
        self._batch.blockSignals(True)
        self._batch.setValue(first.shape[0] if first.shape else 1)
        self._batch.blockSignals(False)

    def accept(self) -> None:
        inputs = self.inputs
        super().accept()
        self.chosen.emit(inputs)


class InputRow(QWidget):
    """One input: its shape, its type, and what only some types have.

    Signals:
        changed: by hand.
        removed: the row itself; the user does not want it.
    """

    changed = Signal()
    removed = Signal(object)

    def __init__(self, spec: InputSpec, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("input_row")
        self._place = plain_label("", role="muted")
        self._make_fields()
        layout = row(self)
        layout.addWidget(self._place)
        layout.addWidget(self._shape, 1)
        for widget in (self._dtype, self._below, self._listed, self._remove):
            layout.addWidget(widget)
        self._show(spec)

    @property
    def spec(self) -> InputSpec:
        """What the row says.

        Raises:
            ValueError: it is no input; the message says why.
        """
        shape = self._shape.text().strip()
        if not shape:
            raise ValueError(self.tr("Give a shape, batch first, such as 1x3x224x224."))
        if any(mark in shape for mark in ":<["):
            return InputSpec.parse(shape)
        high = f"<{self._below.value()}" if self._has_bound() else ""
        listed = "[]" if self._listed.isChecked() else ""
        return InputSpec.parse(f"{shape}:{self._dtype.currentText()}{high}{listed}")

    def focus(self) -> None:
        """Put the cursor where the shape is typed."""
        self._shape.setFocus()
        self._shape.selectAll()

    def set_place(self, place: int, alone: bool) -> None:
        """Say which input it is; the only one cannot be removed."""
        self._place.setText(self.tr("Input %s") % place)
        self._remove.setEnabled(not alone)

    def set_batch(self, batch: int) -> None:
        """Replace the first side of the shape, if there is one."""
        try:
            spec = self.spec
        except ValueError:
            return
        if spec.shape:
            shape = (batch, *spec.shape[1:])
            self._show(InputSpec(shape, spec.dtype, spec.high, spec.listed))
            self.changed.emit()

    def _make_fields(self) -> None:
        self._shape = named(QLineEdit(self), "input_shape")
        self._shape.setAccessibleName(self.tr("Shape"))
        self._shape.setPlaceholderText("1x3x224x224")
        self._shape.setMinimumWidth(140)
        self._shape.setToolTip(
            self.tr("Batch first, such as 1x3x224x224. All at once also: 1x128:int64<30522")
        )
        self._dtype = named(QComboBox(self), "input_dtype")
        self._dtype.addItems(DTYPES)
        self._dtype.setAccessibleName(self.tr("Type"))
        self._below = named(QSpinBox(self), "input_below")
        self._below.setRange(1, _MOST_BELOW)
        self._below.setPrefix("< ")
        kept = self._below.sizePolicy()
        kept.setRetainSizeWhenHidden(True)  # so that rows line up
        self._below.setSizePolicy(kept)
        self._below.setToolTip(
            self.tr("Integers are drawn from 0 up to below this, such as the vocabulary's size")
        )
        self._listed = named(QToolButton(self), "input_listed")
        self._listed.setText(self.tr("List"))
        self._listed.setCheckable(True)
        self._listed.setToolTip(
            self.tr("Given as a list of single images, as detection models take them")
        )
        self._remove = named(QToolButton(self), "input_remove")
        self._remove.setText("✕")
        self._remove.setAccessibleName(self.tr("Remove this input"))
        self._remove.setToolTip(self.tr("Remove this input"))
        self._connect()

    def _connect(self) -> None:
        self._shape.textEdited.connect(self._edited)
        self._shape.editingFinished.connect(self._spread)
        self._dtype.currentIndexChanged.connect(self._edited)
        self._below.valueChanged.connect(self._edited)
        self._listed.toggled.connect(self._edited)
        self._remove.clicked.connect(self._take_away)
        for widget in (self._dtype, self._below):
            ignore_wheel_without_focus(widget)

    def _has_bound(self) -> bool:
        return self._dtype.currentText() in _INTEGERS

    def _edited(self) -> None:
        self._below.setVisible(self._has_bound())
        set_property(self._shape, "invalid", not self._is_valid())
        self.changed.emit()

    def _is_valid(self) -> bool:
        try:
            return bool(self.spec)
        except ValueError:
            return False

    def _spread(self) -> None:
        """Put what was typed in one piece into the fields it belongs to."""
        if self._is_valid():
            self._show(self.spec)

    def _show(self, spec: InputSpec) -> None:
        fields = (self._shape, self._dtype, self._below, self._listed)
        for widget in fields:
            widget.blockSignals(True)
        self._shape.setText("x".join(map(str, spec.shape)))
        self._dtype.setCurrentText(spec.dtype)
        self._below.setValue(spec.high)
        self._listed.setChecked(spec.listed)
        for widget in fields:
            widget.blockSignals(False)
        self._below.setVisible(self._has_bound())
        set_property(self._shape, "invalid", False)

    def _take_away(self) -> None:
        self.removed.emit(self)
