"""All that the window may know: frozen snapshots of the session, and what changed between two."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Literal

from engine.edits import Edit, InputGrid
from engine.energy.estimates import EnergyEstimate
from engine.layers import LayerId, LayerTree
from engine.metrics import Limit, MeasurementTable, Quantity
from engine.requests import InputSpec, Preprocessing


class Part(Flag):
    """What a change touched, so that a view refreshes only for its own part."""

    MODEL = auto()  # another model was opened
    LAYERS = auto()  # structure, weights or bits of some layers
    METRICS = auto()  # some series of some state
    HISTORY = auto()  # the list of edits or the cursor
    LIMITS = auto()
    DATA = auto()  # which data set is chosen


@dataclass(frozen=True)
class ModelInfo:
    """The opened model.

    Attributes:
        name: for titles; plain text from a file.
        source: what opens it again, such as ``demo``, ``torchvision:resnet50`` or a path.
        inputs: what its forward takes, in order.
        trained: False when the weights are random, so that its accuracy means nothing.
        notes: what opening it found, in plain sentences.
        task: as in :class:`engine.catalogue.CatalogueEntry`; "" when unknown.
        preprocessing: how its weights were evaluated; None when unknown.
        has_weights: False of a structure that has shapes alone.
    """

    name: str
    source: str
    inputs: tuple[InputSpec, ...]
    trained: bool
    notes: tuple[str, ...] = ()
    task: str = ""
    preprocessing: Preprocessing | None = None
    has_weights: bool = True

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first input, batch first; empty when it takes none."""
        return self.inputs[0].shape if self.inputs else ()

    @property
    def batch(self) -> int:
        """Samples in one run."""
        return self.input_shape[0] if self.input_shape else 1


@dataclass(frozen=True)
class DataInfo:
    """The chosen data set.

    Attributes:
        metric: what it is judged by, such as ``top-1``.
        broken: names of samples that could not be read and were skipped so far, with the reason.
        description: where the samples come from and how they were split and prepared.
    """

    name: str
    training_samples: int
    validation_samples: int
    metric: str = "top-1"
    broken: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True)
class SamplePreview:
    """A validation sample as the model sees it, drawn as a picture.

    Attributes:
        name: of its file, or its number.
        label: name of its class; of labels for each pixel those that occur.
        pixels: RGB bytes, row by row, normalisation undone; empty when there is no picture.
        problem: why there is none, in half a sentence.
    """

    name: str
    label: str
    pixels: bytes
    width: int
    height: int
    problem: str = ""


@dataclass(frozen=True)
class ModelState:
    """One state of the model: after some of the edits.

    Attributes:
        id: names the state by its edits, so that undo finds its measurements again.
        energy: the modelled energy of the table with what is known beside its joules.
    """

    id: str
    tree: LayerTree
    table: MeasurementTable
    energy: EnergyEstimate


@dataclass(frozen=True)
class HistoryEntry:
    """An edit in the list, and what has been measured of the state behind it.

    Attributes:
        before_recovery: whether that state is pruned and has not been recovered since.
        told: what came of training or measuring, in a phrase; "" for other edits.
        warnings: what was found wrong with its result, in plain sentences.
    """

    edit: Edit
    table: MeasurementTable
    before_recovery: bool = False
    told: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LimitStatus:
    """A limit and whether the current model keeps within it; None: not known yet."""

    limit: Limit
    met: bool | None


@dataclass(frozen=True)
class Snapshot:
    """Everything about the open model at one moment.

    Attributes:
        history: all edits, also those undone.
        cursor: how many of them are applied; 0 is the base model.
    """

    model: ModelInfo
    base: ModelState
    current: ModelState
    history: tuple[HistoryEntry, ...]
    cursor: int
    limits: tuple[LimitStatus, ...] = ()
    data: DataInfo | None = None

    @property
    def before_recovery(self) -> bool:
        """Whether the current state is pruned and has not been recovered since; to be said beside
        its accuracy.
        """
        return self.cursor > 0 and self.history[self.cursor - 1].before_recovery


@dataclass(frozen=True)
class Change:
    """What a committed operation changed: which parts, which layers (by path), the result."""

    parts: Part
    layers: frozenset[LayerId]
    snapshot: Snapshot


@dataclass(frozen=True)
class LayerEffect:
    """What an edit would do to one layer.

    Attributes:
        role: ``chosen`` by the user, ``coupled`` to a chosen one, or ``folded`` away.
        before, after: channels on ``side``, zeros, or bits, as the edit has it.
        removed: indices of the channels or heads that go; empty where the edit has none.
    """

    layer: LayerId
    role: Literal["chosen", "coupled", "folded"]
    quantity: Literal[
        "output channels", "input channels", "zeros", "weight bits", "values retrained",
        "heads", "rank", "parameters", "input bits", "channels scaled",
    ]  # fmt: skip
    before: int
    after: int
    removed: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class ChannelScores:
    """How much each output channel, or head, of one layer matters by a criterion.

    Attributes:
        scores: one for each; those of the least go first.
        units: channels of the same unit go together or stay together; those of unit -1 stay.
    """

    scores: tuple[float, ...]
    units: tuple[int, ...]


@dataclass(frozen=True)
class ActivationRange:
    """What calibration saw of a layer's input, or of an operand of its own operators.

    Attributes:
        operand: 0 for the input; counted over a layer's own operators in order.
        name: of it in words, such as ``input`` or ``add, 2nd operand``.
        least, most: smallest and largest value.
        start, stop: edges of the histogram; ``counts`` are those of bins of equal width.
        grid: on which the values are rounded; None where they are not.
        samples: training samples that were looked at.
    """

    layer: LayerId
    operand: int
    name: str
    least: float
    most: float
    start: float
    stop: float
    counts: tuple[int, ...]
    grid: InputGrid | None
    samples: int


@dataclass(frozen=True)
class Effect:
    """What an edit would do, told before it is applied.

    Attributes:
        before, after: totals by metric key (parameters, macs, energy, size).
        notes: what the engineer must know, in plain sentences.
        warnings: what is likely to go wrong, each with its remedy.
    """

    edit: Edit
    layers: tuple[LayerEffect, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportReport:
    """A file that was written, re-opened and compared with the model in memory.

    Attributes:
        files: paths written.
        largest_error: largest absolute difference of the re-opened model's outputs.
        largest_output: largest absolute output, to weigh the error by.
        bytes: size of the main file.
        note: what its user must know, in a plain sentence.
    """

    files: tuple[str, ...]
    largest_error: float
    largest_output: float
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Accuracy of an edited model beside the base model's, on the same validation samples.

    Attributes:
        accuracy, reference: of the edited model and of the base, with their intervals.
        lost, gained: samples that only the base has right, and only the edited model; None where
            the metric is not a share of samples.
        p_value: of McNemar's exact test, two-sided: how likely so uneven a split is by chance.
        samples, of: how many samples it rests on so far, and how many there are.
        settled: it ended early, the difference being certain, as often as one may have looked.
    """

    accuracy: Quantity
    reference: Quantity
    lost: int | None
    gained: int | None
    p_value: float | None
    samples: int
    of: int
    settled: bool = False


@dataclass(frozen=True)
class TuningProgress:
    """How a recovery by training goes.

    Attributes:
        epoch: epochs done, with the share of the running one.
        losses: (epoch, training loss) points.
        accuracies: (epoch, accuracy on samples held out of the training split) points; the first
            is from before training.
        best: index of the best of them, whose weights are kept.
    """

    epoch: float
    epochs: int
    losses: tuple[tuple[float, float], ...]
    accuracies: tuple[tuple[float, Quantity], ...]
    best: int


@dataclass(frozen=True)
class RoundingProgress:
    """How the learning of roundings goes.

    Attributes:
        layer: which is being rounded; "" while samples go through the model.
        at: layers done, with the share of the running one.
        losses: (layers done, error of the layer's output over that of the nearest integers)
            points.
    """

    layer: LayerId
    at: float
    of: int
    losses: tuple[tuple[float, float], ...] = ()
