"""An Iluvatar GPU through `ixsmi`.

Written from ixsmi's likeness to nvidia-smi, whose queries it takes, and never run on a device:
a field that it does not know is only missing from the samples.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from ..devices import query
from . import Disturbance
from .gpu import Tally

# A sample starts a process: seldom enough that its cost stays small.
_EVERY_SECONDS = 2.0
_NUMBERS = {
    "clocks.sm": "gpu_clock_mhz",
    "clocks.mem": "gpu_memory_clock_mhz",
    "power.draw": "gpu_power_w",
    "temperature.gpu": "gpu_temperature_c",
    "utilization.gpu": "gpu_use_percent",
}


class Iluvatar:
    """The device with this UUID."""

    name = "the GPU"

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._tally = Tally()
        self._asked_at = -_EVERY_SECONDS
        self._fields: list[str] = []

    def begin(self) -> None:
        """Find out which fields ixsmi knows: one that it does not know spoils a whole query."""
        self._fields = [name for name in _NUMBERS if query("ixsmi", ("uuid", name))]
        if not self._fields:
            raise RuntimeError("ixsmi tells no clock, power or temperature")

    def sample(self) -> Mapping[str, float]:
        """Clocks, power, temperature and use; nothing where the last sample is still young."""
        if time.monotonic() - self._asked_at < _EVERY_SECONDS:
            return {}
        found = {}
        for uuid, *values in query("ixsmi", ("uuid", *self._fields)):
            if uuid == self._uuid:
                for name, text in zip(self._fields, values, strict=True):
                    # "1500 MHz", "35 C", or that it is not supported.
                    if number := re.match(r"[0-9.]+", text):
                        found[_NUMBERS[name]] = float(number[0])
        rows = query("ixsmi", ("gpu_uuid", "pid", "process_name"), of="compute-apps")
        pids = {pid: name for uuid, pid, name in rows if uuid == self._uuid}
        pids.pop(str(os.getpid()), None)
        self._tally.others(f"{name} ({pid})" for pid, name in pids.items())
        self._asked_at = time.monotonic()
        return found

    def end(self) -> list[Disturbance]:
        """Other processes that hold the device."""
        return self._tally.disturbances()

    def unseen(self) -> list[str]:
        """Why clocks are held down: ixsmi is not known to tell."""
        return ["the GPU's throttle reasons (ixsmi is not known to tell them)"]
