"""The plugin library's kernels as a whole network on an NVIDIA GPU, without any runtime.

Batches run without padding: windows are packed, and the CUDA graph that a batch replays depends on
its tokens in all, rounded up by 1 % on average (plugin/executor/batch.h).
"""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from .. import executor, graph_reader, scales
from ..batches import AUTO
from ..errors import UserError
from ..executor import LIBRARY, EngineRunner, Executor, LoadedEngine, fuse
from ..files import sha256_file
from ..graph_reader import Model, read_graph
from ..paths import shown
from ..provenance import code_sha256
from ..scales import gemm_inputs
from ..windows import Int32
from . import EngineOptions, Outputs
from .accelerated import OnAccelerator

_TOKEN_BUDGET = 16384
# With batches by tokens: one executes while the other's windows are put together and taken apart.
_STREAMS = 2
# Between graphs of one number of windows, in tokens; plugin/executor/batch.cpp's least step.
_STEP = 64


class PluginSession:
    """An engine on one GPU; each stream has a runner, and graphs of its own."""

    def __init__(self, engine: LoadedEngine, options: EngineOptions) -> None:
        windows, tokens = _largest(options)
        self.streams = _STREAMS if options.batch == AUTO else 1
        self._idle: SimpleQueue[EngineRunner] = SimpleQueue()
        for _ in range(self.streams):
            runner = EngineRunner(engine, windows, tokens)
            if options.batch != AUTO:
                _prepare(runner, options.batch, options.sequence_length)
            self._idle.put(runner)

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        """Start and end logits, float32 (batch, seq), zero at padding; and their time."""
        rows, width = input_ids.shape
        lengths = input_mask.sum(axis=1, dtype=np.int32)
        if not np.array_equal(input_mask != 0, np.arange(width) < lengths[:, None]):
            raise UserError("an input mask has padding between tokens; pad windows at their end")
        ids, segments = (np.ascontiguousarray(a, np.int32) for a in (input_ids, segment_ids))
        offsets = np.arange(0, rows * width, width, dtype=np.int32)
        start, end = np.zeros((2, rows, width), np.float32)
        runner = self._idle.get()
        try:
            runner.submit(ids, segments, offsets, lengths)
            seconds = runner.wait(start, end)
        finally:
            self._idle.put(runner)
        return Outputs(start, end, seconds)


def _largest(options: EngineOptions) -> tuple[int, int]:
    """The most windows and tokens of a batch."""
    if options.batch == AUTO:
        return _TOKEN_BUDGET, max(_TOKEN_BUDGET, options.sequence_length)
    return options.batch, options.batch * options.sequence_length


def _prepare(runner: EngineRunner, windows: int, sequence_length: int) -> None:
    """Make the graphs of full batches of sorted windows, whose longest is near their mean."""
    for tokens in range(windows, windows * sequence_length + 1, _STEP):
        mean = -(-tokens // windows)
        for longest in (mean, mean + _STEP):
            if longest <= sequence_length:
                runner.prepare(windows, tokens, longest)
    runner.prepare(windows, windows * sequence_length, sequence_length)


def _check_scales(model: Model, precision: str, onnx_file: Path) -> None:
    """Raise UserError unless every linear of the layers has scales for `precision`."""
    found = model.scales
    known = {"fp8": found.fp8_weights, "int8": found.weights}[precision] if found else {}
    for linear in gemm_inputs(model.architecture):
        if linear != "qa" and linear not in known:
            raise UserError(
                f"{onnx_file} holds no {precision.upper()} scales of {linear}; "
                "run `make scales` and `make onnx`"
            )


class Plugin(OnAccelerator):
    """`make plugin`'s libbert_executor.so."""

    name = "plugin"
    vendor = "nvidia"
    precisions: tuple[str, ...] = ("fp16", "fp8", "int8")
    # GEMMs are tuned for the tokens that its batches have.
    engine_needs_batch = True
    token_budget = _TOKEN_BUDGET
    compiles_shapes = True

    def graph_precision(self, options: EngineOptions) -> str:
        """FP8's is the FP16 graph of centered weights with scales beside it, INT8's has FP16 around
        its GEMMs."""
        return "int8-fp16" if options.precision == "int8" else options.precision

    def unavailable(self) -> str | None:
        """None where an NVIDIA GPU and the library are."""
        if (reason := self.no_device()) is not None:
            return reason
        if not LIBRARY.is_file():
            return f"{shown(LIBRARY)} is not there; run `make plugin USE_TENSORRT=true`"
        try:
            Executor(LIBRARY)
        except UserError as error:
            return str(error)
        return None

    def engine_inputs(self, options: EngineOptions) -> dict[str, Any]:
        """The library, the device, and the batches that it is tuned for."""
        found = self._found(options.device)
        return {
            "library": sha256_file(LIBRARY),
            "kernels": sha256_file(LIBRARY.with_name("libbert_kernels.so")),
            "batch": options.batch,
            "sequence_length": options.sequence_length,
            "device": found.name,
            "driver": found.driver,
            "builder": code_sha256(executor, graph_reader, scales),
        }

    def engine_suffix(self) -> str:
        """plugin/executor/engine_file.h has the format."""
        return ".engine"

    def build(self, onnx_file: Path, engine_file: Path, options: EngineOptions) -> None:
        """Time the GEMMs' algorithms on the options' device and write the fastest."""
        model = read_graph(onnx_file)
        if options.precision != "fp16":
            _check_scales(model, options.precision, onnx_file)
        tensors = fuse(model.weights, model.architecture, options.precision, model.scales)
        tokens = _largest(options)[1]
        Executor(LIBRARY).build(
            tensors, model.architecture, options.precision, options.device, tokens, engine_file
        )

    def load(self, engine_file: Path, options: EngineOptions) -> PluginSession:
        """A session on the options' device."""
        return PluginSession(LoadedEngine(Executor(LIBRARY), engine_file, options.device), options)
