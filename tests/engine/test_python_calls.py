"""The call tree: its shape is that of the calls, and its times add up to cProfile's."""

import cProfile
import marshal
import pstats
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.errors import ProfilingFailed
from engine.job import Cancelled, Job
from engine.profiles import CallNode, CallProfile
from engine.profiling import python_calls
from engine.profiling.python_calls import profile_python
from engine.requests import RunSettings
from engine.session import ModelSession


@pytest.fixture(autouse=True, params=[True, False], ids=["cProfile", "followed"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer Pythons follow every pass, older ones leave all but one to cProfile."""
    if request.param and sys.version_info >= (3, 12):
        pytest.skip("cProfile sees other threads' calls")
    monkeypatch.setattr(python_calls, "CPROFILE_KEEPS_TO_ITS_THREAD", request.param)


def test_what_other_threads_call_is_left_out() -> None:
    over = threading.Event()

    def elsewhere() -> None:
        while not over.is_set():
            leaf(torch.ones(1))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        found = profiled(nn.ReLU(), 1, 2)
    finally:
        over.set()
        thread.join()
    assert not any(node.name in ("leaf", "elsewhere") for node in nodes(found.root))


def profiled(model: nn.Module, *shape: int, backward: bool = False, runs: int = 3) -> CallProfile:
    settings = RunSettings(backward=backward)
    return profile_python(model, (torch.ones(shape),), Job(), settings, runs)


def nodes(node: CallNode) -> Iterator[CallNode]:
    yield node
    for child in node.children:
        yield from nodes(child)


def leaf(x: Tensor) -> Tensor:
    return x + 1


def often(x: Tensor) -> Tensor:
    for _ in range(4):
        x = leaf(x)
    return x


def down(x: Tensor, depth: int) -> Tensor:
    return down(x, depth - 1) if depth else leaf(x)


class Calls(nn.Module):
    """Reaches one function by two ways, and another by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return down(leaf(often(x)), 3)


def below(node: CallNode, *path: str) -> CallNode:
    """The node that the names lead to."""
    for name in path:
        (node,) = [child for child in node.children if child.name == name]
    return node


MODEL = ("_wrapped_call_impl", "_call_impl", "forward")


def test_functions_stand_below_their_callers_with_their_calls() -> None:
    forward = below(profiled(Calls(), 2, 2).root, *MODEL)
    assert {child.name for child in forward.children} == {"often", "leaf", "down"}
    assert (forward.calls, below(forward, "leaf").calls) == (3, 3)
    assert below(forward, "often", "leaf").calls == 12
    deepest = below(forward, "down", "down", "down", "down")
    assert [child.name for child in deepest.children] == ["leaf"]
    assert deepest.calls == 3


def test_functions_say_where_they_are() -> None:
    forward = below(profiled(Calls(), 2, 2).root, *MODEL)
    found = below(forward, "often")
    assert (found.file, found.line) == (__file__, often.__code__.co_firstlineno)


def test_functions_in_c_have_names_and_no_place() -> None:
    class Products(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.mm(x, x).relu()

    forward = below(profiled(Products(), 2, 2).root, *MODEL)
    found = {child.name: child for child in forward.children}
    product = next(node for name, node in found.items() if "mm" in name)
    assert (product.file, product.line, product.calls) == ("", 0, 3)
    assert any("relu" in name for name in found)


def test_layers_in_layers_stay_apart_though_all_go_through_one_function() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    outer = below(profiled(model, 1, 2).root, *MODEL, "_wrapped_call_impl", "_call_impl")
    kinds = {Path(child.file).name: child for child in outer.children if child.name == "forward"}
    assert set(kinds) == {"container.py", "linear.py"}
    assert kinds["linear.py"].calls == 3
    inner = below(kinds["container.py"], "_wrapped_call_impl", "_call_impl")
    files = [Path(child.file).name for child in inner.children if child.name == "forward"]
    assert sorted(files) == ["activation.py", "linear.py"]


LAYERS = nn.Sequential(nn.Linear(2, 2), nn.ReLU())


@pytest.mark.parametrize(("model", "backward"), [(Calls(), False), (LAYERS, False), (LAYERS, True)])
def test_times_add_up_to_those_of_cprofile(model: nn.Module, backward: bool) -> None:
    found = profiled(model, 2, 2, backward=backward)
    figures = marshal.loads(found.stats)
    assert found.root.own == 0
    assert sum(node.own for node in nodes(found.root)) == pytest.approx(found.root.total)
    assert found.root.total == pytest.approx(sum(figure[2] for figure in figures.values()))
    for node in nodes(found.root):
        assert node.own >= -1e-12
        assert node.total == pytest.approx(node.own + sum(one.total for one in node.children))
        assert list(node.children) == sorted(node.children, key=lambda one: -one.total)


def test_calls_add_up_to_those_of_cprofile() -> None:
    found = profiled(Calls(), 2, 2)
    figures = marshal.loads(found.stats)
    calls = sum(node.calls for node in nodes(found.root) if node.name == "leaf")
    (counted,) = [figure[1] for function, figure in figures.items() if function[2] == "leaf"]
    assert calls == counted == 3 * (4 + 1 + 1)


def test_backward_stands_beside_forward() -> None:
    found = profiled(nn.Linear(2, 2), 1, 2, backward=True)
    assert {"_wrapped_call_impl", "backward"} <= {child.name for child in found.root.children}
    assert found.conditions["pass"] == "forward and backward"


def test_the_tree_holds_nothing_of_the_profilers() -> None:
    found = profiled(Calls(), 2, 2)
    assert [child.name for child in found.root.children] == ["_wrapped_call_impl"]
    assert not any("lsprof" in function[2] for function in marshal.loads(found.stats))


def test_calls_that_only_some_passes_make_are_kept() -> None:
    class Changes(nn.Module):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            Changes.runs += 1
            return leaf(x) if Changes.runs in (3, 4) else x  # after two warm-up runs

    found = profiled(Changes(), 1, 2)
    assert sum(node.calls for node in nodes(found.root) if node.name == "leaf") == 2
    total = sum(figure[2] for figure in marshal.loads(found.stats).values())
    assert found.root.total == pytest.approx(total)


def test_deep_recursion_is_cut_and_still_adds_up() -> None:
    class Deep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return down(x, 400)

    found = profiled(Deep(), 1, 2)
    total = sum(figure[2] for figure in marshal.loads(found.stats).values())
    assert found.root.total == pytest.approx(total)


def test_the_prof_file_is_one_that_pstats_reads(tmp_path: Path) -> None:
    file = tmp_path / "model.prof"
    file.write_bytes(profiled(Calls(), 2, 2).stats)
    read = pstats.Stats(str(file))
    assert any(function[2] == "often" for function in read.stats)  # type: ignore[attr-defined]


def test_another_profiler_is_named_and_left_alone() -> None:
    def other(*_: object) -> None:
        """Somebody's profiler."""

    sys.setprofile(other)
    try:
        with pytest.raises(ProfilingFailed, match="Another profiler"):
            profiled(nn.ReLU(), 1, 2)
        assert sys.getprofile() is other
    finally:
        sys.setprofile(None)


def test_profilers_are_off_after_a_failure() -> None:
    class Fails(nn.Module):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            Fails.runs += 1
            if Fails.runs > self.most:
                raise ValueError("enough")
            return x

    # While warming up, in the first pass that counts, and in the last.
    for most in (1, 3, 5 if python_calls.CPROFILE_KEEPS_TO_ITS_THREAD else 4):
        Fails.runs, Fails.most = 0, most
        with pytest.raises(ProfilingFailed, match="enough"):
            profiled(Fails(), 1, 2)
        assert sys.getprofile() is None
        cProfile.Profile().runcall(leaf, torch.ones(1))


def test_the_demo_in_a_session(demo: ModelSession, job: Job) -> None:
    found = demo.profile_python(job)
    assert found.runs == 5
    assert job.fraction == 1.0
    assert any("conv2d" in node.name and node.calls == 5 for node in nodes(found.root))


def test_a_cancel_stops_between_runs(stop_at: Callable[[int], Job]) -> None:
    for checks in range(1, 7):
        with pytest.raises(Cancelled):
            profile_python(nn.ReLU(), (torch.ones(1, 2),), stop_at(checks), runs=3)
        assert sys.getprofile() is None
