"""Accelerators that the vendors' management tools report."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Accelerator:
    """One device as its vendor's tool lists it; `facts` are what else that says, as text."""

    vendor: str
    name: str
    driver: str
    facts: Mapping[str, str] = field(default_factory=dict)


# Both tools share the query syntax; ixsmi is Iluvatar's counterpart of nvidia-smi.
_TOOLS = {"iluvatar": "ixsmi", "nvidia": "nvidia-smi"}
_FACTS = {
    "iluvatar": ("index", "uuid", "memory.total"),
    "nvidia": (
        "index",
        "uuid",
        "memory.total",
        "compute_cap",
        "power.limit",
        "clocks.max.sm",
        "clocks.max.memory",
    ),
}


def find_accelerators() -> list[Accelerator]:
    """All devices of all vendors, in index order; none where no tool is installed or answers."""
    return [device for vendor in _TOOLS for device in devices_of(vendor)]


def devices_of(vendor: str) -> list[Accelerator]:
    """The devices of "iluvatar" or "nvidia" that this process may use, as DEVICE counts them.

    That is the order of the PCI bus, less what CUDA_VISIBLE_DEVICES hides.
    """
    facts = _FACTS[vendor]
    found = []
    # A tool that does not know one fact tells none: then the two that matter are asked for.
    for wanted in (("name", "driver_version", *facts), ("name", "driver_version")):
        for row in query(_TOOLS[vendor], wanted):
            name, driver, *others = row
            if name:
                known = dict(zip(facts, others, strict=False))
                found.append(Accelerator(vendor, name, driver, known))
        if found:
            break
    return visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible(devices: list[Accelerator], chosen: str | None) -> list[Accelerator]:
    """Those of `devices` that CUDA_VISIBLE_DEVICES = `chosen` leaves, in its order.

    It names indices or beginnings of UUIDs, and ends at the first that there is not, as CUDA's
    documentation has it. Unset it leaves all.
    """
    if chosen is None:
        return devices
    left: list[Accelerator] = []
    for entry in (part.strip() for part in chosen.split(",")):
        if entry.isdecimal():
            matching = devices[int(entry) : int(entry) + 1]
        else:
            matching = [d for d in devices if entry and d.facts.get("uuid", "").startswith(entry)]
        if len(matching) != 1:
            break
        left += matching
    return left


def driver_cuda() -> str | None:
    """The newest CUDA that the driver serves, such as "13.0"; None without one."""
    number = ctypes.c_int()
    try:
        found = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    # 1000 × major + 10 × minor, as CUDA's headers have it.
    return f"{number.value // 1000}.{number.value % 1000 // 10}" if found == 0 else None


def folder_name(device: str) -> str:
    """Where numbers of a device are published: `h100` for any H100, else its name in small
    letters and hyphens."""
    if "H100" in device:
        return "h100"
    return re.sub("[^a-z0-9]+", "-", device.lower()).strip("-")


def query(tool: str, wanted: tuple[str, ...], of: str = "gpu") -> list[list[str]]:
    """One row of texts a device, or another thing that `--query-<of>` lists; or none."""
    path = shutil.which(tool)
    if path is None:
        return []
    query = [path, f"--query-{of}={','.join(wanted)}", "--format=csv,noheader"]
    try:
        output = subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        # A tool without a driver exits non-zero: there is no device to use then.
        return []
    rows = [[part.strip() for part in line.split(",")] for line in output.splitlines()]
    return [row for row in rows if len(row) == len(wanted)]
