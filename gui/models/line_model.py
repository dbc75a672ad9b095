"""Source lines with their time as an item model: functions, and below each its lines."""

from enum import IntEnum
from pathlib import PurePath
from typing import Any

from PySide6.QtCore import QAbstractItemModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from engine import LineProfile, SourceFunction, SourceLine
from gui import format as fmt
from gui.models.cells import CellRole, header, right_or_left

Index = QModelIndex | QPersistentModelIndex
_FUNCTION = 0  # the internal id of a function; its lines have its place plus one


class LineColumn(IntEnum):
    """Columns, in order."""

    LINE = 0
    HITS = 1
    TIME = 2
    SHARE = 3
    SOURCE = 4


_NUMBERS = (LineColumn.LINE, LineColumn.HITS, LineColumn.TIME, LineColumn.SHARE)


class LineModel(QAbstractItemModel):
    """Lines of functions; what was not timed shows no number."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._functions: tuple[SourceFunction, ...] = ()

    def set_profile(self, profile: LineProfile | None) -> None:
        """Show another profile."""
        self.beginResetModel()
        self._functions = profile.functions if profile else ()
        self.endResetModel()

    def function(self, index: Index) -> SourceFunction:
        """The function that a valid index belongs to."""
        own = index.internalId()
        return self._functions[index.row() if own == _FUNCTION else own - 1]

    def line(self, index: Index) -> SourceLine | None:
        """The line behind a valid index; None for a function's own row."""
        if index.internalId() == _FUNCTION:
            return None
        return self.function(index).lines[index.row()]

    def table(self) -> list[list[object]]:
        """Rows for a spreadsheet, the header first."""
        title: list[object] = ["function", "line", "hits", "time (s)", "source"]
        rows: list[list[object]] = [
            [function.name, line.number, line.hits or None, line.seconds, line.text]
            for function in self._functions
            for line in function.lines
        ]
        return [title, *rows]

    def _value(
        self, function: SourceFunction, line: SourceLine, column: LineColumn
    ) -> float | str | None:
        match column:
            case LineColumn.LINE:
                return line.number
            case LineColumn.HITS:
                return line.hits or None
            case LineColumn.TIME:
                return line.seconds
            case LineColumn.SHARE:
                return share(function, line)
        return line.text

    def _text(self, index: Index) -> str:
        function, line, column = self.function(index), self.line(index), LineColumn(index.column())
        if line is None:
            return function_title(function) if column == LineColumn.LINE else ""
        value = self._value(function, line, column)
        if isinstance(value, str):
            return value
        if value is None:
            return ""
        match column:
            case LineColumn.LINE:
                return str(line.number)
            case LineColumn.HITS:
                return fmt.count(value)
            case LineColumn.SHARE:
                return fmt.percent(value)
        return fmt.quantity(value, "s")

    def _tooltip(self, index: Index) -> str:
        function, line = self.function(index), self.line(index)
        if line is None:
            return f"{function.name}\n{function.file}"
        if line.seconds is None:
            return ""
        return self.tr("Line {number}: {hits} hits, {time}, {share} of {function}").format(
            number=line.number,
            hits=fmt.count(line.hits),
            time=fmt.quantity(line.seconds, "s"),
            share=fmt.percent(share(function, line)),
            function=function.name,
        )

    def index(self, row: int, column: int, parent: Index = QModelIndex()) -> QModelIndex:  # noqa: B008
        if not self.hasIndex(row, column, parent):
            return QModelIndex()
        return self.createIndex(row, column, parent.row() + 1 if parent.isValid() else _FUNCTION)

    def parent(self, index: Index) -> QModelIndex:  # type: ignore[override]
        if not index.isValid() or index.internalId() == _FUNCTION:
            return QModelIndex()
        return self.createIndex(index.internalId() - 1, 0, _FUNCTION)

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        if not parent.isValid():
            return len(self._functions)
        if parent.internalId() != _FUNCTION or parent.column():
            return 0
        return len(self._functions[parent.row()].lines)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return len(LineColumn)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        line, column = self.line(index), LineColumn(index.column())
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return self._text(index)
            case Qt.ItemDataRole.ToolTipRole:
                return fmt.tooltip(self._tooltip(index))
            case Qt.ItemDataRole.TextAlignmentRole:
                return right_or_left(line is not None and column in _NUMBERS)
            case CellRole.SORT:
                return self._value(self.function(index), line, column) if line else None
            case CellRole.HEAT if line is not None and column == LineColumn.SHARE:
                return share(self.function(index), line)
            case CellRole.QUIET:
                return line is not None and (column == LineColumn.LINE or line.seconds is None)
            case CellRole.CODE:
                return line is not None and column == LineColumn.SOURCE
        return None

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(LineColumn):
            return None
        title, tip = self._titles()[LineColumn(section)]
        return header(role, title, tip, LineColumn(section) in _NUMBERS)

    def _titles(self) -> dict[LineColumn, tuple[str, str]]:
        return {
            LineColumn.LINE: (self.tr("Line"), self.tr("Number of the line in its file")),
            LineColumn.HITS: (self.tr("Hits"), self.tr("How often the line ran")),
            LineColumn.TIME: (
                self.tr("Time"), self.tr("Time on the line, with all that it calls"),
            ),
            LineColumn.SHARE: (self.tr("Share"), self.tr("Time of the whole function")),
            LineColumn.SOURCE: (self.tr("Source"), ""),
        }  # fmt: skip


def share(function: SourceFunction, line: SourceLine) -> float | None:
    """The line's time of its function's."""
    if line.seconds is None or not function.seconds:
        return None
    return min(1.0, line.seconds / function.seconds)


def function_title(function: SourceFunction) -> str:
    """A function in one line: its name, its file, its time."""
    file = PurePath(function.file).name
    return f"{function.name}   {file}   {fmt.quantity(function.seconds, 's')}"
