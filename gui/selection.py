"""Which layers are selected, shared by every view."""

from collections.abc import Iterable

from PySide6.QtCore import QObject, Signal

from engine import LayerId


class Selection(QObject):
    """The selected layers; a view ignores the echo of its own choice by :attr:`origin`."""

    changed = Signal(object)  # the selected layers, tuple[LayerId, ...]
    pointed = Signal(object, bool)  # layers pointed at, likewise; whether to scroll to them

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._layers: tuple[LayerId, ...] = ()
        self._chosen: frozenset[str] = frozenset()  # the same, to be looked up
        self._origin: QObject | None = None
        self._pointed: tuple[LayerId, ...] = ()

    @property
    def layers(self) -> tuple[LayerId, ...]:
        """The selected layers in tree order, as whoever selected them gave them."""
        return self._layers

    @property
    def origin(self) -> QObject | None:
        """Who made the selection; None outside the signal."""
        return self._origin

    def covers(self, layer: LayerId) -> bool:
        """Whether the layer is selected, or lies in a selected container that is not the root."""
        if layer in self._chosen:
            return True
        above = layer.rpartition(".")[0]
        while above and above not in self._chosen:
            above = above.rpartition(".")[0]
        return bool(above)

    def pick(self, layer: LayerId, adds: bool, origin: QObject | None = None) -> None:
        """Do what a click on that layer asks for: select it alone, or with ``adds`` as well."""
        others = [one for one in self._layers if one != layer]
        if not adds:
            self.set((layer,), origin)
        else:
            self.set(others if len(others) < len(self._layers) else (*others, layer), origin)

    def point(self, layers: Iterable[LayerId], reveal: bool = False) -> None:
        """Point at these layers without selecting them; none: stop pointing.

        Other views show where they are; with ``reveal`` they scroll there.
        """
        pointed = tuple(layers)
        if reveal or pointed != self._pointed:
            self._pointed = pointed
            self.pointed.emit(pointed, reveal)

    def set(self, layers: Iterable[LayerId], origin: QObject | None = None) -> None:
        """Select these layers, and tell every view if that is news."""
        chosen = tuple(dict.fromkeys(layers))
        if chosen == self._layers:
            return
        self._layers = chosen
        self._chosen = frozenset(chosen)
        self._origin = origin
        try:
            self.changed.emit(chosen)
        finally:
            self._origin = None
