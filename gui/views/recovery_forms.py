"""What each way of winning accuracy back asks for: one form each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from PySide6.QtCore import Signal, Slot
from PySide6.QtGui import QStandardItemModel
from PySide6.QtWidgets import QComboBox, QFormLayout, QLabel, QWidget

from engine import (
    ROOT,
    Device,
    Edit,
    FineTune,
    LayerId,
    PruneChannels,
    PruneWeights,
    RecalibrateNorms,
)
from gui import format as fmt
from gui.training import GradualPruning
from gui.views.amount_field import AmountField, Input
from gui.views.edit_inputs import ChoiceInput, CountInput, NumberInput
from gui.views.parts import MoreButton, fill_devices
from gui.widgets import named, plain_label

WHOLE: Final = (ROOT,)

_MOST_EPOCHS: Final = 1_000
_MOST_SAMPLES: Final = 10_000_000
_MOST_BATCH: Final = 65_536
_MOST_SEED: Final = 2**31 - 1
_MOST_STEPS: Final = 20
_RATES: Final = (1e-6, 10.0)


class FieldForm(QWidget):
    """Titles beside inputs; a row can be hidden by its input.

    Signals:
        changed: a value is another one.
    """

    changed = Signal()

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self._layout = QFormLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setVerticalSpacing(8)
        self._layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)

    def _add(self, title: str, tip: str, field: Input) -> None:
        label = QLabel(title)
        label.setBuddy(field.focusProxy() or field)
        for widget in (label, field):
            widget.setToolTip(fmt.tooltip(tip))
        field.changed.connect(self.changed)
        self._layout.addRow(label, field)


class NormsForm(FieldForm):
    """Asks how batch norms are measured anew."""

    def __init__(self) -> None:
        super().__init__("normsForm")
        self._samples = CountInput("norm_samples", 1, _MOST_SAMPLES)
        self._samples.write(RecalibrateNorms(WHOLE).samples)
        self._layers = LayersInput("norm_layers")
        self._add(
            self.tr("Samples"),
            self.tr("Training samples that the statistics are taken of; all, where there are less"),
            self._samples,
        )
        self._add(
            self.tr("Layers"),
            self.tr("Every batch norm, or those at and below the selected layers"),
            self._layers,
        )

    @property
    def edit(self) -> RecalibrateNorms:
        """What the form asks for."""
        return RecalibrateNorms(self._layers.read(), self._samples.read())

    def show_selection(self, layers: Sequence[LayerId]) -> None:
        """Offer these layers beside the whole model."""
        self._layers.show_selection(layers)


class TuningForm(FieldForm):
    """Asks how the model is trained."""

    def __init__(self) -> None:
        super().__init__("tuningForm")
        self._make_inputs()
        self._add_usual()
        self._more = MoreButton("moreSettings")
        self._more.toggled.connect(self._show_rows)
        self._layout.addRow(self._more)
        self._add_more()
        self._write(FineTune(WHOLE))
        self._distillation.changed.connect(self._show_rows)
        self._show_rows()

    @property
    def edit(self) -> FineTune:
        """What the form asks for."""
        values: dict[str, Any] = {name: field.read() for name, field in self._inputs.items()}
        return FineTune(**values)

    def show_selection(self, layers: Sequence[LayerId]) -> None:
        """Offer these layers beside the whole model."""
        self._layers.show_selection(layers)

    def show_samples(self, count: int) -> None:
        """Say how many training samples there are."""
        self._samples.say_none(self.tr("all (%s)") % fmt.count(count))

    def show_devices(self, devices: Sequence[Device]) -> None:
        """Offer these devices; those that are unavailable cannot be chosen and say why."""
        self._device.show_devices(devices)

    def _make_inputs(self) -> None:
        self._layers = LayersInput("tune_layers")
        self._samples = SamplesInput("tune_samples")
        self._device = DeviceInput("tune_device")
        self._distillation = AmountField("tune_distillation", 100.0)
        self._inputs: dict[str, Input] = {
            "layers": self._layers,
            "epochs": CountInput("tune_epochs", 1, _MOST_EPOCHS),
            "learning_rate": NumberInput("tune_learning_rate", *_RATES),
            "optimizer": ChoiceInput("tune_optimizer", self._optimizers()),
            "schedule": ChoiceInput("tune_schedule", self._schedules()),
            "distillation": self._distillation,
            "temperature": NumberInput("tune_temperature", 0.1, 100.0),
            "weight_decay": NumberInput("tune_weight_decay", 0.0, 1.0),
            "batch": CountInput("tune_batch", 1, _MOST_BATCH),
            "samples": self._samples,
            "seed": CountInput("tune_seed", 0, _MOST_SEED),
            "device": self._device,
        }

    def _optimizers(self) -> Sequence[tuple[str, str, str]]:
        return (
            ("sgd", "SGD", self.tr("With a momentum of 0.9, after Nesterov")),
            ("adamw", "AdamW", self.tr("Adam with decoupled weight decay")),
        )

    def _schedules(self) -> Sequence[tuple[str, str, str]]:
        return (
            ("cosine", self.tr("cosine, down to 0"), self.tr("Falls along a cosine")),
            ("constant", self.tr("constant"), self.tr("Stays as it is")),
        )

    def _add_usual(self) -> None:
        self._put("epochs", self.tr("Epochs"), self.tr("Passes over the training samples"))
        self._put(
            "learning_rate",
            self.tr("Learning rate"),
            self.tr("Size of a step; SGD usually takes ten times as much as AdamW"),
        )
        self._put("schedule", self.tr("Rate over time"), self.tr("What the learning rate does"))
        self._put("optimizer", self.tr("Optimizer"), self.tr("How a gradient becomes a step"))
        self._put(
            "distillation",
            self.tr("Distillation"),
            self.tr("Share of the loss that follows the base model's outputs; 0 % for none"),
        )
        self._put(
            "temperature",
            self.tr("Temperature"),
            self.tr("How much the base model's outputs are softened"),
        )
        self._put("layers", self.tr("Layers"), self.tr("What is trained; the rest stays as it is"))
        self._put("device", self.tr("Device"), self.tr("What it is trained on"))

    def _add_more(self) -> None:
        self._put(
            "samples",
            self.tr("Samples"),
            self.tr("Of the training split, spread evenly; a tenth of them chooses the best epoch"),
        )
        self._put("batch", self.tr("Batch"), self.tr("Samples of one step"))
        self._put(
            "weight_decay", self.tr("Weight decay"), self.tr("Pull of the weights towards zero")
        )
        self._put("seed", self.tr("Seed"), self.tr("The same seed trains the same way again"))

    def _put(self, name: str, title: str, tip: str) -> None:
        self._add(title, tip, self._inputs[name])

    def _write(self, edit: FineTune) -> None:
        for name, field in self._inputs.items():
            if name not in ("layers", "device"):
                field.write(getattr(edit, name))

    @Slot()
    def _show_rows(self) -> None:
        """Hide what has no use, or is seldom asked for."""
        for name in ("samples", "batch", "weight_decay", "seed"):
            self._layout.setRowVisible(self._inputs[name], self._more.isChecked())
        self._layout.setRowVisible(self._inputs["temperature"], self._distillation.read() > 0)


class GradualForm(FieldForm):
    """Asks for steps; what is pruned is asked for elsewhere, and so is how it is trained."""

    def __init__(self) -> None:
        super().__init__("gradualForm")
        self._edit = plain_label("", "gradualEdit")
        self._training = plain_label("", "gradualTraining", "muted")
        for label in (self._edit, self._training):
            label.setWordWrap(True)
        self._steps = CountInput("gradual_steps", 2, _MOST_STEPS)
        self._steps.write(3)
        self._kind = ChoiceInput("gradual_kind", self._kinds())
        self._epochs = CountInput("gradual_epochs", 1, _MOST_EPOCHS)
        self._layout.addRow(self._edit)
        self._add(
            self.tr("Steps"), self.tr("How often it is pruned, and then trained"), self._steps
        )
        self._add(self.tr("Schedule"), self.tr("How much goes at each step"), self._kind)
        self._add(self.tr("Epochs each"), self.tr("Of training after each step"), self._epochs)
        self._layout.addRow(self._training)

    def show_plan(self, edit: Edit | None, tune: FineTune) -> None:
        """Say what is reached in the end, and how it is trained between."""
        self._edit.setText(fmt.visible(fmt.edit_text(edit, self.tr)) if edit is not None else "")
        self._edit.setVisible(edit is not None)
        self._training.setText(
            self.tr("Trained as under Fine-tune: {optimizer}, learning rate {rate}.").format(
                optimizer={"sgd": "SGD", "adamw": "AdamW"}[tune.optimizer],
                rate=f"{tune.learning_rate:g}",
            )
        )

    def pruning(self, edit: PruneChannels | PruneWeights, tune: FineTune) -> GradualPruning:
        """What the form asks for, to reach ``edit``."""
        between = replace(tune, epochs=self._epochs.read())
        return GradualPruning(edit, self._kind.read(), self._steps.read(), between)

    def _kinds(self) -> Sequence[tuple[str, str, str]]:
        return (
            ("gradual", self.tr("gradual (AGP)"), self.tr("Much at first, little at the end")),
            ("iterative", self.tr("iterative"), self.tr("The same share of what is left")),
        )


class LayersInput(Input):
    """The whole model, or the selected layers."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._selected: tuple[LayerId, ...] = ()
        self._combo = named(QComboBox(), name)
        self._combo.addItem(self.tr("whole model"))
        self._combo.addItem("")
        self._hold(self._combo, self._combo.currentIndexChanged)
        self.show_selection(())

    def show_selection(self, layers: Sequence[LayerId]) -> None:
        """Offer these layers; without any, the whole model is all there is."""
        self._selected = tuple(layers)
        name = fmt.layer_name(layers[0]) if layers else ""
        several = self.tr("the %s selected layers") % len(layers)
        text = several if len(layers) > 1 else name or self.tr("selected layers")
        self._combo.setItemText(1, fmt.visible(text, 40))
        model = self._combo.model()
        if isinstance(model, QStandardItemModel):
            model.item(1).setEnabled(bool(layers))
        if not layers:
            self._combo.setCurrentIndex(0)

    def read(self) -> tuple[LayerId, ...]:
        """The chosen layers; the root stands for all."""
        return self._selected if self._combo.currentIndex() == 1 and self._selected else WHOLE

    def write(self, value: tuple[LayerId, ...]) -> None:
        """Choose the whole model, or the selection."""
        self._combo.setCurrentIndex(0 if value == WHOLE else 1)


class SamplesInput(CountInput):
    """A number of samples; 0 for all."""

    def __init__(self, name: str) -> None:
        super().__init__(name, 0, _MOST_SAMPLES)
        self.say_none(self.tr("all"))

    def say_none(self, text: str) -> None:
        """What stands there instead of 0."""
        self._spin.setSpecialValueText(text)


class DeviceInput(Input):
    """A device that is available; those that are not say why."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._combo = named(QComboBox(), name)
        self._hold(self._combo, self._combo.currentIndexChanged)
        self.show_devices((Device("cpu", self.tr("Processor")),))

    def show_devices(self, devices: Sequence[Device]) -> None:
        """Offer these."""
        fill_devices(self._combo, devices)

    def read(self) -> str:
        """Its name, as torch has it."""
        return str(self._combo.currentData())

    def write(self, value: str) -> None:
        """Choose it, if it is offered."""
        self._combo.setCurrentIndex(max(0, self._combo.findData(value)))
