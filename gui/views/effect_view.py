"""What an edit would do: totals before and after, layers, notes, or why it cannot be."""

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QPushButton, QWidget

from engine import METRICS, ConsentNeeded, Effect, EngineError, LayerEffect
from gui import format as fmt
from gui.models.effect_rows import effect_rows
from gui.selection import Selection
from gui.theme import Theme
from gui.views.effect_layers import EffectLayers
from gui.views.fact_rows import Fact, FactRows
from gui.views.warning_list import WarningList
from gui.widgets import column, named, plain_label

_SHOWN = ("parameters", "macs", "energy", "size")
_MOST_FOLDED = 10


class EffectView(QWidget):
    """The answer to a preview.

    Signals:
        review_wanted: the user wants to see the code that the edit would run.

    Args:
        first: stands above everything.
    """

    review_wanted = Signal()

    def __init__(
        self, theme: Theme, selection: Selection, first: QWidget, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("effectView")
        self._totals = FactRows("effectTotals", theme)
        self._chosen = EffectLayers("effectChosen", selection)
        self._coupled = EffectLayers("effectCoupled", selection)
        self._warnings = WarningList("effectWarnings", theme)
        self._notes = plain_label("", "effectNotes", "muted")
        self._error = plain_label("", "effectError", "error")
        for text in (self._notes, self._error):
            text.setWordWrap(True)
        self._review = named(QPushButton(self.tr("Allow the code to run…")), "reviewCode")
        self._review.clicked.connect(self.review_wanted)
        layout = column(self, spacing=4)
        lists = (self._chosen, self._coupled)
        shown = (first, self._totals, self._warnings, *lists, self._notes, self._error)
        for widget in shown:
            layout.addWidget(widget)
        layout.addWidget(self._review, 0, Qt.AlignmentFlag.AlignLeft)
        self.clear()

    def clear(self) -> None:
        """Show nothing."""
        self._show(None, "", "")

    def show_effect(self, effect: Effect, more: str = "") -> None:
        """Show what the edit would do; ``more`` stands behind the notes on it."""
        notes = (*effect.notes, self._folded_text(effect), more)
        self._show(effect, "\n".join(note for note in notes if note), "")

    def show_error(self, error: EngineError) -> None:
        """Say why the edit cannot be done, and what can."""
        self._show(None, "", f"{error}\n{error.remedy}")
        asks = isinstance(error, ConsentNeeded) and bool(error.details.get("digest"))
        self._review.setVisible(asks)

    def set_stale(self, stale: bool) -> None:
        """Let what is shown step back: it is of earlier values."""
        lists = (self._chosen, self._coupled)
        for widget in (self._totals, self._warnings, *lists, self._notes, self._error):
            widget.setEnabled(not stale)

    def _show(self, effect: Effect | None, notes: str, error: str) -> None:
        self._review.hide()
        self._show_totals(effect)
        self._warnings.show_warnings(effect.warnings if effect is not None else ())
        by_role: dict[str, list[LayerEffect]] = {"chosen": [], "coupled": [], "folded": []}
        for one in effect.layers if effect is not None else ():
            by_role[one.role].append(one)
        chosen = by_role["chosen"]
        told = len(chosen) == 1 and bool(chosen[0].removed)  # by the bars above, in more detail
        self._show_layers(self._chosen, self.tr("Changes"), [] if told else chosen)
        coupled = by_role["coupled"]
        shrinks = any(one.after < one.before for one in coupled) and not any(
            one.after > one.before for one in coupled
        )
        also = self.tr("Also shrinks, coupled to that") if shrinks else self.tr("Along with that")
        self._show_layers(self._coupled, also, coupled)
        for label, text in ((self._notes, notes), (self._error, error)):
            label.setText(text)
            label.setVisible(bool(text))

    def _show_layers(self, rows: EffectLayers, title: str, effects: Sequence[LayerEffect]) -> None:
        layers = len({one.layer for one in effects})
        count = self.tr(": {count} layers").format(count=layers) if layers > 1 else ""
        rows.show_rows(f"{title}{count}", effect_rows(effects, self.tr))

    def _folded_text(self, effect: Effect) -> str:
        folded = [fmt.layer_name(one.layer) for one in effect.layers if one.role == "folded"]
        names = ", ".join(folded[:_MOST_FOLDED])
        left = len(folded) - _MOST_FOLDED
        more = self.tr(" and {count} more").format(count=left) if left > 0 else ""
        return self.tr("Folds in {names}.").format(names=f"{names}{more}") if names else ""

    def _show_totals(self, effect: Effect | None) -> None:
        """A row for each total that changes, and one for all that do not."""
        facts, same = [], []
        for key in _SHOWN if effect is not None else ():
            metric, title = METRICS[key], self._title_of(key)
            before, after = effect.before.get(key), effect.after.get(key)  # type: ignore[union-attr]
            if before is None or after is None:
                continue
            if before == after:
                same.append(title)
                continue
            numbers = (fmt.metric_number(metric, one) for one in (before, after))
            change, verdict = fmt.change(metric, before, after), fmt.verdict(metric, before, after)
            facts.append(Fact(title, " → ".join(numbers), change, verdict))
        if same:
            facts.append(Fact(", ".join(same), "", self.tr("unchanged")))
        self._totals.show_facts(facts)

    def _title_of(self, key: str) -> str:
        return self.tr("Energy") if key == "energy" else self.tr(METRICS[key].title)
