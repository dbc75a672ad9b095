"""Fields that say how a picture becomes a sample: as the weights were evaluated, or by hand."""

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QComboBox, QFormLayout, QLineEdit, QWidget

from engine import Preprocessing
from gui.dialogs.information import preprocessing_text
from gui.views.amount_field import ignore_wheel_without_focus
from gui.widgets import named, wrapped_label

_TEXT_WIDTH = 360


class PreprocessingFields(QObject):
    """Rows of a form; those of the single steps show when they are set by hand.

    Signals:
        changed: by hand.

    Args:
        usual: how the model's weights were evaluated; None when unknown.
        grey: whether the model takes one channel.
    """

    changed = Signal()

    def __init__(
        self, form: QFormLayout, usual: Preprocessing | None, grey: bool, parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._form = form
        self._choice = self._combo("preprocessing", (), parent)
        known = self.tr("As the weights were evaluated")
        self._choice.addItem(known if usual else self.tr("Fitted to the model's input"), False)
        self._choice.addItem(self.tr("By hand"), True)
        self._usual = wrapped_label(
            preprocessing_text(usual) if usual else "",
            "preprocessing_usual",
            "muted",
            _TEXT_WIDTH,
        )
        self._colour = self._combo("colour", ("RGB", "grey"), parent)
        methods = ("bilinear", "bicubic", "nearest")
        self._interpolation = self._combo("interpolation", methods, parent)
        self._resize = self._line("resize", "256", parent)
        self._crop = self._line("crop", "224x224", parent)
        self._mean = self._line("mean", "0.485, 0.456, 0.406", parent)
        self._std = self._line("std", "0.229, 0.224, 0.225", parent)
        form.addRow(self.tr("Preprocessing"), self._choice)
        form.addRow("", self._usual)
        for title, field in self._steps():
            form.addRow(title, field)
        self._fill(usual or Preprocessing(colour="grey" if grey else "RGB"))
        self._connect()
        self._follow_choice()

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What the fields say; None for the usual one.

        Raises:
            ValueError: a field cannot be read; the message says which.
        """
        if not self._choice.currentData():
            return None
        steps = {
            "colour": self._colour.currentText(),
            "interpolation": self._interpolation.currentText(),
            "resize": self._resize.text().strip(" ,"),
            "crop": self._crop.text().strip(" ,"),
            "mean": self._mean.text().strip(" ,"),
            "std": self._std.text().strip(" ,"),
        }
        return Preprocessing.parse(",".join(f"{key}={text}" for key, text in steps.items() if text))

    def _steps(self) -> tuple[tuple[str, QWidget], ...]:
        return (
            (self.tr("Colour"), self._colour),
            (self.tr("Resize to"), self._resize),
            (self.tr("Interpolation"), self._interpolation),
            (self.tr("Crop from the middle"), self._crop),
            (self.tr("Mean"), self._mean),
            (self.tr("Standard deviation"), self._std),
        )

    def _combo(self, name: str, texts: tuple[str, ...], parent: QWidget) -> QComboBox:
        combo = named(QComboBox(parent), f"data_{name}")
        combo.addItems(texts)
        ignore_wheel_without_focus(combo)
        return combo

    def _line(self, name: str, example: str, parent: QWidget) -> QLineEdit:
        line = named(QLineEdit(parent), f"data_{name}")
        line.setPlaceholderText(self.tr("None, or such as %s") % example)
        return line

    def _fill(self, how: Preprocessing) -> None:
        self._colour.setCurrentText(how.colour)
        self._interpolation.setCurrentText(how.interpolation)
        self._resize.setText("x".join(map(str, how.resize)))
        self._crop.setText("x".join(map(str, how.crop)))
        self._mean.setText(", ".join(map(str, how.mean)))
        self._std.setText(", ".join(map(str, how.std)))

    def _connect(self) -> None:
        self._choice.currentIndexChanged.connect(self._follow_choice)
        for combo in (self._colour, self._interpolation):
            combo.currentIndexChanged.connect(self.changed)
        for line in (self._resize, self._crop, self._mean, self._std):
            line.textChanged.connect(self.changed)

    def _follow_choice(self) -> None:
        by_hand = bool(self._choice.currentData())
        for _, field in self._steps():
            self._form.setRowVisible(field, by_hand)
        self._form.setRowVisible(self._usual, not by_hand and bool(self._usual.text()))
        self.changed.emit()
