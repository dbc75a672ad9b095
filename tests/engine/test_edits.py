"""Edits are plain data, and each kind is wired in once: name, decision, handler."""

import copy
import dataclasses
import inspect
import typing

import pytest

from engine import edits
from engine.editing import Handler
from engine.edits import EDITS, HANDLERS, AppliedEdit, Decision, Edit, edit_name
from engine.layers import LayerId
from engine.lazy import resolve

KINDS = typing.get_args(Edit)
LAYERS = (LayerId("a"), LayerId("b"))


def example(kind: type[Edit]) -> Edit:
    needed = {"ratio": 0.5, "amount": 0.5, "path": "masks.pt", "method": "Identity"}
    fields = {one.name for one in dataclasses.fields(kind)}
    return kind(LAYERS, **{name: value for name, value in needed.items() if name in fields})


def test_names_handlers_and_the_type_list_the_same_kinds() -> None:
    assert tuple(request for request, _ in EDITS.values()) == KINDS
    assert tuple(HANDLERS) == KINDS
    assert {decision for _, decision in EDITS.values()} == set(typing.get_args(Decision))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_handler_that_keeps_the_contract(kind: type[Edit]) -> None:
    handler = resolve(HANDLERS[kind])()
    wanted = {name for name, _ in inspect.getmembers(Handler, inspect.isfunction) if name[0] != "_"}
    assert wanted == {"applies", "draft", "decide", "carry_out", "effects", "notes"}
    for name in wanted:
        expected = list(inspect.signature(getattr(Handler, name)).parameters)[1:]
        assert list(inspect.signature(getattr(handler, name)).parameters) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_decision_is_what_the_handler_decides(kind: type[Edit]) -> None:
    handler = resolve(HANDLERS[kind])
    decision = EDITS[edit_name(kind)][1]
    for name in ("draft", "decide"):
        hints = typing.get_type_hints(getattr(handler, name))
        assert (hints["edit"], hints["return"]) == (kind, decision)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_is_a_value(kind: type[Edit]) -> None:
    edit = example(kind)
    assert edit == copy.deepcopy(edit)
    assert hash(edit) == hash(copy.deepcopy(edit))
    assert edit != dataclasses.replace(edit, layers=())
    for field in dataclasses.fields(edit):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(edit, field.name, None)


@pytest.mark.parametrize("name", EDITS)
def test_names_lead_to_kinds_and_back(name: str) -> None:
    kind = EDITS[name][0]
    assert edit_name(kind) == name
    assert edit_name(example(kind)) == name


@pytest.mark.parametrize(
    "kind",
    [one for _, one in inspect.getmembers(edits, dataclasses.is_dataclass)],
    ids=lambda kind: kind.__name__,
)
def test_everything_recorded_is_frozen(kind: type) -> None:
    assert kind.__dataclass_params__.frozen
    assert kind.__hash__ is not None


def test_applied_edits_differ_when_their_decisions_do() -> None:
    one = edits.WeightMask(LayerId("a"), (8,), b"\xff")
    other = dataclasses.replace(one, kept=b"\x7f")
    request = edits.PruneWeights((LayerId("a"),), 0.5)
    applied = [AppliedEdit(request, edits.WeightsZeroed((mask,))) for mask in (one, other)]
    assert len(set(applied)) == 2
