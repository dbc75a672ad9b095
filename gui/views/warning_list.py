"""Warnings, each with a mark and the word, so that no note is taken for one."""

from collections.abc import Sequence

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QLabel, QWidget

from gui.theme import Theme
from gui.widgets import breakable, column, plain_label, row

_ICON = 16


class WarningMark(QLabel):
    """The sign that stands before a warning."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.setFixedSize(_ICON, _ICON)
        self.setAccessibleName(self.tr("Warning"))
        theme.changed.connect(self._draw)
        self._draw()

    @Slot()
    def _draw(self) -> None:
        self.setPixmap(self._theme.warning_icon().pixmap(_ICON, _ICON))


class WarningList(QWidget):
    """A row for each warning; it takes no room where there is none."""

    def __init__(self, name: str, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self._theme = theme
        self._texts: tuple[str, ...] = ()
        self._layout = column(self, spacing=4)
        self._layout.setContentsMargins(0, 4, 0, 4)
        self.hide()

    @property
    def texts(self) -> tuple[str, ...]:
        """What is warned of."""
        return self._texts

    def show_warnings(self, texts: Sequence[str]) -> None:
        """Show these instead."""
        self.setVisible(bool(texts))
        if tuple(texts) == self._texts:
            return
        self._texts = tuple(texts)
        while (item := self._layout.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.deleteLater()
        for text in texts:
            self._layout.addWidget(self._make_row(text))

    def _make_row(self, text: str) -> QWidget:
        line = QWidget(self)
        label = plain_label(self.tr("Warning: %s") % breakable(text), "warning")
        label.setWordWrap(True)
        layout = row(line, spacing=6)
        layout.addWidget(WarningMark(self._theme), 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(label, 1)
        return line
