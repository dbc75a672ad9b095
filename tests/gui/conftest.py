"""Snapshots written by hand, and a document that answers without an engine or threads."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QApplication

from engine import (
    METRICS,
    CallNode,
    CallProfile,
    Change,
    ChannelScores,
    Comparison,
    Edit,
    Effect,
    EnergyEstimate,
    EnergySettings,
    EngineError,
    FineTune,
    HistoryEntry,
    InputSpec,
    Layer,
    LayerEnergy,
    LayerId,
    LayerSpan,
    LayerTree,
    LineProfile,
    Machine,
    MeasurementTable,
    ModelInfo,
    ModelState,
    OperatorCall,
    OperatorProfile,
    Part,
    PruneChannels,
    PruneHeads,
    Quantity,
    Quantize,
    Roofline,
    RooflinePoint,
    RunSettings,
    Series,
    Snapshot,
    SourceFunction,
    SourceLine,
)
from gui.scanning import Scanning, ScanWish
from gui.selection import Selection
from gui.settings import Settings
from gui.tasks import JobState, JobView
from gui.theme import Theme
from gui.training import GradualPruning, TrainingNews

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
        path: {
            "compute": count * 1e-12,
            "weights registers": count * 1e-12,
            "input buffer": count * 1e-12,
            "output DRAM": 2e-8,
        }
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
    table = measurements(layers, share)
    return ModelState(name, LayerTree(layers), table, energy_of(table))


def energy_of(table: MeasurementTable) -> EnergyEstimate:
    """The estimate whose series the table has; the costliest layer waits for DRAM."""
    series = table["energy"]
    own = series.by_layer()
    held = max(own, key=lambda layer: own[layer])
    told = {
        layer: LayerEnergy("DRAM" if layer == held else "compute", 0.5, "a mapping")
        for layer in own
    }
    return EnergyEstimate(series, EnergySettings(), told, "energy")


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
        "head.fc": {"weight_bits": 8, "activation_bits": 8, "is_quantized": True},
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
    energy = {
        f"block{i}": {"compute": 1e-6 * (1 + i % 7), "input DRAM": 2e-6} for i in range(blocks)
    }
    table = MeasurementTable((_series("energy", 1.0, energy, hardware="Eyeriss", batch="1"),))
    state = ModelState("base", LayerTree(layers), table, energy_of(table))
    return Snapshot(
        ModelInfo("large", "large", (InputSpec((1, 3, 8, 8)),), False), state, state, (), 0
    )


def effect_of(edit: Edit) -> Effect:
    """An effect in which everything halves."""
    before = {"parameters": 54_100.0, "macs": 3.02e6, "energy": 8.8e-5, "size": 604_000.0}
    return Effect(edit, (), before, {key: value / 2 for key, value in before.items()})


class FakeJobs(QObject):
    """What is under way, as the test says."""

    jobs_changed = Signal()
    progressed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.views: tuple[JobView, ...] = ()
        self.preview: JobView | None = None  # the one that is under way

    def preview_view(self, slot: str) -> JobView | None:
        return self.preview

    def jobs(self) -> tuple[JobView, ...]:
        return self.views

    def show(self, *partials: object) -> None:
        """Say that so many jobs run, each with its partial result."""
        self.views = tuple(
            JobView(place, "", "", None, 1.0, 1.0, None, JobState.RUNNING, partial)
            for place, partial in enumerate(partials)
        )
        self.progressed.emit()


class FakeTraining(QObject):
    """A training that stands as the test says."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.state: JobState | None = None
        self.news: TrainingNews | None = None
        self.ending = ""
        self.seconds = 0.0

    @property
    def active(self) -> bool:
        return self.state is not None

    @property
    def paused(self) -> bool:
        return self.state is JobState.PAUSED

    @property
    def better(self) -> bool:
        return bool(self.news and self.news.progress and self.news.progress.best)


class FakeDocument(QObject):
    """Holds a snapshot, answers previews at once and writes down what it was asked to do."""

    changed = Signal(object)
    busy_changed = Signal(bool)
    tuning_changed = Signal(bool)
    modelling_changed = Signal()
    failed = Signal(object)
    profiled = Signal(object)
    unmeasured = Signal(str, object)
    devices_found = Signal(object)
    counters_found = Signal(object)
    code_allowed = Signal()

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        super().__init__()
        self.run_settings = RunSettings()
        self.jobs = FakeJobs()
        self.snapshot = snapshot
        self.refusal = ""  # while a training is under way
        self.tuning = False
        self.training = FakeTraining()
        self.scanning = Scanning(self.jobs)  # type: ignore[arg-type]
        self.scan_refused = ""
        self.wanted: EnergySettings | None = None  # while energy is modelled under them
        self.calls: list[tuple[str, object]] = []
        self.answer: Callable[[Edit], Effect | EngineError | None] | None = effect_of
        self.scores: Callable[[PruneChannels | PruneHeads], ChannelScores | EngineError] | None = (
            None
        )
        self.comparing: tuple[Callable[..., None], Callable[..., None]] | None = None
        self.ranging: Callable[..., None] | None = None

    def show(self, snapshot: Snapshot, parts: Part = EVERYTHING) -> None:
        """Commit another snapshot."""
        self.snapshot = snapshot
        self.changed.emit(Change(parts, frozenset(), snapshot))

    def apply_refusal(self) -> str:
        return self.refusal

    def apply(self, edit: Edit) -> None:
        self.calls.append(("apply", edit))

    def tune(self, edit: FineTune) -> None:
        self.calls.append(("tune", edit))

    def prune_gradually(self, pruning: GradualPruning) -> None:
        self.calls.append(("prune_gradually", pruning))

    def pause_tuning(self) -> None:
        self.calls.append(("pause_tuning", None))

    def resume_tuning(self) -> None:
        self.calls.append(("resume_tuning", None))

    def stop_tuning(self, keep: bool) -> None:
        self.calls.append(("stop_tuning", keep))

    def scan_refusal(self) -> str:
        return self.scan_refused

    def scan(self, wish: ScanWish) -> None:
        self.calls.append(("scan", wish))

    def stop_scan(self) -> None:
        self.calls.append(("stop_scan", None))

    def resume_scan(self) -> None:
        self.calls.append(("resume_scan", None))

    def go_to(self, cursor: int) -> None:
        self.calls.append(("go_to", cursor))

    def preview(self, edit: Edit, on_effect: Callable[[Effect | EngineError | None], None]) -> None:
        self.calls.append(("preview", edit))
        if self.answer is not None:
            on_effect(self.answer(edit))

    def preview_scores(
        self,
        edit: PruneChannels | PruneHeads,
        on_scores: Callable[[ChannelScores | EngineError | None], None],
    ) -> None:
        self.calls.append(("preview_scores", edit))
        if self.scores is not None:
            on_scores(self.scores(edit))

    def preview_ranges(
        self, layer: LayerId, edit: Quantize | None, on_ranges: Callable[..., None]
    ) -> None:
        self.calls.append(("preview_ranges", (layer, edit)))
        self.ranging = on_ranges

    def preview_accuracy(
        self,
        edit: Edit,
        on_comparison: Callable[[Comparison | EngineError | None], None],
        on_partial: Callable[[Comparison], None],
    ) -> None:
        self.calls.append(("preview_accuracy", edit))
        self.comparing = on_comparison, on_partial

    def cancel_preview(self, slot: str) -> None:
        self.calls.append(("cancel_preview", slot))

    def measure_latency(self) -> None:
        self.calls.append(("measure_latency", self.run_settings))

    @property
    def energy_settings(self) -> EnergySettings | None:
        if self.wanted is not None or self.snapshot is None:
            return self.wanted
        return self.snapshot.current.energy.settings

    def set_energy(self, settings: EnergySettings) -> None:
        self.calls.append(("set_energy", settings))
        self.wanted = settings
        self.modelling_changed.emit()

    def measure_zeros(self) -> None:
        self.calls.append(("measure_zeros", None))

    def measure_memory(self) -> None:
        self.calls.append(("measure_memory", self.run_settings))

    def measure_energy(self) -> None:
        self.calls.append(("measure_energy", self.run_settings))

    def find_counters(self) -> None:
        self.calls.append(("find_counters", None))

    def profile_operators(self) -> None:
        self.calls.append(("profile_operators", self.run_settings))

    def profile_python(self) -> None:
        self.calls.append(("profile_python", self.run_settings))

    def profile_lines(self, layer: LayerId, follow: bool) -> None:
        self.calls.append(("profile_lines", (layer, follow)))

    def take_roofline(self) -> None:
        self.calls.append(("take_roofline", self.run_settings))

    def find_devices(self) -> None:
        self.calls.append(("find_devices", None))


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


@pytest.fixture
def selection() -> Selection:
    """Nothing is selected."""
    return Selection()


@pytest.fixture
def operator_profile() -> OperatorProfile:
    """One pass of 10 ms: a convolution within a layer that copies, a kernel beside it.

    0 1 2 3 4 5 6 7 8 9 ms
    model----------------
    stem------- head-----
    conv----    linear---
    aten::conv2d  aten::addmm (twice nested in itself)
    """
    conv, fc = LayerId("stem.conv"), LayerId("head.fc")
    return OperatorProfile(
        0.010,
        (
            OperatorCall(conv, "aten::conv2d", 0.001, 0.003, 0.001, 0, ((1, 3, 8, 8), (8,)), 512),
            OperatorCall(conv, "aten::convolution", 0.002, 0.002, 0.002, 1, ((1, 3, 8, 8),), 512),
            OperatorCall(fc, "aten::addmm", 0.006, 0.003, 0.001, 0, ((10, 64),), 40),
            OperatorCall(fc, "aten::addmm", 0.007, 0.002, 0.002, 1, ((10, 64),), 40),
            OperatorCall(conv, "volta_sgemm", 0.003, 0.004, 0.004, 0, device="cuda:0"),
        ),
        (
            LayerSpan(LayerId(""), 0.0, 0.010, 0),
            LayerSpan(LayerId("stem"), 0.0005, 0.0045, 1),
            LayerSpan(conv, 0.001, 0.0035, 2),
            LayerSpan(LayerId("head"), 0.0055, 0.004, 1),
            LayerSpan(fc, 0.006, 0.003, 2),
        ),
        '{"traceEvents": []}',
        {"device": "cpu", "batch": "1"},
    )


@pytest.fixture
def call_profile() -> CallProfile:
    """Three runs of a forward that calls two things, one of them built in."""
    built_in = CallNode("<built-in method conv2d>", "", 0, 3, 0.006, 0.006)
    conv = CallNode("forward", "/site/torch/nn/conv.py", 553, 3, 0.001, 0.007, (built_in,))
    relu = CallNode("relu", "/site/torch/nn/functional.py", 1, 3, 0.002, 0.002)
    net = CallNode("forward", "/home/a/net.py", 12, 3, 0.001, 0.010, (relu, conv))
    return CallProfile(CallNode("passes", "", 0, 3, 0.0, 0.010, (net,)), 3, b"statistics")


@pytest.fixture
def line_profile() -> LineProfile:
    """A forward of four lines, one of which takes three quarters, and a function it calls."""
    forward = SourceFunction(
        "Block.forward",
        "/home/a/net.py",
        (
            SourceLine(10, "def forward(self, x):"),
            SourceLine(11, "\ty = self.conv(x)", 3, 0.006),
            SourceLine(12, "    # nothing"),
            SourceLine(13, "    return y + x", 3, 0.002),
        ),
        0.008,
    )
    helper = SourceFunction(
        "Conv2d.forward", "/site/conv.py", (SourceLine(553, "    return 1", 3, 0.001),), 0.001
    )
    return LineProfile(LayerId("stage1.block0"), (forward, helper), 3)


@pytest.fixture
def roofline() -> Roofline:
    """A machine of 10 GB/s and 100 GFLOP/s, so a ridge at 10, and a layer on either side of it."""
    machine = Machine("Toy <1>", 1e10, 1e11, {"threads": "2"})
    return Roofline(
        machine,
        (
            RooflinePoint(LayerId("stem.bn"), "BatchNorm2d", 1e6, 1e6, 2e-4),  # 1, 5 GFLOP/s
            RooflinePoint(LayerId("stem.conv"), "Conv2d", 1e8, 1e6, 4e-3),  # 100, 25 GFLOP/s
        ),
    )


@pytest.fixture
def no_own_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptions but the shipped ones and those of the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "config"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Preferences of this test alone."""
    return Settings(tmp_path / "settings.ini")
