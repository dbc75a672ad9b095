"""Quantization-aware training: what is trained is what is kept, bit by bit, and it helps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.datasets import DataSet, Split
from engine.editing import look_at
from engine.edits import (
    Cast,
    FineTune,
    InputGrid,
    PruneWeights,
    Quantize,
    Retrained,
    RoundedOperator,
)
from engine.errors import RecipeMismatch
from engine.half_layers import HALF, half_from
from engine.integer_layers import (
    IntegerWeights,
    WeightFormat,
    quantized_from,
    round_input,
    round_weight,
)
from engine.job import Job
from engine.layers import ROOT, LayerId
from engine.metrics import ACCURACY
from engine.recovery.retrained import put_back
from engine.recovery.straight_through import as_stored, masks_of, pass_through
from engine.recovery.training import Training
from engine.rounded_operators import round_operators
from engine.session import ModelSession, open_model
from engine.sharing import own_parameter, share, stored_tensor, tensors_of
from engine.sources.description import describe, rebuild

HEAD, STEM = LayerId("head.fc"), LayerId("stem.conv")
ZERO = LayerId("0")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings are kept here, and not among the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


FORMATS = {  # format, and the shape of the scales of (4, 6) weights
    "tensor": (WeightFormat(8), ()),
    "channel": (WeightFormat(4), (4,)),
    "affine": (WeightFormat(3, symmetric=False), (4,)),
    "groups": (WeightFormat(2, symmetric=False, group_size=3), (4, 2)),
    "sixteen": (WeightFormat(16), (4,)),
}
INPUTS = {
    "static": InputGrid(8, 0.02, -7),
    "static16": InputGrid(16, 1e-4, 300),
    "dynamic": InputGrid(),
    "none": None,
}


def rounded(form: str = "channel", inputs: str = "none", seed: int = 0) -> Any:
    """A linear layer of integers, some of which are at the ends of their range."""
    torch.manual_seed(seed)
    layer = nn.Linear(6, 4)
    kind, shape = FORMATS[form]
    scale = torch.rand(shape) * 0.05 + 0.4 / 2**kind.bits
    low, high = kind.range
    zero_point = torch.zeros(shape, dtype=torch.int64)
    if not kind.symmetric:
        zero_point = torch.randint(low, high + 1, shape)
    integers = round_weight(layer.weight.detach(), kind, scale, zero_point)
    bias = layer.bias.detach()
    return quantized_from(layer, integers, bias, scale, zero_point, kind, INPUTS[inputs])


def in_training(layer: nn.Module) -> Any:
    """A model of that one layer, in training."""
    model: Any = own(nn.Sequential(layer))
    pass_through(model, [model[0]], {})
    return model


def own(model: nn.Module) -> nn.Module:
    """A copy over tensors of its own."""

    def cloned(tensor: Tensor) -> Tensor:
        is_parameter = isinstance(tensor, nn.Parameter)
        return own_parameter(tensor.clone(), tensor) if is_parameter else tensor.clone()

    return share(model, cloned)


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("form", FORMATS)
def test_what_trains_computes_what_is_kept_of_it(form: str, inputs: str) -> None:
    """Bit by bit, before training and when the weights have moved off their grid."""
    layer, x = rounded(form, inputs), torch.randn(5, 6) * 2
    model = in_training(layer)
    torch.testing.assert_close(model(x), layer(x), rtol=0, atol=0)
    kept = as_stored(model, dict(tensors_of(model)))
    assert torch.equal(kept["0.weight"], layer.weight)
    assert kept["0.weight"].dtype is layer.weight.dtype

    with torch.no_grad():
        model[0].weight.add_(torch.randn(4, 6) * 0.3)
    kept = as_stored(model, dict(tensors_of(model)))
    moved = share(layer)
    moved.weight = kept["0.weight"]  # type: ignore[assignment]
    assert not torch.equal(kept["0.weight"], layer.weight)
    torch.testing.assert_close(model(x), moved(x), rtol=0, atol=0)


@given(st.sampled_from(list(FORMATS)), st.integers(0, 2**31))
def test_gradients_pass_where_the_grid_reaches(form: str, seed: int) -> None:
    """Jacob et al. (2018): that of the float layer at the rounded weights, 0 beyond the ends."""
    layer = rounded(form)
    model, (kind, shape) = in_training(layer), FORMATS[form]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(4, 6, generator=generator))
    x = torch.randn(3, 6, generator=generator)
    (model(x) ** 2).sum().backward()

    plain = nn.Linear(6, 4)
    with torch.no_grad():
        plain.weight.copy_(model[0].float_weight())
        plain.bias.copy_(model[0].bias)
    (plain(x) ** 2).sum().backward()
    wide = (4, 6)
    scale, zero = layer.weight_scale, layer.weight_zero_point
    if len(shape) == 2:
        scale, zero = (one.repeat_interleave(kind.group_size, 1) for one in (scale, zero))
    elif shape:
        scale, zero = scale[:, None], zero[:, None]
    place = (model[0].weight.detach().double() / scale.double()).round() + zero
    low, high = kind.range
    within = ((place >= low) & (place <= high)).expand(wide)
    expected = plain.weight.grad * within  # type: ignore[operator]
    ends = ((place - low).abs() <= 1) | ((place - high).abs() <= 1)  # a half may go either way
    same = torch.isclose(model[0].weight.grad, expected, rtol=1e-5, atol=1e-6)
    assert bool((same | (ends & ~within)).all())
    assert torch.allclose(model[0].bias.grad, plain.bias.grad)  # type: ignore[arg-type]


def test_gradients_of_inputs_pass_where_their_grid_reaches() -> None:
    grid = InputGrid(8, 0.5, 0)  # -64 to 63.5
    x = torch.tensor([[-70.0, -64.0, 0.2, 63.5, 70.0, 1.0]], requires_grad=True)
    round_input(x, grid, fused=True).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 1, 1, 1, 0, 1]]
    y = x.detach().requires_grad_()
    round_input(y, InputGrid(), fused=True).sum().backward()
    assert y.grad is not None
    assert y.grad.tolist() == [[1] * 6]
    assert torch.equal(round_input(x, InputGrid(), fused=True), round_input(x, InputGrid()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("plain", "x"),
    [
        (nn.Linear(6, 4), torch.randn(3, 6)),
        (nn.Conv2d(2, 4, 3, bias=False), torch.randn(2, 2, 5, 5)),
        (nn.ConvTranspose1d(2, 4, 3), torch.randn(2, 2, 5)),
        (nn.Embedding(5, 3), torch.tensor([[1, 4]])),
    ],
    ids=["linear", "convolution", "transposed", "table"],
)
def test_what_trains_in_16_bits_computes_what_is_kept_of_it(
    plain: nn.Module, x: Tensor, dtype: torch.dtype
) -> None:
    assert type(plain) in HALF
    layer: Any = half_from(plain, dtype)
    model = in_training(layer)
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    assert torch.equal(model(x), layer(x))
    model(x).square().sum().backward()
    assert all(bool(one.grad.any()) for one in model.parameters())
    with torch.no_grad():
        model[0].weight.add_(torch.randn_like(model[0].weight) * 0.1)
    kept = as_stored(model, dict(tensors_of(model)))
    assert {one.dtype for one in kept.values()} == {dtype}
    moved: Any = share(layer)
    moved.weight = nn.Parameter(kept["0.weight"])
    assert torch.equal(model(x), moved(x))


class Sum(nn.Module):
    """A residual sum whose operands are rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


@pytest.mark.parametrize("grid", [InputGrid(8, 0.05, 3), InputGrid()], ids=["static", "dynamic"])
def test_rounded_operators_and_layers_that_do_not_train_let_gradients_through(
    grid: InputGrid,
) -> None:
    torch.manual_seed(0)
    block = Sum()
    model: Any = nn.Sequential(
        nn.Linear(6, 6), block, rounded(inputs="dynamic"), half_from(nn.Linear(4, 3), torch.float16)
    )
    round_operators(block, (RoundedOperator("add", (grid, grid)),))
    x = torch.randn(4, 6) * 0.5
    copy: Any = own(model)
    pass_through(copy, [copy[0]], {})
    assert torch.equal(copy(x), model(x))
    copy(x).sum().backward()
    assert bool(copy[0].weight.grad.any())
    assert copy[2].weight.dtype is torch.int8
    assert not copy[3].weight.requires_grad


# As an edit


def few(count: int = 200) -> DataSet:
    """Points around three centres."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(3, 6, generator=generator)
    labels = torch.arange(count) % 3
    split = Split(centres[labels] + 0.3 * torch.randn(count, 6, generator=generator), labels)
    return DataSet("toy", ("a", "b", "c"), split, split, "a toy")


def test_the_first_step_is_torchs_own_at_the_rounded_weights() -> None:
    """One step of SGD on latent weights, by hand from torch's gradient of a float layer."""
    torch.manual_seed(0)
    layer = rounded()
    head = nn.Linear(4, 3)
    data = few(8)
    subject = look_at(nn.Sequential(layer, head).eval(), (torch.zeros(2, 6),), data)
    edit = FineTune((ROOT,), 1, 0.1, schedule="constant", weight_decay=0.0, batch=64)
    training = Training(edit, subject)
    while not training.standing.accuracies:
        training.advance()  # what the state itself is worth
    before = {name: one.detach().clone() for name, one in training._trained.items()}
    assert torch.equal(before["0.weight"], layer.float_weight())
    inputs, targets = next(iter(training._samples.at(training._places(0)[0].tolist()).batches(64)))
    plain = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    plain.load_state_dict({name: one for name, one in before.items() if "scale" not in name})
    nn.functional.cross_entropy(plain(inputs), targets).backward()
    training.advance()
    for name, one in plain.named_parameters():
        step = before[name] - 0.1 * 1.9 * one.grad  # type: ignore[operator]  # Nesterov's first
        assert torch.allclose(training._trained[name], step, atol=1e-6)


def accuracy(session: ModelSession) -> float:
    total = session.evaluate(Job()).snapshot.current.table[ACCURACY.key].total
    assert total is not None
    return total.value


def products(session: ModelSession) -> tuple[LayerId, ...]:
    tree = session.snapshot.current.tree
    return tuple(one.id for one in tree if one.kind in ("Conv2d", "Linear"))


def test_it_wins_back_what_two_bits_cost(demo: ModelSession) -> None:
    before = accuracy(demo)
    edit = Quantize(products(demo), weight_bits=2, weight_observer="mse")
    demo.apply(edit, Job())
    rough = accuracy(demo)
    grids = {
        name: one.clone()
        for name, one in demo._subject(1).model.state_dict().items()
        if name.endswith("weight_scale")
    }
    change = demo.apply(FineTune((ROOT,), epochs=3), Job())
    assert rough < before - 0.1
    assert accuracy(demo) > before - (before - rough) / 4
    assert set(products(demo)) <= change.layers
    model = demo._subject(2).model
    state = model.state_dict()
    assert all(torch.equal(state[name], one) for name, one in grids.items())
    for layer in products(demo):
        integers: Any = model.get_submodule(layer)
        assert integers.weight.dtype is torch.int8
        assert set(integers.weight.unique().tolist()) <= {-1, 0, 1}
        assert change.snapshot.current.tree[layer].weight_bits == 2


def test_the_accuracy_that_is_told_is_that_of_the_integers(demo: ModelSession) -> None:
    """Held-out samples are judged by what is kept, not by the latent weights."""
    demo.apply(Quantize((HEAD, STEM), weight_bits=3, calibration_samples=64), Job())
    tuning = demo.start_tuning(FineTune((ROOT,), epochs=1, learning_rate=0.05), Job())
    while tuning.step(Job()):
        pass
    told = tuning.progress.accuracies[tuning.progress.best][1].value
    training: Any = tuning._training
    assert training.best(), "the epoch was better"
    demo.commit_tuning(tuning, Job())
    held = training._held_out
    images, labels = zip(*[(x, y) for x, y in held.batches(64)], strict=True)
    with torch.inference_mode():
        found = demo._subject(2).model(torch.cat(images)).argmax(1)
    assert float((found == torch.cat(labels)).float().mean()) == pytest.approx(told)


def test_undo_replay_and_files_give_the_same_bits(
    demo: ModelSession, job: Job, tmp_path: Path
) -> None:
    layers = (STEM, LayerId("stage2.pointwise.conv"), HEAD)
    demo.apply(Quantize(layers[:2], weight_bits=4, activations="dynamic"), job)
    demo.apply(Cast(layers[2:]), job)
    before = demo.fingerprint()
    demo.apply(FineTune((ROOT,), epochs=1, samples=300), job)
    after = demo.fingerprint()
    recipe = tmp_path / "r.json"
    demo.save_recipe(str(recipe), job)
    demo.undo(job)
    assert demo.fingerprint() == before
    demo.redo(job)
    assert demo.fingerprint() == after != before
    again = open_model("demo", job)
    again.apply_recipe(str(recipe), job)
    assert again.fingerprint() == after
    described, tensors = describe(
        demo._subject(3).model, "demo", demo.snapshot.model.inputs, trained=True
    )
    model = rebuild(described, tensors)
    wanted = dict(tensors_of(demo._subject(3).model))
    assert all(torch.equal(one, wanted[name]) for name, one in tensors_of(model))


# Zeros


@pytest.mark.parametrize("through_a_file", [False, True])
def test_masks_stay_and_other_zeros_are_free_to_move(
    demo: ModelSession, job: Job, through_a_file: bool
) -> None:
    masked, free = STEM, LayerId("stage2.pointwise.conv")
    demo.apply(PruneWeights((masked,), 0.5), job)
    demo.apply(Quantize((masked, free), weight_bits=3, calibration_samples=64), job)
    model = demo._subject(2).model
    if through_a_file:
        model = rebuild(*describe(model, "demo", demo.snapshot.model.inputs, trained=True))
    edit = FineTune((ROOT,), epochs=1, learning_rate=0.3)
    training = Training(edit, replace(demo._subject(2), model=model, data=demo._data))
    assert set(training._masks) == {f"{masked}.weight"}
    while not training.done:
        training.advance()
    kept = as_stored(training._model, dict(tensors_of(training._model)))
    before = {layer: model.get_submodule(layer).weight == 0 for layer in (masked, free)}
    assert float(before[masked].float().mean()) >= 0.5  # type: ignore[union-attr]
    assert not bool(kept[f"{masked}.weight"][before[masked]].any())  # type: ignore[index]
    assert bool(kept[f"{free}.weight"][before[free]].any())  # type: ignore[index]


def test_zeros_of_an_affine_grid_are_where_its_zero_point_is() -> None:
    layer = rounded("affine")
    layer.weight = layer.weight_zero_point[:, None].expand(4, 6).to(torch.int8).clone()
    layer.weight[0, 0] = int(layer.weight[0, 0]) + (1 if int(layer.weight[0, 0]) < 3 else -1)
    layer.is_masked = True
    model = in_training(layer)
    (mask,) = masks_of(model, dict(model.named_parameters())).values()
    assert mask.flatten().tolist() == [False] + [True] * 23


def test_integers_beside_the_grid_are_no_decision(
    demo: ModelSession, session_of: Callable[..., ModelSession]
) -> None:
    demo.apply(Quantize((HEAD,), weight_bits=4, calibration_samples=16), Job())
    model = share(demo._subject(1).model)
    weight = model.get_submodule(HEAD).weight
    assert isinstance(weight, Tensor)
    assert isinstance(model.get_submodule(HEAD), IntegerWeights)
    wrong = stored_tensor(f"{HEAD}.weight", torch.full_like(weight, 9))
    with pytest.raises(RecipeMismatch, match=r"head.fc would hold integers that its grid"):
        put_back(Retrained((wrong,), ""), model)
