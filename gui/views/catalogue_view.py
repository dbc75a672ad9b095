"""The model catalogue: every model in one table and one scatter, to be compared and opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from PySide6.QtCore import QPoint, Qt, Signal
from PySide6.QtGui import QAction, QGuiApplication, QKeySequence, QShortcut, QShowEvent
from PySide6.QtWidgets import QMenu, QProgressBar, QPushButton, QSplitter, QStackedWidget, QWidget

import engine
from engine import CatalogueCost, CatalogueEntry, Change, Job, Part
from gui import format as fmt
from gui import operations
from gui.models.catalogue_costs import CostQueue
from gui.models.catalogue_model import CatalogueFilter, CatalogueModel
from gui.models.catalogue_rows import COSTS, UNITS, Column, Row, What
from gui.models.hardware_choice import hardware_by_id
from gui.theme import Theme
from gui.views.catalogue_filter_bar import CatalogueFilterBar
from gui.views.catalogue_foot import CatalogueFoot
from gui.views.catalogue_scatter import CatalogueScatter
from gui.views.catalogue_table import CatalogueTable
from gui.widgets import column, named, plain_label

if TYPE_CHECKING:
    from gui.document import Document

_BAR_WIDTH: Final = 240


@dataclass(frozen=True)
class Catalogue:
    """Where the view gets its entries and their costs, both on the model thread.

    Attributes:
        cost: of the entry of that source, energy on the hardware of that id; "" for the default.
    """

    entries: Callable[[Job], Sequence[CatalogueEntry]]
    cost: Callable[[str, What, str, Job], CatalogueCost]


def _engine_entries(job: Job) -> Sequence[CatalogueEntry]:
    return engine.catalogue_entries(job)


def _engine_cost(source: str, what: What, hardware: str, job: Job) -> CatalogueCost:
    described = hardware_by_id(engine.list_hardware(), hardware) if hardware else None
    return engine.model_costs(
        source, job, energy=what == "energy", latency=what == "latency", hardware=described
    )


ENGINE: Final = Catalogue(_engine_entries, _engine_cost)


@dataclass
class _Asked:
    """Asks the catalogue for costs, on the hardware that is chosen meanwhile."""

    catalogue: Catalogue
    hardware: str = ""

    def __call__(self, source: str, what: What, job: Job) -> CatalogueCost:
        return self.catalogue.cost(source, what, self.hardware, job)


class CatalogueView(QWidget):
    """Filter, table, scatter, and what can be done with the chosen models.

    The entries are read when the view is first shown, and again when it is shown after a model
    was opened, for its weights may have come to this machine.

    Signals:
        left: the user wants to go back to where they came from.
    """

    left = Signal()

    def __init__(
        self,
        document: Document,
        theme: Theme,
        catalogue: Catalogue = ENGINE,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("catalogueView")
        self._document = document
        self._catalogue = catalogue
        self._loading: int | None = None
        self._stale = True
        self._model = CatalogueModel(self)
        self._rows = CatalogueFilter(self._model, self)
        self._asked = _Asked(catalogue)
        self._costs = CostQueue(document.jobs, self._asked, self)
        self._bar = CatalogueFilterBar(theme, self)
        self._table = CatalogueTable(self._rows, theme, self)
        self._scatter = CatalogueScatter(theme, self._model.titles(), self)
        self._foot = CatalogueFoot(self)
        self._lay_out()
        self._make_actions()
        self._connect(theme)
        self._follow_costs()
        self._filter()

    @property
    def table(self) -> CatalogueTable:
        """The table itself."""
        return self._table

    @property
    def model(self) -> CatalogueModel:
        """The entries behind filter and sorting."""
        return self._model

    def show_hardware(self, id_: str) -> None:
        """Model energy on the hardware of that id; figures of another are forgotten."""
        if id_ == self._asked.hardware:
            return
        self._asked.hardware = id_
        self._costs.stop()
        self._model.forget_energy()
        self._filter()

    def focus_filter(self) -> None:
        """Put the cursor into the filter line."""
        self._bar.focus()

    def load(self) -> None:
        """Read the entries, unless that is under way."""
        if self._loading is not None:
            return
        title = self.tr("Reading the catalogue")
        self._stale = False
        self._loading = self._document.jobs.submit(
            title, self._catalogue.entries, self._show_entries, self._tell_failed
        )
        self._show_state()

    def estimate(self, what: What) -> None:
        """Ask for that cost of the selected models, or of all shown when none is selected."""
        self._costs.add(what, [(one.entry.source, one.entry.name) for one in self._lacking(what)])

    def copy_rows(self) -> None:
        """Put the selected rows on the clipboard: raw values, with a header, for spreadsheets."""
        titles = self._model.titles()
        head = [*(titles[one] + _unit(one) for one in Column), self.tr("Source")]
        body = [
            [*(one.values.get(at) if at in UNITS else one.text(at) for at in Column),
             one.entry.source]
            for one in self._table.selected
        ]  # fmt: skip
        QGuiApplication.clipboard().setText(fmt.delimited([head, *body], "\t"))

    def open_source(self, source: str) -> None:
        """Open that entry; whether its weights may be fetched is asked when they are not here."""
        operations.open_model(self._document, source)

    def make_menu(self) -> QMenu:
        """The menu of the table."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addActions([self._open_action, self._copy_action])
        menu.addSeparator()
        for button in self._foot.cost_buttons:
            action = menu.addAction(button.text())
            action.setEnabled(button.isEnabled())
            action.triggered.connect(button.click)
        return menu

    def _lay_out(self) -> None:
        split = named(QSplitter(Qt.Orientation.Vertical, self), "catalogueSplit")
        split.addWidget(self._table)
        split.addWidget(self._scatter)
        split.setChildrenCollapsible(False)
        split.setSizes([1100, 1000])  # shares of whatever height there is
        self._stack = QStackedWidget(self)
        self._stack.addWidget(split)
        self._stack.addWidget(self._make_notice())
        layout = column(self, spacing=0)
        layout.addWidget(self._bar)
        layout.addWidget(self._stack, 1)
        layout.addWidget(self._foot)

    def _make_notice(self) -> QWidget:
        """What stands in place of the table when there is nothing in it."""
        page = QWidget(self)
        self._notice = plain_label("", "catalogueNotice", "muted")
        self._remedy = named(QPushButton(page), "catalogueRemedy")
        self._remedy.clicked.connect(self._help)
        self._reading = named(QProgressBar(page), "catalogueReading")
        self._reading.setTextVisible(False)
        self._reading.setRange(0, 0)
        self._reading.setFixedWidth(_BAR_WIDTH)
        layout = column(page)
        layout.addStretch(2)
        for widget in (self._notice, self._reading, self._remedy):
            layout.addWidget(widget, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addStretch(3)
        return page

    def _make_actions(self) -> None:
        self._open_action = QAction(self.tr("Open"), self)
        self._open_action.triggered.connect(self._open_chosen)
        self._copy_action = QAction(self.tr("Copy rows"), self)
        self._copy_action.setShortcut(QKeySequence.StandardKey.Copy)
        self._copy_action.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        self._copy_action.triggered.connect(self.copy_rows)
        self._table.addAction(self._copy_action)
        away = QShortcut(QKeySequence(Qt.Key.Key_Escape), self, self.left.emit)
        away.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)

    def _connect(self, theme: Theme) -> None:
        self._bar.left.connect(self.left)
        self._bar.changed.connect(self._filter)
        self._bar.entered.connect(self._enter)
        self._table.opened.connect(self.open_source)
        self._table.chosen.connect(self._follow_choice)
        self._table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._table.customContextMenuRequested.connect(self._show_menu)
        self._scatter.chosen.connect(self._choose)
        self._scatter.opened.connect(self.open_source)
        self._foot.open_wanted.connect(self._open_chosen)
        self._foot.cost_wanted.connect(self.estimate)
        self._foot.stop_wanted.connect(self._stop_work)
        self._costs.costed.connect(self._show_cost)
        self._costs.changed.connect(self._follow_costs)
        self._costs.failed.connect(self._document.failed)
        self._document.changed.connect(self._on_changed)
        self._document.opening_changed.connect(self._follow_costs)
        self._document.jobs.jobs_changed.connect(self._notice_stop)
        theme.changed.connect(self._table.viewport().update)

    def _show_entries(self, entries: Sequence[CatalogueEntry]) -> None:
        self._loading, self._stale = None, False
        chosen = [one.entry.source for one in self._table.selected]
        self._model.set_entries(entries)
        self._bar.offer(entries)
        self._filter()
        self._table.select(chosen)

    def _tell_failed(self, error: BaseException) -> None:
        self._loading = None
        self._stale = True
        self._show_state()
        self._document.failed.emit(error)

    def _filter(self) -> None:
        wanted = self._bar.wanted
        self._table.show_task(not wanted.task)
        self._rows.set_wanted(wanted)
        self._scatter.show_rows(self._rows.shown)
        self._follow_choice()
        self._show_state()

    def _show_state(self) -> None:
        """Show the table, or say why there is none and what to do."""
        shown, total = self._rows.rowCount(), len(self._model.rows)
        self._bar.show_count(shown, total)
        self._stack.setCurrentIndex(0 if shown else 1)
        self._reading.setVisible(self._loading is not None)
        notice, remedy = self._say_why_empty()
        self._notice.setText(notice)
        self._remedy.setText(remedy)
        self._remedy.setVisible(bool(remedy))

    def _say_why_empty(self) -> tuple[str, str]:
        """Why nothing is shown, and what the button below offers."""
        if self._loading is not None:
            return self.tr("Reading the catalogue"), ""
        if not self._model.rows:
            return self.tr("The catalogue was not read."), self.tr("Read it")
        notice, text = self.tr("No model matches the filter."), self._bar.text
        if elsewhere := self._elsewhere():
            return notice, self.tr("Show %s of other tasks and libraries") % elsewhere
        if not text or " " in text or self._bar.problem:
            return notice, ""
        return notice, self.tr("Open “%s” by its name") % fmt.visible(text, 40)

    def _elsewhere(self) -> int:
        """How many models the line alone would let through."""
        return len(self._bar.typed.sources(self._model.rows))

    def _help(self) -> None:
        if not self._model.rows:
            self.load()
        elif self._elsewhere():
            self._bar.lift()
        else:
            self.open_source(self._bar.text)

    def _enter(self) -> None:
        """Enter in the filter line opens the only model left, else goes to the table."""
        if self._rows.rowCount() == 1:
            self.open_source(self._rows.row_at(0).entry.source)
        elif self._rows.rowCount():
            self._table.selectRow(0)
            self._table.setFocus()
        else:
            self._remedy.setFocus()

    def _choose(self, source: str) -> None:
        self._table.select((source,))

    def _follow_choice(self, *_: object) -> None:
        chosen = self._table.selected
        self._scatter.select(one.entry.source for one in chosen)
        self._open_action.setEnabled(len(chosen) == 1)
        self._copy_action.setEnabled(bool(chosen))
        lacking = {what: len(self._lacking(what)) for what in COSTS}
        self._foot.show_choice(len(chosen), lacking)

    def _lacking(self, what: What) -> list[Row]:
        """The models the buttons speak of: chosen, else shown, as far as nothing is known yet."""
        held = COSTS[what]
        rows = self._table.selected or self._rows.shown
        return [one for one in rows if held not in one.values and held not in one.waiting]

    def _open_chosen(self) -> None:
        chosen = self._table.selected
        if len(chosen) == 1:
            self.open_source(chosen[0].entry.source)

    def _show_cost(self, source: str, what: What, cost: CatalogueCost) -> None:
        if self._model.place_of(source) >= 0:
            self._model.set_cost(source, what, cost)
            self._scatter.show_rows(self._rows.shown)

    def _follow_costs(self, *_: object) -> None:
        """Show what is under way and how far it is, and mark what waits for its costs."""
        waiting = self._costs.waiting
        self._model.set_waiting(waiting)
        opening = self._document.opening
        total = 0 if opening else self._costs.total
        running = opening or bool(waiting)
        self._foot.show_work(self._work_text(), self._costs.done, total, running)
        self._follow_choice()

    def _work_text(self) -> str:
        if self._document.opening:
            return self.tr("Opening the model")
        if self._costs.waiting:
            return self.tr("{name}, {done} of {total} done").format(
                name=self._costs.current, done=self._costs.done, total=self._costs.total
            )
        problems = sum(bool(one.problems) for one in self._model.rows)
        text = self.tr("%s without a figure that was asked for: their rows say why") % problems
        return text if problems else ""

    def _stop_work(self) -> None:
        """Stop what the foot shows: opening, or else the costs that wait."""
        if self._document.opening:
            operations.cancel_all(self._document)
        else:
            self._costs.stop()

    def _on_changed(self, change: Change) -> None:
        if change.parts & Part.MODEL:
            self._stale = True

    def _notice_stop(self) -> None:
        """When reading was cancelled no callback comes."""
        if self._loading is None:
            return
        if all(job.id != self._loading for job in self._document.jobs.jobs()):
            self._loading = None
            self._stale = not self._model.rows
            self._show_state()

    def _show_menu(self, place: QPoint) -> None:
        self.make_menu().popup(self._table.viewport().mapToGlobal(place))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._stale:
            self.load()
        self.focus_filter()


def _unit(one: Column) -> str:
    unit = UNITS.get(one, "1")
    return "" if unit in ("1", "MAC") else f" ({unit})"
