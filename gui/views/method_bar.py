"""The families of edits side by side, in as many rows as the width asks for."""

from collections.abc import Mapping

from PySide6.QtCore import QSize, Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QButtonGroup, QFrame, QGridLayout, QSizePolicy, QToolButton, QWidget

from gui import format as fmt
from gui.models.edit_words import FAMILIES, family_words
from gui.widgets import named

_GAP = 2


class MethodBar(QFrame):
    """One button for each family; what does not apply is off and says why.

    Signals:
        chosen: a family, by hand.
    """

    chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("methodBar")
        self.setAccessibleName(self.tr("Method"))
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(_GAP)
        self._group = QButtonGroup(self)
        self._buttons: dict[str, QToolButton] = {}
        self._shown: list[QToolButton] = []
        self._columns = 0
        for place, (family, (title, _)) in enumerate(family_words(self.tr).items()):
            button = named(QToolButton(self), f"family_{family}")
            button.setText(title)
            button.setCheckable(True)
            button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            self._group.addButton(button, place)
            self._buttons[family] = button
        self._group.button(0).setChecked(True)
        self._group.idClicked.connect(self._on_clicked)

    @property
    def family(self) -> str:
        """The family that is chosen."""
        return list(FAMILIES)[self._group.checkedId()]

    def choose(self, family: str) -> None:
        """Choose that family, without a signal."""
        self._buttons[family].setChecked(True)

    def show_families(self, reasons: Mapping[str, str]) -> None:
        """Offer these families; those with a reason against them are off, but for the chosen."""
        tips = family_words(self.tr)
        for family, button in self._buttons.items():
            reason = reasons.get(family, "")
            button.setEnabled(not reason or button.isChecked())  # else no key leads to the others
            button.setToolTip(fmt.tooltip(reason or tips[family][1]))
            button.setAccessibleDescription(reason or tips[family][1])
            button.setVisible(family in reasons)
        self._shown = [self._buttons[family] for family in FAMILIES if family in reasons]
        self._columns = 0
        self._arrange()

    @Slot(int)
    def _on_clicked(self, place: int) -> None:
        self.chosen.emit(list(FAMILIES)[place])

    def _arrange(self) -> None:
        """As few rows as fit, all of one width, and as even as can be."""
        if not self._shown:
            return
        wide = max(button.sizeHint().width() for button in self._shown) + _GAP
        most = max(1, (self.width() + _GAP) // wide)
        rows = -(-len(self._shown) // most)
        columns = -(-len(self._shown) // rows)
        if columns == self._columns:
            return
        for column in range(self._grid.columnCount()):
            self._grid.setColumnStretch(column, 0)
        self._columns = columns
        for place, button in enumerate(self._shown):
            self._grid.addWidget(button, place // columns, place % columns)
            self._grid.setColumnStretch(place % columns, 1)
        self.updateGeometry()

    def minimumSizeHint(self) -> QSize:
        return QSize(0, super().minimumSizeHint().height())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and right go on to the next family that is on."""
        step = {Qt.Key.Key_Right: 1, Qt.Key.Key_Left: -1}.get(Qt.Key(event.key()))
        able = [button for button in self._shown if button.isEnabled()]
        checked = self._group.checkedButton()
        if step is None or checked not in able:
            super().keyPressEvent(event)
            return
        button = able[(able.index(checked) + step) % len(able)]
        button.setFocus(Qt.FocusReason.TabFocusReason)
        button.click()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._columns = 0  # the style is known only now, and with it how wide words are
        self._arrange()
