"""Which channels matter: each criterion by hand, against torch-pruning, and against the loss."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch_pruning
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.datasets import DataSet, Split
from engine.editing import Subject, carried_out, look_at
from engine.edits import AppliedEdit, PruneChannels, Quantize
from engine.errors import DataSetMismatch, EditRefused
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.pruning import statistics
from engine.pruning.channels import ChannelPruning
from engine.pruning.coupling import Coupling
from engine.pruning.criteria import relative, unit_scores
from engine.pruning.statistics import (
    channel_products,
    input_magnitudes,
    input_norms,
    weight_gradients,
)
from engine.quantization.quantizing import Quantization

CRITERIA = ("l1", "l2", "bn-scale", "fpgm", "taylor", "activation", "lamp", "random")


def scores(subject: Subject, criterion: str, layer: str = "0", **wish: object) -> list[float]:
    edit = PruneChannels((LayerId(layer),), 0.5, criterion, **wish)
    group = Coupling(subject.model, subject.inputs).of(LayerId(layer))
    return unit_scores(edit, group, subject, Job()).tolist()


def gone(subject: Subject, criterion: str, ratio: float, layer: str = "0") -> tuple[int, ...]:
    edit = PruneChannels((LayerId(layer),), ratio, criterion, multiple=1)
    slices = ChannelPruning().decide(edit, subject, Job()).slices
    return next(one.removed for one in slices if (one.layer, one.side) == (layer, "out"))


def pair(weights: list[list[float]], norm: list[float] | None = None) -> nn.Sequential:
    """A 1 x 1 convolution of these weights, a batch norm of these scales, and a reader."""
    first = torch.tensor(weights)
    channels, inputs = first.shape
    conv = nn.Conv2d(inputs, channels, 1, bias=False)
    conv.weight.data = first.reshape(channels, inputs, 1, 1)
    middle: nn.Module = nn.ReLU()
    if norm is not None:
        middle = nn.BatchNorm2d(channels)
        middle.weight.data = torch.tensor(norm)
    return nn.Sequential(conv, middle, nn.Conv2d(channels, 2, 1)).eval()


def seen(model: nn.Module, *shape: int, data: DataSet | None = None) -> Subject:
    torch.manual_seed(0)
    return look_at(model.eval(), (torch.randn(shape),), data)


def task(inputs: Tensor, labels: Tensor) -> DataSet:
    half = Split(inputs, labels)
    return DataSet("toy", ("a", "b"), half, half, "")


# By hand


ROWS = [[1.5, 0.0], [-3.0, 1.0], [1.0, -1.0], [0.1, 0.2]]


def test_magnitudes_by_hand() -> None:
    subject = seen(pair(ROWS), 1, 2, 3, 3)
    assert scores(subject, "l1") == pytest.approx([1.5, 4.0, 2.0, 0.3])
    assert scores(subject, "l2") == pytest.approx([1.5, 10**0.5, 2**0.5, 0.05**0.5])
    assert gone(subject, "l1", 0.5) == (0, 3)
    assert gone(subject, "l2", 0.5) == (2, 3)


def test_the_scale_of_the_batch_norm_by_hand() -> None:
    subject = seen(pair(ROWS, [0.5, -0.1, 2.0, 0.4]), 1, 2, 3, 3)
    assert scores(subject, "bn-scale") == pytest.approx([0.5, 0.1, 2.0, 0.4])
    assert gone(subject, "bn-scale", 0.5) == (1, 3)


def test_the_filter_nearest_to_all_others_goes_first() -> None:
    """On a line at 0, 1, 2 and 10, where the second and third lie in the middle."""
    subject = seen(pair([[0.0], [1.0], [2.0], [10.0]]), 1, 1, 3, 3)
    assert scores(subject, "fpgm") == pytest.approx([13.0, 11.0, 11.0, 27.0])
    assert gone(subject, "fpgm", 0.5) == (1, 2)


def test_lamp_by_hand() -> None:
    """Squares 1, 4, 9, 16: each as a share of itself and all larger ones."""
    subject = seen(pair([[2.0], [1.0], [4.0], [3.0]]), 1, 1, 3, 3)
    assert scores(subject, "lamp") == pytest.approx([4 / 29, 1 / 30, 1.0, 9 / 25])


def test_nothing_is_relative_to_nothing() -> None:
    assert relative(np.zeros(3)).tolist() == [0, 0, 0]


def test_activation_is_what_the_reader_sees() -> None:
    """Behind the ReLU: of two pixels the mean, of the negative none."""
    model = pair([[1.0], [-1.0], [0.25]])
    images = torch.tensor([[[[1.0, 3.0]]], [[[-4.0, 0.0]]]])
    subject = seen(model, 1, 1, 1, 2, data=task(images, torch.tensor([0, 1])))
    assert scores(subject, "activation") == pytest.approx([1.0, 1.0, 0.25])


def test_taylor_by_hand() -> None:
    """A linear chain u -> w v u of two channels, and the loss of two classes.

    Every one of the three factors of a path, written or read, has the same product with its
    gradient; a unit goes with its filter and its column, and so counts twice.
    """
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0], [2.0]])
    model[1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    subject = seen(model, 1, 1, data=task(torch.tensor([[1.0]]), torch.tensor([0])))
    # Logits 1 and 2; the gradient of the loss in them is softmax - target.
    second = 1 / (1 + math.exp(-1))
    assert scores(subject, "taylor") == pytest.approx(
        [(2 * 1 * (1 - second - 1)) ** 2, (2 * 2 * second) ** 2]
    )


def test_the_squares_of_batches_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples that pull in opposite directions: together nothing, one by one a lot."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 2))
    model[1].weight.data = torch.eye(2)
    model[1].bias.data.zero_()
    model[0].weight.data = torch.tensor([[1e-3], [1e-3]])
    data = task(torch.ones(2, 1), torch.tensor([0, 1]))
    together = scores(seen(model, 1, 1, data=data), "taylor")
    monkeypatch.setattr(statistics, "_GRADIENT_BATCH", 1)
    alone = scores(seen(model, 1, 1, data=data), "taylor")
    assert max(together) < 1e-12
    assert alone == pytest.approx([(2 * 1e-3 * 0.5) ** 2] * 2, rel=1e-3)


def test_random_scores_follow_the_seed_and_the_layer() -> None:
    subject = seen(nn.Sequential(nn.Linear(2, 9), nn.Linear(9, 9), nn.Linear(9, 2)), 1, 2)
    assert scores(subject, "random") == scores(subject, "random")
    assert scores(subject, "random") != scores(subject, "random", seed=1)
    assert scores(subject, "random") != scores(subject, "random", layer="1")


class Sum(nn.Module):
    """Two branches write what one layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 1, bias=False), nn.Conv2d(2, 3, 1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.one(x)) + self.two(x))).mean((2, 3))


def test_scores_are_summed_over_all_that_write_a_unit() -> None:
    model = Sum()
    model.one.weight.data = torch.tensor([[3.0, 0], [0, 1], [2, 2]]).reshape(3, 2, 1, 1)
    model.two.weight.data = torch.tensor([[0.0, 4], [0, 0], [1, 0]]).reshape(3, 2, 1, 1)
    subject = seen(model, 1, 2, 3, 3)
    assert scores(subject, "l1", "one") == pytest.approx([7, 1, 5])
    assert scores(subject, "l2", "two") == pytest.approx([5, 1, 3])


def test_integer_weights_count_as_what_they_stand_for() -> None:
    """All filters hold the same integers."""
    subject = seen(pair([[1.0], [0.1], [-0.5], [0.2]]), 1, 1, 3, 3)
    edit = Quantize((LayerId("0"),))
    decision = Quantization().decide(edit, subject, Job())
    subject = carried_out(AppliedEdit(edit, decision), subject)
    assert subject.model[0].weight.abs().flatten().tolist() == [127] * 4
    assert scores(subject, "l1") == pytest.approx([1.0, 0.1, 0.5, 0.2])
    assert scores(subject, "l2") == pytest.approx([1.0, 0.1, 0.5, 0.2])
    distances = [0.9 + 1.5 + 0.8, 0.9 + 0.6 + 0.1, 1.5 + 0.6 + 0.7, 0.8 + 0.1 + 0.7]
    assert scores(subject, "fpgm") == pytest.approx(distances)


def test_filters_of_transposed_convolutions_are_those_of_their_outputs() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1))
    model[0].weight.data = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).reshape(2, 3, 1, 1)
    assert scores(seen(model, 1, 2, 3, 3), "l1") == pytest.approx([5, 7, 9])


# Against torch-pruning


def theirs(model: nn.Sequential, importance: Callable[..., Tensor], *shape: int) -> list[float]:
    graph = torch_pruning.DependencyGraph().build_dependency(model, torch.randn(shape))
    group = graph.get_pruning_group(
        model[0], torch_pruning.prune_conv_out_channels, list(range(model[0].out_channels))
    )
    return importance(group).tolist()


def living(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 2, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    model[1].weight.data.normal_()
    return model.eval()


importance = torch_pruning.importance
convolutions = {"target_types": [nn.Conv2d], "group_reduction": "first", "normalizer": None}


@pytest.mark.parametrize(
    ("criterion", "oracle", "power"),
    [
        ("l1", importance.MagnitudeImportance(p=1, **convolutions), 1),
        ("l2", importance.MagnitudeImportance(p=2, **convolutions), 2),
        ("bn-scale", importance.BNScaleImportance(normalizer=None), 1),
    ],
)
def test_torch_pruning_scores_alike(
    criterion: str, oracle: Callable[..., Tensor], power: int
) -> None:
    for seed in range(3):
        model = living(seed)
        ours = [one**power for one in scores(seen(model, 1, 3, 9, 9), criterion)]
        assert ours == pytest.approx(theirs(model, oracle, 1, 3, 9, 9), rel=1e-5)


def test_torch_pruning_finds_the_same_median() -> None:
    """It takes distances of magnitudes: of positive weights those of the weights."""
    model = living(0)
    model[0].weight.data.abs_()
    oracle = importance.FPGMImportance(p=1, group_reduction="first", normalizer=None)
    ours = scores(seen(model, 1, 3, 9, 9), "fpgm")
    assert ours == pytest.approx(theirs(model, oracle, 1, 3, 9, 9), rel=1e-4)


def test_torch_prunings_lamp_is_ours() -> None:
    oracle = importance.LAMPImportance(group_reduction="first")
    oracle.target_types = (nn.Conv2d,)
    model = living(1)
    assert scores(seen(model, 1, 3, 9, 9), "lamp") == pytest.approx(
        theirs(model, oracle, 1, 3, 9, 9), rel=1e-4
    )


# Against the loss


def labelled(count: int, *shape: int) -> DataSet:
    generator = torch.Generator().manual_seed(5)
    return task(
        torch.randn(count, *shape, generator=generator),
        torch.randint(2, (count,), generator=generator),
    )


@pytest.mark.parametrize("make", [lambda: living(3), Sum])
def test_taylor_is_the_slope_of_the_loss_as_a_unit_fades(make: Callable[[], nn.Module]) -> None:
    """All that goes with a unit is scaled by 1 - x: by finite differences of the loss."""
    torch.manual_seed(2)
    model = make().double().eval()
    name, inputs = ("0", 3) if isinstance(model, nn.Sequential) else ("one", 2)
    data = labelled(12, inputs, 6, 6)
    data = task(data.training.images.double(), data.training.labels)
    subject = look_at(model, (torch.randn(1, inputs, 6, 6).double(),), data)
    found = scores(subject, "taylor", name)
    group = Coupling(model, subject.inputs).of(LayerId(name))

    def loss(unit: int, scale: float) -> float:
        faded = copy.deepcopy(model)
        for member in group.members:
            module = faded.get_submodule(member.layer)
            goes = torch.from_numpy(member.units == unit)
            if member.side == "in":
                module.weight.data[:, goes] *= scale
                continue
            module.weight.data[goes] *= scale
            if module.bias is not None:
                module.bias.data[goes] *= scale
        with torch.no_grad():
            return float(cross_entropy(faded(data.training.images), data.training.labels))

    step = 1e-5
    slopes = [(loss(u, 1 + step) - loss(u, 1 - step)) / (2 * step) for u in range(group.units)]
    assert found == pytest.approx([one**2 for one in slopes], rel=1e-5, abs=1e-14)
    assert max(found) > 1e-6


# What training samples tell


def test_gradients_are_those_of_the_mean_loss_over_all_samples() -> None:
    """Batches of another size weigh as much as they hold."""
    model, data = living(4), labelled(21, 3, 6, 6)
    subject = seen(model, 1, 3, 6, 6, data=data)
    names = ("0.weight", "1.bias", "3.weight")
    found = weight_gradients(subject, names, 21, Job())
    loss = cross_entropy(model(data.training.images), data.training.labels)
    wanted = torch.autograd.grad(loss, [dict(model.named_parameters())[one] for one in names])
    for name, gradient in zip(names, wanted, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_the_models_own_tensors_get_no_gradients() -> None:
    model = living(4)
    model[0].weight.requires_grad_(False)
    subject = seen(model, 1, 3, 6, 6, data=labelled(4, 3, 6, 6))
    gradient = weight_gradients(subject, ["0.weight"], 4, Job())["0.weight"]
    assert gradient.abs().max() > 0
    channel_products(subject, 4, Job())
    assert all(one.grad is None for one in model.parameters())
    assert not model[0].weight.requires_grad


class Unread(nn.Module):
    """One layer of two is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(3, 4), nn.Linear(3, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.used(x)))


def test_what_no_sample_reaches_has_no_gradient_and_reads_nothing() -> None:
    subject = seen(Unread(), 1, 3, data=labelled(4, 3))
    gradients = weight_gradients(subject, ["idle.weight", "used.weight"], 4, Job())
    assert not gradients["idle.weight"].any()
    assert gradients["used.weight"].any()
    assert set(input_magnitudes(subject, 4, Job())) == {"used", "last"}
    with pytest.raises(EditRefused, match="What idle reads cannot be seen"):
        input_norms(subject, [LayerId("idle")], 4, Job())


def test_norms_of_what_layers_read() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).eval()
    data = labelled(70, 2, 4, 4)  # two batches
    subject = seen(model, 1, 2, 4, 4, data=data)
    norms = input_norms(subject, [LayerId("0"), LayerId("3")], 70, Job())
    images = data.training.images
    with torch.no_grad():
        hidden = model[:3](images)
    torch.testing.assert_close(norms["0"].float(), images.square().sum((0, 2, 3)).sqrt())
    torch.testing.assert_close(norms["3"].float(), hidden.square().sum(0).sqrt())
    magnitudes = input_magnitudes(subject, 70, Job())
    torch.testing.assert_close(magnitudes["0"].float(), images.abs().mean((0, 2, 3)))
    torch.testing.assert_close(magnitudes["3"].float(), hidden.abs().mean(0))


class Grouped(nn.Module):
    """Convolutions in groups, plain and transposed, whose sums by channel are not plain."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 1)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.up(torch.relu(self.grouped(self.first(x))))).mean((2, 3)))


@pytest.mark.parametrize("layer", ["grouped", "up", "last"])
def test_products_by_channel_are_those_of_what_reads_and_writes_it(layer: str) -> None:
    """Scaling what a layer reads, or its filters, by channel: the slopes of the loss."""
    torch.manual_seed(3)
    model, data = Grouped().eval(), labelled(8, 2, 5, 5)
    subject = seen(model, 1, 2, 5, 5, data=data)
    products = channel_products(subject, 8, Job())
    module = model.get_submodule(layer)
    width = products[layer, "in", 0].shape[1]
    gates = torch.ones(width, requires_grad=True)
    handle = module.register_forward_pre_hook(
        lambda one, x: x[0] * (gates if isinstance(one, nn.Linear) else gates[:, None, None])
    )
    loss = cross_entropy(model(data.training.images), data.training.labels)
    handle.remove()
    (slopes,) = torch.autograd.grad(loss, gates)
    torch.testing.assert_close(products[layer, "in", 0][0].float(), slopes, rtol=1e-4, atol=1e-7)
    out = torch.ones(products[layer, "out", 0].shape[1], requires_grad=True)
    handle = module.register_forward_hook(
        lambda one, _, y: y * (out if isinstance(one, nn.Linear) else out[:, None, None])
    )
    loss = cross_entropy(model(data.training.images), data.training.labels)
    handle.remove()
    (slopes,) = torch.autograd.grad(loss, out)
    torch.testing.assert_close(products[layer, "out", 0][0].float(), slopes, rtol=1e-4, atol=1e-7)


def test_samples_are_looked_at_once_for_all_drafts_of_a_state() -> None:
    class Counted(Split):
        read = 0

        def spread(self, count: int) -> Split:
            Counted.read += 1
            return super().spread(count)

    data = labelled(8, 3, 6, 6)
    counted = Counted(data.training.images, data.training.labels)
    subject = seen(living(0), 1, 3, 6, 6, data=replace(data, training=counted))
    for criterion in ("taylor", "activation"):
        before = Counted.read
        first = scores(subject, criterion, samples=8)
        assert scores(subject, criterion, samples=8) == first
        assert Counted.read == before + 1
        scores(subject, criterion, samples=4)
        assert Counted.read == before + 2
        # Other data give other figures, although the analyses of the state are kept.
        other = replace(subject, data=labelled(9, 3, 6, 6))
        assert scores(other, criterion, samples=8) != first
    weight_gradients(subject, ["0.weight", "3.weight"], 8, Job())
    before = Counted.read
    weight_gradients(subject, ["3.weight"], 8, Job())
    assert Counted.read == before


def test_integer_layers_let_gradients_through() -> None:
    data = labelled(8, 3, 6, 6)
    subject = seen(living(0), 1, 3, 6, 6, data=data)
    edit = Quantize((LayerId("0"), LayerId("3")))
    decision = Quantization().decide(edit, subject, Job())
    quantized = carried_out(AppliedEdit(edit, decision), subject)
    for criterion in ("taylor", "activation"):
        found, wanted = scores(quantized, criterion), scores(subject, criterion)
        assert np.argsort(found).tolist()[-2:] == np.argsort(wanted).tolist()[-2:]


# What is refused


@pytest.mark.parametrize("criterion", ["taylor", "activation"])
def test_without_data_what_looks_at_them_is_refused(criterion: str) -> None:
    with pytest.raises(EditRefused, match="no data set is chosen") as caught:
        scores(seen(living(0), 1, 3, 6, 6), criterion)
    assert "data set" in caught.value.remedy


def test_without_a_batch_norm_its_scale_is_refused() -> None:
    with pytest.raises(EditRefused, match="channel of 0 goes through a batch norm"):
        scores(seen(pair(ROWS), 1, 2, 3, 3), "bn-scale")


class Stopped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))).detach()


class Choosy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise ValueError("one at a time")
        return self.last(torch.relu(self.first(x)))


@pytest.mark.parametrize(
    ("model", "criterion", "words"),
    [
        (Stopped, "taylor", "does not let gradients through"),
        (Choosy, "taylor", "does not run on training samples of toy: one at a time"),
        (Choosy, "activation", "does not run on training samples of toy: one at a time"),
    ],
)
def test_models_that_samples_say_nothing_of(
    model: type[nn.Module], criterion: str, words: str
) -> None:
    with pytest.raises(EditRefused, match=words):
        scores(seen(model(), 1, 3, data=labelled(4, 3)), criterion, layer="first")


def test_a_model_without_scores_of_classes_has_no_loss() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    with pytest.raises(DataSetMismatch, match="no score for each class"):
        scores(seen(model, 1, 3, 6, 6, data=labelled(4, 3, 6, 6)), "taylor")


@pytest.mark.parametrize("criterion", ["taylor", "activation"])
def test_looking_at_samples_can_be_cancelled(criterion: str, stop_at: type[Job]) -> None:
    subject = seen(living(0), 1, 3, 6, 6, data=labelled(200, 3, 6, 6))
    group = Coupling(subject.model, subject.inputs).of(LayerId("0"))
    edit = PruneChannels((LayerId("0"),), 0.5, criterion)
    with pytest.raises(Cancelled):
        unit_scores(edit, group, subject, stop_at(3))
    assert len(scores(subject, criterion)) == 7  # nothing half-done was remembered


# Laws


@given(st.sampled_from(CRITERIA), st.integers(0, 3))
def test_scores_are_finite_and_not_negative(criterion: str, seed: int) -> None:
    subject = seen(living(seed), 1, 3, 6, 6, data=labelled(8, 3, 6, 6))
    found = scores(subject, criterion)
    assert len(found) == 7
    assert all(math.isfinite(one) and one >= 0 for one in found)
    assert found == scores(subject, criterion)


@given(
    st.sampled_from(["l1", "l2", "fpgm", "lamp", "taylor", "activation"]), st.permutations(range(7))
)
def test_scores_follow_their_channels(criterion: str, order: list[int]) -> None:
    """Channels in another order have the same scores in that order."""
    model, data = living(1), labelled(8, 3, 6, 6)
    shuffled = living(1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        for at in (0, 1):
            tensor = getattr(shuffled[at], name, None)
            if tensor is not None:
                tensor.data = tensor.data[order]
    shuffled[3].weight.data = shuffled[3].weight.data[:, order]
    ours = scores(seen(model, 1, 3, 6, 6, data=data), criterion)
    theirs = scores(seen(shuffled, 1, 3, 6, 6, data=data), criterion)
    assert theirs == pytest.approx([ours[at] for at in order], rel=1e-3, abs=1e-12)
