"""Modelled energy: the stated rules by hand, the laws they obey, and the published table."""

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
from engine.energy.hardware import (
    AccessCosts,
    EnergyUnit,
    Hardware,
    default_hardware,
    read_hardware,
)
from engine.energy.model import PARTS, estimate
from engine.errors import EngineError
from engine.job import Job
from engine.layers import LayerId
from engine.metrics import ENERGY, Series
from engine.operators import OperatorTable
from engine.resources import resource
from engine.session import ModelSession
from engine.tracing import trace

DATA = Path(__file__).parent.parent / "data"
PJ = 1e-12
MAC = 2 * PJ  # joules, of the Eyeriss description


def modelled(model: nn.Module, *shape: int, hardware: Hardware | None = None) -> Series:
    found = trace(model, (torch.empty(shape, device="meta"),))
    return estimate(found.operators, hardware or default_hardware(), shape[0])


def parts(series: Series, layer: str) -> dict[str, float]:
    """Joules of one layer, by part."""
    return {part: quantity.value for part, quantity in series.layers[LayerId(layer)].items()}


def costs(**changed: float) -> AccessCosts:
    return replace(default_hardware().cost, **changed)


# By hand


def test_the_shipped_hardware_is_the_one_these_figures_are_for() -> None:
    found = default_hardware()
    assert found.cost == AccessCosts(1.0, 1.0, 2.0, 6.0, 200.0)
    assert (found.word_bits, found.register_file_bytes) == (16, 512)
    assert (found.global_buffer_bytes, found.unit.joules_per_mac) == (128 * 1024, MAC)


def test_a_convolution_by_hand() -> None:
    """All of it fits into half a buffer, so everything is fetched once; 32 bit is held in 16."""
    series = modelled(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1)), 1, 2, 8, 8)
    macs = 4 * 64 * 2 * 9
    dram = 2 * 64 + 4 * 2 * 9 + 4 + 4 * 64  # input, weights, bias, output
    deliveries = 3 * macs / 256  # three operands, 512 bytes of register file are 256 words
    assert parts(series, "0") == pytest.approx(
        {
            "compute": macs * MAC,
            "buffers": (4 * macs + 2 * deliveries + 6 * 2 * dram) * MAC,
            "DRAM": 200 * dram * MAC,
        }
    )


def test_a_value_for_one_element_wise_reader_goes_through_the_buffer_only() -> None:
    series = modelled(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()), 1, 2, 8, 8)
    macs, between, fetched = 4608, 256, 128 + 72 + 4
    deliveries = 3 * macs / 256
    assert parts(series, "0") == pytest.approx(
        {
            "compute": macs * MAC,
            "buffers": (4 * macs + 2 * deliveries + 6 * (2 * fetched + between)) * MAC,
            "DRAM": 200 * fetched * MAC,
        }
    )
    # The ReLU reads from the buffer and writes the result of the model, 256 words, to DRAM.
    assert parts(series, "1") == pytest.approx(
        {"compute": 0, "buffers": 6 * (between + 2 * 256) * MAC, "DRAM": 200 * 256 * MAC}
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
    assert parts(series, "conv")["DRAM"] == pytest.approx(200 * (16 + 1 + 16) * MAC)
    # Read from DRAM; its result has one element-wise reader and is handed over.
    assert parts(series, "relu")["DRAM"] == pytest.approx(200 * 16 * MAC)
    assert parts(series, "")["DRAM"] == pytest.approx(200 * (16 + 16) * MAC)


def test_a_result_goes_to_dram_even_if_a_layer_reads_it_too() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1, bias=False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.conv(x)
            return y.flatten(1), y.relu()

    series = modelled(Both(), 1, 1, 4, 4)
    assert parts(series, "conv")["DRAM"] == pytest.approx(200 * (16 + 1 + 16) * MAC)
    assert parts(series, "")["DRAM"] == pytest.approx(200 * (16 + 16) * MAC)


@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "fetched"),
    [
        # Half the buffer holds 16 words.
        (1, 10, 10, 10 + 100),  # the input stays: all once
        # Input in 3 parts, result in 2: weights once while the input is fetched for each of the
        # two parts of the result (1200 + 2 * 40) beats weights twice.
        (1, 40, 30, 1200 + 2 * 40),
        (1, 16, 64, 16 + 1024),  # the input fits exactly: it stays
        (1, 17, 64, 1088 + 4 * 17),  # one word more and it does not; the result in 4 parts
        # Mostly inputs: 200 words in 13 parts, 60 weights in 4, 30 results in 2. Inputs once
        # while the weights are fetched for each part of the result.
        (10, 20, 3, 200 + 2 * 60),
    ],
)
def test_what_does_not_fit_is_fetched_again(
    batch: int, inputs: int, outputs: int, fetched: int
) -> None:
    hardware = replace(default_hardware(), global_buffer_bytes=64)
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=False))
    dram = parts(modelled(model, batch, inputs, hardware=hardware), "0")["DRAM"]
    assert dram * batch == pytest.approx(200 * (fetched + batch * outputs) * MAC)


def test_values_wider_than_the_word_are_held_in_it_and_narrower_ones_packed() -> None:
    def energy(dtype: torch.dtype) -> dict[str, float]:
        found = trace(nn.Linear(8, 4).to(dtype), (torch.zeros(1, 8, dtype=dtype),))
        return parts(estimate(found.operators, default_hardware(), 1), "")

    assert energy(torch.float64) == energy(torch.float32) == energy(torch.float16)


def test_work_without_energy_has_no_row() -> None:
    """Dropout and views do nothing in evaluation: absent, not zero."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Unflatten(1, (2, 2)), nn.Flatten())
    assert set(modelled(model, 1, 4).layers) == {"0"}


def test_conditions_say_what_the_figure_holds_for() -> None:
    conditions = modelled(nn.Linear(4, 4), 3, 4).conditions
    assert conditions["hardware"] == "Eyeriss (ISCA 2016)"
    assert conditions["batch"] == "3"
    assert conditions["unit"] == "2 pJ per 16-bit MAC"
    assert conditions["zeros"] == "not skipped"


# Bits


def halved(table: OperatorTable) -> OperatorTable:
    """The same work on 8-bit values."""
    return OperatorTable(
        tuple(
            replace(
                one,
                inputs=tuple(replace(use, bits=8) for use in one.inputs),
                outputs=tuple(replace(use, bits=8) for use in one.outputs),
            )
            for one in table
        )
    )


def test_half_the_bits_take_a_quarter_of_the_arithmetic_and_half_of_the_rest() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3))
    found = trace(model, (torch.zeros(2, 3, 12, 12),)).operators
    wide, narrow = (estimate(table, default_hardware(), 2) for table in (found, halved(found)))
    for layer in ("0", "2"):
        before, after = parts(wide, layer), parts(narrow, layer)
        assert after["compute"] == pytest.approx(before["compute"] / 4)
        assert after["buffers"] == pytest.approx(before["buffers"] / 2)
        assert after["DRAM"] == pytest.approx(before["DRAM"] / 2)


def test_an_int8_layer_by_hand(session_of: Callable[..., ModelSession], job: Job) -> None:
    """Input and weights in 8 bits; the bias and the result, which a model puts out, are not."""
    session = session_of(nn.Sequential(nn.Linear(6, 4)), 1, 6)
    table = session.apply(Quantize((LayerId("0"),)), job).snapshot.current.table
    macs = 24
    dram = 6 / 2 + 24 / 2 + 4 + 4
    assert parts(table[ENERGY.key], "0") == pytest.approx(
        {
            "compute": macs / 4 * MAC,
            "buffers": (4 * macs / 2 + 2 * 3 * macs / 256 / 2 + 6 * 2 * dram) * MAC,
            "DRAM": 200 * dram * MAC,
        }
    )


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


@given(convolutions, st.integers(1, 5), st.sampled_from([64, 1024, 131072]))
@settings(max_examples=25)
def test_parts_add_up_to_layers_and_layers_to_the_total(
    plan: list[tuple[int, int, bool, bool]], batch: int, buffer: int
) -> None:
    hardware = replace(default_hardware(), global_buffer_bytes=buffer)
    series = modelled(stack(plan), batch, 2, 6, 6, hardware=hardware)
    everything = [q.value for by_part in series.layers.values() for q in by_part.values()]
    assert series.total.value == pytest.approx(fsum(everything), rel=1e-12)
    assert fsum(series.by_layer().values()) == pytest.approx(series.total.value, rel=1e-12)
    assert fsum(series.by_part().values()) == pytest.approx(series.total.value, rel=1e-12)
    assert set(series.by_part()) == set(PARTS)
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
    saved = (200 + 6 * 2) * weights * (1 / batch - 1 / (batch + 1)) * MAC
    assert energies[0] - energies[1] == pytest.approx(saved, rel=1e-6)


@given(convolutions, st.sampled_from(["mac", "register_file", "array", "global_buffer", "dram"]))
@settings(max_examples=20)
def test_every_cost_counts_and_in_proportion(
    plan: list[tuple[int, int, bool, bool]], name: str
) -> None:
    def total(cost: float) -> float:
        hardware = replace(default_hardware(), cost=costs(**{name: cost}))
        return modelled(stack(plan), 1, 2, 6, 6, hardware=hardware).total.value

    low, middle, high = total(1), total(2), total(3)
    assert middle - low == pytest.approx(high - middle, rel=1e-6)
    assert middle > low


# The published table


def rows(name: str) -> dict[str, dict[str, float]]:
    """A table of tests/data by layer."""
    with (DATA / f"{name}.csv").open(encoding="utf-8") as file:
        found = csv.DictReader(line for line in file if not line.startswith("#"))
        return {row.pop("layer"): {key: float(row[key]) for key in row} for row in found}


SHAPES, TABLE = rows("alexnet_caffe_layers"), rows("eyeriss_isca16_alexnet")
BATCH, UNIT = 16, 1e9 * MAC


def caffe(layer: str, hardware: Hardware | None = None) -> Series:
    """Energy of 16 images in one layer of Caffe's AlexNet."""
    shape = {key: int(value) for key, value in SHAPES[layer].items()}
    inputs, outputs = shape["in_channels"], shape["out_channels"]
    with torch.device("meta"):
        if layer.startswith("fc"):
            module: nn.Module = nn.Linear(inputs, outputs)
            sample = torch.empty(BATCH, inputs)
        else:
            module = nn.Conv2d(
                inputs, outputs, shape["kernel"], shape["stride"], shape["padding"],
                groups=shape["groups"],
            )  # fmt: skip
            sample = torch.empty(BATCH, inputs, shape["in_height"], shape["in_width"])
    found = trace(nn.Sequential(module), (sample,)).operators
    assert sum(found.macs().values()) == BATCH * shape["macs_per_image"]
    return estimate(found, hardware or default_hardware(), 1)


@pytest.mark.parametrize("layer", TABLE)
def test_arithmetic_and_register_files_of_alexnet_are_the_published_ones(layer: str) -> None:
    registers_only = replace(
        default_hardware(), cost=AccessCosts(1.0, 1.0, array=0.0, global_buffer=0.0, dram=0.0)
    )
    found = parts(caffe(layer, registers_only), "0")
    assert found["compute"] / UNIT == pytest.approx(TABLE[layer]["alu"], abs=0.0011)
    assert found["buffers"] / UNIT == pytest.approx(TABLE[layer]["rf"], abs=0.0011)


def test_convolutions_of_alexnet_cost_about_what_the_table_says() -> None:
    """The simple rule has no mapping search and is not tuned; this is its honest distance."""
    layers = [layer for layer in TABLE if layer.startswith("conv")]
    found = fsum(caffe(layer).total.value for layer in layers) / UNIT
    assert found == pytest.approx(fsum(TABLE[layer]["total"] for layer in layers), rel=0.25)


@pytest.mark.parametrize("layer", ["fc6", "fc7", "fc8"])
def test_fully_connected_layers_of_alexnet_are_close(layer: str) -> None:
    """Nearly all of it is weights from DRAM, once for the whole batch."""
    found = caffe(layer)
    assert parts(found, "0")["DRAM"] / UNIT == pytest.approx(TABLE[layer]["dram"], rel=0.03)
    assert found.total.value / UNIT == pytest.approx(TABLE[layer]["total"], rel=0.03)


# Hardware files


SHIPPED = sorted(resource("hardware").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_description_reads_and_names_its_sources(path: Path) -> None:
    hardware = read_hardware(path)
    assert hardware.name
    assert hardware.source
    assert hardware.unit.source
    assert modelled(nn.Linear(4, 4), 1, 4, hardware=hardware).total.value > 0


def test_a_description_of_ones_own_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert read_hardware(path) == Hardware(
        "Own", "me", 8, 64, 4096, AccessCosts(1.0, 0.5, 0.0, 2.0, 50.0), EnergyUnit(1e-13, "me")
    )


GOOD = """\
name = "Own"
source = "me"
word_bits = 8
register_file_bytes = 64
global_buffer_bytes = 4096
[cost]
mac = 1
register_file = 0.5
array = 0
global_buffer = 2
dram = 50
[unit]
joules_per_mac = 1e-13
source = "me"
"""


@pytest.mark.parametrize(
    ("line", "instead", "field"),
    [
        ('name = "Own"\n', "", "name"),
        ("dram = 50\n", "", "cost.dram"),
        ("dram = 50", "dram = -1", "cost.dram"),
        ("dram = 50", 'dram = "fifty"', "cost.dram"),
        ("dram = 50", 'dram = "50"', "cost.dram"),
        ("dram = 50", "dram = true", "cost.dram"),
        ("dram = 50", "dram = inf", "cost.dram"),
        ("dram = 50", "dram = nan", "cost.dram"),
        ("dram = 50", "dram = 50\nwires = 1", "cost.wires"),
        ("mac = 1", "mac = 0", "cost.mac"),
        ("word_bits = 8", "word_bits = 0", "word_bits"),
        ("word_bits = 8", "word_bits = 7.5", "word_bits"),
        ("word_bits = 8", "word_bits = 8\ncolour = 1", "colour"),
        ("global_buffer_bytes = 4096", "global_buffer_bytes = -1", "global_buffer_bytes"),
        ("joules_per_mac = 1e-13", "joules_per_mac = 0.0", "unit.joules_per_mac"),
        ("[unit]", "[units]", "unit"),
    ],
)
def test_a_wrong_description_is_refused_by_the_name_of_the_field(
    tmp_path: Path, line: str, instead: str, field: str
) -> None:
    assert line in GOOD
    path = tmp_path / "own.toml"
    path.write_text(GOOD.replace(line, instead), encoding="utf-8")
    with pytest.raises(EngineError) as caught:
        read_hardware(path)
    assert str(caught.value).startswith(f"own.toml: {field}: ")


@pytest.mark.parametrize("content", [b"word_bits = ", b"\xff\xfe", None])
def test_what_is_not_toml_is_refused_in_words(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"own\.toml is not a hardware description: "):
        read_hardware(path)


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


def test_estimates_need_no_weights() -> None:
    """A model whose tensors have no data has the same energy."""
    plan = [(3, 3, True, True), (4, 1, False, True)]
    with torch.device("meta"):
        hollow = stack(plan)
    assert modelled(hollow, 2, 2, 6, 6) == modelled(stack(plan), 2, 2, 6, 6)


class Attention(nn.Module):
    """Attention of one head, its key and value longer than its query; optionally masked."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.register_buffer("mask", torch.zeros(4, 16) if masked else None)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)


@pytest.mark.parametrize(("masked", "extra"), [(False, 0), (True, 4 * 16)])
def test_attention_reads_query_key_value_and_mask(masked: bool, extra: int) -> None:
    inputs = (torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 16, 8), torch.zeros(1, 1, 16, 8))
    operators = trace(Attention(masked), inputs).operators
    series = estimate(operators, default_hardware(), 1)
    sums = 4  # the operator also puts out the logarithm of each query's sum of exponentials
    words = 4 * 8 + 2 * 16 * 8 + 4 * 8 + sums + extra  # query, key and value, result, mask
    units = series.by_part()["DRAM"] / default_hardware().unit.joules_per_mac
    assert units == pytest.approx(words * default_hardware().cost.dram)
