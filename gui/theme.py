"""Palettes and colour scales, light and dark, and what applies them to the application."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from string import Template
from typing import Literal

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QFont, QGuiApplication, QIcon, QPalette
from PySide6.QtWidgets import QApplication

from engine import resource
from gui.icons import themed_icon

Mode = Literal["light", "dark", "system"]


@dataclass(frozen=True)
class Palette:
    """The colours of one look, as ``#rrggbb``.

    Attributes:
        window, surface, raised: behind panels, behind data, and for what stands out of either.
        heat: stops of a perceptual colour map, from little to much.
        heat_tint: how much of the heat colour shows behind a number; text keeps its contrast.
        categories: parts of a measurement by their name in the engine.
    """

    name: str
    window: str
    surface: str
    raised: str
    border: str
    text: str
    muted: str
    accent: str
    accent_text: str
    selection: str
    better: str
    worse: str
    heat: tuple[str, ...]
    heat_tint: float
    categories: Mapping[str, str]


_CIVIDIS = (
    "#00204d", "#05366e", "#404d6b", "#60646f", "#7c7b78", "#9b9477", "#bcaf6f", "#e0cb5d",
    "#ffea46",
)  # fmt: skip

LIGHT = Palette(
    name="light",
    window="#f2f3f5",
    surface="#ffffff",
    raised="#e6e8eb",
    border="#cfd3d8",
    text="#1b1e21",
    muted="#59626b",
    accent="#0b726d",
    accent_text="#ffffff",
    selection="#cbe6e4",
    better="#00614a",
    worse="#a13c00",
    heat=_CIVIDIS[::-1],  # more is darker on white, and brighter on black
    heat_tint=0.42,
    categories={
        "compute": "#0072b2",
        "weights": "#cc79a7",
        "input": "#56b4e9",
        "output": "#d55e00",
        "DRAM": "#009e73",
        "buffer": "#e69f00",
        "array": "#d55e00",
        "registers": "#cc79a7",
        "": "#0072b2",
        "convolution": "#0072b2",
        "matrix product": "#e69f00",
        "normalisation": "#009e73",
        "elementwise": "#56b4e9",
        "reduction": "#cc79a7",
        "data movement": "#d55e00",
        "memory-bound": "#d55e00",
        "compute-bound": "#0072b2",
        "values": "#56b4e9",
        "clipped": "#d55e00",
        "held-out accuracy": "#0072b2",
        "training loss": "#d55e00",
    },
)
DARK = Palette(
    name="dark",
    window="#1c1e21",
    surface="#232629",
    raised="#30343a",
    border="#3e444b",
    text="#e6e8ea",
    muted="#a3abb3",
    accent="#35b5a9",
    accent_text="#04211e",
    selection="#1a4341",
    better="#5fcfae",
    worse="#f39a62",
    heat=_CIVIDIS[2:],  # its darkest would not show on the surface
    heat_tint=0.30,
    categories={
        "compute": "#56b4e9",
        "weights": "#cc79a7",
        "input": "#0072b2",
        "output": "#d55e00",
        "DRAM": "#009e73",
        "buffer": "#e69f00",
        "array": "#d55e00",
        "registers": "#cc79a7",
        "": "#56b4e9",
        "convolution": "#0072b2",
        "matrix product": "#e69f00",
        "normalisation": "#009e73",
        "elementwise": "#56b4e9",
        "reduction": "#cc79a7",
        "data movement": "#d55e00",
        "memory-bound": "#e69f00",
        "compute-bound": "#56b4e9",
        "values": "#56b4e9",
        "clipped": "#e69f00",
        "held-out accuracy": "#56b4e9",
        "training loss": "#e69f00",
    },
)


class Theme(QObject):
    """The look of the application: a palette, a style sheet and icons that follow both."""

    changed = Signal()

    def __init__(self, app: QApplication, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._app = app
        self._mode: Mode = "system"
        self._palette: Palette | None = None
        app.setStyle("Fusion")
        self._apply()
        QGuiApplication.styleHints().colorSchemeChanged.connect(self._apply)

    @property
    def palette(self) -> Palette:
        """The colours in use."""
        return self._palette or LIGHT

    @property
    def mode(self) -> Mode:
        """What the user chose: light, dark, or as the system is."""
        return self._mode

    def set_mode(self, mode: Mode) -> None:
        """Change the look of the whole application."""
        self._mode = mode
        hints = QGuiApplication.styleHints()
        if mode == "system":
            hints.unsetColorScheme()
        else:  # so that the window's frame follows
            dark = mode == "dark"
            hints.setColorScheme(Qt.ColorScheme.Dark if dark else Qt.ColorScheme.Light)
        self._apply()

    def icon(self, name: str) -> QIcon:
        """An icon such as ``ph.scissors`` that follows the palette."""
        return themed_icon(name, lambda: (self.palette.text, self.palette.muted))

    def warning_icon(self) -> QIcon:
        """The mark of a warning, in the colour of what is worse."""
        return themed_icon("ph.warning", lambda: (self.palette.worse, self.palette.muted))

    def color(self, part: str) -> QColor:
        """Colour of a part of a measurement, such as ``DRAM``; grey for one nobody foresaw."""
        return QColor(self.palette.categories.get(part, self.palette.muted))

    def text_on(self, background: QColor) -> QColor:
        """Black or white, whichever can be read better over that colour."""
        choices = (QColor("#000000"), QColor("#ffffff"))
        return max(choices, key=lambda text: contrast(text, background))

    def heat_color(self, fraction: float) -> QColor:
        """Colour of the map at a fraction from 0 to 1."""
        stops = self.palette.heat
        place = min(max(fraction, 0.0), 1.0) * (len(stops) - 1)
        below = min(int(place), len(stops) - 2)
        return blend(QColor(stops[below]), QColor(stops[below + 1]), place - below)

    def heat_tint(self, fraction: float) -> QColor:
        """The heat colour as faint as text over it needs."""
        return blend(
            QColor(self.palette.surface), self.heat_color(fraction), self.palette.heat_tint
        )

    def _apply(self) -> None:
        dark = self._mode == "dark" or (self._mode == "system" and _system_is_dark())
        palette = DARK if dark else LIGHT
        if palette is self._palette:
            return
        self._palette = palette
        self._app.setPalette(qt_palette(palette))
        self._app.setStyleSheet(style_sheet(palette))
        self.changed.emit()


def _system_is_dark() -> bool:
    return QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Dark


def style_sheet(palette: Palette) -> str:
    """The application's style sheet in these colours."""
    template = Template(resource("styles/secateur.qss").read_text(encoding="utf-8"))
    colors = {one.name: getattr(palette, one.name) for one in fields(palette)}
    return template.substitute(colors)


def qt_palette(palette: Palette) -> QPalette:
    """The colours in the roles that Qt's own widgets use."""
    role = QPalette.ColorRole
    roles = {
        role.Window: palette.window,
        role.WindowText: palette.text,
        role.Base: palette.surface,
        role.AlternateBase: palette.window,
        role.Text: palette.text,
        role.Button: palette.window,
        role.ButtonText: palette.text,
        role.BrightText: palette.accent_text,
        role.ToolTipBase: palette.raised,
        role.ToolTipText: palette.text,
        role.PlaceholderText: palette.muted,
        role.Highlight: palette.selection,
        role.HighlightedText: palette.text,
        role.Accent: palette.accent,
        role.Link: palette.accent,
        role.LinkVisited: palette.accent,
    }
    result = QPalette(QColor(palette.window))  # shades that Fusion draws edges with
    for one, color in roles.items():
        result.setColor(one, QColor(color))
    for one in (role.WindowText, role.Text, role.ButtonText, role.HighlightedText):
        faint = blend(QColor(palette.window), QColor(palette.muted), 0.7)
        result.setColor(QPalette.ColorGroup.Disabled, one, faint)
    return result


def blend(below: QColor, above: QColor, share: float) -> QColor:
    """``above`` laid over ``below`` with that opacity."""
    pairs = zip(_channels(below), _channels(above), strict=True)
    red, green, blue = (one + (two - one) * share for one, two in pairs)
    return QColor.fromRgbF(red, green, blue)


def _channels(color: QColor) -> tuple[float, float, float]:
    return color.redF(), color.greenF(), color.blueF()


def luminance(color: QColor) -> float:
    """Relative luminance as WCAG 2 defines it."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in _channels(color)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: QColor, two: QColor) -> float:
    """Contrast ratio as WCAG 2 defines it, 1 to 21."""
    dark, bright = sorted((luminance(one), luminance(two)))
    return (bright + 0.05) / (dark + 0.05)


def scaled(font: QFont, factor: float, *, bold: bool = False) -> QFont:
    """The font at another size, with digits of one width."""
    result = tabular(font)
    if font.pointSizeF() > 0:
        result.setPointSizeF(font.pointSizeF() * factor)
    else:
        result.setPixelSize(round(font.pixelSize() * factor))
    if bold:
        result.setWeight(QFont.Weight.DemiBold)
    return result


def tabular(font: QFont) -> QFont:
    """The font with digits of one width, so that columns of numbers line up."""
    result = QFont(font)
    if hasattr(result, "setFeature"):  # Qt 6.7
        result.setFeature(QFont.Tag("tnum"), 1)
    return result
