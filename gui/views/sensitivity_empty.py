"""What stands where a sensitivity map will be: what it shows, and what it takes."""

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QPushButton, QWidget

from gui.theme import scaled
from gui.widgets import column, named, plain_label, row

_TEXT_WIDTH = 520


class EmptyMap(QWidget):
    """An explanation, and a place for the one button that helps.

    Signals:
        data_wanted: the user wants to choose a data set.
    """

    data_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("sensitivityEmpty")
        title = plain_label(self.tr("What each layer can bear"), "sensitivityEmptyTitle")
        title.setFont(scaled(self.font(), 1.15, bold=True))
        self._text = plain_label("", "sensitivityEmptyText", "muted")
        self._text.setWordWrap(True)
        self._text.setFixedWidth(_TEXT_WIDTH)
        self._data = named(QPushButton(self.tr("Choose data…")), "chooseScanData")
        self._data.setProperty("primary", True)
        self._data.clicked.connect(self.data_wanted)
        self._progress = plain_label("", "sensitivityEmptyProgress", "muted")
        self.place = row()
        buttons = row()
        buttons.addStretch(1)
        buttons.addWidget(self._data)
        buttons.addLayout(self.place)
        buttons.addStretch(1)
        layout = column(self, spacing=8)
        layout.addStretch(1)
        for part in (title, self._text):
            part.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            layout.addWidget(part, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addSpacing(4)
        layout.addLayout(buttons)
        layout.addWidget(self._progress, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addStretch(1)

    def show_state(self, has_model: bool, has_data: bool, progress: str) -> None:
        """Say what is lacking, or how the scan goes."""
        self._data.setVisible(has_model and not has_data)
        self._text.setText(self._explanation(has_data))
        self._text.setFixedHeight(self._text.heightForWidth(_TEXT_WIDTH))
        self._progress.setText("" if has_model and not has_data else progress)

    def _explanation(self, has_data: bool) -> str:
        text = self.tr(
            "A row for each layer with those coupled to it, a column for each setting: how much the"
            " loss rises when that layer alone is pruned or rounded so. One backward pass"
            " estimates all cells at once; then they are measured on training samples, the most"
            " uncertain first. A click on a cell selects its layer, a double click applies it."
        )
        return text if has_data else self.tr("%s It takes a data set.") % text
