"""What this machine has, what it can run, and what is run by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .backends import backends
from .devices import Accelerator, find_accelerators

BERT_BASE = "bert-base-squad"
SAMPLE = "minilm-sample"


@dataclass(frozen=True)
class Choice:
    """The profile and backend to use, and why."""

    profile: str
    backend: str
    reason: str


def choose(profile: str | None, backend: str | None) -> Choice:
    """Fill in what the user left open, from what this machine has."""
    if profile is not None and backend is not None:
        return Choice(profile, backend, "as given")
    accelerators = find_accelerators() if backend is None else []
    reasons = {b.name: b.unavailable() for b in backends().values()} if accelerators else {}
    return choose_from(profile, backend, accelerators, reasons)


def choose_from(
    profile: str | None,
    backend: str | None,
    accelerators: list[Accelerator],
    unavailable: Mapping[str, str | None],
) -> Choice:
    """The rule behind `choose`: MR-V100 with ixRT, or NVIDIA with TensorRT, runs there and by
    default the model of the published table; any other machine runs the sample on its CPU.

    `unavailable` says of each backend why it cannot be used, or None.
    """
    reason = "as given"
    if backend is None:
        backend, reason = "ort-cpu", "no MR-V100 or NVIDIA device found"
        here = {a.vendor: a.name for a in reversed(accelerators)}
        for vendor, candidate in (("nvidia", "tensorrt"), ("iluvatar", "ixrt")):
            if vendor not in here:
                continue
            why_not = unavailable[candidate]
            if why_not is None:
                backend, reason = candidate, f"{here[vendor]} and its runtime are here"
            elif backend == "ort-cpu":
                reason = f"{here[vendor]} is here, but {candidate} is not: {why_not}"
    if profile is None:
        profile = BERT_BASE if backend in ("ixrt", "tensorrt") else SAMPLE
    return Choice(profile, backend, reason)
