"""What is known of one cell of a sensitivity map, in words, and the button that applies it."""

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QPushButton, QSizePolicy, QWidget

from gui import format as fmt
from gui.theme import scaled
from gui.views.parts import ElidedLabel, set_property
from gui.widgets import column, named, row


class CellDetail(QWidget):
    """Two lines over the whole width: which cell, and its numbers.

    Signals:
        apply_wanted: the user wants the cell as an edit.
    """

    apply_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("cellDetail")
        self._title = ElidedLabel("cellTitle")
        self._title.setFont(scaled(self.font(), 1.0, bold=True))
        self._coupled = ElidedLabel("cellCoupled", "muted", Qt.TextElideMode.ElideRight)
        self._numbers = ElidedLabel("cellNumbers", "", Qt.TextElideMode.ElideRight)
        self._apply = named(QPushButton(self.tr("Apply")), "applyCell")
        self._apply.clicked.connect(self.apply_wanted)
        for label in (self._title, self._coupled, self._numbers):
            label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self._title.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        first = row(spacing=12)
        first.addWidget(self._title)
        first.addWidget(self._coupled, 1)
        lines = column(spacing=2)
        lines.addLayout(first)
        lines.addWidget(self._numbers)
        layout = row(self, spacing=12)
        layout.setContentsMargins(8, 4, 8, 4)
        layout.addLayout(lines, 1)
        layout.addWidget(self._apply, 0, Qt.AlignmentFlag.AlignVCenter)

    def show_cell(self, title: str, coupled: str, numbers: str, refused: bool = False) -> None:
        """Show what is known of a cell."""
        self._title.show_text(title)
        self._coupled.show_text(coupled)
        self._numbers.show_text(numbers)
        set_property(self._numbers, "role", "error" if refused else "muted" if not title else "")

    def offer(self, refusal: str, tip: str, primary: bool) -> None:
        """Offer to apply the current cell, or say in the tooltip why that cannot be."""
        self._apply.setEnabled(not refusal)
        self._apply.setToolTip(fmt.tooltip(refusal or tip))
        set_property(self._apply, "primary", primary)
