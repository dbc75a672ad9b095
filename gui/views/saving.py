"""Writes a file where the user says, whole or not at all."""

from collections.abc import Callable

from PySide6.QtCore import QCoreApplication, QIODevice, QSaveFile, Qt
from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget


def ask_and_write(
    parent: QWidget, title: str, kind: str, suffix: str, content: Callable[[], bytes]
) -> None:
    """Ask for a file and write the content, which is made only then.

    Args:
        kind: of files to list, such as ``PNG (*.png)``.
    """
    dialog = QFileDialog(parent, title, "", kind)
    dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
    dialog.setDefaultSuffix(suffix)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.fileSelected.connect(lambda path: write(parent, path, content()))
    dialog.open()


def write(parent: QWidget, path: str, data: bytes) -> None:
    """Write a file, and say so if that fails."""
    file = QSaveFile(path)
    written = (
        file.open(QIODevice.OpenModeFlag.WriteOnly)
        and file.write(data) == len(data)
        and file.commit()
    )
    if not written:
        _report(parent, path, file.errorString())


def _report(parent: QWidget, path: str, reason: str) -> None:
    box = QMessageBox(parent)
    box.setObjectName("saveFailed")
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setIcon(QMessageBox.Icon.Warning)
    box.setText(_tr("The file could not be written."))
    box.setInformativeText(f"{path}\n{reason}\n{_tr('Choose another folder.')}")
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.open()


def _tr(text: str) -> str:
    return QCoreApplication.translate("Saving", text)
