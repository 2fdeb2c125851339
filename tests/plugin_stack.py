"""BERT as a chain of plugins on a real GPU: files for `plugin/tests/plugin_stack.cpp`.

The network is what `add_bert` adds to the double; each of its plugins becomes lines and field
data, and what the double adds behind the QA head's FC is done here instead.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt_double as double
from tiny_bert import random_weights

from harness.batches import Batch, assemble, plan_batches, scatter
from harness.plugin_network import add_bert
from harness.scales import Scales
from harness.weights import Architecture, Weights
from harness.windows import Windows

BERT_BASE = Architecture(
    layers=12,
    hidden=768,
    heads=12,
    intermediate=3072,
    vocab=1000,  # a small one: the table's size is nothing that a plugin looks at
    positions=512,
    layer_norm_eps=1e-12,
)
# The width that random_weights' standard deviations are for.
_TINY_WIDTH = 64

# PluginFieldType's numbers in TensorRT's headers.
_TYPES = {"float16": 0, "float32": 1, "int8": 3, "int32": 5}
# Larger FLOAT32 fields are tables and weights, which the plugins round to FP16 anyway: files of
# half the size hold the same network.
_ROUNDED_FROM = 8192
TIMEOUT = 300  # seconds


def bert_base_weights() -> Weights:
    """`random_weights` with every linear's outputs as large as in the small model."""
    weights = random_weights(BERT_BASE)
    for name, weight in weights.items():
        if weight.ndim == 2 and not name.startswith("embeddings"):
            weights[name] = weight * np.float32((_TINY_WIDTH / weight.shape[1]) ** 0.5)
    return weights


def random_windows(lengths: list[int], vocab: int, seed: int = 1) -> Windows:
    """Windows of random tokens, none of them 0, whose passages begin at a third."""
    random = np.random.default_rng(seed)
    tokens = sum(lengths)
    return Windows(
        random.integers(1, vocab, tokens).astype(np.int32),
        np.asarray(lengths, np.int32),
        np.asarray(lengths, np.int32) // 3,
        np.arange(len(lengths), dtype=np.int32),
        np.zeros((tokens, 2), np.int32),
    )


def write_network(
    weights: Weights, architecture: Architecture, scales: Scales | None, path: Path
) -> None:
    """The chain of plugins for `weights`, of generation 3, into `path`."""
    network = double.NetworkV3()
    add_bert(
        network,  # type: ignore[arg-type]
        double.TENSORRT_V3,  # type: ignore[arg-type]
        double.RegistryV3(),  # type: ignore[arg-type]
        weights,
        architecture,
        scales,
        api=3,
    )
    ids: dict[Any, int] = {}

    def number(tensor: Any) -> int:
        return ids.setdefault(tensor, len(ids))

    lines = [f"input {number(tensor)}" for tensor in network.inputs]
    blobs: list[bytes] = []
    size = 0
    plugins = [layer for layer in network.layers if layer.fields]
    head = plugins[-1]
    for layer in network.layers[: network.layers.index(head) + 1]:
        if layer.kind == "Cast":
            assert layer.outputs[0].dtype is double.HALF
            lines.append(f"half {number(layer.inputs[0])} {number(layer.outputs[0])}")
            continue
        kind, version = layer.kind.split()
        lines.append(
            f"plugin Custom{kind}PluginDynamic_IxRT {version} {len(layer.fields)} "
            f"{len(layer.inputs)} {len(layer.outputs)}"
        )
        for name, value in layer.fields.items():
            rounded = value.dtype == np.float32 and value.size >= _ROUNDED_FROM
            stored = value.astype(np.float16) if rounded else value
            lines.append(
                f"field {name} {_TYPES[str(value.dtype)]} {_TYPES[str(stored.dtype)]} "
                f"{value.size} {size}"
            )
            blobs.append(stored.tobytes())
            size += len(blobs[-1])
        lines += [f"in {number(tensor)}" for tensor in layer.inputs]
        lines += [f"out {number(tensor)}" for tensor in layer.outputs]
    lines.append(f"output {number(head.outputs[0])}")
    path.write_bytes("\n".join(lines).encode() + b"\ndata\n" + b"".join(blobs))


def batches_of(windows: Windows, batch: int) -> list[Batch]:
    """Sorted by length and padded to the longest, as everywhere."""
    return [assemble(windows, rows) for rows in plan_batches(windows.lengths, batch)]


def write_batches(windows: Windows, batch: int, path: Path) -> None:
    with path.open("wb") as file:
        for one in batches_of(windows, batch):
            np.asarray(one.input_ids.shape, np.int32).tofile(file)
            for tensor in (one.input_ids, one.segment_ids, one.input_mask):
                np.ascontiguousarray(tensor, np.int32).tofile(file)


def read_logits(
    windows: Windows, batch: int, path: Path
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Start and end logits, float32 (T,), packed like the windows' tokens."""
    flat = np.fromfile(path, np.float16)
    packed = np.full((2, len(windows.tokens)), np.nan, np.float32)
    begin = 0
    for one in batches_of(windows, batch):
        count = one.input_ids.size * 2
        logits = flat[begin : begin + count].reshape(*one.input_ids.shape, 2).astype(np.float32)
        begin += count
        for column in range(2):
            scatter(windows, one, logits[..., column], packed[column])
    assert begin == len(flat)
    return packed[0], packed[1]


def run(program: Path, network: Path, batches: Path, output: Path) -> str:
    """Execute on the GPU, in seconds; returns what the program prints."""
    done = subprocess.run(
        [program, network, batches, output], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
