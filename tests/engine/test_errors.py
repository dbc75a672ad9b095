"""The error tree: drawn as it is, and every branch of it with advice of its own."""

import inspect
import re

import pytest

from engine import errors
from engine.errors import EngineError
from engine.job import Cancelled

CLASSES = [
    one
    for _, one in inspect.getmembers(errors, inspect.isclass)
    if one.__module__ == "engine.errors"
]


def drawn() -> dict[str, tuple[str, int]]:
    """Class -> parent's name and depth, read off the tree in the module's docstring."""
    found: dict[str, tuple[str, int]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        branch = re.fullmatch(r"    ([│ ]*)([├└]── )?(\w+)( {2,}\S.*)?", line)
        if branch is None or not (branch[2] or branch[3] == "EngineError"):
            continue
        depth = len(branch[1]) // 4 + bool(branch[2])
        path[depth:] = [branch[3]]
        found[branch[3]] = (path[depth - 1] if depth else "", depth)
    return found


def test_the_tree_is_drawn_as_it_is() -> None:
    tree = {one.__name__: one.__bases__[0].__name__ for one in CLASSES if one is not EngineError}
    seen = drawn()
    assert seen.pop("EngineError") == ("", 0)
    assert {name: parent for name, (parent, _) in seen.items()} == tree


def test_everything_in_the_module_belongs_to_the_tree() -> None:
    assert all(issubclass(one, EngineError) for one in CLASSES)
    assert len(CLASSES) > 10


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_says_what_the_user_can_do(kind: type[EngineError]) -> None:
    assert "remedy" in vars(kind), "inherited advice is no advice"
    error = kind("It broke.")
    assert str(error) == "It broke."
    assert error.remedy == kind.remedy
    assert re.fullmatch(r"\S.*\.", kind.remedy), "a whole sentence on one line"
    assert kind.__doc__


def test_no_two_classes_give_the_same_advice() -> None:
    assert len({kind.remedy for kind in CLASSES}) == len(CLASSES)


def test_advice_for_one_case_leaves_the_others_alone() -> None:
    assert errors.EditRefused("No.", "Undo.").remedy == "Undo."
    assert errors.EditRefused("No.").remedy == errors.EditRefused.remedy != "Undo."


def test_details_are_none_unless_they_are_given() -> None:
    assert errors.ConsentNeeded("May it?").details == {}
    assert errors.ConsentNeeded("May it?", details={"digest": "ab"}).details["digest"] == "ab"


def test_cancelling_is_no_error() -> None:
    assert not issubclass(Cancelled, EngineError)
    assert not issubclass(EngineError, Cancelled)
