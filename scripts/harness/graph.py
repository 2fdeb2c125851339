"""The ONNX graph of BERT for question answering, written from weights.

The nodes follow the shape that ONNX Runtime's transformer optimizer recognises, so that it
fuses embedding, attention, GELU and layer norms without a rest. Opset 17 is the first with
LayerNormalization, and the last that every runtime this project serves can read.

With scales the graph is explicitly quantized: QuantizeLinear and DequantizeLinear stand at the
inputs of the linears and nowhere else. Nothing comes between a linear, its bias and its GELU;
attention, residuals and layer norms stay in float. FP16 scales need opset 19. With shared scales
a Mul stands between each linear and its bias.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from .scales import Scales, gemm_inputs, quantize_weight
from .weights import Architecture, Array, Weights

Precision = Literal["fp32", "fp16"]
OPSET = 17
OPSET_FP16_SCALES = 19
# ONNX 1.12's, the first with opset 17: TensorRT 8.6's parser accepts it. Opset 19 came with 9.
IR_VERSION = 8
IR_VERSION_FP16_SCALES = 9
# The metadata property of a quantized graph that holds `_other_scales`.
OTHER_SCALES = "other_scales"
# The metadata property that `add_fp8_scales` writes.
FP8_SCALES = "fp8_scales"
# What a masked score is given: finite in float16, and exp() of it is 0 beside any real score.
MASKED_SCORE = -10000.0


class _Graph:
    """Nodes and initializers under construction; `dtype` is that of the network's body.

    `scales` holds the scales of quantized linears by name, `gemm_inputs` what each one takes.
    `shared_scales` is `build_graph`'s.
    """

    def __init__(
        self,
        dtype: npt.DTypeLike,
        scales: Scales | None,
        gemm_inputs: dict[str, str],
        shared_scales: bool,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.scales = scales
        self.gemm_inputs = gemm_inputs
        self.shared_scales = shared_scales
        self.dequantized: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> str:
        array = np.asarray(value, dtype=dtype or self.dtype)
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def node(self, op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name


def build_graph(
    weights: Weights,
    architecture: Architecture,
    precision: Precision,
    scales: Scales | None = None,
    *,
    shared_scales: bool = False,
) -> onnx.ModelProto:
    """The model with inputs `input_ids`, `segment_ids`, `input_mask` int32 (batch, seq) and
    outputs `start_logits`, `end_logits` float32 (batch, seq); both axes are dynamic.

    In "fp16" all weights and activations are float16 and only the outputs are cast. With
    `scales`, linears that have some take int8 inputs and weights.

    Weights are dequantized by their scales per channel; with `shared_scales` by one scale for all
    linears that take the same input, and the product is then multiplied by each channel's ratio to
    it. That is for a runtime whose GEMM, given scales per channel, leaves its sums in FP16 before
    anything has scaled them.
    """
    graph = _Graph(
        np.float32 if precision == "fp32" else np.float16,
        scales,
        gemm_inputs(architecture),
        shared_scales,
    )
    hidden = _embedding(graph, weights, architecture)
    mask = _mask(graph, precision)
    for layer in range(architecture.layers):
        hidden = _layer(graph, weights, architecture, f"layer.{layer}", hidden, mask)
    _qa_head(graph, weights, hidden)
    shape = ["batch", "seq"]
    newer = scales is not None and precision == "fp16"
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bert_qa",
            [
                helper.make_tensor_value_info(name, TensorProto.INT32, shape)
                for name in ("input_ids", "segment_ids", "input_mask")
            ],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name in ("start_logits", "end_logits")
            ],
            list(graph.initializers.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET_FP16_SCALES if newer else OPSET)],
        ir_version=IR_VERSION_FP16_SCALES if newer else IR_VERSION,
        producer_name="bert-squad-harness",
    )
    if scales is not None:
        helper.set_model_props(model, {OTHER_SCALES: _other_scales(graph, scales)})
    return model


def _other_scales(g: _Graph, scales: Scales) -> str:
    """The scales that no node has, as JSON: a network that is built from this graph's numbers may
    quantize more than the graph does."""
    placed = {name.removesuffix(".scale") for name in g.initializers}
    groups = {"activations": scales.activations, "outputs": scales.outputs}
    return json.dumps(
        {
            group: {name: float(s) for name, s in sorted(found.items()) if name not in placed}
            for group, found in groups.items()
        }
    )


def add_fp8_scales(model: onnx.ModelProto, scales: Scales) -> None:
    """Write FP8's scales, as JSON with one a weight, beside the numbers of `model`, which stays as
    it is: a network that is built from these may quantize them.
    """
    groups = {
        "activations": {name: float(s) for name, s in sorted(scales.fp8_activations.items())},
        "weights": {name: float(s.max()) for name, s in sorted(scales.fp8_weights.items())},
    }
    helper.set_model_props(model, {FP8_SCALES: json.dumps(groups)})


def shared_scale(scales: Array) -> np.float32:
    """What to dequantize weights by that have these `scales`, positive float16 numbers in float32.

    The greatest power of two that is neither above the largest of them nor above 1. A scale's
    ratio to it is a float16 number too, and ratio times shared scale is the scale, bit for bit.
    """
    # Dividing by a power of two moves a scale's exponent and keeps its bits. By one not above 1 it
    # moves it up, where no bit is lost, a subnormal's neither, and to no more than 2 or the scale.
    #
    # In FP16 a GEMM puts out product / ratio. Where the ratio is 1 or more, that is no larger than
    # the product, which FP16 has to hold in any case. Where it is less, the channel's scale is
    # small, and the output is at most what the same sum would be at the channel with the largest.
    # At the other end nothing is lost that FP16 would have kept: multiplying by a ratio below 2
    # at most doubles what rounding below the normal numbers took. With a larger ratio the shared
    # scale is 1, and the least sum there is comes out as the input's scale, which is normal.
    _, exponent = np.frexp(scales.max())
    return np.float32(np.ldexp(1.0, min(int(exponent) - 1, 0)))


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Check `model` and write it to `path`, the same bytes for the same weights."""
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _embedding(g: _Graph, weights: Weights, architecture: Architecture) -> str:
    shape = g.node("Shape", "input_shape", ["input_ids"])
    seq = g.node("Gather", "seq", [shape, g.constant("one", 1, np.int64)], axis=0)
    seq = g.node("Unsqueeze", "seq_1d", [seq, g.constant("axis_0", [0], np.int64)])
    positions = g.node(
        "Slice",
        "position_ids",
        [
            g.constant("positions", np.arange(architecture.positions)[None], np.int64),
            g.constant("slice_start", [0], np.int64),
            seq,
            g.constant("axis_1", [1], np.int64),
            g.constant("slice_step", [1], np.int64),
        ],
    )
    tables = {
        name: g.constant(f"embeddings.{name}", weights[f"embeddings.{name}"])
        for name in ("word", "segment", "position")
    }
    word = g.node("Gather", "word_embedding", [tables["word"], "input_ids"], axis=0)
    segment = g.node("Gather", "segment_embedding", [tables["segment"], "segment_ids"], axis=0)
    position = g.node("Gather", "position_embedding", [tables["position"], positions], axis=0)
    total = g.node("Add", "embedding_word_segment", [word, segment])
    total = g.node("Add", "embedding_sum", [total, position])
    return _layer_norm(g, weights, architecture, "embeddings.norm", total)


def _mask(g: _Graph, precision: Precision) -> str:
    """(batch, 1, 1, seq): 0 for tokens, MASKED_SCORE for padding."""
    wide = g.node("Unsqueeze", "mask_3d", ["input_mask", g.constant("axis_1", [1], np.int64)])
    wide = g.node("Unsqueeze", "mask_4d", [wide, g.constant("axis_2", [2], np.int64)])
    kind = TensorProto.FLOAT if precision == "fp32" else TensorProto.FLOAT16
    wide = g.node("Cast", "mask_cast", [wide], to=kind)
    padding = g.node("Sub", "mask_inverted", [g.constant("mask_one", 1.0), wide])
    return g.node("Mul", "mask_score", [padding, g.constant("masked_score", MASKED_SCORE)])


def _linear(g: _Graph, weights: Weights, name: str, inputs: str) -> str:
    ratio = None
    if g.scales is not None and name in g.scales.weights:
        inputs = _requantized(g, g.scales, g.gemm_inputs[name], inputs)
        weight, ratio = _quantized_weight(g, g.scales, weights, name)
    else:
        # PyTorch keeps (out, in); MatMul wants (in, out).
        weight = g.constant(f"{name}.weight", weights[f"{name}.weight"].T)
    product = g.node("MatMul", f"{name}.matmul", [inputs, weight])
    if ratio is not None:
        product = g.node("Mul", f"{name}.rescaled", [product, ratio])
    # Bias first: ONNX Runtime's BiasGelu and SkipLayerNormalization patterns take it either way.
    return g.node(
        "Add", f"{name}.add", [g.constant(f"{name}.bias", weights[f"{name}.bias"]), product]
    )


def _requantized(g: _Graph, scales: Scales, activation: str, inputs: str) -> str:
    """`inputs` through int8 and back, once for all linears that take them."""
    if activation not in g.dequantized:
        scale = g.constant(f"{activation}.scale", scales.activations[activation])
        # Without a zero point the output would be uint8.
        zero = g.constant("zero_point", 0, np.int8)
        quantized = g.node("QuantizeLinear", f"{activation}.quantized", [inputs, scale, zero])
        g.dequantized[activation] = g.node(
            "DequantizeLinear", f"{activation}.dequantized", [quantized, scale, zero]
        )
    return g.dequantized[activation]


def _quantized_weight(
    g: _Graph, scales: Scales, weights: Weights, name: str
) -> tuple[str, str | None]:
    """The dequantized weight, and with shared scales what its product has to be multiplied by."""
    steps = scales.weights[name]
    integers = quantize_weight(weights[f"{name}.weight"], steps)
    weight, output = g.constant(f"{name}.weight", integers.T, np.int8), f"{name}.weight.dequantized"
    if not g.shared_scales:
        scale = g.constant(f"{name}.weight.scale", steps)
        zeros = g.constant(f"{name}.weight.zero_point", np.zeros(len(integers)), np.int8)
        return g.node("DequantizeLinear", output, [weight, scale, zeros], axis=1), None
    # Query, key and value with a scale each would be three GEMMs in TensorRT-RTX.
    taken = g.gemm_inputs[name]
    together = [scales.weights[n] for n in scales.weights if g.gemm_inputs[n] == taken]
    shared = shared_scale(np.concatenate(together))
    scale = g.constant(f"{taken}.weights.scale", shared)
    zero = g.constant("zero_point", 0, np.int8)
    ratio = g.constant(f"{name}.weight.ratio", steps / shared)
    return g.node("DequantizeLinear", output, [weight, scale, zero]), ratio


def _layer_norm(
    g: _Graph, weights: Weights, architecture: Architecture, name: str, inputs: str
) -> str:
    gamma, beta = (g.constant(f"{name}.{p}", weights[f"{name}.{p}"]) for p in ("gamma", "beta"))
    return g.node(
        "LayerNormalization",
        name,
        [inputs, gamma, beta],
        axis=-1,
        epsilon=architecture.layer_norm_eps,
    )


def _layer(
    g: _Graph, weights: Weights, architecture: Architecture, name: str, hidden: str, mask: str
) -> str:
    attended = _attention(g, weights, architecture, f"{name}.attention", hidden, mask)
    total = g.node("Add", f"{name}.attention.residual", [attended, hidden])
    middle = _layer_norm(g, weights, architecture, f"{name}.attention.norm", total)
    inner = _gelu(g, f"{name}.ffn.gelu", _linear(g, weights, f"{name}.ffn.in", middle))
    outer = _linear(g, weights, f"{name}.ffn.out", inner)
    total = g.node("Add", f"{name}.ffn.residual", [outer, middle])
    return _layer_norm(g, weights, architecture, f"{name}.ffn.norm", total)


def _attention(
    g: _Graph, weights: Weights, architecture: Architecture, name: str, hidden: str, mask: str
) -> str:
    heads, size = architecture.heads, architecture.head_size
    split = g.constant("split_heads", [0, 0, heads, size], np.int64)
    merge = g.constant("merge_heads", [0, 0, architecture.hidden], np.int64)
    parts = {}
    for part, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        flat = _linear(g, weights, f"{name}.{part}", hidden)
        by_head = g.node("Reshape", f"{name}.{part}.heads", [flat, split])
        parts[part] = g.node("Transpose", f"{name}.{part}.transposed", [by_head], perm=perm)
    scores = g.node("MatMul", f"{name}.scores", [parts["query"], parts["key"]])
    scale = g.constant("scale", np.sqrt(size))
    scores = g.node("Div", f"{name}.scaled", [scores, scale])
    scores = g.node("Add", f"{name}.masked", [scores, mask])
    probabilities = g.node("Softmax", f"{name}.probabilities", [scores], axis=-1)
    context = g.node("MatMul", f"{name}.context", [probabilities, parts["value"]])
    context = g.node("Transpose", f"{name}.context.transposed", [context], perm=[0, 2, 1, 3])
    context = g.node("Reshape", f"{name}.context.merged", [context, merge])
    return _linear(g, weights, f"{name}.output", context)


def _gelu(g: _Graph, name: str, inputs: str) -> str:
    """x * (1 + erf(x / sqrt 2)) / 2, the exact form that BERT was trained with."""
    scaled = g.node("Div", f"{name}.scaled", [inputs, g.constant("sqrt_2", np.sqrt(2.0))])
    erf = g.node("Erf", f"{name}.erf", [scaled])
    shifted = g.node("Add", f"{name}.shifted", [erf, g.constant("gelu_one", 1.0)])
    product = g.node("Mul", f"{name}.product", [inputs, shifted])
    return g.node("Mul", name, [product, g.constant("gelu_half", 0.5)])


def _qa_head(g: _Graph, weights: Weights, hidden: str) -> None:
    logits = _linear(g, weights, "qa", hidden)
    logits = g.node("Cast", "logits", [logits], to=TensorProto.FLOAT)
    for index, output in enumerate(("start_logits", "end_logits")):
        g.node("Gather", output, [logits, g.constant(f"index_{index}", index, np.int64)], axis=2)
