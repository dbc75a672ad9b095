"""What holds for every test: no window on the screen, and nothing unexpected goes unnoticed.

Warnings and Qt's messages fail a test by the settings in pyproject.toml. Here the same is done for
log records, threads and windows that outlive the test.
"""

import logging
import os
import random
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

# Before Qt and ONNX Runtime are imported, or it has no effect.
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import pytest
from hypothesis import settings

# One example may be the first to import torch, so none has a deadline.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Records at WARNING or above that no test can avoid: logger, text, and the reason.
ALLOWED_LOGS = (
    (
        "torch.utils._pytree",
        "is an Enum subclass and is now natively supported",
        "importing torchao 0.18 registers KernelPreference the old way",
    ),
)

# How long a thread may take to end after its test.
THREAD_GRACE = 5.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "logs(logger, text): the test expects such records; text is a regular expression",
    )


@pytest.fixture(autouse=True)
def _no_unexpected_logs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that logs at WARNING or above, on any logger, propagating or not."""
    allowed = [(logger, text) for logger, text, _ in ALLOWED_LOGS]
    allowed += [mark.args for mark in request.node.iter_markers("logs")]
    unexpected: list[str] = []
    make_record = logging.getLogRecordFactory()

    def watch(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        if record.levelno >= logging.WARNING:
            message = record.getMessage()
            if not any(record.name == name and re.search(text, message) for name, text in allowed):
                unexpected.append(f"{record.levelname} {record.name}: {message}")
        return record

    logging.setLogRecordFactory(watch)
    yield
    logging.setLogRecordFactory(make_record)
    if unexpected:
        pytest.fail("unexpected log records:\n" + "\n".join(unexpected), pytrace=False)


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a thread of ours, or any that would keep the program from ending."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + THREAD_GRACE
    while (leaked := _leaked_threads(before)) and time.monotonic() < deadline:
        leaked[0].join(0.05)
    if leaked:
        names = ", ".join(thread.name for thread in leaked)
        pytest.fail(f"threads still running: {names}", pytrace=False)


def _leaked_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread not in before and (not thread.daemon or thread.name.startswith("secateur"))
    ]


@pytest.fixture(autouse=True)
def _deleted_at_once() -> Iterator[None]:
    """Let closed widgets go: without an event loop they stay, and each costs the next theme."""
    yield
    core = sys.modules.get("PySide6.QtCore")
    if core is not None and core.QCoreApplication.instance() is not None:
        core.QCoreApplication.sendPostedEvents(None, core.QEvent.Type.DeferredDelete)


@pytest.fixture(autouse=True)
def _no_leaked_windows() -> Iterator[None]:
    """Fail a test that leaves a window open; pytest-qt has closed those that it was told of."""
    yield
    widgets = sys.modules.get("PySide6.QtWidgets")
    if widgets is None or widgets.QApplication.instance() is None:
        return
    leaked = [widget for widget in widgets.QApplication.topLevelWidgets() if widget.isVisible()]
    names = [f"{type(widget).__name__} {widget.objectName()!r}" for widget in leaked]
    for widget in leaked:
        widget.hide()  # the next test shall not answer for it
        widget.deleteLater()
    if names:
        pytest.fail(f"windows left open: {', '.join(names)}", pytrace=False)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Start each test from the same random state, of those libraries that are loaded anyway."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
