"""Operators over time: which there are, whose they are, and how their times add up."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import DeviceType

from engine.errors import ProfilingFailed
from engine.job import Cancelled, Job
from engine.layers import ROOT, LayerId
from engine.profiles import LayerSpan, OperatorCall, OperatorProfile
from engine.profiling import operators
from engine.profiling.operators import profile_operators
from engine.requests import RunSettings
from engine.session import ModelSession
from engine.tracing import trace

ODD = 'a"b\\<b>\n\u202eé'


@pytest.fixture(autouse=True)
def _few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "_WARM_UP_RUNS", 1)


def profiled(model: nn.Module, *shape: int, backward: bool = False) -> OperatorProfile:
    settings = RunSettings(backward=backward)
    return profile_operators(model, (torch.ones(shape),), Job(), settings)


def of_layer(profile: OperatorProfile, layer: str) -> list[str]:
    return [call.name for call in profile.calls if call.layer == layer and call.depth == 0]


class Mixed(nn.Module):
    """Adds after its branch, and has a child whose name is a trap."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module(ODD, nn.Linear(4, 4))
        self.branch = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.get_submodule(ODD)(x)
        return x + self.branch(x)


def test_each_operator_belongs_to_the_innermost_layer() -> None:
    found = profiled(Mixed(), 1, 4)
    assert of_layer(found, ODD) == of_layer(found, "branch.0") == ["aten::linear"]
    assert of_layer(found, "branch.1") == ["aten::relu_"]
    assert of_layer(found, "branch") == []
    assert of_layer(found, "") == ["aten::add"]
    assert {call.layer for call in found.calls} == {ODD, "branch.0", "branch.1", ""}


def test_shapes_and_memory_are_those_of_the_call() -> None:
    found = profiled(nn.Sequential(nn.Linear(4, 8)), 3, 4)
    linear = next(call for call in found.calls if call.name == "aten::linear")
    assert linear.shapes == ((3, 4), (8, 4), (8,))
    assert linear.bytes is not None
    assert linear.bytes >= 3 * 8 * 4
    assert linear.device == "cpu"


@pytest.mark.parametrize("backward", [False, True])
def test_own_times_add_up_to_the_outermost_operators_within_the_pass(backward: bool) -> None:
    found = profiled(Mixed(), 2, 4, backward=backward)
    outermost = sum(call.seconds for call in found.calls if call.depth == 0)
    assert sum(call.own for call in found.calls) == pytest.approx(outermost)
    assert 0 < outermost <= found.seconds
    for call in found.calls:
        assert 0 <= call.own <= call.seconds + 1e-9
        assert 0 <= call.start <= call.start + call.seconds <= found.seconds + 1e-6


def test_spans_are_nested_as_the_layers_are() -> None:
    found = profiled(Mixed(), 1, 4)
    assert [(span.layer, span.depth) for span in found.spans] == [
        ("", 0), (ODD, 1), ("branch", 1), ("branch.0", 2), ("branch.1", 2),
    ]  # fmt: skip
    for call in found.calls:
        span = next(one for one in found.spans if one.layer == call.layer)
        assert span.start <= call.start
        assert call.start + call.seconds <= span.start + span.seconds + 1e-9


def test_a_layer_that_runs_twice_has_two_spans() -> None:
    shared = nn.ReLU()
    found = profiled(nn.Sequential(shared, nn.Linear(2, 2), shared), 1, 2)
    assert [span.layer for span in found.spans] == ["", "0", "1", "0"]


def test_gradients_operators_belong_to_the_layers_they_come_from() -> None:
    found = profiled(Mixed(), 2, 4, backward=True)
    end = max(span.start + span.seconds for span in found.spans[:5])
    back = [call for call in found.calls if call.start >= end and call.depth == 0]
    named = {call.name: call.layer for call in back if "Accumulate" not in call.name}
    assert named["AddBackward0"] == ""
    assert named["ReluBackward0"] == "branch.1"
    products = [call.layer for call in back if call.name == "AddmmBackward0"]
    assert products == ["branch.0", ODD]
    weights = [call.layer for call in back if "Accumulate" in call.name]
    assert sorted(weights) == sorted([ODD, ODD, "branch.0", "branch.0"])
    backward = found.spans[5:]
    assert (backward[0].layer, backward[0].depth) == (ROOT, 0)
    assert [span.layer for span in backward[1:]] == ["branch.1", "branch.0", ODD]


def test_the_trace_is_one_that_chrome_reads_and_names_the_layers() -> None:
    found = profiled(Mixed(), 1, 4)
    trace = json.loads(found.trace)
    events = trace["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert sorted(names) == sorted(["pass", "model", ODD, "branch", "branch.0", "branch.1"])
    assert "secateur:" not in found.trace
    complete = [event for event in events if event["ph"] == "X"]
    assert all({"name", "ts", "dur", "pid", "tid"} <= event.keys() for event in complete)
    assert sum(event["name"] == "aten::linear" for event in complete) == 2
    assert not trace.keys() & {"host_name", "traceName"}


@settings(max_examples=10)
@given(st.lists(st.sampled_from([nn.ReLU, nn.Sigmoid, nn.Tanh]), min_size=1, max_size=5))
def test_every_layer_that_has_operators_in_a_trace_has_them_in_time(
    kinds: list[Callable[[], nn.Module]],
) -> None:
    model = nn.Sequential(*(kind() for kind in kinds), nn.Linear(3, 3))
    inputs = (torch.ones(2, 3),)
    found = profile_operators(model, inputs, Job())
    counted = {operator.layer for operator in trace(model, inputs).operators}
    assert {call.layer for call in found.calls} == counted


def test_the_demo_in_a_session(demo: ModelSession, job: Job) -> None:
    found = demo.profile_operators(job, RunSettings(batch=2))
    assert found.conditions["batch"] == "2"
    assert sum(call.name == "aten::conv2d" for call in found.calls) == 8
    assert {span.layer for span in found.spans} == {layer.id for layer in demo.snapshot.base.tree}
    assert job.fraction == 1.0


def test_nothing_is_said_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    profiled(nn.ReLU(), 1, 2)
    assert capfd.readouterr().err == ""


def test_a_cancel_stops_between_runs(stop_at: Callable[[int], Job]) -> None:
    for checks in range(1, 6):
        with pytest.raises(Cancelled):
            profile_operators(nn.ReLU(), (torch.ones(1, 2),), stop_at(checks))


def test_a_model_that_does_not_run_says_so() -> None:
    with pytest.raises(ProfilingFailed, match="does not run with device cpu"):
        profiled(nn.Linear(3, 3), 1, 2)


# -- an accelerator's events, as torch's profiler gives them


def event(name: str, start: float, end: float, **more: Any) -> Any:
    span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    usual = {
        "name": name, "time_range": span, "device_type": DeviceType.CPU, "is_async": False,
        "cpu_parent": None, "sequence_nr": -1, "id": 0, "self_cpu_time_total": end - start,
        "input_shapes": [], "cpu_memory_usage": 0, "device_memory_usage": 0,
        "linked_correlation_id": 0, "device_index": 0,
    }  # fmt: skip
    return SimpleNamespace(**usual | more)


def test_kernels_belong_to_the_layer_whose_operator_started_them() -> None:
    whole = event("secateur:pass", 100, 400)
    layer = event("secateur:layer:0", 110, 190, cpu_parent=whole)
    operator = event("aten::mm", 120, 180, cpu_parent=layer, id=7)
    before = event("aten::ones", 50, 60, id=8)
    cuda = {"device_type": DeviceType.CUDA, "device_index": 1}
    kernel = event("gemm<float>", 200, 300, linked_correlation_id=7, **cuda)
    mirrored = event("secateur:layer:0", 200, 300, **cuda)
    events = [before, whole, layer, operator, kernel, mirrored]
    seconds, calls, spans = operators._read(events, [LayerId("fc")])
    assert seconds == pytest.approx(300e-6)
    assert [(call.layer, call.name, call.device) for call in calls] == [
        ("fc", "aten::mm", "cpu"), ("fc", "gemm<float>", "cuda:1"),
    ]  # fmt: skip
    assert isinstance(calls[1], OperatorCall)
    assert (calls[1].start, calls[1].own) == pytest.approx((100e-6, 100e-6))
    assert spans == (LayerSpan(LayerId("fc"), pytest.approx(10e-6), pytest.approx(80e-6), 0),)
