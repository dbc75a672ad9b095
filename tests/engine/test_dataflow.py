"""The mapping search: published figures, a simulated loop nest, and the laws it obeys."""

import csv
import itertools
from dataclasses import replace
from math import ceil, prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.energy.dataflow import REGISTER_ACCESSES, Accesses, Bits, Geometry, front
from engine.energy.estimates import DATAFLOWS, Dataflow
from engine.energy.hardware import Hardware, default_hardware, read_hardware
from engine.energy.loops import Loops
from engine.resources import resource

DATA = Path(__file__).parent.parent / "data"
WORDS = Bits(16, 16, 16)
GIGA = 1e9


def rows(name: str) -> dict[str, dict[str, float]]:
    """The numbers of a table of tests/data by its first column."""
    with (DATA / f"{name}.csv").open(encoding="utf-8") as file:
        header, *lines = csv.reader(line for line in file if not line.startswith("#"))
    return {
        line[0]: {
            key: float(value)
            for key, value in zip(header, line, strict=True)
            if value.replace(".", "").isdigit()
        }
        for line in lines
    }


SHAPES = rows("alexnet_caffe_layers")
TABLE = rows("eyeriss_isca16_alexnet")
CONVOLUTIONS = [layer for layer in SHAPES if layer.startswith("conv")]


def alexnet(layer: str, batch: int, parts: int = 1) -> Loops:
    """A layer of Caffe's AlexNet, or one of ``parts`` equal parts of its filters."""
    shape = {key: int(value) for key, value in SHAPES[layer].items()}
    groups, size, kernel = shape["groups"], shape["in_height"], shape["kernel"]
    channels, filters = shape["in_channels"] // groups, shape["out_channels"] // groups // parts
    if layer.startswith("fc"):
        return Loops(1, 1, channels, filters, batch, batch)
    stride, padding = shape["stride"], shape["padding"]
    out = (size + 2 * padding - kernel) // stride + 1
    return Loops(
        groups, batch, channels, filters, rows=out, in_rows=size, columns=out, in_columns=size,
        taps=(kernel, 1, kernel), stride=(stride, 1, stride), padding=padding,
    )  # fmt: skip


def best(
    loops: Loops, hardware: Hardware, dataflow: Dataflow = "row-stationary", bits: Bits = WORDS
) -> Accesses:
    """The mapping of least energy for dense data."""
    found = front(loops, bits, Geometry.of(hardware), dataflow)
    assert found is not None
    return found.best(costs(hardware, bits))


def costs(hardware: Hardware, bits: Bits = WORDS) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    cost, width = hardware.cost, np.array(bits) / hardware.word_bits
    return np.concatenate([width * cost.dram, width * cost.global_buffer, width * cost.array])


def units(
    loops: Loops, hardware: Hardware, dataflow: Dataflow = "row-stationary", bits: Bits = WORDS
) -> float:
    """Energy of a product of dense data, in units of the hardware."""
    found, cost = best(loops, hardware, dataflow, bits), hardware.cost
    width = np.array(bits) / hardware.word_bits
    registers = np.dot(REGISTER_ACCESSES[dataflow], width) * cost.register_file.input
    moved = (
        np.dot(found.dram, width) * cost.dram
        + np.dot(found.buffer, width) * cost.global_buffer
        + np.dot(found.array, width) * cost.array
    )
    return float(loops.macs * (width[0] * width[1] * cost.mac + registers) + moved)


# Published figures


@pytest.mark.parametrize("layer", SHAPES)
def test_macs_of_alexnet_are_exact(layer: str) -> None:
    assert alexnet(layer, 1).macs == SHAPES[layer]["macs_per_image"]


@pytest.mark.parametrize("layer", TABLE)
def test_the_isca_2016_table(layer: str) -> None:
    """The table has conv1 and conv3 as two half layers that each read the whole input."""
    hardware, halves = default_hardware(), 2 if layer in ("conv1", "conv3") else 1
    loops, published = alexnet(layer, 16, halves), TABLE[layer]
    found = best(loops, hardware)
    assert halves * loops.macs / GIGA == pytest.approx(published["alu"], abs=0.0011)
    assert sum(REGISTER_ACCESSES["row-stationary"]) * halves * loops.macs / GIGA == pytest.approx(
        published["rf"], abs=0.0011
    )
    dram = halves * sum(found.dram) * hardware.cost.dram / GIGA
    least = loops.groups * (loops.inputs + loops.weights + loops.outputs)
    assert dram >= halves * least * hardware.cost.dram / GIGA * (1 - 1e-12)
    assert 0.75 * published["dram"] <= dram <= 1.05 * published["dram"]
    assert halves * units(loops, hardware) / GIGA == pytest.approx(published["total"], rel=0.05)


def shares(batch: int) -> dict[str, float]:
    """Energy of AlexNet's layers on the array of ISCA 2016, in its units."""
    return {layer: units(alexnet(layer, batch), default_hardware()) for layer in SHAPES}


def convolution_share(batch: int) -> float:
    spent = shares(batch)
    return sum(spent[layer] for layer in CONVOLUTIONS) / sum(spent.values())


@pytest.mark.parametrize("batch", [1, 16, 48])
def test_share_of_the_convolutions_by_batch(batch: int) -> None:
    published = rows("alexnet_batch_dependence")[str(batch)]
    assert convolution_share(batch) == pytest.approx(published["conv_share"], abs=0.02)
    per_image = sum(shares(batch).values()) / batch / GIGA
    assert per_image == pytest.approx(published["energy_per_image"], rel=0.05)


def test_share_of_the_convolutions_rises_with_the_batch() -> None:
    found = [convolution_share(2**at) for at in range(8)]
    assert found == sorted(found)


# A loop nest, simulated


def read_by(loops: Loops, outputs: range) -> set[int]:
    """Input rows, without padding, that these output rows are made of."""
    read = {
        row * loops.stride[0] + tap - loops.padding
        for row in outputs
        for tap in range(loops.taps[0])
    }
    return read & set(range(loops.in_rows))


def simulated(loops: Loops, tile: tuple[int, int, int, int], order: tuple[str, ...]) -> int:
    """Words that cross between DRAM and buffer when tiles are gone through in that order.

    The buffer holds one tile each of inputs, weights and sums; each is fetched when another one
    is needed, and sums are put away when they make room.
    """
    c, m, e, n = tile
    numbers = {
        "channels": ceil(loops.channels / c),
        "filters": ceil(loops.filters / m),
        "strips": ceil(loops.rows / e) * ceil(loops.images / n),
    }
    held: dict[str, tuple[int, ...] | None] = dict.fromkeys(("input", "weights", "sums"))
    begun: set[tuple[int, ...]] = set()
    moved = 0
    for at in itertools.product(*(range(numbers[name]) for name in order)):
        index = dict(zip(order, at, strict=True))
        strip, image = divmod(index["strips"], ceil(loops.images / n))
        sizes = (
            min(c, loops.channels - index["channels"] * c),
            min(m, loops.filters - index["filters"] * m),
            min(e, loops.rows - strip * e),
            min(n, loops.images - image * n),
        )
        wanted = {
            "input": (index["channels"], index["strips"]),
            "weights": (index["channels"], index["filters"]),
            "sums": (index["filters"], index["strips"]),
        }
        real = len(read_by(loops, range(strip * e, strip * e + sizes[2])))
        words = {
            "input": sizes[0] * sizes[3] * real * loops.in_columns,
            "weights": sizes[0] * sizes[1] * prod(loops.taps),
            "sums": sizes[1] * sizes[2] * sizes[3] * loops.columns,
        }
        for name, which in wanted.items():
            if held[name] == which:
                continue
            held[name] = which
            if name != "sums":
                moved += words[name]
            else:  # written when it goes, read first if it was begun before
                moved += words[name] * (2 if which in begun else 1)
                begun.add(which)
    return moved


@given(
    st.integers(1, 30), st.integers(1, 7), st.integers(1, 6), st.integers(1, 6), st.integers(0, 14),
    st.data(),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_rows_under_strips_are_counted(
    size: int, kernel: int, stride: int, dilation: int, padding: int, data: st.DataObject
) -> None:
    """Against every row named; dilated kernels leave rows out."""
    reach = (kernel - 1) * dilation + 1
    rows_ = max(1, (size + 2 * padding - reach) // stride + 1)
    loops = Loops(
        1, 1, 1, 1, rows=rows_, in_rows=size, taps=(kernel, 1, 1), stride=(stride, 1, 1),
        dilation=(dilation, 1, 1), padding=padding,
    )  # fmt: skip
    strip, tall = data.draw(st.integers(1, rows_)), data.draw(st.integers(1, kernel))
    fetched = wanted = 0
    for start in range(0, rows_, strip):
        outputs = range(start, min(start + strip, rows_))
        for first in range(0, kernel, tall):
            taps = range(first, min(first + tall, kernel))
            read = {row * stride + tap * dilation - padding for row in outputs for tap in taps}
            fetched += len(read & set(range(size)))
        wanted = max(
            wanted, len({r * stride + t * dilation for r in outputs for t in range(kernel)})
        )
    assert loops.rows_fetched(strip, tall) == fetched
    assert loops.under(0, strip) == wanted


products = st.builds(
    lambda channels, filters, images, size, kernel, stride, padding: Loops(
        1, images, channels, filters,
        rows=(size + 2 * padding - kernel) // stride + 1, in_rows=size,
        columns=(size + 2 * padding - kernel) // stride + 1, in_columns=size,
        taps=(kernel, 1, kernel), stride=(stride, 1, stride), padding=padding,
    ),
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(3, 9),
    st.integers(1, 3), st.integers(1, 2), st.integers(0, 1),
)  # fmt: skip


def small(buffer_words: int, side: int = 4) -> Hardware:
    """The array of ISCA 2016, smaller."""
    hardware = default_hardware()
    return replace(
        hardware,
        array=replace(hardware.array, rows=side, columns=side),
        register_file=replace(hardware.register_file, shared_bytes=64),
        global_buffer=replace(hardware.global_buffer, bytes=2 * buffer_words),
    )


@given(products, st.integers(60, 400))
@settings(max_examples=60, deadline=None)
def test_words_from_dram_are_those_of_a_simulated_loop_nest(loops: Loops, words: int) -> None:
    hardware = small(words)
    found = front(loops, WORDS, Geometry.of(hardware), "row-stationary")
    if found is None:
        return
    mapping = found.best(costs(hardware))
    orders = itertools.permutations(("channels", "filters", "strips"))
    nests = [simulated(loops, mapping.tile, order) for order in orders]
    assert round(sum(mapping.dram)) in nests


def parts_of(whole: range, size: int) -> list[range]:
    """Consecutive ranges of that size, the last with what is left."""
    return [range(at, min(at + size, whole.stop)) for at in range(whole.start, whole.stop, size)]


def passed(loops: Loops, mapping: Accesses, kept: str) -> tuple[int, int, int]:
    """Words between buffer and array, pass by pass: of weights, inputs, sums.

    What is kept is read in the first of the passes that share it in a tile, the rest in each.
    """
    whole = loops.channels, loops.filters, loops.rows
    moved = dict.fromkeys(("weights", "inputs", "sums"), 0)
    begun: set[tuple[int, ...]] = set()
    tiled = [parts_of(range(one), size) for one, size in zip(whole, mapping.tile, strict=False)]
    for *tile, images in itertools.product(*tiled, parts_of(range(loops.images), mapping.tile[3])):
        there: set[tuple[int, ...]] = set()
        passes = [parts_of(one, size) for one, size in zip(tile, mapping.pass_, strict=True)]
        for (c, m, e), image in itertools.product(itertools.product(*passes), images):
            wanted = {
                "weights": ((0, c[0], m[0]), len(c) * len(m) * prod(loops.taps)),
                "inputs": (
                    (1, c[0], e[0], image),
                    len(c) * len(read_by(loops, e)) * loops.in_columns,
                ),
                "sums": ((2, m[0], e[0], image), len(m) * len(e) * loops.columns),
            }
            for name, (place, words) in wanted.items():
                if name == kept and place in there:
                    continue
                there.add(place)
                moved[name] += words * (2 if place in begun else 1)
                if name == "sums":
                    begun.add(place)
    return moved["weights"], moved["inputs"], moved["sums"]


@given(products, st.integers(60, 600), st.sampled_from([32, 64, 256]))
@settings(max_examples=60, deadline=None)
def test_words_between_buffer_and_array_are_those_of_simulated_passes(
    loops: Loops, words: int, registers: int
) -> None:
    hardware = small(words)
    file = replace(hardware.register_file, shared_bytes=registers)
    geometry = Geometry.of(replace(hardware, register_file=file))
    found = front(loops, WORDS, geometry, "row-stationary")
    if found is None:
        return
    for costs_ in np.eye(9):  # those that are best for one thing each
        mapping = found.best(costs_ + 1e-3)
        simulated_ = {passed(loops, mapping, kept) for kept in ("weights", "inputs", "sums")}
        assert tuple(map(round, mapping.buffer)) in simulated_
        # A weight goes to an element for every output row of the strip.
        strip = loops.rows / ceil(loops.rows / mapping.pass_[2])
        assert mapping.array[0] == pytest.approx(mapping.buffer[0] * strip)


def tiles(loops: Loops, words: int) -> list[tuple[int, int, int, int]]:
    """Every tile that fits the buffer."""
    found = []
    for c, m, e, n in itertools.product(
        range(1, loops.channels + 1), range(1, loops.filters + 1), range(1, loops.rows + 1),
        range(1, loops.images + 1),
    ):  # fmt: skip
        rows_in = min(loops.in_rows, loops.under(0, e))
        room = c * n * rows_in * loops.in_columns + m * n * e * loops.columns
        if room + c * m * prod(loops.taps) <= words:
            found.append((c, m, e, n))
    return found


@given(products, st.integers(100, 300))
@settings(max_examples=15, deadline=None)
def test_the_search_comes_near_the_best_of_all_tilings(loops: Loops, words: int) -> None:
    """Of all tiles under all orders, not of the searched space alone."""
    hardware = small(words, side=1)
    hardware = replace(hardware, cost=replace(hardware.cost, array=0.0, global_buffer=0.0))
    found = front(loops, WORDS, Geometry.of(hardware), "row-stationary")
    possible = tiles(loops, words)
    if found is None or not possible:
        return
    orders = list(itertools.permutations(("channels", "filters", "strips")))
    least = min(simulated(loops, tile, order) for tile in possible for order in orders)
    assert least <= sum(found.best(costs(hardware)).dram) * (1 + 1e-9)
    assert sum(found.best(costs(hardware)).dram) <= 1.5 * least


# Laws


@given(products, st.sampled_from(DATAFLOWS), st.integers(40, 2000), st.data())
@settings(max_examples=60, deadline=None)
def test_energy_never_rises_when_bits_fall(
    loops: Loops, dataflow: Dataflow, words: int, data: st.DataObject
) -> None:
    hardware = small(words)
    wide = Bits(*(data.draw(st.integers(1, 16)) for _ in range(3)))
    narrow = Bits(*(data.draw(st.integers(1, one)) for one in wide))
    if front(loops, wide, Geometry.of(hardware), dataflow) is None:
        return
    after, before = (units(loops, hardware, dataflow, bits) for bits in (narrow, wide))
    assert after <= before * (1 + 1e-12)


@given(products, st.sampled_from(DATAFLOWS), st.integers(60, 2000), st.integers(0, 3000))
@settings(max_examples=40, deadline=None)
def test_energy_never_rises_with_a_larger_buffer_of_the_same_cost(
    loops: Loops, dataflow: Dataflow, words: int, more: int
) -> None:
    """Where rows need not be cut; smaller buffers try more ways to cut them."""
    before, after = small(words), small(words + more)
    if front(loops, WORDS, Geometry.of(before), dataflow) is None:
        return
    assert units(loops, after, dataflow) <= units(loops, before, dataflow) * (1 + 1e-12)


@given(products, st.sampled_from(DATAFLOWS), st.integers(40, 2000))
@settings(max_examples=40, deadline=None)
def test_no_mapping_moves_less_than_everything_once(
    loops: Loops, dataflow: Dataflow, words: int
) -> None:
    found = front(loops, WORDS, Geometry.of(small(words)), dataflow)
    if found is None:
        return
    for costs_ in np.eye(9):
        mapping = found.best(costs_ + 1e-6)
        assert mapping.dram[0] >= loops.weights
        assert mapping.dram[2] >= loops.outputs
        lines = len(read_by(loops, range(loops.rows)))
        assert mapping.dram[1] >= loops.images * loops.channels * lines * loops.in_columns
        assert mapping.buffer[0] >= loops.weights
        assert mapping.buffer[2] >= loops.outputs
        assert 0 < mapping.utilisation <= 1


@given(products, st.integers(60, 1000), st.data())
@settings(max_examples=40, deadline=None)
def test_the_front_holds_the_best_for_any_costs(
    loops: Loops, words: int, data: st.DataObject
) -> None:
    """Costs tell three data types apart in DRAM, and the two other levels as a whole."""
    geometry = Geometry.of(small(words))
    fine, coarse = (front(loops, WORDS, geometry, "row-stationary", packs=one) for one in (1, 0))
    if fine is None or coarse is None:
        return
    factors = [data.draw(st.floats(0, 1)) for _ in range(3)]
    dram, near, array = (data.draw(st.floats(0.1, 500)) for _ in range(3))
    dense = np.array([dram] * 3 + [near] * 3 + [array] * 3)
    assert (coarse.counts @ dense).min() == pytest.approx((fine.counts @ dense).min())
    packed = dense * np.array([*factors, *[1.0] * 6])
    assert (fine.counts @ packed).min() <= (coarse.counts @ packed).min() * (1 + 1e-9)


def test_groups_are_so_many_products() -> None:
    one = Loops(1, 2, 8, 8, rows=9, in_rows=9, columns=9, in_columns=9, taps=(3, 1, 3), padding=1)
    found, several = (best(replace(one, groups=groups), small(400)) for groups in (1, 5))
    assert several.dram == tuple(5 * words for words in found.dram)
    assert several.array == tuple(5 * words for words in found.array)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_groups_work_side_by_side(dataflow: Dataflow) -> None:
    """A depthwise convolution is small in each group, and has many of them."""
    one = Loops(1, 1, 1, 1, rows=7, in_rows=9, columns=7, in_columns=9, taps=(3, 1, 3))
    alone, many = (
        best(replace(one, groups=groups), default_hardware(), dataflow).utilisation
        for groups in (1, 64)
    )
    assert alone < 0.6 < many <= 1


@pytest.mark.parametrize(
    "loops",
    [
        Loops(1, 1, 3, 4, rows=40, in_rows=40, columns=4000, in_columns=4000, taps=(3, 1, 3)),
        Loops(1, 1, 2, 2, rows=31, in_rows=61, columns=31, in_columns=61, taps=(31, 1, 31)),
        Loops(64, 1, 1, 1, rows=56, in_rows=56, columns=56, in_columns=56, taps=(3, 1, 3)),
        Loops(1, 1, 4096, 50257, rows=1, in_rows=1),
        Loops(1, 1, 3, 8, rows=16000, in_rows=48000, taps=(400, 1, 1), stride=(3, 1, 1)),
        Loops(
            1, 1, 4, 4, rows=8, in_rows=8, middle=10, in_middle=10, columns=10, in_columns=10,
            taps=(3, 3, 3), padding=1,
        ),
        Loops(
            1, 1, 45, 64, rows=16, in_rows=16, middle=112, in_middle=112, columns=112,
            in_columns=112, taps=(3, 7, 7), padding=1,
        ),
        Loops(
            1, 2, 64, 64, rows=4096, in_rows=4096, columns=4096, in_columns=4096, taps=(3, 1, 3),
            padding=1,
        ),
    ],
    ids=[
        "wide rows", "kernel larger than the array", "depthwise", "vocabulary", "sound", "volume",
        "video", "scan",
    ],
)  # fmt: skip
@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("key", ["eyeriss_isca2016", "eyeriss_chip", "von_neumann_45nm"])
def test_unusual_products_find_a_mapping(loops: Loops, dataflow: Dataflow, key: str) -> None:
    hardware = read_hardware(resource(f"hardware/{key}.toml"))
    word = Bits(*[hardware.word_bits] * 3)
    found = best(loops, hardware, dataflow, word)
    assert sum(found.dram) >= loops.groups * (loops.weights + loops.outputs)
    assert 0 < found.utilisation <= 1


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_a_large_array_works_out_of_a_small_buffer(dataflow: Dataflow) -> None:
    """A pass need not take as many filters as there are elements."""
    found = best(Loops(1, 1, 64, 64, rows=1, in_rows=1), small(40, side=64), dataflow)
    assert found.dram[0] == 64 * 64


def test_rows_of_a_long_signal_are_counted_without_naming_each() -> None:
    song = Loops(1, 1, 3, 8, rows=10**12, in_rows=10**12, taps=(401, 1, 1), padding=200)
    assert song.rows_fetched(1) == 401 * 10**12 - 200 * 201
    assert song.rows_fetched(10**12) == 10**12


def test_a_dilated_kernel_reads_the_rows_under_its_taps() -> None:
    """On an array one row high each output row reads three, not all between the first and last."""
    loops = Loops(
        1, 1, 1, 1, rows=64, in_rows=100, columns=1, in_columns=1, taps=(3, 1, 1),
        dilation=(18, 1, 1),
    )  # fmt: skip
    found = front(loops, WORDS, Geometry.of(small(8, side=3)), "row-stationary")
    assert found is not None
    assert found.counts[:, 4].max() <= 3 * 64  # read from the buffer


def test_a_product_that_no_buffer_holds_has_no_mapping() -> None:
    wide = Loops(1, 1, 1, 1, rows=9, in_rows=9, columns=9, in_columns=9, taps=(9, 1, 9))
    assert front(wide, WORDS, Geometry.of(small(20)), "row-stationary") is None


def test_row_stationary_spends_least_on_the_convolutions_of_alexnet() -> None:
    """As the ISCA 2016 study finds for every one of the dataflows that it compares."""
    for layer in CONVOLUTIONS:
        loops = alexnet(layer, 16)
        spent = {flow: units(loops, default_hardware(), flow) for flow in DATAFLOWS}
        assert min(spent, key=spent.__getitem__) == "row-stationary", spent


# One pass at a time, by hand


def test_a_matrix_product_that_fits_everywhere_by_hand() -> None:
    """2 rows, 3 channels, 2 filters on one element: every operand once from DRAM and buffer."""
    found = best(Loops(1, 1, 3, 2, rows=2, in_rows=2), small(100, side=1))
    assert found.dram == (6, 6, 4)
    assert found.spilled == 0
    assert (found.tile, found.utilisation) == ((3, 2, 2, 1), 1.0)
    # All six weights stay in the element while two rows of three inputs pass by.
    assert (found.buffer, found.array) == ((6, 6, 4), (6, 6, 0))


def test_filters_side_by_side_each_get_the_row() -> None:
    """Two filters on two elements: three inputs go to both."""
    found = best(Loops(1, 1, 1, 2, rows=1, in_rows=1, columns=3, in_columns=3), small(100, side=2))
    assert (found.buffer, found.array) == ((2, 3, 6), (2, 6, 0))


def test_sums_go_from_one_row_of_the_kernel_to_the_next() -> None:
    """Two elements, one above the other, make three outputs."""
    loops = Loops(1, 1, 1, 1, rows=1, in_rows=2, columns=3, in_columns=3, taps=(2, 1, 1))
    found = best(loops, small(100, side=2))
    assert (found.buffer, found.array) == ((2, 6, 3), (2, 6, 3))


@given(products, st.integers(60, 600))
@settings(max_examples=30, deadline=None)
def test_one_element_hands_nothing_on(loops: Loops, words: int) -> None:
    """Only sums that are read back from the buffer are delivered to it."""
    found = front(loops, WORDS, Geometry.of(small(words, side=1)), "row-stationary")
    if found is None:
        return
    for costs_ in np.eye(9):
        mapping = found.best(costs_ + 1e-3)
        assert mapping.array[2] == pytest.approx((mapping.buffer[2] - loops.outputs) / 2)


def test_a_kernel_wider_than_the_registers_passes_over_its_inputs_for_each_part() -> None:
    """Registers of one word each: three taps are three passes over a row of five."""
    loops = Loops(1, 1, 1, 1, rows=1, in_rows=1, columns=3, in_columns=5, taps=(1, 1, 3))
    hardware = small(100, side=1)
    hardware = replace(hardware, register_file=replace(hardware.register_file, shared_bytes=6))
    found = best(loops, hardware)
    assert (found.buffer, found.array) == ((3, 15, 15), (3, 15, 6))


def test_rows_that_do_not_fit_the_registers_do_not_stay_there() -> None:
    """Three words hold a weight, an input and a sum, not ten of either."""
    hardware = small(200, side=1)
    hardware = replace(hardware, register_file=replace(hardware.register_file, shared_bytes=6))
    loops = Loops(1, 1, 2, 2, rows=1, in_rows=1, columns=10, in_columns=10)
    found = front(loops, WORDS, Geometry.of(hardware), "row-stationary")
    assert found is not None
    assert found.counts[:, 4].min() == 2 * loops.inputs  # for each filter
    assert found.counts[:, 5].min() == 3 * loops.outputs  # put away, read, put away


def test_a_volume_reads_the_lines_under_every_tap() -> None:
    loops = Loops(
        1, 1, 1, 1, rows=1, in_rows=1, middle=2, in_middle=4, columns=5, in_columns=5,
        taps=(1, 3, 1),
    )  # fmt: skip
    assert best(loops, small(100, side=1)).buffer[1] == 2 * 3 * 5


def test_weights_that_stay_by_hand() -> None:
    """Eight channels on four elements: two chains of four, put away and read back once."""
    found = best(Loops(1, 1, 8, 1, rows=5, in_rows=5), small(100, side=2), "weight-stationary")
    assert found.buffer == (8, 40, 3 * 5)
    # Of eight sums of an output three and three are handed on, one is read back.
    assert found.array == (8, 40, 7 * 5)


def test_a_kernel_larger_than_the_array_reads_its_inputs_for_each_part() -> None:
    loops = Loops(1, 1, 1, 1, rows=3, in_rows=5, columns=3, in_columns=5, taps=(3, 1, 3))
    found = best(loops, small(100, side=2), "weight-stationary")
    assert found.buffer == (9, 3 * 25, (2 * 3 - 1) * 9)


def test_outputs_that_stay_by_hand() -> None:
    """Five columns on four elements: three, then two, each piece with the columns around it."""
    loops = Loops(1, 1, 1, 1, rows=1, in_rows=3, columns=5, in_columns=7, taps=(3, 1, 3))
    found = best(loops, small(100, side=2), "output-stationary")
    assert found.buffer == (2 * 9, 2 * 3 * 5, 5)
    assert found.array == (5 * 9, 5 * 9, 0)
