"""What disturbs a run is named: over made-up /proc trees, NVML and ixsmi, and once for real."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.devices import devices_of
from harness.errors import UserError
from harness.watch import (
    END_TO_END,
    QPS,
    Disturbance,
    Watch,
    disturbed,
    nvidia,
    processor,
    watch_device,
)
from harness.watch.gpu import REASONS
from harness.watch.iluvatar import Iluvatar
from harness.watch.nvidia import Nvidia
from harness.watch.processor import Processor

TICKS = 100


class Machine:
    """A machine of `cores` as /proc and /sys tell it; time passes by `spend`."""

    def __init__(self, root: Path, cores: int = 2) -> None:
        self.root, self.cores = root, cores
        self.now = self.own = 0.0
        # Ticks a core, by proc(5): user, nice, system, idle, iowait, irq, softirq, steal.
        self.counters = [[0.0] * 8 for _ in range(cores)]
        self.processes: dict[int, tuple[str, float]] = {}
        self.run(2, "kthreadd", 0.0)
        self.write()

    def spend(
        self, seconds: float, own: float = 0.0, foreign: float = 0.0, steal: float = 0.0
    ) -> None:
        """Let time pass; `own`, `foreign` and `steal` are in cores, the rest is idle."""
        self.now += seconds
        self.own += own * seconds
        idle = self.cores - own - foreign - steal
        for counters in self.counters:
            for place, worth in ((0, own + foreign), (3, idle), (7, steal)):
                counters[place] += worth / self.cores * seconds * TICKS
        self.write()

    def run(self, pid: int, name: str, seconds: float) -> None:
        """Let process `pid` have used `seconds` in all."""
        self.processes[pid] = (name, seconds)
        folder = self.root / "proc" / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comm").write_text(f"{name}\n")
        used = round(seconds * TICKS)
        (folder / "stat").write_text(
            f"{pid} ({name}) R 1 1 1 0 -1 0 0 0 0 0 {used} 0 0 0 20 0 1 0 7 0\n"
        )

    def write(self) -> None:
        rows = [
            f"cpu{core} {' '.join(str(round(value)) for value in counters)} 0 0"
            for core, counters in enumerate(self.counters)
        ]
        (self.root / "proc" / "stat").write_text("\n".join(["cpu 1 2 3", *rows, "intr 5", ""]))

    def sys(self, name: str, text: str) -> None:
        path = self.root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def probe(self, affects: str = QPS) -> Processor:
        return Processor(
            affects,
            proc=self.root / "proc",
            sys=self.root / "sys",
            cores=frozenset(range(self.cores)),
            own=lambda: self.own,
            clock=lambda: self.now,
            tick=1 / TICKS,
            pid=1,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_quiet_machine_disturbs_nothing(machine: Machine) -> None:
    probe = machine.probe()
    probe.begin()
    assert "foreign_cores" not in probe.sample()
    machine.spend(5, own=1.95)
    found = probe.sample()
    assert found["foreign_cores"] == pytest.approx(0, abs=0.01)
    assert found["steal_cores"] == 0
    assert probe.end() == [] and probe.unseen() == []


def test_foreign_work_is_named_with_its_cores(machine: Machine) -> None:
    machine.run(40, "cc1plus (x) ", 100.0)
    machine.run(41, "sleeper", 3.0)
    probe = machine.probe()
    probe.begin()
    machine.spend(10, own=1.2, foreign=0.8)
    machine.run(40, "cc1plus (x) ", 105.0)
    machine.run(41, "sleeper", 3.1)
    # One that began after the run did has used all its time since.
    machine.run(42, "backup", 3.0)
    (found,) = probe.end()
    assert found.what == "other processes" and found.affects == QPS
    assert found.detail == "0.80 of 2 cores: cc1plus (x)  (40) 0.50, backup (42) 0.30"
    assert found.share == pytest.approx(0.4)


def test_one_that_ends_before_the_run_does_is_named(machine: Machine) -> None:
    probe = machine.probe()
    probe.begin()
    machine.run(50, "burst", 4.0)
    machine.spend(5, own=1, foreign=0.8)
    probe.sample()
    for file in ("comm", "stat"):
        (machine.root / "proc/50" / file).unlink()
    machine.spend(5, own=1)
    assert "burst (50) 0.40" in probe.end()[0].detail


@pytest.mark.parametrize(("cores", "foreign", "told"), [
    (2, 0.09, False), (2, 0.12, True), (64, 0.6, False), (64, 0.7, True),
])  # fmt: skip
def test_the_limit_is_a_tenth_of_a_core_or_a_hundredth_of_all(
    tmp_path: Path, cores: int, foreign: float, told: bool
) -> None:
    machine = Machine(tmp_path, cores)
    probe = machine.probe()
    probe.begin()
    machine.spend(100, own=1, foreign=foreign)
    assert bool(probe.end()) == told


def test_a_run_of_moments_is_not_judged_by_rounding(machine: Machine) -> None:
    probe = machine.probe()
    probe.begin()
    machine.spend(0.05, own=1.4, foreign=0.6)
    assert probe.end() == []


def test_steal_is_told_apart(machine: Machine) -> None:
    probe = machine.probe(END_TO_END)
    probe.begin()
    machine.spend(10, own=1.5, steal=0.5)
    assert probe.sample()["steal_cores"] == pytest.approx(0.5)
    (found,) = probe.end()
    assert (found.what, found.affects) == ("steal", END_TO_END)
    assert found.share == pytest.approx(0.25)


def test_our_own_process_is_no_disturbance(machine: Machine) -> None:
    machine.run(1, "ours", 0.0)
    probe = machine.probe()
    probe.begin()
    machine.spend(10, own=1.5, foreign=0.4)
    machine.run(1, "ours", 15.0)
    assert "ours" not in probe.end()[0].detail


def test_counters_that_do_not_count_are_told(machine: Machine) -> None:
    probe = machine.probe()
    probe.begin()
    machine.now += 10
    assert "foreign_cores" not in probe.sample()
    assert probe.end() == []
    assert probe.unseen() == ["other work on the processor (its counters do not tell)"]


def test_a_container_hides_names_but_no_work(machine: Machine) -> None:
    machine.run(2, "python", 0.0)
    probe = machine.probe()
    probe.begin()
    machine.spend(10, own=1, foreign=0.5)
    assert probe.end()[0].detail == "0.50 of 2 cores: some not visible from here"
    assert "outside this container" in probe.unseen()[0]


@pytest.mark.parametrize(("milliseconds", "share"), [(None, None), (2500, 0.25), (500, "none")])
def test_throttling_for_heat(machine: Machine, milliseconds: int | None, share: Any) -> None:
    def state(count: int, total: int) -> None:
        machine.sys("cpu1/thermal_throttle/core_throttle_count", f"{count}\n")
        if milliseconds is not None:
            machine.sys("cpu1/thermal_throttle/core_throttle_total_time_ms", f"{total}\n")

    state(7, 40)
    probe = machine.probe()
    probe.begin()
    machine.spend(10, own=2)
    state(9, 40 + (milliseconds or 0))
    found = probe.end()
    if share == "none":
        assert found == []
    else:
        detail = "a core was slowed down 2 times for heat"
        assert found == [Disturbance("throttling", detail, share, QPS)]


def test_clocks_are_the_mean_of_our_cores(machine: Machine) -> None:
    machine.sys("cpu0/cpufreq/scaling_cur_freq", "3000000\n")
    machine.sys("cpu1/cpufreq/scaling_cur_freq", "2000000\n")
    machine.sys("cpu2/cpufreq/scaling_cur_freq", "1000000\n")
    probe = machine.probe()
    probe.begin()
    assert probe.sample()["cpu_clock_mhz"] == 2500


class Nvml(SimpleNamespace):
    """pynvml for one idle device; tests overwrite what it says."""

    class NVMLError(Exception):
        pass

    class NVMLError_FunctionNotFound(NVMLError):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self) -> None:
        super().__init__(reasons=0, pids=[os.getpid()], opened=0, old=False, instances={})

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "GPU-1":
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetClockInfo(self, device: str, kind: int) -> int:
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetPowerUsage(self, device: str) -> int:
        return 650_500

    def nvmlDeviceGetTemperatureV(self, device: str, sensor: int) -> int:
        self.newer()
        return 61

    def nvmlDeviceGetTemperature(self, device: str, sensor: int) -> int:
        return 61

    def nvmlDeviceGetUtilizationRates(self, device: str) -> Any:
        raise self.NVMLError("Not Supported")

    def newer(self) -> None:
        if self.old:
            raise self.NVMLError_FunctionNotFound("Function Not Found")

    def nvmlDeviceGetCurrentClocksEventReasons(self, device: str) -> int:
        self.newer()
        return self.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: str) -> int:
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses_v3(self, device: str) -> list[Any]:
        self.newer()
        return self.nvmlDeviceGetComputeRunningProcesses_v2(device)

    def nvmlDeviceGetComputeRunningProcesses_v2(self, device: str) -> list[Any]:
        return [
            SimpleNamespace(
                pid=pid, usedGpuMemory=None, gpuInstanceId=self.instances.get(pid, 0xFFFFFFFF)
            )
            for pid in self.pids
        ]


def watched(nvml: Nvml, samples: int, change: Callable[[int], None] = lambda _: None) -> Nvidia:
    probe = Nvidia("GPU-1", nvml)
    probe.begin()
    for number in range(samples):
        change(number)
        probe.sample()
    return probe


@pytest.mark.parametrize("old", [False, True])
def test_nvml_tells_clocks_power_and_temperature(old: bool) -> None:
    nvml = Nvml()
    nvml.old = old
    probe = watched(nvml, 1)
    assert probe.sample() == {
        "gpu_clock_mhz": 1980,
        "gpu_memory_clock_mhz": 2619,
        "gpu_power_w": 650.5,
        "gpu_temperature_c": 61,
    }
    assert probe.end() == [] and nvml.opened == 0
    assert probe.unseen() == ["the GPU's gpu_use_percent (Not Supported)"]


@pytest.mark.parametrize(("bits", "told"), [
    (0, []), (0x1 | 0x2 | 0x4, []), (0x20 | 0x4, ["hot, by the driver, in 100% of the samples"]),
    (0x8, ["hardware slowdown, in 100% of the samples"]),
])  # fmt: skip
def test_throttling_other_than_idle_and_power_cap(bits: int, told: list[str]) -> None:
    nvml = Nvml()
    nvml.reasons = bits
    found = watched(nvml, 3).end()
    assert [entry.detail for entry in found] == told
    nvml.old = True
    assert watched(nvml, 3).end() == found, "older drivers tell the same"
    assert all((entry.what, entry.share) == ("GPU throttling", 1.0) for entry in found)


def test_a_single_hot_sample_among_many_is_nothing() -> None:
    nvml = Nvml()
    assert watched(nvml, 20, lambda n: nvml.__setattr__("reasons", 0x40 * (n == 3))).end() == []


def test_another_process_on_the_gpu_is_named() -> None:
    nvml = Nvml()
    nvml.pids = [os.getpid(), os.getppid()]
    (found,) = watched(nvml, 2).end()
    nvml.old = True
    assert watched(nvml, 2).end() == [found]
    assert (found.what, found.share, found.affects) == ("GPU shared", 1.0, QPS)
    assert f"({os.getppid()})" in found.detail


@pytest.mark.parametrize(("pids", "told"), [([], 0), ([7001], 0), ([7001, 7002], 1)])
def test_from_a_container_one_of_the_processes_is_us(pids: list[int], told: int) -> None:
    nvml = Nvml()
    nvml.pids = pids
    assert len(watched(nvml, 2).end()) == told


@pytest.mark.parametrize(("others", "told"), [
    ({7001: 2}, 0), ({7001: 1}, 1), ({7001: 1, 7002: 2}, 1),
])  # fmt: skip
def test_a_divided_gpu_is_shared_within_an_instance_alone(
    others: dict[int, int], told: int
) -> None:
    nvml = Nvml()
    nvml.instances = {os.getpid(): 1, **others}
    nvml.pids = [os.getpid(), os.getpid(), *others]
    found = watched(nvml, 2).end()
    assert len(found) == told
    assert all("7001" in entry.detail and "7002" not in entry.detail for entry in found)


@pytest.mark.parametrize(("instances", "told"), [
    ({7001: 1, 7002: 2}, 0), ({7001: 1, 7002: 1, 7003: 2}, 0),
    ({7001: 1, 7002: 1, 7003: 2, 7004: 2}, 1),
])  # fmt: skip
def test_from_a_container_our_instance_is_unknown(instances: dict[int, int], told: int) -> None:
    nvml = Nvml()
    nvml.instances, nvml.pids = instances, [*instances]
    assert len(watched(nvml, 2).end()) == told


def test_a_missing_device_or_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with Watch([Nvidia("GPU-2", Nvml())]) as watch:
        pass
    assert watch.samples["unseen"] == ["the GPU (Not Found)"]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with watch_device("nvidia", {"uuid": "GPU-1"}) as watch:
        pass
    assert "the GPU (package nvidia-ml-py is not installed)" in watch.samples["unseen"]


def test_the_package_has_what_is_asked_of_it() -> None:
    pynvml = pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    source = Path(nvidia.__file__).read_text(encoding="utf-8")
    names = set(re.findall(r"\bnvml[A-Z]\w+|\bNVML\w+(?=\))|\bNVMLError\w*", source))
    assert len(names) > 10
    assert [name for name in names if not hasattr(pynvml, name)] == []
    told = {value: name for name, value in vars(pynvml).items() if "ClocksEventReason" in name}
    assert all(bit in told for bit in REASONS)


def test_ixsmi_tells_what_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ixsmi"
    path.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "*clocks.mem*|*utilization*) exit 1;;\n"
        '--query-gpu=uuid,clocks.sm) echo "GPU-1, 1500 MHz";;\n'
        '--query-gpu=uuid,power.draw) echo "GPU-1, 120.5 W";;\n'
        '--query-gpu=uuid,temperature.gpu) echo "GPU-1, [N/A]";;\n'
        '--query-gpu=uuid,clocks.sm,*) echo "GPU-0, 1 MHz, 1 W, 1"; '
        'echo "GPU-1, 1500 MHz, 120.5 W, [N/A]";;\n'
        f'--query-compute-apps=*) echo "GPU-1, {os.getpid()}, us"; echo "GPU-1, 9, train"; '
        'echo "GPU-0, 8, other";;\n'
        "esac\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    probe = Iluvatar("GPU-1")
    probe.begin()
    assert probe.sample() == {"gpu_clock_mhz": 1500, "gpu_power_w": 120.5}
    # The tool is not started again at once.
    assert probe.sample() == {}
    assert [entry.detail for entry in probe.end()] == ["train (9)"]
    monkeypatch.setenv("PATH", "")
    with Watch([Iluvatar("GPU-1")]) as watch:
        pass
    assert watch.samples["unseen"] == ["the GPU (ixsmi tells no clock, power or temperature)"]


class Scripted:
    """A probe that says 1, 2, 3, …, and fails at the sample `fails_at`."""

    name = "scripted"

    def __init__(self, fails_at: int = 0) -> None:
        self.calls, self.fails_at = 0, fails_at

    def begin(self) -> None:
        pass

    def sample(self) -> Mapping[str, float]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise OSError("gone")
        return {"number": self.calls}

    def end(self) -> list[Disturbance]:
        return [Disturbance("x", "y", None, QPS)]

    def unseen(self) -> list[str]:
        return ["z"]


def test_a_watch_samples_at_its_begin_its_end_and_between() -> None:
    probe = Scripted()
    with Watch([probe], interval=0.005) as watch:
        deadline = time.monotonic() + 30
        while probe.calls < 5 and time.monotonic() < deadline:
            time.sleep(0.001)
    samples, calls = watch.samples, probe.calls
    assert samples["count"] == calls >= 6
    assert samples["values"]["number"] == {"min": 1, "median": (1 + calls) / 2, "max": calls}
    assert samples["cost_seconds"] >= 0 and samples["seconds"] > 0
    assert samples["unseen"] == ["z"]
    assert watch.as_json()["disturbances"] == [
        {"what": "x", "detail": "y", "share": None, "affects": "qps"}
    ]
    time.sleep(0.05)
    assert probe.calls == calls


def test_a_probe_that_fails_does_not_take_the_run_with_it() -> None:
    with Watch([Scripted(fails_at=2), Scripted()]) as watch:
        pass
    assert watch.samples["unseen"] == ["scripted (gone)", "z"]
    assert len(watch.disturbances) == 1


def test_an_error_in_the_run_ends_the_watch() -> None:
    with pytest.raises(ValueError, match="mine"), Watch([Scripted()]):
        raise ValueError("mine")


def test_what_disturbed_a_run_is_read_from_its_record() -> None:
    def entry(affects: str) -> dict[str, Any]:
        return {"what": affects, "detail": "a\nb", "share": 0.5, "affects": affects}

    assert disturbed({"disturbances": []}) == ""
    both = {"disturbances": [entry(QPS), entry(END_TO_END)]}
    assert disturbed(both) == "qps (a b)"
    assert disturbed(both, END_TO_END) == "qps (a b); qps_end_to_end (a b)"
    with pytest.raises(UserError, match=r"nothing is known .*; run `make infer REMEASURE=1`"):
        disturbed({})
    for damaged in (7, [7], [{}], None):
        with pytest.raises(UserError, match="disturbances are malformed"):
            disturbed({"disturbances": damaged})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_busy_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # However busy the machine is besides: all are named.
    monkeypatch.setattr(processor, "_NAMED_MOST", 10_000)
    busy = "import sys; print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            probe = Processor(QPS)
            with Watch([probe]) as watch:
                time.sleep(2)
        finally:
            child.kill()
    if any("counters do not tell" in line for line in watch.samples["unseen"]):
        pytest.skip("this machine's /proc/stat does not count")
    (found,) = [entry for entry in watch.disturbances if entry.what == "other processes"]
    assert f"({child.pid})" in found.detail
    assert 0 < found.share <= 1  # type: ignore[operator]
    assert watch.samples["values"]["foreign_cores"]["max"] > 0.1


@pytest.mark.gpu
def test_a_real_gpu_tells_sane_values() -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    devices = devices_of("nvidia")
    if not devices:
        pytest.skip("needs an NVIDIA GPU")
    # A context makes this process one that has work on the device.
    cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
    assert cuda.cuInit(0) == 0
    uuid = devices[0].facts["uuid"]
    handle = _cuda_device(cuda, uuid)
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle) == 0
    try:
        with watch_device("nvidia", {"uuid": uuid}) as watch:
            time.sleep(2)
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(handle)
    samples = watch.samples
    values = samples["values"]
    assert not any(line.startswith("the GPU (") for line in samples["unseen"]), samples["unseen"]
    for name, least, most in (
        ("gpu_clock_mhz", 1, 5_000),
        ("gpu_memory_clock_mhz", 1, 20_000),
        ("gpu_power_w", 10, 2_000),
        ("gpu_temperature_c", 10, 100),
    ):
        assert least <= values[name]["min"] <= values[name]["max"] <= most, name
    if "gpu_use_percent" in values:  # A divided GPU does not tell.
        assert 0 <= values["gpu_use_percent"]["min"] <= values["gpu_use_percent"]["max"] <= 100
    for found in watch.disturbances:
        assert f"({os.getpid()})" not in found.detail, "we are no disturbance"


def _cuda_device(cuda: ctypes.CDLL, uuid: str) -> ctypes.c_int:
    """CUDA's handle of the device that nvidia-smi calls `uuid`, whatever CUDA's order is."""
    count, device, found = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
    for index in range(count.value):
        assert cuda.cuDeviceGet(ctypes.byref(device), index) == 0
        assert cuda.cuDeviceGetUuid(ctypes.byref(found), device) == 0
        if uuid.removeprefix("GPU-").replace("-", "") == bytes(found).hex():
            return device
    raise AssertionError(f"CUDA does not show {uuid}")
