"""One naming from every format, and a plain word about what does not fit."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.weights import (
    Architecture,
    Weights,
    check_weights,
    read_safetensors,
    read_weights,
    weight_shapes,
)

TINY = Architecture(
    layers=2, hidden=4, heads=2, intermediate=6, vocab=11, positions=5, layer_norm_eps=1e-12
)
HUGGING_FACE = {
    "embeddings.word": "embeddings.word_embeddings.weight",
    "embeddings.position": "embeddings.position_embeddings.weight",
    "embeddings.segment": "embeddings.token_type_embeddings.weight",
    "embeddings.norm.gamma": "embeddings.LayerNorm.weight",
    "embeddings.norm.beta": "embeddings.LayerNorm.bias",
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "ffn.in": "intermediate.dense",
    "ffn.out": "output.dense",
    "ffn.norm": "output.LayerNorm",
    "qa.weight": "qa_outputs.weight",
    "qa.bias": "qa_outputs.bias",
}
FIXTURES_STAY = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
Arrays = dict[str, npt.NDArray[Any]]


def random_weights(seed: int = 0, *, qa_head: bool = True) -> Weights:
    """Multiples of 1/16 below 8, which float16 and bfloat16 hold exactly, and no two alike."""
    random = np.random.default_rng(seed)
    return {
        name: (random.integers(-127, 128, shape) / 16).astype(np.float32)
        for name, shape in weight_shapes(TINY, qa_head=qa_head).items()
    }


def hugging_face_name(name: str, *, prefix: str = "bert.", old_norms: bool = False) -> str:
    if name in HUGGING_FACE:
        key = HUGGING_FACE[name]
    else:
        _, index, rest = name.split(".", 2)
        owner, _, part = rest.rpartition(".")
        part = {"gamma": "weight", "beta": "bias"}.get(part, part)
        key = f"encoder.layer.{index}.{HUGGING_FACE[owner]}.{part}"
    if old_norms and "LayerNorm" in key:
        key = key.replace(".weight", ".gamma").replace(".bias", ".beta")
    return key if name.startswith("qa.") else prefix + key


def hugging_face(weights: Weights, **naming: Any) -> Arrays:
    return {hugging_face_name(name, **naming): array for name, array in weights.items()}


def assert_same(read: Weights, expected: Weights) -> None:
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        assert read[name].dtype == np.float32 and read[name].flags.c_contiguous
        assert np.array_equal(read[name], array), name


def refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message and len(message) < 800


# --- safetensors


@FIXTURES_STAY
@given(
    seed=st.integers(0, 1 << 32),
    prefix=st.sampled_from(["", "bert."]),
    old_norms=st.booleans(),
    qa_head=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]),
)
def test_safetensors_round_trip(
    tmp_path: Path, seed: int, prefix: str, old_norms: bool, qa_head: bool, dtype: npt.DTypeLike
) -> None:
    weights = random_weights(seed, qa_head=qa_head)
    tensors = hugging_face(weights, prefix=prefix, old_norms=old_norms)
    stored = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    stored[f"{prefix}embeddings.position_ids"] = np.arange(5)[None]
    stored[f"{prefix}pooler.dense.weight"] = np.zeros((4, 4), np.float32)
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.numpy.save(stored, {"format": "pt"}))
    read = read_weights(path)
    check_weights(read, TINY, qa_head=qa_head)
    assert_same(read, weights)


def write_safetensors(path: Path, tensors: Arrays) -> Path:
    path.write_bytes(safetensors.numpy.save(tensors))
    return path


@pytest.mark.parametrize(
    "key",
    [
        "cls.predictions.bias",
        "bert.bert.embeddings.LayerNorm.weight",
        "encoder.layer.0.attention.self.query.gamma",
        "encoder.layer.0.attention.output.LayerNorm.weight_1",
        "encoder.layer.00.output.dense.bias",
        "encoder.layer.-1.output.dense.bias",
        "encoder.layer.0.self_attn.out_proj.weight",
        "word_embeddings.weight",
        "embeddings.word_embeddings.bias",
        "qa.weight",
        "",
    ],
)
def test_unknown_names_are_named(tmp_path: Path, key: str) -> None:
    tensors = hugging_face(random_weights()) | {key: np.zeros(4, np.float32)}
    refused(write_safetensors(tmp_path / "m.safetensors", tensors), repr(key))


def test_one_weight_under_two_names(tmp_path: Path) -> None:
    weights = random_weights()
    tensors = hugging_face(weights) | hugging_face(weights, prefix="")
    refused(write_safetensors(tmp_path / "m.safetensors", tensors), "under two names")


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.int64, np.bool_])
def test_dtypes_that_do_not_widen(tmp_path: Path, dtype: npt.DTypeLike) -> None:
    tensors = {"qa_outputs.bias": np.zeros(2, dtype)}
    refused(
        write_safetensors(tmp_path / "m.safetensors", tensors),
        "qa_outputs.bias",
        np.dtype(dtype).name,
    )


def header(entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 64,
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 3) + b"{{{",
        header([]),
        header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}) + bytes(7),
        header({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}) + bytes(8),
        header({"x": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}) + bytes(8),
        header({"x": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 8]}}) + bytes(8),
        header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}) + bytes(8),
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_malformed_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    refused(path, "m.safetensors", "get it again")


def test_truncated_safetensors(tmp_path: Path) -> None:
    content = safetensors.numpy.save(hugging_face(random_weights()))
    path = tmp_path / "m.safetensors"
    for cut in range(1, len(content), 97):
        path.write_bytes(content[:-cut])
        refused(path, "get it again")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".onnx", ".bin"):
        refused(tmp_path / f"m{suffix}", "does not exist")
        (tmp_path / f"folder{suffix}").mkdir()
        refused(tmp_path / f"folder{suffix}")
    refused(tmp_path / "m.h5", "'.h5'", ".safetensors")
    refused(tmp_path / "model", "''")


def test_read_safetensors_keeps_names_dtypes_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.ones(2, np.float16)}, {"k": "v"}))
    tensors, metadata = read_safetensors(path)
    assert tensors["a"].dtype == np.float16 and metadata == {"k": "v"}
    assert read_safetensors(write_safetensors(path, {"a": np.ones(2)}))[1] == {}


# --- completeness


def test_complete_weights_pass() -> None:
    check_weights(random_weights(), TINY, qa_head=True)
    check_weights(random_weights(qa_head=False), TINY, qa_head=False)


@given(st.sampled_from(sorted(random_weights())), st.data())
def test_check_names_what_is_wrong(name: str, data: st.DataObject) -> None:
    weights = random_weights()
    fault = data.draw(st.sampled_from(["missing", "shape", "dtype", "value"]))
    if fault == "missing":
        del weights[name]
    elif fault == "shape":
        shape = list(weights[name].shape)
        shape[data.draw(st.integers(0, len(shape) - 1))] += 1
        weights[name] = np.zeros(shape, np.float32)
    elif fault == "dtype":
        weights[name] = weights[name].astype(np.float16)
    else:
        position = data.draw(st.integers(0, weights[name].size - 1))
        weights[name].flat[position] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    with pytest.raises(UserError, match=rf"weight {name} "):
        check_weights(weights, TINY, qa_head=True)


def test_check_names_what_does_not_belong() -> None:
    with pytest.raises(UserError, match=r"qa\.weight"):
        check_weights(random_weights(), TINY, qa_head=False)
    with pytest.raises(UserError, match=r"qa\.weight is missing"):
        check_weights(random_weights(qa_head=False), TINY, qa_head=True)
    weights = random_weights()
    weights["layer.2.ffn.in.bias"] = weights["layer.1.ffn.in.bias"]
    with pytest.raises(UserError, match=r"layer\.2\.ffn\.in\.bias has no place"):
        check_weights(weights, TINY, qa_head=True)


@pytest.mark.parametrize("heads", [3, 0])
def test_heads_divide_the_hidden_size(heads: int) -> None:
    with pytest.raises(UserError, match="multiple"):
        Architecture(1, 4, heads, 6, 11, 5, 1e-12)
    assert TINY.head_size == 2


# --- ONNX


def onnx_file(path: Path, initializers: Arrays, nodes: list[onnx.NodeProto] | None = None) -> Path:
    graph = onnx.helper.make_graph(
        nodes or [],
        "bert",
        inputs=[],
        outputs=[],
        initializer=[onnx.numpy_helper.from_array(a, name) for name, a in initializers.items()],
    )
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return path


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, inputs, [output], **attributes)


def linears(weights: Weights) -> list[str]:
    return [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_onnx_as_a_container_of_named_initializers(tmp_path: Path, prefix: str) -> None:
    weights = random_weights()
    path = onnx_file(tmp_path / "m.onnx", hugging_face(weights, prefix=prefix))
    read = read_weights(path)
    check_weights(read, TINY, qa_head=True)
    assert_same(read, weights)


@pytest.mark.parametrize("bias_first", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_onnx_with_folded_transpositions(
    tmp_path: Path, bias_first: bool, dtype: npt.DTypeLike
) -> None:
    """As torch.onnx.export writes it: `onnx::MatMul_9` (in, out), then Add with a named bias."""
    weights = random_weights()
    initializers = {
        key: array.astype(dtype)
        for key, array in hugging_face(weights).items()
        if not (array.ndim == 2 and ("encoder" in key or "qa_" in key))
    }
    initializers["onnx::Mul_1"] = np.ones((), dtype)
    nodes = []
    for number, name in enumerate(linears(weights)):
        folded, bias = f"onnx::MatMul_{number}", hugging_face_name(f"{name}.bias")
        initializers[folded] = np.ascontiguousarray(weights[f"{name}.weight"].T).astype(dtype)
        product = f"/{name}/MatMul_output_0"
        nodes += [
            node("MatMul", [f"x{number}", folded], product),
            node("Add", [bias, product] if bias_first else [product, bias], f"y{number}"),
            node("Add", [f"y{number}", f"x{number}"], f"skip{number}"),
        ]
    path = onnx_file(tmp_path / "m.onnx", initializers, nodes)
    assert_same(read_weights(path), weights)


def test_onnx_with_transpositions_in_the_graph(tmp_path: Path) -> None:
    weights = random_weights()
    nodes = []
    for number, name in enumerate(linears(weights)):
        nodes += [
            node("Transpose", [hugging_face_name(f"{name}.weight")], f"t{number}", perm=[1, 0]),
            node("MatMul", ["x", f"t{number}"], f"p{number}"),
            node("Add", [f"p{number}", hugging_face_name(f"{name}.bias")], f"y{number}"),
        ]
    path = onnx_file(tmp_path / "m.onnx", hugging_face(weights), nodes)
    assert_same(read_weights(path), weights)


def test_onnx_with_named_weights_stored_in_out(tmp_path: Path) -> None:
    weights = random_weights()
    initializers = hugging_face(weights)
    nodes = []
    for number, name in enumerate(linears(weights)):
        key = hugging_face_name(f"{name}.weight")
        initializers[key] = np.ascontiguousarray(initializers[key].T)
        nodes.append(node("MatMul", ["x", key], f"p{number}"))
    path = onnx_file(tmp_path / "m.onnx", initializers, nodes)
    assert_same(read_weights(path), weights)


@pytest.mark.parametrize("turned", [0, 1])
def test_onnx_gemm(tmp_path: Path, turned: int) -> None:
    weights = random_weights()
    stored = weights["qa.weight"] if turned else np.ascontiguousarray(weights["qa.weight"].T)
    initializers: Arrays = {"w": stored, "qa_outputs.bias": weights["qa.bias"]}
    gemm = node("Gemm", ["x", "w", "qa_outputs.bias"], "y", transB=turned)
    path = onnx_file(tmp_path / "m.onnx", initializers, [gemm])
    assert_same(read_weights(path), {n: weights[n] for n in ("qa.weight", "qa.bias")})


def test_onnx_equal_tensors_stored_once(tmp_path: Path) -> None:
    initializers: Arrays = {
        "qa_outputs.bias": np.zeros(2, np.float32),
        "w": np.ones((3, 2), np.float32),
    }
    bias = "bert.encoder.layer.0.output.dense.bias"
    nodes = [
        node("Identity", ["qa_outputs.bias"], bias),
        node("MatMul", ["x", "w"], "p"),
        node("Add", ["p", bias], "y"),
    ]
    read = read_weights(onnx_file(tmp_path / "m.onnx", initializers, nodes))
    assert set(read) == {"qa.bias", "layer.0.ffn.out.bias", "layer.0.ffn.out.weight"}
    assert read["layer.0.ffn.out.weight"].shape == (2, 3)


def test_onnx_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for content in (b"\xff" * 20, b"<html>not found</html>"):
        path.write_bytes(content)
        refused(path, "m.onnx")
    path.write_bytes(b"")
    refused(path, "no initializer")
    refused(onnx_file(path, {"onnx::MatMul_1": np.zeros((2, 2), np.float32)}), "no initializer")
    weights = random_weights()
    refused(onnx_file(path, hugging_face(weights) | hugging_face(weights, prefix="")), "twice")
    quantized = hugging_face(weights) | {"qa_outputs.weight": np.zeros((2, 4), np.int8)}
    refused(onnx_file(path, quantized), "qa_outputs.weight", "int8")


def test_onnx_two_products_for_one_bias(tmp_path: Path) -> None:
    zeros = np.zeros((2, 2), np.float32)
    nodes = []
    for weight in ("a", "b"):
        nodes += [
            node("MatMul", ["x", weight], f"p{weight}"),
            node("Add", [f"p{weight}", "qa_outputs.bias"], f"y{weight}"),
        ]
    initializers: Arrays = {"a": zeros, "b": zeros, "qa_outputs.bias": zeros[0]}
    refused(onnx_file(tmp_path / "m.onnx", initializers, nodes), "qa.weight twice")


def test_onnx_with_data_elsewhere_or_damaged(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", {"qa_outputs.bias": np.zeros(2, np.float32)})
    model = onnx.load(path)
    stored = model.graph.initializer[0]
    stored.dims[0] = 3
    path.write_bytes(model.SerializeToString())
    refused(path, "qa_outputs.bias", "damaged")
    stored.dims[0] = 2
    stored.data_type = 99
    path.write_bytes(model.SerializeToString())
    refused(path, "qa_outputs.bias")
    stored.data_type = onnx.TensorProto.FLOAT
    stored.data_location = onnx.TensorProto.EXTERNAL
    stored.ClearField("raw_data")
    stored.external_data.add(key="location", value="../../etc/passwd")
    path.write_bytes(model.SerializeToString())
    refused(path, "another file")


@settings(FIXTURES_STAY, max_examples=80)
@given(st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=8))
def test_damaged_onnx_ends_in_one_line(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    weights = random_weights()
    nodes = [
        node("Identity", ["qa_outputs.bias"], "b"),
        node("MatMul", ["x", "qa_outputs.weight"], "p"),
        node("Add", ["p", "b"], "y"),
    ]
    initializers: Arrays = {f"qa_outputs.{p}": weights[f"qa.{p}"] for p in ("weight", "bias")}
    path = onnx_file(tmp_path / "m.onnx", initializers, nodes)
    content = bytearray(path.read_bytes())
    for position, change in flips:
        content[position % len(content)] ^= change
    path.write_bytes(content)
    try:
        read_weights(path)
    except UserError as error:
        assert "\n" not in str(error)
