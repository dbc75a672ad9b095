"""Small pieces that several panels are made of."""

from collections.abc import Callable, Sequence

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Slot
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPixmap, QStandardItemModel
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLabel,
    QStyle,
    QStyleOptionButton,
    QToolButton,
    QWidget,
)

from engine import Device
from gui import format as fmt
from gui.views.amount_field import ignore_wheel_without_focus
from gui.widgets import named


def set_property(widget: QWidget, name: str, value: object) -> None:
    """Set a property that style sheets look at, and let them look again."""
    if widget.property(name) != value:
        widget.setProperty(name, value)
        widget.style().unpolish(widget)
        widget.style().polish(widget)


def choice_box(name: str, tip: str) -> QComboBox:
    """A box of choices, as wide as they are, that the wheel passes over until it has the focus."""
    box = named(QComboBox(), name)
    box.setToolTip(fmt.tooltip(tip))
    box.setAccessibleName(tip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
    ignore_wheel_without_focus(box)
    return box


def fill_devices(box: QComboBox, devices: Sequence[Device]) -> None:
    """Offer these devices; those that are unavailable cannot be chosen and say why."""
    before = box.currentData()
    box.clear()
    for place, device in enumerate(devices):
        box.addItem(device.name, device.name)
        tip = device.unavailable or device.title
        box.setItemData(place, fmt.tooltip(tip), Qt.ItemDataRole.ToolTipRole)
        model = box.model()
        if device.unavailable and isinstance(model, QStandardItemModel):
            model.item(place).setEnabled(False)
    box.setCurrentIndex(max(0, box.findData(before)))


def drawn(widget: QWidget, draw: Callable[[QPainter], None]) -> QPixmap:
    """What ``draw`` paints over a widget's area, at the screen's resolution, to be kept."""
    ratio = widget.devicePixelRatioF()
    picture = QPixmap(widget.size() * ratio)
    picture.setDevicePixelRatio(ratio)
    painter = QPainter(picture)
    painter.setFont(widget.font())
    draw(painter)
    painter.end()
    return picture


def draw_within(
    widget: QWidget, painter: QPainter, target: QRectF, *draws: Callable[[QPainter], None]
) -> None:
    """Let each of ``draws`` paint what it paints over a widget into that place of a picture."""
    painter.save()
    painter.translate(target.topLeft())
    painter.setClipRect(QRectF(0, 0, target.width(), target.height()))
    painter.setFont(widget.font())
    for draw in draws:
        draw(painter)
    painter.restore()


class TickBox(QCheckBox):
    """A check box whose frame can be seen on either look: Fusion's is darker than the dark one."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def paintEvent(self, event: QPaintEvent) -> None:
        option = QStyleOptionButton()
        self.initStyleOption(option)
        indicator = QStyle.SubElement.SE_CheckBoxIndicator
        box = QRectF(self.style().subElementRect(indicator, option, self)).adjusted(1, 1, -1, -1)
        role = QPalette.ColorRole
        vivid = self.isChecked() and self.isEnabled()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        edge = self._color(role.Accent if vivid or self.hasFocus() else role.PlaceholderText)
        painter.setPen(QPen(edge, 2 if self.hasFocus() else 1))
        painter.setBrush(self._color(role.Accent if vivid else role.Base))
        painter.drawRoundedRect(box, 3, 3)
        if self.isChecked():
            tick = self._color(role.BrightText if vivid else role.PlaceholderText)
            painter.setPen(QPen(tick, 2))
            painter.drawPolyline([_at(box, 0.22, 0.52), _at(box, 0.43, 0.72), _at(box, 0.78, 0.3)])
        painter.end()

    def _color(self, role: QPalette.ColorRole) -> QColor:
        return self.palette().color(QPalette.ColorGroup.Normal, role)


def _at(rect: QRectF, x: float, y: float) -> QPointF:
    """The point that lies so far within."""
    return QPointF(rect.left() + x * rect.width(), rect.top() + y * rect.height())


class MoreButton(QToolButton):
    """Unfolds what is seldom wanted; its arrow says which way it is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setText(self.tr("More settings"))
        self.setCheckable(True)
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.setProperty("unfolds", True)
        self.toggled.connect(self._turn)
        self._turn(False)

    @Slot(bool)
    def _turn(self, unfolded: bool) -> None:
        self.setArrowType(Qt.ArrowType.DownArrow if unfolded else Qt.ArrowType.RightArrow)


class ElidedLabel(QLabel):
    """One line of plain text, elided where room lacks; the tooltip has it whole.

    Args:
        elide: where; at the end what matters most comes first.
    """

    def __init__(
        self,
        name: str,
        role: str = "",
        elide: Qt.TextElideMode = Qt.TextElideMode.ElideMiddle,
    ) -> None:
        super().__init__()
        self._elide = elide
        self.setObjectName(name)
        self.setTextFormat(Qt.TextFormat.PlainText)
        if role:
            self.setProperty("role", role)

    def show_text(self, text: str) -> None:
        """Show this text instead."""
        self.setText(text)
        self.setToolTip(fmt.tooltip(text))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        rect = self.contentsRect()
        text = self.fontMetrics().elidedText(self.text(), self._elide, rect.width())
        painter.drawText(rect, self.alignment() | Qt.AlignmentFlag.AlignVCenter, text)
        painter.end()

    def minimumSizeHint(self) -> QSize:
        return QSize(40, super().minimumSizeHint().height())
