"""From the exported graph to the one that ONNX Runtime's CPU provider runs fastest.

Three steps, each exact up to rounding:

1. `fuse`: ONNX Runtime's own transformer optimizer fuses attention, embedding, GELU and skip
   layer norms.
2. `split_layer_norms`: the CPU provider's layer norms are scalar loops; the same sums as
   ReduceMean, Sub and Mul nodes are vectorized (docs/performance.md).
3. For a quantized graph, `dequantize` goes before and `quantize` after these: the optimizer
   knows no Q/DQ nodes. Integers and scales pass through untouched. The kernels want uint8
   activations, so the zero point becomes 128: the same numbers, 128 higher.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ..errors import UserError
from . import EngineOptions

_CONTRIB = "com.microsoft"
# In a graph that is fused whole, other nodes have taken these in.
_FUSED_AWAY = {"Softmax", "Erf", "LayerNormalization", "Transpose", "Slice"}
# The first opset in which ReduceMean takes its axes as an input.
_OPSET = 18


@dataclass(frozen=True)
class QuantizedLinear:
    """Integer weight int8 (in, out), its scales float32 (out,), and the scale of its input."""

    weight: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    input_scale: npt.NDArray[np.float32]


def fuse(onnx_file: Path, options: EngineOptions) -> onnx.ModelProto:
    """`onnx_file` with ONNX Runtime's transformer fusions for BERT applied.

    Raises UserError when the graph does not fuse whole: a slower engine would go unnoticed.
    """
    from onnxruntime.transformers import optimizer

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    fused = optimizer.optimize_model(
        str(onnx_file),
        model_type="bert",
        num_heads=options.heads,
        hidden_size=options.hidden,
        opt_level=0,
    )
    left = sorted({node.op_type for node in fused.nodes()} & _FUSED_AWAY)
    if left:
        raise UserError(
            f"{onnx_file} did not fuse whole ({', '.join(left)} left); "
            "delete it and run `make onnx engine`"
        )
    model: onnx.ModelProto = fused.model
    if all(entry.domain != _CONTRIB for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    return model


def fused_from(package: str, options: EngineOptions) -> dict[str, Any]:
    """What shapes a fused graph besides its ONNX file: the version of `package`, which holds the
    optimizer, and the model's shape. As JSON."""
    return {
        "onnxruntime": version(package),
        "hidden": options.hidden,
        "heads": options.heads,
    }


def split_layer_norms(model: onnx.ModelProto) -> None:
    """Replace the FP32 SkipLayerNormalization nodes of `model` by vectorized ones.

    y = (x - mean) / sqrt(mean((x - mean)²) + epsilon) * gamma + beta over the last axis, x the
    sum of both inputs and the bias.
    """
    _add(model, "last_axis", np.array([-1], np.int64))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "SkipLayerNormalization":
            nodes.append(node)
            continue
        left, right, gamma, beta, bias = node.input
        epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
        name = node.output[0]
        _add(model, f"{name}.epsilon", np.float32(epsilon))

        def step(op: str, part: str, *inputs: str, name: str = name) -> str:
            output = f"{name}.{part}" if part else name
            nodes.append(helper.make_node(op, inputs, [output], name=output))
            return output

        total = step("Add", "total", step("Add", "biased", left, bias), right)
        centered = step("Sub", "centered", total, step("ReduceMean", "mean", total, "last_axis"))
        square = step("Mul", "square", centered, centered)
        variance = step("ReduceMean", "variance", square, "last_axis")
        deviation = step("Sqrt", "deviation", step("Add", "shifted", variance, f"{name}.epsilon"))
        normal = step("Mul", "normal", centered, step("Reciprocal", "inverse", deviation))
        step("Add", "", step("Mul", "scaled", normal, gamma), beta)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for entry in model.opset_import:
        if entry.domain == "" and entry.version < _OPSET:
            entry.version = _OPSET


def dequantize(model: onnx.ModelProto) -> list[tuple[str, QuantizedLinear]]:
    """Take the Q/DQ nodes out of `model` and give the weights their values in float32.

    Returns the quantized linears by the weight's name, in the order of the graph.
    """
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    linears = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or not _is_dequantized(producers.get(node.input[1]), tensors):
            continue
        name, scale, _ = producers[node.input[1]].input
        restored = producers[node.input[0]]
        linear = QuantizedLinear(tensors[name], tensors[scale], tensors[restored.input[1]])
        linears.append((name, linear))
        node.input[0] = producers[restored.input[0]].input[0]
        node.input[1] = name
    kept = [n for n in model.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for name, linear in linears:
        _replace(model, name, linear.weight * linear.scales)
    return linears


def quantize(model: onnx.ModelProto, linears: list[tuple[str, QuantizedLinear]]) -> None:
    """Give the fused `model` its integers back, for the kernels of the CPU provider."""
    _add(model, "quantized_zero", np.uint8(128))
    by_weight = dict(linears)
    # Attention has taken in query, key and value; its nodes stand layer by layer.
    taken = {name for node in model.graph.node for name in node.input}
    merged = [(name, linear) for name, linear in linears if name not in taken]
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    for index, node in enumerate(attentions):
        parts = [linear for name, linear in merged if name.startswith(f"layer.{index}.")]
        if len(parts) not in (0, 3):
            raise UserError(
                "a layer's attention is quantized in part; run `make scales onnx` again"
            )
        if parts:
            by_weight[node.input[1]] = _joined(parts)

    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Attention") or node.input[1] not in by_weight:
            nodes.append(node)
            continue
        weight, linear = node.input[1], by_weight[node.input[1]]
        _replace(model, weight, linear.weight)
        _add(model, f"{weight}.scales", linear.scales)
        _add(model, f"{weight}.input_scale", linear.input_scale)
        quantized = f"{node.output[0]}.quantized"
        scale, scales, zero = f"{weight}.input_scale", f"{weight}.scales", "quantized_zero"
        inputs = [node.input[0], scale, zero]
        nodes.append(helper.make_node("QuantizeLinear", inputs, [quantized], name=quantized))
        kept: dict[str, Any] = {}
        if node.op_type == "MatMul":
            op, inputs = "MatMulIntegerToFloat", [quantized, weight, scale, scales, zero]
        else:
            op = "QAttention"
            inputs = [quantized, weight, node.input[2], scale, scales, node.input[3], zero]
            kept = {
                a.name: helper.get_attribute_value(a)
                for a in node.attribute
                if a.name in ("num_heads", "mask_filter_value")
            }
        nodes.append(
            helper.make_node(op, inputs, list(node.output), name=node.name, domain=_CONTRIB, **kept)
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _is_dequantized(node: onnx.NodeProto | None, tensors: dict[str, npt.NDArray[Any]]) -> bool:
    return node is not None and node.op_type == "DequantizeLinear" and node.input[0] in tensors


def _joined(parts: list[QuantizedLinear]) -> QuantizedLinear:
    """Query, key and value, which take one input, side by side."""
    return QuantizedLinear(
        np.concatenate([part.weight for part in parts], axis=1),
        np.concatenate([part.scales for part in parts]),
        parts[0].input_scale,
    )


def _add(model: onnx.ModelProto, name: str, value: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _replace(model: onnx.ModelProto, name: str, value: npt.NDArray[Any]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, order="C"), name))
