"""The tracer: what it counts, how it names it, and that the user's model never notices."""

import copy
import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from torchvision import ops

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
    fused = torch._C._get_mkldnn_enabled()
    for enabled in {False, fused}:  # step by step, and in one operator as some processors have it
        torch._C._set_mkldnn_enabled(enabled)
        try:
            found = trace(Reader(), tokens)
        finally:
            torch._C._set_mkldnn_enabled(fused)
        # Six steps of four gates, each from 4 inputs and 3 states; looking up multiplies nothing.
        assert found.operators.macs() == {"cell": 6 * 4 * 3 * (4 + 3)}
        assert not found.operators.unattributed()
        assert found.output_shapes["embedding"] == (1, 6, 4)
        assert found.result_shapes == ((1, 6, 3),)


@pytest.mark.parametrize(
    ("run", "macs"),
    [
        (lambda x: torch.mv(x, x[0]), 5 * 5),
        (lambda x: torch.dot(x[0], x[1]), 5),
        (lambda x: torch.addmv(x[0], x, x[1]), 5 * 5),
        (lambda x: torch.einsum("ij,kj->ik", x, x), 5 * 5 * 5),
    ],
)
def test_products_with_vectors(run: Callable[[Tensor], Tensor], macs: int) -> None:
    found = traced(Named(Runs(run)), 5, 5)
    assert found.operators.macs() == {"layer": macs}


def test_a_deformed_convolution_counts_as_a_convolution() -> None:
    def run(x: Tensor) -> Tensor:
        offset = x.new_zeros(1, 2 * 3 * 3, 4, 6)
        return ops.deform_conv2d(x, offset, x.new_ones(7, 2, 3, 3))

    # 7 × 4 × 6 outputs, each from 2 channels (of 4 in 2 groups) of a 3 × 3 kernel.
    found = traced(Runs(run), 1, 4, 6, 8)
    assert found.operators.macs() == {ROOT: 7 * 4 * 6 * 2 * 9}
    assert not found.operators.unattributed()


@pytest.mark.parametrize(
    "run",
    [
        lambda x: ops.roi_align(x, [x.new_ones(3, 4)], (2, 2)),
        lambda x: ops.roi_pool(x, [x.new_ones(3, 4)], (2, 2)),
        lambda x: F.grid_sample(x, x.new_zeros(1, 2, 2, 2), align_corners=False),
        lambda x: F.interpolate(x.unsqueeze(2), scale_factor=2, mode="trilinear"),
        lambda x: F.interpolate(x, scale_factor=2, mode="bicubic", antialias=True),
        lambda x: x.index_put((torch.tensor([0]),), x.new_ones(1)),
        lambda x: x.scatter_add(1, torch.zeros(1, 1, 1, 1, dtype=torch.int64), x),
        lambda x: torch.rand(3) + torch.eye(3),
    ],
)
def test_what_moves_data_has_a_rule_and_no_macs(run: Callable[[Tensor], Tensor]) -> None:
    found = traced(Runs(run), 1, 4, 6, 8)
    assert not found.operators.unattributed()
    assert found.operators.macs() == {}
    assert any(one.work is Work.TRAFFIC for one in found.operators)


# Inputs of every kind, and runs in earnest


class Runs(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: object) -> object:
        return self.function(*inputs)


class OfMany(nn.Module):
    """Takes a list of images and a mapping; puts out as many results as images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, images: list[Tensor], more: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        return {"all": [self.layer(one[None]) + more["bias"] for one in images]}


def test_inputs_may_be_lists_and_mappings() -> None:
    images = sample_inputs([InputSpec((2, 3, 4, 5), listed=True)])[0]
    assert [tuple(one.shape) for one in images] == [(3, 4, 5)] * 2
    found = trace(OfMany(), (images, {"bias": torch.zeros(1)}))
    assert found.operators.macs() == {"layer": 2 * (2 * 4 * 5 * 3)}
    assert found.result_shapes == ((1, 2, 4, 5),) * 2
    assert found.ran == "fake"


class Chooses(nn.Module):
    """Multiplies as many rows as are positive: only data can tell how many."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x[x[:, 0] > 0])


def test_where_shapes_depend_on_data_the_model_runs_once_in_earnest() -> None:
    model = Chooses()
    x = torch.ones(5, 4)
    x[1, 0] = x[3, 0] = -1
    before, weight = belongings(model), model.layer.weight.detach().clone()
    found = trace(model, (x,))
    assert found.ran == "real"
    assert found.operators.macs() == {"layer": 3 * 4 * 3}
    assert found.result_shapes == ((3, 3),)
    assert not found.operators.unattributed()
    bias, weight_seen = product(found).weights
    assert (bias.name, weight_seen.shape) == ("layer.bias", (4, 3))
    assert belongings(model) == before
    assert torch.equal(model.layer.weight, weight)
    assert model.calls == 0


def test_without_weights_there_is_nothing_to_run_in_earnest() -> None:
    with torch.device("meta"):
        model = nn.Sequential(OrderedDict(choose=Chooses()))
    with pytest.raises(ForwardFailed, match=r"layer choose does depends on its data .* has none"):
        traced(model, 5, 4)


def test_a_real_run_that_fails_is_named_too() -> None:
    class FailsLater(Chooses):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise ValueError("no more")

    with pytest.raises(ForwardFailed, match="in layer 0 on an input of 5×4: no more"):
        traced(nn.Sequential(FailsLater()), 5, 4)


def test_a_layer_that_raises_and_is_caught_runs_on_for_nobody() -> None:
    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Sequential(Fails()), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            try:
                self.first(x)
            except RuntimeError:
                x = x @ x.T
            return self.second(x)

    found = traced(Named(Tries()), 3, 3)
    assert found.operators.macs() == {"layer": 27, "layer.second": 18}
    assert "layer.first" not in found.output_shapes


def test_the_layer_that_raised_is_named_though_others_ran_since() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = Fails(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            try:
                self.bad(x)
            except RuntimeError as error:
                kept = error
            self.good(x)
            raise kept

    with pytest.raises(ForwardFailed, match=r"in layer layer\.bad on an input"):
        traced(Named(Remembers()), 2, 3)


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


class Decoder(nn.Module):
    """A transformer decoder as large language models have it."""

    def __init__(self, blocks: int, width: int, heads: int, inner: int, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.blocks = nn.Sequential(*(Block(width, heads, inner) for _ in range(blocks)))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(tokens))))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList((nn.RMSNorm(width), nn.RMSNorm(width)))
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norms[0](x)
        query, key, value = (
            layer(seen).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        read = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(read.transpose(1, 2).flatten(2))
        seen = self.norms[1](x)
        return x + self.down(F.silu(self.gate(seen)) * self.up(seen))


def test_seven_billion_parameters_without_allocating_them() -> None:
    before = peak_bytes()
    with torch.device("meta"):
        model = Decoder(blocks=32, width=4096, heads=32, inner=11_008, words=32_000)
    tokens = sample_inputs([InputSpec((1, 128), "int64", 32_000)])
    subject = look_at(model, tokens)
    assert sum(layer.parameters for layer in subject.tree) == 6_738_415_616
    products = 32 * (4 * 4096**2 + 3 * 4096 * 11_008) + 4096 * 32_000
    attention = 32 * 2 * 128**2 * 4096
    assert sum(subject.trace.operators.macs().values()) == 128 * products + attention
    assert not subject.trace.operators.unattributed()
    assert all(tensor.is_meta for tensor in subject.model.parameters())
    assert peak_bytes() - before < 1 << 30  # of 27 GB


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    resource = pytest.importorskip("resource")  # not on Windows
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


@pytest.mark.parametrize("layers", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_layers(layers: int) -> None:
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(layers)))
    subject = look_at(model, sample_inputs([InputSpec((1, 4))]))
    assert subject.trace.operators.macs() == {str(index): 16 for index in range(layers)}
    assert len(subject.tree) == layers + 1


LEVELS = 200


def test_a_model_as_deep_as_the_stack_allows() -> None:
    model: nn.Module = nn.Linear(4, 4)
    model = functools.reduce(lambda inner, _: nn.Sequential(inner), range(LEVELS), model)
    model(torch.zeros(1, 4))
    limit = sys.getrecursionlimit()
    found = traced(model, 1, 4)
    assert found.operators.macs() == {".".join("0" * LEVELS): 16}
    assert sys.getrecursionlimit() == limit


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
