"""The tracer: what it counts, how it names it, and that the user's model never notices."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from engine.editing import look_at
from engine.errors import ForwardFailed
from engine.layers import ROOT, LayerId, LayerTree
from engine.metrics import ENERGY, MACS
from engine.operators import Operator, Window, Work
from engine.requests import InputSpec
from engine.session import ModelSession
from engine.sources.architectures import build
from engine.tracing import Trace, sample_inputs, trace


def traced(model: nn.Module, *shape: int) -> Trace:
    return trace(model, sample_inputs([InputSpec(shape)]))


def product(found: Trace) -> Operator:
    """The only operator of the trace that multiplies."""
    (one,) = [operator for operator in found.operators if operator.work is Work.PRODUCT]
    return one


class Named(nn.Module):
    """One layer called ``layer``, so that its costs have a name to stand under."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


# Counts, by hand


@pytest.mark.parametrize(
    ("layer", "shape", "output", "macs"),
    [
        # Output elements times the input elements that each of them reads.
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 8, 10), (2, 8, 4, 5), 2 * 160 * 27),
        (nn.Conv2d(4, 6, 3, groups=2, bias=False), (1, 4, 5, 5), (1, 6, 3, 3), 54 * 18),
        (nn.Conv2d(5, 5, 3, padding=1, groups=5), (1, 5, 4, 4), (1, 5, 4, 4), 80 * 9),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), (1, 4, 4, 4), (1, 8, 4, 4), 128 * 9),
        (nn.Conv2d(2, 3, 3, dilation=2), (1, 2, 7, 6), (1, 3, 3, 2), 18 * 18),
        (nn.Conv2d(2, 3, (1, 5), padding=(0, 2)), (1, 2, 3, 7), (1, 3, 3, 7), 63 * 10),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (1, 2, 4, 4), (1, 3, 4, 4), 864),
        (nn.Conv1d(2, 4, 5), (3, 2, 9), (3, 4, 5), 60 * 10),
        (nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3), (1, 2, 2, 2, 2), 16 * 8),
        # Transposed: input elements times the output elements that each of them writes.
        (nn.ConvTranspose2d(4, 3, 2, stride=2), (1, 4, 5, 5), (1, 3, 10, 10), 100 * 12),
        (nn.Linear(6, 4), (5, 6), (5, 4), 20 * 6),
        (nn.Linear(6, 4), (2, 3, 6), (2, 3, 4), 24 * 6),
        (nn.Linear(6, 4, bias=False), (2, 3, 6), (2, 3, 4), 24 * 6),
    ],
    ids=str,
)
def test_one_layer(
    layer: nn.Module, shape: tuple[int, ...], output: tuple[int, ...], macs: int
) -> None:
    found = traced(Named(layer), *shape)
    assert found.operators.macs() == {"layer": macs}
    assert found.output_shapes == {ROOT: output, "layer": output}
    assert found.result_shapes == (output,)
    assert not found.operators.unattributed()


def test_a_convolution_is_recorded_with_geometry_and_tensors() -> None:
    layer = nn.Conv2d(4, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)
    found = product(traced(Named(layer), 2, 4, 9, 12))
    assert found.window == Window((3, 5), (2, 1), (1, 2), (1, 2), 2, False)
    (activation,), (weight, bias) = found.activations, found.weights
    assert (weight.name, weight.shape) == ("layer.weight", (8, 2, 3, 5))
    assert (bias.name, bias.shape) == ("layer.bias", (8,))
    assert (activation.name, activation.shape) == ("", (2, 4, 9, 12))
    (output,) = found.outputs
    assert output.shape == (2, 8, 5, 8)
    assert [use.bytes for use in (activation, weight, bias, output)] == [
        2 * 4 * 9 * 12 * 4, 8 * 2 * 3 * 5 * 4, 8 * 4, 2 * 8 * 5 * 8 * 4,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float16, 16), (torch.float32, 32), (torch.float64, 64)]
)
def test_bits_are_those_of_the_dtype(dtype: torch.dtype, bits: int) -> None:
    model = nn.Linear(3, 2).to(dtype)
    found = product(trace(model, (torch.zeros(1, 3, dtype=dtype),)))
    assert {use.bits for use in (*found.inputs, *found.outputs)} == {bits}


def test_a_comparison_writes_single_bits() -> None:
    class Positive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x > 0

    (found,) = traced(Positive(), 2, 12).operators
    assert found.work is Work.TRAFFIC
    assert found.outputs[0].bytes == 3


def test_batched_matrix_products_belong_to_the_module_that_wrote_them() -> None:
    class Gram(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.bmm(x, x.transpose(1, 2))

    assert traced(Named(Gram()), 2, 3, 4).operators.macs() == {"layer": 2 * 3 * 3 * 4}


@pytest.mark.parametrize("values", [4, 6])  # of the width that fused kernels take, and another
def test_attention_counts_both_products(values: int) -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            query, key, value = x[..., :4], x[..., :3, :4], x[..., :3, :values]
            return nn.functional.scaled_dot_product_attention(query, key, value)

    # 2 heads, 5 queries, 3 keys, width 4.
    found = traced(Named(Attention()), 1, 2, 5, 6)
    assert found.operators.macs() == {"layer": 2 * 5 * 3 * (4 + values)}


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_with_all_its_projections(need_weights: bool) -> None:
    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x, x, x, need_weights=need_weights)[0]

    # 5 tokens: three projections in, two products for 2 heads of width 4, one projection out.
    wanted = 5 * 8 * 24 + 2 * (2 * 5 * 5 * 4) + 5 * 8 * 8
    assert traced(SelfAttention(), 1, 5, 8).operators.macs() == {"inner": wanted}


def test_embedding_and_recurrence() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.cell = nn.LSTM(4, 3, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.cell(self.embedding(tokens))[0]

    tokens = (torch.zeros(1, 6, dtype=torch.int64),)
    # Six steps of four gates, each from 4 inputs and 3 states; looking up multiplies nothing.
    wanted = {"cell": 6 * 4 * 3 * (4 + 3)}
    fused = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        found = trace(Reader(), tokens)
    finally:
        torch._C._set_mkldnn_enabled(fused)
    assert found.operators.macs() == wanted
    assert found.output_shapes["embedding"] == (1, 6, 4)
    assert found.result_shapes == ((1, 6, 3),)
    # Fused into one operator, as some processors have it, it is known or listed, never zero.
    found = trace(Reader(), tokens)
    assert found.operators.macs() == wanted or list(found.operators.unattributed())


def test_all_results_are_told_in_order() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x[:, :1], "more": x.sum(1)}

    assert traced(Two(), 2, 3).result_shapes == ((2, 1), (2,))


def test_a_shared_module_is_one_layer_that_runs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    subject = look_at(Twice(), sample_inputs([InputSpec((1, 4))]))
    assert [layer.id for layer in subject.tree] == ["", "first"]
    assert subject.tree[LayerId("first")].aliases == ("second",)
    assert subject.tree[LayerId("first")].parameters == 20
    assert subject.trace.operators.macs() == {"first": 32}


def test_a_tied_weight_is_counted_once(session_of: Callable[..., ModelSession]) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    totals = {
        key: series.total.value
        for key, series in session_of(Tied(), 1, 4).snapshot.current.table.items()
    }
    assert (totals["parameters"], totals["size"], totals["macs"]) == (16 + 4 + 4, 4 * 24, 32)


def test_a_layer_that_is_not_run_has_no_shape() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    tree = look_at(Idle(), sample_inputs([InputSpec((1, 2))])).tree
    assert tree[LayerId("used")].output_shape == (1, 2)
    assert tree[LayerId("unused")].output_shape is None
    assert tree[LayerId("unused")].parameters == 6


# Operators without a rule


@pytest.fixture(scope="module")
def mystery() -> Iterator[Callable[[Tensor], Tensor]]:
    """An operator that the tracer cannot know."""
    with torch.library._scoped_library("secateur_tests", "DEF") as library:
        library.define("mystery(Tensor x) -> Tensor")
        library.impl("mystery", lambda x: x * 2, "CPU")
        library._register_fake("mystery", torch.empty_like)
        yield torch.ops.secateur_tests.mystery


def test_operators_without_a_rule_are_listed_and_not_zero(
    mystery: Callable[[Tensor], Tensor], session_of: Callable[..., ModelSession]
) -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return mystery(x)

    model = nn.Sequential(nn.Linear(4, 4), Unknown())
    table = session_of(model, 1, 4).snapshot.current.table
    for metric in (MACS, ENERGY):
        assert dict(table[metric.key].unattributed) == {"secateur_tests.mystery": None}
        assert set(table[metric.key].layers) == {"0"}
    (unknown,) = [one for one in traced(model, 1, 4).operators if one.work is Work.UNKNOWN]
    assert (unknown.layer, unknown.macs) == ("1", None)


# Published figures


@pytest.mark.parametrize(
    "name",
    [
        "resnet50", "mobilenet_v3_large", "vit_b_16", "swin_t", "convnext_tiny", "efficientnet_b0",
        "densenet121", "regnet_y_400mf", "shufflenet_v2_x1_0", "squeezenet1_0", "mnasnet1_0",
        "vgg11_bn", "inception_v3", "lraspp_mobilenet_v3_large",
    ],
)  # fmt: skip
def test_torchvision_publishes_the_same_figures(name: str) -> None:
    architecture = build(name, "meta")
    published = next(iter(models.get_model_weights(name))).meta
    model, inputs = architecture.model, sample_inputs(architecture.inputs)
    subject = look_at(model, inputs)
    assert sum(layer.parameters for layer in subject.tree) == published["num_params"]

    macs = sum(subject.trace.operators.macs().values())
    digits = len(f"{published['_ops']}".partition(".")[2])
    assert macs / 1e9 == pytest.approx(published["_ops"], rel=0.005, abs=0.5 * 10**-digits)
    assert not subject.trace.operators.unattributed()

    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        sample = inputs[0].to(next(model.parameters()).device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(sample)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    assert macs == counter.get_total_flops() // 2


def test_resnet50_to_the_last_parameter() -> None:
    architecture = build("resnet50", "meta")
    subject = look_at(architecture.model, sample_inputs(architecture.inputs))
    own = subject.trace.operators.macs()
    assert subject.tree.inclusive(own)[ROOT] == 4_089_184_256
    assert sum(layer.parameters for layer in subject.tree) == 25_557_032
    assert own[LayerId("conv1")] == 112 * 112 * 64 * 147
    assert own[LayerId("fc")] == 2048 * 1000


# Nothing is computed


class Witness(nn.Module):
    """Writes down what it was given."""

    seen: list[object]  # of the class, as the tracer runs a copy

    def forward(self, x: Tensor) -> Tensor:
        type(self).seen.append(x)
        return x * 2


def test_the_forward_pass_sees_fake_tensors_only() -> None:
    Witness.seen = []
    traced(nn.Sequential(nn.Linear(3, 3), Witness()), 1, 3)
    assert [type(one) for one in Witness.seen] == [FakeTensor]


def test_the_model_is_traced_as_it_is_used_not_as_it_is_trained() -> None:
    class Auxiliary(nn.Module):
        """Puts out a second result and multiplies twice while it is trained."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.helper = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> object:
            x = self.body(x)
            return (x, self.helper(x)) if self.training else x

    found = traced(Auxiliary().train(), 2, 3)
    assert found.result_shapes == ((2, 3),)
    assert found.operators.macs() == {"body": 18}


def test_weights_of_160_gigabytes_are_traced() -> None:
    with torch.device("meta"):
        model = nn.Linear(200_000, 200_000, bias=False)
    found = traced(model, 3, 200_000)
    assert found.operators.macs() == {ROOT: 3 * 200_000**2}
    assert product(found).weights[0].bytes == 4 * 200_000**2


def test_two_thousand_layers() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(2000)))
    found = traced(model, 1, 4)
    assert found.operators.macs() == {str(index): 16 for index in range(2000)}


# The user's model is left alone


def belongings(model: nn.Module) -> list[object]:
    """Everything about a model that a careless tracer changes; tensors by identity."""
    return [
        (
            name,
            module.training,
            list(module.__dict__),
            [(key, id(value), value.requires_grad) for key, value in module._parameters.items()],
            [(key, id(value)) for key, value in module._buffers.items()],
            [
                len(getattr(module, hooks))
                for hooks in (
                    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks",
                    "_backward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks",
                )
            ],
        )
        for name, module in model.named_modules()
    ]  # fmt: skip


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("out of ideas\nand more lines")


@pytest.mark.parametrize("failing", [False, True])
def test_a_model_in_training_keeps_flags_tensors_and_running_statistics(failing: bool) -> None:
    model = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3), drop=nn.Dropout(),
            last=Fails() if failing else nn.Identity(),
        )
    ).train()  # fmt: skip
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    before, state = belongings(model), copy.deepcopy(model.state_dict())
    if failing:
        with pytest.raises(ForwardFailed):
            traced(model, 4, 2, 5, 5)
    else:
        traced(model, 4, 2, 5, 5)
    assert belongings(model) == before
    after = model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], state[name]) for name in state)


def test_a_failing_forward_names_the_layer_the_input_and_the_cause() -> None:
    body = nn.Sequential(OrderedDict(fine=nn.Linear(3, 3), broken=Fails()))
    with pytest.raises(ForwardFailed) as caught:
        traced(nn.Sequential(OrderedDict(body=body)), 2, 3)
    message = "The model stopped in layer body.broken on an input of 2×3: out of ideas"
    assert str(caught.value) == message
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_wrong_input_shape_is_a_failing_forward() -> None:
    with pytest.raises(ForwardFailed, match=r"in layer 1 on an input of 1×1×8×8: "):
        traced(nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3)), 1, 1, 8, 8)


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("failing", [False, True])
def test_global_state_of_torch_is_restored(enabled: bool, failing: bool) -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.backends.mha.get_fastpath_enabled(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.utils._python_dispatch._get_current_dispatch_mode(),
            torch.get_rng_state().tolist(),
        )

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), Fails() if failing else nn.ReLU())
    try:
        wanted = state()
        if failing:
            with pytest.raises(ForwardFailed):
                traced(model, 1, 2)
        else:
            traced(model, 1, 2)
        assert state() == wanted
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_hooks_of_the_user_are_kept() -> None:
    model, calls = nn.Linear(2, 2), []
    model.register_forward_hook(lambda *_: calls.append(1))
    traced(model, 1, 2)
    assert len(model._forward_hooks) == 1
    model(torch.zeros(1, 2))
    assert len(calls) >= 1


# Parents are the sum of their children and their own


def assert_adds_up(tree: LayerTree, own: dict[LayerId, int]) -> None:
    sums = tree.inclusive(own)
    for layer in tree:
        below = sum(sums.get(child, 0) for child in tree.children(layer.id))
        assert sums.get(layer.id, 0) == own.get(layer.id, 0) + below
    assert sums.get(ROOT, 0) == sum(own.values())


@pytest.mark.parametrize("name", ["demo", "swin_t", "efficientnet_b0"])
def test_parents_add_up(name: str) -> None:
    architecture = build(name, "meta")
    subject = look_at(architecture.model, sample_inputs(architecture.inputs))
    assert_adds_up(subject.tree, subject.trace.operators.macs())


class Scaled(nn.Module):
    """A container with work of its own: 4 × 4 multiply-accumulates for a row."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.gain = nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x) @ self.gain


modules = st.recursive(
    st.sampled_from(["linear", "relu"]),
    lambda below: st.one_of(
        st.lists(below, max_size=3).map(lambda kinds: ("sequence", kinds)),
        below.map(lambda kind: ("scaled", kind)),
    ),
    max_leaves=8,
)


def built(plan: object) -> tuple[nn.Module, int]:
    """The module that a plan stands for, and its multiply-accumulates."""
    if plan == "linear":
        return nn.Linear(4, 4, bias=False), 16
    if plan == "relu":
        return nn.ReLU(), 0
    kind, inside = plan
    if kind == "scaled":
        module, macs = built(inside)
        return Scaled(module), macs + 16
    parts = [built(one) for one in inside]
    return nn.Sequential(*(module for module, _ in parts)), sum(macs for _, macs in parts)


@given(modules)
@settings(max_examples=30)
def test_generated_containers_add_up_to_what_they_were_built_of(plan: object) -> None:
    model, macs = built(plan)
    subject = look_at(model, sample_inputs([InputSpec((1, 4))]))
    own = subject.trace.operators.macs()
    assert_adds_up(subject.tree, own)
    assert sum(own.values()) == macs
