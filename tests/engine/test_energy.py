"""Modelled energy: rules by hand, the silicon of Eyeriss, and laws for any network."""

import csv
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import fsum
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.edits import PruneChannels, PruneWeights, Quantize
from engine.energy.estimates import (
    DATAFLOWS,
    GROUPINGS,
    PARTS,
    Dataflow,
    EnergyEstimate,
    EnergySettings,
)
from engine.energy.hardware import Hardware, default_hardware, list_hardware, read_hardware
from engine.energy.model import estimate
from engine.energy.zeros import Zeros
from engine.errors import DataSetNotFound, EngineError, ForwardFailed
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.metrics import ENERGY, Series
from engine.operators import Operator, OperatorTable, TensorUse, Work
from engine.resources import resource
from engine.session import ModelSession
from engine.tracing import trace

DATA = Path(__file__).parent.parent / "data"
MAC = 2e-12  # joules, of the Eyeriss description


def shipped(key: str) -> Hardware:
    return read_hardware(resource(f"hardware/{key}.toml"))


CHIP, SKIPPING = shipped("eyeriss_chip"), shipped("eyeriss_zero_skipping")


def operators_of(model: nn.Module, *shape: int) -> OperatorTable:
    return trace(model, (torch.empty(shape, device="meta"),)).operators


def modelled(model: nn.Module, *shape: int, hardware: Hardware | None = None) -> Series:
    settings_ = EnergySettings(hardware or default_hardware())
    return estimate(operators_of(model, *shape), settings_, shape[0]).series


def parts(series: Series, layer: str) -> dict[str, float]:
    """Joules of one layer, by part, those of nothing left out."""
    found = series.layers[LayerId(layer)]
    return {part: quantity.value for part, quantity in found.items() if quantity.value}


def by_level(series: Series, layer: str) -> dict[str, float]:
    return parts(series.regrouped(GROUPINGS["level"]), layer)


# By hand


def test_a_linear_layer_by_hand() -> None:
    """Everything fits everywhere: one access of DRAM and buffer for each word."""
    series = modelled(nn.Sequential(nn.Linear(6, 4)), 1, 6)
    macs = 24
    found = {
        "compute": macs,
        "weights registers": macs, "input registers": macs, "output registers": 2 * macs,
        "weights buffer": 6 * (24 + 4), "input buffer": 6 * 6, "output buffer": 6 * 4,
        "weights DRAM": 200 * (24 + 4), "input DRAM": 200 * 6, "output DRAM": 200 * 4,
    }  # fmt: skip
    array = {part: value for part, value in parts(series, "0").items() if "array" in part}
    assert parts(series, "0") == pytest.approx(
        {part: units * MAC for part, units in found.items()} | array
    )
    assert array["weights array"] == pytest.approx(2 * 24 * MAC)  # each goes to one element


def test_a_value_for_one_element_wise_reader_goes_through_the_buffer_only() -> None:
    series = modelled(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()), 1, 2, 8, 8)
    assert by_level(series, "0")["DRAM"] == pytest.approx(200 * (128 + 72 + 4) * MAC)
    # The ReLU reads from the buffer and writes the result of the model, 256 words, to DRAM.
    assert parts(series, "1") == pytest.approx(
        {
            "input buffer": 6 * 256 * MAC,
            "output buffer": 6 * 256 * MAC,
            "output DRAM": 200 * 256 * MAC,
        }
    )


def test_a_value_with_two_readers_goes_to_dram_and_back_twice() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1, bias=False)
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y + self.relu(y)

    series = modelled(Residual(), 1, 1, 4, 4)
    assert by_level(series, "conv")["DRAM"] == pytest.approx(200 * (16 + 1 + 16) * MAC)
    # Read from DRAM; its result has one element-wise reader and is handed over.
    assert by_level(series, "relu")["DRAM"] == pytest.approx(200 * 16 * MAC)
    assert by_level(series, "")["DRAM"] == pytest.approx(200 * (16 + 16) * MAC)


def test_a_result_goes_to_dram_even_if_a_layer_reads_it_too() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1, bias=False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.conv(x)
            return y.flatten(1), y.relu()

    series = modelled(Both(), 1, 1, 4, 4)
    assert by_level(series, "conv")["DRAM"] == pytest.approx(200 * (16 + 1 + 16) * MAC)
    assert by_level(series, "")["DRAM"] == pytest.approx(200 * (16 + 16) * MAC)


def test_an_input_of_the_model_comes_from_dram_whoever_reads_it() -> None:
    assert parts(modelled(nn.ReLU(), 1, 16), "") == pytest.approx(
        {
            "input DRAM": 200 * 16 * MAC,
            "input buffer": 6 * 16 * MAC,
            "output DRAM": 200 * 16 * MAC,
            "output buffer": 6 * 16 * MAC,
        }
    )


def test_of_a_table_the_rows_that_are_looked_up_are_read() -> None:
    operators = trace(nn.Embedding(1000, 8), (torch.zeros(1, 3, dtype=torch.long),)).operators
    found = parts(estimate(operators, EnergySettings(), 1).series, "")
    assert found["weights DRAM"] == pytest.approx(200 * 3 * 8 * MAC)
    assert found["weights buffer"] == pytest.approx(6 * 3 * 8 * MAC)


def test_what_is_written_over_is_not_read() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    assert set(parts(modelled(Masked(), 1, 16), "")) == {"output DRAM", "output buffer"}


def test_indices_that_nobody_reads_are_not_kept() -> None:
    """A pooling also puts out where each maximum was; unpooling reads it."""
    found = by_level(modelled(nn.MaxPool2d(2), 1, 1, 8, 8), "")
    assert found == pytest.approx({"DRAM": 200 * (64 + 16) * MAC, "buffer": 6 * (64 + 16) * MAC})

    class Unpooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.max_pool2d(x, 2, return_indices=True)[1]

    told = by_level(modelled(Unpooled(), 1, 1, 8, 8), "")
    assert told["DRAM"] == pytest.approx(200 * (64 + 16 + 16) * MAC)


@pytest.mark.parametrize(
    ("model", "shape"),
    [(nn.Linear(4, 2), (0, 4)), (nn.Conv2d(4, 2, 3), (0, 4, 8, 8))],
    ids=["Linear", "Conv2d"],
)
def test_a_product_of_empty_tensors_takes_nothing(model: nn.Module, shape: tuple[int, ...]) -> None:
    """As of a detection model that finds no box."""
    found = estimate(operators_of(model, *shape), EnergySettings(), 1)
    assert found.series.total.value == 0
    assert not found.series.unattributed


def test_a_square_times_itself_is_fetched_for_both_sides() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x

    found = by_level(modelled(Square(), 4, 4), "")
    assert found["DRAM"] * 4 == pytest.approx(200 * 3 * 16 * MAC)
    assert found["compute"] * 4 == pytest.approx(64 * MAC)


def test_scales_of_a_product_are_no_factors() -> None:
    """Row-wise scales stand behind the factors; they are traffic."""
    uses = [
        TensorUse(at, shape, 8, False)
        for at, shape in enumerate([(4, 16), (16, 8), (4, 1), (1, 8)])
    ]
    out = TensorUse(4, (4, 8), 16, False)
    one = Operator(LayerId(""), "aten._scaled_mm", Work.PRODUCT, (*uses,), (out,), 4 * 16 * 8)
    found = by_level(estimate(OperatorTable((one,), [4]), EnergySettings(), 1).series, "")
    assert found["compute"] == pytest.approx(4 * 16 * 8 / 4 * MAC)
    words = (4 * 16 + 16 * 8 + 4 + 8) / 2 + 4 * 8
    assert found["DRAM"] == pytest.approx(200 * words * MAC)


def test_values_wider_than_the_word_are_held_in_it() -> None:
    def energy(dtype: torch.dtype) -> Series:
        found = trace(nn.Linear(8, 4).to(dtype), (torch.zeros(1, 8, dtype=dtype),))
        return estimate(found.operators, EnergySettings(), 1).series

    assert energy(torch.float64) == energy(torch.float32) == energy(torch.float16)


def test_work_without_energy_has_no_row() -> None:
    """Dropout and views do nothing in evaluation: absent, not zero."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Unflatten(1, (2, 2)), nn.Flatten())
    assert set(modelled(model, 1, 4).layers) == {"0"}


def operator(name: str, work: Work, *shapes: tuple[int, ...]) -> Operator:
    uses = [TensorUse(at, shape, 32, False) for at, shape in enumerate(shapes)]
    return Operator(LayerId("odd"), name, work, (*uses[:-1],), (uses[-1],), 10)


@pytest.mark.parametrize(
    "odd",
    [
        operator("mine.secret", Work.UNKNOWN, (4,), (4,)),
        operator("aten.product_nobody_knows", Work.PRODUCT, (4, 4), (4, 4), (4, 4)),
    ],
)
def test_what_has_no_rule_is_named_and_never_zero(odd: Operator) -> None:
    found = estimate(OperatorTable((odd,)), EnergySettings(), 1)
    assert found.series.unattributed == {odd.name: None}
    assert not found.series.layers
    assert found.layers[odd.layer].unmodelled == (odd.name,)


def test_a_product_that_the_hardware_cannot_hold_is_not_modelled() -> None:
    hardware = replace(
        default_hardware(), global_buffer=replace(default_hardware().global_buffer, bytes=16)
    )
    found = estimate(operators_of(nn.Conv2d(4, 4, 3), 1, 4, 9, 9), EnergySettings(hardware), 1)
    assert found.layers[LayerId("")].unmodelled == ("aten.convolution",)


@pytest.mark.parametrize(("bytes_per_second", "bound"), [(1.0, "DRAM"), (1e18, "compute")])
def test_a_layer_waits_for_what_takes_longer(bytes_per_second: float, bound: str) -> None:
    assert CHIP.speed is not None
    speed = replace(CHIP.speed, dram_bytes_per_second=bytes_per_second)
    chosen = EnergySettings(replace(CHIP, speed=speed))
    found = estimate(operators_of(nn.Conv2d(4, 4, 3), 1, 4, 9, 9), chosen, 1)
    assert found.bound_by == "time"
    assert found.layers[LayerId("")].bound == bound


@pytest.mark.parametrize(("cost", "bound"), [(1e6, "DRAM"), (0.0, "compute")])
def test_without_a_speed_a_layer_is_bound_by_what_takes_more_energy(
    cost: float, bound: str
) -> None:
    hardware = replace(default_hardware(), speed=None)
    chosen = EnergySettings(replace(hardware, cost=replace(hardware.cost, dram=cost)))
    found = estimate(operators_of(nn.Conv2d(4, 4, 3), 1, 4, 9, 9), chosen, 1)
    assert found.bound_by == "energy"
    assert found.layers[LayerId("")].bound == bound


def test_conditions_say_what_the_figure_holds_for() -> None:
    conditions = modelled(nn.Linear(4, 4), 3, 4).conditions
    assert conditions["hardware"] == "Eyeriss (ISCA 2016)"
    assert conditions["dataflow"] == "row-stationary"
    assert conditions["batch"] == "3"
    assert conditions["unit"] == "2 pJ per 16-bit MAC"
    assert conditions["zeros"] == "not skipped"


def test_estimates_need_no_weights() -> None:
    """A model whose tensors have no data has the same energy."""
    plan = [(3, 3, True, True), (4, 1, False, True)]
    with torch.device("meta"):
        hollow = stack(plan)
    assert modelled(hollow, 2, 2, 6, 6) == modelled(stack(plan), 2, 2, 6, 6)


# Every kind of product


class Attention(nn.Module):
    """Attention of one head, its key and value longer than its query; optionally masked."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.register_buffer("mask", torch.zeros(4, 16) if masked else None)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)


@pytest.mark.parametrize(("masked", "extra"), [(False, 0), (True, 4 * 16)])
def test_attention_reads_query_key_value_and_mask(masked: bool, extra: int) -> None:
    """Its scores stay on the chip."""
    inputs = (torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 16, 8), torch.zeros(1, 1, 16, 8))
    found = trace(Attention(masked), inputs)
    series = estimate(found.operators, EnergySettings(), 1).series.regrouped(GROUPINGS["level"])
    # The logarithm of each query's sum of exponentials, which nobody reads, is not kept.
    words = 4 * 8 + 2 * 16 * 8 + 4 * 8 + extra  # query, key and value, result, mask
    assert series.by_part()["DRAM"] == pytest.approx(200 * words * MAC)
    assert series.by_part()["compute"] == pytest.approx(2 * 4 * 16 * 8 * MAC)


def test_query_heads_that_share_a_key_fetch_it_once() -> None:
    class Grouped(nn.Module):
        def forward(self, query: Tensor, key: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=True)

    operators = trace(Grouped(), (torch.zeros(1, 4, 3, 8), torch.zeros(1, 2, 5, 8))).operators
    found = by_level(estimate(operators, EnergySettings(), 1).series, "")
    assert found["compute"] == pytest.approx(4 * 3 * 5 * (8 + 8) * MAC)
    query, key = 4 * 3 * 8, 2 * 5 * 8
    assert found["DRAM"] == pytest.approx(200 * (query + 2 * key + query) * MAC)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv1d(4, 6, 5, stride=2, padding=2), (2, 4, 33)),
        (nn.Conv2d(4, 6, (3, 5), padding=(1, 2), dilation=(1, 2)), (2, 4, 17, 19)),
        (nn.Conv2d(8, 8, 3, groups=8), (2, 8, 17, 19)),
        (nn.Conv2d(8, 12, 3, groups=4), (2, 8, 17, 19)),
        (nn.Conv3d(3, 5, 3, padding=1), (1, 3, 7, 8, 9)),
        (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (2, 4, 9, 9)),
        (nn.ConvTranspose1d(4, 6, 3, stride=3), (2, 4, 9)),
        (nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 4, 4, 4)),
        (nn.Linear(12, 7), (3, 5, 12)),
        (nn.Linear(12, 7), (12,)),
        (nn.MultiheadAttention(8, 2, batch_first=True), None),
        (nn.GRU(6, 5, batch_first=True), (2, 7, 6)),
        (nn.LSTM(6, 5, batch_first=True), (2, 7, 6)),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else "",
)
def test_every_kind_of_product_is_modelled(model: nn.Module, shape: tuple[int, ...] | None) -> None:
    """Its MACs are the trace's, and no tensor moves less than once."""
    if shape is not None:
        inputs: tuple[Tensor, ...] = (torch.zeros(shape),)
    else:
        inputs = (torch.zeros(2, 6, 8),) * 3
    operators = trace(model, inputs).operators
    found = estimate(operators, EnergySettings(), 1)
    assert not found.series.unattributed
    compute = found.series.by_part()["compute"] / MAC
    assert compute == pytest.approx(sum(operators.macs().values()))
    weights = sum(
        use.elements for one in operators for use in one.inputs if use.weight and use.name
    )
    assert found.series.by_part()["weights DRAM"] / MAC / 200 >= weights


def test_weights_that_all_samples_share_are_fetched_once() -> None:
    """A sequence-first layer multiplies by one matrix, expanded over the samples."""

    class SequenceFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 6, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.transpose(0, 1))

    operators = operators_of(SequenceFirst(), 4, 5, 8)
    assert "aten.bmm" in {one.name for one in operators}
    series = estimate(operators, EnergySettings(), 4).series
    assert series.by_part()["weights DRAM"] * 4 == pytest.approx(200 * 48 * MAC)


def test_a_transposed_kernel_that_the_stride_does_not_divide_has_its_own_weights() -> None:
    """Its phases have 4, 2, 2 and 1 of the 9 taps, and are gone through as if all had 4."""
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, bias=False)
    found = modelled(layer, 1, 4, 8, 8)
    words = {part: value / MAC for part, value in parts(found, "").items()}
    assert words["weights DRAM"] == pytest.approx(200 * 4 * 6 * 9)
    assert words["weights buffer"] >= 6 * 4 * 6 * 9 * (1 - 1e-9)
    assert words["output DRAM"] == pytest.approx(200 * 6 * 16 * 16)
    assert words["compute"] == pytest.approx(4 * 6 * 9 * 64)


def test_a_transposed_convolution_moves_what_it_reads_and_writes() -> None:
    """As a convolution of its input with the stride's phases as further filters."""
    found = modelled(nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, bias=False), 1, 4, 8, 8)
    assert by_level(found, "")["compute"] == pytest.approx(4 * 6 * 16 * 64 * MAC)
    assert by_level(found, "")["DRAM"] == pytest.approx(200 * (256 + 384 + 1536) * MAC)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(3, 20))
@settings(max_examples=20, deadline=None)
def test_a_signal_is_a_picture_one_column_wide(
    batch: int, channels: int, filters: int, length: int
) -> None:
    signal = modelled(nn.Conv1d(channels, filters, 3), batch, channels, length)
    picture = modelled(nn.Conv2d(channels, filters, (3, 1)), batch, channels, length, 1)
    assert signal.by_part() == pytest.approx(picture.by_part())


def test_frames_that_a_kernel_does_not_mix_are_a_batch() -> None:
    frames = modelled(nn.Conv3d(3, 5, (1, 3, 3), padding=(0, 1, 1)), 2, 3, 4, 9, 9)
    pictures = modelled(nn.Conv2d(3, 5, 3, padding=1), 8, 3, 9, 9)
    assert {part: 4 * joules for part, joules in pictures.by_part().items()} == pytest.approx(
        frames.by_part()
    )


def test_recurrent_weights_that_do_not_fit_are_fetched_for_every_step() -> None:
    """The fused operator of some processors, as a trace there has it."""
    steps, batch, width = 10, 1, 256

    def weights(hidden: int) -> float:
        gates = 4 * hidden
        uses = [
            TensorUse(0, (steps, batch, width), 16, False),
            TensorUse(1, (gates, width), 16, True, "in"),
            TensorUse(2, (gates, hidden), 32, True, "again"),
        ]
        out = TensorUse(3, (steps, batch, hidden), 16, False)
        macs = steps * batch * gates * (width + hidden)
        one = Operator(
            LayerId("lstm"), "aten.mkldnn_rnn_layer", Work.PRODUCT, (*uses,), (out,), macs
        )
        series = estimate(OperatorTable((one,), [3]), EnergySettings(), 1).series
        assert series.by_part()["compute"] == pytest.approx(macs * MAC)
        # The result alone, not the gates that it is made of.
        assert series.by_part()["output DRAM"] == pytest.approx(200 * steps * batch * hidden * MAC)
        return series.by_part()["weights DRAM"] / MAC / 200 - gates * width

    assert weights(64) == pytest.approx(4 * 64 * 64)  # 32 kB stay
    assert weights(90) == pytest.approx(4 * 90 * 90)  # 63 kB: as words of 16 bits
    assert weights(512) == pytest.approx(steps * 4 * 512 * 512)  # 2 MB do not


# Bits


def with_bits(table: OperatorTable, bits: int) -> OperatorTable:
    """The same work on values of that width."""
    return table.mapped(
        lambda one: replace(
            one,
            inputs=tuple(replace(use, bits=bits) for use in one.inputs),
            outputs=tuple(replace(use, bits=bits) for use in one.outputs),
        )
    )


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_at_a_fixed_mapping_half_the_bits_take_a_quarter_and_a_half(dataflow: Dataflow) -> None:
    """Arithmetic a quarter, data a half: where everything fits anyhow, mappings stay."""
    operators = operators_of(nn.Sequential(nn.Conv2d(1, 1, 3, bias=False)), 2, 1, 12, 12)
    chosen = EnergySettings(dataflow=dataflow)
    alone = replace(chosen.hardware, array=replace(chosen.hardware.array, rows=1, columns=1))
    wide, narrow = (
        estimate(with_bits(operators, bits), replace(chosen, hardware=alone), 2) for bits in (16, 8)
    )
    assert wide.layers[LayerId("0")].mapping == narrow.layers[LayerId("0")].mapping
    for part, value in parts(wide.series, "0").items():
        share = 4 if part == "compute" else 2
        assert parts(narrow.series, "0")[part] == pytest.approx(value / share, rel=1e-12)


def test_asking_what_other_bits_would_take() -> None:
    operators = operators_of(stack([(4, 3, True, True)]), 1, 2, 6, 6)
    asked = estimate(operators, EnergySettings(bits=8), 1).series
    assert asked.layers == estimate(with_bits(operators, 8), EnergySettings(), 1).series.layers
    assert asked.conditions["bits"] == "8 of weights and activations"


def test_an_int8_layer_by_hand(session_of: Callable[..., ModelSession], job: Job) -> None:
    """Input and weights in 8 bits; the bias and the result, which a model puts out, are not."""
    session = session_of(nn.Sequential(nn.Linear(6, 4)), 1, 6)
    table = session.apply(Quantize((LayerId("0"),)), job).snapshot.current.table
    found = by_level(table[ENERGY.key], "0")
    assert found["compute"] == pytest.approx(24 / 4 * MAC)
    assert found["registers"] == pytest.approx((24 / 2 + 24 / 2 + 2 * 24) * MAC)
    assert found["DRAM"] == pytest.approx(200 * (6 / 2 + 24 / 2 + 4 + 4) * MAC)


# Silicon: the Eyeriss chip on the convolutions of Caffe's AlexNet


def rows(name: str) -> dict[str, dict[str, float]]:
    """A table of tests/data by layer."""
    with (DATA / f"{name}.csv").open(encoding="utf-8") as file:
        found = csv.DictReader(line for line in file if not line.startswith("#"))
        return {row.pop("layer"): {key: float(row[key]) for key in row} for row in found}


SILICON, SHAPES = rows("eyeriss_jssc17_alexnet"), rows("alexnet_caffe_layers")
ZEROS = rows("alexnet_activation_zeros")
BATCH = 4


class Alone(nn.Module):
    """The convolutions of Caffe's AlexNet, each on an input of its own."""

    def __init__(self) -> None:
        super().__init__()
        for name in SILICON:
            shape = {key: int(value) for key, value in SHAPES[name].items()}
            layer = nn.Conv2d(
                shape["in_channels"], shape["out_channels"], shape["kernel"], shape["stride"],
                shape["padding"], groups=shape["groups"], bias=False,
            )  # fmt: skip
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [layer(one) for layer, one in zip(self.children(), inputs, strict=True)]


def silicon(hardware: Hardware, zeros: Zeros) -> EnergyEstimate:
    with torch.device("meta"):
        model = Alone()
        inputs = tuple(
            torch.empty(
                BATCH, *(int(SHAPES[one][key]) for key in ("in_channels", "in_height", "in_width"))
            )
            for one in SILICON
        )
    operators = trace(model, inputs).operators
    macs = operators.macs()
    assert all(macs[LayerId(one)] == BATCH * SHAPES[one]["macs_per_image"] for one in SILICON)
    return estimate(operators, EnergySettings(hardware), BATCH, zeros)


def measured_zeros() -> Zeros:
    """As measured; the published shares are of the padded input, ours of the input itself."""
    values = {}
    for layer in SILICON:
        size, padding = SHAPES[layer]["in_height"], SHAPES[layer]["padding"]
        more = (size + 2 * padding) ** 2 / size**2
        padded, written = (
            ZEROS[layer][f"zeros_in_{which}_pct"] / 100 for which in ("padded_ifmap", "ofmap")
        )
        shares = (1 - (1 - padded) * more, 0.0, written)
        values[LayerId(layer), "aten.convolution", 0] = shares
    return Zeros(values=values)


def chip_shares(found: EnergyEstimate) -> dict[str, float]:
    """Of the chip's energy: that of DRAM left out."""
    spent = {
        layer: sum(
            value for level, value in by_level(found.series, layer).items() if level != "DRAM"
        )
        for layer in SILICON
    }
    return {layer: value / sum(spent.values()) for layer, value in spent.items()}


def ranked(shares: dict[str, float]) -> list[str]:
    return sorted(shares, key=shares.__getitem__, reverse=True)


def test_shares_of_the_chip_are_those_of_the_silicon() -> None:
    shares = chip_shares(silicon(CHIP, measured_zeros()))
    published = {layer: row["chip_energy_share"] for layer, row in SILICON.items()}
    assert shares == pytest.approx(published, abs=0.03)
    assert ranked(shares) == ranked(published) == ["conv2", "conv1", "conv3", "conv4", "conv5"]


def test_without_gating_the_order_comes_out_wrong() -> None:
    """Or the test above would test nothing."""
    ungated = replace(CHIP, sparsity=replace(CHIP.sparsity, gates_zero_inputs=False))
    shares = chip_shares(silicon(ungated, measured_zeros()))
    assert shares["conv3"] > shares["conv1"]


def test_dram_traffic_is_that_of_the_silicon() -> None:
    found = silicon(CHIP, measured_zeros())
    words = {
        layer: by_level(found.series, layer)["DRAM"] * BATCH / (CHIP.cost.dram * 1e-12)
        for layer in SILICON
    }
    megabytes = {layer: number * 2 / 1e6 for layer, number in words.items()}
    published = {layer: row["dram_access_MB"] for layer, row in SILICON.items()}
    assert megabytes == pytest.approx(published, rel=0.25)
    assert sum(megabytes.values()) == pytest.approx(sum(published.values()), rel=0.10)


# Zeros


def test_weight_pruning_leaves_output_energy_as_it_is(
    session_of: Callable[..., ModelSession], job: Job
) -> None:
    session = session_of(nn.Sequential(nn.Conv2d(4, 8, 3)), 1, 4, 9, 9)
    session.set_energy(EnergySettings(SKIPPING), job)
    before = session.snapshot.current.energy
    after = session.apply(PruneWeights((LayerId("0"),), 0.5), job).snapshot.current.energy
    by_data = [one.series.regrouped(GROUPINGS["data type"]) for one in (before, after)]
    dense, sparse = (parts(one, "0") for one in by_data)
    assert sparse["output"] == dense["output"]
    assert sparse["compute"] == pytest.approx(dense["compute"] / 2)
    assert sparse["weights"] < dense["weights"]
    assert before.saved == 0
    assert after.saved == pytest.approx(before.series.total.value - after.series.total.value)
    assert after.layers[LayerId("0")].weight_zeros == pytest.approx(0.5, abs=0.01)


def test_run_length_compression_by_hand() -> None:
    """Three pairs of 5 and 16 bits and one bit more in 64; dense data stay as they are."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    dense, half, all_ = (
        estimate(
            operators_of(model, 1, 1, 8, 8),
            EnergySettings(CHIP),
            1,
            Zeros(values={(LayerId("0"), "aten.convolution", 0): (share, 0.0, 0.0)}),
        )
        for share in (0.1, 0.5, 1.0)
    )
    raw = 64 * 460e-12
    assert parts(dense.series, "0")["input DRAM"] == pytest.approx(raw)
    assert parts(half.series, "0")["input DRAM"] == pytest.approx(raw * 0.5 * (64 / 3) / 16)
    # A run is of 31 zeros at most, so that the 64 take two pairs.
    assert parts(all_.series, "0")["input DRAM"] == pytest.approx(2 * 64 / 3 / 16 * 460e-12)
    # Gated: half of the MACs, and of the weights' reads; inputs and sums are there all the same.
    before, after = (parts(one.series, "0") for one in (dense, half))
    assert after["compute"] == pytest.approx(0.5 * 64 * 2e-12)
    assert after["weights registers"] == pytest.approx(0.5 * 64 * 1e-12)
    assert after["input registers"] == before["input registers"]
    assert after["output registers"] == before["output registers"]


def test_zero_weights_spare_their_macs_and_the_reads_of_inputs() -> None:
    operators = operators_of(nn.Sequential(nn.Conv2d(1, 1, 2, bias=False)), 1, 1, 9, 9)
    before, after = (
        parts(
            estimate(operators, EnergySettings(SKIPPING), 1, Zeros({"0.weight": one})).series, "0"
        )
        for one in (0.0, 0.5)
    )
    for part, share in (
        ("compute", 0.5),
        ("input registers", 0.5),
        ("weights registers", 1),
        ("output registers", 1),
    ):
        assert after[part] == pytest.approx(before[part] * share)


def test_padding_is_zeros_that_are_gated() -> None:
    found = estimate(
        operators_of(nn.Conv2d(1, 1, 3, padding=1, bias=False), 1, 1, 3, 3), EnergySettings(CHIP), 1
    )
    real = 7 * 7  # of the 9 x 9 pairs of output and tap, on both axes 7 of 9 lie inside
    assert parts(found.series, "")["compute"] == pytest.approx(real * 2e-12)
    assert found.saved > 0


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_energy_never_rises_with_zeros(data: st.DataObject) -> None:
    operators = operators_of(stack([(6, 3, False, True), (4, 3, True, False)]), 2, 2, 7, 7)
    shares = st.floats(0, 1)

    def drawn(least: Zeros | None) -> Zeros:
        values = {}
        for layer in (LayerId("0"), LayerId("2")):
            key = layer, "aten.convolution", 0
            low = least.values[key] if least else (0.0,) * 4
            values[key] = tuple(one + (1 - one) * data.draw(shares) for one in low)
        weights = {
            f"{layer}.weight": (
                base + (1 - base) * data.draw(shares)
                if (base := least.weights[f"{layer}.weight"] if least else 0.0) is not None
                else 0.0
            )
            for layer in ("0", "2")
        }
        return Zeros(weights, values)

    few = drawn(None)
    more = drawn(few)
    for hardware in (CHIP, SKIPPING):
        before, after = (
            estimate(operators, EnergySettings(hardware), 2, one) for one in (few, more)
        )
        assert after.series.total.value <= before.series.total.value * (1 + 1e-12)
        assert after.saved >= before.saved * (1 - 1e-12)


def test_zeros_measured_on_data_make_the_chip_cheaper(demo: ModelSession, job: Job) -> None:
    demo.set_energy(EnergySettings(CHIP), job)
    before = demo.snapshot.current.energy
    after = demo.measure_zeros(job).snapshot.current.energy
    assert after.series.total.value < before.series.total.value
    assert "as measured" in after.series.conditions["zeros"]
    # Behind a ReLU about half of the values are zero.
    shares = after.layers[LayerId("stage1.block0.conv2")].input_zeros
    assert shares is not None
    assert 0.2 < shares < 0.9
    # Kept by edits that leave the operators, and the base has its own.
    edited = demo.apply(PruneWeights((LayerId("head.fc"),), 0.5), job).snapshot
    kept = edited.current.energy.layers[LayerId("stage1.block0.conv2")].input_zeros
    assert kept == shares
    assert edited.base.energy == after


def test_zeros_measured_on_other_data_are_forgotten(demo: ModelSession, job: Job) -> None:
    before = demo.set_energy(EnergySettings(CHIP), job).snapshot.current.energy
    assert demo.measure_zeros(job).snapshot.current.energy != before
    assert demo.load_data("digits", job).snapshot.current.energy == before


def test_zeros_need_data(session_of: Callable[..., ModelSession], job: Job) -> None:
    with pytest.raises(DataSetNotFound):
        session_of(nn.Linear(4, 4), 1, 4).measure_zeros(job)


# Laws over generated stacks

convolutions = st.lists(
    st.tuples(st.integers(2, 6), st.sampled_from([1, 3]), st.booleans(), st.booleans()),
    min_size=1,
    max_size=4,
)


def stack(plan: list[tuple[int, int, bool, bool]], classes: int = 3) -> nn.Sequential:
    """Convolutions, some with batch norm and ReLU, then pooling and a linear layer."""
    layers: list[nn.Module] = []
    channels = 2
    for width, kernel, norm, relu in plan:
        layers.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2))
        layers += [nn.BatchNorm2d(width)] * norm + [nn.ReLU()] * relu
        channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers)


@given(
    convolutions,
    st.integers(1, 5),
    st.sampled_from([one.hardware for one in list_hardware() if one.hardware]),
    st.sampled_from([600, 4096, 131072]),
    st.sampled_from(DATAFLOWS),
)
@settings(max_examples=40, deadline=None)
def test_parts_add_up_to_layers_and_layers_to_the_total(
    plan: list[tuple[int, int, bool, bool]],
    batch: int,
    hardware: Hardware,
    buffer: int,
    dataflow: Dataflow,
) -> None:
    hardware = replace(hardware, global_buffer=replace(hardware.global_buffer, bytes=buffer))
    operators = operators_of(stack(plan), batch, 2, 6, 6)
    series = estimate(operators, EnergySettings(hardware, dataflow), batch).series
    everything = [q.value for by_part in series.layers.values() for q in by_part.values()]
    assert series.total.value == pytest.approx(fsum(everything), rel=1e-12)
    assert fsum(series.by_layer().values()) == pytest.approx(series.total.value, rel=1e-12)
    assert set(series.by_part()) == set(PARTS)
    for group_of in GROUPINGS.values():
        grouped = series.regrouped(group_of)
        assert fsum(grouped.by_part().values()) == pytest.approx(series.total.value, rel=1e-12)
        for layer, own in series.by_layer().items():
            assert grouped.by_layer()[layer] == pytest.approx(own, rel=1e-12)
    assert min(everything) >= 0
    # Every layer but views and dropout moves something.
    moving = {
        str(index) for index, module in enumerate(stack(plan)) if not isinstance(module, nn.Flatten)
    }
    assert set(series.layers) == moving


@given(convolutions, st.data())
@settings(max_examples=8)
def test_energy_never_rises_when_layers_are_quantized(
    session_of: Callable[..., ModelSession],
    plan: list[tuple[int, int, bool, bool]],
    data: st.DataObject,
) -> None:
    session = session_of(stack(plan), 1, 2, 6, 6)
    able = [layer.id for layer in session.snapshot.current.tree if "quantize" in layer.methods]
    energies = [session.snapshot.current.table[ENERGY.key].total.value]
    for layer in data.draw(st.permutations(able)):
        effect = session.preview(Quantize((layer,)), Job())
        assert effect.before["energy"] == energies[-1]
        session.apply(Quantize((layer,)), Job())
        energies.append(session.snapshot.current.table[ENERGY.key].total.value)
        assert effect.after["energy"] == energies[-1]
    assert all(after < before for before, after in pairwise(energies))


@given(convolutions, st.data())
@settings(max_examples=20)
def test_energy_never_rises_when_channels_are_removed(
    session_of: Callable[..., ModelSession],
    plan: list[tuple[int, int, bool, bool]],
    data: st.DataObject,
) -> None:
    session = session_of(stack(plan), 1, 2, 6, 6)
    able = [
        layer.id
        for layer in session.snapshot.current.tree
        if "prune-channels" in layer.methods and layer.kind == "Conv2d"
    ]
    layer = data.draw(st.sampled_from(able))
    energies = [
        session.preview(PruneChannels((layer,), ratio), Job()).after["energy"]
        for ratio in (0.0, 0.3, 0.5, 0.9)
    ]
    assert energies[0] == session.snapshot.current.table[ENERGY.key].total.value
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] < energies[0]


@given(st.lists(st.integers(8, 200), min_size=2, max_size=4), st.integers(1, 8))
@settings(max_examples=20)
def test_energy_per_inference_falls_with_the_batch_where_weights_dominate(
    widths: list[int], batch: int
) -> None:
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)))
    energies = [modelled(model, size, widths[0]).total.value for size in range(batch, batch + 4)]
    assert all(after < before for before, after in pairwise(energies))
    weights = sum(a * b for a, b in pairwise(widths))
    saved = 200 * weights * (1 / batch - 1 / (batch + 1)) * MAC
    assert energies[0] - energies[1] >= saved * (1 - 1e-9)


@given(
    convolutions,
    st.sampled_from(["mac", "array", "global_buffer", "dram"]),
    st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)),
)
@settings(max_examples=20, deadline=None)
def test_energy_never_falls_when_a_cost_rises(
    plan: list[tuple[int, int, bool, bool]], name: str, costs: tuple[float, float]
) -> None:
    operators = operators_of(stack(plan), 1, 2, 6, 6)

    def total(value: float) -> float:
        hardware = default_hardware()
        hardware = replace(hardware, cost=replace(hardware.cost, **{name: value}))
        return estimate(operators, EnergySettings(hardware), 1).series.total.value

    assert total(min(costs)) <= total(max(costs)) * (1 + 1e-12)


# The session


def test_settings_reach_every_state_and_come_back(demo: ModelSession, job: Job) -> None:
    demo.apply(PruneChannels((LayerId("stage1.block0.conv2"),), 0.3), job)
    first = demo.snapshot
    chosen = EnergySettings(CHIP, "output-stationary", batch=8, bits=8)
    change = demo.set_energy(chosen, job)
    for state in (change.snapshot.base, change.snapshot.current):
        assert state.energy.settings == chosen
        assert state.table[ENERGY.key] == state.energy.series
        assert state.energy.series.conditions["batch"] == "8"
    assert demo.undo(job).snapshot.current.energy == change.snapshot.base.energy
    demo.redo(job)
    assert demo.set_energy(EnergySettings(), job).snapshot.current == first.current


def test_a_preview_is_under_the_settings_in_force(demo: ModelSession, job: Job) -> None:
    demo.set_energy(EnergySettings(CHIP), job)
    edit = PruneChannels((LayerId("stage1.block0.conv2"),), 0.3)
    effect = demo.preview(edit, job)
    assert effect.before["energy"] == demo.snapshot.current.energy.series.total.value
    after = demo.apply(edit, job).snapshot.current.energy
    assert effect.after["energy"] == pytest.approx(after.series.total.value)


def test_a_batch_that_the_model_does_not_take_changes_nothing(
    session_of: Callable[..., ModelSession], job: Job
) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 4) * 2

    session = session_of(Stubborn(), 2, 4)
    before = session.snapshot
    with pytest.raises(ForwardFailed):
        session.set_energy(EnergySettings(batch=3), job)
    assert session.snapshot == before


@pytest.mark.parametrize(
    "absurd", [{"batch": -1}, {"batch": 10**9}, {"bits": -8}, {"bits": 10**6}], ids=str
)
def test_absurd_settings_are_refused_and_change_nothing(
    demo: ModelSession, job: Job, absurd: dict[str, int]
) -> None:
    before = demo.snapshot
    with pytest.raises(EngineError, match="Energy cannot be modelled for") as refused:
        demo.set_energy(EnergySettings(**absurd), job)
    assert refused.value.remedy
    assert demo.snapshot == before


def test_modelling_that_is_cancelled_changes_nothing(
    demo: ModelSession, stop_at: Callable[[int], Job]
) -> None:
    demo.apply(PruneChannels((LayerId("stage1.block0.conv2"),), 0.3), Job())
    before = demo.snapshot
    for checks in (1, 2, 3):
        with pytest.raises(Cancelled):
            demo.set_energy(EnergySettings(CHIP), stop_at(checks))
        assert demo.snapshot == before
    with pytest.raises(Cancelled):
        demo.measure_zeros(stop_at(4))
    assert demo.snapshot == before


def test_a_state_without_energy_at_that_batch_is_not_gone_to(
    session_of: Callable[..., ModelSession], job: Job
) -> None:
    """States that memory no longer holds are modelled when they are gone to."""

    class Moody(nn.Module):
        runs_in_batches = True

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x if Moody.runs_in_batches else x.reshape(1, 4))

    session = session_of(Moody(), 1, 4, memory_budget=0)
    for ratio in (0.2, 0.5, 0.8):
        session.apply(PruneWeights((LayerId("linear"),), ratio), job)
    session.set_energy(EnergySettings(batch=2), job)
    before = session.snapshot
    Moody.runs_in_batches = False
    with pytest.raises(ForwardFailed):
        session.undo(job)
    assert session.snapshot == before


def test_the_zeros_measured_last_are_those_of_what_follows(demo: ModelSession, job: Job) -> None:
    edit = PruneChannels((LayerId("stage1.block0.conv2"),), 0.3)
    demo.set_energy(EnergySettings(CHIP), job)
    demo.apply(edit, job)
    demo.measure_zeros(job)
    demo.undo(job)
    base = demo.measure_zeros(job).snapshot.current.energy
    after = demo.apply(PruneWeights((LayerId("head.fc"),), 0.5), job).snapshot.current.energy
    layer = LayerId("stage2.pointwise.conv")
    assert after.layers[layer].input_zeros == base.layers[layer].input_zeros


def test_a_large_batch_is_modelled_without_its_samples(
    session_of: Callable[..., ModelSession], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """65,536 pictures would take gigabytes; their shapes take nothing."""
    session = session_of(nn.Sequential(nn.Conv2d(1, 2, 3)), 1, 1, 64, 64)
    made: list[int] = []
    index = Tensor.__getitem__

    def watched(tensor: Tensor, at: object) -> Tensor:
        found = index(tensor, at)
        if type(found) is Tensor:
            made.append(found.numel())
        return found

    monkeypatch.setattr(Tensor, "__getitem__", watched)
    found = session.set_energy(EnergySettings(batch=65_536), job).snapshot.current.energy
    assert max(made, default=0) < 10**6
    assert found.series.conditions["batch"] == "65536"


def test_figures_are_of_one_inference_at_every_batch(demo: ModelSession, job: Job) -> None:
    """Weights are fetched once for all, so that a larger batch takes less for each."""
    found = [
        demo.set_energy(EnergySettings(batch=batch), job).snapshot.current.energy.series
        for batch in (1, 4, 64)
    ]
    totals = [one.total.value for one in found]
    assert totals == sorted(totals, reverse=True)
    for one in found:
        assert one.by_part()["compute"] == pytest.approx(found[0].by_part()["compute"])


# The whole demo


def test_energy_of_the_demo_is_spent_where_the_work_is(demo: ModelSession) -> None:
    series = demo.snapshot.current.table[ENERGY.key]
    spent = series.by_layer()
    assert not series.unattributed
    assert max(spent, key=spent.__getitem__) == "stage1.block0.conv2"
    tree = demo.snapshot.current.tree
    assert tree.inclusive(spent)[LayerId("")] == pytest.approx(series.total.value)


def test_masked_weights_save_no_energy(demo: ModelSession) -> None:
    """Zeros are not skipped, and the model says so."""
    before = demo.snapshot.current.table[ENERGY.key].total
    edit = PruneWeights((LayerId("stage1.block0.conv2"),), 0.9)
    after = demo.apply(edit, Job()).snapshot.current
    assert after.table[ENERGY.key].total == before
    assert after.tree[LayerId("stage1.block0.conv2")].zeros > 30_000
