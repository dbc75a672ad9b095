"""What two variants of a model have in common is computed once, and the outputs do not tell."""

import pytest
import torch
from torch import Tensor, nn

from engine.layers import LayerId
from engine.pruning.unchanged import Unchanged
from engine.sharing import share_for_running


class Counted(nn.Conv2d):
    """A convolution that counts its runs, over all copies."""

    runs: dict[str, int]

    def __init__(self, name: str, runs: dict[str, int], inputs: int = 4) -> None:
        super().__init__(inputs, 4, 3, padding=1)
        self.called, self.runs = name, runs

    def __deepcopy__(self, memo: dict[int, object]) -> "Counted":
        copied = Counted.__new__(Counted)
        copied.__dict__ = {**self.__dict__, "_parameters": dict(self._parameters)}
        memo[id(self)] = copied
        return copied

    def forward(self, x: Tensor) -> Tensor:
        self.runs[self.called] = self.runs.get(self.called, 0) + 1
        return super().forward(x)


class Block(nn.Module):
    """A residual block that writes into its own values."""

    def __init__(self, name: str, runs: dict[str, int]) -> None:
        super().__init__()
        self.conv = Counted(name, runs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += x
        return self.relu(y)


class Network(nn.Module):
    def __init__(self, runs: dict[str, int]) -> None:
        super().__init__()
        self.stem = Counted("stem", runs, 3)
        self.one, self.two, self.three = (Block(name, runs) for name in ("one", "two", "three"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x.mul_(2)
        return self.three(self.two(self.one(x)))


@pytest.mark.parametrize(
    ("changed", "once"),
    [("stem", set()), ("two.conv", {"stem", "one"}), ("three.conv", {"stem", "one", "two"})],
)
@torch.inference_mode()
def test_parts_before_the_change_run_once(changed: str, once: set[str]) -> None:
    runs: dict[str, int] = {}
    model = Network(runs).eval()
    x = torch.randn(1, 3, 5, 5)
    wanted = model(x)
    first, second = share_for_running(model), share_for_running(model)
    changed_weight = nn.Parameter(model.get_submodule(changed).weight * 1.5)
    second.get_submodule(changed).weight = changed_weight
    plain = share_for_running(second)(x)
    runs.clear()
    unchanged = Unchanged([LayerId(changed)])
    unchanged.keep_of(first)
    assert torch.equal(first(x), wanted)
    unchanged.reuse_in(second)
    found = second(x)
    assert torch.equal(found, plain)
    assert not torch.equal(found, wanted)
    assert {name for name, count in runs.items() if count == 1} == once
    assert all(count in (1, 2) for count in runs.values())


@torch.inference_mode()
def test_a_part_that_reads_other_values_is_computed() -> None:
    runs: dict[str, int] = {}
    model = Network(runs).eval()
    first, second = share_for_running(model), share_for_running(model)
    unchanged = Unchanged([LayerId("three.conv")])
    unchanged.keep_of(first)
    first(torch.randn(1, 3, 5, 5))
    unchanged.reuse_in(second)
    other = torch.randn(1, 3, 5, 5)
    assert torch.equal(second(other), model(other))
