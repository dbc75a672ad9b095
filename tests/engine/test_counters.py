"""Counters of energy, replayed on machines that have none: what counts what, and why not."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.energy.counters import (
    CounterInfo,
    EnergyCounter,
    Gpu,
    Meter,
    Roots,
    find_counters,
    readable,
)
from engine.errors import CounterUnavailable

SPAN = 262_143_328_850
"""As Intel's machines have it, in microjoules."""


def zone(root: Path, folder: str, name: str, energy: object = 1_000_000, span: int = SPAN) -> Path:
    """A power zone as Linux shows it."""
    made = root / folder
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "energy_uj").write_text(f"{energy}\n")
    (made / "max_energy_range_uj").write_text(f"{span}\n")
    return made


def nothing(name: str) -> Any:
    raise ImportError(name)


def roots(tmp_path: Path, load: Callable[[str], Any] = nothing, system: str = "linux") -> Roots:
    return Roots(tmp_path / "powercap", tmp_path / "i2c", system, load)


def cpu(there: Roots) -> list[EnergyCounter]:
    return [one for one in find_counters((), there) if one.info.device == "cpu"]


def names(counters: list[EnergyCounter]) -> list[str]:
    return [one.info.name.removeprefix("rapl:") for one in counters]


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


# -- RAPL


def test_a_package_is_counted_without_what_it_contains(tmp_path: Path) -> None:
    there = roots(tmp_path)
    (there.powercap / "intel-rapl").mkdir(parents=True)  # the control type, no zone
    zone(there.powercap, "intel-rapl:0", "package-0")
    zone(there.powercap, "intel-rapl:0:0", "core")
    zone(there.powercap, "intel-rapl:0:1", "uncore")
    (only,) = readable(cpu(there), "cpu")
    assert only.info == CounterInfo(
        "rapl:intel-rapl:0",
        "package 0",
        "package 0: cores, caches, memory controller, graphics if it has any",
        "cpu",
    )
    assert only.read() * only.joules == 1.0


def test_memory_is_counted_beside_its_package(tmp_path: Path) -> None:
    there = roots(tmp_path)
    for at in (0, 1):
        zone(there.powercap, f"intel-rapl:{at}", f"package-{at}")
        zone(there.powercap, f"intel-rapl:{at}:0", "core")
        zone(there.powercap, f"intel-rapl:{at}:1", "dram")
    found = cpu(there)
    assert names(found) == ["intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl:1:1"]
    assert found[3].info.covers == "memory of package 1: the DRAM modules"


def test_packages_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    there = roots(tmp_path)
    for at in (10, 2, 0):
        zone(there.powercap, f"intel-rapl:{at}", f"package-{at}-die-1")
    assert [one.info.title for one in cpu(there)] == [
        f"package {at} die 1" for at in (0, 2, 10)
    ]  # fmt: skip


def test_the_platform_holds_the_package_and_is_not_counted_again(tmp_path: Path) -> None:
    there = roots(tmp_path)
    zone(there.powercap, "intel-rapl:1", "psys")
    assert names(cpu(there)) == ["intel-rapl:1"]
    zone(there.powercap, "intel-rapl:0", "package-0")
    assert names(cpu(there)) == ["intel-rapl:0"]


def test_the_same_package_by_two_ways_is_counted_once(tmp_path: Path) -> None:
    there = roots(tmp_path)
    zone(there.powercap, "intel-rapl-mmio:0", "package-0")
    assert names(cpu(there)) == ["intel-rapl-mmio:0"]
    zone(there.powercap, "intel-rapl:0", "package-0")
    assert names(cpu(there)) == ["intel-rapl:0"]


def test_folders_that_are_no_zones_are_passed_over(tmp_path: Path) -> None:
    there = roots(tmp_path)
    zone(there.powercap, "dtpm:0", "package-0")
    (there.powercap / "intel-rapl:7").mkdir()
    assert cpu(there)[0].problem is not None


def test_denied_names_the_command_that_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = roots(tmp_path)
    zone(there.powercap, "intel-rapl:0", "package-0")
    zone(there.powercap, "intel-rapl:0:0", "dram")
    read_text = Path.read_text

    def denied(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.name == "energy_uj":  # root, who may run tests, may read everything
            raise PermissionError(13, "Permission denied")
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", denied)
    package, memory = cpu(there)
    assert "CVE-2020-8694" in package.info.unavailable
    command = f"sudo chmod a+r {there.powercap}/*/energy_uj"
    assert package.info.unavailable.endswith(command)
    assert memory.info.unavailable.endswith(command)
    with pytest.raises(CounterUnavailable, match=r"Only root may read .* package 0") as caught:
        readable((package, memory), "cpu")
    assert caught.value.remedy.endswith(command)


def test_one_that_cannot_be_read_makes_the_device_unreadable(tmp_path: Path) -> None:
    there = roots(tmp_path)
    zone(there.powercap, "intel-rapl:0", "package-0")
    other = zone(there.powercap, "intel-rapl:1", "package-1")
    (other / "energy_uj").unlink()
    (other / "energy_uj").mkdir()
    with pytest.raises(CounterUnavailable, match=r"package 1 cannot be read: .") as caught:
        readable(cpu(there), "cpu")
    assert f"cat {other / 'energy_uj'}" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "-5", "nan", "1e9", "1 2", "twelve"])
def test_what_is_no_count_is_refused(tmp_path: Path, text: str) -> None:
    there = roots(tmp_path)
    zone(there.powercap, "intel-rapl:0", "package-0", text)
    with pytest.raises(CounterUnavailable, match=f"holds “{text}”, which is no count"):
        readable(cpu(there), "cpu")


@pytest.mark.parametrize(
    ("system", "says"),
    [
        ("linux", "virtual machines .* hide it.* sudo modprobe intel_rapl_msr"),
        ("win32", "On this system .* Measure under Linux or macOS"),
    ],
)
def test_a_machine_without_is_told_why(tmp_path: Path, system: str, says: str) -> None:
    found = find_counters((), roots(tmp_path, system=system))
    with pytest.raises(CounterUnavailable):
        readable(found, "cpu")
    assert re.search(says, found[0].info.unavailable)


def test_a_device_that_nobody_knows_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(CounterUnavailable, match="No counter of energy is known for mps"):
        readable(find_counters((), roots(tmp_path)), "mps")


# -- reading


def test_a_counter_that_goes_round_is_followed(tmp_path: Path, clock: Clock) -> None:
    there = roots(tmp_path)
    made = zone(there.powercap, "intel-rapl:0", "package-0", SPAN - 2_000_000)
    meter = Meter(readable(cpu(there), "cpu"), clock)
    clock.now = 1.0
    (made / "energy_uj").write_text("3000000")
    assert meter.read() == (pytest.approx(5.0), 1.0)
    clock.now = 2.0
    (made / "energy_uj").write_text("4000000")
    assert meter.read() == (pytest.approx(6.0), 2.0)


@given(
    start=st.integers(0, SPAN),
    steps=st.lists(st.integers(0, 900_000_000), min_size=1, max_size=20),
)
def test_going_round_changes_no_sum(start: int, steps: list[int]) -> None:
    counts = [start]
    for step in steps:
        counts.append((counts[-1] + step) % (SPAN + 1))
    read = iter(counts)
    info = CounterInfo("toy", "toy", "toy", "cpu")
    clock = Clock()
    # One microjoule is lost at each round, as the counter goes to zero after its largest count.
    meter = Meter([EnergyCounter(info, lambda: next(read), 1e-6, SPAN)], clock)
    for _ in steps:
        clock.now += 1.0
        meter.read()
    assert meter.joules == pytest.approx(sum(steps) * 1e-6, abs=2e-5)


def of(read: Callable[[], float], span: float = 0.0, title: str = "toy") -> EnergyCounter:
    return EnergyCounter(CounterInfo("toy", title, "toy", "cpu"), read, 1.0, span)


def moved(counts: list[float], clock: Clock, span: float = 0.0, step: float = 1.0) -> Meter:
    """A meter after it has read those counts, so many seconds apart."""
    left: Iterator[float] = iter(counts)
    meter = Meter([of(lambda: next(left), span)], clock)
    for _ in counts[1:]:
        clock.now += step
        meter.read()
    return meter


@pytest.mark.parametrize("span", [0.0, 65_536.0])
def test_a_counter_that_runs_backwards_is_refused(clock: Clock, span: float) -> None:
    with pytest.raises(CounterUnavailable, match="ran backwards, from 2000 to 1990"):
        moved([2000, 1990], clock, span)


def test_a_count_beyond_its_span_is_no_round(clock: Clock) -> None:
    with pytest.raises(CounterUnavailable, match="ran backwards"):
        moved([90_000, 10], clock, 65_536.0)


def test_so_long_that_it_may_have_gone_round_twice_is_refused(clock: Clock) -> None:
    assert moved([1, 6000], clock, 65_536.0, step=60.0).joules == 5999.0
    with pytest.raises(CounterUnavailable, match=r"Within 66 s, .* gone round more than once"):
        moved([1, 6000], clock, 65_536.0, step=66.0)


def test_a_stuck_counter_is_an_error_that_names_it(clock: Clock) -> None:
    count = [0.0]
    meter = Meter([of(lambda: count[0]), of(lambda: 7.0, title="memory")], clock)
    for _ in range(10):
        clock.now += 0.5
        count[0] += 1.0
        meter.read()
    with pytest.raises(CounterUnavailable, match=r"of memory did not move in 5 s .* stuck"):
        meter.check()


def test_a_counter_slower_than_the_window_is_an_error(clock: Clock) -> None:
    slow = moved([0, 0, 0, 0, 9, 9, 9, 9, 18, 18, 18], clock, step=0.5)
    with pytest.raises(CounterUnavailable, match=r"moved 2 times in 5 s, .* too slow"):
        slow.check()
    moved([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5], clock, step=0.5).check()
    moved([0, 9, 18], clock, step=3.0).check()  # runs of the model are longer than its steps


def test_a_window_starts_at_zero(clock: Clock) -> None:
    count = [5.0]
    meter = Meter([of(lambda: count[0]), of(lambda: 2 * count[0])], clock)
    count[0], clock.now = 6.0, 1.0
    assert meter.read() == (3.0, 1.0)
    meter.start()
    count[0], clock.now = 8.0, 3.0
    assert meter.read() == (6.0, 2.0)


# -- NVML, by the names and numbers of the real module

A100 = Gpu("cuda:0", "A100", "00000000:17:00.0")
V100 = Gpu("cuda:1", "V100", "00000000:03:00.0")


class Nvml:
    """NVML over some GPUs by their PCI addresses; each gives millijoules, or fails."""

    def __init__(self, energies: dict[str, int], fails: int = 0, mig: bool = False) -> None:
        self.energies = energies
        self.fails = fails
        self.mig = mig

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("NVML"):
            raise AttributeError(name)
        return getattr(pynvml, name)

    def nvmlInit(self) -> None:
        if self.fails:
            raise pynvml.NVMLError(self.fails)

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:
        if bus not in self.energies:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return bus

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if not self.mig:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        energy = self.energies[handle]
        if energy < 0:
            raise pynvml.NVMLError(-energy)
        return energy


def with_nvml(tmp_path: Path, nvml: Nvml) -> Roots:
    return roots(tmp_path, {"pynvml": nvml}.__getitem__)


def test_gpus_are_found_by_their_address_and_not_by_number(tmp_path: Path) -> None:
    # The driver counts by address, CUDA by speed or as CUDA_VISIBLE_DEVICES says.
    nvml = Nvml({V100.bus: 3_000, "00000000:0A:00.0": 99, A100.bus: 17_000})
    found = find_counters((A100, V100), with_nvml(tmp_path, nvml))
    (first,) = readable(found, "cuda:0")
    (second,) = readable(found, "cuda:1")
    assert first.read() * first.joules == 17.0
    assert second.read() * second.joules == 3.0
    assert first.info.covers == "A100, the whole GPU: its chip, memory and board"
    nvml.energies[A100.bus] = 18_500
    assert first.between(17_000, first.read(), 1.0) == 1.5


@pytest.mark.parametrize(
    ("code", "says", "command"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "driver is not installed", "nvidia-smi"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded", "sudo modprobe nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "was updated while it ran", "sudo reboot"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error", "nvidia-smi"),
    ],
)
@pytest.mark.parametrize("gpus", [(), (A100, V100)])
def test_a_driver_that_fails_is_told(
    tmp_path: Path, code: int, says: str, command: str, gpus: tuple[Gpu, ...]
) -> None:
    found = find_counters(gpus, with_nvml(tmp_path, Nvml({}, fails=code)))
    with pytest.raises(CounterUnavailable, match=says) as caught:
        readable(found, "cuda:1")
    assert command in caught.value.remedy
    devices = [one.info.device for one in found if one.info.device != "cpu"]
    assert devices == ([gpu.device for gpu in gpus] or ["cuda"])


@pytest.mark.parametrize(
    ("code", "says", "command"),
    [
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "A100 has no energy counter.* Volta", "newer GPU"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "may not read the energy counter of A100", "sudo chmod"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "A100 does not answer", "sudo reboot"),
    ],
)
def test_a_gpu_that_fails_leaves_the_others(
    tmp_path: Path, code: int, says: str, command: str
) -> None:
    nvml = Nvml({A100.bus: -code, V100.bus: 5})
    found = find_counters((A100, V100), with_nvml(tmp_path, nvml))
    with pytest.raises(CounterUnavailable, match=says) as caught:
        readable(found, "cuda:0")
    assert command in caught.value.remedy
    assert readable(found, "cuda:1")


def test_a_gpu_that_fails_later_is_told_in_the_same_words(tmp_path: Path) -> None:
    nvml = Nvml({A100.bus: 5})
    (only,) = readable(find_counters((A100,), with_nvml(tmp_path, nvml)), "cuda:0")
    nvml.energies[A100.bus] = -pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(CounterUnavailable, match="A100 does not answer"):
        only.read()


def test_a_gpu_that_the_driver_does_not_show(tmp_path: Path) -> None:
    found = find_counters((A100,), with_nvml(tmp_path, Nvml({V100.bus: 5})))
    with pytest.raises(CounterUnavailable, match="does not show A100"):
        readable(found, "cuda:0")


def test_a_divided_gpu_counts_for_all_of_its_instances(tmp_path: Path) -> None:
    found = find_counters((A100,), with_nvml(tmp_path, Nvml({A100.bus: 5}, mig=True)))
    with pytest.raises(CounterUnavailable, match="counts for all") as caught:
        readable(found, "cuda:0")
    assert "nvidia-smi -i 00000000:17:00.0 -mig 0" in caught.value.remedy


def test_without_the_package_or_torchs_cuda(tmp_path: Path) -> None:
    with pytest.raises(CounterUnavailable) as caught:
        readable(find_counters((), roots(tmp_path)), "cuda:0")
    assert caught.value.remedy == "Run: pip install nvidia-ml-py"
    with pytest.raises(CounterUnavailable, match="torch has no CUDA device"):
        readable(find_counters((), with_nvml(tmp_path, Nvml({A100.bus: 5}))), "cuda:0")


# -- zeus


class Soc:
    """A chip as zeus 0.12 has it; ``totals`` in millijoules."""

    def __init__(self, **totals: float | None) -> None:
        self.totals = totals

    def getTotalEnergyConsumption(self) -> Any:
        return SimpleNamespace(**self.totals)


class NewSoc(Soc):
    """The same in the names that came later."""

    def get_total_energy_consumption(self) -> Any:
        return SimpleNamespace(**self.totals)

    def getTotalEnergyConsumption(self) -> Any:
        raise AssertionError("it warns")


def zeus(soc: Any) -> Callable[[str], Any]:
    modules = {"zeus.device.soc": SimpleNamespace(get_soc=lambda: soc)}
    return modules.__getitem__


@pytest.mark.parametrize("kind", [Soc, NewSoc])
def test_apples_chip_is_read_by_zeus(tmp_path: Path, kind: type[Soc]) -> None:
    soc = kind(cpu_total_mj=1000, dram_mj=500, gpu_mj=4000, gpu_sram_mj=None, ane_mj=9)
    found = find_counters((), roots(tmp_path, zeus(soc), "darwin"))
    (processor,), (gpu,) = readable(found, "cpu"), readable(found, "mps")
    assert processor.read() * processor.joules == 1.5
    assert gpu.read() * gpu.joules == 4.5
    soc.totals["cpu_total_mj"] = 2000
    assert processor.read() * processor.joules == 2.5
    assert processor.info.covers == "CPU clusters and DRAM"


def test_apples_chip_without_zeus_says_what_to_install(tmp_path: Path) -> None:
    found = find_counters((), roots(tmp_path, system="darwin"))
    for device in ("cpu", "mps"):
        with pytest.raises(CounterUnavailable, match="zeus, which is not installed") as caught:
            readable(found, device)
        assert caught.value.remedy == 'Run: pip install "zeus[apple]>=0.12"'


def test_what_zeus_raises_is_told(tmp_path: Path) -> None:
    def none() -> None:
        raise RuntimeError("No observable SoC was found on the current machine.")

    load = {"zeus.device.soc": SimpleNamespace(get_soc=none)}.__getitem__
    with pytest.raises(CounterUnavailable, match="No observable SoC was found"):
        readable(find_counters((), roots(tmp_path, load, "darwin")), "cpu")


def test_an_amd_gpu_whose_library_is_missing_names_it(tmp_path: Path) -> None:
    def none() -> None:
        raise RuntimeError("NVML and AMDSMI unavailable")

    load = {"zeus.device.gpu": SimpleNamespace(get_gpus=none)}.__getitem__
    found = find_counters([Gpu("cuda:0", "MI300X", "", "AMD")], roots(tmp_path, load))
    with pytest.raises(CounterUnavailable, match="of MI300X: NVML and AMDSMI") as caught:
        readable(found, "cuda:0")
    assert "amd-smi-lib" in caught.value.remedy


def test_a_rail_that_the_chip_does_not_have(tmp_path: Path) -> None:
    found = find_counters((), roots(tmp_path, zeus(Soc(cpu_total_mj=5)), "darwin"))
    assert readable(found, "cpu")
    with pytest.raises(CounterUnavailable, match="no energy counter of Apple's GPU"):
        readable(found, "mps")


def test_a_jetson_is_read_by_zeus(tmp_path: Path) -> None:
    soc = Soc(cpu_energy_mj=None, gpu_energy_mj=3000.0, total_energy_mj=8000.0)
    there = roots(tmp_path, zeus(soc))
    (there.jetson / "ina3221").mkdir(parents=True)
    found = find_counters((Gpu("cuda:0", "Orin", ""),), there)
    (board,), (gpu,) = readable(found, "cpu"), readable(found, "cuda:0")
    assert (board.read(), board.info.covers) == (8000.0, "the whole board")
    assert (gpu.read(), gpu.info.covers) == (3000.0, "GPU's supply")


def test_amds_gpus_are_read_by_zeus(tmp_path: Path) -> None:
    gpus = SimpleNamespace(get_total_energy_consumption={0: 10, 1: 2500}.__getitem__)
    modules = {"zeus.device.gpu": SimpleNamespace(get_gpus=lambda: gpus)}
    mi300 = [Gpu(f"cuda:{at}", "MI300X", "", "AMD") for at in range(3)]
    found = find_counters(mi300, roots(tmp_path, modules.__getitem__))
    (second,) = readable(found, "cuda:1")
    assert second.read() * second.joules == 2.5
    with pytest.raises(CounterUnavailable, match="Zeus cannot read"):
        readable(found, "cuda:2")


def test_zeus_is_not_imported_where_nobody_needs_it(tmp_path: Path) -> None:
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        raise ImportError(name)

    find_counters((), roots(tmp_path, load))
    assert asked == ["pynvml"]
