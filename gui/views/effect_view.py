"""What an edit would do: totals before and after, coupled layers, notes, or why it cannot be."""

from collections.abc import Sequence

from PySide6.QtWidgets import QWidget

from engine import METRICS, Effect, EngineError, LayerEffect
from gui import format as fmt
from gui.theme import Theme
from gui.views.fact_rows import Fact, FactRows
from gui.widgets import column, plain_label

_SHOWN = ("parameters", "macs", "energy", "size")
_MOST_LAYERS = 10


class EffectView(QWidget):
    """The answer to a preview."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("effectView")
        self._totals = FactRows("effectTotals", theme)
        self._chosen_title = plain_label("", "chosenTitle", "caption")
        self._chosen = FactRows("effectChosen", theme)
        self._coupled_title = plain_label("", "coupledTitle", "caption")
        self._coupled = FactRows("effectCoupled", theme)
        self._notes = plain_label("", "effectNotes", "muted")
        self._error = plain_label("", "effectError", "error")
        for text in (self._notes, self._error):
            text.setWordWrap(True)
        layout = column(self, spacing=4)
        for widget in (
            self._totals,
            self._chosen_title,
            self._chosen,
            self._coupled_title,
            self._coupled,
            self._notes,
            self._error,
        ):
            layout.addWidget(widget)
        for title in (self._chosen_title, self._coupled_title):
            title.setContentsMargins(0, 8, 0, 0)
        self.clear()

    def clear(self) -> None:
        """Show nothing."""
        self._show_totals(None)
        self._show_layers(self._chosen_title, self._chosen, (), "")
        self._show_layers(self._coupled_title, self._coupled, (), "")
        self._show_text(self._notes, "")
        self._show_text(self._error, "")

    def show_effect(self, effect: Effect, more: str = "") -> None:
        """Show what the edit would do; ``more`` stands behind the notes on it."""
        self.clear()
        self._show_totals(effect)
        chosen = [one for one in effect.layers if one.role == "chosen"]
        coupled = [one for one in effect.layers if one.role == "coupled"]
        folded = [one for one in effect.layers if one.role == "folded"]
        self._show_layers(self._chosen_title, self._chosen, chosen, self.tr("Changes"))
        self._show_layers(
            self._coupled_title, self._coupled, coupled, self.tr("Also shrinks, coupled to them")
        )
        names = ", ".join(fmt.layer_name(one.layer) for one in folded[:_MOST_LAYERS])
        folds = self.tr("Folds in {names}.").format(names=names) if names else ""
        notes = (*effect.notes, folds, more)
        self._show_text(self._notes, "\n".join(note for note in notes if note))

    def show_error(self, error: EngineError) -> None:
        """Say why the edit cannot be done, and what can."""
        self.clear()
        self._show_text(self._error, f"{error}\n{error.remedy}")

    def _show_totals(self, effect: Effect | None) -> None:
        facts = []
        for key in _SHOWN if effect else ():
            metric = METRICS[key]
            before, after = effect.before.get(key), effect.after.get(key)  # type: ignore[union-attr]
            if before is None or after is None:
                continue
            numbers = (fmt.metric_number(metric, one) for one in (before, after))
            facts.append(
                Fact(
                    self.tr("Energy") if key == "energy" else self.tr(metric.title),
                    " → ".join(numbers),
                    fmt.change(metric, before, after),
                    fmt.verdict(metric, before, after),
                )
            )
        self._totals.show_facts(facts)

    def _show_layers(
        self, title: QWidget, rows: FactRows, effects: Sequence[LayerEffect], text: str
    ) -> None:
        facts = [self._fact(one) for one in effects[:_MOST_LAYERS]]
        left = len(effects) - len(facts)
        if left > 0:
            facts.append(Fact(self.tr("and {count} more").format(count=left), ""))
        rows.show_facts(facts)
        self._show_text(title, text if facts else "")

    def _fact(self, effect: LayerEffect) -> Fact:
        value = f"{fmt.count(effect.before)} → {fmt.count(effect.after)}"
        return Fact(fmt.layer_name(effect.layer), value, self.tr(effect.quantity))

    def _show_text(self, label: QWidget, text: str) -> None:
        label.setProperty("text", text)
        label.setVisible(bool(text))
