"""The graph's reader gives back what the graph was written from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_bert import architecture_of, fitting_scales, random_weights

from harness.errors import UserError
from harness.graph import Precision, build_graph, save_graph
from harness.graph_reader import read_graph
from harness.scales import quantize_weight

ARCHITECTURE = architecture_of(2)
WEIGHTS = random_weights(ARCHITECTURE)
SCALES = fitting_scales(WEIGHTS, ARCHITECTURE)


def test_fp32_graph_gives_back_weights_and_sizes(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    save_graph(build_graph(WEIGHTS, ARCHITECTURE, "fp32"), path)
    found = read_graph(path)
    assert found.architecture == ARCHITECTURE
    assert found.scales is None
    assert list(found.weights) and found.weights.keys() == WEIGHTS.keys()
    for name, weight in WEIGHTS.items():
        np.testing.assert_array_equal(found.weights[name], weight)
        assert found.weights[name].flags.c_contiguous


def test_fp16_graph_gives_back_rounded_weights(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    save_graph(build_graph(WEIGHTS, ARCHITECTURE, "fp16"), path)
    for name, weight in read_graph(path).weights.items():
        np.testing.assert_array_equal(weight, WEIGHTS[name].astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("qa", [True, False])
def test_quantized_graph_gives_the_same_integers(
    tmp_path: Path, precision: Precision, qa: bool
) -> None:
    path = tmp_path / "graph.onnx"
    scales = fitting_scales(WEIGHTS, ARCHITECTURE, qa=qa)
    # Such that no node of the graph has.
    scales.activations["layer.0.attention.queries"] = np.float32(np.float16(0.013))
    scales.outputs["layer.1.ffn.in"] = np.float32(np.float16(1e-7))
    save_graph(build_graph(WEIGHTS, ARCHITECTURE, precision, scales), path)
    found = read_graph(path)
    assert found.scales is not None
    assert found.scales.activations == scales.activations
    assert found.scales.outputs == scales.outputs
    assert found.scales.weights.keys() == scales.weights.keys()
    for name, steps in scales.weights.items():
        np.testing.assert_array_equal(found.scales.weights[name], steps)
        weight = f"{name}.weight"
        np.testing.assert_array_equal(
            quantize_weight(found.weights[weight], steps), quantize_weight(WEIGHTS[weight], steps)
        )


def test_every_integer_survives_every_scale() -> None:
    """All INT8 weights times all positive float16 scales."""
    integers = np.arange(-127, 128, dtype=np.float32)
    bits = np.arange(1, 0x7C00, dtype=np.uint16)
    scales = bits.view(np.float16).astype(np.float32)
    normal = scales >= np.finfo(np.float16).smallest_normal
    weights = integers * scales[normal, None]
    np.testing.assert_array_equal(
        quantize_weight(weights, scales[normal]), np.broadcast_to(integers, weights.shape)
    )


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 1e-7])
def test_epsilon_is_the_decimal_that_was_written(tmp_path: Path, epsilon: float) -> None:
    path = tmp_path / "graph.onnx"
    architecture = replace(ARCHITECTURE, layer_norm_eps=epsilon)
    save_graph(build_graph(WEIGHTS, architecture, "fp32"), path)
    assert read_graph(path).architecture.layer_norm_eps == epsilon


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    with pytest.raises(UserError, match="is missing; run `make onnx`"):
        read_graph(path)
    whole = build_graph(WEIGHTS, ARCHITECTURE, "fp32").SerializeToString()
    other = onnx.ModelProto(ir_version=8)
    other.graph.node.add(op_type="Relu", input=["x"], output=["y"])
    for content in (b"", b"text", whole[: len(whole) // 2], other.SerializeToString()):
        path.write_bytes(content)
        with pytest.raises(
            UserError, match=r"is no graph that `make onnx` writes .*run `make onnx`"
        ):
            read_graph(path)


@pytest.mark.parametrize("lost", ["layer.1.ffn.in.weight", "embeddings.segment", "qa.bias"])
def test_graph_without_a_weight_is_refused(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "graph.onnx"
    model = build_graph(WEIGHTS, ARCHITECTURE, "fp32")
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == lost)
    model.graph.initializer.remove(tensor)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=lost):
        read_graph(path)
