"""The catalogue as an item model, and as a filtered and sorted one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from engine import CatalogueCost, CatalogueEntry
from gui import format as fmt
from gui.models.catalogue_rows import COSTS, UNITS, Column, Row, Wanted, What
from gui.models.cells import CellRole, header, right_or_left
from gui.models.sorting import SORT_ROLE, AbsentLast

Index = QModelIndex | QPersistentModelIndex


class CatalogueModel(QAbstractTableModel):
    """A row an entry."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: list[Row] = []
        self._places: dict[str, int] = {}

    @property
    def rows(self) -> Sequence[Row]:
        """All rows, in the catalogue's order."""
        return self._rows

    def set_entries(self, entries: Iterable[CatalogueEntry]) -> None:
        """Show these entries; what is known of their costs is kept."""
        known = {row.entry.source: row for row in self._rows}
        self.beginResetModel()
        self._rows = [
            replace(known[entry.source], entry=entry) if entry.source in known else Row(entry)
            for entry in entries
        ]
        self._places = {row.entry.source: place for place, row in enumerate(self._rows)}
        self.endResetModel()

    def set_cost(self, source: str, what: What, cost: CatalogueCost) -> None:
        """Add what was found out of an entry to what is known of it."""
        held = self._rows[self._places[source]]
        at = COSTS[what]
        problems = {one: text for one, text in held.problems.items() if one != at}
        if cost.problem:
            problems[at] = cost.problem
        cost = _merged(held.cost, cost)
        self._renew(replace(held, cost=cost, problems=problems, waiting=held.waiting - {at}))

    def forget_energy(self) -> None:
        """Drop what is known of energy, as it is to be modelled on other hardware."""
        at = COSTS["energy"]
        for row in tuple(self._rows):
            if row.cost.energy is None and at not in row.problems:
                continue
            problems = {one: text for one, text in row.problems.items() if one != at}
            cost = replace(row.cost, energy=None, hardware="")
            self._renew(replace(row, cost=cost, problems=problems))

    def set_waiting(self, wishes: Iterable[tuple[str, What]]) -> None:
        """Mark the costs that are on the way, and no others."""
        waiting: dict[str, set[Column]] = {}
        for source, what in wishes:
            waiting.setdefault(source, set()).add(COSTS[what])
        for row in tuple(self._rows):
            columns = frozenset(waiting.get(row.entry.source, ()))
            if row.waiting != columns:
                self._renew(replace(row, waiting=columns))

    def place_of(self, source: str) -> int:
        """Number of the entry's row, -1 when there is none."""
        return self._places.get(source, -1)

    def tooltip(self, row: Row, column: Column) -> str:
        """What a cell says in full, as plain text."""
        entry, cost = row.entry, row.cost
        match column:
            case Column.NAME:
                return entry.source
            case Column.ACCURACY if entry.accuracy is not None:
                return self.tr("{metric}, published for {weights} by {origin}").format(
                    metric=entry.metric, weights=entry.weights, origin=entry.origin
                )
            case Column.CACHED:
                here, away = self.tr("Weights are on this machine"), self.tr("Not on this machine")
                return here if entry.cached else away
            case Column.ENERGY if cost.energy is not None:
                return self.tr("modelled on %s, for one sample") % cost.hardware
            case Column.LATENCY if cost.latency is not None:
                return self._latency_tip(cost)
            case Column.ENERGY | Column.LATENCY:
                return row.problems.get(column, "")
        return row.text(column)

    def _latency_tip(self, cost: CatalogueCost) -> str:
        text = self.tr("median, measured on this machine")
        if cost.latency_low is None or cost.latency_high is None:
            return text
        ends = (fmt.quantity(cost.latency_low, "s"), fmt.quantity(cost.latency_high, "s"))
        return f"{text}\n{self.tr('half of the runs between {} and {}').format(*ends)}"

    def _renew(self, row: Row) -> None:
        place = self._places[row.entry.source]
        self._rows[place] = row
        self.dataChanged.emit(self.index(place, Column.ENERGY), self.index(place, Column.LATENCY))

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(Column)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row, column = self._rows[index.row()], Column(index.column())
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return row.text(column)
            case Qt.ItemDataRole.ToolTipRole:
                return fmt.tooltip(self.tooltip(row, column))
            case Qt.ItemDataRole.TextAlignmentRole:
                return _alignment(row, column)
            case CellRole.SORT:
                return row.sort_key(column)
            case CellRole.QUIET:
                return column != Column.NAME and column not in row.values
        return None

    def headerData(
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(Column):
            return None
        column = Column(section)
        if role == Qt.ItemDataRole.TextAlignmentRole and column == Column.CACHED:
            return Qt.AlignmentFlag.AlignCenter
        tip = self._explanations().get(column, "")
        return header(role, self.titles()[column], tip, column in UNITS)

    def titles(self) -> dict[Column, str]:
        """Titles of the columns."""
        return {
            Column.NAME: self.tr("Model"),
            Column.FAMILY: self.tr("Family"),
            Column.TASK: self.tr("Task"),
            Column.WEIGHTS: self.tr("Weights"),
            Column.ACCURACY: self.tr("Accuracy"),
            Column.METRIC: self.tr("Metric"),
            Column.INPUT: self.tr("Input"),
            Column.PARAMETERS: self.tr("Parameters"),
            Column.MACS: self.tr("MACs"),
            Column.FILE_SIZE: self.tr("File size"),
            Column.CACHED: self.tr("Here"),
            Column.ENERGY: self.tr("Energy"),
            Column.LATENCY: self.tr("Latency"),
        }

    def _explanations(self) -> dict[Column, str]:
        return {
            Column.FAMILY: self.tr("Models of one design in several sizes"),
            Column.WEIGHTS: self.tr("Name of the published weights"),
            Column.ACCURACY: self.tr("Published, in the metric's own unit; not measured here"),
            Column.METRIC: self.tr("What the published figure is, and on which data"),
            Column.INPUT: self.tr("Input of one sample: height × width, for video frames first"),
            Column.PARAMETERS: self.tr("Weights, biases and other learned numbers"),
            Column.MACS: self.tr("Multiply-accumulate operations of one sample, as published"),
            Column.FILE_SIZE: self.tr("Size of the weights file"),
            Column.CACHED: self.tr("Whether the weights are on this machine"),
            Column.ENERGY: self.tr("Modelled energy of one inference; computed on request"),
            Column.LATENCY: self.tr("Median time of one pass on this machine; taken on request"),
        }


class CatalogueFilter(AbsentLast):
    """The rows that are wanted, sorted by raw values."""

    def __init__(self, source: CatalogueModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._model = source
        self._wanted = Wanted()
        self._sources: frozenset[str] = frozenset()
        self.setSortRole(SORT_ROLE)
        self.setDynamicSortFilter(True)
        self.setSourceModel(source)
        source.modelReset.connect(self._refilter)
        source.dataChanged.connect(self._follow)
        self._refilter()

    def set_wanted(self, wanted: Wanted) -> None:
        """Show only the rows that these words and switches let through."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._refilter()

    @property
    def shown(self) -> list[Row]:
        """The rows that are to be seen, in the catalogue's order."""
        return [row for row in self._model.rows if row.entry.source in self._sources]

    def place_of(self, source: str) -> int:
        """Where the entry stands, -1 when it is not to be seen."""
        place = self._model.place_of(source)
        return self.mapFromSource(self._model.index(place, 0)).row() if place >= 0 else -1

    def row_at(self, row: int) -> Row:
        """The row that stands at that place."""
        return self._model.rows[self.mapToSource(self.index(row, 0)).row()]

    def _follow(self) -> None:
        if self._wanted.comparisons:  # a cost that came may be what rows are chosen by
            self._refilter()

    def _refilter(self) -> None:
        self._sources = self._wanted.sources(self._model.rows)
        self.invalidate()

    def filterAcceptsRow(self, source_row: int, source_parent: Index) -> bool:
        return self._model.rows[source_row].entry.source in self._sources


def _merged(held: CatalogueCost, new: CatalogueCost) -> CatalogueCost:
    """Energy and latency are asked for one by one: what the new one lacks stays."""
    energy = new if new.energy is not None else held
    latency = new if new.latency is not None else held
    return CatalogueCost(
        energy.energy,
        energy.hardware,
        latency.latency,
        latency.latency_low,
        latency.latency_high,
    )


def _alignment(row: Row, column: Column) -> Qt.AlignmentFlag:
    """Numbers stand right, words left, the words of a problem too."""
    if column == Column.CACHED:
        return Qt.AlignmentFlag.AlignCenter
    return right_or_left(column in UNITS and row.text(column) != row.problems.get(column))
