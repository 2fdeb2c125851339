"""What runs a model: one small interface, one module a backend, vendor imports inside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..batches import BatchSize
from ..errors import UserError
from ..windows import Float32, Int32


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is built for: the largest batch, the longest window, which device.

    With `batch` "auto" a session runs several batches at once, one a stream. `network` is what the
    engine is made of: "onnx", the graph as it is written, or "plugin", the plugins of
    `plugin_library`, where None is the backend's own library. `compute_capability`, such as "8.9",
    names a kind of device to build for that need not be here.
    """

    precision: str
    batch: BatchSize
    sequence_length: int
    hidden: int
    heads: int
    device: int
    network: str = "onnx"
    plugin_library: Path | None = None
    compute_capability: str | None = None


class Outputs(NamedTuple):
    """One batch's start and end logits, float32 (batch, seq), and the seconds it executed.

    `seconds` is execution alone: inputs already where the device wants them, outputs not yet
    copied back, synchronized at both ends.
    """

    start_logits: Float32
    end_logits: Float32
    seconds: float


class Session(Protocol):
    """A loaded engine; `streams` is how many threads may call `run` at once."""

    streams: int

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        """The outputs of inputs int32 (batch, seq)."""
        ...


class Backend(Protocol):
    """A runtime. `precisions` and `networks` list what it offers, its natural one first."""

    name: str
    precisions: tuple[str, ...]
    networks: tuple[str, ...]
    # Whether an engine serves only the batch and device it was built for.
    engine_needs_batch: bool
    # Tokens a batch when BATCH is auto: the fastest by measurement (docs/performance.md). 0: its
    # engines have a largest batch, so BATCH is a number.
    token_budget: int
    # Whether the first batch of a shape takes longer than the next ones.
    compiles_shapes: bool

    @property
    def vendor(self) -> str | None:
        """Whose accelerator it runs on, "nvidia" or "iluvatar"; None on the processor."""
        ...

    def graph_precision(self, options: EngineOptions) -> str:
        """The precision of the ONNX graph that an engine for `options` is built from.

        Raises UserError for a precision that the options' network does not have.
        """
        ...

    def unavailable(self) -> str | None:
        """Why it cannot be used on this machine, in one line with the remedy; None if it can."""
        ...

    def cannot_run(self) -> str | None:
        """Why it can build engines on this machine, but not run them; None if it can."""
        ...

    def compute_capabilities(self) -> tuple[str, ...]:
        """The kinds of device that it builds for without having one; none for most."""
        ...

    def engine_inputs(self, options: EngineOptions) -> dict[str, Any]:
        """All that shapes an engine besides its ONNX file, as JSON: options and versions."""
        ...

    def engine_suffix(self) -> str:
        """The ending of an engine file's name, dot included."""
        ...

    def build(self, onnx_file: Path, engine_file: Path, options: EngineOptions) -> str | None:
        """Write the engine of `onnx_file`; returns what the runtime tells of it as JSON text."""
        ...

    def load(self, engine_file: Path, options: EngineOptions) -> Session:
        """Load an engine; raises UserError when the file is no engine of this backend."""
        ...

    def lock_name(self, index: int) -> str:
        """What is locked while the device `index` is timed, such as "cpu" or "cuda-0"."""
        ...

    def device(self, index: int) -> dict[str, Any]:
        """Facts of the device `index`: `name`, by which golden files promise QPS, and more."""
        ...


def backends() -> dict[str, Backend]:
    """All backends by name, in the order in which a default is looked for."""
    from .openvino import OpenVino
    from .ort import OrtCpu
    from .ort_cuda import OrtCuda
    from .plugin import Plugin
    from .tensorrt import IxRt, TensorRt, TensorRtRtx

    known: tuple[Backend, ...] = (
        OrtCpu(),
        OpenVino(),
        OrtCuda(),
        Plugin(),
        TensorRt(),
        TensorRtRtx(),
        IxRt(),
    )
    return {backend.name: backend for backend in known}


def find_backend(name: str, *, available: bool = True) -> Backend:
    """The backend `name`; raises UserError if it is unknown, or is not `available` here."""
    known = backends()
    if name not in known:
        raise UserError(f"no backend {name!r}; BACKEND is one of {', '.join(known)}")
    reason = known[name].unavailable() if available else None
    if reason is not None:
        raise UserError(f"backend {name} is unavailable: {reason}")
    return known[name]
