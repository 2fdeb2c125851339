"""The executor, as its backend runs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..batches import Batch
from ..executor import EngineRunner, Executor, LoadedEngine, Tensors, fuse
from ..scales import FP8_MAX, Scales, gemm_inputs, weight_scales
from .gpu_systems import GpuModel, Logits

# The largest input of any linear, in FP8: layer norms of random weights stay under it, and E4M3 is
# as precise for the smaller ones.
_LARGEST_INPUT = 8.0


@dataclass(frozen=True)
class _Prepared:
    """A batch's arrays as the library takes them."""

    inputs: tuple[Any, Any, Any, Any]
    start: Any
    end: Any


class Ours:
    """One batch after the other, by the device's clock."""

    runners = 1
    precision = "fp16"

    def __init__(self, model: GpuModel) -> None:
        executor = Executor(model.library)
        path = model.folder / f"{self.precision}.engine"
        if not path.exists():
            began = time.perf_counter()
            executor.build(
                self.tensors(model), model.architecture, self.precision, 0, model.max_tokens, path
            )
            print(f"engine built in {time.perf_counter() - began:.0f} s", flush=True)
        engine = LoadedEngine(executor, path, 0)
        self._runners = [
            EngineRunner(engine, model.max_windows, model.max_tokens) for _ in range(self.runners)
        ]

    def tensors(self, model: GpuModel) -> Tensors:
        """What the engine is built from."""
        return fuse(model.weights, model.architecture)

    def prepare(self, batch: Batch) -> _Prepared:
        """Captures its graph in every runner."""
        rows, width = batch.input_ids.shape
        lengths = batch.input_mask.sum(axis=1, dtype=np.int32)
        offsets = np.arange(0, rows * width, width, dtype=np.int32)
        for runner in self._runners:
            runner.prepare(rows, int(lengths.sum()), int(lengths.max()))
        start, end = np.zeros((2, rows, width), np.float32)
        return _Prepared((batch.input_ids, batch.segment_ids, offsets, lengths), start, end)

    def run(self, prepared: Sequence[_Prepared]) -> float:
        """The sum of what the device took for each."""
        runner, seconds = self._runners[0], 0.0
        for batch in prepared:
            runner.submit(*batch.inputs)
            seconds += runner.wait(batch.start, batch.end)
        return seconds

    def logits(self, prepared: _Prepared) -> Logits:
        """From a run of it alone."""
        self._runners[0].submit(*prepared.inputs)
        self._runners[0].wait(prepared.start, prepared.end)
        return prepared.start.copy(), prepared.end.copy()


class OursTwice(Ours):
    """Two streams, by the host's clock from the first batch's start to the last one's logits on
    the host: packing and copies included."""

    runners = 2

    def run(self, prepared: Sequence[_Prepared]) -> float:
        """While one batch executes the next is packed and the one before it unpacked."""
        began = time.perf_counter()
        for i, batch in enumerate(prepared):
            runner = self._runners[i % self.runners]
            if i >= self.runners:
                before = prepared[i - self.runners]
                runner.wait(before.start, before.end)
            runner.submit(*batch.inputs)
        for i in range(max(0, len(prepared) - self.runners), len(prepared)):
            self._runners[i % self.runners].wait(prepared[i].start, prepared[i].end)
        return time.perf_counter() - began


class OursFp8(Ours):
    """FP16's network with its linears in FP8."""

    precision = "fp8"

    def tensors(self, model: GpuModel) -> Tensors:
        inputs = gemm_inputs(model.architecture)
        scales = Scales(
            {},
            {},
            fp8_activations={
                name: np.float32(_LARGEST_INPUT / FP8_MAX) for name in inputs.values()
            },
            fp8_weights={
                name: weight_scales(model.weights[f"{name}.weight"], FP8_MAX) for name in inputs
            },
        )
        return fuse(model.weights, model.architecture, "fp8", scales)
