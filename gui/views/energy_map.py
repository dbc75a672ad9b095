"""Where the modelled energy goes, as areas: a treemap of the module hierarchy against the base."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import QPoint, Qt, Slot
from PySide6.QtGui import QContextMenuEvent, QShowEvent
from PySide6.QtWidgets import QMenu, QStackedWidget, QToolButton, QWidget

from engine import ROOT, Change, Grouping, LayerId, Part
from gui import format as fmt
from gui.models.energy_map import Cell, EnergyTree, energy_tree, path_to
from gui.models.energy_unit import JOULES, EnergyUnit
from gui.models.energy_words import bound_text, conditions
from gui.selection import Selection
from gui.theme import Theme
from gui.views.chart_files import ChartFiles
from gui.views.chart_legend import ChartLegend
from gui.views.parts import ElidedLabel
from gui.views.treemap_plot import TreemapPlot
from gui.widgets import column, named, plain_label, row

if TYPE_CHECKING:
    from gui.document import Document

_SHOWN_PARTS = Part.MODEL | Part.LAYERS | Part.METRICS | Part.HISTORY
_MOST_CRUMBS = 5
_HEAD = 24  # pixels of the row above the map


class EnergyMap(QWidget):
    """The map with the containers around it, and what the mouse points at read out above it."""

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("energyMap")
        self._document = document
        self._grouping: Grouping = "data type"
        self._unit = JOULES
        self._energy: EnergyTree | None = None
        self._stale = True
        self._caption = ElidedLabel("mapCaption", "caption", Qt.TextElideMode.ElideRight)
        self._legend = ChartLegend(theme, self)
        self._plot = TreemapPlot(selection, theme, self)
        self._empty = plain_label("", "mapEmpty", "muted")
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._empty.setWordWrap(True)
        self._files = ChartFiles(self, self._plot, theme, self.table)
        self._lay_out()
        document.changed.connect(self._on_changed)
        theme.changed.connect(self._legend.update)
        self._plot.pointed.connect(self._read_out)
        self._plot.zoomed.connect(self._on_zoomed)
        self.refresh()

    @property
    def plot(self) -> TreemapPlot:
        """The map itself."""
        return self._plot

    def show_grouping(self, grouping: Grouping) -> None:
        """Split the cells by data type or by memory level."""
        self._grouping = grouping
        self._make_stale()

    def show_unit(self, unit: EnergyUnit) -> None:
        """Write energy in that unit."""
        self._unit = unit
        self._make_stale()

    def refresh(self) -> None:
        """Draw the current snapshot."""
        self._stale = False
        snapshot = self._document.snapshot
        self._energy = energy_tree(snapshot, self._grouping) if snapshot is not None else None
        if self._energy is not None and not self._energy.totals:
            self._energy = None
        self._plot.show_energy(self._energy, self._unit)
        self._stack.setCurrentWidget(self._plot if self._energy is not None else self._empty)
        self._empty.setText(
            self.tr("Open a model to see where its energy goes.")
            if snapshot is None
            else self.tr("No energy has been modelled for this model.")
        )
        parts = self._energy.parts if self._energy is not None else ()
        compares = self._energy is not None and bool(self._energy.base)
        self._legend.show_parts(parts, compares)
        self._show_crumbs()
        self._show_head()
        self._files.describe(self.caption(), parts, compares)

    def caption(self) -> str:
        """What is shown, under which conditions and on which scale."""
        snapshot = self._document.snapshot
        if self._energy is None or snapshot is None:
            return ""
        estimate = snapshot.current.energy
        title = self.tr("{metric} by layer").format(metric=self.tr(self._unit.title))
        how = self.tr(estimate.series.metric.provenance.value)
        texts = [title, how, self._scale(), self._unit.note, *conditions(estimate, self.tr)]
        return " · ".join(text for text in texts if text)

    def read_out(self, cell: Cell) -> str:
        """One cell in words: what it is, its energy and share, its parts, and what is known."""
        if self._energy is None:
            return ""
        whole = self._energy.totals[ROOT]
        share = self.tr("{share} of the model").format(share=fmt.percent(cell.joules / whole))
        texts = [f"{self._unit.text(cell.joules)} ({share})"]
        texts += [
            f"{part} {fmt.percent(value / cell.joules, 0)}"
            for part, value in zip(self._energy.parts, cell.values, strict=True)
            if value
        ]
        return f"{self._title(cell)}   {' · '.join([*texts, *self._told(cell)])}"

    def _told(self, cell: Cell) -> list[str]:
        """What the estimate says of a layer beside its joules."""
        snapshot = self._document.snapshot
        if snapshot is None or cell.kind != "layer":
            return []
        estimate = snapshot.current.energy
        told = estimate.layers.get(cell.layer)
        if told is None:
            return []
        bound = bound_text(told.bound, estimate.bound_by, self.tr)
        texts = [bound] if bound else []
        if told.utilisation is not None:
            share = fmt.percent(told.utilisation, 0)
            texts.append(self.tr("{share} of the array in use").format(share=share))
        return [*texts, told.mapping] if told.mapping else texts

    def _title(self, cell: Cell) -> str:
        name = fmt.layer_name(cell.layer)
        if cell.kind == "rest":
            return self.tr("{count} more in {container}").format(
                count=len(cell.merged), container=name
            )
        return name

    def table(self) -> list[list[object]] | None:
        """Own energy of every layer in view by part, the header first; None without energy."""
        energy, unit = self._energy, self._unit
        snapshot = self._document.snapshot
        if energy is None or snapshot is None:
            return None
        before = snapshot.base.table.get("energy") if energy.base else None
        base = before.by_layer() if before is not None else {}
        names = [*energy.parts, "total", *(["base"] if base else [])]
        rows: list[list[object]] = [["layer", *(f"{name} ({unit.symbol})" for name in names)]]
        for layer in energy.tree.under(self._plot.root):
            values = energy.own.get(layer)
            if values is None and not base.get(layer):
                continue
            own = values or (0.0,) * len(energy.parts)
            cells = [*own, sum(own), *([base.get(layer, 0.0)] if base else [])]
            rows.append([layer, *(unit.of(value) for value in cells)])
        return rows

    def _scale(self) -> str:
        """What the size of the map says against the base."""
        energy, root = self._energy, self._plot.root
        if energy is None or not energy.base.get(root):
            return self.tr("area: energy")
        before = self._unit.text(energy.base[root])
        if energy.share_of_base(root) > 1:
            return self.tr("area: energy; the dashed outline is the base, %s") % before
        return self.tr("area: energy; the whole frame is the base, %s") % before

    def _lay_out(self) -> None:
        self._crumbs = row(spacing=0)
        top = row(spacing=8)
        top.setContentsMargins(8, 4, 8, 4)
        # The row keeps its height without the legend: the map below must not move under the mouse.
        self._caption.setMinimumHeight(_HEAD)
        top.addLayout(self._crumbs)
        top.addWidget(self._caption, 1)
        top.addWidget(self._legend)
        self._stack = QStackedWidget()
        self._stack.addWidget(self._plot)
        self._stack.addWidget(self._empty)
        layout = column(self, spacing=0)
        layout.addLayout(top)
        layout.addWidget(self._stack, 1)

    def _show_crumbs(self) -> None:
        """One button for each container around the one in view, and for that itself."""
        while (item := self._crumbs.takeAt(0)) is not None:
            if (old := item.widget()) is not None:
                old.hide()
                old.deleteLater()
        if self._energy is None or self._plot.root == self._energy.inner(ROOT):
            return
        path = path_to(self._energy.tree, self._plot.root)
        if len(path) > _MOST_CRUMBS:
            path = (path[0], *path[1 - _MOST_CRUMBS :])
        for place, layer in enumerate(path):
            model = self._document.snapshot.model.name if self._document.snapshot else ""
            name = self._energy.tree[layer].name if layer != ROOT else model
            button = named(QToolButton(), f"crumb{place}")
            short = self.fontMetrics().elidedText(name, Qt.TextElideMode.ElideMiddle, 120)
            button.setText(f"▸ {short}" if place else short)
            button.setAutoRaise(True)
            button.setToolTip(fmt.tooltip(self.tr("Show all of %s") % fmt.layer_name(layer)))
            button.setEnabled(layer != self._plot.root)
            button.clicked.connect(partial(self._zoom_to, layer))
            self._crumbs.addWidget(button)

    def _zoom_to(self, layer: LayerId, _: bool = False) -> None:
        self._plot.zoom_to(layer)
        self._plot.setFocus(Qt.FocusReason.OtherFocusReason)

    def _show_head(self) -> None:
        """The caption without its title, which stands elsewhere already; all of it on top."""
        self._caption.show_text(self.caption().partition(" · ")[2])
        self._caption.setToolTip(fmt.tooltip(self.caption().replace(" · ", "\n")))

    @Slot(str)
    def _on_zoomed(self, _: str) -> None:
        self._show_crumbs()
        self._show_head()
        if self._energy is not None:
            self._files.describe(self.caption(), self._energy.parts, bool(self._energy.base))

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        if change.parts & Part.MODEL:  # zoomed into a layer of the model before
            self._plot.show_energy(None, self._unit)
        if change.parts & _SHOWN_PARTS:
            self._make_stale()

    def _make_stale(self) -> None:
        """Draw again, once somebody looks."""
        self._stale = True
        if self.isVisible():
            self.refresh()

    @Slot(object)
    def _read_out(self, cell: Cell | None) -> None:
        self._caption.show_text(self.read_out(cell)) if cell is not None else self._show_head()
        self._legend.setVisible(cell is None)  # the read-out names the parts, and needs the room

    def make_menu(self) -> QMenu:
        """The menu of the map: its picture and its numbers, to the clipboard or a file."""
        return self._files.make_menu(
            (self.tr("Zoom out"), self._plot.zoom_out),
            (self.tr("Show all layers"), partial(self._zoom_to, ROOT)),
        )

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        self.make_menu().popup(QPoint(event.globalPos()))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._stale:
            self.refresh()
