"""Child processes: answers and errors come back whole, and a cancelled child is gone.

The functions called in the child are the standard library's, or the engine's own.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import engine
from engine import errors
from engine.child import FLAG, command, environment, run_application, run_in_child
from engine.job import Cancelled, Job

ROOT = Path(engine.__file__).resolve().parent.parent


class CancelledBy(Job):
    """A job that is cancelled as soon as ``happened`` says so; after a while it fails."""

    def __init__(self, happened) -> None:
        super().__init__()
        self._happened = happened
        self._deadline = time.monotonic() + 60

    def check(self) -> None:
        assert time.monotonic() < self._deadline, "it never happened"
        if self._happened():
            self.cancel()
        super().check()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1.5, 10**30, "", "ünï\n\0😀", [], {}, {"a": [1, {"b": None}]}, [[[]]]],
)
def test_values_come_back_as_they_went(value: object, job: Job) -> None:
    assert run_in_child("copy:copy", value, job) == value


def test_the_function_runs_in_another_process(job: Job) -> None:
    assert run_in_child("os:getpgid", 0, job) is not None
    assert run_in_child("builtins:eval", "__import__('os').getpid()", job) != os.getpid()


@pytest.mark.parametrize("size", [1 << 16, 5 << 20])
def test_payload_and_answer_may_be_larger_than_a_pipe(size: int, job: Job) -> None:
    text = "é" * size
    assert run_in_child("copy:copy", text, job) == text


def test_what_the_child_prints_does_not_get_into_the_answer(job: Job) -> None:
    script = (
        "[print('noise'), __import__('os').write(1, b'{\"result\": 0}'), "
        "__import__('os').system('echo more noise'), 'answer'][-1]"
    )
    assert run_in_child("builtins:eval", script, job) == "answer"


def test_engine_errors_come_back_as_they_were_raised(job: Job) -> None:
    with pytest.raises(errors.DataSetNotFound) as here:
        engine.open_model("demo", job).load_data("cifar", job)
    payload = {"source": "demo", "data": "cifar"}
    with pytest.raises(errors.DataSetNotFound) as there:
        run_in_child("engine.session:evaluate_source", payload, job)
    assert str(there.value) == str(here.value)
    assert there.value.remedy == here.value.remedy != errors.EngineError.remedy


@pytest.mark.parametrize(
    ("function", "payload", "words"),
    [
        ("json:loads", "{", "JSONDecodeError"),
        ("builtins:eval", "1 / 0", "ZeroDivisionError: division by zero"),
        ("builtins:eval", "object()", "not JSON serializable"),
        ("builtins:exit", "for no reason", "for no reason"),
        ("builtins:exit", 3, "code 3"),
        ("os:abort", None, "code 1"),  # it takes no argument, so Python ends with a TypeError
        ("os:_exit", 0, "code 0 without an answer."),
        ("builtins:eval", "__import__('os').kill(__import__('os').getpid(), 9)", "code -9"),
        ("json:nothing", 0, "has no attribute 'nothing'"),
        ("nowhere.at.all:nothing", 0, "No module named 'nowhere'"),
    ],
)
def test_a_child_without_an_answer_leaves_its_last_words(
    function: str, payload: object, words: str, job: Job
) -> None:
    with pytest.raises(errors.ChildFailed) as caught:
        run_in_child(function, payload, job)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_payload_that_is_no_json_value_leaves_no_process(job: Job) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        run_in_child("copy:copy", object(), job)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_cancelling_kills_the_child(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    script = (
        f"[__import__('pathlib').Path({str(told)!r}).write_text(str(__import__('os').getpid())),"
        " __import__('time').sleep(600)]"
    )
    with pytest.raises(Cancelled):
        run_in_child(
            "builtins:eval", script, CancelledBy(lambda: told.exists() and told.read_text())
        )
    assert not is_running(int(told.read_text()))


def test_cancelling_leaves_no_process_even_before_the_payload_is_read() -> None:
    with pytest.raises(Cancelled):
        run_in_child("time:sleep", "x" * (8 << 20), CancelledBy(lambda: True))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_cancelled_job_gets_no_answer_even_from_a_child_that_has_one(job: Job) -> None:
    job.cancel()
    with pytest.raises(Cancelled):
        run_in_child("time:sleep", 600, job)


def test_command_lines_from_source() -> None:
    assert command("inspect", "demo") == [sys.executable, "-m", "main", "inspect", "demo"]
    assert command(FLAG, "json:dumps") == [sys.executable, "-m", "engine.child", "json:dumps"]


def test_command_lines_of_a_frozen_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/opt/secateur/secateur")
    assert command("inspect", "demo") == ["/opt/secateur/secateur", "inspect", "demo"]
    assert command(FLAG, "json:dumps") == ["/opt/secateur/secateur", FLAG, "json:dumps"]


def test_a_frozen_application_serves_by_its_main(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-in for the frozen program: the interpreter, running main.py with the same arguments."""
    monkeypatch.setattr(
        "engine.child.command", lambda *arguments: [sys.executable, "-m", "main", *arguments]
    )
    assert run_in_child("json:dumps", {"a": 1}, job) == '{"a": 1}'


def test_the_child_runs_this_code_wherever_it_starts(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("raise SystemExit('the wrong engine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    found = run_in_child("builtins:eval", "__import__('engine').__file__", job)
    assert Path(found).parent.parent == ROOT
    assert environment()["PYTHONPATH"].split(os.pathsep)[:2] == [str(ROOT), str(tmp_path / "other")]


def test_the_child_imports_from_where_its_parent_does(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_up_here.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = run_in_child("builtins:eval", "__import__('made_up_here').__file__", job)
    assert Path(found) == tmp_path / "made_up_here.py"


def test_running_the_application_again_gives_its_code_and_its_words() -> None:
    assert run_application(["inspect", "--help"], {}, 60) == (0, "")
    code, words = run_application(["nonsense"], {}, 60)
    assert code == 2
    assert "invalid choice: 'nonsense'" in words


def test_a_run_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr("engine.child.command", lambda *_: sleeping)
    code, words = run_application([], {}, 0.2)
    assert code == 124
    assert "no answer in" in words
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_extra_environment_reaches_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = [sys.executable, "-c", "import os, sys; sys.exit(os.environ['SECATEUR_TEST'])"]
    monkeypatch.setattr("engine.child.command", lambda *_: asking)
    assert run_application([], {"SECATEUR_TEST": "seen"}, 60) == (1, "seen")


def test_what_crosses_the_pipe_is_one_json_document() -> None:
    done = subprocess.run(
        command(FLAG, "json:dumps"),
        input=b'"x"',
        capture_output=True,
        env=environment(),
        check=True,
    )
    assert json.loads(done.stdout) == {"result": '"x"'}
