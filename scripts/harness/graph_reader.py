"""The weights, scales and sizes of BERT, read back from the ONNX graph that `graph` writes.

An engine is built from one file, the graph; a network that is no ONNX graph takes its numbers
from there. Tensors are found by the names that `graph.build_graph` gives them, so another
exporter's file is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from .errors import UserError
from .files import parse_json
from .graph import FP8_SCALES, OTHER_SCALES
from .scales import Scales
from .weights import Architecture, Weights, check_size, check_weights

_WEIGHT_SCALE = ".weight.scale"
_SCALE = ".scale"


@dataclass(frozen=True)
class Model:
    """What a graph was written from. `scales` is None where it has none. FP8's come with one a
    weight, beside weights that are not quantized.

    Quantized weights are integers times scales, so that `scales.quantize_weight` makes the same
    integers of them again. What a plugin quantizes more coarsely is rounded twice then.
    """

    weights: Weights
    architecture: Architecture
    scales: Scales | None


def read_graph(path: Path) -> Model:
    """The model in the ONNX file `path`: weights float32, those of an FP16 graph widened.

    Raises UserError unless it is a graph of `graph.build_graph`'s with one scale a channel.
    """
    try:
        check_size(path)
        model = onnx.load(path, load_external_data=False)
        graph, other = model.graph, {p.key: p.value for p in model.metadata_props}
        tensors = {tensor.name: _array(tensor) for tensor in graph.initializer}
        architecture = _architecture(graph, tensors)
        scales = _scales(tensors, other)
        weights = _weights(tensors, scales)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `make onnx`") from None
    except (
        ArithmeticError, DecodeError, OSError, LookupError, TypeError, ValueError
    ) as error:  # fmt: skip
        raise UserError(
            f"{path} is no graph that `make onnx` writes ({str(error)[:200]}); delete it and run "
            "`make onnx`"
        ) from None
    check_weights(weights, architecture, qa_head=True)
    return Model(weights, architecture, scales if scales.weights or scales.fp8_weights else None)


def _array(tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        # The hash of the graph would not cover that file, which may be any.
        raise ValueError("its weights are in another file")
    return numpy_helper.to_array(tensor)


def _architecture(graph: onnx.GraphProto, tensors: dict[str, npt.NDArray[Any]]) -> Architecture:
    epsilons = {
        attribute.f
        for node in graph.node
        if node.op_type == "LayerNormalization"
        for attribute in node.attribute
        if attribute.name == "epsilon"
    }
    (epsilon,) = epsilons
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"a layer norm adds {epsilon} to the variance")
    _, _, heads, _ = tensors["split_heads"].tolist()
    vocab, hidden = tensors["embeddings.word"].shape
    return Architecture(
        layers=sum(name.endswith(".ffn.norm.gamma") for name in tensors),
        hidden=hidden,
        heads=heads,
        intermediate=len(tensors["layer.0.ffn.in.bias"]),
        vocab=vocab,
        positions=len(tensors["embeddings.position"]),
        # The file keeps it in single precision: its shortest decimal is what was written.
        layer_norm_eps=float(str(np.float32(epsilon))),
    )


def _scales(tensors: dict[str, npt.NDArray[Any]], properties: dict[str, str]) -> Scales:
    found = Scales({}, {})
    groups = {"activations": found.activations, "outputs": found.outputs}
    other = parse_json(properties.get(OTHER_SCALES, "{}"), OTHER_SCALES)
    for group, scales in dict(other).items():
        groups[group].update(_numbers(scales))
    if FP8_SCALES in properties:
        fp8 = parse_json(properties[FP8_SCALES], FP8_SCALES)
        found.fp8_activations.update(_numbers(fp8["activations"]))
        weights = _numbers(fp8["weights"])
        found.fp8_weights.update({n: np.array([s], np.float32) for n, s in weights.items()})
    for name, tensor in tensors.items():
        if name.endswith(_WEIGHT_SCALE):
            found.weights[name.removesuffix(_WEIGHT_SCALE)] = tensor.astype(np.float32)
        elif name.endswith(_SCALE):
            found.activations[name.removesuffix(_SCALE)] = np.float32(tensor.item())
    return found


def _numbers(scales: Any) -> dict[str, np.float32]:
    """The scales of a metadata property, by name; raises ValueError for what is none."""
    if not isinstance(scales, dict) or not all(
        isinstance(scale, float | int) for scale in scales.values()
    ):
        raise ValueError("its scales are no numbers by name")
    return {name: np.float32(float(scale)) for name, scale in scales.items()}


def _weights(tensors: dict[str, npt.NDArray[Any]], scales: Scales) -> Weights:
    weights: Weights = {}
    for name, tensor in tensors.items():
        owner, _, part = name.rpartition(".")
        if part == "weight":
            # The graph's are (in, out).
            turned = np.ascontiguousarray(tensor.T, np.float32)
            if tensor.dtype == np.int8:
                turned *= scales.weights[owner][:, None]
            weights[name] = turned
        elif part in ("bias", "gamma", "beta") or owner == "embeddings":
            weights[name] = tensor.astype(np.float32)
    return weights
