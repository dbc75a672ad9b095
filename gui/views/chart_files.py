"""A chart on the clipboard, in files and as a table: the menu of every plot."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QObject, QPoint, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QAction, QColor, QGuiApplication, QImage, QPainter
from PySide6.QtSvg import QSvgGenerator
from PySide6.QtWidgets import QMenu, QWidget

from gui import format as fmt
from gui.theme import Theme
from gui.views.chart_legend import ChartLegend
from gui.views.saving import ask_and_write, write
from gui.views.table_dialog import show_table

_HEADER = 32
_SCALE = 2  # pixels of a PNG for one of the screen

Table: TypeAlias = Sequence[Sequence[object]]


class Plot(Protocol):
    """What can be drawn into a picture."""

    def width(self) -> int: ...

    def height(self) -> int: ...

    def draw(self, painter: QPainter, target: QRectF) -> None:
        """Draw what it shows into that place."""


class ChartFiles(QObject):
    """Writes the picture of a plot with its caption and legend, and the table of its numbers.

    Args:
        numbers: the table behind the picture, the header first; None when nothing is shown.
    """

    def __init__(
        self, parent: QWidget, plot: Plot, theme: Theme, numbers: Callable[[], Table | None]
    ) -> None:
        super().__init__(parent)
        self._widget = parent
        self._plot = plot
        self._theme = theme
        self._numbers = numbers
        self._caption = ""
        self._legend = ChartLegend(theme, parent)
        self._legend.hide()

    def describe(
        self, caption: str, parts: Sequence[str], base: bool = False, marks: Sequence[str] = ()
    ) -> None:
        """What the picture says above the plot."""
        self._caption = caption
        self._legend.show_parts(parts, base, marks)
        self._legend.hide()  # drawn into pictures only

    def make_menu(self, *more: tuple[str, Callable[[], object]]) -> QMenu:
        """The menu of the chart: its picture, its numbers, and what else it offers."""
        menu = QMenu(self._widget)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        entries = (
            (self.tr("Copy image"), self.copy_image),
            (self.tr("Save as PNG…"), self.save_png),
            (self.tr("Save as SVG…"), self.save_svg),
            (self.tr("Copy as CSV"), self.copy_table),
            (self.tr("Save as CSV…"), self.save_table),
            (self.tr("Show as table…"), self.show_table),
            *more,
        )
        shown = self._numbers() is not None
        for text, slot in entries:
            action = QAction(text, menu)
            action.setEnabled(shown)
            action.triggered.connect(slot)
            menu.addAction(action)
        return menu

    def copy_image(self) -> None:
        """Put the picture on the clipboard."""
        QGuiApplication.clipboard().setImage(self.image())

    def copy_table(self) -> None:
        """Put the numbers on the clipboard."""
        QGuiApplication.clipboard().setText(self._csv())

    def save_png(self) -> None:
        """Ask for a file and write the picture."""
        ask_and_write(self._widget, self.tr("Save as PNG"), "PNG (*.png)", ".png", self.png)

    def save_svg(self) -> None:
        """Ask for a file and write the picture as vectors."""
        ask_and_write(self._widget, self.tr("Save as SVG"), "SVG (*.svg)", ".svg", self.svg)

    def save_table(self) -> None:
        """Ask for a file and write the numbers."""
        title = self.tr("Save as CSV")
        ask_and_write(self._widget, title, "CSV (*.csv)", ".csv", lambda: self._csv().encode())

    def show_table(self) -> None:
        """Show the numbers in a window of their own."""
        show_table(self._widget, self._caption, self._numbers() or ())

    def image(self) -> QImage:
        """The picture at twice the screen's resolution."""
        image = QImage(self._size() * _SCALE, QImage.Format.Format_RGB32)
        painter = QPainter(image)
        painter.scale(_SCALE, _SCALE)
        self._paint(painter)
        painter.end()
        return image

    def png(self) -> bytes:
        """The picture as a file."""
        data = QByteArray()
        buffer = QBuffer(data)
        buffer.open(QIODevice.OpenModeFlag.WriteOnly)
        self.image().save(buffer, "PNG")  # type: ignore[call-overload]
        return bytes(data.data())

    def svg(self) -> bytes:
        """The picture as vectors."""
        data = QByteArray()
        buffer = QBuffer(data)
        generator = QSvgGenerator()
        generator.setOutputDevice(buffer)
        generator.setSize(self._size())
        generator.setViewBox(QRect(QPoint(0, 0), self._size()))
        generator.setTitle(self._caption)
        painter = QPainter(generator)
        self._paint(painter)
        painter.end()
        return bytes(data.data())

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all, and say so if that fails."""
        write(self._widget, path, data)

    def _csv(self) -> str:
        return fmt.delimited(self._numbers() or ())

    @property
    def _header(self) -> int:
        """Height of what stands above the plot: one line, or two where that is too narrow."""
        caption = self._legend.fontMetrics().horizontalAdvance(self._caption)
        fits = caption + self._legend.sizeHint().width() + 24 <= self._plot.width()
        return _HEADER if fits else 2 * _HEADER - 8

    def _size(self) -> QSize:
        return QSize(self._plot.width(), self._plot.height() + self._header)

    def _paint(self, painter: QPainter) -> None:
        size, header = self._size(), self._header
        painter.fillRect(QRect(QPoint(0, 0), size), QColor(self._theme.palette.surface))
        painter.setFont(self._legend.font())
        legend = self._legend.sizeHint().width()
        left = size.width() - legend if header == _HEADER else 8
        self._legend.paint(painter, QPoint(left, header - _HEADER // 2))
        painter.setPen(QColor(self._theme.palette.text))
        room = size.width() - 16 - (legend if header == _HEADER else 0)
        text = self._legend.fontMetrics().elidedText(
            self._caption, Qt.TextElideMode.ElideRight, room
        )
        painter.drawText(QRect(8, 0, room, _HEADER), Qt.AlignmentFlag.AlignVCenter, text)
        target = QRectF(0, header, self._plot.width(), self._plot.height())
        self._plot.draw(painter, target)
