"""The flame graph with what it points at read out above it, and its way to other viewers."""

from __future__ import annotations

from PySide6.QtCore import QPoint, Slot
from PySide6.QtGui import QAction, QContextMenuEvent
from PySide6.QtWidgets import QMenu, QToolButton, QWidget

from engine import OperatorProfile
from gui import format as fmt
from gui.models.flame import LAYER, Box, Flame, flame
from gui.selection import Selection
from gui.theme import Theme
from gui.views.chart_files import ChartFiles
from gui.views.chart_legend import ChartLegend
from gui.views.flame_graph import FlameGraph
from gui.views.parts import ElidedLabel
from gui.views.saving import ask_and_write
from gui.widgets import column, named, row


class FlameView(QWidget):
    """Where the time of one pass goes: layers, and below them their operators."""

    def __init__(self, selection: Selection, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("flameView")
        self._profile: OperatorProfile | None = None
        self._flame: Flame | None = None
        self._caption = ElidedLabel("flameCaption", "caption")
        self._legend = ChartLegend(theme, self)
        self._graph = FlameGraph(selection, theme)
        self._graph.pointed.connect(self._read_out)
        self._files = ChartFiles(self, self._graph, theme, self._table)
        self._save = QAction(self.tr("Save trace…"), self)
        self._save.setIconText(self._save.text())  # on a button Qt would leave the dots out
        self._save.setToolTip(
            self.tr("Write a Chrome trace, which Perfetto and chrome://tracing show")
        )
        self._save.triggered.connect(self.ask_trace)
        theme.changed.connect(self._legend.update)
        self._lay_out()

    def show_profile(self, profile: OperatorProfile) -> None:
        """Show this profile."""
        self._profile = profile
        self._flame = flame(profile)
        self._graph.show_flame(self._flame)
        self._legend.show_parts(self._flame.kinds, base=False)
        self._files.describe(self._head(), self._flame.kinds)
        self._save.setEnabled(bool(profile.trace))
        self._read_out(None)

    def read_out(self, box: Box | None) -> str:
        """One box in words: name, layer, time and share of the pass."""
        if box is None or self._flame is None:
            return self._head()
        layer = "" if box.kind == LAYER else f" · {fmt.layer_name(box.layer)}"
        parts = [fmt.quantity(box.seconds, "s")]
        if self._flame.seconds:
            share = fmt.percent(box.seconds / self._flame.seconds)
            parts.append(self.tr("{share} of the pass").format(share=share))
        parts.append(self.tr("from {start}").format(start=fmt.quantity(box.start, "s")))
        parts += [box.shapes] if box.shapes else []
        return f"{box.name}{layer}   {' · '.join(parts)}"

    def ask_trace(self) -> None:
        """Ask for a file and write the Chrome trace."""
        if self._profile is not None:
            trace = self._profile.trace
            title, kind = self.tr("Save the Chrome trace"), self.tr("Chrome traces (*.json)")
            ask_and_write(self, title, kind, ".json", trace.encode)

    def _head(self) -> str:
        if self._profile is None:
            return ""
        calls = fmt.count(len(self._profile.calls))
        time = fmt.quantity(self._profile.seconds, "s")
        text = self.tr("pass {time}, {calls} calls").format(time=time, calls=calls)
        holds = fmt.conditions_text(self._profile.conditions, self.tr)
        return " · ".join(part for part in (text, holds) if part)

    def _lay_out(self) -> None:
        top = row(spacing=8)
        top.setContentsMargins(8, 4, 8, 4)
        top.addWidget(self._caption, 1)
        top.addWidget(self._legend)
        whole = named(QToolButton(), "showAll")
        whole.setText(self.tr("Show all"))
        whole.setToolTip(self.tr("Undo zooming (Home)"))
        whole.clicked.connect(self._graph.show_all)
        whole.hide()
        self._graph.zoomed.connect(whole.setVisible)
        save = named(QToolButton(), "saveTrace")
        save.setDefaultAction(self._save)
        for button in (whole, save):
            top.addWidget(button)
        layout = column(self, spacing=0)
        layout.addLayout(top)
        layout.addWidget(self._graph, 1)

    def _table(self) -> list[list[object]] | None:
        return self._flame.table() if self._flame is not None else None

    @Slot(object)
    def _read_out(self, box: Box | None) -> None:
        self._caption.show_text(self.read_out(box))
        self._legend.setVisible(box is None)  # the read-out needs the room

    def make_menu(self) -> QMenu:
        """The menu of the graph: its picture and its numbers, to the clipboard or a file."""
        menu = self._files.make_menu((self.tr("Show all"), self._graph.show_all))
        menu.addAction(self._save)
        return menu

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        self.make_menu().popup(QPoint(event.globalPos()))
