"""What energy is modelled under and shown in: the fields of the energy view's settings."""

from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtWidgets import QSpinBox

from engine import DATAFLOWS, EnergySettings, Hardware
from gui import format as fmt
from gui.models import energy_words
from gui.views.amount_field import ignore_wheel_without_focus
from gui.views.hardware_box import HardwareBox
from gui.views.parts import choice_box
from gui.widgets import named

_HEIGHT = 24
_MOST_BATCH = 65_536
_BITS = (0, 16, 8, 4, 2)


class EnergyForm(QObject):
    """Fields for :class:`engine.EnergySettings`; who owns the form lays them out.

    Signals:
        changed: the :class:`engine.EnergySettings` that the user has chosen.

    Attributes:
        hardware, dataflow, batch, bits: the fields.
    """

    changed = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._settings: EnergySettings | None = None
        self.hardware = HardwareBox()
        self.dataflow = choice_box(
            "energyDataflow",
            self.tr("Which data stay in the processing elements: filter rows, weights or outputs"),
        )
        for flow in DATAFLOWS:
            self.dataflow.addItem(self.tr(flow), flow)
        self.bits = choice_box(
            "energyBits", self.tr("Width of weights and activations, to ask what if")
        )
        for bits in _BITS:
            self.bits.addItem(energy_words.bits_text(bits, self.tr), bits)
        self.batch = self._make_batch()
        for field in (self.hardware, self.dataflow, self.batch, self.bits):
            field.setFixedHeight(_HEIGHT)
        self.hardware.chosen.connect(self._on_hardware)
        self.dataflow.activated.connect(self._announce)
        self.bits.activated.connect(self._announce)
        self.batch.valueChanged.connect(self._announce)

    def show_settings(self, settings: EnergySettings, own_batch: int) -> None:
        """Show these; ``own_batch`` is that of the model's sample input."""
        self._settings = settings
        self.hardware.show_hardware(settings.hardware)
        self.dataflow.setCurrentIndex(self.dataflow.findData(settings.dataflow))
        place = self.bits.findData(settings.bits)
        if place < 0:
            self.bits.addItem(energy_words.bits_text(settings.bits, self.tr), settings.bits)
        self.bits.setCurrentIndex(self.bits.findData(settings.bits))
        self.batch.blockSignals(True)
        self.batch.setSpecialValueText(self.tr("own batch (%s)") % own_batch)
        self.batch.setValue(settings.batch)
        self.batch.blockSignals(False)

    def _make_batch(self) -> QSpinBox:
        batch = named(QSpinBox(), "energyBatch")
        tip = self.tr("Samples at once: more of them share the weights that are fetched")
        batch.setToolTip(fmt.tooltip(tip))
        batch.setAccessibleName(tip)
        batch.setRange(0, _MOST_BATCH)
        batch.setPrefix(self.tr("batch "))
        batch.setSpecialValueText(self.tr("own batch (%s)") % 1)
        batch.setKeyboardTracking(False)
        ignore_wheel_without_focus(batch)
        return batch

    @Slot(str, object)
    def _on_hardware(self, _: str, hardware: Hardware) -> None:
        self._emit(hardware)

    @Slot()
    def _announce(self) -> None:
        if self._settings is not None:
            self._emit(self._settings.hardware)

    def _emit(self, hardware: Hardware) -> None:
        wanted = EnergySettings(
            hardware, self.dataflow.currentData(), self.batch.value(), self.bits.currentData()
        )
        if wanted != self._settings:
            self._settings = wanted
            self.changed.emit(wanted)
