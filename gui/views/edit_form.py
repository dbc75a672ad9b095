"""A form that follows from the fields of an edit: a new kind of edit needs no form of its own."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QFormLayout, QLabel, QSpinBox, QWidget

from engine import Edit, LayerId, PruneChannels, edit_name
from gui import format as fmt
from gui.views.amount_field import AmountField, ignore_wheel_without_focus
from gui.widgets import named

_FIRST_AMOUNT = {"prune-channels": 0.3, "prune-weights": 0.5}  # a usual first try
_MOST: dict[type[Edit], float] = {PruneChannels: 99.0}  # one channel at least must stay
_MOST_SAMPLES = 1_000_000


class EditForm(QWidget):
    """Fields for everything an edit asks for beside the layers."""

    changed = Signal()

    def __init__(self, kind: type[Edit], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(f"form_{edit_name(kind)}")
        self._kind = kind
        self._inputs: dict[str, QWidget] = {}
        self._labels: dict[str, QLabel] = {}
        self._layout = QFormLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setVerticalSpacing(8)
        self._layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        hints = get_type_hints(kind)
        for field in fields(kind):
            if field.name != "layers":
                self._add(field, hints[field.name])
        self._show_seed()

    @property
    def values(self) -> dict[str, Any]:
        """What the form says, by field."""
        return {name: _read(widget) for name, widget in self._inputs.items()}

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show these values."""
        for name, value in values.items():
            _write(self._inputs[name], value)

    def edit(self, layers: tuple[LayerId, ...]) -> Edit:
        """The edit that the form asks for."""
        make: Any = self._kind
        edit: Edit = make(layers=layers, **self.values)
        return edit

    def _add(self, field: "Field[Any]", hint: Any) -> None:
        widget = self._make_input(field.name, hint)
        if widget is None:
            return
        default = _FIRST_AMOUNT.get(edit_name(self._kind)) if hint is float else field.default
        if default is not MISSING and default is not None:
            _write(widget, default)
        title, tip = self._texts().get(field.name, (field.name.replace("_", " "), ""))
        label = QLabel(title)
        label.setBuddy(widget.focusProxy() or widget)
        label.setToolTip(tip)
        widget.setToolTip(tip)
        self._inputs[field.name], self._labels[field.name] = widget, label
        self._layout.addRow(label, widget)

    def _make_input(self, name: str, hint: Any) -> QWidget | None:
        """The field for that type; None where there is nothing to choose."""
        if get_origin(hint) is Literal:
            return self._make_choice(name, get_args(hint)) if len(get_args(hint)) > 1 else None
        if hint is float:
            amount = AmountField(name, _MOST.get(self._kind, 100.0))
            amount.changed.connect(self.changed)
            return amount
        spin = named(QSpinBox(), name)
        spin.setRange(1 if name != "seed" else 0, _MOST_SAMPLES)
        spin.valueChanged.connect(self.changed)
        ignore_wheel_without_focus(spin)
        return spin

    def _make_choice(self, name: str, choices: tuple[Any, ...]) -> QComboBox:
        combo = named(QComboBox(), name)
        for choice in choices:
            text = fmt.criterion_name(choice, self.tr) if name == "criterion" else str(choice)
            combo.addItem(text, choice)
        combo.currentIndexChanged.connect(self._on_choice)
        ignore_wheel_without_focus(combo)
        return combo

    def _on_choice(self) -> None:
        self._show_seed()
        self.changed.emit()

    def _show_seed(self) -> None:
        """A seed means something only where chance decides."""
        if "seed" in self._inputs:
            random = self.values.get("criterion") == "random"
            self._layout.setRowVisible(self._inputs["seed"], random)

    def _texts(self) -> dict[str, tuple[str, str]]:
        """Title and explanation by field."""
        return {
            "ratio": (self.tr("Amount"), self.tr("Share that is removed from each layer")),
            "criterion": (
                self.tr("Criterion"),
                self.tr("What goes first: the least norm or magnitude, or chance"),
            ),
            "seed": (self.tr("Seed"), self.tr("The same seed draws the same again")),
            "calibration_samples": (
                self.tr("Calibration samples"),
                self.tr("Training samples that set the range of each layer's input"),
            ),
            "weight_bits": (self.tr("Weight bits"), self.tr("Bits of each weight")),
            "activation_bits": (self.tr("Activation bits"), self.tr("Bits of each input")),
        }


def _read(widget: QWidget) -> Any:
    if isinstance(widget, AmountField):
        return widget.share
    if isinstance(widget, QComboBox):
        return widget.currentData()
    return widget.value() if isinstance(widget, QSpinBox) else None


def _write(widget: QWidget, value: Any) -> None:
    if isinstance(widget, AmountField):
        widget.set_share(value)
    elif isinstance(widget, QComboBox):
        widget.setCurrentIndex(widget.findData(value))
    elif isinstance(widget, QSpinBox):
        widget.setValue(value)
