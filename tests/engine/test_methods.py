"""Methods of torch.nn.utils.prune and the user's own: masks without hooks."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from engine import user_code
from engine.edits import PruneByMethod
from engine.errors import ConsentNeeded, EditRefused
from engine.job import Job
from engine.layers import LayerId
from engine.session import ModelSession
from engine.user_code import allow_here

LAYERS = (LayerId("0"), LayerId("2"))

OWN = '''
import torch
from torch.nn.utils import prune


class Quarter(prune.BasePruningMethod):
    """Keeps the largest quarter of what it sees."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t, default_mask):
        mask = torch.zeros_like(default_mask)
        mask.view(-1)[t.abs().flatten().topk(t.numel() // 4).indices] = 1
        return mask


class FirstRows(prune.BasePruningMethod):
    PRUNING_TYPE = "structured"

    def __init__(self, amount, dim=0):
        self.amount, self.dim = amount, dim

    def compute_mask(self, t, default_mask):
        mask = default_mask.clone()
        mask.narrow(self.dim, 0, round(self.amount * t.shape[self.dim])).zero_()
        t.zero_()  # it was given a copy
        return mask


class Whole(prune.BasePruningMethod):
    PRUNING_TYPE = "global"

    def compute_mask(self, t, default_mask):
        return default_mask * (t.abs() > 0.2)


class Raises(Quarter):
    def compute_mask(self, t, default_mask):
        raise ValueError("no idea")


class Shapeless(Quarter):
    def compute_mask(self, t, default_mask):
        return default_mask[:1]


class Halves(Quarter):
    def compute_mask(self, t, default_mask):
        return default_mask / 2


class Listed(Quarter):
    def compute_mask(self, t, default_mask):
        return [1, 0]


class Strange(Quarter):
    PRUNING_TYPE = "wild"


class Unfinished(prune.BasePruningMethod):
    pass


class NoMethod:
    pass


def a_function(amount):
    return amount
'''


@pytest.fixture
def session(session_of: Callable[..., ModelSession]) -> ModelSession:
    return session_of(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), 1, 8)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of methods that the user has allowed."""
    monkeypatch.setattr(user_code, "_allowed_here", set())
    path = tmp_path / "methods.py"
    path.write_text(f"# {tmp_path}\n{OWN}")  # what was loaded once is not loaded again
    return path


def allow(session: ModelSession, edit: PruneByMethod) -> None:
    with pytest.raises(ConsentNeeded) as caught:
        session.apply(edit, Job())
    allow_here([caught.value.details["digest"]])


def weights_after(session: ModelSession, edit: PruneByMethod) -> list[Tensor]:
    session.apply(edit, Job())
    model = session._subject(session.snapshot.cursor).model
    return [model.get_submodule(layer).weight.detach() for layer in LAYERS]


TORCHS: dict[str, tuple[float, str, Callable[[nn.Module], object]]] = {
    "L1Unstructured": (0.4, "", lambda one: prune.l1_unstructured(one, "weight", 0.4)),
    "RandomUnstructured": (0.4, "{}", lambda one: prune.random_unstructured(one, "weight", 0.4)),
    "LnStructured": (
        0.5, '{"n": 2, "dim": 0}', lambda one: prune.ln_structured(one, "weight", 0.5, 2, 0)
    ),
    "RandomStructured": (
        0.5, '{"dim": 1}', lambda one: prune.random_structured(one, "weight", 0.5, 1)
    ),
    "Identity": (0.9, "", lambda one: prune.identity(one, "weight")),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHS)
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "pruned before"])
def test_the_weights_are_those_that_torch_leaves(
    session: ModelSession, name: str, before: bool
) -> None:
    amount, arguments, apply = TORCHS[name]
    oracle = copy.deepcopy(session._subject(0).model)
    if before:
        session.apply(PruneByMethod(LAYERS, "L1Unstructured", 0.25), Job())
        for layer in LAYERS:
            prune.l1_unstructured(oracle.get_submodule(layer), "weight", 0.25)
    torch.manual_seed(5)
    for layer in LAYERS:
        apply(oracle.get_submodule(layer))
    found = weights_after(session, PruneByMethod(LAYERS, name, amount, arguments, seed=5))
    for layer, weight in zip(LAYERS, found, strict=True):
        assert torch.equal(weight, oracle.get_submodule(layer).weight)


def test_an_amount_among_the_arguments_is_a_number_of_weights(session: ModelSession) -> None:
    first, second = weights_after(
        session, PruneByMethod(LAYERS, "L1Unstructured", 0.9, '{"amount": 7}')
    )
    assert (int((first == 0).sum()), int((second == 0).sum())) == (7, 7)


def test_the_full_name_of_torchs_own_needs_no_consent(session: ModelSession) -> None:
    found = weights_after(session, PruneByMethod(LAYERS, "torch.nn.utils.prune:Identity", 0.5))
    assert all(one.all() for one in found)


def test_the_model_keeps_no_hooks_and_random_numbers_stay(session: ModelSession) -> None:
    before = torch.get_rng_state()
    session.apply(PruneByMethod(LAYERS, "RandomUnstructured", 0.5), Job())
    assert torch.equal(torch.get_rng_state(), before)
    model = session._subject(1).model
    assert not prune.is_pruned(model)
    assert [name for name, _ in model.named_parameters()] == [
        "0.weight", "0.bias", "2.weight", "2.bias"
    ]  # fmt: skip


# The user's own


@pytest.mark.parametrize("name", ["Quarter", "FirstRows", "Whole"])
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "pruned before"])
def test_a_subclass_of_the_users(session: ModelSession, own: Path, name: str, before: bool) -> None:
    edit = PruneByMethod(LAYERS, f"{own}:{name}", 0.5)
    allow(session, edit)
    base = [session._subject(0).model.get_submodule(one).weight.clone() for one in LAYERS]
    oracle = copy.deepcopy(session._subject(0).model)
    if before:
        session.apply(PruneByMethod(LAYERS, "L1Unstructured", 0.25), Job())
    method = user_code.load_function(f"{own}:{name}", frozenset())
    arguments = {"amount": 0.5} if name == "FirstRows" else {}
    for layer in LAYERS:
        module = oracle.get_submodule(layer)
        if before:
            prune.l1_unstructured(module, "weight", 0.25)
        method.apply(
            module, "weight", importance_scores=module.weight.detach().clone(), **arguments
        )
    found = weights_after(session, edit)
    for layer, weight in zip(LAYERS, found, strict=True):
        assert torch.equal(weight, oracle.get_submodule(layer).weight)
    now = [session._subject(0).model.get_submodule(one).weight for one in LAYERS]
    assert all(map(torch.equal, base, now))


def test_code_is_asked_about_first_and_then_no_more(session: ModelSession, own: Path) -> None:
    own.write_text(f"import pathlib\npathlib.Path({str(own.parent / 'ran')!r}).mkdir()\n{OWN}")
    edit = PruneByMethod(LAYERS, f"{own}:Quarter", 0.5)
    with pytest.raises(ConsentNeeded) as caught:
        session.preview(edit, Job())
    assert caught.value.details["runs"] == [f"{own}:Quarter"]
    assert not (own.parent / "ran").exists()
    allow_here([caught.value.details["digest"]])
    session.preview(edit, Job())
    session.apply(edit, Job())
    assert session.snapshot.cursor == 1


def test_a_recipe_runs_no_code(session: ModelSession, own: Path, tmp_path: Path) -> None:
    edit = PruneByMethod(LAYERS, f"{own}:Quarter", 0.5)
    allow(session, edit)
    session.apply(edit, Job())
    after = session.fingerprint()
    session.save_recipe(str(tmp_path / "a.json"), Job())
    assert str(tmp_path) not in (tmp_path / "a.json").read_text()
    own.unlink()
    session.undo(Job())
    session.apply_recipe(str(tmp_path / "a.json"), Job())
    assert session.fingerprint() == after


WRONG = {
    "Raises": r"raised ValueError: no idea \(line \d+\) for 0\.weight",
    "Shapeless": r"gave a mask for 0\.weight of shape \(1, 8\) instead of \(6, 8\)",
    "Halves": r"gave a mask for 0\.weight that holds more than 0 and 1",
    "Listed": r"gave a list as the mask for 0\.weight",
    "Unfinished": "raised TypeError: Can't instantiate abstract class Unfinished",
    "NoMethod": r"is no subclass of torch\.nn\.utils\.prune\.BasePruningMethod",
    "a_function": r"is no subclass of torch\.nn\.utils\.prune\.BasePruningMethod",
    "Missing": "has no “Missing”",
    "Quarter(amount=1)": "has arguments in its name",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_it_is_said(session: ModelSession, own: Path, name: str) -> None:
    allow(session, PruneByMethod(LAYERS, f"{own}:Quarter", 0.5))
    with pytest.raises(EditRefused, match=WRONG[name]):
        session.apply(PruneByMethod(LAYERS, f"{own}:{name}", 0.5), Job())
    assert session.snapshot.cursor == 0


def test_an_unknown_type_matters_where_zeros_are(session: ModelSession, own: Path) -> None:
    edit = PruneByMethod(LAYERS, f"{own}:Strange", 0.5)
    allow(session, edit)
    session.apply(edit, Job())  # as torch, which asks for it the second time alone
    with pytest.raises(EditRefused, match="Unrecognized PRUNING_TYPE wild"):
        session.apply(edit, Job())


@pytest.mark.parametrize(
    ("method", "amount", "arguments", "cause"),
    [
        ("", 0.5, "", "“” is no pruning method"),
        ("L2Unstructured", 0.5, "", "“L2Unstructured” is no pruning method"),
        ("CustomFromMask", 0.5, "", "“CustomFromMask” is no pruning method"),
        ("PruningContainer", 0.5, "", "is no pruning method"),
        ("nowhere.at_all:Class", 0.5, "", "There is no Python module “nowhere"),
        ("gone.py:Class", 0.5, "", r"The Python file gone\.py does not exist"),
        ("L1Unstructured", 0.5, "{", "The arguments are no JSON"),
        ("L1Unstructured", 0.5, "[" * 100_000, "The arguments are no JSON"),
        ("L1Unstructured", 0.5, "[1]", "no JSON object"),
        ("L1Unstructured", 0.5, '{"n": 2}', "unexpected keyword argument 'n'"),
        ("L1Unstructured", 1.5, "", r"amount=1\.5 should either.* for the arguments {.*1\.5}"),
        ("LnStructured", 0.5, "", "missing 1 required positional argument: 'n'"),
        ("LnStructured", 0.5, '{"n": 2, "dim": 7}', "raised IndexError.* for 0.weight"),
        ("L1Unstructured", 0.5, '{"amount": 700}', "should be smaller than"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    session: ModelSession, method: str, amount: float, arguments: str, cause: str
) -> None:
    with pytest.raises(EditRefused, match=cause):
        session.preview(PruneByMethod(LAYERS, method, amount, arguments), Job())
