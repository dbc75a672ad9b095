"""Counters of energy that machines have, and how joules are read off them.

Where counters are looked for is given from outside (:class:`Roots`), so that machines that have
none can replay those that do.
"""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from engine.errors import CounterUnavailable

MOST_WATTS = 1000.0
"""More than any one counter of a processor can mean: no socket draws so much for seconds."""

LEAST_CHANGES = 5
"""Times that a counter must move in a window; fewer, and when it moves decides the figure."""


@dataclass(frozen=True)
class CounterInfo:
    """A counter of energy, or the place where one would be.

    Attributes:
        name: where it is read, such as ``rapl:intel-rapl:0``.
        title: for people, such as ``package 0``.
        covers: whose energy it counts.
        device: that it counts for: ``cpu``, ``cuda:1``, ``mps``; ``cuda`` for all of them.
        unavailable: why it cannot be read and the command that mends it; "" when it can.
    """

    name: str
    title: str
    covers: str
    device: str
    unavailable: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch has it.

    Attributes:
        device: torch's name of it; torch's numbers are not those of the driver.
        bus: its PCI address such as ``00000000:17:00.0``, which both agree on.
    """

    device: str
    title: str
    bus: str
    maker: Literal["NVIDIA", "AMD"] = "NVIDIA"


@dataclass(frozen=True)
class Roots:
    """Where counters are looked for.

    Attributes:
        powercap: the kernel's folder of energy counters.
        jetson: the kernel's folder of I2C drivers; a Jetson has its power sensor's there.
        system: as ``sys.platform`` has it.
        load: imports ``pynvml`` or a module of zeus.
    """

    powercap: Path = Path("/sys/class/powercap")
    jetson: Path = Path("/sys/bus/i2c/drivers")
    system: str = sys.platform
    load: Callable[[str], Any] = import_module


@dataclass(frozen=True)
class EnergyCounter:
    """A count that grows with energy.

    Attributes:
        read: the count now; raises CounterUnavailable.
        joules: that one count stands for.
        span: the count starts again from zero after this one; 0: never.
        problem: why it cannot be read; None when it can.
    """

    info: CounterInfo
    read: Callable[[], float]
    joules: float
    span: float = 0.0
    problem: CounterUnavailable | None = None

    def between(self, before: float, after: float, seconds: float) -> float:
        """Joules from one count to a later one.

        Raises:
            CounterUnavailable: the counts do not tell.
        """
        if self.span and seconds * MOST_WATTS >= self.span * self.joules:
            raise CounterUnavailable(
                f"Within {seconds:.0f} s, as long as one pass takes, the counter of "
                f"{self.info.title} may have gone round more than once.",
                "Use a smaller batch.",
            )
        if after >= before:
            return (after - before) * self.joules
        counts = after - before + self.span
        if not 0 <= counts * self.joules <= MOST_WATTS * seconds:
            raise CounterUnavailable(
                f"The counter of {self.info.title} ran backwards, from {before:.0f} to "
                f"{after:.0f}.",
                "Measure again: a driver that is loaded anew, or a machine that slept, sets "
                "counters back.",
            )
        return counts * self.joules


class Meter:
    """Adds up what counters count from :meth:`start` on.

    Args:
        counters: that do not overlap, all of them readable.
        now: seconds on a clock that never goes back.
    """

    def __init__(self, counters: Sequence[EnergyCounter], now: Callable[[], float]) -> None:
        self._counters = counters
        self._now = now
        self.start()

    def start(self) -> None:
        """Count from here."""
        self.joules = self.seconds = 0.0
        self._reads = 0
        self._changes = [0] * len(self._counters)
        self._at = self._now()
        self._counts = [counter.read() for counter in self._counters]

    def read(self) -> tuple[float, float]:
        """Joules and seconds since the start; often enough that no counter goes round unseen.

        Raises:
            CounterUnavailable: a counter cannot be read any more, or ran backwards.
        """
        now = self._now()
        for at, counter in enumerate(self._counters):
            before, after = self._counts[at], counter.read()
            self.joules += counter.between(before, after, now - self._at)
            self._changes[at] += after != before
            self._counts[at] = after
        self._reads += 1
        self.seconds += now - self._at
        self._at = now
        return self.joules, self.seconds

    def check(self) -> None:
        """Refuse what was counted when a counter moved too seldom for it.

        Raises:
            CounterUnavailable: it is stuck, or slow.
        """
        for counter, changes in zip(self._counters, self._changes, strict=True):
            if not changes:
                raise CounterUnavailable(
                    f"The counter of {counter.info.title} did not move in {self.seconds:.3g} s "
                    "in which the model ran: it is stuck.",
                    "Virtual machines often show counters that stand still; measure on the "
                    "machine itself.",
                )
            if changes < min(LEAST_CHANGES, self._reads):
                raise CounterUnavailable(
                    f"The counter of {counter.info.title} moved {changes} times in "
                    f"{self.seconds:.3g} s, which is too slow for windows of that length.",
                    "Measure on a machine whose counter is faster.",
                )


def find_counters(
    gpus: Iterable[Gpu] = (), roots: Roots | None = None
) -> tuple[EnergyCounter, ...]:
    """Every counter that a device of this machine has, none of them counting what another does.

    A device without one has one that says why. Zeus, which takes seconds to import, is asked
    only on machines whose counters nothing else reads: Apple's, Jetsons, AMD's GPUs.
    """
    roots = roots or Roots()
    gpus = tuple(gpus)
    if roots.system == "darwin":
        return (_of_soc("cpu", roots), _of_soc("mps", roots))
    jetson = any((roots.jetson / name).is_dir() for name in ("ina3221", "ina3221x"))
    if jetson:
        return (_of_soc("cpu", roots), *(_of_soc(gpu.device, roots) for gpu in gpus))
    amd = [gpu for gpu in gpus if gpu.maker == "AMD"]
    nvidia = [gpu for gpu in gpus if gpu.maker == "NVIDIA"]
    return (
        *_rapl(roots),
        *(_of_amd(gpu, roots) for gpu in amd),
        *(() if amd and not nvidia else _nvml(nvidia, roots)),
    )


def readable(counters: Iterable[EnergyCounter], device: str) -> tuple[EnergyCounter, ...]:
    """The counters that together tell the energy of that device.

    Raises:
        CounterUnavailable: there is none, or one of them cannot be read.
    """
    kind = device.partition(":")[0]
    found = tuple(one for one in counters if one.info.device in (device, kind))
    if not found:
        raise CounterUnavailable(
            f"No counter of energy is known for {device}.", "Measure on another device."
        )
    for one in found:
        if one.problem is not None:
            raise one.problem
    return found


def _without(
    name: str, title: str, covers: str, device: str, problem: CounterUnavailable
) -> EnergyCounter:
    """What stands where a counter would be."""

    def read() -> float:
        raise problem

    info = CounterInfo(name, title, covers, device, f"{problem} {problem.remedy}")
    return EnergyCounter(info, read, 1.0, problem=problem)


# -- Intel's and AMD's processors: RAPL, as Linux's powercap shows it
#
# https://docs.kernel.org/power/powercap/powercap.html. A package holds its subzones “core” and
# “uncore”; “dram” is counted beside the package, and “psys”, where there is one, holds
# the packages and more (Intel's manual, volume 3, RAPL interfaces). AMD's zones have Intel's names.

_ZONE = re.compile(r"(?P<control>intel-rapl(-mmio)?):(?P<top>\d+)(:\d+)?")
_CPU = "the processor"


@dataclass(frozen=True)
class _Zone:
    folder: Path
    name: str
    control: str
    top: str

    @property
    def nested(self) -> bool:
        return self.folder.name.count(":") > 1


def _rapl(roots: Roots) -> tuple[EnergyCounter, ...]:
    try:
        zones = [zone for folder in sorted(roots.powercap.iterdir()) if (zone := _zone(folder))]
    except OSError:
        zones = []
    # The same package again by another way, where there are both.
    controls = {zone.control for zone in zones}
    if "intel-rapl" in controls:
        zones = [zone for zone in zones if zone.control == "intel-rapl"]
    chosen = _disjoint(zones)
    return tuple(_of_zone(zone, chosen, roots) for zone in chosen) or (_no_rapl(roots),)


def _zone(folder: Path) -> _Zone | None:
    found = _ZONE.fullmatch(folder.name)
    try:
        name = (folder / "name").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return _Zone(folder, name, found["control"], found["top"]) if found else None


def _disjoint(zones: list[_Zone]) -> list[_Zone]:
    """Those zones that count everything once."""
    packages = [zone for zone in zones if not zone.nested and zone.name.startswith("package")]
    if not packages:
        return [zone for zone in zones if not zone.nested and zone.name == "psys"]
    tops = {zone.top for zone in packages}
    memory = [zone for zone in zones if zone.nested and zone.name == "dram" and zone.top in tops]
    return sorted(packages + memory, key=lambda zone: (int(zone.top), zone.nested))


def _of_zone(zone: _Zone, zones: list[_Zone], roots: Roots) -> EnergyCounter:
    title, covers = _words(zone, zones)
    name = f"rapl:{zone.folder.name}"
    try:
        span = float((zone.folder / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        span = 0.0

    def read() -> float:
        return _microjoules(zone.folder / "energy_uj", title, roots.powercap)

    try:
        read()
    except CounterUnavailable as problem:
        return _without(name, title, covers, "cpu", problem)
    return EnergyCounter(CounterInfo(name, title, covers, "cpu"), read, 1e-6, span)


def _words(zone: _Zone, zones: list[_Zone]) -> tuple[str, str]:
    """Title, and what the zone covers."""
    if zone.name == "psys":
        return "platform", "platform: the package and what else the board's maker wired to it"
    package = next(one.name for one in zones if one.top == zone.top and not one.nested)
    title = package.replace("-", " ")
    if zone.nested:
        return f"memory of {title}", f"memory of {title}: the DRAM modules"
    return title, f"{title}: cores, caches, memory controller, graphics if it has any"


def _microjoules(file: Path, title: str, powercap: Path) -> float:
    try:
        text = file.read_text(encoding="utf-8", errors="replace").strip()
    except PermissionError:
        raise CounterUnavailable(
            f"Only root may read the energy counter of {title}: since Linux 5.10 others may not, "
            "as it can betray secrets of other programs (CVE-2020-8694).",
            f"To allow it until the next start, run: sudo chmod a+r {powercap}/*/energy_uj",
        ) from None
    except OSError as error:
        raise CounterUnavailable(
            f"The energy counter of {title} cannot be read: {error.strerror or error}.",
            f"See what the system says to: cat {file}",
        ) from error
    if not text.isdecimal():
        raise CounterUnavailable(
            f"The energy counter of {title} holds “{text[:40]}”, which is no count.",
            f"See what the system says to: cat {file}",
        )
    return float(text)


def _no_rapl(roots: Roots) -> EnergyCounter:
    if roots.system == "linux":
        problem = CounterUnavailable(
            f"The system shows no energy counter of the processor in {roots.powercap}; virtual "
            "machines and containers hide it, and not every processor has one.",
            "On the machine itself, load the driver: sudo modprobe intel_rapl_msr",
        )
    else:
        problem = CounterUnavailable(
            "On this system Secateur can read no energy counter of the processor.",
            "Measure under Linux or macOS.",
        )
    return _without("rapl", _CPU, _CPU, "cpu", problem)


# -- NVIDIA's GPUs: NVML's count of millijoules since the driver was loaded
#
# https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html, Volta and newer.

_GPU = "GPU: its chip, memory and board"


def _nvml(gpus: list[Gpu], roots: Roots) -> tuple[EnergyCounter, ...]:
    try:
        nvml = roots.load("pynvml")
    except ImportError:
        problem = CounterUnavailable(
            "The package that reads NVIDIA's counters is not installed.",
            "Run: pip install nvidia-ml-py",
        )
        return _none_of(gpus, problem)
    try:
        # Not shut down again: the counters are read as long as the process lives.
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return _none_of(gpus, _nvml_problem(nvml, error, "NVIDIA's driver"))
    if not gpus:
        return _none_of(
            gpus,
            CounterUnavailable(
                "NVIDIA's driver is there, but torch has no CUDA device.",
                "Install a torch built with CUDA: https://pytorch.org/get-started",
            ),
        )
    return tuple(_of_gpu(gpu, nvml) for gpu in gpus)


def _none_of(gpus: list[Gpu], problem: CounterUnavailable) -> tuple[EnergyCounter, ...]:
    devices = [(gpu.device, gpu.title) for gpu in gpus] or [("cuda", "NVIDIA's GPUs")]
    return tuple(_without("nvml", title, _GPU, device, problem) for device, title in devices)


def _of_gpu(gpu: Gpu, nvml: Any) -> EnergyCounter:
    def read() -> float:
        try:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except nvml.NVMLError as error:
            raise _nvml_problem(nvml, error, gpu.title) from error

    name, covers = f"nvml:{gpu.bus}", f"{gpu.title}, the whole {_GPU}"
    try:
        handle = nvml.nvmlDeviceGetHandleByPciBusId(gpu.bus)
        if _is_divided(nvml, handle):
            raise CounterUnavailable(
                f"{gpu.title} is divided into instances (MIG), and its counter counts for all.",
                "Measure on a GPU that is not divided; its owner can undo it by: "
                f"sudo nvidia-smi -i {gpu.bus} -mig 0",
            )
        read()
    except nvml.NVMLError as error:
        problem = _nvml_problem(nvml, error, gpu.title)
        return _without(name, gpu.title, covers, gpu.device, problem)
    except CounterUnavailable as problem:
        return _without(name, gpu.title, covers, gpu.device, problem)
    return EnergyCounter(CounterInfo(name, gpu.title, covers, gpu.device), read, 1e-3)


def _is_divided(nvml: Any, handle: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # GPUs that cannot be divided say that they know no such mode
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _nvml_problem(nvml: Any, error: Any, what: str) -> CounterUnavailable:
    """What NVML said, in words."""
    said: dict[int, tuple[str, str]] = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
            "NVIDIA's driver is not installed, and its library NVML with it.",
            "Install the driver; it works when this lists your GPU: nvidia-smi",
        ),
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: (
            "NVIDIA's driver is installed but not loaded.",
            "Run: sudo modprobe nvidia",
        ),
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "NVIDIA's driver was updated while it ran, and its parts do not fit together.",
            "Restart the machine: sudo reboot",
        ),
        nvml.NVML_ERROR_NOT_SUPPORTED: (
            f"{what} has no energy counter; NVIDIA's GPUs have one since Volta.",
            "Measure on a newer GPU.",
        ),
        nvml.NVML_ERROR_NO_PERMISSION: (
            f"You may not read the energy counter of {what}.",
            "Run: sudo chmod a+rw /dev/nvidiactl /dev/nvidia[0-9]* (in a container, start it "
            "with: --gpus all)",
        ),
        nvml.NVML_ERROR_NOT_FOUND: (
            f"NVIDIA's driver does not show {what} here.",
            "In a container, start it with: --gpus all",
        ),
        nvml.NVML_ERROR_GPU_IS_LOST: (
            f"{what} does not answer any more.",
            "Restart the machine: sudo reboot",
        ),
    }  # fmt: skip
    reason, remedy = said.get(
        error.value,
        (f"NVIDIA's driver does not give the energy of {what}: {error}.", "See: nvidia-smi"),
    )
    return CounterUnavailable(reason, remedy)


# -- what zeus reads: Apple's chips, Jetsons, AMD's GPUs
#
# zeus.device.soc and zeus.device.gpu, 0.12 to 0.16: totals in millijoules that only grow. Methods
# are named getTotalEnergyConsumption in 0.12.


@dataclass(frozen=True)
class _Rails:
    """Fields of zeus's totals that add up to a device; those that are None count nothing."""

    fields: tuple[str, ...]
    covers: str
    kinds: tuple[str, ...] = field(default=("cpu",))


_RAILS = (
    _Rails(("cpu_total_mj", "dram_mj"), "CPU clusters and DRAM"),
    _Rails(("gpu_mj", "gpu_sram_mj", "dram_mj"), "GPU, its SRAM, and DRAM", ("mps",)),
    _Rails(("cpu_energy_mj",), "CPU cores' supply"),
    _Rails(("gpu_energy_mj",), "GPU's supply", ("cuda",)),
    _Rails(("total_energy_mj",), "the whole board", ("cpu", "cuda")),
)
_SOC = {"cpu": _CPU, "mps": "Apple's GPU"}


def _of_soc(device: str, roots: Roots) -> EnergyCounter:
    """The counter of a device that shares its chip with all others."""
    kind = device.partition(":")[0]
    title = _SOC.get(kind, "Jetson's GPU")
    try:
        soc = _asked("zeus.device.soc", "get_soc", title, roots)
        rails = _rails(_total(soc), kind, title)
    except CounterUnavailable as problem:
        return _without("zeus", title, title, device, problem)

    def read() -> float:
        total = _total(soc)
        return float(sum(getattr(total, name, None) or 0 for name in rails.fields))

    return EnergyCounter(CounterInfo("zeus:soc", title, rails.covers, device), read, 1e-3)


def _rails(total: Any, kind: str, title: str) -> _Rails:
    for rails in _RAILS:
        if kind in rails.kinds and getattr(total, rails.fields[0], None) is not None:
            return rails
    raise CounterUnavailable(
        f"This chip has no energy counter of {title} that zeus knows.", "Measure elsewhere."
    )


def _of_amd(gpu: Gpu, roots: Roots) -> EnergyCounter:
    try:
        gpus = _asked("zeus.device.gpu", "get_gpus", gpu.title, roots)
        # Zeus numbers them as HIP does, and so does torch.
        number = int(gpu.device.rpartition(":")[2])
        _total(gpus, number)
    except CounterUnavailable as problem:
        return _without("zeus", gpu.title, _GPU, gpu.device, problem)
    info = CounterInfo(
        f"zeus:{gpu.device}", gpu.title, f"{gpu.title}, the whole {_GPU}", gpu.device
    )
    return EnergyCounter(info, lambda: float(_total(gpus, number)), 1e-3)


def _asked(module: str, function: str, title: str, roots: Roots) -> Any:
    """What that function of zeus gives."""
    extra = "zeus[apple]" if roots.system == "darwin" else "zeus"
    install = f'Run: pip install "{extra}>=0.12"'
    try:
        ask = getattr(roots.load(module), function)
    except ImportError:
        raise CounterUnavailable(
            f"The energy counter of {title} is read by zeus, which is not installed.", install
        ) from None
    try:
        return ask()
    except Exception as error:  # zeus's own and those of what it is built on
        # On a Mac zeus needs one more package, which its extra names; elsewhere it has all.
        mend = "Install ROCm's amd-smi-lib; it works when this lists your GPU: amd-smi list"
        raise CounterUnavailable(
            f"Zeus finds no energy counter of {title}: {str(error).rstrip('.')}.",
            mend if module.endswith("gpu") else install,
        ) from error


def _total(zeus: Any, *arguments: int) -> Any:
    ask = getattr(zeus, "get_total_energy_consumption", None) or zeus.getTotalEnergyConsumption
    try:
        return ask(*arguments)
    except Exception as error:
        raise CounterUnavailable(
            f"Zeus cannot read the energy counter: {str(error).rstrip('.')}.",
            "Measure again, or on another device.",
        ) from error
