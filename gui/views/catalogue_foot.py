"""What can be done with the chosen models of the catalogue, and how far that is."""

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QProgressBar, QPushButton, QToolButton, QWidget

from gui.models.catalogue_rows import What
from gui.views.parts import ElidedLabel, set_property
from gui.widgets import named, row

_BAR_WIDTH = 120


class CatalogueFoot(QWidget):
    """Progress at the left, buttons at the right.

    Signals:
        open_wanted: the chosen model.
        cost_wanted: energy or latency of the chosen models.
        stop_wanted: what is under way.
    """

    open_wanted = Signal()
    cost_wanted = Signal(str)
    stop_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("catalogueFoot")
        self._text = ElidedLabel("catalogueProgressText", "muted")
        self._bar = named(QProgressBar(self), "catalogueProgress")
        self._bar.setTextVisible(False)
        self._bar.setFixedWidth(_BAR_WIDTH)
        self._stop = named(QToolButton(self), "catalogueStop")
        self._stop.setText(self.tr("Stop"))
        self._stop.setToolTip(self.tr("Stop; what is known already stays"))
        self._stop.clicked.connect(self.stop_wanted)
        self._open = named(QPushButton(self.tr("Open"), self), "catalogueOpen")
        self._open.setToolTip(self.tr("Open the chosen model (Enter)"))
        self._open.clicked.connect(self.open_wanted)
        set_property(self._open, "primary", True)
        self._energy = named(QPushButton(self), "catalogueEnergy")
        self._energy.setToolTip(
            self.tr("Model the energy of the selected models, or of all shown when none is")
        )
        self._energy.clicked.connect(self._want_energy)
        self._latency = named(QPushButton(self), "catalogueLatency")
        self._latency.setToolTip(
            self.tr("Time the selected models on this machine, or all shown when none is")
        )
        self._latency.clicked.connect(self._want_latency)
        layout = row(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.addWidget(self._text, 1)
        for widget in (self._bar, self._stop, self._energy, self._latency, self._open):
            layout.addWidget(widget)
        self.show_work("", 0, 0, False)

    @property
    def cost_buttons(self) -> tuple[QPushButton, QPushButton]:
        """Those that ask for energy and for latency."""
        return self._energy, self._latency

    def show_work(self, text: str, done: int, total: int, running: bool) -> None:
        """Say what is under way and how far it is; ``total`` 0 when that is not known."""
        self._text.show_text(text)
        self._bar.setRange(0, total)
        self._bar.setValue(done)
        self._bar.setVisible(running)
        self._stop.setVisible(running)

    def show_choice(self, chosen: int, lacking: dict[What, int]) -> None:
        """Enable what can be done, and say of how many models a cost is not known."""
        self._open.setEnabled(chosen == 1)
        titles = (self.tr("Estimate energy"), self.tr("Measure latency"))
        counts = (lacking["energy"], lacking["latency"])
        for button, title, count in zip(self.cost_buttons, titles, counts, strict=True):
            button.setText(f"{title} ({count})" if count > 1 else title)
            button.setEnabled(count > 0)

    def _want_energy(self) -> None:
        self.cost_wanted.emit("energy")

    def _want_latency(self) -> None:
        self.cost_wanted.emit("latency")
