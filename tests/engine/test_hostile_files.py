"""Hostile and broken files: nothing runs, nothing else is read, one message names the cause.

They are opened in a child process, as the limits on time and memory are a process's.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.engine.hostile_files import Case, cases

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measured by Linux's own counters")

SECONDS = 5
BYTES = 256 << 20

CASES = list(cases())
LARGE = [case for case in CASES if case.name.startswith("at_the_limits")]
SMALL = [case for case in CASES if case not in LARGE]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each file, by the case's name."""
    return _answers(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def large_answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same of the large ones, in a child of their own: libraries stay in memory once used."""
    return _answers(tmp_path_factory.mktemp("large"), LARGE)


def _answers(root: Path, some: list[Case]) -> dict[str, Any]:
    paths = [(case.name, str(_made(case, root / str(i)))) for i, case in enumerate(some)]
    sources = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("hostile_child.py"))],
        input=json.dumps(paths).encode(),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(sources), "PYTHONWARNINGS": "ignore"},
        cwd=root,
        timeout=240,  # for what waits instead of computing
        check=False,
    )
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    for index, case in enumerate(some):
        if case.name in found:
            found[case.name]["ran"] = (root / str(index) / "ran").exists()
            found[case.name]["folder"] = str(root / str(index))
    return found


def _made(case: Case, folder: Path) -> Path:
    folder.mkdir()
    (folder / "files").mkdir()
    return case.make(folder / "files", folder / "ran")


def test_there_are_many_and_each_has_its_own_name() -> None:
    assert len(SMALL) >= 150
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_it_is_refused_in_words_that_name_the_cause(answers: dict[str, Any], case: Case) -> None:
    _check(answers, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
def test_as_much_as_is_read_at_all_stays_within_the_limits(
    large_answers: dict[str, Any], case: Case
) -> None:
    _check(large_answers, case)


def _check(answers: dict[str, Any], case: Case) -> None:
    assert case.name in answers, "the child ended before it, or at it"
    answer = answers[case.name]
    assert answer["error"] not in ("", "not ours"), answer["message"]
    assert case.cause in answer["message"]
    assert len(answer["message"]) < 800
    assert answer["message"].isprintable()
    assert not answer["ran"], "something in it was executed"
    assert [one for one in answer["opened"] if _outside(one, answer["folder"])] == []
    assert answer["seconds"] <= SECONDS
    assert answer["bytes"] <= BYTES


_INSTALLED = tuple(os.path.realpath(sysconfig.get_path(one)) for one in ("purelib", "platlib"))
_CODE = (*_INSTALLED, *(str(Path(one).resolve()) for one in (sys.base_prefix, sys.prefix)))


def _outside(path: str, folder: str) -> bool:
    """Whether it is neither the case's own file nor a library's."""
    if path.startswith(f"{folder}/files/"):
        return False
    temporary = tempfile.gettempdir()
    if "engine.child" in path or temporary in (path, str(Path(path).parent)):
        return False  # what needs a process of its own is sent there by an unnamed file
    real = os.path.realpath(path)
    ours = real.startswith(f"{Path(__file__).parents[2]}/engine")
    return not (ours and real.endswith((".py", ".pyc"))) and not real.startswith(_CODE)
