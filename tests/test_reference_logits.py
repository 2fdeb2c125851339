"""Our graph gives the logits of Hugging Face's BertForQuestionAnswering on real questions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers_model import REFERENCE

from harness import graph
from harness.adapter import merge_adapter, read_adapter
from harness.assets import AssetStore
from harness.backends import EngineOptions
from harness.backends.ort import OrtCpu, OrtSession
from harness.profile import load_profile
from harness.squad import read_dataset
from harness.weights import Weights, read_weights
from harness.windows import WindowOptions, cut_windows, load_tokenizer


@pytest.fixture(scope="module")
def merged(assets: AssetStore) -> Weights:
    base = assets.obtain("minilm/model.safetensors")
    adapter = read_adapter(assets.obtain("minilm/adapter.safetensors").path)
    return merge_adapter(read_weights(base.path), adapter, base_sha256=base.sha256)


@pytest.fixture(scope="module")
def reference(assets: AssetStore) -> dict[str, np.ndarray]:
    with np.load(REFERENCE) as arrays:
        found = dict(arrays)
    # Another adapter needs other reference logits: tests/transformers_model.py makes them.
    assert str(found["adapter_sha256"]) == assets.obtain("minilm/adapter.safetensors").sha256
    return found


@pytest.mark.parametrize("fused", [False, True])
def test_fp32_logits_equal_transformers(
    merged: Weights, reference: dict[str, np.ndarray], fused: bool, tmp_path: Path
) -> None:
    architecture = load_profile("minilm-sample").architecture
    path = tmp_path / "model.onnx"
    graph.save_graph(graph.build_graph(merged, architecture, "fp32"), path)
    if fused:
        options = EngineOptions("fp32", 8, 384, architecture.hidden, architecture.heads, 0)
        OrtCpu().build(path, tmp_path / "fused.onnx", options)
        path = tmp_path / "fused.onnx"
    session = OrtSession(path, optimized=fused)
    start, end, _ = session.run(
        reference["input_ids"], reference["segment_ids"], reference["input_mask"]
    )
    real = reference["input_mask"].astype(bool)
    for ours, theirs in ((start, reference["start_logits"]), (end, reference["end_logits"])):
        assert np.abs(ours - theirs)[real].max() <= 1e-4


def test_first_windows_hold_the_tokens_of_transformers_tokenizer(
    assets: AssetStore, vocab: Path, reference: dict[str, np.ndarray]
) -> None:
    dataset = read_dataset(assets.obtain("sample/sample-v1.json").path)
    wanted = set(reference["ids"].tolist())
    questions = [q for q in dataset.questions if q.id in wanted]
    windows = cut_windows(questions, load_tokenizer(vocab), WindowOptions(first_only=True))
    for row, (begin, length) in enumerate(zip(windows.starts, windows.lengths, strict=False)):
        theirs = reference["input_ids"][row][reference["input_mask"][row].astype(bool)]
        assert windows.tokens[begin : begin + length].tolist() == theirs.tolist()
