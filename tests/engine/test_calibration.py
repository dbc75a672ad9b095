"""Ranges: counted exactly in one pass, chosen well, remembered where they hold, and shown."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import gelu, hardswish

from engine.datasets import DataSet, Split
from engine.editing import Subject, carried_out, look_at
from engine.edits import AppliedEdit, Cast, PruneChannels, Quantize
from engine.errors import DataSetMismatch, EditRefused
from engine.integer_layers import float_weight, integer_range, round_input, round_weight
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.quantization.calibration import Calibration, calibration
from engine.quantization.grids import input_grid, weight_plan
from engine.quantization.histograms import Histogram, chosen_range
from engine.quantization.quantizing import Quantization
from engine.requests import InputSpec
from engine.session import ModelSession
from engine.tracing import sample_inputs

OBSERVERS = ("min-max", "percentile", "mse")


def seen(model: nn.Module, *shape: int, data: DataSet | None = None) -> Subject:
    return look_at(model.eval(), sample_inputs([InputSpec(shape)]), data)


def toy_data(training: Tensor) -> DataSet:
    labels = torch.zeros(len(training), dtype=torch.int64)
    poison = Split(torch.full_like(training, float("nan")), labels)
    return DataSet("toy", tuple("0123456789"), Split(training, labels), poison, "a toy")


def counted(values: Tensor, batch: int = 1000) -> Histogram:
    histogram = Histogram.empty()
    for part in values.split(batch):
        histogram = histogram.with_values(part)
    return histogram


def squared_error(values: Tensor, least: float, most: float, bits: int, symmetric: bool) -> float:
    rounded = round_input(values, input_grid(least, most, bits, symmetric))
    return float((rounded - values).double().square().mean())


# Histograms


numbers = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=200
)


@given(numbers, st.integers(1, 50))
def test_a_histogram_counts_every_value_whatever_the_batches(
    values: list[float], batch: int
) -> None:
    tensor = torch.tensor(values)
    histogram, at_once = counted(tensor, batch), counted(tensor, len(values))
    assert torch.equal(histogram.places, at_once.places)
    assert torch.equal(histogram.counts, at_once.counts)
    assert (histogram.least, histogram.most) == (min(values), max(values))
    assert histogram.total == len(values)
    start, stop = histogram.edges
    assert (start <= stop).all()
    assert (start[1:] >= stop[:-1]).all()
    wanted = np.array(values, dtype=np.float32).astype(np.float64)
    for one, other, count in zip(start.tolist(), stop.tolist(), histogram.counts, strict=True):
        # A value on an edge belongs to the bin farther from 0; the smallest count as 0.
        assert count <= ((wanted >= one) & (wanted <= other)).sum() + (abs(wanted) < 1e-37).sum()


@given(numbers, st.integers(1, 300))
def test_bins_of_one_width_hold_as_many_values(values: list[float], bins: int) -> None:
    histogram = counted(torch.tensor(values) * 1e-30)
    start, stop, counts = histogram.evenly(bins)
    assert (start, stop) == (histogram.least, histogram.most)
    assert len(counts) == bins
    assert sum(counts) == len(values)
    assert min(counts) >= 0


def test_bins_of_one_width_are_those_of_numpy() -> None:
    values = torch.randn(200_000)
    _, _, counts = counted(values).evenly(64)
    wanted, _ = np.histogram(values.numpy(), 64)
    assert abs(np.array(counts) - wanted).max() <= 0.01 * wanted.max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_histogram_says_that_a_value_is_no_number(bad: float) -> None:
    assert counted(torch.randn(99)).finite
    assert not counted(torch.tensor([1.0, bad, 2.0])).finite


# Ranges from histograms


def drawn(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(60_000, generator=generator)
    flat = torch.rand(60_000, generator=generator) - 0.5
    outliers = torch.tensor([60.0, -45.0, 80.0])
    return {
        "gauss": normal,
        "laplace": -flat.sign() * (1 - 2 * flat.abs()).clamp(min=1e-9).log(),
        "relu": normal.relu(),
        "relu6": (normal * 4).clamp(0, 6),
        "hard-swish": hardswish(normal * 2),
        "gelu": gelu(normal),
        "outliers": torch.cat([normal, outliers]),
        "one-sided outliers": torch.cat([normal.relu(), outliers.relu()]),
    }[name]


DISTRIBUTIONS = (
    "gauss", "laplace", "relu", "relu6", "hard-swish", "gelu", "outliers", "one-sided outliers",
)  # fmt: skip


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_least_error_is_at_least_as_small_as_torchaos(name: str, symmetric: bool) -> None:
    """And as that of any range tried by brute force."""
    from torchao.quantization.pt2e import HistogramObserver

    values = drawn(name)
    found = chosen_range(counted(values), "mse", 8, symmetric, 100)
    ours = squared_error(values, *found, 8, symmetric)
    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    observer = HistogramObserver(dtype=torch.int8, qscheme=scheme, quant_min=-128, quant_max=127)
    for part in values.split(1000):
        observer(part)
    scale, zero_point = observer.calculate_qparams()
    theirs = torch.fake_quantize_per_tensor_affine(values, float(scale), int(zero_point), -128, 127)
    assert ours <= 1.02 * float((theirs - values).double().square().mean())
    least, most = float(values.min()), float(values.max())
    for share in np.linspace(0.02, 1, 50):
        reach = share * max(-least, most)
        cut = max(least, -reach), min(most, reach)
        assert ours <= 1.02 * squared_error(values, *cut, 8, symmetric)


@given(numbers, st.floats(50.1, 100), st.booleans())
def test_a_percentile_keeps_that_share_within(
    values: list[float], percentile: float, symmetric: bool
) -> None:
    tensor = torch.tensor(values)
    histogram = counted(tensor)
    least, most = chosen_range(histogram, "percentile", 8, symmetric, percentile)
    kept = ((tensor.double() >= least) & (tensor.double() <= most)).double().mean()
    assert kept >= percentile / 100 - 1e-9
    assert histogram.least <= least <= most <= histogram.most


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_percentile_is_that_of_numpy(symmetric: bool) -> None:
    values = drawn("gauss")
    least, most = chosen_range(counted(values), "percentile", 8, symmetric, 99)
    if symmetric:
        wanted = np.quantile(values.abs(), 0.99)
        assert (least, most) == pytest.approx((-wanted, wanted), rel=0.01)
    else:
        assert (least, most) == pytest.approx(np.quantile(values, [0.005, 0.995]), rel=0.01)


@given(numbers, st.sampled_from(OBSERVERS), st.sampled_from([8, 16]), st.booleans())
@settings(max_examples=60)
def test_every_range_lies_within_the_values(
    values: list[float], observer: Any, bits: int, symmetric: bool
) -> None:
    histogram = counted(torch.tensor(values))
    least, most = chosen_range(histogram, observer, bits, symmetric, 99.9)
    assert min(histogram.least, 0) <= least <= most <= max(histogram.most, 0)
    grid = input_grid(least, most, bits, symmetric)
    low, high = integer_range(bits)
    assert low <= grid.zero_point <= high
    assert grid.scale == float(np.float32(grid.scale)) > 0


# Grids of weights

WEIGHTS = st.builds(
    lambda seed, rows, width, spread: (
        torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
        * torch.logspace(-spread, spread, rows)[:, None]
    ),
    st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 40), st.floats(0, 4),
)  # fmt: skip


@given(
    WEIGHTS,
    st.integers(2, 16),
    st.booleans(),
    st.sampled_from(["tensor", "channel", "group"]),
    st.sampled_from(OBSERVERS),
)
@settings(max_examples=80)
def test_no_weight_within_its_range_is_off_by_more_than_half_a_step(
    weight: Tensor, bits: int, symmetric: bool, granularity: Any, observer: Any
) -> None:
    edit = Quantize(
        (LayerId("0"),),
        weight_bits=bits,
        weight_symmetric=symmetric,
        granularity=granularity,
        group_size=8,
        weight_observer=observer,
        percentile=90,
    )
    plan = weight_plan(edit, weight, None, None)
    integers = round_weight(weight, plan.form, plan.scale, plan.zero_point)
    values = float_weight(integers, plan.form, plan.scale, plan.zero_point)
    width = weight.numel() if granularity == "tensor" else plan.form.group_size or weight.shape[1]
    assert plan.scale.numel() * width == weight.numel()
    scale, zero = (
        one.reshape(-1, 1).expand(-1, width).reshape(weight.shape).double()
        for one in (plan.scale, plan.zero_point)
    )
    low, high = integer_range(bits, symmetric)
    least, most = (low - zero) * scale, (high - zero) * scale
    inside = weight.double().clamp(least, most)
    slack = 1e-6 * weight.abs().max() + 1e-30  # of float32
    assert ((values.double() - inside).abs() <= scale / 2 + slack).all()
    if observer == "min-max":  # nothing is cut but what moving the zero onto the grid costs
        assert ((weight.double() - inside).abs() <= scale / 2 + slack).all()


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_of_the_least_error_beat_every_shrunk_range(
    bits: int, symmetric: bool, granularity: Any
) -> None:
    weight = torch.randn(6, 48) ** 3
    edit = Quantize(
        (LayerId("0"),), weight_bits=bits, weight_symmetric=symmetric, granularity=granularity
    )

    def error(scale: Tensor, zero: Tensor, form: Any) -> Tensor:
        values = float_weight(round_weight(weight, form, scale, zero), form, scale, zero)
        return (values - weight).square().reshape(scale.numel(), -1).sum(1)

    best = weight_plan(replace(edit, weight_observer="mse"), weight, None, None)
    wide = weight_plan(edit, weight, None, None)
    found = error(best.scale, best.zero_point, best.form)
    for share in torch.linspace(0.12, 1, 40):
        tried = error(wide.scale * share, wide.zero_point, wide.form)
        assert (found <= tried * 1.03 + 1e-9).all()


@pytest.mark.parametrize(
    ("width", "asked", "size"),
    [(64, 32, 32), (147, 32, 21), (9, 32, 9), (96, 64, 48), (37, 32, 0), (1, 32, 0), (64, 1, 0)],
)
def test_a_group_is_the_largest_that_divides_the_row(width: int, asked: int, size: int) -> None:
    edit = Quantize((LayerId("0"),), granularity="group", group_size=asked)
    plan = weight_plan(edit, torch.randn(3, width), None, None)
    assert plan.form.group_size == size
    assert tuple(plan.scale.shape) == ((3, width // size) if size else (3,))


def test_the_percentile_of_weights_is_that_of_each_row() -> None:
    weight = torch.stack([torch.arange(1.0, 101), torch.arange(1.0, 101) * 10])
    edit = Quantize((LayerId("0"),), weight_observer="percentile", percentile=90)
    plan = weight_plan(edit, weight, None, None)
    assert plan.scale.tolist() == pytest.approx([90 / 127, 900 / 127])


# Calibrating


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().movedim(1, -1))


def test_one_pass_sees_what_every_layer_reads() -> None:
    """Channel by channel, against the values themselves."""
    model = Two().eval()
    images = torch.randn(200, 3, 6, 6) * torch.tensor([1.0, 5.0, 0.1]).reshape(3, 1, 1)
    subject = seen(model, 1, 3, 6, 6, data=toy_data(images))
    found = calibration(subject, 1000, Job())
    assert found.samples == 200
    with torch.inference_mode():
        inner = model.conv(images).relu()
    for layer, values in (("conv", images), ("fc", inner)):
        ranges = found.ranges(LayerId(layer))
        assert ranges is not None
        channels = values.movedim(1, 0).flatten(1)
        assert ranges.histogram.total == values.numel()
        assert (ranges.least, ranges.most) == (float(values.min()), float(values.max()))
        torch.testing.assert_close(ranges.channel_least, channels.amin(1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ranges.channel_most, channels.amax(1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ranges.channel_mean, channels.mean(1), rtol=1e-4, atol=1e-5)
    assert found.ranges(LayerId("")) is None
    assert found.operands(LayerId("fc")) == (0,)


def test_memory_does_not_grow_with_the_model() -> None:
    """Fewer samples run at once where one makes many values; none at most."""
    largest = []

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            if type(x) is Tensor:
                largest.append(len(x))
            return self.conv(x).expand(-1, 1024, -1, -1).relu()

    data = toy_data(torch.randn(40, 1, 32, 32))
    calibration(seen(Wide(), 1, 1, 32, 32, data=data), 40, Job())
    assert max(largest) == (1 << 23) // (1024 * 32 * 32)


def counting_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    import engine.quantization.calibration as module

    runs: list[int] = []
    real = module._calibrated

    def counted_run(*given: Any) -> Calibration:
        runs.append(1)
        return real(*given)

    monkeypatch.setattr(module, "_calibrated", counted_run)
    return runs


def applied(subject: Subject, edit: Any) -> Subject:
    from engine.editing import handler_of

    decision = handler_of(edit).decide(edit, subject, Job())
    return carried_out(AppliedEdit(edit, decision), subject)


def test_one_calibration_serves_all_edits_that_only_round(
    demo: ModelSession, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = counting_runs(monkeypatch)
    stem, fc, inner = map(LayerId, ("stem.conv", "head.fc", "stage1.block0.conv2"))
    demo.apply(Quantize((stem,)), job)
    demo.apply(Quantize((fc,)), job)
    demo.activation_ranges(inner, None, job)
    assert len(runs) == 1
    demo.undo(job)
    demo.apply(Quantize((fc,), weight_bits=4), job)
    assert len(runs) == 1
    demo.apply(Quantize((inner,), calibration_samples=64), job)
    assert len(runs) == 2  # other samples
    demo.load_data("digits", job)
    assert not any("data" in name for one in demo._kept.values() for name in one.memo)
    demo.activation_ranges(inner, None, job)
    assert len(runs) == 3  # chosen anew


def test_a_pruned_model_is_calibrated_anew(
    demo: ModelSession, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = counting_runs(monkeypatch)
    layer = LayerId("stage1.block0.conv2")
    demo.apply(Quantize((LayerId("head.fc"),)), job)
    demo.apply(PruneChannels((layer,), 0.25), job)
    demo.apply(Quantize((layer,)), job)
    assert len(runs) == 2


@pytest.mark.parametrize("first", ["quantized", "cast", "both"])
def test_a_decision_is_the_same_whatever_was_rounded_before(first: str) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    data = toy_data(torch.randn(300, 8))
    subject = seen(model, 1, 8, data=data)
    edit = Quantize((LayerId("4"),))
    alone = Quantization().decide(edit, subject, Job())
    before = seen(model, 1, 8, data=data)
    if first != "cast":
        before = applied(before, Quantize((LayerId("0"),), weight_bits=2))
    if first != "quantized":
        before = applied(before, Cast((LayerId("2"),), "bfloat16"))
    assert before.unrounded is not None
    assert Quantization().decide(edit, before, Job()) == alone
    assert Quantization().decide(edit, before, Job()) == alone  # remembered or not


def test_a_cancelled_calibration_leaves_nothing_behind(stop_at: type[Job]) -> None:
    data = toy_data(torch.randn(300, 8))
    subject = seen(nn.Sequential(nn.Linear(8, 4)), 1, 8, data=data)
    with pytest.raises(Cancelled):
        calibration(subject, 256, stop_at(3))  # type: ignore[call-arg]
    assert not [name for name in subject.memo if name.endswith("calibration")]
    assert calibration(subject, 256, Job()).samples == 256


def test_progress_is_told_by_samples() -> None:
    told = []

    class Listening(Job):
        def advance(self, steps: int = 1) -> None:
            super().advance(steps)
            told.append((self.text, self.done, self.total))

    data = toy_data(torch.randn(150, 8))
    calibration(seen(nn.Sequential(nn.Linear(8, 4)), 1, 8, data=data), 100, Listening())
    assert told == [("Calibrating", 64, 100), ("Calibrating", 100, 100)]


# Shown


def test_ranges_are_shown_with_the_grid_of_the_edit(demo: ModelSession, job: Job) -> None:
    layer = LayerId("head.fc")
    edit = Quantize((layer,), observer="min-max", activation_bits=16, calibration_samples=100)
    (shown,) = demo.activation_ranges(layer, edit, job)
    assert (shown.layer, shown.operand, shown.name, shown.samples) == (layer, 0, "input", 100)
    assert shown.least == shown.start <= shown.stop == shown.most
    assert len(shown.counts) == 256
    assert sum(shown.counts) == 100 * 128
    assert shown.grid is not None
    assert shown.grid.scale == pytest.approx((shown.most - min(shown.least, 0)) / 65535, rel=1e-5)
    assert demo.activation_ranges(layer, None, job)[0].grid is None


def test_a_layer_that_rounds_is_shown_with_its_own_grid(demo: ModelSession, job: Job) -> None:
    layer = LayerId("head.fc")
    (before,) = demo.activation_ranges(layer, Quantize((layer,), calibration_samples=64), job)
    demo.apply(Quantize((layer,), calibration_samples=64), job)
    (after,) = demo.activation_ranges(layer, None, job)
    assert after == before
    with pytest.raises(EditRefused, match="no layer “nowhere”"):
        demo.activation_ranges(LayerId("nowhere"), None, job)


def test_a_layer_without_a_range_shows_none(demo: ModelSession, job: Job) -> None:
    assert demo.activation_ranges(LayerId("stem.relu"), None, job) == ()


class OneAtOnce(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.reshape(1, 4))
        return out


def test_a_model_that_takes_one_sample_at_once_gets_one() -> None:
    training = torch.linspace(-1, 3, 40).reshape(10, 4)
    subject = seen(OneAtOnce(), 1, 4, data=toy_data(training))
    ranges = calibration(subject, 10, Job()).ranges(LayerId("layer"))
    assert ranges is not None
    assert (ranges.least, ranges.most, ranges.histogram.total) == (-1, 3, 40)


def test_samples_that_the_model_does_not_take_are_named() -> None:
    subject = seen(nn.Sequential(nn.Linear(4, 4)), 1, 4, data=toy_data(torch.randn(10, 5)))
    with pytest.raises(DataSetMismatch, match="does not take the samples of toy, shape 5"):
        calibration(subject, 10, Job())
