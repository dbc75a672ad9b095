"""Rows of a name, a value and a remark, drawn compactly."""

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QRect, QSize, Qt
from PySide6.QtGui import QColor, QHelpEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from gui import format as fmt
from gui.theme import Theme, tabular

_HEIGHT = 20
_GAP = 12
_STALE = 0.55  # opacity of what no longer holds


@dataclass(frozen=True)
class Fact:
    """One row; ``verdict`` colours the remark."""

    name: str
    value: str
    remark: str = ""
    verdict: str = ""


class FactRows(QWidget):
    """Names left and elided, values right, remarks in a column of their own."""

    def __init__(self, name: str, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setFont(tabular(self.font()))
        self._theme = theme
        self._facts: tuple[Fact, ...] = ()
        theme.changed.connect(self.update)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The rows."""
        return self._facts

    def show_facts(self, facts: Sequence[Fact]) -> None:
        """Show these rows instead."""
        self._facts = tuple(facts)
        texts = (f"{one.name}: {one.value} {one.remark}".strip() for one in facts)
        self.setAccessibleName("; ".join(texts))
        self.setVisible(bool(facts))
        self.updateGeometry()
        self.update()

    def _widths(self) -> tuple[int, int]:
        metrics = self.fontMetrics()
        values = [metrics.horizontalAdvance(one.value) for one in self._facts]
        remarks = [metrics.horizontalAdvance(one.remark) for one in self._facts]
        return max(values, default=0), max(remarks, default=0)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            place = event.pos().y() // _HEIGHT
            if 0 <= place < len(self._facts):
                fact = self._facts[place]
                text = f"{fact.name}\n{fact.value}  {fact.remark}"
                QToolTip.showText(event.globalPos(), fmt.tooltip(text), self)
                return True
        return super().event(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setOpacity(1.0 if self.isEnabled() else _STALE)
        palette = self._theme.palette
        colors = {fmt.BETTER: palette.better, fmt.WORSE: palette.worse}
        value_width, remark_width = self._widths()
        remark_left = self.width() - remark_width
        value_left = remark_left - (_GAP if remark_width else 0) - value_width
        middle = Qt.AlignmentFlag.AlignVCenter
        for place, fact in enumerate(self._facts):
            top = place * _HEIGHT
            room = QRect(0, top, max(20, value_left - _GAP), _HEIGHT)
            painter.setPen(QColor(palette.muted))
            name = painter.fontMetrics().elidedText(
                fact.name, Qt.TextElideMode.ElideMiddle, room.width()
            )
            painter.drawText(room, middle, name)
            painter.setPen(QColor(palette.text))
            value = QRect(value_left, top, value_width, _HEIGHT)
            painter.drawText(value, middle | Qt.AlignmentFlag.AlignRight, fact.value)
            painter.setPen(QColor(colors.get(fact.verdict, palette.muted)))
            remark = QRect(remark_left, top, remark_width, _HEIGHT)
            painter.drawText(remark, middle | Qt.AlignmentFlag.AlignRight, fact.remark)
        painter.end()

    def sizeHint(self) -> QSize:
        value, remark = self._widths()
        return QSize(100 + value + remark + 2 * _GAP, len(self._facts) * _HEIGHT)

    def minimumSizeHint(self) -> QSize:
        return QSize(120, len(self._facts) * _HEIGHT)
