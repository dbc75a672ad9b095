"""Layers that an edit changes, as rows that unfold, point at the tree and can be copied."""

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QPoint, QSize, Qt, Slot
from PySide6.QtGui import QAction, QFocusEvent, QGuiApplication, QKeySequence
from PySide6.QtWidgets import (
    QHeaderView,
    QMenu,
    QSizePolicy,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)

from gui import format as fmt
from gui.models.effect_rows import EffectRow, as_table
from gui.selection import Selection
from gui.theme import tabular
from gui.widgets import column, named, plain_label

_ROW = Qt.ItemDataRole.UserRole
_INDENT = 14


class EffectLayers(QWidget):
    """A caption over rows; it is as high as its rows, and the panel scrolls."""

    def __init__(self, name: str, selection: Selection, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self._selection = selection
        self._rows: tuple[EffectRow, ...] = ()
        self._title = plain_label("", f"{name}Title", "caption")
        self._title.setContentsMargins(0, 8, 0, 0)
        self._tree = _Rows(selection)
        layout = column(self, spacing=4)
        layout.addWidget(self._title)
        layout.addWidget(self._tree)
        copy = QAction(self.tr("Copy"), self._tree)
        copy.setShortcut(QKeySequence.StandardKey.Copy)
        copy.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        copy.triggered.connect(self.copy)
        self._copy = copy
        self._tree.addAction(copy)
        self._tree.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._tree.customContextMenuRequested.connect(self._show_menu)
        self._tree.itemDoubleClicked.connect(self._select)

    @property
    def rows(self) -> tuple[EffectRow, ...]:
        """What is shown."""
        return self._rows

    @property
    def tree(self) -> QTreeWidget:
        """The rows as Qt has them."""
        return self._tree

    def show_rows(self, title: str, rows: Sequence[EffectRow]) -> None:
        """Show these instead; unfolded rows fold only where others take their place."""
        self._title.setText(title)
        self.setVisible(bool(rows))
        if tuple(rows) != self._rows:
            self._rows = tuple(rows)
            self._tree.show_rows(self._rows)
        self._tree.setAccessibleName(title)

    @Slot()
    def copy(self) -> None:
        """Put every layer on the clipboard, for spreadsheets."""
        titles = (self.tr("Layer"), self.tr("Change"), self.tr("Quantity"))
        text = fmt.delimited([titles, *as_table(self._rows)], "\t")
        QGuiApplication.clipboard().setText(text)

    @Slot(QPoint)
    def _show_menu(self, place: QPoint) -> None:
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addAction(self._copy)
        menu.popup(self._tree.viewport().mapToGlobal(place))

    @Slot(QTreeWidgetItem, int)
    def _select(self, item: QTreeWidgetItem) -> None:
        row: EffectRow = item.data(0, _ROW)
        if not row.below:
            self._selection.set(row.layers)


class _Rows(QTreeWidget):
    def __init__(self, selection: Selection) -> None:
        super().__init__()
        named(self, "effectRows")
        self._selection = selection
        self._tops: list[QTreeWidgetItem] = []
        self.setColumnCount(3)
        self.setHeaderHidden(True)
        self.setIndentation(_INDENT)
        self.setUniformRowHeights(True)
        self.setExpandsOnDoubleClick(False)
        self.setFont(tabular(self.font()))
        self.setMouseTracking(True)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        header = self.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.itemExpanded.connect(self._fit)
        self.itemCollapsed.connect(self._fit)
        self.itemEntered.connect(self._point)
        self.currentItemChanged.connect(self._reveal)
        self.itemClicked.connect(self._turn)

    def show_rows(self, rows: Sequence[EffectRow]) -> None:
        """Show these instead."""
        unfolded = {item.text(2) for item in self._tops if item.isExpanded()}
        self.clear()
        self._tops = [_item(row) for row in rows]
        for item, row in zip(self._tops, rows, strict=True):
            self.addTopLevelItem(item)
            item.addChildren([_item(one) for one in row.below])
            item.setExpanded(bool(row.below) and row.quantity in unfolded)
        self.setRootIsDecorated(any(row.below for row in rows))
        self._fit()

    @Slot()
    def _fit(self) -> None:
        self.updateGeometry()

    @Slot(QTreeWidgetItem)
    def _point(self, item: QTreeWidgetItem | None, reveal: bool = False) -> None:
        row = item.data(0, _ROW) if item is not None else None
        self._selection.point(row.layers if row is not None else (), reveal)

    @Slot(QTreeWidgetItem)
    def _reveal(self, item: QTreeWidgetItem | None) -> None:
        self._point(item, reveal=True)

    @Slot(QTreeWidgetItem, int)
    def _turn(self, item: QTreeWidgetItem) -> None:
        if item.childCount():
            item.setExpanded(not item.isExpanded())

    def _count(self) -> int:
        unfolded = (item.childCount() for item in self._tops if item.isExpanded())
        return len(self._tops) + sum(unfolded)

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._selection.point(())

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self._selection.point(())

    def sizeHint(self) -> QSize:
        return QSize(200, self._count() * self.sizeHintForRow(0) if self._count() else 0)

    def minimumSizeHint(self) -> QSize:
        return QSize(0, self.sizeHint().height())


def _item(row: EffectRow) -> QTreeWidgetItem:
    item = QTreeWidgetItem([row.name, row.value, row.quantity])
    item.setData(0, _ROW, row)
    tip = row.name if not row.below else "\n".join(one.name for one in row.below[:30])
    item.setToolTip(0, fmt.tooltip(tip))
    right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
    item.setTextAlignment(1, right)
    return item
