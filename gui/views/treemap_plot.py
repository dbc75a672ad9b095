"""Draws the treemap of energy: cells split into their parts, to be hovered, picked and zoomed."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFocusEvent,
    QFontMetricsF,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QResizeEvent,
)
from PySide6.QtWidgets import QWidget

from engine import ROOT, LayerId
from gui import format as fmt
from gui.models.energy_map import Box, Cell, EnergyTree, Side, lay_out, neighbour
from gui.models.energy_unit import JOULES, EnergyUnit
from gui.selection import Selection
from gui.theme import Theme, blend, contrast, scaled
from gui.views.parts import draw_within, drawn

_HEADER: Final = 18
_LINE: Final = 15
_PAD: Final = 4
_LEAST: Final = 30.0  # square pixels of a cell that is not merged with others
_LEAST_TEXT: Final = 34.0  # pixels of width that are worth a name
_LEAST_SPLIT: Final = 14.0  # pixels of either side of a cell that is split into its parts
_STRENGTH: Final = 0.5  # of a part's colour behind text
_SIDES: Final[dict[int, Side]] = {
    Qt.Key.Key_Left: "left",
    Qt.Key.Key_Right: "right",
    Qt.Key.Key_Up: "up",
    Qt.Key.Key_Down: "down",
}


class TreemapPlot(QWidget):
    """The map of one container; what was saved since the base stays empty.

    The arrows go from cell to cell, Enter zooms in, Escape out, Home to the whole, the space bar
    selects.

    Signals:
        pointed: the :class:`gui.models.energy_map.Cell` below the mouse or at the cursor, or None.
        zoomed: the container that fills the map from now on.
    """

    pointed = Signal(object)
    zoomed = Signal(str)

    def __init__(self, selection: Selection, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("treemapPlot")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setAccessibleName(self.tr("Map of energy over the layers"))
        self.setFont(scaled(self.font(), 0.85))
        self._selection = selection
        self._theme = theme
        self._energy: EnergyTree | None = None
        self._unit = JOULES
        self._root = ROOT
        self._cells: tuple[Cell, ...] = ()
        self._hovered: Cell | None = None
        self._cursor: int | None = None
        self._picture: QPixmap | None = None
        selection.changed.connect(self._on_selection)
        theme.changed.connect(self._redraw)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """What is drawn."""
        return self._cells

    @property
    def root(self) -> LayerId:
        """The container that fills the map."""
        return self._root

    def show_energy(self, energy: EnergyTree | None, unit: EnergyUnit) -> None:
        """Show this energy; the container in view stays while it has any."""
        self._energy, self._unit = energy, unit
        if energy is None or self._root not in energy.totals:
            self._root = ROOT
        if energy is not None:
            self._root = energy.inner(self._root)
        self._lay_out()

    def zoom_to(self, layer: LayerId) -> None:
        """Let that container, or the one around that layer, fill the map."""
        if self._energy is None or layer not in self._energy.totals:
            return
        root = self._energy.inner(self._energy.container_of(layer))
        if root != self._root:
            self._root = root
            self._lay_out()
            self.zoomed.emit(root)

    def zoom_out(self) -> None:
        """Show what is around the container in view."""
        if self._energy is None:
            return
        tree = self._energy.tree
        above = tree.parent_of(self._root)
        while above != ROOT and self._energy.inner(above) == self._root:
            above = tree.parent_of(above)
        self.zoom_to(above)

    def cell_at(self, place: QPointF) -> Cell | None:
        """The innermost cell at that point."""
        x, y = place.x(), place.y()
        return next((cell for cell in reversed(self._cells) if cell.box.holds(x, y)), None)

    def extent(self) -> tuple[Box, Box | None]:
        """Where the map lies, and where the base's does when the two differ, on one scale."""
        room = Box(0.0, 0.0, float(self.width()), float(self.height()))
        share = self._energy.share_of_base(self._root) if self._energy is not None else 1.0
        if share == 1.0:
            return room, None
        if share < 1.0:
            return room.scaled(share), room
        return room, room.scaled(1 / share)

    def draw(self, painter: QPainter, target: QRectF) -> None:
        """Draw what it shows into that place."""
        draw_within(self, painter, target, self._draw_all, self._draw_selected)

    def _lay_out(self) -> None:
        self._cells = ()
        self._hovered = self._cursor = None
        if self._energy is not None:
            room, _ = self.extent()
            self._cells = lay_out(self._energy, self._root, room, _HEADER, _LEAST)
        self.pointed.emit(None)
        self._redraw()

    def _redraw(self) -> None:
        self._picture = None
        self.update()

    def _draw_all(self, painter: QPainter) -> None:
        palette = self._theme.palette
        painter.fillRect(QRectF(self.rect()), QColor(palette.surface))
        if self._energy is None:
            return
        self._draw_saved(painter)
        colors = [
            blend(QColor(palette.surface), self._theme.color(part), _STRENGTH)
            for part in self._energy.parts
        ]
        text = _text_over([*colors, QColor(palette.raised)])
        self._fill_cells(painter, colors)
        metrics = QFontMetricsF(painter.font())
        painter.setPen(text)
        for cell in self._cells:
            if cell.face.width >= _LEAST_TEXT and cell.face.height >= _LINE:
                self._draw_text(painter, metrics, cell)
        self._outline_base(painter)

    def _fill_cells(self, painter: QPainter, colors: list[QColor]) -> None:
        """Fill every face; small ones with their largest part alone, all of a colour at once."""
        palette = self._theme.palette
        plain: list[list[QRectF]] = [[] for _ in colors]
        frames: list[QRectF] = []
        for cell in self._cells:
            place = _inset(cell.face if cell.inner is None else cell.box)
            if cell.inner is not None:
                painter.fillRect(
                    place, _frame_color(palette.raised, palette.border, self._depth(cell))
                )
            elif cell.kind == "rest":
                frames.append(place)
            elif min(place.width(), place.height()) < _LEAST_SPLIT:
                plain[max(range(len(colors)), key=cell.values.__getitem__)].append(place)
            else:
                _split(painter, place, cell.values, colors)
        painter.setPen(Qt.PenStyle.NoPen)
        for color, places in zip([*colors, QColor(palette.raised)], [*plain, frames], strict=True):
            painter.setBrush(color)
            painter.drawRects(places)

    def _depth(self, cell: Cell) -> int:
        depth = 0
        while cell.parent >= 0:
            cell, depth = self._cells[cell.parent], depth + 1
        return depth

    def _draw_text(self, painter: QPainter, metrics: QFontMetricsF, cell: Cell) -> None:
        """The name, and what it needs where there is room: beside it in a header, else below."""
        room = QRectF(*cell.face).adjusted(_PAD, 1, -_PAD, -1)
        name, value = self.name_of(cell), self._unit.text(cell.joules)
        needed = metrics.horizontalAdvance(value)
        middle = Qt.AlignmentFlag.AlignVCenter
        if cell.inner is not None:
            if needed + 2 * _LEAST_TEXT < room.width():
                painter.drawText(room, middle | Qt.AlignmentFlag.AlignRight, value)
                room.setRight(room.right() - needed - 2 * _PAD)
            painter.drawText(room, middle, _elided(metrics, name, room.width()))
            return
        line = QRectF(room.left(), room.top(), room.width(), _LINE)
        painter.drawText(line, middle, _elided(metrics, name, room.width()))
        if room.height() >= 2 * _LINE and needed <= room.width():
            painter.drawText(line.translated(0, _LINE), middle, value)

    def name_of(self, cell: Cell) -> str:
        """Its path from the container around it."""
        if cell.kind == "rest":
            return self.tr("{count} more").format(count=len(cell.merged))
        around = self._cells[cell.parent].layer if cell.parent >= 0 else self._root
        if cell.layer == around:
            return self.tr("own work")
        return str(cell.layer)[len(around) + 1 if around else 0 :]

    def _draw_saved(self, painter: QPainter) -> None:
        """Say in the room that the base would fill what is no longer spent."""
        here, base = self.extent()
        if self._energy is None or base is None or base.width <= here.width:
            return
        palette = self._theme.palette
        painter.fillRect(QRectF(*base), QColor(palette.window))
        before = self._energy.base[self._root]
        now = self._energy.totals[self._root]
        text = self.tr("base {before}, now {now}: {change}").format(
            before=self._unit.text(before),
            now=self._unit.text(now),
            change=fmt.delta(before, now),
        )
        metrics = QFontMetricsF(painter.font())
        painter.setPen(QColor(palette.muted))
        below = QRectF(_PAD, here.bottom, base.width - 2 * _PAD, base.bottom - here.bottom)
        if below.height() >= _LINE:
            line = QRectF(below.left(), below.top(), below.width(), min(24.0, below.height()))
            middle = Qt.AlignmentFlag.AlignVCenter
            painter.drawText(line, middle, _elided(metrics, text, line.width()))

    def _outline_base(self, painter: QPainter) -> None:
        _, base = self.extent()
        if base is not None:
            painter.setPen(QPen(QColor(self._theme.palette.muted), 1, Qt.PenStyle.DashLine))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(QRectF(*base).adjusted(0.5, 0.5, -0.5, -0.5))

    def _draw_selected(self, painter: QPainter) -> None:
        if self._energy is None or not self._selection.layers:
            return
        # A container that wraps a single one has no frame of its own.
        chosen = {
            self._energy.inner(layer) if layer in self._energy.totals else layer
            for layer in self._selection.layers
        }
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(QColor(self._theme.palette.accent), 3))
        for cell in self._cells:
            if cell.layer in chosen and cell.kind != "rest":
                _outline(painter, cell.box, 2.0)

    def _draw_marks(self, painter: QPainter) -> None:
        """Outline selected layers, the cell below the mouse and that at the cursor."""
        self._draw_selected(painter)
        text = QColor(self._theme.palette.text)
        if self._hovered is not None:
            painter.setPen(QPen(text, 1.5))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            _outline(painter, self._hovered.box, 1.0)
        if self.hasFocus():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            if self._cursor is not None:
                painter.setPen(QPen(text, 2, Qt.PenStyle.DotLine))
                _outline(painter, self._cells[self._cursor].box, 1.5)
            painter.setPen(QPen(QColor(self._theme.palette.accent), 1))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))

    def _point_at(self, cell: Cell | None) -> None:
        if cell is not self._hovered:
            self._hovered = cell
            self.update()
            self.pointed.emit(cell)

    def _go_to(self, at: int) -> None:
        """Put the keyboard's cursor on that cell and read it out."""
        self._hovered = None
        self._cursor = at
        cell = self._cells[at]
        self.setAccessibleDescription(f"{self.name_of(cell)}, {self._unit.text(cell.joules)}")
        self.pointed.emit(cell)
        self.update()

    def _pick(self, cell: Cell, adds: bool) -> None:
        if cell.kind == "rest":
            self._selection.set(cell.merged, self)
        else:
            self._selection.pick(cell.layer, adds, self)

    def _on_selection(self, layers: tuple[LayerId, ...]) -> None:
        """Show the selected layer: whoever selected it wants to see it."""
        energy = self._energy
        if self._selection.origin is not self and len(layers) == 1 and energy is not None:
            seen = layers[0] == self._root or not self._root
            if not seen and not layers[0].startswith(f"{self._root}."):
                self.zoom_to(ROOT)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        if self._picture is None:
            self._picture = drawn(self, self._draw_all)
        painter.drawPixmap(0, 0, self._picture)
        self._draw_marks(painter)
        painter.end()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._lay_out()

    def sizeHint(self) -> QSize:
        return QSize(640, 320)

    def minimumSizeHint(self) -> QSize:
        return QSize(160, 80)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._point_at(self.cell_at(event.position()))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        cell = self.cell_at(event.position())
        if event.button() != Qt.MouseButton.LeftButton or cell is None:
            return
        self._cursor = self._cells.index(cell)
        self._pick(cell, bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier))

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        cell = self.cell_at(event.position())
        self.zoom_to(cell.layer) if cell is not None else self.zoom_out()

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._point_at(None)

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key, at = event.key(), self._cursor
        if key in (Qt.Key.Key_Escape, Qt.Key.Key_Backspace) and self._root != self._top():
            self.zoom_out()
        elif key == Qt.Key.Key_Home:
            self.zoom_to(ROOT)
        elif key in _SIDES and self._cells:
            self._go_to(neighbour(self._cells, at, _SIDES[key]) if at is not None else 0)
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and at is not None:
            self.zoom_to(self._cells[at].layer)
        elif key == Qt.Key.Key_Space and at is not None:
            self._pick(
                self._cells[at], bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
            )
        else:
            super().keyPressEvent(event)

    def _top(self) -> LayerId:
        return self._energy.inner(ROOT) if self._energy is not None else ROOT


def _inset(box: Box) -> QRectF:
    """The box without a pixel at its right and lower edge, which parts it from the next."""
    gap = 1.0 if min(box.width, box.height) > 3 else 0.0
    return QRectF(box.left, box.top, box.width - gap, box.height - gap)


def _outline(painter: QPainter, box: Box, inset: float) -> None:
    painter.drawRect(QRectF(*box).adjusted(inset, inset, -inset - 1, -inset - 1))


def _split(
    painter: QPainter, place: QRectF, values: tuple[float, ...], colors: list[QColor]
) -> None:
    """Fill a cell with its parts, one above the other, their areas in proportion."""
    total, bottom = sum(values), place.bottom()
    for value, color in zip(values, colors, strict=True):
        height = place.height() * value / total
        painter.fillRect(QRectF(place.left(), bottom - height, place.width(), height), color)
        bottom -= height


def _elided(metrics: QFontMetricsF, text: str, width: float) -> str:
    return metrics.elidedText(text, Qt.TextElideMode.ElideMiddle, width)


def _frame_color(raised: str, border: str, depth: int) -> QColor:
    """Every other container a little stronger, so that one in another is told apart."""
    return blend(QColor(raised), QColor(border), 0.5 if depth % 2 else 0.0)


def _text_over(colors: list[QColor]) -> QColor:
    """Black or white, whichever can be read over the worst of these colours."""
    choices = (QColor("#000000"), QColor("#ffffff"))
    return max(choices, key=lambda text: min(contrast(text, color) for color in colors))
