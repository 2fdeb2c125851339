"""An NVIDIA GPU through NVML (package nvidia-ml-py, optional)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import Disturbance
from .gpu import Tally

# Calls by their names, the newest first: older drivers know the older ones alone, newer ones may
# drop them. The plain name of the last would raise another error than NVML's where it is missing.
_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
_PROCESSES = (
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetComputeRunningProcesses_v2",
)


class Nvidia:
    """The GPU with this UUID, as nvidia-smi tells it; `nvml` is the module pynvml."""

    name = "the GPU"

    def __init__(self, uuid: str, nvml: Any = None, proc: Path = Path("/proc")) -> None:
        self._uuid, self._nvml, self._proc = uuid, nvml, proc
        self._tally = Tally()
        self._missing: dict[str, str] = {}

    def begin(self) -> None:
        """Open NVML and find the device."""
        if self._nvml is None:
            try:
                import pynvml
            except ImportError:
                raise RuntimeError("package nvidia-ml-py is not installed") from None
            self._nvml = pynvml
        self._nvml.nvmlInit()
        self._device = self._nvml.nvmlDeviceGetHandleByUUID(self._uuid)

    def sample(self) -> Mapping[str, float]:
        """Clocks, power, temperature and use, as far as the device tells them."""
        nvml, device = self._nvml, self._device
        numbers: dict[str, Callable[[], float]] = {
            "gpu_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
            "gpu_memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(
                device, nvml.NVML_CLOCK_MEM
            ),
            "gpu_power_w": lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1e3,
            "gpu_temperature_c": lambda: self._newest(_TEMPERATURE, nvml.NVML_TEMPERATURE_GPU),
            "gpu_use_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu,
        }
        asked = {name: self._ask(name, number) for name, number in numbers.items()}
        reasons = self._ask("throttle reasons", lambda: self._newest(_REASONS))
        if reasons is not None:
            self._tally.reasons(reasons)
        processes = self._ask("processes", lambda: self._newest(_PROCESSES))
        if processes is not None:
            self._tally.others(self._others(processes))
        return {name: float(value) for name, value in asked.items() if value is not None}

    def end(self) -> list[Disturbance]:
        """Throttling, and other processes that hold the device."""
        self._nvml.nvmlShutdown()
        return self._tally.disturbances()

    def unseen(self) -> list[str]:
        """What the driver does not tell."""
        return [f"the GPU's {name} ({reason})" for name, reason in self._missing.items()]

    def _ask(self, name: str, call: Callable[[], Any]) -> Any:
        """What `call` returns; None where the device does not know it, which is noted once."""
        if name in self._missing:
            return None
        try:
            return call()
        except self._nvml.NVMLError as error:
            self._missing[name] = str(error)
            return None

    def _newest(self, names: Sequence[str], *arguments: Any) -> Any:
        """What the device says to the first of these calls that the driver has."""
        for name in names[:-1]:
            try:
                return getattr(self._nvml, name)(self._device, *arguments)
            except self._nvml.NVMLError_FunctionNotFound:
                continue
        return getattr(self._nvml, names[-1])(self._device, *arguments)

    def _others(self, processes: Iterable[Any]) -> list[str]:
        """Names of processes with work on the device, ourselves left out.

        A GPU that is divided (MIG) names those of all its instances, each of which has cores and
        memory of its own: they disturb within one alone.
        """
        # As a set: a process with two compute instances is there twice.
        found = {(process.pid, process.gpuInstanceId) for process in processes}
        ours = {instance for pid, instance in found if pid == os.getpid()}
        if ours:
            pids = {pid for pid, instance in found if instance in ours} - {os.getpid()}
            return [self._named(pid) for pid in sorted(pids)]
        # The driver counts processes where this container does not see: one of them is us, who
        # have work on the device as long as samples are taken, in an instance that nobody tells.
        sharing = Counter(instance for _, instance in found).values()
        return ["a process outside this container"] if min(sharing, default=0) > 1 else []

    def _named(self, pid: int) -> str:
        try:
            name = (self._proc / str(pid) / "comm").read_text(errors="replace").strip()
        except OSError:
            name = "a process not visible from here"
        return f"{name} ({pid})"
