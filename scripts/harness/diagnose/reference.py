"""The FP32 model that a graph under test is held against, on the windows that are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from .. import graph as graphs
from .. import model
from ..backends.ort import OrtSession
from ..batches import Batch, assemble
from ..graph import Precision, build_graph
from ..graph_reader import read_graph
from ..inputs import Inputs
from ..measure import progress
from ..records import MadeFile, read_record
from ..scales import INT8_MAX, Scales, read_scales, to_scale, weight_scales
from ..weights import Architecture, Array
from ..windows import Windows
from .measures import Distance
from .places import places
from .surgery import cut, element_type, tapped
from .taps import Network, open_reference

# Bytes of tensors between sub-layers that a batch may have; at least two windows share one, since
# a mask has nothing to do in a window alone.
_BATCH_BYTES = 128 << 20


class Reference:
    """The FP32 graph in the file `path`, which is `graph.build_graph`'s, and the `rows` of
    `windows` in batches. Raises UserError for another graph."""

    def __init__(self, path: Path, windows: Windows, rows: Sequence[int]) -> None:
        self.path = path
        self.graph = onnx.load(path)
        self.model = read_graph(path)
        self.places = places(self.model.architecture)
        self.tensors = [place.tensor for place in self.places]
        self.batches = _batches(windows, rows, self.model.architecture)
        self.tokens = int(windows.lengths[np.asarray(rows)].sum())
        # All sub-layers' outputs, node by node as the graph is written.
        self.network = open_reference(tapped(self.graph, self.tensors))
        self._largest: dict[str, float] = {}
        self._twins: dict[tuple[str, frozenset[str]], Network] = {}

    def twin(self, tested: onnx.ModelProto, scales: Scales | None) -> Network | None:
        """The twin of the graph `tested`, which has `scales`, cut at every sub-layer; None if that
        is FP32, which is the reference itself."""
        narrow = element_type(tested, self.tensors[0]) == TensorProto.FLOAT16
        if scales is None and not narrow:
            return None
        precision: Precision = "fp16" if narrow else "fp32"
        quantized = frozenset(() if scales is None else scales.weights)
        if (precision, quantized) not in self._twins:
            own = self._scales(quantized) if quantized else None
            made = build_graph(self.model.weights, self.model.architecture, precision, own)
            self._twins[precision, quantized] = open_reference(cut(made, self.tensors))
        return self._twins[precision, quantized]

    def _scales(self, linears: frozenset[str]) -> Scales:
        """The scales of `linears` and their inputs by the largest magnitudes of the windows."""
        takes = {p.linear.activation: p.linear.takes for p in self.places if p.linear is not None}
        if not self._largest:
            self._largest = dict.fromkeys(takes, 0.0)
            for batch in progress(self.batches, "ranges"):
                expected = self.network.run(batch)
                for activation, tensor in takes.items():
                    largest = float(np.abs(real_tokens(expected[tensor], batch)).max())
                    self._largest[activation] = max(self._largest[activation], largest)
        weights = self.model.weights
        return Scales(
            {name: np.float32(to_scale(value, INT8_MAX)) for name, value in self._largest.items()},
            {name: weight_scales(weights[f"{name}.weight"], INT8_MAX) for name in linears},
        )


def real_tokens(array: Array, batch: Batch) -> Array:
    """The real tokens (n, width) of an array (batch or 1, seq, width)."""
    real = batch.input_mask.astype(bool)
    values: Array = np.broadcast_to(array, (*real.shape, array.shape[-1]))[real]
    return values


def same_weights(inputs: Inputs, scales_record: Path | None, folder: Path) -> Path:
    """The FP32 graph of the weights that the graph under test was made from, in `folder` unless
    that is the profile's own.

    Centering moves a quantized graph's tensors, and a QAT checkpoint brings weights of its own:
    only this graph's tensors are the same but for the precision.
    """
    if scales_record is None:
        return model.export_graph(inputs, "fp32")
    made = MadeFile.from_json(read_record(scales_record, "scales")["file"])
    weights = model.quantized_weights(inputs, read_scales(made.checked("scales")))
    path = folder / "reference.onnx"
    architecture = inputs.options.profile.architecture
    graphs.save_graph(build_graph(weights, architecture, "fp32"), path)
    return path


def logits_apart(reference: Reference, plain: Path) -> float | None:
    """The relative distance of the logits of `reference` from those of `plain`, the reference of
    the cross-check; None where these are one file."""
    if reference.path == plain:
        return None
    session, distance = OrtSession(plain, optimized=False), Distance()
    for batch in progress(reference.batches, "both references"):
        ours = real_tokens(reference.network.run(batch)["logits"], batch)
        outputs = session.run(**batch.inputs)
        theirs = np.stack((outputs.start_logits, outputs.end_logits), axis=-1)
        distance.add(ours, real_tokens(theirs, batch))
    return distance.error().relative


def _batches(windows: Windows, rows: Sequence[int], architecture: Architecture) -> list[Batch]:
    """As many windows together as memory allows, in the order given: lengths differ in a batch."""
    hidden = architecture.hidden
    width = architecture.layers * (8 * hidden + architecture.intermediate) + 4 * hidden
    longest = int(windows.lengths[np.asarray(rows)].max())
    count = max(2, _BATCH_BYTES // (4 * width * longest))
    # Rather more than fewer: none is left alone.
    parts = np.array_split(np.asarray(rows), max(1, len(rows) // count))
    return [assemble(windows, part) for part in parts]
