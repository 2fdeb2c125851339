"""One model's quantization scales: symmetric, weights per output channel, activations per tensor.

Quantized value = clip(round(value / scale)), rounding half to even. An INT8 weight lies in
[-127, 127]; an activation beyond its scale's range saturates at -128 or 127, as ONNX's
QuantizeLinear does.
FP8 (E4M3) is value / scale rounded to `float8_e4m3fn`, whose largest value is 448.

All scales are float16 numbers kept in float32, so that a graph with FP16 around its GEMMs has
the same scales, bit for bit, as one with FP32 around them.

Activations are named by the tensor that a GEMM takes; `{i}` counts layers from 0:

    layer.{i}.attention.input           hidden state into query, key and value
    layer.{i}.attention.{queries,keys,values}   their outputs, bias added, which attention takes
    layer.{i}.attention.probabilities   softmax output
    layer.{i}.attention.context         into attention.output
    layer.{i}.ffn.input                 into ffn.in
    layer.{i}.ffn.inner                 GELU output, into ffn.out
    qa.input                            into qa

Weights are named as in `weights`, without `.weight`.

Outputs are what quantized GEMMs return, for plugins that return INT8:

    layer.{i}.attention.{query,key,value,output}, layer.{i}.ffn.{in,out}
                                        a linear's product before its bias, by the linear's name
    layer.{i}.attention.scores          queries times keys / sqrt(head size), before any mask
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from .errors import UserError
from .files import parse_json
from .weights import Architecture, Array, Weights, read_safetensors

Int8 = npt.NDArray[np.int8]

INT8_MAX = 127.0
FP8_MAX = 448.0
_FORMAT = "bert-scales-1"
_ADVICE = "run `make scales` again"


@dataclass(frozen=True)
class Scales:
    """`activations` maps a tensor's name to its float32 scale, `weights` a linear's name to its
    float32 scales (out,). `fp8_activations` and `fp8_weights` are the same for E4M3, empty where
    the source has none. `centers` maps a layer norm's name to what its output is less by in the
    weights that the scales belong to, float32 (hidden,): see `calibrate.center`. `outputs` maps
    an output's name to its float32 scale; older files have none. `origin` says where the scales
    come from, as JSON.
    """

    activations: dict[str, np.float32]
    weights: dict[str, Array]
    fp8_activations: dict[str, np.float32] = field(default_factory=dict)
    fp8_weights: dict[str, Array] = field(default_factory=dict)
    centers: dict[str, Array] = field(default_factory=dict)
    outputs: dict[str, np.float32] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)


def gemm_inputs(architecture: Architecture) -> dict[str, str]:
    """The activation that each quantized linear takes, by the linear's name."""
    inputs = {}
    for i in range(architecture.layers):
        for part in ("query", "key", "value"):
            inputs[f"layer.{i}.attention.{part}"] = f"layer.{i}.attention.input"
        inputs[f"layer.{i}.attention.output"] = f"layer.{i}.attention.context"
        inputs[f"layer.{i}.ffn.in"] = f"layer.{i}.ffn.input"
        inputs[f"layer.{i}.ffn.out"] = f"layer.{i}.ffn.inner"
    inputs["qa"] = "qa.input"
    return inputs


def output_names(architecture: Architecture) -> list[str]:
    """What `outputs` has a scale for, if it has any. The QA head's logits are never quantized."""
    linears = [linear for linear in gemm_inputs(architecture) if linear != "qa"]
    return [*linears, *(f"layer.{i}.attention.scores" for i in range(architecture.layers))]


def to_scale(amax: npt.ArrayLike, largest: float) -> Array:
    """The scale, float32 of amax's shape, with which [-amax, amax] fills [-largest, largest].

    Rounded to float16, at least its smallest normal number: any scale suits a channel of zeros
    but zero. Raises UserError for an amax beyond float16.
    """
    half = np.finfo(np.float16)
    scale = np.maximum(np.asarray(amax, np.float64) / largest, float(half.smallest_normal))
    if not (scale <= float(half.max)).all():
        raise UserError(f"a tensor reaches {np.max(amax):g}, beyond any scale; check the weights")
    scales: Array = scale.astype(np.float16).astype(np.float32)
    return scales


def weight_scales(weight: Array, largest: float) -> Array:
    """Scales (out,) of a weight (out, in) float32, from the largest weight of each channel."""
    return to_scale(np.abs(weight).max(axis=1), largest)


def quantize_weight(weight: Array, scales: Array) -> Int8:
    """int8 (out, in) of a weight (out, in) float32 and its scales (out,)."""
    rounded = np.rint(weight / scales[:, None])
    integers: Int8 = np.clip(rounded, -INT8_MAX, INT8_MAX).astype(np.int8)
    return integers


def check_scales(scales: Scales, weights: Weights, architecture: Architecture) -> None:
    """Raise UserError unless every quantized GEMM has its scales, all positive and finite.

    The QA head may have none: it then stays in float, as it does upstream. Of FP8's scales,
    centers and outputs there may be none at all, but not some.
    """
    _check_gemms(scales.activations, scales.weights, "", weights, architecture)
    if scales.fp8_activations or scales.fp8_weights:
        _check_gemms(scales.fp8_activations, scales.fp8_weights, "FP8 ", weights, architecture)
    if scales.outputs:
        check_outputs(scales, architecture)
    if scales.centers:
        check_centers(scales.centers, weights)
    groups = _groups(scales)
    del groups["center"]
    for group in groups.values():
        for name, value in group.items():
            if not (np.isfinite(value).all() and np.all(np.asarray(value) > 0)):
                raise UserError(f"a scale of {name} is not positive and finite; {_ADVICE}")


def check_outputs(scales: Scales, architecture: Architecture) -> None:
    """Raise UserError unless every tensor between a layer's plugins has a scale."""
    attention = ("queries", "keys", "values", "probabilities")
    names = [f"layer.{i}.attention.{n}" for i in range(architecture.layers) for n in attention]
    missing = [name for name in names if name not in scales.activations]
    missing += [name for name in output_names(architecture) if name not in scales.outputs]
    if missing:
        raise UserError(
            f"the scales hold none of what {missing[0]} returns, which INT8 on TensorRT 8.6 and "
            f"ixRT needs; {_ADVICE}"
        )


def check_centers(centers: dict[str, Array], weights: Weights) -> None:
    """Raise UserError unless every layer norm of `weights` has its center, of finite numbers."""
    for name, beta in weights.items():
        norm = name.removesuffix(".beta")
        if norm == name:
            continue
        if norm not in centers:
            raise UserError(f"the center of {norm} is missing from the scales; {_ADVICE}")
        if centers[norm].shape != beta.shape:
            raise UserError(f"{norm} has a center {centers[norm].shape}; {_ADVICE}")
        if not np.isfinite(centers[norm]).all():
            raise UserError(f"the center of {norm} is not finite; {_ADVICE}")


def _check_gemms(
    activations: dict[str, np.float32],
    scales: dict[str, Array],
    kind: str,
    weights: Weights,
    architecture: Architecture,
) -> None:
    """Raise UserError unless every linear and what it takes have scales, of fitting shapes."""
    for linear, activation in gemm_inputs(architecture).items():
        if linear == "qa" and "qa" not in scales:
            continue
        if activation not in activations or linear not in scales:
            raise UserError(f"{kind}scales of {linear} are missing; {_ADVICE}")
        if scales[linear].shape != weights[f"{linear}.weight"].shape[:1]:
            raise UserError(f"{linear} has {kind}scales {scales[linear].shape}; {_ADVICE}")


def save_scales(scales: Scales, path: Path) -> None:
    """Write `scales` to `path` as safetensors, the same bytes for the same scales."""
    tensors = {
        f"{kind}.{name}": np.asarray(value, np.float32, order="C")
        for kind, group in _groups(scales).items()
        for name, value in group.items()
    }
    # One entry: the library writes several in another order each time.
    metadata = {_FORMAT: json.dumps(scales.origin, sort_keys=True)}
    path.write_bytes(safetensors.numpy.save(tensors, metadata))


def read_scales(path: Path) -> Scales:
    """The scales in `path`; raises UserError for a missing file or one of another kind."""
    tensors, metadata = read_safetensors(path)
    if _FORMAT not in metadata:
        raise UserError(f"{path} holds no scales; run `make scales`")
    groups: dict[str, dict[str, Any]] = {kind: {} for kind in _groups(Scales({}, {}))}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        rank = 0 if kind.endswith(("activation", "output")) else 1
        if kind not in groups or value.dtype != np.float32 or value.ndim != rank:
            raise UserError(f"{path} holds {key[:100]!r}, which is no scale; run `make scales`")
        groups[kind][name] = value if rank else np.float32(value)
    return Scales(
        groups["activation"],
        groups["weight"],
        groups["fp8_activation"],
        groups["fp8_weight"],
        groups["center"],
        groups["output"],
        parse_json(metadata[_FORMAT], f"the origin in {path}"),
    )


def _groups(scales: Scales) -> dict[str, dict[str, Any]]:
    return {
        "activation": dict(scales.activations),
        "weight": dict(scales.weights),
        "fp8_activation": dict(scales.fp8_activations),
        "fp8_weight": dict(scales.fp8_weights),
        "center": dict(scales.centers),
        "output": dict(scales.outputs),
    }
