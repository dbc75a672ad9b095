"""Icons that follow the palette: drawn when shown, in the colours of that moment."""

from collections.abc import Callable
from functools import cache

from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtGui import QIcon, QIconEngine, QPainter, QPixmap

Colors = Callable[[], tuple[str, str]]  # normal and disabled, as #rrggbb


def themed_icon(name: str, colors: Colors) -> QIcon:
    """An icon of qtawesome, such as ``ph.scissors``, in whatever colours hold when it is drawn."""
    return QIcon(_ThemedEngine(name, colors))


@cache
def _plain_icon(name: str, color: str, disabled: str) -> QIcon:
    import qtawesome  # loads its fonts when first used; the window need not wait for that

    icon: QIcon = qtawesome.icon(name, color=color, color_disabled=disabled)
    return icon


class _ThemedEngine(QIconEngine):
    def __init__(self, name: str, colors: Colors) -> None:
        super().__init__()
        self._name = name
        self._colors = colors

    def paint(self, painter: QPainter, rect: QRect, mode: QIcon.Mode, state: QIcon.State) -> None:
        icon = _plain_icon(self._name, *self._colors())
        icon.paint(painter, rect, Qt.AlignmentFlag.AlignCenter, mode, state)

    def pixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State) -> QPixmap:
        pixmap = QPixmap(size)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        self.paint(painter, QRect(0, 0, size.width(), size.height()), mode, state)
        painter.end()
        return pixmap
