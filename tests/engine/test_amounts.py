"""How many units of each layer go: rounding, one ranking over all, and the order of energy."""

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.editing import Subject
from engine.edits import AppliedEdit, PruneChannels
from engine.errors import EditRefused
from engine.job import Job
from engine.layers import LayerId
from engine.metrics import ENERGY
from engine.pruning.amounts import LEAST_SHARE, Left, Pool, by_energy, by_layer, by_rank
from engine.pruning.channels import ChannelPruning
from engine.session import ModelSession, open_model


def pool(scores: Sequence[float], each: int = 1, stay: int = 1, joules: float = 1.0) -> Pool:
    """Units of ``each`` channels, of which the last ``stay`` must stay."""
    ordered = np.sort(np.asarray(scores, float))
    may_go = ordered[: len(ordered) - stay]
    return Pool(
        each * len(ordered),
        np.full(len(may_go), each),
        may_go,
        float(ordered.sum()),
        np.full(len(may_go), joules),
    )


def left(pools: Sequence[Pool], counts: Sequence[int]) -> list[int]:
    """Channels that remain."""
    return [
        one.width - int(one.channels[:count].sum())
        for one, count in zip(pools, counts, strict=True)
    ]


# Each layer its share


@pytest.mark.parametrize(
    ("width", "ratio", "multiple", "wanted"),
    [
        (64, 0.3, 8, 48),  # 44.8 lies nearer to 48 than to 40
        (64, 0.35, 8, 40),
        (64, 0.3, 1, 45),
        (64, 0.0625, 8, 64),  # 60 lies between: the wider one
        (64, 0.99, 8, 8),
        (100, 0.01, 8, 100),  # 99 is nearer to what there is than to 96
        (100, 0.03, 8, 96),
        (15, 0.5, 8, 8),  # narrower than two multiples: any width
        (15, 0.8, 8, 3),
        (16, 0.3, 8, 8),
        (10, 0.3, 1, 7),  # 1 - 0.3 is less than 0.7 in floats
        (4, 0.99, 8, 1),
        (1, 0.99, 8, 1),
    ],
)
def test_a_layer_keeps_the_nearest_allowed_width(
    width: int, ratio: float, multiple: int, wanted: int
) -> None:
    pools = [pool(range(width))]
    assert left(pools, by_layer(pools, ratio, multiple)) == [wanted]


@pytest.mark.parametrize(
    ("each", "multiple", "wanted"), [(4, 8, 32), (16, 8, 32), (3, 1, 33), (3, 8, 24)]
)
def test_units_of_several_channels_go_whole(each: int, multiple: int, wanted: int) -> None:
    """Half of 64 channels or a little less, 63 of them in units of three."""
    pools = [pool(range(64 // each), each)]
    assert left(pools, by_layer(pools, 0.5, multiple)) == [wanted]


def test_what_must_stay_stays() -> None:
    pools = [pool(range(64), stay=20)]
    assert left(pools, by_layer(pools, 0.9, 1)) == [20]
    assert left(pools, by_layer(pools, 0.9, 8)) == [24]


ratios = st.integers(0, 99).map(lambda percent: percent / 100)
multiples = st.sampled_from([1, 2, 3, 8])


@st.composite
def pool_lists(draw: st.DrawFn) -> list[Pool]:
    def one() -> Pool:
        scores = draw(st.lists(st.integers(0, 50), min_size=1, max_size=40))
        return pool(
            scores, draw(st.sampled_from([1, 1, 4])), joules=draw(st.sampled_from([0.5, 1.0, 9.0]))
        )

    return [one() for _ in range(draw(st.integers(1, 4)))]


@given(pool_lists(), ratios, multiples)
def test_no_amount_empties_a_layer_and_widths_are_as_promised(
    pools: list[Pool], ratio: float, multiple: int
) -> None:
    for counts in (
        by_layer(pools, ratio, multiple),
        by_rank(pools, ratio, multiple),
        by_energy(pools, ratio, multiple, joules_left(pools)),
    ):
        for one, width in zip(pools, left(pools, counts), strict=True):
            assert width >= 1
            wide = one.width >= 2 * multiple
            assert not wide or width == one.width or width % multiple == 0


@given(pool_lists(), multiples)
def test_ratio_0_removes_nothing(pools: list[Pool], multiple: int) -> None:
    none = [0] * len(pools)
    assert by_layer(pools, 0, multiple) == none
    assert by_rank(pools, 0, multiple) == none
    assert by_energy(pools, 0, multiple, joules_left(pools)) == none


@given(pool_lists(), ratios, ratios, multiples)
def test_more_ratio_never_brings_back_a_unit(
    pools: list[Pool], one: float, other: float, multiple: int
) -> None:
    low, high = sorted((one, other))
    fewer, more = by_layer(pools, low, multiple), by_layer(pools, high, multiple)
    assert all(a <= b for a, b in zip(fewer, more, strict=True))
    if high <= 1 - LEAST_SHARE:  # beyond, thinner layers are allowed, which changes the ranking
        fewer, more = by_rank(pools, low, multiple), by_rank(pools, high, multiple)
        assert all(a <= b for a, b in zip(fewer, more, strict=True))
        saved = joules_left(pools)
        fewer, more = (by_energy(pools, r, multiple, saved) for r in (low, high))
        assert all(a <= b for a, b in zip(fewer, more, strict=True))


# All in one ranking


def test_the_least_scores_go_wherever_they_are() -> None:
    pools = [pool([1, 2, 9, 10, 11]), pool([3, 4, 5, 6, 7])]
    assert by_rank(pools, 0.1, 1) == [1, 0]
    assert by_rank(pools, 0.3, 1) == [2, 1]
    assert by_rank(pools, 0.6, 1) == [2, 4]  # one of the second is left, and must be


def test_a_multiple_of_units_goes_by_its_mean_score() -> None:
    pools = [pool([1] * 7 + [30] + [50] * 8), pool([3] * 16)]
    assert by_rank(pools, 0.25, 8) == [0, 8]  # (7 + 30) / 8 is more than 3
    assert by_rank(pools, 0.5, 8) == [8, 8]


@given(pool_lists(), ratios, multiples)
def test_the_requested_total_goes_within_a_step(
    pools: list[Pool], ratio: float, multiple: int
) -> None:
    """As far as layers may lose that much."""
    widths = left(pools, by_rank(pools, ratio, multiple))
    removed = sum(one.width for one in pools) - sum(widths)
    wanted = ratio * sum(one.width for one in pools)
    step = max(4 * multiple, 4)  # a multiple of units of four
    thinnest = [max(1, LEAST_SHARE * one.width) for one in pools]
    all_thin = all(width - step < least for width, least in zip(widths, thinnest, strict=True))
    assert abs(removed - wanted) <= step / 2 or (all_thin and removed < wanted)


def test_a_layer_of_least_scores_keeps_a_tenth() -> None:
    pools = [pool([0.001] * 40), pool([1.0] * 40)]
    assert by_rank(pools, 0.45, 1) == [36, 0]
    assert by_rank(pools, 0.5, 1) == [36, 4]
    assert by_rank(pools, 0.95, 1) == [38, 38]


# In the order of energy


def joules_left(pools: Sequence[Pool]) -> Left:
    """Energy that goes with the units, and nothing else that takes any."""
    whole = sum(
        float(one.joules[0]) * one.width / one.channels[0] for one in pools if len(one.joules)
    )

    def share(counts: Sequence[int]) -> float:
        saved = sum(
            float(one.joules[:count].sum()) for one, count in zip(pools, counts, strict=True)
        )
        return 1 - saved / whole if whole else 1.0

    return share


def test_of_equal_scores_the_layers_that_take_most_are_cut_until_they_take_the_same() -> None:
    """10, 40 and 20 joules: those above a level are cut down to it."""
    pools = [pool([1.0] * 100, joules=joules) for joules in (0.1, 0.4, 0.2)]

    def joules(ratio: float) -> list[float]:
        widths = left(pools, by_energy(pools, ratio, 1, joules_left(pools)))
        return [width * float(one.joules[0]) for width, one in zip(widths, pools, strict=True)]

    assert joules(0.2) == pytest.approx([10, 26, 20], abs=0.5)
    assert joules(0.4) == pytest.approx([10, 16, 16], abs=0.5)
    assert joules(0.7) == pytest.approx([7, 7, 7], abs=0.5)


def test_scores_weigh_against_joules() -> None:
    """Twice the energy, but the rest of that layer matters more than it saves."""
    low, high = [1.0] * 8 + [9.0] * 8, [1.0] * 4 + [50.0] * 12
    pools = [pool(low, joules=1.0), pool(high, joules=2.0)]
    assert by_energy(pools, 0.3, 1, joules_left(pools)) == [6, 4]


def test_scores_of_any_unit_give_the_same() -> None:
    pools = [pool([1.0, 2, 3, 4], joules=2.0), pool([5.0, 6, 7, 8])]
    thousand = [pools[0], pool([5e3, 6e3, 7e3, 8e3])]
    for ratio in (0.2, 0.4, 0.6):
        assert by_energy(pools, ratio, 1, joules_left(pools)) == by_energy(
            thousand, ratio, 1, joules_left(thousand)
        )


def test_units_that_save_nothing_go_last() -> None:
    pools = [pool([0.0] * 10, joules=0.0), pool([1.0] * 10)]
    assert by_energy(pools, 0.8, 1, joules_left(pools)) == [0, 8]


# On a network


SELECTED = ("stem.conv", "stage1.block0.conv1", "stage1.block0.conv2", "stage2.pointwise.conv")


@cache
def demo() -> ModelSession:
    return open_model("demo", Job())


def drafted(spread: str, ratio: float, multiple: int = 8) -> AppliedEdit:
    edit = PruneChannels(tuple(map(LayerId, SELECTED)), ratio, spread=spread, multiple=multiple)
    return AppliedEdit(edit, ChannelPruning().draft(edit, demo()._to_edit(), Job()))


def kept(applied: AppliedEdit) -> dict[str, int]:
    cut = {
        one.layer: one.of - len(one.removed) for one in applied.decision.slices if one.side == "out"
    }
    tree = demo().snapshot.base.tree
    return {layer: cut.get(layer, tree[LayerId(layer)].channels) for layer in SELECTED}


def test_a_layer_coupled_to_another_counts_once() -> None:
    """The residual sum of 64 has four writers; three are named beside another layer of 64."""
    names = ("stage1.block0.conv2", "stage1.block0.skip.conv", "stage1.block1.conv2")
    edit = PruneChannels(
        tuple(map(LayerId, (*names, "stage1.block0.conv1"))), 0.5, spread="global", multiple=1
    )
    slices = ChannelPruning().draft(edit, demo()._to_edit(), Job()).slices
    gone = {one.layer: len(one.removed) for one in slices if one.side == "out"}
    assert len({gone[name] for name in names}) == 1
    assert gone[names[0]] + gone["stage1.block0.conv1"] == 64


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.6])
def test_a_global_ratio_is_that_of_all_channels(ratio: float) -> None:
    widths = kept(drafted("global", ratio))
    whole = 32 + 64 + 64 + 128
    assert abs(sum(widths.values()) - (1 - ratio) * whole) <= 4
    assert all(width % 8 == 0 for width in widths.values())
    assert (
        len({width / of for width, of in zip(widths.values(), (32, 64, 64, 128), strict=True)}) > 1
    )


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_a_ratio_by_energy_is_saved(ratio: float) -> None:
    """Of the modelled energy afterwards, of the layers that shrank: in proportion to the MACs it
    would be exact, and mappings to hardware are not quite."""
    session = demo()
    edit = drafted("energy", ratio, multiple=1).request
    before = session.snapshot.current.table[ENERGY.key]
    effect = session.preview(edit, Job())
    layers = {one.layer for one in effect.layers}
    touched = sum(sum(q.value for q in before.layers[one].values()) for one in layers)
    saved = (effect.before["energy"] - effect.after["energy"]) / touched
    assert saved == pytest.approx(ratio, abs=0.08)
    told = re.match(r"About (\d+) % is saved of the modelled energy", effect.notes[0])
    assert told
    assert abs(int(told[1]) - 100 * ratio) <= 1.5


def test_by_energy_the_costliest_layers_lose_most() -> None:
    widths = kept(drafted("energy", 0.5))
    assert widths["stage1.block0.conv2"] < 64 * 0.75  # read and written by four 3 x 3 convolutions
    assert widths["stage2.pointwise.conv"] == 128  # a few percent of the energy


def test_without_modelled_energy_it_is_refused() -> None:
    subject: Subject = demo()._subject(0)
    edit = PruneChannels((LayerId("stem.conv"),), 0.5, spread="energy")
    with pytest.raises(EditRefused, match="No modelled energy"):
        ChannelPruning().draft(edit, subject, Job())


def test_energy_falls_with_the_ratio_of_every_spread() -> None:
    for spread in ("layer", "global", "energy"):
        energies = [
            demo().preview(drafted(spread, percent / 100).request, Job()).after["energy"]
            for percent in (0, 20, 40, 60, 80)
        ]
        assert all(more >= less for more, less in pairwise(energies)), spread
        assert energies[0] > energies[-1]
