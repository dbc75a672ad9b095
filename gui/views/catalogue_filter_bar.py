"""What the catalogue is narrowed by: a line to type in, choices and switches."""

from collections.abc import Iterable, Sequence
from typing import Final

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QComboBox, QLineEdit, QToolButton, QWidget

from engine import CatalogueEntry
from gui.models.catalogue_rows import FIELDS, Wanted
from gui.models.layer_query import parse_query
from gui.theme import Theme
from gui.views.amount_field import ignore_wheel_without_focus
from gui.views.parts import set_property
from gui.widgets import named, plain_label, row

_TYPING_MS: Final = 120
_FIRST_TASK: Final = "classification"
_FIRST_ORIGIN: Final = "torchvision"


class CatalogueFilterBar(QWidget):
    """One row of fields above the table.

    Signals:
        changed: other rows are wanted.
        entered: Enter was pressed in the line.
        left: the user wants to go back.
    """

    changed = Signal()
    entered = Signal()
    left = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("catalogueFilterBar")
        self._offered = False
        self._typing = QTimer(self, singleShot=True, interval=_TYPING_MS)
        back = named(QToolButton(self), "catalogueBack")
        back.setIcon(theme.icon("ph.arrow-left"))
        back.setText(self.tr("Back"))
        back.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        back.setToolTip(self.tr("Back to where you were (Esc)"))
        back.clicked.connect(self.left)
        self._make_line()
        self._make_choices()
        self._count = plain_label("", "catalogueCount", "muted")
        layout = row(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.addWidget(back)
        layout.addWidget(self._line, 1)
        for widget in (self._origin, self._task, self._cached, self._best, self._count):
            layout.addWidget(widget)

    @property
    def text(self) -> str:
        """What is typed."""
        return self._line.text().strip()

    @property
    def problem(self) -> str:
        """What of the line cannot be read, in words."""
        return parse_query(self.text, FIELDS).problem

    @property
    def typed(self) -> Wanted:
        """What the line alone asks for."""
        query = parse_query(self.text, FIELDS)
        return Wanted(query.words, query.comparisons)

    @property
    def wanted(self) -> Wanted:
        """What line, choices and switches ask for."""
        typed = self.typed
        return Wanted(
            typed.words,
            typed.comparisons,
            self._task.currentData(),
            self._cached.isChecked(),
            self._best.isChecked(),
            self._origin.currentData(),
        )

    def focus(self) -> None:
        """Put the cursor into the line."""
        self._line.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self._line.selectAll()

    def offer(self, entries: Iterable[CatalogueEntry]) -> None:
        """List tasks and libraries; at first those whose published figures compare are chosen."""
        known = tuple(entries)
        for combo, texts, usual in (
            (self._task, {one.task for one in known}, _FIRST_TASK),
            (self._origin, {one.origin for one in known}, _FIRST_ORIGIN),
        ):
            _refill(combo, sorted(texts - {""}), combo.currentData() if self._offered else usual)
        self._offered = True

    def lift(self) -> None:
        """Leave the line as the only condition."""
        self._cached.setChecked(False)
        self._task.setCurrentIndex(0)
        self._origin.setCurrentIndex(0)

    def show_count(self, shown: int, total: int) -> None:
        """Say how many rows there are, or what of the line was not understood."""
        count = self.tr("{} of {}").format(shown, total) if total else ""
        self._count.setText(self.problem or count)
        set_property(self._line, "invalid", bool(self.problem))

    def _make_line(self) -> None:
        self._line = named(QLineEdit(self), "catalogueFilter")
        self._line.setPlaceholderText(self.tr("Filter, such as: mobilenet accuracy>72 params<6M"))
        self._line.setToolTip(
            self.tr(
                "Words match name, family, task, weights and metric. Comparisons: accuracy, params,"
                " macs, size, energy, latency with <, <=, >, >=, =. All must hold."
            )
        )
        self._line.setAccessibleName(self.tr("Filter models"))
        self._line.setClearButtonEnabled(True)
        self._line.textChanged.connect(self._typing.start)
        self._line.returnPressed.connect(self._enter)
        self._typing.timeout.connect(self.changed)

    def _make_choices(self) -> None:
        self._task = self._choice("catalogueTask", self.tr("All tasks"))
        self._task.setToolTip(self.tr("Published figures compare within one task"))
        self._origin = self._choice("catalogueOrigin", self.tr("All libraries"))
        self._origin.setToolTip(self.tr("The library that builds the model and its weights"))
        self._cached = self._toggle("catalogueCached", self.tr("Weights here"))
        self._cached.setToolTip(self.tr("Only models whose weights are on this machine"))
        self._best = self._toggle("catalogueBest", self.tr("Best weights only"))
        self._best.setToolTip(self.tr("One line a model, with the best published figure"))
        self._best.setChecked(True)
        for toggle in (self._cached, self._best):
            toggle.toggled.connect(self.changed)

    def _toggle(self, name: str, text: str) -> QToolButton:
        button = named(QToolButton(self), name)
        button.setText(text)
        button.setCheckable(True)
        return button

    def _choice(self, name: str, every: str) -> QComboBox:
        combo = named(QComboBox(self), name)
        combo.addItem(every, "")
        combo.setAccessibleName(every)
        combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        combo.currentIndexChanged.connect(self.changed)
        ignore_wheel_without_focus(combo)
        return combo

    def _enter(self) -> None:
        self._typing.stop()
        self.changed.emit()
        self.entered.emit()


def _refill(combo: QComboBox, texts: Sequence[str], chosen: str) -> None:
    """List these below the first entry, which stands for all of them."""
    combo.blockSignals(True)
    while combo.count() > 1:
        combo.removeItem(1)
    for text in texts:
        combo.addItem(text, text)
    combo.setCurrentIndex(max(0, combo.findData(chosen)))
    combo.blockSignals(False)
