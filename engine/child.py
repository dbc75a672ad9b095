"""The one place where a process is started: from source, from a wheel and frozen.

A child runs a function of the engine on a JSON value and answers with one. It shields the window
from what may abort or be stopped: exporting, and re-opening what was exported.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from engine import errors
from engine.job import Job
from engine.lazy import resolve

FLAG = "--secateur-child"
"""First argument by which a frozen application knows that it is a child."""

_POLL_SECONDS = 0.02


def command(*arguments: str) -> list[str]:
    """The command line that starts this application again with these arguments."""
    if getattr(sys, "frozen", False):
        return [sys.executable, *arguments]
    if arguments[:1] == (FLAG,):
        return [sys.executable, "-m", "engine.child", *arguments[1:]]
    return [sys.executable, "-m", "main", *arguments]


def environment() -> dict[str, str]:
    """The environment of a child: it imports what this process would, from the same places.

    Of its own, Python would look into the working folder first, where a downloaded file beside the
    model could call itself ``json.py``.
    """
    root = str(Path(__file__).resolve().parent.parent)
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(dict.fromkeys((root, *given, *map(os.path.abspath, sys.path))))
    safe = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    return {**os.environ, **safe, "PYTHONWARNINGS": "ignore"}


def run_in_child(function: str, payload: Any, job: Job) -> Any:
    """Call ``function``, a lazy name, with ``payload`` in a process of its own.

    Both the payload and the answer are JSON values.

    Raises:
        EngineError: the one that the function raised.
        ChildFailed: the process ended without an answer; its last words are in the message.
        Cancelled: the child was stopped.
    """
    with TemporaryFile() as given:
        # Not by a pipe: communicate() stops sending once it was interrupted by its timeout.
        given.write(json.dumps(payload).encode())
        given.seek(0)
        with subprocess.Popen(
            command(FLAG, function),
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        ) as process:
            try:
                out, complaint = _converse(process, job)
            except BaseException:
                process.kill()
                raise
    try:
        answer = json.loads(out)
    except ValueError:
        words = complaint.decode(errors="replace").strip().splitlines()
        raise errors.ChildFailed(
            f"A child process ended with code {process.returncode} without an answer"
            f"{': ' + words[-1] if words else '.'}"
        ) from None
    if "error" in answer:
        kind = getattr(errors, answer["error"], errors.ChildFailed)
        raise kind(answer["message"], answer["remedy"], answer["details"])
    return answer["result"]


def _converse(process: "subprocess.Popen[bytes]", job: Job) -> tuple[bytes, bytes]:
    while True:
        try:
            return process.communicate(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            job.check()


def run_application(arguments: list[str], extra: dict[str, str], seconds: float) -> tuple[int, str]:
    """Run this application again; its exit code and what it said on standard error.

    A run that takes longer than ``seconds`` is ended and gives code 124.
    """
    started = time.monotonic()
    try:
        done = subprocess.run(
            command(*arguments),
            env={**environment(), **extra},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer in {time.monotonic() - started:.0f} s"
    return done.returncode, done.stderr.decode(errors="replace").strip()


def serve(function: str) -> int:
    """Be the child: read the payload, call the function, write the answer."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not end up in the answer
    try:
        answer = {"result": resolve(function)(json.loads(sys.stdin.buffer.read()))}
    except errors.EngineError as error:
        answer = {
            "error": type(error).__name__,
            "message": str(error),
            "remedy": error.remedy,
            "details": dict(error.details),
        }
    with os.fdopen(answers, "wb") as out:
        out.write(json.dumps(answer).encode())
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
