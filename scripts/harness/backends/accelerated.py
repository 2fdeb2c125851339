"""An accelerator as a device, the same for every backend that runs on one of its vendor."""

from __future__ import annotations

import os
from typing import Any

from ..devices import Accelerator, devices_of
from ..errors import UserError
from .local import BuiltHere

# CUDA's own order is fastest first; DEVICE counts as the vendors' tools do. Read when CUDA starts.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


class OnAccelerator(BuiltHere):
    """What backends on a vendor's devices have in common."""

    name: str
    vendor: str

    def lock_name(self, index: int) -> str:
        """Each device is locked for itself, under its number among all of the machine's."""
        return f"{self.vendor}-{self._found(index).facts.get('index', index)}"

    def device(self, index: int) -> dict[str, Any]:
        """Name, driver and what else the vendor's tool says of the device."""
        found = self._found(index)
        return {"name": found.name, "driver": found.driver, **found.facts}

    def no_device(self) -> str | None:
        """Why there is no device at all, in one line with the remedy; None if there is one."""
        if devices_of(self.vendor):
            return None
        tool = {"iluvatar": "ixsmi", "nvidia": "nvidia-smi"}[self.vendor]
        return f"{tool} shows no device; check the driver, and CUDA_VISIBLE_DEVICES if set"

    def _found(self, index: int) -> Accelerator:
        devices = devices_of(self.vendor)
        if index >= len(devices):
            raise UserError(
                f"backend {self.name} has no device {index} of {len(devices)}; "
                "`make doctor` lists them"
            )
        return devices[index]
