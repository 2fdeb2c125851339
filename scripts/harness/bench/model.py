"""The model that all systems run: its weights in the files that they are built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from ..errors import UserError
from ..graph import build_graph, save_graph
from ..profile import Profile
from ..squad import Question
from ..weights import Architecture, Array, Weights, read_safetensors, weight_shapes
from ..windows import Windows

# Standard deviation of the weights that BERT is initialized with (Devlin et al. 2018,
# initializer_range of the reference implementation's configuration).
_INITIALIZER_RANGE = 0.02
_SEED = 20180810
# Questions that quantizers look at, ours like NNCF.
CALIBRATION_QUESTIONS = 32


@dataclass(frozen=True)
class Model:
    """One set of weights, as files, so that a worker reads only what its system needs.

    `weights` is a safetensors file under `harness.weights`' names, `graph` the FP32 ONNX graph
    as `harness.graph` writes it, not fused. `profile` names the profile that the architecture
    comes from; `trained` says that the weights do as well, so that their answers can be scored.
    `calibration` holds the windows that quantizers may see.
    """

    architecture: Architecture
    weights: Path
    graph: Path
    vocabulary: Path
    calibration: Windows
    profile: str
    trained: bool

    def read(self) -> Weights:
        """The weights, float32."""
        tensors, _ = read_safetensors(self.weights)
        return tensors


def save_model(
    weights: Weights,
    profile: Profile,
    folder: Path,
    vocabulary: Path,
    calibration: Windows,
    *,
    trained: bool,
) -> Model:
    """Write the files of a model into `folder`, which need not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    weights_file, graph_file = folder / "weights.safetensors", folder / "graph.onnx"
    safetensors.numpy.save_file(weights, weights_file)
    save_graph(build_graph(weights, profile.architecture, "fp32"), graph_file)
    return Model(
        architecture=profile.architecture,
        weights=weights_file,
        graph=graph_file,
        vocabulary=vocabulary,
        calibration=calibration,
        profile=profile.name,
        trained=trained,
    )


def random_weights(architecture: Architecture) -> Weights:
    """Weights as BERT is initialized: normal, norms the identity, biases zero; always the same.

    They cost what trained ones cost: no kernel here looks at the values.
    """
    generator = np.random.default_rng(_SEED)

    def initial(name: str, shape: tuple[int, ...]) -> Array:
        if name.endswith(".gamma"):
            return np.ones(shape, dtype=np.float32)
        if name.endswith((".beta", ".bias")):
            return np.zeros(shape, dtype=np.float32)
        drawn = generator.standard_normal(shape, dtype=np.float32)
        return drawn * np.float32(_INITIALIZER_RANGE)

    shapes = weight_shapes(architecture, qa_head=True)
    return {name: initial(name, shape) for name, shape in shapes.items()}


def calibration_questions(
    calibration: Sequence[Question], evaluation: Sequence[Question]
) -> list[Question]:
    """The questions that quantizers may look at, evenly spread over `calibration`.

    Raises UserError where a passage is also one of those that are evaluated: its F1 would be
    that of data the quantizer has seen.
    """
    seen = {question.context for question in evaluation}
    if any(question.context in seen for question in calibration):
        raise UserError(
            "calibration and evaluation share a passage; give other questions with CALIBRATION"
        )
    count = min(CALIBRATION_QUESTIONS, len(calibration))
    return [calibration[i * len(calibration) // count] for i in range(count)]
