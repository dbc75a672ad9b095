"""Finds a command or a layer by a few letters, and does it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PySide6.QtCore import (
    QEvent,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QSize,
    Qt,
)
from PySide6.QtGui import QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QFrame,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from gui.widgets import column, named

_WIDTH, _HEIGHT = 560, 360
_SHOWN = 60
_TEXT, _HINT = Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.UserRole
_MOVES = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1, Qt.Key.Key_PageDown: 8, Qt.Key.Key_PageUp: -8}


@dataclass(frozen=True)
class Entry:
    """Something that can be found: its text, what stands beside it, and what it does."""

    text: str
    hint: str
    run: Callable[[], object]


class CommandPalette(QFrame):
    """A line to type in above the entries that match, the best one chosen.

    It lies over the window and is no window of its own: it goes with Escape, and as soon as the
    user works elsewhere.
    """

    def __init__(self, entries: Iterable[Entry], window: QWidget) -> None:
        super().__init__(window)
        self.setObjectName("command_palette")
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.setAutoFillBackground(True)
        self._entries = tuple(entries)
        self._found: tuple[Entry, ...] = ()
        self._line = named(QLineEdit(self), "palette_line")
        self._line.setPlaceholderText(self.tr("Command or layer"))
        self._line.textChanged.connect(self._search)
        self._line.returnPressed.connect(self._run_chosen)
        self._line.installEventFilter(self)
        self._list = named(QListWidget(self), "palette_list")
        self._list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._list.setUniformItemSizes(True)
        self._list.setItemDelegate(_TwoTexts(self._list))
        self._list.itemClicked.connect(self._run_chosen)
        layout = column(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addWidget(self._line)
        layout.addWidget(self._list)
        self._search("")

    def pop_up(self) -> None:
        """Show it at the top of the window, ready to type."""
        window = self.parentWidget()
        room = window.size() if window is not None else self.size()
        width, height = min(_WIDTH, room.width() - 32), min(_HEIGHT, room.height() - 64)
        self.setGeometry((room.width() - width) // 2, 48, width, height)
        self.show()
        self.raise_()
        self._line.setFocus()

    def dismiss(self) -> None:
        """Take it away."""
        self.hide()
        self.deleteLater()

    def _search(self, text: str) -> None:
        self._found = search(self._entries, text)[:_SHOWN]
        self._list.clear()
        for entry in self._found:
            item = QListWidgetItem(self._list)
            item.setData(_TEXT, entry.text)
            item.setData(_HINT, entry.hint)
        self._list.setCurrentRow(0)

    def _run_chosen(self, _: object = None) -> None:
        row = self._list.currentRow()
        if 0 <= row < len(self._found):
            entry = self._found[row]
            self.dismiss()
            entry.run()

    def _move(self, by: int) -> None:
        row = self._list.currentRow() + by
        self._list.setCurrentRow(max(0, min(row, self._list.count() - 1)))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.FocusOut and self.isVisible():
            self.dismiss()
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            if event.key() in _MOVES:
                self._move(_MOVES[Qt.Key(event.key())])
                return True
            if event.key() == Qt.Key.Key_Escape:
                self.dismiss()
                return True
        return super().eventFilter(watched, event)


class _TwoTexts(QStyledItemDelegate):
    """An entry's text, and at the right what stands beside it, fainter."""

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        super().paint(painter, option, index)
        hint = str(index.data(_HINT) or "")
        if not hint:
            return
        painter.save()
        painter.setPen(option.palette.placeholderText().color())
        rect = option.rect.adjusted(8, 0, -8, 0)
        alignment = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight
        painter.drawText(rect, int(alignment), hint)
        painter.restore()

    def sizeHint(
        self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> QSize:
        size = super().sizeHint(option, index)
        size.setHeight(max(size.height(), 28))
        return size


def search(entries: Iterable[Entry], text: str) -> tuple[Entry, ...]:
    """The entries that hold every word of ``text``, those that begin with one first."""
    words = text.casefold().split()
    ranked = []
    for place, entry in enumerate(entries):
        name = entry.text.casefold()
        if all(word in name for word in words):
            ranked.append((_rank(name, words), place, entry))
    return tuple(entry for _, _, entry in sorted(ranked, key=lambda one: one[:2]))


def _rank(name: str, words: list[str]) -> int:
    if not words or name.startswith(words[0]):
        return 0
    parts = name.replace(".", " ").replace("_", " ").split()
    return 1 if any(part.startswith(words[0]) for part in parts) else 2
