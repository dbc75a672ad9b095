"""A share in percent: a slider for the hand, a field for the number."""

from PySide6.QtCore import QEvent, QObject, Qt, Signal, Slot
from PySide6.QtWidgets import QDoubleSpinBox, QSlider, QWidget

from gui.widgets import named, row


class AmountField(QWidget):
    """Slider and field show the same share; the field may have what the slider rounds."""

    changed = Signal()

    def __init__(self, name: str, most: float, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = named(QSlider(Qt.Orientation.Horizontal), f"{name}_slider")
        self._slider.setRange(0, int(most))
        self._slider.setPageStep(10)
        self._spin = named(QDoubleSpinBox(), name)
        self._spin.setRange(0, most)
        self._spin.setDecimals(1)
        self._spin.setSuffix(" %")
        self._spin.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.setFocusProxy(self._spin)
        layout = row(self, spacing=8)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._spin)
        self._slider.valueChanged.connect(self._on_slider)
        self._spin.valueChanged.connect(self._on_spin)
        ignore_wheel_without_focus(self._slider)
        ignore_wheel_without_focus(self._spin)

    @property
    def share(self) -> float:
        """The share, 0 to 1."""
        return round(self._spin.value() / 100, 6)

    def set_share(self, share: float) -> None:
        """Show this share."""
        self._spin.setValue(share * 100)

    @Slot(int)
    def _on_slider(self, percent: int) -> None:
        if round(self._spin.value()) != percent:
            self._spin.setValue(percent)

    @Slot(float)
    def _on_spin(self, percent: float) -> None:
        self._slider.setValue(round(percent))
        self.changed.emit()


class _WheelGuard(QObject):
    """Leaves the wheel to the panel, so that scrolling over a field does not change it."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        wheel = event.type() == QEvent.Type.Wheel
        if wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()
            return True
        return False


def ignore_wheel_without_focus(widget: QWidget) -> None:
    """Let the wheel change the widget only once it has been clicked or tabbed to."""
    widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    widget.installEventFilter(_WheelGuard(widget))
