"""Short ways to make the widgets that every panel needs."""

import re
from typing import Any, TypeVar, cast

from PySide6.QtCore import QModelIndex, QObject, QPersistentModelIndex, Qt
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QApplication,
    QBoxLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from gui import format as fmt

Named = TypeVar("Named", bound=QObject)

_MOST_TEXT, _MOST_LINES = 1_200, 12
_LONG_WORD = re.compile(r"\S{48,}")


def named(thing: Named, name: str) -> Named:
    """Give it the name by which the style sheet and the tests find it."""
    thing.setObjectName(name)
    return thing


def plain_label(text: str = "", name: str = "", role: str = "") -> QLabel:
    """A label that shows its text as it is: Qt takes names from files for rich text otherwise.

    Args:
        role: what the style sheet colours it by, such as ``muted``.
    """
    label = named(QLabel(text), name)
    label.setTextFormat(Qt.TextFormat.PlainText)
    if role:
        label.setProperty("role", role)
    return label


def wrapped_label(text: str = "", name: str = "", role: str = "", width: int = 420) -> QLabel:
    """A plain label of several lines that can be copied from, however long a name in it is."""
    label = plain_label(breakable(text), name, role)
    label.setWordWrap(True)
    label.setMinimumWidth(width)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
    return label


def breakable(text: str) -> str:
    """The text, fit to be read, with places to break a line in words that would not fit one.

    Of very long texts the beginning and the end remain.
    """
    lines = text.splitlines()
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES // 2], "…", *lines[-_MOST_LINES // 2 :]]
    room = _MOST_TEXT // max(1, len(lines))
    shown = "\n".join(fmt.visible(line, room) for line in lines)
    return _LONG_WORD.sub(lambda word: "\u200b".join(word[0]), shown)


def column(parent: QWidget | None = None, spacing: int = 8) -> QVBoxLayout:
    """A vertical layout; within a widget it comes without margins."""
    return _spaced(QVBoxLayout(parent) if parent is not None else QVBoxLayout(), spacing)


def row(parent: QWidget | None = None, spacing: int = 8) -> QHBoxLayout:
    """A horizontal layout; within a widget it comes without margins."""
    return _spaced(QHBoxLayout(parent) if parent is not None else QHBoxLayout(), spacing)


Layout = TypeVar("Layout", bound=QBoxLayout)


def _spaced(layout: Layout, spacing: int) -> Layout:
    layout.setSpacing(spacing)
    layout.setContentsMargins(0, 0, 0, 0)
    return layout


def draw_empty_cell(
    delegate: QStyledItemDelegate,
    painter: QPainter,
    option: QStyleOptionViewItem,
    index: QModelIndex | QPersistentModelIndex,
) -> Any:
    """Draw a cell's background, selection and focus, and return its option with every field."""
    cell = QStyleOptionViewItem(option)
    delegate.initStyleOption(cell, index)
    place = cast(Any, cell)  # the stubs leave out the option's fields
    place.text = ""
    style = place.widget.style() if place.widget else QApplication.style()
    style.drawControl(QStyle.ControlElement.CE_ItemViewItem, cell, painter, place.widget)
    return place
