"""The tree widget of the layers: how its columns share the width, and what is unfolded."""

from PySide6.QtCore import QModelIndex, Qt, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QTreeView, QWidget

from engine import LayerId
from gui.models.layer_model import Role
from gui.models.layer_rows import Column
from gui.views.cell_delegate import PADDING, RIGHT

_WIDEST = {
    Column.KIND: "_ResidualBlock0",
    Column.OUTPUT: "512×112×112",
    Column.PARAMETERS: "Parameters",
    Column.SPARSITY: "Sparsity",
    Column.BITS: "16–32",
    Column.MACS: "888.8 M",
    Column.LATENCY: "888.8 ms",
    Column.MEMORY: "888.8 MB",
    Column.ENERGY: "not modelled",
    Column.MEASURED_ENERGY: "Measured",
}
_LEAST_NAME, _MOST_NAME = 150, 480
_LEAST_KIND = 72
_SLACK = 4  # cells are drawn with digits of one width, which may be wider


class LayerTable(QTreeView):
    """A tree whose first column takes the room that the others leave."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("layerTree")
        self._usual: dict[Column, int] = {}
        self._spreading = True  # columns change width by themselves until the first fit
        self._by_hand = False
        self.setUniformRowHeights(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setAllColumnsShowFocus(True)
        self.setIndentation(16)
        self.setAccessibleName(self.tr("Layers"))
        header = self.header()
        header.setStretchLastSection(False)
        header.setSortIndicatorClearable(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        header.setMinimumSectionSize(40)
        header.setSectionsMovable(True)
        header.sectionResized.connect(self._on_section_resized)
        self.setSortingEnabled(True)

    def fit_columns(self) -> None:
        """Give every column the room that its widest usual text needs."""
        metrics = self.fontMetrics()
        self._usual = {
            column: metrics.horizontalAdvance(text) + PADDING + RIGHT + _SLACK
            for column, text in _WIDEST.items()
        }
        self._spread()

    def show_column(self, column: Column, shown: bool) -> None:
        """Show or hide a column; the others share the width again."""
        if self.isColumnHidden(column) is shown:
            self._spreading = True
            self.setColumnHidden(column, not shown)
            self._spreading = False
            self._spread()

    def expanded_layers(self) -> set[LayerId]:
        """Layers whose rows are unfolded."""
        found: set[LayerId] = set()
        self._collect(QModelIndex(), found)
        return found

    def expand_layers(self, layers: set[LayerId]) -> None:
        """Unfold the rows of these layers."""
        self._unfold(QModelIndex(), layers)

    def collapse_below_root(self) -> None:
        """Fold everything but the model itself."""
        self.collapseAll()
        self.expandToDepth(0)

    def _collect(self, parent: QModelIndex, found: set[LayerId]) -> None:
        for row in range(self.model().rowCount(parent)):
            index = self.model().index(row, 0, parent)
            if self.isExpanded(index):
                found.add(index.data(Role.LAYER))
            self._collect(index, found)

    def _unfold(self, parent: QModelIndex, layers: set[LayerId]) -> None:
        for row in range(self.model().rowCount(parent)):
            index = self.model().index(row, 0, parent)
            if index.data(Role.LAYER) in layers:
                self.expand(index)
            self._unfold(index, layers)

    def _spread(self) -> None:
        """Share out the width: names first, on a wide screen the numbers as well."""
        if self._by_hand:
            return
        usual = {
            column: width
            for column, width in self._usual.items()
            if not self.isColumnHidden(column)
        }
        if not usual:
            return
        room = self.viewport().width() - sum(usual.values())
        if room < _LEAST_NAME and Column.KIND in usual:
            spared = min(_LEAST_NAME - room, max(0, usual[Column.KIND] - _LEAST_KIND))
            usual[Column.KIND] -= spared
            room += spared
        more = max(0, room - _MOST_NAME) // len(usual)
        self._spreading = True
        for column, width in usual.items():
            self.setColumnWidth(column, width + more)
        self.setColumnWidth(Column.LAYER, max(_LEAST_NAME, room - more * len(usual)))
        self._spreading = False

    @Slot(int, int, int)
    def _on_section_resized(self, section: int, before: int, after: int) -> None:
        self._by_hand |= not self._spreading

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._spread()
