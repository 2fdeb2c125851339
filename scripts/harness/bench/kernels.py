"""`plugin/kernels/bert_kernels.h` from Python: what `make bench-kernels` times, in FP16.

Needs nothing but the library: the caller allocates on the GPU and passes addresses as integers,
0 for none. Shapes and layouts are the header's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from ..errors import UserError

_KERNELS = {0: "auto", 1: "portable", 2: "mma", 3: "wgmma"}
# What tables call this library.
OURS = "bert_kernels"
EPSILON = 1e-12
GEMM_WORKSPACE = 32 << 20  # bytes


class Sequences(ctypes.Structure):
    """BertSequences: how windows lie in a batch's rows."""

    _fields_ = (
        ("windows", c_int32), ("max_length", c_int32), ("tokens", c_int32), ("starts", c_void_p),
        ("lengths", c_void_p),
    )  # fmt: skip


class NormOutputs(ctypes.Structure):
    """BertNormOutputs."""

    _fields_ = (
        ("half", c_void_p), ("single", c_void_p), ("quantized", c_void_p), ("scale", c_float),
    )  # fmt: skip


class NormInputs(ctypes.Structure):
    """BertNormInputs."""

    _fields_ = (
        ("half", c_void_p), ("quantized", c_void_p), ("scale", c_float),
        ("residual_half", c_void_p), ("residual_single", c_void_p), ("bias", c_void_p),
        ("gamma", c_void_p), ("beta", c_void_p), ("tokens", c_int32), ("hidden", c_int32),
        ("epsilon", c_float),
    )  # fmt: skip


class Embedding(ctypes.Structure):
    """BertEmbedding."""

    _fields_ = (
        ("word", c_void_p), ("segment", c_void_p), ("position", c_void_p), ("gamma", c_void_p),
        ("beta", c_void_p), ("vocab", c_int32), ("segments", c_int32), ("positions", c_int32),
        ("hidden", c_int32), ("epsilon", c_float),
    )  # fmt: skip


class Gelu(ctypes.Structure):
    """BertGelu."""

    _fields_ = (
        ("half", c_void_p), ("quantized", c_void_p), ("scale", c_float), ("bias", c_void_p),
        ("output_half", c_void_p), ("output_quantized", c_void_p), ("output_scale", c_float),
        ("tokens", c_int32), ("channels", c_int32),
    )  # fmt: skip


class Linear(ctypes.Structure):
    """BertLinear. `activation` is 0 for none and 1 for GELU."""

    _fields_ = (
        ("input", c_void_p), ("weight", c_void_p), ("bias", c_void_p), ("output", c_void_p),
        ("tokens", c_int32), ("inputs", c_int32), ("outputs", c_int32), ("activation", c_int32),
        ("workspace", c_void_p), ("workspace_bytes", c_size_t),
    )  # fmt: skip


class Gemm:
    """A BertGemm: the algorithms chosen so far. Lives as long as the process."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._handle = c_void_p()
        kernels.call("bert_gemm_create", byref(self._handle))

    def linear(self, linear: Linear) -> None:
        """Queue y = activation(x W' + bias)."""
        self._kernels.queue("bert_linear", self._handle, byref(linear))

    def tune(self, linear: Linear) -> None:
        """Time cuBLASLt's algorithms for this shape and keep the fastest; synchronizes."""
        self._kernels.queue("bert_linear_tune", self._handle, byref(linear))


class Kernels:
    """The library at `path`; `stream` gives the address of the CUDA stream to queue on.

    Raises UserError if the library cannot be loaded, and where a function returns an error.
    """

    def __init__(self, path: Path, stream: Callable[[], int]) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise UserError(
                f"the kernel library cannot be loaded ({error}); build it with `make plugin "
                "USE_TENSORRT=true`, or name it with LIBRARY="
            ) from None
        self._stream = stream
        self._library.bert_last_error.restype = c_char_p
        signatures: dict[str, list[Any]] = {
            "bert_embed": [
                POINTER(Sequences), c_void_p, c_void_p, POINTER(Embedding), POINTER(NormOutputs),
            ],
            "bert_add_norm": [POINTER(NormInputs), POINTER(NormOutputs)],
            "bert_attention": [
                POINTER(Sequences), c_int32, c_int32, c_void_p, c_void_p, c_void_p, c_float,
            ],
            "bert_gelu": [POINTER(Gelu)],
            "bert_qa_head": [c_void_p, c_int32, c_int32, c_void_p, c_void_p, c_void_p, c_void_p],
            "bert_linear": [c_void_p, POINTER(Linear)],
            "bert_linear_tune": [c_void_p, POINTER(Linear)],
        }  # fmt: skip
        # Without argument types ctypes would pass addresses as 32-bit integers.
        for name, arguments in signatures.items():
            getattr(self._library, name).argtypes = [*arguments, c_void_p]

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the header; its error becomes a UserError."""
        if getattr(self._library, function)(*arguments) != 0:
            raise UserError(f"{function}: {self._library.bert_last_error().decode()}")

    def queue(self, function: str, *arguments: Any) -> None:
        """`call` on the current stream, which is every kernel's last argument."""
        self.call(function, *arguments, self._stream())

    def bucket(self, tokens: int) -> int:
        """The most tokens for which a linear that is tuned for `tokens` is tuned as well."""
        return int(self._library.bert_linear_bucket(c_int32(tokens)))

    def attention_kernel(self) -> str:
        """What bert_attention runs on this device: portable, mma or wgmma."""
        kernel = c_int32()
        self.call("bert_attention_chosen", byref(kernel))
        return _KERNELS.get(kernel.value, str(kernel.value))

    def attention(
        self, sequences: Sequences, heads: int, head_size: int, qkv: int, context: int
    ) -> None:
        """Context (tokens, heads * head_size) of qkv (tokens, 3 * heads * head_size)."""
        self.queue("bert_attention", byref(sequences), heads, head_size, qkv, context, None, 0.0)

    def add_norm(self, inputs: NormInputs, output: int) -> None:
        """Layer norm (tokens, hidden) of input + bias + residual."""
        self.queue("bert_add_norm", byref(inputs), byref(NormOutputs(half=output)))

    def embed(
        self, sequences: Sequences, ids: int, segments: int, embedding: Embedding, output: int
    ) -> None:
        """Layer norm (tokens, hidden) of three embeddings of int32 ids and segments (tokens)."""
        outputs = NormOutputs(half=output)
        self.queue("bert_embed", byref(sequences), ids, segments, byref(embedding), byref(outputs))

    def gelu(self, gelu: Gelu) -> None:
        """GELU of input + bias."""
        self.queue("bert_gelu", byref(gelu))

    def qa_head(
        self, hidden: int, tokens: int, size: int, weight: int, bias: int, start: int, end: int
    ) -> None:
        """Start and end logits float32 (tokens) of hidden (tokens, size)."""
        self.queue("bert_qa_head", hidden, tokens, size, weight, bias, start, end)
