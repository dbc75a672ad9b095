"""Passes that leave out what is known: the same bits as whole ones, or none at all."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.errors import InvalidSelection
from engine.layers import LayerId
from engine.prefixes import Batch, Form, Prefixes
from engine.prefixes.absent import Absent, has_absent
from engine.prefixes.store import Store
from engine.sharing import share, share_for_running


def whole(model: nn.Module, batches: Sequence[Tensor]) -> list[Any]:
    """What whole passes give."""
    copy = share_for_running(model)
    with torch.inference_mode():
        return [copy(one.clone()) for one in batches]


class Ran:
    """One run over batches: outputs, which batches were asked for, and why nothing is reused."""

    def __init__(
        self, prefixes: Prefixes, model: nn.Module, batches: Sequence[Tensor], lasting: bool = True
    ) -> None:
        self.loaded: list[int] = []
        self.outputs = []
        total = sum(map(len, batches))
        with prefixes.running(model, batches[0][:1], total, lasting) as run:
            for at, inputs in enumerate(batches):
                self.outputs.append(run(Batch(at, Form.of(inputs), self.loader(at, inputs))))
            self.reason = run.reason

    def loader(self, at: int, inputs: Tensor) -> Callable[[], Tensor]:
        def load() -> Tensor:
            self.loaded.append(at)
            return inputs

        return load


def same(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Whether all tensors are equal bit by bit, those that are no numbers too."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    return True


def changed(model: nn.Module, layer: str) -> nn.Module:
    """Another state of the model: other weights in one layer."""
    edited = share(model)
    module = edited.get_submodule(layer)
    generator = torch.Generator().manual_seed(len(layer))
    noise = torch.rand(module.weight.shape, generator=generator)
    module.weight = nn.Parameter(module.weight.detach() * noise)
    return edited


def noise(count: int, *shape: int, batches: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, *shape, generator=generator) for _ in range(batches)]


# Toys


def conv(out: int = 4) -> nn.Conv2d:
    return nn.Conv2d(4, out, 3, padding=1)


class Block(nn.Module):
    """A forward of its own over layers of its own; (N, 4, H, W) in and out."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


class Residual(Block):
    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm(self.one(x)))
        out = self.two(out)
        out += x
        return self.relu(out)


class Sum(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.one(x))


class Discarding(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        early = y * 2
        self.relu(y)  # in place, and what it returns is not used
        return self.two(y + early)


class Late(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        z = self.two(y)
        y.mul_(0.5)
        return y + z


class Branches(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.two(x).neg_()], 1)


class Twice(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.one(self.relu(self.one(x)))


class Halves(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Any, int]:
        first, second = x.chunk(2, 1)
        return first, {"second": second}, 2


class Views(Block):
    def forward(self, x: Tensor) -> Tensor:
        first, rest, times = self.halves(self.one(x))
        first.mul_(times)
        return self.two(torch.cat([rest["second"], first], 1))


class Both(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.sin()
        return y, y.flatten(2)


class Overlapping(Block):
    def forward(self, x: Tensor) -> Tensor:
        full, part = self.both(self.one(x))
        part.mul_(0.5)
        return self.two(full) + part.mean()


class Passing(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.identity(x)
        flat = self.flatten(self.one(y))
        return self.unflatten(flat).add_(self.dropout(y * 1.0))


def block(kind: str, relu: nn.Module) -> nn.Module:
    match kind:
        case "residual":
            return Residual(one=conv(), norm=nn.BatchNorm2d(4), relu=nn.ReLU(True), two=conv())
        case "sum":
            return Sum(one=conv(), relu=nn.ReLU(inplace=True))
        case "shared":
            return Sum(one=conv(), relu=relu)
        case "discarding":
            return Discarding(one=conv(), relu=nn.ReLU(inplace=True), two=conv())
        case "late":
            return Late(one=conv(), two=conv())
        case "branches":
            return Branches(one=conv(2), two=conv(2))
        case "twice":
            return Twice(one=conv(), relu=relu)
        case "overlapping":
            return Overlapping(one=conv(), both=Both(), two=conv())
        case "views":
            return Views(one=conv(), halves=Halves(), two=conv())
        case _:
            return Passing(
                one=conv(), identity=nn.Identity(), flatten=nn.Flatten(2),
                unflatten=nn.Unflatten(2, (5, 5)), dropout=nn.Dropout(),
            )  # fmt: skip


KINDS = (
    "residual", "sum", "shared", "discarding", "late", "branches", "twice", "overlapping", "views",
    "passing",
)  # fmt: skip


class Net(nn.Module):
    """Blocks, with functional work between them and at the top."""

    def __init__(self, kinds: Sequence[str], between: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        relu = nn.ReLU(inplace=True)
        self.blocks = nn.ModuleList(block(kind, relu) for kind in kinds)
        self.head = nn.Linear(4, 3)
        self.between = between

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = None
        for at, one in enumerate(self.blocks):
            x = one(x)
            first = x if first is None else first
            if at % 3 == self.between:
                x = x.tanh_() if self.between else x * 1.5
        return {"out": self.head((x + first).mean((2, 3)))}


@settings(max_examples=30)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), st.integers(0, 2), st.data())
def test_whatever_has_changed_the_bits_are_those_of_whole_passes(
    kinds: list[str], between: int, data: st.DataObject
) -> None:
    model, batches = Net(kinds, between), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    assert same(Ran(prefixes, model, batches).outputs, whole(model, batches))
    layers = [name for name, one in model.named_modules() if hasattr(one, "weight")]
    state = model
    for layer in data.draw(st.lists(st.sampled_from(layers), min_size=1, max_size=3)):
        state = changed(state, layer)
        wanted = whole(state, batches)
        for lasting in (False, True):
            run = Ran(prefixes, state, batches, lasting)
            assert run.reason == ""
            assert same(run.outputs, wanted)
    back = Ran(prefixes, model, batches)
    assert same(back.outputs, whole(model, batches))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_block_can_be_left_out(kind: str) -> None:
    """Behind it a change asks for no sample again; within it the bits are right."""
    model, batches = Net([kind, "sum"], 0), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    for layer in [name for name, one in model.named_modules() if hasattr(one, "weight")]:
        edited = changed(model, layer)
        runs = [Ran(prefixes, edited, batches, lasting=False) for _ in range(2)]
        assert all(same(run.outputs, whole(edited, batches)) for run in runs), layer
    assert runs[1].loaded == []


# What is left out


class Counting(nn.Module):
    """A convolution that counts its calls on more than one sample."""

    calls: list[str] = []  # noqa: RUF012  (of the class, as copies are run)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.weight = conv().weight

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            self.calls.append(self.name)
        return nn.functional.conv2d(x, self.weight, padding=1).relu_()


@pytest.fixture
def calls() -> Iterator[list[str]]:
    Counting.calls.clear()
    yield Counting.calls
    Counting.calls.clear()


def test_a_change_runs_from_its_layer_on_and_undo_runs_nothing(calls: list[str]) -> None:
    model, batches = nn.Sequential(*map(Counting, "abcd")), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    assert calls == list("abcd") * 2
    edited = changed(model, "2")
    calls.clear()
    Ran(prefixes, edited, batches)
    assert calls == list("cd") * 2
    calls.clear()
    Ran(prefixes, changed(edited, "3"), batches)
    Ran(prefixes, model, batches)
    assert "a" not in calls
    assert "b" not in calls
    wanted = whole(edited, batches)
    calls.clear()
    again = share(edited)  # as redo does when the state had been dropped: other objects, same bits
    assert same(Ran(prefixes, again, batches).outputs, wanted)
    assert not {"a", "b"} & set(calls)


def test_a_change_in_front_runs_everything(calls: list[str]) -> None:
    model, batches = nn.Sequential(*map(Counting, "abcd")), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    calls.clear()
    assert Ran(prefixes, changed(model, "0"), batches).loaded == [0, 1]
    assert calls == list("abcd") * 2


class Peeking(nn.Module):
    """Reads a number of its second layer before it calls the first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(), conv()
        self.two.gain = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x * self.two.gain))


def test_a_number_of_another_layer_that_is_read_before_it_is_called_counts_as_a_change() -> None:
    model, batches = Peeking(), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    edited = share(model)
    edited.two.gain = 3.0
    assert same(Ran(prefixes, edited, batches).outputs, whole(edited, batches))


# What cannot be left out


class Odd(nn.Module):
    """Two layers with a forward that does something else in between."""

    def __init__(self, between: Callable[["Odd", Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.three = conv(), conv(), conv()
        self.register_buffer("seen", torch.zeros(()))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.two(self.between(self, self.one(x))))


def draw(net: Odd, x: Tensor) -> Tensor:
    return x + 0 * torch.rand_like(x)


def count(net: Odd, x: Tensor) -> Tensor:
    net.seen += 1
    return x * net.seen


def stash(net: Odd, x: Tensor) -> Tensor:
    net.last = x
    return x


elsewhere = torch.ones(4, 1, 1)


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (draw, "its forward draws random numbers"),
        (count, "its forward changes"),
        (stash, "it keeps what it has computed"),
        (lambda net, x: x * elsewhere, "reads tensors that none of its layers holds"),
        (lambda net, x: x[:, :, : 5 if len(x) > 1 else 9 // 0], "does not run on a single sample"),
    ],
)
def test_models_that_are_run_whole_say_why(
    between: Callable[[Odd, Tensor], Tensor], reason: str
) -> None:
    model, batches = Odd(between), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    for state in (model, changed(model, "three"), model):
        run = Ran(prefixes, state, batches)
        assert reason in run.reason
        assert run.loaded == [0, 1]
        assert same(run.outputs, whole(state, batches))


def branch(net: Odd, x: Tensor) -> Tensor:
    return -x if bool(x.flatten()[0] > 0) else x


def listed(net: Odd, x: Tensor) -> Tensor:
    return x * x.flatten().tolist()[0]


def array(net: Odd, x: Tensor) -> Tensor:
    x.numpy()[:, 0] = 0  # no operator sees it
    return x


@pytest.mark.parametrize("between", [branch, listed, array])
def test_nothing_is_left_out_behind_a_look_at_the_numbers(
    between: Callable[[Odd, Tensor], Tensor],
) -> None:
    model, batches = Odd(between), noise(3, 4, 5, 5, batches=6)
    prefixes = Prefixes()
    for state in (model, changed(model, "three"), changed(model, "three"), model):
        run = Ran(prefixes, state, batches)
        assert same(run.outputs, whole(state, batches))
    assert len(run.loaded) in (0, 6)


def test_passes_that_are_not_alike_are_made_whole() -> None:
    def other_way(net: Odd, x: Tensor) -> Tensor:
        return net.two(x) if len(x) > 1 else x

    model, batches = Odd(other_way), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    for state in (model, changed(model, "three"), changed(model, "three")):
        run = Ran(prefixes, state, batches)
        assert same(run.outputs, whole(state, batches))
    assert run.reason == "its passes are not alike"


def test_weights_that_only_larger_batches_read_count_as_a_change() -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.few, self.many, self.last = conv(), conv(), conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            weight = self.many.weight if len(x) > 1 else self.few.weight
            return self.last(nn.functional.conv2d(self.one(x), weight, padding=1))

    model, batches = Choosing(), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    edited = changed(model, "many")
    assert same(Ran(prefixes, edited, batches).outputs, whole(edited, batches))


def test_a_hidden_write_into_what_was_kept_is_found() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            if len(x) > 1:  # never on the one sample that is watched
                x.mul_(2)
            return self.two(x)

    model, batches = Writing(), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    edited = changed(model, "two")
    runs = [Ran(prefixes, edited, batches) for _ in range(3)]
    assert all(same(run.outputs, whole(edited, batches)) for run in runs)
    assert runs[-1].reason == "it writes into what was kept"


def test_inputs_that_a_model_writes_into_are_spared() -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x.sub_(1))) + x

    model, batches = Greedy(), noise(3, 4, 5, 5)
    before = [one.clone() for one in batches]
    prefixes = Prefixes()
    for state in (model, changed(model, "two"), changed(model, "two")):
        assert same(Ran(prefixes, state, batches).outputs, whole(state, batches))
    assert same(batches, before)


def test_what_the_model_raises_is_raised() -> None:
    def broken(net: Odd, x: Tensor) -> Tensor:
        if len(x) > 1 and float(x.detach().sum()) != 0.0:
            raise ValueError("no more")
        return x

    with pytest.raises(ValueError, match="no more"):
        Ran(Prefixes(), Odd(broken), noise(3, 4, 5, 5))


def test_a_lack_of_memory_is_met_by_giving_up_what_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full(nn.Module):
        full = False

        def forward(self, x: Tensor) -> Tensor:
            if Full.full and len(x) > 1:
                Full.full = False
                raise MemoryError
            return x + 1

    model, batches = nn.Sequential(conv(), Full(), conv()), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    edited = changed(model, "2")
    Full.full = True
    assert prefixes.store.bytes > 0
    run = Ran(prefixes, changed(model, "0"), batches)
    assert not Full.full
    assert run.reason == ""
    assert same(Ran(prefixes, edited, batches).outputs, whole(edited, batches))


# Masks


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_one_layer_share_what_comes_before(kind: str) -> None:
    model, batches = Net([kind, "residual"], 1), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    candidates = ((), (0,), (1, 3), (0, 1, 2, 3))
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.ReLU | nn.BatchNorm2d):
            continue
        channels = getattr(module, "out_channels", 4)
        sets = [tuple(one for one in wanted if one < channels) for wanted in candidates]
        with prefixes.running(model, batches[0][:1], 6) as run:
            for at, inputs in enumerate(batches):
                batch = Batch(at, Form.of(inputs), lambda inputs=inputs: inputs)
                found = list(run.masked(batch, LayerId(name), sets, 1))
                wanted = [whole(masking(model, name, one), [inputs])[0] for one in sets]
                assert same(found, wanted), name


def masking(model: nn.Module, layer: str, channels: tuple[int, ...]) -> nn.Module:
    """The model with channels of a layer at zero, by other means."""
    copy = share(model)

    def zero(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        mask = torch.ones(output.shape[1], 1, 1)
        mask[list(channels)] = 0
        return torch.where(mask.bool(), output, torch.zeros(()))

    copy.get_submodule(layer).register_forward_hook(zero)
    return copy


def test_masks_run_what_comes_before_once(calls: list[str]) -> None:
    model, (inputs, _) = nn.Sequential(*map(Counting, "abcd")), noise(3, 4, 5, 5)
    with Prefixes().running(model, inputs[:1], 3) as run:
        batch = Batch(0, Form.of(inputs), lambda: inputs)
        list(run.masked(batch, LayerId("1"), [(0,), (1,), (2,)], 1))
    assert calls == list("ab") + list("cd") * 3


def test_several_tensors_have_no_channels_to_mask() -> None:
    model, (inputs, _) = Net(["views"], 0), noise(3, 4, 5, 5)
    batch = Batch(0, Form.of(inputs), lambda: inputs)
    with (
        Prefixes().running(model, inputs[:1], 3) as run,
        pytest.raises(InvalidSelection, match="several tensors"),
    ):
        list(run.masked(batch, LayerId("blocks.0.halves"), [(0,)], 1))


# Memory


@given(
    st.integers(0, 100),
    st.lists(
        st.tuples(
            st.sampled_from(["put", "get", "drop", "round"]), st.integers(0, 9), st.integers(1, 60)
        )
    ),
)
def test_the_store_keeps_its_budget_and_what_is_in_use(
    budget: int, acts: list[tuple[str, int, int]]
) -> None:
    store, held, used = Store[int](budget), dict[int, int](), set[int]()
    for act, key, size in acts:
        if act == "round":
            store.next_round()
            used.clear()
        elif act == "drop":
            store.drop(0, key)
            held.pop(key, None)
            used.discard(key)
        elif act == "get":
            if store.get(0, key) is not None:
                used.add(key)
        else:
            store.drop(0, key)
            used.discard(key)
            store.put(0, key, size, size, 1.0)
            if key in set(store.keys(0)):
                used.add(key)
        held = {one: value for one in store.keys(0) if (value := peek(store, one)) is not None}
        assert store.bytes == sum(held.values()) <= budget
        assert used <= held.keys()


def peek(store: Store[int], key: int) -> int | None:
    """A value, without counting as a use."""
    entry = store._entries.get((0, key))
    return None if entry is None else entry.value


@pytest.mark.parametrize("budget", [0, 500, 2_000, 5_000, 20_000])
def test_no_more_is_kept_than_the_budget_allows(budget: int) -> None:
    model, batches = Net(["residual", "late", "views"], 2), noise(3, 4, 5, 5, batches=4)
    prefixes = Prefixes(budget)
    for layer in ("blocks.1.two", "blocks.2.two", "head", "blocks.0.one"):
        edited = changed(model, layer)
        for state in (model, edited, edited):
            assert same(Ran(prefixes, state, batches).outputs, whole(state, batches))
            assert kept_bytes(prefixes) <= prefixes.store.bytes <= budget


def kept_bytes(prefixes: Prefixes) -> int:
    """Counted anew: of all tensors in all snapshots."""
    storages = {}
    for entry in prefixes.store._entries.values():
        for tensor in entry.value.tensors.values():
            memory = tensor.untyped_storage()
            storages[memory._cdata] = memory.nbytes()
    return sum(storages.values())


def test_states_that_are_gone_leave_nothing_behind() -> None:
    model, batches = Net(["sum"], 0), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    Ran(prefixes, changed(model, "head"), batches, lasting=False)
    gc.collect()
    assert len(prefixes._flows) == 1


# Tensors without numbers


def test_what_is_computed_from_nothing_is_nothing() -> None:
    absent = Absent(Form.of(torch.rand(2, 3, 4)))
    found = nn.Linear(4, 5)(torch.cat([absent.relu_() * 2, torch.ones(2, 3, 4)])).mean(0)
    assert has_absent([{"a": found}])
    assert (tuple(found.shape), found.dtype, found.device.type) == ((3, 5), torch.float32, "cpu")
    assert not has_absent(torch.zeros_like(torch.rand(2)))


@pytest.mark.parametrize(
    "use",
    [
        lambda absent: absent.sum().item(),
        lambda absent: absent.tolist(),
        lambda absent: absent.numpy(),
        lambda absent: bool(absent.sum() > 0),
        lambda absent: torch.zeros(2, 3).copy_(absent),
        lambda absent: torch.zeros(2, 3).add_(absent),
        lambda absent: torch.add(absent, absent, out=torch.zeros(2, 3)),
        lambda absent: absent.unsqueeze_(0),
        lambda absent: torch.zeros(2, 3).index_put_((absent > 0,), torch.ones(())),
    ],
)
def test_nothing_never_becomes_a_number(use: Callable[[Tensor], Any]) -> None:
    with torch.no_grad(), pytest.raises((RuntimeError, TypeError, NotImplementedError)):
        use(Absent(Form.of(torch.rand(2, 3))))


# Real ones


def small_vit() -> nn.Module:
    vit = torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5)
    nn.init.normal_(vit.heads.head.weight)
    return vit


REAL: list[Any] = [
    pytest.param("resnet18", 64),
    pytest.param("mobilenet_v3_small", 64),
    pytest.param("shufflenet_v2_x0_5", 64),
    pytest.param("vit", 32),
    *(
        pytest.param(name, size, marks=pytest.mark.slow)
        for name, size in (
            ("densenet121", 64),
            ("googlenet", 64),
            ("swin_t", 64),
            ("maxvit_t", 224),
            ("regnet_y_400mf", 64),
            ("convnext_tiny", 64),
            ("efficientnet_b0", 64),
            ("inception_v3", 96),
            ("lraspp_mobilenet_v3_large", 64),
        )
    ),
]


@pytest.mark.parametrize(("name", "size"), REAL)
def test_published_architectures_are_taken_up_midway(name: str, size: int) -> None:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if "lraspp" in name:
        options = {"weights_backbone": None}
    model = (
        small_vit()
        if name == "vit"
        else torchvision.models.get_model(name, weights=None, **options)
    ).eval()
    batches = noise(2, 3, size, size)
    prefixes = Prefixes()
    base = Ran(prefixes, model, batches)
    assert base.reason == ""
    assert same(base.outputs, whole(model, batches))
    weighted = [one for one, module in model.named_modules() if has_kernel(module)]
    for layer in weighted[1 :: max(1, len(weighted) // 4)]:
        edited = changed(model, layer)
        wanted = whole(edited, batches)
        runs = [Ran(prefixes, edited, batches, lasting=False) for _ in range(2)]
        assert all(run.reason == "" and same(run.outputs, wanted) for run in runs), layer
        # In front, so little would be saved that nothing is kept.
        assert runs[1].loaded == [] or weighted.index(layer) <= 2, layer
    assert same(Ran(prefixes, model, batches).outputs, base.outputs)


def has_kernel(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


# Variants


def variants(model: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    """For each layer with weights two other states that differ in it alone."""
    for name, one in model.named_modules():
        if hasattr(one, "weight"):
            first = changed(model, name)
            yield name, [first, changed(first, name)]


def parted(
    prefixes: Prefixes,
    model: nn.Module,
    variant: nn.Module,
    batches: Sequence[Tensor],
    layers: set[str],
    kind: str | None = None,
) -> list[Any]:
    """What the variant gives, run from where it parts from the model."""
    names = frozenset(map(LayerId, layers))
    with prefixes.parting(model, variant, batches[0][:1], names, kind) as run:
        keyed = [Batch(at, Form.of(one), one.clone) for at, one in enumerate(batches)]
        return [run(one) for one in keyed]


@settings(max_examples=15)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), st.integers(0, 2))
def test_variants_give_the_bits_of_whole_passes(kinds: list[str], between: int) -> None:
    model, batches = Net(kinds, between), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    assert same(Ran(prefixes, model, batches).outputs, whole(model, batches))
    for kind in (None, "watched"):
        for layer, states in variants(model):
            for variant in states:
                found = parted(prefixes, model, variant, batches, {layer}, kind)
                assert same(found, whole(variant, batches)), layer
    assert same(Ran(prefixes, model, batches).outputs, whole(model, batches))


@pytest.mark.parametrize("kind", [None, "watched"])
def test_what_comes_before_a_variants_change_runs_once_for_all(
    calls: list[str], kind: str | None
) -> None:
    model, batches = nn.Sequential(*map(Counting, "abcd")), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    states = [changed(model, "2"), changed(changed(model, "2"), "2")]
    parted(prefixes, model, states[0], batches, {"2"}, kind)
    assert calls == list("abcd") * 2
    calls.clear()
    parted(prefixes, model, states[1], batches, {"2"}, kind)
    assert calls == list("cd") * 2


def test_a_change_that_an_earlier_layer_reads_starts_there(calls: list[str]) -> None:
    class Reading(nn.Module):
        """Reads the last layer's weight before the second is called."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = map(Counting, "abc")

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.three(self.two(self.one(x) * self.three.weight.mean()))
            return out

    model, batches = Reading(), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    variant = changed(model, "three")
    parted(prefixes, model, variant, batches, {"three"})
    calls.clear()
    assert same(parted(prefixes, model, variant, batches, {"three"}), whole(variant, batches))
    assert calls == list("bc" * 2 + "abc" * 2)


def test_sizes_that_an_earlier_layer_looks_at_are_seen_by_watching() -> None:
    model, batches = Peeking(), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    variant = share(model)
    variant.two.gain = 3.0
    found = parted(prefixes, model, variant, batches, {"two"}, "gain")
    assert same(found, whole(variant, batches))


def test_a_layer_that_one_sample_does_not_come_to_leaves_nothing_out() -> None:
    class Crowded(nn.Module):
        """A layer more where there is more than one sample."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            return self.two(x) if len(x) > 1 else x

    model, batches = Crowded(), noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    variant = changed(model, "two")
    assert same(parted(prefixes, model, variant, batches, {"two"}), whole(variant, batches))


def test_a_variant_that_writes_into_what_is_kept_is_run_whole() -> None:
    model = nn.Sequential(conv(), conv(), nn.ReLU(inplace=True), conv())
    batches = noise(3, 4, 5, 5)
    prefixes = Prefixes()
    Ran(prefixes, model, batches)
    variant = share(model)
    variant[1] = nn.Identity()  # so that the activation writes into what the first layer put out
    wanted = whole(variant, batches)
    for _ in range(2):
        assert same(parted(prefixes, model, variant, batches, {"1"}), wanted)
    assert same(Ran(prefixes, model, batches).outputs, whole(model, batches))
