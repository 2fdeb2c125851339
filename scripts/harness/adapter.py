"""LoRA adapters: small trained changes to a base model, merged into its weights for export.

The file is safetensors, its tensors float32 or float16:

    <linear>.lora_a (rank, in), <linear>.lora_b (out, rank)
        for any linear of the encoder, under its name in `weights` without `.weight`;
    <name>
        a tensor that takes the place of the base's: a bias, a norm's gamma or beta, or the QA
        head, which the base need not have.

and its metadata: `format` ("bert-lora-1"), `rank`, `alpha`, and `base_sha256`, the SHA-256 of
the base model's file, because a change is one to those weights and no others.

LoRA (Hu et al., 2021, section 4.1): W' = W + (alpha / rank) B A.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from .errors import UserError
from .files import write_atomic
from .weights import QA_OUTPUTS, Array, Weights, read_safetensors, to_float32

FORMAT = "bert-lora-1"

_LINEAR = re.compile(r"layer\.\d+\.(attention\.(query|key|value|output)|ffn\.(in|out))")
_REPLACEABLE = re.compile(r"qa\.weight|.+\.bias|.+\.norm\.(gamma|beta)")


@dataclass(frozen=True)
class Adapter:
    """A change to the base model whose file has SHA-256 `base_sha256` (64 hexadecimal digits).

    `factors` maps a linear's name to (A, B), of shape (rank, in) and (out, rank);
    `replacements` maps a weight's name to the whole new tensor. All are float32.
    """

    rank: int
    alpha: float
    base_sha256: str
    factors: dict[str, tuple[Array, Array]]
    replacements: Weights

    def __post_init__(self) -> None:
        if self.rank < 1 or not math.isfinite(self.alpha):
            raise ValueError(f"rank {self.rank} and alpha {self.alpha} make no scale")
        if not re.fullmatch("[0-9a-f]{64}", self.base_sha256):
            raise ValueError("base_sha256 is not a SHA-256 in hexadecimal")
        if not self.factors and not self.replacements:
            raise ValueError("it changes nothing")
        for name, (a, b) in self.factors.items():
            if not _LINEAR.fullmatch(name):
                raise ValueError(f"{name[:100]!r} is no linear of the encoder")
            if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == self.rank:
                raise ValueError(f"{name} has factors {a.shape} and {b.shape}, rank {self.rank}")
        for name in self.replacements:
            if not _REPLACEABLE.fullmatch(name):
                raise ValueError(f"{name[:100]!r} may not be replaced")
        for name, tensor in _tensors(self).items():
            if not np.isfinite(tensor).all():
                raise ValueError(f"{name} holds NaN or infinity")

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank


def merge_adapter(weights: Weights, adapter: Adapter, *, base_sha256: str) -> Weights:
    """The base's weights with the adapter's change; arrays it does not touch are shared.

    `base_sha256` is that of the file `weights` were read from. Raises UserError if the adapter
    was made for another base or does not fit these weights.

    The result is the same to the last bit on every machine. The product is a sum of `rank`
    outer products in float64, added in the order of the rank, each step one elementwise IEEE
    operation; a BLAS product would add in an order that depends on the processor. It is rounded
    to float32 once, at the end.
    """
    if adapter.base_sha256 != base_sha256:
        raise UserError(
            f"the adapter was trained on a base model with SHA-256 {adapter.base_sha256[:12]}…, "
            f"and this one has {base_sha256[:12]}…; get the base model the profile names"
        )
    merged = dict(weights)
    for name, (a, b) in adapter.factors.items():
        weight = _base_weight(weights, f"{name}.weight", (b.shape[0], a.shape[1]))
        # An overflow becomes infinity, which `check_weights` reports by name.
        with np.errstate(over="ignore", invalid="ignore"):
            changed = weight + adapter.scale * _product(b, a)
            merged[f"{name}.weight"] = changed.astype(np.float32)
    head_shapes = {"qa.weight": (QA_OUTPUTS, _hidden(weights)), "qa.bias": (QA_OUTPUTS,)}
    for name, tensor in adapter.replacements.items():
        if name not in head_shapes:
            _base_weight(weights, name, tensor.shape)
        elif tensor.shape != head_shapes[name]:
            raise _misfit(name, head_shapes[name], tensor.shape)
        merged[name] = tensor
    return merged


def _product(b: Array, a: Array) -> npt.NDArray[np.float64]:
    """B A in float64, in an order that no library chooses."""
    columns, rows = b.astype(np.float64).T, a.astype(np.float64)
    total = np.zeros((b.shape[0], a.shape[1]))
    for column, row in zip(columns, rows, strict=True):
        total += np.multiply.outer(column, row)
    return total


def _hidden(weights: Weights) -> int:
    if "embeddings.word" not in weights:
        raise UserError("the adapter's base has no word embeddings; give a BERT encoder")
    return int(weights["embeddings.word"].shape[1])


def _base_weight(weights: Weights, name: str, shape: tuple[int, ...]) -> Array:
    if name not in weights:
        raise UserError(f"the adapter changes {name}, which its base lacks; check the adapter")
    if weights[name].shape != shape:
        raise _misfit(name, weights[name].shape, shape)
    return weights[name]


def _misfit(name: str, base: tuple[int, ...], change: tuple[int, ...]) -> UserError:
    return UserError(
        f"{name} has shape {base} and the adapter's change {change}; "
        "check that adapter and base belong together"
    )


def read_adapter(path: Path) -> Adapter:
    """Read an adapter file; raises UserError if it is missing, damaged or of another format."""
    stored, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not an adapter of format {FORMAT}; check the name")
    tensors = {name: to_float32(tensor, name, path) for name, tensor in stored.items()}
    try:
        return Adapter(
            rank=_rank(metadata["rank"]),
            alpha=float(metadata["alpha"]),
            base_sha256=metadata["base_sha256"],
            factors=_paired(tensors),
            replacements={
                name: tensor
                for name, tensor in tensors.items()
                if not name.endswith((".lora_a", ".lora_b"))
            },
        )
    except (KeyError, ValueError) as error:
        reason = str(f"no {error}" if isinstance(error, KeyError) else error)[:200]
        raise UserError(f"adapter {path} cannot be used ({reason}); train it again") from None


def _rank(text: str) -> int:
    # A number of any length could be read, and then not be printed.
    if not re.fullmatch("[0-9]{1,6}", text):
        raise ValueError(f"rank {text[:20]!r} is no number of six digits at most")
    return int(text)


def _paired(tensors: Weights) -> dict[str, tuple[Array, Array]]:
    names = {name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")}
    names |= {name.removesuffix(".lora_b") for name in tensors if name.endswith(".lora_b")}
    return {name: (tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]) for name in sorted(names)}


def write_adapter(
    path: Path, adapter: Adapter, *, storage: Literal["float16", "float32"] = "float16"
) -> None:
    """Write an adapter file; equal adapters give equal bytes.

    Raises UserError if a value is too large for `storage`.
    """
    stored: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in _tensors(adapter).items():
        with np.errstate(over="ignore"):
            stored[name] = np.ascontiguousarray(tensor, np.dtype(storage))
        if not np.isfinite(stored[name]).all():
            raise UserError(f"{name} does not fit into {storage}; store the adapter as float32")
    metadata = {
        "format": FORMAT,
        "rank": str(adapter.rank),
        "alpha": repr(float(adapter.alpha)),
        "base_sha256": adapter.base_sha256,
    }
    write_atomic(path, _sorted_header(safetensors.numpy.save(stored, metadata)))


def _tensors(adapter: Adapter) -> Weights:
    tensors = dict(adapter.replacements)
    for name, (a, b) in adapter.factors.items():
        tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"] = a, b
    return tensors


def _sorted_header(file: bytes) -> bytes:
    """The same safetensors file with its header in sorted order.

    The library writes metadata in the order of a hash table, another one each time. The format:
    the header's length as a little-endian uint64, the header in JSON padded with spaces so that
    the data are aligned to 8 bytes, the data.
    """
    (length,) = struct.unpack_from("<Q", file)
    header = json.loads(file[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + file[8 + length :]
