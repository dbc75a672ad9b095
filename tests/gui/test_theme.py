"""The palettes: contrast as WCAG 2 counts it, and a theme that reaches everything."""

from collections.abc import Callable
from dataclasses import fields

import pytest
from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from engine import GROUPINGS
from engine.energy.estimates import PARTS
from gui.theme import DARK, LIGHT, Palette, Theme, blend, contrast, style_sheet

AA = 4.5
GRAPHICS = 3.0
BACKGROUNDS = ("window", "surface", "raised", "selection")
palettes = pytest.mark.parametrize("palette", [LIGHT, DARK], ids=lambda palette: palette.name)


def _contrast(palette: Palette, text: str, background: str) -> float:
    return contrast(QColor(getattr(palette, text)), QColor(getattr(palette, background)))


@palettes
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("text", ["text", "muted", "better", "worse"])
def test_text_can_be_read(palette: Palette, text: str, background: str) -> None:
    assert _contrast(palette, text, background) >= AA


@palettes
def test_the_primary_button_can_be_read(palette: Palette) -> None:
    assert _contrast(palette, "accent_text", "accent") >= AA
    assert _contrast(palette, "accent", "surface") >= GRAPHICS


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_numbers_can_be_read_over_any_heat(theme: Theme, mode: str) -> None:
    theme.set_mode(mode)  # type: ignore[arg-type]
    text = QColor(theme.palette.text)
    assert all(contrast(text, theme.heat_tint(step / 50)) >= AA for step in range(51))


@palettes
@pytest.mark.parametrize("group_of", GROUPINGS.values(), ids=list(GROUPINGS))
def test_parts_of_the_energy_are_told_apart(
    palette: Palette, group_of: Callable[[str], str]
) -> None:
    groups = {group_of(part) for part in PARTS}
    shown = [palette.categories[group] for group in groups]
    assert len(set(shown)) == len(groups) >= 4
    assert all(contrast(QColor(color), QColor(palette.surface)) > 2 for color in shown)


@palettes
def test_the_style_sheet_leaves_no_placeholder(palette: Palette) -> None:
    assert "$" not in style_sheet(palette)


@palettes
def test_every_colour_is_one(palette: Palette) -> None:
    colors = [getattr(palette, one.name) for one in fields(palette) if one.type == "str"]
    assert all(QColor(color).isValid() for color in [*palette.heat, *palette.categories.values()])
    assert all(QColor(color).isValid() for color in colors if color != palette.name)


def test_blend_goes_from_one_to_the_other() -> None:
    black, white = QColor("#000000"), QColor("#ffffff")
    assert blend(black, white, 0.0) == black
    assert blend(black, white, 1.0) == white


def test_mode_changes_the_application(qtbot: QtBot, qapp: QApplication, theme: Theme) -> None:
    with qtbot.waitSignal(theme.changed):
        theme.set_mode("dark")
    assert theme.palette is DARK
    assert qapp.palette().color(QPalette.ColorRole.Base) == QColor(DARK.surface)
    assert DARK.surface in qapp.styleSheet()
    with qtbot.assertNotEmitted(theme.changed):
        theme.set_mode("dark")


def test_system_is_light_where_nobody_knows(theme: Theme) -> None:
    theme.set_mode("system")
    assert theme.mode == "system"
    assert theme.palette is LIGHT


def test_icons_follow_the_palette(theme: Theme) -> None:
    icon = theme.icon("ph.scissors")
    light = icon.pixmap(32, 32).toImage()
    theme.set_mode("dark")
    dark = icon.pixmap(32, 32).toImage()
    assert not light.isNull()
    assert light != dark
