"""Short ways to make the widgets that every panel needs."""

from typing import Any, TypeVar, cast

from PySide6.QtCore import QModelIndex, QObject, QPersistentModelIndex, Qt
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QApplication,
    QBoxLayout,
    QHBoxLayout,
    QLabel,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

Named = TypeVar("Named", bound=QObject)


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
