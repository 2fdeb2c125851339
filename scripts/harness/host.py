"""Facts of the machine: processor, memory, system."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def cores() -> int:
    """The cores this process may use: a container or taskset often grants fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpus() -> str:
    """The numbers of those cores as ranges, such as "0-3,8"; "" where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return ""
    ranges: list[list[int]] = []
    for number in sorted(os.sched_getaffinity(0)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def use_cpus(ranges: str) -> None:
    """Let this process run on the cores that `cpus` has named; raises OSError if it may not."""
    numbers: set[int] = set()
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    os.sched_setaffinity(0, numbers)


def sums_int8_exactly() -> bool:
    """Whether products of uint8 and int8 are summed in 32 bits.

    On x86 without VNNI pairs of products are summed in 16 bits, which saturate.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return True
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace")
    return "avx512_vnni" in flags or "avx_vnni" in flags


def cpu_facts() -> dict[str, Any]:
    """The processor: `name` (model and usable cores), `cores`, `memory_gib`, `clock_mhz`.

    Clocks are those of the moment, one a core, where the system tells them.
    """
    fields: dict[str, list[str]] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), []).append(value.strip())
    model = fields.get("model name", [platform.processor() or platform.machine()])[0]
    return {
        "name": f"{model} ({cores()} cores)",
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "clock_mhz": [float(value) for value in fields.get("cpu MHz", [])],
    }
