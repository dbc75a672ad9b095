"""Snapshots written by hand, and a document that answers without an engine or threads."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QApplication

from engine import (
    METRICS,
    Change,
    Edit,
    Effect,
    EngineError,
    HistoryEntry,
    InputSpec,
    Layer,
    LayerId,
    LayerTree,
    MeasurementTable,
    ModelInfo,
    ModelState,
    Part,
    PruneChannels,
    Quantity,
    Series,
    Snapshot,
)
from gui.theme import Theme

EVERYTHING = Part.MODEL | Part.LAYERS | Part.METRICS | Part.HISTORY | Part.LIMITS | Part.DATA
METHODS = ("prune-channels", "prune-weights", "quantize")

# path, kind, output shape, parameters, channels, MACs, methods
LAYERS = (
    ("", "DigitsNet", (1, 10), 0, None, 0, ()),
    ("stem", "Sequential", (1, 32, 8, 8), 0, None, 0, ()),
    ("stem.conv", "Conv2d", (1, 32, 8, 8), 288, 32, 18_432, METHODS),
    ("stem.bn", "BatchNorm2d", (1, 32, 8, 8), 64, 32, 0, ()),
    ("stem.relu", "ReLU", (1, 32, 8, 8), 0, None, 0, ()),
    ("stage1", "Sequential", (1, 64, 4, 4), 0, None, 0, ()),
    ("stage1.block0", "Residual", (1, 64, 4, 4), 0, None, 0, ()),
    ("stage1.block0.conv1", "Conv2d", (1, 64, 4, 4), 18_432, 64, 294_912, METHODS),
    ("stage1.block0.conv2", "Conv2d", (1, 64, 4, 4), 36_864, 64, 589_824, METHODS),
    ("head", "Sequential", (1, 10), 0, None, 0, ()),
    ("head.pool", "AdaptiveAvgPool2d", (1, 64, 1, 1), 0, None, 0, ()),
    ("head.fc", "Linear", (1, 10), 650, 10, 640, ("prune-weights", "quantize")),
)


def _layers() -> list[Layer]:
    return [
        Layer(
            LayerId(path), kind, shape, parameters, weights=parameters if methods else 0,
            weight_bits=32 if parameters else None, channels=channels, methods=methods,
        )
        for path, kind, shape, parameters, channels, _, methods in LAYERS
    ]  # fmt: skip


def _series(
    key: str, total: float, layers: dict[str, dict[str, float]], **conditions: str
) -> Series:
    return Series(
        METRICS[key],
        Quantity(total),
        {
            LayerId(path): {part: Quantity(value) for part, value in parts.items()}
            for path, parts in layers.items()
        },
        conditions=conditions,
    )


def measurements(layers: Iterable[Layer], share: float = 1.0) -> MeasurementTable:
    """All six series; ``share`` scales what pruning would lower."""
    macs = {path: count * share for path, _, _, _, _, count, _ in LAYERS if count}
    energy = {
        path: {"compute": count * 1e-12, "buffers": count * 2e-12, "DRAM": 2e-8}
        for path, count in macs.items()
    }
    latency = {path: {"": 1e-5 + count * 1e-10} for path, count in macs.items()}
    parameters = {str(layer.id): layer.parameters for layer in layers if layer.parameters}
    size = sum(parameters.values()) * 4
    return MeasurementTable(
        (
            Series(
                METRICS["accuracy"],
                Quantity(0.984 * share**0.01, 0.97 * share**0.01, 0.991 * share**0.01),
                conditions={"data": "digits", "samples": "360"},
            ),
            _series(
                "energy", sum(sum(parts.values()) for parts in energy.values()), energy,
                hardware="Eyeriss <ISCA 2016>", batch="1",
            ),
            _series("latency", 2.05e-3 * share, latency, device="cpu", batch="1"),
            _series("macs", sum(macs.values()), {path: {"": one} for path, one in macs.items()}),
            _series("size", size, {}),
            _series(
                "parameters", sum(parameters.values()),
                {path: {"": one} for path, one in parameters.items()},
            ),
        )
    )  # fmt: skip


def _state(name: str, layers: list[Layer], share: float = 1.0) -> ModelState:
    return ModelState(name, LayerTree(layers), measurements(layers, share))


def base_snapshot() -> Snapshot:
    """The model as opened: trained, measured, nothing edited."""
    state = _state("base", _layers())
    model = ModelInfo("digits_net", "demo", (InputSpec((1, 1, 8, 8)),), trained=True)
    return Snapshot(model, state, state, (), 0)


def pruned_snapshot() -> Snapshot:
    """Half the channels of one convolution removed; its follower shrank, a norm was folded."""
    base = base_snapshot()
    path = LayerId("stage1.block0.conv1")
    changes = {
        path: {
            "parameters": 9_216, "weights": 9_216, "channels": 32, "output_shape": (1, 32, 4, 4),
        },
        "stage1.block0.conv2": {"parameters": 18_432, "weights": 18_432, "zeros": 9_216},
        "head.fc": {"weight_bits": 8, "activation_bits": 8},
        "stem.bn": {"parameters": 0, "note": "folded into stem.conv", "weight_bits": None},
    }  # fmt: skip
    layers = [
        replace(layer, **changes.get(layer.id, {}))  # type: ignore[arg-type]
        for layer in base.base.tree
    ]
    current = _state("pruned", layers, share=0.5)
    entry = HistoryEntry(PruneChannels((path,), 0.5), current.table)
    return replace(base, current=current, history=(entry,), cursor=1)


def large_snapshot(blocks: int) -> Snapshot:
    """A flat model of many convolutions."""
    layers = [Layer(LayerId(""), "Large", (1, 10))]
    layers += [
        Layer(LayerId(f"block{i}"), "Conv2d", (1, 8, 8, 8), 100 + i, methods=METHODS)
        for i in range(blocks)
    ]
    energy = {f"block{i}": {"compute": 1e-6 * (1 + i % 7), "DRAM": 2e-6} for i in range(blocks)}
    table = MeasurementTable((_series("energy", 1.0, energy, hardware="Eyeriss", batch="1"),))
    state = ModelState("base", LayerTree(layers), table)
    return Snapshot(
        ModelInfo("large", "large", (InputSpec((1, 3, 8, 8)),), False), state, state, (), 0
    )


def effect_of(edit: Edit) -> Effect:
    """An effect in which everything halves."""
    before = {"parameters": 54_100.0, "macs": 3.02e6, "energy": 8.8e-5, "size": 604_000.0}
    return Effect(edit, (), before, {key: value / 2 for key, value in before.items()})


class FakeDocument(QObject):
    """Holds a snapshot, answers previews at once and writes down what it was asked to do."""

    changed = Signal(object)
    busy_changed = Signal(bool)
    failed = Signal(object)

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        super().__init__()
        self.snapshot = snapshot
        self.calls: list[tuple[str, object]] = []
        self.answer: Callable[[Edit], Effect | EngineError | None] | None = effect_of

    def show(self, snapshot: Snapshot, parts: Part = EVERYTHING) -> None:
        """Commit another snapshot."""
        self.snapshot = snapshot
        self.changed.emit(Change(parts, frozenset(), snapshot))

    def apply(self, edit: Edit) -> None:
        self.calls.append(("apply", edit))

    def go_to(self, cursor: int) -> None:
        self.calls.append(("go_to", cursor))

    def preview(self, edit: Edit, on_effect: Callable[[Effect | EngineError | None], None]) -> None:
        self.calls.append(("preview", edit))
        if self.answer is not None:
            on_effect(self.answer(edit))

    def cancel_preview(self) -> None:
        self.calls.append(("cancel_preview", None))


@pytest.fixture
def base() -> Snapshot:
    """The model as opened."""
    return base_snapshot()


@pytest.fixture
def pruned() -> Snapshot:
    """The model after one edit."""
    return pruned_snapshot()


@pytest.fixture
def make_large() -> Callable[[int], Snapshot]:
    """Models of any number of layers."""
    return large_snapshot


@pytest.fixture
def theme(qapp: QApplication) -> Iterator[Theme]:
    """The light look."""
    theme = Theme(qapp)
    theme.set_mode("light")
    yield theme
    theme.deleteLater()


@pytest.fixture
def fake_document(qapp: QApplication, pruned: Snapshot) -> Iterator[FakeDocument]:
    """A document that shows the edited model."""
    document = FakeDocument(pruned)
    yield document
    document.deleteLater()
