"""The layers of a snapshot as an item model."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from PySide6.QtCore import QAbstractItemModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from engine import ROOT, LayerId, Series, Snapshot
from gui import format as fmt
from gui.models.energy_facts import energy_lines
from gui.models.heat import HeatScale, heat_scale
from gui.models.layer_rows import (
    METRIC_COLUMNS,
    NOT_MODELLED,
    NUMBERS,
    Column,
    Row,
    build_rows,
)
from gui.models.metric_bars import tied
from gui.models.sorting import SORT_ROLE

Index = QModelIndex | QPersistentModelIndex


class Role(IntEnum):
    """What a cell says beside its text."""

    SORT = SORT_ROLE  # the raw number or text; None when absent
    HEAT = SORT + 1  # 0..1 in the heat column of a leaf, None elsewhere
    LAYER = SORT + 2  # the LayerId
    CHOSEN = SORT + 3  # an edit names this layer
    BADGES = SORT + 4  # what edits did to it, tuple[str, ...]
    NOTE = SORT + 5  # such as "folded into stem.conv"
    ROW = SORT + 6  # the Row itself


class LayerModel(QAbstractItemModel):
    """Layer rows by integer ids, the root of the model being the one top row."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._snapshot: Snapshot | None = None
        self._rows: tuple[Row, ...] = ()
        self._numbers: dict[LayerId, int] = {}
        self._parents: list[int] = []
        self._children: list[list[int]] = []
        self._places: list[int] = []
        self._heat_column: Column | None = None
        self._logarithmic = False
        self._scale: HeatScale | None = None

    @property
    def heat_column(self) -> Column | None:
        """The column that shows heat."""
        return self._heat_column

    @property
    def scale(self) -> HeatScale | None:
        """The scale of the heat; None when no column has any."""
        return self._scale

    def set_snapshot(self, snapshot: Snapshot | None) -> bool:
        """Show another snapshot; with the same layers only the rows that differ are renewed.

        Returns:
            Whether the model was reset, so that views have lost what was unfolded and selected.
        """
        rows = build_rows(snapshot) if snapshot else ()
        old = self._rows
        same = [row.layer.id for row in rows] == [row.layer.id for row in old]
        renamed = snapshot and self._snapshot and snapshot.model != self._snapshot.model
        if not same or renamed:
            self._reset(snapshot, rows)
            return True
        self._snapshot, self._rows = snapshot, rows
        changed = {number for number, row in enumerate(rows) if row != old[number]}
        self._announce(changed)
        self._rescale()
        return False

    def set_heat(self, column: Column | None, logarithmic: bool) -> None:
        """Show heat in that column, or none."""
        previous, self._heat_column = self._heat_column, column
        self._logarithmic = logarithmic
        self._rescale()
        if previous is not None and previous != column:
            self._announce_column(previous)

    def layer_index(self, layer: LayerId, column: Column = Column.LAYER) -> QModelIndex:
        """Index of a layer's row; invalid when there is none."""
        number = self._numbers.get(layer)
        if number is None:
            return QModelIndex()
        return self.createIndex(self._places[number], column, number)

    def row_of(self, index: Index) -> Row:
        """The row behind a valid index."""
        return self._rows[index.internalId()]

    def rows(self) -> Sequence[Row]:
        """All rows in tree order."""
        return self._rows

    def tooltip(self, row: Row, column: Column) -> str:
        """What a cell says in full, as plain text."""
        if column in METRIC_COLUMNS:
            return self._metric_tooltip(row, column)
        if column == Column.SPARSITY and column in row.values:
            return self.tr("{share} of its parameters are zero").format(share=row.text(column))
        if column == Column.BITS and row.bits != fmt.ABSENT:
            inputs = row.layer.activation_bits
            text = self.tr("Weights: {bits} bits").format(bits=row.bits)
            rounded = self.tr("Input: {bits} bits").format(bits=inputs)
            lines = [text, rounded if inputs is not None else "", self._why_float(row)]
            return "\n".join(line for line in lines if line)
        if column == Column.LAYER:
            parts = [fmt.layer_name(row.layer.id), *row.layer.aliases, row.layer.note]
            parts += [" · ".join(row.badges), self._why_float(row)]
            return "\n".join(part for part in parts if part)
        return row.text(column)

    def _why_float(self, row: Row) -> str:
        why = fmt.visible(row.layer.why_float)
        return self.tr("Cannot be quantized: %s") % why if why else ""

    def _metric_tooltip(self, row: Row, column: Column) -> str:
        metric = METRIC_COLUMNS[column]
        now, base = row.values.get(column), row.base.get(column)
        title = self.tr(metric.title)
        known = self._energy_lines(row) if column == Column.ENERGY else []
        if now is None and row.unmodelled and column == Column.ENERGY:
            text = self.tr("{title}: not modelled").format(title=title)
            return "\n".join([text, *known])
        if now is None:
            return self.tr("{title}: no value for this layer").format(title=title)
        lines = [f"{title}: {fmt.metric_number(metric, now)}"]
        if base is not None:
            change = fmt.change(metric, base, now)
            if self._tied(row, metric.key):
                change = self.tr("(the intervals overlap: no order)")
            text = self.tr("base {value}").format(value=fmt.metric_number(metric, base))
            lines.append(f"{text}  {change}")
        if not row.leaf:
            adds_up, most = self.tr("sum over all layers below"), self.tr("most of all below")
            lines.append(adds_up if metric.adds_up else most)
        lines += known
        lines.append(" · ".join((self.tr(metric.provenance.value), *self._conditions(metric.key))))
        return "\n".join(lines)

    def _tied(self, row: Row, key: str) -> bool:
        """Whether a measured layer's interval overlaps that of the base."""
        if self._snapshot is None or not row.leaf or key not in self._snapshot.current.table:
            return False
        base = self._snapshot.base.table.get(key)
        return tied(self._snapshot.current.table[key], base, row.layer.id)

    def _energy_lines(self, row: Row) -> list[str]:
        return energy_lines(self._snapshot.current, row.layer.id, self.tr) if self._snapshot else []

    def _conditions(self, key: str) -> list[str]:
        series: Series | None = self._snapshot.current.table.get(key) if self._snapshot else None
        return [f"{name} {value}" for name, value in series.conditions.items()] if series else []

    def _reset(self, snapshot: Snapshot | None, rows: tuple[Row, ...]) -> None:
        self.beginResetModel()
        self._snapshot, self._rows = snapshot, rows
        self._numbers = {row.layer.id: number for number, row in enumerate(rows)}
        self._parents = [-1] * len(rows)
        self._children = [[] for _ in rows]
        self._places = [0] * len(rows)
        if snapshot:
            for number, row in enumerate(rows):
                if row.layer.id != ROOT:
                    parent = self._numbers[snapshot.current.tree.parent_of(row.layer.id)]
                    self._parents[number] = parent
                    self._places[number] = len(self._children[parent])
                    self._children[parent].append(number)
        self._scale = self._new_scale()
        self.endResetModel()

    def _new_scale(self) -> HeatScale | None:
        column = self._heat_column
        if column is None:
            return None
        # From leaves alone: a container's sum would leave its layers pale.
        values = (row.values.get(column) for row in self._rows if row.leaf)
        return heat_scale(values, self._logarithmic)

    def _rescale(self) -> None:
        scale = self._new_scale()
        if scale == self._scale and self._heat_column is None:
            return
        self._scale = scale
        if self._heat_column is not None:
            self._announce_column(self._heat_column)

    def _announce(self, numbers: set[int]) -> None:
        """Tell of changed rows, one signal for each run under one parent."""
        by_parent: dict[int, list[int]] = {}
        for number in sorted(numbers):
            by_parent.setdefault(self._parents[number], []).append(number)
        for changed in by_parent.values():
            self._announce_run(changed[0], changed[-1], Column.LAYER, max(Column))

    def _announce_column(self, column: Column) -> None:
        for children in ([0] if self._rows else [], *self._children):
            if children:
                self._announce_run(children[0], children[-1], column, column)

    def _announce_run(self, first: int, last: int, left: Column, right: Column) -> None:
        top = self.createIndex(self._places[first], left, first)
        bottom = self.createIndex(self._places[last], right, last)
        self.dataChanged.emit(top, bottom)

    def _heat(self, row: Row, column: Column) -> float | None:
        if column != self._heat_column or self._scale is None or not row.leaf:
            return None
        return self._scale.fraction(row.values.get(column))

    def _display(self, row: Row, column: Column) -> str:
        if column == Column.LAYER and row.layer.id == ROOT and self._snapshot:
            return self._snapshot.model.name
        text = row.text(column)
        return self.tr(text) if text == NOT_MODELLED else text

    def index(self, row: int, column: int, parent: Index = QModelIndex()) -> QModelIndex:  # noqa: B008
        if not self.hasIndex(row, column, parent):
            return QModelIndex()
        number = self._children[parent.internalId()][row] if parent.isValid() else 0
        return self.createIndex(row, column, number)

    def parent(self, index: Index) -> QModelIndex:  # type: ignore[override]
        if not index.isValid():
            return QModelIndex()
        above = self._parents[index.internalId()]
        return self.createIndex(self._places[above], 0, above) if above >= 0 else QModelIndex()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        if not parent.isValid():
            return 1 if self._rows else 0
        return len(self._children[parent.internalId()]) if parent.column() == 0 else 0

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return len(Column)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row, column = self.row_of(index), Column(index.column())
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return self._display(row, column)
            case Qt.ItemDataRole.ToolTipRole:
                return fmt.tooltip(self.tooltip(row, column))
            case Qt.ItemDataRole.AccessibleTextRole:
                return self.tooltip(row, column).replace("\n", ", ")
            case Qt.ItemDataRole.TextAlignmentRole:
                return alignment(column)
            case Role.SORT:
                return row.values.get(column) if column in NUMBERS else row.text(column)
            case Role.HEAT:
                return self._heat(row, column)
            case Role.LAYER:
                return row.layer.id
            case Role.CHOSEN:
                return row.chosen
            case Role.BADGES:
                return row.badges
            case Role.NOTE:
                return row.layer.note
            case Role.ROW:
                return row
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
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return self._titles()[column]
            case Qt.ItemDataRole.ToolTipRole:
                return fmt.tooltip(self._explanations().get(column, ""))
            case Qt.ItemDataRole.TextAlignmentRole:
                return alignment(column)
            case Qt.ItemDataRole.InitialSortOrderRole if column in NUMBERS:
                return Qt.SortOrder.DescendingOrder  # one looks for the most expensive layer
        return None

    def _titles(self) -> dict[Column, str]:
        return {
            Column.LAYER: self.tr("Layer"),
            Column.KIND: self.tr("Kind"),
            Column.OUTPUT: self.tr("Output"),
            Column.PARAMETERS: self.tr("Parameters"),
            Column.SPARSITY: self.tr("Sparsity"),
            Column.BITS: self.tr("Bits"),
            Column.MACS: self.tr("MACs"),
            Column.LATENCY: self.tr("Latency"),
            Column.MEMORY: self.tr("Memory"),
            Column.ENERGY: self.tr("Energy"),
            Column.MEASURED_ENERGY: self.tr("Measured"),
        }

    def _explanations(self) -> dict[Column, str]:
        return {
            Column.OUTPUT: self.tr("Shape of the output for one sample: channels × height × width"),
            Column.PARAMETERS: self.tr("Weights, biases and other learned numbers"),
            Column.SPARSITY: self.tr("Share of parameters that are zero"),
            Column.BITS: self.tr("Bits of each weight"),
            Column.MACS: self.tr("Multiply-accumulate operations for the sample input"),
            Column.LATENCY: self.tr("Measured time of the layer's own work"),
            Column.MEMORY: self.tr("Most memory in use for activations while the layer ran"),
            Column.ENERGY: self.tr(
                "Modelled energy of one inference; ≥ where some operators have no rule"
            ),
            Column.MEASURED_ENERGY: self.tr("Measured energy of one inference, idle taken off"),
        }


def alignment(column: Column) -> Qt.AlignmentFlag:
    """Numbers stand right, words left."""
    right = column in NUMBERS or column == Column.OUTPUT
    side = Qt.AlignmentFlag.AlignRight if right else Qt.AlignmentFlag.AlignLeft
    return side | Qt.AlignmentFlag.AlignVCenter
