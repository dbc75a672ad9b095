"""Draws the cells of a sensitivity map and the legend that explains them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from PySide6.QtCore import QPoint, QRect, QSize, Qt
from PySide6.QtGui import QBrush, QColor, QFont, QFontMetrics, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QStyledItemDelegate, QStyleOptionViewItem, QWidget

from gui import format as fmt
from gui.models.sensitivity_cells import Reading, Shown
from gui.models.sensitivity_model import SensitivityModel
from gui.theme import Theme, blend, scaled, tabular

if TYPE_CHECKING:
    from PySide6.QtCore import QModelIndex, QPersistentModelIndex

    from gui.models.heat import HeatScale

ROW_HEIGHT: Final = 24
WIDE: Final = 104  # pixels of a cell that has room for its error too
_LEAST_FILL, _MOST_FILL = 0.3, 0.68  # of the heat's colour behind a number
_FAINT, _HATCH = 0.2, 0.55  # of it behind an estimate, and in the hatching
_DOT: Final = 5
_BAR: Final = QSize(72, 8)
_SWATCH: Final = QSize(18, 12)
_GAP: Final = 14
_SAMPLE: Final = 0.6  # heat of a swatch


def filled(theme: Theme, heat: float) -> QColor:
    """What lies behind a number: the heat's colour, the fainter the less there is of it."""
    share = _LEAST_FILL + (_MOST_FILL - _LEAST_FILL) * heat
    return blend(QColor(theme.palette.surface), theme.heat_color(heat), share)


class CellPainter:
    """Paints a cell: its heat behind its number, and marks that say how far it is."""

    def __init__(self, theme: Theme) -> None:
        self._theme = theme

    def draw(self, painter: QPainter, cell: QRect, one: Shown, heat: float | None) -> None:
        """Draw a cell into that place; the font is the painter's."""
        box = cell.adjusted(0, 0, -1, -1)
        text = self._fill(painter, box, one, heat)
        painter.setPen(text)
        before = painter.font()
        if one.standing == "estimate":
            font = QFont(before)
            font.setItalic(True)
            painter.setFont(font)
        self._write(painter, box, one)
        painter.setFont(before)
        if one.standing == "measuring":
            self._draw_progress(painter, box, one.progress)

    def draw_applied(self, painter: QPainter, cell: QRect) -> None:
        """A dot in the corner: an edit like this is applied."""
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self._theme.palette.accent))
        painter.drawEllipse(cell.left() + 3, cell.top() + 3, _DOT, _DOT)

    def _fill(self, painter: QPainter, box: QRect, one: Shown, heat: float | None) -> QColor:
        """Draw what lies behind the number; answers with the colour that it can be read in."""
        palette = self._theme.palette
        surface = QColor(palette.surface)
        if one.standing in ("refused", "unknown"):
            painter.fillRect(box, blend(surface, QColor(palette.raised), 0.5))
            return QColor(palette.muted)
        if heat is None:  # it may be certain still, that the loss falls
            return QColor(palette.text if one.certain else palette.muted)
        color = self._theme.heat_color(heat)
        if one.standing == "estimate":
            painter.fillRect(box, blend(surface, color, _FAINT))
            painter.fillRect(box, QBrush(blend(surface, color, _HATCH), Qt.BrushStyle.BDiagPattern))
            return QColor(palette.text)
        fill = filled(self._theme, heat)
        painter.fillRect(box, fill)
        return self._theme.text_on(fill)

    def _write(self, painter: QPainter, box: QRect, one: Shown) -> None:
        if not self._has_room_for_error(box, one):
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, one.text)
            return
        assert one.error is not None
        middle = box.center().x() + 4
        value = QRect(box.left(), box.top(), middle - box.left(), box.height())
        painter.drawText(
            value, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, one.text
        )
        before = painter.font()
        painter.setFont(scaled(before, 0.85))
        error = QRect(middle + 4, box.top(), box.right() - middle - 4, box.height())
        left = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(error, left, f"±{fmt.loss(one.error)}")
        painter.setFont(before)

    def _has_room_for_error(self, box: QRect, one: Shown) -> bool:
        if not one.certain or one.error is None or box.width() < WIDE:
            return False
        return not fmt.loss(one.error).startswith("<")

    def _draw_progress(self, painter: QPainter, box: QRect, share: float) -> None:
        """A line along the lower edge, as long as the share of samples that were looked at."""
        line = QRect(box.left(), box.bottom() - 1, max(3, round(box.width() * share)), 2)
        painter.fillRect(line, QColor(self._theme.palette.accent))


class MapDelegate(QStyledItemDelegate):
    """Draws the cells of the table, and a frame around the current one."""

    def __init__(self, model: SensitivityModel, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._model = model
        self._theme = theme
        self._cells = CellPainter(theme)
        self._current: QModelIndex | QPersistentModelIndex | None = None

    def mark(self, current: QModelIndex | QPersistentModelIndex | None) -> None:
        """Frame this cell when it is drawn next."""
        self._current = current

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        rect = QRect(option.rect)
        painter.save()
        painter.setFont(tabular(option.font))
        # The model is asked itself: by roles every cell would pass through Qt three times.
        row, column = index.row(), index.column()
        one = self._model.shown(row, column)
        self._cells.draw(painter, rect, one, self._model.heat(one))
        if self._model.applied(row, column):
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            self._cells.draw_applied(painter, rect)
        if self._current is not None and self._current == index:
            self._draw_frame(painter, rect)
        painter.restore()

    def _draw_frame(self, painter: QPainter, rect: QRect) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for color, inset in ((self._theme.palette.surface, 2), (self._theme.palette.accent, 0)):
            pen = QPen(QColor(color), 2)
            pen.setJoinStyle(Qt.PenJoinStyle.MiterJoin)
            painter.setPen(pen)
            painter.drawRect(rect.adjusted(1 + inset, 1 + inset, -2 - inset, -2 - inset))


class MapLegend(QWidget):
    """The colours from least to most with both in numbers, and the marks in words."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("mapLegend")
        self.setFont(scaled(self.font(), 0.85))
        self._theme = theme
        self._cells = CellPainter(theme)
        self._low = self._high = ""
        self._marks: list[tuple[Shown, str]] = []

    def explain(self, scale: HeatScale | None, reading: Reading, marks: set[str]) -> None:
        """Explain this scale, and those marks that occur: standings, and ``uncertain``."""
        write = fmt.points if reading == "accuracy" else fmt.loss
        unit = self.tr(" points") if reading == "accuracy" else ""
        self._low = write(scale.low) if scale is not None else ""
        self._high = f"{write(scale.high)}{unit}" if scale is not None else ""
        self._marks = [(one, words) for key, one, words in self._known(reading) if key in marks]
        words = [text for _, text in self._marks]
        ends = [f"{self._low} – {self._high}"] if scale is not None else []
        self.setAccessibleName(", ".join(ends + words))
        self.setToolTip(fmt.tooltip(self._tip()))
        self.updateGeometry()
        self.update()

    def paint(self, painter: QPainter, place: QPoint) -> None:
        """Draw the legend from that point of its middle line rightwards."""
        metrics = QFontMetrics(painter.font())
        muted = QColor(self._theme.palette.muted)
        left = place.x()
        if self._high:
            left = self._draw_scale(painter, QPoint(left, place.y())) + _GAP
        for one, words in self._marks:
            box = QRect(QPoint(left, place.y() - _SWATCH.height() // 2), _SWATCH)
            self._cells.draw(painter, box, one, _SAMPLE if one.certain else None)
            painter.setPen(muted)
            width = metrics.horizontalAdvance(words) + 2
            text = QRect(box.right() + 6, place.y() - 12, width, 24)
            painter.drawText(text, Qt.AlignmentFlag.AlignVCenter, words)
            left = text.right() + _GAP

    def _draw_scale(self, painter: QPainter, place: QPoint) -> int:
        """The bar between its two numbers; answers with its right end."""
        metrics = QFontMetrics(painter.font())
        muted = QColor(self._theme.palette.muted)
        left = place.x()
        for text in (self._low, None, self._high):
            if text is not None:
                painter.setPen(muted)
                box = QRect(left, place.y() - 12, metrics.horizontalAdvance(text) + 2, 24)
                painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, text)
                left = box.right() + 6
                continue
            wide, high = _BAR.width(), _BAR.height()
            for stop in range(wide):
                color = filled(self._theme, stop / (wide - 1))
                painter.fillRect(left + stop, place.y() - high // 2, 1, high, color)
            left += wide + 6
        return left

    def _known(self, reading: Reading) -> tuple[tuple[str, Shown, str], ...]:
        return (
            ("estimate", Shown("estimate", certain=True), self.tr("estimate")),
            (
                "measuring",
                Shown("measuring", progress=0.5, certain=True),
                self.tr("being measured"),
            ),
            (
                "uncertain",
                Shown("settled", text="±" if reading == "loss" else "0.4"),
                self.tr("within its error"),
            ),
            ("refused", Shown("refused", text=fmt.ABSENT), self.tr("not possible")),
        )

    def _tip(self) -> str:
        return self.tr(
            "Hatched and in italics: foretold by one backward pass. A line below: samples looked at"
            " so far. Pale: cannot be told from zero on these samples. A dot: applied."
        )

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        self.paint(painter, QPoint(0, self.height() // 2))
        painter.end()

    def sizeHint(self) -> QSize:
        metrics = self.fontMetrics()
        ends = metrics.horizontalAdvance(self._low + self._high) + _BAR.width() + 18 + _GAP
        marks = sum(
            metrics.horizontalAdvance(words) + 2 + _SWATCH.width() + 6 + _GAP
            for _, words in self._marks
        )
        return QSize((ends if self._high else 0) + marks, 24)

    def minimumSizeHint(self) -> QSize:
        return QSize(0, 24)
