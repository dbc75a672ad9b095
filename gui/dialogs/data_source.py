"""Fields that say which data: a kind, and what that kind needs."""

from typing import Final

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QComboBox, QFileDialog, QFormLayout, QLineEdit, QPushButton, QWidget

from engine import FunctionName
from gui.dialogs.factory import FactoryDialog
from gui.views.amount_field import ignore_wheel_without_focus
from gui.widgets import named, plain_label, row

DIGITS, FOLDER, CLASS, TENSORS, FACTORY = "digits", "folder", "class", "tensors", "factory"

# Suggestions only: any class of torchvision.datasets can be typed.
_CLASSES: Final = (
    "CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "Flowers102", "Food101", "ImageNet",
    "Imagenette", "KMNIST", "MNIST", "OxfordIIITPet", "STL10", "SVHN", "USPS", "VOCSegmentation",
)  # fmt: skip


class SourceFields(QObject):
    """Rows of a form whose titles and buttons follow the kind.

    Signals:
        changed: by hand.
    """

    changed = Signal()

    def __init__(self, form: QFormLayout, parent: QWidget) -> None:
        super().__init__(parent)
        self._parent = parent
        self._form = form
        self._kind = named(QComboBox(parent), "data_kind")
        for key, text in self._kinds().items():
            self._kind.addItem(text, key)
        self._class = named(QComboBox(parent), "data_class")
        self._class.setEditable(True)
        self._class.addItems(_CLASSES)
        self._where = named(QLineEdit(parent), "data_where")
        self._browse = named(QPushButton(self.tr("Browse…"), parent), "data_browse")
        self._browse.setAutoDefault(False)
        place = row()
        place.addWidget(self._where, 1)
        place.addWidget(self._browse)
        self._title = plain_label("")
        self._title.setBuddy(self._where)
        form.addRow(self.tr("Data"), self._kind)
        form.addRow(self.tr("Data set"), self._class)
        form.addRow(self._title, place)
        self._place = place
        self._connect()
        self._follow_kind()

    @property
    def kind(self) -> str:
        """The kind of data."""
        return str(self._kind.currentData())

    @property
    def source(self) -> str:
        """What :attr:`engine.DataRequest.source` takes.

        Raises:
            ValueError: something is missing; the message says what.
        """
        where = self._where.text().strip()
        if self.kind == DIGITS:
            return DIGITS
        if not where:
            raise ValueError(self._wanted())
        if self.kind == FACTORY:
            FunctionName.parse(where)
        if self.kind == CLASS:
            name = self._class.currentText().strip()
            if not name:
                raise ValueError(self.tr("Give the name of a class of torchvision.datasets."))
            return f"torchvision:{name}:{where}"
        return where

    def choose(self, kind: str, where: str = "") -> None:
        """Show this kind."""
        self._kind.setCurrentIndex(self._kind.findData(kind))
        self._where.setText(where)

    def _kinds(self) -> dict[str, str]:
        return {
            DIGITS: self.tr("Handwritten digits (built in)"),
            FOLDER: self.tr("Folder of pictures, one folder a class"),
            CLASS: self.tr("torchvision data set on this machine"),
            TENSORS: self.tr("File of tensors (.npz, .safetensors)"),
            FACTORY: self.tr("Python factory"),
        }

    def _wanted(self) -> str:
        return {
            FOLDER: self.tr("Choose the folder that holds a folder for each class."),
            CLASS: self.tr("Choose the folder the data set lies in; nothing is downloaded."),
            TENSORS: self.tr("Choose the file that holds samples and labels."),
            FACTORY: self.tr("Choose the function that returns the data."),
        }[self.kind]

    def _connect(self) -> None:
        self._kind.currentIndexChanged.connect(self._follow_kind)
        self._class.editTextChanged.connect(self.changed)
        self._where.textChanged.connect(self.changed)
        self._browse.clicked.connect(self._ask)
        for combo in (self._kind, self._class):
            ignore_wheel_without_focus(combo)

    def _follow_kind(self) -> None:
        titles = {TENSORS: self.tr("File"), FACTORY: self.tr("Function")}
        self._title.setText(titles.get(self.kind, self.tr("Folder")))
        self._form.setRowVisible(self._class, self.kind == CLASS)
        self._form.setRowVisible(self._place, self.kind != DIGITS)
        self._where.setPlaceholderText("package.module:function" if self.kind == FACTORY else "")
        self.changed.emit()

    def _ask(self) -> None:
        if self.kind == FACTORY:
            self._ask_factory()
        else:
            self._ask_path(folder=self.kind != TENSORS)

    def _ask_factory(self) -> None:
        title, verb = self.tr("Data of a Python factory"), self.tr("Choose")
        dialog = FactoryDialog(title, verb, self._parent, self._where.text())
        dialog.chosen.connect(self._where.setText)
        dialog.open()

    def _ask_path(self, folder: bool) -> None:
        kinds = "" if folder else self.tr("Tensors (*.npz *.safetensors)")
        dialog = QFileDialog(self._parent, self.tr("Validation data"), self._where.text(), kinds)
        mode = QFileDialog.FileMode
        dialog.setFileMode(mode.Directory if folder else mode.ExistingFile)
        dialog.fileSelected.connect(self._where.setText)
        dialog.open()
