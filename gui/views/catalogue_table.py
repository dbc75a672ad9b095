"""The table of the catalogue: how its columns share the width, and which rows are chosen."""

from collections.abc import Iterable

from PySide6.QtCore import QItemSelection, QItemSelectionModel, Qt, Signal
from PySide6.QtGui import QKeyEvent, QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QTableView, QWidget

from gui.models.catalogue_model import CatalogueFilter
from gui.models.catalogue_rows import Column, Row
from gui.theme import Theme
from gui.views.cell_delegate import PADDING, RIGHT, ROW_HEIGHT, CellDelegate

_WIDEST = {
    Column.NAME: "efficientnet_v2_s",
    Column.FAMILY: "efficientnet",
    Column.TASK: "segmentation",
    Column.WEIGHTS: "IMAGENET1K_V2",
    Column.ACCURACY: "Accurac",
    Column.METRIC: "ImageNet-1K acc@1",
    Column.INPUT: "224×224",
    Column.PARAMETERS: "Parameters",
    Column.MACS: "888.8 M",
    Column.FILE_SIZE: "888.8 MB",
    Column.CACHED: "Here",
    Column.ENERGY: "888.8 mJ",
    Column.LATENCY: "888.8 ms",
}


class CatalogueTable(QTableView):
    """Rows of the filter; Enter and a double click open.

    Signals:
        opened: source of the entry to open.
        chosen: sources of the selected entries, as a tuple.
    """

    opened = Signal(str)
    chosen = Signal(object)

    def __init__(self, rows: CatalogueFilter, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("catalogueTable")
        self._proxy = rows
        self._spreading = True  # columns change width by themselves until the user moves one
        self._by_hand = False
        self.setModel(rows)
        self.setItemDelegate(CellDelegate(theme, self))
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setAccessibleName(self.tr("Models"))
        self._prepare_headers()
        self.doubleClicked.connect(self._open_current)
        self.selectionModel().selectionChanged.connect(self._tell_chosen)

    @property
    def selected(self) -> list[Row]:
        """The selected rows, as they are sorted."""
        places = sorted(index.row() for index in self.selectionModel().selectedRows())
        return [self._proxy.row_at(place) for place in places]

    def select(self, sources: Iterable[str]) -> None:
        """Select these entries and show the first of them, as far as they are to be seen."""
        rows = QItemSelection()
        first = -1
        for source in sources:
            place = self._proxy.place_of(source)
            if place >= 0:
                rows.select(self._proxy.index(place, 0), self._proxy.index(place, 0))
                first = place if first < 0 else first
        flag = QItemSelectionModel.SelectionFlag
        if first >= 0:
            self.selectionModel().setCurrentIndex(self._proxy.index(first, 0), flag.NoUpdate)
            self.scrollTo(self._proxy.index(first, 0))
        self.selectionModel().select(rows, flag.ClearAndSelect | flag.Rows)

    def show_task(self, shown: bool) -> None:
        """Show the column of tasks, which says nothing when there is one task only."""
        if self.isColumnHidden(Column.TASK) == shown:
            self.setColumnHidden(Column.TASK, not shown)
            self._spread()

    def _prepare_headers(self) -> None:
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        self.verticalHeader().setMinimumSectionSize(ROW_HEIGHT)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionsMovable(True)
        header.setMinimumSectionSize(40)
        header.setSortIndicatorClearable(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        header.sectionResized.connect(self._on_section_resized)
        self.setSortingEnabled(True)

    def _spread(self) -> None:
        """Share out the width: what every column needs, and the rest evenly."""
        if self._by_hand:
            return
        metrics = self.fontMetrics()
        usual = {
            one: metrics.horizontalAdvance(text) + PADDING + RIGHT
            for one, text in _WIDEST.items()
            if not self.isColumnHidden(one)
        }
        more = max(0, self.viewport().width() - sum(usual.values()))
        self._spreading = True
        for one, width in usual.items():
            self.setColumnWidth(one, width + more // len(usual))
        rest = more - more // len(usual) * len(usual)
        self.setColumnWidth(Column.NAME, self.columnWidth(Column.NAME) + rest)
        self._spreading = False

    def _on_section_resized(self, section: int, before: int, after: int) -> None:
        self._by_hand |= not self._spreading and bool(before) and bool(after)

    def _tell_chosen(self) -> None:
        self.chosen.emit(tuple(row.entry.source for row in self.selected))

    def _open_current(self) -> None:
        index = self.currentIndex()
        if index.isValid():
            self.opened.emit(self._proxy.row_at(index.row()).entry.source)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._open_current()
            return
        super().keyPressEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._spread()
