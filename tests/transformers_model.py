"""Hugging Face's BertForQuestionAnswering over our merged weights: the independent reference.

Run as a script, it writes tests/data/reference_logits.npz, which `make test` compares with:

    .venv-full/bin/python tests/transformers_model.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

REFERENCE = ROOT / "tests" / "data" / "reference_logits.npz"
# Every 40th question of the sample: short and long passages of every topic.
STEP = 40
LENGTH = 384


def model(weights: dict[str, Any], architecture: Any) -> Any:
    """BertForQuestionAnswering in evaluation mode, FP32, with exactly these weights."""
    import torch
    from transformers import BertConfig, BertForQuestionAnswering

    config = BertConfig(
        vocab_size=architecture.vocab,
        hidden_size=architecture.hidden,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        intermediate_size=architecture.intermediate,
        max_position_embeddings=architecture.positions,
        layer_norm_eps=architecture.layer_norm_eps,
    )
    found = BertForQuestionAnswering(config).eval()
    state = {their_name(name): torch.from_numpy(np.array(value)) for name, value in weights.items()}
    missing, unexpected = found.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("position_ids" in name for name in missing), missing
    return found


def their_name(name: str) -> str:
    """Hugging Face's name of a weight."""
    if name.startswith("qa."):
        return name.replace("qa.", "qa_outputs.")
    pairs = (
        ("embeddings.norm", "embeddings.LayerNorm"),
        ("embeddings.word", "embeddings.word_embeddings.weight"),
        ("embeddings.position", "embeddings.position_embeddings.weight"),
        ("embeddings.segment", "embeddings.token_type_embeddings.weight"),
        ("attention.query", "attention.self.query"),
        ("attention.key", "attention.self.key"),
        ("attention.value", "attention.self.value"),
        ("attention.output", "attention.output.dense"),
        ("attention.norm", "attention.output.LayerNorm"),
        ("ffn.in", "intermediate.dense"),
        ("ffn.out", "output.dense"),
        ("ffn.norm", "output.LayerNorm"),
        ("gamma", "weight"),
        ("beta", "bias"),
        ("layer.", "encoder.layer."),
    )
    for ours, theirs in pairs:
        if ours != "layer." or name.startswith("layer."):
            name = name.replace(ours, theirs, 1)
    return f"bert.{name}"


def logits(found: Any, encoded: Any) -> tuple[Any, Any]:
    """Start and end logits, float32 (batch, seq), of a tokenizer's output."""
    import torch

    with torch.inference_mode():
        output = found(**{name: torch.as_tensor(value) for name, value in encoded.items()})
    return output.start_logits.numpy(), output.end_logits.numpy()


def main() -> None:
    from transformers import BertTokenizer

    from harness.adapter import merge_adapter, read_adapter
    from harness.assets import AssetStore
    from harness.manifest import load_manifest
    from harness.paths import ASSET_CACHE, ASSET_LOCK, MANIFEST
    from harness.profile import load_profile
    from harness.squad import read_dataset
    from harness.weights import read_weights

    store = AssetStore(load_manifest(MANIFEST), root=ROOT, cache=ASSET_CACHE, lock_file=ASSET_LOCK)
    base = store.obtain("minilm/model.safetensors")
    adapter = store.obtain("minilm/adapter.safetensors")
    merged = merge_adapter(
        read_weights(base.path), read_adapter(adapter.path), base_sha256=base.sha256
    )
    found = model(merged, load_profile("minilm-sample").architecture)
    tokenizer = BertTokenizer(str(store.obtain("bert/vocab.txt").path))
    questions = read_dataset(store.obtain("sample/sample-v1.json").path).questions[::STEP]
    encoded = tokenizer(
        [q.text for q in questions],
        [q.context for q in questions],
        truncation="only_second",
        max_length=LENGTH,
        padding=True,
        return_tensors="np",
    )
    start, end = logits(found, encoded)
    REFERENCE.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        REFERENCE,
        ids=[q.id for q in questions],
        input_ids=encoded["input_ids"].astype(np.int32),
        segment_ids=encoded["token_type_ids"].astype(np.int32),
        input_mask=encoded["attention_mask"].astype(np.int32),
        start_logits=start,
        end_logits=end,
        adapter_sha256=adapter.sha256,
    )
    print(f"{len(questions)} windows written to {REFERENCE}")


if __name__ == "__main__":
    main()
