"""Copies that share tensors: what ``copy.deepcopy`` makes of all the rest."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from engine.sharing import run_as_it_is, share, share_for_running


class Odd(nn.Module):
    """State of many kinds, a list that two layers share, and a way back to its parent."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.shared: list[int] = []
        self.one.seen = self.two.seen = self.shared  # type: ignore[assignment]
        self.one.parents = [self]  # type: ignore[assignment]
        self.alias = self.two
        self.sizes = {"a": (1, 2), "b": {3}}
        self.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(self.one(x))
        return out


class Renamed(nn.Module):
    """Keeps something out of what is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = 1

    def __getstate__(self) -> dict[str, Any]:
        return {name: one for name, one in self.__dict__.items() if name != "secret"}


class Counted(nn.Module):
    def __deepcopy__(self, memo: Any) -> "Counted":
        made = Counted()
        made.copied = True  # type: ignore[assignment]
        return made


def test_all_but_tensors_is_copied_as_deepcopy_does() -> None:
    model = Odd()
    copied: Any = share(model)
    assert all(a is b for a, b in zip(model.parameters(), copied.parameters(), strict=True))
    assert copied.two.running_mean is model.two.running_mean
    assert {id(one) for one in copied.modules()}.isdisjoint(id(one) for one in model.modules())
    assert copied.alias is copied.two
    assert copied.one.seen is copied.two.seen is copied.shared
    assert copied.shared is not model.shared
    assert copied.one.parents == [copied]
    assert copied.sizes == model.sizes
    assert copied.sizes["b"] is not model.sizes["b"]
    for name, one in vars(copy.deepcopy(model)).items():
        assert type(vars(copied)[name]) is type(one), name
    assert len(copied._forward_hooks) == 1
    copied.register_forward_pre_hook(lambda *_: None)
    copied.one._modules["new"] = nn.Identity()
    assert not model._forward_pre_hooks
    assert not model.one._modules


def test_modules_that_say_how_they_are_copied_are_heard() -> None:
    copied: Any = share(nn.Sequential(Renamed(), Counted()))
    assert not hasattr(copied[0], "secret")
    assert copied[1].copied


def test_a_copy_that_is_run_as_it_is_gives_the_same_and_owns_its_buffers() -> None:
    model = Odd().eval()
    inputs = torch.randn(3, 2)
    ready: Any = run_as_it_is(share(model))
    assert torch.equal(ready(inputs), share_for_running(model)(inputs))
    assert ready.two.running_mean is not model.two.running_mean
    assert ready.one.weight is model.one.weight
