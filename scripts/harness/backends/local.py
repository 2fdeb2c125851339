"""What most backends have in common: they build on the device that they run on."""

from __future__ import annotations


class BuiltHere:
    """One network, and engines for the device that is here."""

    networks: tuple[str, ...] = ("onnx",)

    def cannot_run(self) -> str | None:
        """What is built here runs here."""
        return None

    def compute_capabilities(self) -> tuple[str, ...]:
        """No other device can be named."""
        return ()
