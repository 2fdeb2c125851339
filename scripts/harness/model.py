"""The profile's model: its weights, and the ONNX graphs written from them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import cast

from . import adapter, calibrate, graph, qat, scales, torch_checkpoint, weights
from .errors import UserError
from .files import atomic_path, fingerprint
from .graph import Precision
from .inputs import Inputs
from .paths import BUILD, shown
from .provenance import code_sha256
from .records import MadeFile
from .weights import Weights

# Graphs with INT8 GEMMs, and what is around these.
QUANTIZED: dict[str, Precision] = {"int8": "fp32", "int8-fp16": "fp16", "int8-fp16-rtx": "fp16"}
# Those with `shared_scales`. TensorRT-RTX needs them; TensorRT wants nothing between a GEMM and
# its bias.
SHARED_SCALES = {"int8-fp16-rtx"}


def origin(inputs: Inputs) -> dict[str, str | None]:
    """The hashes of the files that the weights are made from."""
    adapter = inputs.model.get("adapter")
    return {
        "weights": inputs.file("weights").sha256,
        "adapter": None if adapter is None else adapter["sha256"],
    }


def merged_weights(inputs: Inputs) -> Weights:
    """The model's weights, the adapter merged where the profile has one."""
    base = inputs.file("weights")
    merged = weights.read_weights(base.checked("assets"))
    if "adapter" in inputs.model:
        change = adapter.read_adapter(inputs.file("adapter").checked("assets"))
        merged = adapter.merge_adapter(merged, change, base_sha256=base.sha256)
    weights.check_weights(merged, inputs.options.profile.architecture, qa_head=True)
    return merged


def export_graph(inputs: Inputs, precision: str, scales_file: MadeFile | None = None) -> Path:
    """The graph's file, written unless one made from the same things is there.

    `precision` is "fp32", "fp16", or a quantized one, which takes `scales_file`: of `QUANTIZED`, or
    "fp8", whose graph is FP16's with the scales beside it.
    """
    profile = inputs.options.profile
    made_from = {
        **origin(inputs),
        "architecture": asdict(profile.architecture),
        "precision": precision,
        "scales": None if scales_file is None else scales_file.sha256,
        # The graph's authors are inputs too: another graph.py may write another graph.
        "code": code_sha256(graph, weights, torch_checkpoint, adapter, scales, calibrate, qat),
    }
    path = BUILD / "onnx" / f"{profile.model}-{precision}-{fingerprint(made_from)}.onnx"
    if not path.is_file():
        if scales_file is None:
            made = graph.build_graph(
                merged_weights(inputs), profile.architecture, cast(Precision, precision)
            )
        else:
            found = scales.read_scales(scales_file.checked("scales"))
            values = quantized_weights(inputs, found)
            scales.check_scales(found, values, profile.architecture)
            if precision == "fp8":
                if not found.fp8_weights:
                    raise UserError(
                        f"{shown(scales_file.path)} holds no FP8 scales; a QAT checkpoint has none"
                    )
                made = graph.build_graph(values, profile.architecture, "fp16")
                graph.add_fp8_scales(made, found)
            else:
                made = graph.build_graph(
                    values,
                    profile.architecture,
                    QUANTIZED[precision],
                    found,
                    shared_scales=precision in SHARED_SCALES,
                )
        with atomic_path(path) as temporary:
            graph.save_graph(made, temporary)
    return path


def quantized_weights(inputs: Inputs, found: scales.Scales) -> Weights:
    """The weights that `found` belongs to: a QAT checkpoint's own, or the model's, centered."""
    architecture = inputs.options.profile.architecture
    if "qat" in inputs.options.profile.assets:
        return qat.read_qat(inputs.calibration.checked("scales"), architecture)[0]
    return calibrate.center(merged_weights(inputs), architecture, found.centers)
