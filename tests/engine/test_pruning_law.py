"""Removed is masked, for every group of every torchvision classifier and segmentation model."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from engine.pruning.coupling import Group
from tests.engine.living import alive, settled
from tests.engine.pruning_law import Accused, slices_of
from tests.engine.pruning_models import CLASSIFIERS, MODELS, QUICK, SEGMENTATION, built, pixels_of
from tests.engine.pruning_table import TABLE, row, table

ONE_BY_ONE = 30e6
"""Up to so many parameters each group is pruned by itself; beyond, all groups in one edit."""


def living(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model, alive, and two samples of its smallest input."""
    model = alive(built(name))
    generator = torch.Generator().manual_seed(3)
    shape = (2, 3, pixels_of(name), pixels_of(name))
    inputs = (torch.randn(shape, generator=generator, dtype=torch.double),)
    return settled(model, inputs), inputs


def edits(model: nn.Module, groups: Sequence[Group]) -> list[Sequence[Group]]:
    """The groups as they are pruned: each by itself, or all at once."""
    size = sum(one.numel() for one in model.parameters())
    return [[group] for group in groups] if size <= ONE_BY_ONE else [groups]


def test_there_are_as_many_models_as_torchvision_has() -> None:
    assert (len(CLASSIFIERS), len(SEGMENTATION)) == (80, 6)


@pytest.mark.timeout(1200)  # DenseNet-201 has 200 groups, and the machine may be slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS],
)
def test_removed_is_masked_and_costs_are_as_predicted(name: str) -> None:
    model, inputs = living(name)
    accused = Accused(model, inputs)
    groups = accused.coupling.groups()
    assert groups
    for together in edits(model, groups):
        verdict = accused.judged(slices_of(together))
        assert not verdict.faults(), together[0].layer
    everything = slices_of(groups)
    assert accused.traced(everything) == accused.judged(everything).counted


@pytest.mark.parametrize("name", QUICK)
def test_the_table_of_what_can_be_pruned_is_up_to_date(name: str) -> None:
    assert row(name) in TABLE.read_text().splitlines()


@pytest.mark.timeout(1200)
@pytest.mark.slow
def test_the_whole_table_is_up_to_date() -> None:
    """To write it anew: ``python -m tests.engine.pruning_table``."""
    assert TABLE.read_text() == table()
