"""BERT small enough for unit tests: random weights, inputs, and scales that fit them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import oracles

from harness.backends import EngineOptions
from harness.batches import BatchSize
from harness.scales import INT8_MAX, Scales, gemm_inputs, to_scale, weight_scales
from harness.weights import Architecture, Weights, weight_shapes

SIZES = {
    "embeddings.word": 1.0,
    "embeddings.position": 0.7,
    "embeddings.segment": 0.7,
    "qa.weight": 0.5,
}
Inputs = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]


def architecture_of(layers: int) -> Architecture:
    return Architecture(
        layers=layers,
        hidden=64,
        heads=4,
        intermediate=96,
        vocab=50,
        positions=40,
        layer_norm_eps=1e-12,
    )


def random_weights(architecture: Architecture, seed: int = 0) -> Weights:
    """Weights with which attention is far from uniform and tokens stay apart in every layer."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(architecture, qa_head=True).items():
        sharp = name.endswith(("query.weight", "key.weight"))
        size = 0.1 if len(shape) == 1 else SIZES.get(name, 0.25 if sharp else 0.06)
        values = random.normal(0, size, shape) + name.endswith("gamma")
        weights[name] = values.astype(np.float32)
    return weights


def options_of(
    architecture: Architecture, precision: str = "fp32", batch: BatchSize = 4
) -> EngineOptions:
    return EngineOptions(precision, batch, 40, architecture.hidden, architecture.heads, 0)


def inputs_of(lengths: list[int], width: int, seed: int = 1) -> Inputs:
    """Ids, segments and mask of windows with these lengths, padded with zeros to `width`."""
    random = np.random.default_rng(seed)
    ids, segments, mask = np.zeros((3, len(lengths), width), dtype=np.int32)
    for row, length in enumerate(lengths):
        ids[row, :length] = random.integers(1, 50, length)
        segments[row, length // 3 : length] = 1
        mask[row, :length] = 1
    return ids, segments, mask


def fitting_scales(weights: Weights, architecture: Architecture, *, qa: bool = True) -> Scales:
    """Scales under which nothing that `inputs_of` makes is clipped by much; `qa` also for the head.

    The largest magnitude of each activation is measured with the oracle in float64.
    """
    activation_of = gemm_inputs(architecture)
    if not qa:
        del activation_of["qa"]
    amax = dict.fromkeys(activation_of.values(), 0.0)

    def measure(linear: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if linear in activation_of:
            activation = activation_of[linear]
            amax[activation] = max(amax[activation], float(np.abs(x).max()))
        return x

    for ids, segments in zip(*inputs_of([40, 40], 40, seed=2)[:2], strict=True):
        oracles.bert_logits(weights, architecture, ids, segments, measure)
    return Scales(
        {name: np.float32(to_scale(value, INT8_MAX)) for name, value in amax.items()},
        {name: weight_scales(weights[f"{name}.weight"], INT8_MAX) for name in activation_of},
    )
