"""A picture of the window with a model in it, for the README and for looking at the design."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from PySide6.QtCore import QObject, QTimer
from PySide6.QtWidgets import QApplication

from engine import ROOT, EngineError, LayerId, Snapshot
from gui import operations
from gui.document import Document
from gui.main_window import MainWindow

if TYPE_CHECKING:
    from gui.views.energy_page import EnergyView

_ENERGY_VIEWS: Final[Mapping[str, EnergyView]] = {"energy": "bars", "energy-map": "map"}
_SETTLE_MS = 700  # the edit panel waits a moment before it asks for a preview


class Picture(QObject):
    """Waits for the jobs to end, selects a layer worth seeing, and writes what the window shows.

    Args:
        view: the catalogue, recovery, of energy, or of profiling, to be brought to the front; the
            last are measured, and sensitivity is scanned. "" for none.
        map: a file whose map of sensitivity is shown, so that nothing is scanned.

    Attributes:
        error: why there is no picture, in one line; empty when there is one.
    """

    def __init__(
        self, window: MainWindow, document: Document, path: str, view: str = "", map: str = ""
    ) -> None:
        super().__init__(window)
        self.error = ""
        self._view = view
        self._map = map
        self._window = window
        self._document = document
        self._path = path
        self._selected = False
        document.failed.connect(self.fail)
        document.jobs.idled.connect(self._go_on)

    def fail(self, error: BaseException) -> None:
        """Leave without a picture; the first reason counts."""
        if not self.error:
            remedy = error.remedy if isinstance(error, EngineError) else type(error).__name__
            self.error = " ".join(f"{error} {remedy}".split())
        QApplication.exit()

    def _go_on(self) -> None:
        snapshot = self._document.snapshot
        if snapshot is None or self.error:
            return
        if not self._selected:
            self._selected = True
            layer = layer_worth_seeing(snapshot)
            self._window.selection.set((layer,) if layer is not None else ())
            if self._view == "catalogue":
                self._window.show_catalogue()
            elif self._view == "recovery":
                self._window.show_recovery("tune")
            elif self._view == "sensitivity":
                self._show_sensitivity()
            elif self._view in _ENERGY_VIEWS:
                self._window.show_energy(_ENERGY_VIEWS[self._view])
            elif self._view:
                self._window.profile(self._view)
            QTimer.singleShot(_SETTLE_MS, self._draw)

    def _show_sensitivity(self) -> None:
        if self._map:
            operations.open_map(self._document, self._map)
            self._window.show_sensitivity()
        else:
            self._window.scan_sensitivity()

    def _draw(self) -> None:
        if self._document.jobs.active:
            QTimer.singleShot(_SETTLE_MS, self._draw)
            return
        if not self._window.grab().save(self._path, "PNG"):
            self.error = f"The picture could not be written to {self._path}."
        QApplication.exit()


def layer_worth_seeing(snapshot: Snapshot) -> LayerId | None:
    """The first layer that was edited, of those that can be edited further if there are any.

    Without edits it is the one that costs the most energy.
    """
    tree, applied = snapshot.current.tree, snapshot.history[: snapshot.cursor]
    named = [layer for entry in applied for layer in entry.edit.layers]
    edited = [layer for layer in named if layer in tree and layer != ROOT]
    if edited:
        return next((layer for layer in edited if tree[layer].methods), edited[0])
    energy = snapshot.current.table.get("energy")
    own = energy.by_layer() if energy is not None else {}
    editable = [layer.id for layer in tree if layer.methods]
    return max(editable, key=lambda layer: own.get(layer, 0.0), default=None)
