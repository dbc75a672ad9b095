"""The chooser and the legend of the heat in the layer table."""

from PySide6.QtCore import QRect, QSize, Qt, Signal
from PySide6.QtGui import QLinearGradient, QPainter, QPaintEvent
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QToolButton, QWidget

from gui import format as fmt
from gui.models.heat import HeatScale
from gui.models.layer_rows import METRIC_COLUMNS, Column
from gui.theme import Theme, scaled
from gui.widgets import named, plain_label

_STOPS = 12
_BAR = QSize(72, 8)


class HeatBar(QWidget):
    """Chooses the column that shows heat and its scale, and explains the colours."""

    changed = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._columns = named(QComboBox(), "heatColumn")
        self._columns.setToolTip(self.tr("Which number colours the layers"))
        self._columns.setAccessibleName(self.tr("Heat"))
        for title, column in self._choices():
            self._columns.addItem(title, column)
        self._logarithmic = named(QToolButton(), "heatLogarithmic")
        self._logarithmic.setText(self.tr("log"))
        self._logarithmic.setCheckable(True)
        self._logarithmic.setToolTip(self.tr("Logarithmic scale: tells small values apart"))
        self._legend = _Legend(theme, self)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        caption = plain_label(self.tr("Heat"), "heatCaption", "caption")
        caption.setBuddy(self._columns)
        for widget in (caption, self._columns, self._logarithmic, self._legend):
            layout.addWidget(widget)
        self._columns.currentIndexChanged.connect(self._announce)
        self._logarithmic.toggled.connect(self._announce)

    @property
    def column(self) -> Column | None:
        """The chosen column; None for no heat."""
        data = self._columns.currentData()
        return None if data is None else Column(data)

    @property
    def logarithmic(self) -> bool:
        """Whether the scale is logarithmic."""
        return self._logarithmic.isChecked()

    def choose(self, column: Column | None) -> None:
        """Show heat in that column."""
        self._columns.setCurrentIndex(self._columns.findData(column))

    def set_scale(self, scale: HeatScale | None) -> None:
        """Explain the colours by this scale."""
        self._legend.set_scale(self.column, scale)

    def _announce(self) -> None:
        self._logarithmic.setEnabled(self.column is not None)
        self.changed.emit()

    def _choices(self) -> list[tuple[str, Column | None]]:
        return [
            (self.tr("Energy"), Column.ENERGY),
            (self.tr("Measured energy"), Column.MEASURED_ENERGY),
            (self.tr("Latency"), Column.LATENCY),
            (self.tr("Memory"), Column.MEMORY),
            (self.tr("MACs"), Column.MACS),
            (self.tr("Parameters"), Column.PARAMETERS),
            (self.tr("Sparsity"), Column.SPARSITY),
            (self.tr("None"), None),
        ]


class _Legend(QWidget):
    """The colours from least to most, with both in numbers."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("heatLegend")
        self._theme = theme
        self._low = self._high = ""
        self._visible = False
        self.setFont(scaled(self.font(), 0.85))

    def set_scale(self, column: Column | None, scale: HeatScale | None) -> None:
        """Show the ends of this scale, or nothing."""
        self._visible = scale is not None and column is not None
        if scale is not None and column is not None:
            self._low, self._high = (_end(column, value) for value in (scale.low, scale.high))
            self.setAccessibleName(f"{self._low} – {self._high}")
        self.updateGeometry()
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        if not self._visible:
            return
        painter = QPainter(self)
        metrics = self.fontMetrics()
        painter.setPen(self._theme.palette.muted)
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.drawText(self.rect(), middle | Qt.AlignmentFlag.AlignLeft, self._low)
        left = metrics.horizontalAdvance(self._low) + 6
        bar = QRect(left, (self.height() - _BAR.height()) // 2, _BAR.width(), _BAR.height())
        gradient = QLinearGradient(bar.topLeft(), bar.topRight())
        for stop in range(_STOPS + 1):
            gradient.setColorAt(stop / _STOPS, self._theme.heat_color(stop / _STOPS))
        painter.fillRect(bar, gradient)
        rest = self.rect().adjusted(left + _BAR.width() + 6, 0, 0, 0)
        painter.drawText(rest, middle | Qt.AlignmentFlag.AlignLeft, self._high)
        painter.end()

    def sizeHint(self) -> QSize:
        if not self._visible:
            return QSize(0, 24)
        text = self.fontMetrics().horizontalAdvance(self._low + self._high)
        return QSize(text + _BAR.width() + 16, 24)

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint()


def _end(column: Column, value: float) -> str:
    if column == Column.SPARSITY:
        return fmt.percent(value, 0)
    return fmt.quantity(value, METRIC_COLUMNS[column].unit, 2)
