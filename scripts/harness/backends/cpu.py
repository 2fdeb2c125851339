"""The processor as a device, the same for every backend that runs on it."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from ..host import cpu_facts
from .local import BuiltHere


class OnCpu(BuiltHere):
    """What backends on the CPU have in common: one device, all of its cores."""

    name: str
    vendor: str | None = None

    def lock_name(self, index: int) -> str:
        """All processors are one device."""
        return "cpu"

    def device(self, index: int) -> dict[str, Any]:
        """The processor; there is no other than 0."""
        if index:
            raise UserError(f"backend {self.name} has no device {index}; leave DEVICE out")
        return cpu_facts()
