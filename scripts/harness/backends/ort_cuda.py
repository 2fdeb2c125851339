"""ONNX Runtime on an NVIDIA GPU: the fused graph, replayed as one CUDA graph a shape.

Measured on an H100 (docs/performance.md): without CUDA graphs, packed without padding, or with
lengths rounded up to fewer shapes it is slower.
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import UserError, one_line
from ..windows import Int32
from . import EngineOptions, Outputs
from .accelerated import OnAccelerator
from .ort import OrtGraph
from .ort_graph import fuse, fused_from

_PROVIDER = "CUDAExecutionProvider"
_INPUTS = ("input_ids", "segment_ids", "input_mask")
_OUTPUTS = ("start_logits", "end_logits")


def _session(model: Path, device: int, entries: dict[str, str], *, graphs: bool) -> Any:
    """ONNX Runtime's own session over `model` on a GPU, with CUDA `graphs` or without."""
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    # cuBLAS and cuDNN lie in wheels of their own, where the loader does not look.
    ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    settings = {
        "device_id": str(device),
        # FP32 means FP32: TF32 has FP16's mantissa.
        "use_tf32": "0",
        "enable_cuda_graph": str(int(graphs)),
    }
    try:
        session = ort.InferenceSession(str(model), options, providers=[(_PROVIDER, settings)])
        if _PROVIDER not in session.get_providers():
            # ONNX Runtime prints which library it misses, and goes on with the CPU.
            raise RuntimeError(f"{_PROVIDER} does not load")
    except Exception as error:  # ONNX Runtime's exception classes have no common base.
        raise UserError(
            f"{model} cannot be loaded on device {device} ({one_line(str(error))}); "
            "if the file is at fault, delete it and build it again"
        ) from None
    return session


@dataclass(frozen=True)
class _Shape:
    """What batches of one shape run with: buffers on the device and the graph's number."""

    binding: Any
    inputs: list[Any]
    outputs: list[Any]
    options: Any


class OrtCudaSession:
    """An ONNX model in an ONNX Runtime session on one GPU.

    A shape's first batch captures its CUDA graph, later ones replay it. A graph holds addresses,
    so each shape keeps its buffers.
    """

    streams = 1
    graphs = True

    def __init__(self, model: Path, device: int) -> None:
        import onnxruntime as ort

        # A node on the CPU would copy in the middle of the graph: better no session.
        entries = {"session.disable_cpu_ep_fallback": "1"}
        self._session = _session(model, device, entries, graphs=self.graphs)
        self._ort, self._device = ort, device
        self._shapes: dict[tuple[int, int], _Shape] = {}

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        """Start and end logits, float32 (batch, seq), and their time."""
        try:
            if input_ids.shape not in self._shapes:
                self._shapes[input_ids.shape] = self._prepare(*input_ids.shape)
            shape = self._shapes[input_ids.shape]
            for value, array in zip(
                shape.inputs, (input_ids, segment_ids, input_mask), strict=True
            ):
                value.update_inplace(np.ascontiguousarray(array))
            began = time.perf_counter()
            # Returns when the device is done.
            self._session.run_with_iobinding(shape.binding, shape.options)
            seconds = time.perf_counter() - began
            start, end = (value.numpy() for value in shape.outputs)
        except Exception as error:  # ONNX Runtime's exception classes have no common base.
            size = "x".join(map(str, input_ids.shape))
            raise UserError(
                f"a batch of {size} failed on the device ({one_line(str(error))}); "
                "try a smaller BATCH, or free the device's memory"
            ) from None
        return Outputs(start, end, seconds)

    def _prepare(self, rows: int, length: int) -> _Shape:
        make = self._ort.OrtValue.ortvalue_from_shape_and_type
        inputs = [make((rows, length), np.int32, "cuda", self._device) for _ in _INPUTS]
        outputs = [make((rows, length), np.float32, "cuda", self._device) for _ in _OUTPUTS]
        binding = self._session.io_binding()
        for name, value in zip(_INPUTS, inputs, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(_OUTPUTS, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(len(self._shapes) + 1))
        return _Shape(binding, inputs, outputs, options)


class OrtCuda(OnAccelerator):
    """ONNX Runtime's CUDA execution provider over the fused graph."""

    name = "ort-cuda"
    vendor = "nvidia"
    precisions: tuple[str, ...] = ("fp16", "fp32")
    engine_needs_batch = False
    token_budget = 16384
    compiles_shapes = True

    def graph_precision(self, options: EngineOptions) -> str:
        """Each precision has a graph of its own."""
        return options.precision

    def unavailable(self) -> str | None:
        """None where onnxruntime-gpu and an NVIDIA GPU are."""
        if (reason := self.no_device()) is not None:
            return reason
        if importlib.util.find_spec("onnxruntime") is not None:
            import onnxruntime as ort

            if _PROVIDER in ort.get_available_providers():
                return None
        # It has the same module as package onnxruntime, and replaces it.
        return "this Python has no package onnxruntime-gpu; BACKEND=ort-cuda uses .venv-cuda"

    def engine_inputs(self, options: EngineOptions) -> dict[str, Any]:
        """Those of the fused graph."""
        return fused_from("onnxruntime-gpu", options)

    def engine_suffix(self) -> str:
        """An engine is an ONNX file."""
        return ".onnx"

    def build(self, onnx_file: Path, engine_file: Path, options: EngineOptions) -> None:
        """Fuse the graph's nodes."""
        model = fuse(onnx_file, options)
        engine_file.write_bytes(model.SerializeToString(deterministic=True))

    def load(self, engine_file: Path, options: EngineOptions) -> OrtCudaSession:
        """A session on the options' device."""
        return OrtCudaSession(engine_file, options.device)

    def arithmetic(self, options: EngineOptions) -> Literal["fp32", "fp16"]:
        """That of the graph."""
        return "fp16" if options.precision == "fp16" else "fp32"

    def graph_session(self, model: Path, options: EngineOptions) -> OrtGraph:
        """The provider's own optimizations. What counts positions may run on the CPU."""
        return OrtGraph(_session(model, options.device, {}, graphs=False))
