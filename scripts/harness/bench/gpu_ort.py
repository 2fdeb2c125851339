"""ONNX Runtime's CUDA provider, as backend ort-cuda runs it, and without padding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..backends import EngineOptions, Session
from ..backends.ort_cuda import OrtCuda, OrtCudaSession
from ..batches import Batch
from ..graph import build_graph, save_graph
from .gpu_systems import GpuModel, Loaded, Logits


def fused(model: GpuModel) -> Loaded:
    """A CUDA graph a shape."""
    return _Loaded(OrtCudaSession(_engine(model), 0))


def packed(model: GpuModel) -> Loaded:
    """No padding, and no CUDA graph: the host reads back the count of tokens."""
    import onnx
    from onnxruntime.transformers.convert_to_packing_mode import PackingMode
    from onnxruntime.transformers.onnx_model import OnnxModel

    changed = OnnxModel(onnx.load(_engine(model)))
    PackingMode(changed).convert()
    changed.topological_sort()
    path = model.folder / "packed.onnx"
    onnx.save(changed.model, path)
    return _Loaded(_NotCaptured(path, 0))


class _NotCaptured(OrtCudaSession):
    """Every kernel launched anew for every batch."""

    graphs = False


def _engine(model: GpuModel) -> Path:
    graph, engine = model.folder / "fp16.onnx", model.folder / "fused.onnx"
    if not engine.exists():
        sizes = model.architecture
        save_graph(build_graph(model.weights, sizes, "fp16"), graph)
        options = EngineOptions("fp16", model.max_windows, 384, sizes.hidden, sizes.heads, 0)
        OrtCuda().build(graph, engine, options)
    return engine


class _Loaded:
    """By the host's clock from the call to the device's end: it has no other."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def prepare(self, batch: Batch) -> dict[str, Any]:
        """The second run of a shape replays its graph."""
        for _ in range(2):
            self._session.run(**batch.inputs)
        return batch.inputs

    def run(self, prepared: Sequence[dict[str, Any]]) -> float:
        return sum(self._session.run(**inputs).seconds for inputs in prepared)

    def logits(self, prepared: dict[str, Any]) -> Logits:
        found = self._session.run(**prepared)
        return found.start_logits, found.end_logits
