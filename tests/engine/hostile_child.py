"""The child of test_hostile_files: opens each file, and says what came of it and what it cost.

Reads pairs of a name and a path as JSON, writes one JSON object a line: error, message, seconds,
bytes of memory beyond an idle process that has imported torch, and files that were opened.
"""

import ctypes
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
# Read or made by torch as it is imported or asked for a structure, whatever the file.
_OURS = ("/proc/self/", "/proc/sys/", "/dev/null", "/sys/", "os.mkdir ('/tmp/torchinductor")


def memory(field: str) -> int:
    """Bytes that the system counts under that name: VmRSS now, VmHWM at most so far."""
    line = next(one for one in _STATUS.read_text().splitlines() if one.startswith(field))
    return int(line.split()[1]) * 1024


def processor_seconds() -> float:
    """Of this process and its children: others may share the machine."""
    return sum(os.times()[:4])


def reset_peak() -> None:
    """Let VmHWM begin at what is used now."""
    Path("/proc/self/clear_refs").write_text("5")


class Opened:
    """Which files this process opens."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Remember it, if the path is a name at all."""
        if event == "open" and isinstance(arguments[0], str | bytes):
            self.paths.append(os.fsdecode(arguments[0]))
        if event in ("os.mkdir", "os.system", "subprocess.Popen", "socket.connect"):
            self.paths.append(f"{event} {arguments!r:.200}")


def main() -> None:
    """Serve the list on standard input."""
    idle = memory("VmRSS")
    torch.set_num_threads(1)
    from engine.errors import EngineError
    from engine.job import Job
    from engine.requests import OpenRequest
    from engine.sources.opening import open_source

    opened = Opened()
    for name, path in json.load(sys.stdin):
        opened.paths.clear()
        # What an earlier file's reading left to the allocator is not this one's.
        gc.collect()
        gc.freeze()  # what is left stays, and need not be looked at again
        ctypes.CDLL(None).malloc_trim(0)
        reset_peak()
        start = processor_seconds()
        try:
            open_source(OpenRequest(path), Job())
            answer = {"error": "", "message": "it opened"}
        except EngineError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        except BaseException as error:
            answer = {"error": "not ours", "message": repr(error)}
        answer |= {
            "name": name,
            "seconds": processor_seconds() - start,
            "bytes": memory("VmHWM") - idle,
            "opened": [one for one in opened.paths if not one.startswith(_OURS)],
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
