"""Which layers are selected, shared by every view."""

from collections.abc import Iterable

from PySide6.QtCore import QObject, Signal

from engine import LayerId


class Selection(QObject):
    """The selected layers; a view ignores the echo of its own choice by :attr:`origin`."""

    changed = Signal(object)  # the selected layers, tuple[LayerId, ...]

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._layers: tuple[LayerId, ...] = ()
        self._origin: QObject | None = None

    @property
    def layers(self) -> tuple[LayerId, ...]:
        """The selected layers in tree order, as whoever selected them gave them."""
        return self._layers

    @property
    def origin(self) -> QObject | None:
        """Who made the selection; None outside the signal."""
        return self._origin

    def set(self, layers: Iterable[LayerId], origin: QObject | None = None) -> None:
        """Select these layers, and tell every view if that is news."""
        chosen = tuple(dict.fromkeys(layers))
        if chosen == self._layers:
            return
        self._layers = chosen
        self._origin = origin
        try:
            self.changed.emit(chosen)
        finally:
            self._origin = None
