"""ONNX Runtime on the CPU: the default anywhere, and the reference for every other backend."""

from __future__ import annotations

import importlib.util
import logging
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..host import cpu_facts
from ..windows import Float32, Int32
from . import EngineOptions


class OrtSession:
    """An ONNX model in an ONNX Runtime session on the CPU."""

    def __init__(self, model: Path, *, optimized: bool) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        # The reference runs the graph as it is written: no optimizer can then be at fault.
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
        )
        try:
            self._session = ort.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exception classes have no common base.
            raise UserError(
                f"{model} cannot be loaded by ONNX Runtime ({error}); delete it and build it again"
            ) from None
        self._inputs = [
            (node.name, _role(node.name), node.type) for node in self._session.get_inputs()
        ]
        self._outputs = _logit_outputs([node.name for node in self._session.get_outputs()], model)
        self.seconds = 0.0

    def run(
        self, input_ids: Int32, segment_ids: Int32, input_mask: Int32
    ) -> tuple[Float32, Float32]:
        """Start and end logits, float32 (batch, seq)."""
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
        self.seconds = time.perf_counter() - began
        if len(outputs) == 1:
            return outputs[0][..., 0], outputs[0][..., 1]
        return outputs[0], outputs[1]


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


class OrtCpu:
    """ONNX Runtime's CPU execution provider over the fused graph."""

    name = "ort-cpu"
    precisions: tuple[str, ...] = ("fp32", "fp16")
    engine_needs_batch = False

    def graph_precision(self, precision: str) -> str:
        """Each precision has a graph of its own."""
        return precision

    def unavailable(self) -> str | None:
        """None where the onnxruntime package is installed."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "package onnxruntime is missing; run `pip3 install -r requirements.txt`"
        return None

    def engine_inputs(self, options: EngineOptions) -> dict[str, Any]:
        """The fused graph depends on the optimizer's version and the model's shape alone."""
        return {
            "onnxruntime": version("onnxruntime"),
            "hidden": options.hidden,
            "heads": options.heads,
        }

    def engine_suffix(self) -> str:
        """An engine is an ONNX file."""
        return ".onnx"

    def build(self, onnx_file: Path, engine_file: Path, options: EngineOptions) -> None:
        """Fuse the graph's attention, embedding, GELU and layer norm nodes."""
        fuse(onnx_file, engine_file, options)

    def load(self, engine_file: Path, options: EngineOptions) -> OrtSession:
        """A session over the fused graph with all of ONNX Runtime's own optimizations."""
        return OrtSession(engine_file, optimized=True)

    def lock_name(self, index: int) -> str:
        """All processors are one device."""
        return "cpu"

    def device(self, index: int) -> dict[str, Any]:
        """The processor; there is no other than 0."""
        if index:
            raise UserError(f"backend {self.name} has no device {index}; leave DEVICE out")
        return cpu_facts()


# In a graph that is fused whole, other nodes have taken these in.
_FUSED_AWAY = {"Softmax", "Erf", "LayerNormalization", "Transpose", "Slice"}


def fuse(onnx_file: Path, fused_file: Path, options: EngineOptions) -> None:
    """Write `onnx_file` with ONNX Runtime's transformer fusions for BERT applied.

    Raises UserError when the graph does not fuse whole: a slower engine would go unnoticed.
    """
    from onnxruntime.transformers import optimizer

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    model = optimizer.optimize_model(
        str(onnx_file),
        model_type="bert",
        num_heads=options.heads,
        hidden_size=options.hidden,
        opt_level=0,
    )
    left = sorted({node.op_type for node in model.nodes()} & _FUSED_AWAY)
    if left:
        raise UserError(
            f"{onnx_file} did not fuse whole ({', '.join(left)} left); "
            "delete it and run `make onnx engine`"
        )
    fused_file.write_bytes(model.model.SerializeToString(deterministic=True))
