"""What a scan shall look at, and what of it is shown: one row of settings and its button."""

from collections.abc import Callable, Sequence
from typing import Final, cast

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QAction, QKeyEvent, QMouseEvent
from PySide6.QtWidgets import QComboBox, QMenu, QToolButton, QWidget

from engine import Direction
from gui import format as fmt
from gui.models.sensitivity_cells import READINGS, Reading, reading_words
from gui.models.sensitivity_columns import SCANNED, group_words
from gui.tasks import JobState, JobView
from gui.views.folding_row import FoldingRow
from gui.views.jobs_panel import TIMED_AFTER, clock
from gui.views.parts import choice_box
from gui.widgets import named, row

Translate = Callable[[str], str]

_HEIGHT: Final = 24
_SAMPLES: Final = (32, 64, 128, 256, 512, 1024)
_USUAL_SAMPLES: Final = 256


class ScanBar(QWidget):
    """One row; what has no room folds away.

    Signals:
        shown_changed: the direction, what cells show, or the scale was changed.
        order_wanted: the user wants the rows ordered, by ``model`` or ``sensitivity``.
        wish_changed: what the next scan shall look at was changed.
    """

    shown_changed = Signal()
    order_wanted = Signal(str)
    wish_changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("scanBar")
        self._make_shown()
        self._make_wish()
        folding = (
            (self.tr("Scale"), self._logarithmic),
            (self.tr("Order"), self._order),
            (self.tr("Settings"), self._groups),
            (self.tr("Samples"), self._samples),
            (self.tr("Rows"), self._rows),
        )
        self._row = FoldingRow((self._direction, self._reading), folding, QWidget(), 0)
        layout = row(self, spacing=8)
        layout.addWidget(self._row, 1)

    @property
    def direction(self) -> Direction:
        """Whether a cell's layer alone is changed, or all others are."""
        return cast(Direction, self._direction.currentData())

    @property
    def reading(self) -> Reading:
        """What the cells show."""
        return cast(Reading, self._reading.currentData())

    @property
    def logarithmic(self) -> bool:
        """Whether the scale of the heat is logarithmic."""
        return self._logarithmic.isChecked()

    @property
    def groups(self) -> tuple[str, ...]:
        """Kinds of settings to scan; empty for all."""
        chosen = tuple(str(one.data()) for one in self._choices if one.isChecked())
        return () if len(chosen) == len(self._choices) else chosen

    @property
    def samples(self) -> int:
        """Training samples to look at, at most."""
        return int(self._samples.currentData())

    @property
    def of_selection(self) -> bool:
        """Whether only the selected layers are to be scanned."""
        return bool(self._rows.currentData())

    def show_direction(self, direction: Direction) -> None:
        """Show maps of that direction."""
        self._direction.setCurrentIndex(self._direction.findData(direction))

    def show_order(self, by: str) -> None:
        """Say how the rows are ordered; by a column that is none of the choices."""
        self._order.blockSignals(True)
        self._order.setCurrentIndex(self._order.findData(by))
        self._order.blockSignals(False)

    def _make_shown(self) -> None:
        self._direction = self._box(
            "scanDirection", self.tr("Which layers a cell changes: its own, or all others")
        )
        choices = (
            (
                self.tr("Only this layer"),
                "only this",
                self.tr("What changing this layer alone costs"),
            ),
            (
                self.tr("All but this layer"),
                "all but this",
                self.tr("All others are changed: what changing this one too costs beyond that"),
            ),
        )
        for place, (title, direction, tip) in enumerate(choices):
            self._direction.addItem(title, direction)
            self._direction.setItemData(place, fmt.tooltip(tip), Qt.ItemDataRole.ToolTipRole)
        self._reading = self._box("mapReading", self.tr("What the cells show"))
        words = reading_words(self.tr)
        for place, reading in enumerate(READINGS):
            title, tip = words[reading]
            self._reading.addItem(title, reading)
            self._reading.setItemData(place, fmt.tooltip(tip), Qt.ItemDataRole.ToolTipRole)
        self._logarithmic = named(QToolButton(), "mapLogarithmic")
        self._logarithmic.setText(self.tr("log"))
        self._logarithmic.setCheckable(True)
        self._logarithmic.setChecked(True)
        self._logarithmic.setFixedHeight(_HEIGHT)
        self._logarithmic.setToolTip(self.tr("Logarithmic scale: tells small values apart"))
        self._order = self._box("mapOrder", self.tr("Order of the rows; click a column's heading"))
        self._order.setPlaceholderText(self.tr("By a column"))
        self._order.addItem(self.tr("Model order"), "model")
        self._order.addItem(self.tr("Most sensitive first"), "sensitivity")
        self._order.setCurrentIndex(0)  # a placeholder would stand there
        for box in (self._direction, self._reading):
            box.currentIndexChanged.connect(self._announce)
        self._logarithmic.toggled.connect(self._announce)
        self._order.activated.connect(self._on_order)

    def _make_wish(self) -> None:
        self._groups = named(QToolButton(), "scanSettings")
        self._groups.setFixedHeight(_HEIGHT)
        self._groups.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._groups.setToolTip(self.tr("Which settings the next scan tries on each layer"))
        menu = _StayingMenu(self._groups)
        menu.setToolTipsVisible(True)
        self._choices: list[QAction] = []
        for group in SCANNED:
            title, tip = group_words(self.tr)[group]
            action = menu.addAction(title)
            action.setData(group)
            action.setCheckable(True)
            action.setChecked(True)
            action.setToolTip(fmt.tooltip(tip))
            action.toggled.connect(self._on_groups)
            self._choices.append(action)
        self._groups.setMenu(menu)
        self._samples = self._box("scanSamples", self.tr("Training samples, at most"))
        for count in _SAMPLES:
            self._samples.addItem(self.tr("%s samples") % count, count)
        self._samples.setCurrentIndex(_SAMPLES.index(_USUAL_SAMPLES))
        self._rows = self._box("scanRows", self.tr("Which layers the next scan looks at"))
        self._rows.addItem(self.tr("All layers"), False)
        self._rows.addItem(self.tr("Selected layers"), True)
        for box in (self._samples, self._rows):
            box.currentIndexChanged.connect(self.wish_changed)
        self._name_groups()

    def _box(self, name: str, tip: str) -> QComboBox:
        box = choice_box(name, tip)
        box.setFixedHeight(_HEIGHT)
        return box

    @Slot()
    def _announce(self) -> None:
        self.shown_changed.emit()

    @Slot()
    def _on_order(self) -> None:
        self.order_wanted.emit(self._order.currentData())

    @Slot(bool)
    def _on_groups(self, _: bool) -> None:
        if not any(one.isChecked() for one in self._choices):  # a scan of nothing is none
            sender = cast(QAction, self.sender())
            sender.setChecked(True)
            return
        self._name_groups()
        self.wish_changed.emit()

    def _name_groups(self) -> None:
        groups = self.groups
        words = group_words(self.tr)
        names: Sequence[str] = [words[group][0] for group in groups]
        text = ", ".join(names) if names else self.tr("All settings")
        self._groups.setText(text)


def progress_text(view: JobView | None, tr: Translate) -> str:
    """How a scan goes; empty while none is under way."""
    if view is None:
        return ""
    if view.state is JobState.WAITING:
        return tr("waiting for other jobs")
    return " · ".join(part for part in (view.text or view.title, _share_text(view, tr)) if part)


def _share_text(view: JobView, tr: Translate) -> str:
    if view.state is JobState.PAUSED:
        return tr("paused")
    if view.fraction is None:
        return ""
    text = fmt.percent(view.fraction, 0)
    if view.remaining is None or view.elapsed < TIMED_AFTER:
        return text
    return tr("{share}, {time} left").format(share=text, time=clock(view.remaining))


class _StayingMenu(QMenu):
    """Stays open while its boxes are ticked."""

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        action = self.activeAction()
        if action is not None and action.isCheckable():
            action.trigger()
        else:
            super().mouseReleaseEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        action = self.activeAction()
        if event.key() == Qt.Key.Key_Space and action is not None and action.isCheckable():
            action.trigger()
        else:
            super().keyPressEvent(event)
