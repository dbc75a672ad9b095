"""What profiling a state of the model found: plain data, SI units, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from engine.layers import LayerId


@dataclass(frozen=True, slots=True)
class Device:
    """Something that a model can run on.

    Attributes:
        name: as :attr:`engine.requests.RunSettings.device` takes it.
        title: what it is, for people.
        unavailable: why models cannot run on it here, and what to do; "" when they can.
    """

    name: str
    title: str
    unavailable: str = ""


@dataclass(frozen=True, slots=True)
class OperatorCall:
    """One call of an operator in one forward pass.

    Attributes:
        layer: innermost layer that was running.
        start: seconds since the pass began.
        seconds: until it returned; ``own`` is that without the operators that it called.
        depth: operators around it, 0 for the outermost.
        shapes: of its tensor inputs.
        bytes: memory that it and the operators it called allocated (negative: released), None
            when not recorded.
        device: ``cpu``, or an accelerator such as ``cuda:0`` for a kernel there, which runs
            beside the operators of the processor.
    """

    layer: LayerId
    name: str
    start: float
    seconds: float
    own: float
    depth: int
    shapes: tuple[tuple[int, ...], ...] = ()
    bytes: int | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class LayerSpan:
    """The time one call of a layer took within the same pass, for the flame graph."""

    layer: LayerId
    start: float
    seconds: float
    depth: int


@dataclass(frozen=True)
class OperatorProfile:
    """Operators over time, by torch.profiler.

    Attributes:
        seconds: the whole pass; what the operators' own times leave of it is Python and waiting.
        spans: layers around layers; the backward pass has those of its stretches.
        trace: the Chrome trace as JSON text.
    """

    seconds: float
    calls: tuple[OperatorCall, ...]
    spans: tuple[LayerSpan, ...]
    trace: str = field(repr=False, default="")
    conditions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CallNode:
    """A Python function as one caller calls it.

    Attributes:
        file, line: where it is defined; a function in C has neither ("" and 0).
        calls: over all runs, as are the times.
        own: seconds in the function itself; ``total`` with all it calls.
    """

    name: str
    file: str
    line: int
    calls: int
    own: float
    total: float
    children: tuple["CallNode", ...] = ()


@dataclass(frozen=True)
class CallProfile:
    """The Python side of running the model, by cProfile.

    Attributes:
        root: stands for the passes themselves and has no time of its own.
        stats: content of a ``.prof`` file, as :mod:`pstats` reads it.
    """

    root: CallNode
    runs: int
    stats: bytes = field(repr=False, default=b"")
    conditions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of source; ``seconds`` is None where nothing was timed (comments, other branches)."""

    number: int
    text: str
    hits: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class SourceFunction:
    """A timed function with its source."""

    name: str
    file: str
    lines: tuple[SourceLine, ...]
    seconds: float


@dataclass(frozen=True)
class LineProfile:
    """Time per line of a layer's forward, by line_profiler.

    Attributes:
        functions: the forward first, then those it calls, where they were asked for.
    """

    layer: LayerId
    functions: tuple[SourceFunction, ...]
    runs: int
    conditions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """What this machine reaches at best, measured once and kept.

    Attributes:
        name: of the processor or accelerator.
        bandwidth: bytes a second between memory and arithmetic.
        arithmetic: floating-point operations a second (a multiply-accumulate is two).
        conditions: threads, dtype, versions, when it was measured.
    """

    name: str
    bandwidth: float
    arithmetic: float
    conditions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ridge(self) -> float:
        """Arithmetic intensity above which arithmetic is the bound, in FLOP per byte."""
        return self.arithmetic / self.bandwidth


@dataclass(frozen=True, slots=True)
class RooflinePoint:
    """One layer on the roofline.

    Attributes:
        operations: floating-point operations of one pass.
        bytes: read and written by its operators, each tensor once per operator.
        seconds: measured, the layer's own.
    """

    layer: LayerId
    kind: str
    operations: float
    bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.operations / self.bytes

    @property
    def rate(self) -> float:
        """FLOP a second."""
        return self.operations / self.seconds

    def bound(self, machine: Machine) -> Literal["memory", "compute"]:
        """Which of the machine's limits its intensity meets first."""
        return "compute" if self.intensity >= machine.ridge else "memory"


@dataclass(frozen=True)
class Roofline:
    """The machine's roof and the layers under it; layers without arithmetic are left out."""

    machine: Machine
    points: tuple[RooflinePoint, ...]
    conditions: Mapping[str, str] = field(default_factory=dict)
