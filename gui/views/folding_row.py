"""A row of settings that folds those which do not fit into a panel behind a button."""

from collections.abc import Sequence

from PySide6.QtCore import QPoint, QSize, Qt, Slot
from PySide6.QtGui import QResizeEvent, QShowEvent
from PySide6.QtWidgets import QFormLayout, QFrame, QToolButton, QWidget

from gui import format as fmt
from gui.widgets import named, plain_label, row

_SPACING = 4


class FoldingRow(QWidget):
    """Widgets that always show, settings that fold from the last one on, and a widget that grows.

    Args:
        first: at the left.
        folding: name and widget of each setting.
        rest: takes what room is left, at least ``least`` pixels; without the room it goes.
    """

    def __init__(
        self,
        first: Sequence[QWidget],
        folding: Sequence[tuple[str, QWidget]],
        rest: QWidget,
        least: int,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._always = list(first)
        self._folding = list(folding)
        self._left_out: set[QWidget] = set()  # settings that have no use now
        self._least = least
        self._inline: list[QWidget] | None = None
        self._rest = rest
        self._button = named(QToolButton(self), "foldedSettings")
        self._button.setText(self.tr("Settings ▾"))
        self._button.setToolTip(self.tr("The settings that this row has no room for"))
        self._button.clicked.connect(self.unfold)
        self._panel = named(QFrame(self, Qt.WindowType.Popup), "foldedPanel")
        self._form = QFormLayout(self._panel)
        self._form.setContentsMargins(12, 12, 12, 12)
        self._form.setSpacing(8)
        self._settings = row(spacing=_SPACING)
        layout = row(self, spacing=_SPACING)
        for widget in first:
            layout.addWidget(widget)
        layout.addLayout(self._settings)
        layout.addWidget(self._button)
        layout.addWidget(rest, 1)
        layout.addStretch(0)
        self._arrange([])

    @property
    def folded(self) -> list[QWidget]:
        """The settings behind the button."""
        return [widget for widget in self._wanted if widget not in (self._inline or [])]

    def set_wanted(self, widget: QWidget, wanted: bool) -> None:
        """Show a setting, or leave it out as it has no use now."""
        if wanted == (widget not in self._left_out):
            return
        (self._left_out.discard if wanted else self._left_out.add)(widget)
        self._inline = None
        self._fold()

    @Slot()
    def unfold(self) -> None:
        """Show the settings behind the button below it."""
        self._panel.adjustSize()
        below = self._button.mapToGlobal(QPoint(0, self._button.height()))
        screen = self.screen().availableGeometry()
        left = min(below.x(), screen.right() - self._panel.width())
        top = below.y()
        if top + self._panel.height() > screen.bottom():
            top -= self._button.height() + self._panel.height()
        self._panel.move(max(screen.left(), left), max(screen.top(), top))
        self._panel.show()

    @property
    def _wanted(self) -> list[QWidget]:
        return [widget for _, widget in self._folding if widget not in self._left_out]

    def _fold(self) -> None:
        """Keep as many settings in the row as fit, the first ones first."""
        room = self.width() - self._least
        room -= sum(_width(widget) for widget in self._always if not widget.isHidden())
        wanted = self._wanted
        if sum(map(_width, wanted)) <= room:
            self._rest.show()
            self._arrange(wanted)
            return
        room -= _width(self._button)
        self._rest.setVisible(room >= 0)
        if room < 0:
            room += self._least
        inline: list[QWidget] = []
        for widget in wanted:
            room -= _width(widget)
            if room < 0:
                break
            inline.append(widget)
        self._arrange(inline)

    def _arrange(self, inline: list[QWidget]) -> None:
        """Put these settings into the row, the others into the panel."""
        if inline == self._inline:
            return
        self._inline = inline
        while self._form.rowCount():
            taken = self._form.takeRow(0)
            if taken.labelItem is not None and (label := taken.labelItem.widget()) is not None:
                label.deleteLater()
        for name, widget in self._folding:
            if widget in inline:
                self._settings.addWidget(widget)
            else:
                self._settings.removeWidget(widget)
                widget.setParent(self._panel)
            if widget in self.folded:
                self._form.addRow(plain_label(name), widget)
            widget.setVisible(widget not in self._left_out)
        self._button.setVisible(bool(self.folded))
        names = [name for name, widget in self._folding if widget in self.folded]
        self._button.setAccessibleDescription(fmt.visible(", ".join(names)))
        if not names:
            self._panel.hide()

    def minimumSizeHint(self) -> QSize:
        return QSize(0, super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fold()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._inline = None  # the style is known only now, and with it how wide things are
        self._fold()


def _width(widget: QWidget) -> int:
    return widget.sizeHint().width() + _SPACING
