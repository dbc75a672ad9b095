"""Chooses the description of hardware that energy is modelled on."""

from PySide6.QtCore import QCoreApplication, Qt, Signal, Slot
from PySide6.QtGui import QPaintEvent, QStandardItemModel
from PySide6.QtWidgets import QComboBox, QStyle, QStyleOptionComboBox, QStylePainter, QWidget

from engine import Hardware, HardwareEntry, list_hardware
from gui import format as fmt
from gui.models.hardware_choice import hardware_by_id, hardware_id, id_of
from gui.views.amount_field import ignore_wheel_without_focus

_MANAGE = "manage"
_SHOWN = 20  # letters of a name
_PAD = 8  # pixels that the style keeps free beside the name


class HardwareBox(QComboBox):
    """The shipped descriptions, the user's own, and the way to their form.

    Signals:
        chosen: another description was chosen: its id and its :class:`engine.Hardware`.
        forms_wanted: the user wants to see, edit or add descriptions.
    """

    chosen = Signal(str, object)
    forms_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("energyHardware")
        self.setAccessibleName(self.tr("Hardware that energy is modelled on"))
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(_SHOWN)
        ignore_wheel_without_focus(self)
        self._shown: Hardware | None = None
        self._entries: tuple[HardwareEntry, ...] = ()
        self.reload()
        self.activated.connect(self._on_activated)

    def reload(self) -> None:
        """Read the descriptions again."""
        self._entries = list_hardware()
        self.clear()
        shipped = [entry for entry in self._entries if not entry.own]
        own = [entry for entry in self._entries if entry.own]
        for entry in shipped:
            self._add(entry)
        if shipped and own:
            self.insertSeparator(self.count())
        for entry in own:
            self._add(entry)
        self.insertSeparator(self.count())
        self.addItem(self.tr("Edit a copy, add, manage…"), _MANAGE)
        if self._shown is not None:
            self.show_hardware(self._shown)

    def show_hardware(self, hardware: Hardware) -> None:
        """Show which is in force; one that no file describes any more stands on top."""
        self._shown = hardware
        id_ = id_of(self._entries, hardware)
        place = self.findData(id_)
        if place < 0:
            self.insertItem(0, "", id_)
            place = 0
        if not id_:
            self.setItemText(place, fmt.visible(hardware.name, 80))
        self.setItemData(place, _tip(hardware), Qt.ItemDataRole.ToolTipRole)
        self.setCurrentIndex(place)
        self.setToolTip(_tip(hardware))

    def _add(self, entry: HardwareEntry) -> None:
        place, hardware = self.count(), entry.hardware
        self.addItem(fmt.visible(hardware.name if hardware else entry.key, 80), hardware_id(entry))
        tip = _tip(hardware) if hardware is not None else fmt.tooltip(entry.problem)
        self.setItemData(place, tip, Qt.ItemDataRole.ToolTipRole)
        model = self.model()
        if hardware is None and isinstance(model, QStandardItemModel):
            model.item(place).setEnabled(False)

    @Slot(int)
    def _on_activated(self, place: int) -> None:
        id_ = self.itemData(place)
        if id_ == _MANAGE:
            if self._shown is not None:
                self.show_hardware(self._shown)
            self.forms_wanted.emit()
            return
        hardware = hardware_by_id(self._entries, str(id_))
        if hardware is not None and hardware != self._shown:
            self._shown = hardware
            self.chosen.emit(id_, hardware)
        elif self._shown is not None:
            self.show_hardware(self._shown)

    def paintEvent(self, event: QPaintEvent) -> None:
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        complex_ = QStyle.ComplexControl.CC_ComboBox
        field = QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(complex_, option, field, self).width() - _PAD
        middle = Qt.TextElideMode.ElideMiddle
        option.currentText = self.fontMetrics().elidedText(option.currentText, middle, room)
        painter = QStylePainter(self)
        painter.drawComplexControl(complex_, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()

    def showPopup(self) -> None:
        self.reload()
        view = self.view()
        view.setMinimumWidth(view.sizeHintForColumn(0) + 24)
        super().showPopup()


def _tip(hardware: Hardware) -> str:
    about = [hardware.name, hardware.technology, hardware.source, hardware.note]
    skips = hardware.sparsity.skips_anything
    zeros = "Skips zeros." if skips else "Does not skip zeros."
    about.append(QCoreApplication.translate("HardwareBox", zeros))
    return fmt.tooltip("\n".join(fmt.visible(one) for one in about if one))
