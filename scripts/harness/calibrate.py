"""Scales measured on text: post-training quantization of a model's weights and activations.

Two steps, each a pass over calibration windows with ONNX Runtime:

1. `find_centers`, then `center`. BERT's hidden states have a few channels that reach far to one
   side of zero, and symmetric scales reach as far to the other. Outlier Suppression+ (Wei et al.
   2023, arXiv 2304.09145) subtracts the middle of each channel's range. Behind a layer norm that
   costs nothing: beta takes the subtraction, and the biases of whatever reads the hidden state
   add it again. The model's function stays what it was, and so do its GEMM weights.
2. `calibrate`, on the graph of the centered weights. An activation's INT8 range ends at a
   percentile of its magnitudes. GELU's outputs need that: the largest are ten times as large as
   999 in 1,000 of them, and few enough to clip.

The percentile is exact: of every tensor only the largest magnitudes are kept.
`onnxruntime.quantization`'s calibrators bin magnitudes instead, and hold whole activations of
all tensors while they do; they serve the tests as an oracle. Its entropy calibration and
clipping by least squares lost more accuracy than the percentile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper

from .batches import assemble
from .errors import UserError
from .files import sha256_bytes
from .graph import build_graph, save_graph
from .measure import progress
from .scales import (
    FP8_MAX,
    INT8_MAX,
    Scales,
    check_centers,
    gemm_inputs,
    output_names,
    to_scale,
    weight_scales,
)
from .weights import Architecture, Array, Weights
from .windows import Windows

# How many times as many of a linear's outputs may lie beyond their range. A few of
# ffn.out's are fifty times as large as all the rest, which such a range would round to a step or
# two; the layer norm behind it makes little of what is cut off.
_OUTPUTS_BEYOND = 10

# A layer norm's name to the middle of each channel of its output, float32 (hidden,).
Centers = dict[str, Array]


@dataclass(frozen=True)
class Method:
    """`percentile` of an activation's magnitudes, in (0, 100], becomes the largest INT8 value.

    100 takes the largest magnitude, known as min-max.
    """

    percentile: float = 99.999

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise UserError(
                f"percentile {self.percentile:g} is not in (0, 100]; mend the profile's method"
            )


def quantize(
    weights: Weights, architecture: Architecture, windows: Windows, method: Method
) -> Scales:
    """Both steps: centers, and the scales of the weights that these centers give.

    `center(weights, architecture, scales.centers)` are the weights that the scales belong to.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph_file = Path(folder) / "fp32.onnx"
        save_graph(build_graph(weights, architecture, "fp32"), graph_file)
        centers = find_centers(graph_file, windows, architecture)
        centered = center(weights, architecture, centers)
        save_graph(build_graph(centered, architecture, "fp32"), graph_file)
        scales = calibrate(graph_file, windows, centered, architecture, method)
    return replace(scales, centers=centers)


def find_centers(onnx_file: Path, windows: Windows, architecture: Architecture) -> Centers:
    """The middle between least and greatest value of each channel of every hidden state.

    `onnx_file` is `graph.build_graph`'s in FP32. Raises UserError as `calibrate` does.
    """
    norms = list(dict.fromkeys(_hidden_states(architecture).values()))
    least: Centers = {}
    greatest: Centers = {}
    for outputs in _activations(onnx_file, windows, norms):
        for norm, output in outputs.items():
            low, high = output.min(axis=(0, 1)), output.max(axis=(0, 1))
            least[norm] = np.minimum(least.get(norm, low), low)
            greatest[norm] = np.maximum(greatest.get(norm, high), high)
    return {norm: (least[norm] + greatest[norm]) / np.float32(2) for norm in norms}


def center(weights: Weights, architecture: Architecture, centers: Centers) -> Weights:
    """`weights` of the same function whose hidden states are less by `centers`.

    A layer norm's output feeds linears, W h + b = W (h - c) + (b + W c), and a residual, to which
    the bias of the linear before the sum adds c. Only betas and biases change; sums are made in
    float64. `weights` itself stays as it is. Raises UserError for centers of another model.
    """
    check_centers(centers, weights)
    linears: dict[str, list[str]] = {}
    for linear, activation in gemm_inputs(architecture).items():
        linears.setdefault(activation, []).append(linear)
    added: dict[str, npt.NDArray[np.float64]] = {}

    def add(name: str, value: npt.NDArray[np.float64]) -> None:
        added[name] = added.get(name, np.asarray(weights[name], np.float64)) + value

    for activation, norm in _hidden_states(architecture).items():
        middle = centers[norm].astype(np.float64)
        add(f"{norm}.beta", -middle)
        for linear in linears[activation]:
            add(f"{linear}.bias", weights[f"{linear}.weight"].astype(np.float64) @ middle)
        if activation != "qa.input":
            block = activation.removesuffix(".input")
            add(
                f"{block}.output.bias" if block.endswith("attention") else f"{block}.out.bias",
                middle,
            )
    return {**weights, **{name: value.astype(np.float32) for name, value in added.items()}}


def calibrate(
    onnx_file: Path,
    windows: Windows,
    weights: Weights,
    architecture: Architecture,
    method: Method,
) -> Scales:
    """INT8 and E4M3 scales of `weights`, of which `onnx_file` is `graph.build_graph`'s FP32 graph.

    Every token of `windows` counts once and no padding does: windows run one by one. The same
    inputs give the same scales. Softmax's inputs and outputs and E4M3, whose relative precision
    hardly depends on the range, take the largest magnitude whatever the method. Raises UserError
    for no windows and for a graph that cannot run, lacks a tensor or computes NaN or infinity.
    """
    activations, results = _tensors(architecture), _output_tensors(architecture)
    tensors = activations | results
    tokens = int(windows.lengths.sum())
    largest: dict[str, _Largest] = {}
    for outputs in _activations(onnx_file, windows, list(dict.fromkeys(tensors.values()))):
        for name, tensor in tensors.items():
            output = outputs[tensor]
            if name not in largest:
                # The largest scores and probabilities are what attention is about.
                times = _OUTPUTS_BEYOND if name in results else 1
                size = tokens * output.shape[-1]
                above = 0 if _is_softmax(name) else _rank(size, method, times)
                largest[name] = _Largest(above + 1)
            largest[name].add(output)
    int8 = {n: np.float32(to_scale(kept.least, INT8_MAX)) for n, kept in largest.items()}
    linears = list(gemm_inputs(architecture))
    return Scales(
        activations={n: int8[n] for n in activations},
        weights={n: weight_scales(weights[f"{n}.weight"], INT8_MAX) for n in linears},
        fp8_activations={
            n: np.float32(to_scale(largest[n].greatest, FP8_MAX)) for n in activations
        },
        fp8_weights={n: weight_scales(weights[f"{n}.weight"], FP8_MAX) for n in linears},
        outputs={n: int8[n] for n in results},
        origin={
            "method": asdict(method),
            "windows": len(windows),
            "tokens": tokens,
            "tokens_sha256": sha256_bytes(windows.tokens.astype("<i4").tobytes()),
        },
    )


def _hidden_states(architecture: Architecture) -> dict[str, str]:
    """The GEMM inputs that are hidden states, and the layer norm behind each."""
    hidden = {}
    norm = "embeddings.norm"
    for i in range(architecture.layers):
        hidden[f"layer.{i}.attention.input"] = norm
        hidden[f"layer.{i}.ffn.input"] = f"layer.{i}.attention.norm"
        norm = f"layer.{i}.ffn.norm"
    hidden["qa.input"] = norm
    return hidden


def _tensors(architecture: Architecture) -> dict[str, str]:
    """Every activation that has a scale, and the graph's tensor that holds it."""
    tensors = _hidden_states(architecture)
    for i in range(architecture.layers):
        attention = f"layer.{i}.attention"
        for outputs, part in (("queries", "query"), ("keys", "key"), ("values", "value")):
            tensors[f"{attention}.{outputs}"] = f"{attention}.{part}.add"
        tensors[f"{attention}.probabilities"] = f"{attention}.probabilities"
        tensors[f"{attention}.context"] = f"{attention}.context.merged"
        tensors[f"layer.{i}.ffn.inner"] = f"layer.{i}.ffn.gelu"
    return tensors


def _output_tensors(architecture: Architecture) -> dict[str, str]:
    """Every output that has a scale, and the graph's tensor that holds it."""
    return {
        name: f"{name.removesuffix('.scores')}.scaled"
        if name.endswith(".scores")
        else f"{name}.matmul"
        for name in output_names(architecture)
    }


def _is_softmax(name: str) -> bool:
    """Whether softmax takes or returns it."""
    return name.endswith((".scores", ".probabilities"))


def _rank(size: int, method: Method, times: int) -> int:
    """`times` as many as lie above the percentile of `size` magnitudes."""
    return min(round(times * size * (100 - method.percentile) / 100), size - 1)


class _Largest:
    """The `count` largest magnitudes seen; memory and time follow `count`, not what was seen."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept = np.empty(0, dtype=np.float32)

    def add(self, values: Array) -> None:
        magnitudes = np.abs(values).ravel()
        if len(self._kept) == self._count:
            magnitudes = magnitudes[magnitudes > self._kept.min()]
        kept = np.concatenate((self._kept, magnitudes))
        if len(kept) > self._count:
            kept = np.partition(kept, len(kept) - self._count)[-self._count :]
        self._kept = kept

    @property
    def least(self) -> np.float32:
        return np.float32(self._kept.min())

    @property
    def greatest(self) -> np.float32:
        return np.float32(self._kept.max())


def _activations(
    onnx_file: Path, windows: Windows, tensors: list[str]
) -> Iterator[Mapping[str, Array]]:
    """The named tensors of each window, whole and without padding."""
    if not len(windows):
        raise UserError("no windows to calibrate on; choose a dataset with questions")
    with _session(onnx_file, tensors) as session:
        for row in progress(range(len(windows)), "calibration"):
            batch = assemble(windows, np.asarray([row]))
            try:
                arrays = session.run(tensors, batch.inputs)
            except Exception as error:  # ONNX Runtime's exception classes have no common base.
                raise UserError(
                    f"{onnx_file} failed on a window ({error}); run `make onnx` again"
                ) from None
            for name, array in zip(tensors, arrays, strict=True):
                if not np.isfinite(array).all():
                    raise UserError(f"{name} in {onnx_file} is not finite; check the weights")
            yield dict(zip(tensors, arrays, strict=True))


@contextmanager
def _session(onnx_file: Path, tensors: list[str]) -> Iterator[Any]:
    """An ONNX Runtime session over `onnx_file` that can return `tensors` as well."""
    import onnxruntime as ort

    advice = "run `make onnx` again"
    try:
        model = onnx.load(onnx_file, format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise UserError(f"{onnx_file} does not exist; run `make onnx`") from None
    except (DecodeError, OSError) as error:
        raise UserError(f"{onnx_file} is not a whole ONNX file ({error}); {advice}") from None
    made = {name for node in model.graph.node for name in node.output}
    for name in tensors:
        if name not in made:
            raise UserError(f"{onnx_file} has no tensor {name}; {advice}")
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        # By way of a file: as bytes the model would be in memory once more.
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        del model
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exception classes have no common base.
            raise UserError(
                f"{onnx_file} cannot be loaded by ONNX Runtime ({error}); {advice}"
            ) from None
        yield session
