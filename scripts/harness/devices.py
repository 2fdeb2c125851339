"""Accelerators that the vendors' management tools report."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """One device as its vendor's tool lists it."""

    vendor: str
    name: str
    driver: str


# Both tools share the query syntax; ixsmi is Iluvatar's counterpart of nvidia-smi.
_TOOLS = {"iluvatar": "ixsmi", "nvidia": "nvidia-smi"}
_QUERY = ["--query-gpu=name,driver_version", "--format=csv,noheader"]


def find_accelerators() -> list[Accelerator]:
    """All devices of all vendors, in index order; none where no tool is installed or answers."""
    found = []
    for vendor, tool in _TOOLS.items():
        path = shutil.which(tool)
        if path is None:
            continue
        try:
            output = subprocess.run(
                [path, *_QUERY], capture_output=True, text=True, timeout=20, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            # A tool without a driver exits non-zero: there is no device to use then.
            continue
        for line in output.splitlines():
            name, _, driver = (part.strip() for part in line.partition(","))
            if name:
                found.append(Accelerator(vendor, name, driver))
    return found
