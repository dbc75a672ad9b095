"""Figures: breakdowns that add up, tables that replace nothing, limits that say “not known”."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.layers import LayerId
from engine.metrics import (
    ACCURACY,
    ENERGY,
    LATENCY,
    MACS,
    METRICS,
    OVERHEAD,
    SIZE,
    Limit,
    MeasurementTable,
    Metric,
    Overhead,
    Quantity,
    Series,
    overhead_of,
)

PARTS = st.dictionaries(
    st.sampled_from(["mac", "register file", "buffer", "DRAM"]),
    st.integers(0, 10**9).map(Quantity),
    max_size=4,
)
LAYERS = st.dictionaries(st.sampled_from(["", "a", "a.b", "c"]).map(LayerId), PARTS)
POSITIVE = st.floats(1e-12, 1e12)


@given(LAYERS)
def test_by_layer_and_by_part_add_up_to_the_same(layers) -> None:
    series = Series(ENERGY, Quantity(0), layers)
    everything = sum(one.value for parts in layers.values() for one in parts.values())
    assert sum(series.by_layer().values()) == everything
    assert sum(series.by_part().values()) == everything
    assert series.by_layer().keys() == layers.keys()
    assert series.by_part().keys() == {part for parts in layers.values() for part in parts}


def test_a_breakdown_by_hand() -> None:
    layers = {
        LayerId("a"): {"mac": Quantity(1), "DRAM": Quantity(20)},
        LayerId("b"): {"DRAM": Quantity(300)},
    }
    series = Series(ENERGY, Quantity(321), layers)
    assert series.by_layer() == {"a": 21, "b": 300}
    assert series.by_part() == {"mac": 1, "DRAM": 320}


def test_keys_and_units() -> None:
    assert {key: metric.unit for key, metric in METRICS.items()} == {
        "accuracy": "1", "energy": "J", "latency": "s", "macs": "MAC", "size": "B",
        "parameters": "1", "memory": "B", "measured_energy": "J",
    }  # fmt: skip
    assert [key for key, metric in METRICS.items() if not metric.lower_is_better] == ["accuracy"]
    assert [key for key, metric in METRICS.items() if not metric.adds_up] == ["memory"]


def test_the_overhead_is_told_with_its_cause_or_not_at_all() -> None:
    layers = {LayerId("a"): {"": Quantity(3.0)}, LayerId("b"): {"": Quantity(2.0)}}
    series = Series(LATENCY, Quantity(4.0), layers, conditions={OVERHEAD: "clocks"})
    assert overhead_of(series) == Overhead(whole=4.0, layers=5.0, cause="clocks")
    assert overhead_of(Series(LATENCY, Quantity(4.0), layers)) is None
    assert (Overhead(4.0, 5.0, "").difference, Overhead(4.0, 5.0, "").share) == (1.0, 0.25)
    assert Overhead(0.0, 0.0, "").share == 0.0


def test_a_table_without_a_metric_has_the_others() -> None:
    table = MeasurementTable([Series(MACS, Quantity(1)), Series(SIZE, Quantity(2))])
    assert list(table.without("macs")) == ["size"]
    assert list(table.without("latency")) == ["macs", "size"]
    assert list(table) == ["macs", "size"]


def test_a_table_takes_the_newest_series_and_leaves_the_old_table_as_it_was() -> None:
    old = MeasurementTable([Series(MACS, Quantity(1)), Series(SIZE, Quantity(2))])
    new = old.with_series(Series(SIZE, Quantity(3)), Series(LATENCY, Quantity(4)))
    assert [(key, one.total.value) for key, one in new.items()] == [
        ("macs", 1), ("size", 3), ("latency", 4),
    ]  # fmt: skip
    assert [(key, one.total.value) for key, one in old.items()] == [("macs", 1), ("size", 2)]
    assert new.total(SIZE) == Quantity(3)
    assert old.total(LATENCY) is None, "absent is not zero"
    assert len(new) == 3


@given(POSITIVE, POSITIVE)
def test_an_absolute_bound_asks_nothing_of_the_base(bound: float, value: float) -> None:
    for base in (None, 1.0):
        assert Limit(ENERGY, bound).absolute(base) == bound
        assert Limit(ENERGY, bound).met(value, base) == (value <= bound)
        assert Limit(ACCURACY, bound).met(value, base) == (value >= bound)


@given(POSITIVE, POSITIVE, POSITIVE)
def test_a_relative_bound_is_a_share_of_the_base(share: float, value: float, base: float) -> None:
    limit = Limit(SIZE, share, relative=True)
    assert limit.absolute(base) == share * base
    assert limit.met(value, base) == (value <= share * base)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_bound_may_be_reached_but_not_passed(metric: Metric) -> None:
    limit = Limit(metric, 0.5, relative=True)
    worse = 1.0001 if metric.lower_is_better else 0.9999
    assert limit.met(5.0, base=10.0) is True
    assert limit.met(5.0 * worse, base=10.0) is False
    assert limit.met(5.0 / worse, base=10.0) is True


def test_what_is_not_known_is_neither_met_nor_missed() -> None:
    assert Limit(ENERGY, 1.0).met(None, 2.0) is None
    assert Limit(ENERGY, 1.0, relative=True).met(1.0, None) is None
    assert Limit(ENERGY, 1.0, relative=True).absolute(None) is None
    assert Limit(ENERGY, 1.0).met(math.nan, None) is False
