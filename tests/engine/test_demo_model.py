"""The demo network, its shipped weights, and the data they were trained on."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch_pruning
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from engine.datasets import SPLIT_SEED, Split, digits, load_data
from engine.errors import DataSetNotFound
from engine.job import Job
from engine.requests import DataRequest, InputSpec
from engine.resources import resource
from engine.sources.demo import INPUT_SHAPE, WEIGHTS, DigitsNet
from engine.state import ModelInfo

# Of the two splits' images and labels in order. A new value means that the shipped weights have
# seen validation images: retrain them with resources/demo/train.py.
SPLIT_DIGEST = "b2799c0fe4f5f4d4b0f4ca6a4cac13d5f77489dd7622f277154ee1c99b5285a0"


@pytest.fixture
def shipped() -> DigitsNet:
    model = DigitsNet()
    model.load_state_dict(load_file(resource(WEIGHTS)), strict=True)
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    return float((model(split.images).argmax(dim=1) == split.labels).double().mean())


def digest(*splits: Split) -> str:
    sha = hashlib.sha256()
    for split in splits:
        # Pixels are whole sixteenths, so bytes of the original levels are exact on any machine.
        sha.update(bytes((split.images * 16).to(torch.uint8).flatten().tolist()))
        sha.update(bytes(split.labels.tolist()))
    return sha.hexdigest()


# Data


def test_digits_have_the_documented_form() -> None:
    data = digits()
    assert data.name == "digits"
    assert data.classes == tuple("0123456789")
    assert (len(data.training), len(data.validation)) == (1347, 450)
    for split in (data.training, data.validation):
        assert split.images.shape == (len(split), 1, 8, 8)
        assert split.images.dtype == torch.float32
        assert split.labels.dtype == torch.int64
        assert (split.images.min(), split.images.max()) == (0, 1)


def test_split_is_stratified() -> None:
    data = digits()
    training = data.training.labels.bincount(minlength=10)
    validation = data.validation.labels.bincount(minlength=10)
    expected = (training + validation) * 450 / 1797
    assert ((validation - expected).abs() < 1).all()


def test_splits_share_no_image_and_leave_none_out() -> None:
    from sklearn.datasets import load_digits

    def counted(images: torch.Tensor) -> Counter[tuple[float, ...]]:
        return Counter(tuple(image) for image in images.flatten(1).tolist())

    data = digits()
    training, validation = counted(data.training.images), counted(data.validation.images)
    assert not training & validation
    everything = torch.as_tensor(load_digits().data, dtype=torch.float32) / 16
    assert training + validation == counted(everything)


def test_split_is_the_one_the_shipped_weights_were_trained_on() -> None:
    assert digest(digits().training, digits().validation) == SPLIT_DIGEST


def test_split_does_not_depend_on_the_random_state() -> None:
    torch.manual_seed(1)
    again = digits.__wrapped__()
    assert digest(again.training, again.validation) == SPLIT_DIGEST


@pytest.mark.parametrize("size", [1, 7, 450, 1000])
def test_batches_cover_a_split_once_and_in_order(size: int) -> None:
    split = digits().validation
    images, labels = zip(*split.batches(size), strict=True)
    assert torch.equal(torch.cat(images), split.images)
    assert torch.equal(torch.cat(labels), split.labels)
    assert all(len(batch) == size for batch in labels[:-1])
    assert 1 <= len(labels[-1]) <= size


@pytest.mark.parametrize("size", [0, -1])
def test_batches_refuse_a_size_below_one(size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        next(digits().validation.batches(size))


INFO = ModelInfo("digits_net", "demo", (InputSpec(INPUT_SHAPE),), trained=True)


def test_load_data_finds_digits() -> None:
    assert load_data(DataRequest("digits"), INFO, Job()) is digits()


def test_load_data_names_what_is_missing_and_what_exists() -> None:
    with pytest.raises(DataSetNotFound, match="“cifar”") as caught:
        load_data(DataRequest("cifar"), INFO, Job())
    assert "“digits”" in caught.value.remedy


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits.cache_clear()
    with pytest.raises(DataSetNotFound, match="scikit-learn") as caught:
        load_data(DataRequest("digits"), INFO, Job())
    assert "pip install scikit-learn" in caught.value.remedy
    assert isinstance(caught.value.__cause__, ImportError)


# Network


def test_shipped_weights_classify_the_validation_split(shipped: DigitsNet) -> None:
    assert accuracy(shipped, digits().validation) >= 0.98


def test_shipped_metadata_tells_the_truth(shipped: DigitsNet) -> None:
    with safe_open(resource(WEIGHTS), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["architecture"] == f"{DigitsNet.__module__}:{DigitsNet.__qualname__}"
    assert metadata["split_seed"] == str(SPLIT_SEED)
    assert metadata["training_seed"].isdecimal()
    # Another processor may round one image over to another class.
    measured = accuracy(shipped, digits().validation)
    assert float(metadata["validation_accuracy"]) == pytest.approx(measured, abs=1.5 / 450)


def test_shipped_weights_are_finite_and_single_precision() -> None:
    weights = load_file(resource(WEIGHTS))
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}


def test_parameter_count() -> None:
    assert 50_000 <= sum(parameter.numel() for parameter in DigitsNet().parameters()) <= 300_000


def test_every_leaf_module_runs_exactly_once(shipped: DigitsNet) -> None:
    runs: Counter[str] = Counter()
    leaves = [name for name, module in shipped.named_modules() if not list(module.children())]
    for name in leaves:
        shipped.get_submodule(name).register_forward_hook(lambda *_, name=name: runs.update([name]))
    shipped(torch.zeros(INPUT_SHAPE))
    assert runs == Counter(leaves)


def test_structures_that_pruning_cares_about(shipped: DigitsNet) -> None:
    convs = {name: m for name, m in shipped.named_modules() if isinstance(m, nn.Conv2d)}
    assert "stem.conv" in convs
    assert "stage1.block0.skip.conv" in convs
    assert "stage1.block1.skip.conv" not in convs
    depthwise = convs["stage2.depthwise.conv"]
    assert depthwise.groups == depthwise.in_channels > 1
    assert convs["stage2.pointwise.conv"].kernel_size == (1, 1)
    assert all(conv.bias is None for conv in convs.values())
    assert isinstance(shipped.get_submodule("head.fc"), nn.Linear)


def test_exports_with_any_batch_size(shipped: DigitsNet) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        shipped, (digits().validation.images[:2],), dynamic_shapes=({0: batch},)
    )
    images = digits().validation.images[:5]
    torch.testing.assert_close(program.module()(images), shipped(images))


def test_copy_is_equal_and_separate(shipped: DigitsNet) -> None:
    duplicate = copy.deepcopy(shipped)
    images = digits().validation.images[:5]
    assert torch.equal(duplicate(images), shipped(images))
    nn.init.zeros_(duplicate.get_submodule("head.fc").weight)
    assert not torch.equal(duplicate(images), shipped(images))


def test_pruning_one_conv_shrinks_all_that_depends_on_it(shipped: DigitsNet) -> None:
    graph = torch_pruning.DependencyGraph().build_dependency(shipped, torch.zeros(INPUT_SHAPE))
    conv = shipped.get_submodule("stage1.block0.conv2")
    group = graph.get_pruning_group(
        conv, torch_pruning.prune_conv_out_channels, idxs=list(range(19))
    )
    assert graph.check_pruning_group(group)
    group.prune()

    kept = 64 - 19
    shapes = {name: tuple(tensor.shape) for name, tensor in shipped.state_dict().items()}
    assert shapes["stage1.block0.conv2.weight"] == (kept, 64, 3, 3)
    assert shapes["stage1.block0.bn2.running_mean"] == (kept,)
    assert shapes["stage1.block0.skip.conv.weight"] == (kept, 32, 1, 1)
    assert shapes["stage1.block0.skip.bn.running_mean"] == (kept,)
    assert shapes["stage1.block1.conv1.weight"] == (64, kept, 3, 3)
    assert shapes["stage1.block1.conv2.weight"] == (kept, 64, 3, 3)
    assert shapes["stage1.block1.bn2.running_mean"] == (kept,)
    assert shapes["stage2.depthwise.conv.weight"] == (kept, 1, 3, 3)
    assert shapes["stage2.depthwise.bn.running_mean"] == (kept,)
    assert shapes["stage2.pointwise.conv.weight"] == (128, kept, 1, 1)
    assert shapes["head.fc.weight"] == (10, 128)
    assert shipped(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


# Training script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_train", resource("demo/train.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_repeats_itself_and_leaves_the_random_state_alone(script: ModuleType) -> None:
    before = torch.get_rng_state()
    first = script.train(seed=3, epochs=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    second = script.train(seed=3, epochs=1).state_dict()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor)


def test_saved_weights_load_and_carry_their_origin(script: ModuleType, tmp_path: Path) -> None:
    model = DigitsNet()
    script.save(model, 0.5, tmp_path / "weights.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    saved = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
    with safe_open(tmp_path / "weights.safetensors", framework="pt") as file:
        assert file.metadata()["validation_accuracy"] == "0.500000"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_retraining_reaches_the_shipped_accuracy(script: ModuleType, shipped: DigitsNet) -> None:
    retrained = script.train()
    validation = digits().validation
    assert accuracy(retrained, validation) == pytest.approx(accuracy(shipped, validation), abs=0.01)
