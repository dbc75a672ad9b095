"""The panels around an open model: figures on top, layers in the middle, docks around them."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QByteArray, Qt, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QDockWidget, QFrame, QMainWindow, QWidget

from gui.document import Document
from gui.selection import Selection
from gui.settings import Settings
from gui.theme import Theme
from gui.views.edit_panel import EditPanel
from gui.views.energy_page import EnergyPage, EnergyView
from gui.views.figures import FiguresStrip
from gui.views.history import HistoryView
from gui.views.jobs_panel import JobsPanel
from gui.views.layer_tree import LayerTreeView
from gui.views.notes_line import NotesLine
from gui.views.profile_page import ProfilePage
from gui.views.recovery_panel import RecoveryPanel, RecoveryTab
from gui.views.sensitivity_view import SensitivityView
from gui.views.warnings_line import WarningsLine
from gui.widgets import column, named

_LAYOUT_VERSION: Final = 4
_RIGHT, _BOTTOM = Qt.DockWidgetArea.RightDockWidgetArea, Qt.DockWidgetArea.BottomDockWidgetArea
# Shares of the window that the docks get at first.
_RIGHT_WIDTH, _CHART_HEIGHT, _HISTORY_HEIGHT = 0.28, 0.38, 0.17
_PROFILE_HEIGHT = 0.5


class Workbench(QWidget):
    """Places the panels; the docks can be moved, closed and put back.

    Signals:
        data_wanted: the user wants to choose validation data.
        map_wanted: the user wants to see a map of sensitivity that is in a file.
        limit_wanted: the user wants to set the limit of the metric with that key.
        information_wanted: the user wants to read what is known of the model.
        broken_wanted: the user wants to know which samples were skipped.
        hardware_forms_wanted: the user wants to see or edit descriptions of hardware.
        consent_wanted: the :class:`engine.ConsentNeeded` over code that an edit names, and the name
            as the user gave it.
    """

    data_wanted = Signal()
    map_wanted = Signal()
    limit_wanted = Signal(str)
    information_wanted = Signal()
    broken_wanted = Signal()
    hardware_forms_wanted = Signal()
    consent_wanted = Signal(object, str)

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        settings: Settings,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("workbench")
        self._strip = FiguresStrip(document, theme, self)
        self._strip.data_wanted.connect(self.data_wanted)
        self._strip.limit_wanted.connect(self.limit_wanted)
        self._strip.broken_wanted.connect(self.broken_wanted)
        # A main window of its own, so that the docks leave the strip its full width.
        self._panels = named(QMainWindow(), "panels")
        self._panels.setWindowFlags(Qt.WindowType.Widget)
        self._panels.setDockNestingEnabled(True)
        self._panels.setCorner(Qt.Corner.BottomRightCorner, _RIGHT)
        self._tree = LayerTreeView(document, selection, theme)
        self._panels.setCentralWidget(self._tree)
        edit = EditPanel(document, selection, theme)
        edit.consent_wanted.connect(self.consent_wanted)
        self._edit = self._dock("dock_layer", self.tr("Layer"), edit, _RIGHT)
        self._recovery = RecoveryPanel(document, selection, theme, lambda: edit.edit)
        self._recover = self._dock("dock_recover", self.tr("Recover"), self._recovery, _RIGHT)
        self._energy = EnergyPage(document, selection, theme, settings)
        self._energy.forms_wanted.connect(self.hardware_forms_wanted)
        self._chart = self._dock("dock_energy", self.tr("Energy by layer"), self._energy, _BOTTOM)
        self._page = ProfilePage(document, selection, theme)
        self._profile = self._dock("dock_profile", self.tr("Profile"), self._page, _BOTTOM)
        self._map = SensitivityView(document, selection, theme)
        self._map.data_wanted.connect(self.data_wanted)
        self._map.open_wanted.connect(self.map_wanted)
        self._sensitivity = self._dock(
            "dock_sensitivity", self.tr("Sensitivity"), self._map, _BOTTOM
        )
        past = _above(HistoryView(document, theme), JobsPanel(document.jobs, theme))
        self._history = self._dock("dock_history", self.tr("History and jobs"), past, _RIGHT)
        notes = NotesLine(document, theme)
        notes.information_wanted.connect(self.information_wanted)
        layout = column(self, spacing=0)
        layout.addWidget(self._strip)
        layout.addWidget(WarningsLine(document, theme))
        layout.addWidget(notes)
        layout.addWidget(_line())
        layout.addWidget(self._panels, 1)

    @property
    def toggles(self) -> list[QAction]:
        """Actions that show and hide the docks."""
        return [dock.toggleViewAction() for dock in self._docks]

    def show_profile(self, tab: str) -> ProfilePage:
        """Bring that view of profiling to the front, with room to be read; returns its page."""
        self._raise(self._profile)
        self._page.show_tab(tab)
        return self._page

    def show_sensitivity(self) -> SensitivityView:
        """Bring the map of what each layer can bear to the front; returns its view."""
        self._raise(self._sensitivity)
        self._map.take_focus()
        return self._map

    def show_energy(self, view: EnergyView | None = None) -> EnergyPage:
        """Bring the energy by layer to the front, in that view; returns its page."""
        self._chart.show()
        self._chart.raise_()
        if view is not None:
            self._energy.show_view(view)
        return self._energy

    def show_recovery(self, tab: RecoveryTab) -> RecoveryPanel:
        """Bring that way of winning accuracy back to the front; returns its panel."""
        self._recover.show()
        self._recover.raise_()
        self._recovery.show_tab(tab)
        return self._recovery

    def focus_filter(self) -> None:
        """Put the cursor into the line that filters the layers."""
        self._tree.focus_filter()

    def save_layout(self) -> QByteArray:
        """How the docks are arranged."""
        return self._panels.saveState(_LAYOUT_VERSION)

    def restore_layout(self, layout: QByteArray) -> None:
        """Arrange the docks as they were saved; at first, or when that fails, as designed."""
        if layout.isEmpty() or not self._panels.restoreState(layout, _LAYOUT_VERSION):
            self.reset_layout()

    def reset_layout(self) -> None:
        """Arrange the docks as designed."""
        for dock in self._docks:
            dock.setFloating(False)
            dock.show()
        self._panels.addDockWidget(_RIGHT, self._edit)
        self._panels.addDockWidget(_BOTTOM, self._chart)
        self._panels.addDockWidget(_RIGHT, self._history)
        self._panels.splitDockWidget(self._edit, self._history, Qt.Orientation.Vertical)
        self._panels.tabifyDockWidget(self._edit, self._recover)
        self._edit.raise_()
        self._panels.tabifyDockWidget(self._chart, self._profile)
        self._panels.tabifyDockWidget(self._profile, self._sensitivity)
        self._chart.raise_()
        width, height = self.width(), self.height()
        horizontal, vertical = Qt.Orientation.Horizontal, Qt.Orientation.Vertical
        right = round(width * _RIGHT_WIDTH)
        self._panels.resizeDocks([self._edit], [right], horizontal)
        self._panels.resizeDocks([self._chart], [round(height * _CHART_HEIGHT)], vertical)
        self._panels.resizeDocks([self._history], [round(height * _HISTORY_HEIGHT)], vertical)

    @property
    def _docks(self) -> tuple[QDockWidget, ...]:
        below = self._chart, self._profile, self._sensitivity
        return self._edit, self._recover, *below, self._history

    def _raise(self, dock: QDockWidget) -> None:
        """Bring a panel at the lower edge to the front, with room to be read."""
        dock.show()
        dock.raise_()
        least = round(self.height() * _PROFILE_HEIGHT)
        if not dock.isFloating() and dock.height() < least:
            self._panels.resizeDocks([dock], [least], Qt.Orientation.Vertical)

    def _dock(self, name: str, title: str, widget: QWidget, area: Qt.DockWidgetArea) -> QDockWidget:
        dock = named(QDockWidget(title, self._panels), name)
        dock.setWidget(widget)
        self._panels.addDockWidget(area, dock)
        return dock


def _above(upper: QWidget, lower: QWidget) -> QWidget:
    both = QWidget()
    layout = column(both, spacing=0)
    layout.addWidget(upper, 1)
    layout.addWidget(lower)
    return both


def _line() -> QFrame:
    line = QFrame()
    line.setProperty("role", "line")
    return line
