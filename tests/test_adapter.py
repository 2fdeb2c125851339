"""Adapters: written, read and merged to the last bit, onto the base they were trained on."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.adapter import Adapter, merge_adapter, read_adapter, write_adapter
from harness.errors import UserError
from harness.weights import Architecture, Weights, check_weights, weight_shapes

TINY = Architecture(
    layers=2, hidden=4, heads=2, intermediate=6, vocab=11, positions=5, layer_norm_eps=1e-12
)
BASE = "0123456789abcdef" * 4
FIXTURES_STAY = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)


def random_array(random: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """Values float16 holds exactly, as they are once an adapter was stored in it."""
    return random.normal(0, 0.1, shape).astype(np.float16).astype(np.float32)


def base_weights(seed: int = 0) -> Weights:
    random = np.random.default_rng(seed)
    shapes = weight_shapes(TINY, qa_head=False)
    return {n: random.normal(0, 0.1, s).astype(np.float32) for n, s in shapes.items()}


def random_adapter(seed: int = 0, rank: int = 3, alpha: float = 5.0) -> Adapter:
    random = np.random.default_rng(seed)
    factors = {}
    for name, shape in weight_shapes(TINY, qa_head=False).items():
        if name.endswith(".weight"):
            outputs, inputs = shape
            pair = random_array(random, rank, inputs), random_array(random, outputs, rank)
            factors[name.removesuffix(".weight")] = pair
    replacements = {
        "qa.weight": random_array(random, 2, 4),
        "qa.bias": random_array(random, 2),
        "layer.1.ffn.in.bias": random_array(random, 6),
        "embeddings.norm.gamma": random_array(random, 4),
    }
    return Adapter(rank, alpha, BASE, factors, replacements)


def assert_equal(left: Adapter, right: Adapter) -> None:
    assert (left.rank, left.alpha, left.base_sha256) == (right.rank, right.alpha, right.base_sha256)
    assert left.factors.keys() == right.factors.keys()
    for name, pair in left.factors.items():
        for mine, other in zip(pair, right.factors[name], strict=True):
            assert other.dtype == np.float32 and np.array_equal(mine, other)
    assert left.replacements.keys() == right.replacements.keys()
    for name, tensor in left.replacements.items():
        assert np.array_equal(tensor, right.replacements[name])


@FIXTURES_STAY
@given(
    seed=st.integers(0, 1 << 32),
    rank=st.integers(1, 5),
    alpha=st.floats(0.001, 1000),
    storage=st.sampled_from(["float16", "float32"]),
)
def test_round_trip(
    tmp_path: Path, seed: int, rank: int, alpha: float, storage: Literal["float16", "float32"]
) -> None:
    adapter = random_adapter(seed, rank, alpha)
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, adapter, storage=storage)
    first = path.read_bytes()
    assert_equal(adapter, read_adapter(path))
    write_adapter(path, read_adapter(path), storage=storage)
    assert path.read_bytes() == first
    assert int.from_bytes(first[:8], "little") % 8 == 0, "the data are aligned"
    stored = safetensors.numpy.load(first)
    assert {str(tensor.dtype) for tensor in stored.values()} == {storage}


def exact(weight: Any, adapter: Adapter, b: Any, a: Any) -> float:
    scale = Fraction(adapter.alpha) / adapter.rank
    delta = sum(
        (Fraction(float(x)) * Fraction(float(y)) for x, y in zip(b, a, strict=True)), Fraction(0)
    )
    return float(np.float32(float(Fraction(float(weight)) + scale * delta)))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1 << 32))
def test_merged_weights_are_the_exact_ones_rounded(seed: int) -> None:
    weights, adapter = base_weights(seed), random_adapter(seed, rank=4, alpha=8.0)
    merged = merge_adapter(weights, adapter, base_sha256=BASE)
    check_weights(merged, TINY, qa_head=True)
    for name in ("layer.0.attention.query", "layer.1.ffn.out"):
        a, b = adapter.factors[name]
        weight = weights[f"{name}.weight"]
        expected = [
            [exact(weight[i, j], adapter, b[i], a[:, j]) for j in range(weight.shape[1])]
            for i in range(weight.shape[0])
        ]
        assert merged[f"{name}.weight"].tolist() == np.array(expected).tolist()


def test_merge_replaces_shares_and_leaves_the_base_alone() -> None:
    weights, adapter = base_weights(), random_adapter()
    before = {name: weight.copy() for name, weight in weights.items()}
    merged = merge_adapter(weights, adapter, base_sha256=BASE)
    assert weights.keys() == before.keys()
    assert all(np.array_equal(weights[name], before[name]) for name in before)
    for name, tensor in adapter.replacements.items():
        assert np.array_equal(merged[name], tensor)
    assert merged["embeddings.word"] is weights["embeddings.word"]
    assert all(w.dtype == np.float32 and w.flags.c_contiguous for w in merged.values())
    again = merge_adapter(base_weights(), random_adapter(), base_sha256=BASE)
    assert all(merged[name].tobytes() == again[name].tobytes() for name in merged)


def test_a_head_of_the_base_is_replaced() -> None:
    weights = base_weights() | {
        "qa.weight": np.zeros((2, 4), np.float32),
        "qa.bias": np.zeros(2, np.float32),
    }
    merged = merge_adapter(weights, random_adapter(), base_sha256=BASE)
    check_weights(merged, TINY, qa_head=True)
    assert merged["qa.weight"].any()


def test_another_base_is_refused() -> None:
    with pytest.raises(UserError, match=r"0123456789ab.*ffffffffffff.*base model"):
        merge_adapter(base_weights(), random_adapter(), base_sha256="f" * 64)


def test_an_adapter_that_does_not_fit() -> None:
    adapter = random_adapter()
    pair = np.zeros((3, 5), np.float32), np.zeros((4, 3), np.float32)
    cases: list[tuple[Adapter, str]] = [
        (replace(adapter, factors={"layer.0.ffn.in": pair}), r"layer\.0\.ffn\.in\.weight has"),
        (replace(adapter, factors={"layer.7.ffn.in": pair}), r"layer\.7\.ffn\.in\.weight.*lacks"),
        (replace(adapter, replacements={"qa.weight": np.zeros((2, 5), np.float32)}), "qa.weight"),
        (replace(adapter, replacements={"qa.bias": np.zeros(3, np.float32)}), "qa.bias"),
        (replace(adapter, replacements={"layer.0.ffn.in.bias": np.zeros(5, np.float32)}), "bias"),
        (replace(adapter, replacements={"layer.9.ffn.in.bias": np.zeros(6, np.float32)}), "lacks"),
    ]
    for unfit, message in cases:
        with pytest.raises(UserError, match=message):
            merge_adapter(base_weights(), unfit, base_sha256=BASE)
    with pytest.raises(UserError, match="embeddings"):
        merge_adapter({}, replace(adapter, factors={}), base_sha256=BASE)


def test_an_overflow_is_left_for_the_check() -> None:
    adapter = random_adapter()
    name = "layer.0.ffn.in"
    large = np.full((3, 4), 3e38, np.float32), np.full((6, 3), 3e38, np.float32)
    merged = merge_adapter(
        base_weights(), replace(adapter, factors={name: large}), base_sha256=BASE
    )
    with pytest.raises(UserError, match=r"layer\.0\.ffn\.in\.weight holds NaN or infinity"):
        check_weights(merged, TINY, qa_head=True)


GOOD_METADATA = {"format": "bert-lora-1", "rank": "3", "alpha": "5.0", "base_sha256": BASE}


def good_tensors() -> dict[str, npt.NDArray[Any]]:
    return {
        "layer.0.ffn.in.lora_a": np.zeros((3, 4), np.float16),
        "layer.0.ffn.in.lora_b": np.zeros((6, 3), np.float16),
        "qa.bias": np.zeros(2, np.float32),
    }


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": "bert-lora-2"}, "format"),
        ({"format": None}, "format"),
        ({"rank": None}, "rank"),
        ({"rank": "0"}, "rank"),
        ({"rank": "-3"}, "rank"),
        ({"rank": "three"}, "three"),
        ({"rank": "2"}, "rank 2"),
        ({"alpha": None}, "alpha"),
        ({"alpha": "nan"}, "alpha"),
        ({"alpha": "inf"}, "alpha"),
        ({"base_sha256": None}, "base_sha256"),
        ({"base_sha256": BASE[:-1]}, "SHA-256"),
        ({"base_sha256": BASE.upper()}, "SHA-256"),
    ],
)
def test_metadata_that_does_not_fit(
    tmp_path: Path, change: dict[str, str | None], word: str
) -> None:
    metadata = {k: v for k, v in (GOOD_METADATA | change).items() if v is not None}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.numpy.save(good_tensors(), metadata))
    with pytest.raises(UserError, match=word):
        read_adapter(path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"layer.0.ffn.in.lora_b": None}, r"layer\.0\.ffn\.in\.lora_b"),
        ({"layer.0.ffn.in.lora_a": None}, r"layer\.0\.ffn\.in\.lora_a"),
        ({"layer.0.ffn.in.lora_a": np.zeros((4, 3), np.float16)}, "factors"),
        ({"layer.0.ffn.in.lora_a": np.zeros(3, np.float16)}, "factors"),
        ({"layer.0.ffn.in.lora_a": np.full((3, 4), np.nan, np.float16)}, "NaN"),
        ({"qa.bias": np.full(2, np.inf, np.float32)}, "qa.bias holds"),
        ({"qa.bias": np.zeros(2, np.float64)}, "float64"),
        ({"layer.0.ffn.in.weight": np.zeros((6, 4), np.float32)}, "may not be replaced"),
        ({"embeddings.word": np.zeros((11, 4), np.float32)}, "may not be replaced"),
        ({"qa.lora_a": np.zeros((3, 4)), "qa.lora_b": np.zeros((2, 3))}, "float64"),
        (
            {"qa.lora_a": np.zeros((3, 4), "f4"), "qa.lora_b": np.zeros((2, 3), "f4")},
            "no linear of the encoder",
        ),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    tensors = {k: v for k, v in (good_tensors() | change).items() if v is not None}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, GOOD_METADATA))
    with pytest.raises(UserError, match=word):
        read_adapter(path)


def test_files_that_are_no_adapters(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        read_adapter(path)
    path.write_bytes(safetensors.numpy.save({}, GOOD_METADATA))
    with pytest.raises(UserError, match="changes nothing"):
        read_adapter(path)
    whole = safetensors.numpy.save(good_tensors(), GOOD_METADATA)
    for cut in range(1, len(whole), 31):
        path.write_bytes(whole[:-cut])
        with pytest.raises(UserError, match="get it again"):
            read_adapter(path)


def test_too_large_for_float16(tmp_path: Path) -> None:
    adapter = random_adapter()
    adapter = replace(adapter, replacements={"qa.bias": np.array([1e5, 0], np.float32)})
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"qa\.bias does not fit into float16"):
        write_adapter(path, adapter)
    assert not list(tmp_path.iterdir())
    write_adapter(path, adapter, storage="float32")
    assert_equal(adapter, read_adapter(path))
