"""OpenVINO as it is used without this project: FP32, its default precision, NNCF's INT8."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backends.openvino import OpenVinoSession
from ..batches import assemble
from .model import CALIBRATION_QUESTIONS, Model
from .system import Peer, Runner, SessionRunner

_INT8 = "int8.xml"


@dataclass(frozen=True)
class OpenVino(Peer):
    """The FP32 graph compiled for the CPU; `precision` as INFERENCE_PRECISION_HINT, or None."""

    precision: str | None = None

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over windows."""
        options = {} if self.precision is None else {"INFERENCE_PRECISION_HINT": self.precision}
        return SessionRunner(_session(model.graph, options))


@dataclass(frozen=True)
class NncfInt8(Peer):
    """NNCF's post-training INT8 for transformers, the rest in OpenVINO's default precision."""

    key: str = "openvino-nncf"
    title: str = "OpenVINO, NNCF INT8"

    def build(self, model: Model, folder: Path) -> None:
        """Quantize with the calibration windows and save OpenVINO's files."""
        # NNCF's own switch for its telemetry: nothing here reports to anybody.
        os.environ["NNCF_CI"] = "1"
        import nncf
        import openvino as ov

        windows = model.calibration
        batches = [assemble(windows, np.array([row])) for row in range(len(windows))]
        quantized = nncf.quantize(
            ov.Core().read_model(str(model.graph)),
            nncf.Dataset([batch.inputs for batch in batches]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=CALIBRATION_QUESTIONS,
        )
        # Compressed, what is not INT8 would be stored as FP16.
        ov.save_model(quantized, str(folder / _INT8), compress_to_fp16=False)

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over windows."""
        return SessionRunner(_session(folder / _INT8, {}))


def _session(file: Path, options: dict[str, str]) -> OpenVinoSession:
    """The model in `file` compiled so that one batch gets all cores."""
    import openvino as ov

    hints = {"PERFORMANCE_HINT": "LATENCY", **options}
    return OpenVinoSession(ov.Core().compile_model(str(file), "CPU", hints), streams=1)
