"""Where modelled energy goes: what it is modelled under, and bars or a map of the layers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFrame,
    QLayout,
    QStackedWidget,
    QToolButton,
    QWidget,
)

from engine import Change, EnergySettings, Grid, Grouping, Part, grids
from gui import format as fmt
from gui import operations
from gui.models import energy_words
from gui.models.energy_unit import JOULES, EnergyUnit, UnitName, co2_unit, mac_unit
from gui.selection import Selection
from gui.settings import Settings
from gui.theme import Theme
from gui.views.amount_field import ignore_wheel_without_focus
from gui.views.energy_form import EnergyForm
from gui.views.energy_map import EnergyMap
from gui.views.folding_row import FoldingRow
from gui.views.metric_chart import MetricChart
from gui.views.parts import ElidedLabel
from gui.widgets import column, named

if TYPE_CHECKING:
    from gui.document import Document

EnergyView: TypeAlias = Literal["bars", "map"]

_VIEWS: tuple[EnergyView, ...] = ("bars", "map")
_GROUPINGS: tuple[Grouping, ...] = ("data type", "level")
_SHOWN_PARTS = Part.MODEL | Part.LAYERS | Part.METRICS | Part.HISTORY | Part.DATA
_LEAST_SIZE = (320, 160)
_LEAST_TEXT = 120  # pixels of the words on zeros
_HEIGHT = 24


class EnergyPage(QWidget):
    """One row of settings over the bars and the map, which follow it at once.

    Signals:
        forms_wanted: the user wants to see or edit the descriptions of hardware.
    """

    forms_wanted = Signal()

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        settings: Settings,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("energyPage")
        self._document = document
        self._settings = settings
        self._chart = MetricChart(document, selection, theme, ("energy",))
        self._map = EnergyMap(document, selection, theme)
        self._form = EnergyForm(self)
        self._make_toggles()
        self._make_units()
        self._make_zeros()
        self._lay_out()
        self._form.changed.connect(self._on_form)
        self._form.hardware.chosen.connect(self._on_hardware)
        self._form.hardware.forms_wanted.connect(self.forms_wanted)
        document.changed.connect(self._on_changed)
        document.modelling_changed.connect(self._refresh)
        settings.changed.connect(self._follow_settings)
        self._follow_settings()

    @property
    def shown(self) -> EnergyView:
        """Which view is in front."""
        return _VIEWS[self._stack.currentIndex()]

    @property
    def unit(self) -> EnergyUnit:
        """What energy is shown in."""
        snapshot = self._document.snapshot
        match self._settings.energy_unit:
            case "MAC" if snapshot is not None:  # of the hardware whose joules are shown
                return mac_unit(snapshot.current.energy.settings.hardware)
            case "CO2":
                return co2_unit(self._grid())
        return JOULES

    def show_view(self, view: EnergyView) -> None:
        """Bring the bars or the map to the front."""
        self._stack.setCurrentIndex(_VIEWS.index(view))
        self._view_buttons.button(_VIEWS.index(view)).setChecked(True)

    def choose_hardware(self) -> None:
        """Open the list of hardware."""
        self._form.hardware.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self._form.hardware.showPopup()

    def _make_toggles(self) -> None:
        self._view_buttons = QButtonGroup(self)
        self._grouping_buttons = QButtonGroup(self)
        bars = self._toggle("energyBars", self.tr("Bars"), self.tr("The layers as stacked bars"))
        areas = self._toggle(
            "energyAreas", self.tr("Map"), self.tr("The modules as areas within areas")
        )
        for place, button in enumerate((bars, areas)):
            self._view_buttons.addButton(button, place)
        by_data = self._toggle(
            "energyByData",
            self.tr("Data type"),
            self.tr("Energy of arithmetic, and of moving weights, inputs and outputs"),
        )
        by_level = self._toggle(
            "energyByLevel",
            self.tr("Level"),
            self.tr("Energy of arithmetic, and of the memories from registers to DRAM"),
        )
        for place, button in enumerate((by_data, by_level)):
            self._grouping_buttons.addButton(button, place)
        self._view_buttons.button(0).setChecked(True)
        self._view_buttons.idClicked.connect(self._on_view)
        self._grouping_buttons.idClicked.connect(self._on_grouping)

    def _make_units(self) -> None:
        self._unit = self._box("energyUnit", self.tr("What energy is shown in"))
        for text, name in (
            (self.tr("J"), "J"),
            (self.tr("MAC units"), "MAC"),
            (self.tr("g CO₂ per 1,000"), "CO2"),
        ):
            self._unit.addItem(text, name)
        self._unit.setItemData(
            2, self.tr("CO₂ equivalent of 1,000 inferences"), Qt.ItemDataRole.ToolTipRole
        )
        self._grids = self._box("energyGrid", self.tr("Whose electricity the CO₂ is counted by"))
        for place, grid in enumerate(grids()):
            self._grids.addItem(grid.name, grid.name)
            tip = f"{grid.grams_per_kwh:g} g CO₂/kWh, {grid.year}\n{grid.source}"
            self._grids.setItemData(place, fmt.tooltip(tip), Qt.ItemDataRole.ToolTipRole)
        self._unit.activated.connect(self._on_unit)
        self._grids.activated.connect(self._on_grid)

    def _make_zeros(self) -> None:
        self._zeros = named(QToolButton(), "measureZeros")
        self._zeros.setText(self.tr("Measure zeros"))
        self._zeros.setFixedHeight(_HEIGHT)
        self._zeros.clicked.connect(partial(operations.measure_zeros, self._document))
        self._zeros_text = ElidedLabel("zerosText", "caption")

    def _lay_out(self) -> None:
        form = self._form
        views, groupings = self._view_buttons.buttons(), self._grouping_buttons.buttons()
        first = [*views, _divider(), *groupings, _divider(), form.hardware]
        folding = (
            (self.tr("Zeros"), self._zeros),
            (self.tr("Unit"), self._unit),
            (self.tr("Electricity"), self._grids),
            (self.tr("Batch"), form.batch),
            (self.tr("Bits"), form.bits),
            (self.tr("Dataflow"), form.dataflow),
        )
        self._row = FoldingRow(first, folding, self._zeros_text, _LEAST_TEXT)
        self._row.setContentsMargins(8, 4, 8, 0)
        self._stack = QStackedWidget()
        self._stack.addWidget(self._chart)
        self._stack.addWidget(self._map)
        layout = column(self, spacing=0)
        # A narrow dock cuts off what is left, instead of pushing the other panels aside.
        layout.setSizeConstraint(QLayout.SizeConstraint.SetNoConstraint)
        self.setMinimumSize(*_LEAST_SIZE)
        layout.addWidget(self._row)
        layout.addWidget(self._stack, 1)

    def _toggle(self, name: str, text: str, tip: str) -> QToolButton:
        button = named(QToolButton(), name)
        button.setText(text)
        button.setToolTip(fmt.tooltip(tip))
        button.setCheckable(True)
        button.setFixedHeight(_HEIGHT)
        return button

    def _box(self, name: str, tip: str) -> QComboBox:
        box = named(QComboBox(), name)
        box.setToolTip(fmt.tooltip(tip))
        box.setAccessibleName(tip)
        box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        box.setFixedHeight(_HEIGHT)
        ignore_wheel_without_focus(box)
        return box

    def _grid(self) -> Grid:
        """The chosen grid; the first, the world's, while none was chosen."""
        known = grids()
        return next((one for one in known if one.name == self._settings.grid), known[0])

    @Slot(int)
    def _on_view(self, place: int) -> None:
        self.show_view(_VIEWS[place])

    @Slot(int)
    def _on_grouping(self, place: int) -> None:
        self._settings.grouping = _GROUPINGS[place]

    @Slot()
    def _on_unit(self) -> None:
        self._settings.energy_unit = cast(UnitName, self._unit.currentData())

    @Slot()
    def _on_grid(self) -> None:
        self._settings.grid = self._grids.currentData()

    @Slot(object)
    def _on_form(self, wanted: EnergySettings) -> None:
        """Model energy under what was chosen, and remember that for the next model."""
        operations.set_energy(self._document, wanted)
        self._settings.dataflow = wanted.dataflow

    @Slot(str)
    def _on_hardware(self, id_: str) -> None:
        self._settings.hardware = id_

    @Slot()
    def _follow_settings(self) -> None:
        """Show energy as the settings have it."""
        grouping = self._settings.grouping
        self._grouping_buttons.button(_GROUPINGS.index(grouping)).setChecked(True)
        self._unit.setCurrentIndex(self._unit.findData(self._settings.energy_unit))
        self._grids.setCurrentIndex(self._grids.findData(self._grid().name))
        self._row.set_wanted(self._grids, self._settings.energy_unit == "CO2")
        if grouping != self._chart.grouping:
            self._chart.show_grouping(grouping)
            self._map.show_grouping(grouping)
        self._refresh()

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        if change.parts & _SHOWN_PARTS:
            self._refresh()

    @Slot()
    def _refresh(self) -> None:
        """Show what energy is modelled under, or will be once that is done."""
        snapshot, wanted = self._document.snapshot, self._document.energy_settings
        self._row.setEnabled(snapshot is not None)
        if snapshot is None or wanted is None:
            return
        self._form.show_settings(wanted, snapshot.model.batch)
        if (unit := self.unit) != self._chart.unit:  # each of them draws again
            self._chart.show_unit(unit)
            self._map.show_unit(unit)
        estimate = snapshot.current.energy
        # On other hardware measuring would change nothing that can be seen here.
        self._row.set_wanted(self._zeros, estimate.settings.hardware.sparsity.skips_anything)
        self._zeros_text.show_text(energy_words.zeros_text(estimate, self.tr))
        self._zeros_text.setToolTip(fmt.tooltip(energy_words.zeros_lines(estimate, self.tr)))
        self._zeros.setEnabled(snapshot.data is not None)
        self._zeros.setToolTip(fmt.tooltip(self._zeros_tip(snapshot.data is not None)))

    def _zeros_tip(self, ready: bool) -> str:
        if not ready:
            return self.tr("Choose data first: zeros are counted on its training split")
        return self.tr("Count the zeros in what each layer reads; some hardware can skip them")


def _divider() -> QFrame:
    """A line between groups of buttons."""
    line = QFrame()
    line.setProperty("role", "divider")
    line.setFixedSize(1, _HEIGHT - 8)
    return line
