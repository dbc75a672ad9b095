"""What the Help menu shows."""

from collections.abc import Iterable
from typing import Final

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtGui import QAction, QKeySequence, QTextTable
from PySide6.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QGridLayout,
    QMessageBox,
    QTextBrowser,
    QWidget,
)

from engine import resource
from gui.actions import plain_text
from gui.errors import version
from gui.widgets import column, named, plain_label

_PAGE_SIZE: Final = (880, 680)
_CELL_PADDING: Final = 4


def show_about(parent: QWidget) -> None:
    """Say what Secateur is and in which version."""
    box = named(QMessageBox(parent), "about")
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setWindowTitle(_tr("About Secateur"))
    box.setText(f"Secateur {version()}".rstrip())
    box.setInformativeText(
        _tr(
            "A workbench for cutting a neural network to an energy, latency and memory budget.\n\n"
            "Nothing leaves this machine. Licensed under Apache-2.0."
        )
    )
    box.open()


def show_shortcuts(parent: QWidget, actions: Iterable[QAction]) -> None:
    """List the keys of every action that has some."""
    dialog = named(QDialog(parent), "shortcuts")
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.setWindowTitle(_tr("Keyboard shortcuts"))
    layout = column(dialog, spacing=16)
    layout.setContentsMargins(24, 24, 24, 16)
    grid = QGridLayout()
    grid.setHorizontalSpacing(32)
    grid.setVerticalSpacing(8)
    for action in actions:
        if action.shortcuts():
            line = grid.rowCount()
            grid.addWidget(plain_label(plain_text(action).rstrip("…")), line, 0)
            grid.addWidget(plain_label(_keys(action), role="muted"), line, 1)
    layout.addLayout(grid)
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close, dialog)
    buttons.rejected.connect(dialog.reject)
    layout.addWidget(buttons)
    dialog.open()


def show_formats(parent: QWidget) -> None:
    """Show the page that says what each format can do."""
    _show_page(parent, "formats", _tr("File formats"))


def show_energy(parent: QWidget) -> None:
    """Show the page that says what modelled and measured energy are, and how they are had."""
    _show_page(parent, "energy", _tr("Energy"))


def show_pruning(parent: QWidget) -> None:
    """Show the page on pruning and recovery, and below it what is prunable in which model."""
    _show_page(parent, "pruning", _tr("Pruning and recovery"), "pruning_table")


def show_sensitivity(parent: QWidget) -> None:
    """Show the page on the map of what each layer can bear."""
    _show_page(parent, "sensitivity", _tr("Sensitivity"))


def show_quantization(parent: QWidget) -> None:
    """Show the page on integers, 16-bit floats, calibration and repair."""
    _show_page(parent, "quantization", _tr("Quantization"))


def _show_page(parent: QWidget, name: str, title: str, *more: str) -> None:
    """Show the page of that name among the resources, and ``more`` of them below it."""
    dialog = named(QDialog(parent), name)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.setWindowTitle(title)
    dialog.resize(*_PAGE_SIZE)
    page = named(QTextBrowser(dialog), f"{name}_page")
    texts = (resource(f"help/{one}.md").read_text(encoding="utf-8") for one in (name, *more))
    page.setMarkdown("\n\n".join(texts))
    _quieten_tables(page)
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close, dialog)
    buttons.rejected.connect(dialog.reject)
    layout = column(dialog, spacing=16)
    layout.setContentsMargins(16, 16, 16, 16)
    layout.addWidget(page)
    layout.addWidget(buttons)
    dialog.open()


def _quieten_tables(page: QTextBrowser) -> None:
    """Draw the lines of tables fainter than their text."""
    for frame in page.document().rootFrame().childFrames():
        if isinstance(frame, QTextTable):
            quiet = frame.format()
            quiet.setBorderBrush(page.palette().mid())
            quiet.setCellPadding(_CELL_PADDING)
            frame.setFormat(quiet)


def _keys(action: QAction) -> str:
    native = QKeySequence.SequenceFormat.NativeText
    return ", ".join(keys.toString(native) for keys in action.shortcuts())


def _tr(text: str) -> str:
    return QCoreApplication.translate("Help", text)
