"""ONNX Runtime as it is used without this project: FP32, dynamic INT8, and optimum's wrapper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from ..backends.ort import OrtSession
from .model import Model
from .system import Peer, Runner, SessionRunner
from .torch_peers import TorchSession, bert

_INT8 = "int8.onnx"


@dataclass(frozen=True)
class OrtPlain(Peer):
    """The FP32 graph with ONNX Runtime's default options, which fuse what they recognise."""

    key: str = "onnxruntime"
    title: str = "ONNX Runtime, FP32"

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over windows."""
        return SessionRunner(OrtSession(model.graph, optimized=True))


@dataclass(frozen=True)
class OrtDynamicInt8(Peer):
    """Dynamic INT8 as ONNX Runtime's documentation has it: fused first, which is faster as well,
    then quantized."""

    key: str = "onnxruntime-int8"
    title: str = "ONNX Runtime, dynamic INT8"

    def build(self, model: Model, folder: Path) -> None:
        """Write the fused and quantized graph."""
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.transformers import optimizer

        fused = folder / "fused.onnx"
        optimizer.optimize_model(
            str(model.graph),
            model_type="bert",
            num_heads=model.architecture.heads,
            hidden_size=model.architecture.hidden,
            # The session's own optimizations follow when it loads the file.
            opt_level=0,
        ).save_model_to_file(str(fused))
        quantize_dynamic(
            fused,
            folder / _INT8,
            weight_type=QuantType.QInt8,
            # As fast as one scale a tensor, and much more accurate on MiniLM.
            per_channel=True,
            # ONNX's shape inference does not know the fused operators.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        fused.unlink()

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over windows."""
        return SessionRunner(OrtSession(folder / _INT8, optimized=True))


@dataclass(frozen=True)
class Optimum(Peer):
    """optimum's ORTModelForQuestionAnswering over its own export of transformers' model."""

    key: str = "optimum"
    title: str = "optimum, ONNX Runtime FP32"

    def build(self, model: Model, folder: Path) -> None:
        """Export as `from_pretrained(..., export=True)` does."""
        from optimum.onnxruntime import ORTModelForQuestionAnswering

        bert(model).save_pretrained(folder / "torch")
        exported = ORTModelForQuestionAnswering.from_pretrained(folder / "torch", export=True)
        exported.save_pretrained(folder)

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over windows."""
        from optimum.onnxruntime import ORTModelForQuestionAnswering

        return SessionRunner(TorchSession(ORTModelForQuestionAnswering.from_pretrained(folder)))
