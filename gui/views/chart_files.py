"""A chart on the clipboard and in files: PNG, SVG and its numbers as CSV."""

from collections.abc import Callable, Iterable, Sequence

from PySide6.QtCore import (
    QBuffer,
    QByteArray,
    QIODevice,
    QObject,
    QPoint,
    QRect,
    QRectF,
    QSaveFile,
    QSize,
    Qt,
)
from PySide6.QtGui import QColor, QGuiApplication, QImage, QPainter
from PySide6.QtSvg import QSvgGenerator
from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget

from gui import format as fmt
from gui.theme import Theme
from gui.views.bar_plot import BarPlot
from gui.views.chart_legend import ChartLegend

_HEADER = 32
_SCALE = 2  # pixels of a PNG for one of the screen


class ChartFiles(QObject):
    """Writes the picture of a plot with its caption and legend, and tables of its numbers."""

    def __init__(self, parent: QWidget, plot: BarPlot, theme: Theme) -> None:
        super().__init__(parent)
        self._widget = parent
        self._plot = plot
        self._theme = theme
        self._caption = ""
        self._legend = ChartLegend(theme, parent)
        self._legend.hide()

    def describe(self, caption: str, parts: Sequence[str], base: bool) -> None:
        """What the picture says above the plot."""
        self._caption = caption
        self._legend.show_parts(parts, base)
        self._legend.hide()  # drawn into pictures only

    def copy_image(self) -> None:
        """Put the picture on the clipboard."""
        QGuiApplication.clipboard().setImage(self.image())

    def copy_table(self, rows: Iterable[Iterable[object]]) -> None:
        """Put the numbers on the clipboard."""
        QGuiApplication.clipboard().setText(fmt.delimited(rows))

    def save_png(self) -> None:
        """Ask for a file and write the picture."""
        self._ask(self.tr("Save as PNG"), "PNG (*.png)", ".png", self.png)

    def save_svg(self) -> None:
        """Ask for a file and write the picture as vectors."""
        self._ask(self.tr("Save as SVG"), "SVG (*.svg)", ".svg", self.svg)

    def save_table(self, rows: Iterable[Iterable[object]]) -> None:
        """Ask for a file and write the numbers."""
        data = fmt.delimited(rows).encode()
        self._ask(self.tr("Save as CSV"), "CSV (*.csv)", ".csv", lambda: data)

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

    def _size(self) -> QSize:
        return QSize(self._plot.width(), self._plot.height() + _HEADER)

    def _paint(self, painter: QPainter) -> None:
        size = self._size()
        painter.fillRect(QRect(QPoint(0, 0), size), QColor(self._theme.palette.surface))
        painter.setFont(self._legend.font())
        legend = self._legend.sizeHint().width()
        self._legend.paint(painter, QPoint(size.width() - legend, _HEADER // 2))
        painter.setPen(QColor(self._theme.palette.text))
        room = QRect(8, 0, size.width() - legend - 16, _HEADER)
        painter.drawText(room, Qt.AlignmentFlag.AlignVCenter, self._caption)
        target = QRectF(0, _HEADER, self._plot.width(), self._plot.height())
        self._plot.scene().render(painter, target, QRectF(self._plot.viewRect()))

    def _ask(self, title: str, kind: str, suffix: str, content: Callable[[], bytes]) -> None:
        dialog = QFileDialog(self._widget, title, "", kind)
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix(suffix)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(lambda path: self.write(path, content()))
        dialog.open()

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all, and say so if that fails."""
        file = QSaveFile(path)
        written = (
            file.open(QIODevice.OpenModeFlag.WriteOnly)
            and file.write(data) == len(data)
            and file.commit()
        )
        if not written:
            self._report(path, file.errorString())

    def _report(self, path: str, reason: str) -> None:
        box = QMessageBox(self._widget)
        box.setObjectName("saveFailed")
        box.setTextFormat(Qt.TextFormat.PlainText)
        box.setIcon(QMessageBox.Icon.Warning)
        box.setText(self.tr("The file could not be written."))
        hint = self.tr("Choose another folder.")
        box.setInformativeText(f"{path}\n{reason}\n{hint}")
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()
