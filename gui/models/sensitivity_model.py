"""A sensitivity map as an item model: layers by settings."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from engine import Cell, Edit, LayerId, SensitivityMap
from gui import format as fmt
from gui.models.heat import HeatScale
from gui.models.sensitivity_cells import (
    Order,
    Reading,
    Shown,
    cell_lines,
    layers_text,
    order,
    scale,
    shown,
)
from gui.models.sensitivity_columns import Column, arranged, columns, group_words

Index = QModelIndex | QPersistentModelIndex

_UNKNOWN: Final = Shown("unknown")


class SensitivityModel(QAbstractTableModel):
    """Rows in the order asked for, columns group by group; cells renew while a scan goes on."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._map: SensitivityMap | None = None
        self._reading: Reading = "loss"
        self._order: Order = "model"
        self._logarithmic = True
        self._most = 0
        self._cells: list[list[Shown]] = []  # by row and setting of the map
        self._rows: tuple[int, ...] = ()  # of the map, in the order shown
        self._settings: tuple[int, ...] = ()  # likewise
        self._columns: tuple[Column, ...] = ()  # by setting of the map
        self._places: dict[LayerId, int] = {}  # row of the map
        self._applied: frozenset[tuple[int, int]] = frozenset()
        self._scale: HeatScale | None = None

    @property
    def map(self) -> SensitivityMap | None:
        """What is shown."""
        return self._map

    @property
    def reading(self) -> Reading:
        """What the cells show."""
        return self._reading

    @property
    def order(self) -> Order:
        """How the rows are ordered; a column is given by the place of its setting in the map."""
        return self._order

    @property
    def scale(self) -> HeatScale | None:
        """The scale of the heat; None while there is none."""
        return self._scale

    @property
    def headings(self) -> tuple[Column, ...]:
        """The columns as they are shown."""
        return tuple(self._columns[setting] for setting in self._settings)

    @property
    def sorted_column(self) -> int | None:
        """The shown column that the rows are ordered by; None where that is none."""
        return self._settings.index(self._order) if isinstance(self._order, int) else None

    def marks(self) -> set[str]:
        """What a legend has to explain: standings that occur, and ``uncertain``."""
        cells = [one for row in self._cells for one in row]
        found: set[str] = {one.standing for one in cells}
        unsure = any(one.standing in ("settled", "measuring") and not one.certain for one in cells)
        return found | {"uncertain"} if unsure else found

    def show_map(self, found: SensitivityMap | None, most: int = 0) -> None:
        """Show a map, or how far it has come by now; rows stay where they are meanwhile.

        Args:
            most: samples that a cell may take, if known; else those of the map.
        """
        before, most_before = self._map, self._most
        same = _alike(found, before)
        if not same:
            self.beginResetModel()
        self._map, self._most = found, most or (found.samples if found is not None else 0)
        if not same:
            self._arrange()
        self._read(before if same and most_before == self._most else None)
        if not same:
            self._rows = self._ordered()
            self.endResetModel()
        else:
            self._announce()

    def show_reading(self, reading: Reading, logarithmic: bool) -> None:
        """Let the cells show that, on that scale."""
        self._reading, self._logarithmic = reading, logarithmic
        self._read()
        self._announce()

    def arrange(self, by: Order) -> None:
        """Order the rows as things stand now."""
        self._order = by
        rows = self._ordered()
        if rows == self._rows:
            return
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        kept = [self._rows[index.row()] for index in before]
        self._rows = rows
        turned = {row: place for place, row in enumerate(rows)}
        after = [
            self.index(turned[row], index.column()) for row, index in zip(kept, before, strict=True)
        ]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def show_applied(self, edits: Collection[Edit]) -> None:
        """Mark the cells that these edits stand for."""
        applied = self._standing_for(edits)
        if applied != self._applied:
            self._applied = applied
            self._announce()

    def place_of(self, layer: LayerId) -> int | None:
        """The shown row in which that layer takes part; None where it does in none."""
        row = self._places.get(layer)
        return self._rows.index(row) if row is not None else None

    def layers(self, row: int) -> tuple[LayerId, ...]:
        """The layers of a shown row, the coupled ones behind the first."""
        assert self._map is not None
        return self._map.rows[self._rows[row]]

    def origin(self, row: int, column: int) -> tuple[int, int]:
        """Where a shown cell is in the map."""
        return self._rows[row], self._settings[column]

    def cell(self, row: int, column: int) -> Cell | None:
        """What is known of a shown cell."""
        return self._map.cells.get(self.origin(row, column)) if self._map is not None else None

    def shown(self, row: int, column: int) -> Shown:
        """A cell as it is drawn."""
        at, setting = self.origin(row, column)
        return self._cells[at][setting]

    def applied(self, row: int, column: int) -> bool:
        """Whether an edit like a shown cell is applied."""
        return self.origin(row, column) in self._applied

    def heat(self, one: Shown) -> float | None:
        """The place of a cell on the scale; None where it has no heat."""
        strength = one.strength
        return None if self._scale is None else self._scale.fraction(strength)

    def _arrange(self) -> None:
        """Head the columns of another map."""
        settings = self._map.settings if self._map is not None else ()
        self._settings = arranged(settings)
        self._columns = columns(settings, self.tr)
        rows = self._map.rows if self._map is not None else ()
        self._places = {layer: row for row, layers in enumerate(rows) for layer in layers}
        self._applied = frozenset()

    def _read(self, before: SensitivityMap | None = None) -> None:
        """Say every cell anew.

        Args:
            before: a map of the same rows and columns that was read before; what is the same in
                both is not said anew.
        """
        found = self._map
        if found is None:
            self._cells, self._scale = [], None
            return
        old: Mapping[tuple[int, int], Cell] = {}
        if before is not None and before.complete == found.complete:
            old = before.cells
        if not old.keys() <= found.cells.keys() or not old:
            self._cells = [[_UNKNOWN] * len(found.settings) for _ in found.rows]
            old = {}
        for place, cell in found.cells.items():
            if old.get(place) is not cell:
                self._cells[place[0]][place[1]] = shown(
                    cell, self._reading, self._most, found.complete
                )
        self._scale = scale((one for row in self._cells for one in row), self._logarithmic)

    def _ordered(self) -> tuple[int, ...]:
        if self._map is None:
            return ()
        by = self._order
        if isinstance(by, int) and by >= len(self._settings):
            by = self._order = "model"
        return order(self._cells, by)

    def _announce(self) -> None:
        if self._rows and self._settings:
            last = self.index(len(self._rows) - 1, len(self._settings) - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    def _standing_for(self, edits: Collection[Edit]) -> frozenset[tuple[int, int]]:
        found = self._map
        if found is None or found.direction != "only this":
            return frozenset()
        rows = {
            self._places[layer] for one in edits for layer in one.layers if layer in self._places
        }
        pairs = ((row, setting) for row in rows for setting in self._settings)
        fit = (pair for pair in pairs if not found.cell(*pair).refusal)
        return frozenset(pair for pair in fit if found.edit(*pair) in edits)

    def _tooltip(self, row: int, column: int) -> str:
        layers = fmt.layer_name(self.layers(row)[0])
        heading = self._columns[self._settings[column]]
        lines = cell_lines(self.cell(row, column), self.shown(row, column), self.tr)
        return "\n".join([f"{layers} · {heading.group} {heading.title}", *lines])

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._settings)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row, column = index.row(), index.column()
        one = self.shown(row, column)
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return one.text
            case Qt.ItemDataRole.ToolTipRole:
                return fmt.tooltip(self._tooltip(row, column))
            case Qt.ItemDataRole.AccessibleDescriptionRole:
                return self._tooltip(row, column)
            case Qt.ItemDataRole.TextAlignmentRole:
                return Qt.AlignmentFlag.AlignCenter
        return None

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation == Qt.Orientation.Vertical:
            return self._row_header(section, role) if 0 <= section < len(self._rows) else None
        if not 0 <= section < len(self._settings):
            return None
        heading = self._columns[self._settings[section]]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return heading.title
            case Qt.ItemDataRole.ToolTipRole:
                explained = group_words(self.tr)[heading.group][1]
                return fmt.tooltip(f"{heading.tip}\n{explained}")
        return None

    def _row_header(self, section: int, role: int) -> Any:
        layers = self.layers(section)
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return layers_text(layers, self.tr)
            case Qt.ItemDataRole.ToolTipRole:
                names = [fmt.layer_name(one) for one in layers]
                if len(names) > 1:
                    names.insert(1, self.tr("changed together, as they are coupled:"))
                return fmt.tooltip("\n".join(names))
        return None


def _alike(one: SensitivityMap | None, other: SensitivityMap | None) -> bool:
    """Whether two maps have the same rows and columns."""
    if one is None or other is None:
        return one is other
    return (one.rows, one.settings, one.direction) == (other.rows, other.settings, other.direction)
