"""PySide6 must not lose references: 6.12.0 on Python 3.11 does, and aborts after some hundred.

That release drops one reference to None or True with every event given to an overridden method and
with every emitted signal. The counting runs in a process of its own, which may abort. From Python
3.12 on None, True and False are immortal, so that their count says nothing; an object of our own
is counted on every version.
"""

import json
import subprocess
import sys

import pytest

TIMES = 3000
# What else happens meanwhile may take or leave a few references, never one each time.
SLACK = 100

COUNT = """
import json, os, sys
from PySide6.QtCore import QCoreApplication, QEvent, QObject, Signal

class Sender(QObject):
    sent = Signal(object)

class Listener(QObject):
    answer = True

    def event(self, event):
        return self.answer

    def eventFilter(self, watched, event):
        return False

times = int(sys.argv[1])
values = {"None": None, "True": True, "False": False, "object": object()}
spare = [list(values.values()) for _ in range(10 * times)]  # or a count falls to zero
application = QCoreApplication([])
sender, listener, watched = Sender(), Listener(), QObject()
sender.sent.connect(lambda received: None)
watched.installEventFilter(listener)
event = QEvent(QEvent.Type.User)

def emit():
    for value in values.values():
        sender.sent.emit(value)

def deliver():
    for listener.answer in (True, False):
        QCoreApplication.sendEvent(listener, event)
    QCoreApplication.sendEvent(watched, event)

def lost(act):
    before = [sys.getrefcount(value) for value in values.values()]
    for _ in range(times):
        act()
    after = [sys.getrefcount(value) for value in values.values()]
    return dict(zip(values, (a - b for a, b in zip(before, after))))

print(json.dumps({"emit": lost(emit), "deliver": lost(deliver)}), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def lost() -> dict[str, dict[str, int]]:
    """What is done some thousand times -> value -> references lost by it."""
    run = subprocess.run(
        [sys.executable, "-c", COUNT, str(TIMES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("act", ["emit", "deliver"])
@pytest.mark.parametrize("value", ["None", "True", "False", "object"])
def test_no_reference_is_lost(act: str, value: str, lost: dict[str, dict[str, int]]) -> None:
    if value != "object" and sys.version_info >= (3, 12):
        pytest.skip("None, True and False are immortal since Python 3.12: their count never moves")
    assert abs(lost[act][value]) < SLACK
