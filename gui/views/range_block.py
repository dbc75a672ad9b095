"""The values that a layer takes, as calibration has seen them, with the grid over them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from PySide6.QtCore import QPoint, QTimer, Slot
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtWidgets import QMenu, QPushButton, QWidget

from engine import ActivationRange, DataInfo, EngineError, LayerId, Quantize
from gui import format as fmt
from gui.models.activation_histogram import bin_text, grid_text, seen_text, table
from gui.models.live_accuracy import QUICK_SECONDS, pass_seconds
from gui.theme import Theme
from gui.views.chart_files import ChartFiles
from gui.views.parts import ElidedLabel, choice_box
from gui.views.range_plot import CLIPPED, HISTOGRAM, RangePlot
from gui.widgets import column, named, plain_label, row

if TYPE_CHECKING:
    from gui.document import Document

_On: TypeAlias = tuple[str, DataInfo | None]

_BUSY: Final = 500  # milliseconds after which waiting is said
_HEIGHT: Final = 148


class RangeBlock(QWidget):
    """A histogram for one layer; it asks for calibration by itself, and says that it is waiting."""

    def __init__(self, document: Document, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("rangeBlock")
        self._document = document
        self._asked: tuple[_On, LayerId, Quantize | None] | None = None
        self._calibrated: tuple[_On, int] | None = None  # and how many samples, as far as is known
        self._found: tuple[ActivationRange, ...] = ()
        self._title = ElidedLabel("rangeTitle", "caption")
        self._operand = choice_box("rangeOperand", self.tr("Which of the values"))
        self._plot = RangePlot(theme, self)
        self._plot.setFixedHeight(_HEIGHT)
        self._plot.hovered.connect(self._read_out)
        self._words = plain_label("", "rangeWords", "muted")
        self._words.setWordWrap(True)
        self._busy = plain_label("", "rangeBusy", "muted")
        self._cancel = named(QPushButton(self.tr("Stop")), "rangeStop")
        self._again = named(QPushButton(self.tr("Calibrate")), "rangeCalibrate")
        self._again.setToolTip(
            self.tr("Run training samples through the model to see what values the layer takes")
        )
        self._files = ChartFiles(self, self._plot, theme, self._table)
        self._wait = QTimer(self, singleShot=True, interval=_BUSY)
        self._wait.timeout.connect(self._show_progress)
        self._cancel.clicked.connect(self._stop)
        self._again.clicked.connect(self._ask)
        self._operand.currentIndexChanged.connect(self._show)
        document.jobs.progressed.connect(self._follow)
        theme.changed.connect(self._plot.apply_theme)
        self._lay_out()
        self.show_layer(None, None)

    @property
    def plot(self) -> RangePlot:
        """The histogram."""
        return self._plot

    def show_layer(self, layer: LayerId | None, edit: Quantize | None) -> None:
        """Show the values of that layer under the grids that the edit would give it.

        Without an edit the grids are the layer's own; without a layer there is nothing to show.
        """
        self.setVisible(layer is not None)
        if layer is None:
            self._forget()
            return
        asked = self._on(), layer, _as_grids_go(edit)
        if asked == self._asked:
            return
        fresh = self._asked is None or asked[:2] != self._asked[:2]
        self._asked = asked
        if fresh:
            self._found = ()
            self._show_operands()
            self._show()
        if self._is_quick():
            self._ask()
        else:
            self._offer()

    def make_menu(self) -> QMenu:
        """The menu of the histogram: its picture and its numbers, to the clipboard or a file."""
        return self._files.make_menu()

    def _lay_out(self) -> None:
        head = row(spacing=4)
        head.setContentsMargins(0, 8, 0, 0)
        head.addWidget(self._title, 1)
        head.addWidget(self._operand)
        foot = row(spacing=8)
        foot.addWidget(self._busy, 1)
        foot.addWidget(self._cancel)
        foot.addWidget(self._again)
        layout = column(self, spacing=4)
        layout.addLayout(head)
        layout.addWidget(self._plot)
        layout.addWidget(self._words)
        layout.addLayout(foot)

    def _on(self) -> _On:
        """What the values would be of: the state of the model, and the data."""
        snapshot = self._document.snapshot
        return (snapshot.current.id, snapshot.data) if snapshot is not None else ("", None)

    @property
    def _samples(self) -> int:
        edit = self._asked[2] if self._asked is not None else None
        return (edit or Quantize(())).calibration_samples

    def _is_quick(self) -> bool:
        """Whether to ask without being told to: the answer is known, or soon is."""
        snapshot = self._document.snapshot
        if snapshot is None or snapshot.data is None:
            return False
        known = self._calibrated == (self._on(), self._samples)
        return known or pass_seconds(snapshot, self._samples) <= QUICK_SECONDS

    def _offer(self) -> None:
        """Let the user say when to calibrate, if there is data."""
        self._document.cancel_preview("ranges")
        self._rest()
        snapshot = self._document.snapshot
        able = snapshot is not None and snapshot.data is not None
        self._again.setVisible(able)
        self._found = ()
        self._show()
        self._say("" if able else self.tr("Choose data to see what values the layer takes."))

    @Slot()
    def _ask(self) -> None:
        if self._asked is None:
            return
        self._rest()
        self._plot.show()
        self._wait.start()
        _, layer, edit = self._asked
        self._document.preview_ranges(layer, edit, self._on_ranges)

    def _on_ranges(self, found: tuple[ActivationRange, ...] | EngineError | None) -> None:
        self._rest()
        self._found = found if isinstance(found, tuple) else ()
        if self._found:
            self._calibrated = self._on(), self._samples
        self._show_operands()
        self._show()
        if isinstance(found, EngineError):
            self._say(f"{found} {found.remedy}")

    def _say(self, text: str) -> None:
        self._words.setText(text)
        self._words.setVisible(bool(text))

    @Slot()
    def _stop(self) -> None:
        self._document.cancel_preview("ranges")
        self._rest()
        self._again.show()

    def _rest(self) -> None:
        self._wait.stop()
        self._busy.hide()
        self._cancel.hide()
        self._again.hide()

    def _forget(self) -> None:
        self._document.cancel_preview("ranges")
        self._asked, self._found = None, ()
        self._rest()
        self._plot.show_range(None)

    @Slot()
    def _show_progress(self) -> None:
        self._busy.show()
        self._cancel.show()
        self._follow()

    @Slot()
    def _follow(self) -> None:
        """Say how far calibration is."""
        if self._busy.isHidden():
            return
        view = self._document.jobs.preview_view("ranges")
        text = (view.text if view is not None else "") or self.tr("Calibrating")
        done = fmt.percent(view.fraction, 0) if view is not None and view.fraction else ""
        self._busy.setText(f"{text}… {done}".rstrip())

    def _show_operands(self) -> None:
        """Offer the operands of the layer's own operators, where there are several."""
        names = [one.name for one in self._found]
        if names != [self._operand.itemText(place) for place in range(self._operand.count())]:
            self._operand.blockSignals(True)
            self._operand.clear()
            self._operand.addItems(names)
            self._operand.blockSignals(False)
        self._operand.setVisible(len(names) > 1)

    @property
    def _shown(self) -> ActivationRange | None:
        place = self._operand.currentIndex()
        return self._found[place] if 0 <= place < len(self._found) else None

    @Slot()
    def _show(self) -> None:
        seen = self._shown
        self._plot.setVisible(seen is not None)
        self._plot.show_range(seen)
        if seen is not None:
            marks = (HISTOGRAM, CLIPPED) if seen.grid is not None else (HISTOGRAM,)
            self._files.describe(f"{fmt.layer_name(seen.layer)}, {seen.name}", marks)
        self._read_out(None)

    @Slot(object)
    def _read_out(self, value: float | None) -> None:
        seen, bars = self._shown, self._plot.shown
        head = self.tr("Input, from calibration")
        if seen is not None:
            told = seen_text(seen, self.tr)
            head = told if len(self._found) > 1 else f"{seen.name.capitalize()}: {told}"
            if value is not None and bars is not None:
                head = bin_text(seen, bars, value, self.tr) or head
        self._title.show_text(head)
        words = grid_text(seen, self.tr) if seen is not None else ""
        if self._plot.every > 1 and seen is not None:
            words += self.tr("; every {count}th step is marked").format(count=self._plot.every)
        self._say(words)

    def _table(self) -> list[list[object]] | None:
        return table(self._shown) if self._shown is not None else None

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        self.make_menu().popup(QPoint(event.globalPos()))


def _as_grids_go(edit: Quantize | None) -> Quantize | None:
    """The edit as far as the grids of inputs depend on it: weights say nothing of them."""
    if edit is None:
        return None
    plain = Quantize(edit.layers)
    return replace(
        plain,
        activations=edit.activations,
        activation_bits=edit.activation_bits,
        activation_symmetric=edit.activation_symmetric,
        observer=edit.observer,
        percentile=edit.percentile,
        calibration_samples=edit.calibration_samples,
    )
