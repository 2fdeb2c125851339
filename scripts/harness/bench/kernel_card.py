"""The state of an NVIDIA card, as nvidia-smi has it."""

from __future__ import annotations

from typing import Any

from ..devices import query
from ..errors import UserError

_FACTS = (
    "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
    "power.limit", "temperature.gpu", "utilization.gpu",
)  # fmt: skip
BUSY_PERCENT = 10


def pytorch_with_gpu(purpose: str = "") -> Any:
    """The module torch. Raises UserError, in which `purpose` says what PyTorch is for, where there
    is none, and where it finds no NVIDIA GPU."""
    try:
        import torch
    except ImportError:
        raise UserError(f"this Python has no PyTorch{purpose}; use one that has") from None
    if not torch.cuda.is_available() or torch.version.cuda is None:
        raise UserError("PyTorch finds no NVIDIA GPU here; run this on a machine that has one")
    return torch


def uuid_of(properties: Any) -> str:
    """What nvidia-smi calls the GPU of PyTorch's `properties`."""
    return f"GPU-{str(properties.uuid).removeprefix('GPU-')}"


def card(uuid: str) -> dict[str, str]:
    """What nvidia-smi says of the GPU: driver, clocks in MHz, power in W, degrees, use in per
    cent. Empty where there is no nvidia-smi."""
    for known, *values in query("nvidia-smi", ("uuid", *_FACTS)):
        if known == uuid:
            numbers = [value.partition(" ")[0] for value in values]  # without their units
            return dict(zip(_FACTS, numbers, strict=True))
    return {}


def refuse_busy(facts: dict[str, str]) -> None:
    """Raises UserError where somebody else is computing on the card."""
    use = facts.get("utilization.gpu", "")
    if use.isdigit() and int(use) > BUSY_PERCENT:
        raise UserError(f"the GPU is busy ({use} %); run this when nothing else uses it")
