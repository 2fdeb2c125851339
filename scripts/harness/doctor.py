"""What this machine has, what it can run, and what is run by default."""

from __future__ import annotations

import importlib
import importlib.util
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


def has_tensorrt() -> bool:
    """Whether a module `tensorrt` is present that can build: TensorRT's own or ixRT's.

    Stub packages make `import tensorrt` succeed as an empty namespace, hence the look at
    `Builder`.
    """
    if importlib.util.find_spec("tensorrt") is None:
        return False
    try:
        return hasattr(importlib.import_module("tensorrt"), "Builder")
    except (ImportError, OSError):
        return False


def choose(profile: str | None, backend: str | None) -> Choice:
    """Fill in what the user left open, from what this machine has."""
    if profile is not None and backend is not None:
        return Choice(profile, backend, "as given")
    accelerators = find_accelerators() if backend is None else []
    return choose_from(
        profile,
        backend,
        accelerators,
        tensorrt=bool(accelerators) and has_tensorrt(),
        available=[b.name for b in backends().values() if b.unavailable() is None],
    )


def choose_from(
    profile: str | None,
    backend: str | None,
    accelerators: list[Accelerator],
    *,
    tensorrt: bool,
    available: list[str],
) -> Choice:
    """The rule behind `choose`: MR-V100 with ixRT, or NVIDIA with TensorRT, runs there and by
    default the model of the published table; any other machine runs the sample on its CPU."""
    reason = "as given"
    if backend is None:
        backend, reason = "ort-cpu", _why_not_gpu(accelerators, tensorrt)
        for vendor, candidate in (("iluvatar", "ixrt"), ("nvidia", "tensorrt")):
            names = [a.name for a in accelerators if a.vendor == vendor]
            if names and tensorrt and candidate in available:
                backend, reason = candidate, f"{names[0]} and its runtime are here"
                break
    if profile is None:
        profile = BERT_BASE if backend in ("ixrt", "tensorrt") else SAMPLE
    return Choice(profile, backend, reason)


def _why_not_gpu(accelerators: list[Accelerator], tensorrt: bool) -> str:
    if not accelerators:
        return "no MR-V100 or NVIDIA device found"
    if not tensorrt:
        return f"{accelerators[0].name} is here, but no TensorRT or ixRT Python module"
    return f"{accelerators[0].name} is here, but this version has no backend for its runtime"
