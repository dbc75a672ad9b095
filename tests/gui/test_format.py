"""Numbers as text: laws over all numbers, and the forms that people see."""

import math
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import (
    METRICS,
    ROOT,
    Cast,
    Edit,
    Equalize,
    Factorize,
    FineTune,
    FoldNorms,
    InputSpec,
    LayerId,
    Limit,
    MaskWeights,
    PruneByMethod,
    PruneChannels,
    PruneHeads,
    PruneWeights,
    Quantity,
    Quantize,
    RecalibrateNorms,
    RemoveBlocks,
    Smooth,
)
from gui import format as fmt

numbers = st.floats(allow_nan=False, allow_infinity=False)
ordinary = st.floats(min_value=1e-17, max_value=1e20)


@given(ordinary, st.sampled_from(["J", "s"]))
def test_quantity_round_trip_keeps_three_digits(value: float, unit: str) -> None:
    assert fmt.parse(fmt.quantity(value, unit), unit) == pytest.approx(value, rel=0.0051)


@given(st.integers(min_value=1, max_value=10**20), st.sampled_from(["1", "MAC", "B"]))
def test_counts_round_trip(value: int, unit: str) -> None:
    assert fmt.parse(fmt.quantity(value, unit), unit) == pytest.approx(value, rel=0.0051)


@given(st.floats(), st.sampled_from(["J", "s", "1", "MAC", "B"]))
def test_no_number_reads_as_nan(value: float, unit: str) -> None:
    texts = (fmt.quantity(value, unit), fmt.percent(value), fmt.delta(1.0, value))
    assert not any("nan" in text.lower() for text in texts)


@given(numbers, numbers)
def test_delta_points_where_the_value_went(base: float, current: float) -> None:
    text = fmt.delta(base, current)
    if current == base:
        assert text == "unchanged"
    else:
        assert text.startswith("▲" if current > base else "▼")


@given(numbers, numbers, st.sampled_from(sorted(METRICS)))
def test_verdict_agrees_with_the_metric(base: float, current: float, key: str) -> None:
    metric = METRICS[key]
    expected = "" if base == current else "worse"
    if (current < base) if metric.lower_is_better else (current > base):
        expected = "better"
    assert fmt.verdict(metric, base, current) == expected


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.12e-5, "J", "41.2 µJ"),
        (1.31e-3, "s", "1.31 ms"),
        (3.02e6, "MAC", "3.02 M"),
        (212_345, "B", "212 kB"),
        (54_100, "1", "54.1 k"),
        (999.96, "J", "1.00 kJ"),
        (512, "B", "512 B"),
        (0, "J", "0 J"),
        (-2e-9, "J", "−2.00 nJ"),
        (1e-25, "J", "1.00e-25 J"),
        (None, "J", "–"),
        (math.nan, "J", "–"),
        (math.inf, "s", "∞ s"),
    ],
)
def test_quantity(value: float | None, unit: str, text: str) -> None:
    assert fmt.quantity(value, unit) == text


@pytest.mark.parametrize(
    ("base", "current", "text"),
    [
        (88.0, 41.2, "▼ 53 %"),
        (1.0, 1.052, "▲ 5.2 %"),
        (1.0, 1.0001, "▲ <0.1 %"),
        (1.0, 50.0, "▲ 50×"),
        (0.0, 1.0, "▲ from 0"),
        (None, 1.0, ""),
    ],
)
def test_delta(base: float | None, current: float, text: str) -> None:
    assert fmt.delta(base, current) == text


def test_accuracy_changes_in_points() -> None:
    metric = METRICS["accuracy"]
    assert fmt.change(metric, 0.984, 0.976) == "▼ 0.8 pp"
    assert fmt.metric_value(metric, Quantity(0.976, 0.962, 0.990)) == "97.6 % ±1.4"
    assert fmt.interval(metric, Quantity(0.976, 0.962, 0.990)) == "96.2 % and 99.0 %"
    assert fmt.interval(metric, Quantity(0.976)) == ""


def test_small_shares_never_read_as_zero() -> None:
    assert fmt.percent(0.00001) == "<0.1 %"
    assert fmt.percent(0.0) == "0 %"


def test_shapes_drop_the_batch() -> None:
    assert fmt.shape((1, 16, 8, 8)) == "16×8×8"
    assert fmt.shape((4,)) == "1"
    assert fmt.shape(None) == "–"


def test_edits_in_words() -> None:
    one, two = LayerId("head.fc"), LayerId("stem.conv")
    assert fmt.edit_text(PruneChannels((one,), 0.3)) == "Prune 30 % of channels of head.fc (L2)"
    assert (
        fmt.edit_text(PruneWeights((one, two), 0.125, "random"))
        == "Prune 12.5 % of weights of 2 layers (random)"
    )
    assert fmt.edit_text(Quantize((one, two))) == "Quantize 2 layers to int8"
    few = Quantize((one,), 4, rounding="gptq")
    assert fmt.edit_text(few) == f"Quantize {one} to int4 weights, int8 inputs (GPTQ)"
    weights = Quantize((one,), 4, "group", activations="none")
    assert fmt.edit_text(weights) == f"Quantize {one} to int4 weights (groups of 32)"
    dynamic = Quantize((one,), granularity="tensor", activations="dynamic")
    text = f"Quantize {one} to int8 weights, dynamic int8 inputs (per tensor)"
    assert fmt.edit_text(dynamic) == text
    assert fmt.edit_text(Cast((one, two), "bfloat16")) == "Cast 2 layers to bfloat16"
    assert fmt.edit_text(Equalize((one,))) == f"Equalize the channels of {one}"
    assert fmt.edit_text(Smooth((one,), 0.5)) == f"Smooth {one} by 50 %"
    tune, told = FineTune((ROOT,), epochs=60), "12 epochs, top-1 90 % → 95 %"
    assert fmt.done_text(tune, "", False) == "Fine-tune for 60 epochs"
    assert fmt.done_text(tune, told, False) == f"Fine-tune: {told}"  # it was stopped
    aware = fmt.done_text(FineTune((one,)), told, True)
    assert aware == f"Quantization-aware training of {one}: {told}"
    assert fmt.done_text(Quantize((one,)), "", False) == f"Quantize {one} to int8"
    assert fmt.quantized_text((3, 12)) == "3 of 12 layers quantized"
    assert fmt.quantized_text((0, 0)) == "no layer to quantize"


ONE, TWO = (LayerId("head.fc"),), (LayerId("head.fc"), LayerId("stem.conv"))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (
            PruneChannels(TWO, 0.3, "bn-scale", "energy"),
            "Prune 30 % of channels of 2 layers (batch-norm scale, by energy)",
        ),
        (PruneChannels(ONE, 0.3, channels=(1, 4)), "Prune 2 picked channels of head.fc"),
        (PruneHeads(ONE, 0.25), "Prune 25 % of heads of head.fc (L2)"),
        (PruneHeads(ONE, 0.25, heads=(0,)), "Prune 1 picked heads of head.fc"),
        (RemoveBlocks(ONE), "Remove block head.fc"),
        (RemoveBlocks(TWO), "Remove 2 blocks"),
        (
            PruneWeights(TWO, 0.5, "wanda", "global"),
            "Prune 50 % of weights of 2 layers (Wanda, one ranking)",
        ),
        (PruneWeights(ONE, 0.5, keep=2, of=4), "Prune weights of head.fc to 2:4 (L1)"),
        (
            MaskWeights(ONE, "/home/a/masks/b.npz"),
            "Zero weights of head.fc by the mask masks/b.npz",
        ),
        (
            PruneByMethod(ONE, "own.py:Mine\n", 0.2),
            "Prune 20 % of weights of head.fc (own.py:Mine\\n)",
        ),
        (Factorize(ONE, 0.6), "Factorize head.fc for 60 % fewer parameters"),
        (
            Factorize(ONE, 0.6, "spatial"),
            "Factorize head.fc for 60 % fewer parameters, column and row",
        ),
        (FoldNorms(TWO), "Fold batch norms into 2 layers"),
        (RecalibrateNorms((ROOT,)), "Recalibrate batch norms (1024 samples)"),
        (RecalibrateNorms(ONE, 64), "Recalibrate batch norms of head.fc (64 samples)"),
        (FineTune((ROOT,), 1), "Fine-tune for 1 epoch"),
        (FineTune(ONE, 5, distillation=0.5), "Fine-tune head.fc for 5 epochs, with distillation"),
    ],
)
def test_every_kind_of_edit_has_its_words(edit: Edit, text: str) -> None:
    assert fmt.edit_text(edit) == text


def test_criteria_are_named_as_the_field_does() -> None:
    kinds = (PruneChannels, PruneWeights, PruneHeads)
    names = [
        fmt.criterion_name(one)
        for kind in kinds
        for one in get_args(get_type_hints(kind)["criterion"])
    ]
    assert set(names) == {
        "L1", "L2", "batch-norm scale", "FPGM", "Taylor", "activation", "LAMP", "Wanda", "random",
    }  # fmt: skip


def test_limits_in_words() -> None:
    assert fmt.limit_text(Limit(METRICS["energy"], 5e-5)) == "Energy per inference ≤ 50.0 µJ"
    assert fmt.limit_text(Limit(METRICS["accuracy"], 0.97)) == "Accuracy ≥ 97.0 %"
    assert fmt.bound_text(Limit(METRICS["size"], 0.6, relative=True)) == "≤ 60 % of base"


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("0.1ms", "s", 1e-4),
        ("10k", "1", 1e4),
        ("1uJ", "J", 1e-6),
        ("1 µJ", "J", 1e-6),
        ("1M", "MAC", 1e6),
        ("50%", "1", 0.5),
        ("2 kB", "B", 2e3),
        ("−3", "J", -3),
    ],
)
def test_parse(text: str, unit: str, value: float) -> None:
    assert fmt.parse(text, unit) == value


@pytest.mark.parametrize(("text", "unit"), [("", "J"), ("fast", "s"), ("3 kg", "J"), ("5%", "s")])
def test_parse_says_what_is_wrong(text: str, unit: str) -> None:
    with pytest.raises(ValueError, match="“"):
        fmt.parse(text, unit)


def test_tooltips_show_markup_as_it_is() -> None:
    assert fmt.tooltip("a<b>\nc") == "<qt>a&lt;b&gt;<br>c</qt>"
    assert fmt.tooltip("") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>plain</b>", "<b>plain</b>"),
        ("a\u202etp.exe", "a\\u202etp.exe"),
        ("two\nlines", "two\\nlines"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("half \ud800", "half \\ud800"),
        ("Größe ×", "Größe ×"),
    ],
)
def test_what_hides_in_a_name_is_spelt_out(text: str, shown: str) -> None:
    assert fmt.visible(text) == shown


def test_long_names_keep_both_ends() -> None:
    shown = fmt.visible("begin" + "x" * 10_000 + "end", 40)
    assert shown.startswith("begin")
    assert shown.endswith("end")
    assert len(shown) < 50


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1e9, "MAC", "1 G"), (5e-4, "s", "500 µs"), (75.0, "1", "75"), (2.5e6, "1", "2.5 M")],
)
def test_ticks_are_as_short_as_they_are(value: float, unit: str, text: str) -> None:
    assert fmt.tick(value, unit) == text


@pytest.mark.parametrize("text", ["1x3x224x224", "1x128:int64<30522", "2x3x8x8[]"])
def test_inputs_read_as_shape_and_type(text: str) -> None:
    spec = InputSpec.parse(text)
    shown = fmt.input_text(spec)
    assert shown.startswith("×".join(map(str, spec.shape)))
    assert spec.dtype in shown


def test_conditions_that_change_a_figure_are_written() -> None:
    conditions = {
        "device": "cpu", "threads": "2", "batch": "8", "dtype": "float32", "autocast": "bfloat16",
        "memory order": "channels last", "pass": "forward and backward", "torch": "2",
    }  # fmt: skip
    assert fmt.conditions_text(conditions) == (
        "cpu · float32 · 2 threads · autocast to bfloat16 · channels last"
        " · forward and backward · batch 8"
    )
    assert fmt.conditions_text({"pass": "forward"}) == ""


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("/home/a/models/net.py", "models/net.py:12"),
        ("/opt/venv/lib/site-packages/torch/nn/modules/conv.py", "torch/nn/modules/conv.py:12"),
        ("<string>", "<string>:12"),
        ("", ""),
    ],
)
def test_places_of_functions_are_short(file: str, text: str) -> None:
    assert fmt.place(file, 12) == text
