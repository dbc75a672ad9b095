"""The base model and the edits behind it as a list."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from PySide6.QtCore import QAbstractListModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from engine import METRICS, Edit, MeasurementTable, Quantize, Snapshot
from gui import format as fmt

Index = QModelIndex | QPersistentModelIndex


class HistoryRole(IntEnum):
    """What an entry says beside its text."""

    APPLIED = Qt.ItemDataRole.UserRole + 1  # False for what was undone
    CURRENT = APPLIED + 1  # the state that is shown
    FIGURES = APPLIED + 2  # accuracy and energy after it, as text
    WARNINGS = APPLIED + 3  # what was found wrong with it


@dataclass(frozen=True)
class Entry:
    """One state: the base model (no edit), or the model after an edit."""

    edit: Edit | None
    text: str
    figures: str
    applied: bool
    current: bool
    warnings: tuple[str, ...] = ()


class HistoryModel(QAbstractListModel):
    """Row n is the state after n edits."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._entries: list[Entry] = []

    def set_snapshot(self, snapshot: Snapshot | None) -> None:
        """Show another history; entries that stay are kept."""
        entries = self._build(snapshot) if snapshot else []
        kept = 0
        for old, new in zip(self._entries, entries, strict=False):
            if old.edit != new.edit:
                break
            kept += 1
        if kept < len(self._entries):
            self.beginRemoveRows(QModelIndex(), kept, len(self._entries) - 1)
            del self._entries[kept:]
            self.endRemoveRows()
        if kept < len(entries):
            self.beginInsertRows(QModelIndex(), kept, len(entries) - 1)
            self._entries += entries[kept:]
            self.endInsertRows()
        for place in range(kept):
            if self._entries[place] != entries[place]:
                self._entries[place] = entries[place]
                self.dataChanged.emit(self.index(place), self.index(place))

    def current(self) -> int:
        """Row of the state that is shown, -1 when no model is open."""
        places = (place for place, entry in enumerate(self._entries) if entry.current)
        return next(places, -1)

    def _build(self, snapshot: Snapshot) -> list[Entry]:
        base = Entry(
            edit=None,
            text=self.tr("Base: {name}").format(name=snapshot.model.name),
            figures=self._figures(snapshot.base.table, snapshot.model.trained, False),
            applied=True,
            current=snapshot.cursor == 0,
        )
        integers = snapshot.base.tree.quantized_count()[0] > 0
        entries = [base]
        for place, one in enumerate(snapshot.history, start=1):
            entries.append(
                Entry(
                    edit=one.edit,
                    text=fmt.done_text(one.edit, one.told, integers, self.tr),
                    figures=self._figures(one.table, snapshot.model.trained, one.before_recovery),
                    applied=place <= snapshot.cursor,
                    current=place == snapshot.cursor,
                    warnings=one.warnings,
                )
            )
            integers = integers or isinstance(one.edit, Quantize)
        return entries

    def _figures(self, table: MeasurementTable, trained: bool, unrecovered: bool) -> str:
        texts = []
        for key in ("accuracy", "energy"):
            value = table.total(METRICS[key])
            if value is not None and (trained or key != "accuracy"):
                text = fmt.metric_value(METRICS[key], value)
                early = key == "accuracy" and unrecovered
                texts.append(self.tr("%s before recovery") % text if early else text)
        return " · ".join(texts)

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._entries)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        entry = self._entries[index.row()]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return entry.text
            case Qt.ItemDataRole.ToolTipRole:
                return fmt.tooltip(self._tooltip(entry))
            case Qt.ItemDataRole.AccessibleTextRole:
                return self._tooltip(entry).replace("\n", ", ")
            case HistoryRole.APPLIED:
                return entry.applied
            case HistoryRole.CURRENT:
                return entry.current
            case HistoryRole.FIGURES:
                return entry.figures
            case HistoryRole.WARNINGS:
                return entry.warnings
        return None

    def _tooltip(self, entry: Entry) -> str:
        layers = [fmt.layer_name(layer) for layer in entry.edit.layers] if entry.edit else []
        if len(layers) > 12:
            layers = [*layers[:12], "…"]
        state = self.tr("shown now") if entry.current else self.tr("click to go to this state")
        undone = "" if entry.applied else self.tr("undone")
        warnings = [self.tr("Warning: %s") % fmt.visible(one) for one in entry.warnings]
        listed = layers if len(layers) > 1 else []
        lines = [entry.text, *listed, entry.figures, *warnings, undone, state]
        return "\n".join(line for line in lines if line)
