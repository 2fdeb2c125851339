"""What TensorRT-RTX's builder makes of our graphs: INT8 where there are scales, FP16 elsewhere."""

from __future__ import annotations

import functools
import platform
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tensorrt_rtx import Layer, Plan, build
from test_plugin_library import minilm
from tiny_bert import fitting_scales, random_weights

from harness.assets import AssetStore
from harness.graph import build_graph
from harness.model import QUANTIZED, SHARED_SCALES
from harness.profile import load_profile
from harness.scales import gemm_inputs
from harness.weights import Architecture, Weights

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="has no TensorRT-RTX wheels"
)
WARNINGS = Path(__file__).parent / "data" / "tensorrt_rtx_warnings.txt"
# MiniLM and BERT-base but for the vocabulary, and base for its depth.
MINILM = Architecture(6, 384, 12, 1536, vocab=50, positions=512, layer_norm_eps=1e-12)
BASE = Architecture(1, 768, 12, 3072, vocab=50, positions=512, layer_norm_eps=1e-12)
SMALL = replace(MINILM, layers=1)
KINDS = ("query", "key", "value", "output", "ffn.in", "ffn.out", "qa")
# TensorRT-RTX's own rendering, and TensorRT's, which it has to read as well: TensorRT's builder
# needs a GPU.
OURS, PER_CHANNEL = "int8-fp16-rtx", "int8-fp16"


def graph_of(
    architecture: Architecture,
    precision: str,
    left_in: str = "",
    weights: Weights | None = None,
) -> onnx.ModelProto:
    """The graph of `weights`, random ones if None; in INT8 `left_in` alone has no scales."""
    weights = random_weights(architecture) if weights is None else weights
    if precision == "fp16":
        return build_graph(weights, architecture, "fp16")
    scales = fitting_scales(weights, architecture)
    scales.weights.pop(left_in, None)
    return build_graph(
        weights,
        architecture,
        QUANTIZED[precision],
        scales,
        shared_scales=precision in SHARED_SCALES,
    )


@functools.cache
def plan_of(architecture: Architecture, precision: str) -> Plan:
    """Each is built once; building takes most of these tests' time."""
    return build(graph_of(architecture, precision))


@pytest.fixture(params=[MINILM, BASE], ids=["minilm", "base"])
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return request.param


@pytest.fixture(params=[OURS, PER_CHANNEL, "fp16"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def plan(architecture: Architecture, precision: str) -> Plan:
    return plan_of(architecture, precision)


def only(*precisions: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("precision", precisions, indirect=True)


def int8_gemms(plan: Plan) -> dict[str, Layer]:
    """The layer of each linear whose input and weight are INT8."""
    return {
        node.removesuffix(".matmul"): layer
        for layer in plan.layers
        if layer.kind == "gemm" and layer.inputs[0].dtype == layer.constants[0].dtype == "Int8"
        for node in layer.nodes
        if node.endswith(".matmul")
    }


def float_weights(plan: Plan) -> int:
    """How many numbers a plan keeps in floating-point matrices, embedding tables left out."""
    return sum(
        constant.shape[0] * constant.shape[1]
        for layer in plan.layers
        for constant in layer.constants
        if constant.dtype not in ("Int8", "Int32", "Int64")
        and len(constant.shape) == 2
        and min(constant.shape) > 1
        and not constant.name.startswith("embeddings.")
    )


def sizes_of(architecture: Architecture) -> dict[str, int]:
    """How many weights each linear has."""
    weights = random_weights(architecture)
    return {linear: weights[f"{linear}.weight"].size for linear in gemm_inputs(architecture)}


def known_warnings() -> set[str]:
    lines = WARNINGS.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if not line.startswith("#")}


def test_nothing_is_warned_of_that_is_not_listed(plan: Plan) -> None:
    assert set(plan.warnings) <= known_warnings()


def test_warnings_are_collected() -> None:
    model = graph_of(SMALL, OURS)
    model.graph.node[-1].name = model.graph.node[-2].name
    (warning,) = build(model).warnings
    assert "already exists" in warning


@only(OURS, PER_CHANNEL)
def test_each_linear_is_an_int8_gemm(plan: Plan, architecture: Architecture) -> None:
    sizes, gemms = sizes_of(architecture), int8_gemms(plan)
    assert gemms.keys() == sizes.keys()
    # Query, key and value are one GEMM; no weight is kept twice or in another type.
    assert len(set(gemms.values())) == 4 * architecture.layers + 1
    for layer in set(gemms.values()):
        rows, columns = layer.constants[0].shape
        assert rows * columns == sum(sizes[name] for name, its in gemms.items() if its is layer)
    assert float_weights(plan) == 0


@only("fp16")
def test_without_scales_nothing_is_int8(plan: Plan, architecture: Architecture) -> None:
    assert float_weights(plan) == sum(sizes_of(architecture).values())
    assert not [t for la in plan.layers for t in (*la.inputs, *la.constants) if t.dtype == "Int8"]


@pytest.mark.parametrize("kind", KINDS)
def test_linear_left_in_fp16_is_found(kind: str) -> None:
    (left_in,) = (name for name in gemm_inputs(SMALL) if name.endswith(kind))
    plan, sizes = build(graph_of(SMALL, OURS, left_in)), sizes_of(SMALL)
    assert int8_gemms(plan).keys() == sizes.keys() - {left_in}
    assert float_weights(plan) == sizes[left_in]


def test_attention_is_one_fp16_kernel(plan: Plan, architecture: Architecture) -> None:
    """Its two batched matrix multiplications are the only ones that INT8 leaves out."""
    for index in range(architecture.layers):
        products = {f"layer.{index}.attention.{name}" for name in ("scores", "context")}
        (layer,) = (layer for layer in plan.layers if layer.nodes & products)
        assert "mha" in layer.name and products < layer.nodes
        assert {tensor.dtype for tensor in layer.inputs} == {"Half"}
    attentions = [layer for layer in plan.layers if "mha" in layer.name]
    assert len(attentions) == architecture.layers


def after(plan: Plan, gemm: Layer, node: str) -> Layer:
    """The layer that takes `gemm`'s output and does `node`."""
    produced = {tensor.name for tensor in gemm.outputs}
    (layer,) = (
        layer
        for layer in plan.layers
        if node in layer.nodes and produced & {tensor.name for tensor in layer.inputs}
    )
    return layer


@only(OURS, PER_CHANNEL)
def test_bias_gelu_and_requantization_follow_in_one_kernel(plan: Plan) -> None:
    for name, gemm in int8_gemms(plan).items():
        follower = after(plan, gemm, f"{name}.add")
        if name.endswith("ffn.in"):
            stem = name.removesuffix(".in")
            assert {f"{stem}.gelu", f"{stem}.inner.quantized"} < follower.nodes
            assert {tensor.dtype for tensor in follower.outputs} == {"Int8"}
        elif name.endswith(("ffn.out", "attention.output")):
            # With the residual and its layer norm goes the next GEMM's requantization.
            norm = name.removesuffix(".out").removesuffix(".output") + ".norm"
            assert {norm, norm.replace("norm", "residual")} < follower.nodes
            assert "Int8" in {tensor.dtype for tensor in follower.outputs}


def scaled_late(plan: Plan) -> set[str]:
    """The linears whose sums are FP16 numbers before a kernel after the GEMM scales them.

    A sum of INT8 products may reach 127² × inputs, FP16 ends at 65504.
    """
    return {
        name
        for name, gemm in int8_gemms(plan).items()
        if f"{name}.weight.dequantized" in after(plan, gemm, f"{name}.add").nodes
        and gemm.outputs[0].dtype == "Half"
    }


@only(OURS)
def test_sums_are_scaled_before_they_are_fp16(plan: Plan, architecture: Architecture) -> None:
    assert not scaled_late(plan)
    for name, gemm in int8_gemms(plan).items():
        # Input's and weights' scale in one, by which the GEMM multiplies its sums.
        assert {f"{name}.weight.dequantized", f"{name}.matmul"} < gemm.nodes
        assert {constant.dtype for constant in gemm.constants[1:]} == {"Float"}
        # The ratio comes with the bias and what else follows, in the same kernel.
        assert f"{name}.rescaled" in after(plan, gemm, f"{name}.add").nodes
    tensors = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph_of(architecture, OURS).graph.initializer
    }
    for activation in set(gemm_inputs(architecture).values()):
        scales = (tensors[f"{activation}.{name}"] for name in ("scale", "weights.scale"))
        product = np.prod([scale.astype(np.float32) for scale in scales])
        assert product.tobytes() in plan.serialized, activation


@only(PER_CHANNEL)
def test_sums_with_a_scale_a_channel_are_scaled_late(
    plan: Plan, architecture: Architecture
) -> None:
    """Why TensorRT-RTX has a rendering of its own. Where this fails, it needs none any more."""
    assert scaled_late(plan) == gemm_inputs(architecture).keys()


def test_minilm_itself_is_built_so(assets: AssetStore) -> None:
    architecture = load_profile("minilm-sample").architecture
    plan = build(graph_of(architecture, OURS, weights=minilm(assets)))
    assert set(plan.warnings) <= known_warnings()
    assert int8_gemms(plan).keys() == gemm_inputs(architecture).keys()
    assert len(set(int8_gemms(plan).values())) == 4 * architecture.layers + 1
    assert not scaled_late(plan) and float_weights(plan) == 0
