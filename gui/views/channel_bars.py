"""Channels as bars of their importance, to be marked by mouse or keyboard."""

from collections.abc import Iterable, Sequence

from PySide6.QtCore import QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFocusEvent,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QScrollArea, QSizePolicy, QToolTip, QWidget

from gui import format as fmt
from gui.theme import Theme
from gui.widgets import named

_HEIGHT = 54
_LEAST_STEP, _MOST_STEP = 5.0, 28.0  # pixels from one bar to the next
_GAP = 0.22  # share of the step that is left free
_FLOOR = 3  # pixels that a bar has at least, so that it can be seen and hit
_FOOT = 4  # pixels below the bars, for the line under what goes


class ChannelBars(QWidget):
    """One bar a channel; those that go are hollow and underlined.

    Channels of the same unit go together: marking one marks them all.

    Signals:
        marked: the channels that go, as the hand has it now.
        pointed: the keyboard is at the bar at that place, in pixels from the left.
    """

    marked = Signal(object)
    pointed = Signal(int)

    def __init__(self, theme: Theme, noun: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("channelBars")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setFixedHeight(_HEIGHT)
        self._theme = theme
        self.noun = noun  # such as "Channel", with which one is named
        self._scores: tuple[float, ...] = ()
        self._units: tuple[int, ...] = ()
        self._known = False  # whether the heights are scores
        self._order: list[int] = []  # channel by place
        self._gone: frozenset[int] = frozenset()
        self._at = 0  # place of the keyboard
        self._anchor = 0
        self._marks = True  # what dragging does
        theme.changed.connect(self.update)

    @property
    def count(self) -> int:
        """How many channels there are."""
        return len(self._units)

    @property
    def order(self) -> tuple[int, ...]:
        """The channels from left to right."""
        return tuple(self._order)

    @property
    def gone(self) -> frozenset[int]:
        """The channels that go."""
        return self._gone

    def show_scores(
        self, units: Sequence[int], scores: Sequence[float] | None, ranked: bool
    ) -> None:
        """Draw these channels, with their scores if those are known, the least first or not."""
        self._units = tuple(units)
        self._known = scores is not None
        self._scores = tuple(scores) if scores is not None else (1.0,) * len(units)
        places = range(len(units))
        by_score = sorted(places, key=lambda channel: self._scores[channel])
        self._order = by_score if ranked and self._known else list(places)
        self._at = min(self._at, max(0, len(units) - 1))
        self._anchor = self._at
        self.setMinimumWidth(round(len(units) * _LEAST_STEP))
        self.updateGeometry()
        self._tell()

    def show_gone(self, gone: Iterable[int]) -> None:
        """Draw these as going."""
        self._gone = frozenset(gone)
        self._tell()

    def text_of(self, channel: int) -> str:
        """What is known of a channel, in words."""
        parts = [f"{self.noun} {channel}"]
        if self._known:
            rank = sum(score > self._scores[channel] for score in self._scores) + 1
            text = self.tr("importance {score}, rank {rank} of {count}")
            score = f"{self._scores[channel]:.3g}"
            parts.append(text.format(score=score, rank=rank, count=self.count))
        together = sum(unit == self._units[channel] for unit in self._units)
        if self._units[channel] < 0:
            parts.append(self.tr("cannot go"))
        elif together > 1:
            parts.append(self.tr("goes with %s others") % (together - 1))
        if channel in self._gone:
            parts.append(self.tr("goes"))
        return " · ".join(parts)

    def place_at(self, x: float) -> int:
        """Place of the bar at that distance from the left, -1 for none."""
        place = int(x / self._step) if x >= 0 else -1
        return place if place < self.count else -1

    def center_of(self, place: int) -> int:
        """Distance of a bar's middle from the left."""
        return round((place + 0.5) * self._step)

    @property
    def _step(self) -> float:
        return min(_MOST_STEP, max(_LEAST_STEP, self.width() / max(1, self.count)))

    def _mark(self, first: int, last: int, goes: bool) -> None:
        """Let the channels from one place to another go or stay, with whatever goes with them."""
        low, high = sorted((first, last))
        units = {self._units[self._order[place]] for place in range(low, high + 1)} - {-1}
        meant = {channel for channel, unit in enumerate(self._units) if unit in units}
        gone = self._gone | meant if goes else self._gone - meant
        if gone != self._gone:
            self.show_gone(gone)
            self.marked.emit(gone)

    def _tell(self) -> None:
        """Draw anew, and say to whoever cannot see it what is at the keyboard's place."""
        total = self.tr("%s, %s of them go") % (self.count, len(self._gone))
        here = self.text_of(self._order[self._at]) if self._order else ""
        self.setAccessibleName(f"{self.noun}: {total}")
        self.setAccessibleDescription(here)
        self.update()

    def _move(self, place: int, extends: bool) -> None:
        place = min(max(0, place), self.count - 1)
        if extends:
            self._mark(self._at, place, self._order[self._at] in self._gone)
        else:
            self._anchor = place
        self._at = place
        self._tell()
        self.pointed.emit(self.center_of(place))

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            place = self.place_at(event.pos().x())
            text = self.text_of(self._order[place]) if place >= 0 else ""
            QToolTip.showText(event.globalPos(), fmt.tooltip(text), self)
            return True
        return super().event(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        place = self.place_at(event.position().x())
        if event.button() != Qt.MouseButton.LeftButton or place < 0:
            return
        if event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self._mark(self._anchor, place, self._marks)
        else:
            self._marks = self._order[place] not in self._gone
            self._anchor = place
            self._mark(place, place, self._marks)
        self._at = place
        self._tell()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            place = self.place_at(min(max(0.0, event.position().x()), self.width() - 1.0))
            if place >= 0 and place != self._at:
                self._mark(self._at, place, self._marks)
                self._at = place
                self.pointed.emit(self.center_of(place))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows move, with Shift they mark as the bar they start from; Space marks."""
        steps = {
            Qt.Key.Key_Right: self._at + 1,
            Qt.Key.Key_Left: self._at - 1,
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: self.count - 1,
        }
        key = Qt.Key(event.key())
        if key in steps and self.count:
            extends = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
            self._move(steps[key], extends)
        elif key == Qt.Key.Key_Space and self.count:
            self._marks = self._order[self._at] not in self._gone
            self._anchor = self._at
            self._mark(self._at, self._at, self._marks)
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        step, shown = self._step, event.rect()
        most = max(self._scores, default=0.0) or 1.0
        room = self.height() - _FOOT - 2
        first = max(0, int(shown.left() / step))
        last = min(self.count, int(shown.right() / step) + 1)
        for place in range(first, last):
            channel = self._order[place]
            high = max(_FLOOR, self._scores[channel] / most * room)
            left = place * step + step * _GAP / 2
            bar = QRectF(left, room + 1 - high, step * (1 - _GAP), high)
            self._draw_bar(painter, bar, channel, place)
        painter.end()

    def _draw_bar(self, painter: QPainter, bar: QRectF, channel: int, place: int) -> None:
        palette = self._theme.palette
        kept = self._theme.color("") if self._known else QColor(palette.muted)
        kept.setAlphaF(1.0 if self.isEnabled() else 0.4)
        if channel in self._gone:
            worse = QColor(palette.worse)
            foot = QRectF(bar.left(), self.height() - _FOOT + 1, bar.width(), 2)
            painter.fillRect(foot, worse)
            worse.setAlphaF(0.25)
            painter.fillRect(bar, worse)
        elif self._units[channel] < 0:
            painter.fillRect(bar, QColor(palette.border))
        else:
            painter.fillRect(bar, kept)
        if self.hasFocus() and place == self._at:
            painter.setPen(QPen(QColor(palette.text), 1))
            column = QRectF(bar.left() - 1, 0.5, bar.width() + 1, self.height() - 1.5)
            painter.drawRect(column)

    def minimumSizeHint(self) -> QSize:
        return QSize(round(self.count * _LEAST_STEP), _HEIGHT)


class ChannelScroll(QScrollArea):
    """The bars in whatever width there is; more than fit scroll."""

    def __init__(self, bars: ChannelBars, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        named(self, "channelScroll")
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setWidgetResizable(True)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._bars = bars
        self.setWidget(bars)
        bars.pointed.connect(self._show_place)

    def _show_place(self, x: int) -> None:
        self.ensureVisible(x, 0, 3 * round(_MOST_STEP), 0)

    def sizeHint(self) -> QSize:
        bar = self.horizontalScrollBar().sizeHint().height()
        scrolls = self._bars.minimumWidth() > self.viewport().width()
        return QSize(200, _HEIGHT + (bar if scrolls else 0))

    def minimumSizeHint(self) -> QSize:
        return QSize(0, self.sizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.updateGeometry()
