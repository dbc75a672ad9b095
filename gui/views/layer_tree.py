"""The layers as a tree with their numbers: filter, sort, heat, selection."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PySide6.QtCore import QItemSelection, QItemSelectionModel, QModelIndex, QPoint, Qt, Slot
from PySide6.QtGui import QAction, QGuiApplication, QKeySequence
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QTreeView,
    QVBoxLayout,
    QWidget,
)

from engine import Change, LayerId, Part, Snapshot
from gui import format as fmt
from gui.models.layer_filter import LayerFilter
from gui.models.layer_model import LayerModel, Role
from gui.models.layer_query import parse_query
from gui.models.layer_rows import METRIC_COLUMNS, NUMBERS, OPTIONAL, Column, Row
from gui.selection import Selection
from gui.theme import Theme
from gui.views.heat_bar import HeatBar
from gui.views.layer_delegate import LayerDelegate
from gui.views.layer_table import LayerTable
from gui.views.parts import set_property
from gui.widgets import named, plain_label, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gui.document import Document

_MOST_NAMED = 20
_SHOWN_WHOLE = 80  # a model of up to so many rows opens unfolded


class LayerTreeView(QWidget):
    """The tree with its filter line and the choice of heat."""

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("layerTreeView")
        self._document = document
        self._selection = selection
        self._syncing = False
        self._model = LayerModel(self)
        self._proxy = LayerFilter(self._model, self)
        self._expanded: set[LayerId] = set()
        self._make_filter_line()
        self._heat = HeatBar(theme, self)
        self._tree = LayerTable(self)
        self._tree.setModel(self._proxy)
        self._delegate = LayerDelegate(theme, self._tree)
        self._tree.setItemDelegate(self._delegate)
        self._tree.fit_columns()
        self._status = self._quiet_label("layerStatus")
        self._quantized = self._quiet_label("quantizedCount")
        self._unattributed = self._quiet_label("unattributed")
        self._lay_out()
        self._make_actions()
        self._connect(theme)
        self._heat.choose(Column.ENERGY)
        self._set_heat()
        self._show_snapshot(document.snapshot)

    @property
    def tree(self) -> QTreeView:
        """The tree itself."""
        return self._tree

    @property
    def model(self) -> LayerModel:
        """The layers behind filter and sorting."""
        return self._model

    def copy_rows(self) -> None:
        """Put the selected rows on the clipboard: raw values, with a header, for spreadsheets."""
        titles = [self._header(column) for column in Column]
        rows = [[_raw(row, column) for column in Column] for row in self._selected_rows()]
        QGuiApplication.clipboard().setText(fmt.delimited([titles, *rows], "\t"))

    def select_same_kind(self) -> None:
        """Select every layer of the kinds that are selected now."""
        kinds = {row.layer.kind for row in self._selected_rows()}
        self._selection.set(row.layer.id for row in self._model.rows() if row.layer.kind in kinds)

    def focus_filter(self) -> None:
        """Put the cursor into the filter line."""
        self._filter.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self._filter.selectAll()

    def _make_filter_line(self) -> None:
        self._filter = named(QLineEdit(), "layerFilter")
        self._filter.setPlaceholderText(self.tr("Filter, such as: conv latency>0.1ms"))
        self._filter.setToolTip(
            self.tr(
                "Words match path and kind. Comparisons: params, macs, latency, memory,"
                " energy, sparsity, bits with <, <=, >, >=, =. All must hold."
            )
        )
        self._filter.setAccessibleName(self.tr("Filter layers"))
        self._filter.setClearButtonEnabled(True)

    def _quiet_label(self, name: str) -> QLabel:
        result = plain_label("", name, "muted")
        result.setContentsMargins(8, 4, 8, 4)
        result.hide()
        return result

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.setContentsMargins(8, 4, 8, 4)
        top.setSpacing(16)
        top.addWidget(self._filter, 1)
        top.addWidget(self._heat)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(top)
        for widget, stretch in ((self._status, 0), (self._tree, 1)):
            layout.addWidget(widget, stretch)
        foot = row(spacing=16)
        foot.addWidget(self._quantized)
        foot.addStretch(1)
        foot.addWidget(self._unattributed)
        layout.addLayout(foot)

    def _make_actions(self) -> None:
        self._expand = QAction(self.tr("Expand all"), self)
        self._collapse = QAction(self.tr("Collapse all"), self)
        self._copy = QAction(self.tr("Copy rows"), self)
        self._copy.setShortcut(QKeySequence.StandardKey.Copy)
        self._copy.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        self._same_kind = QAction(self.tr("Select same kind"), self)
        self._expand.triggered.connect(self._tree.expandAll)
        self._collapse.triggered.connect(self._tree.collapse_below_root)
        self._copy.triggered.connect(self.copy_rows)
        self._same_kind.triggered.connect(self.select_same_kind)
        self._tree.addAction(self._copy)
        self._enable_actions()
        self._tree.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._tree.customContextMenuRequested.connect(self._show_menu)

    def _connect(self, theme: Theme) -> None:
        self._document.changed.connect(self._on_changed)
        self._selection.changed.connect(self._on_selection)
        self._selection.pointed.connect(self._on_pointed)
        self._filter.textChanged.connect(self._on_filter)
        self._heat.changed.connect(self._set_heat)
        self._tree.selectionModel().selectionChanged.connect(self._on_tree_selection)
        theme.changed.connect(self._tree.viewport().update)
        theme.changed.connect(self._heat.update)

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        if change.parts & (Part.MODEL | Part.LAYERS | Part.METRICS | Part.HISTORY):
            self._show_snapshot(change.snapshot, fresh=bool(change.parts & Part.MODEL))

    def _show_snapshot(self, snapshot: Snapshot | None, fresh: bool = True) -> None:
        self._tree.setEnabled(snapshot is not None)
        if not self._filter.text():
            self._expanded = self._tree.expanded_layers()
        with self._quietly():
            rebuilt = self._model.set_snapshot(snapshot)
        for column in OPTIONAL:
            measured = any(column in row.values for row in self._model.rows())
            self._tree.show_column(column, measured)
        if rebuilt:
            self._restore(snapshot, fresh)
        self._heat.set_scale(self._model.scale)
        self._show_quantized(snapshot)
        self._show_unattributed(snapshot)
        self._show_status()

    def _restore(self, snapshot: Snapshot | None, fresh: bool) -> None:
        """After a reset: unfold what was unfolded, select what still exists."""
        if fresh and snapshot is not None:
            whole = len(snapshot.current.tree) <= _SHOWN_WHOLE
            self._expanded = set()
            self._tree.expandAll() if whole else self._tree.expandToDepth(1)
        else:
            self._tree.expand_layers(self._expanded)
        known = [id_ for id_ in self._selection.layers if snapshot and id_ in snapshot.current.tree]
        self._selection.set(known)
        self._select(known)

    def _show_quantized(self, snapshot: Snapshot | None) -> None:
        """Say how many layers compute with integers, of those that have something to round."""
        self._quantized.setVisible(snapshot is not None)
        if snapshot is None:
            return
        tree = snapshot.current.tree
        self._quantized.setText(fmt.quantized_text(tree.quantized_count(), self.tr))
        lines = [f"{fmt.layer_name(one.id)}: {one.why_float}" for one in tree if one.why_float]
        why = [self.tr("Cannot be quantized:"), *map(fmt.visible, lines[:_MOST_NAMED])]
        more = len(lines) - _MOST_NAMED
        why += [self.tr("and %s more") % more] if more > 0 else []
        told = self.tr("Layers that compute with integers, of those with products or sums.")
        self._quantized.setToolTip(fmt.tooltip("\n".join([told, *(why if lines else [])])))

    def _show_unattributed(self, snapshot: Snapshot | None) -> None:
        """Name the work that no layer owns: it is part of the totals, or has no rule at all."""
        series = snapshot.current.table.get("energy") if snapshot else None
        items = sorted(series.unattributed.items()) if series else []
        texts = [
            f"{name} {self.tr('no rule') if value is None else fmt.quantity(value, 'J')}"
            for name, value in items
        ]
        text = self.tr("Energy outside the layers: {items}").format(items=", ".join(texts))
        self._unattributed.setVisible(bool(texts))
        self._unattributed.setText(text if len(texts) <= 4 else text[:120] + "…")
        self._unattributed.setToolTip(fmt.tooltip(text))

    def _show_status(self) -> None:
        problem = self._proxy.query.problem
        if not problem and self._model.rowCount() and not self._proxy.rowCount():
            problem = self.tr("No layer matches the filter.")
        if self._document.snapshot is None:
            problem = self.tr("Open a model to see its layers.")
        self._status.setText(problem)
        self._status.setVisible(bool(problem))
        invalid = bool(self._proxy.query.problem)
        set_property(self._filter, "invalid", invalid)

    @Slot(str)
    def _on_filter(self, text: str) -> None:
        if not self._proxy.query.words and not self._proxy.query.comparisons:
            self._expanded = self._tree.expanded_layers()
        query = parse_query(text)
        with self._quietly():
            self._proxy.set_query(query)
        if query.words or query.comparisons:
            self._tree.expandAll()
        else:
            self._tree.collapseAll()
            self._tree.expand_layers(self._expanded)
        self._select(self._selection.layers)
        self._show_status()

    @Slot()
    def _set_heat(self) -> None:
        self._model.set_heat(self._heat.column, self._heat.logarithmic)
        self._heat.set_scale(self._model.scale)

    @Slot(QItemSelection, QItemSelection)
    def _on_tree_selection(self, selected: QItemSelection, deselected: QItemSelection) -> None:
        if not self._syncing:
            self._selection.set((row.layer.id for row in self._selected_rows()), self)

    @Slot(object)
    def _on_selection(self, layers: tuple[LayerId, ...]) -> None:
        self._enable_actions()
        if self._selection.origin is not self:
            self._select(layers, scroll=True)

    @Slot(object, bool)
    def _on_pointed(self, layers: tuple[LayerId, ...], reveal: bool) -> None:
        """Mark what another view points at."""
        self._delegate.point_at(layers)
        if layers and reveal:
            index = self._proxy.mapFromSource(self._model.layer_index(layers[0]))
            if index.isValid():
                self._tree.scrollTo(index)
        self._tree.viewport().update()

    def _enable_actions(self) -> None:
        for action in (self._copy, self._same_kind):
            action.setEnabled(bool(self._selection.layers))

    def _select(self, layers: Iterable[LayerId], scroll: bool = False) -> None:
        """Select the rows of these layers, as far as the filter lets them through."""
        rows = QItemSelection()
        first = QModelIndex()
        for layer in layers:
            index = self._proxy.mapFromSource(self._model.layer_index(layer))
            if index.isValid():
                rows.select(index, index)
                first = first if first.isValid() else index
        flag = QItemSelectionModel.SelectionFlag
        model = self._tree.selectionModel()
        with self._quietly():
            model.select(rows, flag.ClearAndSelect | flag.Rows)
            if first.isValid():
                model.setCurrentIndex(first, flag.NoUpdate)
                if scroll:
                    self._tree.scrollTo(first)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Let the tree's selection change without telling the other views."""
        self._syncing = True
        try:
            yield
        finally:
            self._syncing = False

    def _selected_rows(self) -> list[Row]:
        """Selected rows in the model's order, however they are sorted."""
        chosen = {index.data(Role.LAYER) for index in self._tree.selectionModel().selectedRows()}
        return [row for row in self._model.rows() if row.layer.id in chosen]

    def _header(self, column: Column) -> str:
        title = str(self._model.headerData(column, Qt.Orientation.Horizontal))
        unit = METRIC_COLUMNS[column].unit if column in METRIC_COLUMNS else "1"
        return title if unit in ("1", "MAC") else f"{title} ({unit})"

    def make_menu(self) -> QMenu:
        """The menu of the tree."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addActions([self._same_kind, self._copy])
        menu.addSeparator()
        menu.addActions([self._expand, self._collapse])
        return menu

    @Slot(QPoint)
    def _show_menu(self, place: QPoint) -> None:
        self.make_menu().popup(self._tree.viewport().mapToGlobal(place))


def _raw(row: Row, column: Column) -> object:
    """The value itself, for a spreadsheet."""
    if column == Column.LAYER:
        return fmt.layer_name(row.layer.id)
    if column in NUMBERS and column != Column.BITS:
        return row.values.get(column)
    text = row.text(column)
    return None if text == fmt.ABSENT else text
