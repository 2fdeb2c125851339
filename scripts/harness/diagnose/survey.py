"""Every sub-layer of a graph measured against the FP32 reference, on some windows.

Three runs over the same windows, each against the reference's own tensors:

- as the graph is: a sub-layer's error is its own and what it inherits;
- cut: every sub-layer gets the reference's tensors, so its error is its own alone;
- the twin, cut: a graph written from the reference's weights at the same precision, quantized by
  the largest magnitudes of these very windows, run node by node. What error it makes, the
  precision explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from ..backends import EngineOptions, Session
from ..batches import Batch
from ..graph_reader import Model, read_graph
from ..measure import progress
from ..scales import INT8_MAX, Scales
from ..weights import Array
from .measures import Distance, Error, Float64
from .places import MASK, Place
from .reference import Reference, real_tokens
from .surgery import MADE, cut, tapped
from .taps import Arithmetic, Tapped, open_network

# Half the distance between 1 and the next number.
ROUNDING: Mapping[Arithmetic, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
LARGEST: Mapping[Arithmetic, float] = {
    "fp32": float(np.finfo(np.float32).max),
    "fp16": float(np.finfo(np.float16).max),
    "bf16": float(np.finfo(np.float32).max),
}
# So many roundings in a sub-layer are nobody's fault: kernels sum in other orders and approximate
# exp and erf. FP16's and BF16's that matter are the twin's or are larger than this anyway.
_ROUNDINGS: Mapping[Arithmetic, int] = {"fp32": 16, "fp16": 2, "bf16": 4}
# exp() of a masked score, which is all that softmax makes of it, without overflow.
_MASK_RANGE = 50.0


@dataclass(frozen=True)
class Measured:
    """One place. `error` is what it returns against the reference, `local` what it makes of the
    reference's tensors, `explained` what the precision explains of that.

    `largest` is the largest magnitude that the reference has there, `used` its share of the type's
    range; where the place's input is quantized `input_used` is the input's largest magnitude over
    its scale's range and `saturated` the share of the input's values beyond it.
    """

    place: Place
    error: Error
    local: Error
    explained: Error
    largest: float
    used: float
    input_largest: float | None = None
    input_used: float | None = None
    saturated: float | None = None


@dataclass(frozen=True)
class Logits:
    """How far logits are from the reference's: those of the graph with its tensors in sight, and
    the engine's; `apart` is the distance between these two over the reference's."""

    tapped: float
    engine: float | None
    apart: float | None


@dataclass(frozen=True)
class Survey:
    """`floor` is the relative error that rounding alone gives any place. `swapped` is the segment
    embedding's local error if the graph's two segments changed places."""

    measured: list[Measured]
    tested: Model
    reference: Model
    arithmetic: Arithmetic
    floor: float
    tokens: int
    logits: Logits
    swapped: float


@dataclass
class _Sums:
    """What is summed for one place."""

    error: Distance = field(default_factory=Distance)
    local: Distance = field(default_factory=Distance)
    explained: Distance = field(default_factory=Distance)
    largest: float = 0.0
    beyond: int = 0
    values: int = 0


def survey(
    tested: Path,
    reference: Reference,
    backend: Tapped,
    options: EngineOptions,
    engine: Session | None = None,
) -> Survey:
    """Measure the ONNX graph `tested` in `backend` against `reference`.

    It is `graph.build_graph`'s and has the reference's function. `engine` is the engine built from
    it. Raises UserError for another graph.
    """
    graph, model = onnx.load(tested), read_graph(tested)
    arithmetic = backend.arithmetic(options)
    whole = open_network(tapped(graph, reference.tensors), backend, options)
    parts = open_network(cut(graph, reference.tensors), backend, options)
    twin = reference.twin(graph, model.scales)

    sums = {tensor: _Sums() for tensor in reference.tensors}
    ours, engines, apart, swapped = Distance(), Distance(), Distance(), Distance()
    for batch in progress(reference.batches, "every sub-layer"):
        expected = reference.network.run(batch)
        made, own = whole.run(batch), parts.run(batch, expected)
        explained = {} if twin is None else twin.run(batch, expected)
        for place in reference.places:
            total, name = sums[place.tensor], place.tensor
            right = _values(place, expected[name], batch)
            total.error.add(_values(place, made[name], batch), right)
            total.local.add(_values(place, own[name + MADE], batch), right)
            if explained:
                total.explained.add(_values(place, explained[name + MADE], batch), right)
            total.largest = max(total.largest, float(np.abs(right).max()))
            _count_beyond(total, place, model.scales, expected, batch)
        right = real_tokens(expected["logits"], batch)
        tapped_logits = real_tokens(made["logits"], batch)
        ours.add(tapped_logits, right)
        if engine is not None:
            outputs = engine.run(**batch.inputs)
            both = np.stack((outputs.start_logits, outputs.end_logits), axis=-1)
            logits = real_tokens(both, batch)
            engines.add(logits, right)
            apart.add(logits, tapped_logits)
        swapped.add(
            _swapped(own["segment_embedding" + MADE], batch),
            real_tokens(expected["segment_embedding"], batch),
        )
    floor = _ROUNDINGS[arithmetic] * ROUNDING[arithmetic]
    return Survey(
        measured=[
            _measured(place, sums, model.scales, arithmetic, floor, twin is not None)
            for place in reference.places
        ],
        tested=model,
        reference=reference.model,
        arithmetic=arithmetic,
        floor=floor,
        tokens=reference.tokens,
        logits=Logits(
            ours.error().relative,
            None if engine is None else engines.error().relative,
            None if engine is None else apart.error().relative,
        ),
        swapped=swapped.error().relative,
    )


def _values(place: Place, array: Array, batch: Batch) -> Array:
    """What counts of a place's output, (n, width): real tokens, of the mask every token."""
    if place.kind == MASK:
        shape = (len(batch.input_mask), batch.input_mask.shape[1])
        scores = np.broadcast_to(array.reshape(len(array), -1), shape)
        weights: Array = np.exp(scores.clip(-_MASK_RANGE, _MASK_RANGE)).reshape(-1, 1)
        return weights
    return real_tokens(array, batch)


def _swapped(embedding: Array, batch: Batch) -> Array:
    """The segment embedding (n, hidden) of the batch's real tokens if 0 and 1 were exchanged."""
    values = real_tokens(embedding, batch)
    segments = batch.segment_ids[batch.input_mask.astype(bool)]
    rows = [
        values[segments == s][0] if (segments == s).any() else np.zeros_like(values[0])
        for s in (1, 0)
    ]
    exchanged: Array = np.stack(rows)[segments]
    return exchanged


def _count_beyond(
    total: _Sums,
    place: Place,
    scales: Scales | None,
    expected: Mapping[str, Array],
    batch: Batch,
) -> None:
    """Count the values of the place's input that its scale clips."""
    if scales is None or place.linear is None or place.linear.name not in scales.weights:
        return
    values = real_tokens(expected[place.linear.takes], batch)
    # Half a step further still rounds to the largest.
    end = (INT8_MAX + 0.5) * float(scales.activations[place.linear.activation])
    total.beyond += int(np.count_nonzero(np.abs(values) > end))
    total.values += values.size


def _measured(
    place: Place,
    sums: Mapping[str, _Sums],
    scales: Scales | None,
    arithmetic: Arithmetic,
    floor: float,
    has_twin: bool,
) -> Measured:
    total = sums[place.tensor]
    input_largest = input_used = saturated = None
    if total.values and scales is not None and place.linear is not None:
        input_largest = sums[place.linear.takes].largest
        scale = float(scales.activations[place.linear.activation])
        input_used = input_largest / (INT8_MAX * scale)
        saturated = total.beyond / total.values
    return Measured(
        place=place,
        error=total.error.error(),
        local=total.local.error(),
        explained=_explained(total, floor, has_twin),
        largest=total.largest,
        used=total.largest / LARGEST[arithmetic],
        input_largest=input_largest,
        input_used=input_used,
        saturated=saturated,
    )


def _explained(total: _Sums, floor: float, has_twin: bool) -> Error:
    """The twin's error, and no less than rounding gives."""
    sizes: Float64 = total.local.channel_sizes
    least: npt.NDArray[np.float64] = floor * np.maximum(sizes, 1.0)
    if not has_twin:
        return Error(floor, floor, 1.0, least, 0.0)
    found = total.explained.error()
    return Error(
        max(found.relative, floor),
        max(found.token, floor),
        found.cosine,
        np.maximum(found.channels, least),
        found.lost,
    )
