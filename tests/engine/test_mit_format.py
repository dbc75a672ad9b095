"""The MIT tool's format: lines by hand, what contradicts itself, and networks said in full."""

import csv
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.edits import PruneWeights, Quantize
from engine.energy.describing import Description, describe, result_columns
from engine.energy.estimates import EnergySettings
from engine.energy.mit_format import (
    FIELDS,
    MOST_LAYERS,
    DescribedLayer,
    Entries,
    parse_description,
    read_description,
    write_description,
)
from engine.energy.model import estimate
from engine.energy.zeros import Zeros
from engine.errors import (
    DescriptionUnreadable,
    EditRefused,
    ExportFailed,
    ModelNotFound,
    ModelUnreadable,
    ProfilingFailed,
)
from engine.job import Job
from engine.layers import LayerId
from engine.operators import OperatorTable
from engine.requests import InputSpec, OpenRequest
from engine.session import ModelSession, open_model
from engine.sources.architectures import build
from engine.sources.files.sniffing import Kind, sniff
from engine.tracing import trace

# AlexNet's first layer for a batch of 4, its third channel by channel, and its first linear one.
CONV = "1,227,227,3,4,10,16,11,11,3,96,48,8,55,55,96,4,30,16,4,4,0,0,0,0"
DEPTHWISE = "2,13,13,256,4,0,16,3,3,1,256,0,16,13,13,256,4,0,16,1,1,1,1,1,1"
LINEAR = "3,6,6,256,4,0,16,6,6,256,4096,0,16,1,1,4096,4,0,16,1,1,0,0,0,0"
THREE = f"{CONV}\n{DEPTHWISE}\n{LINEAR}\n"
ALEXNET = Path(__file__).parents[1] / "data" / "alexnet_caffe_layers.csv"


def one(line: str) -> DescribedLayer:
    (layer,) = parse_description(line, "net.txt")
    return layer


def with_field(line: str, field: str, value: object) -> str:
    """The line with another value in the field of that name."""
    fields = line.split(",")
    fields[FIELDS.index(field)] = str(value)
    return ",".join(fields)


def traced(model: nn.Module, *shape: int) -> OperatorTable:
    return trace(model.eval(), (torch.zeros(shape),)).operators


def described(model: nn.Module, *shape: int) -> Description:
    return describe(traced(model, *shape), shape[0])


# -- lines


def test_a_line_by_hand() -> None:
    layer = one(CONV)
    assert layer.ifmap == Entries(227, 227, 3, 4, 10, 16)
    assert layer.filter == Entries(11, 11, 3, 96, 48, 8)
    assert layer.ofmap == Entries(55, 55, 96, 4, 30, 16)
    assert (layer.stride, layer.padding) == ((4, 4), (0, 0, 0, 0))
    assert (layer.kind, layer.groups, layer.macs) == ("conv", 1, 4 * 105_415_200)
    assert layer.filter.zero_share == 48 / 34_848


def test_kinds_and_macs() -> None:
    _, depthwise, linear = parse_description(THREE, "net.txt")
    assert (depthwise.kind, depthwise.groups) == ("depthwise", 256)
    assert depthwise.macs == 4 * 13 * 13 * 256 * 9
    assert (linear.kind, linear.macs) == ("fully connected", 4 * 9216 * 4096)


def test_depthwise_filters_as_keras_has_them() -> None:
    ours = one(with_field(DEPTHWISE, "index", 1))
    theirs = replace(ours, filter=replace(ours.filter, channels=256, count=1))
    read = one(write_description([theirs]))
    assert (read.kind, read.groups, read.macs) == ("depthwise", 256, ours.macs)


def test_a_layer_in_groups_on_one_line() -> None:
    line = "1,27,27,96,1,0,16,5,5,48,256,0,16,27,27,256,1,0,16,1,1,2,2,2,2"
    assert (one(line).kind, one(line).groups, one(line).macs) == ("conv", 2, 223_948_800)


def test_the_axes_are_told_apart() -> None:
    # Padding 1 above, 2 below, 3 at the left, 4 at the right; strides 2 down and 3 across.
    line = "1,10,20,1,1,0,8,3,5,1,1,0,8,6,8,1,1,0,8,2,3,1,2,3,4"
    assert one(line).padding == (1, 2, 3, 4)
    with pytest.raises(DescriptionUnreadable, match=r"ofmap height: it is 8, where .* give 6"):
        one("1,10,20,1,1,0,8,3,5,1,1,0,8,8,6,1,1,0,8,2,3,1,2,3,4")


def test_what_is_written_reads_back_as_it_was() -> None:
    assert write_description(parse_description(THREE, "net.txt")) == THREE
    spaced = "\ufeff".encode() + THREE.replace(",", " , ").replace("\n", "\r\n").encode()
    assert parse_description(spaced.decode("utf-8-sig") + "\n\n", "net.txt") == parse_description(
        THREE, "net.txt"
    )


@st.composite
def layers(draw: st.DrawFn, index: int = 1, count: int = 2) -> DescribedLayer:
    """A layer that does not contradict itself."""
    small = st.integers(1, 6)
    kernel, stride = (draw(small), draw(small)), (draw(small), draw(small))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    sides = [
        max(1, side - before - after) + draw(st.integers(0, 9))
        for side, before, after in zip(kernel, padding[::2], padding[1::2], strict=True)
    ]
    results = [
        (side + before + after - window) // step + 1
        for side, before, after, window, step in zip(
            sides, padding[::2], padding[1::2], kernel, stride, strict=True
        )
    ]
    groups, taken, made = draw(small), draw(small), draw(small)

    def entries(*sizes: int) -> Entries:
        zeros = draw(st.integers(0, prod(sizes)))
        return Entries(*sizes, zeros, draw(st.integers(1, 64)))  # type: ignore[call-arg]

    return DescribedLayer(
        index,
        entries(*sides, groups * taken, count),
        entries(*kernel, taken, groups * made),
        entries(*results, groups * made, count),
        stride,
        padding,  # type: ignore[arg-type]
    )


@given(st.data())
def test_every_sound_description_survives_writing(data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 5))
    drawn = tuple(data.draw(layers(index)) for index in range(1, number + 1))
    assert parse_description(write_description(drawn), "net.txt") == drawn
    assert all(len(layer.fields) == len(FIELDS) == 25 for layer in drawn)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "it is empty"),
        (CONV[:-2], "line 1: it has 24 fields, not 25"),
        (f"{CONV},0", "line 1: it has 26 fields, not 25"),
        (f"{CONV}\n\n{LINEAR}", "line 2: it is empty, in the middle"),
        (f"# AlexNet\n{CONV}", "line 1: it has 1 fields, not 25"),
        (f"{CONV}\n{CONV}", "line 2: index: it is 1, not the number of the line"),
        (with_field(CONV, "ifmap width", 0), "ifmap width: it must be positive"),
        (with_field(CONV, "stride x", 0), "stride x: it must be positive"),
        (with_field(CONV, "padding left", -1), "padding left: “-1” is not a whole number"),
        (with_field(CONV, "filter bits", "8.0"), "filter bits: “8.0” is not a whole number"),
        (with_field(CONV, "filter bits", "1e3"), "filter bits: “1e3” is not a whole number"),
        (with_field(CONV, "filter bits", "٣"), "filter bits: “٣” is not a whole number"),
        (with_field(CONV, "filter bits", "\x1b[2J"), "filter bits: “what stands there”"),
        (with_field(CONV, "filter bits", 65), "filter bits: 65 are more than 64"),
        (with_field(CONV, "ofmap zeros", 1_161_601), "ofmap zeros: 1,161,601 are more than its"),
        (with_field(CONV, "ofmap width", 56), "ofmap width: it is 56, where .* give 55"),
        (with_field(CONV, "filter height", 300), "filter height: it is larger than the padded"),
        (with_field(CONV, "ofmap count", 5), "ofmap count: 5 maps come out, where 4 go in"),
        (with_field(CONV, "filter channels", 2), "filter channels: 2 do not divide the ifmap's 3"),
        (with_field(CONV, "ofmap channels", 97), "ofmap channels: they are 97, .* 96 filters"),
        (with_field(with_field(CONV, "filter channels", 1), "filter count", 97), "3 groups"),
        (with_field(CONV, "ifmap count", 10**13), "ifmap: .* entries are too many"),
        (with_field(CONV, "padding top", 10**14), "padding: with it the ifmap has"),
        (with_field(CONV, "ifmap height", 10**16), "not a whole number of at most 15 digits"),
        (f"{CONV}\n{DEPTHWISE.replace(',4,', ',6,')}", "line 2: ifmap count: 6 maps are no multi"),
        ("1," * 10_000, "line 1: it has 10001 fields"),
        (f"{CONV}\n" * (MOST_LAYERS + 1), "more than 10,000 lines"),
    ],
)
def test_what_contradicts_itself_is_refused_by_line_and_field(text: str, cause: str) -> None:
    with pytest.raises(DescriptionUnreadable, match=cause) as refused:
        parse_description(text, "net.txt")
    assert str(refused.value).startswith("net.txt")
    assert len(str(refused.value)) < 200


def test_more_macs_than_a_float_counts_are_refused() -> None:
    def line(maps: int) -> str:
        wide = 2**20
        return f"1,1,1,{wide},{maps},0,8,1,1,{wide},{wide},0,8,1,1,{wide},{maps},0,8,1,1,0,0,0,0"

    assert one(line(2**13)).macs == 2**53
    with pytest.raises(DescriptionUnreadable, match="MACs are too many"):
        one(line(2**13 + 1))


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"\xff\xfe" + CONV.encode(), "it is not text"), (b"1," * (3 << 20), "larger than 4 MiB")],
)
def test_files_that_are_none(content: bytes, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "net.txt"
    path.write_bytes(content)
    with pytest.raises(DescriptionUnreadable, match=cause):
        read_description(path)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=200)
NUMBERS = st.text("0123456789,\n- ", max_size=90)
ODD_FIELDS = st.tuples(st.sampled_from(FIELDS), TEXTS).map(lambda at: with_field(CONV, *at))


@given(TEXTS | NUMBERS | ODD_FIELDS)
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        found = parse_description(text, "net.txt")
    except DescriptionUnreadable:
        return
    assert parse_description(write_description(found), "net.txt") == found


# -- from models


def test_alexnet_of_the_papers_line_by_line() -> None:
    """Its MACs per image are those that the papers' own description gives."""
    with ALEXNET.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    for row in rows:
        number = {key: int(value) for key, value in row.items() if key != "layer"}
        layer = nn.Conv2d(
            number["in_channels"],
            number["out_channels"],
            number["kernel"],
            number["stride"],
            number["padding"],
            groups=number["groups"],
            device="meta",
        )
        found = described(layer, 2, number["in_channels"], number["in_height"], number["in_width"])
        assert len(found.layers) == number["groups"]
        assert sum(line.macs for line in found.layers) == 2 * number["macs_per_image"]
        assert parse_description(write_description(found.layers), "net.txt") == found.layers


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_are_said_in_full(name: str) -> None:
    model = build(f"torchvision:{name}", "meta").model
    table = traced(model, 2, 3, 224, 224)
    found = describe(table, 2)
    macs: dict[LayerId, int] = {}
    for layer, line in zip(found.of, found.layers, strict=True):
        macs[layer] = macs.get(layer, 0) + line.macs
    assert macs == table.macs()
    assert all(left.macs == 0 for left in found.left_out)
    assert parse_description(write_description(found.layers), "net.txt") == found.layers
    assert {"aten.relu_", "aten.hardtanh_"} & {left.operator for left in found.left_out}
    assert any("pool" in left.operator or "mean" in left.operator for left in found.left_out)
    kinds = {line.kind for line in found.layers}
    assert ("depthwise" in kinds) == (name == "mobilenet_v2")


def test_what_is_left_out_of_a_transformer_is_the_attention() -> None:
    table = traced(build("torchvision:vit_b_16", "meta").model, 1, 3, 224, 224)
    found = describe(table, 1)
    said = sum(line.macs for line in found.layers)
    unsaid = [left for left in found.left_out if left.macs]
    assert said + sum(left.macs or 0 for left in unsaid) == sum(table.macs().values())
    assert len(unsaid) == 12
    assert all("both factors come from the sample" in left.reason for left in unsaid)
    assert all(left.macs == 2 * 12 * 197 * 197 * 64 for left in unsaid)


@pytest.mark.parametrize(
    ("layer", "shape", "lines"),
    [
        (nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0)), (2, 4, 9, 8), ["conv"]),
        (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 9, 8), ["conv"] * 2),
        (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 9, 8), ["depthwise"]),
        (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 9, 8), ["depthwise"]),
        (nn.Conv2d(4, 6, 1, dilation=3), (2, 4, 9, 8), ["conv"]),  # a point has no spread
        (nn.Conv1d(4, 6, 3, 2, 1), (2, 4, 9), ["conv"]),
        (nn.Linear(4, 6), (2, 4), ["fully connected"]),
        (nn.Linear(4, 6, bias=False), (2, 5, 4), ["conv"]),
    ],
)
def test_layers_that_have_lines(layer: nn.Module, shape: tuple[int, ...], lines: list[str]) -> None:
    table = traced(layer, *shape)
    found = describe(table, 2)
    assert [line.kind for line in found.layers] == lines
    assert all(line.ifmap.count == 2 for line in found.layers)
    assert sum(line.macs for line in found.layers) == sum(table.macs().values()) > 0
    assert parse_description(write_description(found.layers), "net.txt") == found.layers


def test_tokens_become_the_height_of_a_map() -> None:
    (line,) = described(nn.Linear(4, 6), 2, 5, 4).layers
    assert line.ifmap == Entries(5, 1, 4, 2, 0, 32)
    assert line.filter == Entries(1, 1, 4, 6, 0, 32)
    assert line.ofmap == Entries(5, 1, 6, 2, 0, 32)


class Product(nn.Module):
    """A matrix of weights and the sample, in either order."""

    def __init__(self, weight_first: bool, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.weight_first = weight_first

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        pair = (self.weight, sample) if self.weight_first else (sample, self.weight)
        return torch.matmul(*pair)


@pytest.mark.parametrize(
    ("weight_first", "weight", "sample", "lines"),
    [
        (False, (5, 7), (3, 5), [(3, 5, 7)]),
        (True, (7, 5), (5, 3), [(3, 5, 7)]),
        (False, (2, 5, 7), (2, 3, 5), [(3, 5, 7)] * 2),
        (True, (7, 5), (5,), [(1, 5, 7)]),
        (False, (5,), (3, 5), [(3, 5, 1)]),
    ],
)
def test_products_with_weights_on_either_side(
    weight_first: bool,
    weight: tuple[int, ...],
    sample: tuple[int, ...],
    lines: list[tuple[int, int, int]],
) -> None:
    table = traced(Product(weight_first, *weight), *sample)
    found = describe(table, 1)
    seen = [(one.ifmap.height, one.ifmap.channels, one.filter.count) for one in found.layers]
    assert seen == lines
    assert sum(line.macs for line in found.layers) == sum(table.macs().values())


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), "over 3 axes"),
        (nn.ConvTranspose2d(2, 3, 2), (1, 2, 4, 4), "transposed"),
        (nn.Conv2d(2, 3, 2, dilation=2), (1, 2, 4, 4), "dilated"),
        (nn.MaxPool2d(2), (1, 2, 4, 4), "multiplies nothing"),
        (Product(False, 0, 3), (2, 0), "empty"),
    ],
)
def test_what_has_no_line_is_named_with_the_reason(
    layer: nn.Module, shape: tuple[int, ...], reason: str
) -> None:
    table = traced(layer, *shape)
    found = describe(table, 1)
    assert not found.layers
    assert any(reason in left.reason for left in found.left_out)
    assert sum(left.macs or 0 for left in found.left_out) == sum(table.macs().values())


def test_zeros_of_weights_and_values_reach_the_line() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    table = traced(model, 1, 3, 4, 4)
    zeros = Zeros(
        {"0.weight": 0.5, "3.weight": 0.25},
        {
            (LayerId("0"), "aten.convolution", 0): (1 / 3, 0.9, 0.0, 0.75),
            (LayerId("3"), "aten.addmm", 0): (0.0, 0.5, 0.9, 0.2),
        },
    )
    conv, linear = describe(table, 1, zeros).layers
    assert (conv.ifmap.zeros, conv.filter.zeros, conv.ofmap.zeros) == (16, 54, 12)
    assert (linear.ifmap.zeros, linear.filter.zeros, linear.ofmap.zeros) == (8, 20, 1)
    assert not any(line.ifmap.zeros + line.filter.zeros for line in describe(table, 1).layers)


def test_bits_are_those_of_the_model_or_as_wished(demo: ModelSession, job: Job) -> None:
    demo.apply(Quantize((LayerId("stage1.block0.conv2"),)), job)
    table = demo._subject(1).trace.operators
    found = describe(table, 1)
    at = found.of.index(LayerId("stage1.block0.conv2"))
    assert (found.layers[at].ifmap.bits, found.layers[at].filter.bits) == (8, 8)
    assert found.layers[0].filter.bits == 32
    wished = describe(table, 1, bits=4)
    assert all(line.ifmap.bits == line.filter.bits == 4 for line in wished.layers)
    assert all(line.ofmap.bits == 4 for line in wished.layers)


# -- results


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def test_result_columns_add_up_to_the_estimate() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
    table = traced(model, 2, 4, 4, 4)
    made = estimate(table, EnergySettings(), 2)
    found = describe(table, 2)
    text = result_columns(made, found)
    rows = rows_of(text)
    assert list(rows[0]) == [
        "layer", "name", "computation", "ifmap", "weights", "ofmap", "total",
    ]  # fmt: skip
    assert [row["name"] for row in rows] == ["0", "0", "3", "layers without a line", "total"]
    assert [row["layer"] for row in rows] == ["1", "2", "3", "", ""]
    for column in ("computation", "ifmap", "weights", "ofmap", "total"):
        parts = sum(float(row[column]) for row in rows[:-1])
        assert parts == pytest.approx(float(rows[-1][column]), rel=1e-6)
    unit = EnergySettings().hardware.joules_per_mac
    assert float(rows[-1]["total"]) == pytest.approx(made.series.total.value / unit, rel=1e-6)
    assert float(rows[0]["total"]) == float(rows[1]["total"])
    assert "hardware: Eyeriss" in text.splitlines()[0]
    assert "# without a line: aten.relu in 1: it multiplies nothing" in text


# -- opened


def opened(tmp_path: Path, text: str = THREE, name: str = "net.txt") -> ModelSession:
    path = tmp_path / name
    path.write_text(text)
    return open_model(str(path), Job())


def test_a_description_opens_as_its_layers(tmp_path: Path) -> None:
    session = opened(tmp_path)
    shown = session.snapshot
    state = shown.current
    assert shown.model.input_shape == (4, 3, 227, 227)
    assert not shown.model.trained
    assert not shown.model.has_weights
    assert shown.model.notes[0].startswith("A network description: shapes without weights")
    assert [(one.id, one.kind) for one in state.tree][1:] == [
        ("layer1", "Conv2d"),
        ("layer2", "Conv2d"),
        ("layer3", "Linear"),
    ]
    assert state.table["macs"].by_layer() == {
        "layer1": 105_415_200,
        "layer2": 13 * 13 * 256 * 9,
        "layer3": 9216 * 4096,
    }
    assert state.table["parameters"].total.value == 34_848 + 256 * 9 + 9216 * 4096
    assert [one.weight_bits for one in state.tree][1:] == [8, 16, 16]
    assert [one.activation_bits for one in state.tree][1:] == [16, 16, 16]
    assert [one.zeros for one in state.tree][1:] == [48, 0, 0]
    assert state.table["size"].by_layer() == {
        "layer1": 34_848,
        "layer2": 2 * 256 * 9,
        "layer3": 2 * 9216 * 4096,
    }
    assert state.energy.series.by_layer().keys() == {"layer1", "layer2", "layer3"}


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_description_opens_with_its_macs(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    drawn = (data.draw(layers(1, 2)), data.draw(layers(2, 6)), data.draw(layers(3, 2)))
    session = opened(tmp_path_factory.mktemp("net"), write_description(drawn))
    shown = session.snapshot
    assert shown.model.batch == 2
    assert shown.current.table["macs"].by_layer() == {
        f"layer{one.index}": one.macs / 2 for one in drawn
    }
    for layer, one in zip(list(shown.current.tree)[1:], drawn, strict=True):
        assert layer.output_shape is not None
        assert prod(layer.output_shape) == one.ofmap.entries


def test_bits_and_zeros_of_the_description_reach_the_estimate(tmp_path: Path) -> None:
    session = opened(tmp_path, CONV)
    path = tmp_path / "again.txt"
    session.save_description(str(path), Job())
    assert path.read_text() == f"{CONV}\n"
    energy = session.snapshot.current.table["energy"].total.value
    finer = opened(tmp_path, with_field(CONV, "filter bits", 16), "finer.txt")
    assert finer.snapshot.current.table["energy"].total.value > energy


def test_what_is_saved_of_a_description_is_the_description(tmp_path: Path) -> None:
    session = opened(tmp_path)
    report = session.save_description(str(tmp_path / "again.txt"), Job())
    first, second, _ = (tmp_path / "again.txt").read_text().splitlines()
    assert [first, second] == [CONV, DEPTHWISE]  # the third has its map as one column of channels
    assert report.macs == sum(one.macs for one in parse_description(THREE, "net.txt"))
    assert not report.products
    again = open_model(str(tmp_path / "again.txt"), Job())
    for key in ("macs", "parameters", "energy"):
        values = [one.snapshot.current.table[key].total.value for one in (session, again)]
        assert values[0] == pytest.approx(values[1])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 8, 3, 2, 1, bias=False), (2, 6, 20, 18)),
        (nn.Conv2d(6, 6, 3, groups=6, bias=False), (2, 6, 20, 18)),
        (nn.Linear(300, 40, bias=False), (2, 300)),
    ],
)
def test_a_layer_and_its_description_take_the_same_energy(
    layer: nn.Module,
    shape: tuple[int, ...],
    session_of: Callable[..., ModelSession],
    tmp_path: Path,
) -> None:
    session = session_of(layer, *shape)
    path = str(tmp_path / "layer.txt")
    session.save_description(path, Job())
    again = open_model(path, Job())
    for key in ("macs", "parameters", "size", "energy"):
        own, read = (one.snapshot.current.table[key].total.value for one in (session, again))
        assert own == pytest.approx(read), key
    parts = [one.snapshot.current.table["energy"].by_part() for one in (session, again)]
    assert parts[0] == pytest.approx(parts[1])


def test_at_another_batch_there_are_other_maps(tmp_path: Path) -> None:
    session = opened(tmp_path)
    session.set_energy(EnergySettings(batch=1, bits=8), Job())
    report = session.save_description(str(tmp_path / "one.txt"), Job())
    one_image = read_description(tmp_path / "one.txt")
    assert {line.ifmap.count for line in one_image} == {1}
    assert {line.filter.bits for line in one_image} == {8}
    assert report.macs == session.snapshot.current.table["macs"].total.value


def test_uneven_padding_is_part_of_the_map_and_said_so(tmp_path: Path) -> None:
    line = "1,224,224,3,1,0,32,3,3,3,8,0,32,112,112,8,1,0,32,2,2,0,1,0,1"
    session = opened(tmp_path, line)
    assert any("padding differs" in note.lower() for note in session.snapshot.model.notes)
    assert session.snapshot.current.table["macs"].total.value == one(line).macs
    session.save_description(str(tmp_path / "even.txt"), Job())
    (even,) = read_description(tmp_path / "even.txt")
    assert (even.ifmap.height, even.ifmap.zeros) == (225, 3 * (225 * 225 - 224 * 224))


def test_without_weights_nothing_else_can_be_done(tmp_path: Path) -> None:
    session = opened(tmp_path)
    before = session.snapshot
    assert not any(layer.methods for layer in before.current.tree)
    with pytest.raises(EditRefused, match="no weights"):
        session.apply(PruneWeights((LayerId("layer1"),), 0.5), Job())
    with pytest.raises(ProfilingFailed, match="no weights"):
        session.measure_latency(Job())
    with pytest.raises(ExportFailed, match="no weights"):
        session.export(str(tmp_path / "net.pt2"), "program", Job())
    assert session.snapshot.current.id == before.current.id
    assert session.fingerprint() != opened(tmp_path, CONV, "other.txt").fingerprint()


def test_inputs_are_the_descriptions_own(tmp_path: Path) -> None:
    path = tmp_path / "net.txt"
    path.write_text(THREE)
    with pytest.raises(ModelUnreadable, match="says itself"):
        open_model(OpenRequest(str(path), (InputSpec((1, 3, 8, 8)),)), Job())


def test_it_is_recognised_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "net"
    for text in (THREE, f"\ufeff{THREE}", CONV[:-2], CONV.replace("227", "x", 1)):
        path.write_text(text, encoding="utf-8")
        assert sniff(path) is Kind.DESCRIPTION
    for other in ("1,2,3\n", "a,b,c," * 10, "Dear model, 1, 2, 3"):
        path.write_text(other)
        with pytest.raises(ModelUnreadable, match="text file"):
            sniff(path)
    with pytest.raises(ModelNotFound, match=r"no file .*missing\.txt"):
        open_model("missing.txt", Job())


def test_a_model_without_products_has_no_description(
    session_of: Callable[..., ModelSession], tmp_path: Path
) -> None:
    session = session_of(nn.ReLU(), 1, 4)
    with pytest.raises(ExportFailed, match=r"Nothing in the model .*aten\.relu: it multiplies"):
        session.save_description(str(tmp_path / "net.txt"), Job())
    assert not list(tmp_path.iterdir())


def test_the_demo_is_saved_with_its_energy_beside_it(
    demo: ModelSession, job: Job, tmp_path: Path
) -> None:
    report = demo.save_description(str(tmp_path / "digits.txt"), job)
    assert [Path(file).name for file in report.files] == ["digits.txt", "digits.energy.csv"]
    batch = demo.snapshot.model.batch
    assert report.macs == demo.snapshot.current.table["macs"].total.value * batch
    rows = rows_of((tmp_path / "digits.energy.csv").read_text())
    energy = demo.snapshot.current.energy
    unit = energy.settings.hardware.joules_per_mac
    assert float(rows[-1]["total"]) * unit == pytest.approx(energy.series.total.value)
    assert open_model(report.files[0], job).snapshot.current.table["macs"].total.value == (
        pytest.approx(report.macs / batch)
    )
