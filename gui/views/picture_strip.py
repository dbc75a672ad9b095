"""Samples as pictures in a row, each with its label."""

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QPoint, QRect, QSize, Qt
from PySide6.QtGui import QColor, QHelpEvent, QImage, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from engine import SamplePreview
from gui import format as fmt
from gui.theme import Theme, scaled

_SIDE, _GAP = 96, 8
_MAGNIFIED = 48  # below so many pixels a picture is enlarged with its pixels left to be seen


class PictureStrip(QWidget):
    """As many samples as there are places; what has no picture says why."""

    def __init__(self, theme: Theme, count: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("pictureStrip")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFont(scaled(self.font(), 0.85))
        self._theme = theme
        self._count = count
        self._samples: tuple[SamplePreview, ...] = ()
        self._images: tuple[QImage, ...] = ()
        self._message = ""
        theme.changed.connect(self.update)

    @property
    def samples(self) -> tuple[SamplePreview, ...]:
        """What is shown."""
        return self._samples

    @property
    def message(self) -> str:
        """What is said in place of pictures."""
        return self._message

    def show_samples(self, samples: Sequence[SamplePreview]) -> None:
        """Show these pictures instead."""
        self._samples, self._message = tuple(samples[: self._count]), ""
        self._images = tuple(_image(one) for one in self._samples)
        self.setAccessibleName(", ".join(f"{one.name}: {one.label}" for one in self._samples))
        self.update()

    def say(self, message: str) -> None:
        """Say something in place of pictures."""
        self._samples, self._images, self._message = (), (), message
        self.setAccessibleName(message)
        self.update()

    def sample_at(self, place: QPoint) -> SamplePreview | None:
        """The sample under that point."""
        number = place.x() // (_SIDE + _GAP)
        return self._samples[number] if 0 <= number < len(self._samples) else None

    def _draw(self, painter: QPainter, number: int) -> None:
        sample, image = self._samples[number], self._images[number]
        palette = self._theme.palette
        box = QRect(number * (_SIDE + _GAP), 0, _SIDE, _SIDE)
        painter.fillRect(box, QColor(palette.raised))
        painter.setPen(QColor(palette.muted))
        if image.isNull():
            inner = box.adjusted(4, 4, -4, -4)
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(inner, int(flags), fmt.visible(sample.problem, 60))
        else:
            whole = image.size().scaled(box.size(), Qt.AspectRatioMode.KeepAspectRatio)
            target = QRect(QPoint(0, 0), whole)
            target.moveCenter(box.center())
            small = max(image.width(), image.height()) < _MAGNIFIED
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, not small)
            painter.drawImage(target, image)
        painter.setPen(QColor(palette.text))
        line = QRect(box.left(), box.bottom() + 4, _SIDE, painter.fontMetrics().height())
        label = fmt.visible(sample.label, 80)
        shown = painter.fontMetrics().elidedText(label, Qt.TextElideMode.ElideMiddle, _SIDE)
        painter.drawText(line, int(Qt.AlignmentFlag.AlignHCenter), shown)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            sample = self.sample_at(event.pos())
            if sample is not None:
                lines = (sample.name, sample.label, sample.problem)
                text = "\n".join(fmt.visible(line) for line in lines if line)
                QToolTip.showText(event.globalPos(), fmt.tooltip(text), self)
                return True
        return super().event(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        for number in range(len(self._samples)):
            self._draw(painter, number)
        if self._message:
            painter.setPen(QColor(self._theme.palette.muted))
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(self.rect(), int(flags), self._message)
        painter.end()

    def sizeHint(self) -> QSize:
        width = self._count * (_SIDE + _GAP) - _GAP
        return QSize(width, _SIDE + 4 + self.fontMetrics().height() + 2)

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint()


def _image(sample: SamplePreview) -> QImage:
    if len(sample.pixels) != 3 * sample.width * sample.height or not sample.pixels:
        return QImage()
    width, height = sample.width, sample.height
    # A copy, as Qt reads the bytes only for as long as they live.
    return QImage(sample.pixels, width, height, 3 * width, QImage.Format.Format_RGB888).copy()
