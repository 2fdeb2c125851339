"""`plugin/executor/bert_executor.h` from Python: BERT on an NVIDIA GPU without any runtime."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from .errors import UserError, one_line
from .paths import BUILD
from .scales import FP8_MAX, Scales, gemm_inputs, quantize_weight
from .weights import SEGMENTS, Architecture, Array, Weights
from .windows import Float32, Int32

LIBRARY = BUILD / "plugin" / "plugin" / "lib" / "libbert_executor.so"
# BertPrecision.
PRECISIONS = {"fp16": 0, "fp8": 1, "int8": 2}
# INT8 but for the QA head, as a QAT checkpoint has it.
_INT8_HALF_HEAD = 3

Tensors = dict[str, npt.NDArray[Any]]


class _Architecture(ctypes.Structure):
    """BertArchitecture."""

    _fields_ = (
        ("layers", c_int32), ("hidden", c_int32), ("heads", c_int32), ("intermediate", c_int32),
        ("vocab", c_int32), ("segments", c_int32), ("positions", c_int32), ("epsilon", c_float),
    )  # fmt: skip


class _Tensor(ctypes.Structure):
    """BertTensor."""

    _fields_ = (("name", c_char_p), ("data", c_void_p), ("bytes", c_uint64))


class _Batch(ctypes.Structure):
    """BertBatch."""

    _fields_ = (
        ("windows", c_int32), ("offsets", c_void_p), ("lengths", c_void_p), ("ids", c_void_p),
        ("segments", c_void_p),
    )  # fmt: skip


_SIGNATURES: dict[str, list[Any]] = {
    "bert_engine_build": [
        POINTER(_Architecture), c_int32, POINTER(_Tensor), c_int32, c_int32, c_int32, c_char_p,
    ],
    "bert_engine_load": [c_char_p, c_int32, POINTER(c_void_p)],
    "bert_engine_destroy": [c_void_p],
    "bert_runner_create": [c_void_p, c_int32, c_int32, POINTER(c_void_p)],
    "bert_runner_destroy": [c_void_p],
    "bert_runner_prepare": [c_void_p, c_int32, c_int32, c_int32],
    "bert_runner_submit": [c_void_p, POINTER(_Batch)],
    "bert_runner_wait": [c_void_p, c_void_p, c_void_p, POINTER(c_float)],
}  # fmt: skip


class Executor:
    """The library at `path`. Raises UserError if it cannot be loaded, and where it refuses."""

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise UserError(
                f"the executor cannot be loaded ({one_line(str(error))}); build it with "
                "`make plugin USE_TENSORRT=true`"
            ) from None
        self._library.bert_executor_last_error.restype = c_char_p
        for name, arguments in _SIGNATURES.items():
            getattr(self._library, name).argtypes = arguments

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the header; its error becomes a UserError."""
        if getattr(self._library, function)(*arguments) != 0:
            raise UserError(one_line(self._library.bert_executor_last_error().decode()))

    def free(self, function: str, handle: c_void_p) -> None:
        """Call a function that frees."""
        getattr(self._library, function)(handle)

    def build(
        self,
        tensors: Tensors,
        architecture: Architecture,
        precision: str,
        device: int,
        max_tokens: int,
        path: Path,
    ) -> None:
        """Write the engine of `tensors`, as `fuse` makes them for `precision`.

        It is tuned for batches of up to `max_tokens`.
        """
        # ctypes keeps neither the arrays nor the names alive.
        held = {name.encode(): np.ascontiguousarray(value) for name, value in tensors.items()}
        listed = (_Tensor * len(held))(
            *(_Tensor(name, value.ctypes.data, value.nbytes) for name, value in held.items())
        )
        number = PRECISIONS[precision]
        if precision == "int8" and "qa.scales" not in tensors:
            number = _INT8_HALF_HEAD
        sizes = _Architecture(
            architecture.layers, architecture.hidden, architecture.heads,
            architecture.intermediate, architecture.vocab, SEGMENTS, architecture.positions,
            architecture.layer_norm_eps,
        )  # fmt: skip
        self.call(
            "bert_engine_build", byref(sizes), number, listed, len(held), device,
            max_tokens, str(path).encode(),
        )  # fmt: skip


class LoadedEngine:
    """An engine's weights on `device`, freed with it and after its runners."""

    def __init__(self, executor: Executor, path: Path, device: int) -> None:
        self.executor = executor
        self.handle = c_void_p()
        executor.call("bert_engine_load", str(path).encode(), device, byref(self.handle))
        weakref.finalize(self, executor.free, "bert_engine_destroy", self.handle).atexit = False


class EngineRunner:
    """A stream for batches of up to `max_windows` windows and `max_tokens` tokens.

    For one thread at a time.
    """

    def __init__(self, engine: LoadedEngine, max_windows: int, max_tokens: int) -> None:
        self._engine, self._executor = engine, engine.executor
        self._handle = c_void_p()
        self._executor.call(
            "bert_runner_create", engine.handle, max_windows, max_tokens, byref(self._handle)
        )
        weakref.finalize(
            self, _free_runner, engine, "bert_runner_destroy", self._handle
        ).atexit = False

    def prepare(self, windows: int, tokens: int, longest: int) -> None:
        """Make the CUDA graph that batches like this one share, before one comes."""
        self._executor.call("bert_runner_prepare", self._handle, windows, tokens, longest)

    def submit(self, ids: Int32, segments: Int32, offsets: Int32, lengths: Int32) -> None:
        """Queue a batch: window w has lengths[w] tokens from index offsets[w] on of the ids and
        segments, whatever their shape. All are contiguous."""
        batch = _Batch(
            len(lengths), offsets.ctypes.data, lengths.ctypes.data, ids.ctypes.data,
            segments.ctypes.data,
        )  # fmt: skip
        self._executor.call("bert_runner_submit", self._handle, byref(batch))

    def wait(self, start: Float32, end: Float32) -> float:
        """Wait for it; its logits go into arrays of the ids' shape. Returns seconds it took on
        the device, without copies."""
        milliseconds = c_float()
        self._executor.call(
            "bert_runner_wait", self._handle, start.ctypes.data, end.ctypes.data,
            byref(milliseconds),
        )  # fmt: skip
        return milliseconds.value / 1e3


def _free_runner(engine: LoadedEngine, function: str, handle: c_void_p) -> None:
    # Holding the engine keeps it until its last runner is gone.
    engine.executor.free(function, handle)


def fuse(
    weights: Weights,
    architecture: Architecture,
    precision: str = "fp16",
    scales: Scales | None = None,
) -> Tensors:
    """The tensors of the header: as they are, but queries, keys and values together.

    float16. In "fp8" and "int8" linears that have `scales` are quantized: in FP8 those of the
    layers, with the scale of the channel with the largest; in INT8 the QA head too, if it has any.
    """
    together = {}
    for i in range(architecture.layers):
        for part in ("query", "key", "value"):
            together[f"layer.{i}.attention.{part}"] = f"layer.{i}.attention.qkv"
    parts: dict[str, list[str]] = {}
    for name in weights:
        owner, _, kind = name.rpartition(".")
        if owner not in together:
            parts[name] = [name]
    for kind in ("weight", "bias"):
        for owner, whole in together.items():
            parts.setdefault(f"{whole}.{kind}", []).append(f"{owner}.{kind}")
    weight_scales: Mapping[str, Array] = {}
    input_scales: Mapping[str, np.float32] = {}
    if scales is not None and precision == "fp8":
        weight_scales = {name: s for name, s in scales.fp8_weights.items() if name != "qa"}
        input_scales = scales.fp8_activations
    elif scales is not None and precision == "int8":
        weight_scales, input_scales = scales.weights, scales.activations
    inputs = gemm_inputs(architecture)
    fused: Tensors = {}
    for name, names in parts.items():
        value = np.concatenate([weights[n] for n in names])
        linears = [n.removesuffix(".weight") for n in names]
        if linears[0] not in weight_scales:
            fused[name] = value.astype(np.float16)
            continue
        steps = np.concatenate([weight_scales[linear] for linear in linears])
        if precision == "fp8":
            steps = steps.max(keepdims=True)
            fused[name] = (value / steps).clip(-FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)
        else:
            fused[name] = quantize_weight(value, steps)
        taken = input_scales[inputs[linears[0]]]
        fused[f"{name.removesuffix('weight')}scales"] = np.append(steps, taken)
    return fused
