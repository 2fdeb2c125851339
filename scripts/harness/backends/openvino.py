"""OpenVINO on the CPU: optional, and fast (docs/performance.md)."""

from __future__ import annotations

import importlib.util
import io
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..batches import AUTO
from ..errors import UserError, one_line
from ..host import cores, cpu_facts
from ..windows import Int32
from . import EngineOptions, Outputs
from .cpu import OnCpu


class OpenVinoSession:
    """A compiled model; each thread that calls `run` has an infer request of its own."""

    def __init__(self, compiled: Any, streams: int) -> None:
        self._compiled = compiled
        self._requests = threading.local()
        self.streams = streams

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        """Start and end logits, float32 (batch, seq), and their time."""
        if not hasattr(self._requests, "request"):
            self._requests.request = self._compiled.create_infer_request()
        request = self._requests.request
        feed = {"input_ids": input_ids, "segment_ids": segment_ids, "input_mask": input_mask}
        began = time.perf_counter()
        try:
            found = request.infer(feed, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            shape = "x".join(map(str, input_ids.shape))
            reason = one_line(str(error))
            raise UserError(f"a batch of {shape} failed ({reason}); try a smaller BATCH") from None
        seconds = time.perf_counter() - began
        # The request's own memory is written again by the next batch.
        return Outputs(np.array(found["start_logits"]), np.array(found["end_logits"]), seconds)


class OpenVinoGraph:
    """Any graph, compiled: all of its outputs."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        # A tensor may have several names.
        self._outputs = [port.get_names() for port in compiled.outputs]

    def run(self, feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """All outputs by name; of `feed` it takes what the graph does."""
        try:
            found = self._request.infer({name: feed[name] for name in self._inputs})
        except RuntimeError as error:
            raise UserError(
                f"a graph with its tensors in sight failed ({one_line(str(error))}); "
                "free memory, or use fewer WINDOWS"
            ) from None
        # The request's own memory is written again by the next batch.
        return {
            name: np.array(found[index])
            for index, names in enumerate(self._outputs)
            for name in names
        }


class OpenVino(OnCpu):
    """OpenVINO's CPU plugin.

    INT8 leaves the type around its GEMMs to OpenVINO: bfloat16 where the processor has it, which
    is faster than float32 there; bf16 takes it everywhere.
    """

    name = "openvino"
    precisions: tuple[str, ...] = ("fp32", "bf16", "int8")
    engine_needs_batch = True
    token_budget = 768
    compiles_shapes = True

    def graph_precision(self, options: EngineOptions) -> str:
        """bf16 comes from the FP32 graph."""
        return "int8" if options.precision == "int8" else "fp32"

    def unavailable(self) -> str | None:
        """None where the openvino package is installed."""
        if importlib.util.find_spec("openvino") is None:
            return "package openvino is missing; run `make openvino`"
        return None

    def engine_inputs(self, options: EngineOptions) -> dict[str, Any]:
        """A compiled model depends on the library, the processor and the settings."""
        return {
            "openvino": version("openvino"),
            "processor": cpu_facts()["name"],
            "settings": _settings(options),
        }

    def engine_suffix(self) -> str:
        """OpenVINO's name for an exported compiled model."""
        return ".blob"

    def build(self, onnx_file: Path, engine_file: Path, options: EngineOptions) -> None:
        """Compile the graph and export it."""
        engine_file.write_bytes(_compile(onnx_file, options).export_model().getvalue())

    def load(self, engine_file: Path, options: EngineOptions) -> OpenVinoSession:
        """The compiled model; raises UserError when the file is none of this version's."""
        import openvino

        try:
            compiled = openvino.Core().import_model(
                io.BytesIO(engine_file.read_bytes()), "CPU", _settings(options)
            )
        except RuntimeError as error:
            raise UserError(
                f"{engine_file} cannot be loaded by OpenVINO ({one_line(str(error))}); "
                "delete it and build it again"
            ) from None
        streams = int(compiled.get_property("NUM_STREAMS")) if options.batch == AUTO else 1
        return OpenVinoSession(compiled, streams)

    def arithmetic(self, options: EngineOptions) -> Literal["fp32", "bf16"]:
        """INT8 leaves it to OpenVINO."""
        narrow = options.precision == "bf16" or (options.precision == "int8" and _has_bf16())
        return "bf16" if narrow else "fp32"

    def graph_session(self, model: Path, options: EngineOptions) -> OpenVinoGraph:
        """Compiled as an engine is, for one batch at a time."""
        return OpenVinoGraph(_compile(model, replace(options, batch=1)))


def _compile(onnx_file: Path, options: EngineOptions) -> Any:
    """`onnx_file` compiled for this processor."""
    import openvino

    if options.precision == "bf16" and not _has_bf16():
        raise UserError("this processor has no bfloat16; use PRECISION=fp32 or int8")
    core = openvino.Core()
    try:
        return core.compile_model(core.read_model(onnx_file), "CPU", _settings(options))
    except RuntimeError as error:
        raise UserError(
            f"{onnx_file} cannot be compiled by OpenVINO ({one_line(str(error))}); "
            "delete it and build it again"
        ) from None


def _has_bf16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _settings(options: EngineOptions) -> dict[str, Any]:
    """One stream a core where batches run side by side, else all cores on one batch."""
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": cores(),
        "NUM_STREAMS": cores() if options.batch == AUTO else 1,
    }
    if options.precision != "int8":
        settings["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[options.precision]
    return settings
