"""What a system on a GPU is to a comparison, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..batches import Batch
from ..weights import Architecture, Weights
from ..windows import Float32

Logits = tuple[Float32, Float32]


@dataclass(frozen=True)
class GpuModel:
    """One set of weights, all of them float16 numbers, and a folder for what is made of them."""

    weights: Weights
    architecture: Architecture
    folder: Path
    library: Path
    max_windows: int
    max_tokens: int


class Loaded(Protocol):
    """A system with the model's weights on the GPU."""

    def prepare(self, batch: Batch) -> Any:
        """Whatever a batch's first execution would do besides: captures, compilation, copies."""
        ...

    def run(self, prepared: Sequence[Any]) -> float:
        """Seconds that batches took to execute: inputs on the device, outputs left there."""
        ...

    def logits(self, prepared: Any) -> Logits | None:
        """A batch's start and end logits (b, s), any at padding; None for a floor."""
        ...


@dataclass(frozen=True)
class GpuSystem:
    """A system by name. `load` raises ImportError, RuntimeError or UserError where it cannot.

    `tolerance` is how far logits may be from the others', of their own root mean square.
    """

    key: str
    title: str
    load: Callable[[GpuModel], Loaded]
    tolerance: float = 0.02  # FP16 over twelve layers; more is another function


def systems() -> list[GpuSystem]:
    """All, in the order in which tables name them."""
    from . import gpu_ort, gpu_ours, gpu_torch

    return [
        GpuSystem("ours", "this repository, FP16", gpu_ours.Ours),
        GpuSystem("ours-2", "the same, two batches in flight", gpu_ours.OursTwice),
        # E4M3 keeps three bits behind the first: each product is off by up to 1/16.
        GpuSystem("ours-fp8", "this repository, FP8", gpu_ours.OursFp8, tolerance=0.2),
        GpuSystem("ort", "ONNX Runtime CUDA, fused, CUDA graphs", gpu_ort.fused),
        GpuSystem("ort-packed", "ONNX Runtime CUDA, fused, packed", gpu_ort.packed),
        GpuSystem("torch-sdpa", "PyTorch SDPA", gpu_torch.sdpa),
        GpuSystem("torch-compile", "torch.compile, CUDA graphs", gpu_torch.compiled),
        GpuSystem("torch-varlen", "PyTorch without padding, CUDA graphs", gpu_torch.varlen),
        GpuSystem("floor", "floor: bare cuBLAS GEMMs and attention", gpu_torch.floor),
    ]
