"""The catalogue as points over two of its columns."""

from collections.abc import Iterable, Mapping, Sequence

from PySide6.QtCore import QPoint, Qt, Signal
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtWidgets import QComboBox, QLabel, QStackedWidget, QToolButton, QWidget

from gui.models.catalogue_rows import UNITS, Column, Row
from gui.models.catalogue_scatter import Scatter, scatter
from gui.theme import Theme
from gui.views.amount_field import ignore_wheel_without_focus
from gui.views.chart_files import ChartFiles
from gui.views.parts import ElidedLabel
from gui.views.scatter_plot import Axis, ScatterPlot
from gui.widgets import column, named, plain_label, row

_SAID = (Column.ACCURACY, Column.PARAMETERS, Column.MACS, Column.ENERGY, Column.LATENCY)


class CatalogueScatter(QWidget):
    """Two columns to choose, the points, and what the mouse points at read out above them.

    Signals:
        chosen: source of the entry that was clicked.
        opened: source of the entry that was clicked twice.

    Args:
        titles: of the columns.
    """

    chosen = Signal(str)
    opened = Signal(str)

    def __init__(
        self, theme: Theme, titles: Mapping[Column, str], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("catalogueScatter")
        self._titles = titles
        self._rows: tuple[Row, ...] = ()
        self._scatter: Scatter | None = None
        self._selected: frozenset[str] = frozenset()
        self._caption = ElidedLabel("scatterCaption", "caption")
        self._x = self._choice("scatterX", Column.MACS, self.tr("Column along the bottom"))
        self._y = self._choice("scatterY", Column.ACCURACY, self.tr("Column along the side"))
        self._log_x = self._log("scatterLogX", self.tr("Logarithmic along the bottom"), True)
        self._log_y = self._log("scatterLogY", self.tr("Logarithmic along the side"), False)
        self._plot = ScatterPlot(theme, self)
        self._empty = plain_label("", "scatterEmpty", "muted")
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._files = ChartFiles(self, self._plot, theme, self.numbers)
        self._lay_out()
        self._plot.hovered.connect(self._read_out)
        self._plot.clicked.connect(self._choose)
        self._plot.opened.connect(self._open)
        theme.changed.connect(self._plot.apply_theme)

    @property
    def scatter(self) -> Scatter | None:
        """What is drawn; None when there is nothing."""
        return self._scatter

    def show_rows(self, rows: Iterable[Row]) -> None:
        """Draw these rows; what moves no point leaves the zoom as it is."""
        self._rows = tuple(rows)
        found = scatter(self._rows, self._x.currentData(), self._y.currentData())
        if self._scatter is None or _points(found) != _points(self._scatter):
            self._redraw()
        else:
            self._scatter = found

    def select(self, sources: Iterable[str]) -> None:
        """Mark these entries, and their family's line."""
        self._selected = frozenset(sources)
        self._mark()

    def caption(self) -> str:
        """What is shown, and what of it the front is."""
        if self._scatter is None:
            return ""
        text = self.tr("{y} over {x}").format(y=self._title(self._y), x=self._title(self._x))
        count = self.tr("%s models") % len(self._scatter.rows)
        return " · ".join(part for part in (text, count, self._front_text(), self._lack()) if part)

    def read_out(self, number: int) -> str:
        """One point in words."""
        if self._scatter is None or not 0 <= number < len(self._scatter.rows):
            return self.caption()
        entry = self._scatter.rows[number]
        said = dict.fromkeys((self._y.currentData(), self._x.currentData(), *_SAID))
        parts = [self._value(entry, one) for one in said if one in entry.values]
        name = " ".join(part for part in (entry.entry.name, entry.entry.weights) if part)
        return f"{name}   {' · '.join(parts)}"

    def numbers(self) -> Sequence[Sequence[object]] | None:
        """The table behind the picture, the header first."""
        if self._scatter is None:
            return None
        x, y = self._x.currentData(), self._y.currentData()
        front = frozenset(self._scatter.front)
        head = ["model", "weights", "family", self._unit_title(x), self._unit_title(y), "front"]
        body = [
            [one.entry.name, one.entry.weights, one.entry.family, one.values[x], one.values[y],
             "yes" if number in front else ""]
            for number, one in enumerate(self._scatter.rows)
        ]  # fmt: skip
        return [head, *body]

    def _choice(self, name: str, chosen: Column, tip: str) -> QComboBox:
        combo = named(QComboBox(self), name)
        for one in UNITS:
            combo.addItem(self._titles[one], one)
        combo.setCurrentIndex(combo.findData(chosen))
        combo.setToolTip(tip)
        combo.setAccessibleName(tip)
        combo.currentIndexChanged.connect(self._redraw)
        ignore_wheel_without_focus(combo)
        return combo

    def _log(self, name: str, tip: str, on: bool) -> QToolButton:
        button = named(QToolButton(self), name)
        button.setText(self.tr("log"))
        button.setToolTip(tip)
        button.setAccessibleName(tip)
        button.setCheckable(True)
        button.setChecked(on)
        button.toggled.connect(self._redraw)
        return button

    def _lay_out(self) -> None:
        top = row(spacing=8)
        top.setContentsMargins(8, 4, 8, 4)
        top.addWidget(self._caption, 1)
        for widget in (self._y, self._log_y, _over(self.tr("over")), self._x, self._log_x):
            top.addWidget(widget)
        self._stack = QStackedWidget()
        self._stack.addWidget(self._plot)
        self._stack.addWidget(self._empty)
        layout = column(self, spacing=0)
        layout.addLayout(top)
        layout.addWidget(self._stack, 1)

    def _redraw(self, *_: object) -> None:
        x, y = self._x.currentData(), self._y.currentData()
        found = scatter(self._rows, x, y)
        self._scatter = found if found.rows else None
        self._stack.setCurrentWidget(self._plot if self._scatter else self._empty)
        self._caption.show_text(self.caption())
        self._files.describe(self.caption(), [])
        if self._scatter is None:
            self._empty.setText(self._why_empty())
            return
        axes = (
            Axis(self._axis_title(x, found), UNITS[x], self._log_x.isChecked()),
            Axis(self._axis_title(y, found), UNITS[y], self._log_y.isChecked()),
        )
        self._plot.show_points(found.places, axes)
        self._plot.draw_lines(list(found.families.values()))
        self._plot.draw_front(found.front, [found.rows[one].entry.name for one in found.front])
        self._mark()

    def _axis_title(self, one: Column, found: Scatter) -> str:
        """The column's title; a published figure is named by its metric."""
        metric = found.rows[0].entry.metric if one == Column.ACCURACY and found.comparable else ""
        return f"{self._titles[one]} ({metric})" if metric else self._titles[one]

    def _mark(self) -> None:
        if self._scatter is None:
            return
        rows = self._scatter.rows
        chosen = [place for place, one in enumerate(rows) if one.entry.source in self._selected]
        self._plot.mark(chosen)
        self._plot.stress(self._family_of(chosen[0]) if len(chosen) == 1 else ())

    def _family_of(self, number: int) -> tuple[int, ...]:
        families = self._scatter.families if self._scatter is not None else {}
        return next((line for line in families.values() if number in line), ())

    def _front_text(self) -> str:
        if self._scatter is None:
            return ""
        if not self._scatter.comparable:
            return self.tr("several metrics: choose one task to compare")
        front = len(self._scatter.front)
        return self.tr("Pareto front of %s") % front if front > 1 else ""

    def _lack(self) -> str:
        missing = self._scatter.missing if self._scatter is not None else 0
        return self.tr("%s without values") % missing if missing else ""

    def _why_empty(self) -> str:
        if not self._rows:
            return self.tr("No model to show.")
        asked = {Column.ENERGY, Column.LATENCY} & {self._x.currentData(), self._y.currentData()}
        if asked:
            return self.tr("Estimate energy or measure latency of some models to see them here.")
        return self.tr("None of these models has a published figure in both columns.")

    def _title(self, combo: QComboBox) -> str:
        return self._titles[combo.currentData()]

    def _unit_title(self, one: Column) -> str:
        unit = UNITS[one]
        return self._titles[one] if unit in ("1", "MAC") else f"{self._titles[one]} ({unit})"

    def _value(self, entry: Row, one: Column) -> str:
        if one == Column.ACCURACY:
            return f"{entry.text(one)} {entry.entry.metric}"
        return f"{self._titles[one]} {entry.text(one)}"

    def _read_out(self, number: int) -> None:
        self._caption.show_text(self.read_out(number))
        if number >= 0:
            self._plot.stress(self._family_of(number))
        else:
            self._mark()

    def _choose(self, number: int) -> None:
        if self._scatter is not None:
            self.chosen.emit(self._scatter.rows[number].entry.source)

    def _open(self, number: int) -> None:
        if self._scatter is not None:
            self.opened.emit(self._scatter.rows[number].entry.source)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        menu = self._files.make_menu((self.tr("Show all models"), self._plot.show_all))
        menu.popup(QPoint(event.globalPos()))


def _points(found: Scatter) -> list[tuple[str, tuple[float, float]]]:
    sources = (one.entry.source for one in found.rows)
    return list(zip(sources, found.places, strict=True))


def _over(text: str) -> QLabel:
    return plain_label(text, role="muted")
