"""From the exported graph to ONNX Runtime's fastest one: the same numbers, node by node."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bert import architecture_of, fitting_scales, inputs_of, options_of, random_weights

from harness.backends.ort import OrtCpu, OrtSession
from harness.backends.ort_graph import split_layer_norms
from harness.errors import UserError
from harness.graph import build_graph, save_graph
from harness.scales import Scales, gemm_inputs
from harness.weights import Architecture, Weights

HIDDEN = 24


def skip_layer_norms(epsilon: float, count: int = 2) -> onnx.ModelProto:
    """Skip layer norms in a row, as the optimizer leaves them: x and the skip into each."""
    random = np.random.default_rng(0)
    nodes, tensors, last = [], [], "x"
    for i in range(count):
        names = [f"{part}.{i}" for part in ("gamma", "beta", "bias")]
        for name in names:
            values = random.normal(0, 1, HIDDEN).astype(np.float32)
            tensors.append(numpy_helper.from_array(values, name))
        inputs, last = [last, "skip", *names], f"norm.{i}"
        nodes.append(
            helper.make_node(
                "SkipLayerNormalization",
                inputs,
                [last],
                domain="com.microsoft",
                epsilon=epsilon,
            )
        )
    shape = ["batch", "seq", HIDDEN]
    graph = helper.make_graph(
        nodes,
        "norms",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "skip")],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def outputs_of(model: onnx.ModelProto, feed: dict[str, Any]) -> npt.NDArray[np.float32]:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: npt.NDArray[np.float32] = session.run(None, feed)[0]
    return found


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 0.5])
@pytest.mark.parametrize(("middle", "spread"), [(0, 1), (30, 1), (0, 1e-2), (-5, 40)])
def test_split_layer_norms_are_the_same_function(
    epsilon: float, middle: float, spread: float
) -> None:
    fused = skip_layer_norms(epsilon)
    split = copy.deepcopy(fused)
    split_layer_norms(split)
    onnx.checker.check_model(split)
    assert {node.op_type for node in split.graph.node}.isdisjoint(
        {"SkipLayerNormalization", "LayerNormalization"}
    )
    random = np.random.default_rng(1)
    for shape in ((1, 1), (3, 7)):
        feed = {
            name: random.normal(middle, spread, (*shape, HIDDEN)).astype(np.float32)
            for name in ("x", "skip")
        }
        found = outputs_of(split, feed)
        np.testing.assert_allclose(found, outputs_of(fused, feed), rtol=1e-4, atol=1e-4)
        # And both are layer norms: in float64, from the definition.
        tensors = {t.name: numpy_helper.to_array(t) for t in fused.graph.initializer}
        x = feed["x"].astype(np.float64)
        for i in range(2):
            x = x + feed["skip"] + tensors[f"bias.{i}"]
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
            x = x * tensors[f"gamma.{i}"] + tensors[f"beta.{i}"]
        np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


def test_split_layer_norms_keep_the_rest_and_a_newer_opset() -> None:
    model = skip_layer_norms(1e-5, count=1)
    model.graph.node.append(helper.make_node("Relu", ["norm.0"], ["rest"], name="rest"))
    model.graph.output[0].name = "rest"
    for given, expected in ((17, 18), (18, 18), (20, 20)):
        made = copy.deepcopy(model)
        made.opset_import[0].version = given
        split_layer_norms(made)
        assert [(o.domain, o.version) for o in made.opset_import] == [
            ("", expected),
            ("com.microsoft", 1),
        ]
        assert made.graph.node[-1] == model.graph.node[-1]


class Quantized:
    """The Q/DQ graph of a random model, and the engine built from it."""

    def __init__(self, folder: Path, layers: int, qa: bool) -> None:
        self.architecture = architecture_of(layers)
        self.weights = random_weights(self.architecture)
        self.scales = fitting_scales(self.weights, self.architecture, qa=qa)
        self.graph_file, self.engine_file = folder / "graph.onnx", folder / "engine.onnx"
        write(self.weights, self.architecture, self.scales, self.graph_file)
        options = options_of(self.architecture, "int8")
        OrtCpu().build(self.graph_file, self.engine_file, options)
        self.reference = OrtSession(self.graph_file, optimized=False)
        self.engine = OrtCpu().load(self.engine_file, options)


def write(weights: Weights, architecture: Architecture, scales: Scales | None, path: Path) -> None:
    save_graph(build_graph(weights, architecture, "fp32", scales), path)


CASES = [(layers, qa) for layers in (1, 2) for qa in (True, False)]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c[0]} layers, qa {c[1]}")
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    return Quantized(tmp_path_factory.mktemp("quantized"), *request.param)


def test_engine_is_fused_whole_and_has_integer_gemms(built: Quantized) -> None:
    model = onnx.load(built.engine_file)
    layers, linears = built.architecture.layers, built.scales.weights
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["QAttention"] == layers
    assert operators["MatMulIntegerToFloat"] == len(linears) - 3 * layers
    assert operators["MatMul"] == ("qa" not in linears)
    assert operators["QuantizeLinear"] == 4 * layers + ("qa" in linears)
    assert operators["BiasGelu"] == layers
    assert operators["EmbedLayerNormalization"] == 1
    for rest in ("Attention", "DequantizeLinear", "Softmax", "Erf", "SkipLayerNormalization"):
        assert operators[rest] == 0, rest
    # Only the engine has been written.
    assert {path.name for path in built.engine_file.parent.iterdir()} == {
        "graph.onnx",
        "engine.onnx",
    }


def test_integers_and_scales_pass_through_untouched(built: Quantized) -> None:
    graph, engine = (onnx.load(path).graph for path in (built.graph_file, built.engine_file))
    source, found = (
        {t.name: numpy_helper.to_array(t) for t in g.initializer} for g in (graph, engine)
    )
    attentions = iter(node for node in engine.node if node.op_type == "QAttention")
    matmuls = {n.input[1]: n for n in engine.node if n.op_type == "MatMulIntegerToFloat"}
    quantizers = {n.output[0]: n for n in engine.node if n.op_type == "QuantizeLinear"}

    def same(name: str, expected: npt.NDArray[Any]) -> bool:
        return found[name].dtype == expected.dtype and np.array_equal(found[name], expected)

    def check_activation(node: onnx.NodeProto, scale: str, zero: str, activation: str) -> None:
        assert same(scale, source[f"{activation}.scale"])
        # 128 higher than in the graph, whose zero point is 0.
        assert same(zero, np.asarray(128, np.uint8))
        assert list(quantizers[node.input[0]].input[1:]) == [scale, zero]

    for layer in range(built.architecture.layers):
        name = f"layer.{layer}.attention"
        parts = [f"{name}.{part}.weight" for part in ("query", "key", "value")]
        node = next(attentions)
        _, weight, bias, scale, scales, mask, zero = node.input
        assert same(weight, np.concatenate([source[part] for part in parts], axis=1))
        assert same(scales, np.concatenate([source[f"{part}.scale"] for part in parts]))
        biases = [source[part.replace("weight", "bias")] for part in parts]
        assert same(bias, np.concatenate(biases))
        assert mask
        check_activation(node, scale, zero, f"{name}.input")
    assert not list(attentions)
    for linear, activation in gemm_inputs(built.architecture).items():
        if linear.endswith(("query", "key", "value")) or linear not in built.scales.weights:
            continue
        node = matmuls.pop(f"{linear}.weight")
        _, weight, scale, scales, zero = node.input
        assert same(weight, source[f"{linear}.weight"])
        assert same(scales, source[f"{linear}.weight.scale"])
        check_activation(node, scale, zero, activation)
    assert not matmuls
    if "qa" not in built.scales.weights:
        assert same("qa.weight", source["qa.weight"])
        assert source["qa.weight"].dtype == np.float32


def test_engine_gives_the_logits_of_the_graph(built: Quantized, tmp_path: Path) -> None:
    inputs = inputs_of([40, 23, 1], 40)
    real = np.broadcast_to(inputs[2] == 1, (2, 3, 40))
    write(built.weights, built.architecture, None, tmp_path / "float.onnx")
    plain = np.stack(OrtSession(tmp_path / "float.onnx", optimized=False).run(*inputs)[:2])
    graph, engine = (np.stack(s.run(*inputs)[:2]) for s in (built.reference, built.engine))
    assert engine.dtype == np.float32
    # Values beside a rounding boundary may fall on its other side, in the second layer all the
    # more: a few logits are off by about what quantization changes, the others by nothing.
    apart, lost = np.abs(engine - graph)[real], np.abs(plain - graph)[real]
    shallow = built.architecture.layers == 1
    assert apart.mean() < (0.05 if shallow else 0.3) * lost.mean()
    assert np.mean(apart < 1e-4) > (0.8 if shallow else 0.4)
    assert 0.01 < lost.mean() < 0.1


def test_padding_and_batch_change_nothing(built: Quantized) -> None:
    ids, segments, mask = inputs_of([7, 30, 1], 40)
    # What stands on padding must not matter either.
    ids = np.where(mask == 1, ids, 49).astype(np.int32)
    together = built.engine.run(ids, segments, mask)[:2]
    for row, length in enumerate(mask.sum(axis=1)):
        part = np.s_[row : row + 1, :length]
        alone = built.engine.run(ids[part], segments[part], mask[part])[:2]
        for left, right in zip(together, alone, strict=True):
            assert np.abs(left[part] - right).max() < 0.1
        whole = np.s_[row : row + 1]
        unmasked = built.engine.run(ids[whole], segments[whole], np.ones_like(mask[whole]))
        assert np.abs(unmasked[0][:, :length] - alone[0]).max() > 0.3


def test_same_graph_gives_the_same_engine(built: Quantized, tmp_path: Path) -> None:
    options = options_of(built.architecture, "int8")
    OrtCpu().build(built.graph_file, tmp_path / "engine.onnx", options)
    assert (tmp_path / "engine.onnx").read_bytes() == built.engine_file.read_bytes()


@pytest.mark.parametrize(
    "dropped",
    [
        ["layer.0.attention.key"],
        ["layer.1.attention.query", "layer.1.attention.value"],
    ],
    ids=["one", "two"],
)
def test_attention_quantized_in_part_is_refused(tmp_path: Path, dropped: list[str]) -> None:
    architecture = architecture_of(2)
    weights = random_weights(architecture)
    scales = fitting_scales(weights, architecture)
    left = {name: value for name, value in scales.weights.items() if name not in dropped}
    write(weights, architecture, replace(scales, weights=left), tmp_path / "graph.onnx")
    with pytest.raises(UserError, match="attention is quantized in part; run `make scales onnx`"):
        OrtCpu().build(
            tmp_path / "graph.onnx", tmp_path / "engine.onnx", options_of(architecture, "int8")
        )
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"]


@pytest.mark.parametrize(
    "kept",
    [("ffn.in", "attention.output"), ("attention.query", "attention.key", "attention.value")],
    ids=["linears", "attention"],
)
def test_the_same_linears_of_all_layers_may_stay_in_float(
    tmp_path: Path, kept: tuple[str, ...]
) -> None:
    architecture = architecture_of(2)
    weights = random_weights(architecture)
    scales = fitting_scales(weights, architecture)
    left = {name: value for name, value in scales.weights.items() if not name.endswith(kept)}
    assert len(scales.weights) - len(left) == 2 * len(kept)
    graph, engine = tmp_path / "graph.onnx", tmp_path / "engine.onnx"
    write(weights, architecture, replace(scales, weights=left), graph)
    OrtCpu().build(graph, engine, options_of(architecture, "int8"))
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(engine).graph.initializer}
    assert sum(value.dtype == np.int8 for value in tensors.values()) == (
        # In each layer joined attention and ffn.out, or all but attention; and the QA head.
        2 * 2 + 1 if "ffn.in" in kept else 2 * 3 + 1
    )
    inputs = inputs_of([40], 40)
    found = OrtCpu().load(engine, options_of(architecture, "int8")).run(*inputs)[:2]
    expected = OrtSession(graph, optimized=False).run(*inputs)[:2]
    np.testing.assert_allclose(found, expected, atol=0.2)


def test_without_scales_nothing_is_quantized(tmp_path: Path) -> None:
    architecture = architecture_of(1)
    graph = tmp_path / "graph.onnx"
    write(random_weights(architecture), architecture, None, graph)
    logits = []
    for precision in ("int8", "fp32"):
        options, engine = options_of(architecture, precision), tmp_path / f"{precision}.onnx"
        OrtCpu().build(graph, engine, options)
        logits.append(OrtCpu().load(engine, options).run(*inputs_of([40], 40))[:2])
    np.testing.assert_array_equal(*logits)
