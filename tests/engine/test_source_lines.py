"""Time per line: whose forward is timed, and that nothing of it stays behind."""

import functools
import gc
import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.fx
from torch import Tensor, nn

from engine.errors import InvalidSelection, ProfilingFailed
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.profiles import LineProfile, SourceFunction
from engine.profiling import source_lines
from engine.profiling.source_lines import profile_lines
from engine.requests import RunSettings
from engine.session import ModelSession


@pytest.fixture(autouse=True)
def _few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_lines, "RUNS", 3)


def profiled(model: nn.Module, layer: str, follow: bool = False) -> LineProfile:
    return profile_lines(model, (torch.ones(1, 2),), LayerId(layer), follow, Job())


def hits(function: SourceFunction) -> dict[str, int]:
    """How often each line that was timed ran, by its text."""
    return {line.text.strip(): line.hits for line in function.lines if line.seconds is not None}


def helper(x: Tensor) -> Tensor:
    y = x + 1
    return y


class Block(nn.Module):
    """Adds twice; the second time by a function."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        # A comment takes no time.
        for _ in range(2):
            x = x * 2
        if x.dim() == 7:
            x = x.flatten()
        return self.inner(helper(x))


def test_every_line_of_the_forward_has_its_hits_and_time() -> None:
    found = profiled(nn.Sequential(Block()), "0")
    (function,) = found.functions
    assert hits(function) == {
        "for _ in range(2):": 9,
        "x = x * 2": 6,
        "if x.dim() == 7:": 3,
        "return self.inner(helper(x))": 3,
    }
    source, first = inspect.getsourcelines(Block.forward)
    assert [line.text for line in function.lines] == [line.rstrip("\n") for line in source]
    assert [line.number for line in function.lines] == list(range(first, first + len(source)))
    assert (function.name, function.file) == ("Block.forward", __file__)
    assert function.seconds == pytest.approx(sum(line.seconds or 0.0 for line in function.lines))
    assert (found.layer, found.runs) == ("0", 3)


def test_others_of_its_class_are_not_timed_within_or_beside_it() -> None:
    model = nn.Sequential(Block(Block()), Block())
    assert hits(profiled(model, "0").functions[0])["x = x * 2"] == 6
    assert hits(profiled(model, "0.inner").functions[0])["x = x * 2"] == 6


def test_a_layer_that_runs_twice_counts_twice() -> None:
    shared = Block()
    assert hits(profiled(nn.Sequential(shared, shared), "0").functions[0])["x = x * 2"] == 12


def test_the_root_is_a_layer_too() -> None:
    assert profiled(Block(), "").functions[0].name == "Block.forward"


def test_functions_that_it_calls_follow_on_request() -> None:
    found = profiled(nn.Sequential(Block(Block())), "0", follow=True)
    assert [function.name for function in found.functions] == ["Block.forward", "helper"]
    # Wherever this forward leads to it: itself, and the block inside it.
    assert hits(found.functions[1]) == {"y = x + 1": 6, "return y": 6}


def test_methods_and_torchs_functions_follow_too() -> None:
    class Has(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.relu(self.mine(x))

        def mine(self, x: Tensor) -> Tensor:
            return x - 1

    names = [one.name.rpartition(".")[2] for one in profiled(Has(), "", follow=True).functions]
    assert names == ["forward", "mine", "relu"]


def test_functions_that_share_their_code_are_told_apart_from_their_own() -> None:
    """What torch dispatches by a flag is one piece of code in many functions."""
    codes = [nn.functional.max_pool1d.__code__, nn.functional.max_pool2d.__code__]
    model = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.MaxPool1d(2))
    found = profiled(model, "1", follow=True)
    assert hits(found.functions[1])["dispatch_flag = default"] == 3
    assert [nn.functional.max_pool1d.__code__, nn.functional.max_pool2d.__code__] == codes


def test_a_decorated_forward_is_timed_as_it_is_written() -> None:
    def twice(forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def both(self: nn.Module, x: Tensor) -> Any:
            return forward(self, forward(self, x))

        return both

    class Decorated(nn.Module):
        @twice
        def forward(self, x: Tensor) -> Tensor:
            return x + 3

    code = inspect.unwrap(Decorated.forward).__code__
    found = profiled(nn.Sequential(Decorated()), "0")
    assert hits(found.functions[0])["return x + 3"] == 6
    assert inspect.unwrap(Decorated.forward).__code__ is code


def test_defaults_closures_and_super_work_in_the_timed_copy() -> None:
    offset = 3.0

    class Base(nn.Module):
        def forward(self, x: Tensor, *, more: float = 2.0) -> Tensor:
            return x + more + offset

    class Derived(Base):
        def forward(self, x: Tensor, times: float = 2.0, *, more: float = 5.0) -> Tensor:
            return super().forward(x * times, more=more)

    class Checks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.derived = Derived()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.derived(x)
            assert y.tolist() == [[10.0, 10.0]]
            return y

    found = profiled(Checks(), "derived", follow=True)
    assert [one.name.rpartition(".<locals>.")[2] for one in found.functions] == [
        "Derived.forward", "Base.forward",
    ]  # fmt: skip


def test_generated_code_has_source_as_well() -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    (function,) = profiled(model, "").functions
    assert any("getattr(self, " in text and count == 3 for text, count in hits(function).items())


def test_scripted_layers_are_refused_in_words() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.ReLU())
    with pytest.raises(ProfilingFailed, match="0 is TorchScript"):
        profiled(nn.Sequential(scripted), "0")


def test_a_forward_in_c_is_refused_in_words() -> None:
    class InC(nn.Module):
        forward = torch.relu

    with pytest.raises(ProfilingFailed, match="no Python source for the forward of 0"):
        profiled(nn.Sequential(InC()), "0")


def test_a_forward_whose_source_is_lost_is_refused_in_words() -> None:
    space: dict[str, Any] = {}
    exec("def forward(self, x):\n    return x\n", space)
    made = type("Lost", (nn.Module,), {"forward": space["forward"]})
    with pytest.raises(ProfilingFailed, match="no Python source"):
        profiled(made(), "")


def test_a_layer_that_does_not_run_is_told() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    with pytest.raises(ProfilingFailed, match="forward of idle does not run"):
        profiled(Idle(), "idle")


def test_an_unknown_layer_is_told() -> None:
    with pytest.raises(InvalidSelection, match="no layer “nope”"):
        profiled(nn.ReLU(), "nope")


def test_nothing_is_left_behind_whatever_happens() -> None:
    class Fails(nn.Module):
        most = 0
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            Fails.runs += 1
            if Fails.runs > Fails.most:
                raise ValueError("enough")
            return helper(x)

    codes = Fails.forward.__code__, helper.__code__
    for Fails.most in (1, 2, 4):  # while warming up, while looking for callees, while timing
        Fails.runs = 0
        with pytest.raises(ProfilingFailed, match="enough"):
            profiled(Fails(), "", follow=True)
        assert (Fails.forward.__code__, helper.__code__) == codes
        assert sys.getprofile() is None
        assert sys.gettrace() is None


def test_the_demo_in_a_session(demo: ModelSession, job: Job) -> None:
    settings = RunSettings(batch=2, backward=True)
    found = demo.profile_lines(LayerId("stem.conv"), False, job, settings)
    assert found.functions[0].name == "Conv2d.forward"
    assert found.conditions["batch"] == "2"
    assert job.fraction == 1.0


def test_a_cancel_stops_between_runs(stop_at: Callable[[int], Job]) -> None:
    for checks in range(1, 7):
        with pytest.raises(Cancelled):
            profile_lines(Block(), (torch.ones(1, 2),), LayerId(""), True, stop_at(checks))


def test_functions_that_the_collector_has_frozen_are_followed_too(job: Job) -> None:
    """The window freezes what there was when it started, torch's own functions among it."""
    gc.freeze()
    try:
        model = nn.Sequential(nn.Conv2d(1, 2, 3)).eval()
        found = profile_lines(model, (torch.randn(1, 1, 5, 5),), LayerId("0"), True, job)
    finally:
        gc.unfreeze()
    assert [one.name for one in found.functions] == ["Conv2d.forward", "Conv2d._conv_forward"]
