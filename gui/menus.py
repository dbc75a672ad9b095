"""Menus and toolbar, built out of the table of actions."""

from collections.abc import Iterable
from functools import partial

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QMenuBar, QSizePolicy, QToolBar, QToolButton, QWidget

from gui import format as fmt
from gui import operations
from gui.actions import Actions, translate
from gui.document import Document, source_name
from gui.settings import Settings
from gui.widgets import named

_ICON = 18
_NAME_LENGTH = 64


class Menus:
    """The menus of a menu bar, with the actions of the table in them."""

    def __init__(self, bar: QMenuBar, actions: Actions, recent: "RecentMenu") -> None:
        self._bar = bar
        self._actions = actions
        self._menus: dict[str, QMenu] = {}
        last_group: dict[str, int] = {}
        for spec, action in actions:
            menu = self._menu(spec.menu)
            if last_group.get(spec.menu, spec.group) != spec.group:
                menu.addSeparator()
            last_group[spec.menu] = spec.group
            menu.addAction(action)
            if spec.id == "open_file":
                menu.addMenu(recent)

    def insert_toggles(self, toggles: Iterable[QAction]) -> None:
        """Put what shows and hides the panels on top of the View menu."""
        view, first = self._menus["&View"], self._actions["reset_layout"]
        view.insertActions(first, list(toggles))
        view.insertSeparator(first)

    def _menu(self, path: str) -> QMenu:
        """The menu with that title, made when first asked for; ``A/B`` is B within A."""
        if path not in self._menus:
            above, _, title = path.rpartition("/")
            parent = self._menu(above) if above else self._bar
            menu = named(parent.addMenu(translate(title)), _name(title))
            menu.setToolTipsVisible(True)
            self._menus[path] = menu
        return self._menus[path]


class RecentMenu(QMenu):
    """Opens one of the models that were opened before."""

    def __init__(self, document: Document, settings: Settings, parent: QWidget) -> None:
        super().__init__(parent)
        self.setTitle(self.tr("Open &recent"))
        self.setObjectName("menu_recent")
        self.setToolTipsVisible(True)
        self._document = document
        self._settings = settings
        settings.changed.connect(self._list)
        self._list()

    def _list(self) -> None:
        self.clear()
        for source in self._settings.recent:
            name = fmt.visible(source_name(source), _NAME_LENGTH)
            action = self.addAction(name.replace("&", "&&"))
            action.setToolTip(fmt.tooltip(source))
            action.triggered.connect(partial(self._open, source))
        self.setEnabled(not self.isEmpty())
        if self.isEnabled():
            self.addSeparator()
            self.addAction(self.tr("&Clear this list")).triggered.connect(
                self._settings.clear_recent
            )

    def _open(self, source: str, _: bool = False) -> None:
        operations.open_model(self._document, source)


def build_toolbar(actions: Actions, parent: QWidget) -> QToolBar:
    """One slim row: the commonest actions, and at the right the way to all others."""
    bar = named(QToolBar(parent), "toolbar")
    bar.setWindowTitle(bar.tr("Toolbar"))
    bar.setMovable(False)
    bar.setIconSize(QSize(_ICON, _ICON))
    bar.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
    bar.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
    for spec, action in actions:
        if spec.short:
            bar.addAction(action)
    gap = QWidget(bar)
    gap.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
    bar.addWidget(gap)
    bar.addWidget(_search_button(actions["command_palette"], bar))
    return bar


def _search_button(action: QAction, bar: QToolBar) -> QToolButton:
    button = named(QToolButton(bar), "search_button")
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
    button.setIcon(action.icon())
    button.setIconSize(bar.iconSize())
    button.setText(f"{bar.tr('Search or command…')}      {action.shortcut().toString()}")
    button.setToolTip(action.toolTip())
    button.clicked.connect(action.trigger)
    return button


def _name(title: str) -> str:
    return f"menu_{title.replace('&', '').lower()}"
