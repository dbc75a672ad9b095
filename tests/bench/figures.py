"""A figure of the benchmark: what was measured, its goal, and a peer in the same run."""

import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    Attributes:
        goal: in seconds, or with ``peer`` the largest ratio to the peer's seconds.
        peer: name of what does the same work, and its seconds; "" and None when there is none.
    """

    name: str
    seconds: float
    goal: float
    peer: str = ""
    peer_seconds: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's."""
        return None if self.peer_seconds is None else self.seconds / self.peer_seconds

    @property
    def reached(self) -> bool:
        """Whether the goal is reached."""
        return (self.seconds if self.ratio is None else self.ratio) <= self.goal


def alternately(
    first: Callable[[], object], second: Callable[[], object], runs: int
) -> list[float]:
    """Median seconds of both, run in turn so that the machine's moods hit both alike."""
    times: list[list[float]] = [[], []]
    first(), second()
    for _ in range(runs):
        for taken, function in zip(times, (first, second), strict=True):
            started = time.perf_counter()
            function()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in times]


def report(figures: Iterable[Figure], as_json: bool) -> None:
    """Print every figure beside its goal."""
    if as_json:
        rows = [asdict(one) | {"ratio": one.ratio, "reached": one.reached} for one in figures]
        print(json.dumps(rows, indent=1))
        return
    table = Table(title="Secateur, measured on this machine", title_justify="left")
    table.add_column("What")
    for name in ("Seconds", "Peer", "Ratio", "Goal"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in figures:
        peer = "" if one.peer_seconds is None else f"{one.peer} {one.peer_seconds:.4g} s"
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        goal = f"≤ {one.goal:g}" + ("×" if one.ratio is not None else " s")
        state = "reached" if one.reached else "missed"
        words = f"{state}; {one.note}" if one.note else state
        table.add_row(one.name, f"{one.seconds:.4g}", peer or one.peer, ratio, goal, words)
    Console(width=150).print(table)
