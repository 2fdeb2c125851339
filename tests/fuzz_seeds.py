"""Small valid files of every format that the harness reads: what hostile ones are made from."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
import onnx.helper
import safetensors.numpy
import yaml
from history_builders import SAMPLE, nights
from test_torch_checkpoint import ATTACKS, Ordered, Pickler, tensor
from test_weights import hugging_face
from tiny_bert import random_weights

from harness.adapter import FORMAT
from harness.files import sha256_bytes
from harness.graph import build_graph
from harness.paths import GOLDEN, MANIFEST, PROFILES, ROOT
from harness.scales import Scales, gemm_inputs, weight_scales
from harness.weights import Architecture

TINY = Architecture(
    layers=1, hidden=8, heads=2, intermediate=8, vocab=9, positions=6, layer_norm_eps=1e-12
)
WEIGHTS = random_weights(TINY)

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Rivers",
            "paragraphs": [
                {
                    "context": "Der Rhein fließt 1.233 km. 😀",
                    "qas": [
                        {
                            "id": key,
                            "question": "How long?",
                            "answers": [{"text": "1.233 km", "answer_start": 17}] * 2,
                        }
                        for key in ("q1", "q2")
                    ],
                }
            ],
        }
    ],
}
GOLDENS = [
    json.loads((GOLDEN / "minilm-squad" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("fp16", "fp32")
]
HISTORY = [record.as_json() for record in nights(SAMPLE, [40.0, 41.0, None, 40.5])]


def chained(lines: Iterable[bytes]) -> bytes:
    """The head, on a line, and these lines of a history, which follow from one another as given."""
    kept = list(lines)
    head = {"lines": len(kept), "sha256": sha256_bytes(kept[-1] if kept else b"")}
    return json.dumps(head).encode() + b"\n" + b"".join(kept)


def history() -> bytes:
    """A whole history, head and lines."""
    lines, tip = [], sha256_bytes(b"")
    for entry in HISTORY:
        lines.append(json.dumps({"previous": tip, **entry}, separators=(",", ":")).encode() + b"\n")
        tip = sha256_bytes(lines[-1])
    return chained(lines)


PREDICTIONS = {"q1": "1.233 km", "q2": ""}


def _yaml(*names: Any) -> list[Any]:
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in names]


MANIFESTS = _yaml(MANIFEST)
PROFILE_FILES = _yaml(*sorted(PROFILES.glob("*.yaml")))
MATRICES = [
    # Asking whether other backends are here takes longer than reading a file.
    {"cells": [{"profiles": ["minilm-sample", "minilm-squad"], "backends": ["ort-cpu"]}]},
    {
        "machine": "m",
        "cells": [
            {
                "profiles": ["minilm-sample"],
                "backends": ["ort-cpu"],
                "precisions": ["fp32", "int8"],
                "batch": 4,
                "device": 0,
                "dataset": str(ROOT / "assets" / "sample" / "sample-v1.json"),
            }
        ],
    },
]


def _scales() -> Scales:
    inputs = gemm_inputs(TINY)
    return Scales(
        dict.fromkeys(inputs.values(), np.float32(0.0625)),
        {name: weight_scales(WEIGHTS[f"{name}.weight"], 127) for name in inputs},
    )


GRAPHS = [
    build_graph(WEIGHTS, TINY, "fp32"),
    build_graph(WEIGHTS, TINY, "fp16", _scales()),
]


def _checkpoint_graph() -> onnx.ModelProto:
    """Hugging Face's names; one weight turned and nameless, one stored once for two names."""
    named = hugging_face(WEIGHTS)
    turned = named.pop("bert.encoder.layer.0.intermediate.dense.weight").T.copy()
    make = onnx.helper.make_node
    nodes = [
        make("MatMul", ["x", "onnx::MatMul_1"], ["y"]),
        make("Add", ["bert.encoder.layer.0.intermediate.dense.bias", "y"], ["z"]),
        make("Identity", ["qa_outputs.bias"], ["copy"]),
    ]
    arrays = {**named, "onnx::MatMul_1": turned}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "bert", [], [], tensors))


CHECKPOINT_GRAPHS = [_checkpoint_graph()]

ADAPTER = safetensors.numpy.save(
    {
        "layer.0.ffn.in.lora_a": np.ones((2, 8), np.float16),
        "layer.0.ffn.in.lora_b": np.ones((8, 2), np.float16),
        "qa.bias": np.zeros(2, np.float16),
    },
    {"format": FORMAT, "rank": "2", "alpha": "4.0", "base_sha256": "0" * 64},
)
CHECKPOINT = safetensors.numpy.save(hugging_face(WEIGHTS))


def pickles(canary: str) -> list[bytes]:
    """A state_dict as torch saves it, and programs that would leave a file at `canary`."""

    class Touch:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
            return open, (canary, "w")

    state = {
        name: tensor("FloatStorage", "0", 6, 0, (2, 3), (3, 1))
        for name in ("qa_outputs.weight", "bert.embeddings.LayerNorm.bias")
    }
    forged = [Pickler().dumps({"x": make(canary)}) for make, _ in ATTACKS.values()]
    objects = [pickle.dumps({"x": Touch()}, n) for n in range(pickle.HIGHEST_PROTOCOL + 1)]
    return [Pickler().dumps(Ordered(state)), *forged, *objects]


def torch_zip(pickled: bytes) -> bytes:
    """The file that holds `pickled`, with one storage of six floats."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", np.arange(6, dtype="<f4").tobytes())
    return file.getvalue()


CONTENT = bytes(range(256)) * 4


def tars(packed: bool) -> bytes:
    """A tar of four members, one of them `a.bin`, one a link to it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("x/b.bin", "x/a.bin", "é" * 120):
            info = tarfile.TarInfo(name)
            info.size = len(CONTENT)
            archive.addfile(info, io.BytesIO(CONTENT))
        link = tarfile.TarInfo("y/c.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "../x/a.bin"
        archive.addfile(link)
    return gzip.compress(file.getvalue(), mtime=0) if packed else file.getvalue()


def wheel() -> bytes:
    """A wheel with `a.bin`, packed, and another member, as it is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bin", CONTENT)
        archive.writestr("p/é.bin", CONTENT, zipfile.ZIP_STORED)
    return file.getvalue()
