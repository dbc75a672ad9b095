"""Asks for a file to read or to write, then calls the operation."""

from collections.abc import Callable
from functools import partial
from typing import Final

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication, Qt
from PySide6.QtWidgets import QFileDialog, QWidget

from engine import SensitivityFormat, SensitivityMap
from gui import operations
from gui.dialogs.factory import PYTHON_SUFFIX, FactoryDialog
from gui.document import Document


def _kind(text: str) -> str:
    return str(QT_TRANSLATE_NOOP("Dialogs", text))


_CHECKPOINTS: Final = _kind("Secateur checkpoints (*.safetensors)")
_PROGRAMS: Final = _kind("Exported programs (*.pt2)")
_ONNX: Final = _kind("ONNX (*.onnx)")
_RECIPES: Final = _kind("Secateur recipes (*.json)")
_DESCRIPTIONS: Final = _kind("Network descriptions (*.txt)")
_MAPS: Final = _kind("Maps of sensitivity (*.sensitivity.json *.json)")
_TABLES: Final = _kind("Distiller's maps (*.csv)")
_EVERYTHING: Final = _kind("All files (*)")
_MODELS: Final = (
    _kind(
        "All models (*.safetensors *.pt *.pth *.bin *.ckpt *.pt2 *.onnx *.npz *.index.json *.py "
        "*.txt)"
    ),
    _kind("Safetensors (*.safetensors)"),
    _kind("PyTorch checkpoints (*.pt *.pth *.bin *.ckpt)"),
    _PROGRAMS,
    _ONNX,
    _kind("NumPy and Chainer snapshots (*.npz)"),
    _kind("Checkpoints in several files (*.index.json)"),
    _kind("Python files (*.py)"),
    _DESCRIPTIONS,
)


def ask_file(document: Document, parent: QWidget) -> None:
    """Ask for a file of any kind, then open it."""
    dialog = _file_dialog(parent, _tr("Open"), *_MODELS)
    _then(dialog, partial(open_path, document, parent))


def ask_factory(document: Document, parent: QWidget, where: str = "") -> None:
    """Ask for a Python function that makes a model, then open what it makes."""
    dialog = FactoryDialog(_tr("Open Python factory"), _tr("Open"), parent, where)
    dialog.chosen.connect(partial(operations.open_model, document))
    dialog.open()


def open_path(document: Document, parent: QWidget, path: str) -> None:
    """Do what a file is for; of a Python file ask which function makes the model."""
    if path.lower().endswith(PYTHON_SUFFIX):
        ask_factory(document, parent, path)
    else:
        operations.open_dropped(document, path)


def ask_recipe(document: Document, parent: QWidget) -> None:
    """Ask for a recipe, then apply it."""
    dialog = _file_dialog(parent, _tr("Apply recipe"), _RECIPES)
    _then(dialog, partial(operations.apply_recipe, document))


def ask_export_checkpoint(document: Document, parent: QWidget) -> None:
    """Ask where the checkpoint shall go, then export."""
    title = _tr("Export checkpoint")
    dialog = _save_dialog(document, parent, title, _CHECKPOINTS, operations.CHECKPOINT_SUFFIX)
    _then(dialog, partial(operations.export_checkpoint, document))


def ask_export_program(document: Document, parent: QWidget) -> None:
    """Ask where the program shall go, then export."""
    title = _tr("Export program")
    dialog = _save_dialog(document, parent, title, _PROGRAMS, operations.PROGRAM_SUFFIX)
    _then(dialog, partial(operations.export_program, document))


def ask_export_onnx(document: Document, parent: QWidget) -> None:
    """Ask where the ONNX file shall go, then export."""
    title = _tr("Export ONNX")
    dialog = _save_dialog(document, parent, title, _ONNX, operations.ONNX_SUFFIX)
    _then(dialog, partial(operations.export_onnx, document))


def ask_save_recipe(document: Document, parent: QWidget) -> None:
    """Ask where the recipe shall go, then save it."""
    title = _tr("Save recipe")
    dialog = _save_dialog(document, parent, title, _RECIPES, operations.RECIPE_SUFFIX)
    _then(dialog, partial(operations.save_recipe, document))


def ask_save_description(document: Document, parent: QWidget) -> None:
    """Ask where the network description shall go, then save it."""
    title = _tr("Save network description")
    dialog = _save_dialog(document, parent, title, _DESCRIPTIONS, operations.DESCRIPTION_SUFFIX)
    _then(dialog, partial(operations.save_description, document))


def ask_map(document: Document, parent: QWidget) -> None:
    """Ask for a file with a map of sensitivity, then show it."""
    dialog = _file_dialog(parent, _tr("Open map of sensitivity"), _MAPS, _TABLES)
    _then(dialog, partial(operations.open_map, document))


def ask_save_map(
    document: Document, parent: QWidget, found: SensitivityMap, form: SensitivityFormat
) -> None:
    """Ask where a map of sensitivity shall go, then save it."""
    kinds = _MAPS if form == "json" else _TABLES
    title, suffix = _tr("Save map of sensitivity"), operations.MAP_SUFFIXES[form]
    dialog = _save_dialog(document, parent, title, kinds, suffix)
    _then(dialog, partial(operations.save_map, document, found, form))


def _file_dialog(parent: QWidget, title: str, *kinds: str) -> QFileDialog:
    dialog = QFileDialog(parent, title)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.setNameFilters([_tr(kind) for kind in (*kinds, _EVERYTHING)])
    dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
    return dialog


def _save_dialog(
    document: Document, parent: QWidget, title: str, kinds: str, suffix: str
) -> QFileDialog:
    dialog = _file_dialog(parent, title, kinds)
    dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
    dialog.setFileMode(QFileDialog.FileMode.AnyFile)
    dialog.setDefaultSuffix(suffix.removeprefix("."))
    if document.snapshot is not None:
        dialog.selectFile(f"{_file_name(document.snapshot.model.name)}{suffix}")
    return dialog


def _file_name(name: str) -> str:
    """A name from a model as the name of a file."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return kept.strip("-.") or "model"


def _then(dialog: QFileDialog, operation: Callable[[str], None]) -> None:
    dialog.fileSelected.connect(operation)
    dialog.open()


def _tr(text: str) -> str:
    return QCoreApplication.translate("Dialogs", text)
