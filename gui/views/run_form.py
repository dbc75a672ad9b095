"""How the model is run while it is measured, in one row."""

import os
from collections.abc import Sequence

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QSpinBox, QToolButton, QWidget

from engine import Device, RunSettings
from gui import format as fmt
from gui.views.amount_field import ignore_wheel_without_focus
from gui.views.parts import choice_box, fill_devices
from gui.widgets import named, row

_HEIGHT = 24
_MOST_BATCH = 65_536
_TYPES = ("float32", "bfloat16", "float16")


class RunForm(QWidget):
    """A :class:`engine.RunSettings` to be chosen.

    Signals:
        changed: the :class:`engine.RunSettings` that are chosen now.
    """

    changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("runForm")
        self._make_fields()
        self.show_devices(())
        layout = row(self, spacing=4)
        for field in (
            self._device, self._threads, self._batch, self._type, self._channels_last,
            self._autocast, self._pass,
        ):  # fmt: skip
            field.setFixedHeight(_HEIGHT)
            layout.addWidget(field)
        for box in (self._device, self._type, self._pass):
            box.currentIndexChanged.connect(self._announce)
        for number in (self._threads, self._batch):
            number.valueChanged.connect(self._announce)
        for toggle in (self._channels_last, self._autocast):
            toggle.toggled.connect(self._announce)

    @property
    def settings(self) -> RunSettings:
        """What is chosen."""
        processor = self._device.currentData() == "cpu"
        return RunSettings(
            device=self._device.currentData(),
            threads=self._threads.value() if processor else 0,
            batch=self._batch.value(),
            dtype=self._type.currentData(),
            channels_last=self._channels_last.isChecked(),
            autocast=self._autocast.isChecked(),
            backward=self._pass.currentData(),
        )

    def show_batch(self, batch: int) -> None:
        """Say how many samples the sample input has, which is what is run unless told otherwise."""
        self._batch.setSpecialValueText(self.tr("own batch (%s)") % batch)

    def show_devices(self, devices: Sequence[Device]) -> None:
        """Offer these devices; those that are unavailable cannot be chosen and say why."""
        self._device.blockSignals(True)
        fill_devices(self._device, devices or (Device("cpu", self.tr("Processor")),))
        self._device.blockSignals(False)

    def _make_fields(self) -> None:
        self._device = choice_box("runDevice", self.tr("What the model runs on"))
        self._threads = self._number("runThreads", self.tr("Threads of the processor's operators"))
        self._threads.setRange(0, os.cpu_count() or 1)
        self._threads.setSuffix(self.tr(" threads"))
        self._threads.setSpecialValueText(self.tr("all threads"))
        self._batch = self._number("runBatch", self.tr("Samples in one pass"))
        self._batch.setRange(0, _MOST_BATCH)
        self._batch.setPrefix(self.tr("batch "))
        self.show_batch(1)
        self._type = choice_box("runType", self.tr("Number type of weights and inputs"))
        self._type.addItem(self.tr("own types"), "")
        for name in _TYPES:
            self._type.addItem(name, name)
        self._channels_last = self._toggle(
            "runChannelsLast",
            self.tr("channels last"),
            self.tr("Keep the channels of each pixel side by side: faster for many convolutions"),
        )
        self._autocast = self._toggle(
            "runAutocast",
            self.tr("autocast"),
            self.tr("Let torch compute in a lower precision, operator by operator"),
        )
        self._pass = choice_box("runPass", self.tr("Inference, or a step of training"))
        self._pass.addItem(self.tr("forward"), False)
        self._pass.addItem(self.tr("forward + backward"), True)

    def _number(self, name: str, tip: str) -> QSpinBox:
        number = named(QSpinBox(), name)
        number.setToolTip(fmt.tooltip(tip))
        number.setAccessibleName(tip)
        number.setKeyboardTracking(False)
        ignore_wheel_without_focus(number)
        return number

    def _toggle(self, name: str, text: str, tip: str) -> QToolButton:
        button = named(QToolButton(), name)
        button.setText(text)
        button.setToolTip(fmt.tooltip(tip))
        button.setCheckable(True)
        return button

    @Slot()
    def _announce(self) -> None:
        self._threads.setEnabled(self._device.currentData() == "cpu")
        self.changed.emit(self.settings)
