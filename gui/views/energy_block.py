"""What is known of the energy of the selected layer, in a few rows."""

from PySide6.QtWidgets import QWidget

from engine import LayerId, ModelState
from gui.models.energy_facts import energy_facts, mapping_of
from gui.theme import Theme
from gui.views.fact_rows import Fact, FactRows
from gui.widgets import column, plain_label


class EnergyBlock(QWidget):
    """Rows of facts, and below them in words what needs more room."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("energyBlock")
        title = plain_label(self.tr("Energy, modelled"), "energyTitle", "caption")
        title.setContentsMargins(0, 8, 0, 0)
        self._facts = FactRows("energyFacts", theme)
        self._notes = plain_label("", "energyNotes", "muted")
        self._notes.setWordWrap(True)
        layout = column(self, spacing=4)
        for widget in (title, self._facts, self._notes):
            layout.addWidget(widget)
        self.show_layer(None, None)

    def show_layer(self, state: ModelState | None, layer: LayerId | None) -> None:
        """Show what is known of that layer; nothing without one."""
        known = state is not None and layer is not None and layer in state.tree
        facts = energy_facts(state, layer, self.tr) if known else ()  # type: ignore[arg-type]
        mapping = mapping_of(state, layer) if known else ""  # type: ignore[arg-type]
        self._facts.show_facts([Fact(one.name, one.value) for one in facts])
        notes = [f"{one.name}: {one.remark}" for one in facts if one.remark]
        notes += [self.tr("Mapping: %s") % mapping] if mapping else []
        self._notes.setText("\n".join(notes))
        self._notes.setVisible(bool(notes))
        self.setVisible(bool(facts))
