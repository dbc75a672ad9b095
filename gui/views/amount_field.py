"""What the inputs of a form have in common, and a share in percent among them."""

from typing import Any

from PySide6.QtCore import QEvent, QObject, Qt, Signal, SignalInstance, Slot
from PySide6.QtGui import QKeyEvent, QKeySequence
from PySide6.QtWidgets import QAbstractSpinBox, QDoubleSpinBox, QSlider, QWidget

from gui.widgets import named, row


class Input(QWidget):
    """One value: ``changed`` by hand or by :meth:`write`."""

    changed = Signal()

    def read(self) -> Any:
        """What it says."""
        raise NotImplementedError

    def write(self, value: Any) -> None:
        """Say this instead."""
        raise NotImplementedError

    def _hold(self, widget: QWidget, changes: SignalInstance) -> None:
        """Be that widget, as far as anybody sees."""
        ignore_wheel_without_focus(widget)
        if isinstance(widget, QAbstractSpinBox):
            leave_undo_to_window(widget)
        self.setFocusProxy(widget)
        row(self, spacing=4).addWidget(widget, 1)
        changes.connect(self.changed)


class AmountField(Input):
    """Slider and field show the same share; the field may have what the slider rounds."""

    def __init__(self, name: str, most: float) -> None:
        super().__init__()
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
        leave_undo_to_window(self._spin)

    def read(self) -> float:
        """The share, 0 to 1."""
        return round(self._spin.value() / 100, 6)

    def write(self, share: float) -> None:
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


class _UndoGuard(QObject):
    """Leaves Ctrl+Z to the window: behind an edit it means the edit, not the typed number."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            keys = QKeySequence.StandardKey
            if event.matches(keys.Undo) or event.matches(keys.Redo):
                event.ignore()
                return True
        return False


def leave_undo_to_window(spin: QAbstractSpinBox) -> None:
    """Let the keys of undo and redo reach the window while the number has the focus."""
    spin.installEventFilter(_UndoGuard(spin))
