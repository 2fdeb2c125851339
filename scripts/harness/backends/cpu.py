"""The processor as a device, the same for every backend that runs on it."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from ..host import cpu_facts


class OnCpu:
    """What backends on the CPU have in common: one device, all of its cores."""

    name: str
    vendor: str | None = None
    networks: tuple[str, ...] = ("onnx",)

    def cannot_run(self) -> str | None:
        """A processor runs what is built on it."""
        return None

    def compute_capabilities(self) -> tuple[str, ...]:
        """Engines are for the processor that is here."""
        return ()

    def lock_name(self, index: int) -> str:
        """All processors are one device."""
        return "cpu"

    def device(self, index: int) -> dict[str, Any]:
        """The processor; there is no other than 0."""
        if index:
            raise UserError(f"backend {self.name} has no device {index}; leave DEVICE out")
        return cpu_facts()
