"""The profile of the published table, run through with a made-up checkpoint."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Checkout
from onnx import helper, numpy_helper
from test_qat import required, save
from transformers_model import their_name

from harness.graph import build_graph
from harness.profile import load_profile
from harness.weights import Weights, weight_shapes

ARCHITECTURE = load_profile("bert-base-squad").architecture


def random_weights() -> Weights:
    """Weights of BERT-base's shapes from a fixed seed, of the size that BERT starts from."""
    generator = np.random.default_rng(0)
    shapes = weight_shapes(ARCHITECTURE, qa_head=True)
    return {
        name: np.ones(shape, np.float32)
        if name.endswith("gamma")
        else generator.normal(0, 0.02, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def upstream_layout(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with upstream's names: linear weights kept (out, in) and transposed in
    the graph, other names for inputs, int64 inputs."""
    graph = model.graph
    transposes = []
    for tensor in graph.initializer:
        name = tensor.name
        if not name.startswith(("layer.", "embeddings.", "qa.")):
            continue
        theirs = their_name(name)
        array = numpy_helper.to_array(tensor)
        used = theirs
        if name.endswith(".weight"):
            array = np.ascontiguousarray(array.T)
            used = f"{theirs}.transposed"
            transposes.append(helper.make_node("Transpose", [theirs], [used], perm=[1, 0]))
        tensor.CopyFrom(numpy_helper.from_array(array, theirs))
        for node in graph.node:
            node.input[:] = [used if value == name else value for value in node.input]
    nodes = [*transposes, *graph.node]
    renamed = {"segment_ids": "token_type_ids", "input_mask": "attention_mask"}
    for node in nodes:
        node.input[:] = [renamed.get(value, value) for value in node.input]
    for value in graph.input:
        value.name = renamed.get(value.name, value.name)
        value.type.tensor_type.elem_type = onnx.TensorProto.INT64
    del graph.node[:]
    graph.node.extend(nodes)
    return model


@pytest.mark.full
def test_a_made_up_checkpoint_runs_through_and_fails_on_accuracy(
    checkout: Checkout, vocab: Path, tmp_path: Path
) -> None:
    model = upstream_layout(build_graph(random_weights(), ARCHITECTURE, "fp32"))
    # Position ids are int64 in either layout; ONNX's checker confirms the whole.
    onnx.checker.check_model(model)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    qat = save(required(random_weights(), ARCHITECTURE.layers)[0], tmp_path / "qat.bin")
    members = {
        "bert_base_squad.onnx": model.SerializeToString(),
        "config.json": b"{}",
        "vocab.txt": vocab.read_bytes(),
        "bert_base_int8_qat.bin": qat.read_bytes(),
    }
    with tarfile.open(mirror / "bert_base_uncased_squad.tar", "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(f"bert_base_uncased_squad/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    del model, members

    lock = tmp_path / "lock.json"
    given = (
        "PROFILE=bert-base-squad",
        "BACKEND=ort-cpu",
        f"ASSET_MIRROR={mirror}",
        f"ASSET_LOCK={lock}",
    )
    done = checkout.make("all", "BATCH=2", f"DATASET={checkout.dataset}", *given)
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    assert "Traceback" not in output
    assert "verify: fail" in done.stdout, output
    assert "is under the limit 87.0275" in done.stdout
    pins = json.loads(lock.read_text(encoding="utf-8"))
    assert "bert-base/bert_base_squad.onnx" in pins
    verdict = json.loads((checkout.root / "results/verify.json").read_text(encoding="utf-8"))
    failed = {check["name"] for check in verdict["checks"] if check["status"] == "fail"}
    # Random weights answer badly, but both graphs must give the same logits.
    assert failed == {"limits hold for dataset", "exact_match", "f1"}
    assert (checkout.root / "results/report.html").is_file()

    quantized = checkout.make("engine", "PRECISION=int8", *given)
    output = quantized.stdout + quantized.stderr
    assert quantized.returncode == 0, output
    assert "scales: build/scales/bert-base-" in output
    assert "bert-base/bert_base_int8_qat.bin" in json.loads(lock.read_text(encoding="utf-8"))
