"""The fields that an edit's form is made of: one class for each type of value."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QStandardItemModel
from PySide6.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QLineEdit,
    QSpinBox,
    QToolButton,
)

from gui import format as fmt
from gui.views.amount_field import Input, ignore_wheel_without_focus, leave_undo_to_window
from gui.views.parts import TickBox, set_property
from gui.widgets import named, plain_label, row

_PATTERNS: Final = ((0, 0), (2, 4), (4, 8), (1, 4))  # (keep, of)
_FIRST_OWN: Final = (3, 8)
_MOST_IN_PATTERN: Final = 256
_DIGITS: Final = 6
_USUAL_BITS: Final = (8, 4, 2)


class CountInput(Input):
    """A whole number."""

    def __init__(self, name: str, least: int, most: int) -> None:
        super().__init__()
        self._spin = named(QSpinBox(), name)
        self._spin.setRange(least, most)
        self._hold(self._spin, self._spin.valueChanged)

    def read(self) -> int:
        return self._spin.value()

    def write(self, value: int) -> None:
        self._spin.setValue(value)


class NumberInput(Input):
    """A number of any size, written as short as it is."""

    def __init__(self, name: str, least: float, most: float) -> None:
        super().__init__()
        self._spin = named(_ShortSpinBox(), name)
        self._spin.setDecimals(_DIGITS)
        self._spin.setRange(least, most)
        self._spin.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        self._hold(self._spin, self._spin.valueChanged)

    def read(self) -> float:
        return round(self._spin.value(), _DIGITS)

    def write(self, value: float) -> None:
        self._spin.setValue(value)


class _ShortSpinBox(QDoubleSpinBox):
    def textFromValue(self, val: float) -> str:
        return self.locale().toString(val, "g", _DIGITS)


class BitsInput(CountInput):
    """A number of bits, with the usual ones a click away."""

    def __init__(self, name: str, least: int, most: int) -> None:
        super().__init__(name, least, most)
        self._usual: dict[int, QToolButton] = {}
        group = QButtonGroup(self)
        group.setExclusive(False)  # a number beside them has none
        group.idClicked.connect(self.write)
        layout = self.layout()
        assert layout is not None
        for bits in _USUAL_BITS:
            button = named(QToolButton(), f"{name}_{bits}")
            button.setText(str(bits))
            button.setCheckable(True)
            button.setAccessibleName(self.tr("%s bits") % bits)
            button.setProperty("bits", True)
            group.addButton(button, bits)
            layout.addWidget(button)
            self._usual[bits] = button
        self.changed.connect(self._mark)
        self._mark()

    @Slot()
    def _mark(self) -> None:
        for bits, button in self._usual.items():
            button.setChecked(bits == self.read())

    def write(self, value: int) -> None:
        super().write(value)
        self._mark()  # a click on the one that holds has unchecked it


class FlagInput(Input):
    """Yes or no."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._box = TickBox(name)
        self._hold(self._box, self._box.toggled)

    def read(self) -> bool:
        return self._box.isChecked()

    def write(self, value: bool) -> None:
        self._box.setChecked(value)


class ChoiceInput(Input):
    """One of a few values, each in words.

    Args:
        choices: value, words, and what it means.
    """

    def __init__(self, name: str, choices: Sequence[tuple[Any, str, str]]) -> None:
        super().__init__()
        self._combo = named(QComboBox(), name)
        # As wide as there is room, not as its longest word: the panel may be narrow.
        self._combo.setMinimumContentsLength(8)
        self._combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self._tips = {place: fmt.tooltip(tip) for place, (_, _, tip) in enumerate(choices)}
        for value, text, _ in choices:
            self._combo.addItem(text, value)
        self.refuse({})
        self._hold(self._combo, self._combo.currentIndexChanged)

    def refuse(self, reasons: Mapping[Any, str]) -> None:
        """Let these values not be chosen, and say why; all others can be."""
        model = self._combo.model()
        for place in range(self._combo.count()):
            reason = reasons.get(self._combo.itemData(place), "")
            tip = fmt.tooltip(reason) if reason else self._tips.get(place, "")
            self._combo.setItemData(place, tip, Qt.ItemDataRole.ToolTipRole)
            if isinstance(model, QStandardItemModel):
                model.item(place).setEnabled(not reason)

    def read(self) -> Any:
        return self._combo.currentData()

    def write(self, value: Any) -> None:
        place = self._combo.findData(value)
        if place < 0:  # from a recipe, say
            self._combo.addItem(str(value), value)
            place = self._combo.count() - 1
        self._combo.setCurrentIndex(place)


class TextInput(Input):
    """A line of text, with suggestions if there are any."""

    def __init__(self, name: str, hint: str = "", suggestions: Sequence[str] = ()) -> None:
        super().__init__()
        self._line = QLineEdit()
        self._line.setPlaceholderText(hint)
        if suggestions:
            combo = named(QComboBox(), name)
            combo.setEditable(True)
            combo.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
            combo.setMinimumContentsLength(8)
            combo.setLineEdit(self._line)
            combo.addItems(suggestions)
            self._hold(combo, self._line.textChanged)
        else:
            self._hold(named(self._line, name), self._line.textChanged)

    def read(self) -> str:
        return self._line.text().strip()

    def write(self, value: str) -> None:
        self._line.setText(value)


class JsonInput(TextInput):
    """Arguments by name, as JSON; what cannot be read so is marked."""

    def __init__(self, name: str) -> None:
        super().__init__(name, '{"n": 2, "dim": 0}')
        self.changed.connect(self._judge)

    def read(self) -> str:
        return super().read() or "{}"

    @Slot()
    def _judge(self) -> None:
        set_property(self._line, "invalid", not is_object(self.read()))


def is_object(text: str) -> bool:
    """Whether the text is an object in JSON."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


class FileInput(TextInput):
    """The path of a file, typed or chosen."""

    def __init__(self, name: str, title: str, kinds: str) -> None:
        super().__init__(name)
        self._title, self._kinds = title, kinds
        browse = named(QToolButton(), f"{name}_browse")
        browse.setText("…")
        browse.setToolTip(title)
        browse.setAccessibleName(title)
        browse.clicked.connect(self._ask)
        layout = self.layout()
        assert layout is not None
        layout.addWidget(browse)

    @Slot()
    def _ask(self) -> None:
        dialog = QFileDialog(self.window(), self._title, self.read(), self._kinds)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.fileSelected.connect(self.write)
        dialog.open()


class PatternInput(Input):
    """N:M: how many of how many weights in a row stay; (0, 0) for no pattern."""

    def __init__(self) -> None:
        super().__init__()
        self._combo = named(QComboBox(), "pattern")
        self._combo.addItems([f"{keep}:{of}" if of else self.tr("None") for keep, of in _PATTERNS])
        self._combo.addItem(self.tr("Own"))
        self._keep, self._of = (self._number(name) for name in ("keep", "of"))
        self._colon = plain_label(":")
        ignore_wheel_without_focus(self._combo)
        self.setFocusProxy(self._combo)
        layout = row(self, spacing=4)
        layout.addWidget(self._combo, 1)
        for widget in (self._keep, self._colon, self._of):
            layout.addWidget(widget)
        self._combo.currentIndexChanged.connect(self._on_choice)
        self._keep.setValue(_FIRST_OWN[0])
        self._of.setValue(_FIRST_OWN[1])
        self._on_choice()

    def read(self) -> tuple[int, int]:
        """How many stay, of how many."""
        fixed = self._combo.currentIndex()
        own = self._keep.value(), self._of.value()
        return _PATTERNS[fixed] if fixed < len(_PATTERNS) else own

    def write(self, value: tuple[int, int]) -> None:
        if value in _PATTERNS:
            self._combo.setCurrentIndex(_PATTERNS.index(value))
            return
        self._of.setValue(value[1])
        self._keep.setValue(value[0])
        self._combo.setCurrentIndex(len(_PATTERNS))

    def _number(self, name: str) -> QSpinBox:
        spin = named(QSpinBox(), name)
        spin.setRange(1, _MOST_IN_PATTERN)
        spin.setAccessibleName(
            self.tr("Weights that stay") if name == "keep" else self.tr("Of weights in a row")
        )
        ignore_wheel_without_focus(spin)
        leave_undo_to_window(spin)
        spin.valueChanged.connect(self.changed)
        return spin

    @Slot()
    def _on_choice(self) -> None:
        own = self._combo.currentIndex() == len(_PATTERNS)
        for widget in (self._keep, self._colon, self._of):
            widget.setVisible(own)
        self.changed.emit()
