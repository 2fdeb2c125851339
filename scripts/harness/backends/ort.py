"""ONNX Runtime on the CPU: the default anywhere, and the reference for every other backend."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from ..batches import AUTO
from ..errors import UserError, one_line
from ..files import TEMPORARY_PREFIX
from ..host import cores, sums_int8_exactly
from ..windows import Int32
from . import EngineOptions, Outputs
from .cpu import OnCpu
from .ort_graph import dequantize, fuse, fused_from, quantize, split_layer_norms


def cpu_session(model: Path, *, optimized: bool, streams: int = 1) -> Any:
    """ONNX Runtime's own session over `model` on the CPU.

    Without `optimized` it runs the graph as it is written. With several `streams` a batch runs in
    one thread. Raises UserError for a file that it cannot load.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if streams > 1:
        options.intra_op_num_threads = 1
    elif cores() != os.cpu_count():
        # Left alone, it binds a thread to each core of the machine, granted to it or not.
        options.intra_op_num_threads = cores()
    if not sums_int8_exactly():
        # Slower kernels, whose sums do not saturate.
        options.add_session_config_entry("session.x64quantprecision", "1")
    # The reference runs the graph as it is written: no optimizer can then be at fault.
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exception classes have no common base.
        raise UserError(
            f"{model} cannot be loaded by ONNX Runtime ({error}); delete it and build it again"
        ) from None


class OrtGraph:
    """Any graph in a session of ONNX Runtime's, on whatever device that has: all outputs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = [node.name for node in session.get_inputs()]
        self._outputs = [node.name for node in session.get_outputs()]

    def run(self, feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """All outputs by name; of `feed` it takes what the graph does."""
        given = {name: feed[name] for name in self._inputs}
        try:
            found = self._session.run(self._outputs, given)
        except Exception as error:  # ONNX Runtime's exception classes have no common base.
            raise UserError(
                f"a graph with its tensors in sight failed ({one_line(str(error))}); "
                "free memory, or use fewer WINDOWS"
            ) from None
        return dict(zip(self._outputs, found, strict=True))


class OrtSession:
    """An ONNX model in an ONNX Runtime session on the CPU.

    With several `streams` each batch runs in the thread that brings it and nowhere else: one
    batch a core needs no barriers inside it.
    """

    def __init__(self, model: Path, *, optimized: bool, streams: int = 1) -> None:
        self._session = cpu_session(model, optimized=optimized, streams=streams)
        self._inputs = [
            (node.name, _role(node.name), node.type) for node in self._session.get_inputs()
        ]
        self._outputs = _logit_outputs([node.name for node in self._session.get_outputs()], model)
        self.streams = streams

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        """Start and end logits, float32 (batch, seq), and their time."""
        given = {"ids": input_ids, "segment": segment_ids, "mask": input_mask}
        feed = {
            name: given[role].astype(np.int64) if kind == "tensor(int64)" else given[role]
            for name, role, kind in self._inputs
        }
        began = time.perf_counter()
        try:
            outputs = self._session.run(self._outputs, feed)
        except Exception as error:  # ONNX Runtime's exception classes have no common base.
            shape = "x".join(map(str, input_ids.shape))
            raise UserError(f"a batch of {shape} failed ({error}); try a smaller BATCH") from None
        seconds = time.perf_counter() - began
        if len(outputs) == 1:
            return Outputs(outputs[0][..., 0], outputs[0][..., 1], seconds)
        return Outputs(outputs[0], outputs[1], seconds)


def _role(name: str) -> str:
    """What an input carries, by the names that exporters of BERT give it."""
    if "mask" in name:
        return "mask"
    return "segment" if "segment" in name or "token_type" in name else "ids"


def _logit_outputs(names: list[str], model: Path) -> list[str]:
    """Start and end logits by name, or the one output that holds both in its last axis."""
    found = [name for part in ("start", "end") for name in names if part in name]
    if len(found) == 2:
        return found
    if len(names) == 1:
        return names
    raise UserError(f"{model} has outputs {', '.join(names)}, no start and end logits; replace it")


class OrtCpu(OnCpu):
    """ONNX Runtime's CPU execution provider over the fused graph."""

    name = "ort-cpu"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    engine_needs_batch = False
    token_budget = 192
    compiles_shapes = False

    def graph_precision(self, options: EngineOptions) -> str:
        """Each precision has a graph of its own, INT8's with FP32 around its GEMMs."""
        return options.precision

    def unavailable(self) -> str | None:
        """None where the onnxruntime package is installed."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "package onnxruntime is missing; run `pip3 install -r requirements.txt`"
        return None

    def engine_inputs(self, options: EngineOptions) -> dict[str, Any]:
        """Those of the fused graph."""
        return fused_from("onnxruntime", options)

    def engine_suffix(self) -> str:
        """An engine is an ONNX file."""
        return ".onnx"

    def build(self, onnx_file: Path, engine_file: Path, options: EngineOptions) -> None:
        """Fuse the graph's nodes and take the provider's fastest ones."""
        if options.precision == "int8":
            model = onnx.load(onnx_file)
            linears = dequantize(model)
            # The optimizer reads files alone.
            with tempfile.TemporaryDirectory(
                dir=engine_file.parent, prefix=TEMPORARY_PREFIX
            ) as folder:
                floats = Path(folder) / "floats.onnx"
                onnx.save(model, floats)
                model = fuse(floats, options)
            quantize(model, linears)
        else:
            model = fuse(onnx_file, options)
        # Sums of squares overflow float16, and this provider would convert at every node.
        if options.precision != "fp16":
            split_layer_norms(model)
        engine_file.write_bytes(model.SerializeToString(deterministic=True))

    def load(self, engine_file: Path, options: EngineOptions) -> OrtSession:
        """A session over the fused graph with all of ONNX Runtime's own optimizations."""
        streams = cores() if options.batch == AUTO else 1
        return OrtSession(engine_file, optimized=True, streams=streams)

    def arithmetic(self, options: EngineOptions) -> Literal["fp32", "fp16"]:
        """That of the graph; INT8's has FP32 around its GEMMs."""
        return "fp16" if options.precision == "fp16" else "fp32"

    def graph_session(self, model: Path, options: EngineOptions) -> OrtGraph:
        """All of ONNX Runtime's own optimizations; the transformer optimizer's are the engine's."""
        return OrtGraph(cpu_session(model, optimized=True))
