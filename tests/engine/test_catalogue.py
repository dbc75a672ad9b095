"""The catalogue's rows, and what its models cost."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision import models

from engine import costs, kept
from engine.catalogue import CatalogueEntry, pareto_front
from engine.costs import model_costs
from engine.energy.estimates import EnergySettings
from engine.energy.hardware import default_hardware
from engine.energy.model import estimate
from engine.job import Cancelled, Job
from engine.metrics import LATENCY, Quantity, Series
from engine.sources.architectures import CatalogueName, build
from engine.sources.catalogue import catalogue_entries, family_of
from engine.sources.libraries import timm_models, torchvision_models
from engine.tracing import sample_inputs, trace


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, ours and torch's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    return tmp_path / "cache" / "secateur"


def of(name: str, weights: str) -> CatalogueEntry:
    (found,) = [one for one in catalogue_entries() if (one.name, one.weights) == (name, weights)]
    return found


# Rows


def test_a_row_for_each_set_of_published_weights() -> None:
    rows = [one for one in catalogue_entries() if one.origin == "torchvision"]
    published = [
        (name, entry.name)
        for name in models.list_models()
        for entry in models.get_model_weights(name)
    ]
    assert [(one.name, one.weights) for one in rows] == published
    assert len({one.source for one in rows}) == len(rows)
    for row in rows:
        assert str(CatalogueName.parse(row.source)) == row.source
        assert row.task == build_free_task(row.name)
        assert None not in (row.parameters, row.macs, row.file_size)
        assert not row.cached


def build_free_task(name: str) -> str:
    """The task by the module of torchvision that the model comes from."""
    module = models.get_model_builder(name).__module__
    for package in ("segmentation", "detection", "video", "optical_flow"):
        if f".{package}." in module:
            return package.replace("_", " ")
    return "classification"


def test_nothing_is_built_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr(torchvision_models, "build", refuse)
    monkeypatch.setattr(models, "get_model", refuse)
    monkeypatch.setattr("torch.nn.Conv2d.__init__", refuse)
    assert catalogue_entries()


def test_published_figures() -> None:
    assert of("resnet50", "IMAGENET1K_V2") == CatalogueEntry(
        "resnet50", "torchvision:resnet50@IMAGENET1K_V2", "classification", "ResNet",
        "IMAGENET1K_V2", "ImageNet-1K acc@1", 80.858, (224, 224), 25_557_032, 4_089_000_000,
        round(97.79 * 2**20),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "weights", "metric", "accuracy", "size"),
    [
        ("fcn_resnet50", "COCO_WITH_VOC_LABELS_V1", "COCO-val2017-VOC-labels miou", 60.5,
         (520, 520)),
        ("maskrcnn_resnet50_fpn", "COCO_V1", "COCO-val2017 box_map", 37.9, ()),
        ("r3d_18", "KINETICS400_V1", "Kinetics-400 acc@1", 63.2, (16, 112, 112)),
        ("raft_large", "C_T_SKHT_K_V1", "Kitti-Test fl_all", 5.1, ()),
        ("vgg16", "IMAGENET1K_FEATURES", "", None, (224, 224)),  # published as “not a number”
    ],
)  # fmt: skip
def test_absent_is_absent_and_each_task_has_its_metric(
    name: str, weights: str, metric: str, accuracy: float | None, size: tuple[int, ...]
) -> None:
    row = of(name, weights)
    assert (row.metric, row.accuracy, row.input_size) == (metric, accuracy, size)


def test_input_sizes_are_those_that_models_are_opened_with() -> None:
    for name in ("efficientnet_b7", "swin3d_t", "lraspp_mobilenet_v3_large", "vit_h_14"):
        for entry in torchvision_models.entries(name):
            row = of(name, entry.name)
            assert build(row.source, "meta").inputs[0].shape[2:] == row.input_size


def test_weights_on_this_machine_are_marked() -> None:
    name = CatalogueName.parse("squeezenet1_1@IMAGENET1K_V1")
    file = torchvision_models.published(name).file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    assert [one.name for one in catalogue_entries() if one.cached] == ["squeezenet1_1"]


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["efficientnet_b0", "efficientnet_b7"], "EfficientNet"),
        (["efficientnet_v2_s", "efficientnet_v2_l"], "EfficientNetV2"),
        (["resnet18", "resnet152"], "ResNet"),
        (["resnext50_32x4d"], "ResNeXt"),
        (["wide_resnet50_2"], "Wide ResNet"),
        (["vgg11", "vgg19"], "VGG"),
        (["vgg11_bn", "vgg19_bn"], "VGG with batch norm"),
        (["swin_t"], "Swin"),
        (["swin_v2_t"], "Swin V2"),
        (["swin3d_t"], "Video Swin"),
        (["ssd300_vgg16"], "SSD"),
        (["ssdlite320_mobilenet_v3_large"], "SSDlite"),
        (["quantized_resnet18", "quantized_resnet50"], "ResNet, quantizable"),
    ],
)
def test_families(names: list[str], family: str) -> None:
    assert {family_of(name) for name in names} == {family}


def test_every_model_has_a_family_of_its_own_name() -> None:
    for name in torchvision_models.names():
        assert family_of(name) != name


def test_rows_of_timm() -> None:
    pytest.importorskip("timm")
    rows = {one.name: one for one in catalogue_entries() if one.origin == "timm"}
    assert tuple(rows) == timm_models.names()
    assert rows["resnet10t"] == CatalogueEntry(
        "resnet10t", "timm:resnet10t@pretrained", "classification", "resnet", "c3_in1k",
        input_size=(176, 176), origin="timm",
    )  # fmt: skip
    assert {one.accuracy for one in rows.values()} == {None}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20))))
def test_the_front_is_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points, cost=lambda one: one[0], gain=lambda one: one[1])
    assert front == sorted(set(front))
    for cost, gain in points:
        beaten = any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
        assert beaten is ((cost, gain) not in front)


# Costs


SMALL = "torchvision:squeezenet1_1@IMAGENET1K_V1"


def test_energy_is_that_of_the_traced_model(cache: Path) -> None:
    made = build(SMALL, "meta")
    operators = trace(made.model, sample_inputs(made.inputs)).operators
    wanted = estimate(operators, EnergySettings(), 1).series
    found = model_costs(SMALL, Job())
    assert found.energy == wanted.total.value
    assert (found.hardware, found.latency, found.problem) == (default_hardware().name, None, "")
    assert [one.name for one in cache.iterdir()] == [costs.FILE]


def measured(monkeypatch: pytest.MonkeyPatch, *totals: Quantity) -> list[Quantity]:
    """Let measurements give these; those that are left."""
    left = list(totals)
    monkeypatch.setattr(costs, "measure_latency", lambda *_: Series(LATENCY, left.pop(0)))
    return left


def test_latency_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left = measured(monkeypatch, Quantity(0.5, 0.4, 0.6), Quantity(1))
    first, second = (model_costs(SMALL, Job(), energy=False, latency=True) for _ in range(2))
    assert (first.latency, first.latency_low, first.latency_high) == (0.5, 0.4, 0.6)
    assert (first.energy, first.hardware) == (None, "")
    assert second == first
    assert len(left) == 1


def test_latency_of_a_busy_machine_is_shown_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    left = measured(monkeypatch, Quantity(0.5, 0.1, 0.9), Quantity(0.2, 0.19, 0.21))
    found = [model_costs(SMALL, Job(), False, True).latency for _ in range(3)]
    assert found == [0.5, 0.2, 0.2]
    assert not left


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(costs, "machine", lambda: "another"),
        lambda patch: patch.setattr("torch.get_num_threads", lambda: 1000),
        lambda patch: patch.setattr("torch.__version__", "9"),
    ],
)
def test_latency_belongs_to_machine_threads_and_version(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = measured(monkeypatch, Quantity(0.5), Quantity(0.2))
    assert model_costs(SMALL, Job(), False, True).latency == 0.5
    change(monkeypatch)
    assert model_costs(SMALL, Job(), False, True).latency == 0.2
    assert not left


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}', b"[]", b"\xff", b'{"b": [NaN]}'])
def test_a_damaged_file_of_figures_is_taken_anew(content: bytes, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "some.json").write_bytes(content)
    assert kept.kept_figures("some.json", "a") is None
    kept.keep_figures("some.json", "a", (1.5, 2))
    kept.keep_figures("some.json", "b", (3,))
    assert kept.kept_figures("some.json", "a") == (1.5, 2.0)
    assert kept.kept_figures("some.json", "b") == (3.0,)


def test_kept_figures_of_another_number_are_taken_anew(cache: Path) -> None:
    cache.mkdir(parents=True)
    key = costs._energy_key(SMALL, costs.default_hardware())
    kept.keep_figures(costs.FILE, key, (1.0, 2.0))
    assert model_costs(SMALL, Job()).energy not in (None, 1.0, 2.0)


def test_a_folder_that_cannot_be_written_costs_nothing(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"a file where the folder would be")
    assert model_costs(SMALL, Job()).energy is not None


def test_what_cannot_be_opened_says_why() -> None:
    found = model_costs("nosuchmodel", Job(), latency=True)
    assert "nosuchmodel" in found.problem
    assert (found.energy, found.latency) == (None, None)


def test_memory_that_runs_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(costs, "measure_latency", full)
    assert model_costs(SMALL, Job(), False, True).problem == "Memory ran out."


def test_a_cancelled_measurement_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def cancelled(*_args: Any) -> None:
        raise Cancelled

    monkeypatch.setattr(costs, "measure_latency", cancelled)
    with pytest.raises(Cancelled):
        model_costs(SMALL, Job(), False, True)
    assert not cache.exists()


@pytest.mark.slow
def test_energy_of_a_model_whose_shapes_depend_on_data() -> None:
    found = model_costs("fasterrcnn_mobilenet_v3_large_320_fpn", Job())
    assert found.energy is not None
    assert found.problem == ""
